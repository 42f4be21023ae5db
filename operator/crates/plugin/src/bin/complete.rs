//! `kubectl_complete-quorate`: kubectl's completion runs it with the words behind `kubectl quorate`, the last one
//! unfinished, and reads what could stand there. The plugin itself knows.
#![forbid(unsafe_code)]

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const PLUGIN: &str = "kubectl-quorate";

fn main() -> ExitCode {
    // Installed side by side; else by PATH.
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name(PLUGIN))
        .filter(|path| path.exists());
    let plugin = beside.unwrap_or_else(|| PathBuf::from(PLUGIN));
    let error = Command::new(&plugin)
        .arg("__complete")
        .args(std::env::args_os().skip(1))
        .exec();
    eprintln!("error: cannot run {}: {error}", plugin.display());
    ExitCode::FAILURE
}
