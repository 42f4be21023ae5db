//! # rpc: the client port
//!
//! gRPC and plain HTTP on one port, or each on its own. A request is read, checked and answered
//! here; what it does is done by the member (`server`) and the rooms of state behind it.
//!
//! ```text
//! socket ─ coalesce ─ hyper ─ door ┬ kv, watch, lease, cluster, maintenance ─ member, lane
//!                                  └ health (HTTP)
//! ```
//!
//! What it does not know: raft, files, peers. Handlers know no HTTP; `grpc` is the only place
//! that does framing.
#![forbid(unsafe_code)]

mod auth;
mod cluster;
mod coalesce;
mod door;
mod grpc;
mod head;
mod health;
mod kv;
mod lease;
mod maintenance;
mod serve;
mod stats;
mod watch;

pub use door::{Config, Door};
pub use serve::{Connections, Serves, bind, serve};
