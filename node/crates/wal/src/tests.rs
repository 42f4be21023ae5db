mod crash;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use raftpb::{ConfState, Entry, HardState};
use seams::{Disk, Fault, FaultOperation, MemDisk, OpenMode, RealDisk, Rng, SeededRng};

use super::*;

const DIR: &str = "/member/wal";
const METADATA: Metadata = Metadata {
    node_id: 0x8e9e_05c5_2164_694d,
    cluster_id: 0xcdf8_181e_3239_3d34,
};

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    Entry {
        index,
        term,
        data: Bytes::copy_from_slice(data),
        ..Default::default()
    }
}

fn state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit }
}

fn create(disk: &MemDisk) -> Wal {
    Wal::create(Arc::new(disk.clone()), dir(), METADATA).unwrap()
}

fn open(disk: &MemDisk) -> Result<(Wal, Recovered), Error> {
    Wal::open(Arc::new(disk.clone()), dir(), SnapshotRecord::default())
}

fn segments(disk: &MemDisk) -> Vec<String> {
    disk.read_dir(dir())
        .unwrap()
        .into_iter()
        .filter(|name| name.ends_with(".wal"))
        .collect()
}

/// Changes one byte of a file, durably.
fn flip(disk: &dyn Disk, path: &Path, offset: u64) {
    let file = disk.open(path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_new_log_is_empty_and_a_second_one_is_refused() {
    let disk = MemDisk::new();
    assert!(!exists(&disk, dir()).unwrap());
    drop(create(&disk));
    assert!(exists(&disk, dir()).unwrap());
    assert!(matches!(
        Wal::create(Arc::new(disk.clone()), dir(), METADATA),
        Err(Error::AlreadyExists { .. })
    ));
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(
        recovered,
        Recovered {
            metadata: METADATA,
            ..Default::default()
        }
    );
    assert_eq!(
        valid_snapshots(&disk, dir()).unwrap(),
        [SnapshotRecord::default()]
    );
}

#[test]
fn raft_must_wait_for_entries_term_and_vote_and_not_for_the_commit_index() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    assert!(!wal.save(None, &[]).unwrap());
    assert!(!wal.save(Some(&HardState::default()), &[]).unwrap());
    assert!(wal.save(Some(&state(1, 0, 0)), &[]).unwrap());
    assert!(wal.save(Some(&state(1, 2, 0)), &[]).unwrap());
    assert!(
        wal.save(Some(&state(1, 2, 0)), &[entry(1, 1, b"a")])
            .unwrap()
    );
    assert!(!wal.save(Some(&state(1, 2, 1)), &[]).unwrap());
}

#[test]
fn many_saves_are_one_write_and_one_sync() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    let before = disk.stats();
    for index in 1..=100 {
        wal.save(Some(&state(1, 1, index - 1)), &[entry(index, 1, &[7; 300])])
            .unwrap();
    }
    wal.sync().unwrap();
    wal.sync().unwrap();
    let after = disk.stats();
    assert_eq!(
        (after.writes - before.writes, after.syncs - before.syncs),
        (1, 1)
    );
}

#[test]
fn a_later_entry_replaces_what_follows_it() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    wal.save(
        None,
        &[entry(1, 1, b"a"), entry(2, 1, b"b"), entry(3, 1, b"c")],
    )
    .unwrap();
    wal.save(Some(&state(2, 1, 1)), &[entry(2, 2, b"B")])
        .unwrap();
    wal.sync().unwrap();
    assert_eq!(
        wal.reader().entries(1, 10, u64::MAX).unwrap(),
        [entry(1, 1, b"a"), entry(2, 2, b"B")]
    );
    drop(wal);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.entries, [entry(1, 1, b"a"), entry(2, 2, b"B")]);
    assert_eq!(recovered.hard_state, state(2, 1, 1));
}

