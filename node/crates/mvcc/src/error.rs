//! What can go wrong in the store.

/// Errors of the store.
///
/// `Compacted` and `Future` are the client's: every member gives the same answer to the
/// same request at the same revision. The others are this node's, and it must stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The revision asked for lies below the compaction.
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    /// The revision asked for does not exist yet.
    #[error("mvcc: required revision is a future revision")]
    Future,
    /// A key in the bucket `key` is not a revision.
    #[error("malformed record key {key:02x?} in bucket key: want 17 or 18 bytes, main '_' sub")]
    MalformedRecordKey {
        /// The bytes found.
        key: Vec<u8>,
    },
    /// A value in the bucket `key` is not a key-value pair.
    #[error("malformed record at revision {}.{}: {what}", at.main, at.sub)]
    MalformedRecord {
        /// The record.
        at: crate::Revision,
        /// What was wrong.
        what: String,
    },
    /// A record that the index knows is not in the backend.
    #[error("no record at revision {}.{}, which the index names", at.main, at.sub)]
    MissingRecord {
        /// The record.
        at: crate::Revision,
    },
    /// A value in the bucket `meta` is not a revision.
    #[error("malformed {name} in bucket meta: {value:02x?}, want a revision of 17 bytes")]
    MalformedMeta {
        /// The key.
        name: &'static str,
        /// The bytes found.
        value: Vec<u8>,
    },
    /// The backend could not read or write.
    #[error(transparent)]
    Backend(#[from] backend::Error),
}
