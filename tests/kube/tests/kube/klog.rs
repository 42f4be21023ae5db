//! What an API server's log says about its store.
//!
//! A line of Kubernetes is `E1123 20:28:00.123456   4711 file.go:17] text`: level, month and day, time,
//! process. A line of etcd's client in it is JSON, with `level`, `ts` and `"logger":"etcd-client"`.

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

/// Warnings and errors that are about the store.
pub fn storage_complaints(log: &str) -> Vec<Complaint<'_>> {
    log.lines()
        .filter_map(|line| complaint_of_client(line).or_else(|| complaint(line).filter(of_storage)))
        .collect()
}

/// Words by which the storage layer, etcd's client in it, and gRPC below are known.
fn of_storage(complaint: &Complaint<'_>) -> bool {
    let words = [
        "etcd",
        "grpc",
        "rpc error",
        "storage error",
        "leader",
        "compact",
        "deadline",
        "timed out",
        "cacher",
        "connection refused",
    ];
    words.iter().any(|word| complaint.line.contains(word))
}

fn complaint_of_client(line: &str) -> Option<Complaint<'_>> {
    let is_complaint = line.contains("\"logger\":\"etcd-client\"")
        && !line.contains("\"level\":\"info\"")
        && !line.contains("\"level\":\"debug\"");
    let (_, rest) = line.split_once("\"ts\":\"").filter(|_| is_complaint)?;
    let time = rest.split_once('T')?.1.split_once('Z')?.0;
    Some(Complaint {
        second: second_of_day(time)?,
        line,
    })
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
    Some(Complaint {
        second: second_of_day(words.next()?)?,
        line,
    })
}

/// `20:28:00.5` as seconds.
fn second_of_day(time: &str) -> Option<f64> {
    let mut parts = time.split(':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    let (hours, minutes, seconds) = (next()?, next()?, next()?);
    Some((hours * 60.0 + minutes) * 60.0 + seconds)
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
               goroutine 1 [running]:\nE1123\n\
               {\"level\":\"warn\",\"ts\":\"2026-11-23T20:28:02.5Z\",\"logger\":\"etcd-client\"}\n";
    let seconds: Vec<f64> = storage_complaints(log)
        .iter()
        .map(|one| one.second)
        .collect();
    assert_eq!(seconds, [73_681.5, 73_682.5]);
    assert!(between(73_681.5, 73_681_000, 73_682_000));
    assert!(!between(73_681.5, 73_682_000, 73_683_000));
    // Over midnight.
    assert!(between(0.5, 86_399_000, 86_401_000));
    assert!(!between(2.5, 86_399_000, 86_401_000));
}
