//! Beside the programs of etcd and bbolt, and over a file of etcd.

use std::fs::File;
use std::io::Write as _;

use super::*;

/// The folder with real etcd's programs, made by `make tools`, or `None` when the test is left out.
fn tools(test: &str) -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target/tools");
    let tools = std::env::var_os("QUORATE_TOOLS").map_or(default, PathBuf::from);
    if tools.join("bbolt").exists() && tools.join("etcdutl").exists() {
        return Some(tools);
    }
    let reason = format!(
        "no bbolt and etcdutl in {}; run `make tools`",
        tools.display()
    );
    let all = std::env::var("QUORATE_TESTS").is_ok_and(|tests| tests == "all");
    assert!(!all, "{test}: {reason}");
    left_out(test, &reason);
    None
}

/// As testkit says it, which is above this room.
fn left_out(test: &str, reason: &str) {
    eprintln!("left out: {test}: {reason}");
    if let Some(path) = std::env::var_os("QUORATE_LEFT_OUT") {
        let file = File::options().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(format!("{test}\t{reason}\n").as_bytes()))
            .expect("the file that QUORATE_LEFT_OUT names can be written");
    }
}

fn run(program: PathBuf, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let output = std::process::Command::new(&program)
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert!(output.status.success(), "{}: {text}", program.display());
    text
}

#[test]
fn bbolt_finds_our_files_sound_and_we_read_what_it_writes() {
    let Some(tools) = tools("bbolt_checks") else {
        return;
    };
    for seed in seeds(6) {
        let mut rng = SeededRng::new(seed);
        let page_bytes = [4096, 4096, 16384, 65536][rng.below(4) as usize];
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let open = || open_real(&path, options(page_bytes));
        let (backend, writer, committer) = open();
        let mut store = Store {
            backend,
            writer,
            committer,
            model: Model::new(),
            index: 0,
        };
        let mut views = Vec::new();
        for _ in 0..40 {
            for _ in 0..5 {
                store.random_entry(&mut rng, true);
            }
            store.commit();
            views.push(store.backend.view());
            if rng.one_in(3) {
                views.clear();
            }
        }
        if rng.one_in(2) {
            store.committer.defragment().unwrap();
            store.random_entry(&mut rng, true);
            store.commit();
        }
        let sent = directory.path().join("sent");
        std::fs::write(&sent, copy_out(&store.backend.snapshot())).unwrap();
        let Store {
            backend,
            writer,
            committer,
            model,
            ..
        } = store;
        drop((backend, writer, committer, views));
        for file in [&path, &sent] {
            assert_eq!(run(tools.join("bbolt"), &[&"check", file]).trim(), "OK");
        }
        // bbolt writes it anew, with a freelist, and we go on from there.
        let compacted = directory.path().join("compacted");
        run(tools.join("bbolt"), &[&"compact", &"-o", &compacted, &path]);
        std::fs::rename(&compacted, &path).unwrap();
        let (backend, writer, committer) = open();
        let index = backend.committed_index();
        let mut store = Store {
            backend,
            writer,
            committer,
            model,
            index,
        };
        assert_holds(&store.backend.view(), &store.model);
        for _ in 0..5 {
            store.random_entry(&mut rng, true);
            store.commit();
        }
        assert_holds(&store.backend.view(), &store.model);
        drop((store.backend, store.writer, store.committer));
        assert_eq!(run(tools.join("bbolt"), &[&"check", &path]).trim(), "OK");
    }
}

