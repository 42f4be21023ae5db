//! The log in memory, which raft-rs reads as its storage.
//!
//! ```text
//!   compacted      memory_first            last
//!       │ only in the WAL │  in memory      │
//!       ▼─────────────────▼─────────────────▼
//!   terms known for all of it, as runs
//! ```
//!
//! Entries that are not applied are always in memory. Applied ones stay while followers that
//! are alive still need them, and otherwise up to [`LOG_BYTES_MAX`]; older ones are known by
//! their terms only and come back from the WAL when a peer needs them: raft-rs asks, is told
//! that they are temporarily unavailable, and asks again when they were fetched.
//!
//! A snapshot for a peer is handled the same way: asked for, unavailable, delivered, asked again.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::turn::Fetch;

/// Bytes of applied entries that stay in memory although no living follower needs them, unless
/// configured otherwise: one that comes back after a short pause is then served without touching
/// the disk.
pub const LOG_BYTES_MAX: u64 = 8 << 20;

/// Living but slow followers may keep so many times more in memory. Beyond this they read from
/// the WAL like the dead that come back.
const NEEDED_FACTOR: u64 = 8;

/// Bytes of one read from the WAL: four full messages.
const FETCH_BYTES_MAX: u64 = 4 << 20;

/// Peers that may wait for the same range. Further ones ask again with the next heartbeat.
const FETCH_WAITERS_MAX: usize = 8;

/// What an entry costs in memory beside its bytes.
const ENTRY_OVERHEAD_BYTES: u64 = 96;

/// Entries from `first` on have this term, up to the next run.
#[derive(Debug, Clone, Copy)]
struct TermRun {
    first: u64,
    term: u64,
}

/// The log. `raft` owns it; the node reaches it through `RawNode::store`.
pub(crate) struct Log {
    initial: RaftState,
    compacted: u64,
    compacted_term: u64,
    runs: VecDeque<TermRun>,
    entries: VecDeque<Entry>,
    memory_first: u64,
    bytes: u64,
    bytes_max: u64,
    wants: RefCell<Wants>,
}

/// What raft-rs asked for and could not get. Behind a cell since it asks by shared reference.
#[derive(Default)]
struct Wants {
    /// Reads that were asked for and are not answered, by first index.
    fetching: BTreeMap<u64, Fetching>,
    /// Reads that the node has not told yet.
    fetches: Vec<Fetch>,
    /// What a read brought, while raft-rs is asked to send it.
    fetched: Vec<Entry>,
    /// Peers for which a snapshot was asked and not delivered.
    snapshots_asked: BTreeSet<u64>,
    /// Those of them that the node has not told yet.
    snapshots_wanted: Vec<u64>,
    /// Snapshots that are there for a peer, until raft-rs sends them.
    snapshots_ready: BTreeMap<u64, Snapshot>,
}

#[derive(Default)]
struct Fetching {
    waiting: Vec<GetEntriesContext>,
}

impl Log {
    /// A log that begins after `compacted` and holds `entries`, which follow without a gap.
    pub fn new(
        hard_state: HardState,
        conf_state: ConfState,
        compacted: u64,
        compacted_term: u64,
        entries: Vec<Entry>,
        bytes_max: u64,
    ) -> Log {
        let mut log = Log {
            initial: RaftState::new(hard_state, conf_state),
            compacted,
            compacted_term,
            runs: VecDeque::new(),
            entries: VecDeque::new(),
            memory_first: compacted + 1,
            bytes: 0,
            bytes_max,
            wants: RefCell::default(),
        };
        log.append(entries);
        log
    }

    /// First index that raft-rs may ask for.
    pub fn first(&self) -> u64 {
        self.compacted + 1
    }

