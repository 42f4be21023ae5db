//! The table of the rule, line by line: `reference/membership-rule.md`.

use std::time::Duration;

use crate::etcd::Refusal;
use crate::{
    Advice, Answer, Doubt, Life, Member, MemberId, Policy, Reason, Role, Rule, Step, Verdict, View,
    Warning, judge,
};

const A: MemberId = MemberId(0xa);
const L: MemberId = MemberId(0x10);

/// How a member is.
#[derive(Clone, Copy, PartialEq)]
enum Is {
    Up,
    Dead,
    Unstarted,
}
use Is::{Dead, Unstarted, Up};

fn member(id: MemberId, role: Role, is: Is) -> Member {
    Member {
        id,
        role,
        started: is != Unstarted,
        connected_for: (is == Up).then_some(Duration::from_secs(60)),
        life: match is {
            Up => Life::Healthy,
            Dead => Life::InDoubt(Doubt::NotConnected),
            Unstarted => Life::InDoubt(Doubt::NotStarted),
        },
        matched: Some(if is == Up { 100 } else { 95 }),
    }
}

/// Voters a, b, c, …, of which a judges and leads; a learner 10.
fn view(voters: &[Is], learner: Option<Is>) -> View {
    let mut members: Vec<_> = (A.0..)
        .zip(voters)
        .map(|(id, is)| member(MemberId(id), Role::Voter, *is))
        .collect();
    members.extend(learner.map(|is| member(L, Role::Learner, is)));
    View {
        itself: Some(A),
        leader: Some(A),
        members,
        committed: 100,
        unapplied_change: false,
    }
}

fn ask(voters: &[Is], learner: Option<Is>, step: Step) -> Verdict {
    judge(&view(voters, learner), step, Policy::default())
}

fn id(letter: u64) -> MemberId {
    MemberId(letter)
}

const THREE: [Is; 3] = [Up, Up, Up];
const THREE_ONE_DEAD: [Is; 3] = [Up, Up, Dead];
const FIVE_ONE_DEAD: [Is; 5] = [Up, Up, Up, Up, Dead];
const FIVE_TWO_DEAD: [Is; 5] = [Up, Up, Up, Dead, Dead];

#[test]
fn three_healthy() {
    let promoted = ask(&THREE, Some(Dead), Step::Promote(L));
    let reason = Reason::LearnerInDoubt(L, Doubt::NotConnected);
    assert_eq!(promoted.answer, Answer::Refuse(reason));
    assert_eq!(promoted.advice, Some(Advice::StartFirst(vec![L])));

    let added = ask(&THREE, None, Step::AddVoter);
    assert_eq!(added.answer, Answer::Warn(Warning::CrashesBecomeFatal));
    assert_eq!(added.newly_fatal(), [id(0xa), id(0xb), id(0xc)]);
    assert_eq!(added.advice, Some(Advice::AddLearnerFirst));

    assert_eq!(
        ask(&THREE, None, Step::Remove(id(0xb))).answer,
        Answer::Allow
    );
    assert_eq!(
        ask(&THREE, Some(Up), Step::Promote(L)).answer,
        Answer::Allow
    );
    assert_eq!(ask(&THREE, None, Step::AddLearner).answer, Answer::Allow);
}

#[test]
fn three_with_one_dead() {
    let promoted = ask(&THREE_ONE_DEAD, Some(Up), Step::Promote(L));
    assert_eq!(
        promoted.answer,
        Answer::Refuse(Reason::CrashesBecomeFatal(vec![L]))
    );
    assert_eq!(promoted.before.fatal(), [id(0xa), id(0xb)]);
    assert_eq!(promoted.after.fatal(), [id(0xa), id(0xb), L]);
    assert_eq!(promoted.advice, Some(Advice::DeadFirst(vec![id(0xc)])));

    let removed = ask(&THREE_ONE_DEAD, None, Step::Remove(id(0xc)));
    assert_eq!(removed.answer, Answer::Allow);

    for step in [Step::AddLearner, Step::AddVoter] {
        let added = ask(&THREE_ONE_DEAD, None, step);
        assert_eq!(
            added.answer,
            Answer::Refuse(Reason::Etcd(Refusal::Unhealthy))
        );
        assert_eq!(added.advice, Some(Advice::DeadFirst(vec![id(0xc)])));
    }
}

