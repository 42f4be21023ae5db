//! What the user lets the operator do, with the defaults and their reasons.

/// `spec.membership` and `spec.podDisruptionBudget`, as numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Even numbers of replicas are taken. An even size survives no more crashes than the odd
    /// one below it.
    pub allow_even_replicas: bool,
    /// How long a member must have given good answers to count as healthy, and how long it must
    /// have been in doubt before a scale-down takes it first.
    pub min_healthy_ms: u64,
    /// An operation older than this is called stalled. It goes on, and may be turned.
    pub operation_timeout_ms: u64,
    /// A member in doubt for this long, with evidence that it will not come back, is replaced.
    /// `None`: only when a person asks.
    pub replace_failed_after_ms: Option<u64>,
    /// So many such replacements begin within an hour. A fault that takes member after member
    /// is rarely mended by another member.
    pub replacements_per_hour_max: u32,
    /// A member with a log this many entries behind the leader's counts as in doubt.
    pub lag_max: u64,
    /// A cluster of one or two voters may be stopped for as long as one of them restarts.
    pub accept_outage: bool,
    /// There is a PodDisruptionBudget.
    pub budget: bool,
    /// With one or two voters the budget lets evictions through, each of which is an outage.
    pub evict_with_outage: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            allow_even_replicas: false,
            min_healthy_ms: 10_000,
            operation_timeout_ms: 600_000,
            replace_failed_after_ms: Some(600_000),
            replacements_per_hour_max: 1,
            lag_max: 1000,
            accept_outage: false,
            budget: true,
            evict_with_outage: false,
        }
    }
}
