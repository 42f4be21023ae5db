//! The stand-in itself: what it says of a Pod is what the Pod's process does.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use testkit::eventually;

use crate::world::{Ns, world};

/// How long a process may take to be there, or to be gone, on two busy cores.
const SOON: Duration = Duration::from_secs(30);

fn claim(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    })
}

fn pod(namespace: &str, address: &str, image: &str) -> Value {
    let url = |port: u16| format!("http://{address}:{port}");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "alone", "namespace": namespace},
        "spec": {
            "terminationGracePeriodSeconds": 20,
            "containers": [{
                "name": "quorate", "image": image,
                "args": [
                    "--name=alone", "--data-dir=/var/lib/quorate/data",
                    format!("--listen-client-urls={}", url(2379)),
                    format!("--advertise-client-urls={}", url(2379)),
                    format!("--listen-peer-urls={}", url(2380)),
                    format!("--initial-advertise-peer-urls={}", url(2380)),
                    format!("--listen-metrics-urls={}", url(2381)),
                    format!("--initial-cluster=alone={}", url(2380)),
                ],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-alone"}}],
        },
    })
}

#[test]
fn a_pod_is_a_process_and_says_what_it_does() {
    let Some(world) = world("a_pod_is_a_process_and_says_what_it_does") else {
        return;
    };
    let namespace = Ns::new(world, "standin");
    let n = namespace.name.as_str();
    let address = "127.201.7.9";
    world.apply(&claim(n, "data-alone")).expect("a claim");
    world
        .apply(&pod(n, address, "nowhere.invalid/nothing:1"))
        .expect("a Pod");
    let get = |path: &str| {
        world.control.kubectl(&[
            "-n",
            n,
            "get",
            "pod",
            "alone",
            "-o",
            &format!("jsonpath={{{path}}}"),
        ])
    };
    let reaches = |path: &str, wanted: &str| {
        eventually(&format!("{path} {wanted}"), SOON, || match get(path) {
            Ok(text) if text == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    reaches(
        ".status.containerStatuses[0].state.waiting.reason",
        "ImagePullBackOff",
    );
    world.kubectl(&[
        "-n",
        n,
        "delete",
        "pod",
        "alone",
        "--wait=true",
        "--timeout=30s",
    ]);
    let image = format!("any/quorate:{}", env!("CARGO_PKG_VERSION"));
    world.apply(&pod(n, address, &image)).expect("a Pod");
    let ready = ".status.conditions[?(@.type==\"Ready\")].status";
    reaches(ready, "True");
    assert_eq!(get(".status.podIP").expect("it is there"), address);

    // Killed, it comes again with its data.
    let etcdctl = testkit::Etcdctl::new(&[format!("{address}:2379")]).expect("looked for before");
    etcdctl.ok(&["put", "a", "1"]);
    world.kubelet.kill(n, "alone");
    reaches(".status.containerStatuses[0].restartCount", "1");
    reaches(ready, "True");
    assert_eq!(etcdctl.ok(&["get", "a", "--print-value-only"]).trim(), "1");

    // On a silent node it stays, Terminating, until somebody hears of it again.
    let node = world.kubelet.node_of(n, "alone").expect("it runs");
    world.kubelet.lose_node(n, &node);
    world.kubectl(&[
        "-n",
        n,
        "delete",
        "pod",
        "alone",
        "--wait=false",
        "--grace-period=1",
    ]);
    // A deletion's time stamp is when the grace period ends.
    eventually("the end of its grace", SOON, || {
        let by = get(".metadata.deletionTimestamp")?;
        let at: Timestamp = by.parse().map_err(|error| format!("{by:?}: {error}"))?;
        let over = Timestamp::now().as_second() > at.as_second() + 1;
        over.then_some(()).ok_or(by)
    });
    let pod = get(".metadata.name").expect("it is not gone");
    assert_eq!(pod, "alone");
    world.kubelet.find_node(n, &node);
    eventually("the Pod's end", SOON, || match get(".metadata.uid") {
        Err(gone) if gone.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(world.kubelet.processes(n), []);
}
