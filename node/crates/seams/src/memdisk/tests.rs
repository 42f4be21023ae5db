use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::rng::SeededRng;

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn create(disk: &MemDisk, name: &str) -> Arc<dyn DiskFile> {
    disk.open(path(name), OpenMode::CreateNew).unwrap()
}

fn content(disk: &MemDisk, name: &str) -> Option<Vec<u8>> {
    crate::read_all(disk, path(name), 1 << 30).ok()
}

#[test]
fn synced_bytes_and_names_survive_every_crash() {
    for seed in 0..50 {
        let disk = MemDisk::new();
        let file = create(&disk, "a");
        file.write_all_at(&[7; 10_000], 100).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(path("/")).unwrap();
        disk.crash(&mut SeededRng::new(seed));
        let bytes = content(&disk, "a").expect("the name was synced");
        assert_eq!(bytes.len(), 10_100);
        assert!(bytes[..100].iter().all(|&b| b == 0) && bytes[100..].iter().all(|&b| b == 7));
        assert!(
            file.len().is_err(),
            "a handle from before the crash is dead"
        );
    }
}

#[test]
fn unsynced_sectors_survive_in_every_combination() {
    let disk = MemDisk::new();
    let file = create(&disk, "a");
    file.write_all_at(&[1; 1024], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    file.write_all_at(&[2; 1024], 0).unwrap();
    file.write_all_at(&[3; 512], 512).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let bytes = content(&disk.crashed(&mut SeededRng::new(seed)), "a").unwrap();
        for sector in bytes.chunks(512) {
            assert!(sector.iter().all(|&b| b == sector[0]), "a sector is torn");
        }
        seen.insert((bytes[0], bytes[512]));
    }
    let all = [1, 2]
        .iter()
        .flat_map(|&a| [1, 2, 3].map(|b| (a, b)))
        .collect();
    assert_eq!(seen, all);
}

#[test]
fn unsynced_names_survive_in_every_combination() {
    let disk = MemDisk::new();
    create(&disk, "old").sync_all().unwrap();
    disk.sync_dir(path("/")).unwrap();
    let file = create(&disk, "tmp");
    file.write_all_at(b"x", 0).unwrap();
    file.sync_all().unwrap();
    disk.rename(path("tmp"), path("new")).unwrap();
    disk.remove_file(path("old")).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let after = disk.crashed(&mut SeededRng::new(seed));
        let names = after.read_dir(path("/")).unwrap();
        assert!(
            !(names.contains(&"tmp".into()) && names.contains(&"new".into())),
            "a rename is atomic"
        );
        seen.insert(names.join(" "));
    }
    let expected = ["", "new", "tmp", "old", "new old", "old tmp"];
    assert_eq!(seen, expected.iter().map(|s| s.to_string()).collect());
    disk.sync_dir(path("/")).unwrap();
    for seed in 0..20 {
        assert_eq!(
            disk.crashed(&mut SeededRng::new(seed))
                .read_dir(path("/"))
                .unwrap(),
            ["new"]
        );
    }
}

#[test]
fn syncing_a_directory_makes_the_way_to_it_durable() {
    let disk = MemDisk::new();
    disk.create_dir_all(path("/data/member/wal.tmp")).unwrap();
    create(&disk, "/data/member/wal.tmp/0").sync_all().unwrap();
    disk.sync_dir(path("/data/member/wal.tmp")).unwrap();
    disk.rename(path("/data/member/wal.tmp"), path("/data/member/wal"))
        .unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..40 {
        let after = disk.crashed(&mut SeededRng::new(seed));
        let names = after.read_dir(path("/data/member")).unwrap();
        assert_eq!(
            after
                .read_dir(&path("/data/member").join(&names[0]))
                .unwrap(),
            ["0"]
        );
        seen.insert(names);
    }
    assert_eq!(
        seen.len(),
        2,
        "the unsynced rename happens or not: {seen:?}"
    );
    disk.remove_dir_all(path("/data/member/wal")).unwrap();
    assert!(!disk.exists(path("/data/member/wal")).unwrap());
    assert!(disk.exists(path("/data/member")).unwrap());
}

