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

/// Lines that membership calls may bring into the log in one [`LOG_WINDOW`], those about steps that
/// are taken and those about others each; the rest is counted. A caller in a loop must not make the
/// log unreadable.
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
    /// By [`Outcome`]; second, whether an etcd forwarded the step.
    counts: [[AtomicU64; 2]; Outcome::ALL.len()],
    /// Lines about steps that are taken. Those about refusals must not push them out: they tell what
    /// became of the cluster.
    taken: Mutex<LogWindow>,
    /// All other lines that a caller can bring about.
    refused: Mutex<LogWindow>,
}

/// What a step comes to, as the metric names it.
#[derive(Clone, Copy)]
enum Outcome {
    Allowed,
    Warned,
    Etcd,
    QuorumLost,
    CrashesBecomeFatal,
    LearnerInDoubt,
    LearnerNotReady,
    ChangeUnapplied,
    Expectation,
    Other,
}

/// Bounds what is logged in a time; see [`LOG_LINES_MAX`].
#[derive(Default)]
pub(crate) struct LogWindow {
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
        let asked = Change::from_conf_change(change).map_err(|error| error.to_string())?;
        let judged = court
            .expected(&cluster, &asked, condition.map(Digest::from), LEADER)
            .and_then(|()| {
                let view = court.view_of_leader(&cluster, status);
                court.judge(&view, &asked, from, LEADER)
            });
        judged.map_err(|error| error.to_string())?;
        if from.is_some() {
            // An etcd's caller hears of what is not valid when that is applied, and of nothing else.
            return Ok(());
        }
        valid(change, &cluster).map_err(|error| error.to_string())
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
            counts: Default::default(),
            taken: Mutex::default(),
            refused: Mutex::default(),
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
            if let Some(left_out) = self.may_log() {
                tracing::info!(%learner, ?missing, left_out, "the promotion waits until the learner has been connected long enough");
            }
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
        self.expected(&cluster, change, expected, FOLLOWER)?;
        let view = self.view_of_follower(&cluster);
        self.judge(&view, change, None, FOLLOWER)
    }

    /// etcd's part of the rule on this member's own view, for calls that come while nobody leads:
    /// etcd checks where the call came in, and so says at once what would not work.
    ///
    /// # Errors
    ///
    /// etcd's own.
    pub fn etcd_would_refuse(&self, change: &Change) -> Result<(), api::Error> {
        let step = step(change);
        if self.rule == Rule::Off || matches!(step, Step::UpdateUrls(_)) {
            return Ok(());
        }
        let cluster = self.shared.state().cluster.get();
        let view = self.view_of_follower(&cluster);
        quorum::etcd::check(&view, step).map_err(etcd_error)
    }

    /// A promotion that is refused before it is judged; how many lines were left out, if one may say
    /// why.
    pub fn learner_not_ready(&self) -> Option<u64> {
        self.count(Outcome::LearnerNotReady, None);
        self.may_log()
    }

    /// Counters for `/metrics`.
    pub fn write_metrics(&self, text: &mut Text) {
        let mut values = Vec::new();
        for (outcome, counts) in Outcome::ALL.into_iter().zip(&self.counts) {
            let (answer, reason) = outcome.labels();
            for (forwarded, count) in [false, true].into_iter().zip(counts) {
                values.push((
                    format!("answer=\"{answer}\",reason=\"{reason}\",forwarded=\"{forwarded}\""),
                    count.load(Ordering::Relaxed),
                ));
            }
        }
        text.labelled(
            "quorate_membership_steps_judged_total",
            "counter",
            "Membership steps judged by this member, by the answer of the strict reconfiguration check, the reason of a refusal, and whether an etcd forwarded the step.",
            &values,
        );
    }

    /// Whether the membership is the one that a caller expects.
    fn expected(
        &self,
        cluster: &Membership,
        change: &Change,
        expected: Option<Digest>,
        how: &'static str,
    ) -> Result<(), api::Error> {
        let Some(why) = expected.and_then(|expected| differs(expected, cluster)) else {
            return Ok(());
        };
        self.count(Outcome::Expectation, None);
        if let Some(left_out) = self.may_log() {
            let step = step(change);
            tracing::warn!(how, left_out, "membership: {step}: refused, {why}");
        }
        Err(api::Error::refused(why))
    }

    fn judge(
        &self,
        view: &View,
        change: &Change,
        from: Option<MemberId>,
        how: &'static str,
    ) -> Result<(), api::Error> {
        let step = step(change);
        // etcd asks nothing of a person who changes URLs; the operator asks its own planner.
        if matches!(step, Step::UpdateUrls(_)) {
            return Ok(());
        }
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
        self.count(Outcome::of(verdict), from);
        let window = if verdict.allowed() {
            &self.taken
        } else {
            &self.refused
        };
        let Some(left_out) = window.lock().line(Instant::now()) else {
            return;
        };
        let forwarded_by = from.map(tracing::field::display);
        if verdict.answer == Answer::Allow {
            tracing::info!(forwarded_by, how, left_out, "membership: {verdict}");
        } else {
            tracing::warn!(forwarded_by, how, left_out, "membership: {verdict}");
        }
    }

    fn count(&self, outcome: Outcome, from: Option<MemberId>) {
        self.counts[outcome as usize][usize::from(from.is_some())].fetch_add(1, Ordering::Relaxed);
    }

    /// How many lines were left out, if one more about a call that is not granted may be written.
    fn may_log(&self) -> Option<u64> {
        self.refused.lock().line(Instant::now())
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

/// Where a verdict was given, for the log.
const LEADER: &str = "as leader";
const FOLLOWER: &str = "as follower: the leader is an etcd, which checks no life";

impl Outcome {
    const ALL: [Outcome; 10] = [
        Outcome::Allowed,
        Outcome::Warned,
        Outcome::Etcd,
        Outcome::QuorumLost,
        Outcome::CrashesBecomeFatal,
        Outcome::LearnerInDoubt,
        Outcome::LearnerNotReady,
        Outcome::ChangeUnapplied,
        Outcome::Expectation,
        Outcome::Other,
    ];

    fn of(verdict: &Verdict) -> Outcome {
        match &verdict.answer {
            Answer::Allow => Outcome::Allowed,
            Answer::Warn(_) => Outcome::Warned,
            Answer::Refuse(reason) => match reason {
                Reason::Etcd(_) => Outcome::Etcd,
                Reason::QuorumLost => Outcome::QuorumLost,
                Reason::CrashesBecomeFatal(_) => Outcome::CrashesBecomeFatal,
                Reason::LearnerInDoubt(..) => Outcome::LearnerInDoubt,
                Reason::ChangeUnapplied => Outcome::ChangeUnapplied,
                // Answers to steps and policies of the operator.
                _ => Outcome::Other,
            },
        }
    }

    /// Answer and reason.
    fn labels(self) -> (&'static str, &'static str) {
        match self {
            Outcome::Allowed => ("allowed", ""),
            Outcome::Warned => ("warned", ""),
            Outcome::Etcd => ("refused", "etcd"),
            Outcome::QuorumLost => ("refused", "quorum_lost"),
            Outcome::CrashesBecomeFatal => ("refused", "crashes_become_fatal"),
            Outcome::LearnerInDoubt => ("refused", "learner_in_doubt"),
            Outcome::LearnerNotReady => ("refused", "learner_not_ready"),
            Outcome::ChangeUnapplied => ("refused", "change_unapplied"),
            Outcome::Expectation => ("refused", "expectation"),
            Outcome::Other => ("refused", "other"),
        }
    }
}

impl LogWindow {
    /// How many lines were left out since the last one, if another may be written.
    pub(crate) fn line(&mut self, now: Instant) -> Option<u64> {
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

/// What is wrong, if another membership is expected than there is.
fn differs(expected: Digest, cluster: &Membership) -> Option<String> {
    let found = Digest::of(cluster.members());
    (found != expected).then(|| format!(
        "the membership is {found}, expected {expected}: it has changed since it was looked at; list the members and decide again"
    ))
}

/// etcd's own question at apply, which no member may answer otherwise, asked earlier of a change of
/// ours: nothing that changes members is unapplied, so the answer is the same, and a change that
/// would come to nothing does not fill the log.
fn valid(change: &ConfChange, cluster: &Membership) -> Result<(), api::Error> {
    membership::Change::decode(change)
        .and_then(|change| cluster.validate(&change))
        .map_err(|error| apply::membership_error(&error))
}

fn step(change: &Change) -> Step {
    let id = |id: &MemberId| quorum::MemberId(id.0);
    match change {
        Change::Add(_) => Step::AddVoter,
        Change::AddLearner(_) => Step::AddLearner,
        Change::Promote(member) => Step::Promote(id(member)),
        Change::Remove(member) => Step::Remove(id(member)),
        Change::Update { id: member, .. } => Step::UpdateUrls(id(member)),
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

    #[test]
    fn every_outcome_has_labels_and_a_count_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for (at, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, at);
            assert!(seen.insert(outcome.labels()), "{:?}", outcome.labels());
        }
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
