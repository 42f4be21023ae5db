//! The applier: one thread that turns committed entries into state, first in, first out
//! (promise 3), and answers who waits.
//!
//! It takes a batch, applies it entry by entry, publishes the applied index, and hands the
//! results to the lanes: one list and one wake per lane. Work that may wait — compaction,
//! snapshots of our own — is done in small steps between batches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use apply::Response;
use mvcc::{COMPACT_STEP_RECORDS, CompactStep, HASH_STEP_RECORDS};
use parking_lot::{Condvar, Mutex};
use raftnode::ConfResult;
use raftpb::{Entry, Snapshot};
use seams::Clock;

use crate::config::Config;
use crate::judge::LogWindow;
use crate::lane::{Lane, Reply};
use crate::shared::Shared;
use crate::snapshots::Snapshots;

/// Jobs that wait for the applier. Beyond it the raft loop keeps them in its own queue.
pub(crate) const JOBS_MAX: usize = 1024;

/// While a compaction runs and nothing is to be applied, the applier looks after it this often.
const COMPACTION_POLL: Duration = Duration::from_millis(1);

/// A step of a compaction ends after this time, done or not: no write waits longer for it than a
/// few milliseconds, also where a record takes long to delete.
const COMPACTION_STEP_MAX: Duration = Duration::from_millis(2);

/// Work for the applier, in order.
#[derive(Debug)]
pub enum Job {
    /// committed entries
    Entries(Vec<Entry>),
    /// A snapshot of the leader's, whose database has been received.
    Install(Box<Snapshot>),
    /// A read round that waits for this index.
    Read {
        /// the lane that asked
        lane: u8,
        /// its round
        round: u64,
        /// what must be applied first
        index: u64,
    },
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stop: bool,
    sleeping: bool,
}

/// The lane to the applier.
#[derive(Default)]
pub struct ApplierInbox {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl ApplierInbox {
    /// Queues a job; gives it back when the lane is full.
    pub fn try_push(&self, job: Job) -> Result<(), Job> {
        let mut queue = self.queue.lock();
        if queue.jobs.len() >= JOBS_MAX {
            return Err(job);
        }
        queue.jobs.push_back(job);
        self.wake_up(queue);
        Ok(())
    }

    /// Ends the applier after what is queued.
    pub fn stop(&self) {
        let mut queue = self.queue.lock();
        queue.stop = true;
        self.wake_up(queue);
    }

    /// Lets the applier look after its steps, also without a job.
    pub fn nudge(&self) {
        self.wake_up(self.queue.lock());
    }

    fn wake_up(&self, mut queue: parking_lot::MutexGuard<'_, Queue>) {
        if queue.sleeping {
            queue.sleeping = false;
            drop(queue);
            self.wake.notify_one();
        }
    }

    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.queue.lock().jobs.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for jobs, at most `timeout`; false at the end.
    pub(crate) fn take(&self, jobs: &mut VecDeque<Job>, timeout: Duration) -> bool {
        let mut queue = self.queue.lock();
        if queue.jobs.is_empty() && !queue.stop {
            queue.sleeping = true;
            let _ = self.wake.wait_for(&mut queue, timeout);
            queue.sleeping = false;
        }
        std::mem::swap(&mut queue.jobs, jobs);
        !queue.stop || !jobs.is_empty()
    }
}

/// How fast compactions may go: `--compaction-batch-limit` records, then a pause of
/// `--compaction-sleep-interval`.
#[derive(Debug)]
pub struct CompactionPace {
    batch_limit: usize,
    pause: Duration,
    /// Records deleted in the batch under way.
    deleted: usize,
    /// The pause ends.
    not_before: Option<Instant>,
}

impl CompactionPace {
    /// As in etcd, zero stands for the default: 1000 records, 10 ms.
    pub fn new(batch_limit: usize, pause: Duration) -> Self {
        let default = Config::default();
        Self {
            batch_limit: match batch_limit {
                0 => default.compaction_batch_limit,
                limit => limit,
            },
            pause: match pause {
                Duration::ZERO => default.compaction_sleep_interval,
                pause => pause,
            },
            deleted: 0,
            not_before: None,
        }
    }

    /// How many records may be deleted now; `None` in a pause.
    fn budget(&self, now: Instant) -> Option<usize> {
        self.pause_left(now)
            .is_none()
            .then(|| COMPACT_STEP_RECORDS.min(self.batch_limit - self.deleted))
    }

