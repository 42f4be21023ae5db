//! One run: members, control plane, objects, failover, and what the API server says of it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kubetest::process;
use serde_json::Value;
use testkit::{Cluster, Kind, Spec, eventually};

use crate::control::{self, Cache, Control, until};
use crate::figures::{self, Figures};
use crate::klog;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    objects: u32,
    /// Writes that must be acknowledged before the leader is killed, without it, and after its return.
    writes: u64,
}

impl Size {
    /// For `make test`: more than two pages.
    pub const SLICE: Self = Self {
        objects: 1_200,
        writes: 800,
    };
    /// What the issue of the store asks for.
    pub const WHOLE: Self = Self {
        objects: 5_000,
        writes: 4_000,
    };
}

/// Where the Deployment and the objects are; what is written over the failover stands alone.
const OBJECTS: &str = "objects";
const WRITES: &str = "writes";
const REPLICAS: &str = "3";

/// How long the failover may be heard. What waits for a lost leader ends with an error after etcd's time for
/// a request, five seconds and twice the election timeout; the API server may try it once more.
const ECHO: Duration = Duration::from_secs(10);

/// One run on three members of a kind.
pub fn run(kind: Kind, cache: Cache, size: Size) -> Figures {
    let mut cluster = Cluster::start(&Spec::of(kind, 3)).expect("the tools were looked for");
    let mut control = Control::start(&cluster, cache);
    deploy(&control);
    let objects = load_objects(&control, size);
    let (resident_kib, anonymous_kib): (Vec<u64>, Vec<u64>) = cluster
        .members
        .iter()
        .filter_map(testkit::Member::pid)
        .map(process::memory)
        .unzip();
    let cpu_s = cluster
        .members
        .iter()
        .filter_map(testkit::Member::pid)
        .map(process::cpu)
        .sum();
    let failover = fail_over(&mut cluster, &control, size);
    control.assert_running();
    let metrics = control.metrics();
    assert_streams(&metrics, &control.api_log(), cache);
    assert_compacted(&cluster, &control.api_log());
    let complaints = assert_quiet(&cluster, &control.api_log(), &failover);
    drop(control);
    assert_same_everywhere(&cluster);
    Figures {
        resident_kib,
        anonymous_kib,
        cpu_s,
        objects,
        writes: failover.result,
        store_calls: figures::store_calls(&metrics),
        complaints,
    }
}

/// A Deployment becomes Pods; no scheduler runs, so they wait for a node.
fn deploy(control: &Control) {
    let ok = |words: &[&str]| {
        control
            .kubectl(words)
            .unwrap_or_else(|error| panic!("{error}"))
    };
    ok(&["create", "namespace", OBJECTS]);
    ok(&["create", "namespace", WRITES]);
    let replicas = format!("--replicas={REPLICAS}");
    ok(&[
        "-n",
        OBJECTS,
        "create",
        "deployment",
        "web",
        "--image=web.invalid/web",
        &replicas,
    ]);
    let of = |path: &'static str| ["-n", OBJECTS, "get", "deployment", "web", "-o", path];
    until(
        control,
        &of("jsonpath={.status.unavailableReplicas}"),
        REPLICAS,
    );
    let phases = [
        "-n",
        OBJECTS,
        "get",
        "pods",
        "-l",
        "app=web",
        "-o",
        "jsonpath={.items[*].status.phase}",
    ];
    until(control, &phases, "Pending Pending Pending");
}

fn load(control: &Control, word: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(control::program("kubeload"));
    command
        .arg(word)
        .arg(&control.kubeconfig)
        .arg(format!("--namespace={word}"))
        .args(flags);
    command
}

fn load_objects(control: &Control, size: Size) -> Value {
    let count = format!("--objects={}", size.objects);
    let said = control::run(&mut load(
        control,
        OBJECTS,
        &[&count, "--bytes=1024", "--expire"],
    ));
    serde_json::from_str(&said).expect("kubeload prints JSON")
}

/// The way over the loss of a leader.
struct Failover {
    result: Value,
    killed_at_ms: u64,
    /// `127.0.0.1:port` of the member that was killed
    lost: String,
}

