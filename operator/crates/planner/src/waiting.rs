//! Why something was not done: values with their numbers, and in words for a person.

use std::fmt::{Display, Formatter, Result};

use quorum::{MemberId, Verdict};

use crate::{ClusterId, Pending, Remedy, Replace, Version};

/// What a plan waits for, or what it refuses. Each stands in status, and is an Event once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// `spec.paused`.
    Paused,
    /// The cluster is to be deleted and is protected.
    DeletionProtected,
    /// Pods of the deleted cluster are on their way out.
    PodsLeaving {
        /// So many.
        pods: usize,
    },
    /// Something could not be read, and nothing is done about what is not known.
    Unreadable {
        /// The member.
        member: String,
        /// Which part of it.
        what: Part,
    },
    /// A member belongs to another cluster.
    ClusterIdMismatch {
        /// The member; `None` for the live membership itself.
        member: Option<String>,
        /// What it says.
        found: ClusterId,
        /// What was latched.
        latched: ClusterId,
    },
    /// There is a member that is not ours. It is never removed.
    UnknownMember {
        /// Its id.
        id: MemberId,
        /// Its name, empty if it has not started.
        name: String,
        /// Its peer URLs.
        peer_urls: Vec<String>,
    },
    /// No quorum answers. Nothing is done but to start again what has its disk.
    QuorumLost {
        /// Voters that are known of.
        voters: usize,
        /// Those that answer.
        answering: usize,
        /// Those that it takes.
        needed: usize,
        /// Whose data could go on, best first.
        survivors: Vec<Survivor>,
    },
    /// Enough voters answer, and none of them serves a linearizable read yet: there is no leader.
    NoLeader {
        /// Voters that answer.
        answering: usize,
        /// Those that it takes.
        needed: usize,
    },
    /// A person's order to recover is not followed.
    RecoveryRefused(RecoveryRefused),
    /// Members that could decide without the survivor may come back.
    OthersMayDecide {
        /// Their names.
        members: Vec<String>,
        /// So many of them decide.
        needed: usize,
    },
    /// A step would break the rule.
    QuorumUnsafe(Box<Verdict>),
    /// A voter is in doubt, and what is wanted has to wait for it.
    VoterInDoubt {
        /// The voter.
        member: String,
        /// What is wanted.
        wanted: Wish,
        /// In doubt for so long, where it is known.
        for_ms: Option<u64>,
    },
    /// A member's Pod starts.
    MemberStarting {
        /// The member.
        member: String,
        /// Why its Pod has not started.
        pending: Option<Pending>,
    },
    /// A member's Pod cannot start as it is. An edit that mends it is taken at once.
    MemberCannotStart {
        /// The member.
        member: String,
        /// How it fails.
        how: Broken,
    },
    /// A member has started and is not yet healthy for long enough.
    MemberSettling {
        /// The member.
        member: String,
        /// Good answers for so long.
        for_ms: u64,
        /// So long it takes.
        needed_ms: u64,
    },
    /// A Pod is on its way out.
    PodTerminating {
        /// The member.
        member: String,
        /// Its node is silent: this may last for ever, and the member may come back.
        node_silent: bool,
    },
    /// A member's node does not report any more, and nobody knows how the member is.
    NodeSilent {
        /// The member.
        member: String,
    },
    /// A learner gets the log.
    LearnerCatchingUp {
        /// The learner.
        member: String,
        /// Entries that it lacks.
        behind: u64,
        /// It may lack so many.
        allowed: u64,
    },
    /// A failed member will be replaced when it has been in doubt for long enough.
    ReplacementDue {
        /// The member.
        member: String,
        /// Why.
        why: Replace,
        /// In so long.
        in_ms: u64,
    },
    /// Enough members were replaced in this hour.
    ReplacementsUsedUp {
        /// The member.
        member: String,
        /// Why.
        why: Replace,
        /// So many were.
        done: usize,
        /// So many may.
        allowed: u32,
        /// The next one in so long.
        in_ms: u64,
    },
    /// A failed member is replaced only when a person deletes its object.
    ReplacementNotAllowed {
        /// The member.
        member: String,
        /// What is wrong with it.
        why: Replace,
    },
    /// A member's object is deleted, but the member cannot leave yet.
    CannotLeaveYet {
        /// The member.
        member: String,
    },
    /// The spec has changed, and the work on the last one comes first.
    TargetInProgress {
        /// The generation that is worked on.
        generation: i64,
        /// The one that waits.
        next: i64,
    },
    /// The version asked for cannot be reached from this one.
    VersionRefused {
        /// The version now.
        from: Version,
        /// The one asked for.
        to: Version,
        /// Why not.
        why: VersionRefused,
    },
    /// An even number of replicas, which the policy does not take.
    EvenReplicasRefused {
        /// So many.
        replicas: u32,
    },
    /// With one or two voters a restart stops the cluster, and the policy does not accept it.
    OutageNotAccepted {
        /// The member that would restart.
        member: String,
        /// So many voters.
        voters: usize,
    },
    /// The disruption budget refuses every eviction. A note; nothing waits.
    EvictionsRefused {
        /// So many voters.
        voters: usize,
    },
    /// The leader's place has to be taken by another member first.
    LeaderMustMove {
        /// Who leads.
        member: String,
    },
    /// The other voter must lead and have the whole log before this one leaves.
    SurvivorNotReady {
        /// The one that stays.
        survivor: String,
    },
    /// The quota is used up by live data: delete keys, or raise it.
    QuotaExhausted {
        /// The member with the most.
        member: String,
        /// Bytes in use.
        in_use: u64,
        /// The quota.
        quota: u64,
    },
    /// An act for a full database was refused, or has failed. The rest goes on meanwhile.
    RemedyFailed {
        /// What.
        remedy: Remedy,
        /// Whose database, where it is one member's.
        member: Option<String>,
        /// Tried again in so long; 0: when it is its turn.
        in_ms: u64,
    },
    /// An alarm is raised.
    AlarmRaised {
        /// The member; `None`: members differ, and no majority of them says whose data are right.
        member: Option<String>,
        /// Which.
        kind: crate::AlarmKind,
    },
    /// An operation takes longer than the policy says. It goes on.
    OperationOverdue {
        /// Its id.
        id: u64,
        /// What it does.
        what: String,
        /// For so long.
        for_ms: u64,
    },
    /// The kept volumes make no quorum yet.
    AdoptionIncomplete {
        /// So many members of theirs answer.
        answering: usize,
        /// So many volumes were taken.
        volumes: usize,
    },
}

