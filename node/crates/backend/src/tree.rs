//! One committed transaction, for reading.

use bytes::Bytes;

use crate::bucket::{BUCKETS, Bucket};
use crate::cursor::Cursor;
use crate::error::{Damage, Error};
use crate::meta::Meta;
use crate::page::{BUCKET_HEADER_BYTES, ELEMENT_BUCKET, Page, read_u64};
use crate::pages::{DEPTH_MAX, Pages};
use crate::runs::Run;
use crate::{Applied, CONSISTENT_INDEX_KEY, TERM_KEY};

/// Entries that the root bucket may have. etcd has eleven buckets; a file with more than this many
/// is not etcd's, and all of them are kept in memory.
const ROOT_ENTRIES_MAX: usize = 4096;

/// What a meta page leads to. Immutable; pages that it reaches are not written as long as it lives.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) pages: Pages,
    pub(crate) meta: Meta,
    /// All entries of the root bucket, sorted.
    pub(crate) entries: Vec<RootEntry>,
    /// The pages of the root bucket itself: each commit writes them anew.
    pub(crate) root_pages: Vec<Run>,
    roots: [Option<Root>; BUCKETS],
    pub(crate) applied: Applied,
}

/// An entry of the root bucket, as it is in the file.
#[derive(Debug, Clone)]
pub(crate) struct RootEntry {
    pub(crate) name: Bytes,
    pub(crate) flags: u32,
    pub(crate) value: Bytes,
}

/// Where a bucket begins.
#[derive(Debug, Clone)]
pub(crate) enum Root {
    Page(u64),
    /// A whole leaf, kept in the root bucket's value.
    Inline(Bytes),
}

impl RootEntry {
    /// The root and the sequence of the bucket; an entry of the root bucket can be nothing else.
    pub(crate) fn bucket(&self, page: u64) -> Result<(Root, u64), Damage> {
        if self.flags & ELEMENT_BUCKET == 0 {
            return Err(Damage::new(
                page,
                format!(
                    "root bucket: entry {} is not a bucket",
                    self.name.escape_ascii()
                ),
            ));
        }
        bucket_header(&self.value, page)
    }
}

/// Root and sequence out of a bucket's value.
pub(crate) fn bucket_header(value: &Bytes, page: u64) -> Result<(Root, u64), Damage> {
    match (read_u64(value, 0), read_u64(value, 8)) {
        (Some(0), Some(sequence)) => {
            Ok((Root::Inline(value.slice(BUCKET_HEADER_BYTES..)), sequence))
        }
        (Some(root), Some(sequence)) => Ok((Root::Page(root), sequence)),
        _ => Err(Damage::new(
            page,
            format!(
                "a bucket's value of {} bytes, expected {BUCKET_HEADER_BYTES} or more",
                value.len()
            ),
        )),
    }
}

impl Tree {
    /// Reads the root bucket of a transaction, and with it where each bucket begins.
    pub(crate) fn load(pages: Pages, meta: Meta) -> Result<Tree, Error> {
        Tree::load_inner(&pages, &meta)
            .map_err(|damage| pages.explain(damage))
            .and_then(|(entries, root_pages, roots)| {
                let mut tree = Tree {
                    pages,
                    meta,
                    entries,
                    root_pages,
                    roots,
                    applied: Applied::default(),
                };
                tree.applied = tree.read_applied()?;
                Ok(tree)
            })
    }