    fn pause_left(&self, now: Instant) -> Option<Duration> {
        self.not_before?
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }

    /// So many were deleted; the batch may be full now.
    fn count(&mut self, deleted: usize, now: Instant) {
        self.deleted += deleted;
        if self.deleted >= self.batch_limit {
            self.deleted = 0;
            self.not_before = Some(now + self.pause);
        }
    }

    /// The next compaction begins with a batch of its own.
    fn finished(&mut self) {
        (self.deleted, self.not_before) = (0, None);
    }
}

/// The applier's own parts.
pub struct ApplierLoop {
    /// entry by entry
    pub applier: apply::Applier,
    /// what others see
    pub shared: Arc<Shared>,
    /// snapshots: when one of ours is due, and how a received one is put in place
    pub snapshots: Snapshots,
    /// for leases
    pub clock: Arc<dyn Clock>,
    /// `--warning-apply-duration`
    pub warning: Duration,
    /// by how much a new leader lengthens leases
    pub election_timeout: Duration,
    /// whose pool hashes compactions
    pub runtime: tokio::runtime::Handle,
    /// the cluster's version was set; look at it once a start, too
    pub version_changed: bool,
    /// how fast records are deleted
    pub compaction: CompactionPace,
    /// for changes that an etcd forwards and that are not valid when they are applied
    pub(crate) invalid_changes: LogWindow,
}

impl ApplierLoop {
    /// The thread's loop.
    pub fn run(mut self, inbox: &ApplierInbox) {
        let mut jobs = VecDeque::new();
        let mut reads: Vec<(u64, u8, u64)> = Vec::new();
        let mut replies: Vec<Vec<(u64, Reply)>> = Vec::new();
        replies.resize_with(self.shared.lanes().len(), Vec::new);
        if self.applier.mvcc().is_compacting() {
            // One that the last end interrupted.
            self.hash_compaction();
        }
        loop {
            let idle = self.idle();
            if !inbox.take(&mut jobs, idle) {
                return;
            }
            let mut conf_results = Vec::new();
            for job in jobs.drain(..) {
                let result = match job {
                    Job::Entries(entries) => self.apply(&entries, &mut conf_results, &mut replies),
                    Job::Install(snapshot) => {
                        // Raft must hear of conf changes before the snapshot that ends them.
                        self.publish(&mut conf_results, &mut replies, &mut reads);
                        self.install(&snapshot)
                    }
                    Job::Read { lane, round, index } => {
                        reads.push((index, lane, round));
                        Ok(())
                    }
                };
                if let Err(error) = result {
                    self.shared.fatal(error);
                    return;
                }
            }
            self.publish(&mut conf_results, &mut replies, &mut reads);
            if let Err(error) = self.steps() {
                self.shared.fatal(error);
                return;
            }
        }
    }

    /// How long the applier may wait for a job before it looks after its steps.
    fn idle(&self) -> Duration {
        if self.snapshots.is_waiting() || self.version_changed {
            return COMPACTION_POLL;
        }
        if !self.applier.mvcc().is_compacting() {
            return Duration::from_secs(1);
        }
        let pause = self.compaction.pause_left(Instant::now());
        pause.map_or(COMPACTION_POLL, |left| left.min(Duration::from_secs(1)))
    }

    fn apply(
        &mut self,
        entries: &[Entry],
        conf_results: &mut Vec<ConfResult>,
        replies: &mut [Vec<(u64, Reply)>],
    ) -> Result<(), String> {
        let began = Instant::now();
        let now = self.clock.now();
        for entry in entries {
            let shared = &self.shared;
            let outcome = self
                .applier
                .apply_entry(entry, &|id| shared.is_ours(id), now)
                .map_err(|error| error.to_string())?;
            self.follow(outcome, conf_results, replies);
        }
        let took = began.elapsed();
        self.shared.counters.stats.applied.observe(took);
        if took > self.warning {
            self.shared
                .counters
                .slow_apply
                .fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                entries = entries.len(),
                took_ms = took.as_millis() as u64,
                expected_ms = self.warning.as_millis() as u64,
                "apply request took too long"
            );
        }
        Ok(())
    }

