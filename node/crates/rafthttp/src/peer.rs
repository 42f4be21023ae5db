//! One peer: its URLs, its ways out, and whether we are in touch with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use raftpb::{MemberId, Message, MessageType};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::codec::StreamKind;
use crate::lane::{Lane, Pushed};
use crate::pipeline::Pipeline;
use crate::ports::Raft;
use crate::probe::Probe;
use crate::stats::Stats;
use crate::transport::Shared;
use crate::url::{PeerUrl, Picker};

/// A member that we talk to, or (`remote`) a stranger that dialled us before we learned of its
/// membership. A stranger is answered over the pipeline only, which is enough for it and us to
/// catch up (quirk 34).
pub(crate) struct Peer {
    pub(crate) id: MemberId,
    pub(crate) remote: bool,
    raft: Arc<dyn Raft>,
    picker: Mutex<Picker>,
    msgapp: Lane,
    message: Lane,
    pub(crate) pipeline: Pipeline,
    status: Mutex<Option<Instant>>,
    paused: AtomicBool,
    stopped: AtomicBool,
    /// The peer showed that it lives: dial its streams at once. One for each stream.
    pub(crate) redial: [Notify; 2],
    pub(crate) probe: Mutex<Probe>,
    pub(crate) stats: Stats,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Peer {
    pub(crate) fn new(shared: &Shared, id: MemberId, urls: Vec<PeerUrl>, remote: bool) -> Peer {
        let limits = &shared.config.limits;
        let lane = || {
            Lane::new(
                limits.stream_queue_messages_max,
                limits.stream_queue_bytes_max,
            )
        };
        Peer {
            id,
            remote,
            raft: shared.raft.clone(),
            picker: Mutex::new(Picker::new(urls)),
            msgapp: lane(),
            message: lane(),
            pipeline: Pipeline::new(
                limits.pipeline_queue_messages_max,
                limits.stream_queue_bytes_max,
                limits.pipeline_posts_max,
            ),
            status: Mutex::new(None),
            paused: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            redial: [Notify::new(), Notify::new()],
            probe: Mutex::new(Probe::default()),
            stats: Stats::default(),
            tasks: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn lane(&self, kind: StreamKind) -> &Lane {
        match kind {
            StreamKind::MsgApp => &self.msgapp,
            StreamKind::Message => &self.message,
        }
    }

    /// Queues a message on its way: appends on their stream, the rest on the other, and what
    /// has no stream through the pipeline. `false`: it was dropped, and raft must be told.
    pub(crate) fn push(&self, message: Message) -> bool {
        if self.is_paused() {
            return true;
        }
        let mut pushed = Pushed::Detached(message);
        if !self.remote {
            if let Pushed::Detached(message) = pushed {
                pushed = if message.msg_type == MessageType::MsgApp as i32 {
                    self.msgapp.push(message)
                } else {
                    Pushed::Detached(message)
                };
            }
            if let Pushed::Detached(message) = pushed {
                pushed = self.message.push(message);
            }
        }
        let queued = match pushed {
            Pushed::Queued => true,
            Pushed::Full => false,
            Pushed::Detached(message) => self.pipeline.push(message),
        };
        if !queued {
            let failures = self.stats.add_sent_failure();
            // A slow peer drops thousands; powers of two tell the story in a few lines.
            if failures.is_power_of_two() {
                tracing::warn!(
                    remote_peer_id = %self.id,
                    dropped_so_far = failures,
                    "dropped a raft message: the peer's queue is full; raft sends again"
                );
            }
        }
        queued
    }

    pub(crate) fn report_unreachable(&self) {
        if !self.is_stopped() {
            self.raft.report_unreachable(self.id);
        }
    }

    pub(crate) fn pick_url(&self) -> PeerUrl {
        self.picker.lock().pick()
    }

    pub(crate) fn url_failed(&self, url: &PeerUrl) {
        self.picker.lock().failed(url);
    }

    pub(crate) fn update_urls(&self, urls: Vec<PeerUrl>) {
        *self.picker.lock() = Picker::new(urls);
        self.dial_now();
    }

    /// [`Peer::update_urls`], if they are others than those we have.
    pub(crate) fn move_to(&self, urls: Vec<PeerUrl>) -> bool {
        let moved = !self.picker.lock().is_of(&urls);
        if moved {
            self.update_urls(urls);
        }
        moved
    }

    /// Ends the pause before the next attempt to dial the peer's streams.
    pub(crate) fn dial_now(&self) {
        for redial in &self.redial {
            redial.notify_one();
        }
    }

    pub(crate) fn activate(&self) {
        let mut since = self.status.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            tracing::info!(remote_peer_id = %self.id, "peer became active");
        }
    }

    pub(crate) fn deactivate(&self, source: &str, action: &str, reason: &str) {
        let was_active = self.status.lock().take().is_some();
        if self.is_stopped() {
            return;
        }
        if was_active {
            self.stats.add_disconnected();
            tracing::warn!(
                remote_peer_id = %self.id, source, action, reason,
                "peer became inactive"
            );
        } else {
            tracing::debug!(
                remote_peer_id = %self.id, source, action, reason,
                "peer is still inactive"
            );
        }
    }

    pub(crate) fn active_since(&self) -> Option<Instant> {
        *self.status.lock()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Keeps a task to be ended with the peer.
    pub(crate) fn own(&self, task: AbortHandle) {
        let mut tasks = self.tasks.lock();
        tasks.retain(|task| !task.is_finished());
        if self.is_stopped() {
            task.abort();
        } else {
            tasks.push(task);
        }
    }

    /// Ends everything that belongs to the peer. Its streams still get what waits for them;
    /// what waits for the pipeline is lost.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        self.msgapp.close();
        self.message.close();
        *self.status.lock() = None;
        tracing::info!(remote_peer_id = %self.id, "stopped talking to a peer");
    }
}
