//! Every value of both charts: what changes in what is rendered when it is set.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};

use super::{chart, ok, world_with_helm};
use crate::world::World;

/// A value as `--set` takes it, what else has to be set for it to be seen, and what then stands at a place of all
/// objects of a kind that have the place; `[]` means that there is none.
type Switch = (
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static str,
    &'static str,
);

const CONTAINER: &str = "/spec/template/spec/containers/0";
const POD: &str = "/spec/template/spec";
const MONITORED: &[&str] = &["metrics.serviceMonitor.enabled=true"];
const SHOWN: &[&str] = &["dashboard.enabled=true"];

/// Of the operator's chart. A place that begins with `CONTAINER` or `POD` is one in its Deployment.
const OPERATOR: &[Switch] = &[
    (
        "nameOverride=ops",
        &[],
        "Deployment",
        "/metadata/name",
        r#"["q-ops"]"#,
    ),
    (
        "fullnameOverride=all",
        &[],
        "Deployment",
        "/metadata/name",
        r#"["all"]"#,
    ),
    (
        "image.repository=r.example/op",
        &["image.tag=v1"],
        "Deployment",
        "CONTAINER/image",
        r#"["r.example/op:v1"]"#,
    ),
    (
        "image.tag=1.2.3",
        &["image.repository=op"],
        "Deployment",
        "CONTAINER/image",
        r#"["op:1.2.3"]"#,
    ),
    (
        "image.pullPolicy=Always",
        &[],
        "Deployment",
        "CONTAINER/imagePullPolicy",
        r#"["Always"]"#,
    ),
    (
        "image.pullSecrets={a,b}",
        &[],
        "Deployment",
        "POD/imagePullSecrets",
        r#"[[{"name":"a"},{"name":"b"}]]"#,
    ),
    (
        "image.pullSecrets={a,b}",
        &[],
        "Pod",
        "/spec/imagePullSecrets",
        r#"[[{"name":"a"},{"name":"b"}]]"#,
    ),
    (
        "memberImage.repository=r.example/q",
        &[],
        "Deployment",
        "CONTAINER/args/0",
        r#"["--image-repository=r.example/q"]"#,
    ),
    (
        "watchNamespace=shop",
        &[],
        "Deployment",
        "CONTAINER/args/0",
        r#"["--namespace=shop"]"#,
    ),
    (
        "watchNamespace=shop",
        &["rbac.clusterReads=false"],
        "ClusterRole",
        "/metadata/name",
        "[]",
    ),
    ("replicas=2", &[], "Deployment", "/spec/replicas", "[2]"),
    (
        "log.format=text",
        &[],
        "Deployment",
        "CONTAINER/args/5",
        r#"["--log-format=text"]"#,
    ),
    (
        "log.level=debug",
        &[],
        "Deployment",
        "CONTAINER/env/0",
        r#"[{"name":"QUORATE_LOG","value":"debug"}]"#,
    ),
    (
        "extraArgs={--concurrency=2}",
        &[],
        "Deployment",
        "CONTAINER/args/6",
        r#"["--concurrency=2"]"#,
    ),
    (
        "crds.install=false",
        &[],
        "CustomResourceDefinition",
        "/metadata/name",
        "[]",
    ),
    ("rbac.create=false", &[], "Role", "/metadata/name", "[]"),
    (
        "rbac.create=false",
        &[],
        "ClusterRole",
        "/metadata/name",
        "[]",
    ),
    (
        "rbac.clusterReads=false",
        &["watchNamespace=shop"],
        "ClusterRole",
        "/metadata/name",
        "[]",
    ),
    (
        "rbac.clusterReads=false",
        &["watchNamespace=shop"],
        "ClusterRoleBinding",
        "/metadata/name",
        "[]",
    ),
    (
        "serviceAccount.create=false",
        &[],
        "ServiceAccount",
        "/metadata/name",
        "[]",
    ),
    (
        "serviceAccount.create=false",
        &[],
        "Deployment",
        "POD/serviceAccountName",
        r#"["default"]"#,
    ),
    (
        "serviceAccount.name=other",
        &[],
        "ServiceAccount",
        "/metadata/name",
        r#"["other"]"#,
    ),
    (
        "serviceAccount.name=other",
        &[],
        "Deployment",
        "POD/serviceAccountName",
        r#"["other"]"#,
    ),
    (
        "serviceAccount.name=other",
        &["watchNamespace=shop", "rbac.clusterReads=false"],
        "RoleBinding",
        "/subjects/0/name",
        r#"["other","other"]"#,
    ),
    (
        "serviceAccount.annotations.role=a",
        &[],
        "ServiceAccount",
        "/metadata/annotations/role",
        r#"["a"]"#,
    ),
    (
        "resources.requests.cpu=250m",
        &[],
        "Deployment",
        "CONTAINER/resources/requests/cpu",
        r#"["250m"]"#,
    ),
    (
        "resources.requests.memory=64Mi",
        &[],
        "Deployment",
        "CONTAINER/resources/requests/memory",
        r#"["64Mi"]"#,
    ),
    (
        "resources.limits.memory=1Gi",
        &[],
        "Deployment",
        "CONTAINER/resources/limits/memory",
        r#"["1Gi"]"#,
    ),
    (
        "podLabels.team=a",
        &[],
        "Deployment",
        "/spec/template/metadata/labels/team",
        r#"["a"]"#,
    ),
    (
        "podAnnotations.note=a",
        &[],
        "Deployment",
        "/spec/template/metadata/annotations/note",
        r#"["a"]"#,
    ),
    (
        "nodeSelector.disk=fast",
        &[],
        "Deployment",
        "POD/nodeSelector",
        r#"[{"disk":"fast"}]"#,
    ),
    (
        "tolerations[0].operator=Exists",
        &[],
        "Deployment",
        "POD/tolerations",
        r#"[[{"operator":"Exists"}]]"#,
    ),
    (
        "affinity.podAntiAffinity.any=a",
        &[],
        "Deployment",
        "POD/affinity",
        r#"[{"podAntiAffinity":{"any":"a"}}]"#,
    ),
    (
        "priorityClassName=high",
        &[],
        "Deployment",
        "POD/priorityClassName",
        r#"["high"]"#,
    ),
    (
        "networkPolicy.enabled=false",
        &[],
        "NetworkPolicy",
        "/metadata/name",
        "[]",
    ),
    (
        "deletionPolicy.enabled=false",
        &[],
        "ValidatingAdmissionPolicy",
        "/metadata/name",
        "[]",
    ),
    (
        "deletionPolicy.enabled=false",
        &[],
        "ValidatingAdmissionPolicyBinding",
        "/metadata/name",
        "[]",
    ),
    (
        "watchNamespace=shop",
        &[],
        "ValidatingAdmissionPolicy",
        "/spec/matchConstraints/namespaceSelector",
        r#"[{"matchLabels":{"kubernetes.io/metadata.name":"shop"}}]"#,
    ),
    (
        "fullnameOverride=all",
        &[],
        "ValidatingAdmissionPolicyBinding",
        "/spec/policyName",
        r#"["default-all-deletion"]"#,
    ),
    (
        "metrics.service.enabled=false",
        &[],
        "Service",
        "/metadata/name",
        "[]",
    ),
    (
        "metrics.service.enabled=false",
        &[],
        "Pod",
        "/metadata/name",
        "[]",
    ),
    (
        "metrics.service.port=9090",
        &[],
        "Service",
        "/spec/ports/0/port",
        "[9090]",
    ),
    (
        "metrics.service.port=9090",
        &[],
        "Pod",
        "/spec/containers/0/args/1",
        r#"["http://q-quorate-operator-metrics.default.svc:9090/readyz"]"#,
    ),
    (
        "metrics.serviceMonitor.enabled=true",
        &[],
        "ServiceMonitor",
        "/metadata/name",
        r#"["q-quorate-operator","q-quorate-operator-members"]"#,
    ),
    (
        "metrics.serviceMonitor.interval=5s",
        MONITORED,
        "ServiceMonitor",
        "/spec/endpoints/0/interval",
        r#"["5s","5s"]"#,
    ),
    (
        "metrics.serviceMonitor.labels.release=a",
        MONITORED,
        "ServiceMonitor",
        "/metadata/labels/release",
        r#"["a","a"]"#,
    ),
    (
        "metrics.serviceMonitor.members=false",
        MONITORED,
        "ServiceMonitor",
        "/metadata/name",
        r#"["q-quorate-operator"]"#,
    ),
    (
        "watchNamespace=shop",
        MONITORED,
        "ServiceMonitor",
        "/spec/namespaceSelector",
        r#"[{"matchNames":["shop"]}]"#,
    ),
    (
        "dashboard.enabled=true",
        &[],
        "ConfigMap",
        "/metadata/name",
        r#"["q-quorate-operator-dashboard"]"#,
    ),
    (
        "dashboard.labels.grafana_dashboard=yes",
        SHOWN,
        "ConfigMap",
        "/metadata/labels/grafana_dashboard",
        r#"["yes"]"#,
    ),
    (
        "dashboard.labels.folder=a",
        SHOWN,
        "ConfigMap",
        "/metadata/labels/folder",
        r#"["a"]"#,
    ),
];

