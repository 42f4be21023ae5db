//! From flags, environment or a file to one checked [`Door`]: what the member, its listeners and
//! its log need, each its own part. All that can be wrong with the words is found here, before a
//! port is bound or a directory made.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use server::config::{AutoCompaction, Config, QUOTA_BYTES_DEFAULT};

use crate::flags::{Given, parse_duration};

/// The longest election time-out that etcd takes, in milliseconds (embed `maxElectionMs`).
const ELECTION_MS_MAX: i64 = 50_000;

/// The shortest time-outs of peer connections (etcd `rafthttp.DefaultConnReadTimeout`); a shorter
/// one that is given is raised to it.
const RAFT_TIMEOUT_MIN: Duration = Duration::from_secs(5);

/// The longest duration that Go has, in hours.
const HOURS_MAX: u64 = i64::MAX as u64 / 1_000_000_000 / 3600;

/// All that a member process is told.
#[derive(Debug)]
pub struct Door {
    /// the member's own part
    pub member: Config,
    /// `--listen-client-urls`, resolved
    pub client_listeners: Vec<Listen>,
    /// `--listen-client-http-urls`, resolved: where there is one, `client_listeners` serve gRPC alone
    pub http_listeners: Vec<Listen>,
    /// `--listen-peer-urls`, resolved
    pub peer_listeners: Vec<Listen>,
    /// `--listen-metrics-urls`, resolved
    pub metrics_listeners: Vec<Listen>,
    /// `--bootstrap-defrag-threshold-megabytes` in bytes: so much free space in the database has it
    /// defragmented at the start
    pub defragment_free_bytes_min: Option<u64>,
    /// the gRPC and HTTP part
    pub rpc: rpc::Config,
    /// the log's part
    pub log: Log,
}

/// One address to listen on, with the URL it came from.
#[derive(Debug, Clone)]
pub struct Listen {
    /// the flag, for messages
    pub flag: &'static str,
    /// as given
    pub url: String,
    /// resolved
    pub addresses: Vec<SocketAddr>,
    /// `--socket-reuse-port`
    pub reuse_port: bool,
}

/// `--log-*`
#[derive(Debug, Clone)]
pub struct Log {
    /// `--log-level`
    pub level: String,
    /// `--log-format=json`
    pub json: bool,
    /// `--log-outputs`
    pub outputs: Vec<String>,
}

