//! A copy of a member's disk, whole or not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seams::{Disk, DiskFile, OpenMode};

use crate::survey::Paths;

/// Read and written at once. Stretches of zeros of this length are left out: a log's files are longer
/// than what is in them.
const PIECE_BYTES: usize = 1 << 16;

/// Deepest folder below a data directory: `member/snap` and `member/wal` are two deep.
const DEPTH_MAX: usize = 8;

/// Why there is no copy. Nothing is left of one that was begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// too small a disk
    #[error(
        "no room for the copy: {from} takes {needed} bytes, and {free} are free at {to}. Make room, or name another place with --copy-to"
    )]
    NoRoom {
        from: PathBuf,
        to: PathBuf,
        needed: u64,
        free: u64,
    },
    /// a copy of this name
    #[error("{0} is there already; name another place with --copy-to")]
    Exists(PathBuf),
    /// a file operation
    #[error("cannot {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// What a member's files take, and copying them.
pub(crate) struct Copy {
    disk: Arc<dyn Disk>,
    /// File by file: from, and where to below the copy.
    files: Vec<(PathBuf, PathBuf)>,
    folders: Vec<PathBuf>,
    /// What the copy will take.
    pub(crate) bytes: u64,
    from: PathBuf,
}

impl Copy {
    /// Everything below the data directory, and a log that lies elsewhere as `member/wal`.
    pub(crate) fn of(disk: &Arc<dyn Disk>, paths: &Paths) -> Result<Copy, Error> {
        let mut copy = Copy {
            disk: disk.clone(),
            files: Vec::new(),
            folders: Vec::new(),
            bytes: 0,
            from: paths.data_dir.clone(),
        };
        copy.add(&paths.data_dir, Path::new(""), DEPTH_MAX)?;
        if let Some(wal) = &paths.wal_dir
            && !wal.starts_with(&paths.data_dir)
        {
            copy.add(wal, Path::new("member/wal"), DEPTH_MAX)?;
        }
        Ok(copy)
    }

    fn add(&mut self, from: &Path, to: &Path, depth: usize) -> Result<(), Error> {
        let names = match self.disk.read_dir(from) {
            Ok(names) if depth > 0 => names,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                let file = self.disk.open(from, OpenMode::Read);
                let bytes = file.and_then(|file| pieces(&*file, |_, _| Ok(())));
                self.bytes += bytes.map_err(failed("look at", from))?;
                self.files.push((from.to_owned(), to.to_owned()));
                return Ok(());
            }
            Ok(_) => {
                let error = io::Error::other("folders lie too deep for a data directory");
                return Err(failed("copy", from)(error));
            }
            Err(error) => return Err(failed("list", from)(error)),
        };
        self.folders.push(to.to_owned());
        for name in names {
            self.add(&from.join(&name), &to.join(&name), depth - 1)?;
        }
        Ok(())
    }

    /// Copies to `to`, which is not there; durable and complete when this returns. `free` says how many
    /// bytes the file system of a folder has left.
    pub(crate) fn to(
        &self,
        to: &Path,
        free: &dyn Fn(&Path) -> io::Result<u64>,
    ) -> Result<(), Error> {
        let above = match to.parent() {
            Some(above) if above != Path::new("") => above,
            _ => Path::new("."),
        };
        if self.disk.exists(to).map_err(failed("look for", to))? {
            return Err(Error::Exists(to.to_owned()));
        }
        let free = free(above).map_err(failed("ask for the room at", above))?;
        if free < self.bytes {
            return Err(Error::NoRoom {
                from: self.from.clone(),
                to: above.to_owned(),
                needed: self.bytes,
                free,
            });
        }
        let mut partial = to.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        if self
            .disk
            .exists(&partial)
            .map_err(failed("look for", &partial))?
        {
            return Err(Error::Exists(partial));
        }
        let copied = self.copy(&partial).and_then(|()| {
            self.disk
                .rename(&partial, to)
                .and_then(|()| self.disk.sync_dir(above))
                .map_err(failed("finish the copy", to))
        });
        if copied.is_err() {
            // What failed first is what matters.
            let _ = self.disk.remove_dir_all(&partial);
        }
        copied
    }

    fn copy(&self, to: &Path) -> Result<(), Error> {
        let disk = &*self.disk;
        for folder in &self.folders {
            let folder = to.join(folder);
            disk.create_dir_all(&folder)
                .map_err(failed("make", &folder))?;
        }
        for (from, below) in &self.files {
            copy_file(disk, from, &to.join(below))?;
        }
        for folder in self.folders.iter().rev() {
            let folder = to.join(folder);
            disk.sync_dir(&folder).map_err(failed("sync", &folder))?;
        }
        Ok(())
    }
}