#[test]
fn five_with_one_dead() {
    let healthy = [0xa, 0xb, 0xc, 0xd].map(MemberId);
    let added = ask(&FIVE_ONE_DEAD, None, Step::AddVoter);
    let reason = Reason::CrashesBecomeFatal(healthy.into());
    assert_eq!(added.answer, Answer::Refuse(reason));

    let removed = ask(&FIVE_ONE_DEAD, None, Step::Remove(id(0xb)));
    let three = [0xa, 0xc, 0xd].map(MemberId);
    let reason = Reason::CrashesBecomeFatal(three.into());
    assert_eq!(removed.answer, Answer::Refuse(reason));

    let promoted = ask(&FIVE_ONE_DEAD, Some(Up), Step::Promote(L));
    assert_eq!(promoted.answer, Answer::Allow);
    let numbers = (
        promoted.after.voters,
        promoted.after.healthy.len(),
        promoted.after.need(),
    );
    assert_eq!(numbers, (6, 5, 4));

    let removed = ask(&FIVE_ONE_DEAD, None, Step::Remove(id(0xe)));
    assert_eq!(removed.answer, Answer::Allow);
    assert_eq!(
        ask(&FIVE_ONE_DEAD, None, Step::AddLearner).answer,
        Answer::Allow
    );
}

#[test]
fn five_with_two_dead_may_only_lose_the_dead() {
    let allowed = |step| ask(&FIVE_TWO_DEAD, Some(Up), step).allowed();
    assert!(!allowed(Step::AddVoter));
    assert!(!allowed(Step::Promote(L)));
    for letter in 0xa..=0xc {
        assert!(!allowed(Step::Remove(id(letter))));
    }
    for letter in 0xd..=0xe {
        assert!(allowed(Step::Remove(id(letter))));
    }
}

#[test]
fn one_and_two() {
    assert_eq!(
        ask(&[Up, Up], None, Step::Remove(id(0xb))).answer,
        Answer::Allow
    );
    let added = ask(&[Up], None, Step::AddVoter);
    assert_eq!(added.answer, Answer::Warn(Warning::StopsUntilStarted));
    assert_eq!(added.advice, Some(Advice::AddLearnerFirst));
    let last = ask(&[Up], None, Step::Remove(A));
    assert_eq!(
        last.answer,
        Answer::Refuse(Reason::Etcd(Refusal::NotEnoughStarted))
    );
}

/// The seed case: a started member is not removed when the rest never started.
#[test]
fn a_started_member_stays_while_the_others_never_started() {
    let removed = ask(&[Up, Unstarted], None, Step::Remove(A));
    assert_eq!(
        removed.answer,
        Answer::Refuse(Reason::Etcd(Refusal::NotEnoughStarted))
    );
    assert_eq!(removed.advice, Some(Advice::StartFirst(vec![id(0xb)])));
}

#[test]
fn the_operator_never_adds_an_unstarted_voter_that_costs() {
    for voters in [&THREE[..], &[Up]] {
        let added = judge(&view(voters, None), Step::AddVoter, Policy::operator(false));
        assert!(
            matches!(added.answer, Answer::Refuse(Reason::Warned(_))),
            "{added}"
        );
        assert_eq!(added.advice, Some(Advice::AddLearnerFirst));
    }
    let learner = judge(
        &view(&THREE, None),
        Step::AddLearner,
        Policy::operator(false),
    );
    assert!(learner.allowed());
}

#[test]
fn restarts_and_new_urls_need_a_harmless_crash() {
    let answer = |voters: &[Is], step, accept| {
        judge(&view(voters, None), step, Policy::operator(accept)).answer
    };
    for step in [Step::Restart(id(0xb)), Step::UpdateUrls(id(0xb))] {
        assert_eq!(answer(&THREE, step, false), Answer::Allow);
        let refused = Answer::Refuse(Reason::StopIsFatal(id(0xb)));
        assert_eq!(answer(&THREE_ONE_DEAD, step, true), refused);
        assert_eq!(
            answer(&[Up, Up], step, false),
            Answer::Refuse(Reason::Outage)
        );
        assert_eq!(answer(&[Up, Up], step, true), Answer::Warn(Warning::Outage));
    }
    // The dead may be restarted in any state, also while nothing can be committed.
    assert_eq!(
        answer(&THREE_ONE_DEAD, Step::Restart(id(0xc)), false),
        Answer::Allow
    );
    assert_eq!(
        answer(&[Up, Dead, Dead], Step::Restart(id(0xc)), false),
        Answer::Allow
    );
    assert_eq!(
        answer(&THREE_ONE_DEAD, Step::UpdateUrls(id(0xc)), false),
        Answer::Allow
    );
    let refused = Answer::Refuse(Reason::QuorumLost);
    assert_eq!(
        answer(&[Up, Dead, Dead], Step::UpdateUrls(id(0xc)), false),
        refused
    );
}

#[test]
fn the_leader_comes_last() {
    for step in [Step::Restart(A), Step::Remove(A)] {
        let verdict = judge(&view(&THREE, None), step, Policy::operator(false));
        assert_eq!(verdict.answer, Answer::Allow);
        assert_eq!(verdict.advice, Some(Advice::MoveLeaderFirst));
    }
}

