//! Asking members, and the membership calls.
//!
//! Everything here is bounded in time, and every failure is a value: a member that could not be asked is
//! neither healthy nor gone.

use std::collections::HashMap;
use std::time::Duration;

use api::etcdserverpb as pb;
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// A member that has not answered a question within this time is silent.
pub const ASK: Duration = Duration::from_secs(2);

/// A membership call waits until a learner counts as healthy, five seconds, and for a commit.
const CALL: Duration = Duration::from_secs(9);

/// Defragmentation writes the whole database anew.
const LONG_CALL: Duration = Duration::from_secs(120);

/// Beyond this many connections those of members that are gone are dropped: two for every cluster of a large
/// installation.
const CONNECTIONS_MAX: usize = 2048;

/// The metadata that makes a membership call conditional, see docs/membership.md.
const EXPECTED: &str = "quorate-expected-membership";

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// not an address
    #[error("{url:?} is no address of a member: {source}")]
    Address {
        /// as it was given
        url: String,
        /// why
        source: tonic::transport::Error,
    },
    /// the member's answer
    #[error("{what}: {}: {}", .status.code(), .status.message())]
    Refused {
        /// the call
        what: &'static str,
        /// its answer
        status: Box<tonic::Status>,
    },
}

/// Connections to members, kept from pass to pass.
#[derive(Debug, Default)]
pub struct Members {
    channels: Mutex<HashMap<String, Channel>>,
}

/// What one member said of itself.
#[derive(Debug, Clone)]
pub struct Said {
    /// its Status
    pub status: pb::StatusResponse,
    /// whether it served the read that its role serves
    pub served: bool,
}

/// What the leader said of all, behind a linearizable read.
#[derive(Debug, Clone)]
pub struct Roll {
    /// its own word
    pub header: pb::ResponseHeader,
    /// all members
    pub members: Vec<pb::Member>,
    /// the digest of docs/membership.md
    pub digest: String,
    /// all alarms
    pub alarms: Vec<pb::AlarmMember>,
}

