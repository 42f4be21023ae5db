//! Medians, ratios, targets: pure arithmetic over what was measured.

use super::rows::{Bound, Figure, MEMORY, Row};
use super::{Memory, Rounds, Sample};

/// Etcd's own rounds must agree this well before its throughput or latency is a measure for anyone.
const AGREE: f64 = 0.15;
/// The figure that shows whether both sides gave the same answers.
pub(crate) const ANSWER_BYTES: &str = "answer B/op";
/// Agreement of fewer rounds says nothing.
const ROUNDS_MIN: usize = 3;

/// One figure of both sides.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Of the row, or `memory`.
    pub(crate) row: &'static str,
    pub(crate) figure: &'static str,
    pub(crate) etcd: Spread,
    pub(crate) ours: Spread,
    /// Ours over etcd's.
    pub(crate) ratio: f64,
    pub(crate) bound: Option<Bound>,
    pub(crate) verdict: Verdict,
}

/// Median, least and most of some rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// There is no target.
    None,
    Met,
    Missed,
    NotJudged(String),
}

impl Spread {
    /// `values` is not empty.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Self {
            median,
            least: values[0],
            most: values[values.len() - 1],
        }
    }

    /// How far the rounds lie apart, as a part of their median.
    pub(crate) fn apart(self) -> f64 {
        if self.most == self.least {
            0.0
        } else {
            (self.most - self.least) / self.median
        }
    }
}

