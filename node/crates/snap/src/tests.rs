use std::collections::BTreeMap;

use raftpb::{ConfState, SnapshotMetadata};
use seams::{Fault, FaultOperation, MemDisk, RealDisk, Rng, SeededRng};

use super::*;

fn dir() -> &'static Path {
    Path::new("/member/snap")
}

fn snapshot(index: u64, term: u64, data: &[u8]) -> Snapshot {
    let conf_state = ConfState {
        voters: vec![1, 2, 3],
        learners: vec![4],
        ..Default::default()
    };
    Snapshot {
        data: Bytes::copy_from_slice(data),
        metadata: Some(SnapshotMetadata {
            conf_state: Some(conf_state),
            index,
            term,
        }),
    }
}

fn fresh() -> (MemDisk, Snapshotter) {
    let disk = MemDisk::new();
    disk.create_dir_all(dir()).unwrap();
    disk.sync_dir(dir()).unwrap();
    let snapshotter = Snapshotter::new(Arc::new(disk.clone()), dir());
    (disk, snapshotter)
}

fn files(disk: &MemDisk) -> Vec<String> {
    disk.read_dir(dir()).unwrap()
}

#[test]
fn promise_11_the_store_gives_the_latest_snapshot_and_saves_an_incoming_one() {
    let (disk, snapshotter) = fresh();
    for index in [10, 20] {
        snapshotter.save(&snapshot(index, 2, b"{}")).unwrap();
    }
    // One of a leader comes in: its database in pieces, then its metadata.
    let mut receiver = snapshotter.receive_database(30).unwrap();
    receiver.write(b"data").unwrap();
    receiver.write(b"base").unwrap();
    assert!(
        !disk.exists(&snapshotter.database_path(30)).unwrap(),
        "not before it is whole"
    );
    let path = receiver.finish().unwrap();
    assert_eq!(seams::read_all(&disk, &path, 100).unwrap(), b"database");
    snapshotter.save(&snapshot(30, 3, b"{}")).unwrap();
    let vouched = [(10, 2), (20, 2), (30, 3)];
    let latest = snapshotter
        .load_newest_available(vouched)
        .unwrap()
        .snapshot
        .unwrap();
    assert_eq!(position(&latest), (30, 3));
}

#[test]
fn the_newest_that_the_log_knows_is_loaded() {
    let (disk, snapshotter) = fresh();
    snapshotter.save(&Snapshot::default()).unwrap();
    assert!(files(&disk).is_empty(), "an empty snapshot is no file");
    for index in [10, 20, 30] {
        snapshotter.save(&snapshot(index, 2, b"{}")).unwrap();
    }
    assert_eq!(files(&disk)[2], "0000000000000002-000000000000001e.snap");
    let newest = |vouched: &[(u64, u64)]| {
        snapshotter
            .load_newest_available(vouched.iter().copied())
            .unwrap()
            .snapshot
            .map(|s| position(&s).0)
    };
    assert_eq!(newest(&[(10, 2), (20, 2)]), Some(20));
    assert_eq!(
        newest(&[(10, 2), (20, 2), (30, 1)]),
        Some(20),
        "another term is another snapshot"
    );
    assert_eq!(newest(&[(5, 1)]), None);
}

