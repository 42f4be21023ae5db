//! One page, read with suspicion.
//!
//! ```text
//! 0        8      10      12        16
//! | id u64 | flags | count | overflow | elements … | keys and values … |
//! branch element: pos u32, key length u32, page u64
//! leaf element:   flags u32, pos u32, key length u32, value length u32
//! ```
//! `pos` counts from the start of the element itself. Numbers are little-endian (bbolt writes the
//! byte order of its machine; etcd supports little-endian machines only, s390x apart).

use std::borrow::Cow;

use crate::error::Damage;

/// Bytes before the elements.
pub(crate) const PAGE_HEADER_BYTES: usize = 16;
/// Bytes of an element, of a leaf and of a branch alike.
pub(crate) const ELEMENT_BYTES: usize = 16;
/// Bytes before the inline page in a bucket's value: root page, sequence.
pub(crate) const BUCKET_HEADER_BYTES: usize = 16;

pub(crate) const FLAG_BRANCH: u16 = 0x01;
pub(crate) const FLAG_LEAF: u16 = 0x02;
pub(crate) const FLAG_META: u16 = 0x04;
pub(crate) const FLAG_FREELIST: u16 = 0x10;

/// Flag of a leaf element whose value is a bucket.
pub(crate) const ELEMENT_BUCKET: u32 = 0x01;

/// The first 16 bytes of a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageHeader {
    pub(crate) id: u64,
    pub(crate) flags: u16,
    pub(crate) count: u16,
    pub(crate) overflow: u32,
}

impl PageHeader {
    /// `None` if there are fewer than 16 bytes.
    pub(crate) fn read(bytes: &[u8]) -> Option<PageHeader> {
        Some(PageHeader {
            id: read_u64(bytes, 0)?,
            flags: read_u16(bytes, 8)?,
            count: read_u16(bytes, 10)?,
            overflow: read_u32(bytes, 12)?,
        })
    }

    pub(crate) fn write(self, bytes: &mut [u8]) {
        bytes[0..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.overflow.to_le_bytes());
    }
}

/// A leaf or branch page whose header and element table lie inside its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Page<'a> {
    bytes: Cow<'a, [u8]>,
    id: u64,
    count: usize,
    leaf: bool,
}

/// One entry of a leaf.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeafElement<'p> {
    pub(crate) flags: u32,
    pub(crate) key: &'p [u8],
    pub(crate) value: &'p [u8],
}

impl LeafElement<'_> {
    pub(crate) fn is_bucket(&self) -> bool {
        self.flags & ELEMENT_BUCKET != 0
    }
}

