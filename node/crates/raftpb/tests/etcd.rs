//! Every line of `reference/raft-rs.md` 2 and 3 that this room answers for: against bytes that
//! etcd's Go types wrote (`testdata/go.txt`), and against raft-rs itself.
#![expect(clippy::unwrap_used, reason = "a test may")]

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use raft::eraftpb;
use raft::storage::MemStorage;
use raft::{Config, RawNode};
use raftpb::conf::{self, Change, ConfContext, Member};
use raftpb::inner::{
    entry_from_inner, entry_to_inner, inner_conf_change, inner_conf_change_refused,
    message_from_inner, message_to_inner,
};
use raftpb::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, Error, HardState, MemberId, Message,
    MessageType, Snapshot, SnapshotMetadata, inner,
};

// ---- bytes

fn go(name: &str) -> &'static str {
    include_str!("../testdata/go.txt")
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .unwrap_or_else(|| panic!("no sample {name}"))
}

fn go_bytes(name: &str) -> Bytes {
    let hex = go(name);
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// Go's bytes read as `value`.
fn reads<M: prost::Message + Default + PartialEq + std::fmt::Debug>(name: &str, value: &M) {
    assert_eq!(&M::decode(go_bytes(name)).unwrap(), value, "{name}");
}

/// And `value` is written as Go writes what it leaves unset.
fn same<M: prost::Message + Default + PartialEq + std::fmt::Debug>(name: &str, value: &M) {
    reads(name, value);
    assert_eq!(value.encode_to_vec(), go_bytes(name), "{name}");
}

const LEARNER: u64 = 10_276_657_743_932_975_437;

fn normal_entry() -> Entry {
    Entry {
        term: 2,
        index: 7,
        data: Bytes::from_static(b"put"),
        ..Entry::default()
    }
}

fn empty_entry() -> Entry {
    Entry {
        term: 2,
        index: 8,
        ..Entry::default()
    }
}

fn learner_change() -> ConfChange {
    Change::AddLearner(Member {
        id: MemberId(LEARNER),
        peer_urls: vec!["http://127.0.0.1:2380".to_owned()],
        ..Member::default()
    })
    .to_conf_change(0x1234_5678_90ab_cdef)
}

fn conf_entry() -> Entry {
    Entry {
        entry_type: EntryType::EntryConfChange.into(),
        term: 2,
        index: 9,
        data: learner_change().encode_to_vec().into(),
    }
}

fn conf_state() -> ConfState {
    ConfState {
        voters: vec![1, 300, 1 << 63],
        learners: vec![4],
        ..ConfState::default()
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        data: Bytes::from_static(b"{}"),
        metadata: Some(SnapshotMetadata {
            conf_state: Some(conf_state()),
            index: 100,
            term: 3,
        }),
    }
}

fn message(msg_type: MessageType) -> Message {
    Message {
        msg_type: msg_type.into(),
        to: 2,
        from: 1,
        term: 2,
        ..Message::default()
    }
}

#[test]
fn bytes_are_those_of_go() {
    reads("entry_normal", &normal_entry());
    same("entry_lean", &empty_entry());
    same("entry_conf", &conf_entry());
    same("conf_change_learner", &learner_change());
    same(
        "conf_change_remove",
        &Change::Remove(MemberId(2)).to_conf_change(5),
    );
    reads("conf_state", &conf_state());
    same("conf_state_lean", &conf_state());
    let hard_state = HardState {
        term: 3,
        vote: 0,
        commit: 9,
    };
    reads("hard_state", &hard_state);
    same("hard_state_lean", &hard_state);
    reads("snapshot", &snapshot());
    reads(
        "msg_app",
        &Message {
            log_term: 2,
            index: 6,
            entries: vec![normal_entry(), empty_entry(), conf_entry()],
            commit: 6,
            ..message(MessageType::MsgApp)
        },
    );
    same(
        "msg_vote",
        &Message {
            term: 3,
            log_term: 2,
            index: 9,
            context: Bytes::from_static(b"CampaignTransfer"),
            ..message(MessageType::MsgVote)
        },
    );
    same(
        "msg_app_resp_reject",
        &Message {
            to: 1,
            from: 2,
            log_term: 1,
            index: 9,
            reject: true,
            reject_hint: 4,
            ..message(MessageType::MsgAppResp)
        },
    );
    same(
        "msg_heartbeat",
        &Message {
            commit: 6,
            context: Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0, 0]),
            ..message(MessageType::MsgHeartbeat)
        },
    );
    reads(
        "msg_snap",
        &Message {
            term: 3,
            snapshot: Some(snapshot()),
            ..message(MessageType::MsgSnap)
        },
    );
    same(
        "msg_link_heartbeat",
        &Message {
            msg_type: MessageType::MsgHeartbeat.into(),
            ..Message::default()
        },
    );
}

