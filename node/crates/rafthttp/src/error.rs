//! What can go wrong when we ask a peer. Each text names the URL, what failed, and what to do.

use std::time::Duration;

/// Why a peer gave no usable answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A URL that we cannot use.
    #[error("bad peer URL {url:?}: {reason}; expected http://HOST:PORT without a path")]
    BadUrl {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There was no URL to ask.
    #[error("no peer URL to ask for {what}; give at least one peer URL")]
    NoUrl {
        /// What was to be asked.
        what: &'static str,
    },
    /// No connection.
    #[error(
        "cannot connect to {url}: {reason}; check that the member runs and that its \
         --listen-peer-urls covers this address"
    )]
    Unreachable {
        /// What was asked.
        url: String,
        /// The system's words.
        reason: String,
    },
    /// No answer in time.
    #[error(
        "no answer from {url} within {}; the member may be stopped, overloaded or cut off: \
         check its log and the network between", millis(*.waited)
    )]
    Timeout {
        /// What was asked.
        url: String,
        /// How long we waited.
        waited: Duration,
    },
    /// The connection ended before the answer did.
    #[error(
        "connection to {url} failed before the answer was complete: {reason}; if this \
         address speaks TLS or is not a peer port, correct the peer URL"
    )]
    Broken {
        /// What was asked.
        url: String,
        /// What the HTTP layer says.
        reason: String,
    },
    /// An answer with another status than expected.
    #[error("{url} answered {status}: {body}")]
    Status {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The body's text, without the newline at its end.
        body: String,
    },
    /// An answer that cannot be read.
    #[error(
        "{url} gave an answer that cannot be read: {reason}; check that it is the peer \
         port of an etcd 3 member"
    )]
    Unreadable {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An answer beyond the limit.
    #[error("{url} gave an answer of more than {limit} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The limit.
        limit: usize,
    },
    /// The peer belongs to another cluster, or believes so of us.
    #[error(
        "{url} belongs to another cluster (theirs {theirs}, ours {ours}); check the peer URLs \
         and --initial-cluster-token of both"
    )]
    ClusterIdMismatch {
        /// What was asked.
        url: String,
        /// The cluster that the peer named.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// The peer does not talk to our version.
    #[error("{url} does not talk to our version {ours}; upgrade the older of the two")]
    IncompatibleVersion {
        /// What was asked.
        url: String,
        /// The version that we announced.
        ours: String,
    },
    /// The peer says that we were removed from the cluster.
    #[error(
        "{url} says that this member was removed from the cluster ({said}); stop it, remove its \
         data directory, and add it again as a new member if it shall come back"
    )]
    Removed {
        /// What was asked.
        url: String,
        /// What was answered; a member of ours says when it was.
        said: String,
    },
    /// The peer says that another process runs as this member, and did so first.
    #[error("{url} says that another process runs as this member: {said}")]
    Twin {
        /// What was asked.
        url: String,
        /// What was answered.
        said: String,
    },
    /// The stream's other end does not know us yet.
    #[error("{url} does not know this member yet; it will once it has caught up with the cluster")]
    Unknown {
        /// What was asked.
        url: String,
    },
    /// What we had to send could not be read to its end.
    #[error("reading what was to be sent to {url} failed: {reason}")]
    Source {
        /// Where it was to go.
        url: String,
        /// What the reader says.
        reason: String,
    },
    /// The other end sent something that breaks the framing.
    #[error("stream from {url}: {error}")]
    Codec {
        /// Whose stream.
        url: String,
        /// What is wrong.
        error: crate::codec::Error,
    },
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

/// An error and what is below it, in one line. hyper's own text leaves the cause out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
