//! A walk's log put before the model: what was allowed, by whom, and what the test knows of the
//! members' life at that moment.
//!
//! The leader writes a line about each step that it judges, with the moment and its count. Whom it
//! saw then, the test does not know to the last member: one that was killed half a second ago may
//! be healthy to it or not. So every view is tried that has the judge's count and in which nobody
//! is healthy who cannot have been, and a step is broken when it breaks a property of the model
//! under each of them. The properties are those of the
//! search through all states (`node/crates/quorum/tests/model`), not the rule that is on trial.

use std::collections::BTreeMap;
use std::time::Duration;

use quorum::Role;
use serde_json::Value;

use super::properties::{Condition, Kind, Node, State, breaks_p1, breaks_p2};

/// A configuration: the members by their place in the walk.
pub type Config = BTreeMap<usize, Role>;

/// A step, the members by whatever names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<Who> {
    AddVoter,
    AddLearner,
    Promote(Who),
    Remove(Who),
}

/// One line of a judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub at: Duration,
    /// Targets by their id.
    pub step: Step<u64>,
    pub allowed: bool,
    /// What the judge counted.
    pub voters: usize,
    pub healthy: usize,
    pub line: String,
}

impl Judged {
    /// Reads a line of a member's log; most say nothing about a step.
    pub fn read(line: &str) -> Option<Judged> {
        const WORD: &str = "\"msg\":\"membership: ";
        if !line.contains(WORD) {
            return None;
        }
        let json: Value = serde_json::from_str(line).ok()?;
        let text = json["msg"].as_str()?.strip_prefix("membership: ")?;
        let (step, rest) = text.split_once(": ")?;
        let id = |prefix| u64::from_str_radix(step.strip_prefix(prefix)?, 16).ok();
        let step = match step {
            "add a voter" => Step::AddVoter,
            "add a learner" => Step::AddLearner,
            _ => match (id("promote "), id("remove ")) {
                (Some(id), _) => Step::Promote(id),
                (_, Some(id)) => Step::Remove(id),
                _ => return None,
            },
        };
        let (_, numbers) = rest.split_once("; now ")?;
        let mut numbers = numbers.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.find_map(|word| word.parse().ok());
        Some(Judged {
            at: moment(json["ts"].as_str()?)?,
            step,
            allowed: rest.starts_with("allowed"),
            voters: number()?,
            healthy: number()?,
            line: text.to_owned(),
        })
    }
}

/// What is wrong with a step that `judge` allowed when it counted `healthy` voters, if there is
/// something under every view in which nobody is healthy who is `surely_in_doubt`.
pub fn broken(
    config: &Config,
    judge: usize,
    count: usize,
    step: Step<usize>,
    surely_in_doubt: impl Fn(usize, Role) -> bool,
) -> Option<&'static str> {
    let target = match step {
        Step::Promote(target) | Step::Remove(target) => Some(target),
        Step::AddVoter | Step::AddLearner => None,
    };
    let matters = |place: usize| config[&place] == Role::Voter || target == Some(place);
    let open: Vec<usize> = config
        .keys()
        .copied()
        .filter(|&place| {
            matters(place) && place != judge && !surely_in_doubt(place, config[&place])
        })
        .collect();
    let mut property = None;
    for view in 0..1u32 << open.len() {
        let healthy = |place: usize| {
            let at = open.iter().position(|&one| one == place);
            place == judge || at.is_some_and(|at| view >> at & 1 == 1)
        };
        let voters = config.iter().filter(|(_, role)| **role == Role::Voter);
        if voters.filter(|(place, _)| healthy(**place)).count() != count {
            continue;
        }
        property = Some(broken_under(config, judge, step, healthy)?);
    }
    property
}

