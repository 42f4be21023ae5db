//! From what was seen and heard to the planner's `Observed`.
//!
//! ```text
//! Seen (objects)  ─┐
//! Heard (members) ─┼─▶ Observed
//! Memory (since)  ─┘
//! ```
//!
//! Nothing is guessed here: a part that could not be read is Unknown, a member that did not answer is Silent,
//! and no answer of an earlier pass stands in for a missing one. Only the times since when something has been
//! so are kept.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use crd::{Health, QuorateCluster, QuorateMember, RECOVER_FROM_ANNOTATION};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use manifests::{Host, HostTemplate};
use planner::{
    Action, Alarm, AlarmKind, Answer, Asked, Budget, ClusterId, FailedRemedy, KeptVolume, Live,
    LiveMember, MemberId, MemberObject, Membership, Observed, Pending, PodFacts, PodPhase,
    RecoverOrder, Remedy, Role, Start, Version, VolumeFacts, VolumePhase, Wanted,
};

use crate::members::{Members, Roll, Said};
use crate::records::{self, ms};
use crate::seen::Seen;
use crate::volumes::Nodes;

/// How many learners our members take: all are started with this `--max-learners`.
const LEARNERS_MAX: u32 = 2;

/// A Pod that should have gone for longer than this, its grace period counted in, is on a node that nobody
/// hears of: a living kubelet needs a second or two.
const GONE_AFTER_MS: u64 = 15_000;

/// A kubelet waits five minutes at most until it starts a container that has ended once more; half a minute for the
/// start.
const BACKOFF_MAX_MS: u64 = 330_000;

/// Numbers of members that are compared with a peer URL, from the newest down. A stranger's URL is compared
/// with all of them in every pass.
const NUMBERS_MAX: u64 = 1000;

/// Longer than the planner waits until it tries a failed remedy again.
const REMEDIES_KEPT_MS: u64 = 600_000;

/// The store's own quota when no option sets another, 2 GiB.
const QUOTA: u64 = 2 << 30;

/// What is remembered of a cluster from pass to pass: since when, and nothing else.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// by member
    pub times: BTreeMap<String, Times>,
    /// when what was tried for a full database has failed
    pub remedies_failed: Vec<FailedRemedy>,
}

impl Memory {
    /// An act was done. Of other acts than remedies nothing is kept: they are due again, or not.
    pub fn done(&mut self, action: &Action) {
        if let Some(remedy) = remedy(action) {
            self.remedies_failed
                .retain(|failed| failed.remedy != remedy);
        }
    }

    /// An act has failed.
    pub fn failed(&mut self, action: &Action, now_ms: u64) {
        self.done(action);
        if let Some(remedy) = remedy(action) {
            self.remedies_failed.push(FailedRemedy {
                remedy,
                at_ms: now_ms,
            });
        }
    }
}

fn remedy(action: &Action) -> Option<Remedy> {
    match action {
        Action::Compact { .. } => Some(Remedy::Compact),
        Action::Defragment { id, .. } => Some(Remedy::Defragment(*id)),
        _ => None,
    }
}

/// Since when a member has been so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// all its answers were good
    pub good_ms: Option<u64>,
    /// it has answered, and not well; short silences are counted in
    pub bad_ms: Option<u64>,
    /// it has not answered
    pub silent_ms: Option<u64>,
}

impl Times {
    /// From one look to the next. A member that crashes again and again answers for a moment each time: that it
    /// answers, and not well, does not begin its failure anew. After a long silence it does: its node is back, and
    /// it has the time of any other to catch up.
    fn next(self, now_ms: u64, looks: Looks) -> Self {
        match looks {
            Looks::Good => Self {
                good_ms: Some(self.good_ms.unwrap_or(now_ms)),
                ..Self::default()
            },
            Looks::Silent => Self {
                good_ms: None,
                bad_ms: self.bad_ms,
                silent_ms: Some(self.silent_ms.unwrap_or(now_ms)),
            },
            Looks::Bad => {
                let back = self
                    .silent_ms
                    .is_some_and(|since| now_ms.saturating_sub(since) > BACKOFF_MAX_MS);
                let before = self.bad_ms.or(self.silent_ms).filter(|_| !back);
                Self {
                    bad_ms: Some(before.unwrap_or(now_ms)),
                    ..Self::default()
                }
            }
        }
    }

