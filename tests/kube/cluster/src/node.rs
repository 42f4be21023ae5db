//! A node: containerd, kubelet and kube-proxy in namespaces of their own, on a disk that is a folder.
//!
//! ```text
//! <cluster>/nodes/<name>/disk     /var as the node sees it: images, containers, volumes. Survives a kill.
//! <cluster>/nodes/<name>/conf     what it is configured with
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::groups;
use crate::parts::{Part, run, system, tool, until};
use crate::relay::Relay;
use crate::spaces::{Switch, cni, first_child};

/// Where the API server, its store and DNS are.
pub const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 100);

/// The network of the Services' addresses.
pub const SERVICES: &str = "10.96.0.0/16";

/// The network of all Pods.
const PODS: &str = "10.244.0.0/16";

/// How the node's sandbox process is called inside of containerd.
const PAUSE: &str = "localhost/quorate-test-pause:1";

/// A silent node shall be noticed in seconds: by default its kubelet reports every 10.
const REPORT_S: u32 = 2;

/// One node, running or not.
#[derive(Debug)]
pub struct Node {
    /// `node1`, …
    pub name: String,
    number: u8,
    folder: PathBuf,
    up: Option<Up>,
}

#[derive(Debug)]
struct Up {
    /// the first process, as we see it
    pid: u32,
    /// each with its log; the first one holds the namespaces
    parts: Vec<Part>,
}

/// What every node has to know of the cluster.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// folder of the cluster
    pub dir: PathBuf,
    /// control group folder of the cluster
    pub group: String,
    /// how many nodes there are
    pub nodes: u8,
    /// archives that every node gets
    pub images: Vec<PathBuf>,
}

impl Surroundings {
    fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    fn pki(&self, file: &str) -> PathBuf {
        self.dir.join("pki").join(file)
    }
}

impl Node {
    /// A node that does not run, with an empty disk.
    pub fn new(number: u8, dir: &Path) -> Self {
        let name = format!("node{number}");
        let folder = dir.join("nodes").join(&name);
        Self {
            name,
            number,
            folder,
            up: None,
        }
    }

