//! The report for people.

use std::fmt::Write as _;

use quorum::{Answer as Says, Life, Step, Verdict};

use crate::report::{Cluster, Member, Report};
use crate::seen::{Disk, Found, Listed, Program};

pub(crate) fn render(report: &Report) -> String {
    let mut text = String::new();
    for cluster in &report.clusters {
        of_cluster(cluster, &mut text);
        text.push('\n');
    }
    for disk in &report.disks {
        of_disk(disk, &mut text);
        text.push('\n');
    }
    if report.findings.is_empty() {
        text.push_str("nothing looks wrong\n");
        return text;
    }
    text.push_str("what looks wrong, and what to do\n");
    for (number, finding) in (1..).zip(&report.findings) {
        let _ = writeln!(
            text,
            "  {number}. {}: {}",
            finding.severity.word(),
            finding.what
        );
        let _ = writeln!(text, "     do: {}", finding.remedy);
    }
    text
}

fn of_cluster(cluster: &Cluster, text: &mut String) {
    let _ = writeln!(text, "cluster {:x}", cluster.id);
    let _ = writeln!(text, "  quorum  {}", quorum(cluster));
    let leader = match cluster.leader {
        Some(leader) if cluster.decides => {
            format!("{} in term {}", cluster.name(leader), cluster.term)
        }
        Some(leader) => format!(
            "none; {} was, in term {}",
            cluster.name(leader),
            cluster.term
        ),
        None => format!("none, in term {}", cluster.term),
    };
    let _ = writeln!(text, "  leader  {leader}");
    let alarms: Vec<String> = cluster
        .alarms
        .iter()
        .map(|alarm| format!("{} of {}", alarm.kind, cluster.name(alarm.member)))
        .collect();
    let alarms = if alarms.is_empty() {
        "none".to_owned()
    } else {
        alarms.join(", ")
    };
    let _ = writeln!(text, "  alarms  {alarms}\n");

    table(cluster, text);
    memberships(cluster, text);
    steps(cluster, text);
}

fn quorum(cluster: &Cluster) -> String {
    let now = &cluster.now;
    let may = match (now.healthy.len() < now.need(), cluster.may_be_lost) {
        (true, _) => "the quorum is lost".to_owned(),
        (false, 0) => "none may be lost".to_owned(),
        (false, 1) => "1 may still be lost".to_owned(),
        (false, many) => format!("{many} may still be lost"),
    };
    format!(
        "{} {}, {} healthy, {} needed: {may}",
        now.voters,
        if now.voters == 1 { "voter" } else { "voters" },
        now.healthy.len(),
        now.need()
    )
}

fn table(cluster: &Cluster, text: &mut String) {
    let mut rows = vec![
        [
            "member", "name", "role", "health", "endpoint", "program", "leader", "term", "applied",
            "behind", "database",
        ]
        .map(str::to_owned),
    ];
    for member in &cluster.members {
        rows.push(row(member));
    }
    columns(&rows, text);
    text.push('\n');
}

fn row(member: &Member) -> [String; 11] {
    let unknown = || "-".to_owned();
    let answer = member.answer.as_ref();
    let of = |value: Option<String>| value.unwrap_or_else(unknown);
    [
        format!("{:x}", member.listed.id),
        if member.listed.name.is_empty() {
            unknown()
        } else {
            member.listed.name.clone()
        },
        role(&member.listed).to_owned(),
        match member.life {
            Life::Healthy => "healthy".to_owned(),
            Life::InDoubt(doubt) => doubt.to_string(),
        },
        of(member.endpoint.clone().or_else(|| {
            member
                .failures
                .first()
                .map(|(endpoint, _)| endpoint.clone())
        })),
        of(answer.map(|answer| match answer.program {
            Program::Quorate => format!("quorate, as {}", answer.version),
            Program::Etcd => format!("etcd {}", answer.version),
            Program::Unknown => answer.version.clone(),
        })),
        of(answer.map(|answer| match answer.leader {
            0 => "none".to_owned(),
            leader => format!("{leader:x}"),
        })),
        of(answer.map(|answer| answer.term.to_string())),
        of(answer.map(|answer| answer.applied.to_string())),
        of(member.behind.map(|behind| behind.to_string())),
        of(answer.map(|answer| bytes(u64::try_from(answer.database_bytes).unwrap_or(0)))),
    ]
}

