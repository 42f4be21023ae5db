//! The reconcile: observe, plan, check, one act, status. Then look again.
//!
//! ```text
//! watches ─▶ key ─▶ pass:  caches, members ─▶ plan ─┬─ nothing to do ──────────────▶ status
//!                                                   └─ fresh look ─▶ plan ─▶ check ─▶ status ─▶ one act
//! ```
//!
//! All decisions about a cluster are made under its key, which is never worked on twice at once. A plan from
//! the caches only says that there may be something to do; what is done was planned on objects that were read
//! in this pass. The status is written before the act, with the resource version that was read: where it has
//! changed, the pass ends there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crd::{
    CLUSTER_FINALIZER, QuorateCluster, QuorateClusterStatus, QuorateMember, RECOVER_FROM_ANNOTATION,
};
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Config, applier};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use manifests::Settings;
use parking_lot::Mutex;
use planner::{Live, Observed, Plan, RecoveryRefused, WaitingOn};
use serde_json::json;

use crate::caches::{Caches, Triggers, infallible};
use crate::execute::{self, Done, Hands, Taken, Whose, set_finalizer, whose};
use crate::flags::{ACT, Flags};
use crate::http::Door;
use crate::lease::Leadership;
use crate::members::Members;
use crate::observe::{self, Heard, Memory};
use crate::records;
use crate::seen::Seen;
use crate::status::{self, News, Refused};
use crate::volumes::{self, Nodes};

/// After an act: the next one may be possible at once.
const SOON: Duration = Duration::from_millis(50);

/// While something is waited for that no watch tells of: a member that comes up, a learner that catches up.
const WAITING: Duration = Duration::from_secs(1);

/// When there is nothing to do. Members are asked, the API server is not.
const AT_REST: Duration = Duration::from_secs(15);

/// What members said is asked again when a look at the API server took longer.
const HEARD_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Nothing is taken away by what members said longer ago.
const HEARD_MAX: Duration = Duration::from_secs(5);

/// Whether a volume still has a node is asked again after this, while its Pod finds none.
const NODES_AFTER: Duration = Duration::from_secs(10);

/// A status that differs only in the numbers of its sentences is written again after this.
const NUMBERS_AFTER: Duration = Duration::from_secs(15);

/// After the n-th error in a row: 2^n of these, at most [`ERROR_MAX`].
const ERROR_FIRST: Duration = Duration::from_millis(500);
const ERROR_MAX: Duration = Duration::from_secs(60);

