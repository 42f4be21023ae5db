//! A comparison for people and for programs.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::rows::Row;
use super::verdict::{ANSWER_BYTES, Line, Spread, Verdict};
use super::{Rounds, Settings};

/// IDs and counters of unlike length and which keys a range meets make answers differ by a few bytes.
const ANSWERS_ALIKE: f64 = 0.2;

/// Threads that cost less per operation are left out.
const STAGE_MIN_US: f64 = 0.05;

/// What makes the comparison fail: missed targets, answers unlike etcd's, and errors of our members.
pub(crate) fn failures(rows: &[&'static Row], lines: &[Line], ours: &Rounds) -> Vec<String> {
    let mut failures = errors(rows, ours);
    for line in lines {
        if line.verdict == Verdict::Missed
            && let Some(bound) = line.bound
        {
            failures.push(format!(
                "{} {} is {:.2}x of etcd's, target {bound}x",
                line.row, line.figure, line.ratio
            ));
        }
        if line.figure == ANSWER_BYTES && (line.ratio - 1.0).abs() > ANSWERS_ALIKE {
            failures.push(format!(
                "{}: our answers have {:.2}x the bytes of etcd's, so the two did not do the same",
                line.row, line.ratio
            ));
        }
    }
    failures
}

/// The loads that did not get all their answers, in words.
pub(crate) fn errors(rows: &[&'static Row], rounds: &Rounds) -> Vec<String> {
    let mut errors = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        for sample in rounds.full[index].iter().chain(&rounds.rated[index]) {
            if let Some(error) = &sample.error {
                errors.push(format!(
                    "{}: {} errors, as {error:?}",
                    row.name, sample.errors
                ));
            }
        }
    }
    errors
}

/// For a terminal.
pub(crate) fn text(settings: &Settings, lines: &[Line], ours: &Rounds, notes: &[String]) -> String {
    let mut text = String::new();
    for (name, value) in machine(&settings.dir) {
        text.push_str(&format!("{name}: {value}\n"));
    }
    let columns = |row: &str,
                   figure: &str,
                   etcd: &str,
                   ours: &str,
                   ratio: &str,
                   target: &str,
                   verdict: &str| {
        let line = format!(
            "{row:<10} {figure:<18} {etcd:>26} {ours:>26} {ratio:>7}  {target:<7} {verdict}"
        );
        format!("{}\n", line.trim_end())
    };
    text.push('\n');
    text += &columns(
        "row",
        "figure",
        "etcd (least–most)",
        "ours (least–most)",
        "ratio",
        "target",
        "verdict",
    );
    let mut last = "";
    for line in lines {
        text += &columns(
            if line.row == last { "" } else { line.row },
            line.figure,
            &spread(line.etcd),
            &spread(line.ours),
            &format!("{:.2}x", line.ratio),
            &line
                .bound
                .map(|bound| bound.to_string())
                .unwrap_or_default(),
            &verdict(&line.verdict),
        );
        last = line.row;
    }
    text += "\nours, by thread: µs of CPU and wake-ups per op, all members, the last round\n";
    for (row, samples) in settings.rows.iter().zip(&ours.full) {
        let stages = samples.last().map_or(&[][..], |sample| &sample.stages);
        let stages = stages.iter().filter(|stage| stage.cpu_us >= STAGE_MIN_US);
        let stages: Vec<String> = stages
            .map(|stage| {
                format!(
                    "{} {} ({:.2})",
                    stage.name,
                    short(stage.cpu_us),
                    stage.wakes
                )
            })
            .collect();
        text += &format!("{:<10} {}\n", row.name, stages.join("  "));
    }
    for note in notes {
        text += &format!("note: etcd did not answer all of {note}\n");
    }
    text
}

/// For a program.
pub(crate) fn json(
    settings: &Settings,
    lines: &[Line],
    ours: &Rounds,
    notes: &[String],
    failures: &[String],
) -> Value {
    let machine: serde_json::Map<String, Value> = machine(&settings.dir)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let spread = |spread: Spread| json!({"median": spread.median, "least": spread.least, "most": spread.most});
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| {
            json!({
                "row": line.row,
                "figure": line.figure,
                "etcd": spread(line.etcd),
                "ours": spread(line.ours),
                "ratio": line.ratio,
                "target": line.bound.map(|bound| bound.to_string()),
                "verdict": verdict(&line.verdict),
            })
        })
        .collect();
    let stages = settings.rows.iter().zip(&ours.full).map(|(row, samples)| {
        let stages = samples.last().map_or(&[][..], |sample| &sample.stages);
        let stages = stages.iter().map(|stage| {
            let figures = json!({"cpu_us": stage.cpu_us, "wakes": stage.wakes});
            (stage.name.clone(), figures)
        });
        (row.name.to_owned(), Value::Object(stages.collect()))
    });
    let stages: serde_json::Map<String, Value> = stages.collect();
    json!({
        "machine": machine,
        "rounds": settings.rounds,
        "quick": settings.quick,
        "lines": lines,
        "ours_by_thread": stages,
        "errors_of_etcd": notes,
        "failures": failures,
    })
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::None => String::new(),
        Verdict::Met => "met".to_owned(),
        Verdict::Missed => "MISSED".to_owned(),
        Verdict::NotJudged(why) => format!("not judged: {why}"),
    }
}

fn spread(spread: Spread) -> String {
    let Spread {
        median,
        least,
        most,
    } = spread;
    format!("{} ({}–{})", short(median), short(least), short(most))
}

/// Three digits that say something.
fn short(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// What figures depend on besides the programs.
fn machine(dir: &Path) -> Vec<(&'static str, String)> {
    let first = |file: &str, name: &str| {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(
            line.split_once(':')
                .map_or(line, |(_, value)| value)
                .trim()
                .to_owned(),
        )
    };
    let unknown = || "unknown".to_owned();
    let cores =
        std::thread::available_parallelism().map_or_else(|_| unknown(), |cores| cores.to_string());
    vec![
        (
            "processor",
            first("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
        ),
        ("cores", cores),
        (
            "memory",
            first("/proc/meminfo", "MemTotal").unwrap_or_else(unknown),
        ),
        (
            "kernel",
            first("/proc/sys/kernel/osrelease", "").unwrap_or_else(unknown),
        ),
        ("disk", filesystem(dir).unwrap_or_else(unknown)),
        (
            "load average",
            first("/proc/loadavg", "").unwrap_or_else(unknown),
        ),
    ]
}

/// The kind of file system that holds a folder. On tmpfs an fdatasync costs nothing, which is worth seeing.
fn filesystem(dir: &Path) -> Option<String> {
    let dir = std::path::absolute(dir).ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let holding = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        dir.starts_with(point).then_some((point.len(), kind))
    });
    // The last of equal ones lies on top.
    holding
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind.to_owned())
}
