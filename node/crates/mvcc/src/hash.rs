//! HashKV: what members compare to find out whether they hold the same.
//!
//! The hash runs over the bytes of the bucket `key`. It must not depend on how far a
//! compaction came in deleting records, nor on the version that made them, so it goes by
//! etcd's rules ([`Hasher::rule`]). It is computed away from the applier, over a view, a
//! chunk of records at a time; the index is asked only about records at or below the
//! compaction.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use backend::{Bucket, View};
use parking_lot::Mutex;

use crate::index::{Index, Keys};
use crate::record::RecordHead;
use crate::store::{State, check_revision};
use crate::{Error, Mvcc, RecordKey, Revision};

/// Hashes of finished compactions that are kept, as in etcd.
pub(crate) const HASHES_MAX: usize = 10;

/// Records hashed before the index is asked again: its lock is held for one chunk of
/// look-ups, some 100 µs.
const CHUNK_RECORDS: usize = 512;
/// Bytes of records held while the index is asked.
const CHUNK_BYTES: usize = 1 << 20;

/// A hash of the store at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyValueHash {
    /// CRC-32C.
    pub hash: u32,
    /// The compaction that the hash started from; -1 if there was none.
    pub compact_revision: i64,
    /// The last revision that the hash covers.
    pub revision: i64,
}

impl Mvcc {
    /// The hash at a revision, 0 for the current one, and the current revision.
    ///
    /// For a revision at which a compaction finished since the start, this is the hash
    /// computed then: it covers what that compaction removed, so that members can be
    /// compared that compacted at different moments. Reads the whole bucket: not for the
    /// applier's thread.
    pub fn hash_by_revision(&self, revision: i64) -> Result<(KeyValueHash, i64), Error> {
        if let Some(stored) = self
            .hashes
            .lock()
            .iter()
            .find(|hash| hash.revision == revision)
        {
            return Ok((*stored, self.revision()));
        }
        // A compaction in between changes what the index knows: begin anew.
        loop {
            let (current, hash) = {
                let state = self.state.read();
                // Etcd checks positive revisions only; below zero nothing is covered.
                let revision = match revision {
                    0 => state.current,
                    1.. => check_revision(revision, state.current, state.compacted)?,
                    _ => revision,
                };
                (state.current, Hashing::new(state.compacted, revision))
            };
            let mut hash = hash;
            let mut more = true;
            while more {
                match hash.step(self, CHUNK_RECORDS, |state, hash| {
                    state.compacted == hash.compact_revision
                })? {
                    Some(more_left) => more = more_left,
                    None => break,
                }
            }
            if !more {
                return Ok((hash.done(), current));
            }
        }
    }

    /// The hashes of the last finished compactions, by revision; at most 10.
    pub fn stored_hashes(&self) -> Vec<KeyValueHash> {
        self.hashes.lock().iter().copied().collect()
    }

    pub(crate) fn store_hash(hashes: &Mutex<VecDeque<KeyValueHash>>, hash: KeyValueHash) {
        let mut hashes = hashes.lock();
        let place = hashes.partition_point(|known| known.revision <= hash.revision);
        hashes.insert(place, hash);
        while hashes.len() > HASHES_MAX {
            hashes.pop_front();
        }
    }
}

/// A hash under way.
#[derive(Debug)]
pub(crate) struct Hashing {
    pub(crate) compact_revision: i64,
    pub(crate) revision: i64,
    /// Whether any key lives at `revision`. If none does, etcd leaves nothing out.
    any_live: AnyLive,
    crc: u32,
    /// Where to go on.
    next: Option<Box<[u8]>>,
}

#[derive(Debug)]
enum AnyLive {
    /// None below this key.
    Unknown(Box<[u8]>),
    Known(bool),
}

/// What to do with a record.
enum Rule {
    Hash,
    Skip,
    /// Hash it if it is what its key's readers at the revision would get.
    HashIfLive,
}

/// Records awaiting the index's word, and their bytes.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    records: Vec<Pending>,
}

struct Pending {
    revision: Revision,
    tombstone: bool,
    ask: bool,
    key_len: usize,
    value_len: usize,
}

impl Hashing {
    pub(crate) fn new(compact_revision: i64, revision: i64) -> Self {
        let crc = crc32c::crc32c(Bucket::Key.name());
        let any_live = AnyLive::Unknown(Box::default());
        Self {
            compact_revision,
            revision,
            any_live,
            crc,
            next: Some(Box::default()),
        }
    }