    /// Since when it has not been well, while it does not answer.
    fn failed_ms(self) -> Option<u64> {
        self.bad_ms.or(self.silent_ms)
    }
}

/// How a member is in one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
    Good,
    Bad,
    Silent,
}

/// What members said in one pass.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// when they were asked
    pub at: Option<Instant>,
    /// by name
    pub said: BTreeMap<String, Said>,
    /// the membership, with a quorum behind it
    pub roll: Option<Roll>,
    /// where the leader is reached, when it is one of ours
    pub leader_url: Option<String>,
    /// commit index of the leader, from before the others were asked for the last time
    pub committed: u64,
    /// the revision up to which the store is known to be compacted
    pub compacted: i64,
}

impl Heard {
    /// Whether it was said longer ago.
    pub fn is_older_than(&self, age: Duration) -> bool {
        self.at.is_none_or(|at| at.elapsed() > age)
    }
}

/// Where a member is reached.
pub fn host(template: &HostTemplate, cluster: &QuorateCluster, member: &str) -> Host {
    template.host(
        &cluster.namespace().unwrap_or_default(),
        &cluster.name_any(),
        member,
        cluster.spec.membership.domain.as_deref(),
    )
}

/// The peer URL of a member: the one that it was made with, also after the template has changed.
pub fn peer_url(
    template: &HostTemplate,
    cluster: &QuorateCluster,
    member: &QuorateMember,
) -> String {
    member
        .status
        .as_ref()
        .and_then(|status| status.peer_url.clone())
        .unwrap_or_else(|| host(template, cluster, &member.name_any()).peer_url())
}

/// Asks all members that have an object.
pub async fn listen(members: &Members, template: &HostTemplate, seen: &Seen) -> Heard {
    let at = Instant::now();
    let urls: Vec<(String, String)> = seen
        .members
        .iter()
        .map(|member| {
            let name = member.name_any();
            let url = host(template, &seen.cluster, &name).client_url();
            (name, url)
        })
        .collect();
    let ask = |chosen: Vec<(String, String)>| async move {
        let asked = chosen
            .into_iter()
            .map(|(name, url)| async move { (name, members.ask(&url).await) });
        futures::future::join_all(asked).await
    };
    let mut said: BTreeMap<String, Said> = ask(urls.clone())
        .await
        .into_iter()
        .filter_map(|(name, said)| Some((name, said?)))
        .collect();
    let url_of = |name: &str| {
        urls.iter()
            .find(|(known, _)| known == name)
            .map(|(_, url)| url.clone())
    };
    let leader = leader(&said);
    let leader_url = leader.as_deref().and_then(url_of);
    let committed = leader
        .as_ref()
        .and_then(|name| said.get(name))
        .map_or(0, |said| said.status.raft_index);
    // Whoever answered before the leader did may only seem to be behind it.
    let behind: Vec<_> = urls
        .iter()
        .filter(|(name, _)| {
            said.get(name)
                .is_some_and(|said| said.status.raft_index < committed)
        })
        .cloned()
        .collect();
    for (name, again) in ask(behind).await {
        if let Some(again) = again {
            said.insert(name, again);
        }
    }
    // A stranger may lead. The list is linearizable whoever gives it.
    let teller = leader_url.clone().or_else(|| {
        let (name, _) = said.iter().find(|(_, said)| said.served)?;
        url_of(name)
    });
    let (mut roll, mut compacted) = (None, 0);
    if let Some(url) = &teller {
        roll = members.roll(url).await;
        let revision = revision(&said);
        if roll.as_ref().is_some_and(|roll| !roll.alarms.is_empty())
            && members.is_compacted(url, revision - 1).await
        {
            compacted = revision;
        }
    }
    Heard {
        at: Some(at),
        said,
        roll,
        leader_url,
        committed,
        compacted,
    }
}