/// Builds the door from what was given. Warnings go to `warn`.
pub fn build(given: &Given, warn: &mut Vec<String>) -> Result<Door> {
    let name = given.text("name").to_owned();
    let log = log(given)?;

    let peer_listeners = listeners(given, "listen-peer-urls")?;
    let client_listeners = listeners(given, "listen-client-urls")?;
    let http_listeners = listeners(given, "listen-client-http-urls")?;
    let metrics_listeners = listeners(given, "listen-metrics-urls")?;
    ensure!(
        !peer_listeners.is_empty(),
        "--listen-peer-urls is empty; give at least one URL"
    );
    ensure!(
        !client_listeners.is_empty(),
        "--listen-client-urls is empty; give at least one URL"
    );

    for http in &http_listeners {
        ensure!(
            !client_listeners.iter().any(|other| other.url == http.url),
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {}; give each its own port",
            http.url
        );
    }

    let advertise_peer_urls = urls(given, "initial-advertise-peer-urls")?;
    let advertise_client_urls = urls(given, "advertise-client-urls")?;
    for url in &advertise_peer_urls {
        ensure!(
            !url_host(url).is_empty(),
            "--initial-advertise-peer-urls \"{url}\" must be \"host:port\" (unexpected empty host)"
        );
    }
    for url in &advertise_client_urls {
        ensure!(
            !url_host(url).is_empty(),
            "--advertise-client-urls \"{url}\" must be in the format \"host:port\" (unexpected empty host)"
        );
    }
    if given.is_set("listen-client-urls") && !given.is_set("advertise-client-urls") {
        bail!("--advertise-client-urls is required when --listen-client-urls is set explicitly");
    }

    let state = given.text("initial-cluster-state");
    ensure!(
        state == "new" || state == "existing",
        "invalid value {state:?} for flag --initial-cluster-state: expected new or existing"
    );
    let fallback = given.text("discovery-fallback");
    ensure!(
        fallback == "exit",
        "--discovery-fallback={fallback} is not served: the v2 proxy is gone from etcd too; leave the flag out"
    );

    let rule = given.text("quorate-membership-rule");
    ensure!(
        rule == "strict" || rule == "etcd",
        "invalid value {rule:?} for flag --quorate-membership-rule: expected strict or etcd"
    );

    let tick_ms = given.int("heartbeat-interval");
    let election_ms = given.int("election-timeout");
    ensure!(
        tick_ms > 0,
        "--heartbeat-interval must be >0 (set to {tick_ms}ms)"
    );
    ensure!(
        election_ms > 0,
        "--election-timeout must be >0 (set to {election_ms}ms)"
    );
    ensure!(
        5 * tick_ms <= election_ms,
        "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{tick_ms}ms]"
    );
    ensure!(
        election_ms <= ELECTION_MS_MAX,
        "--election-timeout[{election_ms}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
    );

    let initial_cluster = match given.text("initial-cluster") {
        "" => advertise_peer_urls
            .iter()
            .map(|url| (name.clone(), url.clone()))
            .collect(),
        text => initial_cluster(text)?,
    };

    let data_dir = match given.text("data-dir") {
        "" => {
            warn.push(format!("'data-dir' was empty; using default {name}.etcd"));
            PathBuf::from(format!("{name}.etcd"))
        }
        dir => PathBuf::from(dir),
    };
    if name == "default" {
        warn.push(
            "the default name is in use; give --name a value before adding members, or two may share it"
                .to_owned(),
        );
    }
    if given.bool("unsafe-no-fsync") {
        warn.push("--unsafe-no-fsync: acknowledged writes can be lost with the machine".to_owned());
    }

    let gates = feature_gates(given.text("feature-gates"), warn)?;
    ensure!(
        !gates.lease_checkpoint_persist || gates.lease_checkpoint,
        "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"
    );
    let compact_hash_check_time = given.duration("compact-hash-check-time");
    ensure!(
        !compact_hash_check_time.is_zero(),
        "--compact-hash-check-time must be >0 (set to {})",
        given.text("compact-hash-check-time")
    );

    let metrics = given.text("metrics");
    ensure!(
        metrics == "basic" || metrics == "extensive",
        "invalid value {metrics:?} for flag --metrics: expected basic or extensive"
    );
    if given.is_set("grpc-keepalive-min-time") {
        warn.push(format!(
            "--grpc-keepalive-min-time={} changes nothing in this build: every ping of a client is answered",
            given.text("grpc-keepalive-min-time")
        ));
    }

    let member = Config {
        name,
        data_dir,
        wal_dir: Some(given.text("wal-dir"))
            .filter(|d| !d.is_empty())
            .map(PathBuf::from),
        advertise_peer_urls,
        advertise_client_urls,
        initial_cluster,
        initial_cluster_token: given.text("initial-cluster-token").to_owned(),
        new_cluster: state == "new",
        tick: Duration::from_millis(tick_ms as u64),
        election_ticks: (election_ms / tick_ms) as u32,
        initial_election_tick_advance: given.bool("initial-election-tick-advance"),
        pre_vote: given.bool("pre-vote"),
        strict_reconfig_check: given.bool("strict-reconfig-check"),
        strict_membership_rule: rule == "strict",
        force_new_cluster: given.bool("force-new-cluster"),
        unsafe_no_fsync: given.bool("unsafe-no-fsync"),
        snapshot_count: match positive(given, "snapshot-count")? {
            0 => 10_000,
            count => count,
        },
        snapshot_catchup_entries: positive(given, "snapshot-catchup-entries")?,
        max_snapshots: positive(given, "max-snapshots")? as usize,
        max_wals: positive(given, "max-wals")? as usize,
        quota_bytes: match given.int("quota-backend-bytes") {
            0 => Some(QUOTA_BYTES_DEFAULT),
            bytes if bytes < 0 => None,
            bytes => Some(bytes as u64),
        },
        backend_batch_interval: or_default(
            given.duration("backend-batch-interval"),
            Duration::from_millis(100),
        ),
        backend_batch_limit: match positive(given, "backend-batch-limit")? {
            0 => 10_000,
            limit => limit as usize,
        },
        max_txn_ops: positive(given, "max-txn-ops")? as usize,
        max_request_bytes: positive(given, "max-request-bytes")? as usize,
        max_learners: positive(given, "max-learners")? as usize,
        auto_compaction: auto_compaction(given)?,
        compaction_batch_limit: match positive(given, "compaction-batch-limit")? {
            0 => 1000,
            limit => limit as usize,
        },
        compaction_sleep_interval: or_default(
            given.duration("compaction-sleep-interval"),
            Duration::from_millis(10),
        ),
        watch_progress_notify_interval: given
            .duration("watch-progress-notify-interval")
            .max(Duration::from_millis(100)),
        warning_apply_duration: given.duration("warning-apply-duration"),
        corrupt_check_time: given.duration("corrupt-check-time"),
        initial_corrupt_check: gates.initial_corrupt_check,
        compact_hash_check: gates.compact_hash_check,
        compact_hash_check_time,
        lease_checkpoint: gates.lease_checkpoint,
        lease_checkpoint_persist: gates.lease_checkpoint_persist,
        raft_read_timeout: given.duration("raft-read-timeout").max(RAFT_TIMEOUT_MIN),
        raft_write_timeout: given.duration("raft-write-timeout").max(RAFT_TIMEOUT_MIN),
        downgrade_check_time: given.duration("downgrade-check-time"),
    };

    let rpc = rpc::Config {
        max_request_bytes: member.max_request_bytes,
        max_txn_ops: member.max_txn_ops,
        max_concurrent_streams: u32::try_from(given.int("max-concurrent-streams"))
            .map_err(|_| anyhow!("--max-concurrent-streams must be between 0 and 4294967295"))?,
        keepalive_interval: given.duration("grpc-keepalive-interval"),
        keepalive_timeout: given.duration("grpc-keepalive-timeout"),
        warning_unary_request_duration: given.duration("warning-unary-request-duration"),
        cors: list(given.text("cors")),
        host_whitelist: list(given.text("host-whitelist")),
        watch_progress_notify_interval: member.watch_progress_notify_interval,
        extensive_metrics: metrics == "extensive",
    };
    Ok(Door {
        member,
        client_listeners,
        http_listeners,
        defragment_free_bytes_min: match positive(given, "bootstrap-defrag-threshold-megabytes")? {
            0 => None,
            megabytes => Some(megabytes.saturating_mul(1 << 20)),
        },
        peer_listeners,
        metrics_listeners,
        rpc,
        log,
    })
}

