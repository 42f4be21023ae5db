//! What the operator answers: the status of a cluster and of its members, and Events.
//!
//! A status is written when it says something else, not when a number in a sentence has moved: at rest there
//! are no writes. An Event is what is new in the list of reasons, so each is published once, also when the
//! operator is restarted in between.

use std::collections::BTreeSet;

use crd::{
    Blocked, Condition, ConditionStatus, ConditionType, MemberSummary, QuorateCluster,
    QuorateClusterStatus, QuorateMember, QuorateMemberStatus, QuorumNumbers, Reason, Role, Waiting,
    WithoutTolerance, set_condition,
};
use kube::ResourceExt as _;
use kube::runtime::events::EventType;
use manifests::HostTemplate;
use planner::{Budget, Live, Observed, Plan, Truth, WaitingOn};

use crate::metrics::ClusterGauges;
use crate::observe::{Memory, health, host, peer_url};
use crate::records::{ms, time};
use crate::seen::Seen;

/// Reasons in a status, at most as many as its schema allows.
const WAITING_MAX: usize = 32;

/// Characters of a sentence, at most as many as the schema allows; a refusal of a large cluster is some hundred.
const MESSAGE_MAX: usize = 2048;

/// The reason of what the API server or a member refuses.
pub const REFUSED: &str = "Refused";

/// Something that stops an act and that the planner does not know: the API server or a member has refused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// one word
    pub reason: &'static str,
    /// a sentence
    pub message: String,
}

impl Refused {
    /// In the error's words.
    pub fn of(error: &impl ToString) -> Self {
        Self {
            reason: REFUSED,
            message: error.to_string(),
        }
    }
}

/// An Event to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// normal or a warning
    pub kind: EventType,
    /// one word
    pub reason: String,
    /// a sentence
    pub note: String,
    /// what the operator was about
    pub action: String,
}

/// The status of a cluster from now on.
pub fn cluster_status(
    seen: &Seen,
    observed: &Observed,
    plan: &Plan,
    refused: Option<&Refused>,
    template: &HostTemplate,
) -> QuorateClusterStatus {
    let cluster = &seen.cluster;
    let old = cluster.status.clone().unwrap_or_default();
    let name = cluster.name_any();
    let mut new = old.clone();
    new.observed_generation = cluster.metadata.generation;
    new.replicas = count(seen.pods.iter().flatten().count());
    new.selector = Some(manifests::selector_text(&name));
    new.cluster_token = Some(manifests::cluster_token(cluster));
    let summary = &plan.summary;
    new.ready_replicas = count(
        summary
            .members
            .iter()
            .filter(|member| member.healthy && member.role == Some(planner::Role::Voter))
            .count(),
    );
    new.version = lowest_version(observed);
    let since = |same: bool, old: Option<&crd::Time>| {
        Some(
            old.filter(|_| same)
                .cloned()
                .unwrap_or_else(|| time(observed.now_ms)),
        )
    };
    new.quorum = summary.quorum.as_ref().map(|quorum| {
        let needed = count(quorum.needed);
        let mut numbers = QuorumNumbers {
            voters: count(quorum.voters),
            learners: count(quorum.learners),
            healthy_voters: count(quorum.healthy),
            needed,
            tolerance: count(quorum.healthy) - needed,
            since: old.quorum.as_ref().and_then(|old| old.since.clone()),
        };
        let same = old.quorum.as_ref() == Some(&numbers);
        numbers.since = since(same, numbers.since.as_ref());
        numbers
    });
    new.leader = summary
        .members
        .iter()
        .find(|member| member.leads)
        .map(|member| member.name.clone());
    new.endpoints = endpoints(cluster, observed, plan, template);
    new.members = summary
        .members
        .iter()
        .map(|member| {
            let old = old.members.iter().find(|old| old.name == member.name);
            member_summary(member, observed, old)
        })
        .collect();
    new.waiting = waiting(Some(plan), refused, &old, observed.now_ms);
    let blocked = refused
        .map(|one| (one.reason, one.message.clone()))
        .or_else(|| {
            let one = plan.waiting.iter().find(|one| one.is_blocked())?;
            Some((one.reason(), one.to_string()))
        });
    new.blocked = blocked.map(|(reason, message)| {
        let old = old.blocked.as_ref().filter(|old| old.reason == reason);
        Blocked {
            reason: reason.to_owned(),
            message: bounded(message),
            since: since(old.is_some(), old.and_then(|old| old.since.as_ref())),
        }
    });
    // Remembered while it stands there: given once more, after another loss, it is another order.
    if !cluster
        .annotations()
        .contains_key(crd::RECOVER_FROM_ANNOTATION)
        && let Some(recovery) = new.recovery.as_mut()
    {
        recovery.order = None;
    }
    for condition in conditions(cluster, observed, plan, &new) {
        set_condition(&mut new.conditions, condition);
    }
    new
}

