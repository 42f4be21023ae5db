//! What the API server holds, kept up to date by watches: a look at it costs no request.
//!
//! A cache may be old. So it only says whether there is something to do; what is done is decided on a fresh
//! look (`seen.rs`), and is conditional.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use crd::{QuorateCluster, QuorateMember};
use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use manifests::CLUSTER_LABEL;
use serde::de::DeserializeOwned;

/// One store per kind.
#[derive(Clone)]
pub struct Caches {
    /// all clusters
    pub clusters: Store<QuorateCluster>,
    /// all members
    pub members: Store<QuorateMember>,
    /// Pods with our label, without their specs
    pub pods: Store<Pod>,
    /// claims with our label
    pub claims: Store<PersistentVolumeClaim>,
    /// disruption budgets with our label
    pub budgets: Store<PodDisruptionBudget>,
    /// Services with our label, without their specs
    pub services: Store<Service>,
}

/// Which cluster something happened to.
pub type Triggers = SelectAll<BoxStream<'static, ObjectRef<QuorateCluster>>>;

impl Caches {
    /// Begins to watch. The caches fill while the triggers are read.
    pub fn watch(client: &Client, namespace: Option<&str>) -> (Self, Triggers) {
        let mut triggers = Triggers::new();
        let ours = watcher::Config::default().labels(CLUSTER_LABEL);
        let clusters = follow(
            api::<QuorateCluster>(client, namespace),
            watcher::Config::default(),
            |_| (),
            |cluster| Some(ObjectRef::from_obj(cluster)),
            &mut triggers,
        );
        let members = follow(
            api::<QuorateMember>(client, namespace),
            watcher::Config::default(),
            |_| (),
            |member| {
                let namespace = member.namespace().unwrap_or_default();
                Some(ObjectRef::new(&member.spec.cluster_name).within(&namespace))
            },
            &mut triggers,
        );
        let caches = Self {
            clusters,
            members,
            pods: follow(
                api(client, namespace),
                ours.clone(),
                // What a Pod should be stands in its member's object; here it is asked what it is.
                |pod: &mut Pod| pod.spec = None,
                of_label::<Pod>,
                &mut triggers,
            ),
            claims: follow(
                api(client, namespace),
                ours.clone(),
                |_| (),
                of_label::<PersistentVolumeClaim>,
                &mut triggers,
            ),
            budgets: follow(
                api(client, namespace),
                ours.clone(),
                |_| (),
                of_label::<PodDisruptionBudget>,
                &mut triggers,
            ),
            services: follow(
                api(client, namespace),
                ours,
                // Of a Service its resource version is enough.
                |service: &mut Service| (service.spec, service.status) = (None, None),
                of_label::<Service>,
                &mut triggers,
            ),
        };
        (caches, triggers)
    }

    /// Waits until all have been filled once.
    pub async fn filled(&self) {
        // A writer that is gone means that we are ending.
        let _ = futures::join!(
            self.clusters.wait_until_ready(),
            self.members.wait_until_ready(),
            self.pods.wait_until_ready(),
            self.claims.wait_until_ready(),
            self.budgets.wait_until_ready(),
            self.services.wait_until_ready(),
        );
    }
}

/// The API of a kind, in one namespace or in all.
fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The cluster that an object's label names.
fn of_label<K: Resource>(object: &K) -> Option<ObjectRef<QuorateCluster>> {
    let cluster = object.meta().labels.as_ref()?.get(CLUSTER_LABEL)?;
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    Some(ObjectRef::new(cluster).within(&namespace))
}

fn follow<K, F>(
    api: Api<K>,
    config: watcher::Config,
    slim: fn(&mut K),
    cluster_of: F,
    triggers: &mut Triggers,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Hash + Eq,
    F: Fn(&K) -> Option<ObjectRef<QuorateCluster>> + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store::<K>();
    let kind = K::kind(&()).into_owned();
    let events = watcher(api, config)
        // What nobody reads: it is the larger half of many objects.
        .modify(move |object| {
            object.managed_fields_mut().clear();
            slim(object);
        })
        .default_backoff()
        .reflect(writer)
        .touched_objects()
        .filter_map(move |event| {
            let cluster = match event {
                Ok(object) => cluster_of(&object),
                Err(error) => {
                    tracing::warn!(kind, %error, "a watch was interrupted");
                    None
                }
            };
            futures::future::ready(cluster)
        });
    triggers.push(events.boxed());
    reader
}

/// All of a store's objects that pass.
pub fn matching<K>(store: &Store<K>, passes: impl Fn(&K) -> bool) -> Vec<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
    K::DynamicType: Hash + Eq,
{
    store
        .state()
        .into_iter()
        .filter(|object| passes(object))
        .collect()
}

/// Triggers as a stream of results, which is what the controller's queue takes.
pub fn infallible(
    triggers: Triggers,
) -> impl Stream<Item = Result<ObjectRef<QuorateCluster>, std::convert::Infallible>> {
    triggers.map(Ok)
}
