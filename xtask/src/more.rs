//! `more`: the long lanes, for as long as one likes.
//!
//! A lane runs in rounds. Without a budget every lane runs all of its rounds. With `BUDGET_S` the lanes take
//! turns, one round each, until the budget is used up; the commit's hash decides with which lane the turn
//! begins and which seeds are drawn, so that runs in a row cover different ground. A round that the budget
//! cuts off is no failure; a test that failed in it is.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::build::{self, Built, Part, TestProgram};
use crate::runner::{self, Settings};
use crate::{Result, lanes, steps};

/// One line a lane.
struct LongLane {
    name: &'static str,
    /// Empty: every package of the fast lane.
    packages: &'static [&'static str],
    /// Only the tests whose names begin so; empty: all.
    only: &'static [&'static str],
    /// Of one round; its first seed is handed on as `QUORATE_SEED_FIRST`.
    seeds: Seeds,
    /// Cases of one property test, handed on as `PROPTEST_CASES`.
    cases: u64,
    /// What makes these tests long ones: variables that they read.
    environment: &'static [(&'static str, &'static str)],
    /// Programs at the same time, and tests at the same time in each.
    at_once: usize,
    /// Rounds when there is no budget.
    rounds: u64,
    /// One test that takes half an hour and more: no budget has room for it.
    endless: bool,
}

/// The seeds of a round.
#[derive(Clone, Copy)]
enum Seeds {
    /// These tests draw nothing.
    None,
    /// Each test takes as many as in `make test`, this many at most.
    Usual { most: u64 },
    /// So many, handed on as `QUORATE_SEEDS`.
    Count(u64),
}

impl Seeds {
    /// How far the first seeds of two rounds are apart.
    fn stride(self) -> u64 {
        match self {
            Seeds::None => 0,
            Seeds::Usual { most: count } | Seeds::Count(count) => count,
        }
    }
}

const LONG_LANES: &[LongLane] = &[
    LongLane {
        name: "properties",
        packages: &[],
        only: &[],
        seeds: Seeds::Usual { most: 3_000 },
        cases: 2_000,
        environment: &[],
        at_once: 2,
        rounds: 5,
        endless: false,
    },
    // Whole clusters under new seeds.
    LongLane {
        name: "simulation",
        packages: &["sim"],
        only: &[],
        seeds: Seeds::Count(100),
        cases: 256,
        environment: &[],
        at_once: 2,
        rounds: 5,
        endless: false,
    },
    // Other kills than those of `make test`, for longer.
    LongLane {
        name: "history",
        packages: &["robustness"],
        only: &["a_history"],
        seeds: Seeds::Count(1),
        cases: 0,
        environment: &[("QUORATE_HISTORY_S", "120")],
        at_once: 1,
        rounds: 5,
        endless: false,
    },
    // Other walks than those of `make test`, and longer ones.
    LongLane {
        name: "walks",
        packages: &["robustness"],
        only: &["walks::"],
        seeds: Seeds::Count(4),
        cases: 0,
        environment: &[
            ("QUORATE_WALKS", "4"),
            ("QUORATE_WALK_STEPS", "30"),
            ("QUORATE_WALK_S", "150"),
        ],
        at_once: 1,
        rounds: 5,
        endless: false,
    },
    // Membership calls in every situation, on etcd and on ours.
    LongLane {
        name: "table",
        packages: &["e2e"],
        only: &["membership::table"],
        seeds: Seeds::None,
        cases: 0,
        environment: &[("QUORATE_TABLE", "all")],
        at_once: 1,
        rounds: 1,
        endless: false,
    },
    // The plan under two faults and two wishes, as far as the time goes.
    LongLane {
        name: "planner",
        packages: &["planner"],
        only: &["model::the_plan_never"],
        seeds: Seeds::None,
        cases: 0,
        environment: &[
            ("QUORATE_MODEL_FAULTS", "2"),
            ("QUORATE_MODEL_WISHES", "2"),
            ("QUORATE_MODEL_S", "45"),
            ("QUORATE_MODEL_STATES", "100000"),
        ],
        at_once: 2,
        rounds: 1,
        endless: false,
    },
    // etcd's own suites, in all their shapes.
    LongLane {
        name: "common",
        packages: &["conformance"],
        only: &[],
        seeds: Seeds::None,
        cases: 0,
        environment: &[("QUORATE_COMMON", "whole")],
        at_once: 1,
        rounds: 1,
        endless: false,
    },
    // The whole load under a Kubernetes API server, on ours and on etcd, with the figures of both.
    LongLane {
        name: "kube",
        packages: &["kubetest"],
        only: &["an_api_server"],
        seeds: Seeds::None,
        cases: 0,
        environment: &[("QUORATE_KUBE", "whole")],
        at_once: 1,
        rounds: 1,
        endless: false,
    },
    // The API-server lane whole: the operator's longer lives, with the API server on three members of ours.
    LongLane {
        name: "operator",
        packages: &["kubetest"],
        only: lanes::OF_THE_OPERATOR,
        seeds: Seeds::Count(4),
        cases: 0,
        environment: &[
            ("QUORATE_OPERATOR", "whole"),
            ("QUORATE_KUBE_STORE", "ours"),
        ],
        at_once: 3,
        rounds: 1,
        endless: false,
    },
    // Half an hour without a quorum and without an act.
    LongLane {
        name: "operator-quiet",
        packages: &["kubetest"],
        only: &["trouble::with_the_quorum_lost"],
        seeds: Seeds::None,
        cases: 0,
        environment: &[
            ("QUORATE_OPERATOR", "whole"),
            ("QUORATE_OPERATOR_QUIET_S", "1800"),
        ],
        at_once: 1,
        rounds: 1,
        endless: true,
    },
    // A life for each change of a whole one, in which the operator ends there.
    LongLane {
        name: "operator-ends",
        packages: &["kubetest"],
        only: &["crash::one_end"],
        seeds: Seeds::None,
        cases: 0,
        environment: &[
            ("QUORATE_OPERATOR", "whole"),
            ("QUORATE_OPERATOR_ENDS", "all"),
        ],
        at_once: 1,
        rounds: 1,
        endless: true,
    },
];

