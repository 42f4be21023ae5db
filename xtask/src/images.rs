//! `images`: an OCI layout per program, without a daemon and without a base image.
//!
//! ```text
//! target/images/quorate-0.1.0/       the layout: push it with any tool that knows layouts
//! target/images/quorate-0.1.0.tar    the same in one file: `ctr images import`, `docker load`
//! ```
//!
//! An image holds the release program without its debug information, the shared libraries that it asks for,
//! the machine's CA certificates if there are any, and a user that is not root. Nothing writes to its root, which
//! may be mounted read-only. Built twice from the same commit with the same libraries, it has the same digest: paths
//! of this machine are mapped to names of ours, none may be left in a program, and every image is packed twice.
//! `--twice` also builds the programs a second time, in a clone elsewhere, and compares them.
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

/// `cargo xtask images [--twice] [NAME..]`: the project's images, or the named ones.
pub(crate) fn command(words: &[String]) -> Result<()> {
    let twice = words.iter().any(|word| word == "--twice");
    let mut chosen = words.to_vec();
    chosen.retain(|word| word != "--twice");
    let chosen = chosen.as_slice();
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
            Some(image) => of_ours(image, twice)?,
            None => of_a_node(name)?,
        };
        let tag = image.config.reference.rsplit(':').next().unwrap_or("none");
        let layout = folder.join(format!("{name}-{tag}"));
        let archive = folder.join(format!("{name}-{tag}.tar"));
        let written = layout::write(&image.config, &image.layers, &layout, &archive)?;
        let again = layout::digest_of(&image.config, &image.layers)?;
        if again != written.digest {
            return Err(format!(
                "{name} packed twice has the digests {} and {again}",
                written.digest
            ));
        }
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

fn of_ours(image: &Ours, twice: bool) -> Result<Image> {
    let version = version()?;
    let here = place::workspace();
    let program = stripped(&build(image, &here, &target())?)?;
    names_no_path(&program)?;
    if twice {
        let again = built_elsewhere(image)?;
        if read(&program)? != read(&again)? {
            return Err(format!(
                "{} and {} were built of the same commit and differ",
                program.display(),
                again.display()
            ));
        }
        println!("{}: built twice, in two places, it is the same", image.name);
    }
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

    Ok(Image {
        config: Config {
            reference: format!("{REGISTRY}/{}:{version}", image.name),
            architecture: architecture()?,
            run: run_of(image, &version, steps::commit().as_deref()),
        },
        layers: vec![ground, own],
    })
}

