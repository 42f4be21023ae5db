//! What must hold, one property per file, named as in the raft paper.
//!
//! All of them watch from outside: they know everything at once, which no member does.

mod election_safety;
mod leader_completeness;
mod linearizability;
mod log_matching;
mod model;
mod state_machine_safety;

use raftpb::{Entry, MemberId};

pub use linearizability::{Answer, Ask, Operation};
pub use log_matching::Mirror;

use election_safety::ElectionSafety;
use leader_completeness::LeaderCompleteness;
use linearizability::Linearizability;
use log_matching::LogMatching;
use model::Model;
use state_machine_safety::StateMachineSafety;

/// A property that does not hold.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{property}: {what}")]
pub struct Violation {
    /// Its name.
    pub property: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    /// One in words.
    pub fn new(property: &'static str, what: impl Into<String>) -> Violation {
        Violation {
            property,
            what: what.into(),
        }
    }
}

/// Shorthand for checks.
pub type Checked<T = ()> = Result<T, Violation>;

/// All properties.
#[derive(Debug, Default)]
pub struct Properties {
    elections: ElectionSafety,
    logs: LogMatching,
    leaders: LeaderCompleteness,
    machines: StateMachineSafety,
    /// The keys, as the committed log makes them.
    pub model: Model,
    clients: Linearizability,
}

impl Properties {
    /// A member became leader.
    pub fn leads(&mut self, member: MemberId, term: u64, mirror: &Mirror) -> Checked {
        self.elections.leads(member, term)?;
        self.leaders.leads(member, term, mirror)
    }

    /// A member starts with this log.
    pub fn starts(&mut self, begin: u64, entries: &[Entry]) -> Checked<Mirror> {
        let chain = self.leaders.chain_at(begin)?;
        let mut mirror = Mirror::new(begin, chain);
        LogMatching::appends(&mut mirror, entries)?;
        self.publishes(&mut mirror, entries)?;
        Ok(mirror)
    }

    /// A member appends to its log.
    pub fn appends(&mut self, mirror: &mut Mirror, entries: &[Entry]) -> Checked {
        LogMatching::appends(mirror, entries)
    }

    /// Entries leave a member's memory, to its disk or to a peer.
    pub fn publishes(&mut self, mirror: &mut Mirror, entries: &[Entry]) -> Checked {
        match entries.last() {
            Some(last) => self.logs.publishes(mirror, last.index, last.term),
            None => Ok(()),
        }
    }

    /// A member's log is replaced by a snapshot.
    pub fn restores(&mut self, mirror: &mut Mirror, index: u64) -> Checked {
        *mirror = Mirror::new(index, self.leaders.chain_at(index)?);
        Ok(())
    }

    /// A member in this term hands a committed entry out.
    pub fn commits(&mut self, member: MemberId, term: u64, entry: &Entry) -> Checked {
        if self.machines.commits(member, entry)? {
            self.leaders.commits(term, entry);
            self.model.apply(entry);
        }
        Ok(())
    }

    /// A member has applied an entry.
    pub fn applies(&mut self, member: MemberId, entry: &Entry) -> Checked {
        self.machines.applies(member, entry)
    }

    /// A client asks.
    pub fn asks(&mut self, ask: Ask) -> Operation {
        self.clients.asks(ask)
    }

    /// A client got an answer.
    pub fn answers(&mut self, operation: &Operation, answer: &Answer) -> Checked {
        self.clients.answers(operation, answer, &self.model)
    }

    /// Length of the committed log.
    pub fn committed(&self) -> u64 {
        self.machines.committed()
    }
}
