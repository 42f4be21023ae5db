//! How a suite of etcd's is run, and what it says.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{left_out, quorate, tool};

use crate::later::Later;

/// One Go function may take this long before it is ended with a dump of its goroutines. The longest,
/// TestMemberAdd, sleeps for most of its two minutes.
const TIMEOUT: &str = "5m";

/// Why a case of the suite may leave itself out. Any other reason is a failure.
const MAY_SKIP: [&str; 2] = [
    "Skipping test for single-member cluster",
    "options not supported by RangeStream",
];

const MISSING: &str = "the suite is not built; run `make tools`";

/// One of etcd's suites.
pub struct Suite {
    /// As etcd calls it.
    name: &'static str,
    /// As `make tools` calls its program.
    program: &'static str,
}

/// What holds for a member whoever starts it.
pub const COMMON: Suite = Suite {
    name: "common",
    program: "etcd-common-test",
};

/// What holds for the program.
pub const E2E: Suite = Suite {
    name: "e2e",
    program: "etcd-e2e-test",
};

/// Whether everything is to run.
pub fn whole() -> bool {
    std::env::var("QUORATE_COMMON").is_ok_and(|value| value == "whole")
}

impl Suite {
    /// Fails where a function of the suite that is `concerned` neither runs nor stands in `later.toml`.
    pub fn forgets_nothing(
        &self,
        test: &str,
        run: &[&str],
        later: &BTreeSet<String>,
        concerned: impl Fn(&str) -> bool,
    ) {
        let Some(suite) = tool(self.program) else {
            return left_out(test, MISSING);
        };
        let run: BTreeSet<String> = run.iter().map(|&name| name.to_owned()).collect();
        let both: Vec<_> = run.intersection(later).collect();
        assert!(both.is_empty(), "run, and in later.toml: {both:?}");

        let listed = Command::new(suite)
            .args(["-test.list", "^Test"])
            .output()
            .expect("the suite runs");
        let listed = String::from_utf8_lossy(&listed.stdout);
        let known: BTreeSet<String> = listed
            .lines()
            .filter(|line| line.starts_with("Test") && concerned(line))
            .map(str::to_owned)
            .collect();
        let ours: BTreeSet<String> = run.union(later).cloned().collect();
        let forgotten: Vec<_> = known.difference(&ours).collect();
        let gone: Vec<_> = ours.difference(&known).collect();
        assert!(
            forgotten.is_empty(),
            "neither run nor in later.toml: {forgotten:?}"
        );
        assert!(gone.is_empty(), "not in the suite: {gone:?}");
    }

    /// Runs one function of the suite, in the form that was asked for, and fails with what the suite said.
    pub fn run(&self, function: &str, short: &str) {
        if let Err(failure) = self.attempt(function, short) {
            panic!("{failure}");
        }
    }

    /// Tells what the suite said if it failed.
    fn attempt(&self, function: &str, short: &str) -> Result<(), String> {
        let (Some(suite), Some(etcdctl), Some(etcdutl)) =
            (tool(self.program), tool("etcdctl"), tool("etcdutl"))
        else {
            left_out(&format!("conformance::{function}"), MISSING);
            return Ok(());
        };
        let _ports = take_ports();
        let folder = tempfile::tempdir().expect("the temporary folder takes files");
        let node = fs::canonicalize(quorate()).expect("our program was found");
        for (name, program) in [
            ("etcd", &node),
            ("etcd-last-release", &node),
            ("etcdctl", &etcdctl),
            ("etcdutl", &etcdutl),
        ] {
            symlink(program, folder.path().join(name)).expect("the temporary folder takes links");
        }
        let whole = whole();
        let output = Command::new(suite)
            .current_dir(folder.path())
            .args(["-test.v", "-test.timeout", TIMEOUT])
            .args([
                "-test.run",
                &pattern(function, if whole { "" } else { short }),
            ])
            .args(["-test.skip", &Later::read().skip()])
            .arg("-bin-dir")
            .arg(folder.path())
            .output()
            .expect("the suite runs");
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let verdicts = Verdicts::read(&said);
        if whole {
            publish(&format!(
                "{}: {function}: {} cases passed, {} left themselves out\n",
                self.name,
                verdicts.passed.len(),
                verdicts.skipped
            ));
        }
        let good = output.status.success()
            && !verdicts.passed.is_empty()
            && verdicts.skipped == verdicts.skipped_with_reason;
        if good {
            return Ok(());
        }
        let log = write_log(self.name, function, &said);
        Err(format!(
            "{function} ended with {}, {} cases passed, {} of {} that left themselves out had a known reason\n\
             {}\nall that it said: {}",
            output.status,
            verdicts.passed.len(),
            verdicts.skipped_with_reason,
            verdicts.skipped,
            extract(&said),
            log.display()
        ))
    }
}

