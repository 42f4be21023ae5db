//! Reading a log from its files: to go on with it, or only to look.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use raftpb::{Entry, HardState};
use seams::{Disk, DiskFile, OpenMode};

use crate::decode::{Decoder, Segment, Step};
use crate::error::Error;
use crate::index::{Index, limit};
use crate::names::{self, SegmentName};
use crate::record::{Metadata, SnapshotRecord, kind};

/// What a log holds after a snapshot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    /// Whose log it is.
    pub metadata: Metadata,
    /// The last hard state; default if none was saved.
    pub hard_state: HardState,
    /// Entries after the snapshot, without a hole; those beyond `hard_state.commit` may yet be
    /// replaced.
    pub entries: Vec<Entry>,
    /// The torn end that was cut off, if there was one.
    pub repaired: Option<Repair>,
}

/// A record at the end that was not written whole, and so was never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The segment.
    pub file: PathBuf,
    /// Where it ends now.
    pub offset: u64,
    /// The segment as it was found.
    pub copy: PathBuf,
}

/// Everything that writing goes on from.
pub(crate) struct Tail {
    pub(crate) segments: Vec<Segment>,
    /// Where the last record of the last segment ends.
    pub(crate) offset: u64,
    pub(crate) crc: u32,
    pub(crate) torn: bool,
    pub(crate) last_index: u64,
    pub(crate) index: Index,
}

/// Reads the log after `after` without locking or changing anything, a torn end passed over. For
/// tools and for a look at a running member's log.
pub fn read(disk: &dyn Disk, dir: &Path, after: &SnapshotRecord) -> Result<Recovered, Error> {
    let segments = open_segments(disk, dir, after.index, OpenMode::Read)?;
    Ok(replay(segments, dir, after)?.0)
}

/// Entries `from..to` of the files, as many as fit into `bytes_max` but at least one. Reads whole
/// segments: a running member uses [`crate::Reader`], which knows where entries lie.
pub fn read_entries(
    disk: &dyn Disk,
    dir: &Path,
    from: u64,
    to: u64,
    bytes_max: u64,
) -> Result<Vec<Entry>, Error> {
    let unavailable = || Error::Unavailable { from };
    let before = from.checked_sub(1).ok_or_else(unavailable)?;
    let segments = match open_segments(disk, dir, before, OpenMode::Read) {
        Err(Error::SegmentNotFound { .. }) => return Err(unavailable()),
        other => other?,
    };
    let mut decoder = Decoder::new(segments);
    let mut entries: Vec<Entry> = Vec::new();
    let mut next = 0;
    while let Step::Record(record) = decoder.next()? {
        if record.kind != kind::ENTRY {
            continue;
        }
        let entry = decode_entry(&decoder, record.data)?;
        if entry.index > next || entry.index <= from {
            entries.clear();
        }
        next = entry.index + 1;
        if entry.index >= from {
            entries.truncate((entry.index - from) as usize);
            if entries.len() as u64 == entry.index - from {
                entries.push(entry);
            }
        }
    }
    entries.truncate(usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX));
    limit(&mut entries, bytes_max);
    if entries.is_empty() && from < to {
        Err(unavailable())
    } else {
        Ok(entries)
    }
}

