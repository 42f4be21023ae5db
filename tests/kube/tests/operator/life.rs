//! A cluster's life when nothing goes wrong.

use std::time::Duration;

use serde_json::json;
use testkit::eventually;

use crate::cluster::{Cluster, STEP, condition, names, spec};
use crate::operator::{Operator, Options};
use crate::world::world;
use crate::writer::Writer;

#[test]
fn three_members_are_made_and_ready() {
    let Some(world) = world("three_members_are_made_and_ready") else {
        return;
    };
    let cluster = Cluster::create(world, "create", &spec(3));
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.kubectl(&["wait", "qc/q", "--for=condition=Ready", "--timeout=120s"]);
    let object = cluster.until_ready(3, STEP);
    cluster.assert_tidy(3);
    assert_eq!(object["status"]["quorum"]["tolerance"], 1);
    assert_eq!(object["status"]["replicas"], 3);
    // An Event follows the status that it is about.
    cluster.until_event("Ready");
    operator.assert_rights_suffice();

    // At rest nothing is written, and nothing is read but by watches that were there before.
    eventually("rest", Duration::from_secs(20), || {
        let before = operator.door.seen().len();
        std::thread::sleep(Duration::from_secs(3));
        let new = operator.door.seen().split_off(before);
        if new.is_empty() {
            Ok(())
        } else {
            Err(format!("{new:?}"))
        }
    });
}

#[test]
fn sizes_change_under_load_and_no_write_is_lost() {
    let Some(world) = world("sizes_change_under_load_and_no_write_is_lost") else {
        return;
    };
    let cluster = Cluster::create(world, "scale", &spec(1));
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.until_ready(1, STEP);
    let writer = Writer::start(world, &cluster);
    for (size, steps) in [(3, 2), (5, 2), (3, 2), (1, 2)] {
        cluster.scale(size);
        cluster.until_ready(size, STEP * steps);
        assert_eq!(cluster.members().len(), size as usize);
    }
    let (_, voters) = writer.check(world, &cluster);
    Writer::assert_one_at_a_time(&voters);
    assert_eq!(
        (voters.first(), voters.last(), voters.iter().max()),
        (Some(&1), Some(&1), Some(&5))
    );
    cluster.assert_tidy(1);
    operator.assert_rights_suffice();
}

#[test]
fn an_edit_in_the_middle_waits_and_is_taken() {
    let Some(world) = world("an_edit_in_the_middle_waits_and_is_taken") else {
        return;
    };
    let cluster = Cluster::create(world, "flip", &spec(3));
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.until_ready(3, STEP * 2);
    let flips = if crate::world::whole() { 120 } else { 6 };
    for flip in 0..flips {
        cluster.scale(if flip % 2 == 0 { 5 } else { 3 });
        let operations = cluster.status()["operation"].clone();
        assert!(
            operations.is_null()
                || operations["joining"]
                    .as_array()
                    .is_none_or(|all| all.len() <= 1)
        );
        std::thread::sleep(Duration::from_secs(1));
    }
    cluster.scale(3);
    cluster.until_ready(3, STEP * 3);
    cluster.assert_tidy(3);
}

#[test]
fn options_roll_one_by_one_and_the_leader_is_last() {
    let Some(world) = world("options_roll_one_by_one_and_the_leader_is_last") else {
        return;
    };
    let cluster = Cluster::create(world, "roll", &spec(3));
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
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
    let mut made: Vec<(String, String)> = cluster
        .list("pods")
        .iter()
        .map(|pod| {
            let text = |path: &str| {
                pod["metadata"][path]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            };
            (text("creationTimestamp"), text("name"))
        })
        .collect();
    made.sort();
    assert_eq!(made.last().map(|(_, name)| name), Some(&leader), "{made:?}");
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
    cluster.until("a hold on the deletion", STEP, |object| {
        condition(object, "DeletionBlocked") == "True"
    });
    assert_eq!(cluster.list("pods").len(), 3);
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
    let cluster = Cluster::create(world, "version", &spec(3));
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let object = cluster.until_ready(3, STEP * 2);
    let leader = object["status"]["leader"]
        .as_str()
        .expect("it leads")
        .to_owned();
    for refused in ["0.3.0", "0.0.9"] {
        cluster.patch(&json!({"version": refused}));
        cluster.until_waiting("UnsupportedVersionPath", STEP);
    }
    let writer = Writer::start(world, &cluster);
    cluster.patch(&json!({"version": "0.2.0"}));
    cluster.until("the new version", STEP * 3, |object| {
        object["status"]["version"] == "0.2.0" && condition(object, "VersionCurrent") == "True"
    });
    cluster.until_ready(3, STEP);
    let mut made: Vec<(String, String)> = cluster
        .list("pods")
        .iter()
        .map(|pod| {
            let text = |path: &str| {
                pod["metadata"][path]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            };
            (text("creationTimestamp"), text("name"))
        })
        .collect();
    made.sort();
    assert_eq!(made.last().map(|(_, name)| name), Some(&leader), "{made:?}");
    let (_, voters) = writer.check(world, &cluster);
    assert_eq!(voters, [3]);
}
