//! Snapshots: one POST whose body is the message and then the database (promise 8).
//!
//! The receiver saves the database, then steps the message, then answers 204; nothing else
//! counts as delivered. Every snapshot that is handed to us ends in exactly one report to
//! raft, whatever happens, since raft waits for it before it sends the peer anything else.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use raftpb::{MemberId, Message, MessageType};
use tokio::time::Instant;

use crate::client::{data_frame, read_whole};
use crate::codec::{Decoder, StreamKind, put_sized};
use crate::error::{Error, chain};
use crate::peer::Peer;
use crate::pipeline::{check_post, post_request};
use crate::ports::{BoxFuture, Raft, SnapshotSource};
use crate::transport::Shared;
use crate::url::PeerUrl;
use crate::version::header;

const PATH: &str = "/raft/snapshot";

/// The answer to a snapshot is empty or one line.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Sends one snapshot, and reports how it ended.
pub(crate) async fn send(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    message: Message,
    source: Box<dyn SnapshotSource>,
    report: Report,
) {
    let started = Instant::now();
    let index = snapshot_index(&message);
    let total_bytes = source.total_bytes();
    let url = peer.pick_url();
    tracing::info!(
        remote_peer_id = %peer.id, snapshot_index = index, bytes = total_bytes,
        "sending a database snapshot"
    );
    peer.stats.snapshot_sent.begin();
    let in_flight = InFlight {
        peer: peer.clone(),
        started,
        ended: false,
    };
    let posted = post(&shared, &url, &message, source).await;
    in_flight.end(posted.is_ok());
    match posted {
        Ok(()) => {
            let bytes = usize::try_from(total_bytes).unwrap_or(usize::MAX);
            peer.stats.add_sent(bytes);
            peer.activate();
            report.delivered();
            tracing::info!(
                remote_peer_id = %peer.id, snapshot_index = index, bytes = total_bytes,
                took_ms = started.elapsed().as_millis(),
                "sent a database snapshot"
            );
        }
        Err(error) => {
            tracing::warn!(
                remote_peer_id = %peer.id, snapshot_index = index, bytes = total_bytes, %error,
                "failed to send a database snapshot"
            );
            peer.url_failed(&url);
            peer.stats.add_sent_failure();
            peer.deactivate("snapshot", "post", &error.to_string());
            peer.report_unreachable();
            if let Error::Removed { said, .. } = &error {
                shared.raft.report_removed(peer.id, said);
            }
            report.failed(error.to_string());
        }
    }
}

/// The one report to raft; made as a failure when it is dropped without having been made.
pub(crate) struct Report {
    raft: Arc<dyn Raft>,
    to: MemberId,
    delivered: Result<(), String>,
}

impl Report {
    pub(crate) fn new(raft: Arc<dyn Raft>, to: MemberId) -> Report {
        Report {
            raft,
            to,
            delivered: Err("the transfer was cut off".to_owned()),
        }
    }

    fn delivered(mut self) {
        self.delivered = Ok(());
    }

    fn failed(mut self, reason: String) {
        self.delivered = Err(reason);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let delivered = std::mem::replace(&mut self.delivered, Ok(()));
        self.raft.report_snapshot(self.to, delivered);
    }
}

/// Counts a transfer that is cut off as failed.
struct InFlight {
    peer: Arc<Peer>,
    started: Instant,
    ended: bool,
}

impl InFlight {
    fn end(mut self, success: bool) {
        self.ended = true;
        let took = self.started.elapsed();
        self.peer.stats.snapshot_sent.end(success, took);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.ended {
            let took = self.started.elapsed();
            self.peer.stats.snapshot_sent.end(false, took);
        }
    }
}

