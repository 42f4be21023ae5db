//! A batch in memory: what was written and is not in the tree yet.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};

use crate::bucket::{BUCKETS, Bucket};
use crate::key::Key;

/// Entries that a scan takes from a layer under one lock, so that a slow reader holds the writer up
/// for no longer than it takes to copy so many counters.
const SCAN_CHUNK: usize = 64;

/// Bytes that an entry costs beside its key and value: key and value handles, and the slack of the
/// containers. Only for the limits on pending bytes.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// One change: a value, or `None` where the key was deleted.
pub(crate) type Change = Option<Bytes>;

/// A batch. One writer fills it; readers look at it at any time; once frozen it never changes.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    maps: [RwLock<Map>; BUCKETS],
    changes: AtomicUsize,
    bytes: AtomicUsize,
}

impl Layer {
    /// Adds a change. The caller is the only writer.
    pub(crate) fn insert(&self, bucket: Bucket, key: &[u8], change: Change) {
        let bytes = key.len() + change.as_ref().map_or(0, Bytes::len) + ENTRY_OVERHEAD_BYTES;
        self.maps[bucket.index()].write().insert(key, change);
        // Only this thread writes the counters: load and store need no read-modify-write.
        self.changes
            .store(self.changes.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.bytes.store(
            self.bytes.load(Ordering::Relaxed) + bytes,
            Ordering::Relaxed,
        );
    }

    /// `Some(None)` is a tombstone.
    pub(crate) fn get(&self, bucket: Bucket, key: &[u8]) -> Option<Change> {
        self.maps[bucket.index()].read().get(key).cloned()
    }

    /// Changes since the layer was made, overwritten ones included.
    pub(crate) fn changes(&self) -> usize {
        self.changes.load(Ordering::Relaxed)
    }

    /// Bytes held, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The sorted changes of a bucket; for the commit of a frozen layer.
    pub(crate) fn map(&self, bucket: Bucket) -> RwLockReadGuard<'_, Map> {
        self.maps[bucket.index()].read()
    }

    /// A walk in key order from `from` to below `to`.
    pub(crate) fn walk<'a>(
        &'a self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&'a [u8]>,
    ) -> LayerWalk<'a> {
        let mut walk = LayerWalk {
            layer: self,
            bucket,
            to,
            chunk: Vec::new(),
            next: 0,
            more: true,
        };
        walk.refill(Bound::Included(from));
        walk
    }
}

/// Changes of one bucket. Keys that come in rising order (the `key` bucket: every put) go to a
/// vector, others (deletes of old revisions, other buckets) to a tree; a key is in one of them.
#[derive(Debug, Default)]
pub(crate) struct Map {
    run: Vec<(Key, Change)>,
    rest: BTreeMap<Key, Change>,
}

impl Map {
    fn insert(&mut self, key: &[u8], change: Change) {
        match self.run.last() {
            Some((last, _)) if key <= last.as_ref() => match self.find(key) {
                Ok(at) => self.run[at].1 = change,
                Err(_) => {
                    self.rest.insert(Key::new(key), change);
                }
            },
            // Above the end of the run, hence above every key of `rest` too: those were below the
            // end of the run when they came, and the run only grows.
            _ => self.run.push((Key::new(key), change)),
        }
    }

    fn get(&self, key: &[u8]) -> Option<&Change> {
        if key > self.run.last()?.0.as_ref() {
            return None;
        }
        match self.find(key) {
            Ok(at) => Some(&self.run[at].1),
            Err(_) => self.rest.get(key),
        }
    }

    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.run.binary_search_by(|(at, _)| at.as_ref().cmp(key))
    }

    /// Whether nothing was changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.run.is_empty()
    }

    /// All changes in key order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Change)> {
        self.range(Bound::Unbounded)
    }

    fn range(&self, from: Bound<&[u8]>) -> impl Iterator<Item = (&[u8], &Change)> {
        let start = match from {
            Bound::Unbounded => 0,
            Bound::Included(from) => self.run.partition_point(|(key, _)| key.as_ref() < from),
            Bound::Excluded(from) => self.run.partition_point(|(key, _)| key.as_ref() <= from),
        };
        let mut run = self.run[start..].iter().peekable();
        let mut rest = self
            .rest
            .range::<[u8], _>((from, Bound::Unbounded))
            .peekable();
        std::iter::from_fn(move || {
            let from_run = match (run.peek(), rest.peek()) {
                (Some((a, _)), Some((b, _))) => a < *b,
                (Some(_), None) => true,
                _ => false,
            };
            if from_run {
                run.next().map(|(key, change)| (key.as_ref(), change))
            } else {
                rest.next().map(|(key, change)| (key.as_ref(), change))
            }
        })
    }
}

/// A reader's way through one bucket of a layer, in chunks; sees changes that come in behind its
/// chunk while it goes.
pub(crate) struct LayerWalk<'a> {
    layer: &'a Layer,
    bucket: Bucket,
    to: Option<&'a [u8]>,
    chunk: Vec<(Key, Change)>,
    next: usize,
    more: bool,
}

impl LayerWalk<'_> {
    /// The change at hand; `None` at the end.
    pub(crate) fn peek(&self) -> Option<(&[u8], &Change)> {
        self.chunk
            .get(self.next)
            .map(|(key, change)| (key.as_ref(), change))
    }

    /// Goes on to the next change.
    pub(crate) fn advance(&mut self) {
        self.next += 1;
        if self.next >= self.chunk.len()
            && self.more
            && let Some((last, _)) = self.chunk.pop()
        {
            self.refill(Bound::Excluded(last.as_ref()));
        }
    }

    fn refill(&mut self, from: Bound<&[u8]>) {
        self.chunk.clear();
        self.next = 0;
        let map = self.layer.maps[self.bucket.index()].read();
        let within = |key: &[u8]| self.to.is_none_or(|to| key < to);
        self.chunk.extend(
            map.range(from)
                .take_while(|(key, _)| within(key))
                .take(SCAN_CHUNK)
                .map(|(key, change)| (Key::new(key), change.clone())),
        );
        self.more = self.chunk.len() == SCAN_CHUNK;
    }
}
