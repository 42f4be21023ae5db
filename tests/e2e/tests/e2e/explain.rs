//! `quorate explain` on real members, ours and etcd's, and on what they leave.

use std::process::Command;
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use serde_json::Value;
use testkit::{Cluster, Kind, Spec, eventually, left_out, quorate};

use crate::load::runtime;

const MISSING: &str = "etcd or etcdctl is missing; run `make tools`";

/// On Linux, on every platform that we build for.
const SIGSTOP: i32 = 19;

fn run(arguments: &[&str]) -> String {
    let output = Command::new(quorate())
        .arg("explain")
        .args(arguments)
        .output()
        .expect("our program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn json(arguments: &[&str]) -> Value {
    let text = run(&[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The codes of all findings.
fn codes(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().expect("findings");
    findings
        .iter()
        .filter_map(|finding| finding["code"].as_str())
        .collect()
}

/// Until the findings are these: what a member sees of others takes a moment.
fn until(arguments: &[&str], expected: &[&str]) -> Value {
    eventually(&format!("{expected:?}"), Duration::from_secs(15), || {
        let report = json(arguments);
        if codes(&report) == expected {
            Ok(report)
        } else {
            Err(report["findings"].to_string())
        }
    })
}

fn step<'a>(report: &'a Value, step: &str, member: &Value) -> &'a Value {
    let steps = report["clusters"][0]["steps"].as_array().expect("steps");
    let found = steps
        .iter()
        .find(|found| found["step"] == step && found["member"] == *member);
    found.unwrap_or_else(|| panic!("no {step} of {member} in {steps:?}"))
}

fn checksums(dir: &str) -> Vec<u8> {
    let script =
        "cd \"$0\" && find . -type f | sort | xargs sha256sum && ls -laR --time-style=full-iso";
    let output = Command::new("sh").args(["-c", script, dir]).output();
    output.expect("a shell").stdout
}

/// From three healthy members, two of ours and an etcd, to one without a quorum.
#[test]
fn a_cluster_is_explained_from_health_to_the_loss_of_its_quorum() {
    let spec = Spec {
        kinds: vec![Kind::Quorate, Kind::Quorate, Kind::Etcd],
        flags: Vec::new(),
    };
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out("explain", MISSING);
    };
    // One endpoint is enough: the members name the others.
    let one = cluster.members[0].endpoint();
    let report = until(&["--endpoints", &one], &[]);
    let seen = &report["clusters"][0];
    assert_eq!(seen["may_be_lost"], 1);
    assert_eq!(seen["decides"], true);
    let programs: Vec<&Value> = seen["members"]
        .as_array()
        .expect("members")
        .iter()
        .map(|member| &member["answer"]["program"])
        .collect();
    assert_eq!(programs, ["quorate", "quorate", "etcd"]);
    assert_eq!(step(&report, "add_voter", &Value::Null)["answer"], "warn");
    let text = run(&["--endpoints", &one]);
    assert!(
        text.contains("3 voters, 3 healthy, 2 needed: 1 may still be lost")
            && text.ends_with("nothing looks wrong\n"),
        "{text}"
    );

    // An alarm; an endpoint at which nobody is; a learner that has not started.
    let id = |index: usize| {
        let member = &report["clusters"][0]["members"][index];
        u64::from_str_radix(member["id"].as_str().expect("an ID"), 16).expect("hexadecimal")
    };
    raise_no_space(&one, id(1));
    let etcdctl = cluster.members[0].etcdctl();
    // The leader asks for connections of five seconds, which nobody else can see.
    eventually("a learner added", Duration::from_secs(15), || {
        let url = "--peer-urls=http://127.0.0.1:1";
        let added = etcdctl.run(&["member", "add", "late", "--learner", url]);
        if added.status.success() {
            Ok(())
        } else {
            std::thread::sleep(Duration::from_millis(300));
            Err(String::from_utf8_lossy(&added.stderr).into_owned())
        }
    });
    let endpoints = format!("127.0.0.1:2,{one}");
    let report = until(
        &["--endpoints", &endpoints],
        &[
            "alarm_nospace",
            "member_not_started",
            "endpoint_unreachable",
        ],
    );
    let learner = report["findings"][1]["member"].clone();
    assert_eq!(step(&report, "promote", &learner)["answer"], "refuse");
    let learner = learner.as_str().expect("an ID").to_owned();
    etcdctl.ok(&["member", "remove", &learner]);
    etcdctl.ok(&["alarm", "disarm"]);

    // One that hangs holds nobody longer than its deadline; its disk is in use.
    let leader = cluster.leader();
    let (away, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.members[away].signal(SIGSTOP);
    let asked = cluster.members[leader].endpoint();
    let began = Instant::now();
    let report = json(&["--endpoints", &asked, "--timeout", "700"]);
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    assert!(codes(&report).contains(&"member_unreachable"), "{report}");
    let dir = cluster.members[away].data_dir.display().to_string();
    assert_eq!(json(&["--data-dir", &dir])["disks"][0]["state"], "in_use");

    // Dead: its disk is read and stays as it is.
    cluster.members[away].kill();
    let report = until(
        &["--endpoints", &asked],
        &["no_margin", "member_unreachable"],
    );
    let dead = report["findings"][1]["member"].clone();
    assert_eq!(step(&report, "remove", &dead)["answer"], "allow");
    assert_eq!(
        step(&report, "add_learner", &Value::Null)["answer"],
        "refuse"
    );
    let before = checksums(&dir);
    let disk = json(&["--data-dir", &dir]);
    assert_eq!(disk["disks"][0]["state"], "stopped");
    assert_eq!(disk["disks"][0]["member"], dead);
    assert_eq!(
        disk["disks"][0]["members"].as_array().map(Vec::len),
        Some(3)
    );
    assert_eq!(checksums(&dir), before, "a look changes nothing");

    // Without a quorum.
    cluster.members[leader].kill();
    let last = cluster.members[other].endpoint();
    let report = until(
        &["--endpoints", &last],
        &["no_quorum", "member_unreachable", "member_unreachable"],
    );
    assert_eq!(report["clusters"][0]["decides"], false);
    assert_eq!(
        report["clusters"][0]["memberships"][0]["members"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
}

/// What a removed member's disk means, by the others' word; and endpoints of two clusters.
#[test]
fn a_removed_members_disk_and_two_clusters_are_told() {
    let spec = Spec::of(Kind::Quorate, 1);
    let (Some(mut cluster), Some(other)) = (Cluster::start(&spec), Cluster::start(&spec)) else {
        return left_out("explain_removed", MISSING);
    };
    let etcdctl = cluster.members[0].etcdctl();
    let place = cluster.add_place(Kind::Quorate, &[]);
    let (name, url) = (
        place.name.clone(),
        format!("--peer-urls={}", place.peer_url),
    );
    let added = etcdctl.json(&["member", "add", &name, "--learner", &url]);
    let id = format!("{:x}", added["member"]["ID"].as_u64().expect("an ID"));
    cluster.members[1].start();
    cluster.members[1].terminate();
    etcdctl.ok(&["member", "remove", &id]);
    let dir = cluster.members[1].data_dir.display().to_string();
    let endpoint = cluster.members[0].endpoint();
    let report = json(&["--endpoints", &endpoint, "--data-dir", &dir]);
    assert_eq!(codes(&report), ["disk_of_removed_member"]);

    let both = format!("{endpoint},{}", other.members[0].endpoint());
    let report = json(&["--endpoints", &both]);
    assert_eq!(codes(&report), ["clusters_differ"]);
    assert_eq!(report["clusters"].as_array().map(Vec::len), Some(2));
    let report = json(&[
        "--endpoints",
        &other.members[0].endpoint(),
        "--data-dir",
        &dir,
    ]);
    assert_eq!(codes(&report), ["disk_of_another_cluster"]);
}

fn raise_no_space(endpoint: &str, member_id: u64) {
    runtime().block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{endpoint}"));
        let channel = endpoint.expect("an endpoint of ours").connect().await;
        let mut client = MaintenanceClient::new(channel.expect("it serves"));
        let alarm = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate as i32,
            member_id,
            alarm: pb::AlarmType::Nospace as i32,
        };
        client.alarm(alarm).await.expect("the alarm is raised");
    });
}
