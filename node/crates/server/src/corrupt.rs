//! Whether members hold the same: hashes of the keys, compared (etcd `corrupt.go`).
//!
//! bbolt pages have no checksum, and a bug can make members differ without damage to any file.
//! A member whose hash differs from the others' is named in a CORRUPT alarm, which stops all
//! writes; reads go on, as in etcd. The judgments are functions of the hashes; asking the peers
//! is the edge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use api::etcdserverpb as pb;
use mvcc::KeyValueHash;
use raftpb::MemberId;

use crate::lane::Lane;
use crate::member::Member;

/// What one peer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHash {
    /// who
    pub id: MemberId,
    /// its store's revision
    pub revision: i64,
    /// the hash that was asked for
    pub hash: KeyValueHash,
}

/// Who is corrupt by the leader's periodic check: `before` and `after` are the leader's hashes
/// around a linearizable read, `revision` its store's after it. etcd alarms the first one found.
pub fn judge_periodic(
    leader: MemberId,
    before: KeyValueHash,
    after: KeyValueHash,
    revision: i64,
    peers: &[PeerHash],
) -> Option<MemberId> {
    let same_moment =
        after.revision == before.revision && after.compact_revision == before.compact_revision;
    if same_moment && after.hash != before.hash {
        return Some(leader);
    }
    peers
        .iter()
        .find(|peer| {
            // The leader has applied all that a follower can have; hashes over the same
            // revisions must be equal.
            peer.revision > revision
                || peer.hash.compact_revision > after.compact_revision
                || (peer.hash.compact_revision == before.compact_revision
                    && peer.hash.hash != before.hash)
        })
        .map(|peer| peer.id)
}

/// What a comparison of the hashes of one compaction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// All members hold the same.
    Equal,
    /// Not all could be compared; nothing speaks against those that were.
    Incomplete,
    /// These differ from a majority; member 0 means that there is none.
    Differ(Vec<MemberId>),
}

/// Compares a finished compaction's hash over all members; `members` is their number, the
/// leader among them.
pub fn judge_compaction(
    leader: MemberId,
    ours: KeyValueHash,
    peers: &[PeerHash],
    members: usize,
) -> Compared {
    let mut by_hash: BTreeMap<u32, Vec<MemberId>> = BTreeMap::from([(ours.hash, vec![leader])]);
    let comparable = peers
        .iter()
        .filter(|p| p.hash.compact_revision == ours.compact_revision);
    let mut compared = 1;
    for peer in comparable {
        by_hash.entry(peer.hash.hash).or_default().push(peer.id);
        compared += 1;
    }
    if by_hash.len() == 1 {
        return if compared == members {
            Compared::Equal
        } else {
            Compared::Incomplete
        };
    }
    let majority = by_hash.values().position(|ids| ids.len() > members / 2);
    match majority {
        None => Compared::Differ(vec![MemberId(0)]),
        Some(majority) => Compared::Differ(
            by_hash
                .into_values()
                .enumerate()
                .filter(|(position, _)| *position != majority)
                .flat_map(|(_, ids)| ids)
                .collect(),
        ),
    }
}

/// Whether a member starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It serves.
    Allowed,
    /// Its data may be the wrong ones.
    Refused,
}

/// The peers that hold something else than we do at our revision, and whether we start all the
/// same. etcd refuses wherever one differs. Then the sound members cannot be restarted beside a
/// corrupt one, and who replaces what does not start replaces them, by copies of the corrupt one:
/// so who is in a majority of all members starts, and leaves it to the comparison of compactions
/// to name the other. Where hashes are missing for a majority, it is as in etcd.
pub fn judge_start(
    ours: KeyValueHash,
    peers: &[PeerHash],
    members: usize,
) -> (Vec<MemberId>, Start) {
    let comparable = peers
        .iter()
        .filter(|peer| peer.hash.compact_revision == ours.compact_revision);
    let (equal, differ): (Vec<&PeerHash>, Vec<&PeerHash>) =
        comparable.partition(|peer| peer.hash.hash == ours.hash);
    let verdict = if differ.is_empty() || equal.len() + 1 > members / 2 {
        Start::Allowed
    } else {
        Start::Refused
    };
    (differ.into_iter().map(|peer| peer.id).collect(), verdict)
}

