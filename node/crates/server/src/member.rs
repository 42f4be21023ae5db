//! The member as the doors see it: what it is, what it knows, what it can be asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use apply::quota::Quota;
use backend::Backend;
use raftpb::MemberId;
use seams::Clock;
use tokio::sync::watch;

use crate::committer;
use crate::config::{ANNOUNCED_VERSION, Config, QUORATE_VERSION, QUOTA_BYTES_DEFAULT};
use crate::judge::Court;
use crate::lane::{Lane, Reply};
use crate::metrics::{self, Text};
use crate::peers::Peers;
use crate::shared::{Shared, State};
use crate::walwriter::WalMetrics;

/// One running member.
pub struct Member {
    /// what it was told
    pub config: Config,
    /// what its threads share
    pub shared: Arc<Shared>,
    /// where membership steps are judged
    pub court: Arc<Court>,
    /// the other members
    pub peers: Peers,
    /// monotonic time for leases
    pub clock: Arc<dyn Clock>,
    /// the committer's ear
    pub committer: Arc<committer::Control>,
    /// the WAL writer's figures
    pub wal_metrics: Arc<WalMetrics>,
    /// `--quota-backend-bytes`
    pub quota: Quota,
}

impl Member {
    /// This member's ID.
    pub fn id(&self) -> MemberId {
        self.shared.id
    }

    /// The cluster's ID.
    pub fn cluster_id(&self) -> u64 {
        self.shared.cluster_id
    }

    /// The raft term.
    pub fn term(&self) -> u64 {
        self.shared.term()
    }

    /// The leader's ID, 0 when unknown.
    pub fn leader(&self) -> u64 {
        self.shared.leader()
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.shared.is_leader()
    }

    /// Whether this member only learns.
    pub fn is_learner(&self) -> bool {
        self.shared.is_learner()
    }

    /// Highest committed index.
    pub fn committed(&self) -> u64 {
        self.shared.committed()
    }

    /// Highest applied index.
    pub fn applied(&self) -> u64 {
        self.shared.applied()
    }

    /// The state as it is now.
    pub fn state(&self) -> Arc<State> {
        self.shared.state()
    }

    /// Turns to `Some` when the member stops.
    pub fn stopping(&self) -> watch::Receiver<Option<String>> {
        self.shared.stopping()
    }

    /// Sends a request through raft, unless the applier is too far behind.
    pub async fn propose(&self, lane: &Lane, request: pb::InternalRaftRequest) -> Reply {
        self.shared.admit_proposal()?;
        lane.propose(request, self.config.max_request_bytes).await
    }

    /// Refuses what does not fit into the space quota, and raises the alarm.
    pub async fn check_quota(&self, lane: &Lane, cost: u64) -> Result<(), api::Error> {
        if self.quota.allows(self.state().backend.size_bytes(), cost) {
            return Ok(());
        }
        self.activate_no_space(lane).await;
        Err(api::Error::NoSpace)
    }

    /// Tells the cluster that this member is out of space.
    pub async fn activate_no_space(&self, lane: &Lane) {
        let alarm = pb::AlarmRequest {
            member_id: self.id().0,
            action: pb::alarm_request::AlarmAction::Activate as i32,
            alarm: pb::AlarmType::Nospace as i32,
        };
        let request = pb::InternalRaftRequest {
            alarm: Some(alarm),
            ..Default::default()
        };
        if let Err(error) = lane.propose(request, usize::MAX).await {
            tracing::warn!(%error, "raising the NOSPACE alarm failed");
        }
    }

    /// Waits until the compaction to this revision has removed its records and that is on disk.
    pub async fn wait_compacted(&self, revision: i64) -> Result<(), api::Error> {
        let mut finished = self.shared.compactions_finished();
        let mut stopping = self.stopping();
        tokio::select! {
            _ = finished.wait_for(|finished| *finished >= revision) => {}
            _ = stopping.wait_for(Option::is_some) => return Err(api::Error::Stopped),
        }
        self.commit().await
    }

