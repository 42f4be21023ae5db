//! A stand-in for scheduler, volumes and kubelet: Pods become processes of this machine.
//!
//! ```text
//! claim   → a folder, Bound            Pod without a node → bound to n1, n2 or n3
//! Pod     → container's args as a process, its address the one that it listens on
//! process → status: Running, restarts, Ready from the readiness probe
//! deleted → SIGTERM, SIGKILL after the grace period, then the object goes
//! ```
//!
//! It looks at everything every tenth of a second, from a cache that watches keep. What a test breaks
//! (processes, nodes, volumes, images, room for Pods) stays broken until the test mends it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::calls::Calls;
use crate::control::dies_with_its_thread;
use crate::world::on_spawner;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Between two looks at a process's readiness; a ready one may be looked at less often.
const PROBE: Duration = Duration::from_millis(300);

/// After an end by itself a process is started again, later each time, up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A process that ran for this long starts again at once.
const RAN_WELL: Duration = Duration::from_secs(10);

/// Where a member's volume is mounted in its container.
const MOUNT: &str = "/var/lib/quorate";

/// Machines that are said to be there.
const NODES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];

/// A Pod by namespace and name.
type Name = (String, String);

/// The stand-in; cheap to clone.
#[derive(Clone)]
pub struct Kubelet {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    dir: PathBuf,
    /// by UID of the Pod
    running: BTreeMap<String, Running>,
    /// UIDs of Pods whose init container has done its work
    begun: BTreeSet<String>,
    /// the end of an image's name, and the program
    images: Vec<(String, PathBuf)>,
    /// Pods whose process is not to run
    stopped: BTreeSet<Name>,
    /// nodes by namespace: tests do not share their troubles
    silent_nodes: BTreeSet<Name>,
    /// namespaces in which no Pod finds a node
    no_room: BTreeSet<String>,
    /// between two looks at a ready process; [`PROBE`] when it is not set
    probe_ready: Option<Duration>,
    /// doors before the members of a namespace
    calls: BTreeMap<String, Calls>,
    /// Pods whose volume is on a node that takes none
    no_way: BTreeSet<Name>,
}

/// One Pod's process.
struct Running {
    name: Name,
    node: String,
    address: String,
    child: Option<Child>,
    started_at: Option<Instant>,
    start_again_at: Instant,
    backoff: Duration,
    restarts: u32,
    last_exit: Option<i32>,
    asked_to_end_at: Option<Instant>,
    probed_at: Option<Instant>,
    ready: bool,
    ready_changed: Timestamp,
    said: Value,
}

