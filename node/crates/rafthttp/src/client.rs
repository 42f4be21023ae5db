//! The one place where HTTP clients are made (promises 4 and 9).
//!
//! | made by | for | connections |
//! |---|---|---|
//! | [`Client::for_streams`] | the two endless GETs of each peer | one each, driven by the task that reads it, never used again |
//! | [`Client::for_pipeline`] | POST of one message | kept, and used again only while the listener cannot have timed it out |
//! | [`Client::for_snapshots`] | POST of a database | one each |
//! | [`Client::for_asks`] | `/version`, `/members`, probes … | as the pipeline where asked for, else one each |
//!
//! A peer's listener closes connections that are idle for its read time-out (5 s in etcd and
//! here). A client that uses a connection at that very moment loses its request for no reason,
//! and it looks like a dead peer (promise 5). So an idle connection is used again only in the
//! first half of that time, and a request that fails on a used connection is sent once more on
//! a new one.

use std::collections::HashMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::Timeouts;
use crate::deadline::DeadlineStream;
use crate::error::{Error, chain};
use crate::url::PeerUrl;

/// Idle connections kept for one peer: as many as the pipeline has POSTs in flight.
const IDLE_PER_PEER_MAX: usize = 4;

/// The transport's own HTTP client.
#[derive(Clone)]
pub(crate) struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    dial: Duration,
    write: Duration,
    /// How long an idle connection may be used again; zero: never.
    reuse: Duration,
    /// Until the kernel gives up on bytes that the peer does not acknowledge.
    user_timeout: Option<Duration>,
    idle: Mutex<HashMap<String, Vec<Idle>>>,
}

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

impl Client {
    /// For streams: no connection is used twice.
    pub(crate) fn for_streams(timeouts: &Timeouts) -> Client {
        Client::new(timeouts, timeouts.write, Duration::ZERO, None)
    }

    /// For POSTs of single messages.
    pub(crate) fn for_pipeline(timeouts: &Timeouts) -> Client {
        Client::new(
            timeouts,
            timeouts.write,
            timeouts.reuse(),
            Some(timeouts.post),
        )
    }

    /// For databases: a receiver may pause for its disk longer than other peers may.
    pub(crate) fn for_snapshots(timeouts: &Timeouts) -> Client {
        let stall = timeouts.snapshot_stall;
        Client::new(timeouts, stall, Duration::ZERO, Some(stall))
    }

    /// For single questions.
    pub(crate) fn for_asks(timeouts: &Timeouts) -> Client {
        Client::new(timeouts, timeouts.write, timeouts.reuse(), None)
    }

    fn new(
        timeouts: &Timeouts,
        write: Duration,
        reuse: Duration,
        user_timeout: Option<Duration>,
    ) -> Client {
        Client {
            inner: Arc::new(Inner {
                dial: timeouts.dial,
                write,
                reuse,
                user_timeout,
                idle: Mutex::new(HashMap::new()),
            }),
        }
    }

    /// Opens a TCP connection.
    async fn connect(&self, url: &PeerUrl, path: &str) -> Result<TokioIo<DeadlineStream>, Error> {
        let dialled = TcpStream::connect((url.host(), url.port()));
        let tcp = match tokio::time::timeout(self.inner.dial, dialled).await {
            Err(_) => {
                return Err(Error::Unreachable {
                    url: url.with(path),
                    reason: format!("no connection within {} ms", self.inner.dial.as_millis()),
                });
            }
            Ok(Err(error)) => {
                return Err(Error::Unreachable {
                    url: url.with(path),
                    reason: error.to_string(),
                });
            }
            Ok(Ok(tcp)) => tcp,
        };
        set_options(&tcp, self.inner.user_timeout);
        Ok(TokioIo::new(DeadlineStream::new(tcp, self.inner.write)))
    }

    /// Sends a request without a body and gives the head of the answer, together with the
    /// connection, which the caller drives by reading it.
    pub(crate) async fn open_stream(
        &self,
        url: &PeerUrl,
        request: Request<Empty<Bytes>>,
        head_within: Duration,
    ) -> Result<(Response<()>, StreamBody), Error> {
        let path = request.uri().path().to_owned();
        let broken = |error: &hyper::Error| Error::Broken {
            url: url.with(&path),
            reason: chain(error),
        };
        let io = self.connect(url, &path).await?;
        let (mut sender, connection) = http1::handshake(io).await.map_err(|e| broken(&e))?;
        let mut connection = Box::pin(connection);
        let mut ended = false;
        let answer = {
            let mut answer = pin!(sender.send_request(request));
            let head = std::future::poll_fn(|cx| {
                if !ended {
                    ended = connection.as_mut().poll(cx).is_ready();
                }
                answer.as_mut().poll(cx)
            });
            tokio::time::timeout(head_within, head)
                .await
                .map_err(|_| Error::Timeout {
                    url: url.with(&path),
                    waited: head_within,
                })?
                .map_err(|e| broken(&e))?
        };
        let (head, body) = answer.into_parts();
        let stream = StreamBody {
            connection: (!ended).then_some(connection),
            body,
            _sender: sender,
        };
        Ok((Response::from_parts(head, ()), stream))
    }

