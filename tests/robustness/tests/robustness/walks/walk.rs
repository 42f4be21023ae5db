//! One walk: a cluster, a seed, steps, and at the end the question what is left.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use quorum::{HEALTH_INTERVAL, Role};
use testkit::ports;

use super::calls::{self, Change, Outcome};
use super::links::{Cut, Links};
use super::load::{self, Load};
use super::places::{LEARNERS_MAX, Place};
use super::replay::{Config, Judged, Step, broken};
use super::truth::{Truth, now};
use crate::clients::runtime;

/// Members of one walk at a time: five voters are where the rule says most, and a member more is
/// on its way in or out.
const MEMBERS_MAX: usize = 6;

/// How long a first start may take, on two busy cores.
const START: Duration = Duration::from_secs(60);

/// How long the cluster may take to be whole again once everything runs.
const HEAL: Duration = Duration::from_secs(90);

/// Between two looks at what cannot be waited for otherwise.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Between two starts of a member whose start fails.
const START_PAUSE: Duration = Duration::from_secs(1);

/// What a walk is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub steps: usize,
    /// The steps end here, even if there are more.
    pub time: Duration,
    /// Flags of all members.
    pub flags: &'static [&'static str],
    /// The rule is on: a promoted learner must be healthy too.
    pub strict: bool,
    /// Ends at the first broken step, without healing.
    pub until_broken: bool,
}

/// What a walk can tell.
#[derive(Debug, Default)]
pub struct Told {
    pub steps: usize,
    pub allowed: usize,
    pub refused: usize,
    /// Calls without an answer.
    pub unknown: usize,
    /// Lines that could not be put before the model: what they start from is not known.
    pub unjudged: usize,
    pub kills: usize,
    pub cuts: usize,
    pub writes: usize,
    pub broken: Vec<String>,
}

/// What is asked of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Add { learner: bool },
    Promote(usize),
    Remove(usize),
    Update(usize),
}

type Result<T> = std::result::Result<T, String>;

struct Walk {
    plan: Plan,
    dir: PathBuf,
    host: String,
    chance: u64,
    began: Instant,
    links: Arc<Links>,
    /// Links that are cut now.
    cut: BTreeSet<(usize, usize)>,
    truth: Truth,
    places: Vec<Place>,
    load: Option<Load>,
    /// The members as they were last listed.
    config: Config,
    /// What they may be by now, by what the judges wrote.
    possible: Vec<Config>,
    /// The list is the only possibility.
    settled: bool,
    /// A step could not be followed: the next list needs no explanation.
    blind: bool,
    /// Places that were asked for and are not in the list, and whether as learners.
    asked_for: Vec<(usize, bool)>,
    told: Told,
    story: String,
}

/// Walks. The error says what went wrong, and how to see it again.
pub fn walk(plan: Plan) -> Result<Told> {
    let mut walk = Walk::new(plan);
    let result = walk.run();
    if std::env::var_os("QUORATE_WALK_STORY").is_some() {
        eprintln!("walk: seed {}\n{}", walk.plan.seed, walk.story);
    }
    for place in &mut walk.places {
        place.member.kill();
    }
    if result.is_ok() && (walk.told.broken.is_empty() || walk.plan.until_broken) {
        let _ = std::fs::remove_dir_all(&walk.dir);
        return Ok(walk.told);
    }
    let what = result.err().into_iter().chain(walk.told.broken.clone());
    let what: Vec<String> = what.collect();
    let story = walk.dir.join("walk.txt");
    let _ = std::fs::write(&story, &walk.story);
    let lines: Vec<&str> = walk.story.lines().collect();
    Err(format!(
        "seed {}: {}\n{}\nthe whole walk and the members' logs: {}\nrepeat it: make chaos-membership SEED={} WALKS=1 STEPS={}",
        walk.plan.seed,
        what.join("\n"),
        lines[lines.len().saturating_sub(40)..].join("\n"),
        walk.dir.display(),
        walk.plan.seed,
        walk.plan.steps,
    ))
}

impl Walk {
    fn new(plan: Plan) -> Walk {
        let host = ports::address();
        let name = format!("quorate-walk-{}-on-{host}", plan.seed);
        let dir = std::env::temp_dir().join(name);
        // Another process of this number failed there, long ago.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("the temporary folder takes folders");
        Walk {
            chance: plan.seed,
            dir,
            host,
            began: Instant::now(),
            links: Links::new(),
            cut: BTreeSet::new(),
            truth: Truth::default(),
            places: Vec::new(),
            load: None,
            config: Config::new(),
            possible: Vec::new(),
            settled: true,
            blind: false,
            asked_for: Vec::new(),
            told: Told::default(),
            story: String::new(),
            plan,
        }
    }

    fn run(&mut self) -> Result<()> {
        self.start()?;
        while self.told.steps < self.plan.steps && self.began.elapsed() < self.plan.time {
            self.told.steps += 1;
            self.step()?;
            self.observe()?;
            if self.plan.until_broken && !self.told.broken.is_empty() {
                return Ok(());
            }
        }
        if self.plan.until_broken {
            return Ok(());
        }
        self.heal_and_check()
    }

