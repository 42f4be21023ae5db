//! Reads: the index names the records, the backend has them.
//!
//! A range is read in stretches. For each, the lock on the state is held while the index
//! is asked, and no longer; the records are fetched without it. All stretches read at the
//! revision found at the first. A compaction may pass that revision meanwhile and remove a
//! record: a read of the current revision then begins anew, one of a given revision fails
//! as compacted.

use std::ops::ControlFlow;

use api::mvccpb::KeyValue;
use backend::{Bucket, View, Writer};
use bytes::Bytes;

use crate::index::{Index, Keys, Located};
use crate::store::State;
use crate::{Error, Mvcc, RecordKey, Revision, record};

/// Entries of the index walked under one lock: some 50 µs.
const WALK_MAX: usize = 1024;

/// What to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeOptions<'a> {
    /// The key, or the first key of the range.
    pub key: &'a [u8],
    /// Empty for the one key; `"\0"` for all keys from `key` on; else the first key after
    /// the range, which is empty if that is not above `key`.
    pub end: &'a [u8],
    /// The revision to read at; 0 or less for the current one.
    pub revision: i64,
    /// At most so many key-value pairs; 0 or less for all.
    pub limit: i64,
    /// Only the number of keys.
    pub count_only: bool,
    /// Keys, revisions and versions from the index alone: no value, no lease.
    pub keys_only: bool,
    /// Count all keys of the range also where the limit cuts it short.
    pub total_count: bool,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeResult {
    /// The pairs, in key order.
    pub kvs: Vec<KeyValue>,
    /// Keys in the range with `total_count` or `count_only`, else pairs in `kvs`.
    pub count: i64,
    /// The current revision of the store, also for a read of an older one.
    pub revision: i64,
}

impl<'a> RangeOptions<'a> {
    /// The one key at the current revision.
    pub fn key(key: &'a [u8]) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    fn keys(&self) -> Keys<'a> {
        Keys {
            from: self.key,
            end: (self.end != b"\0").then_some(self.end),
        }
    }

    fn wants_one_record(&self) -> bool {
        self.end.is_empty() && !self.count_only && !self.keys_only
    }

    fn limit(&self) -> usize {
        if self.limit > 0 {
            usize::try_from(self.limit).unwrap_or(usize::MAX)
        } else {
            usize::MAX
        }
    }
}

/// A store that can be read: the shared one, or a transaction's view of it.
pub trait ReadView {
    /// Reads a range.
    fn range(&self, options: &RangeOptions<'_>) -> Result<RangeResult, Error>;
    /// The revision that a read of "now" reads at.
    fn revision(&self) -> i64;
    /// The revision below which nothing can be read.
    fn compact_revision(&self) -> i64;

    /// Whether a read at this revision would succeed: what a transaction asks for all its
    /// ranges before its first change.
    fn check_revision(&self, revision: i64) -> Result<(), Error> {
        crate::store::check_revision(revision, self.revision(), self.compact_revision()).map(drop)
    }
}

impl ReadView for Mvcc {
    fn range(&self, options: &RangeOptions<'_>) -> Result<RangeResult, Error> {
        loop {
            match self.try_range(options, None)? {
                Some(result) => return Ok(result),
                None if options.revision > 0 => return Err(Error::Compacted),
                None => {}
            }
        }
    }

    fn revision(&self) -> i64 {
        Mvcc::revision(self)
    }

    fn compact_revision(&self) -> i64 {
        Mvcc::compact_revision(self)
    }
}

/// Reads that all see one revision: for a transaction without changes.
///
/// It holds nothing. If a compaction passes its revision, its reads fail as compacted, and
/// a transaction that did not ask for that revision itself begins anew with another view.
#[derive(Clone, Copy, Debug)]
pub struct PinnedView<'a> {
    mvcc: &'a Mvcc,
    revision: i64,
    compacted: i64,
}

impl Mvcc {
    /// A view of the current revision.
    pub fn pin(&self) -> PinnedView<'_> {
        let state = self.state.read();
        PinnedView {
            mvcc: self,
            revision: state.current,
            compacted: state.compacted,
        }
    }

    /// The one key's value; the hot path. Also answers the current revision.
    pub fn get(&self, key: &[u8], revision: i64) -> Result<(Option<KeyValue>, i64), Error> {
        loop {
            match self.try_get(key, revision, None)? {
                Some(found) => return Ok(found),
                None if revision > 0 => return Err(Error::Compacted),
                None => {}
            }
        }
    }

