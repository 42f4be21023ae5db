//! One member, from its words to its end: bind, boot, start, serve, drain.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rpc::Serves;
use seams::{Clock, Disk, RealClock, RealDisk};
use server::boot::{self, Booted, Start};
use server::join;
use server::start::{Running, Surroundings};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Door, Listen};

/// What a member that stops gives its clients to finish.
const DRAIN: Duration = Duration::from_secs(5);

/// After a connection that could not be accepted, before the next is tried.
const TURN_AWAY_PAUSE: Duration = Duration::from_millis(50);

/// Threads for long work over read views: hashes, snapshot streams, catching up watchers.
const POOL_THREADS_MAX: usize = 8;

/// Runs a member until a signal or an error ends it.
pub fn run(door: Door) -> Result<()> {
    seams::install_fault_handler().context("the handler for faults on the database mapping")?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
    let peers_runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(POOL_THREADS_MAX)
        .build()
        .context("the peers' runtime")?;

    // Ports first: a port in use refuses the start before anything is written.
    let peer_listeners = bind(&door.peer_listeners)?;
    let client_serves = match door.http_listeners.is_empty() {
        true => Serves::All,
        false => Serves::Grpc,
    };
    let listeners = [
        (client_serves, &door.client_listeners),
        (Serves::Http, &door.http_listeners),
        (Serves::Metrics, &door.metrics_listeners),
    ];
    let mut bound = Vec::new();
    for (serves, listeners) in listeners {
        let all = bind(listeners)?.into_iter();
        bound.extend(all.map(|listener| (serves, listener)));
    }

    let start = peers_runtime.block_on(async {
        tokio::select! {
            start = plan(disk.as_ref(), &door.member) => start,
            failed = turn_away(&peer_listeners) => Err(failed),
        }
    })?;
    let restart = matches!(start, Start::Restart);
    let mut booted = boot::boot(&disk, &door.member, start)?;
    if restart {
        peers_runtime.block_on(async {
            tokio::select! {
                checked = join::check_restart(&door.member, &booted) => checked.map_err(Into::into),
                failed = turn_away(&peer_listeners) => Err(failed),
            }
        })?;
    }
    if let Some(least) = door.defragment_free_bytes_min {
        defragment(&mut booted, least)?;
    }
    let serving = serving_runtimes();
    let surroundings = Surroundings {
        disk,
        clock,
        serving_lanes: serving,
        peers_runtime: peers_runtime.handle().clone(),
    };
    let running = server::start::start(door.member.clone(), booted, &surroundings, peer_listeners)?;

    // One without data of its own has nothing to compare, as in etcd.
    if restart
        && door.member.initial_corrupt_check
        && let Err(error) = peers_runtime.block_on(server::corrupt::initial_check(&running.member))
    {
        stop_threads(running, peers_runtime);
        return Err(error);
    }

    let (stop_serving, stopping) = watch::channel(false);
    let mut servers = Vec::new();
    for index in 0..serving {
        let listeners = bound
            .iter()
            .map(|(serves, listener)| Ok((*serves, listener.try_clone()?)))
            .collect::<std::io::Result<Vec<_>>>()
            .context("a listener's descriptor cannot be duplicated")?;
        servers.push(serve(&door, &running, index, listeners, stopping.clone())?);
    }
    drop(bound);

    let reason = peers_runtime.block_on(until_stopped(&running, &door));
    tracing::info!("stopping: no new connections, open requests are finished");
    peers_runtime.block_on(running.transfer_leadership());
    stop_serving.send_replace(true);
    if let Err(reason) = &reason {
        running.member.shared.fatal(format!("{reason:#}"));
    } else {
        running.member.shared.asked_to_stop();
    }
    // The peers' runtime goes on meanwhile: what is open needs the other members to finish.
    peers_runtime.block_on(async {
        for server in servers {
            let ended = tokio::task::spawn_blocking(move || server.join()).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::error!("a serving thread panicked");
            }
        }
    });
    stop_threads(running, peers_runtime);
    reason
}

/// Restart, new cluster or joiner: what the directory and the peers say.
async fn plan(disk: &dyn Disk, config: &server::config::Config) -> Result<Start> {
    if boot::has_log(disk, config)? {
        return Ok(Start::Restart);
    }
    Ok(join::plan_first_start(config).await?)
}

/// Closes every connection to the peer ports at once, and returns only with an error. Members of a new
/// cluster start together, and each first asks the others whether they know it. The kernel connects them
/// before anybody serves; without this, each would wait its whole patience for answers that cannot come.
async fn turn_away(listeners: &[TcpListener]) -> anyhow::Error {
    let mut doors = tokio::task::JoinSet::new();
    for listener in listeners {
        let listener = match listener
            .try_clone()
            .and_then(tokio::net::TcpListener::from_std)
        {
            Ok(listener) => listener,
            Err(error) => {
                return anyhow::Error::new(error).context("a peer port cannot be watched");
            }
        };
        doors.spawn(async move {
            loop {
                if listener.accept().await.is_err() {
                    // Out of descriptors, say: the caller waits for its time-out, and we do not spin.
                    tokio::time::sleep(TURN_AWAY_PAUSE).await;
                }
            }
        });
    }
    match doors.join_next().await {
        Some(Err(error)) => anyhow::Error::new(error).context("a peer port cannot be watched"),
        Some(Ok(())) | None => std::future::pending().await,
    }
}

