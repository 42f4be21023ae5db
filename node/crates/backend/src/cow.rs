//! Copy on write: a batch applied to a tree, from the leaves up.
//!
//! ```text
//!   branch  [a b c d]           changes for b and c arrive, sorted
//!            │ │ │ │            a, d: kept as they are
//!           ─┘ │ │ └─           b, c: read, merged with their changes, joined with a neighbour
//!              ▼ ▼              when too little is left, cut at page size, written to free pages;
//!           [..][..]            what they are now called goes up into a new copy of the branch
//! ```
//! Only pages on the way to a change are read or written. Old pages are never written to.

use std::borrow::Cow;

use bytes::Bytes;

use crate::bucket::{Bucket, FILL_PERCENT_DEFAULT};
use crate::error::{Damage, Error};
use crate::key::Key;
use crate::node::{Child, Entry, Node};
use crate::page::{BUCKET_HEADER_BYTES, ELEMENT_BUCKET, Page};
use crate::pages::{DEPTH_MAX, Pages};
use crate::runs::{Allocator, Run};
use crate::store::PageWriter;
use crate::tree::{Root, RootEntry, Tree};

/// A change of one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'b> {
    pub(crate) key: &'b [u8],
    /// `None` deletes.
    pub(crate) value: Option<&'b [u8]>,
}

/// Sorted changes of one bucket, each key once.
#[derive(Debug)]
pub(crate) struct BucketChanges<'b> {
    pub(crate) name: &'b [u8],
    pub(crate) fill_percent: usize,
    /// Set in the bucket's header, if given.
    pub(crate) sequence: Option<u64>,
    pub(crate) changes: Vec<Change<'b>>,
}

/// One transaction in the making.
#[derive(Debug)]
pub(crate) struct Rewrite<'a, 'w> {
    pages: &'a Pages,
    /// Old pages that entries refer to.
    old: Vec<Cow<'a, [u8]>>,
    pub(crate) allocator: Allocator<'w>,
    pub(crate) writer: PageWriter<'w>,
    /// Pages that the new tree does not reach any more.
    pub(crate) freed: Vec<Run>,
    /// Pages that were written, each with its overflow.
    pub(crate) written: Vec<u64>,
    fill_percent: usize,
}

impl<'a, 'w> Rewrite<'a, 'w> {
    pub(crate) fn new(
        pages: &'a Pages,
        allocator: Allocator<'w>,
        writer: PageWriter<'w>,
    ) -> Rewrite<'a, 'w> {
        Rewrite {
            pages,
            old: Vec::new(),
            allocator,
            writer,
            freed: Vec::new(),
            written: Vec::new(),
            fill_percent: FILL_PERCENT_DEFAULT,
        }
    }

    /// Writes all changes and a new root bucket; returns its page. Buckets of etcd that the file
    /// does not have yet are made, as etcd makes them all when it starts.
    pub(crate) fn run(
        &mut self,
        base: &'a Tree,
        batch: &[BucketChanges<'_>],
    ) -> Result<u64, Error> {
        let mut entries = base.entries.clone();
        let known = Bucket::ALL.iter().map(|bucket| bucket.name());
        for name in known.chain(batch.iter().map(|bucket| bucket.name)) {
            if let Err(at) = entries.binary_search_by(|entry| entry.name.as_ref().cmp(name)) {
                let value = Bytes::from(inline_value(0, &Node::Leaf(Vec::new()), &[]));
                entries.insert(
                    at,
                    RootEntry {
                        name: Bytes::copy_from_slice(name),
                        flags: ELEMENT_BUCKET,
                        value,
                    },
                );
            }
        }
        for bucket in batch {
            let entry = entries
                .iter_mut()
                .find(|entry| entry.name == bucket.name)
                .expect("every bucket of the batch was added above");
            let (root, sequence) = entry
                .bucket(base.meta.root)
                .map_err(|damage| self.pages.explain(damage))?;
            let sequence = bucket.sequence.unwrap_or(sequence);
            // The page must live as long as the old tree: an inline one is copied, at most a quarter
            // of a page.
            let page = match root {
                Root::Page(id) => self.take(id)?,
                Root::Inline(bytes) => {
                    Page::parse_inline(Cow::Owned(bytes.to_vec()), base.meta.root)
                        .map_err(|damage| self.pages.explain(damage))?
                }
            };
            self.fill_percent = bucket.fill_percent;
            let node = self.apply(page, &bucket.changes, 0)?.node;
            entry.value = Bytes::from(self.bucket_value(node, sequence)?);
        }
        self.freed.extend(&base.root_pages);
        self.fill_percent = FILL_PERCENT_DEFAULT;
        let root = entries
            .iter()
            .map(|entry| Entry::New {
                flags: entry.flags,
                key: &entry.name,
                value: &entry.value,
            })
            .collect();
        let page = self.write_root(Node::Leaf(root))?;
        self.writer.flush()?;
        Ok(page)
    }

    /// Header of a bucket, with the whole bucket behind it when it is small (bbolt's rule: one leaf
    /// of at most a quarter of a page, without buckets in it).
    fn bucket_value(&mut self, node: Node<'_>, sequence: u64) -> Result<Vec<u8>, Error> {
        let inline = match &node {
            Node::Leaf(entries) => {
                node.bytes() <= self.pages.page_size / 4
                    && entries
                        .iter()
                        .all(|entry| entry.flags() & ELEMENT_BUCKET == 0)
            }
            Node::Branch(children) => children.is_empty(),
        };
        if inline {
            let leaf = if node.is_empty() {
                Node::Leaf(Vec::new())
            } else {
                node
            };
            return Ok(inline_value(sequence, &leaf, &self.old));
        }
        let root = self.write_root(node)?;
        let mut value = root.to_le_bytes().to_vec();
        value.extend_from_slice(&sequence.to_le_bytes());
        Ok(value)
    }

    /// Writes a node that is not empty, and branches above it until one page leads to all.
    fn write_root(&mut self, mut node: Node<'_>) -> Result<u64, Error> {
        loop {
            // A branch that leads one way only is left out.
            if let Node::Branch(children) = &node
                && let [only] = &children[..]
            {
                return Ok(only.page);
            }
            let mut above = Vec::new();
            self.write(&node, &mut above)?;
            node = Node::Branch(above);
        }
    }

    /// A page of the old tree, which the new one will not reach.
    fn take(&mut self, id: u64) -> Result<Page<'a>, Error> {
        let (page, overflow) = self
            .pages
            .page_and_overflow(id)
            .map_err(|damage| self.pages.explain(damage))?;
        self.freed.push(Run {
            start: id,
            len: 1 + overflow,
        });
        Ok(page)
    }

