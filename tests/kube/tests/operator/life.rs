//! A cluster's life when nothing goes wrong.

use std::time::Duration;

use serde_json::json;
use testkit::eventually;

use crate::cluster::{Cluster, STEP, condition, names, reasons, spec};
use crate::operator::{Operator, Options};
use crate::world::{World, whole, world};
use crate::writer::Writer;

#[test]
fn three_members_are_made_and_ready() {
    let Some(world) = world("three_members_are_made_and_ready") else {
        return;
    };
    let cluster = Cluster::behind_a_door(world, "create", &spec(3));
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.kubectl(&["wait", "qc/q", "--for=condition=Ready", "--timeout=120s"]);
    let object = cluster.until_ready(3, STEP);
    // kstatus, which Flux, Argo CD and `kubectl wait` go by, says the same.
    for kind in ["Reconciling", "Stalled"] {
        assert_ne!(condition(&object, kind), "True", "{kind}");
    }
    let calls = world.kubelet.calls(&cluster.ns.name).expect("just made");
    calls.assert_one_at_a_time();
    let joined = calls.seen();
    let promoted = joined
        .iter()
        .filter(|call| call.ok && call.name == "MemberPromote");
    assert_eq!(promoted.count(), 2, "{joined:?}");
    cluster.assert_tidy(3);
    assert_eq!(object["status"]["quorum"]["tolerance"], 1);
    assert_eq!(object["status"]["replicas"], 3);
    // An Event follows the status that it is about.
    cluster.until_event("Ready");
    operator.assert_rights_suffice();

    // At rest nothing is written, and nothing is read but by watches that were there before.
    let news_within = |span: Duration| {
        let before = operator.door.seen().len();
        std::thread::sleep(span);
        let news = operator.door.seen().split_off(before).into_iter();
        let news: Vec<_> = news
            .filter(|seen| seen.is_to_the_api_server() && !seen.is_watch)
            .collect();
        if news.is_empty() {
            Ok(())
        } else {
            Err(format!("{news:?}"))
        }
    };
    eventually("rest", Duration::from_secs(20), || {
        news_within(Duration::from_secs(3))
    });
    // At most one request a minute is none in a third of it, in which the operator looks at the members. Where
    // the machine is so busy that one of them did not answer in time, it says so; then the next span counts.
    eventually("a rest without requests", Duration::from_secs(120), || {
        let looks = operator.looks();
        news_within(Duration::from_secs(20))?;
        if operator.looks() > looks {
            Ok(())
        } else {
            Err("it has not looked at its members".to_owned())
        }
    });
}

#[test]
fn sizes_change_under_load_and_no_write_is_lost() {
    let Some(world) = world("sizes_change_under_load_and_no_write_is_lost") else {
        return;
    };
    let cluster = Cluster::behind_a_door(world, "scale", &spec(1));
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.until_ready(1, STEP);
    let writer = Writer::start(world, &cluster);
    let sizes: &[u32] = if whole() {
        &[3, 5, 7, 5, 3, 1]
    } else {
        &[3, 5, 3, 1]
    };
    for size in sizes.iter().copied() {
        cluster.scale(size);
        cluster.until_ready(size, STEP * 2);
        assert_eq!(cluster.members().len(), size as usize);
        let budget = &cluster.list("poddisruptionbudgets")[0];
        assert_eq!(budget["spec"]["minAvailable"], size / 2 + 1);
    }
    let (_, voters) = writer.check(world, &cluster);
    Writer::assert_one_at_a_time(&voters);
    assert_eq!(
        (voters.first(), voters.last(), voters.iter().max()),
        (
            Some(&1),
            Some(&1),
            sizes.iter().max().map(|most| *most as usize).as_ref()
        )
    );
    cluster.assert_tidy(1);
    // At each membership call too a quorum was well, and the budget kept it.
    let calls = world.kubelet.calls(&cluster.ns.name).expect("just made");
    calls.assert_one_at_a_time();
    operator.assert_rights_suffice();
}

