//! Read indexes, by rounds.
//!
//! A linearizable read needs an index that was committed after the read began, confirmed by a
//! leader that a majority still followed then. raft-rs has a protocol for it, with three faults
//! (it drops reads before the first commit of a term, it confirms a retry by late answers to the
//! first try, and it keys both by bytes that the caller chose). So the protocol is ours, and of
//! raft-rs only the heartbeat with a context is used:
//!
//! ```text
//!   own reads, MsgReadIndex of peers ──▶ waiting ──▶ one round ──▶ own: index
//!                                           ▲            │         peer: MsgReadIndexResp
//!                                           │            ▼
//!                       all that come while │   leader:   heartbeats with the context
//!                       a round is open     │   follower: MsgReadIndex to the leader
//! ```
//!
//! One round is open at a time and serves all who waited when it began: a thousand readers cost
//! one exchange of heartbeats. A round that gets no answer is asked again under a new context;
//! an answer to any of its contexts counts, since each was asked after all of its readers came.
//! A context is never used twice, also not by the next run of this member: the counter starts
//! at a random number.
//!
//! This file knows no raft: the node asks it what to send and tells it what came.

use std::collections::VecDeque;

use raftpb::{Entry, MemberId};

use crate::turn::{ReadFailure, ReadResult};

/// Reads that may wait for an index, ours and peers'. Beyond this they fail at once: the door
/// lets far fewer requests in.
pub const READS_WAITING_MAX: usize = 1 << 16;

/// Contexts under which a round can still be answered. With a retry each 500 ms more than any
/// round lives to need.
const CONTEXTS_MAX: usize = 32;

/// Who waits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reader {
    /// One of ours, by its tag.
    Own(u64),
    /// A follower: its own entry is sent back unchanged.
    Peer(MemberId, Entry),
}

#[derive(Debug)]
struct Waiting {
    reader: Reader,
    since: u64,
}

/// Where a round was sent: to which leader in which term. Another place needs another try.
pub(crate) type Place = (u64, MemberId);

#[derive(Debug)]
struct Round {
    contexts: Vec<u64>,
    readers: Vec<Waiting>,
    sent_at: u64,
    sent_to: Option<Place>,
}

/// All reads that have no index yet.
#[derive(Debug)]
pub(crate) struct Reads {
    waiting: VecDeque<Waiting>,
    round: Option<Round>,
    next_context: u64,
    retry_ticks: u64,
    timeout_ticks: u64,
}

impl Reads {
    pub fn new(first_context: u64, retry_ticks: u64, timeout_ticks: u64) -> Reads {
        Reads {
            waiting: VecDeque::new(),
            round: None,
            next_context: first_context,
            retry_ticks,
            timeout_ticks,
        }
    }

    /// A read begins. False when too many wait.
    pub fn add(&mut self, reader: Reader, now: u64) -> bool {
        let open = self.round.as_ref().map_or(0, |round| round.readers.len());
        if self.waiting.len() + open >= READS_WAITING_MAX {
            return false;
        }
        self.waiting.push_back(Waiting { reader, since: now });
        true
    }

    /// The context to be asked under, now, at this place; `None` when there is nothing to ask.
    /// The caller has seen to it that the place can answer.
    pub fn ask(&mut self, place: Place, now: u64) -> Option<u64> {
        if self.round.is_none() {
            if self.waiting.is_empty() {
                return None;
            }
            self.round = Some(Round {
                contexts: Vec::new(),
                readers: self.waiting.drain(..).collect(),
                sent_at: now,
                sent_to: None,
            });
        }
        let round = self.round.as_mut()?;
        if round.sent_to == Some(place) && now < round.sent_at + self.retry_ticks {
            return None;
        }
        let context = self.next_context;
        self.next_context = self.next_context.wrapping_add(1);
        if round.contexts.len() == CONTEXTS_MAX {
            round.contexts.remove(0);
        }
        round.contexts.push(context);
        round.sent_at = now;
        round.sent_to = Some(place);
        Some(context)
    }

    /// An answer came. Gives the readers whom it serves; none when it is late or not ours.
    pub fn answered(&mut self, context: u64) -> Vec<Reader> {
        let is_ours = |round: &Round| round.contexts.contains(&context);
        if !self.round.as_ref().is_some_and(is_ours) {
            return Vec::new();
        }
        let round = self.round.take().expect("it was looked at");
        round
            .readers
            .into_iter()
            .map(|waiting| waiting.reader)
            .collect()
    }

