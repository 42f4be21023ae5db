//! Sockets and runtimes of the client port.
//!
//! One current-thread runtime per serving core. A listener is bound once, without
//! `SO_REUSEPORT`, so that a port in use stays an error; its descriptor is duplicated into each
//! runtime, and a connection stays with the runtime that accepted it. gRPC (HTTP/2 with prior
//! knowledge) and HTTP/1.1 share the port, unless a listener [`Serves`] less than all.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::coalesce::Coalesce;
use crate::door::Door;

/// Connections waiting to be accepted; beyond it the kernel refuses.
const LISTEN_BACKLOG: i32 = 1024;

/// HTTP/2 receive window of one stream and of one connection. They bound what one client can
/// make us hold: a request of the default size limit needs a few round trips, no more.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// What one stream may hold of unsent answer bytes.
const SEND_BUFFER_BYTES_MAX: usize = 512 * 1024;

/// A header list larger than this is refused, as by grpc-go's server default.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// When a connection must end and every call on it is answered, what was answered gets this long to reach the
/// client. A client that has stopped reading a stream would hold us for the whole grace.
const FLUSH: Duration = Duration::from_millis(500);

/// After a failed accept (out of descriptors) we wait this long and go on.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Settings of the connections.
#[derive(Debug, Clone)]
pub struct Connections {
    /// `--max-concurrent-streams`
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-interval`, zero: off
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`
    pub keepalive_timeout: Duration,
}

/// What a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// gRPC and HTTP on one port
    All,
    /// gRPC alone: HTTP has listeners of its own
    Grpc,
    /// HTTP alone, `--listen-client-http-urls`
    Http,
    /// HTTP alone, and of it only metrics and health, `--listen-metrics-urls`
    Metrics,
}

/// Binds one address; a port in use is an error that names it.
pub fn bind(address: SocketAddr, reuse_port: bool) -> std::io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // As Go's net package: a port in TIME_WAIT can be bound, one that is listened on cannot.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Accepts on `listener` in the current runtime until `stop` turns true; then no new connection
/// is taken, open ones are told to go away and get `grace` to finish.
pub async fn serve(
    listener: StdListener,
    door: Arc<Door>,
    serves: Serves,
    connections: Connections,
    mut stop: watch::Receiver<bool>,
    grace: Duration,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(connections.max_concurrent_streams)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(
            (!connections.keepalive_interval.is_zero()).then_some(connections.keepalive_interval),
        )
        .keep_alive_timeout(connections.keepalive_timeout);
    builder.http1().timer(TokioTimer::new()).keep_alive(true);
    // The other protocol is not spoken at all there: its first bytes end the connection, as with etcd.
    let builder = Arc::new(match serves {
        Serves::All => builder,
        Serves::Grpc => builder.http2_only(),
        Serves::Http | Serves::Metrics => builder.http1_only(),
    });
    let tasks = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a client connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, %peer, "TCP_NODELAY could not be set");
        }
        let (builder, door, mut stop) = (builder.clone(), door.clone(), stop.clone());
        tasks.spawn(async move {
            let calls = tokio_util::task::TaskTracker::new();
            let service = hyper::service::service_fn(|request| {
                calls.track_future(door.clone().call(serves, request))
            });
            let connection = builder.serve_connection(Coalesce::new(TokioIo::new(socket)), service);
            tokio::pin!(connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = stopped(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    calls.close();
                    let answered = async {
                        let _ = tokio::time::timeout(grace, calls.wait()).await;
                        tokio::time::sleep(FLUSH).await;
                    };
                    tokio::select! {
                        result = connection.as_mut() => result,
                        () = answered => return,
                    }
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, %peer, "client connection ended");
            }
        });
    }
    drop(listener);
    tasks.close();
    let _ = tokio::time::timeout(grace, tasks.wait()).await;
    Ok(())
}

/// Ends when `stop` turns true, or nobody can turn it any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
