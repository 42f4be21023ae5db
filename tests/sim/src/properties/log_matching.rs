//! Log matching: if two logs hold an entry with the same index and term, they are the same up
//! to it.
//!
//! Every log is mirrored as a chain of digests: an entry's link depends on all before it. So
//! two equal links are two equal logs.
//!
//! An entry counts once it has left a member's memory, to its disk or to a peer. Before that a
//! power cut can unmake it, and the only voter of a cluster, who needs nobody's vote, may then
//! lead in the same term again and write another.

use std::collections::BTreeMap;

use raftpb::Entry;

use super::{Checked, Violation};
use crate::trace::digest_on;

/// A member's log from outside.
#[derive(Debug, Clone)]
pub struct Mirror {
    begin: u64,
    begin_chain: u64,
    /// Term and link of each entry.
    links: Vec<(u64, u64)>,
    /// Up to here the entries have left memory.
    published: u64,
}

impl Mirror {
    pub(super) fn new(begin: u64, begin_chain: u64) -> Mirror {
        Mirror {
            begin,
            begin_chain,
            links: Vec::new(),
            published: begin,
        }
    }

    /// The link at `index`; `None` when the log ends before, or begins after it.
    pub(super) fn chain_at(&self, index: u64) -> Option<u64> {
        if index == self.begin {
            return Some(self.begin_chain);
        }
        self.link_at(index).map(|(_, link)| link)
    }

    fn link_at(&self, index: u64) -> Option<(u64, u64)> {
        let offset = usize::try_from(index.checked_sub(self.begin + 1)?).ok()?;
        self.links.get(offset).copied()
    }

    pub(super) fn begin(&self) -> u64 {
        self.begin
    }
}

/// The link of an entry after `before`.
pub(super) fn link(before: u64, entry: &Entry) -> u64 {
    let digest = digest_on(before, &entry.term.to_le_bytes());
    let digest = digest_on(digest, &entry.index.to_le_bytes());
    let digest = digest_on(digest, &entry.entry_type.to_le_bytes());
    digest_on(digest, &entry.data)
}

#[derive(Debug, Default)]
pub(super) struct LogMatching {
    links: BTreeMap<(u64, u64), u64>,
}

impl LogMatching {
    /// A member's log in memory grows, perhaps after it was cut.
    pub(super) fn appends(mirror: &mut Mirror, entries: &[Entry]) -> Checked {
        for entry in entries {
            let Some(before) = mirror.chain_at(entry.index - 1) else {
                return Err(Violation::new(
                    "log matching",
                    format!(
                        "entry {} leaves a hole in a log from {}",
                        entry.index, mirror.begin
                    ),
                ));
            };
            let link = link(before, entry);
            mirror
                .links
                .truncate((entry.index - mirror.begin - 1) as usize);
            mirror.links.push((entry.term, link));
            mirror.published = mirror.published.min(entry.index - 1);
        }
        Ok(())
    }

    /// The log up to the entry of this index and term has left memory. One that was replaced
    /// meanwhile is not looked at.
    pub(super) fn publishes(&mut self, mirror: &mut Mirror, index: u64, term: u64) -> Checked {
        if mirror.link_at(index).is_none_or(|(found, _)| found != term) {
            return Ok(());
        }
        for index in mirror.published + 1..=index {
            let Some((term, link)) = mirror.link_at(index) else {
                continue;
            };
            let known = *self.links.entry((index, term)).or_insert(link);
            if known != link {
                return Err(Violation::new(
                    "log matching",
                    format!(
                        "two logs hold an entry {index} of term {term} and differ at it or before"
                    ),
                ));
            }
        }
        mirror.published = mirror.published.max(index);
        Ok(())
    }
}
