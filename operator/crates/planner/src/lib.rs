//! # planner: what is observed in, at most one action out, with the reasons of all that was not done
//!
//! ```text
//!   Observed ─┐
//!             ├─▶ plan ─▶ Plan { one Action?, WaitingOn…, Summary }
//!   Policy  ──┘              │
//!                            └─▶ check: laws that know nothing of plan
//! ```
//!
//! Pure functions of values: no clock, no chance, no Kubernetes type, no I/O. The same input
//! gives the same plan, so a crash of the operator between two acts is the same as no crash.
#![forbid(unsafe_code)]

mod action;
mod check;
mod facts;
mod observed;
mod plan;
mod policy;
mod summary;
mod waiting;

pub use action::{Action, Operation, OperationKind, Outcome, Replace, Why};
pub use check::{Violation, check};
pub use observed::{
    Alarm, AlarmKind, Answer, Asked, Budget, ClusterId, KeptVolume, Live, LiveMember, MemberObject,
    Membership, Observed, Pending, Pod, PodFacts, PodPhase, Recorded, RecoverOrder, Retention,
    Start, Target, Version, Volume, VolumeFacts, VolumePhase, Wanted,
};
pub use plan::{Plan, plan};
pub use policy::Policy;
pub use quorum::{MemberId, Role};
pub use summary::{Condition, ConditionKind, MemberSummary, Phase, Quorum, Summary, Truth};
pub use waiting::{Broken, Part, RecoveryRefused, Survivor, VersionRefused, WaitingOn, Wish};
