//! The control plane, in a network of its own beside the nodes: any node may fail, and there is still an API
//! server to say so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::node::{CONTROL, Node, SERVICES};
use crate::parts::{Part, run, tool, until};
use crate::relay::Relay;
use crate::spaces::{Network, Switch};

/// The API server's port.
const PORT: u16 = 6443;

/// The first address of [`SERVICES`] is the API server's own Service.
const FIRST_SERVICE: &str = "10.96.0.1";

/// A silent node is taken for lost after so long; by default 50 s. More than three reports of a kubelet.
const NODE_SILENCE: &str = "8s";

/// So long Pods stay on a node that is lost; by default 300 s.
const TOLERATION_S: u32 = 5;

/// What the API server keeps its objects in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Store {
    /// for people
    pub name: String,
    /// etcd, or quorate
    pub program: PathBuf,
}

/// Members of the API server's store.
const MEMBERS: u16 = 3;

/// The parts of the control plane.
#[derive(Debug)]
pub struct Control {
    network: Network,
    parts: Vec<Part>,
    logs: PathBuf,
    pki: PathBuf,
    /// how kubectl on this machine reaches the API server
    pub kubeconfig: PathBuf,
    _relay: Relay,
}

impl Control {
    /// Starts store and API server; [`Control::ready`] waits for them.
    pub fn start(dir: &Path, store: &Store, nodes: &[Node], switch: &Switch) -> Result<Self> {
        let logs = dir.join("logs");
        let pki = dir.join("pki");
        let network = Network::new("control", &logs)?;
        switch.plug("control", network.pid(), CONTROL)?;
        for node in nodes {
            run(network
                .enter("ip")
                .args(["route", "add", &node.pods(), "via"])
                .arg(node.address().to_string()))?;
        }
        run(Command::new(tool("clusterpki")?)
            .arg(&pki)
            .arg(format!("https://{CONTROL}:{PORT}"))
            .arg(format!("{CONTROL},127.0.0.1,{FIRST_SERVICE}"))
            .args(
                nodes
                    .iter()
                    .map(|node| format!("{}={}", node.name, node.address())),
            ))?;
        let relay = Relay::start(network.pid(), &format!("{CONTROL}:{PORT}"), &logs)?;
        let inside = fs::read_to_string(pki.join("admin.kubeconfig"))?;
        let kubeconfig = dir.join("kubeconfig");
        let here = inside.replace(&format!("{CONTROL}:{PORT}"), &relay.address.to_string());
        fs::write(&kubeconfig, here)?;
        let mut control = Self {
            network,
            parts: Vec::new(),
            logs,
            pki,
            kubeconfig,
            _relay: relay,
        };
        control.store(dir, store)?;
        control.api_server()?;
        Ok(control)
    }

    /// Waits until the API server answers, then starts what works through it.
    pub fn ready(&mut self) -> Result<()> {
        until("API server", Duration::from_secs(90), || {
            self.must_run()?;
            self.kubectl(&["get", "--raw=/readyz"])
        })?;
        self.controllers()?;
        self.scheduler()?;
        self.names()
    }

