//! The control plane as processes: certificates, API server, controller manager, kubectl.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use testkit::{Cluster, eventually, ports, tool};

/// How often the API server compacts the store; its default is five minutes. Long enough for a watch to
/// come back over a failover, short enough to happen several times in a test.
const COMPACTION: &str = "6s";

/// Whether the API server keeps ConfigMaps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// As it comes: lists and watches are answered from a cache that one watch of the store feeds.
    Default,
    /// Each list and each watch of ConfigMaps is one of the store.
    NoConfigMaps,
}

/// An API server with its controllers.
#[derive(Debug)]
pub struct Control {
    /// its address and the key to everything
    pub kubeconfig: PathBuf,
    api: Process,
    manager: Process,
}

impl Control {
    /// Starts both on the members, and waits until the API server is ready.
    pub fn start(cluster: &Cluster, cache: Cache) -> Self {
        Self::start_with(cluster, cache, "*", |_| ())
    }

    /// The same with these controllers only. What `before` does, it does between the start of the API
    /// server and that of the controllers, so that these know from the beginning what it has made.
    pub fn start_with(
        cluster: &Cluster,
        cache: Cache,
        controllers: &str,
        before: impl FnOnce(&Path),
    ) -> Self {
        let dir = cluster.dir().join("control");
        let port = ports::free().to_string();
        run(Command::new(program("kubeload")).args([Path::new("pki"), &dir, Path::new(&port)]));
        let kubeconfig = dir.join("admin.kubeconfig");
        let api = api_server(cluster, cache, &dir, &port);
        run(Command::new(program("kubeload"))
            .arg("ready")
            .arg(&kubeconfig));
        before(&kubeconfig);
        let manager = controller_manager(&dir, &kubeconfig, controllers);
        Self {
            kubeconfig,
            api,
            manager,
        }
    }

    /// kubectl, with its output when it succeeds.
    pub fn kubectl(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new(program("kubectl"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(words)
            .output()
            .expect("kubectl can be started");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("kubectl {words:?}: {}", said(&output)))
        }
    }

    /// What the API server has logged.
    pub fn api_log(&self) -> String {
        self.api.log_text()
    }

    /// The API server's metrics, in the text format.
    pub fn metrics(&self) -> String {
        self.kubectl(&["get", "--raw", "/metrics"])
            .expect("the API server serves its metrics")
    }

    /// That both still run: neither has given up on its store.
    pub fn assert_running(&mut self) {
        for process in [&mut self.api, &mut self.manager] {
            if let Some(status) = process
                .child
                .try_wait()
                .expect("our own child can be asked")
            {
                panic!(
                    "{} has ended with {status}:\n{}",
                    process.name,
                    process.log_tail()
                );
            }
        }
    }
}

fn api_server(cluster: &Cluster, cache: Cache, dir: &Path, port: &str) -> Process {
    let file = |name: &str| dir.join(name).display().to_string();
    let urls: Vec<&str> = cluster
        .members
        .iter()
        .map(|member| member.client_url.as_str())
        .collect();
    let mut flags = vec![
        format!("--etcd-servers={}", urls.join(",")),
        format!("--etcd-compaction-interval={COMPACTION}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        // Nobody calls it there (192.0.2.0/24 is for documents), but it is an address that may stand in an
        // Endpoints object, so that the server keeps its lease on it in the store as a real one does.
        "--advertise-address=192.0.2.1".to_owned(),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        // What the storage layer says about the store: which calls it does without, what it compacts.
        "--vmodule=store=4,watcher=4,compact=4,feature_support_checker=4".to_owned(),
    ];
    if cache == Cache::NoConfigMaps {
        flags.push("--watch-cache-sizes=configmaps#0".to_owned());
    }
    Process::start("kube-apiserver", &flags, dir)
}

fn controller_manager(dir: &Path, kubeconfig: &Path, controllers: &str) -> Process {
    let flags = [
        format!("--controllers={controllers}"),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!(
            "--service-account-private-key-file={}",
            dir.join("sa.key").display()
        ),
        format!("--root-ca-file={}", dir.join("ca.crt").display()),
        "--leader-elect=false".to_owned(),
        // It needs no door of its own.
        "--secure-port=0".to_owned(),
    ];
    Process::start("kube-controller-manager", &flags, dir)
}

/// A program of `make tools`; the test has looked for all of them before.
pub fn program(name: &str) -> PathBuf {
    tool(name).unwrap_or_else(|| panic!("{name} is missing; run `make tools`"))
}

/// Runs a program that must succeed; its standard output.
pub fn run(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("a tool can be started");
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(output: &Output) -> String {
    format!(
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

/// The process is killed when the thread that starts it ends, however that comes about.
#[expect(
    unsafe_code,
    reason = "std has no word for what happens between fork and exec; prctl(2) is safe there"
)]
pub fn dies_with_its_thread(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: prctl with these arguments is safe between fork and exec, and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    }
}

/// One running program and its log; it ends with the test.
#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(name: &'static str, flags: &[String], dir: &Path) -> Self {
        let path = dir.join(format!("{name}.log"));
        let log = File::create(&path).expect("the test's own folder");
        let child = dies_with_its_thread(&mut Command::new(program(name)))
            .args(flags)
            // The log's times are read again, in UTC.
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Self {
            name,
            child,
            log: path,
        }
    }

    fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name, self.log_tail());
        }
    }
}

/// Asks kubectl until its answer is the expected one.
pub fn until(control: &Control, words: &[&str], expected: &str) {
    eventually(
        &format!("{expected:?} from kubectl {words:?}"),
        Duration::from_secs(40),
        || match control.kubectl(words) {
            Ok(text) if text.trim() == expected => Ok(()),
            Ok(text) => Err(format!("it says {text:?}")),
            Err(error) => Err(error),
        },
    );
}
