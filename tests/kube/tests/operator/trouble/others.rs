//! Objects of other people under the names that ours should have.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::eventually;

use crate::cluster::{Cluster, STEP, spec};
use crate::operator::{Operator, Options};
use crate::world::world;

/// What a StatefulSet `q` and its friends would have left there.
fn objects_of_others(namespace: &str) -> Vec<Value> {
    let meta = |name: &str| json!({"name": name, "namespace": namespace, "labels": {"app": "q"}});
    vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("q"),
            "spec": {"selector": {"app": "q"}, "ports": [{"name": "web", "port": 80}]}}),
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta("q"),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "q"}}}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta("data-q-0"),
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "missing",
                "resources": {"requests": {"storage": "1Gi"}}}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta("q-0"),
            "spec": {"containers": [{"name": "web", "image": "registry.invalid/web"}]}}),
    ]
}

/// The path under which kubectl finds it.
fn path(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
    format!(
        "{}/{}",
        text(&object["kind"]),
        text(&object["metadata"]["name"])
    )
}

#[test]
fn what_has_the_names_of_ours_and_is_of_others_is_named_and_left_alone() {
    let Some(world) = world("what_has_the_names_of_ours_and_is_of_others_is_named_and_left_alone")
    else {
        return;
    };
    let cluster = Cluster::create(world, "others", &spec(1));
    world.kubelet.set_room(&cluster.ns.name, false);
    let theirs = objects_of_others(&cluster.ns.name);
    for object in &theirs {
        world.apply(object).expect("an object of others");
    }
    let as_it_is = |path: &str| -> Value {
        let text = cluster.kubectl(&["get", path, "--output=json"]);
        let object: Value = serde_json::from_str(&text).expect("JSON");
        json!([
            object["spec"],
            object["metadata"]["labels"],
            object["metadata"]["ownerReferences"],
        ])
    };
    let paths: Vec<String> = theirs.iter().map(path).collect();
    let before: Vec<Value> = paths.iter().map(|path| as_it_is(path)).collect();
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));

    // One after the other is in the way, is named, and goes by a person's hand only.
    let mut left: BTreeSet<&String> = paths.iter().collect();
    while !left.is_empty() {
        let named_by = |object: &Value| {
            let said = object["status"]["blocked"]["message"].to_string();
            let said = said.to_lowercase();
            left.iter().copied().find(|path| {
                said.contains(&format!(
                    "there is a {} that is not",
                    path.replace('/', " ")
                ))
            })
        };
        let object = cluster.until("an object of others named", STEP, |object| {
            named_by(object).is_some()
        });
        let named = named_by(&object).expect("it was waited for");
        for (path, before) in paths.iter().zip(&before) {
            if left.contains(path) {
                assert_eq!(as_it_is(path), *before, "{path}");
            }
        }
        cluster.kubectl(&[
            "delete",
            named,
            "--grace-period=0",
            "--force",
            "--wait=false",
        ]);
        left.remove(named);
        // From now on Pods are ours: theirs has never run.
        if named == "pod/q-0" {
            world.kubelet.set_room(&cluster.ns.name, true);
        }
    }
    cluster.until_ready(1, STEP * 2);
    cluster.assert_tidy(1);
}

#[test]
fn a_service_that_cannot_be_made_is_named_and_what_serves_serves_on() {
    let Some(world) = world("a_service_that_cannot_be_made_is_named_and_what_serves_serves_on")
    else {
        return;
    };
    let cluster = Cluster::create(world, "service", &spec(1));
    let quota = |services| cluster.set_quota("services", services);
    quota(0);
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let exceeded = |object: &Value| {
        object["status"]["blocked"]["message"]
            .to_string()
            .contains("exceeded quota")
    };
    cluster.until("no Service", STEP, exceeded);
    assert_eq!(cluster.list("pods").len(), 0, "nobody would find it");
    quota(2);
    cluster.until_ready(1, STEP * 2);
    // A label that somebody takes off is put back, and the Service is ours still.
    let label = "quorate.dev/cluster";
    cluster.kubectl(&["label", "service", "q", &format!("{label}-")]);
    eventually("the label", STEP, || {
        let words = [
            "get",
            "service",
            "q",
            "--output=jsonpath={.metadata.labels}",
        ];
        let said = cluster.kubectl(&words);
        said.contains(label).then_some(()).ok_or(said)
    });
    // One goes later, and cannot be made again: members do not care.
    quota(1);
    cluster.kubectl(&["delete", "service", "q-peers"]);
    cluster.until("no Service again", STEP, exceeded);
    cluster.etcdctl().ok(&["put", "a", "1"]);
    quota(2);
    eventually("nothing refused any more", STEP, || {
        match &cluster.status()["blocked"] {
            Value::Null => Ok(()),
            blocked => Err(blocked.to_string()),
        }
    });
}