/// A part of a member that is read on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Its Pod.
    Pod,
    /// Its volume claim.
    Volume,
    /// The nodes that its volume can be used on.
    Nodes,
    /// The disruption budget.
    Budget,
}

/// What has to wait for a voter in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wish {
    /// Another member.
    Grow,
    /// One member less.
    Shrink,
    /// The restart of a healthy member.
    Roll,
}

/// How a Pod cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broken {
    /// No node takes it.
    Unschedulable,
    /// Its image cannot be had.
    Image,
    /// Its claim is not bound.
    Volume,
    /// No node that its volume can be used on takes it.
    VolumeNode,
    /// No node is left that its volume can be used on.
    Stranded,
    /// Its volume is gone, and a member that had data never starts on an empty disk.
    NoVolume,
    /// Its container cannot be made.
    Config,
    /// It ends as often as it starts.
    CrashLooping {
        /// So often.
        restarts: u32,
    },
}

/// A member whose data could be the cluster's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// Its name.
    pub member: String,
    /// Its term; 0 when it does not answer and has its volume. That of its last entry is not told.
    pub term: u64,
    /// Its commit index, which is all that Status tells of its log; `None` when it does not answer.
    pub raft_index: Option<u64>,
}

/// Why an order to recover is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryRefused {
    /// It names no cluster and member.
    Malformed {
        /// As it stands.
        order: String,
    },
    /// It names another cluster.
    OtherCluster {
        /// What it names.
        named: ClusterId,
        /// This one; `None` when it never had a quorum.
        latched: Option<ClusterId>,
    },
    /// There is no such member.
    NoSuchMember {
        /// What it names.
        named: String,
    },
    /// The member has no volume.
    NoVolume {
        /// What it names.
        named: String,
    },
    /// The member's Pod is on a silent node: nobody can stop it there, nor start it elsewhere.
    NodeSilent {
        /// What it names.
        named: String,
    },
    /// Enough voters answer: they may elect a leader at any moment.
    QuorumAnswers {
        /// So many.
        answering: usize,
        /// So many it takes.
        needed: usize,
    },
    /// The API server calls enough voters' Pods ready, each of which has read with a quorum behind it, or knows
    /// that they are not gone yet: it is we who do not reach them.
    PodsReady {
        /// So many.
        ready: usize,
        /// So many it takes.
        needed: usize,
    },
    /// The operator has stopped it, and it starts again.
    StartsAgain,
    /// There is a quorum.
    NotLost,
}

