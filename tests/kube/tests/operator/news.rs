//! What an operator hears of the API server: old, in part, or not at all; and answers that are not what it hoped for.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, STEP, names, spec};
use crate::dice::Dice;
use crate::door::Seen;
use crate::operator::{Operator, Options};
use crate::world::{whole, world};

/// That every deletion named the object that it meant.
fn assert_deletions_name_their_object(seen: &[Seen]) {
    for one in seen.iter().filter(|one| one.method == http::Method::DELETE) {
        let body: Value = serde_json::from_slice(&one.body).unwrap_or_default();
        assert!(body["preconditions"]["uid"].is_string(), "{one:?}");
    }
}

#[test]
fn old_news_lead_to_no_wrong_act() {
    let Some(world) = world("old_news_lead_to_no_wrong_act") else {
        return;
    };
    let cluster = Cluster::create(world, "stale", &spec(3));
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    let before = cluster.until_ready(3, STEP * 2);
    // From now on the operator is told what was: Pods that are deleted are still there, and the other way round.
    // In whole runs the cluster's object is told as it is, so that nothing but the act itself holds it back.
    operator.door.lag(if whole() {
        &["/pods", "/quoratemembers", "/persistentvolumeclaims"]
    } else {
        &["/namespaces/"]
    });
    let members = cluster.members();
    let victim = members[0].clone();
    cluster.kubectl(&["delete", "pod", &victim, "--wait=true", "--timeout=40s"]);
    cluster.scale(5);
    std::thread::sleep(Duration::from_secs(if whole() { 30 } else { 5 }));
    operator.door.lag(&[]);
    cluster.until_ready(5, STEP * 3);
    assert_eq!(
        cluster.object()["status"]["clusterID"],
        before["status"]["clusterID"]
    );
    for member in &members {
        assert!(
            cluster.members().contains(member),
            "{member} was taken away"
        );
    }
    cluster.assert_tidy(5);
    assert_eq!(cluster.status()["nextMember"], 5, "a member was made twice");
    assert_deletions_name_their_object(&operator.door.seen());
}

#[test]
fn events_that_were_lost_are_made_up_for() {
    let Some(world) = world("events_that_were_lost_are_made_up_for") else {
        return;
    };
    let cluster = Cluster::create(world, "deaf", &spec(1));
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.until_ready(1, STEP);
    operator.door.deaf(true);
    // A size and back, a Pod that goes, and then what shall be: the operator hears of none of it.
    cluster.scale(5);
    cluster.scale(1);
    let only = cluster.members()[0].clone();
    cluster.kubectl(&["delete", "pod", &only, "--wait=true", "--timeout=40s"]);
    cluster.scale(3);
    operator.door.deaf(false);
    cluster.until_ready(3, STEP * 3);
    cluster.assert_tidy(3);
    assert!(cluster.members().contains(&only), "{only} was taken away");
    assert_eq!(cluster.status()["nextMember"], 3);
}

#[test]
fn conflicts_and_errors_of_the_api_server_cost_nothing_but_time() {
    let test = "conflicts_and_errors_of_the_api_server_cost_nothing_but_time";
    let Some(world) = world(test) else {
        return;
    };
    let seed = Dice::seed();
    eprintln!("{test}: QUORATE_SEED_FIRST={seed}");
    let goal = if whole() { 5 } else { 3 };
    let cluster = Cluster::behind_a_door(world, "errors", &spec(0));
    let operator = Operator::start(world, &Options::of(&cluster.ns.name));
    operator.door.trouble(Some(Dice::new(seed)));
    cluster.scale(goal);
    cluster.until_ready(goal, STEP * (2 + goal));
    if whole() {
        cluster.scale(3);
        cluster.until_ready(3, STEP * 4);
    }
    operator.door.trouble(None);
    cluster.assert_tidy(3);
    let seen = operator.door.seen();
    assert_deletions_name_their_object(&seen);
    let refused = operator.log().matches("so says the door").count();
    assert!(refused > 0, "nothing went wrong in {} requests", seen.len());
    let calls = world.kubelet.calls(&cluster.ns.name).expect("just made");
    calls.assert_one_at_a_time();
    assert_eq!(names(&cluster.list("pods")).len(), 3);
    assert_eq!(cluster.status()["nextMember"], goal);
}
