//! `ci`: check, tools, one build, then the lanes, each within its budget, and one closing line.
//!
//! A lane is a set of test packages with a budget of wall time that the runner enforces: at its end the lane's
//! programs are killed, the lane fails, and its slowest tests are named. A slow suite is a broken suite.
//!
//! How a test says that it could not run (see `QUORATE_LEFT_OUT` in CONTRIBUTING.md): it appends one line,
//! `name<TAB>reason`, to the file that the environment variable names, and returns. It counts as skipped.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::build::{self, Built, Part, TestProgram};
use crate::runner::{self, Outcome, Settings, Timed};
use crate::{Result, check, place, steps, tools};

/// Tests that share a budget.
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    /// Wall time on two cores, with the tests built.
    budget_s: u64,
    packages: Packages,
    /// Toolsets of `make tools` (tools.rs) without which the lane is left out whole.
    needs: &'static [&'static str],
    /// Programs at the same time; tests at the same time in each.
    at_once: usize,
    threads: usize,
}

enum Packages {
    /// All packages of the workspace that no other lane names.
    Rest,
    /// These, but the modules that other lanes name.
    These(&'static [&'static str]),
    /// Modules of packages, by the beginnings of their tests' names.
    Modules(&'static [(&'static str, &'static [&'static str])]),
}

/// Every test of the workspace is in exactly one lane; a lane that names a package that is not there fails.
const LANES: &[Lane] = &[
    // Unit, property, script, crash and simulation tests: pure work, so both cores may have their fill.
    Lane {
        name: "fast",
        budget_s: 240,
        packages: Packages::Rest,
        needs: &[],
        at_once: 2,
        threads: 2,
    },
    // Real members, etcd's tools, kill -9.
    Lane {
        name: "store",
        budget_s: 240,
        packages: Packages::These(&["e2e"]),
        needs: &["etcd"],
        at_once: 1,
        threads: 2,
    },
    // Membership calls, and short walks through memberships under load: most of it waits until members count as
    // connected.
    Lane {
        name: "membership",
        budget_s: 120,
        packages: Packages::Modules(&[
            (
                "e2e",
                &[
                    "membership::",
                    "identity::",
                    "start::",
                    "explain::",
                    "recover::",
                ],
            ),
            ("robustness", &["walks::"]),
        ]),
        needs: &["etcd"],
        at_once: 2,
        threads: 3,
    },
    // A minute of kills, judged by a checker that knows nothing of ours.
    Lane {
        name: "history",
        budget_s: 120,
        packages: Packages::These(&["robustness"]),
        needs: &["etcd", "history"],
        at_once: 1,
        threads: 1,
    },
    // etcd's own suite, each function in its quickest shape; its ports are fixed, so one after the other.
    Lane {
        name: "conformance",
        budget_s: 120,
        packages: Packages::These(&["conformance"]),
        needs: &["etcd", "etcd-common"],
        at_once: 1,
        threads: 1,
    },
    // A Kubernetes API server on three members, which fill both cores: one test after the other.
    Lane {
        name: "kube",
        budget_s: 120,
        packages: Packages::These(&["kubetest"]),
        needs: &["etcd", "kube", "kubeload"],
        at_once: 1,
        threads: 1,
    },
    // The operator, its kinds and its charts under one API server, with members as processes; most of the time
    // they wait for five seconds of health.
    Lane {
        name: "operator",
        budget_s: 240,
        packages: Packages::Modules(&[("kubetest", OF_THE_OPERATOR)]),
        needs: &["etcd", "helm", "kube", "kubeload"],
        at_once: 1,
        threads: 6,
    },
];

/// Modules of the API-server lane: of `make test` in a bounded form, of `make more` and `make test-kube` whole.
pub(crate) const OF_THE_OPERATOR: &[&str] = &[
    "charts::",
    "crash::",
    "docs::",
    "kinds::",
    "life::",
    "news::",
    "plugin::",
    "specs::",
    "standin::",
    "trouble::",
];

/// How many of the slowest tests a lane names when it is over budget, and how many when it is not.
const SLOWEST_OVER_BUDGET: usize = 10;
const SLOWEST: usize = 3;

/// A test faster than this is not worth a line.
const SLOW: Duration = Duration::from_secs(2);

