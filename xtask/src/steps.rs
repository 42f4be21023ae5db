//! Running other programs, and saying which one failed.

use std::io::ErrorKind;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{Result, place};

/// `cargo` as it called us, in the workspace; in CI it may not touch Cargo.lock.
pub(crate) fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` tells of this package; a build script that reads such a variable (ring's does) would run
    // again whenever a build by hand follows one from here.
    for (name, _) in std::env::vars_os() {
        let ours = |prefix| name.to_str().is_some_and(|name| name.starts_with(prefix));
        if ours("CARGO_PKG_") || ours("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command.current_dir(place::workspace()).args(words.first());
    if in_ci() && words.first() != Some(&"fmt") {
        command.arg("--locked");
    }
    command.args(words.iter().skip(1));
    command
}

pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false")
}

/// Runs a step with its output on the terminal, and prints what it took.
pub(crate) fn step(name: &str, command: &mut Command) -> Result<()> {
    println!("== {name}");
    let start = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|error| cannot_start(command, &error))?;
    if !status.success() {
        return Err(format!("{name} failed ({status}): {}", words_of(command)));
    }
    println!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Runs a program and gives its standard output; what it says on standard error is part of the failure.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| cannot_start(command, &error))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(format!(
            "{} failed ({}): {}",
            words_of(command),
            done.status,
            said.trim()
        ));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The commit that is checked out, or nothing outside of a git work tree.
pub(crate) fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.current_dir(place::workspace())
        .args(["rev-parse", "HEAD"]);
    output(&mut git).ok().map(|text| text.trim().to_owned())
}

pub(crate) fn words_of(command: &Command) -> String {
    let mut words = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        words.push(' ');
        words.push_str(&argument.to_string_lossy());
    }
    words
}

fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    let program = command.get_program().to_string_lossy();
    if error.kind() == ErrorKind::NotFound {
        format!("{program} is not installed or not on PATH")
    } else {
        format!("cannot start {program}: {error}")
    }
}