impl<'a> Page<'a> {
    /// Checks the header of a page that is to be found at `id`; `bytes` are all of it, overflow
    /// included.
    pub(crate) fn parse(bytes: Cow<'a, [u8]>, id: u64) -> Result<Page<'a>, Damage> {
        let header = PageHeader::read(&bytes).ok_or_else(|| {
            Damage::new(id, format!("{} bytes are too few for a page", bytes.len()))
        })?;
        if header.id != id {
            return Err(Damage::new(
                id,
                format!("it says that it is page {}", header.id),
            ));
        }
        Page::parse_body(bytes, header)
    }

    /// Checks an inline page, the part of a bucket's value behind the bucket header. bbolt writes
    /// any number as its id. `at` is the page that holds it, for the message.
    pub(crate) fn parse_inline(bytes: Cow<'a, [u8]>, at: u64) -> Result<Page<'a>, Damage> {
        let mut header = PageHeader::read(&bytes).ok_or_else(|| {
            Damage::new(
                at,
                format!(
                    "inline bucket: {} bytes are too few for a page",
                    bytes.len()
                ),
            )
        })?;
        if header.flags != FLAG_LEAF {
            return Err(Damage::new(
                at,
                format!(
                    "inline bucket: flags {:#06x}, expected a leaf",
                    header.flags
                ),
            ));
        }
        header.id = at;
        Page::parse_body(bytes, header)
    }

    fn parse_body(bytes: Cow<'a, [u8]>, header: PageHeader) -> Result<Page<'a>, Damage> {
        let leaf = match header.flags {
            FLAG_LEAF => true,
            FLAG_BRANCH => false,
            flags => {
                return Err(Damage::new(
                    header.id,
                    format!("flags {flags:#06x}, expected a leaf or a branch"),
                ));
            }
        };
        let count = usize::from(header.count);
        if PAGE_HEADER_BYTES + count * ELEMENT_BYTES > bytes.len() {
            return Err(Damage::new(
                header.id,
                format!("{count} elements do not fit into {} bytes", bytes.len()),
            ));
        }
        if !leaf && count == 0 {
            return Err(Damage::new(header.id, "a branch without elements"));
        }
        Ok(Page {
            bytes,
            id: header.id,
            count,
            leaf,
        })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn is_leaf(&self) -> bool {
        self.leaf
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn into_bytes(self) -> Cow<'a, [u8]> {
        self.bytes
    }

    /// Where key and value of a leaf element lie: offset of the key, length of the key, length of
    /// the value; with the element's flags. `index` is below `count`.
    pub(crate) fn leaf_range(&self, index: usize) -> Result<(u32, usize, usize, usize), Damage> {
        let at = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
        let element = &self.bytes[at..at + ELEMENT_BYTES];
        let flags = u32_at(element, 0);
        let start = at + u32_at(element, 4) as usize;
        let (key, value) = (u32_at(element, 8) as usize, u32_at(element, 12) as usize);
        self.check_range(index, start, key, value)?;
        Ok((flags, start, key, value))
    }

    pub(crate) fn leaf_element(&self, index: usize) -> Result<LeafElement<'_>, Damage> {
        let (flags, start, key, value) = self.leaf_range(index)?;
        let middle = start + key;
        Ok(LeafElement {
            flags,
            key: &self.bytes[start..middle],
            value: &self.bytes[middle..middle + value],
        })
    }

    /// Key and child of a branch element. `index` is below `count`.
    pub(crate) fn branch_element(&self, index: usize) -> Result<(&[u8], u64), Damage> {
        let at = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
        let element = &self.bytes[at..at + ELEMENT_BYTES];
        let start = at + u32_at(element, 0) as usize;
        let key = u32_at(element, 4) as usize;
        let child = read_u64(element, 8).unwrap_or_default();
        self.check_range(index, start, key, 0)?;
        Ok((&self.bytes[start..start + key], child))
    }

    pub(crate) fn key(&self, index: usize) -> Result<&[u8], Damage> {
        if self.leaf {
            Ok(self.leaf_element(index)?.key)
        } else {
            Ok(self.branch_element(index)?.0)
        }
    }

    /// The first element whose key is not below `key`: `Ok` if it is the same, else `Err`.
    pub(crate) fn search(&self, key: &[u8]) -> Result<Result<usize, usize>, Damage> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle)?.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(Ok(middle)),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(Err(low))
    }

    /// The child of a branch under which `key` belongs.
    pub(crate) fn child_for(&self, key: &[u8]) -> Result<usize, Damage> {
        Ok(match self.search(key)? {
            Ok(index) => index,
            Err(index) => index.saturating_sub(1),
        })
    }

    #[inline]
    fn check_range(
        &self,
        index: usize,
        start: usize,
        key: usize,
        value: usize,
    ) -> Result<(), Damage> {
        // No sum can overflow: four numbers below 2^32, in 64 bits.
        if key == 0
            || start < PAGE_HEADER_BYTES + self.count * ELEMENT_BYTES
            || start + key + value > self.bytes.len()
        {
            return Err(Damage::new(
                self.id,
                format!(
                    "element {index}: key of {key} and value of {value} bytes at {start}, in a page of {} elements and {} bytes",
                    self.count,
                    self.bytes.len()
                ),
            ));
        }
        Ok(())
    }
}

pub(crate) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u16::from_le_bytes(*bytes))
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_le_bytes(*bytes))
}

pub(crate) fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u64::from_le_bytes(*bytes))
}

/// From an element, which has 16 bytes.
fn u32_at(element: &[u8], at: usize) -> u32 {
    read_u32(element, at).unwrap_or_default()
}
