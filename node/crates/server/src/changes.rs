//! Membership calls: from where they came in to the raft turn that judges and appends them.
//!
//! ```text
//!  who leads   way
//!  this one    propose; raft asks `judge::Leader` in the turn that appends
//!  ours        POST /quorate/membership to it; its answer, code and text, is ours
//!  an etcd     read index; judge on our own view; forward the proposal as etcd does
//!  nobody      etcd's part of the rule on our own view, then wait for a leader
//! ```
//!
//! A change that this member takes as leader is never forwarded by raft: its condition would not
//! travel along. It comes back as `not leader`, and the way is looked for again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use membership::{Member as MemberInfo, json};
use quorum::Rule;
use raftnode::{MemberStatus, Status};
use raftpb::conf::Change;
use raftpb::{ConfChange, MemberId};
use serde_json::{Value, json};

use crate::digest::Digest;
use crate::lane::Lane;
use crate::member::Member;
use crate::peers::Programs;

/// A learner may be promoted when it has this part of the leader's log (etcd
/// `readyPercentThreshold`).
const LEARNER_READY: f64 = 0.9;

/// Between two attempts to reach the leader.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Between two attempts to promote a learner that shall be promoted when it is ready.
const PROMOTE_PAUSE: Duration = Duration::from_secs(1);

/// How long a change is waited for that the leader has decided and this member has not heard of:
/// one that removes this member, it may never hear of.
const APPLIED_HERE_WITHIN: Duration = Duration::from_secs(1);

/// A busy raft loop may be late with its view; a caller is not kept longer than this.
const STATUS_TICKS_MAX: u32 = 3;

/// Between two looks for a new view.
const STATUS_PAUSE: Duration = Duration::from_millis(10);

impl Member {
    /// Adds a member with these peer URLs; the new member and all members.
    ///
    /// # Errors
    ///
    /// Here and below: etcd's own, [`api::Error::Refused`] where the strict rule refuses or the
    /// membership is not the expected one.
    pub async fn member_add(
        &self,
        lane: &Lane,
        peer_urls: Vec<String>,
        is_learner: bool,
        expected: Option<Digest>,
    ) -> Result<(MemberInfo, Vec<MemberInfo>), api::Error> {
        let unix_seconds = self.clock.unix().as_secs() as i64;
        let member = membership::new_member(peer_urls, is_learner, unix_seconds);
        let change = if is_learner {
            Change::AddLearner(member.clone())
        } else {
            Change::Add(member.clone())
        };
        let members = self.change(lane, &change, expected).await?;
        Ok((member, members))
    }

    /// Removes a member.
    pub async fn member_remove(
        &self,
        lane: &Lane,
        id: u64,
        expected: Option<Digest>,
    ) -> Result<Vec<MemberInfo>, api::Error> {
        self.change(lane, &Change::Remove(MemberId(id)), expected)
            .await
    }

    /// Gives a member other peer URLs.
    pub async fn member_update(
        &self,
        lane: &Lane,
        id: u64,
        peer_urls: Vec<String>,
        expected: Option<Digest>,
    ) -> Result<Vec<MemberInfo>, api::Error> {
        let id = MemberId(id);
        self.change(lane, &Change::Update { id, peer_urls }, expected)
            .await
    }

    /// Makes a learner a voter.
    pub async fn member_promote(
        &self,
        lane: &Lane,
        id: u64,
        expected: Option<Digest>,
    ) -> Result<Vec<MemberInfo>, api::Error> {
        self.change(lane, &Change::Promote(MemberId(id)), expected)
            .await
    }

    /// Promotes a learner as soon as it may be, for as long as this member runs and the learner
    /// is one. The wish is this member's only: it does not survive its restart.
    pub fn promote_when_ready(self: &Arc<Self>, lane: &Arc<Lane>, id: MemberId) {
        let (member, lane) = (self.clone(), lane.clone());
        tokio::spawn(async move {
            let mut stopping = member.stopping();
            tokio::select! {
                () = member.keep_promoting(&lane, id) => {}
                _ = stopping.wait_for(Option::is_some) => {}
            }
        });
    }

