//! The charts, with the real helm, at the real API server: lint, render, install, upgrade, uninstall.
//!
//! No Pod of the operator runs here, since nothing makes Pods of a Deployment: what the API server thinks of
//! such a Pod is asked for, and what its account may do.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{left_out, tool};

use crate::world::{Ns, World, workspace, world};

mod switches;

/// How long a controller may take to hear of something.
const PATIENCE: Duration = Duration::from_secs(60);

/// The world with helm, or nothing; then the test is left out.
fn world_with_helm(test: &str) -> Option<&'static World> {
    if tool("helm").is_none() {
        left_out(test, "helm is missing; run `make tools`");
        return None;
    }
    world(test)
}

fn chart(name: &str) -> PathBuf {
    workspace().join("charts").join(name)
}

/// helm; what it said on both streams, apart when it fails.
fn helm(world: &World, words: &[&str]) -> Result<String, String> {
    let home = world.dir().join("helm");
    let output = Command::new(crate::control::program("helm"))
        .arg("--kubeconfig")
        .arg(&world.control.kubeconfig)
        .args(words)
        .env("HELM_CACHE_HOME", home.join("cache"))
        .env("HELM_CONFIG_HOME", home.join("config"))
        .env("HELM_DATA_HOME", home.join("data"))
        .stdin(Stdio::null())
        .output()
        .expect("helm can be started");
    said(&output)
}

fn said(output: &Output) -> Result<String, String> {
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn ok(world: &World, words: &[&str]) -> String {
    helm(world, words).unwrap_or_else(|error| panic!("helm {words:?}: {error}"))
}

/// kubectl with an input.
fn kubectl(world: &World, words: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new(crate::control::program("kubectl"))
        .arg("--kubeconfig")
        .arg(&world.control.kubeconfig)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl can be started");
    let mut stdin = child.stdin.take().expect("asked for as a pipe");
    stdin
        .write_all(input.as_bytes())
        .expect("kubectl reads its input");
    drop(stdin);
    said(&child.wait_with_output().expect("our own child"))
}

/// A namespace in which only restricted Pods run.
fn restricted(world: &'static World, word: &str) -> Ns {
    let namespace = Ns::new(world, word);
    let level = "pod-security.kubernetes.io/enforce=restricted";
    world.kubectl(&["label", "namespace", &namespace.name, level]);
    namespace
}

/// Switches of the operator's chart in which it looks another way. Those that need kinds of others are only
/// rendered.
const LOOKS: [(&[&str], bool); 6] = [
    (&[], true),
    (
        &[
            "replicas=2",
            "podLabels.team=a",
            "podAnnotations.note=a",
            "nodeSelector.disk=fast",
            "tolerations[0].operator=Exists",
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1",
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key=disk",
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].operator=Exists",
            "priorityClassName=system-cluster-critical",
            "serviceAccount.name=other",
            "serviceAccount.annotations.role=a",
            "nameOverride=ops",
            "log.format=text",
            "image.pullPolicy=Always",
            "metrics.service.port=9090",
        ],
        true,
    ),
    (
        &[
            "watchNamespace=shop",
            "rbac.clusterReads=false",
            "crds.install=false",
        ],
        true,
    ),
    (
        &[
            "dashboard.enabled=true",
            "image.tag=1.2.3",
            "image.pullSecrets={a,b}",
            "extraArgs={--concurrency=2}",
        ],
        true,
    ),
    (
        &[
            "networkPolicy.enabled=false",
            "deletionPolicy.enabled=false",
            "metrics.service.enabled=false",
            "serviceAccount.create=false",
            "rbac.create=false",
        ],
        true,
    ),
    (
        &["metrics.serviceMonitor.enabled=true", "watchNamespace=shop"],
        false,
    ),
];

