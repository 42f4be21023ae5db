//! Listeners that serve a part of the API, beside etcd; flags that change what is served, and
//! those that change nothing and say so.

use std::error::Error as _;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use api::etcdserverpb as pb;
use api::etcdserverpb::kv_client::KvClient;
use testkit::{Cluster, Kind, Member, Spec, eventually, left_out, ports};
use tonic::transport::Endpoint;

use crate::api::wire::http1;
use crate::load::runtime;

const MISSING: &str = "etcd or etcdctl is missing; run `make tools`";

/// `127.0.0.1:port` of each kind of listener.
struct Ports {
    grpc: String,
    http: String,
    metrics: String,
}

/// One member whose listeners serve a part each.
fn split(kind: Kind) -> Option<(Cluster, Ports)> {
    let [http, metrics] = [(); 2].map(|()| format!("127.0.0.1:{}", ports::free()));
    let spec = Spec::of(kind, 1)
        .flag(&format!("--listen-client-http-urls=http://{http}"))
        .flag(&format!("--listen-metrics-urls=http://{metrics}"))
        .flag("--metrics=extensive");
    let mut cluster = Cluster::prepare(&spec)?;
    cluster.start_all();
    eventually("the cluster's version", Duration::from_secs(20), || {
        let version = http1(&http, "GET", "/version");
        match version.contains(r#""storage":"3.7.0""#) {
            true => Ok(()),
            false => Err(version),
        }
    });
    let grpc = cluster.members[0].endpoint();
    Some((
        cluster,
        Ports {
            grpc,
            http,
            metrics,
        },
    ))
}

#[test]
fn each_listener_serves_its_part_of_the_api_and_nothing_else() {
    let (Some((_etcd, etcd)), Some((_ours, ours))) = (split(Kind::Etcd), split(Kind::Quorate))
    else {
        return left_out("listeners", MISSING);
    };
    let mut complaints = Vec::new();
    let mut compare = |what: String, etcd: String, ours: String| {
        if etcd != ours {
            complaints.push(format!("{what}\n--- etcd\n{etcd}\n--- ours\n{ours}"));
        }
    };
    for target in [
        "/metrics",
        "/health",
        "/health?serializable=true",
        "/livez",
        "/livez/serializable_read",
        "/readyz",
        "/readyz/non_learner",
        "/version",
        "/nothing",
        "/etcdserverpb.KV/Put",
    ] {
        for method in ["GET", "POST", "HEAD", "OPTIONS"] {
            for (name, etcd, ours) in [
                ("metrics", &etcd.metrics, &ours.metrics),
                ("http", &etcd.http, &ours.http),
            ] {
                let what = format!("{method} {target} on the {name} listener");
                let answer = |endpoint: &str| {
                    let answer = http1(endpoint, method, target);
                    match target {
                        // The figures are their own; status and type are compared.
                        "/metrics" => answer
                            .lines()
                            .filter(|line| {
                                line.starts_with("HTTP/1.1 ") || line.starts_with("content-type")
                            })
                            .collect(),
                        _ => answer,
                    }
                };
                compare(what, answer(etcd), answer(ours));
            }
        }
    }
    // docs/known-differences.md: there is no Go to tell of.
    let vars = |endpoint: &str| http1(endpoint, "GET", "/debug/vars");
    assert!(vars(&etcd.http).starts_with("HTTP/1.1 200 "));
    assert!(vars(&ours.http).starts_with("HTTP/1.1 404 "));
    // gRPC alone: HTTP is not understood there.
    assert!(speaks_http(&etcd.http) && speaks_http(&ours.http));
    assert!(!speaks_http(&etcd.grpc) && !speaks_http(&ours.grpc));
    let put = |endpoint: &str| format!("{:?}", put(endpoint));
    for (name, etcd, ours) in [
        ("client", &etcd.grpc, &ours.grpc),
        ("http", &etcd.http, &ours.http),
        ("metrics", &etcd.metrics, &ours.metrics),
    ] {
        let what = format!("a put on the {name} listener");
        compare(what, put(etcd), put(ours));
    }
    assert_eq!(put(&ours.grpc), "Some(Ok)");
    assert_eq!(put(&ours.metrics), "None");

    // --metrics=extensive: how long calls took, of all methods, in the same buckets.
    let took = |endpoint: &str| -> Vec<String> {
        let text = http1(endpoint, "GET", "/metrics");
        let lines = text.lines().filter(|line| {
            line.starts_with("grpc_server_handling_seconds_")
                && line.contains("grpc_method=\"Put\"")
                && !line.contains("_sum{")
        });
        let mut names: Vec<String> = lines
            .map(|line| {
                let (name, count) = line.rsplit_once(' ').expect("a value");
                // Buckets fill by the machine's speed; the whole count is what was asked.
                let shown = match name.contains("_count{") || name.contains("+Inf") {
                    true => count,
                    false => "",
                };
                format!("{name} {shown}")
            })
            .collect();
        names.sort();
        names
    };
    for endpoint in [&etcd.http, &etcd.metrics] {
        assert_eq!(took(endpoint).len(), 13, "{:?}", took(endpoint));
    }
    // One more put went to ours above.
    runtime().block_on(async {
        let _ = crate::load::client(std::slice::from_ref(&etcd.grpc))
            .put(a_put())
            .await;
    });
    compare(
        "durations".to_owned(),
        took(&etcd.metrics).join("\n"),
        took(&ours.metrics).join("\n"),
    );
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

/// Whether HTTP/1.1 is answered in kind; the connection may be closed at its first word.
fn speaks_http(endpoint: &str) -> bool {
    let mut socket = std::net::TcpStream::connect(endpoint).expect("the member listens");
    let request = format!("GET /health HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n");
    let _ = socket.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    answer.starts_with(b"HTTP/1.1 ")
}

fn a_put() -> pb::PutRequest {
    pb::PutRequest {
        key: "k".into(),
        value: "v".into(),
        ..Default::default()
    }
}

/// What a put is answered; `None`: the connection is closed, nobody speaks gRPC there.
fn put(endpoint: &str) -> Option<tonic::Code> {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}"));
    let endpoint = endpoint.expect("an endpoint of ours");
    runtime().block_on(async {
        let channel = endpoint.timeout(Duration::from_secs(5)).connect().await;
        let mut client = KvClient::new(channel.ok()?);
        match client.put(a_put()).await {
            Ok(_) => Some(tonic::Code::Ok),
            // The client's own words for a connection that failed have their reason with them.
            Err(status) if status.source().is_some() => None,
            Err(status) => Some(status.code()),
        }
    })
}

