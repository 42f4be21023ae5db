//! Situations, each with the text that a person gets: `testdata/<situation>.txt`, and the JSON for one.
//!
//! `QUORATE_BLESS=1 cargo test -p explain` writes them anew; read the difference as you would code.

use std::collections::BTreeMap;
use std::path::Path;

use crate::report::report;
use crate::seen::{Alarm, Answer, Asked, Disk, Found, Listed, Observed, Program, Stopped};
use crate::{json, text};

const A: u64 = 0x8211_f1d0_f64f_3269;
const B: u64 = 0x91bc_3c39_8fb3_c146;
const C: u64 = 0xfd42_2379_fda5_0e48;
const L: u64 = 0x1ea;
const CLUSTER: u64 = 0x79cb_5b56_a7ab_81a1;

fn listed(id: u64) -> Listed {
    let number = match id {
        A => 1,
        B => 2,
        C => 3,
        _ => 4,
    };
    Listed {
        id,
        name: format!("m{number}"),
        peer_urls: vec![format!("http://10.0.0.{number}:2380")],
        client_urls: vec![format!("http://10.0.0.{number}:2379")],
        is_learner: id == L,
    }
}

/// A healthy member's answer in a cluster of these, led by the first of them.
fn answer(id: u64, members: &[u64]) -> Answer {
    Answer {
        cluster: CLUSTER,
        member: id,
        leader: members[0],
        term: 3,
        committed: 12_000,
        applied: 12_000,
        revision: 11_990,
        is_learner: id == L,
        version: "3.7.3".to_owned(),
        program: Program::Quorate,
        database_bytes: 20_480_000,
        database_used_bytes: 18_000_000,
        quota_bytes: 2 << 30,
        alarms: Vec::new(),
        members: members.iter().map(|id| listed(*id)).collect(),
        connected: Some(
            members
                .iter()
                .filter(|other| **other != id)
                .map(|other| (*other, true))
                .collect(),
        ),
    }
}

fn asked(answer: Answer) -> Asked {
    let endpoint = listed(answer.member).client_urls[0].replace("http://", "");
    Asked {
        endpoint,
        answer: Ok(answer),
    }
}

fn dead(id: u64) -> Asked {
    let endpoint = listed(id).client_urls[0].replace("http://", "");
    let answer = Err("Connection refused (os error 111)".to_owned());
    Asked { endpoint, answer }
}

/// All of these, healthy.
fn healthy(members: &[u64]) -> Vec<Asked> {
    members
        .iter()
        .map(|id| asked(answer(*id, members)))
        .collect()
}

/// Changes the answer of one member.
fn change(endpoints: &mut [Asked], id: u64, change: impl Fn(&mut Answer)) {
    for asked in endpoints {
        if let Ok(answer) = &mut asked.answer
            && answer.member == id
        {
            change(answer);
        }
    }
}

/// These do not answer, and the leader says that they are not connected.
fn kill(endpoints: &mut [Asked], ids: &[u64]) {
    for asked in endpoints {
        let Ok(answer) = &mut asked.answer else {
            continue;
        };
        if ids.contains(&answer.member) {
            *asked = dead(answer.member);
        } else if let Some(connected) = &mut answer.connected {
            connected.extend(ids.iter().map(|id| (*id, false)));
        }
    }
}

fn stopped(member: u64) -> Stopped {
    Stopped {
        cluster: CLUSTER,
        member,
        term: 3,
        last_index: 11_500,
        last_term: 3,
        committed: 11_498,
        applied: 11_400,
        revision: 11_390,
        database_bytes: 20_000_000,
        cluster_version: "3.7.0".to_owned(),
        alarms: Vec::new(),
        members: [A, B, C].map(listed).into(),
        removed: Vec::new(),
    }
}

fn disk(found: Found) -> Disk {
    Disk {
        path: "/var/lib/m3".to_owned(),
        found,
    }
}

fn observed(endpoints: Vec<Asked>) -> Observed {
    Observed {
        endpoints,
        disks: Vec::new(),
    }
}

/// Compares with the file, or writes it.
fn expect(situation: &str, observed: &Observed) {
    compare(
        &format!("{situation}.txt"),
        &text::render(&report(observed)),
    );
}

fn compare(file: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(file);
    if std::env::var_os("QUORATE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("our own folder");
        std::fs::write(&path, found).expect("our own file");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == found,
        "{} differs; found:\n{found}",
        path.display()
    );
}

fn codes(observed: &Observed) -> Vec<&'static str> {
    let report = report(observed);
    report.findings.iter().map(|found| found.code).collect()
}

#[test]
fn three_healthy_members() {
    let observed = observed(healthy(&[A, B, C]));
    expect("healthy", &observed);
    assert!(codes(&observed).is_empty());
    compare("healthy.json", &json::render(&report(&observed)));
}

#[test]
fn one_of_three_is_down() {
    let mut endpoints = healthy(&[A, B, C]);
    kill(&mut endpoints, &[C]);
    let observed = observed(endpoints);
    expect("one_down", &observed);
    compare("one_down.json", &json::render(&report(&observed)));
}

/// Nobody leads: the last one has forgotten who did.
#[test]
fn two_of_three_are_down() {
    let mut endpoints = healthy(&[A, B, C]);
    kill(&mut endpoints, &[A, B]);
    change(&mut endpoints, C, |answer| answer.leader = 0);
    let observed = observed(endpoints);
    expect("two_down", &observed);
    assert_eq!(codes(&observed)[0], "no_quorum");
}

