//! Applies a log that a real etcd 3.7.3 wrote, and must come to its answers and its database,
//! byte for byte. `testdata/record.go` made the recording and says what is in it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::etcdserverpb as pb;
use apply::quota::Quota;
use apply::{Applier, Config, Outcome, Response};
use backend::{Backend, Committer, Options};
use membership::{Cluster, LEARNERS_MAX_DEFAULT, Membership, Version, parse_initial_cluster};
use mvcc::CompactStep;
use prost::Message;
use raftpb::Entry;
use seams::MemDisk;

const RECORDING: &[u8] = include_bytes!("../testdata/replay.bin");

type Database = BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>>;

struct Recording {
    entries: Vec<Entry>,
    answers: BTreeMap<u64, Answer>,
    database: Database,
    hash: pb::HashKvResponse,
    /// Transactions, and what the door said.
    judged: Vec<(i32, String, &'static [u8])>,
}

enum Answer {
    Response(u8, &'static [u8]),
    Refused(i32, String),
}

fn recording() -> Recording {
    let mut recording = Recording {
        entries: Vec::new(),
        answers: BTreeMap::new(),
        database: BTreeMap::new(),
        hash: pb::HashKvResponse::default(),
        judged: Vec::new(),
    };
    let mut rest = RECORDING;
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(5);
        let (body, tail) =
            tail.split_at(u32::from_le_bytes(head[1..].try_into().expect("4 bytes")) as usize);
        rest = tail;
        let index = || u64::from_le_bytes(body[..8].try_into().expect("8 bytes"));
        match head[0] {
            b'E' => recording
                .entries
                .push(Entry::decode(body).expect("an entry")),
            b'A' => {
                recording
                    .answers
                    .insert(index(), Answer::Response(body[8], &body[9..]));
            }
            b'X' => {
                let code = i32::from_le_bytes(body[8..12].try_into().expect("4 bytes"));
                let text = String::from_utf8(body[12..].to_vec()).expect("text");
                recording
                    .answers
                    .insert(index(), Answer::Refused(code, text));
            }
            b'K' => {
                let name = body[0] as usize;
                let key = u32::from_le_bytes(body[1..5].try_into().expect("4 bytes")) as usize;
                let (name, rest) = body[5..].split_at(name);
                let (key, value) = rest.split_at(key);
                recording
                    .database
                    .insert((name.to_vec(), key.to_vec()), value.to_vec());
            }
            b'H' => recording.hash = pb::HashKvResponse::decode(body).expect("a hash"),
            b'Q' => {
                let code = i32::from_le_bytes(body[..4].try_into().expect("4 bytes"));
                let (text, request) = body[5..].split_at(body[4] as usize);
                let text = String::from_utf8(text.to_vec()).expect("text");
                recording.judged.push((code, text, request));
            }
            kind => panic!("item of kind {kind}"),
        }
    }
    recording
}

struct Member {
    disk: Arc<MemDisk>,
    applier: Applier,
    committer: Committer,
}

impl Member {
    fn open(disk: Arc<MemDisk>) -> Member {
        let options = Options {
            growth_bytes: 1 << 16,
            map_bytes: 1 << 20,
            ..Options::default()
        };
        let (backend, writer, committer) =
            Backend::open(disk.clone(), Path::new("db"), options).expect("a database");
        let initial = parse_initial_cluster("a<1>=http://127.0.0.1:42380").expect("a cluster");
        let seed =
            Membership::seed(&initial, "etcd-cluster", LEARNERS_MAX_DEFAULT).expect("one member");
        let local_id = seed.members().next().expect("one member").id;
        let membership = if backend.committed_index() == 0 {
            let mut seed = seed;
            seed.set_ids(local_id, seed.cluster_id());
            seed
        } else {
            Membership::load(
                &backend.view(),
                seed.cluster_id(),
                local_id,
                LEARNERS_MAX_DEFAULT,
            )
            .expect("members")
        };
        let config = Config {
            quota: Quota::from_flag(0),
            lease: lease::Config {
                ttl_seconds_min: 2,
                checkpoint_interval: None,
            },
            persist_checkpoints: false,
            server_version: Version::new(3, 7),
        };
        let applier = Applier::open(backend, writer, Arc::new(Cluster::new(membership)), config)
            .expect("sound data");
        Member {
            disk,
            applier,
            committer,
        }
    }

