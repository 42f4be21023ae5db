//! From a data directory, or from nothing, to the parts of a member.
//!
//! Everything that can be refused is refused before the first byte is written: the edge has
//! checked the words, asked the peers where it joins a cluster, and hands in a [`Start`]. Only
//! then is the member directory made (promise 1).
//!
//! ```text
//! new ──────▶ seed ┐
//! join ──────▶ ids ┴▶ directories ▶ database ▶ WAL (metadata, bootstrap entries)
//! restart ─▶ WAL's snapshot records ▶ (received database in place?) ▶ database
//!            ▶ WAL after the last snapshot ▶ conf state and applied index from the database
//! ```
//!
//! What this room does not know: sockets and threads. The simulator boots members through it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use apply::Applier;
use apply::quota::Quota;
use backend::{Backend, Bucket, Committer, Writer};
use bytes::Bytes;
use membership::{Cluster, Membership};
use raftnode::Recovered;
use raftpb::{HardState, MemberId};
use seams::Disk;
use snap::Snapshotter;
use wal::{Metadata, SnapshotRecord, Wal};

use crate::config::{ANNOUNCED_VERSION, Config};
use crate::dirs::{self, Made};

/// How a member comes to be.
#[derive(Debug)]
pub enum Start {
    /// The data directory has a log.
    Restart,
    /// The first start of a new cluster; IDs are computed.
    New(Membership),
    /// The first start of a member that a running cluster already lists; IDs are the cluster's.
    Join(Membership),
}