    fn start(&mut self) -> Result<()> {
        let voters = [3, 3, 1, 5, 3, 2, 4][self.below(7)];
        for _ in 0..voters {
            self.new_place();
        }
        let all: Vec<usize> = (0..voters).collect();
        let initial = self.initial(&all);
        for &place in &all {
            self.spawn(place, &initial, "new");
        }
        self.config = all.iter().map(|&place| (place, Role::Voter)).collect();
        self.possible = vec![self.config.clone()];
        let deadline = Instant::now() + START;
        while !all.iter().all(|&place| self.places[place].ready) {
            self.look_for_ends()?;
            if Instant::now() > deadline {
                return Err("the first members do not start".into());
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        self.tell(format!("{voters} voters"));
        self.load = Some(Load::start(self.plan.seed));
        self.settled = false;
        self.observe()
    }

    // ---- steps

    /// One thing that can be done now.
    fn step(&mut self) -> Result<()> {
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

    fn restart_somebody(&mut self) -> bool {
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

    fn heal_links(&mut self) -> bool {
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

    // ---- what happened

    fn observe(&mut self) -> Result<()> {
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
    fn look_for_ends(&mut self) -> Result<()> {
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
    fn read_judges(&mut self) {
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
        let doubt = |place: usize| self.truth.surely_in_doubt(judge, place, judged.at);
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
            voters.filter(|(place, _)| !doubt(**place)).count()
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
                && doubt(*learner)
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
    fn settle(&mut self) -> Result<()> {
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

    /// Takes a list for the time being; it may be out of date already.
    fn listed(&mut self, members: &[pb::Member]) {
        self.note_ids(members);
        let role = |member: &pb::Member| match member.is_learner {
            true => Role::Learner,
            false => Role::Voter,
        };
        let places = members
            .iter()
            .map(|member| Some((self.place_of(member)?, role(member))));
        if let Some(config) = places.collect() {
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

    // ---- the end

    /// Heals everything; then the cluster must serve, agree and hold what it acknowledged.
    fn heal_and_check(&mut self) -> Result<()> {
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

    // ---- small things

    fn new_place(&mut self) -> usize {
        let number = self.places.len();
        let place = Place::new(number, &self.host, &self.dir, &self.links);
        self.places.push(place);
        number
    }

    fn spawn(&mut self, place: usize, initial: &str, state: &str) {
        self.truth.starts(place, now());
        let flags = self.plan.flags;
        self.places[place].spawn(initial, state, flags, &self.links);
    }

    fn start_again(&mut self, place: usize) {
        let mut members: BTreeSet<usize> = self.config.keys().copied().collect();
        members.insert(place);
        let initial = self.initial(&members.into_iter().collect::<Vec<_>>());
        self.spawn(place, &initial, "existing");
    }

    fn kill(&mut self, place: usize) {
        self.places[place].member.kill();
        self.truth.has_ended(place, now());
    }

    /// `--initial-cluster` of these members.
    fn initial(&self, members: &[usize]) -> String {
        let pair = |&place: &usize| {
            let member = &self.places[place].member;
            format!("{}={}", member.name, member.peer_url)
        };
        members.iter().map(pair).collect::<Vec<_>>().join(",")
    }

    /// All who may be members now.
    fn members(&self) -> BTreeSet<usize> {
        let possible = self.possible.iter().flat_map(Config::keys);
        possible.chain(self.config.keys()).copied().collect()
    }

    fn running(&self) -> Vec<usize> {
        let members = self.members().into_iter();
        members
            .filter(|&place| self.places[place].member.is_running())
            .collect()
    }

    fn of_role(&self, role: Role) -> Vec<usize> {
        let members = self.config.iter().filter(|(_, other)| **other == role);
        members.map(|(place, _)| *place).collect()
    }

    /// One of those who run.
    fn somebody(&mut self, fits: impl Fn(&Walk, usize) -> bool) -> Option<usize> {
        let mut running = self.running();
        running.retain(|&place| fits(self, place));
        match running.len() {
            0 => None,
            count => Some(running[self.below(count)]),
        }
    }

    /// Whether the voters that run could not go on without these.
    fn costs_the_quorum(&self, without: &[usize]) -> bool {
        let voters = self.of_role(Role::Voter);
        let alone = |place: usize| {
            let cut_from = |other: &&usize| self.links.is_cut(place, **other);
            2 * voters.iter().filter(cut_from).count() >= voters.len()
        };
        let left = voters.iter().copied().filter(|&place| {
            !without.contains(&place) && self.places[place].member.is_running() && !alone(place)
        });
        2 * left.count() <= voters.len()
    }

    fn id(&self, place: usize) -> Result<u64> {
        let id = self.places[place].id;
        id.ok_or_else(|| format!("m{place} was listed and has no ID"))
    }

    fn note_ids(&mut self, members: &[pb::Member]) {
        for member in members {
            if let Some(place) = self.place_of(member) {
                self.places[place].id = Some(member.id);
            }
        }
    }

    fn place_of(&self, member: &pb::Member) -> Option<usize> {
        let of_url = |url: &String| {
            let mut places = self.places.iter();
            places.position(|place| place.is_reached_at(url))
        };
        let of_id = || {
            let mut places = self.places.iter();
            places.position(|place| place.id == Some(member.id))
        };
        of_id().or_else(|| member.peer_urls.iter().find_map(of_url))
    }

    fn below(&mut self, count: usize) -> usize {
        (crate::next(&mut self.chance) % count.max(1) as u64) as usize
    }

    fn tell(&mut self, what: String) {
        let at = self.began.elapsed().as_secs_f64();
        let _ = writeln!(self.story, "{at:7.2} {:3} {what}", self.told.steps);
    }
}
