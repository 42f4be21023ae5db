//! `quorate bench compare`: three members of etcd and three of ours, in turn, each on a fresh disk.
//!
//! ```text
//!   round 1: etcd  rows …  memory  rows at a rate │ ours  the same │ round 2: etcd … │ …
//! ```
//!
//! One after the other, never at once: on a small machine they would take each other's processor. What the
//! machine does meanwhile differs between rounds, which is why there are three, why etcd's own rounds say
//! whether throughput and latency can be judged at all, and why processor time per operation leads.

mod measure;
mod rows;
mod show;
mod verdict;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use api::etcdserverpb::{
    MoveLeaderRequest, MoveLeaderResponse, PutRequest, PutResponse, StatusRequest, StatusResponse,
};
use local::cluster::{self, Cluster, Options};
use local::flags::{self, Flag, Given};

use crate::cases::{self, Case};
use crate::load::{self, Outcome};
use measure::{Memory, Sample, Usage};
use rows::{ROWS, Row};

const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const MOVE_LEADER: &str = "/etcdserverpb.Maintenance/MoveLeader";

pub(crate) const FLAGS: &[Flag] = &[
    Flag {
        name: "rounds",
        value: "n",
        default: "3",
        help: "rounds of both",
    },
    Flag {
        name: "quick",
        value: "",
        default: "false",
        help: "one round of a fifth of the requests; memory is then not judged",
    },
    Flag {
        name: "only",
        value: "row",
        default: "",
        help: "one row; memory is then not judged",
    },
    Flag {
        name: "etcd",
        value: "file",
        default: "",
        help: "etcd's program; else $QUORATE_TOOLS/etcd or target/tools/etcd",
    },
    Flag {
        name: "program",
        value: "file",
        default: "",
        help: "the program compared with it; else this one",
    },
    Flag {
        name: "dir",
        value: "dir",
        default: "",
        help: "where data directories are made; else target/bench",
    },
    Flag {
        name: "base-port",
        value: "port",
        default: "23790",
        help: "first of six ports; in use: the next free block",
    },
    Flag {
        name: "json",
        value: "",
        default: "false",
        help: "the result as one JSON object",
    },
];

const ABOUT: &str = "\
usage: quorate bench compare [flags]

Starts three members of etcd and three of ours in turn, runs the same load on both, and prints the ratios.
Ends with an error where a target is missed. A target on throughput or latency counts only where etcd's own
rounds agree within 15 %.

flags:
";

/// Both sides get the quota that DESIGN's table was measured with, so that none runs full.
const MEMBER_FLAGS: [&str; 1] = ["--quota-backend-bytes=8589934592"];
const MEMBERS: usize = 3;
/// How long members may take to serve.
const START: Duration = Duration::from_secs(60);
/// After a load: the batch that is committed every 100 ms belongs to it, and followers catch up.
const SETTLE: Duration = Duration::from_millis(300);
/// `--quick` divides totals by this.
const QUICK: u64 = 5;
/// Of etcd's own throughput, where latency is taken apart from the clients' queue.
const RATE_PART: f64 = 0.7;
/// How long a load at a rate lasts.
const RATED: Duration = Duration::from_secs(5);

/// The two that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Etcd,
    Ours,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Ours => "ours",
        }
    }
}

/// All that was measured of one side: a list by round.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// By row, in the order of the rows that ran.
    pub(crate) full: Vec<Vec<Sample>>,
    /// By row; empty where a row has no load at a rate.
    pub(crate) rated: Vec<Vec<Sample>>,
    pub(crate) memory: Vec<Memory>,
}

/// What is to be done.
struct Settings {
    rows: Vec<&'static Row>,
    rounds: usize,
    quick: bool,
    etcd: PathBuf,
    ours: PathBuf,
    dir: PathBuf,
    base_port: u16,
}

