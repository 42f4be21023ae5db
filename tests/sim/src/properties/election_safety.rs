//! Election safety: at most one leader can be elected in a given term.

use std::collections::BTreeMap;

use raftpb::MemberId;

use super::{Checked, Violation};

#[derive(Debug, Default)]
pub(super) struct ElectionSafety {
    leaders: BTreeMap<u64, MemberId>,
}

impl ElectionSafety {
    pub(super) fn leads(&mut self, member: MemberId, term: u64) -> Checked {
        let first = *self.leaders.entry(term).or_insert(member);
        if first == member {
            return Ok(());
        }
        Err(Violation::new(
            "election safety",
            format!("{member} leads in term {term}, and so did {first}"),
        ))
    }
}
