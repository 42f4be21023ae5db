//! The WAL writer: one thread that owns the log's files.
//!
//! It takes all that has queued up, writes it, and calls `fdatasync` once for the lot. It never
//! sends a message and never waits for anyone: what is durable goes back to the raft loop as a
//! number. A failed write ends the member; nothing that was not synced was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use raftnode::Persist;
use raftpb::Snapshot;
use snap::Snapshotter;
use wal::{SnapshotRecord, Wal};

use crate::metrics::Histogram;
use crate::raftloop::RaftInbox;
use crate::shared::Shared;

/// Work for the WAL writer, done in order.
pub enum WalJob {
    /// what a raft turn wants durable
    Persist(Persist),
    /// A snapshot of our own: the database has committed its index already.
    Snapshot {
        /// metadata, and etcd's v2 store
        snapshot: Snapshot,
        /// the log may be dropped up to here
        compact_to: u64,
    },
}

#[derive(Default)]
struct Queue {
    jobs: Vec<WalJob>,
    stop: bool,
    sleeping: bool,
}

/// The lane to the WAL writer. It needs no limit of its own: a leader's uncommitted bytes are
/// limited by raft, a follower acknowledges after the sync and is limited by the leader's window.
#[derive(Default)]
pub struct WalInbox {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl WalInbox {
    /// Queues a job; never waits.
    pub fn push(&self, job: WalJob) {
        let mut queue = self.queue.lock();
        queue.jobs.push(job);
        self.wake_up(queue);
    }

    /// Ends the writer after what is queued.
    pub fn stop(&self) {
        let mut queue = self.queue.lock();
        queue.stop = true;
        self.wake_up(queue);
    }

    fn wake_up(&self, mut queue: parking_lot::MutexGuard<'_, Queue>) {
        if queue.sleeping {
            queue.sleeping = false;
            drop(queue);
            self.wake.notify_one();
        }
    }

    /// Waits for jobs; empty only at the end.
    fn take(&self, jobs: &mut Vec<WalJob>) {
        let mut queue = self.queue.lock();
        while queue.jobs.is_empty() && !queue.stop {
            queue.sleeping = true;
            self.wake.wait(&mut queue);
        }
        queue.sleeping = false;
        std::mem::swap(&mut queue.jobs, jobs);
    }
}

/// Why the log could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// the log itself
    #[error("writing the write-ahead log failed: {0}")]
    Wal(#[from] wal::Error),
    /// a snapshot file
    #[error("writing a snapshot file failed: {0}")]
    Snap(#[from] snap::Error),
}

/// The writer's own parts.
pub struct WalWriter {
    /// the log
    pub wal: Wal,
    /// snapshot files
    pub snapshotter: Snapshotter,
    /// `--max-wals`
    pub max_wals: usize,
    /// `--max-snapshots`
    pub max_snapshots: usize,
    /// false: `--unsafe-no-fsync`
    pub sync: bool,
    /// see [`WalMetrics`]
    pub metrics: Arc<WalMetrics>,
}

/// The writer's figures.
#[derive(Debug, Default)]
pub struct WalMetrics {
    /// `etcd_disk_wal_fsync_duration_seconds`
    pub fsync_seconds: Histogram,
    /// `etcd_disk_wal_write_duration_seconds`: encoding into the buffer that a sync writes out
    pub write_seconds: Histogram,
    /// `etcd_debugging_snap_save_total_duration_seconds`
    pub snap_save_seconds: Histogram,
    /// `etcd_disk_wal_write_bytes_total`
    pub written_bytes: AtomicU64,
}

impl WalWriter {
    /// Writes a batch; returns the number up to which all is durable, if any was asked for.
    ///
    /// One call is one turn: synchronous, and the simulator's too.
    pub fn turn(
        &mut self,
        jobs: &mut Vec<WalJob>,
        mut compacted: impl FnMut(u64),
    ) -> Result<Option<u64>, Error> {
        let mut number = None;
        let mut must_sync = false;
        for job in jobs.drain(..) {
            match job {
                WalJob::Persist(persist) => {
                    if let Some(snapshot) = &persist.snapshot {
                        self.save_snapshot(snapshot)?;
                    }
                    let began = Instant::now();
                    self.wal
                        .save(persist.hard_state.as_ref(), &persist.entries)?;
                    self.metrics.write_seconds.observe(began.elapsed());
                    must_sync |= persist.must_sync || persist.snapshot.is_some();
                    number = Some(persist.number);
                }
                WalJob::Snapshot {
                    snapshot,
                    compact_to,
                } => {
                    let index = snapshot.metadata.as_ref().map_or(0, |m| m.index);
                    self.save_commit(index)?;
                    self.save_snapshot(&snapshot)?;
                    must_sync = false;
                    self.wal.release_to(index)?;
                    self.wal.purge(self.max_wals)?;
                    self.snapshotter.purge(self.max_snapshots)?;
                    self.snapshotter.release_databases(index)?;
                    tracing::info!(snapshot_index = index, "saved snapshot to disk");
                    compacted(compact_to);
                }
            }
        }
        if must_sync && self.sync {
            let began = Instant::now();
            self.wal.sync()?;
            self.metrics.fsync_seconds.observe(began.elapsed());
        }
        self.metrics
            .written_bytes
            .store(self.wal.written_bytes(), Ordering::Relaxed);
        Ok(number)
    }

    /// A restart passes over the record of a snapshot that the log has not committed. Raft tells
    /// its commit index with the next write or tick; a snapshot of our own may come before that,
    /// and what it covers was applied, so committed.
    fn save_commit(&mut self, index: u64) -> Result<(), Error> {
        let mut state = self.wal.hard_state();
        if state.commit < index {
            state.commit = index;
            self.wal.save(Some(&state), &[])?;
        }
        Ok(())
    }

    /// The file first, then the record that makes it count (etcd's order).
    fn save_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        let began = Instant::now();
        self.snapshotter.save(snapshot)?;
        self.metrics.snap_save_seconds.observe(began.elapsed());
        self.wal.save_snapshot(&SnapshotRecord {
            index: metadata.index,
            term: metadata.term,
            conf_state: metadata.conf_state,
        })?;
        Ok(())
    }

    /// The thread's loop.
    pub fn run(mut self, inbox: &WalInbox, raft: &RaftInbox, shared: &Arc<Shared>) {
        let mut jobs = Vec::new();
        loop {
            inbox.take(&mut jobs);
            if jobs.is_empty() {
                return;
            }
            match self.turn(&mut jobs, |index| raft.compact_to(index)) {
                Ok(number) => {
                    if let Some(number) = number {
                        raft.persisted(number);
                    }
                    // The next segment is made ahead, so that the cut need not wait for it. A
                    // disk without room says so there.
                    if self.wal.wants_next()
                        && let Err(error) = self.wal.prepare_next()
                    {
                        tracing::warn!(%error, "the next log segment cannot be made ahead");
                    }
                }
                Err(error) => {
                    shared.fatal(format!(
                        "{error}; nothing that was not on disk has been acknowledged. Make room or mend the disk, then start this member again"
                    ));
                    return;
                }
            }
        }
    }
}