#[test]
fn a_learner_is_far_behind() {
    let mut endpoints = healthy(&[A, B, C, L]);
    change(&mut endpoints, L, |answer| {
        (answer.applied, answer.committed) = (4_000, 4_000);
    });
    let observed = observed(endpoints);
    expect("learner_behind", &observed);
    assert_eq!(codes(&observed), ["learner_behind"]);
}

#[test]
fn a_learner_is_ready_and_another_member_has_not_started() {
    let mut endpoints = healthy(&[A, B, L]);
    for id in [A, B, L] {
        change(&mut endpoints, id, |answer| {
            answer.members.push(Listed {
                name: String::new(),
                client_urls: Vec::new(),
                ..listed(C)
            });
        });
    }
    let observed = observed(endpoints);
    expect("not_started", &observed);
    let codes = codes(&observed);
    assert!(codes.contains(&"member_not_started") && codes.contains(&"learner_ready"));
}

#[test]
fn a_database_is_full() {
    let mut endpoints = healthy(&[A, B, C]);
    for id in [A, B, C] {
        change(&mut endpoints, id, |answer| {
            answer.alarms.push(Alarm {
                member: B,
                kind: "NOSPACE".to_owned(),
            });
        });
    }
    change(&mut endpoints, B, |answer| answer.database_bytes = 2 << 30);
    let observed = observed(endpoints);
    expect("no_space", &observed);
    assert_eq!(codes(&observed), ["alarm_nospace", "space_low"]);
}

#[test]
fn one_is_an_etcd_and_leads() {
    let mut endpoints = healthy(&[A, B, C]);
    change(&mut endpoints, A, |answer| answer.program = Program::Etcd);
    expect("mixed", &observed(endpoints));
}

#[test]
fn a_member_is_cut_off_from_the_leader_and_answers_us() {
    let mut endpoints = healthy(&[A, B, C]);
    change(&mut endpoints, A, |answer| {
        answer.connected = Some(BTreeMap::from([(B, true), (C, false)]));
    });
    change(&mut endpoints, C, |answer| {
        (answer.leader, answer.term, answer.applied) = (0, 3, 2_000);
    });
    let observed = observed(endpoints);
    expect("cut_off", &observed);
    assert!(codes(&observed).contains(&"member_cut_off"));
}

#[test]
fn two_members_see_different_memberships() {
    let mut endpoints = healthy(&[A, B, C]);
    change(&mut endpoints, B, |answer| {
        answer.members.retain(|member| member.id != C);
    });
    let observed = observed(endpoints);
    expect("memberships_differ", &observed);
    assert_eq!(codes(&observed), ["memberships_differ"]);
}

#[test]
fn the_endpoints_are_of_two_clusters() {
    let mut endpoints = healthy(&[A]);
    let mut other = answer(B, &[B]);
    other.cluster = 0xbeef;
    endpoints.push(asked(other));
    let observed = observed(endpoints);
    expect("two_clusters", &observed);
    assert_eq!(codes(&observed)[0], "clusters_differ");
}

#[test]
fn an_endpoint_that_nobody_names_does_not_answer() {
    let mut endpoints = healthy(&[A, B, C]);
    endpoints.push(Asked {
        endpoint: "10.0.0.9:2379".to_owned(),
        answer: Err("no answer within 2s".to_owned()),
    });
    expect("endpoint_unreachable", &observed(endpoints));
}

#[test]
fn nobody_answers() {
    let observed = observed(vec![dead(A)]);
    expect("nobody_answers", &observed);
    assert_eq!(codes(&observed)[0], "nobody_answers");
}

#[test]
fn a_stopped_members_disk() {
    let found = Found::Stopped(Box::new(stopped(C)));
    let observed = Observed {
        endpoints: Vec::new(),
        disks: vec![disk(found)],
    };
    expect("stopped_disk", &observed);
    compare("stopped_disk.json", &json::render(&report(&observed)));
}

#[test]
fn a_removed_members_disk_by_its_own_word_and_by_the_others() {
    let mut knows = stopped(C);
    knows.members.retain(|member| member.id != C);
    knows.removed.push(C);
    let by_disk = Observed {
        endpoints: Vec::new(),
        disks: vec![disk(Found::Stopped(Box::new(knows)))],
    };
    expect("removed_disk", &by_disk);
    let by_others = Observed {
        endpoints: healthy(&[A, B]),
        disks: vec![disk(Found::Stopped(Box::new(stopped(C))))],
    };
    for observed in [by_disk, by_others] {
        assert!(codes(&observed).contains(&"disk_of_removed_member"));
    }
}

#[test]
fn a_disk_of_another_cluster_one_in_use_and_one_that_is_none() {
    let mut other = stopped(C);
    other.cluster = 0xbeef;
    let observed = Observed {
        endpoints: healthy(&[A, B, C]),
        disks: vec![
            disk(Found::Stopped(Box::new(other))),
            disk(Found::Held {
                member: A,
                cluster: CLUSTER,
            }),
            disk(Found::Failed("/var/lib/m3 holds no member".to_owned())),
        ],
    };
    expect("disks", &observed);
    assert_eq!(
        codes(&observed),
        ["disk_of_another_cluster", "disk_unreadable", "disk_in_use"]
    );
}

#[test]
fn lists_may_come_in_several_flags() {
    let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
    let gathered = crate::gathered(&words(
        "--data-dir a --json --data-dir=b,c --endpoints 1 -endpoints=2 --timeout 5",
    ));
    assert_eq!(
        gathered,
        words("--endpoints=1,2 --data-dir=a,b,c --json --timeout 5")
    );
    assert_eq!(crate::gathered(&words("--data-dir")), ["--data-dir"]);
}
