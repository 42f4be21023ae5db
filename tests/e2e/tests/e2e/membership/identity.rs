//! Who a member is: a removed one never comes back, an emptied disk does not vote twice, another
//! cluster's member is not let in. Each is refused in its own words, and leaves the disk as it was.

use std::time::{Duration, Instant};

use testkit::{Cluster, Kind, Member, Spec, eventually, left_out};

use super::{MISSING, id_of, verdict, wait_connected};

/// What a member says that must end by itself.
fn refusal(member: &mut Member) -> String {
    let code = eventually("a refusal", Duration::from_secs(20), || {
        member.exited().ok_or_else(|| "it runs".to_owned())
    });
    assert!(
        !code.success(),
        "the start was not refused:\n{}",
        member.log_text()
    );
    member.log_text()
}

#[test]
fn a_removed_member_ends_and_its_disk_never_starts_again() {
    let Some(mut cluster) = Cluster::start(&Spec::of(Kind::Quorate, 3)) else {
        return left_out("removed_member", MISSING);
    };
    wait_connected(&cluster);
    let etcdctl = cluster.members[0].etcdctl();
    let ids = [1, 2].map(|index| id_of(&etcdctl, &cluster.members[index].peer_url));

    // One that is down hears of its removal only from the others.
    cluster.members[2].kill();
    assert_eq!(verdict(&etcdctl, &["remove", &ids[1]]), "ok");
    for _ in 0..2 {
        cluster.members[2].spawn();
        let said = refusal(&mut cluster.members[2]);
        assert!(said.contains("says that this member was removed"), "{said}");
        assert!(
            said.contains("by the conf change at index"),
            "when is not said: {said}"
        );
        assert!(said.contains("data directory must be removed"), "{said}");
    }

    // One that runs applies its removal, ends, and its own disk says so from then on.
    assert_eq!(verdict(&etcdctl, &["remove", &ids[0]]), "ok");
    let said = refusal(&mut cluster.members[1]);
    assert!(said.contains("removed"), "{said}");
    cluster.members[1].spawn();
    let said = refusal(&mut cluster.members[1]);
    assert!(said.contains("removed"), "{said}");
    assert_eq!(super::ids(&etcdctl).len(), 1);
}

/// The leader removes itself, twice over: who asked is answered, the others go on at once, and the
/// one that is left of two hears that it is alone.
#[test]
fn a_leader_that_is_removed_answers_and_the_others_go_on() {
    let spec = Spec::of(Kind::Quorate, 3).flag("--strict-reconfig-check=false");
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out("removed_leader", MISSING);
    };
    for left in [2, 1] {
        let leader = cluster.leader();
        let etcdctl = cluster.members[leader].etcdctl();
        let id = id_of(&etcdctl, &cluster.members[leader].peer_url);
        assert_eq!(verdict(&etcdctl, &["remove", &id]), "ok");
        let said = refusal(&mut cluster.members[leader]);
        assert!(said.contains("removed"), "{said}");
        let next = cluster.leader();
        let etcdctl = cluster.members[next].etcdctl();
        etcdctl.ok(&["put", "still", "alive"]);
        assert_eq!(super::ids(&etcdctl).len(), left);
    }
}

#[test]
fn an_emptied_disk_does_not_vote_twice() {
    let Some(mut cluster) = Cluster::start(&Spec::of(Kind::Quorate, 3)) else {
        return left_out("emptied_disk", MISSING);
    };
    let member = &mut cluster.members[2];
    member.kill();
    std::fs::remove_dir_all(&member.data_dir).expect("the member's own directory");
    let new = member.flags.clone();
    let existing: Vec<String> = new
        .iter()
        .map(|flag| flag.replace("cluster-state=new", "cluster-state=existing"))
        .collect();
    assert_ne!(new, existing);
    for flags in [new, existing] {
        member.flags = flags;
        member.spawn();
        let said = refusal(member);
        assert!(said.contains("has already been bootstrapped"), "{said}");
        assert!(!member.data_dir.join("member").exists());
    }
}

