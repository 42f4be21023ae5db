//! # quorate-operator: looks after QuorateCluster objects
//!
//! ```text
//! observe → Observed      caches or a fresh look, and the members themselves
//! plan    → Plan          planner: pure, at most one act
//! check                   planner: laws that know nothing of plan
//! status                  conditions, Events; what is recorded of the act
//! execute                 the one act, conditional on what was seen
//! ```
//!
//! One operator of several acts, the one that holds the lease. It stops before the lease can expire, and ends;
//! a new process begins with nothing but what the objects and the members say, so an end at any moment is the
//! same as none.
//!
//! This program decides nothing about members: that is `planner`'s. It knows what an object looks like only
//! from `manifests`.
#![forbid(unsafe_code)]

mod caches;
mod check;
mod controller;
mod execute;
mod flags;
mod http;
mod lease;
mod members;
mod metrics;
mod observe;
mod records;
mod seen;
mod status;
mod volumes;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use kube::Client;
use manifests::{HostTemplate, Settings};

use crate::caches::Caches;
use crate::controller::Context;
use crate::flags::Flags;
use crate::http::Door;
use crate::lease::Leadership;

/// Quorate's version. A build may raise it, to try an upgrade with a second build of the same source.
const QUORATE_VERSION: &str = match option_env!("QUORATE_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        return say(&flags::help());
    }
    if words.iter().any(|word| word == "--version") {
        return say(&format!("quorate-operator {QUORATE_VERSION}\n"));
    }
    if let [word, url] = words.as_slice()
        && word == "check"
    {
        return match check::check(url) {
            Ok(()) => say("ready\n"),
            Err(complaint) => {
                eprintln!("quorate-operator: {complaint}");
                ExitCode::FAILURE
            }
        };
    }
    let flags = match Flags::read(&words, &|name| std::env::var(name).ok()) {
        Ok(flags) => flags,
        Err(error) => {
            eprintln!("quorate-operator: {error}");
            return ExitCode::from(2);
        }
    };
    start_log(&flags);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = runtime
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(run(flags)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) -> ExitCode {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn start_log(flags: &Flags) {
    let level = std::env::var("QUORATE_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(level)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if flags.log_json {
        log.json().flatten_event(true).init();
    } else {
        log.init();
    }
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let settings = Settings {
        image_repository: flags.image_repository.clone(),
        member_host: HostTemplate::parse(&flags.member_host_template)?,
    };
    let door = Arc::new(Door::default());
    let address = http::serve(flags.metrics_bind_address, Arc::clone(&door))
        .await
        .with_context(|| format!("cannot listen on {}", flags.metrics_bind_address))?;
    tracing::info!(
        version = QUORATE_VERSION,
        metrics = %address,
        namespace = flags.namespace.as_deref().unwrap_or("all"),
        "quorate-operator starts"
    );
    let config = kube::Config::infer()
        .await
        .context("no way to an API server: neither a Pod's account nor a kubeconfig")?;
    let own_namespace = config.default_namespace.clone();
    let client = Client::try_from(config).context("no client for the API server")?;
    look_for_kinds(&client).await?;

    // One that waits for the lease is as ready as it can be.
    door.ready.store(flags.leader_elect, Ordering::Release);
    let (leadership, mut held) = if flags.leader_elect {
        let namespace = flags
            .leader_elect_namespace
            .clone()
            .unwrap_or(own_namespace);
        let (leadership, held) = lease::acquire(client.clone(), &namespace, &flags, identity())
            .await
            .with_context(|| format!("the lease in namespace {namespace} is refused"))?;
        (leadership, Some(held))
    } else {
        (Leadership::alone(), None)
    };
    tracing::info!("this operator acts");
    door.metrics.lead();

    let (caches, triggers) = Caches::watch(&client, flags.namespace.as_deref());
    let context = Context::new(client, caches, settings, leadership, door);
    let lost = async {
        match &mut held {
            Some(held) => held.lost().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = controller::run(context, triggers, &flags) => anyhow::bail!("the watches have ended"),
        () = lost => anyhow::bail!("the lease is lost: another operator acts now, or the API server cannot be reached"),
        signal = ended() => tracing::info!(signal, "ending"),
    }
    // Nothing acts any more; the next operator need not wait until the lease runs out.
    if let Some(held) = held {
        held.release().await;
    }
    Ok(())
}

/// The signal to end. What is under way is left as it is: the next operator finds it.
async fn ended() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// An operator without its kinds can do nothing; better to say so than to wait.
async fn look_for_kinds(client: &Client) -> anyhow::Result<()> {
    let group = format!("{}/{}", crd::GROUP, crd::VERSION);
    let found = match client.list_api_group_resources(&group).await {
        Ok(found) => found.resources.into_iter().map(|one| one.name).collect(),
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => {
            return Err(error).context("the API server does not say which kinds it has");
        }
    };
    for kind in ["quorateclusters", "quoratemembers"] {
        anyhow::ensure!(
            found.iter().any(|one| one == kind),
            "the API server does not know {kind}.{}: install the kinds with `kubectl apply --server-side -f crds/`, or with the chart",
            crd::GROUP
        );
    }
    Ok(())
}

/// Who holds the lease: the Pod's name, and what no other start of it has.
fn identity() -> String {
    let host = std::env::var("POD_NAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| "quorate-operator".to_owned());
    let started = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
    format!("{host}_{}_{started:x}", std::process::id())
}
