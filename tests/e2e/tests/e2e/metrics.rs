//! What members of a cluster show at `/metrics`, beside etcd's: some series exist only there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use testkit::{Cluster, Kind, Spec, eventually, left_out};

use crate::api::wire::http1;
use crate::load::Load;

/// The text of a member.
pub fn of(endpoint: &str) -> String {
    http1(endpoint, "GET", "/metrics")
}

/// The sum of a metric's series; a histogram is named with its `_count` or `_sum`.
pub fn total(text: &str, name: &str) -> f64 {
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// Every metric with its type and the names of its labels. A metric without a series is none.
fn shape(texts: &[String]) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut shape = BTreeMap::new();
    for text in texts {
        let mut kind = ("", "");
        for line in text.lines() {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                kind = typed.split_once(' ').expect("a name and a type");
            } else if let Some((series, _)) = line.rsplit_once(' ')
                && series.starts_with(kind.0)
                && !kind.0.is_empty()
            {
                let labels = series.split_once('{').map_or("", |(_, labels)| labels);
                let labels = labels
                    .trim_end_matches('}')
                    .split("\",")
                    .filter_map(|label| label.split_once("=\""))
                    .map(|(name, _)| name.to_owned());
                let known: &mut (String, BTreeSet<String>) =
                    shape.entry(kind.0.to_owned()).or_default();
                kind.1.clone_into(&mut known.0);
                known.1.extend(labels);
            }
        }
    }
    shape
}

/// Three members, of which one gets a snapshot; the figures of all, once those of the snapshot
/// are among them.
fn after_a_snapshot(kind: Kind) -> Option<Vec<String>> {
    let spec = Spec::of(kind, 3)
        .flag("--snapshot-count=100")
        .flag("--snapshot-catchup-entries=50");
    let mut cluster = Cluster::start(&spec)?;
    let leader = cluster.leader();
    let behind = (leader + 1) % 3;
    cluster.members[behind].kill();
    let load = Load::start(&cluster.endpoints(), "k", 12);
    eventually("writes", Duration::from_secs(60), || match load.count() {
        count if count >= 600 => Ok(()),
        count => Err(format!("{count} writes")),
    });
    load.finish();
    cluster.members[behind].start();
    let etcdctl = cluster.members[behind].etcdctl();
    etcdctl.ok(&["get", "k", "--prefix", "--limit=1"]);
    Some(eventually("the figures", Duration::from_secs(20), || {
        let texts: Vec<String> = cluster.endpoints().iter().map(|one| of(one)).collect();
        let sum = |name: &str| texts.iter().map(|text| total(text, name)).sum::<f64>();
        let missing: Vec<&str> = [
            "etcd_network_snapshot_send_success",
            "etcd_network_snapshot_send_total_duration_seconds_count",
            "etcd_network_snapshot_receive_success",
            "etcd_network_snapshot_receive_total_duration_seconds_count",
            "etcd_network_peer_round_trip_time_seconds_count",
            "etcd_network_disconnected_peers_total",
            "etcd_network_peer_sent_failures_total",
            "etcd_disk_wal_write_bytes_total",
            "etcd_snap_db_fsync_duration_seconds_count",
            "etcd_snap_db_save_total_duration_seconds_count",
            "etcd_snap_fsync_duration_seconds_count",
        ]
        .into_iter()
        .filter(|name| sum(name) < 1.0)
        .collect();
        if missing.is_empty() {
            Ok(texts)
        } else {
            Err(format!("{missing:?} are 0"))
        }
    }))
}

/// Both members that got a snapshot, and those that sent one, show the same metrics.
#[test]
fn three_members_show_what_three_of_etcd_show_after_a_snapshot() {
    let (etcd, ours) = std::thread::scope(|scope| {
        let etcd = scope.spawn(|| after_a_snapshot(Kind::Etcd));
        let ours = scope.spawn(|| after_a_snapshot(Kind::Quorate));
        (
            etcd.join().expect("etcd's figures"),
            ours.join().expect("our figures"),
        )
    });
    let (Some(etcd), Some(ours)) = (etcd, ours) else {
        return left_out("metrics", "etcd or etcdctl is missing; run `make tools`");
    };
    let (etcd, ours) = (shape(&etcd), shape(&ours));
    assert!(etcd.contains_key("etcd_network_snapshot_receive_success"));
    let of_go = |name: &str| name.starts_with("go_") || name.starts_with("promhttp_");
    let missing: Vec<String> = etcd
        .iter()
        .filter(|(name, _)| !of_go(name))
        .filter(|(name, shape)| ours.get(*name) != Some(*shape))
        .map(|(name, shape)| format!("{name}: {shape:?}; ours: {:?}", ours.get(name)))
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
