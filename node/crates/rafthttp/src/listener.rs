//! The one place where peer listeners are made and served (promises 4 and 5).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::set_options;
use crate::deadline::DeadlineStream;
use crate::error::chain;
use crate::server;
use crate::transport::{Handle, Shared};

/// Headers of a peer's request: etcd sends about ten.
const HEADERS_MAX: usize = 64;

/// After an accept that failed (no file descriptors left, for example), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds the peer port. A port in use is an error: it is not shared.
pub async fn peer_listener(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let text = format!(
            "cannot listen for peers on {address}: {error}; choose another --listen-peer-urls \
             or stop what uses it"
        );
        io::Error::new(error.kind(), text)
    })
}

impl Handle {
    /// Serves the peer port on `listener` until [`Handle::stop`]. Call it once for each
    /// listener, on the peers' runtime.
    ///
    /// A connection that is idle, or does not finish the head of its request, is closed after
    /// the read time-out. With the limit of connections reached, further ones wait.
    pub async fn serve(&self, listener: TcpListener) {
        let mut stop = self.shared.stop.subscribe();
        // Dropping the set at the end closes all connections.
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let permits = self.shared.connection_permits.clone();
                let permit = permits.acquire_owned().await;
                (listener.accept().await, permit)
            };
            // The guard that `wait_for` gives must not live across an await.
            let stopped = async {
                let _ = stop.wait_for(|stopped| *stopped).await;
            };
            tokio::select! {
                () = stopped => return,
                Some(_) = connections.join_next() => {}
                (accepted, permit) = accepted => match accepted {
                    Ok((tcp, from)) => {
                        let connection = connection(self.shared.clone(), tcp, from);
                        connections.spawn(async move {
                            connection.await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a peer's connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, tcp: TcpStream, from: SocketAddr) {
    let timeouts = &shared.config.timeouts;
    // What a peer does not acknowledge for so long was written to nobody.
    set_options(&tcp, Some(timeouts.write));
    let io = TokioIo::new(DeadlineStream::new(tcp, timeouts.write));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.read)
        .max_headers(HEADERS_MAX)
        .keep_alive(true);
    let service = service_fn(|request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(server::answer(shared, request).await) }
    });
    if let Err(error) = builder.serve_connection(io, service).await {
        tracing::debug!(%from, error = %chain(&error), "a peer's connection ended");
    }
}
