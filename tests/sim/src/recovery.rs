//! From a disk to a member: the production code of WAL, snapshots, database and state rooms,
//! in the order in which the server starts them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apply::Applier;
use apply::quota::Quota;
use backend::{Backend, Committer, Options, Writer};
use membership::{Cluster, LEARNERS_MAX_DEFAULT, Member, Membership, Version};
use raftnode::Recovered;
use raftpb::{Entry, HardState, MemberId};
use seams::{Disk, MemDisk};
use wal::{Metadata, SnapshotRecord, Wal};

use crate::files;

/// The cluster's ID; any will do.
const CLUSTER_ID: u64 = 0xc1;

/// Segments of the WAL in the simulation: small, so that there are many of them.
const WAL_SEGMENT_BYTES: u64 = 256 << 10;

/// Where a member keeps its things, as etcd does.
#[derive(Debug, Clone)]
pub struct Paths {
    /// `member/wal`.
    pub wal: PathBuf,
    /// `member/snap`.
    pub snap: PathBuf,
    /// `member/snap/db`.
    pub db: PathBuf,
}

impl Paths {
    /// etcd's layout under `/data`.
    pub fn new() -> Paths {
        let member = Path::new("/data/member");
        Paths {
            wal: member.join("wal"),
            snap: member.join("snap"),
            db: member.join("snap/db"),
        }
    }
}

/// A member that is ready to run, but for raft.
#[derive(Debug)]
pub struct Started {
    /// The log.
    pub wal: Wal,
    /// The state.
    pub applier: Applier,
    /// The database's other end.
    pub committer: Committer,
    /// What raft starts from.
    pub recovered: Recovered,
}

/// Why a member could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log.
    #[error(transparent)]
    Wal(#[from] wal::Error),
    /// The database.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The members.
    #[error(transparent)]
    Membership(#[from] membership::Error),
    /// The state.
    #[error(transparent)]
    Apply(#[from] apply::Fatal),
    /// A file.
    #[error(transparent)]
    Files(#[from] files::Error),
}

/// Lays out a new member's disk: with the first entries of a new cluster, or with an empty log
/// for one that joins.
pub fn create(disk: &MemDisk, id: MemberId, first: &[Member]) -> Result<(), Error> {
    let paths = Paths::new();
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    files::make_dir(&*disk, &paths.snap)?;
    let metadata = Metadata {
        node_id: id.0,
        cluster_id: CLUSTER_ID,
    };
    let mut wal = Wal::create(disk, &paths.wal, metadata)?;
    if !first.is_empty() {
        let membership = Membership::of_remote(CLUSTER_ID, first.to_vec());
        let entries: Vec<Entry> = membership::bootstrap_entries(&membership);
        let hard_state = HardState {
            term: 1,
            vote: 0,
            commit: entries.len() as u64,
        };
        wal.save(Some(&hard_state), &entries)?;
    }
    wal.close()?;
    Ok(())
}

/// Starts a member from its disk.
pub fn start(disk: &MemDisk) -> Result<Started, Error> {
    let paths = Paths::new();
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());

    let vouched = wal::valid_snapshots(&*disk, &paths.wal)?;
    let snapshot = files::newest_snapshot(&*disk, &paths.snap, &vouched)?;
    let after = snapshot
        .as_ref()
        .map_or_else(SnapshotRecord::default, |snapshot| SnapshotRecord {
            index: snapshot.index(),
            term: snapshot.term(),
            conf_state: snapshot
                .metadata
                .as_ref()
                .and_then(|m| m.conf_state.clone()),
        });
    let (backend, writer, committer) = open_database(&disk, &paths, after.index)?;

    let (mut wal, log) = Wal::open(Arc::clone(&disk), &paths.wal, after.clone())?;
    wal.set_segment_bytes(WAL_SEGMENT_BYTES);
    let local_id = MemberId(log.metadata.node_id);
    let membership = Membership::load(
        &backend.view(),
        log.metadata.cluster_id,
        local_id,
        LEARNERS_MAX_DEFAULT,
    )?;
    let conf_state = membership.conf_state().clone();
    let cluster = Arc::new(Cluster::new(membership));
    let applier = Applier::open(backend, writer, cluster, applier_config())?;
    let recovered = Recovered {
        hard_state: log.hard_state,
        snapshot_index: after.index,
        snapshot_term: after.term,
        conf_state,
        entries: log.entries,
        applied: applier.applied().index,
    };
    Ok(Started {
        wal,
        applier,
        committer,
        recovered,
    })
}

/// Opens the database. One that is behind the snapshot at which the log begins is replaced by
/// the one that came with that snapshot: the crash came before it was put in place.
fn open_database(
    disk: &Arc<dyn Disk>,
    paths: &Paths,
    snapshot_index: u64,
) -> Result<(Backend, Writer, Committer), Error> {
    let opened = Backend::open(Arc::clone(disk), &paths.db, options())?;
    if opened.1.applied().index >= snapshot_index {
        return Ok(opened);
    }
    drop(opened);
    files::install_database(&**disk, paths, snapshot_index)?;
    Ok(Backend::open(Arc::clone(disk), &paths.db, options())?)
}

/// Small files, small batches, and no waiting for the committer, which runs on the same thread.
pub fn options() -> Options {
    Options {
        batch_changes: 500,
        pending_bytes_max: usize::MAX,
        growth_bytes: 64 << 10,
        map_bytes: 1 << 20,
        ..Options::default()
    }
}

fn applier_config() -> apply::Config {
    apply::Config {
        quota: Quota::from_flag(0),
        lease: lease::Config {
            ttl_seconds_min: lease::ttl_seconds_min(Duration::from_millis(100), 10),
            checkpoint_interval: None,
        },
        persist_checkpoints: false,
        server_version: Version::new(3, 7),
    }
}
