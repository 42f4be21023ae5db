//! What a run tells.

use std::collections::BTreeMap;
use std::fmt;

use crate::properties::Violation;

/// How often things happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were answered after the faults had ended.
    pub answered_healed: u64,
    /// Requests without an answer in time: done or not.
    pub unknown: u64,
    /// Requests that certainly were not done.
    pub failed: u64,
    /// Leaders elected.
    pub elections: u64,
    /// Snapshots written to disk.
    pub snapshots_written: u64,
    /// Snapshots sent to peers.
    pub snapshots_sent: u64,
    /// Snapshots received and put in place.
    pub snapshots_installed: u64,
    /// Reads of the WAL for peers.
    pub fetches: u64,
    /// Messages that the gate refused.
    pub refused: u64,
    /// Messages that were lost.
    pub lost: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Changes of membership that were done.
    pub changes: u64,
}

/// A run in which all properties held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Members at the start.
    pub members: u64,
    /// Simulated time.
    pub simulated_ms: u64,
    /// What happened.
    pub counters: Counters,
    /// Length of the committed log.
    pub committed: u64,
    /// Fingerprint of the trace.
    pub fingerprint: u64,
    /// Lines of the trace.
    pub lines: u64,
}

/// A run in which one did not.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// Simulated time.
    pub at_ms: u64,
    /// What does not hold.
    pub violation: Violation,
    /// The last lines of the trace.
    pub tail: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.tail {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "{:>10} ms: {}", self.at_ms, self.violation)?;
        write!(
            f,
            "to repeat it: QUORATE_SEED={} cargo test -p sim seeds -- --nocapture",
            self.seed
        )
    }
}

impl std::error::Error for Failure {}
