//! Every etcdctl command that the API covers, against etcd and against ours in the same run:
//! standard output, standard error and exit code must be the same.
//!
//! The table is `etcdctl/cases.txt`; its head says how a line is written. Both clusters have three
//! members, are made once, and go through the table from top to bottom, so that a line finds the
//! state that the lines above it left. What must differ between any two clusters (IDs, ports,
//! times, sizes) is masked by `mask.rs`.

mod cases;
mod mask;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use testkit::{Cluster, Etcdctl, Kind, Spec, eventually, left_out, tool};

use self::cases::{Case, Expected};
use self::mask::Mask;

/// Every etcdctl call ends within this time; it has time-outs of its own, 5 s by default.
const CALL: Duration = Duration::from_secs(30);

/// A watch that has printed what the table expects may print nothing more within this time.
const QUIET: Duration = Duration::from_millis(60);

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/etcdctl/cases.txt");

/// Members at the start; the table adds one more and removes it.
const MEMBERS: usize = 3;

/// What one call left behind, masked. With `QUORATE_ETCDCTL_SEEN=file` all of it goes there.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// `None`: a watch that the test ended
    code: Option<i32>,
    stdout: String,
    stderr: String,
    took: Took,
}

/// How long a call took; it counts for nobody but the reader of a failed or slow run.
#[derive(Debug, Default)]
struct Took(#[expect(dead_code, reason = "Debug shows it")] Duration);

impl PartialEq for Took {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Took {}

#[test]
fn etcdctl_prints_the_same_for_etcd_and_for_ours() {
    let table = cases::parse(&std::fs::read_to_string(TABLE).expect("the table"));
    let (etcd, ours) = std::thread::scope(|scope| {
        let etcd = scope.spawn(|| run_table(Kind::Etcd, &table));
        let ours = scope.spawn(|| run_table(Kind::Quorate, &table));
        (
            etcd.join().expect("the etcd side"),
            ours.join().expect("our side"),
        )
    });
    let (Some(etcd), Some(ours)) = (etcd, ours) else {
        return left_out(
            "etcdctl_table",
            "etcd or etcdctl is missing; run `make tools`",
        );
    };

    if let Some(path) = std::env::var_os("QUORATE_ETCDCTL_SEEN") {
        let seen: Vec<String> = table
            .iter()
            .zip(etcd.iter().zip(&ours))
            .map(|(case, (etcd, ours))| {
                format!("{}: {}\n{etcd:#?}\n{ours:#?}", case.line, case.text)
            })
            .collect();
        std::fs::write(path, seen.join("\n")).expect("the file that QUORATE_ETCDCTL_SEEN names");
    }
    let mut complaints = Vec::new();
    for (case, (etcd, ours)) in table.iter().zip(etcd.iter().zip(&ours)) {
        if !case.expected.fits(etcd.code) {
            complaints.push(format!(
                "line {}: {}\n  the table expects {:?} of etcd, which gave {etcd:#?}",
                case.line, case.text, case.expected
            ));
        } else if (etcd == ours) == case.differs {
            complaints.push(format!(
                "line {}: {}\n{}--- etcd {:?}\n{}{}\n--- ours {:?}\n{}{}",
                case.line,
                case.text,
                if case.differs {
                    "  should differ and does not\n"
                } else {
                    ""
                },
                etcd.code,
                etcd.stdout,
                etcd.stderr,
                ours.code,
                ours.stdout,
                ours.stderr
            ));
        }
    }
    assert!(
        complaints.is_empty(),
        "{} of {} calls differ:\n\n{}",
        complaints.len(),
        table.len(),
        complaints.join("\n\n")
    );
    assert_table_is_whole(&table);
}

/// The table keeps its promise: 120 cases, and each command with a success and an error.
fn assert_table_is_whole(table: &[Case]) {
    assert!(table.len() >= 120, "only {} cases", table.len());
    let commands = [
        "put",
        "get",
        "del",
        "txn",
        "compaction",
        "alarm list",
        "alarm disarm",
        "defrag",
        "endpoint health",
        "endpoint status",
        "endpoint hashkv",
        "watch",
        "lease grant",
        "lease revoke",
        "lease timetolive",
        "lease list",
        "lease keep-alive",
        "member list",
        "member add",
        "member promote",
        "member remove",
        "member update",
        "snapshot save",
        "move-leader",
        "downgrade validate",
        "downgrade enable",
        "downgrade cancel",
    ];
    for command in commands {
        for expected in [Expected::Ok, Expected::Error] {
            let there = table.iter().any(|case| {
                case.arguments.join(" ").contains(command)
                    && (case.expected == expected
                        || expected == Expected::Ok && matches!(case.expected, Expected::Lines(_)))
            });
            assert!(there, "no case has {expected:?} for {command}");
        }
    }
}

/// One program's way through the table; `None`: a program is missing.
fn run_table(kind: Kind, table: &[Case]) -> Option<Vec<Seen>> {
    let mut cluster = Cluster::start(&Spec::of(kind, MEMBERS))?;
    // The place of a learner, for later.
    cluster.add_place(kind, &[]);
    let mut mask = Mask::new(&cluster);
    lead_with_the_first(&cluster);
    wait_for_cluster_version(&cluster);
    Some(
        table
            .iter()
            .map(|case| run_case(&mut cluster, case, &mut mask))
            .collect(),
    )
}

fn of_all(cluster: &Cluster) -> Etcdctl {
    Etcdctl::new(&cluster.endpoints()[..MEMBERS]).expect("looked for when the cluster was made")
}

/// The table counts on the first member being the leader.
fn lead_with_the_first(cluster: &Cluster) {
    let leader = cluster.leader();
    if leader != 0 {
        let first = cluster.members[0].etcdctl().json(&["endpoint", "status"])[0]["Status"]["header"]
            ["member_id"]
            .as_u64()
            .expect("a member's ID");
        cluster.members[leader]
            .etcdctl()
            .ok(&["move-leader", &format!("{first:x}")]);
    }
    eventually("the first member's lead", Duration::from_secs(20), || {
        let statuses = of_all(cluster).json(&["endpoint", "status"]);
        let statuses = statuses.as_array().cloned().unwrap_or_default();
        let first = &statuses[0]["Status"]["header"]["member_id"];
        let agreed = statuses
            .iter()
            .all(|status| &status["Status"]["leader"] == first);
        if agreed {
            Ok(())
        } else {
            Err(format!("{statuses:?}"))
        }
    });
}

/// Status shows the cluster's and the storage's version; both come a while after the start.
fn wait_for_cluster_version(cluster: &Cluster) {
    eventually("the cluster's version", Duration::from_secs(30), || {
        let statuses = of_all(cluster).json(&["endpoint", "status"]);
        let statuses = statuses.as_array().cloned().unwrap_or_default();
        let known = statuses
            .iter()
            .all(|status| status["Status"]["storageVersion"] == "3.7.0");
        if known {
            Ok(())
        } else {
            Err(format!("{statuses:?}"))
        }
    });
}

fn run_case(cluster: &mut Cluster, case: &Case, mask: &mut Mask) -> Seen {
    if let [start, index] = case.arguments.as_slice()
        && start == "start"
    {
        let member = &mut cluster.members[index.parse::<usize>().expect("a member's index")];
        member.start();
        let etcdctl = member.etcdctl();
        eventually(
            "the learner's storage version",
            Duration::from_secs(20),
            || {
                let statuses = etcdctl.json(&["endpoint", "status"]);
                let version = &statuses[0]["Status"]["storageVersion"];
                if version == "3.7.0" {
                    Ok(())
                } else {
                    Err(statuses.to_string())
                }
            },
        );
        return Seen {
            code: Some(0),
            stdout: String::new(),
            stderr: String::new(),
            took: Took::default(),
        };
    }
    let endpoints = cluster.endpoints();
    let endpoints = match &case.endpoints {
        Some(chosen) => chosen
            .iter()
            .map(|index| endpoints[*index].clone())
            .collect(),
        None => endpoints[..MEMBERS].to_vec(),
    };
    let arguments: Vec<String> = case
        .arguments
        .iter()
        .map(|argument| mask.fill_in(argument))
        .collect();
    let mut command = Command::new(tool("etcdctl").expect("looked for when the cluster was made"));
    // etcdctl refuses a flag that its environment gives as well.
    if !arguments
        .iter()
        .any(|argument| argument.starts_with("--endpoints"))
    {
        command.env("ETCDCTL_ENDPOINTS", endpoints.join(","));
    }
    let mut child = command
        .args(&arguments)
        .stdin(if case.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("etcdctl runs");
    // A watch reads its commands as long as its input is open.
    let stdin = child.stdin.take().map(|mut stdin| {
        let input = mask.fill_in(case.input.as_deref().unwrap_or_default());
        // It may have ended already, with an error of its own.
        let _ = stdin.write_all(input.as_bytes());
        stdin
    });
    let (lines, stdin) = match case.expected {
        Expected::Lines(lines) => (Some(lines), stdin),
        Expected::Ok | Expected::Error => {
            drop(stdin);
            (None, None)
        }
    };
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let began = Instant::now();
    let deadline = began + CALL;
    let mut enough_since = None;
    let status = loop {
        let ended = child.try_wait().expect("our child can be waited for");
        while let Ok(bytes) = stdout.try_recv() {
            out.extend(bytes);
            enough_since = None;
        }
        if ended.is_some() {
            break ended;
        }
        if lines.is_some_and(|lines| out.iter().filter(|byte| **byte == b'\n').count() >= lines) {
            let since: Instant = *enough_since.get_or_insert_with(Instant::now);
            if since.elapsed() > QUIET {
                child.kill().expect("our child can be killed");
                child.wait().expect("our child can be waited for");
                break None;
            }
        }
        if Instant::now() > deadline {
            child.kill().expect("our child can be killed");
            child.wait().expect("our child can be waited for");
            out.extend(b"\n(ended by the test's deadline)\n");
            break None;
        }
        std::thread::sleep(Duration::from_millis(4));
    };
    drop(stdin);
    out.extend(stdout.iter().flatten());
    err.extend(stderr.iter().flatten());
    let out = String::from_utf8_lossy(&out).into_owned();
    let err = String::from_utf8_lossy(&err).into_owned();
    mask.learn(case, &out);
    Seen {
        code: status.and_then(|status| status.code()),
        stdout: mask.text(case, &out),
        stderr: mask.text(case, &err),
        took: Took(began.elapsed()),
    }
}

/// What comes out of a pipe, as it comes.
fn collect(mut pipe: impl std::io::Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(read) = pipe.read(&mut buffer) {
            if read == 0 || sender.send(buffer[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// etcd's first line is etcd's, so that scripts find the version they look for; the rest is each program's own.
#[test]
fn the_version_begins_as_etcds_and_names_ours() {
    let Some(etcd) = testkit::tool("etcd") else {
        return testkit::left_out("version", "etcd was not built; `make tools` builds it");
    };
    let lines = |program: &std::path::Path| -> Vec<String> {
        let output = std::process::Command::new(program)
            .arg("--version")
            .output()
            .expect("it starts");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(str::to_owned).collect()
    };
    let (etcd, ours) = (lines(&etcd), lines(&testkit::quorate()));
    assert_eq!(etcd[0], ours[0]);
    assert_eq!(ours.len(), 3, "{ours:?}");
    assert!(ours[1].starts_with("Quorate Version: "), "{ours:?}");
    assert!(ours[2].starts_with("Git SHA: "), "{ours:?}");
    assert!(!etcd.iter().any(|line| line.contains("Quorate")));
}
