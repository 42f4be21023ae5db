//! Flags as Go's `flag` package reads them, since etcd's do: `-x` and `--x`, `-x=v` and `-x v`,
//! booleans only as `-x` or `-x=v`; the first word that is no flag ends them.
//!
//! The table says every flag that etcd 3.7.3 has, and of each whether it works here yet: a flag
//! that is known but not served is refused by name; one that changes nothing here says so at the
//! start, unless it could not change anything anyway.

use std::collections::BTreeMap;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`
    Bool,
    /// any text
    Text,
    /// a whole number
    Int,
    /// a Go duration such as `1m30s`
    Duration,
    /// taken and without effect, as in etcd
    Ignored,
    /// part of etcd, not served by this build: the reason
    Later(&'static str),
}

/// One flag: name, what it takes, default, one line of help.
pub struct Flag {
    /// name without dashes
    pub name: &'static str,
    /// what it takes
    pub kind: Kind,
    /// value when not given
    pub default: &'static str,
    /// help text
    pub help: &'static str,
}

const TLS: Kind = Kind::Later("TLS");
const DISCOVERY: Kind = Kind::Later("discovery");
const AUTH: Kind = Kind::Later("authentication");
const TRACING: Kind = Kind::Later("distributed tracing");

macro_rules! flags {
    ($($name:literal $kind:expr, $default:literal, $help:literal;)*) => {
        &[$(Flag { name: $name, kind: $kind, default: $default, help: $help }),*]
    };
}

use Kind::{Bool, Duration, Ignored, Int, Later, Text};

/// Every flag of etcd 3.7.3, in etcd's order of help.
pub const FLAGS: &[Flag] = flags! {
    "name" Text, "default", "Human-readable name for this member.";
    "data-dir" Text, "", "Path to the data directory (default ${name}.etcd).";
    "wal-dir" Text, "", "Path to the dedicated wal directory.";
    "snapshot-count" Int, "10000", "Number of committed transactions to trigger a snapshot to disk.";
    "snapshot-catchup-entries" Int, "5000", "Number of entries for a slow follower to catch up after compacting the raft log.";
    "heartbeat-interval" Int, "100", "Time (in milliseconds) of a heartbeat interval.";
    "election-timeout" Int, "1000", "Time (in milliseconds) for an election to timeout.";
    "initial-election-tick-advance" Bool, "true", "Whether to fast-forward initial election ticks on boot for faster election.";
    "listen-peer-urls" Text, "http://localhost:2380", "List of URLs to listen on for peer traffic.";
    "listen-client-urls" Text, "http://localhost:2379", "List of URLs to listen on for client traffic.";
    "listen-client-http-urls" Text, "", "List of URLs to listen on for http-only client traffic; those of --listen-client-urls then serve gRPC alone.";
    "listen-metrics-urls" Text, "", "List of URLs to listen on for the /metrics and /health endpoints.";
    "max-snapshots" Int, "5", "Maximum number of snapshot files to retain (0 is unlimited).";
    "max-wals" Int, "5", "Maximum number of wal files to retain (0 is unlimited).";
    "quota-backend-bytes" Int, "0", "Raise alarms when backend size exceeds the given quota (0 defaults to 2 GiB, <0 turns it off).";
    "backend-bbolt-freelist-type" Ignored, "map", "bbolt's own free page bookkeeping; this build has one of its own.";
    "backend-batch-interval" Duration, "0", "Maximum time before the backend transaction is committed (0 defaults to 100ms).";
    "backend-batch-limit" Int, "0", "Maximum operations before the backend transaction is committed (0 defaults to 10000).";
    "max-txn-ops" Int, "128", "Maximum number of operations permitted in a transaction.";
    "max-request-bytes" Int, "1572864", "Maximum client request size in bytes the server will accept.";
    "max-concurrent-streams" Int, "4294967295", "Maximum concurrent streams that each client can open at a time.";
    "enable-grpc-gateway" Bool, "true", "The JSON gateway comes later; the flag is taken so that a command line of etcd works.";
    "grpc-keepalive-min-time" Duration, "5s", "Changes nothing in this build, and says so at the start: every ping of a client is answered.";
    "grpc-keepalive-interval" Duration, "2h", "Frequency of server-to-client ping to check if a connection is alive (0 to disable).";
    "grpc-keepalive-timeout" Duration, "20s", "Additional duration of wait before closing a non-responsive connection (0 to disable).";
    "socket-reuse-port" Bool, "false", "Set socket option SO_REUSEPORT on listeners.";
    "socket-reuse-address" Bool, "false", "Listeners have the socket option SO_REUSEADDR in any case, as etcd's have.";
    "raft-read-timeout" Duration, "5s", "Read timeout set on each rafthttp connection.";
    "raft-write-timeout" Duration, "5s", "Write timeout set on each rafthttp connection.";
    "memory-mlock" Later("locking memory"), "false", "Enable to enforce etcd pages to stay in RAM.";
    "initial-advertise-peer-urls" Text, "http://localhost:2380", "List of this member's peer URLs to advertise to the rest of the cluster.";
    "initial-cluster" Text, "", "Initial cluster configuration for bootstrapping (default name=peer URLs).";
    "initial-cluster-state" Text, "new", "Initial cluster state ('new' when bootstrapping a new cluster or 'existing' when adding new members to an existing cluster).";
    "initial-cluster-token" Text, "etcd-cluster", "Initial cluster token for the etcd cluster during bootstrap.";
    "advertise-client-urls" Text, "http://localhost:2379", "List of this member's client URLs to advertise to the public.";
    "strict-reconfig-check" Bool, "true", "Reject reconfiguration requests that would cause quorum loss.";
    "pre-vote" Bool, "true", "Enable the raft Pre-Vote algorithm.";
    "auto-compaction-retention" Text, "0", "Auto compaction retention length. 0 means disable auto compaction.";
    "auto-compaction-mode" Text, "periodic", "Interpret 'auto-compaction-retention' one of: periodic|revision.";
    "v2-deprecation" Text, "write-only", "Taken and without effect, as in etcd 3.7.";
    "discovery" DISCOVERY, "", "v2 discovery.";
    "discovery-srv" DISCOVERY, "", "DNS SRV domain used to bootstrap the cluster.";
    "discovery-srv-name" DISCOVERY, "", "Suffix to the DNS SRV name queried when bootstrapping.";
    "discovery-fallback" Text, "exit", "Expected behavior when discovery services fails.";
    "discovery-endpoints" DISCOVERY, "", "V3 discovery: List of gRPC endpoints of the discovery service.";
    "discovery-token" DISCOVERY, "", "V3 discovery: discovery token for the etcd cluster to be bootstrapped.";
    "discovery-dial-timeout" DISCOVERY, "2s", "V3 discovery: dial timeout.";
    "discovery-request-timeout" DISCOVERY, "5s", "V3 discovery: request timeout.";
    "discovery-keepalive-time" DISCOVERY, "2s", "V3 discovery: keepalive time.";
    "discovery-keepalive-timeout" DISCOVERY, "6s", "V3 discovery: keepalive timeout.";
    "discovery-insecure-transport" DISCOVERY, "true", "V3 discovery: disable transport security.";
    "discovery-insecure-skip-tls-verify" DISCOVERY, "false", "V3 discovery: skip server certificate verification.";
    "discovery-cert" DISCOVERY, "", "V3 discovery: TLS certificate file.";
    "discovery-key" DISCOVERY, "", "V3 discovery: TLS key file.";
    "discovery-cacert" DISCOVERY, "", "V3 discovery: CA bundle.";
    "discovery-user" DISCOVERY, "", "V3 discovery: user name.";
    "discovery-password" DISCOVERY, "", "V3 discovery: password.";
    "cert-file" TLS, "", "Path to the client server TLS cert file.";
    "key-file" TLS, "", "Path to the client server TLS key file.";
    "client-cert-file" TLS, "", "Path to an explicit peer client TLS cert file.";
    "client-key-file" TLS, "", "Path to an explicit peer client TLS key file.";
    "client-cert-auth" TLS, "false", "Enable client cert authentication.";
    "client-crl-file" TLS, "", "Path to the client certificate revocation list file.";
    "client-cert-allowed-hostname" TLS, "", "Allowed TLS hostname for client cert authentication.";
    "trusted-ca-file" TLS, "", "Path to the client server TLS trusted CA cert file.";
    "auto-tls" TLS, "false", "Client TLS using generated certificates.";
    "peer-cert-file" TLS, "", "Path to the peer server TLS cert file.";
    "peer-key-file" TLS, "", "Path to the peer server TLS key file.";
    "peer-client-cert-file" TLS, "", "Path to an explicit peer client TLS cert file.";
    "peer-client-key-file" TLS, "", "Path to an explicit peer client TLS key file.";
    "peer-client-cert-auth" TLS, "false", "Enable peer client cert authentication.";
    "peer-crl-file" TLS, "", "Path to the peer certificate revocation list file.";
    "peer-trusted-ca-file" TLS, "", "Path to the peer server TLS trusted CA file.";
    "peer-auto-tls" TLS, "false", "Peer TLS using self-generated certificates.";
    "peer-cert-allowed-cn" TLS, "", "Required CN for client certs connecting to the peer endpoint.";
    "peer-cert-allowed-hostname" TLS, "", "Allowed TLS hostname for inter peer authentication.";
    "peer-skip-client-san-verification" TLS, "false", "Skip verification of SAN field in client certificate for peer connections.";
    "self-signed-cert-validity" TLS, "1", "The validity period of the client and peer certificates in years.";
    "cipher-suites" TLS, "", "Supported TLS cipher suites between client/server and peers.";
    "tls-min-version" TLS, "TLS1.2", "Minimum TLS version supported.";
    "tls-max-version" TLS, "", "Maximum TLS version supported.";
    "cors" Text, "*", "Whitelist of origins for CORS, or cross-origin resource sharing.";
    "host-whitelist" Text, "*", "Acceptable hostnames from HTTP client requests, if server is not secure.";
    "auth-token" AUTH, "simple", "Specify a v3 authentication token type and its options.";
    "bcrypt-cost" AUTH, "10", "The cost / strength of the bcrypt algorithm for hashing auth passwords.";
    "auth-token-ttl" AUTH, "300", "Time (in seconds) of the auth-token-ttl.";
    "enable-pprof" Later("runtime profiling"), "false", "Enable runtime profiling data via HTTP server.";
    "metrics" Text, "basic", "Set level of detail for exported metrics, 'extensive' to include server side grpc histogram metrics.";
    "logger" Text, "zap", "Logger type; the one value is zap.";
    "log-outputs" Text, "default", "'stdout', 'stderr' or a list of files.";
    "log-level" Text, "info", "Log level: debug, info, warn, error, panic, or fatal.";
    "log-format" Text, "json", "Log format: json or console.";
    "enable-log-rotation" Later("log rotation"), "false", "Enable log rotation of a single log-outputs file target.";
    "log-rotation-config-json" Later("log rotation"), "", "Log rotation configuration.";
    "enable-distributed-tracing" TRACING, "false", "Enable distributed tracing.";
    "distributed-tracing-address" TRACING, "localhost:4317", "Distributed tracing collector address.";
    "distributed-tracing-service-name" TRACING, "etcd", "Distributed tracing service name.";
    "distributed-tracing-instance-id" TRACING, "", "Distributed tracing instance ID.";
    "distributed-tracing-sampling-rate" TRACING, "0", "Number of samples to collect per million spans.";
    "corrupt-check-time" Duration, "0s", "Duration of time between cluster corruption check passes.";
    "compact-hash-check-time" Duration, "1m0s", "Duration of time between leader checks followers compaction hashes.";
    "compaction-batch-limit" Int, "0", "Sets the maximum revisions deleted in each compaction batch (0 defaults to 1000).";
    "compaction-sleep-interval" Duration, "0", "Sets the sleep interval between each compaction batch (0 defaults to 10ms).";
    "downgrade-check-time" Duration, "5s", "Duration of time between two downgrade status checks.";
    "watch-progress-notify-interval" Duration, "10m0s", "Duration of periodical watch progress notification.";
    "warning-apply-duration" Duration, "100ms", "Warning is generated if requests take more than this duration.";
    "warning-unary-request-duration" Duration, "300ms", "Set time duration after which a warning is logged if a unary request takes more than this duration.";
    "max-learners" Int, "1", "Set the max number of learner members allowed in the cluster membership.";
    "bootstrap-defrag-threshold-megabytes" Int, "0", "Enable the defrag during server bootstrap on condition that it will free at least the provided threshold of disk space.";
    "feature-gates" Text, "", "A set of key=value pairs that describe server level feature gates.";
    "unsafe-no-fsync" Bool, "false", "Disables fsync, unsafe, will cause data loss.";
    "force-new-cluster" Bool, "false", "Make this member's disk a cluster of one: everybody else is removed, and what is not known to be committed is dropped. Unsafe; `quorate util recover` shows first what would be lost.";
    "quorate-membership-rule" Text, "strict", "Which membership steps are refused while --strict-reconfig-check is on: 'strict' (etcd's rule, and none by which a crash becomes fatal while a voter is in doubt) or 'etcd'.";
    "config-file" Text, "", "Path to the server configuration file; other flags and the environment are then ignored.";
    "version" Bool, "false", "Print the version and exit.";
    "cluster-active-size" Ignored, "", "";
    "cluster-remove-delay" Ignored, "", "";
    "cluster-sync-interval" Ignored, "", "";
    "config" Ignored, "", "";
    "force" Ignored, "", "";
    "max-result-buffer" Ignored, "", "";
    "max-retry-attempts" Ignored, "", "";
    "peer-heartbeat-interval" Ignored, "", "";
    "peer-election-timeout" Ignored, "", "";
    "retry-interval" Ignored, "", "";
    "snapshot" Ignored, "", "";
    "v" Ignored, "", "";
    "vv" Ignored, "", "";
};

/// Flags that are checked and then change nothing: nothing that they could ask for would differ.
/// All others are refused, act, or say at the start that they do not.
#[cfg(test)]
pub const WITHOUT_EFFECT: &[(&str, &str)] = &[
    (
        "enable-grpc-gateway",
        "there is no gateway to be turned off",
    ),
    (
        "socket-reuse-address",
        "Go's listeners have it in any case, and so have ours",
    ),
    ("v2-deprecation", "as in etcd 3.7"),
];

/// What was given, by flag name.
#[derive(Debug, Default)]
pub struct Given {
    values: BTreeMap<&'static str, String>,
}

/// Why a command line or the environment was refused. Each names flag, value and remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// no such flag
    #[error("flag provided but not defined: -{0}; `quorate --help` lists the flags")]
    Unknown(String),
    /// a flag without its value
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// a value of the wrong kind
    #[error("invalid value {value:?} for flag --{flag}: {why}")]
    Bad {
        /// name without dashes
        flag: &'static str,
        /// as given
        value: String,
        /// what was expected
        why: String,
    },
    /// part of etcd, not of this build
    #[error(
        "flag --{flag}={value} asks for {what}, which this build does not serve yet; leave the flag out"
    )]
    Later {
        /// name without dashes
        flag: &'static str,
        /// as given
        value: String,
        /// the missing part
        what: &'static str,
    },
    /// a variable of the environment that cannot be what its flag is
    #[error("environment variable {variable}: {error}")]
    Variable {
        /// `ETCD_…`
        variable: String,
        /// why
        error: Box<Error>,
    },
    /// a word that is no flag
    #[error("{0:?} is not a valid flag; flags begin with - or --")]
    Stray(String),
    /// `-h`, `--help`
    #[error("help asked for")]
    Help,
}

fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

impl Given {
    /// Reads a command line (without the program's name).
    pub fn from_arguments(arguments: &[String]) -> Result<Self, Error> {
        let mut given = Self::default();
        let mut rest = arguments.iter();
        while let Some(word) = rest.next() {
            let Some(body) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                return Err(Error::Stray(word.clone()));
            };
            if body.is_empty() {
                match rest.next() {
                    Some(stray) if word == "--" => return Err(Error::Stray(stray.clone())),
                    None if word == "--" => break,
                    _ => return Err(Error::Stray(word.clone())),
                }
            }
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            if name == "h" || name == "help" {
                return Err(Error::Help);
            }
            let flag = find(name).ok_or_else(|| Error::Unknown(name.to_owned()))?;
            let takes_none = match flag.kind {
                Kind::Bool => true,
                Kind::Later(_) => flag.default == "true" || flag.default == "false",
                _ => false,
            };
            let value = match value {
                Some(value) => value,
                None if takes_none => "true".to_owned(),
                None => rest
                    .next()
                    .cloned()
                    .ok_or_else(|| Error::NoValue(name.to_owned()))?,
            };
            given.set(flag, value)?;
        }
        Ok(given)
    }

    /// Adds `ETCD_*` variables where the flag was not given; returns names that mean nothing.
    pub fn add_environment(
        &mut self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Vec<String>, Error> {
        let mut unknown = Vec::new();
        for (variable, value) in environment {
            let Some(rest) = variable.strip_prefix("ETCD_") else {
                continue;
            };
            let name = rest.to_ascii_lowercase().replace('_', "-");
            match find(&name) {
                Some(flag) if value.is_empty() || self.is_set(flag.name) => {}
                Some(flag) => self.set(flag, value).map_err(|error| Error::Variable {
                    variable,
                    error: error.into(),
                })?,
                None => unknown.push(variable),
            }
        }
        Ok(unknown)
    }

    /// Sets one value, checked against its kind. Used by flags, environment and file alike.
    pub fn set(&mut self, flag: &'static Flag, value: String) -> Result<(), Error> {
        let bad = |why: &str, value: &str| Error::Bad {
            flag: flag.name,
            value: value.to_owned(),
            why: why.to_owned(),
        };
        match flag.kind {
            Kind::Bool => {
                parse_bool(&value).ok_or_else(|| bad("expected true or false", &value))?;
            }
            Kind::Int => {
                value
                    .parse::<i64>()
                    .map_err(|_| bad("expected a whole number", &value))?;
            }
            Kind::Duration => {
                parse_duration(&value)
                    .ok_or_else(|| bad("expected a duration such as 100ms, 5s or 1m30s", &value))?;
            }
            // A flag that only repeats its default asks for nothing.
            Kind::Later(what) if value != flag.default => {
                return Err(Error::Later {
                    flag: flag.name,
                    value,
                    what,
                });
            }
            Kind::Text | Kind::Ignored | Kind::Later(_) => {}
        }
        self.values.insert(flag.name, value);
        Ok(())
    }

    /// Sets a value by name, as a configuration file does.
    pub fn set_named(&mut self, name: &str, value: String) -> Result<(), Error> {
        let flag = find(name).ok_or_else(|| Error::Unknown(name.to_owned()))?;
        self.set(flag, value)
    }

    /// Whether the flag was given at all.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value given, or the default.
    pub fn text(&self, name: &'static str) -> &str {
        match self.values.get(name) {
            Some(value) => value,
            None => find(name).expect("callers name flags of the table").default,
        }
    }

    /// A boolean flag's value.
    pub fn bool(&self, name: &'static str) -> bool {
        parse_bool(self.text(name)).expect("checked when set")
    }

    /// A whole number's value.
    pub fn int(&self, name: &'static str) -> i64 {
        self.text(name).parse().expect("checked when set")
    }

    /// A duration's value; zero for `0`.
    pub fn duration(&self, name: &'static str) -> std::time::Duration {
        parse_duration(self.text(name)).expect("checked when set")
    }

    /// A comma list's values, trimmed, without empty ones.
    pub fn list(&self, name: &'static str) -> Vec<String> {
        split_list(self.text(name))
    }
}

/// Splits a comma list; empty parts vanish.
pub fn split_list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect()
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A Go duration: a sum of numbers with units `ns us µs ms s m h`, or a bare `0`.
pub fn parse_duration(text: &str) -> Option<std::time::Duration> {
    if text == "0" {
        return Some(std::time::Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..unit_len] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanos += number * unit;
        rest = &rest[unit_len..];
    }
    (nanos < u64::MAX as f64).then(|| std::time::Duration::from_nanos(nanos as u64))
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text = String::from(
        "Usage:\n\n  quorate [flags]\n    Start a member, as etcd does.\n\n  quorate local|bench|util|explain --help\n    A local cluster; a load; tools on files; what is wrong with a cluster.\n\n  quorate --version\n    Show the version.\n\nFlags (each also as ETCD_<FLAG> in the environment):\n",
    );
    for flag in FLAGS
        .iter()
        .filter(|f| f.kind != Ignored && !matches!(f.kind, Later(_)))
    {
        let line = if flag.default.is_empty() {
            format!("  --{}\n        {}\n", flag.name, flag.help)
        } else {
            format!(
                "  --{} '{}'\n        {}\n",
                flag.name, flag.default, flag.help
            )
        };
        text.push_str(&line);
    }
    text.push_str("\nFlags of etcd that this build refuses until it serves them:\n");
    for flag in FLAGS {
        if let Later(what) = flag.kind {
            text.push_str(&format!("  --{} ({what})\n", flag.name));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(line: &str) -> Result<Given, Error> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Given::from_arguments(&words)
    }

    #[test]
    fn one_dash_or_two_with_equals_or_without() {
        let g =
            given("-name a --data-dir=/d --pre-vote=false --unsafe-no-fsync --max-wals 3").unwrap();
        assert_eq!(g.text("name"), "a");
        assert_eq!(g.text("data-dir"), "/d");
        assert!(!g.bool("pre-vote"));
        assert!(g.bool("unsafe-no-fsync"));
        assert_eq!(g.int("max-wals"), 3);
        assert_eq!(g.int("max-snapshots"), 5);
    }

    #[test]
    fn an_error_names_flag_and_value() {
        let text = |line: &str| given(line).unwrap_err().to_string();
        assert_eq!(
            text("--max-wals=x"),
            "invalid value \"x\" for flag --max-wals: expected a whole number"
        );
        assert!(text("--nope").starts_with("flag provided but not defined: -nope"));
        assert!(text("--name").starts_with("flag needs an argument: -name"));
        assert!(text("member").contains("is not a valid flag"));
        assert!(text("--cert-file=a.pem").contains("TLS"));
        assert!(text("--auto-tls").contains("--auto-tls=true asks for TLS"));
    }

    #[test]
    fn a_flag_wins_over_the_environment() {
        let mut g = given("--name a").unwrap();
        let unknown = g
            .add_environment(
                [
                    ("ETCD_NAME", "b"),
                    ("ETCD_MAX_WALS", "7"),
                    ("ETCD_NOPE", "1"),
                    ("HOME", "/"),
                ]
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned())),
            )
            .unwrap();
        assert_eq!(g.text("name"), "a");
        assert_eq!(g.int("max-wals"), 7);
        assert_eq!(unknown, ["ETCD_NOPE"]);
    }

    #[test]
    fn durations_are_go_durations() {
        let ms = |t: &str| parse_duration(t).map(|d| d.as_millis());
        assert_eq!(ms("1m30s"), Some(90_000));
        assert_eq!(ms("1.5h"), Some(5_400_000));
        assert_eq!(ms("100ms"), Some(100));
        assert_eq!(ms("0"), Some(0));
        assert_eq!(ms("5"), None);
        assert_eq!(ms("-1s"), None);
        assert_eq!(ms("1x"), None);
    }
}
