//! A life of an operator and a cluster, in the order in which they happen, each step with a name and a verdict.
//!
//! ```text
//! images → install → create → load without a pause → scale → faults → drain → upgrade → recover → delete → uninstall
//! ```
//!
//! From `three_members` on a client in a Pod writes all the time. After every scenario the cluster has to be Ready
//! again with the members that the spec asks for, writes have to go on, and each key that was acknowledged has
//! to be there. A scenario that fails ends the run: those after it would begin in a state that nobody meant.
//!
//! Scenarios that break nodes or signal containers run where the nodes are ours; the others on any Kubernetes
//! that can pull the images from `--registry`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::door::Door;
use crate::parts::until;

/// Where the operator is.
const SYSTEM: &str = "quorate-system";

/// Where the cluster is.
const SPACE: &str = "whole";

/// Where the images are started by themselves.
const SMOKE: &str = "smoke";

/// The cluster.
const CLUSTER: &str = "store";

/// The first version; the second is a build of the same source with another number.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version that members and operator are upgraded to.
pub const NEXT_VERSION: &str = "0.2.0";

/// One after the other, so many Pods become Ready, images are there, and voters rest between two steps.
const PATIENCE: Duration = Duration::from_secs(120);

/// A node that is lost is noticed after 8 s, its Pods are given up after 5 more; then a member may have to be
/// replaced, which needs a Pod, a volume and a learner that catches up.
const NODE_PATIENCE: Duration = Duration::from_secs(180);

/// For a drain that is let through, Pods' end included, and for one that is not.
const DRAIN: &str = "--timeout=90s";
const SHORT_DRAIN: &str = "--timeout=15s";

/// Status follows what it tells about by a moment: only what it says for so long is so.
const STEADY: Duration = Duration::from_secs(3);

/// One of them.
pub struct Scenario {
    /// as it is called on the command line
    pub name: &'static str,
    needs: Needs,
    run: fn(&Whole) -> Result<String>,
}

/// What a Kubernetes must have for a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// a node
    Any,
    /// a node for each of three members
    ThreeNodes,
    /// nodes that we may break
    OurNodes,
}

const fn any(name: &'static str, run: fn(&Whole) -> Result<String>) -> Scenario {
    Scenario {
        name,
        needs: Needs::Any,
        run,
    }
}

const fn spread(name: &'static str, run: fn(&Whole) -> Result<String>) -> Scenario {
    Scenario {
        name,
        needs: Needs::ThreeNodes,
        run,
    }
}

const fn ours(name: &'static str, run: fn(&Whole) -> Result<String>) -> Scenario {
    Scenario {
        name,
        needs: Needs::OurNodes,
        run,
    }
}

/// All of them, in their order.
pub const ALL: &[Scenario] = &[
    any("images_start", images_start),
    any("install", install),
    any("helm_test", helm_test),
    any("three_members", three_members),
    any("ask_with_the_plugin", ask_with_the_plugin),
    any("scale_to_five_and_back", scale_to_five_and_back),
    any("kill_a_pod", kill_a_pod),
    ours("kill_a_container", kill_a_container),
    ours(
        "kill_a_node_and_bring_it_back",
        kill_a_node_and_bring_it_back,
    ),
    ours("cut_a_node_off", cut_a_node_off),
    spread("drain_two_nodes", drain_two_nodes),
    ours("lose_a_node_with_its_volume", lose_a_node_with_its_volume),
    any("upgrade_the_operator", upgrade_the_operator),
    any("upgrade_members", upgrade_members),
    ours("lose_a_node", lose_a_node),
    any("recover_a_lost_quorum", recover_a_lost_quorum),
    any("delete", delete),
    any("uninstall", uninstall),
];

