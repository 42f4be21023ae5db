//! A world for the planner: Kubernetes objects, processes and a raft configuration, as simple as
//! they can be. It is the truth; [`World::observe`] says what an operator sees of it. An act that
//! would harm the truth is an error here, whatever the planner or its check think of it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use planner::{
    Action, Alarm, AlarmKind, Answer, Asked, Budget, ClusterId, FailedRemedy, KeptVolume, Live,
    LiveMember, MemberId, MemberObject, Membership, Observed, OperationKind, Pending, Pod,
    PodFacts, PodPhase, Policy, Recorded, Remedy, Retention, Role, Start, Version, Volume,
    VolumeFacts, VolumePhase, Wanted,
};

pub const MINUTE: u64 = 60_000;
pub const HOUR: u64 = 60 * MINUTE;
/// The world begins on its second day, so that things can be old.
const START_MS: u64 = 24 * HOUR;
const COMMITTED: u64 = 10_000;
const QUOTA: u64 = 1000;

#[derive(Clone, Debug)]
pub struct World {
    pub now: u64,
    pub wanted: Wanted,
    pub policy: Policy,
    pub recorded: Recorded,
    pub members: BTreeMap<u64, Member>,
    pub kept: BTreeMap<u64, Kept>,
    /// The raft configuration; empty before the cluster begins.
    pub config: BTreeMap<u64, Peer>,
    pub leader: Option<u64>,
    pub cluster_id: ClusterId,
    pub alarms: BTreeSet<(u64, AlarmKind)>,
    pub store_revision: i64,
    pub compacted: i64,
    pub budget: Option<u32>,
    pub learners_max: u32,
    /// Revisions whose Pods cannot start.
    pub bad_revisions: BTreeMap<String, Pending>,
    pub versions: BTreeMap<String, Version>,
    /// Somebody's members, added by hand.
    pub strangers: Vec<Role>,
    /// The operator reaches no member; the API server reaches their nodes.
    pub cut_off: bool,
    /// The cluster's object is gone, with all that the operator had to do.
    pub gone: bool,
    /// The API does not answer for the Pods of these.
    pub unreadable: BTreeSet<u64>,
    /// Nobody may look whether a volume's node is there.
    pub nodes_unread: bool,
    /// What members refuse, or cannot do.
    pub remedies_fail: BTreeSet<Remedy>,
    /// When they last did.
    pub remedies_failed: BTreeMap<Remedy, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    pub seed: bool,
    pub revision: String,
    pub deletion_asked: bool,
    pub last_role: Option<Role>,
    pub last_version: Option<Version>,
    pub pod: Option<PodOf>,
    pub volume: Option<Disk>,
    /// Its node says nothing, and its process is cut off.
    pub silent: bool,
    /// Its node says nothing, and its process runs on.
    pub kubelet_dead: bool,
    /// Its process is there and does nothing.
    pub hangs: bool,
    /// It died a moment ago, and looks as before.
    pub unseen: bool,
    /// Its log is as long as the leader's.
    pub caught_up: bool,
    pub term: u64,
    pub sees: Sees,
    pub since: u64,
    pub db_size: u64,
    pub db_in_use: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sees {
    Silent,
    Good,
    Bad,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodOf {
    pub revision: String,
    pub start: Start,
    /// The members that its arguments name.
    pub initial: Option<Vec<u64>>,
    pub labelled_voter: bool,
    pub phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Pending,
    Stuck(u8),
    Running,
    Crashing,
    /// Somebody has deleted it, and its process answers as long as it is let.
    Leaving,
    Terminating,
    Ended,
}

/// What is on a member's volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Disk {
    pub phase: DiskPhase,
    /// It has a log of this cluster.
    pub written: bool,
    /// Its files are damaged: the member does not start.
    pub damaged: bool,
    pub released: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskPhase {
    Bound,
    Stranded,
    Lost,
    Terminating,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kept {
    pub released: bool,
    pub written: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    pub role: Role,
    pub started: bool,
}

fn pending(number: u8) -> Pending {
    match number {
        1 => Pending::Unschedulable,
        2 => Pending::Image,
        3 => Pending::Volume,
        4 => Pending::Config,
        5 => Pending::VolumeNode,
        _ => Pending::Starting,
    }
}

pub fn name(number: u64) -> String {
    format!("x-{number}")
}

pub fn number(name: &str) -> u64 {
    name.rsplit_once('-')
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or_else(|| panic!("{name} is no member's name"))
}

fn url(number: u64) -> String {
    format!("http://x-{number}:2380")
}

/// A member that fell silent while all was well.
fn silent_since(at: u64) -> Asked {
    Asked::Silent {
        since_ms: at,
        failed_since_ms: at,
    }
}

/// An alarm that names no member has this number.
pub const NOBODY: u64 = u64::MAX;

pub fn id(number: u64) -> MemberId {
    MemberId(0xa0 + number)
}

impl World {
    /// A cluster that somebody has just asked for.
    pub fn asked_for(replicas: u32) -> World {
        let version = Version {
            major: 0,
            minor: 1,
            patch: 0,
        };
        World {
            now: START_MS,
            wanted: Wanted {
                generation: 1,
                cluster: "x".to_owned(),
                replicas,
                version,
                revision: "r1".to_owned(),
                paused: false,
                deletion_asked: false,
                deletion_protection: false,
                retention: Retention::Retain,
                adopt: false,
                recover: None,
                recover_malformed: None,
            },
            policy: Policy::default(),
            recorded: Recorded::default(),
            members: BTreeMap::new(),
            kept: BTreeMap::new(),
            config: BTreeMap::new(),
            leader: None,
            cluster_id: ClusterId(0xc1),
            alarms: BTreeSet::new(),
            store_revision: 50,
            compacted: 0,
            budget: None,
            learners_max: 2,
            bad_revisions: BTreeMap::new(),
            versions: BTreeMap::from([("r1".to_owned(), version)]),
            strangers: Vec::new(),
            cut_off: false,
            gone: false,
            unreadable: BTreeSet::new(),
            nodes_unread: false,
            remedies_fail: BTreeSet::new(),
            remedies_failed: BTreeMap::new(),
        }
    }

    /// A cluster that has been well for hours.
    pub fn settled(voters: u32) -> World {
        let mut world = World::asked_for(voters);
        for number in 0..u64::from(voters) {
            world.config.insert(
                number,
                Peer {
                    role: Role::Voter,
                    started: true,
                },
            );
            world.members.insert(
                number,
                Member {
                    pod: Some(PodOf {
                        revision: "r1".to_owned(),
                        start: Start::Existing,
                        initial: None,
                        labelled_voter: true,
                        phase: Phase::Running,
                    }),
                    volume: Some(Disk {
                        written: true,
                        ..Disk::empty()
                    }),
                    caught_up: true,
                    sees: Sees::Good,
                    ..Member::new(number == 0, "r1", START_MS - 3 * HOUR)
                },
            );
        }
        world.recorded = Recorded {
            cluster_id: Some(world.cluster_id),
            member_number_next: u64::from(voters),
            target: Some(planner::Target {
                generation: 1,
                replicas: voters,
                version: world.wanted.version,
                revision: "r1".to_owned(),
            }),
            operation_id_next: 1,
            ..Recorded::default()
        };
        world.budget = Some(voters / 2 + 1);
        world.leader = Some(0);
        world.look();
        world
    }

    // ---- what is true

    fn up(&self, number: u64) -> bool {
        let Some(member) = self.members.get(&number) else {
            return false;
        };
        !member.silent
            && !member.unseen
            && !member.hangs
            && member
                .pod
                .as_ref()
                .is_some_and(|pod| matches!(pod.phase, Phase::Running | Phase::Leaving))
    }

    /// It is up, and nobody has stopped it.
    fn stays_up(&self, number: u64) -> bool {
        let pod = self.members.get(&number).and_then(|m| m.pod.as_ref());
        self.up(number) && pod.is_some_and(|pod| pod.phase == Phase::Running)
    }

    fn voters(&self) -> impl Iterator<Item = u64> + '_ {
        let voters = self
            .config
            .iter()
            .filter(|(_, peer)| peer.role == Role::Voter);
        voters.map(|(number, _)| *number)
    }

    pub fn voters_up(&self) -> usize {
        self.voters().filter(|number| self.up(*number)).count()
    }

    pub fn voter_count(&self) -> usize {
        self.voters().count()
    }

    pub fn has_quorum(&self) -> bool {
        self.voter_count() > 0 && 2 * self.voters_up() > self.voter_count()
    }

    /// A quorum that is still there when those have stopped that were told to.
    pub fn keeps_quorum(&self) -> bool {
        let stay = self.voters().filter(|number| self.stays_up(*number));
        2 * stay.count() > self.voter_count()
    }

    /// Voters that run, or will when they are started from their disks.
    pub fn can_have_quorum(&self) -> bool {
        let could = self.voters().filter(|number| {
            self.members.get(number).is_some_and(|member| {
                let disk = member.volume.as_ref();
                !member.silent
                    && disk.is_some_and(|disk| {
                        disk.written && !disk.damaged && disk.phase == DiskPhase::Bound
                    })
            })
        });
        2 * could.count() > self.voter_count()
    }

    /// Somebody leads if somebody can; what is seen of everybody follows.
    pub fn look(&mut self) {
        let can_lead = |world: &World, number: u64| {
            world.up(number)
                && world
                    .config
                    .get(&number)
                    .is_some_and(|p| p.role == Role::Voter)
        };
        let voters: Vec<_> = self.voters().collect();
        self.leader = match self.leader {
            _ if !self.has_quorum() => None,
            Some(leader) if can_lead(self, leader) => Some(leader),
            _ => voters.into_iter().find(|number| can_lead(self, *number)),
        };
        let leads = self.leader.is_some();
        for number in self.members.keys().copied().collect::<Vec<_>>() {
            let up = self.up(number);
            let peer = self.config.get(&number).copied();
            let sees = match (up, leads && peer.is_some()) {
                (true, true) => Sees::Good,
                (true, false) => Sees::Bad,
                (false, _) => Sees::Silent,
            };
            let version = self.version_of(number);
            let now = self.now;
            let Some(member) = self.members.get_mut(&number) else {
                continue;
            };
            if !member.unseen && member.sees != sees {
                member.sees = sees;
                member.since = now;
            }
            if let Some(peer) = peer.filter(|_| leads) {
                member.last_role = Some(peer.role);
            }
            if up && peer.is_some() {
                member.last_version = version.max(member.last_version);
            }
        }
    }

    fn version_of(&self, number: u64) -> Option<Version> {
        let pod = self.members.get(&number)?.pod.as_ref()?;
        self.versions.get(&pod.revision).copied()
    }

    // ---- what is seen

    pub fn digest(&self) -> String {
        let members = self.config.iter();
        let words = members.map(|(number, peer)| match peer.role {
            Role::Voter => number.to_string(),
            Role::Learner => format!("({number})"),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    pub fn observe(&self) -> Observed {
        let members = self.members.iter();
        let kept = self.kept.iter();
        Observed {
            now_ms: self.now,
            wanted: self.wanted.clone(),
            recorded: self.recorded.clone(),
            members: members
                .map(|(number, member)| self.object(*number, member))
                .collect(),
            kept_volumes: kept
                .filter(|(number, _)| !self.members.contains_key(number))
                .map(|(number, kept)| KeptVolume {
                    member: name(*number),
                    number: *number,
                    uid: format!("claim-{number}"),
                    released: kept.released,
                })
                .collect(),
            live: self.live(),
            budget: self.budget.map_or(Budget::Absent, Budget::Present),
            remedies_failed: self
                .remedies_failed
                .iter()
                .map(|(remedy, at_ms)| FailedRemedy {
                    remedy: *remedy,
                    at_ms: *at_ms,
                })
                .collect(),
        }
    }

    fn object(&self, number: u64, member: &Member) -> MemberObject {
        let pod = match &member.pod {
            _ if self.unreadable.contains(&number) => Pod::Unknown,
            None => Pod::Absent,
            Some(pod) => Pod::Present(PodFacts {
                uid: format!("pod-{number}"),
                revision: pod.revision.clone(),
                start: pod.start,
                membership: pod.initial.as_ref().map(|initial| {
                    let now: Vec<_> = self.config.keys().copied().collect();
                    if *initial == now {
                        self.digest()
                    } else {
                        format!("{initial:?}")
                    }
                }),
                labelled_voter: pod.labelled_voter,
                phase: match pod.phase {
                    Phase::Pending => PodPhase::Pending(Pending::Starting),
                    Phase::Stuck(why) => PodPhase::Pending(pending(why)),
                    Phase::Running => PodPhase::Running {
                        ready: member.sees == Sees::Good,
                    },
                    Phase::Crashing => PodPhase::CrashLooping { restarts: 6 },
                    Phase::Leaving | Phase::Terminating => PodPhase::Terminating,
                    Phase::Ended => PodPhase::Ended,
                },
                node_silent: member.kubelet_dead || member.silent && !member.unseen,
            }),
        };
        let volume = match &member.volume {
            None => Volume::Absent,
            Some(disk) => Volume::Present(VolumeFacts {
                uid: format!("claim-{number}"),
                phase: match disk.phase {
                    DiskPhase::Bound => VolumePhase::Bound,
                    DiskPhase::Stranded if self.nodes_unread => VolumePhase::Bound,
                    DiskPhase::Stranded => VolumePhase::Stranded,
                    DiskPhase::Lost => VolumePhase::Lost,
                    DiskPhase::Terminating => VolumePhase::Terminating,
                },
                nodes_unread: disk.phase == DiskPhase::Stranded && self.nodes_unread,
                released: disk.released,
            }),
        };
        MemberObject {
            name: name(number),
            uid: format!("object-{number}"),
            number,
            peer_url: url(number),
            seed: member.seed,
            revision: member.revision.clone(),
            deletion_asked: member.deletion_asked,
            last_role: member.last_role,
            last_version: member.last_version,
            pod,
            volume,
            asked: match member.sees {
                _ if self.cut_off => silent_since(self.now),
                Sees::Silent => silent_since(member.since),
                good_or_bad => Asked::Answered(Answer {
                    id: id(number),
                    cluster_id: self.cluster_id,
                    good_since_ms: (good_or_bad == Sees::Good).then_some(member.since),
                    bad_since_ms: (good_or_bad == Sees::Bad).then_some(member.since),
                    leader: self.leader.map(id),
                    term: member.term,
                    raft_index: if member.caught_up { COMMITTED } else { 100 },
                    applied_index: if member.caught_up { COMMITTED } else { 100 },
                    version: self.version_of(number).unwrap_or_default(),
                    db_size: member.db_size,
                    db_in_use: member.db_in_use,
                }),
            },
        }
    }

    fn live(&self) -> Live {
        let Some(leader) = self.leader.filter(|_| !self.cut_off) else {
            return Live::Unknown;
        };
        let mut members: Vec<_> = self
            .config
            .iter()
            .map(|(number, peer)| LiveMember {
                id: id(*number),
                name: if peer.started {
                    name(*number)
                } else {
                    String::new()
                },
                peer_urls: vec![url(*number)],
                role: peer.role,
                number: Some(*number),
            })
            .collect();
        for (number, role) in (0..).zip(&self.strangers) {
            let name = match number {
                0 => "foreign".to_owned(),
                _ => format!("foreign-{number}"),
            };
            members.push(LiveMember {
                id: MemberId(0xbad + number),
                peer_urls: vec![format!("http://{name}:2380")],
                name,
                role: *role,
                number: None,
            });
        }
        Live::Known(Membership {
            cluster_id: self.cluster_id,
            leader: id(leader),
            digest: self.digest(),
            members,
            committed: COMMITTED,
            learners_max: self.learners_max,
            alarms: self
                .alarms
                .iter()
                .map(|(number, kind)| Alarm {
                    member: match *number {
                        NOBODY => MemberId(0),
                        number => id(number),
                    },
                    kind: *kind,
                })
                .collect(),
            store_revision: self.store_revision,
            compacted_revision: self.compacted,
            quota: QUOTA,
        })
    }

    // ---- what is done

    /// Does what the operator does. An error is a harm that nothing may do.
    pub fn act(&mut self, action: &Action) -> Result<(), String> {
        let had_quorum = self.keeps_quorum();
        let result = self.do_it(action);
        self.look();
        result?;
        let stops_on_purpose = self.wanted.replicas == 0
            || self.wanted.deletion_asked
            || matches!(
                &self.recorded.operation,
                // The first member starts again before anybody knows of the cluster.
                Some(operation) if matches!(
                    operation.kind,
                    OperationKind::RecoverQuorum { .. } | OperationKind::Bootstrap { .. }
                )
            );
        let outage = self.policy.accept_outage
            && self.voter_count() <= 2
            && matches!(action, Action::DeletePod { .. });
        if had_quorum && !self.keeps_quorum() && !stops_on_purpose && !outage {
            // A voter that died unseen is not the planner's fault, unless it knew of another.
            let unseen = self.members.values().any(|member| member.unseen);
            let knew = self.members.iter().any(|(number, member)| {
                self.config
                    .get(number)
                    .is_some_and(|p| p.role == Role::Voter)
                    && member.sees == Sees::Silent
            });
            if !unseen || (knew && !matches!(action, Action::DeletePod { .. })) {
                return Err(format!("{action}: the quorum is lost"));
            }
        }
        Ok(())
    }

    fn do_it(&mut self, action: &Action) -> Result<(), String> {
        let harm = |text: &str| Err(format!("{action}: {text}"));
        match action {
            Action::LatchTarget(target) => self.recorded.target = Some(target.clone()),
            Action::LatchClusterId(id) => self.recorded.cluster_id = Some(*id),
            Action::RecordOperation {
                operation,
                member_number_next,
                counts_as_replacement,
            } => {
                if let OperationKind::RecoverQuorum {
                    recovered: false, ..
                } = operation.kind
                    && self.has_quorum()
                {
                    return harm("a quorum that serves is given up for one member");
                }
                self.recorded.operation = Some(operation.clone());
                self.recorded.operation_id_next = operation.id + 1;
                self.recorded.member_number_next = *member_number_next;
                if *counts_as_replacement {
                    self.recorded.replacements_ms.push(self.now);
                }
            }
            Action::FinishOperation { recovery_done, .. } => {
                self.recorded.operation = None;
                if recovery_done.is_some() {
                    self.recorded.recovery_done = recovery_done.clone();
                }
            }
            Action::UpdateBudget { min_available } => self.budget = *min_available,
            Action::EnsureMemberObject {
                number,
                seed,
                revision,
                ..
            } => {
                let now = self.now;
                let kept = self.kept.remove(number);
                let member = self
                    .members
                    .entry(*number)
                    .or_insert_with(|| Member::new(*seed, revision, now));
                member.revision.clone_from(revision);
                if let Some(kept) = kept {
                    member.volume = Some(Disk {
                        written: kept.written,
                        released: kept.released,
                        ..Disk::empty()
                    });
                    member.caught_up = kept.written;
                }
            }
            Action::EnsureVolume { name } => {
                let number = number(name);
                if self.config.get(&number).is_some_and(|peer| peer.started) {
                    return harm("a member that has run gets an empty disk");
                }
                self.member(name).volume.get_or_insert(Disk::empty());
            }
            Action::EnsurePod {
                name,
                revision,
                start,
                membership,
            } => return self.make_pod(action, name, revision, *start, membership.is_some()),
            Action::LabelPod { name, voter, .. } => {
                if let Some(pod) = &mut self.member(name).pod {
                    pod.labelled_voter = *voter;
                }
            }
            Action::DeletePod { name, .. } => {
                self.delete_pod(number(name));
            }
            Action::DeleteVolume { name, .. } => {
                if self.config.contains_key(&number(name)) && !self.wanted.deletion_asked {
                    return harm("the data of a member is deleted");
                }
                self.member(name).volume = None;
            }
            Action::ReleaseVolume { name, .. } => {
                if self.config.contains_key(&number(name)) {
                    return harm("the data of a member is released");
                }
                if let Some(disk) = &mut self.member(name).volume {
                    disk.released = true;
                }
            }
            Action::DeleteMemberObject { name, .. } => {
                let number = number(name);
                if self.config.contains_key(&number) && !self.wanted.deletion_asked {
                    return harm("the object of a member is deleted");
                }
                let volume = self
                    .members
                    .remove(&number)
                    .and_then(|member| member.volume);
                if let Some(disk) = volume.filter(|_| self.wanted.retention == Retention::Retain) {
                    let kept = Kept {
                        released: disk.released,
                        written: disk.written,
                    };
                    self.kept.insert(number, kept);
                }
            }
            Action::MemberAddLearner { name, expected, .. } => {
                if *expected == self.digest() && self.has_quorum() {
                    let peer = Peer {
                        role: Role::Learner,
                        started: false,
                    };
                    if self.config.insert(number(name), peer).is_some() {
                        return harm("added twice");
                    }
                    let member = self.member(name);
                    if member.volume.is_some_and(|disk| disk.written) {
                        return harm("a new member meets an old disk");
                    }
                    member.caught_up = false;
                }
            }
            Action::MemberPromote { name, expected, .. } => {
                if *expected == self.digest() && self.has_quorum() {
                    let peer = self.config.get_mut(&number(name));
                    peer.ok_or("promotes nobody")?.role = Role::Voter;
                }
            }
            Action::MemberRemove { name, expected, .. } => {
                if *expected == self.digest() && self.has_quorum() {
                    let number = number(name);
                    self.config.remove(&number).ok_or("removes nobody")?;
                    // Its process ends: its id never comes back.
                    if let Some(pod) = &mut self.member(name).pod {
                        pod.end();
                    }
                }
            }
            Action::MoveLeader { to, .. } => self.leader = Some(to.0 - 0xa0),
            Action::Compact { .. } if self.fails(Remedy::Compact) => {}
            Action::Defragment { id, .. } if self.fails(Remedy::Defragment(*id)) => {}
            Action::Compact { revision } => {
                self.compacted = *revision;
                for member in self.members.values_mut() {
                    member.db_in_use /= 2;
                }
            }
            Action::Defragment { name, .. } => {
                let member = self.member(name);
                member.db_size = member.db_in_use;
            }
            Action::Disarm { member, kind } => {
                let number = member.0.checked_sub(0xa0).unwrap_or(NOBODY);
                self.alarms.remove(&(number, *kind));
            }
            Action::ReleaseCluster => {
                if !self.members.is_empty() {
                    return harm("members are left behind");
                }
                self.recorded = Recorded::default();
                self.gone = true;
            }
        }
        Ok(())
    }

    /// It is refused, or does not come to its end; whoever tried remembers it.
    fn fails(&mut self, remedy: Remedy) -> bool {
        let corrupt = self
            .alarms
            .iter()
            .any(|(_, kind)| *kind == AlarmKind::Corrupt);
        let fails = self.remedies_fail.contains(&remedy) || remedy == Remedy::Compact && corrupt;
        if fails {
            self.remedies_failed.insert(remedy, self.now);
        } else {
            self.remedies_failed.remove(&remedy);
        }
        fails
    }

    fn make_pod(
        &mut self,
        action: &Action,
        name: &str,
        revision: &str,
        start: Start,
        joins: bool,
    ) -> Result<(), String> {
        let harm = |text: &str| Err(format!("{action}: {text}"));
        let begun = !self.config.is_empty();
        let others_up = self
            .members
            .keys()
            .any(|other| *other != number(name) && self.up(*other));
        let initial = joins.then(|| self.config.keys().copied().collect());
        let was_member = self.config.get(&number(name)).is_some_and(|p| p.started);
        let member = self.member(name);
        let written = member.volume.is_some_and(|disk| disk.written);
        if start == Start::New && begun && !written {
            return harm("a second cluster begins");
        }
        if start == Start::Recover && others_up {
            return harm("the survivor goes on beside another");
        }
        if start == Start::Existing && was_member && !written {
            return harm("a member starts on an empty disk");
        }
        if member.pod.is_some() {
            return harm("a second Pod");
        }
        member.hangs = false;
        member.pod = Some(PodOf {
            revision: revision.to_owned(),
            start,
            initial,
            labelled_voter: false,
            phase: Phase::Pending,
        });
        Ok(())
    }

    fn member(&mut self, name: &str) -> &mut Member {
        self.members
            .get_mut(&number(name))
            .unwrap_or_else(|| panic!("{name} has no object"))
    }

    // ---- what happens by itself

    /// The next thing that happens to a member by itself, if there is one.
    pub fn next_of(&self, number: u64) -> Option<Progress> {
        let member = self.members.get(&number)?;
        if member.unseen {
            return Some(Progress::Seen);
        }
        if member.silent || member.kubelet_dead {
            return None;
        }
        let pod = member.pod.as_ref();
        match pod.map(|pod| pod.phase) {
            Some(Phase::Leaving | Phase::Terminating) => return Some(Progress::Gone),
            Some(Phase::Pending | Phase::Stuck(_) | Phase::Crashing) => {
                let becomes = self.becomes(number);
                if Some(becomes) != pod.map(|pod| pod.phase) {
                    return Some(Progress::Starts);
                }
            }
            Some(Phase::Running) if !member.caught_up && self.leader.is_some() => {
                return Some(Progress::CatchesUp);
            }
            _ => {}
        }
        None
    }

    /// How a Pod that is there goes on.
    fn becomes(&self, number: u64) -> Phase {
        let member = &self.members[&number];
        let (Some(pod), Some(disk)) = (&member.pod, &member.volume) else {
            return Phase::Stuck(3);
        };
        if let Some(why) = self.bad_revisions.get(&pod.revision) {
            return match why {
                Pending::Unschedulable => Phase::Stuck(1),
                Pending::Image => Phase::Stuck(2),
                Pending::Volume => Phase::Stuck(3),
                Pending::Config => Phase::Stuck(4),
                Pending::VolumeNode => Phase::Stuck(5),
                Pending::Starting => Phase::Crashing,
            };
        }
        match disk.phase {
            DiskPhase::Bound => {}
            DiskPhase::Stranded => return Phase::Stuck(5),
            DiskPhase::Lost | DiskPhase::Terminating => return Phase::Stuck(1),
        }
        let listed = self.config.contains_key(&number);
        let begins = pod.start != Start::Existing;
        let stale = !disk.written
            && pod.start == Start::Existing
            && pod
                .initial
                .as_ref()
                .is_none_or(|initial| *initial != self.config.keys().copied().collect::<Vec<_>>());
        if disk.damaged || (!listed && !begins) || stale {
            Phase::Crashing
        } else {
            Phase::Running
        }
    }

    pub fn happen(&mut self, number: u64, progress: Progress) {
        match progress {
            Progress::Seen => {
                if let Some(member) = self.members.get_mut(&number) {
                    member.unseen = false;
                }
            }
            Progress::Gone => {
                if let Some(member) = self.members.get_mut(&number) {
                    member.pod = None;
                }
            }
            Progress::Starts => self.starts(number),
            Progress::CatchesUp => {
                if let Some(member) = self.members.get_mut(&number) {
                    member.caught_up = true;
                }
            }
        }
        self.look();
    }

    fn starts(&mut self, number: u64) {
        let phase = self.becomes(number);
        let Some(member) = self.members.get_mut(&number) else {
            return;
        };
        let Some(pod) = &mut member.pod else {
            return;
        };
        pod.phase = phase;
        if phase != Phase::Running {
            return;
        }
        if pod.start == Start::New && self.config.is_empty() || pod.start == Start::Recover {
            self.config = BTreeMap::from([(
                number,
                Peer {
                    role: Role::Voter,
                    started: true,
                },
            )]);
            self.leader = Some(number);
            member.caught_up = true;
        }
        if let Some(disk) = &mut member.volume {
            disk.written = true;
        }
        if let Some(peer) = self.config.get_mut(&number) {
            peer.started = true;
        }
    }

    /// Everything that can happen by itself happens, then so much time passes.
    pub fn pass(&mut self, ms: u64) {
        for number in self.members.keys().copied().collect::<Vec<_>>() {
            if let Some(progress) = self.next_of(number) {
                self.happen(number, progress);
            }
        }
        self.now += ms;
        self.look();
    }

    // ---- faults and wishes

    /// The spec asks for this revision; its version is known by it.
    pub fn want_revision(&mut self, revision: &str, version: Version) {
        self.wanted.revision = revision.to_owned();
        self.wanted.version = version;
        self.versions.insert(revision.to_owned(), version);
        self.wanted.generation += 1;
    }

    pub fn want_replicas(&mut self, replicas: u32) {
        self.wanted.replicas = replicas;
        self.wanted.generation += 1;
    }

    pub fn lose_pod(&mut self, number: u64) {
        if let Some(member) = self.members.get_mut(&number) {
            member.pod = None;
        }
        self.look();
    }

    pub fn lose_volume(&mut self, number: u64) {
        if let Some(member) = self.members.get_mut(&number) {
            member.pod = None;
            member.volume = None;
        }
        self.look();
    }

    pub fn lose_node(&mut self, number: u64) {
        if let Some(member) = self.members.get_mut(&number) {
            member.pod = None;
            if let Some(disk) = &mut member.volume {
                disk.phase = DiskPhase::Stranded;
            }
        }
        self.look();
    }

    /// A Pod is deleted, by whomever: its process goes on for a grace period.
    pub fn delete_pod(&mut self, number: u64) {
        if let Some(member) = self.members.get_mut(&number)
            && let Some(pod) = &mut member.pod
        {
            pod.phase = match pod.phase {
                Phase::Running | Phase::Leaving if !member.silent => Phase::Leaving,
                _ => Phase::Terminating,
            };
        }
        self.look();
    }

    /// The eviction API: it asks the disruption budget, which counts ready Pods by their label,
    /// without those that are on their way out.
    pub fn evict(&mut self, number: u64) -> bool {
        let counted = |world: &World, number: u64| {
            world.stays_up(number)
                && world.members[&number]
                    .pod
                    .as_ref()
                    .is_some_and(|pod| pod.labelled_voter)
        };
        let ready = self.members.keys().filter(|number| counted(self, **number));
        let ready = ready.count();
        let must_stay = self.budget.unwrap_or_default() as usize;
        let left = ready - usize::from(counted(self, number));
        if left < must_stay {
            return false;
        }
        self.delete_pod(number);
        true
    }

    pub fn silence_node(&mut self, number: u64, unseen: bool) {
        if let Some(member) = self.members.get_mut(&number) {
            member.silent = true;
            member.unseen = unseen;
        }
        self.look();
    }

    pub fn node_returns(&mut self, number: u64) {
        if let Some(member) = self.members.get_mut(&number) {
            member.silent = false;
            member.unseen = false;
        }
        self.look();
    }

    pub fn damage_disk(&mut self, number: u64) {
        if let Some(member) = self.members.get_mut(&number) {
            if let Some(disk) = &mut member.volume {
                disk.damaged = true;
            }
            if let Some(pod) = &mut member.pod {
                pod.end();
            }
        }
        self.look();
    }

    // ---- two worlds that differ in nothing that matters

    /// Numbers from zero, ages by class, no history: equal worlds get equal plans.
    pub fn canonical(&self) -> World {
        let mut world = self.clone();
        let mut numbers: BTreeSet<u64> = self.members.keys().copied().collect();
        numbers.extend(self.config.keys());
        if let Some(operation) = &self.recorded.operation {
            numbers.extend(operation.kind.members().into_iter().map(number));
        }
        if let Some(order) = &self.wanted.recover {
            numbers.insert(number(&order.survivor));
        }
        let map: BTreeMap<u64, u64> = numbers.iter().copied().zip(0..).collect();
        let to = |old: u64| map.get(&old).copied().unwrap_or(old);
        world.members = self
            .members
            .iter()
            .map(|(n, m)| (to(*n), m.clone()))
            .collect();
        world.config = self.config.iter().map(|(n, p)| (to(*n), *p)).collect();
        world.leader = self.leader.map(to);
        world.alarms = self
            .alarms
            .iter()
            .filter(|(n, _)| self.config.contains_key(n))
            .map(|(n, kind)| (to(*n), *kind))
            .collect();
        world.kept.clear();
        world.now = START_MS;
        let age = |then: u64| self.now.saturating_sub(then);
        for (number, member) in &mut world.members {
            let age = age(member.since);
            let policy = &self.policy;
            let patience = policy.replace_failed_after_ms;
            let patience = patience.unwrap_or(policy.operation_timeout_ms);
            let class = match member.sees {
                _ if age < self.policy.min_healthy_ms => 0,
                Sees::Good => 3 * HOUR,
                _ if age < patience => self.policy.min_healthy_ms,
                _ => 3 * HOUR,
            };
            member.since = START_MS - class;
            if let Some(pod) = &mut member.pod {
                let started = world.config.get(number).is_some_and(|peer| peer.started);
                pod.initial = match &pod.initial {
                    Some(initial) if !started => Some(initial.iter().map(|n| to(*n)).collect()),
                    _ => None,
                };
            }
        }
        world.wanted.generation = 1;
        if let Some(order) = &mut world.wanted.recover {
            order.survivor = name(to(number(&order.survivor)));
        }
        let recorded = &mut world.recorded;
        recorded.member_number_next = map.len() as u64;
        recorded.operation_id_next = 1;
        recorded.replacements_ms.clear();
        if let Some(target) = &mut recorded.target {
            target.generation = 1;
        }
        if let Some(operation) = &mut recorded.operation {
            let overdue = self.now > operation.deadline_ms;
            operation.id = 0;
            operation.started_ms = START_MS - if overdue { HOUR } else { 0 };
            operation.deadline_ms = operation.started_ms + self.policy.operation_timeout_ms;
            rename(&mut operation.kind, &|old| name(to(number(old))));
        }
        world
    }

    /// A fingerprint of a canonical world. 128 bits: no two of a few million meet.
    pub fn fingerprint(&self) -> u128 {
        let half = |salt: u8| {
            let mut hasher = std::collections::hash_map::DefaultHasher::new();
            salt.hash(&mut hasher);
            self.members.hash(&mut hasher);
            self.config.hash(&mut hasher);
            (self.leader, &self.alarms, self.budget).hash(&mut hasher);
            (self.wanted.replicas, &self.wanted.revision).hash(&mut hasher);
            let recorded = &self.recorded;
            let target = recorded.target.as_ref();
            (target.map(|t| t.replicas), target.map(|t| &t.revision)).hash(&mut hasher);
            (recorded.cluster_id.is_some(), &recorded.recovery_done).hash(&mut hasher);
            let wanted = &self.wanted;
            let order = wanted.recover.as_ref().map(|order| &order.survivor);
            (wanted.paused, wanted.deletion_asked, order).hash(&mut hasher);
            (self.cut_off, self.gone).hash(&mut hasher);
            recorded
                .operation
                .as_ref()
                .map(|o| (format!("{:?}", o.kind), o.deadline_ms))
                .hash(&mut hasher);
            u128::from(hasher.finish())
        };
        half(1) << 64 | half(2)
    }

    /// One line for a trace.
    pub fn line(&self) -> String {
        let mut words = Vec::new();
        for (number, member) in &self.members {
            let role = match self.config.get(number) {
                None => '-',
                Some(peer) => match (peer.role, peer.started) {
                    (Role::Voter, _) if self.leader == Some(*number) => '*',
                    (Role::Voter, _) => 'V',
                    (Role::Learner, true) => 'L',
                    (Role::Learner, false) => 'l',
                },
            };
            let pod = match member.pod.as_ref().map(|pod| pod.phase) {
                None => '_',
                Some(Phase::Pending) => 'p',
                Some(Phase::Stuck(_)) => '?',
                Some(Phase::Running) => 'R',
                Some(Phase::Crashing) => '!',
                Some(Phase::Leaving) => 'T',
                Some(Phase::Terminating) => 't',
                Some(Phase::Ended) => 'e',
            };
            let sees = match (member.sees, member.unseen) {
                (_, true) => "~",
                (Sees::Silent, _) => "s",
                (Sees::Good, _) => "g",
                (Sees::Bad, _) => "b",
            };
            let age = self.now.saturating_sub(member.since) / 1000;
            let silent = if member.silent { "/silent" } else { "" };
            let disk = if member.volume.is_none() {
                "/nodisk"
            } else {
                ""
            };
            words.push(format!("{number}:{role}{pod}{sees}{age}{silent}{disk}"));
        }
        let operation = self.recorded.operation.as_ref();
        let operation = operation.map_or(String::new(), |o| format!(" [{}]", o.kind));
        format!(
            "{} want={}/{}{operation}",
            words.join(" "),
            self.wanted.replicas,
            self.wanted.revision
        )
    }
}

fn rename(kind: &mut OperationKind, to: &dyn Fn(&str) -> String) {
    match kind {
        OperationKind::Bootstrap { member }
        | OperationKind::RemoveMember { member }
        | OperationKind::RollMember { member } => *member = to(member),
        OperationKind::AddMembers { members } => {
            for member in members {
                *member = to(member);
            }
        }
        OperationKind::ReplaceMember { old, new, .. } => {
            *old = to(old);
            *new = to(new);
        }
        OperationKind::RecoverQuorum { survivor, .. } => *survivor = to(survivor),
        OperationKind::Adopt | OperationKind::Wake => {}
    }
}

/// What happens without anybody's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A death is seen.
    Seen,
    /// A Pod that terminates is gone.
    Gone,
    /// A Pod starts, or turns out not to.
    Starts,
    /// A learner has the log.
    CatchesUp,
}

impl PodOf {
    /// Its process ends by itself.
    fn end(&mut self) {
        self.phase = match self.phase {
            Phase::Running => Phase::Crashing,
            Phase::Leaving => Phase::Terminating,
            as_it_is => as_it_is,
        };
    }
}

impl Member {
    fn new(seed: bool, revision: &str, now: u64) -> Member {
        Member {
            seed,
            revision: revision.to_owned(),
            deletion_asked: false,
            last_role: None,
            last_version: None,
            pod: None,
            volume: None,
            silent: false,
            kubelet_dead: false,
            hangs: false,
            unseen: false,
            caught_up: false,
            term: 2,
            sees: Sees::Silent,
            since: now,
            db_size: 100,
            db_in_use: 100,
        }
    }
}

impl Disk {
    pub fn empty() -> Disk {
        Disk {
            phase: DiskPhase::Bound,
            written: false,
            damaged: false,
            released: false,
        }
    }
}
