//! The peer port: who may ask, and what is answered where. Statuses, headers and texts are
//! etcd's, since etcd members read them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header as names};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message as _;
use raftpb::{MemberId, Message, MessageType};
use serde::Deserialize;

use crate::client::{data_frame, exact_size};
use crate::clock::rfc3339;
use crate::codec::StreamKind;
use crate::error::chain;
use crate::lane::LaneBody;
use crate::leases;
use crate::ports::{HashKv, Refusal};
use crate::snapshot::{self, NotReceived};
use crate::transport::Shared;
use crate::twins::Found;
use crate::version::{CLUSTER_ID_MISMATCH, INCOMPATIBLE_VERSION, compatible, header};

/// The body of a question about leases or hashes. etcd: 64 KiB for leases, no limit for hashes.
const ASK_BYTES_MAX: usize = 64 << 10;

/// A body of ours: in memory, or the endless one of a stream.
pub(crate) enum PeerBody {
    Whole(Option<Bytes>),
    Stream(Box<LaneBody>),
}

impl Body for PeerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            PeerBody::Whole(bytes) => match bytes.take() {
                Some(bytes) => data_frame(bytes),
                None => Poll::Ready(None),
            },
            PeerBody::Stream(lane) => Pin::new(lane.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, PeerBody::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            PeerBody::Whole(bytes) => exact_size(bytes.as_ref()),
            PeerBody::Stream(_) => SizeHint::default(),
        }
    }
}

type Answer = Response<PeerBody>;

/// An answer that ends the handling early.
type Refused = Box<Answer>;

/// Answers one request on the peer port.
pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/raft" => post_message(&shared, request).await,
        "/raft/snapshot" => post_snapshot(&shared, request).await,
        "/raft/probing" => probing(),
        "/members" => members(&shared, request.method()),
        "/quorate/membership" => membership(&shared, request).await,
        "/members/hashkv" => hash_kv(&shared, request).await,
        "/leases" | "/leases/internal" => leases(&shared, request).await,
        "/downgrade/enabled" => downgrade_enabled(&shared, request.method()).await,
        "/version" => version(&shared, request.method()),
        other => {
            if let Some(rest) = other.strip_prefix("/raft/stream/") {
                stream(&shared, &request, rest)
            } else if let Some(id) = other.strip_prefix("/members/promote/") {
                promote(&shared, &request, id).await
            } else {
                text(StatusCode::NOT_FOUND, "404 page not found")
            }
        }
    }
}

async fn post_message(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    if let Err(refused) = allow(request.method(), Method::POST) {
        return *refused;
    }
    if let Err(refused) = check_asker(shared, request.headers()) {
        return with_cluster_id(shared, *refused);
    }
    if is_twin(shared, request.headers()) {
        return with_cluster_id(shared, not_processed());
    }
    note_stranger(shared, request.headers());
    let answer = match receive_message(shared, request.into_body()).await {
        Ok(()) => empty(StatusCode::NO_CONTENT),
        Err(refused) => *refused,
    };
    with_cluster_id(shared, answer)
}

async fn receive_message(shared: &Shared, body: Incoming) -> Result<(), Refused> {
    let posted = Posted::read(shared, body).await?;
    let size = posted.bytes.len();
    let message = Message::decode(posted.bytes.clone()).map_err(|error| {
        tracing::warn!(%error, bytes = size, "a posted raft message cannot be read");
        refuse(StatusCode::BAD_REQUEST, "error unmarshalling raft message")
    })?;
    let from = MemberId(message.from);
    if shared.raft.is_removed(from) || message.to != shared.config.member_id.0 {
        tracing::warn!(
            %from, to = %MemberId(message.to),
            "refused a posted raft message: its sender was removed, or it is meant for another"
        );
        return Err(not_processed().into());
    }
    if from == shared.config.member_id {
        // Nobody sends to itself: it is asked, before another process starts as this member,
        // whether one runs (`Asks::is_member`).
        tracing::warn!(
            "another process asks whether this member runs here: its data directory may have been copied"
        );
        return Ok(());
    }
    if message.msg_type == MessageType::MsgSnap as i32 {
        let refusal = "a snapshot message belongs to /raft/snapshot, before its database";
        return Err(refuse(StatusCode::BAD_REQUEST, refusal));
    }
    if let Some(peer) = shared.find(from) {
        peer.stats.add_received(size);
        if peer.is_paused() {
            return Ok(());
        }
        peer.dial_now();
    }
    if shared.raft.process(vec![message]) {
        Ok(())
    } else {
        Err(not_processed().into())
    }
}

