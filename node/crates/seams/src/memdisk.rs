//! A disk in memory that can lose power.
//!
//! Every file and directory exists twice: *live*, as a running process sees it, and *durable*, as
//! it would be after a power cut in which nothing unsynced survived.
//!
//! ```text
//!   write ──► live ──── sync_data ────► durable        a file's content and length
//!   create, rename, remove ─► live ── sync_dir ─► durable        names
//!   crash(rng): durable + any subset of what lies between
//! ```
//!
//! What a crash may do: every 512-byte sector written since the last sync holds its durable
//! content, its newest, or one in between, each independently; the file's length is any that it
//! had; each unsynced create, rename or remove happened or not, each independently, in the order
//! of the calls. A file system is kinder than that; whoever lives on this disk lives on any.
//!
//! A failed sync loses what it should have made durable: the writes stay visible until the crash,
//! and a later successful sync does not bring them (Linux behaves so since it marks the pages
//! clean; "fsyncgate").
//!
//! Everything is deterministic, and a copy of the disk shares its content (chunks of 4 KiB behind
//! `Arc`), so a simulation can keep many.

mod file;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, MapSlice, Mapping, OpenMode, outside_mapping};
use crate::rng::Rng;
use file::FileNode;

type NodeId = u64;
const ROOT: NodeId = 0;

/// A disk in memory; see the module's chapter. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

/// What has been asked of a [`MemDisk`] since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemDiskStats {
    /// Calls of `write_all_at`.
    pub writes: u64,
    /// Calls of `sync_data` and `sync_all`.
    pub syncs: u64,
    /// Calls of `sync_dir`.
    pub dir_syncs: u64,
}

/// Which calls a [`Fault`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOperation {
    /// `write_all_at` and `allocate`.
    Write,
    /// `sync_data` and `sync_all`.
    Sync,
    /// `sync_dir`.
    SyncDir,
    /// `read_at`.
    Read,
    /// Making, renaming or removing a name.
    Name,
}

/// An error to come.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The calls that are counted.
    pub operation: FaultOperation,
    /// Successful calls before the failing one.
    pub after: u64,
    /// Whether all later calls fail too, or only that one.
    pub forever: bool,
    /// The error's number, for instance `libc::EIO`.
    pub os_error: i32,
}

impl MemDisk {
    /// An empty disk without limit.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// Power goes and comes back: what was not synced survives in part, by `rng`. Open handles and
    /// mappings are dead afterwards (every call on them fails), locks are free.
    pub fn crash(&self, rng: &mut dyn Rng) {
        let mut state = self.state.lock();
        *state = state.crashed(rng);
    }

    /// Another disk, as this one would be after [`MemDisk::crash`]; this one goes on.
    pub fn crashed(&self, rng: &mut dyn Rng) -> MemDisk {
        MemDisk {
            state: Arc::new(Mutex::new(self.state.lock().crashed(rng))),
        }
    }

