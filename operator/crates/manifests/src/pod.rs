//! The Pod of a member.

use std::collections::BTreeMap;

use crd::{MemberIdText, Options, PodTemplate, QuorateCluster, QuorateMember};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, HTTPGetAction, LocalObjectReference,
    PersistentVolumeClaimVolumeSource, Pod, PodAffinityTerm, PodAntiAffinity, PodSecurityContext,
    PodSpec, Probe, SeccompProfile, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::host::{Host, HostTemplate};
use crate::names::{
    CLIENT_PORT, CONTAINER, DATA_DIR, MEMBERSHIP_ANNOTATION, METRICS_PORT, PEER_PORT,
    REVISION_LABEL, START_ANNOTATION, USER, VOLUME_PATH, VOTER_LABEL, cluster_token, member_labels,
    peer_service_name, selector, volume_claim_name,
};
use crate::owner::owned_by_member;
use crate::revision::revision;

/// Seconds from the signal to the kill: a member hands its leadership over and closes its files in one or two.
const GRACE_S: i64 = 30;

/// Seconds for which a member may read its log and its database before it answers: an hour. A large database
/// on a slow disk must not be killed in the middle again and again.
const STARTUP_S: i32 = 3600;

/// Seconds between two questions whether a member is ready. Short, because clients wait for it after a restart.
const READINESS_S: i32 = 2;

/// Seconds between two questions whether a member answers at all, and how many may go wrong in a row. It is
/// asked about its own process only, so a lost quorum restarts nobody.
const LIVENESS_S: i32 = 5;
const LIVENESS_FAILURES: i32 = 6;

/// What makes members compare their data. At a start with the others', which costs one reading of a database that the
/// start reads anyway: who differs from a majority ends, with words, and is replaced as one that does not stay up. And
/// after each compaction that the leader finds (once a minute), by the hash that the compaction brings along: who
/// differs from a majority is named by the alarm CORRUPT, and is replaced at once.
///
/// `--corrupt-check-time` stays off, as in etcd. It reads the whole database of every member each time, beside the
/// log on the same disk; a large one is not done within the time that the leader waits, so that nothing is compared;
/// and it names the first one that differs from the leader, also where it is the leader that is wrong, which would
/// cost a sound member. So a store that nobody compacts is compared at starts only; `spec.options.autoCompaction`
/// compacts it, and Kubernetes does by itself.
const CHECKS: &str = "InitialCorruptCheck=true,CompactHashCheck=true";

/// What the operator is told by its flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// repository of the image of clusters that name none
    pub image_repository: String,
    /// where members are reached
    pub member_host: HostTemplate,
}

/// How a member is told to start. One that has data on its disk takes notice of `Recover` only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// It begins a cluster, alone.
    New,
    /// It joins the members, given as name and peer URLs, itself among them.
    Existing {
        /// name and peer URLs of all; those that have not started are named as we named them
        members: Vec<(String, Vec<String>)>,
        /// digest of that membership, where it could be read
        membership: Option<String>,
    },
    /// Its disk becomes a cluster of one before it starts, by an init container: `quorate util recover`, which
    /// keeps a copy beside the data.
    Recover {
        /// its ID, from its disk
        member_id: MemberIdText,
        /// the cluster's ID
        cluster_id: MemberIdText,
    },
}

