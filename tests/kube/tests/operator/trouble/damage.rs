//! Stores that are full, and data that are damaged; the members are real.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use api::etcdserverpb as pb;
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use serde_json::json;
use tonic::transport::{Channel, Endpoint};

use super::{claim_uid, follower, three};
use crate::cluster::{Cluster, STEP, condition, spec};
use crate::operator::{Operator, Options};
use crate::world::{whole, world};

/// One value of the writes that fill a store; etcd takes requests of up to one and a half.
const MIB: usize = 1 << 20;

/// A connection to one of the members that are ready.
async fn connect(endpoint: String) -> Channel {
    Endpoint::from_shared(format!("http://{endpoint}"))
        .expect("an address")
        .connect()
        .await
        .expect("it is ready")
}

/// Writes one key anew; the revision before it stays.
fn put(cluster: &Cluster, endpoint: &str) -> Result<(), tonic::Status> {
    let request = pb::PutRequest {
        key: "one".into(),
        value: vec![b'x'; MIB].into(),
        ..pb::PutRequest::default()
    };
    cluster.world().wait(async {
        let channel = connect(endpoint.to_owned()).await;
        KvClient::new(channel).put(request).await.map(|_| ())
    })
}

/// Alarms as the members tell them.
fn alarms(cluster: &Cluster) -> String {
    cluster.etcdctl().ok(&["alarm", "list"]).trim().to_owned()
}

#[test]
fn a_full_store_is_made_room_in_and_takes_writes_again() {
    let Some(world) = world("a_full_store_is_made_room_in_and_takes_writes_again") else {
        return;
    };
    let mut wanted = spec(3);
    wanted["options"] = json!({"quotaBackendBytes": "16Mi"});
    let cluster = Cluster::behind_a_door(world, "full", &wanted);
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.until_ready(3, STEP * 2);
    let calls = world.kubelet.calls(&cluster.ns.name).expect("just made");
    let before = calls.seen().len();
    let endpoint = cluster.endpoints()[0].clone();
    let refused = (0..32)
        .find_map(|_| put(&cluster, &endpoint).err())
        .expect("32 MiB do not fit into 16");
    assert!(
        refused.message().contains("database space exceeded"),
        "{refused}"
    );
    // Only what was overwritten fills it: the operator makes room, and takes the alarm back when there is some.
    let done = testkit::eventually("the alarm taken back", STEP, || {
        let mut done = calls.seen().split_off(before);
        done.retain(|call| call.ok);
        match done.last() {
            Some(last) if last.name == "Alarm" => Ok(done),
            _ => {
                std::thread::sleep(std::time::Duration::from_millis(100));
                Err(format!("{done:#?} {}", cluster.status()["waiting"]))
            }
        }
    });
    let leader = cluster.status()["leader"]
        .as_str()
        .expect("it leads")
        .to_owned();
    let named: Vec<&str> = done.iter().map(|call| call.name.as_str()).collect();
    let first = named.iter().position(|name| *name == "Defragment");
    let compacted = named.iter().position(|name| *name == "Compact");
    assert!(compacted.is_some() && compacted < first, "{named:?}");
    let mut defragmented: Vec<&str> = done
        .iter()
        .filter(|call| call.name == "Defragment")
        .map(|call| call.to.as_str())
        .collect();
    assert_eq!(
        defragmented.last().copied(),
        Some(cluster.address(&leader).as_str()),
        "the leader is the last one: {done:#?}"
    );
    defragmented.sort_unstable();
    defragmented.dedup();
    assert_eq!(defragmented.len(), 3, "each was full: {done:#?}");
    let object = cluster.until_ready(3, STEP);
    assert_ne!(condition(&object, "AlarmRaised"), "True");
    assert_eq!(alarms(&cluster), "");
    for said in cluster
        .etcdctl()
        .json(&["endpoint", "status"])
        .as_array()
        .expect("a list")
    {
        let bytes = said["Status"]["dbSize"].as_u64().expect("a size");
        assert!(bytes < 8 * MIB as u64, "{said}");
    }
    for _ in 0..4 {
        put(&cluster, &endpoint).expect("there is room again");
    }
    operator.assert_rights_suffice();
}

