//! The file: who may write which page when, and in which order it becomes durable.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use seams::{Disk, DiskFile, Mapping};

use crate::bucket::Bucket;
use crate::cow::{BucketChanges, Change, Rewrite};
use crate::error::{Damage, Error};
use crate::layer::Layer;
use crate::meta::{Meta, NO_FREELIST};
use crate::pages::Pages;
use crate::runs::{Allocator, PageSet, Run};
use crate::tree::Tree;
use crate::{CONSISTENT_INDEX_KEY, Options, TERM_KEY};

/// Pages side by side are gathered up to this many bytes for one write. More would only take memory.
const WRITE_BYTES: usize = 1 << 20;

/// The file and its free pages. Only the committer has it.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: Arc<PathBuf>,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) page_size: usize,
    pub(crate) options: StoreOptions,
    file_bytes: u64,
    mapping: Arc<dyn Mapping>,
    high_water: u64,
    free: PageSet,
    /// Older trees that readers may still hold, by transaction.
    living: VecDeque<(u64, Weak<Tree>)>,
    /// Freed by the last commit.
    freed: Vec<Freed>,
    /// Freed pages that a living tree reaches, by the youngest such tree.
    waiting: BTreeMap<u64, Vec<Freed>>,
    /// The pages of `freed` and `waiting`.
    pending: PageSet,
    /// Which transaction wrote a page, since there are living trees. A page that is not here was
    /// written before all of them.
    written: BTreeMap<u64, u64>,
    /// Pages that a commit wrote whose meta page may or may not be on the disk: it failed while it
    /// wrote or synced that. Untouched until a later meta page is durable, because after a power
    /// cut the doubtful one could turn out to be there.
    doubtful: Vec<Run>,
    doubtful_high_water: u64,
    /// The meta page that open found may be in the system's cache only: the process before us may
    /// have ended between writing and syncing it. After a power cut the one before it would count,
    /// whose pages are free to us. So it is written again, and synced, before the first commit.
    pub(crate) meta_doubtful: bool,
    /// The pages of the freelist that the file came with.
    freelist: Option<Run>,
    /// The file's name was changed and the directory not synced yet.
    pub(crate) directory_doubtful: bool,
}

/// The part of the options that is about the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreOptions {
    pub(crate) growth_bytes: u64,
    pub(crate) map_bytes: u64,
    pub(crate) sync: bool,
}

impl From<&Options> for StoreOptions {
    fn from(options: &Options) -> StoreOptions {
        StoreOptions {
            growth_bytes: options.growth_bytes,
            map_bytes: options.map_bytes,
            sync: options.sync,
        }
    }
}

/// Pages that transactions from `from` to below `to` reach.
#[derive(Debug, Clone, Copy)]
struct Freed {
    run: Run,
    from: u64,
    to: u64,
}

/// What a transaction wrote, before its meta page.
pub(crate) struct Staged {
    pub(crate) tree: Arc<Tree>,
    taken: Vec<Run>,
    freed: Vec<Freed>,
    written: Vec<u64>,
}