/// `cargo xtask ci [LANE..]`
pub(crate) fn command(chosen: &[String]) -> Result<()> {
    let start = Instant::now();
    if let Some(unknown) = chosen
        .iter()
        .find(|name| LANES.iter().all(|lane| lane.name != **name))
    {
        let names: Vec<&str> = LANES.iter().map(|lane| lane.name).collect();
        return Err(format!(
            "unknown lane {unknown:?}, expected {}",
            names.join(", ")
        ));
    }
    check::command()?;
    let missing = tools_for(chosen)?;
    if missing.is_empty() {
        println!("== tools: {}", place::tools_dir().display());
    }
    let built = build::everything()?;

    let mut sum = Sum::default();
    for lane in LANES
        .iter()
        .filter(|lane| chosen.is_empty() || chosen.iter().any(|name| name == lane.name))
    {
        let programs = programs_of(lane, &built)?;
        if let Some(reason) = lane.needs.iter().find_map(|name| missing.get(name)) {
            let tests = programs
                .iter()
                .map(runner::list)
                .collect::<Result<Vec<_>>>()?
                .concat()
                .len();
            sum.skipped += tests;
            sum.left_out
                .push(format!("lane {} with {tests} tests: {reason}", lane.name));
            continue;
        }
        run_lane(lane, &programs, &built, &mut sum)?;
    }
    sum.close(start.elapsed(), all_or_fail())
}

/// A test that is left out is a failure.
pub(crate) fn all_or_fail() -> bool {
    std::env::var("QUORATE_TESTS").is_ok_and(|value| value == "all")
}

/// Builds the tools of these lanes; those that are not there, each with the reason.
pub(crate) fn tools_for(chosen: &[String]) -> Result<BTreeMap<&'static str, String>> {
    let missing = tools::ensure(&tools_of(chosen));
    for (name, reason) in &missing {
        println!("== tools: {name}: {reason}");
    }
    match missing.iter().next() {
        Some((name, reason)) if all_or_fail() => Err(format!(
            "QUORATE_TESTS=all, and the tools {name} are missing: {reason}"
        )),
        _ => Ok(missing),
    }
}

/// What the lanes of these names need, all of them when there is no name; and what is quick to build, for
/// tests that ask the real etcd when it is there.
fn tools_of(chosen: &[String]) -> Vec<&'static str> {
    let mut names = tools::QUICK.to_vec();
    for lane in LANES
        .iter()
        .filter(|lane| chosen.is_empty() || chosen.iter().any(|name| name == lane.name))
    {
        names.extend(lane.needs);
    }
    names
}

/// What the closing line says.
#[derive(Default)]
struct Sum {
    passed: usize,
    failed: usize,
    skipped: usize,
    left_out: Vec<String>,
    complaints: Vec<String>,
}

impl Sum {
    fn close(self, took: Duration, all_or_fail: bool) -> Result<()> {
        println!();
        for complaint in &self.complaints {
            println!("failed: {complaint}");
        }
        println!("{}", self.told(took));
        // The same in three numbers, for programs: alone on its line, and the last one.
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        );
        if self.failed > 0 || !self.complaints.is_empty() {
            return Err("tests failed".into());
        }
        if all_or_fail && self.skipped > 0 {
            return Err("QUORATE_TESTS=all, and tests were left out".into());
        }
        if self.passed == 0 {
            return Err("no test ran".into());
        }
        Ok(())
    }

    /// What ran, failed and was left out, and why, on one line.
    fn told(&self, took: Duration) -> String {
        let why = match self.left_out.as_slice() {
            [] => String::new(),
            reasons => format!(" ({})", on_one_line(&reasons.join("; "))),
        };
        format!(
            "{} tests ran in {:.0} s, {} failed, {} left out{why}",
            self.passed + self.failed,
            took.as_secs_f64(),
            self.failed,
            self.skipped,
        )
    }
}

fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The programs of the fast lane, which the long lanes run harder.
pub(crate) fn fast_programs(built: &Built) -> Result<Vec<TestProgram>> {
    let fast = LANES
        .iter()
        .find(|lane| lane.name == "fast")
        .ok_or("there is no lane \"fast\" in xtask/src/lanes.rs")?;
    programs_of(fast, built)
}

fn programs_of(lane: &Lane, built: &Built) -> Result<Vec<TestProgram>> {
    let programs: Vec<TestProgram> = built
        .tests
        .iter()
        .filter_map(|test| {
            let part = part_of(lane, &test.package)?;
            Some(TestProgram {
                part,
                ..test.clone()
            })
        })
        .collect();
    let is_there = |name: &&str| programs.iter().any(|test| test.package == **name);
    if let Some(gone) = packages_of(lane).iter().find(|name| !is_there(name)) {
        return Err(format!(
            "lane {} names the package {gone:?}, which has no tests; correct xtask/src/lanes.rs",
            lane.name
        ));
    }
    Ok(programs)
}

