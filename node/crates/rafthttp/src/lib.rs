//! # rafthttp: members talk to each other
//!
//! Raft's messages travel over HTTP/1.1, exactly as between etcd members, so that ours and
//! theirs can stand in one cluster. Three ways, chosen by kind of message:
//!
//! ```text
//!            member A                                         member B
//!            ────────                                         ────────
//!  MsgApp ─▶ lane msgapp  ◀──── GET /raft/stream/msgapp/b ─── reader ─▶ raft
//!  others ─▶ lane message ◀──── GET /raft/stream/message/b ── reader ─▶ raft
//!            (no lane yet) ───── POST /raft ────────────────▶ 204
//!  MsgSnap + database ────────── POST /raft/snapshot ───────▶ save, step, 204
//! ```
//!
//! The arrow of the connection and the arrow of the messages point in opposite directions: who
//! wants to *receive* dials, and the answer's endless body is the stream. So a member can push
//! nothing until the other has dialled in, and sends by single POSTs until then (quirk 33). A
//! member that has no membership yet notes who dials it, and answers them by POST (quirk 34).
//!
//! A stream is used as long as it lives. Each end sends a link heartbeat every third of the
//! read time-out; silence for longer ends the connection, and with it the memory of the codec.
//!
//! What is bounded, and what happens at the bound, stands in [`Limits`]. Losing a message is
//! allowed, since raft sends again; growing is not, and neither is making raft's thread wait:
//! [`Handle::send`] pushes to queues and wakes one task.
//!
//! This room does not know: what a message means (the gate in `raftnode` judges it), who is a
//! member (it is told), how a database is stored (see [`SnapshotStore`], [`SnapshotSource`]),
//! TLS (one function opens connections and one accepts them; it belongs there).
#![forbid(unsafe_code)]

mod asks;
mod client;
mod clock;
pub mod codec;
mod config;
mod deadline;
mod error;
mod inflow;
mod lane;
mod leases;
mod listener;
mod peer;
mod pipeline;
mod ports;
mod probe;
mod reader;
mod server;
mod snapshot;
mod stats;
mod transport;
mod twins;
mod url;
mod version;

pub use asks::{Asks, Versions};
pub use config::{ClusterId, Config, Limits, Timeouts};
pub use error::Error;
pub use listener::peer_listener;
pub use ports::{
    Answer, BoxFuture, HashKv, LeaseTimeToLive, PeerApi, Raft, Refusal, SnapshotSource,
    SnapshotStore, SnapshotWriter,
};
pub use probe::Probe;
pub use stats::{HistogramView, StatsView, TransfersView};
pub use transport::{Handle, PeerView, Transport};
pub use version::Version;