    async fn keep_promoting(&self, lane: &Lane, id: MemberId) {
        let mut said = String::new();
        loop {
            tokio::time::sleep(PROMOTE_PAUSE).await;
            let cluster = self.state().cluster.get();
            let Some(learner) = cluster.member(id).filter(|member| member.is_learner) else {
                return;
            };
            // One that never started has nothing of the log: asking would only fill the leader's.
            if !membership::is_started(learner) {
                continue;
            }
            match self.member_promote(lane, id.0, None).await {
                Ok(_) => {
                    return tracing::info!(member = %id, "promoted a learner, as asked when it was added");
                }
                Err(error) if error.text() != said => {
                    tracing::info!(member = %id, %error, "a learner cannot be promoted yet");
                    error.text().clone_into(&mut said);
                }
                Err(_) => {}
            }
        }
    }

    /// What an etcd follower asks of its leader on `/members/promote/`.
    pub async fn member_promote_here(
        &self,
        lane: &Lane,
        id: MemberId,
    ) -> Result<Vec<MemberInfo>, api::Error> {
        self.change_here(lane, &Change::Promote(id), None).await
    }

    /// What one of ours asks of its leader on `/quorate/membership`: the answer's body, or
    /// nothing if the question cannot be read.
    pub async fn membership_asked(&self, lane: &Lane, question: &[u8]) -> Option<String> {
        let (change, expected) = read_question(question)?;
        let answer = self.change_here(lane, &change, expected).await;
        Some(write_answer(answer))
    }

    /// Looks for the way until the change is decided or the time is up.
    async fn change(
        &self,
        lane: &Lane,
        change: &Change,
        expected: Option<Digest>,
    ) -> Result<Vec<MemberInfo>, api::Error> {
        if change.id() == MemberId(0) {
            return Err(api::Error::MemberNotFound);
        }
        if self.leader() == 0 {
            self.court.etcd_would_refuse(change)?;
        }
        let began = Instant::now();
        let deadline = began + self.config.request_timeout();
        loop {
            let leader = self
                .wait_leader(deadline)
                .await
                .map_err(|_| self.timeout_reason(began))?;
            let result = if leader == self.id() {
                self.change_here(lane, change, expected).await
            } else {
                match self.peers.program(leader, deadline).await {
                    Some(Programs::Quorate) => {
                        self.change_at(lane, leader, change, expected, deadline)
                            .await
                    }
                    Some(Programs::Etcd) => {
                        self.change_at_etcd(lane, leader, change, expected, deadline)
                            .await
                    }
                    None => Err(api::Error::NotLeader),
                }
            };
            match result {
                // Nothing was appended: whoever leads now may be asked again.
                Err(api::Error::NotLeader) if Instant::now() + RETRY_PAUSE < deadline => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(api::Error::NotLeader) => return Err(self.timeout_reason(began)),
                result => return result,
            }
        }
    }

    /// The leader's own part.
    async fn change_here(
        &self,
        lane: &Lane,
        change: &Change,
        expected: Option<Digest>,
    ) -> Result<Vec<MemberInfo>, api::Error> {
        if !self.is_leader() {
            return Err(api::Error::NotLeader);
        }
        self.wait_version().await?;
        if let Change::Promote(id) = change {
            self.wait_applied(lane).await?;
            self.learner_is_ready(*id).await?;
            let deadline = Instant::now() + self.config.request_timeout();
            self.court.wait_until_trusted(*id, deadline).await;
        }
        lane.propose_conf_change_here(change.to_conf_change(0), expected)
            .await?;
        Ok(self.members_now())
    }

    /// The cluster's version is decided within a moment of the first leader's term. A member that
    /// joins asks for it; where a change comes before it and takes the quorum until the new member
    /// is there, nobody could ever decide it.
    async fn wait_version(&self) -> Result<(), api::Error> {
        let deadline = Instant::now() + self.config.request_timeout();
        while self.state().cluster.get().version().is_none() {
            if Instant::now() > deadline {
                return Err(api::Error::Timeout);
            }
            tokio::time::sleep(STATUS_PAUSE).await;
        }
        Ok(())
    }

    /// Another of ours leads.
    async fn change_at(
        &self,
        lane: &Lane,
        leader: MemberId,
        change: &Change,
        expected: Option<Digest>,
        deadline: Instant,
    ) -> Result<Vec<MemberInfo>, api::Error> {
        let question = write_question(change, expected);
        let answer = self.peers.membership(leader, question, deadline).await?;
        let members = read_answer(&answer).unwrap_or_else(|| {
            tracing::warn!(%leader, "the leader's answer to a membership call cannot be read");
            Err(api::Error::Timeout)
        })?;
        // The caller's next question may come to this member, and should find the change.
        let read = lane.linearizable_read();
        let _ = tokio::time::timeout(APPLIED_HERE_WITHIN, read).await;
        Ok(members)
    }