#[test]
fn every_damaged_byte_is_noticed_and_the_file_put_aside() {
    let len = {
        let (disk, snapshotter) = fresh();
        snapshotter
            .save(&snapshot(20, 2, b"{\"Root\":{}}"))
            .unwrap();
        disk.open(&dir().join(&files(&disk)[0]), OpenMode::Read)
            .unwrap()
            .len()
            .unwrap()
    };
    for offset in 0..len {
        let (disk, snapshotter) = fresh();
        snapshotter.save(&snapshot(10, 2, b"{}")).unwrap();
        snapshotter
            .save(&snapshot(20, 2, b"{\"Root\":{}}"))
            .unwrap();
        let path = dir().join("0000000000000002-0000000000000014.snap");
        let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
        let newest = snapshotter
            .load_newest_available([(10, 2), (20, 2)])
            .unwrap();
        assert_eq!(
            newest.snapshot,
            Some(snapshot(10, 2, b"{}")),
            "damage at {offset}"
        );
        assert!(matches!(&newest.broken[..], [Error::Corrupt { file, .. }] if *file == path));
        assert_eq!(
            files(&disk)[1],
            "0000000000000002-0000000000000014.snap.broken"
        );
    }
    let (disk, snapshotter) = fresh();
    disk.open(&dir().join("x.snap"), OpenMode::Create).unwrap();
    assert_eq!(
        snapshotter.load_newest_available([]).unwrap().broken.len(),
        1,
        "an empty file"
    );
}

#[test]
fn old_files_and_leftovers_go() {
    let (disk, snapshotter) = fresh();
    for name in [
        "db",
        "db.tmp123",
        "tmp7",
        "000000000000000a.snap.db",
        "0000000000000014.snap.db",
        "x.snap.db",
    ] {
        disk.open(&dir().join(name), OpenMode::Create).unwrap();
    }
    for index in [10, 20, 30] {
        snapshotter.save(&snapshot(index, 2, b"{}")).unwrap();
    }
    assert_eq!(snapshotter.clean_up().unwrap(), ["db.tmp123", "tmp7"]);
    assert_eq!(
        snapshotter.release_databases(20).unwrap(),
        ["000000000000000a.snap.db"]
    );
    assert_eq!(snapshotter.purge(0).unwrap(), [""; 0]);
    assert_eq!(
        snapshotter.purge(2).unwrap(),
        ["0000000000000002-000000000000000a.snap"]
    );
    assert_eq!(
        snapshotter.purge(1).unwrap().len(),
        2,
        "one .snap, one .snap.db"
    );
    assert_eq!(files(&disk).len(), 3);
    assert_eq!(files(&disk)[1], "db");
}

#[test]
fn a_database_that_is_not_received_whole_leaves_nothing() {
    let (disk, snapshotter) = fresh();
    let mut receiver = snapshotter.receive_database(7).unwrap();
    receiver.write(&[1; 5000]).unwrap();
    assert_eq!(files(&disk).len(), 1);
    drop(receiver);
    assert!(files(&disk).is_empty());

    struct Cut(usize);
    impl io::Read for Cut {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.min(buffer.len());
            self.0 -= n;
            if n == 0 {
                Err(io::ErrorKind::ConnectionReset.into())
            } else {
                Ok(n)
            }
        }
    }
    assert!(snapshotter.save_database(7, &mut Cut(3 << 20)).is_err());
    assert!(files(&disk).is_empty());

    let content: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    assert_eq!(
        snapshotter.save_database(7, &mut &content[..]).unwrap(),
        3_000_000
    );
    assert_eq!(
        snapshotter.save_database(7, &mut &content[..]).unwrap(),
        3_000_000,
        "a leader may send twice"
    );
    assert_eq!(files(&disk), ["0000000000000007.snap.db"]);
    assert_eq!(
        seams::read_all(&disk, &snapshotter.database_path(7), 1 << 30).unwrap(),
        content
    );

    disk.set_capacity(Some(disk.used_bytes() + 8192));
    let error = snapshotter.save_database(8, &mut &content[..]).unwrap_err();
    assert!(
        matches!(error, Error::Io { source, .. } if source.raw_os_error() == Some(libc::ENOSPC))
    );
    assert_eq!(files(&disk), ["0000000000000007.snap.db"]);
}

