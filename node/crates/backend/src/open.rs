//! Opening a file, or making it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seams::{Disk, DiskFile, OpenMode};

use crate::Options;
use crate::bucket::Bucket;
use crate::error::Error;
use crate::meta::{BadMeta, MAGIC, META_BYTES, Meta, NO_FREELIST, PAGE_BYTES_MAX, PAGE_BYTES_MIN};
use crate::page::{ELEMENT_BUCKET, ELEMENT_BYTES, FLAG_LEAF, PAGE_HEADER_BYTES, PageHeader};
use crate::pages::Pages;
use crate::store::{Store, StoreOptions, directory_of, map};
use crate::tree::Tree;
use crate::walk::walk;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Pages of a new file: two meta pages and the root bucket.
const NEW_PAGES: u64 = 3;

impl Store {
    /// Opens the file at `path`, or makes it; takes its lock.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        options: &Options,
    ) -> Result<(Store, Arc<Tree>), Error> {
        let io = |action| move |source| Error::io(path, action, source);
        let file = disk.open(path, OpenMode::Create).map_err(io("open"))?;
        if !file.try_lock_exclusive().map_err(io("lock"))? {
            return Err(Error::Locked {
                path: path.to_path_buf(),
            });
        }
        if is_unmade(&*file).map_err(io("read"))? {
            make(&*file, path, options.page_bytes)?;
            let directory = directory_of(path);
            disk.sync_dir(directory)
                .map_err(|source| Error::io(directory, "sync the directory of", source))?;
        }
        remove_leftovers(&*disk, path).map_err(io("remove what a defragmentation left beside"))?;
        Store::over(disk, path, file, StoreOptions::from(options))
    }

    /// Over a file that is made and locked.
    pub(crate) fn over(
        disk: Arc<dyn Disk>,
        path: &Path,
        file: Arc<dyn DiskFile>,
        options: StoreOptions,
    ) -> Result<(Store, Arc<Tree>), Error> {
        let meta = read_meta(path, &*file)?;
        let page_size = meta.page_size as usize;
        let needed = meta.high_water * page_size as u64;
        let len = file
            .len()
            .map_err(|source| Error::io(path, "look at", source))?;
        if len < needed {
            return Err(Error::Truncated {
                path: path.to_path_buf(),
                len,
                needed,
            });
        }
        let mapping = map(path, &*file, needed, options.map_bytes)?;
        let path = Arc::new(path.to_path_buf());
        let pages = Pages {
            path,
            file,
            mapping,
            page_size,
            high_water: meta.high_water,
        };
        let (used, freelist) = walk(&pages, &meta).map_err(|damage| pages.explain(damage))?;
        let free = used.complement(2, meta.high_water);
        let tree = Tree::load(pages.clone(), meta)?;
        let store = Store::new(disk, &pages, options, free, freelist)?;
        Ok((store, Arc::new(tree)))
    }

    /// A new, empty file beside `path`, for a copy; locked.
    pub(crate) fn create_beside(
        disk: Arc<dyn Disk>,
        path: &Path,
        page_size: usize,
        options: StoreOptions,
    ) -> Result<(PathBuf, Store, Arc<Tree>), Error> {
        let mut number = 0;
        let (temporary, file) = loop {
            let temporary = temporary_path(path, number);
            match disk.open(&temporary, OpenMode::CreateNew) {
                Ok(file) => break (temporary, file),
                Err(error)
                    if error.kind() == std::io::ErrorKind::AlreadyExists && number < 1000 =>
                {
                    number += 1
                }
                Err(source) => return Err(Error::io(&temporary, "make", source)),
            }
        };
        if !file
            .try_lock_exclusive()
            .map_err(|source| Error::io(&temporary, "lock", source))?
        {
            return Err(Error::Locked { path: temporary });
        }
        make(&*file, &temporary, page_size)?;
        let (store, tree) = Store::over(disk, &temporary, file, options)?;
        Ok((temporary, store, tree))
    }
}

/// `db.tmp.<n>`, as etcd calls it (and removes it when it starts).
fn temporary_path(path: &Path, number: u32) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".tmp.{number}"));
    path.with_file_name(name)
}

/// A defragmentation that was cut off leaves its copy. We hold the lock of the database, so nobody
/// is writing one.
fn remove_leftovers(disk: &dyn Disk, path: &Path) -> std::io::Result<()> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(());
    };
    let prefix = format!("{name}.tmp.");
    let directory = directory_of(path);
    for name in disk.read_dir(directory)? {
        if name.starts_with(&prefix) {
            disk.remove_file(&directory.join(name))?;
        }
    }
    Ok(())
}

/// Whether nobody finished making this file: it is empty, or holds only zeros and perhaps parts of the
/// root bucket that [`make`] writes first.
fn is_unmade(file: &dyn DiskFile) -> std::io::Result<bool> {
    let len = file.len()?;
    if len > NEW_PAGES * PAGE_BYTES_MAX as u64 {
        return Ok(false);
    }
    let mut content = vec![0; len as usize];
    file.read_exact_at(&mut content, 0)?;
    let is_unmade = page_sizes().any(|size| {
        let (metas, root) = content.split_at((2 * size).min(content.len()));
        let meant = new_root(size);
        // A power cut may have left any of its sectors out.
        let sectors = root.chunks(SECTOR_BYTES).zip(meant.chunks(SECTOR_BYTES));
        root.len() <= size
            && metas.iter().all(|byte| *byte == 0)
            && sectors
                .into_iter()
                .all(|(seen, meant)| meant.starts_with(seen) || seen.iter().all(|byte| *byte == 0))
    });
    Ok(is_unmade)
}

