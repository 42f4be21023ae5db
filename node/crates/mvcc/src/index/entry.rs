//! One key of the index and its revisions.
//!
//! The last revision stands in the entry itself, with what a put needs to continue it
//! (create revision, version). The older ones follow in a slice of 16 bytes each:
//!
//! ```text
//! older: [put 3 v1] [put 5 v2] [tombstone 9] [put 12 v1]    last: put 20 v2, created 12
//!        `------- generation 1 -----------'  `------------ generation 2 -------------'
//! ```
//!
//! A tombstone ends a generation. Compaction cuts the list from the left; what it cuts
//! away of a generation that later ends is the only thing the entry cannot derive (see
//! [`Located::origin`]).

use std::collections::VecDeque;

use crate::{RecordKey, Revision};

/// Where a key's value at some revision is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// The record.
    pub modified: Revision,
    /// The create revision and version of the key at that record. `None` where the
    /// record lies in a generation that ended and lost its beginning to a compaction or
    /// a restart; the record itself knows both.
    pub origin: Option<Origin>,
}

/// When the key was created and how often it was changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The revision at which the key's present life began.
    pub created: i64,
    /// 1 at creation, one more with each put.
    pub version: i64,
}

/// What a put or a tombstone replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prior {
    /// The record that was current until now.
    pub modified: Revision,
    /// Whether that record names a lease.
    pub leased: bool,
}

/// The version takes the low 62 bits; at a put per nanosecond they last 146 years.
const VERSION_MASK: u64 = (1 << 62) - 1;
const LEASED: u64 = 1 << 62;
const TOMBSTONE: u64 = 1 << 63;

/// An older revision's version is kept up to here; beyond, the record is asked.
const OLDER_VERSION_MAX: u32 = u32::MAX >> 1;
const OLDER_TOMBSTONE: u32 = 1 << 31;

/// 64 bytes; with its share of the node above, the key's own allocation and the slack of
/// the leaf it stays below 100 (a test counts).
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Box<[u8]>,
    /// Older revisions in ascending order in the first `older_len` places.
    older: Box<[Older]>,
    main: i64,
    /// Create revision of the last revision; 0 for a tombstone.
    created: i64,
    /// Version (0 for a tombstone), whether leased, whether a tombstone.
    state: u64,
    /// Sub-revisions count the changes of one transaction, which live in memory at once:
    /// 32 bits are enough. Restoring refuses larger ones.
    sub: u32,
    older_len: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Older {
    main: i64,
    sub: u32,
    /// The top bit marks a tombstone, the rest is the version, cut at its maximum.
    state: u32,
}

/// What a put record is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Put {
    pub(super) main: i64,
    pub(super) sub: u32,
    pub(super) leased: bool,
}

impl Entry {
    /// A key at its first put.
    pub(super) fn create(key: &[u8], put: Put) -> Self {
        Self::restore(
            key,
            put,
            Origin {
                created: put.main,
                version: 1,
            },
        )
    }

    /// A key whose first known record is this put.
    pub(super) fn restore(key: &[u8], put: Put, origin: Origin) -> Self {
        let mut entry = Self::restore_tombstone(key, put.main, put.sub);
        entry.set_last(put, origin);
        entry
    }

