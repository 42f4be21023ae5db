//! `bench-operator`: what the operator costs, and what its work costs a client.
//!
//! The measuring is done by `tests/kube/tests/operator/bench.rs`, with release programs; here its figures become a
//! table, or JSON, and are compared with the targets. What happens meanwhile is told on standard error.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{Result, place, steps, tools};

/// The parts that `--only` names, as bench.rs has them.
const PARTS: &[&str] = &["ready", "outages", "rest", "many"];

/// API requests a minute and cluster, at most, when there is nothing to do.
const REQUESTS_AT_REST_MAX: f64 = 1.0;

const USAGE: &str = "cargo xtask bench-operator [--json] [--quick] [--only ready|outages|rest|many] [--rounds N] [--clusters N] [--rest SECONDS]";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    json: bool,
    only: Option<String>,
    rounds: u64,
    clusters: u64,
    rest_s: u64,
}

/// `cargo xtask bench-operator`
pub(crate) fn command(words: &[String]) -> Result<()> {
    let asked = Asked::read(words)?;
    let figures = measure(&asked)?;
    let targets = targets(&figures);
    if asked.json {
        let targets: Vec<Value> = targets.iter().map(Target::json).collect();
        println!("{:#}", json!({"figures": figures, "targets": targets}));
    } else {
        print!("{}", table(&figures, &targets));
    }
    match targets.iter().filter(|one| !one.is_met()).count() {
        0 => Ok(()),
        missed => Err(format!("{missed} of {} targets are missed", targets.len())),
    }
}

impl Asked {
    fn read(words: &[String]) -> Result<Self> {
        let mut asked = Self {
            json: false,
            only: None,
            rounds: 3,
            clusters: 200,
            rest_s: 120,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .ok_or_else(|| format!("{word} needs a value: {USAGE}"))
            };
            let number = |text: &String| {
                text.parse()
                    .ok()
                    .filter(|number| *number > 0)
                    .ok_or_else(|| format!("{word} {text:?} is not a number above 0"))
            };
            match word.as_str() {
                "--json" => asked.json = true,
                "--quick" => (asked.rounds, asked.clusters, asked.rest_s) = (1, 50, 40),
                "--rounds" => asked.rounds = number(value()?)?,
                "--clusters" => asked.clusters = number(value()?)?,
                "--rest" => asked.rest_s = number(value()?)?,
                "--only" => {
                    let part = value()?;
                    if !PARTS.contains(&part.as_str()) {
                        let parts = PARTS.join(", ");
                        return Err(format!("--only {part:?} is none of {parts}"));
                    }
                    asked.only = Some(part.clone());
                }
                _ => return Err(format!("unknown argument {word:?}: {USAGE}")),
            }
        }
        Ok(asked)
    }
}

/// Builds, runs, and reads what was found.
fn measure(asked: &Asked) -> Result<Value> {
    if let Some(missing) = tools::ensure(&["etcd", "kube", "kubeload"])
        .into_values()
        .next()
    {
        return Err(missing);
    }
    let programs = ["quorate", "quorate-operator"];
    run(steps::cargo(&["build", "--release"])
        .args(programs.iter().flat_map(|name| ["--package", *name])))?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| place::workspace().join("target"), PathBuf::from);
    let release = place::workspace().join(target).join("release");
    let file = std::env::temp_dir().join(format!("quorate-bench-operator-{}", std::process::id()));
    let settings = json!({
        "only": asked.only, "rounds": asked.rounds, "clusters": asked.clusters, "rest_s": asked.rest_s,
    });
    // The whole workspace's features, so that what `make test` has compiled serves here too.
    let words = [
        "test",
        "--workspace",
        "--test",
        "operator",
        "--",
        "--exact",
        "bench::figures",
        "--ignored",
        "--nocapture",
    ];
    let ran = run(steps::cargo(&words)
        .env("QUORATE_TOOLS", place::tools_dir())
        .env("QUORATE_BIN", release.join(programs[0]))
        .env("QUORATE_OPERATOR_BIN", release.join(programs[1]))
        .env("QUORATE_BENCH", settings.to_string())
        .env("QUORATE_FIGURES", &file));
    let text = fs::read_to_string(&file);
    // Nothing to remove when nothing was measured.
    let _ = fs::remove_file(&file);
    ran?;
    let text =
        text.map_err(|error| format!("nothing was measured: {}: {error}", file.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("the figures are no JSON: {error}"))
}

