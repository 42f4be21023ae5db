//! The plan.

use crate::{Action, Observed, Phase, Policy, Summary, WaitingOn};

/// What to do next, what is waited for, and what to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The one act. `None`: nothing to do, or nothing that may be done; `waiting` says which.
    pub action: Option<Action>,
    /// Everything that was not done, and why. Empty when all is as it should be.
    pub waiting: Vec<WaitingOn>,
    /// For status.
    pub summary: Summary,
}

/// What to do next for a cluster, by what is seen of it and nothing else.
pub fn plan(observed: &Observed, policy: &Policy) -> Plan {
    let _ = (observed, policy);
    Plan {
        action: None,
        waiting: Vec::new(),
        summary: Summary {
            phase: Phase::Working,
            quorum: None,
            members: Vec::new(),
            operation: None,
            conditions: Vec::new(),
        },
    }
}
