//! Asking endpoints: all at once, each with its deadline, nothing that needs a quorum.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::etcdserverpb as pb;
use local::grpc::{Connection, Error};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::seen::{Alarm, Answer, Asked, Listed, Program};

/// Endpoints that are asked, at most. A list of members is an answer from a wire.
const ENDPOINTS_MAX: usize = 200;

/// `/metrics` of a member is some hundred kilobytes.
const METRICS_BYTES_MAX: u64 = 16 << 20;

/// Only ours has it, only etcd has the other.
const METRIC_OF_OURS: &str = "\nquorate_";
const METRIC_OF_ETCD: &str = "\ngo_goroutines ";
/// Whether the streams to a peer are up.
const ACTIVE_PEERS: &str = "etcd_network_active_peers{";

/// Asks these endpoints, then those that the answers name and nobody was asked at yet.
pub(crate) async fn all(given: &[String], timeout: Duration) -> Vec<Asked> {
    let mut endpoints: Vec<String> = given.iter().map(|endpoint| plain(endpoint)).collect();
    let mut known = BTreeSet::new();
    endpoints.retain(|endpoint| known.insert(endpoint.clone()));
    let mut asked = round(&endpoints, timeout).await;
    let answered: BTreeSet<u64> = answers(&asked).map(|answer| answer.member).collect();
    let mut named: Vec<String> = answers(&asked)
        .flat_map(|answer| &answer.members)
        .filter(|member| !answered.contains(&member.id))
        .flat_map(|member| &member.client_urls)
        .map(|url| plain(url))
        .filter(|endpoint| known.insert(endpoint.clone()))
        .collect();
    named.truncate(ENDPOINTS_MAX);
    asked.extend(round(&named, timeout).await);
    asked
}

fn answers(asked: &[Asked]) -> impl Iterator<Item = &Answer> {
    asked.iter().filter_map(|asked| asked.answer.as_ref().ok())
}

/// `host:port`; a scheme that cannot be served stays, and is refused when it is asked.
fn plain(endpoint: &str) -> String {
    let endpoint = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    endpoint.trim_end_matches('/').to_owned()
}

async fn round(endpoints: &[String], timeout: Duration) -> Vec<Asked> {
    let mut asking = JoinSet::new();
    for (index, endpoint) in endpoints.iter().cloned().enumerate() {
        asking.spawn(async move {
            let answer = ask(&endpoint, timeout).await;
            let asked = Asked { endpoint, answer };
            (index, asked)
        });
    }
    let mut asked = Vec::new();
    while let Some(one) = asking.join_next().await {
        asked.extend(one.ok());
    }
    asked.sort_by_key(|(index, _)| *index);
    asked.into_iter().map(|(_, asked)| asked).collect()
}

async fn ask(endpoint: &str, timeout: Duration) -> Result<Answer, String> {
    if endpoint.contains("://") {
        return Err("only http://host:port can be asked; TLS is not served yet".to_owned());
    }
    let late = |_| format!("no answer within {timeout:?}");
    let metrics = tokio::time::timeout(timeout, metrics(endpoint));
    let (answer, metrics) = tokio::join!(tokio::time::timeout(timeout, calls(endpoint)), metrics);
    let mut answer = answer.map_err(late)?.map_err(|error| {
        // The endpoint is said beside it.
        let text = error.to_string();
        let told = text.strip_prefix(&format!("cannot connect to {endpoint}: "));
        told.unwrap_or(&text).to_owned()
    })?;
    if let Ok(Ok(metrics)) = metrics {
        answer.program = program(&metrics);
        answer.connected = Some(connected(&metrics));
    }
    Ok(answer)
}

