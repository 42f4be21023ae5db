//! What goes wrong, and what the operator does about it, or does not.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, STEP, condition, names, reasons, spec};
use crate::operator::{Operator, Options};
use crate::world::{World, whole, world};
use crate::writer::Writer;

/// UID of a member's claim.
fn claim_uid(cluster: &Cluster, member: &str) -> String {
    let name = format!("data-{member}");
    cluster
        .list("persistentvolumeclaims")
        .iter()
        .find(|claim| claim["metadata"]["name"] == name.as_str())
        .and_then(|claim| claim["metadata"]["uid"].as_str().map(str::to_owned))
        .unwrap_or_else(|| panic!("{member} has no claim"))
}

/// A member that does not lead.
fn follower(object: &Value) -> String {
    let leader = &object["status"]["leader"];
    object["status"]["members"]
        .as_array()
        .expect("members")
        .iter()
        .map(|member| member["name"].as_str().expect("text").to_owned())
        .find(|name| leader != name.as_str())
        .expect("of three, two follow")
}

fn three(world: &'static World, word: &str, spec: &Value) -> (Cluster, Operator, Value) {
    let cluster = Cluster::create(world, word, spec);
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until_ready(3, STEP * 2);
    (cluster, operator, object)
}

#[test]
fn a_lost_volume_is_replaced_by_a_new_member() {
    let Some(world) = world("a_lost_volume_is_replaced_by_a_new_member") else {
        return;
    };
    let (cluster, operator, object) = three(world, "lost", &spec(3));
    let lost = follower(&object);
    let before = cluster.member_list();
    let writer = Writer::start(world, &cluster);
    cluster.kubectl(&["delete", "pvc", &format!("data-{lost}"), "--wait=false"]);
    cluster.kubectl(&["delete", "pod", &lost, "--wait=false", "--grace-period=1"]);
    cluster.until("another member", STEP * 2, |_| {
        !cluster.members().contains(&lost)
    });
    cluster.until_ready(3, STEP * 2);
    let (_, voters) = writer.check(world, &cluster);
    Writer::assert_one_at_a_time(&voters);
    let after = cluster.member_list();
    assert!(!after.contains_key(&lost), "{after:?}");
    assert!(after.values().all(|(id, _)| *id != before[&lost].0));
    cluster.assert_tidy(3);
    assert_eq!(
        cluster.status()["replacements"].as_array().map(Vec::len),
        Some(1)
    );
    operator.assert_rights_suffice();
}

#[test]
fn an_emptied_disk_serves_nothing_and_is_replaced() {
    let Some(world) = world("an_emptied_disk_serves_nothing_and_is_replaced") else {
        return;
    };
    let (cluster, _operator, object) = three(world, "wiped", &spec(3));
    cluster.etcdctl().ok(&["put", "kept", "yes"]);
    // The first one: it was once told to begin a cluster.
    let first = cluster
        .list("quoratemembers")
        .iter()
        .find(|member| member["spec"]["bootstrap"] == true)
        .and_then(|member| member["metadata"]["name"].as_str().map(str::to_owned))
        .expect("one began");
    let id = object["status"]["clusterID"].clone();
    let uid = claim_uid(&cluster, &first);
    world.kubelet.empty_volume(&cluster.ns.name, &first, &uid);
    cluster.until("another member", STEP * 3, |_| {
        !cluster.members().contains(&first)
    });
    let object = cluster.until_ready(3, STEP * 2);
    assert_eq!(object["status"]["clusterID"], id);
    let said = cluster.etcdctl().ok(&["get", "kept", "--print-value-only"]);
    assert_eq!(said.trim(), "yes");
}

