//! Leader completeness: an entry that is committed in a term is in the logs of the leaders of
//! all later terms.

use raftpb::{Entry, MemberId};

use super::log_matching::{Mirror, link};
use super::{Checked, Violation};
use crate::trace::digest;

#[derive(Debug, Default)]
pub(super) struct LeaderCompleteness {
    /// Link of the committed log at each index, from index 1 on.
    chain: Vec<u64>,
    /// A term in which the entry was known to be committed: it was committed in that one or an
    /// earlier one.
    terms: Vec<u64>,
}

impl LeaderCompleteness {
    /// The link of the committed log at `index`, where a snapshot may stand.
    pub(super) fn chain_at(&self, index: u64) -> Checked<u64> {
        if index == 0 {
            return Ok(digest(&[]));
        }
        self.chain.get(index as usize - 1).copied().ok_or_else(|| {
            Violation::new(
                "leader completeness",
                format!("a snapshot at {index} is beyond all that was committed"),
            )
        })
    }

    /// The next committed entry becomes known, to a member in this term.
    pub(super) fn commits(&mut self, term: u64, entry: &Entry) {
        let before = self.chain.last().copied().unwrap_or(digest(&[]));
        self.chain.push(link(before, entry));
        self.terms.push(term);
    }

    pub(super) fn leads(&mut self, member: MemberId, term: u64, mirror: &Mirror) -> Checked {
        let last = self.terms.iter().rposition(|known_in| *known_in < term);
        let Some(index) = last.map(|at| at as u64 + 1) else {
            return Ok(());
        };
        let expected = self.chain_at(index)?;
        // A log that begins later began with a snapshot of the committed log.
        if mirror.begin() > index || mirror.chain_at(index) == Some(expected) {
            return Ok(());
        }
        Err(Violation::new(
            "leader completeness",
            format!("{member} leads in term {term} without the committed entry {index}"),
        ))
    }
}