/// Of the cluster's chart.
const CLUSTER: &[Switch] = &[
    (
        "name=orders",
        &[],
        "QuorateCluster",
        "/metadata/name",
        r#"["orders"]"#,
    ),
    (
        "labels.team=a",
        &[],
        "QuorateCluster",
        "/metadata/labels/team",
        r#"["a"]"#,
    ),
    (
        "annotations.note=a",
        &[],
        "QuorateCluster",
        "/metadata/annotations/note",
        r#"["a"]"#,
    ),
    ("replicas=5", &[], "QuorateCluster", "/spec/replicas", "[5]"),
    (
        "version=0.2.0",
        &[],
        "QuorateCluster",
        "/spec/version",
        r#"["0.2.0"]"#,
    ),
    (
        "storage.size=9Gi",
        &[],
        "QuorateCluster",
        "/spec/storage/size",
        r#"["9Gi"]"#,
    ),
    (
        "storage.retention=Delete",
        &[],
        "QuorateCluster",
        "/spec/storage/retention",
        r#"["Delete"]"#,
    ),
    (
        "storage.className=fast",
        &[],
        "QuorateCluster",
        "/spec/storage/className",
        r#"["fast"]"#,
    ),
    (
        "deletionProtection=true",
        &[],
        "QuorateCluster",
        "/spec/deletionProtection",
        "[true]",
    ),
    (
        "paused=true",
        &[],
        "QuorateCluster",
        "/spec/paused",
        "[true]",
    ),
    (
        "bootstrap.adopt=true",
        &[],
        "QuorateCluster",
        "/spec/bootstrap/adopt",
        "[true]",
    ),
    (
        "image.repository=r.example/q",
        &[],
        "QuorateCluster",
        "/spec/image/repository",
        r#"["r.example/q"]"#,
    ),
    (
        "membership.allowEvenReplicas=true",
        &[],
        "QuorateCluster",
        "/spec/membership/allowEvenReplicas",
        "[true]",
    ),
    (
        "options.snapshotCount=5000",
        &[],
        "QuorateCluster",
        "/spec/options/snapshotCount",
        "[5000]",
    ),
    (
        "podDisruptionBudget.enabled=false",
        &[],
        "QuorateCluster",
        "/spec/podDisruptionBudget/enabled",
        "[false]",
    ),
    (
        "podTemplate.priorityClassName=high",
        &[],
        "QuorateCluster",
        "/spec/podTemplate/priorityClassName",
        r#"["high"]"#,
    ),
];

