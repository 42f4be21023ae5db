//! The whole store against a naive model: every key at every revision.

use std::collections::BTreeMap;

use api::etcdserverpb as pb;
use api::mvccpb::KeyValue;
use bytes::Bytes;
use prost::Message;

use crate::testing::{Chance, Fixture};
use crate::*;

type Pairs = BTreeMap<Bytes, KeyValue>;

/// The naive model.
struct Model {
    /// The pairs after each revision, from revision 0 on.
    history: Vec<Pairs>,
    /// Every record ever written.
    records: Vec<(RecordKey, Bytes)>,
    compacted: i64,
}

impl Model {
    fn new() -> Self {
        Self {
            history: vec![Pairs::new(), Pairs::new()],
            records: Vec::new(),
            compacted: -1,
        }
    }

    fn current(&self) -> i64 {
        self.history.len() as i64 - 1
    }

    fn pairs(&self, at: i64) -> &Pairs {
        &self.history[at as usize]
    }

    /// The rule for revisions, and etcd's order of sorting, filtering and cutting.
    fn range(
        &self,
        now: &Pairs,
        current: i64,
        request: &pb::RangeRequest,
    ) -> Result<pb::RangeResponse, &'static str> {
        use pb::range_request::{SortOrder, SortTarget};
        let at = if request.revision <= 0 {
            current
        } else {
            request.revision
        };
        if at > current {
            return Err("future");
        }
        if at < self.compacted {
            return Err("compacted");
        }
        let pairs = if at == current { now } else { self.pairs(at) };
        let inside = |key: &Bytes| match &request.range_end[..] {
            b"" => *key == request.key,
            b"\0" => *key >= request.key,
            end => *key >= request.key && key < end,
        };
        let all: Vec<_> = pairs
            .values()
            .filter(|kv| inside(&kv.key))
            .cloned()
            .collect();
        let header = Some(pb::ResponseHeader {
            revision: current,
            ..Default::default()
        });
        let count = all.len() as i64;
        if request.count_only {
            return Ok(pb::RangeResponse {
                header,
                count,
                ..Default::default()
            });
        }
        let natural = request.sort_order() == SortOrder::None
            || (request.sort_order() == SortOrder::Ascend
                && request.sort_target() == SortTarget::Key);
        let filtered = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        let mut kvs = all;
        if natural && filtered == [0; 4] && request.limit > 0 {
            kvs.truncate(request.limit as usize + 1);
        }
        kvs.retain(|kv| {
            (request.max_mod_revision == 0 || kv.mod_revision <= request.max_mod_revision)
                && kv.mod_revision >= request.min_mod_revision
                && (request.max_create_revision == 0
                    || kv.create_revision <= request.max_create_revision)
                && kv.create_revision >= request.min_create_revision
        });
        let place = |kv: &KeyValue| match request.sort_target() {
            SortTarget::Key => (0, kv.key.clone()),
            SortTarget::Version => (kv.version, Bytes::new()),
            SortTarget::Create => (kv.create_revision, Bytes::new()),
            SortTarget::Mod => (kv.mod_revision, Bytes::new()),
            SortTarget::Value => (0, kv.value.clone()),
        };
        match request.sort_order() {
            SortOrder::Descend => kvs.sort_by_key(|kv| std::cmp::Reverse(place(kv))),
            _ => kvs.sort_by_key(place),
        }
        let more = request.limit > 0 && kvs.len() > request.limit as usize;
        if more {
            kvs.truncate(request.limit as usize);
        }
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if request.sort_target() != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        Ok(pb::RangeResponse {
            header,
            kvs,
            more,
            count,
        })
    }

    /// HashKV as etcd says it, over every record there ever was. `None` where it depends
    /// on how far the compaction came.
    fn hash(&self, compacted: i64, revision: i64) -> Option<u32> {
        let keep: Vec<_> = self
            .pairs(revision)
            .values()
            .map(|kv| (&kv.key, kv.mod_revision))
            .collect();
        if keep.is_empty() && compacted > 0 {
            return None;
        }
        let mut bytes = b"key".to_vec();
        for (key, value) in &self.records {
            let main = key.revision.main;
            let live = || {
                let kv = KeyValue::decode(&value[..]).unwrap();
                !key.tombstone
                    && keep.contains(&(&kv.key, main))
                    && kv == self.pairs(revision)[&kv.key]
            };
            if main > revision
                || (main <= compacted && !live())
                || (key.tombstone && main == compacted)
            {
                continue;
            }
            bytes.extend_from_slice(&key.to_bytes());
            bytes.extend_from_slice(value);
        }
        Some(crc32c::crc32c(&bytes))
    }
}

