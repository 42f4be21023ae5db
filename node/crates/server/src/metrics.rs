//! `/metrics`: etcd's names in Prometheus' text format.
//!
//! A metric is an atomic where the thing happens and a line here. Histograms have etcd's buckets:
//! 1 ms doubled 13 times for the disk.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Number of bounded buckets of a disk histogram, as etcd's.
const BUCKETS: usize = 14;

/// Seconds, in buckets of 1 ms × 2^n.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    count: AtomicU64,
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// Adds one observation.
    pub fn observe(&self, took: Duration) {
        let millis = took.as_nanos().div_ceil(1_000_000).max(1);
        let bucket = (u128::BITS - (millis - 1).leading_zeros()) as usize;
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_nanos
            .fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
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

    /// A histogram in seconds.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let mut total = 0;
        for (power, bucket) in histogram.buckets.iter().enumerate() {
            total += bucket.load(Ordering::Relaxed);
            let bound = 0.001 * f64::from(1u32 << power);
            let _ = writeln!(self.out, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let count = histogram.count.load(Ordering::Relaxed);
        let sum = Duration::from_nanos(histogram.sum_nanos.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(
            self.out,
            "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}"
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

#[cfg(test)]
mod tests {
    use super::*;

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
