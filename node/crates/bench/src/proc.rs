//! What the kernel says of a process, from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The unit of times in /proc/PID/stat: USER_HZ, which Linux fixes for all programs.
const TICKS_PER_S: u64 = 100;

/// User and system time of this process.
pub(crate) fn own_cpu() -> Result<Duration> {
    cpu("self")
}

/// User and system time of a process, all threads, those that ended included.
pub(crate) fn cpu(pid: &str) -> Result<Duration> {
    let file = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    cpu_of(&text).with_context(|| format!("{file} has another shape than proc(5) says"))
}

fn cpu_of(stat: &str) -> Option<Duration> {
    // The second field is the program's name in parentheses, which may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / TICKS_PER_S))
}

/// Resident memory in bytes: anonymous, and all.
pub(crate) fn memory(pid: &str) -> Result<(u64, u64)> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let kilobytes = |name| {
        let value = field(&text, name).with_context(|| format!("{file} has no {name}"));
        value.map(|kilobytes| kilobytes * 1024)
    };
    Ok((kilobytes("RssAnon:")?, kilobytes("VmRSS:")?))
}

/// Bytes that a process caused to be written to the disk.
pub(crate) fn written(pid: &str) -> Result<u64> {
    let file = format!("/proc/{pid}/io");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    field(&text, "write_bytes:").with_context(|| format!("{file} has no write_bytes"))
}

/// What a thread has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ThreadUse {
    pub(crate) cpu: Duration,
    /// How often it slept and was woken.
    pub(crate) wakes: u64,
}

/// The threads that live, by name. Threads of one name are one, numbers at the end of it left out: `serve-0` and
/// `serve-1` are `serve`. The first thread has the program's name and is called `main`.
pub(crate) fn threads(pid: &str) -> Result<BTreeMap<String, ThreadUse>> {
    let folder = format!("/proc/{pid}/task");
    let mut threads = BTreeMap::<String, ThreadUse>::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        let thread = entry?.file_name().to_string_lossy().into_owned();
        // A thread may end meanwhile, and is of no interest then.
        let read = |file: &str| fs::read_to_string(format!("{folder}/{thread}/{file}")).ok();
        let (Some(name), Some(schedule), Some(status)) =
            (read("comm"), read("schedstat"), read("status"))
        else {
            continue;
        };
        let name = match thread == pid {
            true => "main",
            false => name
                .trim()
                .trim_end_matches(|c: char| c.is_ascii_digit() || c == '-'),
        };
        let ran = schedule.split_whitespace().next();
        let sum = threads.entry(name.to_owned()).or_default();
        sum.cpu += Duration::from_nanos(ran.and_then(|ns| ns.parse().ok()).unwrap_or(0));
        sum.wakes += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
    }
    Ok(threads)
}

/// The number behind a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "77 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 31 0 0 20 0";
        assert_eq!(cpu_of(stat), Some(Duration::from_millis(2810)));
        assert_eq!(cpu_of("77 (x) S 1"), None);
    }

    #[test]
    fn this_process_has_time_memory_and_bytes() {
        let (anonymous, resident) = memory("self").unwrap();
        assert!(anonymous > 0 && resident >= anonymous);
        own_cpu().unwrap();
        written("self").unwrap();
        let pid = std::process::id().to_string();
        assert!(threads(&pid).unwrap().contains_key("main"));
    }
}
