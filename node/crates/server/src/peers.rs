//! The other members: what this one asks of them and what it answers. The bytes are `rafthttp`'s;
//! what they mean is decided here.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use anyhow::Result;
use api::etcdserverpb as pb;
use bytes::Bytes;
use membership::{Member as MemberInfo, json};
use rafthttp::{
    Answer, Asks, BoxFuture, ClusterId, Handle, HashKv, LeaseTimeToLive, PeerApi, PeerView, Raft,
    Refusal, SnapshotSource, SnapshotStore, SnapshotWriter, Timeouts, Transport,
};
use raftpb::{MemberId, Message, MessageType};
use seams::{RealRng, Rng as _};
use snap::{DatabaseReceiver, Snapshotter};

use crate::config::Config;
use crate::lane::Lane;
use crate::member::Member;
use crate::metrics::Text;
use crate::raftloop::Outbound;
use crate::shared::Shared;

/// A database is sent and received in pieces of this size.
const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;

/// A member that hears of its removal from others stays for so long: if it led, who removed it
/// may wait at its door. As long as raft's own farewell of a removed leader.
const REMOVED_LINGERS: Duration = Duration::from_secs(1);

/// etcd's text for a lease that is not there, on the peer port.
const LEASE_NOT_FOUND: &str = "lease not found";

/// The member's end of the transport.
pub struct Peers {
    handle: Handle,
    asks: Asks,
    shared: Arc<Shared>,
}

/// Starts the transport with the peers that are known now. `api` gets its member afterwards.
pub fn start(
    config: &Config,
    shared: &Arc<Shared>,
    snapshotter: &Snapshotter,
    api: &Arc<Port>,
    runtime: &tokio::runtime::Handle,
) -> Result<(Peers, RaftOutbound)> {
    let timeouts = timeouts(config);
    let mut transport = rafthttp::Config::new(
        shared.id,
        ClusterId(shared.cluster_id),
        config.advertise_peer_urls.clone(),
    );
    transport.timeouts = timeouts.clone();
    transport.process = RealRng::new().next_u64().max(1);
    let asks = Asks::new(&timeouts, &transport.limits);
    let handle = Transport::start(
        transport,
        Arc::new(Inbound {
            shared: shared.clone(),
            runtime: runtime.clone(),
            told_removed: AtomicBool::new(false),
        }),
        api.clone(),
        Arc::new(ReceivedSnapshots {
            snapshotter: snapshotter.clone(),
            shared: shared.clone(),
        }),
        runtime.clone(),
    )?;
    let outbound = RaftOutbound {
        handle: handle.clone(),
        shared: shared.clone(),
        runtime: runtime.clone(),
        heartbeats: Heartbeats::new(config.tick),
    };
    let peers = Peers {
        handle,
        asks,
        shared: shared.clone(),
    };
    peers.follow_membership();
    Ok((peers, outbound))
}

/// The transport's times.
pub(crate) fn timeouts(config: &Config) -> Timeouts {
    Timeouts {
        read: config.raft_read_timeout,
        write: config.raft_write_timeout,
        dial: config.peer_dial_timeout(),
        ..Timeouts::default()
    }
}

impl Peers {
    /// The transport, for who asks about connections.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves the peer port in the current runtime.
    pub fn serve(&self, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let handle = self.handle.clone();
        tokio::spawn(async move { handle.serve(listener).await });
        Ok(())
    }

    /// Members that were met while joining, before the log names them (quirk 34).
    pub fn add_remotes(&self, members: &[MemberInfo]) {
        for member in members.iter().filter(|member| member.id != self.shared.id) {
            if let Err(error) = self.handle.add_remote(member.id, &member.peer_urls) {
                tracing::warn!(peer = %member.id, %error, "a member's peer URLs cannot be used");
            }
        }
    }

    /// Brings the transport's peers in line with the membership.
    pub fn follow_membership(&self) {
        let cluster = self.shared.state().cluster.get();
        for member in cluster
            .members()
            .filter(|member| member.id != self.shared.id)
        {
            let known = self
                .handle
                .peers()
                .iter()
                .any(|p| p.id == member.id && !p.remote);
            let result = if known {
                self.handle.update_peer(member.id, &member.peer_urls)
            } else {
                self.handle.add_peer(member.id, &member.peer_urls)
            };
            if let Err(error) = result {
                tracing::warn!(peer = %member.id, %error, "a member's peer URLs cannot be used");
            }
        }
        for peer in self.handle.peers() {
            if !peer.remote && cluster.member(peer.id).is_none() {
                self.handle.remove_peer(peer.id);
            }
        }
    }

