//! `images`: an OCI layout per program, without a daemon and without a base image.
//!
//! ```text
//! target/images/quorate-0.1.0/       the layout: push it with any tool that knows layouts
//! target/images/quorate-0.1.0.tar    the same in one file: `ctr images import`, `docker load`
//! ```
//!
//! An image holds the release program without its debug information, the shared libraries that it asks for,
//! the machine's CA certificates if there are any, and a user that is not root. Nothing writes to its root, which
//! may be mounted read-only. Built twice from the same commit with the same libraries, it has the same digest.
//!
//! The image of the test cluster's sandboxes, `pause`, comes out of the same writer.

mod layout;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use self::layout::{Config, Tree};
use crate::{Result, place, steps};

/// Who runs in the image: nobody else's number, and the one that distroless images use for it, so that policies
/// that know that one know ours.
const USER: u32 = 65532;

/// Where images of ours would lie in a registry; the charts ask for them there.
const REGISTRY: &str = "ghcr.io/quorate";

/// Where programs find the certificates of public authorities, by the name that Debian gives the file.
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// Where else the machine may keep them.
const CERTIFICATES_OF_THIS_MACHINE: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// An image of a program of the workspace.
struct Ours {
    /// name of image and program
    name: &'static str,
    package: &'static str,
    about: &'static str,
    /// Where it starts, a folder of its user's.
    home: &'static str,
    /// TCP ports that it listens on.
    ports: &'static [u16],
}

const OURS: &[Ours] = &[
    Ours {
        name: "quorate",
        package: "quorate",
        about: "A replicated key-value store that speaks etcd v3.",
        home: "var/lib/quorate",
        ports: &[2379, 2380, 2381],
    },
    Ours {
        name: "quorate-operator",
        package: "quorate-operator",
        about: "Looks after QuorateCluster objects on Kubernetes.",
        home: "home/operator",
        ports: &[8080],
    },
    // The client of the whole-cluster lane; nobody else wants it.
    Ours {
        name: "kube-cluster",
        package: "kubecluster",
        about: "Writes without a pause and remembers what was acknowledged, for tests.",
        home: "home/client",
        ports: &[],
    },
];

/// What `cargo xtask images` without a name makes.
const BY_DEFAULT: &[&str] = &["quorate", "quorate-operator"];

/// Images of the test cluster, of programs of `cargo xtask tools` that ask for no library.
const OF_A_NODE: &[&str] = &["pause"];

/// `cargo xtask images [NAME..]`: the project's images, or the named ones.
pub(crate) fn command(chosen: &[String]) -> Result<()> {
    let ours = OURS.iter().map(|image| image.name);
    let known: Vec<&str> = ours.chain(OF_A_NODE.iter().copied()).collect();
    if let Some(unknown) = chosen.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!(
            "unknown image {unknown:?}, expected {}",
            known.join(", ")
        ));
    }
    let wanted: Vec<&str> = match chosen {
        [] => BY_DEFAULT.to_vec(),
        _ => chosen.iter().map(String::as_str).collect(),
    };
    let folder = place::workspace().join("target/images");
    fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    for name in wanted {
        let image = match OURS.iter().find(|image| image.name == name) {
            Some(image) => of_ours(image)?,
            None => of_a_node(name)?,
        };
        let tag = image.config.reference.rsplit(':').next().unwrap_or("none");
        let layout = folder.join(format!("{name}-{tag}"));
        let archive = folder.join(format!("{name}-{tag}.tar"));
        let written = layout::write(&image.config, &image.layers, &layout, &archive)?;
        println!(
            "{} {} ({:.1} MB) {}",
            image.config.reference,
            written.digest,
            written.bytes as f64 / 1e6,
            archive.display()
        );
    }
    Ok(())
}

/// An image before it is written.
struct Image {
    config: Config,
    layers: Vec<Tree>,
}

/// The version that the image is tagged with: the workspace's, or the one that `QUORATE_VERSION` builds into the
/// programs, which is how the tests of upgrades come to a second version.
fn version() -> Result<String> {
    if let Ok(version) = std::env::var("QUORATE_VERSION") {
        return Ok(version);
    }
    let mut cargo = steps::cargo(&["metadata", "--no-deps", "--format-version=1"]);
    let metadata: Value = serde_json::from_str(&steps::output(&mut cargo)?)
        .map_err(|error| format!("cargo metadata is not JSON: {error}"))?;
    metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == "quorate"))
        .and_then(|package| package["version"].as_str())
        .map(str::to_owned)
        .ok_or_else(|| "cargo metadata names no package quorate with a version".to_owned())
}

