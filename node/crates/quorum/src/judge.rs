//! The rule itself.

use crate::etcd::{self, Refusal};
use crate::verdict::{Advice, Answer, Arithmetic, Reason, Verdict, Warning};
use crate::{Life, Member, MemberId, Policy, Role, Rule, Step, View};

/// Healthy voters that a configuration of so many voters needs to elect and to commit.
pub fn need(voters: usize) -> usize {
    voters / 2 + 1
}

/// The healthy voters whose single loss leaves fewer healthy ones than needed.
pub fn fatal(voters: usize, healthy: &[MemberId]) -> Vec<MemberId> {
    if healthy.len() <= need(voters) {
        healthy.to_vec()
    } else {
        Vec::new()
    }
}

/// Judges a step by what is known.
///
/// The caller sees to it that the verdict is used at once: a leader judges in the turn in which
/// it appends. What a verdict forbids, no other check may allow.
pub fn judge(view: &View, step: Step, policy: Policy) -> Verdict {
    let before = before(view);
    let after = after(view, &before, step);
    let mut verdict = Verdict {
        step,
        answer: Answer::Allow,
        in_doubt: doubts(view),
        advice: None,
        before,
        after,
    };
    match decide(view, step, policy, &verdict) {
        Ok(None) => verdict.advice = order(view, step),
        Ok(Some(warning)) if policy.refuse_warnings && !warning.was_accepted() => {
            verdict.answer = Answer::Refuse(Reason::Warned(warning));
            verdict.advice = Some(Advice::AddLearnerFirst);
        }
        Ok(Some(warning)) => {
            verdict.answer = Answer::Warn(warning);
            verdict.advice = match warning {
                Warning::Outage => order(view, step),
                _ => Some(Advice::AddLearnerFirst),
            };
        }
        Err(reason) => {
            verdict.advice = remedy(view, step, &reason, &verdict);
            verdict.answer = Answer::Refuse(reason);
        }
    }
    verdict
}

fn decide(
    view: &View,
    step: Step,
    policy: Policy,
    verdict: &Verdict,
) -> Result<Option<Warning>, Reason> {
    let changes_nothing = matches!(step, Step::Restart(_) | Step::MoveLeader(_));
    if view.unapplied_change && !changes_nothing {
        return Err(Reason::ChangeUnapplied);
    }
    match policy.rule {
        Rule::Off => etcd::target(view, step).map_err(Reason::Etcd)?,
        Rule::Etcd | Rule::Strict => etcd::check(view, step).map_err(Reason::Etcd)?,
    }
    if policy.rule != Rule::Strict {
        return Ok(None);
    }
    match step {
        Step::AddVoter => {
            keeps_quorum(step, verdict)?;
            keeps_crashes_harmless(verdict)?;
            Ok(added_voter_warning(verdict))
        }
        Step::Promote(id) => {
            // (d)
            if let Some(Life::InDoubt(doubt)) = view.member(id).map(|learner| learner.life) {
                return Err(Reason::LearnerInDoubt(id, doubt));
            }
            keeps_quorum(step, verdict)?;
            keeps_crashes_harmless(verdict).map(|()| None)
        }
        Step::AddLearner | Step::Remove(_) => {
            keeps_quorum(step, verdict)?;
            keeps_crashes_harmless(verdict).map(|()| None)
        }
        Step::UpdateUrls(id) => {
            keeps_quorum(step, verdict)?;
            stands_still(view, id, policy, verdict)
        }
        Step::Restart(id) => stands_still(view, id, policy, verdict),
        Step::MoveLeader(id) => takes_over(view, id),
    }
}

/// (b). One voter may become two, as in etcd.
fn keeps_quorum(step: Step, verdict: &Verdict) -> Result<(), Reason> {
    let one_to_two = step == Step::AddVoter && verdict.before.voters == 1;
    if verdict.after.healthy.len() >= verdict.after.need() || one_to_two {
        Ok(())
    } else {
        Err(Reason::QuorumLost)
    }
}

/// (c).
fn keeps_crashes_harmless(verdict: &Verdict) -> Result<(), Reason> {
    let all_healthy = verdict.before.healthy.len() == verdict.before.voters;
    if all_healthy || verdict.newly_fatal().is_empty() {
        Ok(())
    } else {
        Err(Reason::CrashesBecomeFatal(verdict.newly_fatal()))
    }
}

fn added_voter_warning(verdict: &Verdict) -> Option<Warning> {
    if verdict.after.healthy.len() < verdict.after.need() {
        Some(Warning::StopsUntilStarted)
    } else if !verdict.newly_fatal().is_empty() {
        Some(Warning::CrashesBecomeFatal)
    } else {
        None
    }
}

