//! The operating system's disk, as the rooms rely on it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use seams::{Disk, OpenMode, RealDisk};

#[test]
fn files_are_private_and_locks_exclude() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("member/wal");
    RealDisk.create_dir_all(&sub).unwrap();
    assert_eq!(
        std::fs::metadata(&sub).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let path = sub.join("a");
    assert!(RealDisk.open(&path, OpenMode::ReadWrite).is_err());
    let first = RealDisk.open(&path, OpenMode::CreateNew).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(RealDisk.open(&path, OpenMode::CreateNew).is_err());
    let second = RealDisk.open(&path, OpenMode::Create).unwrap();
    assert!(first.try_lock_exclusive().unwrap());
    assert!(!second.try_lock_exclusive().unwrap());
    drop(first);
    assert!(second.try_lock_exclusive().unwrap());
    assert_eq!(RealDisk.read_dir(&sub).unwrap(), ["a"]);
}

#[test]
fn allocate_grows_with_zeros_and_a_mapping_sees_writes() {
    let dir = tempfile::tempdir().unwrap();
    let file = RealDisk
        .open(&dir.path().join("a"), OpenMode::Create)
        .unwrap();
    file.allocate(0, 10_000).unwrap();
    assert_eq!(file.len().unwrap(), 10_000);
    let map = file.map(1 << 20).unwrap();
    assert_eq!(&*map.peek(9_000, 3).unwrap(), [0, 0, 0]);
    file.write_all_at(b"abc", 9_000).unwrap();
    let slice = map.clone().slice(9_000, 3).unwrap();
    file.sync_data().unwrap();
    drop(map);
    drop(file);
    assert_eq!(&*slice, b"abc", "a slice keeps the mapping alive");
    assert_eq!(slice.into_bytes(), "abc");
}

/// Run alone in a process of its own by the test below: it touches a mapped page behind the end
/// of a file that was cut.
#[test]
fn fault_child() {
    let Some(path) = std::env::var_os("SEAMS_FAULT_FILE") else {
        return;
    };
    seams::install_fault_handler().unwrap();
    let file = RealDisk.open(path.as_ref(), OpenMode::ReadWrite).unwrap();
    let map = file.map(64 * 1024).unwrap();
    file.set_len(4096).unwrap();
    let byte = map.peek(40_000, 1).unwrap()[0];
    panic!("read {byte} where nothing is");
}

#[test]
fn a_fault_on_a_mapping_ends_the_process_with_file_and_offset() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    RealDisk
        .open(&path, OpenMode::Create)
        .unwrap()
        .allocate(0, 64 * 1024)
        .unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fault_child", "--nocapture"])
        .env("SEAMS_FAULT_FILE", &path)
        .output()
        .unwrap();
    assert_eq!(
        output.status.signal(),
        Some(7),
        "SIGBUS: {:?}",
        output.status
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    let expected = format!("file {}, offset 40000\n", path.display());
    assert!(stderr.contains(&expected), "{stderr:?} lacks {expected:?}");
}