/// Helm's own; no template of ours reads it.
const OF_HELM: &str = "global";

type Documents = Vec<Value>;

fn documents(text: &str) -> Documents {
    text.split("\n---")
        .map(|document| {
            serde_yaml::from_str(document).unwrap_or_else(|error| panic!("{error}: {document}"))
        })
        .filter(|document: &Value| !document.is_null())
        .collect()
}

/// What is rendered with these values.
fn rendered(world: &World, name: &str, values: &[&str]) -> Documents {
    let path = chart(name);
    let mut words = vec!["template", "q", path.to_str().expect("a path of ours")];
    let set: Vec<String> = values.iter().map(|one| format!("--set={one}")).collect();
    words.extend(set.iter().map(String::as_str));
    documents(&ok(world, &words))
}

/// What stands at a place, of all objects of a kind that have it.
fn at(documents: &Documents, kind: &str, place: &str) -> Value {
    let place = place.replace("CONTAINER", CONTAINER).replace("POD", POD);
    let objects = documents.iter().filter(|one| one["kind"] == kind);
    objects
        .filter_map(|one| one.pointer(&place))
        .cloned()
        .collect()
}

/// Paths of all values that a file gives, those of an empty map or a list too.
fn paths(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value.as_object().filter(|fields| !fields.is_empty()) {
        None => {
            into.insert(path.to_owned());
        }
        Some(fields) => {
            for (name, field) in fields {
                let path = match path {
                    "" => name.clone(),
                    _ => format!("{path}.{name}"),
                };
                paths(field, &path, into);
            }
        }
    }
}

