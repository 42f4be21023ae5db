//! What came of an entry.

use api::etcdserverpb as pb;

use crate::ConfResult;

/// What came of an entry: the answer, and what the server should do next.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The entry's index.
    pub index: u64,
    /// The entry's term.
    pub term: u64,
    /// The database had the entry already, at start after a crash. Nothing was done.
    pub replayed: bool,
    /// Who waits for it; 0 if nobody can.
    pub request_id: u64,
    /// The answer to who waits. `None`: there is nothing to answer.
    pub result: Option<Result<Response, api::Error>>,
    /// What a conf change came to.
    pub conf_change: Option<Box<ConfResult>>,
    /// What else follows.
    pub hints: Hints,
    /// An entry that means nothing here and was passed over, in words for the log.
    pub ignored: Option<String>,
}

/// What the server should do because of an entry.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Hints {
    /// An empty entry: the leader of this term has its first entry applied, and everything of
    /// the terms before. If this member leads, it promotes its lessor now.
    pub first_in_term: bool,
    /// The store is above its quota, and no alarm says so: propose alarm NOSPACE for this
    /// member, and answer (the result is the error) only when that is applied or has failed.
    pub raise_no_space: bool,
    /// Write a snapshot to disk soon: the cluster was downgraded, and what the older version
    /// cannot read must leave the log.
    pub force_snapshot: bool,
    /// An alarm was raised or lowered, perhaps.
    pub alarms_changed: bool,
    /// The cluster's version was set.
    pub version_changed: bool,
    /// A compaction to this revision was begun; steps of it are to be done.
    pub compacting: Option<i64>,
}

/// The answer to a request. Headers carry the revision; cluster, member and term are the
/// server's to fill in, see [`Response::header_mut`].
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// Requests of members among themselves have no answer but that they are done.
    Empty,
    /// To a range that went through the log.
    Range(pb::RangeResponse),
    /// To a put.
    Put(pb::PutResponse),
    /// To a delete.
    DeleteRange(pb::DeleteRangeResponse),
    /// To a transaction.
    Txn(pb::TxnResponse),
    /// To a compaction.
    Compaction(pb::CompactionResponse),
    /// To the grant of a lease.
    LeaseGrant(pb::LeaseGrantResponse),
    /// To the revocation of a lease.
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// To a checkpoint of leases.
    LeaseCheckpoint(pb::LeaseCheckpointResponse),
    /// To anything about alarms.
    Alarm(pb::AlarmResponse),
}

impl Response {
    /// The answer's header, made if it is not there; `None` for [`Response::Empty`].
    pub fn header_mut(&mut self) -> Option<&mut pb::ResponseHeader> {
        let header = match self {
            Response::Empty => return None,
            Response::Range(response) => &mut response.header,
            Response::Put(response) => &mut response.header,
            Response::DeleteRange(response) => &mut response.header,
            Response::Txn(response) => &mut response.header,
            Response::Compaction(response) => &mut response.header,
            Response::LeaseGrant(response) => &mut response.header,
            Response::LeaseRevoke(response) => &mut response.header,
            Response::LeaseCheckpoint(response) => &mut response.header,
            Response::Alarm(response) => &mut response.header,
        };
        Some(header.get_or_insert_default())
    }
}

/// A header with the revision alone.
pub(crate) fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        revision,
        ..pb::ResponseHeader::default()
    })
}
