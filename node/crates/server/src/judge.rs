//! The strict reconfiguration rule in the node: what this member knows of the others, put before
//! `quorum::judge`.
//!
//! ```text
//!  where we lead:      raft loop ─ the turn that appends ─▶ Leader::judge ─▶ append, or drop
//!  where etcd leads:   door ─ read index ─▶ Court::judge_as_follower ─▶ forward as etcd does
//! ```
//!
//! A change that an etcd follower forwards to us is judged in the same place as ours; its caller
//! sees etcd's time-out, our log and a metric say why. At apply there is no rule of ours: an
//! entry in the log must mean the same on every member.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use membership::{Membership, is_started};
use parking_lot::Mutex;
use quorum::{Answer, Doubt, Life, Policy, Reason, Role, Rule, Step, Verdict, View};
use raftnode::{MemberStatus, Status};
use raftpb::conf::Change;
use raftpb::{ConfChange, MemberId};

use crate::digest::Digest;
use crate::metrics::Text;
use crate::shared::Shared;

/// Refusals that are logged in one [`LOG_WINDOW`]; the rest is counted. A caller in a loop must
/// not make the log unreadable.
const LOG_LINES_MAX: u32 = 10;

/// See [`LOG_LINES_MAX`].
const LOG_WINDOW: Duration = Duration::from_secs(10);

/// Where membership steps are judged. Shared by the raft loop and the doors.
pub struct Court {
    rule: Rule,
    tick: Duration,
    election_timeout: Duration,
    shared: Arc<Shared>,
    transport: OnceLock<rafthttp::Handle>,
    allowed: AtomicU64,
    warned: AtomicU64,
    refused: AtomicU64,
    log: Mutex<LogWindow>,
}

#[derive(Default)]
struct LogWindow {
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

/// The [`Court`] as raft sees it.
pub struct Leader(pub Arc<Court>);

impl raftnode::Judge for Leader {
    fn judge(
        &mut self,
        change: &ConfChange,
        from: Option<MemberId>,
        condition: Option<u64>,
        status: &Status,
    ) -> Result<(), String> {
        let court = &self.0;
        let cluster = court.shared.state().cluster.get();
        if let Some(expected) = condition.map(Digest::from) {
            as_expected(expected, &cluster).map_err(|error| error.to_string())?;
        }
        let change = Change::from_conf_change(change).map_err(|error| error.to_string())?;
        let view = court.view_of_leader(&cluster, status);
        let judged = court.judge(&view, &change, from, "as leader");
        judged.map_err(|error| error.to_string())
    }
}

impl Court {
    /// A court that knows no connection yet: until then everybody else is in doubt.
    pub fn new(
        rule: Rule,
        tick: Duration,
        election_timeout: Duration,
        shared: Arc<Shared>,
    ) -> Court {
        Court {
            rule,
            tick,
            election_timeout,
            shared,
            transport: OnceLock::new(),
            allowed: AtomicU64::new(0),
            warned: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            log: Mutex::default(),
        }
    }

    /// Which part of the rule holds.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Says whom to ask about connections, once.
    pub fn set_transport(&self, transport: rafthttp::Handle) {
        let set = self.transport.set(transport);
        assert!(set.is_ok(), "the court is given the transport once");
    }

    /// A learner that has just connected is in doubt only because it is early: etcd would promote
    /// it, so its caller is kept waiting and not refused, if that can be in time.
    pub async fn wait_until_trusted(&self, learner: MemberId, deadline: Instant) {
        let connected = self.connected_for(learner, Instant::now());
        let (Rule::Strict, Some(connected)) = (self.rule, connected) else {
            return;
        };
        // Strictly longer is asked for, hence the millisecond.
        let missing =
            (quorum::LEARNER_INTERVAL + Duration::from_millis(1)).saturating_sub(connected);
        if !missing.is_zero() && Instant::now() + missing < deadline {
            tracing::info!(%learner, ?missing, "the promotion waits until the learner has been connected long enough");
            tokio::time::sleep(missing).await;
        }
    }

