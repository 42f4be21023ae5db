//! Before the first quorum: the first member alone, or the kept volumes of a deleted cluster.

use crate::facts::{answer, broken, has_usable_volume, pod};
use crate::{
    Action, Answer, MemberObject, OperationKind, Outcome, Part, Pod, PodPhase, Role, Start, Volume,
    VolumePhase, WaitingOn, Why,
};

use super::{Next, Planner};

impl Planner<'_> {
    /// Until the cluster's id is latched. Never again after that: a member that is told `new`
    /// on an empty disk would serve an empty store under the same name.
    pub(super) fn begin(&mut self) -> Next {
        let observed = self.facts.observed;
        if observed.recorded.cluster_id.is_some() {
            return Next::Idle;
        }
        if self.differs() && self.acceptable() {
            return self.latch_wanted();
        }
        let Some(target) = self.facts.target() else {
            return Next::Wait;
        };
        let had_members = self
            .facts
            .objects
            .iter()
            .any(|object| object.last_role.is_some());
        if self.facts.live.is_some() {
            return self.find_again();
        }
        if target.replicas == 0 {
            return self.not_yet();
        }
        if had_members {
            // The record was lost, the cluster was not.
            return self.find_again();
        }
        match self.facts.operation().map(|operation| &operation.kind) {
            Some(OperationKind::Adopt) => self.adopt(),
            Some(OperationKind::Bootstrap { member }) => {
                if self.is_alone(number_in(member).unwrap_or_default()) {
                    self.first_member(member)
                } else {
                    self.finish(Outcome::NotWanted)
                }
            }
            _ => self.begin_somehow(),
        }
    }

    /// Told to sleep before it has begun: what was prepared is kept.
    fn not_yet(&mut self) -> Next {
        for object in self.facts.objects.clone() {
            match self.delete_pod(object, Why::Hibernates) {
                Next::Idle => {}
                act => return act,
            }
        }
        Next::Wait
    }

    /// Nothing is there of a cluster that this number would have begun: no other member's object,
    /// and no volume of its own number or a later one. Lower numbers are those of a cluster that
    /// was deleted before.
    fn is_alone(&self, number: u64) -> bool {
        let mut objects = self.facts.objects.iter();
        let mut kept = self.facts.observed.kept_volumes.iter();
        objects.all(|object| object.number == number) && kept.all(|kept| kept.number < number)
    }

    /// A status can be lost, as by a restore without it. Then the objects and volumes of other
    /// members tell that the cluster has begun, and its first member does not begin it again.
    fn begin_somehow(&mut self) -> Next {
        let observed = self.facts.observed;
        let mut kept = observed.kept_volumes.iter();
        if let Some(seed) = self.facts.objects.iter().find(|object| object.seed)
            && self.is_alone(seed.number)
        {
            let member = seed.name.clone();
            return self.begin_operation(OperationKind::Bootstrap { member }, 0, false);
        }
        if observed.wanted.adopt && kept.any(|volume| !volume.released)
            || !self.facts.objects.is_empty()
        {
            return self.begin_operation(OperationKind::Adopt, 0, false);
        }
        let member = self.facts.name_for(self.facts.next_number());
        self.begin_operation(OperationKind::Bootstrap { member }, 1, false)
    }

    fn first_member(&mut self, name: &str) -> Next {
        let Some(object) = self.facts.object(name) else {
            // The number was taken when the operation was recorded.
            let number = number_in(name).unwrap_or_default();
            return self.ensure_object(name, number, true);
        };
        match self.prepare(object) {
            Next::Idle => {}
            next => return next,
        }
        match &object.pod {
            Pod::Unknown => self.unreadable(name, Part::Pod),
            Pod::Absent => Next::Act(Action::EnsurePod {
                name: object.name.clone(),
                revision: object.revision.clone(),
                start: Start::New,
                membership: None,
            }),
            Pod::Present(_) => self.wait_for(object),
        }
    }

    /// The newest revision, a volume, and no Pod that cannot start: before the first quorum the
    /// spec may be mended freely.
    fn prepare(&mut self, object: &MemberObject) -> Next {
        let stuck = pod(object).is_some_and(|pod| broken(pod).is_some());
        if object.pod == Pod::Absent || stuck {
            match self.renew_object(object) {
                Next::Idle => {}
                next => return next,
            }
        }
        if stuck && self.facts.outdated(object) {
            match self.delete_pod(object, Why::CannotStart) {
                Next::Idle => {}
                next => return next,
            }
        }
        if pod(object).is_some_and(|pod| pod.phase == PodPhase::Ended && !pod.node_silent) {
            return self.delete_pod(object, Why::Ended);
        }
        match &object.volume {
            Volume::Unknown => self.unreadable(&object.name, Part::Volume),
            Volume::Absent => Next::Act(Action::EnsureVolume {
                name: object.name.clone(),
            }),
            Volume::Present(volume)
                if matches!(volume.phase, VolumePhase::Lost | VolumePhase::Terminating)
                    && object.pod == Pod::Absent =>
            {
                self.wait_for(object)
            }
            Volume::Present(_) => Next::Idle,
        }
    }

    /// Member objects for the kept volumes, a Pod on each; the rest is the quorum's. Without
    /// being told to, only volumes that are younger than a member that is there.
    fn adopt(&mut self) -> Next {
        let observed = self.facts.observed;
        let oldest = self.facts.objects.first().map(|object| object.number);
        let mut kept = observed.kept_volumes.iter().filter(|volume| {
            !volume.released
                && (observed.wanted.adopt || oldest.is_none_or(|oldest| volume.number > oldest))
        });
        if let Some(volume) = kept.next() {
            return self.ensure_object(&volume.member, volume.number, false);
        }
        for object in self.facts.objects.clone() {
            if has_usable_volume(object) {
                match self.prepare(object) {
                    Next::Idle => {}
                    next => return next,
                }
            }
            if object.pod == Pod::Absent && has_usable_volume(object) {
                return self.start_existing(object);
            }
        }
        self.find_again()
    }

    /// The members know which cluster they are; they have to agree.
    fn find_again(&mut self) -> Next {
        if let Some(live) = self.facts.live {
            return Next::Act(Action::LatchClusterId(live.cluster_id));
        }
        let objects = self.facts.objects.clone();
        let answers: Vec<&Answer> = objects.iter().filter_map(|object| answer(object)).collect();
        if let Some(first) = answers.first() {
            let other = answers
                .iter()
                .find(|answer| answer.cluster_id != first.cluster_id);
            if let Some(other) = other {
                return self.wait(WaitingOn::ClusterIdMismatch {
                    member: None,
                    found: other.cluster_id,
                    latched: first.cluster_id,
                });
            }
            let adopts = self
                .facts
                .operation()
                .is_some_and(|operation| operation.kind == OperationKind::Adopt);
            if adopts {
                return Next::Act(Action::LatchClusterId(first.cluster_id));
            }
        }
        for object in &objects {
            let known = object.last_role.is_some();
            if known && object.pod == Pod::Absent && has_usable_volume(object) {
                return self.start_existing(object);
            }
        }
        self.wait(WaitingOn::AdoptionIncomplete {
            answering: answers.len(),
            volumes: objects.len(),
        })
    }

    pub(super) fn start_existing(&mut self, object: &MemberObject) -> Next {
        Next::Act(Action::EnsurePod {
            name: object.name.clone(),
            revision: object.revision.clone(),
            start: Start::Existing,
            membership: self.facts.live.map(|live| live.digest.clone()),
        })
    }

    /// Members whose Pods may be started again from their disks. Without a membership: those
    /// that were seen in one, and those that were adopted.
    pub(super) fn may_start(&self, object: &MemberObject) -> bool {
        match self.facts.live {
            Some(_) => self.facts.live_of(object).is_some(),
            None => {
                let adopts = self
                    .facts
                    .operation()
                    .is_some_and(|operation| operation.kind == OperationKind::Adopt);
                matches!(object.last_role, Some(Role::Voter | Role::Learner))
                    || adopts
                    || object.seed
            }
        }
    }
}

pub(super) fn number_in(name: &str) -> Option<u64> {
    name.rsplit_once('-')?.1.parse().ok()
}