/// The member that says of itself that it leads; of several the one of the latest term.
fn leader(said: &BTreeMap<String, Said>) -> Option<String> {
    said.iter()
        .filter(|(_, said)| {
            let id = member_id(said);
            id != 0 && said.status.leader == id
        })
        .max_by_key(|(_, said)| said.status.raft_term)
        .map(|(name, _)| name.clone())
}

fn member_id(said: &Said) -> u64 {
    said.status
        .header
        .as_ref()
        .map_or(0, |header| header.member_id)
}

fn cluster_id(said: &Said) -> u64 {
    said.status
        .header
        .as_ref()
        .map_or(0, |header| header.cluster_id)
}

fn revision(said: &BTreeMap<String, Said>) -> i64 {
    said.values()
        .filter_map(|said| said.status.header.as_ref())
        .map(|header| header.revision)
        .max()
        .unwrap_or_default()
}

/// Puts it together.
///
/// # Errors
/// The cluster's object holds something that has no meaning here.
pub fn observed(
    seen: &Seen,
    heard: &Heard,
    memory: &mut Memory,
    template: &HostTemplate,
    now_ms: u64,
) -> Result<Observed, records::Error> {
    let cluster = &seen.cluster;
    let recorded = records::recorded(&cluster.status.clone().unwrap_or_default())?;
    remember(memory, seen, heard, recorded.cluster_id, now_ms);
    memory
        .remedies_failed
        .retain(|failed| now_ms.saturating_sub(failed.at_ms) < REMEDIES_KEPT_MS);
    let members = seen
        .members
        .iter()
        .filter_map(|member| member_object(seen, member, heard, memory, template, now_ms))
        .collect();
    let name = cluster.name_any();
    let kept_volumes = seen
        .claims
        .iter()
        .flatten()
        .filter_map(|claim| {
            let claim_name = claim.name_any();
            let member = manifests::member_of_volume_claim(&claim_name)?;
            let number = manifests::member_number(&name, member)?;
            // One on its way out is not kept by anybody.
            let kept = seen.member(member).is_none() && claim.metadata.deletion_timestamp.is_none();
            kept.then(|| KeptVolume {
                member: member.to_owned(),
                number,
                uid: claim.uid().unwrap_or_default(),
                released: is_released(claim),
            })
        })
        .collect();
    let live = live(seen, heard, template, recorded.member_number_next);
    Ok(Observed {
        now_ms,
        wanted: wanted(cluster)?,
        recorded,
        members,
        kept_volumes,
        live,
        budget: match &seen.budget {
            None => Budget::Unknown,
            Some(None) => Budget::Absent,
            Some(Some(budget)) => {
                let min = budget
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.min_available.clone());
                match min {
                    Some(IntOrString::Int(min)) => {
                        Budget::Present(u32::try_from(min).unwrap_or_default())
                    }
                    // Edited by hand into something that is no number: no budget of ours.
                    _ => Budget::Absent,
                }
            }
        },
        remedies_failed: memory.remedies_failed.clone(),
    })
}

fn wanted(cluster: &QuorateCluster) -> Result<Wanted, records::Error> {
    let spec = &cluster.spec;
    let order = cluster.annotations().get(RECOVER_FROM_ANNOTATION);
    Ok(Wanted {
        generation: cluster.metadata.generation.unwrap_or_default(),
        cluster: cluster.name_any(),
        replicas: u32::try_from(spec.replicas).unwrap_or_default(),
        version: records::version("spec.version", &spec.version)?,
        revision: manifests::revision(&manifests::template(spec)),
        paused: spec.paused,
        deletion_asked: cluster.metadata.deletion_timestamp.is_some(),
        deletion_protection: spec.deletion_protection,
        retention: match spec.storage.retention {
            crd::Retention::Retain => planner::Retention::Retain,
            crd::Retention::Delete => planner::Retention::Delete,
        },
        adopt: spec.bootstrap.adopt,
        recover: order.and_then(|order| recover_order(order)),
        recover_malformed: order
            .filter(|order| recover_order(order).is_none())
            .cloned(),
    })
}

