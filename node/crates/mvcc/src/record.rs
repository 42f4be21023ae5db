//! The values in the bucket `key`: `mvccpb.KeyValue`, byte for byte as etcd writes it.
//!
//! Members compare hashes of these bytes, so they are part of the protocol: fields in
//! ascending order, zero fields left out, a tombstone holds the key alone.

use api::mvccpb::KeyValue;
use bytes::Bytes;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::{Error, Revision};

/// What the index needs of a record; the value is passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordHead<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) created: i64,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

const KEY: u32 = 1;
const CREATE_REVISION: u32 = 2;
const VERSION: u32 = 4;
const LEASE: u32 = 6;

impl<'a> RecordHead<'a> {
    /// Reads the head of the record at a revision.
    pub(crate) fn decode(at: Revision, record: &'a [u8]) -> Result<Self, Error> {
        Self::try_decode(record).map_err(|what| Error::MalformedRecord {
            at,
            what: what.to_string(),
        })
    }

    fn try_decode(record: &'a [u8]) -> Result<Self, prost::DecodeError> {
        let mut head = Self::default();
        let mut rest = record;
        while !rest.is_empty() {
            let (field, wire_type) = decode_key(&mut rest)?;
            match (field, wire_type) {
                (KEY, WireType::LengthDelimited) => {
                    let len = decode_varint(&mut rest)?;
                    let len = usize::try_from(len).ok().filter(|len| *len <= rest.len());
                    let Some(len) = len else {
                        // Let prost word the error of a field that is cut short.
                        KeyValue::decode(record)?;
                        return Ok(head);
                    };
                    (head.key, rest) = rest.split_at(len);
                }
                (CREATE_REVISION, WireType::Varint) => {
                    head.created = decode_varint(&mut rest)? as i64
                }
                (VERSION, WireType::Varint) => head.version = decode_varint(&mut rest)? as i64,
                (LEASE, WireType::Varint) => head.lease = decode_varint(&mut rest)? as i64,
                _ => skip_field(wire_type, field, &mut rest, DecodeContext::default())?,
            }
        }
        Ok(head)
    }
}

/// The whole record; key and value are slices of it.
pub(crate) fn decode(at: Revision, record: Bytes) -> Result<KeyValue, Error> {
    KeyValue::decode(record).map_err(|what| Error::MalformedRecord {
        at,
        what: what.to_string(),
    })
}

/// The record's bytes.
pub(crate) fn encode(kv: &KeyValue) -> Bytes {
    kv.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv() -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"foo"),
            create_revision: 300,
            mod_revision: 301,
            version: 2,
            value: Bytes::from_static(b"bar"),
            lease: i64::MIN,
        }
    }

    #[test]
    fn a_head_reads_what_the_record_says() {
        let record = encode(&kv());
        let head = RecordHead::decode(Revision::new(301, 0), &record).unwrap();
        assert_eq!(
            head,
            RecordHead {
                key: b"foo",
                created: 300,
                version: 2,
                lease: i64::MIN
            }
        );
        assert_eq!(decode(Revision::new(301, 0), record).unwrap(), kv());
    }

    #[test]
    fn a_tombstone_is_its_key() {
        assert_eq!(
            &encode(&KeyValue {
                key: Bytes::from_static(b"foo"),
                ..KeyValue::default()
            })[..],
            b"\x0a\x03foo"
        );
    }

    #[test]
    fn a_record_cut_short_is_refused() {
        let record = encode(&kv());
        for len in 1..record.len() {
            let (head, whole) = (
                RecordHead::try_decode(&record[..len]),
                KeyValue::decode(&record[..len]),
            );
            assert_eq!(head.is_ok(), whole.is_ok(), "{len} bytes");
        }
    }
}
