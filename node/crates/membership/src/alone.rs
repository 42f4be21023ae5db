//! A cluster of one, made of the disk of one member whose others are lost.

use std::collections::BTreeMap;

use raftpb::conf::{Change, decode_conf_change};
use raftpb::{ConfChangeType, ConfState, Entry, EntryType};

use crate::{Error, MemberId};

/// The entries that leave only `local_id`: a removal for everybody else, by ascending ID, from index
/// `after + 1` in this term; before them a promotion where this member is a learner, since raft's
/// configuration must never be without a voter.
///
/// Who is a member is read where etcd reads it for `--force-new-cluster`: in the conf state of the
/// last snapshot record of the log and the conf changes of `entries`, which are those after it. Not
/// in the database, which may not have applied them all.
///
/// # Errors
/// [`Error::IdNotFound`] when the log does not list this member: it was removed, or its log is still
/// empty. Conf changes that cannot be read.
pub fn leave_alone(
    snapshot: Option<&ConfState>,
    entries: &[Entry],
    local_id: MemberId,
    term: u64,
    after: u64,
) -> Result<Vec<Entry>, Error> {
    let members = members_of_log(snapshot, entries)?;
    let is_learner = *members.get(&local_id).ok_or(Error::IdNotFound)?;
    let promotion = is_learner.then_some(Change::Promote(local_id));
    let others = members.keys().filter(|id| **id != local_id);
    let removals = others.map(|id| Change::Remove(*id));
    let changes = promotion.into_iter().chain(removals);
    Ok((after + 1..)
        .zip(changes)
        .map(|(index, change)| Entry {
            term,
            index,
            ..change.to_entry(0)
        })
        .collect())
}

/// Who belongs to the cluster by the log alone, and whether it is a learner.
///
/// # Errors
/// Conf changes that cannot be read.
pub fn members_of_log(
    snapshot: Option<&ConfState>,
    entries: &[Entry],
) -> Result<BTreeMap<MemberId, bool>, Error> {
    let mut members = BTreeMap::new();
    if let Some(state) = snapshot {
        members.extend(state.voters.iter().map(|id| (MemberId(*id), false)));
        members.extend(state.learners.iter().map(|id| (MemberId(*id), true)));
    }
    for entry in entries {
        if entry.entry_type != i32::from(EntryType::EntryConfChange) {
            continue;
        }
        let change = decode_conf_change(entry).map_err(|error| Error::BadJson {
            what: "conf change",
            reason: format!("entry {}: {error}", entry.index),
        })?;
        let id = MemberId(change.node_id);
        match ConfChangeType::try_from(change.change_type)
            .map_err(|_| Error::UnknownChange(change.change_type))?
        {
            ConfChangeType::ConfChangeAddNode => {
                members.insert(id, false);
            }
            ConfChangeType::ConfChangeAddLearnerNode => {
                members.insert(id, true);
            }
            ConfChangeType::ConfChangeRemoveNode => {
                members.remove(&id);
            }
            ConfChangeType::ConfChangeUpdateNode => {}
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use raftpb::conf::Member;

    use super::*;

    const A: MemberId = MemberId(0xa);
    const B: MemberId = MemberId(0xb);
    const C: MemberId = MemberId(0xc);

    fn entry(index: u64, change: &Change) -> Entry {
        Entry {
            term: 2,
            index,
            ..change.to_entry(7)
        }
    }

    fn member(id: MemberId) -> Member {
        Member {
            id,
            ..Member::default()
        }
    }

    fn changes(entries: &[Entry]) -> Vec<(u64, u64, i32, u64)> {
        let change = |entry: &Entry| decode_conf_change(entry).expect("just made");
        entries
            .iter()
            .map(|entry| {
                let change = change(entry);
                (entry.index, entry.term, change.change_type, change.node_id)
            })
            .collect()
    }

    #[test]
    fn all_others_leave_those_of_the_snapshot_and_those_of_the_entries() {
        let snapshot = ConfState {
            voters: vec![A.0, B.0],
            ..ConfState::default()
        };
        let log = [
            entry(11, &Change::Remove(B)),
            Entry {
                term: 2,
                index: 12,
                ..Entry::default()
            },
            entry(13, &Change::AddLearner(member(C))),
        ];
        let alone = leave_alone(Some(&snapshot), &log, A, 5, 13).expect("it is listed");
        assert_eq!(changes(&alone), [(14, 5, 1, C.0)]);
    }

    #[test]
    fn a_learner_votes_before_the_voters_leave() {
        let snapshot = ConfState {
            voters: vec![A.0, B.0],
            learners: vec![C.0],
            ..ConfState::default()
        };
        let alone = leave_alone(Some(&snapshot), &[], C, 5, 20).expect("it is listed");
        assert_eq!(
            changes(&alone),
            [(21, 5, 0, C.0), (22, 5, 1, A.0), (23, 5, 1, B.0)]
        );
        assert!(
            String::from_utf8_lossy(&alone[0].data).contains("\"isPromote\":true"),
            "a promotion, not one more member"
        );
    }

    #[test]
    fn who_is_not_listed_does_not_stay() {
        let log = [
            entry(1, &Change::Add(member(A))),
            entry(2, &Change::Remove(A)),
        ];
        assert_eq!(leave_alone(None, &log, A, 1, 2), Err(Error::IdNotFound));
        assert_eq!(leave_alone(None, &[], A, 1, 0), Err(Error::IdNotFound));
    }

    #[test]
    fn one_that_is_alone_needs_nothing() {
        let log = [entry(1, &Change::Add(member(A)))];
        assert_eq!(leave_alone(None, &log, A, 1, 1), Ok(Vec::new()));
    }
}