/// The Pod of a member, from the member's own template. `voter` says whether the disruption budget counts it.
pub fn pod(
    cluster: &QuorateCluster,
    member: &QuorateMember,
    settings: &Settings,
    begin: &Begin,
    voter: bool,
) -> Pod {
    let (cluster_name, name) = (cluster.name_any(), member.name_any());
    let template = &member.spec.template;
    let ours = &template.pod_template;
    let mut labels = ours.labels.clone();
    labels.extend(member_labels(&cluster_name, &name));
    labels.insert(REVISION_LABEL.to_owned(), revision(template));
    labels.insert(VOTER_LABEL.to_owned(), voter.to_string());
    labels.insert(
        "app.kubernetes.io/version".to_owned(),
        template.version.clone(),
    );
    Pod {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: cluster.namespace(),
            labels: Some(labels),
            annotations: Some(annotations(ours, begin)),
            owner_references: Some(owned_by_member(member)),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            hostname: Some(name.clone()),
            subdomain: Some(peer_service_name(&cluster_name)),
            restart_policy: Some("Always".to_owned()),
            termination_grace_period_seconds: Some(GRACE_S),
            // A member asks nothing of the API server, and no variable of another Service may be taken for a flag.
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            security_context: Some(pod_security()),
            init_containers: recover(member, settings, begin).map(|container| vec![container]),
            containers: vec![container(cluster, member, settings, begin)],
            volumes: Some(vec![Volume {
                name: "data".to_owned(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: volume_claim_name(&name),
                    ..PersistentVolumeClaimVolumeSource::default()
                }),
                ..Volume::default()
            }]),
            image_pull_secrets: some(
                template
                    .image
                    .pull_secrets
                    .iter()
                    .map(|secret| LocalObjectReference {
                        name: secret.name.clone(),
                    })
                    .collect::<Vec<_>>(),
            ),
            affinity: Some(
                ours.affinity
                    .clone()
                    .unwrap_or_else(|| apart(&cluster_name)),
            ),
            topology_spread_constraints: some(
                ours.topology_spread_constraints
                    .clone()
                    .unwrap_or_else(|| vec![over_zones(&cluster_name)]),
            ),
            node_selector: (!ours.node_selector.is_empty()).then(|| ours.node_selector.clone()),
            tolerations: some(ours.tolerations.clone()),
            priority_class_name: ours.priority_class_name.clone(),
            ..PodSpec::default()
        }),
        ..Pod::default()
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn annotations(ours: &PodTemplate, begin: &Begin) -> BTreeMap<String, String> {
    let mut annotations = ours.annotations.clone();
    let (start, membership) = match begin {
        Begin::New => ("new", None),
        Begin::Existing { membership, .. } => ("existing", membership.clone()),
        Begin::Recover { .. } => ("recover", None),
    };
    annotations.insert(START_ANNOTATION.to_owned(), start.to_owned());
    if let Some(membership) = membership {
        annotations.insert(MEMBERSHIP_ANNOTATION.to_owned(), membership);
    }
    annotations
}

