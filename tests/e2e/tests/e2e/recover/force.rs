//! `--force-new-cluster`, ours and etcd's on copies of one disk.

use std::time::Duration;

use testkit::{Cluster, Kind, Spec, eventually, left_out};

use super::{MISSING, copy_dir, facts, move_to, set_flag};

/// A leader whose followers are dead has entries that cannot be committed. Both programs drop them, keep
/// all else, and remove the two others; each goes on with what the other left.
#[test]
fn force_new_cluster_makes_of_one_disk_what_etcd_makes() {
    for kind in [Kind::Quorate, Kind::Etcd] {
        // With and without a snapshot record in the log.
        let spec = match kind {
            Kind::Quorate => Spec::of(kind, 3).flag("--snapshot-count=20"),
            Kind::Etcd => Spec::of(kind, 3),
        };
        let Some(mut cluster) = Cluster::start(&spec) else {
            return left_out("force_new_cluster", MISSING);
        };
        compare(&mut cluster);
    }
}

fn compare(cluster: &mut Cluster) {
    let leader = cluster.leader();
    let etcdctl = cluster.members[leader].etcdctl();
    for key in 0..30 {
        etcdctl.ok(&["put", &format!("k{key}"), "v"]);
    }
    for other in (0..3).filter(|index| *index != leader) {
        cluster.members[other].kill();
    }
    let lost = etcdctl.run(&["--command-timeout=1s", "put", "uncommitted", "v"]);
    assert!(!lost.status.success());
    let dir = cluster.dir().to_owned();
    let member = &mut cluster.members[leader];
    member.kill();

    let original = member.data_dir.clone();
    let results: Vec<_> = [Kind::Etcd, Kind::Quorate]
        .map(|kind| {
            let copy = dir.join(format!("{kind:?}"));
            copy_dir(&original, &copy);
            move_to(member, &copy);
            member.kind = kind;
            set_flag(member, "force-new-cluster", "true");
            member.start();
            let found = facts(member);
            assert_eq!(found.0.as_array().map(Vec::len), Some(1), "{kind:?}");
            let keys =
                member
                    .etcdctl()
                    .ok(&["get", "", "--prefix", "--count-only", "-w", "fields"]);
            assert!(keys.contains("\"Count\" : 30"), "{kind:?}: {keys}");
            member.terminate();
            found
        })
        .into();
    assert_eq!(results[0], results[1], "etcd's, then ours");

    // Each goes on with what the other made, without the flag.
    member
        .flags
        .retain(|flag| !flag.starts_with("--force-new-cluster"));
    for (made, goes_on) in [(Kind::Etcd, Kind::Quorate), (Kind::Quorate, Kind::Etcd)] {
        move_to(member, &dir.join(format!("{made:?}")));
        member.kind = goes_on;
        member.start();
        assert_eq!(
            facts(member),
            results[0],
            "{goes_on:?} on what {made:?} made"
        );
        member.etcdctl().ok(&["put", "after", "v"]);
        member.terminate();
    }
}

/// Where etcd ends in a panic, since raft would be left without a voter, ours promotes the learner first.
#[test]
fn a_learners_disk_becomes_a_cluster_of_one_too() {
    let Some(mut cluster) = Cluster::start(&Spec::of(Kind::Quorate, 1)) else {
        return left_out("a_learners_disk", MISSING);
    };
    let etcdctl = cluster.members[0].etcdctl();
    etcdctl.ok(&["put", "k", "v"]);
    let learner = cluster.add_place(Kind::Quorate, &[]);
    let url = format!("--peer-urls={}", learner.peer_url);
    etcdctl.ok(&["member", "add", "m1", "--learner", &url]);
    cluster.members[1].start();
    let own = cluster.members[1].etcdctl();
    eventually("the learner's data", Duration::from_secs(20), || {
        let output = own.run(&["get", "k", "--consistency=s", "--print-value-only"]);
        let value = String::from_utf8_lossy(&output.stdout).into_owned();
        if value.trim() == "v" {
            Ok(())
        } else {
            Err(value)
        }
    });
    cluster.members[0].kill();
    let learner = &mut cluster.members[1];
    learner.kill();
    learner.flags.push("--force-new-cluster".to_owned());
    learner.start();
    let (members, _) = facts(learner);
    assert_eq!(members.as_array().map(Vec::len), Some(1));
    assert_eq!(members[0]["isLearner"], serde_json::Value::Null);
    own.ok(&["put", "after", "v"]);
}
