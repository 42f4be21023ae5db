//! etcd's own `common` suite, run on our node.
//!
//! The suite starts members as processes and speaks to them through etcdctl. It finds its programs in one
//! folder, where ours has the name `etcd`, and also `etcd-last-release`: the suite's shapes of mixed versions
//! become clusters of three of ours.
//!
//! ```text
//! target/tools/etcd-common-test ── -bin-dir ─▶ etcd, etcd-last-release   our node
//!   -test.run one function                     etcdctl, etcdutl          etcd's
//!   -test.skip shapes of later.toml
//! ```
//!
//! Each function of the suite is a test here, or stands in `later.toml` with its reason; `nothing_is_forgotten`
//! compares. `make test` runs a short form of each function, its quickest shape; with
//! `QUORATE_COMMON=whole`, as `make more` sets it, all shapes run.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{left_out, quorate, tool};

/// The suite's program, as `make tools` calls it.
const SUITE: &str = "etcd-common-test";

/// One Go function may take this long before it is ended with a dump of its goroutines. The longest,
/// TestMemberAdd, sleeps for most of its two minutes.
const TIMEOUT: &str = "5m";

/// How deep the name of a shape may lie in the name of a test:
/// `TestMemberAdd/NotLearner/StrictReconfigCheck/WaitForQuorum/NoTLS` is the deepest.
const SHAPE_DEPTH_MAX: usize = 4;

/// Why a case of the suite may leave itself out. Any other reason is a failure.
const MAY_SKIP: [&str; 2] = [
    "Skipping test for single-member cluster",
    "options not supported by RangeStream",
];

/// How many entries `later.toml` may have; it goes down with every entry that leaves.
const LATER_MAX: usize = 68;

/// `name: function, the short form below it;`
macro_rules! suite {
    ($($name:ident: $function:literal, $short:literal;)*) => {
        /// The functions that run.
        const RUN: &[&str] = &[$($function),*];

        $(
            #[test]
            fn $name() {
                run($function, $short);
            }
        )*
    };
}

suite! {
    alarm: "TestAlarm", "";
    alarm_list_on_member_restart: "TestAlarmlistOnMemberRestart", "";
    compact: "TestCompact", "Physical";
    defragment_online: "TestDefragOnline", "";
    endpoint_hash_kv: "TestEndpointHashKV", "";
    endpoint_health: "TestEndpointHealth", "";
    endpoint_status: "TestEndpointStatus", "";
    hash_kv_after_compact: "TestVerifyHashKVAfterCompact",
        "Keys=\\[key0\\]/CompactedOnTombstone=true/MinorityLastVersion";
    hash_kv_after_compact_and_defragment: "TestVerifyHashKVAfterCompactAndDefrag", "NoTLS";
    hash_kv_after_compact_on_last_tombstone: "TestVerifyHashKVAfterCompactOnLastTombstone",
        "Keys=\\[key0_key1\\]/QuorumLastVersion";
    hash_kv_after_two_compacts_on_tombstone: "TestVerifyHashKVAfterTwoCompactsOnTombstone",
        "MinorityLastVersion";
    kv_delete: "TestKVDelete", "NoTLS";
    kv_get: "TestKVGet", "NoTLS";
    kv_get_no_quorum: "TestKVGetNoQuorum", "Serializable";
    kv_get_stream: "TestKVGetStream", "NoTLS";
    kv_put: "TestKVPut", "NoTLS";
    lease_grant_and_list: "TestLeaseGrantAndList", "NoTLS/many_leases";
    lease_keep_alive_once: "TestLeaseGrantKeepAliveOnce", "NoTLS";
    lease_revoke: "TestLeaseGrantRevoke", "NoTLS";
    lease_time_to_live: "TestLeaseGrantTimeToLive", "NoTLS";
    lease_time_to_live_expired: "TestLeaseGrantTimeToLiveExpired", "NoTLS";
    member_add: "TestMemberAdd", "Learner/StrictReconfigCheck/NoWaitForQuorum/NoTLS";
    member_list: "TestMemberList", "QuorumLastVersion";
    member_remove: "TestMemberRemove", "DisableStrictReconfigCheck/NoWaitForQuorum/MinorityLastVersion";
    status: "TestStatus", "MinorityLastVersion";
    txn_fail: "TestTxnFail", "NoTLS";
    txn_success: "TestTxnSucc", "NoTLS";
    wait_leader: "TestWaitLeader", "QuorumLastVersion";
    watch: "TestWatch", "NoTLS";
}

