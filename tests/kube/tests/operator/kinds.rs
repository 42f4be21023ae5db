//! The kinds at a real API server: no warning, every field explained, each rule with an object that it takes
//! and one that it refuses, and the scale.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use serde_json::{Value, json};

use crate::world::{Ns, World, workspace, world};

const KINDS: [&str; 2] = ["quorateclusters", "quoratemembers"];

fn api(world: &World, namespace: &str, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("quorate.dev", "v1alpha1", kind);
    Api::namespaced_with(
        world.client.clone(),
        namespace,
        &ApiResource::from_gvk(&kind),
    )
}

/// The smallest cluster; paused, in case an operator watches.
fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": "quorate.dev/v1alpha1", "kind": "QuorateCluster", "metadata": {"name": name},
        "spec": {"paused": true, "version": "0.1.0", "storage": {"size": "1Gi"}},
    })
}

fn member(name: &str) -> Value {
    json!({
        "apiVersion": "quorate.dev/v1alpha1", "kind": "QuorateMember", "metadata": {"name": name},
        "spec": {"clusterName": "nobody", "number": 0, "template": {"version": "0.1.0"}},
    })
}

/// `change` over `value`, as a merge patch does it.
fn with(mut value: Value, change: &Value) -> Value {
    fn merge(into: &mut Value, change: &Value) {
        let Value::Object(fields) = change else {
            *into = change.clone();
            return;
        };
        if !into.is_object() {
            *into = json!({});
        }
        for (name, field) in fields {
            if field.is_null() {
                into.as_object_mut().expect("an object").remove(name);
            } else {
                merge(&mut into[name.as_str()], field);
            }
        }
    }
    merge(&mut value, change);
    value
}