#[test]
fn repeated_numbers_are_read_packed_too() {
    let packed = [0x0a, 4, 1, 0xac, 2, 3];
    let read = ConfState::decode(packed.as_slice()).unwrap();
    assert_eq!(read.voters, [1, 300, 3]);
}

#[test]
fn ids_are_printed_in_hex_without_padding() {
    assert_eq!(MemberId(0xab).to_string(), "ab");
    assert_eq!(
        MemberId::from_hex("8e9e05c52164694d"),
        Some(MemberId(LEARNER))
    );
    for wrong in ["", "+1", "0x1", "1ffffffffffffffff", "g"] {
        assert_eq!(MemberId::from_hex(wrong), None, "{wrong:?}");
    }
}

// ---- fields (raft-rs.md 2)

#[test]
fn fields_of_raft_rs_do_not_leave() {
    let inner = eraftpb::Message {
        msg_type: eraftpb::MessageType::MsgAppend,
        to: 2,
        from: 1,
        term: 2,
        commit: 6,
        request_snapshot: 9,
        deprecated_priority: 9,
        commit_term: 9,
        priority: 9,
        ..Default::default()
    };
    let out = message_from_inner(inner);
    let expected = Message {
        commit: 6,
        ..message(MessageType::MsgApp)
    };
    assert_eq!(out.encode_to_vec(), expected.encode_to_vec());
}

#[test]
fn fields_of_etcd_do_not_enter() {
    // vote = 13 and responses = 14, as in a message for etcd's storage threads
    let mut bytes = message(MessageType::MsgApp).encode_to_vec();
    bytes.extend([0x68, 7, 0x72, 2, 0x08, 4]);
    let inner = message_to_inner(Message::decode(bytes.as_slice()).unwrap()).unwrap();
    let expected = message_to_inner(message(MessageType::MsgApp)).unwrap();
    assert_eq!(inner, expected);
    assert_eq!(inner.request_snapshot, 0);
    assert_eq!(inner.deprecated_priority, 0);
}

#[test]
fn votes_carry_no_commit_either_way() {
    for msg_type in [
        MessageType::MsgVote,
        MessageType::MsgVoteResp,
        MessageType::MsgPreVote,
        MessageType::MsgPreVoteResp,
    ] {
        let with_commit = Message {
            commit: 5,
            ..message(msg_type)
        };
        let mut inner = message_to_inner(with_commit).unwrap();
        assert_eq!((inner.commit, inner.commit_term), (0, 0));
        inner.commit = 5;
        inner.commit_term = 2;
        assert_eq!(message_from_inner(inner).commit, 0);
    }
}

#[test]
fn answers_leave_without_commit_as_those_of_etcd() {
    for msg_type in [MessageType::MsgAppResp, MessageType::MsgHeartbeatResp] {
        let mut inner = message_to_inner(message(msg_type)).unwrap();
        inner.commit = 5;
        assert_eq!(message_from_inner(inner).commit, 0);
    }
}

#[test]
fn the_empty_snapshot_of_older_releases_does_not_enter() {
    let read = Message::decode(go_bytes("msg_app_resp_36")).unwrap();
    assert!(read.snapshot.is_some());
    let inner = message_to_inner(read).unwrap();
    assert!(!inner.has_snapshot());
    assert_eq!(message_from_inner(inner).snapshot, None);
}