fn container(
    cluster: &QuorateCluster,
    member: &QuorateMember,
    settings: &Settings,
    begin: &Begin,
) -> Container {
    let template = &member.spec.template;
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image(member, settings)),
        image_pull_policy: Some(template.image.pull_policy.as_str().to_owned()),
        args: Some(arguments(cluster, member, settings, begin)),
        ports: Some(vec![
            port("client", CLIENT_PORT),
            port("peer", PEER_PORT),
            port("metrics", METRICS_PORT),
        ]),
        resources: template.pod_template.resources.clone(),
        volume_mounts: Some(vec![data()]),
        security_context: Some(container_security()),
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(STARTUP_S),
            ..probe("/livez")
        }),
        liveness_probe: Some(Probe {
            period_seconds: Some(LIVENESS_S),
            failure_threshold: Some(LIVENESS_FAILURES),
            ..probe("/livez")
        }),
        readiness_probe: Some(Probe {
            period_seconds: Some(READINESS_S),
            failure_threshold: Some(2),
            ..probe("/readyz")
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// The init container that makes the survivor's disk a cluster of one.
fn recover(member: &QuorateMember, settings: &Settings, begin: &Begin) -> Option<Container> {
    let Begin::Recover {
        member_id,
        cluster_id,
    } = begin
    else {
        return None;
    };
    let arguments = [
        "util".to_owned(),
        "recover".to_owned(),
        format!("--data-dir={DATA_DIR}"),
        format!("--member-id={member_id}"),
        format!("--cluster-id={cluster_id}"),
    ];
    Some(Container {
        name: "recover".to_owned(),
        image: Some(image(member, settings)),
        image_pull_policy: Some(member.spec.template.image.pull_policy.as_str().to_owned()),
        args: Some(arguments.into()),
        resources: member.spec.template.pod_template.resources.clone(),
        volume_mounts: Some(vec![data()]),
        security_context: Some(container_security()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    })
}

fn image(member: &QuorateMember, settings: &Settings) -> String {
    let template = &member.spec.template;
    let repository = template.image.repository.as_deref();
    format!(
        "{}:{}",
        repository.unwrap_or(&settings.image_repository),
        template.version
    )
}

fn arguments(
    cluster: &QuorateCluster,
    member: &QuorateMember,
    settings: &Settings,
    begin: &Begin,
) -> Vec<String> {
    let name = member.name_any();
    let host = settings.member_host.host(
        &cluster.namespace().unwrap_or_default(),
        &cluster.name_any(),
        &name,
        cluster.spec.membership.domain.as_deref(),
    );
    let (state, members) = initial_cluster(&name, &host, begin);
    let Host { listen, .. } = &host;
    let mut arguments = vec![
        format!("--name={name}"),
        format!("--data-dir={DATA_DIR}"),
        format!("--listen-peer-urls=http://{listen}:{PEER_PORT}"),
        format!("--listen-client-urls=http://{listen}:{CLIENT_PORT}"),
        format!("--listen-metrics-urls=http://{listen}:{METRICS_PORT}"),
        format!("--initial-advertise-peer-urls={}", host.peer_url()),
        format!("--advertise-client-urls={}", host.client_url()),
        format!("--initial-cluster-token={}", cluster_token(cluster)),
        format!("--initial-cluster-state={state}"),
        format!("--initial-cluster={members}"),
        "--strict-reconfig-check=true".to_owned(),
        // From one voter to three both learners catch up first, so that two voters are there for a moment only.
        "--max-learners=2".to_owned(),
        format!("--feature-gates={CHECKS}"),
    ];
    arguments.extend(options(&member.spec.template.options));
    arguments
}

fn initial_cluster(name: &str, host: &Host, begin: &Begin) -> (&'static str, String) {
    let alone = format!("{name}={}", host.peer_url());
    match begin {
        Begin::New => ("new", alone),
        Begin::Recover { .. } => ("existing", alone),
        Begin::Existing { members, .. } => {
            let pairs: Vec<String> = members
                .iter()
                .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
                .collect();
            ("existing", pairs.join(","))
        }
    }
}

/// Flags for the options that are set. One that has no meaning here is left out: the API server's rules let
/// none through, and the member's own default serves.
fn options(options: &Options) -> Vec<String> {
    let mut flags = Vec::new();
    if let Some(Ok(bytes)) = options
        .quota_backend_bytes
        .as_ref()
        .map(|one| one.as_bytes())
    {
        flags.push(format!("--quota-backend-bytes={bytes}"));
    }
    if let Some(compaction) = &options.auto_compaction {
        flags.push(format!(
            "--auto-compaction-mode={}",
            compaction.mode.as_flag()
        ));
        flags.push(format!(
            "--auto-compaction-retention={}",
            compaction.retention
        ));
    }
    if let Some(count) = options.snapshot_count {
        flags.push(format!("--snapshot-count={count}"));
    }
    for (flag, value) in [
        ("heartbeat-interval", &options.heartbeat_interval),
        ("election-timeout", &options.election_timeout),
    ] {
        if let Some(Ok(ms)) = value.as_ref().map(|one| one.as_ms()) {
            flags.push(format!("--{flag}={ms}"));
        }
    }
    flags
}

fn port(name: &str, port: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: port,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn data() -> VolumeMount {
    VolumeMount {
        name: "data".to_owned(),
        mount_path: VOLUME_PATH.to_owned(),
        ..VolumeMount::default()
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("metrics".to_owned()),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

/// What the PodSecurity level `restricted` asks for.
fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        // Else every start walks over all files of a large volume.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            ..Capabilities::default()
        }),
        ..SecurityContext::default()
    }
}

/// Members prefer nodes without another one. Softly: one node works too.
fn apart(cluster: &str) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                WeightedPodAffinityTerm {
                    weight: 100,
                    pod_affinity_term: PodAffinityTerm {
                        topology_key: "kubernetes.io/hostname".to_owned(),
                        label_selector: Some(members_of(cluster)),
                        ..PodAffinityTerm::default()
                    },
                },
            ]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// Members spread over zones where nodes have one, and never wait for it.
fn over_zones(cluster: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "topology.kubernetes.io/zone".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(members_of(cluster)),
        ..TopologySpreadConstraint::default()
    }
}

fn members_of(cluster: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector(cluster)),
        ..LabelSelector::default()
    }
}