impl Members {
    fn channel(&self, url: &str) -> Result<Channel, Error> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(url) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|source| Error::Address {
            url: url.to_owned(),
            source,
        })?;
        let channel = endpoint
            .connect_timeout(ASK)
            .tcp_nodelay(true)
            .connect_lazy();
        if channels.len() >= CONNECTIONS_MAX {
            channels.clear();
        }
        channels.insert(url.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Forgets the connection: the next question makes a new one.
    fn forget(&self, url: &str) {
        self.channels.lock().remove(url);
    }

    /// Asks a member for its status, and for a read with a quorum behind it (a learner: for one without).
    pub async fn ask(&self, url: &str) -> Option<Said> {
        let said = tokio::time::timeout(ASK, self.status_and_read(url)).await;
        match said {
            Ok(Ok(said)) => Some(said),
            Ok(Err(error)) => {
                tracing::debug!(url, %error, "a member does not answer");
                self.forget(url);
                None
            }
            Err(_) => {
                tracing::debug!(url, "a member does not answer in time");
                self.forget(url);
                None
            }
        }
    }

    async fn status_and_read(&self, url: &str) -> Result<Said, Error> {
        let channel = self.channel(url)?;
        let status = MaintenanceClient::new(channel.clone())
            .status(bounded(pb::StatusRequest {}, ASK))
            .await
            .map_err(refused("status"))?
            .into_inner();
        let read = pb::RangeRequest {
            key: bytes::Bytes::from_static(b"quorate-operator"),
            count_only: true,
            serializable: status.is_learner,
            ..pb::RangeRequest::default()
        };
        // Half of the time: without a quorum it does not answer, and the status shall count even so.
        let served = KvClient::new(channel)
            .range(bounded(read, ASK / 2))
            .await
            .is_ok();
        Ok(Said { status, served })
    }

    /// The membership as the leader has it, if this member leads; else nothing.
    pub async fn roll(&self, url: &str) -> Option<Roll> {
        match tokio::time::timeout(ASK, self.roll_of(url)).await {
            Ok(Ok(roll)) => Some(roll),
            Ok(Err(error)) => {
                tracing::debug!(url, %error, "the membership cannot be read");
                None
            }
            Err(_) => None,
        }
    }

    async fn roll_of(&self, url: &str) -> Result<Roll, Error> {
        let channel = self.channel(url)?;
        let list = ClusterClient::new(channel.clone())
            .member_list(bounded(pb::MemberListRequest { linearizable: true }, ASK))
            .await
            .map_err(refused("member list"))?
            .into_inner();
        let alarms = MaintenanceClient::new(channel)
            .alarm(bounded(pb::AlarmRequest::default(), ASK))
            .await
            .map_err(refused("alarms"))?
            .into_inner();
        Ok(Roll {
            header: list.header.unwrap_or_default(),
            digest: digest(&list.members),
            members: list.members,
            alarms: alarms.alarms,
        })
    }

    /// Whether a read at this revision is refused because it was compacted.
    pub async fn is_compacted(&self, url: &str, revision: i64) -> bool {
        let Ok(channel) = self.channel(url) else {
            return false;
        };
        let read = pb::RangeRequest {
            key: bytes::Bytes::from_static(b"quorate-operator"),
            count_only: true,
            serializable: true,
            revision,
            ..pb::RangeRequest::default()
        };
        match KvClient::new(channel).range(bounded(read, ASK)).await {
            Ok(_) => false,
            Err(status) => status.message().contains("compacted"),
        }
    }

    /// MemberAdd as a learner.
    pub async fn add_learner(
        &self,
        url: &str,
        peer_url: &str,
        expected: &str,
    ) -> Result<(), Error> {
        let request = pb::MemberAddRequest {
            peer_urls: vec![peer_url.to_owned()],
            is_learner: true,
        };
        ClusterClient::new(self.channel(url)?)
            .member_add(conditional(request, expected))
            .await
            .map(|_| ())
            .map_err(refused("member add"))
    }

    /// MemberPromote.
    pub async fn promote(&self, url: &str, id: u64, expected: &str) -> Result<(), Error> {
        ClusterClient::new(self.channel(url)?)
            .member_promote(conditional(pb::MemberPromoteRequest { id }, expected))
            .await
            .map(|_| ())
            .map_err(refused("member promote"))
    }

    /// MemberRemove.
    pub async fn remove(&self, url: &str, id: u64, expected: &str) -> Result<(), Error> {
        ClusterClient::new(self.channel(url)?)
            .member_remove(conditional(pb::MemberRemoveRequest { id }, expected))
            .await
            .map(|_| ())
            .map_err(refused("member remove"))
    }

    /// MoveLeader, asked of the leader.
    pub async fn move_leader(&self, url: &str, to: u64) -> Result<(), Error> {
        MaintenanceClient::new(self.channel(url)?)
            .move_leader(bounded(pb::MoveLeaderRequest { target_id: to }, CALL))
            .await
            .map(|_| ())
            .map_err(refused("move leader"))
    }

    /// Compact, and wait until the space is free inside of the database.
    pub async fn compact(&self, url: &str, revision: i64) -> Result<(), Error> {
        let request = pb::CompactionRequest {
            revision,
            physical: true,
        };
        match KvClient::new(self.channel(url)?)
            .compact(bounded(request, LONG_CALL))
            .await
        {
            Ok(_) => Ok(()),
            // Somebody was faster.
            Err(status) if status.message().contains("compacted") => Ok(()),
            Err(status) => Err(refused("compact")(status)),
        }
    }

    /// Defragment one member's database.
    pub async fn defragment(&self, url: &str) -> Result<(), Error> {
        MaintenanceClient::new(self.channel(url)?)
            .defragment(bounded(pb::DefragmentRequest {}, LONG_CALL))
            .await
            .map(|_| ())
            .map_err(refused("defragment"))
    }

    /// Take an alarm back.
    pub async fn disarm(&self, url: &str, member: u64, alarm: pb::AlarmType) -> Result<(), Error> {
        let request = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Deactivate.into(),
            member_id: member,
            alarm: alarm.into(),
        };
        MaintenanceClient::new(self.channel(url)?)
            .alarm(bounded(request, CALL))
            .await
            .map(|_| ())
            .map_err(refused("disarm"))
    }
}

fn refused(what: &'static str) -> impl FnOnce(tonic::Status) -> Error {
    move |status| Error::Refused {
        what,
        status: Box::new(status),
    }
}

fn bounded<T>(message: T, at_most: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(at_most);
    request
}

fn conditional<T>(message: T, expected: &str) -> Request<T> {
    let mut request = bounded(message, CALL);
    if let Ok(value) = expected.parse() {
        request.metadata_mut().insert(EXPECTED, value);
    }
    request
}

/// The digest of a membership, as docs/membership.md gives it.
fn digest(members: &[pb::Member]) -> String {
    let mut lines: Vec<String> = members
        .iter()
        .map(|member| {
            let role = if member.is_learner {
                "learner"
            } else {
                "voter"
            };
            let mut urls = member.peer_urls.clone();
            urls.sort_unstable();
            format!("{:016x} {role} {}\n", member.id, urls.join(","))
        })
        .collect();
    lines.sort_unstable();
    let hash = Sha256::digest(lines.concat());
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_document() {
        let member = |id, is_learner, urls: &[&str]| pb::Member {
            id,
            peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            is_learner,
            ..pb::Member::default()
        };
        let members = [
            member(
                0x8211_f1d0_f64f_3269,
                false,
                &["http://a.example:2380", "http://10.0.0.1:2380"],
            ),
            member(0xa1, true, &["http://10.0.0.2:2380"]),
        ];
        assert_eq!(digest(&members), "cdd48d4524601b8a");
    }
}
