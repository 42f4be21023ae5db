//! `kubectl quorate status`: one look at what the operator says, where the members cannot be reached too.

use std::fmt::Write as _;

use anyhow::Result;
use crd::{
    ConditionType, MemberSummary, Operation, QuorateClusterStatus, QuorateMemberStatus, Waiting,
};
use k8s_openapi::jiff::Timestamp;
use local::flags::Given;
use serde_json::{Value, json};

use crate::kubectl::{Cluster, Kubectl, Member};
use crate::say;
use crate::words::{age, columns, health, or_dash, quorum, role};

/// Raised when a name goes or changes its meaning.
const VERSION: u32 = 1;

/// `kubectl quorate status [NAME]`
pub fn command(given: &Given) -> Result<()> {
    let kubectl = Kubectl::of(given);
    let everywhere = given.is_on("all-namespaces");
    let clusters = match given.words.first() {
        Some(name) => {
            anyhow::ensure!(
                !everywhere,
                "a NAME is that of one namespace; leave --all-namespaces out"
            );
            vec![kubectl.cluster(name)?]
        }
        None => kubectl.clusters(everywhere)?,
    };
    let members = kubectl.members(everywhere)?;
    if given.text("output") == "json" {
        let all: Vec<Value> = clusters
            .iter()
            .map(|cluster| for_programs(cluster, &cluster.own(&members)))
            .collect();
        return say(&format!(
            "{:#}\n",
            json!({"version": VERSION, "clusters": all})
        ));
    }
    if clusters.is_empty() {
        eprintln!("No QuorateCluster found.");
        return Ok(());
    }
    let now = Timestamp::now();
    let all: Vec<String> = clusters
        .iter()
        .map(|cluster| for_people(cluster, &cluster.own(&members), now))
        .collect();
    say(&all.join("\n"))
}

/// One member, as the cluster's status and its own object tell it.
struct Row<'a> {
    name: &'a str,
    summary: Option<&'a MemberSummary>,
    own: Option<&'a QuorateMemberStatus>,
    leaves: bool,
}

fn rows<'a>(cluster: &'a Cluster, members: &'a [Member]) -> Vec<Row<'a>> {
    let summaries = cluster.status.iter().flat_map(|status| &status.members);
    let mut rows: Vec<Row> = summaries
        .map(|summary| Row {
            name: &summary.name,
            summary: Some(summary),
            own: None,
            leaves: false,
        })
        .collect();
    for member in members {
        let name = member.metadata.name.as_str();
        if rows.iter().all(|row| row.name != name) {
            rows.push(Row {
                name,
                summary: None,
                own: None,
                leaves: false,
            });
        }
        for row in rows.iter_mut().filter(|row| row.name == name) {
            row.own = member.status.as_ref();
            row.leaves = member.metadata.deletion_timestamp.is_some();
        }
    }
    rows
}

impl Row<'_> {
    fn role(&self) -> crd::Role {
        let summary = self.summary.map(|summary| summary.role);
        summary.or(self.own.map(|own| own.role)).unwrap_or_default()
    }

    fn health(&self) -> crd::Health {
        let summary = self.summary.map(|summary| summary.health);
        summary
            .or(self.own.map(|own| own.health))
            .unwrap_or_default()
    }

    fn id(&self) -> Option<String> {
        let summary = self.summary.and_then(|summary| summary.member_id.as_ref());
        let id = summary.or(self.own.and_then(|own| own.member_id.as_ref()));
        id.map(ToString::to_string)
    }

    fn version(&self) -> Option<String> {
        let summary = self.summary.and_then(|summary| summary.version.clone());
        summary.or(self.own.and_then(|own| own.version.clone()))
    }

    fn since(&self) -> Option<&crd::Time> {
        let summary = self.summary.and_then(|summary| summary.since.as_ref());
        summary.or(self.own.and_then(|own| own.since.as_ref()))
    }

    fn waiting(&self) -> Option<&Waiting> {
        self.own.and_then(|own| own.waiting.as_ref())
    }

    fn alarms(&self) -> &[String] {
        self.summary.map_or(&[], |summary| &summary.alarms)
    }
}

