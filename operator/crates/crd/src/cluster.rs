//! `QuorateCluster`: what a person asks for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::QuorateClusterStatus;
use crate::values::{DurationText, QuantityText};

/// What the cluster should be.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quorate.dev",
    version = "v1alpha1",
    kind = "QuorateCluster",
    plural = "quorateclusters",
    singular = "quoratecluster",
    shortname = "qc",
    category = "all",
    category = "quorate",
    namespaced,
    status = "QuorateClusterStatus",
    derive = "PartialEq",
    doc = "A replicated key-value store that speaks etcd v3, looked after by the operator: it changes the members one step at a time and takes no step that could cost the quorum.",
    annotation("helm.sh/resource-policy", "keep"),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas", description = "Voting members asked for"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas", description = "Voting members that serve"),
    printcolumn(name = "May lose", type_ = "integer", json_path = ".status.quorum.tolerance", description = "Members that may be lost now without losing the quorum"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", description = "Lowest version of its members"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is ready, or why not"),
    printcolumn(name = "Operation", type_ = "string", json_path = ".status.operation.type", description = "The change in flight"),
    printcolumn(name = "Blocked", type_ = "string", json_path = ".status.blocked.reason", description = "Why the next step is refused", priority = 1),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader", description = "The member that leads", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')")
        .message("metadata.name must be at most 40 characters, lower-case letters, digits and '-', and begin with a letter: Services and Pods are named after it")
        .reason(Reason::FieldValueInvalid)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.replicas == 0 || self.replicas % 2 == 1 || self.membership.allowEvenReplicas")
        .message("replicas must be odd, or 0 to hibernate: an even number survives no more losses than one less; set membership.allowEvenReplicas to have it even so")
        .reason(Reason::FieldValueInvalid),
    validation = Rule::new("!has(self.options.quotaBackendBytes) || quantity(self.options.quotaBackendBytes).compareTo(quantity(self.storage.size)) < 0")
        .message("options.quotaBackendBytes must be less than storage.size: the volume also holds the log, and a full volume stops a member before the quota could")
        .reason(Reason::FieldValueInvalid),
    validation = Rule::new("self.bootstrap.adopt == oldSelf.bootstrap.adopt")
        .message("bootstrap is read once, when the cluster is made, and cannot be changed")
        .reason(Reason::FieldValueForbidden)
)]
pub struct QuorateClusterSpec {
    /// Voting members: 1, 3, 5 or 7. 0 hibernates the cluster: its Pods go, its volumes and its membership stay, and a number above 0 wakes it.
    #[serde(default = "three")]
    #[schemars(range(min = 0, max = 7))]
    pub replicas: i32,

    /// Version of Quorate that members run, such as 0.1.0; it is the tag of the image. A change restarts members one by one, the leader last. It goes up by at most one minor version at a time.
    #[schemars(
        regex(pattern = r"^(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})$"),
        length(max = 20)
    )]
    pub version: String,

    /// Where the image comes from.
    #[serde(default)]
    pub image: Image,

    /// The volume of each member.
    pub storage: Storage,

    /// Settings of the store. A change restarts members one by one, the leader last.
    #[serde(default)]
    pub options: Options,

    /// How members are added, replaced and removed.
    #[serde(default)]
    pub membership: Membership,

    /// While true the operator changes nothing and goes on telling the status.
    #[serde(default)]
    pub paused: bool,

    /// While true a deletion of this object is held: members go on serving until this is false.
    #[serde(default)]
    pub deletion_protection: bool,

    /// How Pods look, beyond what the operator decides. A change restarts members one by one, the leader last.
    #[serde(default)]
    pub pod_template: PodTemplate,

    /// Protection against evictions that would cost the quorum.
    #[serde(default)]
    pub pod_disruption_budget: DisruptionBudget,

    /// How the cluster begins. It is read once, when the cluster is made.
    #[serde(default)]
    pub bootstrap: Bootstrap,
}

fn three() -> i32 {
    3
}

/// Where the image comes from.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Repository of the image without a tag, such as registry.example/quorate. Without it, the operator's own setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[a-z0-9]([a-zA-Z0-9._:/-]*[a-z0-9])?$"),
        length(min = 1, max = 255)
    )]
    pub repository: Option<String>,

    /// When a node asks the registry for the image.
    #[serde(default)]
    pub pull_policy: PullPolicy,

    /// Secrets of this namespace with which the image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub pull_secrets: Vec<PullSecret>,
}