#[test]
fn charts_render_in_every_look() {
    let Some(world) = world_with_helm("charts_render_in_every_look") else {
        return;
    };
    let namespace = Ns::new(world, "looks");
    let n = namespace.name.as_str();
    for name in ["quorate-operator", "quorate"] {
        let path = chart(name);
        ok(
            world,
            &["lint", "--strict", path.to_str().expect("a path of ours")],
        );
    }
    let path = chart("quorate-operator");
    let path = path.to_str().expect("a path of ours");
    world.kubectl(&["create", "namespace", "shop"]);
    for (switches, taken) in LOOKS {
        let set: Vec<String> = switches.iter().map(|one| format!("--set={one}")).collect();
        let mut words = vec!["template", "q", path, "-n", n];
        words.extend(set.iter().map(String::as_str));
        let rendered = ok(world, &words);
        if taken {
            let apply = [
                "apply",
                "--server-side",
                "--force-conflicts",
                "--dry-run=server",
                "--warnings-as-errors",
                "-f",
                "-",
            ];
            kubectl(world, &apply, &rendered)
                .unwrap_or_else(|error| panic!("{switches:?}: {error}"));
        } else {
            assert!(rendered.contains("kind: ServiceMonitor"), "{rendered}");
        }
    }
    for wrong in [
        "replica=1",
        "log.format=xml",
        "image.repository=",
        "watchNamespace=A",
        "replicas=two",
    ] {
        let error = helm(world, &["template", "q", path, "--set", wrong]).expect_err(wrong);
        assert!(
            error.contains("values don't meet the specifications of the schema"),
            "{wrong}: {error}"
        );
    }
}

#[test]
fn the_operators_chart_comes_goes_and_leaves_the_kinds() {
    let Some(world) = world_with_helm("the_operators_chart_comes_goes_and_leaves_the_kinds") else {
        return;
    };
    let namespace = restricted(world, "chart");
    let n = namespace.name.as_str();
    // A chart of earlier, whose kinds say something else.
    let earlier = world.dir().join(format!("earlier-{n}"));
    copy(&chart("quorate-operator"), &earlier);
    let kinds = earlier.join("files/crds/quoratecluster.yaml");
    let text = fs::read_to_string(&kinds).expect("copied");
    let now = "While true the operator changes nothing and goes on telling the status.";
    assert!(text.contains(now));
    fs::write(&kinds, text.replace(now, "It was said otherwise once.")).expect("our own folder");

    // The kinds are there already in this world, as they are after an earlier release.
    let install = [
        "install",
        "ops",
        earlier.to_str().expect("ours"),
        "-n",
        n,
        "--take-ownership",
        // It holds everywhere, and other tests delete clusters of this API server.
        WITHOUT_POLICY,
    ];
    ok(world, &[&install[..], &["--dry-run=server"]].concat());
    let notes = ok(world, &install);
    assert!(
        notes.contains("kubectl apply -f -")
            && notes.contains("kubectl wait --for=condition=Ready"),
        "{notes}"
    );
    let explained = || world.kubectl(&["get", "crd", "quorateclusters.quorate.dev", "-o", "json"]);
    assert!(explained().contains("It was said otherwise once."));
    account_has_its_rights(world, n, "ops-quorate-operator", true);
    pod_is_let_in(world, n, "ops-quorate-operator");

    // What the notes say is done; without the operator nothing comes of it.
    let cluster = json!({"apiVersion": "quorate.dev/v1alpha1", "kind": "QuorateCluster",
        "metadata": {"name": "orders", "namespace": n},
        "spec": {"version": "0.1.0", "storage": {"size": "8Gi"}}});
    world.apply(&cluster).expect("a cluster");

    let current = chart("quorate-operator");
    let upgrade = [
        "upgrade",
        "ops",
        current.to_str().expect("ours"),
        "-n",
        n,
        "--set=log.level=debug",
        WITHOUT_POLICY,
    ];
    ok(world, &upgrade);
    assert!(
        explained().contains(now),
        "an upgrade of the chart upgrades the kinds"
    );
    let level =
        "jsonpath={.spec.template.spec.containers[0].env[?(@.name==\"QUORATE_LOG\")].value}";
    assert_eq!(
        world.kubectl(&[
            "-n",
            n,
            "get",
            "deployment",
            "ops-quorate-operator",
            "-o",
            level
        ]),
        "debug"
    );

    let kept = ok(world, &["uninstall", "ops", "-n", n]);
    assert!(
        kept.contains("quorateclusters.quorate.dev"),
        "it says what it keeps: {kept}"
    );
    world.kubectl(&["-n", n, "get", "quoratecluster", "orders"]);
    let rest = world.kubectl(&[
        "-n",
        n,
        "get",
        "all,roles,rolebindings,networkpolicies,serviceaccounts",
        "-l",
        "app.kubernetes.io/instance=ops",
        "-o",
        "name",
    ]);
    assert_eq!(rest.trim(), "");
    // And back under the same name, with the kinds that were kept.
    let current = current.to_str().expect("ours");
    ok(world, &["install", "ops", current, "-n", n, WITHOUT_POLICY]);
    ok(world, &["uninstall", "ops", "-n", n]);
}