impl Kubelet {
    /// Starts to look.
    pub fn start(runtime: &tokio::runtime::Runtime, client: Client, dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).expect("the tests' own folder");
        let images = vec![(
            format!("quorate:{}", env!("CARGO_PKG_VERSION")),
            testkit::quorate(),
        )];
        let kubelet = Self {
            state: Arc::new(Mutex::new(State {
                dir,
                images,
                ..State::default()
            })),
        };
        runtime.spawn(kubelet.clone().watch(client));
        kubelet
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("nobody panics with it"))
    }

    /// Images whose name ends so have this program.
    pub fn add_image(&self, ending: &str, program: PathBuf) {
        self.with(|state| state.images.push((ending.to_owned(), program)));
    }

    /// kill -9; the process is started again.
    pub fn kill(&self, namespace: &str, pod: &str) {
        self.signal(namespace, pod, libc::SIGKILL);
    }

    /// Sends a signal to a Pod's process.
    pub fn signal(&self, namespace: &str, pod: &str, signal: i32) {
        self.with(|state| {
            for running in state.running.values() {
                if running.name == (namespace.to_owned(), pod.to_owned()) {
                    running.signal(signal);
                }
            }
        });
    }

    /// kill -9, and no start until [`Self::let_run`].
    pub fn stop(&self, namespace: &str, pod: &str) {
        self.with(|state| {
            state.stopped.insert((namespace.to_owned(), pod.to_owned()));
        });
        self.kill(namespace, pod);
    }

    /// The Pod's process may run again.
    pub fn let_run(&self, namespace: &str, pod: &str) {
        self.with(|state| {
            state
                .stopped
                .remove(&(namespace.to_owned(), pod.to_owned()));
        });
    }

    /// The node of a Pod.
    pub fn node_of(&self, namespace: &str, pod: &str) -> Option<String> {
        self.with(|state| {
            state
                .running
                .values()
                .find(|running| running.name == (namespace.to_owned(), pod.to_owned()))
                .map(|running| running.node.clone())
        })
    }

    /// Nothing is heard of a Pod's node any more: its process is killed and nobody says so.
    pub fn lose_node(&self, namespace: &str, node: &str) {
        self.with(|state| {
            state
                .silent_nodes
                .insert((namespace.to_owned(), node.to_owned()));
            for running in state.running.values() {
                if running.node == node && running.name.0 == namespace {
                    running.signal(libc::SIGKILL);
                }
            }
        });
    }

    /// The same, but the node is only cut off: its processes stand still until it is back.
    pub fn cut_node(&self, namespace: &str, node: &str) {
        self.with(|state| {
            state
                .silent_nodes
                .insert((namespace.to_owned(), node.to_owned()));
            for running in state.running.values_mut() {
                if running.node == node && running.name.0 == namespace {
                    running.signal(libc::SIGSTOP);
                    running.ready = false;
                }
            }
        });
    }

    /// The node is back.
    pub fn find_node(&self, namespace: &str, node: &str) {
        self.with(|state| {
            state
                .silent_nodes
                .remove(&(namespace.to_owned(), node.to_owned()));
            for running in state.running.values() {
                if running.node == node && running.name.0 == namespace {
                    running.signal(libc::SIGCONT);
                }
            }
        });
    }

    /// Members of a namespace stand behind this door from their next start on.
    pub fn put_before(&self, namespace: &str, calls: Calls) {
        self.with(|state| state.calls.insert(namespace.to_owned(), calls));
    }

    /// The door before the members of a namespace.
    pub fn calls(&self, namespace: &str) -> Option<Calls> {
        self.with(|state| state.calls.get(namespace).cloned())
    }

    /// No Pod of a namespace finds a node, or each does again.
    pub fn set_room(&self, namespace: &str, room: bool) {
        self.with(|state| {
            if room {
                state.no_room.remove(namespace);
            } else {
                state.no_room.insert(namespace.to_owned());
            }
        });
    }

    /// A Pod finds no node any more, since its volume can be used on none that there is.
    pub fn keep_from_volume(&self, namespace: &str, pod: &str) {
        self.with(|state| {
            state.no_way.insert((namespace.to_owned(), pod.to_owned()));
        });
    }

    /// Processes that are ready are probed this often, which is rarely: there are many.
    pub fn probe_ready_every(&self, pause: Duration) {
        self.with(|state| state.probe_ready = Some(pause));
    }

    /// kill -9, and the volume is empty when the process starts again.
    pub fn empty_volume(&self, namespace: &str, pod: &str, claim_uid: &str) {
        self.stop(namespace, pod);
        let dir = self.volume(claim_uid);
        self.with(|state| {
            for running in state.running.values_mut() {
                if running.name == (namespace.to_owned(), pod.to_owned()) {
                    running.end();
                }
            }
        });
        fs::remove_dir_all(&dir).expect("a volume that is there");
        fs::create_dir_all(&dir).expect("the tests' own folder");
        self.let_run(namespace, pod);
    }

    /// The folder of a claim.
    pub fn volume(&self, claim_uid: &str) -> PathBuf {
        self.with(|state| state.dir.join("volumes").join(claim_uid))
    }

    /// Addresses of the processes that are ready, in a namespace.
    pub fn ready_addresses(&self, namespace: &str) -> Vec<String> {
        self.with(|state| {
            state
                .running
                .values()
                .filter(|one| one.name.0 == namespace && one.ready)
                .map(|one| one.address.clone())
                .collect()
        })
    }

    /// Every process that runs in a namespace: Pod and process id.
    pub fn processes(&self, namespace: &str) -> Vec<(String, u32)> {
        self.with(|state| {
            state
                .running
                .values()
                .filter(|one| one.name.0 == namespace)
                .filter_map(|one| Some((one.name.1.clone(), one.child.as_ref()?.id())))
                .collect()
        })
    }

    /// What a Pod's process has said, all its lives.
    pub fn log(&self, namespace: &str, pod: &str) -> String {
        let path = self.with(|state| log_path(&state.dir, namespace, pod));
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    async fn watch(self, client: Client) {
        let (pods, pods_writer) = reflector::store::<Pod>();
        let (claims, claims_writer) = reflector::store::<PersistentVolumeClaim>();
        tokio::spawn(
            reflector(
                pods_writer,
                watcher(Api::all(client.clone()), watcher::Config::default()),
            )
            .default_backoff()
            .for_each(|_| futures::future::ready(())),
        );
        tokio::spawn(
            reflector(
                claims_writer,
                watcher(Api::all(client.clone()), watcher::Config::default()),
            )
            .default_backoff()
            .for_each(|_| futures::future::ready(())),
        );
        pods.wait_until_ready().await.expect("the watch lives on");
        claims.wait_until_ready().await.expect("the watch lives on");
        loop {
            let claims = claims.state();
            for claim in &claims {
                if let Err(error) = self.bind_claim(&client, claim).await {
                    eprintln!("stand-in: claim {}: {error}", claim.name_any());
                }
            }
            self.remove_volumes(&claims);
            let pods = pods.state();
            for pod in &pods {
                match self.look_at(&client, pod, &claims).await {
                    // Somebody else was faster; the next look knows.
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {}
                    Err(error) => eprintln!("stand-in: pod {}: {error}", pod.name_any()),
                    Ok(()) => {}
                }
            }
            self.end_the_gone(&pods);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A claim becomes a folder, unless its class is one that nobody serves.
    async fn bind_claim(
        &self,
        client: &Client,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), kube::Error> {
        let phase = claim
            .status
            .as_ref()
            .and_then(|status| status.phase.clone());
        let class = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.storage_class_name.clone());
        if phase.as_deref() == Some("Bound")
            || class.is_some_and(|class| class == "missing")
            || claim.metadata.deletion_timestamp.is_some()
        {
            return Ok(());
        }
        let (namespace, uid) = (
            claim.namespace().unwrap_or_default(),
            claim.uid().unwrap_or_default(),
        );
        fs::create_dir_all(self.volume(&uid)).expect("the tests' own folder");
        let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
        let status = json!({"status": {"phase": "Bound"}});
        match api
            .patch_status(
                &claim.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&status),
            )
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Folders of claims that are gone.
    fn remove_volumes(&self, claims: &[Arc<PersistentVolumeClaim>]) {
        let known: BTreeSet<String> = claims.iter().filter_map(|claim| claim.uid()).collect();
        let dir = self.with(|state| state.dir.join("volumes"));
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if !known.contains(&uid) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    async fn look_at(
        &self,
        client: &Client,
        pod: &Pod,
        claims: &[Arc<PersistentVolumeClaim>],
    ) -> Result<(), kube::Error> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let Some(node) = node else {
            return self.schedule(&api, pod, claims).await;
        };
        if self.with(|state| {
            state
                .silent_nodes
                .contains(&(namespace.clone(), node.clone()))
        }) {
            return Ok(());
        }
        let uid = pod.uid().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() {
            let grace = pod
                .metadata
                .deletion_grace_period_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .unwrap_or(30);
            if self.has_ended(&uid, Duration::from_secs(grace)) {
                let now = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(Preconditions {
                        uid: Some(uid),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                api.delete(&name, &now).await?;
            }
            return Ok(());
        }
        let Some(program) = self.program_of(pod) else {
            let waiting =
                json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
            let status = status_of(pod, "Pending", None, false, 0, &waiting, &Value::Null, None);
            return self.say(&api, &uid, &name, status).await;
        };
        if let Some(code) = self.begin(pod, &uid, &program, claims) {
            let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": format!("init container ended with {code}")}});
            let status = status_of(pod, "Pending", None, false, 0, &waiting, &Value::Null, None);
            return self.say(&api, &uid, &name, status).await;
        }
        self.keep_running(pod, &uid, &node, &program, claims);
        self.probe(&uid).await;
        let Some(status) = self.with(|state| state.running.get(&uid).map(|one| one.status(pod)))
        else {
            return Ok(());
        };
        self.say(&api, &uid, &name, status).await
    }

    /// Finds a node, when there is one and the volumes are there.
    async fn schedule(
        &self,
        api: &Api<Pod>,
        pod: &Pod,
        claims: &[Arc<PersistentVolumeClaim>],
    ) -> Result<(), kube::Error> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        if pod.metadata.deletion_timestamp.is_some() {
            api.delete(&name, &DeleteParams::default().grace_period(0))
                .await?;
            return Ok(());
        }
        let unbound = claims_of(pod).into_iter().find(|wanted| {
            !claims.iter().any(|claim| {
                claim.namespace().as_deref() == Some(&namespace)
                    && claim.name_any() == *wanted
                    && claim.metadata.deletion_timestamp.is_none()
                    && claim
                        .status
                        .as_ref()
                        .and_then(|status| status.phase.as_deref())
                        == Some("Bound")
            })
        });
        let (room, way) = self.with(|state| {
            let room = !state.no_room.contains(&namespace);
            let pod = (namespace.clone(), name.clone());
            (room, !state.no_way.contains(&pod))
        });
        let why = match unbound {
            Some(claim) => Some(format!("persistentvolumeclaim {claim:?} is not bound")),
            None if !room => Some("0/5 nodes are available: 5 Insufficient memory.".to_owned()),
            None if !way => {
                let why = "0/5 nodes are available: 5 node(s) didn't match PersistentVolume's node affinity.";
                Some(why.to_owned())
            }
            None => None,
        };
        if let Some(why) = why {
            let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why});
            let status = json!({"phase": "Pending", "conditions": [condition]});
            return self
                .say(api, &pod.uid().unwrap_or_default(), &name, status)
                .await;
        }
        let node = self.with(|state| {
            let load = |node: &str| {
                state
                    .running
                    .values()
                    .filter(|one| one.node == node && one.name.0 == namespace)
                    .count()
            };
            NODES
                .iter()
                .filter(|node| {
                    let node = (namespace.clone(), (**node).to_owned());
                    !state.silent_nodes.contains(&node)
                })
                .min_by_key(|node| load(node))
                .map(|node| (*node).to_owned())
        });
        let Some(node) = node else { return Ok(()) };
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        api.create_subresource::<Value, Value>("binding", &name, &PostParams::default(), &binding)
            .await
            .map(|_| ())
    }

    fn program_of(&self, pod: &Pod) -> Option<PathBuf> {
        let image = pod.spec.as_ref()?.containers.first()?.image.clone()?;
        self.with(|state| {
            state
                .images
                .iter()
                .rev()
                .find(|(ending, _)| image.ends_with(ending.as_str()))
                .map(|(_, program)| program.clone())
        })
    }

    /// Runs the Pod's init container to its end, once; its exit code when it failed. It is quick, so nothing else
    /// goes on meanwhile.
    fn begin(
        &self,
        pod: &Pod,
        uid: &str,
        program: &Path,
        claims: &[Arc<PersistentVolumeClaim>],
    ) -> Option<i32> {
        let init = pod.spec.as_ref()?.init_containers.as_ref()?.first()?;
        if self.with(|state| state.begun.contains(uid)) {
            return None;
        }
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let volume = self.volume(&volume_of(pod, claims)?);
        let log = self.with(|state| log_path(&state.dir, &namespace, &name));
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the tests' own folder");
        let args = words(init.args.as_deref().unwrap_or_default(), &volume);
        let status = Command::new(program)
            .args(args)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .status()
            .expect("the program can be started");
        if !status.success() {
            return Some(status.code().unwrap_or(137));
        }
        self.with(|state| state.begun.insert(uid.to_owned()));
        None
    }

    /// Starts the process, the first time or again.
    fn keep_running(
        &self,
        pod: &Pod,
        uid: &str,
        node: &str,
        program: &Path,
        claims: &[Arc<PersistentVolumeClaim>],
    ) {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let Some(volume) = volume_of(pod, claims) else {
            return;
        };
        self.with(|state| {
            let stopped = state.stopped.contains(&(namespace.clone(), name.clone()));
            let volume = state.dir.join("volumes").join(volume);
            let log = log_path(&state.dir, &namespace, &name);
            let mut args = arguments(pod, &volume);
            let address = address(&args);
            if let Some(calls) = state.calls.get(&namespace) {
                args = calls.stand_before(&address, args);
            }
            let running = state
                .running
                .entry(uid.to_owned())
                .or_insert_with(|| Running {
                    name: (namespace.clone(), name.clone()),
                    node: node.to_owned(),
                    address,
                    child: None,
                    started_at: None,
                    start_again_at: Instant::now(),
                    backoff: Duration::ZERO,
                    restarts: 0,
                    last_exit: None,
                    asked_to_end_at: None,
                    probed_at: None,
                    ready: false,
                    ready_changed: Timestamp::now(),
                    said: Value::Null,
                });
            running.notice_end();
            if running.child.is_none() && !stopped && Instant::now() >= running.start_again_at {
                running.start(program, &args, &log);
            }
        });
    }

    async fn probe(&self, uid: &str) {
        let address = self.with(|state| {
            let rarely = state.probe_ready;
            let running = state.running.get_mut(uid)?;
            let pause = rarely.filter(|_| running.ready).unwrap_or(PROBE);
            if running.child.is_none() {
                running.set_ready(false);
                return None;
            }
            if running.probed_at.is_some_and(|at| at.elapsed() < pause) {
                return None;
            }
            running.probed_at = Some(Instant::now());
            Some(running.address.clone())
        });
        let Some(address) = address else { return };
        let ready = tokio::time::timeout(Duration::from_millis(500), readyz(&address))
            .await
            .unwrap_or(false);
        self.with(|state| {
            if let Some(running) = state.running.get_mut(uid) {
                running.set_ready(ready && running.child.is_some());
            }
        });
    }

    /// Whether a Pod that is deleted has no process any more.
    fn has_ended(&self, uid: &str, grace: Duration) -> bool {
        self.with(|state| {
            let Some(running) = state.running.get_mut(uid) else {
                return true;
            };
            running.notice_end();
            if running.child.is_none() {
                state.running.remove(uid);
                return true;
            }
            match running.asked_to_end_at {
                None => {
                    running.signal(libc::SIGTERM);
                    running.asked_to_end_at = Some(Instant::now());
                }
                Some(at) if at.elapsed() > grace => running.signal(libc::SIGKILL),
                Some(_) => {}
            }
            false
        })
    }

    /// Processes of Pods that are gone from the API server, on nodes that are not.
    fn end_the_gone(&self, pods: &[Arc<Pod>]) {
        let known: BTreeSet<String> = pods.iter().filter_map(|pod| pod.uid()).collect();
        self.with(|state| {
            let silent = state.silent_nodes.clone();
            state.running.retain(|uid, running| {
                let node = (running.name.0.clone(), running.node.clone());
                if known.contains(uid) || silent.contains(&node) {
                    return true;
                }
                running.end();
                false
            });
        });
    }

    /// Writes a status when it is not the one that was written last.
    async fn say(
        &self,
        api: &Api<Pod>,
        uid: &str,
        name: &str,
        status: Value,
    ) -> Result<(), kube::Error> {
        let known = self.with(|state| {
            let said = state.running.get(uid).map(|running| &running.said);
            said == Some(&status)
        });
        // Of a Pod without a process only the API server knows what was said.
        let known = known
            || (self.with(|state| !state.running.contains_key(uid))
                && api
                    .get_opt(name)
                    .await?
                    .is_some_and(|pod| says_already(&pod, &status)));
        if known {
            return Ok(());
        }
        api.patch_status(
            name,
            &PatchParams::default(),
            &Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status})),
        )
        .await?;
        self.with(|state| {
            if let Some(running) = state.running.get_mut(uid) {
                running.said = status;
            }
        });
        Ok(())
    }
}

