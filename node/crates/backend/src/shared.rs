//! What writer, committer and readers have in common.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::bucket::Bucket;
use crate::layer::Layer;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::tree::Tree;
use crate::view::View;
use crate::{Applied, CONSISTENT_INDEX_KEY, Options, TERM_KEY};

/// A handle on the database for readers. Cheap to clone; for any thread.
#[derive(Debug, Clone)]
pub struct Backend {
    shared: Arc<Shared>,
}

impl Backend {
    pub(crate) fn new(shared: Arc<Shared>) -> Backend {
        Backend { shared }
    }

    /// A view of all that is written now. Keeps the tree that is committed now; let go of it soon.
    pub fn view(&self) -> View {
        View::new(self.shared.layers())
    }

    /// A copy of the committed file, for sending. What is not committed is not in it: see
    /// [`Backend::request_commit`] and [`Backend::committed_index`].
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(Arc::clone(&self.shared.layers().tree))
    }

    /// Bytes up to the highest page of the last commit, free pages included: bolt's `Tx.Size`, which
    /// etcd reports as `dbSize` and measures the quota by.
    pub fn size_bytes(&self) -> u64 {
        self.shared.size_bytes.load(Ordering::Relaxed)
    }

    /// [`Backend::size_bytes`] without free pages: etcd's `dbSizeInUse`.
    pub fn size_in_use_bytes(&self) -> u64 {
        self.shared.size_in_use_bytes.load(Ordering::Relaxed)
    }

    /// The consistent index of the last commit. What is at or below it survives a power cut.
    pub fn committed_index(&self) -> u64 {
        self.shared.committed_index.load(Ordering::Acquire)
    }

    /// Index and term of the last commit.
    pub fn committed(&self) -> Applied {
        self.shared.layers().tree.applied
    }

    /// Commits since open.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// How many readers hold a committed tree now, those that share a view as one: what bolt calls
    /// open read transactions. Snapshots that are being sent are among them.
    pub fn open_reads(&self) -> usize {
        self.shared.open_reads()
    }

    /// Asks for a commit of all that is written now, as soon as the entry in hand ends.
    pub fn request_commit(&self) {
        let mut handover = self.shared.handover.lock();
        handover.requested = true;
        self.shared.work.notify_one();
    }
}

/// What a reader needs: replaced as a whole, so that no change is seen twice or missed.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) pending: Arc<Layer>,
    pub(crate) frozen: Option<Arc<Layer>>,
    pub(crate) tree: Arc<Tree>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    /// Written only by who holds `handover`.
    layers: RwLock<Arc<Layers>>,
    /// Trees before the present one that readers may still hold.
    earlier: Mutex<Vec<Weak<Tree>>>,
    pub(crate) handover: Mutex<Handover>,
    /// The committer waits here for a batch.
    pub(crate) work: Condvar,
    /// The writer waits here for the committer.
    pub(crate) room: Condvar,
    size_bytes: AtomicU64,
    size_in_use_bytes: AtomicU64,
    committed_index: AtomicU64,
    commits: AtomicU64,
}

/// Who may do what with the pending batch now.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// The writer is within an entry: the pending batch must not be taken.
    pub(crate) entry_open: bool,
    /// A commit was asked for.
    pub(crate) requested: bool,
    /// The last entry whose changes are complete in the pending batch, or before it.
    pub(crate) applied: Applied,
    /// The same, for the frozen batch if there is one, else for the tree.
    pub(crate) frozen_applied: Applied,
    pub(crate) committer_gone: bool,
}

impl Shared {
    pub(crate) fn new(options: Options, tree: Arc<Tree>, store: &Store) -> Arc<Shared> {
        let applied = tree.applied;
        let layers = Layers {
            pending: Arc::default(),
            frozen: None,
            tree,
        };
        let shared = Shared {
            options,
            layers: RwLock::new(Arc::new(layers)),
            earlier: Mutex::default(),
            handover: Mutex::new(Handover {
                applied,
                frozen_applied: applied,
                ..Handover::default()
            }),
            work: Condvar::new(),
            room: Condvar::new(),
            size_bytes: AtomicU64::new(0),
            size_in_use_bytes: AtomicU64::new(0),
            committed_index: AtomicU64::new(applied.index),
            commits: AtomicU64::new(0),
        };
        shared.report_sizes(store);
        Arc::new(shared)
    }

    pub(crate) fn layers(&self) -> Arc<Layers> {
        Arc::clone(&self.layers.read())
    }

    /// What a commit of the pending batch would write: how many changes, and whether a higher index.
    pub(crate) fn pending(&self, handover: &Handover) -> (usize, bool) {
        let changes = self.layers.read().pending.changes();
        (changes, handover.applied != handover.frozen_applied)
    }