/// The packages that a lane names.
fn packages_of(lane: &Lane) -> Vec<&'static str> {
    match lane.packages {
        Packages::Rest => Vec::new(),
        Packages::These(names) => names.to_vec(),
        Packages::Modules(modules) => modules.iter().map(|(name, _)| *name).collect(),
    }
}

/// Which of a package's tests the lane runs, if any.
fn part_of(lane: &Lane, package: &str) -> Option<Part> {
    match lane.packages {
        Packages::Rest => {
            let named = LANES
                .iter()
                .flat_map(packages_of)
                .any(|name| name == package);
            (!named).then_some(Part::ALL)
        }
        Packages::These(names) => names.contains(&package).then(|| {
            Part::AllBut(
                LANES
                    .iter()
                    .flat_map(|lane| modules_of(lane, package))
                    .collect(),
            )
        }),
        Packages::Modules(_) => {
            let modules = modules_of(lane, package);
            (!modules.is_empty()).then_some(Part::Only(modules))
        }
    }
}

fn modules_of(lane: &Lane, package: &str) -> Vec<&'static str> {
    let Packages::Modules(modules) = lane.packages else {
        return Vec::new();
    };
    let modules = modules.iter().filter(|(name, _)| *name == package);
    modules.flat_map(|(_, modules)| *modules).copied().collect()
}

fn run_lane(lane: &Lane, programs: &[TestProgram], built: &Built, sum: &mut Sum) -> Result<()> {
    println!(
        "== lane {}: {} programs, budget {} s",
        lane.name,
        programs.len(),
        lane.budget_s
    );
    let notes = LeftOut::new(lane.name)?;
    let mut environment = environment(built);
    environment.push(notes.variable());
    let start = Instant::now();
    let settings = Settings {
        deadline: Some(start + Duration::from_secs(lane.budget_s)),
        at_once: lane.at_once,
        threads: lane.threads,
        environment: &environment,
    };
    let outcomes = runner::run(programs, &settings, print_outcome)?;
    let took = start.elapsed();

    let noted = notes.read()?;
    let passed = count(&outcomes, |one| one.passed);
    let failed = count(&outcomes, |one| one.failed + one.unfinished);
    let ignored = count(&outcomes, |one| one.ignored);
    // A test that left itself out returned without a complaint, so the harness counted it as passed.
    sum.passed += passed.saturating_sub(noted.len());
    sum.failed += failed;
    sum.skipped += ignored + noted.len();
    sum.left_out.extend(noted);
    if ignored > 0 {
        sum.left_out.push(format!(
            "{ignored} tests of lane {} marked as ignored in the code",
            lane.name
        ));
    }
    for Outcome {
        program,
        failed,
        unfinished,
        ..
    } in &outcomes
    {
        if *failed > 0 {
            sum.complaints
                .push(format!("lane {}: {program}: {failed} failed", lane.name));
        }
        if *unfinished > 0 {
            sum.complaints.push(format!(
                "lane {}: {program}: {unfinished} cut off by the lane's budget",
                lane.name
            ));
        }
    }
    let over = outcomes.iter().any(|one| one.unfinished > 0);
    println!(
        "== lane {}: {:.1} s of {} s{}",
        lane.name,
        took.as_secs_f64(),
        lane.budget_s,
        if over { ", over budget" } else { "" }
    );
    print_slowest(&outcomes, if over { SLOWEST_OVER_BUDGET } else { SLOWEST });
    Ok(())
}

/// What tests may ask of their surroundings; all of it has a default when they are started by hand.
pub(crate) fn environment(built: &Built) -> Vec<(String, String)> {
    let mut environment = vec![(
        "QUORATE_TOOLS".to_owned(),
        place::tools_dir().display().to_string(),
    )];
    if let Some(node) = built.binaries.get("quorate") {
        environment.push(("QUORATE_BIN".to_owned(), node.display().to_string()));
    }
    if let Some(operator) = built.binaries.get("quorate-operator") {
        let operator = operator.display().to_string();
        environment.push(("QUORATE_OPERATOR_BIN".to_owned(), operator));
    }
    if let Some(plugin) = built.binaries.get("kubectl-quorate") {
        let plugin = plugin.display().to_string();
        environment.push(("QUORATE_PLUGIN_BIN".to_owned(), plugin));
    }
    environment
}

