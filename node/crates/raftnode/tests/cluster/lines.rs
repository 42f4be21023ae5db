//! One test per thing that raft-rs gets wrong next to etcd, or right only when handled so.

use raftnode::{
    Config, DropReason, Error, Inputs, Judge, Payload, RaftNode, ReadFailure, Recovered,
    Replication, Role, SnapshotReady, Status, Stop,
};
use raftpb::conf::Change;
use raftpb::{ConfChange, Entry, HardState, MemberId, Message, MessageType};
use seams::SeededRng;

use crate::harness::{Cluster, Disk, ELECTION_TICKS, Node, member};

fn three() -> Cluster {
    let mut cluster = Cluster::new(&[1, 2, 3], 1);
    cluster.elect(1);
    cluster.trace.clear();
    cluster
}

fn learner(id: u64) -> Change {
    let mut member = member(id);
    member.is_learner = true;
    Change::AddLearner(member)
}

/// A change for this leader only.
fn here(change: &ConfChange, condition: Option<u64>) -> Payload {
    Payload::ConfChangeHere {
        change: change.clone(),
        condition,
    }
}

fn message(msg_type: MessageType, from: u64, to: u64, term: u64) -> Message {
    Message {
        msg_type: msg_type.into(),
        from,
        to,
        term,
        ..Message::default()
    }
}

fn config(id: u64) -> Config {
    Config::new(MemberId(id), Box::new(SeededRng::new(id)))
}

#[test]
fn etcds_conf_changes_reach_the_log_and_every_member_unchanged() {
    let mut cluster = three();
    cluster.change(2, &learner(9)); // through a follower
    cluster.change(1, &Change::Promote(MemberId(9)));
    let update = Change::Update {
        id: MemberId(3),
        peer_urls: vec!["http://other:2380".to_owned()],
    };
    cluster.change(1, &update);
    for id in [1, 2, 3] {
        let log = &cluster.node(id).machine.log;
        let changes: Vec<&String> = log.iter().skip(3).collect();
        assert!(changes[0].contains("AddLearner"), "{changes:?}");
        assert!(changes[1].contains("Promote"), "{changes:?}");
        assert!(changes[2].contains("Update"), "{changes:?}");
        let conf_state = cluster.node(id).raft.conf_state();
        assert_eq!(conf_state.voters, [1, 2, 3, 9], "an update demotes nobody");
        let stored = &cluster.node(id).disk.entries;
        let bytes: Vec<_> = stored
            .values()
            .filter(|e| e.entry_type == 1 && e.term > 1)
            .collect();
        assert_eq!(bytes.len(), 3);
        for entry in bytes {
            raftpb::conf::check_conf_change(entry).expect("etcd's own bytes are on disk");
        }
    }
}

#[test]
fn a_conf_change_that_etcd_could_not_apply_is_refused_at_the_door() {
    let mut cluster = three();
    let changes = [
        ConfChange {
            change_type: 7,
            node_id: 4,
            ..ConfChange::default()
        },
        ConfChange {
            node_id: 0,
            ..ConfChange::default()
        },
        ConfChange {
            node_id: 4,
            context: b"{".to_vec().into(),
            ..ConfChange::default()
        },
        ConfChange {
            node_id: 4,
            ..learner(5).to_conf_change(1)
        },
        ConfChange {
            context: b"x".to_vec().into(),
            ..Change::Remove(MemberId(3)).to_conf_change(1)
        },
    ];
    for change in changes {
        cluster.propose(1, Payload::ConfChange(change));
        cluster.settle();
        let last = cluster.trace.last().unwrap();
        assert!(last.contains("invalid conf change"), "{last}");
    }
}

#[test]
fn a_conf_change_that_failed_validation_changes_nothing_and_unblocks_the_next() {
    let mut cluster = three();
    cluster.change(1, &Change::Add(member(3))); // exists
    assert_eq!(cluster.node(1).raft.conf_state().voters, [1, 2, 3]);
    cluster.change(1, &learner(4));
    assert_eq!(cluster.node(1).raft.conf_state().learners, [4]);
}

#[test]
fn the_removal_of_the_last_voter_changes_nothing() {
    let mut cluster = Cluster::new(&[1], 1);
    cluster.elect(1);
    cluster.change(1, &Change::Remove(MemberId(1)));
    assert_eq!(cluster.node(1).raft.conf_state().voters, [1]);
    cluster.put(1, "a=1");
    assert_eq!(cluster.node(1).machine.keys.len(), 1);
}