#[test]
fn nothing_is_forgotten() {
    let Some(suite) = tool(SUITE) else {
        return left_out("conformance::nothing_is_forgotten", MISSING);
    };
    let later = Later::read();
    assert!(
        later.tests.len() + later.shapes.len() <= LATER_MAX,
        "later.toml only gets shorter, from {LATER_MAX} entries"
    );
    let run: BTreeSet<String> = RUN.iter().map(|&name| name.to_owned()).collect();
    let both: Vec<_> = run.intersection(&later.tests).collect();
    assert!(both.is_empty(), "run, and in later.toml: {both:?}");

    let listed = Command::new(suite)
        .args(["-test.list", "^Test"])
        .output()
        .expect("the suite runs");
    let listed = String::from_utf8_lossy(&listed.stdout);
    let known: BTreeSet<String> = listed
        .lines()
        .filter(|line| line.starts_with("Test"))
        .map(str::to_owned)
        .collect();
    let ours: BTreeSet<String> = run.union(&later.tests).cloned().collect();
    let forgotten: Vec<_> = known.difference(&ours).collect();
    let gone: Vec<_> = ours.difference(&known).collect();
    assert!(
        forgotten.is_empty(),
        "neither run nor in later.toml: {forgotten:?}"
    );
    assert!(gone.is_empty(), "not in the suite: {gone:?}");
}

const MISSING: &str = "the suite is not built; run `make tools`";

/// Runs one function of the suite, in the form that was asked for, and fails with what the suite said.
fn run(function: &str, short: &str) {
    let (Some(suite), Some(etcdctl), Some(etcdutl)) =
        (tool(SUITE), tool("etcdctl"), tool("etcdutl"))
    else {
        return left_out(&format!("conformance::{function}"), MISSING);
    };
    let _ports = take_ports();
    let folder = tempfile::tempdir().expect("the temporary folder takes files");
    let node = fs::canonicalize(quorate()).expect("our program was found");
    for (name, program) in [
        ("etcd", &node),
        ("etcd-last-release", &node),
        ("etcdctl", &etcdctl),
        ("etcdutl", &etcdutl),
    ] {
        symlink(program, folder.path().join(name)).expect("the temporary folder takes links");
    }
    let whole = std::env::var("QUORATE_COMMON").is_ok_and(|value| value == "whole");
    let output = Command::new(suite)
        .current_dir(folder.path())
        .args(["-test.v", "-test.timeout", TIMEOUT])
        .args([
            "-test.run",
            &pattern(function, if whole { "" } else { short }),
        ])
        .args(["-test.skip", &Later::read().skip()])
        .arg("-bin-dir")
        .arg(folder.path())
        .output()
        .expect("the suite runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let verdicts = Verdicts::read(&said);
    if whole {
        publish(&format!(
            "common: {function}: {} cases passed, {} left themselves out\n",
            verdicts.passed.len(),
            verdicts.skipped
        ));
    }
    let good = output.status.success()
        && !verdicts.passed.is_empty()
        && verdicts.skipped == verdicts.skipped_with_reason;
    if !good {
        let log = write_log(function, &said);
        panic!(
            "{function} ended with {}, {} cases passed, {} of {} that left themselves out had a known reason\n\
             {}\nall that it said: {}",
            output.status,
            verdicts.passed.len(),
            verdicts.skipped_with_reason,
            verdicts.skipped,
            extract(&said),
            log.display()
        );
    }
}

/// The suite's ports begin at 20000 and are fixed: one function at a time, also when two runs of
/// these tests meet on a machine. They are free again when the file is closed.
fn take_ports() -> File {
    let file = std::env::temp_dir().join("quorate-common-ports.lock");
    let file = File::create(&file)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", file.display()));
    file.lock().expect("the temporary folder knows locks");
    file
}

/// Figures go to the file that `QUORATE_FIGURES` names, which `make more` prints.
fn publish(line: &str) {
    if let Some(path) = std::env::var_os("QUORATE_FIGURES") {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the file that QUORATE_FIGURES names can be written");
    }
}

/// `TestCompact` and `Physical` give `^TestCompact$/^Physical$`.
fn pattern(function: &str, short: &str) -> String {
    let whole = |part: &str| format!("^{part}$");
    let mut parts = vec![whole(function)];
    parts.extend(short.split('/').filter(|part| !part.is_empty()).map(whole));
    parts.join("/")
}

/// What the suite's lines say. A case is a test without tests of its own below it.
#[derive(Debug, Default)]
struct Verdicts {
    passed: Vec<String>,
    skipped: usize,
    skipped_with_reason: usize,
}

impl Verdicts {
    fn read(said: &str) -> Verdicts {
        let named = |verdict: &str| -> Vec<String> {
            said.lines()
                .filter_map(|line| line.trim_start().strip_prefix(verdict))
                .map(|rest| {
                    rest.rsplit_once(" (")
                        .map_or(rest, |(name, _)| name)
                        .to_owned()
                })
                .collect()
        };
        let all = named("--- PASS: ");
        let skipped = named("--- SKIP: ");
        let is_case = |name: &String| {
            let below = format!("{name}/");
            all.iter()
                .chain(&skipped)
                .all(|other| !other.starts_with(&below))
        };
        Verdicts {
            passed: all.iter().filter(|name| is_case(name)).cloned().collect(),
            skipped: skipped.len(),
            skipped_with_reason: said
                .lines()
                .filter(|line| MAY_SKIP.iter().any(|reason| line.ends_with(reason)))
                .count(),
        }
    }
}

/// The lines with which a Go test complains. The members' logs between them are long.
fn extract(said: &str) -> String {
    const LINES_MAX: usize = 100;
    let complaint = |line: &&str| {
        let line = line.trim_start();
        ["--- FAIL", "Error", "panic:"]
            .iter()
            .any(|word| line.starts_with(word))
            || line.contains("_test.go:")
            || line.contains("cluster.go:")
    };
    said.lines()
        .filter(complaint)
        .take(LINES_MAX)
        .collect::<Vec<_>>()
        .join("\n")
}

fn write_log(function: &str, said: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("common-{function}.log"));
    fs::write(&file, said).expect("the target folder takes files");
    file
}

