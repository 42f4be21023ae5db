//! The table: the same steps on etcd and on ours, in every situation. The verdicts are the same
//! wherever the rules agree; where ours is stricter, etcd takes the step and ours says why not.
//!
//! A situation's steps go from first to last on one cluster. One that is allowed is undone where
//! that is possible; the others stand last.

use std::sync::Mutex;
use std::time::Duration;

use testkit::{Cluster, Etcdctl, Kind, Member, Spec, eventually, left_out};

use crate::documented;

use super::{MISSING, NOBODY, NOT_ENOUGH_STARTED, add_learner, id_of, verdict, wait_connected};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// An unstarted voter is added, and removed again if that was allowed.
    AddVoter,
    /// The same, and it stays.
    AddVoterToStay,
    /// An unstarted learner is added, and removed again if that was allowed.
    AddLearner,
    /// The same, and it stays.
    AddLearnerToStay,
    /// A learner that never started is promoted.
    PromoteUnstarted,
    PromoteLearner,
    PromoteVoter,
    PromoteUnknown,
    RemoveAdded,
    RemoveHealthy,
    RemoveAsked,
    RemoveDead,
    RemoveUnknown,
    UpdateUnknown,
    /// To the URL of another member.
    UpdateToTaken,
}

use Step::{
    AddLearner, AddLearnerToStay, AddVoter, AddVoterToStay, PromoteLearner, PromoteUnknown,
    PromoteUnstarted, PromoteVoter, RemoveAdded, RemoveAsked, RemoveDead, RemoveHealthy,
    RemoveUnknown, UpdateToTaken, UpdateUnknown,
};

