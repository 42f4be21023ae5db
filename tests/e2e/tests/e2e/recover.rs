//! The quorum is lost for good: what is made of one survivor's disk.

mod force;
mod util;

use std::path::Path;
use std::process::{Command, Output};

use testkit::{Member, quorate};

const MISSING: &str = "etcd or etcdctl is missing; run `make tools`";

/// Gives a flag of the next start another value.
fn set_flag(member: &mut Member, name: &str, value: &str) {
    let prefix = format!("--{name}=");
    member.flags.retain(|flag| !flag.starts_with(&prefix));
    member.flags.push(format!("{prefix}{value}"));
}

/// The member runs on another directory from its next start on.
fn move_to(member: &mut Member, dir: &Path) {
    member.data_dir = dir.to_owned();
    set_flag(member, "data-dir", &dir.display().to_string());
}

fn copy_dir(from: &Path, to: &Path) {
    let output = Command::new("cp")
        .arg("-a")
        .args([from, to])
        .output()
        .expect("cp runs");
    assert!(output.status.success(), "{output:?}");
}

/// `quorate util recover …`
fn recover(arguments: &[&str]) -> Output {
    Command::new(quorate())
        .args(["util", "recover"])
        .args(arguments)
        .output()
        .expect("our program runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Member list and hash of the history, as one member has them.
fn facts(member: &Member) -> (serde_json::Value, serde_json::Value) {
    let etcdctl = member.etcdctl();
    // Also waits until it can serve: a linearizable read.
    let members = etcdctl.json(&["member", "list"])["members"].clone();
    let hash = etcdctl.json(&["endpoint", "hashkv"])[0]["HashKV"].clone();
    let hash = serde_json::json!([
        hash["hash"],
        hash["hash_revision"],
        hash["compact_revision"]
    ]);
    (members, hash)
}
