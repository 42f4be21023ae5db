//! The volume claim of a member.

use std::collections::BTreeMap;

use crd::{QuorateCluster, QuorateMember};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::names::{CLUSTER_UID_ANNOTATION, member_labels, volume_claim_name};

/// The claim of this member's volume. It has no owner: nothing that is deleted by mistake takes the data along, and
/// what the spec says of its retention is asked at the end, not when it was made. Where the data goes with the
/// member, the operator deletes the claim.
pub fn volume_claim(cluster: &QuorateCluster, member: &QuorateMember) -> PersistentVolumeClaim {
    let storage = &cluster.spec.storage;
    let annotations: BTreeMap<String, String> = [(
        CLUSTER_UID_ANNOTATION.to_owned(),
        cluster.uid().unwrap_or_default(),
    )]
    .into();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(volume_claim_name(&member.name_any())),
            namespace: cluster.namespace(),
            labels: Some(member_labels(&cluster.name_any(), &member.name_any())),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(storage.size.0.clone()))].into()),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: storage.class_name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
