//! How a cluster comes to be, and how a member joins one.

use std::collections::BTreeMap;

use raftpb::Entry;
use raftpb::conf::Change;

use crate::{Error, Member, MemberId, Membership};

/// The first entries of a new cluster's log: one conf change per member, by ascending ID,
/// with the member's JSON, at index 1 and up in term 1. All are committed from the start.
#[must_use]
pub fn bootstrap_entries(membership: &Membership) -> Vec<Entry> {
    (1u64..)
        .zip(membership.members())
        .map(|(index, member)| Entry {
            term: 1,
            index,
            ..Change::Add(member.clone()).to_entry(0)
        })
        .collect()
}

/// Gives a joiner's members the IDs they have in the running cluster, and the cluster's ID.
///
/// Members are matched by their peer URLs with `same_urls`, which may resolve names (etcd
/// does): it says whether two lists mean the same addresses, or why it cannot tell.
///
/// # Errors
/// [`Error::CountUnequal`], [`Error::NoMatch`].
pub fn adopt_ids(
    local: &mut Membership,
    running: &Membership,
    mut same_urls: impl FnMut(&[String], &[String]) -> Result<bool, String>,
) -> Result<(), Error> {
    let mut members: Vec<Member> = local.members().cloned().collect();
    let count = running.members().count();
    if members.len() != count {
        return Err(Error::CountUnequal {
            local: members.len(),
            remote: count,
        });
    }
    for existing in running.members() {
        let mut reason = "<nil>".to_owned();
        let mut found = false;
        for member in &mut members {
            match same_urls(&existing.peer_urls, &member.peer_urls) {
                Ok(true) => {
                    member.id = existing.id;
                    member.is_learner = existing.is_learner;
                    found = true;
                    break;
                }
                Ok(false) => {}
                Err(error) => reason = error,
            }
        }
        if !found {
            return Err(Error::NoMatch {
                id: existing.id,
                urls: existing.peer_urls.clone(),
                reason,
            });
        }
    }
    let by_id: BTreeMap<MemberId, Member> = members
        .into_iter()
        .map(|member| (member.id, member))
        .collect();
    local.replace_members(by_id);
    local.set_ids(local.local_id(), running.cluster_id());
    Ok(())
}