/// Why a directory cannot be started from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// a file operation
    #[error("cannot {what} {path}: {error}{}", dirs::remedy(error))]
    Io {
        /// what was tried
        what: &'static str,
        /// on what
        path: PathBuf,
        /// how it failed; not named as its source, which would be printed behind the remedy again
        error: std::io::Error,
    },
    /// a database without a log
    #[error(
        "{db} exists but {wal} holds no log: this member's log was lost or moved. A member must not vote without it. Restore the log directory, or remove the member from the cluster, delete its data directory and add it again"
    )]
    LogMissing {
        /// the database
        db: PathBuf,
        /// where the log should be
        wal: PathBuf,
    },
    /// the database is behind the snapshot
    #[error(
        "database file ({db} index {applied}) does not match with snapshot (index {snapshot}): the database is older than the log allows. Restore the newer database, or remove the member, delete its data directory and add it again"
    )]
    DatabaseBehind {
        /// the database
        db: PathBuf,
        /// its consistent index
        applied: u64,
        /// the last snapshot record of the log
        snapshot: u64,
    },
    /// the log is behind the database
    #[error(
        "the log in {wal} ends at index {last}, but the database {db} has applied index {applied}: log files are missing. Restore them, or remove the member, delete its data directory and add it again"
    )]
    LogBehind {
        /// the log
        wal: PathBuf,
        /// its last index
        last: u64,
        /// the database
        db: PathBuf,
        /// its consistent index
        applied: u64,
    },
    /// the directory of a member that was removed
    #[error(
        "member {id} was removed from cluster {cluster:x}{when}, and its ID can never come back: the database {db} knows of it. To let a member run here again, delete the data directory, add it as a new member (`etcdctl member add`), and start it with --initial-cluster-state=existing"
    )]
    Removed {
        /// whose directory it is
        id: MemberId,
        /// from where it was removed
        cluster: u64,
        /// when, as far as the disk tells
        when: String,
        /// what says so
        db: PathBuf,
    },
    /// `--force-new-cluster` on the disk of somebody who is no member
    #[error(
        "--force-new-cluster: by the log in {wal}, member {id} is none of the cluster's members: it was removed, or never got the log, so its data are not the cluster's. Use the disk of another member"
    )]
    NotListed {
        /// whose directory it is
        id: MemberId,
        /// the log
        wal: PathBuf,
    },
    /// the log
    #[error(transparent)]
    Wal(#[from] wal::Error),
    /// snapshot files
    #[error(transparent)]
    Snap(#[from] snap::Error),
    /// the database
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// members
    #[error(transparent)]
    Membership(#[from] membership::Error),
    /// state
    #[error(transparent)]
    Apply(#[from] apply::Fatal),
    /// our own version
    #[error("the announced version cannot be read: {0}")]
    Version(String),
}

/// A member's parts, ready to be wired.
pub struct Booted {
    /// this member
    pub id: MemberId,
    /// its cluster
    pub cluster_id: u64,
    /// the log
    pub wal: Wal,
    /// snapshot files
    pub snapshotter: Snapshotter,
    /// what the raft core starts from
    pub recovered: Recovered,
    /// the state
    pub applier: Applier,
    /// the database's commits
    pub committer: Committer,
    /// from where its members are known
    pub source: Source,
}

/// From where a member that starts knows who belongs to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `--initial-cluster`, at the first start of a new cluster.
    Flags,
    /// The members of the running cluster, at the first start of one that joins it.
    Peers,
    /// Its own database, at every later start.
    Database,
}

impl Source {
    /// For the log.
    pub fn text(self) -> &'static str {
        match self {
            Self::Flags => "--initial-cluster",
            Self::Peers => "the members of the running cluster",
            Self::Database => "the database",
        }
    }
}

/// Whether the directory holds a member's log.
pub fn has_log(disk: &dyn Disk, config: &Config) -> Result<bool, Error> {
    dirs::check(disk, config)?;
    Ok(wal::exists(disk, &config.wal_dir())?)
}

/// Opens or makes the directory of a member.
pub fn boot(disk: &Arc<dyn Disk>, config: &Config, start: Start) -> Result<Booted, Error> {
    let booted = match start {
        Start::Restart => restart(disk, config),
        Start::New(membership) => first_start(disk, config, membership, true),
        Start::Join(membership) => first_start(disk, config, membership, false),
    };
    booted.map_err(|error| match error {
        // The same words, and what to do.
        Error::Wal(wal::Error::Io {
            operation: what,
            path,
            source,
        }) => Error::Io {
            what,
            path,
            error: source,
        },
        error => error,
    })
}

fn first_start(
    disk: &Arc<dyn Disk>,
    config: &Config,
    membership: Membership,
    bootstrap: bool,
) -> Result<Booted, Error> {
    let db = config.database_path();
    if exists(disk, &db)? {
        return Err(Error::LogMissing {
            db,
            wal: config.wal_dir(),
        });
    }
    let id = membership.local_id();
    let cluster_id = membership.cluster_id();
    let made = Made::make(disk.as_ref(), config)?;
    let snapshotter = Snapshotter::new(disk.clone(), &config.snap_dir());
    let mut wal = Wal::create(
        disk.clone(),
        &config.wal_dir(),
        Metadata {
            node_id: id.0,
            cluster_id,
        },
    )?;
    let recovered = if bootstrap {
        write_bootstrap(&mut wal, &membership)?
    } else {
        Recovered::default()
    };
    // Until the first entries are applied the peers are known from the configuration only.
    let (backend, writer, committer) = open_backend(disk, config)?;
    let cluster = Arc::new(Cluster::new(membership));
    let applier = Applier::open(backend, writer, cluster, apply_config(config)?)?;
    made.keep();
    Ok(Booted {
        id,
        cluster_id,
        wal,
        snapshotter,
        recovered,
        applier,
        committer,
        source: if bootstrap {
            Source::Flags
        } else {
            Source::Peers
        },
    })
}

/// etcd's bootstrap: one conf change per member, all committed, term 1.
fn write_bootstrap(wal: &mut Wal, membership: &Membership) -> Result<Recovered, Error> {
    let entries = membership::bootstrap_entries(membership);
    let hard_state = HardState {
        term: 1,
        vote: 0,
        commit: entries.len() as u64,
    };
    wal.save(Some(&hard_state), &entries)?;
    wal.sync()?;
    Ok(Recovered {
        hard_state,
        entries,
        ..Recovered::default()
    })
}

fn restart(disk: &Arc<dyn Disk>, config: &Config) -> Result<Booted, Error> {
    let snapshotter = Snapshotter::new(disk.clone(), &config.snap_dir());
    snapshotter.clean_up()?;
    let records = wal::valid_snapshots(disk.as_ref(), &config.wal_dir())?;
    // The newest, not the last written: a snapshot of our own may be written after a received one
    // that is newer.
    let last = records
        .into_iter()
        .max_by_key(|record| record.index)
        .unwrap_or_default();
    adopt_received_database(disk, config, &snapshotter, &last)?;

    let (mut wal, mut on_disk) = Wal::open(disk.clone(), &config.wal_dir(), last.clone())?;
    let id = MemberId(on_disk.metadata.node_id);
    let cluster_id = on_disk.metadata.cluster_id;
    let (backend, writer, committer) = open_backend(disk, config)?;
    membership::store::check_schema(&backend.view())?;
    let applied = backend.committed_index();
    if applied < last.index {
        return Err(Error::DatabaseBehind {
            db: config.database_path(),
            applied,
            snapshot: last.index,
        });
    }
    if applied == 0
        && last.index == 0
        && on_disk.hard_state == HardState::default()
        && let Some(membership) = unfinished_bootstrap(config, id, cluster_id)?
    {
        tracing::info!("the first start was cut off before its log was written; doing it again");
        let recovered = write_bootstrap(&mut wal, &membership)?;
        let cluster = Arc::new(Cluster::new(membership));
        let applier = Applier::open(backend, writer, cluster, apply_config(config)?)?;
        return Ok(Booted {
            id,
            cluster_id,
            wal,
            snapshotter,
            recovered,
            applier,
            committer,
            source: Source::Flags,
        });
    }
    let membership = Membership::load(&backend.view(), cluster_id, id, config.max_learners)?;
    if membership.is_removed(id) {
        return Err(Error::Removed {
            id,
            cluster: cluster_id,
            when: removed_when(disk, config, id, &on_disk.entries),
            db: config.database_path(),
        });
    }
    let in_database = membership.conf_state().clone();
    let last_index = on_disk
        .entries
        .last()
        .map_or(last.index, |entry| entry.index);
    if last_index < applied {
        return Err(Error::LogBehind {
            wal: config.wal_dir(),
            last: last_index,
            db: config.database_path(),
            applied,
        });
    }
    if config.force_new_cluster {
        crate::force::new_cluster(config, &mut wal, &mut on_disk, &last, applied)?;
    }
    let conf_state = if applied == 0 {
        last.conf_state.clone().unwrap_or_default()
    } else {
        in_database
    };
    let recovered = Recovered {
        hard_state: on_disk.hard_state,
        snapshot_index: last.index,
        snapshot_term: last.term,
        conf_state,
        entries: on_disk.entries,
        applied: applied.max(last.index),
    };
    let cluster = Arc::new(Cluster::new(membership));
    let applier = Applier::open(backend, writer, cluster, apply_config(config)?)?;
    Ok(Booted {
        id,
        cluster_id,
        wal,
        snapshotter,
        recovered,
        applier,
        committer,
        source: Source::Database,
    })
}

/// The members that a new cluster's log must begin with, if this log is one and its first start was
/// cut off before they were written: the log is made first, in one step, its entries follow. Without a
/// hard state this member has promised nothing to anybody, so its start can be done over. A joiner's
/// log begins empty, and stays as it is.
fn unfinished_bootstrap(
    config: &Config,
    id: MemberId,
    cluster_id: u64,
) -> Result<Option<Membership>, Error> {
    if !config.new_cluster {
        return Ok(None);
    }
    let by_name = config.peer_urls_by_name();
    let mut membership =
        Membership::seed(&by_name, &config.initial_cluster_token, config.max_learners)?;
    let same = membership.cluster_id() == cluster_id
        && membership
            .member_by_name(&config.name)
            .is_some_and(|member| member.id == id);
    if !same {
        tracing::warn!(
            member = %id, cluster = format!("{cluster_id:x}"),
            "the log is empty and was made for another --initial-cluster or --name: this member waits for a leader to find it; if none comes, give the flags of its first start again"
        );
        return Ok(None);
    }
    membership.set_ids(id, cluster_id);
    Ok(Some(membership))
}

/// Opens the database; also after a received snapshot.
pub fn open_backend(
    disk: &Arc<dyn Disk>,
    config: &Config,
) -> Result<(Backend, Writer, Committer), Error> {
    let options = backend::Options {
        batch_changes: config.backend_batch_limit,
        sync: !config.unsafe_no_fsync,
        ..backend::Options::default()
    };
    let (backend, mut writer, committer) =
        Backend::open(disk.clone(), &config.database_path(), options)?;
    // As an etcd with auth off writes it at its start: hashes over all buckets compare.
    if writer.get(Bucket::Auth, AUTH_REVISION_KEY)?.is_none() {
        let first = Bytes::copy_from_slice(&1u64.to_be_bytes());
        writer.put(Bucket::Auth, AUTH_REVISION_KEY, first);
        writer.end_local();
    }
    Ok((backend, writer, committer))
}

/// Where the bucket `auth` keeps the revision of users and roles.
const AUTH_REVISION_KEY: &[u8] = b"authRevision";

/// The applier's part of the configuration.
pub fn apply_config(config: &Config) -> Result<apply::Config, Error> {
    let server_version = ANNOUNCED_VERSION
        .parse()
        .map_err(|error: membership::Error| Error::Version(error.to_string()))?;
    Ok(apply::Config {
        quota: quota(config),
        lease: lease::Config {
            ttl_seconds_min: lease::ttl_seconds_min(config.tick, config.election_ticks),
            checkpoint_interval: config
                .lease_checkpoint
                .then_some(lease::CHECKPOINT_INTERVAL),
        },
        persist_checkpoints: config.lease_checkpoint_persist,
        server_version,
    })
}

/// The space quota.
pub fn quota(config: &Config) -> Quota {
    Quota::from_flag(config.quota_bytes.map_or(-1, |bytes| bytes as i64))
}

/// Promise 6: the file of a received snapshot is renamed to the database path. A crash may have
/// come between the snapshot's record in the log and the renaming; this finishes it.
fn adopt_received_database(
    disk: &Arc<dyn Disk>,
    config: &Config,
    snapshotter: &Snapshotter,
    last: &SnapshotRecord,
) -> Result<(), Error> {
    let received = snapshotter.database_path(last.index);
    let db = config.database_path();
    if last.index == 0 {
        return Ok(());
    }
    if !exists(disk, &received)? {
        if exists(disk, &db)? {
            return Ok(());
        }
        // Opening would make an empty one: the log alone cannot bring back what came before it.
        return Err(Error::DatabaseBehind {
            db,
            applied: 0,
            snapshot: last.index,
        });
    }
    let behind = if exists(disk, &db)? {
        let (backend, _, _) = Backend::open(disk.clone(), &db, backend::Options::default())?;
        backend.committed_index() < last.index
    } else {
        true
    };
    if behind {
        tracing::info!(
            snapshot_index = last.index,
            "Recovering from snapshot backend"
        );
        install_database(disk, config, &received)?;
    }
    Ok(())
}

/// Puts a received database in the place of the old one.
pub fn install_database(
    disk: &Arc<dyn Disk>,
    config: &Config,
    received: &Path,
) -> Result<(), Error> {
    let db = config.database_path();
    disk.rename(received, &db)
        .map_err(Error::io("rename", received))?;
    disk.sync_dir(&config.snap_dir())
        .map_err(Error::io("sync", &config.snap_dir()))?;
    Ok(())
}

/// A removed member ends a moment after its removal, so the database's last change tells the time.
fn removed_when(
    disk: &Arc<dyn Disk>,
    config: &Config,
    id: MemberId,
    entries: &[raftpb::Entry],
) -> String {
    let removes = |entry: &&raftpb::Entry| {
        let kind = i32::from(raftpb::ConfChangeType::ConfChangeRemoveNode);
        entry.entry_type == i32::from(raftpb::EntryType::EntryConfChange)
            && raftpb::conf::decode_conf_change(entry)
                .is_ok_and(|change| change.node_id == id.0 && change.change_type == kind)
    };
    let mut when = String::new();
    if let Some(entry) = entries.iter().rev().find(removes) {
        when = format!(
            " by the conf change at index {} of term {}",
            entry.index, entry.term
        );
    }
    if let Ok(Some(look)) = disk.look(&config.database_path()) {
        let time = crate::whereabouts::rfc3339_seconds(look.modified.as_secs());
        when.push_str(&format!(" (its data were last written at {time})"));
    }
    when
}

fn exists(disk: &Arc<dyn Disk>, path: &Path) -> Result<bool, Error> {
    disk.exists(path).map_err(Error::io("look at", path))
}

impl Error {
    pub(crate) fn io(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |error| Error::Io { what, path, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftpb::{ConfState, Snapshot, SnapshotMetadata};
    use seams::MemDisk;

    fn config() -> Config {
        Config {
            data_dir: PathBuf::from("/data"),
            ..Config::default()
        }
    }

    fn seed(config: &Config) -> Membership {
        let by_name = config.peer_urls_by_name();
        let mut membership =
            Membership::seed(&by_name, &config.initial_cluster_token, 1).expect("a cluster of one");
        let id = membership
            .member_by_name(&config.name)
            .expect("this member")
            .id;
        let cluster_id = membership.cluster_id();
        membership.set_ids(id, cluster_id);
        membership
    }

    fn new_member(disk: &Arc<dyn Disk>) -> Booted {
        boot(disk, &config(), Start::New(seed(&config()))).expect("a first start")
    }

    fn restart(disk: &Arc<dyn Disk>) -> Result<Booted, Error> {
        boot(disk, &config(), Start::Restart)
    }

    fn metadata(index: u64) -> SnapshotMetadata {
        let id = seed(&config()).local_id().0;
        let conf_state = Some(ConfState {
            voters: vec![id],
            ..ConfState::default()
        });
        SnapshotMetadata {
            conf_state,
            index,
            term: 1,
        }
    }

    /// What the WAL writer does for a snapshot at this index, the commit index with it.
    fn save_snapshot(booted: &mut Booted, index: u64) {
        let metadata = metadata(index);
        let record = SnapshotRecord {
            index,
            term: 1,
            conf_state: metadata.conf_state.clone(),
        };
        let snapshot = Snapshot {
            metadata: Some(metadata),
            ..Snapshot::default()
        };
        booted.snapshotter.save(&snapshot).expect("a snapshot file");
        booted.wal.save_snapshot(&record).expect("its record");
        let hard_state = HardState {
            term: 1,
            vote: 0,
            commit: 50,
        };
        booted.wal.save(Some(&hard_state), &[]).expect("a write");
        booted.wal.sync().expect("a sync");
    }

    /// A database that stands at this index, as a leader would send it.
    fn received_database(disk: &Arc<dyn Disk>, path: &Path, index: u64) {
        let (backend, mut writer, mut committer) =
            Backend::open(disk.clone(), path, backend::Options::default()).expect("a database");
        let conf_state = metadata(index).conf_state.expect("made above");
        membership::store::save_conf_state(&mut writer, &conf_state);
        writer.end_entry(index, 1);
        committer.commit().expect("a commit");
        assert_eq!(backend.committed_index(), index);
    }

    #[test]
    fn a_first_start_that_was_cut_off_before_the_log_was_filled_is_done_again() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let membership = seed(&config());
        Made::make(disk.as_ref(), &config())
            .expect("directories")
            .keep();
        let ids = Metadata {
            node_id: membership.local_id().0,
            cluster_id: membership.cluster_id(),
        };
        drop(Wal::create(disk.clone(), &config().wal_dir(), ids).expect("a log"));

        for _ in 0..2 {
            let booted = restart(&disk).expect("a start");
            assert_eq!(booted.recovered.hard_state.commit, 1);
            assert_eq!(booted.recovered.entries.len(), 1);
            assert_eq!(booted.id, membership.local_id());
        }
    }

    #[test]
    fn a_joiner_whose_log_is_empty_waits_for_its_leader() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let config = Config {
            new_cluster: false,
            ..config()
        };
        drop(boot(&disk, &config, Start::Join(seed(&config))).expect("a first start"));
        let booted = boot(&disk, &config, Start::Restart).expect("a start");
        assert!(booted.recovered.entries.is_empty());
        assert_eq!(booted.recovered.hard_state, HardState::default());
    }

    #[test]
    fn a_database_that_is_gone_is_refused_where_the_log_does_not_hold_all() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let mut booted = new_member(&disk);
        save_snapshot(&mut booted, 50);
        drop(booted);
        let db = config().database_path();
        disk.remove_file(&db).expect("it is there");
        let refused = restart(&disk).err().expect("a refusal");
        assert!(
            matches!(
                refused,
                Error::DatabaseBehind {
                    applied: 0,
                    snapshot: 50,
                    ..
                }
            ),
            "{refused}"
        );
        // And no empty one was put in its place.
        assert!(!disk.exists(&db).expect("a look"));
    }

    #[test]
    fn an_empty_database_is_refused_where_the_log_does_not_hold_all() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let mut booted = new_member(&disk);
        save_snapshot(&mut booted, 50);
        drop(booted);
        let refused = restart(&disk).err().expect("a refusal");
        assert!(
            matches!(
                refused,
                Error::DatabaseBehind {
                    applied: 0,
                    snapshot: 50,
                    ..
                }
            ),
            "{refused}"
        );
    }

    #[test]
    fn promise_06_a_received_database_is_renamed_to_the_default_path() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let mut booted = new_member(&disk);
        let received = booted.snapshotter.database_path(50);
        received_database(&disk, &received, 50);
        // The record is there, and the crash came before the renaming.
        save_snapshot(&mut booted, 50);
        drop(booted);

        // The second start finds it done; a crash in between changes nothing.
        for _ in 0..2 {
            let booted = restart(&disk).expect("a start");
            assert_eq!(booted.recovered.applied, 50);
            assert_eq!(booted.applier.backend().committed_index(), 50);
            assert!(
                !disk.exists(&received).expect("a look"),
                "it was copied, not renamed"
            );
        }
    }

    #[test]
    fn a_received_database_without_its_record_is_not_taken() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let booted = new_member(&disk);
        let received = booted.snapshotter.database_path(50);
        received_database(&disk, &received, 50);
        drop(booted);
        let booted = restart(&disk).expect("a start");
        assert_eq!(booted.recovered.applied, 0);
        assert_eq!(booted.recovered.entries.len(), 1);
    }

    #[test]
    fn the_newest_snapshot_counts_also_when_an_older_one_was_written_after_it() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let mut booted = new_member(&disk);
        received_database(&disk, &booted.snapshotter.database_path(50), 50);
        save_snapshot(&mut booted, 50);
        save_snapshot(&mut booted, 20);
        drop(booted);
        let booted = restart(&disk).expect("a start");
        assert_eq!(
            (booted.recovered.snapshot_index, booted.recovered.applied),
            (50, 50)
        );
    }
}