#[test]
fn etcdutl_reads_a_snapshot_and_defragments_our_file() {
    let Some(tools) = tools("etcdutl_defragments") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("member/snap")).unwrap();
    let path = directory.path().join("member/snap/db");
    let (backend, writer, committer) = open_real(&path, Options::default());
    let mut store = Store {
        backend,
        writer,
        committer,
        model: Model::new(),
        index: 0,
    };
    for revision in 2..1500u64 {
        let key = [&revision.to_be_bytes()[..], b"_", &0u64.to_be_bytes()].concat();
        // mvccpb.KeyValue: key (1) of 2 bytes, value (5) of 300.
        let user_key = (revision as u16).to_be_bytes();
        let value = [
            &[0x0A, 2][..],
            &user_key,
            &[0x2A, 0xAC, 0x02],
            &[revision as u8; 300],
        ]
        .concat();
        store.put(Bucket::Key, &key, value.into());
        store.end_entry();
        if revision % 400 == 0 {
            store.commit();
        }
    }
    store.commit();
    let sent = directory.path().join("sent");
    std::fs::write(&sent, copy_out(&store.backend.snapshot())).unwrap();
    let status = run(
        tools.join("etcdutl"),
        &[&"snapshot", &"status", &"--write-out=json", &sent],
    );
    let expected = format!(
        "\"revision\":1499,\"totalKey\":1498,\"totalSize\":{}",
        store.backend.size_bytes()
    );
    assert!(status.contains(&expected), "{expected} expected, {status}");
    // etcd's own writer, without a freelist as in a member.
    let model = store.model.clone();
    drop(store);
    run(
        tools.join("etcdutl"),
        &[&"defrag", &"--data-dir", &directory.path()],
    );
    let (backend, writer, committer) = open_real(&path, Options::default());
    let index = backend.committed_index();
    let mut store = Store {
        backend,
        writer,
        committer,
        model,
        index,
    };
    assert_holds(&store.backend.view(), &store.model);
    store.put(Bucket::Alarm, b"alarm", Bytes::new());
    store.end_entry();
    store.commit();
    drop((store.backend, store.writer, store.committer));
    assert_eq!(run(tools.join("bbolt"), &[&"check", &path]).trim(), "OK");
}

/// A member of etcd 3.7.3, quota 200,000 bytes, was given 40 keys, a lease with a key, a deletion, a
/// value of 9000 bytes, a role, a user, a value of 100,000 bytes, and two more that it refused (alarm
/// NOSPACE), then a compaction to revision 20. Its `member/snap/db` was cut to the high water mark.
const ETCD_DB: &[u8] = include_bytes!("../../testdata/etcd-3.7.3.db");

#[test]
fn a_file_of_etcd_is_read_and_carried_on() {
    let disk = disk_with(ETCD_DB);
    let mut store = Store::open(&disk, 4096, Model::new()).unwrap();
    assert_eq!(
        (
            store.backend.committed_index(),
            store.backend.committed().term
        ),
        (57, 2)
    );
    // As etcd reported them.
    assert_eq!(store.backend.size_bytes(), 151_552);
    assert_eq!(store.backend.size_in_use_bytes(), 151_552 - 5 * 4096);
    let view = store.backend.view();
    let text = |bucket, key: &[u8]| {
        view.get(bucket, key)
            .unwrap()
            .map(|value| value.escape_ascii().to_string())
    };
    assert_eq!(
        text(Bucket::Cluster, b"clusterVersion").as_deref(),
        Some("3.7.0")
    );
    assert_eq!(
        text(Bucket::Meta, b"storageVersion").as_deref(),
        Some("3.7.0")
    );
    assert!(
        text(Bucket::Members, b"bdae9bbc11dd390d")
            .unwrap()
            .contains("fixture")
    );
    assert!(
        text(Bucket::AuthUsers, b"alice").is_some() && text(Bucket::AuthRoles, b"reader").is_some()
    );
    let counts = Bucket::ALL.map(|bucket| scan_all(&view, bucket, &[], None).len());
    assert_eq!(counts, [44, 6, 1, 1, 1, 1, 0, 1, 1, 1]);
    let names: Vec<_> = view.bucket_names();
    assert_eq!(names.len(), 10);
    let last = scan_all(&view, Bucket::Key, &45u64.to_be_bytes(), None);
    assert_eq!((last.len(), last[0].1.len()), (1, 100_016));
    drop(view);

    for bucket in Bucket::ALL {
        let content = scan_all(&store.backend.view(), bucket, &[], None);
        store.model.insert(bucket, content.into_iter().collect());
    }
    let mut rng = SeededRng::new(2);
    for _ in 0..10 {
        store.random_entry(&mut rng, true);
        store.commit();
    }
    assert_holds(&store.backend.view(), &store.model);
    let crashed = Store::open(&disk.crashed(&mut rng), 4096, Model::new()).unwrap();
    assert_holds(&crashed.backend.view(), &store.model);
}
