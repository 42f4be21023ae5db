//! The database against a naive model, on a disk that forgets, on damaged files, and beside bbolt.
//! A failure prints its seed; `QUORATE_SEED_FIRST=<n> QUORATE_SEEDS=1 cargo test -p backend <name>` repeats it.
#![expect(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod crash;
mod damage;
mod defragment;
mod etcd;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backend::{Backend, Bucket, Committer, Defragmented, Error, Options, Snapshot, View, Writer};
use bytes::Bytes;
use seams::{Disk, Fault, FaultOperation, MemDisk, OpenMode, RealDisk, Rng, SeededRng};

/// What the database should hold.
type Model = BTreeMap<Bucket, BTreeMap<Vec<u8>, Bytes>>;

const PATH: &str = "db";

struct Store {
    backend: Backend,
    writer: Writer,
    committer: Committer,
    model: Model,
    index: u64,
}

fn options(page_bytes: usize) -> Options {
    Options {
        page_bytes,
        growth_bytes: 64 << 10,
        map_bytes: 1 << 20,
        pending_bytes_max: usize::MAX,
        ..Options::default()
    }
}

impl Store {
    fn open(disk: &MemDisk, page_bytes: usize, model: Model) -> Result<Store, Error> {
        let (backend, writer, committer) =
            Backend::open(Arc::new(disk.clone()), Path::new(PATH), options(page_bytes))?;
        let index = backend.committed_index();
        Ok(Store {
            backend,
            writer,
            committer,
            model,
            index,
        })
    }

    fn put(&mut self, bucket: Bucket, key: &[u8], value: Bytes) {
        self.writer.put(bucket, key, value.clone());
        self.model
            .entry(bucket)
            .or_default()
            .insert(key.to_vec(), value);
    }

    fn delete(&mut self, bucket: Bucket, key: &[u8]) {
        self.writer.delete(bucket, key);
        self.model.entry(bucket).or_default().remove(key);
    }

    /// An entry of the log ends: index and term are in the model, as the file will have them.
    fn end_entry(&mut self) {
        self.index += 1;
        self.writer.end_entry(self.index, 7);
        let meta = self.model.entry(Bucket::Meta).or_default();
        meta.insert(
            backend::CONSISTENT_INDEX_KEY.to_vec(),
            Bytes::copy_from_slice(&self.index.to_be_bytes()),
        );
        meta.insert(
            backend::TERM_KEY.to_vec(),
            Bytes::copy_from_slice(&7u64.to_be_bytes()),
        );
    }

    fn commit(&mut self) {
        assert_eq!(self.committer.commit().unwrap(), self.index);
        assert_eq!(self.backend.committed_index(), self.index);
    }

    /// Some random changes, as one entry.
    fn random_entry(&mut self, rng: &mut SeededRng, large: bool) {
        for _ in 0..rng.below(40) {
            let bucket = Bucket::ALL[rng.below(10) as usize];
            if bucket == Bucket::Key && rng.one_in(2) {
                // Revisions rise.
                let key = [
                    &self.index.to_be_bytes()[..],
                    b"_",
                    &rng.next_u64().to_be_bytes(),
                ]
                .concat();
                let value = random_value(rng, large);
                self.put(bucket, &key, value);
            } else if rng.one_in(3) {
                let keys: Vec<Vec<u8>> = self
                    .model
                    .get(&bucket)
                    .into_iter()
                    .flatten()
                    .map(|(key, _)| key.clone())
                    .collect();
                for _ in 0..rng.below(30) {
                    if !keys.is_empty() {
                        let key = keys[rng.below(keys.len() as u64) as usize].clone();
                        self.delete(bucket, &key);
                    }
                }
            } else {
                let key = random_key(rng);
                let value = random_value(rng, large);
                self.put(bucket, &key, value);
            }
        }
        if rng.one_in(40) {
            let bucket = Bucket::ALL[rng.below(10) as usize];
            let keys: Vec<Vec<u8>> = self
                .model
                .get(&bucket)
                .into_iter()
                .flatten()
                .map(|(key, _)| key.clone())
                .collect();
            for key in keys {
                self.delete(bucket, &key);
            }
        }
        self.end_entry();
    }
}

/// Opens a file on the real disk. Other tests of this process start programs meanwhile: between fork
/// and exec a child has our file open too, and with it the lock for a moment after we let go of it.
fn open_real(path: &Path, options: Options) -> (Backend, Writer, Committer) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Backend::open(Arc::new(RealDisk), path, options.clone()) {
            Err(Error::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            result => return result.unwrap(),
        }
    }
}

