//! # explain: what is wrong with a cluster, and what to do
//!
//! `quorate explain` asks every member that it can reach, looks at the disks that it is given, and says in
//! words what a person on call wants to know.
//!
//! ```text
//!   endpoints ─▶ ask ───┐                    ┌─▶ text   for people
//!                       ├▶ Observed ▶ report ┤
//!   data dirs ─▶ util ──┘    (data)   (pure) └─▶ json   for programs
//!                                 │
//!                               quorum: what the strict check would say to each step
//! ```
//!
//! It works with members down and without a quorum: nothing that it asks goes through the log (a member's
//! own list of members, its status, its metrics), and every endpoint has a deadline of its own. Endpoints
//! that members name are asked too. A disk is only read; the disk of a running member is not even that.
//!
//! A report is a function of what was observed, so that every situation can be a test.
//!
//! This room does not know: how to change anything.
#![forbid(unsafe_code)]

mod ask;
mod findings;
mod json;
mod report;
mod seen;
#[cfg(test)]
mod tests;
mod text;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use local::flags::{Flag, Given};
use seams::{Disk, RealDisk};

/// Asked where nothing else is said, as by etcdctl.
const ENDPOINT_DEFAULT: &str = "127.0.0.1:2379";

/// Nobody waits longer for one endpoint.
const TIMEOUT_MS_MAX: u64 = 60_000;

const FLAGS: &[Flag] = &[
    Flag {
        name: "endpoints",
        value: "list",
        default: "",
        help: "client endpoints, host:port, separated by commas; members that they list are asked too (127.0.0.1:2379 without --data-dir)",
    },
    Flag {
        name: "data-dir",
        value: "list",
        default: "",
        help: "data directories of stopped members, separated by commas; they are only read",
    },
    Flag {
        name: "wal-dir",
        value: "dir",
        default: "",
        help: "the log, where it does not lie below the one --data-dir",
    },
    Flag {
        name: "timeout",
        value: "ms",
        default: "2000",
        help: "how long to wait for one endpoint, in milliseconds",
    },
    Flag {
        name: "json",
        value: "",
        default: "false",
        help: "the same for programs; docs/explain.md describes it",
    },
];

/// `quorate explain …`, without the first two words.
///
/// # Errors
/// Wrong flags. What is wrong with a cluster is no error of this command.
pub fn main(arguments: &[String]) -> Result<()> {
    let given = Given::read(&gathered(arguments), &[FLAGS])?;
    if given.help {
        show(&format!(
            "Usage:\n\n  quorate explain [--endpoints LIST] [--data-dir LIST] [--json]\n    What each member sees, how many may still be lost, what the strict check would say to each\n    step, what is wrong, and what to do. Changes nothing.\n\nFlags:\n{}",
            local::flags::help(FLAGS)
        ));
        return Ok(());
    }
    ensure!(
        given.words.is_empty() && given.rest.is_empty(),
        "explain takes flags only, not {:?}; --help lists them",
        given.words.first().or(given.rest.first())
    );
    let list = |name: &'static str| -> Vec<String> {
        let items = given.text(name).split(',').map(str::trim);
        items
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let data_dirs = list("data-dir");
    let mut endpoints = list("endpoints");
    if endpoints.is_empty() && data_dirs.is_empty() {
        endpoints.push(ENDPOINT_DEFAULT.to_owned());
    }
    let wal_dir = Some(given.text("wal-dir"))
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from);
    ensure!(
        wal_dir.is_none() || data_dirs.len() == 1,
        "--wal-dir goes with one --data-dir"
    );
    let timeout = Duration::from_millis(given.number("timeout", 1, TIMEOUT_MS_MAX)?);

    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let disks = data_dirs
        .iter()
        .map(|dir| {
            let paths = util::Paths {
                data_dir: dir.into(),
                wal_dir: wal_dir.clone(),
            };
            seen::Disk::of(dir, util::survey(&disk, &paths))
        })
        .collect();
    show(&report_on(&endpoints, disks, timeout, given.is_on("json"))?);
    Ok(())
}

/// What `quorate explain --endpoints=…` prints, for another command to print: with `json` the form that
/// `docs/explain.md` describes.
///
/// # Errors
/// There is no runtime to be had. What is wrong with a cluster is no error.
pub fn told(endpoints: &[String], timeout: Duration, json: bool) -> Result<String> {
    report_on(endpoints, Vec::new(), timeout, json)
}

fn report_on(
    endpoints: &[String],
    disks: Vec<seen::Disk>,
    timeout: Duration,
    json: bool,
) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a runtime")?;
    let endpoints = runtime.block_on(ask::all(endpoints, timeout));
    // A name that is being resolved must not hold us.
    runtime.shutdown_background();
    let report = report::report(&seen::Observed { endpoints, disks });
    Ok(if json {
        json::render(&report)
    } else {
        text::render(&report)
    })
}

/// Lists may be given in several flags, as to `util recover`: of each, the values become one.
fn gathered(arguments: &[String]) -> Vec<String> {
    let mut lists: [(&str, Vec<String>); 2] = [("endpoints", vec![]), ("data-dir", vec![])];
    let mut others = Vec::new();
    let mut words = arguments.iter().peekable();
    while let Some(word) = words.next() {
        let body = word.trim_start_matches('-');
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let list = lists.iter_mut().find(|(list, _)| *list == name);
        let (Some((_, values)), true) = (list, word.starts_with('-')) else {
            others.push(word.clone());
            continue;
        };
        match value.or_else(|| words.next().cloned()) {
            Some(value) => values.push(value),
            // Without its value: refused by whoever reads the rest.
            None => others.push(word.clone()),
        }
    }
    let given = lists.iter().filter(|(_, values)| !values.is_empty());
    let given = given.map(|(name, values)| format!("--{name}={}", values.join(",")));
    given.chain(others).collect()
}

#[expect(
    clippy::print_stdout,
    reason = "what a command is asked for goes to its output"
)]
fn show(text: &str) {
    print!("{text}");
}
