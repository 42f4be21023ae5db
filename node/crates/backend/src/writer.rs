//! The applier's end: fills the pending batch.

use std::sync::Arc;

use bytes::Bytes;

use crate::Applied;
use crate::bucket::Bucket;
use crate::error::Error;
use crate::shared::{Backend, Layers, Shared};
use crate::view::{View, Visit};

/// The one writer.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    /// The layers since the first change of the entry in hand; `None` between entries, so that an
    /// idle writer keeps no old tree.
    entry: Option<Arc<Layers>>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>) -> Writer {
        Writer {
            shared,
            entry: None,
        }
    }

    /// Sets a key. The key must not be empty: bbolt cannot hold such a key, so callers refuse it
    /// where it comes from. `value` is kept until the batch is committed, with all the memory that
    /// it is a part of.
    pub fn put(&mut self, bucket: Bucket, key: &[u8], value: Bytes) {
        assert!(!key.is_empty(), "an empty key for bucket {bucket:?}");
        self.entry().pending.insert(bucket, key, Some(value));
    }

    /// Removes a key; nothing happens if it does not exist.
    pub fn delete(&mut self, bucket: Bucket, key: &[u8]) {
        assert!(!key.is_empty(), "an empty key for bucket {bucket:?}");
        self.entry().pending.insert(bucket, key, None);
    }

    /// The value of a key; own changes are seen.
    pub fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.view().get(bucket, key)
    }

    /// As [`View::scan`]; own changes are seen.
    pub fn scan(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        f: &mut Visit<'_>,
    ) -> Result<(), Error> {
        self.view().scan(bucket, from, to, f)
    }

    /// What the writer sees.
    pub fn view(&self) -> View {
        View::new(match &self.entry {
            Some(layers) => Arc::clone(layers),
            None => self.shared.layers(),
        })
    }

    /// A handle for readers.
    pub fn backend(&self) -> Backend {
        Backend::new(Arc::clone(&self.shared))
    }

    /// The last entry that was ended.
    pub fn applied(&self) -> Applied {
        self.shared.handover.lock().applied
    }

    /// Ends an entry of the log: a batch may end here, and carries this index and term.
    ///
    /// Hands the batch over when it is due and the committer is free. Waits only when
    /// `Options::pending_bytes_max` is reached, for the committer to take the batch; whoever commits
    /// on the same thread sets that limit out of reach. A lower index than the last one is ignored
    /// (an entry that was applied before), as in etcd.
    pub fn end_entry(&mut self, index: u64, term: u64) {
        self.end(Some(Applied { index, term }));
    }

    /// The same for changes that no entry of the log made: start-up, steps of a compaction.
    pub fn end_local(&mut self) {
        self.end(None);
    }

    fn entry(&mut self) -> &Layers {
        self.entry.get_or_insert_with(|| {
            let mut handover = self.shared.handover.lock();
            handover.entry_open = true;
            self.shared.layers()
        })
    }

    fn end(&mut self, applied: Option<Applied>) {
        self.entry = None;
        let options = &self.shared.options;
        let mut handover = self.shared.handover.lock();
        handover.entry_open = false;
        if let Some(applied) = applied
            && applied.index > handover.applied.index
        {
            handover.applied = applied;
        }
        loop {
            let layers = self.shared.layers();
            let (changes, bytes) = (layers.pending.changes(), layers.pending.bytes());
            let due = changes >= options.batch_changes
                || bytes >= options.batch_bytes
                || handover.requested;
            if !due {
                return;
            }
            if layers.frozen.is_none() {
                if changes > 0 || handover.applied != handover.frozen_applied {
                    self.shared.freeze(&mut handover);
                    self.shared.work.notify_one();
                }
                handover.requested = false;
                return;
            }
            if bytes < options.pending_bytes_max || handover.committer_gone {
                return;
            }
            drop(layers);
            self.shared.room.wait(&mut handover);
        }
    }
}
