//! The door between an operator and the API server: counts, remembers, cuts off, lags, forgets, and is in trouble.
//!
//! The operator speaks plain HTTP to it; it speaks TLS to the API server with the operator's own token, so that
//! rights are those of the shipped ServiceAccount. What is called a change here is every request that is not a
//! read, and neither of the leader's lease, nor an Event, nor what is told of a member in its status (in whole
//! runs that counts too). What the operator asks of members is counted here as well, where the test has put a door
//! before them (calls.rs).
//!
//! An end between two changes is the same for the world wherever it falls: so a door that closes counts the
//! changes that took effect. An apply that changes nothing is none.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::dice::Dice;

/// When the door closes for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The change of this number (from 1) does not reach the API server or the member.
    Before(usize),
    /// It does, and its answer does not come back.
    After(usize),
    /// The request of this number does not, reads counted too.
    Request(usize),
}

/// One request as it came by.
#[derive(Debug, Clone)]
pub struct Seen {
    /// GET, POST, …
    pub method: Method,
    /// path without the query
    pub path: String,
    /// it stays open, and brings what is new
    pub is_watch: bool,
    /// what came with it
    pub body: Bytes,
    /// when
    pub at: Instant,
    /// what the API server answered; 0 until then
    pub status: u16,
}

impl Seen {
    /// It went to the API server; a cluster behind a door has the calls of its members here too.
    pub fn is_to_the_api_server(&self) -> bool {
        self.path.starts_with("/api/") || self.path.starts_with("/apis/")
    }

    /// Not a read, and not one of those that only tell.
    pub fn is_change(&self) -> bool {
        is_change(&self.method, &self.path)
    }
}

fn is_change(method: &Method, path: &str) -> bool {
    let told = path.contains("/quoratemembers/") && path.ends_with("/status");
    method != Method::GET && !told && !path.contains("/leases") && !path.contains("/events")
}

/// What counts for a door that closes.
fn counts(method: &Method, path: &str) -> bool {
    let tells = crate::world::whole() && method != Method::GET && path.ends_with("/status");
    tells || is_change(method, path)
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    requests: usize,
    changes: usize,
    cut: Option<Cut>,
    /// bodies of reads by URI, as they were when they were last read
    kept: HashMap<String, Bytes>,
    /// words in the paths of what lags
    lagging: &'static [&'static str],
    /// paths of watches that are to begin anew
    expired: BTreeSet<String>,
    /// paths of all watches
    watches: BTreeSet<String>,
    trouble: Option<Dice>,
}

/// A running door; it closes when it is dropped.
pub struct Door {
    /// where the operator finds it
    pub url: String,
    gate: Arc<Gate>,
    task: tokio::task::JoinHandle<()>,
}

/// What passes it, and what does not.
pub struct Gate {
    client: Client,
    state: Mutex<State>,
    closed: watch::Sender<bool>,
    lagging: watch::Sender<&'static [&'static str]>,
    deaf: watch::Sender<bool>,
}

type Answer = Response<UnsyncBoxBody<Bytes, kube::Error>>;

impl Door {
    /// Opens a door with the rights of a kubeconfig.
    pub async fn open(kubeconfig: &Path, cut: Option<Cut>) -> Self {
        let client = crate::world::client_of(kubeconfig).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let gate = Arc::new(Gate {
            client,
            state: Mutex::new(State {
                cut,
                ..State::default()
            }),
            closed: watch::Sender::new(false),
            lagging: watch::Sender::new(&[]),
            deaf: watch::Sender::new(false),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&gate)));
        Self { url, gate, task }
    }

    /// What else is to count what passes, and to be cut off with it.
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Waits until it has closed itself; `false`: it has not within this time.
    pub async fn wait_closed(&self, at_most: Duration) -> bool {
        let mut closed = self.gate.closed.subscribe();
        tokio::time::timeout(at_most, closed.wait_for(|closed| *closed))
            .await
            .is_ok()
    }

    /// Changes that took effect.
    pub fn changes(&self) -> usize {
        self.gate.with(|state| state.changes)
    }

    /// Everything that came by.
    pub fn seen(&self) -> Vec<Seen> {
        self.gate.with(|state| state.seen.clone())
    }

    /// From now on watches of these paths bring nothing new, and what was read of them last is read again.
    /// Without paths all is as it was.
    pub fn lag(&self, paths: &'static [&'static str]) {
        self.gate.with(|state| state.lagging = paths);
        self.gate.lagging.send_replace(paths);
    }

    /// While it is deaf the events of all watches are lost. Afterwards the API server does not remember them
    /// either, as when more has happened than it keeps.
    pub fn deaf(&self, deaf: bool) {
        if !deaf {
            self.gate
                .with(|state| state.expired.clone_from(&state.watches));
        }
        self.gate.deaf.send_replace(deaf);
    }

    /// From now on one change in three is answered with a conflict or another error; of some it is not true.
    pub fn trouble(&self, dice: Option<Dice>) {
        self.gate.with(|state| state.trouble = dice);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
        self.gate.close();
    }
}