    /// `None` if the record vanished: a compaction passed the revision meanwhile.
    fn try_get(
        &self,
        key: &[u8],
        revision: i64,
        pinned: Option<i64>,
    ) -> Result<Option<(Option<KeyValue>, i64)>, Error> {
        let (view, modified, current) = {
            let state = self.state.read();
            let current = pinned.unwrap_or(state.current);
            let at = crate::store::check_revision(revision, current, state.compacted)?;
            match state.index.get(key, at) {
                None => return Ok(Some((None, current))),
                Some(located) => (state.backend.view(), located.modified, current),
            }
        };
        let kv = fetch(&view, modified)?;
        if kv.is_none() {
            self.vanished(modified, if revision > 0 { revision } else { current })?;
        }
        Ok(kv.map(|kv| (Some(kv), current)))
    }

    fn try_range(
        &self,
        options: &RangeOptions<'_>,
        pinned: Option<i64>,
    ) -> Result<Option<RangeResult>, Error> {
        if options.wants_one_record() {
            let found = self.try_get(options.key, options.revision, pinned)?;
            return Ok(found.map(|(kv, revision)| RangeResult {
                count: i64::from(kv.is_some()),
                kvs: kv.into_iter().collect(),
                revision,
            }));
        }
        let lookup = Lookup::new(options);
        let (view, current, at, mut stretch, mut total) = {
            let state = self.state.read();
            let current = pinned.unwrap_or(state.current);
            let at = crate::store::check_revision(options.revision, current, state.compacted)?;
            let total = lookup.total(&state.index, at);
            let stretch = match options.count_only {
                true => Stretch::default(),
                false => lookup.stretch(&state.index, at, None, lookup.limit, WALK_MAX),
            };
            (state.backend.view(), current, at, stretch, total)
        };
        let mut kvs = Vec::with_capacity(stretch.found.len());
        loop {
            for found in stretch.found {
                let modified = found.located.modified;
                match found.pair(|| fetch(&view, modified))? {
                    Some(kv) => kvs.push(kv),
                    None => return self.vanished(modified, at).map(|()| None),
                }
            }
            let Some(next) = stretch.next.filter(|_| kvs.len() < lookup.limit) else {
                break;
            };
            let state = self.state.read();
            if at < state.compacted {
                return Ok(None);
            }
            stretch = lookup.stretch(
                &state.index,
                at,
                Some(&next),
                lookup.limit - kvs.len(),
                WALK_MAX,
            );
        }
        if total.is_none() && (options.count_only || options.total_count) {
            let Some(walked) = self.walk_count(&lookup, at) else {
                return Ok(None);
            };
            total = Some(walked);
        }
        let count = total.unwrap_or(kvs.len()) as i64;
        Ok(Some(RangeResult {
            kvs,
            count,
            revision: current,
        }))
    }

    /// Counts where the index cannot tell; `None` if a compaction came in between.
    fn walk_count(&self, lookup: &Lookup<'_>, at: i64) -> Option<usize> {
        let (mut count, mut next) = (0, None::<Box<[u8]>>);
        loop {
            let state = self.state.read();
            if at < state.compacted {
                return None;
            }
            let stretch = lookup.count_stretch(&state.index, at, next.as_deref(), WALK_MAX);
            count += stretch.0;
            match stretch.1 {
                None => return Some(count),
                more => next = more,
            }
        }
    }

    /// A record was not there: right if a compaction passed the revision read at.
    fn vanished(&self, modified: Revision, at: i64) -> Result<(), Error> {
        if at < Mvcc::compact_revision(self) {
            Ok(())
        } else {
            Err(Error::MissingRecord { at: modified })
        }
    }
}

impl ReadView for PinnedView<'_> {
    fn range(&self, options: &RangeOptions<'_>) -> Result<RangeResult, Error> {
        self.mvcc
            .try_range(options, Some(self.revision))?
            .ok_or(Error::Compacted)
    }

    fn revision(&self) -> i64 {
        self.revision
    }

    fn compact_revision(&self) -> i64 {
        self.compacted
    }
}

/// Reads inside a write transaction, which has the state and the writer to itself.
pub(crate) fn range_inside(
    state: &State,
    writer: &Writer,
    current: i64,
    options: &RangeOptions<'_>,
) -> Result<RangeResult, Error> {
    let at = crate::store::check_revision(options.revision, current, state.compacted)?;
    let record = |modified: Revision| match writer.get(Bucket::Key, &modified.to_bytes())? {
        Some(bytes) => record::decode(modified, bytes).map(Some),
        None => Err(Error::MissingRecord { at: modified }),
    };
    if options.wants_one_record() {
        let located = state.index.get(options.key, at);
        let kv = located.map_or(Ok(None), |located| record(located.modified))?;
        return Ok(RangeResult {
            count: i64::from(kv.is_some()),
            kvs: kv.into_iter().collect(),
            revision: current,
        });
    }
    let lookup = Lookup::new(options);
    let mut result = RangeResult {
        revision: current,
        ..RangeResult::default()
    };
    let total = lookup.total(&state.index, at);
    if !options.count_only {
        for found in lookup
            .stretch(&state.index, at, None, lookup.limit, usize::MAX)
            .found
        {
            let modified = found.located.modified;
            result.kvs.extend(found.pair(|| record(modified))?);
        }
    }
    result.count = match total {
        Some(total) => total,
        None if options.count_only || options.total_count => {
            lookup.count_stretch(&state.index, at, None, usize::MAX).0
        }
        None => result.kvs.len(),
    } as i64;
    Ok(result)
}