#[test]
fn the_shipped_rights_suffice_from_the_first_day_to_the_last() {
    let test = "the_shipped_rights_suffice_from_the_first_day_to_the_last";
    let Some(world) = world(test) else {
        return;
    };
    let mut wanted = spec(1);
    wanted["storage"]["retention"] = json!("Delete");
    wanted["membership"]["acceptOutage"] = json!(true);
    let cluster = Cluster::create(world, "rights", &wanted);
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.until_ready(1, STEP);
    cluster.until_event("Ready");
    cluster.patch(&json!({"options": {"snapshotCount": 5000}}));
    cluster.until("the option on the member", STEP, |object| {
        condition(object, "VersionCurrent") == "True" && condition(object, "Ready") == "True"
    });
    cluster.scale(0);
    cluster.until("no Pods", STEP, |_| cluster.list("pods").is_empty());
    cluster.scale(1);
    cluster.until_ready(1, STEP);
    cluster.kubectl(&["delete", "qc", "q", "--wait=false"]);
    cluster.until("its end", STEP, serde_json::Value::is_null);
    operator.assert_rights_suffice();
    let seen = operator.door.seen();
    let stored = seen.iter().filter(|seen| {
        seen.method == http::Method::POST && seen.path.contains("/events") && seen.status == 201
    });
    assert!(stored.count() > 0, "no Event was stored: {seen:?}");
}

#[test]
fn a_retention_that_was_changed_holds_for_the_claims_that_are_there() {
    let test = "a_retention_that_was_changed_holds_for_the_claims_that_are_there";
    let Some(world) = world(test) else {
        return;
    };
    let mut wanted = spec(1);
    wanted["storage"]["retention"] = json!("Delete");
    let cluster = Cluster::create(world, "retain", &wanted);
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.until_ready(1, STEP);
    cluster.patch(&json!({"storage": {"retention": "Retain"}}));
    cluster.until_ready(1, STEP);
    cluster.kubectl(&["delete", "qc", "q", "--wait=false"]);
    cluster.until("its end", STEP, serde_json::Value::is_null);
    let claims = cluster.list("persistentvolumeclaims");
    assert_eq!(claims.len(), 1);
    // The garbage collector comes later than the end, and asks only who owns it.
    let claim = &claims[0]["metadata"];
    assert!(claim["ownerReferences"].is_null(), "{claim}");
    assert!(claim["deletionTimestamp"].is_null(), "{claim}");
}

#[test]
fn a_cluster_of_the_same_name_begins_anew_unless_it_is_told_to_adopt() {
    let test = "a_cluster_of_the_same_name_begins_anew_unless_it_is_told_to_adopt";
    let Some(world) = world(test) else {
        return;
    };
    let mut wanted = spec(1);
    let cluster = Cluster::behind_a_door(world, "anew", &wanted);
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let first = cluster.until_ready(1, STEP);
    cluster.etcdctl().ok(&["put", "kept", "yes"]);
    let claims = names(&cluster.list("persistentvolumeclaims"));
    let delete = || {
        cluster.kubectl(&["delete", "qc", "q", "--wait=false"]);
        cluster.until("its end", STEP, serde_json::Value::is_null);
        eventually("the end of its Pods", STEP, || {
            let left = names(&cluster.list("pods"));
            left.is_empty()
                .then_some(())
                .ok_or_else(|| format!("{left:?}"))
        });
    };
    delete();
    // Nobody is left to keep a quorum for: no member is removed from it.
    let calls = world.kubelet.calls(&cluster.ns.name).expect("just made");
    let seen = calls.seen();
    assert!(
        seen.iter().all(|call| call.name != "MemberRemove"),
        "{seen:?}"
    );
    assert_eq!(names(&cluster.list("persistentvolumeclaims")), claims);

    cluster.apply(&wanted);
    let second = cluster.until_ready(1, STEP);
    assert_ne!(second["status"]["clusterID"], first["status"]["clusterID"]);
    let kept = cluster.etcdctl().ok(&["get", "kept", "--print-value-only"]);
    assert_eq!(kept.trim(), "");
    let now = names(&cluster.list("persistentvolumeclaims"));
    assert!(now.len() == 2 && now.contains(&claims[0]), "{now:?}");

    // Only one of the two can be adopted.
    delete();
    let other = now.iter().find(|name| **name != claims[0]).expect("of two");
    cluster.kubectl(&["delete", "pvc", other]);
    wanted["bootstrap"] = json!({"adopt": true});
    cluster.apply(&wanted);
    let third = cluster.until_ready(1, STEP);
    assert_eq!(third["status"]["clusterID"], first["status"]["clusterID"]);
    let kept = cluster.etcdctl().ok(&["get", "kept", "--print-value-only"]);
    assert_eq!(kept.trim(), "yes");
}

