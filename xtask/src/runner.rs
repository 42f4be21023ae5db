//! Runs test programs inside a budget, and knows how long each test took.
//!
//! The test harness of stable Rust prints a line when a test ends and not when it begins. It starts tests in
//! the order of their names, as many at once as it has threads, and the next one whenever one ends. So the
//! list of names and the times of the lines give every start, and with it every duration:
//!
//! ```text
//! two threads, list a b c d     0 s   a b start
//! 1 s  "test b ... ok"          b took 1 s, c starts
//! 4 s  "test a ... ok"          a took 4 s, d starts     killed at 5 s: c ran for 4 s, d for 1 s
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::build::{Part, TestProgram};
use crate::{Result, steps};

/// How a set of programs is run.
pub(crate) struct Settings<'a> {
    /// All programs are killed when this moment has come.
    pub(crate) deadline: Option<Instant>,
    /// Programs at the same time.
    pub(crate) at_once: usize,
    /// Tests at the same time in each program.
    pub(crate) threads: usize,
    pub(crate) environment: &'a [(String, String)],
}

impl Settings<'_> {
    fn past_deadline(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// What became of one program.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) program: String,
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Tests that the deadline cut off: running or not begun.
    pub(crate) unfinished: usize,
    pub(crate) ignored: usize,
    pub(crate) took: Duration,
    /// Everything that it printed.
    pub(crate) said: String,
    pub(crate) tests: Vec<Timed>,
}

#[derive(Debug, Clone)]
pub(crate) struct Timed {
    pub(crate) name: String,
    pub(crate) took: Duration,
    /// It had begun and not ended when its program was killed or died.
    pub(crate) unfinished: bool,
}