/// What a person reads.
pub fn for_people(cluster: &Cluster, members: &[Member], now: Timestamp) -> String {
    let nothing = QuorateClusterStatus::default();
    let status = cluster.status.as_ref().unwrap_or(&nothing);
    let rows = rows(cluster, members);
    let mut text = format!(
        "{}, namespace {}: {}\n",
        cluster.metadata.name,
        cluster.metadata.namespace,
        headline(cluster)
    );
    let mut line = |word: &str, value: &str| {
        let _ = writeln!(text, "  {word:<10} {value}");
    };
    line("cluster", &identity(status));
    line("wanted", &wanted(cluster, status));
    line("quorum", &quorum_line(cluster, status));
    line("leader", status.leader.as_deref().unwrap_or("none"));
    line(
        "operation",
        &status
            .operation
            .as_ref()
            .map_or_else(|| "none".to_owned(), |one| operation(one, now)),
    );
    line("alarms", &alarms(&rows));
    if let Some(order) = cluster.order() {
        line("order", &format!("recover from {order}"));
    }
    if let Some(said) = stale(cluster) {
        line("note", &said);
    }
    text.push('\n');
    text.push_str(&table(&rows, now));
    text.push('\n');
    text.push_str(&reasons(status, &rows, now));
    text
}

fn headline(cluster: &Cluster) -> String {
    let mut words = Vec::new();
    match cluster.condition(ConditionType::Ready) {
        Some(ready) if ready.status == "True" => words.push("ready".to_owned()),
        Some(ready) => words.push(format!("not ready, {}", ready.reason)),
        None => words.push("no operator has looked at it yet".to_owned()),
    }
    if cluster.spec.paused {
        words.push("paused".to_owned());
    }
    if cluster.metadata.deletion_timestamp.is_some() {
        words.push("to be deleted".to_owned());
    }
    words.join(", ")
}

fn identity(status: &QuorateClusterStatus) -> String {
    let Some(id) = &status.cluster_id else {
        return "it has not begun".to_owned();
    };
    match &status.version {
        Some(version) => format!("{id}, runs version {version}"),
        None => id.to_string(),
    }
}

fn wanted(cluster: &Cluster, status: &QuorateClusterStatus) -> String {
    let size = |replicas: i32, version: &str| match replicas {
        0 => format!("none, hibernated, version {version}"),
        1 => format!("1 voter, version {version}"),
        many => format!("{many} voters, version {version}"),
    };
    let wanted = size(cluster.spec.replicas, &cluster.spec.version);
    match &status.target {
        Some(target)
            if (target.replicas, &target.version)
                != (cluster.spec.replicas, &cluster.spec.version) =>
        {
            format!("{wanted}; first {}", size(target.replicas, &target.version))
        }
        _ => wanted,
    }
}

fn quorum_line(cluster: &Cluster, status: &QuorateClusterStatus) -> String {
    if let Some(numbers) = &status.quorum {
        return quorum(numbers);
    }
    match cluster.condition(ConditionType::Available) {
        Some(available) => format!("{}: {}", available.reason, available.message),
        None => "not known".to_owned(),
    }
}

fn operation(operation: &Operation, now: Timestamp) -> String {
    let mut text = format!("{}, {:?}", operation.id, operation.kind);
    let members = operation.member.iter().chain(&operation.joining);
    let members: Vec<&str> = members.map(String::as_str).collect();
    if !members.is_empty() {
        let _ = write!(text, " {}", members.join(", "));
    }
    if let Some(reason) = &operation.reason {
        let _ = write!(text, " ({reason})");
    }
    if let Some(started) = &operation.started_at {
        let _ = write!(text, ", for {}", age(started, now));
    }
    text
}

fn alarms(rows: &[Row]) -> String {
    let raised: Vec<String> = rows
        .iter()
        .flat_map(|row| {
            let of = |alarm| format!("{alarm} of {}", row.name);
            row.alarms().iter().map(of)
        })
        .collect();
    if raised.is_empty() {
        "none".to_owned()
    } else {
        raised.join(", ")
    }
}

/// What is to be known before one believes the rest.
fn stale(cluster: &Cluster) -> Option<String> {
    let answered = cluster.status.as_ref()?.observed_generation?;
    (answered < cluster.metadata.generation).then(|| {
        format!(
            "this answers generation {answered} of the spec, which is at {}; where that lasts, look whether the operator runs",
            cluster.metadata.generation
        )
    })
}

