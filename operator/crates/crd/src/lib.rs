//! # crd: the kinds `QuorateCluster` and `QuorateMember`
//!
//! What a person writes, and what the operator answers.
//!
//! ```text
//! QuorateCluster  spec    ← a person, GitOps, kubectl scale
//!                 status  ← the operator: members, quorum, the step in flight, why it waits
//! QuorateMember   spec    ← the operator: one object per member, with all that its Pod is made from
//!                 status  ← the operator: role, health, lag
//! ```
//!
//! The Rust types are the source. [`definitions`] makes the CustomResourceDefinitions of them; they are
//! committed in `crds/` and in the operator's chart, and a test here compares both with what the types say
//! (`cargo xtask crds` writes them anew). What a schema cannot say stands in CEL rules beside the field, so
//! that no webhook is needed.
//!
//! Rules of this room:
//!
//! - A field of a spec exists when it works, never before.
//! - Every field has a description: it is what `kubectl explain` says. A test walks the schemas.
//! - Every list, map and text has a maximum, so that the rules' cost stays within the API server's budget.
//! - IDs are text, 16 hexadecimal digits: a JSON number does not hold 64 bits.
//! - Objects that an older or newer version stored must load. New fields have defaults; the enumerations of a
//!   status take unknown words as `Unknown`, since one object that does not parse stops the whole watch.
//!
//! This room does not know the API server, the planner, or how a Pod looks.
#![forbid(unsafe_code)]

mod cluster;
mod conditions;
mod definitions;
mod member;
mod status;
mod values;

pub use cluster::{
    AutoCompaction, Bootstrap, CompactionMode, DisruptionBudget, Image, Membership, Options,
    PodTemplate, PullPolicy, PullSecret, QuorateCluster, QuorateClusterSpec, Retention, Storage,
    WithoutTolerance,
};
pub use conditions::{ConditionStatus, ConditionType, Reason, condition, is_true, set_condition};
pub use definitions::{chart_values_schema, definitions, file_name, yaml};
pub use member::{MemberTemplate, QuorateMember, QuorateMemberSpec, QuorateMemberStatus};
pub use status::{
    Blocked, Health, MemberSummary, Operation, OperationKind, QuorateClusterStatus, QuorumNumbers,
    Recovery, Replacement, Role, Target, Waiting,
};
pub use values::{DurationText, Error, MemberIdText, QuantityText};

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The API group of both kinds.
pub const GROUP: &str = "quorate.dev";

/// The one version of both kinds.
pub const VERSION: &str = "v1alpha1";

/// Holds a `QuorateCluster` until its deletion is allowed and its members are gone.
pub const CLUSTER_FINALIZER: &str = "quorate.dev/cluster";

/// Holds a `QuorateMember` until its member has left the cluster, or the cluster itself is deleted.
pub const MEMBER_FINALIZER: &str = "quorate.dev/member";

/// On a `QuorateCluster` that has lost its quorum: `<cluster ID>/<member name>` names the survivor from whose
/// data the cluster goes on. What only the others had is lost. `/others-are-gone` behind it says that members on
/// silent nodes never come back, where a recovery else waits. An order is followed once, and taken away when it is
/// done, or when there is a quorum.
pub const RECOVER_FROM_ANNOTATION: &str = "quorate.dev/recover-from";

/// Characters in a cluster's name, so that the names of its Services, Pods and volumes stay under the 63 that
/// a DNS label may have: `data-` in front and `-` with a rising number behind.
pub const CLUSTER_NAME_MAX: usize = 40;

/// Members in a cluster. Beyond seven every write waits for more machines and survives no likelier loss.
pub const REPLICAS_MAX: i32 = 7;
