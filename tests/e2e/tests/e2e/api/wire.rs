//! gRPC and HTTP/1 as they stand on the wire: what a client library hides is what is compared.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

/// How long an expected frame may take, on two busy cores.
const PATIENCE: Duration = Duration::from_secs(10);

/// Headers of an answer that are compared.
const COMPARED: &[&str] = &[
    "content-type",
    "grpc-encoding",
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
];

/// A request body: chunks as they are sent.
pub struct Chunks(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// One step of a call.
#[derive(Debug, Clone)]
pub enum Step {
    /// bytes of the request body, prefix included
    Send(Bytes),
    /// so many messages must come
    Expect(usize),
    /// the request's end
    Close,
}

/// What came back. Two of them are equal when a client cannot tell them apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub http_status: u16,
    pub headers: Vec<String>,
    /// flag and payload, decompressed
    pub messages: Vec<(u8, Bytes)>,
    /// `None`: the stream was still open when the script was through
    pub trailers: Option<Vec<String>>,
    /// the trailers hold an empty `grpc-message`
    pub empty_message: bool,
}

/// A connection with prior knowledge of HTTP/2.
#[derive(Clone)]
pub struct Wire {
    sender: SendRequest<Chunks>,
    endpoint: String,
}

impl Wire {
    pub async fn connect(endpoint: &str) -> Self {
        let socket = tokio::net::TcpStream::connect(endpoint)
            .await
            .expect("the member listens");
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        Self {
            sender,
            endpoint: endpoint.to_owned(),
        }
    }

    /// Runs a script; ends with the stream's end, or after the last step and a silence.
    pub async fn call(
        &self,
        path: &str,
        headers: &[(&str, &[u8])],
        steps: &[Step],
        silence: Duration,
    ) -> Answer {
        let (chunks, body) = mpsc::unbounded_channel();
        let mut request =
            Request::post(format!("http://{}{path}", self.endpoint)).header("te", "trailers");
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Chunks(body)).expect("a request");
        let response = self.sender.clone().send_request(request);
        let mut response = Some(tokio::spawn(response));
        let mut body: Option<Incoming> = None;
        let mut chunks = Some(chunks);
        // Whoever closes last waits for the stream's end.
        let ends = matches!(steps.last(), Some(Step::Close));
        let mut steps = steps.iter();
        let (mut wanted, mut through) = (0, false);
        let mut answer = Answer::default();
        let mut buffer = BytesMut::new();
        loop {
            while !through && answer.messages.len() >= wanted {
                match steps.next() {
                    Some(Step::Send(bytes)) => {
                        // The call may have ended already; that is seen below.
                        let _ = chunks.as_ref().map(|chunks| chunks.send(bytes.clone()));
                    }
                    Some(Step::Expect(count)) => wanted += count,
                    Some(Step::Close) => chunks = None,
                    None => through = true,
                }
            }
            let quiet = through && answer.messages.len() >= wanted && !ends;
            let patience = tokio::time::sleep(if quiet { silence } else { PATIENCE });
            let Some(reading) = &mut body else {
                tokio::select! {
                    started = response.as_mut().expect("until there is a body") => match started {
                        Ok(Ok(started)) => {
                            answer.http_status = started.status().as_u16();
                            answer.headers = compared(started.headers());
                            body = Some(started.into_body());
                        }
                        other => {
                            answer.headers = vec![format!("failed: {other:?}")];
                            return answer;
                        }
                    },
                    () = patience => {
                        if !quiet {
                            answer.headers = vec!["no answer".to_owned()];
                        }
                        return answer;
                    }
                }
                continue;
            };
            tokio::select! {
                frame = reading.frame() => match frame {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => {
                            buffer.extend_from_slice(&data);
                            take_messages(&mut buffer, &mut answer.messages);
                        }
                        Err(frame) => {
                            let trailers = frame.trailers_ref();
                            answer.empty_message = trailers
                                .and_then(|trailers| trailers.get("grpc-message"))
                                .is_some_and(|message| message.is_empty());
                            answer.trailers = trailers.map(compared);
                        }
                    },
                    Some(Err(error)) => {
                        answer.trailers = Some(vec![format!("failed: {error:?}")]);
                        return answer;
                    }
                    None => {
                        answer.trailers.get_or_insert_default();
                        return answer;
                    }
                },
                () = patience => {
                    if !quiet {
                        answer.headers.push("then silence".to_owned());
                    }
                    return answer;
                }
            }
        }
    }
}

fn compared(headers: &HeaderMap) -> Vec<String> {
    let mut compared: Vec<String> = headers
        .iter()
        // grpc-go sends an empty text with a good status; no text means the same.
        .filter(|(name, value)| COMPARED.contains(&name.as_str()) && !value.is_empty())
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    compared.sort();
    compared
}

fn take_messages(buffer: &mut BytesMut, messages: &mut Vec<(u8, Bytes)>) {
    while buffer.len() >= 5 {
        let length = (&buffer[1..5]).get_u32() as usize;
        if buffer.len() < 5 + length {
            return;
        }
        let flag = buffer[0];
        buffer.advance(5);
        let mut payload = buffer.split_to(length).freeze();
        if flag == 1 {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(payload.as_ref())
                .read_to_end(&mut plain)
                .expect("the server's gzip");
            payload = plain.into();
        }
        messages.push((flag, payload));
    }
}

/// A message with its prefix.
pub fn framed(message: &impl prost::Message) -> Bytes {
    framed_bytes(0, &message.encode_to_vec())
}

/// Any payload with any flag.
pub fn framed_bytes(flag: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(5 + payload.len());
    out.put_u8(flag);
    out.put_u32(payload.len() as u32);
    out.put_slice(payload);
    out.freeze()
}

/// One HTTP/1.1 request; status line, headers in the order of the alphabet, body.
pub fn http1(endpoint: &str, method: &str, target: &str) -> String {
    let mut socket = std::net::TcpStream::connect(endpoint).expect("the member listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    write!(
        socket,
        "{method} {target} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n"
    )
    .expect("the request is sent");
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes);
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = bytes.split_at(split.map_or(bytes.len(), |at| at + 4));
    let head = String::from_utf8_lossy(head).into_owned();
    let body = match head.to_lowercase().contains("transfer-encoding: chunked") {
        true => without_chunks(body),
        false => body.to_vec(),
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default().to_owned();
    let mut headers: Vec<String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| format!("{}: {value}", name.to_lowercase()))
        .filter(|line| !line.starts_with("date: ") && !line.starts_with("connection: "))
        .collect();
    headers.sort();
    format!("{status}\n{}\n\n{body}", headers.join("\n"))
}

/// The body without the lengths between its chunks.
fn without_chunks(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let length = std::str::from_utf8(&body[..end]).expect("hexadecimal digits");
        let length = usize::from_str_radix(length, 16).expect("a chunk's length");
        if length == 0 {
            break;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + length]);
        body = &body[end + 2 + length + 2..];
    }
    whole
}
