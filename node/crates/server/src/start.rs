//! Starting and stopping: threads in order, and in reverse.
//!
//! ```text
//! start: lanes ▶ WAL writer ▶ applier ▶ committer ▶ raft loop ▶ peers ▶ monitors
//! stop:  lead handed over ▶ raft loop ▶ WAL writer ▶ applier ▶ last commit
//! ```

use std::net::TcpListener;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use membership::Membership;
use raftnode::RaftNode;
use seams::{Clock, Disk, RealRng, Rng as _};

use crate::applier::{ApplierInbox, ApplierLoop, CompactionPace};
use crate::boot::{Booted, Source};
use crate::committer::{self, CommitterThread};
use crate::config::Config;
use crate::errands::PoolErrands;
use crate::judge::{self, Court, LogWindow};
use crate::lane::Lane;
use crate::member::Member;
use crate::monitor;
use crate::peers::{self, Port};
use crate::raftloop::RaftLoop;
use crate::shared::{Shared, State};
use crate::snapshots::Snapshots;
use crate::walwriter::{WalInbox, WalMetrics, WalWriter};

/// Applied entries that stay in memory although no living follower needs them. A member that was
/// away for longer reads from the log's files, which is no slower for it; kept small because it
/// is the largest part of an idle member's memory.
const LOG_BYTES_MAX: u64 = 2 << 20;

/// How long a leader that stops waits for another to take over.
const TRANSFER_ON_STOP: Duration = Duration::from_secs(1);

/// A member and its threads.
pub struct Running {
    /// the member
    pub member: Arc<Member>,
    raft: JoinHandle<()>,
    wal: JoinHandle<()>,
    applier: JoinHandle<()>,
    wal_inbox: Arc<WalInbox>,
    applier_inbox: Arc<ApplierInbox>,
}

/// What a start needs beside the parts.
pub struct Surroundings {
    /// the disk
    pub disk: Arc<dyn Disk>,
    /// time
    pub clock: Arc<dyn Clock>,
    /// serving runtimes: as many lanes are made, and one more for the member itself
    pub serving_lanes: u8,
    /// the peers' runtime
    pub peers_runtime: tokio::runtime::Handle,
}

