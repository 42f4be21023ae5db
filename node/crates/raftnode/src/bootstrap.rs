//! The first voters of a new cluster.

use raftpb::conf::Change;
use raftpb::{ConfState, Entry, EntryType};

/// The term of the entries that a bootstrap writes, as in etcd.
const BOOTSTRAP_TERM: u64 = 1;

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
