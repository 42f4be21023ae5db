//! The membership as a value, and the place that shares it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backend::{View, Writer};
use parking_lot::RwLock;
use raftpb::ConfState;

use crate::{Error, Member, MemberId, Version, cluster_id, member_id, store};

/// Learners a cluster may have (`--max-learners`) unless told otherwise. A learner costs the
/// leader a snapshot and a second copy of the log, so etcd is sparing with them.
pub const LEARNERS_MAX_DEFAULT: usize = 1;

/// Whether the cluster is on its way to an older version, and to which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DowngradeInfo {
    /// The version wanted, `"3.6.0"`; empty when none is.
    pub target_version: String,
    /// Whether members of that version may join now.
    pub enabled: bool,
}

/// The members of a cluster and what the cluster has agreed on about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    cluster_id: u64,
    local_id: MemberId,
    members: BTreeMap<MemberId, Member>,
    /// Those of `members` that conf changes brought; the others are seeded from a
    /// configuration, so that peers can be reached before the first entry is applied.
    stored: BTreeSet<MemberId>,
    removed: BTreeSet<MemberId>,
    conf_state: ConfState,
    version: Option<Version>,
    downgrade: DowngradeInfo,
    learners_max: usize,
}

impl Membership {
    /// The members of a new cluster, from its `--initial-cluster` (see
    /// [`parse_initial_cluster`](crate::parse_initial_cluster)) and token. IDs are computed.
    ///
    /// # Errors
    /// [`Error::SameId`].
    pub fn seed(
        initial: &BTreeMap<String, Vec<String>>,
        token: &str,
        learners_max: usize,
    ) -> Result<Membership, Error> {
        let mut members = BTreeMap::new();
        for (name, urls) in initial {
            let id = member_id(urls, token, None);
            let member = Member {
                id,
                peer_urls: urls.clone(),
                name: name.clone(),
                ..Member::default()
            };
            if id.0 == 0 || members.insert(id, member).is_some() {
                return Err(Error::SameId {
                    name: name.clone(),
                    id,
                });
            }
        }
        Ok(Membership {
            cluster_id: cluster_id(members.keys().copied()),
            learners_max,
            ..Membership::from_members(members)
        })
    }

    /// Members read from another member of the cluster (`GET /members`), for a joiner.
    #[must_use]
    pub fn of_remote(cluster_id: u64, members: Vec<Member>) -> Membership {
        let members = members
            .into_iter()
            .map(|member| (member.id, member))
            .collect();
        Membership {
            cluster_id,
            ..Membership::from_members(members)
        }
    }

    /// The membership that the database holds. `cluster_id` and `local_id` come from the WAL.
    ///
    /// # Errors
    /// Damage in the membership buckets, or a failure to read them.
    pub fn load(
        view: &View,
        cluster_id: u64,
        local_id: MemberId,
        learners_max: usize,
    ) -> Result<Membership, Error> {
        let (members, removed) = store::load_members(view)?;
        let conf_state = match store::load_conf_state(view)? {
            Some(state) => state,
            // Written since etcd 3.5; before, members were the only record.
            None => conf_state_of(members.values()),
        };
        Ok(Membership {
            cluster_id,
            local_id,
            stored: members.keys().copied().collect(),
            members,
            removed,
            conf_state,
            version: store::load_cluster_version(view)?,
            downgrade: store::load_downgrade(view)?.unwrap_or_default(),
            learners_max,
        })
    }

    fn from_members(members: BTreeMap<MemberId, Member>) -> Membership {
        Membership {
            cluster_id: 0,
            local_id: MemberId(0),
            members,
            stored: BTreeSet::new(),
            removed: BTreeSet::new(),
            conf_state: ConfState::default(),
            version: None,
            downgrade: DowngradeInfo::default(),
            learners_max: LEARNERS_MAX_DEFAULT,
        }
    }

    /// The cluster's ID.
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// This member's ID; zero until [`set_ids`](Membership::set_ids) said it.
    #[must_use]
    pub fn local_id(&self) -> MemberId {
        self.local_id
    }

    /// Says who this member is, and of which cluster.
    pub fn set_ids(&mut self, local_id: MemberId, cluster_id: u64) {
        self.local_id = local_id;
        self.cluster_id = cluster_id;
    }

