//! # sim: a whole cluster under one seed
//!
//! Production's rooms (raftnode, wal, snap, backend, mvcc, membership, apply, and of server the
//! start from a disk and the WAL writer) on a disk that forgets what was not synced, joined by a network that loses, delays, repeats and reorders, driven by
//! one queue of events and one generator of chance. The same seed gives the same run, to the
//! last line of its trace.
//!
//! ```text
//!   clients ──▶ members ◀──▶ network        faults: power cuts, kills, partitions, slow disks,
//!                 │  ▲                              pauses, loss, transfers, membership changes
//!                 ▼  │
//!               MemDisk                     properties: watch everything from outside
//! ```
//!
//! A run has two phases. For a minute faults come every few seconds, and the properties must
//! hold. Then the faults end, all come back, and the cluster must serve and agree.
//!
//! What it does not cover: sockets, threads and real time; and the server's loops, for which the
//! lanes in `member.rs` stand.
#![forbid(unsafe_code)]

mod faults;
mod member;
mod network;
mod properties;
mod recovery;
mod report;
mod trace;
mod world;

pub use properties::Violation;
pub use report::{Counters, Failure, Report};

/// Simulated time is counted in microseconds.
const MILLISECOND_US: u64 = 1000;
const SECOND_US: u64 = 1_000_000;

/// What is broken on purpose, so that the simulation shows that it would notice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Breakage {
    /// Nothing.
    #[default]
    Nothing,
    /// The WAL does not sync.
    NoSync,
    /// Writes are reported durable when they are queued.
    PersistedTooEarly,
    /// Reads are answered from what a member has applied, without asking the leader.
    StaleRead,
}

/// How to run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// What is broken on purpose.
    pub breakage: Breakage,
    /// Print each line of the trace.
    pub print: bool,
}

/// Runs one seed.
///
/// # Errors
///
/// A property did not hold.
pub fn run(seed: u64, options: Options) -> Result<Report, Failure> {
    world::World::new(seed, options).run()
}
