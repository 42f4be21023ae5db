//! # bench: load for anything that speaks etcd v3, and the comparison with etcd
//!
//! `quorate bench` asks members the way etcd's own load tool does: the cases, their flags and their keys
//! are the same, so that figures of the two can stand side by side.
//!
//! ```text
//!   main ── which command
//!     ├── cases     put, range, txn-mixed, lease-keepalive: the next request, nothing else
//!     │     └── load    clients that ask in turn: one thread, few connections ──▶ Outcome
//!     ├── watch     watch-latency: from a put to its events
//!     ├── report    Outcome as text or JSON
//!     └── compare   three members of etcd and three of ours, in turn, by the same cases
//!           ├── rows      what is run, and what must come out
//!           ├── measure   processor time, memory and bytes of the members, from /proc
//!           └── verdict   medians, ratios, targets
//! ```
//!
//! The load generator sits on the machine of the servers and takes its time from them, so it must be cheap:
//! one thread, HTTP/2 without a layer above it, answers that are counted and not decoded.
//!
//! Latency is counted in nanoseconds from the moment a client turns to a request to the last byte of its
//! answer. With `--rate`, it is counted from the moment when the request was due, also if all clients were
//! busy then: a server that stalls is not forgiven what it kept from being asked.
//!
//! This room does not know: how a server works. It sees endpoints and, in `compare`, process ids.
#![forbid(unsafe_code)]

mod cases;
mod compare;
mod load;
mod proc;
mod progress;
mod report;
mod watch;

use std::io::{self, Write as _};

use anyhow::Result;
use local::flags::{self, Flag, Given};

use cases::Case;

/// Flags of every case; etcd's names.
const COMMON: &[Flag] = &[
    Flag {
        name: "endpoints",
        value: "list",
        default: "127.0.0.1:2379",
        help: "host:port, separated by commas",
    },
    Flag {
        name: "conns",
        value: "n",
        default: "1",
        help: "connections in all, dealt to the endpoints in turn",
    },
    Flag {
        name: "clients",
        value: "n",
        default: "1",
        help: "clients in all, each with one request under way",
    },
    Flag {
        name: "json",
        value: "",
        default: "false",
        help: "the result as one JSON object",
    },
];

const ABOUT: &str = "\
usage: quorate bench CASE [flags]       load endpoints, print what came back and how fast
       quorate bench compare [flags]    three members of etcd and three of ours side by side

cases:
";

