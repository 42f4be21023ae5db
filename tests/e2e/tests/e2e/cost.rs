//! What a put costs, beside etcd, on the same machine in the same minute.

use std::process::Command;

/// CPU per put of our three members over that of three etcd 3.7.3, under 1000 clients, in the test profile:
/// the median of `quorate bench compare --quick --only put` on two cores. A change that makes puts cheaper
/// lowers it.
const COMMITTED_RATIO: f64 = 0.27;

/// What the machine does meanwhile moves the ratio by a fifth; a lost design moves it by more than this.
const MARGIN: f64 = 1.5;

/// A busy machine can spoil one measurement. It does not spoil three.
const TRIES: usize = 3;

#[test]
fn a_put_costs_no_more_of_etcds_cpu_than_it_did() {
    let Some(etcd) = testkit::tool("etcd") else {
        return testkit::left_out("cost", "etcd was not built; `make tools` builds it");
    };
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let ratio = measure(&etcd);
        if ratio <= COMMITTED_RATIO * MARGIN {
            return;
        }
        seen.push(ratio);
    }
    panic!(
        "CPU per put over etcd's was {seen:.2?}, expected at most {MARGIN} times the {COMMITTED_RATIO} that is \
         committed; profile it with `make bench ARGS=\"--only put\"`"
    );
}

fn measure(etcd: &std::path::Path) -> f64 {
    let dir = tempfile::tempdir().expect("a folder for the members");
    let output = Command::new(testkit::quorate())
        .args(["bench", "compare", "--quick", "--only=put", "--json"])
        .arg(format!("--etcd={}", etcd.display()))
        .arg(format!("--dir={}", dir.path().display()))
        // Three members, two ports each.
        .arg(format!("--base-port={}", testkit::ports::row(6)))
        .output()
        .expect("our program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    let result: serde_json::Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("no JSON: {error}\n{text}\n{said}"));
    let lines = result["lines"].as_array().expect("lines");
    let cpu = lines.iter().find(|line| line["figure"] == "CPU µs/op");
    let ratio = cpu.and_then(|line| line["ratio"].as_f64());
    ratio.unwrap_or_else(|| panic!("no ratio of CPU\n{text}\n{said}"))
}
