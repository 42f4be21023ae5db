//! The steps: what is drawn, whom it concerns, what was answered.

use std::time::Duration;

use api::etcdserverpb as pb;
use quorum::{HEALTH_INTERVAL, Role};

use super::super::calls::{self, Change, Outcome};
use super::super::links::Cut;
use super::super::places::LEARNERS_MAX;
use super::super::truth::now;
use super::{Result, Walk};
use crate::clients::runtime;

/// Members of one walk at a time: five voters are where the rule says most, and a member more is
/// on its way in or out.
const MEMBERS_MAX: usize = 6;

/// What is asked of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Add { learner: bool },
    Promote(usize),
    Remove(usize),
    Update(usize),
}

impl Walk {
    /// One thing that can be done now.
    pub(super) fn step(&mut self) -> Result<()> {
        loop {
            let done = match self.below(100) {
                0..50 if self.settled => self.ask_something()?,
                0..62 => self.kill_somebody(),
                62..76 => self.restart_somebody(),
                76..87 => self.cut_something(),
                87..95 => self.heal_links(),
                _ => self.move_leader(),
            };
            if done {
                return Ok(());
            }
        }
    }

    /// A kill or a cut, if there is one to be had.
    pub(super) fn fault(&mut self) -> bool {
        (0..20).any(|_| self.kill_somebody() || self.cut_something())
    }

    fn ask_something(&mut self) -> Result<bool> {
        // Most steps want members that have been connected for a while.
        if self.below(100) < 50 {
            let until = self.truth.last_change() + HEALTH_INTERVAL + Duration::from_millis(300);
            std::thread::sleep(until.saturating_sub(now()));
        }
        let mut wishes = vec![self.wish()];
        // Two callers at the same moment.
        if self.below(8) == 0 {
            let other = self.wish();
            let both_add = [wishes[0], other]
                .iter()
                .all(|wish| matches!(wish, Wish::Add { .. }));
            if other != wishes[0] && !both_add {
                wishes.push(other);
            }
        }
        self.ask(&wishes)
    }

    fn wish(&mut self) -> Wish {
        let members: Vec<usize> = self.config.keys().copied().collect();
        let learners = self.of_role(Role::Learner);
        let voters = members.len() - learners.len();
        let room = members.len() < MEMBERS_MAX;
        let mut wishes = Vec::new();
        let mut add = |weight: usize, wish| wishes.extend(std::iter::repeat_n(wish, weight));
        if room {
            add(if voters < 3 { 4 } else { 2 }, Wish::Add { learner: false });
            let more = learners.len() < LEARNERS_MAX;
            add(if more { 3 } else { 1 }, Wish::Add { learner: true });
        }
        for &learner in &learners {
            add(4, Wish::Promote(learner));
        }
        let target = members[self.below(members.len())];
        wishes.extend([Wish::Update(target)]);
        if members.len() > 1 {
            let dead: Vec<usize> = members
                .iter()
                .copied()
                .filter(|&place| !self.places[place].member.is_running())
                .collect();
            let target = match dead.len() {
                0 => target,
                _ if self.below(2) == 0 => target,
                count => dead[self.below(count)],
            };
            let weight = if room { 3 } else { 6 };
            wishes.extend(std::iter::repeat_n(Wish::Remove(target), weight));
        }
        wishes[self.below(wishes.len())]
    }

    fn ask(&mut self, wishes: &[Wish]) -> Result<bool> {
        let mut calls = Vec::new();
        for &wish in wishes {
            let Some(asked) =
                self.somebody(|walk, place| walk.config.get(&place) != Some(&Role::Learner))
            else {
                return Ok(false);
            };
            let (change, place) = match wish {
                Wish::Add { learner } => {
                    let place = self.new_place();
                    self.asked_for.push((place, learner));
                    let url = self.places[place].member.peer_url.clone();
                    (Change::Add { url, learner }, place)
                }
                Wish::Promote(place) => (Change::Promote(self.id(place)?), place),
                Wish::Remove(place) => (Change::Remove(self.id(place)?), place),
                Wish::Update(place) => {
                    let links = self.links.clone();
                    let url = self.places[place].open_door(&links);
                    let id = self.id(place)?;
                    (Change::Update { id, url }, place)
                }
            };
            self.tell(format!("ask m{asked}: {wish:?} (m{place})"));
            let endpoint = self.places[asked].member.endpoint();
            let call = change.clone();
            let call = runtime().spawn(async move { calls::change(&endpoint, call).await });
            calls.push((wish, change, place, call));
        }
        for (wish, change, place, call) in calls {
            let outcome = runtime().block_on(call).expect("a call panicked");
            self.answered(wish, &change, place, outcome);
        }
        self.settled = false;
        Ok(true)
    }