/// Runs a program with all that it says on standard error: standard output is for the figures.
fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .map_err(|error| format!("cannot start {}: {error}", steps::words_of(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} failed ({status})", steps::words_of(command)))
    }
}

/// One thing that must not be more than so much.
#[derive(Debug)]
struct Target {
    what: String,
    is: f64,
    at_most: f64,
}

impl Target {
    fn is_met(&self) -> bool {
        self.is <= self.at_most
    }

    fn json(&self) -> Value {
        json!({"what": self.what, "is": self.is, "at_most": self.at_most, "met": self.is_met()})
    }
}

/// The targets for which there are figures.
///
/// The lease and the watches are the operator's own: it needs them for one cluster as for a thousand. So they are
/// left out where there is one cluster, and counted where there are many.
fn targets(figures: &Value) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut add = |what: String, is: Option<f64>| {
        targets.extend(is.map(|is| Target {
            what,
            is,
            at_most: REQUESTS_AT_REST_MAX,
        }));
    };
    let one = &figures["rest"];
    add(
        "API requests a minute about one cluster at rest".to_owned(),
        per_minute(one, &["others"]),
    );
    let many = &figures["many"];
    let clusters = many["clusters"].as_f64().unwrap_or(1.0);
    add(
        format!("API requests a minute and cluster at rest, of {clusters} clusters, all of them"),
        per_minute(many, &["others", "leases", "watches"]).map(|all| all / clusters),
    );
    targets
}

/// Requests of these kinds in a minute of a rest.
fn per_minute(part: &Value, kinds: &[&str]) -> Option<f64> {
    let rest = &part["rest"];
    let seconds = rest["seconds"].as_f64()?;
    let count: f64 = kinds
        .iter()
        .filter_map(|kind| rest["requests"][kind].as_f64())
        .sum();
    Some(count * 60.0 / seconds)
}

fn table(figures: &Value, targets: &[Target]) -> String {
    let mut lines = Vec::new();
    if figures["ready"].is_array() {
        lines.extend(ready(&figures["ready"]));
    }
    if figures["outages"].is_array() {
        lines.extend(outages(&figures["outages"]));
    }
    if figures["rest"].is_object() {
        lines.push(String::new());
        lines.push("at rest, one cluster of three".to_owned());
        lines.extend(rest(&figures["rest"]));
    }
    if figures["many"].is_object() {
        lines.extend(many(&figures["many"]));
    }
    lines.push(String::new());
    for target in targets {
        let verdict = if target.is_met() { "met" } else { "MISSED" };
        lines.push(format!(
            "{}: {:.2}, at most {:.2}: {verdict}",
            target.what, target.is, target.at_most
        ));
    }
    lines.join("\n") + "\n"
}

fn ready(rows: &Value) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        format!(
            "{:<44}{:>10}{:>20}{:>10}",
            "from apply to Ready", "median s", "all s", "requests"
        ),
    ];
    for row in rows.as_array().into_iter().flatten() {
        let name = format!(
            "members {}, minHealthySeconds {}",
            row["members"], row["min_healthy_s"]
        );
        let seconds = numbers(&row["seconds"]);
        let requests = median(&numbers(&row["requests"]));
        lines.push(format!(
            "{name:<44}{:>10.1}{:>20}{requests:>10.0}",
            median(&seconds),
            joined(&seconds, 1)
        ));
    }
    lines
}

fn outages(rows: &Value) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        format!(
            "{:<44}{:>10}{:>20}{:>10}",
            "longest time without a write, ms", "median", "all", "took s"
        ),
    ];
    for row in rows.as_array().into_iter().flatten() {
        let gaps = numbers(&row["longest_ms"]);
        lines.push(format!(
            "{:<44}{:>10.0}{:>20}{:>10.1}",
            row["what"].as_str().unwrap_or_default(),
            median(&gaps),
            joined(&gaps, 0),
            median(&numbers(&row["took_s"]))
        ));
    }
    lines
}

