//! The network: what becomes of a message.

use std::collections::BTreeSet;

use raftpb::{MemberId, Message, MessageType};
use seams::{Rng, SeededRng};

use crate::MILLISECOND_US;

/// A network's present mood.
#[derive(Debug, Default)]
pub struct Network {
    /// Ways on which nothing passes, from and to.
    cut: BTreeSet<(MemberId, MemberId)>,
    /// One message in so many is lost; 0: none.
    pub lose_one_in: u64,
    /// One message in so many takes long; 0: none.
    pub delay_one_in: u64,
}

impl Network {
    /// Cuts `side` off from `others`, both ways or only towards the others.
    pub fn cut(&mut self, side: &[MemberId], others: &[MemberId], both_ways: bool) {
        for &a in side {
            for &b in others.iter().filter(|b| !side.contains(b)) {
                self.cut.insert((a, b));
                if both_ways {
                    self.cut.insert((b, a));
                }
            }
        }
    }

    /// All is well again.
    pub fn heal(&mut self) {
        *self = Network::default();
    }

    /// Whether anything passes from one to the other.
    pub fn passes(&self, from: MemberId, to: MemberId) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// When the copies of a message arrive, in microseconds from now; none when it is lost.
    pub fn delays(&self, message: &Message, rng: &mut SeededRng) -> Vec<u64> {
        if !self.passes(MemberId(message.from), MemberId(message.to)) {
            return Vec::new();
        }
        if self.lose_one_in > 0 && rng.one_in(self.lose_one_in) {
            return Vec::new();
        }
        // Peers send a proposal once; a second copy would be a second request.
        let may_repeat = message.msg_type != i32::from(MessageType::MsgProp);
        let copies = if may_repeat && rng.one_in(50) { 2 } else { 1 };
        (0..copies).map(|_| self.delay(rng)).collect()
    }

    fn delay(&self, rng: &mut SeededRng) -> u64 {
        let usual = 200 + rng.below(2 * MILLISECOND_US);
        if self.delay_one_in > 0 && rng.one_in(self.delay_one_in) {
            usual + rng.below(400 * MILLISECOND_US)
        } else if rng.one_in(100) {
            usual + rng.below(20 * MILLISECOND_US)
        } else {
            usual
        }
    }
}