/// `<cluster ID>/<member name>`, and `/others-are-gone` behind it where a person says so.
fn recover_order(text: &str) -> Option<RecoverOrder> {
    let mut parts = text.split('/');
    let cluster_id = u64::from_str_radix(parts.next()?.trim(), 16).ok()?;
    let survivor = parts.next()?.trim().to_owned();
    let others_are_gone = match parts.next().map(str::trim) {
        None => false,
        Some("others-are-gone") => true,
        Some(_) => return None,
    };
    (parts.next().is_none() && !survivor.is_empty()).then(|| RecoverOrder {
        id: text.to_owned(),
        cluster_id: ClusterId(cluster_id),
        survivor,
        others_are_gone,
    })
}

/// Keeps since when each member has been as it is. What a person may wait ten minutes for, a failed member's
/// replacement, survives a change of operators by the member's status; health begins anew, since nobody looked.
fn remember(
    memory: &mut Memory,
    seen: &Seen,
    heard: &Heard,
    latched: Option<ClusterId>,
    now_ms: u64,
) {
    let mut times = BTreeMap::new();
    for member in &seen.members {
        let name = member.name_any();
        let old = memory.times.get(&name).copied().unwrap_or_else(|| {
            let status = member.status.as_ref();
            Times {
                good_ms: None,
                bad_ms: status.and_then(|status| status.bad_since.as_ref()).map(ms),
                silent_ms: status
                    .and_then(|status| status.silent_since.as_ref())
                    .map(ms),
            }
        });
        let ours = |said: &Said| latched.is_none_or(|latched| latched.0 == cluster_id(said));
        let looks = match heard.said.get(&name) {
            None => Looks::Silent,
            Some(said) if said.served && ours(said) => Looks::Good,
            Some(_) => Looks::Bad,
        };
        times.insert(name, old.next(now_ms, looks));
    }
    memory.times = times;
}

fn member_object(
    seen: &Seen,
    member: &QuorateMember,
    heard: &Heard,
    memory: &Memory,
    template: &HostTemplate,
    now_ms: u64,
) -> Option<MemberObject> {
    let name = member.name_any();
    let number = manifests::member_number(&seen.cluster.name_any(), &name)?;
    let status = member.status.as_ref();
    let pod = match (&seen.pods, seen.pod(&name)) {
        (None, _) => planner::Pod::Unknown,
        (Some(_), None) => planner::Pod::Absent,
        (Some(_), Some(pod)) => planner::Pod::Present(pod_facts(pod, now_ms)),
    };
    let volume = match (&seen.claims, seen.claim(&name)) {
        (None, _) => planner::Volume::Unknown,
        (Some(_), None) => planner::Volume::Absent,
        (Some(_), Some(claim)) => {
            let known = status.and_then(|status| status.volume_uid.as_deref());
            planner::Volume::Present(volume_facts(claim, known, &seen.nodes))
        }
    };
    Some(MemberObject {
        uid: member.uid().unwrap_or_default(),
        number,
        peer_url: peer_url(template, &seen.cluster, member),
        seed: member.spec.bootstrap,
        revision: manifests::revision(&member.spec.template),
        // Members of a cluster that is to go are marked by the garbage collector, which asks for nothing.
        deletion_asked: member.metadata.deletion_timestamp.is_some()
            && seen.cluster.metadata.deletion_timestamp.is_none(),
        last_role: status.and_then(|status| match status.role {
            crd::Role::Leader | crd::Role::Voter => Some(Role::Voter),
            crd::Role::Learner => Some(Role::Learner),
            crd::Role::None | crd::Role::Unknown => None,
        }),
        last_version: status
            .and_then(|status| status.version.as_deref())
            .and_then(Version::parse),
        asked: asked(
            heard.said.get(&name),
            memory.times.get(&name).copied().unwrap_or_default(),
            running_version(seen.pod(&name).map(AsRef::as_ref)),
            now_ms,
        ),
        pod,
        volume,
        name,
    })
}