    /// All members, by ascending ID.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The member with this ID.
    #[must_use]
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The first member by ID with this name. Names are unique in an initial cluster; at run
    /// time nothing forbids two members to publish the same.
    #[must_use]
    pub fn member_by_name(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|member| member.name == name)
    }

    /// The members that vote, by ascending ID.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.is_learner)
    }

    /// Whether this ID was removed; it may never come back.
    #[must_use]
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// The IDs removed so far, ascending.
    pub fn removed(&self) -> impl Iterator<Item = MemberId> {
        self.removed.iter().copied()
    }

    /// Whether this member is one of the learners. A member that is not (any more) in the
    /// cluster is none.
    #[must_use]
    pub fn is_local_learner(&self) -> bool {
        self.member(self.local_id)
            .is_some_and(|member| member.is_learner)
    }

    /// All peer URLs, sorted.
    #[must_use]
    pub fn peer_urls(&self) -> Vec<String> {
        let mut urls: Vec<String> = self
            .members()
            .flat_map(|member| member.peer_urls.iter().cloned())
            .collect();
        urls.sort();
        urls
    }

    /// All client URLs, sorted.
    #[must_use]
    pub fn client_urls(&self) -> Vec<String> {
        let mut urls: Vec<String> = self
            .members()
            .flat_map(|member| member.client_urls.iter().cloned())
            .collect();
        urls.sort();
        urls
    }

    /// Raft's configuration after the last applied entry, for snapshots.
    #[must_use]
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// Replaces raft's configuration: at start, by that of the newest snapshot when the
    /// database has none of its own.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// The cluster's version; `None` until a leader has set one.
    #[must_use]
    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// Whether a downgrade is under way.
    #[must_use]
    pub fn downgrade(&self) -> &DowngradeInfo {
        &self.downgrade
    }

    /// How many learners there may be.
    #[must_use]
    pub fn learners_max(&self) -> usize {
        self.learners_max
    }

    /// Whether the learners there are, are allowed; asked by a joiner before it starts.
    ///
    /// # Errors
    /// [`Error::TooManyLearners`].
    pub fn check_learners(&self, learners_max: usize) -> Result<(), Error> {
        let learners = self.members().filter(|member| member.is_learner).count();
        if learners > learners_max {
            Err(Error::TooManyLearners)
        } else {
            Ok(())
        }
    }

    /// Sets the cluster's version and gives back the one before. Whether this server is new
    /// enough for it ([`Version::can_serve`]) the caller has to ask first.
    pub fn set_version(&mut self, version: Version, writer: &mut Writer) -> Option<Version> {
        store::save_cluster_version(writer, &version);
        self.version.replace(version)
    }

    /// Sets the downgrade state.
    pub fn set_downgrade(&mut self, info: DowngradeInfo, writer: &mut Writer) {
        store::save_downgrade(writer, &info);
        self.downgrade = info;
    }

    /// Sets what a member says of itself once it runs. For a removed member nothing happens.
    ///
    /// # Errors
    /// [`Error::UnknownMember`]; nothing has changed then.
    pub fn set_attributes(
        &mut self,
        id: MemberId,
        name: String,
        client_urls: Vec<String>,
        writer: &mut Writer,
    ) -> Result<(), Error> {
        let known = self.change_member(id, writer, |member| {
            member.name = name;
            member.client_urls = client_urls;
        });
        if known || self.is_removed(id) {
            Ok(())
        } else {
            Err(Error::UnknownMember(id))
        }
    }

    pub(crate) fn stored_member(&self, id: MemberId) -> Option<&Member> {
        self.stored.get(&id).and_then(|id| self.members.get(id))
    }

    pub(crate) fn stored_members(&self) -> impl Iterator<Item = &Member> {
        self.stored.iter().filter_map(|id| self.members.get(id))
    }

    pub(crate) fn insert_stored(&mut self, member: Member) {
        self.stored.insert(member.id);
        self.members.insert(member.id, member);
    }

    pub(crate) fn remove_stored(&mut self, id: MemberId) {
        self.stored.remove(&id);
        self.members.remove(&id);
        self.removed.insert(id);
    }

    /// Changes a member and writes it; says whether it is known.
    pub(crate) fn change_member(
        &mut self,
        id: MemberId,
        writer: &mut Writer,
        change: impl FnOnce(&mut Member),
    ) -> bool {
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        change(member);
        store::save_member(writer, member);
        self.stored.insert(id);
        true
    }

    pub(crate) fn replace_members(&mut self, members: BTreeMap<MemberId, Member>) {
        self.members = members;
    }
}

fn conf_state_of<'a>(members: impl Iterator<Item = &'a Member>) -> ConfState {
    let mut state = ConfState::default();
    for member in members {
        let ids = if member.is_learner {
            &mut state.learners
        } else {
            &mut state.voters
        };
        ids.push(member.id.0);
    }
    state
}

/// The membership, shared. Readers take a snapshot that does not change under them; the
/// applier, the only writer after the start, replaces it.
#[derive(Debug)]
pub struct Cluster {
    current: RwLock<Arc<Membership>>,
}

impl Cluster {
    /// Shares a membership.
    #[must_use]
    pub fn new(membership: Membership) -> Cluster {
        Cluster {
            current: RwLock::new(Arc::new(membership)),
        }
    }

    /// The membership as of now.
    #[must_use]
    pub fn get(&self) -> Arc<Membership> {
        Arc::clone(&self.current.read())
    }

    /// Changes the membership; readers see all of the change or nothing.
    pub fn update<R>(&self, change: impl FnOnce(&mut Membership) -> R) -> R {
        change(Arc::make_mut(&mut self.current.write()))
    }

    /// Puts another membership in place, e.g. that of a received snapshot's database.
    pub fn replace(&self, membership: Membership) {
        *self.current.write() = Arc::new(membership);
    }
}