async fn post(
    shared: &Arc<Shared>,
    url: &PeerUrl,
    message: &Message,
    source: Box<dyn SnapshotSource>,
) -> Result<(), Error> {
    let progress = Arc::new(Mutex::new(Progress {
        at: Instant::now(),
        sent: false,
        failed: None,
    }));
    let mut head = BytesMut::new();
    put_sized(message, &mut head);
    let body = SnapshotBody {
        head: Some(head.freeze()),
        reading: Reading::Idle(source),
        progress: progress.clone(),
    };
    let request = post_request(shared, url, PATH, "application/octet-stream", body);
    let exchange = async {
        let answer = shared.snapshot_client.send_once(url, request).await?;
        let (head, body) = answer.into_parts();
        let theirs = head.headers.get(header::CLUSTER_ID);
        let theirs = theirs.and_then(|value| value.to_str().ok());
        let text = read_whole(body, ANSWER_BYTES_MAX, url, PATH).await?;
        check_post(shared, url.with(PATH), head.status, theirs, &text)
    };
    let outcome = tokio::select! {
        outcome = exchange => outcome,
        waited = stalled(&progress, shared) => Err(Error::Timeout { url: url.with(PATH), waited }),
    };
    // What our own reader says is nearer to the cause than the broken connection.
    match (outcome, progress.lock().failed.take()) {
        (Err(_), Some(reason)) => Err(Error::Source {
            url: url.with(PATH),
            reason,
        }),
        (outcome, _) => outcome,
    }
}

struct Progress {
    /// When hyper last asked for bytes.
    at: Instant,
    /// All bytes were handed over; now the receiver syncs.
    sent: bool,
    failed: Option<String>,
}

/// Ends when there was no progress for too long.
async fn stalled(progress: &Mutex<Progress>, shared: &Shared) -> Duration {
    let timeouts = &shared.config.timeouts;
    loop {
        let (deadline, limit) = {
            let progress = progress.lock();
            let limit = if progress.sent {
                timeouts.snapshot_answer
            } else {
                timeouts.snapshot_stall
            };
            (progress.at + limit, limit)
        };
        if Instant::now() >= deadline {
            return limit;
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + timeouts.snapshot_stall)).await;
    }
}

struct SnapshotBody {
    head: Option<Bytes>,
    reading: Reading,
    progress: Arc<Mutex<Progress>>,
}

type ReadDone = (Box<dyn SnapshotSource>, io::Result<Option<Bytes>>);

enum Reading {
    Idle(Box<dyn SnapshotSource>),
    Busy(BoxFuture<'static, ReadDone>),
    Done,
}

impl Body for SnapshotBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let body = &mut *self;
        body.progress.lock().at = Instant::now();
        if let Some(head) = body.head.take() {
            return data_frame(head);
        }
        loop {
            match std::mem::replace(&mut body.reading, Reading::Done) {
                Reading::Done => return Poll::Ready(None),
                Reading::Idle(mut source) => {
                    body.reading = Reading::Busy(Box::pin(async move {
                        let read = source.read().await;
                        (source, read)
                    }));
                }
                Reading::Busy(mut read) => match read.as_mut().poll(cx) {
                    Poll::Pending => {
                        body.reading = Reading::Busy(read);
                        return Poll::Pending;
                    }
                    Poll::Ready((source, Ok(Some(bytes)))) => {
                        body.reading = Reading::Idle(source);
                        if !bytes.is_empty() {
                            return data_frame(bytes);
                        }
                    }
                    Poll::Ready((_, Ok(None))) => {
                        body.progress.lock().sent = true;
                        return Poll::Ready(None);
                    }
                    Poll::Ready((_, Err(error))) => {
                        body.progress.lock().failed = Some(error.to_string());
                        return Poll::Ready(Some(Err(error)));
                    }
                },
            }
        }
    }
}

