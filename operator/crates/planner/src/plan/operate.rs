//! The unfinished operation, resumed by what is seen: which step comes next follows from the
//! membership and the Pods, never from a memory of what was done.

use quorum::Step;

use crate::facts::{Due, broken, leaves, pod};
use crate::{
    Action, LiveMember, MemberObject, OperationKind, Outcome, Pod, Replace, Role, Start, Volume,
    WaitingOn, Why, Wish,
};

use super::begin::number_in;
use super::{Next, Planner};

impl<'a> Planner<'a> {
    pub(super) fn operate(&mut self) -> Next {
        let Some(operation) = self.facts.operation() else {
            return Next::Idle;
        };
        self.overdue();
        let next = match &operation.kind {
            // They are over with the first quorum, and `without_quorum` ends before this.
            OperationKind::Bootstrap { member } => self.never_new_again(member),
            OperationKind::Adopt | OperationKind::Wake => self.finish(Outcome::Done),
            OperationKind::AddMembers { members } => match self.join(members, Wish::Grow) {
                Next::Idle => self.finish(Outcome::Done),
                next => next,
            },
            OperationKind::RemoveMember { member } => self.leave(member),
            OperationKind::ReplaceMember { old, new, why } => self.exchange(old, new, *why),
            OperationKind::RollMember { member } => self.restart(member),
            OperationKind::RecoverQuorum { .. } => Next::Wait,
        };
        match next {
            // One operation at a time.
            Next::Idle => Next::Wait,
            next => next,
        }
    }

    /// No Pod says `new` once the cluster has begun. A container starts again with its Pod's arguments, and on a
    /// disk that was emptied the first member would begin another cluster with the same IDs, and serve it.
    fn never_new_again(&mut self, first: &str) -> Next {
        if let Some(object) = self.facts.object(first)
            && pod(object).is_some_and(|pod| pod.start == Start::New)
        {
            return match self.delete_pod(object, Why::Begun) {
                Next::Idle => self.wait_for(object),
                act => act,
            };
        }
        self.finish(Outcome::Done)
    }

    pub(super) fn overdue(&mut self) {
        if let Some(operation) = self.facts.operation()
            && self.facts.is_overdue()
        {
            self.note(WaitingOn::OperationOverdue {
                id: operation.id,
                what: operation.kind.to_string(),
                for_ms: self.facts.since(operation.started_ms),
            });
        }
    }

    // ---- joining

    /// Learner first; when all that join have caught up, they are promoted back to back. Idle
    /// when all of them are voters.
    fn join(&mut self, names: &[String], wanted: Wish) -> Next {
        match self.first_dead_first(names) {
            Next::Idle => {}
            next => return next,
        }
        for name in names {
            let Some(object) = self.facts.object(name) else {
                return self.ensure_object(name, number_in(name).unwrap_or_default(), false);
            };
            if let Some(outcome) = self.gives_up(object, wanted) {
                return match self.facts.live_of(object) {
                    Some(member) => self.remove(object, member),
                    None => self.finish(outcome),
                };
            }
            if self.facts.live_of(object).is_none() {
                return self.add_learner(object, names, wanted);
            }
            // The next one's initial cluster names this one, so this one has to be up first.
            if !self.has_started(object) {
                return self.wait_for(object);
            }
        }
        let mut ready = true;
        let mut learners = Vec::new();
        for name in names {
            let Some(object) = self.facts.object(name) else {
                continue;
            };
            if self.is_voter(object) {
                continue;
            }
            if !self.facts.healthy(object) {
                self.wait_for(object);
                ready = false;
            }
            learners.push(object);
        }
        match learners.first() {
            Some(first) if ready => self.promote(first),
            Some(_) => Next::Wait,
            None => self.all_healthy(names),
        }
    }

    /// A voter that died while another member joins leaves before the promotion, which the rule
    /// would refuse: the operation becomes a replacement.
    fn first_dead_first(&mut self, joining: &[String]) -> Next {
        let [new] = joining else {
            return Next::Idle;
        };
        if let Some(OperationKind::ReplaceMember { old, .. }) =
            self.facts.operation().map(|operation| &operation.kind)
            && let Some(old) = self.facts.object(old)
            && self.facts.live_of(old).is_some()
            && !self.facts.serves(old)
        {
            return Next::Idle;
        }
        let dead: Vec<_> = self.facts.voter_objects().collect();
        for voter in dead {
            if let Due::Now { why } = self.facts.due(voter)
                && voter.name != *new
                && self.may_remove(voter)
            {
                let kind = OperationKind::ReplaceMember {
                    old: voter.name.clone(),
                    new: new.clone(),
                    why,
                };
                return self.begin_operation(kind, 0, why != Replace::Asked);
            }
        }
        Next::Idle
    }