fn asked(said: Option<&Said>, times: Times, version: Version, now_ms: u64) -> Asked {
    let Some(said) = said else {
        return Asked::Silent {
            since_ms: times.silent_ms.unwrap_or(now_ms),
            failed_since_ms: times.failed_ms().unwrap_or(now_ms),
        };
    };
    let status = &said.status;
    Asked::Answered(Answer {
        id: MemberId(member_id(said)),
        cluster_id: ClusterId(cluster_id(said)),
        good_since_ms: times.good_ms,
        bad_since_ms: times.bad_ms,
        leader: Some(MemberId(status.leader)).filter(|leader| leader.0 != 0),
        term: status.raft_term,
        raft_index: status.raft_index,
        applied_index: status.raft_applied_index,
        version,
        db_size: u64::try_from(status.db_size).unwrap_or_default(),
        db_in_use: u64::try_from(status.db_size_in_use).unwrap_or_default(),
    })
}

/// The version of the image that a Pod runs. A member tells etcd's version, which is not ours.
fn running_version(pod: Option<&Pod>) -> Version {
    pod.and_then(|pod| pod.labels().get("app.kubernetes.io/version").cloned())
        .and_then(|text| Version::parse(&text))
        .unwrap_or_default()
}

fn pod_facts(pod: &Pod, now_ms: u64) -> PodFacts {
    let annotation = |name: &str| pod.annotations().get(name).cloned();
    let gone_by = pod.metadata.deletion_timestamp.as_ref().map(ms);
    PodFacts {
        uid: pod.uid().unwrap_or_default(),
        revision: pod
            .labels()
            .get(manifests::REVISION_LABEL)
            .cloned()
            .unwrap_or_default(),
        start: match annotation(manifests::START_ANNOTATION).as_deref() {
            Some("new") => Start::New,
            Some("recover") => Start::Recover,
            _ => Start::Existing,
        },
        membership: annotation(manifests::MEMBERSHIP_ANNOTATION),
        labelled_voter: pod
            .labels()
            .get(manifests::VOTER_LABEL)
            .is_some_and(|value| value == "true"),
        phase: pod_phase(pod),
        // A deletion's time stamp is when the grace period ends.
        node_silent: gone_by.is_some_and(|at| at + GONE_AFTER_MS < now_ms)
            || is_given_up_by_its_node(pod),
    }
}

/// A kubelet makes `Ready` of `ContainersReady`, and our Pods have no readiness gates: that they differ is the hand
/// of the node controller, which sets the one and not the other when a node has said nothing for its grace period.
fn is_given_up_by_its_node(pod: &Pod) -> bool {
    let is = |kind: &str, value: &str| {
        pod.status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == kind && condition.status == value)
    };
    is("Ready", "False") && is("ContainersReady", "True")
}

fn pod_phase(pod: &Pod) -> PodPhase {
    if pod.metadata.deletion_timestamp.is_some() {
        return PodPhase::Terminating;
    }
    let Some(status) = &pod.status else {
        return PodPhase::Pending(Pending::Starting);
    };
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return PodPhase::Ended;
    }
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    for container in containers {
        let waiting = container
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref());
        match waiting.and_then(|waiting| waiting.reason.as_deref()) {
            Some(
                "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull",
            ) => {
                return PodPhase::Pending(Pending::Image);
            }
            Some("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
                return PodPhase::Pending(Pending::Config);
            }
            Some("CrashLoopBackOff") => {
                return PodPhase::CrashLooping {
                    restarts: u32::try_from(container.restart_count).unwrap_or_default(),
                };
            }
            _ => {}
        }
    }
    let condition = |kind: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == kind)
    };
    if let Some(scheduled) = condition("PodScheduled")
        && scheduled.status == "False"
    {
        let why = scheduled
            .message
            .as_deref()
            .unwrap_or_default()
            .to_lowercase();
        // The scheduler of 1.32 and before calls it a conflict.
        let elsewhere = why.contains("persistentvolume's node affinity")
            || why.contains("volume node affinity conflict");
        return PodPhase::Pending(if elsewhere {
            Pending::VolumeNode
        } else if why.contains("persistentvolume") {
            Pending::Volume
        } else {
            Pending::Unschedulable
        });
    }
    if status.phase.as_deref() == Some("Running") {
        return PodPhase::Running {
            ready: condition("Ready").is_some_and(|ready| ready.status == "True"),
        };
    }
    PodPhase::Pending(Pending::Starting)
}

