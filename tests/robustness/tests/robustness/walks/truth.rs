//! What the test knows of the members' life, with the time of every change: who ran when, and
//! which links were cut.
//!
//! Starts and heals are noted before they are done, ends and cuts after: so what is said to be
//! surely in doubt was so in fact.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorum::{Role, interval};

/// A leader counts on who was heard within one election time-out (1 s here); this much later it
/// must have seen that somebody is gone. The rest is for a loop that got no processor.
const SEEN_AFTER: Duration = Duration::from_millis(2500);

/// The clock of the walks and of the members' logs.
pub fn now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("the clock is past 1970")
}

/// What happened to the members, in order of time.
#[derive(Default)]
pub struct Truth {
    /// By place: when it began to run, when it ended.
    runs: BTreeMap<usize, Vec<(Duration, bool)>>,
    /// By link: when it was cut, when it healed.
    cuts: BTreeMap<(usize, usize), Vec<(Duration, bool)>>,
}

impl Truth {
    pub fn starts(&mut self, place: usize, at: Duration) {
        self.runs.entry(place).or_default().push((at, true));
    }

    pub fn has_ended(&mut self, place: usize, at: Duration) {
        self.runs.entry(place).or_default().push((at, false));
    }

    pub fn is_cut(&mut self, a: usize, b: usize, at: Duration) {
        let link = (a.min(b), a.max(b));
        self.cuts.entry(link).or_default().push((at, true));
    }

    pub fn heals(&mut self, a: usize, b: usize, at: Duration) {
        let link = (a.min(b), a.max(b));
        self.cuts.entry(link).or_default().push((at, false));
    }

    /// When the last thing happened.
    pub fn last_change(&self) -> Duration {
        let all = self.runs.values().chain(self.cuts.values()).flatten();
        all.map(|(at, _)| *at).max().unwrap_or_default()
    }

    /// Whether `judge`, whatever it was told and however slow it is, must have had `other` in
    /// doubt at this moment.
    pub fn surely_in_doubt(&self, judge: usize, other: usize, role: Role, at: Duration) -> bool {
        if judge == other {
            return false;
        }
        let runs = |place| self.runs.get(&place).map_or(&[][..], Vec::as_slice);
        // Nobody is connected for longer than both have been running; but of one that ended just
        // before it started again, the end need not have been seen.
        let too_young = |place| {
            let mut past = runs(place).iter().rev().filter(|(when, _)| *when <= at);
            let young = past
                .next()
                .is_some_and(|(when, up)| *up && *when + interval(role) > at);
            let ended = past.next().map(|(when, _)| *when);
            young && (place == judge || ended.is_none_or(|when| when + SEEN_AFTER <= at))
        };
        let link = (judge.min(other), judge.max(other));
        let cuts = self.cuts.get(&link).map_or(&[][..], Vec::as_slice);
        throughout(runs(other), false, at)
            || throughout(cuts, true, at)
            || too_young(other)
            || too_young(judge)
    }
}

/// Whether the state was `wanted` for so long before `at` that it must have been seen. At the
/// beginning nobody runs and nothing is cut.
fn throughout(history: &[(Duration, bool)], wanted: bool, at: Duration) -> bool {
    let (mut state, mut since) = (false, Duration::ZERO);
    for (when, next) in history.iter().filter(|(when, _)| *when <= at) {
        if *next != state {
            (state, since) = (*next, *when);
        }
    }
    state == wanted && since + SEEN_AFTER <= at
}
