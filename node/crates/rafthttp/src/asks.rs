//! Single questions to a peer: its version, its members, a promotion, a hash, a lease.
//!
//! They need no transport, so that a member that is only about to join can ask too.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use prost::Message as _;
use raftpb::{MemberId, Message, MessageType};
use serde::Deserialize;

use crate::client::{Client, Whole};
use crate::config::{ClusterId, Config, Limits, Timeouts};
use crate::error::Error;
use crate::leases;
use crate::ports::{HashKv, LeaseTimeToLive};
use crate::probe;
use crate::url::PeerUrl;
use crate::version::header;

/// What a peer says on `/version`. `cluster` may be `not_decided`, `storage` `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Versions {
    /// The version that the member announces.
    #[serde(rename = "etcdserver", default)]
    pub server: String,
    /// The version that the cluster agreed on.
    #[serde(rename = "etcdcluster", default)]
    pub cluster: String,
    /// The version of the data on disk; empty from members before 3.6.
    #[serde(default)]
    pub storage: String,
    /// The version of Quorate, from members of ours.
    #[serde(default)]
    pub quorate: Option<String>,
}

/// Asks peers. Cheap to clone.
#[derive(Clone)]
pub struct Asks {
    client: Client,
    within: Duration,
    answer_bytes_max: usize,
}

impl Asks {
    /// Builds the client.
    pub fn new(timeouts: &Timeouts, limits: &Limits) -> Asks {
        Asks {
            client: Client::for_asks(timeouts),
            within: timeouts.ask,
            answer_bytes_max: limits.answer_bytes_max,
        }
    }

    /// The same, with another time to wait for each answer.
    pub fn within(&self, within: Duration) -> Asks {
        Asks {
            within,
            ..self.clone()
        }
    }

