//! The check in a mixed cluster: while etcd leads, and while we lead.

use std::process::Command;
use std::time::Duration;

use testkit::{Cluster, Etcdctl, Kind, Spec, eventually, left_out};

use super::{
    MISSING, NOBODY, add_learner, assert_documented, documented_as, http_get, id_of, verdict,
    wait_connected,
};

/// Rows of the document that are produced here.
pub const HANGS: &str = "promote a learner that hangs, two of five voters dead";
pub const NOT_PROBED: &str = "promote a learner that an etcd's follower has not probed yet";
pub const JUST_BACK: &str = "add a voter beside one of five that has just come back";

const FATAL: &str = "a crash of";

/// Of five voters two are ours.
const ETCD: usize = 0;
const OURS: usize = 1;
const SECOND_DEAD: usize = 2;
const ALSO_OURS: usize = 3;
const DEAD: usize = 4;

fn five() -> Option<Cluster> {
    let mut kinds = vec![Kind::Etcd; 5];
    kinds[OURS] = Kind::Quorate;
    kinds[ALSO_OURS] = Kind::Quorate;
    let flags = Vec::new();
    let cluster = Cluster::start(&Spec { kinds, flags })?;
    wait_connected(&cluster);
    Some(cluster)
}

/// Five voters, one dead: etcd adds a voter, and a further crash becomes fatal; ours does not.
#[test]
fn among_etcds_a_step_is_judged_by_ours_whoever_leads() {
    let Some(mut cluster) = five() else {
        return left_out("membership_mixed", MISSING);
    };
    let ours = cluster.members[OURS].etcdctl();
    let etcd = cluster.members[ETCD].etcdctl();
    let url = format!("--peer-urls={NOBODY}");
    let add = ["add", "more", &url];
    cluster.members[DEAD].kill();

    lead(&cluster, ETCD);
    // We judge on our own view when the dead one has missed its last probe too.
    let said = verdict(&ours, &add);
    assert!(
        said.contains("desc = quorate: add a voter: refused"),
        "{said}"
    );
    assert!(
        said.contains("5 voters, 4 healthy, 3 needed, any one may crash"),
        "{said}"
    );
    assert_log(&cluster, OURS, "as follower: the leader is an etcd");
    stale(&cluster, ALSO_OURS);
    assert_judged(&cluster, ALSO_OURS, "refused", "expectation", false, 1);

    // What an etcd takes and we would not is the same to us when it is applied.
    assert_eq!(verdict(&etcd, &add), "ok");
    etcd.ok(&["put", "still", "alive"]);
    for index in [OURS, ALSO_OURS] {
        let list = |etcdctl: &Etcdctl| {
            etcdctl.json(&["member", "list", "--consistency=s"])["members"].clone()
        };
        let ours = cluster.members[index].etcdctl();
        eventually("the same members", Duration::from_secs(5), || {
            let (ours, etcds) = (list(&ours), list(&etcd));
            (ours == etcds)
                .then_some(())
                .ok_or(format!("{ours} and {etcds}"))
        });
        ours.ok(&["put", "six", "voters"]);
    }
    assert_eq!(verdict(&etcd, &["remove", &id_of(&etcd, NOBODY)]), "ok");

    lead(&cluster, OURS);
    // The etcd finds nothing wrong and forwards the change; we do not append it.
    timed_out(&etcd, &["add", "more", &url]);
    let forwarder = id_of(&etcd, &cluster.members[ETCD].peer_url);
    assert_log(&cluster, OURS, &format!("\"forwarded-by\":\"{forwarder}\""));
    for forwarded in [false, true] {
        assert_judged(
            &cluster,
            OURS,
            "refused",
            "crashes_become_fatal",
            forwarded,
            1,
        );
    }

    // One that has just come back is in doubt for five seconds more.
    cluster.members[DEAD].spawn();
    let said = eventually("a young connection", Duration::from_secs(20), || {
        let said = verdict(&ours, &add);
        assert!(said.contains("quorate: add a voter: refused"), "{said}");
        let young = said.contains("has been connected for");
        if young { Ok(said) } else { Err(said) }
    });
    assert_documented(&said, JUST_BACK);

    // What is safe goes through an etcd to our leader, and through us to an etcd.
    cluster.members[DEAD].kill();
    let dead = id_of(&etcd, &cluster.members[DEAD].peer_url);
    assert_eq!(verdict(&etcd, &["remove", &dead]), "ok");
    lead(&cluster, SECOND_DEAD);
    assert_eq!(verdict(&ours, &add), "ok");
    assert_eq!(verdict(&ours, &["remove", &id_of(&ours, NOBODY)]), "ok");
}