/// docs/known-differences.md: what a member takes and does not do, it says at its start.
#[test]
fn what_changes_nothing_is_said_at_the_start_and_pings_are_all_answered() {
    let flags = [
        "--grpc-keepalive-min-time=7s",
        "--feature-gates=FastLeaseKeepAlive=false,TxnModeWriteWithSharedBuffer=false,PriorityRequest=true",
    ];
    let with = |kind| {
        let spec = flags
            .iter()
            .fold(Spec::of(kind, 1), |spec, flag| spec.flag(flag));
        Cluster::start(&spec)
    };
    let (Some(etcd), Some(ours)) = (with(Kind::Etcd), with(Kind::Quorate)) else {
        return left_out("without_effect", MISSING);
    };
    let log = ours.members[0].log_text();
    for words in [
        "--grpc-keepalive-min-time=7s changes nothing in this build",
        "feature gate FastLeaseKeepAlive=false changes nothing in this build",
        "feature gate TxnModeWriteWithSharedBuffer=false changes nothing in this build",
        "feature gate PriorityRequest=true changes nothing in this build",
    ] {
        let said = |line: &&str| line.contains("\"level\":\"warn\"") && line.contains(words);
        assert!(
            log.lines().any(|line| said(&line)),
            "{words:?} is not in:\n{log}"
        );
    }
    assert_eq!(
        pings(&etcd.members[0]),
        Pinged::SentAway("too_many_pings".to_owned())
    );
    assert_eq!(pings(&ours.members[0]), Pinged::Answered);
}

/// What became of a client that pings without a pause.
#[derive(Debug, PartialEq)]
enum Pinged {
    /// every ping
    Answered,
    /// GOAWAY, with these words
    SentAway(String),
}

fn pings(member: &Member) -> Pinged {
    /// grpc-go takes three.
    const PINGS: usize = 8;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;
    let mut socket = std::net::TcpStream::connect(member.endpoint()).expect("the member listens");
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a time-out");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // An empty SETTINGS frame, then pings: length, type, flags, stream, eight bytes of any kind.
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for _ in 0..PINGS {
        bytes.extend([0, 0, 8, PING, 0, 0, 0, 0, 0]);
        bytes.extend(*b"12345678");
    }
    socket.write_all(&bytes).expect("the pings are sent");
    let mut answered = 0;
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).expect("a payload");
        match (head[3], head[4]) {
            (PING, ACK) => answered += 1,
            // The last stream and a code stand before the words.
            (GOAWAY, _) => {
                let words = String::from_utf8_lossy(&payload[8..]);
                return Pinged::SentAway(words.into_owned());
            }
            _ => {}
        }
        if answered == PINGS {
            return Pinged::Answered;
        }
    }
}

#[test]
fn a_start_gives_free_space_back_where_there_is_as_much_as_the_flag_says() {
    let Some(mut cluster) = Cluster::start(&Spec::of(Kind::Quorate, 1)) else {
        return left_out("defragment_at_start", MISSING);
    };
    let member = &mut cluster.members[0];
    let mut kv = crate::load::client(&[member.endpoint()]);
    let revision = runtime().block_on(async {
        let mut revision = 0;
        for number in 0..12u8 {
            let put = pb::PutRequest {
                key: "k".into(),
                value: vec![number; 1 << 20].into(),
                ..Default::default()
            };
            let answer = kv.put(put).await.expect("a put").into_inner();
            revision = answer.header.expect("a header").revision;
        }
        revision
    });
    let size = |member: &Member| {
        let status = member.etcdctl().json(&["endpoint", "status"]);
        status[0]["Status"]["dbSize"].as_u64().expect("a size")
    };
    // What is compacted before it is written never takes space.
    let full = eventually(
        "the values' place on disk",
        Duration::from_secs(10),
        || match size(member) {
            bytes if bytes > 12 << 20 => Ok(bytes),
            bytes => Err(format!("{bytes} bytes")),
        },
    );
    let revision = revision.to_string();
    member.etcdctl().ok(&["compact", "--physical", &revision]);

    // As much as is free is not as much as is asked for.
    for (megabytes, shrinks) in [(1000, false), (8, true)] {
        member.terminate();
        let flag = format!("--bootstrap-defrag-threshold-megabytes={megabytes}");
        member.flags.push(flag);
        member.start();
        let now = size(member);
        assert_eq!(
            now < 3 << 20,
            shrinks,
            "{now} of {full} bytes at {megabytes} MB"
        );
    }
    let value = member.etcdctl().json(&["get", "k"]);
    assert_eq!(value["kvs"][0]["version"], 12, "{}", value["header"]);
}
