//! A gRPC client over one HTTP/2 connection, made to cost little: a load generator on the machine of the
//! servers takes its processor time from them.
//!
//! ```text
//!   Connection ── cloned per user ── call(method, framed request) ─▶ Reply{messages, bytes}
//!        │                           open(method) ─▶ Exchange ── send, next
//!        └── a task that drives the socket; small writes are gathered (see `gather`)
//! ```
//!
//! No TLS, no name resolution beyond the socket's own, no retries: who uses it opens a new connection.

mod frame;
mod gather;

use std::fmt;
use std::future::poll_fn;

use bytes::{Buf as _, Bytes};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Uri};
use prost::Message;
use tokio::net::TcpStream;

use frame::Messages;
pub use frame::framed;
use gather::Gather;

/// What a server may send on one stream before we answer: a page of ten thousand values at once.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// And on all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// Why a call gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The server answered with a gRPC status other than OK.
    #[error("{text} (code {code})")]
    Status {
        /// gRPC's number
        code: u32,
        /// the server's words
        text: String,
    },
    /// The connection or the stream broke, or what came was no gRPC. The connection should be opened anew.
    #[error("{0}")]
    Broken(String),
}

impl Error {
    /// Whether another call on this connection is likely to fail too.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Broken(_))
    }

    fn broken(what: &str, error: impl fmt::Display) -> Self {
        Self::Broken(format!("{what}: {error}"))
    }
}

/// What came back from a call.
#[derive(Debug, Default)]
pub struct Reply {
    /// The first message; empty where it was not asked for.
    pub message: Bytes,
    /// Bytes of all messages, with their frames.
    pub bytes: u64,
}

/// One HTTP/2 connection; clones share it.
#[derive(Debug, Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    template: Request<()>,
}

impl Connection {
    /// Connects to `host:port` and hands the socket to a task of the running tokio runtime.
    pub async fn open(endpoint: &str) -> Result<Self, Error> {
        let broken = |error: &dyn fmt::Display| {
            Error::broken(&format!("cannot connect to {endpoint}"), error)
        };
        let socket = TcpStream::connect(endpoint)
            .await
            .map_err(|error| broken(&error))?;
        socket.set_nodelay(true).map_err(|error| broken(&error))?;
        let (sender, driver) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .enable_push(false)
            .handshake(Gather::new(socket))
            .await
            .map_err(|error| broken(&error))?;
        // Its end, with or without an error, is seen by every stream of the connection.
        tokio::spawn(driver);
        Ok(Self {
            sender,
            template: template(endpoint)?,
        })
    }

    /// A request of this connection for `/package.Service/Method`, to be cloned for each call.
    pub fn method(&self, path: &'static str) -> Result<Request<()>, Error> {
        let mut request = self.template.clone();
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static(path));
        *request.uri_mut() =
            Uri::from_parts(parts).map_err(|error| Error::broken("not a method", error))?;
        Ok(request)
    }

    /// One request, one answer or a stream of answers that is read to its end.
    ///
    /// `request` is [`framed`]. With `keep` the first message is given back, else it is only counted.
    pub async fn call(
        &mut self,
        method: Request<()>,
        request: Bytes,
        keep: bool,
    ) -> Result<Reply, Error> {
        let (mut send, answer) = self.begin(method).await?;
        send.send_data(request, true)
            .map_err(|error| Error::broken("cannot send", error))?;
        let (head, mut body) = answer
            .await
            .map_err(|error| Error::broken("no answer", error))?
            .into_parts();
        if head.status != http::StatusCode::OK {
            return Err(Error::Broken(format!(
                "HTTP status {}, expected 200",
                head.status
            )));
        }
        let mut reply = Reply::default();
        let mut messages = Messages::default();
        while let Some(data) = body.data().await {
            let data = data.map_err(|error| Error::broken("the answer broke off", error))?;
            reply.bytes += data.len() as u64;
            release(&mut body, data.len())?;
            if keep && reply.message.is_empty() {
                messages.push(data);
                reply.message = messages.next()?.unwrap_or_default();
            }
        }
        finish(&head.headers, &mut body).await?;
        Ok(reply)
    }

    /// [`Connection::call`] with messages in and out.
    pub async fn ask<Answer: Message + Default>(
        &mut self,
        path: &'static str,
        request: &impl Message,
    ) -> Result<Answer, Error> {
        let method = self.method(path)?;
        let reply = self.call(method, framed(request), true).await?;
        Answer::decode(reply.message).map_err(|error| Error::broken(path, error))
    }

    /// Opens a stream in both directions.
    pub async fn exchange(&mut self, path: &'static str) -> Result<Exchange, Error> {
        let method = self.method(path)?;
        let (send, answer) = self.begin(method).await?;
        Ok(Exchange {
            send,
            receive: Receive::Waiting(answer),
            messages: Messages::default(),
        })
    }

    async fn begin(
        &mut self,
        method: Request<()>,
    ) -> Result<(SendStream<Bytes>, h2::client::ResponseFuture), Error> {
        poll_fn(|cx| self.sender.poll_ready(cx))
            .await
            .map_err(|error| Error::broken("the connection ended", error))?;
        let (answer, send) = self
            .sender
            .send_request(method, false)
            .map_err(|error| Error::broken("cannot send", error))?;
        Ok((send, answer))
    }
}