/// How the image's program is run, and what the image says of itself.
fn run_of(image: &Ours, version: &str, commit: Option<&str>) -> Value {
    let mut labels = json!({
        "org.opencontainers.image.title": image.name,
        "org.opencontainers.image.description": image.about,
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0",
    });
    if let Some(commit) = commit {
        labels["org.opencontainers.image.revision"] = commit.into();
    }
    let ports: serde_json::Map<String, Value> = image
        .ports
        .iter()
        .map(|port| (format!("{port}/tcp"), json!({})))
        .collect();
    json!({
        "User": format!("{USER}:{USER}"),
        "Env": [
            "PATH=/usr/local/bin",
            format!("SSL_CERT_FILE=/{CERTIFICATES}"),
        ],
        "Entrypoint": [format!("/usr/local/bin/{}", image.name)],
        "WorkingDir": format!("/{}", image.home),
        "ExposedPorts": ports,
        "Labels": labels,
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

/// Where cargo builds.
fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| place::workspace().join("target"), PathBuf::from);
    place::workspace().join(target)
}

/// Where cargo keeps the sources of dependencies.
fn cargo_home() -> Option<PathBuf> {
    let home = || std::env::home_dir().map(|home| home.join(".cargo"));
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(home)
}

/// The release program of a clone, without the paths at which it was compiled.
fn build(image: &Ours, clone: &Path, target: &Path) -> Result<PathBuf> {
    let (package, name) = (image.package, image.name);
    let words = ["build", "--release", "--package", package, "--bin", name];
    let mut cargo = steps::cargo(&words);
    // Of several that fit the last one holds: the target folder may lie in the clone.
    let homes = cargo_home().map(|home| (home, "/cargo"));
    let places = [
        (clone.to_owned(), "/quorate"),
        (target.to_owned(), "/target"),
    ];
    let flags: Vec<String> = places
        .into_iter()
        .chain(homes)
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect();
    cargo
        .current_dir(clone)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    steps::step(&format!("build {name}"), &mut cargo)?;
    Ok(target.join("release").join(name))
}

/// The same commit, cloned and built under another path.
fn built_elsewhere(image: &Ours) -> Result<PathBuf> {
    let here = place::workspace();
    let git = |folder: &Path, words: &[&str]| {
        steps::output(Command::new("git").current_dir(folder).args(words))
    };
    if !git(&here, &["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
        return Err("--twice builds what is committed, and there are changes that are not".into());
    }
    let clone = target().join("images/elsewhere/quorate");
    if clone.exists() {
        fs::remove_dir_all(&clone)
            .map_err(|error| format!("cannot remove {}: {error}", clone.display()))?;
    }
    let (from, to) = (here.display().to_string(), clone.display().to_string());
    git(&here, &["clone", "--quiet", "--shared", &from, &to])?;
    stripped(&build(image, &clone, &clone.with_file_name("built"))?)
}

/// Where it was compiled is nobody's business, and would make another image of it in every place.
fn names_no_path(program: &Path) -> Result<()> {
    let bytes = read(program)?;
    let homes = [Some(place::workspace()), Some(target()), cargo_home()];
    for path in homes.into_iter().flatten() {
        let path = path.display().to_string();
        if bytes
            .windows(path.len())
            .any(|window| window == path.as_bytes())
        {
            return Err(format!("{} has {path} in it", program.display()));
        }
    }
    Ok(())
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
    use serde_json::{Value, json};

    use super::{OURS, libraries_in, read, run_of};
    use crate::place;

    /// The instructions of the last stage, continued lines joined, with their arguments' defaults put in.
    fn last_stage(file: &str) -> Vec<(String, String)> {
        let joined = file.replace("\\\n", " ");
        let lines = joined.lines().filter(|line| !line.starts_with('#'));
        let mut stage = Vec::new();
        let mut defaults: Vec<(String, String)> = Vec::new();
        for line in lines {
            let Some((word, rest)) = line.trim().split_once(' ') else {
                continue;
            };
            if word == "FROM" {
                stage.clear();
            }
            let mut rest = rest.trim().to_owned();
            if word == "ARG"
                && let Some((name, value)) = rest.split_once('=')
            {
                defaults.push((name.to_owned(), value.to_owned()));
            }
            for (name, value) in &defaults {
                rest = rest.replace(&format!("${{{name}}}"), value);
            }
            stage.push((word.to_owned(), rest));
        }
        stage
    }

    #[test]
    fn a_containerfile_makes_the_same_image() {
        // Pairs of a line, `a=b c="d e"`.
        let pairs = |line: &str| -> Vec<(String, String)> {
            let mut rest = line;
            let mut pairs = Vec::new();
            while let Some((name, value)) = rest.split_once('=') {
                let quoted = value.strip_prefix('"').and_then(|v| v.split_once('"'));
                let (value, after) = quoted
                    .unwrap_or_else(|| value.split_at(value.find(' ').unwrap_or(value.len())));
                pairs.push((name.trim().to_owned(), value.to_owned()));
                rest = after;
            }
            pairs
        };
        let with_file = OURS.iter().filter(|image| image.name != "kube-cluster");
        for image in with_file {
            let file = format!("images/{}.Containerfile", image.name);
            let text = read(&place::workspace().join(&file)).expect("it is there");
            let stage = last_stage(&String::from_utf8(text).expect("text"));
            let all = |word: &str| -> Vec<&str> {
                let found = stage.iter().filter(|(found, _)| found == word);
                found.map(|(_, rest)| rest.as_str()).collect()
            };
            let labels: serde_json::Map<String, Value> = all("LABEL")
                .into_iter()
                .flat_map(pairs)
                .map(|(name, value)| (name, value.into()))
                .collect();
            let ports: serde_json::Map<String, Value> = all("EXPOSE")
                .join(" ")
                .split_whitespace()
                .map(|port| (format!("{port}/tcp"), json!({})))
                .collect();
            let env: Vec<String> = all("ENV")
                .into_iter()
                .flat_map(pairs)
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let entry: Value = serde_json::from_str(all("ENTRYPOINT")[0]).expect("a list");
            let found = json!({
                "User": all("USER")[0],
                "Env": env,
                "Entrypoint": entry,
                "WorkingDir": all("WORKDIR")[0],
                "ExposedPorts": ports,
                "Labels": labels,
            });
            let version = env!("CARGO_PKG_VERSION");
            assert_eq!(found, run_of(image, version, Some("unknown")), "{file}");
        }
    }

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