/// The file of that name below a folder.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            find(&path, name)
        } else {
            (entry.file_name() == name).then_some(path)
        }
    })
}

/// The database of a member.
fn database_of(cluster: &Cluster, member: &str) -> PathBuf {
    let volume = cluster.world().kubelet.volume(&claim_uid(cluster, member));
    let database = find(&volume, "db").expect("a member has one");
    assert!(database.ends_with("member/snap/db"), "{database:?}");
    database
}

/// kill -9, and the process is gone.
fn stop(cluster: &Cluster, member: &str) {
    let (kubelet, n) = (&cluster.world().kubelet, cluster.ns.name.as_str());
    kubelet.stop(n, member);
    testkit::eventually("its end", STEP, || {
        let running = kubelet.processes(n);
        let ended = running.iter().all(|(name, _)| name != member);
        ended.then_some(()).ok_or_else(|| format!("{running:?}"))
    });
}

/// Where a value stands in a database.
fn places(database: &Path, value: &str) -> Vec<u64> {
    let bytes = fs::read(database).expect("the tests' own file");
    let windows = bytes.windows(value.len()).enumerate();
    windows
        .filter(|(_, window)| *window == value.as_bytes())
        .map(|(at, _)| at as u64)
        .collect()
}

/// Writes a value, and waits until the commit that brought it to a member's disk is over, of which the next one
/// tells.
fn put_and_commit(cluster: &Cluster, member: &str, value: &str) {
    let database = database_of(cluster, member);
    for (key, value) in [("kept", value), ("after", &format!("after {value}"))] {
        cluster.etcdctl().ok(&["put", key, value]);
        testkit::eventually("a commit", STEP, || {
            let found = places(&database, value);
            (!found.is_empty())
                .then_some(())
                .ok_or_else(|| "not there yet".to_owned())
        });
    }
}

/// Writes another value of the same length over one, wherever a page holds it. Pages have no checksum.
fn alter(cluster: &Cluster, member: &str, value: &str) {
    let database = database_of(cluster, member);
    let file = fs::File::options().write(true).open(&database);
    let file = file.expect("the tests' own file");
    let wrong = "?".repeat(value.len());
    for place in places(&database, value) {
        file.write_all_at(wrong.as_bytes(), place)
            .expect("the tests' own file");
    }
}

