//! The index: which keys exist, and at which revisions they changed.
//!
//! It lies in memory and is rebuilt from the records at start. A read asks it for the
//! records of its keys at a revision, and then fetches those from the backend.
//!
//! ```text
//! put, tombstone ──► tree of keys ──► get, visit      at any revision
//!             └────► changes      ──► count           at the current one: two ranks;
//!                                                     a little earlier: corrected by the
//!                                                     changes since; else by a walk
//! ```
//!
//! It knows no locks and no records; the store guards it.

mod changes;
mod entry;
mod tree;

use std::collections::VecDeque;
use std::ops::ControlFlow;

pub use entry::{Located, Origin, Prior};

use crate::{RecordKey, Revision};
use changes::Changes;
use entry::{Entry, Put};
use tree::{Node, Retain};

/// Keys in order, each with its revisions.
#[derive(Debug)]
pub struct Index {
    root: Node,
    changes: Changes,
    /// The highest main revision of any change.
    last_main: i64,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            root: Node::new(),
            changes: Changes::default(),
            last_main: 0,
        }
    }
}

/// What [`Index::put`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// Create revision and version of the new record.
    pub origin: Origin,
    /// The record it replaced, if the key was there.
    pub prior: Option<Prior>,
}

/// What [`Index::compact_leaf`] did.
#[derive(Debug)]
pub struct CompactedLeaf {
    /// Where to go on; `None` at the end.
    pub next: Option<Box<[u8]>>,
    /// Keys that were looked at.
    pub looked_at: usize,
}

/// A stretch of keys.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// The first key.
    pub from: &'a [u8],
    /// The first key after the stretch; `None` has no end.
    pub end: Option<&'a [u8]>,
}

impl Index {
    /// Records a put. Revisions must ascend.
    pub fn put(&mut self, key: &[u8], revision: Revision, leased: bool) -> Inserted {
        let put = Put {
            main: revision.main,
            sub: sub_of(revision),
            leased,
        };
        let mut inserted = Inserted {
            origin: Origin {
                created: put.main,
                version: 1,
            },
            prior: None,
        };
        let (live, split) = self.root.upsert(
            key,
            &mut |entry| {
                inserted = Inserted {
                    origin: entry.next_origin(put.main),
                    prior: entry.current(),
                };
                entry.put(put, inserted.origin);
                isize::from(inserted.prior.is_none())
            },
            &mut || Some(Entry::create(key, put)),
        );
        self.root.grow(split);
        self.changed(key, revision.main, live);
        inserted
    }

    /// Records that a key is deleted; `None`, and no change, where it does not live.
    pub fn tombstone(&mut self, key: &[u8], revision: Revision) -> Option<Prior> {
        let sub = sub_of(revision);
        let mut prior = None;
        let (live, split) = self.root.upsert(
            key,
            &mut |entry| {
                prior = entry.current();
                if prior.is_none() {
                    return 0;
                }
                entry.tombstone(revision.main, sub);
                -1
            },
            &mut || None,
        );
        assert!(split.is_none(), "a tombstone adds no key");
        if prior.is_some() {
            self.changed(key, revision.main, live);
        }
        prior
    }

    /// Takes in a put record at start. Records must come in the order of their revisions.
    pub fn restore_put(&mut self, key: &[u8], revision: Revision, origin: Origin, leased: bool) {
        let put = Put {
            main: revision.main,
            sub: sub_of(revision),
            leased,
        };
        let (_, split) = self.root.upsert(
            key,
            &mut |entry| {
                let live = isize::from(!entry.is_live());
                entry.put(put, origin);
                live
            },
            &mut || Some(Entry::restore(key, put, origin)),
        );
        self.root.grow(split);
        self.restored(revision.main);
    }

