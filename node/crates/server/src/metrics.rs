//! `/metrics`: etcd's names in Prometheus' text format.
//!
//! A metric is an atomic where the thing happens and a line here. Histograms have etcd's buckets:
//! 1 ms doubled 13 times for the disk.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Number of bounded buckets of a disk histogram, as etcd's.
const BUCKETS: usize = 14;

/// Durations in buckets, each twice as wide as the one before it.
#[derive(Debug)]
pub struct Histogram {
    first_nanos: u64,
    buckets: Box<[AtomicU64]>,
    count: AtomicU64,
    sum_nanos: AtomicU64,
}

impl Default for Histogram {
    /// The disk's: from 1 ms to 8.192 s.
    fn default() -> Self {
        Self::with_buckets(Duration::from_millis(1), BUCKETS)
    }
}

impl Histogram {
    /// So many buckets, the first of them up to `first`.
    pub fn with_buckets(first: Duration, buckets: usize) -> Self {
        Self {
            first_nanos: first.as_nanos().max(1) as u64,
            buckets: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            sum_nanos: AtomicU64::new(0),
        }
    }

    /// Adds one observation.
    pub fn observe(&self, took: Duration) {
        let firsts = took
            .as_nanos()
            .div_ceil(u128::from(self.first_nanos))
            .max(1);
        let bucket = (u128::BITS - (firsts - 1).leading_zeros()) as usize;
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_nanos
            .fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Observations so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Builds the text.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
}

impl Text {
    /// The finished text.
    pub fn finish(self) -> String {
        self.out
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        let _ = writeln!(self.out, "{name} {value}");
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        let _ = writeln!(self.out, "{name} {value}");
    }

    /// A metric with labels: `name{labels} value` for each pair.
    pub fn labelled(&mut self, name: &str, kind: &str, help: &str, values: &[(String, u64)]) {
        self.head(name, kind, help);
        for (labels, value) in values {
            let _ = writeln!(self.out, "{name}{{{labels}}} {value}");
        }
    }

    /// A metric of any kind without labels.
    pub fn plain(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        let _ = writeln!(self.out, "{name} {value}");
    }

    /// A histogram in seconds.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        self.series(name, "", histogram, Duration::from_secs(1));
    }

    /// A histogram in milliseconds.
    pub fn histogram_in_ms(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        self.series(name, "", histogram, Duration::from_millis(1));
    }

    /// Histograms in seconds, each with its labels.
    pub fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        histograms: impl IntoIterator<Item = (String, &'a Histogram)>,
    ) {
        self.head(name, "histogram", help);
        for (labels, histogram) in histograms {
            self.series(name, &labels, histogram, Duration::from_secs(1));
        }
    }

    /// Histograms in seconds that the transport keeps, each with its labels.
    pub fn histogram_views<'a>(
        &mut self,
        name: &str,
        help: &str,
        histograms: impl IntoIterator<Item = (String, &'a rafthttp::HistogramView)>,
    ) {
        self.head(name, "histogram", help);
        for (labels, view) in histograms {
            for (bound, count) in &view.buckets {
                // Bounds that double from a decimal one: their digits beyond are no one's.
                let bound = (bound * 1e6).round() / 1e6;
                let _ = writeln!(self.out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let (count, sum) = (view.count, view.sum_seconds);
            let _ = writeln!(
                self.out,
                "{name}_bucket{{{labels},le=\"+Inf\"}} {count}\n{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}"
            );
        }
    }

    fn series(&mut self, name: &str, labels: &str, histogram: &Histogram, unit: Duration) {
        let comma = if labels.is_empty() { "" } else { "," };
        let in_units = |nanos: f64| nanos / unit.as_nanos() as f64;
        let mut total = 0;
        let mut bound = histogram.first_nanos as f64;
        for bucket in &histogram.buckets {
            total += bucket.load(Ordering::Relaxed);
            let le = in_units(bound);
            let _ = writeln!(
                self.out,
                "{name}_bucket{{{labels}{comma}le=\"{le}\"}} {total}"
            );
            bound *= 2.0;
        }
        let count = histogram.count.load(Ordering::Relaxed);
        let sum = in_units(histogram.sum_nanos.load(Ordering::Relaxed) as f64);
        let of = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{labels}}}")
        };
        let _ = writeln!(
            self.out,
            "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}\n{name}_sum{of} {sum}\n{name}_count{of} {count}"
        );
    }
}

