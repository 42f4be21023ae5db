//! What a member does by itself while it runs: it makes itself known, watches versions, ends
//! leases, compacts when asked to. One task each on the peers' runtime, each a loop that ends
//! with the member.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use api::membershippb;
use lease::LeaseId;
use membership::Version;
use mvcc::watch::{SYNC_STEP_RECORDS, SyncStep};
use tokio::sync::Semaphore;

use crate::compactor::Compactor;
use crate::config::ANNOUNCED_VERSION;
use crate::corrupt;
use crate::downgrade::is_downgrade;
use crate::lane::Lane;
use crate::member::Member;

/// How often ended leases are looked for (etcd: 500 ms).
const LEASE_INTERVAL: Duration = Duration::from_millis(500);
/// Revocations in flight (etcd `maxPendingRevokes`).
const REVOKES_MAX: usize = 16;
/// How often the leader looks at its members' versions (etcd `monitorVersionInterval`: 5 s).
const VERSION_INTERVAL: Duration = Duration::from_secs(4);
/// Between two attempts to publish this member.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);
/// The version of a cluster that has decided on none (etcd `MinClusterVersion`).
const VERSION_FIRST: &str = "3.0.0";

/// Starts every task in the current runtime.
pub fn start(member: &Arc<Member>, lane: &Arc<Lane>) {
    tokio::spawn(until_stop(member.clone(), lane.clone(), follow_membership));
    tokio::spawn(until_stop(member.clone(), lane.clone(), advance_ticks));
    tokio::spawn(until_stop(member.clone(), lane.clone(), publish));
    tokio::spawn(until_stop(member.clone(), lane.clone(), lead));
    tokio::spawn(until_stop(member.clone(), lane.clone(), end_leases));
    tokio::spawn(until_stop(member.clone(), lane.clone(), watch_versions));
    tokio::spawn(until_stop(member.clone(), lane.clone(), watch_downgrade));
    tokio::spawn(until_stop(member.clone(), lane.clone(), raise_no_space));
    tokio::spawn(until_stop(member.clone(), lane.clone(), sync_watchers));
    tokio::spawn(until_stop(
        member.clone(),
        lane.clone(),
        corrupt::check_periodically,
    ));
    tokio::spawn(until_stop(
        member.clone(),
        lane.clone(),
        corrupt::check_compactions,
    ));
    if member.config.auto_compaction.is_some() {
        tokio::spawn(until_stop(member.clone(), lane.clone(), compact));
    }
}

async fn until_stop<F: Future<Output = ()>>(
    member: Arc<Member>,
    lane: Arc<Lane>,
    task: fn(Arc<Member>, Arc<Lane>) -> F,
) {
    let _guard = member.shared.guard("a task of the member");
    let mut stopping = member.stopping();
    tokio::select! {
        () = task(member, lane) => {}
        _ = stopping.wait_for(Option::is_some) => {}
    }
}