pub(crate) fn main(given: &Given) -> Result<()> {
    if given.help {
        let text = format!("{ABOUT}{}\n{}", flags::help(FLAGS), rows::help());
        return Ok(io::stdout().write_all(text.as_bytes())?);
    }
    let settings = Settings::of(given)?;
    let mut etcd = Rounds::new(settings.rows.len());
    let mut ours = Rounds::new(settings.rows.len());
    for round in 1..=settings.rounds {
        let run = Run {
            settings: &settings,
            round,
            side: Side::Etcd,
        };
        run.run(&mut etcd, None)?;
        let run = Run {
            side: Side::Ours,
            ..run
        };
        run.run(&mut ours, Some(&etcd))?;
    }
    let lines = verdict::judge(&settings.rows, &etcd, &ours, settings.is_whole());
    let failures = show::failures(&settings.rows, &lines, &ours);
    // Etcd may lose requests on a machine that is busy otherwise; that is no fault of ours, and worth seeing.
    let notes = show::errors(&settings.rows, &etcd);
    let text = if given.is_on("json") {
        format!(
            "{:#}\n",
            show::json(&settings, &lines, &ours, &notes, &failures)
        )
    } else {
        show::text(&settings, &lines, &ours, &notes)
    };
    io::stdout().write_all(text.as_bytes())?;
    end(&failures)
}

/// How the command ends: with an error where anything failed.
fn end(failures: &[String]) -> Result<()> {
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

impl Rounds {
    fn new(rows: usize) -> Self {
        Self {
            full: vec![Vec::new(); rows],
            rated: vec![Vec::new(); rows],
            memory: Vec::new(),
        }
    }
}

impl Settings {
    fn of(given: &Given) -> Result<Self> {
        if let Some(word) = given.words.get(1) {
            return Err(flags::usage(format!(
                "{word:?} is no flag of quorate bench compare; --help lists the flags"
            )));
        }
        let quick = given.is_on("quick");
        let rows: Vec<&Row> = match given.text("only") {
            "" => ROWS.iter().collect(),
            name => ROWS.iter().filter(|row| row.name == name).collect(),
        };
        if rows.is_empty() {
            return Err(flags::usage(format!(
                "--only {}: no such row; --help lists them",
                given.text("only")
            )));
        }
        let etcd = match given.text("etcd") {
            "" => tools().join("etcd"),
            file => file.into(),
        };
        ensure!(
            etcd.is_file(),
            "{} is missing; `make tools` builds it, or name it by --etcd",
            etcd.display()
        );
        Ok(Self {
            rows,
            rounds: if quick {
                1
            } else {
                given.number("rounds", 1, 99)?
            },
            quick,
            etcd,
            ours: match given.text("program") {
                "" => std::env::current_exe().context("cannot find this program's own file")?,
                file => file.into(),
            },
            dir: match given.text("dir") {
                "" => target().join("bench"),
                dir => dir.into(),
            },
            base_port: cluster::free_block(given.number("base-port", 1, u16::MAX)?, MEMBERS)?,
        })
    }

    /// Whether memory is measured after all of the load, which is when its target speaks.
    fn is_whole(&self) -> bool {
        !self.quick && self.rows.len() == ROWS.len()
    }

    fn program(&self, side: Side) -> &Path {
        match side {
            Side::Etcd => &self.etcd,
            Side::Ours => &self.ours,
        }
    }
}

/// Cargo's target folder: the one that this program lies in, else that of the working directory.
fn target() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let above = program
        .ancestors()
        .find(|folder| folder.file_name().is_some_and(|name| name == "target"));
    above.map_or_else(|| PathBuf::from("target"), Path::to_owned)
}

fn tools() -> PathBuf {
    std::env::var_os("QUORATE_TOOLS").map_or_else(|| target().join("tools"), PathBuf::from)
}

/// One side in one round.
#[derive(Clone, Copy)]
struct Run<'a> {
    settings: &'a Settings,
    round: usize,
    side: Side,
}

