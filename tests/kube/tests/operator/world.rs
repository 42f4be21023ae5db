//! The control plane of all tests, started once, and what tests say to it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use testkit::{Cluster, Etcdctl, Kind, Spec, eventually, left_out, tool};

use crate::control::{Cache, Control, run};
use crate::kubelet::Kubelet;

/// The controllers that tests want: those that delete, those that guard, and who gives a namespace its
/// account. Scheduling and volumes are the stand-in's.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,disruption-controller,\
serviceaccount-controller,persistentvolumeclaim-protection-controller,resourcequota-controller";

/// Starts processes on a thread that lives as long as the tests: a process ends with the thread that started
/// it, also when the tests are killed.
type Job = Box<dyn FnOnce() + Send>;

/// What all tests share.
pub struct World {
    /// as administrator
    pub client: Client,
    /// the stand-in
    pub kubelet: Kubelet,
    /// API server and controllers
    pub control: Control,
    /// where the API server keeps what it has
    pub store: Etcdctl,
    runtime: tokio::runtime::Runtime,
    dir: PathBuf,
}

impl World {
    /// Waits for a future of a Kubernetes client.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Where its tasks run.
    pub fn handle(&self) -> tokio::runtime::Handle {
        self.runtime.handle().clone()
    }

    /// A folder that goes away with the tests.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// kubectl, which must succeed.
    pub fn kubectl(&self, words: &[&str]) -> String {
        self.control
            .kubectl(words)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// `kubectl apply -f -`; what it said, or its complaint.
    pub fn apply(&self, object: &serde_json::Value) -> Result<String, String> {
        apply(&self.control.kubeconfig, object)
    }
}

/// `kubectl apply --server-side -f -`
pub fn apply(kubeconfig: &Path, object: &serde_json::Value) -> Result<String, String> {
    use std::io::Write as _;
    let mut child = Command::new(crate::control::program("kubectl"))
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["apply", "--server-side", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl can be started");
    child
        .stdin
        .take()
        .expect("asked for as a pipe")
        .write_all(object.to_string().as_bytes())
        .expect("kubectl reads its input");
    let output = child.wait_with_output().expect("our own child");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The one world, or nothing when a program is missing; then the test is left out.
pub fn world(test: &str) -> Option<&'static World> {
    static WORLD: OnceLock<World> = OnceLock::new();
    let needed = [
        "etcd",
        "etcdctl",
        "kube-apiserver",
        "kube-controller-manager",
        "kubectl",
        "kubeload",
    ];
    if let Some(missing) = needed.iter().find(|program| tool(program).is_none()) {
        left_out(test, &format!("{missing} is missing; run `make tools`"));
        return None;
    }
    Some(WORLD.get_or_init(start))
}

/// Does it on the thread that starts processes.
pub fn on_spawner<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let (answer, answered) = mpsc::sync_channel(1);
    SPAWNER
        .get_or_init(|| {
            let (sender, jobs) = mpsc::channel::<Job>();
            std::thread::Builder::new()
                .name("spawner".to_owned())
                .spawn(move || jobs.iter().for_each(|job| job()))
                .expect("a thread");
            Mutex::new(sender)
        })
        .lock()
        .expect("nobody panics with it")
        .send(Box::new(move || {
            let _ = answer.send(job());
        }))
        .expect("the thread lives as long as we do");
    answered.recv().expect("the job was done")
}

fn start() -> World {
    let (cluster, control) = on_spawner(|| {
        let ours = std::env::var("QUORATE_KUBE_STORE").is_ok_and(|value| value == "ours");
        let spec = if ours {
            Spec::of(Kind::Quorate, 3)
        } else {
            Spec::of(Kind::Etcd, 1)
        };
        let cluster = Cluster::start(&spec).expect("the tools were looked for");
        // The garbage collector learns of new kinds only now and then, so ours are there before it starts.
        let control = Control::start_with(&cluster, Cache::Default, CONTROLLERS, install_kinds);
        (cluster, control)
    });
    let dir = cluster.dir().to_owned();
    let keeps = cluster.etcdctl();
    let store: Vec<u32> = cluster.members.iter().filter_map(|one| one.pid()).collect();
    sweep_afterwards(&dir, &store);
    // The store lives as long as the tests.
    std::mem::forget(cluster);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let client = runtime.block_on(client_of(&control.kubeconfig));
    let kubelet = Kubelet::start(&runtime, client.clone(), dir.join("kubelet"));
    World {
        client,
        kubelet,
        control,
        store: keeps,
        runtime,
        dir,
    }
}

/// A client with the rights of a kubeconfig.
pub async fn client_of(kubeconfig: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).expect("written by us");
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .expect("written by us");
    Client::try_from(config).expect("a client")
}

