//! Volumes that belong to a node: what a cloud's disks and their provisioner do, with folders on the node's disk.
//!
//! ```text
//! Pod is placed on node2 → its claim says so → we make a folder there, and a volume bound to node2
//! claim is deleted → volume is Released → folder and volume go
//! ```
//!
//! The kubelet gives such a folder the Pod's group, so that a user who is not root can write to it. Its size is
//! not enforced.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::parts::tool;

/// The name of this provisioner; the storage class in `manifests/storage.yaml` has it too.
const PROVISIONER: &str = "test.quorate.dev/folder";

/// Before a watch that has ended is begun anew.
const WATCH_AGAIN: Duration = Duration::from_millis(500);

/// Serves claims and released volumes until the process ends, on threads of its own.
pub fn serve(kubeconfig: &Path, nodes: &Path) {
    for (kind, on_change) in [
        ("persistentvolumeclaims", on_claim as OnChange),
        ("persistentvolumes", on_volume),
    ] {
        let (kubeconfig, nodes) = (kubeconfig.to_path_buf(), nodes.to_path_buf());
        std::thread::spawn(move || {
            loop {
                if let Err(error) = watch(kind, &kubeconfig, &nodes, on_change) {
                    eprintln!("volumes: {kind}: {error:#}");
                }
                std::thread::sleep(WATCH_AGAIN);
            }
        });
    }
}

type OnChange = fn(&Value, &Path, &Path) -> Result<()>;

fn watch(kind: &str, kubeconfig: &Path, nodes: &Path, on_change: OnChange) -> Result<()> {
    let mut child = Command::new(tool("kubectl")?)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["get", kind, "--all-namespaces", "--watch", "--output=json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start kubectl")?;
    let stream = child.stdout.take().context("asked for as a pipe")?;
    for object in serde_json::Deserializer::from_reader(stream).into_iter::<Value>() {
        let object = object?;
        if let Err(error) = on_change(&object, kubeconfig, nodes) {
            eprintln!("volumes: {}: {error:#}", object["metadata"]["name"]);
        }
    }
    child.wait()?;
    Ok(())
}

/// A claim that waits for a volume, and whose Pod has been placed, gets one.
fn on_claim(claim: &Value, kubeconfig: &Path, nodes: &Path) -> Result<()> {
    let meta = &claim["metadata"];
    let notes = &meta["annotations"];
    let ours = notes["volume.kubernetes.io/storage-provisioner"] == PROVISIONER;
    let node = notes["volume.kubernetes.io/selected-node"].as_str();
    let waits = claim["status"]["phase"] == "Pending" && meta["deletionTimestamp"].is_null();
    let (true, true, Some(node)) = (ours, waits, node) else {
        return Ok(());
    };
    let name = format!("pvc-{}", meta["uid"].as_str().context("a claim has a uid")?);
    let folder = folder(nodes, node, &name)?;
    fs::create_dir_all(&folder)?;
    let volume = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": { "pv.kubernetes.io/provisioned-by": PROVISIONER },
        },
        "spec": {
            "capacity": claim["spec"]["resources"]["requests"],
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": claim["spec"]["storageClassName"],
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
            "local": { "path": format!("/var/volumes/{name}") },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": [node] },
            ] }] } },
        },
    });
    let said = kubectl(kubeconfig, &["create", "-f", "-"], &volume.to_string())?;
    // The claim changes a few times before it is bound, and asks each time.
    ensure!(
        said.is_empty() || said.contains("AlreadyExists"),
        "no volume: {said}"
    );
    Ok(())
}

/// A volume whose claim is gone goes too.
fn on_volume(volume: &Value, kubeconfig: &Path, nodes: &Path) -> Result<()> {
    let meta = &volume["metadata"];
    let ours = meta["annotations"]["pv.kubernetes.io/provisioned-by"] == PROVISIONER;
    let released = volume["status"]["phase"] == "Released" && meta["deletionTimestamp"].is_null();
    let deletes = volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete";
    if !(ours && released && deletes) {
        return Ok(());
    }
    let name = meta["name"].as_str().context("a volume has a name")?;
    let terms = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
    let node = terms[0]["matchExpressions"][0]["values"][0]
        .as_str()
        .context("a volume of ours names its node")?;
    let folder = folder(nodes, node, name)?;
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let said = kubectl(kubeconfig, &["delete", "pv", name, "--wait=false"], "")?;
    ensure!(
        said.is_empty() || said.contains("NotFound"),
        "it stays: {said}"
    );
    Ok(())
}

/// Where a volume lies, as the machine sees it. The names come from the API server.
fn folder(nodes: &Path, node: &str, volume: &str) -> Result<PathBuf> {
    for name in [node, volume] {
        ensure!(
            !name.contains('/') && !name.starts_with('.'),
            "{name:?} is no name"
        );
    }
    Ok(nodes.join(node).join("disk/volumes").join(volume))
}

/// What kubectl complains about; nothing when it succeeds.
fn kubectl(kubeconfig: &Path, words: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(tool("kubectl")?)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("asked for as a pipe")?
        .write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::new());
    }
    Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::folder;

    #[test]
    fn a_volume_lies_on_its_node_and_nowhere_else() {
        let nodes = std::path::Path::new("/cluster/nodes");
        assert_eq!(
            folder(nodes, "node2", "pvc-1").expect("names"),
            nodes.join("node2/disk/volumes/pvc-1")
        );
        for (node, volume) in [("..", "pvc-1"), ("node1", "../../etc"), ("a/b", "pvc-1")] {
            assert!(
                folder(nodes, node, volume).is_err(),
                "{node} {volume} is no place for a volume"
            );
        }
    }
}
