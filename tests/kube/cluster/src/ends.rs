//! `ends`: a `show` that is ended as Ctrl-C does, and what is left of it then, which is nothing.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::ask::clusters;
use crate::groups;
use crate::parts::{run, until};

/// What ended goes at once; the kernel may take a moment for namespaces.
const PATIENCE: Duration = Duration::from_secs(20);

/// `kube-cluster ends`
pub fn command(words: &[&str]) -> Result<()> {
    let links = links()?;
    let mut show = Command::new(std::env::current_exe()?)
        .arg("show")
        .args(words)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a cluster")?;
    let pid = show.id();
    let said = show.stdout.take().context("asked for as a pipe")?;
    let up = BufReader::new(said)
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("Ctrl-C ends the cluster"));
    let (dir, group) = (clusters().join(pid.to_string()), groups::name(pid));
    let there = left(&dir, &group)?;
    if up {
        // As the terminal does it.
        run(Command::new("kill").args(["-INT", &pid.to_string()]))?;
    }
    let status = show.wait()?;
    ensure!(up, "the cluster did not come up: {status}");
    ensure!(status.success(), "its end was {status}");
    // Where nothing is seen of one that runs, nothing would be seen of what is left.
    for kind in ["folder", "process", "mount", "control group"] {
        ensure!(
            there.iter().any(|one| one.starts_with(kind)),
            "no {kind} was seen of a cluster that runs"
        );
    }
    until("end of all that was started", PATIENCE, || {
        let left = left(&dir, &group)?;
        ensure!(left.is_empty(), "left: {left:?}");
        let now = self::links()?;
        ensure!(now == links, "links were {links:?} and are {now:?}");
        Ok(())
    })?;
    println!(
        "ok   Ctrl-C: {} processes, mounts and folders are gone",
        there.len()
    );
    Ok(())
}

/// What there is of a cluster: its folder, processes that have it in their words or are in its control group,
/// mounts below the folder, control groups.
fn left(dir: &Path, group: &str) -> Result<Vec<String>> {
    let name = dir.to_str().context("the folder has a name in UTF-8")?;
    let mut left = Vec::new();
    if dir.exists() {
        left.push(format!("folder {name}"));
    }
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let process = entry.path();
        let number = entry.file_name().to_string_lossy().into_owned();
        if !number.chars().all(|c| c.is_ascii_digit()) {
            continue;
        }
        // One that ends meanwhile is not left.
        let text = |file: &str| std::fs::read(process.join(file)).unwrap_or_default();
        let has = |file: &str, what: &str| String::from_utf8_lossy(&text(file)).contains(what);
        if has("cmdline", name) || has("cgroup", group) {
            left.push(format!("process {number}"));
        }
        if has("mountinfo", name) {
            left.push(format!("mount in the namespace of {number}"));
        }
    }
    for tree in groups::of(group)? {
        left.push(format!("control group {}", tree.display()));
    }
    Ok(left)
}

/// The machine's network links.
fn links() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir("/sys/class/net")? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    if names.is_empty() {
        bail!("this machine shows no network links");
    }
    Ok(names)
}
