//! What the transport counts, per peer, for etcd's metrics. Read by [`crate::Handle::peers`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in seconds of `peer_round_trip_time_seconds`: 0.1 ms, doubled 15 times.
pub const RTT_BUCKETS: usize = 16;
/// Upper bounds in seconds of the snapshot durations: 0.1 s, doubled 9 times.
pub const SNAPSHOT_BUCKETS: usize = 10;

/// The counters of one peer. Names are those of etcd's metrics without `etcd_network_`.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    sent_failures: AtomicU64,
    received_failures: AtomicU64,
    disconnected: AtomicU64,
    pub(crate) snapshot_sent: Transfers,
    pub(crate) snapshot_received: Transfers,
    pub(crate) rtt: Histogram<RTT_BUCKETS>,
}

/// Snapshots in one direction.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    pub(crate) successes: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) seconds: Histogram<SNAPSHOT_BUCKETS>,
}

/// A histogram with fixed bounds that double.
#[derive(Debug)]
pub(crate) struct Histogram<const N: usize> {
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    sum_us: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Histogram {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            sum_us: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// `first` is the upper bound of the first bucket.
    pub(crate) fn observe(&self, value: Duration, first: Duration) {
        let mut bound = first;
        let mut bucket = None;
        for index in 0..N {
            if value <= bound {
                bucket = Some(index);
                break;
            }
            bound *= 2;
        }
        let count = bucket.map_or(&self.beyond, |index| &self.counts[index]);
        add(count, 1);
        add(
            &self.sum_us,
            u64::try_from(value.as_micros()).unwrap_or(u64::MAX),
        );
    }

    fn view(&self, first_seconds: f64) -> HistogramView {
        let mut bound = first_seconds;
        let mut buckets = Vec::with_capacity(N);
        let mut count = 0;
        for bucket in &self.counts {
            count += bucket.load(Ordering::Relaxed);
            buckets.push((bound, count));
            bound *= 2.0;
        }
        HistogramView {
            buckets,
            count: count + self.beyond.load(Ordering::Relaxed),
            sum_seconds: self.sum_us.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
}

/// A histogram as Prometheus wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramView {
    /// Upper bound in seconds, and how many values are at most that.
    pub buckets: Vec<(f64, u64)>,
    /// All values.
    pub count: u64,
    /// Their sum in seconds.
    pub sum_seconds: f64,
}

/// One direction of snapshots.
#[derive(Clone, Debug, PartialEq)]
pub struct TransfersView {
    /// `snapshot_send_success`, `snapshot_receive_success`
    pub successes: u64,
    /// `snapshot_send_failures`, `snapshot_receive_failures`
    pub failures: u64,
    /// `snapshot_send_inflights_total`, `snapshot_receive_inflights_total`
    pub in_flight: u64,
    /// `snapshot_send_total_duration_seconds`, `snapshot_receive_total_duration_seconds`
    pub seconds: HistogramView,
}

/// The counters of one peer at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct StatsView {
    /// `peer_sent_bytes_total`
    pub sent_bytes: u64,
    /// `peer_received_bytes_total`
    pub received_bytes: u64,
    /// `peer_sent_failures_total`
    pub sent_failures: u64,
    /// `peer_received_failures_total`
    pub received_failures: u64,
    /// `disconnected_peers_total`
    pub disconnected: u64,
    /// Snapshots to the peer.
    pub snapshot_sent: TransfersView,
    /// Snapshots from the peer.
    pub snapshot_received: TransfersView,
    /// `peer_round_trip_time_seconds`
    pub rtt: HistogramView,
}

const RTT_FIRST: Duration = Duration::from_micros(100);
const SNAPSHOT_FIRST: Duration = Duration::from_millis(100);

impl Stats {
    pub(crate) fn add_sent(&self, bytes: usize) {
        add(&self.sent_bytes, bytes as u64);
    }

    pub(crate) fn add_received(&self, bytes: usize) {
        add(&self.received_bytes, bytes as u64);
    }

    pub(crate) fn add_sent_failure(&self) -> u64 {
        add(&self.sent_failures, 1)
    }

    pub(crate) fn add_received_failure(&self) -> u64 {
        add(&self.received_failures, 1)
    }

    pub(crate) fn add_disconnected(&self) {
        add(&self.disconnected, 1);
    }

    pub(crate) fn add_rtt(&self, rtt: Duration) {
        self.rtt.observe(rtt, RTT_FIRST);
    }

    pub(crate) fn view(&self) -> StatsView {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StatsView {
            sent_bytes: load(&self.sent_bytes),
            received_bytes: load(&self.received_bytes),
            sent_failures: load(&self.sent_failures),
            received_failures: load(&self.received_failures),
            disconnected: load(&self.disconnected),
            snapshot_sent: self.snapshot_sent.view(),
            snapshot_received: self.snapshot_received.view(),
            rtt: self.rtt.view(RTT_FIRST.as_secs_f64()),
        }
    }
}

impl Transfers {
    pub(crate) fn begin(&self) {
        add(&self.in_flight, 1);
    }

    pub(crate) fn end(&self, success: bool, took: Duration) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if success {
            add(&self.successes, 1);
            self.seconds.observe(took, SNAPSHOT_FIRST);
        } else {
            add(&self.failures, 1);
        }
    }

    fn view(&self) -> TransfersView {
        TransfersView {
            successes: self.successes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            seconds: self.seconds.view(SNAPSHOT_FIRST.as_secs_f64()),
        }
    }
}

fn add(counter: &AtomicU64, by: u64) -> u64 {
    counter.fetch_add(by, Ordering::Relaxed) + by
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let histogram = Histogram::<3>::default();
        for ms in [1, 2, 3, 4, 100] {
            histogram.observe(Duration::from_millis(ms), Duration::from_millis(1));
        }
        let view = histogram.view(0.001);
        let counts: Vec<u64> = view.buckets.iter().map(|bucket| bucket.1).collect();
        assert_eq!(counts, [1, 2, 4]);
        assert_eq!(view.count, 5);
        assert!((view.sum_seconds - 0.110).abs() < 1e-9);
    }
}
