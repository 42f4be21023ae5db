//! Programs: ours, etcd's, bbolt's.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The workspace's root.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../..")
        .components()
        .collect()
}

/// A program of `make tools`, or nothing when it was not built.
pub fn tool(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("QUORATE_TOOLS")
        .map_or_else(|| workspace().join("target/tools"), PathBuf::from);
    let path = folder.join(name);
    path.exists().then_some(path)
}

/// Our program. `make test` names it; by hand it is the one of the same build.
pub fn quorate() -> PathBuf {
    if let Some(path) = std::env::var_os("QUORATE_BIN") {
        return path.into();
    }
    let here = std::env::current_exe().expect("a test knows its own program");
    let folder = here
        .ancestors()
        .nth(2)
        .expect("a test lies in <profile>/deps");
    let path = folder.join("quorate");
    assert!(
        path.exists(),
        "{} is not there; build it with `cargo build -p quorate`, or set QUORATE_BIN",
        path.display()
    );
    path
}

/// Says that a test could not run, for the runner's closing line.
pub fn left_out(test: &str, reason: &str) {
    eprintln!("left out: {test}: {reason}");
    if let Some(path) = std::env::var_os("QUORATE_LEFT_OUT") {
        let line = format!("{test}\t{reason}\n");
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the file that QUORATE_LEFT_OUT names can be written");
    }
}

/// etcdctl against some endpoints.
#[derive(Debug, Clone)]
pub struct Etcdctl {
    program: PathBuf,
    endpoints: String,
}

impl Etcdctl {
    /// The real etcdctl for these endpoints, if it was built.
    pub fn new(endpoints: &[String]) -> Option<Self> {
        Some(Self {
            program: tool("etcdctl")?,
            endpoints: endpoints.join(","),
        })
    }

    /// Runs one command.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(&self.program)
            .env("ETCDCTL_ENDPOINTS", &self.endpoints)
            .args(arguments)
            .output()
            .expect("etcdctl runs")
    }

    /// Runs one command that must succeed; its output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "etcdctl {arguments:?} failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// One command's output as JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut all = arguments.to_vec();
        all.extend(["-w", "json"]);
        let text = self.ok(&all);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("etcdctl {all:?} gave no JSON ({error}): {text}"))
    }
}
