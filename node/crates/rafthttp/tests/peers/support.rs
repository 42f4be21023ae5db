//! A member that has a transport and nothing else: it writes down what reaches it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use rafthttp::{
    Answer, Asks, BoxFuture, ClusterId, Config, Handle, HashKv, LeaseTimeToLive, Limits, PeerApi,
    Raft, Refusal, SnapshotSource, SnapshotStore, SnapshotWriter, Timeouts, Transport,
};
use raftpb::{Entry, MemberId, Message, MessageType};

pub const CLUSTER: ClusterId = ClusterId(0xc1);

/// Waits until something holds; fails with its name after ten seconds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not in ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Raft, members and disk of a member, as far as the transport sees them.
#[derive(Default)]
pub struct Record {
    pub messages: Mutex<Vec<Message>>,
    /// Only counted, for tests with very many messages.
    pub count_only: AtomicBool,
    pub entries: AtomicU64,
    pub last_index: AtomicU64,
    pub refuse: AtomicBool,
    pub removed: Mutex<Vec<MemberId>>,
    pub unreachable: AtomicUsize,
    pub snapshot_reports: Mutex<Vec<(MemberId, bool)>>,
    pub told_removed: AtomicUsize,
    pub databases: Mutex<Vec<Database>>,
    /// What happened to snapshots, in order.
    pub events: Mutex<Vec<&'static str>>,
    pub fail_saving: AtomicBool,
}

#[derive(Default)]
pub struct Database {
    pub index: u64,
    pub bytes: Vec<u8>,
}

impl Record {
    pub fn received(&self, kind: MessageType) -> usize {
        let messages = self.messages.lock();
        let alike = |message: &&Message| message.msg_type == kind as i32;
        messages.iter().filter(alike).count()
    }

    pub fn reports(&self) -> Vec<(MemberId, bool)> {
        self.snapshot_reports.lock().clone()
    }
}

impl Raft for Record {
    fn process(&self, batch: Vec<Message>) -> bool {
        if self.refuse.load(Ordering::Relaxed) {
            return false;
        }
        for message in &batch {
            self.entries
                .fetch_add(message.entries.len() as u64, Ordering::Relaxed);
            if let Some(entry) = message.entries.last() {
                self.last_index.store(entry.index, Ordering::Relaxed);
            }
            if message.msg_type == MessageType::MsgSnap as i32 {
                self.events.lock().push("stepped");
            }
        }
        if !self.count_only.load(Ordering::Relaxed) {
            self.messages.lock().extend(batch);
        }
        true
    }

    fn is_removed(&self, member: MemberId) -> bool {
        self.removed.lock().contains(&member)
    }

    fn report_unreachable(&self, _member: MemberId) {
        self.unreachable.fetch_add(1, Ordering::Relaxed);
    }

    fn report_snapshot(&self, member: MemberId, delivered: Result<(), String>) {
        let delivered = delivered.is_ok();
        self.snapshot_reports.lock().push((member, delivered));
    }

    fn report_removed(&self, _told_by: MemberId, _said: &str) {
        self.told_removed.fetch_add(1, Ordering::Relaxed);
    }
}

impl PeerApi for Record {
    fn version(&self) -> Bytes {
        Bytes::from_static(br#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#)
    }

    fn members(&self) -> Bytes {
        Bytes::from_static(br#"[{"id":1,"peerURLs":["http://a:1"],"name":"a"}]"#)
    }

    fn promote(
        &self,
        member: MemberId,
        token: Option<String>,
    ) -> BoxFuture<'static, Answer<Bytes>> {
        let members = self.members();
        Box::pin(async move {
            match (member.0, token.as_deref()) {
                (7, Some("secret")) => Ok(members),
                (7, _) => Err(Refusal::json(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "Internal Server Error",
                )),
                (8, _) => Err(Refusal::text(
                    StatusCode::PRECONDITION_FAILED,
                    "etcdserver: can only promote a learner member",
                )),
                _ => Err(Refusal::text(
                    StatusCode::NOT_FOUND,
                    "membership: ID not found",
                )),
            }
        })
    }

    fn membership(&self, question: Bytes) -> BoxFuture<'static, Answer<Bytes>> {
        Box::pin(async move {
            match &question[..] {
                b"{}" => Ok(Bytes::from_static(b"{\"code\":0}")),
                _ => Err(Refusal::text(StatusCode::BAD_REQUEST, "no question")),
            }
        })
    }

