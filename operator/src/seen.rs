//! What the API server holds of one cluster, from the caches or from a fresh look.

use std::collections::BTreeMap;
use std::sync::Arc;

use crd::{QuorateCluster, QuorateMember};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt as _};
use manifests::{CLUSTER_LABEL, budget_name, selector_text};

use crate::caches::{Caches, matching};
use crate::execute::{Whose, whose};
use crate::volumes::Nodes;

/// One part of a look; `None`: it could not be read.
pub type Part<T> = Option<T>;

/// Whether it is the cluster's: one of the same name that somebody else made is not ours.
fn is_of(budget: &PodDisruptionBudget, cluster: &QuorateCluster) -> bool {
    matches!(whose(budget, &manifests::budget(cluster, 0)), Whose::Ours)
}

/// The objects of one cluster.
#[derive(Debug, Clone)]
pub struct Seen {
    /// itself
    pub cluster: Arc<QuorateCluster>,
    /// its members' objects
    pub members: Vec<Arc<QuorateMember>>,
    /// Pods with its label
    pub pods: Part<Vec<Arc<Pod>>>,
    /// claims with its label
    pub claims: Part<Vec<Arc<PersistentVolumeClaim>>>,
    /// its disruption budget
    pub budget: Part<Option<Arc<PodDisruptionBudget>>>,
    /// nodes of volumes whose Pods find none, by UID of the claim; the others are not looked for
    pub nodes: BTreeMap<String, Nodes>,
}

impl Seen {
    /// As the caches have it; `None`: the cluster is gone.
    pub fn cached(caches: &Caches, key: &ObjectRef<QuorateCluster>) -> Option<Self> {
        let cluster = caches.clusters.get(key)?;
        let namespace = key.namespace.as_deref();
        let labelled = |meta: &kube::api::ObjectMeta| {
            meta.namespace.as_deref() == namespace
                && meta
                    .labels
                    .as_ref()
                    .and_then(|labels| labels.get(CLUSTER_LABEL))
                    .is_some_and(|name| *name == key.name)
        };
        let budget = matching(&caches.budgets, |budget| {
            labelled(&budget.metadata)
                && budget.metadata.name.as_deref() == Some(&budget_name(&key.name))
                && is_of(budget, &cluster)
        })
        .pop();
        Some(Self {
            cluster,
            members: matching(&caches.members, |member| {
                member.metadata.namespace.as_deref() == namespace
                    && member.spec.cluster_name == key.name
            }),
            pods: Some(matching(&caches.pods, |pod| labelled(&pod.metadata))),
            claims: Some(matching(&caches.claims, |claim| labelled(&claim.metadata))),
            budget: Some(budget),
            nodes: BTreeMap::new(),
        })
    }

    /// As the API server has it now; `None`: the cluster is gone.
    ///
    /// # Errors
    /// The cluster or its members could not be read. What else could not is missing in its part.
    pub async fn fresh(
        client: &Client,
        key: &ObjectRef<QuorateCluster>,
    ) -> Result<Option<Self>, kube::Error> {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let clusters: Api<QuorateCluster> = Api::namespaced(client.clone(), namespace);
        let members: Api<QuorateMember> = Api::namespaced(client.clone(), namespace);
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), namespace);
        let ours = ListParams::default().labels(&selector_text(&key.name));
        // By the spec: a label can be edited.
        let of_cluster = ListParams::default().fields(&format!("spec.clusterName={}", key.name));
        let budget = budget_name(&key.name);
        let (cluster, members, pods, claims, budget) = futures::join!(
            clusters.get_opt(&key.name),
            members.list(&of_cluster),
            pods.list(&ours),
            claims.list(&ours),
            budgets.get_opt(&budget),
        );
        let Some(cluster) = cluster? else {
            return Ok(None);
        };
        let unreadable = |what: &str, error: &kube::Error| {
            tracing::warn!(cluster = %key, what, %error, "could not be read");
        };
        let budget = budget
            .inspect_err(|error| unreadable("disruption budget", error))
            .ok()
            .map(|budget| {
                budget
                    .filter(|budget| is_of(budget, &cluster))
                    .map(Arc::new)
            });
        Ok(Some(Self {
            cluster: Arc::new(cluster),
            members: members?
                .items
                .into_iter()
                .filter(|member| member.spec.cluster_name == key.name)
                .map(Arc::new)
                .collect(),
            pods: pods
                .inspect_err(|error| unreadable("pods", error))
                .ok()
                .map(|list| list.items.into_iter().map(Arc::new).collect()),
            claims: claims
                .inspect_err(|error| unreadable("claims", error))
                .ok()
                .map(|list| list.items.into_iter().map(Arc::new).collect()),
            budget,
            nodes: BTreeMap::new(),
        }))
    }

    /// A member's object.
    pub fn member(&self, name: &str) -> Option<&Arc<QuorateMember>> {
        self.members.iter().find(|member| member.name_any() == name)
    }

    /// A member's Pod.
    pub fn pod(&self, name: &str) -> Option<&Arc<Pod>> {
        self.pods
            .iter()
            .flatten()
            .find(|pod| pod.name_any() == name)
    }

    /// A member's claim.
    pub fn claim(&self, member: &str) -> Option<&Arc<PersistentVolumeClaim>> {
        let name = manifests::volume_claim_name(member);
        self.claims
            .iter()
            .flatten()
            .find(|claim| claim.name_any() == name)
    }
}
