//! Leases beside the log: renewals and questions go to the leader, over the peer port when that
//! is another member (etcd `LeaseRenew`, `LeaseTimeToLive`).

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use lease::{LeaseId, Renewal, WaitEnd};

use crate::lane::Lane;
use crate::member::Member;

/// Between two attempts to reach the leader.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

impl Member {
    /// Gives a lease its full time again; the seconds it has now.
    pub async fn lease_renew(&self, lane: &Lane, id: i64) -> Result<i64, api::Error> {
        if self.is_leader() {
            match self.lease_renew_here(lane, id).await {
                // Also a leader whose first entry is not applied yet: a moment later it can.
                Err(api::Error::NotPrimary) => {}
                result => return result,
            }
        }
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            let leader = self.wait_leader(deadline).await?;
            if leader == self.id() {
                match self.lease_renew_here(lane, id).await {
                    Err(api::Error::NotPrimary) => {}
                    result => return result,
                }
            } else {
                match self.peers.lease_renew(leader, id, deadline).await {
                    Ok(ttl) => return Ok(ttl),
                    Err(api::Error::LeaseNotFound) => return Err(api::Error::LeaseNotFound),
                    Err(error) => tracing::debug!(%error, "renewing a lease at the leader failed"),
                }
            }
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(api::Error::Timeout);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// The leader's own part of a renewal; also for `/leases` on the peer port.
    pub async fn lease_renew_here(&self, lane: &Lane, id: i64) -> Result<i64, api::Error> {
        if !self.ensure_leadership(lane).await {
            return Err(api::Error::NotPrimary);
        }
        let state = self.state();
        let id = LeaseId(id);
        if !state.lessor.contains(id) {
            // Its grant may be on the way to the applier.
            self.wait_applied(lane).await?;
        }
        loop {
            match state
                .lessor
                .renew(id, self.clock.now())
                .map_err(from_lease)?
            {
                Renewal::Renewed(seconds) => {
                    let renewed = &self.shared.counters.stats.leases_renewed;
                    renewed.fetch_add(1, Ordering::Relaxed);
                    return Ok(seconds);
                }
                Renewal::Ended => {
                    let (sender, receiver) = tokio::sync::oneshot::channel();
                    let wait = Box::new(move |end| {
                        let _ = sender.send(end);
                    });
                    state.lessor.wait(id, wait).map_err(from_lease)?;
                    return match tokio::time::timeout(self.config.request_timeout(), receiver).await
                    {
                        Ok(Ok(WaitEnd::Revoked)) => Err(api::Error::LeaseNotFound),
                        Ok(_) => Err(api::Error::NotPrimary),
                        Err(_) => Err(api::Error::Timeout),
                    };
                }
                Renewal::ClearCheckpoint => {
                    let checkpoint = pb::LeaseCheckpointRequest {
                        checkpoints: vec![pb::LeaseCheckpoint {
                            id: id.0,
                            remaining_ttl: 0,
                        }],
                    };
                    let request = pb::InternalRaftRequest {
                        lease_checkpoint: Some(checkpoint),
                        ..Default::default()
                    };
                    self.propose(lane, request).await?;
                }
            }
        }
    }

    /// What is known of a lease; the leader keeps its time.
    pub async fn lease_time_to_live(
        &self,
        lane: &Lane,
        request: pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, api::Error> {
        if self.is_leader() {
            match self.lease_time_to_live_here(lane, &request).await {
                Err(api::Error::NotPrimary) => {}
                result => return result,
            }
        }
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            let leader = self.wait_leader(deadline).await?;
            let result = if leader == self.id() {
                self.lease_time_to_live_here(lane, &request).await
            } else {
                self.peers
                    .lease_time_to_live(leader, &request, deadline)
                    .await
            };
            match result {
                Ok(response) => return Ok(response),
                Err(api::Error::LeaseNotFound) => return Err(api::Error::LeaseNotFound),
                Err(error) => tracing::debug!(%error, "asking the leader about a lease failed"),
            }
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(api::Error::Timeout);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// The leader's own part; also for `/leases/internal` on the peer port.
    pub async fn lease_time_to_live_here(
        &self,
        lane: &Lane,
        request: &pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, api::Error> {
        self.wait_applied(lane).await?;
        let state = self.state();
        let known = state
            .lessor
            .time_to_live(LeaseId(request.id), request.keys, self.clock.now())
            .map_err(from_lease)?;
        let Some(remaining) = known.remaining_seconds else {
            return Err(api::Error::NotPrimary);
        };
        Ok(pb::LeaseTimeToLiveResponse {
            header: None,
            id: request.id,
            ttl: remaining,
            granted_ttl: known.granted_seconds,
            keys: known.keys,
        })
    }

    /// All leases that this member has applied, as etcd lists them.
    pub fn lease_leases(&self) -> Vec<i64> {
        self.state()
            .lessor
            .leases()
            .into_iter()
            .map(|id| id.0)
            .collect()
    }
}

fn from_lease(error: lease::Error) -> api::Error {
    match error {
        lease::Error::NotFound => api::Error::LeaseNotFound,
        lease::Error::NotPrimary => api::Error::NotPrimary,
        other => api::Error::Other(other.to_string().into()),
    }
}