    /// Sends a request on a connection of its own, which a task of its own drives.
    pub(crate) async fn send_once<B>(
        &self,
        url: &PeerUrl,
        request: Request<B>,
    ) -> Result<Response<Incoming>, Error>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = request.uri().path().to_owned();
        let mut sender = self.handshake(url, &path).await?;
        sender
            .send_request(request)
            .await
            .map_err(|error| Error::Broken {
                url: url.with(&path),
                reason: chain(&error),
            })
    }

    /// A connected sender, right before its request: what the caller measures from here is the
    /// way to the peer and back, without the time to connect.
    pub(crate) async fn handshake<B>(
        &self,
        url: &PeerUrl,
        path: &str,
    ) -> Result<SendRequest<B>, Error>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let io = self.connect(url, path).await?;
        let (sender, connection) = http1::handshake(io).await.map_err(|error| Error::Broken {
            url: url.with(path),
            reason: chain(&error),
        })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %chain(&error), "a connection to a peer ended");
            }
        });
        Ok(sender)
    }

    /// Sends a request that may be sent twice, and reads the whole answer. Uses an idle
    /// connection if there is a young one, and keeps the connection afterwards.
    pub(crate) async fn exchange(
        &self,
        url: &PeerUrl,
        request: impl Fn() -> Request<Full<Bytes>>,
        answer_bytes_max: usize,
    ) -> Result<Whole, Error> {
        let path = request().uri().path().to_owned();
        if let Some(sender) = self.take_idle(url) {
            match self
                .try_exchange(url, &path, sender, request(), answer_bytes_max)
                .await
            {
                Err(Error::Broken { reason, .. }) => {
                    tracing::debug!(
                        url = url.with(&path),
                        reason,
                        "an idle connection was closed"
                    );
                }
                done => return done,
            }
        }
        let sender = self.handshake(url, &path).await?;
        self.try_exchange(url, &path, sender, request(), answer_bytes_max)
            .await
    }

    async fn try_exchange(
        &self,
        url: &PeerUrl,
        path: &str,
        mut sender: SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
        answer_bytes_max: usize,
    ) -> Result<Whole, Error> {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| Error::Broken {
                url: url.with(path),
                reason: chain(&error),
            })?;
        let (head, body) = answer.into_parts();
        let body = read_whole(body, answer_bytes_max, url, path).await?;
        self.keep(url, sender).await;
        Ok(Whole {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    fn take_idle(&self, url: &PeerUrl) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.inner.idle.lock();
        let waiting = idle.get_mut(url.authority())?;
        waiting.retain(|idle| idle.since.elapsed() < self.inner.reuse && idle.sender.is_ready());
        let youngest = waiting.pop().map(|idle| idle.sender);
        if waiting.is_empty() {
            idle.remove(url.authority());
        }
        youngest
    }

    async fn keep(&self, url: &PeerUrl, mut sender: SendRequest<Full<Bytes>>) {
        if self.inner.reuse.is_zero() || sender.ready().await.is_err() {
            return;
        }
        let mut idle = self.inner.idle.lock();
        let reuse = self.inner.reuse;
        idle.retain(|_, waiting| {
            waiting.retain(|idle| idle.since.elapsed() < reuse);
            !waiting.is_empty()
        });
        let waiting = idle.entry(url.authority().to_owned()).or_default();
        if waiting.len() < IDLE_PER_PEER_MAX {
            waiting.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
    }

    /// Closes what is idle.
    pub(crate) fn close_idle(&self) {
        self.inner.idle.lock().clear();
    }
}

/// A whole answer.
pub(crate) struct Whole {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Reads an answer's body to its end.
pub(crate) async fn read_whole(
    mut body: Incoming,
    bytes_max: usize,
    url: &PeerUrl,
    path: &str,
) -> Result<Bytes, Error> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::Broken {
            url: url.with(path),
            reason: chain(&error),
        })?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > bytes_max {
                return Err(Error::TooLarge {
                    url: url.with(path),
                    limit: bytes_max,
                });
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

type StreamConnection = Connection<TokioIo<DeadlineStream>, Empty<Bytes>>;

/// The body of a stream, with the connection under it. Reading drives the connection in the
/// same task, so that no other task has to be woken for each piece.
pub(crate) struct StreamBody {
    connection: Option<Pin<Box<StreamConnection>>>,
    body: Incoming,
    _sender: SendRequest<Empty<Bytes>>,
}

impl StreamBody {
    /// The next bytes, or `None` at the end.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        loop {
            if let Some(connection) = &mut self.connection
                && connection.as_mut().poll(cx).is_ready()
            {
                self.connection = None;
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(Ok(data))),
                    Err(_trailers) => {}
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// What the body still says, for an answer that is not a stream. At most `bytes_max` bytes
    /// and `within` a time.
    pub(crate) async fn text(&mut self, bytes_max: usize, within: Duration) -> String {
        let mut text = Vec::new();
        let read = async {
            while let Some(Ok(data)) = std::future::poll_fn(|cx| self.poll_data(cx)).await {
                text.extend_from_slice(&data);
                if text.len() > bytes_max {
                    break;
                }
            }
        };
        // What arrived in time is good enough for a log line.
        let _ = tokio::time::timeout(within, read).await;
        text.truncate(bytes_max);
        String::from_utf8_lossy(&text).trim_end().to_owned()
    }
}

/// Sets what every peer connection has. A socket that refuses an option still works.
pub(crate) fn set_options(tcp: &TcpStream, user_timeout: Option<Duration>) {
    let socket = socket2::SockRef::from(tcp);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    let outcome = tcp
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(user_timeout));
    if let Err(error) = outcome {
        tracing::debug!(%error, "a socket option was refused");
    }
}

/// A [`Frame`] of data.
pub(crate) fn data_frame<E>(bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, E>>> {
    Poll::Ready(Some(Ok(Frame::data(bytes))))
}

/// The size of a body that is in memory.
pub(crate) fn exact_size(bytes: Option<&Bytes>) -> SizeHint {
    SizeHint::with_exact(bytes.map_or(0, Bytes::len) as u64)
}
