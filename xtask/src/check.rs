//! `check`, what one runs before a commit, and `bless`, which re-records expected output.

use std::process::Command;

use crate::{Result, build, edges, lanes, runner, steps, tidy};

/// `cargo xtask check`
pub(crate) fn command() -> Result<()> {
    steps::step("fmt", &mut steps::cargo(&["fmt", "--all", "--", "--check"]))?;
    steps::step("clippy", &mut clippy())?;
    println!("== tidy");
    tidy::command()
}

fn clippy() -> Command {
    steps::cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])
}

/// `cargo xtask crds`: what is made of the operator's types and tables is written anew: `crds/`, the charts' copies,
/// the schema of their values, the rights. The tests that compare it write it, as `bless` has all tests do.
pub(crate) fn crds() -> Result<()> {
    let mut tests = steps::cargo(&["test", "--quiet", "-p", "crd", "-p", "manifests"]);
    steps::step("crds", tests.env("QUORATE_BLESS", "1"))?;
    let folders = [
        "diff",
        "--stat",
        "--",
        "crds",
        "charts",
        "operator/crates/manifests",
    ];
    steps::step("what changed", Command::new("git").args(folders))
}

/// `cargo xtask bless [ROOM..]`: tests that compare with recorded output write it anew when `QUORATE_BLESS` is 1.
/// `cargo xtask bless edges` only writes the drawn edges into ARCHITECTURE.md.
pub(crate) fn bless(rooms: &[String]) -> Result<()> {
    edges::write_to_architecture()?;
    if rooms == ["edges"] {
        return Ok(());
    }
    let built = build::everything()?;
    if let Some(unknown) = rooms
        .iter()
        .find(|room| built.tests.iter().all(|test| test.package != **room))
    {
        return Err(format!("no room {unknown:?} with tests in the workspace"));
    }
    let mut programs = built.tests.clone();
    programs.retain(|test| rooms.is_empty() || rooms.contains(&test.package));
    let mut environment = lanes::environment(&built);
    environment.push(("QUORATE_BLESS".into(), "1".into()));
    let settings = runner::Settings {
        deadline: None,
        at_once: 1,
        threads: 2,
        environment: &environment,
    };
    let outcomes = runner::run(&programs, &settings, lanes::print_outcome)?;
    steps::step("what changed", Command::new("git").args(["diff", "--stat"]))?;
    match outcomes.iter().map(|one| one.failed).sum::<usize>() {
        0 => Ok(()),
        failed => Err(format!("{failed} tests failed even so")),
    }
}