/// Columns two spaces apart, as wide as they must be.
fn columns<const N: usize>(rows: &[[String; N]], text: &mut String) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    for row in rows {
        let mut line = String::from("  ");
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn memberships(cluster: &Cluster, text: &mut String) {
    if let [(who, _)] = &cluster.lists[..] {
        let who = if who.len() == 1 {
            "the one member that answers".to_owned()
        } else {
            format!("all {} members that answer", who.len())
        };
        let _ = writeln!(text, "  membership  as above, by {who}\n");
        return;
    }
    for (who, list) in &cluster.lists {
        let who: Vec<String> = who.iter().map(|id| cluster.name(*id)).collect();
        let _ = writeln!(text, "  membership by {}", who.join(", "));
        for member in list {
            let _ = writeln!(text, "    {}", listed(member));
        }
    }
    text.push('\n');
}

fn steps(cluster: &Cluster, text: &mut String) {
    let condition = match (cluster.decides, cluster.leader_program) {
        (false, _) => "; but nobody leads, so none can be taken now",
        (true, Program::Etcd) => {
            "; the leader is an etcd, which asks less: send the call to a member of ours"
        }
        (true, _) => "",
    };
    let _ = writeln!(
        text,
        "  steps, as the strict check would judge them{condition}"
    );
    for verdict in &cluster.verdicts {
        let _ = writeln!(text, "    {}", step(cluster, verdict));
    }
}

/// One line: the step, the answer and why, what it leaves.
fn step(cluster: &Cluster, verdict: &Verdict) -> String {
    let target = match verdict.step {
        Step::AddVoter | Step::AddLearner => None,
        Step::Promote(id)
        | Step::Remove(id)
        | Step::UpdateUrls(id)
        | Step::Restart(id)
        | Step::MoveLeader(id) => Some(id),
    };
    let name = target
        .and_then(|id| cluster.members.iter().find(|m| m.listed.id == id.0))
        .map(|member| member.listed.name.as_str())
        .filter(|name| !name.is_empty())
        .map_or_else(String::new, |name| format!(" {name}"));
    let mut line = format!("{}{name}: ", verdict.step);
    let _ = match &verdict.answer {
        Says::Allow => write!(line, "allowed"),
        Says::Warn(warning) => write!(line, "allowed, but {warning}"),
        Says::Refuse(reason) => write!(line, "refused, {reason}"),
    };
    if verdict.allowed() && verdict.after != verdict.before {
        let _ = write!(line, "; then {}", verdict.after);
    }
    if let Some(advice) = &verdict.advice {
        let _ = write!(line, "; {advice}");
    }
    line
}

fn of_disk(disk: &Disk, text: &mut String) {
    let _ = writeln!(text, "disk {}", disk.path);
    let stopped = match &disk.found {
        Found::Stopped(stopped) => stopped,
        Found::Held { member, cluster } => {
            let _ = writeln!(
                text,
                "  in use: member {member:x} of cluster {cluster:x} runs on it"
            );
            return;
        }
        Found::Failed(error) => {
            let _ = writeln!(text, "  cannot be read: {error}");
            return;
        }
    };
    let own = stopped.members.iter().find(|m| m.id == stopped.member);
    let name = own
        .map(|member| member.name.as_str())
        .filter(|n| !n.is_empty());
    let name = name.map_or_else(String::new, |name| format!(" {name}"));
    let standing = match own {
        Some(member) => role(member),
        None if stopped.removed.contains(&stopped.member) => "removed",
        None => "not in its own list",
    };
    let _ = writeln!(
        text,
        "  member  {:x}{name}, {standing}, of cluster {:x}; it does not run",
        stopped.member, stopped.cluster
    );
    let _ = writeln!(
        text,
        "  log     ends at index {} of term {}; {} is committed as far as it knows; it is in term {}",
        stopped.last_index, stopped.last_term, stopped.committed, stopped.term
    );
    let version = if stopped.cluster_version.is_empty() {
        String::new()
    } else {
        format!(", cluster version {}", stopped.cluster_version)
    };
    let _ = writeln!(
        text,
        "  data    revision {} at index {}, {}{version}",
        stopped.revision,
        stopped.applied,
        bytes(stopped.database_bytes)
    );
    let voters = stopped.members.iter().filter(|m| !m.is_learner).count();
    let _ = writeln!(
        text,
        "  quorum  {voters} voters as of then, {} needed",
        quorum::need(voters)
    );
    for member in &stopped.members {
        let _ = writeln!(text, "    {}", listed(member));
    }
    for id in &stopped.removed {
        let _ = writeln!(text, "    {id:x} removed");
    }
}

fn listed(member: &Listed) -> String {
    let name = if member.name.is_empty() {
        "(not started)"
    } else {
        &member.name
    };
    format!(
        "{:x} {} {name} {}",
        member.id,
        role(member),
        member.peer_urls.join(",")
    )
}

fn role(member: &Listed) -> &'static str {
    if member.is_learner {
        "learner"
    } else {
        "voter"
    }
}

/// Bytes for a person.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
