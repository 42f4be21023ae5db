//! Where a tree's pages are read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seams::{DiskFile, Mapping};

use crate::error::{Damage, Error};
use crate::page::{Page, PageHeader};

/// Levels that a tree may have. With two keys to a branch, 64 levels hold more pages than a file
/// can; a deeper way means that pages point in a circle.
pub(crate) const DEPTH_MAX: usize = 64;

/// The pages below one transaction's high water mark, through a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    pub(crate) path: Arc<PathBuf>,
    /// Kept open for snapshots, and because the lock on the file ends with it.
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) mapping: Arc<dyn Mapping>,
    pub(crate) page_size: usize,
    pub(crate) high_water: u64,
}

impl Pages {
    /// Reads a leaf or branch page.
    pub(crate) fn page(&self, id: u64) -> Result<Page<'_>, Damage> {
        Ok(self.page_and_overflow(id)?.0)
    }

    /// Reads a leaf or branch page; with the number of pages that follow it and belong to it.
    pub(crate) fn page_and_overflow(&self, id: u64) -> Result<(Page<'_>, u64), Damage> {
        if !(2..self.high_water).contains(&id) {
            return Err(Damage::new(id, format!("outside 2..{}", self.high_water)));
        }
        let bytes = self.peek(id, 1)?;
        let overflow = PageHeader::read(&bytes).map_or(0, |header| u64::from(header.overflow));
        if overflow == 0 {
            return Ok((Page::parse(bytes, id)?, 0));
        }
        if overflow >= self.high_water - id {
            return Err(Damage::new(
                id,
                format!("{overflow} overflow pages reach beyond {}", self.high_water),
            ));
        }
        Ok((Page::parse(self.peek(id, 1 + overflow)?, id)?, overflow))
    }

    /// The child at `index` of a branch. Its keys must begin within what the branch says of it: hence
    /// no page can be reached on two ways, and pages that point to one another end in an error.
    pub(crate) fn child(&self, branch: &Page<'_>, index: usize) -> Result<Page<'_>, Damage> {
        let (lower, id) = branch.branch_element(index)?;
        let child = self.page(id)?;
        if child.count() > 0 {
            let first = child.key(0)?;
            let below_next =
                index + 1 >= branch.count() || first < branch.branch_element(index + 1)?.0;
            if first < lower || !below_next {
                return Err(Damage::new(
                    id,
                    format!(
                        "its first key {} is not where branch page {} has it",
                        first.escape_ascii(),
                        branch.id()
                    ),
                ));
            }
        }
        Ok(child)
    }

    fn peek(&self, id: u64, count: u64) -> Result<std::borrow::Cow<'_, [u8]>, Damage> {
        // Below the high water mark, whose product with the page size fits (checked with the meta).
        let size = self.page_size as u64;
        self.mapping
            .peek(id * size, (count * size) as usize)
            .map_err(Damage::Io)
    }

    /// Names the file of a damage.
    pub(crate) fn explain(&self, damage: Damage) -> Error {
        explain(&self.path, self.page_size, damage)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.high_water * self.page_size as u64
    }
}

pub(crate) fn explain(path: &Path, page_size: usize, damage: Damage) -> Error {
    match damage {
        Damage::Page { page, what } => Error::DamagedPage {
            file: path.to_path_buf(),
            page,
            page_size: page_size as u64,
            what: what.into_owned(),
        },
        Damage::Io(source) => Error::io(path, "read", source),
    }
}