/// Runs the command; `arguments` are those behind the word `bench`. Call it on the main thread.
///
/// # Errors
///
/// Bad flags, endpoints that cannot be reached; in `compare` also a missed target.
pub fn main(arguments: &[String]) -> Result<()> {
    // The case's name may stand anywhere, as with etcd's tool; only the table knows which words are values.
    let mut all = vec![COMMON, compare::FLAGS];
    all.extend(cases::CASES.iter().map(|case| case.flags));
    let loose = Given::read(arguments, &all)?;
    let Some(name) = loose.words.first() else {
        if loose.help {
            return help();
        }
        return Err(flags::usage("which case? quorate bench --help lists them"));
    };
    if name == "compare" {
        return compare::main(&Given::read(arguments, &[compare::FLAGS])?);
    }
    let case = Case::named(name)?;
    let given = Given::read(arguments, &[COMMON, case.flags])?;
    if given.help {
        let text = format!(
            "usage: quorate bench {} [flags]\n\n{}\n\nflags:\n{}{}",
            case.usage,
            case.about,
            flags::help(case.flags),
            flags::help(COMMON)
        );
        return Ok(io::stdout().write_all(text.as_bytes())?);
    }
    let outcome = case.run(&given, true)?;
    let text = if given.is_on("json") {
        format!("{:#}\n", report::json(&outcome))
    } else {
        report::text(&outcome)
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn help() -> Result<()> {
    let mut text = ABOUT.to_owned();
    for case in cases::CASES {
        text.push_str(&format!("  {:<28} {}\n", case.usage, case.about));
    }
    text.push_str("\nflags of every case:\n");
    text.push_str(&flags::help(COMMON));
    text.push_str("\nquorate bench CASE --help lists the flags of a case.\n");
    Ok(io::stdout().write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use local::cluster::{Cluster, Options, free_block};
    use std::time::{Duration, Instant};

    fn run(endpoint: &str, command: &str) -> load::Outcome {
        let mut words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        words.push(format!("--endpoints=http://{endpoint}"));
        let case = Case::named(&words[0]).unwrap();
        case.run(&Given::read(&words, &[COMMON, case.flags]).unwrap(), false)
            .unwrap()
    }

    /// Every case, against the real etcd: what is answered, how often, and what a refusal is called.
    #[test]
    fn every_case_loads_a_real_etcd() {
        let Some(program) = testkit::tool("etcd") else {
            return testkit::left_out(
                "bench::every_case_loads_a_real_etcd",
                "etcd is not built; make tools",
            );
        };
        let dir = tempfile::tempdir().unwrap();
        let base_port = free_block(27_400, 1).unwrap();
        let mut cluster = Cluster::prepare(&Options {
            program,
            members: 1,
            base_port,
            dir: dir.path().to_owned(),
            flags: Vec::new(),
        })
        .unwrap();
        cluster.start().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !cluster.all_ready().unwrap() {
            assert!(Instant::now() < deadline, "etcd does not serve");
            std::thread::sleep(Duration::from_millis(20));
        }
        let endpoint = cluster.endpoints().remove(0);
        let run = |command: &str| run(&endpoint, command);

        let put = "put --sequential-keys --key-space-size=50 --val-size=300 --conns=2 --clients=10 --total=200";
        let outcome = run(put);
        assert_eq!(
            (outcome.answered(), outcome.failed()),
            (200, 0),
            "{:?}",
            outcome.errors
        );

        // In one message, and in a stream of them.
        for stream in ["", "--stream"] {
            let all = run(&format!("range \0 \u{7f} --total=20 --clients=3 {stream}"));
            assert_eq!((all.answered(), all.failed()), (20, 0), "{:?}", all.errors);
            assert!(all.bytes > 20 * 50 * 300, "{} bytes {stream}", all.bytes);
        }

        let mixed = run(
            "txn-mixed --key-size=16 --key-space-size=9 --rw-ratio=1 --limit=3 --clients=4 --total=200",
        );
        assert_eq!(
            (mixed.answered(), mixed.failed()),
            (200, 0),
            "{:?}",
            mixed.errors
        );
        assert!(
            mixed.kinds.iter().all(|(_, latency)| latency.len() > 50),
            "about half of each kind"
        );

        let kept = run("lease-keepalive --clients=3 --conns=2 --total=60");
        assert_eq!(
            (kept.answered(), kept.failed()),
            (60, 0),
            "{:?}",
            kept.errors
        );

        let watched = run(
            "watch-latency --streams=3 --watchers-per-stream=2 --put-total=20 --put-rate=1000 --prevkv",
        );
        let counts: Vec<u64> = watched
            .kinds
            .iter()
            .map(|(_, latency)| latency.len())
            .collect();
        assert_eq!(counts, [20, 120, 120]);

        let refused = run("put --val-size=2000000 --total=3");
        assert_eq!(
            refused.errors.keys().collect::<Vec<_>>(),
            ["etcdserver: request is too large (code 3)"]
        );
        assert_eq!((refused.answered(), refused.failed()), (0, 3));

        let start = Instant::now();
        let paced = run("put --rate=200 --clients=20 --total=100");
        assert_eq!(paced.answered(), 100);
        assert!(
            start.elapsed() >= Duration::from_millis(490),
            "100 at 200 a second take half a second"
        );
    }

    #[test]
    fn a_refusal_names_what_was_wrong() {
        let refusal = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            main(&words).unwrap_err().to_string()
        };
        assert!(refusal(&[]).contains("which case"));
        assert!(refusal(&["putt"]).contains("no case \"putt\", expected put, range"));
        assert!(refusal(&["put", "--consistency", "s"]).contains("unknown flag --consistency"));
        assert!(refusal(&["range", "k", "--consistency", "x"]).contains("--consistency x"));
        assert!(
            refusal(&["put", "--key-size", "2", "--key-space-size", "1000000"])
                .contains("--key-size 2")
        );
        assert!(
            refusal(&["put", "--endpoints", "127.0.0.1:1"])
                .contains("cannot connect to 127.0.0.1:1")
        );
        assert!(refusal(&["compare", "--only", "nothing"]).contains("--only nothing"));
    }
}
