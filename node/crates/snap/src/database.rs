//! Databases that a leader sends to a member that fell too far behind.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seams::DiskFile;

use crate::{Error, Snapshotter};

/// Bytes moved at once from a reader to the disk.
const COPY_BYTES: usize = 1 << 20;

/// A database that is being received. Dropped before [`DatabaseReceiver::finish`], it leaves
/// nothing behind.
#[derive(Debug)]
pub struct DatabaseReceiver {
    snapshotter: Snapshotter,
    index: u64,
    file: Arc<dyn DiskFile>,
    temporary: Option<PathBuf>,
    written: u64,
}

impl Snapshotter {
    /// Where the database of the snapshot at `index` lies, if it was received.
    pub fn database_path(&self, index: u64) -> PathBuf {
        self.dir.join(format!("{index:016x}.snap.db"))
    }

    /// Begins to receive the database of the snapshot at `index`.
    pub fn receive_database(&self, index: u64) -> Result<DatabaseReceiver, Error> {
        let (temporary, file) = self.temporary()?;
        let snapshotter = self.clone();
        Ok(DatabaseReceiver {
            snapshotter,
            index,
            file,
            temporary: Some(temporary),
            written: 0,
        })
    }

    /// Saves the database of the snapshot at `index` from a reader; returns its bytes.
    pub fn save_database(&self, index: u64, reader: &mut dyn Read) -> Result<u64, Error> {
        let mut receiver = self.receive_database(index)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => receiver.write(&buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::io("receive", &self.database_path(index), source));
                }
            }
        }
        let written = receiver.written();
        receiver.finish()?;
        Ok(written)
    }

    /// Removes received databases older than the snapshot at `index`, which were installed or passed
    /// over. Returns their names.
    pub fn release_databases(&self, index: u64) -> Result<Vec<String>, Error> {
        let mut names = self.names(|name| {
            let digits = name.strip_suffix(".snap.db");
            let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
            number.is_some_and(|number| number < index)
        })?;
        names.sort_unstable();
        for name in &names {
            self.remove(name)?;
        }
        Ok(names)
    }
}

impl DatabaseReceiver {
    /// Appends what came.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let failed = |source| {
            Error::io(
                "write",
                self.temporary.as_deref().unwrap_or(Path::new("")),
                source,
            )
        };
        self.file
            .write_all_at(bytes, self.written)
            .map_err(failed)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Bytes received so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes the database durable under its name and returns that. Only now may the snapshot's
    /// message be given to raft: a record in the log must never come before its database.
    pub fn finish(mut self) -> Result<PathBuf, Error> {
        let temporary = self.temporary.take().expect("a receiver is finished once");
        let target = self.snapshotter.database_path(self.index);
        let synced = self
            .file
            .sync_all()
            .map_err(|source| Error::io("sync", &temporary, source));
        let published = synced.and_then(|()| self.snapshotter.publish(&temporary, &target));
        self.snapshotter.keep_or_remove(published, &temporary)?;
        Ok(target)
    }
}

impl Drop for DatabaseReceiver {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // Best effort: the next start removes it too.
            let _ = self.snapshotter.disk.remove_file(&temporary);
        }
    }
}
