//! `quorate local`: start, announce, look after, end.

use std::fs::{self, DirBuilder};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::cluster::{self, Cluster, Options};
use crate::flags::{self, Flag, Given};
use crate::os::SingleKeys;
use crate::status::{Probe, Summary};

const FLAGS: &[Flag] = &[
    Flag {
        name: "members",
        value: "n",
        default: "3",
        help: "how many members",
    },
    Flag {
        name: "base-port",
        value: "port",
        default: "2379",
        help: "first of two ports a member, client and peer in turn; in use: the next free block",
    },
    Flag {
        name: "data-dir",
        value: "dir",
        default: "",
        help: "kept between runs; without it a temporary folder, removed at the end",
    },
    Flag {
        name: "program",
        value: "file",
        default: "",
        help: "another program that takes etcd's flags; without it this one",
    },
];

const ABOUT: &str = "\
usage: quorate local [flags] [-- flags of every member]

Runs a cluster on 127.0.0.1. The first line of standard output is its client endpoints, when all members
serve; then comes one status line a second. Each member logs to a file beside its data, m1.log and so on.

keys (on a terminal)      1 to 9 kills member n with SIGKILL, or restarts it;  q ends all
SIGUSR1                   kills the leader with SIGKILL
SIGUSR2                   restarts every member that is down
Ctrl-C, SIGTERM, SIGHUP   end all members in order; a temporary folder is removed

flags:
";

/// More members than this need more ports and cores than a machine has, and etcd advises seven.
const MEMBERS_MAX: usize = 31;

/// How long a start may take, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Remembers the shape of a cluster in its folder, since the members' own data holds their ports.
const SHAPE: &str = "local.json";

/// Runs the command; `arguments` are those behind the word `local`. Call it on the main thread.
pub fn main(arguments: &[String]) -> Result<()> {
    let given = Given::read(arguments, &[FLAGS])?;
    if given.help {
        return Ok(write!(io::stdout(), "{ABOUT}{}", flags::help(FLAGS))?);
    }
    if let Some(word) = given.words.first() {
        return Err(flags::usage(format!(
            "{word:?} is no flag of quorate local; --help lists the flags"
        )));
    }
    let home = Home::of(&given)?;
    let options = options(&given, &home)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut local = Local::new(&options)?;
        let result = local.run().await;
        if local.terminal {
            // The status line has no end of line yet.
            let _ = writeln!(io::stdout());
        }
        local.cluster.stop();
        result
    })
}

/// The folder of the cluster.
enum Home {
    Kept(PathBuf),
    Temporary(PathBuf),
}

impl Home {
    fn of(given: &Given) -> Result<Self> {
        if given.is_set("data-dir") {
            return Ok(Self::Kept(given.text("data-dir").into()));
        }
        let path = std::env::temp_dir().join(format!("quorate-local-{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the temporary folder {}", path.display()))?;
        Ok(Self::Temporary(path))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) | Self::Temporary(path) => path,
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Self::Temporary(path) = self
            && let Err(error) = fs::remove_dir_all(&*path)
        {
            say(&format!("cannot remove {}: {error}", path.display()));
        }
    }
}