fn bind(listeners: &[Listen]) -> Result<Vec<TcpListener>> {
    let mut bound = Vec::new();
    for listen in listeners {
        for address in &listen.addresses {
            let listener = rpc::bind(*address, listen.reuse_port).with_context(|| {
                format!(
                    "--{} {}: cannot listen on {address}; is another member running there (`ss -ltnp`)? choose another port, or an address of this host",
                    listen.flag, listen.url
                )
            })?;
            bound.push(listener);
        }
    }
    Ok(bound)
}

/// Defragments the database before anything else reads it, if that frees enough (etcd `maybeDefragBackend`).
fn defragment(booted: &mut Booted, free_bytes_min: u64) -> Result<()> {
    let backend = booted.applier.backend();
    let size_bytes = backend.size_bytes();
    let free_bytes = size_bytes.saturating_sub(backend.size_in_use_bytes());
    if free_bytes < free_bytes_min {
        tracing::info!(
            size_bytes,
            free_bytes,
            free_bytes_min,
            "skipping defragmentation"
        );
        return Ok(());
    }
    let done = booted
        .committer
        .defragment()
        .context("--bootstrap-defrag-threshold-megabytes: the database cannot be defragmented")?;
    tracing::info!(
        size_bytes_before = done.size_bytes_before,
        size_bytes_after = done.size_bytes_after,
        "finished defragmentation at the start"
    );
    Ok(())
}

/// One serving runtime per two cores: raft, WAL, applier and committer need theirs.
fn serving_runtimes() -> u8 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, 16) as u8
}

fn serve(
    door: &Door,
    running: &Running,
    index: u8,
    listeners: Vec<(Serves, TcpListener)>,
    stopping: watch::Receiver<bool>,
) -> Result<std::thread::JoinHandle<()>> {
    let member = running.member.clone();
    let lane = member.shared.lanes()[usize::from(index)].clone();
    let config = door.rpc.clone();
    let connections = rpc::Connections {
        max_concurrent_streams: config.max_concurrent_streams,
        keepalive_interval: config.keepalive_interval,
        keepalive_timeout: config.keepalive_timeout,
    };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(POOL_THREADS_MAX)
        .build()
        .context("a serving runtime")?;
    let thread = std::thread::Builder::new().name(format!("serve-{index}"));
    let thread = thread.spawn(move || {
        runtime.block_on(async move {
            tokio::spawn(lane.clone().run());
            let door = Arc::new(rpc::Door {
                member,
                lane,
                config,
            });
            let servers: Vec<_> = listeners
                .into_iter()
                .map(|(serves, listener)| {
                    tokio::spawn(rpc::serve(
                        listener,
                        door.clone(),
                        serves,
                        connections.clone(),
                        stopping.clone(),
                        DRAIN,
                    ))
                })
                .collect();
            for server in servers {
                if let Ok(Err(error)) = server.await {
                    door.member
                        .shared
                        .fatal(format!("a client listener failed: {error}"));
                }
            }
        });
        runtime.shutdown_timeout(Duration::from_millis(100));
    });
    thread.context("a serving thread cannot start")
}

/// Waits until the member is ready, says so, then until it must end.
async fn until_stopped(running: &Running, door: &Door) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut stopping = running.member.stopping();
    let mut published = running.member.shared.published();
    let mut ready = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            reason = stopping.wait_for(Option::is_some) => {
                let reason = reason.ok().and_then(|reason| reason.clone());
                bail!("{}", reason.unwrap_or_else(|| "the member stopped".to_owned()));
            }
            _ = published.wait_for(|published| *published), if !ready => {
                ready = true;
                for listen in door.client_listeners.iter().chain(&door.http_listeners) {
                    tracing::info!(address = listen.url, "ready to serve client requests");
                }
                notify_systemd();
            }
        }
    }
}

/// `READY=1` on the socket that systemd names, if it does.
fn notify_systemd() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(b"READY=1", path));
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd could not be told that the member is ready");
    }
}

fn stop_threads(running: Running, peers_runtime: Runtime) {
    running.stop();
    peers_runtime.shutdown_timeout(Duration::from_millis(100));
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[test]
    fn who_calls_before_the_member_serves_is_turned_away() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        listener
            .set_nonblocking(true)
            .expect("a socket can be told not to block");
        let address = listener.local_addr().expect("it is bound");
        let listeners = [listener];
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let caller = async {
                for _ in 0..3 {
                    let mut stream = tokio::net::TcpStream::connect(address)
                        .await
                        .expect("the port listens");
                    // The end or a reset, and no answer; it would wait here forever.
                    let mut byte = [0; 1];
                    assert_eq!(stream.read(&mut byte).await.unwrap_or(0), 0);
                }
            };
            tokio::select! {
                () = caller => {}
                failed = turn_away(&listeners) => panic!("{failed:#}"),
                () = tokio::time::sleep(Duration::from_secs(10)) => panic!("nobody closed the connection"),
            }
        });
    }
}
