//! What may be done: one mutation each.

use std::fmt::{Display, Formatter};

use quorum::MemberId;

use crate::{AlarmKind, ClusterId, Start, Target};

/// One mutation of the API server or of the members. Each is conditional on what was observed:
/// on the resource version (what is recorded in the cluster's status), on a UID (deletions) or on
/// the digest of the membership. Each may be repeated: a second time it finds the work done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the target into the cluster's status, and with it all that Pods of its revision are
    /// rendered from.
    LatchTarget(Target),
    /// Write the id of the cluster, at its first quorum.
    LatchClusterId(ClusterId),
    /// Write an operation into the cluster's status, before its first act; or write it again with
    /// a further step.
    RecordOperation {
        /// The operation.
        operation: Operation,
        /// [`Recorded::member_number_next`](crate::Recorded::member_number_next) from now on.
        member_number_next: u64,
        /// It counts as a replacement of this hour.
        counts_as_replacement: bool,
    },
    /// The operation is over: clear it, say how it ended.
    FinishOperation {
        /// Its id.
        id: u64,
        /// How it ended.
        outcome: Outcome,
        /// The recovery order that this was; write it as done.
        recovery_done: Option<String>,
    },
    /// Write the disruption budget; `None` deletes it.
    UpdateBudget {
        /// `minAvailable`.
        min_available: Option<u32>,
    },
    /// Create the member's object, or give it the revision.
    EnsureMemberObject {
        /// Its name.
        name: String,
        /// From the name.
        number: u64,
        /// It begins the cluster.
        seed: bool,
        /// What its Pod shall be rendered from: the cluster's spec, the latched target, or
        /// another member's object, whichever has this revision.
        revision: String,
    },
    /// Create the member's claim, if there is none.
    EnsureVolume {
        /// The member.
        name: String,
    },
    /// Create the member's Pod from the member's object.
    EnsurePod {
        /// The member.
        name: String,
        /// The revision that its object has.
        revision: String,
        /// How it starts. The initial cluster is the live membership, or itself when `New`.
        start: Start,
        /// The digest of that membership, for the Pod's annotation; `None` when `New` or when
        /// the membership cannot be read (the member has data then, and does not look).
        membership: Option<String>,
    },
    /// Say on the Pod whether the disruption budget counts it.
    LabelPod {
        /// The member.
        name: String,
        /// Its Pod.
        uid: String,
        /// Whether it counts.
        voter: bool,
    },
    /// Delete the Pod, with its grace period.
    DeletePod {
        /// The member.
        name: String,
        /// Its Pod.
        uid: String,
        /// Why.
        why: Why,
    },
    /// Delete the claim, and the data with it.
    DeleteVolume {
        /// The member.
        name: String,
        /// The claim.
        uid: String,
    },
    /// Keep the claim: take its owner away, and mark it as left by a member that was removed.
    ReleaseVolume {
        /// The member.
        name: String,
        /// The claim.
        uid: String,
    },
    /// Delete the member's object and its finalizer.
    DeleteMemberObject {
        /// Its name.
        name: String,
        /// The object.
        uid: String,
    },
    /// MemberAdd as a learner.
    MemberAddLearner {
        /// The member.
        name: String,
        /// Its peer URL.
        peer_url: String,
        /// The membership must be this one.
        expected: String,
    },
    /// MemberPromote.
    MemberPromote {
        /// The member.
        name: String,
        /// Its id.
        id: MemberId,
        /// The membership must be this one.
        expected: String,
    },
    /// MemberRemove.
    MemberRemove {
        /// The member.
        name: String,
        /// Its id.
        id: MemberId,
        /// The membership must be this one.
        expected: String,
    },
    /// MoveLeader, asked of the leader.
    MoveLeader {
        /// Who leads.
        from: MemberId,
        /// Who shall.
        to: MemberId,
    },
    /// Compact the store at this revision.
    Compact {
        /// The revision.
        revision: i64,
    },
    /// Defragment a member's database.
    Defragment {
        /// The member.
        name: String,
        /// Its id.
        id: MemberId,
    },
    /// Disarm an alarm.
    Disarm {
        /// Whose.
        member: MemberId,
        /// What.
        kind: AlarmKind,
    },
    /// The cluster is being deleted and nothing of it is left to do: take the finalizer away.
    ReleaseCluster,
}

