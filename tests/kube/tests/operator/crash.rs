//! Ends at any moment, and more than one operator.
//!
//! What the world has of an operator are its changes: requests to the API server and calls to members. Between two of
//! them it may end where it likes, the world is the same; so an end after each of them is an end at every request.
//! That is what lives are of whose operators are allowed one change each. In others one operator ends, and the next
//! one has to find itself in what it left.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::eventually;

use crate::calls::Calls;
use crate::cluster::{Cluster, STEP, condition, names, spec};
use crate::dice::Dice;
use crate::door::Cut;
use crate::operator::{Operator, Options};
use crate::state::end_state;
use crate::world::{World, whole, world};

/// Between two looks whether a door has closed or a step is done.
const LOOK: Duration = Duration::from_millis(200);

/// Lives that are lived at the same time.
const LIVES_AT_ONCE: usize = 3;

/// One step of a life: what a person does, and when it is done.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// so many voters
    Size(u32),
    /// the first follower's object is deleted: another member comes in its place
    Replace,
    /// all members run this version
    Version(&'static str),
    /// the object is deleted
    Delete,
}

/// From nothing to nothing.
const WHOLE_LIFE: [Step; 6] = [
    Step::Size(3),
    Step::Size(5),
    Step::Replace,
    Step::Version("0.2.0"),
    Step::Size(3),
    Step::Delete,
];

/// What `make test` has the time for.
const SHORT_LIFE: [Step; 1] = [Step::Size(3)];
const SMALL_LIFE: [Step; 3] = [Step::Size(1), Step::Version("0.2.0"), Step::Delete];

/// A life under way.
struct Life {
    world: &'static World,
    cluster: Cluster,
    voters: u32,
    /// numbers of members that were given away
    numbers: u32,
    version: String,
    operators: usize,
    /// the last operator, which goes on where it may
    operator: Option<Operator>,
}

impl Life {
    fn begin(world: &'static World, word: &str, steps: &[Step]) -> Self {
        // The same program under another name: what is tested is the way, not what is in the image.
        world.kubelet.add_image("quorate:0.2.0", testkit::quorate());
        let Some(Step::Size(voters)) = steps.first().copied() else {
            panic!("a life begins with a size");
        };
        let mut wanted = spec(voters);
        wanted["membership"]["acceptOutage"] = json!(true);
        wanted["paused"] = json!(true);
        let cluster = Cluster::behind_a_door(world, word, &wanted);
        Self {
            world,
            cluster,
            voters,
            numbers: voters,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            operators: 0,
            operator: None,
        }
    }

    /// What a person does at the beginning of a step.
    fn ask(&mut self, step: Step) -> Step {
        match step {
            Step::Size(voters) => {
                self.numbers += voters.saturating_sub(self.voters);
                self.voters = voters;
                self.cluster
                    .patch(&json!({"replicas": voters, "paused": false}));
            }
            Step::Replace => {
                self.numbers += 1;
                let status = self.cluster.status();
                let mut members = self.cluster.members();
                members.retain(|name| status["leader"] != name.as_str());
                members.sort();
                let old = members.first().expect("of three, two follow");
                self.cluster
                    .kubectl(&["delete", "quoratemember", old, "--wait=false"]);
            }
            Step::Version(version) => {
                self.version = version.to_owned();
                self.cluster.patch(&json!({"version": version}));
            }
            Step::Delete => {
                self.cluster
                    .kubectl(&["delete", "quoratecluster", "q", "--wait=false"]);
            }
        }
        step
    }

    fn is_done(&self, step: Step, object: &Value) -> bool {
        if matches!(step, Step::Delete) {
            let kinds = ["quoratemembers", "pods", "services", "poddisruptionbudgets"];
            return object.is_null()
                && kinds
                    .iter()
                    .all(|kind| names(&self.cluster.list(kind)).is_empty());
        }
        let status = &object["status"];
        let leaving = |kind: &str| {
            let objects = self.cluster.list(kind);
            let left = objects
                .iter()
                .any(|one| !one["metadata"]["deletionTimestamp"].is_null());
            left || names(&objects).len() != self.voters as usize
        };
        status["observedGeneration"] == object["metadata"]["generation"]
            && condition(object, "Ready") == "True"
            && condition(object, "VersionCurrent") == "True"
            && status["quorum"]["voters"] == self.voters
            && status["quorum"]["learners"] == 0
            && status["version"] == self.version.as_str()
            && status["operation"].is_null()
            && !leaving("quoratemembers")
            && !leaving("pods")
    }

    /// Operators come and end where their doors close, until the step is done and one had nothing left to do.
    fn go(&mut self, step: Step, cuts: &mut impl FnMut() -> Option<Cut>) {
        let step = self.ask(step);
        let began = Instant::now();
        let within = STEP * 6 + STEP * self.voters;
        loop {
            let mut operator = match self.operator.take() {
                Some(operator) => operator,
                None => self.next_operator(cuts()),
            };
            let closed = self.world.wait(operator.door.wait_closed(LOOK));
            let object = self.cluster.object();
            if closed {
                operator.kill();
            } else {
                self.operator = Some(operator);
                if self.is_done(step, &object) {
                    return;
                }
            }
            assert!(
                began.elapsed() < within,
                "{} operators did not come to the end of {step:?}: {object}",
                self.operators
            );
        }
    }