#[test]
fn with_a_voter_down_nothing_grows_until_it_is_back() {
    let Some(world) = world("with_a_voter_down_nothing_grows_until_it_is_back") else {
        return;
    };
    let mut wanted = spec(3);
    wanted["membership"]["replaceFailedAfter"] = json!("0s");
    let (cluster, operator, object) = three(world, "down", &wanted);
    let down = follower(&object);
    world.kubelet.stop(&cluster.ns.name, &down);
    cluster.until("a voter less", STEP, |object| {
        object["status"]["quorum"]["healthyVoters"] == 2
    });
    cluster.scale(5);
    let object = cluster.until("a refusal", STEP, |object| {
        object["status"]["blocked"]["reason"] == "QuorumUnsafe"
    });
    let why = object["status"]["blocked"]["message"]
        .as_str()
        .expect("text");
    assert!(why.contains(&down), "{why}");
    cluster.until_event("QuorumUnsafe");
    assert!(
        operator.metrics().contains("reason=\"QuorumUnsafe\""),
        "{}",
        operator.metrics()
    );
    // Looked at again and again, and still nothing.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(cluster.member_list().len(), 3);
    world.kubelet.let_run(&cluster.ns.name, &down);
    cluster.until_ready(5, STEP * 3);
    cluster.assert_tidy(5);
}

#[test]
fn with_the_quorum_lost_nothing_is_done() {
    let Some(world) = world("with_the_quorum_lost_nothing_is_done") else {
        return;
    };
    let (cluster, operator, object) = three(world, "noquorum", &spec(3));
    let survivor = object["status"]["leader"]
        .as_str()
        .expect("it leads")
        .to_owned();
    let others: Vec<String> = cluster
        .members()
        .into_iter()
        .filter(|name| *name != survivor)
        .collect();
    let uids = |cluster: &Cluster| {
        let mut all: Vec<String> = cluster
            .list("quoratemembers")
            .iter()
            .filter_map(|one| one["metadata"]["uid"].as_str().map(str::to_owned))
            .collect();
        all.sort();
        all
    };
    let before = uids(&cluster);
    for name in &others {
        let uid = claim_uid(&cluster, name);
        world.kubelet.empty_volume(&cluster.ns.name, name, &uid);
    }
    let object = cluster.until_waiting("QuorumLost", STEP);
    assert_eq!(condition(&object, "Available"), "False");
    assert_eq!(condition(&object, "Ready"), "False");
    let quiet = Duration::from_secs(if whole() { 120 } else { 8 });
    let since = Instant::now();
    std::thread::sleep(quiet);
    // Nothing but what it says about it.
    let changes: Vec<_> = operator
        .door
        .seen()
        .into_iter()
        .filter(|seen| seen.at > since && seen.is_change() && !seen.path.ends_with("/status"))
        .collect();
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(uids(&cluster), before);
    // And no member has begun a cluster of its own.
    for name in &others {
        let said = testkit::Etcdctl::new(&[format!("{}:2379", cluster.address(name))])
            .expect("looked for before")
            .run(&["--command-timeout=2s", "get", "any", "--consistency=s"]);
        assert!(!said.status.success(), "{name} serves an empty disk");
    }
}

