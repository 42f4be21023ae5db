//! A history under faults: clients put, read and txn while members are killed and come back;
//! a checker that shares no code with the store looks for a lost write, a stale read, a gap or
//! a repeat in a watch.
//!
//! `QUORATE_HISTORY_S` says how long (default 60 s), `QUORATE_SEED_FIRST` which members are
//! killed when; a failure prints the seed and keeps the history.

mod clients;
mod walks;
mod watcher;

use std::cmp::Ordering;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use clients::{Clients, Operation};
use testkit::{Cluster, Kind, Spec, left_out, tool};
use watcher::{Event, Seen, Watcher};

const CLIENTS: usize = 30;

#[test]
fn a_history_under_kills_is_linearizable_and_watches_tell_it_whole() {
    let Some(checker) = tool("historycheck") else {
        return left_out("history", "historycheck is missing; run `make tools`");
    };
    let Some(mut cluster) =
        Cluster::start(&Spec::of(Kind::Quorate, 3).flag("--snapshot-count=2000"))
    else {
        return left_out("history", "etcdctl is missing; run `make tools`");
    };
    let seed = number("QUORATE_SEED_FIRST", 1);
    let length = Duration::from_secs(number("QUORATE_HISTORY_S", 60));
    eprintln!("history: seed {seed}, {} s", length.as_secs());

    let endpoints = cluster.endpoints();
    let watcher = Watcher::start(&endpoints);
    let clients = Clients::start(&endpoints, CLIENTS, seed);
    let began = Instant::now();
    let mut chance = seed;
    let mut kills = 0;
    while began.elapsed() < length {
        pause(&mut chance, 1500, 3500);
        let victim = (next(&mut chance) % 3) as usize;
        cluster.members[victim].kill();
        kills += 1;
        pause(&mut chance, 500, 2500);
        cluster.members[victim].start();
    }
    let history = clients.finish();
    let unknown = history.iter().filter(|operation| !operation.known).count();
    eprintln!(
        "history: {} operations, {unknown} without an answer, {kills} kills",
        history.len()
    );
    assert!(
        kills > 0 && history.len() > 1000,
        "the history is too small to say anything"
    );

    let events = watcher.finish(&endpoints);
    if let Err(what) = check_watch(&events, &history) {
        panic!("seed {seed}: {what}");
    }
    check_linearizable(&checker, &history, seed, cluster.dir());
}

/// The watch that lived through the kills saw what a watch over the finished history sees, in both
/// each revision stands once and after the one before it, and every acknowledged write is in them.
fn check_watch(events: &Seen, history: &[Operation]) -> Result<(), String> {
    // Nobody else writes here, and each write is one key: so the revisions are all the numbers.
    for (which, events) in [
        ("under kills", &events.lived),
        ("afterwards", &events.after),
    ] {
        for two in events.windows(2) {
            let (wanted, found) = (two[0].revision + 1, two[1].revision);
            let what = match found.cmp(&wanted) {
                Ordering::Equal => continue,
                Ordering::Greater => "a gap",
                Ordering::Less => "a repeat, or another order",
            };
            return Err(format!(
                "the watch {which} has {what}: {:?} comes after {:?}",
                two[1], two[0]
            ));
        }
    }
    if let Some((lived, after)) = (events.lived.iter().zip(&events.after)).find(|(a, b)| a != b) {
        return Err(format!(
            "the watch under kills saw {lived:?} where one afterwards saw {after:?}"
        ));
    }
    if events.lived.len() != events.after.len() {
        return Err(format!(
            "the watch under kills saw {} events, one afterwards {}",
            events.lived.len(),
            events.after.len()
        ));
    }
    let written: std::collections::HashMap<(&str, i64), &str> = events
        .after
        .iter()
        .map(|event| ((event.key.as_str(), event.revision), event.value.as_str()))
        .collect();
    let acknowledged = history.iter().filter(|one| one.known && one.wrote());
    for operation in acknowledged {
        let found = written.get(&(operation.key.as_str(), operation.revision));
        if found.copied() != Some(operation.value.as_str()) {
            return Err(format!(
                "an acknowledged write is not in the watch: {operation:?}, but {found:?}"
            ));
        }
    }
    Ok(())
}

