//! kubectl as the way to the API server, and the objects as far as they are looked at.
//!
//! Objects of another version of the kinds must load: of a spec only what is shown is read, and a status takes
//! unknown words by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use crd::{QuorateClusterStatus, QuorateMemberStatus};
use local::flags::Given;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::flags;

/// With the group, so that no other kind of the same name is meant.
pub const CLUSTERS: &str = "quorateclusters.quorate.dev";
const MEMBERS: &str = "quoratemembers.quorate.dev";

/// kubectl connects within this time, or something is wrong.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(20);

/// kubectl ended with a complaint, which it has worded itself.
#[derive(Debug)]
pub struct Refused {
    /// its exit code
    pub code: u8,
    said: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "{}", self.said.trim_end())
    }
}

impl std::error::Error for Refused {}

/// kubectl with the flags that lead to one API server.
#[derive(Debug, Clone)]
pub struct Kubectl {
    flags: Vec<String>,
}

impl Kubectl {
    /// With the flags that were given to us.
    pub fn of(given: &Given) -> Self {
        Self {
            flags: flags::handed_on(given),
        }
    }

    /// With these flags.
    pub fn with(flags: Vec<String>) -> Self {
        Self { flags }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(&self.flags).args(words).stdin(Stdio::null());
        command
    }

    /// What it prints.
    ///
    /// # Errors
    /// It cannot be run, or it complains: then [`Refused`] is within.
    pub fn output(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).output().context(CANNOT_RUN)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Refused {
            code: code_of(output.status.code()),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
        .into())
    }

    fn get<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        let words = [&["get", "--output=json"], words].concat();
        let text = self.output(&words)?;
        serde_json::from_str(&text)
            .with_context(|| format!("kubectl {} prints no such objects", words.join(" ")))
    }

    /// One cluster.
    ///
    /// # Errors
    /// As [`Kubectl::output`].
    pub fn cluster(&self, name: &str) -> Result<Cluster> {
        self.get(&[CLUSTERS, name])
    }

    /// All clusters of the namespace, or of all.
    ///
    /// # Errors
    /// As [`Kubectl::output`].
    pub fn clusters(&self, all_namespaces: bool) -> Result<Vec<Cluster>> {
        self.list(CLUSTERS, all_namespaces)
    }

    /// Members of all clusters of the namespace, or of all.
    ///
    /// # Errors
    /// As [`Kubectl::output`].
    pub fn members(&self, all_namespaces: bool) -> Result<Vec<Member>> {
        self.list(MEMBERS, all_namespaces)
    }

    fn list<T: DeserializeOwned>(&self, kind: &str, all_namespaces: bool) -> Result<Vec<T>> {
        let everywhere: &[&str] = if all_namespaces {
            &["--all-namespaces"]
        } else {
            &[]
        };
        let list: List<T> = self.get(&[&[kind], everywhere].concat())?;
        Ok(list.items)
    }

    /// Opens a way to a port of a Pod; it closes when it is dropped.
    ///
    /// # Errors
    /// The Pod does not run, or the way there is refused.
    pub fn forward(&self, pod: &str, port: i32) -> Result<Forward> {
        let (pod, port) = (format!("pod/{pod}"), format!(":{port}"));
        let mut child = self
            .command(&["port-forward", "--address=127.0.0.1", &pod, &port])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(CANNOT_RUN)?;
        let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            bail!("kubectl gives no output");
        };
        // Its end closes what is read here, so the threads end with it.
        let (lines, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        let mut forward = Forward {
            child,
            endpoint: String::new(),
        };
        match heard.recv_timeout(FORWARD_TIMEOUT) {
            Ok(line) => {
                let endpoint = endpoint_in(&line).with_context(|| {
                    format!("kubectl port-forward says {line:?}, expected an address")
                })?;
                forward.endpoint = endpoint;
                Ok(forward)
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("kubectl port-forward {pod} has no connection after {FORWARD_TIMEOUT:?}")
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let mut said = String::new();
                stderr.read_to_string(&mut said).unwrap_or_default();
                Err(Refused { code: 1, said }.into())
            }
        }
    }
}

const CANNOT_RUN: &str = "cannot run kubectl, the plugin's way to the API server; put it on PATH";

fn code_of(code: Option<i32>) -> u8 {
    code.and_then(|code| u8::try_from(code).ok())
        .filter(|code| *code > 0)
        .unwrap_or(1)
}

/// `Forwarding from 127.0.0.1:40123 -> 2379`
fn endpoint_in(line: &str) -> Option<String> {
    let rest = line.strip_prefix("Forwarding from ")?;
    let (endpoint, _) = rest.split_once(" -> ")?;
    Some(endpoint.to_owned())
}

/// A way to a Pod's port.
#[derive(Debug)]
pub struct Forward {
    child: Child,
    /// `host:port` on this machine
    pub endpoint: String,
}

impl Drop for Forward {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

/// An object as far as it is looked at.
#[derive(Debug, Clone, Deserialize)]
pub struct Object<Spec, Status> {
    /// who it is
    pub metadata: Metadata,
    /// what is asked for
    pub spec: Spec,
    /// what the operator answers
    pub status: Option<Status>,
}

/// A `QuorateCluster`.
pub type Cluster = Object<ClusterSpec, QuorateClusterStatus>;

/// A `QuorateMember`.
pub type Member = Object<MemberSpec, QuorateMemberStatus>;

/// Of the metadata.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// its name
    pub name: String,
    /// where
    pub namespace: String,
    /// of the spec
    pub generation: i64,
    /// of the whole object
    pub resource_version: String,
    /// a person's orders
    pub annotations: BTreeMap<String, String>,
    /// since when it is to go
    pub deletion_timestamp: Option<String>,
}

/// Of a cluster's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSpec {
    /// voters
    pub replicas: i32,
    /// Quorate's
    pub version: String,
    /// nothing is done
    pub paused: bool,
}

/// Of a member's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemberSpec {
    /// whose it is
    pub cluster_name: String,
}

impl Cluster {
    /// Its members among these.
    pub fn own(&self, members: &[Member]) -> Vec<Member> {
        members
            .iter()
            .filter(|member| {
                member.spec.cluster_name == self.metadata.name
                    && member.metadata.namespace == self.metadata.namespace
            })
            .cloned()
            .collect()
    }

    /// The status of a condition, its reason and its message.
    pub fn condition(&self, kind: crd::ConditionType) -> Option<&crd::Condition> {
        let conditions = &self.status.as_ref()?.conditions;
        conditions.iter().find(|one| one.type_ == kind.as_str())
    }

    /// The order to recover that stands in it.
    pub fn order(&self) -> Option<&str> {
        let annotations = &self.metadata.annotations;
        annotations
            .get(crd::RECOVER_FROM_ANNOTATION)
            .map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_forwarded_port_is_read() {
        let line = "Forwarding from 127.0.0.1:40123 -> 2379";
        assert_eq!(endpoint_in(line).as_deref(), Some("127.0.0.1:40123"));
        assert_eq!(endpoint_in("Handling connection for 40123"), None);
    }

    #[test]
    fn an_end_without_a_code_is_a_failure() {
        assert_eq!(code_of(Some(0)), 1);
        assert_eq!(code_of(None), 1);
        assert_eq!(code_of(Some(3)), 3);
    }
}
