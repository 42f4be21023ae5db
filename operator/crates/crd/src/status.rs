//! What the operator answers on a `QuorateCluster`.
//!
//! The operator writes it only when something in it changed, so numbers that move with every write of a client
//! are not in it, or coarse.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::member::MemberTemplate;
use crate::values::MemberIdText;
use crate::{Condition, Time};

/// What the operator saw last, and what it is doing.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuorateClusterStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Members that have a Pod.
    #[serde(default)]
    pub replicas: i32,

    /// Voting members that serve.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Label selector of the Pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub selector: Option<String>,

    /// ID of the store's cluster, 16 hexadecimal digits. Once known it never changes; members that report another are not touched.
    #[serde(rename = "clusterID", default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<MemberIdText>,

    /// What members are started with so that those of different clusters never join each other: namespace, name and UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 160))]
    pub cluster_token: Option<String>,

    /// Lowest version of its members. One that does not answer counts with what it ran last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub version: Option<String>,

    /// What is being worked towards: the spec as it was when the work began. An edit in the middle waits for its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,

    /// The quorum, in numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumNumbers>,

    /// Name of the member that leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub leader: Option<String>,

    /// URLs for clients: first the Service, then each voter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub endpoints: Vec<String>,

    /// Every member, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub members: Vec<MemberSummary>,

    /// Number of the next member. It only rises, so that a name, and the volume of that name, is never used twice.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub next_member: i64,

    /// The change in flight, written before its first act. Nothing when idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,

    /// Number of the next operation. It only rises.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub next_operation: i64,

    /// Why the next step is refused. Nothing when none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,

    /// All that was not done now, each with its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub waiting: Vec<Waiting>,

    /// Replacements of failed members within the last hour, for the limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub replacements: Vec<Replacement>,

    /// Recoveries from a lost quorum, which a person asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,

    /// Conditions in the form that kubectl wait and kstatus read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What is being worked towards.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Generation of the spec that this is of.
    #[serde(default)]
    pub generation: i64,

    /// Voting members.
    #[serde(default)]
    pub replicas: i32,

    /// Version of every member.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub version: String,

    /// Revision of every member: a hash of version, image, options and podTemplate.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub revision: String,

    /// All that Pods of this revision are made from.
    #[serde(default)]
    pub template: MemberTemplate,
}

/// The quorum, in numbers.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuorumNumbers {
    /// Members that vote.
    #[serde(default)]
    pub voters: i32,

    /// Members that learn and do not vote yet.
    #[serde(default)]
    pub learners: i32,

    /// Voters that answer, agree on the leader and have caught up.
    #[serde(default)]
    pub healthy_voters: i32,

    /// Healthy voters that a write needs.
    #[serde(default)]
    pub needed: i32,

    /// Healthy voters that may be lost now; below 0 the quorum is lost by so many.
    #[serde(default)]
    pub tolerance: i32,

    /// Since when these numbers are so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// One member in short; more is in the QuorateMember of its name.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberSummary {
    /// Name of the member, its Pod and its QuorateMember.
    #[schemars(length(max = 63))]
    pub name: String,

    /// ID in the store's cluster, 16 hexadecimal digits. Nothing before the member was added.
    #[serde(rename = "memberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<MemberIdText>,

    /// What it is in the cluster.
    #[serde(default)]
    pub role: Role,

    /// Whether it serves. A member that could not be asked is Unknown: neither healthy nor gone.
    #[serde(default)]
    pub health: Health,

    /// Version that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub version: Option<String>,

    /// Revision that its Pod was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub revision: Option<String>,

    /// Alarms that it raised, such as NOSPACE.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub alarms: Vec<String>,

    /// Since when role and health are so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// What a member is in its cluster: None before it was added and after it was removed.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// it leads
    Leader,
    /// it votes
    Voter,
    /// it learns and does not vote yet
    Learner,
    /// it is no member
    None,
    /// it could not be found out, or another version of the operator has a word for it
    #[default]
    #[serde(other)]
    Unknown,
}

/// Whether a member serves: Unknown when it could not be asked.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// it serves
    Healthy,
    /// it answered, and does not serve
    Unhealthy,
    /// it could not be asked
    #[default]
    #[serde(other)]
    Unknown,
}

/// A change of the cluster that takes several steps. It is written before its first act, and read again after
/// a crash; what is done of it is seen in the live state.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Number of the operation; it only rises, and stands in logs and Events.
    #[serde(default)]
    pub id: i64,

    /// What is being done.
    #[serde(rename = "type", default)]
    pub kind: OperationKind,

    /// The member that it is about: the first one, the one that leaves, is restarted, or survives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub member: Option<String>,

    /// Members that join.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub joining: Vec<String>,

    /// Why, in one word, where there is a choice: what is wrong with a member that is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,

    /// The order of a person that it follows, as in the annotation quorate.dev/recover-from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub order: Option<String>,

    /// The survivor of a recovery has answered as a cluster of one.
    #[serde(default)]
    pub recovered: bool,

    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,

    /// When it counts as stalled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
}

/// What an operation does.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationKind {
    /// the first member
    Bootstrap,
    /// the kept volumes of a deleted cluster
    Adopt,
    /// a learner, caught up, promoted; two at once only where one voter becomes three
    AddMembers,
    /// out of the membership, then its Pod
    RemoveMember,
    /// a failed one out, another one in
    ReplaceMember,
    /// a new Pod for a member
    RollMember,
    /// all Pods back after a hibernation
    Wake,
    /// on from one member's data
    RecoverQuorum,
    /// another version of the operator has a word for it
    #[default]
    #[serde(other)]
    Unknown,
}

/// Why the next step is refused.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// One word for programs, such as QuorumUnsafe.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub reason: String,

    /// A sentence for people, with the arithmetic.
    #[serde(default)]
    #[schemars(length(max = 2048))]
    pub message: String,

    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// Something that was not done now, and why.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// One word for programs, such as LearnerCatchingUp.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub reason: String,

    /// The member that it is about, by its name; one that is not ours, by its ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub member: Option<String>,

    /// A sentence for people.
    #[serde(default)]
    #[schemars(length(max = 2048))]
    pub message: String,

    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// One replacement of a failed member.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// The member that was replaced.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub member: String,

    /// When the replacement began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// Recoveries from a lost quorum.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// How many there were.
    #[serde(default)]
    pub count: i32,

    /// When the last one ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Time>,

    /// The last order that was followed, as in the annotation quorate.dev/recover-from, while it stands there. It is not followed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub order: Option<String>,

    /// The member whose data the cluster went on with, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub survivor: Option<String>,
}
