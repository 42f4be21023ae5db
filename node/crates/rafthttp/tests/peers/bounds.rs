//! Whoever sends nonsense, too much, or reads nothing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftpb::{MemberId, MessageType as Type};

use crate::support::*;

fn headers(cluster: &str) -> String {
    format!(
        "Host: x\r\nX-Server-From: 9\r\nX-Server-Version: 3.7.3\r\n\
         X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: {cluster}\r\n"
    )
}

#[test]
fn a_slow_reader_fills_its_queue_and_no_more() {
    let (a, b) = (
        Member::start_with(1, |config| {
            config.limits.stream_queue_bytes_max = 1 << 20;
            // Long enough that the connection lives while nothing is read.
            config.timeouts.write = Duration::from_secs(20);
        }),
        Member::start(2),
    );
    a.knows(&b);
    // A reader that opens the stream of appends and never reads it.
    let dial = format!(
        "GET /raft/stream/msgapp/2 HTTP/1.1\r\nX-Raft-To: 1\r\n{}\r\n",
        headers("c1")
    );
    let mut lazy = TcpStream::connect(a.address).unwrap();
    lazy.write_all(dial.as_bytes()).unwrap();
    eventually("attached", || a.transport.peers()[0].msgapp_stream_attached);
    let data = Bytes::from(vec![7; 64 << 10]);
    let mut sent = 0_u64;
    // The kernel's buffers take some megabytes, the queue one, and then it ends.
    while a.record.unreachable.load(Ordering::Relaxed) == 0 {
        sent += 1;
        a.transport.send(vec![append(a.id, b.id, sent, &data)]);
        assert!(sent < 1000, "60 MiB are held for a peer that reads nothing");
        std::thread::sleep(Duration::from_micros(200));
    }
    let failures = a.transport.peers()[0].stats.sent_failures;
    assert!(failures > 0);
}

#[test]
fn a_peer_that_stops_reading_loses_its_connection() {
    let (a, b) = (Member::start(1), Member::start(2));
    a.knows(&b);
    let dial = format!(
        "GET /raft/stream/msgapp/2 HTTP/1.1\r\nX-Raft-To: 1\r\n{}\r\n",
        headers("c1")
    );
    let mut lazy = TcpStream::connect(a.address).unwrap();
    lazy.write_all(dial.as_bytes()).unwrap();
    eventually("attached", || a.transport.peers()[0].msgapp_stream_attached);
    let data = Bytes::from(vec![7; 1 << 20]);
    let mut index = 0;
    eventually("the connection was given up", || {
        index += 1;
        a.transport.send(vec![append(a.id, b.id, index, &data)]);
        !a.transport.peers()[0].msgapp_stream_attached
    });
    eventually("raft knows", || {
        a.record.unreachable.load(Ordering::Relaxed) > 0
    });
}

/// A peer whose streams say whatever the test wants.
fn liar(lies: &'static [u8]) -> (TcpListener, Arc<AtomicUsize>) {
    let listener = listen();
    let dials = Arc::new(AtomicUsize::new(0));
    let (theirs, counter) = (listener.try_clone().unwrap(), dials.clone());
    std::thread::spawn(move || {
        while let Ok((mut tcp, _)) = theirs.accept() {
            counter.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let mut request = [0; 2048];
                let _ = tcp.read(&mut request);
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let _ = tcp.write_all(head.as_bytes());
                let _ = tcp.write_all(format!("{:x}\r\n", lies.len()).as_bytes());
                let _ = tcp.write_all(lies);
                let _ = tcp.write_all(b"\r\n");
                // Until the other end has had enough.
                let _ = tcp.read(&mut request);
            });
        }
    });
    (listener, dials)
}

