//! Messages on their way out.

use raftpb::{Message, MessageType};

/// Joins appends to the same peer that follow each other among `messages[first..]`.
///
/// raft-rs makes one message per step: a turn that takes many acknowledgements makes an empty
/// append for each advance of the commit index, per peer. Joined they mean the same: a commit
/// index counts up to the end of the message's entries, and one acknowledgement of the last
/// entry acknowledges all.
pub(crate) fn coalesce(messages: &mut Vec<Message>, first: usize, max_bytes: u64) {
    // Position of the last append per peer, and its bytes. A handful of peers: a list is enough.
    let mut last: Vec<(u64, usize, u64)> = Vec::new();
    let mut joined = false;
    for at in first..messages.len() {
        if messages[at].msg_type != i32::from(MessageType::MsgApp) {
            continue;
        }
        let to = messages[at].to;
        let bytes = bytes_of(&messages[at]);
        let Some(seen) = last.iter_mut().find(|(peer, ..)| *peer == to) else {
            last.push((to, at, bytes));
            continue;
        };
        let (head, tail) = messages.split_at_mut(at);
        let (before, now) = (&mut head[seen.1], &mut tail[0]);
        if seen.2 + bytes <= max_bytes && follows(before, now) {
            before.entries.append(&mut now.entries);
            before.commit = before.commit.max(now.commit);
            now.to = 0;
            seen.2 += bytes;
            joined = true;
        } else {
            (seen.1, seen.2) = (at, bytes);
        }
    }
    if joined {
        messages.retain(|message| message.to != 0);
    }
}

fn bytes_of(message: &Message) -> u64 {
    message
        .entries
        .iter()
        .map(|entry| entry.data.len() as u64)
        .sum()
}

fn follows(before: &Message, now: &Message) -> bool {
    let last = before.entries.last();
    let (index, term) = last.map_or((before.index, before.log_term), |entry| {
        (entry.index, entry.term)
    });
    now.term == before.term && now.index == index && now.log_term == term
}

#[cfg(test)]
mod tests {
    use raftpb::Entry;

    use super::*;

    fn append(to: u64, index: u64, entries: &[u64], commit: u64) -> Message {
        Message {
            msg_type: MessageType::MsgApp.into(),
            to,
            term: 2,
            index,
            log_term: 2,
            commit,
            entries: entries
                .iter()
                .map(|&index| Entry {
                    index,
                    term: 2,
                    data: vec![0; 10].into(),
                    ..Entry::default()
                })
                .collect(),
            ..Message::default()
        }
    }

    #[test]
    fn appends_that_follow_each_other_become_one() {
        let mut messages = vec![
            append(2, 4, &[5, 6], 3),
            append(3, 4, &[5, 6], 3),
            append(2, 6, &[], 5),
            append(2, 6, &[7], 6),
            append(3, 5, &[], 5),
        ];
        coalesce(&mut messages, 0, 100);
        assert_eq!(
            messages,
            [
                append(2, 4, &[5, 6, 7], 6),
                append(3, 4, &[5, 6], 3),
                append(3, 5, &[], 5)
            ]
        );
    }

    #[test]
    fn the_limit_in_bytes_and_older_messages_are_respected() {
        let before = vec![
            append(2, 4, &[5], 3),
            append(2, 5, &[6], 3),
            append(2, 6, &[7], 3),
        ];
        let mut messages = before.clone();
        coalesce(&mut messages, 0, 20);
        assert_eq!(messages, [append(2, 4, &[5, 6], 3), append(2, 6, &[7], 3)]);
        let mut messages = before.clone();
        coalesce(&mut messages, 2, 20);
        assert_eq!(messages, before);
    }
}