    /// We do not lead: peers who asked us ask somebody else.
    pub fn forget_peers(&mut self) {
        let own = |waiting: &Waiting| matches!(waiting.reader, Reader::Own(_));
        self.waiting.retain(own);
        if let Some(round) = &mut self.round {
            round.readers.retain(own);
        }
        self.close_if_empty();
    }

    /// Fails what has waited too long.
    pub fn expire(&mut self, now: u64, results: &mut Vec<ReadResult>) {
        let timeout = self.timeout_ticks;
        let mut keep = |waiting: &Waiting| {
            let lives = now < waiting.since + timeout;
            if !lives && let Reader::Own(tag) = waiting.reader {
                results.push(ReadResult {
                    tag,
                    result: Err(ReadFailure::TimedOut),
                });
            }
            lives
        };
        if let Some(round) = &mut self.round
            && round
                .readers
                .first()
                .is_some_and(|first| now >= first.since + timeout)
        {
            round.readers.retain(&mut keep);
        }
        // They stand in the order in which they came.
        while let Some(front) = self.waiting.front()
            && !keep(front)
        {
            self.waiting.pop_front();
        }
        self.close_if_empty();
    }

    /// Fails everything.
    pub fn fail_all(&mut self, failure: ReadFailure, results: &mut Vec<ReadResult>) {
        let open = self.round.take().map_or(Vec::new(), |round| round.readers);
        for waiting in open.into_iter().chain(self.waiting.drain(..)) {
            if let Reader::Own(tag) = waiting.reader {
                results.push(ReadResult {
                    tag,
                    result: Err(failure),
                });
            }
        }
    }

    /// Does anybody wait?
    pub fn is_empty(&self) -> bool {
        self.round.is_none() && self.waiting.is_empty()
    }

    fn close_if_empty(&mut self) {
        if self
            .round
            .as_ref()
            .is_some_and(|round| round.readers.is_empty())
        {
            self.round = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Place = (1, MemberId(1));
    const B: Place = (2, MemberId(2));

    fn reads() -> Reads {
        Reads::new(u64::MAX, 5, 20)
    }

    #[test]
    fn a_round_serves_all_who_came_before_it_and_nobody_later() {
        let mut reads = reads();
        reads.add(Reader::Own(1), 0);
        reads.add(Reader::Own(2), 0);
        let context = reads.ask(A, 0).expect("two wait");
        reads.add(Reader::Own(3), 0);
        assert_eq!(reads.ask(A, 0), None, "one round at a time");
        assert_eq!(reads.answered(context), [Reader::Own(1), Reader::Own(2)]);
        assert_eq!(reads.answered(context), [], "late");
        let second = reads.ask(A, 0).expect("one waits");
        assert_ne!(context, second);
        assert_eq!(reads.answered(context), []);
        assert_eq!(reads.answered(second), [Reader::Own(3)]);
        assert!(reads.is_empty());
    }

    #[test]
    fn a_retry_has_a_new_context_and_any_answer_counts() {
        let mut reads = reads();
        reads.add(Reader::Own(1), 0);
        let first = reads.ask(A, 0).expect("one waits");
        assert_eq!(reads.ask(A, 4), None, "too early");
        let second = reads.ask(A, 5).expect("time to retry");
        assert_ne!(first, second);
        let third = reads.ask(B, 5).expect("another leader");
        assert_ne!(second, third);
        assert_eq!(reads.answered(first), [Reader::Own(1)]);
        assert_eq!(reads.answered(third), []);
    }

    #[test]
    fn readers_expire_and_peers_are_forgotten() {
        let mut reads = reads();
        let mut results = Vec::new();
        reads.add(Reader::Own(1), 0);
        reads.add(Reader::Peer(MemberId(2), Entry::default()), 0);
        reads.ask(A, 0);
        reads.add(Reader::Own(3), 7);
        reads.forget_peers();
        reads.expire(19, &mut results);
        assert_eq!(results, []);
        reads.expire(20, &mut results);
        assert_eq!(
            results,
            [ReadResult {
                tag: 1,
                result: Err(ReadFailure::TimedOut)
            }]
        );
        assert!(!reads.is_empty());
        reads.expire(27, &mut results);
        assert_eq!(results.len(), 2);
        assert!(reads.is_empty());
    }
}