#[test]
fn a_lying_peer_is_dropped_and_dialled_again_slowly() {
    const HUGE: &[u8] = &[2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    const NONSENSE: &[u8] = &[0x99; 64];
    const SHORT_WITHOUT_MEMORY: &[u8] = &[
        1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 16, 1, 24, 9, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    for lies in [HUGE, NONSENSE, SHORT_WITHOUT_MEMORY] {
        let a = Member::start(1);
        let (listener, dials) = liar(lies);
        let url = format!("http://{}", listener.local_addr().unwrap());
        let started = Instant::now();
        a.transport.add_peer(MemberId(2), &[url]).unwrap();
        eventually("dialled again", || dials.load(Ordering::Relaxed) >= 12);
        // Two streams, each no more often than every redial time.
        let streams = 2.0 * (started.elapsed().as_secs_f64() / quick().redial.as_secs_f64() + 1.0);
        // Probes dial too.
        let probes = started.elapsed().as_secs_f64() / quick().probe.as_secs_f64();
        assert!((dials.load(Ordering::Relaxed) as f64) <= streams + probes + 1.0);
        assert!(a.record.messages.lock().is_empty());
    }
}

#[test]
fn messages_that_a_stream_must_not_bring_do_not_reach_raft() {
    let (a, b) = pair();
    let third = MemberId(3);
    b.record.removed.lock().push(third);
    let mut astray = message(Type::MsgVote, a.id, third);
    // a believes that b is member 3, too.
    a.transport.add_peer(third, &[b.url()]).unwrap();
    a.transport.send(vec![astray.clone()]);
    // From a removed member, over a's own stream.
    astray = message(Type::MsgVote, third, b.id);
    a.transport.send(vec![astray]);
    a.transport
        .send(vec![message(Type::MsgHeartbeat, a.id, b.id)]);
    eventually("the good one arrived", || {
        b.record.received(Type::MsgHeartbeat) == 1
    });
    assert_eq!(b.record.received(Type::MsgVote), 0);
    assert!(b.transport.peers()[0].stats.received_failures >= 1);
    assert_eq!(
        a.record.told_removed.load(Ordering::Relaxed),
        0,
        "a wrong URL is no removal"
    );
}

#[test]
fn posts_are_bounded_each_and_together() {
    let b = Member::start_with(2, |config| {
        config.limits.message_bytes_max = 100_000;
        config.limits.posts_bytes_max = 150_000;
    });
    let post = |size: usize| {
        let mut request = format!(
            "POST /raft HTTP/1.1\r\nContent-Length: {size}\r\n{}\r\n",
            headers("c1")
        )
        .into_bytes();
        request.resize(request.len() + size, 0xff);
        request
    };
    assert_eq!(parts(&raw(b.address, &post(100_001))).0, 413);
    let unreadable = raw(b.address, &post(1000));
    assert_eq!(
        parts(&unreadable),
        (400, "error unmarshalling raft message\n")
    );
    // One that stays unfinished holds its bytes; the next is too much.
    let whole = post(90_000);
    let mut half = TcpStream::connect(b.address).unwrap();
    half.write_all(&whole[..whole.len() - 10]).unwrap();
    eventually("both together are too much", || {
        parts(&raw(b.address, &post(90_000))).0 == 503
    });
    drop(half);
    eventually("room again", || {
        parts(&raw(b.address, &post(90_000))).0 == 400
    });
}

#[test]
fn connections_are_bounded() {
    let b = Member::start_with(2, |config| {
        config.limits.connections_max = 3;
        config.timeouts.read = Duration::from_secs(60);
    });
    let mut held: Vec<TcpStream> = (0..3)
        .map(|_| TcpStream::connect(b.address).unwrap())
        .collect();
    let request = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    for tcp in &mut held {
        tcp.write_all(request).unwrap();
        let mut first = [0; 12];
        tcp.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }
    let mut waiting = TcpStream::connect(b.address).unwrap();
    waiting.write_all(request).unwrap();
    waiting
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut first = [0; 12];
    assert!(
        waiting.read(&mut first).is_err(),
        "a fourth is served beyond the limit"
    );
    held.pop();
    waiting
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    waiting.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
}

#[test]
fn strangers_are_bounded() {
    let b = Member::start_with(2, |config| config.limits.remotes_max = 5);
    for id in 10..30 {
        let dial = format!(
            "GET /raft/stream/message/{id:x} HTTP/1.1\r\nX-Raft-To: 2\r\n\
             X-PeerURLs: http://127.0.0.1:1,nonsense\r\n{}\r\n",
            headers("c1")
        );
        assert_eq!(
            parts(&raw(b.address, dial.as_bytes())),
            (404, "error sender not found\n")
        );
    }
    assert_eq!(b.transport.peers().len(), 5);
}

#[test]
fn a_stranger_that_moved_is_answered_where_it_is() {
    let (a, b) = (Member::start(1), Member::start(2));
    let dial = |urls: &str| {
        let request = format!(
            "GET /raft/stream/message/1 HTTP/1.1\r\nX-Raft-To: 2\r\nX-PeerURLs: {urls}\r\n{}\r\n",
            headers("c1")
        );
        raw(b.address, request.as_bytes());
    };
    dial("http://127.0.0.1:1");
    dial(&format!("http://{}", a.address));
    b.transport
        .send(vec![message(Type::MsgVoteResp, b.id, a.id)]);
    eventually("a has the answer", || {
        a.record.received(Type::MsgVoteResp) == 1
    });
}

#[test]
fn random_requests_never_stop_the_listener() {
    let b = Member::start(2);
    let mut seed = 1_u64;
    let mut dice = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize
    };
    let paths = [
        "/raft",
        "/raft/snapshot",
        "/raft/stream/msgapp/1",
        "/leases",
        "/members/hashkv",
    ];
    for _ in 0..200 {
        let path = paths[dice() % paths.len()];
        let method = ["GET", "POST", "PUT"][dice() % 3];
        let mut request = format!("{method} {path} HTTP/1.1\r\n{}", headers("c1")).into_bytes();
        let size = dice() % 300;
        request.extend(format!("Content-Length: {size}\r\n\r\n").into_bytes());
        request.extend((0..size).map(|_| dice() as u8));
        for _ in 0..dice() % 3 {
            let at = dice() % request.len();
            request[at] = dice() as u8;
        }
        let mut tcp = TcpStream::connect(b.address).unwrap();
        let _ = tcp.write_all(&request);
        drop(tcp);
    }
    assert!(b.record.databases.lock().is_empty());
    let alive = raw(b.address, b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(parts(&alive).0, 200);
}
