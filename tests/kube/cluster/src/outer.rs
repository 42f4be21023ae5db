//! `up`: starts the first process, waits for Ctrl-C, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::ask::clusters;
use crate::control::Store;
use crate::groups;
use crate::inner::{Plan, SOCKET};
use crate::parts::{run, system, tool, tools, workspace};
use crate::spaces::missing;

/// What `up` is asked for.
#[derive(Debug)]
pub struct Wanted {
    /// 1 to 3
    pub nodes: u8,
    /// `etcd` or `ours`
    pub store: String,
    /// archives for every node
    pub images: Vec<PathBuf>,
    /// keep the files at the end
    pub keep: bool,
}

impl Wanted {
    /// From the words after `up`.
    pub fn parse(words: &[&str]) -> Result<Self> {
        let mut wanted = Self {
            nodes: 3,
            store: "etcd".to_owned(),
            images: Vec::new(),
            keep: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .copied()
                    .with_context(|| format!("{word} needs a value"))
            };
            match *word {
                "--nodes" => {
                    let text = value()?;
                    wanted.nodes = match text.parse() {
                        Ok(number @ 1..=3) => number,
                        _ => bail!("--nodes {text}: expected 1, 2 or 3"),
                    };
                }
                "--store" => match value()? {
                    name @ ("etcd" | "ours") => wanted.store = name.to_owned(),
                    other => bail!("--store {other}: expected etcd or ours"),
                },
                "--image" => {
                    let file = value()?;
                    let path = std::fs::canonicalize(file)
                        .with_context(|| format!("--image {file}: cannot read it"))?;
                    wanted.images.push(path);
                }
                "--keep" => wanted.keep = true,
                other => bail!("unknown flag {other}; `kube-cluster help` lists them"),
            }
        }
        Ok(wanted)
    }
}

/// `kube-cluster up`, until Ctrl-C.
pub fn up(words: &[&str]) -> Result<()> {
    let running = Running::start(&Wanted::parse(words)?)?;
    println!("export KUBECONFIG={}", running.kubeconfig().display());
    println!("# Ctrl-C ends the cluster and removes it.");
    running.until_interrupted()
}

/// A running cluster. It ends, and what it left goes, when this is dropped.
#[derive(Debug)]
pub struct Running {
    dir: PathBuf,
    group: String,
    first: Child,
    keep: bool,
    signals: tokio::runtime::Runtime,
}

impl Running {
    /// Starts it and waits until its nodes are ready.
    pub fn start(wanted: &Wanted) -> Result<Self> {
        may_run()?;
        // From here on Ctrl-C is ours: it does not end this process before the rest has ended.
        let signals = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        signals.block_on(async { interruptions().map(drop) })?;
        groups::clear_left_behind()?;
        clear_left_behind()?;
        let pid = std::process::id();
        let dir = clusters().join(pid.to_string());
        ensure!(
            !dir.starts_with("/var") && !dir.starts_with("/run"),
            "{} is below /var or /run, which a node has for itself; use a clone elsewhere",
            dir.display()
        );
        std::fs::create_dir_all(&dir)?;
        let group = groups::name(pid);
        let mut images = vec![pause_image()?];
        images.extend(wanted.images.iter().cloned());
        let plan = Plan {
            dir: dir.clone(),
            group: group.clone(),
            nodes: wanted.nodes,
            store: store(&wanted.store)?,
            images,
        };
        let file = dir.join("plan.json");
        std::fs::write(&file, serde_json::to_vec_pretty(&plan)?)?;
        let first = first_process(&file)?;
        let mut running = Self {
            dir,
            group,
            first,
            keep: wanted.keep,
            signals,
        };
        running.until_ready()?;
        Ok(running)
    }

    /// For kubectl and helm on this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The cluster's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits for Ctrl-C or the end of the cluster.
    pub fn until_interrupted(mut self) -> Result<()> {
        self.wait(|| false)
    }

    /// Runs something beside waiting for Ctrl-C, which gives nothing.
    pub fn beside<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>> {
        let work = std::thread::spawn(work);
        self.wait(|| work.is_finished())?;
        if !work.is_finished() {
            return Ok(None);
        }
        let done = work
            .join()
            .map_err(|_| anyhow::anyhow!("it has panicked"))?;
        Ok(Some(done))
    }

    fn until_ready(&mut self) -> Result<()> {
        let socket = self.dir.join(SOCKET);
        self.wait(|| socket.exists())?;
        ensure!(socket.exists(), "interrupted");
        Ok(())
    }