async fn calls(endpoint: &str) -> Result<Answer, Error> {
    let mut connection = Connection::open(endpoint).await?;
    let mut second = connection.clone();
    // Not linearizable: every member answers from what it has.
    let list = pb::MemberListRequest {
        linearizable: false,
    };
    let status = pb::StatusRequest::default();
    let (status, list) = tokio::join!(
        connection.ask::<pb::StatusResponse>("/etcdserverpb.Maintenance/Status", &status),
        second.ask::<pb::MemberListResponse>("/etcdserverpb.Cluster/MemberList", &list)
    );
    let (status, list) = (status?, list?);
    let header = status.header.unwrap_or_default();
    Ok(Answer {
        cluster: header.cluster_id,
        member: header.member_id,
        leader: status.leader,
        term: status.raft_term,
        committed: status.raft_index,
        applied: status.raft_applied_index,
        revision: header.revision,
        is_learner: status.is_learner,
        version: status.version,
        program: Program::Unknown,
        database_bytes: status.db_size,
        database_used_bytes: status.db_size_in_use,
        quota_bytes: status.db_size_quota,
        alarms: status
            .errors
            .iter()
            .filter_map(|text| alarm(text))
            .collect(),
        members: list
            .members
            .into_iter()
            .map(|member| Listed {
                id: member.id,
                name: member.name,
                peer_urls: member.peer_urls,
                client_urls: member.client_urls,
                is_learner: member.is_learner,
            })
            .collect(),
        connected: None,
    })
}

/// A status tells alarms as Go prints the message, `memberID:123 alarm:NOSPACE`, with one space or two. The
/// call that lists them would go through the log. What does not look so is no alarm (`no leader`).
fn alarm(text: &str) -> Option<Alarm> {
    let mut alarm = Alarm {
        member: 0,
        kind: String::new(),
    };
    for word in text.split_whitespace() {
        match word.split_once(':')? {
            ("memberID", id) => alarm.member = id.parse().ok()?,
            ("alarm", kind) => kind.clone_into(&mut alarm.kind),
            _ => return None,
        }
    }
    (!alarm.kind.is_empty()).then_some(alarm)
}

async fn metrics(endpoint: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(endpoint).await?;
    // Version 1.0, to which an answer comes in one piece.
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {endpoint}\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    socket
        .take(METRICS_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn program(metrics: &str) -> Program {
    match (
        metrics.contains(METRIC_OF_OURS),
        metrics.contains(METRIC_OF_ETCD),
    ) {
        (true, false) => Program::Quorate,
        (false, true) => Program::Etcd,
        _ => Program::Unknown,
    }
}

fn connected(metrics: &str) -> BTreeMap<u64, bool> {
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with(ACTIVE_PEERS));
    lines
        .filter_map(|line| {
            let (_, remote) = line.split_once("Remote=\"")?;
            let (remote, _) = remote.split_once('"')?;
            let value: f64 = line.rsplit(' ').next()?.parse().ok()?;
            Some((u64::from_str_radix(remote, 16).ok()?, value > 0.0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_read_as_go_prints_them() {
        let alarm = |text| alarm(text).map(|alarm| (alarm.member, alarm.kind));
        let no_space = Some((9_372_538_179_322_589_801, "NOSPACE".to_owned()));
        assert_eq!(
            alarm("memberID:9372538179322589801 alarm:NOSPACE"),
            no_space
        );
        assert_eq!(
            alarm("memberID:9372538179322589801  alarm:NOSPACE "),
            no_space
        );
        assert_eq!(alarm("alarm:CORRUPT"), Some((0, "CORRUPT".to_owned())));
        assert_eq!(alarm("etcdserver: no leader"), None);
        assert_eq!(alarm(""), None);
    }

    #[test]
    fn metrics_tell_the_program_and_who_is_connected() {
        let text = "x\ngo_goroutines 7\n\
            etcd_network_active_peers{Local=\"a\",Remote=\"b\"} 1\n\
            etcd_network_active_peers{Local=\"a\",Remote=\"8e9e05c52164694d\"} 0\n";
        assert_eq!(program(text), Program::Etcd);
        assert_eq!(
            connected(text).into_iter().collect::<Vec<_>>(),
            [(0xb, true), (0x8e9e_05c5_2164_694d, false)]
        );
        assert_eq!(program("x\nquorate_y 1\n"), Program::Quorate);
        assert_eq!(program(""), Program::Unknown);
    }
}