#[test]
fn a_full_segment_is_cut_at_its_end_and_the_next_one_repeats_the_state() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    wal.set_segment_bytes(4096);
    for index in 1..=18 {
        wal.save(
            Some(&state(3, 7, index - 1)),
            &[entry(index, 3, &[index as u8; 1000])],
        )
        .unwrap();
        if wal.wants_next() {
            wal.prepare_next().unwrap();
        }
        wal.sync().unwrap();
    }
    let names = segments(&disk);
    assert_eq!(names.len(), 4);
    assert_eq!(names[1], "0000000000000001-0000000000000006.wal");
    let first = disk
        .open(&dir().join(&names[0]), OpenMode::Read)
        .unwrap()
        .len()
        .unwrap();
    assert!((5000..6000).contains(&first), "cut at {first}");
    let file_len = |name: &String| {
        let file = disk.open(&dir().join(name), OpenMode::Read).unwrap();
        file.len().unwrap()
    };
    let (full, total) = (
        names[..3].iter().map(file_len).sum::<u64>(),
        wal.written_bytes(),
    );
    assert!(
        (full + 3000..full + 4096).contains(&total),
        "{total} bytes, {full} of them in full segments"
    );
    let snapshot = SnapshotRecord {
        index: 17,
        term: 3,
        conf_state: Some(ConfState::default()),
    };
    wal.save_snapshot(&snapshot).unwrap();
    drop(wal);
    for name in &names[..3] {
        disk.remove_file(&dir().join(name)).unwrap();
    }
    assert_eq!(
        valid_snapshots(&disk, dir()).unwrap(),
        std::slice::from_ref(&snapshot)
    );
    let (_, recovered) = Wal::open(Arc::new(disk.clone()), dir(), snapshot).unwrap();
    assert_eq!(recovered.entries, [entry(18, 3, &[18; 1000])]);
    assert_eq!(
        (recovered.hard_state, recovered.metadata),
        (state(3, 7, 17), METADATA)
    );
    assert!(matches!(
        open(&disk),
        Err(Error::SegmentNotFound { index: 0, .. })
    ));
}

#[test]
fn a_snapshot_record_counts_once_it_is_committed() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    let snapshot = |index, term| SnapshotRecord {
        index,
        term,
        conf_state: Some(ConfState {
            voters: vec![1, 2, 3],
            ..Default::default()
        }),
    };
    wal.save(
        Some(&state(1, 1, 2)),
        &[entry(1, 1, b"a"), entry(2, 1, b"b")],
    )
    .unwrap();
    wal.save_snapshot(&snapshot(2, 1)).unwrap();
    wal.save_snapshot(&snapshot(50, 2)).unwrap();
    wal.save(None, &[entry(51, 2, b"z")]).unwrap();
    wal.sync().unwrap();
    assert_eq!(
        valid_snapshots(&disk, dir()).unwrap(),
        [SnapshotRecord::default(), snapshot(2, 1)]
    );
    let reader = wal.reader();
    assert_eq!(reader.entries(51, 60, 1).unwrap(), [entry(51, 2, b"z")]);
    assert!(
        matches!(
            reader.entries(1, 60, 1),
            Err(Error::Unavailable { from: 1 })
        ),
        "before a hole"
    );
    drop(wal);
    let after = |snapshot| {
        Wal::open(Arc::new(disk.clone()), dir(), snapshot).map(|(_, recovered)| recovered)
    };
    assert_eq!(
        after(snapshot(50, 2)).unwrap().entries,
        [entry(51, 2, b"z")]
    );
    assert!(matches!(
        after(snapshot(50, 1)),
        Err(Error::SnapshotMismatch { found: 2, .. })
    ));
    assert!(matches!(
        after(snapshot(49, 1)),
        Err(Error::EntryMissing { found: 51, .. })
    ));
    assert!(matches!(
        after(snapshot(51, 2)),
        Err(Error::SnapshotNotFound { .. })
    ));
}

#[test]
fn two_members_cannot_have_one_log() {
    let disk = MemDisk::new();
    let wal = create(&disk);
    assert!(matches!(open(&disk), Err(Error::Locked { .. })));
    read(&disk, dir(), &SnapshotRecord::default()).unwrap();
    drop(wal);
    open(&disk).unwrap();
}

