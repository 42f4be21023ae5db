//! What a walk asks of a member, one call at a time, each with an end.

use std::time::Duration;

use api::etcdserverpb as pb;
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::clients::runtime;

/// How long a promotion may take, which waits for up to five seconds, and a question for all that
/// there is.
const LONG: Duration = Duration::from_secs(7);

/// How long another change may take: an election fits in.
const CHANGE: Duration = Duration::from_secs(4);

/// How long anything else may take.
const LOOK: Duration = Duration::from_secs(2);

/// All pairs of a walk fit into one answer.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// What came of a call.
#[derive(Debug)]
pub enum Outcome<T> {
    Done(T),
    /// Decided: no.
    Refused(String),
    /// Nobody knows: it may yet be done.
    Unknown(String),
}

/// A membership call.
#[derive(Debug, Clone)]
pub enum Change {
    Add { url: String, learner: bool },
    Promote(u64),
    Remove(u64),
    Update { id: u64, url: String },
}

/// Asks `endpoint` for a change; all members as they are then.
pub async fn change(endpoint: &str, change: Change) -> Outcome<Vec<pb::Member>> {
    let mut client = ClusterClient::new(channel(endpoint, LONG));
    let answer = match change {
        Change::Add { url, learner } => {
            let add = pb::MemberAddRequest {
                peer_urls: vec![url],
                is_learner: learner,
            };
            let answer = client.member_add(within(CHANGE, add)).await;
            answer.map(|answer| answer.into_inner().members)
        }
        Change::Promote(id) => {
            let promote = within(LONG, pb::MemberPromoteRequest { id });
            let answer = client.member_promote(promote).await;
            answer.map(|answer| answer.into_inner().members)
        }
        Change::Remove(id) => {
            let remove = within(CHANGE, pb::MemberRemoveRequest { id });
            let answer = client.member_remove(remove).await;
            answer.map(|answer| answer.into_inner().members)
        }
        Change::Update { id, url } => {
            let update = pb::MemberUpdateRequest {
                id,
                peer_urls: vec![url],
            };
            let answer = client.member_update(within(CHANGE, update)).await;
            answer.map(|answer| answer.into_inner().members)
        }
    };
    outcome(answer)
}

fn outcome<T>(answer: Result<T, Status>) -> Outcome<T> {
    match answer {
        Ok(answer) => Outcome::Done(answer),
        Err(status) => {
            let text = format!("{:?}: {}", status.code(), status.message());
            let decided = matches!(
                status.code(),
                Code::FailedPrecondition | Code::NotFound | Code::InvalidArgument
            );
            // etcd's code for this refusal is Unavailable, as when nobody answers.
            if decided || status.message() == "etcdserver: unhealthy cluster" {
                Outcome::Refused(text)
            } else {
                Outcome::Unknown(text)
            }
        }
    }
}

/// The members as `endpoint` knows them, or as the leader does.
pub fn members(endpoint: &str, linearizable: bool) -> Result<Vec<pb::Member>, Status> {
    let list = within(LOOK, pb::MemberListRequest { linearizable });
    let answer =
        runtime().block_on(ClusterClient::new(channel(endpoint, LOOK)).member_list(list))?;
    Ok(answer.into_inner().members)
}

/// Writes; the revision.
pub async fn put(endpoint: &str, key: String, value: String) -> Result<i64, Status> {
    put_over(&channel(endpoint, LOOK), key, value).await
}

/// Writes over a channel that is there; the revision.
pub async fn put_over(channel: &Channel, key: String, value: String) -> Result<i64, Status> {
    let put = pb::PutRequest {
        key: key.into_bytes().into(),
        value: value.into_bytes().into(),
        ..Default::default()
    };
    let answer = KvClient::new(channel.clone())
        .put(within(LOOK, put))
        .await?;
    Ok(revision(answer.into_inner().header.as_ref()))
}

/// Every pair below `prefix`, and the revision at which they were read.
pub fn pairs(
    endpoint: &str,
    prefix: &str,
    serializable: bool,
) -> Result<(i64, Vec<(String, String)>), Status> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    let range = pb::RangeRequest {
        key: prefix.as_bytes().to_vec().into(),
        range_end: end.into(),
        serializable,
        ..Default::default()
    };
    let mut client = KvClient::new(channel(endpoint, LONG));
    client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
    let answer = runtime()
        .block_on(client.range(within(LONG, range)))?
        .into_inner();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pairs = answer.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value)));
    Ok((revision(answer.header.as_ref()), pairs.collect()))
}

/// The hash of the whole store at a revision.
pub fn hash(endpoint: &str, revision: i64) -> Result<u32, Status> {
    let mut client = MaintenanceClient::new(channel(endpoint, LONG));
    let request = within(LONG, pb::HashKvRequest { revision });
    let answer = runtime().block_on(client.hash_kv(request))?;
    Ok(answer.into_inner().hash)
}

/// Alarms that are up.
pub fn alarms(endpoint: &str) -> Result<usize, Status> {
    let mut client = MaintenanceClient::new(channel(endpoint, LOOK));
    let answer = runtime().block_on(client.alarm(within(LOOK, pb::AlarmRequest::default())))?;
    Ok(answer.into_inner().alarms.len())
}

/// Asks `endpoint`, which must lead, to let `target` lead.
pub fn move_leader(endpoint: &str, target: u64) -> Outcome<()> {
    let mut client = MaintenanceClient::new(channel(endpoint, LOOK));
    let request = within(LOOK, pb::MoveLeaderRequest { target_id: target });
    outcome(runtime().block_on(client.move_leader(request)).map(|_| ()))
}

/// The ID of the member at `endpoint`, if it leads by its own word.
pub fn leads(endpoint: &str) -> bool {
    let mut client = MaintenanceClient::new(channel(endpoint, LOOK));
    let answer = runtime().block_on(client.status(within(LOOK, pb::StatusRequest::default())));
    answer.is_ok_and(|answer| {
        let status = answer.into_inner();
        status.leader != 0 && Some(status.leader) == status.header.map(|header| header.member_id)
    })
}

/// A channel to one member, for calls no longer than `timeout`.
pub fn channel(endpoint: &str, timeout: Duration) -> Channel {
    let _inside = runtime().enter();
    Endpoint::from_shared(format!("http://{endpoint}"))
        .expect("an endpoint of ours")
        .connect_timeout(Duration::from_secs(1))
        .timeout(timeout + Duration::from_secs(1))
        .connect_lazy()
}

fn within<T>(timeout: Duration, request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(timeout);
    request
}

fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}
