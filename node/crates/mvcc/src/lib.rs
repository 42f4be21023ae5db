//! The room `mvcc`.
#![forbid(unsafe_code)]

mod compaction;
mod cursor;
mod error;
mod hash;
pub mod index;
mod read;
mod record;
mod request;
mod revision;
mod store;
pub mod watch;
mod write;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use compaction::{COMPACT_STEP_RECORDS, CompactStep, HASH_STEP_RECORDS};
pub use cursor::RangeCursor;
pub use error::Error;
pub use hash::KeyValueHash;
pub use read::{PinnedView, RangeOptions, RangeResult, ReadView};
pub use request::{has_revision_filters, is_default_order, range_request};
pub use revision::{RECORD_KEY_LEN, RecordKey, RecordKeyBytes, Revision, TOMBSTONE_KEY_LEN};
pub use store::{Mvcc, Restored};
pub use write::{Changes, Deleted, MvccWriter, Put, WriteTxn};
