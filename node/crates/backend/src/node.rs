//! Pages while they are being made: their entries, where they are split, how they are written.

use std::borrow::Cow;
use std::ops::Range;

use crate::key::Key;
use crate::page::{ELEMENT_BYTES, FLAG_BRANCH, FLAG_LEAF, PAGE_HEADER_BYTES, PageHeader};

/// From how many pages on a leaf's entry gets a leaf of its own, so that a touch of its neighbours
/// does not write it again.
const LARGE_ENTRY_PAGES: usize = 8;

/// Elements that a page can count: one below what bbolt refuses.
const ELEMENTS_MAX: usize = 0xFFFE;

/// An entry of a leaf: in an old page, or of the batch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry<'b> {
    /// `page` is its place in the list of old pages.
    Old {
        page: u32,
        flags: u32,
        start: usize,
        key: u32,
        value: u32,
    },
    New {
        flags: u32,
        key: &'b [u8],
        value: &'b [u8],
    },
}

impl<'b> Entry<'b> {
    fn bytes(&self) -> usize {
        ELEMENT_BYTES
            + match self {
                Entry::Old { key, value, .. } => *key as usize + *value as usize,
                Entry::New { key, value, .. } => key.len() + value.len(),
            }
    }

    pub(crate) fn flags(&self) -> u32 {
        match self {
            Entry::Old { flags, .. } | Entry::New { flags, .. } => *flags,
        }
    }

    pub(crate) fn key<'p>(&self, old: &'p [Cow<'_, [u8]>]) -> &'p [u8]
    where
        'b: 'p,
    {
        match self {
            Entry::Old {
                page, start, key, ..
            } => &old[*page as usize][*start..*start + *key as usize],
            Entry::New { key, .. } => key,
        }
    }

    fn value<'p>(&self, old: &'p [Cow<'_, [u8]>]) -> &'p [u8]
    where
        'b: 'p,
    {
        match self {
            Entry::Old {
                page,
                start,
                key,
                value,
                ..
            } => {
                let start = *start + *key as usize;
                &old[*page as usize][start..start + *value as usize]
            }
            Entry::New { value, .. } => value,
        }
    }
}

/// An entry of a branch.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    pub(crate) key: Key,
    pub(crate) page: u64,
}

impl Child {
    fn bytes(&self) -> usize {
        ELEMENT_BYTES + self.key.as_ref().len()
    }
}

/// What will become one page, or several, or none.
#[derive(Debug)]
pub(crate) enum Node<'b> {
    Leaf(Vec<Entry<'b>>),
    Branch(Vec<Child>),
}

impl Node<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Branch(children) => children.len(),
        }
    }

    /// Bytes of the page, were it written as one.
    pub(crate) fn bytes(&self) -> usize {
        PAGE_HEADER_BYTES
            + match self {
                Node::Leaf(entries) => entries.iter().map(Entry::bytes).sum::<usize>(),
                Node::Branch(children) => children.iter().map(Child::bytes).sum(),
            }
    }

    /// Whether a node that has lost entries should be joined with its neighbour: below half of what
    /// a new page is filled to (bbolt's rule), or a branch that leads one way only.
    pub(crate) fn is_underfull(&self, page_size: usize, fill_percent: usize) -> bool {
        self.bytes() < page_size * fill_percent / 200
            || (matches!(self, Node::Branch(_)) && self.len() < 2)
    }

    /// Where to cut it into pages.
    pub(crate) fn split(&self, page_size: usize, fill_percent: usize) -> Vec<Range<usize>> {
        match self {
            Node::Leaf(entries) => split(entries, Entry::bytes, page_size, fill_percent, 1, true),
            Node::Branch(children) => {
                split(children, Child::bytes, page_size, fill_percent, 2, false)
            }
        }
    }

    /// The key of the entry at `index`.
    pub(crate) fn key<'p>(&'p self, index: usize, old: &'p [Cow<'_, [u8]>]) -> &'p [u8] {
        match self {
            Node::Leaf(entries) => entries[index].key(old),
            Node::Branch(children) => children[index].key.as_ref(),
        }
    }

    pub(crate) fn range_bytes(&self, range: &Range<usize>) -> usize {
        PAGE_HEADER_BYTES
            + match self {
                Node::Leaf(entries) => entries[range.clone()]
                    .iter()
                    .map(Entry::bytes)
                    .sum::<usize>(),
                Node::Branch(children) => children[range.clone()].iter().map(Child::bytes).sum(),
            }
    }

    /// Writes the entries of `range` as page `id`. `page` is zeroed and has room.
    pub(crate) fn write(
        &self,
        range: &Range<usize>,
        id: u64,
        overflow: u32,
        old: &[Cow<'_, [u8]>],
        page: &mut [u8],
    ) {
        let flags = if matches!(self, Node::Leaf(_)) {
            FLAG_LEAF
        } else {
            FLAG_BRANCH
        };
        // `split` makes no range of more than ELEMENTS_MAX.
        let count = range.len() as u16;
        PageHeader {
            id,
            flags,
            count,
            overflow,
        }
        .write(page);
        let mut at = PAGE_HEADER_BYTES;
        let mut data = PAGE_HEADER_BYTES + range.len() * ELEMENT_BYTES;
        let word = |page: &mut [u8], at: usize, word: u32| {
            page[at..at + 4].copy_from_slice(&word.to_le_bytes())
        };
        match self {
            Node::Leaf(entries) => {
                for entry in &entries[range.clone()] {
                    let (key, value) = (entry.key(old), entry.value(old));
                    word(page, at, entry.flags());
                    word(page, at + 4, (data - at) as u32);
                    word(page, at + 8, key.len() as u32);
                    word(page, at + 12, value.len() as u32);
                    page[data..data + key.len()].copy_from_slice(key);
                    data += key.len();
                    page[data..data + value.len()].copy_from_slice(value);
                    data += value.len();
                    at += ELEMENT_BYTES;
                }
            }
            Node::Branch(children) => {
                for child in &children[range.clone()] {
                    let key = child.key.as_ref();
                    word(page, at, (data - at) as u32);
                    word(page, at + 4, key.len() as u32);
                    page[at + 8..at + 16].copy_from_slice(&child.page.to_le_bytes());
                    page[data..data + key.len()].copy_from_slice(key);
                    data += key.len();
                    at += ELEMENT_BYTES;
                }
            }
        }
    }
}

