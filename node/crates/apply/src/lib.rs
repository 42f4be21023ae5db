//! # apply: one committed entry, one change
//!
//! Raft puts entries into one order, the same on every member. This room gives an entry its
//! meaning: it changes keys, leases, alarms, members or versions, and says what to answer to
//! the client that waits for it. The meaning is a function of the entry and of the entries
//! before it; of time only where a leader's leases begin to count. So members that applied
//! the same entries hold the same data to the byte, which `HashKV` compares, also with etcd.
//!
//! ```text
//!   committed entry ─► Applier ─┬─ normal ──► request ─► kv, txn, lease, alarm, versions
//!                        │      ├─ empty ───► a leader begins its term
//!                        │      └─ conf ────► membership ─► what raft has to do
//!                        │                                        │
//!                        └── end_entry: index, term and changes ──┘
//!                            are one step for the disk
//!                     ─► Outcome: answer, and what the server should do next
//! ```
//!
//! Three kinds of errors meet here, and only the first leaves as an answer: the client's,
//! which is the same on every member ([`api::Error`]); an entry that means nothing, which is
//! passed over the same everywhere; and this node's ([`Fatal`]), after which the node must
//! stop, because going on would make it differ from the others.
//!
//! What a request may not do while an alarm is raised is decided here too, on all members
//! alike: out of space, nothing that grows the store; corrupt, no reads through the log and
//! no changes at all.
//!
//! Two modules serve the members' doors and touch no state: [`check`] says what makes a
//! request bad by itself, [`quota`] what it costs.
//!
//! What this room does not know: raft, time (it comes in), sockets, who leads.
#![forbid(unsafe_code)]

mod alarm;
mod applier;
mod auth;
pub mod check;
mod conf;
mod error;
mod kv;
mod legacy;
mod outcome;
pub mod quota;
mod request;
#[cfg(test)]
mod tests;
mod txn;

pub use alarm::Alarms;
pub use applier::{Applier, Config};
pub use conf::ConfResult;
pub use error::{Fatal, membership_error, mvcc_error};
pub use outcome::{Hints, Outcome, Response};
pub use txn::{is_read_only, is_serializable, read_only_txn};
