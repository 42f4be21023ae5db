//! The store: every key at every revision since the last compaction, and who watches it.
//!
//! A transaction makes one revision. Each of its changes is a record under that revision
//! and the change's number: the bucket `key` is a log of all changes. Which record holds a
//! key's value at some revision, the index in memory knows.
//!
//! ```text
//!   applier                       serving threads                another thread
//!   MvccWriter                    Mvcc: get, range, streams      hash, catching up
//!     │ txn: put, delete            │                              │
//!     ▼                             ▼                              │
//!   ┌────────────── State, under one lock ───────────────┐         │
//!   │ index: key → revisions    current and compacted    │◄────────┤
//!   └─────────────────────────────────────────────────────┘        │
//!     │ records                     │ revisions                    │
//!     ▼                             ▼                              ▼
//!   backend::Writer ──────────► backend::View: revision → record ◄─┘
//!     │ end
//!     ▼
//!   WatchHub ──► streams' queues
//! ```
//!
//! - **Reads** hold the lock while they ask the index, a thousand keys at a time, and fetch
//!   the records without it. All of a read sees one revision. Counting a range is two walks
//!   down the tree. See `read.rs`.
//! - **Writes** hold the lock from begin to end of a transaction, so that nobody sees half
//!   of one. They touch memory only; the backend's committer writes the file.
//! - **Compaction** forgets what readers at its revision do not need, a step at a time. See
//!   `compaction.rs`; how members compare what they hold is in `hash.rs`.
//! - **Watches**: the applier matches and pushes, everything else happens elsewhere. See
//!   [`watch`].
//!
//! The bytes are part of the protocol: members compare hashes of them, and etcd members
//! must find ours equal to theirs. Files and hashes recorded from a real etcd are tested
//! against (`tests/etcd.rs`).
//!
//! Locks are taken in one order: the state's, the hub's, a queue's.
//!
//! What this room does not know: requests' soundness and permissions, leases beyond their
//! number in a record, the log, time, threads, sockets. Nothing from a file may panic here;
//! a malformed record is an [`Error`] that stops the member.
#![forbid(unsafe_code)]

mod compaction;
mod cursor;
mod error;
mod hash;
pub mod index;
mod read;
mod record;
mod request;
mod revision;
mod store;
pub mod watch;
mod write;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use compaction::{COMPACT_STEP_RECORDS, CompactStep, CompactWork, HASH_STEP_RECORDS};
pub use cursor::RangeCursor;
pub use error::Error;
pub use hash::KeyValueHash;
pub use read::{PinnedView, RangeOptions, RangeResult, ReadView};
pub use request::{has_revision_filters, is_default_order, range_request};
pub use revision::{RECORD_KEY_LEN, RecordKey, RecordKeyBytes, Revision, TOMBSTONE_KEY_LEN};
pub use store::{Mvcc, Restored};
pub use write::{Changes, Deleted, MvccWriter, Put, WriteTxn};