/// Less than this is no time to start a round in.
const ROUND_AT_LEAST: Duration = Duration::from_secs(10);

/// `cargo xtask more [LANE..] [BUDGET_S=600]`
pub(crate) fn command(words: &[String]) -> Result<()> {
    let (chosen, words) = lanes_in(words)?;
    let budget = budget(&words)?;
    lanes::tools_for(&[])?;
    let built = build::everything()?;
    let start = Instant::now();
    let deadline = budget.map(|budget| start + budget);
    let turn = lanes::turn_of_commit();
    println!(
        "== more: commit {}, begins with lane {}",
        steps::commit().unwrap_or_else(|| "unknown".into()),
        order(turn, &chosen)[0].name
    );

    let mut ran: Vec<Ran> = Vec::new();
    let mut round = 0;
    'turns: loop {
        let mut any = false;
        for lane in order(turn, &chosen) {
            // What has failed is found; the others still have their turn.
            let failed = ran
                .iter()
                .any(|one| one.lane == lane.name && one.failed > 0);
            if failed
                || match deadline {
                    Some(_) => lane.endless,
                    None => round >= lane.rounds,
                }
            {
                continue;
            }
            if deadline.is_some_and(|deadline| Instant::now() + ROUND_AT_LEAST > deadline) {
                break 'turns;
            }
            any = true;
            ran.push(run_round(lane, round, turn, deadline, &built)?);
        }
        if !any {
            break;
        }
        round += 1;
    }
    close(&ran, start.elapsed(), lanes::all_or_fail())
}

/// The lanes that are named, all of them when none is; and the other words.
fn lanes_in(words: &[String]) -> Result<(Vec<String>, Vec<String>)> {
    let (others, chosen): (Vec<String>, Vec<String>) =
        words.iter().cloned().partition(|word| word.contains('='));
    let known = |name: &String| LONG_LANES.iter().any(|lane| lane.name == *name);
    if let Some(unknown) = chosen.iter().find(|name| !known(name)) {
        let names: Vec<&str> = LONG_LANES.iter().map(|lane| lane.name).collect();
        let names = names.join(", ");
        return Err(format!("unknown lane {unknown:?}, expected {names}"));
    }
    Ok((chosen, others))
}

/// The chosen lanes, from the one that the commit points at.
fn order(turn: u64, chosen: &[String]) -> Vec<&'static LongLane> {
    let first = usize::try_from(turn % LONG_LANES.len() as u64)
        .expect("a remainder of a small number is small");
    LONG_LANES[first..]
        .iter()
        .chain(&LONG_LANES[..first])
        .filter(|lane| chosen.is_empty() || chosen.iter().any(|name| name == lane.name))
        .collect()
}

/// One round of one lane, done.
struct Ran {
    lane: &'static str,
    took: Duration,
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Tests that could not run, and why.
    left_out: Vec<String>,
    cut: bool,
}

