//! Watches: who is told what, and when.
//!
//! ```text
//!                    ┌────────── notify, by the applier ──────────┐
//!                    ▼                                            │ queue is full
//! create ──► synced: told as it happens ──► the stream's queue    │
//!    │               ▲                            │               ▼
//!    │ in the past   │ caught up                  ▼            blocked: waits for room
//!    └────────► waiting ◄──────────────── room in the queue ◄─────┘
//!                 │  ▲
//!                 ▼  │  sync_step, by another thread: reads the records,
//!               syncing   up to 512 watchers at a time
//! ```
//!
//! The applier only matches keys with watchers and pushes to queues. A watcher whose queue
//! is full leaves its way: it is remembered with the revision it needs next, and catches
//! up from the store once its client has read; its events cost no memory meanwhile. No
//! watcher waits for another.
//!
//! Each revision's events reach a watcher in one response. A queue is in order: a watcher's
//! creation comes before its events, progress comes after all events up to its revision.
//!
//! The hub knows no time and no sockets. Whoever drives it calls [`Mvcc::sync_watchers`]
//! when [`WatchHub::set_sync_waker`]'s function was called, and [`WatchStream::progress_tick`]
//! when it is time.

mod event;
mod group;
mod hub;
mod interval;
mod queue;
mod sync;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use api::etcdserverpb as pb;

pub use event::{Change, Event, Events, NO_WATCH_ID, Response, fragments};
pub use hub::{WatchCounts, WatchHub};
pub use queue::Wake;
pub use sync::{SYNC_STEP_RECORDS, SyncStep};

use crate::Mvcc;
use hub::{Refusal, StreamKey};
use queue::Queue;

/// One client's stream of watches. Dropping it ends its watchers.
#[derive(Debug)]
pub struct WatchStream {
    mvcc: Arc<Mvcc>,
    key: StreamKey,
    queue: Arc<Queue>,
}

impl Mvcc {
    /// A new stream. `wake` is called when [`WatchStream::next`] has something again after
    /// it had nothing; it may be called from any thread and must not call the hub.
    pub fn watch_stream(self: &Arc<Self>, wake: Wake) -> WatchStream {
        let queue = Arc::new(Queue::new(wake));
        let key = self.watch_hub().add_stream(queue.clone());
        WatchStream {
            mvcc: self.clone(),
            key,
            queue,
        }
    }
}

impl WatchStream {
    /// Makes a watcher, or refuses it; either answer comes through the queue.
    ///
    /// Etcd's rules: start revision 0 is now, one in the future is allowed, a negative one
    /// is refused as compacted; an empty key is the least key; watch id 0 lets the server
    /// choose; a watch id in use and an empty range are refused. The caller asks for the
    /// permission first where the start revision is not negative, see
    /// [`WatchStream::refuse`].
    pub fn create(&self, request: &pb::WatchCreateRequest) {
        self.hub().create(self.key, request);
    }

    /// Answers a request to watch that is not permitted, in etcd's words for it.
    pub fn refuse(&self, reason: &str) {
        self.hub().refuse(self.key, Refusal::Other(reason));
    }

    /// Ends a watcher. If there is none of that id, nothing is answered.
    pub fn cancel(&self, watch_id: i64) {
        self.hub().cancel(self.key, watch_id);
    }

    /// Answers with progress for the whole stream if all its watchers are up to date, else
    /// not at all.
    pub fn request_progress(&self) {
        self.hub().request_progress(self.key);
    }

    /// The interval has passed: progress for each watcher that asked for it, is up to date
    /// and had no event since the last time. The first interval of a watcher counts too.
    pub fn progress_tick(&self) {
        self.hub().progress_tick(self.key);
    }

    /// The next response; `None` until the stream is woken.
    pub fn next(&self) -> Option<Response> {
        let (response, room) = self.queue.pop();
        if room {
            self.hub().unblock(self.key);
        }
        response
    }

    /// Answers to requests that still wait. A caller stops to read requests while there are
    /// many (etcd: 16): the queue takes them all.
    pub fn waiting_answers(&self) -> usize {
        self.queue.controls()
    }

    /// Responses that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The store.
    pub fn mvcc(&self) -> &Arc<Mvcc> {
        &self.mvcc
    }

    fn hub(&self) -> &WatchHub {
        self.mvcc.watch_hub()
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.hub().remove_stream(self.key);
    }
}
