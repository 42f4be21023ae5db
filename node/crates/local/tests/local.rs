//! `quorate local` as a process: what it prints, what signals do, and that nothing is left at the end.
#![expect(
    clippy::unwrap_used,
    reason = "a test may end at what should not happen"
)]

use std::io::{BufRead as _, BufReader, Lines};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

struct Local {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// where temporary folders are made
    temporary: tempfile::TempDir,
}

/// The command, with a folder for its temporary folders.
fn command(flags: &[String], temporary: &Path) -> Command {
    let mut command = Command::new(testkit::quorate());
    command
        .arg("local")
        .args(flags)
        .env("TMPDIR", temporary)
        // A flag of the members by another name; it must not reach them.
        .env("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")
        .stdin(Stdio::null());
    command
}

/// What it says on standard error, and with which code, where it must not start.
fn refusal(flags: &[String]) -> (String, Option<i32>) {
    let temporary = tempfile::tempdir().unwrap();
    let output = command(flags, temporary.path()).output().unwrap();
    let left = std::fs::read_dir(temporary.path()).unwrap().count();
    assert_eq!((output.stdout.len(), left), (0, 0), "{flags:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (said, output.status.code())
}

impl Local {
    fn start(flags: &[String]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let said = std::fs::File::create(temporary.path().join(SAID)).unwrap();
        let mut child = command(flags, temporary.path())
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            lines,
            temporary,
        }
    }

    /// The ports of the first line.
    fn ports(&mut self) -> Vec<u16> {
        let endpoints = self.lines.next().unwrap().unwrap();
        let ports = endpoints.split(',');
        ports
            .map(|one| one.strip_prefix("127.0.0.1:").unwrap().parse().unwrap())
            .collect()
    }

    /// Standard error.
    fn said(&self) -> String {
        std::fs::read_to_string(self.temporary.path().join(SAID)).unwrap()
    }

    /// Ends it by a signal; nothing of it is left.
    fn end(mut self, signal: &str, ports: &[u16]) {
        self.signal(signal);
        assert!(self.child.wait().unwrap().success(), "{signal}");
        let left = std::fs::read_dir(self.temporary.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [SAID], "{signal}");
        for port in ports {
            let free = TcpListener::bind(("127.0.0.1", *port)).is_ok();
            assert!(free, "{signal}: {port} is still in use");
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

/// Where standard error goes.
const SAID: &str = "said";

fn flags(members: u16, base_port: u16) -> Vec<String> {
    vec![
        format!("--members={members}"),
        format!("--base-port={base_port}"),
    ]
}

#[test]
fn a_cluster_loses_its_leader_gets_it_back_and_leaves_nothing() {
    let _taken = TcpListener::bind(("127.0.0.1", BASE_PORT + 1));
    let mut local = Local::start(&flags(3, BASE_PORT));

    let ports = local.ports();
    assert!(
        ports.len() == 3 && ports[0] >= BASE_PORT + 6,
        "{ports:?}: a port of the first block is in use"
    );
    let said = format!(
        "ports {BASE_PORT} to {} are not all free; using those from {} up",
        BASE_PORT + 5,
        ports[0]
    );
    assert_eq!(local.said().lines().next(), Some(said.as_str()));

    // With the second line there is a speed too: all that a status line has while everybody answers.
    let healthy = local.until(|line| line.ends_with(" requests/s"));
    let words: Vec<&str> = healthy.split("  ").collect();
    let [leader, term, revision, lag, size, speed] = words[..] else {
        panic!("six parts are expected: {healthy:?}");
    };
    let number = |part: &str, before: &str, after: &str| -> f64 {
        let number = part
            .strip_prefix(before)
            .and_then(|part| part.strip_suffix(after));
        let number = number.unwrap_or_else(|| panic!("{part:?} in {healthy:?}"));
        number.parse().unwrap()
    };
    let leader = leader.strip_prefix("leader ").unwrap().to_owned();
    assert!(["m1", "m2", "m3"].contains(&leader.as_str()), "{healthy}");
    assert!(number(term, "term ", "") >= 2.0, "{healthy}");
    assert_eq!(number(revision, "revision ", ""), 1.0, "{healthy}");
    number(lag, "lag ", "");
    number(size, "db ", " MB");
    number(speed, "", " requests/s");

    // The seventh part, while one is down.
    local.signal("-USR1");
    local.until(|line| {
        line.ends_with(&format!("  not answering: {leader}")) && line.starts_with("leader m")
    });
    local.signal("-USR2");
    local.until(|line| line.contains("leader m") && !line.contains("not answering"));
    assert!(local.said().contains(&format!("{leader} killed")));
    local.end("-TERM", &ports);
}

#[test]
fn a_kept_folder_has_its_cluster_again_and_refuses_another_shape() {
    let kept = tempfile::tempdir().unwrap();
    let kept = kept.path().join("kept");
    let folder = format!("--data-dir={}", kept.display());
    let in_folder = |mut flags: Vec<String>| {
        flags.push(folder.clone());
        flags
    };
    let mut local = Local::start(&in_folder(flags(1, BASE_PORT + 100)));
    let ports = local.ports();
    let term = |line: &str| -> u64 {
        let (_, rest) = line.split_once("  term ").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let before = term(&local.until(|line| line.starts_with("leader m1")));

    // Its ports are in use now: it cannot have others, as its members' data name them.
    let (said, _) = refusal(std::slice::from_ref(&folder));
    let wanted = format!("port {} is in use", ports[0]);
    assert!(said.contains(&wanted), "{said}");
    local.end("-INT", &ports);

    for (more, wanted) in [
        ("--members=3", "--members 3: ".to_owned()),
        ("--base-port=4000", "--base-port 4000: ".to_owned()),
    ] {
        let (said, _) = refusal(&[folder.clone(), more.to_owned()]);
        assert!(said.contains(&wanted), "{said}");
        assert!(said.contains("leave the flag out"), "{said}");
    }

    // Without a word of its shape: the same ports, and the data go on where they were.
    let mut local = Local::start(std::slice::from_ref(&folder));
    assert_eq!(local.ports(), ports);
    let after = term(&local.until(|line| line.starts_with("leader m1")));
    assert!(after > before, "term {after} after term {before}");
    local.end("-INT", &ports);
    assert!(kept.join("m1/member/wal").is_dir());

    let shape = kept.join("local.json");
    std::fs::write(&shape, "{").unwrap();
    let (said, _) = refusal(std::slice::from_ref(&folder));
    assert!(said.contains("local.json is damaged"), "{said}");
}

#[test]
fn wrong_words_end_with_code_2_and_start_nothing() {
    for (word, wanted) in [
        ("--no-such-flag=1", "unknown flag --no-such-flag"),
        ("--members=0", "--members 0: expected a number from 1 to 31"),
        ("m1", "\"m1\" is no flag of quorate local"),
    ] {
        let (said, code) = refusal(&[word.to_owned()]);
        assert!(said.contains(wanted), "{said}");
        assert_eq!(code, Some(2), "{said}");
    }
}