fn run_round(
    lane: &'static LongLane,
    round: u64,
    turn: u64,
    deadline: Option<Instant>,
    built: &Built,
) -> Result<Ran> {
    let programs: Vec<TestProgram> = match lane.packages {
        [] => lanes::fast_programs(built)?,
        names => built
            .tests
            .iter()
            .filter(|test| names.contains(&test.package.as_str()))
            .map(|test| TestProgram {
                part: match lane.only {
                    [] => test.part.clone(),
                    only => Part::Only(only.to_vec()),
                },
                ..test.clone()
            })
            .collect(),
    };
    if programs.is_empty() {
        return Err(format!(
            "the long lane {} has no tests; correct xtask/src/more.rs",
            lane.name
        ));
    }
    let chosen = variables(lane, round, turn);
    let words: Vec<String> = chosen
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    println!(
        "== more: lane {}, round {round}: {}",
        lane.name,
        words.join(" ")
    );
    let mut environment = lanes::environment(built);
    environment.extend(chosen);
    let notes = lanes::LeftOut::new(lane.name)?;
    environment.push(notes.variable());
    let figures = std::env::temp_dir().join(format!(
        "quorate-figures-{}-{}",
        lane.name,
        std::process::id()
    ));
    environment.push(("QUORATE_FIGURES".into(), figures.display().to_string()));
    let start = Instant::now();
    let settings = Settings {
        deadline,
        at_once: lane.at_once,
        threads: lane.at_once,
        environment: &environment,
    };
    let outcomes = runner::run(&programs, &settings, lanes::print_outcome)?;
    // What tests measured, when they did.
    if let Ok(text) = fs::read_to_string(&figures) {
        print!("{text}");
        let _ = fs::remove_file(&figures);
    }
    let left_out = notes.read()?;
    let passed: usize = outcomes.iter().map(|one| one.passed).sum();
    let ignored: usize = outcomes.iter().map(|one| one.ignored).sum();
    Ok(Ran {
        lane: lane.name,
        took: start.elapsed(),
        // A test that left itself out returned without a complaint, so the harness counted it as passed.
        passed: passed.saturating_sub(left_out.len()),
        failed: outcomes.iter().map(|one| one.failed).sum(),
        skipped: ignored + left_out.len(),
        left_out,
        cut: outcomes.iter().any(|one| one.unfinished > 0),
    })
}

/// What a round says to its tests.
fn variables(lane: &LongLane, round: u64, turn: u64) -> Vec<(String, String)> {
    let mut chosen: Vec<(String, String)> = Vec::new();
    if let Seeds::Count(count) = lane.seeds {
        chosen.push(("QUORATE_SEEDS".into(), count.to_string()));
    }
    if lane.seeds.stride() > 0 {
        let first = first_seed(lane.seeds, round, turn);
        chosen.push(("QUORATE_SEED_FIRST".into(), first.to_string()));
        chosen.push(("PROPTEST_CASES".into(), lane.cases.to_string()));
    }
    for (name, value) in lane.environment {
        chosen.push(((*name).to_owned(), (*value).to_owned()));
    }
    chosen
}

/// Far from the seeds of `make test`, which begin at 0 or 1, and short enough to be typed.
fn first_seed(seeds: Seeds, round: u64, turn: u64) -> u64 {
    1_000_000 + (turn % 1_000_000) * 20_000 + round * seeds.stride()
}

/// Fails when a test failed, and under `QUORATE_TESTS=all` (`all_or_fail`) when one was left out.
fn close(ran: &[Ran], took: Duration, all_or_fail: bool) -> Result<()> {
    println!("\nmore: what ran, in {:.0} s", took.as_secs_f64());
    for lane in LONG_LANES {
        let rounds: Vec<&Ran> = ran.iter().filter(|round| round.lane == lane.name).collect();
        if rounds.is_empty() {
            println!("more: lane {}: not run", lane.name);
            continue;
        }
        let seconds: f64 = rounds.iter().map(|round| round.took.as_secs_f64()).sum();
        let sum = |of: fn(&Ran) -> usize| rounds.iter().map(|round| of(round)).sum::<usize>();
        let (passed, failed) = (sum(|round| round.passed), sum(|round| round.failed));
        let cut = if rounds.iter().any(|round| round.cut) {
            ", the last one cut off by the budget"
        } else {
            ""
        };
        println!(
            "more: lane {}: {} rounds{cut}, {seconds:.0} s, tests that passed {passed}, that failed {failed}, that were left out {}",
            lane.name,
            rounds.len(),
            sum(|round| round.skipped)
        );
        // Every round says the same.
        let said: BTreeSet<&String> = rounds.iter().flat_map(|round| &round.left_out).collect();
        for left_out in said {
            println!("more: lane {}: left out: {left_out}", lane.name);
        }
    }
    let failed: usize = ran.iter().map(|round| round.failed).sum();
    let skipped: usize = ran.iter().map(|round| round.skipped).sum();
    match (failed, skipped) {
        (1.., _) => Err(format!("{failed} tests of the long lanes failed")),
        (0, 1..) if all_or_fail => {
            Err("QUORATE_TESTS=all, and tests of the long lanes were left out".into())
        }
        (0, _) => Ok(()),
    }
}

