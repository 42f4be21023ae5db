//! A compact copy of the file takes its place, while everything goes on.
//!
//! The copy is made in steps, bucket by bucket in key order. Between the steps, batches that are due
//! are committed to the old file as ever, and whatever in them lies behind the place that the copy
//! has reached is written to the copy too; what lies before it will be met there. So at the end both
//! files hold the same, and one rename swaps them. Readers of the old file keep it until they let go.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::bucket::Bucket;
use crate::committer::Committer;
use crate::cow::{BucketChanges, Change};
use crate::error::{Damage, Error};
use crate::key::Key;
use crate::layer::Layer;
use crate::meta::Meta;
use crate::pages::Pages;
use crate::store::{Store, StoreOptions};
use crate::tree::Tree;

/// How full the pages of the copy become, in percent: etcd's figure.
const FILL_PERCENT: usize = 90;
/// Bytes copied in one step. The committer looks for batches between steps: a step takes a few
/// milliseconds.
const STEP_BYTES: usize = 1 << 20;
/// Bytes after which the copy is synced, so that the sync at the end is short.
const SYNC_BYTES: u64 = 64 << 20;

/// What a defragmentation did to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defragmented {
    /// Size before, see `Backend::size_bytes`.
    pub size_bytes_before: u64,
    /// Size after.
    pub size_bytes_after: u64,
    /// In use before, see `Backend::size_in_use_bytes`.
    pub size_in_use_bytes_before: u64,
    /// In use after.
    pub size_in_use_bytes_after: u64,
}

impl Committer {
    /// Copies the committed tree compactly into `<file>.tmp.<n>` and renames that to the file's name.
    /// Batches that are due are committed meanwhile, and readers and the writer go on. After an error
    /// the old file goes on as before.
    pub fn defragment(&mut self) -> Result<Defragmented, Error> {
        let (size_bytes_before, size_in_use_bytes_before) = self.store.sizes();
        let copy = Copy::begin(&self.store, &self.shared.layers().tree)?;
        let temporary = copy.temporary.clone();
        match self.defragment_into(copy) {
            Ok(()) => {
                let (size_bytes_after, size_in_use_bytes_after) = self.store.sizes();
                Ok(Defragmented {
                    size_bytes_before,
                    size_bytes_after,
                    size_in_use_bytes_before,
                    size_in_use_bytes_after,
                })
            }
            Err(error) => {
                // Best effort: the next open removes it otherwise. After the rename it has gone.
                let _ = self.store.disk.remove_file(&temporary);
                Err(error)
            }
        }
    }

    fn defragment_into(&mut self, mut copy: Copy) -> Result<(), Error> {
        loop {
            if self.shared.is_due() {
                self.commit_into(Some(&mut copy))?;
            }
            let tree = Arc::clone(&self.shared.layers().tree);
            if !copy.step(&tree)? {
                break;
            }
        }
        self.swap(copy)
    }

    fn swap(&mut self, mut copy: Copy) -> Result<(), Error> {
        let old = Arc::clone(&self.shared.layers().tree);
        copy.finish(&old)?;
        let path = Arc::clone(&self.store.path);
        self.store
            .disk
            .rename(&copy.temporary, &path)
            .map_err(|source| Error::io(&copy.temporary, "rename to its place", source))?;
        // From here on the copy is the database, also if the directory cannot be synced: no commit
        // is made to it before that is done.
        let Copy {
            mut store, tree, ..
        } = copy;
        store.path = path;
        store.options = self.store.options;
        store.directory_doubtful = true;
        store.meta_doubtful = false;
        self.store = store;
        {
            let mut handover = self.shared.handover.lock();
            self.shared.replace_tree(&mut handover, tree);
        }
        self.shared.report_sizes(&self.store);
        drop(old);
        self.store.sync_directory()
    }
}

/// The copy in the making.
#[derive(Debug)]
pub(crate) struct Copy {
    temporary: PathBuf,
    store: Store,
    tree: Arc<Tree>,
    place: Place,
    unsynced_bytes: u64,
}

/// How far the copy has come.
#[derive(Debug)]
enum Place {
    /// All buckets before this one, and of it the keys up to this one (`None`: none yet).
    In {
        bucket: Bytes,
        last: Option<Key>,
    },
    End,
}

impl Copy {
    fn begin(old: &Store, tree: &Tree) -> Result<Copy, Error> {
        let options = StoreOptions {
            sync: false,
            ..old.options
        };
        let (temporary, store, copy) =
            Store::create_beside(Arc::clone(&old.disk), &old.path, old.page_size, options)?;
        let place = match tree.entries.first() {
            Some(entry) => Place::In {
                bucket: entry.name.clone(),
                last: None,
            },
            None => Place::End,
        };
        Ok(Copy {
            temporary,
            store,
            tree: copy,
            place,
            unsynced_bytes: 0,
        })
    }

