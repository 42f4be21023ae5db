//! What the operator costs, and what its work costs a client: `make bench-operator`.
//!
//! ```text
//! ready    from the creation of a cluster's object to its condition Ready
//! outages  longest time without an acknowledged write, for each thing that is done to a cluster
//! rest     API requests, CPU and memory of an operator that has nothing to do, with one cluster of three
//! many     the same with many clusters of one member each, and what it takes to make them
//! ```
//!
//! This measures for minutes and judges nothing. `cargo xtask bench-operator` builds release programs, starts it,
//! prints what it has written to `QUORATE_FIGURES`, and compares with the targets.
//!
//! Requests are counted in the door between the operator and the API server. Members are processes of this
//! machine, so no image is pulled and no volume attached; with many clusters too each member is a real one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kubetest::process;
use serde_json::{Value, json};
use testkit::{eventually, left_out};

use crate::cluster::{Cluster, STEP, condition, spec};
use crate::door::Seen;
use crate::operator::{Operator, Options};
use crate::world::{World, world};
use crate::writer::Writer;

/// A client that has no answer by then asks another member.
const TRY: Duration = Duration::from_millis(500);

/// Writes before something is done and after it: the client is at work.
const WRITES: u64 = 200;

/// Without a request for this long an operator is at rest: it has looked at each cluster meanwhile.
const QUIET: Duration = Duration::from_secs(20);

/// Between two looks at an object whose change is timed.
const LOOK: Duration = Duration::from_millis(10);

/// A kubelet probes every ten seconds, when nobody says otherwise.
const PROBE_OF_MANY: Duration = Duration::from_secs(10);

/// How much is measured: the words of `QUORATE_BENCH`, as JSON.
struct Settings {
    only: Option<String>,
    rounds: usize,
    clusters: usize,
    rest: Duration,
}

impl Settings {
    fn read() -> Self {
        let text = std::env::var("QUORATE_BENCH").unwrap_or_else(|_| "{}".to_owned());
        let value: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("QUORATE_BENCH is {text:?}, no JSON: {error}"));
        let number = |name: &str, default: usize| {
            value[name]
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .unwrap_or(default)
        };
        Self {
            only: value["only"].as_str().map(str::to_owned),
            rounds: number("rounds", 3),
            clusters: number("clusters", 200),
            rest: Duration::from_secs(number("rest_s", 120) as u64),
        }
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

#[test]
#[ignore = "it measures for minutes: `make bench-operator`"]
fn figures() {
    let Some(world) = world("bench::figures") else {
        return;
    };
    let Some(path) = std::env::var_os("QUORATE_FIGURES") else {
        left_out(
            "bench::figures",
            "QUORATE_FIGURES names no file; run `make bench-operator`",
        );
        return;
    };
    let settings = Settings::read();
    let mut figures = json!({});
    if settings.wants("ready") {
        figures["ready"] = ready(world, settings.rounds);
    }
    if settings.wants("outages") {
        figures["outages"] = outages(world, settings.rounds);
    }
    if settings.wants("rest") {
        figures["rest"] = rest_of_one(world, settings.rest);
    }
    if settings.wants("many") {
        figures["many"] = many(world, settings.clusters, settings.rest);
    }
    std::fs::write(path, figures.to_string()).expect("QUORATE_FIGURES names a file to write");
}

/// The spec of somebody who says nothing about membership.
fn plain(replicas: u32) -> Value {
    let mut spec = spec(replicas);
    spec.as_object_mut()
        .expect("an object")
        .remove("membership");
    spec
}

fn create(world: &World, namespace: &str, name: &str, spec: &Value) {
    let object = json!({
        "apiVersion": "quorate.dev/v1alpha1", "kind": "QuorateCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    });
    let uri = format!("/apis/quorate.dev/v1alpha1/namespaces/{namespace}/quorateclusters");
    let request = http::Request::post(uri)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())
        .expect("a URI");
    let _: Value = world
        .wait(world.client.request(request))
        .expect("a sound spec");
}

/// One object, or all of a kind.
fn get(world: &World, uri: &str) -> Value {
    let request = http::Request::get(uri).body(Vec::new()).expect("a URI");
    world
        .wait(world.client.request(request))
        .expect("an administrator can read")
}

fn is_ready(object: &Value) -> bool {
    condition(object, "Ready") == "True"
        && object["status"]["observedGeneration"] == object["metadata"]["generation"]
}

fn ready(world: &'static World, rounds: usize) -> Value {
    let mut rows = Vec::new();
    for (word, hurried) in [("plain", false), ("hurried", true)] {
        for members in [1, 3, 5] {
            let (mut seconds, mut requests) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                let cluster = Cluster::planned(world, &format!("{word}-{members}-{round}"));
                let namespace = &cluster.ns.name;
                let operator = Operator::start(world, &Options::installed(namespace));
                operator.until_it_looks();
                let before = operator.door.seen().len();
                let spec = if hurried {
                    spec(members)
                } else {
                    plain(members)
                };
                let uri = format!(
                    "/apis/quorate.dev/v1alpha1/namespaces/{namespace}/quorateclusters/{}",
                    cluster.name
                );
                let began = Instant::now();
                create(world, namespace, &cluster.name, &spec);
                let took = loop {
                    if is_ready(&get(world, &uri)) {
                        break began.elapsed();
                    }
                    assert!(
                        began.elapsed() < STEP * (members + 1),
                        "not ready: {}",
                        cluster.status()
                    );
                    std::thread::sleep(LOOK);
                };
                let object = cluster.until_ready(members, STEP);
                assert_eq!(object["status"]["quorum"]["voters"], members);
                eprintln!("ready: {word}, {members} members: {took:?}");
                seconds.push(took.as_secs_f64());
                let counted = Counted::of(&operator.door.seen().split_off(before));
                requests.push(counted.others);
            }
            rows.push(json!({
                "min_healthy_s": if hurried { 0 } else { 10 }, "members": members,
                "seconds": seconds, "requests": requests,
            }));
        }
    }
    Value::Array(rows)
}

/// Rows of what was done to a cluster under a client that writes.
struct Outages {
    world: &'static World,
    rows: BTreeMap<String, (Vec<f64>, Vec<f64>)>,
    order: Vec<String>,
}

impl Outages {
    fn during(&mut self, cluster: &Cluster, what: &str, act: impl FnOnce(&Cluster)) {
        let writer = Writer::start_with(self.world, cluster, TRY);
        writer.until_more(WRITES);
        let began = Instant::now();
        act(cluster);
        let took = began.elapsed();
        writer.until_more(WRITES);
        let (written, _) = writer.check(self.world, cluster);
        eprintln!("outages: {what}: {:?} in {took:?}", written.longest_gap);
        if !self.order.iter().any(|one| one == what) {
            self.order.push(what.to_owned());
        }
        let (gaps, spans) = self.rows.entry(what.to_owned()).or_default();
        gaps.push(written.longest_gap.as_secs_f64() * 1000.0);
        spans.push(took.as_secs_f64());
    }

