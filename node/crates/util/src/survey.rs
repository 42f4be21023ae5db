//! What a member's disk says, without changing a byte of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::etcdserverpb::{AlarmMember, AlarmType};
use backend::{Applied, Backend, Bucket, View};
use membership::{Change, Member, MemberId, Membership};
use prost::Message as _;
use raftpb::conf::decode_conf_change;
use raftpb::{ConfChangeType, Entry};
use seams::Disk;
use snap::Snapshotter;
use wal::SnapshotRecord;

use crate::readonly::ReadOnly;

/// Where a member keeps its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `--data-dir`
    pub data_dir: PathBuf,
    /// `--wal-dir`, where it is not below the data directory.
    pub wal_dir: Option<PathBuf>,
}

impl Paths {
    /// The log's directory.
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        self.wal_dir
            .clone()
            .unwrap_or_else(|| self.data_dir.join("member/wal"))
    }

    /// The directory of snapshots and of the database.
    #[must_use]
    pub fn snap(&self) -> PathBuf {
        self.data_dir.join("member/snap")
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.snap().join("db")
    }
}

/// One member's disk.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Where it is.
    pub paths: Paths,
    /// Whose it is.
    pub member: MemberId,
    /// Of which cluster.
    pub cluster: u64,
    /// The last snapshot record of the log.
    pub snapshot: SnapshotRecord,
    /// The log after it.
    pub log: wal::Recovered,
    /// The last entry that the database has.
    pub applied: Applied,
    /// The store's revision at that entry.
    pub revision: i64,
    /// Who belongs to the cluster, by the database and what is committed behind it.
    pub members: Vec<Member>,
    /// Who was removed, likewise.
    pub removed: BTreeSet<MemberId>,
    /// The cluster's version, `3.7.0`.
    pub cluster_version: Option<String>,
    /// Raised alarms: who, and what (`NOSPACE`, `CORRUPT`).
    pub alarms: Vec<(MemberId, String)>,
    /// Size of the database.
    pub database_bytes: u64,
}

/// Why a disk cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// nothing is there
    #[error("{0} holds no member: there is no log in {1}")]
    NoMember(PathBuf, PathBuf),
    /// a running process
    #[error(
        "a process holds {data_dir}: member {member} of cluster {cluster:x} runs on it. Stop it first, or ask it by its endpoint"
    )]
    Held {
        /// the disk
        data_dir: PathBuf,
        /// whose it is
        member: MemberId,
        /// of which cluster
        cluster: u64,
    },
    /// the database and its log do not fit
    #[error(
        "the database {db} stands at index {applied}, the log's last snapshot at {snapshot}: the database is older than the log allows"
    )]
    DatabaseBehind {
        /// the database
        db: PathBuf,
        /// its index
        applied: u64,
        /// the log's
        snapshot: u64,
    },
    /// the log
    #[error(transparent)]
    Wal(#[from] wal::Error),
    /// the database
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// its members
    #[error("{0}: {1}")]
    Membership(PathBuf, membership::Error),
    /// a file operation
    #[error("cannot look at {0}: {1}")]
    Io(PathBuf, std::io::Error),
}

impl Survey {
    /// Index of the last entry of the log.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        let last = self.log.entries.last();
        last.map_or(self.snapshot.index, |entry| entry.index)
    }

    /// Term of the last entry of the log.
    #[must_use]
    pub fn last_term(&self) -> u64 {
        let last = self.log.entries.last();
        last.map_or(self.snapshot.term, |entry| entry.term)
    }

    /// Up to where this member knows entries to be committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.log.hard_state.commit.max(self.applied.index)
    }

    /// The log, for [`membership::leave_alone`].
    #[must_use]
    pub fn as_log(&self) -> membership::Log<'_> {
        membership::Log {
            snapshot: self.snapshot.conf_state.as_ref(),
            begin: (self.snapshot.index, self.snapshot.term),
            hard_state: self.log.hard_state,
            entries: &self.log.entries,
            applied: self.applied.index,
        }
    }

    /// The name of a member, where the database has one.
    #[must_use]
    pub fn name_of(&self, id: MemberId) -> Option<&str> {
        let member = self.members.iter().find(|member| member.id == id)?;
        (!member.name.is_empty()).then_some(&member.name)
    }
}

/// Looks at the disk of a member that does not run.
///
/// # Errors
/// See [`Error`]; a running member's disk is [`Error::Held`].
pub fn survey(disk: &Arc<dyn Disk>, paths: &Paths) -> Result<Survey, Error> {
    look(disk, paths, false)
}

