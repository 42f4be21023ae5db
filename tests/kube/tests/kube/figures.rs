//! What a run cost, in numbers for people.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

use serde_json::Value;

use crate::control::Cache;

/// What one run gave.
#[derive(Debug)]
pub struct Figures {
    /// resident memory of each member when the objects were done, KiB
    pub resident_kib: Vec<u64>,
    /// the anonymous part of it
    pub anonymous_kib: Vec<u64>,
    /// CPU time of all members until then, seconds
    pub cpu_s: f64,
    /// what `kubeload objects` printed
    pub objects: Value,
    /// what `kubeload writes` printed
    pub writes: Value,
    /// calls of the API server to the store by kind: their number and mean, ms
    pub store_calls: Vec<(String, u64, f64)>,
    /// complaints about the store in the API server's log, all within the failover
    pub complaints: usize,
}

/// The API server's calls to its store, by kind, from its metrics.
pub fn store_calls(metrics: &str) -> Vec<(String, u64, f64)> {
    let mut kinds: Vec<(String, u64, f64)> = Vec::new();
    for (part, is_count) in [
        ("etcd_request_duration_seconds_count{", true),
        ("etcd_request_duration_seconds_sum{", false),
    ] {
        for (labels, value) in samples(metrics, part) {
            let kind = label(labels, "operation").unwrap_or("unknown").to_owned();
            if !kinds.iter().any(|(name, ..)| *name == kind) {
                kinds.push((kind.clone(), 0, 0.0));
            }
            let entry = kinds
                .iter_mut()
                .find(|(name, ..)| *name == kind)
                .expect("pushed just now");
            if is_count {
                entry.1 += value as u64;
            } else {
                entry.2 += value;
            }
        }
    }
    for entry in &mut kinds {
        entry.2 = entry.2 * 1000.0 / entry.1.max(1) as f64;
    }
    kinds.sort_by(|a, b| a.0.cmp(&b.0));
    kinds
}

/// The sum of a metric's samples whose labels contain all these.
pub fn total(metrics: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    samples(metrics, &format!("{name}{{"))
        .filter(|(text, _)| {
            labels
                .iter()
                .all(|(key, value)| label(text, key) == Some(value))
        })
        .map(|(_, value)| value)
        .sum()
}

fn samples<'a>(metrics: &'a str, start: &str) -> impl Iterator<Item = (&'a str, f64)> {
    metrics.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(start)?.rsplit_once("} ")?;
        Some((labels, value.parse().ok()?))
    })
}

fn label<'a>(labels: &'a str, key: &str) -> Option<&'a str> {
    let start = labels.find(&format!("{key}=\""))? + key.len() + 2;
    labels[start..].split('"').next()
}

/// One run as a text.
pub fn alone(cache: Cache, ours: &Figures) -> String {
    table(cache, &[("quorate", ours)])
}

/// Two runs as a text, line by line.
pub fn side_by_side(cache: Cache, ours: &Figures, etcd: &Figures) -> String {
    table(cache, &[("quorate", ours), ("etcd", etcd)])
}

fn table(cache: Cache, runs: &[(&str, &Figures)]) -> String {
    let mut text = String::new();
    let mut line = |name: &str, values: Vec<String>| {
        let _ = write!(text, "{name:<44}");
        for value in values {
            let _ = write!(text, "{value:>28}");
        }
        text.push('\n');
    };
    let each = |value: &dyn Fn(&Figures) -> String| {
        runs.iter().map(|(_, run)| value(run)).collect::<Vec<_>>()
    };
    let mib = |all: &[u64]| {
        let all: Vec<String> = all
            .iter()
            .map(|kib| format!("{:.0}", *kib as f64 / 1024.0))
            .collect();
        all.join(" ")
    };
    line(
        &format!("kube, cache: {cache:?}"),
        runs.iter().map(|(name, _)| (*name).to_owned()).collect(),
    );
    line("members, resident MiB", each(&|run| mib(&run.resident_kib)));
    line(
        "members, anonymous MiB",
        each(&|run| mib(&run.anonymous_kib)),
    );
    line("members, CPU s", each(&|run| format!("{:.1}", run.cpu_s)));
    for (step, of) in [
        ("objects", (|run| &run.objects) as fn(&Figures) -> &Value),
        ("failover", |run| &run.writes),
    ] {
        let Some(kinds) = of(runs[0].1)["requests"].as_object() else {
            continue;
        };
        for kind in kinds.keys() {
            let cell = |run: &Figures| {
                let one = &of(run)["requests"][kind];
                format!(
                    "{:.1} {:.1} {}",
                    number(&one["p50_ms"]),
                    number(&one["p99_ms"]),
                    one["count"]
                )
            };
            line(&format!("{step}: {kind}, p50 p99 ms, count"), each(&cell));
        }
    }
    for (kind, ..) in &runs[0].1.store_calls {
        let cell = |run: &Figures| {
            run.store_calls
                .iter()
                .find(|(name, ..)| name == kind)
                .map_or("none".to_owned(), |(_, count, mean)| {
                    format!("{mean:.2} {count}")
                })
        };
        line(
            &format!("API server to store: {kind}, mean ms, count"),
            each(&cell),
        );
    }
    line(
        "failover: longest time without a write, ms",
        each(&|run| run.writes["gap_ms"].to_string()),
    );
    line(
        "failover: acknowledged, failed writes",
        each(&|run| format!("{} {}", run.writes["acknowledged"], run.writes["failed"])),
    );
    line(
        "failover: complaints in the log",
        each(&|run| run.complaints.to_string()),
    );
    for (name, run) in runs {
        for (answer, count) in run.writes["failures"].as_object().into_iter().flatten() {
            let _ = writeln!(text, "failover, {name}: {count} failed with {answer:?}");
        }
    }
    text
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Figures go to the file that `QUORATE_FIGURES` names, which the runner prints; by hand, to the terminal.
pub fn publish(text: &str) {
    eprintln!("{text}");
    if let Some(path) = std::env::var_os("QUORATE_FIGURES") {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .expect("the file that QUORATE_FIGURES names can be written");
    }
}