/// Settings of a configuration file: YAML or JSON, keys as flags, durations as integer
/// nanoseconds or Go durations.
pub fn from_file(path: &str) -> Result<Given> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--config-file={path} cannot be read"))?;
    let values: serde_yaml::Mapping = serde_yaml::from_str(&text)
        .with_context(|| format!("--config-file={path} is not a YAML or JSON mapping"))?;
    let mut given = Given::default();
    for (key, value) in values {
        let key = key
            .as_str()
            .ok_or_else(|| anyhow!("{path}: a key is not text: {key:?}"))?;
        let kind = crate::flags::FLAGS
            .iter()
            .find(|f| f.name == key)
            .map(|f| f.kind);
        let text = match (&value, kind) {
            (serde_yaml::Value::Null, _) => continue,
            (serde_yaml::Value::Number(n), Some(crate::flags::Kind::Duration)) => format!("{n}ns"),
            (serde_yaml::Value::Number(n), _) => n.to_string(),
            (serde_yaml::Value::Bool(b), _) => b.to_string(),
            (serde_yaml::Value::String(s), _) => s.clone(),
            (serde_yaml::Value::Sequence(items), _) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| anyhow!("{path}: {key} must be a list of texts"))?
                .join(","),
            (serde_yaml::Value::Mapping(m), _) if m.is_empty() => continue,
            (serde_yaml::Value::Mapping(_), _) => bail!(
                "{path}: {key} is a section that this build does not serve yet (TLS); remove it"
            ),
            _ => bail!("{path}: {key} has a value of a kind that is not expected here"),
        };
        given
            .set_named(key, text)
            .with_context(|| format!("--config-file={path}"))?;
    }
    Ok(given)
}