impl Running {
    fn start(&mut self, program: &Path, args: &[String], log: &Path) {
        let (program, args, log) = (program.to_owned(), args.to_owned(), log.to_owned());
        let child = on_spawner(move || {
            let log = File::options()
                .create(true)
                .append(true)
                .open(log)
                .expect("the tests' own folder");
            dies_with_its_thread(&mut Command::new(program))
                .args(args)
                .env_clear()
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("a descriptor"))
                .stderr(log)
                .spawn()
                .expect("the program can be started")
        });
        if self.started_at.is_some() {
            self.restarts += 1;
        }
        self.child = Some(child);
        self.started_at = Some(Instant::now());
    }

    /// Sees whether the process has ended by itself, and decides when it starts again.
    fn notice_end(&mut self) {
        let Some(child) = self.child.as_mut() else {
            return;
        };
        let Ok(Some(status)) = child.try_wait() else {
            return;
        };
        self.child = None;
        self.last_exit = Some(status.code().unwrap_or(137));
        let ran = self.started_at.map_or(Duration::ZERO, |at| at.elapsed());
        self.backoff = if ran > RAN_WELL {
            Duration::ZERO
        } else {
            (self.backoff * 2).clamp(Duration::from_millis(200), BACKOFF_MAX)
        };
        self.start_again_at = Instant::now() + self.backoff;
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    #[expect(
        unsafe_code,
        reason = "kill(2) has no safe wrapper in std; the process is our child"
    )]
    fn signal(&self, signal: i32) {
        if let Some(child) = &self.child {
            // SAFETY: kill takes two integers and touches no memory of ours; the child was not waited for.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }

    fn set_ready(&mut self, ready: bool) {
        if self.ready != ready {
            self.ready = ready;
            self.ready_changed = Timestamp::now();
        }
    }

    fn status(&self, pod: &Pod) -> Value {
        let state = if self.child.is_some() {
            json!({"running": {}})
        } else {
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}})
        };
        let last = self.last_exit.map_or(
            Value::Null,
            |code| json!({"terminated": {"exitCode": code, "reason": "Error"}}),
        );
        status_of(
            pod,
            "Running",
            Some(&self.address),
            self.ready,
            self.restarts,
            &state,
            &last,
            Some(self.ready_changed),
        )
    }
}

