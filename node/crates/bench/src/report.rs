//! An outcome for people and for programs.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::load::Outcome;

/// Percentiles that are shown, and their names.
const PERCENTILES: [(&str, f64); 4] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];
/// Lines of the histogram, and its widest bar.
const LINES: usize = 12;
const WIDTH: u64 = 40;

/// For a terminal.
pub(crate) fn text(outcome: &Outcome) -> String {
    let mut text = format!(
        "{}: {} answers in {:.2} s, {:.0}/s, {} errors, {:.1} MB received, {:.1} µs of client CPU per answer\n",
        outcome.name,
        outcome.answered(),
        outcome.elapsed.as_secs_f64(),
        outcome.per_second(),
        outcome.failed(),
        outcome.bytes as f64 / 1e6,
        client_us(outcome),
    );
    let mut add =
        |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a string takes all");
    for (kind, latency) in &outcome.kinds {
        if latency.is_empty() {
            continue;
        }
        let percentiles: Vec<String> = PERCENTILES
            .iter()
            .map(|(name, percentile)| {
                format!("{name} {}", ms(latency.value_at_percentile(*percentile)))
            })
            .collect();
        add(format_args!(
            "{kind} ({}), ms: {}  max {}  mean {}",
            latency.len(),
            percentiles.join("  "),
            ms(latency.max()),
            ms(latency.mean() as u64)
        ));
        for line in bars(latency) {
            add(format_args!("  {line}"));
        }
    }
    for (error, count) in &outcome.errors {
        add(format_args!("error, {count} times: {error}"));
    }
    text
}

/// For a program: times in milliseconds.
pub(crate) fn json(outcome: &Outcome) -> Value {
    let kinds: serde_json::Map<String, Value> = outcome
        .kinds
        .iter()
        .map(|(kind, latency)| ((*kind).to_owned(), latency_json(latency)))
        .collect();
    json!({
        "case": outcome.name,
        "answers": outcome.answered(),
        "errors": outcome.errors,
        "elapsed_s": outcome.elapsed.as_secs_f64(),
        "per_second": outcome.per_second(),
        "received_bytes": outcome.bytes,
        "client_cpu_us_per_answer": client_us(outcome),
        "latency_ms": kinds,
    })
}

fn latency_json(latency: &Histogram<u64>) -> Value {
    let mut value = json!({
        "count": latency.len(),
        "max": latency.max() as f64 / 1e6,
        "mean": latency.mean() / 1e6,
    });
    for (name, percentile) in PERCENTILES {
        value[name] = json!(latency.value_at_percentile(percentile) as f64 / 1e6);
    }
    value
}

fn client_us(outcome: &Outcome) -> f64 {
    outcome.client_cpu.as_secs_f64() * 1e6 / outcome.answered().max(1) as f64
}

/// Nanoseconds as milliseconds.
fn ms(nanoseconds: u64) -> String {
    format!("{:.3}", nanoseconds as f64 / 1e6)
}

/// A bar for each of a few ranges, each as many times as wide as the one before.
fn bars(latency: &Histogram<u64>) -> Vec<String> {
    let (least, most) = (latency.min().max(1) as f64, latency.max().max(2) as f64);
    let factor = (most / least).max(1.001).powf(1.0 / LINES as f64);
    let mut from = 0;
    let mut counts = Vec::new();
    for line in 1..=LINES {
        let to = if line == LINES {
            latency.max()
        } else {
            (least * factor.powi(line as i32)) as u64
        };
        counts.push((to, latency.count_between(from, to)));
        from = to + 1;
    }
    let highest = counts
        .iter()
        .map(|(_, count)| *count)
        .max()
        .unwrap_or(0)
        .max(1);
    counts
        .iter()
        .map(|(to, count)| {
            let bar = "*".repeat((count * WIDTH).div_ceil(highest) as usize);
            format!("≤ {:>10} {count:>8} {bar}", ms(*to))
                .trim_end()
                .to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_answer_is_under_one_bar() {
        let mut outcome = Outcome::new("put", &["put"]);
        for n in 1..=1000 {
            outcome.record(0, Duration::from_micros(n));
        }
        let latency = outcome.latency();
        let sum: u64 = bars(&latency)
            .iter()
            .map(|bar| {
                bar.split_whitespace()
                    .nth(2)
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
            })
            .sum();
        // The histogram's own buckets are as wide as a thousandth, so an edge may be counted twice.
        assert!((1000..=1000 + LINES as u64).contains(&sum), "{sum}");
        assert_eq!(json(&outcome)["latency_ms"]["put"]["count"], 1000);
    }
}
