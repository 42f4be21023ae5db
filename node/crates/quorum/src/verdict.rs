//! What `judge` answers: yes, yes but, no; with the numbers, and in words.

use std::fmt::{Display, Formatter, Result};

use crate::etcd::Refusal;
use crate::{Doubt, MemberId, Step, fatal, need};

/// The answer to a step, with its arithmetic. `Display` is one line for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What was judged.
    pub step: Step,
    /// The answer.
    pub answer: Answer,
    /// The numbers of the configuration as it is.
    pub before: Arithmetic,
    /// The numbers as they would be.
    pub after: Arithmetic,
    /// Voters in doubt, and why, by id.
    pub in_doubt: Vec<(MemberId, Doubt)>,
    /// What would be safer, or would make it possible.
    pub advice: Option<Advice>,
}

/// Yes, yes but, no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Do it.
    Allow,
    /// Allowed, with a price.
    Warn(Warning),
    /// Do not.
    Refuse(Reason),
}

/// The numbers of one configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// Voters.
    pub voters: usize,
    /// Those that are healthy, by id.
    pub healthy: Vec<MemberId>,
}

/// The price of an allowed step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Warning {
    /// Until the new voter starts, a crash is fatal that was not.
    CrashesBecomeFatal,
    /// The cluster cannot commit until the new voter starts.
    StopsUntilStarted,
    /// The cluster stops for as long as the member does.
    Outage,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// (a): etcd refuses it too, with this error.
    Etcd(Refusal),
    /// (b): the healthy voters could not elect and commit.
    QuorumLost,
    /// (c): while a voter is in doubt, the crash of these would become fatal.
    CrashesBecomeFatal(Vec<MemberId>),
    /// (d): a learner in doubt would become a voter in doubt.
    LearnerInDoubt(MemberId, Doubt),
    /// Another change is on its way; judge again when it is applied.
    ChangeUnapplied,
    /// Without this voter the others could not elect and commit.
    StopIsFatal(MemberId),
    /// One or two voters: every restart is an outage, and the policy does not accept one.
    Outage,
    /// A leader in doubt would follow.
    TransfereeInDoubt(MemberId, Doubt),
    /// The new leader would have to catch up first.
    TransfereeBehind {
        /// Who should lead.
        id: MemberId,
        /// Up to where its log is known to be right.
        matched: Option<u64>,
        /// Up to where it should be.
        committed: u64,
    },
    /// Allowed to a person with this warning, and not under this policy.
    Warned(Warning),
}

/// A better order, or a way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Bring these back, or remove them, first.
    DeadFirst(Vec<MemberId>),
    /// Add it as a learner, start it, promote it.
    AddLearnerFirst,
    /// Start these first; where that cannot work, remove them.
    StartFirst(Vec<MemberId>),
    /// Let another member lead first.
    MoveLeaderFirst,
    /// Ask again in a moment.
    Wait,
    /// Say in the policy that an outage is accepted.
    AcceptOutage,
}

impl Verdict {
    /// The step may be taken, with or without a warning.
    pub fn allowed(&self) -> bool {
        !matches!(self.answer, Answer::Refuse(_))
    }

    /// Healthy voters whose crash would be fatal afterwards, and is not now.
    pub fn newly_fatal(&self) -> Vec<MemberId> {
        let before = self.before.fatal();
        let mut newly = self.after.fatal();
        newly.retain(|id| !before.contains(id));
        newly
    }
}

impl Arithmetic {
    /// Healthy voters that it takes.
    pub fn need(&self) -> usize {
        need(self.voters)
    }

    /// Healthy voters whose crash is fatal.
    pub fn fatal(&self) -> Vec<MemberId> {
        fatal(self.voters, &self.healthy)
    }
}

