//! Ours with a real etcd 3.7.3, in one cluster of two. Ours has no raft here: the test plays a
//! follower by hand, just well enough that etcd leads.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use rafthttp::{Asks, ClusterId, Error, Limits, Timeouts};
use raftpb::{MemberId, Message, MessageType as Type};

use crate::support::*;

/// The folder of the real binaries, or `None` with a line that says why the test is left out.
fn tools(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("QUORATE_TOOLS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target/tools"),
        PathBuf::from,
    );
    if folder.join("etcd").exists() && folder.join("etcdctl").exists() {
        return Some(folder);
    }
    let reason = format!("no etcd in {}; run `make tools`", folder.display());
    let all = std::env::var("QUORATE_TESTS").is_ok_and(|tests| tests == "all");
    assert!(!all, "{test}: {reason}");
    left_out(test, &reason);
    None
}

/// As testkit says it, which is above this room.
fn left_out(test: &str, reason: &str) {
    eprintln!("left out: {test}: {reason}");
    if let Some(path) = std::env::var_os("QUORATE_LEFT_OUT") {
        let file = File::options().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(format!("{test}\t{reason}\n").as_bytes()))
            .expect("the file that QUORATE_LEFT_OUT names can be written");
    }
}

struct Etcd {
    tools: PathBuf,
    dir: tempfile::TempDir,
    peer: SocketAddr,
    client: SocketAddr,
    cluster: String,
    process: Option<Child>,
}

impl Etcd {
    fn new(tools: PathBuf, ours: SocketAddr) -> Etcd {
        let (peer, client) = (listen(), listen());
        let (peer, client) = (peer.local_addr().unwrap(), client.local_addr().unwrap());
        Etcd {
            tools,
            dir: tempfile::tempdir().unwrap(),
            peer,
            client,
            cluster: format!("theirs=http://{peer},ours=http://{ours}"),
            process: None,
        }
    }

    fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let process = Command::new(self.tools.join("etcd"))
            .args(["--name", "theirs", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .args(["--listen-peer-urls", &format!("http://{}", self.peer)])
            .args([
                "--initial-advertise-peer-urls",
                &format!("http://{}", self.peer),
            ])
            .args(["--listen-client-urls", &format!("http://{}", self.client)])
            .args([
                "--advertise-client-urls",
                &format!("http://{}", self.client),
            ])
            .args(["--initial-cluster", &self.cluster])
            .arg("--strict-reconfig-check=false")
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
            .args(["--snapshot-count", "10", "--snapshot-catchup-entries", "3"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.peer)
    }

    /// Starts a command of etcdctl; the follower must answer while it runs.
    fn ctl(&self, arguments: &[&str]) -> Child {
        Command::new(self.tools.join("etcdctl"))
            .args([
                "--endpoints",
                &self.client.to_string(),
                "--command-timeout",
                "10s",
            ])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Etcd {
    #[expect(clippy::print_stdout, reason = "etcd's own words about a failure")]
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            for line in tail.iter().rev() {
                println!("etcd: {line}");
            }
        }
    }
}

/// A follower by hand: grants every vote, acknowledges every append in its place.
struct Follower<'a> {
    ours: &'a Member,
    theirs: MemberId,
    last: u64,
    read: usize,
    data: Vec<u8>,
    snapshots: usize,
    /// Refuse appends as a follower with an empty log does, until a snapshot comes.
    lost_its_log: bool,
}

impl<'a> Follower<'a> {
    fn new(ours: &'a Member, theirs: MemberId, last: u64) -> Follower<'a> {
        Follower {
            ours,
            theirs,
            last,
            read: 0,
            data: Vec::new(),
            snapshots: 0,
            lost_its_log: false,
        }
    }

    fn turn(&mut self) {
        let new: Vec<Message> = self.ours.record.messages.lock()[self.read..].to_vec();
        self.read += new.len();
        let answers = new.iter().filter_map(|message| self.answer(message));
        let answers: Vec<Message> = answers.collect();
        if !answers.is_empty() {
            self.ours.transport.send(answers);
        }
    }

    fn answer(&mut self, asked: &Message) -> Option<Message> {
        assert_eq!(asked.from, self.theirs.0);
        let reply = |kind| Message {
            term: asked.term,
            ..message(kind, self.ours.id, self.theirs)
        };
        match Type::try_from(asked.msg_type).unwrap() {
            Type::MsgPreVote => Some(reply(Type::MsgPreVoteResp)),
            Type::MsgVote => Some(reply(Type::MsgVoteResp)),
            Type::MsgHeartbeat => Some(Message {
                context: asked.context.clone(),
                ..reply(Type::MsgHeartbeatResp)
            }),
            Type::MsgApp if self.lost_its_log && asked.index > 0 => Some(Message {
                reject: true,
                index: asked.index,
                ..reply(Type::MsgAppResp)
            }),
            Type::MsgApp => {
                if let Some(entry) = asked.entries.last() {
                    self.last = entry.index;
                }
                for entry in &asked.entries {
                    self.data.extend_from_slice(&entry.data);
                }
                Some(Message {
                    index: asked.index + asked.entries.len() as u64,
                    ..reply(Type::MsgAppResp)
                })
            }
            Type::MsgSnap => {
                self.lost_its_log = false;
                self.snapshots += 1;
                let index = asked
                    .snapshot
                    .as_ref()
                    .unwrap()
                    .metadata
                    .as_ref()
                    .unwrap()
                    .index;
                self.last = index;
                Some(Message {
                    index,
                    ..reply(Type::MsgAppResp)
                })
            }
            _ => None,
        }
    }

    /// Answers until the command ended; gives what it printed.
    fn run(&mut self, mut command: Child) -> String {
        eventually("the command ended", || {
            self.turn();
            command.try_wait().unwrap().is_some()
        });
        let output = command.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{complaint}");
        said
    }
}

#[test]
fn a_real_etcd_takes_ours_for_one_of_its_own() {
    let Some(tools) = tools("a_real_etcd_takes_ours_for_one_of_its_own") else {
        return;
    };
    let listener = listen();
    let mut etcd = Etcd::new(tools, listener.local_addr().unwrap());
    etcd.start();

    // The ids come from the real etcd.
    let asker = Member::start(0xa);
    let asks = Asks::new(&Timeouts::default(), &Limits::default());
    let mut found = None;
    eventually("etcd serves its peer port", || {
        found = asker.runtime.block_on(asks.members(&etcd.url())).ok();
        found.is_some()
    });
    let (members, cluster) = found.unwrap();
    let members: Vec<serde_json::Value> = serde_json::from_slice(&members).unwrap();
    let id_of = |name| {
        let member = members
            .iter()
            .find(|member| member["name"] == name)
            .unwrap();
        MemberId(member["id"].as_u64().unwrap())
    };
    let (theirs, our_id) = (id_of("theirs"), id_of("ours"));
    let versions = asker.runtime.block_on(asks.version(&[etcd.url()])).unwrap();
    assert_eq!(versions.server, "3.7.3");

    // Before our port is served, etcd has no stream to us: our messages go by POST.
    let ours = Member::start_on(listener, our_id, cluster, |_| {});
    ours.transport.add_peer(theirs, &[etcd.url()]).unwrap();
    eventually("all four streams stand", || {
        ours.streams_attached(theirs) && ours.transport.active_since(theirs).is_some()
    });

    // etcd leads with our votes; its log and its client's writes reach us.
    let mut follower = Follower::new(&ours, theirs, 0);
    for key in 0..30 {
        let key = format!("key{key}");
        let said = follower.run(etcd.ctl(&["put", &key, "a value of etcd"]));
        assert_eq!(said, "OK\n");
    }
    let value = b"a value of etcd";
    let seen = follower
        .data
        .windows(value.len())
        .filter(|part| part == value);
    assert_eq!(seen.count(), 30);
    assert!(follower.last >= 30);
    assert_eq!(ours.record.unreachable.load(Ordering::Relaxed), 0);
    let log = etcd.log();
    assert!(
        log.contains("established TCP streaming connection"),
        "etcd reads our streams"
    );

    both_answer_alike(&ours, &etcd, cluster, theirs);
    questions(&asker, &asks, &etcd, cluster);

    // etcd restarts and finds a follower without a log: it sends its database.
    etcd.stop();
    follower.lost_its_log = true;
    etcd.start();
    eventually("a snapshot arrived", || {
        follower.turn();
        follower.snapshots > 0
    });
    {
        let databases = ours.record.databases.lock();
        let bytes = &databases[0].bytes;
        assert_eq!(
            bytes[16..20],
            0xed0c_daed_u32.to_le_bytes(),
            "bbolt's magic number"
        );
        assert_eq!(bytes.len() % 4096, 0);
        assert!(databases[0].index >= 10);
        let events = ours.record.events.lock();
        assert_eq!(events[..3], ["receiving", "saved", "stepped"]);
    }
    let said = follower.run(etcd.ctl(&["put", "after", "the snapshot"]));
    assert_eq!(said, "OK\n");
    assert!(
        etcd.log().contains("sent database snapshot"),
        "204 counts as success"
    );

    // Removed, we are told so on both ways.
    let hex = our_id.to_string();
    let said = follower.run(etcd.ctl(&["member", "remove", &hex]));
    assert!(said.contains("removed from cluster"), "{said}");
    eventually("a stream told us", || {
        ours.record.told_removed.load(Ordering::Relaxed) > 0
    });
    // etcd refuses our POST by the sender, ours does so by the same rule.
    let (etcds, our_own) = (
        vote_post(cluster, theirs, our_id),
        vote_post(cluster, our_id, theirs),
    );
    ours.record.removed.lock().push(theirs);
    let (a, b) = (raw(etcd.peer, &etcds), raw(ours.address, &our_own));
    assert_eq!(
        (parts(&a).0, parts(&b).0),
        (500, 500),
        "etcd: {a}\nours: {b}"
    );
    assert!(a.contains(parts(&b).1), "etcd: {a}\nours: {b}");
}

fn vote_post(cluster: ClusterId, to: MemberId, from: MemberId) -> Vec<u8> {
    use prost::Message as _;
    let body = message(Type::MsgVote, from, to).encode_to_vec();
    let mut request = format!(
        "POST /raft HTTP/1.1\r\nHost: x\r\nX-Server-From: {from}\r\nX-Server-Version: 3.7.3\r\n\
         X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: {cluster}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}

/// The same request to both: status, body and telling headers must be the same.
fn both_answer_alike(ours: &Member, etcd: &Etcd, cluster: ClusterId, theirs: MemberId) {
    let good = format!(
        "X-Server-From: 99\r\nX-Server-Version: 3.7.3\r\nX-Min-Cluster-Version: 3.0.0\r\n\
         X-Etcd-Cluster-ID: {cluster}\r\n"
    );
    let other = good.replace(&cluster.to_string(), "1234");
    let old = good.replace("Server-Version: 3.7.3", "Server-Version: 2.3.8");
    let new = good.replace("Cluster-Version: 3.0.0", "Cluster-Version: 3.8.0");
    let padded = good.replace(&cluster.to_string(), &format!("0{cluster}"));
    let length = |count: usize| format!("Content-Length: {count}\r\n");
    let bodies = [("", ""), ("\u{1}", "one byte of nonsense")];
    let mut requests: Vec<(String, String, String)> = Vec::new();
    for path in [
        "/raft",
        "/raft/snapshot",
        "/raft/stream/msgapp/77",
        "/raft/stream/message/77",
        "/raft/stream/message/xyz",
        "/raft/stream/other/77",
        "/raft/stream/msgapp/77/8",
        "/members",
        "/members/hashkv",
        "/members/other",
        "/members/promote/abc",
        "/leases",
        "/leases/internal",
        "/leases/other",
        "/downgrade/enabled",
        "/version",
        "/",
        "/health",
        "/raft/other",
        "/raft/",
    ] {
        for method in ["GET", "POST", "PUT"] {
            // A good GET of a good stream would not end; 77 is a stranger, so it does.
            // What etcd answers only by asking its leader is in `questions`.
            let linearizable = path == "/downgrade/enabled" && method == "GET";
            let leader = path.starts_with("/leases") && method == "POST";
            for headers in [&good, &other, &old, &new, &padded, &String::new()] {
                if !linearizable && !leader {
                    requests.push((format!("{method} {path}"), headers.clone(), length(0)));
                }
            }
        }
    }
    for (body, _) in bodies {
        for start in ["POST /raft", "POST /raft/snapshot", "GET /members/hashkv"] {
            let rest = format!("{}\r\n{body}", length(body.len()));
            requests.push((start.to_owned(), good.clone(), rest));
        }
    }
    for (start, headers, rest) in requests {
        let rest = if rest.contains("\r\n\r\n") {
            rest
        } else {
            format!("{rest}\r\n")
        };
        let request = format!("{start} HTTP/1.1\r\nHost: x\r\n{headers}{rest}");
        let (a, b) = (
            raw(etcd.peer, request.as_bytes()),
            raw(ours.address, request.as_bytes()),
        );
        let (theirs_said, ours_said) = (parts(&a), parts(&b));
        assert_eq!(
            theirs_said.0, ours_said.0,
            "{request}\netcd: {a}\nours: {b}"
        );
        if theirs_said.0 == 500 {
            // etcd cuts the connection off behind the text, so its framing differs.
            assert!(
                theirs_said.1.contains(ours_said.1),
                "{request}\netcd: {a}\nours: {b}"
            );
            continue;
        }
        let members = theirs_said.1.starts_with("[{") && ours_said.1.starts_with("[{");
        let versions = request.contains(" /version ");
        if !members && !versions {
            assert_eq!(
                theirs_said.1, ours_said.1,
                "{request}\netcd: {a}\nours: {b}"
            );
        }
        for name in [
            "content-type",
            "x-content-type-options",
            "allow",
            "x-etcd-cluster-id",
            "x-server-version",
            "transfer-encoding",
        ] {
            let (theirs, ours) = (header_of(&a, name), header_of(&b, name));
            assert_eq!(theirs, ours, "{name}: {request}\netcd: {a}\nours: {b}");
        }
    }
    // Messages from and to the wrong members.
    for (to, from) in [(MemberId(5), theirs), (MemberId(5), MemberId(6))] {
        same_refusal(etcd, ours, &vote_post(cluster, to, from));
    }
}

/// Both answer 500 and the same text.
fn same_refusal(etcd: &Etcd, ours: &Member, request: &[u8]) {
    let (a, b) = (raw(etcd.peer, request), raw(ours.address, request));
    assert_eq!(
        (parts(&a).0, parts(&b).0),
        (500, 500),
        "etcd: {a}\nours: {b}"
    );
    assert!(a.contains(parts(&b).1), "etcd: {a}\nours: {b}");
}

/// What our own client functions say to a real etcd.
fn questions(asker: &Member, asks: &Asks, etcd: &Etcd, cluster: ClusterId) {
    let url = etcd.url();
    let run = |error: Result<(), Error>| match error {
        Err(Error::Status { status, body, .. }) => (status, body),
        other => panic!("{other:?}"),
    };
    let hash = asker
        .runtime
        .block_on(asks.hash_kv(&url, cluster, 20))
        .unwrap();
    assert_eq!((hash.hash_revision, hash.compact_revision), (20, -1));
    assert!(hash.hash != 0 && hash.revision >= 31);
    let said = asker.runtime.block_on(asks.hash_kv(&url, cluster, 1000));
    let (status, text) = run(said.map(|_| ()));
    assert_eq!(status, 400);
    assert!(text.contains("future revision"), "{text}");
    let said = asker.runtime.block_on(asks.hash_kv(&url, ClusterId(1), 20));
    assert_eq!(
        run(said.map(|_| ())),
        (412, "cluster ID mismatch".to_owned())
    );
}