async fn serve(listener: tokio::net::TcpListener, gate: Arc<Gate>) {
    while let Ok((stream, _)) = listener.accept().await {
        let gate = Arc::clone(&gate);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let gate = Arc::clone(&gate);
                async move { Ok::<_, Infallible>(gate.pass(request).await) }
            });
            let mut closed = gate.closed.subscribe();
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
        });
    }
}

/// What a change meets on bad days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Conflict,
    Busy,
    Broken,
    /// it takes effect, and the answer says otherwise
    Lost,
}

impl Gate {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("nobody panics with it"))
    }

    /// Lets nothing pass any more.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    async fn pass(&self, request: Request<Incoming>) -> Answer {
        let (mut parts, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return refusal(StatusCode::BAD_REQUEST);
        };
        let body = body.to_bytes();
        let uri = parts.uri.to_string();
        let path = parts.uri.path().to_owned();
        let counted = counts(&parts.method, &path);
        let Some(number) = self.note(&parts.method, &path, body.clone(), counted) else {
            return refusal(StatusCode::BAD_GATEWAY);
        };
        let is_read = parts.method == Method::GET;
        let is_watch = is_read && uri.contains("watch=");
        self.with(|state| state.seen[number].is_watch = is_watch);
        if let Some(answer) = self.before(&uri, &path, is_read, is_watch) {
            return answer;
        }
        let trouble = if is_change(&parts.method, &path) {
            self.roll()
        } else {
            None
        };
        if let Some(trouble) = trouble.filter(|trouble| *trouble != Trouble::Lost) {
            return in_trouble(trouble);
        }
        parts.headers.remove(http::header::HOST);
        parts.headers.remove(http::header::AUTHORIZATION);
        let request = Request::from_parts(parts, Body::from(body));
        let answer = match self.client.send(request).await {
            Ok(answer) => answer,
            Err(error) => {
                eprintln!("door: {uri}: {error}");
                return refusal(StatusCode::BAD_GATEWAY);
            }
        };
        self.with(|state| state.seen[number].status = answer.status().as_u16());
        if is_watch {
            return self.watched(answer, path);
        }
        let (parts, body) = answer.into_parts();
        let Ok(body) = body.collect().await else {
            return refusal(StatusCode::BAD_GATEWAY);
        };
        let body = body.to_bytes();
        if is_read {
            self.with(|state| state.kept.insert(uri, body.clone()));
        }
        if counted && parts.status.is_success() && took_effect(&path, &body) && self.done() {
            return refusal(StatusCode::BAD_GATEWAY);
        }
        if let Some(trouble) = trouble {
            return in_trouble(trouble);
        }
        Response::from_parts(parts, whole(body))
    }

    /// Remembers a request; its number, or nothing when it does not pass.
    pub fn note(&self, method: &Method, path: &str, body: Bytes, counted: bool) -> Option<usize> {
        let passes = self.with(|state| {
            let number = state.seen.len();
            state.seen.push(Seen {
                method: method.clone(),
                path: path.to_owned(),
                is_watch: false,
                body,
                at: Instant::now(),
                status: 0,
            });
            if !path.contains("/leases") {
                state.requests += 1;
            }
            let stops = *self.closed.borrow()
                || match state.cut {
                    Some(Cut::Before(at)) => counted && state.changes + 1 >= at,
                    Some(Cut::After(at)) => counted && state.changes >= at,
                    Some(Cut::Request(at)) => state.requests >= at,
                    None => false,
                };
            (!stops).then_some(number)
        });
        if passes.is_none() {
            self.close();
        }
        passes
    }

    /// A change took effect; whether its answer is held back.
    pub fn done(&self) -> bool {
        let last = self.with(|state| {
            state.changes += 1;
            matches!(state.cut, Some(Cut::After(at)) if state.changes >= at)
        });
        if last {
            self.close();
        }
        last
    }

    /// What is answered without asking the API server.
    fn before(&self, uri: &str, path: &str, is_read: bool, is_watch: bool) -> Option<Answer> {
        self.with(|state| {
            if is_watch {
                state.watches.insert(path.to_owned());
                return state.expired.remove(path).then(expired);
            }
            if is_read && lags(state.lagging, path) {
                return state.kept.get(uri).cloned().map(old_news);
            }
            None
        })
    }

    fn roll(&self) -> Option<Trouble> {
        self.with(|state| {
            let dice = state.trouble.as_mut()?;
            match dice.below(12) {
                0 => Some(Trouble::Conflict),
                1 => Some(Trouble::Busy),
                2 => Some(Trouble::Broken),
                3 => Some(Trouble::Lost),
                _ => None,
            }
        })
    }

    /// A watch, whose events wait while the door lags, and are lost while it is deaf.
    fn watched(&self, answer: Response<Body>, path: String) -> Answer {
        let lagging = self.lagging.subscribe();
        let deaf = self.deaf.subscribe();
        let (parts, body) = answer.into_parts();
        let state = (body, lagging, deaf, path);
        let frames = futures::stream::unfold(
            state,
            |(mut body, mut lagging, mut deaf, path)| async move {
                let frame = tokio::select! {
                    frame = body.frame() => Some(frame),
                    () = is(&mut deaf, true) => None,
                };
                let Some(frame) = frame else {
                    return lost(body, deaf).await;
                };
                let frame = frame?;
                keeps_up(&mut lagging, &path).await;
                let heard = !*deaf.borrow();
                if heard {
                    Some((frame, (body, lagging, deaf, path)))
                } else {
                    lost(body, deaf).await
                }
            },
        );
        Response::from_parts(parts, StreamBody::new(frames).boxed_unsync())
    }
}

