//! Ours with ours.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rafthttp::{ClusterId, Error};
use raftpb::{MemberId, Message, MessageType as Type};

use crate::support::*;

#[test]
fn messages_take_the_streams_and_keep_their_order() {
    let (a, b) = pair();
    let data = Bytes::from_static(b"value");
    for index in 1..=500 {
        let batch = vec![
            append(a.id, b.id, index, &data),
            Message {
                commit: index,
                ..message(Type::MsgHeartbeat, a.id, b.id)
            },
        ];
        a.transport.send(batch);
    }
    eventually("all arrived", || b.record.messages.lock().len() == 1000);
    let messages = b.record.messages.lock();
    let of = |kind: Type| messages.iter().filter(move |m| m.msg_type == kind as i32);
    let appended: Vec<u64> = of(Type::MsgApp).map(|m| m.entries[0].index).collect();
    assert_eq!(appended, (1..=500).collect::<Vec<_>>());
    let commits: Vec<u64> = of(Type::MsgHeartbeat).map(|m| m.commit).collect();
    assert_eq!(commits, (1..=500).collect::<Vec<_>>());
    assert_eq!(
        of(Type::MsgApp).last(),
        Some(&append(a.id, b.id, 500, &data))
    );
    assert_eq!(a.record.unreachable.load(Ordering::Relaxed), 0);
}

#[test]
fn without_streams_messages_go_by_post() {
    let (a, b) = (Member::start(1), Member::start(2));
    // b does not know a, so it never dials it.
    a.knows(&b);
    for _ in 0..10 {
        a.transport.send(vec![message(Type::MsgVote, a.id, b.id)]);
    }
    eventually("votes arrived", || b.record.received(Type::MsgVote) == 10);
    assert!(!a.streams_attached(b.id));
    eventually("each counts its eight bytes", || {
        a.transport.peers()[0].stats.sent_bytes == 80
    });
}

#[test]
fn a_stranger_that_dials_is_answered_by_post() {
    // Quirk 34: the new member b has no membership yet; a, a member, dials it.
    let (a, b) = (Member::start(1), Member::start(2));
    a.knows(&b);
    eventually("b noted a", || {
        b.transport.peers().iter().any(|peer| peer.remote)
    });
    b.transport
        .send(vec![message(Type::MsgVoteResp, b.id, a.id)]);
    eventually("a has the answer", || {
        a.record.received(Type::MsgVoteResp) == 1
    });
    assert_eq!(
        b.transport.active_since(a.id),
        None,
        "a stranger is not a peer"
    );
    // When it learns the membership, the stranger becomes a peer and streams stand.
    b.knows(&a);
    eventually("streams stand", || {
        a.streams_attached(b.id) && b.streams_attached(a.id)
    });
    assert!(b.transport.peers().iter().all(|peer| !peer.remote));
}