    /// Judges where etcd leads, on this member's own view. The caller has made a linearizable
    /// read.
    ///
    /// # Errors
    ///
    /// The step must not be asked for.
    pub fn judge_as_follower(
        &self,
        change: &Change,
        expected: Option<Digest>,
    ) -> Result<(), api::Error> {
        let cluster = self.shared.state().cluster.get();
        if let Some(expected) = expected {
            as_expected(expected, &cluster)?;
        }
        let view = self.view_of_follower(&cluster);
        self.judge(
            &view,
            change,
            None,
            "as follower: the leader is an etcd, which checks no life",
        )
    }

    /// etcd's part of the rule on this member's own view, for calls that come while nobody leads:
    /// etcd checks where the call came in, and so says at once what would not work.
    ///
    /// # Errors
    ///
    /// etcd's own.
    pub fn etcd_would_refuse(&self, change: &Change) -> Result<(), api::Error> {
        let (Some(step), true) = (step(change), self.rule != Rule::Off) else {
            return Ok(());
        };
        let cluster = self.shared.state().cluster.get();
        let view = self.view_of_follower(&cluster);
        quorum::etcd::check(&view, step).map_err(etcd_error)
    }

    /// Counters for `/metrics`.
    pub fn write_metrics(&self, text: &mut Text) {
        let answers = [
            ("allowed", &self.allowed),
            ("warned", &self.warned),
            ("refused", &self.refused),
        ]
        .map(|(answer, count)| {
            (
                format!("answer=\"{answer}\""),
                count.load(Ordering::Relaxed),
            )
        });
        text.labelled(
            "quorate_membership_steps_judged_total",
            "counter",
            "Membership steps judged by this member, by the answer of the strict reconfiguration check.",
            &answers,
        );
    }

    fn judge(
        &self,
        view: &View,
        change: &Change,
        from: Option<MemberId>,
        how: &'static str,
    ) -> Result<(), api::Error> {
        // etcd asks nothing of a person who changes URLs; the operator asks its own planner.
        let Some(step) = step(change) else {
            return Ok(());
        };
        let policy = Policy {
            rule: self.rule,
            ..Policy::default()
        };
        let verdict = quorum::judge(view, step, policy);
        self.note(&verdict, from, how);
        match verdict.answer {
            Answer::Allow | Answer::Warn(_) => Ok(()),
            Answer::Refuse(Reason::Etcd(refusal)) => Err(etcd_error(refusal)),
            Answer::Refuse(_) => Err(api::Error::refused(verdict)),
        }
    }

    fn note(&self, verdict: &Verdict, from: Option<MemberId>, how: &'static str) {
        let forwarded_by = from.map(tracing::field::display);
        match &verdict.answer {
            Answer::Allow => {
                self.allowed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(forwarded_by, how, "membership: {verdict}");
            }
            Answer::Warn(_) => {
                self.warned.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(forwarded_by, how, "membership: {verdict}");
            }
            Answer::Refuse(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                if let Some(left_out) = self.log.lock().line(Instant::now()) {
                    tracing::warn!(forwarded_by, how, left_out, "membership: {verdict}");
                }
            }
        }
    }

    fn view_of_leader(&self, cluster: &Membership, status: &Status) -> View {
        let now = Instant::now();
        self.view(
            cluster,
            status,
            status.conf_change_pending,
            |id, role, known| {
                let connected = self.connected_for(id, now);
                let ticks = known.and_then(|known| known.last_contact_ticks);
                let ticks = ticks.map(|ticks| u32::try_from(ticks).unwrap_or(u32::MAX));
                let heard = ticks.map(|ticks| self.tick.saturating_mul(ticks));
                Life::seen_by_leader(role, connected, heard, self.election_timeout)
            },
        )
    }

    fn view_of_follower(&self, cluster: &Membership) -> View {
        let now = Instant::now();
        let peers = self
            .transport
            .get()
            .map_or_else(Vec::new, rafthttp::Handle::peers);
        let answered = |id| {
            let peer = peers.iter().find(|peer| peer.id == id && !peer.remote);
            peer.is_some_and(|peer| peer.probe.answered.is_some() && peer.probe.failure.is_none())
        };
        self.view(cluster, &self.shared.status(), false, |id, role, _| {
            Life::seen_by_follower(role, self.connected_for(id, now), answered(id))
        })
    }