/// Starts the threads, the peer port on `peer_listeners`, and the monitors.
pub fn start(
    config: Config,
    booted: Booted,
    surroundings: &Surroundings,
    peer_listeners: Vec<TcpListener>,
) -> anyhow::Result<Running> {
    let Booted {
        id,
        cluster_id,
        wal,
        snapshotter,
        recovered,
        applier,
        committer,
        source,
    } = booted;
    let Surroundings {
        disk,
        clock,
        serving_lanes,
        peers_runtime,
    } = surroundings;
    log_cluster(&applier.cluster().get(), source);
    let applied = recovered.applied;
    let last_snapshot = recovered.snapshot_index;
    let mut rng = RealRng::new();

    let state = State {
        backend: applier.backend().clone(),
        mvcc: applier.mvcc().clone(),
        lessor: applier.lessor().clone(),
        cluster: applier.cluster().clone(),
        alarms: applier.alarms().clone(),
    };
    let shared = Arc::new(Shared::new(
        id,
        cluster_id,
        config.election_ticks,
        state,
        applied,
        recovered.hard_state.term,
    ));
    // The lanes are made before the member that they ask about their late requests.
    let home: Arc<OnceLock<Weak<Member>>> = Arc::default();
    let lanes = (0..=*serving_lanes)
        .map(|index| {
            let home = home.clone();
            let reason = Box::new(move |began| {
                home.get()
                    .and_then(Weak::upgrade)
                    .map_or(api::Error::Stopped, |member: Arc<Member>| {
                        member.timeout_reason(began)
                    })
            });
            let random = rng.next_u64();
            let inbox = shared.inbox.clone();
            let timeout = config.request_timeout();
            Arc::new(Lane::new(index, id.0, random, timeout, inbox, reason))
        })
        .collect();
    shared.set_lanes(lanes);

    let wal_inbox: Arc<WalInbox> = Arc::default();
    let applier_inbox: Arc<ApplierInbox> = Arc::default();
    shared.set_errands(Box::new(PoolErrands {
        shared: Arc::downgrade(&shared),
        runtime: peers_runtime.clone(),
        reader: wal.reader(),
    }));

    let mut raft_config = raftnode::Config::new(id, Box::new(RealRng::new()));
    let court = Arc::new(Court::new(
        config.membership_rule(),
        config.tick,
        config.election_timeout(),
        shared.clone(),
    ));
    raft_config.judge = Some(Box::new(judge::Leader(court.clone())));
    raft_config.election_ticks = config.election_ticks;
    raft_config.pre_vote = config.pre_vote;
    raft_config.log_bytes_max = LOG_BYTES_MAX;
    let tick_ms = config.tick.as_millis().max(1);
    raft_config.read_retry_ticks = (500 / tick_ms).max(1) as u32;
    raft_config.read_timeout_ticks = (config.request_timeout().as_millis() / tick_ms).max(1) as u32;
    let node = RaftNode::new(raft_config, recovered)?;

    let received = snapshotter.clone();
    let wal_metrics: Arc<WalMetrics> = Arc::default();
    let writer = WalWriter {
        wal,
        snapshotter: snapshotter.clone(),
        max_wals: config.max_wals,
        max_snapshots: config.max_snapshots,
        sync: !config.unsafe_no_fsync,
        metrics: wal_metrics.clone(),
    };
    let wal_thread = spawn("wal", &shared, {
        let (inbox, raft, shared) = (wal_inbox.clone(), shared.inbox.clone(), shared.clone());
        move || writer.run(&inbox, &raft, &shared)
    })?;

    let control: Arc<committer::Control> = Arc::default();
    let fatal = {
        let weak = Arc::downgrade(&shared);
        Arc::new(move |reason| {
            if let Some(shared) = weak.upgrade() {
                shared.fatal(reason);
            }
        })
    };
    let committer_thread = CommitterThread::start(
        committer,
        control.clone(),
        config.backend_batch_interval,
        fatal,
    )?;
    let quota = crate::boot::quota(&config);
    let applier_loop = ApplierLoop {
        applier,
        shared: shared.clone(),
        snapshots: Snapshots {
            config: config.clone(),
            disk: disk.clone(),
            wal: wal_inbox.clone(),
            committer: committer_thread,
            snapshotter,
            last: last_snapshot,
            wanted: None,
            forced: false,
        },
        clock: clock.clone(),
        warning: config.warning_apply_duration,
        election_timeout: config.election_timeout(),
        runtime: peers_runtime.clone(),
        version_changed: true,
        compaction: CompactionPace::new(
            config.compaction_batch_limit,
            config.compaction_sleep_interval,
        ),
        invalid_changes: LogWindow::default(),
    };
    let applier_thread = spawn("applier", &shared, {
        let inbox = applier_inbox.clone();
        move || applier_loop.run(&inbox)
    })?;

    let port: Arc<Port> = Arc::default();
    let (peers, outbound) = peers::start(&config, &shared, &received, &port, peers_runtime)?;
    court.set_transport(peers.handle());
    let raft_loop = RaftLoop {
        node,
        inbox: shared.inbox.clone(),
        wal: wal_inbox.clone(),
        applier: applier_inbox.clone(),
        outbound: Box::new(outbound),
        shared: shared.clone(),
        tick: config.tick,
    };
    let raft_thread = spawn("raft", &shared, move || raft_loop.run())?;

    let member = Arc::new(Member {
        config,
        shared,
        court,
        peers,
        clock: clock.clone(),
        committer: control,
        wal_metrics,
        quota,
    });
    assert!(
        home.set(Arc::downgrade(&member)).is_ok(),
        "the member is made once"
    );
    let own_lane = member.shared.lanes()[usize::from(*serving_lanes)].clone();
    port.set(&member, own_lane.clone());
    {
        let _inside = peers_runtime.enter();
        for listener in peer_listeners {
            member.peers.serve(listener)?;
        }
        peers_runtime.spawn(own_lane.clone().run());
        monitor::start(&member, &own_lane);
    }
    Ok(Running {
        member,
        raft: raft_thread,
        wal: wal_thread,
        applier: applier_thread,
        wal_inbox,
        applier_inbox,
    })
}

/// Promise 10: the loaded cluster, named: members, IDs, URLs, and from where it is known.
fn log_cluster(cluster: &Membership, source: Source) {
    let members: Vec<String> = cluster
        .members()
        .map(|member| {
            let name = match member.name.as_str() {
                "" => "(not started)",
                name => name,
            };
            let role = match member.is_learner {
                true => "learner",
                false => "voter",
            };
            format!("{} {name} {role} {}", member.id, member.peer_urls.join(","))
        })
        .collect();
    tracing::info!(
        local_member_id = %cluster.local_id(),
        cluster_id = format!("{:x}", cluster.cluster_id()),
        members = members.join("; "),
        source = source.text(),
        "loaded cluster"
    );
}

impl Running {
    /// Hands the lead to the voter that is connected longest, if there is one.
    pub async fn transfer_leadership(&self) {
        let member = &self.member;
        if !member.is_leader() {
            return;
        }
        let cluster = member.state().cluster.get();
        let next = cluster
            .voters()
            .filter(|voter| voter.id != member.id())
            .filter_map(|voter| Some((member.peers.active_since(voter.id)?, voter.id)))
            .min();
        let Some((_, next)) = next else { return };
        let moved = member.move_leader(next.0);
        if tokio::time::timeout(TRANSFER_ON_STOP, moved).await.is_err() {
            tracing::warn!(to = %next, "the leadership could not be handed over in time");
        }
    }

    /// Ends the threads, in reverse order of their start. What was acknowledged is on disk.
    pub fn stop(self) {
        self.member.peers.stop();
        self.member.shared.inbox.stop();
        join(self.raft);
        self.wal_inbox.stop();
        join(self.wal);
        self.applier_inbox.stop();
        // The committer makes its last commit when the applier's parts are dropped.
        join(self.applier);
        for lane in self.member.shared.lanes() {
            lane.fail_all(&api::Error::Stopped);
        }
    }
}

fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let guard = shared.guard(name);
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let _guard = guard;
            body();
        })
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread of the member panicked");
    }
}