/// Fills pages up to `fill_percent` one after the other; nothing is split that fits into one page.
/// Each page gets `keys_min` entries at least (two for a branch, or the tree would not narrow).
fn split<T>(
    entries: &[T],
    bytes: impl Fn(&T) -> usize,
    page_size: usize,
    fill_percent: usize,
    keys_min: usize,
    leaf: bool,
) -> Vec<Range<usize>> {
    let total: usize = PAGE_HEADER_BYTES + entries.iter().map(&bytes).sum::<usize>();
    if entries.is_empty() {
        return Vec::new();
    }
    if total <= page_size && entries.len() <= ELEMENTS_MAX {
        return vec![Range {
            start: 0,
            end: entries.len(),
        }];
    }
    let threshold = page_size * fill_percent / 100;
    let large = LARGE_ENTRY_PAGES * page_size;
    let mut ranges = Vec::with_capacity(total / threshold + 1);
    let (mut start, mut filled) = (0, PAGE_HEADER_BYTES);
    for (index, entry) in entries.iter().enumerate() {
        let entry_bytes = bytes(entry);
        let (here, left) = (index - start, entries.len() - index);
        // As bbolt, two keys to a leaf even where they overflow one page: less is wasted behind the last.
        let full = here >= 2 && filled + entry_bytes > threshold || here >= ELEMENTS_MAX;
        let apart = leaf && (filled >= large || entry_bytes >= large);
        if here >= keys_min && left >= keys_min && (full || apart) {
            ranges.push(start..index);
            (start, filled) = (index, PAGE_HEADER_BYTES);
        }
        filled += entry_bytes;
    }
    ranges.push(start..entries.len());
    ranges
}