fn is_released(claim: &PersistentVolumeClaim) -> bool {
    claim
        .labels()
        .get(manifests::RELEASED_LABEL)
        .is_some_and(|value| value == "true")
}

/// `known` is the claim that the member's data is on: one of the same name with another UID is empty.
fn volume_facts(
    claim: &PersistentVolumeClaim,
    known: Option<&str>,
    nodes: &BTreeMap<String, Nodes>,
) -> VolumeFacts {
    let uid = claim.uid().unwrap_or_default();
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let phase = if claim.metadata.deletion_timestamp.is_some() {
        VolumePhase::Terminating
    } else if known.is_some_and(|known| known != uid) || phase == Some("Lost") {
        VolumePhase::Lost
    } else if phase == Some("Bound") && nodes.get(&uid) == Some(&Nodes::None) {
        VolumePhase::Stranded
    } else if phase == Some("Bound") {
        VolumePhase::Bound
    } else {
        VolumePhase::Pending
    };
    VolumeFacts {
        nodes_unread: nodes.get(&uid) == Some(&Nodes::Unread),
        uid,
        phase,
        released: is_released(claim),
    }
}

fn live(seen: &Seen, heard: &Heard, template: &HostTemplate, number_next: u64) -> Live {
    let Some(roll) = &heard.roll else {
        return Live::Unknown;
    };
    let Some(leader) = heard
        .said
        .values()
        .max_by_key(|said| said.status.raft_term)
        .map(|said| said.status.leader)
        .filter(|leader| *leader != 0)
    else {
        return Live::Unknown;
    };
    let quota = heard
        .said
        .values()
        .filter_map(|said| u64::try_from(said.status.db_size_quota).ok())
        .find(|quota| *quota > 0)
        .unwrap_or(QUOTA);
    Live::Known(Membership {
        cluster_id: ClusterId(roll.header.cluster_id),
        leader: MemberId(leader),
        digest: roll.digest.clone(),
        members: roll
            .members
            .iter()
            .map(|member| LiveMember {
                id: MemberId(member.id),
                name: member.name.clone(),
                peer_urls: member.peer_urls.clone(),
                role: if member.is_learner {
                    Role::Learner
                } else {
                    Role::Voter
                },
                number: number_of(seen, template, number_next, &member.peer_urls),
            })
            .collect(),
        committed: heard.committed,
        learners_max: LEARNERS_MAX,
        alarms: roll
            .alarms
            .iter()
            .filter_map(|alarm| {
                let kind = match alarm.alarm() {
                    pb::AlarmType::Nospace => AlarmKind::NoSpace,
                    pb::AlarmType::Corrupt => AlarmKind::Corrupt,
                    pb::AlarmType::None => return None,
                };
                Some(Alarm {
                    member: MemberId(alarm.member_id),
                    kind,
                })
            })
            .collect(),
        store_revision: revision(&heard.said),
        compacted_revision: heard.compacted,
        quota,
    })
}