/// What etcd answers to a message from a removed member or for another one. Its source means to
/// answer 403, by an interface that its error type does not fulfil; the running 3.7.3 says 500.
/// That is the better answer: at a 403 an etcd member stops for good, and one that dialled a
/// wrong URL must not. Who was removed learns it from its streams, by 410.
fn not_processed() -> Answer {
    text(
        StatusCode::INTERNAL_SERVER_ERROR,
        "error processing raft message",
    )
}

/// The body of a POST, counted against what all POSTs together may hold.
struct Posted<'a> {
    bytes: Bytes,
    /// Given back when the message has gone to raft.
    _held: Held<'a>,
}

struct Held<'a> {
    shared: &'a Shared,
    bytes: usize,
}

impl Held<'_> {
    fn grow(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let before = self.shared.post_bytes.fetch_add(bytes, Ordering::Relaxed);
        before + bytes <= self.shared.config.limits.posts_bytes_max
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.shared
            .post_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl<'a> Posted<'a> {
    async fn read(shared: &'a Shared, body: Incoming) -> Result<Posted<'a>, Refused> {
        let mut held = Held { shared, bytes: 0 };
        let limit = shared.config.limits.message_bytes_max;
        let bytes = read_body(shared, body, limit, |bytes| held.grow(bytes)).await;
        match bytes {
            Ok(bytes) => Ok(Posted { bytes, _held: held }),
            Err(Unread::Refused) => Err(refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many raft messages are being received",
            )),
            Err(Unread::TooLarge) => Err(refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                "request body too large",
            )),
            Err(Unread::Broken(reason)) => {
                tracing::warn!(reason, "failed to read a posted raft message");
                Err(refuse(
                    StatusCode::BAD_REQUEST,
                    "error reading raft message",
                ))
            }
        }
    }
}

enum Unread {
    TooLarge,
    Refused,
    Broken(String),
}

async fn read_body(
    shared: &Shared,
    mut body: Incoming,
    limit: usize,
    mut take: impl FnMut(usize) -> bool,
) -> Result<Bytes, Unread> {
    let mut whole = BytesMut::new();
    let patience = shared.config.timeouts.read;
    loop {
        let frame = tokio::time::timeout(patience, body.frame())
            .await
            .map_err(|_| Unread::Broken(format!("nothing for {} ms", patience.as_millis())))?;
        let Some(frame) = frame else {
            return Ok(whole.freeze());
        };
        let frame = frame.map_err(|error| Unread::Broken(chain(&error)))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.len() + data.len() > limit {
            return Err(Unread::TooLarge);
        }
        if !take(data.len()) {
            return Err(Unread::Refused);
        }
        whole.extend_from_slice(&data);
    }
}

async fn post_snapshot(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    if let Err(refused) = allow(request.method(), Method::POST) {
        return *refused;
    }
    if let Err(refused) = check_asker(shared, request.headers()) {
        return with_cluster_id(shared, *refused);
    }
    note_stranger(shared, request.headers());
    let answer = match shared.snapshot_permits.try_acquire() {
        Err(_) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many snapshots are being received",
        ),
        Ok(_permit) => match snapshot::receive(shared, request.into_body()).await {
            Ok(()) => empty(StatusCode::NO_CONTENT),
            Err(reason) => {
                tracing::warn!(?reason, "a database snapshot was not received");
                not_received(reason)
            }
        },
    };
    with_cluster_id(shared, answer)
}

fn not_received(reason: NotReceived) -> Answer {
    match reason {
        NotReceived::BadMessage(reason) => text(StatusCode::BAD_REQUEST, &reason),
        NotReceived::NotSaved(reason) => text(StatusCode::INTERNAL_SERVER_ERROR, &reason),
        NotReceived::NotStepped(reason) => {
            let reason = format!("failed to process raft message ({reason})");
            text(StatusCode::INTERNAL_SERVER_ERROR, &reason)
        }
    }
}

fn stream(shared: &Arc<Shared>, request: &Request<Incoming>, rest: &str) -> Answer {
    if let Err(refused) = allow(request.method(), Method::GET) {
        return *refused;
    }
    let headers = request.headers();
    let mut answer = match open_stream(shared, headers, rest) {
        Ok(body) => Response::new(PeerBody::Stream(Box::new(body))),
        Err(refused) => *refused,
    };
    put(
        answer.headers_mut(),
        header::SERVER_VERSION,
        &shared.config.server_version.to_string(),
    );
    with_cluster_id(shared, answer)
}