    /// Since when a member is connected without a break.
    pub fn active_since(&self, id: MemberId) -> Option<Instant> {
        self.handle.active_since(id)
    }

    /// Why a member is not connected, if it is not.
    pub fn why_not_connected(&self, id: MemberId) -> Option<String> {
        let peers = self.handle.peers();
        let peer = peers.iter().find(|peer| peer.id == id && !peer.remote)?;
        if peer.active_since.is_some() {
            return None;
        }
        let failure = peer.probe.failure.as_ref();
        let failure = failure.map_or_else(String::new, |error| format!(": {error}"));
        Some(format!("it is not connected{failure}"))
    }

    /// How many members are connected.
    pub fn active_count(&self) -> usize {
        self.handle
            .peers()
            .iter()
            .filter(|peer| peer.active_since.is_some())
            .count()
    }

    /// Ends the transport.
    pub fn stop(&self) {
        self.handle.stop();
    }

    fn urls(&self, id: MemberId) -> Vec<String> {
        let cluster = self.shared.state().cluster.get();
        cluster
            .member(id)
            .map_or_else(Vec::new, |member| member.peer_urls.clone())
    }

    fn asks(&self, deadline: Instant) -> Asks {
        self.asks
            .within(deadline.saturating_duration_since(Instant::now()))
    }

    /// Renews a lease at the leader.
    pub async fn lease_renew(
        &self,
        leader: MemberId,
        lease: i64,
        deadline: Instant,
    ) -> Result<i64, api::Error> {
        let mut last = api::Error::NoLeader;
        for url in self.urls(leader) {
            match self.asks(deadline).lease_renew(&url, lease).await {
                Ok(ttl) => return Ok(ttl),
                Err(error) => last = from_lease_answer(&error),
            }
            if last == api::Error::LeaseNotFound {
                break;
            }
        }
        Err(last)
    }

    /// Asks the leader about a lease.
    pub async fn lease_time_to_live(
        &self,
        leader: MemberId,
        request: &pb::LeaseTimeToLiveRequest,
        deadline: Instant,
    ) -> Result<pb::LeaseTimeToLiveResponse, api::Error> {
        let mut last = api::Error::NoLeader;
        for url in self.urls(leader) {
            match self
                .asks(deadline)
                .lease_time_to_live(&url, request.id, request.keys)
                .await
            {
                Ok(known) => {
                    return Ok(pb::LeaseTimeToLiveResponse {
                        header: None,
                        id: known.id,
                        ttl: known.ttl,
                        granted_ttl: known.granted_ttl,
                        keys: known.keys,
                    });
                }
                Err(error) => last = from_lease_answer(&error),
            }
            if last == api::Error::LeaseNotFound {
                break;
            }
        }
        Err(last)
    }

    /// Whose program the member runs; `None` when it does not say.
    pub async fn program(&self, id: MemberId, deadline: Instant) -> Option<Programs> {
        match self.asks(deadline).version(&self.urls(id)).await {
            Ok(versions) if versions.quorate.is_some() => Some(Programs::Quorate),
            Ok(_) => Some(Programs::Etcd),
            Err(error) => {
                tracing::debug!(%error, member = %id, "asking a member for its program failed");
                None
            }
        }
    }

    /// Puts a membership call to the leader, one of ours. `NotLeader`: it was certainly not
    /// decided there; `Timeout`: nobody knows.
    pub async fn membership(
        &self,
        leader: MemberId,
        question: String,
        deadline: Instant,
    ) -> Result<Bytes, api::Error> {
        let cluster = ClusterId(self.shared.cluster_id);
        let question = Bytes::from(question);
        for url in self.urls(leader) {
            let asked = self.asks(deadline);
            match asked.membership(&url, cluster, question.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(rafthttp::Error::Unreachable { .. } | rafthttp::Error::BadUrl { .. }) => {}
                Err(error @ rafthttp::Error::Status { .. }) => {
                    tracing::warn!(%error, %leader, "the leader does not take membership calls");
                    return Err(api::Error::NotLeader);
                }
                Err(error) => {
                    tracing::warn!(%error, %leader, "whether the leader decided is not known");
                    return Err(api::Error::Timeout);
                }
            }
        }
        Err(api::Error::NotLeader)
    }

