//! Figures that only `/metrics` shows: counted where the thing happens, written out here.
//!
//! Names are etcd's, so that dashboards and alerts work. What etcd measures and this member does
//! not do, or does not measure apart, has a series that stays at zero; the list stands in
//! `docs/known-differences.md`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::etcdserverpb::response_op::Response as OpResponse;
use api::etcdserverpb::{AlarmMember, TxnResponse};
use apply::Response;
use parking_lot::Mutex;

use crate::config::Config;
use crate::member::Member;
use crate::metrics::{Histogram, Text};

/// Methods whose durations are shown, with the type that etcd gives them.
const REQUESTS: [(&str, &str); 8] = [
    ("Range", "Range"),
    ("Put", "Put"),
    ("DeleteRange", "DeleteRange"),
    ("Txn", "Txn"),
    ("Compact", "Compaction"),
    ("LeaseGrant", "LeaseGrant"),
    ("LeaseRevoke", "LeaseRevoke"),
    ("Alarm", "Alarm"),
];

/// By kind and name: passed, failed, and whether the last one passed.
type Checks = BTreeMap<(&'static str, &'static str), (u64, u64, bool)>;

/// See the chapter above.
#[derive(Debug)]
pub struct Stats {
    puts: AtomicU64,
    deletes: AtomicU64,
    ranges: AtomicU64,
    txns: AtomicU64,
    leases_granted: AtomicU64,
    leases_revoked: AtomicU64,
    /// renewals that this member answered as the leader
    pub leases_renewed: AtomicU64,
    lease_ttl: Histogram,
    /// events sent to watchers
    pub events: AtomicU64,
    /// records that compactions removed
    pub compacted_records: AtomicU64,
    /// when a compaction ended last, in unix seconds
    pub compacted_at: AtomicU64,
    /// steps of compactions
    pub compaction_steps: Histogram,
    /// when the compaction under way began
    pub compaction_began: Mutex<Option<Instant>>,
    /// compactions as a whole
    pub compactions: Histogram,
    /// batches of entries applied
    pub applied: Histogram,
    /// ranges, with the wait for the read index
    pub range: Histogram,
    /// hashes over everything
    pub hash: Histogram,
    /// hashes over a history
    pub hash_rev: Histogram,
    /// database streams to clients
    pub snapshots: Histogram,
    /// defragmentations under way
    pub defragmenting: AtomicU64,
    /// learners promoted here
    pub promoted: AtomicU64,
    /// promotions refused here
    pub not_promoted: AtomicU64,
    /// heartbeats that this leader sent late
    pub heartbeat_send_failures: AtomicU64,
    /// read rounds that were not answered in time
    pub slow_read_indexes: AtomicU64,
    /// a received snapshot is being put in place
    pub applying_snapshot: AtomicU64,
    /// received databases: their sync, with the rename
    pub database_synced: Histogram,
    /// received databases: from the first byte to the synced file
    pub database_saved: Histogram,
    /// clients' streams that broke, by direction and kind
    stream_failures: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    /// request durations by type, failures first
    requests: [[Histogram; 2]; REQUESTS.len()],
    /// checks of `/livez` and `/readyz`: successes, failures, whether the last one succeeded
    checks: Mutex<Checks>,
}

impl Default for Stats {
    fn default() -> Self {
        let from = |first: Duration, buckets| Histogram::with_buckets(first, buckets);
        let ms = Duration::from_millis;
        Self {
            puts: AtomicU64::default(),
            deletes: AtomicU64::default(),
            ranges: AtomicU64::default(),
            txns: AtomicU64::default(),
            leases_granted: AtomicU64::default(),
            leases_revoked: AtomicU64::default(),
            leases_renewed: AtomicU64::default(),
            lease_ttl: from(Duration::from_secs(1), 24),
            events: AtomicU64::default(),
            compacted_records: AtomicU64::default(),
            compacted_at: AtomicU64::default(),
            compaction_steps: from(ms(1), 13),
            compaction_began: Mutex::default(),
            compactions: from(ms(100), 14),
            applied: from(Duration::from_micros(100), 20),
            range: from(Duration::from_micros(100), 20),
            hash: from(ms(10), 15),
            hash_rev: from(ms(10), 15),
            snapshots: from(ms(10), 17),
            defragmenting: AtomicU64::default(),
            promoted: AtomicU64::default(),
            not_promoted: AtomicU64::default(),
            heartbeat_send_failures: AtomicU64::default(),
            slow_read_indexes: AtomicU64::default(),
            applying_snapshot: AtomicU64::default(),
            database_synced: Histogram::default(),
            database_saved: from(ms(100), 10),
            stream_failures: Mutex::default(),
            requests: std::array::from_fn(|_| Default::default()),
            checks: Mutex::default(),
        }
    }
}