/// What the kernel knows of this process: CPU seconds, resident and virtual bytes, open files.
pub fn process(text: &mut Text) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold spaces; fields count from after it.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let field = |n: usize| {
        fields
            .get(n)
            .and_then(|f| f.parse::<u64>().ok())
            .unwrap_or(0)
    };
    // utime and stime, in ticks of 1/100 s on every Linux that Rust's gnu target runs on.
    let cpu = (field(11) + field(12)) as f64 / 100.0;
    text.head(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
    );
    let _ = writeln!(text.out, "process_cpu_seconds_total {cpu}");
    // As in prometheus' own client: ticks after the machine's start, and no limit is the largest number.
    let booted = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = booted
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|seconds| seconds.parse::<f64>().ok())
        .unwrap_or(0.0);
    text.gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        booted + field(19) as f64 / 100.0,
    );
    text.gauge(
        "process_virtual_memory_max_bytes",
        "Maximum amount of virtual memory available in bytes.",
        address_space_max(),
    );
    let (received, sent) = network_bytes();
    text.counter(
        "process_network_receive_bytes_total",
        "Number of bytes received by the process over the network.",
        received,
    );
    text.counter(
        "process_network_transmit_bytes_total",
        "Number of bytes sent by the process over the network.",
        sent,
    );
    text.gauge(
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        field(20),
    );
    text.gauge(
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        field(21) * 4096,
    );
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .and_then(|line| line.split_whitespace().nth(3))
        .and_then(|soft| soft.parse::<u64>().ok())
        .unwrap_or(0);
    text.gauge("process_open_fds", "Number of open file descriptors.", open);
    text.gauge(
        "process_max_fds",
        "Maximum number of open file descriptors.",
        limit,
    );
    text.gauge("os_fd_used", "The number of used file descriptors.", open);
    text.gauge("os_fd_limit", "The file descriptor limit.", limit);
}

/// The soft limit of the address space.
fn address_space_max() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    limits
        .lines()
        .find(|line| line.starts_with("Max address space"))
        .and_then(|line| line.split_whitespace().nth(3))
        .and_then(|soft| soft.parse().ok())
        .unwrap_or(u64::MAX)
}

/// Bytes received and sent in this process' network namespace.
fn network_bytes() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter(|line| line.starts_with("IpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return (0, 0);
    };
    let of = |name: &str| {
        let at = names.split_whitespace().position(|other| other == name)?;
        values.split_whitespace().nth(at)?.parse().ok()
    };
    (of("InOctets").unwrap_or(0), of("OutOctets").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_of_the_transport_is_written_as_one_of_ours() {
        let view = rafthttp::HistogramView {
            buckets: vec![(0.1, 1), (0.2, 1), (0.4, 3)],
            count: 4,
            sum_seconds: 1.5,
        };
        let mut text = Text::default();
        text.histogram_views("h", "help", [("To=\"1\"".to_owned(), &view)]);
        let expected = "# HELP h help\n# TYPE h histogram\n\
            h_bucket{To=\"1\",le=\"0.1\"} 1\n\
            h_bucket{To=\"1\",le=\"0.2\"} 1\n\
            h_bucket{To=\"1\",le=\"0.4\"} 3\n\
            h_bucket{To=\"1\",le=\"+Inf\"} 4\n\
            h_sum{To=\"1\"} 1.5\n\
            h_count{To=\"1\"} 4\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn an_observation_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for millis in [0, 1, 2, 3, 5000, 100_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut text = Text::default();
        text.histogram("h", "help", &histogram);
        let text = text.finish();
        for line in [
            "h_bucket{le=\"0.001\"} 2",
            "h_bucket{le=\"0.002\"} 3",
            "h_bucket{le=\"0.004\"} 4",
            "h_bucket{le=\"4.096\"} 4",
            "h_bucket{le=\"8.192\"} 5",
            "h_bucket{le=\"+Inf\"} 6",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
