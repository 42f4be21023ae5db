//! A step of a compaction is small, whatever there is to compact.
#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it does not expect"
)]

use std::path::Path;
use std::sync::Arc;

use backend::{Backend, Committer, Options, Writer};
use mvcc::{
    COMPACT_STEP_RECORDS, CompactStep, CompactWork, Mvcc, MvccWriter, RangeOptions, ReadView,
};
use seams::MemDisk;

/// Entries of a leaf of the index: what a step may look at beyond its budget.
const LEAF: usize = 96;

struct Store {
    writer: Writer,
    _committer: Committer,
    mvcc: Arc<Mvcc>,
    mvcc_writer: MvccWriter,
}

fn open() -> Store {
    let options = Options {
        pending_bytes_max: usize::MAX,
        ..Options::default()
    };
    let (backend, mut writer, committer) =
        Backend::open(Arc::new(MemDisk::new()), Path::new("db"), options).unwrap();
    let (mvcc, mvcc_writer, _) = Mvcc::open(backend, &mut writer).unwrap();
    Store {
        writer,
        _committer: committer,
        mvcc,
        mvcc_writer,
    }
}

impl Store {
    /// One revision for each key, or for all of them.
    fn put(&mut self, keys: usize, at_once: usize) {
        let mut left = 0..keys;
        while !left.is_empty() {
            let mut txn = self.mvcc_writer.txn(&mut self.writer);
            for key in left.by_ref().take(at_once) {
                let key = format!("{key:08}").into();
                txn.put(key, "v".into(), 0).unwrap();
            }
            txn.end().unwrap();
            self.writer.end_local();
        }
    }

    fn delete_all(&mut self) -> usize {
        let mut txn = self.mvcc_writer.txn(&mut self.writer);
        let deleted = txn.delete_range(b"0", b"\0").unwrap().len();
        txn.end().unwrap();
        self.writer.end_local();
        deleted
    }

    /// What each step of a compaction to the current revision did.
    fn compact(&mut self, keep_going: &mut dyn FnMut() -> bool) -> Vec<CompactWork> {
        let revision = self.mvcc.revision();
        self.mvcc_writer
            .compact(&mut self.writer, revision)
            .unwrap();
        while self.mvcc.compaction_hash_step(10_000).unwrap() {}
        let mut steps = Vec::new();
        loop {
            let work = self
                .mvcc_writer
                .compact_step_while(&mut self.writer, COMPACT_STEP_RECORDS, keep_going)
                .unwrap();
            self.writer.end_local();
            steps.push(work);
            if work.step != CompactStep::More {
                assert!(
                    matches!(work.step, CompactStep::Finished { .. }),
                    "{work:?}"
                );
                return steps;
            }
        }
    }
}

fn removed(steps: &[CompactWork]) -> usize {
    let counted = steps.iter().map(|work| work.deleted).sum();
    let CompactStep::Finished { removed, .. } = steps.last().unwrap().step else {
        panic!("not finished: {steps:?}");
    };
    assert_eq!(removed, counted);
    removed
}

#[test]
fn a_step_looks_at_few_keys_where_nothing_goes_and_where_everything_goes() {
    const KEYS: usize = 120_000;
    /// Keys that a step may look at.
    const LOOK_MAX: usize = 8 * COMPACT_STEP_RECORDS + LEAF;
    let check = |steps: &[CompactWork]| {
        for work in steps {
            assert!(work.looked_at <= LOOK_MAX, "{work:?}");
            assert!(work.deleted <= COMPACT_STEP_RECORDS, "{work:?}");
        }
    };
    let mut store = open();
    store.put(KEYS, 100);
    // Nothing goes.
    let steps = store.compact(&mut || true);
    check(&steps);
    assert_eq!(removed(&steps), 0);
    assert_eq!(steps.iter().map(|work| work.looked_at).sum::<usize>(), KEYS);
    assert!(steps.len() >= KEYS / LOOK_MAX, "{} steps", steps.len());
    // Every key keeps its last record and loses one.
    store.put(KEYS, 100);
    let steps = store.compact(&mut || true);
    check(&steps);
    assert_eq!(removed(&steps), KEYS);
    assert!(steps.len() >= KEYS / COMPACT_STEP_RECORDS);
    // No key stays: both its put and its tombstone go.
    assert_eq!(store.delete_all(), KEYS);
    store.put(1, 1);
    let steps = store.compact(&mut || true);
    check(&steps);
    assert_eq!(removed(&steps), 2 * KEYS);
    assert_eq!(store.mvcc.keys(), 1);
}

#[test]
fn a_step_ends_when_its_time_is_over_but_does_something() {
    let mut store = open();
    store.put(3000, 100);
    store.put(3000, 100);
    let steps = store.compact(&mut || false);
    assert_eq!(removed(&steps), 3000);
    for work in &steps {
        assert!(work.deleted <= 32, "{work:?}");
        assert!(work.looked_at <= LEAF, "{work:?}");
        assert!(work.looked_at + work.deleted > 0 || work.step != CompactStep::More);
    }
}

#[test]
fn one_key_with_very_many_revisions_is_forgotten_at_once_and_deleted_in_steps() {
    let mut store = open();
    for _ in 0..20_000 {
        store.put(1, 1);
    }
    let steps = store.compact(&mut || true);
    assert_eq!(removed(&steps), 19_999);
    assert!(
        steps
            .iter()
            .all(|work| work.deleted <= COMPACT_STEP_RECORDS)
    );
}

/// A range that is deleted, and counts at revisions before that: the work grows with the number
/// of keys, not with its square.
#[test]
fn very_many_keys_are_deleted_and_counted_in_time_that_grows_with_their_number() {
    let took = |keys: usize| {
        let mut store = open();
        store.put(keys, 1000);
        let before = store.mvcc.revision();
        let began = std::time::Instant::now();
        assert_eq!(store.delete_all(), keys);
        for back in 0..10 {
            let options = RangeOptions {
                key: b"0",
                end: b"\0",
                revision: before - back,
                count_only: true,
                ..RangeOptions::default()
            };
            let count = store.mvcc.range(&options).unwrap().count as usize;
            assert_eq!(count, keys - 1000 * back as usize);
        }
        began.elapsed()
    };
    // The best of two, since others use the machine too.
    let best = |keys| (0..2).map(|_| took(keys)).min().unwrap();
    let (few, many) = (best(10_000), best(80_000));
    // Eight times as many: with a quadratic step it would be 64 times as long.
    assert!(many < few * 24, "{few:?} for 10000, {many:?} for 80000");
}
