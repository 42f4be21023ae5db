//! The streams that we dial: a peer's messages reach us over connections that we open.
//!
//! ```text
//!  dial ──▶ read: bytes ─▶ decoder ─▶ batch ─▶ raft
//!    ▲         │ end, error, silence for the read time-out
//!    └─ pause ◀┘  100 ms, doubled up to a second; ended at once when the peer dials us
//! ```

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use raftpb::{Message, MessageType};
use tokio::time::Instant;

use crate::client::StreamBody;
use crate::codec::{Decoder, StreamKind, is_link_heartbeat};
use crate::error::{Error, chain};
use crate::lane::weight;
use crate::peer::Peer;
use crate::pipeline::precondition;
use crate::transport::Shared;
use crate::url::PeerUrl;
use crate::version::header;

/// Bytes of messages that go to raft in one batch. What is ready on the socket is taken
/// together, up to this, so that one wake of the raft thread serves it all.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// An answer that is not a stream is one line.
const REFUSAL_BYTES_MAX: usize = 4096;

/// Dials and reads one stream of one peer until the peer is stopped.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, kind: StreamKind) {
    let timeouts = &shared.config.timeouts;
    let mut pause = timeouts.redial;
    loop {
        let started = Instant::now();
        let url = peer.pick_url();
        match dial(&shared, &peer, &url, kind).await {
            Err(error) => {
                peer.url_failed(&url);
                peer.deactivate(kind.name(), "dial", &error.to_string());
                match &error {
                    Error::Removed { said, .. } => {
                        tracing::error!(%error, "a peer refuses our stream for good");
                        shared.raft.report_removed(peer.id, said);
                    }
                    Error::Twin { said, .. } => shared.raft.report_twin(peer.id, said),
                    _ => {}
                }
                pause = (pause * 2).min(timeouts.redial_max.max(timeouts.redial));
            }
            Ok(body) => {
                pause = timeouts.redial;
                peer.activate();
                tracing::info!(
                    remote_peer_id = %peer.id, stream = kind.name(),
                    "opened a peer's stream"
                );
                let ended = read(&shared, &peer, &url, kind, body).await;
                match &ended {
                    // The peer closed it in order, for example to accept a newer one.
                    Ok(()) => {}
                    Err(error) => peer.deactivate(kind.name(), "read", &error.to_string()),
                }
                tracing::warn!(
                    remote_peer_id = %peer.id, stream = kind.name(),
                    reason = %ended.err().map_or("closed by the peer".to_owned(), |e| e.to_string()),
                    "lost a peer's stream"
                );
            }
        }
        // Attempts are never closer than the redial time, whoever asks for haste.
        tokio::time::sleep_until(started + timeouts.redial).await;
        if pause > timeouts.redial {
            let asked = peer.redial[kind as usize].notified();
            // Either way it is time to dial.
            let _ = tokio::time::timeout(pause - timeouts.redial, asked).await;
        }
    }
}

async fn dial(
    shared: &Shared,
    peer: &Peer,
    url: &PeerUrl,
    kind: StreamKind,
) -> Result<StreamBody, Error> {
    let config = &shared.config;
    let path = format!("{}/{}", kind.path(), config.member_id);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path
        .parse()
        .expect("a fixed path and hexadecimal digits are a valid URI");
    let headers = request.headers_mut();
    shared.identify(headers, url);
    headers.insert(
        header::RAFT_TO,
        HeaderValue::try_from(peer.id.to_string()).expect("hexadecimal digits are a valid header"),
    );
    let (head, mut body) = shared
        .stream_client
        .open_stream(url, request, config.timeouts.read)
        .await?;
    let status = head.status();
    if status == StatusCode::OK {
        return Ok(body);
    }
    let text = body.text(REFUSAL_BYTES_MAX, config.timeouts.read).await;
    let url = url.with(&path);
    let theirs = head
        .headers()
        .get(header::CLUSTER_ID)
        .and_then(|value| value.to_str().ok());
    Err(match status {
        StatusCode::GONE => Error::Removed { url, said: text },
        StatusCode::CONFLICT => Error::Twin { url, said: text },
        StatusCode::NOT_FOUND => Error::Unknown { url },
        StatusCode::PRECONDITION_FAILED => precondition(shared, url, theirs, &text),
        other => Error::Status {
            url,
            status: other.as_u16(),
            body: text,
        },
    })
}

