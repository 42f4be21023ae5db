//! # membership: who belongs to the cluster
//!
//! A cluster is a set of members. Each has an ID, the URLs its peers reach it at, a mark
//! whether it only learns, and, once it has started, a name and client URLs. The set changes
//! only through the log: a conf-change entry is judged against the set as it is at that
//! entry ([`Membership::validate`]) and then done ([`Membership::apply`]), the same on every
//! member. IDs that were removed never come back.
//!
//! ```text
//!   --initial-cluster ──► seed ──► bootstrap entries ──► log
//!                                                         │ conf change
//!   database ──────────► load ──► Membership ◄── validate, apply ──► buckets
//!                                     │                              members, members_removed,
//!                       members, versions, conf state                cluster, meta
//! ```
//!
//! [`Membership`] is a plain value. [`Cluster`] shares it: serving threads take a cheap
//! snapshot, the applier replaces it.
//!
//! Formats are etcd's, to the byte: the JSON of members (module [`json`]) lies in entries of
//! the log and in the database; member and cluster IDs are SHA-1 prefixes over URLs and
//! token; `.snap` files carry a v2-store document (module [`v2store`]).
//!
//! What this room does not know: raft's progress or who is alive (the strict reconfiguration
//! rule is in `quorum`), the network (matching URLs that are written differently needs DNS:
//! the caller brings the comparison), the gRPC code of an error, and the time.
#![forbid(unsafe_code)]

mod alone;
mod bootstrap;
mod change;
mod cluster;
pub mod json;
mod member;
pub mod store;
mod url;
pub mod v2store;
mod version;

pub use alone::{Alone, Log, Uncommitted, leave_alone, members_of_log};
pub use bootstrap::{adopt_ids, bootstrap_entries};
pub use change::{Applied, Change, update_conf_state};
pub use cluster::{Cluster, DowngradeInfo, LEARNERS_MAX_DEFAULT, Membership};
pub use member::{cluster_id, is_started, member_id, new_member};
pub use raftpb::MemberId;
pub use raftpb::conf::Member;
pub use url::{format_initial_cluster, has_duplicate_url, parse_initial_cluster, parse_urls};
pub use version::Version;

/// What can go wrong with a membership.
///
/// The first six are answers to a conf change; their texts go over the wire (etcd's members
/// compare them). The others are damage or a wrong configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The member was removed; its ID cannot be used again.
    #[error("membership: ID removed")]
    IdRemoved,
    /// A member with this ID is there already.
    #[error("membership: ID exists")]
    IdExists,
    /// No member has this ID.
    #[error("membership: ID not found")]
    IdNotFound,
    /// Another member has one of these peer URLs.
    #[error("membership: peerURL exists")]
    PeerUrlExists,
    /// The member to promote votes already.
    #[error("membership: can only promote a learner member")]
    NotLearner,
    /// One more learner would be more than `--max-learners`.
    #[error("membership: too many learner members in cluster")]
    TooManyLearners,

    /// A conf change of a type that etcd does not have.
    #[error("unknown conf change type {0}")]
    UnknownChange(i32),
    /// The entry and the JSON in it speak of different members.
    #[error("conf change for member {entry} carries member {context}")]
    IdMismatch {
        /// The ID in the entry.
        entry: MemberId,
        /// The ID in its context.
        context: MemberId,
    },
    /// Attributes for a member that never was.
    #[error("member {0} unknown")]
    UnknownMember(MemberId),
    /// JSON that is none, or not of the expected shape.
    #[error("cannot read {what}: {reason}")]
    BadJson {
        /// What was expected.
        what: &'static str,
        /// Why it is not.
        reason: String,
    },
    /// A URL that etcd does not accept.
    #[error("{reason}: {url:?}")]
    BadUrl {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A version that is not `major.minor.patch`.
    #[error("{text:?} is not a version of the form major.minor.patch")]
    BadVersion {
        /// The text as given.
        text: String,
    },
    /// A key in a membership bucket that is no hexadecimal member ID.
    #[error("key {key:?} in bucket {bucket} is not a member ID")]
    BadMemberKey {
        /// The bucket.
        bucket: &'static str,
        /// The key.
        key: String,
    },
    /// Two members of an initial cluster compute to one ID.
    #[error("member {name} has the same ID {id} as another member of the initial cluster")]
    SameId {
        /// The second member's name.
        name: String,
        /// The ID of both.
        id: MemberId,
    },
    /// The initial cluster and the running cluster differ in size.
    #[error(
        "member count is unequal: {local} in the initial cluster, {remote} in the running cluster"
    )]
    CountUnequal {
        /// Members of `--initial-cluster`.
        local: usize,
        /// Members of the cluster to join.
        remote: usize,
    },
    /// A member of the running cluster is missing in the initial cluster.
    #[error(
        "PeerURLs: no match found for existing member ({id}, {urls:?}), last resolver error ({reason})"
    )]
    NoMatch {
        /// The member of the running cluster.
        id: MemberId,
        /// Its peer URLs.
        urls: Vec<String>,
        /// What the last comparison said.
        reason: String,
    },
    /// The database's schema cannot be brought to the wanted version.
    #[error("cannot migrate storage: {0}")]
    Migration(String),
    /// The log has lost entries that were committed.
    #[error("the log ends at index {last}, but {committed} was committed: log files are missing")]
    LogEndsEarly {
        /// Its last index.
        last: u64,
        /// Up to where entries were committed.
        committed: u64,
    },
    /// The database could not be read.
    #[error("cannot read the database: {0}")]
    Backend(String),
}
