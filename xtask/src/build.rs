//! Builds everything that tests need, once, and says where the test programs are.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use serde_json::Value;

use crate::{Result, steps};

/// One program full of tests, as cargo built it.
#[derive(Debug, Clone)]
pub(crate) struct TestProgram {
    /// Name of the package: the room.
    pub(crate) package: String,
    /// `lib`, or the name of the file in `tests/` or of the binary.
    pub(crate) target: String,
    pub(crate) file: PathBuf,
    /// Folder of the package: cargo starts tests there, and so do we.
    pub(crate) folder: PathBuf,
    /// Which of its tests are meant.
    pub(crate) part: Part,
}

/// Some of a program's tests, by how their names begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Only(Vec<&'static str>),
    AllBut(Vec<&'static str>),
}

impl Part {
    pub(crate) const ALL: Part = Part::AllBut(Vec::new());

    pub(crate) fn holds(&self, test: &str) -> bool {
        let begins = |beginnings: &[&str]| beginnings.iter().any(|one| test.starts_with(one));
        match self {
            Part::Only(beginnings) => begins(beginnings),
            Part::AllBut(beginnings) => !begins(beginnings),
        }
    }
}

/// What one build gave.
pub(crate) struct Built {
    pub(crate) tests: Vec<TestProgram>,
    /// The programs of the workspace by name, for tests that start them.
    pub(crate) binaries: BTreeMap<String, PathBuf>,
}

/// Builds the workspace's programs and all its tests in the one test profile.
///
/// # Errors
/// The compiler's messages are on the terminal by then.
pub(crate) fn everything() -> Result<Built> {
    let mut built = Built {
        tests: Vec::new(),
        binaries: BTreeMap::new(),
    };
    // In one call: tests want more features of some libraries, and with these all that stands on them, our rooms too,
    // would be compiled once more.
    cargo_json(
        "build all programs and tests",
        &["build", "--workspace", "--all-targets"],
        &mut built,
    )?;
    built
        .tests
        .sort_by(|a, b| (&a.package, &a.target).cmp(&(&b.package, &b.target)));
    Ok(built)
}

fn cargo_json(name: &str, words: &[&str], built: &mut Built) -> Result<()> {
    println!("== {name}");
    let start = Instant::now();
    let mut cargo = steps::cargo(words);
    cargo
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = cargo
        .spawn()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
    for line in BufReader::new(stdout).lines() {
        let line = line.map_err(|error| format!("cannot read what cargo prints: {error}"))?;
        if let Ok(message) = serde_json::from_str::<Value>(&line) {
            note(&message, built);
        }
    }
    let status = child
        .wait()
        .map_err(|error| format!("cannot wait for cargo: {error}"))?;
    if !status.success() {
        return Err(format!(
            "{name} failed ({status}): {}",
            steps::words_of(&cargo)
        ));
    }
    println!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Keeps what a message of cargo says about a program; all others are of no interest.
fn note(message: &Value, built: &mut Built) {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if message["reason"] != "compiler-artifact" {
        return;
    }
    let (Some(file), Some(target)) = (
        text(&message["executable"]),
        text(&message["target"]["name"]),
    ) else {
        return;
    };
    let Some(manifest) = text(&message["manifest_path"]) else {
        return;
    };
    let kind = text(&message["target"]["kind"][0]).unwrap_or_default();
    let folder = PathBuf::from(manifest)
        .parent()
        .map(PathBuf::from)
        .unwrap_or_default();
    if message["profile"]["test"] == true {
        let package = package_name(message["package_id"].as_str().unwrap_or_default());
        let target = if kind == "lib" {
            "lib".to_owned()
        } else {
            target
        };
        built.tests.push(TestProgram {
            package,
            target,
            file: file.into(),
            folder,
            part: Part::ALL,
        });
    } else if kind == "bin" {
        built.binaries.insert(target, file.into());
    }
}

/// The name in a package id such as `path+file:///a/node/crates/wal#0.1.0` or `path+file:///a/node#quorate@0.1.0`.
fn package_name(id: &str) -> String {
    let (place, version) = id.rsplit_once('#').unwrap_or((id, ""));
    match version.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => place.rsplit('/').next().unwrap_or(place).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_id_names_its_package() {
        assert_eq!(package_name("path+file:///a/node/crates/wal#0.1.0"), "wal");
        assert_eq!(package_name("path+file:///a/node#quorate@0.1.0"), "quorate");
    }

    #[test]
    fn programs_and_tests_are_told_apart() {
        let mut built = Built {
            tests: Vec::new(),
            binaries: BTreeMap::new(),
        };
        let message = |kind: &str, name: &str, test: bool| {
            serde_json::json!({
                "reason": "compiler-artifact", "package_id": "path+file:///a/node/crates/wal#0.1.0",
                "manifest_path": "/a/node/crates/wal/Cargo.toml", "executable": format!("/t/{name}"),
                "target": {"kind": [kind], "name": name}, "profile": {"test": test},
            })
        };
        note(&message("lib", "wal", true), &mut built);
        note(&message("test", "crash", true), &mut built);
        note(&message("bin", "quorate", false), &mut built);
        note(
            &serde_json::json!({"reason": "build-finished", "success": true}),
            &mut built,
        );
        let tests: Vec<&str> = built
            .tests
            .iter()
            .map(|test| test.target.as_str())
            .collect();
        assert_eq!(tests, ["lib", "crash"]);
        assert_eq!(built.tests[0].folder, PathBuf::from("/a/node/crates/wal"));
        assert_eq!(built.binaries["quorate"], PathBuf::from("/t/quorate"));
    }
}
