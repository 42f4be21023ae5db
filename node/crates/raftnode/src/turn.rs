//! What goes into a turn and what comes out: plain data.

use bytes::Bytes;
use raftpb::{ConfChange, ConfState, Entry, HardState, MemberId, Message, Snapshot};
use seams::Rng;

use crate::Refusal;
use crate::status::{Role, Status};

/// The number of a write, as told in [`Persist`] and given back in [`Inputs::persisted`].
pub type PersistNumber = u64;

/// How a member takes part. Durations are in ticks (etcd's `--heartbeat-interval`, 100 ms).
pub struct Config {
    /// This member. Not 0.
    pub id: MemberId,
    /// Ticks between two heartbeats of a leader; etcd: 1.
    pub heartbeat_ticks: u32,
    /// Ticks without a leader before a campaign, at least; the real time-out is drawn from
    /// `election_ticks..2 * election_ticks` after each change of term, role or leader.
    pub election_ticks: u32,
    /// After this long without an answer a read index is asked for again (etcd: 500 ms).
    pub read_retry_ticks: u32,
    /// After this long a read fails with [`ReadFailure::TimedOut`] (etcd: 5 s and two election
    /// time-outs).
    pub read_timeout_ticks: u32,
    /// Ask whether one would be elected before raising the term (etcd's `--pre-vote`).
    pub pre_vote: bool,
    /// Bytes of applied entries that stay in memory although no living follower needs them, see
    /// [`crate::LOG_BYTES_MAX`].
    pub log_bytes_max: u64,
    /// Draws the election time-outs and the first read context.
    pub rng: Box<dyn Rng>,
    /// The strict reconfiguration rule, asked in the turn that appends a conf change. `None`
    /// allows each one that can be decoded.
    pub judge: Option<Box<dyn Judge>>,
}

