//! What makes a client's request bad by itself, before anything is read or proposed.
//!
//! These are etcd's checks at its gRPC door, in its order, so that a request with two faults
//! gets the same answer. The applier does not repeat them: an entry of an older member that
//! did not check is applied as etcd applies it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use api::Error;
use api::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};

/// Checks a range.
///
/// # Errors
/// No key; a sort order or target that does not exist.
pub fn check_range_request(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err()
        || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Checks a put.
///
/// # Errors
/// No key; a value or a lease although the old one is to stay.
pub fn check_put_request(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete.
///
/// # Errors
/// No key.
pub fn check_delete_request(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        Err(Error::EmptyKey)
    } else {
        Ok(())
    }
}

/// Checks a transaction: the number of its operations, each of them, and that no key is
/// changed twice. `ops_max` is `--max-txn-ops`.
///
/// # Errors
/// Too many operations; a bad operation; a key put twice, or put and deleted.
pub fn check_txn_request(request: &TxnRequest, ops_max: usize) -> Result<(), Error> {
    check_ops(request, ops_max)?;
    check_overlaps(&request.success)?;
    check_overlaps(&request.failure)?;
    Ok(())
}

/// A level has as many operations as its longest list; what it leaves of the maximum is for
/// each transaction nested in it.
fn check_ops(request: &TxnRequest, ops_max: usize) -> Result<(), Error> {
    let ops = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    let Some(rest) = ops_max.checked_sub(ops) else {
        return Err(Error::TooManyOps);
    };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range_request(range)?,
            Some(Request::RequestPut(put)) => check_put_request(put)?,
            Some(Request::RequestDeleteRange(delete)) => check_delete_request(delete)?,
            Some(Request::RequestTxn(txn)) => check_ops(txn, rest)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// What the operations of a branch change.
#[derive(Default)]
struct Changed<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Ranges<'a>,
}

/// The order of the steps decides what counts as an overlap, and is etcd's: this level's
/// deletes; then each nested transaction in turn, its two branches being exclusive; then this
/// level's puts.
fn check_overlaps(ops: &[RequestOp]) -> Result<Changed<'_>, Error> {
    let mut changed = Changed::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            changed.deletes.insert(&delete.key, &delete.range_end);
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(txn)) = &op.request else {
            continue;
        };
        let then = check_overlaps(&txn.success)?;
        let other = check_overlaps(&txn.failure)?;
        for key in &then.puts {
            if changed.puts.contains(key) || changed.deletes.contains(key) {
                return Err(Error::DuplicateKey);
            }
        }
        for key in &other.puts {
            if changed.puts.contains(key) || changed.deletes.contains(key) {
                return Err(Error::DuplicateKey);
            }
        }
        changed.puts.extend(then.puts);
        changed.puts.extend(other.puts);
        changed.deletes.extend(then.deletes);
        changed.deletes.extend(other.deletes);
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else {
            continue;
        };
        let key: &[u8] = &put.key;
        if changed.deletes.contains(key) || !changed.puts.insert(key) {
            return Err(Error::DuplicateKey);
        }
    }
    Ok(changed)
}

/// A set of keys, as ranges that do not touch each other: begin to end. Asking and inserting
/// cost a logarithm of their number, whatever a transaction with many deletes and puts asks.
#[derive(Default)]
struct Ranges<'a> {
    by_begin: BTreeMap<&'a [u8], End<'a>>,
}

/// The end of a range, outside of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End<'a> {
    /// Right after this key: the range of one key ends so.
    After(&'a [u8]),
    /// Before this key.
    Before(&'a [u8]),
}

impl<'a> End<'a> {
    /// Compares as the keys `key + "\0"` and `key` would.
    fn order(&self) -> (&'a [u8], bool) {
        match self {
            End::After(key) => (key, true),
            End::Before(key) => (key, false),
        }
    }

    /// Whether a range that ends here holds `key`, given that it begins at or before it.
    fn is_beyond(&self, key: &[u8]) -> bool {
        match self {
            End::After(last) => key <= *last,
            End::Before(end) => key < *end,
        }
    }

    fn max(self, other: End<'a>) -> End<'a> {
        // `After(k)` is `k\0`, the very next key: nothing lies between it and `Before(k\0)`.
        if self.order() >= other.order() {
            self
        } else {
            other
        }
    }
}

impl<'a> Ranges<'a> {
    /// Adds what a delete removes. etcd takes the end `"\0"` (all keys from the first on)
    /// literally here, which makes the range empty: such a delete overlaps with nothing.
    fn insert(&mut self, key: &'a [u8], range_end: &'a [u8]) {
        if range_end.is_empty() {
            self.add(key, End::After(key));
        } else if key < range_end {
            self.add(key, End::Before(range_end));
        }
    }

    fn extend(&mut self, other: Ranges<'a>) {
        for (begin, end) in other.by_begin {
            self.add(begin, end);
        }
    }

    fn add(&mut self, mut begin: &'a [u8], mut end: End<'a>) {
        if let Some((before, its_end)) = self.before(begin)
            && its_end.is_beyond(begin)
        {
            begin = before;
            end = end.max(its_end);
        }
        while let Some((next, its_end)) = self
            .by_begin
            .range::<[u8], _>((Bound::Included(begin), Bound::Unbounded))
            .next()
            && (end.is_beyond(next) || *next == begin)
        {
            end = end.max(*its_end);
            let next: &[u8] = next;
            self.by_begin.remove(next);
        }
        self.by_begin.insert(begin, end);
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.before(key).is_some_and(|(_, end)| end.is_beyond(key))
    }

    /// The last range that begins at or before `key`.
    fn before(&self, key: &[u8]) -> Option<(&'a [u8], End<'a>)> {
        let (begin, end) = self
            .by_begin
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()?;
        Some((begin, *end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seams::{Rng, SeededRng};

    /// etcd's own answers to whole transactions are in `tests/replay.rs`; here the set of
    /// ranges alone, with many more of them.
    #[test]
    fn merged_ranges_hold_what_the_single_ones_hold() {
        let mut rng = SeededRng::new(7);
        let keys: Vec<Vec<u8>> = (0..16u8)
            .flat_map(|first| [vec![first], vec![first, 0], vec![first, 1]])
            .collect();
        for round in 0..400 {
            let mut merged = Ranges::default();
            let mut single = Vec::new();
            for _ in 0..rng.below(12) {
                let begin = &keys[rng.below(48) as usize];
                let end: &[u8] = match rng.below(4) {
                    0 => &[],
                    1 => b"\0",
                    _ => &keys[rng.below(48) as usize],
                };
                merged.insert(begin, end);
                single.push((begin, end));
            }
            for key in &keys {
                let expected = single.iter().any(|(begin, end)| {
                    if end.is_empty() {
                        key == *begin
                    } else {
                        key >= *begin && &key[..] < *end
                    }
                });
                assert_eq!(
                    merged.contains(key),
                    expected,
                    "round {round}: {key:?} in {single:?}"
                );
            }
        }
    }
}
