//! A view of the node for Status, metrics and membership checks.

use raftpb::MemberId;

/// The part that a member plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Follows a leader, or waits for one. Learners are followers.
    #[default]
    Follower,
    /// Asks whether it would be elected, without raising its term.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// What this member knows at the end of a turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub id: MemberId,
    /// Its term.
    pub term: u64,
    /// For whom it voted in this term.
    pub vote: Option<MemberId>,
    /// The leader, when known.
    pub leader: Option<MemberId>,
    /// Its role.
    pub role: Role,
    /// Highest index known to be committed.
    pub committed: u64,
    /// Highest index that the applier reported.
    pub applied: u64,
    /// First index that peers can still be sent as entries.
    pub first_index: u64,
    /// Last index of the log, durable or not.
    pub last_index: u64,
    /// Last index that is durable here.
    pub persisted: u64,
    /// A conf change may be in the log that is not applied, or a new leader has not applied its
    /// own first entry: none can be appended now.
    pub conf_change_pending: bool,
    /// To whom the lead is being handed.
    pub transferring_to: Option<MemberId>,
    /// A received snapshot is being put in place.
    pub installing: bool,
    /// This member was removed from the cluster.
    pub removed: bool,
    /// Bytes of the log in memory.
    pub log_bytes: u64,
    /// All members in the order of their ids, also this one. On a follower only the ids, the
    /// kind and the last contact mean something.
    pub members: Vec<MemberStatus>,
}

/// What this member knows of another one (or of itself).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who.
    pub id: MemberId,
    /// Has no vote.
    pub learner: bool,
    /// Leader only: its log is known to be ours up to here.
    pub matched: u64,
    /// Leader only: the next index to send.
    pub next: u64,
    /// Leader only: how it is being sent entries. Judge nobody by Probe: a caught-up follower
    /// that was once unreachable stays there until the next entry.
    pub replication: Replication,
    /// Ticks since a message from it passed the gate; `None` when there was none in this run.
    /// 0 for this member.
    pub last_contact_ticks: Option<u64>,
}

/// How a leader sends entries to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replication {
    /// One message at a time, to find where the logs part.
    #[default]
    Probe,
    /// Ahead of the acknowledgements.
    Replicate,
    /// A snapshot is on its way; nothing else is sent.
    Snapshot,
}