/// When a node asks the registry for an image.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// when it has none
    #[default]
    IfNotPresent,
    /// before every start
    Always,
    /// never: it must be there
    Never,
}

impl PullPolicy {
    /// The word in a Pod.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
            Self::Never => "Never",
        }
    }
}

/// A Secret with which images are pulled.
#[derive(JsonSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PullSecret {
    /// Name of a Secret of type kubernetes.io/dockerconfigjson in the cluster's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The volume of each member. Size and class cannot be changed yet.
#[derive(KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("quantity(self.size).compareTo(quantity(oldSelf.size)) == 0")
        .message("storage.size cannot be changed; make a new cluster with the other size")
        .reason(Reason::FieldValueForbidden),
    validation = Rule::new("has(self.className) == has(oldSelf.className) && (!has(self.className) || self.className == oldSelf.className)")
        .message("storage.className cannot be changed; make a new cluster with the other class")
        .reason(Reason::FieldValueForbidden),
    validation = Rule::new("quantity(self.size).compareTo(quantity('256Mi')) >= 0")
        .message("storage.size must be at least 256Mi: two log files of 64 MB, a snapshot and the database must fit")
        .reason(Reason::FieldValueInvalid)
)]
pub struct Storage {
    /// Size of each member's volume, such as 20Gi; at least 256Mi. It cannot be changed yet.
    pub size: QuantityText,

    /// StorageClass of the volumes. Without it, the default class of the Kubernetes cluster. It cannot be changed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,

    /// What becomes of a volume when its member leaves, or when the cluster is deleted.
    #[serde(default)]
    pub retention: Retention,
}

/// What becomes of volumes that are no longer used: Retain keeps the claims, for a person or for bootstrap.adopt; Delete removes them, with the data.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retention {
    /// the claims stay
    #[default]
    Retain,
    /// they go, with the data
    Delete,
}

/// Settings of the store, under etcd's names. Those that are left out are the store's own.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(has(self.electionTimeout) ? self.electionTimeout : '1s').getMilliseconds() >= 5 * duration(has(self.heartbeatInterval) ? self.heartbeatInterval : '100ms').getMilliseconds()")
        .message("options.electionTimeout must be at least five times options.heartbeatInterval (1s and 100ms when left out)")
        .reason(Reason::FieldValueInvalid),
    validation = Rule::new("!has(self.electionTimeout) || duration(self.electionTimeout) <= duration('50s')")
        .message("options.electionTimeout must be at most 50s")
        .reason(Reason::FieldValueInvalid),
    validation = Rule::new("!has(self.heartbeatInterval) || duration(self.heartbeatInterval) >= duration('10ms')")
        .message("options.heartbeatInterval must be at least 10ms")
        .reason(Reason::FieldValueInvalid),
    validation = Rule::new("!has(self.quotaBackendBytes) || quantity(self.quotaBackendBytes).compareTo(quantity('16Mi')) >= 0")
        .message("options.quotaBackendBytes must be at least 16Mi")
        .reason(Reason::FieldValueInvalid)
)]
pub struct Options {
    /// Size of the database, such as 8Gi, at which the store refuses writes until it is compacted and defragmented. Without it 2Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_backend_bytes: Option<QuantityText>,

    /// Forgetting old revisions on its own. Without it they are kept until a client compacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_compaction: Option<AutoCompaction>,

    /// Committed requests between two snapshots of the state to disk. Without it 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub snapshot_count: Option<i64>,

    /// Time between two heartbeats of the leader, such as 100ms, which it is when left out: about one round trip between members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_interval: Option<DurationText>,

    /// Time without a heartbeat after which a follower asks for votes, such as 1s, which it is when left out: at least five, better ten heartbeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub election_timeout: Option<DurationText>,
}

/// Forgetting old revisions on its own.
#[derive(KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode == 'Revision' ? self.retention.matches('^[1-9][0-9]*$') : self.retention.matches('^([0-9]+(ms|s|m|h))+$') && duration(self.retention) > duration('0s')")
        .message("options.autoCompaction.retention must be a duration such as 1h with mode Periodic, a number of revisions such as 10000 with mode Revision")
        .reason(Reason::FieldValueInvalid)
)]
pub struct AutoCompaction {
    /// What retention counts.
    #[serde(default)]
    pub mode: CompactionMode,

    /// How much history stays: a duration such as 1h, or a number of revisions such as 10000.
    #[schemars(length(min = 1, max = 16))]
    pub retention: String,
}