/// Writes a file with etcd's buckets, all empty: first the root bucket, then both meta pages.
fn make(file: &dyn DiskFile, path: &Path, page_size: usize) -> Result<(), Error> {
    if !page_size.is_power_of_two() || !(PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_size) {
        let what = format!(
            "a page size of {page_size} was asked for, expected a power of two from {PAGE_BYTES_MIN} to {PAGE_BYTES_MAX}"
        );
        return Err(Error::Unsupported {
            path: path.to_path_buf(),
            what,
        });
    }
    let io = |source| Error::io(path, "make", source);
    file.write_all_at(&new_root(page_size), 2 * page_size as u64)
        .map_err(io)?;
    file.sync_data().map_err(io)?;
    let mut metas = vec![0; 2 * page_size];
    for txid in 0..2 {
        let meta = Meta {
            page_size: page_size as u32,
            flags: 0,
            root: 2,
            sequence: 0,
            freelist: NO_FREELIST,
            high_water: NEW_PAGES,
            txid,
        };
        let at = txid as usize * page_size;
        meta.write(txid, &mut metas[at..at + page_size]);
    }
    file.write_all_at(&metas, 0).map_err(io)?;
    file.sync_data().map_err(io)
}

/// A leaf with ten empty inline buckets.
fn new_root(page_size: usize) -> Vec<u8> {
    let mut names = Bucket::ALL.map(Bucket::name);
    names.sort_unstable();
    let mut empty = [0; 32];
    PageHeader {
        id: 0,
        flags: FLAG_LEAF,
        count: 0,
        overflow: 0,
    }
    .write(&mut empty[16..]);
    let mut page = vec![0; page_size];
    PageHeader {
        id: 2,
        flags: FLAG_LEAF,
        count: names.len() as u16,
        overflow: 0,
    }
    .write(&mut page);
    let mut data = PAGE_HEADER_BYTES + names.len() * ELEMENT_BYTES;
    for (index, name) in names.into_iter().enumerate() {
        let at = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
        let words = [
            ELEMENT_BUCKET,
            (data - at) as u32,
            name.len() as u32,
            empty.len() as u32,
        ];
        for (place, word) in words.into_iter().enumerate() {
            page[at + 4 * place..at + 4 * place + 4].copy_from_slice(&word.to_le_bytes());
        }
        page[data..data + name.len()].copy_from_slice(name);
        data += name.len();
        page[data..data + empty.len()].copy_from_slice(&empty);
        data += empty.len();
    }
    page
}

fn page_sizes() -> impl Iterator<Item = usize> {
    std::iter::successors(Some(PAGE_BYTES_MIN), |size| Some(size * 2))
        .take_while(|size| *size <= PAGE_BYTES_MAX)
}

/// The meta page of the last commit: of those that are sound, the one of the later transaction.
fn read_meta(path: &Path, file: &dyn DiskFile) -> Result<Meta, Error> {
    let read = |offset: u64| -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; META_BYTES];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(source) => return Err(Error::io(path, "read", source)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    };
    let first_bytes = read(0)?;
    let first = Meta::read(&first_bytes);
    let mut second: Option<Result<Meta, BadMeta>> = None;
    // Where the second one lies depends on the page size, which a bad first one does not tell.
    let sizes: Vec<usize> = match &first {
        Ok(meta) => vec![meta.page_size as usize],
        Err(_) => page_sizes().collect(),
    };
    for size in sizes {
        let found = Meta::read(&read(size as u64)?).and_then(|meta| {
            if meta.page_size as usize == size {
                Ok(meta)
            } else {
                Err(BadMeta::Field(format!(
                    "page size {} at offset {size}",
                    meta.page_size
                )))
            }
        });
        let done = found.is_ok();
        let tells_more =
            second.is_none() || !matches!(found, Err(BadMeta::Magic(_) | BadMeta::Short(_)));
        if tells_more {
            second = Some(found);
        }
        if done {
            break;
        }
    }
    let second = second.unwrap_or(Err(BadMeta::Short(0)));
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(if second.txid > first.txid {
            second
        } else {
            first
        }),
        (Ok(meta), Err(_)) | (Err(_), Ok(meta)) => Ok(meta),
        (Err(BadMeta::Version(seen)), Err(_)) => Err(Error::Unsupported {
            path: path.to_path_buf(),
            what: format!(
                "bolt format version {seen}, expected {}",
                crate::meta::VERSION
            ),
        }),
        (Err(BadMeta::Magic(seen)), Err(BadMeta::Magic(_) | BadMeta::Short(_))) => {
            let len = file
                .len()
                .map_err(|source| Error::io(path, "look at", source))?;
            Err(Error::NotBolt {
                path: path.to_path_buf(),
                seen,
                expected: MAGIC,
                len,
            })
        }
        (Err(first), Err(second)) => Err(Error::BadMeta {
            path: path.to_path_buf(),
            first: first.to_string(),
            second: second.to_string(),
        }),
    }
}