#[test]
fn a_leader_is_removed_under_load_a_hundred_times() {
    for seed in 0..100 {
        let mut cluster = Cluster::new(&[1, 2, 3], seed);
        cluster.elect(1);
        cluster.node(1).slow_disk = seed % 2 == 1;
        let mut acknowledged = 0;
        for n in 0..10 {
            cluster.propose(1, Payload::Data(format!("k{n}=v").into_bytes().into()));
            if n == seed % 10 {
                let remove = Change::Remove(MemberId(1)).to_conf_change(1);
                cluster.propose(1, Payload::ConfChange(remove));
            }
            if n % 3 == 0 {
                cluster.turn(1);
            }
            acknowledged += 1;
        }
        cluster.settle();
        cluster.sync(1);
        assert_eq!(acknowledged, 10);
        let status = cluster.node(1).raft.status();
        assert!(status.removed, "{status:?}");
        assert_eq!(status.role, Role::Follower);
        // Late acknowledgements, ticks and requests find a member that takes part no more.
        let term = status.term;
        for from in [2, 3] {
            let mut late = message(MessageType::MsgAppResp, from, 1, term);
            late.index = status.last_index;
            cluster.node(1).inputs.messages.push(late);
        }
        cluster.node(1).inputs.reads.push(77);
        cluster.tick(1, 50);
        assert_eq!(cluster.node(1).raft.status().role, Role::Follower);
        assert!(cluster.trace.iter().any(|line| line.contains("n1 stops")));
        // The others elect one and go on.
        cluster.tick(2, ELECTION_TICKS);
        cluster.tick(3, 3 * ELECTION_TICKS);
        let leader = cluster.leader().expect("two voters are left");
        cluster.put(leader, "after=1");
        assert!(cluster.node(2).machine.keys.contains_key("after"));
        let log = cluster.node(2).machine.log.clone();
        assert_eq!(log, cluster.node(3).machine.log);
    }
}

/// Three members, the third so far behind that only a snapshot helps, which nobody makes yet.
fn one_far_behind() -> Cluster {
    let mut cluster = three();
    cluster.crash(3);
    for n in 0..5 {
        cluster.put(1, &format!("k{n}=v"));
    }
    cluster.node(1).inputs.compact_to = Some(9);
    cluster.settle();
    cluster.hold_snapshots = true;
    cluster.trace.clear();
    cluster.restart(3);
    cluster.tick(1, 2);
    cluster
}

fn wishes(cluster: &Cluster) -> usize {
    cluster
        .trace
        .iter()
        .filter(|line| line.contains("wants a snapshot for n3"))
        .count()
}

fn hand_in_snapshot(cluster: &mut Cluster) {
    let snapshot = Some(cluster.node(1).machine.to_snapshot());
    let ready = SnapshotReady {
        peer: MemberId(3),
        snapshot,
    };
    cluster.node(1).inputs.snapshots_ready.push(ready);
    cluster.settle();
    cluster.tick(1, 2);
}

#[test]
fn promise_07_nothing_waits_while_a_snapshot_is_made() {
    let mut cluster = one_far_behind();
    // The leader leads on: writes, reads and heartbeats, for many elections' worth of time.
    for n in 0..20 {
        cluster.tick_all(ELECTION_TICKS / 2);
        cluster.put(1, &format!("meanwhile{n}=v"));
    }
    assert_eq!(cluster.leader(), Some(1));
    assert_eq!(cluster.node(2).machine.keys.len(), 25);
    cluster.read(1);
    cluster.settle();
    assert!(
        cluster
            .trace
            .iter()
            .any(|line| line.starts_with("n1 read ok")),
        "{:?}",
        cluster.trace
    );
    hand_in_snapshot(&mut cluster);
    assert_eq!(cluster.node(3).machine.keys.len(), 25);
}

#[test]
fn promise_11_a_snapshot_is_temporarily_unavailable_until_it_is_made() {
    let mut cluster = one_far_behind();
    assert_eq!(wishes(&cluster), 1);
    // Raft asks its storage with every heartbeat's answer; the making is asked for once.
    cluster.tick(1, 5);
    assert_eq!(wishes(&cluster), 1);
    assert!(cluster.node(3).machine.keys.is_empty());
    hand_in_snapshot(&mut cluster);
    assert_eq!(cluster.node(3).machine.keys.len(), 5);
    assert_eq!(wishes(&cluster), 1);
}

