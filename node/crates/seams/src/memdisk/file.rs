//! One file of a [`super::MemDisk`]: live and durable content, and what lies between.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Keep;
use crate::rng::Rng;

/// Unit of sharing between live and durable content and between copies of the disk.
pub(super) const CHUNK_BYTES: usize = 4096;
/// What a disk writes whole or not at all; also the unit in which etcd looks for torn writes.
const SECTOR_BYTES: usize = 512;
const SECTORS: usize = CHUNK_BYTES / SECTOR_BYTES;
/// Former contents of one chunk's sectors that are remembered between two syncs. A crash may
/// bring any of them back; older ones are forgotten, so that a file that is never synced does not
/// grow without end.
const OLDER_VERSIONS_MAX: usize = 16;

type Chunk = [u8; CHUNK_BYTES];
type Sector = [u8; SECTOR_BYTES];

#[derive(Debug, Clone, Default)]
pub(super) struct FileNode {
    live: Content,
    durable: Content,
    dirty: BTreeMap<usize, DirtyChunk>,
    /// Lengths that the file had since the last sync, without the present one.
    lengths: Vec<u64>,
    /// Space taken, in whole chunks; may exceed the length.
    pub(super) space_bytes: u64,
    pub(super) locked_by: Option<u64>,
    pub(super) handles: u64,
}

/// Chunks that were never written are absent and read as zeros, so that a preallocated file costs
/// nothing.
#[derive(Debug, Clone, Default)]
struct Content {
    len: u64,
    chunks: Vec<Option<Arc<Chunk>>>,
}

#[derive(Debug, Clone, Default)]
struct DirtyChunk {
    /// Bit i: sector i was written since it was last durable.
    sectors: u8,
    /// Bit i: a sync of it failed; only a new write gives it another chance.
    lost: u8,
    /// What dirty sectors held before they were written again, oldest first.
    older: Vec<(usize, Box<Sector>)>,
}

