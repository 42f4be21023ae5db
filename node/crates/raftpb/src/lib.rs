//! # raftpb: etcd's raft messages, and the one translator to raft-rs
//!
//! etcd and raft-rs (crate `raft`) grew from one root and then apart. Their messages look
//! the same and are not: a `ConfChange` that adds a learner for one updates a node for the
//! other, and from field 13 on a `Message` carries different things. This is the only room
//! that knows both. Everything else in Quorate, every byte on a wire and on a disk, speaks
//! etcd's dialect, the types at the top of this crate.
//!
//! ```text
//!   wire, WAL, propose                                    raft-rs
//!   ───────────────────                                   ───────────────────
//!   Entry ConfChange ──── inner::entry_to_inner ───────▶  Entry ConfChange
//!     data = etcd's bytes                                   data = stub, raft-rs's encoding
//!                                                           context = etcd's bytes
//!   Entry ConfChange ◀─── inner::entry_from_inner ──────  (data comes back from context)
//!
//!   Message, 1 to 12 ──── inner::message_to_inner ─────▶  Message, 13 to 16 unset
//!                    ◀─── inner::message_from_inner ────  13 to 16 dropped
//! ```
//!
//! Why the stub: the leader inside raft-rs parses each proposed conf change itself. etcd's
//! type 3 (add learner) is unknown to it, and the proposal is dropped; etcd's type 2 (update)
//! is its "add learner", and a voter would be demoted. So raft-rs is shown a stub that it can
//! read, while log, wire and disk keep etcd's bytes.
//!
//! [`conf`] holds what a conf change carries as its context (JSON of a member) and the check
//! that stands before one is proposed, since an etcd member panics when it applies a context
//! that it cannot read.
//!
//! This room does not know: sockets, files, the raft state machine, who is a member.
#![forbid(unsafe_code)]

pub mod conf;
pub mod inner;

#[expect(
    missing_docs,
    reason = "generated; proto/raftpb.proto has the comments"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/raftpb.rs"));
}
pub use generated::*;

use serde::{Deserialize, Serialize};

/// The id of a member, as raft uses it (`from`, `to`, voters).
///
/// etcd prints it in lower-case hexadecimal without padding, and so does `Display`; in JSON
/// it is a plain number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MemberId(pub u64);

impl MemberId {
    /// Reads what `Display` writes: 1 to 16 hexadecimal digits, without a prefix.
    pub fn from_hex(text: &str) -> Option<MemberId> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(MemberId)
    }
}

impl std::fmt::Display for MemberId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl std::fmt::LowerHex for MemberId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::LowerHex::fmt(&self.0, f)
    }
}

impl From<u64> for MemberId {
    fn from(id: u64) -> MemberId {
        MemberId(id)
    }
}

impl Snapshot {
    /// Index of the last entry that the snapshot replaces; 0 for an empty snapshot.
    pub fn index(&self) -> u64 {
        self.metadata.as_ref().map_or(0, |metadata| metadata.index)
    }

    /// Term of that entry.
    pub fn term(&self) -> u64 {
        self.metadata.as_ref().map_or(0, |metadata| metadata.term)
    }

    /// etcd and raft-rs both call a snapshot at index 0 empty.
    pub fn is_empty(&self) -> bool {
        self.index() == 0
    }
}

/// Why bytes or messages from outside were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A number that is no `EntryType` of etcd.
    #[error("entry {index} has type {entry_type}, expected 0 (normal) or 1 (conf change)")]
    EntryType {
        /// Index of the entry.
        index: u64,
        /// The number found.
        entry_type: i32,
    },
    /// A joint-consensus change. etcd never writes one and stops at one.
    #[error("entry {index} is a conf change of version 2, which etcd does not use")]
    ConfChangeV2 {
        /// Index of the entry.
        index: u64,
    },
    /// The data of a conf change entry is no `ConfChange`.
    #[error("entry {index} is a conf change of {length} bytes that cannot be decoded: {reason}")]
    ConfChangeBytes {
        /// Index of the entry; 0 in a proposal.
        index: u64,
        /// Length of the data.
        length: usize,
        /// What the decoder said.
        reason: String,
    },
    /// A number that is no `ConfChangeType` of etcd.
    #[error("conf change has type {0}, expected 0 to 3")]
    ConfChangeType(i32),
    /// A message type that never travels, or that raft-rs does not have.
    #[error("message from {from:x} has type {msg_type}, expected one of raft's 0 to 18")]
    MessageType {
        /// The number found.
        msg_type: i32,
        /// Who sent it.
        from: u64,
    },
    /// A conf change of node 0, which raft takes for "nobody".
    #[error("conf change {id:x} names node 0")]
    NoNode {
        /// Id of the conf change.
        id: u64,
    },
    /// The context is not the JSON that etcd expects for this type of change.
    #[error(
        "conf change of node {node_id:x} has a context of {length} bytes that is not etcd's json: {reason}"
    )]
    Context {
        /// Node of the conf change.
        node_id: u64,
        /// Length of the context.
        length: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// etcd panics at apply when the two differ.
    #[error("conf change of node {node_id:x} has a context for member {context_id:x}")]
    IdsDiffer {
        /// Node of the conf change.
        node_id: u64,
        /// The `id` in its JSON.
        context_id: u64,
    },
}