/// What the history is measured by: Periodic keeps the revisions of a time, Revision keeps a number of them.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompactionMode {
    /// by time
    #[default]
    Periodic,
    /// by number
    Revision,
}

impl CompactionMode {
    /// The word that the member's flag takes.
    pub fn as_flag(self) -> &'static str {
        match self {
            Self::Periodic => "periodic",
            Self::Revision => "revision",
        }
    }
}

/// How members are added, replaced and removed.
#[derive(KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.domain) == has(oldSelf.domain) && (!has(self.domain) || self.domain == oldSelf.domain)")
        .message("membership.domain cannot be changed: it is part of the members' addresses")
        .reason(Reason::FieldValueForbidden)
)]
pub struct Membership {
    /// Allows an even number of replicas, which costs one member more and survives no more losses.
    #[serde(default)]
    pub allow_even_replicas: bool,

    /// Accepts that writes stop while a member restarts in a cluster of one or two voters. Without it such a cluster is not restarted for another version, image, option or template, and status says so.
    #[serde(default)]
    pub accept_outage: bool,

    /// Seconds for which all voters must have been healthy before the next voluntary step.
    #[serde(default = "ten")]
    #[schemars(range(min = 0, max = 3600))]
    pub min_healthy_seconds: i32,

    /// Time that one operation may take, such as 10m; after it the condition Stalled says what it waits for, and the operator goes on trying.
    #[serde(default = "ten_minutes")]
    pub operation_timeout: DurationText,

    /// Time for which a member must have been failed before it is replaced, such as 10m. 0s means never on its own.
    #[serde(default = "ten_minutes")]
    pub replace_failed_after: DurationText,

    /// Failed members that are replaced within an hour, at most.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 60))]
    pub max_replacements_per_hour: i32,

    /// DNS domain of the Kubernetes cluster, such as cluster.local, to be part of members' names. Without it the names end in .svc, which every cluster resolves. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"),
        length(min = 1, max = 100)
    )]
    pub domain: Option<String>,
}

impl Default for Membership {
    fn default() -> Self {
        Self {
            allow_even_replicas: false,
            accept_outage: false,
            min_healthy_seconds: ten(),
            operation_timeout: ten_minutes(),
            replace_failed_after: ten_minutes(),
            max_replacements_per_hour: one(),
            domain: None,
        }
    }
}

fn one() -> i32 {
    1
}

fn ten() -> i32 {
    10
}

fn ten_minutes() -> DurationText {
    DurationText::from("10m")
}

/// How Pods look, beyond what the operator decides.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels of the Pods, beside the operator's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(key, size(key) <= 317 && !key.startsWith('quorate.dev/') && !key.startsWith('app.kubernetes.io/'))")
        .message("podTemplate.labels must not begin with quorate.dev/ or app.kubernetes.io/, which are the operator's")
        .reason(Reason::FieldValueForbidden))]
    pub labels: BTreeMap<String, String>,

    /// Annotations of the Pods, beside the operator's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(key, size(key) <= 317 && !key.startsWith('quorate.dev/'))")
        .message("podTemplate.annotations must not begin with quorate.dev/, which are the operator's")
        .reason(Reason::FieldValueForbidden))]
    pub annotations: BTreeMap<String, String>,

    /// Processor time and memory that a member asks for, and the most that it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Where members may run. Without it they prefer nodes without another member of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// How members spread over zones and nodes. Without it they spread over zones where there are some, and never wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,

    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,

    /// Taints of nodes that members put up with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,

    /// PriorityClass of the Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// Protection against evictions that would cost the quorum.
#[derive(JsonSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionBudget {
    /// While true the operator keeps a PodDisruptionBudget of the voters.
    #[serde(default = "yes")]
    pub enabled: bool,

    /// What becomes of an eviction while no voter may be lost, as with one or two of them.
    #[serde(default)]
    pub without_tolerance: WithoutTolerance,
}

impl Default for DisruptionBudget {
    fn default() -> Self {
        Self {
            enabled: yes(),
            without_tolerance: WithoutTolerance::default(),
        }
    }
}

fn yes() -> bool {
    true
}

/// What becomes of evictions of a cluster with one or two voters: Refuse holds a node's drain until the cluster is scaled; Allow lets the quorum go away until the Pod runs again.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WithoutTolerance {
    /// the drain waits
    #[default]
    Refuse,
    /// the quorum goes away for a while
    Allow,
}

/// How the cluster begins.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// Takes the kept volumes of a deleted cluster of the same name, with its data and its members, where else they are refused.
    #[serde(default)]
    pub adopt: bool,
}
