//! From a disk to a member, through the server's own code.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use membership::{Member, Membership};
use raftpb::MemberId;
use seams::{Disk, MemDisk};
use server::boot::{self, Booted, Start};
use server::config::Config;

/// The cluster's ID; any will do.
const CLUSTER_ID: u64 = 0xc1;

/// Segments of the WAL in the simulation: small, so that there are many of them.
const WAL_SEGMENT_BYTES: u64 = 64 << 10;

/// Entries between two snapshots (etcd: 10,000), so that there are many of those too.
const SNAPSHOT_ENTRIES: u64 = 200;

/// Entries that stay in the log behind a snapshot (etcd: 5,000).
const CATCH_UP_ENTRIES: u64 = 40;

/// How all members of the simulation are configured.
pub fn config() -> Config {
    Config {
        data_dir: PathBuf::from("/data"),
        snapshot_count: SNAPSHOT_ENTRIES,
        snapshot_catchup_entries: CATCH_UP_ENTRIES,
        backend_batch_limit: 500,
        max_snapshots: 2,
        max_wals: 2,
        ..Config::default()
    }
}

/// How a member comes to be when its disk is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is one of the first.
    New,
    /// It joins those that are there.
    Join,
}

/// Starts a member from its disk, or as a new one among `members`.
pub fn start(
    disk: &MemDisk,
    id: MemberId,
    members: &BTreeMap<MemberId, Member>,
    origin: Origin,
) -> Result<Booted, boot::Error> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let config = config();
    let start = if boot::has_log(disk.as_ref(), &config)? {
        Start::Restart
    } else {
        let members = members.values().cloned().collect();
        let mut membership = Membership::of_remote(CLUSTER_ID, members);
        membership.set_ids(id, CLUSTER_ID);
        match origin {
            Origin::New => Start::New(membership),
            Origin::Join => Start::Join(membership),
        }
    };
    let mut booted = boot::boot(&disk, &config, start)?;
    booted.wal.set_segment_bytes(WAL_SEGMENT_BYTES);
    Ok(booted)
}
