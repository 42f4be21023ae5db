//! `--force-new-cluster`: the disk of one member becomes a cluster of one, as etcd does it.
//!
//! ```text
//!   log on disk   … ── committed ──┬── uncommitted ──
//!   after         … ── committed ──┴── remove b ── remove c      all committed
//! ```
//!
//! Entries that this member does not know to be committed are dropped, and conf changes that remove
//! everybody else take their place; they are applied like any other. A learner is promoted first.
//! What is dropped may have been acknowledged by the members that are lost: `quorate util recover`
//! shows it before, and keeps it.

use raftpb::{HardState, MemberId};
use wal::{Recovered, SnapshotRecord, Wal};

use crate::boot::Error;
use crate::config::Config;

/// Changes the log, on the disk and as it was read. Nothing happens where this member is alone
/// already, but for the uncommitted entries.
pub(crate) fn new_cluster(
    config: &Config,
    wal: &mut Wal,
    on_disk: &mut Recovered,
    last: &SnapshotRecord,
    applied: u64,
) -> Result<(), Error> {
    let id = MemberId(on_disk.metadata.node_id);
    let known = on_disk.hard_state.commit;
    // A commit index alone is not always synced: what the database has applied was committed.
    let commit = known.max(applied);
    let end = on_disk
        .entries
        .last()
        .map_or(last.index, |entry| entry.index);
    if end < commit {
        // Entries are missing. Whoever starts raft from this says so.
        return Ok(());
    }
    let kept = on_disk
        .entries
        .partition_point(|entry| entry.index <= commit);
    let dropped = on_disk.entries.split_off(kept);
    let last_term = on_disk.entries.last().map_or(last.term, |entry| entry.term);
    let term = on_disk.hard_state.term.max(last_term);
    let forced =
        membership::leave_alone(last.conf_state.as_ref(), &on_disk.entries, id, term, commit)
            .map_err(|error| match error {
                membership::Error::IdNotFound => Error::NotListed {
                    id,
                    wal: config.wal_dir(),
                },
                error => Error::Membership(error),
            })?;
    let hard_state = HardState {
        term,
        vote: if term == on_disk.hard_state.term {
            on_disk.hard_state.vote
        } else {
            0
        },
        commit: commit + forced.len() as u64,
    };
    tracing::warn!(
        cluster_id = format!("{:x}", on_disk.metadata.cluster_id),
        local_member_id = %id,
        wal_commit_index = known,
        commit_index = hard_state.commit,
        dropped_entries = dropped.len(),
        conf_changes = forced.len(),
        "forcing restart member: it will be alone in its cluster; never start the other members' disks again"
    );
    wal.save(Some(&hard_state), &forced)?;
    wal.sync()?;
    on_disk.hard_state = hard_state;
    on_disk.entries.extend(forced);
    Ok(())
}