    /// Asks the leader to promote a learner; all members afterwards.
    pub async fn promote(
        &self,
        leader: MemberId,
        id: MemberId,
        deadline: Instant,
    ) -> Result<Vec<MemberInfo>, api::Error> {
        let mut last = api::Error::NoLeader;
        for url in self.urls(leader) {
            match self.asks(deadline).promote(&url, id, None).await {
                Ok(body) => {
                    return json::decode_member_list(&body)
                        .map_err(|error| api::Error::Other(error.to_string().into()));
                }
                Err(rafthttp::Error::Status { status: 404, .. }) => {
                    return Err(api::Error::MemberNotFound);
                }
                Err(rafthttp::Error::Status {
                    status: 412, body, ..
                }) => {
                    // etcd members look for these words too.
                    return Err(if body.contains("in sync with leader") {
                        api::Error::LearnerNotReady
                    } else {
                        api::Error::MemberNotLearner
                    });
                }
                Err(error) => last = api::Error::Other(error.to_string().into()),
            }
        }
        Err(last)
    }

    /// The hash of a member's keys at a revision.
    pub async fn hash_kv(
        &self,
        urls: &[String],
        revision: i64,
        deadline: Instant,
    ) -> Result<HashKv, rafthttp::Error> {
        let mut last = rafthttp::Error::NoUrl { what: "its hash" };
        for url in urls {
            let cluster = ClusterId(self.shared.cluster_id);
            match self.asks(deadline).hash_kv(url, cluster, revision).await {
                Ok(hash) => return Ok(hash),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The version that a member announces.
    pub async fn version(&self, urls: &[String], deadline: Instant) -> Option<String> {
        match self.asks(deadline).version(urls).await {
            Ok(versions) => Some(versions.server),
            Err(error) => {
                tracing::debug!(%error, "asking a member for its version failed");
                None
            }
        }
    }

    /// etcd's network metrics.
    pub fn write_metrics(&self, text: &mut Text) {
        let mut peers = self.handle.peers();
        // Who is met while joining counts until the membership knows it.
        let known: Vec<MemberId> = peers
            .iter()
            .filter(|peer| !peer.remote)
            .map(|peer| peer.id)
            .collect();
        peers.retain(|peer| !peer.remote || !known.contains(&peer.id));
        let local = self.shared.id;
        let pair = |peer: &PeerView| format!("Local=\"{local}\",Remote=\"{}\"", peer.id);
        let to = |peer: &PeerView| format!("To=\"{}\"", peer.id);
        let from = |peer: &PeerView| format!("From=\"{}\"", peer.id);
        let mut write = |kind, name, help, label: &dyn Fn(&PeerView) -> String, value: Figure| {
            let series: Vec<(String, u64)> = peers
                .iter()
                .map(|peer| (label(peer), value(peer)))
                .collect();
            text.labelled(name, kind, help, &series);
        };
        write(
            "gauge",
            "etcd_network_active_peers",
            "The current number of active peer connections.",
            &pair,
            |peer| u64::from(peer.active_since.is_some()),
        );
        write(
            "counter",
            "etcd_network_disconnected_peers_total",
            "The total number of disconnected peers.",
            &pair,
            |peer| peer.stats.disconnected,
        );
        write(
            "counter",
            "etcd_network_peer_sent_bytes_total",
            "The total number of bytes sent to peers.",
            &to,
            |peer| peer.stats.sent_bytes,
        );
        write(
            "counter",
            "etcd_network_peer_received_bytes_total",
            "The total number of bytes received from peers.",
            &from,
            |peer| peer.stats.received_bytes,
        );
        write(
            "counter",
            "etcd_network_peer_sent_failures_total",
            "The total number of send failures from peers.",
            &to,
            |peer| peer.stats.sent_failures,
        );
        write(
            "counter",
            "etcd_network_peer_received_failures_total",
            "The total number of receive failures from peers.",
            &from,
            |peer| peer.stats.received_failures,
        );
        write(
            "counter",
            "etcd_network_snapshot_send_success",
            "Total number of successful snapshot sends",
            &to,
            |peer| peer.stats.snapshot_sent.successes,
        );
        write(
            "counter",
            "etcd_network_snapshot_send_failures",
            "Total number of snapshot send failures",
            &to,
            |peer| peer.stats.snapshot_sent.failures,
        );
        write(
            "gauge",
            "etcd_network_snapshot_send_inflights_total",
            "Total number of inflight snapshot sends",
            &to,
            |peer| peer.stats.snapshot_sent.in_flight,
        );
        write(
            "counter",
            "etcd_network_snapshot_receive_success",
            "Total number of successful snapshot receives",
            &from,
            |peer| peer.stats.snapshot_received.successes,
        );
        write(
            "counter",
            "etcd_network_snapshot_receive_failures",
            "Total number of snapshot receive failures",
            &from,
            |peer| peer.stats.snapshot_received.failures,
        );
        write(
            "gauge",
            "etcd_network_snapshot_receive_inflights_total",
            "Total number of inflight snapshot receives",
            &from,
            |peer| peer.stats.snapshot_received.in_flight,
        );
        text.histogram_views(
            "etcd_network_peer_round_trip_time_seconds",
            "Round-Trip-Time histogram between peers",
            peers.iter().map(|peer| (to(peer), &peer.stats.rtt)),
        );
        text.histogram_views(
            "etcd_network_snapshot_send_total_duration_seconds",
            "Total latency distributions of v3 snapshot sends",
            peers
                .iter()
                .map(|peer| (to(peer), &peer.stats.snapshot_sent.seconds)),
        );
        text.histogram_views(
            "etcd_network_snapshot_receive_total_duration_seconds",
            "Total latency distributions of v3 snapshot receives",
            peers
                .iter()
                .map(|peer| (from(peer), &peer.stats.snapshot_received.seconds)),
        );
    }
}

/// One number of a peer.
type Figure = fn(&PeerView) -> u64;

fn from_lease_answer(error: &rafthttp::Error) -> api::Error {
    match error {
        rafthttp::Error::Status { status: 404, .. } => api::Error::LeaseNotFound,
        rafthttp::Error::Timeout { .. } => api::Error::Timeout,
        other => api::Error::Other(other.to_string().into()),
    }
}

/// Whose program a member runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// ours
    Quorate,
    /// etcd
    Etcd,
}

/// From raft to the peers.
pub struct RaftOutbound {
    handle: Handle,
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    heartbeats: Heartbeats,
}

impl Outbound for RaftOutbound {
    fn send(&mut self, messages: Vec<Message>) {
        if !messages.is_empty() {
            let late = self.heartbeats.late(&messages, Instant::now());
            if late > 0 {
                let stats = &self.shared.counters.stats;
                stats
                    .heartbeat_send_failures
                    .fetch_add(late, Ordering::Relaxed);
            }
            self.handle.send(messages);
        }
    }

    fn send_snapshot(&mut self, message: Message) {
        let peer = MemberId(message.to);
        let Some(snapshot) = self.shared.take_snapshot(peer) else {
            self.shared.inbox.snapshot_sent(peer, false);
            return;
        };
        tracing::info!(%peer, bytes = snapshot.len(), "sending database snapshot");
        let source = DatabaseSource {
            snapshot: Arc::new(snapshot),
            sent: 0,
            runtime: self.runtime.clone(),
        };
        self.handle.send_snapshot(message, Box::new(source));
    }
}

/// When this leader's heartbeats went out, to find those that its own slowness held up (etcd
/// `contention.TimeoutDetector`).
struct Heartbeats {
    /// Two heartbeat intervals, as in etcd.
    late_after: Duration,
    term: u64,
    sent: BTreeMap<u64, Instant>,
}

impl Heartbeats {
    fn new(tick: Duration) -> Self {
        Self {
            late_after: 2 * tick,
            term: 0,
            sent: BTreeMap::new(),
        }
    }

    /// How many of these messages are heartbeats that come too long after the ones before.
    fn late(&mut self, messages: &[Message], now: Instant) -> u64 {
        let mut late = 0;
        for message in messages {
            if message.msg_type != MessageType::MsgHeartbeat as i32 {
                continue;
            }
            if message.term != self.term {
                self.term = message.term;
                self.sent.clear();
            }
            if let Some(before) = self.sent.insert(message.to, now)
                && now.saturating_duration_since(before) > self.late_after
            {
                late += 1;
            }
        }
        late
    }
}

/// The pinned database, in pieces, read on the pool.
struct DatabaseSource {
    snapshot: Arc<backend::Snapshot>,
    sent: u64,
    runtime: tokio::runtime::Handle,
}

impl SnapshotSource for DatabaseSource {
    fn total_bytes(&self) -> u64 {
        self.snapshot.len()
    }

    fn read(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        Box::pin(async {
            let (snapshot, offset) = (self.snapshot.clone(), self.sent);
            let read = self.runtime.spawn_blocking(move || {
                let mut chunk = vec![0; SNAPSHOT_CHUNK_BYTES];
                let read = snapshot
                    .read_at(offset, &mut chunk)
                    .map_err(io::Error::other)?;
                chunk.truncate(read);
                Ok::<Vec<u8>, io::Error>(chunk)
            });
            let chunk = read.await.map_err(io::Error::other)??;
            if chunk.is_empty() {
                return Ok(None);
            }
            self.sent += chunk.len() as u64;
            Ok(Some(chunk.into()))
        })
    }
}

/// From the peers to raft.
struct Inbound {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    told_removed: AtomicBool,
}

impl Raft for Inbound {
    fn process(&self, batch: Vec<Message>) -> bool {
        self.shared.inbox.messages(batch);
        true
    }

    fn is_removed(&self, member: MemberId) -> bool {
        self.shared.state().cluster.get().is_removed(member)
    }

    fn report_unreachable(&self, member: MemberId) {
        self.shared.inbox.unreachable(member);
    }

    fn removal(&self, member: MemberId) -> Option<String> {
        self.shared.whereabouts.removal(member)
    }

    fn report_snapshot(&self, member: MemberId, delivered: Result<(), String>) {
        let arrived = delivered.is_ok();
        tracing::info!(peer = %member, delivered = arrived, "sent database snapshot");
        self.shared.whereabouts.snapshot(member, delivered);
        self.shared.inbox.snapshot_sent(member, arrived);
    }

    fn report_twin(&self, told_by: MemberId, said: &str) {
        self.shared.fatal(format!(
            "another process runs as member {}: member {told_by} says: {said}. A member that runs twice could vote twice. This data directory is a copy: stop this process for good, or the other one; for one more member, add it (`etcdctl member add`) and start it with an empty directory",
            self.shared.id
        ));
    }

    fn report_removed(&self, told_by: MemberId, said: &str) {
        if self.told_removed.swap(true, Ordering::Relaxed) {
            return;
        }
        let reason = format!(
            "member {told_by} says that this member was removed from the cluster ({said}); its data directory must be removed before it can be added again: delete it, `etcdctl member add` it as a new member, and start it with --initial-cluster-state=existing"
        );
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            // A leader may hear of its removal from others before it has answered who asked for it.
            tokio::time::sleep(REMOVED_LINGERS).await;
            // Who has applied it as well says farewell in raft, and ends by itself, in its own words.
            if !shared.state().cluster.get().is_removed(shared.id) {
                shared.fatal(reason);
            }
        });
    }
}

