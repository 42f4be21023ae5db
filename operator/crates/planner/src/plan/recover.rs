//! Without a quorum: start again what has its disk, take the edit that mends what cannot start,
//! and otherwise nothing, until a person names the survivor. And sleep, which is without a quorum
//! on purpose.

use quorum::need;

use crate::facts::{broken, has_usable_volume, pod};
use crate::{
    Action, MemberObject, OperationKind, Outcome, Part, Pod, PodPhase, Recorded, RecoverOrder,
    RecoveryRefused, Start, Survivor, Target, Volume, VolumePhase, WaitingOn, Why,
};

use super::{Next, Planner};

impl Planner<'_> {
    /// Every member that answers belongs to the latched cluster. Otherwise nothing is done.
    pub(super) fn same_cluster(&mut self) -> Next {
        let Some(latched) = self.facts.observed.recorded.cluster_id else {
            return Next::Idle;
        };
        if let Some(live) = self.facts.live.filter(|live| live.cluster_id != latched) {
            self.note(WaitingOn::ClusterIdMismatch {
                member: None,
                found: live.cluster_id,
                latched,
            });
        }
        for object in self.facts.objects.clone() {
            let found = crate::facts::answer(object).map(|answer| answer.cluster_id);
            if let Some(found) = found.filter(|found| *found != latched) {
                self.note(WaitingOn::ClusterIdMismatch {
                    member: Some(object.name.clone()),
                    found,
                    latched,
                });
            }
        }
        if self.waiting.iter().any(|reason| !reason.is_note()) {
            Next::Wait
        } else {
            Next::Idle
        }
    }

    // ---- recovery

    /// An order that was not followed yet.
    fn order(&self) -> Option<&RecoverOrder> {
        let Recorded { recovery_done, .. } = &self.facts.observed.recorded;
        let order = self.facts.observed.wanted.recover.as_ref()?;
        (recovery_done.as_ref() != Some(&order.id)).then_some(order)
    }

    pub(super) fn recover(&mut self) -> Next {
        let operation = self.facts.operation().map(|operation| &operation.kind);
        if let Some(OperationKind::RecoverQuorum {
            survivor,
            order,
            recovered,
        }) = operation
        {
            self.overdue();
            return if *recovered {
                self.start_as_usual(survivor)
            } else {
                self.make_it_one(survivor, order)
            };
        }
        let asleep = self
            .facts
            .target()
            .is_some_and(|target| target.replicas == 0);
        if asleep {
            return Next::Idle;
        }
        if let Some(order) = self.facts.observed.wanted.recover_malformed.clone() {
            let refused = match self.facts.live {
                Some(_) => RecoveryRefused::NotLost,
                None => RecoveryRefused::Malformed { order },
            };
            self.note(WaitingOn::RecoveryRefused(refused));
            return Next::Idle;
        }
        let Some(order) = self.order() else {
            return Next::Idle;
        };
        match self.refusal(order) {
            Some(refused) => {
                self.note(WaitingOn::RecoveryRefused(refused));
                Next::Idle
            }
            None => {
                let kind = OperationKind::RecoverQuorum {
                    survivor: order.survivor.clone(),
                    order: order.id.clone(),
                    recovered: false,
                };
                self.begin_operation(kind, 0, false)
            }
        }
    }

    fn refusal(&self, order: &RecoverOrder) -> Option<RecoveryRefused> {
        // Whatever it names: it must not lie there until the quorum is lost.
        if self.facts.live.is_some() {
            return Some(RecoveryRefused::NotLost);
        }
        let latched = self.facts.observed.recorded.cluster_id;
        if latched != Some(order.cluster_id) {
            let named = order.cluster_id;
            return Some(RecoveryRefused::OtherCluster { named, latched });
        }
        let named = order.survivor.clone();
        let Some(survivor) = self.facts.object(&named) else {
            return Some(RecoveryRefused::NoSuchMember { named });
        };
        if !has_usable_volume(survivor) {
            return Some(RecoveryRefused::NoVolume { named });
        }
        if pod(survivor).is_some_and(|pod| pod.node_silent) {
            return Some(RecoveryRefused::NodeSilent { named });
        }
        if self.facts.is_stopped_on_purpose() {
            return Some(RecoveryRefused::StartsAgain);
        }
        let (_, answering, needed) = self.facts.last_count();
        if answering >= needed {
            return Some(RecoveryRefused::QuorumAnswers { answering, needed });
        }
        // Their kubelets ask them from beside; we may be the one that is cut off.
        let ready = self.facts.last_voters().filter(|voter| may_serve(voter));
        let ready = ready.count();
        (ready >= needed).then_some(RecoveryRefused::PodsReady { ready, needed })
    }

    /// The others stop, then the survivor starts as a cluster of one.
    fn make_it_one(&mut self, name: &str, order: &str) -> Next {
        let Some(survivor) = self.facts.object(name) else {
            return self.finish(Outcome::NotWanted);
        };
        let begun = pod(survivor).is_some_and(|pod| pod.start == Start::Recover);
        let ordered = self.order().filter(|now| now.id == order);
        // Nobody could start it, and the others may be a quorum again: a person names another one.
        let out_of_reach = pod(survivor).is_some_and(|pod| pod.node_silent);
        if !begun && (ordered.is_none() || out_of_reach) {
            return self.finish(Outcome::NotWanted);
        }
        let others_are_gone = ordered.is_some_and(|order| order.others_are_gone);
        let withdrawn = ordered.is_none();
        if let Some(live) = self.facts.live {
            let alone = live.members.len() == 1 && self.facts.live_of(survivor).is_some();
            if !(alone && begun) {
                return self.finish(Outcome::CameBack);
            }
            let operation = self.facts.operation().cloned();
            return match operation {
                Some(mut operation) => {
                    operation.kind = OperationKind::RecoverQuorum {
                        survivor: name.to_owned(),
                        order: order.to_owned(),
                        recovered: true,
                    };
                    Next::Act(Action::RecordOperation {
                        operation,
                        member_number_next: self.facts.next_number(),
                        counts_as_replacement: false,
                    })
                }
                None => Next::Idle,
            };
        }
        match self.stop_the_others(name, others_are_gone) {
            Next::Idle => {}
            next => return next,
        }
        match pod(survivor) {
            Some(pod) if pod.start != Start::Recover => {
                match self.delete_pod(survivor, Why::Recovers) {
                    Next::Idle => self.wait_for(survivor),
                    act => act,
                }
            }
            // It may be a cluster of one already, and the Pod is all that tells. Without it and
            // without an order this would look like a recovery that was never begun: the others
            // would be started, and decide beside it under the same id.
            Some(_) if withdrawn => self.wait_for(survivor),
            Some(_) => self.mend_or_wait_for(survivor),
            None if survivor.pod == Pod::Unknown => self.unreadable(name, Part::Pod),
            None if survivor.volume == Volume::Unknown => self.unreadable(name, Part::Volume),
            // It was lost meanwhile: a person names another one.
            None if !has_usable_volume(survivor) => self.finish(Outcome::NotWanted),
            None => Next::Act(Action::EnsurePod {
                name: survivor.name.clone(),
                revision: survivor.revision.clone(),
                start: Start::Recover,
                membership: None,
            }),
        }
    }

    /// Nobody may decide without the survivor: two of three that come back from silent nodes
    /// would be a second cluster under the same id.
    fn stop_the_others(&mut self, survivor: &str, others_are_gone: bool) -> Next {
        let may_return: Vec<_> = self
            .facts
            .last_voters()
            .filter(|object| object.name != survivor)
            .filter(|object| pod(object).is_some_and(|pod| pod.node_silent))
            .map(|object| object.name.clone())
            .collect();
        let needed = need(self.facts.last_voters().count());
        if may_return.len() >= needed && !others_are_gone {
            return self.wait(WaitingOn::OthersMayDecide {
                members: may_return,
                needed,
            });
        }
        let mut leaving = false;
        for object in self.facts.objects.clone() {
            if object.name == survivor {
                continue;
            }
            if object.pod == Pod::Unknown {
                return self.unreadable(&object.name, Part::Pod);
            }
            match self.delete_pod(object, Why::Abandoned) {
                Next::Idle => {}
                act => return act,
            }
            if pod(object).is_some_and(|pod| !pod.node_silent) {
                self.wait_for(object);
                leaving = true;
            }
        }
        if leaving { Next::Wait } else { Next::Idle }
    }

    /// The survivor's Pod would recover again each time it is made: it is replaced by an
    /// ordinary one before anybody joins.
    fn start_as_usual(&mut self, name: &str) -> Next {
        let Some(survivor) = self.facts.object(name) else {
            return self.finish(Outcome::NotWanted);
        };
        match pod(survivor) {
            Some(pod) if pod.start == Start::Recover => {
                match self.delete_pod(survivor, Why::Recovers) {
                    Next::Idle => self.wait_for(survivor),
                    act => act,
                }
            }
            Some(_) if self.facts.live.is_some() => self.finish(Outcome::Done),
            Some(_) => self.mend_or_wait_for(survivor),
            None if survivor.pod == Pod::Unknown => self.unreadable(name, Part::Pod),
            None if survivor.volume == Volume::Unknown => self.unreadable(name, Part::Volume),
            None if !has_usable_volume(survivor) => self.finish(Outcome::NotWanted),
            None => self.start_existing(survivor),
        }
    }

    /// The others have stopped, so nobody else is meant. An edit that mends it is taken.
    fn mend_or_wait_for(&mut self, survivor: &MemberObject) -> Next {
        match self.mend() {
            Next::Idle => self.wait_for(survivor),
            next => next,
        }
    }

    // ---- sleep

    /// Pods away, volumes and members kept; and up again.
    pub(super) fn sleep(&mut self) -> Next {
        let Some(target) = self.facts.target() else {
            return Next::Idle;
        };
        let wakes = self
            .facts
            .operation()
            .is_some_and(|operation| operation.kind == OperationKind::Wake);
        if target.replicas > 0 {
            return if wakes { self.wake() } else { Next::Idle };
        }
        if self.facts.observed.wanted.replicas > 0 {
            if !self.acceptable() {
                return Next::Wait;
            }
            // Another operation is not over yet, so nobody sleeps: it goes on.
            return if wakes || self.facts.operation().is_some() {
                self.latch_wanted()
            } else {
                self.begin_operation(OperationKind::Wake, 0, false)
            };
        }
        if self.facts.operation().is_some() {
            return self.finish(Outcome::NotWanted);
        }
        match self.set_budget(None) {
            Next::Idle => {}
            next => return next,
        }
        // The leader last: it has the whole log, and hands over on its way out.
        let mut order = self.facts.objects.clone();
        order.reverse();
        order.sort_by_key(|object| self.facts.leads(object));
        for object in &order {
            if object.pod == Pod::Unknown {
                return self.unreadable(&object.name, Part::Pod);
            }
            match self.delete_pod(object, Why::Hibernates) {
                Next::Idle => {}
                act => return act,
            }
        }
        for object in &order {
            if pod(object).is_some() {
                self.wait_for(object);
            }
        }
        if self.waiting.iter().all(WaitingOn::is_note) && self.differs() && self.acceptable() {
            return self.latch_wanted();
        }
        Next::Wait
    }

    /// All are down, so the newest revision costs no restart.
    fn wake(&mut self) -> Next {
        for object in self.facts.objects.clone() {
            if object.pod == Pod::Absent && self.may_start(object) {
                match self.renew_object(object) {
                    Next::Idle => {}
                    next => return next,
                }
            }
        }
        Next::Idle
    }

    // ---- what is safe at any time

    /// A member whose Pod is gone and whose disk is there starts again. A member that never had
    /// a disk gets one; one that had gets none: an empty disk under an old id may vote twice.
    pub(super) fn start_again(&mut self) -> Next {
        for object in self.facts.objects.clone() {
            if !self.may_start(object) {
                continue;
            }
            if let Some(pod) = pod(object) {
                if pod.phase == PodPhase::Ended && !pod.node_silent {
                    return self.delete_pod(object, Why::Ended);
                }
                if self.joins_an_old_membership(object) {
                    return self.delete_pod(object, Why::JoinsAnOldMembership);
                }
                continue;
            }
            if object.pod == Pod::Unknown {
                self.unreadable(&object.name, Part::Pod);
                continue;
            }
            let unstarted = self.facts.live_of(object).is_some() && !self.has_started(object);
            if object.volume == Volume::Absent && unstarted {
                return Next::Act(Action::EnsureVolume {
                    name: object.name.clone(),
                });
            }
            if has_usable_volume(object) {
                return self.start_existing(object);
            }
        }
        Next::Idle
    }

    /// A joining member compares its arguments with the membership, and ends when they differ.
    fn joins_an_old_membership(&self, object: &MemberObject) -> bool {
        let (Some(live), Some(pod)) = (self.facts.live, pod(object)) else {
            return false;
        };
        let old = pod
            .membership
            .as_ref()
            .is_some_and(|digest| *digest != live.digest);
        let not_up = matches!(
            pod.phase,
            PodPhase::Pending(_) | PodPhase::CrashLooping { .. }
        );
        let unstarted = self.facts.live_of(object).is_some() && !self.has_started(object);
        unstarted && old && not_up && !pod.node_silent
    }

    /// A Pod that cannot start gets the newest revision, whatever else is going on: its member
    /// is down, so there is nothing to lose. The edit that mends it is taken at once.
    pub(super) fn mend(&mut self) -> Next {
        let stuck: Vec<_> = self
            .facts
            .objects
            .iter()
            .copied()
            .filter(|object| self.may_start(object) && !self.facts.healthy(object))
            .filter(|object| pod(object).is_some_and(|pod| broken(pod).is_some()))
            .collect();
        if stuck.is_empty() {
            return Next::Idle;
        }
        let (wanted, target) = (&self.facts.observed.wanted, self.facts.target());
        if let Some(target) = target
            && (wanted.revision != target.revision || wanted.version != target.version)
            && self.version_is_acceptable()
        {
            return Next::Act(Action::LatchTarget(Target {
                generation: wanted.generation,
                replicas: target.replicas,
                version: wanted.version,
                revision: wanted.revision.clone(),
            }));
        }
        for object in stuck {
            if !self.facts.outdated(object) {
                continue;
            }
            match self.renew_object(object) {
                Next::Idle => {}
                next => return next,
            }
            match self.delete_pod(object, Why::CannotStart) {
                Next::Idle => {}
                next => return next,
            }
        }
        Next::Idle
    }

    /// No membership: nothing else is done.
    pub(super) fn without_quorum(&mut self) -> Next {
        if self.facts.live.is_some() {
            return Next::Idle;
        }
        for object in self.facts.objects.clone() {
            if self.may_start(object) && crate::facts::answer(object).is_none() {
                self.wait_for(object);
            }
        }
        let (voters, answering, needed) = self.facts.last_count();
        match self.facts.operation().map(|operation| &operation.kind) {
            Some(OperationKind::Adopt) => self.note(WaitingOn::AdoptionIncomplete {
                answering,
                volumes: self.facts.objects.len(),
            }),
            _ if self.facts.is_stopped_on_purpose() && !self.waiting.is_empty() => {}
            _ if answering >= needed => self.note(WaitingOn::NoLeader { answering, needed }),
            _ => {
                let survivors = self.survivors();
                self.note(WaitingOn::QuorumLost {
                    voters,
                    answering,
                    needed,
                    survivors,
                });
            }
        }
        self.overdue();
        Next::Wait
    }

    /// Members with a disk: those with the highest term first, and of those the ones with the
    /// longest log, as the plugin and docs/operations.md say. Who was cut off in an older term
    /// has missed what the others have decided since.
    fn survivors(&self) -> Vec<Survivor> {
        let with_disk = self
            .facts
            .last_voters()
            .filter(|object| match &object.volume {
                Volume::Present(volume) => {
                    !matches!(volume.phase, VolumePhase::Lost | VolumePhase::Terminating)
                }
                Volume::Unknown => true,
                Volume::Absent => false,
            });
        let mut survivors: Vec<_> = with_disk
            .map(|object| {
                let answer = crate::facts::answer(object);
                Survivor {
                    member: object.name.clone(),
                    term: answer.map_or(0, |answer| answer.term),
                    raft_index: answer.map(|answer| answer.raft_index),
                }
            })
            .collect();
        survivors.sort_by_key(|survivor| std::cmp::Reverse((survivor.term, survivor.raft_index)));
        survivors
    }
}

/// Its readiness probe, a read with a quorum behind it, says yes, and the node that says so is heard.
/// One on its way out is not asked any more, and serves until it is gone.
fn may_serve(object: &MemberObject) -> bool {
    pod(object).is_some_and(|pod| {
        let serves = matches!(
            pod.phase,
            PodPhase::Running { ready: true } | PodPhase::Terminating
        );
        !pod.node_silent && serves
    })
}