    /// Waits until everything applied so far is on disk.
    pub async fn commit(&self) -> Result<(), api::Error> {
        let done = self.committer.commit();
        self.state().backend.request_commit();
        done.await.map_err(|_| api::Error::Stopped)
    }

    /// Copies the database compactly and takes the copy; reads and writes go on.
    pub async fn defragment(&self) -> Result<(), api::Error> {
        let done = self.committer.defragment();
        self.state().backend.request_commit();
        let under_way = &self.shared.counters.stats.defragmenting;
        under_way.fetch_add(1, Ordering::Relaxed);
        let done = done.await;
        under_way.fetch_sub(1, Ordering::Relaxed);
        match done {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(api::Error::Other(error.to_string().into())),
            Err(_) => Err(api::Error::Stopped),
        }
    }

    /// A hash over the whole database.
    pub async fn hash(&self) -> Result<(u32, i64), api::Error> {
        self.commit().await?;
        let state = self.state();
        let revision = state.mvcc.revision();
        let began = Instant::now();
        let hash = tokio::task::spawn_blocking(move || hash_of(&state.backend))
            .await
            .map_err(|_| api::Error::Stopped)?
            .map_err(|error| api::Error::Other(error.to_string().into()))?;
        self.shared.counters.stats.hash.observe(began.elapsed());
        Ok((hash, revision))
    }

    /// The hash of the history up to a revision, and our current revision.
    pub async fn hash_kv(&self, revision: i64) -> Result<(mvcc::KeyValueHash, i64), api::Error> {
        let state = self.state();
        let began = Instant::now();
        let hash = tokio::task::spawn_blocking(move || state.mvcc.hash_by_revision(revision))
            .await
            .map_err(|_| api::Error::Stopped)?
            .map_err(|error| from_mvcc(&error))?;
        self.shared.counters.stats.hash_rev.observe(began.elapsed());
        Ok(hash)
    }

    /// The database as committed now, pinned.
    pub async fn snapshot(&self) -> Result<backend::Snapshot, api::Error> {
        self.commit().await?;
        Ok(self.state().backend.snapshot())
    }

    /// Hands the lead to another voter and waits for it.
    pub async fn move_leader(&self, target: u64) -> Result<(), api::Error> {
        if !self.is_leader() {
            return Err(api::Error::NotLeader);
        }
        let cluster = self.state().cluster.get();
        match cluster.member(MemberId(target)) {
            Some(member) if !member.is_learner => {}
            _ => return Err(api::Error::BadLeaderTransferee),
        }
        tracing::info!(
            target = format!("{target:x}"),
            "leadership transfer starting"
        );
        let mut leadership = self.shared.leadership();
        self.shared.inbox.transfer_to(MemberId(target));
        let moved = leadership.wait_for(|soft| soft.leader == Some(MemberId(target)));
        match tokio::time::timeout(self.config.request_timeout(), moved).await {
            Ok(_) => Ok(()),
            Err(_) => Err(api::Error::TimeoutLeaderTransfer),
        }
    }

    /// The quota as Status reports it.
    pub fn quota_bytes(&self) -> i64 {
        match self.config.quota_bytes {
            None => -1,
            Some(0) => QUOTA_BYTES_DEFAULT as i64,
            Some(bytes) => bytes as i64,
        }
    }

    /// The schema version of the database, empty when none is written yet.
    pub fn storage_version(&self) -> String {
        let version = membership::store::storage_version(&self.state().backend.view());
        version
            .ok()
            .flatten()
            .map_or_else(String::new, |version| version.to_string())
    }

    /// `GET /version` on the client port: etcd's fields
    pub fn version_json(&self) -> String {
        format!("{{{}}}", self.versions())
    }

    /// `GET /version` on the peer port: beside etcd's fields our own version, by which members
    /// of ours know each other
    pub fn peer_version_json(&self) -> String {
        format!("{{{},\"quorate\":\"{QUORATE_VERSION}\"}}", self.versions())
    }