    /// `GET /version` of a member, at the first of its URLs that answers. The error is that of
    /// the last one.
    pub async fn version(&self, urls: &[String]) -> Result<Versions, Error> {
        let mut last = Error::NoUrl {
            what: "its version",
        };
        for url in urls {
            match self.get(url, "/version").await {
                Ok((_, answer)) => match read_json(url, "/version", &answer.body) {
                    Ok(versions) => return Ok(versions),
                    Err(error) => last = error,
                },
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// `GET /members` at one URL: the members as etcd's JSON array, and the cluster's id.
    pub async fn members(&self, url: &str) -> Result<(Bytes, ClusterId), Error> {
        let (asked, answer) = self.get(url, "/members").await?;
        let theirs = text_header(&answer, header::CLUSTER_ID);
        let id = theirs
            .and_then(ClusterId::from_hex)
            .ok_or_else(|| Error::Unreadable {
                url: asked,
                reason: format!("its X-Etcd-Cluster-ID is {theirs:?}, expected a hexadecimal id"),
            })?;
        Ok((answer.body, id))
    }

    /// Whether the member that listens at a URL is this one of this cluster. It is asked for by a
    /// raft message that means nothing (etcd takes no local message from outside) and that only
    /// the member itself accepts. [`Error::Status`]: it is another one, or of another cluster.
    pub async fn is_member(
        &self,
        url: &str,
        cluster: ClusterId,
        id: MemberId,
    ) -> Result<bool, Error> {
        const PATH: &str = "/raft";
        let peer = PeerUrl::parse(url)?;
        let message = Message {
            msg_type: MessageType::MsgBeat.into(),
            from: id.0,
            to: id.0,
            ..Message::default()
        };
        let body = Bytes::from(message.encode_to_vec());
        let mut request = request(&peer, Method::POST, PATH, body)?;
        let config = Config::new(id, cluster, Vec::new());
        let versions = [
            (header::SERVER_VERSION, config.server_version),
            (header::MIN_CLUSTER_VERSION, config.min_cluster_version),
        ];
        let ids = [
            (header::SERVER_FROM, id.to_string()),
            (header::CLUSTER_ID, cluster.to_string()),
        ];
        let versions = versions.map(|(name, version)| (name, version.to_string()));
        for (name, value) in ids.into_iter().chain(versions) {
            let value = HeaderValue::try_from(value).expect("digits and dots are a valid header");
            request.headers_mut().insert(name, value);
        }
        let answer = self.once(&peer, PATH, request).await?;
        Ok(answer.status == http::StatusCode::NO_CONTENT)
    }

    /// By how many milliseconds a member's clock is ahead of ours (negative: behind), to about
    /// half the time that the answer took.
    pub async fn clock_drift_ms(&self, url: &str) -> Result<i64, Error> {
        let began = std::time::Instant::now();
        let (asked, answer) = self.get(url, probe::PATH).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().saturating_sub(began.elapsed() / 2);
        let theirs = probe::time_in(&answer.body)
            .map_err(|reason| Error::Unreadable { url: asked, reason })?;
        Ok(theirs.as_millis() as i64 - now.as_millis() as i64)
    }

    /// `POST /members/promote/<id>` at the leader: the members afterwards, as JSON. `token` is
    /// the client's, if it has one. What the leader says against it is [`Error::Status`]: 404
    /// unknown member, 408 time-out, 412 not a learner or not in sync (see its text).
    pub async fn promote(
        &self,
        url: &str,
        id: MemberId,
        token: Option<&str>,
    ) -> Result<Bytes, Error> {
        let path = format!("/members/promote/{}", id.0);
        let peer = PeerUrl::parse(url)?;
        let mut request = request(&peer, Method::POST, &path, Bytes::new())?;
        if let Some(token) = token {
            let token = HeaderValue::from_str(token).map_err(|_| Error::Unreadable {
                url: peer.with(&path),
                reason: "the token cannot be put into a header".to_owned(),
            })?;
            let headers = request.headers_mut();
            headers.insert(http::header::AUTHORIZATION, token);
        }
        // Not sent twice: a connection of its own.
        let answer = self.once(&peer, &path, request).await?;
        expect_ok(&peer, &path, &answer)?;
        Ok(answer.body)
    }

    /// `POST /quorate/membership` at a leader of ours: its answer. Sent once: after any error but
    /// [`Error::Unreachable`] and [`Error::Status`] nobody knows whether it was carried out.
    pub async fn membership(
        &self,
        url: &str,
        cluster: ClusterId,
        question: Bytes,
    ) -> Result<Bytes, Error> {
        const PATH: &str = "/quorate/membership";
        let peer = PeerUrl::parse(url)?;
        let mut request = request(&peer, Method::POST, PATH, question)?;
        let headers = request.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(http::header::CONTENT_TYPE, json);
        let id = HeaderValue::try_from(cluster.to_string())
            .expect("hexadecimal digits are a valid header");
        headers.insert(header::CLUSTER_ID, id);
        let answer = self.once(&peer, PATH, request).await?;
        expect_ok(&peer, PATH, &answer)?;
        Ok(answer.body)
    }

    /// `GET /members/hashkv`: the hash at a revision. [`Error::Status`] 400 carries the store's
    /// text (compacted, future revision), 412 another cluster.
    pub async fn hash_kv(
        &self,
        url: &str,
        cluster: ClusterId,
        revision: i64,
    ) -> Result<HashKv, Error> {
        const PATH: &str = "/members/hashkv";
        let peer = PeerUrl::parse(url)?;
        let body = match revision {
            0 => "{}".to_owned(),
            revision => format!("{{\"revision\":{revision}}}"),
        };
        let mut request = request(&peer, Method::GET, PATH, body.into())?;
        let headers = request.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(http::header::CONTENT_TYPE, json);
        let id = HeaderValue::try_from(cluster.to_string())
            .expect("hexadecimal digits are a valid header");
        headers.insert(header::CLUSTER_ID, id);
        let answer = self.exchange(&peer, PATH, &request).await?;
        expect_ok(&peer, PATH, &answer)?;
        let said: HashKvAnswer = read_json(url, PATH, &answer.body)?;
        Ok(HashKv {
            revision: said.header.unwrap_or_default().revision,
            hash: said.hash,
            compact_revision: said.compact_revision,
            hash_revision: said.hash_revision,
        })
    }

    /// `GET /downgrade/enabled` of a member, at the first of its URLs that answers.
    pub async fn downgrade_enabled(&self, urls: &[String]) -> Result<bool, Error> {
        const PATH: &str = "/downgrade/enabled";
        let mut last = Error::NoUrl {
            what: "whether a downgrade is enabled",
        };
        for url in urls {
            match self.get(url, PATH).await {
                Ok((asked, answer)) => match &answer.body[..] {
                    b"true" => return Ok(true),
                    b"false" => return Ok(false),
                    other => {
                        let said = String::from_utf8_lossy(&other[..other.len().min(100)]);
                        last = Error::Unreadable {
                            url: asked,
                            reason: format!("{said:?} is neither true nor false"),
                        };
                    }
                },
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// `POST /leases` at the leader: keeps a lease alive; its time to live in seconds.
    /// [`Error::Status`] 404: no such lease; 408: the leader has not caught up with itself.
    pub async fn lease_renew(&self, url: &str, lease: i64) -> Result<i64, Error> {
        const PATH: &str = "/leases";
        let (asked, body) = self
            .post_lease(url, PATH, leases::renew_request(lease))
            .await?;
        match leases::read_renew_answer(body) {
            Ok((id, ttl)) if id == lease => Ok(ttl),
            Ok((id, _)) => Err(Error::Unreadable {
                url: asked,
                reason: format!("it is about lease {id:x}, expected {lease:x}"),
            }),
            Err(error) => Err(Error::Unreadable {
                url: asked,
                reason: error.to_string(),
            }),
        }
    }

    /// `POST /leases/internal` at the leader. [`Error::Status`] 404: no such lease; 408, 500:
    /// ask again.
    pub async fn lease_time_to_live(
        &self,
        url: &str,
        lease: i64,
        keys: bool,
    ) -> Result<LeaseTimeToLive, Error> {
        const PATH: &str = "/leases/internal";
        let body = leases::time_to_live_request(lease, keys);
        let (asked, body) = self.post_lease(url, PATH, body).await?;
        let unreadable = |reason: String| Error::Unreadable { url: asked, reason };
        match leases::read_time_to_live_answer(body) {
            Ok(Some(answer)) if answer.id == lease => Ok(answer),
            Ok(Some(answer)) => Err(unreadable(format!(
                "it is about lease {:x}, expected {lease:x}",
                answer.id
            ))),
            Ok(None) => Err(unreadable("it is empty".to_owned())),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    async fn post_lease(
        &self,
        url: &str,
        path: &'static str,
        body: Bytes,
    ) -> Result<(String, Bytes), Error> {
        let peer = PeerUrl::parse(url)?;
        let mut request = request(&peer, Method::POST, path, body)?;
        let protobuf = HeaderValue::from_static("application/protobuf");
        let headers = request.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, protobuf);
        // A renewal said twice is still a renewal, so a kept connection may be used.
        let answer = self.exchange(&peer, path, &request).await?;
        expect_ok(&peer, path, &answer)?;
        Ok((peer.with(path), answer.body))
    }

    /// A GET that expects 200; also gives the whole URL, for messages.
    async fn get(&self, url: &str, path: &'static str) -> Result<(String, Whole), Error> {
        let peer = PeerUrl::parse(url)?;
        let request = request(&peer, Method::GET, path, Bytes::new())?;
        let answer = self.once(&peer, path, request).await?;
        expect_ok(&peer, path, &answer)?;
        Ok((peer.with(path), answer))
    }

    /// On a connection of its own.
    async fn once(
        &self,
        peer: &PeerUrl,
        path: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Whole, Error> {
        let asked = async {
            let answer = self.client.send_once(peer, request).await?;
            let (head, body) = answer.into_parts();
            let limit = self.answer_bytes_max;
            let body = crate::client::read_whole(body, limit, peer, path).await?;
            Ok(Whole {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        self.in_time(peer, path, asked).await
    }

    /// On a kept connection if there is a young one.
    async fn exchange(
        &self,
        peer: &PeerUrl,
        path: &str,
        request: &Request<Full<Bytes>>,
    ) -> Result<Whole, Error> {
        let asked = self
            .client
            .exchange(peer, || request.clone(), self.answer_bytes_max);
        self.in_time(peer, path, asked).await
    }

    async fn in_time<T>(
        &self,
        peer: &PeerUrl,
        path: &str,
        asked: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::time::timeout(self.within, asked)
            .await
            .map_err(|_| Error::Timeout {
                url: peer.with(path),
                waited: self.within,
            })?
    }
}

#[derive(Deserialize)]
struct HashKvAnswer {
    #[serde(default)]
    header: Option<AnswerHeader>,
    #[serde(default)]
    hash: u32,
    #[serde(default)]
    compact_revision: i64,
    #[serde(default)]
    hash_revision: i64,
}

#[derive(Default, Deserialize)]
struct AnswerHeader {
    #[serde(default)]
    revision: i64,
}

fn request(
    peer: &PeerUrl,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Error> {
    let bad = || Error::BadUrl {
        url: peer.with(path),
        reason: "it cannot be put into a request",
    };
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| bad())?;
    let host = HeaderValue::try_from(peer.authority()).map_err(|_| bad())?;
    request.headers_mut().insert(http::header::HOST, host);
    Ok(request)
}

fn expect_ok(peer: &PeerUrl, path: &str, answer: &Whole) -> Result<(), Error> {
    if answer.status == http::StatusCode::OK {
        return Ok(());
    }
    let body = &answer.body[..answer.body.len().min(1000)];
    Err(Error::Status {
        url: peer.with(path),
        status: answer.status.as_u16(),
        body: String::from_utf8_lossy(body).trim_end().to_owned(),
    })
}

fn read_json<T: for<'de> Deserialize<'de>>(url: &str, path: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Unreadable {
        url: format!("{url}{path}"),
        reason: error.to_string(),
    })
}

fn text_header<'a>(answer: &'a Whole, name: &str) -> Option<&'a str> {
    answer.headers.get(name)?.to_str().ok()
}
