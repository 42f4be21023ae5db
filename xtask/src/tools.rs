//! Real programs for our tests: etcd and its tools, the judge, and a Kubernetes API server, the user.
//!
//! They are pinned by Go modules under `tests/` and built once per user, into a folder of the cache
//! that is named after the module's sums and Go's version. `target/tools` holds a link for each, so that a
//! second clone, or a clone whose target folder was removed, has them in a second.
//!
//! The folder appears by a rename when it is complete: two runs at once build twice, and one of them wins.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::{Result, place, steps};

/// Programs that one Go module pins, built together.
struct Toolset {
    /// How a lane, and `cargo xtask tools`, call it.
    name: &'static str,
    /// Folder of the module, under the workspace.
    module: &'static str,
    /// Folders of our own code in the module: a change there makes other programs.
    sources: &'static [&'static str],
    /// Flags of the linker.
    link_flags: &'static str,
    programs: &'static [Program],
}

/// Kubernetes reads its version from variables that the linker sets; without them it says v0.0.0, and
/// clients that ask for a version refuse it.
const KUBE_LINK_FLAGS: &str = "-s -w \
     -X k8s.io/component-base/version.gitVersion=v1.37.2 \
     -X k8s.io/component-base/version.gitMajor=1 \
     -X k8s.io/component-base/version.gitMinor=37 \
     -X k8s.io/client-go/pkg/version.gitVersion=v1.37.2 \
     -X k8s.io/client-go/pkg/version.gitMajor=1 \
     -X k8s.io/client-go/pkg/version.gitMinor=37";

/// Helm says v3.22 without its variable, and templates may ask which Kubernetes it was made for.
const HELM_LINK_FLAGS: &str = "-s -w \
     -X helm.sh/helm/v3/internal/version.version=v3.22.0 \
     -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 \
     -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=37 \
     -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 \
     -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37";

/// Containerd says v2 without its variable.
const CONTAINERD_LINK_FLAGS: &str =
    "-s -w -X github.com/containerd/containerd/v2/version.Version=v2.4.2";

/// What a node of Kubernetes runs, and the names of a cluster: minutes to build, and of use to root only.
/// They are built when they are named, by `make test-kube` and `make run-kube`.
pub(crate) const NODE: &[&str] = &["kube-node", "containerd", "coredns"];

/// Seconds to build, so that every run of tests may ask for them; the others are for those who need them.
pub(crate) const QUICK: &[&str] = &["etcd", "benchmark", "history"];

struct Program {
    /// How tests call it.
    name: &'static str,
    package: &'static str,
    kind: Kind,
    /// Printing the version must work and must contain this; nothing where the program has no such command.
    version: Option<(&'static str, &'static str)>,
}