#[derive(Clone, Copy)]
struct Begun {
    revision: i64,
    /// The compaction before it.
    before: i64,
    /// Whether that one was done when this one was begun: then the hash is kept.
    kept: bool,
    /// Whether it was interrupted once: its hash misses what was removed before.
    resumed: bool,
}

struct Run {
    chance: Chance,
    keys: u64,
    model: Model,
    store: Fixture,
    /// Hashes of finished compactions since the last start.
    stored: Vec<KeyValueHash>,
    /// Compactions begun since the last start, the one that start resumed among them.
    begun: Vec<Begun>,
}

impl Run {
    fn key(&mut self) -> Bytes {
        Bytes::from(format!("k{:02}", self.chance.below(self.keys)))
    }

    fn request(&mut self) -> pb::RangeRequest {
        let key = self.key();
        let range_end = match self.chance.below(5) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            _ => self.key(),
        };
        let current = self.model.current() as u64;
        let chance = &mut self.chance;
        let mut rarely = |bound: u64| {
            if chance.below(8) == 0 {
                chance.below(bound + 1) as i64
            } else {
                0
            }
        };
        let filters = [
            rarely(current),
            rarely(current),
            rarely(current),
            rarely(current),
        ];
        pb::RangeRequest {
            key,
            range_end,
            revision: match chance.below(3) {
                0 => current as i64 - chance.below(30) as i64 + 1,
                _ => 0,
            },
            limit: if chance.below(2) == 0 {
                chance.below(7) as i64
            } else {
                0
            },
            sort_order: if chance.below(2) == 0 {
                chance.below(3) as i32
            } else {
                0
            },
            sort_target: if chance.below(2) == 0 {
                chance.below(5) as i32
            } else {
                0
            },
            keys_only: chance.below(5) == 0,
            count_only: chance.below(5) == 0,
            min_mod_revision: filters[0],
            max_mod_revision: filters[1],
            min_create_revision: filters[2],
            max_create_revision: filters[3],
            ..Default::default()
        }
    }

    fn txn(&mut self) {
        let mut now = self.model.pairs(self.model.current()).clone();
        let begin = self.model.current();
        let mut records: Vec<(RecordKey, Bytes)> = Vec::new();
        let ops: Vec<_> = (0..1 + self.chance.below(4))
            .map(|_| {
                (
                    self.chance.below(10),
                    self.request(),
                    Bytes::from(format!("v{}", self.chance.next() % 1000)),
                    self.chance.below(3) as i64,
                )
            })
            .collect();
        let mut txn = self.store.mvcc_writer.txn(&mut self.store.writer);
        for (kind, request, value, lease) in ops {
            let revision = Revision::new(begin + 1, records.len() as i64);
            match kind {
                0..5 => {
                    let prior = now.get(&request.key).cloned();
                    let put = txn.put(request.key.clone(), value.clone(), lease).unwrap();
                    let prior_lease = prior.as_ref().map_or(0, |prior| prior.lease);
                    assert_eq!(
                        put,
                        Put {
                            revision: begin + 1,
                            prior_lease
                        }
                    );
                    let kv = KeyValue {
                        key: request.key.clone(),
                        create_revision: prior
                            .as_ref()
                            .map_or(begin + 1, |prior| prior.create_revision),
                        mod_revision: begin + 1,
                        version: prior.as_ref().map_or(1, |prior| prior.version + 1),
                        value,
                        lease,
                    };
                    records.push((
                        RecordKey {
                            revision,
                            tombstone: false,
                        },
                        kv.encode_to_vec().into(),
                    ));
                    now.insert(request.key, kv);
                }
                5..7 => {
                    let inside = pb::RangeRequest {
                        key: request.key,
                        range_end: request.range_end,
                        ..Default::default()
                    };
                    let at = begin + i64::from(!records.is_empty());
                    let expected: Vec<_> = self.model.range(&now, at, &inside).unwrap().kvs;
                    let deleted = txn.delete_range(&inside.key, &inside.range_end).unwrap();
                    let expected_deleted: Vec<_> = expected
                        .iter()
                        .map(|kv| Deleted {
                            key: kv.key.clone(),
                            lease: kv.lease,
                        })
                        .collect();
                    assert_eq!(deleted, expected_deleted);
                    for kv in expected {
                        let revision = Revision::new(begin + 1, records.len() as i64);
                        let record = KeyValue {
                            key: kv.key.clone(),
                            ..Default::default()
                        };
                        records.push((
                            RecordKey {
                                revision,
                                tombstone: true,
                            },
                            record.encode_to_vec().into(),
                        ));
                        now.remove(&kv.key);
                    }
                }
                _ => {
                    let at = begin + i64::from(!records.is_empty());
                    assert_eq!(ReadView::revision(&txn), at);
                    check_same(
                        range_request(&txn, &request),
                        self.model.range(&now, at, &request),
                        &request,
                    );
                }
            }
        }
        let changes = txn.end();
        assert_eq!(changes.is_some(), !records.is_empty());
        let Some(changes) = changes else { return };
        assert_eq!(changes.revision, begin + 1);
        assert_eq!(changes.changes.len(), records.len());
        for (change, (key, value)) in changes.changes.iter().zip(&records) {
            let mut kv = KeyValue::decode(&value[..]).unwrap();
            kv.mod_revision = begin + 1;
            assert_eq!((change.tombstone, &change.kv), (key.tombstone, &kv));
        }
        self.model.history.push(now);
        self.model.records.extend(records);
    }

    fn compact(&mut self) {
        let revision = self.model.current() - self.chance.below(12) as i64 + 1;
        let result = self
            .store
            .mvcc_writer
            .compact(&mut self.store.writer, revision);
        if revision <= self.model.compacted {
            assert!(matches!(result, Err(Error::Compacted)));
        } else if revision > self.model.current() {
            assert!(matches!(result, Err(Error::Future)));
        } else {
            result.unwrap();
            let kept = self.begun.len() == self.stored.len();
            let before = self.model.compacted;
            self.begun.push(Begun {
                revision,
                before,
                kept,
                resumed: false,
            });
            self.model.compacted = revision;
        }
    }

    fn compaction_step(&mut self) {
        let records = 1 + self.chance.below(6) as usize;
        self.store.mvcc.compaction_hash_step(records).unwrap();
        let step = self
            .store
            .mvcc_writer
            .compact_step(&mut self.store.writer, records)
            .unwrap();
        if let CompactStep::Finished { hash, .. } = step {
            let begun = self.begun[self.stored.len()];
            assert_eq!(
                (hash.revision, hash.compact_revision),
                (begun.revision, begun.before)
            );
            let kept = self.store.mvcc.stored_hashes().contains(&hash);
            assert_eq!(kept, begun.kept);
            if !begun.resumed
                && let Some(expected) = self.model.hash(begun.before, begun.revision)
            {
                assert_eq!(
                    hash.hash, expected,
                    "compaction from {} to {}",
                    begun.before, begun.revision
                );
            }
            self.stored.push(hash);
        }
        self.store.writer.end_local();
    }

    fn reads(&mut self) {
        let request = self.request();
        let current = self.model.current();
        let expected = self
            .model
            .range(self.model.pairs(current), current, &request);
        check_same(
            range_request(&*self.store.mvcc, &request),
            expected.clone(),
            &request,
        );
        check_same(
            range_request(&self.store.mvcc.pin(), &request),
            expected.clone(),
            &request,
        );
        // A target without an order makes etcd's streams lose keys, and ours with them.
        let by_key = request.sort_target() == pb::range_request::SortTarget::Key;
        if is_default_order(&request) && by_key && !has_revision_filters(&request) {
            self.stream(&request, expected);
        }
        let at = self.model.current() - self.chance.below(8) as i64;
        let hash = self.store.mvcc.hash_by_revision(at);
        match self
            .store
            .mvcc
            .stored_hashes()
            .into_iter()
            .find(|hash| hash.revision == at)
        {
            Some(stored) => assert_eq!(hash.unwrap().0, stored),
            None if at > 0 && at < self.model.compacted => {
                assert!(matches!(hash, Err(Error::Compacted)))
            }
            None => {
                let (hash, seen) = hash.unwrap();
                assert_eq!(
                    (hash.compact_revision, seen),
                    (self.model.compacted, current)
                );
                if at > 0
                    && let Some(expected) = self.model.hash(self.model.compacted, at)
                {
                    assert_eq!((hash.hash, hash.revision), (expected, at));
                }
            }
        }
    }

    fn stream(
        &mut self,
        request: &pb::RangeRequest,
        expected: Result<pb::RangeResponse, &'static str>,
    ) {
        let mut cursor = RangeCursor::new(request.clone());
        let mut merged = pb::RangeResponse::default();
        loop {
            match cursor.next(&*self.store.mvcc, 40) {
                Ok(Some(chunk)) => {
                    assert!(merged.header.is_none(), "only the last chunk has a header");
                    merged = pb::RangeResponse {
                        header: chunk.header,
                        more: chunk.more,
                        count: chunk.count,
                        kvs: merged.kvs.into_iter().chain(chunk.kvs).collect(),
                    };
                }
                Ok(None) => return check_same(Ok(merged), expected, request),
                Err(error) => return check_same(Err(error), expected, request),
            }
        }
    }

    fn reopen(mut self) -> Self {
        let crash = self.chance.below(2) == 0;
        if crash {
            // Nothing was committed since; a crash loses nothing that was.
            self.store.commit();
            let mut rng = seams::SeededRng::new(self.chance.next());
            self.store.disk.crash(&mut rng);
        }
        self.store = self.store.reopen();
        let leases: Vec<_> = self
            .model
            .pairs(self.model.current())
            .values()
            .filter(|kv| kv.lease != 0)
            .collect();
        let expected: Vec<_> = leases.iter().map(|kv| (kv.key.clone(), kv.lease)).collect();
        assert_eq!(self.store.restored.leases, expected);
        assert_eq!(self.store.mvcc.revision(), self.model.current());
        assert_eq!(self.store.mvcc.compact_revision(), self.model.compacted);
        assert!(self.store.mvcc.stored_hashes().is_empty());
        // A compaction that was begun and not done is begun anew, from the last one done.
        let open = self.begun.get(self.stored.len()).copied();
        let revision = self.model.compacted;
        self.begun = open
            .map(|open| Begun {
                revision,
                before: open.before,
                kept: false,
                resumed: true,
            })
            .into_iter()
            .collect();
        self.stored.clear();
        assert_eq!(self.store.mvcc.is_compacting(), open.is_some());
        self
    }
}

