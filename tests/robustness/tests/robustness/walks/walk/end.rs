//! The end of a walk: everything is healed, and then nothing may be missing.

use std::time::{Duration, Instant};

use quorum::Role;

use super::super::calls;
use super::super::load::{self, Load};
use super::{LOOK_PAUSE, Result, Walk};
use crate::clients::runtime;

/// How long the cluster may take to be whole again once everything runs.
const HEAL: Duration = Duration::from_secs(90);

/// Between two starts of a member whose start fails.
const START_PAUSE: Duration = Duration::from_secs(1);

impl Walk {
    /// Heals everything; then the cluster must serve, agree and hold what it acknowledged.
    pub(super) fn heal_and_check(&mut self) -> Result<()> {
        self.tell("the end: heal everything".into());
        let load = self.load.take();
        let acknowledged = load.map(Load::finish).unwrap_or_default();
        self.told.writes = acknowledged.len();
        self.heal_links();
        let deadline = Instant::now() + HEAL;
        let mut last_start = None::<Instant>;
        loop {
            let wrong = match self.whole(&acknowledged)? {
                None => return Ok(()),
                Some(wrong) => wrong,
            };
            if Instant::now() > deadline {
                return Err(format!("not whole again after {HEAL:?}: {wrong}"));
            }
            if last_start.is_none_or(|at| at.elapsed() > START_PAUSE) {
                last_start = Some(Instant::now());
                for place in self.members() {
                    let one = &self.places[place];
                    if !one.member.is_running() && !one.removed {
                        self.tell(format!("start m{place}"));
                        self.start_again(place);
                    }
                }
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// What is not right yet. What can never become right is an error.
    fn whole(&mut self, acknowledged: &[(String, String)]) -> Result<Option<String>> {
        self.settled = false;
        self.look_for_ends()?;
        self.read_judges();
        self.settle()?;
        if !self.settled {
            return Ok(Some("nobody lists the members".into()));
        }
        let members: Vec<usize> = self.config.keys().copied().collect();
        if let Some(place) = members.iter().find(|&&place| !self.places[place].ready) {
            return Ok(Some(format!("m{place} does not serve")));
        }
        let endpoint = |place: usize| self.places[place].member.endpoint();
        let all: Vec<String> = members.iter().map(|&place| endpoint(place)).collect();
        let voters: Vec<String> = self
            .of_role(Role::Voter)
            .into_iter()
            .map(endpoint)
            .collect();

        // Everybody serves.
        for voter in &voters {
            let write = calls::put(voter, "served".into(), voter.clone());
            if let Err(status) = runtime().block_on(write) {
                return Ok(Some(format!("{voter} takes no write: {status}")));
            }
        }
        // All voters agree on who they are; a learner lists nobody.
        let mut lists = Vec::new();
        for endpoint in &voters {
            match calls::members(endpoint, false) {
                Err(status) => return Ok(Some(format!("{endpoint} lists nobody: {status}"))),
                Ok(list) => lists.push(list),
            }
        }
        if let Some(at) = lists.iter().position(|list| *list != lists[0]) {
            return Ok(Some(format!(
                "{} and {} know other members: {:?}, {:?}",
                voters[0], voters[at], lists[0], lists[at]
            )));
        }
        // Every write that was acknowledged is there.
        let (revision, pairs) = match calls::pairs(&voters[0], load::PREFIX, false) {
            Err(status) => return Ok(Some(format!("{} reads nothing: {status}", voters[0]))),
            Ok(read) => read,
        };
        let held: std::collections::BTreeMap<_, _> = pairs.iter().cloned().collect();
        for (key, value) in acknowledged {
            if held.get(key) != Some(value) {
                return Err(format!(
                    "the write {key}={value} was acknowledged and is lost: {:?} is there, of {} pairs",
                    held.get(key),
                    held.len()
                ));
            }
        }
        // All members hold the same.
        let mut hashes = Vec::new();
        for voter in &voters {
            match calls::hash(voter, revision) {
                Err(status) => return Ok(Some(format!("{voter} gives no hash: {status}"))),
                Ok(hash) => hashes.push(hash),
            }
        }
        if hashes.iter().any(|hash| *hash != hashes[0]) {
            return Err(format!("hashes at revision {revision} differ: {hashes:?}"));
        }
        for endpoint in &all {
            match calls::pairs(endpoint, load::PREFIX, true) {
                Err(status) => return Ok(Some(format!("{endpoint} reads nothing: {status}"))),
                Ok((at, _)) if at < revision => {
                    return Ok(Some(format!("{endpoint} is at {at}, behind {revision}")));
                }
                Ok((_, theirs)) if theirs != pairs => {
                    return Err(format!("{endpoint} holds other pairs than {}", voters[0]));
                }
                Ok(_) => {}
            }
        }
        match calls::alarms(&voters[0]) {
            Ok(0) => Ok(None),
            Ok(alarms) => Err(format!("{alarms} alarms are up")),
            Err(status) => Ok(Some(format!("{} knows no alarms: {status}", voters[0]))),
        }
    }
}