    /// Last index, or the compacted one when the log is empty.
    pub fn last(&self) -> u64 {
        self.memory_first + self.entries.len() as u64 - 1
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Term at `index`, when the log knows it.
    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.compacted {
            return Some(self.compacted_term);
        }
        if index < self.compacted || index > self.last() {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        Some(self.runs[after - 1].term)
    }

    /// Appends what raft made unstable; the first entry may lie inside the log, which then ends
    /// before it.
    pub fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        assert!(
            self.memory_first <= first && first <= self.last() + 1,
            "appending {first} to a log in memory from {} to {}",
            self.memory_first,
            self.last()
        );
        while self.last() >= first {
            let cut = self
                .entries
                .pop_back()
                .expect("the log ends after its first");
            self.bytes -= cost(&cut);
        }
        while self.runs.back().is_some_and(|run| run.first >= first) {
            self.runs.pop_back();
        }
        self.entries.reserve(entries.len());
        for entry in entries {
            debug_assert_eq!(entry.index, self.last() + 1);
            if self.runs.back().is_none_or(|run| run.term != entry.term) {
                self.runs.push_back(TermRun {
                    first: entry.index,
                    term: entry.term,
                });
            }
            self.bytes += cost(&entry);
            self.entries.push_back(entry);
        }
    }

    /// Forgets the log up to `index`: raft-rs will send a snapshot to whom needs it. What lies
    /// outside of the log is ignored.
    pub fn compact(&mut self, index: u64) {
        let Some(term) = self.term_at(index) else {
            return;
        };
        if index <= self.compacted {
            return;
        }
        self.drop_from_memory(index + 1);
        self.memory_first = self.memory_first.max(index + 1);
        self.compacted = index;
        self.compacted_term = term;
        while self.runs.get(1).is_some_and(|run| run.first <= index + 1) {
            self.runs.pop_front();
        }
        if self.last() == index {
            self.runs.clear();
        }
        self.wants
            .get_mut()
            .snapshots_ready
            .retain(|peer, snapshot| {
                let usable = snapshot.get_metadata().index >= index;
                if !usable {
                    tracing::info!(
                        peer,
                        index,
                        "snapshot for a peer is older than the log, dropped"
                    );
                }
                usable
            });
    }

    /// The log is replaced by a snapshot.
    pub fn restore(&mut self, index: u64, term: u64) {
        self.compacted = index;
        self.compacted_term = term;
        self.runs.clear();
        self.entries.clear();
        self.memory_first = index + 1;
        self.bytes = 0;
        self.forget_wants();
    }

    /// Whether [`Log::trim`] has something to do.
    pub fn is_too_large(&self) -> bool {
        self.bytes > self.bytes_max
    }

    /// Drops applied entries from memory: those up to `applied` that no living follower needs
    /// (`needed_from`), down to the limit, then also needed ones, down to [`NEEDED_FACTOR`]
    /// times the limit.
    pub fn trim(&mut self, applied: u64, needed_from: u64) {
        while self.is_too_large() {
            let front = self.memory_first;
            let needed = front >= needed_from;
            if front > applied || (needed && self.bytes <= NEEDED_FACTOR * self.bytes_max) {
                break;
            }
            self.drop_from_memory(front + 1);
        }
    }

    fn drop_from_memory(&mut self, until: u64) {
        while self.memory_first < until
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= cost(&entry);
            self.memory_first += 1;
        }
    }

    /// Reads to be made, each told once.
    pub fn take_fetches(&mut self, fetches: &mut Vec<Fetch>) {
        fetches.append(&mut self.wants.get_mut().fetches);
    }

    /// A read came back. Gives the contexts that raft-rs must be called with, now.
    pub fn fetched(&mut self, from: u64, entries: Vec<Entry>) -> Vec<GetEntriesContext> {
        let wants = self.wants.get_mut();
        let Some(fetching) = wants.fetching.remove(&from) else {
            return Vec::new();
        };
        wants.fetched = entries;
        fetching.waiting
    }

    /// The WAL does not have what was asked for: the log begins where memory does.
    pub fn fetch_failed(&mut self, from: u64) -> Vec<GetEntriesContext> {
        let waiting = self.fetched(from, Vec::new());
        if from > self.compacted && self.memory_first > self.first() {
            self.compact(self.memory_first - 1);
        }
        waiting
    }

    /// What was fetched has been sent; it need not stay.
    pub fn forget_fetched(&mut self) {
        self.wants.get_mut().fetched = Vec::new();
    }

    /// Peers that need a snapshot, each told once.
    pub fn take_snapshots_wanted(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.wants.get_mut().snapshots_wanted)
    }

    /// A snapshot is there, or not. False when it is of no use: nobody asked, or it is older
    /// than the log; the peer will be asked for again.
    pub fn snapshot_ready(&mut self, peer: u64, snapshot: Option<Snapshot>) -> bool {
        let first = self.first();
        let wants = self.wants.get_mut();
        if !wants.snapshots_asked.remove(&peer) {
            return false;
        }
        match snapshot {
            Some(snapshot)
                if snapshot.get_metadata().index + 1 >= first
                    && snapshot.get_metadata().index > 0 =>
            {
                wants.snapshots_ready.insert(peer, snapshot);
                true
            }
            _ => false,
        }
    }

    /// Nobody is sent anything any more: we do not lead.
    pub fn forget_wants(&mut self) {
        let wants = self.wants.get_mut();
        if !wants.is_empty() {
            *wants = Wants::default();
        }
    }
}

