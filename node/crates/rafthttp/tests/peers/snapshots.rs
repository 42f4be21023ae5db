//! Databases from member to member.

use std::sync::atomic::Ordering;

use raftpb::{MemberId, Message, MessageType as Type, Snapshot, SnapshotMetadata};

use crate::support::*;

fn snapshot_message(from: MemberId, to: MemberId, index: u64) -> Message {
    Message {
        snapshot: Some(Snapshot {
            data: vec![1, 2, 3].into(),
            metadata: Some(SnapshotMetadata {
                index,
                term: 1,
                ..SnapshotMetadata::default()
            }),
        }),
        ..message(Type::MsgSnap, from, to)
    }
}

fn send(from: &Member, to: MemberId, total: u64, end: End) {
    let message = snapshot_message(from.id, to, 77);
    let source = Pattern { at: 0, total, end };
    from.transport.send_snapshot(message, Box::new(source));
}

fn report(member: &Member) -> Vec<(MemberId, bool)> {
    eventually("the snapshot's end is reported", || {
        !member.record.reports().is_empty()
    });
    member.record.reports()
}

#[test]
fn promise_08_a_database_is_saved_then_stepped_then_acknowledged() {
    const TOTAL: u64 = 50 << 20;
    let (a, b) = pair();
    send(&a, b.id, TOTAL, End::Whole);
    assert_eq!(report(&a), [(b.id, true)]);
    assert_eq!(*b.record.events.lock(), ["receiving", "saved", "stepped"]);
    let databases = b.record.databases.lock();
    assert_eq!((databases.len(), databases[0].index), (1, 77));
    assert_eq!(databases[0].bytes.len() as u64, TOTAL);
    let wrong = (0..TOTAL).find(|at| databases[0].bytes[*at as usize] != pattern_byte(*at));
    assert_eq!(wrong, None);
    let stepped = b.record.messages.lock();
    assert_eq!(*stepped, [snapshot_message(a.id, b.id, 77)]);
    let sent = &a.transport.peers()[0].stats.snapshot_sent;
    assert_eq!((sent.successes, sent.failures, sent.in_flight), (1, 0, 0));
    let received = &b.transport.peers()[0].stats.snapshot_received;
    assert_eq!((received.successes, received.failures), (1, 0));
}

#[test]
fn a_database_that_cannot_be_read_is_never_taken_for_whole() {
    let (a, b) = pair();
    send(&a, b.id, 1 << 20, End::Fails);
    assert_eq!(report(&a), [(b.id, false)]);
    eventually("b discarded it", || {
        *b.record.events.lock() == ["receiving", "discarded"]
    });
    assert!(b.record.databases.lock().is_empty());
    eventually("unreachable too", || {
        a.record.unreachable.load(Ordering::Relaxed) == 1
    });
}

#[test]
fn a_receiver_that_cannot_save_says_so() {
    let (a, b) = pair();
    b.record.fail_saving.store(true, Ordering::Relaxed);
    send(&a, b.id, 1 << 20, End::Whole);
    assert_eq!(report(&a), [(b.id, false)]);
    eventually("b discarded it", || {
        *b.record.events.lock() == ["receiving", "discarded"]
    });
}

#[test]
fn a_message_that_raft_does_not_take_is_not_acknowledged() {
    let (a, b) = pair();
    b.record.refuse.store(true, Ordering::Relaxed);
    send(&a, b.id, 1 << 10, End::Whole);
    assert_eq!(report(&a), [(b.id, false)]);
}

#[test]
fn a_stalled_transfer_is_given_up() {
    let stall = |config: &mut rafthttp::Config| {
        config.timeouts.snapshot_stall = std::time::Duration::from_millis(200);
    };
    let (a, b) = (Member::start_with(1, stall), Member::start(2));
    a.knows(&b);
    b.knows(&a);
    send(&a, b.id, 1 << 20, End::Hangs);
    assert_eq!(report(&a), [(b.id, false)]);
    eventually("b discarded it", || {
        b.record.events.lock().contains(&"discarded")
    });
}

#[test]
fn every_snapshot_is_reported_exactly_once() {
    let (a, b) = pair();
    // To nobody.
    send(&a, MemberId(99), 10, End::Whole);
    assert_eq!(a.record.reports(), [(MemberId(99), false)]);
    // Without its database.
    a.transport.send(vec![snapshot_message(a.id, b.id, 1)]);
    assert_eq!(a.record.reports()[1..], [(b.id, false)]);
    // To a peer that is cut off.
    a.transport.cut(b.id);
    send(&a, b.id, 10, End::Whole);
    a.transport.mend(b.id);
    assert_eq!(a.record.reports()[2..], [(b.id, false)]);
    // To a peer that is removed during the transfer.
    send(&a, b.id, 1 << 20, End::Hangs);
    eventually("it is under way", || {
        b.record.events.lock().contains(&"receiving")
    });
    a.transport.remove_peer(b.id);
    eventually("reported", || a.record.reports().len() == 4);
    // While the transport stops.
    a.knows(&b);
    send(&a, b.id, 1 << 20, End::Hangs);
    a.transport.stop();
    eventually("reported", || a.record.reports().len() == 5);
    assert!(a.record.reports().iter().all(|report| !report.1));
    drop(b);
    assert_eq!(a.record.reports().len(), 5);
}
