//! Members as processes, and clusters of them.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::ports;
use crate::tools::{Etcdctl, quorate, tool};
use crate::wait::eventually;

/// A member says this when it serves; etcd's suites wait for the same words.
const READY: &str = "ready to serve client requests";

/// How long a start may take, on two busy cores.
const START: Duration = Duration::from_secs(60);

/// `--initial-cluster-token`
const TOKEN: &str = "testkit";

/// Whose program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ours
    Quorate,
    /// etcd 3.7.3
    Etcd,
}

impl Kind {
    /// The program, if it is there.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Self::Quorate => Some(quorate()),
            Self::Etcd => tool("etcd"),
        }
    }
}

/// What a cluster is to be.
#[derive(Debug, Clone)]
pub struct Spec {
    /// one per member
    pub kinds: Vec<Kind>,
    /// flags for all members
    pub flags: Vec<String>,
}

impl Spec {
    /// `n` members of one kind.
    pub fn of(kind: Kind, n: usize) -> Self {
        Self {
            kinds: vec![kind; n],
            flags: Vec::new(),
        }
    }

    /// With one more flag for all.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }
}

/// A member's process, or the place of one.
#[derive(Debug)]
pub struct Member {
    /// whose program runs at the next start
    pub kind: Kind,
    /// `--name`
    pub name: String,
    /// `http://127.0.0.1:port`
    pub client_url: String,
    /// `http://127.0.0.1:port`
    pub peer_url: String,
    /// `--data-dir`
    pub data_dir: PathBuf,
    /// all the flags of a start
    pub flags: Vec<String>,
    /// variables of its environment beside the test's own
    pub env: Vec<(String, std::ffi::OsString)>,
    log: PathBuf,
    child: Option<Child>,
    read_from: u64,
}

impl Member {
    /// The place of a member that is part of no [`Cluster`]: the caller gives it its flags and
    /// starts it. Its directory and its log lie in `dir` under its name.
    pub fn place(kind: Kind, name: &str, client_url: String, peer_url: String, dir: &Path) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            client_url,
            peer_url,
            data_dir: dir.join(name),
            flags: Vec::new(),
            env: Vec::new(),
            log: dir.join(format!("{name}.log")),
            child: None,
            read_from: 0,
        }
    }

    /// Starts the process and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let program = self
            .kind
            .program()
            .expect("looked for before the cluster was made");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the log's folder is the test's own");
        self.read_from = log.metadata().map_or(0, |metadata| metadata.len());
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(&self.flags)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{:?} cannot be started: {error}", self.kind));
        self.child = Some(child);
    }

    /// Waits until it serves.
    pub fn wait_ready(&mut self) {
        let name = self.name.clone();
        eventually(&format!("{name}'s readiness"), START, || {
            if let Some(status) = self.exited() {
                panic!(
                    "{name} ended with {status} before it served:\n{}",
                    self.log_text()
                );
            }
            if self.log_text().contains(READY) {
                Ok(())
            } else {
                Err(self.log_tail())
            }
        });
    }

    /// Starts and waits until it serves.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        }
    }

    /// SIGTERM, and waits for the end; its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        self.signal_child(&child, libc::SIGTERM);
        let status = eventually(
            &format!("{}'s end", self.name),
            Duration::from_secs(20),
            || {
                child
                    .try_wait()
                    .ok()
                    .flatten()
                    .ok_or_else(|| self.log_tail())
            },
        );
        status.code()
    }

    /// Sends a signal to the running process.
    pub fn signal(&self, signal: i32) {
        if let Some(child) = &self.child {
            self.signal_child(child, signal);
        }
    }

    #[expect(
        unsafe_code,
        reason = "kill(2) has no safe wrapper in std; the process is our child"
    )]
    fn signal_child(&self, child: &Child, signal: i32) {
        // SAFETY: kill takes two integers and touches no memory of ours.
        let result = unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        assert_eq!(result, 0, "{} cannot be signalled", self.name);
    }

    /// Whether the process runs.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The exit status, if the process has ended by itself.
    pub fn exited(&mut self) -> Option<std::process::ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok().flatten();
        if status.is_some() {
            self.child = None;
        }
        status
    }

    /// The process's id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it has logged since its last start.
    pub fn log_text(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.seek(SeekFrom::Start(self.read_from));
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// The file with everything that it has logged.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.data_dir.join("member/snap/db")
    }

    /// `127.0.0.1:port`
    pub fn endpoint(&self) -> String {
        self.client_url.trim_start_matches("http://").to_owned()
    }

    /// etcdctl for this member alone.
    pub fn etcdctl(&self) -> Etcdctl {
        Etcdctl::new(&[self.endpoint()]).expect("looked for before the cluster was made")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "--- log of {} ({:?})\n{}",
                self.name,
                self.kind,
                self.log_tail()
            );
        }
    }
}