/// A stream of messages in both directions.
#[derive(Debug)]
pub struct Exchange {
    send: SendStream<Bytes>,
    receive: Receive,
    messages: Messages,
}

#[derive(Debug)]
enum Receive {
    Waiting(h2::client::ResponseFuture),
    Open {
        headers: HeaderMap,
        body: RecvStream,
    },
}

impl Exchange {
    /// Sends one message; it waits in memory while the server's window is closed.
    pub fn send(&mut self, message: &impl Message) -> Result<(), Error> {
        self.send
            .send_data(framed(message), false)
            .map_err(|error| Error::broken("cannot send", error))
    }

    /// The next message; `None` when the server ended the stream without an error.
    pub async fn next<Answer: Message + Default>(&mut self) -> Result<Option<Answer>, Error> {
        if let Receive::Waiting(answer) = &mut self.receive {
            let (head, body) = answer
                .await
                .map_err(|error| Error::broken("no answer", error))?
                .into_parts();
            self.receive = Receive::Open {
                headers: head.headers,
                body,
            };
        }
        let Receive::Open { headers, body } = &mut self.receive else {
            unreachable!("opened just now")
        };
        loop {
            if let Some(message) = self.messages.next()? {
                return Answer::decode(message)
                    .map(Some)
                    .map_err(|error| Error::broken("not the message that was expected", error));
            }
            match body.data().await {
                Some(data) => {
                    let data =
                        data.map_err(|error| Error::broken("the stream broke off", error))?;
                    release(body, data.len())?;
                    self.messages.push(data);
                }
                None => return finish(headers, body).await.map(|()| None),
            }
        }
    }
}

fn template(endpoint: &str) -> Result<Request<()>, Error> {
    const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
    const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
    const AGENT: HeaderValue =
        HeaderValue::from_static(concat!("quorate/", env!("CARGO_PKG_VERSION")));
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://{endpoint}/"))
        .header(CONTENT_TYPE, GRPC)
        .header(TE, TRAILERS)
        .header(USER_AGENT, AGENT)
        .body(())
        .map_err(|error| {
            Error::broken(
                &format!("{endpoint:?} is no endpoint of the form host:port"),
                error,
            )
        })
}

fn release(body: &mut RecvStream, bytes: usize) -> Result<(), Error> {
    body.flow_control()
        .release_capacity(bytes)
        .map_err(|error| Error::broken("the connection's window", error))
}

/// Reads the status, which is in the trailers, or in the headers where there was no message.
async fn finish(headers: &HeaderMap, body: &mut RecvStream) -> Result<(), Error> {
    const STATUS: HeaderName = HeaderName::from_static("grpc-status");
    const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
    let trailers = body
        .trailers()
        .await
        .map_err(|error| Error::broken("the answer broke off", error))?;
    let trailers = trailers.as_ref().unwrap_or(headers);
    let Some(code) = trailers.get(STATUS) else {
        return Err(Error::Broken("an answer without grpc-status".to_owned()));
    };
    if code == "0" {
        return Ok(());
    }
    let code = code
        .to_str()
        .ok()
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| Error::Broken(format!("grpc-status {code:?}, expected a number")))?;
    let text = trailers
        .get(MESSAGE)
        .map(|text| unescaped(text.as_bytes()))
        .unwrap_or_default();
    Err(Error::Status { code, text })
}

/// `grpc-message` with its `%xx` undone; what is no escape stays as it is.
fn unescaped(mut text: &[u8]) -> String {
    let mut plain = Vec::with_capacity(text.len());
    while text.has_remaining() {
        let escape = text
            .strip_prefix(b"%")
            .and_then(|rest| std::str::from_utf8(rest.get(..2)?).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        plain.push(escape.unwrap_or(text[0]));
        text.advance(if escape.is_some() { 3 } else { 1 });
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_text_loses_its_escapes_and_nothing_else() {
        assert_eq!(
            unescaped(b"etcdserver: too many requests"),
            "etcdserver: too many requests"
        );
        assert_eq!(
            unescaped(b"100%25 of %C3%A9, %zz, %"),
            "100% of \u{e9}, %zz, %"
        );
    }
}