    fn view(
        &self,
        cluster: &Membership,
        status: &Status,
        unapplied_change: bool,
        life: impl Fn(MemberId, Role, Option<&MemberStatus>) -> Life,
    ) -> View {
        let itself = self.shared.id;
        let leads = status.leader == Some(itself);
        let now = Instant::now();
        let members = cluster.members().map(|member| {
            let known = status.members.iter().find(|known| known.id == member.id);
            let started = is_started(member);
            let connected_for = self.connected_for(member.id, now);
            let role = if member.is_learner {
                Role::Learner
            } else {
                Role::Voter
            };
            let life = match (member.id == itself, life(member.id, role, known)) {
                (true, _) => Life::Healthy,
                (_, Life::InDoubt(Doubt::NotConnected)) if !started => {
                    Life::InDoubt(Doubt::NotStarted)
                }
                (_, life) => life,
            };
            quorum::Member {
                id: quorum::MemberId(member.id.0),
                role,
                started,
                connected_for,
                life,
                matched: known.filter(|_| leads).map(|known| known.matched),
            }
        });
        View {
            itself: Some(quorum::MemberId(itself.0)),
            leader: status.leader.map(|leader| quorum::MemberId(leader.0)),
            members: members.collect(),
            committed: status.committed,
            unapplied_change,
        }
    }

    fn connected_for(&self, id: MemberId, now: Instant) -> Option<Duration> {
        let since = self.transport.get()?.active_since(id)?;
        Some(now.saturating_duration_since(since))
    }
}

impl LogWindow {
    /// How many lines were left out since the last one, if another may be written.
    fn line(&mut self, now: Instant) -> Option<u64> {
        if self
            .began
            .is_none_or(|began| now.duration_since(began) > LOG_WINDOW)
        {
            self.began = Some(now);
            self.lines = 0;
        }
        if self.lines >= LOG_LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

fn as_expected(expected: Digest, cluster: &Membership) -> Result<(), api::Error> {
    let found = Digest::of(cluster.members());
    if found == expected {
        return Ok(());
    }
    Err(api::Error::refused(format_args!(
        "the membership is {found}, expected {expected}: it has changed since it was looked at; list the members and decide again"
    )))
}

fn step(change: &Change) -> Option<Step> {
    let id = |id: &MemberId| quorum::MemberId(id.0);
    match change {
        Change::Add(_) => Some(Step::AddVoter),
        Change::AddLearner(_) => Some(Step::AddLearner),
        Change::Promote(member) => Some(Step::Promote(id(member))),
        Change::Remove(member) => Some(Step::Remove(id(member))),
        Change::Update { .. } => None,
    }
}

fn etcd_error(refusal: quorum::etcd::Refusal) -> api::Error {
    use quorum::etcd::Refusal;
    match refusal {
        Refusal::NotEnoughStarted => api::Error::MemberNotEnoughStarted,
        Refusal::Unhealthy => api::Error::Unhealthy,
        Refusal::LearnerNotReady => api::Error::LearnerNotReady,
        Refusal::NotALearner => api::Error::MemberNotLearner,
        Refusal::MemberNotFound => api::Error::MemberNotFound,
        Refusal::BadLeaderTransferee => api::Error::BadLeaderTransferee,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_leaves_the_log_readable() {
        let mut log = LogWindow::default();
        let start = Instant::now();
        let written = (0..1000).filter(|_| log.line(start).is_some()).count();
        assert_eq!(written, LOG_LINES_MAX as usize);
        let later = start + LOG_WINDOW + Duration::from_millis(1);
        assert_eq!(log.line(later), Some(1000 - u64::from(LOG_LINES_MAX)));
        assert_eq!(log.line(later), Some(0));
    }

    /// What the judge says passes through raft as text; it must come out as the same error.
    #[test]
    fn refusals_keep_their_code_on_their_way_through_raft() {
        use quorum::etcd::Refusal;
        let mut errors: Vec<api::Error> = [
            Refusal::NotEnoughStarted,
            Refusal::Unhealthy,
            Refusal::LearnerNotReady,
            Refusal::NotALearner,
            Refusal::MemberNotFound,
        ]
        .map(etcd_error)
        .to_vec();
        errors.push(api::Error::refused("promote 1: refused"));
        for error in errors {
            assert_eq!(api::Error::from_text(error.text()), error);
        }
    }
}