/// Databases from the leader, into `<index>.snap.db` in the snapshot directory.
struct ReceivedSnapshots {
    snapshotter: Snapshotter,
    shared: Arc<Shared>,
}

impl SnapshotStore for ReceivedSnapshots {
    fn receive(
        &self,
        message: &Message,
    ) -> BoxFuture<'static, io::Result<Box<dyn SnapshotWriter>>> {
        let index = message.snapshot.as_ref().map_or(0, raftpb::Snapshot::index);
        let (snapshotter, shared) = (self.snapshotter.clone(), self.shared.clone());
        Box::pin(async move {
            tracing::info!(index, "receiving database snapshot");
            let began = Instant::now();
            let receiver = blocking(move || snapshotter.receive_database(index)).await?;
            let receiving = Receiving {
                receiver: Some(receiver),
                began,
                shared,
            };
            Ok(Box::new(receiving) as Box<dyn SnapshotWriter>)
        })
    }
}

struct Receiving {
    /// `None` only while a write is on the pool.
    receiver: Option<DatabaseReceiver>,
    began: Instant,
    shared: Arc<Shared>,
}

impl Receiving {
    fn take(&mut self) -> io::Result<DatabaseReceiver> {
        self.receiver
            .take()
            .ok_or_else(|| io::Error::other("an earlier write failed"))
    }
}

