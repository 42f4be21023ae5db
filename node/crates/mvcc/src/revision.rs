//! Revisions and their bytes in the bucket `key`.
//!
//! ```text
//! put        main: 8 bytes big endian | '_' | sub: 8 bytes big endian
//! tombstone  main: 8 bytes big endian | '_' | sub: 8 bytes big endian | 't'
//! ```

use crate::Error;

/// Bytes of the record key of a put.
pub const RECORD_KEY_LEN: usize = 17;
/// Bytes of the record key of a tombstone.
pub const TOMBSTONE_KEY_LEN: usize = 18;

const SEPARATOR: u8 = b'_';
const TOMBSTONE_MARK: u8 = b't';

/// One change: the transaction's revision, and the change's number within it from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The store's revision after the transaction.
    pub main: i64,
    /// The change's number within the transaction.
    pub sub: i64,
}

impl Revision {
    /// A revision of its two numbers.
    pub fn new(main: i64, sub: i64) -> Self {
        Self { main, sub }
    }

    /// The 17 bytes of this revision: the key of a put record, and the form in which
    /// `meta` keeps the compaction revisions.
    pub fn to_bytes(self) -> [u8; RECORD_KEY_LEN] {
        let mut bytes = [SEPARATOR; RECORD_KEY_LEN];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[9..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }
}

/// A record's key in the bucket `key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey {
    /// The change.
    pub revision: Revision,
    /// Whether the change deleted the key.
    pub tombstone: bool,
}

impl RecordKey {
    /// The record's key bytes: 17, or 18 for a tombstone.
    pub fn to_bytes(self) -> RecordKeyBytes {
        let mut bytes = [TOMBSTONE_MARK; TOMBSTONE_KEY_LEN];
        bytes[..RECORD_KEY_LEN].copy_from_slice(&self.revision.to_bytes());
        let len = if self.tombstone {
            TOMBSTONE_KEY_LEN
        } else {
            RECORD_KEY_LEN
        };
        RecordKeyBytes { bytes, len }
    }

    /// Reads a record's key bytes.
    ///
    /// As in etcd, 18 bytes that do not end in the mark are a put.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let malformed = || Error::MalformedRecordKey {
            key: bytes.to_vec(),
        };
        if bytes.len() != RECORD_KEY_LEN && bytes.len() != TOMBSTONE_KEY_LEN {
            return Err(malformed());
        }
        let number = |at: usize| {
            bytes[at..at + 8]
                .iter()
                .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)) as i64
        };
        let (main, sub) = (number(0), number(9));
        if bytes[8] != SEPARATOR || main < 0 || sub < 0 {
            return Err(malformed());
        }
        let tombstone = bytes.get(RECORD_KEY_LEN) == Some(&TOMBSTONE_MARK);
        Ok(Self {
            revision: Revision { main, sub },
            tombstone,
        })
    }
}

/// A record's key bytes without an allocation.
#[derive(Clone, Copy, Debug)]
pub struct RecordKeyBytes {
    bytes: [u8; TOMBSTONE_KEY_LEN],
    len: usize,
}

impl std::ops::Deref for RecordKeyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_and_a_tombstone_read_back() {
        for tombstone in [false, true] {
            let key = RecordKey {
                revision: Revision::new(0x0102_0304, 7),
                tombstone,
            };
            let bytes = key.to_bytes();
            assert_eq!(bytes.len(), if tombstone { 18 } else { 17 });
            assert_eq!(&bytes[..9], b"\0\0\0\0\x01\x02\x03\x04_");
            assert_eq!(RecordKey::from_bytes(&bytes).unwrap(), key);
        }
    }

    #[test]
    fn malformed_keys_are_refused() {
        assert!(RecordKey::from_bytes(b"").is_err());
        assert!(RecordKey::from_bytes(&[b'_'; 16]).is_err());
        assert!(RecordKey::from_bytes(&[0; 17]).is_err());
        let mut negative = Revision::new(1, 1).to_bytes();
        negative[0] = 0x80;
        assert!(RecordKey::from_bytes(&negative).is_err());
    }
}
