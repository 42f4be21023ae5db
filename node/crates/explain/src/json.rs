//! The report for programs. `docs/explain.md` describes it; names and meanings stay, names may be added.

use quorum::{Answer as Says, Arithmetic, Life, Step, Verdict};
use serde_json::{Value, json};

use crate::findings::Finding;
use crate::report::{Cluster, Member, Report};
use crate::seen::{Alarm, Disk, Found, Listed, Program};

/// Raised when a name goes or changes its meaning.
const VERSION: u32 = 1;

pub(crate) fn render(report: &Report) -> String {
    let value = json!({
        "version": VERSION,
        "clusters": list(&report.clusters, of_cluster),
        "disks": list(&report.disks, of_disk),
        "unreachable": list(&report.strangers, |(endpoint, error)| json!({
            "endpoint": endpoint,
            "error": error,
        })),
        "findings": list(&report.findings, of_finding),
    });
    format!("{value:#}\n")
}

fn list<'a, T: 'a>(items: impl IntoIterator<Item = &'a T>, one: impl Fn(&T) -> Value) -> Value {
    items.into_iter().map(one).collect()
}

fn id(id: u64) -> Value {
    format!("{id:x}").into()
}

fn of_cluster(cluster: &Cluster) -> Value {
    json!({
        "cluster_id": id(cluster.id),
        "leader": cluster.leader.map(id),
        "term": cluster.term,
        "decides": cluster.decides,
        "now": of_arithmetic(&cluster.now),
        "may_be_lost": cluster.may_be_lost,
        "alarms": list(&cluster.alarms, of_alarm),
        "members": list(&cluster.members, of_member),
        "memberships": list(&cluster.lists, |(who, members)| json!({
            "seen_by": list(who, |who| id(*who)),
            "members": list(members, of_listed),
        })),
        "steps": list(&cluster.verdicts, of_verdict),
    })
}

fn of_arithmetic(arithmetic: &Arithmetic) -> Value {
    json!({
        "voters": arithmetic.voters,
        "healthy": list(&arithmetic.healthy, |healthy| id(healthy.0)),
        "need": arithmetic.need(),
    })
}

fn of_alarm(alarm: &Alarm) -> Value {
    json!({ "member": id(alarm.member), "alarm": alarm.kind })
}

fn of_member(member: &Member) -> Value {
    let mut value = of_listed(&member.listed);
    value["healthy"] = (member.life == Life::Healthy).into();
    value["doubt"] = match member.life {
        Life::Healthy => Value::Null,
        Life::InDoubt(doubt) => doubt.to_string().into(),
    };
    value["behind"] = member.behind.into();
    value["endpoint"] = member.endpoint.clone().into();
    value["unreachable"] = list(
        &member.failures,
        |(endpoint, error)| json!({ "endpoint": endpoint, "error": error }),
    );
    value["answer"] = member.answer.as_ref().map_or(Value::Null, |answer| {
        json!({
            "program": match answer.program {
                Program::Quorate => Value::from("quorate"),
                Program::Etcd => Value::from("etcd"),
                Program::Unknown => Value::Null,
            },
            "version": answer.version,
            "leader": (answer.leader != 0).then(|| id(answer.leader)),
            "term": answer.term,
            "committed": answer.committed,
            "applied": answer.applied,
            "revision": answer.revision,
            "learner": answer.is_learner,
            "database_bytes": answer.database_bytes,
            "database_used_bytes": answer.database_used_bytes,
            "quota_bytes": answer.quota_bytes,
        })
    });
    value
}

fn of_listed(member: &Listed) -> Value {
    json!({
        "id": id(member.id),
        "name": member.name,
        "role": if member.is_learner { "learner" } else { "voter" },
        "peer_urls": member.peer_urls,
        "client_urls": member.client_urls,
    })
}

fn of_verdict(verdict: &Verdict) -> Value {
    let (step, member) = match verdict.step {
        Step::AddVoter => ("add_voter", None),
        Step::AddLearner => ("add_learner", None),
        Step::Promote(id) => ("promote", Some(id)),
        Step::Remove(id) => ("remove", Some(id)),
        Step::UpdateUrls(id) => ("update_urls", Some(id)),
        Step::Restart(id) => ("restart", Some(id)),
        Step::MoveLeader(id) => ("move_leader", Some(id)),
    };
    let (answer, reason) = match &verdict.answer {
        Says::Allow => ("allow", None),
        Says::Warn(warning) => ("warn", Some(warning.to_string())),
        Says::Refuse(reason) => ("refuse", Some(reason.to_string())),
    };
    json!({
        "step": step,
        "member": member.map(|member| id(member.0)),
        "answer": answer,
        "reason": reason,
        "advice": verdict.advice.as_ref().map(ToString::to_string),
        "then": of_arithmetic(&verdict.after),
        "text": verdict.to_string(),
    })
}

fn of_disk(disk: &Disk) -> Value {
    match &disk.found {
        Found::Stopped(stopped) => json!({
            "path": disk.path,
            "state": "stopped",
            "member": id(stopped.member),
            "cluster_id": id(stopped.cluster),
            "removed": stopped.removed.contains(&stopped.member),
            "term": stopped.term,
            "last_index": stopped.last_index,
            "last_term": stopped.last_term,
            "committed": stopped.committed,
            "applied": stopped.applied,
            "revision": stopped.revision,
            "database_bytes": stopped.database_bytes,
            "cluster_version": stopped.cluster_version,
            "alarms": list(&stopped.alarms, of_alarm),
            "members": list(&stopped.members, of_listed),
            "removed_members": list(&stopped.removed, |removed| id(*removed)),
        }),
        Found::Held { member, cluster } => json!({
            "path": disk.path,
            "state": "in_use",
            "member": id(*member),
            "cluster_id": id(*cluster),
        }),
        Found::Failed(error) => json!({
            "path": disk.path,
            "state": "unreadable",
            "error": error,
        }),
    }
}

fn of_finding(finding: &Finding) -> Value {
    json!({
        "severity": finding.severity.word(),
        "code": finding.code,
        "member": finding.member.map(id),
        "what": finding.what,
        "do": finding.remedy,
    })
}
