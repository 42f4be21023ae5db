//! The committer's end: writes batches to the file.

use std::sync::Arc;
use std::time::Duration;

use crate::defragment::Copy;
use crate::error::Error;
use crate::shared::Shared;
use crate::store::Store;

/// The one committer. In production a thread loops over [`Committer::wait`] and
/// [`Committer::commit`]; in simulation both are called inline.
#[derive(Debug)]
pub struct Committer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Store,
}

impl Committer {
    pub(crate) fn new(shared: Arc<Shared>, store: Store) -> Committer {
        Committer { shared, store }
    }

    /// Waits until a batch is handed over or a commit is asked for, for `timeout` at most (etcd's
    /// `--backend-batch-interval`). Whether there is anything to commit.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.shared.wait(timeout)
    }

    /// Commits the frozen batch, or the pending one if none was handed over and no entry is open.
    /// Returns the committed index.
    ///
    /// After an error nothing that was committed is lost, the batch stays pending and visible, and
    /// the call may be made again ([`Error::can_be_retried`]).
    pub fn commit(&mut self) -> Result<u64, Error> {
        self.commit_into(None)
    }

    /// Commits, and lets the copy that a defragmentation makes follow.
    pub(crate) fn commit_into(&mut self, copy: Option<&mut Copy>) -> Result<u64, Error> {
        let batch = {
            let mut handover = self.shared.handover.lock();
            let layers = self.shared.layers();
            match &layers.frozen {
                Some(frozen) => Some(Arc::clone(frozen)),
                None if handover.entry_open => None,
                None => match self.shared.pending(&handover) {
                    (0, false) => {
                        handover.requested = false;
                        None
                    }
                    _ => Some(self.shared.freeze(&mut handover)),
                },
            }
        };
        let base = Arc::clone(&self.shared.layers().tree);
        let Some(batch) = batch else {
            return Ok(base.applied.index);
        };
        let tree = self.store.commit(&base, &batch)?;
        let index = tree.applied.index;
        {
            let mut handover = self.shared.handover.lock();
            self.shared.publish(&mut handover, tree, &self.store);
        }
        drop(base);
        self.store.release();
        self.shared.report_sizes(&self.store);
        if let Some(copy) = copy {
            copy.follow(&batch)?;
        }
        Ok(index)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.shared.handover.lock().committer_gone = true;
        self.shared.room.notify_all();
    }
}
