//! One data directory, two programs: what ours wrote, etcd opens and goes on with, and back.

use std::process::Command;
use std::time::Duration;

use testkit::{Cluster, Kind, Spec, eventually, left_out, tool};

use crate::load::{Acknowledged, Load, assert_holds, read_all};

const LOADED: u64 = 2000;

#[test]
fn etcd_goes_on_where_ours_was_killed_and_ours_where_etcd_was() {
    swap("ours_then_etcd", Kind::Quorate, Kind::Etcd);
}

#[test]
fn ours_goes_on_where_etcd_was_killed_and_etcd_where_ours_was() {
    swap("etcd_then_ours", Kind::Etcd, Kind::Quorate);
}

fn swap(name: &str, first: Kind, second: Kind) {
    let checkers = ["bbolt", "etcdutl"];
    if let Some(missing) = checkers.iter().find(|program| tool(program).is_none()) {
        return left_out(name, &format!("{missing} is missing; run `make tools`"));
    }
    let spec = Spec::of(first, 1).flag("--snapshot-count=500");
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out(name, "etcd or etcdctl is missing; run `make tools`");
    };
    let endpoints = cluster.endpoints();

    let load = Load::start(&endpoints, "first", 20);
    eventually("a load", Duration::from_secs(60), || match load.count() {
        count if count >= LOADED => Ok(()),
        count => Err(format!("{count} puts")),
    });
    cluster.members[0].kill();
    let acknowledged = load.finish();
    check_files(&cluster);

    // The other program on the same directory, with the same flags.
    cluster.members[0].kind = second;
    cluster.members[0].start();
    assert_holds(&read_all(&endpoints, "first"), &acknowledged);
    let more = put_more(&endpoints);
    cluster.members[0].kill();
    check_files(&cluster);

    cluster.members[0].kind = first;
    cluster.members[0].start();
    assert_holds(&read_all(&endpoints, "first"), &acknowledged);
    assert_holds(&read_all(&endpoints, "second"), &more);
    cluster.members[0].terminate();
    check_files(&cluster);
}

fn put_more(endpoints: &[String]) -> Acknowledged {
    let load = Load::start(endpoints, "second", 10);
    eventually("1000 more writes", Duration::from_secs(60), || {
        match load.count() {
            count if count >= 1000 => Ok(()),
            count => Err(format!("{count} puts")),
        }
    });
    load.finish()
}

/// `etcdutl snapshot status` and `bbolt check` on a copy of the stopped member's database.
fn check_files(cluster: &Cluster) {
    let copy = cluster.dir().join("copy.db");
    std::fs::copy(cluster.members[0].database(), &copy).expect("the database can be copied");
    for (program, arguments) in [
        ("bbolt", vec!["check"]),
        ("etcdutl", vec!["snapshot", "status"]),
    ] {
        let program = tool(program).expect("it was there at the beginning");
        let output = Command::new(&program)
            .args(&arguments)
            .arg(&copy)
            .output()
            .expect("it runs");
        assert!(
            output.status.success(),
            "{} {arguments:?}: {}{}",
            program.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