    pub(super) fn may_remove(&self, object: &MemberObject) -> bool {
        self.facts
            .live_of(object)
            .is_some_and(|member| self.facts.judge(Step::Remove(member.id)).allowed())
    }

    /// A member that cannot join, or is not wanted any more, is taken back while it has no vote.
    fn gives_up(&self, object: &MemberObject, wanted: Wish) -> Option<Outcome> {
        if self.is_voter(object) {
            return None;
        }
        let Some(member) = self.facts.live_of(object) else {
            // It was a learner and is none any more: its id never comes back.
            let was_member = object.last_role.is_some() || object.pod != Pod::Absent;
            if was_member || object.deletion_asked {
                return Some(Outcome::CannotJoin);
            }
            return self.has_no_place(wanted).then_some(Outcome::NotWanted);
        };
        let started = !member.name.is_empty();
        let no_disk = started && object.volume == Volume::Absent;
        if object.deletion_asked || no_disk || self.facts.lost_for_good(object).is_some() {
            return Some(Outcome::CannotJoin);
        }
        self.has_no_place(wanted).then_some(Outcome::NotWanted)
    }

    fn has_no_place(&self, wanted: Wish) -> bool {
        let target = self.facts.target();
        let replicas = target.map_or(0, |target| target.replicas as usize);
        wanted == Wish::Grow && self.facts.voters() >= replicas
    }

    fn add_learner(&mut self, object: &MemberObject, names: &[String], wanted: Wish) -> Next {
        let Some(live) = self.facts.live else {
            return Next::Wait;
        };
        let name = object.name.clone();
        match &object.volume {
            Volume::Unknown => return self.unreadable(&name, crate::Part::Volume),
            Volume::Absent => return Next::Act(Action::EnsureVolume { name }),
            Volume::Present(_) => {}
        }
        let learners = self.facts.learner_objects().count();
        if learners > 0 && learners >= live.learners_max as usize {
            return self.promote_what_waits(names);
        }
        if wanted == Wish::Grow
            && let Some(voter) = self.facts.other_in_doubt(None)
        {
            return self.voter_in_doubt(voter, wanted);
        }
        let verdict = self.facts.judge(Step::AddLearner);
        if !verdict.allowed() {
            self.explain_doubt();
            return self.wait(WaitingOn::QuorumUnsafe(Box::new(verdict)));
        }
        Next::Act(Action::MemberAddLearner {
            name,
            peer_url: object.peer_url.clone(),
            expected: live.digest.clone(),
        })
    }

    /// A leader that takes one learner only: the first is promoted before the second is added.
    fn promote_what_waits(&mut self, names: &[String]) -> Next {
        for name in names {
            if let Some(object) = self.facts.object(name)
                && self.facts.role(object) == Some(Role::Learner)
            {
                return if self.facts.healthy(object) {
                    self.promote(object)
                } else {
                    self.wait_for(object)
                };
            }
        }
        Next::Wait
    }

    fn promote(&mut self, object: &MemberObject) -> Next {
        let (Some(live), Some(member)) = (self.facts.live, self.facts.live_of(object)) else {
            return Next::Wait;
        };
        let verdict = self.facts.judge(Step::Promote(member.id));
        if !verdict.allowed() {
            if matches!(
                verdict.answer,
                quorum::Answer::Refuse(quorum::Reason::Etcd(
                    quorum::etcd::Refusal::LearnerNotReady
                ))
            ) {
                return self.wait(WaitingOn::LearnerCatchingUp {
                    member: object.name.clone(),
                    behind: self.facts.lag(object).unwrap_or_default(),
                    allowed: self.facts.policy.lag_max,
                });
            }
            self.explain_doubt();
            return self.wait(WaitingOn::QuorumUnsafe(Box::new(verdict)));
        }
        Next::Act(Action::MemberPromote {
            name: object.name.clone(),
            id: member.id,
            expected: live.digest.clone(),
        })
    }