    fn apply<'b>(
        &mut self,
        page: Page<'a>,
        changes: &[Change<'b>],
        depth: usize,
    ) -> Result<Applied<'b>, Error> {
        let pages = self.pages;
        if depth > DEPTH_MAX {
            return Err(pages.explain(Damage::new(
                page.id(),
                format!("more than {DEPTH_MAX} levels"),
            )));
        }
        if page.is_leaf() {
            self.apply_to_leaf(page, changes)
                .map_err(|damage| pages.explain(damage))
        } else {
            self.apply_to_branch(&page, changes, depth)
        }
    }

    fn apply_to_leaf<'b>(
        &mut self,
        page: Page<'a>,
        changes: &[Change<'b>],
    ) -> Result<Applied<'b>, Damage> {
        let at = self.old.len() as u32;
        let mut entries = Vec::with_capacity(page.count() + changes.len());
        let mut shrunk = false;
        let mut changes = changes.iter().peekable();
        let new = |change: &Change<'b>| {
            change.value.map(|value| Entry::New {
                flags: 0,
                key: change.key,
                value,
            })
        };
        for index in 0..page.count() {
            let element = page.leaf_element(index)?;
            if index > 0 && page.key(index - 1)? >= element.key {
                return Err(Damage::new(
                    page.id(),
                    format!("element {index} is out of order"),
                ));
            }
            while let Some(change) = changes.next_if(|change| change.key < element.key) {
                entries.extend(new(change));
            }
            if let Some(change) = changes.next_if(|change| change.key == element.key) {
                if element.is_bucket() {
                    let key = element.key.escape_ascii().to_string();
                    return Err(Damage::new(
                        page.id(),
                        format!("a bucket where a value is expected, under key {key}"),
                    ));
                }
                shrunk |= change.value.is_none();
                entries.extend(new(change));
            } else {
                let (flags, start, key, value) = page.leaf_range(index)?;
                entries.push(Entry::Old {
                    page: at,
                    flags,
                    start,
                    key: key as u32,
                    value: value as u32,
                });
            }
        }
        entries.extend(changes.filter_map(new));
        self.old.push(page.into_bytes());
        Ok(Applied {
            node: Node::Leaf(entries),
            shrunk,
        })
    }

    fn apply_to_branch<'b>(
        &mut self,
        page: &Page<'a>,
        mut changes: &[Change<'b>],
        depth: usize,
    ) -> Result<Applied<'b>, Error> {
        let pages = self.pages;
        let explain = |damage| pages.explain(damage);
        let mut out = Vec::with_capacity(page.count() + 8);
        // The last changed child, not written yet: it may have to be joined with the next.
        let mut held: Option<Applied<'b>> = None;
        // Whether the last one in `out` is as it was in the old tree, and not written just now.
        let mut untouched = false;
        let mut shrunk = false;
        for index in 0..page.count() {
            let (key, id) = page.branch_element(index).map_err(explain)?;
            let next = match index + 1 < page.count() {
                true => Some(page.branch_element(index + 1).map_err(explain)?.0),
                false => None,
            };
            if next.is_some_and(|next| next <= key) {
                return Err(explain(Damage::new(
                    page.id(),
                    format!("element {} is out of order", index + 1),
                )));
            }
            let mine = match (changes.first(), next) {
                (None, _) => &[],
                (Some(first), Some(next)) if first.key >= next => &[],
                (Some(_), Some(next)) => {
                    let (mine, rest) =
                        changes.split_at(changes.partition_point(|change| change.key < next));
                    changes = rest;
                    mine
                }
                (Some(_), None) => std::mem::take(&mut changes),
            };
            let join = held.as_ref().is_some_and(|held| self.is_underfull(held));
            if mine.is_empty() && !join {
                if let Some(held) = held.take() {
                    self.write(&held.node, &mut out)?;
                }
                out.push(Child {
                    key: Key::new(key),
                    page: id,
                });
                untouched = true;
                continue;
            }
            let child = self.apply_to_child(page, index, next, mine, depth)?;
            shrunk |= child.shrunk;
            if child.node.is_empty() {
                continue;
            }
            held = Some(match held {
                None => child,
                Some(before) if join || self.is_underfull(&child) => self.join(before, child)?,
                Some(before) => {
                    self.write(&before.node, &mut out)?;
                    untouched = false;
                    child
                }
            });
        }
        if let Some(mut last) = held {
            // Its left neighbour, if it was changed too, is written already. Then the last child stays
            // small: that neighbour was not underfull, and a page is never written twice.
            if self.is_underfull(&last)
                && untouched
                && let Some(before) = out.pop()
            {
                let neighbour = self.take(before.page)?;
                let neighbour = self.apply(neighbour, &[], depth + 1)?;
                last = self.join(neighbour, last)?;
            }
            self.write(&last.node, &mut out)?;
        }
        shrunk |= out.len() < page.count();
        Ok(Applied {
            node: Node::Branch(out),
            shrunk,
        })
    }

    fn apply_to_child<'b>(
        &mut self,
        page: &Page<'a>,
        index: usize,
        next: Option<&[u8]>,
        changes: &[Change<'b>],
        depth: usize,
    ) -> Result<Applied<'b>, Error> {
        let pages = self.pages;
        let explain = |damage| pages.explain(damage);
        let child = pages.child(page, index).map_err(explain)?;
        if child.count() > 0
            && let Some(next) = next
            && child.key(child.count() - 1).map_err(explain)? >= next
        {
            let what = format!(
                "its last key is not below the next one in branch page {}",
                page.id()
            );
            return Err(explain(Damage::new(child.id(), what)));
        }
        let child = self.take(child.id())?;
        self.apply(child, changes, depth + 1)
    }

    fn is_underfull(&self, applied: &Applied<'_>) -> bool {
        applied.shrunk
            && applied
                .node
                .is_underfull(self.pages.page_size, self.fill_percent)
    }

    fn join<'b>(&self, mut left: Applied<'b>, right: Applied<'b>) -> Result<Applied<'b>, Error> {
        match (&mut left.node, right.node) {
            (Node::Leaf(left), Node::Leaf(right)) => left.extend(right),
            (Node::Branch(left), Node::Branch(right)) => left.extend(right),
            _ => {
                let what = "leaves at different depths below one branch";
                return Err(self.pages.explain(Damage::new(
                    self.freed.last().map_or(0, |run| run.start),
                    what,
                )));
            }
        }
        left.shrunk |= right.shrunk;
        Ok(left)
    }

    /// Cuts a node into pages, writes them, and adds them to the children of the branch above.
    fn write(&mut self, node: &Node<'_>, above: &mut Vec<Child>) -> Result<(), Error> {
        let page_size = self.pages.page_size;
        for range in node.split(page_size, self.fill_percent) {
            let count = node.range_bytes(&range).div_ceil(page_size) as u64;
            let run = self.allocator.take(count);
            let old = &self.old;
            self.writer.page(run, |page| {
                node.write(&range, run.start, (count - 1) as u32, old, page)
            })?;
            self.written.push(run.start);
            let key = Key::new(node.key(range.start, old));
            if above.last().is_some_and(|last| last.key >= key) {
                let what = format!("key {key:?} is out of order between the pages of a branch");
                return Err(self.pages.explain(Damage::new(
                    self.freed.last().map_or(0, |run| run.start),
                    what,
                )));
            }
            above.push(Child {
                key,
                page: run.start,
            });
        }
        Ok(())
    }
}

/// A node with its changes in it.
#[derive(Debug)]
struct Applied<'b> {
    node: Node<'b>,
    /// Whether it, or a node below it, lost entries.
    shrunk: bool,
}

fn inline_value(sequence: u64, leaf: &Node<'_>, old: &[Cow<'_, [u8]>]) -> Vec<u8> {
    let count = match leaf {
        Node::Leaf(entries) => entries.len(),
        Node::Branch(children) => children.len(),
    };
    let mut value = vec![0; BUCKET_HEADER_BYTES + leaf.bytes()];
    value[8..16].copy_from_slice(&sequence.to_le_bytes());
    leaf.write(&(0..count), 0, 0, old, &mut value[BUCKET_HEADER_BYTES..]);
    value
}
