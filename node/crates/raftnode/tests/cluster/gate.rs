//! Nothing that a peer can send ends the process: random messages, in every role.
//!
//! Nodes are brought into each role, also with a disk that does not answer, a snapshot on its
//! way, a conf change pending. Then they are fed messages whose fields are drawn from small
//! sets around the node's own numbers, where raft-rs's panics lie, and now and then from far
//! out. Nothing is caught: the gate must suffice.

use raftnode::{Refusal, Role};
use raftpb::{ConfState, Entry, Message, MessageType, Snapshot, SnapshotMetadata};
use seams::{Rng, SeededRng};

use crate::harness::{Cluster, ELECTION_TICKS, member};

const ROUNDS: u64 = 400;
const MESSAGES: u64 = 150;

#[test]
fn random_messages_in_every_role_do_not_panic() {
    let mut roles = [0u64; 5];
    let mut passed = 0;
    let mut refused = 0;
    let seeds = seams::seeds(0..ROUNDS);
    let rounds = seeds.left();
    for seed in seeds {
        let mut rng = SeededRng::new(seed);
        let mut cluster = Cluster::new(&[1, 2, 3], seed);
        cluster.elect(1);
        for n in 0..rng.below(6) {
            cluster.put(1, &format!("k{n}=v"));
        }
        if rng.one_in(2) {
            let last = cluster.node(1).raft.status().applied;
            let to = rng.below(last + 1);
            cluster.node(1).inputs.compact_to = Some(to);
            cluster.node(2).inputs.compact_to = Some(to);
            cluster.settle();
        }
        let mut at = 2;
        match rng.below(6) {
            0 => at = 1, // a leader
            1 => {
                // a candidate or pre-candidate, whom nobody answers
                cluster.partition(&[2]);
                cluster.tick(2, ELECTION_TICKS + rng.below(20) as u32);
            }
            2 => {
                cluster.partition(&[2]);
                cluster.node(2).slow_disk = true;
                cluster.tick(2, ELECTION_TICKS);
            }
            3 => {
                cluster.node(2).slow_disk = true;
                cluster.put(1, "unsynced=1");
            }
            4 => {
                // a member that has nothing yet, not even a term
                cluster.join(4);
                at = 4;
            }
            _ => {
                let learner = raftpb::conf::Member {
                    is_learner: true,
                    ..member(4)
                };
                cluster.join(4);
                cluster.change(1, &raftpb::conf::Change::AddLearner(learner));
                at = 1 + 3 * rng.below(2);
            }
        }
        roles[cluster.node(at).raft.status().role as usize] += 1;
        for _ in 0..MESSAGES {
            let message = random_message(&mut rng, &mut cluster, at);
            let node = cluster.node(at);
            node.inputs.messages.push(message);
            if rng.one_in(3) {
                node.inputs.ticks = rng.below(4) as u32;
            }
            if rng.one_in(7) {
                node.inputs.reads.push(1);
            }
            if rng.one_in(9) {
                let data = b"x=y".to_vec().into();
                cluster.propose(at, raftnode::Payload::Data(data));
            }
            if rng.one_in(4) {
                cluster.sync(at);
            } else {
                cluster.turn(at);
            }
            cluster.wire.clear();
            roles[cluster.node(at).raft.status().role as usize] += 1;
            let lied_to = cluster.node(at).stopped.take();
            roles[4] += u64::from(lied_to.is_some());
        }
        refused += cluster.node(at).refused.len() as u64;
        passed += MESSAGES;
    }
    passed -= refused;
    if rounds < ROUNDS {
        return;
    }
    // The test has teeth only if both sides of the gate and all roles were seen.
    let all = rounds * MESSAGES;
    assert!(passed > all / 10, "{passed} of {all} passed");
    assert!(refused > all / 10, "{refused} of {all} refused");
    for role in [
        Role::Follower,
        Role::PreCandidate,
        Role::Candidate,
        Role::Leader,
    ] {
        assert!(roles[role as usize] > 100, "{role:?} in {roles:?}");
    }
}

fn pick(rng: &mut SeededRng, from: &[u64]) -> u64 {
    from[rng.below(from.len() as u64) as usize]
}

/// A number near the ones that matter.
fn near(rng: &mut SeededRng, numbers: &[u64]) -> u64 {
    let base = pick(rng, numbers);
    match rng.below(20) {
        0..8 => base,
        8..11 => base.saturating_add(1),
        11..14 => base.saturating_sub(1),
        14..16 => base.saturating_add(rng.below(5)),
        16..18 => rng.below(base.saturating_add(3)),
        18 => 0,
        _ => pick(
            rng,
            &[
                u64::MAX,
                u64::MAX - 1,
                u64::MAX >> 1,
                (u64::MAX >> 1) + 1,
                1 << 40,
            ],
        ),
    }
}

