//! What becomes of the steps: who ended, what the leaders wrote, who the members are.

use api::etcdserverpb as pb;
use quorum::Role;

use super::super::calls;
use super::super::replay::{Config, Judged, Step, broken};
use super::super::truth::now;
use super::{Result, Walk};
use crate::clients::runtime;

impl Walk {
    pub(super) fn observe(&mut self) -> Result<()> {
        self.look_for_ends()?;
        self.read_judges();
        if !self.settled {
            self.settle()?;
        }
        let running = self.running();
        let endpoints = running
            .iter()
            .map(|&place| self.places[place].member.endpoint())
            .collect();
        if let Some(load) = &self.load {
            load.endpoints(endpoints);
        }
        Ok(())
    }

    /// Notes who has ended by itself. Only those may who were removed, or could not join yet.
    pub(super) fn look_for_ends(&mut self) -> Result<()> {
        for place in 0..self.places.len() {
            let one = &mut self.places[place];
            one.look();
            let Some(status) = one.member.exited() else {
                continue;
            };
            let text = one.member.log_text();
            let last = text.lines().last().unwrap_or_default().to_owned();
            let was_removed = text.contains("removed from the cluster");
            let (removed, ready) = (one.removed, one.ready);
            self.truth.has_ended(place, now());
            self.tell(format!("m{place} ended with {status}: {last}"));
            let expected = removed || was_removed || !ready;
            if !expected || text.contains("panicked at") {
                return Err(format!("m{place} ended by itself with {status}: {last}"));
            }
        }
        Ok(())
    }

    /// Puts what the leaders wrote since the last time before the model.
    pub(super) fn read_judges(&mut self) {
        let mut all = Vec::new();
        for place in 0..self.places.len() {
            let lines = self.places[place].new_lines();
            all.extend(
                lines
                    .iter()
                    .filter_map(|line| Some((place, Judged::read(line)?))),
            );
        }
        all.sort_by_key(|(_, judged)| judged.at);
        for (judge, judged) in all {
            self.judged(judge, &judged);
        }
    }

    fn judged(&mut self, judge: usize, judged: &Judged) {
        self.tell(format!("  m{judge} judged: {}", judged.line));
        if judged.allowed {
            self.told.allowed += 1;
        } else {
            self.told.refused += 1;
        }
        let doubt =
            |place: usize, role: Role| self.truth.surely_in_doubt(judge, place, role, judged.at);
        // What the judge can have started from.
        let starts: Vec<(Config, Step<usize>)> = self
            .possible
            .iter()
            .filter(|config| {
                let voters = config.values().filter(|role| **role == Role::Voter);
                config.get(&judge) == Some(&Role::Voter) && voters.count() == judged.voters
            })
            .filter_map(|config| Some((config.clone(), self.step_in(config, judged.step)?)))
            .collect();
        let mut found = Vec::new();
        // No judge may count life that cannot be there, whatever it answers.
        let alive = |config: &Config| {
            let voters = config.iter().filter(|(_, role)| **role == Role::Voter);
            voters
                .filter(|(place, _)| !doubt(**place, Role::Voter))
                .count()
        };
        if !starts.is_empty() && starts.iter().all(|(from, _)| judged.healthy > alive(from)) {
            found.push("the judge counted as healthy who cannot have been".to_owned());
        }
        if judged.allowed {
            let each: Option<Vec<&str>> = starts
                .iter()
                .map(|(from, step)| broken(from, judge, judged.healthy, *step, doubt))
                .collect();
            found.extend(each.and_then(|each| Some((*each.first()?).to_owned())));
            if let (true, Some((_, Step::Promote(learner)))) = (self.plan.strict, starts.first())
                && doubt(*learner, Role::Learner)
            {
                found.push("a learner was promoted that was in doubt".to_owned());
            }
        }
        for what in found {
            let what = format!("{what}: m{judge} said {}", judged.line);
            self.tell(format!("BROKEN: {what}"));
            self.told.broken.push(what);
        }
        if !judged.allowed {
            return;
        }
        self.settled = false;
        if starts.is_empty() {
            self.told.unjudged += 1;
            self.blind = true;
            return;
        }
        for (mut config, step) in starts {
            match step {
                Step::Promote(place) => _ = config.insert(place, Role::Voter),
                Step::Remove(place) => _ = config.remove(&place),
                Step::AddVoter | Step::AddLearner => {
                    let role = match step {
                        Step::AddLearner => Role::Learner,
                        _ => Role::Voter,
                    };
                    let fits = |&&(place, learner): &&(usize, bool)| {
                        learner == (role == Role::Learner) && !config.contains_key(&place)
                    };
                    let Some(&(place, _)) = self.asked_for.iter().rev().find(fits) else {
                        self.blind = true;
                        continue;
                    };
                    config.insert(place, role);
                }
            }
            if !self.possible.contains(&config) {
                self.possible.push(config);
            }
        }
    }

