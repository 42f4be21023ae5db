//! The first process of the cluster: builds it, then does what it is asked over a socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::control::{Control, Store};
use crate::node::{Node, Surroundings};
use crate::relay::Relay;
use crate::spaces::Switch;
use crate::volumes;

/// The socket in the cluster's folder. It is there when the cluster is.
pub const SOCKET: &str = "socket";

/// What is to be built, as `up` writes it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// the cluster's folder
    pub dir: PathBuf,
    /// its control group
    pub group: String,
    /// 1 to 3
    pub nodes: u8,
    /// under the API server
    pub store: Store,
    /// archives for every node
    pub images: Vec<PathBuf>,
}

/// Builds the cluster and serves requests until it is killed.
pub fn run(plan: &Path) -> Result<()> {
    let plan: Plan = serde_json::from_slice(&std::fs::read(plan)?)?;
    let socket = plan.dir.join(SOCKET);
    let mut cluster = Cluster::build(&plan)?;
    let listener = UnixListener::bind(&socket)
        .with_context(|| format!("cannot listen at {}", socket.display()))?;
    for connection in listener.incoming() {
        if let Err(error) = cluster.serve(connection?) {
            eprintln!("kube-cluster: a request: {error:#}");
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Cluster {
    around: Surroundings,
    switch: Switch,
    nodes: Vec<Node>,
    control: Control,
    relays: Vec<Relay>,
}

impl Cluster {
    fn build(plan: &Plan) -> Result<Self> {
        let start = Instant::now();
        let logs = plan.dir.join("logs");
        std::fs::create_dir_all(&logs)?;
        let around = Surroundings {
            dir: plan.dir.clone(),
            group: plan.group.clone(),
            nodes: plan.nodes,
            images: plan.images.clone(),
        };
        let switch = Switch::new(&logs)?;
        let mut nodes: Vec<Node> = (1..=plan.nodes)
            .map(|number| Node::new(number, &plan.dir))
            .collect();
        // The API server needs a few seconds, in which the nodes get their images.
        let mut control = Control::start(&plan.dir, &plan.store, &nodes, &switch)?;
        for node in &mut nodes {
            node.start(&around, &switch)?;
        }
        control.ready()?;
        eprintln!(
            "kube-cluster: API server on three members of {} after {:.1} s",
            plan.store.name,
            start.elapsed().as_secs_f64()
        );
        for node in &mut nodes {
            node.join(&around)?;
        }
        control.apply(include_str!("../manifests/storage.yaml"))?;
        volumes::serve(&control.kubeconfig, &plan.dir.join("nodes"));
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        control.until_nodes_are_ready(&names, &mut nodes)?;
        eprintln!(
            "kube-cluster: {} ready after {:.1} s",
            names.join(", "),
            start.elapsed().as_secs_f64()
        );
        Ok(Self {
            around,
            switch,
            nodes,
            control,
            relays: Vec::new(),
        })
    }

    /// One request: a line with a list of words; the answer: a line with `ok` or `error`.
    fn serve(&mut self, mut connection: UnixStream) -> Result<()> {
        let mut line = String::new();
        BufReader::new(&connection).read_line(&mut line)?;
        if line.is_empty() {
            // Somebody only wanted to know whether we are here.
            return Ok(());
        }
        let words: Vec<String> = serde_json::from_str(&line)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = match self.obey(&words) {
            Ok(text) => json!({ "ok": text }),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        writeln!(connection, "{answer}")?;
        Ok(())
    }

    fn obey(&mut self, words: &[&str]) -> Result<String> {
        match words {
            ["kill", name] => self.node(name)?.kill()?,
            ["start", name] => self.start(name)?,
            ["replace", name] => {
                if self.node(name)?.is_up() {
                    self.node(name)?.kill()?;
                }
                self.node(name)?.erase()?;
                self.start(name)?;
            }
            ["cut", name] => {
                self.node(name)?;
                self.switch.connect(name, false)?;
            }
            ["heal", name] => {
                self.node(name)?;
                self.switch.connect(name, true)?;
            }
            [
                "signal",
                name,
                container,
                signal @ ("KILL" | "STOP" | "CONT"),
            ] => {
                self.node(name)?.signal(container, signal)?;
            }
            ["image", archive] => {
                for node in self.nodes.iter().filter(|node| node.is_up()) {
                    node.load(archive.as_ref())?;
                }
                // A node that starts again with an empty disk gets it too.
                self.around.images.push(archive.into());
            }
            ["forward", target] => {
                let node = self.nodes.iter().find(|node| node.is_up());
                let node = node.context("every node is down")?;
                let relay = node.forward(target, &self.around)?;
                let address = relay.address.to_string();
                self.relays.push(relay);
                return Ok(address);
            }
            ["status"] => return self.status(),
            _ => bail!("unknown request {words:?}"),
        }
        Ok(String::new())
    }

    fn start(&mut self, name: &str) -> Result<()> {
        let position = self
            .nodes
            .iter()
            .position(|node| node.name == name)
            .with_context(|| format!("there is no node {name:?}"))?;
        let node = &mut self.nodes[position];
        node.start(&self.around, &self.switch)?;
        node.join(&self.around)?;
        self.control
            .until_nodes_are_ready(&[name.to_owned()], &mut self.nodes)
    }

    fn node(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes
            .iter_mut()
            .find(|node| node.name == name)
            .with_context(|| format!("there is no node {name:?}"))
    }

    fn status(&mut self) -> Result<String> {
        let mut text = String::new();
        for (name, runs) in self.control.parts() {
            text += &format!("{name}\t{}\n", if runs { "runs" } else { "has ended" });
        }
        for node in &mut self.nodes {
            let state = match (node.is_up(), node.must_run()) {
                (false, _) => "down".to_owned(),
                (true, Ok(())) => "up".to_owned(),
                (true, Err(error)) => format!("up, but {error:#}"),
            };
            text += &format!("{}\t{state}\n", node.name);
        }
        Ok(text)
    }
}
