//! A way through the leaves of one bucket, in key order.

use crate::error::Damage;
use crate::page::{LeafElement, Page};
use crate::pages::{DEPTH_MAX, Pages};

/// Stands on an element, or at the end. Keys must rise from one element to the next: a damaged
/// tree whose pages point to one another ends in an error, never in a circle.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    pages: &'a Pages,
    /// From the root to the leaf, with the place in each.
    stack: Vec<(Page<'a>, usize)>,
    saw_nested: bool,
}

impl<'a> Cursor<'a> {
    pub(crate) fn empty(pages: &'a Pages) -> Cursor<'a> {
        Cursor {
            pages,
            stack: Vec::new(),
            saw_nested: false,
        }
    }

    /// Goes to the first element whose key is not below `from`.
    pub(crate) fn seek(
        pages: &'a Pages,
        root: Page<'a>,
        from: &[u8],
    ) -> Result<Cursor<'a>, Damage> {
        let mut cursor = Cursor {
            pages,
            stack: Vec::with_capacity(6),
            saw_nested: false,
        };
        let mut page = root;
        loop {
            if page.is_leaf() {
                let (Ok(index) | Err(index)) = page.search(from)?;
                cursor.stack.push((page, index));
                break;
            }
            let index = page.child_for(from)?;
            let child = pages.child(&page, index)?;
            cursor.push(page, index)?;
            page = child;
        }
        cursor.settle()?;
        Ok(cursor)
    }

    /// The element at hand; `None` at the end. Elements that are nested buckets are passed over:
    /// etcd makes none.
    pub(crate) fn peek(&self) -> Result<Option<LeafElement<'_>>, Damage> {
        match self.stack.last() {
            Some((page, index)) => page.leaf_element(*index).map(Some),
            None => Ok(None),
        }
    }

    /// Whether an element was passed over because it is a bucket.
    pub(crate) fn saw_nested(&self) -> bool {
        self.saw_nested
    }

    /// Goes on to the next element.
    pub(crate) fn advance(&mut self) -> Result<(), Damage> {
        let Some((page, index)) = self.stack.last_mut() else {
            return Ok(());
        };
        *index += 1;
        if *index < page.count() {
            let before = page.leaf_element(*index - 1)?;
            let now = page.leaf_element(*index)?;
            if before.key >= now.key {
                return Err(Damage::new(
                    page.id(),
                    format!("element {index} is out of order"),
                ));
            }
            if !now.is_bucket() {
                return Ok(());
            }
        }
        self.settle()
    }

    /// From behind the last element of a leaf to the first of the next, and over nested buckets.
    fn settle(&mut self) -> Result<(), Damage> {
        loop {
            let Some((page, index)) = self.stack.last() else {
                return Ok(());
            };
            if *index >= page.count() {
                self.next_leaf()?;
            } else if page.leaf_element(*index)?.is_bucket() {
                self.saw_nested = true;
                if let Some((_, index)) = self.stack.last_mut() {
                    *index += 1;
                }
            } else {
                return Ok(());
            }
        }
    }

    fn next_leaf(&mut self) -> Result<(), Damage> {
        let Some((left, _)) = self.stack.pop() else {
            return Ok(());
        };
        let mut page = loop {
            let Some((page, index)) = self.stack.last_mut() else {
                return Ok(());
            };
            *index += 1;
            if *index < page.count() {
                let before = page.branch_element(*index - 1)?.0;
                if before >= page.branch_element(*index)?.0 {
                    return Err(Damage::new(
                        page.id(),
                        format!("element {index} is out of order"),
                    ));
                }
                break self.pages.child(page, *index)?;
            }
            self.stack.pop();
        };
        loop {
            if page.is_leaf() {
                // The one check that needs both leaves: all others are inside a page.
                if left.count() > 0
                    && page.count() > 0
                    && left.key(left.count() - 1)? >= page.key(0)?
                {
                    return Err(Damage::new(
                        page.id(),
                        format!("its keys begin before those of page {} end", left.id()),
                    ));
                }
                self.stack.push((page, 0));
                return Ok(());
            }
            let child = self.pages.child(&page, 0)?;
            self.push(page, 0)?;
            page = child;
        }
    }

    fn push(&mut self, page: Page<'a>, index: usize) -> Result<(), Damage> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(Damage::new(
                page.id(),
                format!("more than {DEPTH_MAX} levels: pages point in a circle"),
            ));
        }
        self.stack.push((page, index));
        Ok(())
    }
}