/// The number of the member of ours that has these peer URLs.
fn number_of(
    seen: &Seen,
    template: &HostTemplate,
    number_next: u64,
    urls: &[String],
) -> Option<u64> {
    let [url] = urls else { return None };
    let cluster = seen.cluster.name_any();
    let of_object = seen
        .members
        .iter()
        .find(|member| peer_url(template, &seen.cluster, member) == *url)
        .and_then(|member| manifests::member_number(&cluster, &member.name_any()));
    of_object.or_else(|| {
        (number_next.saturating_sub(NUMBERS_MAX)..number_next)
            .rev()
            .find(|number| {
                let name = manifests::member_name(&cluster, *number);
                host(template, &seen.cluster, &name).peer_url() == *url
            })
    })
}

/// The planner's policy, from the spec.
pub fn policy(cluster: &QuorateCluster) -> planner::Policy {
    let spec = &cluster.spec;
    let defaults = planner::Policy::default();
    let membership = &spec.membership;
    planner::Policy {
        allow_even_replicas: membership.allow_even_replicas,
        min_healthy_ms: u64::try_from(membership.min_healthy_seconds).unwrap_or_default() * 1000,
        // The API server's rules let nothing else through.
        operation_timeout_ms: membership
            .operation_timeout
            .as_ms()
            .unwrap_or(defaults.operation_timeout_ms),
        replace_failed_after_ms: match membership.replace_failed_after.as_ms() {
            Ok(0) => None,
            Ok(ms) => Some(ms),
            Err(_) => defaults.replace_failed_after_ms,
        },
        replacements_per_hour_max: u32::try_from(membership.max_replacements_per_hour)
            .unwrap_or_default(),
        accept_outage: membership.accept_outage,
        budget: spec.pod_disruption_budget.enabled,
        evict_with_outage: spec.pod_disruption_budget.without_tolerance
            == crd::WithoutTolerance::Allow,
        ..defaults
    }
}

