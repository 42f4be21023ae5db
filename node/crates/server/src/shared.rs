//! What the threads of one member share: positions as atomics, the state behind one swap, the
//! lanes, and the one way to stop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use backend::Backend;
use lease::Lessor;
use membership::Cluster;
use mvcc::Mvcc;
use parking_lot::{Mutex, RwLock};
use raftnode::{DropReason, Fetch, Role, SoftState, Status, Stop};
use raftpb::MemberId;
use tokio::sync::{mpsc, watch};

use crate::lane::{Lane, Reply};
use crate::raftloop::RaftInbox;
use crate::whereabouts::Whereabouts;

/// Committed entries that are not applied yet, beyond which the door refuses new ones (etcd
/// `maxGapBetweenApplyAndCommitIndex`).
pub(crate) const UNAPPLIED_MAX: u64 = 5000;

/// A database that was pinned for a peer is kept this long, until raft sends its message. A peer that
/// lives is sent it within a heartbeat; for one that is gone, pages must not be kept for ever. Raft asks
/// again when the peer comes back.
const PINNED_MAX: Duration = Duration::from_secs(30);

/// The state that requests read. A received snapshot puts a new one in its place, whole.
pub struct State {
    /// the database
    pub backend: Backend,
    /// keys and watchers
    pub mvcc: Arc<Mvcc>,
    /// leases
    pub lessor: Arc<Lessor>,
    /// members
    pub cluster: Arc<Cluster>,
    /// alarms
    pub alarms: Arc<apply::Alarms>,
}

/// Long work that the raft loop asks for and must not wait for.
pub trait Errands: Send + Sync {
    /// Make a snapshot for this peer; the answer goes to the raft inbox.
    fn make_snapshot(&self, peer: MemberId);
    /// Read entries from the WAL; the answer goes to the raft inbox.
    fn fetch(&self, fetch: Fetch);
}

/// Counters that `/metrics` shows and that no other room keeps.
#[derive(Debug, Default)]
pub struct Counters {
    /// `etcd_server_leader_changes_seen_total`
    pub leader_changes: AtomicU64,
    /// `etcd_server_proposals_failed_total`
    pub proposals_failed: AtomicU64,
    /// `etcd_server_read_indexes_failed_total`
    pub read_indexes_failed: AtomicU64,
    /// `etcd_server_health_success`
    pub health_success: AtomicU64,
    /// `etcd_server_health_failures`
    pub health_failures: AtomicU64,
    /// what else is counted
    pub stats: crate::stats::Stats,
    /// `etcd_server_slow_apply_total`
    pub slow_apply: AtomicU64,
    /// `etcd_debugging_server_lease_expired_total`
    pub leases_expired: AtomicU64,
}

/// Ends the member when it is dropped by a panic: a member with a thread less would go on to look
/// alive, keep its lead by heartbeats and answer nobody.
pub struct PanicGuard {
    shared: Weak<Shared>,
    what: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(shared) = self.shared.upgrade()
        {
            shared.fatal(format!(
                "{} panicked: a fault in this program, see the message before this one. Nothing that was not on disk has been acknowledged; start this member again, and report the message",
                self.what
            ));
        }
    }
}

/// See the chapter above.
pub struct Shared {
    /// this member
    pub id: MemberId,
    /// its cluster
    pub cluster_id: u64,
    /// `--election-timeout` in ticks
    pub election_ticks: u32,
    /// what reaches the raft loop
    pub inbox: Arc<RaftInbox>,
    /// see [`Counters`]
    pub counters: Counters,
    /// what people are told of others
    pub whereabouts: Whereabouts,
    started: Instant,
    term: AtomicU64,
    leader: AtomicU64,
    role_leader: AtomicBool,
    committed: AtomicU64,
    applied: AtomicU64,
    last_tick_ms: AtomicU64,
    turns_since_status: AtomicU32,
    status: RwLock<Arc<Status>>,
    state: RwLock<Arc<State>>,
    lanes: OnceLock<Vec<Arc<Lane>>>,
    errands: OnceLock<Box<dyn Errands>>,
    leadership: watch::Sender<SoftState>,
    lead_lost: Mutex<Option<Instant>>,
    elected: Mutex<Option<Instant>>,
    stopping: watch::Sender<Option<String>>,
    published: watch::Sender<bool>,
    compacted: watch::Sender<i64>,
    membership: watch::Sender<u64>,
    snapshots: Mutex<BTreeMap<MemberId, (Instant, backend::Snapshot)>>,
    no_space: mpsc::UnboundedSender<(u64, Reply)>,
    no_space_replies: Mutex<Option<mpsc::UnboundedReceiver<(u64, Reply)>>>,
}

