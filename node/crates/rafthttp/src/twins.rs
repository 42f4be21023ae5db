//! Two processes that run as one member: a copied data directory, started twice.
//!
//! Every process of ours names itself, by chance, on each request. Of two that live at the same
//! time the newer one takes the older one's stream, and the older one dials again: a process that
//! was replaced and comes back shows that both live. From then on the newer one is refused, and
//! stops by itself. A member that was started again takes the streams of a process that is gone,
//! which never comes back.
//!
//! An etcd member does not name its process; nothing is found out about it here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raftpb::MemberId;

/// How long after the newer process's first request a request of the older one may still have
/// been under way when it ended: in a socket's buffer while this process did not get the processor.
/// Both dial every 100 ms, so a twin is found right after. A restarted member that was taken for one
/// would have to be started once more.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// Refused processes that are remembered for one member.
const REFUSED_MAX: usize = 16;

#[derive(Default)]
struct Line {
    older: u64,
    newer: Option<(u64, Instant)>,
    refused: Vec<u64>,
}

/// Who runs as which member, as far as it was seen.
#[derive(Default)]
pub(crate) struct Twins {
    lines: Mutex<BTreeMap<MemberId, Line>>,
}

/// What to do with a process's request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing is wrong.
    Alone,
    /// Another process that runs as this member has just been found out; this one is the older.
    Twin,
    /// This one is the newer of two.
    Refused,
}

impl Twins {
    /// A process dials a stream as this member.
    pub(crate) fn dials(&self, member: MemberId, process: u64, now: Instant) -> Found {
        let mut lines = self.lines.lock();
        let line = lines.entry(member).or_insert_with(|| Line {
            older: process,
            ..Line::default()
        });
        if line.refused.contains(&process) {
            return Found::Refused;
        }
        match line.newer {
            _ if process == line.older => match line.newer {
                Some((newer, since)) if now.duration_since(since) >= UNDER_WAY => {
                    line.newer = None;
                    line.refused.push(newer);
                    if line.refused.len() > REFUSED_MAX {
                        line.refused.remove(0);
                    }
                    Found::Twin
                }
                _ => Found::Alone,
            },
            Some((newer, _)) if newer == process => Found::Alone,
            newer => {
                if let Some((newer, _)) = newer {
                    line.older = newer;
                }
                line.newer = Some((process, now));
                Found::Alone
            }
        }
    }

    /// Whether this process was found out as the newer of two.
    pub(crate) fn is_refused(&self, member: MemberId, process: u64) -> bool {
        let lines = self.lines.lock();
        let line = lines.get(&member);
        line.is_some_and(|line| line.refused.contains(&process))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: MemberId = MemberId(7);

    /// Processes dial, each with its time in milliseconds.
    fn found(dials: &[(u64, u64)]) -> Vec<Found> {
        let (twins, start) = (Twins::default(), Instant::now());
        let dial = |&(process, at)| twins.dials(MEMBER, process, start + Duration::from_millis(at));
        dials.iter().map(dial).collect()
    }

    #[test]
    fn a_process_that_was_replaced_does_not_come_back() {
        use Found::Alone;
        // Starts and starts again, a late request of the first one, and a third.
        let dials = [
            (1, 0),
            (1, 0),
            (2, 900),
            (1, 1310),
            (2, 1400),
            (3, 2000),
            (2, 2020),
        ];
        for one in found(&dials) {
            assert_eq!(one, Alone);
        }
    }

    #[test]
    fn the_newer_of_two_that_live_is_refused() {
        use Found::{Alone, Refused, Twin};
        let dials = [
            (1, 0),
            (2, 900),
            (1, 1000),
            (2, 1100),
            (1, 1400),
            (2, 1401),
            (1, 5000),
            (2, 9000),
            (3, 9100),
        ];
        let expected = [
            Alone, Alone, Alone, Alone, Twin, Refused, Alone, Refused, Alone,
        ];
        assert_eq!(found(&dials), expected);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (twins, start) = (Twins::default(), Instant::now());
        for copy in 2..1000 {
            let at = start + Duration::from_secs(copy);
            twins.dials(MEMBER, 1, at);
            twins.dials(MEMBER, copy, at);
            let later = at + Duration::from_millis(500);
            assert_eq!(twins.dials(MEMBER, 1, later), Found::Twin);
        }
        assert_eq!(twins.lines.lock()[&MEMBER].refused.len(), REFUSED_MAX);
    }
}
