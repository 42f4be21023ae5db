//! What is run, in this order on one fresh cluster, and the first targets that must come out.

use std::fmt::Write as _;

/// One load of DESIGN section 5's table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// As one would type it behind `quorate bench --endpoints …`.
    pub(crate) command: &'static str,
    /// A key that has to be there: the tool whose cases these are would read one that is not.
    pub(crate) key: Option<&'static str>,
    /// Whether latency is also taken at a part of etcd's throughput.
    pub(crate) at_rate: bool,
    pub(crate) targets: &'static [Target],
}

/// A bound on ours over etcd's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) figure: Figure,
    pub(crate) bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    Cpu,
    Throughput,
    P50,
    P99,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// Anonymous memory of a member after all rows.
pub(crate) const MEMORY: Bound = Bound::AtMost(0.5);

const fn at_most(figure: Figure, ratio: f64) -> Target {
    Target {
        figure,
        bound: Bound::AtMost(ratio),
    }
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "put-one",
        about: "put, one client",
        command: "put --conns=1 --clients=1 --key-size=8 --sequential-keys --val-size=256 --total=2000",
        key: None,
        at_rate: false,
        targets: &[at_most(Figure::Cpu, 0.7), at_most(Figure::P50, 1.0)],
    },
    Row {
        name: "put",
        about: "put, 100 connections, 1000 clients",
        command: "put --conns=100 --clients=1000 --key-size=8 --sequential-keys --val-size=256 --total=60000",
        key: None,
        at_rate: true,
        targets: &[
            at_most(Figure::Cpu, 0.5),
            Target {
                figure: Figure::Throughput,
                bound: Bound::AtLeast(1.2),
            },
            at_most(Figure::P99, 0.8),
        ],
    },
    Row {
        name: "range-l",
        about: "linearizable range of one key, same clients",
        command: "range 00000001 --conns=100 --clients=1000 --consistency=l --total=100000",
        key: Some("00000001"),
        at_rate: true,
        targets: &[at_most(Figure::Cpu, 0.5)],
    },
    Row {
        name: "range-s",
        about: "serializable range of one key, same clients",
        command: "range 00000001 --conns=100 --clients=1000 --consistency=s --total=100000",
        key: Some("00000001"),
        at_rate: true,
        targets: &[at_most(Figure::Cpu, 0.5)],
    },
    Row {
        name: "put-1k",
        about: "put of 1 KiB to random keys of 40 bytes, 300 clients",
        command: "put --conns=50 --clients=300 --key-size=40 --key-space-size=100000 --val-size=1024 --total=40000",
        key: None,
        at_rate: true,
        targets: &[at_most(Figure::Cpu, 0.5)],
    },
    Row {
        name: "txn-mixed",
        about: "txn-mixed, 300 clients, range with limit 10 over all keys",
        command: "txn-mixed k --conns=50 --clients=300 --key-size=32 --key-space-size=10000 --val-size=512 \
                  --rw-ratio=2 --limit=10 --total=40000",
        key: None,
        at_rate: false,
        targets: &[at_most(Figure::Cpu, 0.3)],
    },
];

/// Bytes of the value of [`Row::key`].
pub(crate) const KEY_VALUE_BYTES: usize = 256;

impl Row {
    pub(crate) fn words(&self) -> Vec<String> {
        self.command.split_whitespace().map(str::to_owned).collect()
    }

    /// Requests of a whole run.
    pub(crate) fn total(&self) -> u64 {
        let total = self
            .command
            .split_once("--total=")
            .and_then(|(_, total)| total.trim().parse().ok());
        total.expect("every command of the table ends with --total=N")
    }

    pub(crate) fn bound(&self, figure: Figure) -> Option<Bound> {
        self.targets
            .iter()
            .find(|target| target.figure == figure)
            .map(|target| target.bound)
    }
}

impl Bound {
    pub(crate) fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
        }
    }
}

/// The rows for a help text.
pub(crate) fn help() -> String {
    let mut text = "rows, in order:\n".to_owned();
    for row in ROWS {
        writeln!(text, "  {:<10} {}", row.name, row.about).expect("a string takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::Case;
    use local::flags::Given;

    #[test]
    fn every_command_is_one_that_we_have() {
        for row in ROWS {
            let words = row.words();
            let case = Case::named(&words[0]).unwrap();
            let given = Given::read(&words, &[crate::COMMON, case.flags]).unwrap();
            assert_eq!(
                given.number("total", 1, u64::MAX).unwrap(),
                row.total(),
                "{}",
                row.name
            );
        }
    }
}