fn check_same(
    result: Result<pb::RangeResponse, Error>,
    expected: Result<pb::RangeResponse, &'static str>,
    request: &pb::RangeRequest,
) {
    let result = result.map_err(|error| match error {
        Error::Compacted => "compacted",
        Error::Future => "future",
        error => panic!("{error}"),
    });
    assert_eq!(result, expected, "{request:?}");
}

#[test]
fn the_store_answers_as_the_model_does() {
    for seed in seams::seeds(0..6) {
        let mut run = Run {
            chance: Chance::new(seed),
            keys: [6, 30, 90][seed as usize % 3],
            model: Model::new(),
            store: Fixture::new(),
            stored: Vec::new(),
            begun: Vec::new(),
        };
        for _ in 0..600 {
            match run.chance.below(40) {
                0 => run.compact(),
                1 => run.store.commit(),
                2 if run.chance.below(4) == 0 => run = run.reopen(),
                3..12 => run.compaction_step(),
                12..26 => run.txn(),
                _ => run.reads(),
            }
        }
    }
}

#[test]
fn a_new_store_is_at_revision_one() {
    let mut store = Fixture::new();
    assert_eq!(
        (store.mvcc.revision(), store.mvcc.compact_revision()),
        (1, -1)
    );
    assert_eq!(store.delete("a", ""), 0);
    assert_eq!(store.mvcc.revision(), 1, "nothing changed");
    assert_eq!(store.put("a", "1"), 2);
    let store = store.reopen();
    assert_eq!(store.mvcc.revision(), 2);
}

