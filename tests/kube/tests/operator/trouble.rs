//! What goes wrong, and what the operator does about it, or does not.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, STEP, condition, names, reasons, spec};
use crate::operator::{Operator, Options};
use crate::plugin::{Person, complaint};
use crate::world::{World, whole, world};
use crate::writer::Writer;

mod damage;
mod others;

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
    let mut wanted = spec(3);
    wanted["membership"]["maxReplacementsPerHour"] = json!(1);
    let (cluster, operator, object) = three(world, "lost", &wanted);
    let lost = follower(&object);
    let before = cluster.member_list();
    let writer = Writer::start(world, &cluster);
    let lose = |member: &str| {
        cluster.kubectl(&["delete", "pvc", &format!("data-{member}"), "--wait=false"]);
        cluster.kubectl(&["delete", "pod", member, "--wait=false", "--grace-period=1"]);
    };
    lose(&lost);
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
    assert_same_data(&cluster);
    let replaced = |object: &Value| object["status"]["replacements"].as_array().map(Vec::len);
    let object = cluster.object();
    assert_eq!(replaced(&object), Some(1));
    // Once an hour is what the spec allows: the next one is only named.
    let next = follower(&object);
    lose(&next);
    let object = cluster.until_waiting("ReplacementsUsedUp", STEP);
    assert_eq!(replaced(&object), Some(1));
    assert!(cluster.member_list().contains_key(&next));
    operator.assert_rights_suffice();
}

/// Every member has the same history, by its hash.
fn assert_same_data(cluster: &Cluster) {
    testkit::eventually("the same hash everywhere", STEP, || {
        let said = cluster.etcdctl().json(&["endpoint", "hashkv"]);
        let hashes: Vec<String> = said
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| {
                let hash = &one["HashKV"];
                format!("{} at {}", hash["hash"], hash["hash_revision"])
            })
            .collect();
        let alike = hashes.windows(2).all(|pair| pair[0] == pair[1]);
        let all = hashes.len() > 1 && !said.to_string().contains("\"HashKV\":null");
        (alike && all).then_some(()).ok_or_else(|| said.to_string())
    });
}