fn random_key(rng: &mut SeededRng) -> Vec<u8> {
    let len = match rng.below(20) {
        0 => 1 + rng.below(600),
        1..4 => 1 + rng.below(2),
        _ => 1 + rng.below(24),
    };
    let mut key = vec![0; len as usize];
    rng.fill(&mut key);
    key
}

fn random_value(rng: &mut SeededRng, large: bool) -> Bytes {
    let len = match rng.below(60) {
        0 if large => rng.below(200_000),
        1..4 => rng.below(9000),
        4..20 => rng.below(4),
        _ => rng.below(300),
    };
    let mut value = vec![0; len as usize];
    rng.fill(&mut value);
    value.into()
}

fn scan_all(view: &View, bucket: Bucket, from: &[u8], to: Option<&[u8]>) -> Vec<(Vec<u8>, Bytes)> {
    let mut seen = Vec::new();
    view.scan(bucket, from, to, &mut |key, value| {
        seen.push((key.to_vec(), Bytes::copy_from_slice(value)));
        ControlFlow::Continue(())
    })
    .unwrap();
    seen
}

fn assert_holds(view: &View, model: &Model) {
    for bucket in Bucket::ALL {
        let empty = BTreeMap::new();
        let expected = model.get(&bucket).unwrap_or(&empty);
        let seen = scan_all(view, bucket, &[], None);
        assert_eq!(seen.len(), expected.len(), "keys in {bucket:?}");
        for ((key, value), (expected_key, expected_value)) in seen.iter().zip(expected) {
            assert_eq!(
                key.escape_ascii().to_string(),
                expected_key.escape_ascii().to_string(),
                "in {bucket:?}"
            );
            assert!(
                value == expected_value,
                "value of {} in {bucket:?}",
                key.escape_ascii()
            );
        }
    }
}

fn holds(view: &View, model: &Model) -> bool {
    Bucket::ALL.into_iter().all(|bucket| {
        let expected = model
            .get(&bucket)
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()));
        scan_all(view, bucket, &[], None).into_iter().eq(expected)
    })
}

/// The index and term are only in the batch when it is handed over.
fn without_applied(model: &Model, committed: &View) -> Model {
    let mut model = model.clone();
    let meta = model.entry(Bucket::Meta).or_default();
    for key in [backend::CONSISTENT_INDEX_KEY, backend::TERM_KEY] {
        match committed.get(Bucket::Meta, key).unwrap() {
            Some(value) => meta.insert(key.to_vec(), value),
            None => meta.remove(key),
        };
    }
    model
}

fn seeds(count: u64) -> seams::Seeds {
    seams::seeds(1..count + 1)
}

fn copy_out(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 10_000];
    loop {
        let count = snapshot.read_at(bytes.len() as u64, &mut piece).unwrap();
        if count == 0 {
            assert_eq!(bytes.len() as u64, snapshot.len());
            return bytes;
        }
        bytes.extend_from_slice(&piece[..count]);
    }
}

fn disk_with(bytes: &[u8]) -> MemDisk {
    let disk = MemDisk::new();
    let file = disk.open(Path::new(PATH), OpenMode::CreateNew).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    disk
}