/// Etcd issue 17780: the last record was a tombstone, the compaction removed it, and the
/// crash came before it was called done.
#[test]
fn the_revision_survives_the_compaction_of_everything() {
    let mut store = Fixture::new();
    store.put("a", "1");
    store.delete("a", "");
    store.put("b", "1");
    let last = store.mvcc.revision() + 1;
    store.delete("b", "");
    store.compact(last);
    assert_eq!(store.mvcc.keys(), 0);
    let store = store.reopen();
    assert_eq!(
        (store.mvcc.revision(), store.mvcc.compact_revision()),
        (last, last)
    );
}

#[test]
fn a_range_larger_than_one_stretch_is_read_whole() {
    let mut store = Fixture::new();
    for number in 0..5000 {
        store.put(&format!("{number:05}"), "x");
    }
    store.delete("01000", "04000");
    let read = |revision, limit, keys_only| {
        let options = RangeOptions {
            key: b"\0",
            end: b"\0",
            revision,
            limit,
            keys_only,
            total_count: true,
            ..Default::default()
        };
        let result = ReadView::range(&*store.mvcc, &options).unwrap();
        (result.kvs.len(), result.count)
    };
    for keys_only in [false, true] {
        assert_eq!(read(0, 0, keys_only), (2000, 2000));
        assert_eq!(read(0, 1500, keys_only), (1500, 2000));
        assert_eq!(read(5001, 0, keys_only), (5000, 5000));
        assert_eq!(read(1501, 0, keys_only), (1500, 1500));
        assert_eq!(read(5001, 4500, keys_only), (4500, 5000));
    }
}

