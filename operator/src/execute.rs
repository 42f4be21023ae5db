//! One act, conditional on what was seen.
//!
//! | act | fails when |
//! |---|---|
//! | a record in the cluster's status | the object has another resource version (records.rs, status.rs) |
//! | create | there is one already: ours is there, and what is of others is left alone |
//! | change, delete | the object has another UID or resource version |
//! | membership call | the membership has another digest |
//!
//! Each may be repeated. What is refused because the world has moved on is [`Done::Stale`]: look again.

use std::fmt::Debug;

use api::etcdserverpb as pb;
use crd::{
    CLUSTER_FINALIZER, MEMBER_FINALIZER, MemberIdText, MemberTemplate, QuorateCluster,
    QuorateMember,
};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt as _};
use manifests::{Begin, Settings};
use planner::{Action, AlarmKind, Live, MemberId, Observed, Role, Start};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::members::{self, Members};
use crate::observe::{Heard, host};
use crate::seen::Seen;

/// Who we are in an object's managed fields.
pub const MANAGER: &str = "quorate-operator";

/// A merge patch of ours.
pub fn merging() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// What became of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// it is done, or was
    Yes,
    /// the world is another than the plan saw
    Stale,
}

/// Why an act was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// the API server's answer
    #[error("{act}: {source}")]
    Api {
        /// in words
        act: String,
        /// its answer
        source: Box<kube::Error>,
    },
    /// a member's answer
    #[error("{act}: {source}")]
    Member {
        /// in words
        act: String,
        /// its answer
        source: members::Error,
    },
    /// an object of the name that ours should have
    #[error("{act}: {taken}")]
    Taken {
        /// in words
        act: String,
        /// whose it is
        taken: Taken,
    },
    /// a plan that names what is not there
    #[error("{act}: {missing}")]
    Missing {
        /// in words
        act: String,
        /// what is not there
        missing: &'static str,
    },
}

/// What acts are done with.
#[derive(Clone, Copy)]
pub struct Hands<'a> {
    /// the API server
    pub client: &'a Client,
    /// members
    pub members: &'a Members,
    /// what Pods are made with
    pub settings: &'a Settings,
}

/// The template of this revision: the spec's, the latched target's, or another member's.
pub fn template_of(seen: &Seen, revision: &str) -> Option<MemberTemplate> {
    let target = seen
        .cluster
        .status
        .as_ref()
        .and_then(|status| status.target.as_ref());
    std::iter::once(manifests::template(&seen.cluster.spec))
        .chain(target.map(|target| target.template.clone()))
        .chain(
            seen.members
                .iter()
                .map(|member| member.spec.template.clone()),
        )
        .find(|template| manifests::revision(template) == revision)
}

/// Does it.
///
/// # Errors
/// It is not done, or nobody knows; looking again shows which.
pub async fn execute(
    hands: Hands<'_>,
    seen: &Seen,
    heard: &Heard,
    observed: &Observed,
    action: &Action,
) -> Result<Done, Error> {
    let act = Act {
        hands,
        seen,
        heard,
        observed,
        action,
        namespace: seen.cluster.namespace().unwrap_or_default(),
    };
    match action {
        Action::LatchTarget(_)
        | Action::LatchClusterId(_)
        | Action::RecordOperation { .. }
        | Action::FinishOperation { .. } => Err(act.missing("a record is written with the status")),
        Action::UpdateBudget { min_available } => act.budget(*min_available).await,
        Action::EnsureMemberObject {
            name,
            number,
            seed,
            revision,
        } => act.member_object(name, *number, *seed, revision).await,
        Action::EnsureVolume { name } => {
            let member = act.member(name)?;
            act.create(&manifests::volume_claim(&seen.cluster, member))
                .await
        }
        Action::EnsurePod {
            name,
            start,
            membership,
            ..
        } => act.pod(name, *start, membership.clone()).await,
        Action::LabelPod { name, uid, voter } => {
            let patch = json!({
                "metadata": {"uid": uid, "labels": {manifests::VOTER_LABEL: voter.to_string()}}
            });
            act.patch::<Pod>(name, &patch).await
        }
        Action::DeletePod { name, uid, .. } => act.delete::<Pod>(name, uid).await,
        Action::DeleteVolume { name, uid } => {
            act.delete::<PersistentVolumeClaim>(&manifests::volume_claim_name(name), uid)
                .await
        }
        Action::ReleaseVolume { name, uid } => {
            let patch = json!({
                "metadata": {
                    "uid": uid,
                    "ownerReferences": null,
                    "labels": {manifests::RELEASED_LABEL: "true"},
                }
            });
            act.patch::<PersistentVolumeClaim>(&manifests::volume_claim_name(name), &patch)
                .await
        }
        Action::DeleteMemberObject { name, uid } => act.delete_member(name, uid).await,
        Action::MemberAddLearner {
            peer_url, expected, ..
        } => {
            let url = act.leader_url()?;
            act.told(hands.members.add_learner(&url, peer_url, expected).await)
        }
        Action::MemberPromote { id, expected, .. } => {
            let url = act.leader_url()?;
            act.told(hands.members.promote(&url, id.0, expected).await)
        }
        Action::MemberRemove { id, expected, .. } => {
            let url = act.leader_url()?;
            act.told(hands.members.remove(&url, id.0, expected).await)
        }
        Action::MoveLeader { from, to } => {
            let url = act.url_of(*from)?;
            act.told(hands.members.move_leader(&url, to.0).await)
        }
        Action::Compact { revision } => {
            let url = act.leader_url()?;
            act.told(hands.members.compact(&url, *revision).await)
        }
        Action::Defragment { name, .. } => {
            let url = host(&hands.settings.member_host, &seen.cluster, name).client_url();
            act.told(hands.members.defragment(&url).await)
        }
        Action::Disarm { member, kind } => {
            let url = act.leader_url()?;
            let alarm = match kind {
                AlarmKind::NoSpace => pb::AlarmType::Nospace,
                AlarmKind::Corrupt => pb::AlarmType::Corrupt,
            };
            act.told(hands.members.disarm(&url, member.0, alarm).await)
        }
        Action::ReleaseCluster => set_finalizer::<QuorateCluster>(
            &act.api(),
            seen.cluster.as_ref(),
            CLUSTER_FINALIZER,
            false,
        )
        .await
        .map_or_else(|error| act.answered(error), |()| Ok(Done::Yes)),
    }
}