impl SnapshotWriter for Receiving {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let mut receiver = self.take()?;
            let written = blocking(move || receiver.write(&bytes).map(|()| receiver));
            self.receiver = Some(written.await?);
            Ok(())
        })
    }

    fn finish(mut self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async move {
            let receiver = self.take()?;
            let bytes = receiver.written();
            let syncing = Instant::now();
            let path = blocking(move || receiver.finish()).await?;
            let stats = &self.shared.counters.stats;
            stats.database_synced.observe(syncing.elapsed());
            stats.database_saved.observe(self.began.elapsed());
            tracing::info!(path = %path.display(), bytes, "saved database snapshot");
            Ok(())
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, snap::Error> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?;
    done.map_err(io::Error::other)
}

/// What this member answers on its peer port.
#[derive(Default)]
pub struct Port {
    member: OnceLock<(Weak<Member>, Arc<Lane>)>,
}

impl Port {
    /// Says who answers; until then questions are refused.
    pub fn set(&self, member: &Arc<Member>, lane: Arc<Lane>) {
        let set = self.member.set((Arc::downgrade(member), lane));
        assert!(set.is_ok(), "the port is given its member once");
    }

    fn get(&self) -> Answer<(Arc<Member>, Arc<Lane>)> {
        let starting = || {
            Refusal::text(
                http::StatusCode::SERVICE_UNAVAILABLE,
                "the member is starting or stopping",
            )
        };
        let (member, lane) = self.member.get().ok_or_else(starting)?;
        Ok((member.upgrade().ok_or_else(starting)?, lane.clone()))
    }
}

impl PeerApi for Port {
    fn version(&self) -> Bytes {
        self.get().map_or_else(
            |_| Bytes::new(),
            |(member, _)| member.peer_version_json().into(),
        )
    }

    fn members(&self) -> Bytes {
        self.get().map_or_else(
            |_| Bytes::from_static(b"[]"),
            |(member, _)| json::encode_member_list(member.state().cluster.get().members()).into(),
        )
    }

    fn promote(&self, id: MemberId, _token: Option<String>) -> BoxFuture<'static, Answer<Bytes>> {
        let found = self.get();
        Box::pin(async move {
            let (member, lane) = found?;
            match member.member_promote_here(&lane, id).await {
                Ok(members) => Ok(json::encode_member_list(&members).into()),
                Err(error) => {
                    use http::StatusCode as Code;
                    let status = match error {
                        api::Error::MemberNotFound => Code::NOT_FOUND,
                        api::Error::MemberNotLearner | api::Error::LearnerNotReady => {
                            Code::PRECONDITION_FAILED
                        }
                        // An etcd looks for etcd's words, and tells its caller those.
                        api::Error::Refused(ref why) if why.contains("in sync with leader") => {
                            Code::PRECONDITION_FAILED
                        }
                        api::Error::Timeout => Code::REQUEST_TIMEOUT,
                        _ => Code::INTERNAL_SERVER_ERROR,
                    };
                    Err(Refusal::text(status, promote_text(&error)))
                }
            }
        })
    }

    fn membership(&self, question: Bytes) -> BoxFuture<'static, Answer<Bytes>> {
        let found = self.get();
        Box::pin(async move {
            let (member, lane) = found?;
            match member.membership_asked(&lane, &question).await {
                Some(answer) => Ok(answer.into()),
                None => Err(Refusal::text(
                    http::StatusCode::BAD_REQUEST,
                    "error unmarshalling request",
                )),
            }
        })
    }

    fn hash_kv(&self, revision: i64) -> BoxFuture<'static, Answer<HashKv>> {
        let found = self.get();
        Box::pin(async move {
            let (member, _) = found?;
            match member.hash_kv(revision).await {
                Ok((hash, current)) => Ok(HashKv {
                    revision: current,
                    hash: hash.hash,
                    compact_revision: hash.compact_revision,
                    hash_revision: hash.revision,
                }),
                Err(error) => {
                    // The store's own words, without etcd's prefix for clients.
                    let text = error.to_string();
                    let text = text.strip_prefix("etcdserver: ").unwrap_or(&text);
                    Err(Refusal::text(http::StatusCode::BAD_REQUEST, text))
                }
            }
        })
    }

    fn downgrade_enabled(&self) -> BoxFuture<'static, Answer<bool>> {
        let found = self.get();
        Box::pin(async move {
            let (member, lane) = found?;
            lane.linearizable_read().await.map_err(|error| {
                Refusal::text(
                    http::StatusCode::INTERNAL_SERVER_ERROR,
                    format!("failed linearized read: {error}"),
                )
            })?;
            Ok(member.state().cluster.get().downgrade().enabled)
        })
    }

    fn lease_renew(&self, lease: i64) -> BoxFuture<'static, Answer<i64>> {
        let found = self.get();
        Box::pin(async move {
            let (member, lane) = found?;
            member
                .lease_renew_here(&lane, lease)
                .await
                .map_err(|error| lease_refusal(&error))
        })
    }

    fn lease_time_to_live(
        &self,
        lease: i64,
        keys: bool,
    ) -> BoxFuture<'static, Answer<LeaseTimeToLive>> {
        let found = self.get();
        Box::pin(async move {
            let (member, lane) = found?;
            let request = pb::LeaseTimeToLiveRequest { id: lease, keys };
            let known = member
                .lease_time_to_live_here(&lane, &request)
                .await
                .map_err(|error| lease_refusal(&error))?;
            Ok(LeaseTimeToLive {
                id: known.id,
                ttl: known.ttl,
                granted_ttl: known.granted_ttl,
                keys: known.keys,
            })
        })
    }
}