#[test]
fn a_new_leader_is_healthy_and_has_the_log() {
    let mut three = view(&THREE_ONE_DEAD, Some(Up));
    let ask = |view: &View, target| judge(view, Step::MoveLeader(target), Policy::default());
    assert_eq!(ask(&three, id(0xb)).answer, Answer::Allow);
    let refused = Reason::TransfereeInDoubt(id(0xc), Doubt::NotConnected);
    assert_eq!(ask(&three, id(0xc)).answer, Answer::Refuse(refused));
    for target in [L, id(0x99)] {
        let refused = Reason::Etcd(Refusal::BadLeaderTransferee);
        assert_eq!(ask(&three, target).answer, Answer::Refuse(refused));
    }
    three.committed = 101;
    let behind = Reason::TransfereeBehind {
        id: id(0xb),
        matched: Some(100),
        committed: 101,
    };
    assert_eq!(ask(&three, id(0xb)).answer, Answer::Refuse(behind));
}

#[test]
fn etcds_own_errors_come_first() {
    let mut slow = view(&THREE, Some(Up));
    slow.members[3].matched = Some(89);
    let promoted = judge(&slow, Step::Promote(L), Policy::default());
    let not_ready = Answer::Refuse(Reason::Etcd(Refusal::LearnerNotReady));
    assert_eq!(promoted.answer, not_ready);
    slow.members[3].matched = Some(90);
    assert!(judge(&slow, Step::Promote(L), Policy::default()).allowed());
    slow.members[3].matched = None;
    assert!(judge(&slow, Step::Promote(L), Policy::default()).allowed());

    let answer = |step| ask(&THREE, None, step).answer;
    let not_found = Answer::Refuse(Reason::Etcd(Refusal::MemberNotFound));
    assert_eq!(answer(Step::Remove(id(0x99))), not_found);
    assert_eq!(answer(Step::Promote(id(0x99))), not_found);
    let voter = Answer::Refuse(Reason::Etcd(Refusal::NotALearner));
    assert_eq!(answer(Step::Promote(id(0xb))), voter);
}

#[test]
fn nothing_is_judged_while_a_change_is_unapplied() {
    let mut busy = view(&THREE, Some(Up));
    busy.unapplied_change = true;
    let steps = [
        Step::AddVoter,
        Step::AddLearner,
        Step::Promote(L),
        Step::Remove(id(0xc)),
        Step::UpdateUrls(id(0xc)),
        Step::Restart(id(0xc)),
    ];
    for rule in [Rule::Off, Rule::Etcd, Rule::Strict] {
        let policy = Policy {
            rule,
            ..Policy::default()
        };
        for step in &steps[..5] {
            let verdict = judge(&busy, *step, policy);
            assert_eq!(
                verdict.answer,
                Answer::Refuse(Reason::ChangeUnapplied),
                "{verdict}"
            );
            assert_eq!(verdict.advice, Some(Advice::Wait));
        }
    }
    assert!(!judge(&busy, steps[5], Policy::operator(true)).allowed());
}

#[test]
fn the_rule_can_be_reduced_and_switched_off() {
    let dead = view(&FIVE_ONE_DEAD, Some(Dead));
    let allowed = |rule, step| {
        let policy = Policy {
            rule,
            ..Policy::default()
        };
        judge(&dead, step, policy).allowed()
    };
    for step in [Step::Promote(L), Step::AddVoter, Step::Remove(id(0xb))] {
        assert!(!allowed(Rule::Strict, step));
        assert!(allowed(Rule::Etcd, step));
    }
    let three = view(&[Up, Dead, Dead], None);
    let policy = |rule| Policy {
        rule,
        ..Policy::default()
    };
    assert!(!judge(&three, Step::AddVoter, policy(Rule::Etcd)).allowed());
    assert!(judge(&three, Step::AddVoter, policy(Rule::Off)).allowed());
}

#[test]
fn a_verdict_speaks() {
    let promoted = ask(&THREE_ONE_DEAD, Some(Up), Step::Promote(L));
    assert_eq!(
        promoted.to_string(),
        "promote 10: refused, with a voter in doubt, a crash of 10 would become fatal; \
         now 3 voters, 2 healthy, 2 needed, no healthy one may crash; \
         then 4 voters, 3 healthy, 3 needed, no healthy one may crash; \
         voter c is not connected; bring back or remove c first"
    );
    let added = ask(&[Up], None, Step::AddVoter);
    assert_eq!(
        added.to_string(),
        "add a voter: allowed, but the cluster stops until the new voter has started; \
         now 1 voter, 1 healthy, 1 needed, no healthy one may crash; \
         then 2 voters, 1 healthy, 2 needed, no quorum; \
         safer: add it as a learner, start it, then promote it"
    );
}
