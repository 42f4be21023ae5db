//! Objects as YAML, compared with `testdata/`; `cargo xtask bless manifests` writes it anew.

use std::fs;
use std::path::Path;

use crd::{QuorateCluster, QuorateMember};
use serde::Serialize;

use manifests::{
    Begin, HostTemplate, Settings, budget, client_service, member_object, peer_service, pod,
    template, volume_claim,
};

fn cluster(spec: &str) -> QuorateCluster {
    let text = format!(
        "apiVersion: quorate.dev/v1alpha1
kind: QuorateCluster
metadata: {{name: orders, namespace: shop, uid: 11111111-1111-1111-1111-111111111111}}
spec: {spec}
"
    );
    serde_yaml::from_str(&text).expect("a cluster")
}

/// Everything left out that may be.
fn small() -> QuorateCluster {
    cluster("{version: 0.1.0, storage: {size: 1Gi}}")
}

/// Everything said that can be.
fn large() -> QuorateCluster {
    cluster(
        "{replicas: 5, version: 0.1.0,
  image: {repository: registry.example/quorate, pullPolicy: Always, pullSecrets: [{name: pull}]},
  storage: {size: 20Gi, className: fast, retention: Delete},
  options: {quotaBackendBytes: 8Gi, autoCompaction: {mode: Revision, retention: '1000'}, snapshotCount: 5000,
            heartbeatInterval: 50ms, electionTimeout: 1s500ms},
  membership: {domain: cluster.local},
  podTemplate: {labels: {team: orders, quorate.dev/cluster: other}, annotations: {note: x},
    resources: {requests: {cpu: 500m, memory: 2Gi}, limits: {memory: 2Gi}},
    affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: In, values: [ssd]}]}]}}},
    topologySpreadConstraints: [], nodeSelector: {disk: ssd}, tolerations: [{key: store, operator: Exists}],
    priorityClassName: high}}",
    )
}

fn member(cluster: &QuorateCluster, number: u64) -> QuorateMember {
    let mut member = member_object(cluster, number, number == 0, template(&cluster.spec));
    member.metadata.uid = Some("22222222-2222-2222-2222-222222222222".to_owned());
    member
}

fn settings(host: &str) -> Settings {
    Settings {
        image_repository: "ghcr.io/quorate/quorate".to_owned(),
        member_host: HostTemplate::parse(host).expect("a template"),
    }
}

fn compare(name: &str, object: &impl Serialize) {
    let text = serde_yaml::to_string(object).expect("an object has a YAML form");
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(name);
    if std::env::var("QUORATE_BLESS").is_ok_and(|value| value == "1") {
        fs::create_dir_all(path.parent().expect("a folder")).expect("the workspace can be written");
        fs::write(&path, &text).expect("the workspace can be written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text, expected,
        "{name}; `cargo xtask bless manifests` writes it anew"
    );
}

const DNS: &str = "{member}.{service}.{namespace}.svc";

#[test]
fn a_first_member_begins_the_cluster_alone() {
    let cluster = small();
    let member = member(&cluster, 0);
    compare("member-0.yaml", &member);
    compare(
        "pod-new.yaml",
        &pod(&cluster, &member, &settings(DNS), &Begin::New, true),
    );
    compare("volume-retain.yaml", &volume_claim(&cluster, &member));
}

#[test]
fn a_pod_is_what_the_template_says_and_restricted_all_the_same() {
    let cluster = large();
    let member = member(&cluster, 7);
    let begin = Begin::Existing {
        members: vec![
            (
                "orders-3".to_owned(),
                vec!["http://a:2380".to_owned(), "http://b:2380".to_owned()],
            ),
            ("orders-7".to_owned(), vec!["http://c:2380".to_owned()]),
        ],
        membership: Some("cdd48d4524601b8a".to_owned()),
    };
    compare(
        "pod-existing.yaml",
        &pod(&cluster, &member, &settings(DNS), &begin, false),
    );
    compare("volume-delete.yaml", &volume_claim(&cluster, &member));
}

#[test]
fn a_survivor_recovers_before_it_starts() {
    let cluster = small();
    let begin = Begin::Recover {
        member_id: 0xabc.into(),
        cluster_id: 0xdef.into(),
    };
    compare(
        "pod-recover.yaml",
        &pod(
            &cluster,
            &member(&cluster, 2),
            &settings("{loopback}"),
            &begin,
            true,
        ),
    );
}

#[test]
fn services_name_members_and_lead_clients() {
    compare("service-peers.yaml", &peer_service(&small()));
    compare("service-clients.yaml", &client_service(&small()));
    compare("budget.yaml", &budget(&small(), 2));
}

/// What differs from one Pod of a revision to the next is not part of the revision, and the other way round.
#[test]
fn a_pod_says_its_revision() {
    let cluster = small();
    let label = |begin: &Begin| {
        let pod = pod(&cluster, &member(&cluster, 0), &settings(DNS), begin, true);
        pod.metadata.labels.expect("labels")[manifests::REVISION_LABEL].clone()
    };
    let joins = Begin::Existing {
        members: Vec::new(),
        membership: None,
    };
    assert_eq!(label(&Begin::New), label(&joins));
    assert_eq!(
        label(&Begin::New),
        manifests::revision(&template(&cluster.spec))
    );
}

/// An owner reference that blocks its owner's deletion takes a right on `*/finalizers`, which the table does not
/// grant.
#[test]
fn no_owner_is_held_by_what_it_owns() {
    let cluster = small();
    let one = member(&cluster, 0);
    let pod = pod(&cluster, &one, &settings(DNS), &Begin::New, true);
    let owned = [
        one.metadata,
        pod.metadata,
        peer_service(&cluster).metadata,
        client_service(&cluster).metadata,
        budget(&cluster, 2).metadata,
    ];
    for object in owned {
        let owners = object.owner_references.unwrap_or_default();
        assert_eq!(owners.len(), 1, "{:?}", object.name);
        assert_eq!(owners[0].controller, Some(true), "{:?}", object.name);
        assert_eq!(owners[0].block_owner_deletion, None, "{:?}", object.name);
    }
}

/// A panel of a figure that nobody serves any more would stay empty, and nobody would know why.
#[test]
fn the_dashboard_shows_figures_that_are_served() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let text = fs::read_to_string(workspace.join("charts/quorate-operator/files/dashboard.json"))
        .expect("a file of the workspace");
    let mut sources = String::new();
    for folder in [
        "node/crates/server/src",
        "node/crates/rpc/src",
        "operator/src",
    ] {
        for entry in fs::read_dir(workspace.join(folder)).expect("a folder of the workspace") {
            let path = entry.expect("a folder of the workspace").path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&fs::read_to_string(path).expect("a file of the workspace"));
            }
        }
    }
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let prefixes = ["etcd_", "grpc_server_", "process_", "quorate_operator_"];
    let mut seen = 0;
    for name in text
        .split(word)
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
    {
        let name = name.strip_suffix("_bucket").unwrap_or(name);
        assert!(
            sources.contains(&format!("\"{name}\"")),
            "nobody serves {name}"
        );
        seen += 1;
    }
    assert!(seen > 15, "only {seen} figures were found");
}
