//! `QuorateMember`: one member, made by the operator. It owns its Pod; the volume claim has no owner.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::{Image, Options, PodTemplate};
use crate::status::{Health, Role, Waiting};
use crate::values::MemberIdText;
use crate::{Condition, Time};

/// What one member should be. The operator writes it; to ask for a member's safe replacement, delete the object.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::duplicated_attributes,
    reason = "columns have types and priorities in common"
)]
#[kube(
    group = "quorate.dev",
    version = "v1alpha1",
    kind = "QuorateMember",
    plural = "quoratemembers",
    singular = "quoratemember",
    shortname = "qm",
    category = "quorate",
    namespaced,
    status = "QuorateMemberStatus",
    derive = "PartialEq",
    doc = "One member of a QuorateCluster, made by the operator. Deleting it asks for the member's safe replacement.",
    annotation("helm.sh/resource-policy", "keep"),
    selectable = ".spec.clusterName",
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterName",
        description = "The cluster it belongs to"
    ),
    printcolumn(
        name = "Role",
        type_ = "string",
        json_path = ".status.role",
        description = "What it is in the cluster"
    ),
    printcolumn(
        name = "Health",
        type_ = "string",
        json_path = ".status.health",
        description = "Whether it serves; Unknown when it could not be asked"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        description = "Version that it runs"
    ),
    printcolumn(
        name = "Waiting",
        type_ = "string",
        json_path = ".status.waiting.reason",
        description = "What it waits for"
    ),
    printcolumn(
        name = "ID",
        type_ = "string",
        json_path = ".status.memberID",
        description = "ID in the store's cluster",
        priority = 1
    ),
    printcolumn(
        name = "Lag",
        type_ = "integer",
        json_path = ".status.lag",
        description = "Entries behind the leader",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.clusterName == oldSelf.clusterName && self.number == oldSelf.number && self.bootstrap == oldSelf.bootstrap")
        .message("clusterName, number and bootstrap of a member cannot be changed")
        .reason(Reason::FieldValueForbidden)
)]
pub struct QuorateMemberSpec {
    /// Name of the QuorateCluster, in the same namespace. It cannot be changed.
    #[schemars(length(min = 1, max = 40))]
    pub cluster_name: String,

    /// Number of the member; its name is the cluster's name, '-' and this. Numbers are never used twice. It cannot be changed.
    #[schemars(range(min = 0))]
    pub number: i64,

    /// True of the one member with which a new cluster begins; every other joins. It cannot be changed.
    #[serde(default)]
    pub bootstrap: bool,

    /// All of the cluster's spec that the Pod is made from, as it was when the operator last decided on this member. A changed template means a new Pod, when that is safe.
    pub template: MemberTemplate,
}

/// What a member's Pod is made from.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberTemplate {
    /// Version of Quorate, the tag of the image.
    #[schemars(length(max = 20))]
    pub version: String,

    /// Where the image comes from.
    #[serde(default)]
    pub image: Image,

    /// Settings of the store.
    #[serde(default)]
    pub options: Options,

    /// How the Pod looks, beyond what the operator decides.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

/// What the operator saw of the member last.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuorateMemberStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// ID in the store's cluster, 16 hexadecimal digits. Nothing before the member was added.
    #[serde(rename = "memberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<MemberIdText>,

    /// What it is in the cluster.
    #[serde(default)]
    pub role: Role,

    /// Whether it serves. A member that could not be asked is Unknown: neither healthy nor gone.
    #[serde(default)]
    pub health: Health,

    /// Entries of the log that it is behind the leader; small numbers are 0, so that this is not rewritten with every write of a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,

    /// Version that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub version: Option<String>,

    /// Revision that its Pod was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub revision: Option<String>,

    /// URL at which the other members reach it.
    #[serde(rename = "peerURL", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub peer_url: Option<String>,

    /// UID of its Pod.
    #[serde(rename = "podUID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub pod_uid: Option<String>,

    /// UID of its volume claim. A claim of the same name with another UID does not hold this member's data.
    #[serde(rename = "volumeUID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub volume_uid: Option<String>,

    /// Since when role and health are so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// Since when all its answers were good: reads with a quorum behind them, of the right cluster. Nothing when the last was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_since: Option<Time>,

    /// Since when it answers, and not well; silences of up to five and a half minutes are counted in. Nothing when the
    /// last answer was good, or when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad_since: Option<Time>,

    /// Since when it does not answer. Nothing when the last question was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<Time>,

    /// What it waits for. Nothing when it waits for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,

    /// Conditions in the form that kubectl wait and kstatus read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
