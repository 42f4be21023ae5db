//! Control groups: a folder for the cluster and one in it for each node, below which its kubelet works.
//!
//! They are the one thing of the machine that outlives the processes, so `up` removes them at its end, and at
//! its start those of clusters that were killed without one.
//!
//! Version 1 has a tree per controller, version 2 one for all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::parts::until;

const ROOT: &str = "/sys/fs/cgroup";

/// What our folders' names begin with.
const PREFIX: &str = "quorate-kube-";

/// How a cluster's folder is called, from the process that started it.
pub fn name(pid: u32) -> String {
    format!("{PREFIX}{pid}")
}

/// The roots of the trees in which we make folders.
fn trees() -> Result<Vec<PathBuf>> {
    let mut trees = all_trees()?;
    // Version 2 beside version 1 has no controllers, and we have no use for it.
    trees.retain(|tree| !tree.ends_with("unified"));
    Ok(trees)
}

/// The roots of all trees: runc makes folders in that one too.
fn all_trees() -> Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_path_buf()]);
    }
    let mut trees = Vec::new();
    for entry in fs::read_dir(root).context("there are no control groups")? {
        let path = entry?.path();
        // Links are second names.
        if path.is_dir() && !path.is_symlink() {
            trees.push(path);
        }
    }
    Ok(trees)
}

/// Makes the folders of a node, empty: what a killed node left behind would delay the kubelet's start.
pub fn make(cluster: &str, node: &str) -> Result<()> {
    for tree in trees()? {
        let above = tree.join(cluster);
        let folder = above.join(node);
        remove(&folder)?;
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the control group {}", folder.display()))?;
        for (parent, child) in [(&tree, &above), (&above, &folder)] {
            // In version 1 a cpuset is empty until somebody fills it.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if child.join(file).exists() && !tree.join("cgroup.controllers").exists() {
                    let value = fs::read_to_string(parent.join(file))?;
                    fs::write(child.join(file), value.trim())?;
                }
            }
            // In version 2 a folder's children have the controllers that it hands down.
            let control = parent.join("cgroup.subtree_control");
            if control.exists() {
                for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
                    // One that the machine does not have is one that nobody will miss.
                    let _ = fs::write(&control, format!("+{controller}"));
                }
            }
        }
    }
    Ok(())
}

/// The folders of a cluster that are there.
pub fn of(cluster: &str) -> Result<Vec<PathBuf>> {
    let mut folders: Vec<PathBuf> = all_trees()?;
    for folder in &mut folders {
        folder.push(cluster);
    }
    folders.retain(|folder| folder.exists());
    Ok(folders)
}

/// Removes the folders of a cluster whose processes have ended.
pub fn clear(cluster: &str) -> Result<()> {
    for tree in all_trees()? {
        remove(&tree.join(cluster))?;
    }
    Ok(())
}

/// Removes what clusters left behind whose first process is no more.
pub fn clear_left_behind() -> Result<()> {
    for tree in all_trees()? {
        let Ok(entries) = fs::read_dir(&tree) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let gone = name
                .strip_prefix(PREFIX)
                .is_some_and(|pid| !Path::new("/proc").join(pid).exists());
            if gone {
                remove(&entry.path())?;
            }
        }
    }
    Ok(())
}

/// Removes a folder and those below it. Processes that are being ended keep theirs for a moment.
fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    until("empty control group", Duration::from_secs(10), || {
        for below in fs::read_dir(folder)?.flatten() {
            if below.path().is_dir() {
                remove_once(&below.path())?;
            }
        }
        fs::remove_dir(folder).with_context(|| format!("cannot remove {}", folder.display()))
    })
}

fn remove_once(folder: &Path) -> Result<()> {
    for below in fs::read_dir(folder)?.flatten() {
        if below.path().is_dir() {
            remove_once(&below.path())?;
        }
    }
    fs::remove_dir(folder).with_context(|| format!("cannot remove {}", folder.display()))
}
