//! What a load cost the members, and what its clients saw.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use local::cluster::Cluster;

use crate::load::Outcome;
use crate::proc::{self, ThreadUse};

/// Counters of all members at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Usage {
    cpu: Duration,
    written: u64,
    threads: BTreeMap<String, ThreadUse>,
}

/// What the threads of one name cost per answer, in all members.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) cpu_us: f64,
    pub(crate) wakes: f64,
}

/// One load on one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Processor time of all members per answer, in microseconds.
    pub(crate) cpu_us: f64,
    /// Answers a second.
    pub(crate) per_second: f64,
    /// The same by thread: a stage of a request's way is a thread.
    pub(crate) stages: Vec<Stage>,
    /// Milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// Bytes that all members wrote to the disk, per answer.
    pub(crate) written: f64,
    /// Bytes of an answer.
    pub(crate) answer: f64,
    /// Our own processor time per answer, in microseconds.
    pub(crate) client_us: f64,
    pub(crate) errors: u64,
    /// The most frequent error's text.
    pub(crate) error: Option<String>,
}

/// Memory of a member, the mean of all, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) anonymous: f64,
    pub(crate) resident: f64,
}

fn pids(cluster: &Cluster) -> impl Iterator<Item = Result<String>> {
    cluster.members.iter().map(|member| {
        let pid = member
            .pid()
            .with_context(|| format!("{} does not run any more", member.name))?;
        Ok(pid.to_string())
    })
}

impl Usage {
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let mut sum = Self {
            cpu: Duration::ZERO,
            written: 0,
            threads: BTreeMap::new(),
        };
        for pid in pids(cluster) {
            let pid = pid?;
            sum.cpu += proc::cpu(&pid)?;
            sum.written += proc::written(&pid)?;
            for (name, used) in proc::threads(&pid)? {
                let all = sum.threads.entry(name).or_default();
                all.cpu += used.cpu;
                all.wakes += used.wakes;
            }
        }
        Ok(sum)
    }

    /// What a load cost that began at `self` and whose last effects were over at `after`.
    pub(crate) fn cost(&self, after: &Self, outcome: &Outcome) -> Sample {
        let answers = outcome.answered().max(1) as f64;
        let latency = outcome.latency();
        let ms = |percentile| latency.value_at_percentile(percentile) as f64 / 1e6;
        let stages = after.threads.iter().map(|(name, used)| {
            let before = self.threads.get(name).copied().unwrap_or_default();
            Stage {
                name: name.clone(),
                cpu_us: used.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / answers,
                wakes: used.wakes.saturating_sub(before.wakes) as f64 / answers,
            }
        });
        Sample {
            stages: stages.collect(),
            cpu_us: after.cpu.saturating_sub(self.cpu).as_secs_f64() * 1e6 / answers,
            per_second: outcome.per_second(),
            p50: ms(50.0),
            p99: ms(99.0),
            p999: ms(99.9),
            written: after.written.saturating_sub(self.written) as f64 / answers,
            answer: outcome.bytes as f64 / answers,
            client_us: outcome.client_cpu.as_secs_f64() * 1e6 / answers,
            errors: outcome.failed(),
            error: outcome
                .errors
                .iter()
                .max_by_key(|(_, count)| **count)
                .map(|(text, _)| text.clone()),
        }
    }
}

impl Memory {
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let mut sum = Self {
            anonymous: 0.0,
            resident: 0.0,
        };
        for pid in pids(cluster) {
            let (anonymous, resident) = proc::memory(&pid?)?;
            sum.anonymous += anonymous as f64;
            sum.resident += resident as f64;
        }
        let members = cluster.members.len() as f64;
        Ok(Self {
            anonymous: sum.anonymous / members,
            resident: sum.resident / members,
        })
    }
}
