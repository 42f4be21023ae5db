//! Bad disks, bad directories, bad words: each refused in words, and nothing lost.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use testkit::{Cluster, Kind, Member, Spec, eventually, left_out, quorate};

use crate::load::{Acknowledged, Load, assert_holds, read_all};

const MISSING: &str = "etcdctl is missing; run `make tools`";

/// One member of ours that took some writes and was killed.
fn killed(name: &str, flags: &[&str]) -> Option<(Cluster, Acknowledged)> {
    let spec = flags
        .iter()
        .fold(Spec::of(Kind::Quorate, 1), |spec, flag| spec.flag(flag));
    let Some(mut cluster) = Cluster::start(&spec) else {
        left_out(name, MISSING);
        return None;
    };
    let load = Load::start(&cluster.endpoints(), "k", 10);
    eventually("a load", Duration::from_secs(60), || match load.count() {
        count if count >= 1000 => Ok(()),
        count => Err(format!("{count} puts")),
    });
    cluster.members[0].kill();
    let acknowledged = load.finish();
    Some((cluster, acknowledged))
}

fn segments(member: &Member) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(member.data_dir.join("member/wal"))
        .expect("the log's folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    files.sort();
    files
}

/// A start that must end by itself; what it said.
fn refusal(member: &mut Member) -> String {
    member.spawn();
    let code = eventually("a refusal", Duration::from_secs(20), || {
        member.exited().ok_or_else(|| "it runs".to_owned())
    });
    assert!(
        !code.success(),
        "the start was not refused:\n{}",
        member.log_text()
    );
    member.log_text()
}

/// Where the log's records end: before the preallocated zeros.
fn end_of_records(path: &PathBuf) -> u64 {
    let bytes = std::fs::read(path).expect("the segment");
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last as u64 + 1)
}

#[test]
fn a_torn_end_of_the_log_is_cut_off() {
    let Some((mut cluster, acknowledged)) = killed("torn_tail", &[]) else {
        return;
    };
    let last = segments(&cluster.members[0]).pop().expect("a segment");
    // A record whose length is there and whose bytes never came: 4000 bytes were to follow.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&last)
        .expect("the segment");
    let end = end_of_records(&last).next_multiple_of(8);
    file.write_all_at(&4000u64.to_le_bytes(), end)
        .expect("a write");
    file.write_all_at(b"half a record", end + 8)
        .expect("a write");
    cluster.members[0].start();
    assert_holds(&read_all(&cluster.endpoints(), "k"), &acknowledged);
}

#[test]
fn damage_in_the_middle_of_the_log_refuses_the_start_and_names_the_place() {
    let Some((mut cluster, _)) = killed("damaged_log", &[]) else {
        return;
    };
    let first = segments(&cluster.members[0]).remove(0);
    let place = end_of_records(&first) / 2;
    flip(&first, place);
    let said = refusal(&mut cluster.members[0]);
    let name = first
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    assert!(
        said.contains(&name) && said.contains("damaged at offset"),
        "{said}"
    );
}

fn flip(path: &PathBuf, place: u64) {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).expect("a read");
    file.write_all_at(&[byte[0] ^ 0x55], place)
        .expect("a write");
}

#[test]
fn a_damaged_page_refuses_the_start_and_names_the_page() {
    let Some((mut cluster, _)) = killed("damaged_page", &[]) else {
        return;
    };
    // A stop in order leaves everything committed, so that every page in use matters.
    cluster.members[0].start();
    cluster.members[0].terminate();
    let database = cluster.members[0].database();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&database)
        .expect("it");
    // Every page but the two metas loses its header: flags and counts.
    let pages = file.metadata().expect("metadata").len() / 4096;
    for page in 2..pages {
        file.write_all_at(&[0xff; 16], page * 4096)
            .expect("a write");
    }
    let said = refusal(&mut cluster.members[0]);
    assert!(
        said.contains("member/snap/db") && said.contains("page"),
        "{said}"
    );
}

/// One page alone: the refusal says which one.
#[test]
fn a_damaged_leaf_refuses_the_start_and_is_named() {
    let Some((mut cluster, _)) = killed("damaged_leaf", &[]) else {
        return;
    };
    cluster.members[0].start();
    cluster.members[0].terminate();
    let database = cluster.members[0].database();
    let bytes = std::fs::read(&database).expect("the database");
    let page = first_leaf(&bytes, b"key");
    // More elements than a page can hold.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&database)
        .expect("the database");
    let count = page * PAGE_BYTES as u64 + 10;
    file.write_all_at(&[0xff; 2], count).expect("a write");
    let said = refusal(&mut cluster.members[0]);
    assert!(
        said.contains("member/snap/db") && said.contains(&format!("page {page} ")),
        "page {page} was damaged: {said}"
    );
    // It alone: made whole again, it starts.
    let whole = &bytes[count as usize..][..2];
    file.write_all_at(whole, count).expect("a write");
    cluster.members[0].start();
}