    /// Hashes up to `records_max` records. Answers whether more are left, or `None` where
    /// `valid` says that the index no longer knows the revision.
    pub(crate) fn step(
        &mut self,
        mvcc: &Mvcc,
        records_max: usize,
        valid: impl Fn(&State, &Self) -> bool,
    ) -> Result<Option<bool>, Error> {
        if let AnyLive::Unknown(from) = &self.any_live {
            let state = mvcc.state.read();
            if !valid(&state, self) {
                return Ok(None);
            }
            self.any_live = any_live(&state.index, from, self.revision);
            return Ok(Some(true));
        }
        let Some(from) = self.next.take() else {
            return Ok(Some(false));
        };
        let chunk = self.read(&mvcc.view(), &from, records_max)?;
        let state = mvcc.state.read();
        if !valid(&state, self) {
            return Ok(None);
        }
        let mut place = 0;
        for pending in chunk.records {
            let (key, rest) = chunk.bytes[place..].split_at(pending.key_len);
            let value = &rest[..pending.value_len];
            place += pending.key_len + pending.value_len;
            if pending.ask && !is_live(&state.index, &pending, value, self.revision)? {
                continue;
            }
            self.crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, key), value);
        }
        Ok(Some(self.next.is_some()))
    }

    pub(crate) fn done(&self) -> KeyValueHash {
        KeyValueHash {
            hash: self.crc,
            compact_revision: self.compact_revision,
            revision: self.revision,
        }
    }

    fn read(&mut self, view: &View, from: &[u8], records_max: usize) -> Result<Chunk, Error> {
        let mut chunk = Chunk::default();
        let mut failed = None;
        let end = self.revision.saturating_add(1).max(0).to_be_bytes();
        view.scan(Bucket::Key, from, Some(&end), &mut |key, value| {
            if chunk.records.len() == records_max || chunk.bytes.len() >= CHUNK_BYTES {
                self.next = Some(key.into());
                return ControlFlow::Break(());
            }
            let RecordKey {
                revision,
                tombstone,
            } = match RecordKey::from_bytes(key) {
                Ok(key) => key,
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            };
            let ask = match self.rule(revision, tombstone) {
                Rule::Skip => return ControlFlow::Continue(()),
                Rule::Hash => false,
                Rule::HashIfLive => true,
            };
            chunk.bytes.extend_from_slice(key);
            chunk.bytes.extend_from_slice(value);
            let (key_len, value_len) = (key.len(), value.len());
            chunk.records.push(Pending {
                revision,
                tombstone,
                ask,
                key_len,
                value_len,
            });
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(chunk), Err)
    }

    /// Etcd's rules (`storage/mvcc/hash.go`): nothing above the revision; of what lies at
    /// or below the compaction only what lives at the revision, provided that anything
    /// does; and no tombstone of the compaction's own revision, which old versions removed
    /// and new ones keep.
    fn rule(&self, revision: Revision, tombstone: bool) -> Rule {
        if revision.main > self.revision || (tombstone && revision.main == self.compact_revision) {
            Rule::Skip
        } else if revision.main <= self.compact_revision
            && !matches!(self.any_live, AnyLive::Known(false))
        {
            Rule::HashIfLive
        } else {
            Rule::Hash
        }
    }
}

fn is_live(index: &Index, pending: &Pending, value: &[u8], at: i64) -> Result<bool, Error> {
    if pending.tombstone {
        return Ok(false);
    }
    let head = RecordHead::decode(pending.revision, value)?;
    Ok(index
        .get(head.key, at)
        .is_some_and(|located| located.modified == pending.revision))
}

fn any_live(index: &Index, from: &[u8], at: i64) -> AnyLive {
    let (mut walked, mut outcome) = (0, AnyLive::Known(false));
    index.visit(Keys { from, end: None }, at, &mut |key, located| {
        walked += 1;
        if located.is_some() {
            outcome = AnyLive::Known(true);
        } else if walked > CHUNK_RECORDS {
            outcome = AnyLive::Unknown(key.into());
        } else {
            return ControlFlow::Continue(());
        }
        ControlFlow::Break(())
    });
    outcome
}
