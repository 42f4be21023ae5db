//! The door: every request of the client port comes in here, is checked for what concerns all of
//! them (method, metadata, learner), and goes to its handler. Handlers are `async fn` from
//! message to message; they know the member and the lane, no HTTP.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use prost::Message;
use server::Member;
use server::lane::Lane;

use crate::grpc::{self, Messages, ReplyBody, Status};
use crate::head::{self, ContentType};
use crate::serve::Serves;
use crate::stats::{self, Method};
use crate::{auth, cluster, health, kv, lease, maintenance, watch};

/// What a request may carry beside the largest raft request (etcd `grpcOverheadBytes`).
const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// The rpc part of the configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--max-request-bytes`
    pub max_request_bytes: usize,
    /// `--max-txn-ops`
    pub max_txn_ops: usize,
    /// `--max-concurrent-streams`
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-interval`
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`
    pub keepalive_timeout: Duration,
    /// `--warning-unary-request-duration`: what takes longer is logged; zero: nothing is
    pub warning_unary_request_duration: Duration,
    /// `--cors`: origins that browsers may call from, `*` for all
    pub cors: Vec<String>,
    /// `--host-whitelist`: names that plain HTTP may call us by, `*` for all
    pub host_whitelist: Vec<String>,
    /// `--watch-progress-notify-interval`
    pub watch_progress_notify_interval: Duration,
    /// `--metrics=extensive`: how long calls took is counted too
    pub extensive_metrics: bool,
}

impl Config {
    /// The largest message a client may send.
    pub fn message_bytes_max(&self) -> usize {
        self.max_request_bytes + GRPC_OVERHEAD_BYTES
    }
}

/// One runtime's door.
pub struct Door {
    /// the member
    pub member: Arc<Member>,
    /// this runtime's lane
    pub lane: Arc<Lane>,
    /// limits
    pub config: Config,
}

/// What the metadata of a call said.
#[derive(Debug, Clone, Copy, Default)]
pub struct Call {
    /// `hasleader: true`: the client wants to hear when there is no leader
    pub require_leader: bool,
}