/// The policy against deletions is not installed.
const WITHOUT_POLICY: &str = "--set=deletionPolicy.enabled=false";

/// The operator's finalizer alone does not keep what a cluster owns from a garbage collector that has begun.
#[test]
fn a_protected_cluster_is_not_deleted_in_any_way() {
    let Some(world) = world_with_helm("a_protected_cluster_is_not_deleted_in_any_way") else {
        return;
    };
    let namespace = Ns::new(world, "protected");
    let other = Ns::new(world, "unprotected");
    let n = namespace.name.as_str();
    let path = chart("quorate-operator");
    let rendered = ok(
        world,
        &[
            "template",
            "ops",
            path.to_str().expect("ours"),
            "-n",
            n,
            "--show-only=templates/deletionpolicy.yaml",
            &format!("--set=watchNamespace={n}"),
        ],
    );
    let apply = ["apply", "--server-side", "-f", "-"];
    kubectl(world, &apply, &rendered).unwrap_or_else(|error| panic!("{error}"));
    // No operator looks after them, so nothing but the policy holds them.
    let cluster = |n: &str, name: &str, protected: bool| {
        let object = json!({"apiVersion": "quorate.dev/v1alpha1", "kind": "QuorateCluster",
            "metadata": {"name": name, "namespace": n},
            "spec": {"version": "0.1.0", "storage": {"size": "8Gi"}, "deletionProtection": protected}});
        world.apply(&object).expect("a cluster");
    };
    cluster(n, "kept", true);
    cluster(n, "free", false);
    cluster(&other.name, "kept", true);
    let delete = |n: &str, words: &[&str]| {
        let delete = ["-n", n, "delete", "qc", "--wait=false"];
        world.control.kubectl(&[&delete[..], words].concat())
    };
    // The API server hears of a policy a moment after it is stored.
    let refused = testkit::eventually("a policy that is heard of", PATIENCE, || {
        match delete(n, &["kept", "--dry-run=server"]) {
            Err(refused) => Ok(refused),
            Ok(said) => Err(said),
        }
    });
    let words = format!(
        "QuorateCluster {n}/kept is protected against deletion: set spec.deletionProtection to false first"
    );
    assert!(
        refused.contains(&words) && refused.contains("Forbidden"),
        "{refused}"
    );
    for cascade in ["foreground", "background", "orphan"] {
        let refused = delete(n, &["kept", &format!("--cascade={cascade}")]);
        assert!(refused.expect_err(cascade).contains(&words), "{cascade}");
    }
    // All of a namespace, one by one and as a collection: what is not protected goes.
    let refused = delete(n, &["--all"]).expect_err("one of them is protected");
    assert!(refused.contains(&words), "{refused}");
    let uri = format!("/apis/quorate.dev/v1alpha1/namespaces/{n}/quorateclusters");
    let refused = world.control.kubectl(&["delete", "--raw", &uri]);
    assert!(refused.expect_err("the same").contains(&words));
    let left = || world.kubectl(&["-n", n, "get", "qc", "-o", "name"]);
    assert_eq!(left().trim(), "quoratecluster.quorate.dev/kept");
    // Also with the namespace, which stays and says why.
    world.kubectl(&["delete", "namespace", n, "--wait=false"]);
    testkit::eventually("a namespace that says why it stays", PATIENCE, || {
        let said = world.kubectl(&["get", "namespace", n, "-o", "jsonpath={.status.conditions}"]);
        said.contains(&words).then_some(()).ok_or(said)
    });
    let marked = "jsonpath={.metadata.deletionTimestamp}";
    let marked = world.kubectl(&["-n", n, "get", "qc", "kept", "-o", marked]);
    assert_eq!(marked, "", "nothing of it was begun");
    // Another namespace is another operator's.
    delete(&other.name, &["kept"]).expect("no policy holds there");
    // What the message says is what helps.
    let lift = r#"--patch={"spec":{"deletionProtection":false}}"#;
    world.kubectl(&["-n", n, "patch", "qc", "kept", "--type=merge", lift]);
    // The namespace's controller may be the one that deletes it.
    let _ = delete(n, &["kept", "--cascade=foreground", "--ignore-not-found"]);
    testkit::eventually("its end", PATIENCE, || {
        let left = left();
        left.trim().is_empty().then_some(()).ok_or(left)
    });
    kubectl(world, &["delete", "-f", "-"], &rendered).expect("an administrator may");
}

