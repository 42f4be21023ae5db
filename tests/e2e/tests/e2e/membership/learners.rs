//! A learner that cannot catch up: the leader's log and the promotion's refusal say why.

use std::process::Command;
use std::time::Duration;

use testkit::{Cluster, Kind, Spec, eventually, left_out};

use super::{MISSING, assert_documented, id_of, verdict};

fn put(cluster: &Cluster, key: &str, bytes: usize) {
    use std::io::Write as _;
    // A value of this size does not go on a command line.
    let mut child = Command::new(testkit::tool("etcdctl").expect("looked for"))
        .env("ETCDCTL_ENDPOINTS", cluster.members[0].endpoint())
        .args(["put", key])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("etcdctl runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(&vec![b'v'; bytes]).expect("it reads");
    drop(stdin);
    assert!(child.wait().expect("our own child").success());
}

#[test]
fn a_learner_that_is_down_is_named_so() {
    let Some(mut cluster) = Cluster::start(&Spec::of(Kind::Quorate, 1)) else {
        return left_out("learner_down", MISSING);
    };
    let learner = super::add_learner(&mut cluster, Kind::Quorate, &[], 0);
    let etcdctl = cluster.members[0].etcdctl();
    let id = id_of(&etcdctl, &cluster.members[learner].peer_url);
    cluster.members[learner].kill();
    // It has nine tenths of the log no more.
    for n in 0..40 {
        put(&cluster, &format!("k{n}"), 8);
    }
    let said = eventually("the reason", Duration::from_secs(10), || {
        let said = verdict(&etcdctl, &["promote", &id]);
        if said.contains("Connection refused") {
            Ok(said)
        } else {
            Err(said)
        }
    });
    assert_documented(&said, "promote a learner that was cut off");
    let log = cluster.members[0].log_text();
    assert!(log.contains("a learner cannot catch up"), "{log}");
}

#[test]
fn a_learner_whose_disk_is_full_is_named_so() {
    const NAME: &str = "learner_disk_full";
    let mount = tempfile::tempdir().expect("a directory");
    // Its log fits, and nothing much beside it.
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=84m", "tmpfs"])
        .arg(mount.path())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        return left_out(NAME, "a tmpfs cannot be mounted here; run as root");
    }
    let unmount = crate::bad::Unmount(mount.path().to_owned());
    let spec = Spec::of(Kind::Quorate, 1)
        .flag("--snapshot-count=10")
        .flag("--snapshot-catchup-entries=5");
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out(NAME, MISSING);
    };
    for n in 0..40 {
        put(&cluster, &format!("k{n}"), 1_000_000);
    }
    let place = cluster.add_place(Kind::Quorate, &spec.flags);
    let data = mount.path().join("data");
    for flag in &mut place.flags {
        if flag.starts_with("--data-dir=") {
            *flag = format!("--data-dir={}", data.display());
        }
    }
    let (url, name) = (place.peer_url.clone(), place.name.clone());
    let etcdctl = cluster.members[0].etcdctl();
    let add = ["member", "add", &name, "--learner"];
    etcdctl.ok(&[&add[..], &[&format!("--peer-urls={url}")]].concat());
    cluster.members[1].spawn();
    let id = id_of(&etcdctl, &url);
    let said = eventually("the reason", Duration::from_secs(20), || {
        let said = verdict(&etcdctl, &["promote", &id]);
        if said.contains("No space left on device") {
            Ok(said)
        } else {
            Err(format!("{said}\n{}", cluster.members[1].log_text()))
        }
    });
    assert_documented(&said, "promote a learner whose disk is full");
    let log = cluster.members[0].log_text();
    let words = "the last database snapshot did not arrive";
    assert!(
        log.lines()
            .any(|line| line.contains(words) && line.contains("No space left on device")),
        "{log}"
    );
    drop(cluster);
    drop(unmount);
}
