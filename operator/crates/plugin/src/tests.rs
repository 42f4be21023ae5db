//! Situations, each with the objects as a real API server gave them (`testdata/<situation>.json`) and the text
//! that a person gets of them (`testdata/<situation>.txt`).
//!
//! `QUORATE_BLESS=1 cargo test -p kubectl-quorate` writes the texts anew; read the difference as you would code.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ask::Report;
use crate::flags::{Command, split};
use crate::kubectl::{Cluster, Member};
use crate::recover::{self, Progress};
use crate::status;

/// What one look gave.
#[derive(Deserialize)]
struct Situation {
    now: Timestamp,
    cluster: Cluster,
    members: Vec<Member>,
    /// the report of `quorate explain --json`, where members were asked
    explain: Option<Report>,
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn situation(name: &str) -> Situation {
    let path = testdata().join(format!("{name}.json"));
    let text = fs::read_to_string(&path).expect("a file of the workspace");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_situation_is_told_in_the_words_that_are_recorded() {
    let mut seen = 0;
    for entry in fs::read_dir(testdata()).expect("a folder of the workspace") {
        let path = entry.expect("it can be read").path();
        if path.extension().is_none_or(|kind| kind != "json") {
            continue;
        }
        let name = path
            .file_stem()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        let Situation {
            now,
            cluster,
            members,
            explain,
        } = situation(&name);
        let mut text = format!(
            "$ kubectl quorate status {}\n{}",
            cluster.metadata.name,
            status::for_people(&cluster, &members, now)
        );
        if recover::must_be_lost(&cluster).is_ok() {
            let seen = explain.and_then(|report| report.clusters.into_iter().next());
            text.push_str(&format!(
                "\n$ kubectl quorate recover {}\n{}",
                cluster.metadata.name,
                recover::shown(&cluster, &members, seen.as_ref())
            ));
        }
        let recorded = path.with_extension("txt");
        if std::env::var("QUORATE_BLESS").is_ok_and(|value| value == "1") {
            fs::write(&recorded, &text).expect("the workspace can be written");
        }
        let expected = fs::read_to_string(&recorded).unwrap_or_default();
        assert!(
            expected == text,
            "{} is not what is said now; `cargo xtask bless kubectl-quorate` writes it anew. Now:\n{text}",
            recorded.display()
        );
        seen += 1;
    }
    assert!(seen >= 5, "only {seen} situations");
}

#[test]
fn programs_get_all_that_people_get() {
    let Situation {
        cluster, members, ..
    } = situation("refused");
    let told = status::for_programs(&cluster, &members);
    assert_eq!(told["ready"], false);
    assert_eq!(told["blocked"]["reason"], "QuorumUnsafe");
    assert_eq!(told["quorum"]["tolerance"], 0);
    assert_eq!(told["members"].as_array().map(Vec::len), Some(3));
    let down: Vec<&Value> = told["members"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|one| one["health"] != "Healthy")
        .collect();
    assert_eq!(down.len(), 1, "{told:#}");
    assert!(down[0]["memberID"].is_string());
}

/// An object of a version to come: words and fields that nobody knows today.
#[test]
fn objects_of_another_version_are_shown() {
    let cluster: Cluster = serde_json::from_value(json!({
        "metadata": {"name": "orders", "namespace": "shop", "generation": 2},
        "spec": {"replicas": 3, "version": "9.0.0", "storage": {"retention": "Burn"}, "new": {}},
        "status": {
            "observedGeneration": 1, "novelty": true,
            "operation": {"id": 4, "type": "Levitate", "startedAt": "2026-01-01T00:00:00Z"},
            "members": [{"name": "orders-0", "role": "Emperor", "health": "Glowing"}],
        },
    }))
    .expect("it loads");
    let now = "2026-01-01T01:00:05Z".parse().expect("a time");
    let text = status::for_people(&cluster, &[], now);
    assert!(text.contains("operation  4, Unknown, for 1h"), "{text}");
    assert!(
        text.contains("answers generation 1 of the spec, which is at 2"),
        "{text}"
    );
    assert!(text.contains("orders-0   -    unknown   unknown"), "{text}");
}

fn refusal(cluster: &Cluster) -> String {
    recover::must_be_lost(cluster)
        .expect_err("it must be refused")
        .to_string()
}

#[test]
fn no_order_is_given_while_there_is_a_quorum() {
    for name in ["healthy", "refused", "joining"] {
        let said = refusal(&situation(name).cluster);
        assert!(said.contains("is not lost; nothing was changed"), "{said}");
    }
    assert!(refusal(&situation("new").cluster).contains("never had a quorum"));
    let mut lost = situation("quorum_lost");
    recover::must_be_lost(&lost.cluster).expect("it is lost");
    lost.cluster.spec.paused = true;
    assert!(refusal(&lost.cluster).contains("is paused"));
}

#[test]
fn members_that_could_decide_are_believed_before_the_operator() {
    let seen = |decides: bool, answers: &[bool]| {
        let member = |answers: &bool| {
            let answer =
                answers.then(|| json!({"term": 2, "committed": 9, "applied": 9, "revision": 5}));
            json!({"name": "x", "role": "voter", "answer": answer})
        };
        let members: Vec<Value> = answers.iter().map(member).collect();
        serde_json::from_value(json!({"cluster_id": "c1", "decides": decides, "members": members}))
            .expect("a report")
    };
    let said = |seen| recover::must_not_decide("x", &seen).map_err(|error| error.to_string());
    assert_eq!(said(seen(false, &[true, false, false])), Ok(()));
    assert!(
        said(seen(true, &[true, false, false])).is_err_and(|said| said.contains("have a leader"))
    );
    assert!(
        said(seen(false, &[true, true, false]))
            .is_err_and(|said| said.contains("2 voters of x answer, 2 are a quorum"))
    );
}

#[test]
fn an_order_is_followed_to_its_end() {
    const ORDER: &str = "00000000000000c1/orders-0";
    let cluster = |annotation: Option<&str>, status: Value| -> Cluster {
        serde_json::from_value(json!({
            "metadata": {"name": "orders", "annotations": annotation.map(|order| json!({"quorate.dev/recover-from": order}))
                .unwrap_or_else(|| json!({}))},
            "spec": {},
            "status": status,
        }))
        .expect("a cluster")
    };
    let before = cluster(None, json!({"recovery": {"count": 1}}));
    let progress =
        |annotation, status| recover::progress(&before, &cluster(annotation, status), ORDER);
    let on = |word: &str, progress: Progress| match progress {
        Progress::On(words) => assert!(words.contains(word), "{words}"),
        other => panic!("{other:?}"),
    };
    let count = |count: i32| json!({"count": count});
    on(
        "not taken",
        progress(Some(ORDER), json!({"recovery": count(1)})),
    );
    let operation = |recovered: bool| json!({"type": "RecoverQuorum", "member": "orders-0", "order": ORDER, "recovered": recovered});
    on(
        "the others are stopped",
        progress(
            Some(ORDER),
            json!({"recovery": count(1), "operation": operation(false)}),
        ),
    );
    let waits =
        json!([{"reason": "OthersMayDecide", "message": "orders-1, orders-2 may come back"}]);
    on(
        "--others-are-gone",
        progress(
            Some(ORDER),
            json!({"recovery": count(1), "operation": operation(false), "waiting": waits}),
        ),
    );
    on(
        "cluster of one",
        progress(
            Some(ORDER),
            json!({"recovery": count(1), "operation": operation(true)}),
        ),
    );
    let adding = json!({"type": "AddMembers", "joining": ["orders-3", "orders-4"]});
    on(
        "orders-3, orders-4 join",
        progress(None, json!({"recovery": count(2), "operation": adding})),
    );
    let ready = json!([{"type": "Ready", "status": "True", "reason": "QuorumHealthy", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let quorum = json!({"voters": 3, "healthyVoters": 3, "needed": 2, "tolerance": 1});
    assert_eq!(
        progress(
            None,
            json!({"recovery": count(2), "conditions": ready, "quorum": quorum})
        ),
        Progress::Done("3 voters, 3 healthy, 2 needed: 1 may still be lost".to_owned())
    );
    let refused = json!([{"reason": "RecoveryRefused", "message": "orders-0 has no volume"}]);
    assert_eq!(
        progress(
            Some(ORDER),
            json!({"recovery": count(1), "waiting": refused})
        ),
        Progress::Refused("orders-0 has no volume".to_owned())
    );
    assert!(matches!(
        progress(None, json!({"recovery": count(1)})),
        Progress::Refused(_)
    ));
}

#[test]
fn the_order_is_written_as_the_operator_reads_it() {
    assert_eq!(recover::order_text("c1", "orders-0", false), "c1/orders-0");
    assert_eq!(
        recover::order_text("c1", "orders-0", true),
        "c1/orders-0/others-are-gone"
    );
}

#[test]
fn flags_stand_where_kubectl_lets_them_stand() {
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    for text in [
        "-n shop status orders -o json",
        "status -nshop -ojson orders",
        "--namespace=shop status orders --output json",
        "status orders -n=shop --output=json",
    ] {
        let (word, rest) = split(&words(text));
        assert_eq!(word.as_deref(), Some("status"), "{text}");
        let status = Command::ALL
            .iter()
            .find(|one| one.name == "status")
            .expect("it is there");
        let given = status.read(&rest).expect("all are known");
        assert_eq!(given.words, ["orders"], "{text}");
        assert_eq!(given.text("namespace"), "shop", "{text}");
        assert_eq!(given.text("output"), "json", "{text}");
        assert_eq!(crate::flags::handed_on(&given), ["--namespace=shop"]);
    }
}

#[test]
fn what_cannot_be_taken_is_named() {
    let said = |text: &str| {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        crate::run(&words).expect_err("refused").to_string()
    };
    assert_eq!(
        said("stauts"),
        "unknown command \"stauts\"; `kubectl quorate help` lists them"
    );
    assert_eq!(
        said("status --colour"),
        "unknown flag --colour; --help lists the flags"
    );
    assert!(said("promote orders").contains("expected `kubectl quorate promote NAME MEMBER`"));
    assert!(said("status -o yaml").contains("--output yaml: expected json"));
    assert!(said("completion tcsh").contains("expected bash, zsh or fish"));
}
