//! Ends at any moment, and more than one operator.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, STEP, condition, spec};
use crate::door::Cut;
use crate::operator::{Operator, Options};
use crate::world::{whole, world};

/// How long one operator may take to come to the change at which it ends. A promotion waits for five seconds
/// at the leader.
const NEXT_CHANGE: Duration = Duration::from_secs(10);

/// A life from nothing to three members and on to five, in which every operator ends at a change: `Before` it
/// reaches the API server, `After` it did and before the answer came.
///
/// An operator that may make `budget` changes ends at the next one; so between them each change of the life is
/// once the last one of an operator.
fn life(word: &str, cut: fn(usize) -> Cut) {
    let Some(world) = world(word) else { return };
    let short = word.rsplit('_').next().unwrap_or(word);
    let goal = if whole() { 5 } else { 3 };
    let cluster = Cluster::create(world, short, &spec(goal));
    let (mut operators, mut at) = (0, 0);
    let began = Instant::now();
    let within = STEP * 4 + STEP * goal;
    loop {
        assert!(
            began.elapsed() < within,
            "{operators} operators did not come to an end: {}",
            cluster.object()["status"]
        );
        // One to three changes pass: so the cut falls at another place in every pass.
        at = at % 3 + 1;
        let most = at + usize::from(matches!(cut(1), Cut::Before(_)));
        let mut options = Options::of(&cluster.ns.name);
        options.cut = Some(cut(most));
        let mut operator = Operator::start(world, &options);
        operators += 1;
        let closed = world.wait(operator.door.wait_closed(NEXT_CHANGE));
        operator.kill();
        let object = cluster.object();
        if !closed
            && condition(&object, "Ready") == "True"
            && object["status"]["quorum"]["voters"] == goal
        {
            break;
        }
    }
    eprintln!("{word}: {operators} operators in {:?}", began.elapsed());
    assert!(operators > 10, "{operators} operators");
    // The last one may end as it likes.
    let _operator = Operator::start(world, &Options::of(&cluster.ns.name));
    cluster.until_ready(goal, STEP * 2);
    cluster.assert_tidy(goal as usize);
    assert_eq!(
        cluster.status()["nextMember"],
        goal,
        "a number was used twice, or none"
    );
}

#[test]
fn operators_that_end_before_each_change_are_as_one() {
    life("operators_that_end_before", Cut::Before);
}

#[test]
fn operators_that_end_after_each_change_are_as_one() {
    life("operators_that_end_after", Cut::After);
}

#[test]
fn an_old_leader_that_was_paused_does_no_harm() {
    let Some(world) = world("an_old_leader_that_was_paused_does_no_harm") else {
        return;
    };
    let cluster = Cluster::create(world, "leaders", &spec(3));
    let mut options = Options::of(&cluster.ns.name);
    options.flags = [
        "--leader-elect-namespace=quorate-system".to_owned(),
        format!("--leader-elect-name={}", cluster.ns.name),
        "--leader-elect-lease-duration=14".to_owned(),
        "--leader-elect-renew-deadline=4".to_owned(),
        "--leader-elect-retry-period=1".to_owned(),
    ]
    .into();
    let mut first = Operator::start(world, &options);
    cluster.until("a first member", STEP, |object| {
        object["status"]["target"].is_object()
    });
    let second = Operator::start(world, &options);
    first.signal(libc::SIGSTOP);
    cluster.until_ready(3, STEP * 3);
    let second_acted = second.door.seen().iter().any(|seen| seen.is_change());
    assert!(second_acted, "the second operator has taken over");
    cluster.scale(5);
    let before = first.door.seen().len();
    first.signal(libc::SIGCONT);
    testkit::eventually("the old leader's end", STEP, || {
        first.exited().map(|_| ()).ok_or_else(|| first.log())
    });
    let late: Vec<_> = first
        .door
        .seen()
        .split_off(before)
        .into_iter()
        .filter(|seen| seen.is_change() && matches!(seen.status, 200..300))
        .collect();
    assert!(late.is_empty(), "{late:?}");
    cluster.until_ready(5, STEP * 3);
    cluster.assert_tidy(5);
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
    operator.door.lag(true);
    let members = cluster.members();
    let victim = members[0].clone();
    cluster.kubectl(&["delete", "pod", &victim, "--wait=true", "--timeout=40s"]);
    cluster.scale(5);
    std::thread::sleep(Duration::from_secs(if whole() { 30 } else { 5 }));
    operator.door.lag(false);
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
}

/// Each change of a life alone, where the tests have the time for as many lives.
#[test]
fn one_end_at_any_change_is_as_none() {
    let Some(world) = world("one_end_at_any_change_is_as_none") else {
        return;
    };
    let places: Vec<usize> = if whole() { (1..60).collect() } else { vec![7] };
    for at in places {
        for cut in [Cut::Before(at), Cut::After(at)] {
            let word = match cut {
                Cut::Before(_) => format!("before{at}"),
                Cut::After(_) => format!("after{at}"),
            };
            let cluster = Cluster::create(world, &word, &spec(3));
            let mut options = Options::of(&cluster.ns.name);
            options.cut = Some(cut);
            let mut first = Operator::start(world, &options);
            let closed = world.wait(first.door.wait_closed(STEP));
            first.kill();
            let _second = Operator::start(world, &Options::of(&cluster.ns.name));
            cluster.until_ready(3, STEP * 3);
            cluster.assert_tidy(3);
            assert_eq!(cluster.status()["nextMember"], 3, "{cut:?}");
            if !closed {
                // The life has no more changes.
                return;
            }
        }
    }
}
