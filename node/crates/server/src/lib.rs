//! # server: the member
//!
//! Four threads, each a loop around one synchronous turn, and the lanes between them.
//!
//! ```text
//!            lanes (one per serving runtime)
//!  rpc ──▶ propose, read ──▶ ┌───────────┐ ── messages ──▶ peers
//!      ◀── replies ───┐      │ raft loop │ ── persist ───▶ WAL writer ─┐
//!                     │      └───────────┘ ◀── persisted ──────────────┘
//!                     │            │ committed
//!                     │            ▼
//!                     └────── applier ──▶ backend's pending batch ──▶ committer
//! ```
//!
//! Forward lanes take without waiting; what flows backward is a latest value or an ordered list.
//! Nothing can wait in a circle.
//!
//! What it does not know: HTTP and gRPC of clients (`rpc`), flags (the binary), the bytes of
//! the peer protocol (`rafthttp`), what a request means (`apply`).
#![forbid(unsafe_code)]

pub mod applier;
pub mod boot;
pub mod changes;
pub mod committer;
mod compactor;
pub mod config;
pub mod corrupt;
pub mod digest;
mod dirs;
pub mod downgrade;
pub mod errands;
mod force;
pub mod join;
pub mod judge;
pub mod lane;
mod late;
pub mod leases;
pub mod member;
pub mod metrics;
pub mod monitor;
pub mod peers;
#[cfg(test)]
mod promises;
pub mod raftloop;
pub mod shared;
pub mod snapshots;
pub mod start;
pub mod stats;
pub mod walwriter;
pub mod whereabouts;

pub use member::{Member, from_mvcc};
