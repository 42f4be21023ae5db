//! Membership steps against real members: what etcd refuses, ours refuses in the same words; what
//! only ours refuses says why.

mod bad;
mod calls;
mod digest;
mod identity;
mod learners;
mod mixed;
mod table;

use std::time::Duration;

use testkit::{Cluster, Etcdctl, Kind, Member, Spec, eventually, left_out};

const MISSING: &str = "etcd or etcdctl is missing; run `make tools`";

/// A member counts as connected after five seconds without a break (etcd's `HealthInterval`):
/// the one thing that a membership test can only wait for.
const HEALTH_INTERVAL: Duration = Duration::from_millis(5300);

/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:1";

const NOT_ENOUGH_STARTED: &str =
    "etcdserver: re-configuration failed due to not enough started members";

/// Waits until every running member is connected to every other one, and for the interval after
/// which that counts.
pub fn wait_connected(cluster: &Cluster) {
    let running: Vec<&Member> = cluster.members.iter().filter(|m| m.is_running()).collect();
    for member in &running {
        eventually("connections", Duration::from_secs(30), || {
            let metrics = http_get(&member.endpoint(), "/metrics");
            let active = metrics
                .lines()
                .filter(|line| line.starts_with("etcd_network_active_peers{"))
                .filter(|line| !line.ends_with(" 0"))
                .count();
            if active + 1 >= running.len() {
                Ok(())
            } else {
                Err(format!("{active} peers"))
            }
        });
    }
    if running.len() > 1 {
        std::thread::sleep(HEALTH_INTERVAL);
    }
}

/// The text of an error, as `docs/membership.md` describes it below the heading of the calls.
fn assert_documented(said: &str, situation: &str) {
    if let Err(wrong) = documented_as(said, situation) {
        panic!("{wrong}");
    }
}

fn documented_as(said: &str, situation: &str) -> Result<(), String> {
    let said = said.rsplit_once(" desc = ").map_or(said, |(_, text)| text);
    let rows = crate::documented::table("membership.md", calls::HEADING);
    let row = rows.iter().find(|row| row[0] == situation);
    let row = row.unwrap_or_else(|| panic!("{situation:?} is not in the document"));
    if crate::documented::is(said, &row[1]) {
        return Ok(());
    }
    Err(format!(
        "{situation}: expected\n  {}\nsaid\n  {said}",
        row[1]
    ))
}

fn http_get(endpoint: &str, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut text = String::new();
    if let Ok(mut stream) = std::net::TcpStream::connect(endpoint) {
        let request = format!("GET {path} HTTP/1.0\r\nHost: {endpoint}\r\n\r\n");
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_string(&mut text);
    }
    text
}