/// The status while nothing can be planned: what was known stays, and it says why nothing is done.
pub fn stopped(cluster: &QuorateCluster, refused: &Refused, now_ms: u64) -> QuorateClusterStatus {
    let old = cluster.status.clone().unwrap_or_default();
    let mut new = old.clone();
    let generation = cluster.metadata.generation;
    new.observed_generation = generation;
    new.waiting = waiting(None, Some(refused), &old, now_ms);
    new.blocked = new.waiting.first().map(|one| Blocked {
        reason: one.reason.clone(),
        message: one.message.clone(),
        since: one.since.clone(),
    });
    let now = time(now_ms);
    for (kind, holds) in [
        (ConditionType::Ready, ConditionStatus::Unknown),
        (ConditionType::Stalled, ConditionStatus::True),
        (ConditionType::Reconciling, ConditionStatus::False),
    ] {
        let message = bounded(refused.message.clone());
        let condition = crd::condition(kind, holds, Reason::Refused, &message, generation, &now);
        set_condition(&mut new.conditions, condition);
    }
    new
}

/// What of it is written.
pub fn stopped_patch(status: &QuorateClusterStatus) -> serde_json::Value {
    serde_json::json!({"status": {
        "observedGeneration": status.observed_generation,
        "waiting": status.waiting,
        "blocked": status.blocked,
        "conditions": status.conditions,
    }})
}