    /// Why the voters in doubt are, and what will be done about it.
    fn explain_doubt(&mut self) {
        let voters: Vec<_> = self.facts.voter_objects().collect();
        for voter in voters {
            if !self.facts.healthy(voter) {
                self.note_due(voter);
                self.wait_for(voter);
            }
        }
    }

    /// A step is over when its members are healthy voters.
    fn all_healthy(&mut self, names: &[String]) -> Next {
        for name in names {
            if let Some(object) = self.facts.object(name)
                && !self.facts.healthy(object)
                && !self.facts.dead(object)
            {
                return self.wait_for(object);
            }
        }
        Next::Idle
    }

    // ---- leaving

    fn leave(&mut self, name: &str) -> Next {
        let Some((object, member)) = self.live_object(name) else {
            return self.finish(Outcome::Done);
        };
        if member.role == Role::Learner {
            return self.remove(object, member);
        }
        let target = self.facts.target();
        let fits = target.is_some_and(|target| self.facts.voters() <= target.replicas as usize);
        if fits {
            return self.finish(Outcome::NotWanted);
        }
        self.remove_voter(object, member)
    }

    /// Dead: at once. Healthy, or on its way out anyway: when every other voter is healthy, and
    /// another one leads; a dead one goes before it.
    fn remove_voter(&mut self, object: &MemberObject, member: &LiveMember) -> Next {
        if !self.facts.serves(object) {
            if !self.facts.dead(object) {
                return self.wait_for(object);
            }
            return self.remove_dead(object, member);
        }
        if let Some(voter) = self.facts.other_in_doubt(Some(object)) {
            if self.facts.dead(voter) {
                return self.finish(Outcome::Preempted);
            }
            return self.voter_in_doubt(voter, Wish::Shrink);
        }
        match self.move_leader_off(object) {
            Next::Idle => self.remove(object, member),
            next => next,
        }
    }

    /// A member whose data is corrupt may well lead.
    fn remove_dead(&mut self, object: &MemberObject, member: &LiveMember) -> Next {
        match self.move_leader_off(object) {
            Next::Idle => self.remove(object, member),
            next => next,
        }
    }

    fn remove(&mut self, object: &MemberObject, member: &LiveMember) -> Next {
        let Some(live) = self.facts.live else {
            return Next::Wait;
        };
        let verdict = self.facts.judge(Step::Remove(member.id));
        if !verdict.allowed() {
            return self.wait(WaitingOn::QuorumUnsafe(Box::new(verdict)));
        }
        Next::Act(Action::MemberRemove {
            name: object.name.clone(),
            id: member.id,
            expected: live.digest.clone(),
        })
    }

    /// Idle when it does not lead, or when nobody else could.
    fn move_leader_off(&mut self, object: &MemberObject) -> Next {
        if !self.facts.leads(object) || self.facts.voters() < 2 {
            return Next::Idle;
        }
        let Some(from) = self.facts.live.map(|live| live.leader) else {
            return Next::Wait;
        };
        let mut heirs: Vec<_> = self
            .facts
            .voter_objects()
            .filter(|voter| voter.name != object.name)
            .filter_map(|voter| self.facts.live_of(voter).map(|member| (voter, member.id)))
            .filter(|(_, id)| self.facts.judge(Step::MoveLeader(*id)).allowed())
            .collect();
        // The new leader should not have to hand over again soon.
        heirs.sort_by_key(|(voter, _)| (self.facts.outdated(voter), voter.number));
        match heirs.first() {
            Some((_, to)) => Next::Act(Action::MoveLeader { from, to: *to }),
            None if self.facts.voters() == 2 => {
                let mut voters = self.facts.voter_objects();
                let survivor = voters.find(|voter| voter.name != object.name);
                let survivor = survivor.unwrap_or(object).name.clone();
                drop(voters);
                self.wait(WaitingOn::SurvivorNotReady { survivor })
            }
            None => self.wait(WaitingOn::LeaderMustMove {
                member: object.name.clone(),
            }),
        }
    }

    /// A member that is in the membership and has its object.
    fn live_object(&self, name: &str) -> Option<(&'a MemberObject, &'a LiveMember)> {
        let object = self.facts.object(name)?;
        Some((object, self.facts.live_of(object)?))
    }