pub(crate) fn print_outcome(outcome: &Outcome) {
    let Outcome {
        program,
        passed,
        failed,
        unfinished,
        ignored,
        took,
        said,
        ..
    } = outcome;
    if passed + failed + unfinished + ignored == 0 {
        return;
    }
    let mut rest = String::new();
    for (number, word) in [
        (failed, "failed"),
        (unfinished, "cut off"),
        (ignored, "ignored"),
    ] {
        if *number > 0 {
            rest.push_str(&format!(", {number} {word}"));
        }
    }
    println!(
        "   {program:<28} {:>7.1} s  {passed:>4} passed{rest}",
        took.as_secs_f64()
    );
    if *failed > 0 {
        println!("---- {program} failed; it said\n{said}---- {program}: end");
    }
}

fn print_slowest(outcomes: &[Outcome], most: usize) {
    let mut tests: Vec<(&str, &Timed)> = outcomes
        .iter()
        .flat_map(|one| one.tests.iter().map(|test| (one.program.as_str(), test)))
        .collect();
    tests.sort_by_key(|(_, test)| std::cmp::Reverse(test.took));
    for (program, test) in tests
        .into_iter()
        .take(most)
        .filter(|(_, test)| test.took >= SLOW || test.unfinished)
    {
        let state = if test.unfinished {
            ", not finished"
        } else {
            ""
        };
        println!(
            "   slow: {program} {} {:.1} s{state}",
            test.name,
            test.took.as_secs_f64()
        );
    }
}

fn count(outcomes: &[Outcome], of: impl Fn(&Outcome) -> usize) -> usize {
    outcomes.iter().map(of).sum()
}

/// The file in which tests note that they could not run.
pub(crate) struct LeftOut {
    file: PathBuf,
}

impl LeftOut {
    pub(crate) fn new(lane: &str) -> Result<LeftOut> {
        let file =
            std::env::temp_dir().join(format!("quorate-left-out-{lane}-{}", std::process::id()));
        fs::write(&file, "")
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        Ok(LeftOut { file })
    }

    /// The variable that names it to the tests.
    pub(crate) fn variable(&self) -> (String, String) {
        ("QUORATE_LEFT_OUT".into(), self.file.display().to_string())
    }

    /// Who could not run, and why.
    pub(crate) fn read(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.file)
            .map_err(|error| format!("cannot read {}: {error}", self.file.display()))?;
        Ok(text
            .lines()
            .map(|line| line.replacen('\t', ": ", 1))
            .collect())
    }
}

impl Drop for LeftOut {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// The commit decides where a round of something begins, so that runs in a row cover different parts.
pub(crate) fn turn_of_commit() -> u64 {
    let commit = steps::commit().unwrap_or_default();
    place::fingerprint([commit.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lanes_together_have_twenty_minutes() {
        const LANES_S_MAX: u64 = 20 * 60;
        let sum: u64 = LANES.iter().map(|lane| lane.budget_s).sum();
        assert!(sum <= LANES_S_MAX, "{sum} s of {LANES_S_MAX} s");
    }

    #[test]
    fn the_closing_line_says_what_ran_failed_and_was_left_out_and_why() {
        let mut sum = Sum {
            passed: 40,
            failed: 2,
            ..Sum::default()
        };
        let took = Duration::from_millis(61_400);
        assert_eq!(sum.told(took), "42 tests ran in 61 s, 2 failed, 0 left out");
        sum.skipped = 4;
        sum.left_out = vec![
            "lane kube with 3 tests: go: not found;\n  install Go".to_owned(),
            "swap: bbolt is missing".to_owned(),
        ];
        assert_eq!(
            sum.told(took),
            "42 tests ran in 61 s, 2 failed, 4 left out \
             (lane kube with 3 tests: go: not found; install Go; swap: bbolt is missing)"
        );
    }

    #[test]
    fn every_test_is_in_one_lane() {
        for (package, test) in [
            ("wal", "tests::a"),
            ("e2e", "load::b"),
            ("e2e", "membership::table::c"),
            ("robustness", "a_history"),
            ("robustness", "walks::d"),
            ("conformance", "alarm"),
        ] {
            let holds = |lane: &&Lane| part_of(lane, package).is_some_and(|part| part.holds(test));
            let lanes: Vec<&str> = LANES.iter().filter(holds).map(|lane| lane.name).collect();
            assert_eq!(lanes.len(), 1, "{package} {test}: {lanes:?}");
        }
    }
}