/// Reads what comes, and ends when the door is no longer deaf.
async fn lost<T>(mut body: Body, mut deaf: watch::Receiver<bool>) -> Option<T> {
    let mut open = true;
    while open {
        tokio::select! {
            frame = body.frame() => open = frame.is_some(),
            () = is(&mut deaf, false) => return None,
        }
    }
    is(&mut deaf, false).await;
    None
}

async fn is(deaf: &mut watch::Receiver<bool>, wanted: bool) {
    // A door that is gone changes nothing any more.
    let _ = deaf.wait_for(|deaf| *deaf == wanted).await;
}

async fn keeps_up(lagging: &mut watch::Receiver<&'static [&'static str]>, path: &str) {
    let _ = lagging.wait_for(|words| !lags(words, path)).await;
}

fn lags(words: &[&str], path: &str) -> bool {
    words.iter().any(|word| path.contains(word))
}

/// Whether a change that was answered well has changed anything: the object has another version than before.
fn took_effect(path: &str, body: &[u8]) -> bool {
    static VERSIONS: Mutex<Option<HashMap<String, String>>> = Mutex::new(None);
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(version) = answer["metadata"]["resourceVersion"].as_str() else {
        return true;
    };
    let path = path.trim_end_matches("/status").to_owned();
    let mut versions = VERSIONS.lock().expect("nobody panics with it");
    let before = versions
        .get_or_insert_default()
        .insert(path, version.to_owned());
    before.as_deref() != Some(version)
}

fn whole(bytes: Bytes) -> UnsyncBoxBody<Bytes, kube::Error> {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn refusal(status: StatusCode) -> Answer {
    let mut answer = Response::new(whole(Bytes::from_static(b"the door is closed")));
    *answer.status_mut() = status;
    answer
}

fn old_news(body: Bytes) -> Answer {
    in_json(StatusCode::OK, body)
}

fn in_json(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(whole(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    answer
}

/// What the API server says to a watch from a version that it no longer has.
fn expired() -> Answer {
    let event =
        json!({"type": "ERROR", "object": complaint(410, "Expired", "too old resource version")});
    in_json(StatusCode::OK, format!("{event}\n").into())
}

fn complaint(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message})
}

fn in_trouble(trouble: Trouble) -> Answer {
    let (code, reason) = match trouble {
        Trouble::Conflict => (StatusCode::CONFLICT, "Conflict"),
        Trouble::Busy => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        Trouble::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        Trouble::Lost => (StatusCode::GATEWAY_TIMEOUT, "Timeout"),
    };
    let body = complaint(code.as_u16(), reason, "so says the door");
    in_json(code, body.to_string().into())
}
