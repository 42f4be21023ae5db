//! Who owns what, for the garbage collector.
//!
//! No reference sets `blockOwnerDeletion`: the finalizers hold an owner for as long as it is needed, and where the
//! admission plugin `OwnerReferencesPermissionEnforcement` is on (OpenShift) it would take a right on
//! `*/finalizers`.

use crd::{QuorateCluster, QuorateMember};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

/// The cluster as the owner. Empty for one that the API server has not seen, which can own nothing.
pub fn owned_by_cluster(cluster: &QuorateCluster) -> Vec<OwnerReference> {
    cluster.controller_owner_ref(&()).into_iter().collect()
}

/// The member as the owner. Empty for one that the API server has not seen, which can own nothing.
pub fn owned_by_member(member: &QuorateMember) -> Vec<OwnerReference> {
    member.controller_owner_ref(&()).into_iter().collect()
}
