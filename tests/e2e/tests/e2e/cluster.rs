//! Three members: ours alone, and one of ours among two of etcd.

use std::time::{Duration, Instant};

use testkit::{Cluster, Kind, Spec, eventually, left_out};

use crate::load::{Acknowledged, Load, assert_holds, read_all};

const MISSING: &str = "etcd or etcdctl is missing; run `make tools`";

#[test]
fn three_of_ours_survive_the_kill_of_each() {
    survive("three_of_ours", &[Kind::Quorate; 3]);
}

#[test]
fn one_of_ours_among_two_of_etcd_survives_the_kill_of_each() {
    survive("one_among_two", &[Kind::Etcd, Kind::Quorate, Kind::Etcd]);
}

#[test]
fn ours_takes_a_snapshot_of_etcd() {
    let kinds = [Kind::Etcd, Kind::Quorate, Kind::Etcd];
    snapshot("snapshot_from_etcd", &kinds, 1, "applied snapshot");
}

#[test]
fn etcd_takes_a_snapshot_of_ours() {
    // The two that stay are ours, so one of them leads and sends.
    let kinds = [Kind::Quorate, Kind::Etcd, Kind::Quorate];
    snapshot("snapshot_to_etcd", &kinds, 1, "applied snapshot");
}

/// A member that missed more than the log keeps gets the database, and says so.
fn snapshot(name: &str, kinds: &[Kind], behind: usize, words: &str) {
    let spec = Spec {
        kinds: kinds.to_vec(),
        flags: Vec::new(),
    }
    .flag("--snapshot-count=100")
    .flag("--snapshot-catchup-entries=50")
    .flag("--max-wals=1");
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out(name, MISSING);
    };
    let endpoints = cluster.endpoints();
    let load = Load::start(&endpoints, "k", 12);
    grow(&load, 300);
    cluster.members[behind].kill();
    grow(&load, 2000);
    let acknowledged = load.finish();
    cluster.members[behind].start();
    let behind = &cluster.members[behind];
    eventually("the snapshot", Duration::from_secs(20), || {
        if behind.log_text().contains(words) {
            Ok(())
        } else {
            Err("not in its log".to_owned())
        }
    });
    assert_holds(&read_all(&[behind.endpoint()], "k"), &acknowledged);
    assert_same_hash(&cluster);
}

/// A load of puts, deletes and txns while each member is killed and comes back; then all members hold the same.
fn survive(name: &str, kinds: &[Kind]) {
    let spec = Spec {
        kinds: kinds.to_vec(),
        flags: Vec::new(),
    }
    .flag("--snapshot-count=500")
    .flag("--snapshot-catchup-entries=200");
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out(name, MISSING);
    };
    let endpoints = cluster.endpoints();
    let load = Load::start(&endpoints, "k", 12);
    for index in 0..kinds.len() {
        grow(&load, 500);
        cluster.members[index].kill();
        grow(&load, 700);
        cluster.members[index].start();
    }
    let leader = cluster.leader();
    grow(&load, 300);
    cluster.members[leader].kill();
    grow(&load, 300);
    cluster.members[leader].start();
    let acknowledged = load.finish();

    for endpoint in &endpoints {
        assert_holds(
            &read_all(std::slice::from_ref(endpoint), "k"),
            &acknowledged,
        );
    }
    assert_same_hash(&cluster);
}

fn grow(load: &Load, by: u64) {
    let goal = load.count() + by;
    eventually("more writes", Duration::from_secs(60), || {
        match load.count() {
            count if count >= goal => Ok(()),
            count => Err(format!("{count} of {goal} acknowledged")),
        }
    });
}

/// HashKV of every member at the same revision.
fn assert_same_hash(cluster: &Cluster) {
    eventually("equal hashes", Duration::from_secs(20), || {
        let json = cluster.etcdctl().json(&["endpoint", "hashkv"]);
        let hashes: Vec<(u64, i64)> = json
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| {
                let hash = &one["HashKV"];
                (
                    hash["hash"].as_u64().unwrap_or_default(),
                    hash["header"]["revision"].as_i64().unwrap_or_default(),
                )
            })
            .collect();
        if hashes.len() == cluster.members.len() && hashes.windows(2).all(|pair| pair[0] == pair[1])
        {
            Ok(())
        } else {
            Err(format!("hash and revision: {hashes:?}"))
        }
    });
}

