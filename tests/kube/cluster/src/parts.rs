//! Programs and how they are started: those of `make tools`, those of the system, each with a log of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// How often something that is waited for is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The root of the workspace: around this program, or around the folder that it was started in. It is asked for
/// when it is needed and not put in at compile time: an image of this program is the same from any place.
pub fn workspace() -> PathBuf {
    found().unwrap_or_else(|| PathBuf::from("."))
}

/// Charts, images and tools are taken from a clone, and folders of clusters go there.
pub fn need_workspace() -> Result<()> {
    ensure!(
        found().is_some(),
        "neither this program nor the folder it was started in is in a clone of quorate ({SIGN} is looked for); \
         its charts, images and tools are wanted: start it in a clone"
    );
    Ok(())
}

/// What only a clone has.
const SIGN: &str = "charts/quorate-operator";

fn found() -> Option<PathBuf> {
    let homes = [std::env::current_exe().ok(), std::env::current_dir().ok()];
    let mut around = homes.iter().flatten().flat_map(|home| home.ancestors());
    around
        .find(|folder| folder.join(SIGN).is_dir())
        .map(Path::to_path_buf)
}

/// The folder of the links that `cargo xtask tools` makes.
pub fn tools() -> PathBuf {
    std::env::var_os("QUORATE_TOOLS")
        .map_or_else(|| workspace().join("target/tools"), PathBuf::from)
}

/// A program of `cargo xtask tools`.
pub fn tool(name: &str) -> Result<PathBuf> {
    let path = tools().join(name);
    ensure!(
        path.exists(),
        "{} is not there; run `cargo xtask tools etcd kube helm kube-node containerd coredns`",
        path.display()
    );
    Ok(path)
}

/// A program of the system, looked for as a shell does and where administrators' programs lie.
pub fn system(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Runs a program that must succeed, and gives what it says on standard output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A program that runs on its own, and where it writes what it says.
#[derive(Debug)]
pub struct Part {
    /// how we call it
    pub name: String,
    child: Child,
    log: PathBuf,
}

impl Part {
    /// Starts it with its log at the end of `<logs>/<name>.log`.
    pub fn start(name: &str, command: &mut Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Its process id, as we see it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Fails when it has ended, with the end of its log.
    pub fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let text = std::fs::read(&self.log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            bail!(
                "{} has ended with {status}; the end of {}:\n{tail}",
                self.name,
                self.log.display()
            );
        }
        Ok(())
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until the answer is there, and fails with the last complaint when it takes too long.
pub fn until<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= end => {
                return Err(error).with_context(|| format!("no {what} after {patience:?}"));
            }
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}