/// [`survey`] for one who holds the lock of the database.
pub(crate) fn look(
    disk: &Arc<dyn Disk>,
    paths: &Paths,
    is_locked_by_us: bool,
) -> Result<Survey, Error> {
    let disk: Arc<dyn Disk> = Arc::new(ReadOnly {
        disk: disk.clone(),
        is_locked_by_us,
    });
    let wal_dir = paths.wal();
    if !wal::exists(&*disk, &wal_dir)? {
        return Err(Error::NoMember(paths.data_dir.clone(), wal_dir));
    }
    // As a start does: the newest record, not the last written.
    let snapshot = wal::valid_snapshots(&*disk, &wal_dir)?
        .into_iter()
        .max_by_key(|record| record.index)
        .unwrap_or_default();
    let log = wal::read(&*disk, &wal_dir, &snapshot)?;
    let (member, cluster) = (MemberId(log.metadata.node_id), log.metadata.cluster_id);
    let held = |error| match error {
        backend::Error::Locked { .. } => Error::Held {
            data_dir: paths.data_dir.clone(),
            member,
            cluster,
        },
        error => Error::Backend(error),
    };
    let open = |path: &Path| Backend::open(disk.clone(), path, backend::Options::default());
    let mut path = paths.database();
    let (mut backend, _, _) = open(&path).map_err(held)?;
    if backend.committed_index() < snapshot.index {
        // A start would put the received database in its place.
        let received = Snapshotter::new(disk.clone(), &paths.snap()).database_path(snapshot.index);
        let is_there = disk
            .exists(&received)
            .map_err(|error| Error::Io(received.clone(), error))?;
        if is_there {
            path = received;
            (backend, _, _) = open(&path).map_err(held)?;
        }
    }
    let applied = backend.committed();
    if applied.index < snapshot.index {
        return Err(Error::DatabaseBehind {
            db: path,
            applied: applied.index,
            snapshot: snapshot.index,
        });
    }
    let view = backend.view();
    let membership = Membership::load(&view, cluster, member, usize::MAX)
        .map_err(|error| Error::Membership(path.clone(), error))?;
    let mut members = membership
        .members()
        .map(|member| (member.id, member.clone()))
        .collect();
    let mut removed = membership.removed().collect();
    let committed = log.hard_state.commit;
    for entry in &log.entries {
        if entry.index > applied.index && entry.index <= committed {
            change(entry, &mut members, &mut removed);
        }
    }
    Ok(Survey {
        paths: paths.clone(),
        member,
        cluster,
        snapshot,
        log,
        applied,
        revision: revision(&view)?,
        members: members.into_values().collect(),
        removed,
        cluster_version: membership.version().map(ToString::to_string),
        alarms: alarms(&view)?,
        database_bytes: backend.size_bytes(),
    })
}

/// What a conf change that is committed and not in the database yet will do. One that cannot be read does
/// nothing, as when it is applied.
fn change(
    entry: &Entry,
    members: &mut BTreeMap<MemberId, Member>,
    removed: &mut BTreeSet<MemberId>,
) {
    let change = decode_conf_change(entry).ok();
    let Some(change) = change.and_then(|change| Change::decode(&change).ok()) else {
        return;
    };
    let id = change.node;
    match change.kind {
        ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
            if let Some(member) = members.get_mut(&id) {
                member.is_learner &= !change.is_promote;
            } else if !removed.contains(&id) {
                members.insert(id, change.member);
            }
        }
        ConfChangeType::ConfChangeRemoveNode => {
            if members.remove(&id).is_some() {
                removed.insert(id);
            }
        }
        ConfChangeType::ConfChangeUpdateNode => {
            if let Some(member) = members.get_mut(&id) {
                member.peer_urls = change.member.peer_urls;
            }
        }
    }
}

/// The highest revision of the database: of its last key, or of the last compaction, whichever is
/// later. Keys are found by halving, since a bucket is read forwards only.
fn revision(view: &View) -> Result<i64, backend::Error> {
    let first_from = |main: u64| -> Result<Option<u64>, backend::Error> {
        let mut found = None;
        view.scan(Bucket::Key, &main.to_be_bytes(), None, &mut |key, _| {
            found = key.first_chunk().map(|main| u64::from_be_bytes(*main));
            ControlFlow::Break(())
        })?;
        Ok(found)
    };
    // `low` is there or zero; nothing is at or above `high`.
    let (mut low, mut high) = (first_from(0)?.unwrap_or(0), i64::MAX as u64);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match first_from(middle)? {
            Some(found) if found < high => low = found,
            _ => high = middle,
        }
    }
    let compacted = view
        .get(Bucket::Meta, b"finishedCompactRev")?
        .and_then(|value| value.first_chunk().map(|main| i64::from_be_bytes(*main)))
        .unwrap_or(0);
    // A store without a key is at revision 1.
    Ok(i64::try_from(low).unwrap_or(i64::MAX).max(compacted).max(1))
}

fn alarms(view: &View) -> Result<Vec<(MemberId, String)>, backend::Error> {
    let mut alarms = Vec::new();
    view.scan(Bucket::Alarm, b"", None, &mut |key, _| {
        if let Ok(alarm) = AlarmMember::decode(key) {
            let kind = AlarmType::try_from(alarm.alarm).map_or_else(
                |_| format!("alarm {}", alarm.alarm),
                |kind| kind.as_str_name().to_owned(),
            );
            alarms.push((MemberId(alarm.member_id), kind));
        }
        ControlFlow::Continue(())
    })?;
    alarms.sort();
    Ok(alarms)
}