fn positive(given: &Given, flag: &'static str) -> Result<u64> {
    let value = given.int(flag);
    u64::try_from(value)
        .map_err(|_| anyhow!("invalid value \"{value}\" for flag --{flag}: expected 0 or more"))
}

fn or_default(value: Duration, default: Duration) -> Duration {
    if value.is_zero() { default } else { value }
}

fn auto_compaction(given: &Given) -> Result<Option<AutoCompaction>> {
    let mode = given.text("auto-compaction-mode");
    let retention = given.text("auto-compaction-retention");
    let bad = || {
        anyhow!(
            "invalid value {retention:?} for flag --auto-compaction-retention with --auto-compaction-mode={mode}: expected a whole number{}",
            if mode == "periodic" {
                " of hours or a duration such as 30m"
            } else {
                " of revisions"
            }
        )
    };
    match mode {
        "periodic" => {
            let length = match retention.parse::<u64>() {
                Ok(hours) if hours > HOURS_MAX => return Err(bad()),
                Ok(hours) => Duration::from_secs(hours * 3600),
                Err(_) => parse_duration(retention).ok_or_else(bad)?,
            };
            Ok((!length.is_zero()).then_some(AutoCompaction::Periodic(length)))
        }
        "revision" => {
            let revisions: i64 = retention.parse().map_err(|_| bad())?;
            Ok((revisions > 0).then_some(AutoCompaction::Revision(revisions)))
        }
        _ => bail!("unknown auto-compaction-mode {mode:?}; use periodic or revision"),
    }
}

#[derive(Debug, Default)]
struct Gates {
    initial_corrupt_check: bool,
    compact_hash_check: bool,
    lease_checkpoint: bool,
    lease_checkpoint_persist: bool,
}

/// `--feature-gates=Name=bool,…` with etcd 3.7's names.
fn feature_gates(text: &str, warn: &mut Vec<String>) -> Result<Gates> {
    let mut gates = Gates::default();
    let without_effect = |name: &str, value: &str| {
        format!("feature gate {name}={value} changes nothing in this build")
    };
    for pair in crate::flags::split_list(text) {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            anyhow!("invalid value {pair:?} for flag --feature-gates: missing bool value, expected Name=true")
        })?;
        let on = match value.trim() {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => true,
            "false" | "0" | "f" | "F" | "FALSE" | "False" => false,
            _ => bail!(
                "invalid value {pair:?} for flag --feature-gates: {value:?} is not true or false"
            ),
        };
        match name.trim() {
            "InitialCorruptCheck" => gates.initial_corrupt_check = on,
            "CompactHashCheck" => gates.compact_hash_check = on,
            "LeaseCheckpoint" => gates.lease_checkpoint = on,
            "LeaseCheckpointPersist" => gates.lease_checkpoint_persist = on,
            "AllAlpha" => {
                gates.initial_corrupt_check = on;
                gates.compact_hash_check = on;
                gates.lease_checkpoint = on;
                gates.lease_checkpoint_persist = on;
                if on {
                    for name in [
                        "StopGRPCServiceOnDefrag",
                        "SetMemberLocalAddr",
                        "PriorityRequest",
                    ] {
                        warn.push(without_effect(name, value.trim()));
                    }
                }
            }
            // Their defaults, and ours in effect; the other way is not there.
            "AllBeta" | "TxnModeWriteWithSharedBuffer" | "FastLeaseKeepAlive" if on => {}
            "StopGRPCServiceOnDefrag" | "SetMemberLocalAddr" | "PriorityRequest" if !on => {}
            name @ ("AllBeta"
            | "TxnModeWriteWithSharedBuffer"
            | "FastLeaseKeepAlive"
            | "StopGRPCServiceOnDefrag"
            | "SetMemberLocalAddr"
            | "PriorityRequest") => warn.push(without_effect(name, value.trim())),
            other => bail!(
                "invalid value {pair:?} for flag --feature-gates: unrecognized feature gate: {other}"
            ),
        }
    }
    Ok(gates)
}

fn initial_cluster(text: &str) -> Result<Vec<(String, String)>> {
    let mut members = Vec::new();
    for part in crate::flags::split_list(text) {
        let (name, url) = part.split_once('=').ok_or_else(|| {
            anyhow!(
                "invalid value {part:?} in --initial-cluster: expected name=peerURL, for example node1=http://10.0.0.1:2380"
            )
        })?;
        members.push((
            name.trim().to_owned(),
            check_url("initial-cluster", url.trim())?,
        ));
    }
    Ok(members)
}