impl Member {
    async fn peer_hashes(&self, revision: i64) -> Vec<PeerHash> {
        let cluster = self.state().cluster.get();
        let others = || cluster.members().filter(|other| other.id != self.id());
        // One that is silent leaves the others their time.
        let share = self.config.request_timeout()
            / u32::try_from(others().count().max(1)).unwrap_or(u32::MAX);
        let mut hashes = Vec::new();
        for other in others() {
            let deadline = Instant::now() + share;
            match self
                .peers
                .hash_kv(&other.peer_urls, revision, deadline)
                .await
            {
                Ok(said) => hashes.push(PeerHash {
                    id: other.id,
                    revision: said.revision,
                    hash: KeyValueHash {
                        hash: said.hash,
                        compact_revision: said.compact_revision,
                        revision: said.hash_revision,
                    },
                }),
                Err(error) => {
                    tracing::warn!(peer = %other.id, revision, %error, "a peer gave no hash")
                }
            }
        }
        hashes
    }

    async fn raise_corrupt(&self, lane: &Lane, id: MemberId) {
        tracing::error!(member = %id, "found data inconsistency; raising alarm CORRUPT");
        let alarm = pb::AlarmRequest {
            member_id: id.0,
            action: pb::alarm_request::AlarmAction::Activate as i32,
            alarm: pb::AlarmType::Corrupt as i32,
        };
        let request = pb::InternalRaftRequest {
            alarm: Some(alarm),
            ..Default::default()
        };
        if let Err(error) = lane.propose(request, usize::MAX).await {
            tracing::warn!(%error, "raising the CORRUPT alarm failed");
        }
    }
}

/// How long a member that holds something else than a peer waits at its start for hashes that are missing. When all
/// members start at once and a corrupt one is the first, the sound ones find each other within this time.
const WAIT_FOR_PEERS: Duration = Duration::from_secs(20);

/// A hash reads the whole database, here and there.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Before a member that has data serves (feature gate `InitialCorruptCheck`): refuses to go on
/// where peers hold something else at our revision, unless a majority holds what we do.
pub async fn initial_check(member: &Member) -> Result<()> {
    let until = Instant::now() + WAIT_FOR_PEERS;
    let (ours, differ, verdict) = loop {
        let (ours, _) = member.hash_kv(0).await?;
        let peers = member.peer_hashes(ours.revision).await;
        let members = member.state().cluster.get().members().count();
        let (differ, verdict) = judge_start(ours, &peers, members);
        let differ: Vec<String> = differ.iter().map(ToString::to_string).collect();
        let all_answered = peers.len() + 1 >= members;
        if verdict == Start::Allowed || all_answered || Instant::now() > until {
            break (ours, differ, verdict);
        }
        tracing::warn!(
            revision = ours.revision,
            members = differ.join(", "),
            "found data inconsistency with peers; waiting for the hashes of the others"
        );
        tokio::time::sleep(ASK_AGAIN).await;
    };
    if verdict == Start::Refused {
        bail!(
            "{} found data inconsistency with peers: at revision {} our hash is {}, that of {} is another. Remove this member from the cluster, delete its data directory and add it again; if several members differ, find the one that does not agree with the majority first",
            member.id(),
            ours.revision,
            ours.hash,
            differ.join(", ")
        );
    }
    if differ.is_empty() {
        tracing::info!("initial corruption checking passed; no corruption");
    } else {
        tracing::error!(
            revision = ours.revision,
            members = differ.join(", "),
            "found data inconsistency with peers; a majority holds what this member does"
        );
    }
    Ok(())
}

/// `--corrupt-check-time`, by the leader.
pub async fn check_periodically(member: Arc<Member>, lane: Arc<Lane>) {
    let interval = member.config.corrupt_check_time;
    if interval.is_zero() {
        return;
    }
    loop {
        tokio::time::sleep(interval).await;
        if member.is_leader()
            && let Err(error) = check_once(&member, &lane).await
        {
            tracing::warn!(%error, "failed to check hash KV");
        }
    }
}