/// Runs the named ones, or all; the number of those that failed is 0 or 1.
pub fn run(door: Door, chosen: &[String]) -> Result<()> {
    if let Some(unknown) = chosen
        .iter()
        .find(|name| ALL.iter().all(|one| one.name != **name))
    {
        let names: Vec<&str> = ALL.iter().map(|one| one.name).collect();
        bail!(
            "unknown scenario {unknown:?}, expected {}",
            names.join(", ")
        );
    }
    let whole = Whole { door };
    let start = Instant::now();
    let (mut passed, mut left_out) = (0, Vec::<String>::new());
    for scenario in ALL {
        if !chosen.is_empty() && chosen.iter().all(|name| name != scenario.name) {
            continue;
        }
        if let Some(reason) = whole.lacks(scenario.needs)? {
            left_out.push(format!("{} ({reason})", scenario.name));
            continue;
        }
        let begun = Instant::now();
        match (scenario.run)(&whole) {
            Ok(note) => {
                passed += 1;
                println!(
                    "ok   {} ({:.1} s) {note}",
                    scenario.name,
                    begun.elapsed().as_secs_f64()
                );
            }
            Err(error) => {
                println!(
                    "FAIL {} ({:.1} s): {error:#}",
                    scenario.name,
                    begun.elapsed().as_secs_f64()
                );
                whole.tell();
                println!("{passed} passed, 1 failed");
                bail!("{} failed", scenario.name);
            }
        }
    }
    if !left_out.is_empty() {
        println!("left out: {}", left_out.join(", "));
    }
    println!(
        "{passed} passed, 0 failed, {} left out, in {:.0} s",
        left_out.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// What scenarios share.
pub struct Whole {
    door: Door,
}

/// Each image starts by itself as the user that it names, who is not root, on a root that cannot be written.
fn images_start(whole: &Whole) -> Result<String> {
    let registry = &whole.door.registry;
    let bare = json!({
        "runAsNonRoot": true,
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
    });
    whole.door.apply(&restricted(SMOKE))?;
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "smoke", "namespace": SMOKE },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
            "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
            "initContainers": [{
                "name": "operator",
                "image": format!("{registry}/quorate-operator:{VERSION}"),
                "args": ["--version"],
                "securityContext": bare,
            }],
            "containers": [{
                "name": "member",
                "image": format!("{registry}/quorate:{VERSION}"),
                "args": ["--data-dir=/data/member", "--listen-metrics-urls=http://0.0.0.0:2381"],
                "readinessProbe": { "httpGet": { "path": "/readyz", "port": 2381 }, "periodSeconds": 1 },
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                "securityContext": bare,
            }],
            "volumes": [{ "name": "data", "emptyDir": {} }],
        },
    });
    // A new namespace gets its account a moment later, and takes no Pod before.
    until("Pod in a new namespace", PATIENCE, || {
        whole.door.apply(&pod)
    })?;
    whole.door.until_says(
        &["pod", "-n", SMOKE, "smoke"],
        "{.status.conditions[?(@.type==\"Ready\")].status}",
        "True",
        PATIENCE,
    )?;
    let logs = whole
        .door
        .kubectl(&["logs", "-n", SMOKE, "smoke", "-c", "operator"])?;
    ensure!(
        logs.trim() == format!("quorate-operator {VERSION}"),
        "the operator says {logs:?}"
    );
    let member = ["exec", "-n", SMOKE, "smoke", "-c", "member", "--"];
    let program = ["/usr/local/bin/quorate", "--version"];
    let said = whole.door.kubectl(&[&member[..], &program[..]].concat())?;
    let line = said
        .lines()
        .find(|line| line.starts_with("Quorate Version:"));
    ensure!(
        line == Some(&format!("Quorate Version: {VERSION}")),
        "the member says {said:?}"
    );
    whole
        .door
        .kubectl(&["delete", "namespace", SMOKE, "--timeout=120s"])?;
    Ok("not as root, on a root that cannot be written".to_owned())
}

fn install(whole: &Whole) -> Result<String> {
    let registry = &whole.door.registry;
    whole.door.helm(&[
        "upgrade",
        "--install",
        "quorate-operator",
        "charts/quorate-operator",
        "--namespace",
        SYSTEM,
        "--create-namespace",
        "--set",
        &format!("image.repository={registry}/quorate-operator"),
        "--set",
        &format!("memberImage.repository={registry}/quorate"),
        "--wait",
        "--timeout=2m",
    ])?;
    let pods = whole.door.get(&["pods", "-n", SYSTEM])?;
    let pod = &pods["items"][0];
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("");
    ensure!(
        account == "quorate-operator",
        "the operator runs as {account:?}, expected its own account"
    );
    Ok(format!("the operator runs as {account}"))
}

/// The chart's own test in a Pod of its own, over the Service and past the chart's NetworkPolicy. Whether the
/// policy keeps anybody out is the network's affair: that of `kube-cluster up` lets everything through.
fn helm_test(whole: &Whole) -> Result<String> {
    let policy = whole
        .door
        .get(&["networkpolicy", "-n", SYSTEM, "quorate-operator"])?;
    ensure!(
        policy["spec"]["policyTypes"] == json!(["Ingress"]),
        "the policy is {}",
        policy["spec"]
    );
    let said = whole.door.helm(&[
        "test",
        "quorate-operator",
        "--namespace",
        SYSTEM,
        "--timeout=2m",
    ])?;
    ensure!(
        said.lines()
            .any(|line| line.starts_with("Phase:") && line.ends_with("Succeeded")),
        "helm test says {said:?}"
    );
    Ok("a Pod reaches the operator".to_owned())
}