#[test]
fn a_namespaced_operator_has_rights_in_its_namespace_only() {
    let Some(world) = world_with_helm("a_namespaced_operator_has_rights_in_its_namespace_only")
    else {
        return;
    };
    let namespace = restricted(world, "narrow");
    let n = namespace.name.as_str();
    let path = chart("quorate-operator");
    let watch = format!(
        "--set=watchNamespace={n},crds.install=false,rbac.clusterReads=false,fullnameOverride=narrow"
    );
    ok(
        world,
        &[
            "install",
            "ops",
            path.to_str().expect("ours"),
            "-n",
            n,
            &watch,
        ],
    );
    account_has_its_rights(world, n, "narrow", false);
    let arguments = "jsonpath={.spec.template.spec.containers[0].args}";
    let said = world.kubectl(&["-n", n, "get", "deployment", "narrow", "-o", arguments]);
    assert!(said.contains(&format!("--namespace={n}")), "{said}");
    let policies = || {
        let kinds = "validatingadmissionpolicies,validatingadmissionpolicybindings";
        let said = world.kubectl(&["get", kinds, "-o", "name"]);
        said.matches(&format!("/{n}-narrow-deletion")).count()
    };
    assert_eq!(policies(), 2, "it refuses deletions there");
    ok(world, &["uninstall", "ops", "-n", n]);
    assert_eq!(policies(), 0, "they go with the release");
}

/// The account may do what the table in `manifests` says, and nothing that it does not need.
fn account_has_its_rights(world: &World, n: &str, account: &str, wide: bool) {
    let account = format!("--as=system:serviceaccount:{n}:{account}");
    let may = |verb: &str, resource: &str, place: &str| {
        // It says so by its exit status. What is behind a slash would be a name.
        let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
        let sub = format!("--subresource={sub}");
        let words = ["auth", "can-i", verb, resource, &sub, "-n", place, &account];
        kubectl(world, &words, "").is_ok()
    };
    for (verb, resource) in [
        ("patch", "quorateclusters.quorate.dev"),
        ("update", "quorateclusters.quorate.dev/status"),
        ("create", "quoratemembers.quorate.dev"),
        ("delete", "pods"),
        ("create", "persistentvolumeclaims"),
        ("patch", "poddisruptionbudgets.policy"),
        ("create", "events.events.k8s.io"),
        ("update", "leases.coordination.k8s.io"),
    ] {
        assert!(may(verb, resource, n), "{verb} {resource}");
    }
    assert_eq!(may("delete", "pods", "default"), wide);
    assert_eq!(may("list", "nodes", "default"), wide);
    for (verb, resource) in [
        ("get", "secrets"),
        ("create", "pods/exec"),
        ("delete", "quorateclusters.quorate.dev"),
        ("update", "quorateclusters.quorate.dev"),
        ("update", "quoratemembers.quorate.dev/finalizers"),
        ("update", "pods"),
        ("update", "persistentvolumeclaims"),
        ("delete", "services"),
        ("create", "roles.rbac.authorization.k8s.io"),
        ("delete", "nodes"),
        ("delete", "persistentvolumes"),
    ] {
        assert!(!may(verb, resource, n), "{verb} {resource}");
    }
    assert!(
        !may("update", "leases.coordination.k8s.io", "kube-system"),
        "another's lease"
    );
}

