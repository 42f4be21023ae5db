//! What the room's tests share: a store to try, and chance that a seed repeats.

use std::path::Path;
use std::sync::Arc;

use backend::{Backend, Committer, Options, Writer};
use seams::MemDisk;

use crate::{CompactStep, KeyValueHash, Mvcc, MvccWriter, Restored};

/// SplitMix64.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A store over a disk in memory, committed by hand.
pub(crate) struct Fixture {
    pub(crate) disk: Arc<MemDisk>,
    pub(crate) writer: Writer,
    pub(crate) committer: Committer,
    pub(crate) mvcc: Arc<Mvcc>,
    pub(crate) mvcc_writer: MvccWriter,
    pub(crate) restored: Restored,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::open(Arc::new(MemDisk::new()))
    }

    pub(crate) fn open(disk: Arc<MemDisk>) -> Self {
        let options = Options {
            growth_bytes: 1 << 16,
            map_bytes: 1 << 20,
            ..Options::default()
        };
        let (backend, mut writer, committer) =
            Backend::open(disk.clone(), Path::new("db"), options).unwrap();
        let (mvcc, mvcc_writer, restored) = Mvcc::open(backend, &mut writer).unwrap();
        Self {
            disk,
            writer,
            committer,
            mvcc,
            mvcc_writer,
            restored,
        }
    }

    /// Everything written is on the disk afterwards.
    pub(crate) fn commit(&mut self) {
        self.writer.end_local();
        self.committer.commit().unwrap();
    }

    pub(crate) fn reopen(mut self) -> Self {
        self.commit();
        let disk = self.disk.clone();
        drop(self);
        Self::open(disk)
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) -> i64 {
        let mut txn = self.mvcc_writer.txn(&mut self.writer);
        txn.put(key.to_owned().into(), value.to_owned().into(), 0)
            .unwrap();
        txn.end().unwrap().revision
    }

    pub(crate) fn delete(&mut self, key: &str, end: &str) -> usize {
        let mut txn = self.mvcc_writer.txn(&mut self.writer);
        txn.delete_range(key.as_bytes(), end.as_bytes())
            .unwrap()
            .len()
    }

    /// Compacts to the end.
    pub(crate) fn compact(&mut self, revision: i64) -> KeyValueHash {
        self.mvcc_writer
            .compact(&mut self.writer, revision)
            .unwrap();
        while self.mvcc.compaction_hash_step(7).unwrap() {}
        loop {
            match self.mvcc_writer.compact_step(&mut self.writer, 5).unwrap() {
                CompactStep::More => {}
                CompactStep::Finished { hash, .. } => return hash,
                step => panic!("unexpected {step:?}"),
            }
        }
    }
}