/// `ok`, or what etcdctl says is wrong.
fn verdict(etcdctl: &Etcdctl, arguments: &[&str]) -> String {
    let output = etcdctl.run(&[&["--command-timeout=6s", "member"], arguments].concat());
    if output.status.success() {
        return "ok".to_owned();
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let said = text.lines().find_map(|line| line.strip_prefix("Error: "));
    said.unwrap_or(&text).trim_end().to_owned()
}

/// Every member's id in hexadecimal, with its peer URL.
fn ids(etcdctl: &Etcdctl) -> Vec<(String, String)> {
    // Not linearizable: it must answer without a quorum too.
    let json = etcdctl.json(&["member", "list", "--consistency=s"]);
    let members = json["members"].as_array().expect("a list of members");
    members
        .iter()
        .map(|member| {
            let id = member["ID"].as_u64().expect("an id");
            (
                format!("{id:x}"),
                member["peerURLs"][0].as_str().expect("a URL").to_owned(),
            )
        })
        .collect()
}

pub fn id_of(etcdctl: &Etcdctl, peer_url: &str) -> String {
    let ids = ids(etcdctl);
    let found = ids.iter().find(|(_, url)| url == peer_url);
    found
        .unwrap_or_else(|| panic!("{peer_url} is not listed: {ids:?}"))
        .0
        .clone()
}

/// Adds a learner through `asked`, starts it and waits until the leader may promote it by etcd's
/// measure; its index.
fn add_learner(cluster: &mut Cluster, kind: Kind, flags: &[String], asked: usize) -> usize {
    let etcdctl = cluster.members[asked].etcdctl();
    let member = cluster.add_place(kind, flags);
    let url = member.peer_url.clone();
    let name = member.name.clone();
    etcdctl.ok(&[
        "member",
        "add",
        &name,
        "--learner",
        &format!("--peer-urls={url}"),
    ]);
    member.start();
    cluster.members.len() - 1
}

/// The seed case of promise 13: a started member among unstarted ones with wrong peer URLs must
/// stay, since nobody could then commit the repair.
#[test]
fn promise_13_a_started_member_is_not_removed_where_only_unstarted_ones_would_stay() {
    const NAME: &str = "promise_13_seed";
    let spec = Spec::of(Kind::Quorate, 1);
    let Some(cluster) = Cluster::start(&spec) else {
        return left_out(NAME, MISSING);
    };
    let started = &cluster.members[0];
    let etcdctl = started.etcdctl();
    etcdctl.ok(&["member", "add", "wrong", &format!("--peer-urls={NOBODY}")]);
    let id = id_of(&etcdctl, &started.peer_url);
    assert_eq!(verdict(&etcdctl, &["remove", &id]), NOT_ENOUGH_STARTED);
    // Nor may another one be added: of three voters, one would have started.
    let more = verdict(&etcdctl, &["add", "more", "--peer-urls=http://127.0.0.1:2"]);
    assert_eq!(more, NOT_ENOUGH_STARTED);
    assert!(ids(&etcdctl).iter().any(|(listed, _)| *listed == id));
}

/// Removing or adding next to a dead voter: the rest could not keep a quorum.
#[test]
fn promise_13_nothing_is_added_or_removed_that_costs_the_quorum() {
    const NAME: &str = "promise_13_quorum";
    let spec = Spec::of(Kind::Quorate, 3);
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out(NAME, MISSING);
    };
    wait_connected(&cluster);
    let leader = cluster.leader();
    let (dead, follower) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.members[dead].kill();
    let unhealthy = "etcdserver: unhealthy cluster";
    for asked in [leader, follower] {
        let etcdctl = cluster.members[asked].etcdctl();
        let healthy = id_of(&etcdctl, &cluster.members[follower].peer_url);
        assert_eq!(verdict(&etcdctl, &["remove", &healthy]), unhealthy);
        let add = ["add", "more", &format!("--peer-urls={NOBODY}")];
        assert_eq!(verdict(&etcdctl, &add), unhealthy);
    }
    // The dead one may go, and then the cluster is whole again.
    let etcdctl = cluster.members[follower].etcdctl();
    let gone = id_of(&etcdctl, &cluster.members[dead].peer_url);
    assert_eq!(verdict(&etcdctl, &["remove", &gone]), "ok");
    assert_eq!(ids(&etcdctl).len(), 2);
    // What was refused stands in the leader's log with its numbers.
    let log = cluster.members[leader].log_text();
    for words in [
        "too few voters are connected",
        "3 voters, 2 healthy, 2 needed",
    ] {
        assert!(
            log.contains(words),
            "{words:?} is not in the leader's log:\n{log}"
        );
    }
}

/// The first member has no quorum from the moment in which it adds a voter until that one runs. What the second
/// one asks for, the cluster's version, is decided before.
#[test]
fn a_cluster_of_one_may_grow_in_the_moment_in_which_it_serves() {
    let Some(mut cluster) = Cluster::prepare(&Spec::of(Kind::Quorate, 1)) else {
        return left_out("grows_at_once", MISSING);
    };
    cluster.members[0].spawn();
    let place = cluster.add_place(Kind::Quorate, &[]);
    let (name, url) = (
        place.name.clone(),
        format!("--peer-urls={}", place.peer_url),
    );
    let etcdctl = cluster.members[0].etcdctl();
    eventually("an addition", Duration::from_secs(30), || {
        let output = etcdctl.run(&["member", "add", &name, &url]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or(said)
    });
    cluster.members[1].start();
    etcdctl.ok(&["put", "two", "voters"]);
}