/// A burst of changes is one look.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// the API server
    #[error("{what}: {source}")]
    Api {
        /// in words
        what: &'static str,
        /// its answer
        source: Box<kube::Error>,
    },
    /// the cluster's object
    #[error(transparent)]
    Record(#[from] records::Error),
    /// a plan that breaks a law: a fault of ours
    #[error("the plan was not done, it breaks a law: {0}")]
    Law(planner::Violation),
    /// an object of the name that ours should have
    #[error("{0}")]
    Taken(Taken),
    /// what is left of a cluster of the same name is not gone yet
    #[error("a service of a cluster of the same name that was deleted is not gone yet")]
    Going,
    /// an act
    #[error(transparent)]
    Act(#[from] execute::Error),
    /// something that takes longer than an act may
    #[error("{0} took longer than {ACT:?}: nobody knows what became of it")]
    Slow(&'static str),
    /// the lease
    #[error("the lease has run out")]
    NotLeading,
}

/// Waits no longer than an act may take: by then another operator may have the lease.
async fn within<T, E>(
    what: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Error>
where
    Error: From<E>,
{
    match tokio::time::timeout(ACT, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Error::Slow(what)),
    }
}

fn api_error(what: &'static str) -> impl FnOnce(kube::Error) -> Error {
    move |source| Error::Api {
        what,
        source: Box::new(source),
    }
}

/// What all passes share.
pub struct Context {
    client: Client,
    caches: Caches,
    members: Members,
    settings: Settings,
    leadership: Leadership,
    recorder: Recorder,
    door: Arc<Door>,
    kept: Mutex<HashMap<ObjectRef<QuorateCluster>, Kept>>,
}

/// What is kept of one cluster between passes. Losing it costs time and nothing else.
#[derive(Default)]
struct Kept {
    memory: Memory,
    errors_in_a_row: u32,
    refused: Option<Refused>,
    status_written: Option<Instant>,
    /// what Services should be, and what they are
    services: Option<(String, Vec<Option<String>>)>,
    /// nodes of volumes whose Pods find none, by UID of the claim, and when they were asked for
    nodes: HashMap<String, (Nodes, Instant)>,
}

impl Context {
    /// Puts it together.
    pub fn new(
        client: Client,
        caches: Caches,
        settings: Settings,
        leadership: Leadership,
        door: Arc<Door>,
    ) -> Self {
        Self {
            recorder: Recorder::new(client.clone(), execute::MANAGER.into()),
            client,
            caches,
            members: Members::default(),
            settings,
            leadership,
            door,
            kept: Mutex::new(HashMap::new()),
        }
    }

    fn kept<T>(&self, key: &ObjectRef<QuorateCluster>, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(self.kept.lock().entry(key.clone()).or_default())
    }
}

/// Works until the triggers end.
pub async fn run(context: Context, triggers: Triggers, flags: &Flags) {
    let context = Arc::new(context);
    let clusters = context.caches.clusters.clone();
    let config = Config::default()
        .debounce(DEBOUNCE)
        .concurrency(flags.concurrency);
    let work = applier(
        |cluster, context| pass(cluster, context).boxed(),
        |cluster, error, context| after_error(&cluster, error, &context),
        Arc::clone(&context),
        clusters,
        infallible(triggers),
        config,
    );
    let filled = {
        let context = Arc::clone(&context);
        async move {
            context.caches.filled().await;
            context.door.ready.store(true, Ordering::Release);
            tracing::info!("the API server has been read; looking after clusters");
        }
    };
    let work = work.for_each(|done| {
        if let Err(kube::runtime::controller::Error::ObjectNotFound(gone)) = &done {
            let namespace = gone.namespace.clone().unwrap_or_default();
            context.door.metrics.forget(&namespace, &gone.name);
            let key = ObjectRef::new(&gone.name).within(&namespace);
            context.kept.lock().remove(&key);
        }
        futures::future::ready(())
    });
    futures::join!(work, filled);
}

fn after_error(cluster: &Arc<QuorateCluster>, error: &Error, context: &Context) -> Action {
    let key = ObjectRef::from_obj(cluster.as_ref());
    let errors = context.kept(&key, |kept| {
        kept.errors_in_a_row = kept.errors_in_a_row.saturating_add(1);
        kept.errors_in_a_row
    });
    context.door.metrics.failure();
    let wait = ERROR_FIRST
        .saturating_mul(1 << (errors - 1).min(10))
        .min(ERROR_MAX);
    tracing::warn!(cluster = %key, %error, errors, again_in_ms = wait.as_millis(), "a pass ended early");
    Action::requeue(wait)
}

async fn pass(cluster: Arc<QuorateCluster>, context: Arc<Context>) -> Result<Action, Error> {
    let key = ObjectRef::from_obj(cluster.as_ref());
    context.door.metrics.pass();
    if !context.leadership.may_act() {
        return Err(Error::NotLeading);
    }
    // What is not in a cache that has not been filled may be there: a cluster without its members would be taken
    // for one that has lost its quorum.
    if context.caches.filled().now_or_never().is_none() {
        return Ok(Action::requeue(SOON));
    }
    let Some(seen) = Seen::cached(&context.caches, &key) else {
        return Ok(Action::await_change());
    };
    let pass = Pass {
        context: &context,
        key,
    };
    let action = pass.run(seen).await?;
    pass.context
        .kept(&pass.key, |kept| kept.errors_in_a_row = 0);
    Ok(action)
}

struct Pass<'a> {
    context: &'a Context,
    key: ObjectRef<QuorateCluster>,
}

impl Pass<'_> {
    async fn run(&self, mut seen: Seen) -> Result<Action, Error> {
        let deleted = seen.cluster.metadata.deletion_timestamp.is_some();
        let held = seen
            .cluster
            .finalizers()
            .iter()
            .any(|one| one == CLUSTER_FINALIZER);
        if !held {
            if deleted {
                return Ok(Action::await_change());
            }
            return self.hold(&seen).await;
        }
        let template = &self.context.settings.member_host;
        let mut heard = observe::listen(&self.context.members, template, &seen).await;
        self.look_for_nodes(&mut seen, &heard, NODES_AFTER).await;
        let (mut observed, mut plan) = self.plan(&seen, &heard).await?;
        if plan.action.is_some() {
            let look = async {
                Seen::fresh(&self.context.client, &self.key)
                    .await
                    .map_err(api_error("read the cluster"))
            };
            let Some(mut fresh) = within("a fresh look", look).await? else {
                return Ok(Action::await_change());
            };
            // The caches may not know a member yet that the objects have.
            if fresh.members.len() != seen.members.len() || heard.is_older_than(HEARD_AGAIN_AFTER) {
                heard = observe::listen(&self.context.members, template, &fresh).await;
            }
            self.look_for_nodes(&mut fresh, &heard, Duration::ZERO)
                .await;
            seen = fresh;
            (observed, plan) = self.plan(&seen, &heard).await?;
        }
        // While a deletion is held members serve on, and need their names.
        let stays = !deleted || seen.cluster.spec.deletion_protection;
        let services = if stays && !seen.cluster.spec.paused {
            let ensure = self.ensure_services(&seen, &observed);
            within("applying the services", ensure).await
        } else {
            Ok(())
        };
        self.answer_and_act(&seen, &heard, &observed, &plan, services)
            .await
    }

    /// Where nothing can be planned the status says why.
    async fn plan(&self, seen: &Seen, heard: &Heard) -> Result<(Observed, Plan), Error> {
        let planned = self.try_plan(seen, heard);
        if let Err(error) = &planned {
            self.tell_why_stopped(seen, error).await;
        }
        planned
    }

    /// The status keeps what was known.
    async fn tell_why_stopped(&self, seen: &Seen, error: &Error) {
        let old = seen.cluster.status.clone().unwrap_or_default();
        let new = status::stopped(&seen.cluster, &Refused::of(error), now_ms());
        if old == new {
            return;
        }
        // Those fields only: the rest may have words of a newer operator, which would be lost on the way.
        let mut patch = status::stopped_patch(&new);
        patch["metadata"] = json!({
            "uid": seen.cluster.uid(),
            "resourceVersion": seen.cluster.resource_version(),
        });
        let api = self.api::<QuorateCluster>();
        let write = async {
            api.patch_status(&self.key.name, &execute::merging(), &Patch::Merge(&patch))
                .await
                .map_err(api_error("write the cluster's status"))
        };
        match within("writing the status", write).await {
            Ok(_) => {
                for news in status::news(&old, &new, None) {
                    self.publish(seen, news).await;
                }
            }
            Err(unwritten) => {
                tracing::warn!(cluster = %self.key, error = %unwritten, "why nothing is done cannot be written");
            }
        }
    }

    /// The first thing that a cluster gets: a hold on its deletion, before there is anything to clean up.
    async fn hold(&self, seen: &Seen) -> Result<Action, Error> {
        let api = self.api::<QuorateCluster>();
        let hold = async {
            match set_finalizer(&api, seen.cluster.as_ref(), CLUSTER_FINALIZER, true).await {
                Ok(()) => Ok(Action::await_change()),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    Ok(Action::requeue(WAITING))
                }
                Err(error) => Err(api_error("add the finalizer")(error)),
            }
        };
        within("adding the finalizer", hold).await
    }

    /// Adds what is known of the nodes of volumes whose Pods find none; an answer may be so old.
    async fn look_for_nodes(&self, seen: &mut Seen, heard: &Heard, age_max: Duration) {
        let old = self
            .context
            .kept(&self.key, |kept| std::mem::take(&mut kept.nodes));
        let mut new = HashMap::new();
        for claim in volumes::in_question(seen, heard) {
            let uid = claim.uid().unwrap_or_default();
            let answer = match old.get(&uid) {
                Some(known) if known.1.elapsed() < age_max => *known,
                _ => {
                    let nodes = volumes::nodes(&self.context.client, claim).await;
                    (nodes, Instant::now())
                }
            };
            new.insert(uid, answer);
        }
        seen.nodes = new
            .iter()
            .map(|(uid, (nodes, _))| (uid.clone(), *nodes))
            .collect();
        self.context.kept(&self.key, |kept| kept.nodes = new);
    }

    fn try_plan(&self, seen: &Seen, heard: &Heard) -> Result<(Observed, Plan), Error> {
        let template = &self.context.settings.member_host;
        let observed = self.context.kept(&self.key, |kept| {
            observe::observed(seen, heard, &mut kept.memory, template, now_ms())
        })?;
        let policy = observe::policy(&seen.cluster);
        let plan = planner::plan(&observed, &policy);
        planner::check(&observed, &policy, &plan).map_err(Error::Law)?;
        Ok((observed, plan))
    }

    async fn answer_and_act(
        &self,
        seen: &Seen,
        heard: &Heard,
        observed: &Observed,
        plan: &Plan,
        services: Result<(), Error>,
    ) -> Result<Action, Error> {
        let context = self.context;
        let template = &context.settings.member_host;
        let refused = match &services {
            Ok(()) | Err(Error::Going) => context.kept(&self.key, |kept| kept.refused.clone()),
            Err(error) => Some(Refused::of(error)),
        };
        let old = seen.cluster.status.clone().unwrap_or_default();
        let mut new = status::cluster_status(seen, observed, plan, refused.as_ref(), template);
        // Members that have no names would not find each other. With names that are only not as they should be, what
        // is due is done.
        let stopped = services.err().filter(|_| !self.has_services(seen));
        let recorded = stopped.is_none()
            && plan.action.as_ref().is_some_and(|action| {
                records::write(
                    &mut new,
                    action,
                    |revision| execute::template_of(seen, revision),
                    observed.now_ms,
                )
            });
        if recorded && !context.leadership.may_act() {
            return Err(Error::NotLeading);
        }
        let write = self.write_status(seen, &old, &new, recorded);
        let Some(version) = within("writing the status", write).await? else {
            return Ok(Action::requeue(SOON));
        };
        context.door.metrics.cluster(
            &seen.cluster.namespace().unwrap_or_default(),
            &seen.cluster.name_any(),
            status::gauges(&new, plan),
        );
        for news in status::news(&old, &new, Some(plan)) {
            self.publish(seen, news).await;
        }
        if order_is_spent(seen, &old, plan) {
            self.forget_order(seen, &version).await;
        }
        let next = match stopped {
            Some(Error::Going) => Ok(Action::requeue(WAITING)),
            Some(error) => Err(error),
            None => {
                let recorded = recorded.then_some(&version);
                self.act_next(seen, heard, observed, plan, recorded).await
            }
        };
        // After the act: whoever ends here has at least done that.
        let write = self.write_member_statuses(seen, observed, plan);
        within("writing the members' statuses", write).await?;
        next
    }

    async fn act_next(
        &self,
        seen: &Seen,
        heard: &Heard,
        observed: &Observed,
        plan: &Plan,
        recorded: Option<&String>,
    ) -> Result<Action, Error> {
        let context = self.context;
        let Some(action) = &plan.action else {
            context.kept(&self.key, |kept| kept.refused = None);
            let idle = plan.waiting.iter().all(planner::WaitingOn::is_note)
                && plan.summary.operation.is_none();
            return Ok(Action::requeue(if idle { AT_REST } else { WAITING }));
        };
        if let Some(version) = recorded {
            tracing::info!(cluster = %self.key, act = %action, "recorded");
            context.door.metrics.act(word(action));
            if let planner::Action::FinishOperation {
                recovery_done: Some(_),
                ..
            } = action
            {
                self.forget_order(seen, version).await;
            }
            return Ok(Action::requeue(SOON));
        }
        if !context.leadership.may_act() {
            return Err(Error::NotLeading);
        }
        self.act(seen, heard, observed, action).await
    }

    async fn act(
        &self,
        seen: &Seen,
        heard: &Heard,
        observed: &Observed,
        action: &planner::Action,
    ) -> Result<Action, Error> {
        let context = self.context;
        let hands = Hands {
            client: &context.client,
            members: &context.members,
            settings: &context.settings,
        };
        if takes_away(action) && heard.is_older_than(HEARD_MAX) {
            tracing::info!(cluster = %self.key, act = %action, "put off: members were asked too long ago");
            return Ok(Action::requeue(SOON));
        }
        tracing::info!(cluster = %self.key, act = %action, "acting");
        let work = execute::execute(hands, seen, heard, observed, action);
        // The two that take longer do no harm: whoever does them, and however often, the store is the same.
        let harmless = matches!(
            action,
            planner::Action::Compact { .. } | planner::Action::Defragment { .. }
        );
        let done = if harmless {
            work.await.map_err(Error::from)
        } else {
            within(word(action), work).await
        };
        match done {
            Ok(done) => {
                if done == Done::Yes {
                    context.door.metrics.act(word(action));
                    context.kept(&self.key, |kept| kept.memory.done(action));
                    if is_membership(action) {
                        let news = News {
                            kind: EventType::Normal,
                            reason: word(action).to_owned(),
                            note: action.to_string(),
                            action: "Act".to_owned(),
                        };
                        self.publish(seen, news).await;
                    }
                }
                context.kept(&self.key, |kept| kept.refused = None);
                Ok(Action::requeue(SOON))
            }
            Err(error) => {
                context.kept(&self.key, |kept| {
                    kept.refused = Some(Refused::of(&error));
                    // It may have taken minutes since it was planned.
                    kept.memory.failed(action, now_ms());
                });
                Err(error)
            }
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        let namespace = self.key.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), namespace)
    }

    /// Writes the status with the resource version that was read. The object's resource version from then on;
    /// `None`: it is another one by now.
    async fn write_status(
        &self,
        seen: &Seen,
        old: &crd::QuorateClusterStatus,
        new: &crd::QuorateClusterStatus,
        must: bool,
    ) -> Result<Option<String>, Error> {
        let unchanged = Ok(seen.cluster.resource_version());
        if old == new && seen.cluster.status.is_some() {
            return unchanged;
        }
        let recently = self.context.kept(&self.key, |kept| {
            kept.status_written
                .is_some_and(|at| at.elapsed() < NUMBERS_AFTER)
        });
        if !must && recently && status::same_but_numbers(old, new) {
            return unchanged;
        }
        let mut cluster = seen.cluster.as_ref().clone();
        cluster.status = Some(new.clone());
        let params = PostParams {
            field_manager: Some(execute::MANAGER.to_owned()),
            ..PostParams::default()
        };
        match self
            .api::<QuorateCluster>()
            .replace_status(&self.key.name, &params, &cluster)
            .await
        {
            Ok(written) => {
                self.context
                    .kept(&self.key, |kept| kept.status_written = Some(Instant::now()));
                Ok(written.resource_version())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            Err(error) => Err(api_error("write the cluster's status")(error)),
        }
    }

    async fn write_member_statuses(
        &self,
        seen: &Seen,
        observed: &Observed,
        plan: &Plan,
    ) -> Result<(), Error> {
        let memory = self.context.kept(&self.key, |kept| kept.memory.clone());
        let template = &self.context.settings.member_host;
        let api = self.api::<QuorateMember>();
        for member in &seen.members {
            let new = status::member_status(seen, member, observed, plan, &memory, template);
            if member.status.as_ref() == Some(&new) {
                continue;
            }
            let mut written = member.as_ref().clone();
            written.status = Some(new);
            let params = PostParams {
                field_manager: Some(execute::MANAGER.to_owned()),
                ..PostParams::default()
            };
            match api
                .replace_status(&member.name_any(), &params, &written)
                .await
            {
                // The next pass has the newer object.
                Ok(_) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(api_error("write a member's status")(error)),
            }
        }
        Ok(())
    }

    /// Services, by server-side apply: when what they should be has changed, and when somebody has changed them,
    /// of which the watch tells. While the members of a cluster that had a quorum have none nothing is applied,
    /// but a Service that is not there is made: without the members' names they never find each other again.
    async fn ensure_services(&self, seen: &Seen, observed: &Observed) -> Result<(), Error> {
        let services = services_of(seen);
        let should = serde_json::to_string(&services).unwrap_or_default();
        let now: Vec<Option<String>> = services
            .iter()
            .map(|service| self.cached_service(service)?.resource_version())
            .collect();
        let known = self.context.kept(&self.key, |kept| {
            kept.services
                .as_ref()
                .is_some_and(|(known, were)| *known == should && *were == now)
        });
        if known {
            return Ok(());
        }
        let without_quorum =
            observed.recorded.cluster_id.is_some() && matches!(observed.live, Live::Unknown);
        let mut are = Vec::new();
        for (service, is) in services.iter().zip(now) {
            if without_quorum && is.is_some() {
                are.push(is);
                continue;
            }
            are.push(self.apply_service(service).await?.resource_version());
        }
        if !without_quorum {
            self.context
                .kept(&self.key, |kept| kept.services = Some((should, are)));
        }
        Ok(())
    }

    /// One of the same name that is not this cluster's is left alone.
    async fn apply_service(&self, service: &Service) -> Result<Service, Error> {
        let api = self.api::<Service>();
        // One without our label is in no cache.
        let there = match self.cached_service(service) {
            Some(cached) => Some(cached),
            None => api
                .get_opt(&service.name_any())
                .await
                .map_err(api_error("read a service"))?
                .map(Arc::new),
        };
        let mut service = service.clone();
        if let Some(there) = there {
            match whose(there.as_ref(), &service) {
                Whose::Ours => service.metadata.uid = there.uid(),
                Whose::Going => return Err(Error::Going),
                Whose::Others(taken) => return Err(Error::Taken(taken)),
            }
        }
        execute::apply(&api, &service)
            .await
            .map_err(api_error("apply a service"))
    }

    fn cached_service(&self, service: &Service) -> Option<Arc<Service>> {
        let key = ObjectRef::from_obj(service);
        self.context.caches.services.get(&key)
    }

    /// Whether the cache has both of the cluster's Services.
    fn has_services(&self, seen: &Seen) -> bool {
        services_of(seen).iter().all(|service| {
            self.cached_service(service)
                .is_some_and(|there| matches!(whose(there.as_ref(), service), Whose::Ours))
        })
    }

    /// A recovery order that is done, or that came while there is a quorum, is taken away: it must not be followed
    /// at the next loss, when nobody remembers it. An order that was given since stays.
    async fn forget_order(&self, seen: &Seen, version: &str) {
        let patch = json!({"metadata": {
            "uid": seen.cluster.uid(),
            "resourceVersion": version,
            "annotations": {RECOVER_FROM_ANNOTATION: null},
        }});
        let api = self.api::<QuorateCluster>();
        let forget = async {
            let patch = Patch::Merge(&patch);
            api.patch(&self.key.name, &PatchParams::default(), &patch)
                .await
                .map_err(api_error("take the recovery order away"))
        };
        if let Err(error) = within("taking the recovery order away", forget).await {
            tracing::warn!(cluster = %self.key, %error, "the recovery order cannot be taken away");
        }
    }

    /// Events are a courtesy: one that cannot be stored stops nothing.
    async fn publish(&self, seen: &Seen, news: News) {
        let event = Event {
            type_: news.kind,
            reason: news.reason,
            note: Some(news.note.chars().take(EVENT_NOTE_MAX).collect()),
            action: news.action,
            secondary: None,
        };
        let about = seen.cluster.object_ref(&());
        let publish = async {
            self.context
                .recorder
                .publish(&event, &about)
                .await
                .map_err(api_error("store an event"))
        };
        if let Err(error) = within("storing an event", publish).await {
            tracing::warn!(cluster = %self.key, %error, "an event cannot be stored");
        }
    }
}