#[test]
fn an_edit_in_the_middle_waits_and_is_taken() {
    let Some(world) = world("an_edit_in_the_middle_waits_and_is_taken") else {
        return;
    };
    let cluster = Cluster::behind_a_door(world, "flip", &spec(3));
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.until_ready(3, STEP * 2);
    let flips = if whole() { 120 } else { 6 };
    for flip in 0..flips {
        cluster.scale(if flip % 2 == 0 { 5 } else { 3 });
        let status = cluster.status();
        let operation = &status["operation"];
        let joining = operation["joining"].as_array().map_or(0, Vec::len);
        assert!(joining <= 1, "{operation}");
        let target = &status["target"]["replicas"];
        assert!(target == 3 || target == 5, "{target}");
        std::thread::sleep(Duration::from_secs(1));
    }
    cluster.scale(3);
    let object = cluster.until_ready(3, STEP * 3);
    assert_eq!(object["status"]["target"]["replicas"], 3);
    cluster.assert_tidy(3);
    let calls = world.kubelet.calls(&cluster.ns.name).expect("just made");
    calls.assert_one_at_a_time();
}

#[test]
fn options_roll_one_by_one_and_the_leader_is_last() {
    let Some(world) = world("options_roll_one_by_one_and_the_leader_is_last") else {
        return;
    };
    let cluster = Cluster::create(world, "roll", &spec(3));
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until_ready(3, STEP * 2);
    let leader = object["status"]["leader"]
        .as_str()
        .expect("it leads")
        .to_owned();
    let uids = |cluster: &Cluster| -> Vec<(String, String)> {
        cluster
            .list("pods")
            .iter()
            .map(|pod| {
                let text = |path: &str| {
                    pod["metadata"][path]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned()
                };
                (text("name"), text("uid"))
            })
            .collect()
    };
    let before = uids(&cluster);
    let writer = Writer::start(world, &cluster);
    cluster.patch(&json!({"options": {"snapshotCount": 5000}}));
    cluster.until("every Pod new", STEP * 3, |object| {
        let now = uids(&cluster);
        let new = |uid: &String| !before.iter().any(|(_, old)| old == uid);
        now.len() == 3
            && now.iter().all(|(_, uid)| new(uid))
            && condition(object, "VersionCurrent") == "True"
    });
    cluster.until_ready(3, STEP);
    let made = operator.pods_made();
    assert_eq!(made.last(), Some(&leader), "{made:?}");
    writer.check(world, &cluster);
    let args = cluster.list("pods")[0]["spec"]["containers"][0]["args"].to_string();
    assert!(args.contains("--snapshot-count=5000"), "{args}");
    assert_eq!(names(&cluster.list("pods")).len(), 3);
}

#[test]
fn it_sleeps_and_wakes_with_its_data() {
    let Some(world) = world("it_sleeps_and_wakes_with_its_data") else {
        return;
    };
    let cluster = Cluster::create(world, "sleep", &spec(3));
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until_ready(3, STEP * 2);
    cluster.etcdctl().ok(&["put", "kept", "yes"]);
    let id = object["status"]["clusterID"].clone();
    cluster.scale(0);
    cluster.until("no Pods", STEP, |_| cluster.list("pods").is_empty());
    assert_eq!(cluster.list("persistentvolumeclaims").len(), 3);
    assert_eq!(world.kubelet.processes(&cluster.ns.name), []);
    cluster.scale(3);
    let object = cluster.until_ready(3, STEP * 2);
    assert_eq!(object["status"]["clusterID"], id);
    let kept = cluster.etcdctl().ok(&["get", "kept", "--print-value-only"]);
    assert_eq!(kept.trim(), "yes");
}

