//! The transport: the peers, the way in for what raft sends, and the tasks around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use http::{HeaderMap, HeaderValue};
use parking_lot::RwLock;
use raftpb::{MemberId, Message, MessageType};
use tokio::runtime;
use tokio::sync::{Notify, Semaphore, watch};

use crate::client::Client;
use crate::codec::StreamKind;
use crate::config::Config;
use crate::error::Error;
use crate::peer::Peer;
use crate::ports::{PeerApi, Raft, SnapshotSource, SnapshotStore};
use crate::probe::Probe;
use crate::snapshot::Report;
use crate::stats::StatsView;
use crate::twins::Twins;
use crate::url::{self, PeerUrl};
use crate::version::header;
use crate::{pipeline, probe, reader, snapshot};

/// What the parts of the transport share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) raft: Arc<dyn Raft>,
    pub(crate) api: Arc<dyn PeerApi>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) stream_client: Client,
    pub(crate) pipeline_client: Client,
    pub(crate) snapshot_client: Client,
    pub(crate) ask_client: Client,
    /// Bytes of POSTs that are being received.
    pub(crate) post_bytes: AtomicUsize,
    /// One permit for each snapshot that may be received at a time.
    pub(crate) snapshot_permits: Semaphore,
    /// One permit for each connection that the listeners may hold.
    pub(crate) connection_permits: Arc<Semaphore>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) twins: Twins,
    identity: HeaderMap,
    /// Members and strangers. A handful, so a search from the front is the fastest.
    peers: RwLock<Vec<Arc<Peer>>>,
    stopped: AtomicBool,
    /// Something was queued: the pump wakes the connections that have work.
    queued: Notify,
    runtime: runtime::Handle,
}

/// The transport of one member. Cheap to clone; all clones are the same transport.
///
/// Functions may be called from any thread. None blocks.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

/// Makes the transport.
pub struct Transport;

impl Transport {
    /// Builds the clients and starts the pump. All tasks and sockets live on `runtime`, the
    /// peers' runtime. Peers are added with [`Handle::add_peer`], and who dials us is served by
    /// [`Handle::serve`].
    ///
    /// Errors: our own peer URLs or version cannot be put into headers.
    pub fn start(
        config: Config,
        raft: Arc<dyn Raft>,
        api: Arc<dyn PeerApi>,
        snapshots: Arc<dyn SnapshotStore>,
        runtime: runtime::Handle,
    ) -> Result<Handle, Error> {
        let identity = identity(&config)?;
        let timeouts = &config.timeouts;
        let shared = Arc::new(Shared {
            stream_client: Client::for_streams(timeouts),
            pipeline_client: Client::for_pipeline(timeouts),
            snapshot_client: Client::for_snapshots(timeouts),
            ask_client: Client::for_asks(timeouts),
            post_bytes: AtomicUsize::new(0),
            snapshot_permits: Semaphore::new(config.limits.snapshots_received_max),
            connection_permits: Arc::new(Semaphore::new(config.limits.connections_max)),
            stop: watch::channel(false).0,
            twins: Twins::default(),
            identity,
            peers: RwLock::new(Vec::new()),
            stopped: AtomicBool::new(false),
            queued: Notify::new(),
            runtime: runtime.clone(),
            config,
            raft,
            api,
            snapshots,
        });
        runtime.spawn(pump(shared.clone()));
        Ok(Handle { shared })
    }
}

