//! What follows from what was observed, worked out once: who is who, who is healthy, whose time
//! has come. Nothing here decides.

use std::time::Duration;

use quorum::{Doubt, Life, Member, MemberId, Role, Step, Verdict, View, judge, need};

use crate::{
    AlarmKind, Answer, Asked, Broken, Live, LiveMember, MemberObject, Membership, Observed,
    Operation, OperationKind, Pending, Pod, PodFacts, PodPhase, Policy, Replace, Target, Volume,
    VolumeFacts, VolumePhase,
};

const HOUR_MS: u64 = 3_600_000;

/// The observation with its arithmetic.
pub(crate) struct Facts<'a> {
    pub observed: &'a Observed,
    pub policy: &'a Policy,
    /// The live membership, where it is known.
    pub live: Option<&'a Membership>,
    /// What `quorum` judges by; without members where the membership is not known.
    pub view: View,
    /// The member objects, by number.
    pub objects: Vec<&'a MemberObject>,
}

/// Whether a failed member may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing says that it has failed.
    No,
    /// When it has been in doubt for longer.
    Later { why: Replace, in_ms: u64 },
    /// Too many were replaced.
    UsedUp {
        why: Replace,
        done: usize,
        in_ms: u64,
    },
    /// Only a person may ask for it.
    NotAllowed { why: Replace },
    /// It may.
    Now { why: Replace },
}

