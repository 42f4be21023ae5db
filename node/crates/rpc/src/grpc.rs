//! gRPC over HTTP/2, the part of it that a server needs: length-prefixed messages, status in
//! trailers, gzip on the way in. hyper does the HTTP/2; handlers see prost messages and
//! [`Status`], nothing else, so that a leaner HTTP/2 can take the place of hyper's later.
//!
//! ```text
//! request  = headers (path, content-type) · message* · end
//! message  = 1 byte compressed? · 4 bytes length, big endian · protobuf
//! response = headers · message* · trailers (grpc-status, grpc-message)
//! ```
//!
//! Texts of the framing's own errors are grpc-go's, since clients of etcd meet them there.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use api::Code;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::Message;
use tokio::sync::mpsc;

use crate::stats::Method;

/// Bytes before each message.
const PREFIX_BYTES: usize = 5;

/// A failed call: code and text as the client sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// the gRPC code
    pub code: Code,
    /// the text, byte for byte
    pub message: String,
}

impl Status {
    /// A status of the given code and text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// As grpc-go answers a method it does not have.
    pub fn unknown_method(service: &str, method: &str) -> Self {
        Self::new(
            Code::Unimplemented,
            format!("unknown method {method} for service {service}"),
        )
    }

    /// As grpc-go answers a service it does not have.
    pub fn unknown_service(service: &str) -> Self {
        Self::new(Code::Unimplemented, format!("unknown service {service}"))
    }

    fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert(GRPC_STATUS, HeaderValue::from(self.code as i32));
        if !self.message.is_empty() {
            let text = percent_encode(&self.message);
            headers.insert(
                GRPC_MESSAGE,
                HeaderValue::from_str(&text).expect("percent-encoded text is printable ASCII"),
            );
        }
    }
}

impl From<api::Error> for Status {
    fn from(error: api::Error) -> Self {
        Self {
            code: error.code(),
            message: error.to_string(),
        }
    }
}

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// gRPC's percent-encoding: space to `~` except `%` stay.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Every response body of the client port.
pub enum ReplyBody {
    /// One gRPC message and its trailers.
    Unary {
        /// prefix and message
        data: Option<Bytes>,
        /// `grpc-status`
        trailers: Option<HeaderMap>,
    },
    /// Plain HTTP.
    Full(Option<Bytes>),
    /// gRPC messages as they come, then the status.
    Stream {
        /// what came first, see [`begin_stream`]
        first: Option<Outgoing>,
        /// from the handler
        receiver: mpsc::Receiver<Outgoing>,
        /// counts what goes out, and how long it took where that is wanted
        stats: Option<(&'static Method, Option<Instant>)>,
        /// the client sent gzip
        gzip: bool,
    },
}

/// What a stream's handler sends.
pub enum Outgoing {
    /// prefix and message, see [`encode`]
    Message(Bytes),
    /// the end of the stream
    End(Result<(), Status>),
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Unary { data, trailers } => Poll::Ready(match data.take() {
                Some(data) => Some(Ok(Frame::data(data))),
                None => trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            }),
            Self::Full(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Self::Stream {
                first,
                receiver,
                stats,
                gzip,
            } => match first
                .take()
                .map_or_else(|| receiver.poll_recv(cx), |first| Poll::Ready(Some(first)))
            {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Outgoing::Message(data))) => {
                    if let Some((stats, _)) = stats {
                        stats.send(data.len());
                    }
                    let data = if *gzip { compressed(&data) } else { data };
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Poll::Ready(Some(Outgoing::End(result))) => {
                    if let Some((stats, began)) = stats {
                        stats.end(
                            result
                                .as_ref()
                                .map_or_else(|status| status.code, |()| Code::OK),
                        );
                        if let Some(began) = began {
                            stats.took(began.elapsed());
                        }
                    }
                    let trailers = trailers(result);
                    *self = Self::Full(None);
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                // The handler went away without a word: the member is stopping.
                Poll::Ready(None) => {
                    let trailers = trailers(Err(api::Error::Stopped.into()));
                    *self = Self::Full(None);
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
            },
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            // Plain HTTP says its length, as etcd does; gRPC has no use for one.
            Self::Full(Some(data)) => http_body::SizeHint::with_exact(data.len() as u64),
            _ => http_body::SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Unary { data, trailers } => data.is_none() && trailers.is_none(),
            Self::Full(data) => data.is_none(),
            Self::Stream { .. } => false,
        }
    }
}

fn trailers(result: Result<(), Status>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    match result {
        Ok(()) => {
            trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        }
        Err(status) => status.write_to(&mut trailers),
    }
    trailers
}

/// A message with its prefix, ready to be sent.
pub fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + length);
    buffer.put_u8(0);
    buffer.put_u32(length as u32);
    message
        .encode(&mut buffer)
        .expect("the buffer has the message's length");
    buffer.freeze()
}

