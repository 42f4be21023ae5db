//! What the index costs in memory, as the allocator counts it: its headers, its least chunk and
//! its rounding too. The only test of this program, since the count is the process'.
#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it does not expect"
)]

use std::path::Path;
use std::sync::Arc;

use backend::{Backend, Committer, Options, Writer};
use mvcc::{Mvcc, MvccWriter};
use seams::RealDisk;

/// Keys that are there before the count begins: they fill what has a fixed size.
const BEFORE: usize = 10_000;
/// Keys that are counted.
const KEYS: usize = 24_000;
/// Further revisions of each of them.
const FURTHER: usize = 4;

/// Bytes in use on the heap.
fn in_use() -> usize {
    // SAFETY: mallinfo2 takes nothing and only reads the allocator's counters, under its locks.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

struct Store {
    backend: Backend,
    writer: Writer,
    committer: Committer,
    mvcc: Option<(Arc<Mvcc>, MvccWriter)>,
}

fn open(dir: &Path) -> Store {
    let options = Options {
        pending_bytes_max: usize::MAX,
        ..Options::default()
    };
    let (backend, writer, committer) =
        Backend::open(Arc::new(RealDisk), &dir.join("db"), options).unwrap();
    Store {
        backend,
        writer,
        committer,
        mvcc: None,
    }
}

impl Store {
    fn put(&mut self, keys: impl Iterator<Item = String>) {
        let (_, mvcc_writer) = self.mvcc.get_or_insert_with(|| {
            let (mvcc, mvcc_writer, _) =
                Mvcc::open(self.backend.clone(), &mut self.writer).unwrap();
            (mvcc, mvcc_writer)
        });
        let mut keys = keys.peekable();
        while keys.peek().is_some() {
            let mut txn = mvcc_writer.txn(&mut self.writer);
            for key in keys.by_ref().take(1000) {
                txn.put(key.into(), "v".into(), 0).unwrap();
            }
            txn.end().unwrap();
            self.writer.end_local();
        }
        self.committer.commit().unwrap();
    }

    /// The bytes that come back when the index, and it alone, is let go of.
    fn weigh(&mut self) -> isize {
        let before = in_use();
        drop(self.mvcc.take());
        before.cast_signed() - in_use().cast_signed()
    }
}

/// At most 100 bytes per key beside the key, 24 per further revision, whatever the order.
#[test]
fn a_key_costs_100_bytes_beside_itself_and_a_further_revision_24() {
    let dir = tempfile::tempdir().unwrap();
    let mut over = Vec::new();
    for scattered in [false, true] {
        for key_len in [8usize, 16, 40] {
            let place = dir.path().join(format!("{scattered}{key_len}"));
            std::fs::create_dir(&place).unwrap();
            let mut store = open(&place);
            let number = |at: usize| match scattered {
                false => at,
                // The two factors' only common divisor is 1: every number comes once.
                true => at * 7919 % (BEFORE + KEYS),
            };
            let keys =
                |of: std::ops::Range<usize>| of.map(move |at| format!("{:0key_len$}", number(at)));
            store.put(keys(0..BEFORE));
            let fixed = store.weigh();
            store.put(std::iter::empty());
            // Restored: without the log of the last changes.
            let restored = store.weigh();
            for further in 0..=FURTHER {
                store.put(keys(BEFORE..BEFORE + KEYS));
                let base = if further == 0 { fixed } else { restored };
                let per_key = (store.weigh() - base) as f64 / KEYS as f64 - key_len as f64;
                let budget = (100 + 24 * further) as f64;
                println!(
                    "scattered {scattered}, key of {key_len}: {per_key:.1} bytes beside it with {further} further revisions, of {budget}"
                );
                // Half of it at least, or the measuring is wrong.
                if !(budget / 2.0..=budget).contains(&per_key) {
                    over.push((scattered, key_len, further, per_key, budget));
                }
            }
        }
    }
    assert!(over.is_empty(), "{over:?}");
}