/// Power cuts: what was acknowledged is there, whole; what was not is there whole or not at all.
fn story(seed: u64, disk: &MemDisk) -> Result<(), String> {
    let mut rng = SeededRng::new(seed);
    disk.create_dir_all(dir()).unwrap();
    disk.sync_dir(dir()).unwrap();
    let mut acknowledged: BTreeMap<u64, bool> = BTreeMap::new();
    let mut next = 1;
    let content = |index: u64| vec![index as u8; (index * 997 % 6000) as usize + 1];
    for _life in 0..6 {
        let snapshotter = Snapshotter::new(Arc::new(disk.clone()), dir());
        snapshotter.clean_up().map_err(|error| error.to_string())?;
        let names = files(disk);
        if let Some(name) = names
            .iter()
            .find(|name| !name.ends_with(".snap") && !name.ends_with(".snap.db"))
        {
            return Err(format!("{name} was left over"));
        }
        for (&index, &kept) in &acknowledged {
            let database = index % 2 == 0;
            let found = if database {
                seams::read_all(disk, &snapshotter.database_path(index), 1 << 20)
                    .ok()
                    .map(|found| found == content(index))
            } else {
                let newest = snapshotter
                    .load_newest_available([(index, 1)])
                    .map_err(|error| error.to_string())?;
                if let Some(broken) = newest.broken.first() {
                    return Err(broken.to_string());
                }
                newest
                    .snapshot
                    .map(|found| found == snapshot(index, 1, &content(index)))
            };
            match found {
                Some(true) => {}
                None if !kept => {}
                None => return Err(format!("{index} was acknowledged and is gone")),
                Some(false) => return Err(format!("{index} is not what was written")),
            }
        }
        if rng.below(3) != 0 {
            let operation = [
                FaultOperation::Write,
                FaultOperation::Sync,
                FaultOperation::SyncDir,
                FaultOperation::Name,
            ][rng.below(4) as usize];
            disk.inject(Fault {
                operation,
                after: rng.below(6),
                forever: rng.one_in(2),
                os_error: libc::EIO,
            });
        }
        for _step in 0..rng.below(6) {
            let (index, bytes) = (next, content(next));
            next += 1;
            let result = if index.is_multiple_of(2) {
                snapshotter
                    .save_database(index, &mut &bytes[..])
                    .map(|_| ())
            } else {
                snapshotter.save(&snapshot(index, 1, &bytes))
            };
            acknowledged.insert(index, result.is_ok());
        }
        disk.clear_faults();
        if rng.below(4) == 0 {
            disk.kill()
        } else {
            disk.crash(&mut rng)
        }
    }
    Ok(())
}

#[test]
fn what_was_acknowledged_survives_every_power_cut() {
    for seed in seams::seeds(0..500) {
        if let Err(error) = story(seed, &MemDisk::new()) {
            panic!("seed {seed}: {error}");
        }
    }
}

/// The twin: on a disk whose syncs do nothing the same stories must fail.
#[test]
fn the_stories_fail_where_syncs_do_nothing() {
    let failed = |seed| {
        let disk = MemDisk::new();
        disk.set_syncs_lie(true);
        story(seed, &disk).is_err()
    };
    let failures = (0..60).filter(|&seed| failed(seed)).count();
    assert!(
        failures > 10,
        "only {failures} of 60 stories noticed that nothing was synced"
    );
}

/// `testdata/` holds a file that etcd 3.7.3's package `etcdserver/api/snap` wrote with SaveSnap.
#[test]
fn a_file_of_etcd_is_read_and_ours_is_the_same_to_the_byte() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/0000000000000005-000000000000a3f1.snap");
    let theirs = read(&RealDisk, &path).unwrap();
    assert_eq!(theirs, snapshot(0xa3f1, 5, b"{\"Root\":{\"Path\":\"/\"}}"));
    let (disk, snapshotter) = fresh();
    snapshotter.save(&theirs).unwrap();
    let name = "0000000000000005-000000000000a3f1.snap";
    assert_eq!(files(&disk), [name]);
    let ours = seams::read_all(&disk, &dir().join(name), 1 << 20).unwrap();
    assert_eq!(ours, std::fs::read(&path).unwrap());
}
