//! Against database files and hashes that a real etcd 3.7.3 made (testdata/record.sh).
#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it does not expect"
)]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use api::etcdserverpb as pb;
use backend::{Backend, Bucket, Committer, Options, Writer};
use bytes::Bytes;
use mvcc::{CompactStep, Mvcc, MvccWriter, ReadView, Restored, range_request};
use seams::{Disk, MemDisk, OpenMode};

struct Store {
    writer: Writer,
    _committer: Committer,
    mvcc: Arc<Mvcc>,
    mvcc_writer: MvccWriter,
    restored: Restored,
}

fn open(file: Option<&[u8]>) -> Store {
    let disk = Arc::new(MemDisk::new());
    if let Some(bytes) = file {
        disk.open(Path::new("db"), OpenMode::Create)
            .unwrap()
            .write_all_at(bytes, 0)
            .unwrap();
    }
    let (backend, mut writer, committer) =
        Backend::open(disk, Path::new("db"), Options::default()).unwrap();
    let (mvcc, mvcc_writer, restored) = Mvcc::open(backend, &mut writer).unwrap();
    Store {
        writer,
        _committer: committer,
        mvcc,
        mvcc_writer,
        restored,
    }
}

const PLAIN: &[u8] = include_bytes!("../testdata/plain.db");
const COMPACTED: &[u8] = include_bytes!("../testdata/compacted.db");
const EMPTIED: &[u8] = include_bytes!("../testdata/emptied.db");

/// The hashes that etcd reported while it had this file.
fn expected(file: &str) -> Vec<(i64, u32, i64, i64)> {
    let lines = include_str!("../testdata/hashes.txt").lines();
    lines
        .filter_map(|line| line.strip_prefix(file)?.strip_prefix(' '))
        .map(|line| {
            let numbers: Vec<i64> = line
                .split(' ')
                .map(|number| number.parse().unwrap())
                .collect();
            (numbers[0], numbers[1] as u32, numbers[2], numbers[3])
        })
        .collect()
}

fn check_hashes(store: &Store, file: &str) {
    let expected = expected(file);
    assert!(expected.len() >= 3);
    for (asked, hash, compact_revision, revision) in expected {
        let (got, current) = store.mvcc.hash_by_revision(asked).unwrap();
        let got = (got.hash, got.compact_revision, got.revision);
        assert_eq!(got, (hash, compact_revision, revision), "{file} at {asked}");
        assert_eq!(current, store.mvcc.revision());
    }
}

fn records(writer: &Writer) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    let mut take = |key: &[u8], value: &[u8]| {
        records.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    writer.scan(Bucket::Key, &[], None, &mut take).unwrap();
    records
}

fn put(store: &mut Store, key: &str, value: &str, lease: i64) {
    let mut txn = store.mvcc_writer.txn(&mut store.writer);
    txn.put(key.to_owned().into(), value.to_owned().into(), lease)
        .unwrap();
    txn.end().unwrap();
}

fn delete(store: &mut Store, key: &str, end: &str) -> usize {
    let mut txn = store.mvcc_writer.txn(&mut store.writer);
    txn.delete_range(key.as_bytes(), end.as_bytes())
        .unwrap()
        .len()
}

fn compact(store: &mut Store, revision: i64) {
    store
        .mvcc_writer
        .compact(&mut store.writer, revision)
        .unwrap();
    while store.mvcc.compaction_hash_step(3).unwrap() {}
    while store
        .mvcc_writer
        .compact_step(&mut store.writer, 2)
        .unwrap()
        == CompactStep::More
    {}
}

