//! Asking every peer now and then how far away it is, and what time it believes it is.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use serde::Deserialize;

use crate::client::read_whole;
use crate::clock::parse_rfc3339;
use crate::error::{Error, chain};
use crate::peer::Peer;
use crate::transport::Shared;
use crate::url::PeerUrl;

pub(crate) const PATH: &str = "/raft/probing";

/// The answer is about 60 bytes.
const ANSWER_BYTES_MAX: usize = 4096;

/// Clocks that differ by more are warned of, as in etcd: leases and certificates suffer.
const CLOCK_DRIFT_WARN: Duration = Duration::from_secs(1);

/// Between two warnings about one peer, in probes.
const WARN_EVERY: u32 = 8;

/// What the last probes of a peer found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probe {
    /// Round-trip time, smoothed: seven parts of what was, one part of the newest.
    pub rtt: Option<Duration>,
    /// How far the peer's clock is ahead of ours (negative: behind), in milliseconds.
    pub clock_drift_ms: Option<i64>,
    /// When the peer last answered.
    pub answered: Option<Instant>,
    /// Why the newest probe failed, if it did.
    pub failure: Option<Error>,
}

#[derive(Deserialize)]
struct Health {
    #[serde(rename = "OK")]
    ok: bool,
    #[serde(rename = "Now")]
    now: String,
}

/// Probes one peer until it is stopped.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut bad = 0;
    loop {
        tokio::time::sleep(shared.config.timeouts.probe).await;
        let url = peer.pick_url();
        let within = shared.config.timeouts.read;
        let probed = match tokio::time::timeout(within, ask(&shared, &url)).await {
            Ok(probed) => probed,
            Err(_) => Err(Error::Timeout {
                url: url.with(PATH),
                waited: within,
            }),
        };
        let complaint = record(&peer, probed);
        bad = if complaint.is_some() { bad + 1 } else { 0 };
        if let Some(complaint) = complaint
            && bad % WARN_EVERY == 1
        {
            tracing::warn!(remote_peer_id = %peer.id, "{complaint}");
        }
    }
}

/// Notes what a probe found; gives what there is to complain about.
fn record(peer: &Peer, probed: Result<(Duration, i64), Error>) -> Option<String> {
    let mut probe = peer.probe.lock();
    match probed {
        Ok((rtt, drift_ms)) => {
            peer.stats.add_rtt(rtt);
            let smoothed = probe.rtt.map_or(rtt, |before| (before * 7 + rtt) / 8);
            *probe = Probe {
                rtt: Some(smoothed),
                clock_drift_ms: Some(drift_ms),
                answered: Some(Instant::now()),
                failure: None,
            };
            let far = drift_ms.unsigned_abs() > CLOCK_DRIFT_WARN.as_millis() as u64;
            far.then(|| format!("the peer's clock differs from ours by {drift_ms} ms"))
        }
        Err(error) => {
            let text = format!("the peer did not answer a probe: {error}");
            probe.failure = Some(error);
            Some(text)
        }
    }
}

/// One probe over a connection of its own. The time to connect is not counted.
async fn ask(shared: &Shared, url: &PeerUrl) -> Result<(Duration, i64), Error> {
    let mut sender = shared.ask_client.handshake(url, PATH).await?;
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.uri_mut() = http::Uri::from_static(PATH);
    let host = HeaderValue::try_from(url.authority()).map_err(|_| Error::BadUrl {
        url: url.with(""),
        reason: "the host is not a valid header",
    })?;
    request.headers_mut().insert(http::header::HOST, host);
    let started = Instant::now();
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| Error::Broken {
            url: url.with(PATH),
            reason: chain(&error),
        })?;
    let rtt = started.elapsed();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let status = answer.status().as_u16();
    let body = read_whole(answer.into_body(), ANSWER_BYTES_MAX, url, PATH).await?;
    let unreadable = |reason: String| Error::Unreadable {
        url: url.with(PATH),
        reason,
    };
    if status != 200 {
        return Err(Error::Status {
            url: url.with(PATH),
            status,
            body: String::from_utf8_lossy(&body).trim_end().to_owned(),
        });
    }
    let theirs = time_in(&body).map_err(unreadable)?;
    // They looked at their clock half a round trip ago.
    let ours = now.saturating_sub(rtt / 2);
    let drift = theirs.as_millis() as i64 - ours.as_millis() as i64;
    Ok((rtt, drift))
}

/// The time that an answer to a probe names.
pub(crate) fn time_in(body: &[u8]) -> Result<Duration, String> {
    let health: Health = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if !health.ok {
        return Err("it says that it is not OK".to_owned());
    }
    parse_rfc3339(&health.now).ok_or_else(|| format!("{:?} is not a time", health.now))
}
