//! Cluster: the membership calls (etcd `v3rpc/member.go`).

use std::sync::Arc;

use api::etcdserverpb as pb;
use membership::{Member, MemberId};

use http::{HeaderMap, HeaderName, HeaderValue};
use server::digest::Digest;

use crate::door::Door;
use crate::grpc::Status;

/// Request metadata that makes a membership call conditional, and response metadata of
/// MemberList: the digest of the membership (`docs/membership.md`).
const DIGEST: HeaderName = HeaderName::from_static("quorate-expected-membership");

/// Request metadata of MemberAdd, `true`: promote the learner as soon as it may be.
const PROMOTE: HeaderName = HeaderName::from_static("quorate-promote-when-ready");

/// Whether a learner shall be promoted when it is ready; off by default.
pub fn promote_when_ready(metadata: &HeaderMap) -> bool {
    metadata.get(PROMOTE).is_some_and(|value| value == "true")
}

/// The condition of a membership call, if it has one.
///
/// # Errors
///
/// A condition that cannot be read is no permission to go on without one.
pub fn expected(metadata: &HeaderMap) -> Result<Option<Digest>, Status> {
    let mut values = metadata.get_all(DIGEST).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let digest = value.to_str().ok().and_then(Digest::parse);
    match (digest, values.next()) {
        (Some(digest), None) => Ok(Some(digest)),
        _ => Err(Status::new(
            api::Code::InvalidArgument,
            format!(
                "{}metadata {DIGEST} is {value:?}, expected 16 hexadecimal digits once",
                api::OURS
            ),
        )),
    }
}

/// Cluster.MemberAdd
pub async fn add(
    door: Arc<Door>,
    request: pb::MemberAddRequest,
    expected: Option<Digest>,
    promote_when_ready: bool,
) -> Result<pb::MemberAddResponse, Status> {
    let urls = membership::parse_urls(&request.peer_urls).map_err(|_| api::Error::MemberBadUrls)?;
    let (added, members) = door
        .member
        .member_add(&door.lane, urls, request.is_learner, expected)
        .await?;
    if promote_when_ready && added.is_learner {
        door.member.promote_when_ready(&door.lane, added.id);
    }
    Ok(pb::MemberAddResponse {
        header: Some(door.header(0)),
        member: Some(pb::Member {
            id: added.id.0,
            peer_urls: added.peer_urls.clone(),
            is_learner: added.is_learner,
            ..Default::default()
        }),
        members: to_proto(&members),
    })
}

/// Cluster.MemberRemove
pub async fn remove(
    door: Arc<Door>,
    request: pb::MemberRemoveRequest,
    expected: Option<Digest>,
) -> Result<pb::MemberRemoveResponse, Status> {
    let members = door
        .member
        .member_remove(&door.lane, request.id, expected)
        .await?;
    Ok(pb::MemberRemoveResponse {
        header: Some(door.header(0)),
        members: to_proto(&members),
    })
}

/// Cluster.MemberUpdate. etcd writes URLs into the log that it cannot parse; they
/// are refused here.
pub async fn update(
    door: Arc<Door>,
    request: pb::MemberUpdateRequest,
    expected: Option<Digest>,
) -> Result<pb::MemberUpdateResponse, Status> {
    if door
        .member
        .state()
        .cluster
        .get()
        .member(MemberId(request.id))
        .is_none()
    {
        return Err(api::Error::MemberNotFound.into());
    }
    membership::parse_urls(&request.peer_urls).map_err(|_| api::Error::MemberBadUrls)?;
    let members = door
        .member
        .member_update(&door.lane, request.id, request.peer_urls, expected)
        .await?;
    Ok(pb::MemberUpdateResponse {
        header: Some(door.header(0)),
        members: to_proto(&members),
    })
}

/// Cluster.MemberPromote
pub async fn promote(
    door: Arc<Door>,
    request: pb::MemberPromoteRequest,
    expected: Option<Digest>,
) -> Result<pb::MemberPromoteResponse, Status> {
    let promoted = door
        .member
        .member_promote(&door.lane, request.id, expected)
        .await;
    if door.member.is_leader() {
        let stats = &door.member.shared.counters.stats;
        let counter = if promoted.is_ok() {
            &stats.promoted
        } else {
            &stats.not_promoted
        };
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    let members = promoted?;
    Ok(pb::MemberPromoteResponse {
        header: Some(door.header(0)),
        members: to_proto(&members),
    })
}

/// Cluster.MemberList: linearizable only when asked. The digest of what is listed goes along.
pub async fn list(
    door: Arc<Door>,
    request: pb::MemberListRequest,
) -> Result<(pb::MemberListResponse, HeaderName, HeaderValue), Status> {
    if request.linearizable {
        door.lane.linearizable_read().await?;
    }
    let cluster = door.member.state().cluster.get();
    let members: Vec<Member> = cluster.members().cloned().collect();
    let digest = HeaderValue::from_str(&Digest::of(&members).to_string())
        .expect("hexadecimal digits are a valid header");
    let response = pb::MemberListResponse {
        header: Some(door.header(0)),
        members: to_proto(&members),
    };
    Ok((response, DIGEST, digest))
}

fn to_proto(members: &[Member]) -> Vec<pb::Member> {
    members
        .iter()
        .map(|member| pb::Member {
            id: member.id.0,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            is_learner: member.is_learner,
        })
        .collect()
}
