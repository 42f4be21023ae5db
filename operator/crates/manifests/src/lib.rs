//! # manifests: Kubernetes objects as functions of a cluster and its members
//!
//! ```text
//! QuorateCluster ─┬─ Service <cluster>-peers   headless, names of members, ready or not
//!                 ├─ Service <cluster>         clients, ready members only
//!                 ├─ PodDisruptionBudget       voters, an integer
//!                 └─ QuorateMember <cluster>-<n>
//!                       ├─ Pod <cluster>-<n>
//!                       └╌ PersistentVolumeClaim data-<cluster>-<n>   by its name only, see volume.rs
//! ```
//!
//! A line of ownership is an owner reference, but for the dotted one: what a deleted owner leaves behind, the garbage collector takes.
//!
//! A Pod is made from its `QuorateMember` alone, whose `template` is a copy of the cluster's spec from when the
//! operator decided on that member. So an edit of the cluster reaches a member only when it is that member's
//! turn, and a Pod that is lost in the middle of a roll comes back as it was meant.
//!
//! The [`revision`] of a template is a hash of what a person wrote, not of what we make of it: an operator that
//! renders another label, or knows a new field, finds the same revision and restarts nothing.
//!
//! The rights of the operator are one table in [`rbac`]; the chart's roles are made of it.
//!
//! This room knows no API server and no clock, and decides nothing: what is made when is the planner's.
#![forbid(unsafe_code)]

mod budget;
mod host;
mod member;
mod names;
mod owner;
mod pod;
pub mod rbac;
mod revision;
mod services;
mod volume;

pub use budget::budget;
pub use host::{Error, Host, HostTemplate};
pub use member::member_object;
pub use names::*;
pub use owner::{owned_by_cluster, owned_by_member};
pub use pod::{Begin, Settings, pod};
pub use revision::{revision, template};
pub use services::{client_service, peer_service};
pub use volume::volume_claim;