    /// Its address on the switch.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 89, 0, self.number)
    }

    /// The network of its Pods.
    pub fn pods(&self) -> String {
        pods_of(self.number)
    }

    /// Its disk, as the machine sees it.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// Whether it has power.
    pub fn is_up(&self) -> bool {
        self.up.is_some()
    }

    /// A command inside of it.
    pub fn enter(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let up = self
            .up
            .as_ref()
            .with_context(|| format!("{} is down", self.name))?;
        Ok(enter(up.pid, program))
    }

    /// Leads an address of this machine to one that is known here: a Pod's, a Service's.
    pub fn forward(&self, target: &str, around: &Surroundings) -> Result<Relay> {
        let up = self.up.as_ref().context("the node is down")?;
        Relay::start(up.pid, target, &around.logs())
    }

    /// Fails when one of its parts has ended by itself.
    pub fn must_run(&mut self) -> Result<()> {
        for part in self.up.iter_mut().flat_map(|up| &mut up.parts) {
            part.must_run()?;
        }
        Ok(())
    }

    /// Takes its power away.
    pub fn kill(&mut self) -> Result<()> {
        let mut up = self
            .up
            .take()
            .with_context(|| format!("{} is down already", self.name))?;
        // The end of the first process is the end of all.
        run(Command::new("kill").args(["-KILL", &up.pid.to_string()]))?;
        for part in up.parts.iter_mut().rev() {
            part.kill();
        }
        Ok(())
    }

    /// Makes its disk empty. It has to be down.
    pub fn erase(&self) -> Result<()> {
        ensure!(!self.is_up(), "{} is up, kill it first", self.name);
        let disk = self.disk();
        if disk.exists() {
            fs::remove_dir_all(&disk)
                .with_context(|| format!("cannot empty {}", disk.display()))?;
        }
        Ok(())
    }

    /// Gives it power: namespaces, cable, routes, containerd. The kubelet follows when there is an API server.
    pub fn start(&mut self, around: &Surroundings, switch: &Switch) -> Result<()> {
        ensure!(!self.is_up(), "{} is up already", self.name);
        let (disk, conf) = (self.disk(), self.folder.join("conf"));
        fs::create_dir_all(&disk)?;
        fs::create_dir_all(&conf)?;
        groups::make(&around.group, &self.name)?;
        let (holder, pid) = self.hold(around, &disk, &conf)?;
        self.up = Some(Up {
            pid,
            parts: vec![holder],
        });
        switch.plug(&self.name, pid, self.address())?;
        let route = |to: &str, via: &[&str]| -> Result<()> {
            let mut ip = self.enter("ip")?;
            run(ip.args(["route", "replace", to]).args(via))?;
            Ok(())
        };
        for other in (1..=around.nodes).filter(|other| *other != self.number) {
            let gateway = Ipv4Addr::new(10, 89, 0, other).to_string();
            route(&pods_of(other), &["via", &gateway])?;
        }
        // Services have no place of their own: the firewall sends a packet elsewhere before it leaves.
        route(SERVICES, &["dev", "eth0"])?;
        self.containerd(around, &conf)
    }

    /// Starts the first process, which makes the node's view of the files and then holds everything.
    fn hold(&self, around: &Surroundings, disk: &Path, conf: &Path) -> Result<(Part, u32)> {
        let ready = conf.join("ready");
        if ready.exists() {
            fs::remove_file(&ready)?;
        }
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "sh", "-euc", FIRST_PROCESS])
            .env("DISK", disk)
            .env("CONF", conf)
            .env("PAUSE", tool("pause")?);
        let mut holder = Part::start(&self.name, &mut command, &around.logs())?;
        let pid = first_child(holder.pid())?;
        until("first process of the node", Duration::from_secs(10), || {
            holder.must_run()?;
            ensure!(ready.exists(), "{} is not there", ready.display());
            Ok(())
        })?;
        Ok((holder, pid))
    }

    fn containerd(&mut self, around: &Surroundings, conf: &Path) -> Result<()> {
        let file = conf.join("containerd.toml");
        let folder = cni().context("no folder with CNI programs")?;
        let runc = system("runc").context("no runc")?;
        fs::write(
            &file,
            CONTAINERD
                .replace("{pause}", PAUSE)
                .replace("{cni}", folder)
                .replace("{runc}", &runc.display().to_string()),
        )?;
        let program = tool("containerd")?;
        let mut command = self.enter(&program)?;
        // It looks for its shim on the path.
        command
            .args(["--log-level=warn", "--config"])
            .arg(&file)
            .env("PATH", path_with_tools());
        self.add("containerd", &mut command, around)?;
        until("containerd", Duration::from_secs(30), || {
            self.must_run()?;
            run(self.enter(tool("ctr")?)?.arg("version"))
        })?;
        for image in &around.images {
            self.load(image)?;
        }
        Ok(())
    }

    /// Imports an image archive.
    pub fn load(&self, archive: &Path) -> Result<()> {
        let mut ctr = self.enter(tool("ctr")?)?;
        ctr.args(["--namespace=k8s.io", "images", "import", "--local"]);
        run(ctr.arg(archive)).with_context(|| format!("cannot load an image on {}", self.name))?;
        Ok(())
    }

    /// Signals the first process of a container.
    pub fn signal(&self, container: &str, signal: &str) -> Result<()> {
        let mut ctr = self.enter(tool("ctr")?)?;
        ctr.args(["--namespace=k8s.io", "tasks", "kill", "--signal", signal]);
        run(ctr.arg(container))?;
        Ok(())
    }

    /// Joins the cluster: kubelet, Pod network, kube-proxy.
    pub fn join(&mut self, around: &Surroundings) -> Result<()> {
        let conf = self.folder.join("conf");
        let networks = self.disk().join("cni/net.d");
        fs::create_dir_all(&networks)?;
        put(&networks.join("10-pods.conflist"), &self.pod_network())?;
        fs::write(conf.join("resolv.conf"), "")?;
        put(&conf.join("kubelet.json"), &self.kubelet(around, &conf))?;
        let mut kubelet = self.enter(tool("kubelet")?)?;
        kubelet
            .arg(format!("--config={}", conf.join("kubelet.json").display()))
            .arg(format!(
                "--kubeconfig={}",
                around
                    .pki(&format!("kubelet-{}.kubeconfig", self.name))
                    .display()
            ))
            .arg(format!("--hostname-override={}", self.name))
            .arg(format!("--node-ip={}", self.address()))
            .arg("--root-dir=/var/lib/kubelet")
            .env("PATH", path_with_tools());
        self.add("kubelet", &mut kubelet, around)?;
        // It ends itself when its configuration is written again.
        let file = conf.join("kube-proxy.json");
        if !file.exists() {
            put(&file, &self.proxy(around))?;
        }
        let mut proxy = self.enter(tool("kube-proxy")?)?;
        proxy.arg(format!("--config={}", file.display()));
        self.add("kube-proxy", &mut proxy, around)
    }

    fn add(&mut self, name: &str, command: &mut Command, around: &Surroundings) -> Result<()> {
        let part = Part::start(&format!("{}-{name}", self.name), command, &around.logs())?;
        let up = self.up.as_mut().context("the node is down")?;
        up.parts.push(part);
        Ok(())
    }

    fn pod_network(&self) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [{
                "type": "bridge",
                "bridge": "pods",
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": self.pods() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            }],
        })
    }

    fn kubelet(&self, around: &Surroundings, conf: &Path) -> Value {
        let server = format!("kubelet-server-{}", self.name);
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            // Version 1 of control groups still works, and some machines have no other.
            "failCgroupV1": false,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}/{}", around.group, self.name),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "address": "0.0.0.0",
            "port": 10250,
            "readOnlyPort": 0,
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": around.pki("ca.crt") },
            },
            "authorization": { "mode": "Webhook" },
            "tlsCertFile": around.pki(&format!("{server}.crt")),
            "tlsPrivateKeyFile": around.pki(&format!("{server}.key")),
            "clusterDNS": [CONTROL],
            "clusterDomain": "cluster.local",
            "resolvConf": conf.join("resolv.conf"),
            "failSwapOn": false,
            "maxPods": 100,
            "serializeImagePulls": false,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
                "nodefs.inodesFree": "1%",
            },
            "nodeStatusUpdateFrequency": format!("{REPORT_S}s"),
            "nodeLeaseDurationSeconds": 2 * REPORT_S,
        })
    }

    fn proxy(&self, around: &Surroundings) -> Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": { "kubeconfig": around.pki("kube-proxy.kubeconfig") },
            "clusterCIDR": PODS,
            "hostnameOverride": self.name,
            "bindAddress": "0.0.0.0",
            "metricsBindAddress": "127.0.0.1:10249",
            // The kernel's table of connections belongs to the machine: a node may not size it.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        })
    }
}

