//! The `QuorateMember` object.

use crd::{MEMBER_FINALIZER, MemberTemplate, QuorateCluster, QuorateMember, QuorateMemberSpec};
use kube::ResourceExt;

use crate::names::{cluster_labels, member_name};
use crate::owner::owned_by_cluster;

/// The object of the member with this number. `bootstrap` is true of the one with which a cluster begins.
pub fn member_object(
    cluster: &QuorateCluster,
    number: u64,
    bootstrap: bool,
    template: MemberTemplate,
) -> QuorateMember {
    let name = cluster.name_any();
    let mut member = QuorateMember::new(
        &member_name(&name, number),
        QuorateMemberSpec {
            cluster_name: name.clone(),
            // A counter that rises by one for every member ever made does not reach 63 bits.
            number: i64::try_from(number).unwrap_or(i64::MAX),
            bootstrap,
            template,
        },
    );
    member.metadata.namespace = cluster.namespace();
    member.metadata.labels = Some(cluster_labels(&name));
    member.metadata.finalizers = Some(vec![MEMBER_FINALIZER.to_owned()]);
    member.metadata.owner_references = Some(owned_by_cluster(cluster));
    member
}
