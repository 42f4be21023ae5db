//! Laws that every plan keeps, judged without knowing how it was made.

use std::fmt::{Display, Formatter};

use crate::{
    Action, AlarmKind, Asked, Budget, Live, LiveMember, MemberId, MemberObject, Membership,
    Observed, OperationKind, Plan, Pod, PodFacts, PodPhase, Policy, Retention, Role, Start, Volume,
    VolumePhase, Why,
};

/// A law that a plan breaks, with what it would have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The law, as a sentence.
    pub law: &'static str,
    /// The act, in words.
    pub act: String,
}

impl Display for Violation {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.act, self.law)
    }
}

impl std::error::Error for Violation {}

/// Refuses a plan that breaks a law. It counts for itself, and shares nothing with the planner
/// but the types: neither its facts nor the crate `quorum`.
///
/// # Errors
///
/// The first law that is broken.
pub fn check(observed: &Observed, policy: &Policy, plan: &Plan) -> Result<(), Violation> {
    let Some(action) = &plan.action else {
        return Ok(());
    };
    let judge = Judge {
        observed,
        policy,
        live: match &observed.live {
            Live::Known(live) => Some(live),
            Live::Unknown => None,
        },
    };
    let laws = judge
        .at_rest(action)
        .and_then(|()| judge.by_whom(action))
        .and_then(|()| judge.membership(action))
        .and_then(|()| judge.pods(action))
        .and_then(|()| judge.data(action))
        .and_then(|()| judge.records(action));
    laws.map_err(|law| Violation {
        law,
        act: action.to_string(),
    })
}

type Law = Result<(), &'static str>;

fn law(holds: bool, text: &'static str) -> Law {
    if holds { Ok(()) } else { Err(text) }
}

struct Judge<'a> {
    observed: &'a Observed,
    policy: &'a Policy,
    live: Option<&'a Membership>,
}