fn file_bytes(disk: &MemDisk) -> Vec<u8> {
    let file = disk.open(Path::new(PATH), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn random_batches_read_back_like_the_model() {
    for seed in seeds(12) {
        let mut rng = SeededRng::new(seed);
        let page_bytes = [1024, 4096, 4096, 16384, 65536][rng.below(5) as usize];
        let disk = MemDisk::new();
        let mut store = Store::open(&disk, page_bytes, Model::new()).unwrap();
        // Views with what they must show for as long as they live.
        let mut held: Vec<(View, Model)> = Vec::new();
        let mut snapshots: Vec<(Snapshot, Model)> = Vec::new();
        for _ in 0..120 {
            store.random_entry(&mut rng, true);
            match rng.below(10) {
                0 => {
                    let seen = without_applied(&store.model, &store.backend.view());
                    assert_holds(&store.backend.view(), &seen);
                }
                1..5 => {
                    let view = store.backend.view();
                    store.commit();
                    if rng.one_in(3) {
                        // Its pending batch was handed over: nothing can be added to it any more.
                        held.push((view, store.model.clone()));
                    }
                    if rng.one_in(10) {
                        snapshots.push((store.backend.snapshot(), store.model.clone()));
                    }
                }
                5 if rng.one_in(4) => {
                    store.commit();
                    held.clear();
                    snapshots.clear();
                    let Store {
                        backend,
                        writer,
                        committer,
                        model,
                        ..
                    } = store;
                    drop((backend, writer, committer));
                    store = Store::open(&disk, page_bytes, model).unwrap();
                    assert_holds(&store.backend.view(), &store.model);
                }
                6 if rng.one_in(4) => {
                    store.commit();
                    store.committer.defragment().unwrap();
                    assert_holds(&store.backend.view(), &store.model);
                }
                _ => {}
            }
            if !held.is_empty() && rng.one_in(3) {
                let (view, model) = held.swap_remove(rng.below(held.len() as u64) as usize);
                assert_holds(&view, &model);
            }
            if !snapshots.is_empty() && rng.one_in(6) {
                let (snapshot, model) = snapshots.swap_remove(0);
                let copy = disk_with(&copy_out(&snapshot));
                let copy = Store::open(&copy, 4096, model).unwrap();
                assert_holds(&copy.backend.view(), &copy.model);
                assert_eq!(copy.backend.size_bytes(), snapshot.len());
            }
        }
        for (view, model) in &held {
            assert_holds(view, model);
        }
    }
}

#[test]
fn trees_of_many_leaves_grow_and_shrink_like_the_model() {
    for seed in seeds(8) {
        let mut rng = SeededRng::new(seed);
        let disk = MemDisk::new();
        let mut store = Store::open(&disk, 1024, Model::new()).unwrap();
        let bucket = [Bucket::Key, Bucket::Lease][rng.below(2) as usize];
        for round in 0..60 {
            // Long stretches go and come, so that leaves empty, join and split at every place.
            let shrinking = round / 10 % 2 == 1;
            for _ in 0..1 + rng.below(4) {
                let from = rng.below(4000);
                let (len, step) = (rng.below(600), 1 + rng.below(4));
                for key in (from..from + len).step_by(step as usize) {
                    let key = key.to_be_bytes();
                    if rng.below(10) < if shrinking { 8 } else { 2 } {
                        store.delete(bucket, &key);
                    } else {
                        let bytes_max = if rng.one_in(50) { 2000 } else { 60 };
                        let value = vec![rng.next_u64() as u8; rng.below(bytes_max) as usize];
                        store.put(bucket, &key, value.into());
                    }
                }
            }
            store.end_entry();
            store.commit();
            assert_holds(&store.backend.view(), &store.model);
            if rng.one_in(3) {
                // The walk at open finds every page once, every key in order.
                let in_use = store.backend.size_in_use_bytes();
                let again = Store::open(&disk.crashed(&mut rng), 1024, Model::new()).unwrap();
                assert_holds(&again.backend.view(), &store.model);
                assert_eq!(again.backend.size_in_use_bytes(), in_use);
            }
        }
    }
}

#[test]
fn ranges_and_single_keys_read_like_the_model() {
    let mut rng = SeededRng::new(5);
    let disk = MemDisk::new();
    let mut store = Store::open(&disk, 1024, Model::new()).unwrap();
    for _ in 0..60 {
        store.random_entry(&mut rng, false);
        if rng.one_in(3) {
            store.commit();
        }
        let view = store.writer.view();
        for _ in 0..20 {
            let bucket = Bucket::ALL[rng.below(10) as usize];
            if bucket == Bucket::Meta {
                continue;
            }
            let empty = BTreeMap::new();
            let model = store.model.get(&bucket).unwrap_or(&empty);
            let (from, to) = (random_key(&mut rng), random_key(&mut rng));
            let expected: Vec<_> = match from < to {
                true => model
                    .range(from.clone()..to.clone())
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
                false => Vec::new(),
            };
            assert!(scan_all(&view, bucket, &from, Some(&to)) == expected);
            let key = match model.keys().nth(rng.below(1 + model.len() as u64) as usize) {
                Some(key) => key.clone(),
                None => from,
            };
            assert_eq!(view.get(bucket, &key).unwrap().as_ref(), model.get(&key));
        }
    }
}

#[test]
fn a_change_is_visible_at_once_and_a_batch_ends_only_with_an_entry() {
    let disk = MemDisk::new();
    let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
    store
        .writer
        .put(Bucket::Key, b"a", Bytes::from_static(b"1"));
    let view = store.backend.view();
    assert_eq!(
        view.get(Bucket::Key, b"a").unwrap().as_deref(),
        Some(&b"1"[..])
    );
    // In the middle of the entry there is nothing to commit.
    store.backend.request_commit();
    assert!(!store.committer.wait(Duration::ZERO));
    assert_eq!(store.committer.commit().unwrap(), 0);
    assert_eq!(
        store.writer.get(Bucket::Key, b"a").unwrap().as_deref(),
        Some(&b"1"[..])
    );
    store.writer.end_entry(9, 2);
    assert!(
        store.committer.wait(Duration::ZERO),
        "the request is still there"
    );
    // Handed over: the next entry goes to the next batch.
    store.writer.delete(Bucket::Key, b"a");
    assert_eq!(store.backend.view().get(Bucket::Key, b"a").unwrap(), None);
    assert_eq!(store.committer.commit().unwrap(), 9);
    assert_eq!(store.backend.committed().term, 2);
    assert_eq!(store.backend.view().get(Bucket::Key, b"a").unwrap(), None);
    let crashed = Store::open(&disk.crashed(&mut SeededRng::new(1)), 4096, Model::new()).unwrap();
    assert_eq!(
        crashed
            .backend
            .view()
            .get(Bucket::Key, b"a")
            .unwrap()
            .as_deref(),
        Some(&b"1"[..])
    );
    assert_eq!(crashed.writer.applied(), crashed.backend.committed());
    store.writer.end_entry(10, 2);
    // A lower index is an entry that was applied before.
    store.writer.end_entry(4, 1);
    store.commit_to(10);
    // Nothing but a higher index: no commit by itself, only when asked for.
    store.writer.end_entry(11, 2);
    assert!(!store.committer.wait(Duration::ZERO));
    store.backend.request_commit();
    assert!(store.committer.wait(Duration::ZERO));
    store.commit_to(11);
    // What no entry made carries no index.
    store.writer.put(
        Bucket::Meta,
        b"storageVersion",
        Bytes::from_static(b"3.7.0"),
    );
    store.writer.end_local();
    store.commit_to(11);
    assert_eq!(
        store
            .backend
            .view()
            .get(Bucket::Meta, b"storageVersion")
            .unwrap()
            .as_deref(),
        Some(&b"3.7.0"[..])
    );
    store.backend.request_commit();
    assert!(
        !store.committer.wait(Duration::ZERO),
        "there is nothing to commit"
    );
}

impl Store {
    fn commit_to(&mut self, index: u64) {
        assert_eq!(self.committer.commit().unwrap(), index);
    }
}

#[test]
fn a_batch_is_handed_over_when_it_is_due_and_the_writer_waits_for_room() {
    let disk = MemDisk::new();
    let options = Options {
        batch_changes: 10,
        pending_bytes_max: 5000,
        ..options(4096)
    };
    let (backend, mut writer, mut committer) =
        Backend::open(Arc::new(disk), Path::new(PATH), options).unwrap();
    let entries = 2000u64;
    let thread = std::thread::spawn(move || {
        for index in 1..=entries {
            writer.put(Bucket::Key, &index.to_be_bytes(), vec![1; 200].into());
            writer.end_entry(index, 1);
        }
        writer.backend().request_commit();
        writer
    });
    while committer.commit().unwrap() < entries {
        committer.wait(Duration::from_secs(10));
    }
    drop(thread.join().unwrap());
    assert_eq!(
        scan_all(&backend.view(), Bucket::Key, &[], None).len() as u64,
        entries
    );
    assert!(backend.commits() > 50, "{} commits", backend.commits());
}

#[test]
fn readers_and_writer_and_committer_run_side_by_side() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        batch_changes: 50,
        ..options(4096)
    };
    let path = directory.path().join("db");
    let (backend, mut writer, mut committer) = open_real(&path, options);
    let entries = 3000u64;
    let readers: Vec<_> = (0..2)
        .map(|seed| {
            let backend = backend.clone();
            std::thread::spawn(move || {
                let mut rng = SeededRng::new(seed);
                loop {
                    // Entry n puts key n and removes key n - 100; a value tells its key.
                    let committed = backend.committed_index();
                    let view = backend.view();
                    let mut last = 0;
                    view.scan(Bucket::Key, &[], None, &mut |key, value| {
                        let key = u64::from_be_bytes(key.try_into().unwrap());
                        assert!(key > last && value == vec![key as u8; 100 + (key % 900) as usize]);
                        last = key;
                        ControlFlow::Continue(())
                    })
                    .unwrap();
                    assert!(
                        last >= committed,
                        "key {last} is the last, entry {committed} was committed"
                    );
                    if last > 0 {
                        // The writer goes on under the view: it may have removed the key by now.
                        let key = last - rng.below(50.min(last));
                        if let Some(value) = view.get(Bucket::Key, &key.to_be_bytes()).unwrap() {
                            assert_eq!(value, vec![key as u8; 100 + (key % 900) as usize]);
                        }
                    }
                    if committed >= entries {
                        return;
                    }
                }
            })
        })
        .collect();
    let committer = std::thread::spawn(move || {
        while committer.commit().unwrap() < entries {
            committer.wait(Duration::from_millis(20));
        }
        let report = committer.defragment().unwrap();
        assert!(report.size_bytes_after < report.size_bytes_before);
        committer
    });
    for index in 1..=entries {
        writer.put(
            Bucket::Key,
            &index.to_be_bytes(),
            vec![index as u8; 100 + (index % 900) as usize].into(),
        );
        if index > 100 {
            writer.delete(Bucket::Key, &(index - 100).to_be_bytes());
        }
        writer.end_entry(index, 1);
    }
    backend.request_commit();
    for reader in readers {
        reader.join().unwrap();
    }
    drop(committer.join().unwrap());
    // A hundred keys of half a KiB: what was freed was used again.
    assert!(
        backend.size_bytes() < 1 << 20,
        "{} bytes",
        backend.size_bytes()
    );
}

