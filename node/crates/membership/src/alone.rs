//! A cluster of one, made of the disk of one member whose others are lost.

use std::collections::BTreeMap;

use raftpb::conf::{Change, decode_conf_change};
use raftpb::{ConfChangeType, ConfState, Entry, EntryType, HardState};

use crate::{Error, MemberId};

/// A member's log, as its disk gives it back.
#[derive(Clone, Copy, Debug)]
pub struct Log<'a> {
    /// The conf state of the last snapshot record.
    pub snapshot: Option<&'a ConfState>,
    /// Its index and term; zeros without one.
    pub begin: (u64, u64),
    /// The last hard state.
    pub hard_state: HardState,
    /// All entries after the snapshot.
    pub entries: &'a [Entry],
    /// Up to where the database has applied them.
    pub applied: u64,
}

/// What becomes of the entries that a member has, and does not know to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncommitted {
    /// They are dropped, as `--force-new-cluster` does.
    Drop,
    /// They are committed: the members that are lost may have acknowledged them.
    Keep,
}

/// How to write the log on.
#[derive(Clone, Debug, PartialEq)]
pub struct Alone {
    /// How many entries of the log stay.
    pub kept: usize,
    /// Entries that come after them: a promotion of this member if it is a learner (raft's configuration
    /// must never be without a voter), then a removal for everybody else, by ascending ID.
    pub forced: Vec<Entry>,
    /// The hard state that commits all of it.
    pub hard_state: HardState,
}

/// How a log must go on so that `local_id` is alone in its cluster.
///
/// Who is a member is read where etcd reads it for `--force-new-cluster`: in the last snapshot record
/// and the conf changes after it, not in the database, which may not have applied them all.
///
/// # Errors
/// [`Error::IdNotFound`] when the log does not list this member: it was removed, or its log is still
/// empty. [`Error::LogEndsEarly`]. Conf changes that cannot be read.
pub fn leave_alone(
    log: &Log<'_>,
    local_id: MemberId,
    uncommitted: Uncommitted,
) -> Result<Alone, Error> {
    let last = log.entries.last().map_or(log.begin.0, |entry| entry.index);
    // A commit index alone is not always synced: what the database has applied was committed.
    let committed = log.hard_state.commit.max(log.applied);
    if last < committed {
        return Err(Error::LogEndsEarly { last, committed });
    }
    let end = match uncommitted {
        Uncommitted::Drop => committed,
        Uncommitted::Keep => last,
    };
    let kept = log.entries.partition_point(|entry| entry.index <= end);
    let entries = &log.entries[..kept];
    let members = members_of_log(log.snapshot, entries)?;
    let is_learner = *members.get(&local_id).ok_or(Error::IdNotFound)?;

    let last_term = entries.last().map_or(log.begin.1, |entry| entry.term);
    let mut hard_state = log.hard_state;
    if hard_state.term < last_term {
        // A torn write: no vote was cast in that term.
        (hard_state.term, hard_state.vote) = (last_term, 0);
    }
    let promotion = is_learner.then_some(Change::Promote(local_id));
    let others = members.keys().filter(|id| **id != local_id);
    let changes = promotion
        .into_iter()
        .chain(others.map(|id| Change::Remove(*id)));
    let forced: Vec<Entry> = (end + 1..)
        .zip(changes)
        .map(|(index, change)| Entry {
            term: hard_state.term,
            index,
            ..change.to_entry(0)
        })
        .collect();
    hard_state.commit = end + forced.len() as u64;
    Ok(Alone {
        kept,
        forced,
        hard_state,
    })
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

    /// At term 5, committed up to `committed`; what is before the entries is a snapshot.
    fn alone(
        snapshot: Option<&ConfState>,
        entries: &[Entry],
        committed: u64,
        local_id: MemberId,
        uncommitted: Uncommitted,
    ) -> Result<Alone, Error> {
        let begin = entries.first().map_or(committed, |entry| entry.index - 1);
        let hard_state = HardState {
            term: 5,
            vote: B.0,
            commit: committed - 1,
        };
        let log = Log {
            snapshot,
            begin: (begin, 2),
            hard_state,
            entries,
            applied: committed,
        };
        leave_alone(&log, local_id, uncommitted)
    }

    fn normal(index: u64) -> Entry {
        Entry {
            term: 2,
            index,
            ..Entry::default()
        }
    }

    #[test]
    fn all_others_leave_those_of_the_snapshot_and_those_of_the_entries() {
        let snapshot = ConfState {
            voters: vec![A.0, B.0],
            ..ConfState::default()
        };
        let log = [
            entry(11, &Change::Remove(B)),
            normal(12),
            entry(13, &Change::AddLearner(member(C))),
            normal(14),
        ];
        let alone = |uncommitted| alone(Some(&snapshot), &log, 13, A, uncommitted);
        let dropped = alone(Uncommitted::Drop).expect("it is listed");
        assert_eq!(changes(&dropped.forced), [(14, 5, 1, C.0)]);
        assert_eq!((dropped.kept, dropped.hard_state.commit), (3, 14));
        let kept = alone(Uncommitted::Keep).expect("it is listed");
        assert_eq!(changes(&kept.forced), [(15, 5, 1, C.0)]);
        assert_eq!((kept.kept, kept.hard_state.commit), (4, 15));
        assert_eq!((kept.hard_state.term, kept.hard_state.vote), (5, B.0));
    }

    /// An entry that is dropped may be the one that added or removed somebody.
    #[test]
    fn a_change_that_is_dropped_is_not_counted() {
        let snapshot = ConfState {
            voters: vec![A.0, B.0],
            ..ConfState::default()
        };
        let log = [normal(11), entry(12, &Change::Remove(B))];
        let dropped = alone(Some(&snapshot), &log, 11, A, Uncommitted::Drop);
        assert_eq!(
            changes(&dropped.expect("it is listed").forced),
            [(12, 5, 1, B.0)]
        );
        let kept = alone(Some(&snapshot), &log, 11, A, Uncommitted::Keep);
        assert_eq!(kept.expect("it is listed").forced, []);
    }

    #[test]
    fn a_learner_votes_before_the_voters_leave() {
        let snapshot = ConfState {
            voters: vec![A.0, B.0],
            learners: vec![C.0],
            ..ConfState::default()
        };
        let alone = alone(Some(&snapshot), &[], 20, C, Uncommitted::Drop).expect("it is listed");
        assert_eq!(
            changes(&alone.forced),
            [(21, 5, 0, C.0), (22, 5, 1, A.0), (23, 5, 1, B.0)]
        );
        assert!(
            String::from_utf8_lossy(&alone.forced[0].data).contains("\"isPromote\":true"),
            "a promotion, not one more member"
        );
    }

    #[test]
    fn who_is_not_listed_does_not_stay() {
        let log = [
            entry(1, &Change::Add(member(A))),
            entry(2, &Change::Remove(A)),
        ];
        let alone = |log: &[Entry]| alone(None, log, 2, A, Uncommitted::Drop);
        assert_eq!(alone(&log), Err(Error::IdNotFound));
        assert_eq!(alone(&[]), Err(Error::IdNotFound));
    }

    #[test]
    fn a_log_that_ends_before_what_was_committed_is_left_as_it_is() {
        let log = [entry(1, &Change::Add(member(A)))];
        let expected = Error::LogEndsEarly {
            last: 1,
            committed: 3,
        };
        assert_eq!(alone(None, &log, 3, A, Uncommitted::Keep), Err(expected));
    }
}
