//! `kubectl quorate promote`: one MemberPromote, which the leader judges as it judges the operator's.
//!
//! The operator promotes a learner as soon as it may. This is for a cluster whose operator is away or paused.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use api::etcdserverpb as pb;
use local::flags::Given;
use local::grpc::Connection;

use crate::ask::{likely_first, list};
use crate::kubectl::{Cluster, Kubectl, Member};
use crate::say;

/// A call waits until a learner counts as healthy, and for a commit.
const CALL: Duration = Duration::from_secs(9);

/// `kubectl quorate promote NAME MEMBER`
pub fn command(given: &Given) -> Result<()> {
    let (name, wanted) = (&given.words[0], &given.words[1]);
    let kubectl = Kubectl::of(given);
    let cluster = kubectl.cluster(name)?;
    let members = cluster.own(&kubectl.members(false)?);
    let endpoints = list(given.text("endpoints"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a runtime")?;
    let said = if endpoints.is_empty() {
        let forward = way_in(&kubectl, &cluster, &members)?;
        runtime.block_on(promote(
            std::slice::from_ref(&forward.endpoint),
            &cluster,
            wanted,
        ))
    } else {
        runtime.block_on(promote(&endpoints, &cluster, wanted))
    };
    // A name that is being resolved must not hold us.
    runtime.shutdown_background();
    say(&said?)
}

/// A way to the first member that can be reached: it hands the call on to the leader.
fn way_in(
    kubectl: &Kubectl,
    cluster: &Cluster,
    members: &[Member],
) -> Result<crate::kubectl::Forward> {
    let mut failures = Vec::new();
    for pod in likely_first(cluster, members) {
        match kubectl.forward(&pod, manifests::CLIENT_PORT) {
            Ok(forward) => return Ok(forward),
            Err(error) => failures.push(format!("  {pod}: {}", format!("{error:#}").trim())),
        }
    }
    Err(anyhow!(
        "no way to a member of {}; where this machine reaches the members, give --endpoints\n{}",
        cluster.metadata.name,
        failures.join("\n")
    ))
}

async fn promote(endpoints: &[String], cluster: &Cluster, wanted: &str) -> Result<String> {
    let mut failures = Vec::new();
    for endpoint in endpoints {
        let connected = tokio::time::timeout(CALL, Connection::open(endpoint)).await;
        let mut connection = match connected {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                failures.push(error.to_string());
                continue;
            }
            Err(_) => {
                failures.push(format!("no connection to {endpoint} within {CALL:?}"));
                continue;
            }
        };
        let list = pb::MemberListRequest { linearizable: true };
        let list: pb::MemberListResponse =
            bounded(connection.ask("/etcdserverpb.Cluster/MemberList", &list))
                .await
                .context("the members cannot be listed")?;
        let id = learner(cluster, &list, wanted)?;
        let request = pb::MemberPromoteRequest { id };
        let promoted: pb::MemberPromoteResponse =
            bounded(connection.ask("/etcdserverpb.Cluster/MemberPromote", &request))
                .await
                .with_context(|| format!("{wanted} is not promoted"))?;
        let learners = promoted.members.iter().filter(|one| one.is_learner).count();
        let voters = promoted.members.len() - learners;
        return Ok(format!(
            "{wanted} ({id:x}) is promoted: {} has {voters} voters, {learners} learners\n",
            cluster.metadata.name
        ));
    }
    bail!("no member can be reached: {}", failures.join("; "))
}

async fn bounded<T>(call: impl Future<Output = Result<T, local::grpc::Error>>) -> Result<T> {
    match tokio::time::timeout(CALL, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => bail!("no answer within {CALL:?}"),
    }
}

/// The ID of the learner that is meant: by its name, or by its ID.
fn learner(cluster: &Cluster, list: &pb::MemberListResponse, wanted: &str) -> Result<u64> {
    let name = &cluster.metadata.name;
    let status = cluster.status.as_ref();
    let serves = list.header.as_ref().map(|header| header.cluster_id);
    let latched = status.and_then(|status| status.cluster_id.as_ref()?.number().ok());
    ensure!(
        serves == latched,
        "these members are cluster {:016x}, and {name} is {}; nothing was changed",
        serves.unwrap_or_default(),
        latched.map_or_else(|| "not begun".to_owned(), |id| format!("{id:016x}"))
    );
    // One that has not started has no name of its own yet.
    let known = status
        .and_then(|status| status.members.iter().find(|one| one.name == wanted))
        .and_then(|one| one.member_id.as_ref()?.number().ok());
    let by_id = known.or(u64::from_str_radix(wanted, 16).ok());
    let member = list
        .members
        .iter()
        .find(|one| one.name == wanted || Some(one.id) == by_id);
    let Some(member) = member else {
        let all: Vec<String> = list
            .members
            .iter()
            .map(|one| format!("{} ({:x})", one.name, one.id))
            .collect();
        bail!(
            "{name} has no member {wanted:?}; its members are {}",
            all.join(", ")
        );
    };
    ensure!(member.is_learner, "{wanted} votes already");
    Ok(member.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "orders"},
            "spec": {},
            "status": {
                "clusterID": "00000000000000c1",
                "members": [{"name": "orders-3", "memberID": "00000000000000a3"}],
            },
        }))
        .expect("a cluster")
    }

    fn listed() -> pb::MemberListResponse {
        let member = |id, name: &str, is_learner| pb::Member {
            id,
            name: name.to_owned(),
            is_learner,
            ..pb::Member::default()
        };
        pb::MemberListResponse {
            header: Some(pb::ResponseHeader {
                cluster_id: 0xc1,
                ..pb::ResponseHeader::default()
            }),
            members: vec![
                member(0xa0, "orders-0", false),
                member(0xa3, "", true),
                member(0xa4, "orders-4", true),
            ],
        }
    }

    #[test]
    fn a_learner_is_found_by_name_and_by_id_and_before_it_has_a_name() {
        let found = |wanted: &str| learner(&cluster(), &listed(), wanted).expect("a learner");
        assert_eq!(found("orders-4"), 0xa4);
        assert_eq!(found("orders-3"), 0xa3);
        assert_eq!(found("a4"), 0xa4);
    }

    #[test]
    fn who_votes_is_not_there_or_is_of_another_cluster_is_refused() {
        let said = |list: &pb::MemberListResponse, wanted: &str| {
            let error = learner(&cluster(), list, wanted).expect_err("refused");
            error.to_string()
        };
        assert_eq!(said(&listed(), "orders-0"), "orders-0 votes already");
        assert_eq!(
            said(&listed(), "other"),
            "orders has no member \"other\"; its members are orders-0 (a0),  (a3), orders-4 (a4)"
        );
        let mut others = listed();
        if let Some(header) = &mut others.header {
            header.cluster_id = 0xff;
        }
        assert!(said(&others, "orders-4").contains("nothing was changed"));
    }
}
