//! `show` and `test`: a cluster with our images, and either something to look at or the scenarios.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::door::{Door, archive};
use crate::outer::{Running, Wanted};
use crate::parts::tools;
use crate::scenarios::{self, NEXT_VERSION, VERSION};

/// Where images of ours would be; on nodes of ours they are there already.
const REGISTRY: &str = "ghcr.io/quorate";

/// Three Pods and a resting time between two of them.
const PATIENCE: Duration = Duration::from_secs(180);

/// `kube-cluster show`
pub fn show(words: &[&str]) -> Result<()> {
    let mut wanted = Wanted::parse(words)?;
    for name in ["quorate", "quorate-operator"] {
        wanted.images.push(archive(name, VERSION)?);
    }
    let mut running = Running::start(&wanted)?;
    let door = door_of(&running);
    let done = running.beside(move || first_cluster(&door))?;
    let Some(done) = done else {
        return Ok(());
    };
    println!("{}", done?);
    println!("export KUBECONFIG={}", running.kubeconfig().display());
    let own = std::env::current_exe().context("a program knows where it is")?;
    let beside = own.parent().context("a program lies in a folder")?;
    println!(
        "export PATH={}:{}:$PATH   # kubectl, helm, etcdctl, and the plugin",
        tools().display(),
        beside.display()
    );
    println!("kubectl get qc,qm,pods");
    println!("kubectl quorate status store");
    println!("# Ctrl-C ends the cluster and removes it.");
    running.until_interrupted()
}

fn first_cluster(door: &Door) -> Result<String> {
    door.helm(&[
        "install",
        "quorate-operator",
        "charts/quorate-operator",
        "--namespace=quorate-system",
        "--create-namespace",
        "--wait",
        "--timeout=2m",
    ])?;
    door.apply(&json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": "QuorateCluster",
        "metadata": { "name": "store", "namespace": "default" },
        "spec": { "replicas": 3, "version": VERSION, "storage": { "size": "1Gi" } },
    }))?;
    door.until_says(
        &["qc", "store"],
        "{.status.conditions[?(@.type==\"Ready\")].status} {.status.readyReplicas}",
        "True 3",
        PATIENCE,
    )?;
    door.kubectl(&["get", "nodes,qc,qm,pods"])
}

/// `kube-cluster test`
pub fn test(words: &[&str]) -> Result<()> {
    let mut registry = REGISTRY.to_owned();
    let mut kubeconfig = None;
    let mut flags = Vec::new();
    let mut chosen = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--registry" => registry = (*words.next().context("--registry needs a value")?).into(),
            "--kubeconfig" => {
                kubeconfig = Some(words.next().context("--kubeconfig needs a value")?);
            }
            "--keep" => flags.push(*word),
            flag if flag.starts_with('-') => {
                flags.push(flag);
                flags.extend(words.next());
            }
            name => chosen.push(name.to_owned()),
        }
    }
    if let Some(kubeconfig) = kubeconfig {
        let door = Door {
            kubeconfig: PathBuf::from(kubeconfig),
            nodes: None,
            registry,
        };
        return scenarios::run(door, &chosen);
    }
    let mut wanted = Wanted::parse(&flags)?;
    for (name, tag) in [
        ("quorate", VERSION),
        ("quorate", NEXT_VERSION),
        ("quorate-operator", VERSION),
        ("quorate-operator", NEXT_VERSION),
        ("kube-cluster", VERSION),
    ] {
        wanted.images.push(archive(name, tag)?);
    }
    let mut running = Running::start(&wanted)?;
    let door = door_of(&running);
    match running.beside(move || scenarios::run(door, &chosen))? {
        Some(verdict) => verdict,
        None => anyhow::bail!("interrupted"),
    }
}

fn door_of(running: &Running) -> Door {
    Door {
        kubeconfig: running.kubeconfig(),
        nodes: Some(running.dir().to_path_buf()),
        registry: REGISTRY.to_owned(),
    }
}