/// Runs all programs, the ones of the first places first, and tells each outcome to `tell` as it comes.
pub(crate) fn run(
    programs: &[TestProgram],
    settings: &Settings<'_>,
    mut tell: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>> {
    let queue = Mutex::new(programs.iter().collect::<VecDeque<_>>());
    let (ended, outcomes) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..settings.at_once.max(1) {
            let (queue, ended) = (&queue, ended.clone());
            scope.spawn(move || {
                loop {
                    let next = queue
                        .lock()
                        .expect("no worker panics while it holds the queue")
                        .pop_front();
                    let Some(program) = next else { return };
                    if ended.send(run_one(program, settings)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(ended);
        let mut all = Vec::new();
        for outcome in outcomes {
            let outcome = outcome?;
            tell(&outcome);
            all.push(outcome);
        }
        Ok(all)
    })
}

/// The tests of a program that would run, in the order in which they start.
pub(crate) fn list(program: &TestProgram) -> Result<Vec<String>> {
    let names = |ignored: bool| -> Result<Vec<String>> {
        let mut command = Command::new(&program.file);
        command
            .current_dir(&program.folder)
            .args(["--list", "--format", "terse"]);
        if ignored {
            command.arg("--ignored");
        }
        let text = steps::output(&mut command)?;
        Ok(text
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .map(str::to_owned)
            .collect())
    };
    let ignored = names(true)?;
    Ok(names(false)?
        .into_iter()
        .filter(|name| !ignored.contains(name) && program.part.holds(name))
        .collect())
}

/// What tells the harness that it shall run these tests and no others.
fn exactly(program: &TestProgram, names: &[String]) -> Vec<String> {
    if program.part == Part::ALL {
        return Vec::new();
    }
    let mut words = vec!["--exact".to_owned()];
    words.extend_from_slice(names);
    words
}

fn run_one(program: &TestProgram, settings: &Settings<'_>) -> Result<Outcome> {
    let mut outcome = Outcome {
        program: format!("{} ({})", program.package, program.target),
        ..Outcome::default()
    };
    let names = list(program)?;
    if names.is_empty() || settings.past_deadline() {
        outcome.unfinished = names.len();
        return Ok(outcome);
    }
    let start = Instant::now();
    let mut child = Command::new(&program.file)
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .envs(
            settings
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .arg(format!("--test-threads={}", settings.threads.max(1)))
        .args(exactly(program, &names))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", program.file.display()))?;

    let said = Arc::new(Mutex::new(String::new()));
    let timings = Arc::new(Mutex::new(Timings::new(names, settings.threads.max(1))));
    let ears = listen(&mut child, start, &said, &timings);
    let status = loop {
        if let Some(status) = child
            .try_wait()
            .map_err(|error| format!("cannot wait for {}: {error}", outcome.program))?
        {
            break Some(status);
        }
        if settings.past_deadline() {
            kill_tree(&mut child);
            break None;
        }
        // The harness gives no event to wait on together with a deadline.
        thread::sleep(Duration::from_millis(10));
    };
    outcome.took = start.elapsed();
    // A process that a test left behind holds the pipe open; what it says later is of no interest.
    let patience = Instant::now() + Duration::from_secs(2);
    while ears.iter().any(|ear| !ear.is_finished()) && Instant::now() < patience {
        thread::sleep(Duration::from_millis(5));
    }
    outcome.said = said.lock().expect("a listener does not panic").clone();
    let timings = timings.lock().expect("a listener does not panic");
    outcome.tests = timings.all(outcome.took);
    let unfinished = outcome.tests.iter().filter(|test| test.unfinished).count();
    match (status, Totals::read(&outcome.said)) {
        (Some(status), Some(totals)) if status.success() || totals.failed > 0 => {
            (outcome.passed, outcome.failed, outcome.ignored) =
                (totals.passed, totals.failed, totals.ignored);
        }
        (status, _) => {
            (outcome.passed, outcome.failed) = (timings.passed, timings.failed);
            let open = (unfinished + timings.waiting.len()).max(1);
            match status {
                None => outcome.unfinished = open,
                // It died: what ran or had not begun did not pass.
                Some(status) => {
                    outcome.failed += open;
                    outcome
                        .said
                        .push_str(&format!("\nthe program ended with {status}\n"));
                }
            }
        }
    }
    Ok(outcome)
}

/// Two threads that copy what the program prints; the one on its standard output also notes the tests' ends.
fn listen(
    child: &mut Child,
    start: Instant,
    said: &Arc<Mutex<String>>,
    timings: &Arc<Mutex<Timings>>,
) -> Vec<thread::JoinHandle<()>> {
    let copy = |pipe: Box<dyn Read + Send>, timings: Option<Arc<Mutex<Timings>>>| {
        let said = Arc::clone(said);
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|bytes| bytes > 0)
            {
                let text = String::from_utf8_lossy(&line);
                if let Some(timings) = &timings {
                    timings
                        .lock()
                        .expect("a listener does not panic")
                        .line(text.trim_end(), start.elapsed());
                }
                said.lock()
                    .expect("a listener does not panic")
                    .push_str(&text);
                line.clear();
            }
        })
    };
    let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
    let stderr = child.stderr.take().expect("stderr was asked for as a pipe");
    vec![
        copy(Box::new(stdout), Some(Arc::clone(timings))),
        copy(Box::new(stderr), None),
    ]
}

/// Reconstructs when tests began, from the order in which they must.
struct Timings {
    waiting: VecDeque<String>,
    running: BTreeMap<String, Duration>,
    ended: Vec<Timed>,
    passed: usize,
    failed: usize,
}

impl Timings {
    fn new(names: Vec<String>, threads: usize) -> Timings {
        let mut waiting: VecDeque<String> = names.into();
        let first = threads.min(waiting.len());
        let running = waiting
            .drain(..first)
            .map(|name| (name, Duration::ZERO))
            .collect();
        Timings {
            waiting,
            running,
            ended: Vec::new(),
            passed: 0,
            failed: 0,
        }
    }

    fn line(&mut self, line: &str, now: Duration) {
        let Some((name, verdict)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        let name = name.trim_end_matches(" - should panic");
        let Some(began) = self.running.remove(name) else {
            return;
        };
        match verdict {
            "ok" => self.passed += 1,
            _ => self.failed += 1,
        }
        self.ended.push(Timed {
            name: name.to_owned(),
            took: now.saturating_sub(began),
            unfinished: false,
        });
        if let Some(next) = self.waiting.pop_front() {
            self.running.insert(next, now);
        }
    }

    /// All tests that began; those that have not ended count until `now`.
    fn all(&self, now: Duration) -> Vec<Timed> {
        let still = self.running.iter().map(|(name, began)| Timed {
            name: name.clone(),
            took: now.saturating_sub(*began),
            unfinished: true,
        });
        self.ended.iter().cloned().chain(still).collect()
    }
}

/// The numbers of the harness's last line.
#[derive(Debug, PartialEq, Eq)]
struct Totals {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Totals {
    fn read(said: &str) -> Option<Totals> {
        let line = said
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("test result: "))?;
        let number = |word: &str| -> Option<usize> {
            line.split(['.', ';'])
                .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        };
        Some(Totals {
            passed: number("passed")?,
            failed: number("failed")?,
            ignored: number("ignored")?,
        })
    }
}

/// Ends a test program and everything that it started: the members of a cluster must not outlive their test.
fn kill_tree(child: &mut Child) {
    let mut doomed = descendants(child.id());
    doomed.push(child.id());
    let words: Vec<String> = doomed.iter().map(u32::to_string).collect();
    // The parent first, or it would start new ones; an id that is gone by now is no failure.
    let _ = child.kill();
    let _ = Command::new("sh")
        .arg("-c")
        .arg("kill -9 \"$@\" 2>/dev/null")
        .arg("kill")
        .args(words)
        .status();
    let _ = child.wait();
}

fn descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        if let Some(parent) = parent_of(&entry.path()) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        let born = children.remove(&id).unwrap_or_default();
        open.extend(&born);
        found.extend(born);
    }
    found
}

/// The fourth field of `/proc/ID/stat`; the second is a name in parentheses that may hold anything.
fn parent_of(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn took(timed: &[Timed], name: &str) -> (u64, bool) {
        let found = timed
            .iter()
            .find(|test| test.name == name)
            .expect("the test is in the list");
        (found.took.as_secs(), found.unfinished)
    }

    #[test]
    fn the_order_of_names_and_the_ends_give_every_duration() {
        let mut timings = Timings::new(["a", "b", "c", "d"].map(str::to_owned).into(), 2);
        timings.line("running 4 tests", seconds(0));
        timings.line("test b ... ok", seconds(1));
        timings.line("test a ... FAILED", seconds(4));
        let all = timings.all(seconds(5));
        assert_eq!(took(&all, "b"), (1, false));
        assert_eq!(took(&all, "a"), (4, false));
        assert_eq!(took(&all, "c"), (4, true), "c began when b ended");
        assert_eq!(took(&all, "d"), (1, true), "d began when a ended");
        assert_eq!((timings.passed, timings.failed), (1, 1));
    }

    #[test]
    fn the_last_line_of_the_harness_counts() {
        let said = "test a ... ok\n\ntest result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        assert_eq!(
            Totals::read(said),
            Some(Totals {
                passed: 3,
                failed: 1,
                ignored: 2
            })
        );
        assert_eq!(Totals::read("nothing"), None);
    }

    /// A program that speaks like the harness; this test is about processes, not about Rust tests.
    fn script(folder: &Path, body: &str) -> TestProgram {
        use std::os::unix::fs::PermissionsExt;
        let file = folder.join("program");
        let list = "case \"$*\" in *--ignored*) exit;; *--list*) echo 'a: test'; echo 'b: test'; exit;; esac";
        fs::write(&file, format!("#!/bin/sh\n{list}\n{body}\n"))
            .expect("a temporary file can be written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700))
            .expect("its owner may change the mode");
        TestProgram {
            package: "room".into(),
            target: "lib".into(),
            file,
            folder: folder.into(),
            part: Part::ALL,
        }
    }

    fn folder(name: &str) -> std::path::PathBuf {
        let folder =
            std::env::temp_dir().join(format!("xtask-runner-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder can be made");
        folder
    }

    fn run_script(name: &str, body: &str, budget: Duration) -> Outcome {
        let folder = folder(name);
        let settings = Settings {
            deadline: Some(Instant::now() + budget),
            at_once: 1,
            threads: 1,
            environment: &[],
        };
        let all = run(&[script(&folder, body)], &settings, |_| {}).expect("the program starts");
        let _ = fs::remove_dir_all(folder);
        all.into_iter().next().expect("one program, one outcome")
    }

    #[test]
    fn a_program_over_its_budget_is_killed_with_its_children_and_its_test_is_named() {
        let body = "echo 'test a ... ok'; sleep 1000 & echo \"child $!\"; wait";
        let outcome = run_script("budget", body, seconds(1));
        assert_eq!(
            (outcome.passed, outcome.failed, outcome.unfinished),
            (1, 0, 1)
        );
        assert!(
            outcome
                .tests
                .iter()
                .any(|test| test.name == "b" && test.unfinished)
        );
        let child = outcome
            .said
            .lines()
            .find_map(|line| line.strip_prefix("child "))
            .expect("the program named its child");
        // An adopted zombie may remain where nobody reaps; a living child may not.
        let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        assert!(
            state.is_empty() || state.contains(") Z"),
            "child {child} lives on: {state}"
        );
    }

    #[test]
    fn a_program_that_dies_did_not_pass() {
        let outcome = run_script("dies", "echo 'test a ... ok'; kill -9 $$", seconds(20));
        assert_eq!(
            (outcome.passed, outcome.failed, outcome.unfinished),
            (1, 1, 0)
        );
        assert!(outcome.said.contains("signal: 9"), "{}", outcome.said);
    }

    #[test]
    fn a_program_that_passes_passes() {
        let body = "echo 'test a ... ok'; echo 'test b ... ok'; echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'";
        let outcome = run_script("passes", body, seconds(20));
        assert_eq!(
            (outcome.passed, outcome.failed, outcome.unfinished),
            (2, 0, 0)
        );
    }
}