struct Act<'a> {
    hands: Hands<'a>,
    seen: &'a Seen,
    heard: &'a Heard,
    observed: &'a Observed,
    action: &'a Action,
    namespace: String,
}

impl Act<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.hands.client.clone(), &self.namespace)
    }

    fn missing(&self, missing: &'static str) -> Error {
        Error::Missing {
            act: self.action.to_string(),
            missing,
        }
    }

    fn member(&self, name: &str) -> Result<&QuorateMember, Error> {
        self.seen
            .member(name)
            .map(AsRef::as_ref)
            .ok_or_else(|| self.missing("the member has no object"))
    }

    /// A refusal that says that the world has moved on, or an error.
    fn answered(&self, error: kube::Error) -> Result<Done, Error> {
        match &error {
            // Conflict, not found, and a UID that is not the object's.
            kube::Error::Api(status)
                if matches!(status.code, 404 | 409)
                    || (status.code == 422 && status.message.contains("uid")) =>
            {
                tracing::info!(act = %self.action, why = status.message, "the world has moved on");
                Ok(Done::Stale)
            }
            _ => Err(Error::Api {
                act: self.action.to_string(),
                source: Box::new(error),
            }),
        }
    }

    fn told(&self, answer: Result<(), members::Error>) -> Result<Done, Error> {
        match answer {
            Ok(()) => Ok(Done::Yes),
            // The membership is another one by now.
            Err(members::Error::Refused { what, status })
                if status.message().contains("quorate: the membership is") =>
            {
                tracing::info!(what, why = status.message(), "the world has moved on");
                Ok(Done::Stale)
            }
            Err(source) => Err(Error::Member {
                act: self.action.to_string(),
                source,
            }),
        }
    }

    async fn create<K>(&self, object: &K) -> Result<Done, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let error = match self.api::<K>().create(&params, object).await {
            Ok(_) => return Ok(Done::Yes),
            Err(error) => error,
        };
        let there = matches!(&error, kube::Error::Api(status) if status.code == 409);
        if there && let Some(taken) = taken(&self.api(), object).await {
            return Err(Error::Taken {
                act: self.action.to_string(),
                taken,
            });
        }
        self.answered(error)
    }

    /// A merge patch; the UID in it must be the object's.
    async fn patch<K>(&self, name: &str, patch: &serde_json::Value) -> Result<Done, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        match self
            .api::<K>()
            .patch(name, &merging(), &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(Done::Yes),
            Err(error) => self.answered(error),
        }
    }

    async fn delete<K>(&self, name: &str, uid: &str) -> Result<Done, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        match self.api::<K>().delete(name, &params).await {
            Ok(_) => Ok(Done::Yes),
            Err(error) => self.answered(error),
        }
    }

    async fn member_object(
        &self,
        name: &str,
        number: u64,
        seed: bool,
        revision: &str,
    ) -> Result<Done, Error> {
        let template = template_of(self.seen, revision)
            .ok_or_else(|| self.missing("nothing with this revision is known"))?;
        match self.seen.member(name) {
            None => {
                let object = manifests::member_object(&self.seen.cluster, number, seed, template);
                self.create(&object).await
            }
            Some(member) => {
                let mut member = member.as_ref().clone();
                member.spec.template = template;
                let params = PostParams {
                    field_manager: Some(MANAGER.to_owned()),
                    ..PostParams::default()
                };
                match self
                    .api::<QuorateMember>()
                    .replace(name, &params, &member)
                    .await
                {
                    Ok(_) => Ok(Done::Yes),
                    Err(error) => self.answered(error),
                }
            }
        }
    }

    /// First the deletion, then the finalizer: an operator that ends in between finds an object that is to go.
    async fn delete_member(&self, name: &str, uid: &str) -> Result<Done, Error> {
        let member = self.member(name)?;
        if member.metadata.deletion_timestamp.is_none()
            && self.delete::<QuorateMember>(name, uid).await? == Done::Stale
        {
            return Ok(Done::Stale);
        }
        // As it is now: a finalizer of somebody else may have come since.
        let api = self.api::<QuorateMember>();
        let released = match api.get(name).await {
            Ok(now) if now.uid().as_deref() == Some(uid) => {
                set_finalizer(&api, &now, MEMBER_FINALIZER, false).await
            }
            Ok(_) => return Ok(Done::Stale),
            Err(error) => Err(error),
        };
        released.map_or_else(|error| self.answered(error), |()| Ok(Done::Yes))
    }

    async fn pod(
        &self,
        name: &str,
        start: Start,
        membership: Option<String>,
    ) -> Result<Done, Error> {
        let member = self.member(name)?;
        let template = &self.hands.settings.member_host;
        let cluster = &self.seen.cluster;
        let live = match &self.observed.live {
            Live::Known(live) => Some(live),
            Live::Unknown => None,
        };
        let own = host(template, cluster, name).peer_url();
        let begin = match start {
            Start::New => Begin::New,
            Start::Existing => Begin::Existing {
                members: match live {
                    // It has data on its disk, and does not look.
                    None => vec![(name.to_owned(), vec![own])],
                    Some(live) => live
                        .members
                        .iter()
                        .map(|member| (self.name_of(member), member.peer_urls.clone()))
                        .collect(),
                },
                membership,
            },
            Start::Recover => {
                let id = |text: &Option<MemberIdText>| text.clone();
                let member_id = member
                    .status
                    .as_ref()
                    .and_then(|status| id(&status.member_id));
                let cluster_id = cluster
                    .status
                    .as_ref()
                    .and_then(|status| id(&status.cluster_id));
                let (Some(member_id), Some(cluster_id)) = (member_id, cluster_id) else {
                    return Err(self.missing("the survivor's ID or the cluster's is not known"));
                };
                Begin::Recover {
                    member_id,
                    cluster_id,
                }
            }
        };
        let voter = match live {
            Some(live) => live
                .members
                .iter()
                .any(|one| one.role == Role::Voter && self.name_of(one) == name),
            None => self
                .observed
                .members
                .iter()
                .any(|one| one.name == name && one.last_role == Some(Role::Voter)),
        };
        let pod = manifests::pod(cluster, member, self.hands.settings, &begin, voter);
        self.create(&pod).await
    }

    /// A live member has no name before it starts for the first time; then it has the one that we gave it.
    fn name_of(&self, member: &planner::LiveMember) -> String {
        let cluster = self.seen.cluster.name_any();
        match member.number {
            Some(number) => manifests::member_name(&cluster, number),
            None if member.name.is_empty() => format!("unknown-{}", member.id),
            None => member.name.clone(),
        }
    }

    async fn budget(&self, min_available: Option<u32>) -> Result<Done, Error> {
        let Some(min_available) = min_available else {
            let budget = self
                .seen
                .budget
                .as_ref()
                .and_then(Option::as_ref)
                .and_then(|budget| budget.uid());
            let Some(uid) = budget else {
                return Ok(Done::Stale);
            };
            let name = manifests::budget_name(&self.seen.cluster.name_any());
            return self.delete::<PodDisruptionBudget>(&name, &uid).await;
        };
        let mut budget = manifests::budget(&self.seen.cluster, min_available);
        let Some(seen) = self.seen.budget.as_ref().and_then(Option::as_ref) else {
            return self.create(&budget).await;
        };
        // Of the one that was seen: the number was worked out beside it.
        budget.metadata.uid = seen.uid();
        budget.metadata.resource_version = seen.resource_version();
        match apply(&self.api(), &budget).await {
            Ok(_) => Ok(Done::Yes),
            Err(error) => self.answered(error),
        }
    }

    /// The leader takes membership calls. Where a stranger leads, no call is planned.
    fn leader_url(&self) -> Result<String, Error> {
        self.heard
            .leader_url
            .clone()
            .ok_or_else(|| self.missing("no member of ours leads"))
    }

    fn url_of(&self, id: MemberId) -> Result<String, Error> {
        let template = &self.hands.settings.member_host;
        self.observed
            .members
            .iter()
            .find(|member| {
                matches!(&member.asked, planner::Asked::Answered(answer) if answer.id == id)
            })
            .map(|member| host(template, &self.seen.cluster, &member.name).client_url())
            .ok_or_else(|| self.missing("the member has not answered"))
    }
}