/// In the order in which they are built: the quick ones first.
const TOOLSETS: &[Toolset] = &[
    Toolset {
        name: "etcd",
        module: "tests/tools/etcd",
        sources: &[],
        link_flags: "",
        programs: &[
            Program {
                name: "etcd",
                package: "go.etcd.io/etcd/server/v3",
                kind: Kind::Main,
                version: Some(("--version", "etcd Version: 3.7.3")),
            },
            Program {
                name: "etcdctl",
                package: "go.etcd.io/etcd/etcdctl/v3",
                kind: Kind::Main,
                version: Some(("version", "etcdctl version: 3.7.3")),
            },
            Program {
                name: "etcdutl",
                package: "go.etcd.io/etcd/etcdutl/v3",
                kind: Kind::Main,
                version: Some(("version", "etcdutl version: 3.7.3")),
            },
            Program {
                name: "bbolt",
                package: "go.etcd.io/bbolt/cmd/bbolt",
                kind: Kind::Main,
                version: None,
            },
        ],
    },
    // etcd's load tool is a package of etcd's root module, whose newest version on the module proxy is 3.6.8.
    // It is a client only, and drives both sides of a comparison alike.
    Toolset {
        name: "benchmark",
        module: "tests/tools/benchmark",
        sources: &[],
        link_flags: "",
        programs: &[Program {
            name: "benchmark",
            package: "go.etcd.io/etcd/v3/tools/benchmark",
            kind: Kind::Main,
            version: None,
        }],
    },
    // Judges histories; Porcupine is the one that knows linearizability.
    Toolset {
        name: "history",
        module: "tests/tools/history",
        sources: &["."],
        link_flags: "",
        programs: &[Program {
            name: "historycheck",
            package: ".",
            kind: Kind::Main,
            version: None,
        }],
    },
    // etcd's own tests of etcd as a process; tests/conformance turns them on ours.
    Toolset {
        name: "etcd-common",
        module: "tests/conformance/etcd-common",
        sources: &[],
        link_flags: "",
        programs: &[
            Program {
                name: "etcd-common-test",
                package: "go.etcd.io/etcd/tests/v3/common",
                kind: Kind::Tests { tag: "e2e" },
                version: None,
            },
            Program {
                name: "etcd-e2e-test",
                package: "go.etcd.io/etcd/tests/v3/e2e",
                kind: Kind::Tests { tag: "e2e" },
                version: None,
            },
        ],
    },
    // kube-apiserver takes about six minutes of two cores from nothing; the two others share most of it.
    Toolset {
        name: "kube",
        module: "tests/tools/kube",
        sources: &[],
        link_flags: KUBE_LINK_FLAGS,
        programs: &[
            Program {
                name: "kubectl",
                package: "k8s.io/kubernetes/cmd/kubectl",
                kind: Kind::Main,
                version: Some(("version --client", "Client Version: v1.37.2")),
            },
            Program {
                name: "kube-apiserver",
                package: "k8s.io/kubernetes/cmd/kube-apiserver",
                kind: Kind::Main,
                version: Some(("--version", "Kubernetes v1.37.2")),
            },
            Program {
                name: "kube-controller-manager",
                package: "k8s.io/kubernetes/cmd/kube-controller-manager",
                kind: Kind::Main,
                version: Some(("--version", "Kubernetes v1.37.2")),
            },
        ],
    },
    // Installs our charts. In a module of its own, since the sums of the other name programs that take long.
    Toolset {
        name: "helm",
        module: "tests/tools/helm",
        sources: &[],
        link_flags: HELM_LINK_FLAGS,
        programs: &[Program {
            name: "helm",
            package: "helm.sh/helm/v3/cmd/helm",
            kind: Kind::Main,
            version: Some(("version --template {{.Version}}", "v3.22.0")),
        }],
    },
    // A module of its own with the same requirements, so that the sums of the API server's stay as they are;
    // most packages come out of Go's cache.
    Toolset {
        name: "kube-node",
        module: "tests/tools/kube-node",
        sources: &["pause", "clusterpki"],
        link_flags: KUBE_LINK_FLAGS,
        programs: &[
            Program {
                name: "pause",
                package: "./pause",
                kind: Kind::Main,
                version: None,
            },
            Program {
                name: "clusterpki",
                package: "./clusterpki",
                kind: Kind::Main,
                version: None,
            },
            Program {
                name: "kube-scheduler",
                package: "k8s.io/kubernetes/cmd/kube-scheduler",
                kind: Kind::Main,
                version: Some(("--version", "Kubernetes v1.37.2")),
            },
            Program {
                name: "kube-proxy",
                package: "k8s.io/kubernetes/cmd/kube-proxy",
                kind: Kind::Main,
                version: Some(("--version", "Kubernetes v1.37.2")),
            },
            Program {
                name: "kubelet",
                package: "k8s.io/kubernetes/cmd/kubelet",
                kind: Kind::Main,
                version: Some(("--version", "Kubernetes v1.37.2")),
            },
        ],
    },
    Toolset {
        name: "containerd",
        module: "tests/tools/containerd",
        sources: &[],
        link_flags: CONTAINERD_LINK_FLAGS,
        programs: &[
            Program {
                name: "containerd",
                package: "github.com/containerd/containerd/v2/cmd/containerd",
                kind: Kind::Main,
                version: Some(("--version", "v2.4.2")),
            },
            Program {
                name: "containerd-shim-runc-v2",
                package: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
                kind: Kind::Main,
                version: Some(("-v", "v2.4.2")),
            },
            Program {
                name: "ctr",
                package: "github.com/containerd/containerd/v2/cmd/ctr",
                kind: Kind::Main,
                version: Some(("--version", "v2.4.2")),
            },
        ],
    },
    Toolset {
        name: "coredns",
        module: "tests/tools/coredns",
        sources: &["."],
        link_flags: "-s -w",
        programs: &[Program {
            name: "coredns",
            package: ".",
            kind: Kind::Main,
            version: Some(("-version", "CoreDNS-1.15.0")),
        }],
    },
    // Our own load, with Kubernetes' Go client, in the module that pins it.
    Toolset {
        name: "kubeload",
        module: "tests/tools/kube",
        sources: &["kubeload"],
        link_flags: "-s -w",
        programs: &[Program {
            name: "kubeload",
            package: "./kubeload",
            kind: Kind::Main,
            version: None,
        }],
    },
];

