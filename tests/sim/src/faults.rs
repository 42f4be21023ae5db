//! What goes wrong, and for how long.

use seams::{Rng, SeededRng};

use crate::{MILLISECOND_US, SECOND_US};

/// A fault that begins now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One member loses power; what it had not synced is gone, in part.
    PowerCut,
    /// All members lose power at once.
    PowerCutOfAll,
    /// One member's process ends; its disk keeps everything.
    Kill,
    /// The network falls into two parts.
    Partition,
    /// One member hears nobody, or nobody hears it.
    OneWay,
    /// The leader is cut off.
    LeaderCutOff,
    /// Messages are lost and delayed.
    Loss,
    /// One member's disk is slow.
    SlowDisk,
    /// One member stands still.
    Pause,
    /// The lead is handed to somebody.
    Transfer,
}

/// All kinds; those that find most stand twice.
const KINDS: [Fault; 14] = [
    Fault::PowerCut,
    Fault::PowerCut,
    Fault::PowerCutOfAll,
    Fault::PowerCutOfAll,
    Fault::Kill,
    Fault::Partition,
    Fault::OneWay,
    Fault::LeaderCutOff,
    Fault::LeaderCutOff,
    Fault::Loss,
    Fault::SlowDisk,
    Fault::SlowDisk,
    Fault::Pause,
    Fault::Transfer,
];

impl Fault {
    /// Any.
    pub fn any(rng: &mut SeededRng) -> Fault {
        KINDS[rng.below(KINDS.len() as u64) as usize]
    }

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Fault::PowerCut => "power cut",
            Fault::PowerCutOfAll => "power cut of all",
            Fault::Kill => "kill",
            Fault::Partition => "partition",
            Fault::OneWay => "one-way cut",
            Fault::LeaderCutOff => "leader cut off",
            Fault::Loss => "loss",
            Fault::SlowDisk => "slow disk",
            Fault::Pause => "pause",
            Fault::Transfer => "transfer",
        }
    }
}

/// Time until the next fault.
pub fn gap_us(rng: &mut SeededRng) -> u64 {
    500 * MILLISECOND_US + rng.below(4 * SECOND_US)
}

/// How long a fault lasts: mostly short, now and then long enough for elections and snapshots.
pub fn duration_us(rng: &mut SeededRng) -> u64 {
    if rng.one_in(3) {
        2 * SECOND_US + rng.below(6 * SECOND_US)
    } else {
        50 * MILLISECOND_US + rng.below(2 * SECOND_US)
    }
}
