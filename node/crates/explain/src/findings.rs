//! What looks wrong, and what to do about it.

use std::collections::BTreeSet;

use quorum::{Doubt, Life};

use crate::report::{Cluster, Member, Report};
use crate::seen::{Disk, Found, Stopped};

/// From so many entries a follower is called behind: from here the leader's door refuses writes when it is the
/// leader's own applier that lags (etcd's `maxGapBetweenApplyAndCommitIndex`).
const BEHIND_ENTRIES: u64 = 5_000;

/// A learner may be promoted from nine tenths of the leader's log (etcd's `readyPercentThreshold`).
const READY_TENTHS: u64 = 9;

/// Of its quota a database may take so much before it is worth a word.
const QUOTA_PERCENT: i64 = 80;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// The cluster does not serve, or must not go on like this.
    Critical,
    /// Something is broken, and the cluster serves.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// One thing that looks wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// Stable, for programs.
    pub(crate) code: &'static str,
    /// Whom it concerns, if it is one member.
    pub(crate) member: Option<u64>,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

fn finding(
    severity: Severity,
    code: &'static str,
    member: Option<u64>,
    what: String,
    remedy: impl Into<String>,
) -> Finding {
    Finding {
        severity,
        code,
        member,
        what,
        remedy: remedy.into(),
    }
}