    /// The process ends, the machine goes on: nothing is lost, open handles are dead, locks free.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.generation += 1;
        for node in state.nodes.values_mut() {
            if let Node::File(file) = node {
                file.handles = 0;
                file.locked_by = None;
            }
        }
        state.collect_garbage();
    }

    /// Limits the space that files may take together; beyond it writes fail with ENOSPC, after
    /// having written what still fitted. `None` takes the limit away.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Space that files take now, in whole chunks of 4 KiB.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes
    }

    /// Makes `sync_data` and `sync_all` answer "done" and do nothing, as some disks do: the twin of
    /// a crash test sets this and must fail, or the test proves nothing.
    pub fn set_syncs_lie(&self, lie: bool) {
        self.state.lock().syncs_lie = lie;
    }

    /// Plans an error.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Forgets all planned errors.
    pub fn clear_faults(&self) {
        self.state.lock().faults.clear();
    }

    /// Counters.
    pub fn stats(&self) -> MemDiskStats {
        self.state.lock().stats
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        let (parent, name) = state.parent(path)?;
        let node = match (state.dir(parent)?.get(&name).copied(), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(node), _) => node,
            (None, OpenMode::Read | OpenMode::ReadWrite) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                state.check_fault(FaultOperation::Name)?;
                let node = state.add_node(Node::File(FileNode::default()));
                state.change_names(vec![NameChange {
                    dir: parent,
                    name,
                    node: Some(node),
                }]);
                node
            }
        };
        state.next_handle += 1;
        let handle = state.next_handle;
        let generation = state.generation;
        state.file(node)?.handles += 1;
        Ok(Arc::new(MemFile {
            handle: Arc::new(Handle {
                disk: self.state.clone(),
                node,
                handle,
                generation,
            }),
            writable: mode != OpenMode::Read,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check_fault(FaultOperation::Name)?;
        let (from_dir, from_name) = state.parent(from)?;
        let (to_dir, to_name) = state.parent(to)?;
        let node = *state
            .dir(from_dir)?
            .get(&from_name)
            .ok_or(io::ErrorKind::NotFound)?;
        if let Some(&replaced) = state.dir(to_dir)?.get(&to_name) {
            if replaced == node {
                return Ok(());
            }
            match (&state.nodes[&node], &state.nodes[&replaced]) {
                (Node::File(_), Node::File(_)) => {}
                (Node::Dir(_), Node::Dir(dir)) if dir.live.is_empty() => {}
                (Node::Dir(_), Node::Dir(_)) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
                (Node::File(_), Node::Dir(_)) => return Err(io::ErrorKind::IsADirectory.into()),
                (Node::Dir(_), Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            }
        }
        state.change_names(vec![
            NameChange {
                dir: from_dir,
                name: from_name,
                node: None,
            },
            NameChange {
                dir: to_dir,
                name: to_name,
                node: Some(node),
            },
        ]);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check_fault(FaultOperation::Name)?;
        let (parent, name) = state.parent(path)?;
        let node = *state
            .dir(parent)?
            .get(&name)
            .ok_or(io::ErrorKind::NotFound)?;
        state.file(node)?;
        state.change_names(vec![NameChange {
            dir: parent,
            name,
            node: None,
        }]);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check_fault(FaultOperation::Name)?;
        let (parent, name) = state.parent(path)?;
        let node = *state
            .dir(parent)?
            .get(&name)
            .ok_or(io::ErrorKind::NotFound)?;
        state.dir(node)?;
        state.remove_below(node);
        state.change_names(vec![NameChange {
            dir: parent,
            name,
            node: None,
        }]);
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut dir = ROOT;
        for name in names(path)? {
            dir = match state.dir(dir)?.get(&name) {
                Some(&node) => {
                    state.dir(node)?;
                    node
                }
                None => {
                    state.check_fault(FaultOperation::Name)?;
                    let node = state.add_node(Node::Dir(DirNode::default()));
                    state.change_names(vec![NameChange {
                        dir,
                        name,
                        node: Some(node),
                    }]);
                    node
                }
            };
        }
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        let node = state.find(path)?;
        Ok(state.dir(node)?.keys().cloned().collect())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.stats.dir_syncs += 1;
        state.check_fault(FaultOperation::SyncDir)?;
        // The directory, and the way to it.
        let mut dirs = BTreeSet::from([ROOT]);
        let mut dir = ROOT;
        for name in names(path)? {
            dir = *state.dir(dir)?.get(&name).ok_or(io::ErrorKind::NotFound)?;
            state.dir(dir)?;
            dirs.insert(dir);
        }
        state.sync_names(dirs);
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.state.lock().find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[derive(Debug)]
struct State {
    nodes: BTreeMap<NodeId, Node>,
    next_node: NodeId,
    next_handle: u64,
    /// Counts crashes and kills; a handle of an earlier generation is dead.
    generation: u64,
    /// Changes of names that no sync_dir has made durable, oldest first. One element is atomic.
    pending: Vec<Vec<NameChange>>,
    capacity: Option<u64>,
    used_bytes: u64,
    faults: Vec<Fault>,
    syncs_lie: bool,
    stats: MemDiskStats,
}

#[derive(Debug, Clone)]
enum Node {
    File(FileNode),
    Dir(DirNode),
}

#[derive(Debug, Clone, Default)]
struct DirNode {
    live: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
}

/// In `dir`, `name` now means `node`, or nothing.
#[derive(Debug, Clone)]
struct NameChange {
    dir: NodeId,
    name: String,
    node: Option<NodeId>,
}

impl Default for State {
    fn default() -> State {
        State {
            nodes: BTreeMap::from([(ROOT, Node::Dir(DirNode::default()))]),
            next_node: ROOT + 1,
            next_handle: 0,
            generation: 0,
            pending: Vec::new(),
            capacity: None,
            used_bytes: 0,
            faults: Vec::new(),
            syncs_lie: false,
            stats: MemDiskStats::default(),
        }
    }
}

impl State {
    fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for name in names(path)? {
            node = *self.dir(node)?.get(&name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    fn parent(&self, path: &Path) -> io::Result<(NodeId, String)> {
        let mut names = names(path)?;
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let mut node = ROOT;
        for name in names {
            node = *self.dir(node)?.get(&name).ok_or(io::ErrorKind::NotFound)?;
        }
        self.dir(node)?;
        Ok((node, name))
    }

    fn dir(&self, node: NodeId) -> io::Result<&BTreeMap<String, NodeId>> {
        match self.nodes.get(&node) {
            Some(Node::Dir(dir)) => Ok(&dir.live),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn file(&mut self, node: NodeId) -> io::Result<&mut FileNode> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn add_node(&mut self, node: Node) -> NodeId {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, node);
        id
    }

    fn change_names(&mut self, changes: Vec<NameChange>) {
        for change in &changes {
            if let Some(Node::Dir(dir)) = self.nodes.get_mut(&change.dir) {
                change.apply_to(&mut dir.live);
            }
        }
        self.pending.push(changes);
        self.update_used_bytes();
    }

    /// Unlinks everything below a directory, deepest first, as rm -r does.
    fn remove_below(&mut self, dir: NodeId) {
        let Some(Node::Dir(node)) = self.nodes.get(&dir) else {
            return;
        };
        for (name, child) in node.live.clone() {
            self.remove_below(child);
            self.change_names(vec![NameChange {
                dir,
                name,
                node: None,
            }]);
        }
    }

    /// Makes the names in `dirs` durable. A rename that crosses directories takes the other
    /// directory along, so that the file is never durable under two names.
    fn sync_names(&mut self, mut dirs: BTreeSet<NodeId>) {
        loop {
            let before = dirs.len();
            for changes in &self.pending {
                if changes.iter().any(|change| dirs.contains(&change.dir)) {
                    dirs.extend(changes.iter().map(|change| change.dir));
                }
            }
            if dirs.len() == before {
                break;
            }
        }
        for changes in std::mem::take(&mut self.pending) {
            if changes.iter().all(|change| dirs.contains(&change.dir)) {
                self.apply_durably(&changes);
            } else {
                self.pending.push(changes);
            }
        }
        self.collect_garbage();
    }

    fn apply_durably(&mut self, changes: &[NameChange]) {
        for change in changes {
            if let Some(Node::Dir(dir)) = self.nodes.get_mut(&change.dir) {
                change.apply_to(&mut dir.durable);
            }
        }
    }

    /// Drops nodes that nothing can reach any more: no name, live or durable, no pending change,
    /// no handle.
    fn collect_garbage(&mut self) {
        let mut reached = BTreeSet::new();
        let mut todo = vec![ROOT];
        todo.extend(
            self.pending
                .iter()
                .flatten()
                .flat_map(|change| change.node.into_iter().chain([change.dir])),
        );
        todo.extend(self.nodes.iter().filter_map(|(&id, node)| match node {
            Node::File(file) if file.handles > 0 => Some(id),
            _ => None,
        }));
        while let Some(id) = todo.pop() {
            if !reached.insert(id) {
                continue;
            }
            if let Some(Node::Dir(dir)) = self.nodes.get(&id) {
                todo.extend(dir.live.values().chain(dir.durable.values()));
            }
        }
        self.nodes.retain(|id, _| reached.contains(id));
        self.update_used_bytes();
    }

    /// Space is taken by files that have a live name or a handle; a removed and closed file gives
    /// its space back at once.
    fn update_used_bytes(&mut self) {
        let mut named = BTreeSet::new();
        for node in self.nodes.values() {
            if let Node::Dir(dir) = node {
                named.extend(dir.live.values().copied());
            }
        }
        self.used_bytes = self
            .nodes
            .iter()
            .map(|(id, node)| match node {
                Node::File(file) if file.handles > 0 || named.contains(id) => file.space_bytes,
                _ => 0,
            })
            .sum();
    }

    fn check_fault(&mut self, operation: FaultOperation) -> io::Result<()> {
        let Some(position) = self
            .faults
            .iter()
            .position(|fault| fault.operation == operation)
        else {
            return Ok(());
        };
        let fault = &mut self.faults[position];
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        let error = io::Error::from_raw_os_error(fault.os_error);
        if !fault.forever {
            self.faults.remove(position);
        }
        Err(error)
    }

    /// The state after a power cut.
    fn crashed(&self, rng: &mut dyn Rng) -> State {
        let mut after = State {
            nodes: self.nodes.clone(),
            next_node: self.next_node,
            next_handle: self.next_handle,
            generation: self.generation + 1,
            capacity: self.capacity,
            faults: self.faults.clone(),
            syncs_lie: self.syncs_lie,
            stats: self.stats,
            ..State::default()
        };
        let keep = Keep::draw(rng);
        for changes in &self.pending {
            if keep.one(rng) {
                after.apply_durably(changes);
            }
        }
        for node in after.nodes.values_mut() {
            match node {
                Node::Dir(dir) => dir.live = dir.durable.clone(),
                Node::File(file) => file.crash(keep, rng),
            }
        }
        after.collect_garbage();
        after
    }
}

impl NameChange {
    fn apply_to(&self, names: &mut BTreeMap<String, NodeId>) {
        match self.node {
            Some(node) => names.insert(self.name.clone(), node),
            None => names.remove(&self.name),
        };
    }
}

/// How much of the unsynced a crash keeps. All or nothing are rare among independent coins, and
/// both are common on real machines, so they are drawn on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    Everything,
    Some,
}

impl Keep {
    fn draw(rng: &mut dyn Rng) -> Keep {
        match rng.below(8) {
            0 => Keep::Nothing,
            1 => Keep::Everything,
            _ => Keep::Some,
        }
    }

    fn one(self, rng: &mut dyn Rng) -> bool {
        match self {
            Keep::Nothing => false,
            Keep::Everything => true,
            Keep::Some => rng.below(2) == 0,
        }
    }
}

/// The names on the way to a path, from the root. "." and leading "/" mean nothing here; ".." and
/// names that are not UTF-8 are refused.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => match name.to_str() {
                Some(name) => names.push(name.to_owned()),
                None => return Err(io::ErrorKind::InvalidInput.into()),
            },
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
    }
    Ok(names)
}

/// An open file, shared by a [`MemFile`] and its mappings.
#[derive(Debug)]
struct Handle {
    disk: Arc<Mutex<State>>,
    node: NodeId,
    handle: u64,
    generation: u64,
}

impl Handle {
    fn with<R>(&self, run: impl FnOnce(&mut State) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.disk.lock();
        if state.generation != self.generation {
            return Err(io::Error::other(
                "the disk has crashed since this file was opened",
            ));
        }
        run(&mut state)
    }

    fn with_file<R>(&self, run: impl FnOnce(&mut FileNode) -> io::Result<R>) -> io::Result<R> {
        self.with(|state| run(state.file(self.node)?))
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state| {
            state.stats.syncs += 1;
            match state.check_fault(FaultOperation::Sync) {
                Ok(()) if state.syncs_lie => {}
                Ok(()) => state.file(self.node)?.sync(),
                Err(error) => {
                    state.file(self.node)?.sync_failed();
                    return Err(error);
                }
            }
            Ok(())
        })
    }

    /// Grows the space of the file to `end`, as far as there is room; returns the end that fits.
    fn take_space(&self, state: &mut State, end: u64) -> io::Result<u64> {
        let capacity = state.capacity;
        let used = state.used_bytes;
        let file = state.file(self.node)?;
        let wanted = end.div_ceil(file::CHUNK_BYTES as u64) * file::CHUNK_BYTES as u64;
        let more = wanted.saturating_sub(file.space_bytes);
        let free = capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(used));
        let granted = if more <= free {
            more
        } else {
            free - free % file::CHUNK_BYTES as u64
        };
        file.space_bytes += granted;
        let fits = end.min(if more <= free { end } else { file.space_bytes });
        state.used_bytes += granted;
        Ok(fits)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.generation != self.generation {
            return;
        }
        let handle = self.handle;
        if let Ok(file) = state.file(self.node) {
            file.handles -= 1;
            if file.locked_by == Some(handle) {
                file.locked_by = None;
            }
            if file.handles == 0 {
                state.collect_garbage();
            }
        }
    }
}

#[derive(Debug)]
struct MemFile {
    handle: Arc<Handle>,
    writable: bool,
}

impl MemFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
}

