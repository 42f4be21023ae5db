//! Catching up: watchers that are behind read the records.
//!
//! One step takes the watcher that has waited longest, and up to 511 others that need the
//! same revisions or later ones; reads the records from its revision on, without the
//! hub's lock; and hands out what it found. Each watcher gets a batch that ends between
//! two revisions. Who has everything by then is synced.

use std::ops::ControlFlow;
use std::sync::Arc;

use backend::Bucket;
use bytes::Bytes;

use super::event::{Change, Event};
use super::group::{Group, Watched, WatcherKey};
use super::hub::{Filter, Hub, Place, Wakes};
use crate::record::{self, RecordHead};
use crate::{Error, Mvcc, RecordKey, Revision};

/// A good budget for [`Mvcc::sync_watchers`]: some 10 ms of reading.
pub const SYNC_STEP_RECORDS: usize = 10_000;

/// Watchers of one step, as in etcd.
const WATCHERS_MAX: usize = 512;
/// Watchers looked at to find them: others may wait for room in their queues.
const LOOKED_AT_MAX: usize = 4 * WATCHERS_MAX;
/// Revisions in one watcher's batch, as in etcd.
const BATCH_REVISIONS_MAX: usize = 1000;
/// Bytes in one watcher's batch; reached at the end of a revision, so it can be exceeded
/// by one transaction.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Bytes of all events of one step.
const STEP_BYTES_MAX: usize = 8 << 20;

/// What [`Mvcc::sync_watchers`] has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncStep {
    /// Nobody waits. The sync waker will be called when somebody does.
    Idle,
    /// There is more to do.
    More,
}

/// The watchers of a step, and what is found for them.
pub(super) struct Round {
    chosen: Vec<Chosen>,
    /// Holds places in `chosen`.
    group: Group,
    from: i64,
    to: i64,
    epoch: u64,
}

struct Chosen {
    key: WatcherKey,
    filter: Filter,
    batch: Batch,
}

#[derive(Default)]
struct Batch {
    events: Vec<Arc<Event>>,
    revisions: usize,
    bytes: usize,
    /// The revision of the last event.
    last: i64,
    /// The batch is full; the watcher goes on from here next time.
    resume: Option<i64>,
}

impl Mvcc {
    /// Lets some of the watchers that are behind catch up, reading up to `records_max`
    /// records (and the rest of a transaction). For any thread but the applier's.
    pub fn sync_watchers(&self, records_max: usize) -> Result<SyncStep, Error> {
        let Some(mut round) = Round::begin(self) else {
            return Ok(SyncStep::Idle);
        };
        let read = round.read(self, records_max);
        round.finish(self, read)
    }
}

impl Round {
    /// Chooses the watchers; `None` if nobody waits.
    pub(super) fn begin(mvcc: &Mvcc) -> Option<Self> {
        mvcc.watch_hub()
            .with(|hub, wakes| Self::choose(hub, mvcc.compact_revision(), wakes))
    }

    /// Hands out what was read.
    pub(super) fn finish(self, mvcc: &Mvcc, read: Result<i64, Error>) -> Result<SyncStep, Error> {
        // The records read may be incomplete if a compaction passed them meanwhile. It says
        // its revision before it deletes the first one.
        let compacted = mvcc.compact_revision();
        mvcc.watch_hub().with(|hub, wakes| {
            match &read {
                Ok(through) if self.epoch == hub.epoch => {
                    self.hand_out(hub, *through, compacted, wakes)
                }
                _ => self
                    .chosen
                    .iter()
                    .for_each(|chosen| hub.set_waiting(chosen.key, Place::Syncing)),
            }
            read.map(|_| {
                if hub.turn.is_empty() {
                    SyncStep::Idle
                } else {
                    SyncStep::More
                }
            })
        })
    }

    fn choose(hub: &mut Hub, compacted: i64, wakes: &mut Wakes) -> Option<Self> {
        let (head, first) = loop {
            let key = hub.turn.pop_front()?;
            let Some(watcher) = hub.watchers.get_mut(&key) else {
                continue;
            };
            watcher.in_turn = false;
            let min_revision = watcher.filter.min_revision;
            if watcher.place != Place::Waiting {
                continue;
            }
            if min_revision < compacted {
                if !hub.set_compacted(key, compacted, wakes) {
                    hub.set_blocked(key);
                }
            } else if min_revision > hub.current {
                // The store was replaced while it waited for a later revision.
                hub.set_synced(key);
            } else {
                break (key, min_revision);
            }
        };
        let looked_at = hub
            .behind
            .range((first, WatcherKey(0))..)
            .take(LOOKED_AT_MAX);
        let mut keys: Vec<_> = looked_at
            .take_while(|(min_revision, _)| *min_revision <= hub.current)
            .map(|(_, key)| *key)
            .filter(|key| *key != head && hub.watchers[key].place == Place::Waiting)
            .take(WATCHERS_MAX - 1)
            .collect();
        keys.push(head);
        keys.sort_unstable();
        let mut round = Self {
            chosen: Vec::with_capacity(keys.len()),
            group: Group::default(),
            from: first,
            to: hub.current,
            epoch: hub.epoch,
        };
        for key in keys {
            let watcher = hub
                .watchers
                .get_mut(&key)
                .expect("it was looked at just now");
            watcher.place = Place::Syncing;
            round
                .group
                .add(&watcher.watched, WatcherKey(round.chosen.len() as u64));
            round.chosen.push(Chosen {
                key,
                filter: watcher.filter,
                batch: Batch::default(),
            });
        }
        Some(round)
    }

