//! Log matching: if two logs hold an entry with the same index and term, they are the same up
//! to it.
//!
//! Every log is mirrored as a chain of digests: an entry's link depends on all before it. So
//! two equal links are two equal logs.

use std::collections::BTreeMap;

use raftpb::Entry;

use super::{Checked, Violation};
use crate::trace::digest_on;

/// A member's log from outside.
#[derive(Debug, Clone)]
pub struct Mirror {
    begin: u64,
    begin_chain: u64,
    links: Vec<u64>,
}

impl Mirror {
    pub(super) fn new(begin: u64, begin_chain: u64) -> Mirror {
        Mirror {
            begin,
            begin_chain,
            links: Vec::new(),
        }
    }

    /// The link at `index`; `None` when the log ends before, or begins after it.
    pub(super) fn chain_at(&self, index: u64) -> Option<u64> {
        if index == self.begin {
            return Some(self.begin_chain);
        }
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
    pub(super) fn appends(&mut self, mirror: &mut Mirror, entries: &[Entry]) -> Checked {
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
            let known = *self.links.entry((entry.index, entry.term)).or_insert(link);
            if known != link {
                return Err(Violation::new(
                    "log matching",
                    format!(
                        "two logs hold an entry {} of term {} and differ at it or before",
                        entry.index, entry.term
                    ),
                ));
            }
            mirror
                .links
                .truncate((entry.index - mirror.begin - 1) as usize);
            mirror.links.push(link);
        }
        Ok(())
    }
}