    fn apply(&mut self, entry: &Entry, waits: bool) -> Outcome {
        let outcome = self
            .applier
            .apply_entry(entry, &|_| waits, Duration::ZERO)
            .expect("applicable");
        if outcome.hints.compacting.is_some() {
            while self
                .applier
                .mvcc()
                .compaction_hash_step(100)
                .expect("a hash")
            {}
            let (mvcc, writer) = self.applier.mvcc_writer();
            while mvcc.compact_step(writer, 100).expect("a step") == CompactStep::More {}
            writer.end_local();
        }
        outcome
    }

    /// A stop and a start: what was committed is there, the rest is gone.
    fn reopen(self) -> Member {
        let disk = self.disk.clone();
        drop(self);
        Member::open(disk)
    }

    fn database(&mut self) -> Database {
        self.applier.writer().end_local();
        self.committer.commit().expect("a commit");
        let view = self.applier.backend().view();
        let mut database = Database::new();
        for name in view.bucket_names() {
            view.scan_named(&name, &mut |key, value| {
                database.insert((name.to_vec(), key.to_vec()), value.to_vec());
                ControlFlow::Continue(())
            })
            .expect("a bucket");
        }
        database
    }
}

/// What the applier does not write: the server does (the storage version), or nobody yet
/// (auth).
fn is_foreign(bucket: &[u8], key: &[u8]) -> bool {
    bucket == b"auth" || (bucket, key) == (b"meta", b"storageVersion")
}

fn assert_same(ours: &Database, theirs: &Database) {
    let show = |(name, key): &(Vec<u8>, Vec<u8>), value: Option<&Vec<u8>>| {
        format!(
            "{} {:?} = {:?}",
            name.escape_ascii(),
            key.escape_ascii().to_string(),
            value.map(|value| value.escape_ascii().to_string())
        )
    };
    for (key, value) in theirs
        .iter()
        .filter(|((name, key), _)| !is_foreign(name, key))
    {
        assert_eq!(show(key, ours.get(key)), show(key, Some(value)));
    }
    for key in ours.keys() {
        assert!(
            theirs.contains_key(key),
            "only here: {}",
            show(key, ours.get(key))
        );
    }
}

/// Headers differ in what the server fills in.
fn without_ids(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        *header = pb::ResponseHeader {
            revision: header.revision,
            ..pb::ResponseHeader::default()
        };
    }
}

fn expected(kind: u8, bytes: &[u8]) -> Response {
    const SOUND: &str = "a recorded response";
    let mut response = match kind {
        b'P' => Response::Put(pb::PutResponse::decode(bytes).expect(SOUND)),
        b'D' => Response::DeleteRange(pb::DeleteRangeResponse::decode(bytes).expect(SOUND)),
        b'T' => Response::Txn(pb::TxnResponse::decode(bytes).expect(SOUND)),
        b'C' => Response::Compaction(pb::CompactionResponse::decode(bytes).expect(SOUND)),
        b'G' => Response::LeaseGrant(pb::LeaseGrantResponse::decode(bytes).expect(SOUND)),
        b'V' => Response::LeaseRevoke(pb::LeaseRevokeResponse::decode(bytes).expect(SOUND)),
        b'L' => Response::Alarm(pb::AlarmResponse::decode(bytes).expect(SOUND)),
        kind => panic!("response of kind {kind}"),
    };
    let header = response.header_mut().expect("all of these have one");
    *header = pb::ResponseHeader {
        revision: header.revision,
        ..pb::ResponseHeader::default()
    };
    response
}