fn check_linearizable(
    checker: &std::path::Path,
    history: &[Operation],
    seed: u64,
    dir: &std::path::Path,
) {
    let path = dir.join("history.jsonl");
    let mut file =
        std::io::BufWriter::new(std::fs::File::create(&path).expect("our own directory"));
    for operation in history {
        writeln!(file, "{}", operation.to_json()).expect("a line");
    }
    file.into_inner().expect("flushed");
    let output = Command::new(checker)
        .arg(&path)
        .output()
        .expect("historycheck runs");
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let kept = std::env::temp_dir().join(format!("quorate-history-{seed}.jsonl"));
        let _ = std::fs::copy(&path, &kept);
        panic!(
            "seed {seed}: the history is not linearizable, or could not be judged; it is kept at {}\n{said}{}",
            kept.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    eprintln!("historycheck: {}", said.trim());
}

/// The twin of the watches' check: each way in which a watch can be wrong is refused.
#[test]
fn a_watch_with_a_gap_a_repeat_or_another_order_is_refused() {
    let event = |revision: i64| Event {
        revision,
        key: format!("r/{}", revision % 2),
        value: format!("v{revision}"),
    };
    let put = |revision: i64| Operation {
        client: 1,
        key: event(revision).key,
        kind: "put",
        value: event(revision).value,
        expect: String::new(),
        found: true,
        known: true,
        revision,
        call: revision,
        end: revision,
    };
    let history: Vec<Operation> = (2..8).map(put).collect();
    let good: Vec<Event> = (2..8).map(event).collect();
    let judge = |lived: &[Event], after: &[Event]| {
        let seen = Seen {
            lived: lived.to_vec(),
            after: after.to_vec(),
        };
        check_watch(&seen, &history)
    };
    assert_eq!(judge(&good, &good), Ok(()));

    let changed = |change: fn(&mut Vec<Event>)| {
        let mut events = good.clone();
        change(&mut events);
        events
    };
    for (name, bad, said) in [
        ("a gap", changed(|events| drop(events.remove(2))), "a gap"),
        (
            "no first event",
            changed(|events| drop(events.remove(0))),
            "where one afterwards saw",
        ),
        (
            "no last event",
            changed(|events| drop(events.pop())),
            "5 events, one afterwards 6",
        ),
        (
            "a repeat",
            changed(|events| events.insert(3, events[2].clone())),
            "a repeat, or another order",
        ),
        (
            "another order",
            // The revisions of the two are in the wrong order too: first comes one too many.
            changed(|events| events.swap(2, 3)),
            "a gap",
        ),
        (
            "another value",
            changed(|events| events[2].value = "v0".into()),
            "where one afterwards saw",
        ),
    ] {
        let refused = judge(&bad, &good).expect_err(name);
        assert!(refused.contains(said), "{name}: {refused}");
        // When both watches are wrong in the same way, neither is a witness for the other.
        judge(&bad, &bad).expect_err(name);
    }
}

/// The checker's own twin: a history with a stale read must be refused.
#[test]
fn the_checker_refuses_a_stale_read_and_a_lost_write() {
    let Some(checker) = tool("historycheck") else {
        return left_out("checker_twin", "historycheck is missing; run `make tools`");
    };
    let put = |value: &str, call: i64, end: i64| Operation {
        client: 1,
        key: "k".into(),
        kind: "put",
        value: value.into(),
        expect: String::new(),
        found: true,
        known: true,
        revision: 2,
        call,
        end,
    };
    let get = |value: &str, call: i64, end: i64| Operation {
        kind: "get",
        found: !value.is_empty(),
        client: 2,
        ..put(value, call, end)
    };
    let judge = |history: &[Operation]| {
        let dir = std::env::temp_dir().join(format!("quorate-checker-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("h.jsonl");
        let lines: Vec<String> = history.iter().map(Operation::to_json).collect();
        std::fs::write(&path, lines.join("\n")).expect("a file");
        let code = Command::new(&checker)
            .arg(&path)
            .output()
            .expect("it runs")
            .status
            .code();
        std::fs::remove_dir_all(&dir).expect("our own directory");
        code
    };
    assert_eq!(
        judge(&[put("a", 1, 2), put("b", 3, 4), get("b", 5, 6)]),
        Some(0)
    );
    assert_eq!(
        judge(&[put("a", 1, 2), put("b", 3, 4), get("a", 5, 6)]),
        Some(1),
        "a stale read"
    );
    assert_eq!(
        judge(&[put("a", 1, 2), get("", 3, 4)]),
        Some(1),
        "a lost write"
    );
    let unknown = Operation {
        known: false,
        ..put("b", 3, 4)
    };
    assert_eq!(
        judge(&[put("a", 1, 2), unknown.clone(), get("a", 5, 6)]),
        Some(0)
    );
    assert_eq!(
        judge(&[put("a", 1, 2), unknown, get("b", 5, 6), get("a", 7, 8)]),
        Some(1)
    );
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// splitmix64: the same seed, the same kills.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Time between faults is part of the fault plan, not a way of waiting for something.
fn pause(chance: &mut u64, from_ms: u64, to_ms: u64) {
    let ms = from_ms + next(chance) % (to_ms - from_ms);
    std::thread::sleep(Duration::from_millis(ms));
}