/// A voter that stops for a moment: its crash must not be fatal. One that is not healthy, or has
/// no vote, has nothing to lose.
fn stands_still(
    view: &View,
    id: MemberId,
    policy: Policy,
    verdict: &Verdict,
) -> Result<Option<Warning>, Reason> {
    if !view.member(id).is_some_and(Member::is_healthy_voter) {
        return Ok(None);
    }
    if view.unapplied_change {
        return Err(Reason::ChangeUnapplied);
    }
    if verdict.before.voters <= 2 {
        return if policy.accept_outage {
            Ok(Some(Warning::Outage))
        } else {
            Err(Reason::Outage)
        };
    }
    if verdict.before.fatal().contains(&id) {
        Err(Reason::StopIsFatal(id))
    } else {
        Ok(None)
    }
}

fn takes_over(view: &View, id: MemberId) -> Result<Option<Warning>, Reason> {
    let Some(target) = view.member(id) else {
        return Err(Reason::Etcd(Refusal::BadLeaderTransferee));
    };
    if let Life::InDoubt(doubt) = target.life {
        return Err(Reason::TransfereeInDoubt(id, doubt));
    }
    match target.matched {
        Some(matched) if matched >= view.committed => Ok(None),
        matched => Err(Reason::TransfereeBehind {
            id,
            matched,
            committed: view.committed,
        }),
    }
}

fn before(view: &View) -> Arithmetic {
    Arithmetic {
        voters: view.voters().count(),
        healthy: ids(view.voters().filter(|voter| voter.is_healthy_voter())),
    }
}

fn after(view: &View, before: &Arithmetic, step: Step) -> Arithmetic {
    let mut after = before.clone();
    let role = |id| view.member(id).map(|member| member.role);
    match step {
        // It has not started: it is a voter, and not a healthy one.
        Step::AddVoter => after.voters += 1,
        Step::Promote(id) if role(id) == Some(Role::Learner) => {
            after.voters += 1;
            if view.member(id).map(|learner| learner.life) == Some(Life::Healthy) {
                after.healthy.push(id);
                after.healthy.sort_unstable();
            }
        }
        Step::Remove(id) if role(id) == Some(Role::Voter) => {
            after.voters -= 1;
            after.healthy.retain(|healthy| *healthy != id);
        }
        _ => {}
    }
    after
}

fn doubts(view: &View) -> Vec<(MemberId, crate::Doubt)> {
    let mut doubts: Vec<_> = view
        .voters()
        .filter_map(|voter| match voter.life {
            Life::Healthy => None,
            Life::InDoubt(doubt) => Some((voter.id, doubt)),
        })
        .collect();
    doubts.sort_unstable();
    doubts
}

fn ids<'a>(members: impl Iterator<Item = &'a Member>) -> Vec<MemberId> {
    let mut ids: Vec<_> = members.map(|member| member.id).collect();
    ids.sort_unstable();
    ids
}

/// Allowed, but there is a better order: the leader last.
fn order(view: &View, step: Step) -> Option<Advice> {
    let touched = match step {
        Step::Remove(id) | Step::Restart(id) | Step::UpdateUrls(id) => id,
        _ => return None,
    };
    let others = view
        .voters()
        .any(|voter| voter.id != touched && voter.is_healthy_voter());
    (view.leader == Some(touched) && others).then_some(Advice::MoveLeaderFirst)
}

/// What would make the step, or its aim, possible.
fn remedy(view: &View, step: Step, reason: &Reason, verdict: &Verdict) -> Option<Advice> {
    let in_doubt: Vec<_> = verdict.in_doubt.iter().map(|(id, _)| *id).collect();
    let dead_first = || {
        let others = in_doubt.iter().any(|id| step != Step::Remove(*id));
        (!in_doubt.is_empty() && others).then(|| Advice::DeadFirst(in_doubt.clone()))
    };
    match reason {
        Reason::ChangeUnapplied => Some(Advice::Wait),
        Reason::Etcd(Refusal::NotEnoughStarted) => {
            let unstarted = ids(view.voters().filter(|voter| !voter.started));
            (!unstarted.is_empty()).then_some(Advice::StartFirst(unstarted))
        }
        Reason::Etcd(Refusal::Unhealthy)
        | Reason::QuorumLost
        | Reason::CrashesBecomeFatal(_)
        | Reason::StopIsFatal(_) => dead_first(),
        Reason::Etcd(Refusal::LearnerNotReady) => Some(Advice::Wait),
        Reason::LearnerInDoubt(id, _) => Some(Advice::StartFirst(vec![*id])),
        Reason::Outage => Some(Advice::AcceptOutage),
        Reason::TransfereeBehind { .. } => Some(Advice::Wait),
        Reason::Etcd(_) | Reason::TransfereeInDoubt(..) | Reason::Warned(_) => None,
    }
}