/// A Pod's status with one container.
#[expect(
    clippy::too_many_arguments,
    reason = "one caller for each of two shapes, both here"
)]
fn status_of(
    pod: &Pod,
    phase: &str,
    address: Option<&str>,
    ready: bool,
    restarts: u32,
    state: &Value,
    last: &Value,
    changed: Option<Timestamp>,
) -> Value {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let changed = changed.map(|at| at.to_string());
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        json!({"type": kind, "status": status, "lastTransitionTime": changed})
    };
    let mut status = json!({
        "phase": phase,
        "conditions": [
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
        "containerStatuses": [{
            "name": container.map(|one| one.name.clone()),
            "image": container.and_then(|one| one.image.clone()),
            "imageID": "",
            "ready": ready,
            "started": ready,
            "restartCount": restarts,
            "state": state,
            "lastState": last,
        }],
    });
    if let Some(address) = address {
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{"ip": address}]);
        status["hostIP"] = json!("127.0.0.1");
    }
    status
}

/// Whether a Pod without a process has been told this.
fn says_already(pod: &Pod, status: &Value) -> bool {
    let Some(now) = &pod.status else { return false };
    let wanted = |of: &Value| {
        of["containerStatuses"][0]["state"]["waiting"]["reason"]
            .as_str()
            .map(str::to_owned)
            .or_else(|| of["conditions"][0]["message"].as_str().map(str::to_owned))
    };
    let waiting = now.container_statuses.as_ref().and_then(|all| {
        all.first()?
            .state
            .as_ref()?
            .waiting
            .as_ref()?
            .reason
            .clone()
    });
    let unscheduled = now.conditions.as_ref().and_then(|all| {
        all.iter()
            .find(|one| one.type_ == "PodScheduled" && one.status == "False")?
            .message
            .clone()
    });
    let wanted = wanted(status);
    wanted.is_some() && (wanted == waiting || wanted == unscheduled)
}