/// The answer of a unary call.
pub fn unary_response(result: Result<impl Message, Status>) -> Response<ReplyBody> {
    match result {
        Ok(message) => {
            let body = ReplyBody::Unary {
                data: Some(encode(&message)),
                trailers: Some(trailers(Ok(()))),
            };
            with_grpc_headers(body)
        }
        Err(status) => error_response(&status),
    }
}

/// A response without messages: the status stands in the headers.
pub fn error_response(status: &Status) -> Response<ReplyBody> {
    let mut response = with_grpc_headers(ReplyBody::Full(None));
    status.write_to(response.headers_mut());
    response
}

/// Has the answer's messages sent in gzip. An answer without messages stays as it is.
pub fn compress(response: &mut Response<ReplyBody>) {
    match response.body_mut() {
        ReplyBody::Unary {
            data: Some(data), ..
        } => *data = compressed(data),
        ReplyBody::Stream { gzip, .. } => *gzip = true,
        _ => return,
    }
    let encoding = HeaderValue::from_static("gzip");
    response.headers_mut().insert(GRPC_ENCODING, encoding);
}

/// The same message in gzip; an empty one is not worth it, as in grpc-go.
fn compressed(message: &Bytes) -> Bytes {
    use std::io::Write as _;
    if message.len() <= PREFIX_BYTES {
        return message.clone();
    }
    let mut out = vec![0; PREFIX_BYTES];
    let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::default());
    let written = encoder
        .write_all(&message[PREFIX_BYTES..])
        .and_then(|()| encoder.try_finish());
    drop(encoder);
    if written.is_err() {
        return message.clone();
    }
    let length = (out.len() - PREFIX_BYTES) as u32;
    out[0] = 1;
    out[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    out.into()
}

/// The code of an answer that is no stream.
pub fn code(response: &Response<ReplyBody>) -> Code {
    let status = response.headers().get(GRPC_STATUS);
    let number = status
        .and_then(|status| status.to_str().ok())
        .and_then(|text| text.parse().ok());
    number.map_or(Code::OK, Code::from_number)
}

/// The answer of a streaming call; the handler keeps the sender.
pub fn stream_response(receiver: mpsc::Receiver<Outgoing>) -> Response<ReplyBody> {
    with_grpc_headers(ReplyBody::Stream {
        first: None,
        receiver,
        stats: None,
        gzip: false,
    })
}

/// Waits for a stream's first word: headers go out with it, and a call that fails before it has
/// said anything fails as a whole, as from grpc-go.
pub async fn begin_stream(mut response: Response<ReplyBody>) -> Response<ReplyBody> {
    if let ReplyBody::Stream {
        first, receiver, ..
    } = response.body_mut()
    {
        match receiver.recv().await {
            Some(Outgoing::End(Err(status))) => return error_response(&status),
            other => *first = other,
        }
    }
    response
}

fn with_grpc_headers(body: ReplyBody) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

/// Reads the messages of a request body.
pub struct Messages {
    body: Incoming,
    buffer: BytesMut,
    gzip: bool,
    message_bytes_max: usize,
    stats: Option<&'static Method>,
}

impl Messages {
    /// `encoding` is the request's `grpc-encoding`.
    pub fn new(
        body: Incoming,
        encoding: Option<&HeaderValue>,
        message_bytes_max: usize,
    ) -> Result<Self, Status> {
        let gzip = match encoding.map(HeaderValue::as_bytes) {
            None | Some(b"identity" | b"") => false,
            Some(b"gzip") => true,
            Some(other) => {
                return Err(Status::new(
                    Code::Unimplemented,
                    format!(
                        "grpc: Decompressor is not installed for grpc-encoding {:?}",
                        String::from_utf8_lossy(other)
                    ),
                ));
            }
        };
        Ok(Self {
            body,
            buffer: BytesMut::new(),
            gzip,
            message_bytes_max,
            stats: None,
        })
    }

    /// Counts the messages for this method.
    pub fn count_for(&mut self, stats: &'static Method) {
        self.stats = Some(stats);
    }

