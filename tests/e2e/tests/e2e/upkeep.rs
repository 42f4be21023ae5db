//! What a cluster does by itself: it compares its members, and compacts.

use std::time::{Duration, Instant};

use testkit::{Cluster, Kind, Member, Spec, eventually, left_out};

use crate::membership::id_of;
use crate::metrics;

const MISSING: &str = "etcd or etcdctl is missing; run `make tools`";

/// Written through the API, changed behind its back.
const TRUE: &str = "as it was written";
const FALSE: &str = "as it was altered";

#[test]
fn a_member_that_holds_another_value_is_named() {
    holds_another("corrupt_ours", &[Kind::Quorate; 3], 1);
}

#[test]
fn etcd_names_one_of_ours_that_holds_another_value() {
    holds_another("corrupt_mixed", &[Kind::Etcd, Kind::Quorate, Kind::Etcd], 1);
}

#[test]
fn ours_name_an_etcd_that_holds_another_value() {
    holds_another(
        "corrupt_etcd",
        &[Kind::Quorate, Kind::Etcd, Kind::Quorate],
        1,
    );
}

/// One value of a stopped member is changed: with the gate it does not start, without it the
/// leader's comparison raises the alarm for it, and nobody writes any more.
fn holds_another(name: &str, kinds: &[Kind], damaged: usize) {
    let spec = Spec {
        kinds: kinds.to_vec(),
        flags: Vec::new(),
    }
    .flag("--corrupt-check-time=500ms");
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out(name, MISSING);
    };
    let etcdctl = cluster.etcdctl();
    for number in 0..20 {
        etcdctl.ok(&["put", &format!("key{number}"), TRUE]);
    }
    let id = id_of(&etcdctl, &cluster.members[damaged].peer_url);
    let member = &mut cluster.members[damaged];
    // An etcd ends by the signal itself, after it has stopped in order.
    let code = member.terminate();
    assert!(code == Some(0) || member.kind == Kind::Etcd, "{code:?}");
    alter(member);

    if member.kind == Kind::Quorate {
        let gate = "--feature-gates=InitialCorruptCheck=true";
        member.flags.push(gate.to_owned());
        member.spawn();
        let ended = eventually("a refusal", Duration::from_secs(20), || {
            member.exited().ok_or_else(|| "it runs".to_owned())
        });
        let said = member.log_text();
        assert!(!ended.success(), "{said}");
        assert!(
            said.contains("found data inconsistency with peers") && said.contains(&id),
            "{said}"
        );
        member.flags.pop();
    }
    member.start();
    let alarm = format!(
        "memberID:{} alarm:CORRUPT",
        u64::from_str_radix(&id, 16).expect("an ID")
    );
    let etcdctl = cluster.etcdctl();
    eventually("the alarm", Duration::from_secs(20), || {
        let alarms = etcdctl.ok(&["alarm", "list"]);
        if alarms.trim() == alarm {
            Ok(())
        } else {
            Err(format!("{alarms:?}, not {alarm:?}"))
        }
    });
    let refused = etcdctl.run(&["put", "key", "value"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "a corrupt cluster writes");
    assert!(said.contains("corrupt cluster"), "{said}");
}

/// All start at once, as after an outage, and the one that differs is the first.
#[test]
fn the_sound_ones_start_beside_a_corrupt_one_that_was_there_first() {
    let spec = Spec {
        kinds: vec![Kind::Quorate; 3],
        flags: Vec::new(),
    }
    .flag("--feature-gates=InitialCorruptCheck=true");
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out("corrupt_cold", MISSING);
    };
    let etcdctl = cluster.etcdctl();
    for number in 0..20 {
        etcdctl.ok(&["put", &format!("key{number}"), TRUE]);
    }
    for member in &mut cluster.members {
        member.terminate();
    }
    alter(&cluster.members[1]);
    let until_it_says = |member: &Member, words: &str| {
        eventually(words, Duration::from_secs(20), || {
            let said = member.log_text();
            said.contains(words).then_some(()).ok_or(said)
        });
    };
    cluster.members[1].spawn();
    until_it_says(&cluster.members[1], "initial corruption checking passed");
    cluster.members[0].spawn();
    until_it_says(&cluster.members[0], "waiting for the hashes of the others");
    cluster.members[2].start();
    cluster.members[0].wait_ready();
    for sound in [0, 2] {
        let said = cluster.members[sound].log_text();
        assert!(
            said.contains("a majority holds what this member does"),
            "{said}"
        );
    }
    cluster.etcdctl().ok(&["get", "key7"]);
}

/// Changes the value of one key in the database, wherever a page holds it.
fn alter(member: &Member) {
    let path = member.database();
    let mut bytes = std::fs::read(&path).expect("the database");
    // A record: the key, and behind it, after numbers, its value.
    let (key, value) = (b"key7".as_slice(), TRUE.as_bytes());
    let places: Vec<usize> = (0..bytes.len() - value.len())
        .filter(|at| bytes[*at..].starts_with(value))
        .filter(|at| {
            bytes[at.saturating_sub(32)..*at]
                .windows(key.len())
                .any(|window| window == key)
        })
        .collect();
    assert!(!places.is_empty(), "the value is not in {}", path.display());
    for at in places {
        bytes[at..at + value.len()].copy_from_slice(FALSE.as_bytes());
    }
    std::fs::write(&path, bytes).expect("the database");
}

