//! Namespaces: how one is made, how a command gets into it, and the cables between them.
//!
//! A namespace lives as long as a process in it: `pause`, the program that holds a Pod's, holds these too.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::parts::{Part, run, system, tool, until};

/// Bits of the network that the switch joins.
const NETWORK_BITS: u8 = 24;

/// A network of its own on this machine, and the process that holds it.
#[derive(Debug)]
pub struct Network {
    holder: Part,
}

impl Network {
    /// A network with nothing but its loopback device.
    pub fn new(name: &str, logs: &Path) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.arg("--net").arg(tool("pause")?);
        let holder = Part::start(name, &mut command, logs)?;
        let network = Self { holder };
        // unshare becomes the holder: until then, its network is ours.
        until("network namespace", Duration::from_secs(5), || {
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
            anyhow::ensure!(
                of(&network.pid().to_string())? != of("self")?,
                "it is not made yet"
            );
            Ok(())
        })?;
        run(network.enter("ip").args(["link", "set", "lo", "up"]))?;
        Ok(network)
    }

    /// The process that holds it.
    pub fn pid(&self) -> u32 {
        self.holder.pid()
    }

    /// A command with this network and everything else of ours.
    pub fn enter(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        with_network(self.pid(), program)
    }
}

/// A command with the network of a process and everything else of ours.
pub fn with_network(pid: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/proc/{pid}/ns/net"))
        .arg("--")
        .arg(program);
    command
}

/// The switch: a bridge in a network of its own.
#[derive(Debug)]
pub struct Switch {
    network: Network,
}

impl Switch {
    /// A switch without a cable.
    pub fn new(logs: &Path) -> Result<Self> {
        let network = Network::new("switch", logs)?;
        run(network
            .enter("ip")
            .args(["link", "add", "switch", "type", "bridge"]))?;
        run(network.enter("ip").args(["link", "set", "switch", "up"]))?;
        // What it forwards it does not show to a firewall; where that module is missing there is nothing to switch off.
        let _ = run(network
            .enter("sysctl")
            .args(["-qw", "net.bridge.bridge-nf-call-iptables=0"]));
        Ok(Self { network })
    }

    /// Puts a cable from the switch into the network of a process, where its end is `eth0` with this address.
    pub fn plug(&self, name: &str, pid: u32, address: Ipv4Addr) -> Result<()> {
        // A node that was killed leaves a cable whose other end the kernel takes away a moment later.
        let _ = run(self.network.enter("ip").args(["link", "del", name]));
        let ours = self.network.pid().to_string();
        let theirs = pid.to_string();
        let mut link = Command::new("ip");
        link.args(["link", "add", name, "netns", &ours, "type", "veth"]);
        link.args(["peer", "name", "eth0", "netns", &theirs]);
        until("cable", Duration::from_secs(5), || run(&mut link))?;
        run(self
            .network
            .enter("ip")
            .args(["link", "set", name, "master", "switch", "up"]))?;
        let inside = |words: &[&str]| run(with_network(pid, "ip").args(words));
        inside(&[
            "addr",
            "add",
            &format!("{address}/{NETWORK_BITS}"),
            "dev",
            "eth0",
        ])?;
        inside(&["link", "set", "eth0", "up"])?;
        inside(&["link", "set", "lo", "up"])?;
        Ok(())
    }

    /// Pulls the cable out of the switch, or plugs it in again.
    pub fn connect(&self, name: &str, connected: bool) -> Result<()> {
        let state = if connected { "up" } else { "down" };
        run(self.network.enter("ip").args(["link", "set", name, state]))
            .with_context(|| format!("cannot set the cable of {name} {state}"))?;
        Ok(())
    }
}

/// The first child of a process, waiting for it.
pub fn first_child(pid: u32) -> Result<u32> {
    until("process in the namespace", Duration::from_secs(5), || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let first = text.split_whitespace().next().context("not yet")?;
        Ok(first.parse()?)
    })
}

/// What the system has to bring, each with Debian's package for it.
pub const NEEDED: &[(&str, &str)] = &[
    ("runc", "runc"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("sysctl", "procps"),
];

/// Where distributions put the programs that give Pods their network.
const CNI_FOLDERS: &[&str] = &["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// The folder with those programs.
pub fn cni() -> Option<&'static str> {
    CNI_FOLDERS
        .iter()
        .copied()
        .find(|folder| Path::new(folder).join("bridge").is_file())
}

/// Packages that are missing.
pub fn missing() -> Vec<&'static str> {
    let mut packages: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| system(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if cni().is_none() {
        packages.push("containernetworking-plugins");
    }
    packages.dedup();
    packages
}
