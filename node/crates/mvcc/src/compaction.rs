//! Compaction: history up to a revision is forgotten.
//!
//! ```text
//! applier   compact(rev)            readers below rev fail from now on
//! elsewhere hash_step, hash_step …  the hash of what lies between the compactions
//! applier   step, step, …           a part of the index at a time: forget, delete records
//!           last step               finishedCompactRev, the hash is stored
//! ```
//!
//! A crash in between is harmless: `scheduledCompactRev` is above `finishedCompactRev`
//! then, and the compaction is begun anew at start. A key's records go oldest first, so
//! that no rest of a deleted key looks alive.
//!
//! What is deleted comes from the index, not from a walk over the records as in etcd: the
//! applier's work grows with what is removed. The walk over the records is the hash's, and
//! that runs elsewhere.

use std::collections::VecDeque;

use backend::{Bucket, Writer};
use bytes::Bytes;

use crate::hash::{Hashing, KeyValueHash};
use crate::store::{FINISHED_COMPACT, SCHEDULED_COMPACT};
use crate::{Error, Mvcc, MvccWriter, RecordKey, Revision};

/// A good budget for [`MvccWriter::compact_step`]: well below a millisecond, also on a slow
/// machine, so that a write that comes meanwhile does not notice.
pub const COMPACT_STEP_RECORDS: usize = 256;
/// Keys that a step looks at, for each record that it may delete: to look at one costs less
/// than a tenth of a deletion. Without this, a step that finds nothing to delete would go
/// through the whole index.
const KEYS_PER_RECORD: usize = 8;
/// Deletions between two questions whether to go on.
const DELETIONS_AT_ONCE: usize = 32;
/// A good budget for [`Mvcc::compaction_hash_step`].
pub const HASH_STEP_RECORDS: usize = 512;

/// What [`MvccWriter::compact_step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactStep {
    /// There is no compaction.
    Idle,
    /// A compaction waits for its hash ([`Mvcc::compaction_hash_step`]).
    Hashing,
    /// There is more to delete.
    More,
    /// A compaction is done.
    Finished {
        /// Its hash.
        hash: KeyValueHash,
        /// Records removed.
        removed: usize,
    },
}

/// A step, and what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactWork {
    /// What it came to.
    pub step: CompactStep,
    /// Keys of the index that it looked at.
    pub looked_at: usize,
    /// Records that it deleted.
    pub deleted: usize,
}

/// The compactions under way, in order.
#[derive(Debug, Default)]
pub(crate) struct Compactions {
    hashing: VecDeque<Job>,
    ready: VecDeque<Ready>,
    /// Hash jobs that a thread has taken out to work on.
    taken: usize,
    /// Grows when the store is replaced: jobs taken out before must not come back.
    epoch: u64,
}

#[derive(Debug)]
struct Job {
    hashing: Hashing,
    store_hash: bool,
}

#[derive(Debug)]
struct Ready {
    hash: KeyValueHash,
    store_hash: bool,
    /// The next leaf of the index; `None` after the last.
    next: Option<Box<[u8]>>,
    /// Records that the index has forgotten and the backend has not yet.
    doomed: VecDeque<RecordKey>,
    removed: usize,
}

impl Compactions {
    pub(crate) fn clear(&mut self) {
        *self = Self {
            epoch: self.epoch + 1,
            ..Self::default()
        };
    }
}

impl Mvcc {
    /// Goes on with the hash of a compaction under way, by up to `records_max` records.
    /// Answers whether there is more to do now. For any thread but the applier's.
    pub fn compaction_hash_step(&self, records_max: usize) -> Result<bool, Error> {
        let (mut job, epoch) = {
            let mut compactions = self.compactions.lock();
            let Some(job) = compactions.hashing.pop_front() else {
                return Ok(false);
            };
            compactions.taken += 1;
            (job, compactions.epoch)
        };
        // The index keeps what readers at the job's revision need until the job is done:
        // deletions wait for it, and later compactions for those.
        let valid = |_: &_, _: &_| self.compactions.lock().epoch == epoch;
        let more = job.hashing.step(self, records_max, valid);
        let mut compactions = self.compactions.lock();
        if compactions.epoch != epoch {
            return Ok(!compactions.hashing.is_empty());
        }
        compactions.taken -= 1;
        if more? == Some(true) {
            compactions.hashing.push_front(job);
            return Ok(true);
        }
        let place = compactions
            .ready
            .partition_point(|ready| ready.hash.revision < job.hashing.revision);
        compactions.ready.insert(place, job.into());
        Ok(!compactions.hashing.is_empty())
    }

    /// Whether a compaction is under way.
    pub fn is_compacting(&self) -> bool {
        let compactions = self.compactions.lock();
        compactions.taken > 0 || !compactions.hashing.is_empty() || !compactions.ready.is_empty()
    }
}

impl From<Job> for Ready {
    fn from(job: Job) -> Self {
        Ready {
            hash: job.hashing.done(),
            store_hash: job.store_hash,
            next: Some(Box::default()),
            doomed: VecDeque::new(),
            removed: 0,
        }
    }
}