#[test]
fn only_released_segments_are_purged() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    wal.set_segment_bytes(2048);
    for index in 1..=30 {
        wal.sync().unwrap();
        wal.save(Some(&state(1, 1, index)), &[entry(index, 1, &[1; 1000])])
            .unwrap();
    }
    wal.sync().unwrap();
    let names = segments(&disk);
    assert_eq!(names.len(), 11, "{names:?}");
    assert!(wal.purge(5).unwrap().is_empty(), "nothing was released");
    // The first segments begin with the entries 1, 4 and 7: what follows 5 begins in the second.
    wal.release_to(5).unwrap();
    assert_eq!(wal.purge(5).unwrap(), names[..1]);
    wal.release_to(100).unwrap();
    assert_eq!(wal.purge(5).unwrap(), names[1..6]);
    assert_eq!(segments(&disk), names[6..]);
    assert!(wal.purge(0).unwrap().is_empty(), "0 means no limit");
    let read = |from| wal.reader().entries(from, 31, 1 << 20);
    assert!(matches!(read(18), Err(Error::Unavailable { from: 18 })));
    assert_eq!(read(19).unwrap().len(), 12);
}

#[test]
fn damage_is_named_with_file_and_offset() {
    let fresh = || {
        let disk = MemDisk::new();
        let mut wal = create(&disk);
        wal.set_segment_bytes(4096);
        for index in 1..=9 {
            wal.save(
                Some(&state(1, 1, 0)),
                &[entry(index, 1, &[index as u8; 1000])],
            )
            .unwrap();
        }
        wal.close().unwrap();
        disk
    };
    let names = segments(&fresh());
    for name in &names {
        let path = dir().join(name);
        for offset in (0..2000).step_by(7) {
            let disk = fresh();
            flip(&disk, &path, offset);
            match open(&disk) {
                Err(Error::Corrupt {
                    file,
                    offset: frame,
                    ..
                }) => {
                    assert_eq!(file, path);
                    assert!(
                        frame <= offset && offset < frame + 1100,
                        "damage at {offset} found at {frame}"
                    );
                }
                // The last frame's length may claim more than there is; nothing tells it from a
                // torn write when its own header is hit too. Padding is under no checksum.
                Ok((_, recovered)) => {
                    assert!(
                        recovered.entries.len() == 9,
                        "{} entries, damage at {offset}",
                        recovered.entries.len()
                    );
                }
                Err(other) => panic!("damage at {offset} of {name}: {other}"),
            }
        }
    }
}

#[test]
fn a_torn_end_is_cut_off_and_a_copy_kept() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    wal.save(Some(&state(1, 1, 0)), &[entry(1, 1, b"a")])
        .unwrap();
    wal.sync().unwrap();
    let end = {
        let path = dir().join(&segments(&disk)[0]);
        wal.save(None, &[entry(2, 1, &[9; 3000])]).unwrap();
        wal.sync().unwrap();
        let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
        // The third kilobyte never reached the disk.
        file.write_all_at(&[0; 1024], 2048).unwrap();
        path
    };
    drop(wal);
    assert_eq!(
        read(&disk, dir(), &SnapshotRecord::default())
            .unwrap()
            .entries
            .len(),
        1
    );
    let (mut wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.entries, [entry(1, 1, b"a")]);
    let repair = recovered.repaired.expect("it was torn");
    assert_eq!(repair.file, end);
    assert_eq!(
        disk.open(&end, OpenMode::Read).unwrap().len().unwrap(),
        repair.offset
    );
    assert_eq!(
        disk.open(&repair.copy, OpenMode::Read)
            .unwrap()
            .len()
            .unwrap(),
        SEGMENT_BYTES
    );
    wal.save(None, &[entry(2, 2, b"b")]).unwrap();
    wal.sync().unwrap();
    drop(wal);
    assert_eq!(
        open(&disk).unwrap().1.entries,
        [entry(1, 1, b"a"), entry(2, 2, b"b")]
    );
}