impl FileNode {
    pub(super) fn len(&self) -> u64 {
        self.live.len
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> usize {
        let n = self
            .live
            .len
            .saturating_sub(offset)
            .min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < n {
            let (index, start, len) = piece(offset + done as u64, n - done);
            let target = &mut buffer[done..done + len];
            match self.live.chunk(index) {
                Some(chunk) => target.copy_from_slice(&chunk[start..start + len]),
                None => target.fill(0),
            }
            done += len;
        }
        n
    }

    pub(super) fn write_at(&mut self, data: &[u8], offset: u64) {
        let end = offset + data.len() as u64;
        if end > self.live.len {
            self.note_length();
            self.live.len = end;
        }
        let mut done = 0;
        while done < data.len() {
            let (index, start, len) = piece(offset + done as u64, data.len() - done);
            self.mark_dirty(
                index,
                start / SECTOR_BYTES..=(start + len - 1) / SECTOR_BYTES,
            );
            self.live.chunk_mut(index)[start..start + len].copy_from_slice(&data[done..done + len]);
            done += len;
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len == self.live.len {
            return;
        }
        self.note_length();
        if len < self.live.len {
            let (first, start, _) = piece(len, 1);
            for index in first..self.live.chunks.len() {
                if self.live.chunks[index].is_none() {
                    continue;
                }
                let from = if index == first { start } else { 0 };
                self.mark_dirty(index, from / SECTOR_BYTES..=SECTORS - 1);
            }
            self.live.cut(len);
        }
        self.live.len = len;
    }

    pub(super) fn sync(&mut self) {
        self.dirty.retain(|&index, dirty| {
            if dirty.lost == 0 {
                self.durable
                    .set_chunk(index, self.live.chunk(index).cloned());
                return false;
            }
            for sector in 0..SECTORS {
                if dirty.sectors & !dirty.lost & (1 << sector) != 0 {
                    self.durable
                        .set_sector(index, sector, &self.live.sector(index, sector));
                }
            }
            dirty.sectors = dirty.lost;
            dirty
                .older
                .retain(|(sector, _)| dirty.lost & (1 << sector) != 0);
            true
        });
        self.durable.len = self.live.len;
        self.lengths.clear();
    }

    pub(super) fn sync_failed(&mut self) {
        for dirty in self.dirty.values_mut() {
            dirty.lost = dirty.sectors;
        }
    }

    pub(super) fn crash(&mut self, keep: Keep, rng: &mut dyn Rng) {
        let mut content = self.durable.clone();
        for (&index, dirty) in &self.dirty {
            if keep == Keep::Nothing {
                break;
            }
            for sector in (0..SECTORS).filter(|sector| dirty.sectors & (1 << sector) != 0) {
                if !keep.one(rng) {
                    continue;
                }
                let older: Vec<&Sector> = dirty
                    .older
                    .iter()
                    .filter(|(s, _)| *s == sector)
                    .map(|(_, bytes)| &**bytes)
                    .collect();
                let pick = if keep == Keep::Everything {
                    older.len()
                } else {
                    rng.below(older.len() as u64 + 1) as usize
                };
                match older.get(pick) {
                    Some(bytes) => content.set_sector(index, sector, bytes),
                    None => content.set_sector(index, sector, &self.live.sector(index, sector)),
                }
            }
        }
        let len = match keep {
            Keep::Nothing => self.durable.len,
            Keep::Everything => self.live.len,
            Keep::Some => match rng.below(self.lengths.len() as u64 + 2) as usize {
                0 => self.durable.len,
                pick => self.lengths.get(pick - 1).copied().unwrap_or(self.live.len),
            },
        };
        content.cut(len);
        content.len = len;
        *self = FileNode {
            live: content.clone(),
            durable: content,
            space_bytes: self.space_bytes,
            ..FileNode::default()
        };
    }

    fn note_length(&mut self) {
        // Growing byte by byte must not remember every length: a few are enough to be surprised.
        if self.lengths.len() < OLDER_VERSIONS_MAX {
            self.lengths.push(self.live.len);
        }
    }

    fn mark_dirty(&mut self, index: usize, sectors: std::ops::RangeInclusive<usize>) {
        let dirty = self.dirty.entry(index).or_default();
        for sector in sectors {
            let bit = 1 << sector;
            if dirty.sectors & bit != 0 {
                if dirty.older.len() == OLDER_VERSIONS_MAX {
                    dirty.older.remove(0);
                }
                dirty
                    .older
                    .push((sector, Box::new(self.live.sector(index, sector))));
            }
            dirty.sectors |= bit;
            dirty.lost &= !bit;
        }
    }
}

impl Content {
    fn chunk(&self, index: usize) -> Option<&Arc<Chunk>> {
        self.chunks.get(index)?.as_ref()
    }

    fn chunk_mut(&mut self, index: usize) -> &mut Chunk {
        if self.chunks.len() <= index {
            self.chunks.resize(index + 1, None);
        }
        Arc::make_mut(self.chunks[index].get_or_insert_with(|| Arc::new([0; CHUNK_BYTES])))
    }

    fn set_chunk(&mut self, index: usize, chunk: Option<Arc<Chunk>>) {
        if self.chunks.len() <= index {
            if chunk.is_none() {
                return;
            }
            self.chunks.resize(index + 1, None);
        }
        self.chunks[index] = chunk;
    }

    fn sector(&self, index: usize, sector: usize) -> Sector {
        let mut bytes = [0; SECTOR_BYTES];
        if let Some(chunk) = self.chunk(index) {
            bytes.copy_from_slice(&chunk[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES]);
        }
        bytes
    }

    fn set_sector(&mut self, index: usize, sector: usize, bytes: &Sector) {
        if self.chunk(index).is_none() && bytes.iter().all(|&byte| byte == 0) {
            return;
        }
        self.chunk_mut(index)[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES]
            .copy_from_slice(bytes);
    }

    /// Zeroes everything from `len` on; the length itself is the caller's.
    fn cut(&mut self, len: u64) {
        let (first, start, _) = piece(len, 1);
        self.chunks.truncate(first + 1);
        if start == 0 {
            self.chunks.truncate(first);
        } else if self.chunk(first).is_some() {
            self.chunk_mut(first)[start..].fill(0);
        }
    }
}

/// The part of `offset..offset + len` that lies in one chunk: its index, start and length.
fn piece(offset: u64, len: usize) -> (usize, usize, usize) {
    let start = (offset % CHUNK_BYTES as u64) as usize;
    (
        (offset / CHUNK_BYTES as u64) as usize,
        start,
        len.min(CHUNK_BYTES - start),
    )
}