fn urls(given: &Given, flag: &'static str) -> Result<Vec<String>> {
    let mut list = given
        .list(flag)
        .iter()
        .map(|url| check_url(flag, url))
        .collect::<Result<Vec<_>>>()?;
    list.sort();
    list.dedup();
    Ok(list)
}

/// etcd's `types.NewURLs`: a scheme, `host:port`, no path.
fn check_url(flag: &str, url: &str) -> Result<String> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| {
        anyhow!("invalid value {url:?} for flag --{flag}: URL scheme must be http, https, unix, or unixs: {url}")
    })?;
    match scheme {
        "http" => {}
        "https" => bail!(
            "invalid value {url:?} for flag --{flag}: https needs TLS, which this build does not serve yet; use http"
        ),
        "unix" | "unixs" => bail!(
            "invalid value {url:?} for flag --{flag}: unix sockets are not served yet; use http://host:port"
        ),
        _ => bail!(
            "invalid value {url:?} for flag --{flag}: URL scheme must be http, https, unix, or unixs: {url}"
        ),
    }
    let host_port = rest.strip_suffix('/').unwrap_or(rest);
    ensure!(
        !host_port.contains('/'),
        "invalid value {url:?} for flag --{flag}: URL must not contain a path: {url}"
    );
    let port = host_port
        .rsplit_once(':')
        .map(|(_, port)| port)
        .unwrap_or("");
    ensure!(
        port.parse::<u16>().is_ok(),
        "invalid value {url:?} for flag --{flag}: URL address does not have the form \"host:port\": {url}"
    );
    Ok(format!("{scheme}://{host_port}"))
}

/// The host part of a checked URL, without brackets.
pub fn url_host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn listeners(given: &Given, flag: &'static str) -> Result<Vec<Listen>> {
    urls(given, flag)?
        .into_iter()
        .map(|url| {
            let host = url_host(&url).to_owned();
            // As etcd (`checkBindURLs`): a listener is an IP address or localhost.
            ensure!(
                host == "localhost" || host.is_empty() || host.parse::<std::net::IpAddr>().is_ok(),
                "invalid value {url:?} for flag --{flag}: expected IP in URL for binding ({url})"
            );
            let port: u16 = url
                .rsplit_once(':')
                .and_then(|(_, p)| p.parse().ok())
                .expect("checked above");
            let lookup = if host.is_empty() {
                "0.0.0.0".to_owned()
            } else {
                host
            };
            let addresses: Vec<SocketAddr> = (lookup.as_str(), port)
                .to_socket_addrs()
                .with_context(|| format!("flag --{flag}={url}: the host cannot be resolved"))?
                .filter(SocketAddr::is_ipv4)
                .chain(
                    (lookup.as_str(), port)
                        .to_socket_addrs()?
                        .filter(SocketAddr::is_ipv6),
                )
                .take(1)
                .collect();
            Ok(Listen {
                flag,
                url,
                addresses,
                reuse_port: given.bool("socket-reuse-port"),
            })
        })
        .collect()
}

fn log(given: &Given) -> Result<Log> {
    let level = given.text("log-level");
    ensure!(
        ["debug", "info", "warn", "error", "dpanic", "panic", "fatal"].contains(&level),
        "invalid value {level:?} for flag --log-level: expected debug, info, warn, error, panic or fatal"
    );
    let format = given.text("log-format");
    ensure!(
        format == "json" || format == "console",
        "invalid value {format:?} for flag --log-format: expected json or console"
    );
    let logger = given.text("logger");
    ensure!(
        logger == "zap",
        "invalid value {logger:?} for flag --logger: expected zap"
    );
    let outputs = given.list("log-outputs");
    for output in &outputs {
        // Found before the first file is made.
        let folder = Path::new(output)
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        ensure!(
            folder.is_none_or(Path::is_dir),
            "invalid value {output:?} for flag --log-outputs: its folder is not there; make it first"
        );
    }
    Ok(Log {
        level: level.to_owned(),
        json: format == "json",
        outputs,
    })
}