#[test]
fn local_and_unknown_types_do_not_enter() {
    for msg_type in [19, 20, 21, 22, 23, 24, -1] {
        let refused = message_to_inner(Message {
            msg_type,
            from: 7,
            ..Message::default()
        });
        assert_eq!(refused, Err(Error::MessageType { msg_type, from: 7 }));
    }
    let storage = Message::decode(go_bytes("msg_storage_append")).unwrap();
    assert!(message_to_inner(storage).is_err());
    for msg_type in 0..=18 {
        let inner = message_to_inner(Message {
            msg_type,
            ..Message::default()
        });
        assert_eq!(message_from_inner(inner.unwrap()).msg_type, msg_type);
    }
}

#[test]
fn bytes_move_and_are_not_copied() {
    let data = Bytes::from(vec![7; 100]);
    let sent = Message {
        entries: vec![Entry {
            data: data.clone(),
            ..Entry::default()
        }],
        snapshot: Some(Snapshot {
            data: data.clone(),
            metadata: None,
        }),
        context: data.clone(),
        ..message(MessageType::MsgSnap)
    };
    let back = message_from_inner(message_to_inner(sent).unwrap());
    assert_eq!(back.entries[0].data.as_ptr(), data.as_ptr());
    assert_eq!(back.snapshot.unwrap().data.as_ptr(), data.as_ptr());
    assert_eq!(back.context.as_ptr(), data.as_ptr());
}

// ---- conf changes (raft-rs.md 3)

fn member(id: u64) -> Member {
    Member {
        id: MemberId(id),
        peer_urls: vec![format!("http://127.0.0.1:{}", 1000 + id)],
        ..Member::default()
    }
}

#[test]
fn json_is_that_of_go() {
    let urls = ["http://127.0.0.1:2380", "http://[::1]:2380"].map(str::to_owned);
    let added = Member {
        id: MemberId(LEARNER),
        peer_urls: urls.into(),
        ..Member::default()
    };
    let learner = Member {
        is_learner: true,
        ..added.clone()
    };
    let full = Member {
        name: "é<a>&\"b\\\u{2028}\u{7f}\t\u{1}\u{8}\u{c}/".to_owned(),
        client_urls: vec!["http://127.0.0.1:2379".to_owned()],
        ..added.clone()
    };
    let context = ConfContext {
        member: full.clone(),
        is_promote: false,
    };
    assert_eq!(added.to_json(), go("json_add"));
    assert_eq!(learner.to_json(), go("json_learner"));
    assert_eq!(full.to_json(), go("json_full"));
    assert_eq!(context.to_json(), go("json_context_full"));
    assert_eq!(Member::default().to_json(), go("json_bare"));
    let promotion = Change::Promote(MemberId(4)).to_conf_change(1);
    assert_eq!(promotion.context, go("json_promote"));
    for (json, member) in [("json_add", &added), ("json_full", &full)] {
        let read = ConfContext::from_json(go(json).as_bytes()).unwrap();
        assert_eq!((&read.member, read.is_promote), (member, false));
    }
    assert_eq!(
        ConfContext::from_json(go("json_context_full").as_bytes()).unwrap(),
        context
    );
    assert!(
        ConfContext::from_json(go("json_promote").as_bytes())
            .unwrap()
            .is_promote
    );
}

#[test]
fn a_conf_change_shows_raft_a_stub_and_keeps_its_bytes() {
    let entry = conf_entry();
    let inner = entry_to_inner(entry.clone()).unwrap();
    assert_eq!(inner.context, entry.data);
    let stub: eraftpb::ConfChange = protobuf::Message::parse_from_bytes(&inner.data).unwrap();
    assert_eq!(stub.change_type, eraftpb::ConfChangeType::AddLearnerNode);
    assert_eq!((stub.node_id, stub.id), (LEARNER, 0x1234_5678_90ab_cdef));
    assert!(
        stub.context.is_empty(),
        "one copy of etcd's bytes is enough"
    );
    assert_eq!(entry_from_inner(inner), entry);
}