async fn check_once(member: &Member, lane: &Lane) -> Result<(), api::Error> {
    let (before, _) = member.hash_kv(0).await?;
    let peers = member.peer_hashes(before.revision).await;
    lane.linearizable_read().await?;
    let (after, revision) = member.hash_kv(0).await?;
    if let Some(id) = judge_periodic(member.id(), before, after, revision, &peers) {
        member.raise_corrupt(lane, id).await;
    }
    tracing::info!(
        number_of_peers_checked = peers.len(),
        "finished peer corruption check"
    );
    Ok(())
}

/// Feature gate `CompactHashCheck`, by the leader: the newest compaction that all members
/// have finished.
pub async fn check_compactions(member: Arc<Member>, lane: Arc<Lane>) {
    if !member.config.compact_hash_check {
        return;
    }
    let mut checked = 0;
    let mut vain = Vain::default();
    loop {
        tokio::time::sleep(
            member
                .config
                .compact_hash_check_time
                .max(Duration::from_millis(10)),
        )
        .await;
        if !member.is_leader() {
            continue;
        }
        let members = member.state().cluster.get().members().count();
        let mut hashes = member.state().mvcc.stored_hashes();
        hashes.sort_by_key(|hash| std::cmp::Reverse(hash.revision));
        hashes.retain(|hash| hash.revision > checked);
        vain.forget_all_but(&hashes);
        hashes.retain(|hash| vain.is_worth_asking(hash.revision));
        let mut looked_at = 0;
        for ours in hashes {
            looked_at += 1;
            let peers = member.peer_hashes(ours.revision).await;
            match judge_compaction(member.id(), ours, &peers, members) {
                Compared::Incomplete => {
                    // Who did not answer costs nothing, and may have the hash.
                    if peers.len() + 1 == members {
                        vain.note(ours.revision);
                    }
                    continue;
                }
                Compared::Equal => {
                    tracing::info!(
                        revision = ours.revision,
                        "successfully checked hash on whole cluster"
                    );
                    checked = ours.revision;
                }
                Compared::Differ(ids) => {
                    for id in ids {
                        member.raise_corrupt(&lane, id).await;
                    }
                }
            }
            break;
        }
        tracing::info!(
            number_of_hashes_checked = looked_at,
            "finished compaction hash check"
        );
    }
}

/// How often each compaction was compared while all members answered, some with a hash of another
/// one.
#[derive(Debug, Default)]
struct Vain(BTreeMap<i64, u32>);

impl Vain {
    /// A member that is still at it has its hash a few rounds later. One that was started since the
    /// compaction never has it again, and reads its whole database for each answer: after so many
    /// rounds it is not asked any more, and the next compaction is compared. etcd asks for ever.
    const ROUNDS_MAX: u32 = 10;

    fn is_worth_asking(&self, revision: i64) -> bool {
        self.0
            .get(&revision)
            .is_none_or(|rounds| *rounds < Self::ROUNDS_MAX)
    }

    fn note(&mut self, revision: i64) {
        *self.0.entry(revision).or_default() += 1;
    }