impl Shared {
    /// A member at the given positions.
    pub fn new(
        id: MemberId,
        cluster_id: u64,
        election_ticks: u32,
        state: State,
        applied: u64,
        term: u64,
    ) -> Self {
        let (no_space, no_space_replies) = mpsc::unbounded_channel();
        Self {
            id,
            cluster_id,
            election_ticks,
            inbox: Arc::default(),
            counters: Counters::default(),
            whereabouts: Whereabouts::default(),
            started: Instant::now(),
            term: AtomicU64::new(term),
            leader: AtomicU64::new(0),
            role_leader: AtomicBool::new(false),
            committed: AtomicU64::new(applied),
            applied: AtomicU64::new(applied),
            last_tick_ms: AtomicU64::new(0),
            turns_since_status: AtomicU32::new(0),
            status: RwLock::default(),
            state: RwLock::new(Arc::new(state)),
            lanes: OnceLock::new(),
            errands: OnceLock::new(),
            leadership: watch::Sender::new(SoftState {
                leader: None,
                role: Role::Follower,
                term,
            }),
            lead_lost: Mutex::new(Some(Instant::now())),
            elected: Mutex::new(None),
            stopping: watch::Sender::new(None),
            published: watch::Sender::new(false),
            compacted: watch::Sender::new(0),
            membership: watch::Sender::new(0),
            snapshots: Mutex::default(),
            no_space,
            no_space_replies: Mutex::new(Some(no_space_replies)),
        }
    }

    /// Sets the lanes, once, before the threads start.
    pub fn set_lanes(&self, lanes: Vec<Arc<Lane>>) {
        assert!(
            self.lanes.set(lanes).is_ok(),
            "lanes are set once, before the threads start"
        );
    }

    /// Sets who runs errands, once, before the threads start.
    pub fn set_errands(&self, errands: Box<dyn Errands>) {
        assert!(
            self.errands.set(errands).is_ok(),
            "errands are set once, before the threads start"
        );
    }

    /// All lanes.
    pub fn lanes(&self) -> &[Arc<Lane>] {
        self.lanes.get().map_or(&[], Vec::as_slice)
    }

    /// Calls `f` with the lane of this number, if there is one.
    pub fn lane(&self, index: u8, f: impl FnOnce(&Lane)) {
        if let Some(lane) = self.lanes().get(usize::from(index)) {
            f(lane);
        }
    }

    /// Whether the caller of request `id` still waits.
    pub fn is_waiting(&self, id: u64) -> bool {
        Lane::of_id(self.id.0, id)
            .and_then(|lane| self.lanes().get(usize::from(lane)))
            .is_some_and(|lane| lane.is_waiting(id))
    }

    /// The state as it is now.
    pub fn state(&self) -> Arc<State> {
        self.state.read().clone()
    }

    /// Puts a new state in place, after a received snapshot.
    pub fn replace_state(&self, state: State) {
        *self.state.write() = Arc::new(state);
    }

    /// Our term.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }

    /// The leader's ID, 0 when unknown.
    pub fn leader(&self) -> u64 {
        self.leader.load(Ordering::Relaxed)
    }

    /// Whether we lead.
    pub fn is_leader(&self) -> bool {
        self.role_leader.load(Ordering::Relaxed)
    }

    /// Highest committed index handed to the applier.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Highest applied index.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Whether the door takes a proposal now, or the applier is too far behind (promise 2).
    pub fn admit_proposal(&self) -> Result<(), api::Error> {
        if self.committed() > self.applied() + UNAPPLIED_MAX {
            return Err(api::Error::TooManyRequests);
        }
        Ok(())
    }

    /// From the applier, before the results of that index are delivered.
    pub fn set_applied(&self, index: u64) {
        self.applied.store(index, Ordering::Release);
    }

    /// From the raft loop.
    pub fn set_committed(&self, index: u64) {
        self.committed.fetch_max(index, Ordering::AcqRel);
    }

    /// The core's status at its last tick or change of role.
    pub fn status(&self) -> Arc<Status> {
        self.status.read().clone()
    }

