//! Raw requests to etcd and to ours in the same run: status code, text and every byte of every
//! answer must be the same.
//!
//! Both clusters have one member, and both members give the same peer URL as theirs, at which
//! nobody listens: so they have the same IDs, and no answer needs a mask but for sizes of files.
//! The requests come in one order, so that revisions are the same too.

mod calls;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};

use testkit::{Cluster, Kind, Spec, eventually, left_out};

use self::calls::Call;
use self::wire::{Answer, Wire, http1};
use crate::load::runtime;

/// Small limits, so that the tests of limits send little.
const FLAGS: &[&str] = &["--max-request-bytes=20000", "--max-txn-ops=8"];

/// The peer and client URL that both members give as theirs.
const SHARED_PEER_URL: &str = "http://127.0.0.1:1";
const SHARED_CLIENT_URL: &str = "http://127.0.0.1:2";

fn start(kind: Kind) -> Option<Cluster> {
    let mut spec = Spec::of(kind, 1);
    for flag in FLAGS {
        spec = spec.flag(flag);
    }
    let mut cluster = Cluster::prepare(&spec)?;
    for flag in &mut cluster.members[0].flags {
        for (name, value) in [
            ("--initial-advertise-peer-urls=", SHARED_PEER_URL.to_owned()),
            ("--advertise-client-urls=", SHARED_CLIENT_URL.to_owned()),
            ("--initial-cluster=", format!("m0={SHARED_PEER_URL}")),
        ] {
            if flag.starts_with(name) {
                *flag = format!("{name}{value}");
            }
        }
    }
    cluster.start_all();
    until_version(&cluster.members[0].endpoint());
    Some(cluster)
}

/// Members agree on it some seconds after their start, and again after the end of a downgrade.
fn until_version(endpoint: &str) {
    let within = std::time::Duration::from_secs(20);
    eventually("the cluster's version", within, || {
        let version = http1(endpoint, "GET", "/version");
        if version.contains(r#""etcdcluster":"3.7.0","storage":"3.7.0""#) {
            Ok(())
        } else {
            Err(version)
        }
    });
}

#[test]
fn raw_requests_are_answered_alike() {
    let (etcd, ours) = std::thread::scope(|scope| {
        let etcd = scope.spawn(|| start(Kind::Etcd));
        let ours = scope.spawn(|| start(Kind::Quorate));
        (
            etcd.join().expect("etcd starts"),
            ours.join().expect("ours starts"),
        )
    });
    let (Some(mut etcd_cluster), Some(mut our_cluster)) = (etcd, ours) else {
        return left_out("api", "etcd or etcdctl is missing; run `make tools`");
    };
    let etcd = etcd_cluster.members[0].endpoint();
    let ours = our_cluster.members[0].endpoint();
    let calls = calls::all();
    let mut complaints = run_calls(&etcd, &ours, &calls);
    for cluster in [&mut etcd_cluster, &mut our_cluster] {
        let member = &mut cluster.members[0];
        // It refuses connections while it dies.
        if std::net::TcpStream::connect(member.endpoint()).is_err() {
            let ended = std::time::Duration::from_secs(10);
            let status = eventually("its end", ended, || member.exited().ok_or_else(String::new));
            let log = member.log_text();
            let log = log.find("panic").map_or("", |at| &log[at..]);
            panic!(
                "{:?} ended with {status}:\n{log}\n{}",
                member.kind,
                complaints.join("\n\n")
            );
        }
    }
    complaints.extend(run_alone(&ours));
    for endpoint in [&etcd, &ours] {
        until_version(endpoint);
    }
    complaints.extend(compare_http(&etcd, &ours));
    complaints.extend(compare_metrics(&etcd, &ours));
    assert!(
        complaints.is_empty(),
        "{} of {} calls differ:\n\n{}",
        complaints.len(),
        calls.len(),
        complaints.join("\n\n")
    );
}

fn run_calls(etcd: &str, ours: &str, calls: &[Call]) -> Vec<String> {
    let mut complaints = Vec::new();
    runtime().block_on(async {
        let (to_etcd, to_ours) = tokio::join!(Wire::connect(etcd), Wire::connect(ours));
        for call in calls {
            let (mut etcd, mut ours) = tokio::join!(call.run(&to_etcd), call.run(&to_ours));
            if etcd
                .headers
                .iter()
                .any(|header| header.starts_with("failed: "))
            {
                complaints.push(format!(
                    "{}: {:?}, {:?}",
                    call.name, etcd.headers, ours.headers
                ));
                return;
            }
            let good = |answer: &Answer| {
                let trailers = answer.trailers.iter().flatten();
                trailers.into_iter().any(|line| line == "grpc-status: 0")
            };
            if ours.empty_message || good(&etcd) && !etcd.empty_message {
                complaints.push(format!(
                    "{}: a good status has an empty grpc-message at etcd, never at ours",
                    call.name
                ));
            }
            etcd.empty_message = false;
            let as_sent = ours.messages.clone();
            call.mask(&mut etcd);
            call.mask(&mut ours);
            if call.path == calls::ALARM && ours.messages != as_sent {
                complaints.push(format!("{}: our alarms are not in order", call.name));
            }
            if (etcd == ours) == call.differs.is_some() {
                let what = if call.differs.is_some() {
                    "should differ and does not"
                } else {
                    ""
                };
                complaints.push(format!(
                    "{} {what}\n--- etcd\n{}--- ours\n{}",
                    call.name,
                    show(&etcd),
                    show(&ours)
                ));
            }
            if let Some(expected) = call.differs
                && !show(&ours).contains(expected)
            {
                complaints.push(format!(
                    "{}: ours lacks {expected:?}\n{}",
                    call.name,
                    show(&ours)
                ));
            }
            if let Some(expected) = call.expected
                && !show(&etcd).contains(expected)
            {
                complaints.push(format!(
                    "{}: etcd lacks {expected:?}\n{}",
                    call.name,
                    show(&etcd)
                ));
            }
        }
    });
    complaints
}