/// Why a Pod is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It says `new`, and the cluster has begun: started again on a disk that was emptied, it would
    /// begin another one under the same IDs.
    Begun,
    /// It has an older revision.
    Outdated,
    /// It cannot start as it is, and its revision has changed.
    CannotStart,
    /// It has ended, and would not start again.
    Ended,
    /// It has never started, and the membership has changed since it was made.
    JoinsAnOldMembership,
    /// Its member was removed.
    Removed,
    /// The cluster hibernates.
    Hibernates,
    /// The cluster is deleted.
    ClusterDeleted,
    /// The quorum is being recovered from another member.
    Abandoned,
    /// It stops to start again as the survivor, or as an ordinary member after that.
    Recovers,
}

/// A piece of work that takes more than one act. There is at most one at a time and cluster. It is
/// written before its first act; after a restart of the operator it is resumed by what is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Only rises.
    pub id: u64,
    /// What it does.
    pub kind: OperationKind,
    /// When it began.
    pub started_ms: u64,
    /// When it is called stalled.
    pub deadline_ms: u64,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// The first member begins the cluster.
    Bootstrap {
        /// Its name.
        member: String,
    },
    /// The kept volumes of a deleted cluster are taken.
    Adopt,
    /// A member joins: learner, caught up, promoted. Two at once only where one voter becomes
    /// three.
    AddMembers {
        /// Their names.
        members: Vec<String>,
    },
    /// A member leaves.
    RemoveMember {
        /// Its name.
        member: String,
    },
    /// A member leaves and another one comes: a dead one leaves first, a healthy one last.
    ReplaceMember {
        /// Who leaves.
        old: String,
        /// Who comes.
        new: String,
        /// Why.
        why: Replace,
    },
    /// A member restarts with another revision.
    RollMember {
        /// Its name.
        member: String,
    },
    /// The members start again after hibernation.
    Wake,
    /// One member's data becomes the cluster.
    RecoverQuorum {
        /// Whose.
        survivor: String,
        /// [`RecoverOrder::id`](crate::RecoverOrder::id).
        order: String,
        /// It has answered as a cluster of one; what is left is to start it as usual.
        recovered: bool,
    },
}

/// Why a member is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Replace {
    /// Its volume is gone.
    VolumeLost,
    /// Its node is gone, and its volume cannot move.
    NodeGone,
    /// Its node has been silent for too long.
    NodeSilent,
    /// It starts and ends again and again.
    CrashLoop,
    /// Its data differs from that of the others.
    Corrupt,
    /// Somebody has deleted its object.
    Asked,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// As it should.
    Done,
    /// The member that was to be replaced has come back by itself.
    CameBack,
    /// The target does not ask for it any more.
    NotWanted,
    /// The member that was to join cannot.
    CannotJoin,
    /// Something more urgent comes first; this will be taken up again.
    Preempted,
}

impl OperationKind {
    /// The name of the kind, as in status.
    pub fn name(&self) -> &'static str {
        match self {
            OperationKind::Bootstrap { .. } => "Bootstrap",
            OperationKind::Adopt => "Adopt",
            OperationKind::AddMembers { .. } => "AddMembers",
            OperationKind::RemoveMember { .. } => "RemoveMember",
            OperationKind::ReplaceMember { .. } => "ReplaceMember",
            OperationKind::RollMember { .. } => "RollMember",
            OperationKind::Wake => "Wake",
            OperationKind::RecoverQuorum { .. } => "RecoverQuorum",
        }
    }

    /// The members that it is about.
    pub fn members(&self) -> Vec<&str> {
        match self {
            OperationKind::Bootstrap { member }
            | OperationKind::RemoveMember { member }
            | OperationKind::RollMember { member } => vec![member],
            OperationKind::AddMembers { members } => members.iter().map(String::as_str).collect(),
            OperationKind::ReplaceMember { old, new, .. } => vec![old, new],
            OperationKind::RecoverQuorum { survivor, .. } => vec![survivor],
            OperationKind::Adopt | OperationKind::Wake => Vec::new(),
        }
    }

    /// Those that shall join.
    pub fn joining(&self) -> Vec<&str> {
        match self {
            OperationKind::AddMembers { members } => members.iter().map(String::as_str).collect(),
            OperationKind::ReplaceMember { new, .. } => vec![new],
            OperationKind::Bootstrap { member } => vec![member],
            _ => Vec::new(),
        }
    }

    /// The one that shall leave.
    pub fn leaving(&self) -> Option<&str> {
        match self {
            OperationKind::RemoveMember { member } => Some(member),
            OperationKind::ReplaceMember { old, .. } => Some(old),
            _ => None,
        }
    }
}