    /// From the raft loop after each turn; `make` is asked only when the view is due.
    pub fn offer_status(&self, ticked: bool, make: impl FnOnce() -> Status) {
        // Between ticks a view may be this many turns old: enough for whoever looks at lag.
        const TURNS: u32 = 256;
        let turns = self.turns_since_status.load(Ordering::Relaxed) + 1;
        if ticked || turns >= TURNS {
            self.turns_since_status.store(0, Ordering::Relaxed);
            *self.status.write() = Arc::new(make());
        } else {
            self.turns_since_status.store(turns, Ordering::Relaxed);
        }
    }

    /// From the raft loop: term, role or leader changed.
    pub fn set_soft_state(&self, soft: SoftState) {
        let leader = soft.leader.map_or(0, |id| id.0);
        let before = self.leader.swap(leader, Ordering::Relaxed);
        self.term.store(soft.term, Ordering::Relaxed);
        self.role_leader
            .store(soft.role == Role::Leader, Ordering::Relaxed);
        if before != leader {
            if leader == 0 {
                *self.lead_lost.lock() = Some(Instant::now());
                tracing::info!(term = soft.term, "lost the leader");
            } else {
                *self.lead_lost.lock() = None;
                if leader == self.id.0 {
                    *self.elected.lock() = Some(Instant::now());
                }
                self.counters.leader_changes.fetch_add(1, Ordering::Relaxed);
                tracing::info!(
                    leader = format!("{leader:x}"),
                    term = soft.term,
                    "the cluster has a leader"
                );
            }
        }
        if soft.role != Role::Leader {
            // Only a leader sends snapshots.
            self.snapshots.lock().clear();
        }
        self.leadership.send_replace(soft);
    }

    /// Changes of term, role and leader.
    pub fn leadership(&self) -> watch::Receiver<SoftState> {
        self.leadership.subscribe()
    }

    /// Since when there has been no leader.
    pub fn leader_lost_at(&self) -> Option<Instant> {
        *self.lead_lost.lock()
    }

    /// When this member became the leader last, if it ever did.
    pub fn elected_at(&self) -> Option<Instant> {
        *self.elected.lock()
    }

    /// From the raft loop, each tick.
    pub fn ticked(&self) {
        let ms = self.started.elapsed().as_millis() as u64;
        self.last_tick_ms.store(ms, Ordering::Relaxed);
        self.snapshots
            .lock()
            .retain(|_, (pinned, _)| pinned.elapsed() < PINNED_MAX);
    }

