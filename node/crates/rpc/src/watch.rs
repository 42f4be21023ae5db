//! Watch: a client's stream of watches over the hub's (etcd `v3rpc/watch.go`).
//!
//! One task per stream reads requests and sends responses. It takes from the hub's queue only
//! as fast as the client reads; a slow client fills its own queue and nobody else's.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use api::etcdserverpb::watch_request::RequestUnion;
use http::Response;
use mvcc::watch::{WatchStream, fragments};
use tokio::sync::{Notify, mpsc};

use crate::door::{Call, Door};
use crate::grpc::{self, Messages, Outgoing, ReplyBody, Status};

/// Responses between the hub's queue and the socket.
const RESPONSES_WAITING: usize = 16;

/// While this many answers to requests wait, no further request is read (etcd
/// `ctrlStreamBufLen`).
const ANSWERS_WAITING_MAX: usize = 16;

/// Watch.Watch
pub fn watch(
    door: Arc<Door>,
    call: Call,
    messages: Messages,
) -> Result<Response<ReplyBody>, Status> {
    door.admit(call, false)?;
    let (sender, receiver) = mpsc::channel(RESPONSES_WAITING);
    tokio::spawn(async move {
        let result = serve(&door, call, messages, &sender).await;
        let _ = sender.send(Outgoing::End(result)).await;
    });
    Ok(grpc::stream_response(receiver))
}

async fn serve(
    door: &Door,
    call: Call,
    messages: Messages,
    sender: &mpsc::Sender<Outgoing>,
) -> Result<(), Status> {
    let wake = Arc::new(Notify::new());
    let stream = door.member.state().mvcc.watch_stream({
        let wake = wake.clone();
        Box::new(move || wake.notify_one())
    });
    let room = Notify::new();
    let mut stopping = door.member.stopping();
    tokio::select! {
        result = read_requests(door, &stream, messages, &room) => result,
        result = send_responses(door, &stream, &wake, &room, sender) => result,
        status = leader_lost(door), if call.require_leader => Err(status),
        () = sender.closed() => Ok(()),
        _ = stopping.wait_for(Option::is_some) => Err(api::Error::Stopped.into()),
    }
}

/// Ends when the client has said that it sends no more, or broke the stream.
async fn read_requests(
    door: &Door,
    stream: &WatchStream,
    mut messages: Messages,
    room: &Notify,
) -> Result<(), Status> {
    loop {
        while stream.waiting_answers() >= ANSWERS_WAITING_MAX {
            room.notified().await;
        }
        let request = match messages.next::<pb::WatchRequest>().await {
            Ok(Some(request)) => request,
            // etcd goes on sending until the client is gone.
            Ok(None) => return std::future::pending().await,
            Err(status) if status.code == api::Code::Canceled => {
                return Err(api::Error::WatchCanceled.into());
            }
            Err(status) => {
                let stats = &door.member.shared.counters.stats;
                stats.count_stream_failure("receive", "watch");
                return Err(status);
            }
        };
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => stream.create(&create),
            Some(RequestUnion::CancelRequest(cancel)) => stream.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => stream.request_progress(),
            None => tracing::info!("ignored a watch request of no type"),
        }
    }
}

async fn send_responses(
    door: &Door,
    stream: &WatchStream,
    wake: &Notify,
    room: &Notify,
    sender: &mpsc::Sender<Outgoing>,
) -> Result<(), Status> {
    let interval = progress_interval(door.config.watch_progress_notify_interval);
    let mut progress = tokio::time::interval_at((Instant::now() + interval).into(), interval);
    progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let Some(response) = stream.next() else {
            tokio::select! {
                () = wake.notified() => {}
                _ = progress.tick() => stream.progress_tick(),
            }
            continue;
        };
        room.notify_one();
        let may_fragment = response.may_fragment();
        let message = response
            .into_message(stream.mvcc())
            .map_err(|error| Status::from(server::from_mvcc(&error)))?;
        let parts = if may_fragment {
            fragments(message, door.config.message_bytes_max())
        } else {
            vec![message]
        };
        for mut part in parts {
            door.fill(&mut part.header);
            let events = &door.member.shared.counters.stats.events;
            events.fetch_add(part.events.len() as u64, Ordering::Relaxed);
            if sender
                .send(Outgoing::Message(grpc::encode(&part)))
                .await
                .is_err()
            {
                return Ok(());
            }
        }
    }
}

/// Ends once there has been no leader for three election time-outs (etcd's stream interceptor).
async fn leader_lost(door: &Door) -> Status {
    let patience = 3 * door.member.config.election_timeout();
    let mut leadership = door.member.shared.leadership();
    loop {
        // Nothing wakes a stream while there is a leader; there are many streams.
        if leadership
            .wait_for(|soft| soft.leader.is_none())
            .await
            .is_err()
        {
            return api::Error::Stopped.into();
        }
        let found = leadership.wait_for(|soft| soft.leader.is_some());
        if tokio::time::timeout(patience, found).await.is_err() {
            return api::Error::NoLeader.into();
        }
    }
}

/// The interval with up to a tenth more, so that streams do not all report at once.
fn progress_interval(interval: Duration) -> Duration {
    let spread = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos() % 1000);
    interval + interval / 10 * spread / 1000
}