/// bbolt's pages on this machine.
const PAGE_BYTES: usize = 4096;

/// The first leaf of a bucket that has more than one page, by bbolt's format.
fn first_leaf(bytes: &[u8], bucket: &[u8]) -> u64 {
    const HEADER: usize = 16;
    const LEAF: u16 = 2;
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    // Of two meta pages the one with the higher transaction counts; the root's page is its fifth
    // number, the transaction the last but one.
    let meta = |page: usize| (u64_at(page * PAGE_BYTES + HEADER + 48), page);
    let (_, newest) = meta(0).max(meta(1));
    let root = u64_at(newest * PAGE_BYTES + HEADER + 16) as usize * PAGE_BYTES;
    let is_leaf = |at: usize| u16::from_le_bytes([bytes[at + 8], bytes[at + 9]]) == LEAF;
    assert!(is_leaf(root), "the list of buckets is one page");
    let count = usize::from(u16::from_le_bytes([bytes[root + 10], bytes[root + 11]]));
    let mut page = (0..count)
        .map(|element| root + HEADER + element * 16)
        .find_map(|element| {
            let name = element + u32_at(element + 4) as usize;
            let value = name + u32_at(element + 8) as usize;
            (&bytes[name..value] == bucket).then(|| u64_at(value))
        })
        .expect("the bucket is there");
    while !is_leaf(page as usize * PAGE_BYTES) {
        // A branch's element: position, length of its key, page.
        page = u64_at(page as usize * PAGE_BYTES + HEADER + 8);
    }
    page
}

#[test]
fn a_directory_that_runs_already_is_refused() {
    let spec = Spec::of(Kind::Quorate, 1);
    let Some(cluster) = Cluster::start(&spec) else {
        return left_out("locked", MISSING);
    };
    let flags: Vec<String> = cluster.members[0]
        .flags
        .iter()
        .map(|flag| match flag.split_once("=http://127.0.0.1:") {
            // The same directory, other ports.
            Some((name, _)) if name.starts_with("--listen") => {
                format!("{name}=http://127.0.0.1:{}", testkit::ports::free())
            }
            _ => flag.clone(),
        })
        .collect();
    let output = Command::new(quorate())
        .args(&flags)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("lock") && said.contains("another"), "{said}");
    cluster.etcdctl().ok(&["put", "still", "alive"]);
}

#[test]
fn a_port_in_use_is_refused_before_anything_is_written() {
    let spec = Spec::of(Kind::Quorate, 1);
    let Some(cluster) = Cluster::start(&spec) else {
        return left_out("port", MISSING);
    };
    let elsewhere = cluster.dir().join("elsewhere");
    let output = Command::new(quorate())
        .arg(format!("--data-dir={}", elsewhere.display()))
        .arg(format!(
            "--listen-client-urls={}",
            cluster.members[0].client_url
        ))
        .arg(format!(
            "--advertise-client-urls={}",
            cluster.members[0].client_url
        ))
        .arg(format!(
            "--listen-peer-urls=http://127.0.0.1:{}",
            testkit::ports::free()
        ))
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("--listen-client-urls") && said.contains("cannot listen"),
        "{said}"
    );
    assert!(
        !elsewhere.exists(),
        "a refused start made {}",
        elsewhere.display()
    );
}

/// Promise 1 and 12: a start that cannot succeed says why and leaves the disk as it was.
#[test]
fn promise_01_a_refused_start_leaves_the_disk_as_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let port = testkit::ports::free();
    let peer = format!("http://127.0.0.1:{port}");
    let client = format!("http://127.0.0.1:{}", testkit::ports::free());
    let common = [
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        "--name=a".to_owned(),
    ];
    let cases: &[(&str, &[&str], &str)] = &[
        (
            "not in the initial cluster",
            &["--initial-cluster=b=http://127.0.0.1:1"],
            "couldn't find local name",
        ),
        (
            "other URLs advertised",
            &["--initial-cluster=a=http://127.0.0.1:1"],
            "--initial-advertise-peer-urls",
        ),
        (
            "nobody to join",
            &[
                "--initial-cluster-state=existing",
                "--initial-cluster=a=PEER,b=http://127.0.0.1:1",
            ],
            "cannot fetch cluster info from peer urls",
        ),
        (
            "election too short",
            &["--election-timeout=100"],
            "--election-timeout",
        ),
        ("no such flag", &["--no-such-flag"], "no-such-flag"),
        ("TLS", &["--cert-file=/nowhere"], "TLS"),
    ];
    for (what, flags, words) in cases {
        let data = dir.path().join("data");
        let output = Command::new(quorate())
            .args(&common)
            .arg(format!("--data-dir={}", data.display()))
            .args(flags.iter().map(|flag| flag.replace("PEER", &peer)))
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{what}: it started");
        assert!(said.contains(words), "{what}: {said}");
        assert!(
            !data.exists(),
            "{what}: a refused start made its data directory"
        );
    }
}

