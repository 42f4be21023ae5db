//! What was seen, in one value. Times are milliseconds of the observer's clock.
//!
//! Who fills it in: what could not be read stays `Unknown`. It is never guessed, and never
//! remembered from an earlier pass (the `since` times excepted, which have their own words).

use std::fmt::{Display, Formatter};

use quorum::{MemberId, Role};

use crate::Operation;

/// Everything that [`plan`](crate::plan) sees of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Now.
    pub now_ms: u64,
    /// What the user wants at this moment: the `QuorateCluster`'s spec and annotations.
    pub wanted: Wanted,
    /// What the operator itself has written into the cluster's status.
    pub recorded: Recorded,
    /// The `QuorateMember` objects of this cluster with what belongs to them, in any order.
    pub members: Vec<MemberObject>,
    /// Claims named like members of this cluster that no member object goes with.
    pub kept_volumes: Vec<KeptVolume>,
    /// The membership as the members themselves hold it.
    pub live: Live,
    /// The PodDisruptionBudget.
    pub budget: Budget,
    /// What was tried for a full database and failed, at most a few minutes ago. Whoever has
    /// forgotten it tries once more.
    pub remedies_failed: Vec<FailedRemedy>,
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The spec's generation.
    pub generation: i64,
    /// Name of the cluster. Members are called `<cluster>-<number>`.
    pub cluster: String,
    /// Voters; 0 hibernates.
    pub replicas: u32,
    /// Quorate's version.
    pub version: Version,
    /// Hash of everything that a member's Pod is rendered from, the version included.
    pub revision: String,
    /// No action at all.
    pub paused: bool,
    /// The cluster has a deletion timestamp.
    pub deletion_asked: bool,
    /// It may not be deleted.
    pub deletion_protection: bool,
    /// What becomes of the volume of a member that leaves, and of all when the cluster goes.
    pub retention: Retention,
    /// Take the kept volumes of a deleted cluster of the same name.
    pub adopt: bool,
    /// A person has named the member from which a lost quorum shall be recovered.
    pub recover: Option<RecoverOrder>,
    /// Such an order that names no cluster and member, as it stands.
    pub recover_malformed: Option<String>,
}

/// A version of Quorate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
    /// Patch.
    pub patch: u32,
}

impl Version {
    /// Reads `1.2.3`.
    pub fn parse(text: &str) -> Option<Version> {
        let mut parts = text.split('.').map(str::parse);
        let mut next = || parts.next()?.ok();
        let version = Version {
            major: next()?,
            minor: next()?,
            patch: next()?,
        };
        parts.next().is_none().then_some(version)
    }
}

impl Display for Version {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The id of a cluster, printed as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl Display for ClusterId {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What becomes of volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// They stay, without an owner.
    Retain,
    /// They go with their member, and with the cluster.
    Delete,
}

/// A person's order to recover from the loss of the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverOrder {
    /// Tells this order from the next one (the annotation's value will do). An order that
    /// [`Recorded::recovery_done`] names is done, and is never followed again.
    pub id: String,
    /// The cluster that is meant; must be the latched one.
    pub cluster_id: ClusterId,
    /// Name of the member whose data shall go on.
    pub survivor: String,
    /// The person says that members on silent nodes never come back. Without this a recovery
    /// waits while those could decide without the survivor.
    pub others_are_gone: bool,
}

/// What the operator has written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The id of the cluster since its first quorum. A different live one stops everything.
    pub cluster_id: Option<ClusterId>,
    /// The number of the next member. Only rises, so that an old volume never meets a new member.
    pub member_number_next: u64,
    /// The latched target that is being worked on.
    pub target: Option<Target>,
    /// The unfinished operation.
    pub operation: Option<Operation>,
    /// The id of the operation that comes next; only rises.
    pub operation_id_next: u64,
    /// When failed members were replaced without a person asking: the start of each such
    /// operation, oldest first. Those older than an hour may be dropped.
    pub replacements_ms: Vec<u64>,
    /// [`RecoverOrder::id`] of the last recovery that was finished.
    pub recovery_done: Option<String>,
}

