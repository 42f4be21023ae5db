//! What a person has in hand: kubectl, helm, a KUBECONFIG; and, where the nodes are ours, their switches.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::ask::ask;
use crate::parts::{run, tool, tools, until, workspace};

/// A Kubernetes to try things on.
#[derive(Debug, Clone)]
pub struct Door {
    /// where it is
    pub kubeconfig: PathBuf,
    /// the folder of the cluster whose nodes we may break
    pub nodes: Option<PathBuf>,
    /// where images of ours are, without a name
    pub registry: String,
}

impl Door {
    /// kubectl, which must succeed.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        run(self.command("kubectl")?.args(words))
    }

    /// helm, which must succeed.
    pub fn helm(&self, words: &[&str]) -> Result<String> {
        let home = workspace().join("target/kube-helm");
        run(self
            .command("helm")?
            .args(words)
            // Nothing of the person who runs this.
            .env("HELM_CACHE_HOME", home.join("cache"))
            .env("HELM_CONFIG_HOME", home.join("config"))
            .env("HELM_DATA_HOME", home.join("data"))
            .current_dir(workspace()))
    }

    /// `kubectl quorate`, with the plugin beside this program; what it says on standard output.
    pub fn plugin(&self, words: &[&str]) -> Result<String> {
        let own = std::env::current_exe().context("a program knows where it is")?;
        let beside = own.with_file_name("kubectl-quorate");
        ensure!(
            beside.exists(),
            "{} is not there; `cargo build -p kubectl-quorate` builds it",
            beside.display()
        );
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = [beside.with_file_name(""), tools()];
        let folders = folders.into_iter().chain(std::env::split_paths(&path));
        run(self
            .command("kubectl")?
            .arg("quorate")
            .args(words)
            .env("PATH", std::env::join_paths(folders)?))
    }

    fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(tool(program)?);
        command.env("KUBECONFIG", &self.kubeconfig);
        Ok(command)
    }

    /// One object or a list as JSON.
    pub fn get(&self, words: &[&str]) -> Result<Value> {
        let words = [&["get", "-o", "json"], words].concat();
        Ok(serde_json::from_str(&self.kubectl(&words)?)?)
    }

    /// `kubectl apply` of an object.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let words = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.send(&words, object)
    }

    /// A request that kubectl has no word for.
    pub fn create_raw(&self, path: &str, object: &Value) -> Result<()> {
        self.send(&["create", "--raw", path, "-f", "-"], object)
    }

    fn send(&self, words: &[&str], object: &Value) -> Result<()> {
        let mut child = self
            .command("kubectl")?
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("asked for as a pipe")?
            .write_all(object.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// A fault of a node: `kill node1`, …
    pub fn node(&self, words: &[&str]) -> Result<String> {
        let dir = self
            .nodes
            .as_deref()
            .context("these nodes are not ours to break")?;
        ask(dir, words)
    }

    /// Waits until an object's field, or several joined by a space, says this.
    pub fn until_says(
        &self,
        object: &[&str],
        fields: &str,
        expected: &str,
        patience: Duration,
    ) -> Result<()> {
        let path = format!("jsonpath={fields}");
        let words = [&["get"], object, &["-o", &path]].concat();
        until(&format!("{expected:?}"), patience, || {
            let said = self.kubectl(&words)?;
            if said.trim() != expected {
                bail!("kubectl {} says {said:?}", words.join(" "));
            }
            Ok(())
        })
    }
}

/// The archive of one of our images, as `cargo xtask images` wrote it.
pub fn archive(name: &str, tag: &str) -> Result<PathBuf> {
    let file = workspace().join(format!("target/images/{name}-{tag}.tar"));
    ensure!(
        file.exists(),
        "{} is not there; `make test-kube` and `make run-kube` build it",
        file.display()
    );
    Ok(file)
}