/// On a full disk writes fail or the member stops; what was acknowledged is there when there is
/// room again.
#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let mount = tempfile::tempdir().expect("a directory");
    let size = "size=150m";
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", size, "tmpfs"])
        .arg(mount.path())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        return left_out("full_disk", "a tmpfs cannot be mounted here; run as root");
    }
    let unmount = Unmount(mount.path().to_owned());
    let Some(mut cluster) = Cluster::prepare(&Spec::of(Kind::Quorate, 1)) else {
        return left_out("full_disk", MISSING);
    };
    let data = mount.path().join("data");
    let member = &mut cluster.members[0];
    for flag in &mut member.flags {
        if flag.starts_with("--data-dir=") {
            *flag = format!("--data-dir={}", data.display());
        }
    }
    member.data_dir = data;
    member.start();
    let endpoints = cluster.endpoints();
    let load = Load::start(&endpoints, "k", 10);
    eventually("some writes", Duration::from_secs(30), || {
        match load.count() {
            count if count >= 500 => Ok(()),
            count => Err(format!("{count} puts")),
        }
    });
    // What is left of the disk goes to somebody else.
    let hog = mount.path().join("hog");
    let _ = Command::new("dd")
        .args(["if=/dev/zero", &format!("of={}", hog.display()), "bs=64k"])
        .output();
    let before = load.count();
    eventually(
        "writes on a full disk end or go on in space already reserved",
        Duration::from_secs(30),
        || {
            if cluster.members[0].exited().is_some() || load.count() > before + 5000 {
                Ok(())
            } else {
                Err("neither".to_owned())
            }
        },
    );
    let acknowledged = load.finish();
    std::fs::remove_file(&hog).expect("the hog's file");
    cluster.members[0].kill();
    cluster.members[0].start();
    assert_holds(&read_all(&endpoints, "k"), &acknowledged);
    drop(cluster);
    drop(unmount);
}

pub struct Unmount(pub PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Snapshots go out on the pool for long work, of which hashes are a part too.
#[test]
fn clients_that_do_not_read_their_snapshots_stop_nobody() {
    use api::etcdserverpb::maintenance_client::MaintenanceClient;
    use api::etcdserverpb::{HashKvRequest, PutRequest, SnapshotRequest};

    /// More than the pool has threads.
    const CLIENTS: usize = 12;
    let Some(mut cluster) = Cluster::start(&Spec::of(Kind::Quorate, 1)) else {
        return left_out("stuck_snapshots", MISSING);
    };
    let mut kv = crate::load::client(&cluster.endpoints());
    let stuck = crate::load::runtime().block_on(async {
        // More than windows and queues take, for each of them.
        for number in 0..8u8 {
            let value = vec![number; 1 << 20].into();
            let put = PutRequest {
                key: vec![number].into(),
                value,
                ..Default::default()
            };
            kv.put(put).await.expect("a put");
        }
        let endpoint =
            tonic::transport::Endpoint::from_shared(cluster.members[0].client_url.clone())
                .expect("an endpoint of ours");
        let connect =
            async || MaintenanceClient::new(endpoint.connect().await.expect("a connection"));
        let mut stuck = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = connect().await;
            let mut stream = client
                .snapshot(SnapshotRequest {})
                .await
                .expect("a stream")
                .into_inner();
            stream.message().await.expect("a first message");
            stuck.push((client, stream));
        }
        let mut client = connect().await;
        let asked = client.hash_kv(HashKvRequest { revision: 0 });
        let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
        answer
            .expect("an answer while others do not read")
            .expect("a hash");
        // And one that reads gets all.
        let mut stream = client
            .snapshot(SnapshotRequest {})
            .await
            .expect("a stream")
            .into_inner();
        let mut bytes = 0;
        while let Some(part) = stream.message().await.expect("a message") {
            bytes += part.blob.len() as u64;
        }
        assert!(
            bytes > 8 << 20 && bytes % 512 == 32,
            "{bytes} bytes: the file, and its digest"
        );
        stuck
    });
    // Nor does a stop wait for them.
    let began = std::time::Instant::now();
    cluster.members[0].terminate();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "the stop took {took:?}");
    drop(stuck);
}
