//! The one translator between etcd's raft messages and those of raft-rs.
//!
//! raft-rs's types are called *inner* here. What must hold, and why, is in the chapter of the
//! crate. Three rules:
//!
//! 1. Only fields 1 to 12 of a message cross, both ways. A `commit` in a vote or in the answer
//!    to one is zeroed: with its own fields 15 and 16 raft-rs would move the commit index by it,
//!    which etcd does not. The `commit` that raft-rs puts into the answers to MsgApp and
//!    MsgHeartbeat is zeroed on the way out, since etcd's answers have none.
//! 2. A conf change entry holds a stub inside, and etcd's own bytes in the inner `context`,
//!    a field which etcd's entries do not have.
//! 3. A snapshot crosses in MsgSnap only. Releases up to 3.6 send an empty one in every message.
//!
//! Byte fields are [`Bytes`] on both sides; they move, they are not copied.

use bytes::Bytes;
use prost::Message as _;
use protobuf::Message as _;
use raft_proto::eraftpb;

use crate::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, Error, HardState, Message,
    MessageType, Snapshot, SnapshotMetadata,
};

/// Makes raft-rs's form of an entry from wire, WAL or a proposal.
///
/// # Errors
///
/// A type other than normal and conf change, or a conf change that is none of etcd's. The
/// context of a conf change is not looked at: what stands in the log is the same for all
/// members. A proposal goes through [`crate::conf::check_conf_change`] first.
pub fn entry_to_inner(entry: Entry) -> Result<eraftpb::Entry, Error> {
    let Entry {
        entry_type,
        term,
        index,
        data,
    } = entry;
    let mut inner = eraftpb::Entry {
        term,
        index,
        ..Default::default()
    };
    match EntryType::try_from(entry_type) {
        Ok(EntryType::EntryNormal) => inner.data = data,
        Ok(EntryType::EntryConfChange) => {
            inner.entry_type = eraftpb::EntryType::EntryConfChange;
            inner.data = conf_change_stub(index, &data)?;
            inner.context = data;
        }
        Ok(EntryType::EntryConfChangeV2) => return Err(Error::ConfChangeV2 { index }),
        Err(_) => return Err(Error::EntryType { index, entry_type }),
    }
    Ok(inner)
}

/// Makes etcd's form of an entry that raft-rs hands out, for wire, WAL and apply.
///
/// # Panics
///
/// On a conf change which did not come in through [`entry_to_inner`]: raft-rs makes none itself
/// outside of joint consensus, which etcd never enters.
pub fn entry_from_inner(inner: eraftpb::Entry) -> Entry {
    let (entry_type, data) = match inner.entry_type {
        eraftpb::EntryType::EntryNormal => (EntryType::EntryNormal, inner.data),
        eraftpb::EntryType::EntryConfChange => {
            assert!(
                !inner.context.is_empty(),
                "conf change at index {} carries none of etcd's bytes",
                inner.index
            );
            (EntryType::EntryConfChange, inner.context)
        }
        eraftpb::EntryType::EntryConfChangeV2 => {
            panic!("raft made a joint conf change at index {}", inner.index)
        }
    };
    Entry {
        entry_type: entry_type.into(),
        term: inner.term,
        index: inner.index,
        data,
    }
}

/// Makes raft-rs's form of a message from a wire.
///
/// # Errors
///
/// A type that raft-rs does not have (etcd's storage messages 19 to 22 and ForgetLeader 23 are
/// local to a member), or an entry that [`entry_to_inner`] refuses.
pub fn message_to_inner(message: Message) -> Result<eraftpb::Message, Error> {
    let unknown = || Error::MessageType {
        msg_type: message.msg_type,
        from: message.from,
    };
    let msg_type = MessageType::try_from(message.msg_type).map_err(|_| unknown())?;
    let inner_type = message_type_to_inner(msg_type).ok_or_else(unknown)?;
    let entries = message
        .entries
        .into_iter()
        .map(entry_to_inner)
        .collect::<Result<Vec<_>, _>>()?;
    let mut inner = eraftpb::Message {
        msg_type: inner_type,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: entries.into(),
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        ..Default::default()
    };
    if is_vote(msg_type) {
        inner.commit = 0;
    }
    if msg_type == MessageType::MsgSnap {
        let snapshot = message.snapshot.unwrap_or_default();
        inner.set_snapshot(snapshot_to_inner(snapshot));
    }
    Ok(inner)
}

