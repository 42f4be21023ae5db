//! The words of the model and its properties, by counting: what the search over all states uses,
//! and what judges the walks of real clusters (`tests/robustness`), which include this file.

use std::fmt::{Display, Formatter};

use quorum::Role;

/// Truth and view of one member in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// Runs, and is seen to.
    Healthy,
    /// Has come back a moment ago: runs, and is in doubt.
    Returning,
    /// Has just died; still seen as healthy.
    DeadUnseen,
    /// Its streams stand and it says nothing.
    Hung,
    /// Dead, and seen to be.
    Dead,
    /// Added and not started. It may yet.
    Unstarted,
    /// Added with URLs that nobody answers: it never starts.
    Stillborn,
}
use Condition::{DeadUnseen, Healthy, Returning};

impl Condition {
    pub fn runs(self) -> bool {
        matches!(self, Healthy | Returning)
    }

    pub fn seen_healthy(self) -> bool {
        matches!(self, Healthy | DeadUnseen)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    pub role: Role,
    pub condition: Condition,
    pub leads: bool,
    /// A change of it stands in the log: removal, or promotion.
    pub changes: bool,
    pub removes: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Sorted.
    pub nodes: Vec<Node>,
    /// A new member stands in the log.
    pub adds: Option<(Role, Condition)>,
    /// The leader has not yet applied its own first entry.
    pub new_term: bool,
    pub faults: u8,
}

/// A step by what it does to whom; ids mean nothing between two states.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    AddVoter,
    AddLearner,
    PromoteHealthy,
    PromoteInDoubt,
    RemoveHealthy,
    RemoveInDoubt,
    RemoveLearner,
}

impl State {
    /// So many healthy voters, the first of which leads.
    pub fn of(voters: usize) -> State {
        let nodes = (0..voters).map(|at| Node {
            role: Role::Voter,
            condition: Healthy,
            leads: at == 0,
            changes: false,
            removes: false,
        });
        State {
            nodes: nodes.collect(),
            adds: None,
            new_term: false,
            faults: 0,
        }
        .sorted()
    }

    pub fn sorted(mut self) -> State {
        self.nodes.sort_unstable();
        self
    }

    pub fn with(&self, at: usize, change: impl FnOnce(&mut Node)) -> State {
        let mut next = self.clone();
        change(&mut next.nodes[at]);
        next.sorted()
    }

    pub fn voters(&self) -> usize {
        self.count(|_| true)
    }

    pub fn count(&self, voters: impl Fn(&Node) -> bool) -> usize {
        let is = |node: &&Node| node.role == Role::Voter && voters(node);
        self.nodes.iter().filter(is).count()
    }
}

// ---- the properties, by counting

pub fn commits(healthy: usize, voters: usize) -> bool {
    2 * healthy > voters
}

/// Voters and, by view, healthy voters of the configuration after a step.
pub fn after(state: &State, kind: Kind) -> (usize, usize) {
    let voters = state.voters();
    let healthy = state.count(|node| node.condition.seen_healthy());
    match kind {
        Kind::AddLearner | Kind::RemoveLearner => (voters, healthy),
        Kind::AddVoter | Kind::PromoteInDoubt => (voters + 1, healthy),
        Kind::PromoteHealthy => (voters + 1, healthy + 1),
        Kind::RemoveHealthy => (voters - 1, healthy - 1),
        Kind::RemoveInDoubt => (voters - 1, healthy),
    }
}

pub fn breaks_p1(state: &State, kind: Kind) -> bool {
    let (voters, healthy) = after(state, kind);
    let one_to_two = kind == Kind::AddVoter && state.voters() == 1;
    !commits(healthy, voters) && !one_to_two
}

pub fn in_doubt(state: &State) -> bool {
    state.count(|node| !node.condition.seen_healthy()) > 0
}

/// One by one: is there a healthy voter afterwards whose crash is fatal, and was not?
pub fn breaks_p2(state: &State, kind: Kind) -> bool {
    let (voters, healthy) = after(state, kind);
    let was = state.count(|node| node.condition.seen_healthy());
    let fatal_then = healthy > 0 && !commits(healthy - 1, voters);
    let fatal_now = !commits(was - 1, state.voters());
    // A promoted learner is healthy then and was no voter now: its crash was not fatal.
    let newcomer = kind == Kind::PromoteHealthy;
    in_doubt(state) && fatal_then && (!fatal_now || newcomer)
}

/// With one voter dead and unseen: the quorum that is left in truth is left after the step.
pub fn breaks_p2_in_truth(state: &State, kind: Kind, target: Option<Node>) -> bool {
    let unseen = state.count(|node| node.condition == DeadUnseen);
    let alive = state.count(|node| node.condition == Healthy);
    if unseen != 1 || !in_doubt(state) || !commits(alive, state.voters()) {
        return false;
    }
    let target = target.map(|node| node.condition);
    let (voters, _) = after(state, kind);
    let alive = match (kind, target) {
        (Kind::RemoveHealthy, Some(Healthy)) => alive - 1,
        (Kind::PromoteHealthy, Some(Healthy)) => alive + 1,
        // The learner that died unseen makes two of them, which no rule can see.
        (Kind::PromoteHealthy, _) => return false,
        _ => alive,
    };
    !commits(alive, voters)
}

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::AddVoter => "ALLOWED: add a voter",
            Kind::AddLearner => "ALLOWED: add a learner",
            Kind::PromoteHealthy => "ALLOWED: promote the healthy learner",
            Kind::PromoteInDoubt => "ALLOWED: promote the learner in doubt",
            Kind::RemoveHealthy => "ALLOWED: remove a healthy voter",
            Kind::RemoveInDoubt => "ALLOWED: remove a voter in doubt",
            Kind::RemoveLearner => "ALLOWED: remove the learner",
        })
    }
}