    #[expect(
        clippy::type_complexity,
        reason = "three parts of a Tree, in one place"
    )]
    fn load_inner(
        pages: &Pages,
        meta: &Meta,
    ) -> Result<(Vec<RootEntry>, Vec<Run>, [Option<Root>; BUCKETS]), Damage> {
        let mut entries: Vec<RootEntry> = Vec::new();
        let mut runs = Vec::new();
        let mut todo = vec![(meta.root, 0)];
        while let Some((id, depth)) = todo.pop() {
            let (page, overflow) = pages.page_and_overflow(id)?;
            runs.push(Run {
                start: id,
                len: 1 + overflow,
            });
            if depth > DEPTH_MAX || runs.len() > ROOT_ENTRIES_MAX {
                return Err(Damage::new(id, "the root bucket's pages point in a circle"));
            }
            if !page.is_leaf() {
                // Last first: the stack turns them round.
                for index in (0..page.count()).rev() {
                    todo.push((page.branch_element(index)?.1, depth + 1));
                }
                continue;
            }
            for index in 0..page.count() {
                let element = page.leaf_element(index)?;
                if entries.last().is_some_and(|last| last.name >= element.key) {
                    return Err(Damage::new(
                        id,
                        format!("root bucket: element {index} is out of order"),
                    ));
                }
                if entries.len() == ROOT_ENTRIES_MAX {
                    return Err(Damage::new(
                        id,
                        format!("more than {ROOT_ENTRIES_MAX} buckets"),
                    ));
                }
                entries.push(RootEntry {
                    name: Bytes::copy_from_slice(element.key),
                    flags: element.flags,
                    value: Bytes::copy_from_slice(element.value),
                });
            }
        }
        let mut roots = [const { None }; BUCKETS];
        for entry in &entries {
            let (root, _) = entry.bucket(meta.root)?;
            if let Root::Inline(page) = &root {
                Page::parse_inline(page.as_ref().into(), meta.root)?;
            }
            if let Some(bucket) = Bucket::from_name(&entry.name) {
                roots[bucket.index()] = Some(root);
            }
        }
        Ok((entries, runs, roots))
    }

    /// The root of a bucket; `None` where the file does not have it yet.
    pub(crate) fn root(&self, bucket: Bucket) -> Option<&Root> {
        self.roots[bucket.index()].as_ref()
    }

    /// The first page of a bucket.
    pub(crate) fn root_page<'a>(&'a self, root: &'a Root) -> Result<Page<'a>, Damage> {
        match root {
            Root::Page(id) => self.pages.page(*id),
            Root::Inline(bytes) => Page::parse_inline(bytes.as_ref().into(), self.meta.root),
        }
    }

    /// The value of a key, copied.
    pub(crate) fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let Some(root) = self.root(bucket) else {
            return Ok(None);
        };
        self.get_below(root, key)
            .map_err(|damage| self.pages.explain(damage))
    }

    fn get_below(&self, root: &Root, key: &[u8]) -> Result<Option<Bytes>, Damage> {
        let mut page = self.root_page(root)?;
        for _ in 0..DEPTH_MAX {
            if page.is_leaf() {
                let Ok(index) = page.search(key)? else {
                    return Ok(None);
                };
                let element = page.leaf_element(index)?;
                return Ok((!element.is_bucket()).then(|| Bytes::copy_from_slice(element.value)));
            }
            page = self.pages.child(&page, page.child_for(key)?)?;
        }
        Err(Damage::new(
            page.id(),
            format!("more than {DEPTH_MAX} levels: pages point in a circle"),
        ))
    }

    /// A way through a bucket, from the first key that is not below `from`.
    pub(crate) fn cursor<'a>(
        &'a self,
        root: Option<&'a Root>,
        from: &[u8],
    ) -> Result<Cursor<'a>, Damage> {
        match root {
            Some(root) => Cursor::seek(&self.pages, self.root_page(root)?, from),
            None => Ok(Cursor::empty(&self.pages)),
        }
    }

    fn read_applied(&self) -> Result<Applied, Error> {
        let number = |key: &[u8]| -> Result<u64, Error> {
            // As etcd: absent means never written.
            let Some(value) = self.get(Bucket::Meta, key)? else {
                return Ok(0);
            };
            match value.first_chunk() {
                Some(bytes) if value.len() == 8 => Ok(u64::from_be_bytes(*bytes)),
                _ => Err(self.pages.explain(Damage::new(
                    self.meta.root,
                    format!(
                        "meta/{} has {} bytes, expected 8",
                        key.escape_ascii(),
                        value.len()
                    ),
                ))),
            }
        };
        Ok(Applied {
            index: number(CONSISTENT_INDEX_KEY)?,
            term: number(TERM_KEY)?,
        })
    }
}
