//! What happened, line by line: a fingerprint of all of it, and the last lines in words.

use std::collections::VecDeque;
use std::fmt;

/// Lines that a failure shows.
const TAIL_LINES: usize = 200;

/// The trace of one run. Two runs of one seed have the same fingerprint.
#[derive(Debug)]
pub struct Trace {
    fingerprint: u64,
    lines: u64,
    tail: VecDeque<String>,
    print: bool,
}

impl Trace {
    /// An empty trace; `print` also writes each line to standard error.
    pub fn new(print: bool) -> Trace {
        Trace {
            fingerprint: digest(&[]),
            lines: 0,
            tail: VecDeque::new(),
            print,
        }
    }

    /// Adds a line.
    pub fn line(&mut self, now_us: u64, what: fmt::Arguments<'_>) {
        let line = format!("{:>10}.{:03} {what}", now_us / 1000, now_us % 1000);
        self.fingerprint = digest_on(self.fingerprint, line.as_bytes());
        self.lines += 1;
        if self.print {
            eprintln!("{line}");
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// A number that stands for all lines.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// How many lines there were.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The last lines.
    pub fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }
}

/// FNV-1a, 64 bits: the same on every machine and in every run, which is all that is asked.
pub fn digest(bytes: &[u8]) -> u64 {
    digest_on(0xcbf2_9ce4_8422_2325, bytes)
}

/// The digest of what gave `digest`, followed by `bytes`.
pub fn digest_on(digest: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(digest, |digest, byte| {
        (digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