/// The order in the annotation was followed, or is refused because there is a quorum.
fn order_is_spent(seen: &Seen, status: &QuorateClusterStatus, plan: &Plan) -> bool {
    let order = seen.cluster.annotations().get(RECOVER_FROM_ANNOTATION);
    let done = status
        .recovery
        .as_ref()
        .and_then(|recovery| recovery.order.as_ref());
    let not_lost = WaitingOn::RecoveryRefused(RecoveryRefused::NotLost);
    order.is_some() && (order == done || plan.waiting.contains(&not_lost))
}

fn services_of(seen: &Seen) -> [Service; 2] {
    [
        manifests::peer_service(&seen.cluster),
        manifests::client_service(&seen.cluster),
    ]
}

fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// What cannot be had back if it was decided on old news.
fn takes_away(action: &planner::Action) -> bool {
    matches!(
        action,
        planner::Action::DeletePod { .. }
            | planner::Action::DeleteVolume { .. }
            | planner::Action::DeleteMemberObject { .. }
            | planner::Action::MemberRemove { .. }
    )
}

/// Characters in an Event's note; the API server refuses longer ones.
const EVENT_NOTE_MAX: usize = 1000;

fn is_membership(action: &planner::Action) -> bool {
    matches!(
        action,
        planner::Action::MemberAddLearner { .. }
            | planner::Action::MemberPromote { .. }
            | planner::Action::MemberRemove { .. }
            | planner::Action::MoveLeader { .. }
            | planner::Action::Compact { .. }
            | planner::Action::Defragment { .. }
            | planner::Action::Disarm { .. }
    )
}

