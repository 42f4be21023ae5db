//! The PodDisruptionBudget of the voters.

use crd::QuorateCluster;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::names::{VOTER_LABEL, budget_name, cluster_labels, selector};
use crate::owner::owned_by_cluster;

/// Evictions leave at least so many voters.
///
/// An integer, since a percentage, and `maxUnavailable`, need a scale of the Pods' owner, and are taken of the
/// Pods that are there: as members vanish, they would let more and more go. Learners are not counted: they
/// neither help the quorum nor need protection.
pub fn budget(cluster: &QuorateCluster, min_available: u32) -> PodDisruptionBudget {
    let name = cluster.name_any();
    let mut voters = selector(&name);
    voters.insert(VOTER_LABEL.to_owned(), "true".to_owned());
    PodDisruptionBudget {
        metadata: ObjectMeta {
            name: Some(budget_name(&name)),
            namespace: cluster.namespace(),
            labels: Some(cluster_labels(&name)),
            owner_references: Some(owned_by_cluster(cluster)),
            ..ObjectMeta::default()
        },
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(
                i32::try_from(min_available).unwrap_or(i32::MAX),
            )),
            selector: Some(LabelSelector {
                match_labels: Some(voters),
                ..LabelSelector::default()
            }),
            // A voter that is not ready may be catching up with the only copy of something: it goes by the
            // same count as the others.
            unhealthy_pod_eviction_policy: Some("IfHealthyBudget".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
