//! What ends an entry, or the node.

/// This node cannot go on: its data are damaged, its disk fails, or it is too old for the
/// cluster. The entry in hand is not ended, so nothing of it reaches the disk.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The store.
    #[error("apply entry {index}: {error}")]
    Mvcc {
        /// The entry; 0 at start.
        index: u64,
        /// What happened.
        error: mvcc::Error,
    },
    /// The database.
    #[error("cannot read the database: {0}")]
    Backend(#[from] backend::Error),
    /// The leases in the database.
    #[error(transparent)]
    Lease(#[from] lease::Error),
    /// The members in the database of a snapshot.
    #[error("members in the database: {0}")]
    Membership(#[from] membership::Error),
    /// A record in bucket `alarm`.
    #[error("alarm record {key:02x?} is damaged: {reason}")]
    Alarm {
        /// Its key.
        key: Vec<u8>,
        /// What the decoder said.
        reason: String,
    },
    /// The cluster is newer than this program.
    #[error(
        "entry {index} sets the cluster version to {cluster}, but this server is {server}: install a version that is not older"
    )]
    TooOld {
        /// The entry.
        index: u64,
        /// The cluster's version from this entry on.
        cluster: String,
        /// This program's version.
        server: String,
    },
    /// An entry that this program cannot apply and may not leave out.
    #[error("entry {index} is of a kind that this server cannot apply: {what}")]
    Unsupported {
        /// The entry.
        index: u64,
        /// Its kind.
        what: &'static str,
    },
}

/// Why a request was not done: an answer, or the end.
#[derive(Debug)]
pub(crate) enum Failure {
    Client(api::Error),
    Node(mvcc::Error),
}

impl From<api::Error> for Failure {
    fn from(error: api::Error) -> Failure {
        Failure::Client(error)
    }
}

impl From<mvcc::Error> for Failure {
    fn from(error: mvcc::Error) -> Failure {
        match mvcc_error(&error) {
            Some(error) => Failure::Client(error),
            None => Failure::Node(error),
        }
    }
}

/// The answer to a client, if a store's error is the client's.
#[must_use]
pub fn mvcc_error(error: &mvcc::Error) -> Option<api::Error> {
    match error {
        mvcc::Error::Compacted => Some(api::Error::Compacted),
        mvcc::Error::Future => Some(api::Error::FutureRevision),
        _ => None,
    }
}

/// The answer to a client whose conf change, or question about members, failed so.
#[must_use]
pub fn membership_error(error: &membership::Error) -> api::Error {
    match error {
        membership::Error::IdRemoved | membership::Error::IdNotFound => api::Error::MemberNotFound,
        membership::Error::IdExists => api::Error::MemberExists,
        membership::Error::PeerUrlExists => api::Error::PeerUrlExists,
        membership::Error::NotLearner => api::Error::MemberNotLearner,
        membership::Error::TooManyLearners => api::Error::TooManyLearners,
        membership::Error::BadUrl { .. } => api::Error::MemberBadUrls,
        other => api::Error::Other(other.to_string().into()),
    }
}

/// The answer to a client whose lease request failed so.
pub(crate) fn lease_error(error: &lease::Error) -> api::Error {
    match error {
        lease::Error::NotFound => api::Error::LeaseNotFound,
        lease::Error::Exists => api::Error::LeaseExists,
        lease::Error::TtlTooLarge => api::Error::LeaseTtlTooLarge,
        lease::Error::NotPrimary => api::Error::NotPrimary,
        other => api::Error::Other(other.to_string().into()),
    }
}