#[test]
fn members_that_differ_find_it_themselves_and_are_replaced() {
    let Some(world) = world("members_that_differ_find_it_themselves_and_are_replaced") else {
        return;
    };
    let (cluster, operator, object) = three(world, "differ", &spec(3));
    let n = cluster.ns.name.as_str();
    let value = |round: u32| format!("what everybody shall read, written in round {round}");
    let read = || {
        let said = cluster.etcdctl().ok(&["get", "kept", "--print-value-only"]);
        said.trim().to_owned()
    };

    // At a start: by the hashes of the others.
    let differs = follower(&object);
    put_and_commit(&cluster, &differs, &value(1));
    stop(&cluster, &differs);
    alter(&cluster, &differs, &value(1));
    world.kubelet.let_run(n, &differs);
    let object = cluster.until("a replacement", STEP, |object| {
        let operation = &object["status"]["operation"];
        operation["reason"] == "CrashLoop" && operation["member"] == differs.as_str()
    });
    let said = object["status"].to_string();
    assert!(said.contains("does not stay up"), "{said}");
    let log = world.kubelet.log(n, &differs);
    assert!(log.contains("found data inconsistency with peers"), "{log}");
    let object = cluster.until_ready(3, STEP * 2);
    assert!(!cluster.members().contains(&differs));
    assert_eq!(read(), value(1));
    super::assert_same_data(&cluster);
    operator.assert_rights_suffice();
    if !whole() {
        return;
    }

    // While it runs: by the hash of a compaction, for which the leader looks once a minute. At its start nobody
    // answers, so that it has nothing to compare with.
    let differs = follower(&object);
    put_and_commit(&cluster, &differs, &value(2));
    stop(&cluster, &differs);
    alter(&cluster, &differs, &value(2));
    let mut others = cluster.members();
    others.retain(|name| *name != differs);
    let signal = |signal| {
        for other in &others {
            world.kubelet.signal(n, other, signal);
        }
    };
    let passed = "initial corruption checking passed";
    let before = world.kubelet.log(n, &differs).matches(passed).count();
    signal(libc::SIGSTOP);
    world.kubelet.let_run(n, &differs);
    testkit::eventually("a check without an answer", STEP, || {
        let log = world.kubelet.log(n, &differs);
        let more = log.matches(passed).count() > before;
        more.then_some(()).ok_or(log)
    });
    signal(libc::SIGCONT);
    cluster.until_ready(3, STEP);
    let etcdctl = cluster.etcdctl();
    let revision = etcdctl.json(&["get", "kept"])["header"]["revision"].to_string();
    etcdctl.ok(&["compact", &revision]);
    cluster.until("a replacement", STEP * 3, |object| {
        let operation = &object["status"]["operation"];
        operation["reason"] == "Corrupt" && operation["member"] == differs.as_str()
    });
    cluster.until("another member", STEP * 2, |_| {
        !cluster.members().contains(&differs)
    });
    cluster.until_ready(3, STEP * 2);
    cluster.assert_tidy(3);
    assert_eq!(alarms(&cluster), "");
    assert_eq!(read(), value(2));
    super::assert_same_data(&cluster);
    operator.assert_rights_suffice();
}

#[test]
fn members_of_damaged_or_corrupt_data_are_replaced() {
    let Some(world) = world("members_of_damaged_or_corrupt_data_are_replaced") else {
        return;
    };
    let (cluster, operator, object) = three(world, "damage", &spec(3));
    let n = cluster.ns.name.as_str();
    cluster.etcdctl().ok(&["put", "kept", "yes"]);

    // Pages of the database are overwritten while it does not run.
    let damaged = follower(&object);
    let database = database_of(&cluster, &damaged);
    stop(&cluster, &damaged);
    fs::File::options()
        .write(true)
        .open(&database)
        .and_then(|mut file| file.write_all(&[0xa5; 16 << 10]))
        .expect("the tests' own file");
    world.kubelet.let_run(n, &damaged);
    cluster.until("a replacement", STEP, |object| {
        let operation = &object["status"]["operation"];
        operation["reason"] == "CrashLoop" && operation["member"] == damaged.as_str()
    });
    let said = world.kubelet.log(n, &damaged);
    let file = database.display().to_string();
    assert!(said.contains(&file), "it names the file: {said}");
    let object = cluster.until_ready(3, STEP * 2);
    assert!(!cluster.members().contains(&damaged));

    // A member's data are said to differ from those of the others.
    let corrupt = follower(&object);
    let raise = pb::AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: cluster.member_list()[&corrupt].0,
        alarm: pb::AlarmType::Corrupt.into(),
    };
    let endpoint = cluster.endpoints()[0].clone();
    world
        .wait(async {
            let channel = connect(endpoint).await;
            MaintenanceClient::new(channel).alarm(raise).await
        })
        .expect("anybody may raise it");
    cluster.until("a replacement", STEP, |object| {
        let operation = &object["status"]["operation"];
        operation["reason"] == "Corrupt" && operation["member"] == corrupt.as_str()
    });
    cluster.until("another member", STEP * 2, |_| {
        !cluster.members().contains(&corrupt)
    });
    cluster.until_ready(3, STEP * 2);
    cluster.assert_tidy(3);
    assert_eq!(alarms(&cluster), "");
    let etcdctl = cluster.etcdctl();
    assert_eq!(
        etcdctl.ok(&["get", "kept", "--print-value-only"]).trim(),
        "yes"
    );
    etcdctl.ok(&["put", "kept", "still"]);
    super::assert_same_data(&cluster);
    operator.assert_rights_suffice();
}