/// A spec that was latched: it is worked on until it is reached, or can be turned safely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The generation it was taken from.
    pub generation: i64,
    /// Voters; 0 hibernates.
    pub replicas: u32,
    /// Quorate's version.
    pub version: Version,
    /// Hash of everything that a member's Pod is rendered from.
    pub revision: String,
}

/// A `QuorateMember` with its Pod, its volume, and what it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberObject {
    /// `<cluster>-<number>`; also the Pod's name.
    pub name: String,
    /// The object's UID.
    pub uid: String,
    /// From the name.
    pub number: u64,
    /// The only peer URL that it is added with. Live members are known by it.
    pub peer_url: String,
    /// It was made to begin the cluster.
    pub seed: bool,
    /// The revision that its Pod shall have. The object holds all that its Pod is rendered from,
    /// so that this revision can be rendered when the cluster's spec has moved on.
    pub revision: String,
    /// The object has a deletion timestamp: somebody asks for its safe replacement (or the
    /// operator has deleted it, having removed the member).
    pub deletion_asked: bool,
    /// Its last known role, from its status; kept while the membership cannot be read. `None`
    /// for one that was never seen in the membership.
    pub last_role: Option<Role>,
    /// The last version that it answered with, from its status. `None` for one that has never
    /// answered.
    pub last_version: Option<Version>,
    /// Its Pod.
    pub pod: Pod,
    /// Its volume claim.
    pub volume: Volume,
    /// What it said when it was asked.
    pub asked: Asked,
}

/// The Pod of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pod {
    /// Could not be read.
    Unknown,
    /// There is none.
    Absent,
    /// There is one.
    Present(PodFacts),
}

/// What is known of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Its UID.
    pub uid: String,
    /// The revision that it was rendered from.
    pub revision: String,
    /// How its member was told to start.
    pub start: Start,
    /// Digest of the membership that its `--initial-cluster` was made from, as an annotation of
    /// the Pod. Only a member that has never started cares. `None` where it is not known.
    pub membership: Option<String>,
    /// Its label says that it is a voter, so the disruption budget counts it.
    pub labelled_voter: bool,
    /// Where it is in its life.
    pub phase: PodPhase,
    /// Its node does not report any more. What is written about the Pod is old, and its process
    /// may run.
    pub node_silent: bool,
}

/// Where a Pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// Not started, and why.
    Pending(Pending),
    /// Its container runs.
    Running {
        /// Its readiness probe says yes.
        ready: bool,
    },
    /// Its container starts and ends again and again.
    CrashLooping {
        /// So often.
        restarts: u32,
    },
    /// It has a deletion timestamp. On a silent node this can last for ever, and it is not gone.
    Terminating,
    /// It has ended and will not be started again (evicted, or its node was shut down).
    Ended,
}

/// Why a Pod has not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// On its way; nothing is known to be wrong.
    Starting,
    /// No node takes it.
    Unschedulable,
    /// Its image cannot be had, or is named wrongly.
    Image,
    /// Its claim waits for a volume or a storage class.
    Volume,
    /// Its volume can be used on some nodes only, and none of these takes it.
    VolumeNode,
    /// Its container cannot be made of what is asked for.
    Config,
}

/// How a member's process is told to start. A member with data on its disk takes no notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// It begins a cluster, alone: `--initial-cluster-state=new`. Once in the life of a cluster.
    New,
    /// It joins the cluster that runs: `--initial-cluster-state=existing`.
    Existing,
    /// Its disk becomes a cluster of one first (`quorate util recover`, which keeps a copy).
    Recover,
}

/// The volume claim of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volume {
    /// Could not be read.
    Unknown,
    /// There is none.
    Absent,
    /// There is one.
    Present(VolumeFacts),
}

/// What is known of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFacts {
    /// Its UID.
    pub uid: String,
    /// How it is.
    pub phase: VolumePhase,
    /// It is bound, its Pod finds no node, and whether it can be used on any node that is left
    /// could not be read.
    pub nodes_unread: bool,
    /// It is marked as left by a member that was removed, and is never adopted.
    pub released: bool,
}