#[test]
fn a_protected_cluster_stays_and_a_deleted_one_can_be_adopted() {
    let Some(world) = world("a_protected_cluster_stays_and_a_deleted_one_can_be_adopted") else {
        return;
    };
    let mut wanted = spec(3);
    wanted["deletionProtection"] = json!(true);
    let cluster = Cluster::create(world, "delete", &wanted);
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until_ready(3, STEP * 2);
    let id = object["status"]["clusterID"].clone();
    cluster.etcdctl().ok(&["put", "kept", "yes"]);

    cluster.kubectl(&["delete", "qc", "q", "--wait=false"]);
    let object = cluster.until("a hold on the deletion", STEP, |object| {
        condition(object, "DeletionBlocked") == "True"
    });
    let conditions = object["status"]["conditions"].to_string();
    assert!(conditions.contains("deletionProtection"), "{conditions}");
    // It serves on: a name that goes is made again, and a member's mark asks for nothing.
    cluster.kubectl(&["delete", "service", "q-peers"]);
    cluster.kubectl(&["delete", "qm", "q-1", "--wait=false"]);
    eventually("a Service that is back", STEP, || {
        let services = names(&cluster.list("services"));
        let back = services.iter().any(|name| name == "q-peers");
        back.then_some(()).ok_or(format!("{services:?}"))
    });
    assert_eq!(cluster.list("pods").len(), 3);
    assert!(cluster.member_list().contains_key("q-1"));
    assert_eq!(
        cluster
            .etcdctl()
            .ok(&["get", "kept", "--print-value-only"])
            .trim(),
        "yes"
    );

    cluster.patch(&json!({"deletionProtection": false}));
    cluster.until("its end", STEP, |object| object.is_null());
    eventually("nothing but the claims", STEP, || {
        let left = [
            cluster.members(),
            names(&cluster.list("pods")),
            names(&cluster.list("services")),
        ];
        if left.iter().all(Vec::is_empty) {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    assert_eq!(cluster.list("persistentvolumeclaims").len(), 3);

    // The same name again does not take the old data by itself.
    wanted["deletionProtection"] = json!(false);
    wanted["bootstrap"] = json!({"adopt": true});
    wanted["storage"]["retention"] = json!("Delete");
    cluster.apply(&wanted);
    let object = cluster.until_ready(3, STEP * 2);
    assert_eq!(object["status"]["clusterID"], id);
    assert_eq!(
        cluster
            .etcdctl()
            .ok(&["get", "kept", "--print-value-only"])
            .trim(),
        "yes"
    );

    // With retention Delete the data goes too.
    cluster.kubectl(&["delete", "qc", "q", "--wait=false"]);
    cluster.until("its end", STEP, |object| object.is_null());
    eventually("nothing at all", STEP, || {
        let left = names(&cluster.list("persistentvolumeclaims"));
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
}

#[test]
fn versions_go_up_one_by_one_and_not_down() {
    let Some(world) = world("versions_go_up_one_by_one_and_not_down") else {
        return;
    };
    // The same program under another name: what is tested is the way, not what is in the image.
    world.kubelet.add_image("quorate:0.2.0", testkit::quorate());
    let mut wanted = spec(3);
    wanted["membership"]["replaceFailedAfter"] = json!("0s");
    let cluster = Cluster::create(world, "version", &wanted);
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until_ready(3, STEP * 2);
    let leader = object["status"]["leader"]
        .as_str()
        .expect("it leads")
        .to_owned();
    for (refused, why) in [
        (
            "0.3.0",
            "version 0.3.0 cannot follow 0.1.0: one minor version at a time",
        ),
        ("0.0.9", "version 0.0.9 cannot follow 0.1.0: it is older"),
    ] {
        cluster.patch(&json!({"version": refused}));
        cluster.until(why, STEP, |object| {
            object["status"]["observedGeneration"] == object["metadata"]["generation"]
                && condition(object, "Stalled") == "True"
                && reasons(object).contains(&"UnsupportedVersionPath".to_owned())
                && object["status"]["waiting"].to_string().contains(why)
        });
    }
    // One is down anyway: it is the first. With it down no other one is touched.
    let mut others = cluster.members();
    others.retain(|name| *name != leader);
    let failed = others.first().expect("of three, two follow").clone();
    world.kubelet.stop(&cluster.ns.name, &failed);
    cluster.until("a voter less", STEP, |object| {
        object["status"]["quorum"]["healthyVoters"] == 2
    });
    let uids = || -> Vec<(String, String)> {
        let pods = cluster.list("pods");
        let uid = |pod: &serde_json::Value| pod["metadata"]["uid"].to_string();
        names(&pods).into_iter().zip(pods.iter().map(uid)).collect()
    };
    let before = uids();
    let downs = Downs::watch(world, &cluster);
    let writer = Writer::start(world, &cluster);
    cluster.patch(&json!({"version": "0.2.0"}));
    let changed = eventually("another Pod", STEP, || {
        let mut now = uids();
        now.retain(|pod| !before.contains(pod));
        if now.is_empty() {
            Err("the Pods are as before".to_owned())
        } else {
            Ok(now)
        }
    });
    assert!(
        changed.iter().all(|(name, _)| *name == failed),
        "{changed:?}"
    );
    world.kubelet.let_run(&cluster.ns.name, &failed);
    cluster.until("the new version", STEP * 3, |object| {
        object["status"]["version"] == "0.2.0"
    });
    // The last one counts too while it is down, with the version that it had.
    let made = operator.pods_made();
    assert_eq!(made.last(), Some(&leader), "{made:?}");
    cluster.until("everybody's version", STEP, |object| {
        condition(object, "VersionCurrent") == "True"
    });
    cluster.until_ready(3, STEP);
    let (_, voters) = writer.check(world, &cluster);
    assert_eq!(voters, [3]);
    assert_eq!(downs.most(), 1, "members that were down at the same time");
}

#[test]
fn while_paused_nothing_is_changed_and_the_status_goes_on() {
    let Some(world) = world("while_paused_nothing_is_changed_and_the_status_goes_on") else {
        return;
    };
    let cluster = Cluster::behind_a_door(world, "paused", &spec(1));
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.until_ready(1, STEP);
    cluster.patch(&json!({"paused": true}));
    let seen = |object: &serde_json::Value| {
        object["status"]["observedGeneration"] == object["metadata"]["generation"]
    };
    cluster.until("its notice", STEP, seen);
    let since = std::time::Instant::now();
    let only = cluster.members()[0].clone();
    cluster.patch(&json!({"replicas": 3, "options": {"snapshotCount": 5000}}));
    cluster.kubectl(&["delete", "pod", &only, "--wait=false", "--grace-period=1"]);
    // The only voter does not answer: how many there are cannot be read.
    cluster.until("a voter less", STEP, |object| {
        seen(object)
            && object["status"]["quorum"].is_null()
            && object["status"]["members"][0]["health"] == "Unknown"
            && condition(object, "Ready") == "False"
            && cluster.list("pods").is_empty()
    });
    operator.until_more_looks(3);
    let changes = operator.changes_since(since);
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(names(&cluster.list("pods")).len(), 0);
    cluster.patch(&json!({"paused": false, "replicas": 1, "options": {"snapshotCount": null}}));
    cluster.until_ready(1, STEP);
    assert_eq!(cluster.members(), [only]);
}

/// What is stored of an object of ours, and where.
fn stored(world: &World, kind: &str, cluster: &Cluster, name: &str) -> (String, serde_json::Value) {
    let key = format!("/registry/quorate.dev/{kind}/{}/{name}", cluster.ns.name);
    let text = world.store.ok(&["get", &key, "--print-value-only"]);
    let object =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{key}: {error}: {text}"));
    (key, object)
}

#[test]
fn objects_that_an_earlier_version_stored_are_taken_as_they_are() {
    let test = "objects_that_an_earlier_version_stored_are_taken_as_they_are";
    let Some(world) = world(test) else {
        return;
    };
    let cluster = Cluster::create(world, "older", &spec(3));
    let mut operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until_ready(3, STEP * 2);
    cluster.until_event("Ready");
    let uids = || {
        let mut uids: Vec<String> = cluster
            .list("pods")
            .iter()
            .map(|pod| pod["metadata"]["uid"].to_string())
            .collect();
        uids.sort();
        uids
    };
    // As often as each reason was news, with which name.
    let events = || {
        let mut events: Vec<String> = cluster
            .list("events")
            .iter()
            .map(|one| {
                format!(
                    "{} {} {}",
                    one["reason"], one["note"], one["series"]["count"]
                )
            })
            .collect();
        events.sort();
        events
    };
    let before = uids();
    let doubts = |events: &[String]| {
        let doubts = events.iter().filter(|one| one.contains("QuorumLost"));
        doubts.count()
    };

    // An operator that ends and begins anew has no news, and does not look before it has read everything. One whose
    // members were too busy to answer says that it is in doubt; then the one after that counts.
    eventually("a beginning without a doubt", STEP * 2, || {
        let told = events();
        operator.kill();
        operator = Operator::start(world, &Options::of(&cluster.ns.name));
        operator.until_it_looks();
        operator.until_looks(2);
        cluster.until_ready(3, STEP);
        let now = events();
        let blind = now.iter().find(|one| one.contains("of 0 voters"));
        assert!(blind.is_none(), "it looked before it had read: {blind:?}");
        if doubts(&now) > doubts(&told) {
            return Err(format!("{now:?}"));
        }
        assert_eq!(now, told);
        Ok(())
    });
    operator.kill();

    // Everything that need not be there and that a version before may not have known: of the specs what has a
    // default, of the statuses all but what the cluster's own record is.
    let record = [
        "clusterID",
        "clusterToken",
        "nextMember",
        "nextOperation",
        "target",
    ];
    let (key, mut old) = stored(world, "quorateclusters", &cluster, "q");
    let status = old["status"].as_object_mut().expect("it was written");
    status.retain(|name, _| record.contains(&name.as_str()));
    let spec = old["spec"].as_object_mut().expect("it has one");
    let optional = [
        "bootstrap",
        "deletionProtection",
        "options",
        "paused",
        "podDisruptionBudget",
        "podTemplate",
    ];
    spec.retain(|name, _| !optional.contains(&name.as_str()));
    world.store.ok(&["put", &key, &old.to_string()]);
    let mut members = cluster.members();
    members.sort();
    for member in &members {
        let (key, mut old) = stored(world, "quoratemembers", &cluster, member);
        old["status"] = json!({});
        let template = old["spec"]["template"].as_object_mut().expect("it has one");
        template.remove("options");
        template.remove("podTemplate");
        if let Some(image) = template["image"].as_object_mut() {
            image.remove("pullPolicy");
        }
        world.store.ok(&["put", &key, &old.to_string()]);
    }
    // The API server has heard of it.
    cluster.until("what is stored now", STEP, |object| {
        object["status"]["conditions"].is_null()
    });
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    operator.until_it_looks();
    let now = cluster.until_ready(3, STEP);
    operator.until_looks(3);
    assert_eq!(uids(), before, "no Pod was made again");
    for field in ["clusterID", "nextMember", "target", "version"] {
        assert_eq!(now["status"][field], object["status"][field], "{field}");
    }
    // And it is written whole again.
    for member in &members {
        let (_, whole) = stored(world, "quoratemembers", &cluster, member);
        assert!(whole["status"]["volumeUID"].is_string(), "{whole}");
        assert!(whole["status"]["memberID"].is_string(), "{whole}");
    }
    cluster.assert_tidy(3);
    operator.assert_rights_suffice();
}

/// Counts members that are down.
struct Downs {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Downs {
    fn watch(world: &'static World, cluster: &Cluster) -> Self {
        let stop = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
        let (namespace, ends) = (cluster.ns.name.clone(), std::sync::Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !ends.load(std::sync::atomic::Ordering::Relaxed) {
                let up = world.kubelet.processes(&namespace).len();
                most = most.max(3usize.saturating_sub(up));
                std::thread::sleep(Duration::from_millis(20));
            }
            most
        });
        Self { stop, thread }
    }

    /// The largest number of them until now.
    fn most(self) -> usize {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().expect("it only counts")
    }
}
