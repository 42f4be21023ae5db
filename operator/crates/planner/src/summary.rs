//! What status shows: phase, quorum, members, conditions.

use quorum::{MemberId, Role};

use crate::facts::{self, Facts};
use crate::{Action, MemberObject, Operation, Pod, WaitingOn};

/// The state of the cluster in a few values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// In one word.
    pub phase: Phase,
    /// The arithmetic; `None` while the membership cannot be read.
    pub quorum: Option<Quorum>,
    /// Each member object, by number.
    pub members: Vec<MemberSummary>,
    /// The operation that is under way when this plan's action is done.
    pub operation: Option<Operation>,
    /// Conditions in the order in which they are shown.
    pub conditions: Vec<Condition>,
}

/// The cluster in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// It has never had a quorum.
    Bootstrapping,
    /// Nothing is left to do.
    Ready,
    /// Something is being done, or waited for.
    Working,
    /// The spec says pause.
    Paused,
    /// On its way to sleep.
    Hibernating,
    /// Asleep: no Pods, all volumes.
    Hibernated,
    /// No quorum answers.
    QuorumLost,
    /// A person has to do something.
    Stalled,
    /// It is being deleted.
    Deleting,
}

/// The arithmetic of the live membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// Voters.
    pub voters: usize,
    /// Learners.
    pub learners: usize,
    /// Voters that count as healthy.
    pub healthy: usize,
    /// Healthy voters that it takes.
    pub needed: usize,
    /// So many more may crash.
    pub tolerance: usize,
    /// Who leads.
    pub leader: MemberId,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSummary {
    /// Its name.
    pub name: String,
    /// Its id, once it is in the membership.
    pub id: Option<MemberId>,
    /// Its role in the membership.
    pub role: Option<Role>,
    /// It leads.
    pub leads: bool,
    /// It counts as healthy.
    pub healthy: bool,
    /// Entries that its log lacks, where it is known.
    pub lag: Option<u64>,
    /// The revision of its Pod, if there is one.
    pub revision: Option<String>,
    /// What it waits for.
    pub waiting: Vec<WaitingOn>,
}

/// The conditions of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionKind {
    /// All is as the spec says, and healthy.
    Ready,
    /// A quorum answers.
    Available,
    /// Work is under way.
    Progressing,
    /// A voter is in doubt, or an alarm is raised.
    Degraded,
    /// One more voter may crash.
    QuorumHealthy,
    /// kstatus: true while not all is as the spec says.
    Reconciling,
    /// kstatus: true when only a person can go on.
    Stalled,
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    Unknown,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which.
    pub kind: ConditionKind,
    /// Whether.
    pub status: Truth,
    /// CamelCase.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

impl ConditionKind {
    /// The type as it stands in status.
    pub fn name(self) -> &'static str {
        match self {
            ConditionKind::Ready => "Ready",
            ConditionKind::Available => "Available",
            ConditionKind::Progressing => "Progressing",
            ConditionKind::Degraded => "Degraded",
            ConditionKind::QuorumHealthy => "QuorumHealthy",
            ConditionKind::Reconciling => "Reconciling",
            ConditionKind::Stalled => "Stalled",
        }
    }
}

impl Phase {
    /// The name as it stands in status.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Bootstrapping => "Bootstrapping",
            Phase::Ready => "Ready",
            Phase::Working => "Working",
            Phase::Paused => "Paused",
            Phase::Hibernating => "Hibernating",
            Phase::Hibernated => "Hibernated",
            Phase::QuorumLost => "QuorumLost",
            Phase::Stalled => "Stalled",
            Phase::Deleting => "Deleting",
        }
    }
}

impl Summary {
    /// From the same facts as the plan.
    pub(crate) fn of(facts: &Facts<'_>, action: Option<&Action>, waiting: &[WaitingOn]) -> Summary {
        let phase = phase(facts, action, waiting);
        let quorum = facts.live.map(|live| arithmetic(facts, live.leader));
        Summary {
            phase,
            members: facts
                .objects
                .iter()
                .map(|object| member(facts, object, waiting))
                .collect(),
            operation: operation(facts, action),
            conditions: conditions(facts, phase, quorum.as_ref(), action, waiting),
            quorum,
        }
    }
}

fn phase(facts: &Facts<'_>, action: Option<&Action>, waiting: &[WaitingOn]) -> Phase {
    let wanted = &facts.observed.wanted;
    let has = |is: fn(&WaitingOn) -> bool| waiting.iter().any(is);
    if wanted.paused {
        return Phase::Paused;
    }
    if wanted.deletion_asked && !wanted.deletion_protection {
        return Phase::Deleting;
    }
    if action.is_none() && has(WaitingOn::is_stalled) {
        let lost = has(|reason| matches!(reason, WaitingOn::QuorumLost { .. }));
        return if lost {
            Phase::QuorumLost
        } else {
            Phase::Stalled
        };
    }
    let asleep = facts.target().is_some_and(|target| target.replicas == 0);
    if asleep && wanted.replicas == 0 {
        let down = facts.objects.iter().all(|object| object.pod == Pod::Absent);
        return if down && action.is_none() {
            Phase::Hibernated
        } else {
            Phase::Hibernating
        };
    }
    if facts.observed.recorded.cluster_id.is_none() {
        return Phase::Bootstrapping;
    }
    if action.is_none() && waiting.iter().all(WaitingOn::is_note) {
        Phase::Ready
    } else {
        Phase::Working
    }
}