/// Snapshots that the log vouches for, oldest first: those not beyond the committed index (etcd's
/// ValidSnapshotEntries). A record may be there whose snapshot was received and not yet committed.
pub fn valid_snapshots(disk: &dyn Disk, dir: &Path) -> Result<Vec<SnapshotRecord>, Error> {
    /// A running member may purge a segment between listing and opening it.
    const ATTEMPTS_MAX: usize = 3;
    let mut attempt = 1;
    loop {
        match valid_snapshots_once(disk, dir) {
            Err(Error::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS_MAX =>
            {
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn valid_snapshots_once(disk: &dyn Disk, dir: &Path) -> Result<Vec<SnapshotRecord>, Error> {
    let names = names::list(disk, dir)?;
    let mut segments = Vec::new();
    for &name in names::consecutive(&names) {
        segments.push(Segment::open(disk, dir, name, OpenMode::Read)?);
    }
    let mut decoder = Decoder::new(segments);
    let mut snapshots = Vec::new();
    let mut state = HardState::default();
    while let Step::Record(record) = decoder.next()? {
        match record.kind {
            kind::SNAPSHOT => snapshots.push(decode_snapshot(&decoder, record.data)?),
            kind::STATE => state = decode_state(&decoder, record.data)?,
            _ => {}
        }
    }
    snapshots.retain(|snapshot| snapshot.index <= state.commit);
    Ok(snapshots)
}

pub(crate) fn open_segments(
    disk: &dyn Disk,
    dir: &Path,
    index: u64,
    mode: OpenMode,
) -> Result<Vec<Segment>, Error> {
    let names = names::list(disk, dir)?;
    let names = names::from_index(dir, &names, index)?;
    names
        .into_iter()
        .map(|name| Segment::open(disk, dir, name, mode))
        .collect()
}

/// Reads all records of the segments by etcd's rules.
pub(crate) fn replay(
    segments: Vec<Segment>,
    dir: &Path,
    after: &SnapshotRecord,
) -> Result<(Recovered, Tail), Error> {
    let mut recovered = Recovered::default();
    let mut metadata = None;
    let mut index = Index::default();
    let mut last_index = 0;
    let mut snapshot_seen = false;
    for segment in &segments {
        index.add_segment(segment.name, segment.len);
    }
    let mut decoder = Decoder::new(segments);
    let torn = loop {
        let record = match decoder.next()? {
            Step::Record(record) => record,
            Step::End => break false,
            Step::Torn => break true,
        };
        match record.kind {
            kind::ENTRY => {
                let entry = decode_entry(&decoder, record.data)?;
                last_index = entry.index;
                index.add_entry(entry.index, record.place);
                // An entry that was here before takes its place and drops what followed; also when
                // the snapshot covers it and it is passed over itself. (etcd keeps what followed:
                // entries 2 and 3 of term 1, then 2 of term 2 and a snapshot at 2, and a restart
                // brings back 3 of term 1. With a last term that is too low this member may then
                // vote for a leader that lacks the committed entry 2.)
                if entry.index <= after.index {
                    recovered.entries.clear();
                }
                if let Some(position) = entry.index.checked_sub(after.index + 1) {
                    let entries = &mut recovered.entries;
                    if position > entries.len() as u64 {
                        return Err(Error::EntryMissing {
                            file: decoder.segment().path.clone(),
                            offset: record.place.offset,
                            expected: after.index + 1 + entries.len() as u64,
                            found: entry.index,
                        });
                    }
                    entries.truncate(position as usize);
                    entries.push(entry);
                }
            }
            kind::STATE => recovered.hard_state = decode_state(&decoder, record.data)?,
            kind::METADATA => {
                let found = Metadata::decode(record.data)
                    .map_err(|error| decoder.corrupt("metadata".into(), error.to_string()))?;
                let expected = *metadata.get_or_insert(found);
                if expected != found {
                    return Err(metadata_conflict(&decoder, expected, found));
                }
            }
            kind::SNAPSHOT => {
                let snapshot = decode_snapshot(&decoder, record.data)?;
                if snapshot.index == after.index {
                    if snapshot.term != after.term {
                        return Err(Error::SnapshotMismatch {
                            index: after.index,
                            expected: after.term,
                            found: snapshot.term,
                        });
                    }
                    snapshot_seen = true;
                }
                last_index = last_index.max(snapshot.index);
            }
            kind::CRC => {}
            unknown => {
                return Err(
                    decoder.corrupt("a record of kind 1 to 5".into(), format!("kind {unknown}"))
                );
            }
        }
    };
    if !snapshot_seen {
        return Err(Error::SnapshotNotFound {
            index: after.index,
            term: after.term,
        });
    }
    recovered.metadata = metadata.ok_or_else(|| Error::Corrupt {
        file: dir.to_owned(),
        offset: 0,
        expected: "a metadata record at the head of a segment".into(),
        found: "none".into(),
    })?;
    let (offset, crc) = (decoder.offset(), decoder.crc());
    let tail = Tail {
        segments: decoder.into_segments(),
        offset,
        crc,
        torn,
        last_index,
        index,
    };
    Ok((recovered, tail))
}

/// Locks the segments against any other member, etcd's included.
pub(crate) fn lock(segments: &[Segment]) -> Result<(), Error> {
    for segment in segments {
        let locked = segment.file.try_lock_exclusive();
        if !locked.map_err(|source| Error::io("lock", &segment.path, source))? {
            return Err(Error::Locked {
                file: segment.path.clone(),
            });
        }
    }
    Ok(())
}

/// Makes the tail ready to be written behind its last record: the rest of the file becomes zeros
/// again, with its space reserved.
///
/// What lies there was never acknowledged, but it must go, and durably, before anything is
/// written: if a later power cut kept half of a new record over half of an old one, no sector of
/// it would be zero, and a torn write would look like damage.
pub(crate) fn clear_rest(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    tail: &Tail,
) -> Result<Option<Repair>, Error> {
    let segment = tail.segments.last().expect("a log has a segment");
    let repair = if tail.torn {
        Some(keep_copy(&**disk, dir, segment, tail.offset)?)
    } else {
        None
    };
    let failed = |source| Error::io("clear the end of", &segment.path, source);
    if tail.offset < segment.len {
        segment.file.set_len(tail.offset).map_err(failed)?;
        // A torn segment is left at its length, as etcd's repair leaves it.
        if !tail.torn {
            segment
                .file
                .allocate(tail.offset, segment.len - tail.offset)
                .map_err(failed)?;
        }
    }
    // Also when nothing was cut: what this start has read, and builds on, may be in the page cache
    // only, if the process before died between a write and its sync.
    segment.file.sync_data().map_err(|source| {
        // The kernel now takes the pages for clean and would tell the next start that all is well.
        // Written again, they are its concern again.
        let _ = copy_bytes(segment, &*segment.file, tail.offset);
        failed(source)
    })?;
    Ok(repair)
}

fn keep_copy(disk: &dyn Disk, dir: &Path, segment: &Segment, offset: u64) -> Result<Repair, Error> {
    let copy = dir.join(format!("{}.broken", segment.name));
    let failed = |source| Error::io("write", &copy, source);
    let target = disk.open(&copy, OpenMode::Create).map_err(failed)?;
    target.set_len(0).map_err(failed)?;
    copy_bytes(segment, &*target, segment.len).map_err(failed)?;
    target.set_len(segment.len).map_err(failed)?;
    target.sync_all().map_err(failed)?;
    Ok(Repair {
        file: segment.path.clone(),
        offset,
        copy,
    })
}

fn copy_bytes(segment: &Segment, target: &dyn DiskFile, len: u64) -> io::Result<()> {
    const COPY_BYTES: usize = 1 << 20;
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = 0;
    while done < len {
        let piece = &mut buffer[..(len - done).min(COPY_BYTES as u64) as usize];
        segment.file.read_exact_at(piece, done)?;
        // The zeros behind the last record stay a hole.
        if piece.iter().any(|&byte| byte != 0) {
            target.write_all_at(piece, done)?;
        }
        done += piece.len() as u64;
    }
    Ok(())
}

fn decode_entry(decoder: &Decoder, data: Bytes) -> Result<Entry, Error> {
    let entry = Entry::decode(data)
        .map_err(|error| decoder.corrupt("an entry".into(), error.to_string()))?;
    if entry.index == 0 || entry.index == u64::MAX {
        return Err(decoder.corrupt(
            "an entry with an index".into(),
            format!("index {}", entry.index),
        ));
    }
    Ok(entry)
}

fn decode_state(decoder: &Decoder, data: Bytes) -> Result<HardState, Error> {
    HardState::decode(data)
        .map_err(|error| decoder.corrupt("a hard state".into(), error.to_string()))
}

fn decode_snapshot(decoder: &Decoder, data: Bytes) -> Result<SnapshotRecord, Error> {
    let snapshot = SnapshotRecord::decode(data)
        .map_err(|error| decoder.corrupt("a snapshot record".into(), error.to_string()))?;
    if snapshot.index == u64::MAX {
        return Err(decoder.corrupt(
            "a snapshot with an index".into(),
            format!("index {}", u64::MAX),
        ));
    }
    Ok(snapshot)
}

fn metadata_conflict(decoder: &Decoder, expected: Metadata, found: Metadata) -> Error {
    let show = |metadata: Metadata| {
        format!(
            "{:x} of cluster {:x}",
            metadata.node_id, metadata.cluster_id
        )
    };
    Error::MetadataConflict {
        file: decoder.segment().path.clone(),
        expected: show(expected),
        found: show(found),
    }
}

/// Locked segment files by name, for the writer.
pub(crate) fn into_files(
    segments: Vec<Segment>,
) -> impl Iterator<Item = (SegmentName, Arc<dyn DiskFile>)> {
    segments
        .into_iter()
        .map(|segment| (segment.name, segment.file))
}
