//! What can go wrong between us and the file.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// An error of the database file. All but [`Error::Locked`] and [`Error::Full`] mean that the member must stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process (or another handle of this one) has the file.
    #[error(
        "database {path} is locked by another process: stop the etcd, quorate or bbolt that uses it, then start again"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Neither meta page carries bolt's magic number.
    #[error(
        "{path} is not a bolt database: magic {seen:#010x} where {expected:#010x} was expected, {len} bytes long; restore it from a snapshot, or remove it if this member is new"
    )]
    NotBolt {
        /// The file.
        path: PathBuf,
        /// The four bytes seen.
        seen: u32,
        /// bolt's magic number.
        expected: u32,
        /// Length of the file.
        len: u64,
    },
    /// A bolt file of another format version, or with a page size that we do not read.
    #[error("database {path} cannot be read: {what}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What was seen, and what is expected.
        what: String,
    },
    /// Both meta pages fail their checks.
    #[error(
        "database {path} has no sound meta page: page 0: {first}; page 1: {second}; restore this member from a snapshot, or remove it from the cluster and add it anew"
    )]
    BadMeta {
        /// The file.
        path: PathBuf,
        /// What is wrong with meta page 0.
        first: String,
        /// What is wrong with meta page 1.
        second: String,
    },
    /// The file ends before the pages that its meta page speaks of.
    #[error(
        "database {path} is cut short: it has {len} bytes, its meta page speaks of {needed}; restore this member from a snapshot, or remove it from the cluster and add it anew"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes seen.
        len: u64,
        /// Bytes that the meta page speaks of.
        needed: u64,
    },
    /// A page that cannot be what it should be. The byte offset is `page` times `page_size`.
    #[error(
        "database {file} is damaged: page {page} (offset {}): {what}; restore this member from a snapshot, or remove it from the cluster and add it anew",
        page.saturating_mul(*.page_size)
    )]
    DamagedPage {
        /// The file.
        file: PathBuf,
        /// The page.
        page: u64,
        /// Bytes of a page in this file.
        page_size: u64,
        /// What was seen, and what was expected.
        what: String,
    },
    /// No room on the disk. Nothing committed is lost; the batch stays pending and visible, and the
    /// commit can be tried again when there is room.
    #[error(
        "no room on the disk for database {path} while it had to {action}: {source}; free space, the commit is tried again"
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The disk failed.
    #[error("cannot {action} database {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Whether trying the same again later can succeed without repair by a person.
    pub fn can_be_retried(&self) -> bool {
        matches!(self, Error::Full { .. } | Error::Locked { .. })
    }

    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Error {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full {
                path,
                action,
                source,
            },
            _ => Error::Io {
                path,
                action,
                source,
            },
        }
    }
}

/// Damage seen by code that does not know the file; [`crate::pages::Pages`] adds path and page size.
#[derive(Debug)]
pub(crate) enum Damage {
    Page { page: u64, what: Cow<'static, str> },
    Io(io::Error),
}

impl Damage {
    pub(crate) fn new(page: u64, what: impl Into<Cow<'static, str>>) -> Damage {
        Damage::Page {
            page,
            what: what.into(),
        }
    }
}