/// A counter's value.
fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn add(counter: &AtomicU64, by: u64) {
    if by > 0 {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

impl Stats {
    /// From the applier: what an entry came to.
    pub fn count_applied(&self, response: &Response) {
        match response {
            Response::Put(_) => add(&self.puts, 1),
            Response::DeleteRange(_) => add(&self.deletes, 1),
            Response::Txn(txn) => self.count_txn(txn),
            Response::LeaseGrant(grant) => {
                add(&self.leases_granted, 1);
                self.lease_ttl
                    .observe(Duration::from_secs(grant.ttl.max(0).cast_unsigned()));
            }
            Response::LeaseRevoke(_) => add(&self.leases_revoked, 1),
            _ => {}
        }
    }

    /// A transaction, through the log or not; like etcd, one of a single operation is none.
    pub fn count_txn(&self, txn: &TxnResponse) {
        let mut ops = [0; 3];
        count_ops(txn, &mut ops);
        add(&self.puts, ops[0]);
        add(&self.deletes, ops[1]);
        add(&self.ranges, ops[2]);
        add(&self.txns, u64::from(ops.iter().sum::<u64>() > 1));
    }

    /// A range that was answered.
    pub fn count_range(&self, took: Duration) {
        add(&self.ranges, 1);
        self.range.observe(took);
    }

    /// A client's request, by its method's name.
    pub fn count_request(&self, method: &str, success: bool, took: Duration) {
        if let Some(kind) = REQUESTS.iter().position(|(name, _)| *name == method) {
            self.requests[kind][usize::from(success)].observe(took);
        }
    }

    /// One check behind `/livez` (`root` is `livez`) or `/readyz`.
    pub fn count_check(&self, root: &'static str, name: &'static str, success: bool) {
        let mut checks = self.checks.lock();
        let check = checks.entry((root, name)).or_default();
        *(if success { &mut check.0 } else { &mut check.1 }) += 1;
        check.2 = success;
    }

    /// A client's stream broke: `direction` is `receive` or `send`, `api` names the service in
    /// etcd's words, such as `watch` or `lease-keepalive`.
    pub fn count_stream_failure(&self, direction: &'static str, api: &'static str) {
        *self
            .stream_failures
            .lock()
            .entry((direction, api))
            .or_default() += 1;
    }

    /// Writes all of it.
    pub fn write(&self, text: &mut Text, member: &Member) {
        self.write_store(text, member);
        self.write_leases(text, member);
        self.write_requests(text);
        write_cluster(text, member);
        write_features(text, &member.config);
        self.write_disk(text, member);
        self.write_troubles(text);
        write_nothing(text);
    }

    fn write_store(&self, text: &mut Text, member: &Member) {
        let mvcc = &member.state().mvcc;
        text.counter(
            "etcd_mvcc_put_total",
            "Total number of puts seen by this member.",
            value(&self.puts),
        );
        text.counter(
            "etcd_mvcc_delete_total",
            "Total number of deletes seen by this member.",
            value(&self.deletes),
        );
        text.counter(
            "etcd_mvcc_range_total",
            "Total number of ranges seen by this member.",
            value(&self.ranges),
        );
        text.counter(
            "etcd_mvcc_txn_total",
            "Total number of txns seen by this member.",
            value(&self.txns),
        );
        text.gauge(
            "etcd_debugging_mvcc_total_put_size_in_bytes",
            "The total size of put kv pairs seen by this member.",
            mvcc.put_bytes(),
        );
        let watches = mvcc.watch_hub().counts();
        text.gauge(
            "etcd_debugging_mvcc_watch_stream_total",
            "Total number of watch streams.",
            watches.streams,
        );
        text.gauge(
            "etcd_debugging_mvcc_watcher_total",
            "Total number of watchers.",
            watches.watchers,
        );
        text.gauge(
            "etcd_debugging_mvcc_slow_watcher_total",
            "Total number of unsynced slow watchers.",
            watches.slow,
        );
        text.gauge(
            "etcd_debugging_mvcc_pending_events_total",
            "Total number of pending events to be sent.",
            watches.pending_events,
        );
        text.counter(
            "etcd_debugging_mvcc_events_total",
            "Total number of events sent by this member.",
            value(&self.events),
        );
        text.histogram(
            "etcd_mvcc_hash_duration_seconds",
            "The latency distribution of storage hash operation.",
            &self.hash,
        );
        text.histogram(
            "etcd_mvcc_hash_rev_duration_seconds",
            "The latency distribution of storage hash by revision operation.",
            &self.hash_rev,
        );
        text.counter(
            "etcd_debugging_mvcc_db_compaction_keys_total",
            "Total number of db keys compacted.",
            value(&self.compacted_records),
        );
        text.gauge(
            "etcd_debugging_mvcc_db_compaction_last",
            "The unix time of the last db compaction. Resets to 0 on start.",
            value(&self.compacted_at),
        );
        text.histogram_in_ms(
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "Bucketed histogram of db compaction pause duration.",
            &self.compaction_steps,
        );
        text.histogram_in_ms(
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "Bucketed histogram of db compaction total duration.",
            &self.compactions,
        );
    }

    fn write_leases(&self, text: &mut Text, member: &Member) {
        let expired = &member.shared.counters.leases_expired;
        text.counter(
            "etcd_debugging_lease_granted_total",
            "The total number of granted leases.",
            value(&self.leases_granted),
        );
        text.counter(
            "etcd_debugging_lease_revoked_total",
            "The total number of revoked leases.",
            value(&self.leases_revoked),
        );
        text.counter(
            "etcd_debugging_lease_renewed_total",
            "The number of renewed leases seen by the leader.",
            value(&self.leases_renewed),
        );
        text.histogram(
            "etcd_debugging_lease_ttl_total",
            "Bucketed histogram of lease TTLs.",
            &self.lease_ttl,
        );
        text.counter(
            "etcd_debugging_server_lease_expired_total",
            "The total number of expired leases.",
            value(expired),
        );
    }

    fn write_requests(&self, text: &mut Text) {
        let requests = REQUESTS
            .iter()
            .zip(&self.requests)
            .flat_map(|((_, kind), histograms)| {
                [("false", &histograms[0]), ("true", &histograms[1])].map(|(success, histogram)| {
                    (format!("success=\"{success}\",type=\"{kind}\""), histogram)
                })
            });
        // A series without observations says nothing; one stays for the name's sake.
        let seen = requests
            .enumerate()
            .filter(|(at, (_, seen))| *at == 1 || seen.count() > 0);
        text.histograms(
            "etcd_server_request_duration_seconds",
            "Response latency distribution in seconds for each type.",
            seen.map(|(_, series)| series),
        );
        text.histograms(
            "etcd_server_range_duration_seconds",
            "The latency distributions of txn.Range",
            [("success=\"true\"".to_owned(), &self.range)],
        );
        text.histograms(
            "etcd_server_apply_duration_seconds",
            "The latency distributions of v2 apply called by backend.",
            [(
                "op=\"Batch\",success=\"true\",version=\"v3\"".to_owned(),
                &self.applied,
            )],
        );
        let checks = self.checks.lock();
        let all: Vec<(String, u64)> = checks
            .iter()
            .map(|((root, name), check)| {
                (
                    format!("name=\"{name}\",type=\"{root}\""),
                    u64::from(check.2),
                )
            })
            .collect();
        text.labelled(
            "etcd_server_healthcheck",
            "gauge",
            "The result of each kind of healthcheck.",
            &all,
        );
        let all: Vec<(String, u64)> = checks
            .iter()
            .flat_map(|((root, name), check)| {
                [("error", check.1), ("success", check.0)].map(|(status, count)| {
                    (
                        format!("name=\"{name}\",status=\"{status}\",type=\"{root}\""),
                        count,
                    )
                })
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        text.labelled(
            "etcd_server_healthchecks_total",
            "counter",
            "The total number of each kind of healthcheck.",
            &all,
        );
        text.counter(
            "etcd_server_learner_promote_successes",
            "The total number of successful learner promotions while this member is leader.",
            value(&self.promoted),
        );
        text.labelled("etcd_server_learner_promote_failures", "counter", "The total number of failed learner promotions (likely learner not ready) while this member is leader.", &[("Reason=\"other\"".to_owned(), value(&self.not_promoted))]);
    }

    fn write_disk(&self, text: &mut Text, member: &Member) {
        text.gauge(
            "etcd_mvcc_db_open_read_transactions",
            "The number of currently open read transactions",
            member.state().backend.open_reads(),
        );
        // A file of a few hundred bytes: writing it is its sync.
        text.histogram(
            "etcd_snap_fsync_duration_seconds",
            "The latency distributions of fsync called by snap.",
            &member.wal_metrics.snap_save_seconds,
        );
        text.histogram(
            "etcd_snap_db_fsync_duration_seconds",
            "The latency distributions of fsyncing .snap.db file",
            &self.database_synced,
        );
        text.histogram(
            "etcd_snap_db_save_total_duration_seconds",
            "The total latency distributions of v3 snapshot save",
            &self.database_saved,
        );
        text.gauge(
            "etcd_disk_defrag_inflight",
            "Whether or not defrag is active on the member. 1 means active, 0 means not.",
            value(&self.defragmenting),
        );
        text.histogram(
            "etcd_disk_backend_snapshot_duration_seconds",
            "The latency distribution of backend snapshots.",
            &self.snapshots,
        );
    }
}

impl Stats {
    fn write_troubles(&self, text: &mut Text) {
        text.counter(
            "etcd_server_heartbeat_send_failures_total",
            "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
            value(&self.heartbeat_send_failures),
        );
        text.counter(
            "etcd_server_slow_read_indexes_total",
            "The total number of pending read indexes not in sync with leader's or timed out read index requests.",
            value(&self.slow_read_indexes),
        );
        text.gauge(
            "etcd_server_snapshot_apply_in_progress_total",
            "1 if the server is applying the incoming snapshot. 0 if none.",
            value(&self.applying_snapshot),
        );
        let failures: Vec<(String, u64)> = self
            .stream_failures
            .lock()
            .iter()
            .map(|((direction, api), count)| {
                (format!("API=\"{api}\",Type=\"{direction}\""), *count)
            })
            .collect();
        text.labelled(
            "etcd_network_server_stream_failures_total",
            "counter",
            "The total number of stream failures from the local server.",
            &failures,
        );
    }
}

fn count_ops(txn: &TxnResponse, ops: &mut [u64; 3]) {
    for op in &txn.responses {
        match &op.response {
            Some(OpResponse::ResponsePut(_)) => ops[0] += 1,
            Some(OpResponse::ResponseDeleteRange(_)) => ops[1] += 1,
            Some(OpResponse::ResponseRange(_)) => ops[2] += 1,
            Some(OpResponse::ResponseTxn(inner)) => count_ops(inner, ops),
            None => {}
        }
    }
}

fn write_cluster(text: &mut Text, member: &Member) {
    let state = member.state();
    let local = member.id();
    let known: Vec<(String, u64)> = state
        .cluster
        .get()
        .members()
        .filter(|other| other.id != local)
        .map(|other| (format!("Local=\"{local}\",Remote=\"{}\"", other.id), 1))
        .collect();
    text.labelled(
        "etcd_network_known_peers",
        "gauge",
        "The current number of known peers.",
        &known,
    );
    let alarm = |alarm: &AlarmMember| {
        let kind = alarm.alarm().as_str_name();
        (
            format!("alarm_type=\"{kind}\",server_id=\"{:x}\"", alarm.member_id),
            1,
        )
    };
    let alarms: Vec<(String, u64)> = state.alarms.get(0).iter().map(alarm).collect();
    text.labelled("etcd_debugging_server_alarms", "gauge", "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm", &alarms);
    text.labelled("etcd_server_go_version", "gauge", "Which Go version server is running with. 1 for 'server_go_version' label with current version.", &[("server_go_version=\"none\"".to_owned(), 1)]);
    text.gauge(
        "etcd_debugging_auth_revision",
        "The current revision of auth store.",
        1,
    );
}

/// The feature gates that this member knows.
fn write_features(text: &mut Text, config: &Config) {
    let features = [
        ("CompactHashCheck", config.compact_hash_check),
        ("InitialCorruptCheck", config.initial_corrupt_check),
        ("LeaseCheckpoint", config.lease_checkpoint),
        ("LeaseCheckpointPersist", config.lease_checkpoint_persist),
    ]
    .map(|(name, on)| (format!("name=\"{name}\",stage=\"ALPHA\""), u64::from(on)));
    text.labelled(
        "etcd_server_feature_enabled",
        "gauge",
        "Whether or not a feature is enabled. 1 is enabled, 0 is not.",
        &features,
    );
}

/// What this member does not do, or does not measure apart: true zeros, for the names' sake.
fn write_nothing(text: &mut Text) {
    for name in [
        "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
        "etcd_debugging_disk_backend_commit_spill_duration_seconds",
        "etcd_debugging_disk_backend_commit_write_duration_seconds",
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
        "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
        "etcd_debugging_snap_save_marshalling_duration_seconds",
    ] {
        text.histogram(
            name,
            "Not measured apart; always empty.",
            &Histogram::default(),
        );
    }
    for (name, kind) in [
        ("etcd_debugging_store_expires_total", "counter"),
        ("etcd_debugging_store_watch_requests_total", "counter"),
        ("etcd_debugging_store_watchers", "gauge"),
        ("etcd_grpc_proxy_cache_hits_total", "gauge"),
        ("etcd_grpc_proxy_cache_keys_total", "gauge"),
        ("etcd_grpc_proxy_cache_misses_total", "gauge"),
        ("etcd_grpc_proxy_events_coalescing_total", "counter"),
        ("etcd_grpc_proxy_watchers_coalescing_total", "gauge"),
    ] {
        text.plain(name, kind, "Not measured apart; always zero.", 0);
    }
    for (name, action) in [
        ("etcd_debugging_store_reads_total", "getRecursive"),
        ("etcd_debugging_store_writes_total", "create"),
    ] {
        let series = [(format!("action=\"{action}\""), 0)];
        text.labelled(name, "counter", "Not measured apart; always zero.", &series);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::etcdserverpb::{DeleteRangeResponse, PutResponse, RangeResponse, ResponseOp};

    #[test]
    fn a_txn_counts_its_operations_nested_ones_too_and_itself_from_two_on() {
        let op = |response| ResponseOp {
            response: Some(response),
        };
        let inner = TxnResponse {
            responses: vec![
                op(OpResponse::ResponsePut(PutResponse::default())),
                op(OpResponse::ResponseRange(RangeResponse::default())),
            ],
            ..Default::default()
        };
        let outer = TxnResponse {
            responses: vec![
                op(OpResponse::ResponseDeleteRange(
                    DeleteRangeResponse::default(),
                )),
                op(OpResponse::ResponseTxn(inner)),
            ],
            ..Default::default()
        };
        let stats = Stats::default();
        stats.count_applied(&Response::Txn(outer));
        let single = TxnResponse {
            responses: vec![op(OpResponse::ResponsePut(PutResponse::default()))],
            ..Default::default()
        };
        stats.count_applied(&Response::Txn(single));
        let counts = [&stats.puts, &stats.deletes, &stats.ranges, &stats.txns].map(value);
        assert_eq!(counts, [2, 1, 1, 1]);
    }
}