    fn json(&self) -> Value {
        let row = |what: &String| {
            let (gaps, spans) = &self.rows[what];
            json!({"what": what, "longest_ms": gaps, "took_s": spans})
        };
        Value::Array(self.order.iter().map(row).collect())
    }
}

fn outages(world: &'static World, rounds: usize) -> Value {
    world.kubelet.add_image("quorate:0.2.0", testkit::quorate());
    let mut outages = Outages {
        world,
        rows: BTreeMap::new(),
        order: Vec::new(),
    };
    let cluster = Cluster::create(world, "outages", &spec(3));
    let _operator = Operator::start(world, &Options::installed(&cluster.ns.name));
    cluster.until_ready(3, STEP * 3);
    for round in 0..rounds {
        outages.during(&cluster, "nothing, for 10 s", |_| {
            std::thread::sleep(Duration::from_secs(10));
        });
        outages.during(&cluster, "leader killed", kill_leader);
        cluster.until_ready(3, STEP);
        outages.during(&cluster, "leader's Pod deleted", |cluster| {
            renew(cluster, &leader(cluster).0);
        });
        outages.during(&cluster, "follower's Pod deleted", |cluster| {
            renew(cluster, &follower(cluster));
        });
        outages.during(&cluster, "follower replaced, its volume lost", replace);
        outages.during(&cluster, "options changed, all Pods rolled", |cluster| {
            let before = pods(cluster);
            cluster.patch(&json!({"options": {"snapshotCount": 5000 + round}}));
            until_rolled(cluster, &before);
        });
        for (from, to) in [(3, 5), (5, 3), (3, 1), (1, 3)] {
            outages.during(&cluster, &format!("scaled {from} to {to}"), |cluster| {
                cluster.scale(to);
                cluster.until_ready(to, STEP * 3);
            });
        }
    }
    outages.during(&cluster, "upgraded", |cluster| {
        let before = pods(cluster);
        cluster.patch(&json!({"version": "0.2.0"}));
        until_rolled(cluster, &before);
    });
    outages.json()
}

/// The Pod that leads and its term, when all members agree.
fn try_leader(cluster: &Cluster) -> Result<(String, u64), String> {
    let output =
        cluster
            .etcdctl()
            .run(&["endpoint", "status", "-w", "json", "--command-timeout=2s"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Vec<Value> =
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    let said: Vec<(u64, u64)> = all
        .iter()
        .map(|one| {
            let number = |name: &str| one["Status"][name].as_u64().unwrap_or_default();
            (number("leader"), number("raftTerm"))
        })
        .collect();
    let voters = cluster.list("pods").len();
    if said.len() != voters || said.iter().any(|one| *one != said[0]) || said[0].0 == 0 {
        return Err(format!("{voters} Pods, leader and term: {said:?}"));
    }
    let address = all
        .iter()
        .find(|one| one["Status"]["header"]["member_id"].as_u64() == Some(said[0].0))
        .and_then(|one| {
            one["Endpoint"]
                .as_str()?
                .split(':')
                .next()
                .map(str::to_owned)
        })
        .ok_or("nobody says that it leads")?;
    let pod = cluster
        .list("pods")
        .iter()
        .find(|pod| pod["status"]["podIP"] == address.as_str())
        .and_then(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        .ok_or_else(|| format!("no Pod has the address {address}"))?;
    Ok((pod, said[0].1))
}

fn leader(cluster: &Cluster) -> (String, u64) {
    eventually("one leader", STEP, || try_leader(cluster))
}

fn follower(cluster: &Cluster) -> String {
    let (leader, _) = leader(cluster);
    cluster
        .members()
        .into_iter()
        .find(|name| *name != leader)
        .expect("there are three")
}

/// kill -9; the process comes again as fast as a kubelet restarts one.
fn kill_leader(cluster: &Cluster) {
    let (pod, term) = leader(cluster);
    cluster.world().kubelet.kill(&cluster.ns.name, &pod);
    eventually("a new leader", STEP, || match try_leader(cluster)? {
        (_, new) if new > term => Ok(()),
        (pod, new) => Err(format!("{pod} leads in term {new}")),
    });
}

/// UIDs of Pods by their names.
fn pods(cluster: &Cluster) -> BTreeMap<String, String> {
    cluster
        .list("pods")
        .iter()
        .map(|pod| {
            let text = |field: &str| {
                pod["metadata"][field]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            };
            (text("name"), text("uid"))
        })
        .collect()
}

/// Deletes a Pod, as an eviction does, and waits for the next of its name.
fn renew(cluster: &Cluster, pod: &str) {
    let before = pods(cluster);
    cluster.kubectl(&["delete", "pod", pod, "--wait=false"]);
    cluster.until("another Pod of that name", STEP, |_| {
        let now = pods(cluster);
        now.len() == 3 && now.get(pod) != before.get(pod)
    });
    cluster.until_ready(3, STEP);
}

fn replace(cluster: &Cluster) {
    let lost = follower(cluster);
    let claim = format!("data-{lost}");
    cluster.kubectl(&["delete", "pvc", &claim, "--wait=false"]);
    cluster.kubectl(&["delete", "pod", &lost, "--wait=false", "--grace-period=1"]);
    cluster.until("another member", STEP * 2, |_| {
        !cluster.members().contains(&lost)
    });
    cluster.until_ready(3, STEP * 2);
}

fn until_rolled(cluster: &Cluster, before: &BTreeMap<String, String>) {
    cluster.until("every Pod new", STEP * 3, |object| {
        let now = pods(cluster);
        now.len() == 3
            && now
                .values()
                .all(|uid| before.values().all(|old| old != uid))
            && condition(object, "VersionCurrent") == "True"
    });
    cluster.until_ready(3, STEP);
}

/// Requests of an operator by what they are for.
#[derive(Debug, Default)]
struct Counted {
    watches: usize,
    leases: usize,
    others: usize,
    /// the others by method and resource
    kinds: BTreeMap<String, usize>,
}

impl Counted {
    fn of(seen: &[Seen]) -> Self {
        let mut counted = Self::default();
        for one in seen.iter().filter(|one| one.is_to_the_api_server()) {
            if one.is_watch {
                counted.watches += 1;
            } else if one.path.contains("/leases") {
                counted.leases += 1;
            } else {
                counted.others += 1;
                let kind = format!("{} {}", one.method, resource(&one.path));
                *counted.kinds.entry(kind).or_default() += 1;
            }
        }
        counted
    }

    fn json(&self) -> Value {
        json!({"watches": self.watches, "leases": self.leases, "others": self.others, "kinds": self.kinds})
    }
}

/// `/apis/GROUP/VERSION/namespaces/NAME/RESOURCE/...`, or without a namespace; and the subresource.
fn resource(path: &str) -> String {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = match parts.iter().position(|part| *part == "namespaces") {
        Some(at) => parts.get(at + 2..).unwrap_or_default(),
        None => parts.get(2..).unwrap_or_default(),
    };
    match rest {
        [resource, _, sub, ..] => format!("{resource}/{sub}"),
        [resource, ..] => (*resource).to_owned(),
        [] => path.to_owned(),
    }
}

/// Waits until an operator asks the API server for nothing but its lease and its watches.
fn until_rest(operator: &Operator, within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let before = operator.door.seen().len();
        std::thread::sleep(QUIET);
        let new = Counted::of(&operator.door.seen().split_off(before));
        if new.others == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "no rest: {:?}", new.kinds);
    }
}

/// What an operator holds at this moment.
fn held(operator: &Operator) -> Value {
    let pid = operator.pid();
    let (resident_kib, anonymous_kib) = process::memory(pid);
    json!({
        "resident_kib": resident_kib, "anonymous_kib": anonymous_kib,
        "threads": process::threads(pid), "descriptors": process::descriptors(pid),
    })
}

/// What an operator does in a span in which nobody wants anything.
fn at_rest(operator: &Operator, span: Duration) -> Value {
    let (before, looks, cpu) = (
        operator.door.seen().len(),
        operator.looks(),
        process::cpu(operator.pid()),
    );
    let began = Instant::now();
    std::thread::sleep(span);
    let seconds = began.elapsed().as_secs_f64();
    json!({
        "seconds": seconds,
        "requests": Counted::of(&operator.door.seen().split_off(before)).json(),
        "looks": operator.looks() - looks,
        "cpu_s": process::cpu(operator.pid()) - cpu,
        "held": held(operator),
    })
}

fn rest_of_one(world: &'static World, span: Duration) -> Value {
    let cluster = Cluster::create(world, "rest", &spec(3));
    let operator = Operator::start(world, &Options::installed(&cluster.ns.name));
    cluster.until_ready(3, STEP * 3);
    until_rest(&operator, STEP * 3);
    let rest = at_rest(&operator, span);
    json!({"clusters": 1, "members": 3, "rest": rest})
}

fn many(world: &'static World, clusters: usize, span: Duration) -> Value {
    let home = Cluster::planned(world, "many");
    let namespace = home.ns.name.as_str();
    let mut options = Options::installed(namespace);
    let operator = Operator::start(world, &options);
    operator.until_it_looks();
    let alone = held(&operator);
    world.kubelet.probe_ready_every(PROBE_OF_MANY);

    let (before, cpu) = (operator.door.seen().len(), process::cpu(operator.pid()));
    let began = Instant::now();
    for number in 0..clusters {
        create(world, namespace, &format!("c{number:03}"), &spec(1));
    }
    let within = STEP + Duration::from_secs(2) * u32::try_from(clusters).expect("a small number");
    let uri = format!("/apis/quorate.dev/v1alpha1/namespaces/{namespace}/quorateclusters");
    eventually("that all are ready", within, || {
        let list = get(world, &uri);
        let items = list["items"].as_array().expect("a list");
        let ready = items.iter().filter(|one| is_ready(one)).count();
        if ready == clusters {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(500));
        Err(format!("{ready} of {clusters}"))
    });
    let made = json!({
        "seconds": began.elapsed().as_secs_f64(),
        "cpu_s": process::cpu(operator.pid()) - cpu,
        "requests": Counted::of(&operator.door.seen().split_off(before)).json(),
        "held": held(&operator),
    });
    eprintln!("many: {clusters} clusters: {made}");

    until_rest(&operator, STEP * 5);
    let members = world.kubelet.processes(namespace);
    assert_eq!(members.len(), clusters, "one process for each cluster");
    let members_cpu = || -> f64 { members.iter().map(|(_, pid)| process::cpu(*pid)).sum() };
    let cpu = members_cpu();
    let rest = at_rest(&operator, span);
    let members = json!({
        "cpu_s": members_cpu() - cpu,
        "resident_kib": members.iter().map(|(_, pid)| process::memory(*pid).0).sum::<u64>(),
    });
    eprintln!("many: at rest: {rest}, members: {members}");

    // One that finds all of them there, under another lease: it need not wait for the old one's end.
    drop(operator);
    options
        .flags
        .push(format!("--leader-elect-name={namespace}-again"));
    let began = Instant::now();
    let operator = Operator::start(world, &options);
    eventually("that all were looked at", STEP * 2, || {
        let looks = if operator.log().contains("\"metrics\"") {
            operator.looks()
        } else {
            0
        };
        if looks >= clusters as u64 {
            Ok(())
        } else {
            Err(format!("{looks} looks"))
        }
    });
    let looked_s = began.elapsed().as_secs_f64();
    until_rest(&operator, STEP * 2);
    let restart = json!({
        "looked_s": looked_s,
        "cpu_s": process::cpu(operator.pid()),
        "requests": Counted::of(&operator.door.seen()).json(),
        "held": held(&operator),
    });
    operator.assert_rights_suffice();
    json!({
        "clusters": clusters, "members": 1, "alone": alone, "made": made, "rest": rest,
        "members_at_rest": members, "restart": restart,
    })
}
