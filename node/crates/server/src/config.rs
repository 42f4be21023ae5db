//! What one member is told at its start. The door (the binary) builds it from flags, environment
//! or a file and checks it whole; this room only reads it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The etcd version we announce wherever etcd's protocol asks for one (DESIGN 3.11).
/// Raised only when the suites prove that version's surface.
pub const ANNOUNCED_VERSION: &str = "3.7.3";

/// The cluster version that follows from [`ANNOUNCED_VERSION`].
pub const ANNOUNCED_CLUSTER_VERSION: &str = "3.7.0";

/// The lowest peer version we speak to, as etcd 3.7 announces it.
pub const MIN_CLUSTER_VERSION: &str = "3.0.0";

/// Our own version, beside the announced one.
///
/// A build may raise it, to try an upgrade with a second build of the same source.
pub const QUORATE_VERSION: &str = match option_env!("QUORATE_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Quota used where `--quota-backend-bytes=0`, 2 GiB as in etcd.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;

/// Configuration of one member. Names follow etcd's flags.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--name`
    pub name: String,
    /// `--data-dir`
    pub data_dir: PathBuf,
    /// `--wal-dir`; `None`: `<data-dir>/member/wal`
    pub wal_dir: Option<PathBuf>,
    /// `--initial-advertise-peer-urls`
    pub advertise_peer_urls: Vec<String>,
    /// `--advertise-client-urls`
    pub advertise_client_urls: Vec<String>,
    /// `--initial-cluster`: name and peer URL, in the order given, a name may repeat
    pub initial_cluster: Vec<(String, String)>,
    /// `--initial-cluster-token`
    pub initial_cluster_token: String,
    /// `--initial-cluster-state`: `new` is true
    pub new_cluster: bool,
    /// `--heartbeat-interval`: one tick
    pub tick: Duration,
    /// `--election-timeout` over `--heartbeat-interval`
    pub election_ticks: u32,
    /// `--initial-election-tick-advance`
    pub initial_election_tick_advance: bool,
    /// `--pre-vote`
    pub pre_vote: bool,
    /// `--strict-reconfig-check`
    pub strict_reconfig_check: bool,
    /// `--quorate-membership-rule`: `strict` is true, `etcd` keeps etcd's own check only
    pub strict_membership_rule: bool,
    /// `--force-new-cluster`
    pub force_new_cluster: bool,
    /// `--unsafe-no-fsync`
    pub unsafe_no_fsync: bool,
    /// `--snapshot-count`
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`
    pub snapshot_catchup_entries: u64,
    /// `--max-snapshots`, 0: keep all
    pub max_snapshots: usize,
    /// `--max-wals`, 0: keep all
    pub max_wals: usize,
    /// `--quota-backend-bytes`; `None`: no quota (a negative flag)
    pub quota_bytes: Option<u64>,
    /// `--backend-batch-interval`
    pub backend_batch_interval: Duration,
    /// `--backend-batch-limit`
    pub backend_batch_limit: usize,
    /// `--max-txn-ops`
    pub max_txn_ops: usize,
    /// `--max-request-bytes`
    pub max_request_bytes: usize,
    /// `--max-learners`
    pub max_learners: usize,
    /// `--auto-compaction-mode` and `-retention`; `None`: off
    pub auto_compaction: Option<AutoCompaction>,
    /// `--compaction-batch-limit`
    pub compaction_batch_limit: usize,
    /// `--compaction-sleep-interval`
    pub compaction_sleep_interval: Duration,
    /// `--watch-progress-notify-interval`
    pub watch_progress_notify_interval: Duration,
    /// `--warning-apply-duration`
    pub warning_apply_duration: Duration,
    /// `--corrupt-check-time`; zero: off
    pub corrupt_check_time: Duration,
    /// feature gate `InitialCorruptCheck`
    pub initial_corrupt_check: bool,
    /// feature gate `CompactHashCheck`
    pub compact_hash_check: bool,
    /// `--compact-hash-check-time`
    pub compact_hash_check_time: Duration,
    /// feature gate `LeaseCheckpoint`
    pub lease_checkpoint: bool,
    /// feature gate `LeaseCheckpointPersist`
    pub lease_checkpoint_persist: bool,
    /// `--raft-read-timeout`
    pub raft_read_timeout: Duration,
    /// `--raft-write-timeout`
    pub raft_write_timeout: Duration,
    /// `--downgrade-check-time`; zero: a downgrade that every member has made is not ended
    pub downgrade_check_time: Duration,
}

/// `--auto-compaction-mode` with its retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Keep what is younger than this.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(i64),
}

impl Config {
    /// Which part of the strict reconfiguration rule holds.
    pub fn membership_rule(&self) -> quorum::Rule {
        match (self.strict_reconfig_check, self.strict_membership_rule) {
            (false, _) => quorum::Rule::Off,
            (true, false) => quorum::Rule::Etcd,
            (true, true) => quorum::Rule::Strict,
        }
    }

    /// `<data-dir>/member`
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// `--initial-cluster`: the peer URLs of each name, sorted.
    pub fn peer_urls_by_name(&self) -> BTreeMap<String, Vec<String>> {
        let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, url) in &self.initial_cluster {
            by_name.entry(name.clone()).or_default().push(url.clone());
        }
        for urls in by_name.values_mut() {
            urls.sort();
        }
        by_name
    }

    /// `<data-dir>/member/snap`
    pub fn snap_dir(&self) -> PathBuf {
        self.member_dir().join("snap")
    }

    /// `--wal-dir`, or its default below the data directory.
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_dir
            .clone()
            .unwrap_or_else(|| self.member_dir().join("wal"))
    }

    /// `<data-dir>/member/snap/db`
    pub fn database_path(&self) -> PathBuf {
        self.snap_dir().join("db")
    }

    /// How long a client's request may take: 5 s for queue, disk and network, and two elections
    /// (etcd `config.ReqTimeout`).
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout()
    }

    /// `--election-timeout`
    pub fn election_timeout(&self) -> Duration {
        self.tick * self.election_ticks
    }

    /// Peer dial time-out: 1 s and one election (etcd `config.PeerDialTimeout`).
    pub fn peer_dial_timeout(&self) -> Duration {
        Duration::from_secs(1) + self.election_timeout()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "default".into(),
            data_dir: "default.etcd".into(),
            wal_dir: None,
            advertise_peer_urls: vec!["http://localhost:2380".into()],
            advertise_client_urls: vec!["http://localhost:2379".into()],
            initial_cluster: vec![("default".into(), "http://localhost:2380".into())],
            initial_cluster_token: "etcd-cluster".into(),
            new_cluster: true,
            tick: Duration::from_millis(100),
            election_ticks: 10,
            initial_election_tick_advance: true,
            pre_vote: true,
            strict_reconfig_check: true,
            force_new_cluster: false,
            unsafe_no_fsync: false,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            max_snapshots: 5,
            max_wals: 5,
            quota_bytes: Some(QUOTA_BYTES_DEFAULT),
            backend_batch_interval: Duration::from_millis(100),
            backend_batch_limit: 10_000,
            max_txn_ops: 128,
            max_request_bytes: 1_572_864,
            max_learners: 1,
            auto_compaction: None,
            strict_membership_rule: true,
            compaction_batch_limit: 1000,
            compaction_sleep_interval: Duration::from_millis(10),
            watch_progress_notify_interval: Duration::from_secs(600),
            warning_apply_duration: Duration::from_millis(100),
            corrupt_check_time: Duration::ZERO,
            initial_corrupt_check: false,
            compact_hash_check: false,
            compact_hash_check_time: Duration::from_secs(60),
            lease_checkpoint: false,
            lease_checkpoint_persist: false,
            raft_read_timeout: Duration::from_secs(5),
            raft_write_timeout: Duration::from_secs(5),
            downgrade_check_time: Duration::from_secs(5),
        }
    }
}
