//! `quorate util recover` on disks that real members left.

use std::time::Duration;

use testkit::{Cluster, Kind, Member, Spec, eventually, left_out};

use crate::load::{Acknowledged, Load, assert_holds};

use super::{MISSING, copy_dir, facts, move_to, recover, set_flag, stderr, stdout};

/// The whole way: writes, two disks lost, refusals, the copy, a cluster of one with all that the survivor
/// had, and back to three.
#[test]
fn a_survivor_is_recovered_and_two_new_members_join_it() {
    // With snapshots, so that the log begins after some.
    let spec = Spec::of(Kind::Quorate, 3).flag("--snapshot-count=100");
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out("recover", MISSING);
    };
    let load = Load::start(&cluster.endpoints(), "k", 8);
    eventually("a load", Duration::from_secs(60), || match load.count() {
        count if count >= 500 => Ok(()),
        count => Err(format!("{count} puts")),
    });
    let survivor = (cluster.leader() + 1) % 3;
    for lost in (0..3).filter(|index| *index != survivor) {
        cluster.members[lost].kill();
    }
    // The writers hear of it after their time-outs, for which nobody waits.
    let writers = std::thread::spawn(move || load.finish());
    let (revision, had) = read(&cluster.members[survivor], 0);
    let dir = cluster.members[survivor].data_dir.display().to_string();

    // Not under a running member.
    let refused = recover(&["--data-dir", &dir]);
    assert!(!refused.status.success());
    let text = stderr(&refused);
    assert!(
        text.contains("a process holds") && text.contains("runs on it"),
        "{text}"
    );
    cluster.members[survivor].kill();
    for lost in (0..3).filter(|index| *index != survivor) {
        std::fs::remove_dir_all(&cluster.members[lost].data_dir).expect("it was there");
    }

    // Shows, and changes nothing.
    let before = listing(&dir);
    let shown = recover(&["--data-dir", &dir]);
    assert!(shown.status.success(), "{}", stderr(&shown));
    let text = stdout(&shown);
    assert!(text.contains("Nothing was changed."), "{text}");
    let (member, cluster_id) = ids(&text);
    for (member, cluster_id) in [(member.as_str(), "1"), ("1", &cluster_id)] {
        let wrong = recover(&[
            "--data-dir",
            &dir,
            "--member-id",
            member,
            "--cluster-id",
            cluster_id,
        ]);
        assert!(!wrong.status.success());
        let text = stderr(&wrong);
        assert!(text.contains("what is there: member"), "{text}");
    }
    assert_eq!(listing(&dir), before);

    let copy = format!("{dir}.copy");
    let told = [
        "--data-dir",
        &dir,
        "--member-id",
        &member,
        "--cluster-id",
        &cluster_id,
        "--copy-to",
        &copy,
    ];
    let done = recover(&told);
    assert!(done.status.success(), "{}", stderr(&done));
    assert!(
        stdout(&done).contains("is alone in cluster"),
        "{}",
        stdout(&done)
    );
    assert_eq!(listing(&copy), before, "the copy is the disk as it was");

    // Nobody writes any more when it runs again.
    writers.join().expect("they end");

    // etcd makes the same of it.
    let etcds = cluster.dir().join("etcd");
    let ours = cluster.members[survivor].data_dir.clone();
    copy_dir(&ours, &etcds);
    let alone = &mut cluster.members[survivor];
    move_to(alone, &etcds);
    alone.kind = Kind::Etcd;
    alone.start();
    let by_etcd = facts(alone);
    alone.terminate();
    move_to(alone, &ours);
    alone.kind = Kind::Quorate;
    alone.start();
    assert_eq!(facts(alone), by_etcd);
    assert_eq!(by_etcd.0.as_array().map(Vec::len), Some(1));
    // At the revision that was read: what was kept behind it may delete keys, as the writers do.
    assert_holds(&read(alone, revision).1, &had);

    // Back to three.
    for _ in 0..2 {
        let place = cluster.add_place(Kind::Quorate, &[]);
        let url = place.peer_url.clone();
        let etcdctl = cluster.members[survivor].etcdctl();
        let name = cluster.members.last().expect("added").name.clone();
        eventually("a member added", Duration::from_secs(20), || {
            let added = etcdctl.run(&["member", "add", &name, &format!("--peer-urls={url}")]);
            if added.status.success() {
                Ok(())
            } else {
                std::thread::sleep(Duration::from_millis(500));
                Err(stderr(&added))
            }
        });
        let alive: Vec<String> = cluster
            .members
            .iter()
            .enumerate()
            .filter(|(index, _)| *index == survivor || *index > 2)
            .map(|(_, member)| format!("{}={}", member.name, member.peer_url))
            .collect();
        let added = cluster.members.last_mut().expect("added");
        set_flag(added, "initial-cluster", &alive.join(","));
        added.start();
    }
    for index in [survivor, 3, 4] {
        let member = &cluster.members[index];
        // A linearizable read: then it has all.
        member.etcdctl().ok(&["get", "k"]);
        assert_holds(&read(member, revision).1, &had);
    }
    cluster.members[survivor]
        .etcdctl()
        .ok(&["put", "after", "v"]);
}