/// What `package` holds.
enum Kind {
    /// A program.
    Main,
    /// Tests under a build tag; the program runs them.
    Tests { tag: &'static str },
}

/// `cargo xtask tools [NAME..]`: all of them but a node's, or the named ones.
pub(crate) fn command(chosen: &[String]) -> Result<()> {
    let names: Vec<&str> = TOOLSETS.iter().map(|set| set.name).collect();
    if let Some(unknown) = chosen.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(format!(
            "unknown tools {unknown:?}, expected {}",
            names.join(", ")
        ));
    }
    let start = Instant::now();
    let wanted: Vec<&str> = match chosen {
        [] => names
            .into_iter()
            .filter(|name| !NODE.contains(name))
            .collect(),
        _ => chosen.iter().map(String::as_str).collect(),
    };
    if let Some(missing) = ensure(&wanted).into_values().next() {
        return Err(missing);
    }
    println!(
        "tools: {} ({:.1} s)",
        place::tools_dir().display(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Builds what is missing of the named toolsets and links it at `target/tools`.
/// Gives those that are not there, each with the reason.
pub(crate) fn ensure(wanted: &[&str]) -> BTreeMap<&'static str, String> {
    let go = go_version();
    TOOLSETS
        .iter()
        .filter(|set| wanted.contains(&set.name))
        .filter_map(|set| Some((set.name, ensure_one(set, &go).err()?)))
        .collect()
}

fn ensure_one(set: &Toolset, go: &Result<String>) -> Result<()> {
    let cache = place::cache()?.join("tools");
    let links = place::tools_dir();
    fs::create_dir_all(&links)
        .map_err(|error| format!("cannot create {}: {error}", links.display()))?;
    let built = match go {
        Ok(version) => build(set, &cache, version)?,
        // Without Go, what was built from the same sums before still serves.
        Err(missing) => find_built(set, &cache)?.ok_or_else(|| missing.clone())?,
    };
    for program in set.programs {
        link(&built.join(program.name), &links.join(program.name))?;
    }
    Ok(())
}

fn go_version() -> Result<String> {
    let mut go = Command::new("go");
    // In the module's folder, where its `go` line may choose a newer toolchain.
    go.current_dir(place::workspace().join(TOOLSETS[0].module))
        .args(["env", "GOVERSION"]);
    steps::output(&mut go).map(|text| text.trim().to_owned()).map_err(|error| {
        format!("{error}; install Go 1.26 or newer: apt-get install golang-go, or the archive from https://go.dev/dl")
    })
}

fn build(set: &Toolset, cache: &Path, go: &str) -> Result<PathBuf> {
    let home = cache.join(format!("{}{go}", key(set)?));
    if home.is_dir() {
        return Ok(home);
    }
    let unfinished = cache.join(format!(
        "{}{go}.unfinished-{}",
        key(set)?,
        std::process::id()
    ));
    fs::create_dir_all(&unfinished)
        .map_err(|error| format!("cannot create {}: {error}", unfinished.display()))?;
    for program in set.programs {
        let target = unfinished.join(program.name);
        let mut go = Command::new("go");
        go.current_dir(place::workspace().join(set.module))
            .env("CGO_ENABLED", "0")
            .args(match program.kind {
                Kind::Main => vec!["build"],
                Kind::Tests { tag } => vec!["test", "-c", "-tags", tag],
            })
            .args(["-mod=readonly", "-trimpath"])
            .arg(format!("-ldflags={}", set.link_flags))
            .arg("-o")
            .arg(&target)
            .arg(program.package);
        steps::step(&format!("build {}", program.name), &mut go)?;
        check_version(program, &target)?;
    }
    match fs::rename(&unfinished, &home) {
        Ok(()) => {}
        // Another run was faster; its folder holds the same.
        Err(_) if home.is_dir() => {
            fs::remove_dir_all(&unfinished)
                .map_err(|error| format!("cannot remove {}: {error}", unfinished.display()))?;
        }
        Err(error) => {
            return Err(format!(
                "cannot rename {} to {}: {error}",
                unfinished.display(),
                home.display()
            ));
        }
    }
    Ok(home)
}

fn check_version(program: &Program, file: &Path) -> Result<()> {
    let Some((words, expected)) = program.version else {
        return Ok(());
    };
    let said = steps::output(Command::new(file).args(words.split(' ')))?;
    if said.contains(expected) {
        return Ok(());
    }
    Err(format!(
        "{} {words} should say {expected:?}, and says {:?}",
        program.name,
        said.lines().next().unwrap_or("")
    ))
}

/// The name of the folder up to Go's version: what it holds, from which sums, code and flags.
fn key(set: &Toolset) -> Result<String> {
    let folder = place::workspace().join(set.module);
    let mut files = vec![folder.join("go.sum"), folder.join("go.mod")];
    for source in set.sources {
        files.extend(files_of(&folder.join(source))?);
    }
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for file in &files {
        let contents =
            fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        parts.push(contents);
    }
    parts.extend(set.programs.iter().map(|program| program.name.into()));
    if !set.link_flags.is_empty() {
        parts.push(set.link_flags.into());
    }
    let hash = place::fingerprint(parts.iter().map(Vec::as_slice));
    Ok(format!("{}-{hash:016x}-", set.name))
}

/// The files in a folder, in the order of their names.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)
        .map_err(|error| format!("cannot read the folder {}: {error}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    Ok(files)
}

fn find_built(set: &Toolset, cache: &Path) -> Result<Option<PathBuf>> {
    let key = key(set)?;
    let Ok(entries) = fs::read_dir(cache) else {
        return Ok(None);
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    found.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&key) && !name.contains(".unfinished-")
    });
    found.sort();
    Ok(found.pop())
}

/// Makes `at` a link to `file`, unless it is one. The link is made aside and renamed, so that a test that
/// starts a tool at this moment finds the old one or the new one.
fn link(file: &Path, at: &Path) -> Result<()> {
    if fs::read_link(at).is_ok_and(|target| target == file) {
        return Ok(());
    }
    let aside = at.with_extension(format!("new-{}", std::process::id()));
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(format!("cannot remove {}: {error}", aside.display()));
        }
        _ => {}
    }
    symlink(file, &aside)
        .and_then(|()| fs::rename(&aside, at))
        .map_err(|error| {
            format!(
                "cannot link {} to {}: {error}",
                at.display(),
                file.display()
            )
        })
}