/// Why a version is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VersionRefused {
    /// It is older.
    Downgrade,
    /// A minor version lies between.
    SkipsMinor,
    /// Another major version.
    OtherMajor,
}

impl WaitingOn {
    /// The reason of a condition and of an Event: CamelCase, part of the interface.
    pub fn reason(&self) -> &'static str {
        match self {
            WaitingOn::Paused => "Paused",
            WaitingOn::DeletionProtected => "DeletionProtected",
            WaitingOn::PodsLeaving { .. } => "PodsLeaving",
            WaitingOn::Unreadable { .. } => "Unreadable",
            WaitingOn::ClusterIdMismatch { .. } => "ClusterIDMismatch",
            WaitingOn::UnknownMember { .. } => "UnknownMember",
            WaitingOn::QuorumLost { .. } => "QuorumLost",
            WaitingOn::NoLeader { .. } => "NoLeader",
            WaitingOn::RecoveryRefused(_) => "RecoveryRefused",
            WaitingOn::OthersMayDecide { .. } => "OthersMayDecide",
            WaitingOn::QuorumUnsafe(_) => "QuorumUnsafe",
            WaitingOn::VoterInDoubt { .. } => "QuorumUnsafe",
            WaitingOn::MemberStarting { .. } => "MemberStarting",
            WaitingOn::MemberCannotStart { .. } => "MemberCannotStart",
            WaitingOn::MemberSettling { .. } => "MemberSettling",
            WaitingOn::PodTerminating { .. } => "PodTerminating",
            WaitingOn::NodeSilent { .. } => "NodeSilent",
            WaitingOn::LearnerCatchingUp { .. } => "LearnerCatchingUp",
            WaitingOn::ReplacementDue { .. } => "ReplacementDue",
            WaitingOn::ReplacementsUsedUp { .. } => "ReplacementsUsedUp",
            WaitingOn::ReplacementNotAllowed { .. } => "ReplacementNotAllowed",
            WaitingOn::CannotLeaveYet { .. } => "CannotLeaveYet",
            WaitingOn::TargetInProgress { .. } => "TargetInProgress",
            WaitingOn::VersionRefused { .. } => "UnsupportedVersionPath",
            WaitingOn::EvenReplicasRefused { .. } => "EvenReplicasRefused",
            WaitingOn::OutageNotAccepted { .. } => "OutageNotAccepted",
            WaitingOn::EvictionsRefused { .. } => "EvictionsRefused",
            WaitingOn::LeaderMustMove { .. } => "LeaderMustMove",
            WaitingOn::SurvivorNotReady { .. } => "SurvivorNotReady",
            WaitingOn::QuotaExhausted { .. } => "QuotaExhausted",
            WaitingOn::RemedyFailed { .. } => "Refused",
            WaitingOn::AlarmRaised { .. } => "AlarmRaised",
            WaitingOn::OperationOverdue { .. } => "OperationOverdue",
            WaitingOn::AdoptionIncomplete { .. } => "AdoptionIncomplete",
        }
    }

    /// The member that it is about, if it is about one.
    pub fn member(&self) -> Option<&str> {
        match self {
            WaitingOn::Unreadable { member, .. }
            | WaitingOn::VoterInDoubt { member, .. }
            | WaitingOn::MemberStarting { member, .. }
            | WaitingOn::MemberCannotStart { member, .. }
            | WaitingOn::MemberSettling { member, .. }
            | WaitingOn::PodTerminating { member, .. }
            | WaitingOn::NodeSilent { member }
            | WaitingOn::LearnerCatchingUp { member, .. }
            | WaitingOn::ReplacementDue { member, .. }
            | WaitingOn::ReplacementsUsedUp { member, .. }
            | WaitingOn::ReplacementNotAllowed { member, .. }
            | WaitingOn::CannotLeaveYet { member }
            | WaitingOn::OutageNotAccepted { member, .. }
            | WaitingOn::LeaderMustMove { member }
            | WaitingOn::QuotaExhausted { member, .. } => Some(member),
            WaitingOn::ClusterIdMismatch { member, .. }
            | WaitingOn::AlarmRaised { member, .. }
            | WaitingOn::RemedyFailed { member, .. } => member.as_deref(),
            WaitingOn::SurvivorNotReady { survivor } => Some(survivor),
            _ => None,
        }
    }

    /// What tells it from others of the same reason: the member, or a stranger's id.
    pub fn about(&self) -> Option<String> {
        match self {
            WaitingOn::UnknownMember { id, .. } => Some(id.to_string()),
            _ => self.member().map(str::to_owned),
        }
    }

    /// Only a person can go on from here: kstatus' `Stalled`.
    pub fn is_stalled(&self) -> bool {
        matches!(
            self,
            WaitingOn::ClusterIdMismatch { .. }
                | WaitingOn::UnknownMember { .. }
                | WaitingOn::QuorumLost { .. }
                | WaitingOn::VersionRefused { .. }
                | WaitingOn::EvenReplicasRefused { .. }
                | WaitingOn::OutageNotAccepted { .. }
                | WaitingOn::QuotaExhausted { .. }
                | WaitingOn::AlarmRaised { member: None, .. }
                | WaitingOn::ReplacementNotAllowed { .. }
                | WaitingOn::OperationOverdue { .. }
        ) || matches!(self, WaitingOn::RecoveryRefused(why) if *why != RecoveryRefused::NotLost)
    }

    /// Worth saying, and nothing waits for it: a cluster with notes only is ready.
    pub fn is_note(&self) -> bool {
        matches!(
            self,
            WaitingOn::EvictionsRefused { .. }
                | WaitingOn::DeletionProtected
                | WaitingOn::RecoveryRefused(RecoveryRefused::NotLost)
        )
    }

    /// A step was refused for the quorum's sake: `status.blocked`.
    pub fn is_blocked(&self) -> bool {
        matches!(
            self,
            WaitingOn::QuorumUnsafe(_)
                | WaitingOn::VoterInDoubt { .. }
                | WaitingOn::QuorumLost { .. }
                | WaitingOn::OthersMayDecide { .. }
                | WaitingOn::OutageNotAccepted { .. }
                | WaitingOn::SurvivorNotReady { .. }
                | WaitingOn::ReplacementsUsedUp { .. }
        )
    }
}

