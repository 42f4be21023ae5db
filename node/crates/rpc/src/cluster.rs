//! Cluster: the membership calls (etcd `v3rpc/member.go`).

use std::sync::Arc;

use api::etcdserverpb as pb;
use membership::Member;

use crate::door::Door;
use crate::grpc::Status;

/// Cluster.MemberAdd
pub async fn add(
    door: Arc<Door>,
    request: pb::MemberAddRequest,
) -> Result<pb::MemberAddResponse, Status> {
    let urls = membership::parse_urls(&request.peer_urls).map_err(|_| api::Error::MemberBadUrls)?;
    let (added, members) = door
        .member
        .member_add(&door.lane, urls, request.is_learner)
        .await?;
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
) -> Result<pb::MemberRemoveResponse, Status> {
    let members = door.member.member_remove(&door.lane, request.id).await?;
    Ok(pb::MemberRemoveResponse {
        header: Some(door.header(0)),
        members: to_proto(&members),
    })
}

/// Cluster.MemberUpdate
pub async fn update(
    door: Arc<Door>,
    request: pb::MemberUpdateRequest,
) -> Result<pb::MemberUpdateResponse, Status> {
    let members = door
        .member
        .member_update(&door.lane, request.id, request.peer_urls)
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
) -> Result<pb::MemberPromoteResponse, Status> {
    let members = door.member.member_promote(&door.lane, request.id).await?;
    Ok(pb::MemberPromoteResponse {
        header: Some(door.header(0)),
        members: to_proto(&members),
    })
}

/// Cluster.MemberList: linearizable only when asked.
pub async fn list(
    door: Arc<Door>,
    request: pb::MemberListRequest,
) -> Result<pb::MemberListResponse, Status> {
    if request.linearizable {
        door.lane.linearizable_read().await?;
    }
    let cluster = door.member.state().cluster.get();
    let members: Vec<Member> = cluster.members().cloned().collect();
    Ok(pb::MemberListResponse {
        header: Some(door.header(0)),
        members: to_proto(&members),
    })
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