fn budget(words: &[String]) -> Result<Option<Duration>> {
    let mut value = std::env::var("BUDGET_S")
        .ok()
        .filter(|value| !value.is_empty());
    for word in words {
        let given = word
            .strip_prefix("BUDGET_S=")
            .ok_or_else(|| format!("unknown argument {word:?}, expected BUDGET_S=seconds"))?;
        value = Some(given.to_owned());
    }
    let Some(value) = value else { return Ok(None) };
    let seconds = value
        .parse()
        .map_err(|_| format!("BUDGET_S is {value:?}, expected a number of seconds"))?;
    Ok(Some(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_its_turn_wherever_the_turn_begins() {
        for turn in 0..7 {
            let mut names: Vec<&str> = order(turn, &[]).iter().map(|lane| lane.name).collect();
            names.sort_unstable();
            let mut all: Vec<&str> = LONG_LANES.iter().map(|lane| lane.name).collect();
            all.sort_unstable();
            assert_eq!(names, all);
        }
    }

    #[test]
    fn each_round_draws_seeds_of_its_own() {
        for lane in LONG_LANES.iter().filter(|lane| lane.seeds.stride() > 0) {
            let of = |round, turn| {
                let first = first_seed(lane.seeds, round, turn);
                let said = ("QUORATE_SEED_FIRST".to_owned(), first.to_string());
                assert!(
                    variables(lane, round, turn).contains(&said),
                    "{}",
                    lane.name
                );
                first..first + lane.seeds.stride()
            };
            let mut all: Vec<_> = (0..3)
                .flat_map(|turn| (0..lane.rounds).map(move |round| (round, turn)))
                .map(|(round, turn)| of(round, turn))
                .collect();
            all.sort_by_key(|seeds| seeds.start);
            assert!(all[0].start > 100_000, "`make test` has the small ones");
            for two in all.windows(2) {
                assert!(two[0].end <= two[1].start, "{}: {two:?}", lane.name);
            }
        }
    }

    /// A module of the operator's tests that nobody names would run in the lane `kube`, whose tools it may lack.
    #[test]
    fn every_module_of_the_operators_tests_is_in_its_lanes() {
        let main = crate::place::workspace().join("tests/kube/tests/operator/main.rs");
        let folder = main.parent().expect("a file lies in a folder");
        let text = fs::read_to_string(&main).expect("a file of the workspace");
        let modules = text.lines().filter_map(|line| {
            let name = line.strip_prefix("mod ")?.strip_suffix(';')?;
            let has_tests = fs::read_to_string(folder.join(format!("{name}.rs")))
                .is_ok_and(|text| text.contains("#[test]"));
            has_tests.then(|| format!("{name}::"))
        });
        let mut modules: Vec<String> = modules.collect();
        // `make bench-operator` runs it.
        modules.retain(|name| name != "bench::");
        assert_eq!(modules, lanes::OF_THE_OPERATOR);
    }

    #[test]
    fn a_test_that_is_left_out_did_not_pass_and_fails_where_all_must_run() {
        let ran = |failed, skipped| Ran {
            lane: LONG_LANES[0].name,
            took: Duration::from_secs(1),
            passed: 3,
            failed,
            skipped,
            left_out: vec!["bbolt: not there".to_owned(); skipped],
            cut: false,
        };
        let close = |failed, skipped, all| close(&[ran(failed, skipped)], Duration::ZERO, all);
        assert!(close(0, 0, true).is_ok());
        assert!(close(0, 1, false).is_ok());
        assert!(close(0, 1, true).is_err());
        assert!(close(1, 0, false).is_err());
    }

    #[test]
    fn a_budget_is_seconds() {
        let words = |word: &str| vec![word.to_owned()];
        assert_eq!(
            budget(&words("BUDGET_S=600")),
            Ok(Some(Duration::from_secs(600)))
        );
        assert!(budget(&words("BUDGET_S=ten")).is_err());
        assert!(budget(&words("600")).is_err());
    }
}
