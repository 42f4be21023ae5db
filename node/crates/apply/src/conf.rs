//! Conf changes.

use membership::{Applied, Change, Membership};
use prost::Message;
use raftpb::conf::Member;
use raftpb::{ConfChange, ConfState, Entry};

use backend::Writer;

use crate::error::membership_error;

/// What a conf change came to.
#[derive(Debug, Clone)]
pub struct ConfResult {
    /// What raft has to apply. A change that was refused is applied with node zero, which
    /// changes nothing but lets the next change be proposed.
    pub raft: ConfChange,
    /// Raft's configuration after the entry.
    pub conf_state: ConfState,
    /// What to answer: all members, by ID.
    pub result: Result<Vec<Member>, api::Error>,
    /// What happened to which member; `None` if the change was refused, or replayed.
    pub applied: Option<Applied>,
    /// Why the change was refused, in words for the log.
    pub refused: Option<membership::Error>,
    /// This member was removed, and must stop.
    pub removed_self: bool,
}

/// Decodes the conf change of an entry. Bytes that are none become a change of nothing.
pub(crate) fn decode(entry: &Entry) -> (ConfChange, Result<Change, membership::Error>) {
    match ConfChange::decode(entry.data.clone()) {
        Ok(raft) => {
            let change = Change::decode(&raft);
            (raft, change)
        }
        Err(error) => {
            let error = membership::Error::BadJson {
                what: "conf change",
                reason: error.to_string(),
            };
            (ConfChange::default(), Err(error))
        }
    }
}

/// Judges a change and does it.
pub(crate) fn apply(
    membership: &mut Membership,
    entry: &Entry,
    writer: &mut Writer,
) -> (u64, ConfResult) {
    let (mut raft, change) = decode(entry);
    let allowed = change.and_then(|change| membership.validate(&change).map(|()| change));
    let (result, applied, refused) = match allowed {
        Ok(change) => {
            let applied = membership.apply(&change, writer);
            (
                Ok(membership.members().cloned().collect()),
                Some(applied),
                None,
            )
        }
        Err(error) => {
            raft.node_id = 0;
            (Err(membership_error(&error)), None, Some(error))
        }
    };
    let removed_self = matches!(applied, Some(Applied::Removed(id)) if id == membership.local_id());
    let request_id = raft.id;
    let conf_state = membership.conf_state().clone();
    (
        request_id,
        ConfResult {
            raft,
            conf_state,
            result,
            applied,
            refused,
            removed_self,
        },
    )
}

/// For an entry that the database had already: raft started from a configuration that has
/// it, or applies it once more.
pub(crate) fn replay(membership: &Membership, entry: &Entry) -> (u64, ConfResult) {
    let (raft, change) = decode(entry);
    let result = ConfResult {
        conf_state: membership.conf_state().clone(),
        result: Ok(membership.members().cloned().collect()),
        applied: None,
        refused: change.err(),
        removed_self: false,
        raft,
    };
    (result.raft.id, result)
}
