//! Conf changes: what an entry asks for, whether it may be, and doing it.

use backend::Writer;
use raftpb::{ConfChange, ConfChangeType, ConfState};

use crate::{Error, Member, MemberId, Membership, json, store};

/// A conf change, read from its entry.
///
/// Everything that etcd applies is read, also what it would not propose and what
/// [`raftpb::conf::Change`] therefore refuses: an entry in the log means the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The ID of the request that waits for it; zero in bootstrap entries.
    pub request_id: u64,
    /// What raft does.
    pub kind: ConfChangeType,
    /// Whom it concerns.
    pub node: MemberId,
    /// For an add or an update, the member in the entry's context.
    pub member: Member,
    /// For an add: the member exists and shall vote from now on.
    pub is_promote: bool,
}

/// What a conf change did, for those who keep connections to members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A new member, with its peer URLs.
    Added(Member),
    /// A learner votes now.
    Promoted(MemberId),
    /// A member is gone for good.
    Removed(MemberId),
    /// A member has other peer URLs. `None` if it was unknown, and nothing changed.
    Updated(MemberId, Option<Vec<String>>),
}

impl Change {
    /// Reads a conf change.
    ///
    /// # Errors
    /// Those of entries that etcd itself never writes and stops at: an unknown type, JSON
    /// that is none, two different IDs. They are refused here like any invalid change.
    pub fn decode(change: &ConfChange) -> Result<Change, Error> {
        let kind = ConfChangeType::try_from(change.change_type)
            .map_err(|_| Error::UnknownChange(change.change_type))?;
        let node = MemberId(change.node_id);
        let (member, is_promote) = match kind {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                json::decode_context(&change.context)?
            }
            ConfChangeType::ConfChangeUpdateNode => (json::decode_member(&change.context)?, false),
            ConfChangeType::ConfChangeRemoveNode => {
                let member = Member {
                    id: node,
                    ..Member::default()
                };
                (member, false)
            }
        };
        if member.id != node {
            return Err(Error::IdMismatch {
                entry: node,
                context: member.id,
            });
        }
        Ok(Change {
            request_id: change.id,
            kind,
            node,
            member,
            is_promote,
        })
    }
}

impl Membership {
    /// Whether a change may be done to the set as it is now; etcd's rules, in etcd's order.
    /// Only members that conf changes brought count, not those seeded from a configuration.
    ///
    /// # Errors
    /// The first six of [`Error`].
    pub fn validate(&self, change: &Change) -> Result<(), Error> {
        if self.is_removed(change.node) {
            return Err(Error::IdRemoved);
        }
        let existing = self.stored_member(change.node);
        match change.kind {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode
                if change.is_promote =>
            {
                if !existing.ok_or(Error::IdNotFound)?.is_learner {
                    return Err(Error::NotLearner);
                }
            }
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                if existing.is_some() {
                    return Err(Error::IdExists);
                }
                self.check_peer_urls(change)?;
                let learner = change.member.is_learner;
                if learner && change.kind == ConfChangeType::ConfChangeAddLearnerNode {
                    let learners = self
                        .stored_members()
                        .filter(|member| member.is_learner)
                        .count();
                    if learners >= self.learners_max() {
                        return Err(Error::TooManyLearners);
                    }
                }
            }
            ConfChangeType::ConfChangeRemoveNode => {
                existing.ok_or(Error::IdNotFound)?;
            }
            ConfChangeType::ConfChangeUpdateNode => {
                existing.ok_or(Error::IdNotFound)?;
                self.check_peer_urls(change)?;
            }
        }
        Ok(())
    }

    fn check_peer_urls(&self, change: &Change) -> Result<(), Error> {
        let taken = self
            .stored_members()
            .filter(|member| member.id != change.node)
            .flat_map(|member| &member.peer_urls)
            .any(|url| change.member.peer_urls.contains(url));
        if taken {
            Err(Error::PeerUrlExists)
        } else {
            Ok(())
        }
    }

    /// Does a change that [`validate`](Membership::validate) allowed, and writes what it
    /// changed: the member, and the conf state that raft has after this entry.
    pub fn apply(&mut self, change: &Change, writer: &mut Writer) -> Applied {
        let mut conf_state = self.conf_state().clone();
        update_conf_state(&mut conf_state, change.kind, change.node);
        store::save_conf_state(writer, &conf_state);
        self.set_conf_state(conf_state);

        match change.kind {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode
                if change.is_promote =>
            {
                self.change_member(change.node, writer, |member| member.is_learner = false);
                Applied::Promoted(change.node)
            }
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                store::save_member(writer, &change.member);
                self.insert_stored(change.member.clone());
                Applied::Added(change.member.clone())
            }
            ConfChangeType::ConfChangeRemoveNode => {
                store::remove_member(writer, change.node);
                self.remove_stored(change.node);
                Applied::Removed(change.node)
            }
            ConfChangeType::ConfChangeUpdateNode => {
                let urls = change.member.peer_urls.clone();
                let known = self.change_member(change.node, writer, |member| {
                    member.peer_urls.clone_from(&urls);
                });
                Applied::Updated(change.node, known.then_some(urls))
            }
        }
    }
}

/// What one simple conf change does to raft's configuration: etcd's raft, for one change at
/// a time. Sets are ascending; node zero changes nothing.
pub fn update_conf_state(state: &mut ConfState, kind: ConfChangeType, node: MemberId) {
    let node = node.0;
    if node == 0 {
        return;
    }
    match kind {
        ConfChangeType::ConfChangeAddNode => {
            remove(&mut state.learners, node);
            insert(&mut state.voters, node);
        }
        ConfChangeType::ConfChangeAddLearnerNode => {
            remove(&mut state.voters, node);
            insert(&mut state.learners, node);
        }
        ConfChangeType::ConfChangeRemoveNode => {
            remove(&mut state.voters, node);
            remove(&mut state.learners, node);
        }
        ConfChangeType::ConfChangeUpdateNode => {}
    }
}

fn insert(ids: &mut Vec<u64>, id: u64) {
    ids.sort_unstable();
    if let Err(position) = ids.binary_search(&id) {
        ids.insert(position, id);
    }
}

fn remove(ids: &mut Vec<u64>, id: u64) {
    ids.retain(|other| *other != id);
    ids.sort_unstable();
}