/// Why a snapshot was not received.
#[derive(Debug)]
pub(crate) enum NotReceived {
    /// The message before the database: 400.
    BadMessage(String),
    /// Saving failed: 500.
    NotSaved(String),
    /// Raft did not or must not take the message: 500.
    NotStepped(&'static str),
}

/// Receives one snapshot: reads the message, saves the database, steps the message.
pub(crate) async fn receive(shared: &Shared, mut body: Incoming) -> Result<(), NotReceived> {
    let started = Instant::now();
    let config = &shared.config;
    let limit = config.limits.snapshot_message_bytes_max;
    let mut decoder = Decoder::new(StreamKind::Message, config.member_id, MemberId(0), limit);
    let message = loop {
        let bad = |reason: String| {
            NotReceived::BadMessage(format!("failed to decode raft message ({reason})"))
        };
        match decoder.next() {
            Ok(Some(message)) => break message,
            Ok(None) => match next_piece(shared, &mut body).await.map_err(bad)? {
                Some(piece) => decoder.push(piece),
                // Go's words for an end before, and an end within.
                None if decoder.take_rest().is_empty() => return Err(bad("EOF".to_owned())),
                None => return Err(bad("unexpected EOF".to_owned())),
            },
            Err(error) => return Err(bad(error.to_string())),
        }
    };
    let from = MemberId(message.from);
    if message.msg_type != MessageType::MsgSnap as i32 {
        return Err(NotReceived::BadMessage(
            "wrong raft message type".to_owned(),
        ));
    }
    if message
        .snapshot
        .as_ref()
        .is_none_or(|snapshot| snapshot.metadata.is_none())
    {
        let text = "snapshot message without metadata";
        return Err(NotReceived::BadMessage(text.to_owned()));
    }
    if shared.raft.is_removed(from) {
        return Err(NotReceived::NotStepped(
            "cannot process message from removed member",
        ));
    }
    if message.to != config.member_id.0 {
        return Err(NotReceived::NotStepped(
            "cannot process message to mismatch member",
        ));
    }
    let index = snapshot_index(&message);
    tracing::info!(%from, snapshot_index = index, "receiving a database snapshot");

    let peer = shared.find(from);
    if let Some(peer) = &peer {
        peer.stats.snapshot_received.begin();
    }
    let saved = save(shared, &mut body, &message, decoder.take_rest()).await;
    if let Some(peer) = &peer {
        let received = &peer.stats.snapshot_received;
        received.end(saved.is_ok(), started.elapsed());
    }
    let bytes = saved.map_err(|reason| {
        NotReceived::NotSaved(format!("failed to save KV snapshot ({reason})"))
    })?;
    tracing::info!(
        %from, snapshot_index = index, bytes, took_ms = started.elapsed().as_millis(),
        "received and saved a database snapshot"
    );
    if !shared.raft.process(vec![message]) {
        return Err(NotReceived::NotStepped("its queue is full or it stops"));
    }
    Ok(())
}

async fn save(
    shared: &Shared,
    body: &mut Incoming,
    message: &Message,
    first: Bytes,
) -> Result<u64, String> {
    let mut writer = shared
        .snapshots
        .receive(message)
        .await
        .map_err(|error| error.to_string())?;
    let mut bytes = 0;
    let mut piece = (!first.is_empty()).then_some(first);
    loop {
        if let Some(piece) = piece.take() {
            bytes += piece.len() as u64;
            writer
                .write(piece)
                .await
                .map_err(|error| error.to_string())?;
        }
        piece = next_piece(shared, body).await?;
        if piece.is_none() {
            break;
        }
    }
    writer.finish().await.map_err(|error| error.to_string())?;
    Ok(bytes)
}

async fn next_piece(shared: &Shared, body: &mut Incoming) -> Result<Option<Bytes>, String> {
    let limit = shared.config.timeouts.snapshot_stall;
    loop {
        let frame = tokio::time::timeout(limit, body.frame())
            .await
            .map_err(|_| format!("nothing arrived for {} ms", limit.as_millis()))?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(chain(&error)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn snapshot_index(message: &Message) -> u64 {
    let metadata = message.snapshot.as_ref().and_then(|s| s.metadata.as_ref());
    metadata.map_or(0, |metadata| metadata.index)
}
