//! On a disk that forgets, fails or is full: what was committed stays, whole.

use super::*;

#[test]
fn a_power_cut_leaves_the_batch_whole_or_not_at_all() {
    for seed in seeds(150) {
        let mut rng = SeededRng::new(seed);
        let disk = MemDisk::new();
        let page_bytes = [1024, 4096][rng.below(2) as usize];
        let mut store = Store::open(&disk, page_bytes, Model::new()).unwrap();
        let mut before = Model::new();
        let mut view = None;
        for _ in 0..10 {
            for _ in 0..1 + rng.below(3) {
                store.random_entry(&mut rng, false);
            }
            // A reader keeps pages of an older tree now and then.
            if rng.one_in(4) {
                view = Some(store.backend.view());
            } else if rng.one_in(3) {
                view = None;
            }
            let operation = [FaultOperation::Write, FaultOperation::Sync][rng.below(2) as usize];
            let after = rng.below(if operation == FaultOperation::Write {
                8
            } else {
                3
            });
            let forever = rng.one_in(2);
            disk.inject(Fault {
                operation,
                after,
                forever,
                os_error: 5,
            });
            let result = store.committer.commit();
            disk.clear_faults();
            match result {
                Ok(_) => {}
                Err(_) if rng.one_in(2) => {
                    // The disk works again: the same batch is tried again.
                    let seen = store.backend.view();
                    let expected = store.model.clone();
                    assert_holds(&seen, &expected);
                    drop(seen);
                    // Power may go between the two, or in the second.
                    let crashed = disk.crashed(&mut rng);
                    check_either(&crashed, page_bytes, &before, &store.model);
                    store.commit();
                }
                Err(_) => {
                    check_either(&disk.crashed(&mut rng), page_bytes, &before, &store.model);
                    break;
                }
            }
            let crashed = disk.crashed(&mut rng);
            let again = Store::open(&crashed, page_bytes, Model::new()).unwrap();
            assert_holds(&again.backend.view(), &store.model);
            before = store.model.clone();
        }
        drop(view);
    }
}

fn check_either(disk: &MemDisk, page_bytes: usize, before: &Model, after: &Model) {
    let store = Store::open(disk, page_bytes, Model::new()).unwrap();
    let view = store.backend.view();
    assert!(
        holds(&view, before) || holds(&view, after),
        "neither the batch before nor this one, but index {}",
        store.backend.committed_index()
    );
}

#[test]
fn a_retry_after_a_doubtful_meta_page_survives_a_power_cut_at_any_point() {
    for seed in seeds(150) {
        let mut rng = SeededRng::new(seed);
        let disk = MemDisk::new();
        let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
        store.random_entry(&mut rng, false);
        store.commit();
        // A reader keeps pages until after the first attempt, so that the second one finds others free.
        let mut views = Vec::new();
        for _ in 0..4 {
            store.random_entry(&mut rng, false);
            views.push(store.backend.view());
            store.commit();
        }
        let before = store.model.clone();
        store.random_entry(&mut rng, false);
        // The sync of the meta page fails: it may be on the disk, or not.
        disk.inject(Fault {
            operation: FaultOperation::Sync,
            after: 1,
            forever: false,
            os_error: 5,
        });
        assert!(store.committer.commit().is_err());
        disk.clear_faults();
        if rng.one_in(2) {
            views.clear();
        }
        let operation = [FaultOperation::Write, FaultOperation::Sync][rng.below(2) as usize];
        disk.inject(Fault {
            operation,
            after: rng.below(4),
            forever: true,
            os_error: 5,
        });
        let _ = store.committer.commit();
        disk.clear_faults();
        check_either(&disk.crashed(&mut rng), 4096, &before, &store.model);
        if rng.one_in(2) {
            store.random_entry(&mut rng, false);
            let _ = store.committer.commit();
            store.commit();
            let again = Store::open(&disk.crashed(&mut rng), 4096, Model::new()).unwrap();
            assert_holds(&again.backend.view(), &store.model);
        }
    }
}

