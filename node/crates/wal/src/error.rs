//! What can go wrong with the log.

use std::io;
use std::path::{Path, PathBuf};

/// Why the log cannot be read or written. Except for [`Error::Unavailable`], which is the moment's,
/// all of them are the node's: the member stops and does not answer.
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
    /// There is no log in the directory.
    #[error("no .wal file in {dir}")]
    NotFound {
        /// The log's directory.
        dir: PathBuf,
    },
    /// A new log was asked for where one is.
    #[error("{dir} holds a log already")]
    AlreadyExists {
        /// The log's directory.
        dir: PathBuf,
    },
    /// Another process has the log open.
    #[error("{file} is locked: another member runs on this directory")]
    Locked {
        /// The locked segment.
        file: PathBuf,
    },
    /// A record is not what was written.
    #[error("{file} is damaged at offset {offset}: expected {expected}, found {found}")]
    Corrupt {
        /// The segment.
        file: PathBuf,
        /// Where the frame begins.
        offset: u64,
        /// What an intact log has there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// No segment begins at or before the snapshot.
    #[error("no segment in {dir} reaches back to the snapshot at index {index}")]
    SegmentNotFound {
        /// The log's directory.
        dir: PathBuf,
        /// The snapshot's index.
        index: u64,
    },
    /// A segment between others is missing.
    #[error("segments in {dir} are not consecutive: {after:016x} is followed by {found:016x}")]
    SegmentMissing {
        /// The log's directory.
        dir: PathBuf,
        /// Sequence number before the hole.
        after: u64,
        /// Sequence number after it.
        found: u64,
    },
    /// The log has no record of the snapshot it should start from.
    #[error("the log has no record of the snapshot at index {index}, term {term}")]
    SnapshotNotFound {
        /// The snapshot's index.
        index: u64,
        /// The snapshot's term.
        term: u64,
    },
    /// The log knows another snapshot at that index.
    #[error("the log has a snapshot at index {index} of term {found}, expected term {expected}")]
    SnapshotMismatch {
        /// The snapshot's index.
        index: u64,
        /// The term asked for.
        expected: u64,
        /// The term in the log.
        found: u64,
    },
    /// Segments of different members or clusters lie in one directory.
    #[error("{file} belongs to member {found}, the segments before it to {expected}")]
    MetadataConflict {
        /// The segment that differs.
        file: PathBuf,
        /// Member and cluster of the segments before.
        expected: String,
        /// Member and cluster of this one.
        found: String,
    },
    /// Entries are missing between two that are there.
    #[error("{file} goes on with entry {found} at offset {offset}, expected at most {expected}")]
    EntryMissing {
        /// The segment.
        file: PathBuf,
        /// Where the frame begins.
        offset: u64,
        /// The highest index that would be without a hole.
        expected: u64,
        /// The index found.
        found: u64,
    },
    /// An earlier error stopped the log.
    #[error("the log has stopped after: {reason}")]
    Stopped {
        /// The earlier error.
        reason: String,
    },
    /// Entries asked for are no longer, or not yet, in the files.
    #[error("entry {from} is not in the log's files")]
    Unavailable {
        /// The first index asked for.
        from: u64,
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