/// The names of the claims that a Pod mounts.
fn claims_of(pod: &Pod) -> Vec<String> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone()))
        .collect()
}

/// UID of the claim that a Pod's data is on.
fn volume_of(pod: &Pod, claims: &[Arc<PersistentVolumeClaim>]) -> Option<String> {
    let wanted = claims_of(pod).into_iter().next()?;
    let claim = claims
        .iter()
        .find(|claim| claim.namespace() == pod.namespace() && claim.name_any() == wanted)?;
    claim.uid()
}

/// The container's arguments with the volume's folder where its mount was.
fn arguments(pod: &Pod, volume: &Path) -> Vec<String> {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let args = container.and_then(|container| container.args.as_deref());
    words(args.unwrap_or_default(), volume)
}

fn words(args: &[String], volume: &Path) -> Vec<String> {
    args.iter()
        .map(|word| word.replace(MOUNT, &volume.display().to_string()))
        .collect()
}

/// The host that a process listens on for clients.
fn address(args: &[String]) -> String {
    args.iter()
        .find_map(|word| word.strip_prefix("--listen-client-urls=http://"))
        .and_then(|rest| rest.split([':', ',']).next())
        .unwrap_or("127.0.0.1")
        .to_owned()
}

fn log_path(dir: &Path, namespace: &str, pod: &str) -> PathBuf {
    dir.join(format!("{namespace}.{pod}.log"))
}

/// The readiness probe of a member.
async fn readyz(address: &str) -> bool {
    let Ok(mut stream) = tokio::net::TcpStream::connect((address, 2381)).await else {
        return false;
    };
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer.starts_with(b"HTTP/1.1 200")
}