fn three_members(whole: &Whole) -> Result<String> {
    // What the chart promises for members too.
    whole.door.apply(&restricted(SPACE))?;
    whole.door.apply(&cluster(3, VERSION))?;
    whole.until_ready(3)?;
    whole.start_writing(1, "no-node")?;
    whole.checked()
}

/// Into a member's Pod and to its port, through a real kubelet.
fn ask_with_the_plugin(whole: &Whole) -> Result<String> {
    let status = whole.door.plugin(&["status", CLUSTER, "-n", SPACE])?;
    let healthy = "3 voters, 3 healthy, 2 needed: 1 may still be lost";
    ensure!(
        status.contains(": ready\n") && status.contains(healthy),
        "status says {status}"
    );
    let told = whole.door.plugin(&["explain", CLUSTER, "-n", SPACE])?;
    ensure!(
        told.contains(healthy) && told.contains("nothing looks wrong"),
        "explain says {told}"
    );
    let leader = whole.leader()?;
    let promoted = whole
        .door
        .plugin(&["promote", CLUSTER, &leader, "-n", SPACE]);
    let refusal = promoted.unwrap_or_else(|error| format!("{error:#}"));
    ensure!(
        refusal.contains(&format!("{leader} votes already")),
        "promote of a voter says {refusal}"
    );
    whole.checked()
}

fn scale_to_five_and_back(whole: &Whole) -> Result<String> {
    let before = whole.written()?;
    whole.scale(5)?;
    whole.until_ready(5)?;
    whole.scale(3)?;
    whole.until_ready(3)?;
    ensure!(
        whole.written()?.acknowledged > before.acknowledged,
        "no write was acknowledged meanwhile"
    );
    whole.checked()
}

fn kill_a_pod(whole: &Whole) -> Result<String> {
    let victim = whole.leader()?;
    let uid = whole.uid_of(&victim)?;
    whole.door.kubectl(&[
        "delete",
        "pod",
        "-n",
        SPACE,
        &victim,
        "--grace-period=0",
        "--force",
    ])?;
    until("new Pod of the same member", PATIENCE, || {
        ensure!(whole.uid_of(&victim)? != uid, "{victim} is the old one");
        Ok(())
    })?;
    whole.until_ready(3)?;
    whole.checked()
}

fn kill_a_container(whole: &Whole) -> Result<String> {
    let victim = whole.leader()?;
    let pod = whole.pod(&victim)?;
    let status = &pod["status"]["containerStatuses"][0];
    let restarts = status["restartCount"].as_i64().unwrap_or(0);
    let container = status["containerID"]
        .as_str()
        .and_then(|id| id.strip_prefix("containerd://"))
        .context("a running container has an id")?;
    whole
        .door
        .node(&["signal", node_of(&pod)?, container, "KILL"])?;
    until("restart", PATIENCE, || {
        let pod = whole.pod(&victim)?;
        let now = pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
        ensure!(now > Some(restarts), "{victim} was restarted {now:?} times");
        Ok(())
    })?;
    whole.until_ready(3)?;
    whole.checked()
}

fn kill_a_node_and_bring_it_back(whole: &Whole) -> Result<String> {
    let victim = whole.alone_on_its_node()?;
    let members = whole.members()?;
    let node = node_of(&whole.pod(&victim)?)?.to_owned();
    whole.keep_writer_off(&node)?;
    whole.door.node(&["kill", &node])?;
    whole.until_node(&node, "Unknown")?;
    let before = whole.written()?;
    until("writes without the node", PATIENCE, || {
        let now = whole.written()?;
        ensure!(
            now.acknowledged > before.acknowledged + 100,
            "{} writes",
            now.acknowledged
        );
        Ok(())
    })?;
    whole.door.node(&["start", &node])?;
    whole.until_ready(3)?;
    let now = whole.members()?;
    ensure!(
        now == members,
        "the members were {members:?} and are {now:?}: one was replaced that came back"
    );
    whole.checked()
}

fn cut_a_node_off(whole: &Whole) -> Result<String> {
    let victim = whole.alone_on_its_node()?;
    let members = whole.members()?;
    let node = node_of(&whole.pod(&victim)?)?.to_owned();
    whole.keep_writer_off(&node)?;
    whole.door.node(&["cut", &node])?;
    whole.until_node(&node, "Unknown")?;
    let before = whole.written()?;
    until("writes without the node", PATIENCE, || {
        let now = whole.written()?;
        ensure!(
            now.acknowledged > before.acknowledged + 100,
            "{} writes",
            now.acknowledged
        );
        Ok(())
    })?;
    whole.door.node(&["heal", &node])?;
    whole.until_ready(3)?;
    let now = whole.members()?;
    ensure!(
        now == members,
        "the members were {members:?} and are {now:?}: one was replaced that came back"
    );
    whole.checked()
}