fn random_message(rng: &mut SeededRng, cluster: &mut Cluster, at: u64) -> Message {
    let status = cluster.node(at).raft.status();
    let indexes = [
        status.committed,
        status.last_index,
        status.first_index,
        status.persisted,
    ];
    let terms = [status.term, status.term, status.term, status.term + 1];
    let likely = [
        2, 3, 3, 3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 14, 15, 16, 17, 18, 18,
    ];
    let msg_type = if rng.one_in(12) {
        rng.below(30) as i32 - 2
    } else {
        pick(rng, &likely) as i32
    };
    let index = near(rng, &indexes);
    let has_no_term = msg_type == 2 || msg_type == 15;
    let term = match (has_no_term, rng.one_in(10)) {
        (true, false) | (false, true) if rng.one_in(2) || has_no_term => 0,
        _ => near(rng, &terms),
    };
    let leader = status.leader.map_or(1, |id| id.0);
    let from = match rng.below(10) {
        0 => pick(rng, &[0, 7, at, u64::MAX]),
        1..5 => leader,
        _ => pick(rng, &[1, 2, 3, 4]),
    };
    let known_term = |cluster: &mut Cluster, index: u64| {
        cluster.node(at).raft.term_of(index).unwrap_or(status.term)
    };
    let log_term = if rng.one_in(4) {
        near(rng, &terms)
    } else {
        known_term(cluster, index)
    };
    let is_snapshot = msg_type == i32::from(MessageType::MsgSnap);
    Message {
        msg_type,
        to: if rng.one_in(30) { near(rng, &[at]) } else { at },
        from,
        term,
        log_term,
        index,
        entries: random_entries(rng, index, &terms, msg_type),
        commit: near(rng, &indexes),
        snapshot: (is_snapshot && !rng.one_in(10) || rng.one_in(20))
            .then(|| random_snapshot(rng, &indexes, &terms, at)),
        reject: rng.one_in(4),
        reject_hint: near(rng, &indexes).min(if rng.one_in(3) { u64::MAX } else { index }),
        context: vec![b'c'; pick(rng, &[0, 0, 8, 16, 64, 65]) as usize].into(),
    }
}

fn random_entries(rng: &mut SeededRng, after: u64, terms: &[u64], msg_type: i32) -> Vec<Entry> {
    let count = match msg_type {
        2 | 15 | 16 => pick(rng, &[1, 1, 1, 0, 2]),
        3 => rng.below(5),
        _ => rng.below(20).saturating_sub(18),
    };
    let term = near(rng, terms);
    let mut entries = Vec::new();
    for n in 0..count {
        let honest = !rng.one_in(8);
        let change = raftpb::conf::Change::Add(member(rng.below(6))).to_entry(1);
        let entry_type = if rng.one_in(6) {
            rng.below(4) as i32
        } else {
            0
        };
        entries.push(Entry {
            entry_type,
            term: if honest { term } else { near(rng, terms) },
            index: if honest {
                after.saturating_add(1 + n)
            } else {
                near(rng, &[after])
            },
            data: match rng.below(5) {
                0 => change.data,
                1 => vec![0xff; rng.below(80) as usize].into(),
                2 => Vec::new().into(),
                _ => b"k=v".to_vec().into(),
            },
        });
    }
    entries
}

fn random_snapshot(rng: &mut SeededRng, indexes: &[u64], terms: &[u64], at: u64) -> Snapshot {
    let voters = match rng.below(8) {
        0 => vec![],
        1 => vec![1, 1, 2],
        2 => vec![0, 1, at],
        3 => vec![1, 3],
        _ => vec![1, 2, at.max(3)],
    };
    let learners = if rng.one_in(4) {
        vec![pick(rng, &[1, 5, at])]
    } else {
        vec![]
    };
    let conf_state = ConfState {
        voters,
        learners,
        voters_outgoing: if rng.one_in(20) { vec![1, 2] } else { vec![] },
        learners_next: if rng.one_in(20) { vec![2] } else { vec![] },
        auto_leave: rng.one_in(20),
    };
    Snapshot {
        data: b"a=b".to_vec().into(),
        metadata: (!rng.one_in(10)).then(|| SnapshotMetadata {
            conf_state: (!rng.one_in(10)).then_some(conf_state),
            index: near(rng, indexes),
            term: near(rng, terms),
        }),
    }
}

