//! An operator as a process, with the rights that it is shipped with.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::control::dies_with_its_thread;
use crate::door::{Cut, Door};
use crate::world::{World, on_spawner};

/// Where the operator's account lives.
pub const HOME: &str = "quorate-system";

/// How long a start may take, and the wait for a lease that the one before it held.
const STARTED: Duration = Duration::from_secs(60);

/// A running operator. It is killed when it is dropped.
pub struct Operator {
    /// between it and the API server
    pub door: Door,
    child: Option<Child>,
    log: PathBuf,
}

/// What is different from one operator to the next.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// the namespace that it looks after
    pub namespace: String,
    /// further flags
    pub flags: Vec<String>,
    /// when its door closes
    pub cut: Option<Cut>,
    /// without the rights on objects that are in no namespace
    pub narrow: bool,
    /// it says as much as an installed one, and not all that tests want to read
    pub terse: bool,
}

impl Options {
    /// One that looks after one namespace, alone.
    pub fn of(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            flags: vec!["--leader-elect=false".to_owned()],
            ..Self::default()
        }
    }

    /// One as it is installed: it holds a lease, of a name that no other has.
    pub fn installed(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            flags: vec![
                format!("--leader-elect-namespace={HOME}"),
                format!("--leader-elect-name={namespace}"),
            ],
            terse: true,
            ..Self::default()
        }
    }
}

impl Operator {
    /// Starts one.
    pub fn start(world: &World, options: &Options) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let rights = rights(world, options.narrow);
        let door = world.wait(async {
            // Its tasks are the runtime's.
            world
                .handle()
                .spawn({
                    let cut = options.cut;
                    async move { Door::open(&rights, cut).await }
                })
                .await
                .expect("a door")
        });
        let kubeconfig = world.dir().join(format!("operator-{number}.kubeconfig"));
        write_kubeconfig(&kubeconfig, &door.url);
        let log = world
            .dir()
            .join(format!("operator-{}-{number}.log", options.namespace));
        let child = spawn(&kubeconfig, &log, options);
        if let Some(calls) = world.kubelet.calls(&options.namespace) {
            calls.attach(child.id(), door.gate());
        }
        Self {
            door,
            child: Some(child),
            log,
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal.
    #[expect(
        unsafe_code,
        reason = "kill(2) has no safe wrapper in std; the process is our child"
    )]
    pub fn signal(&self, signal: i32) {
        if let Some(child) = &self.child {
            // SAFETY: kill takes two integers and touches no memory of ours; the child was not waited for.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }

    /// Its process.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it has ended by itself, and how.
    pub fn exited(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// The Pods that it made, in their order; creation timestamps are of whole seconds.
    pub fn pods_made(&self) -> Vec<String> {
        let seen = self.door.seen().into_iter();
        seen.filter(|seen| {
            seen.method == "POST" && seen.path.ends_with("/pods") && seen.status == 201
        })
        .map(|seen| {
            let pod: serde_json::Value = serde_json::from_slice(&seen.body).expect("a Pod");
            pod["metadata"]["name"]
                .as_str()
                .expect("its name")
                .to_owned()
        })
        .collect()
    }

    /// That it was refused nothing: what it is shipped with suffices.
    pub fn assert_rights_suffice(&self) {
        let refused: Vec<_> = self
            .door
            .seen()
            .into_iter()
            .filter(|seen| seen.status == 403)
            .collect();
        assert!(refused.is_empty(), "{refused:?}");
    }

    /// Its metrics, in the text format.
    pub fn metrics(&self) -> String {
        let log = self.log();
        let address = log
            .lines()
            .find_map(|line| {
                let rest = line.split("\"metrics\":\"").nth(1)?;
                rest.split('"').next()
            })
            .expect("it says where");
        get(address, "/metrics")
    }

    /// How often it has looked at a cluster.
    pub fn looks(&self) -> u64 {
        self.metrics()
            .lines()
            .find_map(|line| line.strip_prefix("quorate_operator_reconcile_total "))
            .and_then(|number| number.trim().parse().ok())
            .expect("it counts its looks")
    }

    /// Waits until it has looked so many times more; at rest there are ten seconds between two looks.
    pub fn until_more_looks(&self, more: u64) {
        self.until_looks(self.looks() + more);
    }

    /// Waits until it has looked so many times since it began.
    pub fn until_looks(&self, wanted: u64) {
        testkit::eventually("another look", STARTED, || {
            let looks = self.looks();
            if looks < wanted {
                std::thread::sleep(Duration::from_millis(200));
                return Err(format!("{looks} of {wanted}"));
            }
            Ok(())
        });
    }

    /// What it has changed since then, beside what it tells in statuses and Events; calls of members too, where a
    /// door stands before them.
    pub fn changes_since(&self, since: std::time::Instant) -> Vec<crate::door::Seen> {
        let mut seen = self.door.seen();
        seen.retain(|seen| seen.at > since && seen.is_change() && !seen.path.ends_with("/status"));
        seen
    }

    /// Waits until it acts and has read what there is.
    pub fn until_it_looks(&self) {
        testkit::eventually("an operator that looks", STARTED, || {
            let said = self.log();
            if said.contains("looking after clusters") {
                Ok(())
            } else {
                Err(said)
            }
        });
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it was not killed").id()
    }

    /// What it has said.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- log of the operator\n{tail}");
        }
    }
}

fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("QUORATE_OPERATOR_BIN") {
        return path.into();
    }
    let here = std::env::current_exe().expect("a test knows its own program");
    let folder = here
        .ancestors()
        .nth(2)
        .expect("a test lies in <profile>/deps");
    let path = folder.join("quorate-operator");
    assert!(
        path.exists(),
        "{} is not there; build it with `cargo build -p quorate-operator`, or set QUORATE_OPERATOR_BIN",
        path.display()
    );
    path
}

fn spawn(kubeconfig: &std::path::Path, log: &std::path::Path, options: &Options) -> Child {
    let (kubeconfig, log, options) = (kubeconfig.to_owned(), log.to_owned(), options.clone());
    on_spawner(move || {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the tests' own folder");
        dies_with_its_thread(&mut Command::new(program()))
            .arg(format!("--namespace={}", options.namespace))
            .arg("--member-host-template={loopback}")
            .arg("--metrics-bind-address=127.0.0.1:0")
            .args(&options.flags)
            .env("KUBECONFIG", kubeconfig)
            .env("QUORATE_LOG", if options.terse { "info" } else { "debug" })
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("the operator can be started")
    })
}

/// Accounts of operators: with all rights of the table, and without those on objects in no namespace.
const ACCOUNTS: [&str; 2] = ["quorate-operator", "quorate-operator-narrow"];

/// A kubeconfig with the token of an operator's account and nothing else, made once.
fn rights(world: &World, narrow: bool) -> PathBuf {
    static MADE: std::sync::Mutex<[Option<PathBuf>; 2]> = std::sync::Mutex::new([None, None]);
    let mut made = MADE.lock().expect("nobody panics with it");
    let (made, account) = (
        &mut made[usize::from(narrow)],
        ACCOUNTS[usize::from(narrow)],
    );
    if let Some(path) = &*made {
        return path.clone();
    }
    install_rights(world, account, narrow);
    let token = world.kubectl(&["-n", HOME, "create", "token", account, "--duration=6h"]);
    let admin = fs::read_to_string(&world.control.kubeconfig).expect("written by us");
    let field = |name: &str| {
        admin
            .lines()
            .find_map(|line| line.trim().strip_prefix(name))
            .map(|rest| rest.trim().to_owned())
            .unwrap_or_default()
    };
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": field("server:"), "certificate-authority-data": field("certificate-authority-data:"),
        }}],
        "users": [{"name": "operator", "user": {"token": token.trim()}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "operator"}}],
    });
    let path = world.dir().join(format!("{account}.kubeconfig"));
    fs::write(&path, config.to_string()).expect("the tests' own folder");
    *made = Some(path.clone());
    path
}

/// The account of the chart, and its rights from the table that the chart's roles are made of.
fn install_rights(world: &World, account: &str, narrow: bool) {
    use manifests::rbac::{GRANTS, Scope};
    let ok = |object: serde_json::Value| {
        world
            .apply(&object)
            .unwrap_or_else(|error| panic!("{error}"))
    };
    ok(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}}));
    ok(json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": account, "namespace": HOME}}));
    let wide: &[Scope] = if narrow {
        &[Scope::Watched]
    } else {
        &[Scope::Watched, Scope::Cluster]
    };
    let rules = |wanted: &[Scope]| -> Vec<serde_json::Value> {
        GRANTS
            .iter()
            .filter(|grant| wanted.contains(&grant.scope))
            .map(|grant| {
                json!({"apiGroups": [grant.group], "resources": grant.resources, "verbs": grant.verbs})
            })
            .collect()
    };
    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    let subjects = json!([{"kind": "ServiceAccount", "name": account, "namespace": HOME}]);
    ok(
        json!({"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": account},
        "rules": rules(wide)}),
    );
    ok(
        json!({"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": account},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": account}, "subjects": subjects}),
    );
    ok(
        json!({"apiVersion": version, "kind": "Role", "metadata": {"name": account, "namespace": HOME},
        "rules": rules(&[Scope::Own])}),
    );
    ok(json!({"apiVersion": version, "kind": "RoleBinding",
        "metadata": {"name": account, "namespace": HOME},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": account}, "subjects": subjects}));
}

fn write_kubeconfig(path: &std::path::Path, url: &str) {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "door",
        "clusters": [{"name": "door", "cluster": {"server": url}}],
        "users": [{"name": "operator", "user": {}}],
        "contexts": [{"name": "door", "context": {"cluster": "door", "user": "operator"}}],
    });
    fs::write(path, config.to_string()).expect("the tests' own folder");
}

fn get(address: &str, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("it answers in text");
    answer
}
