//! The check in a mixed cluster: while etcd leads, and while we lead.

use std::time::Duration;

use testkit::{Cluster, Kind, Spec, eventually, left_out};

use super::{MISSING, NOBODY, id_of, verdict, wait_connected};

/// Five voters, one dead: etcd adds a voter, and a further crash becomes fatal; ours does not.
#[test]
fn among_etcds_a_step_is_judged_by_ours_whoever_leads() {
    const OURS: usize = 1;
    const DEAD: usize = 4;
    let kinds = [
        Kind::Etcd,
        Kind::Quorate,
        Kind::Etcd,
        Kind::Etcd,
        Kind::Etcd,
    ];
    let spec = Spec {
        kinds: kinds.to_vec(),
        flags: Vec::new(),
    };
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out("membership_mixed", MISSING);
    };
    wait_connected(&cluster);
    cluster.members[DEAD].kill();
    let add = ["add", "more", &format!("--peer-urls={NOBODY}")];

    lead(&cluster, 0);
    // We judge on our own view when the dead one has missed its last probe too.
    let said = verdict(&cluster.members[OURS].etcdctl(), &add);
    assert!(
        said.contains("desc = quorate: add a voter: refused"),
        "{said}"
    );
    assert!(
        said.contains("5 voters, 4 healthy, 3 needed, any one may crash"),
        "{said}"
    );
    assert_log(&cluster, OURS, "as follower: the leader is an etcd");

    lead(&cluster, OURS);
    // The etcd finds nothing wrong and forwards the change; we do not append it.
    let said = verdict(&cluster.members[0].etcdctl(), &add);
    // A time-out, etcdctl's or etcd's, whichever runs out first.
    let timed_out = ["context deadline exceeded", "etcdserver: request timed out"];
    assert!(timed_out.iter().any(|text| said.contains(text)), "{said}");
    let forwarder = id_of(&cluster.members[0].etcdctl(), &cluster.members[0].peer_url);
    assert_log(&cluster, OURS, &format!("\"forwarded-by\":\"{forwarder}\""));
    let metrics = super::http_get(&cluster.members[OURS].endpoint(), "/metrics");
    let refused = "quorate_membership_steps_judged_total{answer=\"refused\"} 2";
    assert!(metrics.contains(refused), "{refused} is not in\n{metrics}");

    // What is safe goes through an etcd to our leader, and through us to an etcd.
    let etcdctl = cluster.members[0].etcdctl();
    let dead = id_of(&etcdctl, &cluster.members[DEAD].peer_url);
    assert_eq!(verdict(&etcdctl, &["remove", &dead]), "ok");
    lead(&cluster, 2);
    let etcdctl = cluster.members[OURS].etcdctl();
    assert_eq!(verdict(&etcdctl, &add), "ok");
    assert_eq!(
        verdict(&etcdctl, &["remove", &id_of(&etcdctl, NOBODY)]),
        "ok"
    );
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