#[test]
fn promise_10_the_log_names_the_loaded_cluster() {
    // The learner is added before everybody has been connected for five seconds.
    let spec = Spec::of(Kind::Quorate, 3).flag("--strict-reconfig-check=false");
    let Some(cluster) = Cluster::start(&spec) else {
        return left_out("loaded_cluster", MISSING);
    };
    loaded_cluster_is_named(&cluster, |_| "--initial-cluster");

    // A joiner knows the cluster from its members, itself as the learner that it is; whoever is
    // started again knows it from its disk.
    let mut cluster = cluster;
    let joiner = cluster.add_place(Kind::Quorate, &[]);
    let urls = format!("--peer-urls={}", joiner.peer_url);
    let name = joiner.name.clone();
    cluster.members[0]
        .etcdctl()
        .ok(&["member", "add", &name, "--learner", &urls]);
    cluster.members[3].start();
    for index in [1, 2] {
        cluster.members[index].terminate();
        cluster.members[index].start();
    }
    loaded_cluster_is_named(&cluster, |index| match index {
        0 => "--initial-cluster",
        3 => "the members of the running cluster",
        _ => "the database",
    });
    let learner = format!("{name} learner {}", cluster.members[3].peer_url);
    for index in [1, 2] {
        let log = cluster.members[index].log_text();
        assert!(log.contains(&learner), "{learner:?} is not in:\n{log}");
    }
    // Its name came only with its first start.
    let learner = format!(" learner {}", cluster.members[3].peer_url);
    let log = cluster.members[3].log_text();
    assert!(log.contains(&learner), "{learner:?} is not in:\n{log}");
}

/// Each member says once who belongs to the cluster, and from where it knows.
fn loaded_cluster_is_named(cluster: &Cluster, source: impl Fn(usize) -> &'static str) {
    let list = cluster.members[0].etcdctl().json(&["member", "list"]);
    let ids: Vec<String> = list["members"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|member| Some(format!("{:x}", member["ID"].as_u64()?)))
        .collect();
    assert_eq!(ids.len(), cluster.members.len(), "{list}");
    for (index, member) in cluster.members.iter().enumerate() {
        let log = member.log_text();
        let mut lines = log.lines().filter(|line| line.contains("loaded cluster"));
        let line = lines.next();
        let line = line.unwrap_or_else(|| panic!("{} does not say it:\n{log}", member.name));
        assert_eq!(lines.next(), None, "said twice");
        let source = format!("\"source\":\"{}\"", source(index));
        assert!(line.contains(&source), "{source} is not in: {line}");
        // Who was there at the start of the others.
        if index == 0 && ids.len() > 3 {
            continue;
        }
        for id in &ids {
            assert!(line.contains(id), "{id} is not in: {line}");
        }
        for other in &cluster.members {
            assert!(
                line.contains(&other.name),
                "{} is not in: {line}",
                other.name
            );
            assert!(
                line.contains(&other.peer_url),
                "{} is not in: {line}",
                other.peer_url
            );
        }
    }
}

/// Open requests are finished: the stop does not wait for its grace to pass.
#[test]
fn a_member_that_is_told_to_stop_under_load_does_so_at_once_and_loses_nothing() {
    let Some(mut cluster) = Cluster::start(&Spec::of(Kind::Quorate, 3)) else {
        return left_out("stop_under_load", MISSING);
    };
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let mut acknowledged = Acknowledged::new();
    for index in [follower, leader] {
        let prefix = format!("k{index}");
        // All writers hang on the member that stops.
        let load = Load::start(&[cluster.members[index].endpoint()], &prefix, 40);
        grow(&load, 1000);
        let began = Instant::now();
        assert_eq!(cluster.members[index].terminate(), Some(0));
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(4),
            "member {index} took {took:?} to stop"
        );
        acknowledged.extend(load.finish());
        cluster.members[index].start();
    }
    for endpoint in cluster.endpoints() {
        assert_holds(&read_all(&[endpoint], "k"), &acknowledged);
    }
    assert_same_hash(&cluster);
}
