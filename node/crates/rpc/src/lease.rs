//! Lease: grants and their keep-alives (etcd `v3rpc/lease.go`).

use std::sync::Arc;

use api::etcdserverpb as pb;
use http::Response;
use tokio::sync::mpsc;

use crate::door::{Call, Door};
use crate::grpc::{self, Messages, Outgoing, ReplyBody, Status};

/// Keep-alive answers that wait for the client.
const KEEP_ALIVES_WAITING: usize = 16;

/// Lease.LeaseGrant
pub async fn grant(
    door: Arc<Door>,
    mut request: pb::LeaseGrantRequest,
) -> Result<pb::LeaseGrantResponse, Status> {
    let cost = apply::quota::lease_grant_cost(&request);
    door.member.check_quota(&door.lane, cost).await?;
    while request.id == 0 {
        request.id = (door.lane.next_id() & (i64::MAX as u64)) as i64;
    }
    let raft = pb::InternalRaftRequest {
        lease_grant: Some(request),
        ..Default::default()
    };
    match door.member.propose(&door.lane, raft).await? {
        apply::Response::LeaseGrant(mut response) => {
            response.header = Some(door.header(door.member.state().mvcc.revision()));
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// Lease.LeaseRevoke
pub async fn revoke(
    door: Arc<Door>,
    request: pb::LeaseRevokeRequest,
) -> Result<pb::LeaseRevokeResponse, Status> {
    let raft = pb::InternalRaftRequest {
        lease_revoke: Some(request),
        ..Default::default()
    };
    match door.member.propose(&door.lane, raft).await? {
        apply::Response::LeaseRevoke(mut response) => {
            door.fill(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// Lease.LeaseTimeToLive: the leader knows; an unknown lease has TTL -1.
pub async fn time_to_live(
    door: Arc<Door>,
    request: pb::LeaseTimeToLiveRequest,
) -> Result<pb::LeaseTimeToLiveResponse, Status> {
    let id = request.id;
    let revision = door.member.state().mvcc.revision();
    let mut response = match door.member.lease_time_to_live(&door.lane, request).await {
        Ok(response) => response,
        Err(api::Error::LeaseNotFound) => pb::LeaseTimeToLiveResponse {
            id,
            ttl: -1,
            ..Default::default()
        },
        Err(error) => return Err(error.into()),
    };
    response.header = Some(door.header(revision));
    Ok(response)
}

/// Lease.LeaseLeases
pub async fn leases(
    door: Arc<Door>,
    _: pb::LeaseLeasesRequest,
) -> Result<pb::LeaseLeasesResponse, Status> {
    let leases = door.member.lease_leases();
    Ok(pb::LeaseLeasesResponse {
        header: Some(door.header(door.member.state().mvcc.revision())),
        leases: leases
            .into_iter()
            .map(|id| pb::LeaseStatus { id })
            .collect(),
    })
}

/// Lease.LeaseKeepAlive: one answer per request, in order; an unknown lease has TTL 0.
pub fn keep_alive(
    door: Arc<Door>,
    call: Call,
    mut messages: Messages,
) -> Result<Response<ReplyBody>, Status> {
    door.admit(call, false)?;
    let (sender, receiver) = mpsc::channel(KEEP_ALIVES_WAITING);
    tokio::spawn(async move {
        let mut stopping = door.member.stopping();
        let result = loop {
            let next = tokio::select! {
                next = messages.next::<pb::LeaseKeepAliveRequest>() => next,
                () = sender.closed() => return,
                _ = stopping.wait_for(Option::is_some) => break Err(api::Error::Stopped.into()),
            };
            let request = match next {
                Ok(Some(request)) => request,
                Ok(None) => break Ok(()),
                Err(status) => {
                    if status.code != api::Code::Canceled {
                        let stats = &door.member.shared.counters.stats;
                        stats.count_stream_failure("receive", "lease-keepalive");
                    }
                    break Err(status);
                }
            };
            // etcd takes the header before it renews: the answer promises a TTL from then on.
            let header = door.header(door.member.state().mvcc.revision());
            let ttl = match door.member.lease_renew(&door.lane, request.id).await {
                Ok(ttl) => ttl,
                Err(api::Error::LeaseNotFound) => 0,
                Err(error) => break Err(error.into()),
            };
            let response = pb::LeaseKeepAliveResponse {
                header: Some(header),
                id: request.id,
                ttl,
            };
            if sender
                .send(Outgoing::Message(grpc::encode(&response)))
                .await
                .is_err()
            {
                return;
            }
        };
        let _ = sender.send(Outgoing::End(result)).await;
    });
    Ok(grpc::stream_response(receiver))
}

fn unexpected(response: &apply::Response) -> Status {
    Status::new(
        api::Code::Internal,
        format!("a lease request was answered by {response:?}"),
    )
}