/// An object that has the name of one of ours, and is not ours: it is neither changed nor removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// its kind
    pub kind: String,
    /// its name
    pub name: String,
    /// the object that controls it, if one does
    pub owner: Option<String>,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, name, owner } = self;
        write!(f, "there is a {kind} {name} that is not this cluster's")?;
        if let Some(owner) = owner {
            write!(f, " (it belongs to {owner})")?;
        }
        f.write_str("; it is left as it is: remove it, or give the cluster another name")
    }
}

/// Whose an object is that has the name of one of ours.
pub enum Whose {
    /// the one that was to be made
    Ours,
    /// not ours, and gone in a moment: the garbage collector has not come yet to what a deleted cluster of the same
    /// name has owned
    Going,
    /// of others
    Others(Taken),
}

/// Its owner says whose it is, also where somebody has changed its labels; of one that nobody owns, as a deletion
/// leaves it that orphans, the label.
pub fn whose<K: Resource<DynamicType = ()>>(there: &K, ours: &K) -> Whose {
    let cluster = |one: &K| {
        let labels = one.meta().labels.as_ref()?;
        labels.get(manifests::CLUSTER_LABEL).cloned()
    };
    let (is_ours, former) = match (controller(there), controller(ours)) {
        (Some(owner), Some(own)) => (
            owner.uid == own.uid,
            owner.kind == own.kind && owner.name == own.name,
        ),
        (Some(_), None) => (false, false),
        (None, _) => (cluster(there) == cluster(ours), false),
    };
    if is_ours {
        Whose::Ours
    } else if former || there.meta().deletion_timestamp.is_some() {
        Whose::Going
    } else {
        Whose::Others(Taken {
            kind: K::kind(&()).into_owned(),
            name: there.name_any(),
            owner: controller(there).map(|owner| format!("{} {}", owner.kind, owner.name)),
        })
    }
}