/// `later.toml`: what does not run yet.
#[derive(Debug, Default, PartialEq)]
struct Later {
    /// Functions.
    tests: BTreeSet<String>,
    /// Shapes of clusters, wherever they stand in the name of a test.
    shapes: BTreeSet<String>,
}

impl Later {
    fn read() -> Later {
        Later::parse(include_str!("../later.toml")).expect("later.toml is written as it says")
    }

    /// The little of TOML that the file uses: `[[test]]` or `[[shape]]`, then `name` and `reason`.
    fn parse(text: &str) -> Result<Later, String> {
        let mut later = Later::default();
        for entry in text.split("\n[[").skip(1) {
            let (kind, rest) = entry
                .split_once("]]")
                .ok_or(format!("no end of a header: {entry}"))?;
            let value = |key: &str| -> Result<String, String> {
                rest.lines()
                    .find_map(|line| {
                        line.strip_prefix(key)?
                            .strip_prefix(" = \"")?
                            .strip_suffix('"')
                    })
                    .filter(|value| !value.is_empty())
                    .map(str::to_owned)
                    .ok_or(format!("an entry without {key}: [[{entry}"))
            };
            value("reason")?;
            let new = match kind {
                "test" => later.tests.insert(value("name")?),
                "shape" => later.shapes.insert(value("name")?),
                _ => return Err(format!("[[{kind}]] is neither [[test]] nor [[shape]]")),
            };
            if !new {
                return Err(format!("twice in the file: {}", value("name")?));
            }
        }
        Ok(later)
    }

    /// The shapes as a pattern for `-test.skip`: at every depth, in the form in which Go prints names.
    fn skip(&self) -> String {
        let shapes: Vec<String> = self
            .shapes
            .iter()
            .map(|shape| shape.replace(' ', "_"))
            .collect();
        let shapes = format!("^({})$", shapes.join("|"));
        let depths: Vec<String> = (1..=SHAPE_DEPTH_MAX)
            .map(|depth| "/".repeat(depth) + &shapes)
            .collect();
        depths.join("|")
    }
}

#[test]
fn patterns_are_those_of_go() {
    assert_eq!(pattern("TestAlarm", ""), "^TestAlarm$");
    assert_eq!(pattern("TestA", "b/c d"), "^TestA$/^b$/^c d$");
    let later = Later::parse("# why\n\n[[shape]]\nname = \"A and B\"\nreason = \"TLS\"\n")
        .expect("a good file");
    assert!(
        later.skip().starts_with("/^(A_and_B)$|//^(A_and_B)$|"),
        "{}",
        later.skip()
    );
}

#[test]
fn later_needs_a_reason() {
    assert!(Later::parse("\n[[test]]\nname = \"TestA\"\n").is_err());
    assert!(Later::parse("\n[[test]]\nname = \"TestA\"\nreason = \"\"\n").is_err());
    assert!(Later::parse("\n[[tset]]\nname = \"TestA\"\nreason = \"x\"\n").is_err());
    let good = "\n[[test]]\nname = \"TestA\"\nreason = \"x\"\n";
    assert!(Later::parse(good).is_ok());
    assert!(Later::parse(&format!("{good}{good}")).is_err());
}

#[test]
fn verdicts_count_cases() {
    let said = "=== RUN   TestA\n    a_test.go:1: Skipping test for single-member cluster\n\
                --- PASS: TestA (1.00s)\n    --- SKIP: TestA/one (0.00s)\n    --- PASS: TestA/two (1.00s)\n";
    let verdicts = Verdicts::read(said);
    assert_eq!(verdicts.passed, ["TestA/two"]);
    assert_eq!((verdicts.skipped, verdicts.skipped_with_reason), (1, 1));
    // A function that only skipped has no case that passed.
    let said = "--- PASS: TestA (1.00s)\n    --- SKIP: TestA/one (0.00s)\n";
    assert!(Verdicts::read(said).passed.is_empty());
}