fn open_stream(shared: &Arc<Shared>, headers: &HeaderMap, rest: &str) -> Result<LaneBody, Refused> {
    check_asker(shared, headers)?;
    let (kind, from) = match rest.split_once('/') {
        Some(("msgapp", from)) => (StreamKind::MsgApp, from),
        Some(("message", from)) => (StreamKind::Message, from),
        _ => return Err(refuse(StatusCode::NOT_FOUND, "invalid path")),
    };
    if from.contains('/') {
        return Err(refuse(StatusCode::NOT_FOUND, "invalid path"));
    }
    let from =
        MemberId::from_hex(from).ok_or_else(|| refuse(StatusCode::NOT_FOUND, "invalid from"))?;
    if shared.raft.is_removed(from) {
        let when = shared.raft.removal(from);
        tracing::warn!(%from, when, "refused a stream to a member that was removed");
        // etcd's text, which nobody reads, and what helps the one who was removed.
        let text = when.map_or("removed member".to_owned(), |when| {
            format!("removed member: {when}")
        });
        return Err(refuse(StatusCode::GONE, &text));
    }
    refuse_twin(shared, from, headers)?;
    let Some(peer) = shared.find(from).filter(|peer| !peer.remote) else {
        note(shared, from, headers);
        tracing::warn!(%from, "refused a stream to a member that we do not know yet");
        return Err(refuse(StatusCode::NOT_FOUND, "error sender not found"));
    };
    let to = headers.get(header::RAFT_TO).map(HeaderValue::as_bytes);
    if to.unwrap_or_default() != shared.config.member_id.to_string().as_bytes() {
        tracing::warn!(%from, "refused a stream that is meant for another member");
        return Err(refuse(StatusCode::PRECONDITION_FAILED, "to field mismatch"));
    }
    peer.dial_now();
    let interval = shared.config.timeouts.heartbeat();
    Ok(LaneBody::attach(peer, kind, interval))
}

/// Of two processes that run as one member the newer one gets no stream.
fn refuse_twin(shared: &Shared, from: MemberId, headers: &HeaderMap) -> Result<(), Refused> {
    let process = headers.get(header::PROCESS);
    let process = process.and_then(|process| MemberId::from_hex(process.to_str().ok()?));
    let Some(MemberId(process)) = process else {
        return Ok(());
    };
    match shared.twins.dials(from, process, std::time::Instant::now()) {
        Found::Alone => return Ok(()),
        Found::Twin => {
            tracing::error!(
                %from, urls = ?headers.get(header::PEER_URLS),
                "two processes run as this member: its data directory was copied; the one that came later is refused"
            );
            return Ok(());
        }
        Found::Refused => {}
    }
    Err(refuse(
        StatusCode::CONFLICT,
        "it was here first and is still connected",
    ))
}

/// What a process that was found out still posts is not taken either.
fn is_twin(shared: &Shared, headers: &HeaderMap) -> bool {
    let number = |name| {
        let text = headers.get(name)?.to_str().ok()?;
        MemberId::from_hex(text)
    };
    match (number(header::SERVER_FROM), number(header::PROCESS)) {
        (Some(from), Some(process)) => shared.twins.is_refused(from, process.0),
        _ => false,
    }
}

fn probing() -> Answer {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let body = format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", rfc3339(now));
    let mut answer = whole(StatusCode::OK, body);
    put(
        answer.headers_mut(),
        "content-type",
        "text/plain; charset=utf-8",
    );
    answer
}

fn members(shared: &Shared, method: &Method) -> Answer {
    if let Err(refused) = allow(method, Method::GET) {
        return *refused;
    }
    with_cluster_id(shared, members_json(shared.api.members()))
}

fn members_json(members: Bytes) -> Answer {
    let mut line = BytesMut::from(&members[..]);
    line.extend_from_slice(b"\n");
    json(line.freeze())
}

async fn promote(shared: &Shared, request: &Request<Incoming>, id: &str) -> Answer {
    if let Err(refused) = allow(request.method(), Method::POST) {
        return *refused;
    }
    let answer = match id.parse::<u64>() {
        Err(_) => {
            let refusal = format!("member {id} not found in cluster");
            text(StatusCode::NOT_FOUND, &refusal)
        }
        Ok(id) => {
            let token = request.headers().get(names::AUTHORIZATION);
            let token = token
                .and_then(|token| token.to_str().ok())
                .map(str::to_owned);
            match shared.api.promote(MemberId(id), token).await {
                Ok(members) => members_json(members),
                Err(refusal) => refused(&refusal),
            }
        }
    };
    with_cluster_id(shared, answer)
}