/// Makes etcd's form of a message that raft-rs wants sent.
pub fn message_from_inner(inner: eraftpb::Message) -> Message {
    let msg_type = message_type_from_inner(inner.msg_type);
    let has_commit = !is_vote(msg_type)
        && !matches!(
            msg_type,
            MessageType::MsgAppResp | MessageType::MsgHeartbeatResp
        );
    let snapshot = (msg_type == MessageType::MsgSnap)
        .then(|| snapshot_from_inner(inner.snapshot.into_option().unwrap_or_default()));
    Message {
        msg_type: msg_type.into(),
        to: inner.to,
        from: inner.from,
        term: inner.term,
        log_term: inner.log_term,
        index: inner.index,
        entries: inner
            .entries
            .into_vec()
            .into_iter()
            .map(entry_from_inner)
            .collect(),
        commit: if has_commit { inner.commit } else { 0 },
        snapshot,
        reject: inner.reject,
        reject_hint: inner.reject_hint,
        context: inner.context,
    }
}

/// raft-rs's form of a hard state.
pub fn hard_state_to_inner(hard_state: &HardState) -> eraftpb::HardState {
    eraftpb::HardState {
        term: hard_state.term,
        vote: hard_state.vote,
        commit: hard_state.commit,
        ..Default::default()
    }
}

/// etcd's form of a hard state.
pub fn hard_state_from_inner(inner: &eraftpb::HardState) -> HardState {
    HardState {
        term: inner.term,
        vote: inner.vote,
        commit: inner.commit,
    }
}

/// raft-rs's form of a conf state.
pub fn conf_state_to_inner(conf_state: ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: conf_state.voters,
        learners: conf_state.learners,
        voters_outgoing: conf_state.voters_outgoing,
        learners_next: conf_state.learners_next,
        auto_leave: conf_state.auto_leave,
        ..Default::default()
    }
}

/// etcd's form of a conf state.
pub fn conf_state_from_inner(inner: eraftpb::ConfState) -> ConfState {
    ConfState {
        voters: inner.voters,
        learners: inner.learners,
        voters_outgoing: inner.voters_outgoing,
        learners_next: inner.learners_next,
        auto_leave: inner.auto_leave,
    }
}

/// raft-rs's form of a snapshot.
pub fn snapshot_to_inner(snapshot: Snapshot) -> eraftpb::Snapshot {
    let metadata = snapshot.metadata.unwrap_or_default();
    let mut inner_metadata = eraftpb::SnapshotMetadata {
        index: metadata.index,
        term: metadata.term,
        ..Default::default()
    };
    inner_metadata.set_conf_state(conf_state_to_inner(metadata.conf_state.unwrap_or_default()));
    let mut inner = eraftpb::Snapshot {
        data: snapshot.data,
        ..Default::default()
    };
    inner.set_metadata(inner_metadata);
    inner
}

/// etcd's form of a snapshot.
pub fn snapshot_from_inner(inner: eraftpb::Snapshot) -> Snapshot {
    let metadata = inner.metadata.into_option().unwrap_or_default();
    let conf_state = metadata.conf_state.into_option().unwrap_or_default();
    Snapshot {
        data: inner.data,
        metadata: Some(SnapshotMetadata {
            conf_state: Some(conf_state_from_inner(conf_state)),
            index: metadata.index,
            term: metadata.term,
        }),
    }
}

/// The conf change that raft-rs is told to apply: 0 add, 1 remove, 3 add learner.
///
/// An update changes nothing in raft and goes as a change of node 0, which raft-rs ignores as
/// etcd's raft does. So does a change that failed validation: see [`inner_conf_change_refused`].
///
/// # Errors
///
/// A type that is none of etcd's.
pub fn inner_conf_change(change: &ConfChange) -> Result<eraftpb::ConfChange, Error> {
    let change_type = ConfChangeType::try_from(change.change_type)
        .map_err(|_| Error::ConfChangeType(change.change_type))?;
    let (inner_type, node_id) = match change_type {
        ConfChangeType::ConfChangeAddNode => (eraftpb::ConfChangeType::AddNode, change.node_id),
        ConfChangeType::ConfChangeRemoveNode => {
            (eraftpb::ConfChangeType::RemoveNode, change.node_id)
        }
        ConfChangeType::ConfChangeUpdateNode => (eraftpb::ConfChangeType::AddNode, 0),
        ConfChangeType::ConfChangeAddLearnerNode => {
            (eraftpb::ConfChangeType::AddLearnerNode, change.node_id)
        }
    };
    Ok(eraftpb::ConfChange {
        change_type: inner_type,
        node_id,
        id: change.id,
        ..Default::default()
    })
}

/// The conf change that raft-rs is told to apply in place of one that failed validation at
/// apply: node 0, no effect but that the change is no longer pending.
pub fn inner_conf_change_refused() -> eraftpb::ConfChange {
    eraftpb::ConfChange::default()
}