#[test]
fn a_million_appends_arrive_in_order() {
    const COUNT: u64 = 1_000_000;
    const BATCH: u64 = 256;
    let (a, b) = pair();
    b.record.count_only.store(true, Ordering::Relaxed);
    let data = Bytes::from(vec![7; 100]);
    let before = cpu_time();
    let started = Instant::now();
    let mut next = 1;
    while next <= COUNT {
        let end = (next + BATCH).min(COUNT + 1);
        a.transport.send(
            (next..end)
                .map(|index| append(a.id, b.id, index, &data))
                .collect(),
        );
        next = end;
        // No more under way than the queue holds.
        eventually("the stream keeps up", || {
            next - b.record.last_index.load(Ordering::Relaxed) <= 4096 - BATCH
        });
    }
    eventually("the last one arrived", || {
        b.record.entries.load(Ordering::Relaxed) == COUNT
    });
    assert_eq!(b.record.last_index.load(Ordering::Relaxed), COUNT);
    assert_eq!(a.record.unreachable.load(Ordering::Relaxed), 0);
    let cpu = cpu_time().saturating_sub(before);
    println!(
        "{COUNT} appends of one entry in {:?}; CPU of both ends and the test {} ns an entry",
        started.elapsed(),
        cpu.as_nanos() as u64 / COUNT
    );
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
fn promise_05_asking_after_idle_time_never_fails() {
    let (a, b) = pair();
    let asks = a.asks();
    let urls = [b.url()];
    for round in 0..2 {
        for ask in 0..50 {
            let versions = a.runtime.block_on(asks.version(&urls)).unwrap();
            assert_eq!(versions.server, "3.7.3", "round {round}, question {ask}");
            // Also the questions that may use a kept connection.
            assert_eq!(a.runtime.block_on(asks.lease_renew(&b.url(), 5)), Ok(60));
        }
        // A passage of time is what is tested: three time-outs of the listener.
        std::thread::sleep(quick().read * 3);
    }
    assert!(a.streams_attached(b.id), "the streams lived through it");
}

#[test]
fn promise_05_a_listener_closes_idle_connections_and_no_others() {
    use std::io::{Read, Write};
    let (a, b) = pair();
    let mut idle = std::net::TcpStream::connect(b.address).unwrap();
    let mut slow = std::net::TcpStream::connect(b.address).unwrap();
    slow.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n")
        .unwrap();
    let mut kept = std::net::TcpStream::connect(b.address).unwrap();
    kept.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let started = Instant::now();
    for tcp in [&mut idle, &mut slow, &mut kept] {
        tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut rest = Vec::new();
        // An end or a reset; what matters is that it comes.
        let _ = tcp.read_to_end(&mut rest);
    }
    let took = started.elapsed();
    assert!(took < quick().read * 4, "closed after {took:?}");
    assert!(took > quick().read / 2, "closed after {took:?}");
    let since = a.transport.active_since(b.id).unwrap();
    assert!(since < started, "the streams lived through it");
}

#[test]
fn a_peer_that_comes_back_is_active_again() {
    let (a, b) = pair();
    let first = a.transport.active_since(b.id).unwrap();
    let (address, id) = (b.address, b.id);
    drop(b);
    eventually("a noticed", || a.transport.active_since(id).is_none());
    let view = &a.transport.peers()[0];
    assert!(view.stats.disconnected >= 1);
    let listener = std::net::TcpListener::bind(address).unwrap();
    let b = Member::start_on(listener, id, CLUSTER, |_| {});
    b.knows(&a);
    eventually("streams stand again", || {
        a.streams_attached(b.id)
            && b.streams_attached(a.id)
            && a.transport.active_since(id).is_some()
    });
    assert!(a.transport.active_since(id).unwrap() > first);
    a.transport.send(vec![append(a.id, b.id, 1, &Bytes::new())]);
    eventually("messages flow", || b.record.received(Type::MsgApp) == 1);
}

#[test]
fn a_silent_peer_is_found_out() {
    let (a, b) = pair();
    // b's runtime stands still: its connections stay open and say nothing.
    let (wake, sleep) = std::sync::mpsc::channel::<()>();
    b.runtime.spawn(async move {
        let _ = sleep.recv();
    });
    eventually("a noticed", || a.transport.active_since(b.id).is_none());
    wake.send(()).unwrap();
    eventually("and sees it again", || {
        a.transport.active_since(b.id).is_some()
    });
}

#[test]
fn a_cut_peer_hears_and_says_nothing() {
    let (a, b) = pair();
    a.transport.cut(b.id);
    a.transport.send(vec![message(Type::MsgVote, a.id, b.id)]);
    b.transport
        .send(vec![message(Type::MsgVoteResp, b.id, a.id)]);
    eventually("b's message left", || {
        b.transport.peers()[0].stats.sent_bytes > 0
    });
    a.transport.mend(b.id);
    a.transport
        .send(vec![message(Type::MsgHeartbeat, a.id, b.id)]);
    b.transport
        .send(vec![message(Type::MsgHeartbeatResp, b.id, a.id)]);
    eventually("later messages arrived", || {
        b.record.received(Type::MsgHeartbeat) == 1 && a.record.received(Type::MsgHeartbeatResp) == 1
    });
    assert_eq!(b.record.received(Type::MsgVote), 0);
    assert_eq!(
        a.record.unreachable.load(Ordering::Relaxed),
        0,
        "it is not known to be lost"
    );
}

#[test]
fn a_dead_url_gives_way_to_the_next() {
    let (a, b) = (Member::start(1), Member::start(2));
    let dead = listen().local_addr().unwrap();
    let urls = [format!("http://{dead}"), b.url()];
    a.transport.add_peer(b.id, &urls).unwrap();
    b.knows(&a);
    eventually("streams stand", || {
        a.streams_attached(b.id) && b.streams_attached(a.id)
    });
    a.transport.update_peer(b.id, &[b.url()]).unwrap();
    assert!(
        a.transport
            .update_peer(b.id, &["ftp://x:1".to_owned()])
            .is_err()
    );
    assert!(a.streams_attached(b.id));
}

#[test]
fn who_was_removed_is_told() {
    let (a, b) = pair();
    b.record.removed.lock().push(a.id);
    b.transport.remove_peer(a.id);
    eventually("a was told by its stream", || {
        a.record.told_removed.load(Ordering::Relaxed) > 0
    });
    a.record.told_removed.store(0, Ordering::Relaxed);
    // By POST as well. (The streams to b are gone, so this is the way.)
    a.transport.send(vec![message(Type::MsgVote, a.id, b.id)]);
    eventually("and unreachable", || {
        a.record.unreachable.load(Ordering::Relaxed) > 0
    });
    assert_eq!(b.record.received(Type::MsgVote), 0);
    assert!(
        b.transport.peers().is_empty(),
        "b does not note it as a stranger"
    );
}

#[test]
fn removed_peers_get_nothing_more() {
    let (a, b) = pair();
    a.transport.remove_peer(b.id);
    a.transport.send(vec![message(Type::MsgVote, a.id, b.id)]);
    assert_eq!(a.transport.active_since(b.id), None);
    a.transport.remove_all();
    b.transport.remove_all();
    eventually("nothing is left", || {
        a.transport.peers().iter().all(|p| p.remote) && b.transport.peers().iter().all(|p| p.remote)
    });
    assert_eq!(b.record.received(Type::MsgVote), 0);
}

#[test]
fn probes_measure_distance_and_clock() {
    let (a, b) = pair();
    eventually("a probe came back", || {
        let probe = &a.transport.peers()[0].probe;
        probe.rtt.is_some()
    });
    let view = &a.transport.peers()[0];
    assert!(view.probe.rtt.unwrap() < Duration::from_secs(1));
    assert!(view.probe.clock_drift_ms.unwrap().abs() < 1000);
    assert!(view.stats.rtt.count >= 1);
    let id = b.id;
    drop(b);
    eventually("a probe failed", || {
        let peers = a.transport.peers();
        peers
            .iter()
            .any(|p| p.id == id && p.probe.failure.is_some())
    });
}

#[test]
fn promise_12_every_question_has_its_answer_or_an_exact_reason() {
    let (a, b) = (Member::start(1), Member::start(2));
    let asks = a.asks();
    let url = b.url();
    assert!(
        a.runtime
            .block_on(asks.promote(&url, MemberId(7), Some("secret")))
            .is_ok()
    );
    let (members, cluster) = a.runtime.block_on(asks.members(&url)).unwrap();
    assert_eq!(cluster, CLUSTER);
    assert!(members.starts_with(b"[{\"id\":1,") && members.ends_with(b"]\n"));
    let hash = a.runtime.block_on(asks.hash_kv(&url, CLUSTER, 9)).unwrap();
    assert_eq!((hash.hash, hash.revision), (0xdead_beef, 100));
    assert_eq!((hash.compact_revision, hash.hash_revision), (-1, 9));
    assert_eq!(
        a.runtime
            .block_on(asks.downgrade_enabled(std::slice::from_ref(&url))),
        Ok(true)
    );
    let lease = a
        .runtime
        .block_on(asks.lease_time_to_live(&url, 5, true))
        .unwrap();
    assert_eq!((lease.id, lease.ttl, lease.granted_ttl), (5, 10, 60));
    assert_eq!(lease.keys, [Bytes::from_static(b"k")]);

    let status = |error: Result<(), Error>| match error {
        Err(Error::Status { status, body, .. }) => (status, body),
        other => panic!("{other:?}"),
    };
    let promote = |id, token| {
        let said = a.runtime.block_on(asks.promote(&url, MemberId(id), token));
        status(said.map(|_| ()))
    };
    assert_eq!(promote(7, None).0, 500);
    assert_eq!(
        promote(8, None),
        (
            412,
            "etcdserver: can only promote a learner member".to_owned()
        )
    );
    assert_eq!(promote(9, None).0, 404);
    let membership = |cluster, question| {
        let question = Bytes::from_static(question);
        a.runtime.block_on(asks.membership(&url, cluster, question))
    };
    assert_eq!(membership(CLUSTER, b"{}").unwrap(), "{\"code\":0}");
    assert_eq!(status(membership(CLUSTER, b"[").map(|_| ())).0, 400);
    let other = rafthttp::ClusterId(CLUSTER.0 + 1);
    assert_eq!(status(membership(other, b"{}").map(|_| ())).0, 412);
    let said = a.runtime.block_on(asks.lease_renew(&url, 6));
    assert_eq!(
        status(said.map(|_| ())),
        (404, "lease not found".to_owned())
    );
    let said = a.runtime.block_on(asks.hash_kv(&url, CLUSTER, 101));
    let future = "mvcc: required revision is a future revision".to_owned();
    assert_eq!(status(said.map(|_| ())), (400, future));
    let said = a.runtime.block_on(asks.hash_kv(&url, ClusterId(7), 1));
    assert_eq!(
        status(said.map(|_| ())),
        (412, "cluster ID mismatch".to_owned())
    );

    let dead = format!("http://{}", listen().local_addr().unwrap());
    let error = a
        .runtime
        .block_on(asks.version(std::slice::from_ref(&dead)))
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&dead) && text.contains("refused") && text.contains("--listen-peer-urls"),
        "{text}"
    );
    let mute = listen();
    let mute_url = format!("http://{}", mute.local_addr().unwrap());
    let quickly = asks.within(Duration::from_millis(50));
    let error = a.runtime.block_on(quickly.members(&mute_url)).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(matches!(
        a.runtime.block_on(asks.version(&[])),
        Err(Error::NoUrl { .. })
    ));
    // The first URL that answers is enough.
    assert!(a.runtime.block_on(asks.version(&[dead, b.url()])).is_ok());
}
