//! The door between an operator and the API server: counts, remembers, cuts off, and lags.
//!
//! The operator speaks plain HTTP to it; it speaks TLS to the API server with the operator's own token, so that
//! rights are those of the shipped ServiceAccount. What is called a change here is every request that is not a
//! read, and neither of the leader's lease, nor an Event, nor what is told of a member in its status.

use std::collections::HashMap;
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
use tokio::sync::watch;

/// When the door closes for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The change of this number (from 1) does not reach the API server.
    Before(usize),
    /// It does, and its answer does not come back.
    After(usize),
}

/// One request as it came by.
#[derive(Debug, Clone)]
pub struct Seen {
    /// GET, POST, …
    pub method: Method,
    /// path without the query
    pub path: String,
    /// when
    pub at: Instant,
    /// what the API server answered; 0 until then
    pub status: u16,
}

impl Seen {
    /// Not a read, and not one of those that only tell.
    pub fn is_change(&self) -> bool {
        is_change(&self.method, &self.path)
    }
}

fn is_change(method: &Method, path: &str) -> bool {
    let told = path.contains("/quoratemembers/") && path.ends_with("/status");
    method != Method::GET && !told && !path.contains("/leases") && !path.contains("/events")
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    changes: usize,
    cut: Option<Cut>,
    /// while it lags: bodies of reads by URI
    kept: HashMap<String, Bytes>,
}

/// A running door; it closes when it is dropped.
pub struct Door {
    /// where the operator finds it
    pub url: String,
    inner: Arc<Inner>,
    task: tokio::task::JoinHandle<()>,
}

struct Inner {
    client: Client,
    state: Mutex<State>,
    closed: watch::Sender<bool>,
    lagging: watch::Sender<bool>,
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
        let inner = Arc::new(Inner {
            client,
            state: Mutex::new(State {
                cut,
                ..State::default()
            }),
            closed: watch::Sender::new(false),
            lagging: watch::Sender::new(false),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&inner)));
        Self { url, inner, task }
    }

    /// Waits until it has closed itself; `false`: it has not within this time.
    pub async fn wait_closed(&self, at_most: Duration) -> bool {
        let mut closed = self.inner.closed.subscribe();
        tokio::time::timeout(at_most, closed.wait_for(|closed| *closed))
            .await
            .is_ok()
    }

    /// Everything that came by.
    pub fn seen(&self) -> Vec<Seen> {
        self.inner
            .state
            .lock()
            .expect("nobody panics with it")
            .seen
            .clone()
    }

    /// From now on watches bring nothing new, and what was read before is read again.
    pub fn lag(&self, lag: bool) {
        self.inner.lagging.send_replace(lag);
        if !lag {
            self.inner
                .state
                .lock()
                .expect("nobody panics with it")
                .kept
                .clear();
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
        self.inner.closed.send_replace(true);
    }
}

async fn serve(listener: tokio::net::TcpListener, inner: Arc<Inner>) {
    while let Ok((stream, _)) = listener.accept().await {
        let inner = Arc::clone(&inner);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let inner = Arc::clone(&inner);
                async move { Ok::<_, Infallible>(inner.pass(request).await) }
            });
            let mut closed = inner.closed.subscribe();
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
        });
    }
}

impl Inner {
    async fn pass(&self, request: Request<Incoming>) -> Answer {
        let (mut parts, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return refusal(StatusCode::BAD_REQUEST);
        };
        let uri = parts.uri.to_string();
        let path = parts.uri.path().to_owned();
        let (number, verdict) = self.note(&parts.method, &path);
        if verdict == Verdict::Close {
            self.closed.send_replace(true);
            return refusal(StatusCode::BAD_GATEWAY);
        }
        let is_read = parts.method == Method::GET;
        let is_watch = is_read && uri.contains("watch=");
        if is_read && !is_watch && *self.lagging.borrow() {
            let kept = self
                .state
                .lock()
                .expect("nobody panics with it")
                .kept
                .get(&uri)
                .cloned();
            if let Some(kept) = kept {
                return old_news(kept);
            }
        }
        parts.headers.remove(http::header::HOST);
        parts.headers.remove(http::header::AUTHORIZATION);
        let request = Request::from_parts(parts, Body::from(body.to_bytes()));
        let answer = self.client.send(request).await;
        if verdict == Verdict::PassThenClose {
            self.closed.send_replace(true);
            return refusal(StatusCode::BAD_GATEWAY);
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                eprintln!("door: {uri}: {error}");
                return refusal(StatusCode::BAD_GATEWAY);
            }
        };
        self.state.lock().expect("nobody panics with it").seen[number].status =
            answer.status().as_u16();
        if is_watch {
            return self.watched(answer);
        }
        if is_read && *self.lagging.borrow() {
            let (parts, body) = answer.into_parts();
            let Ok(body) = body.collect().await else {
                return refusal(StatusCode::BAD_GATEWAY);
            };
            let body = body.to_bytes();
            self.state
                .lock()
                .expect("nobody panics with it")
                .kept
                .insert(uri, body.clone());
            return Response::from_parts(parts, whole(body));
        }
        answer.map(BodyExt::boxed_unsync)
    }

    /// Remembers a request, and says what becomes of it.
    fn note(&self, method: &Method, path: &str) -> (usize, Verdict) {
        let mut state = self.state.lock().expect("nobody panics with it");
        let number = state.seen.len();
        state.seen.push(Seen {
            method: method.clone(),
            path: path.to_owned(),
            at: Instant::now(),
            status: 0,
        });
        if *self.closed.borrow() {
            return (number, Verdict::Close);
        }
        if !is_change(method, path) {
            return (number, Verdict::Pass);
        }
        state.changes += 1;
        let verdict = match state.cut {
            Some(Cut::Before(at)) if state.changes >= at => Verdict::Close,
            Some(Cut::After(at)) if state.changes > at => Verdict::Close,
            Some(Cut::After(at)) if state.changes == at => Verdict::PassThenClose,
            _ => Verdict::Pass,
        };
        (number, verdict)
    }

    /// A watch, whose events wait while the door lags.
    fn watched(&self, answer: Response<Body>) -> Answer {
        let lagging = self.lagging.subscribe();
        let (parts, body) = answer.into_parts();
        let frames =
            futures::stream::unfold((body, lagging), |(mut body, mut lagging)| async move {
                let frame = body.frame().await?;
                let _ = lagging.wait_for(|lagging| !*lagging).await;
                Some((frame, (body, lagging)))
            });
        Response::from_parts(parts, StreamBody::new(frames).boxed_unsync())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    PassThenClose,
    Close,
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
    let mut answer = Response::new(whole(body));
    answer.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    answer
}