    fn next_operator(&mut self, cut: Option<Cut>) -> Operator {
        self.operators += 1;
        let mut options = Options::of(&self.cluster.ns.name);
        options.cut = cut;
        Operator::start(self.world, &options)
    }

    /// All steps; before the last one, where it is the end, the cluster is compared with one that was made so.
    fn live(mut self, steps: &[Step], mut cuts: impl FnMut() -> Option<Cut>) -> usize {
        let began = Instant::now();
        for step in steps {
            if matches!(step, Step::Delete) {
                self.compare();
            }
            self.go(*step, &mut cuts);
        }
        if !matches!(steps.last(), Some(Step::Delete)) {
            self.compare();
        }
        let calls = self.calls().seen();
        eprintln!(
            "{}: {} operators in {:?}, {} calls that change something",
            self.cluster.ns.name,
            self.operators,
            began.elapsed(),
            calls.len()
        );
        self.operators
    }

    fn calls(&self) -> Calls {
        let calls = self.world.kubelet.calls(&self.cluster.ns.name);
        calls.expect("the life began with one")
    }

    /// It is what it would be without any of this: no member twice, no volume of nobody.
    fn compare(&mut self) {
        // The next one may end as it likes.
        self.operator = None;
        let _last = self.next_operator(None);
        self.cluster.until_ready(self.voters, STEP * 3);
        self.cluster.assert_tidy(self.voters as usize);
        assert_eq!(
            self.cluster.status()["nextMember"],
            self.numbers,
            "a number was used twice, or none"
        );
        self.calls().assert_voters_change_one_by_one();
        if whole() {
            let object = self.cluster.object();
            let fresh = Cluster::create(
                self.world,
                &format!("{}-f", self.cluster.ns.name),
                &object["spec"],
            );
            let _operator = Operator::start(self.world, &Options::of(&fresh.ns.name));
            fresh.until_ready(self.voters, STEP * 4);
            assert_same(&self.cluster, &fresh);
        }
    }
}

/// The end state of one is that of the other.
pub fn assert_same(one: &Cluster, other: &Cluster) {
    eventually("the state of a fresh deployment", STEP, || {
        let (state, fresh) = (end_state(one), end_state(other));
        if state == fresh {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(300));
        Err(differences(&state, &fresh).join("\n"))
    });
}

fn differences(one: &Value, other: &Value) -> Vec<String> {
    fn walk(path: &str, one: &Value, other: &Value, into: &mut Vec<String>) {
        match (one, other) {
            (Value::Object(fields), Value::Object(others)) => {
                let mut all: Vec<&String> = fields.keys().chain(others.keys()).collect();
                all.sort();
                all.dedup();
                for name in all {
                    walk(&format!("{path}/{name}"), &one[name], &other[name], into);
                }
            }
            (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
                for (index, (item, other)) in items.iter().zip(others).enumerate() {
                    walk(&format!("{path}/{index}"), item, other, into);
                }
            }
            _ if one != other => into.push(format!("{path}: {one}, fresh it is {other}")),
            _ => {}
        }
    }
    let mut all = Vec::new();
    walk("", one, other, &mut all);
    all
}

/// A life in which every operator ends at a change: `Before` it reaches the world, `After` it did and before the
/// answer came. In a whole run each is allowed one; else one to three, so that the cut falls at another place in
/// every pass.
fn ends_at_each_change(test: &str, word: &str, short: &[Step], cut: fn(usize) -> Cut) {
    let Some(world) = world(test) else { return };
    let steps: &[Step] = if whole() { &WHOLE_LIFE } else { short };
    let mut at = 0;
    let cuts = move || {
        at = if whole() { 1 } else { at % 3 + 1 };
        Some(cut(at + usize::from(matches!(cut(1), Cut::Before(_)))))
    };
    let operators = Life::begin(world, word, steps).live(steps, cuts);
    assert!(operators > 10, "{operators} operators");
}

#[test]
fn operators_that_end_before_each_change_are_as_one() {
    let test = "operators_that_end_before_each_change_are_as_one";
    ends_at_each_change(test, "before", &SMALL_LIFE, Cut::Before);
}

#[test]
fn operators_that_end_after_each_change_are_as_one() {
    let test = "operators_that_end_after_each_change_are_as_one";
    ends_at_each_change(test, "after", &SHORT_LIFE, Cut::After);
}

/// Reads counted too, wherever the dice say.
#[test]
fn operators_that_end_at_any_request_are_as_one() {
    let test = "operators_that_end_at_any_request_are_as_one";
    let Some(world) = world(test) else { return };
    let seed = Dice::seed();
    eprintln!("{test}: QUORATE_SEED_FIRST={seed}");
    let mut dice = Dice::new(seed);
    // The first dozen of requests is what every operator begins with.
    let (steps, most): (&[Step], u64) = if whole() {
        (&WHOLE_LIFE, 100)
    } else {
        (&SMALL_LIFE, 40)
    };
    let cuts = move || {
        let at = 10 + dice.below(most - 10);
        Some(Cut::Request(usize::try_from(at).expect("a small number")))
    };
    let operators = Life::begin(world, "requests", steps).live(steps, cuts);
    assert!(operators > 3, "{operators} operators");
}

