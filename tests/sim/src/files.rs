//! Snapshot files beside the database.

use std::io;
use std::path::{Path, PathBuf};

use prost::Message as _;
use raftpb::Snapshot;
use seams::{Disk, OpenMode, read_all};
use wal::SnapshotRecord;

use crate::recovery::Paths;

/// Snapshot files in the simulation are far smaller.
const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error { path, source }
}

/// Makes a directory and those above it, durably.
pub fn make_dir(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    disk.create_dir_all(dir).map_err(at(dir))?;
    disk.sync_dir(dir).map_err(at(dir))
}

/// Writes a file durably, under a temporary name first.
pub fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let file = disk.open(&temporary, OpenMode::Create).map_err(at(path))?;
    file.set_len(0).map_err(at(path))?;
    file.write_all_at(bytes, 0).map_err(at(path))?;
    file.sync_all().map_err(at(path))?;
    disk.rename(&temporary, path).map_err(at(path))?;
    let dir = path.parent().unwrap_or(path);
    disk.sync_dir(dir).map_err(at(dir))
}

/// Writes a `.snap` file.
pub fn save_snapshot(disk: &dyn Disk, paths: &Paths, snapshot: &Snapshot) -> Result<(), Error> {
    let name = format!("{:016x}-{:016x}.snap", snapshot.term(), snapshot.index());
    write(disk, &paths.snap.join(name), &snapshot.encode_to_vec())
}

/// The newest snapshot for which the WAL vouches.
pub fn newest_snapshot(
    disk: &dyn Disk,
    dir: &Path,
    vouched: &[SnapshotRecord],
) -> Result<Option<Snapshot>, Error> {
    for record in vouched.iter().rev() {
        let name = format!("{:016x}-{:016x}.snap", record.term, record.index);
        let path = dir.join(name);
        if disk.exists(&path).map_err(at(&path))? {
            let bytes = read_all(disk, &path, SNAPSHOT_BYTES_MAX).map_err(at(&path))?;
            let snapshot = Snapshot::decode(bytes.as_slice())
                .map_err(|error| at(&path)(io::Error::other(error)))?;
            return Ok(Some(snapshot));
        }
    }
    Ok(None)
}

/// Where the database of a received snapshot waits to be put in place.
pub fn received_database(paths: &Paths, index: u64) -> PathBuf {
    paths.snap.join(format!("{index:016x}.snap.db"))
}

/// Puts the database of a received snapshot in place.
pub fn install_database(disk: &dyn Disk, paths: &Paths, index: u64) -> Result<(), Error> {
    let received = received_database(paths, index);
    disk.rename(&received, &paths.db).map_err(at(&received))?;
    disk.sync_dir(&paths.snap).map_err(at(&paths.snap))
}
