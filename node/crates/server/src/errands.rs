//! Long work that the raft loop asks for, on the bounded pool of the peers' runtime.

use std::sync::Weak;

use raftnode::{Fetch, Fetched, SnapshotReady};
use raftpb::MemberId;

use crate::shared::{Errands, Shared};
use crate::snapshots;

/// Runs errands with `spawn_blocking`.
pub struct PoolErrands {
    /// whom to answer
    pub shared: Weak<Shared>,
    /// whose pool
    pub runtime: tokio::runtime::Handle,
    /// the log, for entries that have left memory
    pub reader: wal::Reader,
}

impl Errands for PoolErrands {
    fn make_snapshot(&self, peer: MemberId) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        self.runtime.spawn_blocking(move || {
            let pinned = shared.state().backend.snapshot();
            let made = snapshots::of_committed(&pinned, shared.cluster_id, shared.id);
            let snapshot = match made {
                Ok(snapshot) if pinned.applied().index > 0 => {
                    shared.pin_snapshot(peer, pinned).then_some(snapshot)
                }
                Ok(_) => None,
                Err(error) => {
                    tracing::error!(%peer, %error, "making a snapshot for a peer failed");
                    None
                }
            };
            shared
                .inbox
                .snapshot_ready(SnapshotReady { peer, snapshot });
        });
    }

    fn fetch(&self, fetch: Fetch) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let reader = self.reader.clone();
        self.runtime.spawn_blocking(move || {
            let entries = match reader.entries(fetch.from, fetch.to, fetch.max_bytes) {
                Ok(entries) => Some(entries),
                Err(error) => {
                    tracing::warn!(from = fetch.from, to = fetch.to, %error, "reading old entries failed");
                    None
                }
            };
            shared.inbox.fetched(Fetched { from: fetch.from, entries });
        });
    }
}