impl DiskFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        self.handle.with_file(|file| Ok(file.len()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.handle.with(|state| {
            let file = state.file(self.handle.node)?;
            file.set_len(len);
            let before = file.space_bytes;
            file.space_bytes =
                before.min(len.div_ceil(file::CHUNK_BYTES as u64) * file::CHUNK_BYTES as u64);
            let freed = before - file.space_bytes;
            state.used_bytes -= freed;
            Ok(())
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.handle.with(|state| {
            state.check_fault(FaultOperation::Read)?;
            Ok(state.file(self.handle.node)?.read_at(buffer, offset))
        })
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        self.handle.with(|state| {
            state.stats.writes += 1;
            state.check_fault(FaultOperation::Write)?;
            if buffer.is_empty() {
                return Ok(());
            }
            let end = offset + buffer.len() as u64;
            let fits = self.handle.take_space(state, end)?;
            let file = state.file(self.handle.node)?;
            if fits > offset {
                file.write_at(&buffer[..(fits - offset) as usize], offset);
            }
            if fits < end {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            } else {
                Ok(())
            }
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.handle.with(|state| {
            state.check_fault(FaultOperation::Write)?;
            let end = offset + len;
            if self.handle.take_space(state, end)? < end {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            let file = state.file(self.handle.node)?;
            if file.len() < end {
                file.set_len(end);
            }
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.handle.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.handle.sync()
    }

    fn try_lock_exclusive(&self) -> io::Result<bool> {
        let handle = self.handle.handle;
        self.handle.with_file(|file| match file.locked_by {
            Some(holder) => Ok(holder == handle),
            None => {
                file.locked_by = Some(handle);
                Ok(true)
            }
        })
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        self.handle.with_file(|_| Ok(()))?;
        Ok(Arc::new(MemMapping {
            handle: self.handle.clone(),
            len,
        }))
    }
}

/// A mapping that copies. Bytes beyond the end of the file are an error here, where a real mapping
/// would end the process.
#[derive(Debug)]
struct MemMapping {
    handle: Arc<Handle>,
    len: u64,
}

impl MemMapping {
    fn copy(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        if offset
            .checked_add(len as u64)
            .is_none_or(|end| end > self.len)
        {
            return Err(outside_mapping(offset, len, self.len));
        }
        let mut bytes = vec![0; len];
        let read = self
            .handle
            .with_file(|file| Ok(file.read_at(&mut bytes, offset)))?;
        if read < len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "bytes {offset}+{len} of a mapping lie beyond the end of the file: SIGBUS on a real disk"
                ),
            ));
        }
        Ok(bytes)
    }
}

impl Mapping for MemMapping {
    fn len(&self) -> u64 {
        self.len
    }

    fn peek(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        self.copy(offset, len).map(Cow::Owned)
    }

    fn slice(self: Arc<Self>, offset: u64, len: usize) -> io::Result<MapSlice> {
        Ok(MapSlice::copied(Bytes::from(self.copy(offset, len)?)))
    }
}
