//! Members as processes: ports, flags, start, readiness, end. Nothing here waits for longer than a call.

use std::fs::{self, DirBuilder, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::os;

/// A member of etcd or of ours writes this when it serves.
const READY: &str = "ready to serve client requests";

/// How long members may take to end after SIGTERM, before SIGKILL. etcd drains within five seconds.
const GRACE: Duration = Duration::from_secs(10);

/// How often a child is asked whether it has ended; waits for several children have no system call.
const POLL: Duration = Duration::from_millis(5);

/// Blocks of ports that are tried before we give up.
const BLOCKS_MAX: u16 = 500;

/// Lines of a log that are shown when its member ended by itself.
const TAIL_LINES: usize = 10;

/// As many bytes of a log's end are looked at for its last lines.
const TAIL_BYTES: u64 = 64 << 10;

/// What a cluster is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program; it takes etcd's flags.
    pub program: PathBuf,
    /// How many members, at least one.
    pub members: usize,
    /// The first of `2 * members` ports: client port and peer port of each member in turn.
    pub base_port: u16,
    /// Holds a folder and a log file of each member; is made if it is not there.
    pub dir: PathBuf,
    /// More flags, for every member.
    pub flags: Vec<String>,
}

/// Members of one cluster. Dropped, it kills those that still run.
#[derive(Debug)]
pub struct Cluster {
    /// In order of their names, `m1` first.
    pub members: Vec<Member>,
}

/// One member: its place, and its process when it runs.
#[derive(Debug)]
pub struct Member {
    /// `--name`
    pub name: String,
    /// `127.0.0.1:port`
    pub endpoint: String,
    /// Standard output and error of every start, one after the other.
    pub log: PathBuf,
    program: PathBuf,
    flags: Vec<String>,
    child: Option<Child>,
    /// Where in the log this start begins.
    log_start: u64,
    /// How far the log has been searched for readiness.
    log_read: u64,
    ready: bool,
}

/// The first block of free ports at `base` or above it: `2 * members` ports on 127.0.0.1.
pub fn free_block(base: u16, members: usize) -> Result<u16> {
    let width =
        u16::try_from(members * 2).context("too many members for the ports of a machine")?;
    let mut first = base;
    for _ in 0..BLOCKS_MAX {
        let Some(last) = first.checked_add(width - 1) else {
            break;
        };
        if (first..=last).all(is_free) {
            return Ok(first);
        }
        first = match first.checked_add(width) {
            Some(next) => next,
            None => break,
        };
    }
    bail!("no {width} free ports in a row on 127.0.0.1 from {base} up; choose another --base-port")
}

/// Whether nothing listens on the port of 127.0.0.1 (or of all addresses).
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

impl Cluster {
    /// Makes the members' places and starts none.
    pub fn prepare(options: &Options) -> Result<Self> {
        ensure!(
            options.members > 0,
            "a cluster has at least one member, got 0"
        );
        let dir = std::path::absolute(&options.dir)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot make the folder {}", dir.display()))?;
        let ports = |index: usize| -> Result<(u16, u16)> {
            let client = usize::from(options.base_port) + 2 * index;
            Ok((u16::try_from(client)?, u16::try_from(client + 1)?))
        };
        let mut initial = Vec::new();
        for index in 0..options.members {
            let (_, peer) =
                ports(index).context("ports end at 65535; choose a lower --base-port")?;
            initial.push(format!("m{}=http://127.0.0.1:{peer}", index + 1));
        }
        let initial = initial.join(",");
        let mut members = Vec::new();
        for index in 0..options.members {
            let (client, peer) = ports(index)?;
            let name = format!("m{}", index + 1);
            let mut flags = vec![
                format!("--name={name}"),
                format!("--data-dir={}", dir.join(&name).display()),
                format!("--listen-client-urls=http://127.0.0.1:{client}"),
                format!("--advertise-client-urls=http://127.0.0.1:{client}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster={initial}"),
                "--initial-cluster-state=new".to_owned(),
                "--initial-cluster-token=quorate-local".to_owned(),
            ];
            flags.extend_from_slice(&options.flags);
            members.push(Member {
                endpoint: format!("127.0.0.1:{client}"),
                log: dir.join(format!("{name}.log")),
                name,
                program: options.program.clone(),
                flags,
                child: None,
                log_start: 0,
                log_read: 0,
                ready: false,
            });
        }
        Ok(Self { members })
    }

    /// Starts every member that does not run. Call it on the main thread, see [`crate`].
    pub fn start(&mut self) -> Result<()> {
        self.members
            .iter_mut()
            .filter(|member| !member.runs())
            .try_for_each(Member::start)
    }

    /// Whether all members serve. A member that ended by itself is an error with the tail of its log.
    pub fn all_ready(&mut self) -> Result<bool> {
        let mut all = true;
        for member in &mut self.members {
            if let Some(end) = member.ended()? {
                bail!("{end}");
            }
            all &= member.is_ready()?;
        }
        Ok(all)
    }

    /// Where clients connect, in order.
    pub fn endpoints(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| member.endpoint.clone())
            .collect()
    }

    /// SIGTERM to all, a grace period, SIGKILL to the rest; returns when none is left.
    pub fn stop(&mut self) {
        for child in self
            .members
            .iter()
            .filter_map(|member| member.child.as_ref())
        {
            // Gone already: the wait below finds it.
            let _ = os::terminate(child);
        }
        let deadline = Instant::now() + GRACE;
        for member in &mut self.members {
            while member.still_runs() && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            member.kill();
        }
    }
}