/// etcd's own texts on the peer port, which differ from those for clients.
fn promote_text(error: &api::Error) -> String {
    match error {
        api::Error::MemberNotFound => "membership: ID not found".to_owned(),
        api::Error::MemberNotLearner => "membership: can only promote a learner member".to_owned(),
        other => other.to_string(),
    }
}

fn lease_refusal(error: &api::Error) -> Refusal {
    use http::StatusCode as Code;
    match error {
        api::Error::LeaseNotFound => Refusal::text(Code::NOT_FOUND, LEASE_NOT_FOUND),
        api::Error::TimeoutWaitAppliedIndex | api::Error::Timeout => Refusal::text(
            Code::REQUEST_TIMEOUT,
            "waiting for node to catch up its applied index has timed out",
        ),
        api::Error::NotPrimary => Refusal::text(Code::BAD_REQUEST, "not a primary lessor"),
        other => Refusal::text(Code::BAD_REQUEST, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_late_two_intervals_after_the_one_before_in_its_term() {
        let tick = Duration::from_millis(100);
        let mut heartbeats = Heartbeats::new(tick);
        let message = |to, term, kind: MessageType| Message {
            msg_type: kind as i32,
            to,
            term,
            ..Default::default()
        };
        let beat = |to, term| message(to, term, MessageType::MsgHeartbeat);
        let began = Instant::now();
        let both = [beat(2, 5), beat(3, 5)];
        assert_eq!(heartbeats.late(&both, began), 0);
        assert_eq!(heartbeats.late(&both, began + 2 * tick), 0);
        assert_eq!(heartbeats.late(&[beat(2, 5)], began + 3 * tick), 0);
        // Only the one to 3 was held up; other messages are none.
        let later = began + 5 * tick;
        assert_eq!(
            heartbeats.late(&[message(3, 5, MessageType::MsgApp)], later),
            0
        );
        assert_eq!(heartbeats.late(&both, later), 1);
        // A new lead begins anew.
        assert_eq!(
            heartbeats.late(&[beat(2, 6), beat(3, 6)], later + 9 * tick),
            0
        );
    }
}
