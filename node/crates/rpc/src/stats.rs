//! What came and went on the client port, under the names of grpc-go's and etcd's metrics.
//!
//! Counters are the process', as there: each method has its own, and nobody has to carry them.

use std::fmt::Write as _;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::Code;
use server::metrics::Text;

/// Versions of clients that are counted apart; a client may send any text.
const CLIENT_VERSIONS_MAX: usize = 64;

/// Codes of gRPC.
const CODES: usize = 17;

/// Upper bounds of the buckets of durations, in ms: those of Prometheus' own clients.
const TOOK_MS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/// One method's counters.
#[derive(Debug)]
pub struct Method {
    service: &'static str,
    name: &'static str,
    kind: &'static str,
    started: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    handled: [AtomicU64; CODES],
    /// by bucket of [`TOOK_MS`], the last one has no bound; only with `--metrics=extensive`
    took: [AtomicU64; TOOK_MS.len() + 1],
    took_nanos: AtomicU64,
}

const fn method(service: &'static str, name: &'static str, kind: &'static str) -> Method {
    Method {
        service,
        name,
        kind,
        started: AtomicU64::new(0),
        received: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        handled: [const { AtomicU64::new(0) }; CODES],
        took: [const { AtomicU64::new(0) }; TOOK_MS.len() + 1],
        took_nanos: AtomicU64::new(0),
    }
}

const fn unary(service: &'static str, name: &'static str) -> Method {
    method(service, name, "unary")
}

const KV: &str = "etcdserverpb.KV";
const LEASE: &str = "etcdserverpb.Lease";
const CLUSTER: &str = "etcdserverpb.Cluster";
const MAINTENANCE: &str = "etcdserverpb.Maintenance";
const AUTH: &str = "etcdserverpb.Auth";
const HEALTH: &str = "grpc.health.v1.Health";

/// The busy ones first: a call looks for its own from the top.
static METHODS: [Method; 30] = [
    unary(KV, "Range"),
    unary(KV, "Put"),
    unary(KV, "Txn"),
    unary(KV, "DeleteRange"),
    unary(KV, "Compact"),
    method(KV, "RangeStream", "server_stream"),
    method("etcdserverpb.Watch", "Watch", "bidi_stream"),
    method(LEASE, "LeaseKeepAlive", "bidi_stream"),
    unary(LEASE, "LeaseGrant"),
    unary(LEASE, "LeaseRevoke"),
    unary(LEASE, "LeaseTimeToLive"),
    unary(LEASE, "LeaseLeases"),
    unary(CLUSTER, "MemberAdd"),
    unary(CLUSTER, "MemberRemove"),
    unary(CLUSTER, "MemberUpdate"),
    unary(CLUSTER, "MemberList"),
    unary(CLUSTER, "MemberPromote"),
    unary(MAINTENANCE, "Alarm"),
    unary(MAINTENANCE, "Status"),
    unary(MAINTENANCE, "Defragment"),
    unary(MAINTENANCE, "Hash"),
    unary(MAINTENANCE, "HashKV"),
    method(MAINTENANCE, "Snapshot", "server_stream"),
    unary(MAINTENANCE, "MoveLeader"),
    unary(MAINTENANCE, "Downgrade"),
    unary(AUTH, "AuthStatus"),
    unary(AUTH, "Authenticate"),
    unary(HEALTH, "Check"),
    unary(HEALTH, "List"),
    method(HEALTH, "Watch", "server_stream"),
];

/// etcd `client_grpc_received_bytes_total`
static RECEIVED_BYTES: AtomicU64 = AtomicU64::new(0);
/// etcd `client_grpc_sent_bytes_total`
static SENT_BYTES: AtomicU64 = AtomicU64::new(0);

/// Version, unary calls, streams.
type Client = (String, AtomicU64, AtomicU64);

static CLIENTS: RwLock<Vec<Client>> = RwLock::new(Vec::new());

/// The counters of a method, if it is one of ours.
pub fn of(service: &str, name: &str) -> Option<&'static Method> {
    METHODS
        .iter()
        .find(|method| method.name == name && method.service == service)
}

impl Method {
    /// The method's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether there is one message each way.
    pub fn is_unary(&self) -> bool {
        self.kind == "unary"
    }

    /// A call came in, from a client of this version.
    pub fn start(&self, client_version: &str) {
        self.started.fetch_add(1, Ordering::Relaxed);
        count_client(client_version, self.is_unary());
    }

