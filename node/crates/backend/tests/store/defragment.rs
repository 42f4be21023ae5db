//! A copy takes the place of the file.

use super::*;

#[test]
fn a_defragmentation_lets_everything_go_on() {
    let mut rng = SeededRng::new(8);
    let disk = MemDisk::new();
    let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
    for index in 0..20_000u32 {
        store.put(
            Bucket::Key,
            &index.to_be_bytes(),
            vec![index as u8; 200].into(),
        );
    }
    store.random_entry(&mut rng, true);
    store.commit();
    for index in 0..20_000u32 {
        if index % 10 != 0 {
            store.delete(Bucket::Key, &index.to_be_bytes());
        }
    }
    store.end_entry();
    store.commit();
    store.random_entry(&mut rng, true);
    let before = store.backend.view();
    store.commit();
    let model = store.model.clone();
    let snapshot = store.backend.snapshot();
    store.random_entry(&mut rng, true);
    let Defragmented {
        size_bytes_before,
        size_bytes_after,
        ..
    } = store.committer.defragment().unwrap();
    assert!(
        size_bytes_after * 4 < size_bytes_before,
        "{size_bytes_before} to {size_bytes_after} bytes"
    );
    assert_eq!(store.backend.size_bytes(), size_bytes_after);
    assert_holds(&before, &model);
    assert_holds(
        &store.backend.view(),
        &without_applied(&store.model, &store.backend.view()),
    );
    store.commit();
    let crashed = Store::open(&disk.crashed(&mut rng), 4096, Model::new()).unwrap();
    assert_holds(&crashed.backend.view(), &store.model);
    assert_eq!(disk.read_dir(Path::new(".")).unwrap(), ["db"]);
    drop(snapshot);
}

#[test]
fn a_defragmentation_that_fails_leaves_the_old_file() {
    for seed in seeds(60) {
        let mut rng = SeededRng::new(seed);
        let disk = MemDisk::new();
        let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
        for _ in 0..20 {
            store.random_entry(&mut rng, true);
        }
        store.commit();
        let operation = [
            FaultOperation::Write,
            FaultOperation::Sync,
            FaultOperation::SyncDir,
            FaultOperation::Name,
        ][rng.below(4) as usize];
        disk.inject(Fault {
            operation,
            after: rng.below(12),
            forever: rng.one_in(2),
            os_error: 5,
        });
        let result = store.committer.defragment();
        let crashed = disk.crashed(&mut rng);
        // The start after the power cut is on a disk that works again.
        crashed.clear_faults();
        disk.clear_faults();
        assert_holds(
            &Store::open(&crashed, 4096, Model::new())
                .unwrap()
                .backend
                .view(),
            &store.model,
        );
        assert_holds(&store.backend.view(), &store.model);
        store.random_entry(&mut rng, true);
        store.commit();
        let crashed = Store::open(&disk.crashed(&mut rng), 4096, Model::new()).unwrap();
        assert_holds(&crashed.backend.view(), &store.model);
        if result.is_err() {
            store.committer.defragment().unwrap();
            assert_holds(&store.backend.view(), &store.model);
        }
    }
}

#[test]
fn batches_that_come_during_a_defragmentation_are_in_the_copy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let options = Options {
        batch_changes: 20,
        pending_bytes_max: 4 << 20,
        ..options(4096)
    };
    let (backend, writer, mut committer) = open_real(&path, options.clone());
    let mut store = TwoEnds {
        writer,
        model: Model::new(),
        index: 0,
    };
    let mut rng = SeededRng::new(4);
    for _ in 0..5 {
        store.random_entry(&mut rng, 200);
        committer.commit().unwrap();
    }
    // A copy takes a few steps; batches fall before, behind and at its place. On a machine where the other thread
    // seldom has its turn, it takes more copies until enough of them have fallen.
    let (mut during, mut copies) = (0, 0);
    while copies < 12 || during <= 12 {
        assert!(copies < 120, "only {during} commits in {copies} copies");
        copies += 1;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    store.random_entry(&mut rng, 10);
                    std::thread::yield_now();
                }
                (store, rng)
            }
        });
        let commits = backend.commits();
        committer.defragment().unwrap();
        during += backend.commits() - commits;
        stop.store(true, Ordering::Relaxed);
        // The thread may be waiting for room.
        while !thread.is_finished() {
            committer.commit().unwrap();
        }
        (store, rng) = thread.join().unwrap();
        while committer.commit().unwrap() < store.index {}
        assert_holds(
            &backend.view(),
            &without_applied(&store.model, &backend.view()),
        );
    }
    let model = store.model.clone();
    drop((store, backend, committer));
    let (backend, writer, committer) = open_real(&path, options);
    assert_holds(&backend.view(), &without_applied(&model, &backend.view()));
    drop((writer, committer));
}

struct TwoEnds {
    writer: Writer,
    model: Model,
    index: u64,
}

impl TwoEnds {
    /// Changes of a hundred keys in each of three buckets.
    fn random_entry(&mut self, rng: &mut SeededRng, changes: u64) {
        for _ in 0..changes {
            let bucket = [Bucket::Alarm, Bucket::Key, Bucket::Lease][rng.below(3) as usize];
            let key = rng.below(100).to_be_bytes();
            if rng.one_in(3) {
                self.writer.delete(bucket, &key);
                self.model.entry(bucket).or_default().remove(&key[..]);
            } else {
                let value = Bytes::from(vec![rng.next_u64() as u8; rng.below(60_000) as usize]);
                self.writer.put(bucket, &key, value.clone());
                self.model
                    .entry(bucket)
                    .or_default()
                    .insert(key.to_vec(), value);
            }
        }
        self.index += 1;
        self.writer.end_entry(self.index, 1);
    }
}
