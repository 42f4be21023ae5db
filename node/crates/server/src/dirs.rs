//! The directories of a member: whether they can be used, made for a first start, and unmade when
//! that start fails after all (promise 1).

use std::io;
use std::path::{Path, PathBuf};

use seams::{Disk, OpenMode};

use crate::boot::Error;
use crate::config::Config;

/// Made and removed again, to see whether a directory takes files; etcd's name for it.
const TOUCH: &str = ".touch";

/// Looks at what is there already: rights first, so that the answer is not "no log".
pub fn check(disk: &dyn Disk, config: &Config) -> Result<(), Error> {
    for dir in [Some(config.data_dir.clone()), config.wal_dir.clone()] {
        let Some(dir) = dir.filter(|dir| !dir.as_os_str().is_empty()) else {
            continue;
        };
        let Some(look) = disk.look(&dir).map_err(Error::io("use", &dir))? else {
            continue;
        };
        if !look.is_dir {
            let source = io::ErrorKind::NotADirectory.into();
            return Err(Error::io("use", &dir)(source));
        }
        if look.mode & 0o077 != 0 {
            tracing::warn!(
                "{} has mode {:04o}, and others can look into it: `chmod 700 {}`",
                dir.display(),
                look.mode & 0o7777,
                dir.display()
            );
        }
    }
    for dir in [config.member_dir(), config.snap_dir(), config.wal_dir()] {
        if disk.exists(&dir).map_err(Error::io("use", &dir))? {
            let file = dir.join(TOUCH);
            disk.open(&file, OpenMode::Create)
                .map(drop)
                .and_then(|()| disk.remove_file(&file))
                .map_err(Error::io("write to", &dir))?;
        }
    }
    Ok(())
}

/// What a first start has made, as long as it may still fail.
pub struct Made<'a> {
    disk: &'a dyn Disk,
    /// The uppermost directories that were not there before.
    roots: Vec<PathBuf>,
    keep: bool,
}

impl<'a> Made<'a> {
    /// Makes the data directory with those for the database and snapshots in it; the log makes its
    /// own.
    pub fn make(disk: &'a dyn Disk, config: &Config) -> Result<Made<'a>, Error> {
        let snap = config.snap_dir();
        let mut made = Made {
            disk,
            roots: Vec::new(),
            keep: false,
        };
        let wal = config.wal_dir();
        let mut building = wal.clone().into_os_string();
        building.push(".tmp");
        for dir in [&snap, &wal, &PathBuf::from(building)] {
            made.roots.extend(missing_root(disk, dir)?);
        }
        for dir in [&config.data_dir, &config.member_dir(), &snap] {
            disk.create_dir_all(dir).map_err(Error::io("make", dir))?;
        }
        Ok(made)
    }

    /// The start has succeeded.
    pub fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for root in &self.roots {
            match self.disk.remove_dir_all(root) {
                Ok(()) => tracing::info!(
                    "removed {} again: the start that made it failed",
                    root.display()
                ),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot remove {}, which a failed start made", root.display());
                }
            }
        }
    }
}

/// The uppermost directory on the way to `dir` that is not there.
fn missing_root(disk: &dyn Disk, dir: &Path) -> Result<Option<PathBuf>, Error> {
    let mut missing = None;
    for dir in dir.ancestors() {
        if dir.as_os_str().is_empty() || disk.exists(dir).map_err(Error::io("use", dir))? {
            break;
        }
        missing = Some(dir.to_owned());
    }
    Ok(missing)
}

/// What to do about an error of the disk.
pub fn remedy(error: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::PermissionDenied => {
            ": give it to the user that runs this member (`chown -R`), with mode 0700"
        }
        Kind::NotADirectory => {
            ": it is a file, or lies under one; move that away, or give another directory"
        }
        Kind::StorageFull | Kind::QuotaExceeded => ": make room on that disk",
        Kind::ReadOnlyFilesystem => {
            ": its file system is read-only; mount it for writing, or give another directory"
        }
        Kind::NotFound => ": it is not there; give the directory that this member had",
        _ => ": look at that disk and its file system (`dmesg`)",
    }
}