#[test]
fn a_full_disk_stops_the_log_and_what_was_synced_stays() {
    for spare in [0, 4096, 20_000, 70_000] {
        let disk = MemDisk::new();
        let mut wal = create(&disk);
        wal.set_segment_bytes(40_000);
        let mut synced = 0;
        // The first segment has 64 MB to itself; go on to small ones.
        while segments(&disk).len() < 2 {
            synced += 1;
            wal.save(Some(&state(1, 1, 0)), &[entry(synced, 1, &[3; 900])])
                .unwrap();
            wal.sync().unwrap();
        }
        disk.set_capacity(Some(disk.used_bytes() + spare));
        let error = loop {
            let index = synced + 1;
            let result = wal
                .save(Some(&state(1, 1, 0)), &[entry(index, 1, &[3; 900])])
                .and_then(|_| wal.sync());
            match result {
                Ok(()) => synced = index,
                Err(error) => break error,
            }
        };
        let Error::Io { source, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(source.raw_os_error(), Some(libc::ENOSPC));
        assert!(matches!(
            wal.save(None, &[entry(synced + 2, 1, b"x")]),
            Err(Error::Stopped { .. })
        ));
        assert!(matches!(wal.sync(), Err(Error::Stopped { .. })));
        drop(wal);
        disk.set_capacity(None);
        disk.crash(&mut SeededRng::new(spare));
        let (mut wal, recovered) = open(&disk).unwrap();
        assert!(
            recovered.entries.len() as u64 >= synced,
            "{} of {synced}",
            recovered.entries.len()
        );
        wal.save(None, &[entry(recovered.entries.len() as u64 + 1, 2, b"on")])
            .unwrap();
        wal.sync().unwrap();
    }
}

#[test]
fn a_failed_sync_stops_the_log() {
    let disk = MemDisk::new();
    let mut wal = create(&disk);
    disk.inject(Fault {
        operation: FaultOperation::Sync,
        after: 0,
        forever: false,
        os_error: libc::EIO,
    });
    wal.save(None, &[entry(1, 1, b"a")]).unwrap();
    assert!(matches!(
        wal.sync(),
        Err(Error::Io {
            operation: "sync",
            ..
        })
    ));
    assert!(
        matches!(wal.sync(), Err(Error::Stopped { .. })),
        "a second try would report what is not true"
    );
    assert!(matches!(
        wal.save_snapshot(&SnapshotRecord::default()),
        Err(Error::Stopped { .. })
    ));
}

#[test]
fn pages_of_entries_agree_with_a_plain_list() {
    for seed in seams::seeds(0..20) {
        let mut rng = SeededRng::new(seed);
        let disk = MemDisk::new();
        let mut wal = create(&disk);
        wal.set_segment_bytes(300_000);
        let mut model: Vec<Entry> = Vec::new();
        for step in 0..120 {
            if rng.one_in(10) {
                model.truncate(rng.below(model.len() as u64 + 1) as usize);
            }
            let new: Vec<Entry> = (0..rng.below(12))
                .map(|n| {
                    entry(
                        model.len() as u64 + 1 + n,
                        step,
                        &vec![step as u8; rng.below(8000) as usize],
                    )
                })
                .collect();
            wal.save(None, &new).unwrap();
            // An emptied end is only gone once something else was written there.
            model.extend(new.iter().cloned());
            if new.is_empty() {
                let next = entry(model.len() as u64 + 1, step, b"");
                wal.save(None, std::slice::from_ref(&next)).unwrap();
                model.push(next);
            }
            wal.sync().unwrap();
            let from = 1 + rng.below(model.len() as u64);
            let to = from + 1 + rng.below(model.len() as u64 + 2 - from);
            let bytes_max = rng.below(60_000);
            let found = wal.reader().entries(from, to, bytes_max).unwrap();
            let mut expected =
                model[from as usize - 1..(to as usize - 1).min(model.len())].to_vec();
            index::limit(&mut expected, bytes_max);
            assert!(
                !found.is_empty() && expected.starts_with(&found),
                "seed {seed}, {from}..{to} in {bytes_max}"
            );
            assert_eq!(
                read_entries(&disk, dir(), from, to, bytes_max).unwrap(),
                expected
            );
            if to > model.len() as u64 + 1 || bytes_max > 0 {
                // A caller that asks again gets on.
                let next = from + found.len() as u64;
                if next <= model.len() as u64 {
                    assert_eq!(
                        wal.reader().entries(next, next + 1, 0).unwrap()[0],
                        model[next as usize - 1]
                    );
                }
            }
        }
        assert!(matches!(
            wal.reader().entries(model.len() as u64 + 1, u64::MAX, 1),
            Err(Error::Unavailable { .. })
        ));
        drop(wal);
        let (wal, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.entries, model);
        assert_eq!(
            wal.reader().entries(1, u64::MAX, u64::MAX).unwrap(),
            model,
            "the index after a restart"
        );
    }
}

fn payload(index: u64, term: u64) -> Vec<u8> {
    vec![(index + term) as u8; 1 + (index * 37 % 700) as usize]
}

/// What etcd's package was told to save in `testdata/etcd-3.7.3`, see the README there.
fn etcds_story(mut save: impl FnMut(HardState, Option<Entry>, Option<SnapshotRecord>)) {
    let put = |index, term| Some(entry(index, term, &payload(index, term)));
    for index in 1..=60 {
        if index == 31 {
            save(state(2, 7, 25), None, None);
            save(state(2, 7, 26), None, None);
            // A new leader replaces three entries.
            (28..=30).for_each(|index| save(state(2, 7, 25), put(index, 2), None));
        }
        let term = if index > 30 { 2 } else { 1 };
        let mut new = put(index, term);
        if let (3, Some(entry)) = (index, &mut new) {
            entry.entry_type = raftpb::EntryType::EntryConfChange as i32;
        }
        let conf_state = ConfState {
            voters: vec![1, 2, 3],
            learners: vec![4],
            ..Default::default()
        };
        let snapshot = SnapshotRecord {
            index: 15,
            term: 1,
            conf_state: Some(conf_state),
        };
        save(
            state(term, 7, index - 1),
            new,
            (index == 20).then_some(snapshot),
        );
    }
}

fn etcds_entries() -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    etcds_story(|_, new, _| {
        if let Some(new) = new {
            entries.truncate(new.index as usize - 1);
            entries.push(new);
        }
    });
    entries
}

