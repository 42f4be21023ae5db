//! The write-ahead log, in etcd's format.
//!
//! Raft promises nothing that is not in here and synced. The log is a row of files, *segments*,
//! each a row of *frames*, each frame one record under a checksum that runs through all of them:
//!
//! ```text
//!  0000000000000000-0000000000000000.wal   0000000000000001-000000000000a3f1.wal   0.tmp
//!  ┌─────┬──────┬───────┬──────┬───────┐   ┌─────┬──────┬──────┬──────┬───┬─ ─ ┐   ┌─ ─ ─ ─ ┐
//!  │ crc │ meta │ snap  │entry │ state…│   │ crc │ meta │state │entry │ … │ 0      │ 0       
//!  │  0  │      │ {0,0} │      │       │   │ run │      │      │      │   │    │   │        │
//!  └─────┴──────┴───────┴──────┴───────┘   └─────┴──────┴──────┴──────┴───┴─ ─ ┘   └─ ─ ─ ─ ┘
//!   full: cut at its last byte              the tail: preallocated zeros after      the next one,
//!                                           the last record                         made ahead
//! ```
//!
//! **Writing.** [`Wal::save`] encodes into one buffer; [`Wal::sync`] writes that buffer with one
//! pwrite and makes it durable with one fdatasync, however many saves went before. Whoever needs
//! durability calls sync; `save` says whether raft needs it.
//!
//! **Torn writes.** Frames begin at multiples of eight bytes, so a length never lies across two
//! sectors: it is there or it is zero, and zero means the end. A record whose checksum fails and
//! of which a whole 512-byte sector is zero was being written when the power went: it and what
//! follows is cut off (and kept in a `.broken` copy). Only in the last segment; anywhere else, and
//! for any other wrong checksum, the disk is damaged and [`Wal::open`] says where.
//!
//! **Overwriting.** The log only grows. An entry with an index that was there before replaces it
//! and everything after it; readers follow the row and keep the last word.
//!
//! **After an error** of the disk the log refuses all further work ([`Error::Stopped`]): after a
//! failed fdatasync nobody knows what is on the disk, and after a failed write the tail is torn.
//! What was synced before stays readable.
//!
//! What this room does not know: raft's rules, when to snapshot, threads, time, logging. The
//! format to the byte, and what is assumed of the disk, is in `docs/formats.md`.
#![forbid(unsafe_code)]

mod decode;
mod error;
mod index;
mod names;
mod open;
mod record;
#[cfg(test)]
mod tests;
mod write;

pub use error::Error;
pub use index::Reader;
pub use open::{Recovered, Repair, read, read_entries, valid_snapshots};
pub use record::{Metadata, SnapshotRecord};
pub use write::Wal;

use std::path::Path;

use seams::Disk;

/// Size at which a segment is full: the first save that begins beyond it is its last. etcd's number
/// (`SegmentSizeBytes`), also the space that is reserved ahead.
pub const SEGMENT_BYTES: u64 = 64 * 1000 * 1000;

/// Whether `dir` holds a log: any file that ends in `.wal` (etcd's test).
pub fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, Error> {
    if !disk
        .exists(dir)
        .map_err(|source| Error::io("look for", dir, source))?
    {
        return Ok(false);
    }
    let names = disk
        .read_dir(dir)
        .map_err(|source| Error::io("list", dir, source))?;
    Ok(names.iter().any(|name| name.ends_with(".wal")))
}