    fn hash_kv(&self, revision: i64) -> BoxFuture<'static, Answer<HashKv>> {
        Box::pin(async move {
            if revision > 100 {
                let text = "mvcc: required revision is a future revision";
                return Err(Refusal::text(StatusCode::BAD_REQUEST, text));
            }
            Ok(HashKv {
                revision: 100,
                hash: 0xdead_beef,
                compact_revision: -1,
                hash_revision: revision,
            })
        })
    }

    fn downgrade_enabled(&self) -> BoxFuture<'static, Answer<bool>> {
        Box::pin(async { Ok(true) })
    }

    fn lease_renew(&self, lease: i64) -> BoxFuture<'static, Answer<i64>> {
        Box::pin(async move {
            match lease {
                5 => Ok(60),
                _ => Err(Refusal::text(StatusCode::NOT_FOUND, "lease not found")),
            }
        })
    }

    fn lease_time_to_live(
        &self,
        lease: i64,
        keys: bool,
    ) -> BoxFuture<'static, Answer<LeaseTimeToLive>> {
        Box::pin(async move {
            let keys = if keys {
                vec![Bytes::from_static(b"k")]
            } else {
                vec![]
            };
            Ok(LeaseTimeToLive {
                id: lease,
                ttl: 10,
                granted_ttl: 60,
                keys,
            })
        })
    }
}

/// The disk of a [`Record`].
pub struct Disk(pub Arc<Record>);

impl SnapshotStore for Disk {
    fn receive(
        &self,
        message: &Message,
    ) -> BoxFuture<'static, io::Result<Box<dyn SnapshotWriter>>> {
        let metadata = message
            .snapshot
            .clone()
            .and_then(|snapshot| snapshot.metadata);
        let database = Database {
            index: metadata.map_or(0, |metadata| metadata.index),
            bytes: Vec::new(),
        };
        let record = self.0.clone();
        Box::pin(async move {
            record.events.lock().push("receiving");
            let writer = Writer {
                record,
                database,
                finished: false,
            };
            Ok(Box::new(writer) as Box<dyn SnapshotWriter>)
        })
    }
}

struct Writer {
    record: Arc<Record>,
    database: Database,
    finished: bool,
}

impl SnapshotWriter for Writer {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            if self.record.fail_saving.load(Ordering::Relaxed) {
                return Err(io::Error::other("no space left on device"));
            }
            self.database.bytes.extend_from_slice(&bytes);
            Ok(())
        })
    }

    fn finish(mut self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async move {
            self.finished = true;
            self.record.events.lock().push("saved");
            let database = std::mem::take(&mut self.database);
            self.record.databases.lock().push(database);
            Ok(())
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            self.record.events.lock().push("discarded");
        }
    }
}

/// A database of `left` bytes in pieces; each byte tells its place. `fail_at_end`: reading
/// fails instead of ending. `hang_at_end`: it never ends.
pub struct Pattern {
    pub at: u64,
    pub total: u64,
    pub end: End,
}

#[derive(Clone, Copy, PartialEq)]
pub enum End {
    Whole,
    Fails,
    Hangs,
}

pub fn pattern_byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl SnapshotSource for Pattern {
    fn total_bytes(&self) -> u64 {
        self.total
    }

    fn read(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        Box::pin(async move {
            let size = (self.total - self.at).min(256 << 10);
            if size == 0 {
                return match self.end {
                    End::Whole => Ok(None),
                    End::Fails => Err(io::Error::other("page 7 cannot be read")),
                    End::Hangs => std::future::pending().await,
                };
            }
            let bytes: Vec<u8> = (self.at..self.at + size).map(pattern_byte).collect();
            self.at += size;
            Ok(Some(bytes.into()))
        })
    }
}

