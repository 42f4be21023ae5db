//! Watches against a model: every watcher is told exactly what happened, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::etcdserverpb as pb;
use api::mvccpb::event::EventType;
use bytes::Bytes;

use super::group::Watched;
use super::sync::Round;
use super::*;
use crate::testing::{Chance, Fixture};

fn request(key: &str, range_end: &str, start_revision: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        start_revision,
        ..Default::default()
    }
}

fn stream(store: &Fixture) -> (WatchStream, Arc<AtomicUsize>) {
    let wakes = Arc::new(AtomicUsize::new(0));
    let count = wakes.clone();
    let stream = store.mvcc.watch_stream(Box::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    (stream, wakes)
}

fn messages(stream: &WatchStream) -> Vec<pb::WatchResponse> {
    std::iter::from_fn(|| stream.next())
        .map(|response| response.into_message(stream.mvcc()).unwrap())
        .collect()
}

fn revision(message: &pb::WatchResponse) -> i64 {
    message.header.as_ref().unwrap().revision
}

fn sync(store: &Fixture) {
    while store.mvcc.sync_watchers(100).unwrap() == SyncStep::More {}
}

#[test]
fn a_watcher_is_created_before_its_events() {
    let mut store = Fixture::new();
    let (stream, wakes) = stream(&store);
    stream.create(&request("a", "", 0));
    stream.create(&request("a", "c", 0));
    store.put("a", "1");
    store.put("b", "2");
    store.delete("a", "");
    assert_eq!(
        wakes.load(Ordering::Relaxed),
        1,
        "one wake while the queue is not empty"
    );
    let got: Vec<_> = messages(&stream)
        .iter()
        .map(|m| (m.watch_id, m.created, revision(m), m.events.len()))
        .collect();
    let events = [
        (0, false, 2, 1),
        (1, false, 2, 1),
        (1, false, 3, 1),
        (0, false, 4, 1),
        (1, false, 4, 1),
    ];
    assert_eq!(got[..2], [(0, true, 1, 0), (1, true, 1, 0)]);
    assert_eq!(got[2..], events);
    store.put("z", "1");
    assert!(stream.next().is_none());
    assert_eq!(wakes.load(Ordering::Relaxed), 1);
}

#[test]
fn bad_requests_are_refused_in_etcds_words() {
    let store = Fixture::new();
    let (stream, _) = stream(&store);
    stream.create(&request("a", "", -1));
    stream.create(&request("b", "a", 0));
    stream.create(&pb::WatchCreateRequest {
        watch_id: 7,
        ..request("a", "", 0)
    });
    stream.create(&pb::WatchCreateRequest {
        watch_id: 7,
        ..request("a", "", 0)
    });
    stream.refuse("etcdserver: permission denied");
    assert_eq!(stream.waiting_answers(), 5);
    let got: Vec<_> = messages(&stream)
        .into_iter()
        .map(|m| (m.watch_id, m.created, m.canceled, m.cancel_reason))
        .collect();
    let refused = |reason: &str| (-1, true, true, reason.to_owned());
    assert_eq!(
        got[0],
        refused("etcdserver: mvcc: required revision has been compacted")
    );
    assert_eq!(got[1], refused("mvcc: watcher range is empty"));
    assert_eq!(got[2], (7, true, false, String::new()));
    assert_eq!(
        got[3],
        refused("mvcc: duplicate watch ID provided on the WatchStream")
    );
    assert_eq!(got[4], refused("etcdserver: permission denied"));
    assert_eq!(stream.waiting_answers(), 0);
}

#[test]
fn ids_are_chosen_around_those_in_use() {
    let store = Fixture::new();
    let (stream, _) = stream(&store);
    stream.create(&pb::WatchCreateRequest {
        watch_id: 1,
        ..request("a", "", 0)
    });
    for _ in 0..3 {
        stream.create(&request("a", "", 0));
    }
    stream.cancel(2);
    stream.cancel(2);
    stream.create(&pb::WatchCreateRequest {
        watch_id: 2,
        ..request("a", "", 0)
    });
    let got: Vec<_> = messages(&stream)
        .iter()
        .map(|m| (m.watch_id, m.created, m.canceled))
        .collect();
    let created = |id| (id, true, false);
    assert_eq!(
        got,
        [
            created(1),
            created(0),
            created(2),
            created(3),
            (2, false, true),
            created(2)
        ]
    );
}

#[test]
fn the_past_is_caught_up_and_the_future_waited_for() {
    let mut store = Fixture::new();
    store.put("a", "1");
    store.put("b", "2");
    store.put("a", "3");
    let (stream, _) = stream(&store);
    stream.create(&request("a", "", 1));
    stream.create(&request("a", "\0", 6));
    sync(&store);
    store.put("a", "4");
    store.put("a", "5");
    let got: Vec<_> = messages(&stream)
        .iter()
        .filter(|m| !m.created)
        .map(|m| {
            (
                m.watch_id,
                revision(m),
                m.events
                    .iter()
                    .map(|e| e.kv.as_ref().unwrap().mod_revision)
                    .collect(),
            )
        })
        .collect();
    assert_eq!(
        got,
        [
            (0, 4, vec![2, 4]),
            (0, 5, vec![5]),
            (0, 6, vec![6]),
            (1, 6, vec![6])
        ]
    );
}

#[test]
fn a_start_below_the_compaction_is_told_so() {
    let mut store = Fixture::new();
    for number in 0..4 {
        store.put("a", &number.to_string());
    }
    store.compact(4);
    let (stream, _) = stream(&store);
    stream.create(&request("a", "", 3));
    stream.create(&request("a", "", 4));
    sync(&store);
    let got = messages(&stream);
    let compacted = got.iter().find(|m| m.canceled).unwrap();
    assert_eq!(
        (
            compacted.watch_id,
            compacted.compact_revision,
            revision(compacted)
        ),
        (0, 4, 0)
    );
    assert!(compacted.cancel_reason.is_empty() && !compacted.created);
    let events = got.iter().find(|m| !m.events.is_empty()).unwrap();
    assert_eq!((events.watch_id, events.events.len()), (1, 2));
    // It is over, but the client may still cancel it.
    stream.create(&pb::WatchCreateRequest {
        watch_id: 9,
        ..request("a", "", 0)
    });
    stream.request_progress();
    stream.cancel(0);
    let got: Vec<_> = messages(&stream)
        .iter()
        .map(|m| (m.watch_id, m.canceled))
        .collect();
    assert_eq!(got, [(9, false), (-1, false), (0, true)]);
}

#[test]
fn prior_pairs_and_filters() {
    let mut store = Fixture::new();
    let (stream, _) = stream(&store);
    stream.create(&pb::WatchCreateRequest {
        prev_kv: true,
        ..request("a", "", 0)
    });
    stream.create(&pb::WatchCreateRequest {
        filters: vec![0],
        ..request("a", "", 0)
    });
    stream.create(&pb::WatchCreateRequest {
        filters: vec![1, 77],
        ..request("a", "", 0)
    });
    store.put("a", "1");
    store.put("a", "2");
    store.delete("a", "");
    store.put("a", "3");
    let got = messages(&stream);
    let of = |id| {
        got.iter()
            .filter(move |m| m.watch_id == id)
            .flat_map(|m| &m.events)
    };
    let priors: Vec<_> = of(0)
        .map(|e| e.prev_kv.as_ref().map(|kv| kv.value.clone()))
        .collect();
    assert_eq!(priors, [None, Some("1".into()), Some("2".into()), None]);
    assert!(of(1).all(|e| e.r#type() == EventType::Delete) && of(1).count() == 1);
    assert!(of(2).all(|e| e.r#type() == EventType::Put) && of(2).count() == 3);
    let deleted = of(1).next().unwrap().kv.clone().unwrap();
    assert_eq!(
        (
            deleted.mod_revision,
            deleted.create_revision,
            deleted.version
        ),
        (4, 0, 0)
    );
}

#[test]
fn progress_is_told_to_those_who_have_everything() {
    let mut store = Fixture::new();
    store.put("a", "1");
    let (stream, _) = stream(&store);
    stream.request_progress();
    assert!(stream.next().is_none(), "nobody watches");
    stream.create(&pb::WatchCreateRequest {
        progress_notify: true,
        ..request("a", "", 0)
    });
    stream.create(&request("a", "", 1));
    stream.request_progress();
    stream.progress_tick();
    let progress = |stream: &WatchStream| -> Vec<_> {
        let all = messages(stream).into_iter();
        all.filter(|m| !m.created && m.events.is_empty())
            .map(|m| (m.watch_id, revision(&m)))
            .collect()
    };
    assert_eq!(
        progress(&stream),
        [(0, 2)],
        "one is behind: only the other's own progress"
    );
    sync(&store);
    store.put("b", "1");
    stream.request_progress();
    assert_eq!(progress(&stream), [(-1, 3)]);
    store.put("a", "2");
    stream.progress_tick();
    assert_eq!(progress(&stream), [], "it had an event");
    stream.progress_tick();
    assert_eq!(progress(&stream), [(0, 4)]);
    stream.create(&request("a", "", 100));
    stream.request_progress();
    assert_eq!(
        progress(&stream),
        [],
        "a start in the future has not everything"
    );
}

#[test]
fn a_transaction_reaches_a_watcher_whole() {
    let mut store = Fixture::new();
    let (stream, _) = stream(&store);
    stream.create(&request("a", "c", 0));
    let mut txn = store.mvcc_writer.txn(&mut store.writer);
    for key in ["a", "b", "c", "a"] {
        txn.put(key.into(), "x".into(), 0).unwrap();
    }
    txn.end().unwrap();
    let got = messages(&stream);
    let keys: Vec<_> = got[1]
        .events
        .iter()
        .map(|e| e.kv.as_ref().unwrap().key.clone())
        .collect();
    assert_eq!(
        (got.len(), keys),
        (2, vec![Bytes::from("a"), "b".into(), "a".into()])
    );
}

#[test]
fn a_slow_watcher_catches_up_when_its_client_reads() {
    let mut store = Fixture::new();
    let (slow, _) = stream(&store);
    let (quick, _) = stream(&store);
    let wakes = Arc::new(AtomicUsize::new(0));
    let count = wakes.clone();
    store.mvcc.watch_hub().set_sync_waker(Box::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    slow.create(&request("a", "", 0));
    quick.create(&request("a", "", 0));
    let mut quick_events = 0;
    for number in 0..5000 {
        store.put("a", &number.to_string());
        quick_events += messages(&quick)
            .iter()
            .map(|m| m.events.len())
            .sum::<usize>();
    }
    assert_eq!(quick_events, 5000);
    assert_eq!(
        store.mvcc.watch_hub().counts(),
        WatchCounts {
            streams: 2,
            watchers: 2,
            slow: 1,
            // Its queue is full: these, and the answer to its creation.
            pending_events: 1023,
        }
    );
    assert_eq!(
        store.mvcc.sync_watchers(1000).unwrap(),
        SyncStep::Idle,
        "it waits for its client"
    );
    assert_eq!(wakes.load(Ordering::Relaxed), 0);
    let mut next = 2;
    while next < 5002 {
        for message in messages(&slow).iter().filter(|m| !m.created) {
            for event in &message.events {
                assert_eq!(event.kv.as_ref().unwrap().mod_revision, next);
                next += 1;
            }
            assert!(message.events.len() <= 1000);
        }
        store.mvcc.sync_watchers(1000).unwrap();
    }
    assert!(wakes.load(Ordering::Relaxed) > 0);
    assert_eq!(store.mvcc.watch_hub().counts().slow, 0);
    drop(slow);
    drop(quick);
    assert_eq!(store.mvcc.watch_hub().counts(), WatchCounts::default());
}

#[test]
fn fragments_stay_below_the_size() {
    use prost::Message;
    let mut store = Fixture::new();
    let (stream, _) = stream(&store);
    stream.create(&pb::WatchCreateRequest {
        fragment: true,
        ..request("a", "b", 0)
    });
    let mut txn = store.mvcc_writer.txn(&mut store.writer);
    for number in 0..30 {
        txn.put(
            format!("a{number}").into(),
            vec![b'x'; if number == 11 { 500 } else { 40 }].into(),
            0,
        )
        .unwrap();
    }
    txn.end().unwrap();
    assert!(!stream.next().unwrap().may_fragment());
    let response = stream.next().unwrap();
    assert!(response.may_fragment());
    let whole = response.into_message(&store.mvcc).unwrap();
    assert_eq!(
        fragments(whole.clone(), 1 << 20),
        std::slice::from_ref(&whole)
    );
    let parts = fragments(whole.clone(), 300);
    assert!(parts.len() > 5);
    for (place, part) in parts.iter().enumerate() {
        assert!(part.encoded_len() < 300 || part.events.len() == 1);
        assert_eq!(part.fragment, place + 1 < parts.len());
        if part.fragment && part.events.len() > 1 {
            let mut more = part.clone();
            more.events.push(parts[place + 1].events[0].clone());
            assert!(more.encoded_len() >= 300, "as many as fit");
        }
    }
    let events: Vec<_> = parts.into_iter().flat_map(|part| part.events).collect();
    assert_eq!(events, whole.events);
}

/// A member that was far behind received a snapshot: its store jumps ahead. Its watchers
/// go on where they were, also those that were reading the old store.
#[test]
fn watchers_survive_a_received_snapshot() {
    let (mut store, mut ahead) = (Fixture::new(), Fixture::new());
    for store in [&mut store, &mut ahead] {
        store.put("a", "1");
        store.put("a", "2");
    }
    let (stream, _) = stream(&store);
    stream.create(&request("a", "", 0));
    stream.create(&request("a", "", 2));
    stream.create(&request("a", "", 5));
    stream.create(&request("a", "", 7));
    let mut round = Round::begin(&store.mvcc).unwrap();
    let read = round.read(&store.mvcc, 100);
    for number in 4..7 {
        ahead.put("a", &number.to_string());
    }
    let backend = ahead.writer.backend();
    store
        .mvcc_writer
        .replace(backend, &mut ahead.writer)
        .unwrap();
    round.finish(&store.mvcc, read).unwrap();
    sync(&store);
    store.writer = ahead.writer;
    store.put("a", "7");
    let got = messages(&stream);
    for (watch_id, expected) in [
        (0, &[4, 5, 6, 7][..]),
        (1, &[2, 3, 4, 5, 6, 7]),
        (2, &[5, 6, 7]),
        (3, &[7]),
    ] {
        let of = got
            .iter()
            .filter(|m| m.watch_id == watch_id)
            .flat_map(|m| &m.events);
        assert_eq!(
            of.map(|e| e.kv.as_ref().unwrap().mod_revision)
                .collect::<Vec<_>>(),
            expected
        );
    }
    // And one that jumps past what is compacted.
    let mut further = Fixture::new();
    for number in 0..20 {
        further.put("a", &number.to_string());
    }
    further.compact(15);
    let backend = further.writer.backend();
    store
        .mvcc_writer
        .replace(backend, &mut further.writer)
        .unwrap();
    sync(&store);
    assert!(
        messages(&stream)
            .iter()
            .all(|m| m.compact_revision == 15 && m.canceled)
    );
    assert_eq!(store.mvcc.watch_hub().counts().slow, 0);
}

/// What one watcher must see, and what it has seen.
struct Expected {
    watched: Watched,
    start: i64,
    filters: Vec<i32>,
    prev_kv: bool,
    seen: Vec<(i64, Bytes, bool)>,
    /// Responses up to here are known: the last revision said to it.
    header: i64,
    compacted: Option<i64>,
    /// The current revision when it was created.
    created: i64,
}

impl Expected {
    fn wants(&self, key: &Bytes, revision: i64, tombstone: bool) -> bool {
        let from = if self.start == 0 {
            self.created + 1
        } else {
            self.start
        };
        revision >= from && self.watched.holds(key) && !self.filters.contains(&i32::from(tombstone))
    }
}

/// Random transactions, watchers that come and go, clients that read much or little, sync
/// steps at any moment, compactions and a store that is replaced.
#[test]
fn every_watcher_sees_what_happened() {
    for seed in seams::seeds(0..12) {
        run(seed);
    }
}

fn run(seed: u64) {
    let mut chance = Chance::new(seed);
    let mut store = Fixture::new();
    let key = |chance: &mut Chance| Bytes::from(format!("k{}", chance.below(12)));
    let mut history: Vec<(i64, Bytes, bool)> = Vec::new();
    let mut values: BTreeMap<(Bytes, i64), Option<Bytes>> = BTreeMap::new();
    let mut streams: Vec<(WatchStream, BTreeMap<i64, Expected>)> = (0..3)
        .map(|_| (stream(&store).0, BTreeMap::new()))
        .collect();
    let mut rounds = Vec::new();
    // Values of this size fill a queue's bytes after a few.
    let large = vec![b'v'; 700_000];
    for round in 0..1500u64 {
        match chance.below(20) {
            0..8 => {
                let before = store.mvcc.revision();
                let mut txn = store.mvcc_writer.txn(&mut store.writer);
                // As from clients, no transaction changes a key twice.
                if chance.below(3) == 0 {
                    let (from, end) = (key(&mut chance), key(&mut chance));
                    txn.delete_range(&from, if chance.below(2) == 0 { b"" } else { &end })
                        .unwrap();
                } else {
                    let keys: BTreeSet<_> =
                        (0..1 + chance.below(3)).map(|_| key(&mut chance)).collect();
                    for key in keys {
                        let value = match chance.below(12) {
                            0 => Bytes::from(large.clone()),
                            _ => Bytes::from(format!("v{round}")),
                        };
                        txn.put(key, value, 0).unwrap();
                    }
                }
                if let Some(changes) = txn.end() {
                    for change in &changes.changes {
                        let key = change.kv.key.clone();
                        history.push((changes.revision, key.clone(), change.tombstone));
                        values.insert(
                            (key, changes.revision),
                            (!change.tombstone).then(|| change.kv.value.clone()),
                        );
                    }
                    assert_eq!(changes.revision, before + 1);
                }
            }
            8 => {
                let (current, place) = (store.mvcc.revision(), chance.below(3) as usize);
                let (from, end) = (key(&mut chance), key(&mut chance));
                let end = [Bytes::new(), Bytes::from("\0"), end][chance.below(3) as usize].clone();
                let Some(watched) = Watched::from_request(&from, &end) else {
                    continue;
                };
                let start = match chance.below(3) {
                    0 => 0,
                    1 => (current - chance.below(40) as i64).max(1),
                    _ => current + chance.below(5) as i64,
                };
                let filters: Vec<i32> = if chance.below(4) == 0 {
                    vec![chance.below(2) as i32]
                } else {
                    vec![]
                };
                let prev_kv = chance.below(2) == 0;
                let watch_id = 1 + round as i64;
                streams[place].0.create(&pb::WatchCreateRequest {
                    key: from,
                    range_end: end,
                    start_revision: start,
                    filters: filters.clone(),
                    prev_kv,
                    watch_id,
                    ..Default::default()
                });
                let expected = Expected {
                    watched,
                    start,
                    filters,
                    prev_kv,
                    seen: vec![],
                    header: 0,
                    compacted: None,
                    created: current,
                };
                streams[place].1.insert(watch_id, expected);
            }
            9 => {
                let (stream, watchers) = &mut streams[chance.below(3) as usize];
                if let Some(id) = watchers
                    .keys()
                    .nth(chance.below(1 + watchers.len() as u64) as usize)
                    .copied()
                {
                    stream.cancel(id);
                    read(&store, stream, watchers, usize::MAX, &values);
                    let gone = watchers.remove(&id).unwrap();
                    check(&gone, &history, false);
                }
            }
            10..12 => {
                store
                    .mvcc
                    .sync_watchers(1 + chance.below(30) as usize)
                    .unwrap();
            }
            12 => {
                // A round, with other things before and after its reading.
                rounds.extend(Round::begin(&store.mvcc).map(|round| (round, None)));
            }
            13 if !rounds.is_empty() => {
                let (mut round, read) =
                    rounds.swap_remove(chance.below(rounds.len() as u64) as usize);
                match read {
                    None => {
                        let read = round.read(&store.mvcc, 1 + chance.below(30) as usize);
                        rounds.push((round, Some(read)));
                    }
                    Some(read) => {
                        round.finish(&store.mvcc, read).unwrap();
                    }
                }
            }
            14 => streams[chance.below(3) as usize].0.request_progress(),
            15 if chance.below(6) == 0 => {
                let current = store.mvcc.revision();
                let at = current - chance.below(30) as i64;
                if at > store.mvcc.compact_revision() && at > 0 {
                    store.compact(at);
                }
            }
            16 if chance.below(10) == 0 => {
                let backend = store.writer.backend();
                store
                    .mvcc_writer
                    .replace(backend, &mut store.writer)
                    .unwrap();
            }
            _ => {
                // The first stream's client is slow.
                let (place, much) = (chance.below(3) as usize, 1 + chance.below(6) as usize);
                let (stream, watchers) = &mut streams[place];
                if place > 0 || chance.below(30) == 0 {
                    read(&store, stream, watchers, much * much, &values);
                }
            }
        }
    }
    for (mut round, read) in rounds {
        let read = read.unwrap_or_else(|| round.read(&store.mvcc, 30));
        round.finish(&store.mvcc, read).unwrap();
    }
    // In the end everyone has everything.
    for _ in 0..2000 {
        sync(&store);
        for (stream, watchers) in &mut streams {
            read(&store, stream, watchers, usize::MAX, &values);
        }
    }
    assert_eq!(store.mvcc.watch_hub().counts().slow, 0);
    for (_, watchers) in &streams {
        for expected in watchers.values() {
            check(expected, &history, true);
        }
    }
}

/// A client reads some responses.
fn read(
    store: &Fixture,
    stream: &WatchStream,
    watchers: &mut BTreeMap<i64, Expected>,
    much: usize,
    values: &BTreeMap<(Bytes, i64), Option<Bytes>>,
) {
    for _ in 0..much {
        let Some(message) = stream
            .next()
            .map(|response| response.into_message(&store.mvcc).unwrap())
        else {
            return;
        };
        if message.watch_id == NO_WATCH_ID {
            // Progress: whoever watches has seen everything up to here.
            for expected in watchers.values_mut() {
                assert!(expected.header <= revision(&message));
                expected.header = revision(&message);
            }
            continue;
        }
        let Some(expected) = watchers.get_mut(&message.watch_id) else {
            continue;
        };
        if message.compact_revision != 0 {
            expected.compacted = Some(message.compact_revision);
            continue;
        }
        assert!(
            revision(&message) >= expected.header,
            "revisions never go back"
        );
        expected.header = revision(&message);
        let (first, last) = (message.events.first(), message.events.last());
        if let (Some(first), Some((before, ..))) = (first, expected.seen.last()) {
            assert!(
                first.kv.as_ref().unwrap().mod_revision > *before,
                "a revision's events stay together"
            );
        }
        assert!(last.is_none_or(|last| last.kv.as_ref().unwrap().mod_revision <= expected.header));
        for event in &message.events {
            let kv = event.kv.as_ref().unwrap();
            let tombstone = event.r#type() == EventType::Delete;
            expected
                .seen
                .push((kv.mod_revision, kv.key.clone(), tombstone));
            if let Some(prior) = &event.prev_kv {
                assert!(expected.prev_kv);
                let before = values
                    .range((kv.key.clone(), 0)..(kv.key.clone(), kv.mod_revision))
                    .next_back();
                assert_eq!(
                    before.and_then(|(_, value)| value.clone()),
                    Some(prior.value.clone())
                );
            }
        }
    }
}

/// What was seen is the beginning of what happened, and all of it in the end, unless a
/// compaction came first.
fn check(expected: &Expected, history: &[(i64, Bytes, bool)], whole: bool) {
    let all: Vec<_> = history
        .iter()
        .filter(|(revision, key, tombstone)| expected.wants(key, *revision, *tombstone))
        .collect();
    let seen: Vec<_> = expected.seen.iter().collect();
    assert_eq!(seen, all[..seen.len().min(all.len())]);
    if whole && expected.compacted.is_none() {
        assert_eq!(seen.len(), all.len());
    }
    if let Some(compacted) = expected.compacted {
        assert!(
            expected
                .seen
                .last()
                .is_none_or(|(revision, ..)| *revision < compacted)
        );
        assert!(expected.start < compacted);
    }
}