/// Everything, the worst first, otherwise in the order found.
pub(crate) fn of(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    if report.clusters.len() > 1 {
        let clusters: Vec<String> = report
            .clusters
            .iter()
            .map(|cluster| {
                let endpoints = cluster.members.iter().filter_map(|m| m.endpoint.as_deref());
                let endpoints: Vec<&str> = endpoints.collect();
                format!("{:x} ({})", cluster.id, endpoints.join(", "))
            })
            .collect();
        findings.push(finding(
            Severity::Critical,
            "clusters_differ",
            None,
            format!("the endpoints belong to different clusters: {}", clusters.join(" and ")),
            "give clients the endpoints of one cluster only; a member that should be in the other one was started with another --initial-cluster or --initial-cluster-token",
        ));
    }
    for cluster in &report.clusters {
        of_cluster(cluster, &mut findings);
    }
    for (endpoint, error) in &report.strangers {
        findings.push(finding(
            Severity::Warning,
            "endpoint_unreachable",
            None,
            format!("endpoint {endpoint} does not answer ({error}), and no member names it"),
            "look whether a member should listen there, and whether a firewall or a wrong port is in between",
        ));
    }
    if report.clusters.is_empty() && !report.strangers.is_empty() {
        findings.push(finding(
            Severity::Critical,
            "nobody_answers",
            None,
            "no endpoint answers, so nothing is known of the cluster".to_owned(),
            "start the members, or look at the disk of one that is stopped with --data-dir",
        ));
    }
    for disk in &report.disks {
        of_disk(disk, report, &mut findings);
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn of_cluster(cluster: &Cluster, findings: &mut Vec<Finding>) {
    quorum_of(cluster, findings);
    for member in &cluster.members {
        of_member(cluster, member, findings);
    }
    agreement(cluster, findings);
    for alarm in &cluster.alarms {
        let name = cluster.name(alarm.member);
        let (what, remedy) = match alarm.kind.as_str() {
            "NOSPACE" => (
                format!("{name} has raised NOSPACE: its database has reached its quota or its disk is full, and nobody takes writes"),
                "make room (compact, then defragment each member, or raise --quota-backend-bytes), then `etcdctl alarm disarm`".to_owned(),
            ),
            "CORRUPT" => (
                format!("{name} has raised CORRUPT: its data differ from the others', and nobody takes writes"),
                format!("remove {name}, delete its data directory, add it as a new member, then `etcdctl alarm disarm`"),
            ),
            kind => (
                format!("{name} has raised the alarm {kind}"),
                "look at that member's log".to_owned(),
            ),
        };
        let code = match alarm.kind.as_str() {
            "NOSPACE" => "alarm_nospace",
            "CORRUPT" => "alarm_corrupt",
            _ => "alarm",
        };
        findings.push(finding(
            Severity::Critical,
            code,
            Some(alarm.member),
            what,
            remedy,
        ));
    }
}

fn quorum_of(cluster: &Cluster, findings: &mut Vec<Finding>) {
    let (voters, healthy, need) = (
        cluster.now.voters,
        cluster.now.healthy.len(),
        cluster.now.need(),
    );
    if healthy < need {
        let missing = need - healthy;
        findings.push(finding(
            Severity::Critical,
            "no_quorum",
            None,
            format!("there is no quorum: {healthy} of {voters} voters are healthy, {need} are needed; nothing can be written, and no membership step can be taken"),
            format!("start {missing} more of the members that do not answer; only if {} for good, make the disk with the longest log a cluster of one: `quorate util recover --data-dir DIR`", if missing == 1 { "its disk is lost".to_owned() } else { format!("{missing} disks are lost") }),
        ));
    } else if !cluster.decides {
        findings.push(finding(
            Severity::Critical,
            "no_leader",
            None,
            format!("nobody leads, though {healthy} of {voters} voters answer and {need} are enough"),
            "an election may be under way: look again in a few seconds; if it stays so, look whether the members reach each other's peer URLs",
        ));
    } else if cluster.may_be_lost == 0 && voters > 2 {
        findings.push(finding(
            Severity::Warning,
            "no_margin",
            None,
            format!(
                "no further voter may be lost: {healthy} of {voters} are healthy, {need} are needed"
            ),
            "bring back or replace those that are in doubt first, and restart nobody meanwhile",
        ));
    }
    if voters.is_multiple_of(2) && voters > 0 {
        findings.push(finding(
            Severity::Note,
            "even_voters",
            None,
            format!(
                "{voters} voters bear the loss of no more members than {} do",
                voters - 1
            ),
            "have an odd number of voters, unless you are on the way to one",
        ));
    }
}

fn of_member(cluster: &Cluster, member: &Member, findings: &mut Vec<Finding>) {
    let id = Some(member.listed.id);
    let name = cluster.name(member.listed.id);
    for (endpoint, error) in &member.failures {
        if member.answer.is_some() {
            findings.push(finding(
                Severity::Note,
                "endpoint_unreachable",
                id,
                format!("{name} answers, but not at {endpoint} ({error}), which it announces"),
                "look at its --advertise-client-urls",
            ));
        }
    }
    match (&member.answer, member.life) {
        (None, Life::InDoubt(Doubt::NotStarted)) => findings.push(finding(
            Severity::Warning,
            "member_not_started",
            id,
            format!("{name} was added ({}) and has never started", member.listed.peer_urls.join(", ")),
            format!("start it with --initial-cluster-state=existing and these peer URLs, or take it back: `etcdctl member remove {:x}`", member.listed.id),
        )),
        (None, _) => {
            let tried: Vec<String> = member
                .failures
                .iter()
                .map(|(endpoint, error)| format!("{endpoint}: {error}"))
                .collect();
            let tried = if tried.is_empty() { "it announces no client URL".to_owned() } else { tried.join("; ") };
            findings.push(finding(
                Severity::Warning,
                "member_unreachable",
                id,
                format!("{name} does not answer ({tried})"),
                "look whether its process runs and what its log ends with; if it runs, whether this machine reaches it",
            ));
        }
        (Some(_), Life::InDoubt(doubt)) => findings.push(finding(
            Severity::Warning,
            "member_cut_off",
            id,
            format!("{name} answers here, but as the leader sees it, it {doubt}"),
            "look whether it reaches the others' peer URLs and they its own, and at its log",
        )),
        (Some(_), Life::Healthy) => {}
    }
    let Some(answer) = &member.answer else { return };
    let behind = member.behind.unwrap_or(0);
    let furthest = answer.applied + behind;
    if member.listed.is_learner && answer.applied * 10 < furthest * READY_TENTHS {
        findings.push(finding(
            Severity::Warning,
            "learner_behind",
            id,
            format!("learner {name} is {behind} entries behind: it has {} of {furthest}", answer.applied),
            "wait; if the number does not fall, the leader's log says how it replicates to it, and its own whether its disk is full",
        ));
    } else if behind >= BEHIND_ENTRIES {
        findings.push(finding(
            Severity::Warning,
            "member_behind",
            id,
            format!("{name} is {behind} entries behind: it has {} of {furthest}", answer.applied),
            "look at its disk and its processor; while it is behind, its serializable reads are old and its loss hurts less than that of others",
        ));
    } else if member.listed.is_learner && member.life == Life::Healthy {
        findings.push(finding(
            Severity::Note,
            "learner_ready",
            id,
            format!("learner {name} is in step and has no vote"),
            format!(
                "`etcdctl member promote {:x}`, if it is to have one",
                member.listed.id
            ),
        ));
    }
    if answer.quota_bytes > 0
        && answer.database_bytes / 100 * 100 >= answer.quota_bytes / 100 * QUOTA_PERCENT
    {
        findings.push(finding(
            Severity::Warning,
            "space_low",
            id,
            format!(
                "{name} has used {} of the {} bytes of its quota",
                answer.database_bytes, answer.quota_bytes
            ),
            "compact, then defragment one member after the other, or raise --quota-backend-bytes; at the quota nobody takes writes",
        ));
    }
}

/// Whether those who answer say the same.
fn agreement(cluster: &Cluster, findings: &mut Vec<Finding>) {
    if let Some((who, _)) = cluster.lists.first()
        && cluster.lists.len() > 1
    {
        let names = |ids: &[u64]| {
            let names: Vec<String> = ids.iter().map(|id| cluster.name(*id)).collect();
            names.join(", ")
        };
        let others = cluster.lists[1..].iter();
        let others: Vec<String> = others.map(|(who, _)| names(who)).collect();
        findings.push(finding(
            Severity::Warning,
            "memberships_differ",
            None,
            format!(
                "not all see the same membership: it is another one for {} than for {}",
                others.join(" and for "),
                names(who)
            ),
            "a member that has not applied the last change yet catches up by itself; look again, and if it stays so, treat it as a member that is cut off",
        ));
    }
    let leaders: BTreeSet<u64> = cluster
        .answers()
        .map(|(_, answer)| answer.leader)
        .filter(|leader| *leader != 0)
        .collect();
    if leaders.len() > 1 {
        let seen: Vec<String> = cluster
            .answers()
            .filter(|(_, answer)| answer.leader != 0)
            .map(|(member, answer)| {
                format!(
                    "{} sees {} in term {}",
                    cluster.name(member.listed.id),
                    cluster.name(answer.leader),
                    answer.term
                )
            })
            .collect();
        findings.push(finding(
            Severity::Warning,
            "leaders_differ",
            None,
            format!("not all see the same leader: {}", seen.join(", ")),
            "the highest term counts; who stays behind does not hear the leader: look at its connections",
        ));
    }
    let listed: BTreeSet<u64> = cluster.members.iter().map(|m| m.listed.id).collect();
    for (who, _) in &cluster.lists {
        for stranger in who.iter().filter(|id| !listed.contains(id)) {
            findings.push(finding(
                Severity::Warning,
                "member_not_listed",
                Some(*stranger),
                format!("{stranger:x} answers as a member of this cluster, and the others do not list it: it was removed"),
                "stop it, and delete its data directory; its ID can never come back",
            ));
        }
    }
    let minors: BTreeSet<String> = cluster
        .answers()
        .map(|(_, answer)| minor(&answer.version))
        .collect();
    if minors.len() > 1 {
        let minors: Vec<&str> = minors.iter().map(String::as_str).collect();
        findings.push(finding(
            Severity::Note,
            "versions_differ",
            None,
            format!(
                "the members speak different versions of etcd: {}",
                minors.join(", ")
            ),
            "an upgrade or a downgrade is under way: finish it",
        ));
    }
}

/// `3.7` of `3.7.3`.
fn minor(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

fn of_disk(disk: &Disk, report: &Report, findings: &mut Vec<Finding>) {
    let path = &disk.path;
    let stopped = match &disk.found {
        Found::Stopped(stopped) => stopped,
        Found::Held { member, cluster } => {
            findings.push(finding(
                Severity::Note,
                "disk_in_use",
                Some(*member),
                format!("a process runs on {path}: it is member {member:x} of cluster {cluster:x}"),
                "ask it by its endpoint; only a stopped member's disk is read",
            ));
            return;
        }
        Found::Failed(error) => {
            findings.push(finding(
                Severity::Critical,
                "disk_unreadable",
                None,
                format!("{path} cannot be read: {error}"),
                "if it is a member's directory, and the others have a quorum: remove that member, delete the directory, add it as a new member",
            ));
            return;
        }
    };
    let id = Some(stopped.member);
    let removed_there = report
        .clusters
        .iter()
        .filter(|cluster| cluster.id == stopped.cluster)
        .any(|cluster| {
            !cluster
                .members
                .iter()
                .any(|m| m.listed.id == stopped.member)
        });
    if stopped.removed.contains(&stopped.member) || removed_there {
        findings.push(finding(
            Severity::Critical,
            "disk_of_removed_member",
            id,
            format!("{path} is the disk of member {:x}, which was removed from cluster {:x}: it can never start again", stopped.member, stopped.cluster),
            "delete the directory, add a new member (`etcdctl member add`), and start it with --initial-cluster-state=existing",
        ));
    } else if !report.clusters.is_empty()
        && !report
            .clusters
            .iter()
            .any(|cluster| cluster.id == stopped.cluster)
    {
        findings.push(finding(
            Severity::Critical,
            "disk_of_another_cluster",
            id,
            format!(
                "{path} belongs to cluster {:x}, and no endpoint that answers does",
                stopped.cluster
            ),
            "do not start it among those members; look where this directory comes from",
        ));
    } else {
        uncommitted(path, stopped, findings);
    }
    for alarm in &stopped.alarms {
        findings.push(finding(
            Severity::Warning,
            "disk_has_alarm",
            Some(alarm.member),
            format!(
                "by {path}, member {:x} has raised {}",
                alarm.member, alarm.kind
            ),
            "it holds until it is disarmed: remove its cause, then `etcdctl alarm disarm`",
        ));
    }
}

fn uncommitted(path: &str, stopped: &Stopped, findings: &mut Vec<Finding>) {
    let tail = stopped.last_index.saturating_sub(stopped.committed);
    if tail > 0 {
        findings.push(finding(
            Severity::Note,
            "disk_has_uncommitted_entries",
            Some(stopped.member),
            format!("entries at the end of the log in {path} that are not known there to be committed: {tail}"),
            "nothing: with a quorum the next leader decides; without one, `quorate util recover` keeps them",
        ));
    }
}