#[test]
fn what_is_applied_to_raft() {
    use eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
    let cases = [
        (Change::Add(member(4)), AddNode, 4),
        (Change::Remove(MemberId(4)), RemoveNode, 4),
        (Change::AddLearner(member(4)), AddLearnerNode, 4),
        (Change::Promote(MemberId(4)), AddNode, 4),
        (
            Change::Update {
                id: MemberId(4),
                peer_urls: vec!["http://a:1".to_owned()],
            },
            AddNode,
            0,
        ),
    ];
    for (change, change_type, node_id) in cases {
        let applied = inner_conf_change(&change.to_conf_change(9)).unwrap();
        assert_eq!(
            (applied.change_type, applied.node_id),
            (change_type, node_id),
            "{change:?}"
        );
    }
    assert_eq!(inner_conf_change_refused().node_id, 0);
    let unknown = ConfChange {
        change_type: 4,
        ..ConfChange::default()
    };
    assert_eq!(inner_conf_change(&unknown), Err(Error::ConfChangeType(4)));
}

#[test]
fn entries_that_etcd_does_not_write_are_refused() {
    let joint = Entry {
        entry_type: EntryType::EntryConfChangeV2.into(),
        index: 5,
        ..Entry::default()
    };
    assert_eq!(
        entry_to_inner(joint.clone()),
        Err(Error::ConfChangeV2 { index: 5 })
    );
    assert_eq!(
        conf::check_conf_change(&joint),
        Err(Error::ConfChangeV2 { index: 5 })
    );
    let unknown = Entry {
        entry_type: 3,
        index: 5,
        ..Entry::default()
    };
    let expected = Error::EntryType {
        index: 5,
        entry_type: 3,
    };
    assert_eq!(entry_to_inner(unknown.clone()), Err(expected.clone()));
    assert_eq!(conf::check_conf_change(&unknown), Err(expected));
    for data in [&b""[..], b"\xff", b"\x10\x09"] {
        let damaged = Entry {
            entry_type: EntryType::EntryConfChange.into(),
            data: Bytes::from_static(data),
            ..Entry::default()
        };
        assert!(entry_to_inner(damaged.clone()).is_err(), "{data:?}");
        assert!(conf::check_conf_change(&damaged).is_err(), "{data:?}");
        let app = Message {
            entries: vec![damaged],
            ..message(MessageType::MsgApp)
        };
        assert!(message_to_inner(app).is_err(), "{data:?}");
    }
}

#[test]
fn normal_entries_pass_the_check() {
    assert_eq!(conf::check_conf_change(&normal_entry()), Ok(None));
}

