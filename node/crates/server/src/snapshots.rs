//! Snapshots: our own, so that the log can be let go; for a slow peer; and one received.
//!
//! None of them makes raft wait (promise 7). Our own: after `--snapshot-count` entries the
//! database is asked to commit, and once it has, the `.snap` file and the record go to the WAL
//! writer. For a peer: the committed database is pinned and streamed as it is. A received one:
//! its file is already on disk when the raft core says install; it is renamed to the database
//! path and the state restored from it (promise 6).

use std::sync::Arc;

use backend::Backend;
/// The database as committed at one moment, kept until this is dropped.
pub use backend::Snapshot as Pinned;
use membership::Membership;
use raftpb::{MemberId, Snapshot, SnapshotMetadata};
use seams::Disk;
use snap::Snapshotter;

use crate::boot;
use crate::committer::CommitterThread;
use crate::config::Config;
use crate::shared::{Shared, State};
use crate::walwriter::{WalInbox, WalJob};

/// The applier's part of the snapshots.
pub struct Snapshots {
    /// the member's configuration
    pub config: Config,
    /// the disk
    pub disk: Arc<dyn Disk>,
    /// to the WAL writer
    pub wal: Arc<WalInbox>,
    /// commits; replaced with the database
    pub committer: CommitterThread,
    /// where received databases lie
    pub snapshotter: Snapshotter,
    /// index of the last snapshot of our own
    pub last: u64,
    /// waiting for the database to commit this index
    pub wanted: Option<u64>,
    /// one is asked for, however few entries there are
    pub forced: bool,
}

/// A snapshot message for the database as committed: metadata, and etcd's v2 store in `data`.
pub fn of_committed(
    snapshot: &backend::Snapshot,
    cluster_id: u64,
    local: MemberId,
) -> Result<Snapshot, boot::Error> {
    let applied = snapshot.applied();
    let membership = Membership::load(&snapshot.view(), cluster_id, local, 0)?;
    Ok(Snapshot {
        data: membership::v2store::encode(&membership).into(),
        metadata: Some(SnapshotMetadata {
            conf_state: Some(membership.conf_state().clone()),
            index: applied.index,
            term: applied.term,
        }),
    })
}

impl Snapshots {
    /// Whether a snapshot of our own waits for the database.
    pub fn is_waiting(&self) -> bool {
        self.wanted.is_some()
    }

    /// Makes a snapshot of our own at the next step.
    pub fn force(&mut self) {
        self.forced = true;
    }

    /// Begins a snapshot of our own when it is due, and finishes one that has its commit.
    pub fn step(&mut self, applied: u64, shared: &Shared) {
        let backend = &shared.state().backend;
        match self.wanted {
            None if self.forced || applied > self.last + self.config.snapshot_count => {
                self.forced = false;
                tracing::info!(applied, last_snapshot = self.last, "triggering snapshot");
                backend.request_commit();
                self.wanted = Some(applied);
            }
            Some(wanted) if backend.committed_index() >= wanted => {
                self.wanted = None;
                self.save(backend, shared);
            }
            _ => {}
        }
    }

    fn save(&mut self, backend: &Backend, shared: &Shared) {
        let pinned = backend.snapshot();
        match of_committed(&pinned, shared.cluster_id, shared.id) {
            Ok(snapshot) => {
                self.last = pinned.applied().index;
                let compact_to = self
                    .last
                    .saturating_sub(self.config.snapshot_catchup_entries);
                self.wal.push(WalJob::Snapshot {
                    snapshot,
                    compact_to,
                });
            }
            Err(error) => shared.fatal(format!("making a snapshot failed: {error}")),
        }
    }

    /// Puts a received database in place of ours; returns its index.
    pub fn install(
        &mut self,
        applier: &mut apply::Applier,
        snapshot: &Snapshot,
        shared: &Shared,
    ) -> Result<u64, String> {
        let index = snapshot
            .metadata
            .as_ref()
            .map_or(0, |metadata| metadata.index);
        tracing::info!(
            index,
            applied = applier.applied().index,
            "applying snapshot"
        );
        let received = self.snapshotter.database_path(index);
        self.committer.stop();
        let fail =
            |error: &dyn std::fmt::Display| format!("applying snapshot {index} failed: {error}");
        boot::install_database(&self.disk, &self.config, &received).map_err(|e| fail(&e))?;
        let opened = boot::open_backend(&self.disk, &self.config).map_err(|e| fail(&e))?;
        tracing::info!("applySnapshot: opened snapshot backend");
        let (backend, writer, committer) = opened;
        if backend.committed_index() != index {
            return Err(format!(
                "the received database stands at index {}, the snapshot at {index}",
                backend.committed_index()
            ));
        }
        applier
            .replace(backend.clone(), writer)
            .map_err(|e| fail(&e))?;
        self.committer.restart(committer);
        let old = shared.state();
        shared.replace_state(State {
            backend,
            mvcc: old.mvcc.clone(),
            lessor: old.lessor.clone(),
            cluster: old.cluster.clone(),
            alarms: old.alarms.clone(),
        });
        shared.membership_changed();
        self.last = index;
        self.wanted = None;
        tracing::info!(index, "applied snapshot");
        Ok(index)
    }
}
