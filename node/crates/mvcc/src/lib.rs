//! The room `mvcc`.
#![forbid(unsafe_code)]

mod error;
pub mod index;
mod revision;
#[cfg(test)]
mod testing;

pub use error::Error;
pub use revision::{RECORD_KEY_LEN, RecordKey, RecordKeyBytes, Revision, TOMBSTONE_KEY_LEN};