#[test]
fn large_values_and_many_keys() {
    let disk = MemDisk::new();
    let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
    for index in 0..8u8 {
        store.put(Bucket::Key, &[index], vec![index; 3 << 19].into());
    }
    store.end_entry();
    store.commit();
    let with_large = store.backend.size_bytes();
    assert!(with_large < 8 * (3 << 19) + 100_000, "{with_large} bytes");
    for index in 0..8u8 {
        if index % 2 == 0 {
            store.delete(Bucket::Key, &[index]);
        }
    }
    store.end_entry();
    store.commit();
    // A large value has a leaf of its own: its neighbours were not written again.
    assert!(store.backend.size_bytes() < with_large + 20_000);
    assert!(store.backend.size_in_use_bytes() < with_large / 2 + 100_000);
    for index in 0..100_000u64 {
        store.writer.put(
            Bucket::Lease,
            &index.to_be_bytes(),
            Bytes::from_static(b"0123456789abcdef"),
        );
    }
    store.end_entry();
    store.commit();
    assert_eq!(
        scan_all(&store.backend.view(), Bucket::Lease, &[], None).len(),
        100_000
    );
    assert_eq!(
        scan_all(&store.backend.view(), Bucket::Key, &[], None).len(),
        4
    );
}

#[test]
fn appended_revisions_fill_their_pages_and_commits_write_little() {
    let disk = MemDisk::new();
    let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
    let mut bytes = 0;
    for _ in 0..50 {
        for _ in 0..100 {
            let key = [&store.index.to_be_bytes()[..], b"_", &0u64.to_be_bytes()].concat();
            store.put(Bucket::Key, &key, vec![1; 256].into());
            store.end_entry();
            bytes += 16 + key.len() + 256;
        }
        let (writes, syncs) = (disk.stats().writes, disk.stats().syncs);
        store.commit();
        if store.backend.commits() > 1 {
            assert_eq!(disk.stats().syncs - syncs, 2);
        }
        let writes = disk.stats().writes - writes;
        assert!(writes <= 12, "{writes} writes for one commit");
    }
    let in_use = store.backend.size_in_use_bytes() as usize;
    assert!(
        in_use < bytes * 100 / 80,
        "{in_use} bytes in use for {bytes}"
    );
}

