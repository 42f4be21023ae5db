//! `quorate local` as a process: what it prints, what signals do, and that nothing is left at the end.
#![expect(
    clippy::unwrap_used,
    reason = "a test may end at what should not happen"
)]

use std::io::{BufRead as _, BufReader, Lines};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

struct Local {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    temporary: tempfile::TempDir,
}

impl Local {
    fn start(members: &str, base_port: u16) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = Command::new(testkit::quorate())
            .args([
                "local",
                "--members",
                members,
                "--base-port",
                &base_port.to_string(),
            ])
            .env("TMPDIR", temporary.path())
            // A flag of the members by another name; it must not reach them.
            .env("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            lines,
            temporary,
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("/bin/kill")
            .args([name, &self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success(), "{name}");
    }

    /// Reads status lines, one a second, until one is as wanted.
    fn until(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let line = self.lines.next().expect("it goes on talking").unwrap();
            if wanted(&line) {
                return line;
            }
            assert!(Instant::now() < deadline, "the last line is {line:?}");
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Only if the test failed half way; its members die with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Above the ports of other tests, below those that the kernel hands out.
const BASE_PORT: u16 = 27_600;

#[test]
fn a_cluster_loses_its_leader_gets_it_back_and_leaves_nothing() {
    let _taken = TcpListener::bind(("127.0.0.1", BASE_PORT + 1));
    let mut local = Local::start("3", BASE_PORT);

    let endpoints = local.lines.next().unwrap().unwrap();
    let ports: Vec<u16> = endpoints
        .split(',')
        .map(|one| one.strip_prefix("127.0.0.1:").unwrap().parse().unwrap())
        .collect();
    assert!(
        ports.len() == 3 && ports[0] >= BASE_PORT + 6,
        "{endpoints}: a port of the first block is in use"
    );

    let healthy = local.until(|line| line.contains("leader m") && !line.contains("not answering"));
    let leader = healthy.split_whitespace().nth(1).unwrap().to_owned();
    local.signal("-USR1");
    local.until(|line| {
        line.contains(&format!("not answering: {leader}")) && line.contains("leader m")
    });
    local.signal("-USR2");
    local.until(|line| line.contains("leader m") && !line.contains("not answering"));

    local.signal("-TERM");
    assert!(local.child.wait().unwrap().success());
    let left: Vec<_> = std::fs::read_dir(local.temporary.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    for port in ports {
        assert!(
            TcpListener::bind(("127.0.0.1", port)).is_ok(),
            "{port} is still in use"
        );
    }
}