/// The suite's ports begin at 20000 and are fixed: one function at a time, also when two runs of
/// these tests meet on a machine. They are free again when the file is closed.
fn take_ports() -> File {
    let file = std::env::temp_dir().join("quorate-common-ports.lock");
    let file = File::create(&file)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", file.display()));
    file.lock().expect("the temporary folder knows locks");
    file
}

/// Figures go to the file that `QUORATE_FIGURES` names, which `make more` prints.
fn publish(line: &str) {
    if let Some(path) = std::env::var_os("QUORATE_FIGURES") {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the file that QUORATE_FIGURES names can be written");
    }
}

/// `TestCompact` and `Physical` give `^TestCompact$/^Physical$`.
fn pattern(function: &str, short: &str) -> String {
    let whole = |part: &str| format!("^{part}$");
    let mut parts = vec![whole(function)];
    parts.extend(short.split('/').filter(|part| !part.is_empty()).map(whole));
    parts.join("/")
}

/// What the suite's lines say. A case is a test without tests of its own below it.
#[derive(Debug, Default)]
struct Verdicts {
    passed: Vec<String>,
    skipped: usize,
    skipped_with_reason: usize,
}

impl Verdicts {
    fn read(said: &str) -> Verdicts {
        let named = |verdict: &str| -> Vec<String> {
            said.lines()
                .filter_map(|line| line.trim_start().strip_prefix(verdict))
                .map(|rest| {
                    rest.rsplit_once(" (")
                        .map_or(rest, |(name, _)| name)
                        .to_owned()
                })
                .collect()
        };
        let all = named("--- PASS: ");
        let skipped = named("--- SKIP: ");
        let is_case = |name: &String| {
            let below = format!("{name}/");
            all.iter()
                .chain(&skipped)
                .all(|other| !other.starts_with(&below))
        };
        Verdicts {
            passed: all.iter().filter(|name| is_case(name)).cloned().collect(),
            skipped: skipped.len(),
            skipped_with_reason: said
                .lines()
                .filter(|line| MAY_SKIP.iter().any(|reason| line.ends_with(reason)))
                .count(),
        }
    }
}

/// The lines with which a Go test complains. The members' logs between them are long.
fn extract(said: &str) -> String {
    const LINES_MAX: usize = 100;
    let complaint = |line: &&str| {
        let line = line.trim_start();
        ["--- FAIL", "Error", "panic:", "match not found"]
            .iter()
            .any(|word| line.starts_with(word))
            || line.contains("_test.go:")
            || line.contains("cluster.go:")
    };
    said.lines()
        .filter(complaint)
        .take(LINES_MAX)
        .collect::<Vec<_>>()
        .join("\n")
}

fn write_log(suite: &str, function: &str, said: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{suite}-{function}.log"));
    fs::write(&file, said).expect("the target folder takes files");
    file
}

/// `later.toml`: what does not run yet.

#[test]
fn patterns_are_those_of_go() {
    assert_eq!(pattern("TestAlarm", ""), "^TestAlarm$");
    assert_eq!(pattern("TestA", "b/c d"), "^TestA$/^b$/^c d$");
}

#[test]
fn verdicts_count_cases() {
    let said = "=== RUN   TestA\n    a_test.go:1: Skipping test for single-member cluster\n\
                --- PASS: TestA (1.00s)\n    --- SKIP: TestA/one (0.00s)\n    --- PASS: TestA/two (1.00s)\n";
    let verdicts = Verdicts::read(said);
    assert_eq!(verdicts.passed, ["TestA/two"]);
    assert_eq!((verdicts.skipped, verdicts.skipped_with_reason), (1, 1));
    // A function that only skipped has no case that passed.
    let said = "--- PASS: TestA (1.00s)\n    --- SKIP: TestA/one (0.00s)\n";
    assert!(Verdicts::read(said).passed.is_empty());
}