    /// Reads records for the batches. Answers the revision through which it came.
    pub(super) fn read(&mut self, mvcc: &Mvcc, records_max: usize) -> Result<i64, Error> {
        let (mut records, mut bytes, mut open) = (0, 0, self.chosen.len());
        // A record is of the revision that is being read, and those below it are complete.
        let mut reading = self.from;
        let mut outcome = Ok(self.to);
        let from = Revision::new(self.from, 0).to_bytes();
        let end = (self.to + 1).to_be_bytes();
        let (group, chosen) = (&self.group, &mut self.chosen);
        mvcc.view()
            .scan(Bucket::Key, &from, Some(&end), &mut |key, value| {
                let RecordKey {
                    revision,
                    tombstone,
                } = match RecordKey::from_bytes(key) {
                    Ok(key) => key,
                    Err(error) => {
                        outcome = Err(error);
                        return ControlFlow::Break(());
                    }
                };
                if revision.main > reading
                    && (records >= records_max || bytes >= STEP_BYTES_MAX || open == 0)
                {
                    outcome = Ok(reading);
                    return ControlFlow::Break(());
                }
                reading = revision.main;
                records += 1;
                let found = RecordHead::decode(revision, value).and_then(|head| {
                    let mut event = None;
                    let mut failed = Ok(());
                    group.visit(head.key, &mut |place| {
                        let Chosen { filter, batch, .. } = &mut chosen[place.0 as usize];
                        if failed.is_err()
                            || !filter.passes(revision.main, tombstone)
                            || !batch.has_room(revision.main)
                        {
                            return;
                        }
                        let event = match &event {
                            Some(event) => event,
                            None => match read_event(revision, tombstone, value) {
                                Ok(read) => event.insert(read),
                                Err(error) => {
                                    failed = Err(error);
                                    return;
                                }
                            },
                        };
                        batch.add(event.clone(), revision.main, value.len());
                    });
                    bytes += if event.is_some() { value.len() } else { 0 };
                    failed
                });
                if let Err(error) = found {
                    outcome = Err(error);
                    return ControlFlow::Break(());
                }
                if open > 0 && records % OPEN_CHECK_RECORDS == 0 {
                    open = chosen
                        .iter()
                        .filter(|chosen| chosen.batch.resume.is_none())
                        .count();
                }
                ControlFlow::Continue(())
            })?;
        outcome
    }

    fn hand_out(self, hub: &mut Hub, through: i64, compacted: i64, wakes: &mut Wakes) {
        let current = hub.current;
        for Chosen {
            key,
            filter,
            mut batch,
        } in self.chosen
        {
            let Some(watcher) = hub.watchers.get_mut(&key) else {
                continue;
            };
            if filter.min_revision < compacted {
                if !hub.set_compacted(key, compacted, wakes) {
                    hub.set_blocked(key);
                }
                continue;
            }
            let mut next = batch.resume.unwrap_or(through + 1).max(filter.min_revision);
            // Nearly level: the rest is still in memory.
            if batch.resume.is_none()
                && next <= current
                && let Some(rest) = hub.recent.since(next)
            {
                next = batch
                    .add_recent(rest, &watcher.watched, filter)
                    .unwrap_or(current + 1);
            }
            if !batch.events.is_empty()
                && !watcher.push(current, batch.events.into_iter().collect(), wakes)
            {
                hub.set_blocked(key);
                continue;
            }
            hub.set_min_revision(key, next);
            if next > current {
                hub.set_synced(key);
            } else {
                hub.set_waiting(key, Place::Syncing);
            }
        }
    }
}

/// How often a step looks whether all its batches are full.
const OPEN_CHECK_RECORDS: usize = 256;

impl Batch {
    /// Whether a change of this revision still belongs to the batch.
    fn has_room(&mut self, revision: i64) -> bool {
        let full = self.revisions >= BATCH_REVISIONS_MAX || self.bytes >= BATCH_BYTES_MAX;
        if self.resume.is_none() && full && revision > self.last {
            self.resume = Some(revision);
        }
        self.resume.is_none()
    }

    fn add(&mut self, event: Arc<Event>, revision: i64, bytes: usize) {
        self.revisions += usize::from(revision > self.last);
        self.last = revision;
        self.bytes += bytes;
        self.events.push(event);
    }

    /// Adds transactions from memory; answers where the batch is full.
    fn add_recent<'a>(
        &mut self,
        rest: impl Iterator<Item = &'a (i64, Vec<Change>)>,
        watched: &Watched,
        filter: Filter,
    ) -> Option<i64> {
        for (revision, changes) in rest {
            for change in changes {
                if watched.holds(&change.kv.key)
                    && filter.passes(*revision, change.tombstone)
                    && self.has_room(*revision)
                {
                    self.add(Event::new(change.clone()), *revision, change.kv.value.len());
                }
            }
        }
        self.resume
    }
}

fn read_event(revision: Revision, tombstone: bool, value: &[u8]) -> Result<Arc<Event>, Error> {
    let mut kv = record::decode(revision, Bytes::copy_from_slice(value))?;
    if tombstone {
        // The record of a deletion has only the key.
        kv.mod_revision = revision.main;
    }
    Ok(Event::new(Change { kv, tombstone }))
}