    /// Until it is done, or somebody wants an end. The end of the cluster is an error.
    fn wait(&mut self, mut done: impl FnMut() -> bool) -> Result<()> {
        /// A person does not notice such a wait, and a processor neither.
        const LOOK_AGAIN: Duration = Duration::from_millis(50);
        let first = &mut self.first;
        self.signals.block_on(async {
            let [mut interrupt, mut terminate, mut hangup] = interruptions()?;
            loop {
                tokio::select! {
                    _ = interrupt.recv() => return Ok(()),
                    _ = terminate.recv() => return Ok(()),
                    _ = hangup.recv() => return Ok(()),
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
                if done() {
                    return Ok(());
                }
                if let Some(status) = first.try_wait()? {
                    bail!("the cluster has ended ({status})");
                }
            }
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // unshare takes the first process of the cluster with it, and that one everything else.
        let _ = self.first.kill();
        let _ = self.first.wait();
        if let Err(error) = groups::clear(&self.group) {
            eprintln!("kube-cluster: {error:#}");
        }
        if self.keep {
            eprintln!("kube-cluster: the files stay at {}", self.dir.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!(
                "kube-cluster: cannot remove {}: {error}",
                self.dir.display()
            );
        }
    }
}

/// What ends a cluster. Once this was called, these signals do not end the process any more.
fn interruptions() -> std::io::Result<[Signal; 3]> {
    Ok([
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ])
}

/// Removes the folders of clusters that were killed before they could do it themselves.
fn clear_left_behind() -> Result<()> {
    for entry in std::fs::read_dir(clusters()).into_iter().flatten() {
        let path = entry?.path();
        let pid = path.file_name().unwrap_or_default();
        if !Path::new("/proc").join(pid).exists() {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// The first process of the cluster, which ends with us however we end, and does not hear Ctrl-C.
fn first_process(plan: &Path) -> Result<Child> {
    use std::os::unix::process::CommandExt as _;
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid"])
        .args(["--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe()?)
        .arg("inside")
        .arg(plan)
        .stdin(std::process::Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start the cluster's first process")
}

fn store(name: &str) -> Result<Store> {
    let program = match name {
        "etcd" => tool("etcd")?,
        _ => {
            let set = std::env::var_os("QUORATE_BIN").map(PathBuf::from);
            let program = set.unwrap_or_else(|| {
                let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into());
                workspace().join(target).join("release/quorate")
            });
            ensure!(
                program.exists(),
                "{} is not there; run `make images`, or set QUORATE_BIN",
                program.display()
            );
            program
        }
    };
    let name = if name == "etcd" { "etcd" } else { "quorate" };
    Ok(Store {
        name: name.to_owned(),
        program,
    })
}

fn pause_image() -> Result<PathBuf> {
    let file = workspace().join("target/images/pause-1.tar");
    ensure!(
        file.exists(),
        "{} is not there; run `cargo xtask images pause`",
        file.display()
    );
    Ok(file)
}

/// Root, Linux, and the system's programs. What Debian has and this machine has not is installed, which is said.
fn may_run() -> Result<()> {
    ensure!(
        cfg!(target_os = "linux"),
        "a Kubernetes on one machine is made of Linux namespaces, and this is not Linux"
    );
    let user = run(Command::new("id").arg("-u"))?;
    ensure!(
        user.trim() == "0",
        "namespaces, mounts and control groups need root, and this is user {}; run it with sudo",
        user.trim()
    );
    let _ = tools();
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let install = format!(
        "apt-get install --no-install-recommends {}",
        packages.join(" ")
    );
    ensure!(
        system("apt-get").is_some() && std::env::var_os("QUORATE_KUBE_NO_INSTALL").is_none(),
        "missing: {}; on Debian: {install}",
        packages.join(", ")
    );
    eprintln!("kube-cluster: {install}");
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    run(Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&packages))?;
    let still = missing();
    ensure!(still.is_empty(), "still missing: {}", still.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    #[test]
    fn words_say_what_is_wanted() {
        let wanted = Wanted::parse(&["--nodes", "2", "--store", "ours", "--keep"]).expect("sound");
        assert_eq!(wanted.nodes, 2);
        assert_eq!(wanted.store, "ours");
        assert!(wanted.keep);
        assert_eq!(Wanted::parse(&[]).expect("sound").nodes, 3);
    }

    #[test]
    fn a_word_that_is_wrong_is_named_with_what_was_expected() {
        let complaint = |words: &[&str]| {
            let error = Wanted::parse(words).expect_err("it is wrong");
            format!("{error:#}")
        };
        assert_eq!(
            complaint(&["--nodes", "4"]),
            "--nodes 4: expected 1, 2 or 3"
        );
        assert_eq!(
            complaint(&["--store", "zk"]),
            "--store zk: expected etcd or ours"
        );
        assert_eq!(complaint(&["--nodes"]), "--nodes needs a value");
        assert!(complaint(&["--image", "/nowhere.tar"]).contains("/nowhere.tar"));
        assert!(complaint(&["--colour"]).contains("unknown flag --colour"));
    }
}
