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
//!
//! **The order.** A plan asks its stages one after the other; the first that acts or waits ends it:
//!
//! ```text
//! paused · deleted                                              nothing, or the end
//! begin · same cluster · recover · sleep                        before and after a quorum
//! start again · mend · without quorum                           what is safe at any time
//! strangers · orphans · leftovers · labels · alarms             with a quorum, no operation
//! latch · budget · operate                                      the one operation under way
//! replace · scale · roll                                        what is begun next
//! ```
//!
//! **One operation at a time.** Whatever takes more than one act is an [`Operation`], written down
//! before its first act. Which act comes next follows from the membership and the Pods, never from
//! a memory of what was done: [`plan`] of what is seen *is* the resumption.
//!
//! **The quorum.** Every membership act is judged by the crate `quorum`, as the node's leader
//! will judge it again. What this room adds only refuses more: a voter in doubt for a moment is
//! waited for; a cluster grows, rolls and loses healthy members only while every other voter is
//! healthy. One thing it does not add: beside a voter in doubt a promotion is not refused as such,
//! for the rule allows it only where it makes every crash harmless that was fatal.
//!
//! **Without a quorum** nothing is done but what cannot hurt: a Pod is made again on its own disk,
//! and a Pod that cannot start gets the edit that mends it. Everything else waits for a person.
//! A disk that is gone is never made anew under a name that had one; a Pod on a silent node is
//! not gone, whatever is written about it.
//!
//! **The target** is latched, so that an edit does not bend a step half way. Between two operations
//! every state is safe, so the next spec is taken there; during one, only when it is stuck.
//!
//! This room does not know: who observes, how an act is done, what an object looks like. Its tests
//! hold it against a small world (`tests/planner/world.rs`): stories in `testdata`, and a search
//! through everything that can happen.
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
    Alarm, AlarmKind, Answer, Asked, Budget, ClusterId, FailedRemedy, KeptVolume, Live, LiveMember,
    MemberObject, Membership, Observed, Pending, Pod, PodFacts, PodPhase, Recorded, RecoverOrder,
    Remedy, Retention, Start, Target, Version, Volume, VolumeFacts, VolumePhase, Wanted,
};
pub use plan::{Plan, plan};
pub use policy::Policy;
pub use quorum::{MemberId, Role};
pub use summary::{Condition, ConditionKind, MemberSummary, Phase, Quorum, Summary, Truth};
pub use waiting::{Broken, Part, RecoveryRefused, Survivor, VersionRefused, WaitingOn, Wish};