    fn answered(
        &mut self,
        wish: Wish,
        change: &Change,
        place: usize,
        outcome: Outcome<Vec<pb::Member>>,
    ) {
        match outcome {
            Outcome::Done(members) => {
                self.tell(format!("  {wish:?}: done, {} members", members.len()));
                // The old door stays open: who has not heard of the new one knows no other way.
                if let Change::Update { url, .. } = change {
                    url.clone_into(&mut self.places[place].member.peer_url);
                }
                self.listed(&members);
                if matches!(wish, Wish::Add { .. }) {
                    // Most are started at once.
                    if self.below(4) > 0 {
                        let known: Vec<usize> = members
                            .iter()
                            .filter_map(|member| self.place_of(member))
                            .collect();
                        let initial = self.initial(&known);
                        self.spawn(place, &initial, "existing");
                    }
                }
            }
            Outcome::Refused(text) => {
                self.tell(format!("  {wish:?}: refused, {text}"));
                self.asked_for.retain(|(asked_for, _)| *asked_for != place);
            }
            Outcome::Unknown(text) => {
                self.tell(format!("  {wish:?}: nobody knows, {text}"));
                self.told.unknown += 1;
            }
        }
    }

    fn kill_somebody(&mut self) -> bool {
        let Some(place) = self.somebody(|_, _| true) else {
            return false;
        };
        if self.costs_the_quorum(&[place]) && self.below(6) > 0 {
            return false;
        }
        self.tell(format!("kill m{place}"));
        self.kill(place);
        self.told.kills += 1;
        true
    }

    pub(super) fn restart_somebody(&mut self) -> bool {
        let members = self.config.keys().copied();
        let down: Vec<usize> = members
            .filter(|&place| !self.places[place].member.is_running())
            .collect();
        if down.is_empty() {
            return false;
        }
        let place = down[self.below(down.len())];
        self.tell(format!("start m{place}"));
        self.start_again(place);
        true
    }

    fn cut_something(&mut self) -> bool {
        let cut = [Cut::Silent, Cut::Reset][self.below(2)];
        let Some(place) = self.somebody(|_, _| true) else {
            return false;
        };
        let mut others: Vec<usize> = self.config.keys().copied().collect();
        others.retain(|&other| other != place && !self.links.is_cut(place, other));
        if others.is_empty() {
            return false;
        }
        // One link, or all of a member.
        if self.below(3) > 0 {
            others = vec![others[self.below(others.len())]];
        } else if self.costs_the_quorum(&[place]) && self.below(6) > 0 {
            return false;
        }
        self.tell(format!("cut m{place} from {others:?}, {cut:?}"));
        for other in others {
            self.links.cut(place, other, cut);
            self.truth.is_cut(place, other, now());
            self.cut.insert((place.min(other), place.max(other)));
        }
        self.told.cuts += 1;
        true
    }

    pub(super) fn heal_links(&mut self) -> bool {
        if self.cut.is_empty() {
            return false;
        }
        self.tell(format!("heal {:?}", self.cut));
        for (a, b) in std::mem::take(&mut self.cut) {
            self.truth.heals(a, b, now());
        }
        self.links.heal();
        true
    }

    fn move_leader(&mut self) -> bool {
        let voters = self.of_role(Role::Voter);
        let target = voters[self.below(voters.len())];
        let endpoint = |place: usize| self.places[place].member.endpoint();
        let leads = |place: &usize| calls::leads(&endpoint(*place));
        let (Some(leader), Some(id)) = (
            self.running().into_iter().find(leads),
            self.places[target].id,
        ) else {
            return false;
        };
        let outcome = calls::move_leader(&endpoint(leader), id);
        self.tell(format!(
            "move the lead from m{leader} to m{target}: {outcome:?}"
        ));
        true
    }
}
