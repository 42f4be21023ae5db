//! Records and their frames.
//!
//! ```text
//!  8 bytes, little-endian                          record                  0 to 7 zeros
//! ┌──────────────────────────────────────┬───────────────────────────────┬─────┐
//! │ bits 0-55: bytes of the record       │ type=1 varint, crc=2 varint,  │ pad │
//! │ bits 56-63: 0x80 | pad, 0 if no pad  │ data=3 bytes                  │     │
//! └──────────────────────────────────────┴───────────────────────────────┴─────┘
//! ```

use bytes::Bytes;
use prost::Message;
use raftpb::ConfState;

/// Kinds of records, etcd's numbers.
pub(crate) mod kind {
    pub(crate) const METADATA: i64 = 1;
    pub(crate) const ENTRY: i64 = 2;
    pub(crate) const STATE: i64 = 3;
    pub(crate) const CRC: i64 = 4;
    pub(crate) const SNAPSHOT: i64 = 5;
}

/// Bytes of a frame before its record.
pub(crate) const FRAME_HEADER_BYTES: u64 = 8;

/// Whose log it is; at the head of every segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The member.
    pub node_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
}

/// A snapshot that exists: the log before `index` is not needed any more.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SnapshotRecord {
    /// The last entry in the snapshot.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The voters and learners at that index; absent in the first record {0, 0} and in logs of
    /// etcd before 3.5.
    pub conf_state: Option<ConfState>,
}

/// etcdserverpb.Metadata. proto2: zeros are written.
#[derive(Clone, PartialEq, Message)]
struct MetadataMessage {
    #[prost(uint64, optional, tag = "1")]
    node_id: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    cluster_id: Option<u64>,
}

/// walpb.Snapshot. proto2: zeros are written.
#[derive(Clone, PartialEq, Message)]
struct SnapshotMessage {
    #[prost(uint64, optional, tag = "1")]
    index: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    term: Option<u64>,
    #[prost(message, optional, tag = "3")]
    conf_state: Option<ConfState>,
}

/// walpb.Record, for reading; writing goes through [`encode`].
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    #[prost(int64, optional, tag = "1")]
    pub(crate) kind: Option<i64>,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) crc: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) data: Option<Bytes>,
}

impl Metadata {
    pub(crate) fn decode(data: Bytes) -> Result<Metadata, prost::DecodeError> {
        let message = MetadataMessage::decode(data)?;
        Ok(Metadata {
            node_id: message.node_id.unwrap_or_default(),
            cluster_id: message.cluster_id.unwrap_or_default(),
        })
    }

    pub(crate) fn encode(self, buffer: &mut Vec<u8>, crc: &mut u32) {
        let message = MetadataMessage {
            node_id: Some(self.node_id),
            cluster_id: Some(self.cluster_id),
        };
        encode(buffer, crc, kind::METADATA, &message);
    }
}

impl SnapshotRecord {
    pub(crate) fn decode(data: Bytes) -> Result<SnapshotRecord, prost::DecodeError> {
        let message = SnapshotMessage::decode(data)?;
        Ok(SnapshotRecord {
            index: message.index.unwrap_or_default(),
            term: message.term.unwrap_or_default(),
            conf_state: message.conf_state,
        })
    }

    pub(crate) fn encode(&self, buffer: &mut Vec<u8>, crc: &mut u32) {
        let message = SnapshotMessage {
            index: Some(self.index),
            term: Some(self.term),
            conf_state: self.conf_state.clone(),
        };
        encode(buffer, crc, kind::SNAPSHOT, &message);
    }
}

/// Appends the record that begins a segment: the checksum so far, so that the segment can be
/// checked without those before it.
pub(crate) fn encode_crc(buffer: &mut Vec<u8>, crc: u32) {
    let mut unchanged = crc;
    encode_data(
        buffer,
        &mut unchanged,
        kind::CRC,
        None::<(usize, fn(&mut Vec<u8>))>,
    );
}

/// Appends a frame with `message` as its data, and moves the running checksum over that data.
pub(crate) fn encode<M: Message>(buffer: &mut Vec<u8>, crc: &mut u32, kind: i64, message: &M) {
    let write = |buffer: &mut Vec<u8>| {
        message
            .encode(buffer)
            .expect("a Vec has room for every message");
    };
    encode_data(buffer, crc, kind, Some((message.encoded_len(), write)));
}

