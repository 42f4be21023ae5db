//! Asking the members themselves: `quorate explain`, here or in a member's Pod.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use crd::{Health, Role};
use local::flags::Given;
use serde::Deserialize;

use crate::kubectl::{Cluster, Kubectl, Member};
use crate::say;

/// How long one member is waited for where nobody says.
const TIMEOUT_MS: u64 = 2000;

/// `kubectl quorate explain NAME`
pub fn explain(given: &Given) -> Result<()> {
    let timeout = given.number("timeout", 1, 60_000)?;
    let json = given.text("output") == "json";
    let endpoints = list(given.text("endpoints"));
    let kubectl = Kubectl::of(given);
    let cluster = kubectl.cluster(&given.words[0])?;
    if !endpoints.is_empty() {
        return say(&here(&endpoints, timeout, json)?);
    }
    let members = cluster.own(&kubectl.members(false)?);
    say(&in_a_pod(&kubectl, &cluster, &members, timeout, json)?)
}

fn here(endpoints: &[String], timeout_ms: u64, json: bool) -> Result<String> {
    explain::told(endpoints, Duration::from_millis(timeout_ms), json)
}

/// What stands between commas.
pub fn list(text: &str) -> Vec<String> {
    let items = text.split(',').map(str::trim);
    items
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// In the first Pod in which it can be run: it reaches the others by their own names.
fn in_a_pod(
    kubectl: &Kubectl,
    cluster: &Cluster,
    members: &[Member],
    timeout_ms: u64,
    json: bool,
) -> Result<String> {
    let endpoints = endpoints(cluster, members);
    let mut failures = Vec::new();
    for pod in likely_first(cluster, members) {
        let timeout = format!("--timeout={timeout_ms}");
        let endpoints = format!("--endpoints={}", endpoints.join(","));
        let mut words = vec!["exec", &pod, "-c", manifests::CONTAINER, "--"];
        words.extend(["quorate", "explain", &timeout]);
        if !endpoints.ends_with('=') {
            words.push(&endpoints);
        }
        if json {
            words.push("--json");
        }
        match kubectl.output(&words) {
            Ok(text) => return Ok(text),
            Err(error) => failures.push(format!("  {pod}: {}", format!("{error:#}").trim())),
        }
    }
    Err(anyhow!(
        "`quorate explain` could be run in no Pod of {}; where this machine reaches the members, give --endpoints\n{}",
        cluster.metadata.name,
        if failures.is_empty() {
            "  it has no members".to_owned()
        } else {
            failures.join("\n")
        }
    ))
}

/// Where the members are reached inside of Kubernetes. The list in the cluster's status has the Service first,
/// which is no member; without a quorum it has no voters, and the peers' addresses serve.
fn endpoints(cluster: &Cluster, members: &[Member]) -> Vec<String> {
    let voters = cluster.status.iter().flat_map(|status| &status.endpoints);
    let peers = members
        .iter()
        .filter_map(|member| member.status.as_ref()?.peer_url.as_deref())
        .filter_map(|url| url.strip_suffix(&format!(":{}", manifests::PEER_PORT)))
        .map(|url| format!("{url}:{}", manifests::CLIENT_PORT));
    let all: BTreeSet<String> = voters
        .skip(1)
        .cloned()
        .chain(peers)
        .map(|url| url.trim_start_matches("http://").to_owned())
        .collect();
    all.into_iter().collect()
}

/// Names of Pods: the leader's, those of members that answer, the others'.
pub fn likely_first(cluster: &Cluster, members: &[Member]) -> Vec<String> {
    let summaries = cluster.status.iter().flat_map(|status| &status.members);
    let mut pods: Vec<(u8, String)> = summaries
        .map(|member| {
            let rank = match (member.role, member.health) {
                (Role::Leader, Health::Healthy) => 0,
                (_, Health::Healthy) => 1,
                (_, Health::Unhealthy) => 2,
                (_, Health::Unknown) => 3,
            };
            (rank, member.name.clone())
        })
        .collect();
    for member in members {
        let name = &member.metadata.name;
        if pods.iter().all(|(_, known)| known != name) {
            pods.push((4, name.clone()));
        }
    }
    pods.sort();
    pods.into_iter().map(|(_, name)| name).collect()
}

/// The report of `quorate explain --json`, as far as it is looked at (docs/explain.md).
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Report {
    /// by cluster ID
    pub clusters: Vec<Seen>,
}

/// One cluster as its members see it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Seen {
    cluster_id: String,
    /// it can commit now
    pub decides: bool,
    /// its members
    pub members: Vec<SeenMember>,
}

/// One member of it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct SeenMember {
    /// empty until it has started
    pub name: String,
    /// `voter` or `learner`
    pub role: String,
    /// what it said
    pub answer: Option<Answer>,
}

/// What a member said of its log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// its term
    pub term: u64,
    /// the end of what it knows to be committed
    pub committed: u64,
    /// the end of what it has applied
    pub applied: u64,
    /// its revision
    pub revision: i64,
}

/// What the members of the cluster say; nothing where none of them answers.
///
/// # Errors
/// No way to any of them.
pub fn survey(
    kubectl: &Kubectl,
    cluster: &Cluster,
    members: &[Member],
    given: &[String],
) -> Result<Option<Seen>> {
    let text = if given.is_empty() {
        in_a_pod(kubectl, cluster, members, TIMEOUT_MS, true)?
    } else {
        here(given, TIMEOUT_MS, true)?
    };
    let report: Report =
        serde_json::from_str(&text).context("`quorate explain --json` prints no report")?;
    let latched = cluster
        .status
        .as_ref()
        .and_then(|status| status.cluster_id.as_ref()?.number().ok());
    Ok(report
        .clusters
        .into_iter()
        .find(|seen| u64::from_str_radix(&seen.cluster_id, 16).ok() == latched))
}