fn of_ours(image: &Ours) -> Result<Image> {
    let version = version()?;
    let program = stripped(&build(image)?)?;
    let mut ground = Tree::default();
    for library in libraries(&program)? {
        let name = library.trim_start_matches('/');
        ground.file(name, 0o755, read(Path::new(&library))?);
    }
    let certificates = CERTIFICATES_OF_THIS_MACHINE
        .iter()
        .find(|file| Path::new(file).is_file());
    if let Some(file) = certificates {
        ground.file(CERTIFICATES, 0o644, read(Path::new(file))?);
    }
    ground.file(
        "etc/passwd",
        0o644,
        format!(
            "root:x:0:0:root:/:/sbin/nologin\nquorate:x:{USER}:{USER}:quorate:/:/sbin/nologin\n"
        )
        .into_bytes(),
    );
    ground.file(
        "etc/group",
        0o644,
        format!("root:x:0:\nquorate:x:{USER}:\n").into_bytes(),
    );
    // Without it the C library asks for modules that are not here before it asks DNS.
    ground.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n".to_vec());
    let mut own = Tree::default();
    own.directory(image.home, 0o700, USER);
    let path = format!("usr/local/bin/{}", image.name);
    own.file(&path, 0o755, read(&program)?);

    let mut labels = json!({
        "org.opencontainers.image.title": image.name,
        "org.opencontainers.image.description": image.about,
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0",
    });
    if let Some(commit) = steps::commit() {
        labels["org.opencontainers.image.revision"] = commit.into();
    }
    let ports: serde_json::Map<String, Value> = image
        .ports
        .iter()
        .map(|port| (format!("{port}/tcp"), json!({})))
        .collect();
    Ok(Image {
        config: Config {
            reference: format!("{REGISTRY}/{}:{version}", image.name),
            architecture: architecture()?,
            run: json!({
                "User": format!("{USER}:{USER}"),
                "Env": [
                    "PATH=/usr/local/bin",
                    format!("SSL_CERT_FILE=/{CERTIFICATES}"),
                ],
                "Entrypoint": [format!("/{path}")],
                "WorkingDir": format!("/{}", image.home),
                "ExposedPorts": ports,
                "Labels": labels,
            }),
        },
        layers: vec![ground, own],
    })
}

fn of_a_node(name: &str) -> Result<Image> {
    let program = place::tools_dir().join(name);
    if !program.exists() {
        return Err(format!(
            "{} is not there; run `cargo xtask tools kube-node`",
            program.display()
        ));
    }
    let mut own = Tree::default();
    own.file(name, 0o755, read(&program)?);
    Ok(Image {
        config: Config {
            reference: format!("localhost/quorate-test-{name}:1"),
            architecture: architecture()?,
            run: json!({ "Entrypoint": [format!("/{name}")], "WorkingDir": "/" }),
        },
        layers: vec![own],
    })
}

/// The release program.
fn build(image: &Ours) -> Result<PathBuf> {
    let (package, name) = (image.package, image.name);
    let words = ["build", "--release", "--package", package, "--bin", name];
    steps::step(&format!("build {name}"), &mut steps::cargo(&words))?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| place::workspace().join("target"), PathBuf::from);
    Ok(place::workspace().join(target).join("release").join(name))
}

/// A copy without what only a debugger reads: the names of functions stay, for backtraces, and what says where
/// it was compiled goes, so that two clones give the same image.
fn stripped(program: &Path) -> Result<PathBuf> {
    let copy = program.with_extension("stripped");
    let mut strip = Command::new("strip");
    strip
        .args([
            "--strip-debug",
            "--remove-section=.note.gnu.build-id",
            "--output-file",
        ])
        .arg(&copy)
        .arg(program);
    steps::output(&mut strip)?;
    Ok(copy)
}

/// The files that the program's loader would map, itself among them, as ldd finds them.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let said = steps::output(Command::new("ldd").arg(program))?;
    libraries_in(&said)
}

/// ldd's lines: `libm.so.6 => /lib/…/libm.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`, and `linux-vdso.so.1
/// (0x…)`, which is no file.
fn libraries_in(said: &str) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for line in said.lines().map(str::trim) {
        if line.contains("not found") {
            return Err(format!("a library is missing on this machine: {line}"));
        }
        files.extend(
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(str::to_owned),
        );
    }
    Ok(files)
}

fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => Err(format!(
            "no image can be made on {other}, expected x86_64 or aarch64"
        )),
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::libraries_in;

    #[test]
    fn libraries_are_the_files_that_ldd_names() {
        let said = "\tlinux-vdso.so.1 (0x00007f80e9cc4000)\n\
            \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f80e90f7000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f80e9cc6000)\n";
        assert_eq!(
            libraries_in(said).expect("all are there"),
            [
                "/lib/x86_64-linux-gnu/libm.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert_eq!(
            libraries_in("\tstatically linked\n").expect("none"),
            Vec::<String>::new()
        );
        let missing = libraries_in("\tlibx.so => not found\n").expect_err("it is missing");
        assert!(missing.contains("libx.so"), "{missing}");
    }
}