    fn forget_all_but(&mut self, hashes: &[KeyValueHash]) {
        self.0
            .retain(|revision, _| hashes.iter().any(|hash| hash.revision == *revision));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: MemberId = MemberId(1);

    fn hash(hash: u32, compact_revision: i64, revision: i64) -> KeyValueHash {
        KeyValueHash {
            hash,
            compact_revision,
            revision,
        }
    }

    fn peer(id: u64, revision: i64, hash: KeyValueHash) -> PeerHash {
        PeerHash {
            id: MemberId(id),
            revision,
            hash,
        }
    }

    #[test]
    fn a_periodic_check_names_who_differs() {
        let ours = hash(7, 5, 10);
        let judge = |after, peers: &[PeerHash]| judge_periodic(LEADER, ours, after, 12, peers);
        assert_eq!(judge(ours, &[peer(2, 10, ours), peer(3, 11, ours)]), None);
        // The leader itself changed without a write.
        assert_eq!(judge(hash(8, 5, 10), &[]), Some(LEADER));
        // A new revision explains a new hash.
        assert_eq!(judge(hash(8, 5, 12), &[]), None);
        assert_eq!(judge(ours, &[peer(2, 13, ours)]), Some(MemberId(2)));
        assert_eq!(
            judge(ours, &[peer(2, 10, hash(7, 6, 10))]),
            Some(MemberId(2))
        );
        assert_eq!(
            judge(ours, &[peer(2, 10, ours), peer(3, 10, hash(9, 5, 10))]),
            Some(MemberId(3))
        );
        // Another compaction: not comparable.
        assert_eq!(judge(ours, &[peer(3, 10, hash(9, 4, 10))]), None);
    }

    #[test]
    fn who_is_in_a_majority_starts_beside_a_corrupt_member() {
        let ours = hash(7, 5, 10);
        let same = |id| peer(id, 10, ours);
        let other = |id| peer(id, 10, hash(8, 5, 10));
        let judge = |peers: &[PeerHash], members| judge_start(ours, peers, members);
        let two = MemberId(2);
        assert_eq!(judge(&[same(2), same(3)], 3), (vec![], Start::Allowed));
        assert_eq!(judge(&[], 3), (vec![], Start::Allowed));
        assert_eq!(judge(&[other(2), same(3)], 3), (vec![two], Start::Allowed));
        // The third one does not answer, or cannot be compared: nobody knows who is right.
        assert_eq!(judge(&[other(2)], 3), (vec![two], Start::Refused));
        let elsewhere = peer(3, 10, hash(7, 6, 10));
        assert_eq!(
            judge(&[other(2), elsewhere], 3),
            (vec![two], Start::Refused)
        );
        assert_eq!(
            judge(&[other(2), other(3)], 3),
            (vec![two, MemberId(3)], Start::Refused)
        );
        assert_eq!(judge(&[other(2)], 2), (vec![two], Start::Refused));
        // Half is no majority.
        assert_eq!(judge(&[other(2), same(3)], 4), (vec![two], Start::Refused));
    }

    #[test]
    fn a_compaction_that_cannot_be_compared_is_left_after_some_rounds() {
        let mut vain = Vain::default();
        for _ in 0..Vain::ROUNDS_MAX {
            assert!(vain.is_worth_asking(10));
            vain.note(10);
        }
        assert!(!vain.is_worth_asking(10));
        assert!(vain.is_worth_asking(11));
        vain.forget_all_but(&[hash(7, 5, 10)]);
        assert!(!vain.is_worth_asking(10));
        vain.forget_all_but(&[hash(7, 10, 11)]);
        assert!(
            vain.0.is_empty(),
            "one that has no hash any more holds no memory"
        );
    }

    #[test]
    fn a_compaction_is_judged_by_the_majority() {
        let ours = hash(7, 5, 10);
        let same = |id| peer(id, 10, ours);
        let other = |id, h| peer(id, 10, hash(h, 5, 10));
        let judge = |peers: &[PeerHash], members| judge_compaction(LEADER, ours, peers, members);
        assert_eq!(judge(&[same(2), same(3)], 3), Compared::Equal);
        assert_eq!(judge(&[same(2)], 3), Compared::Incomplete);
        assert_eq!(
            judge(&[same(2), other(3, 8)], 3),
            Compared::Differ(vec![MemberId(3)])
        );
        assert_eq!(
            judge(&[other(2, 8), other(3, 8)], 3),
            Compared::Differ(vec![LEADER])
        );
        assert_eq!(
            judge(&[other(2, 8), other(3, 9)], 3),
            Compared::Differ(vec![MemberId(0)])
        );
        assert_eq!(
            judge(&[peer(2, 10, hash(8, 4, 10)), same(3)], 3),
            Compared::Incomplete
        );
    }
}
