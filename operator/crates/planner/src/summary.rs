//! What status shows: phase, quorum, members, conditions.

use quorum::{MemberId, Role};

use crate::{Operation, WaitingOn};

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