impl Wants {
    fn is_empty(&self) -> bool {
        self.fetching.is_empty()
            && self.fetches.is_empty()
            && self.fetched.is_empty()
            && self.snapshots_asked.is_empty()
            && self.snapshots_ready.is_empty()
    }

    fn fetched_from(&self, low: u64, high: u64, max_bytes: u64) -> Option<Vec<Entry>> {
        let first = self.fetched.first()?.index;
        let skip = usize::try_from(low.checked_sub(first)?).ok()?;
        let within = |entry: &&Entry| entry.index < high;
        let found = limited(self.fetched.iter().skip(skip).take_while(within), max_bytes);
        (!found.is_empty()).then_some(found)
    }

    fn want(&mut self, from: u64, to: u64, context: GetEntriesContext) {
        let is_new = !self.fetching.contains_key(&from);
        let fetching = self.fetching.entry(from).or_default();
        if fetching.waiting.len() < FETCH_WAITERS_MAX {
            fetching.waiting.push(context);
        }
        if is_new {
            self.fetches.push(Fetch {
                from,
                to,
                max_bytes: FETCH_BYTES_MAX,
            });
        }
    }
}

fn cost(entry: &Entry) -> u64 {
    entry.data.len() as u64 + entry.context.len() as u64 + ENTRY_OVERHEAD_BYTES
}

/// The first entries of at most `max_bytes`, but at least one.
fn limited<'a>(entries: impl Iterator<Item = &'a Entry>, max_bytes: u64) -> Vec<Entry> {
    let mut bytes = 0;
    let mut taken = Vec::new();
    for entry in entries {
        bytes += entry.data.len() as u64 + entry.context.len() as u64;
        if bytes > max_bytes && !taken.is_empty() {
            break;
        }
        taken.push(entry.clone());
    }
    taken
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        if low <= self.compacted {
            return Err(StorageError::Compacted.into());
        }
        assert!(
            high <= self.last() + 1,
            "raft asks for entries up to {high}, the log ends at {}",
            self.last()
        );
        if low >= self.memory_first {
            let start = (low - self.memory_first) as usize;
            let end = (high - self.memory_first) as usize;
            return Ok(limited(self.entries.range(start..end), max_bytes));
        }
        if !context.can_async() {
            // Only what is not applied is asked for so, and that is in memory.
            return Err(StorageError::Compacted.into());
        }
        let mut wants = self.wants.borrow_mut();
        if let Some(found) = wants.fetched_from(low, high, max_bytes) {
            return Ok(found);
        }
        wants.want(low, high.min(self.memory_first), context);
        Err(StorageError::LogTemporarilyUnavailable.into())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_at(index).ok_or_else(|| {
            if index < self.compacted {
                StorageError::Compacted.into()
            } else {
                StorageError::Unavailable.into()
            }
        })
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let mut wants = self.wants.borrow_mut();
        if let Some(snapshot) = wants.snapshots_ready.remove(&to) {
            return Ok(snapshot);
        }
        if wants.snapshots_asked.insert(to) {
            wants.snapshots_wanted.push(to);
        }
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}
