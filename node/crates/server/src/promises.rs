//! Promises of the loops and their lanes, and what keeps them when something breaks: the loops of
//! one member, without sockets, on a disk in memory.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use bytes::Bytes;
use membership::Membership;
use prost::Message as _;
use raftnode::{Inputs, RaftNode, Recovered, Role, SoftState};
use raftpb::{ConfState, Entry, MemberId, Message, Snapshot, SnapshotMetadata};
use seams::{Disk, ManualClock, MemDisk, SeededRng};

use crate::applier::{ApplierInbox, ApplierLoop, CompactionPace, JOBS_MAX, Job};
use crate::boot::{self, Booted, Start};
use crate::committer::CommitterThread;
use crate::config::Config;
use crate::judge::LogWindow;
use crate::lane::Lane;
use crate::raftloop::{Outbound, RaftLoop, Submission};
use crate::shared::{Shared, State, UNAPPLIED_MAX};
use crate::snapshots::Snapshots;
use crate::walwriter::{WalInbox, WalWriter};

/// The parts of a new cluster of one.
struct Parts {
    disk: Arc<dyn Disk>,
    config: Config,
    booted: Booted,
    shared: Arc<Shared>,
}

fn parts() -> Parts {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
    let config = Config {
        data_dir: PathBuf::from("/data"),
        ..Config::default()
    };
    let by_name = config.peer_urls_by_name();
    let mut membership =
        Membership::seed(&by_name, &config.initial_cluster_token, 1).expect("a cluster of one");
    let id = membership
        .member_by_name(&config.name)
        .expect("this member")
        .id;
    let cluster_id = membership.cluster_id();
    membership.set_ids(id, cluster_id);
    let booted = boot::boot(&disk, &config, Start::New(membership)).expect("a first start");
    let applier = &booted.applier;
    let state = State {
        backend: applier.backend().clone(),
        mvcc: applier.mvcc().clone(),
        lessor: applier.lessor().clone(),
        cluster: applier.cluster().clone(),
        alarms: applier.alarms().clone(),
    };
    let shared = Arc::new(Shared::new(
        id,
        cluster_id,
        config.election_ticks,
        state,
        0,
        1,
    ));
    let reason = Box::new(|_| api::Error::Timeout);
    let lane = Lane::new(
        0,
        id.0,
        1,
        Duration::from_secs(60),
        shared.inbox.clone(),
        reason,
    );
    shared.set_lanes(vec![Arc::new(lane)]);
    Parts {
        disk,
        config,
        booted,
        shared,
    }
}

fn spawn(body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(body)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::yield_now();
    }
}

struct Nowhere;

impl Outbound for Nowhere {
    fn send(&mut self, _: Vec<Message>) {}
    fn send_snapshot(&mut self, _: Message) {}
}

