//! Real etcd and its tools: the judge in our tests.
//!
//! They are pinned by the Go modules under `tests/tools/` and built once per user, into a folder of the cache
//! that is named after the module's sums and Go's version. `target/tools` holds a link for each, so that a
//! second clone, or a clone whose target folder was removed, has them in a second.
//!
//! The folder appears by a rename when it is complete: two runs at once build twice, and one of them wins.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::{Result, place, steps};

/// The programs that one Go module pins.
struct Toolset {
    /// Folder of the module, under the workspace.
    module: &'static str,
    programs: &'static [Program],
}

struct Program {
    /// How tests call it.
    name: &'static str,
    package: &'static str,
    /// Printing the version must work and must contain this; nothing where the program has no such command.
    version: Option<(&'static str, &'static str)>,
}

const TOOLSETS: &[Toolset] = &[
    Toolset {
        module: "tests/tools/etcd",
        programs: &[
            Program {
                name: "etcd",
                package: "go.etcd.io/etcd/server/v3",
                version: Some(("--version", "etcd Version: 3.7.3")),
            },
            Program {
                name: "etcdctl",
                package: "go.etcd.io/etcd/etcdctl/v3",
                version: Some(("version", "etcdctl version: 3.7.3")),
            },
            Program {
                name: "etcdutl",
                package: "go.etcd.io/etcd/etcdutl/v3",
                version: Some(("version", "etcdutl version: 3.7.3")),
            },
            Program {
                name: "bbolt",
                package: "go.etcd.io/bbolt/cmd/bbolt",
                version: None,
            },
        ],
    },
    // etcd's load tool is a package of etcd's root module, whose newest version on the module proxy is 3.6.8.
    // It is a client only, and drives both sides of a comparison alike.
    Toolset {
        module: "tests/tools/benchmark",
        programs: &[Program {
            name: "benchmark",
            package: "go.etcd.io/etcd/v3/tools/benchmark",
            version: None,
        }],
    },
];

pub(crate) fn command() -> Result<()> {
    let start = Instant::now();
    ensure()?;
    println!(
        "tools: {} ({:.1} s)",
        place::tools_dir().display(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Builds what is missing and links everything at `target/tools`.
pub(crate) fn ensure() -> Result<()> {
    let cache = place::cache()?.join("tools");
    let go = go_version();
    let links = place::tools_dir();
    fs::create_dir_all(&links)
        .map_err(|error| format!("cannot create {}: {error}", links.display()))?;
    for set in TOOLSETS {
        let built = match &go {
            Ok(version) => build(set, &cache, version)?,
            // Without Go, what was built from the same sums before still serves.
            Err(missing) => find_built(set, &cache)?.ok_or_else(|| missing.clone())?,
        };
        for program in set.programs {
            link(&built.join(program.name), &links.join(program.name))?;
        }
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
            .args(["build", "-mod=readonly", "-trimpath", "-o"])
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
    let Some((word, expected)) = program.version else {
        return Ok(());
    };
    let said = steps::output(Command::new(file).arg(word))?;
    if said.contains(expected) {
        return Ok(());
    }
    Err(format!(
        "{} {word} should say {expected:?}, and says {:?}",
        program.name,
        said.lines().next().unwrap_or("")
    ))
}

/// The name of the folder up to Go's version: what it holds and from which sums.
fn key(set: &Toolset) -> Result<String> {
    let folder = place::workspace().join(set.module);
    let read = |name: &str| {
        let file = folder.join(name);
        fs::read(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))
    };
    let (sums, module) = (read("go.sum")?, read("go.mod")?);
    let names: Vec<&[u8]> = set
        .programs
        .iter()
        .map(|program| program.name.as_bytes())
        .collect();
    let hash = place::fingerprint(
        [sums.as_slice(), module.as_slice()]
            .into_iter()
            .chain(names),
    );
    let subject = folder
        .file_name()
        .expect("a module lies in a folder")
        .to_string_lossy()
        .into_owned();
    Ok(format!("{subject}-{hash:016x}-"))
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