impl<'a> Facts<'a> {
    pub fn of(observed: &'a Observed, policy: &'a Policy) -> Facts<'a> {
        let live = match &observed.live {
            Live::Known(membership) => Some(membership),
            Live::Unknown => None,
        };
        let mut objects: Vec<_> = observed.members.iter().collect();
        objects.sort_by_key(|object| object.number);
        let mut facts = Facts {
            observed,
            policy,
            live,
            view: View {
                itself: None,
                leader: live.map(|live| live.leader),
                members: Vec::new(),
                committed: live.map_or(0, |live| live.committed),
                unapplied_change: false,
            },
            objects,
        };
        if let Some(live) = live {
            let members = live.members.iter().map(|member| facts.counted(member));
            facts.view.members = members.collect();
        }
        facts
    }

    /// A live member as the rule counts it.
    fn counted(&self, member: &LiveMember) -> Member {
        let object = self.object_of(member);
        let answer = object.and_then(answer);
        Member {
            id: member.id,
            role: member.role,
            started: !member.name.is_empty(),
            connected_for: answer
                .and_then(|answer| answer.good_since_ms)
                .map(|_| Duration::MAX),
            life: self.life(member, object),
            matched: answer.map(|answer| answer.raft_index),
        }
    }

    fn life(&self, member: &LiveMember, object: Option<&MemberObject>) -> Life {
        let doubt = |doubt| Life::InDoubt(doubt);
        let Some(object) = object else {
            return doubt(Doubt::Unknown);
        };
        if member.name.is_empty() {
            return doubt(Doubt::NotStarted);
        }
        if self.has_alarm(member.id, AlarmKind::Corrupt) {
            return doubt(Doubt::Unknown);
        }
        match &object.asked {
            Asked::Unknown => doubt(Doubt::Unknown),
            Asked::Silent { since_ms, .. } => doubt(Doubt::NotHeardFor(Duration::from_millis(
                self.since(*since_ms),
            ))),
            Asked::Answered(answer) => match answer.good_since_ms {
                Some(since_ms) if self.agrees(member, answer) => {
                    let good_for = self.since(since_ms);
                    if good_for < self.policy.min_healthy_ms {
                        doubt(Doubt::ConnectedFor(Duration::from_millis(good_for)))
                    } else if leaves(object) {
                        // A drain or a person has stopped it. It answers to the last, and then
                        // not: nobody else may be stopped in between.
                        doubt(Doubt::Leaving)
                    } else {
                        Life::Healthy
                    }
                }
                _ => doubt(Doubt::ProbeUnanswered),
            },
        }
    }

    /// It is who it should be, follows the leader, and is not far behind.
    fn agrees(&self, member: &LiveMember, answer: &Answer) -> bool {
        self.live.is_some_and(|live| {
            answer.id == member.id
                && answer.cluster_id == live.cluster_id
                && answer.leader == Some(live.leader)
                && live.committed.saturating_sub(answer.raft_index) <= self.policy.lag_max
        })
    }

    // ---- who is who

    pub fn object(&self, name: &str) -> Option<&'a MemberObject> {
        self.objects
            .iter()
            .copied()
            .find(|object| object.name == name)
    }

    /// The object of a live member. They meet by the peer URL: a new member has no name yet.
    pub fn object_of(&self, member: &LiveMember) -> Option<&'a MemberObject> {
        self.objects
            .iter()
            .copied()
            .find(|object| member.peer_urls.contains(&object.peer_url))
    }

    pub fn live_of(&self, object: &MemberObject) -> Option<&'a LiveMember> {
        self.live?
            .members
            .iter()
            .find(|member| member.peer_urls.contains(&object.peer_url))
    }

    pub fn object_of_id(&self, id: MemberId) -> Option<&'a MemberObject> {
        let member = self.live?.members.iter().find(|member| member.id == id)?;
        self.object_of(member)
    }

    /// A name for a person: the member's, or its id.
    pub fn name_of(&self, id: MemberId) -> String {
        self.object_of_id(id)
            .map_or_else(|| id.to_string(), |object| object.name.clone())
    }

    pub fn role(&self, object: &MemberObject) -> Option<Role> {
        self.live_of(object).map(|member| member.role)
    }

    pub fn leads(&self, object: &MemberObject) -> bool {
        let leader = self.live.map(|live| live.leader);
        leader.is_some() && leader == self.live_of(object).map(|member| member.id)
    }

    pub fn voters(&self) -> usize {
        self.view.voters().count()
    }

    /// Objects of live voters, by number.
    pub fn voter_objects(&self) -> impl Iterator<Item = &'a MemberObject> + '_ {
        self.objects
            .iter()
            .copied()
            .filter(|object| self.role(object) == Some(Role::Voter))
    }

    /// Objects of live learners, by number.
    pub fn learner_objects(&self) -> impl Iterator<Item = &'a MemberObject> + '_ {
        self.objects
            .iter()
            .copied()
            .filter(|object| self.role(object) == Some(Role::Learner))
    }

    /// Voters as they were last seen, for the time when the membership cannot be read.
    pub fn last_voters(&self) -> impl Iterator<Item = &'a MemberObject> + '_ {
        self.objects
            .iter()
            .copied()
            .filter(|object| object.last_role == Some(Role::Voter))
    }

    pub fn target(&self) -> Option<&'a Target> {
        self.observed.recorded.target.as_ref()
    }

    pub fn operation(&self) -> Option<&'a Operation> {
        self.observed.recorded.operation.as_ref()
    }

    pub fn is_overdue(&self) -> bool {
        self.operation()
            .is_some_and(|operation| self.observed.now_ms > operation.deadline_ms)
    }

    /// Without a quorum because we have stopped it, and it is on its way up again: the first
    /// member, a cluster that wakes, the restart of one without which there is no quorum.
    pub fn is_stopped_on_purpose(&self) -> bool {
        let kind = self.operation().map(|operation| &operation.kind);
        let ours = match kind {
            Some(OperationKind::Bootstrap { .. } | OperationKind::Wake) => true,
            Some(OperationKind::RollMember { member }) => {
                let mut others = self.last_voters().filter(|voter| voter.name != *member);
                others.all(|voter| answer(voter).is_some())
            }
            _ => false,
        };
        ours && self.live.is_none() && !self.is_overdue()
    }

    /// The operation lets this member join.
    pub fn joins(&self, object: &MemberObject) -> bool {
        self.operation()
            .is_some_and(|operation| operation.kind.joining().contains(&object.name.as_str()))
    }

    /// The number that no member and no volume ever had.
    pub fn next_number(&self) -> u64 {
        let objects = self.objects.iter().map(|object| object.number + 1);
        let kept = self.observed.kept_volumes.iter();
        let numbers = objects.chain(kept.map(|volume| volume.number + 1));
        let recorded = self.observed.recorded.member_number_next;
        numbers.max().unwrap_or(0).max(recorded)
    }

    pub fn name_for(&self, number: u64) -> String {
        format!("{}-{number}", self.observed.wanted.cluster)
    }

    // ---- how they are

    pub fn since(&self, then_ms: u64) -> u64 {
        self.observed.now_ms.saturating_sub(then_ms)
    }

    pub fn healthy(&self, object: &MemberObject) -> bool {
        self.life_of(object) == Some(Life::Healthy)
    }

    /// Healthy, but for a Pod that is on its way out: nothing speaks for replacing it, and it
    /// leaves the membership as a healthy one does. Others do not count on it.
    pub fn serves(&self, object: &MemberObject) -> bool {
        matches!(
            self.life_of(object),
            Some(Life::Healthy | Life::InDoubt(Doubt::Leaving))
        )
    }

    fn life_of(&self, object: &MemberObject) -> Option<Life> {
        let member = self.live_of(object)?;
        Some(self.view.member(member.id)?.life)
    }

    /// In doubt for so long; `None` when it is healthy, or about to count as healthy, or could
    /// not be asked.
    pub fn in_doubt_ms(&self, object: &MemberObject) -> Option<u64> {
        match &object.asked {
            Asked::Unknown => None,
            Asked::Silent {
                failed_since_ms, ..
            } => Some(self.since(*failed_since_ms)),
            Asked::Answered(answer) => answer.bad_since_ms.map(|since| self.since(since)),
        }
    }

    /// In doubt for long enough that it is not a matter of a moment.
    pub fn dead(&self, object: &MemberObject) -> bool {
        !self.healthy(object)
            && (self.corrupt(object)
                || self
                    .in_doubt_ms(object)
                    .is_some_and(|for_ms| for_ms >= self.policy.min_healthy_ms))
    }

    pub fn corrupt(&self, object: &MemberObject) -> bool {
        self.live_of(object)
            .is_some_and(|member| self.has_alarm(member.id, AlarmKind::Corrupt))
    }

    /// Its data differ, and it answers as if they did not. A restart mends nothing, and would end
    /// what may still be read from it: it is replaced, by the rule or by a person.
    pub fn corrupt_and_serves(&self, object: &MemberObject) -> bool {
        self.corrupt(object) && answer(object).is_some_and(|answer| answer.good_since_ms.is_some())
    }

    fn has_alarm(&self, id: MemberId, kind: AlarmKind) -> bool {
        self.live.is_some_and(|live| {
            live.alarms
                .iter()
                .any(|alarm| alarm.member == id && alarm.kind == kind)
        })
    }

    /// The first voter in doubt, other than this one.
    pub fn other_in_doubt(&self, but: Option<&MemberObject>) -> Option<&'a MemberObject> {
        self.voter_objects()
            .find(|voter| but.is_none_or(|but| but.name != voter.name) && !self.healthy(voter))
    }

    /// Entries that a member's log lacks.
    pub fn lag(&self, object: &MemberObject) -> Option<u64> {
        let committed = self.live?.committed;
        answer(object).map(|answer| committed.saturating_sub(answer.raft_index))
    }

    pub fn judge(&self, step: Step) -> Verdict {
        let policy = quorum::Policy::operator(self.policy.accept_outage);
        judge(&self.view, step, policy)
    }

    /// What says that a member in doubt will not come back by itself.
    fn evidence(&self, object: &MemberObject) -> Option<Replace> {
        if self.corrupt(object) {
            return Some(Replace::Corrupt);
        }
        let started = self
            .live_of(object)
            .is_some_and(|member| !member.name.is_empty());
        match &object.volume {
            Volume::Absent if started => return Some(Replace::VolumeLost),
            Volume::Present(volume) => match volume.phase {
                VolumePhase::Lost => return Some(Replace::VolumeLost),
                VolumePhase::Terminating if started => return Some(Replace::VolumeLost),
                VolumePhase::Stranded => return Some(Replace::NodeGone),
                _ => {}
            },
            Volume::Unknown | Volume::Absent => {}
        }
        match &object.pod {
            Pod::Present(pod) if pod.node_silent => Some(Replace::NodeSilent),
            Pod::Present(pod) if matches!(pod.phase, PodPhase::CrashLooping { .. }) => {
                Some(Replace::CrashLoop)
            }
            _ => None,
        }
    }

    /// Evidence that a member is lost, for long enough. A person's policy may forbid to replace
    /// a voter on it; a learner has nothing to lose.
    pub fn lost_for_good(&self, object: &MemberObject) -> Option<Replace> {
        let why = self.evidence(object)?;
        let patience = self
            .policy
            .replace_failed_after_ms
            .unwrap_or(self.policy.operation_timeout_ms);
        let at_once = why == Replace::Corrupt || why == Replace::VolumeLost;
        let waited = self.in_doubt_ms(object) >= Some(patience);
        (!self.serves(object) && (at_once || waited)).then_some(why)
    }

    /// Whether a voter's replacement is due. Of a dead one that a person asks for it is, whatever
    /// the policy, and however many were replaced.
    pub fn due(&self, object: &MemberObject) -> Due {
        if self.serves(object) {
            return Due::No;
        }
        if object.deletion_asked && self.dead(object) {
            let why = Replace::Asked;
            return Due::Now { why };
        }
        let Some(why) = self.evidence(object) else {
            return Due::No;
        };
        // A newer revision may mend it; `mend` gives it one first.
        if why == Replace::CrashLoop && self.outdated(object) {
            return Due::No;
        }
        let Some(after_ms) = self.policy.replace_failed_after_ms else {
            return Due::NotAllowed { why };
        };
        if why != Replace::Corrupt {
            let Some(for_ms) = self.in_doubt_ms(object) else {
                return Due::No;
            };
            if for_ms < after_ms {
                let in_ms = after_ms - for_ms;
                return Due::Later { why, in_ms };
            }
        }
        let replaced = &self.observed.recorded.replacements_ms;
        let mut ages: Vec<_> = replaced.iter().map(|then| self.since(*then)).collect();
        ages.retain(|age| *age < HOUR_MS);
        ages.sort_unstable();
        let allowed = self.policy.replacements_per_hour_max as usize;
        if ages.len() >= allowed {
            // When so many have left the hour that one more may begin.
            let oldest = allowed.checked_sub(1).and_then(|at| ages.get(at));
            return Due::UsedUp {
                why,
                done: ages.len(),
                in_ms: oldest.map_or(HOUR_MS, |age| HOUR_MS - age),
            };
        }
        Due::Now { why }
    }

    /// Its Pod is not of the target's revision.
    pub fn outdated(&self, object: &MemberObject) -> bool {
        let (Some(pod), Some(target)) = (pod(object), self.target()) else {
            return false;
        };
        pod.revision != target.revision
    }

    /// So many voters answer well enough to hope, of those last seen; and so many it takes.
    pub fn last_count(&self) -> (usize, usize, usize) {
        let voters = self.last_voters().count();
        let answering = self
            .last_voters()
            .filter(|voter| answer(voter).is_some())
            .count();
        (voters, answering, need(voters))
    }
}

