//! What needs no operation: strangers are named, objects are found again, what was left behind is
//! taken away, labels and alarms; and the deletion of the whole.

use crate::facts::{answer, pod, volume};
use crate::{
    Action, AlarmKind, MemberId, OperationKind, Part, Pod, PodPhase, Remedy, Retention, Role,
    Volume, VolumePhase, WaitingOn, Why,
};

use super::{Next, Planner};

/// Whom an alarm CORRUPT names when no majority says who is wrong.
const NOBODY: MemberId = MemberId(0);

/// A database is as good as full at nine tenths of its quota: below that an alarm is disarmed.
const FULL_TENTHS: u64 = 9;

/// A remedy that has failed is not tried again for so long. In between, the plan comes to what
/// stands behind it: a dead voter is replaced also while a volume is too full to defragment on.
const REMEDY_AGAIN_MS: u64 = 60_000;

impl Planner<'_> {
    /// The cluster is to go: no membership call, since nobody is left to keep a quorum for.
    pub(super) fn deleted(&mut self) -> Next {
        let wanted = &self.facts.observed.wanted;
        if !wanted.deletion_asked {
            return Next::Idle;
        }
        if wanted.deletion_protection {
            self.note(WaitingOn::DeletionProtected);
            return Next::Idle;
        }
        let objects = self.facts.objects.clone();
        for object in &objects {
            if object.pod == Pod::Unknown {
                return self.unreadable(&object.name, Part::Pod);
            }
            match self.delete_pod(object, Why::ClusterDeleted) {
                Next::Idle => {}
                act => return act,
            }
        }
        // Those on silent nodes go when the node does.
        let pods = objects.iter().filter_map(|object| pod(object));
        let pods = pods.filter(|pod| !pod.node_silent).count();
        if pods > 0 {
            return self.wait(WaitingOn::PodsLeaving { pods });
        }
        for object in &objects {
            let gone = wanted.retention == Retention::Delete;
            if gone && object.volume == Volume::Unknown {
                return self.unreadable(&object.name, Part::Volume);
            }
            if let Some(volume) = volume(object).filter(|_| gone)
                && volume.phase != VolumePhase::Terminating
            {
                return Next::Act(Action::DeleteVolume {
                    name: object.name.clone(),
                    uid: volume.uid.clone(),
                });
            }
        }
        match objects.first() {
            Some(object) => Next::Act(Action::DeleteMemberObject {
                name: object.name.clone(),
                uid: object.uid.clone(),
            }),
            None => Next::Act(Action::ReleaseCluster),
        }
    }

    /// A live member that is not ours stops everything that changes a membership or a Pod.
    pub(super) fn strangers(&mut self) -> Next {
        let Some(live) = self.facts.live else {
            return Next::Idle;
        };
        for member in &live.members {
            if self.facts.object_of(member).is_none() && member.number.is_none() {
                self.note(WaitingOn::UnknownMember {
                    id: member.id,
                    name: member.name.clone(),
                    peer_urls: member.peer_urls.clone(),
                });
            }
        }
        let stops = |reason: &WaitingOn| matches!(reason, WaitingOn::UnknownMember { .. });
        if self.waiting.iter().any(stops) {
            Next::Wait
        } else {
            Next::Idle
        }
    }

    /// A live member of ours whose object is gone gets it back.
    pub(super) fn orphans(&mut self) -> Next {
        let Some(live) = self.facts.live else {
            return Next::Idle;
        };
        for member in &live.members {
            if let (None, Some(number)) = (self.facts.object_of(member), member.number) {
                let name = self.facts.name_for(number);
                return self.ensure_object(&name, number, false);
            }
        }
        Next::Idle
    }

    /// Objects that are neither in the membership nor about to be.
    pub(super) fn leftovers(&mut self) -> Next {
        if self.facts.live.is_none() {
            return Next::Idle;
        }
        for object in self.facts.objects.clone() {
            if self.facts.live_of(object).is_some() || self.facts.joins(object) {
                continue;
            }
            if object.pod == Pod::Unknown {
                self.unreadable(&object.name, Part::Pod);
                continue;
            }
            match self.take_away(object) {
                Next::Act(action) => return Next::Act(action),
                Next::Wait | Next::Idle => {}
            }
        }
        Next::Idle
    }

    /// The disruption budget counts Pods by a label: a voter gets it after its promotion, and
    /// loses it before its removal, so that the count errs to the safe side.
    pub(super) fn labels(&mut self) -> Next {
        let leaving = match self.facts.operation().map(|operation| &operation.kind) {
            Some(OperationKind::RemoveMember { member }) => Some(member),
            _ => None,
        };
        if self.is_promoting() {
            return Next::Idle;
        }
        for object in self.facts.objects.clone() {
            let voter = self.is_voter(object) && leaving != Some(&object.name);
            if let Some(pod) = pod(object)
                && pod.labelled_voter != voter
                && pod.phase != PodPhase::Terminating
                && self.facts.live_of(object).is_some()
            {
                return Next::Act(Action::LabelPod {
                    name: object.name.clone(),
                    uid: pod.uid.clone(),
                    voter,
                });
            }
        }
        Next::Idle
    }

    /// One of two has its vote: nothing comes between it and the other one's.
    fn is_promoting(&self) -> bool {
        let Some(OperationKind::AddMembers { members }) =
            self.facts.operation().map(|operation| &operation.kind)
        else {
            return false;
        };
        let roles = members.iter().filter_map(|name| self.facts.object(name));
        let roles: Vec<_> = roles.filter_map(|object| self.facts.role(object)).collect();
        roles.contains(&Role::Voter) && roles.contains(&Role::Learner)
    }

    /// NOSPACE: compact, defragment (the leader last), disarm. CORRUPT is `replace`'s, but for
    /// the alarm of a member that is gone; and it comes first, since no member compacts under it.
    pub(super) fn alarms(&mut self) -> Next {
        let Some(live) = self.facts.live else {
            return Next::Idle;
        };
        let mut no_space = None;
        let mut corrupt = false;
        for alarm in &live.alarms {
            // It stays until a person has chosen: nothing else stops writes to members that differ.
            if alarm.member == NOBODY && alarm.kind == AlarmKind::Corrupt {
                let (member, kind) = (None, alarm.kind);
                self.note(WaitingOn::AlarmRaised { member, kind });
                corrupt = true;
                continue;
            }
            let known = live.members.iter().any(|member| member.id == alarm.member);
            if !known {
                return Next::Act(Action::Disarm {
                    member: alarm.member,
                    kind: alarm.kind,
                });
            }
            self.note(WaitingOn::AlarmRaised {
                member: Some(self.facts.name_of(alarm.member)),
                kind: alarm.kind,
            });
            match alarm.kind {
                AlarmKind::NoSpace => no_space = no_space.or(Some(alarm.member)),
                AlarmKind::Corrupt => corrupt = true,
            }
        }
        match no_space {
            Some(member) if !corrupt => self.make_space(member),
            _ => Next::Idle,
        }
    }

    fn make_space(&mut self, alarmed: quorum::MemberId) -> Next {
        let Some(live) = self.facts.live.filter(|live| live.quota > 0) else {
            return Next::Idle;
        };
        let is_full =
            |bytes: u64| bytes.saturating_mul(10) >= live.quota.saturating_mul(FULL_TENTHS);
        let objects = self.facts.objects.clone();
        let members = objects
            .into_iter()
            .filter(|object| self.facts.live_of(object).is_some())
            .filter_map(|object| answer(object).map(|answer| (object, answer)));
        let mut full: Vec<_> = members
            .filter(|(_, answer)| is_full(answer.db_size))
            .collect();
        if full.is_empty() {
            return Next::Act(Action::Disarm {
                member: alarmed,
                kind: AlarmKind::NoSpace,
            });
        }
        let compacted = live.compacted_revision >= live.store_revision;
        // All are gone through also when it is known what to do: what has failed is told as long
        // as it is remembered, or it would be news again after each attempt.
        let mut act = None;
        if !compacted && !self.has_failed(Remedy::Compact, None) {
            act = Some(Action::Compact {
                revision: live.store_revision,
            });
        }
        full.sort_by_key(|(object, _)| self.facts.leads(object));
        let mut others_hold = false;
        for (object, answer) in &full {
            if is_full(answer.db_in_use) {
                others_hold = true;
                // Before it is compacted nobody knows how much of it is live.
                if !compacted {
                    continue;
                }
                self.note(WaitingOn::QuotaExhausted {
                    member: object.name.clone(),
                    in_use: answer.db_in_use,
                    quota: live.quota,
                });
                continue;
            }
            let name = object.name.clone();
            let has_failed = self.has_failed(Remedy::Defragment(answer.id), Some(&name));
            // One that has not deleted yet what was compacted will be defragmented in a moment.
            let wait = others_hold || !self.others_have_applied(answer.applied_index);
            if self.facts.leads(object) && wait {
                continue;
            }
            if has_failed {
                others_hold = true;
                continue;
            }
            // A member goes on serving while it is rewritten, and the alarm has stopped all
            // writes: it is not put off for a voter in doubt.
            act = act.or(Some(Action::Defragment {
                name,
                id: answer.id,
            }));
        }
        act.map_or(Next::Idle, Next::Act)
    }

    /// It failed a moment ago. It is noted also when it is its turn again.
    fn has_failed(&mut self, remedy: Remedy, member: Option<&String>) -> bool {
        let failed = self.facts.observed.remedies_failed.iter();
        let those = failed.filter(|failed| failed.remedy == remedy);
        let age = those.map(|failed| self.facts.since(failed.at_ms)).min();
        let Some(age) = age else {
            return false;
        };
        let in_ms = REMEDY_AGAIN_MS.saturating_sub(age);
        self.note(WaitingOn::RemedyFailed {
            remedy,
            member: member.cloned(),
            in_ms,
        });
        in_ms > 0
    }

    /// The leader is the last one: another may turn out to be full when it has applied as much, or answers again. For
    /// one that is down for longer than a moment nobody waits.
    fn others_have_applied(&self, index: u64) -> bool {
        let mut others = self
            .facts
            .objects
            .iter()
            .filter(|object| self.facts.live_of(object).is_some() && !self.facts.leads(object));
        others.all(|object| match answer(object) {
            Some(answer) => answer.applied_index >= index,
            None => self.facts.dead(object),
        })
    }

    /// `minAvailable`, an integer: enough voters for the quorum of the larger of what is and what
    /// shall be, those that are about to be promoted included. Written before the act.
    pub(super) fn budget(&mut self) -> Next {
        let Some(target) = self.facts.target() else {
            return Next::Idle;
        };
        let joining = self
            .facts
            .learner_objects()
            .filter(|object| self.facts.joins(object))
            .count();
        let voters = self.facts.voters() + joining;
        let voters = voters.max(target.replicas as usize);
        let policy = self.facts.policy;
        if !policy.budget {
            return self.set_budget(None);
        }
        let mut min_available = quorum::need(voters);
        if voters <= 2 {
            if policy.evict_with_outage {
                min_available = 0;
            } else {
                self.note(WaitingOn::EvictionsRefused { voters });
            }
        }
        let min_available = u32::try_from(min_available).unwrap_or(u32::MAX);
        self.set_budget(Some(min_available))
    }

    pub(super) fn set_budget(&mut self, min_available: Option<u32>) -> Next {
        let is = match self.facts.observed.budget {
            crate::Budget::Unknown => {
                let cluster = self.facts.observed.wanted.cluster.clone();
                return self.unreadable(&cluster, Part::Budget);
            }
            crate::Budget::Absent => None,
            crate::Budget::Present(min_available) => Some(min_available),
        };
        if is == min_available {
            Next::Idle
        } else {
            Next::Act(Action::UpdateBudget { min_available })
        }
    }
}