    /// What follows from an entry, beside the state it changed.
    fn follow(
        &mut self,
        outcome: apply::Outcome,
        conf_results: &mut Vec<ConfResult>,
        replies: &mut [Vec<(u64, Reply)>],
    ) {
        let apply::Outcome {
            index,
            request_id,
            result,
            conf_change,
            hints,
            ignored,
            ..
        } = outcome;
        if let Some(why) = ignored {
            tracing::warn!(index, why, "passed over an entry that means nothing");
        }
        if let Some(Ok(response)) = &result {
            self.shared.counters.stats.count_applied(response);
        }
        let mut reply = result;
        if let Some(change) = conf_change {
            if let Some(error) = &change.refused
                && let Some(left_out) = self.invalid_changes.line(Instant::now())
            {
                tracing::warn!(index, %error, left_out, "a membership change was not valid when it was applied");
            }
            if let Some(membership::Applied::Removed(member)) = &change.applied {
                let when = self
                    .shared
                    .whereabouts
                    .removed(*member, index, outcome.term);
                tracing::info!(%member, when, "removed a member; its ID never comes back");
            }
            if change.applied.is_some() || outcome.replayed {
                self.shared.membership_changed();
            }
            let valid = change.raft.node_id != 0;
            conf_results.push(ConfResult {
                index,
                change: valid.then_some(change.raft),
            });
            reply = Some(change.result.map(|_| Response::Empty));
        }
        if hints.first_in_term && self.shared.is_leader() {
            let lessor = self.applier.lessor();
            lessor.promote(self.election_timeout, self.clock.now());
            // The lead may have been lost, and leases let go, since we looked.
            if !self.shared.is_leader() {
                lessor.demote();
            }
        }
        if hints.force_snapshot {
            self.snapshots.force();
        }
        if hints.version_changed {
            self.version_changed = true;
        }
        if hints.compacting.is_some() {
            *self.shared.counters.stats.compaction_began.lock() = Some(Instant::now());
            self.hash_compaction();
        }
        let Some(reply) = reply else { return };
        if hints.raise_no_space {
            // The answer leaves when the alarm is applied, as in etcd.
            self.shared.raise_no_space(request_id, reply);
            return;
        }
        if let Some(lane) = Lane::of_id(self.shared.id.0, request_id)
            && let Some(replies) = replies.get_mut(usize::from(lane))
        {
            replies.push((request_id, reply));
        }
    }