/// How a claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumePhase {
    /// Not bound yet. Some classes bind only when a Pod wants it.
    Pending,
    /// Bound.
    Bound,
    /// Bound, and the API has no node any more that it can be used on.
    Stranded,
    /// Its volume is gone.
    Lost,
    /// It is being deleted. It is as good as gone: nothing new is started on it.
    Terminating,
}

/// A claim without a member object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptVolume {
    /// The member that it belonged to, `<cluster>-<number>`.
    pub member: String,
    /// From the name.
    pub number: u64,
    /// Its UID.
    pub uid: String,
    /// It is marked as left by a member that was removed.
    pub released: bool,
}

/// What a member said when it was asked.
///
/// The times are kept from pass to pass (in the member's status, so that another replica of the
/// operator finds them). Where one was lost, it is now: waiting begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It was not asked, or the asking itself failed.
    Unknown,
    /// It did not answer.
    Silent {
        /// The first time in a row.
        since_ms: u64,
        /// Since when it has not been well: before it fell silent it may have answered, and not well.
        failed_since_ms: u64,
    },
    /// It answered.
    Answered(Answer),
}

/// The answer of a member: Status, and a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its own id.
    pub id: MemberId,
    /// The cluster that it belongs to.
    pub cluster_id: ClusterId,
    /// Since when every answer was good: it served a linearizable read (a learner: a
    /// serializable one) with the latched cluster id. `None` when the last one was not good.
    pub good_since_ms: Option<u64>,
    /// Since when they were not good; `None` when the last one was.
    pub bad_since_ms: Option<u64>,
    /// Who leads, as it sees it.
    pub leader: Option<MemberId>,
    /// Its term.
    pub term: u64,
    /// Its commit index: its log goes at least as far.
    pub raft_index: u64,
    /// The last index that it has applied.
    pub applied_index: u64,
    /// Quorate's version that it runs.
    pub version: Version,
    /// Size of its database, in bytes.
    pub db_size: u64,
    /// Bytes in use of that.
    pub db_in_use: u64,
}

/// The membership from a linearizable MemberList that the leader answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Live {
    /// Nobody answered with a quorum behind it. Neither is it lost for certain.
    Unknown,
    /// This is it.
    Known(Membership),
}

/// The live membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// Who leads.
    pub leader: MemberId,
    /// The digest of docs/membership.md.
    pub digest: String,
    /// All members.
    pub members: Vec<LiveMember>,
    /// The leader's commit index, read before the other members were asked: so whoever has the
    /// whole log is seen to have it, also under load.
    pub committed: u64,
    /// How many learners the leader takes (`--max-learners`).
    pub learners_max: u32,
    /// All alarms.
    pub alarms: Vec<Alarm>,
    /// The current revision of the store.
    pub store_revision: i64,
    /// The revision up to which it is known to be compacted (a read at the revision before it
    /// is refused). 0 where nothing is known.
    pub compacted_revision: i64,
    /// The quota of the database, in bytes.
    pub quota: u64,
}

/// One member of the live membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveMember {
    /// Its id.
    pub id: MemberId,
    /// Its name; empty until it has started.
    pub name: String,
    /// Its peer URLs.
    pub peer_urls: Vec<String>,
    /// Voter or learner.
    pub role: Role,
    /// The number n when its peer URL is the one that `<cluster>-<n>` of this cluster has and n
    /// is below the counter. Tells our own, whose object is gone, from a stranger.
    pub number: Option<u64>,
}

/// An alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Whose.
    pub member: MemberId,
    /// What.
    pub kind: AlarmKind,
}

/// The kinds of alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmKind {
    /// The quota is used up.
    NoSpace,
    /// The data differs from that of the others.
    Corrupt,
}

/// An act for a full database that was refused, or that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedRemedy {
    /// Which.
    pub remedy: Remedy,
    /// When, the last time.
    pub at_ms: u64,
}

/// What is tried for a full database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remedy {
    /// To compact the store.
    Compact,
    /// To defragment this member's database.
    Defragment(MemberId),
}

/// The PodDisruptionBudget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Could not be read.
    Unknown,
    /// There is none.
    Absent,
    /// There is one with this `minAvailable`.
    Present(u32),
}