#[test]
fn damaged_records_stop_the_opening() {
    for (key, value) in [
        (&b"short"[..], &b""[..]),
        (&[0; 17][..], b""),
        (&Revision::new(2, 0).to_bytes()[..], b"\x0a\x05ab"),
        (&Revision::new(2, 1 << 32).to_bytes()[..], b"\x0a\x01a"),
    ] {
        let mut store = Fixture::new();
        store
            .writer
            .put(backend::Bucket::Key, key, Bytes::copy_from_slice(value));
        store.writer.end_local();
        assert!(Mvcc::open(store.writer.backend(), &mut store.writer).is_err());
    }
}

/// Real threads: a writer that moves units between keys, readers who must always count
/// the same number of them, compactions and hashes meanwhile, and a watcher who is slow.
#[test]
fn threads_see_whole_transactions() {
    const KEYS: usize = 40;
    const ROUNDS: u64 = 3000;
    let mut store = Fixture::new();
    let key = |number: usize| Bytes::from(format!("k{number:02}"));
    let value = |units: u64| Bytes::from(units.to_string());
    let units_of = |kv: &KeyValue| {
        std::str::from_utf8(&kv.value)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let mut units = [10u64; KEYS];
    let mut txn = store.mvcc_writer.txn(&mut store.writer);
    for number in 0..KEYS {
        txn.put(key(number), value(10), 0).unwrap();
    }
    txn.end().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let is_done = || done.load(std::sync::atomic::Ordering::Acquire);
    let mvcc = store.mvcc.clone();
    let stream = mvcc.watch_stream(Box::new(|| {}));
    let watch = |watch_id, start_revision| {
        let (key, range_end) = ("k".into(), "l".into());
        stream.create(&pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            watch_id,
            ..Default::default()
        });
    };
    watch(1, 2);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let mvcc = &mvcc;
            scope.spawn(move || {
                let all = pb::RangeRequest {
                    key: "\0".into(),
                    range_end: "\0".into(),
                    ..Default::default()
                };
                while !is_done() {
                    let revision = if reader == 0 { 0 } else { mvcc.revision() };
                    match range_request(
                        &**mvcc,
                        &pb::RangeRequest {
                            revision,
                            ..all.clone()
                        },
                    ) {
                        Ok(response) => {
                            assert_eq!(
                                response.kvs.iter().map(units_of).sum::<u64>(),
                                10 * KEYS as u64
                            );
                            assert_eq!(response.count, response.kvs.len() as i64);
                        }
                        Err(Error::Compacted) => assert_ne!(revision, 0),
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        scope.spawn(|| {
            while !is_done() || mvcc.is_compacting() {
                mvcc.compaction_hash_step(50).unwrap();
                match mvcc.hash_by_revision(0) {
                    Ok(_) | Err(Error::Compacted) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let watcher = scope.spawn(|| {
            let all = pb::RangeRequest {
                key: "\0".into(),
                range_end: "\0".into(),
                ..Default::default()
            };
            let (mut units, mut revision, mut watch_id) = (BTreeMap::new(), 0, 1);
            loop {
                let over = is_done();
                mvcc.sync_watchers(200).unwrap();
                while let Some(response) = stream.next() {
                    match response {
                        watch::Response::Events {
                            events,
                            watch_id: of,
                            ..
                        } if of == watch_id => {
                            for event in events.iter() {
                                assert!(event.change.kv.mod_revision >= revision);
                                revision = event.change.kv.mod_revision;
                                units.insert(
                                    event.change.kv.key.clone(),
                                    units_of(&event.change.kv),
                                );
                            }
                            assert_eq!(
                                units.values().sum::<u64>(),
                                10 * KEYS as u64,
                                "at {revision}"
                            );
                        }
                        watch::Response::Compacted { .. } => {
                            // As clients do: list, then watch from there.
                            let list = range_request(&*mvcc, &all).unwrap();
                            revision = list.header.unwrap().revision;
                            units = list
                                .kvs
                                .iter()
                                .map(|kv| (kv.key.clone(), units_of(kv)))
                                .collect();
                            watch_id += 1;
                            watch(watch_id, revision + 1);
                        }
                        _ => {}
                    }
                }
                if over && mvcc.watch_hub().counts().slow == 0 && stream.waiting() == 0 {
                    return revision;
                }
            }
        });
        let mut chance = Chance::new(1);
        for round in 0..ROUNDS {
            let from = chance.below(KEYS as u64) as usize;
            let to = (from + 1 + chance.below(KEYS as u64 - 1) as usize) % KEYS;
            let moved = units[from].min(chance.below(4));
            (units[from], units[to]) = (units[from] - moved, units[to] + moved);
            let mut txn = store.mvcc_writer.txn(&mut store.writer);
            txn.put(key(from), value(units[from]), 0).unwrap();
            txn.put(key(to), value(units[to]), 0).unwrap();
            txn.end().unwrap();
            store.writer.end_entry(round + 1, 1);
            if round % 300 == 299 {
                store
                    .mvcc_writer
                    .compact(&mut store.writer, mvcc.revision() - 20)
                    .unwrap();
            }
            store
                .mvcc_writer
                .compact_step(&mut store.writer, 10)
                .unwrap();
            if round % 100 == 0 {
                store.committer.commit().unwrap();
            }
        }
        while store
            .mvcc_writer
            .compact_step(&mut store.writer, 100)
            .unwrap()
            != CompactStep::Idle
        {}
        done.store(true, std::sync::atomic::Ordering::Release);
        assert_eq!(watcher.join().unwrap(), mvcc.revision());
    });
}