impl Step {
    /// As the document says it.
    fn words(self) -> &'static str {
        match self {
            AddVoter => "add a voter",
            AddVoterToStay => "add a voter to stay",
            AddLearner => "add a learner",
            AddLearnerToStay => "add a learner to stay",
            PromoteUnstarted => "promote a learner that has not started",
            PromoteLearner => "promote the learner",
            PromoteVoter => "promote a voter",
            PromoteUnknown => "promote an unknown member",
            RemoveAdded => "remove the added member",
            RemoveHealthy => "remove a healthy voter",
            RemoveAsked => "remove the one that is asked",
            RemoveDead => "remove the dead one",
            RemoveUnknown => "remove an unknown member",
            UpdateUnknown => "update an unknown member",
            UpdateToTaken => "give it the URL of another",
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Ours says what etcd says; this is it.
    Both(&'static str),
    /// etcd takes the step, ours says this.
    Stricter(&'static str),
    /// The caller's time runs out; etcd may say in that moment that nobody leads.
    NobodyLeads,
}

use Expected::{Both, NobodyLeads, Stricter};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Learner {
    None,
    Alive,
    Dead,
}

struct Situation {
    name: &'static str,
    voters: usize,
    dead: usize,
    learner: Learner,
    /// For both.
    flags: &'static [&'static str],
    /// For ours alone.
    ours: &'static [&'static str],
    /// Asked at the leader, or at a follower.
    at_leader: bool,
    rows: &'static [(Step, Expected)],
    /// Left to a run with `QUORATE_TABLE=all`.
    long: bool,
}

const UNHEALTHY: &str = "etcdserver: unhealthy cluster";
const NOT_FOUND: &str = "etcdserver: member not found";
const NOT_A_LEARNER: &str = "etcdserver: can only promote a learner member";
const NOT_READY: &str =
    "etcdserver: can only promote a learner member which is in sync with leader";
const TOO_MANY: &str = "etcdserver: too many learner members in cluster";
const TAKEN: &str = "etcdserver: Peer URLs already exists";
const TIMED_OUT: &str = "context deadline exceeded";
const NO_LEADER: &str = "etcdserver: no leader";
const FATAL: &str = "would become fatal";
const NO_STRICT_CHECK: &[&str] = &["--strict-reconfig-check=false"];

const WHOLE: Situation = Situation {
    name: "",
    voters: 3,
    dead: 0,
    learner: Learner::None,
    flags: &[],
    ours: &[],
    at_leader: false,
    rows: &[],
    long: false,
};

const SITUATIONS: &[Situation] = &[
    Situation {
        name: "one voter",
        voters: 1,
        rows: &[
            (RemoveUnknown, Both(NOT_FOUND)),
            (UpdateUnknown, Both(NOT_FOUND)),
            (PromoteUnknown, Both(NOT_FOUND)),
            (PromoteVoter, Both(NOT_A_LEARNER)),
            (RemoveAsked, Both(NOT_ENOUGH_STARTED)),
            (AddLearnerToStay, Both("ok")),
            (AddLearner, Both(TOO_MANY)),
            (PromoteUnstarted, Both(NOT_READY)),
            (RemoveAdded, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "one voter, and one that has not started",
        voters: 1,
        rows: &[
            (AddVoterToStay, Both("ok")),
            (RemoveAsked, Both(NOT_ENOUGH_STARTED)),
            (AddVoter, Both(NOT_ENOUGH_STARTED)),
        ],
        ..WHOLE
    },
    Situation {
        name: "two voters",
        voters: 2,
        rows: &[
            (AddVoter, Both("ok")),
            (AddLearner, Both("ok")),
            (RemoveHealthy, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "two voters, one dead",
        voters: 2,
        dead: 1,
        rows: &[
            (AddVoter, Both(UNHEALTHY)),
            (AddLearner, Both(UNHEALTHY)),
            (RemoveAsked, Both(UNHEALTHY)),
            (RemoveDead, Both(TIMED_OUT)),
        ],
        ..WHOLE
    },
    Situation {
        name: "three voters",
        rows: &[
            (RemoveUnknown, Both(NOT_FOUND)),
            (PromoteUnknown, Both(NOT_FOUND)),
            (PromoteVoter, Both(NOT_A_LEARNER)),
            (UpdateToTaken, Both(TAKEN)),
            (AddLearner, Both("ok")),
            (AddVoter, Both("ok")),
            (RemoveHealthy, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "three voters, one dead",
        dead: 1,
        at_leader: true,
        rows: &[
            (AddVoter, Both(UNHEALTHY)),
            (AddLearner, Both(UNHEALTHY)),
            (RemoveHealthy, Both(UNHEALTHY)),
            (RemoveAsked, Both(UNHEALTHY)),
            (RemoveDead, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "three voters, two dead",
        dead: 2,
        rows: &[
            (AddVoter, Both(UNHEALTHY)),
            (AddLearner, Both(UNHEALTHY)),
            (RemoveAsked, Both(UNHEALTHY)),
            (RemoveDead, Both(TIMED_OUT)),
        ],
        ..WHOLE
    },
    Situation {
        name: "three voters and a learner",
        learner: Learner::Alive,
        rows: &[(AddLearner, Both(TOO_MANY)), (PromoteLearner, Both("ok"))],
        ..WHOLE
    },
    Situation {
        name: "three voters and a dead learner",
        learner: Learner::Dead,
        rows: &[(PromoteLearner, Stricter("is not connected"))],
        ..WHOLE
    },
    Situation {
        name: "three voters, one dead, and a learner",
        dead: 1,
        learner: Learner::Alive,
        at_leader: true,
        rows: &[(PromoteLearner, Stricter(FATAL))],
        ..WHOLE
    },
    Situation {
        name: "three voters and a dead learner, etcd's rule alone",
        learner: Learner::Dead,
        ours: &["--quorate-membership-rule=etcd"],
        rows: &[(PromoteLearner, Both("ok"))],
        ..WHOLE
    },
    Situation {
        name: "three voters, one dead, no strict check",
        dead: 1,
        flags: NO_STRICT_CHECK,
        rows: &[
            (RemoveUnknown, Both(NOT_FOUND)),
            (AddLearner, Both("ok")),
            (AddVoterToStay, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "five voters, one dead",
        voters: 5,
        dead: 1,
        rows: &[
            (AddLearner, Both("ok")),
            (AddVoter, Stricter(FATAL)),
            (RemoveHealthy, Stricter(FATAL)),
        ],
        ..WHOLE
    },
    Situation {
        name: "four voters, one dead",
        voters: 4,
        dead: 1,
        long: true,
        rows: &[
            (AddLearner, Both("ok")),
            (AddVoter, Both("ok")),
            (RemoveDead, Both("ok")),
            (RemoveHealthy, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "five voters, two dead",
        voters: 5,
        dead: 2,
        rows: &[
            (AddLearner, Both(UNHEALTHY)),
            (AddVoter, Both(UNHEALTHY)),
            (RemoveHealthy, Both(UNHEALTHY)),
            (RemoveDead, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "five voters, one dead, and a learner",
        voters: 5,
        dead: 1,
        learner: Learner::Alive,
        long: true,
        rows: &[(PromoteLearner, Both("ok"))],
        ..WHOLE
    },
    Situation {
        name: "five voters, one dead, etcd's rule alone",
        voters: 5,
        dead: 1,
        ours: &["--quorate-membership-rule=etcd"],
        long: true,
        rows: &[(AddVoter, Both("ok")), (RemoveHealthy, Both("ok"))],
        ..WHOLE
    },
    Situation {
        name: "four voters",
        voters: 4,
        long: true,
        rows: &[
            (AddLearner, Both("ok")),
            (AddVoter, Both("ok")),
            (RemoveHealthy, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "four voters, two dead",
        voters: 4,
        dead: 2,
        long: true,
        rows: &[
            (AddVoter, Both(UNHEALTHY)),
            (AddLearner, Both(UNHEALTHY)),
            (RemoveHealthy, Both(UNHEALTHY)),
            (RemoveAsked, Both(UNHEALTHY)),
            (RemoveDead, Both(TIMED_OUT)),
        ],
        ..WHOLE
    },
    Situation {
        name: "five voters",
        voters: 5,
        long: true,
        rows: &[
            (PromoteVoter, Both(NOT_A_LEARNER)),
            (UpdateToTaken, Both(TAKEN)),
            (AddLearner, Both("ok")),
            (AddVoter, Both("ok")),
            (RemoveHealthy, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "one voter and a learner",
        voters: 1,
        learner: Learner::Alive,
        long: true,
        rows: &[
            (AddLearner, Both(TOO_MANY)),
            (RemoveAsked, Both(NOT_ENOUGH_STARTED)),
            (PromoteLearner, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "two voters and a learner",
        voters: 2,
        learner: Learner::Alive,
        long: true,
        rows: &[
            (AddLearner, Both(TOO_MANY)),
            (AddVoter, Both("ok")),
            (PromoteLearner, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "two voters and a dead learner",
        voters: 2,
        learner: Learner::Dead,
        long: true,
        rows: &[(PromoteLearner, Stricter("is not connected"))],
        ..WHOLE
    },
    Situation {
        name: "two voters, one dead, and a learner",
        voters: 2,
        dead: 1,
        learner: Learner::Alive,
        long: true,
        rows: &[
            (AddVoter, Both(UNHEALTHY)),
            (AddLearner, Both(UNHEALTHY)),
            (RemoveAsked, Both(UNHEALTHY)),
            (PromoteLearner, NobodyLeads),
        ],
        ..WHOLE
    },
    Situation {
        name: "three voters, two dead, and a learner",
        dead: 2,
        learner: Learner::Alive,
        long: true,
        rows: &[(AddLearner, Both(UNHEALTHY)), (PromoteLearner, NobodyLeads)],
        ..WHOLE
    },
    Situation {
        name: "four voters and a learner",
        voters: 4,
        learner: Learner::Alive,
        long: true,
        rows: &[
            (AddLearner, Both(TOO_MANY)),
            (AddVoter, Both("ok")),
            (PromoteLearner, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "four voters, one dead, and a learner",
        voters: 4,
        dead: 1,
        learner: Learner::Alive,
        at_leader: true,
        long: true,
        rows: &[(PromoteLearner, Both("ok"))],
        ..WHOLE
    },
    Situation {
        name: "five voters and a dead learner",
        voters: 5,
        learner: Learner::Dead,
        long: true,
        rows: &[(PromoteLearner, Stricter("is not connected"))],
        ..WHOLE
    },
    Situation {
        name: "five voters, two dead, and a learner",
        voters: 5,
        dead: 2,
        learner: Learner::Alive,
        at_leader: true,
        long: true,
        rows: &[
            (AddVoter, Both(UNHEALTHY)),
            (AddLearner, Both(UNHEALTHY)),
            (RemoveHealthy, Both(UNHEALTHY)),
            (PromoteLearner, Stricter(FATAL)),
        ],
        ..WHOLE
    },
    Situation {
        name: "one voter, no strict check",
        voters: 1,
        flags: NO_STRICT_CHECK,
        long: true,
        rows: &[
            (PromoteVoter, Both(NOT_A_LEARNER)),
            (AddLearnerToStay, Both("ok")),
            (PromoteUnstarted, Both(NOT_READY)),
            (RemoveAdded, Both("ok")),
            (AddVoterToStay, Both("ok")),
        ],
        ..WHOLE
    },
    Situation {
        name: "two voters, one dead, no strict check",
        voters: 2,
        dead: 1,
        flags: NO_STRICT_CHECK,
        long: true,
        rows: &[(AddVoter, Both(TIMED_OUT)), (RemoveDead, Both(TIMED_OUT))],
        ..WHOLE
    },
    Situation {
        name: "three voters and a dead learner, no strict check",
        learner: Learner::Dead,
        flags: NO_STRICT_CHECK,
        long: true,
        rows: &[(AddLearner, Both(TOO_MANY)), (PromoteLearner, Both("ok"))],
        ..WHOLE
    },
    Situation {
        name: "three voters, one dead, and a learner, no strict check",
        dead: 1,
        learner: Learner::Alive,
        flags: NO_STRICT_CHECK,
        at_leader: true,
        long: true,
        rows: &[(PromoteLearner, Both("ok"))],
        ..WHOLE
    },
    Situation {
        name: "three voters, one dead, no strict check, a healthy one leaves",
        dead: 1,
        flags: NO_STRICT_CHECK,
        at_leader: true,
        long: true,
        rows: &[(RemoveHealthy, Both("ok"))],
        ..WHOLE
    },
    Situation {
        name: "five voters, two dead, and a learner, no strict check",
        voters: 5,
        dead: 2,
        learner: Learner::Alive,
        flags: NO_STRICT_CHECK,
        at_leader: true,
        long: true,
        rows: &[(PromoteLearner, Both("ok")), (RemoveDead, Both("ok"))],
        ..WHOLE
    },
    Situation {
        name: "five voters, two dead, no strict check",
        voters: 5,
        dead: 2,
        flags: NO_STRICT_CHECK,
        at_leader: true,
        long: true,
        rows: &[
            (AddLearner, Both("ok")),
            (RemoveDead, Both("ok")),
            (RemoveHealthy, Both("ok")),
        ],
        ..WHOLE
    },
];

/// Situations at work at the same time: each has an etcd cluster and one of ours, and most of
/// the time waits for the health interval.
const AT_ONCE: usize = 4;

#[test]
fn every_step_in_every_situation_has_etcds_verdict_or_a_stricter_one() {
    let long = std::env::var_os("QUORATE_TABLE").is_some_and(|value| value == "all");
    let todo: Vec<&Situation> = SITUATIONS.iter().filter(|s| long || !s.long).collect();
    let queue = Mutex::new(todo.iter());
    let wrong = Mutex::new(Vec::new());
    let missing = Mutex::new(false);
    let said = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no panic holds it").next();
                    let Some(situation) = next else { return };
                    match differences(situation, &said) {
                        Some(mut found) => wrong.lock().expect("as above").append(&mut found),
                        None => *missing.lock().expect("as above") = true,
                    }
                }
            });
        }
    });
    if missing.into_inner().expect("as above") {
        return left_out("membership_table", MISSING);
    }
    let mut wrong = wrong.into_inner().expect("as above");
    let said = said.into_inner().expect("as above");
    wrong.append(&mut undocumented(&said, long));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a step of a situation came to at ours.
type Said = (&'static str, Step, String);

/// Every row of the document is what ours said there, unless only a long run comes there, and every
/// refusal of ours has its row: its own, or that of the same step in another situation.
fn undocumented(said: &[Said], long: bool) -> Vec<String> {
    let rows = documented::table("membership.md", "## What is refused, and what to do");
    let mut wrong = Vec::new();
    for row in &rows {
        let [situation, step, pattern, remedy] = &row[..] else {
            panic!("four cells are expected: {row:?}");
        };
        assert!(!remedy.is_empty(), "no remedy: {row:?}");
        let left_to_a_long_run = SITUATIONS.iter().any(|known| {
            let mut steps = known.rows.iter();
            let asks = known.name == situation && steps.any(|(known, _)| known.words() == step);
            asks && known.long && !long
        });
        let of_row = of_row(said, row);
        if of_row.is_empty() && !left_to_a_long_run {
            wrong.push(format!("{situation}: {step}: nobody asks for it"));
        }
        for (_, _, text) in of_row {
            if !documented::is(text, pattern) {
                wrong.push(format!(
                    "{situation}: {step}: expected\n  {pattern}\nsaid\n  {text}"
                ));
            }
        }
    }
    for one @ (situation, step, text) in said {
        let described =
            |row: &documented::Row| row[1] == step.words() && documented::is(text, &row[2]);
        let own = rows.iter().any(|row| of_row(said, row).contains(&one));
        if text != "ok" && !own && !rows.iter().any(described) {
            wrong.push(format!(
                "{situation}: {step:?}: not in the document: {text}"
            ));
        }
    }
    wrong
}

fn of_row<'a>(said: &'a [Said], row: &documented::Row) -> Vec<&'a Said> {
    let asked = said
        .iter()
        .filter(|(situation, step, _)| *situation == row[0] && step.words() == row[1]);
    asked.collect()
}

fn differences(situation: &Situation, said: &Mutex<Vec<Said>>) -> Option<Vec<String>> {
    let (etcd, ours) = std::thread::scope(|scope| {
        let etcd = scope.spawn(|| verdicts(situation, Kind::Etcd));
        let ours = verdicts(situation, Kind::Quorate);
        (etcd.join().expect("etcd's half of the table"), ours)
    });
    let (etcd, ours) = (etcd?, ours?);
    for ((step, _), text) in situation.rows.iter().zip(&ours) {
        let text = text
            .rsplit_once(" desc = ")
            .map_or(&text[..], |(_, text)| text);
        let mut said = said.lock().expect("no panic holds it");
        said.push((situation.name, *step, text.to_owned()));
    }
    let mut wrong = Vec::new();
    for (at, (step, expected)) in situation.rows.iter().enumerate() {
        let (etcd, ours) = (&etcd[at], &ours[at]);
        let fine = match expected {
            Both(text) => etcd.contains(text) && ours == etcd,
            Stricter(text) => {
                etcd == "ok"
                    && ours.contains("= FailedPrecondition desc = quorate: ")
                    && ours.contains(text)
            }
            NobodyLeads => {
                ours.contains(TIMED_OUT)
                    && [TIMED_OUT, NO_LEADER]
                        .iter()
                        .any(|text| etcd.contains(text))
            }
        };
        if !fine {
            wrong.push(format!(
                "{}: {step:?}\n  expected {expected:?}\n  etcd     {etcd}\n  ours     {ours}",
                situation.name
            ));
        }
    }
    Some(wrong)
}

fn verdicts(situation: &Situation, kind: Kind) -> Option<Vec<String>> {
    let mut flags: Vec<String> = situation
        .flags
        .iter()
        .map(|&flag| flag.to_owned())
        .collect();
    if kind == Kind::Quorate {
        flags.extend(situation.ours.iter().map(|&flag| flag.to_owned()));
    }
    let spec = Spec {
        kinds: vec![kind; situation.voters],
        flags: flags.clone(),
    };
    let mut cluster = Cluster::start(&spec)?;
    wait_connected(&cluster);
    let leader = cluster.leader();
    let learner = (situation.learner != Learner::None)
        .then(|| add_learner(&mut cluster, kind, &flags, leader));
    if learner.is_some() {
        wait_connected(&cluster);
    }
    if situation.learner == Learner::Dead {
        cluster.members[learner.expect("added just now")].kill();
    }
    let mut followers = (0..situation.voters).filter(|index| *index != leader);
    let dead: Vec<usize> = followers.by_ref().take(situation.dead).collect();
    let healthy = followers.next();
    for &index in &dead {
        cluster.members[index].kill();
    }
    if situation.dead * 2 >= situation.voters {
        wait_leaderless(&cluster.members[healthy.unwrap_or(leader)]);
    }
    let asked = match healthy {
        Some(follower) if !situation.at_leader => follower,
        _ => leader,
    };
    let mut field = Field {
        asked: cluster.members[asked].etcdctl(),
        cluster,
        asked_index: asked,
        // Not the asked one; the leader where there is no other.
        healthy: followers
            .next()
            .or(healthy)
            .filter(|index| *index != asked)
            .unwrap_or(leader),
        dead,
        learner,
        added: None,
        adds: 0,
    };
    Some(
        situation
            .rows
            .iter()
            .map(|(step, _)| field.take(*step))
            .collect(),
    )
}

struct Field {
    cluster: Cluster,
    asked: Etcdctl,
    asked_index: usize,
    healthy: usize,
    dead: Vec<usize>,
    learner: Option<usize>,
    added: Option<String>,
    adds: usize,
}

impl Field {
    fn take(&mut self, step: Step) -> String {
        match step {
            AddVoter => self.add(&["add", "added"], false),
            AddVoterToStay => self.add(&["add", "added"], true),
            AddLearner => self.add(&["add", "added", "--learner"], false),
            AddLearnerToStay => self.add(&["add", "added", "--learner"], true),
            PromoteUnstarted => self.on("promote", self.added.as_deref().expect("added before")),
            RemoveAdded => {
                let added = self.added.take().expect("added before");
                self.on("remove", &added)
            }
            PromoteLearner => self.on("promote", &self.id(self.learner.expect("there is one"))),
            PromoteVoter => self.on("promote", &self.id(self.asked_index)),
            PromoteUnknown => self.on("promote", "1"),
            RemoveHealthy => self.on("remove", &self.id(self.healthy)),
            RemoveAsked => self.on("remove", &self.id(self.asked_index)),
            RemoveDead => self.on("remove", &self.id(self.dead[0])),
            RemoveUnknown => self.on("remove", "1"),
            UpdateUnknown => verdict(
                &self.asked,
                &["update", "1", &format!("--peer-urls={NOBODY}")],
            ),
            UpdateToTaken => {
                let taken = format!(
                    "--peer-urls={}",
                    self.cluster.members[self.healthy].peer_url
                );
                verdict(&self.asked, &["update", &self.id(self.asked_index), &taken])
            }
        }
    }

    fn add(&mut self, arguments: &[&str], to_stay: bool) -> String {
        // An ID is made of URL and second, and a removed one never comes back.
        self.adds += 1;
        let url = format!("{NOBODY}{}", self.adds);
        let urls = format!("--peer-urls={url}");
        let said = verdict(&self.asked, &[arguments, &[&urls]].concat());
        if said == "ok" {
            let id = id_of(&self.asked, &url);
            if to_stay {
                self.added = Some(id);
            } else {
                let undone = self.on("remove", &id);
                assert_eq!(undone, "ok", "an added member could not be removed again");
            }
        }
        said
    }

    fn on(&self, verb: &str, id: &str) -> String {
        verdict(&self.asked, &[verb, id])
    }

    fn id(&self, index: usize) -> String {
        id_of(&self.asked, &self.cluster.members[index].peer_url)
    }
}

/// A leader without a quorum steps down within an election time-out.
fn wait_leaderless(member: &Member) {
    eventually("the leader's end", Duration::from_secs(20), || {
        let json = member.etcdctl().json(&["endpoint", "status"]);
        match json[0]["Status"]["leader"].as_u64() {
            None | Some(0) => Ok(()),
            Some(leader) => Err(format!("{leader:x} leads")),
        }
    });
}
