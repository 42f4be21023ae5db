//! Somebody sets a machine's date: nothing that a cluster promises hangs on it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::{Cluster, Kind, Spec, eventually, left_out};

use crate::load::{Load, assert_holds, read_all};

const DAY_S: i64 = 24 * 3600;
/// Longer than an election takes, in acknowledged writes of ten writers.
const WRITES: u64 = 1000;

/// The wall clock of one member, as far from the machine's as the test wants.
struct WallClock(File);

impl WallClock {
    /// For a member that is not started yet.
    fn of(member: &mut testkit::Member, shim: &Path, dir: &Path) -> Self {
        let path = dir.join(format!("{}.clock", member.name));
        let file = File::create(&path).expect("a file of the test's own");
        let clock = Self(file);
        clock.set(0);
        member.env.push(("LD_PRELOAD".into(), shim.into()));
        member.env.push(("CLOCK_OFFSET_FILE".into(), path.into()));
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
    let shim = dir.join("clock.so");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&shim)
        .arg(source)
        .status()
        .expect("cc runs: the build needs it too");
    assert!(status.success(), "cc: {status}");
    shim
}

fn terms(cluster: &Cluster) -> Vec<i64> {
    let status = cluster.etcdctl().json(&["endpoint", "status"]);
    let terms = status.as_array().expect("a list").iter();
    terms
        .map(|member| member["Status"]["raftTerm"].as_i64().expect("a term"))
        .collect()
}

#[test]
fn a_clock_that_jumps_ends_no_lease_and_no_lead() {
    let Some(mut cluster) = Cluster::prepare(&Spec::of(Kind::Quorate, 3)) else {
        return left_out("clock", "etcdctl is missing; run `make tools`");
    };
    let dir = cluster.dir().to_owned();
    let shim = shim(&dir);
    let clocks: Vec<WallClock> = cluster
        .members
        .iter_mut()
        .map(|member| WallClock::of(member, &shim, &dir))
        .collect();
    cluster.start_all();
    let etcdctl = cluster.etcdctl();
    let granted = etcdctl.json(&["lease", "grant", "60"]);
    let lease = format!("{:x}", granted["ID"].as_i64().expect("an ID"));
    etcdctl.ok(&["put", "leased", "kept", "--lease", &lease]);
    let before = terms(&cluster);
    let load = Load::start(&cluster.endpoints(), "clock", 10);

    let leader = cluster.leader();
    for jump in [DAY_S, -DAY_S, 0] {
        for member in [leader, (leader + 1) % 3] {
            clocks[member].set(jump);
            let count = load.count();
            eventually("writes go on", Duration::from_secs(30), || {
                match load.count() - count {
                    done if done >= WRITES => Ok(()),
                    done => Err(format!("{done} writes after a jump by {jump} s")),
                }
            });
        }
        assert_eq!(terms(&cluster), before, "after a jump by {jump} s");
        assert_eq!(
            etcdctl.ok(&["get", "leased", "--print-value-only"]),
            "kept\n"
        );
        let left = etcdctl.json(&["lease", "timetolive", &lease]);
        let left = left["ttl"].as_i64().expect("seconds");
        assert!((1..=60).contains(&left), "{left} s left of the lease");
    }

    // Back by a day, a lease that began before the jump still ends in its time.
    let granted = etcdctl.json(&["lease", "grant", "5"]);
    let lease = format!("{:x}", granted["ID"].as_i64().expect("an ID"));
    etcdctl.ok(&["put", "short", "x", "--lease", &lease]);
    let began = Instant::now();
    clocks[leader].set(-DAY_S);
    eventually("the lease ends", Duration::from_secs(30), || {
        let value = etcdctl.ok(&["get", "short"]);
        value.is_empty().then_some(()).ok_or(value)
    });
    assert!(began.elapsed() > Duration::from_secs(4), "it ended early");

    // A start with a clock of yesterday recovers all the same.
    let acknowledged = load.finish();
    cluster.members[leader].kill();
    let days = [yesterday(), {
        cluster.members[leader].start();
        yesterday()
    }];
    let log = cluster.members[leader].log_text();
    assert!(
        days.iter().any(|day| log.contains(day)),
        "its clock did not jump: it is {days:?}, and it logs\n{log}"
    );
    let endpoint = [cluster.members[leader].endpoint()];
    assert_holds(&read_all(&endpoint, "clock"), &acknowledged);
}

fn yesterday() -> String {
    let date = Command::new("date")
        .args(["-u", "-d", "1 day ago", "+%Y-%m-%d"])
        .output()
        .expect("date runs");
    String::from_utf8_lossy(&date.stdout).trim().to_owned()
}
