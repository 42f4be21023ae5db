//! KV: from request message to answer message (etcd `v3rpc/key.go`, `v3_server.go`).

use std::sync::Arc;

use api::etcdserverpb as pb;
use apply::check;
use http::Response;
use mvcc::RangeCursor;
use tokio::sync::mpsc;

use crate::door::{Call, Door};
use crate::grpc::{self, Messages, Outgoing, ReplyBody, Status};

/// Chunks of a streamed range that wait for the client.
const STREAM_CHUNKS_WAITING: usize = 4;

/// Keys.Range
pub async fn range(
    door: Arc<Door>,
    request: pb::RangeRequest,
) -> Result<pb::RangeResponse, Status> {
    check::check_range_request(&request)?;
    let began = std::time::Instant::now();
    if !request.serializable {
        door.lane.linearizable_read().await?;
    }
    let state = door.member.state();
    let mut response = mvcc::range_request(state.mvcc.as_ref(), &request)
        .map_err(|error| server::from_mvcc(&error))?;
    door.fill(&mut response.header);
    door.member
        .shared
        .counters
        .stats
        .count_range(began.elapsed());
    Ok(response)
}

/// Keys.Put
pub async fn put(door: Arc<Door>, request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
    door.member
        .check_quota(&door.lane, apply::quota::put_cost(&request))
        .await?;
    check::check_put_request(&request)?;
    let raft = pb::InternalRaftRequest {
        put: Some(request),
        ..Default::default()
    };
    match door.member.propose(&door.lane, raft).await? {
        apply::Response::Put(mut response) => {
            door.fill(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected("put", &other)),
    }
}

/// Keys.DeleteRange
pub async fn delete_range(
    door: Arc<Door>,
    request: pb::DeleteRangeRequest,
) -> Result<pb::DeleteRangeResponse, Status> {
    check::check_delete_request(&request)?;
    let raft = pb::InternalRaftRequest {
        delete_range: Some(request),
        ..Default::default()
    };
    match door.member.propose(&door.lane, raft).await? {
        apply::Response::DeleteRange(mut response) => {
            door.fill(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected("delete range", &other)),
    }
}

/// Keys.Txn: a txn that only reads is served like a range, without the log.
pub async fn txn(door: Arc<Door>, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
    door.member
        .check_quota(&door.lane, apply::quota::txn_cost(&request))
        .await?;
    check::check_txn_request(&request, door.config.max_txn_ops)?;
    if apply::is_read_only(&request) {
        if !apply::is_serializable(&request) {
            door.lane.linearizable_read().await?;
        }
        let state = door.member.state();
        let mut response = apply::read_only_txn(&state.mvcc.pin(), &request)
            .map_err(|error| server::from_mvcc(&error))?;
        door.fill(&mut response.header);
        door.member.shared.counters.stats.count_txn(&response);
        return Ok(response);
    }
    let raft = pb::InternalRaftRequest {
        txn: Some(request),
        ..Default::default()
    };
    match door.member.propose(&door.lane, raft).await? {
        apply::Response::Txn(mut response) => {
            door.fill(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected("txn", &other)),
    }
}

/// Keys.Compact; `physical` waits until the records are gone and that is on disk.
pub async fn compact(
    door: Arc<Door>,
    request: pb::CompactionRequest,
) -> Result<pb::CompactionResponse, Status> {
    let physical = request.physical;
    let revision = request.revision;
    let raft = pb::InternalRaftRequest {
        compaction: Some(request),
        ..Default::default()
    };
    match door.member.propose(&door.lane, raft).await? {
        apply::Response::Compaction(mut response) => {
            if physical {
                door.member.wait_compacted(revision).await?;
            }
            response.header = Some(door.header(door.member.state().mvcc.revision()));
            Ok(response)
        }
        other => Err(unexpected("compaction", &other)),
    }
}

/// Keys.RangeStream: the answer in chunks pinned at one revision; only the last carries header,
/// more and count.
pub async fn range_stream(
    door: Arc<Door>,
    call: Call,
    messages: Messages,
) -> Result<Response<ReplyBody>, Status> {
    let request: pb::RangeRequest = messages.only().await?;
    door.admit(call, false)?;
    check::check_range_request(&request)?;
    if !mvcc::is_default_order(&request) {
        return Err(api::Error::RangeStreamSortOrder.into());
    }
    if mvcc::has_revision_filters(&request) {
        return Err(api::Error::RangeStreamRevisionFilters.into());
    }
    if !request.serializable {
        door.lane.linearizable_read().await?;
    }
    let mut cursor = RangeCursor::new(request);
    // The first chunk before the answer's headers: a revision that is not there fails the call as
    // a whole, as grpc-go sends it.
    let first = next_chunk(&door, &mut cursor)?;
    let (sender, receiver) = mpsc::channel(STREAM_CHUNKS_WAITING);
    tokio::spawn(async move {
        let result = send_chunks(&door, cursor, first, &sender).await;
        let _ = sender.send(Outgoing::End(result)).await;
    });
    Ok(grpc::stream_response(receiver))
}

async fn send_chunks(
    door: &Door,
    mut cursor: RangeCursor,
    first: Option<pb::RangeResponse>,
    sender: &mpsc::Sender<Outgoing>,
) -> Result<(), Status> {
    let mut next = first;
    while let Some(mut chunk) = next {
        if chunk.header.is_some() {
            door.fill(&mut chunk.header);
        }
        let message = pb::RangeStreamResponse {
            range_response: Some(chunk),
        };
        if sender
            .send(Outgoing::Message(grpc::encode(&message)))
            .await
            .is_err()
        {
            return Ok(());
        }
        // A long list must not keep the other requests of this runtime waiting.
        tokio::task::yield_now().await;
        next = next_chunk(door, &mut cursor)?;
    }
    Ok(())
}

fn next_chunk(door: &Door, cursor: &mut RangeCursor) -> Result<Option<pb::RangeResponse>, Status> {
    let state = door.member.state();
    cursor
        .next(state.mvcc.as_ref(), door.config.max_request_bytes)
        .map_err(|error| server::from_mvcc(&error).into())
}

fn unexpected(what: &str, response: &apply::Response) -> Status {
    Status::new(
        api::Code::Internal,
        format!("{what} was answered by {response:?}"),
    )
}