#[test]
fn a_process_that_ends_before_its_last_sync_leaves_no_trap_for_the_next() {
    for seed in seeds(150) {
        let mut rng = SeededRng::new(seed);
        let disk = MemDisk::new();
        let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
        for _ in 0..4 {
            store.random_entry(&mut rng, false);
            store.commit();
        }
        store.random_entry(&mut rng, false);
        disk.inject(Fault {
            operation: FaultOperation::Sync,
            after: 1,
            forever: false,
            os_error: 5,
        });
        assert!(store.committer.commit().is_err());
        disk.clear_faults();
        disk.kill();
        // The next process sees the commit, which a power cut would undo.
        let mut next = Store::open(&disk, 4096, store.model.clone()).unwrap();
        assert_holds(&next.backend.view(), &next.model);
        let before = next.model.clone();
        for _ in 0..2 {
            next.random_entry(&mut rng, false);
            let operation = [FaultOperation::Write, FaultOperation::Sync][rng.below(2) as usize];
            disk.inject(Fault {
                operation,
                after: 1 + rng.below(3),
                forever: true,
                os_error: 5,
            });
            let _ = next.committer.commit();
            disk.clear_faults();
        }
        let again = Store::open(&disk.crashed(&mut rng), 4096, Model::new()).unwrap();
        assert!(again.backend.committed_index() + 2 >= next.index);
        if again.backend.committed_index() + 2 == next.index {
            assert_holds(&again.backend.view(), &before);
        }
    }
}

#[test]
fn a_power_cut_while_the_file_is_made_leaves_one_that_opens() {
    for seed in seeds(60) {
        let mut rng = SeededRng::new(seed);
        let disk = MemDisk::new();
        let operation = [
            FaultOperation::Write,
            FaultOperation::Sync,
            FaultOperation::SyncDir,
        ][rng.below(3) as usize];
        disk.inject(Fault {
            operation,
            after: rng.below(3),
            forever: true,
            os_error: 5,
        });
        let _ = Store::open(&disk, 4096, Model::new());
        disk.clear_faults();
        disk.crash(&mut rng);
        let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
        store.random_entry(&mut rng, false);
        store.commit();
        assert_holds(&store.backend.view(), &store.model);
    }
}

#[test]
fn a_full_disk_keeps_the_batch_and_the_commit_is_tried_again() {
    let mut rng = SeededRng::new(3);
    let disk = MemDisk::new();
    let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
    store.random_entry(&mut rng, false);
    store.commit();
    let before = store.model.clone();
    disk.set_capacity(Some(disk.used_bytes() + 20_000));
    store.put(Bucket::Key, b"large", vec![7; 300_000].into());
    store.end_entry();
    for _ in 0..3 {
        let error = store.committer.commit().unwrap_err();
        assert!(
            matches!(error, Error::Full { .. }) && error.can_be_retried(),
            "{error}"
        );
        assert_holds(&store.backend.view(), &store.model);
        let crashed = Store::open(&disk.crashed(&mut rng), 4096, Model::new()).unwrap();
        assert_holds(&crashed.backend.view(), &before);
    }
    // The next batch fills meanwhile.
    store.put(Bucket::Lease, b"12345678", Bytes::from_static(b"later"));
    store.end_entry();
    disk.set_capacity(None);
    assert_eq!(store.committer.commit().unwrap(), store.index - 1);
    store.commit();
    assert_holds(&store.backend.view(), &store.model);
    let in_use = store.backend.size_in_use_bytes();
    let model = store.model.clone();
    drop(store);
    let store = Store::open(&disk, 4096, model).unwrap();
    assert_holds(&store.backend.view(), &store.model);
    // The walk at open finds the same free pages.
    assert_eq!(store.backend.size_in_use_bytes(), in_use);
}

#[test]
fn a_step_that_does_not_fit_is_no_reason_to_fail() {
    let disk = MemDisk::new();
    let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
    disk.set_capacity(Some(disk.used_bytes() + 30_000));
    store.put(Bucket::Key, b"small", vec![7; 5000].into());
    store.end_entry();
    store.commit();
}
