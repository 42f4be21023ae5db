//! Maintenance and health (etcd `v3rpc/maintenance.go`, `v3rpc/health.go`).

use std::sync::Arc;

use api::etcdserverpb as pb;
use api::health::HealthCheckResponse;
use api::health::health_check_response::ServingStatus;
use bytes::Bytes;
use http::Response;
use server::config::ANNOUNCED_VERSION;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::door::{Call, Door};
use crate::grpc::{self, Messages, Outgoing, ReplyBody, Status};

/// One message of a client snapshot carries this much of the file (etcd
/// `snapshotSendBufferSize`); restore counts on a multiple of 512.
const SNAPSHOT_CHUNK_BYTES: usize = 32 * 1024;

/// Chunks that wait for the client: the file is read no faster than it is taken.
const SNAPSHOT_CHUNKS_WAITING: usize = 16;

/// Maintenance.Status
pub async fn status(door: Arc<Door>, _: pb::StatusRequest) -> Result<pb::StatusResponse, Status> {
    let member = &door.member;
    let state = member.state();
    let cluster = state.cluster.get();
    let leader = member.leader();
    let mut errors = Vec::new();
    if leader == 0 {
        errors.push(api::Error::NoLeader.to_string());
    }
    errors.extend(state.alarms.get(0).iter().map(alarm_text));
    Ok(pb::StatusResponse {
        header: Some(door.header(state.mvcc.revision())),
        version: ANNOUNCED_VERSION.to_owned(),
        leader,
        raft_index: member.committed(),
        raft_applied_index: member.applied(),
        raft_term: member.term(),
        db_size: state.backend.size_bytes() as i64,
        db_size_in_use: state.backend.size_in_use_bytes() as i64,
        is_learner: member.is_learner(),
        db_size_quota: member.quota_bytes(),
        storage_version: member.storage_version(),
        downgrade_info: Some(pb::DowngradeInfo {
            enabled: cluster.downgrade().enabled,
            target_version: cluster.downgrade().target_version.clone(),
        }),
        errors,
        ..Default::default()
    })
}

/// An alarm as Go prints the message.
fn alarm_text(alarm: &pb::AlarmMember) -> String {
    format!(
        "memberID:{} alarm:{}",
        alarm.member_id,
        alarm.alarm().as_str_name()
    )
}

/// Maintenance.Alarm
pub async fn alarm(
    door: Arc<Door>,
    request: pb::AlarmRequest,
) -> Result<pb::AlarmResponse, Status> {
    let raft = pb::InternalRaftRequest {
        alarm: Some(request),
        ..Default::default()
    };
    match door.member.propose(&door.lane, raft).await? {
        apply::Response::Alarm(mut response) => {
            response.header = Some(door.header(door.member.state().mvcc.revision()));
            Ok(response)
        }
        other => Err(Status::new(
            api::Code::Internal,
            format!("alarm was answered by {other:?}"),
        )),
    }
}

/// Maintenance.Defragment, of this member.
pub async fn defragment(
    door: Arc<Door>,
    _: pb::DefragmentRequest,
) -> Result<pb::DefragmentResponse, Status> {
    tracing::info!("starting defragment");
    door.member.defragment().await?;
    tracing::info!("finished defragment");
    Ok(pb::DefragmentResponse::default())
}

/// Maintenance.Hash: of the whole database, comparable only with itself.
pub async fn hash(door: Arc<Door>, _: pb::HashRequest) -> Result<pb::HashResponse, Status> {
    let (hash, revision) = door.member.hash().await?;
    Ok(pb::HashResponse {
        header: Some(door.header(revision)),
        hash,
    })
}

/// Maintenance.HashKV
pub async fn hash_kv(
    door: Arc<Door>,
    request: pb::HashKvRequest,
) -> Result<pb::HashKvResponse, Status> {
    let (hash, revision) = door.member.hash_kv(request.revision).await?;
    Ok(pb::HashKvResponse {
        header: Some(door.header(revision)),
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.revision,
    })
}

/// Maintenance.MoveLeader, on the leader only.
pub async fn move_leader(
    door: Arc<Door>,
    request: pb::MoveLeaderRequest,
) -> Result<pb::MoveLeaderResponse, Status> {
    door.member.move_leader(request.target_id).await?;
    Ok(pb::MoveLeaderResponse::default())
}