    /// An etcd leads: it would append whatever its followers send.
    async fn change_at_etcd(
        &self,
        lane: &Lane,
        leader: MemberId,
        change: &Change,
        expected: Option<Digest>,
        deadline: Instant,
    ) -> Result<Vec<MemberInfo>, api::Error> {
        if self.court.rule() != Rule::Off || expected.is_some() {
            lane.linearizable_read().await?;
            if let Change::Promote(id) = change {
                self.court.wait_until_trusted(*id, deadline).await;
            }
            self.court.judge_as_follower(change, expected)?;
        }
        if let Change::Promote(id) = change {
            return match self.peers.promote(leader, *id, deadline).await {
                Err(
                    error @ (api::Error::LearnerNotReady
                    | api::Error::MemberNotFound
                    | api::Error::MemberNotLearner),
                ) => Err(error),
                Err(error) => {
                    tracing::debug!(%error, "asking the leader to promote failed");
                    Err(api::Error::NotLeader)
                }
                Ok(members) => Ok(members),
            };
        }
        lane.propose_conf_change(change.to_conf_change(0)).await?;
        Ok(self.members_now())
    }

    /// As etcd asks of every promotion, its strict check on or off.
    async fn learner_is_ready(&self, id: MemberId) -> Result<(), api::Error> {
        if self.state().cluster.get().member(id).is_none() {
            return Err(api::Error::MemberNotFound);
        }
        let mut status = self.shared.status();
        if ready_part(&status, self.id(), id) < LEARNER_READY {
            // Who is promoted as soon as it has started is not in a view that is a tick old.
            status = self.status_after(&status).await;
        }
        let ready = ready_part(&status, self.id(), id);
        if ready < LEARNER_READY {
            let may_log = self.court.learner_not_ready();
            if let Some(left_out) = may_log {
                tracing::error!(
                    member = %id, learner_ready_percent = ready,
                    ready_percent_threshold = LEARNER_READY,
                    replication = ?known(&status, id).map(|member| member.replication),
                    left_out,
                    "rejecting promote learner: learner is not ready"
                );
            }
            let matched = |id| known(&status, id).map_or(0, |member| member.matched);
            let (matched, ours) = (matched(id), matched(self.id()));
            return Err(self.why_not_ready(id, matched, ours, may_log.is_some()));
        }
        Ok(())
    }

    /// etcd's error for a learner that is on its way, or has not begun. One that cannot come nearer
    /// is named with what keeps it: who asks again and again would not learn it from etcd's words.
    fn why_not_ready(&self, id: MemberId, matched: u64, ours: u64, may_log: bool) -> api::Error {
        let cluster = self.state().cluster.get();
        let started = cluster.member(id).is_some_and(membership::is_started);
        if self.court.rule() != Rule::Strict || !(started || matched > 0) {
            return api::Error::LearnerNotReady;
        }
        let obstacle = self.shared.whereabouts.obstacle(id);
        let Some(why) = obstacle.or_else(|| self.peers.why_not_connected(id)) else {
            return api::Error::LearnerNotReady;
        };
        if may_log {
            tracing::warn!(member = %id, matched, ours, why, "a learner cannot catch up");
        }
        api::Error::refused(format_args!(
            "promote {id}: refused, the learner has entries up to {matched} of {ours} and cannot catch up: {why} (etcd: {})",
            api::Error::LearnerNotReady
                .text()
                .trim_start_matches("etcdserver: ")
        ))
    }

    /// The view of raft that comes after `seen`, which is at most a tick later.
    async fn status_after(&self, seen: &Arc<Status>) -> Arc<Status> {
        let deadline = Instant::now() + STATUS_TICKS_MAX * self.config.tick;
        loop {
            let status = self.shared.status();
            if !Arc::ptr_eq(&status, seen) || Instant::now() >= deadline {
                return status;
            }
            tokio::time::sleep(STATUS_PAUSE).await;
        }
    }

    fn members_now(&self) -> Vec<MemberInfo> {
        let cluster = self.state().cluster.get();
        cluster.members().cloned().collect()
    }
}

fn known(status: &Status, id: MemberId) -> Option<&MemberStatus> {
    status.members.iter().find(|member| member.id == id)
}

