//! Who acts: one operator of several, by a Lease that is written with its resource version.
//!
//! ```text
//! renewed          renew deadline              lease duration
//!    ├──────── may act ────┤ stops and exits ────────┤ another may take it
//! ```
//!
//! The deadline counts from the moment *before* a renewal was sent, on a clock that goes on while a process is
//! stopped. Every act asks [`Leadership::may_act`] first, and none takes longer than the time between the
//! deadline and the lease's end. An operator that was paused for longer finds its deadline gone when it
//! continues, and ends. What it had already sent is conditional on what it had seen.
//!
//! One that is told to end stops to act and then gives the lease back, so that the next one acts at once.
//!
//! Another operator's lease counts from when we saw it change, not from what its clock says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::flags::Flags;

/// Whether we may act, at this moment.
#[derive(Debug, Clone)]
pub struct Leadership {
    /// `None`: nobody else acts, so we always may.
    until: Option<Arc<Mutex<Instant>>>,
}

impl Leadership {
    /// Of an operator that is alone.
    pub fn alone() -> Self {
        Self { until: None }
    }

    /// Whether an act may begin now.
    pub fn may_act(&self) -> bool {
        self.until
            .as_ref()
            .is_none_or(|until| Instant::now() < *until.lock())
    }
}

/// What giving the lease back may take at the end: a few requests, less than a Pod is given to end.
const RELEASE: Duration = Duration::from_secs(5);

/// The lease while it is ours: a task renews it.
#[derive(Debug)]
pub struct Held {
    until: Arc<Mutex<Instant>>,
    /// ends when the lease is lost
    renewing: tokio::task::JoinHandle<()>,
    api: Api<Lease>,
    name: String,
    identity: String,
}

impl Held {
    /// Waits until it is lost.
    pub async fn lost(&mut self) {
        let _ = (&mut self.renewing).await;
    }

    /// Gives it back. To be called when nothing acts any more: whoever asks next has it.
    pub async fn release(self) {
        *self.until.lock() = Instant::now();
        self.renewing.abort();
        let _ = self.renewing.await;
        let release = async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else {
                return Ok(());
            };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_ref() != Some(&self.identity) {
                return Ok(());
            }
            spec.holder_identity = None;
            let params = PostParams::default();
            self.api.replace(&self.name, &params, &lease).await?;
            tracing::info!("the lease is given back");
            Ok::<(), kube::Error>(())
        };
        match tokio::time::timeout(RELEASE, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease is not given back: it runs out"),
            Err(_) => tracing::warn!("the lease is not given back in time: it runs out"),
        }
    }
}

/// Gets the lease, however long that takes.
///
/// # Errors
/// What the API server answers to the first look, when it is a refusal: a missing right shall be seen.
pub async fn acquire(
    client: Client,
    namespace: &str,
    flags: &Flags,
    identity: String,
) -> Result<(Leadership, Held), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let mut holder = Holder {
        api: api.clone(),
        name: flags.leader_elect_name.clone(),
        identity: identity.clone(),
        lease_duration: flags.leader_elect_lease_duration,
        seen: None,
        held: None,
    };
    let retry = flags.leader_elect_retry_period;
    let until = loop {
        let before = Instant::now();
        match holder.attempt().await {
            Ok(true) => break before + flags.leader_elect_renew_deadline,
            Ok(false) => {}
            Err(kube::Error::Api(status)) if status.code == 403 => {
                return Err(kube::Error::Api(status));
            }
            Err(error) => tracing::warn!(%error, "the lease cannot be read"),
        }
        tokio::time::sleep(retry).await;
    };
    let until = Arc::new(Mutex::new(until));
    let leadership = Leadership {
        until: Some(Arc::clone(&until)),
    };
    let deadline = flags.leader_elect_renew_deadline;
    let held = Arc::clone(&until);
    let renewing = tokio::spawn(async move {
        loop {
            tokio::time::sleep(retry).await;
            let before = Instant::now();
            if before >= *until.lock() {
                tracing::error!("the lease was not renewed in time");
                return;
            }
            let left = *until.lock() - before;
            match tokio::time::timeout(left, holder.attempt()).await {
                Ok(Ok(true)) => *until.lock() = before + deadline,
                Ok(Ok(false)) => {
                    tracing::error!("another operator has the lease");
                    *until.lock() = before;
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be renewed"),
                Err(_) => {}
            }
        }
    });
    let held = Held {
        until: held,
        renewing,
        api,
        name: flags.leader_elect_name.clone(),
        identity,
    };
    Ok((leadership, held))
}

struct Holder {
    api: Api<Lease>,
    name: String,
    identity: String,
    lease_duration: Duration,
    /// the resource version of the last look, and when it was first seen
    seen: Option<(String, Instant)>,
    /// as our last write left it; nothing where we do not know what it did
    held: Option<Lease>,
}

impl Holder {
    /// Takes or renews the lease; `false`: another one holds it.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        // At rest a renewal is one request: what our last write left needs no look, unless somebody changed it.
        if let Some(lease) = self.held.take() {
            match self.write(lease).await {
                Ok(false) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other,
            }
        }
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(0)),
            };
            let answer = self.api.create(&PostParams::default(), &lease).await;
            return self.taken(answer);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if holder != self.identity
            && !holder.is_empty()
            && !self.has_expired(&version, spec.lease_duration_seconds)
        {
            return Ok(false);
        }
        self.write(lease).await
    }

    /// Writes our name and the time into a lease, with the resource version that it has: of two that try, one
    /// gets a conflict.
    async fn write(&mut self, mut lease: Lease) -> Result<bool, kube::Error> {
        let old = lease.spec.take().unwrap_or_default();
        let ours = old.holder_identity.as_ref() == Some(&self.identity);
        let mut new = self.spec(old.lease_transitions.unwrap_or_default() + i32::from(!ours));
        if let Some(acquired) = old.acquire_time.filter(|_| ours) {
            new.acquire_time = Some(acquired);
        }
        lease.spec = Some(new);
        let answer = self
            .api
            .replace(&self.name, &PostParams::default(), &lease)
            .await;
        self.taken(answer)
    }

    fn taken(&mut self, answer: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match answer {
            Ok(lease) => {
                self.held = Some(lease);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a foreign lease has not changed for its whole duration.
    fn has_expired(&mut self, version: &str, seconds: Option<i32>) -> bool {
        let duration = seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(self.lease_duration, Duration::from_secs);
        match &self.seen {
            Some((seen, at)) if seen == version => at.elapsed() >= duration,
            _ => {
                self.seen = Some((version.to_owned(), Instant::now()));
                false
            }
        }
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.lease_duration.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}