impl Store {
    /// A store over a file whose pages are known.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        pages: &Pages,
        options: StoreOptions,
        free: PageSet,
        freelist: Option<Run>,
    ) -> Result<Store, Error> {
        let file_bytes = pages
            .file
            .len()
            .map_err(|source| Error::io(&pages.path, "look at", source))?;
        Ok(Store {
            disk,
            path: Arc::clone(&pages.path),
            file: Arc::clone(&pages.file),
            page_size: pages.page_size,
            options,
            file_bytes,
            mapping: Arc::clone(&pages.mapping),
            high_water: pages.high_water,
            free,
            living: VecDeque::new(),
            freed: Vec::new(),
            waiting: BTreeMap::new(),
            pending: PageSet::default(),
            written: BTreeMap::new(),
            doubtful: Vec::new(),
            doubtful_high_water: 0,
            meta_doubtful: true,
            freelist,
            directory_doubtful: false,
        })
    }

    /// Size up to the highest page, and the same without free pages.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        let page = self.page_size as u64;
        (
            self.high_water * page,
            self.high_water.saturating_sub(self.free.count()) * page,
        )
    }

    /// Writes a batch, durably. `base` is the last committed tree. After an error everything is as
    /// before, and the same can be tried again.
    pub(crate) fn commit(&mut self, base: &Arc<Tree>, batch: &Layer) -> Result<Arc<Tree>, Error> {
        if self.directory_doubtful {
            self.sync_directory()?;
        }
        if self.meta_doubtful {
            self.write_meta(&base.meta)?;
            self.meta_doubtful = false;
        }
        let maps = Bucket::ALL.map(|bucket| (bucket, batch.map(bucket)));
        let changes: Vec<BucketChanges<'_>> = maps
            .iter()
            .filter(|(_, map)| !map.is_empty())
            .map(|(bucket, map)| BucketChanges {
                name: bucket.name(),
                fill_percent: bucket.fill_percent(),
                sequence: None,
                changes: map
                    .iter()
                    .map(|(key, value)| Change {
                        key,
                        value: value.as_deref(),
                    })
                    .collect(),
            })
            .collect();
        let staged = self.stage(base, &changes)?;
        // On the second road: what was written reads back as what was meant, and what was not is as it was. A page that
        // was damaged under the running member would otherwise say how far the entries go.
        let (was, is) = (base.applied, staged.tree.applied);
        for (key, was, is) in [
            (CONSISTENT_INDEX_KEY, was.index, is.index),
            (TERM_KEY, was.term, is.term),
        ] {
            let meant = match batch.get(Bucket::Meta, key) {
                Some(Some(meant)) => meant,
                _ => Bytes::copy_from_slice(&was.to_be_bytes()),
            };
            if meant[..] != is.to_be_bytes() {
                let what = format!(
                    "meta/{} reads back as {is}, expected {meant:?}",
                    key.escape_ascii()
                );
                let error = staged
                    .tree
                    .pages
                    .explain(Damage::new(staged.tree.meta.root, what));
                self.give_back(staged.taken, base.meta.high_water);
                return Err(error);
            }
        }
        if let Err(error) = self.sync() {
            self.give_back(staged.taken, base.meta.high_water);
            return Err(error);
        }
        if let Err(error) = self.write_meta(&staged.tree.meta) {
            self.doubtful_high_water = self.doubtful_high_water.max(staged.tree.meta.high_water);
            self.doubtful.extend(staged.taken);
            return Err(error);
        }
        Ok(self.accept(base, staged))
    }

    /// Writes all pages of a transaction but its meta page, and syncs nothing.
    pub(crate) fn stage(
        &mut self,
        base: &Arc<Tree>,
        batch: &[BucketChanges<'_>],
    ) -> Result<Staged, Error> {
        self.release();
        let high_water_before = base.meta.high_water.max(self.doubtful_high_water);
        let allocator = Allocator::new(&mut self.free, high_water_before);
        let writer = PageWriter {
            path: &self.path,
            file: &*self.file,
            page_size: self.page_size,
            growth_bytes: self.options.growth_bytes,
            file_bytes: &mut self.file_bytes,
            buffer: Vec::new(),
            start: 0,
        };
        let mut rewrite = Rewrite::new(&base.pages, allocator, writer);
        let root = rewrite.run(base, batch);
        let Rewrite {
            allocator,
            freed,
            written,
            ..
        } = rewrite;
        let (taken, high_water) = allocator.finish();
        let staged = root.and_then(|root| {
            let meta = Meta {
                root,
                freelist: NO_FREELIST,
                high_water,
                txid: base.meta.txid + 1,
                ..base.meta
            };
            let freed = self.judge_freed(base, freed, &taken, meta.txid)?;
            self.map(high_water)?;
            let pages = Pages {
                mapping: Arc::clone(&self.mapping),
                high_water,
                ..base.pages.clone()
            };
            Ok((Arc::new(Tree::load(pages, meta)?), freed))
        });
        match staged {
            Ok((tree, freed)) => Ok(Staged {
                tree,
                taken,
                freed,
                written,
            }),
            Err(error) => {
                self.give_back(taken, high_water_before);
                Err(error)
            }
        }
    }

    /// Takes a staged transaction for the current one.
    pub(crate) fn accept(&mut self, base: &Arc<Tree>, staged: Staged) -> Arc<Tree> {
        let txid = staged.tree.meta.txid;
        self.living
            .push_back((base.meta.txid, Arc::downgrade(base)));
        for freed in &staged.freed {
            self.written.remove(&freed.run.start);
            let added = self.pending.insert(freed.run);
            assert!(
                added,
                "pages {}+{} are freed twice",
                freed.run.start, freed.run.len
            );
        }
        self.written
            .extend(staged.written.into_iter().map(|page| (page, txid)));
        self.freed.extend(staged.freed);
        self.freelist = None;
        self.high_water = staged.tree.meta.high_water;
        self.doubtful_high_water = 0;
        for run in std::mem::take(&mut self.doubtful) {
            self.set_free(run);
        }
        staged.tree
    }

    /// Frees the pages that no living tree reaches any more.
    pub(crate) fn release(&mut self) {
        let mut again = std::mem::take(&mut self.freed);
        let waiting = &mut self.waiting;
        self.living.retain(|(txid, tree)| {
            let lives = tree.strong_count() > 0;
            if !lives {
                again.extend(waiting.remove(txid).unwrap_or_default());
            }
            lives
        });
        // A count of zero was stored when the last reader let go: what it read, it read before we
        // write to those pages.
        fence(Ordering::Acquire);
        for freed in again {
            let above = self.living.partition_point(|(txid, _)| *txid < freed.to);
            match above.checked_sub(1).map(|at| self.living[at].0) {
                Some(youngest) if youngest >= freed.from => {
                    self.waiting.entry(youngest).or_default().push(freed)
                }
                _ => {
                    self.pending.remove(freed.run);
                    self.set_free(freed.run);
                }
            }
        }
        if self.living.is_empty() {
            self.written.clear();
        }
    }

    /// Makes all data written so far durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        if !self.options.sync {
            return Ok(());
        }
        self.file
            .sync_data()
            .map_err(|source| Error::io(&self.path, "sync", source))
    }

    /// Writes the meta page of a transaction, and makes it durable.
    pub(crate) fn write_meta(&self, meta: &Meta) -> Result<(), Error> {
        let mut page = vec![0; self.page_size];
        meta.write(meta.page(), &mut page);
        self.file
            .write_all_at(&page, meta.page() * self.page_size as u64)
            .map_err(|source| Error::io(&self.path, "write a meta page of", source))?;
        self.sync()
    }

    pub(crate) fn sync_directory(&mut self) -> Result<(), Error> {
        let directory = directory_of(&self.path);
        self.disk
            .sync_dir(directory)
            .map_err(|source| Error::io(directory, "sync the directory of", source))?;
        self.directory_doubtful = false;
        Ok(())
    }

    /// Each page may be freed once, must have been in use, and not be written by the same transaction.
    fn judge_freed(
        &self,
        base: &Tree,
        freed: Vec<Run>,
        taken: &[Run],
        txid: u64,
    ) -> Result<Vec<Freed>, Error> {
        let mut freed: Vec<Freed> = freed
            .into_iter()
            .chain(self.freelist)
            .map(|run| Freed {
                run,
                from: self.written.get(&run.start).copied().unwrap_or(0),
                to: txid,
            })
            .collect();
        freed.sort_unstable_by_key(|freed| freed.run);
        let twice = freed
            .windows(2)
            .find(|pair| pair[0].run.end() > pair[1].run.start)
            .map(|pair| pair[1].run.start);
        if let Some(page) = twice {
            return Err(base
                .pages
                .explain(Damage::new(page, "it is in the tree twice")));
        }
        let mut taken = taken.to_vec();
        taken.sort_unstable();
        for Freed { run, .. } in &freed {
            let above = taken.partition_point(|taken| taken.start < run.end());
            if let Some(taken) = above.checked_sub(1).map(|at| taken[at])
                && taken.end() > run.start
            {
                let what = format!(
                    "it is in the tree, but was free until pages {}+{} were written",
                    taken.start, taken.len
                );
                return Err(base.pages.explain(Damage::new(run.start, what)));
            }
        }
        let unused = |page: &u64| self.free.contains(*page) || self.pending.contains(*page);
        if let Some(page) = freed
            .iter()
            .flat_map(|freed| freed.run.start..freed.run.end())
            .find(unused)
        {
            return Err(base
                .pages
                .explain(Damage::new(page, "it is in the tree, but was freed before")));
        }
        Ok(freed)
    }

    /// A mapping that reaches up to the high water mark.
    fn map(&mut self, high_water: u64) -> Result<(), Error> {
        let needed = high_water * self.page_size as u64;
        if needed > self.mapping.len() {
            self.mapping = map(&self.path, &*self.file, needed, self.options.map_bytes)?;
        }
        Ok(())
    }

    fn give_back(&mut self, taken: Vec<Run>, high_water: u64) {
        let high_water = high_water.max(self.doubtful_high_water);
        for run in taken {
            // What lies beyond the mark was never a page; a run may reach over it.
            let end = run.end().min(high_water);
            if run.start < end {
                self.set_free(Run {
                    start: run.start,
                    len: end - run.start,
                });
            }
        }
    }

    fn set_free(&mut self, run: Run) {
        let added = self.free.insert(run);
        assert!(
            added,
            "pages {}+{} are freed, and were free already",
            run.start, run.len
        );
    }
}