impl Judge<'_> {
    // ---- counting

    fn object(&self, name: &str) -> Option<&MemberObject> {
        self.observed.members.iter().find(|m| m.name == name)
    }

    fn member_of(&self, object: &MemberObject) -> Option<&LiveMember> {
        let live = self.live?;
        live.members
            .iter()
            .find(|m| m.peer_urls.contains(&object.peer_url))
    }

    /// Others may count on it: it serves, and nobody has stopped it.
    fn well(&self, member: &LiveMember) -> bool {
        let stopped = self.observed.members.iter().any(|o| {
            member.peer_urls.contains(&o.peer_url)
                && matches!(&o.pod, Pod::Present(pod) if pod.phase == PodPhase::Terminating)
        });
        !stopped && self.serves(member)
    }

    fn serves(&self, member: &LiveMember) -> bool {
        let Some(live) = self.live else {
            return false;
        };
        let corrupt = live
            .alarms
            .iter()
            .any(|a| a.member == member.id && a.kind == AlarmKind::Corrupt);
        let object = self
            .observed
            .members
            .iter()
            .find(|o| member.peer_urls.contains(&o.peer_url));
        let answer = object.and_then(|o| match &o.asked {
            Asked::Answered(answer) => Some(answer),
            _ => None,
        });
        let good = answer.is_some_and(|a| {
            a.id == member.id
                && a.cluster_id == live.cluster_id
                && a.good_since_ms
                    .is_some_and(|t| self.observed.now_ms >= t + self.policy.min_healthy_ms)
        });
        good && !corrupt && !member.name.is_empty()
    }

    fn voters(&self) -> Vec<&LiveMember> {
        let members = self.live.map_or(&[][..], |live| &live.members);
        members.iter().filter(|m| m.role == Role::Voter).collect()
    }

    fn well_voters(&self) -> usize {
        self.voters().iter().filter(|m| self.well(m)).count()
    }

    fn is_well_voter(&self, object: &MemberObject) -> bool {
        self.member_of(object)
            .is_some_and(|m| m.role == Role::Voter && self.well(m))
    }

    /// In doubt for longer than a moment.
    fn long_in_doubt(&self, object: &MemberObject, member: &LiveMember) -> bool {
        let since = match &object.asked {
            Asked::Silent {
                failed_since_ms, ..
            } => Some(*failed_since_ms),
            Asked::Answered(answer) => answer.bad_since_ms,
            Asked::Unknown => None,
        };
        let long = since.is_some_and(|t| self.observed.now_ms >= t + self.policy.min_healthy_ms);
        let corrupt = self.live.is_some_and(|live| {
            live.alarms
                .iter()
                .any(|a| a.member == member.id && a.kind == AlarmKind::Corrupt)
        });
        long || corrupt
    }

    fn kind(&self) -> Option<&OperationKind> {
        self.observed.recorded.operation.as_ref().map(|o| &o.kind)
    }

    fn dissolves(&self) -> bool {
        self.observed.wanted.deletion_asked && !self.observed.wanted.deletion_protection
    }

    fn target_replicas(&self) -> usize {
        let target = self.observed.recorded.target.as_ref();
        target.map_or(0, |t| t.replicas as usize)
    }

    // ---- the laws

    /// When nothing may be done at all.
    fn at_rest(&self, action: &Action) -> Law {
        law(
            !self.observed.wanted.paused,
            "a paused cluster is not touched",
        )?;
        if self.dissolves() {
            return Ok(());
        }
        if let Some(latched) = self.observed.recorded.cluster_id {
            let other = self.live.is_some_and(|l| l.cluster_id != latched)
                || self
                    .observed
                    .members
                    .iter()
                    .any(|m| matches!(&m.asked, Asked::Answered(a) if a.cluster_id != latched));
            law(
                !other,
                "nothing is done while a member belongs to another cluster",
            )?;
        }
        let harmless = matches!(
            action,
            Action::EnsurePod { .. }
                | Action::EnsureVolume { .. }
                | Action::EnsureMemberObject { .. }
                | Action::LatchTarget(_)
                | Action::LatchClusterId(_)
                | Action::DeletePod {
                    why: Why::CannotStart | Why::Ended | Why::JoinsAnOldMembership,
                    ..
                }
        );
        let stranger = self.live.is_some_and(|live| {
            live.members.iter().any(|member| {
                member.number.is_none()
                    && !self
                        .observed
                        .members
                        .iter()
                        .any(|o| member.peer_urls.contains(&o.peer_url))
            })
        });
        law(
            !stranger || harmless || self.target_replicas() == 0 || self.recovers(),
            "nothing goes on beside a member that is not ours",
        )?;
        if self.live.is_none() {
            let alone = harmless
                || self.target_replicas() == 0
                || self.recovers()
                || self.observed.recorded.cluster_id.is_none()
                || matches!(
                    action,
                    Action::RecordOperation { operation, .. }
                        if matches!(operation.kind, OperationKind::RecoverQuorum { .. })
                );
            law(
                alone,
                "without a quorum only what has its disk is started again",
            )?;
        }
        Ok(())
    }

    fn recovers(&self) -> bool {
        matches!(self.kind(), Some(OperationKind::RecoverQuorum { .. }))
    }

    /// What changes the membership, or stops a healthy member, was recorded before.
    fn by_whom(&self, action: &Action) -> Law {
        let joining = |name: &str| {
            self.kind()
                .is_some_and(|kind| kind.joining().contains(&name))
        };
        let leaving = |name: &str| self.kind().and_then(OperationKind::leaving) == Some(name);
        match action {
            Action::MemberAddLearner { name, .. } | Action::MemberPromote { name, .. } => {
                law(joining(name), "who joins stands in the operation")
            }
            Action::MemberRemove { name, .. } => law(
                leaving(name) || joining(name),
                "who leaves stands in the operation",
            ),
            _ => Ok(()),
        }
    }

    /// The arithmetic of the quorum.
    fn membership(&self, action: &Action) -> Law {
        let (name, id, expected) = match action {
            Action::MemberAddLearner { name, expected, .. } => (name, None, expected),
            Action::MemberPromote { name, id, expected }
            | Action::MemberRemove { name, id, expected } => (name, Some(*id), expected),
            Action::MoveLeader { from, to } => return self.leader(*from, *to),
            _ => return Ok(()),
        };
        let Some(live) = self.live else {
            return Err("the membership is changed only when it is known");
        };
        law(
            *expected == live.digest,
            "a change is tied to the membership that was seen",
        )?;
        let Some(object) = self.object(name) else {
            return Err("who joins or leaves has its object");
        };
        let member = self.member_of(object);
        law(member.map(|m| m.id) == id, "the id is the member's")?;
        let voters = self.voters().len();
        let well = self.well_voters();
        match (action, member) {
            (Action::MemberAddLearner { .. }, None) => {
                let learners = live.members.len() - voters;
                law(well * 2 > voters, "a learner is added by a quorum")?;
                law(
                    learners == 0 || (voters == 1 && learners == 1),
                    "one learner at a time, two only beside one voter",
                )
            }
            (Action::MemberPromote { .. }, Some(learner)) => {
                law(
                    learner.role == Role::Learner,
                    "who is promoted is a learner",
                )?;
                law(self.well(learner), "who is promoted is healthy")?;
                law((well + 1) * 2 > voters + 1, "the promoted are a quorum")?;
                // The learner's crash was harmless. Beside a voter in doubt it stays so.
                law(
                    well == voters || well * 2 > voters + 1,
                    "beside a voter in doubt, no crash becomes fatal by a promotion",
                )?;
                self.budget_covers(voters + 1)
            }
            (Action::MemberRemove { .. }, Some(leaver)) if leaver.role == Role::Learner => {
                law(well * 2 > voters, "a learner is removed by a quorum")
            }
            (Action::MemberRemove { .. }, Some(leaver)) => {
                law(voters > 1, "the last voter stays")?;
                self.budget_covers(voters)?;
                if self.serves(leaver) {
                    let others = well - usize::from(self.well(leaver));
                    law(
                        others == voters - 1,
                        "a healthy voter leaves only from among healthy ones",
                    )?;
                    law(
                        leaver.id != live.leader,
                        "the leader leaves when another one leads",
                    )
                } else {
                    law(
                        self.long_in_doubt(object, leaver),
                        "doubt of a moment removes nobody",
                    )?;
                    law(well * 2 > voters - 1, "those that stay are a quorum")?;
                    let tolerated = (well - 1) * 2 > voters;
                    let still = (well - 1) * 2 > voters - 1;
                    law(!tolerated || still, "no crash becomes fatal by a removal")
                }
            }
            _ => Err("who joins is not a member, who leaves is one"),
        }
    }

    fn budget_covers(&self, voters: usize) -> Law {
        let needed = voters.max(self.target_replicas()) / 2 + 1;
        let holds = match self.observed.budget {
            Budget::Present(min) => min as usize >= needed || self.policy.evict_with_outage,
            Budget::Absent | Budget::Unknown => !self.policy.budget,
        };
        law(
            holds || !self.policy.budget,
            "the disruption budget is written before the membership changes",
        )
    }

    fn leader(&self, from: MemberId, to: MemberId) -> Law {
        let Some(live) = self.live else {
            return Err("nobody leads");
        };
        law(
            live.leader == from && from != to,
            "the leader moves to another",
        )?;
        let heir = live.members.iter().find(|m| m.id == to);
        law(
            heir.is_some_and(|m| m.role == Role::Voter && self.well(m)),
            "who takes over is a healthy voter",
        )
    }

    /// Pods: who may be stopped, who may be started.
    fn pods(&self, action: &Action) -> Law {
        match action {
            Action::DeletePod { name, uid, why } => {
                let Some(object) = self.object(name) else {
                    return Err("a Pod that is deleted has its object");
                };
                let Pod::Present(pod) = &object.pod else {
                    return Err("a Pod that is deleted was seen");
                };
                law(pod.uid == *uid, "the very Pod that was seen is deleted")?;
                self.stop(object, pod, *why)
            }
            Action::EnsurePod {
                name,
                start,
                revision,
                ..
            } => {
                let Some(object) = self.object(name) else {
                    return Err("a Pod has its object");
                };
                law(object.pod == Pod::Absent, "one Pod per member")?;
                law(
                    object.revision == *revision,
                    "a Pod is rendered from its object",
                )?;
                let wanted = &self.observed.wanted;
                law(
                    self.target_replicas() > 0 || wanted.replicas > 0,
                    "nothing is started in a cluster that sleeps",
                )?;
                law(
                    matches!(&object.volume, Volume::Present(v) if !matches!(v.phase, VolumePhase::Lost | VolumePhase::Terminating)),
                    "a Pod starts on its volume",
                )?;
                self.start(object, *start)
            }
            _ => Ok(()),
        }
    }

    fn stop(&self, object: &MemberObject, pod: &PodFacts, why: Why) -> Law {
        match why {
            Why::Outdated | Why::CannotStart | Why::Ended | Why::JoinsAnOldMembership => {
                let serves =
                    matches!(&object.asked, Asked::Answered(a) if a.good_since_ms.is_some());
                let down = matches!(
                    pod.phase,
                    PodPhase::CrashLooping { .. } | PodPhase::Pending(_) | PodPhase::Ended
                );
                let begun = pod.start == Start::Recover && self.live.is_none();
                law(
                    !begun || self.observed.wanted.recover.is_some(),
                    "a recovery that may have begun is not lost sight of",
                )?;
                if !self.is_well_voter(object) {
                    return law(
                        down || !serves,
                        "who serves and is not known to be healthy is not stopped",
                    );
                }
                law(why == Why::Outdated, "a healthy voter stops only to change")?;
                let recorded = matches!(self.kind(), Some(OperationKind::RollMember { member }) if *member == object.name);
                law(recorded, "a restart stands in the operation")?;
                let (voters, well) = (self.voters().len(), self.well_voters());
                if voters <= 2 {
                    return law(self.policy.accept_outage, "no outage that was not accepted");
                }
                law((well - 1) * 2 > voters, "those that run on are a quorum")?;
                let leads = self.live.map(|l| l.leader) == self.member_of(object).map(|m| m.id);
                law(!leads, "a leader hands over before it restarts")
            }
            Why::Begun => {
                law(
                    pod.start == Start::New && self.observed.recorded.cluster_id.is_some(),
                    "only a Pod that says new stops because the cluster has begun",
                )?;
                law(
                    matches!(self.kind(), Some(OperationKind::Bootstrap { member }) if *member == object.name),
                    "the first member starts again before anything else is done",
                )
            }
            Why::Removed => law(
                self.live.is_some() && self.member_of(object).is_none(),
                "a Pod goes when its member is gone",
            ),
            Why::Hibernates => law(
                self.target_replicas() == 0 && self.observed.wanted.replicas == 0,
                "a cluster sleeps when it is told to",
            ),
            Why::ClusterDeleted => law(self.dissolves(), "a cluster goes when it is told to"),
            Why::Abandoned | Why::Recovers => {
                let Some(OperationKind::RecoverQuorum { survivor, .. }) = self.kind() else {
                    return Err("a recovery is ordered");
                };
                let is_survivor = *survivor == object.name;
                law(
                    is_survivor == (why == Why::Recovers),
                    "the survivor is named",
                )?;
                law(
                    is_survivor || self.live.is_none(),
                    "nobody is abandoned while there is a quorum",
                )
            }
        }
    }

    fn start(&self, object: &MemberObject, start: Start) -> Law {
        let others = || {
            self.observed
                .members
                .iter()
                .filter(|m| m.name != object.name)
        };
        match start {
            Start::New => {
                let recorded = &self.observed.recorded;
                law(
                    recorded.cluster_id.is_none() && object.seed && self.live.is_none(),
                    "a cluster begins once",
                )?;
                let members = &self.observed.members;
                law(
                    members.iter().all(|m| m.last_role.is_none()),
                    "a cluster that had members does not begin again",
                )?;
                // Its status may be lost, and what its members were.
                law(
                    others().count() == 0,
                    "a cluster does not begin beside other members",
                )?;
                let kept = &self.observed.kept_volumes;
                law(
                    kept.iter().all(|volume| volume.number < object.number),
                    "a cluster does not begin beside volumes that are younger",
                )
            }
            Start::Existing => Ok(()),
            Start::Recover => {
                let named = matches!(
                    self.kind(),
                    Some(OperationKind::RecoverQuorum { survivor, recovered: false, .. })
                        if *survivor == object.name
                );
                law(named && self.live.is_none(), "a recovery is ordered")?;
                law(
                    others().all(|m| match &m.pod {
                        Pod::Absent => true,
                        Pod::Present(pod) => pod.node_silent,
                        Pod::Unknown => false,
                    }),
                    "the others have stopped before the survivor goes on alone",
                )
            }
        }
    }

    /// Volumes and objects.
    fn data(&self, action: &Action) -> Law {
        let gone = |name: &str| {
            self.dissolves()
                || self.live.is_some()
                    && self
                        .object(name)
                        .is_some_and(|o| self.member_of(o).is_none())
        };
        match action {
            Action::DeleteVolume { name, .. } => {
                law(gone(name), "data goes when its member is gone")?;
                let deletes = self.observed.wanted.retention == Retention::Delete;
                law(deletes, "data is kept that shall be kept")
            }
            Action::ReleaseVolume { name, .. } => law(gone(name), "a volume outlives its member"),
            Action::DeleteMemberObject { name, .. } => {
                law(gone(name), "an object goes when its member is gone")?;
                let joins = self
                    .kind()
                    .is_some_and(|kind| kind.joining().contains(&name.as_str()));
                law(!joins || self.dissolves(), "who joins keeps its object")
            }
            Action::ReleaseCluster => law(
                self.dissolves() && self.observed.members.is_empty(),
                "a cluster is let go when nothing of it is left",
            ),
            Action::EnsureVolume { name } => {
                let Some(object) = self.object(name) else {
                    return Err("a volume has its object");
                };
                law(object.volume == Volume::Absent, "one volume per member")?;
                let started = self.member_of(object).is_some_and(|m| !m.name.is_empty());
                law(
                    !started && object.last_role != Some(Role::Voter),
                    "a member that had data never starts on an empty disk",
                )
            }
            Action::EnsureMemberObject { name, number, .. } => {
                let adopts = self.kind() == Some(&OperationKind::Adopt);
                let kept = self.observed.kept_volumes.iter().any(|v| v.member == *name);
                let lives = self
                    .live
                    .is_some_and(|live| live.members.iter().any(|m| m.number == Some(*number)));
                law(
                    self.object(name).is_some() || !kept || adopts || lives,
                    "an old volume never meets a new member",
                )
            }
            Action::Disarm {
                member,
                kind: AlarmKind::Corrupt,
            } => law(
                member.0 != 0
                    && self
                        .live
                        .is_some_and(|l| l.members.iter().all(|m| m.id != *member)),
                "a corrupt member is replaced before its alarm is disarmed",
            ),
            _ => Ok(()),
        }
    }

    /// What is written down.
    fn records(&self, action: &Action) -> Law {
        let recorded = &self.observed.recorded;
        match action {
            Action::LatchClusterId(_) => law(
                recorded.cluster_id.is_none(),
                "a cluster's id is latched once",
            ),
            Action::LatchTarget(target) => {
                let ran = self.observed.members.iter().filter_map(|m| m.last_version);
                law(
                    ran.max().is_none_or(|newest| target.version >= newest),
                    "no member is given a version older than one that ran",
                )
            }
            Action::RecordOperation {
                operation,
                member_number_next,
                ..
            } => {
                law(
                    *member_number_next >= recorded.member_number_next,
                    "numbers only rise",
                )?;
                let follows = match (self.kind(), &operation.kind) {
                    (None, _) | (_, OperationKind::RecoverQuorum { .. }) => true,
                    // A voter died beside the joining member, and leaves first.
                    (Some(old), OperationKind::ReplaceMember { new, .. }) => {
                        old.joining() == [new.as_str()]
                    }
                    _ => false,
                };
                law(follows, "one operation at a time")
            }
            Action::UpdateBudget {
                min_available: Some(min),
            } => {
                let voters = self.voters().len().max(self.target_replicas());
                let lifted = self.policy.evict_with_outage && voters <= 2;
                law(
                    lifted || *min as usize > voters / 2,
                    "the disruption budget keeps a quorum",
                )
            }
            Action::UpdateBudget {
                min_available: None,
            } => law(
                !self.policy.budget || self.target_replicas() == 0,
                "a cluster that runs has its disruption budget",
            ),
            _ => Ok(()),
        }
    }
}