    /// Makes the pending batch the frozen one. The caller holds `handover`, no entry is open, no
    /// batch is frozen.
    pub(crate) fn freeze(&self, handover: &mut Handover) -> Arc<Layer> {
        assert!(
            !handover.entry_open,
            "a batch is taken in the middle of an entry, after {:?}",
            handover.applied
        );
        let mut layers = self.layers.write();
        assert!(
            layers.frozen.is_none(),
            "a batch is handed over while another is being written"
        );
        let batch = Arc::clone(&layers.pending);
        if handover.applied != handover.frozen_applied {
            let number = |number: u64| Some(Bytes::copy_from_slice(&number.to_be_bytes()));
            batch.insert(
                Bucket::Meta,
                CONSISTENT_INDEX_KEY,
                number(handover.applied.index),
            );
            batch.insert(Bucket::Meta, TERM_KEY, number(handover.applied.term));
            handover.frozen_applied = handover.applied;
        }
        handover.requested = false;
        *layers = Arc::new(Layers {
            pending: Arc::default(),
            frozen: Some(Arc::clone(&batch)),
            tree: Arc::clone(&layers.tree),
        });
        batch
    }

    /// Readers find the frozen batch in `tree` from now on (where there was none, `tree` holds the
    /// same as the one before). The caller holds `handover`.
    pub(crate) fn publish(&self, handover: &mut Handover, tree: Arc<Tree>, store: &Store) {
        self.committed_index
            .store(tree.applied.index, Ordering::Release);
        let before = {
            let mut layers = self.layers.write();
            let pending = Arc::clone(&layers.pending);
            std::mem::replace(
                &mut *layers,
                Arc::new(Layers {
                    pending,
                    frozen: None,
                    tree,
                }),
            )
        };
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.report_sizes(store);
        debug_assert!(
            handover.frozen_applied.index >= self.committed_index.load(Ordering::Relaxed)
        );
        self.room.notify_all();
        self.remember(&before.tree);
        // The old batch is let go of outside the lock: it may be large.
        drop(before);
    }

    pub(crate) fn report_sizes(&self, store: &Store) {
        let (size, in_use) = store.sizes();
        self.size_bytes.store(size, Ordering::Relaxed);
        self.size_in_use_bytes.store(in_use, Ordering::Relaxed);
    }

    /// Readers find the tree in another file from now on; it holds the same as the one before. The
    /// caller holds `handover`.
    pub(crate) fn replace_tree(&self, _handover: &mut Handover, tree: Arc<Tree>) {
        let mut layers = self.layers.write();
        let (pending, frozen) = (Arc::clone(&layers.pending), layers.frozen.clone());
        self.remember(&layers.tree);
        *layers = Arc::new(Layers {
            pending,
            frozen,
            tree,
        });
    }

    /// Another tree takes the place of this one, which readers may hold for longer.
    fn remember(&self, tree: &Arc<Tree>) {
        let mut earlier = self.earlier.lock();
        earlier.retain(|tree| tree.strong_count() > 0);
        earlier.push(Arc::downgrade(tree));
    }

    /// See [`Backend::open_reads`].
    fn open_reads(&self) -> usize {
        let earlier: usize = self.earlier.lock().iter().map(Weak::strong_count).sum();
        let layers = self.layers.read();
        // The layers are held here, and the tree by them.
        earlier + Arc::strong_count(&layers) - 1 + Arc::strong_count(&layers.tree) - 1
    }

    /// Whether a batch waits to be committed now.
    pub(crate) fn is_due(&self) -> bool {
        self.due(&mut self.handover.lock())
    }

    /// Waits until a batch is due, for `timeout` at most.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let mut handover = self.handover.lock();
        if self.due(&mut handover) {
            return true;
        }
        self.work
            .wait_while_for(&mut handover, |handover| !self.due(handover), timeout);
        self.due(&mut handover) || (!handover.entry_open && self.pending(&handover).0 > 0)
    }

    fn due(&self, handover: &mut Handover) -> bool {
        if self.layers.read().frozen.is_some() {
            return true;
        }
        if handover.entry_open {
            return false;
        }
        let (changes, index) = self.pending(handover);
        if changes >= self.options.batch_changes {
            return true;
        }
        if !handover.requested {
            return false;
        }
        handover.requested = changes > 0 || index;
        handover.requested
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn readers_are_counted_as_long_as_they_hold_a_tree() {
        let disk = Arc::new(seams::MemDisk::new());
        let options = Options::default();
        let (backend, mut writer, mut committer) =
            Backend::open(disk, Path::new("/db"), options).expect("a database");
        let mut write = |index| {
            writer.put(Bucket::Key, b"k", Bytes::from_static(b"v"));
            writer.end_entry(index, 1);
        };
        assert_eq!(backend.open_reads(), 0);
        let (view, snapshot) = (backend.view(), backend.snapshot());
        assert_eq!(backend.open_reads(), 2);
        // Of an earlier tree too.
        for index in 1..4 {
            write(index);
            committer.commit().expect("a commit");
        }
        assert_eq!(backend.open_reads(), 2);
        let other = backend.view();
        assert_eq!(backend.open_reads(), 3);
        drop((view, other));
        assert_eq!(backend.open_reads(), 1);
        drop(snapshot);
        assert_eq!(backend.open_reads(), 0);
    }
}
