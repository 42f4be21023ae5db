//! The operating system's disk.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::disk::{Disk, DiskFile, Look, MapSlice, Mapping, OpenMode, outside_mapping};
use crate::mmap::{self, MappedRegion};

/// etcd's modes: nobody but the owner.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// Files and directories of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(FILE_MODE);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::Create => options.write(true).create(true),
            OpenMode::CreateNew => options.write(true).create_new(true),
        };
        let file = options.open(path)?;
        Ok(Arc::new(RealFile {
            file,
            path: path.to_owned(),
            writable: mode != OpenMode::Read,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn look(&self, path: &Path) -> io::Result<Option<Look>> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH);
        Ok(Some(Look {
            is_dir: metadata.is_dir(),
            mode: metadata.permissions().mode(),
            modified: modified.unwrap_or_default(),
        }))
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    /// The name at opening; only for messages.
    path: PathBuf,
    writable: bool,
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buffer, offset)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match mmap::fallocate(&self.file, offset, len) {
            // As etcd: where the file system cannot reserve, the file at least has the size.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let end = offset + len;
                if self.len()? < end {
                    self.file.set_len(end)
                } else {
                    Ok(())
                }
            }
            result => result,
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Takes both kinds of lock, which do not see each other on Linux: etcd locks its WAL files by
    /// open file description (fcntl), bbolt its database by flock. A descriptor for reading cannot
    /// hold an exclusive fcntl lock and takes the flock only.
    fn try_lock_exclusive(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if !self.writable {
            return Ok(true);
        }
        let locked = mmap::try_lock_description(&self.file);
        if !matches!(locked, Ok(true)) {
            self.file.unlock()?;
        }
        locked
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        let region = Arc::new(MappedRegion::new(&self.file, &self.path, len)?);
        Ok(Arc::new(RealMapping { region }))
    }
}

#[derive(Debug)]
struct RealMapping {
    region: Arc<MappedRegion>,
}

impl RealMapping {
    fn check(&self, offset: u64, len: usize) -> io::Result<usize> {
        let mapped = self.region.len() as u64;
        match offset.checked_add(len as u64) {
            Some(end) if end <= mapped => Ok(offset as usize),
            _ => Err(outside_mapping(offset, len, mapped)),
        }
    }
}

impl Mapping for RealMapping {
    fn len(&self) -> u64 {
        self.region.len() as u64
    }

    fn peek(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        let offset = self.check(offset, len)?;
        Ok(Cow::Borrowed(self.region.bytes(offset, len)))
    }

    fn slice(self: Arc<Self>, offset: u64, len: usize) -> io::Result<MapSlice> {
        let offset = self.check(offset, len)?;
        Ok(MapSlice::mapped(self.region.clone(), offset, len))
    }
}