/// The transport's peers follow the membership.
async fn follow_membership(member: Arc<Member>, _: Arc<Lane>) {
    let mut changes = member.shared.membership_changes();
    loop {
        member.peers.follow_membership();
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// A first election need not wait for a whole time-out (etcd `adjustTicks`): alone in the
/// cluster at once, else as soon as another member is connected.
async fn advance_ticks(member: Arc<Member>, _: Arc<Lane>) {
    let ticks = member.config.election_ticks;
    if member.state().cluster.get().members().count() <= 1 {
        member.shared.inbox.advance_ticks(ticks.saturating_sub(1));
        return;
    }
    if !member.config.initial_election_tick_advance {
        return;
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if member.peers.active_count() > 0 {
            member.shared.inbox.advance_ticks(ticks.saturating_sub(2));
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Tells the cluster our name and client URLs, until it has heard.
async fn publish(member: Arc<Member>, lane: Arc<Lane>) {
    loop {
        let attributes = membershippb::Attributes {
            name: member.config.name.clone(),
            client_urls: member.config.advertise_client_urls.clone(),
        };
        let request = pb::InternalRaftRequest {
            cluster_member_attr_set: Some(membershippb::ClusterMemberAttrSetRequest {
                member_id: member.id().0,
                member_attributes: Some(attributes),
            }),
            ..Default::default()
        };
        match lane.propose(request, usize::MAX).await {
            Ok(_) => {
                tracing::info!(
                    local_member_id = %member.id(),
                    cluster_id = format!("{:x}", member.cluster_id()),
                    "published local member to cluster through raft"
                );
                member.shared.set_published();
                return;
            }
            Err(api::Error::Stopped) => return,
            Err(error) => {
                tracing::warn!(%error, "failed to publish local member to cluster through raft");
            }
        }
        tokio::time::sleep(PUBLISH_PAUSE).await;
    }
}

/// A leader that leads no more keeps no lease's time.
async fn lead(member: Arc<Member>, _: Arc<Lane>) {
    let mut leadership = member.shared.leadership();
    while leadership.changed().await.is_ok() {
        let role = leadership.borrow_and_update().role;
        if role != raftnode::Role::Leader && member.state().lessor.is_primary() {
            member.state().lessor.demote();
        }
    }
}

/// Revokes leases that have ended, and writes down how much of the others is left.
async fn end_leases(member: Arc<Member>, lane: Arc<Lane>) {
    let revokes = Arc::new(Semaphore::new(REVOKES_MAX));
    let mut interval = tokio::time::interval(LEASE_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let state = member.state();
        if !state.lessor.is_primary() {
            continue;
        }
        let now = member.clock.now();
        let expired = state.lessor.expired(now, lease::EXPIRED_PER_CHECK);
        let checkpoints = state
            .lessor
            .due_checkpoints(now, lease::CHECKPOINTS_PER_ENTRY_MAX);
        if expired.is_empty() && checkpoints.is_empty() {
            continue;
        }
        if !member.ensure_leadership(&lane).await {
            tracing::warn!("ignored ended leases because this member isn't the leader any more");
            continue;
        }
        for id in expired {
            let Ok(permit) = revokes.clone().acquire_owned().await else {
                return;
            };
            let (member, lane) = (member.clone(), lane.clone());
            tokio::spawn(async move {
                revoke(&member, &lane, id).await;
                drop(permit);
            });
        }
        if !checkpoints.is_empty() {
            let checkpoints = checkpoints
                .into_iter()
                .map(|(id, remaining_ttl)| pb::LeaseCheckpoint {
                    id: id.0,
                    remaining_ttl,
                })
                .collect();
            let request = pb::InternalRaftRequest {
                lease_checkpoint: Some(pb::LeaseCheckpointRequest { checkpoints }),
                ..Default::default()
            };
            if let Err(error) = member.propose(&lane, request).await {
                tracing::warn!(%error, "writing lease checkpoints failed");
            }
        }
    }
}

async fn revoke(member: &Member, lane: &Lane, id: LeaseId) {
    let request = pb::InternalRaftRequest {
        lease_revoke: Some(pb::LeaseRevokeRequest { id: id.0 }),
        ..Default::default()
    };
    match member.propose(lane, request).await {
        Ok(_) => member.shared.lease_expired(),
        Err(error) => {
            tracing::warn!(lease = format!("{:016x}", id.0), %error, "failed to revoke lease")
        }
    }
}

/// The leader raises the cluster's version to the lowest of its members' versions.
async fn watch_versions(member: Arc<Member>, lane: Arc<Lane>) {
    let mut leadership = member.shared.leadership();
    loop {
        let wait = tokio::time::sleep(VERSION_INTERVAL);
        tokio::select! {
            () = wait => {}
            changed = leadership.changed() => {
                if changed.is_err() {
                    return;
                }
                leadership.mark_unchanged();
                // The first entry of the term comes first; it is applied in no time.
                tokio::time::sleep(member.config.tick).await;
            }
        }
        if !member.is_leader() {
            continue;
        }
        let versions = member_versions(&member).await;
        let lowest = versions.and_then(|versions| versions.into_iter().min());
        let cluster = member.state().cluster.get();
        let target = if cluster.downgrade().enabled {
            downgrade_target(&cluster, lowest.as_ref())
        } else {
            match (cluster.version(), lowest) {
                (None, Some(lowest)) => Some(lowest),
                // Not everybody answers: the first version of all is safe to begin with.
                (None, None) => VERSION_FIRST.parse().ok(),
                (Some(decided), lowest) => lowest.filter(|lowest| decided < lowest),
            }
        };
        let Some(target) = target else { continue };
        let request = pb::InternalRaftRequest {
            cluster_version_set: Some(membershippb::ClusterVersionSetRequest {
                ver: target.to_string(),
            }),
            ..Default::default()
        };
        tracing::info!(version = %target, "updating cluster version using v3 API");
        if let Err(error) = member.propose(&lane, request).await {
            tracing::warn!(%error, "failed to update the cluster version");
        }
    }
}

/// The cluster's version while a downgrade is under way: the target, if the way there is open.
fn downgrade_target(cluster: &membership::Membership, lowest: Option<&Version>) -> Option<Version> {
    let target: Version = cluster.downgrade().target_version.parse().ok()?;
    let (decided, lowest) = (cluster.version()?, lowest?);
    if target == *decided {
        return None;
    }
    if !is_downgrade(decided, &target) || !is_downgrade(lowest, &target) {
        tracing::error!(
            %target, cluster_version = %decided, minimal_server_version = %lowest,
            "cannot downgrade to the target"
        );
        return None;
    }
    Some(target)
}

/// The leader looks by `--downgrade-check-time` whether a downgrade is over.
async fn watch_downgrade(member: Arc<Member>, lane: Arc<Lane>) {
    let interval = member.config.downgrade_check_time;
    if interval.is_zero() {
        return;
    }
    loop {
        tokio::time::sleep(interval).await;
        if member.is_leader() && member.state().cluster.get().downgrade().enabled {
            let versions = member_versions(&member).await;
            end_downgrade(&member, &lane, versions.as_deref().unwrap_or_default()).await;
        }
    }
}

/// A downgrade is over once every member runs its target.
async fn end_downgrade(member: &Member, lane: &Lane, versions: &[Version]) {
    let target = member
        .state()
        .cluster
        .get()
        .downgrade()
        .target_version
        .clone();
    let Ok(target) = target.parse::<Version>() else {
        return;
    };
    if versions.is_empty() || versions.iter().any(|version| *version != target.to_minor()) {
        return;
    }
    tracing::info!(cluster_version = %target, "the cluster has been downgraded");
    if let Err(error) = member.downgrade_cancel_here(lane).await {
        tracing::warn!(%error, "failed to cancel downgrade");
    }
}

/// The versions of all members, or nothing when one does not answer.
async fn member_versions(member: &Member) -> Option<Vec<Version>> {
    let cluster = member.state().cluster.get();
    let mut versions = vec![minor(ANNOUNCED_VERSION)?];
    let deadline = Instant::now() + VERSION_INTERVAL;
    for other in cluster.members().filter(|other| other.id != member.id()) {
        let version = member.peers.version(&other.peer_urls, deadline).await?;
        versions.push(minor(&version)?);
    }
    Some(versions)
}

/// `3.7.3` → `3.7.0`
fn minor(version: &str) -> Option<Version> {
    let mut parts = version.split('.');
    format!("{}.{}.0", parts.next()?, parts.next()?)
        .parse()
        .ok()
}

/// Watchers that are behind catch up on the pool, step by step.
async fn sync_watchers(member: Arc<Member>, _: Arc<Lane>) {
    let wake = Arc::new(tokio::sync::Notify::new());
    let mvcc = member.state().mvcc.clone();
    mvcc.watch_hub().set_sync_waker({
        let wake = wake.clone();
        Box::new(move || wake.notify_one())
    });
    loop {
        let stepping = mvcc.clone();
        let step = move || {
            while let SyncStep::More = stepping.sync_watchers(SYNC_STEP_RECORDS)? {}
            Ok::<(), mvcc::Error>(())
        };
        match tokio::task::spawn_blocking(step).await {
            Ok(Ok(())) => wake.notified().await,
            Ok(Err(error)) => {
                member
                    .shared
                    .fatal(format!("reading for watchers failed: {error}"));
                return;
            }
            Err(_) => return,
        }
    }
}

/// A request that was applied over the quota is answered once the alarm is raised.
async fn raise_no_space(member: Arc<Member>, lane: Arc<Lane>) {
    let Some(mut waiting) = member.shared.take_no_space() else {
        return;
    };
    while let Some((id, reply)) = waiting.recv().await {
        member.activate_no_space(&lane).await;
        if let Some(index) = Lane::of_id(member.id().0, id) {
            member
                .shared
                .lane(index, |lane| lane.push_replies(&mut vec![(id, reply)]));
        }
    }
}

/// `--auto-compaction-*`, by the leader.
async fn compact(member: Arc<Member>, lane: Arc<Lane>) {
    let Some(mode) = member.config.auto_compaction else {
        return;
    };
    let mut compactor = Compactor::new(mode, Instant::now());
    loop {
        compactor.note(member.state().mvcc.revision());
        tokio::time::sleep(compactor.interval()).await;
        if !member.is_leader() {
            continue;
        }
        let revision = member.state().mvcc.revision();
        let Some(target) = compactor.due(revision, Instant::now()) else {
            continue;
        };
        let request = pb::InternalRaftRequest {
            compaction: Some(pb::CompactionRequest {
                revision: target,
                physical: false,
            }),
            ..Default::default()
        };
        let compacted = match member.propose(&lane, request).await {
            Ok(_) | Err(api::Error::Compacted) => {
                tracing::info!(revision = target, "completed auto compaction");
                true
            }
            Err(error) => {
                tracing::warn!(revision = target, %error, "failed auto compaction");
                false
            }
        };
        compactor.done(target, compacted, Instant::now());
    }
}
