//! Part (a) of the rule: what etcd 3.7 (3.6.11, 3.5.30) itself refuses with
//! `--strict-reconfig-check`, in etcd's order, so that a client sees etcd's own error.
//!
//! etcd asks two things. *Started* is that a member has published a name: it may be dead for
//! weeks. *Connected* is that the streams of the asked member have been up for five seconds.
//! Promotion asks for no connection at all.

use crate::{HEALTH_INTERVAL, Member, MemberId, Role, Step, View, need};

/// A learner may be promoted when its log has reached this part of the leader's.
const LEARNER_READY: f64 = 0.9;

/// An error of etcd's; `api` has its code and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// `re-configuration failed due to not enough started members`
    NotEnoughStarted,
    /// `unhealthy cluster`
    Unhealthy,
    /// `can only promote a learner member which is in sync with leader`
    LearnerNotReady,
    /// `can only promote a learner member`
    NotALearner,
    /// `member not found`
    MemberNotFound,
    /// `bad leader transferee`
    BadLeaderTransferee,
}

/// Whether etcd would refuse the step with its strict check on. Two of these errors come from
/// etcd's apply, and do not depend on the check: see [`target`].
///
/// # Errors
///
/// The error that etcd gives.
pub fn check(view: &View, step: Step) -> Result<(), Refusal> {
    match step {
        Step::AddVoter => {
            let after = view.voters().count() + 1;
            let started = started(view, None);
            if started < need(after) && !(started == 1 && after == 2) {
                return Err(Refusal::NotEnoughStarted);
            }
            connected_with_one_more(view)
        }
        Step::AddLearner => connected_with_one_more(view),
        Step::Promote(id) => {
            target(view, step)?;
            ready(view, id)?;
            // The learner counts among the voters, and as started.
            let after = view.voters().count() + 1;
            if started(view, None) + 1 < need(after) {
                return Err(Refusal::NotEnoughStarted);
            }
            Ok(())
        }
        Step::Remove(id) => {
            let member = view.member(id);
            if member.is_some_and(|member| member.role == Role::Learner) {
                return Ok(());
            }
            let voters = view.voters().count();
            let others = view.voters().filter(|voter| voter.id != id).count();
            if started(view, Some(id)) < need(others) {
                return Err(Refusal::NotEnoughStarted);
            }
            target(view, step)?;
            let inactive = member.is_some_and(|member| member.connected_for.is_none());
            if inactive && view.itself != Some(id) {
                return Ok(());
            }
            // (active - 1) < 1 + (n - 1) / 2, without going below zero
            if connected(view) < 2 + voters.saturating_sub(1) / 2 {
                return Err(Refusal::Unhealthy);
            }
            Ok(())
        }
        Step::UpdateUrls(_) | Step::MoveLeader(_) | Step::Restart(_) => target(view, step),
    }
}

/// What does not depend on the check: the member that a step names must exist and have the role.
///
/// # Errors
///
/// The error that etcd gives.
pub fn target(view: &View, step: Step) -> Result<(), Refusal> {
    let member = |id| view.member(id).ok_or(Refusal::MemberNotFound);
    match step {
        Step::AddVoter | Step::AddLearner => Ok(()),
        Step::Remove(id) | Step::UpdateUrls(id) | Step::Restart(id) => member(id).map(|_| ()),
        Step::Promote(id) if member(id)?.role == Role::Voter => Err(Refusal::NotALearner),
        Step::Promote(_) => Ok(()),
        Step::MoveLeader(id) => match view.member(id) {
            Some(member) if member.role == Role::Voter => Ok(()),
            _ => Err(Refusal::BadLeaderTransferee),
        },
    }
}

fn started(view: &View, without: Option<MemberId>) -> usize {
    view.voters()
        .filter(|voter| Some(voter.id) != without && voter.started)
        .count()
}

fn connected(view: &View) -> usize {
    let is_connected = |voter: &&Member| {
        view.itself == Some(voter.id)
            || voter.connected_for.is_some_and(|age| age > HEALTH_INTERVAL)
    };
    view.voters().filter(is_connected).count()
}

/// The new member counts, and counts as down. A single member may always grow.
fn connected_with_one_more(view: &View) -> Result<(), Refusal> {
    let voters = view.voters().count();
    if voters == 1 || connected(view) >= need(voters + 1) {
        Ok(())
    } else {
        Err(Refusal::Unhealthy)
    }
}

/// Only the leader knows how far a learner is; where nobody told us, the leader will say.
fn ready(view: &View, learner: MemberId) -> Result<(), Refusal> {
    let matched = |id: MemberId| view.member(id).and_then(|member| member.matched);
    let (Some(learner), Some(leader)) = (matched(learner), view.leader.and_then(matched)) else {
        return Ok(());
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "etcd divides the same floating-point numbers"
    )]
    let part = learner as f64 / leader as f64;
    if part < LEARNER_READY {
        Err(Refusal::LearnerNotReady)
    } else {
        Ok(())
    }
}
