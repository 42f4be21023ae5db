//! Old entries, read from the files while the log is being written.
//!
//! A follower that was away for long asks for entries that the leader's memory has let go. The
//! writer leaves a *mark* every 64 KiB: the index of an entry and the place of its frame. A reader
//! begins at the last mark before what it wants, so a page of entries costs a page of reading,
//! wherever it lies.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message;
use raftpb::Entry;
use seams::{Disk, OpenMode};

use crate::decode::{Decoder, Place, Segment, Step};
use crate::error::Error;
use crate::names::SegmentName;
use crate::record::kind;

/// Bytes between marks. A read costs at most this much beside what it returns; a full segment has a
/// thousand marks, 32 KB of memory.
const MARK_BYTES: u64 = 64 * 1024;

/// Where entries lie.
///
/// Marks are in the order of both their indexes and their places: whatever an overwriting entry
/// makes untrue is dropped when it is written. So from a mark on, no entry below its index follows.
#[derive(Debug, Default)]
pub(crate) struct Index {
    segments: VecDeque<(SegmentName, u64)>,
    marks: VecDeque<Mark>,
    last: u64,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    index: u64,
    place: Place,
}

impl Index {
    /// A segment, and how much of it can be read.
    pub(crate) fn add_segment(&mut self, name: SegmentName, len: u64) {
        self.segments.push_back((name, len));
    }

    /// The tail has been written up to here.
    pub(crate) fn set_tail_len(&mut self, len: u64) {
        if let Some((_, tail)) = self.segments.back_mut() {
            *tail = len;
        }
    }

    pub(crate) fn add_entry(&mut self, index: u64, place: Place) {
        let mut due = true;
        if index <= self.last {
            while self.marks.back().is_some_and(|mark| mark.index >= index) {
                self.marks.pop_back();
            }
        } else if index > self.last + 1 {
            // A snapshot jumped ahead: what lies before the hole is of no use to a follower.
            self.marks.clear();
        } else if let Some(mark) = self.marks.back() {
            due = mark.place.sequence != place.sequence
                || place.offset - mark.place.offset >= MARK_BYTES;
        }
        if due {
            self.marks.push_back(Mark { index, place });
        }
        self.last = index;
    }

    /// Segments before this one are gone.
    pub(crate) fn forget_before(&mut self, sequence: u64) {
        while self
            .segments
            .front()
            .is_some_and(|(name, _)| name.sequence < sequence)
        {
            self.segments.pop_front();
        }
        while self
            .marks
            .front()
            .is_some_and(|mark| mark.place.sequence < sequence)
        {
            self.marks.pop_front();
        }
    }

    /// What to read for `from..to`: no further than the mark that `bytes_max` cannot reach over.
    fn find(&self, from: u64, to: u64, bytes_max: u64) -> Option<Span> {
        let after = self.marks.partition_point(|mark| mark.index <= from);
        let start = self.marks.get(after.checked_sub(1)?)?.place;
        let enough =
            after.saturating_add(usize::try_from(bytes_max / MARK_BYTES + 1).unwrap_or(usize::MAX));
        let end = self
            .marks
            .get(enough.min(self.marks.partition_point(|mark| mark.index < to)));
        let last = end.map_or(u64::MAX, |mark| mark.place.sequence);
        let segments = self
            .segments
            .iter()
            .filter(|(name, _)| (start.sequence..=last).contains(&name.sequence))
            .copied();
        Some(Span {
            start,
            end: end.map(|mark| mark.place),
            to: end.map_or(to, |mark| mark.index.min(to)),
            segments: segments.collect(),
        })
    }
}

/// A stretch of the log: all entries below `to` lie before `end`.
struct Span {
    start: Place,
    end: Option<Place>,
    to: u64,
    segments: Vec<(SegmentName, u64)>,
}

/// Reads entries beside the writer; cheap to clone, for any thread.
#[derive(Debug, Clone)]
pub struct Reader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    index: Arc<Mutex<Index>>,
}

impl Reader {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path, index: Arc<Mutex<Index>>) -> Reader {
        Reader {
            disk,
            dir: dir.to_owned(),
            index,
        }
    }

    /// Entries `from..to`, in order and without a hole, beginning with `from`: at least one, and no
    /// more than fit into `bytes_max` encoded. Fewer than asked for where the writer has not written
    /// them yet, or where the place to stop is found earlier. [`Error::Unavailable`] if not even the first is in the files.
    pub fn entries(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Entry>, Error> {
        let unavailable = || Error::Unavailable { from };
        if from >= to {
            return Ok(Vec::new());
        }
        let Span {
            start,
            end,
            to,
            segments,
        } = self
            .index
            .lock()
            .find(from, to, bytes_max)
            .ok_or_else(unavailable)?;
        let mut open = Vec::with_capacity(segments.len());
        for (name, len) in segments {
            match Segment::open(&*self.disk, &self.dir, name, OpenMode::Read) {
                // A full segment was cut at its end after it was written: never more than is there.
                Ok(segment) => open.push(Segment {
                    len: len.min(segment.len),
                    ..segment
                }),
                // Purged between the two lines above.
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    return Err(unavailable());
                }
                Err(error) => return Err(error),
            }
        }
        let mut decoder = Decoder::at(open, start);
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let record = match decoder.next()? {
                Step::Record(record) => record,
                Step::End => break,
                // Only whole records were counted as written.
                Step::Torn => {
                    return Err(decoder.corrupt("a whole record".into(), "a torn one".into()));
                }
            };
            if end == Some(record.place) {
                break;
            }
            if record.kind != kind::ENTRY {
                continue;
            }
            let entry = Entry::decode(record.data)
                .map_err(|error| decoder.corrupt("an entry".into(), error.to_string()))?;
            if entry.index < from || entry.index >= to {
                // An overwriting entry below `from` takes back what was read; it cannot come after
                // the start's mark and below its index.
                if entry.index < from {
                    entries.clear();
                }
                continue;
            }
            entries.truncate((entry.index - from) as usize);
            if entries.len() as u64 == entry.index - from {
                entries.push(entry);
            }
        }
        limit(&mut entries, bytes_max);
        if entries.is_empty() {
            Err(unavailable())
        } else {
            Ok(entries)
        }
    }
}

/// Keeps the first entry, and those after it that fit.
pub(crate) fn limit(entries: &mut Vec<Entry>, bytes_max: u64) {
    let mut bytes = 0u64;
    let fit = entries.iter().take_while(|entry| {
        bytes = bytes.saturating_add(entry.encoded_len() as u64);
        bytes <= bytes_max
    });
    let fit = fit.count().max(1);
    entries.truncate(fit);
}