impl Warning {
    /// A policy that refuses warnings lets those pass that it accepted by name.
    pub(crate) fn was_accepted(self) -> bool {
        self == Warning::Outage
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.answer {
            Answer::Allow => write!(f, "{}: allowed", self.step)?,
            Answer::Warn(warning) => write!(f, "{}: allowed, but {warning}", self.step)?,
            Answer::Refuse(reason) => write!(f, "{}: refused, {reason}", self.step)?,
        }
        write!(f, "; now {}", self.before)?;
        if self.after != self.before {
            write!(f, "; then {}", self.after)?;
        }
        for (id, doubt) in &self.in_doubt {
            write!(f, "; voter {id} {doubt}")?;
        }
        match &self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl Display for Arithmetic {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Arithmetic { voters, healthy } = self;
        let crashes = if healthy.len() < self.need() {
            "no quorum"
        } else if self.fatal().is_empty() {
            "any one may crash"
        } else {
            "no healthy one may crash"
        };
        write!(
            f,
            "{voters} voter{}, {} healthy, {} needed, {crashes}",
            if *voters == 1 { "" } else { "s" },
            healthy.len(),
            self.need()
        )
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Step::AddVoter => f.write_str("add a voter"),
            Step::AddLearner => f.write_str("add a learner"),
            Step::Promote(id) => write!(f, "promote {id}"),
            Step::Remove(id) => write!(f, "remove {id}"),
            Step::UpdateUrls(id) => write!(f, "change the peer urls of {id}"),
            Step::Restart(id) => write!(f, "restart {id}"),
            Step::MoveLeader(id) => write!(f, "move the leader to {id}"),
        }
    }
}

impl Display for Warning {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Warning::CrashesBecomeFatal => {
                "until the new voter has started, no healthy voter may crash"
            }
            Warning::StopsUntilStarted => "the cluster stops until the new voter has started",
            Warning::Outage => "the cluster stops for as long",
        })
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Reason::Etcd(refusal) => write!(f, "{refusal}"),
            Reason::QuorumLost => f.write_str("the healthy voters would be no quorum"),
            Reason::CrashesBecomeFatal(ids) => write!(
                f,
                "with a voter in doubt, a crash of {} would become fatal",
                List(ids)
            ),
            Reason::LearnerInDoubt(id, doubt) => write!(f, "learner {id} {doubt}"),
            Reason::ChangeUnapplied => f.write_str("another membership change is not applied yet"),
            Reason::StopIsFatal(id) => write!(f, "without {id} there is no quorum"),
            Reason::Outage => f.write_str("the cluster would stop for as long"),
            Reason::TransfereeInDoubt(id, doubt) => write!(f, "member {id} {doubt}"),
            Reason::TransfereeBehind {
                id,
                matched,
                committed,
            } => {
                write!(f, "member {id} ")?;
                match matched {
                    Some(matched) => write!(f, "has the log up to {matched}")?,
                    None => f.write_str("has nobody knows how much of the log")?,
                }
                write!(f, ", {committed} is committed")
            }
            Reason::Warned(warning) => write!(f, "{warning}"),
        }
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Refusal::NotEnoughStarted => "too few of the voters have started",
            Refusal::Unhealthy => "too few voters are connected",
            Refusal::LearnerNotReady => "the learner is not in sync with the leader",
            Refusal::NotALearner => "it is a voter already",
            Refusal::MemberNotFound => "there is no such member",
            Refusal::BadLeaderTransferee => "it is no voter",
        })
    }
}

impl Display for Advice {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Advice::DeadFirst(ids) => write!(f, "bring back or remove {} first", List(ids)),
            Advice::AddLearnerFirst => {
                f.write_str("safer: add it as a learner, start it, then promote it")
            }
            Advice::StartFirst(ids) => write!(f, "start {} first", List(ids)),
            Advice::MoveLeaderFirst => f.write_str("smoother: move the leader first"),
            Advice::Wait => f.write_str("ask again in a moment"),
            Advice::AcceptOutage => f.write_str("the policy does not accept an outage"),
        }
    }
}

struct List<'a>(&'a [MemberId]);

impl Display for List<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (at, id) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{id}")?;
        }
        Ok(())
    }
}