/// Waits until the first two have not been dialled for a second: streams that are younger than
/// half of one are taken for those of a process that dials anew.
fn wait_settled(cluster: &Cluster) {
    let dialled = || {
        let logs = [0, 1].map(|index| cluster.members[index].log_text());
        logs.map(|log| log.matches("a peer opened its stream to us").count())
    };
    let (mut last, mut since) = (dialled(), Instant::now());
    eventually("streams that stay", Duration::from_secs(20), || {
        let now = dialled();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() >= Duration::from_secs(1) {
            Ok(())
        } else {
            Err(format!("{now:?} so far"))
        }
    });
}

/// A copy was started while its member was down; then the member comes back. The others see two
/// processes under one ID, and the one that came later stops.
#[test]
fn a_directory_that_was_copied_does_not_run_twice() {
    let Some(mut cluster) = Cluster::start(&Spec::of(Kind::Quorate, 3)) else {
        return left_out("copied_directory", MISSING);
    };
    let copy = cluster.add_place(Kind::Quorate, &[]).data_dir.clone();
    cluster.members[2].kill();
    crate::start::copy_directory(&cluster.members[2].data_dir, &copy);
    cluster.members[3].start();
    wait_settled(&cluster);
    cluster.members[2].spawn();
    let said = refusal(&mut cluster.members[2]);
    for words in [
        "another process runs as member",
        "it was here first and is still connected",
        "A member that runs twice could vote twice",
    ] {
        assert!(said.contains(words), "{words:?} is not in\n{said}");
    }
    let log = cluster.members[0].log_text() + &cluster.members[1].log_text();
    assert!(log.contains("two processes run as this member"), "{log}");
    // The one that was there goes on, and is not taken for a twin of the one that stopped.
    cluster.members[3].terminate();
    cluster.members[3].start();
    cluster.members[3].etcdctl().ok(&["put", "still", "alive"]);
}

#[test]
fn a_member_of_another_cluster_is_not_let_in() {
    let one = Cluster::start(&Spec::of(Kind::Quorate, 1));
    let (Some(one), Some(mut other)) = (one, Cluster::prepare(&Spec::of(Kind::Quorate, 1))) else {
        return left_out("another_cluster", MISSING);
    };
    // It names a running cluster that has never heard of it.
    let stranger = &mut other.members[0];
    for flag in &mut stranger.flags {
        if let Some(initial) = flag.strip_prefix("--initial-cluster=") {
            *flag = format!(
                "--initial-cluster={initial},one={}",
                one.members[0].peer_url
            );
        } else if flag.starts_with("--initial-cluster-state=") {
            "--initial-cluster-state=existing".clone_into(flag);
        }
    }
    stranger.spawn();
    let said = refusal(stranger);
    assert!(said.contains("has no member with the peer URLs"), "{said}");
    assert!(!stranger.data_dir.join("member").exists());
}

#[test]
fn learners_are_limited_caught_up_and_promoted() {
    let flags = ["--max-learners=2".to_owned()];
    let spec = Spec::of(Kind::Quorate, 1).flag(&flags[0]);
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out("learners", MISSING);
    };
    let etcdctl = cluster.members[0].etcdctl();
    for n in 190..200 {
        etcdctl_put(&cluster, n);
    }
    let learner = super::add_learner(&mut cluster, Kind::Quorate, &flags, 0);
    let add = |url: &str| {
        verdict(
            &etcdctl,
            &["add", "l", "--learner", &format!("--peer-urls={url}")],
        )
    };
    assert_eq!(add(super::NOBODY), "ok");
    assert_eq!(
        add("http://127.0.0.1:2"),
        "etcdserver: too many learner members in cluster"
    );
    // It caught up at once, and is trusted after two seconds of connection: the call waits.
    let id = id_of(&etcdctl, &cluster.members[learner].peer_url);
    eventually("the promotion", Duration::from_secs(20), || match verdict(
        &etcdctl,
        &["promote", &id],
    )
    .as_str()
    {
        "ok" => Ok(()),
        other if other.ends_with("in sync with leader") => Err(other.to_owned()),
        other => panic!("{other}"),
    });
    let waits = "waits until the learner has been connected long enough";
    assert!(cluster.members[0].log_text().contains(waits));
    let read = cluster.members[learner]
        .etcdctl()
        .ok(&["get", "k199", "--print-value-only"]);
    assert_eq!(read.trim_end(), "v");
}

fn etcdctl_put(cluster: &Cluster, n: usize) {
    cluster.members[0]
        .etcdctl()
        .ok(&["put", &format!("k{n}"), "v"]);
}
