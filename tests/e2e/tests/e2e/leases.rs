//! Leases asked of every member, whoever leads; and what is left of them when the lead changes.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testkit::{Cluster, Etcdctl, Kind, Spec, eventually, left_out};

use crate::membership::id_of;

const MISSING: &str = "etcd or etcdctl is missing; run `make tools`";

#[test]
fn one_of_ours_among_two_of_etcd_answers_for_leases_whoever_leads() {
    answered_everywhere("leases_one", &[Kind::Etcd, Kind::Quorate, Kind::Etcd]);
}

#[test]
fn two_of_ours_with_one_of_etcd_answer_for_leases_whoever_leads() {
    answered_everywhere("leases_two", &[Kind::Quorate, Kind::Etcd, Kind::Quorate]);
}

/// Under a leader of each kind: a lease of one member is renewed, asked for, listed and revoked
/// at every other.
fn answered_everywhere(name: &str, kinds: &[Kind]) {
    const GRANTED: i64 = 300;
    let spec = Spec {
        kinds: kinds.to_vec(),
        flags: Vec::new(),
    };
    let Some(cluster) = Cluster::start(&spec) else {
        return left_out(name, MISSING);
    };
    let all: Vec<Etcdctl> = cluster.members.iter().map(|m| m.etcdctl()).collect();
    for leader in [0, 1] {
        lead(&cluster, leader);
        for (granter, etcdctl) in all.iter().enumerate() {
            let granted = etcdctl.json(&["lease", "grant", &GRANTED.to_string()]);
            let number = granted["ID"].as_i64().expect("an ID");
            let id = format!("{number:016x}");
            let key = format!("leased/{leader}/{granter}");
            etcdctl.ok(&["put", &key, "x", "--lease", &id]);
            for (asked, etcdctl) in all.iter().enumerate() {
                let what = format!("member {leader} leads, {granter} granted, {asked} is asked");
                let renewed = etcdctl.ok(&["lease", "keep-alive", "--once", &id]);
                let expected = format!("lease {id} keepalived with TTL({GRANTED})\n");
                assert_eq!(renewed, expected, "{what}");
                let known = etcdctl.json(&["lease", "timetolive", &id, "--keys"]);
                assert_eq!(
                    known["granted-ttl"].as_i64(),
                    Some(GRANTED),
                    "{what}: {known}"
                );
                let left = known["ttl"].as_i64().unwrap_or_default();
                assert!((GRANTED - 60..=GRANTED).contains(&left), "{what}: {known}");
                // In base64, as JSON has bytes.
                let keys = known["keys"].as_array().map_or(0, Vec::len);
                assert_eq!(keys, 1, "{what}: {known}");
                eventually("the list", Duration::from_secs(5), || {
                    // A member lists what it has applied.
                    let list = etcdctl.ok(&["lease", "list"]);
                    list.contains(&id).then_some(()).ok_or(list)
                });
            }
            // Whoever comes next revokes it; then nobody knows it.
            all[(granter + 1) % 3].ok(&["lease", "revoke", &id]);
            for etcdctl in &all {
                assert_eq!(etcdctl.ok(&["get", &key]), "");
                let renewed = etcdctl.run(&["lease", "keep-alive", "--once", &id]);
                let said = [renewed.stdout, renewed.stderr].concat();
                let said = String::from_utf8_lossy(&said).into_owned();
                assert!(
                    said.contains("expired or revoked") || said.contains("lease not found"),
                    "{said}"
                );
            }
        }
    }
}

fn lead(cluster: &Cluster, index: usize) {
    eventually("the lead", Duration::from_secs(20), || {
        let leader = cluster.leader();
        if leader == index {
            return Ok(());
        }
        let etcdctl = cluster.members[leader].etcdctl();
        let id = id_of(&etcdctl, &cluster.members[index].peer_url);
        let output = etcdctl.run(&["move-leader", &id]);
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    });
}

/// A leader writes every five minutes what is left of a lease; the next lead, here that of the
/// next start, counts from there with the gate, and from the whole time without it.
#[test]
fn with_its_gate_a_checkpoint_outlives_the_lead() {
    const GRANTED: i64 = 1000;
    const JUMP: i64 = 400;
    for gate in [true, false] {
        let gates = format!("--feature-gates=LeaseCheckpoint={gate},LeaseCheckpointPersist={gate}");
        let spec = Spec::of(Kind::Quorate, 1).flag(&gates);
        let Some(mut cluster) = Cluster::prepare(&spec) else {
            return left_out("lease_checkpoint", MISSING);
        };
        let clock = MonotonicClock::of(&mut cluster);
        cluster.start_all();
        let etcdctl = cluster.etcdctl();
        let granted = etcdctl.json(&["lease", "grant", &GRANTED.to_string()]);
        let id = format!("{:x}", granted["ID"].as_i64().expect("an ID"));
        let left = || {
            let known = etcdctl.json(&["lease", "timetolive", &id]);
            known["ttl"].as_i64().expect("seconds")
        };
        assert!((GRANTED - 60..=GRANTED).contains(&left()));
        let applied = || {
            let status = etcdctl.json(&["endpoint", "status"]);
            let index = status[0]["Status"]["raftAppliedIndex"].as_u64();
            index.expect("an index")
        };
        let before = applied();
        clock.set(JUMP);
        eventually(
            "the time that passed",
            Duration::from_secs(10),
            || match left() {
                seconds if seconds <= GRANTED - JUMP => Ok(()),
                seconds => Err(format!("{seconds} s")),
            },
        );
        if gate {
            // An entry of the log that no client wrote.
            eventually(
                "the checkpoint",
                Duration::from_secs(10),
                || match applied() {
                    index if index > before => Ok(()),
                    index => Err(format!("index {index}, as before")),
                },
            );
        }
        cluster.members[0].kill();
        cluster.members[0].start();
        let left = left();
        if gate {
            assert!((1..=GRANTED - JUMP).contains(&left), "{left} s");
        } else {
            assert!((GRANTED - 60..=GRANTED).contains(&left), "{left} s");
        }
    }
}

/// The monotonic clock of a member, ahead of the machine's by as much as the test wants.
struct MonotonicClock(File);

impl MonotonicClock {
    /// For a member that is not started yet.
    fn of(cluster: &mut Cluster) -> Self {
        let dir = cluster.dir().to_owned();
        let shim = shim(&dir);
        let path = dir.join("clock");
        let clock = Self(File::create(&path).expect("a file of the test's own"));
        clock.set(0);
        let env = &mut cluster.members[0].env;
        env.push(("LD_PRELOAD".into(), shim.into()));
        env.push(("CLOCK_OFFSET_FILE".into(), path.into()));
        clock
    }

    fn set(&self, seconds: i64) {
        self.0
            .write_all_at(&seconds.to_ne_bytes(), 0)
            .expect("eight bytes");
    }
}

fn shim(dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/clock.c");
    let shim = dir.join("monotonic.so");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-DMOVED=CLOCK_MONOTONIC", "-o"])
        .arg(&shim)
        .arg(source)
        .status()
        .expect("cc runs: the build needs it too");
    assert!(status.success(), "cc: {status}");
    shim
}