impl Display for WaitingOn {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            WaitingOn::Paused => f.write_str("the cluster is paused: nothing is done"),
            WaitingOn::DeletionProtected => f.write_str(
                "the cluster is protected from deletion: set spec.deletionProtection to false",
            ),
            WaitingOn::PodsLeaving { pods } => write!(f, "{pods} pods are on their way out"),
            WaitingOn::Unreadable { member, what } => {
                let what = match what {
                    Part::Pod => "pod",
                    Part::Volume => "volume claim",
                    Part::Nodes => {
                        return write!(
                            f,
                            "whether a node is left for the volume of {member} could not be \
                             read: it takes the rights of the chart's rbac.clusterReads"
                        );
                    }
                    Part::Budget => "disruption budget",
                };
                write!(f, "the {what} of {member} could not be read")
            }
            WaitingOn::ClusterIdMismatch {
                member,
                found,
                latched,
            } => match member {
                Some(member) => write!(
                    f,
                    "{member} belongs to cluster {found}, this one is {latched}"
                ),
                None => write!(f, "the members are cluster {found}, this one is {latched}"),
            },
            WaitingOn::UnknownMember {
                id,
                name,
                peer_urls,
            } => {
                let name = if name.is_empty() {
                    String::new()
                } else {
                    format!(" ({name})")
                };
                write!(
                    f,
                    "member {id}{name} at {} is not one of ours: it is not touched, and nothing \
                     goes on until it is removed by hand",
                    peer_urls.join(", ")
                )
            }
            WaitingOn::QuorumLost {
                voters,
                answering,
                needed,
                survivors,
            } => {
                write!(
                    f,
                    "{answering} of {voters} voters answer, {needed} are needed: nothing is done \
                     until they are back, or a person names a survivor"
                )?;
                for survivor in survivors {
                    match survivor.raft_index {
                        Some(index) => write!(
                            f,
                            "; {} has the log up to {index} in term {}",
                            survivor.member, survivor.term
                        )?,
                        None => write!(f, "; {} has its volume and is silent", survivor.member)?,
                    }
                }
                Ok(())
            }
            WaitingOn::NoLeader { answering, needed } => write!(
                f,
                "{answering} voters answer, {needed} are needed, and none of them knows a leader"
            ),
            WaitingOn::RecoveryRefused(why) => write!(f, "the recovery is not begun: {why}"),
            WaitingOn::OthersMayDecide { members, needed } => write!(
                f,
                "{} may come back, and {needed} of them decide without the survivor: wait until \
                 their nodes are gone, or say that they never come back",
                members.join(", ")
            ),
            WaitingOn::QuorumUnsafe(verdict) => write!(f, "{verdict}"),
            WaitingOn::VoterInDoubt {
                member,
                wanted,
                for_ms,
            } => {
                let wanted = match wanted {
                    Wish::Grow => "add a member",
                    Wish::Shrink => "take a healthy member away",
                    Wish::Roll => "restart a healthy member",
                };
                write!(f, "voter {member} is in doubt")?;
                if let Some(for_ms) = for_ms {
                    write!(f, " for {}", Span(*for_ms))?;
                }
                write!(f, ": not safe to {wanted} now")
            }
            WaitingOn::MemberStarting { member, pending } => match pending {
                None | Some(Pending::Starting) => write!(f, "{member} starts"),
                Some(pending) => write!(f, "{member} starts: {pending}"),
            },
            WaitingOn::MemberCannotStart { member, how } => {
                write!(f, "{member} cannot start: {how}")
            }
            WaitingOn::MemberSettling {
                member,
                for_ms,
                needed_ms,
            } => write!(
                f,
                "{member} has been healthy for {}, {} are needed",
                Span(*for_ms),
                Span(*needed_ms)
            ),
            WaitingOn::PodTerminating {
                member,
                node_silent: false,
            } => write!(f, "the pod of {member} is on its way out"),
            WaitingOn::PodTerminating {
                member,
                node_silent: true,
            } => write!(
                f,
                "the pod of {member} is to go, but its node is silent: it is not gone, and may \
                 come back"
            ),
            WaitingOn::NodeSilent { member } => {
                write!(f, "the node of {member} is silent")
            }
            WaitingOn::LearnerCatchingUp {
                member,
                behind,
                allowed,
            } => write!(
                f,
                "{member} is {behind} entries behind the leader, {allowed} are allowed"
            ),
            WaitingOn::ReplacementDue { member, why, in_ms } => {
                write!(f, "{member}, {why}, will be replaced in {}", Span(*in_ms))
            }
            WaitingOn::ReplacementsUsedUp {
                member,
                why,
                done,
                allowed,
                in_ms,
            } => write!(
                f,
                "{member}, {why}, is to be replaced, but {done} members were replaced in this \
                 hour and {allowed} may be: the next one in {}",
                Span(*in_ms)
            ),
            WaitingOn::ReplacementNotAllowed { member, why } => write!(
                f,
                "{member}, {why}, is replaced only when its object is deleted: \
                 spec.membership.replaceFailedAfter is off"
            ),
            WaitingOn::CannotLeaveYet { member } => {
                write!(f, "{member} is to leave, and cannot yet")
            }
            WaitingOn::TargetInProgress { generation, next } => write!(
                f,
                "generation {next} of the spec waits: generation {generation} is worked on"
            ),
            WaitingOn::VersionRefused { from, to, why } => {
                write!(f, "version {to} cannot follow {from}: {why}")
            }
            WaitingOn::EvenReplicasRefused { replicas } => write!(
                f,
                "{replicas} replicas survive no more crashes than {}: set \
                 spec.membership.allowEvenReplicas to have them",
                replicas.saturating_sub(1)
            ),
            WaitingOn::OutageNotAccepted { member, voters } => write!(
                f,
                "{member} cannot restart: with {voters} voter{} the cluster would stop for as \
                 long, and the policy does not accept an outage",
                if *voters == 1 { "" } else { "s" }
            ),
            WaitingOn::EvictionsRefused { voters } => write!(
                f,
                "with {voters} voter{} every eviction is refused, since each is an outage: \
                 spec.podDisruptionBudget can let them through",
                if *voters == 1 { "" } else { "s" }
            ),
            WaitingOn::LeaderMustMove { member } => {
                write!(f, "{member} leads, and no other voter can take over yet")
            }
            WaitingOn::SurvivorNotReady { survivor } => {
                write!(f, "{survivor} must lead and have the whole log first")
            }
            WaitingOn::QuotaExhausted {
                member,
                in_use,
                quota,
            } => write!(
                f,
                "{member} has {in_use} bytes in use of a quota of {quota}: delete keys, or raise \
                 the quota"
            ),
            WaitingOn::RemedyFailed {
                remedy,
                member,
                in_ms,
            } => {
                match (remedy, member) {
                    (Remedy::Compact, _) => f.write_str("the store could not be compacted")?,
                    (Remedy::Defragment(_), Some(member)) => {
                        write!(f, "{member} could not be defragmented")?;
                    }
                    (Remedy::Defragment(id), None) => {
                        write!(f, "{id} could not be defragmented")?;
                    }
                }
                match in_ms {
                    0 => f.write_str(": due to be tried again"),
                    _ => write!(f, ": tried again in {}", Span(*in_ms)),
                }
            }
            WaitingOn::AlarmRaised { member, kind } => {
                let kind = match kind {
                    crate::AlarmKind::NoSpace => "NOSPACE",
                    crate::AlarmKind::Corrupt => "CORRUPT",
                };
                match member {
                    Some(member) => write!(f, "alarm {kind} of {member}"),
                    None => write!(
                        f,
                        "alarm {kind}: the data of members differ, and no majority says whose are \
                         right; delete the object of the member that shall go, then disarm the alarm"
                    ),
                }
            }
            WaitingOn::OperationOverdue { id, what, for_ms } => {
                write!(f, "operation {id} ({what}) has taken {}", Span(*for_ms))
            }
            WaitingOn::AdoptionIncomplete { answering, volumes } => write!(
                f,
                "{volumes} kept volumes were taken, {answering} of their members answer, and \
                 there is no quorum yet"
            ),
        }
    }
}