#[test]
fn a_failed_sync_loses_what_it_should_have_kept() {
    let disk = MemDisk::new();
    let file = create(&disk, "a");
    file.write_all_at(&[1; 512], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    file.write_all_at(&[2; 512], 0).unwrap();
    disk.inject(Fault {
        operation: FaultOperation::Sync,
        after: 0,
        forever: false,
        os_error: libc::EIO,
    });
    assert_eq!(
        file.sync_data().unwrap_err().raw_os_error(),
        Some(libc::EIO)
    );
    file.sync_data().unwrap();
    let first = |seed| content(&disk.crashed(&mut SeededRng::new(seed)), "a").unwrap()[0];
    assert!(
        (0..50).any(|seed| first(seed) == 1),
        "the second sync must not bring the write back"
    );
    file.write_all_at(&[3; 512], 0).unwrap();
    file.sync_data().unwrap();
    assert!((0..50).all(|seed| first(seed) == 3));
}

#[test]
fn a_full_disk_writes_what_fits() {
    let disk = MemDisk::new();
    disk.set_capacity(Some(8192));
    let file = create(&disk, "a");
    file.write_all_at(&[1; 4096], 0).unwrap();
    let error = file.write_all_at(&[2; 8192], 4096).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(file.len().unwrap(), 8192);
    assert_eq!(
        create(&disk, "b")
            .allocate(0, 1)
            .unwrap_err()
            .raw_os_error(),
        Some(libc::ENOSPC)
    );
    disk.remove_file(path("a")).unwrap();
    assert_eq!(disk.used_bytes(), 8192, "an open file keeps its space");
    drop(file);
    assert_eq!(disk.used_bytes(), 0);
    disk.open(path("b"), OpenMode::ReadWrite)
        .unwrap()
        .allocate(0, 8192)
        .unwrap();
}

#[test]
fn a_lock_excludes_another_handle_until_it_is_dropped() {
    let disk = MemDisk::new();
    let first = create(&disk, "a");
    let second = disk.open(path("a"), OpenMode::ReadWrite).unwrap();
    assert!(first.try_lock_exclusive().unwrap());
    assert!(first.try_lock_exclusive().unwrap());
    assert!(!second.try_lock_exclusive().unwrap());
    drop(first);
    assert!(second.try_lock_exclusive().unwrap());
    disk.kill();
    assert!(second.len().is_err());
    assert!(
        disk.open(path("a"), OpenMode::ReadWrite)
            .unwrap()
            .try_lock_exclusive()
            .unwrap()
    );
}

#[test]
fn cutting_and_growing_reads_as_zeros() {
    let disk = MemDisk::new();
    let file = create(&disk, "a");
    file.write_all_at(&[9; 9000], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    file.set_len(5000).unwrap();
    file.allocate(5000, 60_000_000).unwrap();
    let mut tail = vec![1; 4000];
    file.read_exact_at(&mut tail, 5000).unwrap();
    assert!(tail.iter().all(|&b| b == 0));
    file.sync_data().unwrap();
    let bytes = content(&disk.crashed(&mut SeededRng::new(1)), "a").unwrap();
    assert_eq!(bytes.len(), 60_005_000);
    assert!(bytes[..5000].iter().all(|&b| b == 9) && bytes[5000..].iter().all(|&b| b == 0));
}

#[test]
fn a_mapping_sees_later_writes_and_refuses_what_lies_outside() {
    let disk = MemDisk::new();
    let file = create(&disk, "a");
    file.write_all_at(b"hello", 0).unwrap();
    let map = file.map(4096).unwrap();
    assert_eq!(&*map.peek(1, 3).unwrap(), b"ell");
    file.write_all_at(b"J", 0).unwrap();
    assert_eq!(&*map.clone().slice(0, 5).unwrap(), b"Jello");
    assert_eq!(
        map.peek(0, 6).unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof
    );
    assert_eq!(
        map.peek(4096, 1).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
}

/// A naive file beside the real thing: plain bytes for live content.
#[test]
fn reads_agree_with_a_plain_vector() {
    let mut rng = SeededRng::new(42);
    let disk = MemDisk::new();
    let file = create(&disk, "a");
    let mut model: Vec<u8> = Vec::new();
    for step in 0..3000u32 {
        match rng.below(10) {
            0 => {
                let len = rng.below(20_000) as usize;
                file.set_len(len as u64).unwrap();
                model.resize(len, 0);
            }
            1 => file.sync_data().unwrap(),
            2..6 => {
                let offset = rng.below(20_000) as usize;
                let data = vec![step as u8; rng.below(6000) as usize];
                file.write_all_at(&data, offset as u64).unwrap();
                if !data.is_empty() {
                    model.resize(model.len().max(offset + data.len()), 0);
                    model[offset..offset + data.len()].copy_from_slice(&data);
                }
            }
            _ => {
                let offset = rng.below(22_000) as usize;
                let mut buffer = vec![0xee; rng.below(6000) as usize];
                let n = file.read_at(&mut buffer, offset as u64).unwrap();
                let expected = model.get(offset..).unwrap_or_default();
                assert_eq!(&buffer[..n], &expected[..expected.len().min(buffer.len())]);
            }
        }
    }
}
