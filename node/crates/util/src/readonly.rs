//! A disk that is only looked at.

use std::io;
use std::path::Path;
use std::sync::Arc;

use seams::{Disk, DiskFile, Mapping, OpenMode};

/// Another disk, every file opened for reading, every change refused. Locks are looked for and not
/// kept, so that a look never keeps a member from starting.
#[derive(Debug)]
pub(crate) struct ReadOnly {
    pub(crate) disk: Arc<dyn Disk>,
    /// The caller holds the lock of the database itself.
    pub(crate) is_locked_by_us: bool,
}

#[derive(Debug)]
struct File {
    file: Arc<dyn DiskFile>,
    /// A second handle, for the lock; `None` where the caller has it.
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    disk: Arc<dyn Disk>,
    path: std::path::PathBuf,
}

/// What a defragmentation that was cut off leaves beside a database; whoever opens it would remove it.
const LEFTOVER: &str = ".tmp.";

fn refused() -> io::Error {
    io::Error::new(
        io::ErrorKind::ReadOnlyFilesystem,
        "this would change a disk that is only looked at",
    )
}

impl Disk for ReadOnly {
    fn open(&self, path: &Path, _: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File {
            file: self.disk.open(path, OpenMode::Read)?,
            probe: (!self.is_locked_by_us).then(|| Probe {
                disk: self.disk.clone(),
                path: path.to_owned(),
            }),
        }))
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn remove_file(&self, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn remove_dir_all(&self, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = self.disk.read_dir(path)?;
        names.retain(|name| !name.contains(LEFTOVER));
        Ok(names)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(refused())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(refused())
    }

    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Err(refused())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(refused())
    }

    fn sync_all(&self) -> io::Result<()> {
        Err(refused())
    }

    fn try_lock_exclusive(&self) -> io::Result<bool> {
        let Some(Probe { disk, path }) = &self.probe else {
            return Ok(true);
        };
        // Dropped at once, and the lock with it.
        disk.open(path, OpenMode::Read)?.try_lock_exclusive()
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        self.file.map(len)
    }
}