/// Kills the leader in the middle of writes, brings it back, and has kubeload look for every acknowledged one.
fn fail_over(cluster: &mut Cluster, control: &Control, size: Size) -> Failover {
    let mut writer = load(control, WRITES, &["--bytes=1024"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubeload can be started");
    let mut said = BufReader::new(writer.stdout.take().expect("asked for as a pipe"));
    let mut reach = |goal: u64| loop {
        let mut line = String::new();
        let bytes = said.read_line(&mut line).expect("a pipe of our own");
        assert!(
            bytes > 0,
            "kubeload ended before {goal} writes were acknowledged: {}",
            rest(&mut writer)
        );
        let count = line
            .trim()
            .strip_prefix("acknowledged ")
            .and_then(|number| number.parse::<u64>().ok());
        if let Some(count) = count.filter(|count| *count >= goal) {
            return count;
        }
    };
    let before = reach(size.writes);
    let leader = cluster.leader();
    let killed_at_ms = now_ms();
    cluster.members[leader].kill();
    let without = reach(before + size.writes);
    cluster.members[leader].start();
    reach(without + size.writes);
    drop(writer.stdin.take());
    let mut last = String::new();
    said.read_to_string(&mut last).expect("a pipe of our own");
    let complaint = rest(&mut writer);
    let status = writer.wait().expect("our own child can be waited for");
    assert!(status.success(), "kubeload writes: {complaint}");
    let line = last.lines().last().unwrap_or_default();
    let result = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
    Failover {
        result,
        killed_at_ms,
        lost: cluster.members[leader].endpoint(),
    }
}

fn rest(child: &mut std::process::Child) -> String {
    let mut text = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut text);
    }
    text
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970");
    u64::try_from(since.as_millis()).expect("and not yet the end of time")
}

/// The API server reads lists as streams, and never had to do without; its cache is as fresh as the store
/// says, which it asks for by progress requests.
fn assert_streams(metrics: &str, log: &str, cache: Cache) {
    let streamed = figures::total(
        metrics,
        "etcd_requests_total",
        &[("operation", "listStream")],
    );
    assert!(streamed > 0.0, "no list came as a stream");
    assert!(
        !log.contains("does not support RangeStream"),
        "it fell back to lists in pages"
    );
    assert!(
        !log.contains("RequestWatchProgress feature is not supported"),
        "no watch progress"
    );
    if cache == Cache::Default {
        let reads = |fallback: &str, success: &str| {
            let labels = [("fallback", fallback), ("success", success)];
            figures::total(
                metrics,
                "apiserver_watch_cache_consistent_read_total",
                &labels,
            )
        };
        let (fresh, fallen, failed) = (
            reads("false", "true"),
            reads("true", "true"),
            reads("true", "false"),
        );
        assert!(
            fresh > 0.0,
            "no read was served from the cache at the store's revision"
        );
        // Only in the failover may the store be unable to say how far it is.
        assert!(
            fallen + failed <= fresh / 10.0,
            "{fallen} of {fresh} consistent reads went past the cache, and {failed} failed"
        );
    }
}

/// The API server compacts, and the store has done it.
fn assert_compacted(cluster: &Cluster, log: &str) {
    assert!(
        log.contains("etcd: compacted rev"),
        "the API server has not compacted"
    );
    let output = cluster.etcdctl().run(&["get", "/registry/none", "--rev=1"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("required revision has been compacted"),
        "revision 1 is still served: {said}"
    );
}

/// No complaint about the store but around the failover; their number.
fn assert_quiet(cluster: &Cluster, log: &str, failover: &Failover) -> usize {
    let until = failover.killed_at_ms + ECHO.as_millis() as u64;
    let complaints = klog::storage_complaints(log);
    let foreign: Vec<&str> = complaints
        .iter()
        .filter(|one| !klog::between(one.second, failover.killed_at_ms, until))
        // While a member is down, its address cannot be dialled; that is no error of the storage.
        .filter(|one| {
            !(one.line.contains(&failover.lost) && one.line.contains("connection refused"))
        })
        .map(|one| one.line)
        .collect();
    assert!(
        foreign.is_empty(),
        "{} complaints about the store ({} members) outside of the failover:\n{}",
        foreign.len(),
        cluster.members.len(),
        foreign.join("\n")
    );
    complaints.len()
}

/// All members hold the same, the one that was killed too.
fn assert_same_everywhere(cluster: &Cluster) {
    eventually(
        "the same hash on all members",
        Duration::from_secs(20),
        || {
            let hashes = cluster.etcdctl().json(&["endpoint", "hashkv"]);
            let hashes: Vec<String> = hashes
                .as_array()
                .expect("one a member")
                .iter()
                .map(|one| {
                    let one = &one["HashKV"];
                    format!(
                        "{} {} {}",
                        one["hash"], one["compact_revision"], one["header"]["revision"]
                    )
                })
                .collect();
            if hashes.iter().all(|hash| *hash == hashes[0]) {
                Ok(())
            } else {
                Err(hashes.join(", "))
            }
        },
    );
}
