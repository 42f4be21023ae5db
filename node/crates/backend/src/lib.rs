//! The database: etcd's buckets in bbolt's file format.
//!
//! One file, read and written as etcd does, live: `etcdutl` and `bbolt` work on it, etcd opens it, a
//! snapshot is its bytes. It holds a copy-on-write B+tree (a tree of trees: the root bucket's values
//! are the roots of the others). A commit never touches a page that the tree before it reaches: it
//! writes the changed paths to free pages, syncs, then writes the other one of two meta pages, which
//! names the new root, and syncs again. Whatever is cut off, one of the two meta pages is whole and
//! leads to a whole tree.
//!
//! ```text
//!   applier thread                              serving threads
//!   Writer ── put, delete ──► pending batch ◄──┐
//!     │ end_entry                  │           │
//!     │ (when it is due)           ▼           ├── View: a key is looked for in the
//!     └────────────────────► frozen batch ◄────┤   pending batch, the frozen one, the tree
//!   committer thread               │ commit    │
//!   Committer ─────────────────────┴► tree  ◄──┘
//! ```
//!
//! - Readers see every change at once, committed or not. While one batch is written, the next fills.
//! - A [`View`] or [`Snapshot`] keeps the pages of its tree from being reused, and nothing else: a
//!   page that was freed is taken again as soon as no living tree reaches it.
//! - A batch ends only where an entry of the log ends ([`Writer::end_entry`]); the entry's index and
//!   term are committed in the same transaction as its changes.
//! - bbolt's pages have no checksum. Every page is checked when it is read (its number, kind, counts,
//!   offsets, the order of keys), and all of them once at open; a flipped bit inside a value is found
//!   by the corruption checks, not here.
//! - Like etcd we keep no list of free pages in the file (`NoFreelistSync`): open walks the trees.
//!
//! What this room does not know: what keys and values mean (but for consistent index and term),
//! revisions, the log, time, threads. It has no unsafe code: mapping is a matter of `seams`.
//! The format to the byte is in `docs/formats.md`.
#![forbid(unsafe_code)]

mod bucket;
mod committer;
mod cow;
mod cursor;
mod defragment;
mod error;
mod key;
mod layer;
mod meta;
mod node;
mod open;
mod page;
mod pages;
mod runs;
mod shared;
mod snapshot;
mod store;
mod tree;
mod view;
mod walk;
mod writer;

use std::path::Path;
use std::sync::Arc;

use seams::Disk;

pub use bucket::Bucket;
pub use committer::Committer;
pub use defragment::Defragmented;
pub use error::Error;
pub use shared::Backend;
pub use snapshot::Snapshot;
pub use view::{View, Visit};
pub use writer::Writer;

/// Key of the consistent index in bucket `meta`: 8 bytes, big-endian.
pub const CONSISTENT_INDEX_KEY: &[u8] = b"consistent_index";
/// Key of the term of the consistent index in bucket `meta`: 8 bytes, big-endian.
pub const TERM_KEY: &[u8] = b"term";

/// The last entry of the log whose changes are in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Applied {
    /// Its index; 0 when nothing was applied yet.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// How to keep the database.
#[derive(Debug, Clone)]
pub struct Options {
    /// Changes after which a batch is due (etcd's `--backend-batch-limit`).
    pub batch_changes: usize,
    /// Bytes after which a batch is due: values may be large, and a batch is in memory.
    pub batch_bytes: usize,
    /// Bytes in the pending batch at which [`Writer::end_entry`] waits for the committer. A disk
    /// that is slower than the log must not fill the memory.
    pub pending_bytes_max: usize,
    /// Bytes of a page, for a new file; an existing file keeps its own. A power of two from 4 to 64 KiB.
    pub page_bytes: usize,
    /// By how much the file grows at once (bbolt's `AllocSize`).
    pub growth_bytes: u64,
    /// Bytes of address space to map at first. More is mapped when the file outgrows it.
    pub map_bytes: u64,
    /// Whether commits are made durable. False is etcd's `--unsafe-no-fsync`.
    pub sync: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            batch_changes: 10_000,
            batch_bytes: 16 << 20,
            pending_bytes_max: 64 << 20,
            page_bytes: 4096,
            growth_bytes: 16 << 20,
            map_bytes: 256 << 20,
            sync: true,
        }
    }
}

impl Backend {
    /// Opens the database at `path`, or makes it.
    ///
    /// Takes the lock of the file until the last of [`Backend`], [`Committer`], [`View`] and
    /// [`Snapshot`] is dropped. Walks all pages. A refused open leaves the file as it was.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        options: Options,
    ) -> Result<(Backend, Writer, Committer), Error> {
        let (store, tree) = store::Store::open(disk, path, &options)?;
        let shared = shared::Shared::new(options, tree, &store);
        Ok((
            Backend::new(Arc::clone(&shared)),
            Writer::new(Arc::clone(&shared)),
            Committer::new(shared, store),
        ))
    }
}