    /// How long ago the raft loop ticked; long means that it is stuck.
    pub fn since_tick(&self) -> Duration {
        let last = Duration::from_millis(self.last_tick_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }

    /// From the raft loop: a proposal will not go on.
    pub fn refuse(&self, id: u64, reason: &DropReason) {
        self.counters
            .proposals_failed
            .fetch_add(1, Ordering::Relaxed);
        let error = match reason {
            DropReason::NoLeader | DropReason::Transferring(_) => api::Error::NoLeader,
            DropReason::NotLeader => api::Error::NotLeader,
            DropReason::TooManyUncommitted => api::Error::TooManyRequests,
            DropReason::TooLarge { .. } => api::Error::RequestTooLarge,
            DropReason::ConfChangePending => api::Error::TooManyRequests,
            DropReason::Invalid(error) => api::Error::Other(error.to_string().into()),
            DropReason::Judged(text) => api::Error::from_text(text),
            DropReason::Removed => api::Error::Stopped,
        };
        tracing::debug!(request = id, %reason, "a proposal was dropped");
        if let Some(lane) = Lane::of_id(self.id.0, id) {
            self.lane(lane, |lane| lane.push_replies(&mut vec![(id, Err(error))]));
        }
    }

    /// From the raft loop: a read index was not found.
    pub fn read_index_failed(&self) {
        self.counters
            .read_indexes_failed
            .fetch_add(1, Ordering::Relaxed);
        // It was not answered in time, or too many wait for that already: slow, in etcd's words.
        let slow = &self.counters.stats.slow_read_indexes;
        slow.fetch_add(1, Ordering::Relaxed);
    }

    /// From the raft loop.
    pub fn make_snapshot(&self, peer: MemberId) {
        self.errands
            .get()
            .expect("errands are set before the threads start")
            .make_snapshot(peer);
    }

    /// From the raft loop.
    pub fn fetch(&self, fetch: Fetch) {
        self.errands
            .get()
            .expect("errands are set before the threads start")
            .fetch(fetch);
    }

    /// From the raft loop: the core ended itself.
    pub fn raft_stopped(&self, stop: &Stop) {
        match stop {
            Stop::Removed { .. } => self.fatal(format!(
                "{stop}: the member has been permanently removed from the cluster; its data directory can be removed"
            )),
            Stop::LostEntries { .. } => self.fatal(format!(
                "{stop}. Remove this member from the cluster, delete its data directory and add it again"
            )),
        }
    }

    /// Whether this member gave the id, in this life or an earlier one.
    pub fn is_ours(&self, id: u64) -> bool {
        Lane::of_id(self.id.0, id).is_some()
    }

    /// Whether this member only learns.
    pub fn is_learner(&self) -> bool {
        self.state().cluster.get().is_local_learner()
    }

    /// From the publisher: the cluster has heard our name.
    pub fn set_published(&self) {
        self.published.send_replace(true);
    }

    /// Turns true when the cluster has heard our name.
    pub fn published(&self) -> watch::Receiver<bool> {
        self.published.subscribe()
    }

    /// From the applier: members came, went or moved.
    pub fn membership_changed(&self) {
        self.membership.send_modify(|changes| *changes += 1);
    }

    /// Counts changes of the membership.
    pub fn membership_changes(&self) -> watch::Receiver<u64> {
        self.membership.subscribe()
    }

    /// From the applier: the records below this revision are gone. An older revision changes nothing.
    pub fn compaction_finished(&self, revision: i64) {
        self.compacted.send_if_modified(|finished| {
            let later = revision > *finished;
            *finished = revision.max(*finished);
            later
        });
    }

    /// The last compaction that finished.
    pub fn compactions_finished(&self) -> watch::Receiver<i64> {
        self.compacted.subscribe()
    }

    /// One lease was revoked because it had ended.
    pub fn lease_expired(&self) {
        self.counters.leases_expired.fetch_add(1, Ordering::Relaxed);
    }

    /// From the applier: raise the alarm, and answer this request when that is applied.
    pub fn raise_no_space(&self, id: u64, reply: Reply) {
        // The receiver lives as long as the member; after that nobody waits.
        let _ = self.no_space.send((id, reply));
    }

    /// The requests that wait for the alarm; for the one task that raises it.
    pub fn take_no_space(&self) -> Option<mpsc::UnboundedReceiver<(u64, Reply)>> {
        self.no_space_replies.lock().take()
    }

    /// Keeps the database that goes with a snapshot message until it is sent, the lead is lost, or
    /// [`PINNED_MAX`] is over. False: this member does not lead, nothing is kept.
    pub fn pin_snapshot(&self, peer: MemberId, snapshot: backend::Snapshot) -> bool {
        let mut snapshots = self.snapshots.lock();
        let leads = self.is_leader();
        if leads {
            snapshots.insert(peer, (Instant::now(), snapshot));
        }
        leads
    }

    /// The database for a snapshot message to this peer.
    pub fn take_snapshot(&self, peer: MemberId) -> Option<backend::Snapshot> {
        self.snapshots
            .lock()
            .remove(&peer)
            .map(|(_, snapshot)| snapshot)
    }

    /// Ends the member because it cannot go on. The first reason stays.
    ///
    /// Nobody waits any longer for what may never come: all waiters are answered now.
    pub fn fatal(&self, reason: String) {
        if self.end(reason.clone()) {
            tracing::error!(reason, "the member stops");
            for lane in self.lanes() {
                lane.fail_all(&api::Error::Stopped);
            }
        }
    }

    /// Held by whoever the member cannot live without: when it panics, the member ends.
    pub fn guard(self: &Arc<Self>, what: &'static str) -> PanicGuard {
        PanicGuard {
            shared: Arc::downgrade(self),
            what,
        }
    }

    /// Ends the member because it was asked to.
    pub fn asked_to_stop(&self) {
        self.end("the member was asked to stop".to_owned());
    }

    fn end(&self, reason: String) -> bool {
        self.stopping.send_if_modified(|stopping| {
            let first = stopping.is_none();
            stopping.get_or_insert(reason);
            first
        })
    }

    /// Turns to `Some` once the member must stop.
    pub fn stopping(&self) -> watch::Receiver<Option<String>> {
        self.stopping.subscribe()
    }
}
