//! The disk as the rooms see it.

use std::borrow::Cow;
use std::fmt::Debug;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::mmap::MappedRegion;

/// How [`Disk::open`] opens a file. New files have mode 0600 (etcd's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist; writes fail.
    Read,
    /// The file must exist.
    ReadWrite,
    /// Made if absent; an existing file keeps its content.
    Create,
    /// Made; an existing file is an error (`AlreadyExists`).
    CreateNew,
}

/// Files and directories. Paths are absolute, or relative to the working directory.
///
/// A new, renamed or removed name is durable only after [`Disk::sync_dir`] of its directory (of
/// both directories, when a rename crosses them). Until then a power cut may undo any of them,
/// independently of one another; a single rename is atomic.
pub trait Disk: Send + Sync + Debug {
    /// Opens or makes a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file or a directory; an existing file at `to` is replaced atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; open handles and mappings of it go on.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all in it; `NotFound` if absent.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory and those above it, mode 0700; fine if it exists.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Names in a directory, sorted; those that are not UTF-8 are left out, since none is ours.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes the names in a directory durable (and the directory's own place above it, as the
    /// journals of ext4, xfs and btrfs do).
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether there is a file or directory of this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// What is there of this name; `None` if nothing is, or if this disk does not tell.
    fn look(&self, _path: &Path) -> io::Result<Option<Look>> {
        Ok(None)
    }
}

/// What a look at a name finds. For people: nothing may depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// A directory, not a file.
    pub is_dir: bool,
    /// Rights, as of chmod.
    pub mode: u32,
    /// When it was last changed, since 1970.
    pub modified: Duration,
}

/// An open file. Offsets are from its start; there is no cursor, so handles are shared freely.
pub trait DiskFile: Send + Sync + Debug {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds no byte.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file, or lets it grow with zeros that take no space yet.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Fills `buffer` from `offset`, or `UnexpectedEof`.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buffer = &mut buffer[n..];
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
    /// Writes all of `buffer` at `offset`. After an error any part of it may have been written.
    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()>;
    /// Reserves space for `offset..offset + len`; the file grows if it was shorter, and what was
    /// not written before reads as zeros. An error leaves the file as it was or partly grown.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// fdatasync: what was written, and the length, are durable when this returns. After an error
    /// nothing written since the last success may be trusted, also if a later call succeeds.
    fn sync_data(&self) -> io::Result<()>;
    /// fsync: as [`DiskFile::sync_data`], with times and modes.
    fn sync_all(&self) -> io::Result<()>;
    /// Takes the exclusive lock of the file without waiting: false if another handle has it.
    /// Released when this handle is dropped. Excludes etcd and bbolt too (see `RealDisk`).
    fn try_lock_exclusive(&self) -> io::Result<bool>;
    /// A read-only, shared mapping of the first `len` bytes. It may be longer than the file (the
    /// file may grow into it), but bytes beyond the file's end must not be asked for.
    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>>;
}

/// A mapped file. Bytes that were handed out must not be written to the file while they are held:
/// the backend's copy-on-write keeps that, for it never writes to a page that a reader can see.
pub trait Mapping: Send + Sync + Debug {
    /// Mapped bytes; may exceed the file.
    fn len(&self) -> u64;
    /// Whether nothing is mapped.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes `offset..offset + len` for as long as the borrow lives: no counter is touched, no byte
    /// copied (on the real disk). `InvalidInput` outside the mapping.
    fn peek(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>>;
    /// Bytes `offset..offset + len` that keep the mapping alive. `InvalidInput` outside the mapping.
    fn slice(self: Arc<Self>, offset: u64, len: usize) -> io::Result<MapSlice>;
}

/// Bytes of a mapping; keeps the mapping alive.
#[derive(Clone)]
pub struct MapSlice(Slice);

#[derive(Clone)]
enum Slice {
    Mapped {
        region: Arc<MappedRegion>,
        offset: usize,
        len: usize,
    },
    Copied(Bytes),
}

impl MapSlice {
    /// A slice of a real mapping. The caller has checked that it lies inside.
    pub(crate) fn mapped(region: Arc<MappedRegion>, offset: usize, len: usize) -> MapSlice {
        MapSlice(Slice::Mapped {
            region,
            offset,
            len,
        })
    }

    /// A slice that owns its bytes; for disks that have no mappings.
    pub fn copied(bytes: Bytes) -> MapSlice {
        MapSlice(Slice::Copied(bytes))
    }

    /// As [`Bytes`], without a copy.
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Slice::Copied(bytes) => bytes,
            Slice::Mapped { .. } => Bytes::from_owner(self),
        }
    }
}

impl Deref for MapSlice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Slice::Mapped {
                region,
                offset,
                len,
            } => region.bytes(*offset, *len),
            Slice::Copied(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for MapSlice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Debug for MapSlice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MapSlice({} bytes)", self.len())
    }
}

/// Reads a whole file, but no more than `bytes_max` (`FileTooLarge` beyond it), so that a wrong file
/// in our directory cannot take all memory.
pub fn read_all(disk: &dyn Disk, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!(
                "{} has {len} bytes, at most {bytes_max} are expected",
                path.display()
            ),
        ));
    }
    let mut content = vec![0; len as usize];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

/// The error for a slice outside a mapping.
pub(crate) fn outside_mapping(offset: u64, len: usize, mapped: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("bytes {offset}+{len} lie outside the mapping of {mapped} bytes"),
    )
}
