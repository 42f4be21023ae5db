//! Snapshot files, in etcd's format and under etcd's names.
//!
//! ```text
//!  member/snap/
//!    db                                          the database; the backend's, not ours
//!    0000000000000005-000000000000a3f1.snap      <term>-<index>: a raft snapshot without the data
//!    000000000000a3f1.snap.db                    <index>: a database that a leader sent
//!    tmp…                                        being written; leftovers go at start
//!    db.tmp…                                     leftovers of a defragmentation; the same
//!    ….snap.broken                               could not be read, put aside
//! ```
//!
//! A `.snap` file marks that the log before its index is not needed, and carries membership in
//! etcd's old JSON, for releases that still read it. The state itself is in the database.
//!
//! Every file is written under a temporary name, synced, renamed, and the directory synced, so a
//! name means a whole file: what [`Snapshotter::save`] or [`DatabaseReceiver::finish`] has
//! acknowledged is there after a power cut, and what it has not is there whole or not at all.
//!
//! What this room does not know: the log (the order is the caller's: file first, then the log's
//! record), what is in a snapshot, the network, logging. The format is in `docs/formats.md`.
#![forbid(unsafe_code)]

mod database;
#[cfg(test)]
mod tests;

pub use database::DatabaseReceiver;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use prost::Message;
use raftpb::Snapshot;
use seams::{Disk, DiskFile, OpenMode};

/// Largest `.snap` file that is read: etcd's limit for a snapshot message between peers
/// (`snapshotLimitByte`). Ours are a few kilobytes; one from a cluster with old v2 keys may be large.
pub const SNAP_BYTES_MAX: u64 = 512 << 20;

/// Why a snapshot file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The disk's answer.
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("{file} is damaged: expected {expected}, found {found}")]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What an intact file has.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}

/// What [`Snapshotter::load_newest_available`] found.
#[derive(Debug, Default)]
pub struct Newest {
    /// The newest snapshot that the log vouches for.
    pub snapshot: Option<Snapshot>,
    /// Files that could not be read; they are named `.broken` now.
    pub broken: Vec<Error>,
}

/// The snapshot directory. Clones are the same directory; any thread may use one.
#[derive(Debug, Clone)]
pub struct Snapshotter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    temporaries: Arc<AtomicU64>,
}

/// snappb.snapshot.
#[derive(Clone, PartialEq, Message)]
struct SnapFile {
    #[prost(uint32, optional, tag = "1")]
    crc: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    data: Option<Bytes>,
}

