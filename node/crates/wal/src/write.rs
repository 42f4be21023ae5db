//! The writer.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use raftpb::{Entry, HardState};
use seams::{Disk, DiskFile, OpenMode};

use crate::decode::Place;
use crate::error::Error;
use crate::index::{Index, Reader};
use crate::names::{self, SegmentName};
use crate::open::{self, Recovered};
use crate::record::{self, Metadata, SnapshotRecord, kind};
use crate::{SEGMENT_BYTES, exists};

/// Encoded bytes that wait for a sync. Beyond this `save` writes them (without a sync), so that a
/// caller that seldom syncs holds no more memory than this and one batch.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// Buffer space that is kept between batches; a rare large batch must not hold its memory for good.
const BUFFER_BYTES_KEPT: usize = 2 << 20;

/// The log, open for writing. One thread owns it.
///
/// ```text
/// let disk: Arc<dyn seams::Disk> = Arc::new(seams::MemDisk::new());
/// let dir = Path::new("/member/wal");
/// let mut wal = Wal::create(disk.clone(), dir, Metadata { node_id: 1, cluster_id: 2 })?;
/// let entry = raftpb::Entry { index: 1, term: 1, ..Default::default() };
/// let hard_state = raftpb::HardState { term: 1, vote: 1, commit: 0 };
/// if wal.save(Some(&hard_state), &[entry])? {
///     wal.sync()?;
/// }
/// drop(wal);
/// let (_wal, recovered) = Wal::open(disk, dir, SnapshotRecord::default())?;
/// assert_eq!(recovered.entries.len(), 1);
/// ```
#[derive(Debug)]
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    metadata: Metadata,
    segment_bytes: u64,
    no_sync: bool,
    /// Segments that this log holds locked, oldest first; the last is the tail.
    files: VecDeque<(SegmentName, Arc<dyn DiskFile>)>,
    /// The next segment, made ahead.
    next: Option<(PathBuf, Arc<dyn DiskFile>)>,
    /// Counts prepared segments: their names alternate, so that a new one never has the name that
    /// the one before it is being renamed from.
    prepared: u64,
    /// Encoded, not yet written.
    buffer: Vec<u8>,
    /// Where in the tail the buffer goes.
    written: u64,
    /// Bytes that went to files since this log was made or opened.
    total: u64,
    /// Up to where the tail is durable.
    synced: u64,
    /// Whether anything was written or buffered since the last sync.
    unsynced: bool,
    crc: u32,
    /// The last hard state saved: compared for `must_sync`, repeated in every segment.
    state: HardState,
    /// Index of the last entry saved, or of a later snapshot.
    last_index: u64,
    index: Arc<Mutex<Index>>,
    stopped: Option<String>,
}

impl Wal {
    /// Makes a new log in `dir`, which may exist but must hold none.
    ///
    /// It is built as `<dir>.tmp` and renamed, so that after a power cut there is a whole log or
    /// none.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, metadata: Metadata) -> Result<Wal, Error> {
        if exists(&*disk, dir)? {
            return Err(Error::AlreadyExists {
                dir: dir.to_owned(),
            });
        }
        let mut building = dir.as_os_str().to_owned();
        building.push(".tmp");
        let building = PathBuf::from(building);
        remove_dir(&*disk, &building)?;
        disk.create_dir_all(&building)
            .map_err(|source| Error::io("make", &building, source))?;

        let name = SegmentName {
            sequence: 0,
            index: 0,
        };
        let path = building.join(name.to_string());
        let file = disk
            .open(&path, OpenMode::CreateNew)
            .map_err(|source| Error::io("make", &path, source))?;
        open::lock(&[crate::decode::Segment {
            name,
            path: path.clone(),
            file: file.clone(),
            len: 0,
        }])?;
        file.allocate(0, SEGMENT_BYTES)
            .map_err(|source| Error::io("reserve space for", &path, source))?;

        let mut buffer = Vec::new();
        let mut crc = 0;
        record::encode_crc(&mut buffer, crc);
        metadata.encode(&mut buffer, &mut crc);
        // Only the first segment of a log begins with a snapshot: the empty one.
        SnapshotRecord::default().encode(&mut buffer, &mut crc);
        file.write_all_at(&buffer, 0)
            .map_err(|source| Error::io("write", &path, source))?;
        file.sync_all()
            .map_err(|source| Error::io("sync", &path, source))?;
        disk.sync_dir(&building)
            .map_err(|source| Error::io("sync", &building, source))?;