/// Maintenance.Downgrade
pub async fn downgrade(
    door: Arc<Door>,
    request: pb::DowngradeRequest,
) -> Result<pb::DowngradeResponse, Status> {
    use pb::downgrade_request::DowngradeAction;
    let (member, lane) = (&door.member, &door.lane);
    let version = match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => member.downgrade_validate(lane, &request.version).await?,
        Ok(DowngradeAction::Enable) => member.downgrade_enable(lane, &request.version).await?,
        Ok(DowngradeAction::Cancel) => member.downgrade_cancel(lane).await?,
        Err(_) => return Err(api::Error::UnknownMethod.into()),
    };
    let header = door.header(member.state().mvcc.revision());
    Ok(pb::DowngradeResponse {
        header: Some(header),
        version,
    })
}

/// Maintenance.Snapshot: the database file, then its SHA-256.
pub async fn snapshot(
    door: Arc<Door>,
    call: Call,
    messages: Messages,
) -> Result<Response<ReplyBody>, Status> {
    let _: pb::SnapshotRequest = messages.only().await?;
    // Of the streams, a learner serves this one.
    door.admit(call, true)?;
    let (sender, receiver) = mpsc::channel(SNAPSHOT_CHUNKS_WAITING);
    let version = door.member.storage_version();
    let source = door.member.snapshot().await?;
    // A stream of hours: it has a thread of its own, pins its pages and stops nobody.
    tokio::task::spawn_blocking(move || {
        let total = source.len();
        let mut digest = Sha256::new();
        let mut sent = 0;
        tracing::info!(total_bytes = total, "sending database snapshot to client");
        let send = |blob: Bytes, remaining: u64| {
            let message = pb::SnapshotResponse {
                header: None,
                remaining_bytes: remaining,
                blob,
                version: version.clone(),
            };
            sender
                .blocking_send(Outgoing::Message(grpc::encode(&message)))
                .is_ok()
        };
        let result = loop {
            if sent == total {
                let ok = send(Bytes::copy_from_slice(&digest.finalize()), 0);
                tracing::info!(total_bytes = total, ok, "sent database snapshot to client");
                break Ok(());
            }
            let mut chunk = vec![0; SNAPSHOT_CHUNK_BYTES];
            match source.read_at(sent, &mut chunk) {
                Ok(0) => break Err(Status::new(api::Code::Unknown, "the database ended early")),
                Ok(read) => chunk.truncate(read),
                Err(error) => break Err(Status::new(api::Code::Unknown, error.to_string())),
            }
            digest.update(&chunk);
            sent += chunk.len() as u64;
            if !send(chunk.into(), total - sent) {
                return;
            }
        };
        let _ = sender.blocking_send(Outgoing::End(result));
    });
    Ok(grpc::stream_response(receiver))
}

/// grpc.health.v1.Health/Check
pub async fn health_check(
    _: Arc<Door>,
    request: api::health::HealthCheckRequest,
) -> Result<HealthCheckResponse, Status> {
    if !request.service.is_empty() {
        return Err(Status::new(api::Code::NotFound, "unknown service"));
    }
    Ok(HealthCheckResponse {
        status: ServingStatus::Serving as i32,
    })
}

/// grpc.health.v1.Health/Watch: the status now, and silence until it changes.
pub async fn health_watch(
    door: Arc<Door>,
    messages: Messages,
) -> Result<Response<ReplyBody>, Status> {
    let request: api::health::HealthCheckRequest = messages.only().await?;
    let status = if request.service.is_empty() {
        ServingStatus::Serving
    } else {
        ServingStatus::ServiceUnknown
    };
    let (sender, receiver) = mpsc::channel(1);
    let mut stopping = door.member.stopping();
    tokio::spawn(async move {
        let message = HealthCheckResponse {
            status: status as i32,
        };
        if sender
            .send(Outgoing::Message(grpc::encode(&message)))
            .await
            .is_err()
        {
            return;
        }
        tokio::select! {
            () = sender.closed() => {}
            _ = stopping.wait_for(Option::is_some) => {}
        }
    });
    Ok(grpc::stream_response(receiver))
}