#[test]
fn proposals_that_would_stop_an_etcd_member_are_refused() {
    use ConfChangeType::{
        ConfChangeAddLearnerNode as Learner, ConfChangeAddNode as Add,
        ConfChangeRemoveNode as Remove, ConfChangeUpdateNode as Update,
    };
    let check = |change_type: i32, node_id, context: &'static str| {
        let change = ConfChange {
            id: 1,
            change_type,
            node_id,
            context: Bytes::from_static(context.as_bytes()),
        };
        conf::check_conf_change(&Entry {
            entry_type: EntryType::EntryConfChange.into(),
            data: change.encode_to_vec().into(),
            ..Entry::default()
        })
        .map(|checked| checked.unwrap().1)
    };
    const FINE: &str = r#"{"id":4,"peerURLs":["http://127.0.0.1:1004"]}"#;
    const FINE_LEARNER: &str = r#"{"id":4,"peerURLs":["http://127.0.0.1:1004"],"isLearner":true}"#;
    const PROMOTE: &str = r#"{"id":4,"peerURLs":null,"isPromote":true}"#;

    assert_eq!(check(Add.into(), 4, FINE), Ok(Change::Add(member(4))));
    assert_eq!(
        check(Add.into(), 4, PROMOTE),
        Ok(Change::Promote(MemberId(4)))
    );
    assert_eq!(check(Remove.into(), 4, ""), Ok(Change::Remove(MemberId(4))));
    assert!(matches!(
        check(Learner.into(), 4, FINE_LEARNER),
        Ok(Change::AddLearner(_))
    ));
    assert!(matches!(
        check(Update.into(), 4, FINE),
        Ok(Change::Update { .. })
    ));
    // A key of a later etcd is passed over, as Go does.
    assert!(
        check(
            Add.into(),
            4,
            r#"{"id":4,"peerURLs":["http://a:1"],"zone":{"a":[1]}}"#
        )
        .is_ok()
    );

    // The type, the node.
    assert_eq!(check(4, 4, FINE), Err(Error::ConfChangeType(4)));
    assert_eq!(check(-1, 4, FINE), Err(Error::ConfChangeType(-1)));
    assert_eq!(check(Add.into(), 0, FINE), Err(Error::NoNode { id: 1 }));
    assert_eq!(check(Remove.into(), 0, ""), Err(Error::NoNode { id: 1 }));
    // Ids that differ.
    for change_type in [Add, Update, Learner] {
        let differ = Error::IdsDiffer {
            node_id: 5,
            context_id: 4,
        };
        assert_eq!(check(change_type.into(), 5, FINE), Err(differ));
    }
    // A context where none belongs, and none where one does.
    assert!(check(Remove.into(), 4, FINE).is_err());
    for change_type in [Add, Update, Learner] {
        assert!(check(change_type.into(), 4, "").is_err());
    }
    // JSON that Go cannot read, or reads otherwise than we do.
    for wrong in [
        "null",
        "[]",
        "{",
        "{}",
        r#"{"id":"4","peerURLs":["http://a:1"]}"#,
        r#"{"id":-4,"peerURLs":["http://a:1"]}"#,
        r#"{"id":4.5,"peerURLs":["http://a:1"]}"#,
        r#"{"id":4,"peerURLs":"http://a:1"}"#,
        r#"{"id":4,"peerURLs":[1]}"#,
        r#"{"id":4,"peerURLs":["http://a:1"]} x"#,
        r#"{"id":4,"id":4,"peerURLs":["http://a:1"]}"#,
        r#"{"id":4,"ID":5,"peerURLs":["http://a:1"]}"#,
        r#"{"id":4,"peerURLs":["http://a:1"],"peerurls":["http://b:1"]}"#,
        "{\"id\":4,\"peerURLs\":[\"http://a:1\"],\"peerURL\u{17f}\":[\"http://b:1\"]}",
        r#"{"id":4,"peerURLs":["http://a:1"],"ispromote":true}"#,
    ] {
        assert!(check(Add.into(), 4, wrong).is_err(), "{wrong}");
    }
    // Words that contradict the type.
    assert!(check(Add.into(), 4, FINE_LEARNER).is_err());
    assert!(check(Learner.into(), 4, FINE).is_err());
    assert!(check(Learner.into(), 4, PROMOTE).is_err());
    assert!(check(Update.into(), 4, PROMOTE).is_err());
    for change_type in [Add, Update] {
        assert!(check(change_type.into(), 4, r#"{"id":4,"peerURLs":null}"#).is_err());
        assert!(check(change_type.into(), 4, r#"{"id":4,"peerURLs":[]}"#).is_err());
    }
}

// ---- against raft-rs itself

/// One voter that leads.
fn leader() -> RawNode<MemStorage> {
    let storage = MemStorage::new_with_conf_state((vec![1], vec![]));
    let config = Config {
        id: 1,
        ..Config::default()
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut node = RawNode::new(&config, storage, &logger).unwrap();
    node.campaign().unwrap();
    turn(&mut node);
    node
}

/// Persists and applies whatever is ready; the conf changes among it, in etcd's form.
fn turn(node: &mut RawNode<MemStorage>) -> Vec<Entry> {
    let mut changes = Vec::new();
    while node.has_ready() {
        let mut ready = node.ready();
        node.store().wl().append(ready.entries()).unwrap();
        if let Some(hard_state) = ready.hs() {
            node.store().wl().set_hardstate(hard_state.clone());
        }
        let mut committed = ready.take_committed_entries();
        let mut light = node.advance(ready);
        committed.extend(light.take_committed_entries());
        for entry in committed.into_iter().map(entry_from_inner) {
            if entry.entry_type == i32::from(EntryType::EntryConfChange) {
                let change = conf::decode_conf_change(&entry).unwrap();
                node.apply_conf_change(&inner_conf_change(&change).unwrap())
                    .unwrap();
                changes.push(entry);
            }
        }
        node.advance_apply();
    }
    changes
}

fn propose(node: &mut RawNode<MemStorage>, entry: Entry) -> raft::Result<()> {
    let proposal = Message {
        msg_type: MessageType::MsgProp.into(),
        to: 1,
        from: 1,
        entries: vec![entry],
        ..Message::default()
    };
    node.raft.step(message_to_inner(proposal).unwrap())
}

fn voters_and_learners(node: &RawNode<MemStorage>) -> (Vec<u64>, Vec<u64>) {
    let state = node.raft.prs().conf().to_conf_state();
    let (mut voters, mut learners) = (state.voters, state.learners);
    voters.sort_unstable();
    learners.sort_unstable();
    (voters, learners)
}

#[test]
fn raft_takes_every_wrapped_change_and_does_what_etcd_would() {
    let mut node = leader();
    let mut apply = |change: Change| {
        let entry = change.to_entry(9);
        propose(&mut node, entry.clone()).unwrap();
        let applied = turn(&mut node);
        assert_eq!(applied.len(), 1, "{change:?}");
        assert_eq!(applied[0].data, entry.data, "the log keeps etcd's bytes");
        voters_and_learners(&node)
    };
    assert_eq!(apply(Change::AddLearner(member(4))), (vec![1], vec![4]));
    let update = |id| Change::Update {
        id: MemberId(id),
        peer_urls: vec!["http://a:1".to_owned()],
    };
    // Unwrapped, raft-rs would read these as "add learner 1" and demote the voter.
    assert_eq!(apply(update(1)), (vec![1], vec![4]));
    assert_eq!(apply(update(4)), (vec![1], vec![4]));
    assert_eq!(apply(Change::Remove(MemberId(4))), (vec![1], vec![]));
}

#[test]
fn raft_drops_a_learner_that_is_not_wrapped() {
    let mut node = leader();
    let mut bare = entry_to_inner(conf_entry()).unwrap();
    bare.data = bare.context.clone();
    let mut proposal = eraftpb::Message {
        msg_type: eraftpb::MessageType::MsgPropose,
        from: 1,
        to: 1,
        ..Default::default()
    };
    proposal.mut_entries().push(bare);
    let refused = node.raft.step(proposal);
    assert!(
        matches!(refused, Err(raft::Error::ProposalDropped)),
        "{refused:?}"
    );
}

#[test]
fn a_second_change_is_held_back_while_one_is_pending() {
    let mut node = leader();
    propose(&mut node, Change::AddLearner(member(4)).to_entry(1)).unwrap();
    propose(&mut node, Change::AddLearner(member(5)).to_entry(2)).unwrap();
    assert_eq!(turn(&mut node).len(), 1);
    assert_eq!(voters_and_learners(&node), (vec![1], vec![4]));
    propose(&mut node, Change::AddLearner(member(5)).to_entry(3)).unwrap();
    assert_eq!(
        turn(&mut node).len(),
        1,
        "a change that was held back leaves nothing behind"
    );
    assert_eq!(voters_and_learners(&node), (vec![1], vec![4, 5]));
}

#[test]
fn a_change_that_failed_validation_frees_the_place_and_changes_nothing() {
    let mut node = leader();
    propose(&mut node, Change::AddLearner(member(4)).to_entry(1)).unwrap();
    node.apply_conf_change(&inner_conf_change_refused())
        .unwrap();
    assert_eq!(voters_and_learners(&node), (vec![1], vec![]));
}

// ---- any input

fn any_change() -> impl Strategy<Value = Change> {
    let text = "[ -~éλ\u{2028}<>&]{0,12}";
    let urls = proptest::collection::vec(text, 1..3);
    (0..5, 1..u64::MAX, urls, text).prop_map(|(kind, id, peer_urls, name)| {
        let id = MemberId(id);
        let member = Member {
            id,
            peer_urls: peer_urls.clone(),
            name,
            ..Member::default()
        };
        match kind {
            0 => Change::Add(member),
            1 => Change::AddLearner(Member {
                is_learner: true,
                ..member
            }),
            2 => Change::Promote(id),
            3 => Change::Update { id, peer_urls },
            _ => Change::Remove(id),
        }
    })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let data = proptest::collection::vec(any::<u8>(), 0..20);
    let normal = data.prop_map(|data| Entry {
        data: data.into(),
        ..Entry::default()
    });
    let conf = (any_change(), any::<u64>()).prop_map(|(change, id)| change.to_entry(id));
    (prop_oneof![normal, conf], any::<u64>(), any::<u64>()).prop_map(|(entry, term, index)| Entry {
        term,
        index,
        ..entry
    })
}

proptest! {
    #[test]
    fn entries_come_back_as_they_went_in(entry in any_entry()) {
        prop_assert_eq!(entry_from_inner(entry_to_inner(entry.clone()).unwrap()), entry);
    }

    #[test]
    fn changes_come_back_as_they_went_in(change in any_change(), id in any::<u64>()) {
        let (conf_change, read) = conf::check_conf_change(&change.to_entry(id)).unwrap().unwrap();
        prop_assert_eq!(conf_change.id, id);
        prop_assert_eq!(read, change);
    }

    #[test]
    fn messages_come_back_as_they_went_in(
        msg_type in 0..19,
        numbers in any::<[u64; 8]>(),
        entries in proptest::collection::vec(any_entry(), 0..4),
        reject in any::<bool>(),
        context in proptest::collection::vec(any::<u8>(), 0..9),
    ) {
        let kind = MessageType::try_from(msg_type).unwrap();
        let has_commit = !matches!(
            kind,
            MessageType::MsgVote | MessageType::MsgVoteResp | MessageType::MsgPreVote
                | MessageType::MsgPreVoteResp | MessageType::MsgAppResp | MessageType::MsgHeartbeatResp
        );
        let sent = Message {
            msg_type,
            to: numbers[0],
            from: numbers[1],
            term: numbers[2],
            log_term: numbers[3],
            index: numbers[4],
            entries,
            commit: if has_commit { numbers[5] } else { 0 },
            snapshot: (kind == MessageType::MsgSnap).then(snapshot),
            reject,
            reject_hint: numbers[6],
            context: context.into(),
        };
        let wire = Message::decode(sent.encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(&message_from_inner(message_to_inner(wire).unwrap()), &sent);
    }

    #[test]
    fn states_come_back_as_they_went_in(numbers in any::<[u64; 3]>(), ids in any::<[Vec<u64>; 4]>(), auto_leave in any::<bool>()) {
        let [term, vote, commit] = numbers;
        let hard_state = HardState { term, vote, commit };
        let there = inner::hard_state_to_inner(&hard_state);
        prop_assert_eq!(inner::hard_state_from_inner(&there), hard_state);
        let [voters, learners, voters_outgoing, learners_next] = ids;
        let state = ConfState { voters, learners, voters_outgoing, learners_next, auto_leave };
        let there = inner::conf_state_to_inner(state.clone());
        prop_assert_eq!(inner::conf_state_from_inner(there), state);
    }

    /// Whatever bytes come in, they are read or refused.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(message) = Message::decode(bytes.as_slice())
            && let Ok(inner) = message_to_inner(message)
        {
            message_from_inner(inner);
        }
        let entry = Entry {
            entry_type: EntryType::EntryConfChange.into(),
            data: bytes.clone().into(),
            ..Entry::default()
        };
        let _ = conf::check_conf_change(&entry);
        if let Ok(inner) = entry_to_inner(entry.clone()) {
            prop_assert_eq!(entry_from_inner(inner), entry);
        }
        let _ = ConfContext::from_json(&bytes);
    }
}