impl Snapshotter {
    /// The snapshot files of `dir`, which exists.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path) -> Snapshotter {
        Snapshotter {
            disk,
            dir: dir.to_owned(),
            temporaries: Arc::default(),
        }
    }

    /// For the start: removes what an earlier run left unfinished, and makes the names that it left
    /// durable. Returns the names of the removed files.
    pub fn clean_up(&self) -> Result<Vec<String>, Error> {
        let mut removed =
            self.names(|name| name.starts_with("tmp") || name.starts_with("db.tmp"))?;
        removed.retain(|name| name != "db");
        for name in &removed {
            self.remove(name)?;
        }
        self.sync_dir()?;
        Ok(removed)
    }

    /// Writes `<term>-<index>.snap`; durable when this returns. Nothing for an empty snapshot.
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let (index, term) = position(snapshot);
        if index == 0 {
            return Ok(());
        }
        let data = snapshot.encode_to_vec();
        let crc = crc32c::crc32c(&data);
        let content = SnapFile {
            crc: Some(crc),
            data: Some(data.into()),
        }
        .encode_to_vec();
        let (temporary, file) = self.temporary()?;
        let written = file
            .write_all_at(&content, 0)
            .and_then(|()| file.sync_all())
            .map_err(|source| Error::io("write", &temporary, source));
        let target = self.dir.join(format!("{term:016x}-{index:016x}.snap"));
        self.keep_or_remove(
            written.and_then(|()| self.publish(&temporary, &target)),
            &temporary,
        )
    }

    /// The newest snapshot whose index and term are among `vouched` (the log's valid snapshots).
    /// Damaged files are renamed to `.broken` on the way and passed over.
    pub fn load_newest_available(
        &self,
        vouched: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<Newest, Error> {
        let vouched: Vec<(u64, u64)> = vouched.into_iter().collect();
        let mut newest = Newest::default();
        for name in self
            .names(|name| name.ends_with(".snap"))?
            .into_iter()
            .rev()
        {
            let path = self.dir.join(&name);
            match read(&*self.disk, &path) {
                Ok(snapshot) if vouched.contains(&position(&snapshot)) => {
                    newest.snapshot = Some(snapshot);
                    break;
                }
                Ok(_) => {}
                Err(error @ Error::Corrupt { .. }) => {
                    let broken = self.dir.join(format!("{name}.broken"));
                    self.disk
                        .rename(&path, &broken)
                        .map_err(|source| Error::io("rename", &path, source))?;
                    newest.broken.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(newest)
    }

    /// Removes the oldest `.snap` files and the oldest `.snap.db` files while there are more than
    /// `files_max` of each; 0 means no limit. Returns the names of those removed.
    pub fn purge(&self, files_max: usize) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        if files_max == 0 {
            return Ok(removed);
        }
        for suffix in [".snap", ".snap.db"] {
            let names = self.names(|name| name.ends_with(suffix))?;
            let excess = names.len().saturating_sub(files_max);
            for name in names.into_iter().take(excess) {
                self.remove(&name)?;
                removed.push(name);
            }
        }
        Ok(removed)
    }

    /// Names in the directory, oldest first: they sort by term and index.
    fn names(&self, filter: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
        let mut names = self
            .disk
            .read_dir(&self.dir)
            .map_err(|source| Error::io("list", &self.dir, source))?;
        names.retain(|name| filter(name));
        Ok(names)
    }

    /// Removes a file; another thread may have been faster.
    fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.dir.join(name);
        match self.disk.remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path, source))
            }
            _ => Ok(()),
        }
    }

    fn temporary(&self) -> Result<(PathBuf, Arc<dyn DiskFile>), Error> {
        loop {
            let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
            let path = self.dir.join(format!("tmp{number}"));
            match self.disk.open(&path, OpenMode::CreateNew) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::io("make", &path, source)),
            }
        }
    }

    /// Gives a synced temporary file its name, durably.
    fn publish(&self, temporary: &Path, target: &Path) -> Result<(), Error> {
        self.disk
            .rename(temporary, target)
            .map_err(|source| Error::io("rename", temporary, source))?;
        self.sync_dir()
    }

    fn keep_or_remove<T>(&self, result: Result<T, Error>, temporary: &Path) -> Result<T, Error> {
        if result.is_err() {
            // Best effort: the next start removes it too.
            let _ = self.disk.remove_file(temporary);
        }
        result
    }

    fn sync_dir(&self) -> Result<(), Error> {
        self.disk
            .sync_dir(&self.dir)
            .map_err(|source| Error::io("sync", &self.dir, source))
    }
}

/// Reads one `.snap` file.
pub fn read(disk: &dyn Disk, path: &Path) -> Result<Snapshot, Error> {
    let corrupt = |expected: &str, found: String| Error::Corrupt {
        file: path.to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let content = match seams::read_all(disk, path, SNAP_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(corrupt("a file of at most 512 MiB", error.to_string()));
        }
        content => Bytes::from(content.map_err(|source| Error::io("read", path, source))?),
    };
    let file =
        SnapFile::decode(content).map_err(|error| corrupt("a snapshot file", error.to_string()))?;
    let (crc, data) = (file.crc.unwrap_or_default(), file.data.unwrap_or_default());
    // etcd's rule: what was never written is zero, so a zero checksum counts as none.
    if crc == 0 || data.is_empty() {
        return Err(corrupt(
            "a checksum and data",
            format!("{crc:08x} and {} bytes", data.len()),
        ));
    }
    let found = crc32c::crc32c(&data);
    if found != crc {
        return Err(corrupt(
            &format!("data with checksum {crc:08x}"),
            format!("{found:08x}"),
        ));
    }
    Snapshot::decode(data).map_err(|error| corrupt("a raft snapshot", error.to_string()))
}

/// Index and term of a snapshot.
fn position(snapshot: &Snapshot) -> (u64, u64) {
    snapshot
        .metadata
        .as_ref()
        .map_or((0, 0), |metadata| (metadata.index, metadata.term))
}
