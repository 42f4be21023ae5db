//! When the leader compacts by itself (etcd `v3compactor`): a function of times and revisions.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::AutoCompaction;

/// Revision mode looks this often.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Periodic mode compacts this often, or once a retention if that is shorter.
const PERIODIC_INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);
/// In between it notes this many revisions.
const NOTES: u32 = 10;

/// What `--auto-compaction-mode` and `-retention` come to.
#[derive(Debug)]
pub enum Compactor {
    /// keeps this many revisions
    Revision {
        /// how many
        keep: i64,
        /// compacted last
        last: i64,
    },
    /// keeps what is younger than the retention
    Periodic {
        /// the retention
        retention: Duration,
        /// revisions of the last looks, the oldest first
        noted: VecDeque<i64>,
        /// compacted last
        last: i64,
        /// when; at first the start
        last_at: Instant,
        /// the first compaction waits for a whole retention, the others for an interval
        wait: Duration,
    },
}

impl Compactor {
    /// Begins now.
    pub fn new(mode: AutoCompaction, now: Instant) -> Self {
        match mode {
            AutoCompaction::Revision(keep) => Self::Revision { keep, last: 0 },
            AutoCompaction::Periodic(retention) => Self::Periodic {
                retention,
                noted: VecDeque::new(),
                last: 0,
                last_at: now,
                wait: retention,
            },
        }
    }

    /// Between two looks.
    pub fn interval(&self) -> Duration {
        match self {
            Self::Revision { .. } => REVISION_INTERVAL,
            Self::Periodic { retention, .. } => (*retention).min(PERIODIC_INTERVAL_MAX) / NOTES,
        }
    }

    /// Before a wait of [`Compactor::interval`]: the store's revision.
    pub fn note(&mut self, revision: i64) {
        let interval = self.interval();
        if let Self::Periodic {
            retention, noted, ..
        } = self
        {
            noted.push_back(revision);
            let kept = retention.as_nanos() / interval.as_nanos().max(1) + 1;
            if noted.len() as u128 > kept {
                noted.pop_front();
            }
        }
    }

    /// After the wait: the revision to compact to, if it is time.
    pub fn due(&self, revision: i64, now: Instant) -> Option<i64> {
        match self {
            Self::Revision { keep, last } => {
                let target = revision - keep;
                (target > 0 && target != *last).then_some(target)
            }
            Self::Periodic {
                noted,
                last,
                last_at,
                wait,
                ..
            } => {
                let target = *noted.front()?;
                let is_time = now.saturating_duration_since(*last_at) >= *wait;
                (is_time && target != *last).then_some(target)
            }
        }
    }

    /// A compaction was due: whether it came to pass, by us or by another before us.
    pub fn done(&mut self, target: i64, compacted: bool, now: Instant) {
        match self {
            Self::Revision { last, .. } => {
                if compacted {
                    *last = target;
                }
            }
            Self::Periodic {
                retention,
                last,
                last_at,
                wait,
                ..
            } => {
                *wait = (*retention).min(PERIODIC_INTERVAL_MAX);
                if compacted {
                    (*last, *last_at) = (target, now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs for a time, with a revision more in every second, and says what was compacted when.
    fn run(mode: AutoCompaction, lasts: Duration) -> Vec<(u64, i64)> {
        let began = Instant::now();
        let mut compactor = Compactor::new(mode, began);
        let mut now = began;
        let revision = |now: Instant| 1 + (now - began).as_secs().cast_signed();
        let mut compacted = Vec::new();
        while now - began < lasts {
            compactor.note(revision(now));
            now += compactor.interval();
            if let Some(target) = compactor.due(revision(now), now) {
                compacted.push(((now - began).as_secs(), target));
                compactor.done(target, true, now);
            }
        }
        compacted
    }

    #[test]
    fn revision_mode_keeps_so_many_revisions_every_five_minutes() {
        let compacted = run(AutoCompaction::Revision(400), Duration::from_secs(1000));
        assert_eq!(compacted, [(600, 201), (900, 501), (1200, 801)]);
    }

    #[test]
    fn periodic_mode_compacts_once_a_retention_to_where_it_was_a_retention_ago() {
        let retention = AutoCompaction::Periodic(Duration::from_secs(600));
        let compacted = run(retention, Duration::from_secs(2400));
        // The oldest of eleven notes, as in etcd; the first time there are only ten.
        assert_eq!(
            compacted,
            [(600, 1), (1200, 541), (1800, 1141), (2400, 1741)]
        );
    }

    #[test]
    fn a_long_retention_is_kept_hour_by_hour() {
        let hours = |hours: u64| Duration::from_secs(3600 * hours);
        let compacted = run(AutoCompaction::Periodic(hours(3)), hours(5));
        let at: Vec<u64> = compacted.iter().map(|(at, _)| at / 3600).collect();
        assert_eq!(at, [3, 4, 5]);
        for (at, revision) in compacted {
            let kept = at.cast_signed() - revision;
            assert!((3 * 3600 - 1..4 * 3600).contains(&kept), "{kept} s kept");
        }
    }

    #[test]
    fn what_failed_is_tried_again_and_what_stands_still_is_left_alone() {
        let began = Instant::now();
        let retention = Duration::from_secs(100);
        let mut compactor = Compactor::new(AutoCompaction::Periodic(retention), began);
        let mut now = began;
        for _ in 0..10 {
            compactor.note(7);
            now += compactor.interval();
        }
        assert_eq!(compactor.due(7, now), Some(7));
        compactor.done(7, false, now);
        compactor.note(7);
        now += compactor.interval();
        assert_eq!(compactor.due(7, now), Some(7));
        compactor.done(7, true, now);
        compactor.note(7);
        assert_eq!(compactor.due(7, now + 2 * retention), None);
    }
}
