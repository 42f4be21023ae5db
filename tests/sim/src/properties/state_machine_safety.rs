//! State machine safety: no two members apply different entries at the same index; and each
//! applies them in order, without a gap.

use raftpb::{Entry, MemberId};

use super::{Checked, Violation};
use crate::trace::{digest, digest_on};

#[derive(Debug, Default)]
pub(super) struct StateMachineSafety {
    /// Digest of the committed entry at each index, from index 1 on.
    entries: Vec<u64>,
}

impl StateMachineSafety {
    /// True when nobody knew this entry to be committed before.
    pub(super) fn commits(&mut self, member: MemberId, entry: &Entry) -> Checked<bool> {
        if entry.index == self.committed() + 1 {
            self.entries.push(digest_of(entry));
            return Ok(true);
        }
        self.applies(member, entry).map(|()| false)
    }

    pub(super) fn applies(&mut self, member: MemberId, entry: &Entry) -> Checked {
        let at = usize::try_from(entry.index).unwrap_or(usize::MAX) - 1;
        if self.entries.get(at) == Some(&digest_of(entry)) {
            return Ok(());
        }
        Err(Violation::new(
            "state machine safety",
            format!(
                "{member} applies an entry {} of term {} that differs from what others applied, or comes before it was committed (up to {})",
                entry.index,
                entry.term,
                self.committed()
            ),
        ))
    }

    pub(super) fn committed(&self) -> u64 {
        self.entries.len() as u64
    }
}

fn digest_of(entry: &Entry) -> u64 {
    let head = digest(&entry.term.to_le_bytes());
    digest_on(
        digest_on(head, &entry.entry_type.to_le_bytes()),
        &entry.data,
    )
}