/// Members on 127.0.0.1 with a directory of their own.
#[derive(Debug)]
pub struct Cluster {
    /// in order
    pub members: Vec<Member>,
    dir: TempDir,
}

impl Cluster {
    /// Makes places for the members and starts none. `None`: a program is missing.
    pub fn prepare(spec: &Spec) -> Option<Self> {
        tool("etcdctl")?;
        for kind in &spec.kinds {
            kind.program()?;
        }
        let dir = TempDir::with_prefix("quorate-test-").expect("a temporary directory");
        let mut members: Vec<Member> = spec
            .kinds
            .iter()
            .enumerate()
            .map(|(index, kind)| Member {
                kind: *kind,
                name: format!("m{index}"),
                client_url: format!("http://127.0.0.1:{}", ports::free()),
                peer_url: format!("http://127.0.0.1:{}", ports::free()),
                data_dir: dir.path().join(format!("m{index}")),
                flags: Vec::new(),
                env: Vec::new(),
                log: dir.path().join(format!("m{index}.log")),
                child: None,
                read_from: 0,
            })
            .collect();
        // Lists of members are ordered by ID, and an ID is a hash of the peer URL: URLs are dealt out
        // so that the order of IDs is the order of the members here, in every cluster.
        let mut urls: Vec<String> = members.iter().map(|m| m.peer_url.clone()).collect();
        urls.sort_by_key(|url| membership::member_id(std::slice::from_ref(url), TOKEN, None));
        for (member, url) in members.iter_mut().zip(urls) {
            member.peer_url = url;
        }
        let initial: Vec<String> = members
            .iter()
            .map(|m| format!("{}={}", m.name, m.peer_url))
            .collect();
        let initial = initial.join(",");
        for member in &mut members {
            member.flags = flags(member, &initial, "new", &spec.flags);
        }
        Some(Self { members, dir })
    }

    /// Makes and starts all; `None`: a program is missing.
    pub fn start(spec: &Spec) -> Option<Self> {
        let mut cluster = Self::prepare(spec)?;
        cluster.start_all();
        Some(cluster)
    }

    /// Starts every member that does not run, and waits for all.
    pub fn start_all(&mut self) {
        for member in &mut self.members {
            if !member.is_running() {
                member.spawn();
            }
        }
        for member in &mut self.members {
            member.wait_ready();
        }
    }

    /// Makes the place of one more member, for `member add` and a start with `existing`.
    pub fn add_place(&mut self, kind: Kind, extra: &[String]) -> &mut Member {
        let index = self.members.len();
        let mut member = Member {
            kind,
            name: format!("m{index}"),
            client_url: format!("http://127.0.0.1:{}", ports::free()),
            peer_url: format!("http://127.0.0.1:{}", ports::free()),
            data_dir: self.dir.path().join(format!("m{index}")),
            flags: Vec::new(),
            env: Vec::new(),
            log: self.dir.path().join(format!("m{index}.log")),
            child: None,
            read_from: 0,
        };
        let initial: Vec<String> = self
            .members
            .iter()
            .chain([&member])
            .map(|m| format!("{}={}", m.name, m.peer_url))
            .collect();
        member.flags = flags(&member, &initial.join(","), "existing", extra);
        self.members.push(member);
        self.members.last_mut().expect("pushed just now")
    }

    /// Endpoints of all members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// etcdctl for all members.
    pub fn etcdctl(&self) -> Etcdctl {
        Etcdctl::new(&self.endpoints()).expect("looked for when the cluster was made")
    }

    /// The test's own directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The index of the member that leads, by its own word.
    pub fn leader(&self) -> usize {
        eventually("an election", Duration::from_secs(30), || {
            for (index, member) in self.members.iter().enumerate() {
                if !member.is_running() {
                    continue;
                }
                let output = member.etcdctl().run(&["endpoint", "status", "-w", "json"]);
                let Ok(json) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
                    continue;
                };
                let status = &json[0]["Status"];
                if status["leader"] == status["header"]["member_id"] && status["leader"] != 0 {
                    return Ok(index);
                }
            }
            Err("no member says that it leads".to_owned())
        })
    }
}

fn flags(member: &Member, initial: &str, state: &str, extra: &[String]) -> Vec<String> {
    let mut flags = vec![
        format!("--name={}", member.name),
        format!("--data-dir={}", member.data_dir.display()),
        format!("--listen-client-urls={}", member.client_url),
        format!("--advertise-client-urls={}", member.client_url),
        format!("--listen-peer-urls={}", member.peer_url),
        format!("--initial-advertise-peer-urls={}", member.peer_url),
        format!("--initial-cluster={initial}"),
        format!("--initial-cluster-state={state}"),
        format!("--initial-cluster-token={TOKEN}"),
    ];
    flags.extend_from_slice(extra);
    flags
}