/// All lines of a comparison; memory is judged when `whole`, after all requests of all rows.
pub(crate) fn judge(rows: &[&'static Row], etcd: &Rounds, ours: &Rounds, whole: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        type Value = fn(&Sample) -> f64;
        let figures: [(&'static str, Value, Option<Figure>); 7] = [
            ("CPU µs/op", |sample| sample.cpu_us, Some(Figure::Cpu)),
            ("op/s", |sample| sample.per_second, Some(Figure::Throughput)),
            ("p50 ms", |sample| sample.p50, Some(Figure::P50)),
            ("p99 ms", |sample| sample.p99, Some(Figure::P99)),
            ("p99.9 ms", |sample| sample.p999, None),
            ("written B/op", |sample| sample.written, None),
            (ANSWER_BYTES, |sample| sample.answer, None),
        ];
        for (name, value, figure) in figures {
            let bound = figure.and_then(|figure| row.bound(figure));
            let always = figure == Some(Figure::Cpu);
            let of = |rounds: &Rounds| Spread::of(rounds.full[index].iter().map(value).collect());
            let rounds = etcd.full[index].len();
            lines.push(line(row.name, name, of(etcd), of(ours), bound, |etcd| {
                if always {
                    None
                } else {
                    not_judged(etcd, rounds)
                }
            }));
        }
        if !etcd.rated[index].is_empty() {
            let figures: [(&'static str, Value); 3] = [
                ("p50 ms at 70 %", |sample| sample.p50),
                ("p99 ms at 70 %", |sample| sample.p99),
                ("CPU µs/op at 70 %", |sample| sample.cpu_us),
            ];
            for (name, value) in figures {
                let of =
                    |rounds: &Rounds| Spread::of(rounds.rated[index].iter().map(value).collect());
                lines.push(line(row.name, name, of(etcd), of(ours), None, |_| None));
            }
        }
    }
    let megabytes = |rounds: &Rounds, value: fn(&Memory) -> f64| {
        Spread::of(
            rounds
                .memory
                .iter()
                .map(|memory| value(memory) / 1e6)
                .collect(),
        )
    };
    for (name, value, bound) in [
        (
            "anonymous MB",
            (|memory| memory.anonymous) as fn(&Memory) -> f64,
            Some(MEMORY),
        ),
        ("resident MB", |memory| memory.resident, None),
    ] {
        lines.push(line(
            "memory",
            name,
            megabytes(etcd, value),
            megabytes(ours, value),
            bound,
            |_| (!whole).then(|| "only a part of the load ran".to_owned()),
        ));
    }
    lines
}

fn line(
    row: &'static str,
    figure: &'static str,
    etcd: Spread,
    ours: Spread,
    bound: Option<Bound>,
    doubt: impl FnOnce(Spread) -> Option<String>,
) -> Line {
    // Nothing against nothing is no difference.
    let ratio = if ours.median == etcd.median {
        1.0
    } else {
        ours.median / etcd.median
    };
    let verdict = match bound {
        None => Verdict::None,
        Some(bound) => match doubt(etcd) {
            Some(why) => Verdict::NotJudged(why),
            None if bound.holds(ratio) => Verdict::Met,
            None => Verdict::Missed,
        },
    };
    Line {
        row,
        figure,
        etcd,
        ours,
        ratio,
        bound,
        verdict,
    }
}

/// Why a figure that depends on the machine's mood says nothing this time.
fn not_judged(etcd: Spread, rounds: usize) -> Option<String> {
    if rounds < ROUNDS_MIN {
        return Some(format!(
            "{rounds} round(s), and {ROUNDS_MIN} are needed to see whether etcd's agree"
        ));
    }
    (etcd.apart() > AGREE).then(|| {
        format!(
            "etcd's own rounds are {:.0} % apart, and {:.0} % is the most",
            etcd.apart() * 100.0,
            AGREE * 100.0
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu_us: f64, per_second: f64) -> Sample {
        Sample {
            stages: Vec::new(),
            cpu_us,
            per_second,
            p50: 1.0,
            p99: 2.0,
            p999: 3.0,
            written: 0.0,
            answer: 100.0,
            client_us: 5.0,
            errors: 0,
            error: None,
        }
    }

    fn rounds(cpu: [f64; 3], per_second: [f64; 3], memory: f64) -> Rounds {
        Rounds {
            full: vec![
                cpu.iter()
                    .zip(per_second)
                    .map(|(cpu, speed)| sample(*cpu, speed))
                    .collect(),
            ],
            rated: vec![Vec::new()],
            memory: vec![
                Memory {
                    anonymous: memory,
                    resident: memory
                };
                3
            ],
        }
    }

    fn verdict(lines: &[Line], figure: &str) -> Verdict {
        lines
            .iter()
            .find(|line| line.figure == figure)
            .expect("a line of the put row")
            .verdict
            .clone()
    }

    const PUT: &Row = &super::super::rows::ROWS[1];

    #[test]
    fn the_median_is_what_is_judged() {
        let etcd = rounds([100.0, 90.0, 500.0], [100.0, 101.0, 102.0], 60e6);
        let ours = rounds([49.0, 50.0, 400.0], [130.0, 10.0, 125.0], 31e6);
        let lines = judge(&[PUT], &etcd, &ours, true);
        assert_eq!(verdict(&lines, "CPU µs/op"), Verdict::Met);
        assert_eq!(verdict(&lines, "op/s"), Verdict::Met);
        assert_eq!(verdict(&lines, "p99 ms"), Verdict::Missed);
        assert_eq!(verdict(&lines, "p99.9 ms"), Verdict::None);
        assert_eq!(verdict(&lines, "anonymous MB"), Verdict::Missed);
    }

    #[test]
    fn rounds_of_etcd_that_disagree_judge_no_throughput_but_always_cpu() {
        let etcd = rounds([100.0, 50.0, 150.0], [100.0, 80.0, 120.0], 60e6);
        let ours = rounds([60.0; 3], [100.0; 3], 30e6);
        let lines = judge(&[PUT], &etcd, &ours, false);
        assert_eq!(verdict(&lines, "CPU µs/op"), Verdict::Missed);
        assert!(
            matches!(verdict(&lines, "op/s"), Verdict::NotJudged(why) if why.contains("40 % apart"))
        );
        assert!(matches!(
            verdict(&lines, "anonymous MB"),
            Verdict::NotJudged(_)
        ));
    }

    #[test]
    fn a_missed_target_ends_the_command_with_an_error_and_one_not_judged_does_not() {
        let end = |etcd: &Rounds, ours: &Rounds, whole: bool| {
            let lines = judge(&[PUT], etcd, ours, whole);
            let failures = crate::compare::show::failures(&[PUT], &lines, ours);
            let ended = crate::compare::end(&failures).map_err(|error| error.to_string());
            (lines, ended)
        };
        // p99 is missed by the other side's own figures in each of these, if it is judged.
        let steady = rounds([100.0; 3], [100.0; 3], 60e6);
        let good = rounds([20.0; 3], [200.0; 3], 10e6);
        let (lines, ended) = end(&steady, &good, true);
        assert_eq!(verdict(&lines, "p99 ms"), Verdict::Missed);
        let missed = "put p99 ms is 1.00x of etcd's, target ≤ 0.8x";
        assert_eq!(ended, Err(missed.to_owned()));

        // Rounds of p99 that disagree: the same figure is not judged, and nothing else fails.
        let mut shaky = steady;
        for (sample, p99) in shaky.full[0].iter_mut().zip([1.0, 2.0, 3.0]) {
            sample.p99 = p99;
        }
        let (lines, ended) = end(&shaky, &good, true);
        assert!(matches!(verdict(&lines, "p99 ms"), Verdict::NotJudged(_)));
        assert_eq!(ended, Ok(()));

        // Memory counts after the whole load, and CPU always.
        let heavy = rounds([20.0; 3], [200.0; 3], 59e6);
        let (_, ended) = end(&shaky, &heavy, true);
        assert!(ended.is_err_and(|text| text.contains("anonymous MB")));
        let (lines, ended) = end(&shaky, &heavy, false);
        assert!(matches!(
            verdict(&lines, "anonymous MB"),
            Verdict::NotJudged(_)
        ));
        assert_eq!(ended, Ok(()));
        let slow = rounds([90.0; 3], [200.0; 3], 10e6);
        let (_, ended) = end(&shaky, &slow, false);
        assert!(ended.is_err_and(|text| text.contains("CPU µs/op")));
    }

    #[test]
    fn an_even_number_of_rounds_has_a_median_too() {
        assert_eq!(Spread::of(vec![4.0, 1.0, 3.0, 2.0]).median, 2.5);
    }
}
