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

use membership::{Uncommitted, leave_alone};
use raftpb::MemberId;
use wal::{Recovered, SnapshotRecord, Wal};

use crate::boot::Error;
use crate::config::Config;

/// Changes the log, on the disk and as it was read.
pub(crate) fn new_cluster(
    config: &Config,
    wal: &mut Wal,
    on_disk: &mut Recovered,
    last: &SnapshotRecord,
    applied: u64,
) -> Result<(), Error> {
    let id = MemberId(on_disk.metadata.node_id);
    let log = membership::Log {
        snapshot: last.conf_state.as_ref(),
        begin: (last.index, last.term),
        hard_state: on_disk.hard_state,
        entries: &on_disk.entries,
        applied,
    };
    let alone = leave_alone(&log, id, Uncommitted::Drop).map_err(|error| match error {
        membership::Error::IdNotFound => Error::NotListed {
            id,
            wal: config.wal_dir(),
        },
        error => Error::Membership(error),
    })?;
    tracing::warn!(
        cluster_id = format!("{:x}", on_disk.metadata.cluster_id),
        local_member_id = %id,
        wal_commit_index = on_disk.hard_state.commit,
        commit_index = alone.hard_state.commit,
        dropped_entries = on_disk.entries.len() - alone.kept,
        conf_changes = alone.forced.len(),
        "forcing restart member: it will be alone in its cluster; never start the other members' disks again"
    );
    wal.save(Some(&alone.hard_state), &alone.forced)?;
    wal.sync()?;
    on_disk.hard_state = alone.hard_state;
    on_disk.entries.truncate(alone.kept);
    on_disk.entries.extend(alone.forced);
    Ok(())
}