fn broken_under(
    config: &Config,
    judge: usize,
    step: Step<usize>,
    healthy: impl Fn(usize) -> bool,
) -> Option<&'static str> {
    let nodes = config.iter().map(|(&place, &role)| Node {
        role,
        condition: if healthy(place) {
            Condition::Healthy
        } else {
            Condition::Dead
        },
        leads: place == judge,
        changes: false,
        removes: false,
    });
    let state = State {
        nodes: nodes.collect(),
        adds: None,
        new_term: false,
        faults: 0,
    };
    let kind = match step {
        Step::AddVoter => Kind::AddVoter,
        Step::AddLearner => Kind::AddLearner,
        Step::Promote(target) if healthy(target) => Kind::PromoteHealthy,
        Step::Promote(_) => Kind::PromoteInDoubt,
        Step::Remove(target) if config[&target] == Role::Learner => Kind::RemoveLearner,
        Step::Remove(target) if healthy(target) => Kind::RemoveHealthy,
        Step::Remove(_) => Kind::RemoveInDoubt,
    };
    if breaks_p1(&state, kind) {
        Some("P1: the healthy voters would be no quorum")
    } else if breaks_p2(&state, kind) {
        Some("P2: with a voter in doubt, a crash becomes fatal that was not")
    } else {
        None
    }
}

/// `2026-11-23T22:42:01.302949Z` as time since 1970.
fn moment(text: &str) -> Option<Duration> {
    let mut numbers = text
        .trim_end_matches('Z')
        .split(['-', 'T', ':', '.'])
        .map(|word| word.parse::<u64>().ok());
    let mut number = || numbers.next().flatten();
    let (year, month, day) = (number()?, number()?, number()?);
    let (hour, minute, second, micros) = (number()?, number()?, number()?, number()?);
    // Years that begin in March have the day that comes and goes at their end.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(Duration::from_secs(seconds) + Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(voters: usize, learners: usize) -> Config {
        (0..voters + learners)
            .map(|place| {
                (
                    place,
                    if place < voters {
                        Role::Voter
                    } else {
                        Role::Learner
                    },
                )
            })
            .collect()
    }

    #[test]
    fn a_judges_line_is_read() {
        let line = r#"{"caller":"server::judge:240","how":"as leader","level":"info","msg":"membership: remove a1: refused, too few voters are connected; now 3 voters, 2 healthy, 2 needed, no healthy one may crash","ts":"2026-11-23T22:42:01.302949Z"}"#;
        let judged = Judged::read(line).expect("it is a judge's");
        assert_eq!(judged.step, Step::Remove(0xa1));
        assert_eq!((judged.voters, judged.healthy), (3, 2));
        assert!(!judged.allowed);
        assert_eq!(judged.at, Duration::from_micros(1_795_473_721_302_949));
        let line = line.replace(
            "remove a1: refused, too few voters are connected",
            "add a voter: allowed, but the cluster stops until the new voter has started",
        );
        let judged = Judged::read(&line).expect("it is a judge's");
        assert!(judged.allowed && judged.step == Step::AddVoter);
        assert_eq!(
            Judged::read(r#"{"msg":"membership of another kind"}"#),
            None
        );
    }

    /// The four ways in which etcd's rule breaks P2, one voter dead for sure.
    #[test]
    fn what_etcd_allows_is_broken_whatever_the_judge_saw() {
        let five = config(5, 0);
        for step in [Step::AddVoter, Step::Remove(1)] {
            let found = broken(&five, 0, 4, step, |place, _| place == 4);
            assert!(found.is_some(), "{step:?}");
        }
        let three = config(3, 1);
        for dead in [vec![2], vec![2, 3]] {
            let found = broken(&three, 0, 2, Step::Promote(3), |place, _| {
                dead.contains(&place)
            });
            assert!(found.is_some(), "{dead:?}");
        }
    }

    #[test]
    fn what_the_rule_allows_is_not_broken() {
        let nobody = |_, _| false;
        let three = config(3, 1);
        for step in [
            Step::AddVoter,
            Step::AddLearner,
            Step::Promote(3),
            Step::Remove(1),
        ] {
            assert_eq!(broken(&three, 0, 3, step, nobody), None, "{step:?}");
        }
        let dead = |place, _| place == 2;
        assert_eq!(broken(&three, 0, 2, Step::Remove(2), dead), None);
        assert_eq!(broken(&config(1, 0), 0, 1, Step::AddVoter, nobody), None);
        let dead = |place, _| place == 4;
        assert_eq!(broken(&config(5, 1), 0, 4, Step::Promote(5), dead), None);
        // Who of five it was that the judge had in doubt, nobody knows: perhaps the one to leave.
        let five = config(5, 0);
        assert_eq!(broken(&five, 0, 4, Step::Remove(1), nobody), None);
    }
}