fn fetch(view: &View, modified: Revision) -> Result<Option<KeyValue>, Error> {
    match view.get(Bucket::Key, &modified.to_bytes())? {
        Some(bytes) => record::decode(modified, bytes).map(Some),
        None => Ok(None),
    }
}

/// A range in terms of the index.
struct Lookup<'a> {
    keys: Keys<'a>,
    single: bool,
    limit: usize,
    keys_only: bool,
    wants_total: bool,
}

/// What one walk over the index found, and the key at which to go on.
#[derive(Default)]
struct Stretch {
    found: Vec<Found>,
    next: Option<Box<[u8]>>,
}

struct Found {
    located: Located,
    /// Copied only where the record need not be read.
    key: Option<Bytes>,
}

impl Found {
    /// The pair: from the index if it is wanted without its value and the index can tell.
    fn pair(
        self,
        record: impl FnOnce() -> Result<Option<KeyValue>, Error>,
    ) -> Result<Option<KeyValue>, Error> {
        match (self.key, self.located.origin) {
            (None, _) => record(),
            (Some(key), Some(origin)) => Ok(Some(KeyValue {
                key,
                create_revision: origin.created,
                mod_revision: self.located.modified.main,
                version: origin.version,
                ..KeyValue::default()
            })),
            (Some(_), None) => Ok(record()?.map(|kv| KeyValue {
                value: Bytes::new(),
                lease: 0,
                ..kv
            })),
        }
    }
}

impl<'a> Lookup<'a> {
    fn new(options: &RangeOptions<'a>) -> Self {
        Self {
            keys: options.keys(),
            single: options.end.is_empty(),
            limit: options.limit(),
            keys_only: options.keys_only,
            wants_total: options.count_only || options.total_count,
        }
    }

    /// The number of keys in the range, where it is wanted and cheap.
    fn total(&self, index: &Index, at: i64) -> Option<usize> {
        match self.single {
            true => Some(usize::from(index.get(self.keys.from, at).is_some())),
            false if self.wants_total => index.count(self.keys, at),
            false => None,
        }
    }

    fn stretch(
        &self,
        index: &Index,
        at: i64,
        from: Option<&[u8]>,
        limit: usize,
        walk_max: usize,
    ) -> Stretch {
        let mut stretch = Stretch::default();
        let found = |key: &[u8], located| Found {
            located,
            key: self.keys_only.then(|| Bytes::copy_from_slice(key)),
        };
        if self.single {
            let located = index.get(self.keys.from, at);
            stretch
                .found
                .extend(located.map(|located| found(self.keys.from, located)));
            return stretch;
        }
        let keys = Keys {
            from: from.unwrap_or(self.keys.from),
            end: self.keys.end,
        };
        let mut walked = 0;
        index.visit(keys, at, &mut |key, located| {
            if walked == walk_max || stretch.found.len() == limit {
                stretch.next = Some(key.into());
                return ControlFlow::Break(());
            }
            walked += 1;
            stretch
                .found
                .extend(located.map(|located| found(key, located)));
            ControlFlow::Continue(())
        });
        stretch
    }

    fn count_stretch(
        &self,
        index: &Index,
        at: i64,
        from: Option<&[u8]>,
        walk_max: usize,
    ) -> (usize, Option<Box<[u8]>>) {
        let keys = Keys {
            from: from.unwrap_or(self.keys.from),
            end: self.keys.end,
        };
        let (mut count, mut walked, mut next) = (0, 0, None);
        index.visit(keys, at, &mut |key, located| {
            if walked == walk_max {
                next = Some(key.into());
                return ControlFlow::Break(());
            }
            walked += 1;
            count += usize::from(located.is_some());
            ControlFlow::Continue(())
        });
        (count, next)
    }
}

/// The record key of a put, for those who read records themselves.
pub(crate) fn put_key(revision: Revision) -> RecordKey {
    RecordKey {
        revision,
        tombstone: false,
    }
}