    /// The fields in etcd's order; versions need no escape.
    fn versions(&self) -> String {
        let cluster = self.state().cluster.get();
        let cluster = cluster
            .version()
            .map_or("not_decided".to_owned(), ToString::to_string);
        let storage = match self.storage_version() {
            version if version.is_empty() => "unknown".to_owned(),
            version => version,
        };
        format!(
            "\"etcdserver\":\"{ANNOUNCED_VERSION}\",\"etcdcluster\":\"{cluster}\",\"storage\":\"{storage}\""
        )
    }

    /// One `/health` answer.
    pub fn count_health(&self, healthy: bool) {
        let counters = &self.shared.counters;
        let counter = if healthy {
            &counters.health_success
        } else {
            &counters.health_failures
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// `GET /metrics`
    pub fn metrics_text(&self) -> String {
        let mut text = Text::default();
        let shared = &self.shared;
        let counters = &shared.counters;
        let state = self.state();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        text.gauge(
            "etcd_server_has_leader",
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            u8::from(self.leader() != 0),
        );
        text.gauge(
            "etcd_server_is_leader",
            "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            u8::from(self.is_leader()),
        );
        text.gauge(
            "etcd_server_is_learner",
            "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            u8::from(self.is_learner()),
        );
        text.labelled(
            "etcd_server_id",
            "gauge",
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
            &[(format!("server_id=\"{}\"", self.id()), 1)],
        );
        text.counter(
            "etcd_server_leader_changes_seen_total",
            "The number of leader changes seen.",
            count(&counters.leader_changes),
        );
        text.gauge(
            "etcd_server_proposals_committed_total",
            "The total number of consensus proposals committed.",
            self.committed(),
        );
        text.gauge(
            "etcd_server_proposals_applied_total",
            "The total number of consensus proposals applied.",
            self.applied(),
        );
        text.gauge(
            "etcd_server_proposals_pending",
            "The current number of pending proposals to commit.",
            shared
                .lanes()
                .iter()
                .map(|lane| lane.waiting_count())
                .sum::<usize>(),
        );
        text.counter(
            "etcd_server_proposals_failed_total",
            "The total number of failed proposals seen.",
            count(&counters.proposals_failed),
        );
        text.counter(
            "etcd_server_read_indexes_failed_total",
            "The total number of failed read indexes seen.",
            count(&counters.read_indexes_failed),
        );
        text.counter(
            "etcd_server_slow_apply_total",
            "The total number of slow apply requests (likely overloaded from slow disk).",
            count(&counters.slow_apply),
        );
        text.counter(
            "etcd_server_health_success",
            "The total number of successful health checks",
            count(&counters.health_success),
        );
        text.counter(
            "etcd_server_health_failures",
            "The total number of failed health checks",
            count(&counters.health_failures),
        );
        text.gauge(
            "etcd_server_quota_backend_bytes",
            "Current backend storage quota size in bytes.",
            self.quota_bytes(),
        );
        text.labelled(
            "etcd_server_version",
            "gauge",
            "Which version is running. 1 for 'server_version' label with current version.",
            &[(format!("server_version=\"{ANNOUNCED_VERSION}\""), 1)],
        );
        text.labelled(
            "quorate_build_info",
            "gauge",
            "Quorate's own version.",
            &[(format!("version=\"{QUORATE_VERSION}\""), 1)],
        );
        if let Some(version) = state.cluster.get().version() {
            text.labelled("etcd_cluster_version", "gauge", "Which version is running. 1 for 'cluster_version' label with current cluster version", &[(format!("cluster_version=\"{version}\""), 1)]);
        }
        text.histogram(
            "etcd_disk_wal_fsync_duration_seconds",
            "The latency distributions of fsync called by WAL.",
            &self.wal_metrics.fsync_seconds,
        );
        text.histogram(
            "etcd_disk_wal_write_duration_seconds",
            "The latency distributions of write called by WAL.",
            &self.wal_metrics.write_seconds,
        );
        text.histogram(
            "etcd_debugging_snap_save_total_duration_seconds",
            "The total latency distributions of save called by snapshot.",
            &self.wal_metrics.snap_save_seconds,
        );
        text.gauge(
            "etcd_disk_wal_write_bytes_total",
            "Total number of bytes written in WAL.",
            count(&self.wal_metrics.written_bytes),
        );
        text.histogram(
            "etcd_disk_backend_commit_duration_seconds",
            "The latency distributions of commit called by backend.",
            &self.committer.commit_seconds,
        );
        text.histogram(
            "etcd_disk_backend_defrag_duration_seconds",
            "The latency distribution of backend defragmentation.",
            &self.committer.defragment_seconds,
        );
        text.gauge(
            "etcd_mvcc_db_total_size_in_bytes",
            "Total size of the underlying database physically allocated in bytes.",
            state.backend.size_bytes(),
        );
        text.gauge(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Total size of the underlying database logically in use in bytes.",
            state.backend.size_in_use_bytes(),
        );
        text.gauge(
            "etcd_debugging_mvcc_keys_total",
            "Total number of keys.",
            state.mvcc.keys(),
        );
        text.gauge(
            "etcd_debugging_mvcc_current_revision",
            "The current revision of store.",
            state.mvcc.revision(),
        );
        text.gauge(
            "etcd_debugging_mvcc_compact_revision",
            "The revision of the last compaction in store.",
            state.mvcc.compact_revision(),
        );
        self.court.write_metrics(&mut text);
        self.peers.write_metrics(&mut text);
        counters.stats.write(&mut text, self);
        metrics::process(&mut text);
        text.finish()
    }

    /// Whether this member still acts as a leader should: it ticks, or a round of reads says so
    /// (etcd `ensureLeadership`, issue 15247: a leader stuck on its disk must not revoke leases).
    pub async fn ensure_leadership(&self, lane: &Lane) -> bool {
        if !self.is_leader() {
            return false;
        }
        if self.shared.since_tick() < 3 * self.config.tick {
            return true;
        }
        lane.linearizable_read().await.is_ok() && self.is_leader()
    }

    /// Waits until all that is committed now is applied (etcd `waitAppliedIndex`).
    pub async fn wait_applied(&self, lane: &Lane) -> Result<(), api::Error> {
        if self.applied() >= self.committed() {
            return Ok(());
        }
        // Applied in time, or too busy to say: a read round waits for exactly that.
        match tokio::time::timeout(Duration::from_secs(1), lane.linearizable_read()).await {
            Ok(result) => result,
            Err(_) => Err(api::Error::TimeoutWaitAppliedIndex),
        }
    }

    /// Waits for a leader that is not lost; its ID.
    pub async fn wait_leader(&self, deadline: Instant) -> Result<MemberId, api::Error> {
        let mut leadership = self.shared.leadership();
        let known = leadership.wait_for(|soft| soft.leader.is_some());
        match tokio::time::timeout_at(deadline.into(), known).await {
            Ok(Ok(soft)) => soft.leader.ok_or(api::Error::NoLeader),
            Ok(Err(_)) => Err(api::Error::Stopped),
            Err(_) => Err(api::Error::NoLeader),
        }
    }
}

/// CRC-32C over bucket names, keys and values, without what differs between members (etcd's
/// legacy Hash: `meta`'s term, consistent index and storage version are left out).
fn hash_of(backend: &Backend) -> Result<u32, backend::Error> {
    let view = backend.view();
    let mut hash = 0;
    for name in view.bucket_names() {
        hash = crc32c::crc32c_append(hash, &name);
        view.scan_named(&name, &mut |key, value| {
            let local = matches!(key, b"term" | b"consistent_index" | b"storageVersion");
            if !(name.as_ref() == b"meta" && local) {
                hash = crc32c::crc32c_append(hash, key);
                hash = crc32c::crc32c_append(hash, value);
            }
            std::ops::ControlFlow::Continue(())
        })?;
    }
    Ok(hash)
}

/// A store's error as the client sees it.
pub fn from_mvcc(error: &mvcc::Error) -> api::Error {
    apply::mvcc_error(error).unwrap_or_else(|| api::Error::Other(error.to_string().into()))
}