/// What has the name of the object that was to be made, where that is of others; `None`: it is ours, it is gone or
/// will be in a moment, or it could not be read.
async fn taken<K>(api: &Api<K>, ours: &K) -> Option<Taken>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let there = api.get(&ours.name_any()).await.ok()?;
    match whose(&there, ours) {
        Whose::Others(taken) => Some(taken),
        Whose::Ours | Whose::Going => None,
    }
}

fn controller<K: Resource>(object: &K) -> Option<&OwnerReference> {
    let mut owners = object.meta().owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

/// Server-side apply of an object that is ours alone; its UID says which.
///
/// # Errors
/// The API server's answer.
pub async fn apply<K>(api: &Api<K>, object: &K) -> Result<K, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let mut params = PatchParams::apply(MANAGER);
    // Without a UID it is to be made: what somebody else makes in this moment is not taken over.
    params.force = object.uid().is_some();
    let name = object.name_any();
    let mut value = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
    value["apiVersion"] = json!(K::api_version(&()));
    value["kind"] = json!(K::kind(&()));
    api.patch(&name, &params, &Patch::Apply(&value)).await
}

/// Adds or takes away a finalizer, if the object is still the one that was seen.
///
/// # Errors
/// The API server's answer; a conflict when it is another one.
pub async fn set_finalizer<K>(
    api: &Api<K>,
    object: &K,
    finalizer: &str,
    there: bool,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let mut finalizers = others(object, finalizer);
    if there {
        finalizers.push(finalizer.to_owned());
    }
    let patch = json!({"metadata": {
        "uid": object.uid(),
        "resourceVersion": object.resource_version(),
        "finalizers": finalizers,
    }});
    api.patch(&object.name_any(), &merging(), &Patch::Merge(&patch))
        .await
        .map(|_| ())
}

fn others<K: Resource>(object: &K, finalizer: &str) -> Vec<String> {
    object
        .meta()
        .finalizers
        .iter()
        .flatten()
        .filter(|one| *one != finalizer)
        .cloned()
        .collect()
}