impl MvccWriter {
    /// Begins a compaction: what readers at `revision` or later do not need is forgotten.
    /// Readers below it fail from now on. [`MvccWriter::compact_step`] does the work.
    ///
    /// Fails with `Compacted` or `Future`, the client's errors, and changes nothing then.
    pub fn compact(&mut self, writer: &mut Writer, revision: i64) -> Result<(), Error> {
        let scheduled = writer.get(Bucket::Meta, SCHEDULED_COMPACT)?;
        let finished = writer.get(Bucket::Meta, FINISHED_COMPACT)?;
        let mut state = self.mvcc.state.write();
        if revision <= state.compacted {
            return Err(Error::Compacted);
        }
        if revision > state.current {
            return Err(Error::Future);
        }
        let previous = state.compacted;
        writer.put(Bucket::Meta, SCHEDULED_COMPACT, meta_value(revision));
        state.compacted = revision;
        self.mvcc.publish(&state);
        let hashing = Hashing::new(previous, revision);
        drop(state);
        // Only a hash that covers all that happened since the last finished compaction can
        // be compared with another member's.
        let store_hash = scheduled == finished;
        self.mvcc.compactions.lock().hashing.push_back(Job {
            hashing,
            store_hash,
        });
        Ok(())
    }

    /// [`MvccWriter::compact_step_while`] without a reason to stop early.
    pub fn compact_step(
        &mut self,
        writer: &mut Writer,
        records_max: usize,
    ) -> Result<CompactStep, Error> {
        let work = self.compact_step_while(writer, records_max, &mut || true)?;
        Ok(work.step)
    }

    /// Goes on with the compactions: deletes up to `records_max` records, and looks at up to
    /// eight times as many keys and the rest of a leaf of the index. `keep_going` is asked
    /// every few deletions and after each leaf, for who has a clock: it ends the step early,
    /// but not before something was done. One thing is not cut into pieces: the index
    /// forgets the revisions of one key at once, a memory copy of 24 bytes for each.
    ///
    /// The caller ends an entry on the writer afterwards, so that the step can be
    /// committed, and calls again, after whatever else waits, while there is more.
    pub fn compact_step_while(
        &mut self,
        writer: &mut Writer,
        records_max: usize,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<CompactWork, Error> {
        let mut compactions = self.mvcc.compactions.lock();
        // A later compaction may have been hashed first; it waits for the earlier ones.
        let hashing = compactions.taken > 0 || !compactions.hashing.is_empty();
        let Some(mut ready) = compactions.ready.pop_front() else {
            return Ok(CompactWork {
                step: if hashing {
                    CompactStep::Hashing
                } else {
                    CompactStep::Idle
                },
                looked_at: 0,
                deleted: 0,
            });
        };
        drop(compactions);
        let mut looked_at = 0;
        let mut more_time = true;
        while more_time
            && ready.doomed.len() < records_max
            && looked_at < records_max.saturating_mul(KEYS_PER_RECORD)
            && let Some(from) = ready.next.take()
        {
            let leaf = self.mvcc.state.write().index.compact_leaf(
                ready.hash.revision,
                &from,
                records_max,
                &mut ready.doomed,
            );
            ready.next = leaf.next;
            looked_at += leaf.looked_at;
            more_time = keep_going();
        }
        let mut deleted = 0;
        while deleted < records_max && (more_time || deleted == 0) && !ready.doomed.is_empty() {
            let some = DELETIONS_AT_ONCE
                .min(records_max - deleted)
                .min(ready.doomed.len());
            for record in ready.doomed.drain(..some) {
                writer.delete(Bucket::Key, &record.to_bytes());
            }
            deleted += some;
            more_time = more_time && keep_going();
        }
        ready.removed += deleted;
        let work = |step| CompactWork {
            step,
            looked_at,
            deleted,
        };
        if ready.next.is_some() || !ready.doomed.is_empty() {
            self.mvcc.compactions.lock().ready.push_front(ready);
            return Ok(work(CompactStep::More));
        }
        writer.put(
            Bucket::Meta,
            FINISHED_COMPACT,
            meta_value(ready.hash.revision),
        );
        if ready.store_hash {
            Mvcc::store_hash(&self.mvcc.hashes, ready.hash);
        }
        Ok(work(CompactStep::Finished {
            hash: ready.hash,
            removed: ready.removed,
        }))
    }

    /// Begins the compaction anew that a crash interrupted; 0 for none.
    pub(crate) fn resume_compaction(
        &mut self,
        writer: &mut Writer,
        scheduled: i64,
    ) -> Result<(), Error> {
        if scheduled > 0 {
            self.compact(writer, scheduled)
        } else {
            Ok(())
        }
    }
}

fn meta_value(revision: i64) -> Bytes {
    Bytes::copy_from_slice(&Revision::new(revision, 0).to_bytes())
}