/// As docs/operations.md says it. The second node's drain is refused as long as the first one's member is not back.
fn drain_two_nodes(whole: &Whole) -> Result<String> {
    let members = whole.members()?;
    let mut nodes = Vec::new();
    for member in &members {
        nodes.push((member.clone(), node_of(&whole.pod(member)?)?.to_owned()));
    }
    // A node without the operator first, so that it is there to see the second one.
    let operator = whole.door.get(&["pods", "-n", SYSTEM])?;
    let home = operator["items"][0]["spec"]["nodeName"].clone();
    nodes.sort_by_key(|(_, node)| *node == home);
    let [(first, first_node), (second, second_node), ..] = nodes.as_slice() else {
        bail!("three members are on nodes, and these are: {nodes:?}");
    };
    // A Pod that nobody makes again is not drained.
    whole.keep_writer_off(second_node)?;
    // So that the first member finds no place there either.
    whole.door.kubectl(&["cordon", second_node])?;
    whole.keep_writer_off(first_node)?;
    let uids = (whole.uid_of(first)?, whole.uid_of(second)?);
    whole.drain(first_node, DRAIN)?;
    ensure!(
        whole.uid_of(first).ok() != Some(uids.0),
        "{first} is where it was"
    );
    if whole.door.nodes.is_some() {
        // A volume of ours is bound to its node, so the member cannot come back elsewhere: it stays so.
        until("budget of none", PATIENCE, || {
            let budgets = whole.door.get(&["pdb", "-n", SPACE])?;
            let status = &budgets["items"][0]["status"];
            ensure!(
                status["disruptionsAllowed"] == 0 && status["currentHealthy"] == 2,
                "the budget says {status}"
            );
            Ok(())
        })?;
        whole.must_not_evict(second)?;
        let Err(refusal) = whole.drain(second_node, SHORT_DRAIN) else {
            bail!("the second node was drained, with one of three members away");
        };
        let refusal = format!("{refusal:#}");
        ensure!(
            refusal.contains("disruption budget"),
            "the second drain failed for another reason: {refusal}"
        );
        ensure!(
            whole.uid_of(second)? == uids.1,
            "{second} was taken although its drain was refused"
        );
    }
    whole.door.kubectl(&["uncordon", first_node])?;
    whole.until_ready(3)?;
    whole.drain(second_node, DRAIN)?;
    whole.door.kubectl(&["uncordon", second_node])?;
    whole.until_ready(3)?;
    whole.checked()
}

/// The node never comes back, and who owns the machines says so of it and of the volume on it.
fn lose_a_node_with_its_volume(whole: &Whole) -> Result<String> {
    whole.lose_a_node(|victim| {
        let claim = format!("data-{victim}");
        let claim = whole.door.get(&["pvc", "-n", SPACE, &claim])?;
        let volume = claim["spec"]["volumeName"].as_str();
        let volume = volume.context("a claim in use is bound")?;
        whole
            .door
            .kubectl(&["delete", "pv", volume, "--wait=false"])?;
        // What holds a volume in use would hold it for ever.
        let release = r#"{"metadata":{"finalizers":null}}"#;
        whole
            .door
            .kubectl(&["patch", "pv", volume, "--type=merge", "--patch", release])?;
        Ok(())
    })
}

/// The same, and nobody says anything of the volume: it is there, bound to a node that is no more.
fn lose_a_node(whole: &Whole) -> Result<String> {
    whole.lose_a_node(|_| Ok(()))
}

/// Another build of the operator takes over and looks, and no member's Pod is touched.
fn upgrade_the_operator(whole: &Whole) -> Result<String> {
    let before = whole.pods()?;
    let registry = &whole.door.registry;
    whole.door.helm(&[
        "upgrade",
        "quorate-operator",
        "charts/quorate-operator",
        "--namespace",
        SYSTEM,
        "--set",
        &format!("image.repository={registry}/quorate-operator"),
        "--set",
        &format!("image.tag={NEXT_VERSION}"),
        "--set",
        &format!("memberImage.repository={registry}/quorate"),
        "--wait",
        "--timeout=2m",
    ])?;
    let operator = until("the new operator to act", PATIENCE, || {
        let lease = whole
            .door
            .get(&["lease", "-n", SYSTEM, "quorate-operator"])?;
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let pods = whole.door.get(&["pods", "-n", SYSTEM])?;
        let mut pods = pods["items"].as_array().into_iter().flatten();
        let pod = pods.find(|pod| {
            let image = pod["spec"]["containers"][0]["image"].as_str();
            image.is_some_and(|image| image.ends_with(&format!(":{NEXT_VERSION}")))
        });
        let name = pod.and_then(|pod| pod["metadata"]["name"].as_str());
        let name = name.context("no Pod of the operator has the new image")?;
        ensure!(
            holder.starts_with(&format!("{name}_")),
            "the lease is held by {holder:?}, the new Pod is {name}"
        );
        Ok(name.to_owned())
    })?;
    let program = ["/usr/local/bin/quorate-operator", "--version"];
    let words = [&["exec", "-n", SYSTEM, &operator, "--"][..], &program].concat();
    let said = whole.door.kubectl(&words)?;
    ensure!(
        said.trim() == format!("quorate-operator {NEXT_VERSION}"),
        "the operator says {said:?}"
    );
    // It has looked when it has done something that is no Pod's affair.
    for (wanted, budgets) in [(false, 0), (true, 1)] {
        let patch = json!({ "spec": { "podDisruptionBudget": { "enabled": wanted } } });
        whole.patch(&patch)?;
        until(&format!("{budgets} disruption budgets"), PATIENCE, || {
            let words = ["get", "pdb", "-n", SPACE, "-o", "name"];
            let there = whole.door.kubectl(&words)?;
            ensure!(there.lines().count() == budgets, "there is {there:?}");
            Ok(())
        })?;
    }
    whole.until_ready(3)?;
    let after = whole.pods()?;
    ensure!(
        before == after,
        "the Pods were {before:?} and are {after:?}"
    );
    whole.checked()
}

