//! Maintenance and health (etcd `v3rpc/maintenance.go`, `v3rpc/health.go`).

use std::sync::Arc;

use api::etcdserverpb as pb;
use api::health::HealthCheckResponse;
use api::health::health_check_response::ServingStatus;
use bytes::Bytes;
use http::Response;
use server::config::ANNOUNCED_VERSION;
use server::snapshots::Pinned;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::door::{Call, Door};
use crate::grpc::{self, Messages, Outgoing, ReplyBody, Status};

/// One message of a client snapshot carries this much of the file (etcd
/// `snapshotSendBufferSize`); restore counts on a multiple of 512.
const SNAPSHOT_CHUNK_BYTES: usize = 32 * 1024;

/// So much is read at once: a step of well under a millisecond, and one wake for eight messages.
const SNAPSHOT_READ_BYTES: usize = 8 * SNAPSHOT_CHUNK_BYTES;

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
    // etcd 3.7.3 writes an unknown action into the log and dies of the answer that is not there.
    if pb::alarm_request::AlarmAction::try_from(request.action).is_err() {
        return Err(api::Error::UnknownMethod.into());
    }
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
    // A stream of hours pins its pages and stops nobody: between two reads it holds no thread.
    tokio::spawn(async move {
        let began = std::time::Instant::now();
        let mut stopping = door.member.stopping();
        let result = tokio::select! {
            result = send_database(source, version, &sender) => result,
            _ = stopping.wait_for(Option::is_some) => Err(api::Error::Stopped.into()),
        };
        door.member
            .shared
            .counters
            .stats
            .snapshots
            .observe(began.elapsed());
        // A client that does not read leaves no room for this; that the channel ends says the same.
        tokio::select! {
            biased;
            _ = sender.send(Outgoing::End(result)) => {}
            _ = stopping.wait_for(Option::is_some) => {}
        }
    });
    Ok(grpc::stream_response(receiver))
}

/// Sends the file in messages of [`SNAPSHOT_CHUNK_BYTES`], then its SHA-256. Ends early when the
/// client is gone.
async fn send_database(
    source: Pinned,
    version: String,
    sender: &mpsc::Sender<Outgoing>,
) -> Result<(), Status> {
    let total = source.len();
    let source = Arc::new(source);
    let message = |blob: Bytes, remaining_bytes: u64| {
        let message = pb::SnapshotResponse {
            header: None,
            remaining_bytes,
            blob,
            version: version.clone(),
        };
        Outgoing::Message(grpc::encode(&message))
    };
    tracing::info!(total_bytes = total, "sending database snapshot to client");
    let mut digest = Sha256::new();
    let mut sent = 0;
    while sent < total {
        let (reading, hashing) = (source.clone(), digest);
        let read = move || read_and_hash(&reading, sent, hashing);
        let (mut piece, hashed) = tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| Status::from(api::Error::Stopped))??;
        digest = hashed;
        while !piece.is_empty() {
            let blob = piece.split_to(piece.len().min(SNAPSHOT_CHUNK_BYTES));
            sent += blob.len() as u64;
            if sender.send(message(blob, total - sent)).await.is_err() {
                return Ok(());
            }
        }
    }
    let digest = Bytes::copy_from_slice(&digest.finalize());
    let ok = sender.send(message(digest, 0)).await.is_ok();
    tracing::info!(total_bytes = total, ok, "sent database snapshot to client");
    Ok(())
}

/// The next bytes of the file, and the digest with them.
fn read_and_hash(
    source: &Pinned,
    offset: u64,
    mut digest: Sha256,
) -> Result<(Bytes, Sha256), Status> {
    let mut piece = vec![0; SNAPSHOT_READ_BYTES];
    let mut filled = 0;
    while filled < piece.len() {
        match source.read_at(offset + filled as u64, &mut piece[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) => return Err(Status::new(api::Code::Unknown, error.to_string())),
        }
    }
    if filled == 0 {
        return Err(Status::new(api::Code::Unknown, "the database ended early"));
    }
    piece.truncate(filled);
    digest.update(&piece);
    Ok((piece.into(), digest))
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

/// grpc.health.v1.Health/List: there is one service, the server as a whole.
pub async fn health_list(
    _: Arc<Door>,
    _: api::health::HealthListRequest,
) -> Result<api::health::HealthListResponse, Status> {
    let whole = HealthCheckResponse {
        status: ServingStatus::Serving as i32,
    };
    Ok(api::health::HealthListResponse {
        statuses: [(String::new(), whole)].into(),
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