fn assert_answer(outcome: Outcome, answer: &Answer) {
    let index = outcome.index;
    if let Some(change) = outcome.conf_change {
        match answer {
            Answer::Response(kind, bytes) => {
                let theirs = match kind {
                    b'M' => {
                        pb::MemberAddResponse::decode(*bytes)
                            .expect("a response")
                            .members
                    }
                    _ => {
                        pb::MemberRemoveResponse::decode(*bytes)
                            .expect("a response")
                            .members
                    }
                };
                let ours = change.result.expect("allowed");
                let ours: Vec<pb::Member> = ours
                    .into_iter()
                    .map(|member| pb::Member {
                        id: member.id.0,
                        name: member.name,
                        peer_urls: member.peer_urls,
                        client_urls: member.client_urls,
                        is_learner: member.is_learner,
                    })
                    .collect();
                assert_eq!(ours, theirs, "entry {index}");
            }
            Answer::Refused(code, text) => {
                let error = change.result.expect_err("refused");
                assert_eq!(
                    (error.code() as i32, error.text()),
                    (*code, text.as_str()),
                    "entry {index}"
                );
                assert_eq!(change.raft.node_id, 0);
            }
        }
        return;
    }
    let result = outcome
        .result
        .unwrap_or_else(|| panic!("entry {index} has no answer: {:?}", outcome.ignored));
    match answer {
        Answer::Response(kind, bytes) => {
            let mut ours = result.unwrap_or_else(|error| panic!("entry {index}: {error}"));
            if let Response::Txn(txn) = &mut ours {
                without_ids(&mut txn.header);
            }
            assert_eq!(ours, expected(*kind, bytes), "entry {index}");
        }
        Answer::Refused(code, text) => {
            let error = result.expect_err("refused");
            assert_eq!(
                (error.code() as i32, error.text()),
                (*code, text.as_str()),
                "entry {index}"
            );
        }
    }
}

#[test]
fn answers_and_database_are_etcds() {
    let recording = recording();
    let mut member = Member::open(Arc::new(MemDisk::new()));
    let mut answered = 0;
    for entry in &recording.entries {
        let outcome = member.apply(entry, true);
        if let Some(answer) = recording.answers.get(&entry.index) {
            assert_answer(outcome, answer);
            answered += 1;
        }
    }
    assert_eq!(answered, recording.answers.len());
    let (hash, _) = member.applier.mvcc().hash_by_revision(0).expect("a hash");
    assert_eq!(
        (hash.hash, hash.compact_revision, hash.revision),
        (
            recording.hash.hash,
            recording.hash.compact_revision,
            recording.hash.hash_revision
        )
    );
    let database = member.database();
    assert_same(&database, &recording.database);
}

/// Ranges in transactions are not worked out where nobody waits. It must not show.
#[test]
fn a_member_that_nobody_waits_on_comes_to_the_same() {
    let recording = recording();
    let mut member = Member::open(Arc::new(MemDisk::new()));
    let asked = Cell::new(0);
    for entry in &recording.entries {
        member
            .applier
            .apply_entry(
                entry,
                &|_| {
                    asked.set(asked.get() + 1);
                    false
                },
                Duration::ZERO,
            )
            .expect("applicable");
        while member
            .applier
            .mvcc()
            .compaction_hash_step(100)
            .expect("a hash")
        {}
        let (mvcc, writer) = member.applier.mvcc_writer();
        while mvcc.compact_step(writer, 100).expect("a step") == CompactStep::More {}
    }
    assert!(asked.get() > 0);
    assert_same(&member.database(), &recording.database);
}

/// Stops and starts, with the log read again from far back: entries that the database has
/// are passed over, the others done once.
#[test]
fn restarts_change_nothing() {
    let recording = recording();
    let entries = &recording.entries;
    let mut member = Member::open(Arc::new(MemDisk::new()));
    let mut replayed = 0;
    for stop in [2, 40, 41, 100, 170, 190, 200, entries.len()] {
        for (position, entry) in entries[..stop].iter().enumerate() {
            let outcome = member.apply(entry, position % 2 == 0);
            replayed += usize::from(outcome.replayed);
            if position + 7 == stop || position % 50 == 0 {
                member.committer.commit().expect("a commit");
            }
        }
        member = member.reopen();
    }
    assert!(replayed > 100);
    for entry in entries {
        member.apply(entry, true);
    }
    assert_same(&member.database(), &recording.database);
}

/// The checks at the door, against what etcd's door said.
#[test]
fn transactions_are_refused_as_etcd_refuses_them() {
    let recording = recording();
    for (position, (code, text, request)) in recording.judged.iter().enumerate() {
        let request = pb::TxnRequest::decode(*request).expect("a request");
        let ours = match apply::check::check_txn_request(&request, 128) {
            Ok(()) => (0, String::new()),
            Err(error) => (error.code() as i32, error.to_string()),
        };
        assert_eq!(
            ours,
            (*code, text.clone()),
            "transaction {position}: {request:?}"
        );
    }
    assert!(recording.judged.len() >= 500);
}