/// What a member's health is called in status.
pub fn health(asked: &Asked) -> Health {
    match asked {
        Asked::Unknown | Asked::Silent { .. } => Health::Unknown,
        Asked::Answered(answer) if answer.good_since_ms.is_some() => Health::Healthy,
        Asked::Answered(_) => Health::Unhealthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: serde_json::Value) -> PodPhase {
        pod_phase(
            &serde_json::from_value(json!({"metadata": {"name": "a-0"}, "status": status}))
                .expect("a Pod"),
        )
    }

    #[test]
    fn a_pod_says_why_it_does_not_run() {
        let waiting = |reason: &str| {
            pod(json!({"phase": "Pending", "containerStatuses": [{
                "name": "quorate", "image": "", "imageID": "", "ready": false, "restartCount": 7,
                "state": {"waiting": {"reason": reason}},
            }]}))
        };
        assert_eq!(
            waiting("ImagePullBackOff"),
            PodPhase::Pending(Pending::Image)
        );
        assert_eq!(
            waiting("CreateContainerConfigError"),
            PodPhase::Pending(Pending::Config)
        );
        assert_eq!(
            waiting("CrashLoopBackOff"),
            PodPhase::CrashLooping { restarts: 7 }
        );
        assert_eq!(
            waiting("ContainerCreating"),
            PodPhase::Pending(Pending::Starting)
        );
        let unscheduled = |message: &str| {
            pod(json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message},
            ]}))
        };
        assert_eq!(
            unscheduled("0/3 nodes are available: 3 Insufficient cpu."),
            PodPhase::Pending(Pending::Unschedulable)
        );
        assert_eq!(
            unscheduled("pod has unbound immediate PersistentVolumeClaims"),
            PodPhase::Pending(Pending::Volume)
        );
        for bound_elsewhere in [
            "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity.",
            "0/2 nodes are available: 2 node(s) had volume node affinity conflict.",
        ] {
            assert_eq!(
                unscheduled(bound_elsewhere),
                PodPhase::Pending(Pending::VolumeNode)
            );
        }
        assert_eq!(pod(json!({"phase": "Failed"})), PodPhase::Ended);
    }

    #[test]
    fn a_node_is_silent_when_the_node_controller_says_so_or_a_pod_does_not_go() {
        let silent = |ready: &str, containers: &str, gone_by: Option<&str>| {
            let pod = serde_json::from_value(json!({
                "metadata": {"name": "a-0", "deletionTimestamp": gone_by},
                "status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": ready},
                    {"type": "ContainersReady", "status": containers},
                ]},
            }));
            pod_facts(&pod.expect("a Pod"), 1_800_000_000_000).node_silent
        };
        assert!(!silent("True", "True", None));
        assert!(!silent("False", "False", None));
        assert!(silent("False", "True", None));
        // 1,800,000,000 s after 1970 is 08:00:00 of this day.
        assert!(!silent("False", "False", Some("2027-01-15T07:59:50Z")));
        assert!(silent("False", "False", Some("2027-01-15T07:59:40Z")));
    }

    #[test]
    fn a_member_that_answers_now_and_then_has_failed_since_the_first_time() {
        let after = |looks: &[(u64, Looks)]| {
            looks.iter().fold(Times::default(), |times, (at, looks)| {
                times.next(*at, *looks)
            })
        };
        use Looks::{Bad, Good, Silent};
        // It ends again and again, and is started after ever longer waits.
        let crashing = [
            (10, Silent),
            (40_010, Bad),
            (41_000, Silent),
            (300_000, Silent),
        ];
        assert_eq!(after(&crashing).failed_ms(), Some(10));
        let crashing = [&crashing[..], &[(341_000, Bad)]].concat();
        assert_eq!(after(&crashing).bad_ms, Some(10));
        // A node that was away for ten minutes.
        let back = [
            (10, Silent),
            (600_000, Silent),
            (600_010, Bad),
            (600_020, Bad),
        ];
        assert_eq!(after(&back).bad_ms, Some(600_010));
        // One good answer ends all of it.
        assert_eq!(
            after(&[(10, Bad), (20, Good), (30, Silent)]).failed_ms(),
            Some(30)
        );
        assert_eq!(after(&[(10, Good), (20, Good)]).good_ms, Some(10));
    }

    #[test]
    fn a_volume_is_stranded_when_it_was_looked_for_nodes_and_none_was_there() {
        let claim = |phase: &str| -> PersistentVolumeClaim {
            serde_json::from_value(
                json!({"metadata": {"uid": "u1"}, "spec": {}, "status": {"phase": phase}}),
            )
            .expect("a claim")
        };
        let facts = |phase: &str, nodes: Option<Nodes>| {
            let nodes = nodes.map(|nodes| ("u1".to_owned(), nodes));
            let facts = volume_facts(&claim(phase), Some("u1"), &nodes.into_iter().collect());
            (facts.phase, facts.nodes_unread)
        };
        assert_eq!(facts("Bound", None), (VolumePhase::Bound, false));
        assert_eq!(
            facts("Bound", Some(Nodes::Some)),
            (VolumePhase::Bound, false)
        );
        assert_eq!(
            facts("Bound", Some(Nodes::None)),
            (VolumePhase::Stranded, false)
        );
        assert_eq!(
            facts("Bound", Some(Nodes::Unread)),
            (VolumePhase::Bound, true)
        );
        assert_eq!(facts("Lost", Some(Nodes::None)), (VolumePhase::Lost, false));
    }

    #[test]
    fn an_order_to_recover_names_cluster_and_survivor() {
        let order = recover_order("00000000000000ab/a-2/others-are-gone").expect("an order");
        assert_eq!(order.cluster_id, ClusterId(0xab));
        assert_eq!(order.survivor, "a-2");
        assert!(order.others_are_gone);
        assert!(recover_order("ab/a-2").is_some_and(|order| !order.others_are_gone));
        for wrong in [
            "",
            "a-2",
            "xyz/a-2",
            "ab/",
            "ab/a-2/really",
            "ab/a-2/others-are-gone/x",
        ] {
            assert_eq!(recover_order(wrong), None, "{wrong}");
        }
    }
}
