//! What a process costs, from `/proc`.

use std::fs;

/// Resident and anonymous memory, KiB.
pub fn memory(pid: u32) -> (u64, u64) {
    (status(pid, "VmRSS:"), status(pid, "RssAnon:"))
}

/// Its threads.
pub fn threads(pid: u32) -> u64 {
    status(pid, "Threads:")
}

/// Its open files and sockets.
pub fn descriptors(pid: u32) -> usize {
    let folder = format!("/proc/{pid}/fd");
    fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        .count()
}

/// User and system time, seconds.
pub fn cpu(pid: u32) -> f64 {
    /// The unit of /proc/PID/stat, the same on every Linux that we run on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    // The second field is a name in parentheses and may hold blanks; user time is the 12th behind it.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = rest
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|word| word.parse::<u64>().ok())
        .sum();
    ticks as f64 / TICKS_PER_SECOND
}

fn status(pid: u32, name: &str) -> u64 {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .split_ascii_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("{path} has no {name}"))
}