pub(crate) fn answer(object: &MemberObject) -> Option<&Answer> {
    match &object.asked {
        Asked::Answered(answer) => Some(answer),
        _ => None,
    }
}

pub(crate) fn pod(object: &MemberObject) -> Option<&PodFacts> {
    match &object.pod {
        Pod::Present(pod) => Some(pod),
        _ => None,
    }
}

pub(crate) fn volume(object: &MemberObject) -> Option<&VolumeFacts> {
    match &object.volume {
        Volume::Present(volume) => Some(volume),
        _ => None,
    }
}

/// Its Pod is on its way out: evicted, deleted by somebody, or by us.
pub(crate) fn leaves(object: &MemberObject) -> bool {
    pod(object).is_some_and(|pod| pod.phase == PodPhase::Terminating)
}

/// There is a disk, or one is on its way, on which a Pod can start.
pub(crate) fn has_usable_volume(object: &MemberObject) -> bool {
    volume(object)
        .is_some_and(|volume| matches!(volume.phase, VolumePhase::Bound | VolumePhase::Pending))
}

/// How a Pod cannot start as it is. One on a silent node is not judged: what is written is old.
pub(crate) fn broken(pod: &PodFacts) -> Option<Broken> {
    if pod.node_silent {
        return None;
    }
    match pod.phase {
        PodPhase::Pending(Pending::Unschedulable) => Some(Broken::Unschedulable),
        PodPhase::Pending(Pending::Image) => Some(Broken::Image),
        PodPhase::Pending(Pending::Volume) => Some(Broken::Volume),
        PodPhase::Pending(Pending::VolumeNode) => Some(Broken::VolumeNode),
        PodPhase::Pending(Pending::Config) => Some(Broken::Config),
        PodPhase::CrashLooping { restarts } => Some(Broken::CrashLooping { restarts }),
        _ => None,
    }
}
