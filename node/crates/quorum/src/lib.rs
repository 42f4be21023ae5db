//! # quorum: may this membership step be taken?
//!
//! One arithmetic for the node's leader, which judges a request in the turn that appends it, and
//! for the operator's planner, which judges a step before it asks for it. Pure functions of what
//! is known: no I/O, no clock, no dependency.
//!
//! ```text
//!   what is known of each member ─┐
//!   the step that is wanted ──────┼─▶ judge ─▶ Verdict: allow | allow with a warning | refuse
//!   the policy ───────────────────┘            with its numbers, who is in doubt, what to do
//! ```
//!
//! **The rule.** A configuration has N voters, of which H are healthy, and needs
//! need(N) = ⌊N/2⌋ + 1 of them. A crash is *fatal* when it leaves fewer healthy voters than
//! needed; fatal(C) is the set of healthy voters whose crash is fatal. A step from C to D is
//! allowed when
//!
//! - (a) etcd 3.7's own check allows it ([`etcd`]);
//! - (b) H(D) ≥ need(N(D)), where an added voter does not count as healthy (one voter may become
//!   two, as in etcd);
//! - (c) every voter of C is healthy, or fatal(D) ⊆ fatal(C): while a voter is in doubt, no step
//!   makes a crash fatal that was not;
//! - (d) a promoted learner is healthy.
//!
//! Doubt counts neither as health nor as absence. While every voter is healthy the rule refuses
//! nothing that etcd allows, but promoting a learner in doubt; it may warn.
//!
//! **Why it is not argued but searched.** `tests/model.rs` walks through every state that a
//! cluster can reach with three faults, keeps the truth and the leader's view of it apart, and
//! checks four properties; run on etcd's own rule it finds the four kinds of step by which that
//! rule makes a crash fatal.
//!
//! This room does not know: how life is observed, raft, who may ask, error codes. There is no
//! rule of ours at apply, where an entry must mean the same on every member.
#![forbid(unsafe_code)]

pub mod etcd;
mod judge;
mod life;
#[cfg(test)]
mod table;
mod verdict;

use std::time::Duration;

pub use judge::{fatal, judge, need};
pub use life::{Doubt, HEALTH_INTERVAL, LEARNER_INTERVAL, Life, interval};
pub use verdict::{Advice, Answer, Arithmetic, Reason, Verdict, Warning};

/// The id of a member; printed in lower-case hexadecimal without padding, as etcd does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl std::fmt::Display for MemberId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What raft counts a member as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Has a vote.
    Voter,
    /// Gets the log and has no vote.
    Learner,
}

/// What is known of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Voter or learner.
    pub role: Role,
    /// It has published a name. etcd's check asks for this, which is not the same as life.
    pub started: bool,
    /// How long its peer streams have been connected without a break; `None` when they are not.
    /// etcd's check asks for this. An observer without streams gives `Duration::MAX` for a
    /// member that answered it.
    pub connected_for: Option<Duration>,
    /// Healthy or in doubt. The judging member itself is healthy.
    pub life: Life,
    /// Index up to which its log is known to equal the leader's; `None` where nobody knows.
    pub matched: Option<u64>,
}

impl Member {
    /// A voter that is in its configuration and alive counts.
    pub fn is_healthy_voter(&self) -> bool {
        self.role == Role::Voter && self.life == Life::Healthy
    }
}

/// A membership as one observer sees it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Who looks; `None` for an observer that is no member.
    pub itself: Option<MemberId>,
    /// Who leads, where it is known.
    pub leader: Option<MemberId>,
    /// Every member of the applied configuration.
    pub members: Vec<Member>,
    /// Index up to which the log is committed.
    pub committed: u64,
    /// The log may hold a conf change that is not applied, or a new leader has not yet applied
    /// its own first entry. Until then nobody knows which configuration a step would start from.
    pub unapplied_change: bool,
}

impl View {
    /// The member of an id.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Every voter.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(|member| member.role == Role::Voter)
    }
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A new member with a vote from the start.
    AddVoter,
    /// A new member without a vote.
    AddLearner,
    /// A learner gets a vote.
    Promote(MemberId),
    /// A member leaves for ever.
    Remove(MemberId),
    /// A member gets other peer URLs. Judged for the operator; etcd asks nothing of a person.
    UpdateUrls(MemberId),
    /// A member's process is stopped and started. Judged for the operator.
    Restart(MemberId),
    /// Another member shall lead.
    MoveLeader(MemberId),
}

/// Which part of the rule holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rule {
    /// None: `--strict-reconfig-check=false`.
    Off,
    /// (a) only: `--quorate-membership-rule=etcd`.
    Etcd,
    /// (a) to (d).
    #[default]
    Strict,
}

/// How strictly, and for whom, to judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Which part of the rule holds.
    pub rule: Rule,
    /// What would be a warning for a person is a refusal.
    pub refuse_warnings: bool,
    /// A restart may stop a cluster of one or two voters for its length.
    pub accept_outage: bool,
}

impl Policy {
    /// The operator's: it never takes a step that a person would be warned of, but a restart
    /// where its user has accepted the outage.
    pub fn operator(accept_outage: bool) -> Policy {
        Policy {
            rule: Rule::Strict,
            refuse_warnings: true,
            accept_outage,
        }
    }
}
