//! Reading records, one after another, over a row of segments.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use seams::{Disk, DiskFile, OpenMode};

use crate::error::Error;
use crate::names::SegmentName;
use crate::record::{FRAME_HEADER_BYTES, Record, declared_size, frame_size, kind};

/// What a disk writes whole or not at all, as etcd assumes it.
const SECTOR_BYTES: u64 = 512;

/// Bytes asked of the disk at once: large enough that the call does not count, small enough that a
/// short log costs nothing.
const READ_BYTES: usize = 256 * 1024;

/// A segment to read.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) name: SegmentName,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Bytes to read; the file's length, or less where a writer is still behind it.
    pub(crate) len: u64,
}

impl Segment {
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        name: SegmentName,
        mode: OpenMode,
    ) -> Result<Segment, Error> {
        let path = dir.join(name.to_string());
        let file = disk
            .open(&path, mode)
            .map_err(|source| Error::io("open", &path, source))?;
        let len = file
            .len()
            .map_err(|source| Error::io("measure", &path, source))?;
        Ok(Segment {
            name,
            path,
            file,
            len,
        })
    }
}

/// A record and where it stands.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) kind: i64,
    pub(crate) data: Bytes,
    pub(crate) place: Place,
}

/// Where a frame begins, and the running checksum before it: enough to go on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    pub(crate) offset: u64,
    pub(crate) crc: u32,
}

/// The answer of [`Decoder::next`].
#[derive(Debug)]
pub(crate) enum Step {
    Record(Located),
    /// The end of the last segment's records.
    End,
    /// The last segment ends in a record that was not written whole.
    Torn,
}

/// Reads a row of consecutive segments.
#[derive(Debug)]
pub(crate) struct Decoder {
    segments: Vec<Segment>,
    current: usize,
    offset: u64,
    crc: u32,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    buffer_offset: u64,
}

impl Decoder {
    pub(crate) fn new(segments: Vec<Segment>) -> Decoder {
        Decoder {
            segments,
            current: 0,
            offset: 0,
            crc: 0,
            buffer: Vec::new(),
            buffer_offset: 0,
        }
    }

    /// Begins in the middle of the first segment.
    pub(crate) fn at(segments: Vec<Segment>, place: Place) -> Decoder {
        Decoder {
            offset: place.offset,
            crc: place.crc,
            ..Decoder::new(segments)
        }
    }

    /// The running checksum after the last record.
    pub(crate) fn crc(&self) -> u32 {
        self.crc
    }

    /// Where the last record ended, in the segment that is being read.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The segment that is being read; at the end, the last.
    pub(crate) fn segment(&self) -> &Segment {
        &self.segments[self.current]
    }

    pub(crate) fn into_segments(self) -> Vec<Segment> {
        self.segments
    }

    pub(crate) fn next(&mut self) -> Result<Step, Error> {
        loop {
            if let Some(step) = self.next_here()? {
                return Ok(step);
            }
            if self.is_last() {
                return Ok(Step::End);
            }
            self.current += 1;
            self.offset = 0;
            self.buffer.clear();
            self.buffer_offset = 0;
        }
    }

    /// The next record of this segment; None at its end.
    fn next_here(&mut self) -> Result<Option<Step>, Error> {
        let rest = self.segment().len.saturating_sub(self.offset);
        if rest == 0 {
            return Ok(None);
        }
        if rest < FRAME_HEADER_BYTES {
            return self.cut_short(format!("a frame's length of 8 bytes, only {rest} are left"));
        }
        let header = self.read(self.offset, FRAME_HEADER_BYTES as usize)?;
        let length = u64::from_le_bytes(header.try_into().expect("eight bytes were read"));
        if length == 0 {
            return Ok(None);
        }
        let (record_bytes, pad) = frame_size(length);
        if record_bytes > rest - FRAME_HEADER_BYTES
            || pad > rest - FRAME_HEADER_BYTES - record_bytes
        {
            return self.too_long(record_bytes, rest - FRAME_HEADER_BYTES);
        }
        let offset = self.offset + FRAME_HEADER_BYTES;
        let bytes = Bytes::copy_from_slice(self.read(offset, record_bytes as usize)?);
        let record = match Record::decode(bytes.clone()) {
            Ok(record) => record,
            Err(error) => return self.broken(&bytes, "a record".into(), error.to_string()),
        };
        let place = Place {
            sequence: self.segment().name.sequence,
            offset: self.offset,
            crc: self.crc,
        };
        let kind = record.kind.unwrap_or_default();
        let data = record.data.unwrap_or_default();
        let stored = record.crc.unwrap_or_default();
        if kind == kind::CRC {
            // At the head of a segment. Zero is where reading began, or the first segment.
            if self.crc != 0 && stored != self.crc {
                return Err(self.corrupt(
                    format!("checksum {:08x} of the segment before", self.crc),
                    format!("{stored:08x}"),
                ));
            }
            self.crc = stored;
        } else {
            let crc = crc32c::crc32c_append(self.crc, &data);
            if crc != stored {
                return self.broken(
                    &bytes,
                    format!("data with checksum {stored:08x}"),
                    format!("{crc:08x}"),
                );
            }
            self.crc = crc;
        }
        self.offset = offset + record_bytes + pad;
        Ok(Some(Step::Record(Located { kind, data, place })))
    }

