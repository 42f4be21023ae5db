//! # raftnode: a member's raft, as turns
//!
//! Raft is here a function: a turn takes what has happened, a batch of inputs, and gives what
//! is to be done, a batch of effects. It has no thread, no clock, no file and no socket; time
//! comes in as ticks, chance as an [`Rng`](seams::Rng), and the disk answers later, by number.
//!
//! ```text
//!   ticks ───────────┐                            ┌──▶ messages        may leave now
//!   messages ─▶ gate ┤                            ├──▶ persist(n) ───▶ WAL, one sync ─┐
//!   proposals ───────┤                            ├──▶ committed ────▶ applier ─────┐ │
//!   reads ───────────┼──▶  RaftNode::turn  ───────┼──▶ reads, dropped               │ │
//!   persisted(n) ◀───┤         raft-rs            ├──▶ install, fetches, snapshots  │ │
//!   applied ◀────────┘                            └──▶ soft state, stop             │ │
//!     ▲  ▲                                                                          │ │
//!     │  └──────────────────────────────────────────────────────────────────────────┼─┘
//!     └─────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Inside is raft-rs 0.7, outside are etcd's types and etcd's rules. What stands between them:
//!
//! * **The gate** (`admit.rs`). raft-rs panics on much that a wire can bring. Every message is
//!   checked before it is stepped, and refused with a reason.
//! * **What waits for the disk.** Answers of a follower leave when what they promise is durable,
//!   released here and not by the WAL's thread, so that raft has heard of it first. Two
//!   departures from raft-rs: an answer to a heartbeat leaves at once when term and vote are
//!   durable, and a leader's messages wait until its own vote is (alone in a cluster with
//!   learners, raft-rs would lead a term that a crash can forget). No campaign and no vote
//!   counts while anything is not durable.
//! * **Reads** (`reads.rs`): rounds of our own over raft-rs's heartbeats.
//! * **Removal.** A leader that applies its own removal stops leading in the same turn; for ten
//!   ticks it goes on telling what is committed (`farewell.rs`).
//! * **Conf changes** are told back in log order, before the applied index that includes them.
//! * **The log in memory** (`log.rs`), limited; older entries come back from the WAL, on request.
//! * **Chance**: election time-outs are set from the given generator after each call into
//!   raft-rs that changed term, role or leader. The same inputs give the same effects.
//!
//! This room does not know: what an entry means, who may be a member, how bytes reach a peer or
//! a disk, how long a tick is.
#![forbid(unsafe_code)]

mod admit;
mod bootstrap;
mod echo;
mod farewell;
mod log;
mod logger;
mod node;
mod outbox;
mod reads;
mod status;
mod turn;

pub use admit::Refusal;
pub use log::LOG_BYTES_MAX;
pub use node::RaftNode;
pub use reads::READS_WAITING_MAX;
pub use status::{MemberStatus, Replication, Role, Status};
pub use turn::{
    ConfResult, Config, DropReason, Dropped, Effects, Fetch, Fetched, Inputs, Judge, Payload,
    Persist, PersistNumber, Proposal, ReadFailure, ReadResult, Recovered, Refused, SnapshotReady,
    SnapshotSent, SoftState, Stop,
};

/// Bytes of entries in one MsgApp, and of proposals in one step (etcd's `maxSizePerMsg`). A
/// single longer entry travels alone.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// Appends on their way to one peer (etcd's `maxInflightMsgs`). Beyond this a leader waits for
/// acknowledgements of that peer.
pub const INFLIGHT_MESSAGES_MAX: usize = 512;

/// Bytes of entries that a leader holds and no quorum has. Beyond this proposals are dropped
/// with [`DropReason::TooManyUncommitted`]. etcd has no such limit; the number is a second of
/// a fast disk.
pub const UNCOMMITTED_BYTES_MAX: u64 = 256 << 20;

/// Bytes of one proposal, or of one forwarded batch. The door's own limit (`--max-request-bytes`,
/// 1.5 MiB by default) comes first; this one bounds what a peer can make us hold.
pub const PROPOSAL_BYTES_MAX: usize = 64 << 20;

/// Why a member could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// raft-rs refused the configuration.
    #[error("raft configuration: {0}")]
    Config(#[from] raft::Error),
    /// An entry of the log that raft-rs cannot hold.
    #[error(transparent)]
    Entry(#[from] raftpb::Error),
    /// The log has a gap or goes back in term.
    #[error(
        "entry {index} of term {term} stands after entry {after_index} of term {after_term} in the wal"
    )]
    LogGap {
        /// Its index.
        index: u64,
        /// Its term.
        term: u64,
        /// Index of the entry (or snapshot) before it.
        after_index: u64,
        /// Term of that.
        after_term: u64,
    },
    /// The database is behind the snapshot at which the log begins.
    #[error(
        "the database has applied {applied}, but the log begins after the snapshot at {snapshot_index}: restore that snapshot's database"
    )]
    AppliedBeforeLog {
        /// The database's consistent index.
        applied: u64,
        /// Where the log begins.
        snapshot_index: u64,
    },
    /// The WAL lost entries that were committed.
    #[error(
        "the wal ends at {last_index}, but {committed} was committed and {applied} is applied in the database: the wal lost entries; remove this member and add it anew"
    )]
    LogEndsEarly {
        /// Last index of the log.
        last_index: u64,
        /// Commit index in the hard state.
        committed: u64,
        /// The database's consistent index.
        applied: u64,
    },
}