#[test]
fn a_stranger_is_named_and_never_removed() {
    let Some(world) = world("a_stranger_is_named_and_never_removed") else {
        return;
    };
    let (cluster, operator, _) = three(world, "stranger", &spec(3));
    let etcdctl = cluster.etcdctl();
    let url = "http://127.99.88.77:2380";
    // A member is promoted after two seconds of health, and etcd's check asks five of a voter.
    testkit::eventually("somebody adds a member", STEP, || {
        let peer_urls = format!("--peer-urls={url}");
        let output = etcdctl.run(&["member", "add", "somebody", "--learner", &peer_urls]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or(said)
    });
    let stranger = etcdctl.json(&["member", "list"])["members"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|member| member["peerURLs"][0] == url)
        .and_then(|member| member["ID"].as_u64())
        .expect("it was added");
    cluster.scale(5);
    let object = cluster.until_waiting("UnknownMember", STEP);
    assert_eq!(condition(&object, "Stalled"), "True");
    assert!(object["status"]["waiting"].to_string().contains(url));
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(
        cluster.etcdctl().json(&["member", "list"])["members"]
            .as_array()
            .map(Vec::len),
        Some(4)
    );
    etcdctl.ok(&["member", "remove", &format!("{stranger:x}")]);
    cluster.until_ready(5, STEP * 3);
    assert!(
        reasons(&cluster.object())
            .iter()
            .all(|reason| reason != "UnknownMember")
    );
    operator.assert_rights_suffice();
}

#[test]
fn a_wrong_image_is_named_and_the_edit_that_mends_it_is_taken() {
    let Some(world) = world("a_wrong_image_is_named_and_the_edit_that_mends_it_is_taken") else {
        return;
    };
    let mut wanted = spec(1);
    wanted["image"]["repository"] = json!("registry.invalid/nothing");
    let cluster = Cluster::create(world, "image", &wanted);
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    // Before that its claim may not be bound yet, which is the same reason.
    cluster.until("the image's name", STEP, |object| {
        let said = object["status"]["waiting"].to_string();
        said.contains("MemberCannotStart") && said.contains("image")
    });
    cluster.patch(&json!({"image": {"repository": "registry.invalid/quorate"}}));
    cluster.until_ready(1, STEP);

    // The same for Pods that no node takes: room comes, and they go on.
    world.kubelet.set_room(&cluster.ns.name, false);
    cluster.scale(3);
    cluster.until("no room", STEP, |object| {
        object["status"]["waiting"].to_string().contains("no node")
    });
    world.kubelet.set_room(&cluster.ns.name, true);
    cluster.until_ready(3, STEP * 2);
    assert_eq!(names(&cluster.list("pods")).len(), 3);
}

#[test]
fn a_silent_node_is_not_gone() {
    let Some(world) = world("a_silent_node_is_not_gone") else {
        return;
    };
    let mut wanted = spec(3);
    wanted["membership"]["replaceFailedAfter"] = json!("0s");
    let (cluster, _operator, object) = three(world, "silent", &wanted);
    let away = follower(&object);
    let node = world
        .kubelet
        .node_of(&cluster.ns.name, &away)
        .expect("it runs");
    let before = cluster.members();
    world.kubelet.lose_node(&cluster.ns.name, &node);
    cluster.kubectl(&["delete", "pod", &away, "--wait=false", "--grace-period=1"]);
    cluster.until("one voter in doubt", STEP, |object| {
        object["status"]["quorum"]["healthyVoters"] == 2
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.members(), before);
    assert_eq!(names(&cluster.list("pods")).len(), 3);
    world.kubelet.find_node(&cluster.ns.name, &node);
    cluster.until_ready(3, STEP * 2);
    assert_eq!(cluster.members(), before);
}

#[test]
fn dead_members_go_first_and_the_healthy_stay() {
    let Some(world) = world("dead_members_go_first_and_the_healthy_stay") else {
        return;
    };
    let mut wanted = spec(5);
    wanted["membership"]["replaceFailedAfter"] = json!("0s");
    let cluster = Cluster::create(world, "dead", &wanted);
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until_ready(5, STEP * 4);
    let leader = object["status"]["leader"]
        .as_str()
        .expect("it leads")
        .to_owned();
    let dead: Vec<String> = cluster
        .members()
        .into_iter()
        .filter(|name| *name != leader)
        .take(2)
        .collect();
    for name in &dead {
        world.kubelet.stop(&cluster.ns.name, name);
    }
    cluster.until("two voters less", STEP, |object| {
        object["status"]["quorum"]["healthyVoters"] == 3
    });
    cluster.scale(3);
    cluster.until_ready(3, STEP * 2);
    let left = cluster.members();
    assert!(
        dead.iter().all(|name| !left.contains(name)),
        "{left:?} of which {dead:?} were dead"
    );
    cluster.assert_tidy(3);
}

#[test]
fn a_lost_quorum_is_recovered_from_the_named_survivor() {
    let Some(world) = world("a_lost_quorum_is_recovered_from_the_named_survivor") else {
        return;
    };
    let (cluster, _operator, object) = three(world, "recover", &spec(3));
    cluster.etcdctl().ok(&["put", "kept", "yes"]);
    let id = object["status"]["clusterID"]
        .as_str()
        .expect("text")
        .to_owned();
    let survivor = object["status"]["leader"]
        .as_str()
        .expect("it leads")
        .to_owned();
    for name in cluster.members().iter().filter(|name| **name != survivor) {
        let uid = claim_uid(&cluster, name);
        world.kubelet.empty_volume(&cluster.ns.name, name, &uid);
    }
    let object = cluster.until_waiting("QuorumLost", STEP);
    let why = object["status"]["waiting"].to_string();
    assert!(why.contains(&survivor), "{why}");
    // A wrong cluster is not recovered.
    let order = |value: &str| {
        let annotation = format!("quorate.dev/recover-from={value}");
        cluster.kubectl(&["annotate", "qc", "q", "--overwrite", &annotation]);
    };
    order(&format!("00000000000000ff/{survivor}"));
    cluster.until_waiting("RecoveryRefused", STEP);
    order(&format!("{id}/{survivor}/others-are-gone"));
    cluster.until("the order done", STEP * 3, |object| {
        object["status"]["recovery"]["count"] == 1
    });
    let object = cluster.until_ready(3, STEP * 4);
    assert_eq!(object["status"]["recovery"]["survivor"], survivor.as_str());
    assert!(object["metadata"]["annotations"]["quorate.dev/recover-from"].is_null());
    assert_eq!(
        cluster
            .etcdctl()
            .ok(&["get", "kept", "--print-value-only"])
            .trim(),
        "yes"
    );
    cluster.assert_tidy(3);
}

#[test]
fn a_full_quota_of_the_namespace_is_named_and_waited_for() {
    let Some(world) = world("a_full_quota_of_the_namespace_is_named_and_waited_for") else {
        return;
    };
    let cluster = Cluster::create(
        world,
        "quota",
        &json!({
            "replicas": 0, "version": env!("CARGO_PKG_VERSION"), "storage": {"size": "1Gi"},
            "image": {"repository": "registry.invalid/quorate"}, "membership": {"minHealthySeconds": 0},
        }),
    );
    let quota = |pods: u32| {
        world
            .apply(&json!({"apiVersion": "v1", "kind": "ResourceQuota",
                "metadata": {"name": "small", "namespace": cluster.ns.name},
                "spec": {"hard": {"pods": pods.to_string()}}}))
            .expect("a quota");
    };
    quota(1);
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.scale(3);
    let object = cluster.until_waiting("Refused", STEP * 2);
    assert!(
        object["status"]["waiting"]
            .to_string()
            .contains("exceeded quota")
    );
    quota(3);
    cluster.until_ready(3, STEP * 3);
}

#[test]
fn evictions_leave_a_quorum() {
    let Some(world) = world("evictions_leave_a_quorum") else {
        return;
    };
    let mut wanted = spec(3);
    wanted["membership"]["replaceFailedAfter"] = json!("0s");
    let (cluster, _operator, object) = three(world, "evict", &wanted);
    // By kubectl: the other client asks again and again until the budget lets it.
    let evict = |pod: &str| {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": pod, "namespace": cluster.ns.name}});
        let file = world.dir().join("eviction.json");
        std::fs::write(&file, body.to_string()).expect("the tests' own folder");
        let uri = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", cluster.ns.name);
        world
            .control
            .kubectl(&["create", "--raw", &uri, "-f", &file.display().to_string()])
    };
    let away = follower(&object);
    let leader = object["status"]["leader"]
        .as_str()
        .expect("it leads")
        .to_owned();
    testkit::eventually("the budget's count", STEP, || {
        let budgets = cluster.list("poddisruptionbudgets");
        if budgets[0]["status"]["disruptionsAllowed"] == 1 {
            Ok(())
        } else {
            Err(format!("{budgets:?}"))
        }
    });
    let node = world
        .kubelet
        .node_of(&cluster.ns.name, &away)
        .expect("it runs");
    evict(&away).expect("one may be lost");
    // Its node is drained, so it does not come back there at once: nobody hears of it.
    world.kubelet.lose_node(&cluster.ns.name, &node);
    let refused = evict(&leader).expect_err("a second one may not");
    assert!(refused.contains("disruption budget"), "{refused}");
    world.kubelet.find_node(&cluster.ns.name, &node);
    cluster.until_ready(3, STEP * 2);
}