/// The level `restricted` lets the Pods of the operator and of members in, and not just any.
fn pod_is_let_in(world: &World, n: &str, deployment: &str) {
    let text = world.kubectl(&["-n", n, "get", "deployment", deployment, "-o", "json"]);
    let object: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
    let template = &object["spec"]["template"];
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asked", "namespace": n}, "spec": template["spec"]});
    let create = ["create", "--dry-run=server", "-f", "-"];
    kubectl(world, &create, &pod.to_string()).expect("restricted lets it in");
    pod["spec"]["securityContext"] = json!({});
    let refused = kubectl(world, &create, &pod.to_string()).expect_err("restricted refuses it");
    assert!(refused.contains("violates PodSecurity"), "{refused}");
    for name in ["pod-new.yaml", "pod-existing.yaml", "pod-recover.yaml"] {
        let path = workspace()
            .join("operator/crates/manifests/testdata")
            .join(name);
        let text = fs::read_to_string(path).expect("a file of the workspace");
        // Its class is not there, which admission would refuse.
        let text = text
            .replace("namespace: shop", &format!("namespace: {n}"))
            .replace("  priorityClassName: high\n", "");
        kubectl(world, &create, &text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn the_clusters_chart_makes_a_cluster_of_its_values() {
    let Some(world) = world_with_helm("the_clusters_chart_makes_a_cluster_of_its_values") else {
        return;
    };
    let namespace = Ns::new(world, "shop");
    let n = namespace.name.as_str();
    let path = chart("quorate");
    let path = path.to_str().expect("ours");
    let spec = |field: &str| {
        let field = format!("jsonpath={{.spec.{field}}}");
        world.kubectl(&["-n", n, "get", "quoratecluster", "orders", "-o", &field])
    };
    let notes = ok(
        world,
        &["install", "orders", path, "-n", n, "--set=paused=true"],
    );
    assert!(notes.contains("quoratecluster/orders"), "{notes}");
    assert_eq!(
        (spec("replicas"), spec("version"), spec("storage.size")),
        ("3".into(), "0.1.0".into(), "8Gi".into())
    );
    let upgrade = ["upgrade", "orders", path, "-n", n, "--reuse-values"];
    let set = [
        "--set=replicas=5",
        "--set=options.autoCompaction.retention=1h",
        "--set=podTemplate.resources.requests.cpu=2",
    ];
    ok(world, &[&upgrade[..], &set[..]].concat());
    assert_eq!(
        (spec("replicas"), spec("options.autoCompaction.retention")),
        ("5".into(), "1h".into())
    );
    // What the schema knows is refused by helm, what only a rule knows by the API server.
    for (wrong, text) in [
        ("replica=5", "additional properties 'replica' not allowed"),
        ("replicas=9", "maximum"),
        (
            "options.quota=1",
            "additional properties 'quota' not allowed",
        ),
        ("storage.retention=Forget", "value must be one of"),
        ("replicas=4", "replicas must be odd, or 0 to hibernate"),
        ("storage.size=9Gi", "storage.size cannot be changed"),
    ] {
        let error = helm(world, &[&upgrade[..], &["--set", wrong]].concat()).expect_err(wrong);
        assert!(error.contains(text), "{wrong}: {error}");
    }
    assert_eq!(spec("replicas"), "5");
    ok(world, &["uninstall", "orders", "-n", n]);
    let gone = world
        .control
        .kubectl(&["-n", n, "get", "quoratecluster", "orders"]);
    assert!(gone.expect_err("it is gone").contains("not found"));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the tests' own folder");
    for entry in fs::read_dir(from).expect("a folder of the workspace") {
        let path = entry.expect("a folder of the workspace").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("the tests' own folder");
        }
    }
}