    /// A record longer than what is left. In the last segment its end may not have been written;
    /// but then its own fields agree with the frame. Where they do not, the length is damaged, and
    /// cutting here would drop records that were synced.
    fn too_long(&mut self, record_bytes: u64, rest: u64) -> Result<Option<Step>, Error> {
        let in_sector = SECTOR_BYTES - (self.offset + FRAME_HEADER_BYTES) % SECTOR_BYTES;
        let prefix = self.read(
            self.offset + FRAME_HEADER_BYTES,
            rest.min(in_sector) as usize,
        )?;
        if let Some(declared) = declared_size(prefix)
            && declared != record_bytes
        {
            return Err(self.corrupt(
                format!("a frame for a record of {declared} bytes"),
                format!("one for {record_bytes}"),
            ));
        }
        self.cut_short(format!(
            "a record of {record_bytes} bytes, only {rest} are left"
        ))
    }

    fn cut_short(&self, found: String) -> Result<Option<Step>, Error> {
        if self.is_last() {
            return Ok(Some(Step::Torn));
        }
        Err(self.corrupt("whole records, since another segment follows".into(), found))
    }

    /// A record that does not fit its checksum: torn, if a whole sector of it was never written.
    fn broken(
        &self,
        record: &[u8],
        expected: String,
        found: String,
    ) -> Result<Option<Step>, Error> {
        if self.is_last() && has_zero_sector(record, self.offset + FRAME_HEADER_BYTES) {
            return Ok(Some(Step::Torn));
        }
        Err(self.corrupt(expected, found))
    }

    pub(crate) fn corrupt(&self, expected: String, found: String) -> Error {
        Error::Corrupt {
            file: self.segment().path.clone(),
            offset: self.offset,
            expected,
            found,
        }
    }

    fn is_last(&self) -> bool {
        self.current + 1 == self.segments.len()
    }

    /// Bytes of the current segment; they lie inside its length.
    fn read(&mut self, offset: u64, len: usize) -> Result<&[u8], Error> {
        let end = offset + len as u64;
        if offset < self.buffer_offset || end > self.buffer_offset + self.buffer.len() as u64 {
            let segment = &self.segments[self.current];
            let rest = usize::try_from(segment.len - offset).unwrap_or(usize::MAX);
            self.buffer.clear();
            self.buffer.resize(len.max(READ_BYTES).min(rest), 0);
            self.buffer_offset = offset;
            segment
                .file
                .read_exact_at(&mut self.buffer, offset)
                .map_err(|source| Error::io("read", &segment.path, source))?;
        }
        let start = (offset - self.buffer_offset) as usize;
        Ok(&self.buffer[start..start + len])
    }
}

/// Whether the part of any sector that `record`, which begins at `offset`, covers is all zero.
fn has_zero_sector(mut record: &[u8], mut offset: u64) -> bool {
    while !record.is_empty() {
        let len = record
            .len()
            .min((SECTOR_BYTES - offset % SECTOR_BYTES) as usize);
        let (sector, rest) = record.split_at(len);
        if sector.iter().all(|&byte| byte == 0) {
            return true;
        }
        record = rest;
        offset += len as u64;
    }
    false
}