    /// The step with places for IDs, if it can be taken there.
    fn step_in(&self, config: &Config, step: Step<u64>) -> Option<Step<usize>> {
        let place = |id| {
            let place = self.places.iter().position(|place| place.id == Some(id));
            place.filter(|place| config.contains_key(place))
        };
        match step {
            Step::AddVoter => Some(Step::AddVoter),
            Step::AddLearner => Some(Step::AddLearner),
            Step::Promote(id) => Some(Step::Promote(
                place(id).filter(|place| config[place] == Role::Learner)?,
            )),
            Step::Remove(id) => Some(Step::Remove(place(id)?)),
        }
    }

    /// Finds out what the members are. A write comes first: what stood in the log before it is
    /// committed or gone.
    pub(super) fn settle(&mut self) -> Result<()> {
        let Some(place) =
            self.somebody(|walk, place| walk.config.get(&place) != Some(&Role::Learner))
        else {
            return Ok(());
        };
        let endpoint = self.places[place].member.endpoint();
        let write = calls::put(&endpoint, "settled".into(), String::new());
        if runtime().block_on(write).is_err() {
            // Without a quorum, whoever has to be started next is known to some member only.
            if let Ok(members) = calls::members(&endpoint, false) {
                self.listed(&members);
            }
            return Ok(());
        }
        match calls::members(&endpoint, true) {
            Ok(members) => self.settled_on(&members),
            Err(_) => Ok(()),
        }
    }

    /// Takes a list for the time being; it may be out of date already. One who has just started has
    /// none yet.
    pub(super) fn listed(&mut self, members: &[pb::Member]) {
        self.note_ids(members);
        let role = |member: &pb::Member| match member.is_learner {
            true => Role::Learner,
            false => Role::Voter,
        };
        let places = members
            .iter()
            .map(|member| Some((self.place_of(member)?, role(member))));
        let config: Option<Config> = places.collect();
        if let Some(config) = config.filter(|config| config.values().any(|r| *r == Role::Voter)) {
            self.config = config;
        }
    }

    fn settled_on(&mut self, members: &[pb::Member]) -> Result<()> {
        let before = self.members();
        self.note_ids(members);
        self.read_judges();
        let mut config = Config::new();
        for member in members {
            let Some(place) = self.place_of(member) else {
                return Err(format!("nobody asked for this member: {member:?}"));
            };
            let role = match member.is_learner {
                true => Role::Learner,
                false => Role::Voter,
            };
            config.insert(place, role);
            if let [url] = &member.peer_urls[..] {
                url.clone_into(&mut self.places[place].member.peer_url);
            }
        }
        if !self.blind && !self.possible.contains(&config) {
            return Err(format!(
                "the members are {config:?}, and no step that a leader judged explains it: it could be {:?}",
                self.possible
            ));
        }
        for place in before {
            self.places[place].removed = !config.contains_key(&place);
        }
        self.asked_for
            .retain(|(place, _)| !config.contains_key(place));
        if config != self.config {
            self.tell(format!("  members: {config:?}"));
        }
        self.config = config;
        self.possible = vec![self.config.clone()];
        self.settled = true;
        self.blind = false;
        Ok(())
    }
}
