//! Files that are not what they should be.

use super::*;

#[test]
fn a_second_opener_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let disk = Arc::new(RealDisk);
    let first = open_real(&path, options(4096));
    let view = first.0.view();
    let error =
        Backend::open(Arc::clone(&disk) as Arc<dyn Disk>, &path, options(4096)).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    drop((first, view));
    open_real(&path, options(4096));
}

#[test]
fn unfit_files_are_refused_with_a_reason() {
    let open = |bytes: &[u8]| {
        Store::open(&disk_with(bytes), 4096, Model::new())
            .err()
            .map(|error| error.to_string())
    };
    let disk = MemDisk::new();
    let mut rng = SeededRng::new(1);
    let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
    for _ in 0..5 {
        store.random_entry(&mut rng, true);
        store.commit();
    }
    drop(store);
    let good = file_bytes(&disk);
    assert_eq!(open(&good), None);

    let text = open(&b"hello, this is not a database. ".repeat(500)).unwrap();
    assert!(
        text.starts_with("db is not a bolt database: magic 0x6120746f"),
        "{text}"
    );

    let text = open(&good[..8 * 4096]).unwrap();
    assert!(
        text.starts_with("database db is cut short: it has 32768 bytes"),
        "{text}"
    );

    let mut version = good.clone();
    version[20] = 3;
    version[4096 + 20] = 3;
    let text = open(&version).unwrap();
    assert!(text.contains("bolt format version 3, expected 2"), "{text}");

    let mut metas = good.clone();
    metas[60] ^= 1;
    metas[4096 + 60] ^= 1;
    let text = open(&metas).unwrap();
    assert!(
        text.starts_with("database db has no sound meta page: page 0: checksum"),
        "{text}"
    );

    // Either one alone is enough; the other one's page size is looked for.
    for torn in [0, 4096] {
        let mut torn_bytes = good.clone();
        torn_bytes[torn..torn + 4096].fill(0xFF);
        assert_eq!(open(&torn_bytes), None);
    }

    // Both meta pages gone is not a file that nobody finished making.
    let mut zeroed = good.clone();
    zeroed[..2 * 4096].fill(0);
    assert!(open(&zeroed).is_some());
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let mut rng = SeededRng::new(11);
    let disk = MemDisk::new();
    let mut store = Store::open(&disk, 1024, Model::new()).unwrap();
    for _ in 0..40 {
        store.random_entry(&mut rng, true);
    }
    for index in 0..3000u32 {
        store.put(Bucket::Key, &index.to_be_bytes(), vec![1; 20].into());
    }
    store.end_entry();
    store.commit();
    drop(store);
    let good = file_bytes(&disk);
    let mut refused = 0;
    let seeds = seeds(600);
    let files = seeds.left();
    for seed in seeds {
        let mut rng = SeededRng::new(seed);
        let mut bytes = good.clone();
        let at = |rng: &mut SeededRng| rng.below(good.len() as u64) as usize;
        let page = |rng: &mut SeededRng| rng.below(good.len() as u64 / 1024) as usize * 1024;
        for _ in 0..1 + rng.below(3) {
            match rng.below(6) {
                0 => {
                    let at = at(&mut rng);
                    bytes[at] = rng.next_u64() as u8;
                }
                1 => {
                    // Where headers and elements are.
                    let at = page(&mut rng) + rng.below(64) as usize;
                    bytes[at] ^= 1 << rng.below(8);
                }
                2 => {
                    let (from, to) = (page(&mut rng), page(&mut rng));
                    bytes.copy_within(from..from + 1024, to);
                }
                3 => {
                    // The right number on a wrong page.
                    let (from, to) = (page(&mut rng), page(&mut rng));
                    bytes.copy_within(from..from + 1024, to);
                    bytes[to..to + 8].copy_from_slice(&(to as u64 / 1024).to_le_bytes());
                }
                4 => {
                    let at = page(&mut rng);
                    rng.fill(&mut bytes[at..at + 1024]);
                }
                _ => {
                    // One page points to another.
                    let at = page(&mut rng) + 16 + 16 * rng.below(8) as usize + 8;
                    let to = rng.below(good.len() as u64 / 1024);
                    bytes[at..at + 8].copy_from_slice(&to.to_le_bytes());
                }
            }
        }
        let disk = disk_with(&bytes);
        let damage_later = rng.one_in(3);
        let opened = if damage_later {
            Store::open(&disk_with(&good), 1024, Model::new())
        } else {
            Store::open(&disk, 1024, Model::new())
        };
        let Ok(mut store) = opened else {
            refused += 1;
            continue;
        };
        let target = if damage_later {
            // Under a running member: what open has checked is not believed later.
            let disk = disk_with(&good);
            store = Store::open(&disk, 1024, Model::new()).unwrap();
            let file = disk.open(Path::new(PATH), OpenMode::ReadWrite).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            store
        } else {
            store
        };
        use_everything(target, &mut rng);
    }
    assert!(
        refused > 100 || files < 600,
        "only {refused} of {files} damaged files were refused"
    );
}

/// How far the entries go is known; a page that says otherwise is damaged, whatever its checksum would say.
#[test]
fn an_index_that_was_damaged_under_a_running_member_is_not_believed() {
    const NAME: &[u8] = b"consistent_index";
    let disk = MemDisk::new();
    let mut rng = SeededRng::new(12);
    let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
    // A bucket that is too large to lie in the root page, which is read once.
    store.put(Bucket::Meta, b"large", vec![1; 3000].into());
    store.random_entry(&mut rng, true);
    store.commit();
    let index = store.backend.committed_index();
    let mut bytes = file_bytes(&disk);
    let mut places = 0;
    for at in 0..bytes.len() - NAME.len() - 8 {
        if bytes[at..].starts_with(NAME) {
            bytes[at + NAME.len()] ^= 0x40;
            places += 1;
        }
    }
    assert!(places > 0, "the index is in the file");
    let file = disk.open(Path::new(PATH), OpenMode::ReadWrite).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    store
        .writer
        .put(Bucket::Meta, b"another", Bytes::from_static(b"value"));
    store.writer.end_local();
    let error = store.committer.commit().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("meta/consistent_index reads back as "),
        "{error}"
    );
    assert_eq!(store.backend.committed_index(), index);
    let error = store.committer.defragment().unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
}

/// Reads and writes without caring for the results.
fn use_everything(mut store: Store, rng: &mut SeededRng) {
    let view = store.backend.view();
    for bucket in Bucket::ALL {
        let _ = view.scan(bucket, &[], None, &mut |_, _| ControlFlow::Continue(()));
        for _ in 0..5 {
            let _ = view.get(bucket, &random_key(rng));
            let _ = view.get(bucket, &(rng.below(3000) as u32).to_be_bytes());
        }
    }
    for index in 0..10u32 {
        let key = (index * 311).to_be_bytes();
        if rng.one_in(2) {
            store
                .writer
                .put(Bucket::Key, &key, Bytes::from_static(b"new"));
        } else {
            store.writer.delete(Bucket::Key, &key);
        }
    }
    store.writer.end_local();
    let _ = store.committer.commit();
    let _ = store.committer.defragment();
    let _ = store.committer.commit();
}
