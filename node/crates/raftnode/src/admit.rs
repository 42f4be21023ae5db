//! The gate: what may be stepped into raft-rs.
//!
//! raft-rs takes its peers for correct and panics on many messages that a wire can bring. Each
//! rule here stands for one of those panics, or for a belief that would be wrong; with the gate
//! in front, nothing that a peer sends can end this process. The one thing that ends a member
//! is a leader that proves that our disk lost acknowledged entries, and that ends in order
//! ([`Refusal::LostEntries`]).
//!
//! A refused message is dropped and counted. Raft bears any loss.

use raft::{Raft, StateRole};
use raftpb::{EntryType, MemberId, Message, MessageType};

use crate::PROPOSAL_BYTES_MAX;
use crate::log::Log;

/// Terms beyond this come from no real cluster; raft adds one to them, which must not overflow.
const TERM_MAX: u64 = u64::MAX >> 1;

/// Indexes beyond this come from no real cluster; raft adds to them.
const INDEX_MAX: u64 = u64::MAX >> 1;

/// etcd's contexts have 8 or 16 bytes. They are echoed and held, so they are bounded.
const CONTEXT_BYTES_MAX: usize = 64;

/// What an entry costs beside its data, when bytes are counted.
const ENTRY_OVERHEAD_BYTES: usize = 16;

