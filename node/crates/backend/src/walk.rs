//! The walk at open: which pages are in use, and are they what they should be.
//!
//! All pages of a level are visited in the order in which they lie in the file, and read in large
//! pieces: on a cold disk this is what fills the system's cache for the readers that come next.

use std::borrow::Cow;

use crate::error::Damage;
use crate::meta::{Meta, NO_FREELIST};
use crate::page::{FLAG_FREELIST, Page, PageHeader, read_u64};
use crate::pages::Pages;
use crate::runs::{PageSet, Run};

/// Bytes read at once.
const READ_BYTES: u64 = 1 << 20;
/// A gap up to which two pages are read in one piece: a seek costs more than these bytes.
const READ_GAP_BYTES: u64 = 64 << 10;

/// All pages in use, meta pages and freelist included; and the pages of the freelist.
pub(crate) fn walk(pages: &Pages, meta: &Meta) -> Result<(PageSet, Option<Run>), Damage> {
    let mut used = PageSet::with_room(meta.high_water);
    let _ = used.insert(Run { start: 0, len: 2 });
    let freelist = match meta.freelist {
        NO_FREELIST => None,
        page => Some(freelist_run(pages, page)?),
    };
    if let Some(run) = freelist {
        let _ = used.insert(run);
    }
    let mut reader = Reader {
        pages,
        buffer: Vec::new(),
        start: 0,
    };
    let mut level = vec![meta.root];
    // Each page is visited once or the walk ends, so it ends.
    while !level.is_empty() {
        level.sort_unstable();
        let mut below = Vec::new();
        for at in 0..level.len() {
            visit(&mut reader, &level[at..], &mut used, &mut below)?;
        }
        level = below;
    }
    Ok((used, freelist))
}

fn visit(
    reader: &mut Reader<'_>,
    ahead: &[u64],
    used: &mut PageSet,
    below: &mut Vec<u64>,
) -> Result<(), Damage> {
    let Some(id) = ahead.first().copied() else {
        return Ok(());
    };
    let (page, overflow) = reader.page(id, ahead)?;
    if !used.insert(Run {
        start: id,
        len: 1 + overflow,
    }) {
        return Err(Damage::new(
            id,
            format!("it, or one of its {overflow} overflow pages, is in the tree twice"),
        ));
    }
    let mut before: &[u8] = &[];
    for index in 0..page.count() {
        let key = if page.is_leaf() {
            let element = page.leaf_element(index)?;
            if element.is_bucket() {
                match read_u64(element.value, 0) {
                    Some(0) => check_inline(element.value, id)?,
                    Some(root) => below.push(root),
                    None => {
                        return Err(Damage::new(
                            id,
                            format!("element {index}: a bucket of {} bytes", element.value.len()),
                        ));
                    }
                }
            }
            element.key
        } else {
            let (key, child) = page.branch_element(index)?;
            below.push(child);
            key
        };
        if before >= key {
            return Err(Damage::new(id, format!("element {index} is out of order")));
        }
        before = key;
    }
    Ok(())
}

/// A bucket inside its value: a header of 16 bytes, then a leaf.
fn check_inline(value: &[u8], at: u64) -> Result<(), Damage> {
    let page = Page::parse_inline(Cow::Borrowed(value.get(16..).unwrap_or_default()), at)?;
    for index in 0..page.count() {
        if page.leaf_element(index)?.is_bucket() {
            return Err(Damage::new(at, "an inline bucket with a bucket in it"));
        }
        if index > 0 && page.key(index - 1)? >= page.key(index)? {
            return Err(Damage::new(
                at,
                format!("inline bucket: element {index} is out of order"),
            ));
        }
    }
    Ok(())
}

/// The list itself is not needed: the walk finds out. But its pages are in use until our first
/// commit, which writes none.
fn freelist_run(pages: &Pages, page: u64) -> Result<Run, Damage> {
    let bytes = pages
        .mapping
        .peek(page * pages.page_size as u64, pages.page_size)
        .map_err(Damage::Io)?;
    let header =
        PageHeader::read(&bytes).ok_or_else(|| Damage::new(page, "too short for a page"))?;
    if header.id != page || header.flags != FLAG_FREELIST {
        let what = format!(
            "it says that it is page {} with flags {:#06x}, expected the freelist",
            header.id, header.flags
        );
        return Err(Damage::new(page, what));
    }
    let len = 1 + u64::from(header.overflow);
    if len > pages.high_water - page {
        return Err(Damage::new(
            page,
            format!(
                "a freelist of {len} pages reaches beyond {}",
                pages.high_water
            ),
        ));
    }
    Ok(Run { start: page, len })
}

/// Reads pages in rising order through a buffer.
struct Reader<'p> {
    pages: &'p Pages,
    buffer: Vec<u8>,
    /// Offset of the buffer in the file.
    start: u64,
}

impl Reader<'_> {
    /// The first of `ahead`, which are sorted.
    fn page(&mut self, id: u64, ahead: &[u64]) -> Result<(Page<'_>, u64), Damage> {
        if !(2..self.pages.high_water).contains(&id) {
            return Err(Damage::new(
                id,
                format!("outside 2..{}", self.pages.high_water),
            ));
        }
        let size = self.pages.page_size as u64;
        let offset = id * size;
        if offset < self.start || offset + size > self.start + self.buffer.len() as u64 {
            self.fill(offset, ahead)?;
        }
        let at = (offset - self.start) as usize;
        let bytes = &self.buffer[at..at + size as usize];
        if PageHeader::read(bytes).is_some_and(|header| header.overflow > 0) {
            // Large values are not read, only the table in front of them.
            return self.pages.page_and_overflow(id);
        }
        Ok((Page::parse(Cow::Borrowed(bytes), id)?, 0))
    }

    fn fill(&mut self, offset: u64, ahead: &[u64]) -> Result<(), Damage> {
        let size = self.pages.page_size as u64;
        let mut end = offset + size;
        for id in ahead {
            let Some(next) = id.checked_add(1).and_then(|id| id.checked_mul(size)) else {
                break;
            };
            if *id >= self.pages.high_water
                || next > end + READ_GAP_BYTES + size
                || next - offset > READ_BYTES.max(size)
            {
                break;
            }
            end = end.max(next);
        }
        self.buffer.resize((end - offset) as usize, 0);
        self.start = offset;
        self.pages
            .file
            .read_exact_at(&mut self.buffer, offset)
            .map_err(Damage::Io)
    }
}