    /// Copies some more of `tree`, which is the one committed last. False when all is copied.
    fn step(&mut self, tree: &Tree) -> Result<bool, Error> {
        let Place::In { bucket, last } = &mut self.place else {
            return Ok(false);
        };
        let explain = |damage| tree.pages.explain(damage);
        let Some(at) = tree.entries.iter().position(|entry| entry.name == *bucket) else {
            // Buckets are never removed from our files.
            self.place = Place::End;
            return Ok(false);
        };
        let (root, sequence) = tree.entries[at].bucket(tree.meta.root).map_err(explain)?;
        let mut cursor = tree
            .cursor(Some(&root), last.as_ref().map_or(&[], |last| last.as_ref()))
            .map_err(explain)?;
        let mut copied: Vec<(Key, Bytes)> = Vec::new();
        let mut bytes = 0;
        while bytes < STEP_BYTES
            && let Some(element) = cursor.peek().map_err(explain)?
        {
            if last.as_ref().is_none_or(|last| element.key > last.as_ref()) {
                bytes += element.key.len() + element.value.len();
                copied.push((Key::new(element.key), Bytes::copy_from_slice(element.value)));
            }
            cursor.advance().map_err(explain)?;
        }
        if cursor.saw_nested() {
            let what = format!(
                "bucket {} has buckets in it, which etcd never makes: not defragmented",
                bucket.escape_ascii()
            );
            return Err(Error::Unsupported {
                path: tree.pages.path.to_path_buf(),
                what,
            });
        }
        let changes = BucketChanges {
            name: bucket,
            fill_percent: FILL_PERCENT,
            sequence: Some(sequence),
            changes: copied
                .iter()
                .map(|(key, value)| Change {
                    key: key.as_ref(),
                    value: Some(value),
                })
                .collect(),
        };
        let staged = self.store.stage(&self.tree, &[changes])?;
        self.tree = self.store.accept(&self.tree, staged);
        match copied.pop() {
            Some((key, _)) if bytes >= STEP_BYTES => *last = Some(key),
            _ => {
                self.place = match tree.entries.get(at + 1) {
                    Some(entry) => Place::In {
                        bucket: entry.name.clone(),
                        last: None,
                    },
                    None => Place::End,
                };
            }
        }
        self.count(bytes)?;
        Ok(!matches!(self.place, Place::End))
    }

    /// Repeats what a commit did to the part that is copied already.
    pub(crate) fn follow(&mut self, batch: &Layer) -> Result<(), Error> {
        let maps = Bucket::ALL.map(|bucket| (bucket, batch.map(bucket)));
        let behind = |name: &[u8], key: &[u8]| match &self.place {
            Place::End => true,
            Place::In { bucket, last } => {
                name < &bucket[..]
                    || name == bucket && last.as_ref().is_some_and(|last| key <= last.as_ref())
            }
        };
        let mut bytes = 0;
        let mut changes = Vec::new();
        for (bucket, map) in &maps {
            let part: Vec<Change<'_>> = map
                .iter()
                .filter(|(key, _)| behind(bucket.name(), key))
                .map(|(key, value)| Change {
                    key,
                    value: value.as_deref(),
                })
                .collect();
            bytes += part
                .iter()
                .map(|change| change.value.map_or(0, <[u8]>::len))
                .sum::<usize>();
            if !part.is_empty() {
                let fill_percent = bucket.fill_percent();
                changes.push(BucketChanges {
                    name: bucket.name(),
                    fill_percent,
                    sequence: None,
                    changes: part,
                });
            }
        }
        if !changes.is_empty() {
            let staged = self.store.stage(&self.tree, &changes)?;
            self.tree = self.store.accept(&self.tree, staged);
        }
        self.count(bytes)
    }

    fn count(&mut self, bytes: usize) -> Result<(), Error> {
        self.unsynced_bytes += bytes as u64;
        if self.unsynced_bytes >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.unsynced_bytes = 0;
        self.store
            .file
            .sync_data()
            .map_err(|source| Error::io(&self.temporary, "sync", source))
    }

    /// Makes the copy a whole database, durably: both meta pages speak of it.
    fn finish(&mut self, old: &Tree) -> Result<(), Error> {
        self.sync()?;
        // Transaction numbers go on rising over a swap.
        let txid = self.tree.meta.txid.max(old.meta.txid) + 1;
        for txid in [txid - 1, txid] {
            self.store.write_meta(&Meta {
                txid,
                ..self.tree.meta
            })?;
        }
        self.sync()?;
        let meta = Meta {
            txid,
            ..self.tree.meta
        };
        let pages = Pages {
            path: Arc::clone(&old.pages.path),
            ..self.tree.pages.clone()
        };
        let tree = Tree::load(pages, meta)?;
        if tree.applied != old.applied {
            // The file was damaged while it was read: the copy is not put in its place.
            let what = format!(
                "the copy holds entries up to {:?}, the file up to {:?}",
                tree.applied, old.applied
            );
            return Err(old.pages.explain(Damage::new(old.meta.root, what)));
        }
        self.tree = Arc::new(tree);
        Ok(())
    }
}