    /// The hash of what a compaction removes is worked out beside the applier; deletions wait
    /// for it.
    fn hash_compaction(&self) {
        let mvcc = self.applier.mvcc().clone();
        let shared = self.shared.clone();
        self.runtime.spawn_blocking(move || {
            loop {
                match mvcc.compaction_hash_step(HASH_STEP_RECORDS) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        shared.fatal(format!("hashing before a compaction failed: {error}"));
                        return;
                    }
                }
            }
        });
    }

    /// Positions first, then answers: whoever is answered finds them in place.
    fn publish(
        &mut self,
        conf_results: &mut Vec<ConfResult>,
        replies: &mut [Vec<(u64, Reply)>],
        reads: &mut Vec<(u64, u8, u64)>,
    ) {
        let applied = self.applier.applied().index;
        if applied > self.shared.applied() || !conf_results.is_empty() {
            self.shared.set_applied(applied);
            self.shared.inbox.applied(applied, conf_results);
        }
        for (lane, replies) in self.shared.lanes().iter().zip(replies) {
            if !replies.is_empty() {
                lane.push_replies(replies);
            }
        }
        reads.retain(|&(index, lane, round)| {
            if index > applied {
                return true;
            }
            self.shared.lane(lane, |lane| lane.push_read(round, Ok(())));
            false
        });
    }

    fn install(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let in_progress = &self.shared.counters.stats.applying_snapshot;
        in_progress.store(1, Ordering::Relaxed);
        let applied = self
            .snapshots
            .install(&mut self.applier, snapshot, &self.shared)?;
        in_progress.store(0, Ordering::Relaxed);
        let mvcc = self.applier.mvcc();
        self.compaction.finished();
        if mvcc.is_compacting() {
            // The leader's database came in the middle of a compaction, which goes on here.
            self.hash_compaction();
        } else {
            // The leader's database came without the records that a compaction here was removing.
            self.shared.compaction_finished(mvcc.compact_revision());
        }
        self.shared.set_committed(applied);
        self.shared.set_applied(applied);
        self.shared.inbox.snapshot_installed(applied);
        Ok(())
    }

    /// What can wait: a compaction's next records, a snapshot of our own, the schema's version.
    fn steps(&mut self) -> Result<(), String> {
        let began = Instant::now();
        if self.applier.mvcc().is_compacting()
            && let Some(records) = self.compaction.budget(began)
        {
            let (mvcc, writer) = self.applier.mvcc_writer();
            let mut in_time = || began.elapsed() < COMPACTION_STEP_MAX;
            let work = mvcc
                .compact_step_while(writer, records, &mut in_time)
                .map_err(|error| format!("compaction failed: {error}"))?;
            writer.end_local();
            let stats = &self.shared.counters.stats;
            if work.looked_at + work.deleted > 0 {
                stats.compaction_steps.observe(began.elapsed());
            }
            self.compaction.count(work.deleted, Instant::now());
            if let CompactStep::Finished { hash, removed } = work.step {
                self.compaction.finished();
                tracing::info!(
                    compact_revision = hash.revision,
                    removed,
                    hash = hash.hash,
                    "finished scheduled compaction"
                );
                let unix = std::time::UNIX_EPOCH
                    .elapsed()
                    .map_or(0, |since| since.as_secs());
                stats.compacted_at.store(unix, Ordering::Relaxed);
                stats
                    .compacted_records
                    .fetch_add(removed as u64, Ordering::Relaxed);
                if let Some(began) = stats.compaction_began.lock().take() {
                    stats.compactions.observe(began.elapsed());
                }
                self.shared.compaction_finished(hash.revision);
            }
        }
        if std::mem::take(&mut self.version_changed) {
            self.migrate()?;
        }
        self.snapshots
            .step(self.applier.applied().index, &self.shared);
        Ok(())
    }

    /// The database's schema follows the cluster's version (etcd `monitorStorageVersion`).
    fn migrate(&mut self) -> Result<(), String> {
        let Some(version) = self.applier.cluster().get().version().cloned() else {
            return Ok(());
        };
        // A cluster that has not heard from all of its members says 3.0.0; nothing follows that.
        if version < membership::Version::new(3, 5) {
            return Ok(());
        }
        let view = self.applier.backend().view();
        let known = membership::store::schema_version(&view)
            .map_err(|error| format!("reading the storage version failed: {error}"))?;
        if known.is_none() {
            // A member that joins has heard of the version before its first entry.
            self.version_changed = true;
            return Ok(());
        }
        let writer = self.applier.writer();
        let now = match membership::store::migrate(&view, writer, &version, None) {
            Ok(now) => now,
            Err(error @ membership::Error::Migration(_)) => {
                tracing::error!(%version, %error, "failed to update storage version");
                return Ok(());
            }
            Err(error) => {
                return Err(format!(
                    "migrating the database to version {version} failed: {error}"
                ));
            }
        };
        writer.end_local();
        tracing::info!(was = %now, storage_version = %version, "the storage version follows the cluster version");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compaction_pauses_after_each_batch() {
        let pause = Duration::from_millis(10);
        let mut pace = CompactionPace::new(COMPACT_STEP_RECORDS + 44, pause);
        let now = Instant::now();
        assert_eq!(pace.budget(now), Some(COMPACT_STEP_RECORDS));
        pace.count(COMPACT_STEP_RECORDS, now);
        assert_eq!(pace.budget(now), Some(44));
        pace.count(0, now);
        assert_eq!(pace.budget(now), Some(44));
        pace.count(44, now);
        assert_eq!(pace.budget(now), None);
        assert_eq!(pace.budget(now + pause / 2), None);
        assert_eq!(pace.pause_left(now + pause / 2), Some(pause / 2));
        assert_eq!(pace.budget(now + pause), Some(COMPACT_STEP_RECORDS));
        pace.count(COMPACT_STEP_RECORDS + 44, now + pause);
        pace.finished();
        assert_eq!(pace.budget(now + pause), Some(COMPACT_STEP_RECORDS));
    }

    #[test]
    fn zero_stands_for_etcds_batch_and_pause() {
        let pace = CompactionPace::new(0, Duration::ZERO);
        assert_eq!(
            (pace.batch_limit, pace.pause),
            (1000, Duration::from_millis(10))
        );
    }
}