fn etcds_log() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/etcd-3.7.3")
}

#[test]
fn a_log_of_etcd_is_read_and_continued() {
    let snapshots = valid_snapshots(&RealDisk, &etcds_log()).unwrap();
    assert_eq!(
        snapshots
            .iter()
            .map(|snapshot| (snapshot.index, snapshot.term))
            .collect::<Vec<_>>(),
        [(0, 0), (15, 1)]
    );
    assert_eq!(snapshots[1].conf_state.as_ref().unwrap().learners, [4]);
    let recovered = read(&RealDisk, &etcds_log(), &SnapshotRecord::default()).unwrap();
    assert_eq!(recovered.entries, etcds_entries());
    assert_eq!(
        (recovered.hard_state, recovered.metadata),
        (state(2, 7, 59), METADATA)
    );
    assert_eq!(
        read(&RealDisk, &etcds_log(), &snapshots[1])
            .unwrap()
            .entries,
        etcds_entries()[15..]
    );

    let copy = tempfile::tempdir().unwrap();
    for name in RealDisk.read_dir(&etcds_log()).unwrap() {
        std::fs::copy(etcds_log().join(&name), copy.path().join(&name)).unwrap();
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (mut wal, _) = Wal::open(disk.clone(), copy.path(), snapshots[1].clone()).unwrap();
    assert!(matches!(
        Wal::open(disk.clone(), copy.path(), snapshots[1].clone()),
        Err(Error::Locked { .. })
    ));
    wal.set_segment_bytes(6000);
    for index in 61..=80 {
        wal.save(
            Some(&state(3, 1, index)),
            &[entry(index, 3, &payload(index, 3))],
        )
        .unwrap();
        wal.sync().unwrap();
    }
    wal.close().unwrap();
    let (wal, recovered) = Wal::open(disk, copy.path(), SnapshotRecord::default()).unwrap();
    assert_eq!(recovered.entries.len(), 80);
    assert_eq!(
        wal.reader().entries(58, 81, u64::MAX).unwrap(),
        recovered.entries[57..]
    );
}

#[test]
fn the_same_story_makes_the_same_bytes_as_etcd() {
    let parent = tempfile::tempdir().unwrap();
    let ours = parent.path().join("wal");
    let mut wal = Wal::create(Arc::new(RealDisk), &ours, METADATA).unwrap();
    wal.set_segment_bytes(6000);
    etcds_story(|hard_state, new, snapshot| {
        if wal.save(Some(&hard_state), new.as_slice()).unwrap() {
            wal.sync().unwrap();
        }
        if let Some(snapshot) = snapshot {
            wal.save_snapshot(&snapshot).unwrap();
        }
    });
    wal.close().unwrap();
    let names = RealDisk.read_dir(&etcds_log()).unwrap();
    assert_eq!(RealDisk.read_dir(&ours).unwrap(), names);
    for name in names {
        let [ours, theirs] = [&ours, &etcds_log()]
            .map(|dir| seams::read_all(&RealDisk, &dir.join(&name), 1 << 20).unwrap());
        let differ = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!((ours.len(), differ), (theirs.len(), None), "{name}");
    }
}

/// Whatever lies in the directory, reading answers; it neither panics nor takes memory without end.
fn look_at_everything(disk: &MemDisk) {
    let _ = valid_snapshots(disk, dir());
    for index in [0, 15, u64::MAX - 1] {
        let _ = read(
            disk,
            dir(),
            &SnapshotRecord {
                index,
                term: 1,
                conf_state: None,
            },
        );
    }
    for (from, to) in [(0, 1), (1, 10), (20, u64::MAX), (u64::MAX, u64::MAX)] {
        let _ = read_entries(disk, dir(), from, to, 1 << 20);
    }
    if let Ok((mut wal, recovered)) = open(disk) {
        let _ = wal.reader().entries(1, u64::MAX, 1 << 20);
        let next = recovered.entries.len() as u64 + 1;
        wal.save(None, &[entry(next, u64::MAX, b"on")]).unwrap();
        wal.close().unwrap();
        assert_eq!(open(disk).unwrap().1.entries.len() as u64, next);
    }
}

#[test]
fn a_log_full_of_damage_is_answered_with_an_error() {
    for seed in seams::seeds(0..400) {
        let mut rng = SeededRng::new(seed);
        let disk = MemDisk::new();
        disk.create_dir_all(dir()).unwrap();
        for name in RealDisk.read_dir(&etcds_log()).unwrap() {
            if rng.one_in(10) {
                continue;
            }
            let mut bytes = std::fs::read(etcds_log().join(&name)).unwrap();
            for _ in 0..rng.below(4) {
                let start = rng.below(bytes.len() as u64) as usize;
                let end = (start + 1 + rng.below(64) as usize).min(bytes.len());
                if rng.one_in(2) {
                    bytes[start..end].fill(0)
                } else {
                    rng.fill(&mut bytes[start..end])
                }
            }
            if rng.one_in(5) {
                bytes.truncate(rng.below(bytes.len() as u64) as usize);
            }
            let file = disk.open(&dir().join(&name), OpenMode::Create).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
        }
        look_at_everything(&disk);
    }
}

/// Right checksums over nonsense: what a hostile or mistaken writer could leave.
#[test]
fn well_framed_nonsense_is_answered_with_an_error() {
    use record::{encode, encode_crc, kind};
    for seed in seams::seeds(0..2000) {
        let mut rng = SeededRng::new(seed);
        let (mut bytes, mut crc) = (Vec::new(), 0);
        encode_crc(&mut bytes, 0);
        METADATA.encode(&mut bytes, &mut crc);
        SnapshotRecord::default().encode(&mut bytes, &mut crc);
        for _ in 0..rng.below(8) {
            let number = |rng: &mut SeededRng| match rng.below(4) {
                0 => u64::MAX - rng.below(2),
                1 => rng.next_u64(),
                _ => rng.below(4),
            };
            let (a, b) = (number(&mut rng), number(&mut rng));
            match rng.below(5) {
                0 => SnapshotRecord {
                    index: a,
                    term: b,
                    conf_state: None,
                }
                .encode(&mut bytes, &mut crc),
                1 => encode(&mut bytes, &mut crc, rng.below(8) as i64, &state(a, b, a)),
                2 => encode(&mut bytes, &mut crc, kind::STATE, &state(1, b, a)),
                _ => encode(&mut bytes, &mut crc, kind::ENTRY, &entry(a, b, b"x")),
            }
        }
        let disk = MemDisk::new();
        disk.create_dir_all(dir()).unwrap();
        let path = dir().join("0000000000000000-0000000000000000.wal");
        disk.open(&path, OpenMode::Create)
            .unwrap()
            .write_all_at(&bytes, 0)
            .unwrap();
        look_at_everything(&disk);
    }
}