/// Items between commas.
fn list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{FLAGS, Kind, WITHOUT_EFFECT};

    fn door(line: &str) -> Result<Door> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        build(
            &Given::from_arguments(&words).map_err(|e| anyhow!("{e}"))?,
            &mut Vec::new(),
        )
    }

    #[test]
    fn without_flags_it_is_etcd_without_flags() {
        let door = door("").unwrap();
        assert_eq!(door.member.data_dir, PathBuf::from("default.etcd"));
        assert_eq!(
            door.member.initial_cluster,
            [("default".to_owned(), "http://localhost:2380".to_owned())]
        );
        assert_eq!(
            door.client_listeners[0].addresses[0],
            "127.0.0.1:2379".parse().unwrap()
        );
        assert_eq!(door.member.quota_bytes, Some(2 << 30));
    }

    #[test]
    fn words_that_cannot_be_right_are_named() {
        let text = |line: &str| format!("{:#}", door(line).unwrap_err());
        assert!(
            text("--listen-client-urls http://127.0.0.1:1")
                .contains("--advertise-client-urls is required")
        );
        assert!(text("--election-timeout 100").contains("at least as 5 times"));
        assert!(text("--listen-peer-urls http://node1:2380").contains("expected IP in URL"));
        assert!(text("--listen-peer-urls 127.0.0.1:2380").contains("URL scheme"));
        assert!(text("--initial-cluster a").contains("name=peerURL"));
        assert!(text("--initial-cluster-state old").contains("expected new or existing"));
        assert!(text("--auto-compaction-mode x").contains("unknown auto-compaction-mode"));
        assert!(text("--feature-gates Nope=true").contains("unrecognized feature gate: Nope"));
        assert!(text("--advertise-client-urls https://h:1").contains("TLS"));
    }

    #[test]
    fn retention_has_units_by_mode() {
        let mode = |line: &str| door(line).unwrap().member.auto_compaction;
        assert_eq!(
            mode("--auto-compaction-retention 1"),
            Some(AutoCompaction::Periodic(Duration::from_secs(3600)))
        );
        assert_eq!(
            mode("--auto-compaction-retention 10m"),
            Some(AutoCompaction::Periodic(Duration::from_secs(600)))
        );
        assert_eq!(
            mode("--auto-compaction-mode revision --auto-compaction-retention 500"),
            Some(AutoCompaction::Revision(500))
        );
        assert_eq!(mode("--auto-compaction-retention 0"), None);
        // More hours than 32 bits hold, and more than a duration of Go holds.
        let long = "--auto-compaction-retention 4294967297";
        let text = format!("{:#}", door(long).unwrap_err());
        assert!(text.contains("\"4294967297\""), "{text}");
        assert_eq!(
            mode("--auto-compaction-retention 2562047"),
            Some(AutoCompaction::Periodic(Duration::from_secs(
                2_562_047 * 3600
            )))
        );
    }

    #[test]
    fn what_a_feature_gate_does_not_change_is_said() {
        let said = |gates: &str| {
            let mut warnings = Vec::new();
            feature_gates(gates, &mut warnings).unwrap();
            warnings
        };
        for gate in [
            "FastLeaseKeepAlive=false",
            "TxnModeWriteWithSharedBuffer=false",
            "AllBeta=false",
            "StopGRPCServiceOnDefrag=true",
            "SetMemberLocalAddr=true",
            "PriorityRequest=true",
        ] {
            let text = format!("feature gate {gate} changes nothing in this build");
            assert_eq!(said(gate), [text]);
        }
        assert_eq!(said("AllAlpha=true").len(), 3);
        let defaults = "FastLeaseKeepAlive=true,TxnModeWriteWithSharedBuffer=true,AllBeta=true,\
            StopGRPCServiceOnDefrag=false,SetMemberLocalAddr=false,PriorityRequest=false,\
            AllAlpha=false,LeaseCheckpoint=true,CompactHashCheck=true";
        assert_eq!(said(defaults), [""; 0]);
    }

    /// What the words come to, and what was said of them.
    fn outcome(words: &[String]) -> String {
        let mut warnings = Vec::new();
        let given = Given::from_arguments(words).expect("the words are of the right kind");
        format!("{:?} {warnings:?}", build(&given, &mut warnings))
    }

    #[test]
    fn every_flag_changes_something_unless_it_is_known_to_change_nothing() {
        /// Flags whose other value is not the rule's below, with what they cannot be without.
        const VALUES: &[(&str, &str, &str)] = &[
            ("listen-peer-urls", "http://127.0.0.1:7", ""),
            (
                "listen-client-urls",
                "http://127.0.0.1:7",
                "--advertise-client-urls=http://a:1",
            ),
            ("listen-client-http-urls", "http://127.0.0.1:7", ""),
            ("listen-metrics-urls", "http://127.0.0.1:7", ""),
            ("initial-advertise-peer-urls", "http://127.0.0.1:7", ""),
            ("advertise-client-urls", "http://127.0.0.1:7", ""),
            ("initial-cluster", "default=http://127.0.0.1:7", ""),
            ("initial-cluster-state", "existing", ""),
            (
                "auto-compaction-mode",
                "revision",
                "--auto-compaction-retention=7",
            ),
            ("auto-compaction-retention", "7", ""),
            ("discovery-fallback", "proxy", ""),
            ("metrics", "extensive", ""),
            ("logger", "capnslog", ""),
            ("log-level", "debug", ""),
            ("log-format", "console", ""),
            ("feature-gates", "LeaseCheckpoint=true", ""),
            ("quorate-membership-rule", "etcd", ""),
        ];
        /// They are read before there is a configuration (`main.rs`).
        const READ_BEFORE: [&str; 2] = ["config-file", "version"];
        let mut idle = Vec::new();
        for flag in FLAGS {
            let listed = VALUES.iter().find(|(name, ..)| *name == flag.name);
            let value = match (listed, flag.kind) {
                (_, Kind::Ignored | Kind::Later(_)) => continue,
                (Some((_, value, _)), _) => value,
                (None, Kind::Bool) if flag.default == "true" => "false",
                (None, Kind::Bool) => "true",
                (None, Kind::Int) => "77",
                (None, Kind::Duration) => "77m",
                (None, Kind::Text) => "other",
            };
            let words = |value: Option<&str>| {
                let own = value.map(|value| format!("--{}={value}", flag.name));
                let with = listed.map(|(.., with)| (*with).to_owned());
                let with = with.filter(|with| !with.is_empty());
                own.into_iter().chain(with).collect::<Vec<_>>()
            };
            if outcome(&words(Some(value))) == outcome(&words(None)) {
                idle.push(flag.name);
            }
        }
        idle.retain(|name| !READ_BEFORE.contains(name));
        let known: Vec<&str> = WITHOUT_EFFECT.iter().map(|(name, _)| *name).collect();
        idle.sort_unstable();
        assert_eq!(idle, known);
    }

    /// A value that stands in a configuration and is never looked at is a flag without effect.
    #[test]
    fn every_field_of_a_configuration_is_read_by_some_room() {
        let mut sources = String::new();
        let rooms = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
        for folder in [
            rooms.join("server/src"),
            rooms.join("rpc/src"),
            rooms.join("../src"),
        ] {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                // What is read here is what is given, not what is made of it.
                if path.ends_with("src/config.rs") && !path.starts_with(rooms.join("server")) {
                    continue;
                }
                sources += &std::fs::read_to_string(path).unwrap();
            }
        }
        let fields = |text: String| -> Vec<String> {
            let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
            let named = lines.filter(|line| !line.starts_with(' '));
            let names = named.filter_map(|line| Some(line.split_once(": ")?.0.to_owned()));
            names.collect()
        };
        let door = door("").unwrap();
        let parts = [
            format!("{:#?}", door.member),
            format!("{:#?}", door.rpc),
            format!("{:#?}", door.log),
            format!("{:#?}", door.client_listeners[0]),
            format!("{door:#?}"),
        ];
        let unread = |field: &String| {
            let read = format!(".{field}");
            let part = |rest: &str| {
                rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
            };
            !sources.split(&read).skip(1).any(|rest| !part(rest))
        };
        let all: Vec<String> = parts.into_iter().flat_map(fields).collect();
        assert!(all.len() > 50, "{all:?}");
        let unread: Vec<&String> = all.iter().filter(|field| unread(field)).collect();
        assert!(unread.is_empty(), "never read: {unread:?}");
    }
}