/// Wakes the connections that have something to write. The raft thread wakes this one task for
/// a whole batch; waking the others from here, on their own thread, costs no system call.
async fn pump(shared: Arc<Shared>) {
    let mut stop = shared.stop.subscribe();
    loop {
        tokio::select! {
            () = shared.queued.notified() => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
        let peers = shared.peers.read().clone();
        for peer in peers {
            peer.lane(StreamKind::MsgApp).wake();
            peer.lane(StreamKind::Message).wake();
            pipeline::run(&shared, &peer);
        }
    }
}

impl Handle {
    /// Sends what raft wants sent: one push and one wake for the batch. Messages to nobody
    /// (`to` 0) and to members that we do not know are dropped, as in etcd. A message that finds
    /// its queue full is dropped and its receiver reported unreachable, from inside this call.
    ///
    /// A MsgSnap needs its database and goes through [`Handle::send_snapshot`]; one that comes
    /// here is reported as failed.
    pub fn send(&self, messages: Vec<Message>) {
        let mut any = false;
        let mut unreachable: Option<MemberId> = None;
        {
            let peers = self.shared.peers.read();
            for message in messages {
                if message.to == 0 {
                    continue;
                }
                let to = MemberId(message.to);
                if message.msg_type == MessageType::MsgSnap as i32 {
                    tracing::warn!(remote_peer_id = %to, "a snapshot came without its database");
                    drop(Report::new(self.shared.raft.clone(), to));
                    continue;
                }
                let Some(peer) = peers.iter().find(|peer| peer.id == to) else {
                    tracing::debug!(remote_peer_id = %to, "dropped a message to an unknown peer");
                    continue;
                };
                if peer.push(message) {
                    any = true;
                } else if unreachable != Some(to) {
                    unreachable = Some(to);
                    peer.report_unreachable();
                }
            }
        }
        if any {
            self.shared.queued.notify_one();
        }
    }

    /// Sends a snapshot message followed by its database. Ends in exactly one
    /// [`Raft::report_snapshot`] for the message's receiver; for an unknown or stopped one it
    /// comes from inside this call.
    pub fn send_snapshot(&self, message: Message, source: Box<dyn SnapshotSource>) {
        let to = MemberId(message.to);
        let report = Report::new(self.shared.raft.clone(), to);
        match self.shared.find(to) {
            Some(peer) if !peer.is_paused() && !peer.remote => {
                let sending =
                    snapshot::send(self.shared.clone(), peer.clone(), message, source, report);
                let task = self.shared.runtime.spawn(sending);
                peer.own(task.abort_handle());
            }
            _ => tracing::warn!(remote_peer_id = %to, "no such peer to send a snapshot to"),
        }
    }

    /// Begins to talk to a member. A member that we know already is left as it is; one that we
    /// know as a stranger becomes a peer. Ourselves we do not talk to.
    ///
    /// Errors: none of the URLs can be used.
    pub fn add_peer(&self, id: MemberId, urls: &[String]) -> Result<(), Error> {
        let shared = &self.shared;
        if id == shared.config.member_id {
            return Ok(());
        }
        let parsed = url::parse_all(urls)?;
        let peer = {
            let mut peers = shared.peers.write();
            if shared.stopped.load(Ordering::Acquire)
                || peers.iter().any(|peer| peer.id == id && !peer.remote)
            {
                return Ok(());
            }
            let peer = Arc::new(Peer::new(shared, id, parsed, false));
            peers.retain(|known| {
                let stays = known.id != id;
                if !stays {
                    known.stop();
                }
                stays
            });
            peers.push(peer.clone());
            peer
        };
        for kind in [StreamKind::MsgApp, StreamKind::Message] {
            let reading = reader::run(shared.clone(), peer.clone(), kind);
            peer.own(shared.runtime.spawn(reading).abort_handle());
        }
        let probing = probe::run(shared.clone(), peer.clone());
        peer.own(shared.runtime.spawn(probing).abort_handle());
        tracing::info!(remote_peer_id = %id, remote_peer_urls = ?urls, "added remote peer");
        Ok(())
    }

    /// Notes a member that is not in our membership yet, so that it can be answered, at the URLs
    /// that it named last.
    ///
    /// Errors: none of the URLs can be used.
    pub fn add_remote(&self, id: MemberId, urls: &[String]) -> Result<(), Error> {
        self.shared.add_remote(id, urls)
    }

    /// A member has new URLs. An unknown one is left alone.
    ///
    /// Errors: none of the URLs can be used; the old ones stay.
    pub fn update_peer(&self, id: MemberId, urls: &[String]) -> Result<(), Error> {
        let parsed = url::parse_all(urls)?;
        if let Some(peer) = self.shared.find(id).filter(|peer| !peer.remote) {
            peer.update_urls(parsed);
            tracing::info!(remote_peer_id = %id, remote_peer_urls = ?urls, "updated remote peer");
        }
        Ok(())
    }

    /// Ends all talk with a member. What still waited for it is lost.
    pub fn remove_peer(&self, id: MemberId) {
        let mut peers = self.shared.peers.write();
        peers.retain(|peer| {
            if peer.id == id && !peer.remote {
                peer.stop();
                return false;
            }
            true
        });
    }

    /// [`Handle::remove_peer`] for every peer. Strangers stay.
    pub fn remove_all(&self) {
        let mut peers = self.shared.peers.write();
        peers.retain(|peer| {
            if !peer.remote {
                peer.stop();
            }
            peer.remote
        });
    }

    /// Since when we are in touch with a member without a break; `None` while we are not. Any
    /// stream or POST that works makes it active, any that fails ends it.
    pub fn active_since(&self, id: MemberId) -> Option<Instant> {
        let peer = self.shared.find(id)?;
        (!peer.remote).then(|| peer.active_since()).flatten()
    }

    /// The peers as they are now, for metrics, status and the log.
    pub fn peers(&self) -> Vec<PeerView> {
        let peers = self.shared.peers.read();
        let view = |peer: &Arc<Peer>| PeerView {
            id: peer.id,
            remote: peer.remote,
            active_since: peer.active_since(),
            msgapp_stream_attached: peer.lane(StreamKind::MsgApp).is_attached(),
            message_stream_attached: peer.lane(StreamKind::Message).is_attached(),
            probe: peer.probe.lock().clone(),
            stats: peer.stats.view(),
        };
        peers.iter().map(view).collect()
    }

    /// Drops what goes to this member and what comes from it, until [`Handle::mend`]. The
    /// connections stay: it is what a network does that loses every packet.
    pub fn cut(&self, id: MemberId) {
        if let Some(peer) = self.shared.find(id) {
            peer.set_paused(true);
        }
    }

    /// Ends [`Handle::cut`].
    pub fn mend(&self, id: MemberId) {
        if let Some(peer) = self.shared.find(id) {
            peer.set_paused(false);
        }
    }

    /// Stops the transport: listeners, connections, tasks. Nothing is sent or received after
    /// this, except that each snapshot in flight is still reported.
    pub fn stop(&self) {
        let shared = &self.shared;
        shared.stopped.store(true, Ordering::Release);
        shared.stop.send_replace(true);
        for peer in shared.peers.write().drain(..) {
            peer.stop();
        }
        for client in [
            &shared.stream_client,
            &shared.pipeline_client,
            &shared.snapshot_client,
            &shared.ask_client,
        ] {
            client.close_idle();
        }
    }
}

/// One peer at one moment.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Who.
    pub id: MemberId,
    /// A stranger that dialled us, not a member that we know.
    pub remote: bool,
    /// As [`Handle::active_since`].
    pub active_since: Option<Instant>,
    /// The peer reads appends from us over its stream.
    pub msgapp_stream_attached: bool,
    /// The peer reads the other messages from us over its stream.
    pub message_stream_attached: bool,
    /// Distance and clock.
    pub probe: Probe,
    /// Counters.
    pub stats: StatsView,
}

