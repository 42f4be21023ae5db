//! What the operator counts, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// Counters and gauges of one operator.
#[derive(Debug, Default)]
pub struct Metrics {
    passes: AtomicU64,
    failures: AtomicU64,
    leading: AtomicBool,
    /// by kind of act
    acts: Mutex<BTreeMap<&'static str, u64>>,
    /// by namespace and name of the cluster
    clusters: Mutex<BTreeMap<(String, String), ClusterGauges>>,
}

/// One cluster as it was last seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterGauges {
    /// voting members
    pub voters: usize,
    /// of these the healthy ones
    pub healthy_voters: usize,
    /// whether the condition Ready is true
    pub ready: bool,
    /// why the next step is refused
    pub blocked: Option<&'static str>,
    /// what a person has to do something about
    pub stalled: Option<&'static str>,
}

impl Metrics {
    /// One cluster was looked at.
    pub fn pass(&self) {
        self.passes.fetch_add(1, Ordering::Relaxed);
    }

    /// A pass ended with an error.
    pub fn failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// An act was done.
    pub fn act(&self, kind: &'static str) {
        *self.acts.lock().entry(kind).or_default() += 1;
    }

    /// This operator is the one that acts.
    pub fn lead(&self) {
        self.leading.store(true, Ordering::Relaxed);
    }

    /// What a cluster looked like.
    pub fn cluster(&self, namespace: &str, name: &str, gauges: ClusterGauges) {
        self.clusters
            .lock()
            .insert((namespace.to_owned(), name.to_owned()), gauges);
    }

    /// A cluster is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.clusters
            .lock()
            .remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// As Prometheus reads it.
    pub fn text(&self) -> String {
        let mut to = String::new();
        // Writing to a String cannot fail.
        let mut family = |name: &str, kind: &str, help: &str, lines: Vec<(String, u64)>| {
            let _ = writeln!(to, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(to, "{name}{labels} {value}");
            }
        };
        let one = |value| vec![(String::new(), value)];
        family(
            "quorate_operator_reconcile_total",
            "counter",
            "Looks at a cluster.",
            one(self.passes.load(Ordering::Relaxed)),
        );
        family(
            "quorate_operator_reconcile_errors_total",
            "counter",
            "Looks that ended with an error.",
            one(self.failures.load(Ordering::Relaxed)),
        );
        family(
            "quorate_operator_leader",
            "gauge",
            "1 when this operator is the one that acts.",
            one(u64::from(self.leading.load(Ordering::Relaxed))),
        );
        let acts = self.acts.lock();
        family(
            "quorate_operator_acts_total",
            "counter",
            "Acts that were done.",
            acts.iter()
                .map(|(kind, count)| (format!("{{act=\"{kind}\"}}"), *count))
                .collect(),
        );
        let clusters = self.clusters.lock();
        let labels = |(namespace, name): &(String, String), more: &str| {
            format!("{{namespace=\"{namespace}\",cluster=\"{name}\"{more}}}")
        };
        let gauge = |value: &dyn Fn(&ClusterGauges) -> u64| {
            clusters
                .iter()
                .map(|(key, gauges)| (labels(key, ""), value(gauges)))
                .collect::<Vec<_>>()
        };
        family(
            "quorate_operator_cluster_voters",
            "gauge",
            "Voting members of a cluster.",
            gauge(&|gauges| gauges.voters as u64),
        );
        family(
            "quorate_operator_cluster_healthy_voters",
            "gauge",
            "Voting members that are healthy.",
            gauge(&|gauges| gauges.healthy_voters as u64),
        );
        family(
            "quorate_operator_cluster_ready",
            "gauge",
            "1 when a cluster is as its spec asks, and healthy.",
            gauge(&|gauges| u64::from(gauges.ready)),
        );
        let reasons = |reason: &dyn Fn(&ClusterGauges) -> Option<&'static str>| {
            clusters
                .iter()
                .filter_map(|(key, gauges)| {
                    let reason = reason(gauges)?;
                    Some((labels(key, &format!(",reason=\"{reason}\"")), 1))
                })
                .collect::<Vec<_>>()
        };
        family(
            "quorate_operator_cluster_blocked",
            "gauge",
            "1 while a cluster's next step is refused, with the reason.",
            reasons(&|gauges| gauges.blocked),
        );
        family(
            "quorate_operator_cluster_stalled",
            "gauge",
            "1 while a cluster needs a person, with the reason.",
            reasons(&|gauges| gauges.stalled),
        );
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_can_be_read() {
        let metrics = Metrics::default();
        metrics.pass();
        metrics.act("MemberPromote");
        metrics.cluster(
            "shop",
            "orders",
            ClusterGauges {
                voters: 3,
                healthy_voters: 2,
                ready: false,
                blocked: Some("QuorumUnsafe"),
                stalled: None,
            },
        );
        let text = metrics.text();
        for line in [
            "quorate_operator_reconcile_total 1",
            "quorate_operator_acts_total{act=\"MemberPromote\"} 1",
            "quorate_operator_cluster_healthy_voters{namespace=\"shop\",cluster=\"orders\"} 2",
            "quorate_operator_cluster_blocked{namespace=\"shop\",cluster=\"orders\",reason=\"QuorumUnsafe\"} 1",
        ] {
            assert!(
                text.lines().any(|one| one == line),
                "{line} is not in\n{text}"
            );
        }
        metrics.forget("shop", "orders");
        assert!(!metrics.text().contains("orders"));
    }
}
