//! What the transport is told once, at the door: who we are, how long to wait, how much to hold.

use std::time::Duration;

use raftpb::MemberId;

use crate::version::Version;

/// The id of a cluster. Printed, as etcd does, in lower-case hexadecimal without padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl ClusterId {
    /// Reads what `Display` writes: 1 to 16 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<ClusterId> {
        MemberId::from_hex(text).map(|id| ClusterId(id.0))
    }
}

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Everything [`crate::Transport`] needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our own id: `X-Server-From` of what we ask, and the only `to` that we accept.
    pub member_id: MemberId,
    /// The cluster that we belong to. A request that names another one is answered 412.
    pub cluster_id: ClusterId,
    /// The etcd version that we announce (DESIGN 3.11).
    pub server_version: Version,
    /// The oldest version that we talk to; etcd 3.x says 3.0.0.
    pub min_cluster_version: Version,
    /// Our advertised peer URLs. They go out as `X-PeerURLs`, from which a member that does
    /// not know us yet learns where to answer.
    pub peer_urls: Vec<String>,
    /// A number drawn by chance at the start of this process, by which peers of ours notice
    /// that two processes run as one member. Zero: not said.
    pub process: u64,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How much to hold.
    pub limits: Limits,
}

impl Config {
    /// A configuration with etcd's time-outs and our limits.
    pub fn new(member_id: MemberId, cluster_id: ClusterId, peer_urls: Vec<String>) -> Config {
        Config {
            member_id,
            cluster_id,
            server_version: Version::new(3, 7, 3),
            min_cluster_version: Version::new(3, 0, 0),
            peer_urls,
            process: 0,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
        }
    }
}

/// Times of the transport. The defaults are etcd's where etcd has one.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// A connection on which nothing arrives for so long is dead. A third of it is the
    /// interval of link heartbeats. It is also how long a peer listener keeps an idle
    /// connection (promise 5). etcd: 5 s.
    pub read: Duration,
    /// A write that makes no progress for so long ends its connection. etcd: 5 s.
    pub write: Duration,
    /// Until a connection must be established. etcd: 1 s plus the election time-out.
    pub dial: Duration,
    /// Between two attempts to dial a stream. etcd: 100 ms.
    pub redial: Duration,
    /// The pause between attempts doubles up to this. A peer that dials us ends the pause at
    /// once, so a member that comes back is met without waiting for it.
    pub redial_max: Duration,
    /// For one pipeline POST, its answer included. etcd has no limit and relies on TCP.
    pub post: Duration,
    /// For one question to a peer (`/version`, `/members` …) unless the caller says another.
    pub ask: Duration,
    /// A snapshot transfer that makes no progress for so long is given up, on either side.
    pub snapshot_stall: Duration,
    /// After the last byte of a snapshot, until the receiver has synced it and answered.
    pub snapshot_answer: Duration,
    /// Between two probes of a peer. etcd: one second less than the read time-out.
    pub probe: Duration,
}

impl Timeouts {
    /// Between two link heartbeats on a stream that has nothing else to say.
    pub fn heartbeat(&self) -> Duration {
        self.read / 3
    }

    /// How long a client may keep an idle connection and still use it again. The listener at
    /// the other end closes it after its read time-out; half of that leaves room for a slow
    /// network and a busy runtime (promise 5).
    pub fn reuse(&self) -> Duration {
        self.read / 2
    }
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            read: Duration::from_secs(5),
            write: Duration::from_secs(5),
            dial: Duration::from_secs(2),
            redial: Duration::from_millis(100),
            redial_max: Duration::from_secs(1),
            post: Duration::from_secs(10),
            ask: Duration::from_secs(10),
            snapshot_stall: Duration::from_secs(30),
            snapshot_answer: Duration::from_secs(300),
            probe: Duration::from_secs(4),
        }
    }
}

/// Limits of the transport. What happens at each is said beside it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Messages that wait on one stream of one peer. Beyond it messages are dropped and raft
    /// is told that the peer is unreachable; raft sends again. etcd: 4096.
    pub stream_queue_messages_max: usize,
    /// Bytes that wait on one stream of one peer, with the same consequence. raft-rs has no
    /// limit on bytes in flight, so it stands here: 512 appends of 1 MiB would be half a
    /// gigabyte for each slow follower. One message always fits, however large.
    pub stream_queue_bytes_max: usize,
    /// Messages that wait for the pipeline of one peer, with the same consequence. etcd: 64.
    pub pipeline_queue_messages_max: usize,
    /// POSTs in flight to one peer. etcd: 4.
    pub pipeline_posts_max: usize,
    /// One message, encoded. etcd limits the message stream to 512 MiB and nothing else; we
    /// hold every inbound message to it. Memory grows with the bytes that really arrive, not
    /// with the length that a peer announces.
    pub message_bytes_max: usize,
    /// Bytes of pipeline POSTs that are being received at a time, over all connections; the
    /// next one is answered 503 and its sender tries again.
    pub posts_bytes_max: usize,
    /// The message before a database (metadata and the membership blob). etcd: 64 MiB.
    pub snapshot_message_bytes_max: usize,
    /// Databases that are being received at a time. One leader sends one; a second comes when
    /// leadership moved. More are answered 503, since each takes a file's worth of disk.
    pub snapshots_received_max: usize,
    /// Connections that the peer listeners hold together. A member of a large cluster has
    /// about ten from each peer; further ones wait in the kernel's backlog.
    pub connections_max: usize,
    /// Strangers that we keep the URLs of because they dialled us. Members that we have not
    /// heard of yet; no cluster adds so many at once. Further ones are not noted.
    pub remotes_max: usize,
    /// The body of an answer to a question (`/members`, `/leases/internal` with its keys).
    /// etcd: 100 MiB for leases.
    pub answer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            stream_queue_messages_max: 4096,
            stream_queue_bytes_max: 64 << 20,
            pipeline_queue_messages_max: 64,
            pipeline_posts_max: 4,
            message_bytes_max: 512 << 20,
            posts_bytes_max: 512 << 20,
            snapshot_message_bytes_max: 64 << 20,
            snapshots_received_max: 4,
            connections_max: 1024,
            remotes_max: 64,
            answer_bytes_max: 100 << 20,
        }
    }
}