fn copy_file(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), Error> {
    let source = disk
        .open(from, OpenMode::Read)
        .map_err(failed("read", from))?;
    let target = disk
        .open(to, OpenMode::CreateNew)
        .map_err(failed("make", to))?;
    let len = source.len().map_err(failed("read", from))?;
    target.set_len(len).map_err(failed("write", to))?;
    let mut wrong_write = None;
    let copied = pieces(&*source, |offset, piece| {
        target.write_all_at(piece, offset).map_err(|error| {
            let kind = error.kind();
            wrong_write = Some(error);
            kind.into()
        })
    });
    match (wrong_write, copied) {
        (Some(error), _) => return Err(failed("write", to)(error)),
        (None, Err(error)) => return Err(failed("read", from)(error)),
        (None, Ok(_)) => {}
    }
    target.sync_all().map_err(failed("sync", to))
}

/// Goes through all pieces of a file that are not all zeros; the sum of their lengths.
fn pieces(
    file: &dyn DiskFile,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let len = file.len()?;
    let mut buffer = vec![0; PIECE_BYTES];
    let (mut offset, mut bytes) = (0, 0);
    while offset < len {
        let wanted =
            usize::try_from(len - offset).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let piece = &mut buffer[..wanted];
        file.read_exact_at(piece, offset)?;
        if piece.iter().any(|byte| *byte != 0) {
            each(offset, piece)?;
            bytes += wanted as u64;
        }
        offset += wanted as u64;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use seams::{Fault, FaultOperation, MemDisk, read_all};

    use super::*;

    const ROOM: u64 = 1 << 30;

    fn disk() -> Arc<dyn Disk> {
        let disk = MemDisk::new();
        write(&disk, "/d/member/snap/db", &[7; 100_000]);
        let mut log = vec![0; 200_000];
        log[..3].copy_from_slice(b"log");
        log[199_999] = 1;
        write(&disk, "/w/0.wal", &log);
        Arc::new(disk)
    }

    fn write(disk: &MemDisk, path: &str, bytes: &[u8]) {
        let path = Path::new(path);
        disk.create_dir_all(path.parent().expect("a folder"))
            .expect("made");
        let file = disk.open(path, OpenMode::CreateNew).expect("made");
        file.write_all_at(bytes, 0).expect("written");
    }

    fn paths() -> Paths {
        Paths {
            data_dir: "/d".into(),
            wal_dir: Some("/w".into()),
        }
    }

    #[test]
    fn every_byte_is_there_and_survives_a_power_cut() {
        let disk = disk();
        let copy = Copy::of(&disk, &paths()).expect("a disk");
        // Of the log the first and the last piece.
        assert_eq!(copy.bytes, 100_000 + 65_536 + 200_000 - 3 * 65_536);
        copy.to(Path::new("/c"), &|_| Ok(ROOM)).expect("room");
        for (from, to) in [
            ("/d/member/snap/db", "/c/member/snap/db"),
            ("/w/0.wal", "/c/member/wal/0.wal"),
        ] {
            let read = |path| read_all(&*disk, Path::new(path), ROOM).expect("a file");
            assert!(read(from) == read(to), "{to} differs");
        }
        let again = copy.to(Path::new("/c"), &|_| Ok(ROOM));
        assert!(matches!(again, Err(Error::Exists(_))));
    }

    #[test]
    fn without_room_nothing_is_begun() {
        let disk = disk();
        let copy = Copy::of(&disk, &paths()).expect("a disk");
        let refused = copy
            .to(Path::new("/c"), &|_| Ok(copy.bytes - 1))
            .expect_err("no room");
        let words = refused.to_string();
        assert!(
            words.contains("takes 168928 bytes, and 168927 are free"),
            "{words}"
        );
        assert_eq!(disk.read_dir(Path::new("/")).expect("the root"), ["d", "w"]);
    }

    #[test]
    fn a_copy_that_fails_half_way_leaves_nothing() {
        let real = MemDisk::new();
        write(&real, "/d/member/snap/db", &[7; 100_000]);
        real.inject(Fault {
            operation: FaultOperation::Write,
            after: 1,
            forever: true,
            os_error: 28, // ENOSPC
        });
        let disk: Arc<dyn Disk> = Arc::new(real);
        let paths = Paths {
            data_dir: "/d".into(),
            wal_dir: None,
        };
        let copy = Copy::of(&disk, &paths).expect("a disk");
        let refused = copy.to(Path::new("/c"), &|_| Ok(ROOM)).expect_err("full");
        assert!(refused.to_string().contains("cannot write"), "{refused}");
        assert_eq!(disk.read_dir(Path::new("/")).expect("the root"), ["d"]);
    }
}
