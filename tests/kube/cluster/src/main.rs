//! # A whole Kubernetes on one Linux machine, and what we try on it
//!
//! ```text
//!  this machine's network          a switch: one network namespace, no way out
//!  ┌────────────────────┐     ┌───────────┬──────────────┬──────────────┐
//!  │ kubectl, helm      │     │ control   │ node1        │ node2 …      │
//!  │   127.0.0.1:PORT ──┼─────▶ store ×3  │ containerd   │              │
//!  │      (relay)       │     │ API server│ kubelet      │              │
//!  └────────────────────┘     │ DNS       │ kube-proxy   │              │
//!                             └───────────┴──────────────┴──────────────┘
//! ```
//!
//! Everything runs in one process namespace whose first process is ours, and each node in one more of its own.
//! Ending the first process ends all of it, mounts and network links with it; what is left are control group
//! folders and one folder of files, and the process that started it removes both. Nothing of the machine's
//! network, firewall or mounts is changed, and no packet can leave the machine.
//!
//! A node's end is the end of its first process: no program on it can say good-bye, as when its power fails.
//!
//! Root and Linux are needed. It knows nothing of quorate's operator but its chart; the scenarios do.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "a command line program speaks on stdout"
)]

mod ask;
mod client;
mod control;
mod door;
mod ends;
mod groups;
mod inner;
mod node;
mod outer;
mod parts;
mod relay;
mod scenarios;
mod show;
mod spaces;
mod volumes;

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kube-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    if matches!(words, ["up" | "show" | "test" | "ends", ..]) {
        parts::need_workspace()?;
    }
    match words {
        ["up", rest @ ..] => outer::up(rest),
        ["show", rest @ ..] => show::show(rest),
        ["test", rest @ ..] => show::test(rest),
        ["ends", rest @ ..] => ends::command(rest),
        ["client", rest @ ..] => client::command(rest),
        // What `up` starts; nobody calls these by hand.
        ["inside", plan] => inner::run(plan.as_ref()),
        ["relay", target] => relay::serve(target),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        [word, ..] if ask::WORDS.contains(word) => ask::command(words),
        [word, ..] => bail!("unknown word {word:?}; `kube-cluster help` lists them"),
    }
}

const HELP: &str = "\
kube-cluster up [--nodes N] [--store etcd|ours] [--image FILE.tar].. [--keep]
        A Kubernetes of N nodes (1 to 3, 3 by default), until Ctrl-C. Prints the KUBECONFIG to use.
        --store  what the API server's own store of three members is: etcd 3.7.3 or quorate
        --image  archives that every node gets
        --keep   leaves the files (logs, volumes) at the end

kube-cluster show [flags of up]
        The same with the operator from its chart and a QuorateCluster of three (= make run-kube).
kube-cluster test [flags of up] [SCENARIO..]
kube-cluster test --kubeconfig FILE [--registry NAME] [SCENARIO..]
        Lives of the operator and its cluster (= make test-kube). With --kubeconfig on that Kubernetes, which pulls
        the images from --registry; scenarios that break nodes are left out.
kube-cluster ends [flags of up]
        Starts a `show`, ends it as Ctrl-C does, and fails when anything of it is left on this machine.
kube-cluster client write|check ..
        The client that these use, in a Pod.

kube-cluster kill NODE          the node loses its power
kube-cluster start NODE         it comes back with its disk
kube-cluster replace NODE       it comes back with an empty disk
kube-cluster cut NODE           its network cable is pulled; heal NODE plugs it in again
kube-cluster signal NODE CONTAINER KILL|STOP|CONT
                                to the first process of a container, by its id
kube-cluster image FILE.tar     onto every node
kube-cluster forward IP:PORT    prints an address of this machine that leads to one of a Pod or Service
kube-cluster status             what runs

The words after `up` go to the cluster that runs, or to the one of QUORATE_KUBE_DIR if several do.
Root and Linux are needed, and the programs of `cargo xtask tools etcd kube helm kube-node containerd coredns`.
";