fn put(id: u64, value: u64) -> Bytes {
    let request = pb::InternalRaftRequest {
        header: Some(pb::RequestHeader {
            id,
            ..Default::default()
        }),
        put: Some(pb::PutRequest {
            key: Bytes::from_static(b"k"),
            value: value.to_string().into_bytes().into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    request.encode_to_vec().into()
}

#[test]
fn promise_02_raft_never_waits_for_the_applier() {
    /// Proposals a turn: few, so that the lane of jobs is full before the door closes.
    const EACH: u64 = 4;
    let Parts { booted, shared, .. } = parts();
    let id = booted.id;
    let recovered = Recovered {
        conf_state: ConfState {
            voters: vec![id.0],
            ..ConfState::default()
        },
        applied: 1,
        ..booted.recovered
    };
    let node = RaftNode::new(
        raftnode::Config::new(id, Box::new(SeededRng::new(1))),
        recovered,
    )
    .expect("a log of one entry");
    let (wal, applier): (Arc<WalInbox>, Arc<ApplierInbox>) = Default::default();
    let writer = WalWriter {
        wal: booted.wal,
        snapshotter: booted.snapshotter,
        max_wals: 5,
        max_snapshots: 5,
        sync: true,
        metrics: Arc::default(),
    };
    let wal_thread = spawn({
        let (wal, shared) = (wal.clone(), shared.clone());
        move || writer.run(&wal, &shared.inbox, &shared)
    });
    let raft = RaftLoop {
        node,
        inbox: shared.inbox.clone(),
        wal: wal.clone(),
        applier: applier.clone(),
        outbound: Box::new(Nowhere),
        shared: shared.clone(),
        tick: Duration::from_millis(10),
    };
    let raft_thread = spawn(move || raft.run());
    shared.inbox.advance_ticks(30);
    until("the first entry of the term", || {
        shared.is_leader() && shared.committed() > 1
    });

    // Nobody takes the applier's jobs. The log goes on regardless.
    shared.set_applied(1);
    let mut proposed = 0;
    while shared.committed() <= 1 + UNAPPLIED_MAX {
        assert_eq!(shared.admit_proposal(), Ok(()), "at {}", shared.committed());
        let goal = shared.committed() + EACH;
        let batch = (0..EACH)
            .map(|n| Submission::Entry {
                id: n,
                data: put(n, n),
            })
            .collect();
        shared.inbox.submit(batch, None);
        proposed += EACH;
        until("the commit of a batch", || shared.committed() >= goal);
    }
    assert_eq!(
        applier.len(),
        JOBS_MAX,
        "the lane is full, and raft keeps the rest"
    );
    assert_eq!(shared.admit_proposal(), Err(api::Error::TooManyRequests));

    // Once jobs are taken, all come, none twice, in the order of the log.
    let mut jobs = VecDeque::new();
    let mut next = 2;
    until("the rest of the entries", || {
        applier.take(&mut jobs, Duration::from_millis(1));
        for job in jobs.drain(..) {
            let Job::Entries(entries) = job else {
                panic!("only entries were committed: {job:?}")
            };
            for entry in entries {
                assert_eq!(entry.index, next);
                next += 1;
            }
        }
        next > 2 + proposed
    });
    shared.set_applied(next - 1);
    assert_eq!(shared.admit_proposal(), Ok(()));

    shared.inbox.stop();
    raft_thread.join().expect("the raft loop did not panic");
    wal.stop();
    wal_thread.join().expect("the WAL writer did not panic");
}

fn applier_loop(parts: Parts, runtime: &tokio::runtime::Runtime) -> ApplierLoop {
    let Parts {
        disk,
        config,
        booted,
        shared,
    } = parts;
    let fatal = Arc::new(|reason: String| panic!("{reason}"));
    let committer = CommitterThread::start(
        booted.committer,
        Arc::default(),
        Duration::from_millis(100),
        fatal,
    )
    .expect("a thread");
    ApplierLoop {
        applier: booted.applier,
        shared,
        snapshots: Snapshots {
            config,
            disk,
            wal: Arc::default(),
            committer,
            snapshotter: booted.snapshotter,
            last: 0,
            wanted: None,
            forced: false,
        },
        clock: Arc::new(ManualClock::new(Duration::ZERO)),
        warning: Duration::from_secs(60),
        election_timeout: Duration::from_secs(1),
        runtime: runtime.handle().clone(),
        version_changed: false,
        compaction: CompactionPace::new(0, Duration::ZERO),
        invalid_changes: LogWindow::default(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
}

#[test]
fn promise_03_applies_run_in_order_in_a_queue_of_their_own() {
    const ENTRIES: u64 = 500;
    let runtime = runtime();
    let parts = parts();
    let shared = parts.shared.clone();
    let lane = shared.lanes()[0].clone();
    let applier = applier_loop(parts, &runtime);
    let inbox: Arc<ApplierInbox> = Arc::default();

    // The main loop hands over and goes on: nothing is applied by that.
    let ids: Vec<u64> = (0..ENTRIES).map(|_| lane.next_id()).collect();
    for (index, id) in (1..).zip(&ids) {
        let entry = Entry {
            term: 1,
            index,
            data: put(*id, index),
            ..Entry::default()
        };
        inbox
            .try_push(Job::Read {
                lane: 0,
                round: index,
                index,
            })
            .expect("room");
        inbox.try_push(Job::Entries(vec![entry])).expect("room");
    }
    assert_eq!(shared.applied(), 0);
    assert_eq!(inbox.len(), 2 * ENTRIES as usize);

    let thread = spawn({
        let inbox = inbox.clone();
        move || applier.run(&inbox)
    });
    until("the last apply", || shared.applied() == ENTRIES);
    inbox.stop();
    thread.join().expect("the applier did not panic");

    let results = std::mem::take(&mut *lane.results.lock());
    let revisions: Vec<(u64, i64)> = results
        .replies
        .into_iter()
        .map(|(id, reply)| match reply {
            Ok(apply::Response::Put(put)) => (id, put.header.map_or(0, |header| header.revision)),
            other => panic!("a put was answered by {other:?}"),
        })
        .collect();
    assert_eq!(revisions, ids.into_iter().zip(2..).collect::<Vec<_>>());
    let reads: Vec<u64> = results.reads.into_iter().map(|(round, _)| round).collect();
    assert_eq!(reads, (1..=ENTRIES).collect::<Vec<_>>());
}

#[test]
fn conf_changes_reach_raft_before_the_snapshot_that_comes_after_them() {
    let runtime = runtime();
    let parts = parts();
    let shared = parts.shared.clone();
    let entries = parts.booted.recovered.entries.clone();
    let applier = applier_loop(parts, &runtime);
    let inbox = ApplierInbox::default();
    let metadata = SnapshotMetadata {
        index: 50,
        term: 1,
        ..SnapshotMetadata::default()
    };
    let snapshot = Snapshot {
        metadata: Some(metadata),
        ..Snapshot::default()
    };
    inbox.try_push(Job::Entries(entries)).expect("room");
    // Its database was never received, so the applier ends here.
    inbox
        .try_push(Job::Install(Box::new(snapshot)))
        .expect("room");
    applier.run(&inbox);
    let mut inputs = Inputs::default();
    shared.inbox.take(&mut inputs, Instant::now());
    assert_eq!(inputs.conf_results.len(), 1);
    assert_eq!((inputs.applied, inputs.snapshot_installed), (Some(1), None));
    let reason = shared.stopping().borrow().clone();
    assert!(reason.is_some_and(|reason| reason.contains("applying snapshot 50 failed")));
}

#[test]
fn a_member_whose_thread_panics_ends_and_answers_who_waits() {
    let Parts { shared, .. } = parts();
    let runtime = runtime();
    let lane = shared.lanes()[0].clone();
    let guard = shared.guard("the raft loop");
    let panicked = spawn(move || {
        let _guard = guard;
        panic!("on purpose");
    })
    .join();
    assert!(panicked.is_err());
    let reason = shared.stopping().borrow().clone().expect("a reason");
    assert!(reason.contains("the raft loop panicked"), "{reason}");
    assert_eq!(
        runtime.block_on(lane.linearizable_read()),
        Err(api::Error::Stopped)
    );
}

#[test]
fn a_database_pinned_for_a_peer_is_let_go_with_the_lead() {
    let Parts { shared, .. } = parts();
    let peer = MemberId(7);
    let soft = |role| SoftState {
        leader: None,
        role,
        term: 2,
    };
    let snapshot = || shared.state().backend.snapshot();
    assert!(
        !shared.pin_snapshot(peer, snapshot()),
        "only a leader sends snapshots"
    );
    shared.set_soft_state(soft(Role::Leader));
    assert!(shared.pin_snapshot(peer, snapshot()));
    assert!(shared.take_snapshot(peer).is_some());
    assert!(shared.pin_snapshot(peer, snapshot()));
    shared.set_soft_state(soft(Role::Follower));
    assert!(
        shared.take_snapshot(peer).is_none(),
        "its pages would be kept for ever"
    );
}

/// Its records are gone with the old database, so nobody may wait for their removal.
#[test]
fn who_waits_for_a_compaction_hears_when_a_snapshot_takes_its_place() {
    let runtime = runtime();
    let parts = parts();
    let shared = parts.shared.clone();
    let received = parts.booted.snapshotter.database_path(50);
    let options = backend::Options::default();
    let (_, mut writer, mut committer) =
        backend::Backend::open(parts.disk.clone(), &received, options).expect("a database");
    let revision = [&5u64.to_be_bytes()[..], b"_", &0u64.to_be_bytes()].concat();
    for key in ["scheduledCompactRev", "finishedCompactRev"] {
        let value = Bytes::from(revision.clone());
        writer.put(backend::Bucket::Meta, key.as_bytes(), value);
    }
    writer.end_entry(50, 1);
    committer.commit().expect("a commit");
    drop((writer, committer));
    let applier = applier_loop(parts, &runtime);
    let inbox = Arc::new(ApplierInbox::default());
    let finished = shared.compactions_finished();
    assert_eq!(*finished.borrow(), 0);
    let metadata = SnapshotMetadata {
        index: 50,
        term: 1,
        ..SnapshotMetadata::default()
    };
    let snapshot = Snapshot {
        metadata: Some(metadata),
        ..Snapshot::default()
    };
    inbox
        .try_push(Job::Install(Box::new(snapshot)))
        .expect("room");
    let thread = spawn({
        let inbox = inbox.clone();
        move || applier.run(&inbox)
    });
    until("the compaction's end", || *finished.borrow() >= 5);
    inbox.stop();
    thread.join().expect("no panic");
    assert_eq!(*shared.stopping().borrow(), None);
}
