//! New members, and the IDs computed from what is known of it before it starts.

use raftpb::conf::Member;
use sha1::{Digest, Sha1};

use crate::MemberId;

/// A member to add at run time. `peer_urls` as [`parse_urls`](crate::parse_urls) gives them;
/// `unix_seconds` makes the ID new even for URLs that were used before.
#[must_use]
pub fn new_member(peer_urls: Vec<String>, is_learner: bool, unix_seconds: i64) -> Member {
    Member {
        id: member_id(&peer_urls, "", Some(unix_seconds)),
        peer_urls,
        is_learner,
        ..Member::default()
    }
}

/// Whether a member ever ran: its name came with its first start.
#[must_use]
pub fn is_started(member: &Member) -> bool {
    !member.name.is_empty()
}

/// A member's ID: the first eight bytes, big endian, of the SHA-1 of its sorted peer URLs
/// joined without separator, the cluster token, and for members added at run time the
/// decimal unix seconds.
#[must_use]
pub fn member_id(peer_urls: &[String], token: &str, unix_seconds: Option<i64>) -> MemberId {
    let mut urls: Vec<&String> = peer_urls.iter().collect();
    urls.sort();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    if let Some(seconds) = unix_seconds {
        hash.update(seconds.to_string());
    }
    MemberId(prefix(hash))
}

/// The cluster's ID: the same prefix over its members' IDs, big endian and ascending.
/// It is computed once, from the initial members, and never changes.
#[must_use]
pub fn cluster_id(members: impl IntoIterator<Item = MemberId>) -> u64 {
    let mut ids: Vec<MemberId> = members.into_iter().collect();
    ids.sort();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.0.to_be_bytes());
    }
    prefix(hash)
}

fn prefix(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The IDs that every etcd with default settings prints in its first log lines.
    #[test]
    fn the_default_single_member_has_its_famous_ids() {
        let id = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster", None);
        assert_eq!(id.to_string(), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id([id])), "cdf818194e3a8c32");
    }

    #[test]
    fn the_order_of_urls_does_not_matter_and_time_does() {
        let urls = ["http://b:1".to_owned(), "http://a:1".to_owned()];
        let sorted = ["http://a:1".to_owned(), "http://b:1".to_owned()];
        assert_eq!(member_id(&urls, "t", None), member_id(&sorted, "t", None));
        assert_ne!(member_id(&urls, "", Some(1)), member_id(&urls, "", Some(2)));
        assert_eq!(
            cluster_id([MemberId(2), MemberId(1)]),
            cluster_id([MemberId(1), MemberId(2)])
        );
    }
}
