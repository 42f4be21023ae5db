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

use anyhow::{Result, bail};
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
        bail!("which case? quorate bench --help lists them");
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
