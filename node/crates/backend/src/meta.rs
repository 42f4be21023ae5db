//! The meta page.
//!
//! ```text
//! 16      20        24          28      32        40         48         56               64     72         80
//! | magic | version | page size | flags | root u64 | seq u64 | freelist | high water mark | txid | checksum |
//! ```
//! The checksum is FNV-1a (64 bits) over bytes 16..72 of the page.

use crate::page::{FLAG_META, PAGE_HEADER_BYTES, PageHeader, read_u32, read_u64};

/// bolt's magic number.
pub(crate) const MAGIC: u32 = 0xED0C_DAED;
/// bolt's format version.
pub(crate) const VERSION: u32 = 2;
/// The freelist page of a file that keeps none (etcd's way: `NoFreelistSync`).
pub(crate) const NO_FREELIST: u64 = u64::MAX;
/// Bytes of the meta structure that the checksum covers.
const SUMMED_BYTES: usize = 56;
/// Bytes of a page that a meta page uses.
pub(crate) const META_BYTES: usize = PAGE_HEADER_BYTES + SUMMED_BYTES + 8;

/// Smallest page size that we read; bbolt looks for nothing below it.
pub(crate) const PAGE_BYTES_MIN: usize = 1 << 10;
/// Largest page size that we read: that of the systems with the largest pages (arm64, ppc64).
pub(crate) const PAGE_BYTES_MAX: usize = 1 << 16;

/// What a meta page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_size: u32,
    pub(crate) flags: u32,
    pub(crate) root: u64,
    pub(crate) sequence: u64,
    pub(crate) freelist: u64,
    /// One above the highest page in use, ever.
    pub(crate) high_water: u64,
    pub(crate) txid: u64,
}

/// Why a meta page is not one.
#[derive(Debug)]
pub(crate) enum BadMeta {
    Short(usize),
    Magic(u32),
    Version(u32),
    Checksum { stored: u64, computed: u64 },
    Field(String),
}

impl std::fmt::Display for BadMeta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadMeta::Short(len) => write!(f, "only {len} bytes"),
            BadMeta::Magic(seen) => write!(f, "magic {seen:#010x}, expected {MAGIC:#010x}"),
            BadMeta::Version(seen) => write!(f, "version {seen}, expected {VERSION}"),
            BadMeta::Checksum { stored, computed } => {
                write!(
                    f,
                    "checksum {stored:#018x}, its bytes give {computed:#018x}"
                )
            }
            BadMeta::Field(what) => f.write_str(what),
        }
    }
}

impl Meta {
    /// Reads and checks a meta page.
    pub(crate) fn read(page: &[u8]) -> Result<Meta, BadMeta> {
        if page.len() < META_BYTES {
            return Err(BadMeta::Short(page.len()));
        }
        let u32_at = |at: usize| read_u32(page, PAGE_HEADER_BYTES + at).unwrap_or_default();
        let u64_at = |at: usize| read_u64(page, PAGE_HEADER_BYTES + at).unwrap_or_default();
        if u32_at(0) != MAGIC {
            return Err(BadMeta::Magic(u32_at(0)));
        }
        if u32_at(4) != VERSION {
            return Err(BadMeta::Version(u32_at(4)));
        }
        let computed = fnv1a(&page[PAGE_HEADER_BYTES..PAGE_HEADER_BYTES + SUMMED_BYTES]);
        if u64_at(SUMMED_BYTES) != computed {
            return Err(BadMeta::Checksum {
                stored: u64_at(SUMMED_BYTES),
                computed,
            });
        }
        let meta = Meta {
            page_size: u32_at(8),
            flags: u32_at(12),
            root: u64_at(16),
            sequence: u64_at(24),
            freelist: u64_at(32),
            high_water: u64_at(40),
            txid: u64_at(48),
        };
        meta.check()?;
        Ok(meta)
    }

    fn check(&self) -> Result<(), BadMeta> {
        let size = self.page_size as usize;
        if !size.is_power_of_two() || !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&size) {
            return Err(BadMeta::Field(format!(
                "page size {size}, expected a power of two from {PAGE_BYTES_MIN} to {PAGE_BYTES_MAX}"
            )));
        }
        if self
            .high_water
            .checked_mul(size as u64)
            .is_none_or(|bytes| bytes > i64::MAX as u64)
        {
            return Err(BadMeta::Field(format!(
                "high water mark {} is beyond any file",
                self.high_water
            )));
        }
        if !(2..self.high_water).contains(&self.root) {
            return Err(BadMeta::Field(format!(
                "root page {} outside 2..{}",
                self.root, self.high_water
            )));
        }
        if self.freelist != NO_FREELIST && !(2..self.high_water).contains(&self.freelist) {
            return Err(BadMeta::Field(format!(
                "freelist page {} outside 2..{}",
                self.freelist, self.high_water
            )));
        }
        Ok(())
    }

    /// The page that this meta is written to.
    pub(crate) fn page(&self) -> u64 {
        self.txid % 2
    }

    /// Writes it to the beginning of `page` as page number `id`; the rest of the page is zero.
    pub(crate) fn write(&self, id: u64, page: &mut [u8]) {
        page.fill(0);
        PageHeader {
            id,
            flags: FLAG_META,
            count: 0,
            overflow: 0,
        }
        .write(page);
        let body = &mut page[PAGE_HEADER_BYTES..];
        body[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        body[4..8].copy_from_slice(&VERSION.to_le_bytes());
        body[8..12].copy_from_slice(&self.page_size.to_le_bytes());
        body[12..16].copy_from_slice(&self.flags.to_le_bytes());
        let words = [
            self.root,
            self.sequence,
            self.freelist,
            self.high_water,
            self.txid,
        ];
        for (at, word) in words.into_iter().enumerate() {
            body[16 + 8 * at..24 + 8 * at].copy_from_slice(&word.to_le_bytes());
        }
        let sum = fnv1a(&body[..SUMMED_BYTES]);
        body[SUMMED_BYTES..SUMMED_BYTES + 8].copy_from_slice(&sum.to_le_bytes());
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
