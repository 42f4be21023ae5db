//! One walk: a cluster, a seed, steps, and at the end the question what is left.

mod end;
mod follow;
mod steps;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use quorum::Role;
use testkit::ports;

use super::links::Links;
use super::load::Load;
use super::places::Place;
use super::replay::Config;
use super::truth::{Truth, now};

/// How long a first start may take, on two busy cores.
const START: Duration = Duration::from_secs(60);

/// Between two looks at what cannot be waited for otherwise.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// What a walk is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub steps: usize,
    /// The steps end here, even if there are more: then the walk has failed.
    pub time: Duration,
    /// Flags of all members.
    pub flags: Vec<String>,
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
    let flags = walk.plan.flags.iter();
    let flags: String = flags
        .map(|flag| format!("QUORATE_WALK_FLAG={flag} "))
        .collect();
    Err(format!(
        "seed {}: {}\n{}\nthe whole walk and the members' logs: {}\nrepeat it: {flags}make chaos-membership SEED={} WALKS=1 STEPS={} TIME_S={}",
        walk.plan.seed,
        what.join("\n"),
        lines[lines.len().saturating_sub(40)..].join("\n"),
        walk.dir.display(),
        walk.plan.seed,
        walk.plan.steps,
        walk.plan.time.as_secs(),
    ))
}

/// A walk that its time cut short did not ask what it was to ask.
fn all_taken(plan: &Plan, steps: usize, taken: Duration) -> Result<()> {
    if steps < plan.steps {
        return Err(format!(
            "{steps} of {} steps in {:.0} s, then its time was over; QUORATE_WALK_S gives it more than {} s",
            plan.steps,
            taken.as_secs_f64(),
            plan.time.as_secs()
        ));
    }
    Ok(())
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
            // A walk in calm weather proves little: the second half begins with a fault, if chance gave none.
            let calm = self.told.kills + self.told.cuts == 0;
            if !(calm && 2 * self.told.steps > self.plan.steps && self.fault()) {
                self.step()?;
            }
            self.observe()?;
            if self.plan.until_broken && !self.told.broken.is_empty() {
                return Ok(());
            }
        }
        if self.plan.until_broken {
            return Ok(());
        }
        let taken = self.began.elapsed();
        // What is missing afterwards is worse news than a slow machine, and comes first.
        self.heal_and_check()?;
        all_taken(&self.plan, self.told.steps, taken)
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

    fn new_place(&mut self) -> usize {
        let number = self.places.len();
        let place = Place::new(number, &self.host, &self.dir, &self.links);
        self.places.push(place);
        number
    }

    fn spawn(&mut self, place: usize, initial: &str, state: &str) {
        self.truth.starts(place, now());
        self.places[place].spawn(initial, state, &self.plan.flags, &self.links);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_that_was_cut_short_has_failed() {
        let plan = Plan {
            seed: 1,
            steps: 10,
            time: Duration::from_secs(60),
            flags: Vec::new(),
            strict: true,
            until_broken: false,
        };
        let taken = Duration::from_secs(61);
        assert_eq!(all_taken(&plan, 10, taken), Ok(()));
        let short = all_taken(&plan, 9, taken).expect_err("one step is missing");
        assert!(short.starts_with("9 of 10 steps in 61 s"), "{short}");
    }
}