/// The kind of an act, for metrics and Events.
fn word(action: &planner::Action) -> &'static str {
    use planner::Action as A;
    match action {
        A::LatchTarget(_) => "LatchTarget",
        A::LatchClusterId(_) => "LatchClusterID",
        A::RecordOperation { .. } => "RecordOperation",
        A::FinishOperation { .. } => "FinishOperation",
        A::UpdateBudget { .. } => "UpdateBudget",
        A::EnsureMemberObject { .. } => "EnsureMemberObject",
        A::EnsureVolume { .. } => "EnsureVolume",
        A::EnsurePod { .. } => "EnsurePod",
        A::LabelPod { .. } => "LabelPod",
        A::DeletePod { .. } => "DeletePod",
        A::DeleteVolume { .. } => "DeleteVolume",
        A::ReleaseVolume { .. } => "ReleaseVolume",
        A::DeleteMemberObject { .. } => "DeleteMemberObject",
        A::MemberAddLearner { .. } => "MemberAdd",
        A::MemberPromote { .. } => "MemberPromote",
        A::MemberRemove { .. } => "MemberRemove",
        A::MoveLeader { .. } => "MoveLeader",
        A::Compact { .. } => "Compact",
        A::Defragment { .. } => "Defragment",
        A::Disarm { .. } => "Disarm",
        A::ReleaseCluster => "ReleaseCluster",
    }
}