impl Run<'_> {
    /// Starts a fresh cluster, runs all rows, stops it and removes its disk. Loads at a rate take etcd's first
    /// round: `rounds` itself, or `etcd` when this side is not etcd.
    fn run(self, rounds: &mut Rounds, etcd: Option<&Rounds>) -> Result<()> {
        let settings = self.settings;
        let dir = settings.dir.join(format!(
            "{}-{}-{}",
            std::process::id(),
            self.round,
            self.side.name()
        ));
        let disk = Disk(dir.clone());
        let mut cluster = Cluster::prepare(&Options {
            program: settings.program(self.side).to_owned(),
            members: MEMBERS,
            base_port: settings.base_port,
            dir,
            flags: MEMBER_FLAGS.map(str::to_owned).to_vec(),
        })?;
        let start = Instant::now();
        cluster.start()?;
        while !cluster.all_ready()? {
            ensure!(
                start.elapsed() < START,
                "{} does not serve after {START:?}",
                self.side.name()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        lead_from_first(&cluster.endpoints(), start)?;
        let count = |row: &Row| {
            if settings.quick {
                row.total() / QUICK
            } else {
                row.total()
            }
        };
        for (index, row) in settings.rows.iter().enumerate() {
            let sample = self.row(&mut cluster, row, &[format!("--total={}", count(row))])?;
            self.say(row.name, &sample);
            rounds.full[index].push(sample);
        }
        rounds.memory.push(Memory::of(&cluster)?);
        for (index, row) in settings.rows.iter().enumerate() {
            if !row.at_rate || settings.quick {
                continue;
            }
            let rate = etcd.unwrap_or(rounds).full[index][0].per_second * RATE_PART;
            let total = (rate * RATED.as_secs_f64()).ceil().max(1.0);
            let words = [format!("--rate={rate:.1}"), format!("--total={total}")];
            let sample = self.row(&mut cluster, row, &words)?;
            self.say(&format!("{} at {rate:.0}/s", row.name), &sample);
            rounds.rated[index].push(sample);
        }
        cluster.stop();
        drop(disk);
        Ok(())
    }

    /// One load: the row's command, and `more` flags, of which the last word on a flag counts.
    fn row(self, cluster: &mut Cluster, row: &Row, more: &[String]) -> Result<Sample> {
        let endpoints = cluster.endpoints();
        if let Some(key) = row.key {
            put_key(&endpoints, key)?;
        }
        let mut words = row.words();
        words.push(format!("--endpoints={}", endpoints.join(",")));
        words.extend_from_slice(more);
        let before = Usage::of(cluster)?;
        let outcome = run_case(&words)?;
        std::thread::sleep(SETTLE);
        for member in &mut cluster.members {
            if let Some(end) = member.ended()? {
                bail!("{} in row {}: {end}", self.side.name(), row.name);
            }
        }
        Ok(before.cost(&Usage::of(cluster)?, &outcome))
    }

    fn say(self, what: &str, sample: &Sample) {
        let text = format!(
            "round {}/{} {} {what}: {:.1} µs of CPU per op, {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, {} errors, client {:.1} µs",
            self.round,
            self.settings.rounds,
            self.side.name(),
            sample.cpu_us,
            sample.per_second,
            sample.p50,
            sample.p99,
            sample.errors,
            sample.client_us,
        );
        // Nobody may be left to read it.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// A folder that goes away with this value.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            let _ = writeln!(io::stderr(), "cannot remove {}: {error}", self.0.display());
        }
    }
}

/// A command line of `quorate bench`, without its output.
fn run_case(words: &[String]) -> Result<Outcome> {
    let case = Case::named(&words[0])?;
    case.run(&Given::read(words, &[crate::COMMON, case.flags])?, false)
}

/// Moves the lead to the first member, on both sides. The client of `put-one` asks that one: where a follower
/// takes the call and passes it on, a put costs a third more, and the election's chance would be measured.
fn lead_from_first(endpoints: &[String], start: Instant) -> Result<()> {
    load::runtime()?.block_on(async {
        let mut connections = load::connect(endpoints, endpoints.len()).await?;
        loop {
            let status: StatusResponse = connections[0]
                .ask(STATUS, &StatusRequest::default())
                .await?;
            let first = status.header.map_or(0, |header| header.member_id);
            if first != 0 && status.leader == first {
                return Ok(());
            }
            ensure!(
                start.elapsed() < START,
                "the first member does not get the lead"
            );
            for connection in &mut connections[1..] {
                // Only the leader does it; the others say that they do not lead.
                let request = MoveLeaderRequest { target_id: first };
                let _: Result<MoveLeaderResponse, _> = connection.ask(MOVE_LEADER, &request).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

/// Puts a value where a row reads one.
fn put_key(endpoints: &[String], key: &'static str) -> Result<()> {
    let put = PutRequest {
        key: key.into(),
        value: vec![b'v'; rows::KEY_VALUE_BYTES].into(),
        ..Default::default()
    };
    load::runtime()?.block_on(async {
        let mut connection = load::connect(endpoints, 1).await?.remove(0);
        let _: PutResponse = connection.ask(cases::PUT, &put).await?;
        Ok(())
    })
}
