//! The store that serving threads share.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use backend::{Backend, Bucket, View, Writer};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::compaction::Compactions;
use crate::hash::KeyValueHash;
use crate::index::{Index, Origin};
use crate::record::RecordHead;
use crate::watch::WatchHub;
use crate::{Error, MvccWriter, RecordKey, Revision};

/// Where `meta` keeps the revision of the last compaction that was begun.
pub(crate) const SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";
/// Where `meta` keeps the revision of the last compaction that was done.
pub(crate) const FINISHED_COMPACT: &[u8] = b"finishedCompactRev";

/// The store: shared by all who read, written through the one [`MvccWriter`].
#[derive(Debug)]
pub struct Mvcc {
    pub(crate) state: RwLock<State>,
    /// Copies of the state's numbers for those who need nothing else.
    current: AtomicI64,
    compacted: AtomicI64,
    pub(crate) compactions: Mutex<Compactions>,
    pub(crate) hashes: Mutex<VecDeque<KeyValueHash>>,
    hub: WatchHub,
    /// Bytes of keys and values that were put since the start.
    pub(crate) put_bytes: AtomicU64,
}

/// What changes together. The writer holds the lock for the whole of a transaction, so a
/// reader sees the index at `current` and nothing beyond.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) backend: Backend,
    pub(crate) index: Index,
    /// The revision of the last transaction; 1 in a new store.
    pub(crate) current: i64,
    /// The revision of the last compaction, begun or done; -1 if there was none.
    pub(crate) compacted: i64,
}

/// What [`Mvcc::open`] found besides the keys.
#[derive(Debug, Default)]
pub struct Restored {
    /// The keys whose present value names a lease, with that lease, in key order. The
    /// lessor attaches them; one whose lease is unknown stays without.
    pub leases: Vec<(Bytes, i64)>,
}

impl Mvcc {
    /// Opens the store over a backend and resumes a compaction that was interrupted.
    ///
    /// Reads the bucket `key` once; the cost is linear in its bytes.
    pub fn open(
        backend: Backend,
        writer: &mut Writer,
    ) -> Result<(Arc<Self>, MvccWriter, Restored), Error> {
        let (state, scheduled, restored) = State::restore(backend)?;
        let mvcc = Arc::new(Self {
            current: AtomicI64::new(state.current),
            compacted: AtomicI64::new(state.compacted),
            hub: WatchHub::new(state.current),
            put_bytes: AtomicU64::new(0),
            state: RwLock::new(state),
            compactions: Mutex::default(),
            hashes: Mutex::default(),
        });
        let mut mvcc_writer = MvccWriter::new(mvcc.clone());
        mvcc_writer.resume_compaction(writer, scheduled)?;
        Ok((mvcc, mvcc_writer, restored))
    }

    /// The revision of the last transaction.
    pub fn revision(&self) -> i64 {
        self.current.load(Ordering::Acquire)
    }

    /// The revision of the last compaction, begun or done; -1 if there was none. Reads
    /// below it fail, reads at it do not.
    pub fn compact_revision(&self) -> i64 {
        self.compacted.load(Ordering::Acquire)
    }

    /// Bytes of keys and values that were put since the start.
    pub fn put_bytes(&self) -> u64 {
        self.put_bytes.load(Ordering::Relaxed)
    }

    /// Keys that live now.
    pub fn keys(&self) -> usize {
        let state = self.state.read();
        state
            .index
            .count(
                crate::index::Keys {
                    from: &[],
                    end: None,
                },
                i64::MAX,
            )
            .unwrap_or_default()
    }

    /// The watchers.
    pub fn watch_hub(&self) -> &WatchHub {
        &self.hub
    }

    pub(crate) fn view(&self) -> View {
        self.state.read().backend.view()
    }

    /// Publishes the numbers of a state that the caller has locked.
    pub(crate) fn publish(&self, state: &State) {
        self.compacted.store(state.compacted, Ordering::Release);
        self.current.store(state.current, Ordering::Release);
    }

    /// Takes over another database, as a member does that received a snapshot. Watchers
    /// stay and go on where they were.
    pub(crate) fn replace(&self, backend: Backend) -> Result<(i64, Restored), Error> {
        let (restored_state, scheduled, restored) = State::restore(backend)?;
        self.compactions.lock().clear();
        self.hashes.lock().clear();
        let mut state = self.state.write();
        *state = restored_state;
        self.publish(&state);
        self.hub.rebase(state.current);
        Ok((scheduled, restored))
    }
}

impl State {
    /// Rebuilds the state from the records. Also answers the revision of a compaction that
    /// was begun and not done, or 0.
    fn restore(backend: Backend) -> Result<(Self, i64, Restored), Error> {
        let view = backend.view();
        let compacted = read_meta(&view, "finishedCompactRev", FINISHED_COMPACT)?;
        let scheduled = read_meta(&view, "scheduledCompactRev", SCHEDULED_COMPACT)?.unwrap_or(0);
        let mut rebuilt = Rebuilt::default();
        let mut failed = None;
        view.scan(
            Bucket::Key,
            &[],
            None,
            &mut |key, value| match rebuilt.take(key, value) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        if let Some(error) = failed {
            return Err(error);
        }
        // Compaction may have removed the last records there were; the revision must not
        // go back then, even if the crash came before the compaction was called done.
        let compacted = compacted.unwrap_or(-1);
        let current = rebuilt.current.max(1).max(compacted).max(scheduled);
        let scheduled = if scheduled > compacted { scheduled } else { 0 };
        let leases = rebuilt.leases.into_iter().collect();
        Ok((
            Self {
                backend,
                index: rebuilt.index,
                current,
                compacted,
            },
            scheduled,
            Restored { leases },
        ))
    }
}

/// The rule for the revision of a read: above the current one it is future, below the
/// compaction it is compacted, at the compaction it can be read.
pub(crate) fn check_revision(asked: i64, current: i64, compacted: i64) -> Result<i64, Error> {
    let revision = if asked <= 0 { current } else { asked };
    if revision > current {
        return Err(Error::Future);
    }
    if revision < compacted {
        return Err(Error::Compacted);
    }
    Ok(revision)
}

#[derive(Default)]
struct Rebuilt {
    index: Index,
    current: i64,
    leases: std::collections::BTreeMap<Bytes, i64>,
}

impl Rebuilt {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let RecordKey {
            revision,
            tombstone,
        } = RecordKey::from_bytes(key)?;
        let head = RecordHead::decode(revision, value)?;
        if u32::try_from(revision.sub).is_err() {
            return Err(Error::MalformedRecordKey { key: key.to_vec() });
        }
        if tombstone {
            self.index.restore_tombstone(head.key, revision);
        } else {
            let origin = Origin {
                created: head.created,
                version: head.version,
            };
            self.index
                .restore_put(head.key, revision, origin, head.lease != 0);
        }
        if !tombstone && head.lease != 0 {
            self.leases
                .insert(Bytes::copy_from_slice(head.key), head.lease);
        } else if !self.leases.is_empty() {
            self.leases.remove(head.key);
        }
        self.current = revision.main;
        Ok(())
    }
}

fn read_meta(view: &View, name: &'static str, key: &[u8]) -> Result<Option<i64>, Error> {
    let Some(value) = view.get(Bucket::Meta, key)? else {
        return Ok(None);
    };
    match RecordKey::from_bytes(&value) {
        Ok(RecordKey {
            revision: Revision { main, .. },
            ..
        }) => Ok(Some(main)),
        Err(_) => Err(Error::MalformedMeta {
            name,
            value: value.to_vec(),
        }),
    }
}