/// How much of the leader's log the learner has.
fn ready_part(status: &Status, leader: MemberId, learner: MemberId) -> f64 {
    let matched = |id| known(status, id).map_or(0, |member| member.matched);
    matched(learner) as f64 / matched(leader).max(1) as f64
}

// `POST /quorate/membership`: a conf change as it would stand in the log, with its condition.
// The answer is the decision: `code` is gRPC's, 0 with all members, else with the text.

fn write_question(change: &Change, expected: Option<Digest>) -> String {
    let change = change.to_conf_change(0);
    json!({
        "type": change.change_type,
        "member": change.node_id,
        "context": String::from_utf8_lossy(&change.context),
        "expected": expected.map(|digest| digest.to_string()),
    })
    .to_string()
}

fn read_question(question: &[u8]) -> Option<(Change, Option<Digest>)> {
    let question: Value = serde_json::from_slice(question).ok()?;
    let change = ConfChange {
        id: 0,
        change_type: question["type"].as_i64()?.try_into().ok()?,
        node_id: question["member"].as_u64()?,
        context: question["context"].as_str()?.to_owned().into(),
    };
    let expected = match &question["expected"] {
        Value::Null => None,
        expected => Some(Digest::parse(expected.as_str()?)?),
    };
    Some((Change::from_conf_change(&change).ok()?, expected))
}

fn write_answer(answer: Result<Vec<MemberInfo>, api::Error>) -> String {
    match answer {
        Ok(members) => {
            let members = json::encode_member_list(&members);
            format!("{{\"code\":0,\"members\":{members}}}")
        }
        Err(error) => json!({ "code": error.code() as i32, "message": error.text() }).to_string(),
    }
}

fn read_answer(answer: &[u8]) -> Option<Result<Vec<MemberInfo>, api::Error>> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let code = answer["code"].as_i64()?;
    if code == 0 {
        let members = answer["members"].to_string();
        return Some(Ok(json::decode_member_list(members.as_bytes()).ok()?));
    }
    let error = match api::Error::from_text(answer["message"].as_str()?) {
        // Words of another version of ours: what its caller must know is that it was refused.
        api::Error::Other(text) if code == api::Code::FailedPrecondition as i64 => {
            api::Error::Refused(text)
        }
        error => error,
    };
    Some(Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Vec<Change> {
        let urls = vec!["http://10.0.0.1:2380".to_owned()];
        let member = membership::new_member(urls.clone(), false, 1);
        let learner = membership::new_member(urls.clone(), true, 2);
        let id = MemberId(u64::MAX);
        vec![
            Change::Add(member),
            Change::AddLearner(learner),
            Change::Promote(id),
            Change::Remove(id),
            Change::Update {
                id,
                peer_urls: urls,
            },
        ]
    }

    #[test]
    fn questions_come_over_whole() {
        let expected = Digest::parse("00ff00ff00ff00ff");
        for change in changes() {
            for expected in [None, expected] {
                let question = write_question(&change, expected);
                let read = read_question(question.as_bytes());
                assert_eq!(read, Some((change.clone(), expected)), "{question}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_question() {
        let whole = write_question(&changes()[0], Digest::parse("00ff00ff00ff00ff"));
        for end in 0..whole.len() {
            assert_eq!(read_question(&whole.as_bytes()[..end]), None);
        }
        for (from, to) in [
            ("\"type\":0", "\"type\":9"),
            ("\"type\":0", "\"type\":-1"),
            ("\"member\":", "\"member\":1"),
            ("00ff00ff00ff00ff", "00ff"),
        ] {
            let bad = whole.replace(from, to);
            assert_ne!(bad, whole);
            assert_eq!(read_question(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn answers_come_over_with_code_and_text() {
        let member = membership::new_member(vec!["http://a:1".to_owned()], true, 1);
        for answer in [
            Ok(vec![member]),
            Err(api::Error::Unhealthy),
            Err(api::Error::NotLeader),
            Err(api::Error::refused("no")),
            Err(api::Error::Other("something".into())),
        ] {
            let body = write_answer(answer.clone());
            assert_eq!(read_answer(body.as_bytes()), Some(answer), "{body}");
        }
        assert_eq!(read_answer(b"404 page not found"), None);
        // A refusal in words that this version does not know.
        let newer = br#"{"code":9,"message":"etcdserver: something new"}"#;
        let read = read_answer(newer).and_then(Result::err).expect("an error");
        assert_eq!(read.code(), api::Code::FailedPrecondition);
        assert_eq!(read.text(), "etcdserver: something new");
    }
}