/// What runs is asked of the programs: status has the version from what the operator has asked for.
fn upgrade_members(whole: &Whole) -> Result<String> {
    let members = whole.members()?;
    for member in &members {
        whole.must_run(member, VERSION)?;
    }
    whole.patch(&json!({ "spec": { "version": NEXT_VERSION } }))?;
    whole.door.until_says(
        &["qc", "-n", SPACE, CLUSTER],
        "{.status.version}",
        NEXT_VERSION,
        NODE_PATIENCE,
    )?;
    whole.until_ready(3)?;
    let now = whole.members()?;
    ensure!(
        now == members,
        "an upgrade replaced members: they were {members:?} and are {now:?}"
    );
    for member in &members {
        whole.must_run(member, NEXT_VERSION)?;
    }
    whole.checked()
}

/// Two of three volumes are lost: nothing happens until a person names the survivor, and then nothing is lost that
/// it had: the leader has every write that was acknowledged.
fn recover_a_lost_quorum(whole: &Whole) -> Result<String> {
    whole.checked()?;
    let (run, count) = (whole.run_number()?, whole.written()?.acknowledged);
    whole.stop_writing()?;
    let survivor = whole.leader()?;
    let id = whole.door.get(&["qc", "-n", SPACE, CLUSTER])?["status"]["clusterID"].clone();
    let id = id.as_str().context("a cluster has an ID")?.to_owned();
    let members = whole.members()?;
    let lost: Vec<&String> = members.iter().filter(|name| **name != survivor).collect();
    for name in &lost {
        let claim = format!("data-{name}");
        let words = ["delete", "pvc", "-n", SPACE, &claim, "--wait=false"];
        whole.door.kubectl(&words)?;
    }
    let mut words = vec!["delete", "pod", "-n", SPACE, "--grace-period=1"];
    words.extend(lost.iter().map(|name| name.as_str()));
    whole.door.kubectl(&words)?;
    whole.door.until_says(
        &["qc", "-n", SPACE, CLUSTER],
        "{.status.conditions[?(@.type==\"Stalled\")].reason}",
        "QuorumLost",
        PATIENCE,
    )?;
    let said = whole.door.plugin(&[
        "recover",
        CLUSTER,
        "-n",
        SPACE,
        "--survivor",
        &survivor,
        "--cluster-id",
        &id,
    ])?;
    ensure!(
        said.contains("is ready: 3 voters, 3 healthy"),
        "recover says {said}"
    );
    whole.until_ready(3)?;
    let object = whole.door.get(&["qc", "-n", SPACE, CLUSTER])?;
    ensure!(
        object["status"]["recovery"]["survivor"] == survivor.as_str()
            && object["status"]["clusterID"] == id.as_str(),
        "it was recovered from {}, as cluster {}",
        object["status"]["recovery"],
        object["status"]["clusterID"]
    );
    whole.start_writing(run + 1, "no-node")?;
    whole.are_there(run, count)?;
    whole.checked()
}

fn delete(whole: &Whole) -> Result<String> {
    whole.stop_writing()?;
    whole
        .door
        .kubectl(&["delete", "qc", "-n", SPACE, CLUSTER, "--timeout=120s"])?;
    until("end of all Pods", PATIENCE, || {
        let left = whole
            .door
            .kubectl(&["get", "pods,qm", "-n", SPACE, "-o", "name"])?;
        ensure!(left.is_empty(), "{left} is still there");
        Ok(())
    })?;
    let kept = whole
        .door
        .kubectl(&["get", "pvc", "-n", SPACE, "-o", "name"])?;
    ensure!(
        kept.lines().count() >= 3,
        "retention Retain keeps the volumes, and these are left: {kept:?}"
    );
    whole
        .door
        .kubectl(&["delete", "namespace", SPACE, "--timeout=120s"])?;
    Ok(format!("{} volume claims were kept", kept.lines().count()))
}