/// Calls that would end etcd.
fn run_alone(ours: &str) -> Vec<String> {
    runtime().block_on(async {
        let wire = Wire::connect(ours).await;
        let mut complaints = Vec::new();
        for call in calls::ours_alone() {
            let shown = show(&call.run(&wire).await);
            let expected = call.differs.expect("what ours shows");
            if !shown.contains(expected) {
                complaints.push(format!("{}: ours lacks {expected:?}\n{shown}", call.name));
            }
        }
        complaints
    })
}

fn show(answer: &Answer) -> String {
    let mut text = format!("HTTP {} {:?}\n", answer.http_status, answer.headers);
    for (flag, payload) in &answer.messages {
        text.push_str(&format!(
            "  {flag} {} bytes: {}\n",
            payload.len(),
            payload.escape_ascii()
        ));
    }
    text.push_str(&format!("  trailers {:?}\n", answer.trailers));
    text
}

/// The HTTP endpoints, their options and methods.
fn compare_http(etcd: &str, ours: &str) -> Vec<String> {
    let targets = [
        "/version",
        "/health",
        "/livez",
        "/readyz",
        "/health?serializable=true",
        "/health?exclude=NOSPACE",
        "/health?exclude=",
        "/livez?verbose",
        "/livez?verbose=true",
        "/livez?exclude=serializable_read",
        "/livez?exclude=nosuch",
        "/livez/serializable_read",
        "/livez/serializable_read?verbose",
        "/readyz?exclude=data_corruption",
        "/readyz?verbose&exclude=data_corruption&exclude=serializable_read&exclude=non_learner",
        "/readyz/data_corruption",
        "/readyz/serializable_read",
        "/readyz/linearizable_read",
        "/readyz/non_learner",
        "/readyz/non_learner?verbose",
        "/livez/nosuch",
        "/readyz/nosuch",
        "/nosuch",
        "/",
        "/healthz",
        "/health/",
    ];
    let mut requests: Vec<(&str, &str)> = targets.iter().map(|target| ("GET", *target)).collect();
    for method in ["POST", "PUT", "DELETE", "HEAD"] {
        for target in [
            "/version",
            "/health",
            "/livez",
            "/readyz",
            "/readyz/non_learner",
        ] {
            requests.push((method, target));
        }
    }
    let mut complaints = Vec::new();
    for (method, target) in requests {
        let (etcd, ours) = (http1(etcd, method, target), http1(ours, method, target));
        if etcd != ours {
            complaints.push(format!(
                "{method} {target}\n--- etcd\n{etcd}\n--- ours\n{ours}"
            ));
        }
    }
    // The checks of a verbose /readyz come in any order.
    let sorted = |endpoint: &str| {
        let text = http1(endpoint, "GET", "/readyz?verbose");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    if sorted(etcd) != sorted(ours) {
        complaints.push(format!(
            "/readyz?verbose\n{:?}\n{:?}",
            sorted(etcd),
            sorted(ours)
        ));
    }
    complaints
}

/// Every metric that etcd shows on its client port is there, of the same type. What speaks of Go
/// itself has no meaning here.
fn compare_metrics(etcd: &str, ours: &str) -> Vec<String> {
    let types = |endpoint: &str| -> BTreeMap<String, String> {
        http1(endpoint, "GET", "/metrics")
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter_map(|line| line.split_once(' '))
            .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
            .collect()
    };
    let (etcd, ours) = (types(etcd), types(ours));
    let of_go = |name: &String| name.starts_with("go_") || name.starts_with("promhttp_");
    assert!(etcd.keys().any(of_go), "etcd speaks of Go");
    assert!(!ours.keys().any(of_go), "there is no Go in ours");
    let missing: BTreeSet<String> = etcd
        .iter()
        .filter(|(name, _)| !of_go(name))
        .filter(|(name, kind)| ours.get(*name) != Some(*kind))
        .map(|(name, kind)| format!("{name} ({kind}; ours: {:?})", ours.get(name)))
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metrics:\n  {}",
        missing.into_iter().collect::<Vec<_>>().join("\n  ")
    )]
}