impl Member {
    /// Starts the process and does not wait. Its environment is ours without `ETCD_*`, which would be flags.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        self.log_start = log.metadata()?.len();
        self.log_read = self.log_start;
        self.ready = false;
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        command
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        os::die_with_parent(&mut command);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only for a process that is gone.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether it was started and has not been found ended.
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// The process's id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What to say if the process has ended by itself since it was last asked: status and end of the log.
    pub fn ended(&mut self) -> Result<Option<String>> {
        let Some(child) = &mut self.child else {
            return Ok(None);
        };
        let Some(status) = child.try_wait()? else {
            return Ok(None);
        };
        self.child = None;
        Ok(Some(self.obituary(status)))
    }

    /// Whether this start has said that it serves.
    pub fn is_ready(&mut self) -> Result<bool> {
        if self.ready {
            return Ok(true);
        }
        let bytes = read_from(&self.log, self.log_read)?;
        self.ready = bytes
            .windows(READY.len())
            .any(|window| window == READY.as_bytes());
        // The last line may have been cut: look at it again the next time.
        let lines = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        self.log_read += lines as u64;
        Ok(self.ready)
    }

    fn still_runs(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn obituary(&self, status: ExitStatus) -> String {
        let from = fs::metadata(&self.log)
            .map_or(0, |metadata| metadata.len().saturating_sub(TAIL_BYTES))
            .max(self.log_start);
        let bytes = read_from(&self.log, from).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ");
        format!(
            "{} ended by itself ({status}); the end of {}:\n  {tail}",
            self.name,
            self.log.display()
        )
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_from(file: &Path, offset: u64) -> Result<Vec<u8>> {
    let mut file = File::open(file)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::thread;

    /// A program cannot be started while it is open for writing, and for a moment every process that another
    /// test starts holds what this one has open. So one of these tests at a time.
    static TURN: Mutex<()> = Mutex::new(());

    fn turn() -> MutexGuard<'static, ()> {
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A program that says what it was given, and does `then`.
    fn cluster(dir: &Path, then: &str) -> Cluster {
        let program = dir.join("program");
        fs::write(&program, format!("#!/bin/sh\necho \"$@\"\n{then}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let flags = vec!["--snapshot-count=5".to_owned()];
        let dir = dir.join("cluster");
        Cluster::prepare(&Options {
            program,
            members: 2,
            base_port: 4001,
            dir,
            flags,
        })
        .unwrap()
    }

    fn eventually<T>(mut what: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(value) = what() {
                return value;
            }
            assert!(Instant::now() < deadline, "not within 20 s");
            thread::sleep(POLL);
        }
    }

    #[test]
    fn a_block_of_ports_has_no_port_in_use() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = taken.local_addr().unwrap().port() - 1;
        let found = free_block(base, 2).unwrap();
        assert!(
            found >= base + 4,
            "{found} is not beyond the block of {base}"
        );
        assert!(free_block(u16::MAX - 2, 2).is_err(), "ports beyond 65535");
    }

    #[test]
    fn a_member_that_ended_by_itself_says_its_last_words() {
        let (_turn, dir) = (turn(), tempfile::tempdir().unwrap());
        let mut cluster = cluster(dir.path(), "exit 3");
        cluster.start().unwrap();
        let words = eventually(|| cluster.members[1].ended().unwrap());
        assert!(
            words.starts_with("m2 ended by itself (exit status: 3)"),
            "{words}"
        );
        for flag in [
            "--name=m2",
            "--listen-client-urls=http://127.0.0.1:4003",
            "4002,m2=http://127.0.0.1:4004",
            "--snapshot-count=5",
        ] {
            assert!(words.contains(flag), "{flag} in {words}");
        }
        assert!(!cluster.members[1].runs());
    }

    #[test]
    fn readiness_counts_for_the_start_that_said_it() {
        let (_turn, dir) = (turn(), tempfile::tempdir().unwrap());
        let mut cluster = cluster(
            dir.path(),
            "echo '{\"msg\":\"ready to serve client requests\"}'; exec sleep 600",
        );
        let member = &mut cluster.members[0];
        member.start().unwrap();
        eventually(|| member.is_ready().unwrap().then_some(()));
        member.kill();
        fs::write(dir.path().join("program"), "#!/bin/sh\nexec sleep 600\n").unwrap();
        member.start().unwrap();
        assert!(
            !member.is_ready().unwrap(),
            "the line is of the start before"
        );
    }

    #[test]
    fn stop_leaves_no_process_and_a_lost_parent_leaves_none_either() {
        let (_turn, dir) = (turn(), tempfile::tempdir().unwrap());
        let mut stopped = cluster(dir.path(), "exec sleep 600");
        stopped.start().unwrap();
        let pid = stopped.members[0].pid().unwrap();
        stopped.stop();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());

        // To the kernel, the parent is the thread that started the process.
        let mut orphaned = cluster(dir.path(), "exec sleep 600");
        let mut orphaned = thread::spawn(move || {
            orphaned.start().unwrap();
            orphaned
        })
        .join()
        .unwrap();
        let words = eventually(|| orphaned.members[0].ended().unwrap());
        assert!(words.contains("signal: 9"), "{words}");
    }
}