impl Config {
    /// etcd's defaults: ticks of 100 ms, elections after 1 s.
    pub fn new(id: MemberId, rng: Box<dyn Rng>) -> Config {
        Config {
            id,
            heartbeat_ticks: 1,
            election_ticks: 10,
            read_retry_ticks: 5,
            read_timeout_ticks: 70,
            pre_vote: true,
            log_bytes_max: crate::LOG_BYTES_MAX,
            rng,
            judge: None,
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("id", &self.id)
            .field("heartbeat_ticks", &self.heartbeat_ticks)
            .field("election_ticks", &self.election_ticks)
            .field("read_retry_ticks", &self.read_retry_ticks)
            .field("read_timeout_ticks", &self.read_timeout_ticks)
            .field("pre_vote", &self.pre_vote)
            .field("log_bytes_max", &self.log_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Judges a conf change on the leader, in the turn that appends it.
///
/// Raft allows one conf change between the leader's applied index and the end of its log, so a
/// verdict given here is already atomic with the append. It is asked once per change that
/// would otherwise be appended, ours or forwarded by a peer, and must not block.
pub trait Judge: Send {
    /// `from` is the peer that forwarded the change, `None` for one of our own; `condition` is
    /// what came with it in [`Payload::ConfChangeHere`]. An `Err` says why in words; the change is
    /// then dropped as [`DropReason::Judged`].
    ///
    /// # Errors
    ///
    /// The change must not be appended.
    fn judge(
        &mut self,
        change: &ConfChange,
        from: Option<MemberId>,
        condition: Option<u64>,
        status: &Status,
    ) -> Result<(), String>;
}

/// What the disk gave back at start.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The last hard state in the WAL. Its commit is raised to `applied` here.
    pub hard_state: HardState,
    /// Where the log begins: index of the WAL snapshot that was opened; 0 at bootstrap.
    pub snapshot_index: u64,
    /// Term of that index.
    pub snapshot_term: u64,
    /// Voters and learners as of `applied`. Empty when nothing was ever applied: then the
    /// conf changes that a bootstrap wrote at the head of `entries` give the first voters.
    pub conf_state: ConfState,
    /// The log after the snapshot, without a gap.
    pub entries: Vec<Entry>,
    /// The database's consistent index. Committed entries after it are handed out again.
    pub applied: u64,
}

/// What has happened since the last turn. All fields may be filled at once; they are taken in
/// the order in which they stand here, results of the disk before news from the network.
#[derive(Debug, Default)]
pub struct Inputs {
    /// The WAL has synced all writes up to this number.
    pub persisted: Option<PersistNumber>,
    /// Conf changes that the applier decided, in log order, each exactly once.
    pub conf_results: Vec<ConfResult>,
    /// The applier has applied up to here. Published after the conf results up to here.
    pub applied: Option<u64>,
    /// The snapshot of [`Effects::install`] is in place: the database stands at this index.
    pub snapshot_installed: Option<u64>,
    /// Answers to [`Effects::fetches`].
    pub fetched: Vec<Fetched>,
    /// Answers to [`Effects::snapshots_wanted`].
    pub snapshots_ready: Vec<SnapshotReady>,
    /// How the sending of each MsgSnap ended: exactly one for each, or the peer is paused for
    /// ever.
    pub snapshots_sent: Vec<SnapshotSent>,
    /// Peers to which a message could not be sent.
    pub unreachable: Vec<MemberId>,
    /// What peers sent. Checked here, by the gate; nothing that a wire can bring panics.
    pub messages: Vec<Message>,
    /// Hand the lead to this voter.
    pub transfer_to: Option<MemberId>,
    /// Requests to append.
    pub proposals: Vec<Proposal>,
    /// Requests for a read index, by the caller's tag.
    pub reads: Vec<u64>,
    /// The log up to here is not needed: a snapshot stands behind it.
    pub compact_to: Option<u64>,
    /// Ticks that have passed.
    pub ticks: u32,
}

impl Inputs {
    /// Empties all lists and keeps their memory.
    pub fn clear(&mut self) {
        self.persisted = None;
        self.conf_results.clear();
        self.applied = None;
        self.snapshot_installed = None;
        self.fetched.clear();
        self.snapshots_ready.clear();
        self.snapshots_sent.clear();
        self.unreachable.clear();
        self.messages.clear();
        self.transfer_to = None;
        self.proposals.clear();
        self.reads.clear();
        self.compact_to = None;
        self.ticks = 0;
    }
}

/// One request to append.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The caller's; comes back in [`Dropped`].
    pub tag: u64,
    /// What to append.
    pub payload: Payload,
}

/// What a proposal carries.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// A normal entry's bytes.
    Data(Bytes),
    /// A change of membership; forwarded when another leads.
    ConfChange(ConfChange),
    /// A change of membership that only this member as leader may append: dropped as
    /// [`DropReason::NotLeader`] when another leads, since what its caller asked for beside it
    /// would not travel along.
    ConfChangeHere {
        /// The change.
        change: ConfChange,
        /// What the judge is given beside it. It stays with the change for as long as that may
        /// still be appended, whether or not its caller waits.
        condition: Option<u64>,
    },
}

/// The applier's decision on a committed conf change.
#[derive(Debug, Clone)]
pub struct ConfResult {
    /// Index of its entry.
    pub index: u64,
    /// The change to make; `None` when it failed validation and changes nothing.
    pub change: Option<ConfChange>,
}

/// A range of the log that has left memory, read from the WAL.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// As in the [`Fetch`].
    pub from: u64,
    /// The entries from `from` on, without a gap; fewer than asked for is fine. `None` or empty
    /// when the WAL has them no more: the peer then gets a snapshot.
    pub entries: Option<Vec<Entry>>,
}

/// A snapshot for a peer that is too far behind.
#[derive(Debug, Clone)]
pub struct SnapshotReady {
    /// For whom.
    pub peer: MemberId,
    /// Metadata and etcd's v2 store; the database travels beside it. `None`: could not be made,
    /// will be asked for again.
    pub snapshot: Option<Snapshot>,
}

/// How the sending of a MsgSnap ended.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotSent {
    /// To whom.
    pub peer: MemberId,
    /// The peer answered 204.
    pub ok: bool,
}

/// What is to be done after a turn, in the order of the fields.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be sent now. Each MsgSnap must be answered by one [`Inputs::snapshots_sent`].
    pub messages: Vec<Message>,
    /// To be written. Messages that wait for it are kept inside until it is persisted.
    pub persist: Option<Persist>,
    /// A received snapshot whose record is durable: to be put in place of the database, before
    /// `committed` of this and later effects.
    pub install: Option<Snapshot>,
    /// Committed entries, to be applied: each once, in order, durable here. The bytes are shared
    /// with the log in memory.
    pub committed: Vec<Entry>,
    /// Read indexes found, or not to be found.
    pub reads: Vec<ReadResult>,
    /// Proposals that did not go on.
    pub dropped: Vec<Dropped>,
    /// Set when term, role or leader changed.
    pub soft_state: Option<SoftState>,
    /// Set when conf results changed voters or learners; sorted.
    pub conf_state: Option<ConfState>,
    /// Peers that need a snapshot, asked for once each until [`Inputs::snapshots_ready`].
    pub snapshots_wanted: Vec<MemberId>,
    /// Ranges of the log to be read from the WAL.
    pub fetches: Vec<Fetch>,
    /// Messages that the gate refused: to be counted, and logged with care.
    pub refused: Vec<Refused>,
    /// This member must end, in order.
    pub stop: Option<Stop>,
}