/// Flags, and the shape that a kept folder remembers, as one.
fn options(given: &Given, home: &Home) -> Result<Options> {
    let asked = given.number("base-port", 1, u16::MAX)?;
    let mut members = given.number("members", 1, MEMBERS_MAX)?;
    let base_port = match read_shape(home.path())? {
        Some(kept) => {
            check_shape(given, home.path(), kept)?;
            members = kept.members;
            kept.base_port
        }
        None => {
            let found = cluster::free_block(asked, members)?;
            if found != asked {
                let last = usize::from(asked) + 2 * members - 1;
                say(&format!(
                    "ports {asked} to {last} are not all free; using those from {found} up"
                ));
            }
            found
        }
    };
    if let Home::Kept(path) = home {
        write_shape(path, Shape { members, base_port })?;
    }
    Ok(Options {
        program: match given.text("program") {
            "" => std::env::current_exe().context("cannot find this program's own file")?,
            program => program.into(),
        },
        members,
        base_port,
        dir: home.path().to_owned(),
        flags: given.rest.clone(),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    members: usize,
    base_port: u16,
}

fn check_shape(given: &Given, dir: &Path, kept: Shape) -> Result<()> {
    let dir = dir.display();
    let Shape { members, base_port } = kept;
    ensure!(
        !given.is_set("members") || given.text("members") == members.to_string(),
        "--members {}: {dir} holds a cluster of {members}; leave the flag out or choose another --data-dir",
        given.text("members"),
    );
    ensure!(
        !given.is_set("base-port") || given.text("base-port") == base_port.to_string(),
        "--base-port {}: the cluster in {dir} has its ports from {base_port} up; leave the flag out",
        given.text("base-port"),
    );
    for port in (base_port..).take(2 * members) {
        ensure!(
            cluster::is_free(port),
            "port {port} is in use, and the cluster in {dir} cannot have another; end what listens there"
        );
    }
    Ok(())
}

fn read_shape(dir: &Path) -> Result<Option<Shape>> {
    let file = dir.join(SHAPE);
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    let shape = serde_json::from_slice::<Value>(&text)
        .ok()
        .and_then(|json| {
            let members = usize::from(number(&json["members"])?);
            let base_port = number(&json["base_port"])?;
            (1..=MEMBERS_MAX)
                .contains(&members)
                .then_some(Shape { members, base_port })
        });
    let Some(shape) = shape else {
        bail!(
            "{} is damaged, expected {{\"members\": 3, \"base_port\": 2379}}",
            file.display()
        );
    };
    Ok(Some(shape))
}

fn write_shape(dir: &Path, shape: Shape) -> Result<()> {
    let file = dir.join(SHAPE);
    let text = json!({"members": shape.members, "base_port": shape.base_port}).to_string();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| fs::write(&file, text))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// The running cluster and all that can happen to it.
struct Local {
    cluster: Cluster,
    probes: Vec<Probe>,
    last: Option<(Summary, Instant)>,
    /// Standard output is a terminal: the status line is written over and over.
    terminal: bool,
    keys: mpsc::UnboundedReceiver<u8>,
    signals: Signals,
    look: Interval,
}

enum Happened {
    Key(u8),
    End,
    KillLeader,
    RestartAll,
    Look,
}

impl Local {
    /// Prepares all and starts nothing.
    fn new(options: &Options) -> Result<Self> {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Signals first: from here on Ctrl-C takes the members along.
        let signals = Signals::new()?;
        let cluster = Cluster::prepare(options)?;
        let probes = cluster
            .members
            .iter()
            .map(|member| Probe::new(&member.endpoint))
            .collect();
        Ok(Self {
            cluster,
            probes,
            last: None,
            terminal: io::stdout().is_terminal(),
            keys: mpsc::unbounded_channel().1,
            signals,
            look,
        })
    }

    /// Starts the members and looks after them until we are told to stop.
    async fn run(&mut self) -> Result<()> {
        self.cluster.start()?;
        let deadline = Instant::now() + START;
        while !self.cluster.all_ready()? {
            ensure!(
                Instant::now() < deadline,
                "the members do not serve after {START:?}; see {}",
                self.cluster.members[0].log.display()
            );
            if matches!(self.happened().await, Happened::End) {
                return Ok(());
            }
        }
        line(&self.cluster.endpoints().join(","))?;
        let _single_keys = self.listen_to_keys();
        let mut status = Instant::now();
        loop {
            match self.happened().await {
                Happened::End | Happened::Key(b'q') => return Ok(()),
                Happened::Key(key) => self.key(key)?,
                Happened::KillLeader => self.kill_leader(),
                Happened::RestartAll => self.cluster.start()?,
                Happened::Look => {
                    for member in &mut self.cluster.members {
                        if let Some(end) = member.ended()? {
                            say(&end);
                        }
                    }
                    if Instant::now() >= status {
                        status += Duration::from_secs(1);
                        self.show_status().await?;
                    }
                }
            }
        }
    }

    /// Waits for the next thing; changes nothing.
    async fn happened(&mut self) -> Happened {
        tokio::select! {
            biased;
            happened = self.signals.next() => happened,
            Some(key) = self.keys.recv() => Happened::Key(key),
            _ = self.look.tick() => Happened::Look,
        }
    }

    /// Single keys of the terminal, until the result is dropped.
    fn listen_to_keys(&mut self) -> Option<SingleKeys> {
        let guard = SingleKeys::of_stdin()?;
        let (sender, receiver) = mpsc::unbounded_channel();
        self.keys = receiver;
        // The thread waits in read for ever; the end of the program ends it.
        std::thread::spawn(move || {
            for key in io::stdin().lock().bytes().map_while(Result::ok) {
                if sender.send(key).is_err() {
                    return;
                }
            }
        });
        Some(guard)
    }

    fn key(&mut self, key: u8) -> Result<()> {
        let index = usize::from(key.wrapping_sub(b'1'));
        let Some(member) = self
            .cluster
            .members
            .get_mut(index)
            .filter(|_| key.is_ascii_digit())
        else {
            return Ok(());
        };
        if member.runs() {
            member.kill();
            say(&format!("{} killed", member.name));
        } else {
            member.start()?;
            say(&format!("{} started", member.name));
        }
        Ok(())
    }

    fn kill_leader(&mut self) {
        let leader = self.last.as_ref().and_then(|(summary, _)| summary.leader());
        match self
            .cluster
            .members
            .iter_mut()
            .find(|member| Some(member.name.as_str()) == leader)
        {
            Some(member) if member.runs() => {
                member.kill();
                say(&format!("{} killed", member.name));
            }
            _ => say("no member is known to lead; nobody killed"),
        }
    }

    async fn show_status(&mut self) -> Result<()> {
        let mut answers = Vec::new();
        // At once: a member that hangs costs its own second, not each other's.
        let members = self
            .cluster
            .members
            .iter()
            .map(|member| (member.name.clone(), member.runs()));
        let mut asked = tokio::task::JoinSet::new();
        for (index, (probe, (name, runs))) in std::mem::take(&mut self.probes)
            .into_iter()
            .zip(members)
            .enumerate()
        {
            let mut probe = probe;
            asked.spawn(async move {
                let answer = if runs { probe.ask().await } else { None };
                (index, probe, name, answer)
            });
        }
        let mut back = asked.join_all().await;
        back.sort_by_key(|(index, ..)| *index);
        for (_, probe, name, answer) in back {
            self.probes.push(probe);
            answers.push((name, answer));
        }
        let before = self
            .last
            .as_ref()
            .map(|(summary, at)| (summary, at.elapsed()));
        let summary = Summary::of(&answers, before);
        if self.terminal {
            let mut out = io::stdout().lock();
            write!(out, "\r\x1b[K{summary}")?;
            out.flush()?;
        } else {
            line(&summary.to_string())?;
        }
        self.last = Some((summary, Instant::now()));
        Ok(())
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    kill: Signal,
    restart: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            kill: signal(SignalKind::user_defined1())?,
            restart: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Happened {
        tokio::select! {
            _ = self.interrupt.recv() => Happened::End,
            _ = self.terminate.recv() => Happened::End,
            _ = self.hang_up.recv() => Happened::End,
            _ = self.kill.recv() => Happened::KillLeader,
            _ = self.restart.recv() => Happened::RestartAll,
        }
    }
}

/// One line on standard output, at once.
fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// A notice, on standard error, below the status line.
fn say(text: &str) {
    let over = if io::stdout().is_terminal() {
        "\r\x1b[K"
    } else {
        ""
    };
    // Nobody may be left to read it.
    let _ = writeln!(io::stderr(), "{over}{text}");
}