fn many(many: &Value) -> Vec<String> {
    let clusters = many["clusters"].as_f64().unwrap_or(1.0);
    let (made, restart) = (&many["made"], &many["restart"]);
    let mut lines = vec![String::new(), format!("{clusters} clusters of one member")];
    let mut line = |name: &str, value: String| lines.push(format!("  {name:<46}{value:>16}"));
    let requests = |part: &Value| part["requests"]["others"].as_f64().unwrap_or_default();
    line("operator before there were any, MiB", mib(&many["alone"]));
    line("all made and Ready, s", number(&made["seconds"], 1));
    line(
        "API requests for each",
        format!("{:.1}", requests(made) / clusters),
    );
    line("CPU of the operator for it, s", number(&made["cpu_s"], 2));
    line("operator then, MiB", mib(&made["held"]));
    lines.push("  at rest".to_owned());
    lines.extend(rest(many));
    let mut line = |name: &str, value: String| lines.push(format!("  {name:<46}{value:>16}"));
    line(
        "all members together: CPU in that time, s",
        number(&many["members_at_rest"]["cpu_s"], 1),
    );
    line(
        "all members together: resident, MiB",
        format!(
            "{:.0}",
            many["members_at_rest"]["resident_kib"]
                .as_f64()
                .unwrap_or_default()
                / 1024.0
        ),
    );
    line(
        "operator started anew: all looked at, s",
        number(&restart["looked_s"], 2),
    );
    line("API requests", format!("{:.0}", requests(restart)));
    line("CPU until it rests, s", number(&restart["cpu_s"], 2));
    line("operator then, MiB", mib(&restart["held"]));
    lines
}

/// Memory as resident and anonymous.
fn mib(held: &Value) -> String {
    let mib = |name: &str| held[name].as_f64().unwrap_or_default() / 1024.0;
    format!("{:.1} ({:.1})", mib("resident_kib"), mib("anonymous_kib"))
}

fn rest(part: &Value) -> Vec<String> {
    let rest = &part["rest"];
    let mut text = Vec::new();
    let mut line = |name: &str, value: String| text.push(format!("  {name:<46}{value:>16}"));
    let minute = |kinds: &[&str]| format!("{:.2}", per_minute(part, kinds).unwrap_or_default());
    line("span, s", number(&rest["seconds"], 0));
    line("API requests a minute: lease", minute(&["leases"]));
    line(
        "API requests a minute: watches renewed",
        minute(&["watches"]),
    );
    line("API requests a minute: all others", minute(&["others"]));
    line("looks", number(&rest["looks"], 0));
    let cpu = rest["cpu_s"].as_f64().unwrap_or_default();
    let seconds = rest["seconds"].as_f64().unwrap_or(1.0);
    line("CPU, % of a core", format!("{:.2}", cpu * 100.0 / seconds));
    line("resident (anonymous), MiB", mib(&rest["held"]));
    line(
        "threads, descriptors",
        format!(
            "{}, {}",
            rest["held"]["threads"], rest["held"]["descriptors"]
        ),
    );
    text
}

fn numbers(values: &Value) -> Vec<f64> {
    values
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect()
}

fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn joined(numbers: &[f64], places: usize) -> String {
    let words: Vec<String> = numbers
        .iter()
        .map(|number| format!("{number:.places$}"))
        .collect();
    words.join(" ")
}

fn number(value: &Value, places: usize) -> String {
    format!("{:.places$}", value.as_f64().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_asked_for_is_understood_or_named() {
        let asked =
            Asked::read(&words("--quick --json --only rest --rest 60")).expect("all are ours");
        assert_eq!(
            asked,
            Asked {
                json: true,
                only: Some("rest".to_owned()),
                rounds: 1,
                clusters: 50,
                rest_s: 60,
            }
        );
        let wrong = |text: &str| Asked::read(&words(text)).expect_err("wrong");
        assert!(wrong("--only all").contains("none of ready, outages"));
        assert!(wrong("--rounds 0").contains("above 0"));
        assert!(wrong("--rounds").contains("needs a value"));
        assert!(wrong("--fast").contains("unknown argument"));
    }

    #[test]
    fn targets_are_judged_by_the_minute_and_cluster() {
        let rest = |others: u32| json!({"seconds": 30.0, "requests": {"watches": 3, "leases": 6, "others": others}});
        let figures = |one: u32, many: u32| {
            json!({
                "rest": {"clusters": 1, "rest": rest(one)},
                "many": {"clusters": 20, "rest": rest(many)},
            })
        };
        let verdicts = |figures: &Value| -> Vec<bool> {
            targets(figures).iter().map(Target::is_met).collect()
        };
        assert_eq!(verdicts(&figures(0, 1)), [true, true]);
        assert_eq!(verdicts(&figures(1, 2)), [false, false]);
        assert!(verdicts(&json!({"ready": []})).is_empty());
        let text = table(&figures(1, 1), &targets(&figures(1, 1)));
        assert!(
            text.contains("one cluster at rest: 2.00, at most 1.00: MISSED"),
            "{text}"
        );
        assert!(
            text.contains("all of them: 1.00, at most 1.00: met"),
            "{text}"
        );
    }
}