fn arithmetic(facts: &Facts<'_>, leader: MemberId) -> Quorum {
    let voters = facts.voters();
    let healthy = facts.view.voters();
    let healthy = healthy.filter(|voter| voter.is_healthy_voter()).count();
    let needed = quorum::need(voters);
    Quorum {
        voters,
        learners: facts.view.members.len() - voters,
        healthy,
        needed,
        tolerance: healthy.saturating_sub(needed),
        leader,
    }
}

fn member(facts: &Facts<'_>, object: &MemberObject, waiting: &[WaitingOn]) -> MemberSummary {
    let concerns = |reason: &&WaitingOn| reason.member() == Some(object.name.as_str());
    MemberSummary {
        name: object.name.clone(),
        id: facts.live_of(object).map(|member| member.id),
        role: facts.role(object),
        leads: facts.leads(object),
        healthy: facts.healthy(object),
        lag: facts.lag(object),
        revision: facts::pod(object).map(|pod| pod.revision.clone()),
        waiting: waiting.iter().filter(concerns).cloned().collect(),
    }
}

fn operation(facts: &Facts<'_>, action: Option<&Action>) -> Option<Operation> {
    match action {
        Some(Action::RecordOperation { operation, .. }) => Some(operation.clone()),
        Some(Action::FinishOperation { .. }) => None,
        _ => facts.operation().cloned(),
    }
}

fn conditions(
    facts: &Facts<'_>,
    phase: Phase,
    quorum: Option<&Quorum>,
    action: Option<&Action>,
    waiting: &[WaitingOn],
) -> Vec<Condition> {
    let blocks = waiting.iter().find(|reason| !reason.is_note());
    let stalled = waiting.iter().find(|reason| reason.is_stalled());
    let why = stalled.or(blocks);
    let at_work = action.is_some() || blocks.is_some();
    let paused = phase == Phase::Paused;
    let words = quorum.map(|quorum| {
        format!(
            "{}/{} voters healthy, {} needed, {} may be lost",
            quorum.healthy, quorum.voters, quorum.needed, quorum.tolerance
        )
    });
    let doing = match (action, why) {
        (Some(action), _) => action.to_string(),
        (None, Some(why)) => why.to_string(),
        (None, None) => words.clone().unwrap_or_default(),
    };
    let reason_of = |default: &'static str| why.map_or(default, WaitingOn::reason);
    let condition = |kind, status, reason, message: &str| Condition {
        kind,
        status,
        reason,
        message: message.to_owned(),
    };
    let truth = |holds| if holds { Truth::True } else { Truth::False };
    let counted = words
        .as_deref()
        .unwrap_or("the membership could not be read");

    let waits = |is: fn(&WaitingOn) -> bool| waiting.iter().any(is);
    let available = match (paused, quorum) {
        // A paused cluster is not looked after: nobody vouches for it.
        (true, _) => (Truth::Unknown, "Paused"),
        (false, Some(quorum)) if quorum.healthy >= quorum.needed => {
            (Truth::True, "QuorumAvailable")
        }
        (false, Some(_)) => (Truth::Unknown, "QuorumInDoubt"),
        (false, None) => match phase {
            Phase::Hibernated | Phase::Hibernating => (Truth::False, "Hibernated"),
            Phase::Bootstrapping => (Truth::False, "Bootstrapping"),
            _ if waits(|reason| matches!(reason, WaitingOn::NoLeader { .. })) => {
                (Truth::False, "NoLeader")
            }
            _ if facts.is_stopped_on_purpose() => (Truth::False, "Starting"),
            _ => (Truth::False, "QuorumLost"),
        },
    };
    let tolerant = quorum.is_some_and(|quorum| quorum.tolerance > 0);
    let in_doubt = facts.other_in_doubt(None).is_some();
    let alarm = waiting
        .iter()
        .any(|reason| matches!(reason, WaitingOn::AlarmRaised { .. }));
    let ready = phase == Phase::Ready;
    let asleep = phase == Phase::Hibernated;
    vec![
        match (ready, asleep) {
            (true, _) => condition(ConditionKind::Ready, Truth::True, "QuorumHealthy", counted),
            (_, true) => condition(ConditionKind::Ready, Truth::False, "Hibernated", "asleep"),
            _ => condition(
                ConditionKind::Ready,
                Truth::False,
                reason_of("Working"),
                &doing,
            ),
        },
        condition(ConditionKind::Available, available.0, available.1, counted),
        condition(
            ConditionKind::Progressing,
            truth(at_work && stalled.is_none() && !paused),
            if at_work {
                reason_of("Working")
            } else {
                "Idle"
            },
            &doing,
        ),
        condition(
            ConditionKind::Degraded,
            truth(in_doubt || alarm || phase == Phase::QuorumLost),
            match (alarm, in_doubt) {
                (true, _) => "AlarmRaised",
                (_, true) => "VoterInDoubt",
                _ if phase == Phase::QuorumLost => "QuorumLost",
                _ => "AllHealthy",
            },
            counted,
        ),
        condition(
            ConditionKind::QuorumHealthy,
            if quorum.is_some() {
                truth(tolerant)
            } else {
                Truth::Unknown
            },
            if tolerant {
                "CrashTolerated"
            } else {
                "NoCrashTolerated"
            },
            counted,
        ),
        condition(
            ConditionKind::Reconciling,
            truth(at_work && stalled.is_none() && !paused),
            if at_work {
                reason_of("Working")
            } else {
                "Idle"
            },
            &doing,
        ),
        condition(
            ConditionKind::Stalled,
            truth(stalled.is_some()),
            stalled.map_or("NotStalled", WaitingOn::reason),
            &stalled.map(ToString::to_string).unwrap_or_default(),
        ),
    ]
}