/// Has the API server judge a new object; nothing is stored. Its complaint when it refuses.
fn create(world: &World, namespace: &str, object: &Value) -> Result<(), String> {
    let kind = object["kind"].as_str().expect("a kind");
    let parameters = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
    world
        .wait(api(world, namespace, kind).create(&parameters, &object))
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// Has the API server judge a change of a stored object; nothing is stored.
fn change(
    world: &World,
    namespace: &str,
    kind: &str,
    name: &str,
    change: &Value,
) -> Result<(), String> {
    let parameters = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    world
        .wait(api(world, namespace, kind).patch(name, &parameters, &Patch::Merge(change)))
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// What is said of a new object: changes that it takes, changes that it refuses.
struct OfNew {
    text: &'static str,
    taken: Vec<Value>,
    refused: Vec<Value>,
}

fn of_new_clusters() -> Vec<OfNew> {
    let spec = |field: &str, value: Value| json!({"spec": {field: value}});
    let options = |value: Value| json!({"spec": {"storage": {"size": "20Gi"}, "options": value}});
    let compaction = |mode: &str, retention: &str| {
        options(json!({"autoCompaction": {"mode": mode, "retention": retention}}))
    };
    let pods = |field: &str, key: &str| json!({"spec": {"podTemplate": {field: {key: "x"}}}});
    vec![
        OfNew {
            text: "metadata.name must be at most 40 characters",
            taken: vec![json!({"metadata": {"name": "a".repeat(40)}})],
            refused: vec![
                json!({"metadata": {"name": "a".repeat(41)}}),
                json!({"metadata": {"name": "a.b"}}),
                json!({"metadata": {"name": "1a"}}),
            ],
        },
        OfNew {
            text: "replicas must be odd, or 0 to hibernate",
            taken: vec![
                spec("replicas", json!(0)),
                spec("replicas", json!(7)),
                json!({"spec": {"replicas": 4, "membership": {"allowEvenReplicas": true}}}),
            ],
            refused: vec![
                spec("replicas", json!(2)),
                json!({"spec": {"replicas": 6, "membership": {"allowEvenReplicas": false}}}),
            ],
        },
        OfNew {
            text: "should be less than or equal to 7",
            taken: vec![],
            refused: vec![spec("replicas", json!(9))],
        },
        OfNew {
            text: "spec.version",
            taken: vec![spec("version", json!("10.0.123"))],
            refused: vec![
                spec("version", json!("1.0")),
                spec("version", json!("v1.0.0")),
                spec("version", json!("1.0.0-rc.1")),
                spec("version", json!("01.0.0")),
                spec("version", Value::Null),
            ],
        },
        OfNew {
            text: "options.quotaBackendBytes must be less than storage.size",
            taken: vec![options(json!({"quotaBackendBytes": "19Gi"}))],
            refused: vec![
                options(json!({"quotaBackendBytes": "20Gi"})),
                options(json!({"quotaBackendBytes": "21474836481"})),
            ],
        },
        OfNew {
            text: "storage.size must be at least 256Mi",
            taken: vec![json!({"spec": {"storage": {"size": "256Mi"}}})],
            refused: vec![json!({"spec": {"storage": {"size": "255Mi"}}})],
        },
        OfNew {
            text: "spec.storage.size",
            taken: vec![],
            refused: vec![
                json!({"spec": {"storage": {"size": "1.5Gi"}}}),
                json!({"spec": {"storage": {"size": null}}}),
                json!({"spec": {"storage": {"size": "-1Gi"}}}),
            ],
        },
        OfNew {
            text: "options.electionTimeout must be at least five times options.heartbeatInterval",
            taken: vec![
                options(json!({"heartbeatInterval": "200ms"})),
                options(json!({"heartbeatInterval": "1s", "electionTimeout": "5s"})),
            ],
            refused: vec![
                options(json!({"heartbeatInterval": "201ms"})),
                options(json!({"electionTimeout": "499ms"})),
            ],
        },
        OfNew {
            text: "options.electionTimeout must be at most 50s",
            taken: vec![options(json!({"electionTimeout": "50s"}))],
            refused: vec![options(json!({"electionTimeout": "50001ms"}))],
        },
        OfNew {
            text: "options.heartbeatInterval must be at least 10ms",
            taken: vec![options(json!({"heartbeatInterval": "10ms"}))],
            refused: vec![options(json!({"heartbeatInterval": "9ms"}))],
        },
        OfNew {
            text: "options.quotaBackendBytes must be at least 16Mi",
            taken: vec![options(json!({"quotaBackendBytes": "16Mi"}))],
            refused: vec![options(json!({"quotaBackendBytes": "0"}))],
        },
        OfNew {
            text: "options.autoCompaction.retention must be a duration",
            taken: vec![
                compaction("Periodic", "1h30m"),
                compaction("Revision", "10000"),
                options(json!({"autoCompaction": {"retention": "1h"}})),
            ],
            refused: vec![
                compaction("Periodic", "10000"),
                compaction("Periodic", "0s"),
                compaction("Periodic", "h"),
                compaction("Revision", "1h"),
                compaction("Revision", "0"),
            ],
        },
        OfNew {
            text: "podTemplate.labels must not begin with",
            taken: vec![pods("labels", "example.dev/team")],
            refused: vec![
                pods("labels", "quorate.dev/cluster"),
                pods("labels", "app.kubernetes.io/name"),
            ],
        },
        OfNew {
            text: "podTemplate.annotations must not begin with",
            taken: vec![pods("annotations", "app.kubernetes.io/name")],
            refused: vec![pods("annotations", "quorate.dev/start")],
        },
        OfNew {
            text: "spec.membership.domain",
            taken: vec![json!({"spec": {"membership": {"domain": "cluster.local"}}})],
            refused: vec![
                json!({"spec": {"membership": {"domain": "Cluster.local"}}}),
                json!({"spec": {"membership": {"domain": ".local"}}}),
            ],
        },
        OfNew {
            text: "spec.membership.replaceFailedAfter",
            taken: vec![json!({"spec": {"membership": {"replaceFailedAfter": "0s"}}})],
            refused: vec![
                json!({"spec": {"membership": {"replaceFailedAfter": "-1s"}}}),
                json!({"spec": {"membership": {"replaceFailedAfter": "ten"}}}),
            ],
        },
    ]
}

/// What is said of a change: the object as it is, changes that it takes, changes that it refuses.
struct OfChange {
    text: &'static str,
    stored: Value,
    taken: Vec<Value>,
    refused: Vec<Value>,
}

fn of_changes() -> Vec<OfChange> {
    let storage = |value: Value| json!({"spec": {"storage": value}});
    let membership = |value: Value| json!({"spec": {"membership": value}});
    vec![
        OfChange {
            text: "storage.size cannot be changed",
            stored: cluster("size"),
            taken: vec![
                storage(json!({"size": "1024Mi"})),
                storage(json!({"retention": "Delete"})),
            ],
            refused: vec![
                storage(json!({"size": "2Gi"})),
                storage(json!({"size": "512Mi"})),
            ],
        },
        OfChange {
            text: "storage.className cannot be changed",
            stored: with(cluster("class"), &storage(json!({"className": "fast"}))),
            taken: vec![storage(json!({"className": "fast"}))],
            refused: vec![
                storage(json!({"className": "slow"})),
                storage(json!({"className": null})),
            ],
        },
        OfChange {
            text: "storage.className cannot be changed",
            stored: cluster("no-class"),
            taken: vec![],
            refused: vec![storage(json!({"className": "fast"}))],
        },
        OfChange {
            text: "membership.domain cannot be changed",
            stored: with(cluster("domain"), &membership(json!({"domain": "a.b"}))),
            taken: vec![membership(json!({"minHealthySeconds": 1}))],
            refused: vec![
                membership(json!({"domain": "a.c"})),
                membership(json!({"domain": null})),
                json!({"spec": {"membership": null}}),
            ],
        },
        OfChange {
            text: "bootstrap is read once",
            stored: cluster("bootstrap"),
            taken: vec![
                json!({"spec": {"bootstrap": {"adopt": false}}}),
                json!({"spec": {"bootstrap": null}}),
            ],
            refused: vec![json!({"spec": {"bootstrap": {"adopt": true}}})],
        },
        OfChange {
            text: "clusterName, number and bootstrap of a member cannot be changed",
            stored: member("nobody-0"),
            taken: vec![json!({"spec": {"template": {"version": "0.2.0"}}})],
            refused: vec![
                json!({"spec": {"clusterName": "other"}}),
                json!({"spec": {"number": 1}}),
                json!({"spec": {"bootstrap": true}}),
            ],
        },
    ]
}

#[test]
fn each_rule_takes_one_object_and_refuses_another() {
    let Some(world) = world("each_rule_takes_one_object_and_refuses_another") else {
        return;
    };
    let namespace = Ns::new(world, "rules");
    let n = namespace.name.as_str();
    create(world, n, &cluster("a")).expect("the smallest cluster");
    create(world, n, &member("nobody-0")).expect("the smallest member");
    // By what is said: what was taken, and what was refused.
    let mut seen: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    let of_members = messages(world, "quoratemembers");
    for rule in of_new_clusters() {
        for taken in &rule.taken {
            create(world, n, &with(cluster("a"), taken))
                .unwrap_or_else(|error| panic!("{taken} should be taken: {error}"));
        }
        for refused in &rule.refused {
            let said =
                create(world, n, &with(cluster("a"), refused)).expect_err(&refused.to_string());
            assert!(
                said.contains(rule.text),
                "{refused}: {said:?}, expected {:?}",
                rule.text
            );
        }
        let pair = (rule.taken.len(), rule.refused.len());
        seen.insert(("quorateclusters", rule.text), pair);
        // Options and podTemplate are a member's too, with their rules.
        if !of_members.iter().any(|said| said.starts_with(rule.text)) {
            continue;
        }
        for taken in rule.taken.iter().filter_map(of_member) {
            create(world, n, &with(member("nobody-0"), &taken))
                .unwrap_or_else(|error| panic!("{taken} should be taken: {error}"));
        }
        for refused in rule.refused.iter().filter_map(of_member) {
            let said = create(world, n, &with(member("nobody-0"), &refused))
                .expect_err(&refused.to_string());
            assert!(said.contains(rule.text), "{refused}: {said:?}");
        }
        seen.insert(("quoratemembers", rule.text), pair);
    }
    for rule in of_changes() {
        let kind = rule.stored["kind"].as_str().expect("a kind");
        let name = rule.stored["metadata"]["name"].as_str().expect("a name");
        let stored: DynamicObject = serde_json::from_value(rule.stored.clone()).expect("an object");
        world
            .wait(api(world, n, kind).create(&PostParams::default(), &stored))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        for taken in &rule.taken {
            change(world, n, kind, name, taken)
                .unwrap_or_else(|error| panic!("{taken} should be taken: {error}"));
        }
        for refused in &rule.refused {
            let said = change(world, n, kind, name, refused).expect_err(&refused.to_string());
            assert!(
                said.contains(rule.text),
                "{refused}: {said:?}, expected {:?}",
                rule.text
            );
        }
        let kind = if kind == "QuorateCluster" {
            KINDS[0]
        } else {
            KINDS[1]
        };
        let pair = seen.entry((kind, rule.text)).or_default();
        pair.0 += rule.taken.len();
        pair.1 += rule.refused.len();
    }
    // No rule is left without its pair.
    for kind in KINDS {
        for message in messages(world, kind) {
            let found = seen
                .iter()
                .find(|((of, text), _)| *of == kind && message.starts_with(text));
            assert!(
                matches!(found, Some((_, (1.., 1..)))),
                "no pair for the rule of {kind} {message:?}: {found:?}"
            );
        }
    }
}

/// The change of a cluster's options or Pods as one of a member's template.
fn of_member(change: &Value) -> Option<Value> {
    let spec = change["spec"].as_object()?;
    let template: serde_json::Map<String, Value> = spec
        .iter()
        .filter(|(name, _)| ["options", "podTemplate"].contains(&name.as_str()))
        .map(|(name, field)| (name.clone(), field.clone()))
        .collect();
    (!template.is_empty()).then(|| json!({"spec": {"template": template}}))
}

/// What the rules of a kind say when they refuse. Every rule says something.
fn messages(world: &World, kind: &str) -> BTreeSet<String> {
    fn collect(value: &Value, into: &mut BTreeSet<String>) {
        if let Some(rules) = value["x-kubernetes-validations"].as_array() {
            into.extend(rules.iter().map(|rule| {
                let said = rule["message"].as_str();
                said.unwrap_or_else(|| panic!("a rule without a message: {rule}"))
                    .to_owned()
            }));
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|field| collect(field, into)),
            Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
            _ => {}
        }
    }
    let mut all = BTreeSet::new();
    for (_, definition) in KINDS
        .iter()
        .zip(definitions(world))
        .filter(|(of, _)| **of == kind)
    {
        collect(&definition, &mut all);
    }
    assert!(all.len() >= 8, "{all:?}");
    all
}

fn definitions(world: &World) -> Vec<Value> {
    KINDS
        .iter()
        .map(|kind| {
            let text = world.kubectl(&["get", "crd", &format!("{kind}.quorate.dev"), "-o", "json"]);
            serde_json::from_str(&text).expect("kubectl prints JSON")
        })
        .collect()
}

#[test]
fn kinds_are_taken_without_a_warning() {
    let Some(world) = world("kinds_are_taken_without_a_warning") else {
        return;
    };
    let crds = workspace().join("crds");
    let file = crds.to_str().expect("a path of ours");
    world.kubectl(&[
        "apply",
        "--server-side",
        "--force-conflicts",
        "--warnings-as-errors",
        "-f",
        file,
    ]);
    for definition in definitions(world) {
        let conditions = definition["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for condition in conditions {
            // NonStructuralSchema or a violation of the API's conventions would stand here.
            let good = ["Established", "NamesAccepted", "StoredVersionMigrated"];
            let kind = condition["type"].as_str().unwrap_or_default();
            assert!(
                good.contains(&kind) && condition["status"] != "False",
                "{condition}"
            );
        }
    }
    // People apply a file from their own machine, too, where the whole object goes into an annotation.
    world.kubectl(&[
        "apply",
        "--dry-run=server",
        "--warnings-as-errors",
        "-f",
        file,
    ]);
    let namespace = Ns::new(world, "names");
    world
        .wait(api(world, &namespace.name, "QuorateCluster").create(
            &PostParams::default(),
            &serde_json::from_value(cluster("short")).expect("an object"),
        ))
        .expect("the smallest cluster");
    for words in [["get", "qc"], ["get", "quorate"], ["get", "all"]] {
        let said = world.kubectl(&[&words[..], &["-n", &namespace.name]].concat());
        assert!(said.contains("short"), "{words:?}: {said}");
    }
    let said = world.kubectl(&["get", "qc", "-n", &namespace.name, "-o", "wide"]);
    let columns: Vec<&str> = said
        .lines()
        .next()
        .unwrap_or_default()
        .split("  ")
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect();
    assert_eq!(
        columns,
        [
            "NAME",
            "DESIRED",
            "READY",
            "MAY LOSE",
            "VERSION",
            "STATUS",
            "OPERATION",
            "BLOCKED",
            "LEADER",
            "AGE"
        ]
    );
    world.kubectl(&[
        "get",
        "qm",
        "-n",
        &namespace.name,
        "--field-selector",
        "spec.clusterName=short",
    ]);
}

#[test]
fn kubectl_explains_every_field() {
    let Some(world) = world("kubectl_explains_every_field") else {
        return;
    };
    let mut asked = 0;
    for (kind, definition) in KINDS.iter().zip(definitions(world)) {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let tree = world.kubectl(&["explain", kind, "--recursive"]);
        // Every level of ours is asked for; those of Kubernetes' own types below are its own affair.
        let mut levels = vec![(vec![(*kind).to_owned()], schema)];
        while let Some((path, schema)) = levels.pop() {
            let said = world.kubectl(&["explain", &path.join(".")]);
            asked += 1;
            for (name, field) in schema["properties"].as_object().expect("a struct") {
                assert!(
                    tree.contains(name.as_str()),
                    "{path:?} lacks {name}: {tree}"
                );
                let lines: Vec<&str> = said.lines().collect();
                let at = lines
                    .iter()
                    .position(|line| line.trim_start().starts_with(&format!("{name}\t")));
                let at = at.unwrap_or_else(|| panic!("{path:?} does not say {name}: {said}"));
                let below = lines.get(at + 1..at + 3).unwrap_or_default().join("");
                assert!(
                    below.trim().len() > 8 && !below.contains("<no description>"),
                    "{path:?}: {name} is not explained: {said}"
                );
                let inner = if field["type"] == "array" {
                    &field["items"]
                } else {
                    field
                };
                let ours = inner["properties"].is_object()
                    && ![
                        "affinity",
                        "resources",
                        "tolerations",
                        "topologySpreadConstraints",
                        "conditions",
                        "metadata",
                    ]
                    .contains(&name.as_str());
                if ours && path.len() < 4 {
                    levels.push(([path.clone(), vec![name.clone()]].concat(), inner));
                }
            }
        }
    }
    assert!(asked > 20, "only {asked} levels were asked for");
}

#[test]
fn kubectl_scales_a_cluster() {
    let Some(world) = world("kubectl_scales_a_cluster") else {
        return;
    };
    let namespace = Ns::new(world, "scale");
    let n = namespace.name.as_str();
    let clusters = api(world, n, "QuorateCluster");
    let object = serde_json::from_value(cluster("a")).expect("an object");
    world
        .wait(clusters.create(&PostParams::default(), &object))
        .expect("the smallest cluster");
    world.kubectl(&["-n", n, "scale", "quoratecluster/a", "--replicas=5"]);
    let said = world
        .control
        .kubectl(&["-n", n, "scale", "quoratecluster/a", "--replicas=4"])
        .expect_err("an even number");
    assert!(said.contains("replicas must be odd"), "{said}");
    let status =
        json!({"status": {"replicas": 2, "readyReplicas": 1, "selector": "quorate.dev/cluster=a"}});
    world
        .wait(clusters.patch_status("a", &PatchParams::default(), &Patch::Merge(&status)))
        .expect("a status");
    let scale = world.wait(clusters.get_scale("a")).expect("a scale");
    assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(5));
    let status = scale.status.expect("a status");
    assert_eq!(
        (status.replicas, status.selector.as_deref()),
        (2, Some("quorate.dev/cluster=a"))
    );
}