impl Door {
    /// Answers one request.
    pub async fn call(
        self: Arc<Self>,
        serves: Serves,
        request: Request<Incoming>,
    ) -> Result<Response<ReplyBody>, Infallible> {
        let content_type = match (serves, head::content_type(request.headers())) {
            (Serves::Metrics, _) => return Ok(health::answer_metrics(&self, request).await),
            (Serves::Http, _) => return Ok(health::answer(&self, request).await),
            (_, ContentType::Grpc(content_type)) => content_type,
            (Serves::All, ContentType::Other) => return Ok(health::answer(&self, request).await),
            (_, ContentType::Bad | ContentType::Other) => {
                return Ok(bad_content_type(request.headers()));
            }
        };
        let timeout = match head::timeout(request.headers()) {
            Ok(timeout) => timeout,
            Err(status) => {
                let mut response = grpc::error_response(&status);
                *response.status_mut() = StatusCode::BAD_REQUEST;
                return Ok(response);
            }
        };
        let gzip = request
            .headers()
            .get("grpc-encoding")
            .is_some_and(|value| value == "gzip");
        let (service, method) = head::names(request.uri().path()).unwrap_or_default();
        let stats = stats::of(service, method);
        let began = Instant::now();
        if let Some(stats) = stats {
            let version = request.headers().get("client-api-version");
            stats.start(
                version
                    .and_then(|version| version.to_str().ok())
                    .unwrap_or("unknown"),
            );
        }
        let answer = self.clone().grpc(request, stats);
        let answer = match timeout {
            None => answer.await,
            // A handler that is dropped leaves nothing behind but an entry that may be applied.
            Some(timeout) => match tokio::time::timeout(timeout, answer).await {
                Ok(answer) => answer,
                Err(_) => Err(api::Error::ContextDeadlineExceeded.into()),
            },
        };
        let answer = answer.unwrap_or_else(|status| grpc::error_response(&status));
        let mut response = grpc::begin_stream(answer).await;
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, content_type);
        if gzip {
            // Whoever sends gzip gets gzip, asked for or not, as from grpc-go.
            grpc::compress(&mut response);
        }
        if let Some(stats) = stats {
            if let ReplyBody::Stream { stats: counted, .. } = response.body_mut() {
                let began = self.config.extensive_metrics.then_some(began);
                *counted = Some((stats, began));
            } else {
                self.count_unary(stats, &response, began.elapsed());
            }
        }
        Ok(response)
    }

    fn count_unary(&self, stats: &Method, response: &Response<ReplyBody>, took: Duration) {
        let code = grpc::code(response);
        let bytes = match response.body() {
            ReplyBody::Unary {
                data: Some(data), ..
            } => data.len(),
            _ => 0,
        };
        if bytes > 0 {
            stats.send(bytes);
        }
        stats.end(code);
        if self.config.extensive_metrics {
            stats.took(took);
        }
        let shown = &self.member.shared.counters.stats;
        shown.count_request(stats.name(), code == api::Code::OK, took);
        let slow = self.config.warning_unary_request_duration;
        if stats.is_unary() && !slow.is_zero() && took > slow {
            tracing::warn!(
                time_spent_ms = took.as_millis() as u64,
                method = stats.name(),
                response_bytes = bytes,
                code = code.name(),
                "request stats"
            );
        }
    }

    async fn grpc(
        self: Arc<Self>,
        request: Request<Incoming>,
        stats: Option<&'static Method>,
    ) -> Result<Response<ReplyBody>, Status> {
        let (head, body) = request.into_parts();
        let call = read_metadata(&head.headers)?;
        let mut messages = Messages::new(
            body,
            head.headers.get("grpc-encoding"),
            self.config.message_bytes_max(),
        )?;
        if let Some(stats) = stats {
            messages.count_for(stats);
        }
        let path = head.uri.path();
        let (service, method) = head::names(path).ok_or_else(|| head::malformed_path(path))?;
        let door = self;
        Ok(match (service, method) {
            ("etcdserverpb.KV", method) => match method {
                "Range" => door.unary(call, messages, kv::range).await,
                "Put" => door.unary(call, messages, kv::put).await,
                "DeleteRange" => door.unary(call, messages, kv::delete_range).await,
                "Txn" => door.unary(call, messages, kv::txn).await,
                "Compact" => door.unary(call, messages, kv::compact).await,
                "RangeStream" => kv::range_stream(door, call, messages).await?,
                _ => return Err(Status::unknown_method(service, method)),
            },
            ("etcdserverpb.Watch", "Watch") => watch::watch(door, call, messages)?,
            ("etcdserverpb.Lease", method) => match method {
                "LeaseGrant" => door.unary(call, messages, lease::grant).await,
                "LeaseRevoke" => door.unary(call, messages, lease::revoke).await,
                "LeaseTimeToLive" => door.unary(call, messages, lease::time_to_live).await,
                "LeaseLeases" => door.unary(call, messages, lease::leases).await,
                "LeaseKeepAlive" => lease::keep_alive(door, call, messages)?,
                _ => return Err(Status::unknown_method(service, method)),
            },
            ("etcdserverpb.Cluster", method) => match method {
                "MemberAdd" => {
                    let expected = cluster::expected(&head.headers)?;
                    let promote = cluster::promote_when_ready(&head.headers);
                    let add = |door, request| cluster::add(door, request, expected, promote);
                    door.unary(call, messages, add).await
                }
                "MemberRemove" => {
                    let expected = cluster::expected(&head.headers)?;
                    let remove = |door, request| cluster::remove(door, request, expected);
                    door.unary(call, messages, remove).await
                }
                "MemberUpdate" => {
                    let expected = cluster::expected(&head.headers)?;
                    let update = |door, request| cluster::update(door, request, expected);
                    door.unary(call, messages, update).await
                }
                "MemberPromote" => {
                    let expected = cluster::expected(&head.headers)?;
                    let promote = |door, request| cluster::promote(door, request, expected);
                    door.unary(call, messages, promote).await
                }
                "MemberList" => door.unary_with(call, messages, cluster::list).await,
                _ => return Err(Status::unknown_method(service, method)),
            },
            ("etcdserverpb.Maintenance", method) => match method {
                "Alarm" => door.unary(call, messages, maintenance::alarm).await,
                "Status" => door.unary(call, messages, maintenance::status).await,
                "Defragment" => door.unary(call, messages, maintenance::defragment).await,
                "Hash" => door.unary(call, messages, maintenance::hash).await,
                "HashKV" => door.unary(call, messages, maintenance::hash_kv).await,
                "MoveLeader" => door.unary(call, messages, maintenance::move_leader).await,
                "Downgrade" => door.unary(call, messages, maintenance::downgrade).await,
                "Snapshot" => maintenance::snapshot(door, call, messages).await?,
                _ => return Err(Status::unknown_method(service, method)),
            },
            ("etcdserverpb.Auth", method) => match method {
                "AuthStatus" => door.unary(call, messages, auth::status).await,
                "Authenticate" => door.unary(call, messages, auth::authenticate).await,
                _ if auth::METHODS.contains(&method) => return Err(auth::not_there(method)),
                _ => return Err(Status::unknown_method(service, method)),
            },
            ("grpc.health.v1.Health", method) => match method {
                "Check" => door.unary(call, messages, maintenance::health_check).await,
                "List" => door.unary(call, messages, maintenance::health_list).await,
                "Watch" => maintenance::health_watch(door, messages).await?,
                _ => return Err(Status::unknown_method(service, method)),
            },
            _ => return Err(Status::unknown_service(service)),
        })
    }

    async fn unary<Q, R, F, H>(
        self: Arc<Self>,
        call: Call,
        messages: Messages,
        handler: H,
    ) -> Response<ReplyBody>
    where
        Q: Message + Default + ForLearner,
        R: Message,
        F: Future<Output = Result<R, Status>>,
        H: FnOnce(Arc<Self>, Q) -> F,
    {
        let request: Q = match messages.only().await {
            Ok(request) => request,
            Err(status) => return grpc::error_response(&status),
        };
        if let Err(error) = self.admit(call, request.served_by_learner()) {
            return grpc::error_response(&error.into());
        }
        grpc::unary_response(handler(self, request).await)
    }

    /// As [`Door::unary`], for a handler that gives one piece of response metadata beside its
    /// message.
    async fn unary_with<Q, R, F, H>(
        self: Arc<Self>,
        call: Call,
        messages: Messages,
        handler: H,
    ) -> Response<ReplyBody>
    where
        Q: Message + Default + ForLearner,
        R: Message,
        F: Future<Output = Result<(R, HeaderName, HeaderValue), Status>>,
        H: FnOnce(Arc<Self>, Q) -> F,
    {
        let mut metadata = None;
        let told = &mut metadata;
        let without = |door, request| async move {
            let (message, name, value) = handler(door, request).await?;
            *told = Some((name, value));
            Ok(message)
        };
        let mut response = self.unary(call, messages, without).await;
        if let Some((name, value)) = metadata {
            response.headers_mut().insert(name, value);
        }
        response
    }

    /// What etcd's interceptors ask of every call.
    pub fn admit(&self, call: Call, learner_may: bool) -> Result<(), api::Error> {
        if !learner_may && self.member.is_learner() {
            return Err(api::Error::NotSupportedForLearner);
        }
        if call.require_leader && self.member.leader() == 0 {
            return Err(api::Error::NoLeader);
        }
        Ok(())
    }

    /// A response header at the given revision.
    pub fn header(&self, revision: i64) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.member.cluster_id(),
            member_id: self.member.id().0,
            revision,
            raft_term: self.member.term(),
        }
    }

    /// Fills a header that a room made: ids and term; the revision stays.
    pub fn fill(&self, header: &mut Option<pb::ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.header(revision));
    }
}

