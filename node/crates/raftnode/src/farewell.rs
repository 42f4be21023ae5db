//! The last words of a leader that was removed.
//!
//! A leader commits its own removal and is gone. Whoever has not heard that it is committed
//! still counts the old configuration: of two voters the one that stays would need the vote of
//! the one that left, for ever. So for some ticks the removed leader goes on telling what is
//! committed, by heartbeats, which it may: nobody else leads in its term, and nothing is
//! appended. Early on it also asks the voter whose log is longest to campaign at once, so that
//! the others need not wait for an election time-out. It falls silent when it hears of a later
//! term. etcd's removed leader goes on for as long, with all of raft.

use raft::{Raft, StateRole};
use raftpb::{Message, MessageType};

use crate::log::Log;

/// Ticks between the removal and the end (etcd: `stopWithDelay`, ten ticks).
const FAREWELL_TICKS: u32 = 10;

/// The tick in which a voter is asked to campaign: by then it has applied the removal.
const HAND_OVER_TICK: u32 = 2;

#[derive(Debug)]
struct Peer {
    id: u64,
    matched: u64,
    votes: bool,
}

/// What is left to do after a removal.
#[derive(Debug)]
pub(crate) struct Farewell {
    id: u64,
    term: u64,
    committed: u64,
    peers: Vec<Peer>,
    ticks: u32,
}

impl Farewell {
    /// Begins at the removal, while a leader still knows its followers' progress. A follower
    /// that was removed has nothing to tell.
    pub fn new(raft: &Raft<Log>) -> Farewell {
        let mut peers = Vec::new();
        if raft.state == StateRole::Leader {
            peers.extend(raft.prs().iter().map(|(&id, progress)| Peer {
                id,
                matched: progress.matched,
                votes: raft.prs().conf().voters().contains(id),
            }));
            peers.sort_unstable_by_key(|peer| peer.id);
        }
        Farewell {
            id: raft.id,
            term: raft.term,
            committed: raft.raft_log.committed,
            peers,
            ticks: 0,
        }
    }

    /// A message came, which is not answered.
    pub fn hears(&mut self, message: &Message) {
        let asks_only = message.msg_type == i32::from(MessageType::MsgPreVote);
        if message.term > self.term && !asks_only {
            self.peers.clear();
        }
    }

    /// A tick.
    pub fn tick(&mut self, messages: &mut Vec<Message>) {
        self.ticks += 1;
        if self.is_over() {
            return;
        }
        for peer in &self.peers {
            messages.push(Message {
                commit: peer.matched.min(self.committed),
                ..self.message(MessageType::MsgHeartbeat, peer.id)
            });
        }
        let voters = self.peers.iter().filter(|peer| peer.votes);
        let longest = voters.max_by_key(|peer| (peer.matched, std::cmp::Reverse(peer.id)));
        if let Some(next) = longest
            && self.ticks == HAND_OVER_TICK
        {
            messages.push(self.message(MessageType::MsgTimeoutNow, next.id));
        }
    }

    /// Time to end.
    pub fn is_over(&self) -> bool {
        self.ticks >= FAREWELL_TICKS
    }

    fn message(&self, msg_type: MessageType, to: u64) -> Message {
        Message {
            msg_type: msg_type.into(),
            from: self.id,
            to,
            term: self.term,
            ..Message::default()
        }
    }
}