/// The revision below which nothing can be read.
fn compacted(member: &Member) -> f64 {
    metrics::total(
        &metrics::of(&member.endpoint()),
        "etcd_debugging_mvcc_compact_revision",
    )
}

#[test]
fn a_periodic_compaction_keeps_the_retention_and_no_more() {
    let spec = Spec::of(Kind::Quorate, 1)
        .flag("--auto-compaction-mode=periodic")
        .flag("--auto-compaction-retention=1s");
    let Some(cluster) = Cluster::start(&spec) else {
        return left_out("auto_compaction", MISSING);
    };
    let (member, etcdctl) = (&cluster.members[0], cluster.etcdctl());
    for value in 0..10 {
        etcdctl.ok(&["put", "key", &value.to_string()]);
    }
    let revision = eventually(
        "a compaction",
        Duration::from_secs(20),
        || match compacted(member) {
            revision if revision >= 11.0 => Ok(revision),
            revision => Err(format!("compacted to {revision}")),
        },
    );
    assert!((revision - 11.0).abs() < 0.5, "compacted to {revision}");
    assert_eq!(etcdctl.ok(&["get", "key", "--print-value-only"]), "9\n");
    let old = etcdctl.run(&["get", "key", "--rev=10"]);
    let said = String::from_utf8_lossy(&old.stderr);
    assert!(said.contains("has been compacted"), "{said}");
    // It is done on the disk too.
    eventually("deletions", Duration::from_secs(10), || {
        let text = metrics::of(&member.endpoint());
        match metrics::total(&text, "etcd_debugging_mvcc_db_compaction_keys_total") {
            9.0 => Ok(()),
            count => Err(format!("{count} records")),
        }
    });
}

/// Batches with pauses between them; one that is cut off goes on after the start, as quickly as
/// that start says, and holds nobody up.
#[test]
fn a_compaction_keeps_its_pace_and_goes_on_after_a_kill() {
    const KEYS: usize = 3000;
    let spec = Spec::of(Kind::Quorate, 1)
        .flag("--compaction-batch-limit=100")
        .flag("--compaction-sleep-interval=1s")
        .flag("--max-txn-ops=1000");
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out("compaction_pace", MISSING);
    };
    let mut revision = 0;
    for _ in 0..2 {
        revision = fill(&cluster, KEYS);
    }
    let deleted = |member: &Member| {
        let text = metrics::of(&member.endpoint());
        let name = "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count";
        metrics::total(&text, name)
    };
    let etcdctl = cluster.etcdctl();
    etcdctl.ok(&["compact", &revision.to_string()]);
    // Some batches: with 30 of them it has half a minute to go.
    eventually("some steps", Duration::from_secs(20), || {
        match deleted(&cluster.members[0]) {
            steps if steps >= 2.0 => Ok(()),
            steps => Err(format!("{steps} steps")),
        }
    });
    // The database is committed with the compaction begun, not ended.
    etcdctl.ok(&["defrag"]);
    let log = cluster.members[0].log_text();
    assert!(!log.contains("finished scheduled compaction"), "{log}");
    let member = &mut cluster.members[0];
    member.kill();
    member
        .flags
        .retain(|flag| !flag.starts_with("--compaction-"));
    member.start();
    let began = Instant::now();
    eventually("the rest", Duration::from_secs(20), || {
        match member.log_text() {
            log if log.contains("finished scheduled compaction") => Ok(()),
            _ => Err("not finished".to_owned()),
        }
    });
    assert!(began.elapsed() < Duration::from_secs(15));
    let text = metrics::of(&member.endpoint());
    let pauses = "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds";
    let steps = metrics::total(&text, &format!("{pauses}_count"));
    let pause = metrics::total(&text, &format!("{pauses}_sum")) / steps;
    assert!(steps >= 10.0, "{steps} steps");
    assert!(pause < 5.0, "a step takes {pause} ms");
    // What is left is what lives.
    assert_eq!(
        etcdctl
            .ok(&["get", "", "--prefix", "--count-only", "--write-out=fields"])
            .lines()
            .find(|line| line.contains("Count")),
        Some(format!("\"Count\" : {KEYS}").as_str())
    );
}

/// Puts keys, many at a time; the revision afterwards.
fn fill(cluster: &Cluster, keys: usize) -> i64 {
    use api::etcdserverpb as pb;
    let mut client = crate::load::client(&cluster.endpoints());
    let numbers: Vec<usize> = (0..keys).collect();
    let mut revision = 0;
    for some in numbers.chunks(500) {
        let success = some
            .iter()
            .map(|number| pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                    key: format!("{number:06}").into(),
                    value: "value".into(),
                    ..Default::default()
                })),
            })
            .collect();
        let txn = pb::TxnRequest {
            success,
            ..Default::default()
        };
        let answer = crate::load::runtime().block_on(client.txn(txn));
        let header = answer.expect("a txn").into_inner().header;
        revision = header.expect("a header").revision;
    }
    revision
}