impl Display for OperationKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            OperationKind::Bootstrap { member } => write!(f, "begin the cluster with {member}"),
            OperationKind::Adopt => f.write_str("take the kept volumes"),
            OperationKind::AddMembers { members } => write!(f, "add {}", members.join(" and ")),
            OperationKind::RemoveMember { member } => write!(f, "remove {member}"),
            OperationKind::ReplaceMember { old, new, why } => {
                write!(f, "replace {old} by {new}, {why}")
            }
            OperationKind::RollMember { member } => write!(f, "restart {member} as the spec says"),
            OperationKind::Wake => f.write_str("wake up"),
            OperationKind::RecoverQuorum {
                survivor,
                recovered,
                ..
            } => {
                let rest = if *recovered { ", recovered" } else { "" };
                write!(f, "recover the quorum from {survivor}{rest}")
            }
        }
    }
}

impl Display for Replace {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Replace::VolumeLost => "whose volume is gone",
            Replace::NodeGone => "whose node is gone",
            Replace::NodeSilent => "whose node is silent",
            Replace::CrashLoop => "which does not stay up",
            Replace::Corrupt => "whose data is corrupt",
            Replace::Asked => "as was asked",
        })
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Outcome::Done => "done",
            Outcome::CameBack => "the member has come back",
            Outcome::NotWanted => "not wanted any more",
            Outcome::CannotJoin => "the member cannot join",
            Outcome::Preempted => "something else comes first",
        })
    }
}

impl Display for Why {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::Begun => "the cluster has begun",
            Why::Outdated => "outdated",
            Why::CannotStart => "cannot start",
            Why::Ended => "has ended",
            Why::JoinsAnOldMembership => "joins an old membership",
            Why::Removed => "removed",
            Why::Hibernates => "hibernates",
            Why::ClusterDeleted => "cluster deleted",
            Why::Abandoned => "abandoned",
            Why::Recovers => "recovers",
        })
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Action::LatchTarget(target) => write!(
                f,
                "latch target: {} replicas, version {}, revision {}",
                target.replicas, target.version, target.revision
            ),
            Action::LatchClusterId(id) => write!(f, "latch cluster id {id}"),
            Action::RecordOperation { operation, .. } => {
                write!(f, "record operation {}: {}", operation.id, operation.kind)
            }
            Action::FinishOperation { id, outcome, .. } => {
                write!(f, "finish operation {id}: {outcome}")
            }
            Action::UpdateBudget {
                min_available: Some(min),
            } => write!(f, "disruption budget: {min} available"),
            Action::UpdateBudget {
                min_available: None,
            } => f.write_str("delete the disruption budget"),
            Action::EnsureMemberObject {
                name,
                seed,
                revision,
                ..
            } => {
                let seed = if *seed { ", the first" } else { "" };
                write!(f, "member object {name}, revision {revision}{seed}")
            }
            Action::EnsureVolume { name } => write!(f, "claim of {name}"),
            Action::EnsurePod {
                name,
                revision,
                start,
                ..
            } => {
                let start = match start {
                    Start::New => "new",
                    Start::Existing => "existing",
                    Start::Recover => "recover",
                };
                write!(f, "pod {name}, revision {revision}, {start}")
            }
            Action::LabelPod { name, voter, .. } => {
                let says = if *voter { "a voter" } else { "no voter" };
                write!(f, "label pod {name}: {says}")
            }
            Action::DeletePod { name, why, .. } => write!(f, "delete pod {name}: {why}"),
            Action::DeleteVolume { name, .. } => write!(f, "delete the volume of {name}"),
            Action::ReleaseVolume { name, .. } => write!(f, "release the volume of {name}"),
            Action::DeleteMemberObject { name, .. } => write!(f, "delete member object {name}"),
            Action::MemberAddLearner { name, .. } => write!(f, "add {name} as a learner"),
            Action::MemberPromote { name, .. } => write!(f, "promote {name}"),
            Action::MemberRemove { name, .. } => write!(f, "remove {name} from the membership"),
            Action::MoveLeader { from, to } => write!(f, "move the leader from {from} to {to}"),
            Action::Compact { revision } => write!(f, "compact at revision {revision}"),
            Action::Defragment { name, .. } => write!(f, "defragment {name}"),
            Action::Disarm { member, kind } => {
                let kind = match kind {
                    AlarmKind::NoSpace => "NOSPACE",
                    AlarmKind::Corrupt => "CORRUPT",
                };
                write!(f, "disarm {kind} of {member}")
            }
            Action::ReleaseCluster => f.write_str("let the cluster go"),
        }
    }
}
