//! Answers that tell a leader nothing, held back until there is something to tell.
//!
//! An append with entries is acknowledged once they are durable. Once they are committed, the
//! leader says so with an empty append, and the answer to that one repeats the acknowledgement.
//! With one client this doubles the answers, and each costs a wake-up and two system calls here
//! and as many at the leader:
//!
//! ```text
//! leader    append 7 ─▶          ─▶ commit 7        ─▶ append 8
//! follower            ack 7 ─▶             (ack 7)             ack 8 ─▶
//! ```
//!
//! So a repeated acknowledgement is held: an acknowledgement of more replaces it, and a tick sends
//! it at the latest. Raft allows any message
//! to be late. The one leader that waits for such an answer is one that probes; its appends bring
//! no new commit index, and are answered at once.

use raftpb::{Message, MessageType};

/// What the leader was told last, and the repetition that is held.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    /// leader, term, and the index it knows to be durable here
    told: (u64, u64, u64),
    /// the commit index at the last look
    committed: u64,
    held: Option<Message>,
}

impl Echo {
    /// Looks at what a turn sends. `committed` is the commit index after it.
    pub(crate) fn pass(&mut self, messages: &mut Vec<Message>, committed: u64, ticked: bool) {
        let advanced = committed > self.committed;
        self.committed = committed;
        let mut told_now = false;
        messages.retain(|message| {
            if !is_ack(message) {
                return true;
            }
            let tells = (message.to, message.term, message.index);
            if tells == self.told && (advanced || told_now) {
                self.held = Some(message.clone());
                return false;
            }
            (self.told, told_now) = (tells, true);
            self.held = None;
            true
        });
        if ticked {
            messages.extend(self.held.take());
        }
    }
}

fn is_ack(message: &Message) -> bool {
    message.msg_type == i32::from(MessageType::MsgAppResp) && !message.reject
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(to: u64, term: u64, index: u64) -> Message {
        Message {
            msg_type: MessageType::MsgAppResp.into(),
            to,
            term,
            index,
            ..Message::default()
        }
    }

    fn pass(echo: &mut Echo, messages: &[Message], committed: u64, ticked: bool) -> Vec<Message> {
        let mut messages = messages.to_vec();
        echo.pass(&mut messages, committed, ticked);
        messages
    }

    #[test]
    fn a_repeated_acknowledgement_waits_for_more_to_tell() {
        let mut echo = Echo::default();
        assert_eq!(pass(&mut echo, &[ack(1, 2, 7)], 6, false), [ack(1, 2, 7)]);
        assert_eq!(pass(&mut echo, &[ack(1, 2, 7)], 7, false), []);
        assert_eq!(pass(&mut echo, &[ack(1, 2, 8)], 7, false), [ack(1, 2, 8)]);
        assert_eq!(pass(&mut echo, &[], 7, true), []);
    }

    /// The leader committed with another's help while our disk was busy.
    #[test]
    fn one_turn_says_it_once() {
        let mut echo = Echo::default();
        assert_eq!(pass(&mut echo, &[], 7, false), []);
        let twice = [ack(1, 2, 7), ack(1, 2, 7)];
        assert_eq!(pass(&mut echo, &twice, 7, false), [ack(1, 2, 7)]);
        assert_eq!(pass(&mut echo, &[], 7, true), [ack(1, 2, 7)]);
    }

    #[test]
    fn a_tick_sends_it_at_the_latest() {
        let mut echo = Echo::default();
        pass(&mut echo, &[ack(1, 2, 7)], 6, false);
        assert_eq!(pass(&mut echo, &[ack(1, 2, 7)], 7, false), []);
        assert_eq!(pass(&mut echo, &[], 7, true), [ack(1, 2, 7)]);
        assert_eq!(pass(&mut echo, &[], 7, true), []);
    }

    #[test]
    fn a_leader_that_probes_is_answered_at_once() {
        let mut echo = Echo::default();
        pass(&mut echo, &[ack(1, 2, 7)], 7, false);
        assert_eq!(pass(&mut echo, &[ack(1, 2, 7)], 7, false), [ack(1, 2, 7)]);
        let reject = Message {
            reject: true,
            ..ack(1, 2, 7)
        };
        let rejects = [reject];
        assert_eq!(pass(&mut echo, &rejects, 8, false), rejects);
    }

    #[test]
    fn another_leader_or_a_later_term_is_told_anew() {
        let mut echo = Echo::default();
        pass(&mut echo, &[ack(1, 2, 7)], 6, false);
        pass(&mut echo, &[ack(1, 2, 7)], 7, false);
        assert_eq!(pass(&mut echo, &[ack(3, 3, 7)], 8, false), [ack(3, 3, 7)]);
        assert_eq!(pass(&mut echo, &[], 8, true), []);
    }
}