impl Shared {
    pub(crate) fn find(&self, id: MemberId) -> Option<Arc<Peer>> {
        let peers = self.peers.read();
        peers.iter().find(|peer| peer.id == id).cloned()
    }

    pub(crate) fn add_remote(&self, id: MemberId, urls: &[String]) -> Result<(), Error> {
        if id == self.config.member_id || id.0 == 0 || self.raft.is_removed(id) {
            return Ok(());
        }
        let known = self.find(id);
        if known.as_ref().is_some_and(|peer| !peer.remote) {
            return Ok(());
        }
        let parsed = url::parse_all(urls)?;
        if let Some(stranger) = known {
            // It moved before we learned its membership. (etcd keeps the first URLs for good.)
            if stranger.move_to(parsed) {
                tracing::info!(remote_peer_id = %id, remote_peer_urls = ?urls, "a stranger moved");
            }
            return Ok(());
        }
        let mut peers = self.peers.write();
        let known = peers.iter().any(|peer| peer.id == id);
        let strangers = peers.iter().filter(|peer| peer.remote).count();
        if known || self.stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        if strangers >= self.config.limits.remotes_max {
            tracing::debug!(remote_peer_id = %id, "a stranger is not noted: there are too many");
            return Ok(());
        }
        peers.push(Arc::new(Peer::new(self, id, parsed, true)));
        tracing::info!(remote_peer_id = %id, remote_peer_urls = ?urls, "noted a stranger");
        Ok(())
    }

    /// Puts in the headers that say who we are.
    pub(crate) fn identify(&self, headers: &mut HeaderMap, url: &PeerUrl) {
        headers.clone_from(&self.identity);
        if let Ok(host) = HeaderValue::try_from(url.authority()) {
            headers.insert(http::header::HOST, host);
        }
    }
}

fn identity(config: &Config) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    let urls = config.peer_urls.join(",");
    let values = [
        (header::SERVER_FROM, config.member_id.to_string()),
        (header::SERVER_VERSION, config.server_version.to_string()),
        (
            header::MIN_CLUSTER_VERSION,
            config.min_cluster_version.to_string(),
        ),
        (header::CLUSTER_ID, config.cluster_id.to_string()),
        (header::PEER_URLS, urls.clone()),
    ];
    for (name, value) in values {
        let value = HeaderValue::try_from(value).map_err(|_| Error::BadUrl {
            url: urls.clone(),
            reason: "it cannot be put into a header",
        })?;
        headers.insert(name, value);
    }
    if config.process != 0 {
        let process = HeaderValue::try_from(format!("{:x}", config.process))
            .expect("hexadecimal digits are a valid header");
        headers.insert(header::PROCESS, process);
    }
    Ok(headers)
}
