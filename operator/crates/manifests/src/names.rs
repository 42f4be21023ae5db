//! Names, labels and addresses, each made in one place.

use std::collections::BTreeMap;

use crd::QuorateCluster;
use kube::ResourceExt;

/// Port for clients.
pub const CLIENT_PORT: i32 = 2379;
/// Port for the other members.
pub const PEER_PORT: i32 = 2380;
/// Port for metrics and probes. It stays plain when clients and peers get TLS.
pub const METRICS_PORT: i32 = 2381;

/// The container of a member.
pub const CONTAINER: &str = "quorate";
/// Where a member's volume is mounted.
pub const VOLUME_PATH: &str = "/var/lib/quorate";
/// A member's data directory, one below the mount: a file system brings a `lost+found` of its own.
pub const DATA_DIR: &str = "/var/lib/quorate/data";
/// User and group of a member, as in the image.
pub const USER: i64 = 65532;

/// Label on everything of a cluster: its name.
pub const CLUSTER_LABEL: &str = "quorate.dev/cluster";
/// Label on all that belongs to one member: its name.
pub const MEMBER_LABEL: &str = "quorate.dev/member";
/// Label on a Pod: `true` while its member votes. The PodDisruptionBudget counts these.
pub const VOTER_LABEL: &str = "quorate.dev/voter";
/// Label on a Pod: the [`revision`](crate::revision) that it was made from.
pub const REVISION_LABEL: &str = "quorate.dev/revision";
/// Label on a volume claim: `true` when its member was removed. Such a volume is never used again.
pub const RELEASED_LABEL: &str = "quorate.dev/released";

/// Annotation on a Pod: how its member was told to start, `new`, `existing` or `recover`.
pub const START_ANNOTATION: &str = "quorate.dev/start";
/// Annotation on a Pod: digest of the membership that its `--initial-cluster` says (docs/membership.md).
pub const MEMBERSHIP_ANNOTATION: &str = "quorate.dev/membership";
/// Annotation on a volume claim: UID of the cluster that made it.
pub const CLUSTER_UID_ANNOTATION: &str = "quorate.dev/cluster-uid";

/// Who manages our objects, as their label says.
pub const MANAGED_BY: &str = "quorate-operator";

/// `<cluster>-<number>`: the member, its object, its Pod and its host name.
pub fn member_name(cluster: &str, number: u64) -> String {
    format!("{cluster}-{number}")
}

/// The number in a member's name, if it is one of this cluster, written as [`member_name`] writes it.
pub fn member_number(cluster: &str, name: &str) -> Option<u64> {
    let number: u64 = name
        .strip_prefix(cluster)?
        .strip_prefix('-')?
        .parse()
        .ok()?;
    (member_name(cluster, number) == name).then_some(number)
}

/// The volume claim of a member.
pub fn volume_claim_name(member: &str) -> String {
    format!("data-{member}")
}

/// The member whose volume claim has this name.
pub fn member_of_volume_claim(name: &str) -> Option<&str> {
    name.strip_prefix("data-")
}

/// The headless Service that names members.
pub fn peer_service_name(cluster: &str) -> String {
    format!("{cluster}-peers")
}

/// The Service for clients.
pub fn client_service_name(cluster: &str) -> String {
    cluster.to_owned()
}

/// The PodDisruptionBudget.
pub fn budget_name(cluster: &str) -> String {
    cluster.to_owned()
}

/// `--initial-cluster-token`: members of different clusters never join each other, not even of one that was
/// deleted and made again under the same name.
pub fn cluster_token(cluster: &QuorateCluster) -> String {
    format!(
        "{}-{}-{}",
        cluster.namespace().unwrap_or_default(),
        cluster.name_any(),
        cluster.uid().unwrap_or_default()
    )
}

/// The selector of all Pods of a cluster, as `/scale` shows it.
pub fn selector_text(cluster: &str) -> String {
    format!("{CLUSTER_LABEL}={cluster}")
}

/// The selector of all Pods of a cluster.
pub fn selector(cluster: &str) -> BTreeMap<String, String> {
    [(CLUSTER_LABEL.to_owned(), cluster.to_owned())].into()
}

/// Labels of everything of a cluster.
pub fn cluster_labels(cluster: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "quorate"),
        ("app.kubernetes.io/instance", cluster),
        ("app.kubernetes.io/managed-by", MANAGED_BY),
        (CLUSTER_LABEL, cluster),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Labels of all that belongs to one member.
pub fn member_labels(cluster: &str, member: &str) -> BTreeMap<String, String> {
    let mut labels = cluster_labels(cluster);
    labels.insert(
        "app.kubernetes.io/component".to_owned(),
        "member".to_owned(),
    );
    labels.insert(MEMBER_LABEL.to_owned(), member.to_owned());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_made_have_a_number() {
        assert_eq!(member_number("a", "a-0"), Some(0));
        assert_eq!(
            member_number("a", &member_name("a", u64::MAX)),
            Some(u64::MAX)
        );
        for other in [
            "a",
            "a-",
            "a-01",
            "a-+1",
            "a-b-1",
            "b-1",
            "a1",
            "a-99999999999999999999",
        ] {
            assert_eq!(member_number("a", other), None, "{other}");
        }
        assert_eq!(
            member_of_volume_claim(&volume_claim_name("a-3")),
            Some("a-3")
        );
    }
}