    /// The next message; `None` at the end of the request.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(payload) = self.take_buffered()? {
                return self.decode(payload).map(Some);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    // The usual case: one frame holds one whole message, which is then not copied.
                    if self.buffer.is_empty()
                        && let Some(payload) = self.whole(&data)?
                    {
                        return self.decode(payload).map(Some);
                    }
                    self.buffer.extend_from_slice(&data);
                }
                Some(Err(error)) => {
                    return Err(Status::new(
                        Code::Canceled,
                        format!("context canceled: {error}"),
                    ));
                }
                None if self.buffer.is_empty() => return Ok(None),
                // Inside the prefix grpc-go sees an end, inside a message a broken one.
                None if self.buffer.len() < PREFIX_BYTES => {
                    return Err(Status::new(Code::Unknown, "EOF"));
                }
                None => return Err(Status::new(Code::Unknown, "unexpected EOF")),
            }
        }
    }

    /// The only message of a unary request.
    pub async fn only<M: Message + Default>(mut self) -> Result<M, Status> {
        let message = match self.next().await? {
            Some(message) => message,
            None => return Err(Status::new(Code::Unknown, "EOF")),
        };
        // More messages than the one are passed over, as by grpc-go.
        while !self.body.is_end_stream() {
            match self.body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    return Err(Status::new(
                        Code::Canceled,
                        format!("context canceled: {error}"),
                    ));
                }
                None => break,
            }
        }
        Ok(message)
    }

    /// The payload of `data` if that is exactly one message.
    fn whole(&self, data: &Bytes) -> Result<Option<Bytes>, Status> {
        if data.len() < PREFIX_BYTES {
            return Ok(None);
        }
        let length = self.checked_length(&data[..PREFIX_BYTES])?;
        if data.len() != PREFIX_BYTES + length {
            return Ok(None);
        }
        self.payload(data[0], data.slice(PREFIX_BYTES..)).map(Some)
    }

    fn take_buffered(&mut self) -> Result<Option<Bytes>, Status> {
        if self.buffer.len() < PREFIX_BYTES {
            return Ok(None);
        }
        let length = self.checked_length(&self.buffer[..PREFIX_BYTES])?;
        if self.buffer.len() < PREFIX_BYTES + length {
            self.buffer
                .reserve(PREFIX_BYTES + length - self.buffer.len());
            return Ok(None);
        }
        let compressed = self.buffer[0];
        self.buffer.advance(PREFIX_BYTES);
        let payload = self.buffer.split_to(length).freeze();
        self.payload(compressed, payload).map(Some)
    }

    fn checked_length(&self, mut prefix: &[u8]) -> Result<usize, Status> {
        prefix.advance(1);
        let length = prefix.get_u32() as usize;
        if length > self.message_bytes_max {
            return Err(self.too_large(length));
        }
        Ok(length)
    }

    fn too_large(&self, length: usize) -> Status {
        Status::new(
            Code::ResourceExhausted,
            format!(
                "grpc: received message larger than max ({length} vs. {})",
                self.message_bytes_max
            ),
        )
    }

    fn payload(&self, compressed: u8, payload: Bytes) -> Result<Bytes, Status> {
        if let Some(stats) = self.stats {
            stats.receive(PREFIX_BYTES + payload.len());
        }
        match (compressed, self.gzip) {
            (0, _) => Ok(payload),
            (1, true) => self.gunzip(&payload),
            (1, false) => Err(Status::new(
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            )),
            (other, _) => Err(Status::new(
                Code::Internal,
                format!("grpc: received unexpected payload format {other}"),
            )),
        }
    }

    fn decode<M: Message + Default>(&self, payload: Bytes) -> Result<M, Status> {
        M::decode(payload).map_err(|error| {
            tracing::debug!(%error, "a request could not be decoded");
            let what = match self.stats {
                Some(stats) if !stats.is_unary() => "failed to unmarshal the received message",
                _ => "error unmarshalling request",
            };
            Status::new(Code::Internal, format!("grpc: {what}: {UNREADABLE}"))
        })
    }

    fn gunzip(&self, payload: &[u8]) -> Result<Bytes, Status> {
        use std::io::Read as _;
        let mut out = Vec::new();
        // One byte past the limit tells "too large" from "just fits".
        let limit = self.message_bytes_max as u64 + 1;
        flate2::read::GzDecoder::new(payload)
            .take(limit)
            .read_to_end(&mut out)
            .map_err(|error| {
                // Go's words where they are known.
                let text = match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
                    std::io::ErrorKind::InvalidInput => "gzip: invalid header".to_owned(),
                    _ => error.to_string(),
                };
                let text = format!("grpc: failed to decompress the message: {text}");
                Status::new(Code::Internal, text)
            })?;
        if out.len() > self.message_bytes_max {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "grpc: received message after decompression larger than max {}",
                    self.message_bytes_max
                ),
            ));
        }
        Ok(out.into())
    }
}

/// Go's text for bytes that are no message of this type; it does not say more either.
const UNREADABLE: &str = "proto: cannot parse invalid wire-format data";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded_as_grpc_says() {
        assert_eq!(
            percent_encode("etcdserver: key is not provided"),
            "etcdserver: key is not provided"
        );
        assert_eq!(percent_encode("50% of ü\n"), "50%25 of %C3%BC%0A");
    }
}