    /// A message came in.
    pub fn receive(&self, bytes: usize) {
        self.received.fetch_add(1, Ordering::Relaxed);
        RECEIVED_BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A message went out.
    pub fn send(&self, bytes: usize) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        SENT_BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The call ended.
    pub fn end(&self, code: Code) {
        self.handled[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The call took so long.
    pub fn took(&self, took: Duration) {
        let bucket = TOOK_MS.partition_point(|bound| took > Duration::from_millis(*bound));
        self.took[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.took_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn labels(&self) -> String {
        let Self {
            service,
            name,
            kind,
            ..
        } = self;
        format!("grpc_method=\"{name}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"")
    }
}

fn count_client(version: &str, unary: bool) {
    let add = |client: &Client| {
        let counter = if unary { &client.1 } else { &client.2 };
        counter.fetch_add(1, Ordering::Relaxed);
    };
    let is_it = |client: &&Client| client.0 == version;
    {
        let clients = CLIENTS
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = clients.iter().find(is_it) {
            return add(client);
        }
    }
    let mut clients = CLIENTS
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if clients.iter().find(is_it).is_none() {
        if clients.len() >= CLIENT_VERSIONS_MAX {
            return;
        }
        clients.push((version.to_owned(), AtomicU64::new(0), AtomicU64::new(0)));
    }
    if let Some(client) = clients.iter().find(is_it) {
        add(client);
    }
}

/// Writes all of it.
pub fn write(text: &mut Text) {
    let of = |value: fn(&Method) -> &AtomicU64| -> Vec<(String, u64)> {
        let all = METHODS.iter();
        all.map(|method| (method.labels(), value(method).load(Ordering::Relaxed)))
            .collect()
    };
    let started = of(|method| &method.started);
    let received = of(|method| &method.received);
    let sent = of(|method| &method.sent);
    text.labelled(
        "grpc_server_started_total",
        "counter",
        "Total number of RPCs started on the server.",
        &started,
    );
    text.labelled(
        "grpc_server_msg_received_total",
        "counter",
        "Total number of RPC stream messages received on the server.",
        &received,
    );
    text.labelled(
        "grpc_server_msg_sent_total",
        "counter",
        "Total number of gRPC stream messages sent by the server.",
        &sent,
    );
    let handled: Vec<(String, u64)> = METHODS
        .iter()
        .flat_map(|method| {
            (0..CODES as i32).map(move |code| {
                let count = method.handled[code as usize].load(Ordering::Relaxed);
                let name = Code::from_number(code).name();
                (format!("grpc_code=\"{name}\",{}", method.labels()), count)
            })
        })
        .collect();
    text.labelled(
        "grpc_server_handled_total",
        "counter",
        "Total number of RPCs completed on the server, regardless of success or failure.",
        &handled,
    );
    let bytes = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    text.counter(
        "etcd_network_client_grpc_received_bytes_total",
        "The total number of bytes received from grpc clients.",
        bytes(&RECEIVED_BYTES),
    );
    text.counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "The total number of bytes sent to grpc clients.",
        bytes(&SENT_BYTES),
    );
    let clients = CLIENTS
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let clients: Vec<(String, u64)> = clients
        .iter()
        .flat_map(|(version, unary, stream)| {
            // The text is the client's: what ends a label must not end ours.
            let version = version.replace(['"', '\\', '\n'], "?");
            [("unary", unary), ("stream", stream)].map(|(kind, count)| {
                (
                    format!("client_api_version=\"{version}\",type=\"{kind}\""),
                    bytes(count),
                )
            })
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    text.labelled(
        "etcd_server_client_requests_total",
        "counter",
        "The total number of client requests per client version.",
        &clients,
    );
}

/// Writes how long calls took, `--metrics=extensive`.
pub fn write_took(out: &mut String) {
    const NAME: &str = "grpc_server_handling_seconds";
    let _ = writeln!(
        out,
        "# HELP {NAME} Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.\n# TYPE {NAME} histogram"
    );
    for method in &METHODS {
        let labels = method.labels();
        let mut total = 0;
        for (count, bound) in method.took.iter().zip(TOOK_MS) {
            total += count.load(Ordering::Relaxed);
            let seconds = Duration::from_millis(bound).as_secs_f64();
            let _ = writeln!(out, "{NAME}_bucket{{{labels},le=\"{seconds}\"}} {total}");
        }
        total += method.took[TOOK_MS.len()].load(Ordering::Relaxed);
        let nanos = method.took_nanos.load(Ordering::Relaxed);
        let sum = Duration::from_nanos(nanos).as_secs_f64();
        let _ = writeln!(
            out,
            "{NAME}_bucket{{{labels},le=\"+Inf\"}} {total}\n{NAME}_sum{{{labels}}} {sum}\n{NAME}_count{{{labels}}} {total}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_fill_memory_with_versions_nor_break_the_text() {
        for number in 0..2 * CLIENT_VERSIONS_MAX {
            count_client(&format!("{number}\"}} 1\n"), true);
        }
        let mut text = Text::default();
        write(&mut text);
        let text = text.finish();
        let clients = text
            .lines()
            .filter(|line| line.starts_with("etcd_server_client_requests_total{"));
        assert_eq!(clients.clone().count(), CLIENT_VERSIONS_MAX);
        for line in clients {
            assert!(line.ends_with("\",type=\"unary\"} 1"), "{line}");
        }
    }

    #[test]
    fn a_call_is_counted_in_every_bucket_that_holds_it() {
        let method = of("etcdserverpb.Lease", "LeaseLeases").expect("a method");
        for millis in [5, 6, 10_001] {
            method.took(Duration::from_millis(millis));
        }
        let mut text = String::new();
        write_took(&mut text);
        let labels = method.labels();
        for (suffix, le, value) in [
            ("_bucket", ",le=\"0.005\"", "1"),
            ("_bucket", ",le=\"0.01\"", "2"),
            ("_bucket", ",le=\"10\"", "2"),
            ("_bucket", ",le=\"+Inf\"", "3"),
            ("_count", "", "3"),
            ("_sum", "", "10.012"),
        ] {
            let line = format!("grpc_server_handling_seconds{suffix}{{{labels}{le}}} {value}\n");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_method_is_found_by_both_of_its_names() {
        assert_eq!(
            of("etcdserverpb.KV", "Range").map(Method::name),
            Some("Range")
        );
        assert!(of("etcdserverpb.Watch", "Range").is_none());
    }
}