/// Each change of a life alone: one operator ends there, the next one lives on. In whole runs
/// `QUORATE_OPERATOR_ENDS` of them, drawn by the seed, or `all`.
#[test]
fn one_end_at_any_change_is_as_none() {
    let test = "one_end_at_any_change_is_as_none";
    let Some(world) = world(test) else { return };
    let one = |word: &str, steps: &[Step], cut: Cut| {
        let mut first = Some(cut);
        Life::begin(world, word, steps).live(steps, move || first.take());
    };
    if !whole() {
        return one("one-end", &SHORT_LIFE, Cut::After(7));
    }
    let seed = Dice::seed();
    let mut dice = Dice::new(seed);
    let wanted = std::env::var("QUORATE_OPERATOR_ENDS").unwrap_or_else(|_| "6".to_owned());
    let most = changes_of_a_life(world);
    let places: Vec<usize> = match wanted.as_str() {
        "all" => (1..=most).collect(),
        number => {
            let number: usize = number
                .parse()
                .expect("QUORATE_OPERATOR_ENDS is a number or all");
            let below = u64::try_from(most).expect("a small number");
            (0..number)
                .map(|_| usize::try_from(1 + dice.below(below)).expect("a small number"))
                .collect()
        }
    };
    eprintln!("{test}: QUORATE_SEED_FIRST={seed}, ends after {places:?} of {most} changes");
    let next = std::sync::Mutex::new(places.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..LIVES_AT_ONCE {
            scope.spawn(|| {
                loop {
                    let place = next.lock().expect("nobody panics with it").next();
                    let Some(place) = place else { return };
                    one(&format!("end-{place}"), &WHOLE_LIFE, Cut::After(place));
                }
            });
        }
    });
}

/// How many changes an operator makes in a whole life when nothing is in its way.
fn changes_of_a_life(world: &'static World) -> usize {
    let mut life = Life::begin(world, "undisturbed", &WHOLE_LIFE);
    for step in WHOLE_LIFE {
        life.go(step, &mut || None);
    }
    let operator = life.operator.take().expect("it lives on");
    operator.door.changes()
}

#[test]
fn an_old_leader_that_was_paused_does_no_harm() {
    let Some(world) = world("an_old_leader_that_was_paused_does_no_harm") else {
        return;
    };
    let cluster = Cluster::behind_a_door(world, "leaders", &spec(3));
    let calls = world.kubelet.calls(&cluster.ns.name).expect("just made");
    let mut options = Options::of(&cluster.ns.name);
    options.flags = [
        "--leader-elect-namespace=quorate-system".to_owned(),
        format!("--leader-elect-name={}", cluster.ns.name),
        "--leader-elect-lease-duration=14".to_owned(),
        "--leader-elect-renew-deadline=4".to_owned(),
        "--leader-elect-retry-period=1".to_owned(),
    ]
    .into();
    let mut first = Operator::start(world, &options);
    let old = first.process().expect("it runs");
    cluster.until("a first member", STEP, |object| {
        object["status"]["target"].is_object()
    });
    let second = Operator::start(world, &options);
    first.signal(libc::SIGSTOP);
    cluster.until_ready(3, STEP * 3);
    let second_acted = second.door.seen().iter().any(|seen| seen.is_change());
    assert!(second_acted, "the second operator has taken over");
    cluster.scale(5);
    let before = first.door.seen().len();
    let continued = Instant::now();
    first.signal(libc::SIGCONT);
    eventually("the old leader's end", STEP, || {
        first.exited().map(|_| ()).ok_or_else(|| first.log())
    });
    let late: Vec<_> = first
        .door
        .seen()
        .split_off(before)
        .into_iter()
        .filter(|seen| seen.is_change() && matches!(seen.status, 200..300))
        .collect();
    assert!(late.is_empty(), "{late:?}");
    cluster.until_ready(5, STEP * 3);
    cluster.assert_tidy(5);
    let seen = calls.seen();
    let late: Vec<_> = seen
        .iter()
        .filter(|call| call.from == old && call.began > continued)
        .collect();
    assert!(late.is_empty(), "{late:?}");
    assert!(seen.iter().any(|call| call.from != old), "{seen:?}");
    calls.assert_one_at_a_time();

    // Once it holds the lease, a renewal is a write and no read.
    let mut leases = second.door.seen();
    leases.retain(|seen| seen.path.contains("/leases"));
    let (writes, reads): (Vec<_>, Vec<_>) = leases
        .iter()
        .skip_while(|seen| seen.method != http::Method::PUT)
        .partition(|seen| seen.method == http::Method::PUT);
    assert!(
        reads.len() * 2 < writes.len(),
        "{} writes, reads: {reads:?}",
        writes.len()
    );
}
