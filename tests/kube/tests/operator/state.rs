//! What a cluster has come to, in words that do not tell how: two clusters of one spec are equal, whatever their
//! members are called and whichever way they went.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cluster::{Cluster, names};

/// Fields of objects that the API server or the stand-in fills in, or that only a beginning needs.
const OF_NO_INTEREST: [&str; 15] = [
    "annotations/quorate.dev~1cluster-uid",
    "annotations/quorate.dev~1start",
    "annotations/quorate.dev~1membership",
    "spec/bootstrap",
    "spec/clusterIP",
    "spec/clusterIPs",
    "spec/nodeName",
    "spec/number",
    "spec/volumeName",
    "creationTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// A member's arguments that say how it begins; one that has begun takes no notice of them.
const OF_THE_BEGINNING: [&str; 3] = [
    "--initial-cluster=",
    "--initial-cluster-state=",
    "--initial-cluster-token=",
];

/// Objects, options on command lines, membership and what status says, with members numbered from 0.
pub fn end_state(cluster: &Cluster) -> Value {
    let object = cluster.object();
    let released = |claim: &Value| claim["metadata"]["labels"]["quorate.dev/released"] == "true";
    let claims: Vec<Value> = cluster
        .list("persistentvolumeclaims")
        .into_iter()
        .filter(|claim| !released(claim))
        .collect();
    let pods = cluster.list("pods");
    let mut state = json!({
        "spec": object["spec"],
        "status": status(&object["status"]),
        "members": objects(cluster.list("quoratemembers")),
        "pods": objects(pods.clone()),
        "claims": objects(claims),
        "services": objects(cluster.list("services")),
        "budgets": objects(cluster.list("poddisruptionbudgets")),
        "voters": cluster.member_list().values().filter(|(_, learner)| !learner).count(),
        "learners": cluster.member_list().values().filter(|(_, learner)| *learner).count(),
    });
    let mut words = vec![(cluster.ns.name.clone(), "NAMESPACE".to_owned())];
    let mut members = cluster.members();
    members.sort_by_key(|name| number(name));
    for (index, name) in members.iter().enumerate() {
        words.push((name.clone(), format!("MEMBER{index}")));
    }
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let index = members.iter().position(|one| one == name);
        if let (Some(index), Some(address)) = (index, pod["status"]["podIP"].as_str()) {
            words.push((address.to_owned(), format!("ADDRESS{index}")));
        }
    }
    // The longest first: one name may begin with another.
    words.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
    let mut text = state.to_string();
    for (word, instead) in words {
        text = text.replace(&word, &instead);
    }
    state = serde_json::from_str(&text).expect("names are plain words");
    state
}

fn number(member: &str) -> u64 {
    let last = member.rsplit('-').next().unwrap_or_default();
    last.parse().unwrap_or(u64::MAX)
}

fn objects(mut all: Vec<Value>) -> Value {
    all.sort_by_key(|one| {
        names(std::slice::from_ref(one))
            .pop()
            .map(|name| (number(&name), name))
    });
    Value::Array(all.into_iter().map(plain).collect())
}

/// An object without what differs from one life to the next.
fn plain(object: Value) -> Value {
    let mut plain = json!({
        "name": object["metadata"]["name"],
        "labels": object["metadata"]["labels"],
        "annotations": object["metadata"]["annotations"],
        "finalizers": object["metadata"]["finalizers"],
        "owners": object["metadata"]["ownerReferences"].as_array().map(|all| {
            all.iter().map(|one| json!([one["kind"], one["name"]])).collect::<Vec<_>>()
        }),
        "spec": object["spec"],
    });
    for path in OF_NO_INTEREST {
        let mut at = &mut plain;
        let mut rest: Vec<&str> = path.split('/').collect();
        let last = rest.pop().unwrap_or_default().replace("~1", "/");
        for name in rest {
            at = &mut at[name];
        }
        if let Some(fields) = at.as_object_mut() {
            fields.remove(&last);
        }
    }
    if let Some(args) = plain.pointer_mut("/spec/containers/0/args") {
        let kept: Vec<Value> = args
            .as_array()
            .into_iter()
            .flatten()
            .filter(|word| {
                let word = word.as_str().unwrap_or_default();
                !OF_THE_BEGINNING.iter().any(|one| word.starts_with(one))
            })
            .cloned()
            .collect();
        *args = Value::Array(kept);
    }
    plain
}

fn status(status: &Value) -> Value {
    let conditions: BTreeMap<String, Value> = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            let kind = one["type"].as_str().unwrap_or_default().to_owned();
            (kind, json!([one["status"], one["reason"]]))
        })
        .collect();
    let mut roles: Vec<String> = status["members"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| format!("{} {} {}", one["role"], one["health"], one["version"]))
        .collect();
    roles.sort();
    let target = &status["target"];
    json!({
        "replicas": status["replicas"],
        "readyReplicas": status["readyReplicas"],
        "version": status["version"],
        "voters": status["quorum"]["voters"],
        "tolerance": status["quorum"]["tolerance"],
        "target": [target["replicas"], target["version"], target["revision"], target["revisionHash"]],
        "operation": status["operation"],
        "conditions": conditions,
        "members": roles,
    })
}