/// The messages of which a small program showed that raft-rs panics, one by one.
#[test]
fn every_known_panic_is_refused() {
    let mut cluster = Cluster::new(&[1, 2, 3], 1);
    cluster.elect(1);
    let last = cluster.node(1).raft.status().last_index;
    let base = |msg_type: MessageType, term| Message {
        msg_type: msg_type.into(),
        from: 3,
        term,
        ..Message::default()
    };
    let entry = |index, term| Entry {
        index,
        term,
        ..Entry::default()
    };
    let snapshot = |voters: Vec<u64>, learners: Vec<u64>, index, term| Snapshot {
        data: bytes::Bytes::new(),
        metadata: Some(SnapshotMetadata {
            conf_state: Some(ConfState {
                voters,
                learners,
                ..ConfState::default()
            }),
            index,
            term,
        }),
    };
    let leader_at_2 = |msg_type| Message {
        from: 1,
        ..base(msg_type, 2)
    };
    let cases: Vec<(u64, Message)> = vec![
        (1, base(MessageType::MsgReadIndex, 0)),
        (1, base(MessageType::MsgProp, 0)),
        (2, base(MessageType::MsgProp, 0)),
        (1, base(MessageType::MsgVote, 0)),
        (2, base(MessageType::MsgPreVote, 0)),
        (
            2,
            Message {
                commit: last + 1,
                ..base(MessageType::MsgHeartbeat, 3)
            },
        ),
        (
            2,
            Message {
                entries: vec![entry(0, 0)],
                ..base(MessageType::MsgProp, 2)
            },
        ),
        (
            2,
            Message {
                entries: vec![entry(0, 0)],
                ..base(MessageType::MsgReadIndex, 2)
            },
        ),
        (2, base(MessageType::MsgTransferLeader, 2)),
        (
            2,
            Message {
                index: last,
                log_term: 2,
                entries: vec![entry(last + 2, 2)],
                ..leader_at_2(MessageType::MsgApp)
            },
        ),
        (
            2,
            Message {
                index: last + 9,
                log_term: 0,
                entries: vec![entry(last + 10, 2)],
                ..leader_at_2(MessageType::MsgApp)
            },
        ),
        (
            2,
            Message {
                index: 2,
                log_term: 1,
                entries: vec![entry(3, 2), entry(4, 2)],
                ..leader_at_2(MessageType::MsgApp)
            },
        ),
        (
            1,
            Message {
                index: u64::MAX,
                ..base(MessageType::MsgAppResp, 2)
            },
        ),
        (
            1,
            Message {
                index: last + 1,
                ..base(MessageType::MsgAppResp, 2)
            },
        ),
        (
            1,
            Message {
                reject: true,
                index: 1,
                reject_hint: 2,
                ..base(MessageType::MsgAppResp, 2)
            },
        ),
        (
            2,
            Message {
                snapshot: Some(snapshot(vec![1, 2, 2], vec![], last + 5, 2)),
                ..leader_at_2(MessageType::MsgSnap)
            },
        ),
        (
            2,
            Message {
                snapshot: Some(snapshot(vec![1, 2], vec![2], last + 5, 2)),
                ..leader_at_2(MessageType::MsgSnap)
            },
        ),
        (
            2,
            Message {
                snapshot: Some(snapshot(vec![], vec![2], last + 5, 2)),
                ..leader_at_2(MessageType::MsgSnap)
            },
        ),
        (
            2,
            Message {
                snapshot: Some(snapshot(vec![1, 2], vec![], last + 5, 0)),
                ..leader_at_2(MessageType::MsgSnap)
            },
        ),
        (2, leader_at_2(MessageType::MsgSnap)),
        (2, base(MessageType::MsgTimeoutNow, 2)),
        (2, base(MessageType::MsgHup, 0)),
        (1, base(MessageType::MsgBeat, 2)),
        (1, base(MessageType::MsgUnreachable, 2)),
        (1, base(MessageType::MsgSnapStatus, 2)),
        (1, base(MessageType::MsgCheckQuorum, 2)),
        (1, base(MessageType::MsgStorageAppend, 2)),
        (1, base(MessageType::MsgForgetLeader, 2)),
        (
            1,
            Message {
                msg_type: 99,
                ..base(MessageType::MsgHup, 2)
            },
        ),
        (
            1,
            Message {
                from: 1,
                ..base(MessageType::MsgHeartbeatResp, 2)
            },
        ),
        (
            1,
            Message {
                from: 8,
                ..base(MessageType::MsgHeartbeatResp, 2)
            },
        ),
        (2, base(MessageType::MsgVote, u64::MAX)),
    ];
    for (at, message) in cases {
        let message = Message { to: at, ..message };
        let before = cluster.node(at).refused.len();
        let text = format!("{message:?}");
        cluster.node(at).inputs.messages.push(message);
        cluster.settle();
        assert_eq!(cluster.node(at).refused.len(), before + 1, "{text}");
        assert_eq!(cluster.node(at).raft.status().term, 2, "{text}");
    }
    // Whose message it was, in words.
    let not_for_us = Refusal::NotForUs {
        to: 5.into(),
        id: 1.into(),
    };
    assert_eq!(not_for_us.to_string(), "message is for 5, this member is 1");
}
