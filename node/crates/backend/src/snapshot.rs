//! A copy of the file as of one commit.

use std::sync::Arc;

use crate::Applied;
use crate::error::Error;
use crate::page::read_u64;
use crate::shared::Layers;
use crate::tree::Tree;
use crate::view::View;

/// The bytes of one committed transaction, as bolt's `Tx.WriteTo` gives them: both meta pages speak
/// of it (the second one with the transaction number before), then every page up to the highest.
/// bbolt, etcd and etcdutl open the result.
///
/// Its pages are not reused as long as it lives; nothing else waits for it.
#[derive(Debug)]
pub struct Snapshot {
    tree: Arc<Tree>,
}

impl Snapshot {
    pub(crate) fn new(tree: Arc<Tree>) -> Snapshot {
        Snapshot { tree }
    }

    /// Length in bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "there are two meta pages at least"
    )]
    pub fn len(&self) -> u64 {
        self.tree.pages.bytes()
    }

    /// Index and term that the copy holds.
    pub fn applied(&self) -> Applied {
        self.tree.applied
    }

    /// What the copy holds, for reading.
    pub fn view(&self) -> View {
        View::new(Arc::new(Layers {
            pending: Arc::default(),
            frozen: None,
            tree: Arc::clone(&self.tree),
        }))
    }

    /// Fills `buffer` with the bytes from `offset`; returns how many there were, 0 at the end.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let pages = &self.tree.pages;
        let wanted = (self.len().saturating_sub(offset)).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..wanted];
        let metas_end = 2 * pages.page_size as u64;
        if offset >= metas_end {
            pages
                .file
                .read_exact_at(buffer, offset)
                .map_err(|source| Error::io(&pages.path, "copy a page of", source))?;
            return Ok(wanted);
        }
        let metas = self.metas();
        let from = offset as usize;
        let count = wanted.min(metas.len() - from);
        buffer[..count].copy_from_slice(&metas[from..from + count]);
        Ok(count)
    }

    fn metas(&self) -> Vec<u8> {
        let size = self.tree.pages.page_size;
        let mut pages = vec![0; 2 * size];
        let mut meta = self.tree.meta;
        meta.write(0, &mut pages[..size]);
        meta.txid = meta.txid.wrapping_sub(1);
        meta.write(1, &mut pages[size..]);
        debug_assert_eq!(read_u64(&pages, size), Some(1));
        pages
    }
}