/// A member with a transport that serves a port on 127.0.0.1, on a runtime of its own.
pub struct Member {
    pub id: MemberId,
    pub address: SocketAddr,
    pub record: Arc<Record>,
    pub transport: Handle,
    pub runtime: tokio::runtime::Handle,
    thread: Option<JoinHandle<()>>,
}

/// Time-outs a tenth of etcd's.
pub fn quick() -> Timeouts {
    Timeouts {
        read: Duration::from_millis(500),
        write: Duration::from_millis(500),
        redial: Duration::from_millis(20),
        redial_max: Duration::from_millis(100),
        probe: Duration::from_millis(100),
        ..Timeouts::default()
    }
}

/// A port that nobody listens on yet.
pub fn listen() -> std::net::TcpListener {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap()
}

impl Member {
    pub fn start(id: u64) -> Member {
        Member::start_with(id, |_| {})
    }

    pub fn start_with(id: u64, change: impl FnOnce(&mut Config)) -> Member {
        Member::start_on(listen(), MemberId(id), CLUSTER, change)
    }

    pub fn start_on(
        listener: std::net::TcpListener,
        id: MemberId,
        cluster: ClusterId,
        change: impl FnOnce(&mut Config),
    ) -> Member {
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut config = Config::new(id, cluster, vec![format!("http://{address}")]);
        config.timeouts = quick();
        change(&mut config);
        let record = Arc::new(Record::default());
        let (give, take) = mpsc::channel();
        let theirs = record.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let disk = Arc::new(Disk(theirs.clone()));
            let handle = runtime.handle().clone();
            let transport =
                Transport::start(config, theirs.clone(), theirs, disk, handle.clone()).unwrap();
            give.send((transport.clone(), handle)).unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                transport.serve(listener).await;
            });
        });
        let (transport, runtime) = take.recv().unwrap();
        Member {
            id,
            address,
            record,
            transport,
            runtime,
            thread: Some(thread),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn knows(&self, other: &Member) {
        self.transport.add_peer(other.id, &[other.url()]).unwrap();
    }

    pub fn streams_attached(&self, to: MemberId) -> bool {
        let peers = self.transport.peers();
        let peer = peers.iter().find(|peer| peer.id == to);
        peer.is_some_and(|peer| peer.msgapp_stream_attached && peer.message_stream_attached)
    }

    pub fn asks(&self) -> Asks {
        Asks::new(&quick(), &Limits::default())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.transport.stop();
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            if !std::thread::panicking() {
                joined.unwrap();
            }
        }
    }
}

/// Two members that know each other and have all four streams.
pub fn pair() -> (Member, Member) {
    let (a, b) = (Member::start(1), Member::start(2));
    a.knows(&b);
    b.knows(&a);
    eventually("all streams stand", || {
        a.streams_attached(b.id) && b.streams_attached(a.id)
    });
    (a, b)
}

pub fn message(kind: MessageType, from: MemberId, to: MemberId) -> Message {
    Message {
        msg_type: kind as i32,
        from: from.0,
        to: to.0,
        term: 1,
        ..Message::default()
    }
}

pub fn append(from: MemberId, to: MemberId, index: u64, data: &Bytes) -> Message {
    Message {
        log_term: 1,
        index: index - 1,
        commit: index - 1,
        entries: vec![Entry {
            term: 1,
            index,
            data: data.clone(),
            ..Entry::default()
        }],
        ..message(MessageType::MsgApp, from, to)
    }
}

/// One request over a connection of its own; the whole answer as text.
pub fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // Who refuses early may close before everything is sent.
    let _ = tcp.write_all(request);
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while !answer_is_whole(&answer) {
        match tcp.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(&piece[..count]),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn answer_is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => body.len() >= length.trim().parse::<usize>().unwrap(),
        None => true,
    }
}

/// Status and body of an answer.
pub fn parts(answer: &str) -> (u16, &str) {
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.unwrap_or(0), body)
}

/// The value of a header, whatever its capitals.
pub fn header_of(answer: &str, name: &str) -> Option<String> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then(|| value.to_owned())
    })
}