#[test]
fn no_tick_campaigns_while_a_snapshot_is_being_installed() {
    let mut cluster = three();
    cluster.crash(3);
    for n in 0..5 {
        cluster.put(1, &format!("k{n}=v"));
    }
    cluster.node(1).inputs.compact_to = Some(9);
    cluster.settle();
    cluster.restart(3);
    cluster.node(3).slow_disk = true; // the record of the snapshot is not durable
    cluster.tick(1, 2);
    assert!(cluster.node(3).raft.status().installing);
    let leads_to_timeout = message(MessageType::MsgTimeoutNow, 1, 3, 2);
    cluster.node(3).inputs.messages.push(leads_to_timeout);
    cluster.tick(3, 5 * ELECTION_TICKS);
    assert_eq!(cluster.node(3).raft.status().role, Role::Follower);
    assert!(cluster.node(3).refused.last().unwrap().contains("not now"));
    cluster.node(3).slow_disk = false;
    cluster.sync(3);
    assert_eq!(cluster.node(3).machine.keys.len(), 5);
    assert!(!cluster.node(3).raft.status().installing);
    cluster.crash(1);
    cluster.tick_all(6 * ELECTION_TICKS);
    let leader = cluster.leader().expect("two of three are there");
    cluster.put(leader, "after=1");
    assert_eq!(cluster.node(3).machine.keys.len(), 6);
}

#[test]
fn no_campaign_while_entries_are_not_durable() {
    let mut cluster = three();
    cluster.node(2).slow_disk = true;
    cluster.put(1, "a=1");
    cluster.crash(1);
    cluster.tick(3, ELECTION_TICKS);
    cluster.tick(2, 5 * ELECTION_TICKS);
    assert_eq!(cluster.node(2).raft.status().role, Role::Follower);
    cluster.node(2).slow_disk = false;
    cluster.sync(2);
    cluster.tick(2, 1);
    assert_eq!(cluster.node(2).raft.status().role, Role::Leader);
    cluster.put(2, "b=2");
    assert_eq!(cluster.node(3).machine.keys.len(), 2);
}

#[test]
fn a_vote_that_comes_before_our_own_is_durable_does_not_count() {
    let mut cluster = three();
    cluster.crash(1);
    cluster.tick(3, 2 * ELECTION_TICKS);
    cluster.node(2).slow_disk = true;
    while cluster.node(2).raft.status().role != Role::Candidate {
        cluster.node(2).inputs.ticks = 1;
        cluster.settle();
    }
    let term = cluster.node(2).raft.status().term;
    let early = message(MessageType::MsgVoteResp, 3, 2, term);
    cluster.node(2).inputs.messages.push(early);
    cluster.settle();
    assert_eq!(cluster.node(2).raft.status().role, Role::Candidate);
    cluster.node(2).slow_disk = false;
    cluster.sync(2);
    assert_eq!(cluster.node(2).raft.status().role, Role::Leader);
}

#[test]
fn a_database_ahead_of_the_synced_commit_index_starts() {
    let mut cluster = three();
    cluster.put(1, "a=1");
    cluster.crash(2);
    let (disk, _) = cluster.down.get_mut(&2).unwrap();
    let applied = disk.machine.applied;
    disk.hard_state.commit = 3; // what an unsynced hard state leaves after a power cut
    cluster.restart(2);
    let status = cluster.node(2).raft.status();
    assert_eq!(status.committed, applied);
    assert_eq!(status.applied, applied);
}