fn assert_every_value_has_a_switch(name: &str, switches: &[Switch]) {
    let read =
        |file: &str| fs::read_to_string(chart(name).join(file)).expect("a file of the chart");
    let values: Value = serde_yaml::from_str(&read("values.yaml")).expect("YAML");
    let schema: Value = serde_json::from_str(&read("values.schema.json")).expect("JSON");
    let mut wanted = BTreeSet::new();
    paths(&values, "", &mut wanted);
    // And those that only the schema knows.
    let properties = schema["properties"].as_object().expect("a struct");
    wanted.extend(
        properties
            .keys()
            .filter(|key| values[*key].is_null())
            .cloned(),
    );
    wanted.remove(OF_HELM);
    let set: Vec<&str> = switches
        .iter()
        .filter_map(|(set, ..)| set.split_once('=').map(|(path, _)| path))
        .collect();
    let missing: Vec<&String> = wanted
        .iter()
        .filter(|path| {
            !set.iter().any(|set| {
                let rest = set.strip_prefix(path.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            })
        })
        .collect();
    assert!(missing.is_empty(), "no switch of {name} sets {missing:?}");
}

#[test]
fn every_value_of_the_charts_does_what_it_says() {
    let Some(world) = world_with_helm("every_value_of_the_charts_does_what_it_says") else {
        return;
    };
    for (name, switches) in [("quorate-operator", OPERATOR), ("quorate", CLUSTER)] {
        assert_every_value_has_a_switch(name, switches);
        let mut before: BTreeMap<&[&str], Documents> = BTreeMap::new();
        let mut after: BTreeMap<Vec<&str>, Documents> = BTreeMap::new();
        for (set, also, kind, place, becomes) in switches {
            let becomes: Value = serde_json::from_str(becomes).expect("the table's own JSON");
            let without = before
                .entry(also)
                .or_insert_with(|| rendered(world, name, also));
            let was = at(without, kind, place);
            assert_ne!(was, becomes, "{name}: without {set}, {kind}{place}");
            let all = [&[*set][..], also].concat();
            let with = after
                .entry(all.clone())
                .or_insert_with(|| rendered(world, name, &all));
            let is = at(with, kind, place);
            assert_eq!(is, becomes, "{name}: with {set}, {kind}{place}");
        }
    }
}

#[test]
fn the_dashboard_is_one() {
    let Some(world) = world_with_helm("the_dashboard_is_one") else {
        return;
    };
    let documents = rendered(world, "quorate-operator", SHOWN);
    let texts = at(&documents, "ConfigMap", "/data/quorate.json");
    let text = texts[0].as_str().expect("one ConfigMap with one dashboard");
    let dashboard: Value = serde_json::from_str(text).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    assert!(
        panels
            .iter()
            .any(|panel| panel["targets"][0]["expr"] != json!(null)),
        "{dashboard}"
    );
    assert!(dashboard["title"].is_string() && dashboard["uid"].is_string());
}