    /// A key whose first known record is this tombstone.
    pub(super) fn restore_tombstone(key: &[u8], main: i64, sub: u32) -> Self {
        Self {
            key: key.into(),
            older: Box::default(),
            main,
            created: 0,
            state: TOMBSTONE,
            sub,
            older_len: 0,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.state & TOMBSTONE == 0
    }

    /// The last revision as the prior of a change, if the key lives.
    pub(super) fn current(&self) -> Option<Prior> {
        self.is_live().then(|| Prior {
            modified: self.modified(),
            leased: self.state & LEASED != 0,
        })
    }

    /// What a put now would have as create revision and version.
    pub(super) fn next_origin(&self, main: i64) -> Origin {
        if self.is_live() {
            Origin {
                created: self.created,
                version: self.version() + 1,
            }
        } else {
            Origin {
                created: main,
                version: 1,
            }
        }
    }

    pub(super) fn put(&mut self, put: Put, origin: Origin) {
        self.push_older();
        self.set_last(put, origin);
    }

    pub(super) fn tombstone(&mut self, main: i64, sub: u32) {
        self.push_older();
        (self.main, self.sub, self.created, self.state) = (main, sub, 0, TOMBSTONE);
    }

    /// The record of the key's value at revision `at`.
    pub(super) fn locate(&self, at: i64) -> Option<Located> {
        if self.main <= at {
            return self.is_live().then(|| Located {
                modified: self.modified(),
                origin: Some(Origin {
                    created: self.created,
                    version: self.version(),
                }),
            });
        }
        let older = self.older();
        let place = older
            .partition_point(|revision| revision.main <= at)
            .checked_sub(1)?;
        let found = older[place];
        (!found.is_tombstone()).then(|| Located {
            modified: found.revision(),
            origin: self.origin_of(place),
        })
    }

    /// Cuts away the records that nobody who reads at `at` or later needs, and reports
    /// them, the oldest first. Answers whether anything of the entry is left.
    pub(super) fn compact(&mut self, at: i64, removed: &mut VecDeque<RecordKey>) -> bool {
        let older = self.older();
        let below = if self.main <= at {
            older.len() + 1
        } else {
            older.partition_point(|revision| revision.main <= at)
        };
        let Some(newest_below) = below.checked_sub(1) else {
            return true;
        };
        // The newest record at or below `at` stays, unless it is a tombstone below it.
        let newest = self.record(newest_below);
        let dead = newest.tombstone && newest.revision.main < at;
        let cut = if dead { below } else { newest_below };
        removed.extend((0..cut).map(|place| self.record(place)));
        if cut == older.len() + 1 {
            return false;
        }
        if cut > 0 {
            self.older = self.older()[cut..].into();
            self.older_len -= cut as u32;
        }
        true
    }

    #[cfg(test)]
    pub(super) fn older_bytes(&self) -> usize {
        self.older.len() * size_of::<Older>()
    }

    fn modified(&self) -> Revision {
        Revision {
            main: self.main,
            sub: i64::from(self.sub),
        }
    }

    fn version(&self) -> i64 {
        (self.state & VERSION_MASK) as i64
    }

    fn older(&self) -> &[Older] {
        &self.older[..self.older_len as usize]
    }

    /// The record at a place of the list; the last one follows the older ones.
    fn record(&self, place: usize) -> RecordKey {
        match self.older().get(place) {
            Some(older) => RecordKey {
                revision: older.revision(),
                tombstone: older.is_tombstone(),
            },
            None => RecordKey {
                revision: self.modified(),
                tombstone: !self.is_live(),
            },
        }
    }

    fn set_last(&mut self, put: Put, origin: Origin) {
        let leased = if put.leased { LEASED } else { 0 };
        self.state = (origin.version as u64 & VERSION_MASK) | leased;
        (self.main, self.sub, self.created) = (put.main, put.sub, origin.created);
    }

    fn push_older(&mut self) {
        let last = Older {
            main: self.main,
            sub: self.sub,
            state: match self.is_live() {
                true => (self.version() as u64).min(u64::from(OLDER_VERSION_MAX)) as u32,
                false => OLDER_TOMBSTONE,
            },
        };
        let len = self.older_len as usize;
        if len == self.older.len() {
            // Grow by an eighth: a revision costs 18 bytes at most, and a copy is rare.
            let mut grown = std::mem::take(&mut self.older).into_vec();
            grown.reserve_exact(1 + len / 8);
            grown.resize(len + 1 + len / 8, Older::default());
            self.older = grown.into_boxed_slice();
        }
        self.older[len] = last;
        self.older_len += 1;
    }

    fn origin_of(&self, place: usize) -> Option<Origin> {
        let version = self.older[place].state;
        // A put of version 0 cannot be; a damaged file may say so.
        if version == 0 || version == OLDER_VERSION_MAX {
            return None;
        }
        let version = i64::from(version);
        // The generation's first put, where the list still has it.
        if let Some(start) = (place as i64)
            .checked_sub(version - 1)
            .filter(|start| *start >= 0)
        {
            return Some(Origin {
                created: self.older[start as usize].main,
                version,
            });
        }
        // Otherwise the last revision knows, if it belongs to the same generation: then,
        // and only then, versions grew by one with every place.
        let distance = i64::from(self.older_len) - place as i64;
        (self.is_live() && self.version() - version == distance).then_some(Origin {
            created: self.created,
            version,
        })
    }
}

impl Older {
    fn is_tombstone(self) -> bool {
        self.state & OLDER_TOMBSTONE != 0
    }

    fn revision(self) -> Revision {
        Revision {
            main: self.main,
            sub: i64::from(self.sub),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_cache_line() {
        assert_eq!(size_of::<Entry>(), 64);
        assert_eq!(size_of::<Older>(), 16);
    }
}