/// All that is waited for, and what was refused; of what was there before, since when.
fn waiting(
    plan: Option<&Plan>,
    refused: Option<&Refused>,
    old: &QuorateClusterStatus,
    now_ms: u64,
) -> Vec<Waiting> {
    let all = plan
        .iter()
        .flat_map(|plan| &plan.waiting)
        .map(|one| (one.reason(), one.about(), one.to_string()))
        .chain(refused.map(|one| (one.reason, None, one.message.clone())));
    let mut waiting: Vec<Waiting> = Vec::new();
    for (reason, member, message) in all {
        let is_it = |one: &&Waiting| one.reason == reason && one.member == member;
        if waiting.len() == WAITING_MAX || waiting.iter().any(|one| is_it(&one)) {
            continue;
        }
        let since = old
            .waiting
            .iter()
            .find(is_it)
            .and_then(|old| old.since.clone());
        waiting.push(Waiting {
            reason: reason.to_owned(),
            member,
            message: bounded(message),
            since: since.or_else(|| Some(time(now_ms))),
        });
    }
    waiting
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn bounded(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(MESSAGE_MAX) {
        text.truncate(at);
    }
    text
}

/// One that does not answer now counts with what it ran before: it comes back with that, or is made new.
fn lowest_version(observed: &Observed) -> Option<String> {
    observed
        .members
        .iter()
        .filter_map(|member| match &member.asked {
            planner::Asked::Answered(answer) => Some(answer.version),
            _ => member.last_version,
        })
        .min()
        .map(|version| version.to_string())
}

fn endpoints(
    cluster: &QuorateCluster,
    observed: &Observed,
    plan: &Plan,
    template: &HostTemplate,
) -> Vec<String> {
    let namespace = cluster.namespace().unwrap_or_default();
    let service = manifests::client_service_name(&cluster.name_any());
    let domain = cluster.spec.membership.domain.as_deref();
    let domain = domain
        .map(|domain| format!(".{domain}"))
        .unwrap_or_default();
    let first = format!(
        "http://{service}.{namespace}.svc{domain}:{}",
        manifests::CLIENT_PORT
    );
    let voters = plan
        .summary
        .members
        .iter()
        .filter(|member| member.role == Some(planner::Role::Voter))
        .filter(|member| observed.members.iter().any(|one| one.name == member.name))
        .map(|member| host(template, cluster, &member.name).client_url());
    std::iter::once(first).chain(voters).collect()
}

fn member_summary(
    member: &planner::MemberSummary,
    observed: &Observed,
    old: Option<&MemberSummary>,
) -> MemberSummary {
    let object = observed.members.iter().find(|one| one.name == member.name);
    let known = matches!(observed.live, Live::Known(_));
    let mut new = MemberSummary {
        name: member.name.clone(),
        member_id: member
            .id
            .map(|id| id.0.into())
            .or_else(|| old.and_then(|old| old.member_id.clone())),
        role: role(member, known, old.map(|old| old.role)),
        health: object
            .map(|object| health(&object.asked))
            .unwrap_or_default(),
        version: object.and_then(|object| match &object.asked {
            planner::Asked::Answered(answer) => Some(answer.version.to_string()),
            _ => None,
        }),
        revision: member.revision.clone(),
        alarms: alarms(member, observed),
        since: old.and_then(|old| old.since.clone()),
    };
    let same = old.is_some_and(|old| old.role == new.role && old.health == new.health);
    if !same || new.since.is_none() {
        new.since = Some(time(observed.now_ms));
    }
    new
}

/// The last known role stays while the membership cannot be read.
fn role(member: &planner::MemberSummary, known: bool, old: Option<Role>) -> Role {
    match member.role {
        Some(planner::Role::Voter) if member.leads => Role::Leader,
        Some(planner::Role::Voter) => Role::Voter,
        Some(planner::Role::Learner) => Role::Learner,
        None if known => Role::None,
        None => old.unwrap_or_default(),
    }
}

fn alarms(member: &planner::MemberSummary, observed: &Observed) -> Vec<String> {
    let Live::Known(live) = &observed.live else {
        return Vec::new();
    };
    live.alarms
        .iter()
        .filter(|alarm| Some(alarm.member) == member.id)
        .map(|alarm| match alarm.kind {
            planner::AlarmKind::NoSpace => "NOSPACE".to_owned(),
            planner::AlarmKind::Corrupt => "CORRUPT".to_owned(),
        })
        .collect()
}

fn conditions(
    cluster: &QuorateCluster,
    observed: &Observed,
    plan: &Plan,
    status: &QuorateClusterStatus,
) -> Vec<Condition> {
    let now = time(observed.now_ms);
    let generation = cluster.metadata.generation;
    let mut all: Vec<Condition> = plan
        .summary
        .conditions
        .iter()
        .map(|one| Condition {
            type_: one.kind.name().to_owned(),
            status: match one.status {
                Truth::True => "True",
                Truth::False => "False",
                Truth::Unknown => "Unknown",
            }
            .to_owned(),
            reason: one.reason.to_owned(),
            message: bounded(one.message.clone()),
            observed_generation: generation,
            last_transition_time: now.clone(),
        })
        .collect();
    let mut add = |kind, holds: ConditionStatus, reason, message: &str| {
        all.push(crd::condition(
            kind, holds, reason, message, generation, &now,
        ));
    };
    let waits = |wanted: fn(&WaitingOn) -> bool| plan.waiting.iter().find(|one| wanted(one));

    let stranger = waits(|one| matches!(one, WaitingOn::UnknownMember { .. }));
    let changing = plan.summary.operation.as_ref().is_some_and(|operation| {
        !operation.kind.joining().is_empty() || operation.kind.leaving().is_some()
    });
    match (stranger, changing, &plan.summary.operation) {
        (Some(stranger), ..) => add(
            ConditionType::MembershipStable,
            ConditionStatus::False,
            Reason::UnknownMember,
            &stranger.to_string(),
        ),
        (None, true, Some(operation)) => add(
            ConditionType::MembershipStable,
            ConditionStatus::False,
            Reason::Joining,
            &operation.kind.to_string(),
        ),
        _ => add(
            ConditionType::MembershipStable,
            ConditionStatus::True,
            Reason::Stable,
            "no member is being added or removed",
        ),
    }

    let wanted = &observed.wanted.revision;
    let outdated = plan
        .summary
        .members
        .iter()
        .filter(|member| member.revision.as_ref().is_some_and(|has| has != wanted))
        .count();
    if outdated == 0 {
        add(
            ConditionType::VersionCurrent,
            ConditionStatus::True,
            Reason::Current,
            "every member runs what the spec asks for",
        );
    } else {
        add(
            ConditionType::VersionCurrent,
            ConditionStatus::False,
            Reason::Outdated,
            &format!("{outdated} members run another version or revision than the spec asks for"),
        );
    }

    let voters = status.quorum.as_ref().map_or(0, |quorum| quorum.voters);
    let (evictable, reason, message) = evictable(Evictions {
        budget: observed.budget,
        policy: cluster.spec.pod_disruption_budget.without_tolerance,
        voters: u32::try_from(voters).unwrap_or_default(),
        replicas: observed.wanted.replicas,
        tolerance: status.quorum.as_ref().map_or(0, |quorum| quorum.tolerance),
    });
    add(ConditionType::Evictable, evictable, reason, message);

    for (kind, reason, wanted) in [
        (
            ConditionType::DeletionBlocked,
            Reason::DeletionProtected,
            (|one| matches!(one, WaitingOn::DeletionProtected)) as fn(&WaitingOn) -> bool,
        ),
        (
            ConditionType::ClusterIDMismatch,
            Reason::ClusterIDMismatch,
            |one| matches!(one, WaitingOn::ClusterIdMismatch { .. }),
        ),
        (ConditionType::AlarmRaised, Reason::NoSpace, |one| {
            matches!(
                one,
                WaitingOn::AlarmRaised {
                    kind: planner::AlarmKind::NoSpace,
                    ..
                } | WaitingOn::QuotaExhausted { .. }
            )
        }),
        (ConditionType::AlarmRaised, Reason::Corrupt, |one| {
            matches!(
                one,
                WaitingOn::AlarmRaised {
                    kind: planner::AlarmKind::Corrupt,
                    ..
                }
            )
        }),
    ] {
        let found = waits(wanted);
        let message = found.map(ToString::to_string).unwrap_or_default();
        let twice = all
            .iter()
            .any(|one| one.type_ == kind.as_str() && one.status == "True");
        if !twice {
            all.retain(|one| one.type_ != kind.as_str());
            all.push(crd::condition(
                kind,
                ConditionStatus::from(found.is_some()),
                reason,
                message,
                generation,
                &now,
            ));
        }
    }
    all
}

/// What decides about an eviction.
struct Evictions {
    budget: Budget,
    policy: WithoutTolerance,
    voters: u32,
    replicas: u32,
    tolerance: i32,
}

/// Whether the disruption budget lets a voter be evicted now. The policy is asked with one or two voters only:
/// from three on an eviction waits until all are well again.
fn evictable(of: Evictions) -> (ConditionStatus, Reason, &'static str) {
    let few = of.voters.max(of.replicas) <= 2;
    match of.budget {
        Budget::Absent => (
            ConditionStatus::True,
            Reason::Disabled,
            "there is no PodDisruptionBudget",
        ),
        Budget::Unknown => (
            ConditionStatus::Unknown,
            Reason::NoTolerance,
            "the PodDisruptionBudget could not be read",
        ),
        Budget::Present(0) => (
            ConditionStatus::True,
            Reason::EvictionAllowed,
            "an eviction costs the quorum until the Pod runs again, and the policy lets it through",
        ),
        Budget::Present(_) if of.tolerance > 0 => (
            ConditionStatus::True,
            Reason::Tolerant,
            "one voter may be evicted at a time",
        ),
        Budget::Present(_) if few && of.policy == WithoutTolerance::Refuse => (
            ConditionStatus::False,
            Reason::NoTolerance,
            "no voter may be lost, so every eviction is refused; podDisruptionBudget.withoutTolerance: Allow lets them through",
        ),
        Budget::Present(_) => (
            ConditionStatus::False,
            Reason::NoTolerance,
            "no voter may be lost at this moment, so every eviction is refused until more of them are well",
        ),
    }
}

/// Whether two statuses say the same but for the numbers in sentences, which move all the time.
pub fn same_but_numbers(old: &QuorateClusterStatus, new: &QuorateClusterStatus) -> bool {
    fn words(message: &mut String) {
        // Spans are written with their units: "850ms", "12s", "9m30s".
        let mut after_digit = false;
        message.retain(|c| {
            let unit = after_digit && matches!(c, 'h' | 'm' | 's');
            after_digit = c.is_ascii_digit() || unit;
            !after_digit
        });
    }
    let without_numbers = |status: &QuorateClusterStatus| {
        let mut status = status.clone();
        for waiting in &mut status.waiting {
            words(&mut waiting.message);
        }
        if let Some(blocked) = &mut status.blocked {
            words(&mut blocked.message);
        }
        for condition in &mut status.conditions {
            words(&mut condition.message);
        }
        status
    };
    without_numbers(old) == without_numbers(new)
}

/// What is new, for Events.
pub fn news(
    old: &QuorateClusterStatus,
    new: &QuorateClusterStatus,
    plan: Option<&Plan>,
) -> Vec<News> {
    let known: BTreeSet<(&str, Option<&str>)> = old
        .waiting
        .iter()
        .map(|one| (one.reason.as_str(), one.member.as_deref()))
        .collect();
    let serious: BTreeSet<&str> = plan
        .iter()
        .flat_map(|plan| &plan.waiting)
        .filter(|one| one.is_stalled() || one.is_blocked())
        .map(WaitingOn::reason)
        .chain([REFUSED])
        .collect();
    let mut news: Vec<News> = new
        .waiting
        .iter()
        .filter(|one| !known.contains(&(one.reason.as_str(), one.member.as_deref())))
        .map(|one| News {
            kind: if serious.contains(one.reason.as_str()) {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: one.reason.clone(),
            note: one.message.clone(),
            action: "Wait".to_owned(),
        })
        .collect();
    if let Some(operation) = new
        .operation
        .as_ref()
        .filter(|_| new.operation != old.operation)
    {
        let what = plan
            .and_then(|plan| plan.summary.operation.as_ref())
            .map(|operation| operation.kind.to_string())
            .unwrap_or_default();
        news.push(News {
            kind: EventType::Normal,
            reason: format!("{:?}", operation.kind),
            note: format!("operation {}: {what}", operation.id),
            action: "Begin".to_owned(),
        });
    }
    let ready =
        |status: &QuorateClusterStatus| crd::is_true(&status.conditions, ConditionType::Ready);
    if ready(new) && !ready(old) {
        news.push(News {
            kind: EventType::Normal,
            reason: "Ready".to_owned(),
            note: new
                .conditions
                .iter()
                .find(|one| one.type_ == ConditionType::Ready.as_str())
                .map(|one| one.message.clone())
                .unwrap_or_default(),
            action: "Reconcile".to_owned(),
        });
    }
    news
}

/// The status of a member from now on.
pub fn member_status(
    seen: &Seen,
    member: &QuorateMember,
    observed: &Observed,
    plan: &Plan,
    memory: &Memory,
    template: &HostTemplate,
) -> QuorateMemberStatus {
    let name = member.name_any();
    let old = member.status.clone().unwrap_or_default();
    let mut new = old.clone();
    let known = matches!(observed.live, Live::Known(_));
    let object = observed.members.iter().find(|one| one.name == name);
    let summary = plan.summary.members.iter().find(|one| one.name == name);
    let joined = summary.and_then(|summary| summary.id);
    let times = memory.times.get(&name).copied().unwrap_or_default();
    new.observed_generation = member.metadata.generation;
    new.peer_url = Some(peer_url(template, &seen.cluster, member));
    if let Some(id) = joined {
        new.member_id = Some(id.0.into());
    }
    if let Some(summary) = summary {
        new.role = role(summary, known, member.status.as_ref().map(|old| old.role));
        new.revision.clone_from(&summary.revision);
        new.lag = summary.lag.map(coarse);
        new.waiting = summary.waiting.first().map(|one| {
            let same = old
                .waiting
                .as_ref()
                .filter(|old| old.reason == one.reason());
            Waiting {
                reason: one.reason().to_owned(),
                member: None,
                // The number in it moves; the one in the cluster's status is newer.
                message: same.map_or_else(|| bounded(one.to_string()), |old| old.message.clone()),
                since: same
                    .and_then(|old| old.since.clone())
                    .or_else(|| Some(time(observed.now_ms))),
            }
        });
    }
    if let Some(object) = object {
        new.health = health(&object.asked);
        if let planner::Asked::Answered(answer) = &object.asked {
            new.version = Some(answer.version.to_string());
        }
    }
    new.pod_uid = seen.pod(&name).and_then(|pod| pod.uid());
    if joined.is_some() && new.volume_uid.is_none() {
        // From now on its data is on this one and on no other.
        new.volume_uid = seen.claim(&name).and_then(|claim| claim.uid());
    }
    let kept = |old: &Option<crd::Time>, now: Option<u64>| match (old, now) {
        (Some(old), Some(now)) if ms(old) / 1000 == now / 1000 => Some(old.clone()),
        (_, now) => now.map(time),
    };
    new.good_since = kept(&old.good_since, times.good_ms);
    new.bad_since = kept(&old.bad_since, times.bad_ms);
    new.silent_since = kept(&old.silent_since, times.silent_ms);
    if old.role != new.role || old.health != new.health || new.since.is_none() {
        new.since = Some(time(observed.now_ms));
    }
    let (status, reason) = match new.health {
        crd::Health::Healthy => (ConditionStatus::True, Reason::Serving),
        crd::Health::Unhealthy => (ConditionStatus::False, Reason::Failed),
        crd::Health::Unknown => (ConditionStatus::Unknown, Reason::Unreachable),
    };
    let message = match new.health {
        crd::Health::Healthy => "it serves",
        crd::Health::Unhealthy => "it answers, and does not serve",
        crd::Health::Unknown => "it does not answer",
    };
    let ready = crd::condition(
        ConditionType::Ready,
        status,
        reason,
        message,
        member.metadata.generation,
        &time(observed.now_ms),
    );
    set_condition(&mut new.conditions, ready);
    new
}

/// Small lags are none, large ones their power of two: the number is not to change with every write of a client.
fn coarse(lag: u64) -> i64 {
    if lag < 1024 {
        0
    } else {
        1i64 << lag.ilog2().min(62)
    }
}

/// The gauges of a cluster.
pub fn gauges(status: &QuorateClusterStatus, plan: &Plan) -> ClusterGauges {
    let quorum = plan.summary.quorum.as_ref();
    ClusterGauges {
        voters: quorum.map_or(0, |quorum| quorum.voters),
        healthy_voters: quorum.map_or(0, |quorum| quorum.healthy),
        ready: crd::is_true(&status.conditions, ConditionType::Ready),
        blocked: plan
            .waiting
            .iter()
            .find(|one| one.is_blocked())
            .map(WaitingOn::reason),
        stalled: plan
            .waiting
            .iter()
            .find(|one| one.is_stalled())
            .map(WaitingOn::reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(message: &str) -> QuorateClusterStatus {
        QuorateClusterStatus {
            waiting: vec![Waiting {
                reason: "MemberCannotStart".to_owned(),
                message: message.to_owned(),
                ..Waiting::default()
            }],
            ..QuorateClusterStatus::default()
        }
    }

    #[test]
    fn numbers_that_move_are_no_news_and_other_words_are() {
        let old = said("a-1 has been healthy for 850ms, 9m30s are needed");
        assert!(same_but_numbers(
            &old,
            &said("a-1 has been healthy for 2s, 9m30s are needed")
        ));
        assert!(!same_but_numbers(
            &said("a-1 cannot start: its claim is not bound"),
            &said("a-1 cannot start: its image cannot be had")
        ));
    }

    #[test]
    fn a_refusal_is_a_warning_whatever_else_is_waited_for_and_each_stranger_is_news() {
        let stranger = |id| WaitingOn::UnknownMember {
            id: planner::MemberId(id),
            name: String::new(),
            peer_urls: Vec::new(),
        };
        let starting = WaitingOn::MemberStarting {
            member: "a-1".to_owned(),
            pending: None,
        };
        let plan = Plan {
            action: None,
            waiting: vec![stranger(1), stranger(2), starting],
            summary: planner::Summary {
                phase: planner::Phase::Working,
                quorum: None,
                members: Vec::new(),
                operation: None,
                conditions: Vec::new(),
            },
        };
        let refused = Refused {
            reason: REFUSED,
            message: "no".to_owned(),
        };
        let old = QuorateClusterStatus::default();
        let new = QuorateClusterStatus {
            waiting: waiting(Some(&plan), Some(&refused), &old, 0),
            ..QuorateClusterStatus::default()
        };
        let told: Vec<_> = news(&old, &new, Some(&plan))
            .into_iter()
            .map(|one| (one.reason, one.kind))
            .collect();
        let warning = |reason: &str| (reason.to_owned(), EventType::Warning);
        assert_eq!(
            told,
            [
                warning("UnknownMember"),
                warning("UnknownMember"),
                ("MemberStarting".to_owned(), EventType::Normal),
                warning("Refused"),
            ]
        );
        assert_eq!(news(&new, &new, Some(&plan)), []);
    }

    #[test]
    fn where_nothing_can_be_planned_the_status_says_why_and_keeps_what_was_known() {
        let mut cluster = QuorateCluster::new(
            "a",
            serde_json::from_value(serde_json::json!({
                "replicas": 3, "version": "0.1.0", "storage": {"size": "1Gi"},
            }))
            .expect("a spec"),
        );
        cluster.status = Some(QuorateClusterStatus {
            leader: Some("a-1".to_owned()),
            ..QuorateClusterStatus::default()
        });
        let refused = Refused::of(&"status.operation is not one of this operator's");
        let new = stopped(&cluster, &refused, 1_000);
        assert_eq!(new.leader.as_deref(), Some("a-1"));
        let blocked = new.blocked.as_ref().map(|blocked| &*blocked.message);
        assert_eq!(blocked, Some(&*refused.message));
        assert!(crd::is_true(&new.conditions, ConditionType::Stalled));
        let told = news(&cluster.status.clone().unwrap_or_default(), &new, None);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].kind, EventType::Warning);
        // An operation of a newer operator stays as that one wrote it.
        let written = stopped_patch(&new);
        let fields = written["status"].as_object().expect("an object");
        let fields: Vec<&str> = fields.keys().map(String::as_str).collect();
        assert_eq!(
            fields,
            ["blocked", "conditions", "observedGeneration", "waiting"]
        );
        // Said once.
        cluster.status = Some(new.clone());
        assert_eq!(stopped(&cluster, &refused, 60_000), new);
    }

    #[test]
    fn evictions_are_told_as_the_budget_lets_them() {
        let told = |budget, policy, voters, replicas, tolerance| {
            let (holds, _, message) = evictable(Evictions {
                budget,
                policy,
                voters,
                replicas,
                tolerance,
            });
            (holds, message.contains("withoutTolerance"))
        };
        let (allow, refuse) = (WithoutTolerance::Allow, WithoutTolerance::Refuse);
        let yes = (ConditionStatus::True, false);
        assert_eq!(told(Budget::Present(2), refuse, 3, 3, 1), yes);
        assert_eq!(told(Budget::Present(0), allow, 1, 1, 0), yes);
        assert_eq!(told(Budget::Absent, refuse, 3, 3, 0), yes);
        // One of three is down: no policy helps.
        let not_now = (ConditionStatus::False, false);
        assert_eq!(told(Budget::Present(2), allow, 3, 3, 0), not_now);
        assert_eq!(told(Budget::Present(2), refuse, 3, 3, 0), not_now);
        // On its way from one to three it holds already what three need.
        assert_eq!(told(Budget::Present(2), refuse, 1, 3, 0), not_now);
        // The policy helps, and is named.
        let named = (ConditionStatus::False, true);
        assert_eq!(told(Budget::Present(1), refuse, 1, 1, 0), named);
        assert_eq!(told(Budget::Present(2), refuse, 2, 2, 0), named);
        let unknown = (ConditionStatus::Unknown, false);
        assert_eq!(told(Budget::Unknown, allow, 1, 1, 0), unknown);
    }

    #[test]
    fn small_lags_are_none_and_large_ones_their_power_of_two() {
        assert_eq!(
            [0, 1023, 1024, 1500, 5000].map(coarse),
            [0, 0, 1024, 1024, 4096]
        );
    }
}
