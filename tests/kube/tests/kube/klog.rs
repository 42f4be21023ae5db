//! What an API server's log says about its store.
//!
//! A line is `E1123 20:28:00.123456   4711 file.go:17] text`: level, month and day, time, process.

/// Seconds of a day.
const DAY: f64 = 86_400.0;

/// A complaint of the API server about its store.
#[derive(Debug, PartialEq)]
pub struct Complaint<'a> {
    /// seconds since midnight, UTC
    pub second: f64,
    /// the whole line
    pub line: &'a str,
}

/// Lines of level W, E and F that are about the store.
pub fn storage_complaints(log: &str) -> Vec<Complaint<'_>> {
    log.lines().filter_map(complaint).filter(|complaint| of_storage(complaint.line)).collect()
}

/// Words by which the storage layer, etcd's client in it, and gRPC below are known.
fn of_storage(line: &str) -> bool {
    ["etcd", "grpc", "rpc error", "storage", "leader", "compact", "deadline", "cacher", "connection refused"]
        .iter()
        .any(|word| line.contains(word))
}

fn complaint(line: &str) -> Option<Complaint<'_>> {
    let mut words = line.split_ascii_whitespace();
    let level = words.next()?;
    let is_complaint = level.len() == 5
        && level.starts_with(['W', 'E', 'F'])
        && level[1..].bytes().all(|byte| byte.is_ascii_digit());
    if !is_complaint {
        return None;
    }
    let mut time = words.next()?.split(':').map(str::parse::<f64>);
    let mut next = || time.next()?.ok();
    let (hours, minutes, seconds) = (next()?, next()?, next()?);
    Some(Complaint { second: (hours * 60.0 + minutes) * 60.0 + seconds, line })
}

/// Whether a second of the day lies between two moments of Unix time, in milliseconds, over midnight too.
pub fn between(second: f64, from_ms: u64, to_ms: u64) -> bool {
    let from = (from_ms % (DAY as u64 * 1000)) as f64 / 1000.0;
    let length = (to_ms.saturating_sub(from_ms)) as f64 / 1000.0;
    (second - from).rem_euclid(DAY) <= length
}

#[test]
fn a_log_line_has_a_level_a_time_and_a_subject() {
    let log = "I1123 20:28:00.500000 1 a.go:1] etcd is well\n\
               E1123 20:28:01.500000 1 a.go:1] \"x\" err=\"rpc error\"\n\
               W1123 00:00:00.250000 1 a.go:1] a deprecated thing\n\
               goroutine 1 [running]:\nE1123\n";
    let found = storage_complaints(log);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].second, 73_681.5);
    assert!(between(73_681.5, 73_681_000, 73_682_000));
    assert!(!between(73_681.5, 73_682_000, 73_683_000));
    // Over midnight.
    assert!(between(0.5, 86_399_000, 86_401_000));
    assert!(!between(2.5, 86_399_000, 86_401_000));
}