        remove_dir(&*disk, dir)?;
        disk.rename(&building, dir)
            .map_err(|source| Error::io("rename", &building, source))?;
        sync_dir_and_parent(&*disk, dir)?;

        let mut index = Index::default();
        index.add_segment(name, buffer.len() as u64);
        Ok(Wal {
            disk,
            dir: dir.to_owned(),
            metadata,
            segment_bytes: SEGMENT_BYTES,
            no_sync: false,
            files: VecDeque::from([(name, file)]),
            next: None,
            prepared: 0,
            written: buffer.len() as u64,
            total: buffer.len() as u64,
            synced: buffer.len() as u64,
            buffer: Vec::new(),
            unsynced: false,
            crc,
            state: HardState::default(),
            last_index: 0,
            index: Arc::new(Mutex::new(index)),
            stopped: None,
        })
    }

    /// Opens the log of `dir` to go on with it: everything after the snapshot `after`, one of
    /// [`crate::valid_snapshots`] or the default for "from the beginning".
    ///
    /// A torn end is cut off (see [`Recovered::repaired`]); other damage is [`Error::Corrupt`].
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        after: SnapshotRecord,
    ) -> Result<(Wal, Recovered), Error> {
        let segments = open::open_segments(&*disk, dir, after.index, OpenMode::ReadWrite)?;
        open::lock(&segments)?;
        let (mut recovered, tail) = open::replay(segments, dir, &after)?;
        recovered.repaired = open::clear_rest(&disk, dir, &tail)?;
        // A name that this start has seen may be in memory only: the process before may have died
        // between renaming and syncing.
        sync_dir_and_parent(&*disk, dir)?;
        let mut index = tail.index;
        index.set_tail_len(tail.offset);
        let wal = Wal {
            disk,
            dir: dir.to_owned(),
            metadata: recovered.metadata,
            segment_bytes: SEGMENT_BYTES,
            no_sync: false,
            files: open::into_files(tail.segments).collect(),
            next: None,
            prepared: 0,
            buffer: Vec::new(),
            written: tail.offset,
            total: 0,
            synced: tail.offset,
            unsynced: false,
            crc: tail.crc,
            state: recovered.hard_state,
            last_index: tail.last_index,
            index: Arc::new(Mutex::new(index)),
            stopped: None,
        };
        Ok((wal, recovered))
    }

    /// Another segment size than [`SEGMENT_BYTES`], from now on; for small disks and for tests.
    pub fn set_segment_bytes(&mut self, bytes: u64) {
        self.segment_bytes = bytes;
    }

    /// etcd's `--unsafe-no-fsync`: what was saved survives the process, not the machine.
    pub fn set_unsafe_no_fsync(&mut self, no_fsync: bool) {
        self.no_sync = no_fsync;
    }

    /// Whose log it is.
    pub fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// The last hard state that was saved, also before this start.
    pub fn hard_state(&self) -> HardState {
        self.state
    }

    /// Bytes of records that went to files since this log was made or opened.
    pub fn written_bytes(&self) -> u64 {
        self.total
    }

    /// A reader of old entries, for other threads.
    pub fn reader(&self) -> Reader {
        Reader::new(self.disk.clone(), &self.dir, self.index.clone())
    }

    /// Appends entries, then the hard state if it is not empty. Returns whether raft must not go on
    /// before a [`Wal::sync`]: there are entries, or term or vote changed. A new commit index alone
    /// may wait.
    ///
    /// When the segment was full before, this is its last save: all of it is synced and the next one
    /// begun (as etcd does, whose files are the same to the byte).
    ///
    /// # Panics
    /// If entries leave a hole in the log: that is a mistake of ours, and a log with a hole cannot
    /// be opened again.
    pub fn save(
        &mut self,
        hard_state: Option<&HardState>,
        entries: &[Entry],
    ) -> Result<bool, Error> {
        self.check()?;
        let hard_state = hard_state.filter(|state| **state != HardState::default());
        if hard_state.is_none() && entries.is_empty() {
            return Ok(false);
        }
        let must_sync = !entries.is_empty()
            || hard_state.is_some_and(|state| {
                state.term != self.state.term || state.vote != self.state.vote
            });
        self.unsynced = true;
        self.append(entries);
        if let Some(state) = hard_state {
            self.state = *state;
            record::encode(&mut self.buffer, &mut self.crc, kind::STATE, state);
        }
        if self.written >= self.segment_bytes {
            self.cut()?;
        } else if self.buffer.len() >= BUFFER_BYTES_MAX {
            self.write()?;
        }
        Ok(must_sync)
    }

    /// Makes everything saved so far durable: one write, one fdatasync; nothing if there is nothing
    /// new. Only when this returns may anything that was saved be acknowledged.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.check()?;
        if !self.unsynced {
            return Ok(());
        }
        self.write()?;
        let result = if self.no_sync {
            Ok(())
        } else {
            self.tail().sync_data()
        };
        self.done(result, "sync")?;
        self.unsynced = false;
        self.synced = self.written;
        Ok(())
    }

    /// Records that a snapshot exists, durably. The `.snap` file, and the database at that index,
    /// must be durable before.
    pub fn save_snapshot(&mut self, snapshot: &SnapshotRecord) -> Result<(), Error> {
        self.check()?;
        assert!(
            snapshot.conf_state.is_some() || snapshot.index == 0,
            "the snapshot record at index {} needs its conf state",
            snapshot.index
        );
        snapshot.encode(&mut self.buffer, &mut self.crc);
        self.unsynced = true;
        self.last_index = self.last_index.max(snapshot.index);
        self.sync()
    }

    /// Lets go of the segments that a snapshot at `index` has made superfluous, so that
    /// [`Wal::purge`] may remove them: all before the last that begins below `index` (etcd's
    /// ReleaseLockTo).
    pub fn release_to(&mut self, index: u64) -> Result<(), Error> {
        self.check()?;
        let first_not_below = self.files.iter().position(|(name, _)| name.index >= index);
        let keep_from = first_not_below
            .unwrap_or(self.files.len())
            .saturating_sub(1);
        self.files.drain(..keep_from);
        Ok(())
    }

    /// Removes the oldest released segments while there are more than `segments_max`; 0 means no
    /// limit. Returns the names of those removed.
    pub fn purge(&mut self, segments_max: usize) -> Result<Vec<String>, Error> {
        self.check()?;
        let mut removed = Vec::new();
        if segments_max == 0 {
            return Ok(removed);
        }
        let names = names::list(&*self.disk, &self.dir)?;
        let held = self.files.front().map_or(0, |(name, _)| name.sequence);
        let excess = names.len().saturating_sub(segments_max);
        for name in names
            .into_iter()
            .take(excess)
            .take_while(|name| name.sequence < held)
        {
            let path = self.dir.join(name.to_string());
            self.disk
                .remove_file(&path)
                .map_err(|source| Error::io("remove", &path, source))?;
            // One by one, so that no power cut can take a later segment and leave an earlier one.
            self.disk
                .sync_dir(&self.dir)
                .map_err(|source| Error::io("sync", &self.dir, source))?;
            self.index.lock().forget_before(name.sequence + 1);
            removed.push(name.to_string());
        }
        Ok(removed)
    }

    /// Makes the next segment ahead, its space reserved, so that the cut need not wait for it. For
    /// a moment when there is nothing else to do; a cut does it itself if it was not done. An error
    /// (a full disk) stops nothing yet.
    pub fn prepare_next(&mut self) -> Result<(), Error> {
        self.check()?;
        if self.next.is_some() {
            return Ok(());
        }
        let path = self.dir.join(format!("{}.tmp", self.prepared % 2));
        let failed = |source| Error::io("reserve space for", &path, source);
        let file = self.disk.open(&path, OpenMode::Create).map_err(failed)?;
        if !file.try_lock_exclusive().map_err(failed)? {
            return Err(Error::Locked { file: path });
        }
        // A leftover of an earlier run may hold a header.
        file.set_len(0).map_err(failed)?;
        file.allocate(0, self.segment_bytes).map_err(failed)?;
        self.prepared += 1;
        self.next = Some((path, file));
        Ok(())
    }

    /// Whether [`Wal::prepare_next`] has something to do: the tail is half full.
    pub fn wants_next(&self) -> bool {
        self.next.is_none() && self.written >= self.segment_bytes / 2
    }

    /// Syncs and closes. A log that is only dropped forgets what was saved and not synced.
    pub fn close(mut self) -> Result<(), Error> {
        self.sync()?;
        if let Some((path, _)) = self.next.take() {
            self.disk
                .remove_file(&path)
                .map_err(|source| Error::io("remove", &path, source))?;
        }
        Ok(())
    }

    fn append(&mut self, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        let (name, _) = self.files.back().expect("a log has a tail");
        let sequence = name.sequence;
        let mut index = self.index.lock();
        for entry in entries {
            assert!(
                entry.index != 0 && entry.index <= self.last_index + 1,
                "entry {} would leave a hole after {}",
                entry.index,
                self.last_index
            );
            let offset = self.written + self.buffer.len() as u64;
            index.add_entry(
                entry.index,
                Place {
                    sequence,
                    offset,
                    crc: self.crc,
                },
            );
            record::encode(&mut self.buffer, &mut self.crc, kind::ENTRY, entry);
            self.last_index = entry.index;
        }
    }

    /// Writes the buffer behind what is written.
    fn write(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let result = self.tail().write_all_at(&self.buffer, self.written);
        self.done(result, "write")?;
        self.written += self.buffer.len() as u64;
        self.total += self.buffer.len() as u64;
        self.index.lock().set_tail_len(self.written);
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    /// Ends the tail at its last byte and begins the next segment.
    ///
    /// The new segment gets its head (checksum so far, metadata, hard state) under its temporary
    /// name and is synced before it is renamed: a segment is there with its head, or not at all.
    fn cut(&mut self) -> Result<(), Error> {
        self.write()?;
        let result = self.tail().set_len(self.written);
        self.done(result, "cut")?;
        self.sync()?;

        let prepared = self.prepare_next();
        prepared.map_err(|error| self.stop(error))?;
        let (path, file) = self.next.take().expect("prepared in the line above");
        let (old, _) = self.files.back().expect("a log has a tail");
        let name = SegmentName {
            sequence: old.sequence + 1,
            index: self.last_index + 1,
        };

        let mut head = Vec::new();
        record::encode_crc(&mut head, self.crc);
        self.metadata.encode(&mut head, &mut self.crc);
        if self.state != HardState::default() {
            record::encode(&mut head, &mut self.crc, kind::STATE, &self.state);
        }
        let result = file.write_all_at(&head, 0).and_then(|()| {
            if self.no_sync {
                Ok(())
            } else {
                file.sync_data()
            }
        });
        result.map_err(|source| self.stop(Error::io("write", &path, source)))?;
        let target = self.dir.join(name.to_string());
        let renamed = self
            .disk
            .rename(&path, &target)
            .and_then(|()| self.disk.sync_dir(&self.dir));
        renamed.map_err(|source| self.stop(Error::io("rename", &path, source)))?;

        self.files.push_back((name, file));
        self.written = head.len() as u64;
        self.total += self.written;
        self.synced = self.written;
        self.index.lock().add_segment(name, self.written);
        Ok(())
    }

    fn tail(&self) -> &dyn DiskFile {
        let (_, file) = self.files.back().expect("a log has a tail");
        &**file
    }

    /// Stops the log if an operation on the tail failed, and cuts off what is not known to be
    /// durable, if the disk still can.
    ///
    /// Without the cut: after a failed fdatasync the kernel takes the pages for clean. A process
    /// that starts again on this machine reads them, believes in them, syncs (there is nothing to
    /// write, so it succeeds), acknowledges more, and the next power cut takes them all.
    fn done(&mut self, result: std::io::Result<()>, operation: &'static str) -> Result<(), Error> {
        result.map_err(|source| {
            let _ = self.tail().set_len(self.synced);
            let (name, _) = self.files.back().expect("a log has a tail");
            let path = self.dir.join(name.to_string());
            self.stop(Error::io(operation, &path, source))
        })
    }

    fn stop(&mut self, error: Error) -> Error {
        self.stopped = Some(error.to_string());
        error
    }

    fn check(&self) -> Result<(), Error> {
        match &self.stopped {
            None => Ok(()),
            Some(reason) => Err(Error::Stopped {
                reason: reason.clone(),
            }),
        }
    }
}

fn remove_dir(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    match disk.remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", dir, source))
        }
        _ => Ok(()),
    }
}

fn sync_dir_and_parent(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    for dir in [dir, parent] {
        disk.sync_dir(dir)
            .map_err(|source| Error::io("sync", dir, source))?;
    }
    Ok(())
}