fn install_kinds(kubeconfig: &Path) {
    let crds = workspace().join("crds");
    if !crds.exists() {
        return;
    }
    let said = run(Command::new(crate::control::program("kubectl"))
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["apply", "--server-side", "-f"])
        .arg(&crds));
    assert!(said.contains("quorateclusters"), "{said}");
    eventually("the kinds", Duration::from_secs(20), || {
        let output = Command::new(crate::control::program("kubectl"))
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["get", "quorateclusters,quoratemembers", "-A"])
            .output()
            .expect("kubectl can be started");
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    });
}

/// The workspace's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("this file lies in it")
}

/// The store's processes end and the folder is removed when this process has ended, however it ends.
fn sweep_afterwards(dir: &Path, store: &[u32]) {
    let dir = dir.to_owned();
    let child = Command::new("sh")
        .arg("-c")
        // What still ends there may write once more.
        .arg("trap '' TERM INT HUP; read -r _; dir=$1; shift; kill -9 \"$@\"; for _ in 1 2 3 4 5; do sleep 1; rm -rf -- \"$dir\" && exit; done")
        .arg("sweep")
        .arg(dir)
        .args(store.iter().map(u32::to_string))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell");
    // Its standard input closes with this process.
    std::mem::forget(child);
}

/// Whether tests may take their time: `QUORATE_OPERATOR=whole`.
pub fn whole() -> bool {
    std::env::var("QUORATE_OPERATOR").is_ok_and(|value| value == "whole")
}

/// A namespace of one test, of a name that no other run has; it is deleted with everything in it.
pub struct Ns {
    /// its name
    pub name: String,
    world: &'static World,
}

impl Ns {
    /// Makes one, in which the Pods that Kubernetes calls restricted may run and no others.
    pub fn new(world: &'static World, word: &str) -> Self {
        // Members' addresses come from it: two runs on one machine must not meet.
        let name = format!("{word}-{}", std::process::id());
        world
            .apply(&serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .unwrap_or_else(|error| panic!("{error}"));
        eventually("the namespace's account", Duration::from_secs(20), || {
            world
                .control
                .kubectl(&["-n", &name, "get", "serviceaccount", "default"])
        });
        Self { name, world }
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        let kubectl = |words: &[&str]| self.world.control.kubectl(words);
        // Nobody waits for it: the control plane goes with the last test.
        let _ = kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        // What waits for an operator that is gone would hold it for ever, and the API server would try again for
        // ever: that adds up where hundreds are made.
        if !whole() {
            return;
        }
        let kinds = "quoratecluster,quoratemember";
        let left = kubectl(&["-n", &self.name, "get", kinds, "--output=name"]).unwrap_or_default();
        let left: Vec<&str> = left.lines().filter(|line| line.contains('/')).collect();
        if !left.is_empty() {
            let free = r#"--patch={"metadata":{"finalizers":null}}"#;
            let patch = ["-n", &self.name, "patch", "--type=merge", free];
            let _ = kubectl(&[&patch[..], &left].concat());
        }
    }
}