fn uninstall(whole: &Whole) -> Result<String> {
    whole.door.helm(&[
        "uninstall",
        "quorate-operator",
        "--namespace",
        SYSTEM,
        "--wait",
        "--timeout=2m",
    ])?;
    let kinds = whole.door.kubectl(&[
        "get",
        "crd",
        "quorateclusters.quorate.dev",
        "quoratemembers.quorate.dev",
        "-o",
        "name",
    ])?;
    ensure!(kinds.lines().count() == 2, "the kinds stay: {kinds:?}");
    whole
        .door
        .kubectl(&["delete", "namespace", SYSTEM, "--timeout=120s"])?;
    Ok("the kinds stay".to_owned())
}

/// A namespace that only takes the Pods that Kubernetes calls restricted.
fn restricted(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
        },
    })
}

/// A cluster as a person would write it, resting shortly between two steps.
pub fn cluster(replicas: u32, version: &str) -> Value {
    json!({
        "apiVersion": "quorate.dev/v1alpha1",
        "kind": "QuorateCluster",
        "metadata": { "name": CLUSTER, "namespace": SPACE },
        "spec": {
            "replicas": replicas,
            "version": version,
            "storage": { "size": "1Gi" },
            "membership": { "minHealthySeconds": 2 },
        },
    })
}

/// How far the writing client is.
#[derive(Debug)]
struct Written {
    acknowledged: u64,
    longest_gap_ms: u64,
}

