//! Membership calls: checked where they came in, as etcd does, then sent through raft.
//!
//! The strict rule over liveness on the leader (crate `quorum`) is the next step; what stands
//! here is etcd 3.7's own check, with its codes and texts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use membership::{Member as MemberInfo, Membership, is_started};
use raftpb::conf::Change;
use raftpb::{ConfChange, MemberId};

use crate::lane::Lane;
use crate::member::Member;

/// A peer counts as connected when it has been for this long (etcd `HealthInterval`).
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// A learner may be promoted when it has this part of the leader's log (etcd
/// `readyPercentThreshold`).
const LEARNER_READY: f64 = 0.9;

/// Between two attempts to reach the leader.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

impl Member {
    /// Adds a member with these peer URLs; the new member and all members.
    pub async fn member_add(
        &self,
        lane: &Lane,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<(MemberInfo, Vec<MemberInfo>), api::Error> {
        let unix_seconds = self.clock.unix().as_secs() as i64;
        let member = membership::new_member(peer_urls, is_learner, unix_seconds);
        if self.config.strict_reconfig_check {
            let cluster = self.state().cluster.get();
            if !is_learner && !ready_to_add_voter(&cluster) {
                tracing::warn!(member = %member.id, "rejecting member add request; not enough healthy members");
                return Err(api::Error::MemberNotEnoughStarted);
            }
            if !self.is_connected_to_quorum_with_one_more(&cluster) {
                tracing::warn!(member = %member.id, "rejecting member add request; local member has not been connected to majority peers, reconfigure breaks active quorum");
                return Err(api::Error::Unhealthy);
            }
        }
        let change = if is_learner {
            Change::AddLearner(member.clone())
        } else {
            Change::Add(member.clone())
        };
        let members = self.change(lane, change.to_conf_change(0)).await?;
        Ok((member, members))
    }

    /// Removes a member.
    pub async fn member_remove(&self, lane: &Lane, id: u64) -> Result<Vec<MemberInfo>, api::Error> {
        let id = MemberId(id);
        if self.config.strict_reconfig_check {
            self.may_remove(id)?;
        }
        self.change(lane, Change::Remove(id).to_conf_change(0))
            .await
    }

    /// Gives a member other peer URLs.
    pub async fn member_update(
        &self,
        lane: &Lane,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Result<Vec<MemberInfo>, api::Error> {
        let change = Change::Update {
            id: MemberId(id),
            peer_urls,
        };
        self.change(lane, change.to_conf_change(0)).await
    }

    /// Makes a learner a voter. Only the leader knows whether it is ready.
    pub async fn member_promote(
        &self,
        lane: &Lane,
        id: u64,
    ) -> Result<Vec<MemberInfo>, api::Error> {
        match self.member_promote_here(lane, MemberId(id)).await {
            Err(api::Error::NotLeader) => {}
            result => return result,
        }
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            let leader = self.wait_leader(deadline).await?;
            let result = if leader == self.id() {
                self.member_promote_here(lane, MemberId(id)).await
            } else {
                self.peers.promote(leader, MemberId(id), deadline).await
            };
            match result {
                Err(
                    error @ (api::Error::LearnerNotReady
                    | api::Error::MemberNotFound
                    | api::Error::MemberNotLearner),
                ) => return Err(error),
                Err(error) => tracing::debug!(%error, "asking the leader to promote failed"),
                Ok(members) => return Ok(members),
            }
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(api::Error::Timeout);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// The leader's own part; also for `/members/promote/` on the peer port.
    pub async fn member_promote_here(
        &self,
        lane: &Lane,
        id: MemberId,
    ) -> Result<Vec<MemberInfo>, api::Error> {
        if !self.is_leader() {
            return Err(api::Error::NotLeader);
        }
        self.wait_applied(lane).await?;
        let status = self.shared.status();
        let ours = status.last_index.max(1);
        let learner = status.members.iter().find(|member| member.id == id);
        let Some(learner) = learner else {
            return Err(api::Error::MemberNotFound);
        };
        let ready = learner.matched as f64 / ours as f64;
        if ready < LEARNER_READY {
            tracing::error!(
                member = %id, learner_ready_percent = ready, ready_percent_threshold = LEARNER_READY,
                "rejecting promote learner: learner is not ready"
            );
            return Err(api::Error::LearnerNotReady);
        }
        let cluster = self.state().cluster.get();
        if self.config.strict_reconfig_check && !ready_to_promote(&cluster) {
            tracing::warn!(member = %id, "rejecting member promote request; not enough healthy members");
            return Err(api::Error::MemberNotEnoughStarted);
        }
        self.change(lane, Change::Promote(id).to_conf_change(0))
            .await
    }

    async fn change(&self, lane: &Lane, change: ConfChange) -> Result<Vec<MemberInfo>, api::Error> {
        lane.propose_conf_change(change).await?;
        let cluster = self.state().cluster.get();
        Ok(cluster.members().cloned().collect())
    }

    fn may_remove(&self, id: MemberId) -> Result<(), api::Error> {
        let cluster = self.state().cluster.get();
        if cluster.member(id).is_some_and(|member| member.is_learner) {
            return Ok(());
        }
        if !ready_to_remove_voter(&cluster, id) {
            tracing::warn!(member = %id, "rejecting member remove request; not enough healthy members");
            return Err(api::Error::MemberNotEnoughStarted);
        }
        // A member that is down is not part of the active quorum.
        if id != self.id() && self.peers.active_since(id).is_none() {
            return Ok(());
        }
        let voters = cluster.voters().count();
        let active = self.connected_voters(&cluster);
        if active < 1 + 1 + (voters - 1) / 2 {
            tracing::warn!(member = %id, active, "rejecting member remove request; local member has not been connected to all peers, reconfigure breaks active quorum");
            return Err(api::Error::Unhealthy);
        }
        Ok(())
    }

    /// Voters that have been connected for the health interval, this one among them.
    fn connected_voters(&self, cluster: &Arc<Membership>) -> usize {
        let Some(since) = Instant::now().checked_sub(HEALTH_INTERVAL) else {
            return 1;
        };
        cluster
            .voters()
            .filter(|voter| {
                voter.id == self.id()
                    || self
                        .peers
                        .active_since(voter.id)
                        .is_some_and(|active| active < since)
            })
            .count()
    }

    fn is_connected_to_quorum_with_one_more(&self, cluster: &Arc<Membership>) -> bool {
        let voters = cluster.voters().count();
        // A cluster of one grows freely: nobody else's life is at stake.
        voters <= 1 || self.connected_voters(cluster) > (voters + 1) / 2
    }
}

/// etcd `IsReadyToAddVotingMember`: the started voters are a quorum of one more.
fn ready_to_add_voter(cluster: &Membership) -> bool {
    let voters = 1 + cluster.voters().count();
    let started = cluster.voters().filter(|voter| is_started(voter)).count();
    if started == 1 && voters == 2 {
        // The way from one member to two must be open.
        return true;
    }
    started >= voters / 2 + 1
}

/// etcd `IsReadyToRemoveVotingMember`: without the member the started voters are a quorum.
fn ready_to_remove_voter(cluster: &Membership, id: MemberId) -> bool {
    let voters = cluster.voters().filter(|voter| voter.id != id).count();
    let started = cluster
        .voters()
        .filter(|v| v.id != id && is_started(v))
        .count();
    started >= voters / 2 + 1
}

/// etcd `IsReadyToPromoteMember`: the learner counts, and as started.
fn ready_to_promote(cluster: &Membership) -> bool {
    let voters = 1 + cluster.voters().count();
    let started = 1 + cluster.voters().filter(|voter| is_started(voter)).count();
    started >= voters / 2 + 1
}