    // ---- exchange

    /// A dead member leaves first, and one whose Pod can neither go nor stay; a healthy one leaves
    /// when the new one has its vote.
    fn exchange(&mut self, old: &str, new: &str, why: Replace) -> Next {
        let names = [new.to_owned()];
        let Some((object, member)) = self.live_object(old) else {
            return match self.join(&names, Wish::Shrink) {
                Next::Idle => self.finish(Outcome::Done),
                next => next,
            };
        };
        if self.facts.dead(object) {
            return self.remove_dead(object, member);
        }
        if !self.facts.serves(object) {
            return self.wait_for(object);
        }
        if why != Replace::Asked {
            return self.finish(Outcome::CameBack);
        }
        // Its Pod stays on its way out until somebody mends the node, and so long the new one gets
        // no vote beside it.
        let lingers = leaves(object) && pod(object).is_some_and(|pod| pod.node_silent);
        if lingers && self.may_remove(object) {
            return self.remove_voter(object, member);
        }
        match self.join(&names, Wish::Shrink) {
            Next::Idle => self.remove_voter(object, member),
            next => next,
        }
    }

    // ---- restart

    fn restart(&mut self, name: &str) -> Next {
        let Some((object, member)) = self.live_object(name) else {
            return self.finish(Outcome::NotWanted);
        };
        // Only for what can be done now, or the two would begin and end in turns for ever.
        if self.replaces_first() {
            return self.finish(Outcome::Preempted);
        }
        self.note_due(object);
        if self.facts.corrupt_and_serves(object) {
            return self.finish(Outcome::Preempted);
        }
        if !self.facts.outdated(object) {
            if self.facts.healthy(object) {
                return self.finish(Outcome::Done);
            }
            return self.wait_for(object);
        }
        if leaves(object) {
            // By us, or by somebody who came first: then one restart is enough for both.
            return match self.renew_object(object) {
                Next::Idle => self.wait_for(object),
                act => act,
            };
        }
        let healthy = self.facts.healthy(object);
        if healthy {
            match self.may_restart(object, member) {
                Next::Idle => {}
                next => return next,
            }
            match self.move_leader_off(object) {
                Next::Idle => {}
                next => return next,
            }
        } else if !self.facts.dead(object) && pod(object).is_none_or(|pod| broken(pod).is_none()) {
            return self.wait_for(object);
        }
        match self.renew_object(object) {
            Next::Idle => {}
            next => return next,
        }
        match self.delete_pod(object, Why::Outdated) {
            Next::Idle => self.wait_for(object),
            act => act,
        }
    }

    /// A voter leaves before anybody restarts.
    pub(super) fn replaces_first(&self) -> bool {
        self.facts
            .voter_objects()
            .any(|voter| matches!(self.facts.due(voter), Due::Now { .. }) && self.may_remove(voter))
    }

    /// A healthy voter restarts only beside healthy ones: one at a time is down by our hand. Where
    /// nobody replaces failed members, the rule alone decides, or no change would ever reach the
    /// others.
    pub(super) fn may_restart(&mut self, object: &MemberObject, member: &LiveMember) -> Next {
        if let Some(voter) = self.facts.other_in_doubt(Some(object)) {
            let stays = self.facts.policy.replace_failed_after_ms.is_none();
            if !(stays && self.facts.dead(voter)) {
                return self.voter_in_doubt(voter, Wish::Roll);
            }
        }
        let verdict = self.facts.judge(Step::Restart(member.id));
        if verdict.allowed() {
            return Next::Idle;
        }
        if verdict.answer == quorum::Answer::Refuse(quorum::Reason::Outage) {
            return self.wait(WaitingOn::OutageNotAccepted {
                member: object.name.clone(),
                voters: self.facts.voters(),
            });
        }
        self.explain_doubt();
        self.wait(WaitingOn::QuorumUnsafe(Box::new(verdict)))
    }

    pub(super) fn voter_in_doubt(&mut self, voter: &MemberObject, wanted: Wish) -> Next {
        self.wait_for(voter);
        self.note_due(voter);
        self.wait(WaitingOn::VoterInDoubt {
            member: voter.name.clone(),
            wanted,
            for_ms: self.facts.in_doubt_ms(voter),
        })
    }
}