fn bad_content_type(headers: &HeaderMap) -> Response<ReplyBody> {
    let given = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let text = format!(
        "invalid gRPC request content-type {:?}",
        given.unwrap_or_default()
    );
    let mut response = grpc::error_response(&Status::new(api::Code::InvalidArgument, text));
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

fn read_metadata(headers: &HeaderMap) -> Result<Call, Status> {
    if let Some(version) = headers.get("client-api-version")
        && std::str::from_utf8(version.as_bytes()).is_err()
    {
        return Err(api::Error::InvalidClientApiVersion.into());
    }
    let require_leader = headers
        .get("hasleader")
        .is_some_and(|value| value == "true");
    Ok(Call { require_leader })
}

/// Whether a learner answers this request (etcd `isRPCSupportedForLearner`).
pub trait ForLearner {
    /// True for Status and for serializable ranges.
    fn served_by_learner(&self) -> bool {
        false
    }
}

impl ForLearner for pb::RangeRequest {
    fn served_by_learner(&self) -> bool {
        self.serializable
    }
}

impl ForLearner for pb::StatusRequest {
    fn served_by_learner(&self) -> bool {
        true
    }
}

macro_rules! voters_only {
    ($($message:ty),* $(,)?) => { $(impl ForLearner for $message {})* };
}

voters_only!(
    pb::PutRequest,
    pb::DeleteRangeRequest,
    pb::TxnRequest,
    pb::CompactionRequest,
    pb::LeaseGrantRequest,
    pb::LeaseRevokeRequest,
    pb::LeaseTimeToLiveRequest,
    pb::LeaseLeasesRequest,
    pb::MemberAddRequest,
    pb::MemberRemoveRequest,
    pb::MemberUpdateRequest,
    pb::MemberListRequest,
    pb::MemberPromoteRequest,
    pb::AlarmRequest,
    pb::DefragmentRequest,
    pb::HashRequest,
    pb::HashKvRequest,
    pb::MoveLeaderRequest,
    pb::DowngradeRequest,
    pb::AuthStatusRequest,
    pb::AuthenticateRequest,
    api::health::HealthCheckRequest,
    api::health::HealthListRequest,
);