/// A learner is promoted both ways while all is well; beside two dead voters of five, an etcd that
/// follows us would promote it, and we do not.
#[test]
fn among_etcds_a_promotion_is_judged_by_ours_whoever_leads() {
    let Some(mut cluster) = five() else {
        return left_out("membership_mixed_promotion", MISSING);
    };
    let ours = cluster.members[OURS].etcdctl();
    let etcd = cluster.members[ETCD].etcdctl();

    // Asked at ours, an etcd leads; asked at an etcd, one of ours leads.
    for (leader, asked, kind) in [(ETCD, &ours, Kind::Quorate), (OURS, &etcd, Kind::Etcd)] {
        lead(&cluster, leader);
        let learner = add_learner(&mut cluster, kind, &[], ETCD);
        let id = id_of(asked, &cluster.members[learner].peer_url);
        promote(asked, &id);
        assert_log(&cluster, OURS, &format!("promote {id}: allowed"));
        assert_eq!(verdict(&etcd, &["remove", &id]), "ok");
        // The next one takes its place.
        let mut gone = cluster.members.pop().expect("the learner");
        gone.kill();
        std::fs::remove_dir_all(&gone.data_dir).expect("the test's own directory");
    }
    // What the etcd has sent to us as leader: an addition and a removal.
    assert_judged(&cluster, OURS, "allowed", "", true, 2);

    let learner = add_learner(&mut cluster, Kind::Quorate, &[], ETCD);
    let id = id_of(&ours, &cluster.members[learner].peer_url);
    // Until it has the log nobody would promote it: a voter is asked for, and not this one.
    wait_in_sync(&cluster, learner);
    for dead in [SECOND_DEAD, DEAD] {
        cluster.members[dead].kill();
    }
    lead(&cluster, OURS);
    let said = eventually("a refusal for the dead", Duration::from_secs(20), || {
        let said = verdict(&ours, &["promote", &id]);
        assert_ne!(said, "ok");
        if said.contains(FATAL) {
            Ok(said)
        } else {
            Err(said)
        }
    });
    assert!(said.contains("5 voters, 3 healthy, 3 needed"), "{said}");
    let before = judged(&cluster, OURS, "refused", "crashes_become_fatal", false);
    let output = etcd.run(&["--command-timeout=2s", "member", "promote", &id]);
    assert!(!output.status.success(), "our leader let it through");
    // It came in on the peer port, and was judged by the leader like any other.
    let after = judged(&cluster, OURS, "refused", "crashes_become_fatal", false);
    assert!(after > before, "{before} before, {after} after");
    assert_log(&cluster, OURS, "as leader");

    // A learner that hangs is still connected.
    let pid = cluster.members[learner].pid().expect("it runs").to_string();
    let stopped = Command::new("kill").args(["-STOP", &pid]).status();
    assert!(stopped.is_ok_and(|status| status.success()));
    let said = eventually("a silence", Duration::from_secs(20), || {
        let said = verdict(&ours, &["promote", &id]);
        assert_ne!(said, "ok");
        let silent = said.contains("was last heard");
        if silent { Ok(said) } else { Err(said) }
    });
    assert_documented(&said, HANGS);
}

/// Asks until the learner has enough of the log.
fn promote(etcdctl: &Etcdctl, id: &str) {
    eventually("the promotion", Duration::from_secs(20), || {
        let said = verdict(etcdctl, &["promote", id]);
        let early =
            said.ends_with("in sync with leader") || documented_as(&said, NOT_PROBED).is_ok();
        match said.as_str() {
            "ok" => Ok(()),
            _ if early => Err(said),
            _ => panic!("{said}"),
        }
    });
}

fn wait_in_sync(cluster: &Cluster, learner: usize) {
    let applied = |index: usize| {
        let json = cluster.members[index]
            .etcdctl()
            .json(&["endpoint", "status"]);
        json[0]["Status"]["raftAppliedIndex"].as_u64().unwrap_or(0)
    };
    eventually("the learner's log", Duration::from_secs(20), || {
        let (has, all) = (applied(learner), applied(OURS));
        (has == all).then_some(()).ok_or(format!("{has} of {all}"))
    });
}

/// A call for another membership than there is.
fn stale(cluster: &Cluster, index: usize) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let said = runtime.block_on(super::digest::add_expecting(
        &cluster.members[index],
        "0123456789abcdef",
    ));
    let said = said.expect_err("it is stale");
    assert_eq!(said.code(), tonic::Code::FailedPrecondition, "{said:?}");
    assert_documented(said.message(), "a membership that is expected and is not");
}

/// The caller of an etcd whose change was not appended hears nothing.
fn timed_out(etcdctl: &Etcdctl, arguments: &[&str]) {
    let output = etcdctl.run(&[&["--command-timeout=2s", "member"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    // etcdctl's or etcd's, whichever runs out first.
    let timed_out = ["context deadline exceeded", "etcdserver: request timed out"];
    assert!(timed_out.iter().any(|text| said.contains(text)), "{said}");
}

fn judged(cluster: &Cluster, index: usize, answer: &str, reason: &str, forwarded: bool) -> u64 {
    let metrics = http_get(&cluster.members[index].endpoint(), "/metrics");
    let name = format!(
        "quorate_membership_steps_judged_total{{answer=\"{answer}\",reason=\"{reason}\",forwarded=\"{forwarded}\"}} "
    );
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    let value = value.and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("{name} is not in\n{metrics}"))
}

fn assert_judged(
    cluster: &Cluster,
    index: usize,
    answer: &str,
    reason: &str,
    forwarded: bool,
    expected: u64,
) {
    let counted = judged(cluster, index, answer, reason, forwarded);
    assert_eq!(counted, expected, "{answer} {reason} {forwarded}");
}

fn assert_log(cluster: &Cluster, index: usize, words: &str) {
    let log = cluster.members[index].log_text();
    assert!(log.contains(words), "{words:?} is not in the log:\n{log}");
}

fn lead(cluster: &Cluster, index: usize) {
    eventually("the lead", Duration::from_secs(20), || {
        let leader = cluster.leader();
        if leader == index {
            return Ok(());
        }
        let etcdctl = cluster.members[leader].etcdctl();
        let id = id_of(&etcdctl, &cluster.members[index].peer_url);
        let output = etcdctl.run(&["move-leader", &id]);
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    });
}