impl Whole {
    /// Why a scenario with these needs cannot run here.
    fn lacks(&self, needs: Needs) -> Result<Option<&'static str>> {
        Ok(match needs {
            Needs::Any => None,
            Needs::OurNodes => {
                let ours = self.door.nodes.is_some();
                (!ours).then_some("the nodes are not ours to break")
            }
            Needs::ThreeNodes => {
                let nodes = self.door.kubectl(&["get", "nodes", "-o", "name"])?;
                (nodes.lines().count() < 3).then_some("fewer than three nodes")
            }
        })
    }

    fn url(&self) -> String {
        format!("http://{CLUSTER}.{SPACE}.svc:2379")
    }

    /// Starts the client as run number `run`, on any node but this one.
    fn start_writing(&self, run: u32, avoid: &str) -> Result<()> {
        let elsewhere = json!({
            "key": "kubernetes.io/hostname", "operator": "NotIn", "values": [avoid],
        });
        self.door.apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "writer",
                "namespace": SPACE,
                "labels": { "run": run.to_string() },
            },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "affinity": { "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{ "matchExpressions": [elsewhere] }],
                    },
                } },
                "securityContext": {
                    "runAsNonRoot": true,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "containers": [{
                    "name": "writer",
                    "image": format!("{}/kube-cluster:{VERSION}", self.door.registry),
                    "args": ["client", "write", self.url(), run.to_string()],
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": { "drop": ["ALL"] },
                    },
                }],
            },
        }))?;
        until("first writes", PATIENCE, || {
            let written = self.written()?;
            ensure!(written.acknowledged > 0, "none is acknowledged");
            Ok(())
        })
    }

    fn stop_writing(&self) -> Result<()> {
        self.door.kubectl(&[
            "delete",
            "pod",
            "-n",
            SPACE,
            "--ignore-not-found",
            "writer",
            "--grace-period=1",
        ])?;
        Ok(())
    }

    fn run_number(&self) -> Result<u32> {
        let writer = self.pod("writer")?;
        let run = writer["metadata"]["labels"]["run"].as_str();
        Ok(run.context("the writer has a run")?.parse()?)
    }

    /// Before a node is broken: the client must go on to write, so it moves when it is there.
    fn keep_writer_off(&self, node: &str) -> Result<()> {
        if node_of(&self.pod("writer")?)? != node {
            return Ok(());
        }
        self.checked()?;
        let run = self.run_number()?;
        self.stop_writing()?;
        self.start_writing(run + 1, node)
    }

    fn written(&self) -> Result<Written> {
        let text = self
            .door
            .kubectl(&["logs", "-n", SPACE, "writer", "--tail=-1"])?;
        let mut written = Written {
            acknowledged: 0,
            longest_gap_ms: 0,
        };
        for line in text.lines() {
            if let ["acknowledged", number, "longest_gap_ms", gap] =
                line.split(' ').collect::<Vec<_>>().as_slice()
            {
                written.acknowledged = number.parse()?;
                written.longest_gap_ms = written.longest_gap_ms.max(gap.parse()?);
            }
        }
        Ok(written)
    }

    /// Writes go on, and everything acknowledged is there.
    fn checked(&self) -> Result<String> {
        let before = self.written()?;
        until("further writes", PATIENCE, || {
            let now = self.written()?;
            ensure!(
                now.acknowledged > before.acknowledged,
                "{} writes",
                now.acknowledged
            );
            Ok(())
        })?;
        let written = self.written()?;
        let count = written.acknowledged;
        self.are_there(self.run_number()?, count)?;
        Ok(format!(
            "{count} writes are there, the longest time without one so far {} ms",
            written.longest_gap_ms
        ))
    }

    /// The first so many writes of a run are as they were acknowledged.
    fn are_there(&self, run: u32, count: u64) -> Result<()> {
        let (url, run, count) = (self.url(), run.to_string(), count.to_string());
        self.door.kubectl(&[
            "exec",
            "-n",
            SPACE,
            "writer",
            "--",
            "/usr/local/bin/kube-cluster",
            "client",
            "check",
            &url,
            &run,
            &count,
        ])?;
        Ok(())
    }

    /// An edit of the cluster.
    fn patch(&self, patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        let words = [
            "patch",
            "qc",
            "-n",
            SPACE,
            CLUSTER,
            "--type=merge",
            "--patch",
            &patch,
        ];
        self.door.kubectl(&words).map(|_| ())
    }

    fn scale(&self, replicas: u32) -> Result<()> {
        self.door.kubectl(&[
            "scale",
            "qc",
            "-n",
            SPACE,
            CLUSTER,
            &format!("--replicas={replicas}"),
        ])?;
        Ok(())
    }

    /// Ready, in the eyes of the operator, for the newest spec, with so many voters that serve.
    fn until_ready(&self, replicas: u32) -> Result<()> {
        let mut since = Instant::now();
        until(&format!("{replicas} ready members"), NODE_PATIENCE, || {
            let before = std::mem::replace(&mut since, Instant::now());
            let object = self.door.get(&["qc", "-n", SPACE, CLUSTER])?;
            let status = &object["status"];
            let ready = ready_of(&object);
            ensure!(
                ready.is_some_and(|ready| ready["status"] == "True"
                    && ready["observedGeneration"] == object["metadata"]["generation"]),
                "Ready is {}, waiting {}",
                ready.unwrap_or(&Value::Null),
                status["waiting"]
            );
            ensure!(
                status["readyReplicas"] == replicas && status["operation"].is_null(),
                "{} members are ready, in operation {}",
                status["readyReplicas"],
                status["operation"]
            );
            let members = self.members()?;
            ensure!(
                members.len() == replicas as usize,
                "the members are {members:?}"
            );
            // The status is as old as the operator's last look; with its node lost, that is long ago.
            for member in &members {
                let pod = self.pod(member)?;
                ensure!(
                    pod["metadata"]["deletionTimestamp"].is_null() && is_ready(&pod),
                    "the Pod of {member} is on its way: {}",
                    pod["status"]["conditions"]
                );
            }
            since = before;
            ensure!(since.elapsed() >= STEADY, "it is ready for a moment only");
            Ok(())
        })
    }

    /// The names of the members, sorted.
    fn members(&self) -> Result<Vec<String>> {
        let list = self.door.get(&["qm", "-n", SPACE])?;
        let mut names: Vec<String> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|member| member["metadata"]["name"].as_str())
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }

    fn leader(&self) -> Result<String> {
        until("leader", PATIENCE, || {
            let object = self.door.get(&["qc", "-n", SPACE, CLUSTER])?;
            let leader = object["status"]["leader"].as_str();
            leader.map(str::to_owned).context("status names no leader")
        })
    }

    /// A member whose node has no other one, the leader if it may be: with the node of two of three the quorum
    /// would go too, and after a loss two may share a node.
    fn alone_on_its_node(&self) -> Result<String> {
        let leader = self.leader()?;
        let mut nodes = Vec::new();
        for member in self.members()? {
            let pod = self.pod(&member)?;
            nodes.push((node_of(&pod)?.to_owned(), member));
        }
        nodes.sort_by_key(|(_, member)| *member != leader);
        let alone = nodes
            .iter()
            .find(|(node, _)| nodes.iter().filter(|(other, _)| other == node).count() == 1);
        let (_, member) = alone.with_context(|| format!("no member is alone: {nodes:?}"))?;
        Ok(member.clone())
    }

    fn pod(&self, name: &str) -> Result<Value> {
        self.door.get(&["pod", "-n", SPACE, name])
    }

    fn uid_of(&self, pod: &str) -> Result<String> {
        let uid = self.pod(pod)?["metadata"]["uid"].clone();
        uid.as_str().map(str::to_owned).context("a Pod has a uid")
    }

    /// Members' Pods with their uid and how often their container was restarted.
    fn pods(&self) -> Result<Vec<(String, Value, Value)>> {
        let mut pods = Vec::new();
        for name in self.members()? {
            let pod = self.pod(&name)?;
            let restarts = pod["status"]["containerStatuses"][0]["restartCount"].clone();
            pods.push((name, pod["metadata"]["uid"].clone(), restarts));
        }
        Ok(pods)
    }

    /// A node loses its power, its object is deleted, and then `more`. Its member has to be replaced by one with
    /// another name; then the node comes back with an empty disk.
    fn lose_a_node(&self, more: impl FnOnce(&str) -> Result<()>) -> Result<String> {
        self.patch(&json!({ "spec": { "membership": {
            "replaceFailedAfter": "20s",
            "maxReplacementsPerHour": 10,
        } } }))?;
        self.until_ready(3)?;
        let victim = self.alone_on_its_node()?;
        let node = node_of(&self.pod(&victim)?)?.to_owned();
        self.keep_writer_off(&node)?;
        self.door.node(&["kill", &node])?;
        self.until_node(&node, "Unknown")?;
        self.door.kubectl(&["delete", "node", &node])?;
        more(&victim)?;
        until("replacement", NODE_PATIENCE, || {
            let members = self.members()?;
            ensure!(
                !members.contains(&victim),
                "{victim} is still among {members:?}"
            );
            ensure!(members.len() == 3, "the members are {members:?}");
            Ok(())
        })?;
        self.until_ready(3)?;
        self.door.node(&["replace", &node])?;
        self.until_ready(3)?;
        self.checked()
    }

    fn until_node(&self, node: &str, ready: &str) -> Result<()> {
        self.door.until_says(
            &["node", node],
            "{.status.conditions[?(@.type==\"Ready\")].status}",
            ready,
            PATIENCE,
        )
    }

    fn evict(&self, pod: &str) -> Result<()> {
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": { "name": pod, "namespace": SPACE },
        });
        let path = format!("/api/v1/namespaces/{SPACE}/pods/{pod}/eviction");
        self.door.create_raw(&path, &eviction)
    }

    /// Everything that can go from a node goes.
    fn drain(&self, node: &str, timeout: &str) -> Result<()> {
        let flags = ["--ignore-daemonsets", "--delete-emptydir-data"];
        let words = [&["drain", node, timeout][..], &flags].concat();
        self.door.kubectl(&words).map(|_| ())
    }

    /// The member's program says that it is of this version.
    fn must_run(&self, member: &str, version: &str) -> Result<()> {
        let program = ["/usr/local/bin/quorate", "--version"];
        let words = [&["exec", "-n", SPACE, member, "--"][..], &program].concat();
        let said = self.door.kubectl(&words)?;
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("Quorate Version: "));
        ensure!(line == Some(version), "{member} says {said:?}");
        Ok(())
    }

    fn must_not_evict(&self, pod: &str) -> Result<()> {
        let Err(refusal) = self.evict(pod) else {
            bail!("the second eviction was allowed, with one of three members away");
        };
        let refusal = format!("{refusal:#}");
        ensure!(
            refusal.contains("disruption budget"),
            "the second eviction was refused for another reason: {refusal}"
        );
        Ok(())
    }

    /// For the person who has to find out: what the cluster and the operator say.
    fn tell(&self) {
        for words in [
            &["get", "nodes"][..],
            &["get", "qc,qm,pods,pvc", "-A", "-o", "wide"],
            &["get", "qc", "-n", SPACE, CLUSTER, "-o", "yaml"],
            &["get", "events", "-n", SPACE, "--sort-by=.lastTimestamp"],
            &[
                "logs",
                "-n",
                SYSTEM,
                "deployment/quorate-operator",
                "--tail=40",
            ],
        ] {
            match self.door.kubectl(words) {
                Ok(text) => println!("--- kubectl {}\n{text}", words.join(" ")),
                Err(error) => println!("--- {error:#}"),
            }
        }
    }
}

/// The condition Ready of a cluster or a Pod.
fn ready_of(object: &Value) -> Option<&Value> {
    let conditions = object["status"]["conditions"].as_array();
    let mut all = conditions.into_iter().flatten();
    all.find(|condition| condition["type"] == "Ready")
}

fn is_ready(pod: &Value) -> bool {
    ready_of(pod).is_some_and(|ready| ready["status"] == "True")
}

fn node_of(pod: &Value) -> Result<&str> {
    pod["spec"]["nodeName"]
        .as_str()
        .context("the Pod is not placed")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ALL;

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