    /// Takes in a tombstone record at start. One that follows another is passed over.
    pub fn restore_tombstone(&mut self, key: &[u8], revision: Revision) {
        let sub = sub_of(revision);
        let (_, split) = self.root.upsert(
            key,
            &mut |entry| {
                let live = -isize::from(entry.is_live());
                if live != 0 {
                    entry.tombstone(revision.main, sub);
                }
                live
            },
            &mut || Some(Entry::restore_tombstone(key, revision.main, sub)),
        );
        self.root.grow(split);
        self.restored(revision.main);
    }

    /// The record of a key's value at revision `at`.
    pub fn get(&self, key: &[u8], at: i64) -> Option<Located> {
        self.root.get(key)?.locate(at)
    }

    /// The record of a key's present value.
    pub fn current(&self, key: &[u8]) -> Option<Prior> {
        self.root.get(key)?.current()
    }

    /// Visits keys in order, each with its record at revision `at` if it lived then. Not
    /// all dead keys are visited.
    pub fn visit<'a>(
        &'a self,
        keys: Keys<'_>,
        at: i64,
        visitor: &mut dyn FnMut(&'a [u8], Option<Located>) -> ControlFlow<()>,
    ) {
        let _ = self
            .root
            .visit(keys.from, keys.end, at >= self.last_main, &mut |entry| {
                visitor(&entry.key, entry.locate(at))
            });
    }

    /// How many keys live at revision `at`, which must not be compacted.
    ///
    /// A logarithm at the current revision. Earlier, that number is corrected by the
    /// changes since; `None` where the log of changes is too short, or longer than a walk
    /// over the keys (which is then the caller's, in as many steps as it likes).
    pub fn count(&self, keys: Keys<'_>, at: i64) -> Option<usize> {
        if keys.end.is_some_and(|end| end <= keys.from) {
            return Some(0);
        }
        let above = keys
            .end
            .map_or_else(|| self.root.live(), |end| self.root.rank(end));
        let current = above - self.root.rank(keys.from);
        if at >= self.last_main {
            return Some(current);
        }
        let changes = self
            .changes
            .since(at)
            .filter(|changes| changes.len() <= current.max(WALK_MIN))?;
        let corrected = changes.fold(current as i64, |count, change| {
            let inside = *change.key >= *keys.from && keys.end.is_none_or(|end| *change.key < *end);
            count - if inside { i64::from(change.live) } else { 0 }
        });
        Some(usize::try_from(corrected).expect("no more keys vanished than lived"))
    }

    /// Removes from one leaf, the one that holds `from`, what a reader at `at` or later
    /// does not need, and adds the removed records to `removed`, a key's oldest first. Once
    /// `removed` holds `removed_max` records it stops, within the leaf if need be.
    pub fn compact_leaf(
        &mut self,
        at: i64,
        from: &[u8],
        removed_max: usize,
        removed: &mut VecDeque<RecordKey>,
    ) -> CompactedLeaf {
        let mut looked_at = 0;
        let next = self.root.retain_in_leaf(from, &mut |entry| {
            if looked_at > 0 && removed.len() >= removed_max {
                return Retain::Stop;
            }
            looked_at += 1;
            match entry.compact(at, removed) {
                true => Retain::Keep,
                false => Retain::Remove,
            }
        });
        self.root.shrink();
        CompactedLeaf { next, looked_at }
    }

    fn changed(&mut self, key: &[u8], main: i64, live: isize) {
        assert!(
            main >= self.last_main,
            "revision {main} follows {}",
            self.last_main
        );
        self.last_main = main;
        if live != 0 {
            self.changes.push(key, main, live as i8);
        }
    }

    fn restored(&mut self, main: i64) {
        self.last_main = self.last_main.max(main);
        self.changes.forget_before(self.last_main);
    }

    #[cfg(test)]
    fn check(&self) -> usize {
        self.root.check(&[], None, true).0
    }
}

/// Up to this many changes are always cheaper than a walk, which may meet dead keys.
const WALK_MIN: usize = 256;

fn sub_of(revision: Revision) -> u32 {
    u32::try_from(revision.sub)
        .expect("the changes of a transaction are below 2^32; restore checks")
}

#[cfg(test)]
mod tests;