#[test]
fn a_long_reader_keeps_its_pages_and_no_others() {
    let disk = MemDisk::new();
    let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
    for index in 0..2000u32 {
        store.put(Bucket::Lease, &index.to_be_bytes(), vec![1; 100].into());
    }
    store.end_entry();
    store.commit();
    let snapshot = store.backend.snapshot();
    let model = store.model.clone();
    let start = store.backend.size_bytes();
    let mut rng = SeededRng::new(1);
    for _ in 0..300 {
        for _ in 0..3 {
            store.put(
                Bucket::Lease,
                &(rng.below(2000) as u32).to_be_bytes(),
                vec![2; 100].into(),
            );
        }
        store.end_entry();
        store.commit();
    }
    // Its own tree once, and ours once: not one tree for each commit.
    let size = store.backend.size_bytes();
    assert!(size < start * 5 / 2, "{size} bytes after {start}");
    let copy = disk_with(&copy_out(&snapshot));
    assert_holds(
        &Store::open(&copy, 4096, Model::new())
            .unwrap()
            .backend
            .view(),
        &model,
    );
    drop(snapshot);
    store.put(Bucket::Lease, b"x", Bytes::new());
    store.end_entry();
    store.commit();
    assert!(store.backend.size_in_use_bytes() < start * 3 / 2);
}