#[test]
fn a_wal_that_ends_before_the_database_is_refused_with_the_numbers() {
    let mut cluster = three();
    cluster.put(1, "a=1");
    cluster.crash(2);
    let (disk, _) = &cluster.down[&2];
    let recovered = Recovered {
        hard_state: disk.hard_state,
        entries: disk.entries.values().take(3).cloned().collect(),
        applied: disk.machine.applied,
        ..Recovered::default()
    };
    let error = RaftNode::new(config(2), recovered).unwrap_err();
    assert!(
        matches!(
            error,
            Error::LogEndsEarly {
                last_index: 3,
                applied: 5,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("ends at 3"), "{error}");
}

#[test]
fn a_log_with_a_gap_is_refused() {
    let entry = |index, term| Entry {
        index,
        term,
        ..Entry::default()
    };
    for entries in [
        vec![entry(2, 1)],
        vec![entry(1, 1), entry(3, 1)],
        vec![entry(1, 2), entry(2, 1)],
    ] {
        let recovered = Recovered {
            entries,
            ..Recovered::default()
        };
        assert!(matches!(
            RaftNode::new(config(1), recovered),
            Err(Error::LogGap { .. })
        ));
    }
    let recovered = Recovered {
        snapshot_index: 5,
        snapshot_term: 1,
        applied: 4,
        ..Recovered::default()
    };
    assert!(matches!(
        RaftNode::new(config(1), recovered),
        Err(Error::AppliedBeforeLog { .. })
    ));
}

#[test]
fn a_torn_write_that_kept_entries_and_lost_the_hard_state_starts_in_their_term() {
    let mut cluster = three();
    cluster.crash(3);
    let (disk, _) = cluster.down.get_mut(&3).unwrap();
    disk.hard_state = HardState {
        term: 1,
        vote: 3,
        commit: 3,
    };
    cluster.restart(3);
    let status = cluster.node(3).raft.status();
    assert_eq!((status.term, status.vote), (2, None));
}

#[test]
fn a_deposed_leader_answers_no_new_read_by_late_answers_to_an_old_one() {
    let mut cluster = three();
    cluster.put(1, "a=1");
    // A round opens; its heartbeats are answered, the answers are slow.
    cluster.node(1).inputs.reads.push(501);
    cluster.turn(1);
    let heartbeats: Vec<Message> = cluster.wire.drain(..).collect();
    for heartbeat in heartbeats {
        cluster.node(heartbeat.to).inputs.messages.push(heartbeat);
    }
    cluster.turn(2);
    cluster.turn(3);
    let late: Vec<Message> = cluster.wire.drain(..).collect();
    assert_eq!(late.len(), 2);
    // The leader is cut off; the others elect one and write. The old one does not know yet.
    cluster.partition(&[1]);
    cluster.tick(3, ELECTION_TICKS);
    cluster.elect(2);
    cluster.put(2, "a=2");
    cluster.tick(1, 6); // long enough for a retry of the first read
    assert_eq!(cluster.node(1).raft.status().role, Role::Leader);
    cluster.trace.clear();
    cluster.node(1).inputs.reads.push(502);
    cluster.node(1).inputs.messages.extend(late);
    cluster.settle();
    // The first read began before the write, so the old index is right for it.
    assert_eq!(cluster.trace, ["n1 read ok index 5"]);
    cluster.cut.clear();
    cluster.tick(2, 2);
    assert_eq!(cluster.trace.last().unwrap(), "n1 read ok index 7");
}

#[test]
fn every_retry_of_a_read_has_a_new_context() {
    let mut cluster = three();
    cluster.node(2).inputs.reads.push(1);
    let mut contexts = Vec::new();
    for _ in 0..3 {
        cluster.turn(2);
        let asks = |message: &Message| message.msg_type == i32::from(MessageType::MsgReadIndex);
        let asked = cluster.wire.drain(..).find(asks);
        let asked = asked.expect("it asks the leader");
        assert!(!contexts.contains(&asked.entries), "{contexts:?}");
        contexts.push(asked.entries);
        cluster.node(2).inputs.ticks = 5;
    }
}

#[test]
fn a_read_index_answer_of_a_former_run_is_not_believed() {
    let mut cluster = three();
    cluster.node(2).inputs.reads.push(1);
    cluster.turn(2);
    let asked = cluster.wire.pop_front().unwrap();
    cluster.crash(2);
    cluster.restart(2);
    cluster.tick(1, 1);
    cluster.node(2).inputs.reads.push(2);
    cluster.turn(2);
    cluster.wire.clear();
    let mut late = message(MessageType::MsgReadIndexResp, 1, 2, 2);
    late.index = 4;
    late.entries = asked.entries;
    cluster.node(2).inputs.messages.push(late);
    cluster.trace.clear();
    cluster.settle();
    assert_eq!(cluster.trace, Vec::<String>::new());
}

#[test]
fn the_leader_echoes_a_peers_read_context_unchanged() {
    let mut cluster = three();
    let mut ask = message(MessageType::MsgReadIndex, 2, 1, 0);
    ask.entries = vec![Entry {
        data: b"any bytes".to_vec().into(),
        ..Entry::default()
    }];
    let entries = ask.entries.clone();
    cluster.node(1).inputs.messages.push(ask);
    cluster.turn(1);
    let heartbeats: Vec<Message> = cluster.wire.drain(..).collect();
    assert!(
        heartbeats.iter().all(|m| m.context.len() == 8),
        "{heartbeats:?}"
    );
    for heartbeat in heartbeats {
        let mut answer = message(
            MessageType::MsgHeartbeatResp,
            heartbeat.to,
            1,
            heartbeat.term,
        );
        answer.context = heartbeat.context;
        cluster.node(1).inputs.messages.push(answer);
    }
    cluster.turn(1);
    let answer = cluster.wire.pop_front().unwrap();
    assert_eq!(answer.msg_type, i32::from(MessageType::MsgReadIndexResp));
    assert_eq!((answer.to, answer.index), (2, 4));
    assert_eq!(answer.entries, entries);
}

#[test]
fn many_reads_share_one_round() {
    let mut cluster = three();
    cluster.node(1).inputs.reads.extend(0..1000);
    cluster.turn(1);
    assert_eq!(cluster.wire.len(), 2, "one heartbeat to each follower");
    cluster.settle();
    let answered = cluster
        .trace
        .iter()
        .filter(|line| line.contains("read ok"))
        .count();
    assert_eq!(answered, 1000);
}

#[test]
fn reads_fail_when_nobody_confirms_them() {
    let mut cluster = three();
    cluster.crash(2);
    cluster.crash(3);
    cluster.read(1);
    cluster.tick(1, 100);
    let failure = ReadFailure::TimedOut.to_string();
    assert!(
        cluster.trace.iter().any(|line| line.ends_with(&failure)),
        "{:?}",
        cluster.trace
    );
}

#[test]
fn a_single_voter_reads_at_once() {
    let mut cluster = Cluster::new(&[1], 1);
    cluster.elect(1);
    cluster.trace.clear();
    cluster.read(1);
    assert_eq!(cluster.trace, ["n1 read ok index 2"]);
}

#[test]
fn heartbeats_are_answered_while_the_disk_is_stuck_but_not_before_the_term_is_durable() {
    let mut cluster = three();
    cluster.node(2).slow_disk = true;
    cluster.put(1, "a=1");
    let mut heartbeat = message(MessageType::MsgHeartbeat, 1, 2, 2);
    cluster.node(2).inputs.messages.push(heartbeat.clone());
    cluster.turn(2);
    let answer = cluster.wire.pop_front().expect("it leaves at once");
    assert_eq!(answer.msg_type, i32::from(MessageType::MsgHeartbeatResp));
    heartbeat.term = 9;
    heartbeat.from = 3;
    cluster.node(2).inputs.messages.push(heartbeat);
    cluster.turn(2);
    assert!(cluster.wire.is_empty(), "term 9 is not durable");
    cluster.sync(2);
    assert_eq!(cluster.node(2).raft.status().term, 9);
}

#[test]
fn a_slow_disk_does_not_cost_the_leader_its_lead() {
    let mut cluster = three();
    cluster.crash(3);
    cluster.node(2).slow_disk = true;
    cluster.put(1, "a=1");
    cluster.tick_all(10 * ELECTION_TICKS);
    assert_eq!(cluster.node(1).raft.status().role, Role::Leader);
    cluster.crash(2);
    cluster.tick(1, 2 * ELECTION_TICKS);
    assert_eq!(
        cluster.node(1).raft.status().role,
        Role::Follower,
        "quorum is checked"
    );
}

#[test]
fn lost_acknowledged_entries_end_the_member_in_order() {
    let mut cluster = three();
    for n in 0..3 {
        cluster.put(1, &format!("k{n}=v"));
    }
    cluster.crash(2);
    let (disk, _) = cluster.down.get_mut(&2).unwrap();
    disk.entries.split_off(&6); // the disk had confirmed 6 and 7
    disk.machine = crate::harness::Machine::default();
    disk.hard_state.commit = 5;
    cluster.restart(2);
    cluster.put(1, "more=1"); // an append shows who leads
    cluster.tick(1, 1);
    let stopped = cluster.node(2).stopped.clone();
    // Either the append filled the hole first, or the heartbeat proved it.
    if let Some(stop) = stopped {
        assert!(
            matches!(stop, Stop::LostEntries { last_index: 5, .. }),
            "{stop}"
        );
    } else {
        assert_eq!(cluster.node(2).machine.keys.len(), 4);
    }

    let mut cluster = three();
    let last = cluster.node(2).raft.status().last_index;
    let mut heartbeat = message(MessageType::MsgHeartbeat, 1, 2, 2);
    heartbeat.commit = last + 5;
    cluster.node(2).inputs.messages.push(heartbeat.clone());
    cluster.settle();
    assert!(
        matches!(cluster.node(2).stopped, Some(Stop::LostEntries { commit, .. }) if commit == last + 5)
    );
    // From anyone else it is dropped and counted.
    heartbeat.from = 3;
    heartbeat.to = 1;
    heartbeat.term = 3;
    cluster.node(1).inputs.messages.push(heartbeat);
    cluster.settle();
    assert_eq!(cluster.node(1).stopped, None);
    assert_eq!(cluster.node(1).raft.status().role, Role::Leader);
    assert_eq!(cluster.node(1).refused.len(), 1);
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let run = |seed| {
        let mut cluster = Cluster::new(&[1, 2, 3], seed);
        cluster.show_messages = true;
        cluster.tick_all(40);
        if let Some(leader) = cluster.leader() {
            cluster.put(leader, "a=1");
            cluster.crash(leader);
        }
        cluster.tick_all(60);
        cluster.trace
    };
    assert_eq!(run(3), run(3));
    assert!((0..5).any(|seed| run(seed) != run(3)));
}

#[test]
fn a_peer_that_needs_a_snapshot_waits_until_it_is_made() {
    let mut cluster = three();
    cluster.crash(3);
    for n in 0..5 {
        cluster.put(1, &format!("k{n}=v"));
    }
    cluster.node(1).inputs.compact_to = Some(9);
    cluster.settle();
    cluster.hold_snapshots = true;
    cluster.restart(3);
    cluster.tick(1, 5);
    let wanted = |cluster: &Cluster| {
        cluster
            .trace
            .iter()
            .filter(|line| line.contains("wants a snapshot"))
            .count()
    };
    assert_eq!(wanted(&cluster), 1, "asked once");
    // It could not be made: asked again.
    let failed = SnapshotReady {
        peer: MemberId(3),
        snapshot: None,
    };
    cluster.node(1).inputs.snapshots_ready.push(failed);
    cluster.tick(1, 2);
    assert_eq!(wanted(&cluster), 2);
    cluster.hold_snapshots = false;
    let failed = SnapshotReady {
        peer: MemberId(3),
        snapshot: None,
    };
    cluster.node(1).inputs.snapshots_ready.push(failed);
    cluster.tick(1, 3);
    assert_eq!(cluster.node(3).machine.keys.len(), 5);
    let status = cluster.node(1).raft.status();
    let peer = status.members.iter().find(|m| m.id == MemberId(3)).unwrap();
    assert_ne!(peer.replication, Replication::Snapshot);
}

#[test]
fn entries_that_left_memory_come_back_from_the_wal() {
    let mut cluster = three();
    cluster.crash(3);
    let value = "x".repeat(300_000);
    for n in 0..60 {
        cluster.put(1, &format!("k{n}={value}"));
    }
    cluster.tick(1, 2 * ELECTION_TICKS); // the dead follower counts no more
    cluster.put(1, "last=1");
    let status = cluster.node(1).raft.status();
    assert!(
        status.log_bytes < raftnode::LOG_BYTES_MAX + 400_000,
        "{}",
        status.log_bytes
    );
    assert_eq!(status.first_index, 1, "nothing was compacted");
    cluster.restart(3);
    cluster.tick(1, 2);
    assert_eq!(cluster.node(3).machine.keys.len(), 61);
    assert!(cluster.node(1).fetches > 2);
    assert!(!cluster.trace.iter().any(|line| line.contains("snapshot")));
    // When the WAL does not have them either, it is a snapshot.
    cluster.crash(3);
    let (disk, _) = cluster.down.get_mut(&3).unwrap();
    *disk = Disk::default();
    disk.machine.members.clear();
    cluster.node(1).disk.entries.clear();
    cluster.restart(3);
    cluster.put(1, "more=1");
    cluster.tick(1, 3);
    assert_eq!(cluster.node(3).machine.keys.len(), 62);
    assert!(
        cluster
            .trace
            .iter()
            .any(|line| line.contains("wants a snapshot"))
    );
}

#[test]
fn many_proposals_of_a_turn_become_one_append_and_one_write() {
    let mut cluster = three();
    for n in 0..500 {
        cluster.propose(1, Payload::Data(format!("k{n}=v").into_bytes().into()));
    }
    cluster.turn(1);
    assert_eq!(cluster.wire.len(), 2, "one append to each follower");
    assert!(cluster.wire.iter().all(|m| m.entries.len() == 500));
    cluster.settle();
    for n in 0..500 {
        cluster.propose(2, Payload::Data(format!("f{n}=v").into_bytes().into()));
    }
    cluster.turn(2);
    assert_eq!(cluster.wire.len(), 1, "one forwarded proposal");
    cluster.settle();
    assert_eq!(cluster.node(3).machine.keys.len(), 1000);
}

#[test]
fn batches_respect_the_limit_of_a_message() {
    let mut cluster = three();
    let value = vec![b'x'; 400_000];
    for _ in 0..6 {
        cluster.propose(2, Payload::Data(value.clone().into()));
    }
    cluster.turn(2);
    assert_eq!(cluster.wire.len(), 3);
    cluster.settle();
    assert_eq!(cluster.node(3).raft.status().applied, 10);
}

#[test]
fn a_proposal_without_a_leader_is_given_back() {
    let mut cluster = Cluster::new(&[1, 2, 3], 1);
    cluster.put(1, "a=1");
    assert_eq!(cluster.trace, ["n1 drops proposal: no leader"]);
}

/// Refuses the second change that it is asked about.
struct Second(u32);

impl Judge for Second {
    fn judge(
        &mut self,
        _: &ConfChange,
        from: Option<MemberId>,
        _: Option<u64>,
        status: &Status,
    ) -> Result<(), String> {
        assert_eq!(status.role, Role::Leader);
        self.0 += 1;
        if self.0 == 2 {
            return Err(format!("the second, from {from:?}"));
        }
        Ok(())
    }
}

/// Three members; the first one leads, and has this judge.
fn three_with_a_judge(judge: impl Judge + 'static) -> Cluster {
    let mut cluster = three();
    cluster.crash(1);
    let (disk, seed) = cluster.down.remove(&1).expect("it was just ended");
    let mut node = Node::start(1, seed, disk.clone());
    let mut with_judge = config(1);
    with_judge.judge = Some(Box::new(judge));
    node.raft = RaftNode::new(
        with_judge,
        Recovered {
            hard_state: disk.hard_state,
            conf_state: node.raft.conf_state(),
            entries: disk.entries.values().cloned().collect(),
            applied: disk.machine.applied,
            ..Recovered::default()
        },
    )
    .expect("its own disk");
    cluster.nodes.insert(1, node);
    for id in [2, 3] {
        cluster.tick(id, ELECTION_TICKS);
    }
    cluster.elect(1);
    cluster.trace.clear();
    cluster
}

#[test]
fn conf_changes_are_judged_on_the_leader_also_forwarded_ones() {
    let mut cluster = three_with_a_judge(Second(0));
    cluster.change(1, &learner(8));
    cluster.change(2, &learner(9)); // forwarded, refused
    assert_eq!(cluster.node(1).raft.conf_state().learners, [8]);
    assert!(
        cluster.node(1).refused[0].contains("the second, from Some"),
        "{:?}",
        cluster.node(1).refused
    );
    cluster.change(2, &learner(9));
    assert_eq!(cluster.node(1).raft.conf_state().learners, [8, 9]);
}

#[test]
fn status_tells_progress_and_contact() {
    let mut cluster = three();
    cluster.crash(3);
    cluster.tick(1, 4);
    cluster.put(1, "a=1");
    let status = cluster.node(1).raft.status();
    assert_eq!(status.role, Role::Leader);
    assert_eq!((status.committed, status.applied), (5, 5));
    let ids: Vec<u64> = status.members.iter().map(|m| m.id.0).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(status.members[1].matched, 5);
    assert_eq!(status.members[1].last_contact_ticks, Some(0));
    assert_eq!(status.members[2].matched, 4);
    assert!(status.members[2].last_contact_ticks >= Some(4));
}

#[test]
fn a_turn_of_nothing_does_nothing() {
    let mut cluster = three();
    let effects = cluster.node(1).raft.turn(Inputs::default());
    assert_eq!(
        format!("{effects:?}"),
        format!("{:?}", raftnode::Effects::default())
    );
}

#[test]
fn a_message_is_passed_on_to_the_leader_once() {
    let mut cluster = three();
    for (msg_type, at) in [(MessageType::MsgProp, 2), (MessageType::MsgReadIndex, 3)] {
        let mut to_a_follower = message(msg_type, 5 - at, at, 0);
        to_a_follower.entries = vec![Entry {
            data: b"k=v".to_vec().into(),
            ..Entry::default()
        }];
        cluster.node(at).inputs.messages.push(to_a_follower);
        cluster.turn(at);
        let mut passed = cluster.wire.pop_front().expect("it goes to the leader");
        assert_eq!((passed.from, passed.to), (5 - at, 1));
        passed.to = 5 - at;
        passed.from = at;
        cluster.node(5 - at).inputs.messages.push(passed);
        cluster.turn(5 - at);
        assert!(cluster.wire.is_empty(), "not a second time");
    }
}

#[test]
fn a_new_leader_appends_no_conf_change_before_it_applied_an_entry_of_its_term() {
    let mut cluster = three();
    for id in [2, 3] {
        cluster.node(id).slow_disk = true;
    }
    cluster.node(1).inputs.transfer_to = Some(MemberId(2));
    cluster.settle();
    cluster.sync(2); // its vote
    cluster.node(3).slow_disk = false;
    cluster.sync(3);
    cluster.crash(1);
    cluster.crash(3); // nobody acknowledges the first entry of the term
    assert_eq!(cluster.node(2).raft.status().role, Role::Leader);
    assert!(cluster.node(2).raft.status().conf_change_pending);
    cluster.trace.clear();
    cluster.change(2, &learner(4));
    let pending = "n2 drops proposal: an earlier conf change is not applied yet";
    assert_eq!(cluster.trace, [pending]);
    cluster.node(2).slow_disk = false;
    cluster.sync(2);
    cluster.restart(3);
    cluster.tick(2, 2);
    cluster.change(2, &learner(4));
    assert_eq!(cluster.node(2).raft.conf_state().learners, [4]);
}

#[test]
fn a_conf_change_for_this_leader_only_is_not_forwarded() {
    let mut cluster = three();
    let change = learner(4).to_conf_change(1);
    cluster.propose(2, here(&change, None));
    cluster.settle();
    assert_eq!(
        cluster.trace,
        ["n2 drops proposal: this member does not lead"]
    );
    cluster.propose(1, here(&change, None));
    cluster.settle();
    assert_eq!(cluster.node(3).raft.conf_state().learners, [4]);
}

/// Allows a change only for the expected number.
struct Expecting(u64);

impl Judge for Expecting {
    fn judge(
        &mut self,
        _: &ConfChange,
        _: Option<MemberId>,
        condition: Option<u64>,
        _: &Status,
    ) -> Result<(), String> {
        match condition {
            None => Ok(()),
            Some(expected) if expected == self.0 => Ok(()),
            Some(expected) => Err(format!("expected {expected}, found {}", self.0)),
        }
    }
}

/// One that is held because another change is under way comes in again as it was.
#[test]
fn a_condition_stays_with_its_change_when_that_is_given_back() {
    let mut cluster = three_with_a_judge(Expecting(7));
    for id in [2, 3] {
        cluster.node(id).slow_disk = true;
    }
    let first = learner(8).to_conf_change(1);
    cluster.propose(1, here(&first, Some(7)));
    cluster.settle();
    let second = here(&learner(9).to_conf_change(2), Some(6));
    cluster.propose(1, second.clone());
    cluster.settle();
    let dropped = cluster
        .node(1)
        .dropped
        .pop()
        .expect("the first one is not applied");
    assert_eq!(dropped.reason, DropReason::ConfChangePending);
    assert_eq!(dropped.payload, second);
    for id in [2, 3] {
        cluster.node(id).slow_disk = false;
        cluster.sync(id);
    }
    cluster.settle();
    assert_eq!(cluster.node(1).raft.conf_state().learners, [8]);
    cluster.propose(1, dropped.payload);
    cluster.settle();
    let dropped = cluster.node(1).dropped.pop().expect("it is refused");
    let refused = DropReason::Judged("expected 6, found 7".to_owned());
    assert_eq!(dropped.reason, refused);
    assert_eq!(cluster.node(1).raft.conf_state().learners, [8]);
}

#[test]
fn the_last_voter_learns_that_the_removal_of_its_leader_is_committed() {
    let mut cluster = Cluster::new(&[1, 2], 1);
    cluster.elect(1);
    let remove = Change::Remove(MemberId(1)).to_conf_change(1);
    cluster.propose(1, Payload::ConfChange(remove));
    cluster.turn(1); // appends
    cluster.turn(1); // is durable here
    let append = cluster.wire.pop_front().expect("to the follower");
    cluster.node(2).inputs.messages.push(append);
    cluster.turn(2);
    cluster.turn(2);
    let answer = cluster.wire.pop_front().expect("to the leader");
    cluster.node(1).inputs.messages.push(answer);
    cluster.turn(1);
    cluster.turn(1);
    assert!(cluster.node(1).raft.status().removed);
    assert!(cluster.node(1).stopped.is_none(), "not yet");
    cluster.wire.clear(); // the news of the commit is lost
    assert_eq!(cluster.node(2).raft.conf_state().voters, [1, 2]);
    cluster.tick(1, 2);
    assert_eq!(cluster.node(2).raft.conf_state().voters, [2]);
    // It was asked to campaign at once.
    assert_eq!(cluster.node(2).raft.status().role, Role::Leader);
    cluster.put(2, "a=1");
    assert_eq!(cluster.node(2).machine.keys.len(), 1);
    cluster.tick(1, 8);
    assert!(matches!(
        cluster.node(1).stopped,
        Some(Stop::Removed { index: 4 })
    ));
}
