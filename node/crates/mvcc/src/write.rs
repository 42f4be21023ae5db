//! Writes: one transaction at a time, by the applier.
//!
//! A transaction's changes all carry the revision after the store's, and a number within
//! it. If there are none, the revision stays. The state's lock is held from begin to end:
//! no reader sees half a transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::mvccpb::KeyValue;
use backend::{Backend, Bucket, Writer};
use bytes::Bytes;
use parking_lot::RwLockWriteGuard;

use crate::index::{Index, Prior};
use crate::read::{put_key, range_inside};
use crate::record::{self, RecordHead};
use crate::store::{Restored, State};
use crate::watch::Change;
use crate::{Error, Mvcc, RangeOptions, RangeResult, ReadView, RecordKey, Revision};

/// The one who may change the store.
#[derive(Debug)]
pub struct MvccWriter {
    pub(crate) mvcc: Arc<Mvcc>,
}

/// A transaction. Dropping it ends it too.
#[derive(Debug)]
pub struct WriteTxn<'a> {
    mvcc: &'a Mvcc,
    /// Held until the transaction ends.
    state: Option<RwLockWriteGuard<'a, State>>,
    writer: &'a mut Writer,
    /// The store's revision when the transaction began.
    begin: i64,
    changes: Vec<Change>,
}

/// What [`WriteTxn::put`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// The revision of the transaction.
    pub revision: i64,
    /// The lease of the value that was replaced; 0 for none. The caller detaches it if it
    /// is not the new one.
    pub prior_lease: i64,
}

/// A key that [`WriteTxn::delete_range`] deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The key.
    pub key: Bytes,
    /// The lease of its last value; 0 for none. The caller detaches it.
    pub lease: i64,
}

/// What a transaction changed.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Its revision, now the store's.
    pub revision: i64,
    /// The new key-value pairs in order; a deleted key has only key and mod revision.
    pub changes: Vec<Change>,
}

const HELD: &str = "the state is held until the transaction ends, which consumes it";

impl MvccWriter {
    pub(crate) fn new(mvcc: Arc<Mvcc>) -> Self {
        Self { mvcc }
    }

    /// The store.
    pub fn mvcc(&self) -> &Arc<Mvcc> {
        &self.mvcc
    }

    /// Begins a transaction. Until it ends, reads of the store by this thread other than the
    /// transaction's own would wait for ever.
    pub fn txn<'a>(&'a mut self, writer: &'a mut Writer) -> WriteTxn<'a> {
        let state = self.mvcc.state.write();
        let begin = state.current;
        WriteTxn {
            mvcc: &self.mvcc,
            state: Some(state),
            writer,
            begin,
            changes: Vec::new(),
        }
    }

    /// Takes over another database in place of the present one, as a member does that
    /// received a snapshot. Readers and watchers stay.
    pub fn replace(&mut self, backend: Backend, writer: &mut Writer) -> Result<Restored, Error> {
        let (scheduled, restored) = self.mvcc.replace(backend)?;
        self.resume_compaction(writer, scheduled)?;
        Ok(restored)
    }
}

impl WriteTxn<'_> {
    /// Sets a key. The caller has checked that the lease exists, and attaches it.
    pub fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> Result<Put, Error> {
        self.mvcc
            .put_bytes
            .fetch_add((key.len() + value.len()) as u64, Ordering::Relaxed);
        let revision = self.next_revision();
        let inserted = self.index().put(&key, revision, lease != 0);
        let prior_lease = match inserted.prior {
            Some(prior) => self.lease_of(prior)?,
            None => 0,
        };
        let kv = KeyValue {
            key,
            create_revision: inserted.origin.created,
            mod_revision: revision.main,
            version: inserted.origin.version,
            value,
            lease,
        };
        self.writer.put(
            Bucket::Key,
            &put_key(revision).to_bytes(),
            record::encode(&kv),
        );
        self.changes.push(Change {
            kv,
            tombstone: false,
        });
        Ok(Put {
            revision: revision.main,
            prior_lease,
        })
    }

    /// Deletes the keys of a range (see [`RangeOptions::end`]) and answers them in order.
    pub fn delete_range(&mut self, key: &[u8], end: &[u8]) -> Result<Vec<Deleted>, Error> {
        let keys = RangeOptions {
            key,
            end,
            keys_only: true,
            ..RangeOptions::default()
        };
        let found = self.range(&keys)?.kvs;
        let mut deleted = Vec::with_capacity(found.len());
        for KeyValue { key, .. } in found {
            let revision = self.next_revision();
            let prior = self
                .index()
                .tombstone(&key, revision)
                .expect("the range has just found the key");
            let lease = self.lease_of(prior)?;
            let record = KeyValue {
                key: key.clone(),
                ..KeyValue::default()
            };
            let record_key = RecordKey {
                revision,
                tombstone: true,
            };
            self.writer
                .put(Bucket::Key, &record_key.to_bytes(), record::encode(&record));
            let kv = KeyValue {
                mod_revision: revision.main,
                ..record
            };
            self.changes.push(Change {
                kv,
                tombstone: true,
            });
            deleted.push(Deleted { key, lease });
        }
        Ok(deleted)
    }

    /// Whether nothing was changed yet.
    pub fn is_unchanged(&self) -> bool {
        self.changes.is_empty()
    }

    /// Ends the transaction: its revision becomes the store's, and watchers are told.
    /// `None` where nothing changed.
    pub fn end(mut self) -> Option<Changes> {
        self.finish()
    }

    fn finish(&mut self) -> Option<Changes> {
        let mut state = self.state.take()?;
        if self.changes.is_empty() {
            return None;
        }
        let changes = Changes {
            revision: self.begin + 1,
            changes: std::mem::take(&mut self.changes),
        };
        // Whoever reads the new revision and then watches from now on must not be told of
        // it again: watches wait until everybody was told, readers do not.
        let mut hub = self.mvcc.watch_hub().lock();
        state.current = changes.revision;
        self.mvcc.publish(&state);
        drop(state);
        hub.notify(changes.revision, &changes.changes);
        Some(changes)
    }

    fn state(&self) -> &State {
        self.state.as_ref().expect(HELD)
    }

    fn index(&mut self) -> &mut Index {
        &mut self.state.as_mut().expect(HELD).index
    }

    fn next_revision(&self) -> Revision {
        Revision::new(self.begin + 1, self.changes.len() as i64)
    }

    fn lease_of(&self, prior: Prior) -> Result<i64, Error> {
        if !prior.leased {
            return Ok(0);
        }
        let at = prior.modified;
        let record = self.writer.get(Bucket::Key, &put_key(at).to_bytes())?;
        Ok(RecordHead::decode(at, &record.ok_or(Error::MissingRecord { at })?)?.lease)
    }
}

impl ReadView for WriteTxn<'_> {
    /// Sees the transaction's own changes.
    fn range(&self, options: &RangeOptions<'_>) -> Result<RangeResult, Error> {
        range_inside(self.state(), self.writer, self.revision(), options)
    }

    /// The store's revision, and one more after the first change.
    fn revision(&self) -> i64 {
        self.begin + i64::from(!self.changes.is_empty())
    }

    fn compact_revision(&self) -> i64 {
        self.state().compacted
    }
}

impl Drop for WriteTxn<'_> {
    /// A transaction that was given up half-way (the disk failed; the member stops) still
    /// keeps index, records and revision in step.
    fn drop(&mut self) {
        self.finish();
    }
}