/// Reads until the stream ends. `Ok` is an end in order.
async fn read(
    shared: &Shared,
    peer: &Peer,
    url: &PeerUrl,
    kind: StreamKind,
    mut body: StreamBody,
) -> Result<(), Error> {
    let config = &shared.config;
    let limit = config.limits.message_bytes_max;
    let mut decoder = Decoder::new(kind, config.member_id, peer.id, limit);
    let mut silence = Silence::new(config.timeouts.read);
    let mut timer = pin!(tokio::time::sleep(config.timeouts.read / LOOKS));
    loop {
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        let mut end = None;
        std::future::poll_fn(|cx| {
            loop {
                match body.poll_data(cx) {
                    Poll::Ready(Some(Ok(data))) => {
                        silence.broken = true;
                        peer.stats.add_received(data.len());
                        decoder.push(data);
                        if let Err(error) = drain(&mut decoder, &mut batch, &mut batch_bytes) {
                            end = Some(Err(Error::Codec {
                                url: url.with(kind.path()),
                                error,
                            }));
                            return Poll::Ready(());
                        }
                        if batch_bytes >= BATCH_BYTES_MAX {
                            return Poll::Ready(());
                        }
                    }
                    Poll::Ready(Some(Err(error))) => {
                        end = Some(Err(Error::Broken {
                            url: url.with(kind.path()),
                            reason: chain(&error),
                        }));
                        return Poll::Ready(());
                    }
                    Poll::Ready(None) => {
                        end = Some(Ok(()));
                        return Poll::Ready(());
                    }
                    Poll::Pending if !batch.is_empty() => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            while timer.as_mut().poll(cx).is_ready() {
                match silence.next() {
                    Some(deadline) => timer.as_mut().reset(deadline),
                    None => {
                        end = Some(Err(Error::Timeout {
                            url: url.with(kind.path()),
                            waited: silence.limit,
                        }));
                        return Poll::Ready(());
                    }
                }
            }
            Poll::Pending
        })
        .await;
        deliver(shared, peer, batch);
        if let Some(end) = end {
            return end;
        }
    }
}

fn drain(
    decoder: &mut Decoder,
    batch: &mut Vec<Message>,
    batch_bytes: &mut usize,
) -> Result<(), crate::codec::Error> {
    while let Some(message) = decoder.next()? {
        if !is_link_heartbeat(&message) {
            *batch_bytes += weight(&message);
            batch.push(message);
        }
    }
    Ok(())
}

/// Hands messages to raft, without those that a stream must not bring.
fn deliver(shared: &Shared, peer: &Peer, mut batch: Vec<Message>) {
    if batch.is_empty() || peer.is_paused() {
        return;
    }
    let mut known_good = None;
    batch.retain(|message| {
        if known_good != Some(message.from) {
            if shared.raft.is_removed(raftpb::MemberId(message.from)) {
                return refuse(peer, message, "its sender was removed from the cluster");
            }
            known_good = Some(message.from);
        }
        if message.to != shared.config.member_id.0 {
            return refuse(peer, message, "it is meant for another member");
        }
        if message.msg_type == MessageType::MsgSnap as i32 {
            return refuse(peer, message, "a snapshot without its database");
        }
        true
    });
    let count = batch.len();
    if count > 0 && !shared.raft.process(batch) {
        let failures = peer.stats.add_received_failure();
        if failures.is_power_of_two() {
            tracing::warn!(
                remote_peer_id = %peer.id, count, batches_so_far = failures,
                "raft did not take messages from a peer: its queue is full or it stops"
            );
        }
    }
}

fn refuse(peer: &Peer, message: &Message, reason: &str) -> bool {
    let failures = peer.stats.add_received_failure();
    if failures.is_power_of_two() {
        tracing::warn!(
            remote_peer_id = %peer.id, message_type = message.msg_type, from = %raftpb::MemberId(message.from),
            to = %raftpb::MemberId(message.to), reason, so_far = failures,
            "refused a raft message from a stream"
        );
    }
    false
}

/// Finds silence without setting a timer for each piece that arrives: the timer fires now and
/// then and looks whether anything came since it last looked. Silence is noticed after one
/// read time-out at least and a quarter of it more at most.
struct Silence {
    limit: Duration,
    broken: bool,
    quiet: u32,
}

/// Looks in one read time-out.
const LOOKS: u32 = 4;

impl Silence {
    fn new(limit: Duration) -> Silence {
        Silence {
            limit,
            broken: true,
            quiet: 0,
        }
    }

    /// The next time to look, or `None` when it was silent for too long.
    fn next(&mut self) -> Option<Instant> {
        self.quiet = if self.broken { 0 } else { self.quiet + 1 };
        self.broken = false;
        (self.quiet < LOOKS).then(|| Instant::now() + self.limit / LOOKS)
    }
}
