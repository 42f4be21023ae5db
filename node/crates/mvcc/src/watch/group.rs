//! Which watchers a key concerns.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use super::interval::{End, IntervalTree};

/// A watcher's place among all; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WatcherKey(pub(super) u64);

/// What a watcher watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    Key(Bytes),
    Range(Bytes, End),
}

impl Watched {
    /// Reads a client's key and range end; `None` for a range that can hold no key.
    pub(super) fn from_request(key: &Bytes, range_end: &Bytes) -> Option<Self> {
        // The empty key stands for the least one.
        let key = if key.is_empty() {
            Bytes::from_static(b"\0")
        } else {
            key.clone()
        };
        match &range_end[..] {
            b"" => Some(Self::Key(key)),
            b"\0" => Some(Self::Range(key, None)),
            end => (key < end).then(|| Self::Range(key, Some(range_end.clone()))),
        }
    }

    pub(super) fn holds(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Range(from, end) => from <= key && end.as_ref().is_none_or(|end| key < &end[..]),
        }
    }
}

/// Watchers by what they watch: single keys by hash, ranges in an interval tree.
#[derive(Debug, Default)]
pub(super) struct Group {
    keys: HashMap<Bytes, BTreeSet<WatcherKey>>,
    ranges: IntervalTree<BTreeSet<WatcherKey>>,
    len: usize,
}

impl Group {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn add(&mut self, watched: &Watched, watcher: WatcherKey) {
        let added = match watched {
            Watched::Key(key) => self.keys.entry(key.clone()).or_default().insert(watcher),
            Watched::Range(from, end) => self.ranges.entry(from, end).insert(watcher),
        };
        self.len += usize::from(added);
    }

    pub(super) fn remove(&mut self, watched: &Watched, watcher: WatcherKey) {
        let set = match watched {
            Watched::Key(key) => self.keys.get_mut(key),
            Watched::Range(from, end) => self.ranges.get_mut(from, end),
        };
        let Some(set) = set else { return };
        self.len -= usize::from(set.remove(&watcher));
        if set.is_empty() {
            match watched {
                Watched::Key(key) => drop(self.keys.remove(key)),
                Watched::Range(from, end) => self.ranges.remove(from, end),
            }
        }
    }

    /// Visits the watchers of a key.
    pub(super) fn visit(&self, key: &[u8], visitor: &mut dyn FnMut(WatcherKey)) {
        if let Some(set) = self.keys.get(key) {
            set.iter().for_each(|watcher| visitor(*watcher));
        }
        self.ranges.stab(key, &mut |set| {
            set.iter().for_each(|watcher| visitor(*watcher))
        });
    }
}