fn table(rows: &[Row], now: Timestamp) -> String {
    if rows.is_empty() {
        return "  there are no members\n".to_owned();
    }
    let mut cells = vec![
        [
            "MEMBER",
            "ID",
            "ROLE",
            "HEALTH",
            "SINCE",
            "LAG",
            "VERSION",
            "WAITS FOR",
        ]
        .map(str::to_owned),
    ];
    for row in rows {
        let waits = match (row.leaves, row.waiting()) {
            (true, Some(waiting)) => Some(format!("Deleted, {}", waiting.reason)),
            (true, None) => Some("Deleted".to_owned()),
            (false, waiting) => waiting.map(|waiting| waiting.reason.clone()),
        };
        cells.push([
            row.name.to_owned(),
            or_dash(row.id()),
            role(row.role()).to_owned(),
            health(row.health()).to_owned(),
            or_dash(row.since().map(|since| age(since, now))),
            or_dash(row.own.and_then(|own| own.lag).map(|lag| lag.to_string())),
            or_dash(row.version()),
            or_dash(waits),
        ]);
    }
    columns(&cells, "  ")
}

/// The refusal that a person has to act on, and all that is waited for.
fn reasons(status: &QuorateClusterStatus, rows: &[Row], now: Timestamp) -> String {
    let mut text = String::new();
    let mut told = Vec::new();
    if let Some(blocked) = &status.blocked {
        let _ = writeln!(
            text,
            "  refused\n    {}{}: {}",
            blocked.reason,
            about(None, blocked.since.as_ref(), now),
            blocked.message
        );
        told.push(blocked.message.as_str());
    }
    let of_members = rows.iter().filter_map(Row::waiting);
    let mut lines = String::new();
    for waiting in status.waiting.iter().chain(of_members) {
        if told.contains(&waiting.message.as_str()) {
            continue;
        }
        told.push(&waiting.message);
        let _ = writeln!(
            lines,
            "    {}{}: {}",
            waiting.reason,
            about(waiting.member.as_deref(), waiting.since.as_ref(), now),
            waiting.message
        );
    }
    if !lines.is_empty() {
        let _ = write!(text, "  waits for, or notes\n{lines}");
    }
    if text.is_empty() {
        "  nothing is refused, nothing is waited for\n".to_owned()
    } else {
        text
    }
}

fn about(member: Option<&str>, since: Option<&crd::Time>, now: Timestamp) -> String {
    let since = since.map(|since| format!("for {}", age(since, now)));
    let words: Vec<String> = member.map(str::to_owned).into_iter().chain(since).collect();
    if words.is_empty() {
        String::new()
    } else {
        format!(" ({})", words.join(", "))
    }
}

/// What a program reads; docs/operations.md describes it.
pub fn for_programs(cluster: &Cluster, members: &[Member]) -> Value {
    let nothing = QuorateClusterStatus::default();
    let status = cluster.status.as_ref().unwrap_or(&nothing);
    let rows = rows(cluster, members);
    let ready = cluster.condition(ConditionType::Ready);
    json!({
        "name": cluster.metadata.name,
        "namespace": cluster.metadata.namespace,
        "generation": cluster.metadata.generation,
        "observedGeneration": status.observed_generation,
        "ready": ready.is_some_and(|ready| ready.status == "True"),
        "reason": ready.map(|ready| &ready.reason),
        "message": ready.map(|ready| &ready.message),
        "paused": cluster.spec.paused,
        "deleting": cluster.metadata.deletion_timestamp.is_some(),
        "clusterID": status.cluster_id,
        "version": status.version,
        "leader": status.leader,
        "quorum": status.quorum,
        "operation": status.operation,
        "recoverFrom": cluster.order(),
        "blocked": status.blocked,
        "waiting": status.waiting,
        "members": rows.iter().map(|row| json!({
            "name": row.name,
            "memberID": row.id(),
            "role": row.role(),
            "health": row.health(),
            "since": row.since(),
            "lag": row.own.and_then(|own| own.lag),
            "version": row.version(),
            "alarms": row.alarms(),
            "deleting": row.leaves,
            "waiting": row.waiting(),
        })).collect::<Vec<_>>(),
        "conditions": status.conditions,
    })
}
