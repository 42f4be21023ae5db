//! What is begun when nothing is under way: the next target, a replacement, a step of the size,
//! a restart.

use quorum::Step;

use crate::facts::{Due, broken, leaves, pod};
use crate::{
    Action, MemberObject, OperationKind, Replace, Target, Version, VersionRefused, WaitingOn, Wish,
};

use super::{Next, Planner};

impl Planner<'_> {
    // ---- the target

    /// The spec is another one than is worked on.
    pub(super) fn differs(&self) -> bool {
        let wanted = &self.facts.observed.wanted;
        self.facts.target().is_none_or(|target| {
            target.replicas != wanted.replicas
                || target.version != wanted.version
                || target.revision != wanted.revision
        })
    }

    pub(super) fn latch_wanted(&self) -> Next {
        let wanted = &self.facts.observed.wanted;
        Next::Act(Action::LatchTarget(Target {
            generation: wanted.generation,
            replicas: wanted.replicas,
            version: wanted.version,
            revision: wanted.revision.clone(),
        }))
    }

    /// Between two operations every state is safe, so the next spec is taken there. During one
    /// only when it is stuck, for the new spec may be what ends it.
    pub(super) fn latch(&mut self) -> Next {
        if !self.differs() || !self.acceptable() {
            return Next::Idle;
        }
        if self.facts.operation().is_none() || self.is_stuck() {
            return self.latch_wanted();
        }
        if let Some(target) = self.facts.target() {
            self.note(WaitingOn::TargetInProgress {
                generation: target.generation,
                next: self.facts.observed.wanted.generation,
            });
        }
        Next::Idle
    }

    fn is_stuck(&self) -> bool {
        let Some(operation) = self.facts.operation() else {
            return false;
        };
        let fixed = matches!(
            operation.kind,
            OperationKind::RecoverQuorum { .. } | OperationKind::Wake | OperationKind::Adopt
        );
        let cannot_start = operation.kind.members().into_iter().any(|name| {
            let object = self.facts.object(name);
            let pod = object.and_then(pod);
            pod.is_some_and(|pod| broken(pod).is_some())
        });
        // A target of none ends every operation: it has to wait for a safe end.
        let sleeps = self.facts.observed.wanted.replicas == 0;
        !fixed && !sleeps && (self.facts.is_overdue() || cannot_start)
    }

    /// The spec can be taken as it is; else the reason is noted.
    pub(super) fn acceptable(&mut self) -> bool {
        let replicas = self.facts.observed.wanted.replicas;
        if replicas > 0 && replicas.is_multiple_of(2) && !self.facts.policy.allow_even_replicas {
            self.note(WaitingOn::EvenReplicasRefused { replicas });
            return false;
        }
        self.version_is_acceptable()
    }

    /// Judged by what members have run, not by what was asked for: the edit that takes back a
    /// version that never started is no downgrade.
    pub(super) fn version_is_acceptable(&mut self) -> bool {
        let to = self.facts.observed.wanted.version;
        let ran = self.facts.objects.iter();
        let Some(from) = ran.filter_map(|object| object.last_version).max() else {
            return true;
        };
        match refused(from, to) {
            Some(why) => {
                self.note(WaitingOn::VersionRefused { from, to, why });
                false
            }
            None => true,
        }
    }

    // ---- replacement

    pub(super) fn replace(&mut self) -> Next {
        let Some(target) = self.facts.target() else {
            return Next::Wait;
        };
        // A smaller size takes them first, and nobody comes in their place.
        let shrinks = self.facts.voters() > target.replicas as usize;
        let mut voters: Vec<_> = self.facts.voter_objects().collect();
        voters.sort_by_key(|voter| (!self.facts.corrupt(voter), voter.number));
        for voter in &voters {
            self.note_due(voter);
        }
        if shrinks {
            return Next::Idle;
        }
        let unwanted = |learner: &&MemberObject| learner.deletion_asked;
        if let Some(learner) = self.facts.learner_objects().find(unwanted) {
            let member = learner.name.clone();
            return self.begin_operation(OperationKind::RemoveMember { member }, 0, false);
        }
        for voter in &voters {
            let why = match self.facts.due(voter) {
                Due::Now { why } => why,
                _ if voter.deletion_asked => Replace::Asked,
                _ => continue,
            };
            match self.begin_exchange(voter, why) {
                Next::Act(action) => return Next::Act(action),
                Next::Wait | Next::Idle => {}
            }
        }
        Next::Idle
    }

    fn begin_exchange(&mut self, voter: &MemberObject, why: Replace) -> Next {
        if why == Replace::Asked && !self.facts.dead(voter) {
            if let Some(other) = self.facts.other_in_doubt(Some(voter)) {
                self.note(WaitingOn::CannotLeaveYet {
                    member: voter.name.clone(),
                });
                return self.voter_in_doubt(other, Wish::Shrink);
            }
        } else if let Some(member) = self.facts.live_of(voter) {
            let verdict = self.facts.judge(Step::Remove(member.id));
            if !verdict.allowed() {
                return self.wait(WaitingOn::QuorumUnsafe(Box::new(verdict)));
            }
        }
        // A learner that is there already comes in its place.
        let stray = self.facts.learner_objects().next();
        let number = self.facts.next_number();
        let kind = OperationKind::ReplaceMember {
            old: voter.name.clone(),
            new: stray.map_or_else(|| self.facts.name_for(number), |stray| stray.name.clone()),
            why,
        };
        let numbers = u64::from(stray.is_none());
        self.begin_operation(kind, numbers, why != Replace::Asked)
    }

    /// Says when and why a member in doubt will be replaced, or will not.
    pub(super) fn note_due(&mut self, object: &MemberObject) {
        let member = object.name.clone();
        match self.facts.due(object) {
            Due::No | Due::Now { .. } => {}
            Due::Later { why, in_ms } => {
                self.note(WaitingOn::ReplacementDue { member, why, in_ms });
            }
            Due::UsedUp { why, done, in_ms } => self.note(WaitingOn::ReplacementsUsedUp {
                member,
                why,
                done,
                allowed: self.facts.policy.replacements_per_hour_max,
                in_ms,
            }),
            Due::NotAllowed { why } => {
                self.note(WaitingOn::ReplacementNotAllowed { member, why });
            }
        }
    }

    // ---- the size

    /// One step towards the size. Where it has to wait, a restart may still be what mends it.
    pub(super) fn scale(&mut self) -> Next {
        let (Some(live), Some(target)) = (self.facts.live, self.facts.target()) else {
            return Next::Wait;
        };
        let (voters, wanted) = (self.facts.voters(), target.replicas as usize);
        let strays: Vec<_> = self.facts.learner_objects().collect();
        if voters < wanted && strays.iter().all(|stray| !stray.deletion_asked) {
            // Two at once only where one becomes three: no size is as fragile as two.
            let pair = voters == 1 && wanted >= 3 && live.learners_max >= 2;
            let places = if pair { 2 } else { 1 };
            return self.grow(&strays, places);
        }
        if let Some(stray) = strays.first() {
            let member = stray.name.clone();
            return self.begin_operation(OperationKind::RemoveMember { member }, 0, false);
        }
        if voters > wanted {
            return self.shrink();
        }
        Next::Idle
    }

    fn grow(&mut self, strays: &[&MemberObject], places: usize) -> Next {
        if let Some(voter) = self.facts.other_in_doubt(None) {
            self.voter_in_doubt(voter, Wish::Grow);
            return Next::Idle;
        }
        if strays.len() < places {
            let verdict = self.facts.judge(Step::AddLearner);
            if !verdict.allowed() {
                self.note(WaitingOn::QuorumUnsafe(Box::new(verdict)));
                return Next::Idle;
            }
        }
        let strays = strays.iter().take(places).map(|stray| stray.name.clone());
        let mut members: Vec<_> = strays.collect();
        let mut numbers = 0;
        while members.len() < places {
            members.push(self.facts.name_for(self.facts.next_number() + numbers));
            numbers += 1;
        }
        self.begin_operation(OperationKind::AddMembers { members }, numbers, false)
    }

    /// The dead first, then who is in doubt for a moment, and is waited for, then who is on its
    /// way out, then those that somebody asked to go, then the newest; the leader last.
    fn shrink(&mut self) -> Next {
        let mut voters: Vec<_> = self.facts.voter_objects().collect();
        voters.sort_by_key(|voter| {
            (
                !self.facts.dead(voter),
                self.facts.serves(voter),
                self.facts.healthy(voter),
                self.facts.leads(voter),
                !voter.deletion_asked,
                std::cmp::Reverse(voter.number),
            )
        });
        let Some(victim) = voters.first().copied() else {
            return Next::Idle;
        };
        if !self.facts.serves(victim) && !self.facts.dead(victim) {
            self.voter_in_doubt(victim, Wish::Shrink);
            return Next::Idle;
        }
        let Some(member) = self.facts.live_of(victim) else {
            return Next::Idle;
        };
        let verdict = self.facts.judge(Step::Remove(member.id));
        if !verdict.allowed() {
            self.note(WaitingOn::QuorumUnsafe(Box::new(verdict)));
            return Next::Idle;
        }
        let member = victim.name.clone();
        self.begin_operation(OperationKind::RemoveMember { member }, 0, false)
    }

    // ---- the revision

    /// One restart: those that are down anyway first, the leader last.
    pub(super) fn roll(&mut self) -> Next {
        let Some(target) = self.facts.target() else {
            return Next::Wait;
        };
        // It would be given up at once.
        if self.replaces_first() {
            return self.until_healthy();
        }
        let settled = self.facts.voters() == target.replicas as usize;
        let mut outdated: Vec<_> = self
            .facts
            .voter_objects()
            .filter(|voter| self.facts.outdated(voter))
            .filter(|voter| !leaves(voter) && pod(voter).is_some_and(|pod| !pod.node_silent))
            .filter(|voter| !self.facts.corrupt_and_serves(voter))
            .collect();
        outdated.sort_by_key(|voter| {
            (
                self.facts.healthy(voter),
                self.facts.leads(voter),
                voter.number,
            )
        });
        let Some(first) = outdated.first().copied() else {
            return self.until_healthy();
        };
        let Some(member) = self.facts.live_of(first) else {
            return Next::Idle;
        };
        if self.facts.healthy(first) {
            // Not in the middle of a change of size, of which two voters are the worst.
            if !settled {
                return Next::Idle;
            }
            match self.may_restart(first, member) {
                Next::Idle => {}
                next => return next,
            }
        } else if !self.facts.dead(first) {
            return self.wait_for(first);
        }
        let member = first.name.clone();
        self.begin_operation(OperationKind::RollMember { member }, 0, false)
    }

    /// Nothing is left to do but to see that all are well.
    fn until_healthy(&mut self) -> Next {
        let voters: Vec<_> = self.facts.voter_objects().collect();
        for object in voters {
            if !self.facts.healthy(object) {
                self.note_due(object);
                self.wait_for(object);
            }
        }
        Next::Idle
    }
}

fn refused(from: Version, to: Version) -> Option<VersionRefused> {
    if to < from {
        Some(VersionRefused::Downgrade)
    } else if to.major != from.major {
        Some(VersionRefused::OtherMajor)
    } else if to.minor > from.minor + 1 {
        Some(VersionRefused::SkipsMinor)
    } else {
        None
    }
}