/// What the gate must know beside raft's own state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// All that raft wants durable is durable, see `RaftNode::quiet`.
    pub quiet: bool,
    /// A received snapshot is not in place yet.
    pub installing: bool,
    /// We were removed.
    pub removed: bool,
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The member was removed and takes part no more.
    #[error("this member was removed from the cluster")]
    Removed,
    /// Not for us.
    #[error("message is for {to}, this member is {id}")]
    NotForUs {
        /// The `to` found.
        to: MemberId,
        /// Who we are.
        id: MemberId,
    },
    /// From nobody or from ourselves.
    #[error("message says that it comes from {0}, which is nobody or this member")]
    From(MemberId),
    /// A type that is local to a member, or none at all.
    #[error("message type {0} never travels between members")]
    Type(i32),
    /// An answer from somebody who is no member here.
    #[error("answer from {0}, which is no member")]
    NotAMember(MemberId),
    /// Term 0 where there must be one, or one where there must be none, or beyond the limit.
    #[error("message of type {msg_type} has term {term}")]
    Term {
        /// Its type.
        msg_type: i32,
        /// The term found.
        term: u64,
    },
    /// An index that no cluster reaches.
    #[error("index {0} is beyond what a log can hold")]
    Index(u64),
    /// A context longer than any of etcd's.
    #[error("context of {0} bytes, expected at most {CONTEXT_BYTES_MAX}")]
    Context(usize),
    /// Too few or too many entries for the type.
    #[error("message of type {msg_type} has {entries} entries")]
    EntryCount {
        /// Its type.
        msg_type: i32,
        /// How many.
        entries: usize,
    },
    /// More bytes of entries than the limit for the type.
    #[error("message of type {msg_type} has {bytes} bytes of entries, expected at most {max}")]
    EntryBytes {
        /// Its type.
        msg_type: i32,
        /// How many.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// An entry that does not follow the one before.
    #[error("entry {found}, expected {expected}")]
    EntryIndex {
        /// The index found.
        found: u64,
        /// The index that would follow.
        expected: u64,
    },
    /// An entry older than the one before, or newer than the message.
    #[error("entry {index} has term {term}, expected {low} to {high}")]
    EntryTerm {
        /// Its index.
        index: u64,
        /// Its term.
        term: u64,
        /// Term of the entry before.
        low: u64,
        /// Term of the message.
        high: u64,
    },
    /// The leader's log differs from ours where ours is committed: one of the two is damaged.
    /// We do not follow.
    #[error(
        "entry {index} of {from} has term {theirs}, here it is committed with term {ours}: one of the two logs is damaged"
    )]
    Conflict {
        /// The leader.
        from: MemberId,
        /// Where.
        index: u64,
        /// Its term there.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
    /// A heartbeat from one that we do not follow commits beyond our log.
    #[error("heartbeat commits {commit}, the log ends at {last_index}")]
    CommitBeyondLog {
        /// What it said.
        commit: u64,
        /// Where our log ends.
        last_index: u64,
    },
    /// The same from the leader that we follow: the disk lost acknowledged entries.
    #[error("leader commits {commit} as acknowledged here, the log ends at {last_index}")]
    LostEntries {
        /// What it said.
        commit: u64,
        /// Where our log ends.
        last_index: u64,
    },
    /// An acknowledgement of entries that we do not have.
    #[error("acknowledges {index}, the log ends at {last_index}")]
    AckBeyondLog {
        /// What it said.
        index: u64,
        /// Where our log ends.
        last_index: u64,
    },
    /// A rejection whose hint lies after what it rejects.
    #[error("rejects {index} with hint {hint}")]
    Hint {
        /// The index rejected.
        index: u64,
        /// The hint.
        hint: u64,
    },
    /// A snapshot that no etcd member makes.
    #[error("snapshot at index {index}, term {term}: {why}")]
    Snapshot {
        /// Its index.
        index: u64,
        /// Its term.
        term: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// Right in itself, but we are not in a state to take it; raft repeats it.
    #[error("not now: {0}")]
    NotNow(&'static str),
    /// A conf change that a peer forwarded and that the judge refused.
    #[error("conf change refused: {0}")]
    Judged(String),
    /// An entry or a type that cannot be translated for raft-rs.
    #[error(transparent)]
    Form(#[from] raftpb::Error),
}

/// May this message be stepped?
///
/// # Errors
///
/// It must be dropped, for the reason given.
pub(crate) fn admit(message: &Message, raft: &Raft<Log>, view: View) -> Result<(), Refusal> {
    if view.removed {
        return Err(Refusal::Removed);
    }
    if message.to != raft.id {
        return Err(Refusal::NotForUs {
            to: MemberId(message.to),
            id: MemberId(raft.id),
        });
    }
    if message.from == 0 || message.from == raft.id {
        return Err(Refusal::From(MemberId(message.from)));
    }
    let not_a_type = Refusal::Type(message.msg_type);
    let Ok(msg_type) = MessageType::try_from(message.msg_type) else {
        return Err(not_a_type);
    };
    bounds(message, msg_type)?;
    match msg_type {
        MessageType::MsgProp => proposal(message),
        MessageType::MsgReadIndex => {
            one_small_entry(message)?;
            known(message, raft)
        }
        MessageType::MsgReadIndexResp => {
            one_small_entry(message)?;
            known(message, raft)
        }
        MessageType::MsgApp => append(message, raft),
        MessageType::MsgAppResp => append_answer(message, raft),
        MessageType::MsgSnap => snapshot(message, raft, view),
        MessageType::MsgHeartbeat => heartbeat(message, raft),
        MessageType::MsgHeartbeatResp => known(message, raft),
        MessageType::MsgVote | MessageType::MsgPreVote => Ok(()),
        MessageType::MsgVoteResp | MessageType::MsgPreVoteResp => {
            known(message, raft)?;
            // A lead won before our own vote is durable breaks raft-rs (it asserts that the
            // whole log is persisted) and raft (a crash would let us vote twice). Honest
            // answers come after: our request leaves only once it is durable.
            let counts = match raft.state {
                StateRole::PreCandidate => msg_type == MessageType::MsgPreVoteResp,
                StateRole::Candidate => msg_type == MessageType::MsgVoteResp,
                StateRole::Follower | StateRole::Leader => false,
            };
            if counts && !message.reject && !view.quiet {
                return Err(Refusal::NotNow("votes arrive before our own is durable"));
            }
            Ok(())
        }
        MessageType::MsgTimeoutNow => timeout_now(message, raft, view),
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgStorageAppend
        | MessageType::MsgStorageAppendResp
        | MessageType::MsgStorageApply
        | MessageType::MsgStorageApplyResp
        | MessageType::MsgForgetLeader => Err(not_a_type),
    }
}

/// Terms and numbers, whatever the type.
fn bounds(message: &Message, msg_type: MessageType) -> Result<(), Refusal> {
    let has_no_term = matches!(msg_type, MessageType::MsgProp | MessageType::MsgReadIndex);
    if has_no_term != (message.term == 0) || message.term > TERM_MAX {
        return Err(Refusal::Term {
            msg_type: message.msg_type,
            term: message.term,
        });
    }
    for index in [message.index, message.commit, message.reject_hint] {
        if index > INDEX_MAX {
            return Err(Refusal::Index(index));
        }
    }
    if message.context.len() > CONTEXT_BYTES_MAX {
        return Err(Refusal::Context(message.context.len()));
    }
    Ok(())
}

/// Answers, and requests that we answer by more than a rejection, come from members.
fn known(message: &Message, raft: &Raft<Log>) -> Result<(), Refusal> {
    if raft.prs().get(message.from).is_some() {
        Ok(())
    } else {
        Err(Refusal::NotAMember(MemberId(message.from)))
    }
}

/// raft-rs takes the first entry of MsgProp and MsgReadIndex without looking.
fn proposal(message: &Message) -> Result<(), Refusal> {
    if message.entries.is_empty() {
        return Err(Refusal::EntryCount {
            msg_type: message.msg_type,
            entries: 0,
        });
    }
    let bytes = message
        .entries
        .iter()
        .map(|entry| entry.data.len() + ENTRY_OVERHEAD_BYTES)
        .sum();
    if bytes > PROPOSAL_BYTES_MAX {
        return Err(Refusal::EntryBytes {
            msg_type: message.msg_type,
            bytes,
            max: PROPOSAL_BYTES_MAX,
        });
    }
    for entry in &message.entries {
        raftpb::conf::check_conf_change(entry)?;
    }
    Ok(())
}

fn one_small_entry(message: &Message) -> Result<(), Refusal> {
    let [entry] = message.entries.as_slice() else {
        return Err(Refusal::EntryCount {
            msg_type: message.msg_type,
            entries: message.entries.len(),
        });
    };
    if entry.data.len() > CONTEXT_BYTES_MAX {
        return Err(Refusal::EntryBytes {
            msg_type: message.msg_type,
            bytes: entry.data.len(),
            max: CONTEXT_BYTES_MAX,
        });
    }
    Ok(())
}

fn append(message: &Message, raft: &Raft<Log>) -> Result<(), Refusal> {
    // raft-rs answers the term of an entry beyond its log with 0, so that an append with
    // log term 0 would match there, and leave a hole.
    if (message.index == 0) != (message.log_term == 0) || message.log_term > message.term {
        return Err(Refusal::EntryTerm {
            index: message.index,
            term: message.log_term,
            low: u64::from(message.index != 0),
            high: message.term,
        });
    }
    let mut before = message.index;
    let mut low = message.log_term.max(1);
    for entry in &message.entries {
        if entry.index != before + 1 {
            return Err(Refusal::EntryIndex {
                found: entry.index,
                expected: before + 1,
            });
        }
        if entry.term < low || entry.term > message.term {
            return Err(Refusal::EntryTerm {
                index: entry.index,
                term: entry.term,
                low,
                high: message.term,
            });
        }
        if entry.entry_type == i32::from(EntryType::EntryConfChangeV2) {
            return Err(raftpb::Error::ConfChangeV2 { index: entry.index }.into());
        }
        before = entry.index;
        low = entry.term;
    }
    if message.term < raft.term {
        return Ok(()); // answered with our term, nothing else
    }
    let previous = std::iter::once((message.index, message.log_term));
    let entries = message
        .entries
        .iter()
        .map(|entry| (entry.index, entry.term));
    for (index, theirs) in previous.chain(entries) {
        if index > raft.raft_log.committed {
            break;
        }
        if index == 0 || index + 1 < raft.raft_log.first_index() {
            continue; // compacted: nothing to compare with
        }
        if let Ok(ours) = raft.raft_log.term(index)
            && ours != theirs
        {
            return Err(Refusal::Conflict {
                from: MemberId(message.from),
                index,
                theirs,
                ours,
            });
        }
    }
    Ok(())
}

fn append_answer(message: &Message, raft: &Raft<Log>) -> Result<(), Refusal> {
    known(message, raft)?;
    if message.reject {
        if message.reject_hint > message.index {
            return Err(Refusal::Hint {
                index: message.index,
                hint: message.reject_hint,
            });
        }
        return Ok(());
    }
    // raft-rs would believe an acknowledgement beyond the log, and go on from there with log
    // term 0. One of a higher term only makes us follow.
    let last_index = raft.raft_log.last_index();
    if message.term <= raft.term && message.index > last_index {
        return Err(Refusal::AckBeyondLog {
            index: message.index,
            last_index,
        });
    }
    Ok(())
}

fn heartbeat(message: &Message, raft: &Raft<Log>) -> Result<(), Refusal> {
    let last_index = raft.raft_log.last_index();
    if message.term < raft.term || message.commit <= last_index {
        return Ok(());
    }
    let commit = message.commit;
    // A leader sends min(commit, what we acknowledged to it in this term).
    if message.term == raft.term && message.from == raft.leader_id {
        Err(Refusal::LostEntries { commit, last_index })
    } else {
        Err(Refusal::CommitBeyondLog { commit, last_index })
    }
}

fn snapshot(message: &Message, raft: &Raft<Log>, view: View) -> Result<(), Refusal> {
    let metadata = message
        .snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.metadata.as_ref());
    let (index, term) = metadata.map_or((0, 0), |metadata| (metadata.index, metadata.term));
    let wrong = |why| Err(Refusal::Snapshot { index, term, why });
    let Some(conf_state) = metadata.and_then(|metadata| metadata.conf_state.as_ref()) else {
        return wrong("no conf state");
    };
    if index == 0 || index > INDEX_MAX {
        return wrong("index out of range");
    }
    if term == 0 || term > message.term {
        return wrong("term is 0 or beyond the message's");
    }
    if conf_state.voters.is_empty() {
        return wrong("no voters");
    }
    if !conf_state.voters_outgoing.is_empty()
        || !conf_state.learners_next.is_empty()
        || conf_state.auto_leave
    {
        return wrong("joint conf state, which etcd never makes");
    }
    let mut ids: Vec<u64> = conf_state
        .voters
        .iter()
        .chain(&conf_state.learners)
        .copied()
        .collect();
    ids.sort_unstable();
    if ids[0] == 0 || ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return wrong("id 0 or an id twice");
    }
    if message.term < raft.term {
        return Ok(()); // ignored by raft
    }
    if index == raft.raft_log.committed && raft.raft_log.term(index).is_ok_and(|ours| ours != term)
    {
        return wrong("differs from our committed log");
    }
    if view.installing {
        return Err(Refusal::NotNow("an earlier snapshot is being put in place"));
    }
    Ok(())
}

fn timeout_now(message: &Message, raft: &Raft<Log>, view: View) -> Result<(), Refusal> {
    if message.from != raft.leader_id || message.term != raft.term {
        return Err(Refusal::NotNow("MsgTimeoutNow is for the leader to send"));
    }
    if raft.state == StateRole::Follower && !view.quiet {
        return Err(Refusal::NotNow("no campaign before our log is durable"));
    }
    Ok(())
}