fn pods_of(number: u8) -> String {
    format!("10.244.{number}.0/24")
}

/// A command with all namespaces of a process.
fn enter(pid: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .args(["--target", &pid.to_string(), "--mount", "--net", "--pid"])
        .arg("--")
        .arg(program);
    command
}

fn path_with_tools() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(crate::parts::tools()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).unwrap_or(path)
}

fn put(file: &Path, value: &Value) -> Result<()> {
    fs::write(file, value.to_string()).with_context(|| format!("cannot write {}", file.display()))
}

/// What the first process of a node does. The kubelet wants some of the kernel's settings to have certain
/// values; the node sees files with these in their place, and the machine keeps its own.
const FIRST_PROCESS: &str = r#"
mount --make-rshared /
mount --bind "$DISK" /var
mkdir -p /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/log/pods /var/log/containers /var/cni/net.d /var/tmp /var/volumes
rm -rf /var/lib/cni/networks
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/containerd /run/lock
show() {
    file="$CONF/$(echo "$1" | tr / .)"
    echo "$2" >"$file"
    mount --bind "$file" "/proc/sys/$1"
}
show vm/overcommit_memory 1
show vm/panic_on_oom 0
show kernel/panic 10
show kernel/panic_on_oops 1
show kernel/keys/root_maxkeys 1000000
show kernel/keys/root_maxbytes 25000000
echo 1 >/proc/sys/net/ipv4/ip_forward
echo >"$CONF/ready"
exec "$PAUSE"
"#;

/// Some machines take from root the right to make a process safer from the out-of-memory killer than itself;
/// hence `restrict_oom_score_adj`.
const CONTAINERD: &str = r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{cni}"]
    conf_dir = "/var/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        SystemdCgroup = false
"#;