impl Display for Pending {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Pending::Starting => "on its way",
            Pending::Unschedulable => "no node takes its pod",
            Pending::Image => "its image cannot be had",
            Pending::Volume => "its volume claim is not bound",
            Pending::VolumeNode => "no node that its volume can be used on takes its pod",
            Pending::Config => "its container cannot be made",
        })
    }
}

impl Display for Broken {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Broken::Unschedulable => Pending::Unschedulable.fmt(f),
            Broken::Image => Pending::Image.fmt(f),
            Broken::Volume => Pending::Volume.fmt(f),
            Broken::VolumeNode => Pending::VolumeNode.fmt(f),
            Broken::Stranded => f.write_str("the node of its volume is gone"),
            Broken::NoVolume => f.write_str("its volume is gone"),
            Broken::Config => Pending::Config.fmt(f),
            // It waits for the next start: it has ended once more than it was started again.
            Broken::CrashLooping { restarts: 0 } => f.write_str("it has ended once"),
            Broken::CrashLooping { restarts } => {
                write!(f, "it has ended {} times", restarts.saturating_add(1))
            }
        }
    }
}

impl Display for RecoveryRefused {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            RecoveryRefused::Malformed { order } => write!(
                f,
                "it is {order:?}, and should be CLUSTER-ID/MEMBER or CLUSTER-ID/MEMBER/others-are-gone"
            ),
            RecoveryRefused::OtherCluster {
                named,
                latched: Some(latched),
            } => write!(f, "it names cluster {named}, this one is {latched}"),
            RecoveryRefused::OtherCluster {
                named,
                latched: None,
            } => write!(f, "it names cluster {named}, this one never had a quorum"),
            RecoveryRefused::NoSuchMember { named } => write!(f, "there is no member {named}"),
            RecoveryRefused::NoVolume { named } => write!(f, "{named} has no volume"),
            RecoveryRefused::NodeSilent { named } => {
                write!(f, "the node of {named} is silent, and its pod is not gone")
            }
            RecoveryRefused::QuorumAnswers { answering, needed } => write!(
                f,
                "{answering} voters answer, {needed} are a quorum: they may elect a leader at any \
                 moment"
            ),
            RecoveryRefused::PodsReady { ready, needed } => write!(
                f,
                "the pods of {ready} voters are ready or on their way out, {needed} are a quorum: \
                 they serve, and only the operator does not reach them"
            ),
            RecoveryRefused::StartsAgain => f.write_str(
                "the operator has stopped it and starts it again: wait for the end of the \
                 operation, or until it takes too long",
            ),
            RecoveryRefused::NotLost => f.write_str("the quorum is not lost"),
        }
    }
}

impl Display for VersionRefused {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            VersionRefused::Downgrade => "it is older",
            VersionRefused::SkipsMinor => "one minor version at a time",
            VersionRefused::OtherMajor => "it is another major version",
        })
    }
}

/// Milliseconds in words: `850ms`, `12s`, `9m30s`, `1h0m`.
struct Span(u64);

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let seconds = self.0 / 1000;
        match seconds {
            0 if self.0 > 0 => write!(f, "{}ms", self.0),
            0..60 => write!(f, "{seconds}s"),
            60..3600 => write!(f, "{}m{}s", seconds / 60, seconds % 60),
            _ => write!(f, "{}h{}m", seconds / 3600, seconds / 60 % 60),
        }
    }
}