/// The data goes straight to its place behind the longest possible header, since its checksum
/// stands before it. One checksum in sixteen takes fewer than five bytes; then the data moves.
fn encode_data(
    buffer: &mut Vec<u8>,
    crc: &mut u32,
    kind: i64,
    data: Option<(usize, impl FnOnce(&mut Vec<u8>))>,
) {
    const CRC_BYTES_MAX: usize = 5;
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_HEADER_BYTES as usize]);
    let kind = u8::try_from(kind).expect("kinds of records are small numbers");
    buffer.extend_from_slice(&[0x08, kind, 0x10]);
    let crc_start = buffer.len();
    buffer.extend_from_slice(&[0; CRC_BYTES_MAX]);
    if let Some((len, write)) = data {
        buffer.reserve(len + 20);
        buffer.push(0x1a);
        put_varint(buffer, len as u64);
        let data_start = buffer.len();
        write(buffer);
        debug_assert_eq!(
            buffer.len() - data_start,
            len,
            "a message as long as it says"
        );
        *crc = crc32c::crc32c_append(*crc, &buffer[data_start..]);
    }
    let mut digits = Vec::with_capacity(CRC_BYTES_MAX);
    put_varint(&mut digits, u64::from(*crc));
    buffer[crc_start..crc_start + digits.len()].copy_from_slice(&digits);
    let spare = CRC_BYTES_MAX - digits.len();
    if spare > 0 {
        buffer.copy_within(crc_start + CRC_BYTES_MAX.., crc_start + digits.len());
        buffer.truncate(buffer.len() - spare);
    }
    let record_bytes = buffer.len() - start - FRAME_HEADER_BYTES as usize;
    let pad = record_bytes.wrapping_neg() % 8;
    let mut length = record_bytes as u64;
    if pad != 0 {
        length |= (0x80 | pad as u64) << 56;
        buffer.resize(buffer.len() + pad, 0);
    }
    buffer[start..start + FRAME_HEADER_BYTES as usize].copy_from_slice(&length.to_le_bytes());
}

/// Takes a frame's first eight bytes apart: bytes of the record, bytes of padding.
pub(crate) fn frame_size(length: u64) -> (u64, u64) {
    let pad = if length >> 63 == 1 {
        (length >> 56) & 0x7
    } else {
        0
    };
    (length & ((1 << 56) - 1), pad)
}

/// The size that a record says it has, by the fields before its data: their bytes and the data's.
/// None if the first bytes are not those of a record with data.
pub(crate) fn declared_size(mut prefix: &[u8]) -> Option<u64> {
    let whole = prefix.len();
    for tag in [0x08, 0x10] {
        if *prefix.first()? != tag {
            return None;
        }
        prefix = &prefix[1..];
        take_varint(&mut prefix)?;
    }
    if *prefix.first()? != 0x1a {
        return None;
    }
    prefix = &prefix[1..];
    let data = take_varint(&mut prefix)?;
    data.checked_add((whole - prefix.len()) as u64)
}

fn put_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_aligned_and_says_what_it_holds() {
        let mut crc = 0;
        for len in 0..2000usize {
            let mut buffer = vec![0xaa; 16];
            let data = Bytes::from(vec![len as u8; len]);
            let before = crc;
            let entry = raftpb::Entry {
                index: len as u64,
                term: 1,
                data,
                ..Default::default()
            };
            encode(&mut buffer, &mut crc, kind::ENTRY, &entry);
            let frame = &buffer[16..];
            assert_eq!(frame.len() % 8, 0);
            let (record_bytes, pad) =
                frame_size(u64::from_le_bytes(frame[..8].try_into().unwrap()));
            assert_eq!(frame.len() as u64, 8 + record_bytes + pad);
            let record = &frame[8..8 + record_bytes as usize];
            assert_eq!(declared_size(record), Some(record_bytes));
            let record = Record::decode(record).unwrap();
            assert_eq!((record.kind, record.crc), (Some(kind::ENTRY), Some(crc)));
            let data = record.data.unwrap();
            assert_eq!(crc32c::crc32c_append(before, &data), crc);
            assert_eq!(raftpb::Entry::decode(data).unwrap(), entry);
        }
    }

    #[test]
    fn the_head_of_a_log_is_etcds_to_the_byte() {
        let mut buffer = Vec::new();
        let mut crc = 0;
        encode_crc(&mut buffer, crc);
        Metadata {
            node_id: 1,
            cluster_id: 2,
        }
        .encode(&mut buffer, &mut crc);
        SnapshotRecord::default().encode(&mut buffer, &mut crc);
        assert_eq!(
            buffer[..16],
            [4, 0, 0, 0, 0, 0, 0, 0x84, 0x08, 4, 0x10, 0, 0, 0, 0, 0]
        );
        let data = [0x08, 1, 0x10, 2];
        assert_eq!(buffer[16 + 8 + 2 + 1 + 5 + 2..][..4], data);
        assert_eq!(
            crc,
            crc32c::crc32c_append(crc32c::crc32c(&data), &[0x08, 0, 0x10, 0])
        );
    }
}