    /// kubectl as administrator.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        run(self.kubectl_command()?.args(words))
    }

    /// The same, not started.
    pub fn kubectl_command(&self) -> Result<Command> {
        let mut command = Command::new(tool("kubectl")?);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        Ok(command)
    }

    /// Fails when a part has ended.
    pub fn must_run(&mut self) -> Result<()> {
        for part in &mut self.parts {
            part.must_run()?;
        }
        Ok(())
    }

    /// The names of the parts, and whether each runs.
    pub fn parts(&mut self) -> Vec<(String, bool)> {
        self.parts
            .iter_mut()
            .map(|part| (part.name.clone(), part.is_running()))
            .collect()
    }

    fn store(&mut self, dir: &Path, store: &Store) -> Result<()> {
        let peer = |number: u16| format!("http://127.0.0.1:{}", 2380 + 10 * number);
        let all: Vec<String> = (0..MEMBERS)
            .map(|number| format!("store-{number}={}", peer(number)))
            .collect();
        for number in 0..MEMBERS {
            let name = format!("store-{number}");
            let client = client_url(number);
            let mut member = self.network.enter(&store.program);
            member
                .arg(format!("--name={name}"))
                .arg(format!("--data-dir={}", dir.join(&name).display()))
                .arg(format!("--listen-client-urls={client}"))
                .arg(format!("--advertise-client-urls={client}"))
                .arg(format!("--listen-peer-urls={}", peer(number)))
                .arg(format!("--initial-advertise-peer-urls={}", peer(number)))
                .arg(format!("--initial-cluster={}", all.join(",")));
            self.add(&name, &mut member)?;
        }
        Ok(())
    }

    fn api_server(&mut self) -> Result<()> {
        let stores: Vec<String> = (0..MEMBERS).map(client_url).collect();
        let flags = [
            format!("--etcd-servers={}", stores.join(",")),
            "--bind-address=0.0.0.0".to_owned(),
            format!("--secure-port={PORT}"),
            format!("--advertise-address={CONTROL}"),
            format!("--tls-cert-file={}", self.file("apiserver.crt")),
            format!("--tls-private-key-file={}", self.file("apiserver.key")),
            format!("--client-ca-file={}", self.file("ca.crt")),
            format!(
                "--kubelet-client-certificate={}",
                self.file("apiserver-kubelet-client.crt")
            ),
            format!(
                "--kubelet-client-key={}",
                self.file("apiserver-kubelet-client.key")
            ),
            format!("--kubelet-certificate-authority={}", self.file("ca.crt")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", self.file("sa.pub")),
            format!("--service-account-signing-key-file={}", self.file("sa.key")),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--default-not-ready-toleration-seconds={TOLERATION_S}"),
            format!("--default-unreachable-toleration-seconds={TOLERATION_S}"),
        ];
        let mut command = self.network.enter(tool("kube-apiserver")?);
        self.add("kube-apiserver", command.args(flags))
    }

    fn controllers(&mut self) -> Result<()> {
        let flags = [
            format!(
                "--kubeconfig={}",
                self.file("kube-controller-manager.kubeconfig")
            ),
            "--secure-port=0".to_owned(),
            "--leader-elect=false".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            format!("--service-account-private-key-file={}", self.file("sa.key")),
            format!("--root-ca-file={}", self.file("ca.crt")),
            format!("--cluster-signing-cert-file={}", self.file("ca.crt")),
            format!("--cluster-signing-key-file={}", self.file("ca.key")),
            // Each node has its network of Pods from us.
            "--allocate-node-cidrs=false".to_owned(),
            "--node-monitor-period=1s".to_owned(),
            format!("--node-monitor-grace-period={NODE_SILENCE}"),
        ];
        let mut command = self.network.enter(tool("kube-controller-manager")?);
        self.add("kube-controller-manager", command.args(flags))
    }

    fn scheduler(&mut self) -> Result<()> {
        let mut command = self.network.enter(tool("kube-scheduler")?);
        command
            .arg(format!(
                "--kubeconfig={}",
                self.file("kube-scheduler.kubeconfig")
            ))
            .args(["--secure-port=0", "--leader-elect=false"]);
        self.add("kube-scheduler", &mut command)
    }

    /// CoreDNS, beside the API server: a node's end takes no name away.
    fn names(&mut self) -> Result<()> {
        let file = self.pki.join("Corefile");
        fs::write(
            &file,
            format!(
                "{COREFILE_HEAD}kubeconfig {} test{COREFILE_TAIL}",
                self.file("admin.kubeconfig")
            ),
        )?;
        let mut command = self.network.enter(tool("coredns")?);
        self.add("coredns", command.arg("-conf").arg(file))
    }

    fn add(&mut self, name: &str, command: &mut Command) -> Result<()> {
        self.parts.push(Part::start(name, command, &self.logs)?);
        Ok(())
    }

    fn file(&self, name: &str) -> String {
        self.pki.join(name).display().to_string()
    }

    /// Waits until so many nodes are Ready.
    pub fn until_nodes_are_ready(&mut self, names: &[String], nodes: &mut [Node]) -> Result<()> {
        for name in names {
            let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
            until(&format!("Ready {name}"), Duration::from_secs(90), || {
                self.must_run()?;
                for node in nodes.iter_mut() {
                    node.must_run()?;
                }
                let said = self.kubectl(&["get", "node", name, "-o", path])?;
                if said != "True" {
                    bail!("its condition Ready is {said:?}");
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// `kubectl apply` of some text.
    pub fn apply(&self, text: &str) -> Result<()> {
        let file = self.pki.join("apply.yaml");
        fs::write(&file, text)?;
        let file = file.to_str().context("a path of UTF-8")?;
        self.kubectl(&["apply", "--server-side", "-f", file])?;
        Ok(())
    }
}

fn client_url(number: u16) -> String {
    format!("http://127.0.0.1:{}", 2379 + 10 * number)
}

/// A name that is not of the cluster does not exist: nothing may be asked outside.
const COREFILE_HEAD: &str = ".:53 {
    errors
    ready
    kubernetes cluster.local in-addr.arpa {
        pods insecure
        ttl 1
        ";

const COREFILE_TAIL: &str = "
    }
    loadbalance
    template ANY ANY . {
        rcode NXDOMAIN
    }
}
";
