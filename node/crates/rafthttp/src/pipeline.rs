//! The way for messages that have no stream: one POST for each, a few in flight.
//!
//! It is used until the peer has dialled its streams, and toward strangers. Nothing runs while
//! nothing waits: a worker is started by the message that needs it and ends with the queue.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use prost::Message as _;
use raftpb::Message;

use crate::error::Error;
use crate::lane::weight;
use crate::peer::Peer;
use crate::transport::Shared;
use crate::url::PeerUrl;
use crate::version::{CLUSTER_ID_MISMATCH, INCOMPATIBLE_VERSION, header};

/// Answers to POSTs are empty or one line.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// In the text of a 403 that does not mean that we were removed.
const MISMATCH: &str = "mismatch member";

/// What waits to be posted to one peer.
pub(crate) struct Pipeline {
    messages_max: usize,
    bytes_max: usize,
    workers_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Message>,
    bytes: usize,
    workers: usize,
}

impl Pipeline {
    pub(crate) fn new(messages_max: usize, bytes_max: usize, workers_max: usize) -> Pipeline {
        Pipeline {
            messages_max,
            bytes_max,
            workers_max,
            state: Mutex::new(State::default()),
        }
    }

    /// `false`: the queue is full, and the message was dropped.
    pub(crate) fn push(&self, message: Message) -> bool {
        let bytes = weight(&message);
        let mut state = self.state.lock();
        let full = state.queue.len() >= self.messages_max
            || (state.bytes > 0 && state.bytes + bytes > self.bytes_max);
        if !full {
            state.bytes += bytes;
            state.queue.push_back(message);
        }
        !full
    }

    /// How many workers should be started for what waits; they are counted as started.
    fn claim_workers(&self) -> usize {
        let mut state = self.state.lock();
        let more = state
            .queue
            .len()
            .min(self.workers_max - state.workers.min(self.workers_max));
        state.workers += more;
        more
    }

    /// The next message, or `None`: then the worker is counted as ended.
    fn pop(&self) -> Option<Message> {
        let mut state = self.state.lock();
        match state.queue.pop_front() {
            Some(message) => {
                state.bytes -= weight(&message);
                Some(message)
            }
            None => {
                state.workers -= 1;
                None
            }
        }
    }
}

/// Starts workers for what waits.
pub(crate) fn run(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    for _ in 0..peer.pipeline.claim_workers() {
        let task = tokio::spawn(work(shared.clone(), peer.clone()));
        peer.own(task.abort_handle());
    }
}

async fn work(shared: Arc<Shared>, peer: Arc<Peer>) {
    while let Some(message) = peer.pipeline.pop() {
        let body = Bytes::from(message.encode_to_vec());
        let size = body.len();
        let url = peer.pick_url();
        let posted = post(&shared, &url, body).await;
        match posted {
            Ok(()) => {
                peer.stats.add_sent(size);
                peer.activate();
            }
            Err(error) => {
                peer.url_failed(&url);
                peer.stats.add_sent_failure();
                peer.deactivate("pipeline", "write", &error.to_string());
                peer.report_unreachable();
                if let Error::Removed { said, .. } = &error {
                    shared.raft.report_removed(peer.id, said);
                }
            }
        }
    }
}

async fn post(shared: &Shared, url: &PeerUrl, body: Bytes) -> Result<(), Error> {
    let request = || {
        post_request(
            shared,
            url,
            "/raft",
            "application/protobuf",
            Full::new(body.clone()),
        )
    };
    let exchange = shared
        .pipeline_client
        .exchange(url, request, ANSWER_BYTES_MAX);
    let within = shared.config.timeouts.post;
    let answer = tokio::time::timeout(within, exchange)
        .await
        .map_err(|_| Error::Timeout {
            url: url.with("/raft"),
            waited: within,
        })??;
    let theirs = answer
        .headers
        .get(header::CLUSTER_ID)
        .and_then(|value| value.to_str().ok());
    check_post(
        shared,
        url.with("/raft"),
        answer.status,
        theirs,
        &answer.body,
    )
}

/// A POST as etcd makes it, for messages and snapshots.
pub(crate) fn post_request<B>(
    shared: &Shared,
    url: &PeerUrl,
    path: &'static str,
    content_type: &'static str,
    body: B,
) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(path);
    let headers = request.headers_mut();
    shared.identify(headers, url);
    headers.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(content_type),
    );
    request
}

/// Only 204 is success (promise 8).
pub(crate) fn check_post(
    shared: &Shared,
    url: String,
    status: StatusCode,
    theirs: Option<&str>,
    body: &[u8],
) -> Result<(), Error> {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_end_matches('\n');
    match status {
        StatusCode::NO_CONTENT => Ok(()),
        // etcd stops a member at any 403. It also answers 403 to a message that reached the wrong
        // member, and stopping for a wrong URL would turn a typing error into a lost voter.
        StatusCode::FORBIDDEN if !text.contains(MISMATCH) => Err(Error::Removed {
            url,
            said: text.to_owned(),
        }),
        StatusCode::PRECONDITION_FAILED => Err(precondition(shared, url, theirs, text)),
        other => Err(Error::Status {
            url,
            status: other.as_u16(),
            body: text.to_owned(),
        }),
    }
}

/// What a 412 means.
pub(crate) fn precondition(
    shared: &Shared,
    url: String,
    theirs: Option<&str>,
    text: &str,
) -> Error {
    match text {
        INCOMPATIBLE_VERSION => Error::IncompatibleVersion {
            url,
            ours: shared.config.server_version.to_string(),
        },
        CLUSTER_ID_MISMATCH => Error::ClusterIdMismatch {
            url,
            theirs: theirs.unwrap_or("unknown").to_owned(),
            ours: shared.config.cluster_id.to_string(),
        },
        other => Error::Status {
            url,
            status: 412,
            body: other.to_owned(),
        },
    }
}