/// Maps a file with room to grow, so that few mappings are made in a file's life.
pub(crate) fn map(
    path: &Path,
    file: &dyn DiskFile,
    needed: u64,
    map_bytes: u64,
) -> Result<Arc<dyn Mapping>, Error> {
    let len = (needed + needed / 2)
        .max(map_bytes)
        .next_multiple_of(1 << 20);
    file.map(len)
        .map_err(|source| Error::io(path, "map", source))
}

pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Gathers pages that lie side by side, and writes them at once.
#[derive(Debug)]
pub(crate) struct PageWriter<'w> {
    path: &'w Path,
    file: &'w dyn DiskFile,
    page_size: usize,
    growth_bytes: u64,
    file_bytes: &'w mut u64,
    buffer: Vec<u8>,
    /// The page that the buffer begins with.
    start: u64,
}

impl PageWriter<'_> {
    /// Adds a page with its overflow; `fill` gets it zeroed.
    pub(crate) fn page(&mut self, run: Run, fill: impl FnOnce(&mut [u8])) -> Result<(), Error> {
        let at = self.buffer.len();
        if at >= WRITE_BYTES || run.start != self.start + (at / self.page_size) as u64 {
            self.flush()?;
            self.start = run.start;
        }
        let at = self.buffer.len();
        self.buffer
            .resize(at + run.len as usize * self.page_size, 0);
        fill(&mut self.buffer[at..]);
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let offset = self.start * self.page_size as u64;
        self.grow(offset + self.buffer.len() as u64)?;
        let written = self.file.write_all_at(&self.buffer, offset);
        self.start += (self.buffer.len() / self.page_size) as u64;
        self.buffer.clear();
        written.map_err(|source| Error::io(self.path, "write", source))
    }

    /// Space is reserved before it is written to: so a full disk is met here, and not by a sync.
    fn grow(&mut self, needed: u64) -> Result<(), Error> {
        if needed <= *self.file_bytes {
            return Ok(());
        }
        let from = *self.file_bytes;
        let step = needed.next_multiple_of(self.growth_bytes.max(1));
        let grown = self.file.allocate(from, step - from).or_else(|error| {
            // Not room for a whole step: what is needed now may still fit.
            if step == needed {
                Err(error)
            } else {
                self.file.allocate(from, needed - from)
            }
        });
        let len = self
            .file
            .len()
            .map_err(|source| Error::io(self.path, "look at", source))?;
        *self.file_bytes = len;
        match grown {
            Ok(()) => Ok(()),
            Err(source) => Err(Error::io(self.path, "grow", source)),
        }
    }
}