impl Effects {
    /// Empties all lists and keeps their memory.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.persist = None;
        self.install = None;
        self.committed.clear();
        self.reads.clear();
        self.dropped.clear();
        self.soft_state = None;
        self.conf_state = None;
        self.snapshots_wanted.clear();
        self.fetches.clear();
        self.refused.clear();
        self.stop = None;
    }
}

/// A write for the WAL: snapshot first, then entries and hard state, then one sync.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Persist {
    /// To be given back when durable. Numbers rise; a later one includes all before.
    pub number: PersistNumber,
    /// Set when it changed.
    pub hard_state: Option<HardState>,
    /// To be appended. The first may overwrite what was written before: the log then ends there.
    pub entries: Vec<Entry>,
    /// False when only the commit index moved: it need not be synced, but it must still be
    /// answered, in order.
    pub must_sync: bool,
    /// A snapshot received from the leader: its `.snap` file and WAL record come before the
    /// entries.
    pub snapshot: Option<Snapshot>,
}

/// A read index for one tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadResult {
    /// The caller's.
    pub tag: u64,
    /// The read may be answered from any state at or after this index.
    pub result: Result<u64, ReadFailure>,
}

/// Why there is no read index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadFailure {
    /// No leader confirmed one within `read_timeout_ticks`.
    #[error("no leader confirmed the read index in time")]
    TimedOut,
    /// More than [`crate::READS_WAITING_MAX`] wait already.
    #[error("too many reads wait for a read index")]
    TooMany,
    /// This member was removed from the cluster.
    #[error("the member was removed from the cluster")]
    Removed,
}

/// A proposal that did not go on.
#[derive(Debug, Clone)]
pub struct Dropped {
    /// The caller's.
    pub tag: u64,
    /// Why.
    pub reason: DropReason,
    /// Given back, so that it can be proposed again.
    pub payload: Payload,
}

/// Why a proposal did not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DropReason {
    /// There is no leader now. etcd lets the request wait: propose it again later.
    #[error("no leader")]
    NoLeader,
    /// Another member leads, and this proposal must not be forwarded.
    #[error("this member does not lead")]
    NotLeader,
    /// The lead is being handed over. Propose it again later.
    #[error("the lead is being transferred to {0}")]
    Transferring(MemberId),
    /// [`crate::UNCOMMITTED_BYTES_MAX`] wait for a quorum already.
    #[error("too many bytes wait for a quorum")]
    TooManyUncommitted,
    /// Longer than [`crate::PROPOSAL_BYTES_MAX`].
    #[error("proposal of {bytes} bytes, expected at most {max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// An earlier conf change is not applied yet.
    #[error("an earlier conf change is not applied yet")]
    ConfChangePending,
    /// No etcd member could apply it.
    #[error("invalid conf change: {0}")]
    Invalid(raftpb::Error),
    /// The [`Judge`] refused it.
    #[error("{0}")]
    Judged(String),
    /// This member was removed from the cluster.
    #[error("the member was removed from the cluster")]
    Removed,
}

/// Who leads, and what we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoftState {
    /// The leader, when known.
    pub leader: Option<MemberId>,
    /// Our role.
    pub role: Role,
    /// Our term.
    pub term: u64,
}

/// A range of the log that has left memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// First index.
    pub from: u64,
    /// The index after the last.
    pub to: u64,
    /// At most so many bytes, but at least one entry.
    pub max_bytes: u64,
}

/// A message that the gate refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Who says to have sent it.
    pub from: MemberId,
    /// Its type, as a number of etcd's.
    pub msg_type: i32,
    /// What is wrong with it.
    pub reason: Refusal,
}

/// Why this member must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The leader knows that we had acknowledged more than our log holds: the disk lost data
    /// that it had confirmed. To go on would be to vote with a false log. etcd panics here.
    #[error(
        "leader {leader} says that entry {commit} is committed and was acknowledged here, but the log ends at {last_index}: the disk lost acknowledged entries"
    )]
    LostEntries {
        /// Who said so.
        leader: MemberId,
        /// What it said.
        commit: u64,
        /// Where our log ends.
        last_index: u64,
    },
    /// The conf change at this index removed this member. Said ten ticks after it was applied,
    /// as in etcd: until then a removed leader tells the others what is committed, and answers
    /// may leave.
    #[error("the conf change at index {index} removed this member")]
    Removed {
        /// Its index.
        index: u64,
    },
}
