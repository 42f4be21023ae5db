//! Reading: pending batch over frozen batch over tree.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::Applied;
use crate::bucket::Bucket;
use crate::error::Error;
use crate::layer::{Change, LayerWalk};
use crate::page::LeafElement;
use crate::shared::Layers;
use crate::tree::Root;

/// What a scan calls with each key and value, until it breaks.
pub type Visit<'f> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'f;

/// What readers see.
///
/// It holds everything that was written before it was made. Of what is written later it may show
/// parts, until the batch that was running when it was made is handed over; a change that it has
/// shown never goes away again. So readers of the `key` bucket ask for revisions that are complete,
/// and readers of other buckets read one value, or run where nobody writes.
///
/// It keeps the pages of one committed tree from being reused as long as it lives, and for a short
/// while two batches in memory. Cheap to clone, for any thread.
#[derive(Debug, Clone)]
pub struct View {
    layers: Arc<Layers>,
}

impl View {
    pub(crate) fn new(layers: Arc<Layers>) -> View {
        View { layers }
    }

    /// The value of a key. A copy: it keeps nothing alive.
    pub fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let layers = &*self.layers;
        if let Some(change) = layers.pending.get(bucket, key) {
            return Ok(change);
        }
        if let Some(change) = layers
            .frozen
            .as_ref()
            .and_then(|frozen| frozen.get(bucket, key))
        {
            return Ok(change);
        }
        layers.tree.get(bucket, key)
    }

    /// Calls `f` with each key and value from `from` to below `to` (`None`: to the end of the
    /// bucket) in key order, until it breaks. No lock is held while `f` runs.
    pub fn scan(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        f: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let layers = &*self.layers;
        let pending = layers.pending.walk(bucket, from, to);
        let frozen = layers
            .frozen
            .as_ref()
            .map(|frozen| frozen.walk(bucket, from, to));
        self.merge(pending, frozen, layers.tree.root(bucket), from, to, f)
    }

    /// Names of all buckets in the committed file, sorted; those that only others know included.
    pub fn bucket_names(&self) -> Vec<Bytes> {
        self.layers
            .tree
            .entries
            .iter()
            .map(|entry| entry.name.clone())
            .collect()
    }

    /// As [`View::scan`] over a whole bucket, for any bucket of the file; for hashes and copies.
    /// Nothing is called for a bucket that does not exist.
    pub fn scan_named(&self, name: &[u8], f: &mut Visit<'_>) -> Result<(), Error> {
        if let Some(bucket) = Bucket::from_name(name) {
            return self.scan(bucket, &[], None, f);
        }
        let tree = &*self.layers.tree;
        let Some(entry) = tree.entries.iter().find(|entry| entry.name == name) else {
            return Ok(());
        };
        let (root, _) = entry
            .bucket(tree.meta.root)
            .map_err(|damage| tree.pages.explain(damage))?;
        let mut cursor = tree
            .cursor(Some(&root), &[])
            .map_err(|damage| tree.pages.explain(damage))?;
        loop {
            let element = cursor.peek().map_err(|damage| tree.pages.explain(damage))?;
            let Some(LeafElement { key, value, .. }) = element else {
                return Ok(());
            };
            if f(key, value).is_break() {
                return Ok(());
            }
            cursor
                .advance()
                .map_err(|damage| tree.pages.explain(damage))?;
        }
    }

    /// Index and term of the commit below this view.
    pub fn committed(&self) -> Applied {
        self.layers.tree.applied
    }

    fn merge(
        &self,
        mut pending: LayerWalk<'_>,
        mut frozen: Option<LayerWalk<'_>>,
        root: Option<&Root>,
        from: &[u8],
        to: Option<&[u8]>,
        f: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let pages = &self.layers.tree.pages;
        let explain = |damage| pages.explain(damage);
        let mut cursor = self.layers.tree.cursor(root, from).map_err(explain)?;
        loop {
            let upper = pending.peek();
            let middle = frozen.as_ref().and_then(LayerWalk::peek);
            let lower = cursor
                .peek()
                .map_err(explain)?
                .filter(|element| to.is_none_or(|to| element.key < to));
            if upper.is_none() && middle.is_none() {
                // Nothing lies over the rest of the tree.
                let Some(element) = lower else { return Ok(()) };
                if f(element.key, element.value).is_break() {
                    return Ok(());
                }
                cursor.advance().map_err(explain)?;
                continue;
            }
            // The smallest key of the three; the uppermost layer that has it decides.
            let least = [
                upper.map(|(key, _)| key),
                middle.map(|(key, _)| key),
                lower.map(|element| element.key),
            ]
            .into_iter()
            .flatten()
            .min();
            let Some(key) = least else { return Ok(()) };
            let in_upper = upper.filter(|(at, _)| *at == key);
            let in_middle = middle.filter(|(at, _)| *at == key);
            let in_lower = lower.filter(|element| element.key == key);
            let value: Option<&[u8]> = match (in_upper, in_middle) {
                (Some((_, change)), _) | (None, Some((_, change))) => Change::as_deref(change),
                (None, None) => in_lower.map(|element| element.value),
            };
            let flow = value.map_or(ControlFlow::Continue(()), |value| f(key, value));
            let (upper, middle, lower) =
                (in_upper.is_some(), in_middle.is_some(), in_lower.is_some());
            if flow.is_break() {
                return Ok(());
            }
            if upper {
                pending.advance();
            }
            if middle && let Some(frozen) = frozen.as_mut() {
                frozen.advance();
            }
            if lower {
                cursor.advance().map_err(explain)?;
            }
        }
    }
}