async fn membership(shared: &Shared, request: Request<Incoming>) -> Answer {
    if let Err(refused) = allow(request.method(), Method::POST) {
        return *refused;
    }
    let theirs = request.headers().get(header::CLUSTER_ID);
    let ours = shared.config.cluster_id.to_string();
    if theirs.map(HeaderValue::as_bytes) != Some(ours.as_bytes()) {
        return text(StatusCode::PRECONDITION_FAILED, CLUSTER_ID_MISMATCH);
    }
    let question = match ask_body(shared, request).await {
        Ok(question) => question,
        Err(refused) => return *refused,
    };
    let answer = match shared.api.membership(question).await {
        Ok(answer) => json(answer),
        Err(refusal) => refused(&refusal),
    };
    with_cluster_id(shared, answer)
}

#[derive(Deserialize)]
struct HashKvRequest {
    #[serde(default)]
    revision: i64,
}

async fn hash_kv(shared: &Shared, request: Request<Incoming>) -> Answer {
    if let Err(refused) = allow(request.method(), Method::GET) {
        return *refused;
    }
    let theirs = request.headers().get(header::CLUSTER_ID);
    let theirs = theirs.map(HeaderValue::as_bytes).unwrap_or_default();
    let ours = shared.config.cluster_id.to_string();
    if !theirs.is_empty() && theirs != ours.as_bytes() {
        return text(StatusCode::PRECONDITION_FAILED, CLUSTER_ID_MISMATCH);
    }
    let body = match ask_body(shared, request).await {
        Ok(body) => body,
        Err(refused) => return *refused,
    };
    let Ok(asked) = serde_json::from_slice::<HashKvRequest>(&body) else {
        return text(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    match shared.api.hash_kv(asked.revision).await {
        Ok(hash) => with_cluster_id(shared, json(hash_kv_json(&hash).into())),
        Err(refusal) => refused(&refusal),
    }
}

/// Zero fields are left out, as Go leaves them out; the header is always there.
fn hash_kv_json(hash: &HashKv) -> String {
    let mut body = match hash.revision {
        0 => "{\"header\":{}".to_owned(),
        revision => format!("{{\"header\":{{\"revision\":{revision}}}"),
    };
    for (name, value) in [
        ("hash", i64::from(hash.hash)),
        ("compact_revision", hash.compact_revision),
        ("hash_revision", hash.hash_revision),
    ] {
        if value != 0 {
            body.push_str(&format!(",\"{name}\":{value}"));
        }
    }
    body.push('}');
    body
}

async fn leases(shared: &Shared, request: Request<Incoming>) -> Answer {
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    }
    let internal = request.uri().path() == "/leases/internal";
    let body = match ask_body(shared, request).await {
        Ok(body) => body,
        Err(refused) => return *refused,
    };
    let unreadable = || text(StatusCode::BAD_REQUEST, "error unmarshalling request");
    let answered = if internal {
        let Some((lease, keys)) = leases::read_time_to_live(body) else {
            return unreadable();
        };
        let answered = shared.api.lease_time_to_live(lease, keys).await;
        answered.map(leases::time_to_live_answer)
    } else {
        let Some(lease) = leases::read_renew(body) else {
            return unreadable();
        };
        let answered = shared.api.lease_renew(lease).await;
        answered.map(|ttl| leases::renew_answer(lease, ttl))
    };
    match answered {
        Ok(body) => {
            let mut answer = whole(StatusCode::OK, body);
            put(answer.headers_mut(), "content-type", "application/protobuf");
            answer
        }
        Err(refusal) => refused(&refusal),
    }
}

async fn ask_body(shared: &Shared, request: Request<Incoming>) -> Result<Bytes, Refused> {
    let read = read_body(shared, request.into_body(), ASK_BYTES_MAX, |_| true).await;
    read.map_err(|unread| match unread {
        Unread::TooLarge => refuse(StatusCode::PAYLOAD_TOO_LARGE, "request body too large"),
        Unread::Refused | Unread::Broken(_) => {
            refuse(StatusCode::BAD_REQUEST, "error reading body")
        }
    })
}

async fn downgrade_enabled(shared: &Shared, method: &Method) -> Answer {
    if let Err(refused) = allow(method, Method::GET) {
        return *refused;
    }
    let answer = match shared.api.downgrade_enabled().await {
        Ok(enabled) => {
            let mut answer = whole(StatusCode::OK, enabled.to_string());
            put(answer.headers_mut(), "content-type", "text/plain");
            answer
        }
        Err(refusal) => refused(&refusal),
    };
    with_cluster_id(shared, answer)
}

fn version(shared: &Shared, method: &Method) -> Answer {
    match allow(method, Method::GET) {
        Ok(()) => json(shared.api.version()),
        Err(refused) => *refused,
    }
}

/// Whether the asker's version and cluster go with ours.
fn check_asker(shared: &Shared, headers: &HeaderMap) -> Result<(), Refused> {
    let config = &shared.config;
    let from = || headers.get(header::SERVER_FROM).cloned();
    if !compatible(headers, config.server_version, config.min_cluster_version) {
        tracing::warn!(
            from = ?from(), version = ?headers.get(header::SERVER_VERSION),
            min_cluster_version = ?headers.get(header::MIN_CLUSTER_VERSION),
            "refused a peer of an incompatible version"
        );
        return Err(refuse(
            StatusCode::PRECONDITION_FAILED,
            INCOMPATIBLE_VERSION,
        ));
    }
    let theirs = headers.get(header::CLUSTER_ID).map(HeaderValue::as_bytes);
    if theirs.unwrap_or_default() != config.cluster_id.to_string().as_bytes() {
        tracing::warn!(
            from = ?from(), theirs = ?headers.get(header::CLUSTER_ID), ours = %config.cluster_id,
            "refused a peer of another cluster"
        );
        return Err(refuse(StatusCode::PRECONDITION_FAILED, CLUSTER_ID_MISMATCH));
    }
    Ok(())
}

/// Notes who posts to us without being a peer yet (quirk 34).
fn note_stranger(shared: &Shared, headers: &HeaderMap) {
    let from = headers.get(header::SERVER_FROM);
    let from = from.and_then(|from| MemberId::from_hex(from.to_str().ok()?));
    if let Some(from) = from {
        note(shared, from, headers);
    }
}

fn note(shared: &Shared, from: MemberId, headers: &HeaderMap) {
    let urls = headers.get(header::PEER_URLS);
    let urls = urls.and_then(|urls| urls.to_str().ok()).unwrap_or_default();
    if urls.is_empty() {
        return;
    }
    let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
    if let Err(error) = shared.add_remote(from, &urls) {
        tracing::warn!(%from, %error, "a stranger's URLs cannot be used");
    }
}

fn allow(method: &Method, allowed: Method) -> Result<(), Refused> {
    if *method == allowed {
        return Ok(());
    }
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    put(answer.headers_mut(), "allow", allowed.as_str());
    Err(answer.into())
}

fn refused(refusal: &Refusal) -> Answer {
    if refusal.json {
        json_message(refusal.status, &refusal.text)
    } else {
        text(refusal.status, &refusal.text)
    }
}

fn with_cluster_id(shared: &Shared, mut answer: Answer) -> Answer {
    let id = shared.config.cluster_id.to_string();
    put(answer.headers_mut(), header::CLUSTER_ID, &id);
    answer
}

/// A line of text, as Go's `http.Error` writes it.
fn text(status: StatusCode, line: &str) -> Answer {
    let mut answer = whole(status, format!("{line}\n"));
    let headers = answer.headers_mut();
    put(headers, "content-type", "text/plain; charset=utf-8");
    put(headers, "x-content-type-options", "nosniff");
    answer
}

fn refuse(status: StatusCode, line: &str) -> Refused {
    Box::new(text(status, line))
}

fn json_message(status: StatusCode, message: &str) -> Answer {
    let body = serde_json::json!({ "message": message }).to_string();
    let mut answer = json(body.into());
    *answer.status_mut() = status;
    answer
}

fn json(body: Bytes) -> Answer {
    let mut answer = whole(StatusCode::OK, body);
    put(answer.headers_mut(), "content-type", "application/json");
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(PeerBody::Whole(None));
    *answer.status_mut() = status;
    answer
}

fn whole(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(PeerBody::Whole(Some(body.into())));
    *answer.status_mut() = status;
    answer
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => {
            headers.insert(name, value);
        }
        Err(_) => tracing::warn!(name, value, "a header was left out: not a valid value"),
    }
}
