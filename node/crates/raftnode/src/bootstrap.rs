//! The first entries of a new cluster.

use raftpb::conf::{Change, Member};
use raftpb::{ConfState, Entry, EntryType, HardState};

/// The term of the entries that a bootstrap writes, as in etcd.
const BOOTSTRAP_TERM: u64 = 1;

/// What every first member writes to its WAL before it starts. All members of a new cluster
/// write the same, so that their logs agree without a leader.
#[derive(Debug, Clone, PartialEq)]
pub struct Bootstrap {
    /// Term 1, no vote, all entries committed.
    pub hard_state: HardState,
    /// One added voter per member, by id, from index 1.
    pub entries: Vec<Entry>,
}

/// etcd's bootstrap: raft-rs has none. The members are written as they are given, in the order
/// of their ids.
pub fn bootstrap(members: &[Member]) -> Bootstrap {
    let mut sorted: Vec<&Member> = members.iter().collect();
    sorted.sort_by_key(|member| member.id);
    let entries: Vec<Entry> = (1..)
        .zip(sorted)
        .map(|(index, member)| Entry {
            term: BOOTSTRAP_TERM,
            index,
            ..Change::Add(member.clone()).to_entry(0)
        })
        .collect();
    Bootstrap {
        hard_state: HardState {
            term: BOOTSTRAP_TERM,
            vote: 0,
            commit: entries.len() as u64,
        },
        entries,
    }
}

/// The voters that a bootstrap wrote at the head of this log: raft-rs must know them before
/// the entries are applied, since it does not campaign without being a voter. Applying the
/// entries then changes nothing. Empty for a member that joins with an empty log.
pub(crate) fn first_conf_state(entries: &[Entry], commit: u64) -> ConfState {
    let voters = entries
        .iter()
        .take_while(|entry| {
            entry.index <= commit
                && entry.term == BOOTSTRAP_TERM
                && entry.entry_type == i32::from(EntryType::EntryConfChange)
        })
        .map_while(|entry| match raftpb::conf::check_conf_change(entry) {
            Ok(Some((_, Change::Add(member)))) => Some(member.id.0),
            _ => None,
        })
        .collect();
    ConfState {
        voters,
        ..ConfState::default()
    }
}
