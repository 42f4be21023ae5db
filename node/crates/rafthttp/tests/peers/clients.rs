//! Which client uses which connection, and where clients and listeners are made.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;
use raftpb::{MemberId, MessageType as Type};

use crate::support::*;

/// One request as the peer saw it: the number of its connection, and its path.
type Seen = Arc<Mutex<Vec<(usize, String)>>>;

/// A peer that takes every POST, knows nobody's stream, and writes down who came how.
fn peer() -> (SocketAddr, Seen) {
    let listener = listen();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let shared = seen.clone();
    std::thread::spawn(move || {
        for (number, tcp) in listener.incoming().enumerate() {
            let (tcp, seen) = (tcp.unwrap(), shared.clone());
            std::thread::spawn(move || serve(&tcp, number, &seen));
        }
    });
    (address, seen)
}

fn serve(tcp: &TcpStream, number: usize, seen: &Seen) -> Option<()> {
    let mut reader = BufReader::new(tcp);
    loop {
        let mut first = String::new();
        let mut body = 0;
        if reader.read_line(&mut first).ok()? == 0 {
            return None;
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let line = line.trim().to_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(length) = line.strip_prefix("content-length: ") {
                body = length.parse().ok()?;
            }
        }
        reader.read_exact(&mut vec![0; body]).ok()?;
        let path = first.split(' ').nth(1)?.to_owned();
        let answer: &[u8] = if first.starts_with("POST") {
            b"HTTP/1.1 204 No Content\r\n\r\n"
        } else {
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        };
        let mut tcp = tcp;
        tcp.write_all(answer).ok()?;
        seen.lock().push((number, path));
    }
}

#[test]
fn promise_09_streams_pipeline_and_questions_have_clients_of_their_own() {
    let a = Member::start_with(1, |config| {
        // Long enough that five POSTs surely fall into the first half of it.
        config.timeouts.read = std::time::Duration::from_secs(2);
    });
    let (address, seen) = peer();
    a.transport
        .add_peer(MemberId(2), &[format!("http://{address}")])
        .unwrap();
    let posts = || -> Vec<usize> {
        let seen = seen.lock();
        let posts = seen.iter().filter(|(_, path)| path == "/raft");
        posts.map(|(number, _)| *number).collect()
    };
    let post = || {
        let before = posts().len();
        a.transport
            .send(vec![message(Type::MsgVote, a.id, MemberId(2))]);
        eventually("posted", || posts().len() > before);
        // The connection goes back to the pool after the answer was read.
        eventually("answered", || {
            a.transport.peers()[0].stats.sent_bytes >= 8 * (before as u64 + 1)
        });
    };
    for _ in 0..5 {
        post();
    }
    let first = posts();
    assert!(first.iter().all(|number| *number == first[0]), "{first:?}");
    // Half of the read time-out later, the connection may be timed out at the other end soon.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    post();
    assert!(
        !first.contains(posts().last().unwrap()),
        "an old connection was used again"
    );
    // Each stream and each probe had a connection that nothing else used.
    eventually("streams and probes came", || {
        let seen = seen.lock();
        let came = |part: &str| seen.iter().any(|(_, path)| path.contains(part));
        came("msgapp") && came("stream/message") && came("probing")
    });
    let seen = seen.lock();
    for (number, path) in seen.iter().filter(|(_, path)| path != "/raft") {
        let others = seen.iter().filter(|(other, _)| other == number);
        assert_eq!(
            others.count(),
            1,
            "connection {number} of {path} was used again"
        );
    }
}

#[test]
fn promise_04_clients_and_listeners_are_made_in_one_place_each() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut places: Vec<(String, String)> = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(file.path()).unwrap();
        for maker in [
            "TcpStream::connect",
            "http1::handshake",
            "TcpListener::bind",
            "serve_connection",
        ] {
            if text.contains(maker) {
                places.push((maker.to_owned(), name.clone()));
            }
        }
    }
    places.sort();
    let expected = [
        ("TcpListener::bind", "listener.rs"),
        ("TcpStream::connect", "client.rs"),
        ("http1::handshake", "client.rs"),
        ("serve_connection", "listener.rs"),
    ];
    let expected = expected.map(|(maker, file)| (maker.to_owned(), file.to_owned()));
    assert_eq!(places, expected);
}