/// What raft-rs reads in place of etcd's bytes.
fn conf_change_stub(index: u64, data: &Bytes) -> Result<Bytes, Error> {
    let undecodable = |reason: String| Error::ConfChangeBytes {
        index,
        length: data.len(),
        reason,
    };
    if data.is_empty() {
        // Nothing to carry, hence nothing that could be restored on the way out.
        return Err(undecodable("no bytes".to_owned()));
    }
    let change =
        ConfChange::decode(data.clone()).map_err(|error| undecodable(error.to_string()))?;
    let stub = inner_conf_change(&change)?
        .write_to_bytes()
        .map_err(|error| undecodable(error.to_string()))?;
    Ok(stub.into())
}

fn is_vote(msg_type: MessageType) -> bool {
    matches!(
        msg_type,
        MessageType::MsgVote
            | MessageType::MsgVoteResp
            | MessageType::MsgPreVote
            | MessageType::MsgPreVoteResp
    )
}

fn message_type_to_inner(msg_type: MessageType) -> Option<eraftpb::MessageType> {
    Some(match msg_type {
        MessageType::MsgHup => eraftpb::MessageType::MsgHup,
        MessageType::MsgBeat => eraftpb::MessageType::MsgBeat,
        MessageType::MsgProp => eraftpb::MessageType::MsgPropose,
        MessageType::MsgApp => eraftpb::MessageType::MsgAppend,
        MessageType::MsgAppResp => eraftpb::MessageType::MsgAppendResponse,
        MessageType::MsgVote => eraftpb::MessageType::MsgRequestVote,
        MessageType::MsgVoteResp => eraftpb::MessageType::MsgRequestVoteResponse,
        MessageType::MsgSnap => eraftpb::MessageType::MsgSnapshot,
        MessageType::MsgHeartbeat => eraftpb::MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResp => eraftpb::MessageType::MsgHeartbeatResponse,
        MessageType::MsgUnreachable => eraftpb::MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus => eraftpb::MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum => eraftpb::MessageType::MsgCheckQuorum,
        MessageType::MsgTransferLeader => eraftpb::MessageType::MsgTransferLeader,
        MessageType::MsgTimeoutNow => eraftpb::MessageType::MsgTimeoutNow,
        MessageType::MsgReadIndex => eraftpb::MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp => eraftpb::MessageType::MsgReadIndexResp,
        MessageType::MsgPreVote => eraftpb::MessageType::MsgRequestPreVote,
        MessageType::MsgPreVoteResp => eraftpb::MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgStorageAppend
        | MessageType::MsgStorageAppendResp
        | MessageType::MsgStorageApply
        | MessageType::MsgStorageApplyResp
        | MessageType::MsgForgetLeader => return None,
    })
}

fn message_type_from_inner(inner: eraftpb::MessageType) -> MessageType {
    match inner {
        eraftpb::MessageType::MsgHup => MessageType::MsgHup,
        eraftpb::MessageType::MsgBeat => MessageType::MsgBeat,
        eraftpb::MessageType::MsgPropose => MessageType::MsgProp,
        eraftpb::MessageType::MsgAppend => MessageType::MsgApp,
        eraftpb::MessageType::MsgAppendResponse => MessageType::MsgAppResp,
        eraftpb::MessageType::MsgRequestVote => MessageType::MsgVote,
        eraftpb::MessageType::MsgRequestVoteResponse => MessageType::MsgVoteResp,
        eraftpb::MessageType::MsgSnapshot => MessageType::MsgSnap,
        eraftpb::MessageType::MsgHeartbeat => MessageType::MsgHeartbeat,
        eraftpb::MessageType::MsgHeartbeatResponse => MessageType::MsgHeartbeatResp,
        eraftpb::MessageType::MsgUnreachable => MessageType::MsgUnreachable,
        eraftpb::MessageType::MsgSnapStatus => MessageType::MsgSnapStatus,
        eraftpb::MessageType::MsgCheckQuorum => MessageType::MsgCheckQuorum,
        eraftpb::MessageType::MsgTransferLeader => MessageType::MsgTransferLeader,
        eraftpb::MessageType::MsgTimeoutNow => MessageType::MsgTimeoutNow,
        eraftpb::MessageType::MsgReadIndex => MessageType::MsgReadIndex,
        eraftpb::MessageType::MsgReadIndexResp => MessageType::MsgReadIndexResp,
        eraftpb::MessageType::MsgRequestPreVote => MessageType::MsgPreVote,
        eraftpb::MessageType::MsgRequestPreVoteResponse => MessageType::MsgPreVoteResp,
    }
}