/// Two of three disks are a quorum: nothing need be lost. And the shorter log is not the one to take.
#[test]
fn recovering_is_refused_where_less_would_be_lost() {
    let Some(mut cluster) = Cluster::start(&Spec::of(Kind::Quorate, 3)) else {
        return left_out("recover_refused", MISSING);
    };
    let leader = cluster.leader();
    let (short, lost) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.members[short].terminate();
    for key in 0..5 {
        cluster.members[leader]
            .etcdctl()
            .ok(&["put", &format!("k{key}"), "v"]);
    }
    cluster.members[lost].kill();
    cluster.members[leader].kill();
    let dirs: Vec<String> = [short, leader]
        .map(|index| cluster.members[index].data_dir.display().to_string())
        .into();
    let shown = recover(&["--data-dir", &dirs[0], "--data-dir", &dirs[1]]);
    let text = stdout(&shown);
    let (best, cluster_id) = ids(&text);
    assert!(text.contains("lost: "), "{text}");
    let of_short = stdout(&recover(&["--data-dir", &dirs[0]]));
    let (short, _) = ids(&of_short);
    assert_ne!(best, short, "the longest log is proposed");
    let told = |member: &str, more: &[&str]| {
        let mut arguments = vec![
            "--data-dir",
            &dirs[0],
            "--data-dir",
            &dirs[1],
            "--member-id",
        ];
        arguments.extend([member, "--cluster-id", &cluster_id]);
        arguments.extend(more);
        let member = member.to_owned();
        let output = recover(&arguments);
        (member, output.status.success(), stderr(&output))
    };
    let (_, ok, text) = told(&best, &[]);
    assert!(
        !ok && text.contains("the quorum is not lost: 2 of 3"),
        "{text}"
    );
    let (_, ok, text) = told(&short, &[]);
    assert!(!ok && text.contains("entries more than member"), "{text}");
    let (_, ok, text) = told(&short, &["--accept-loss"]);
    assert!(ok, "{text}");
}

/// Member and cluster of the command that is proposed.
fn ids(text: &str) -> (String, String) {
    let word_after = |flag: &str| {
        let (_, rest) = text.rsplit_once(flag).expect("the proposed command");
        rest.split_whitespace().next().expect("an ID").to_owned()
    };
    (word_after("--member-id "), word_after("--cluster-id "))
}

/// Every file with its checksum.
fn listing(dir: &str) -> String {
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "cd \"$0\" && find . -type f | sort | xargs sha256sum",
            dir,
        ])
        .output()
        .expect("a shell");
    stdout(&output)
}

/// What one member has at a revision (0: its own), without asking the others; and which that is.
fn read(member: &Member, revision: i64) -> (i64, Acknowledged) {
    let at = format!("--rev={revision}");
    let json = member
        .etcdctl()
        .json(&["get", "k", "--prefix", "--consistency=s", &at]);
    let own = json["header"]["revision"].as_i64().expect("a revision");
    let kvs = json["kvs"].as_array().expect("keys").iter().map(|kv| {
        let bytes = |name: &str| decode(kv[name].as_str().unwrap_or_default());
        let revision = kv["mod_revision"].as_i64().expect("a revision");
        (bytes("key"), (bytes("value"), revision))
    });
    (own, kvs.collect())
}

/// Base64, as etcdctl prints bytes.
fn decode(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for digit in text.bytes().filter(|digit| *digit != b'=') {
        let value = DIGITS.iter().position(|known| *known == digit);
        bits = bits << 6 | value.expect("base64") as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