/// The history of record.sh, and at each of its stations the same records and hashes.
#[test]
fn the_same_history_gives_the_same_bytes_and_hashes() {
    let plain = open(Some(PLAIN));
    let [(_, lease)] = plain.restored.leases[..] else {
        panic!("one key has a lease")
    };
    let mut store = open(None);
    put(&mut store, "foo", "bar", 0);
    put(&mut store, "foo", "bar2", 0);
    let mut txn = store.mvcc_writer.txn(&mut store.writer);
    txn.put("a".into(), "1".into(), 0).unwrap();
    txn.put("b".into(), "2".into(), 0).unwrap();
    assert_eq!(txn.delete_range(b"foo", b"").unwrap().len(), 1);
    txn.end().unwrap();
    put(&mut store, "foo", "bar3", 0);
    put(&mut store, "empty", "", 0);
    assert_eq!(delete(&mut store, "a", "c"), 2);
    put(&mut store, "café", "ü", 0);
    assert_eq!(delete(&mut store, "nothing", ""), 0);
    put(&mut store, "foo", "bar4", 0);
    put(&mut store, "a", "again", 0);
    delete(&mut store, "foo", "");
    put(&mut store, "last", "x", lease);
    assert_eq!(records(&store.writer), records(&plain.writer));
    check_hashes(&store, "plain.db");

    compact(&mut store, 11);
    put(&mut store, "foo", "new", 0);
    put(&mut store, "foo", "newer", 0);
    assert_eq!(
        records(&store.writer),
        records(&open(Some(COMPACTED)).writer)
    );
    check_hashes(&store, "compacted.db");

    assert_eq!(delete(&mut store, "\0", "\0"), 5);
    compact(&mut store, 14);
    assert_eq!(records(&store.writer), records(&open(Some(EMPTIED)).writer));
    check_hashes(&store, "emptied.db");
    for key in [b"finishedCompactRev", &b"scheduledCompactRev"[..]] {
        let etcds = open(Some(EMPTIED)).writer.get(Bucket::Meta, key).unwrap();
        assert_eq!(store.writer.get(Bucket::Meta, key).unwrap(), etcds);
    }
}

#[test]
fn a_file_of_etcd_opens_with_its_revisions_and_hashes() {
    let plain = open(Some(PLAIN));
    assert_eq!(
        (plain.mvcc.revision(), plain.mvcc.compact_revision()),
        (12, -1)
    );
    assert_eq!(plain.restored.leases.len(), 1);
    assert_eq!(plain.restored.leases[0].0, "last");
    check_hashes(&plain, "plain.db");

    let compacted = open(Some(COMPACTED));
    assert_eq!(
        (compacted.mvcc.revision(), compacted.mvcc.compact_revision()),
        (14, 11)
    );
    assert!(!compacted.mvcc.is_compacting());
    for (asked, hash, ..) in expected("compacted.db").into_iter().skip(1) {
        assert_eq!(compacted.mvcc.hash_by_revision(asked).unwrap().0.hash, hash);
    }

    let emptied = open(Some(EMPTIED));
    assert_eq!(
        (emptied.mvcc.revision(), emptied.mvcc.compact_revision()),
        (15, 14)
    );
    assert_eq!(emptied.mvcc.keys(), 0);
    check_hashes(&emptied, "restarted");
}

#[test]
fn a_file_of_etcd_answers_ranges_of_the_past() {
    let store = open(Some(PLAIN));
    let range = |revision| {
        let all = Bytes::from_static(b"\0");
        let request = pb::RangeRequest {
            key: all.clone(),
            range_end: all,
            revision,
            ..Default::default()
        };
        let response = range_request(&*store.mvcc, &request).unwrap();
        assert_eq!(
            (response.header.unwrap().revision, response.count),
            (12, response.kvs.len() as i64)
        );
        let kvs = response.kvs.into_iter();
        kvs.map(|kv| {
            (
                kv.key,
                kv.value,
                kv.create_revision,
                kv.mod_revision,
                kv.version,
            )
        })
        .collect::<Vec<_>>()
    };
    let kv = |key: &str, value: &str, create, modified, version| {
        (
            Bytes::from(key.to_owned()),
            Bytes::from(value.to_owned()),
            create,
            modified,
            version,
        )
    };
    assert_eq!(range(3), [kv("foo", "bar2", 2, 3, 2)]);
    assert_eq!(range(4), [kv("a", "1", 4, 4, 1), kv("b", "2", 4, 4, 1)]);
    assert_eq!(range(5).len(), 3);
    let now = [
        kv("a", "again", 10, 10, 1),
        kv("café", "ü", 8, 8, 1),
        kv("empty", "", 6, 6, 1),
        kv("last", "x", 12, 12, 1),
    ];
    assert_eq!(range(0), now);
    assert_eq!(ReadView::revision(&*store.mvcc), 12);
}