#[test]
fn a_member_whose_volumes_node_is_gone_is_replaced() {
    let Some(world) = world("a_member_whose_volumes_node_is_gone_is_replaced") else {
        return;
    };
    let (cluster, mut operator, object) = three(world, "stranded", &spec(3));
    let n = cluster.ns.name.as_str();
    let lost = follower(&object);
    // A disk of a machine, as a provisioner of local volumes describes it.
    let node = format!("{n}-machine");
    let hostname = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
    for object in [
        json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node, "labels": {"kubernetes.io/hostname": node}}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": node}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "local": {"path": "/var/volumes/one"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}},
        }}),
    ] {
        world.apply(&object).expect("an administrator may");
    }
    let claim = format!("data-{lost}");
    let bound = json!({"spec": {"volumeName": node}}).to_string();
    cluster.kubectl(&["patch", "pvc", &claim, "-p", &bound]);
    let reads = |operator: &Operator| {
        operator.door.seen().into_iter().any(|seen| {
            seen.path.starts_with("/api/v1/nodes")
                || seen.path.starts_with("/api/v1/persistentvolumes")
        })
    };
    assert!(!reads(&operator), "nobody had a reason to ask for nodes");

    // The node takes no Pod, and is there.
    world.kubelet.keep_from_volume(n, &lost);
    cluster.kubectl(&["delete", "pod", &lost, "--wait=false", "--grace-period=1"]);
    let says = |words: &'static str| {
        cluster.until(words, STEP, |object| {
            object["status"]["waiting"].to_string().contains(words)
        })
    };
    let object = says("no node that its volume can be used on takes its pod");
    assert!(reads(&operator), "it looks before it says so");
    assert!(!reasons(&object).contains(&"ReplacementDue".to_owned()));

    // It is gone, and the operator may not see that.
    operator.assert_rights_suffice();
    operator.kill();
    let narrow = Options {
        narrow: true,
        ..Options::of(n)
    };
    let mut operator = Operator::start(world, &narrow);
    world.kubectl(&["delete", "node", &node]);
    let object = says("rbac.clusterReads");
    let why = reasons(&object);
    assert!(why.contains(&"Unreadable".to_owned()), "{why:?}");
    assert!(!why.contains(&"ReplacementDue".to_owned()), "{why:?}");
    assert!(cluster.members().contains(&lost));
    operator.kill();

    // It may.
    let operator = Operator::start(world, &Options::of(n));
    cluster.until("another member", STEP * 2, |_| {
        !cluster.members().contains(&lost)
    });
    cluster.until_ready(3, STEP * 2);
    cluster.assert_tidy(3);
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
    let itself = testkit::Etcdctl::new(&[format!("{}:2379", cluster.address(&first))])
        .expect("looked for before");
    world.kubelet.empty_volume(&cluster.ns.name, &first, &uid);
    cluster.until("another member", STEP * 3, |_| {
        // Asked all the while, without a quorum behind the answer.
        let said = itself.run(&["--command-timeout=1s", "get", "kept", "--consistency=s"]);
        assert!(!said.status.success(), "{first} serves an empty disk");
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
    let cluster = Cluster::behind_a_door(world, "noquorum", &spec(3));
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until_ready(3, STEP * 2);
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
    let quiet = std::env::var("QUORATE_OPERATOR_QUIET_S")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(if whole() { 120 } else { 8 });
    let quiet = Duration::from_secs(quiet);
    let since = Instant::now();
    std::thread::sleep(quiet);
    // Nothing but what it says about it, to the API server; and members were asked, and told nothing.
    let changes = operator.changes_since(since);
    assert!(changes.is_empty(), "{changes:?}");
    let calls = world.kubelet.calls(&cluster.ns.name).expect("just made");
    let calls: Vec<_> = calls
        .seen()
        .into_iter()
        .filter(|call| call.began > since)
        .collect();
    assert!(calls.is_empty(), "{calls:?}");
    assert!(
        operator
            .door
            .seen()
            .iter()
            .any(|seen| seen.at > since && !seen.is_to_the_api_server()),
        "it asks its members by this door"
    );
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
    // A member is promoted after two seconds of health, and etcd's check asks five of a voter.
    let add = |url: &str, more: &[&str]| -> String {
        let peer_urls = format!("--peer-urls={url}");
        let words = [&["member", "add", "somebody", &peer_urls][..], more].concat();
        testkit::eventually("somebody adds a member", STEP, || {
            let output = etcdctl.run(&words);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            output.status.success().then_some(()).ok_or(said)
        });
        let members = etcdctl.json(&["member", "list"]);
        let added = members["members"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|member| member["peerURLs"][0] == url)
            .and_then(|member| member["ID"].as_u64())
            .expect("it was added");
        format!("{added:x}")
    };
    let urls = ["http://127.99.88.77:2380", "http://127.99.88.78:2380"];
    // One that learns, and then one that votes.
    let learner = add(urls[0], &["--learner"]);
    cluster.scale(5);
    let object = cluster.until_waiting("UnknownMember", STEP);
    assert_eq!(condition(&object, "Stalled"), "True");
    assert!(object["status"]["waiting"].to_string().contains(urls[0]));
    let voter = add(urls[1], &[]);
    let named = |object: &Value| {
        let mut waiting = object["status"]["waiting"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        waiting.retain(|one| one["reason"] == "UnknownMember");
        urls.map(|url| {
            waiting
                .iter()
                .any(|one| one["message"].to_string().contains(url))
        })
    };
    cluster.until("both named", STEP, |object| named(object) == [true, true]);
    let since = Instant::now();
    operator.until_more_looks(3);
    let changes = operator.changes_since(since);
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(
        cluster.etcdctl().json(&["member", "list"])["members"]
            .as_array()
            .map(Vec::len),
        Some(5)
    );
    etcdctl.ok(&["member", "remove", &voter]);
    let object = cluster.until("one named", STEP, |object| named(object) == [true, false]);
    assert_eq!(condition(&object, "Stalled"), "True");
    etcdctl.ok(&["member", "remove", &learner]);
    let object = cluster.until_ready(5, STEP * 3);
    assert_eq!(named(&object), [false, false]);

    // One of ours that a person removes is made up for.
    let removed = follower(&object);
    let id = format!("{:x}", cluster.member_list()[&removed].0);
    testkit::eventually("somebody removes a member", STEP, || {
        let output = etcdctl.run(&["member", "remove", &id]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or(said)
    });
    cluster.until("another member", STEP * 2, |_| {
        !cluster.members().contains(&removed)
    });
    cluster.until_ready(5, STEP * 2);
    cluster.assert_tidy(5);
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
}

#[test]
fn a_wrong_image_stops_a_roll_at_its_first_member_until_it_is_mended() {
    let test = "a_wrong_image_stops_a_roll_at_its_first_member_until_it_is_mended";
    let Some(world) = world(test) else {
        return;
    };
    let mut wanted = spec(3);
    wanted["membership"]["replaceFailedAfter"] = json!("0s");
    let (cluster, operator, object) = three(world, "wrong", &wanted);
    let uids = || {
        let pods = cluster.list("pods");
        let mut uids: Vec<(String, String)> = names(&pods)
            .into_iter()
            .zip(pods.iter().map(|pod| pod["metadata"]["uid"].to_string()))
            .collect();
        uids.sort();
        uids
    };
    let before = uids();
    let leader = object["status"]["leader"]
        .as_str()
        .expect("it leads")
        .to_owned();
    cluster.patch(&json!({"image": {"repository": "registry.invalid/nothing"}}));
    let object = cluster.until("the image's name", STEP, |object| {
        let said = object["status"]["waiting"].to_string();
        said.contains("MemberCannotStart") && said.contains("image")
    });
    assert_eq!(condition(&object, "Available"), "True");
    operator.until_more_looks(3);
    let mut others = uids();
    others.retain(|pod| before.contains(pod));
    assert_eq!(others.len(), 2, "{others:?} of {before:?}");
    assert!(others.iter().any(|(name, _)| *name == leader));
    cluster.etcdctl().ok(&["put", "a", "1"]);
    cluster.patch(&json!({"image": {"repository": "registry.invalid/quorate"}}));
    cluster.until_ready(3, STEP * 2);
    // What it was before is what the others are: only the one is made again.
    let now = uids();
    assert!(others.iter().all(|pod| now.contains(pod)), "{now:?}");
    cluster.assert_tidy(3);
}

#[test]
fn pods_that_no_node_takes_are_named_and_waited_for() {
    let Some(world) = world("pods_that_no_node_takes_are_named_and_waited_for") else {
        return;
    };
    let cluster = Cluster::create(world, "room", &spec(1));
    world.kubelet.set_room(&cluster.ns.name, false);
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until("no room", STEP, |object| {
        object["status"]["waiting"].to_string().contains("no node")
    });
    assert_eq!(condition(&object, "Ready"), "False");
    world.kubelet.set_room(&cluster.ns.name, true);
    cluster.until_ready(1, STEP * 2);
    assert_eq!(names(&cluster.list("pods")).len(), 1);
}

#[test]
fn a_missing_storage_class_is_named_and_the_cluster_can_go() {
    let Some(world) = world("a_missing_storage_class_is_named_and_the_cluster_can_go") else {
        return;
    };
    let mut wanted = spec(3);
    // The stand-in serves every class but this one.
    wanted["storage"]["className"] = json!("missing");
    let cluster = Cluster::create(world, "class", &wanted);
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until("the claim", STEP, |object| {
        let said = object["status"]["waiting"].to_string();
        said.contains("MemberCannotStart") && said.contains("volume")
    });
    assert_eq!(condition(&object, "Ready"), "False");
    // One member waits for its volume; no other one is made meanwhile.
    assert_eq!(cluster.members().len(), 1);
    cluster.kubectl(&["delete", "qc", "q", "--wait=false"]);
    cluster.until("its end", STEP, Value::is_null);
    assert_eq!(names(&cluster.list("pods")).len(), 0);
}

#[test]
fn a_deletion_in_the_middle_of_growth_leaves_nothing() {
    let Some(world) = world("a_deletion_in_the_middle_of_growth_leaves_nothing") else {
        return;
    };
    let mut wanted = spec(3);
    wanted["storage"]["retention"] = json!("Delete");
    let cluster = Cluster::create(world, "gone", &wanted);
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.until("growth", STEP, |object| {
        object["status"]["quorum"]["learners"]
            .as_u64()
            .is_some_and(|learners| learners > 0)
    });
    // Against each other: more, fewer, none, and then the end.
    cluster.scale(5);
    cluster.scale(1);
    cluster.scale(0);
    cluster.kubectl(&["delete", "qc", "q", "--wait=false"]);
    cluster.until("its end", STEP, Value::is_null);
    testkit::eventually("nothing at all", STEP, || {
        let kinds = [
            "quoratemembers",
            "pods",
            "persistentvolumeclaims",
            "services",
        ];
        let left: Vec<String> = kinds
            .iter()
            .flat_map(|kind| names(&cluster.list(kind)))
            .collect();
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    });
    assert_eq!(world.kubelet.processes(&cluster.ns.name), []);
}

#[test]
fn a_silent_node_is_not_gone() {
    let Some(world) = world("a_silent_node_is_not_gone") else {
        return;
    };
    let mut wanted = spec(3);
    wanted["membership"]["replaceFailedAfter"] = json!("0s");
    let (cluster, operator, object) = three(world, "silent", &wanted);
    let n = cluster.ns.name.as_str();
    let away = follower(&object);
    let endpoint = format!("{}:2379", cluster.address(&away));
    let node = world.kubelet.node_of(n, &away).expect("it runs");
    let before = cluster.members();
    let cut = Instant::now();
    world.kubelet.cut_node(n, &node);
    cluster.kubectl(&["delete", "pod", &away, "--wait=false", "--grace-period=1"]);
    cluster.until("a node that is silent", STEP, |object| {
        object["status"]["waiting"]
            .to_string()
            .contains("its node is silent")
    });
    // It has told so, and looks again and again.
    operator.until_more_looks(2);
    let changes = operator.changes_since(cut);
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(cluster.members(), before);
    assert_eq!(names(&cluster.list("pods")).len(), 3);
    if !whole() {
        world.kubelet.find_node(n, &node);
        cluster.until_ready(3, STEP * 2);
        assert_eq!(cluster.members(), before);
        return;
    }

    // By the rule it is replaced after a time; its Pod is the node's.
    cluster.patch(&json!({"membership": {"replaceFailedAfter": "20s"}}));
    cluster.until("another member", STEP * 2, |_| {
        !cluster.members().contains(&away)
    });
    cluster.until_ready(3, STEP * 2);
    let pods = names(&cluster.list("pods"));
    assert!(pods.len() == 4 && pods.contains(&away), "{pods:?}");
    // It goes on before anybody hears of its node, and believes that it votes.
    let process = world
        .kubelet
        .processes(n)
        .into_iter()
        .find_map(|(name, process)| (name == away).then_some(process))
        .expect("it stands still");
    world.kubelet.signal(n, &away, libc::SIGCONT);
    let etcdctl = testkit::Etcdctl::new(&[endpoint]).expect("looked for before");
    testkit::eventually("the end of the old member", STEP, || {
        for words in [&["get", "a"][..], &["put", "a", "1"]] {
            let said = etcdctl.run(&[words, &["--command-timeout=1s"]].concat());
            assert!(!said.status.success(), "{away} serves: {said:?}");
        }
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // A process that has ended and that nobody has asked for is a zombie.
        let ended = stat.is_empty() || stat.contains(") Z ");
        ended.then_some(()).ok_or(stat)
    });
    world.kubelet.find_node(n, &node);
    cluster.assert_tidy(3);
    cluster.until_ready(3, STEP);
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
fn of_five_with_one_dead_that_one_goes_first_and_then_a_healthy_one() {
    let test = "of_five_with_one_dead_that_one_goes_first_and_then_a_healthy_one";
    let Some(world) = world(test) else {
        return;
    };
    let mut wanted = spec(5);
    wanted["membership"]["replaceFailedAfter"] = json!("0s");
    let cluster = Cluster::behind_a_door(world, "one-dead", &wanted);
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until_ready(5, STEP * 4);
    let dead = follower(&object);
    let id = cluster.member_list()[&dead].0;
    world.kubelet.stop(&cluster.ns.name, &dead);
    cluster.until("a voter less", STEP, |object| {
        object["status"]["quorum"]["healthyVoters"] == 4
    });
    cluster.scale(3);
    // As soon as one has left it is the dead one.
    cluster.until("four voters", STEP * 2, |object| {
        object["status"]["quorum"]["voters"]
            .as_u64()
            .is_some_and(|voters| voters < 5)
    });
    let left = cluster.member_list();
    assert!(left.values().all(|(other, _)| *other != id), "{left:?}");
    cluster.until_ready(3, STEP * 2);
    cluster.assert_tidy(3);
    let calls = world.kubelet.calls(&cluster.ns.name).expect("just made");
    calls.assert_one_at_a_time();
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
        cluster.kubectl(&["delete", "pvc", &format!("data-{name}"), "--wait=false"]);
        cluster.kubectl(&["delete", "pod", name, "--wait=false", "--grace-period=1"]);
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
    // By a person, who is shown what there is, and has to name what is meant.
    let person = Person::of(world, &cluster.ns.name);
    let words = ["quorate", "recover", "q", "--others-are-gone"];
    let output = person.type_in(&words, &format!("{survivor}\n00000000000000ff\n"));
    assert!(
        complaint(&output).contains("nothing was changed"),
        "{output:?}"
    );
    let output = person.type_in(&words, &format!("{survivor}\n{id}\n"));
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains(&format!("The least is lost with {survivor}.")),
        "{said}"
    );
    assert!(said.contains("unknown, it does not answer"), "{said}");
    assert!(said.contains("q is ready: 3 voters, 3 healthy"), "{said}");
    // The order is forgotten, so that the same words after another loss are another order.
    cluster.until("the order forgotten", STEP, |object| {
        object["status"]["recovery"]["order"].is_null()
    });
    let object = cluster.until_ready(3, STEP);
    assert_eq!(object["status"]["recovery"]["count"], 1);
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
    let quota = |pods| cluster.set_quota("pods", pods);
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
    let evict = |pod: &str| evict(&cluster, pod);
    let away = follower(&object);
    let leader = object["status"]["leader"]
        .as_str()
        .expect("it leads")
        .to_owned();
    until_allowed(&cluster, 1);
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

/// By kubectl: the other client asks again and again until the budget lets it.
fn evict(cluster: &Cluster, pod: &str) -> Result<String, String> {
    let (world, n) = (cluster.world(), cluster.ns.name.as_str());
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod, "namespace": n}});
    let file = world.dir().join(format!("eviction-{n}.json"));
    std::fs::write(&file, body.to_string()).expect("the tests' own folder");
    let uri = format!("/api/v1/namespaces/{n}/pods/{pod}/eviction");
    world
        .control
        .kubectl(&["create", "--raw", &uri, "-f", &file.display().to_string()])
}

/// Waits until the budget has seen the Pods, and lets so many go.
fn until_allowed(cluster: &Cluster, pods: u64) {
    testkit::eventually("the budget's count", STEP, || {
        let budgets = cluster.list("poddisruptionbudgets");
        let status = &budgets.first().cloned().unwrap_or_default()["status"];
        if status["disruptionsAllowed"] == pods {
            Ok(())
        } else {
            Err(format!("{budgets:?}"))
        }
    });
}

#[test]
fn one_or_two_voters_refuse_evictions_until_the_policy_lets_them_through() {
    let test = "one_or_two_voters_refuse_evictions_until_the_policy_lets_them_through";
    let Some(world) = world(test) else {
        return;
    };
    let mut wanted = spec(1);
    wanted["membership"]["allowEvenReplicas"] = json!(true);
    wanted["membership"]["replaceFailedAfter"] = json!("0s");
    let cluster = Cluster::create(world, "few", &wanted);
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    for voters in [1, 2] {
        cluster.scale(voters);
        let object = cluster.until_ready(voters, STEP * 2);
        let said = object["status"]["waiting"].to_string();
        assert!(
            said.contains("EvictionsRefused") && said.contains("spec.podDisruptionBudget"),
            "{said}"
        );
        until_allowed(&cluster, 0);
        for pod in cluster.members() {
            let refused = evict(&cluster, &pod).expect_err("each would be an outage");
            assert!(refused.contains("disruption budget"), "{refused}");
        }
    }
    cluster.patch(&json!({"podDisruptionBudget": {"withoutTolerance": "Allow"}}));
    let object = cluster.until("a word less", STEP, |object| {
        let said = object["status"]["waiting"].to_string();
        object["status"]["observedGeneration"] == object["metadata"]["generation"]
            && !said.contains("EvictionsRefused")
    });
    let away = follower(&object);
    let uid = || {
        let pods = cluster.list("pods");
        let pod = pods.iter().find(|pod| pod["metadata"]["name"] == *away);
        pod.map(|pod| pod["metadata"]["uid"].clone())
    };
    let before = uid();
    testkit::eventually("an eviction that is granted", STEP, || {
        evict(&cluster, &away)
    });
    cluster.until("another Pod", STEP, |_| {
        let now = uid();
        now.is_some() && now != before
    });
    cluster.until_ready(2, STEP * 2);
    cluster.assert_tidy(2);
    operator.assert_rights_suffice();

    if !whole() {
        return;
    }
    // While five voters come to be and one of them is down, the floor is three.
    cluster.scale(5);
    cluster.until("growth beyond three", STEP * 3, |object| {
        object["status"]["quorum"]["voters"]
            .as_u64()
            .is_some_and(|voters| voters > 3)
    });
    let object = cluster.object();
    let down = follower(&object);
    world.kubelet.stop(&cluster.ns.name, &down);
    cluster.until("a voter less", STEP, |object| {
        let quorum = &object["status"]["quorum"];
        quorum["healthyVoters"].as_u64() < quorum["voters"].as_u64()
    });
    // The status may say so of a new voter that settles; evictions are granted by what the budget has counted.
    testkit::eventually("a budget that has counted", STEP, || {
        let pods = cluster.list("pods");
        let is_ready = |pod: &&Value| {
            pod["metadata"]["labels"]["quorate.dev/voter"] == "true"
                && condition(pod, "Ready") == "True"
        };
        let ready: Vec<_> = pods.iter().filter(is_ready).cloned().collect();
        let ready = names(&ready);
        let counted = &cluster.list("poddisruptionbudgets")[0]["status"]["currentHealthy"];
        let knows = !ready.contains(&down) && *counted == ready.len();
        knows
            .then_some(())
            .ok_or_else(|| format!("{counted} counted, ready are {ready:?}"))
    });
    let budget = &cluster.list("poddisruptionbudgets")[0];
    assert_eq!(budget["spec"]["minAvailable"], 3);
    let refused = cluster
        .members()
        .iter()
        .filter(|name| **name != down)
        .filter_map(|name| evict(&cluster, name).err())
        .filter(|why| why.contains("disruption budget"))
        .count();
    assert!(refused >= 3, "{refused} were refused");
    cluster.etcdctl().ok(&["put", "a", "1"]);
    world.kubelet.let_run(&cluster.ns.name, &down);
    cluster.until_ready(5, STEP * 4);
    cluster.assert_tidy(5);
}
