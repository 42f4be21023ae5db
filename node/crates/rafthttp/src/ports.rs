//! What the transport asks of the member that it serves. `server` implements these.

use std::future::Future;
use std::io;
use std::pin::Pin;

use bytes::Bytes;
use http::StatusCode;
use raftpb::{MemberId, Message};

/// A future behind a pointer, as the traits here return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Raft, as the transport sees it.
///
/// Every function is called from the peers' runtime or from inside [`crate::Handle::send`].
/// None may block, and none may call back into the transport: push to a queue and return.
pub trait Raft: Send + Sync + 'static {
    /// Takes messages that arrived, in their order. They have passed the transport's checks
    /// (addressed to us, not from a removed member, within the size limits) and nothing else:
    /// raft's gate stands behind this. `false` says that they were not taken, because the
    /// member stops or its queue is full; they are lost, as a network may lose them.
    fn process(&self, batch: Vec<Message>) -> bool;

    /// Whether this member once belonged to the cluster and was removed. Such ids never return.
    fn is_removed(&self, member: MemberId) -> bool;

    /// What is known of a member's removal, for the one who was removed: its time, for example.
    fn removal(&self, _member: MemberId) -> Option<String> {
        None
    }

    /// Messages to this peer were lost: stop optimistic replication to it.
    fn report_unreachable(&self, member: MemberId);

    /// How the one snapshot that was handed to [`crate::Handle::send_snapshot`] for this
    /// member ended; the error says why it did not arrive. Called exactly once for each.
    fn report_snapshot(&self, member: MemberId, delivered: Result<(), String>);

    /// A peer says that we ourselves were removed from the cluster (410 or 403), in these words.
    /// The member must stop. May be called many times.
    fn report_removed(&self, told_by: MemberId, said: &str);

    /// A peer of ours says that another process runs as this member, and was there first (409).
    /// The member must stop. May be called many times.
    fn report_twin(&self, _told_by: MemberId, _said: &str) {}
}

/// The member's answers on the peer port beside raft's own paths.
///
/// The transport checks methods, paths, headers and body sizes, and puts answers into HTTP;
/// what is said is decided here.
pub trait PeerApi: Send + Sync + 'static {
    /// `GET /version`: JSON `{"etcdserver":…,"etcdcluster":…,"storage":…}`.
    fn version(&self) -> Bytes;

    /// `GET /members`: the members as etcd's JSON array, without the newline at its end.
    fn members(&self) -> Bytes;

    /// `POST /members/promote/<id>`: promotes a learner if we lead, and gives the members as
    /// in [`PeerApi::members`]. `token` is the caller's `Authorization` header.
    fn promote(&self, member: MemberId, token: Option<String>)
    -> BoxFuture<'static, Answer<Bytes>>;

    /// `POST /quorate/membership`: a membership call that came to another member of ours, to be
    /// decided if we lead. Question and answer are JSON of the member's own; an etcd has no such
    /// path. Who may call is decided where the call came in.
    fn membership(&self, question: Bytes) -> BoxFuture<'static, Answer<Bytes>>;

    /// `GET /members/hashkv`: the hash of all keys at `revision` (0: the newest).
    fn hash_kv(&self, revision: i64) -> BoxFuture<'static, Answer<HashKv>>;

    /// `GET /downgrade/enabled`, after a linearizable read.
    fn downgrade_enabled(&self) -> BoxFuture<'static, Answer<bool>>;

    /// `POST /leases`: keeps a lease alive if we lead; gives its time to live in seconds.
    fn lease_renew(&self, lease: i64) -> BoxFuture<'static, Answer<i64>>;

    /// `POST /leases/internal`: time to live, with the attached keys if asked for.
    fn lease_time_to_live(
        &self,
        lease: i64,
        keys: bool,
    ) -> BoxFuture<'static, Answer<LeaseTimeToLive>>;
}

/// An answer, or a refusal with its HTTP status.
pub type Answer<T> = Result<T, Refusal>;

/// A request that is answered with something else than success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// The text; etcd's own where etcd has one, since etcd members look for it.
    pub text: String,
    /// Sent as `{"message": text}` instead of a line of plain text.
    pub json: bool,
}

impl Refusal {
    /// A line of plain text, as Go's `http.Error` sends it.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Refusal {
        Refusal {
            status,
            text: text.into(),
            json: false,
        }
    }

    /// `{"message": text}`, as etcd's `HTTPError` sends it.
    pub fn json(status: StatusCode, text: impl Into<String>) -> Refusal {
        Refusal {
            status,
            text: text.into(),
            json: true,
        }
    }
}

/// What `/members/hashkv` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKv {
    /// The store's revision when it answered.
    pub revision: i64,
    /// CRC-32C over the keys.
    pub hash: u32,
    /// Up to where the store is compacted.
    pub compact_revision: i64,
    /// The revision that was hashed.
    pub hash_revision: i64,
}

/// What `/leases/internal` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTimeToLive {
    /// The lease.
    pub id: i64,
    /// Seconds left.
    pub ttl: i64,
    /// Seconds granted.
    pub granted_ttl: i64,
    /// Attached keys, if they were asked for.
    pub keys: Vec<Bytes>,
}

/// Where databases that peers send are saved.
pub trait SnapshotStore: Send + Sync + 'static {
    /// A database for `message` (a MsgSnap) begins to arrive. An error is answered 500 with its
    /// text, and the sender tells its raft, which tries again: the way to refuse a stale one.
    fn receive(&self, message: &Message)
    -> BoxFuture<'static, io::Result<Box<dyn SnapshotWriter>>>;
}

/// One database that is being received. Dropped before `finish`, it removes what it wrote.
pub trait SnapshotWriter: Send {
    /// Writes the next bytes. Awaiting it is the back-pressure on the sender.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>>;

    /// Syncs the file and gives it its name. The message is stepped only after this, and only
    /// then is the sender told 204 (promise 8).
    fn finish(self: Box<Self>) -> BoxFuture<'static, io::Result<()>>;
}

/// A database that is being sent.
pub trait SnapshotSource: Send + 'static {
    /// Bytes in all; for logs and metrics.
    fn total_bytes(&self) -> u64;

    /// The next bytes (64 KiB to 1 MiB is good), or `None` at the end. An error cuts the body
    /// off, so that the receiver cannot take it for a whole one.
    fn read(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>>;
}
