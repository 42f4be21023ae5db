//! `quorate`: without a subcommand it runs a member, as `etcd` does.
//!
//! config → build → run → drain; everything else lives in the rooms.

mod config;
mod flags;
mod log;
mod run;

use std::process::ExitCode;

use server::config::{ANNOUNCED_VERSION, QUORATE_VERSION};

/// The commit this was built from, if the build said so.
const COMMIT: Option<&str> = option_env!("QUORATE_COMMIT");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("local") => command(local::main(&arguments[1..])),
        Some("bench") => command(bench::main(&arguments[1..])),
        Some("explain") => command(explain::main(&arguments[1..])),
        Some("util") => command(util::main(&arguments[1..])),
        _ => member(&arguments),
    }
}

fn command(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorate: {error:#}");
            match error.is::<local::flags::Usage>() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}

fn member(arguments: &[String]) -> ExitCode {
    let mut given = match flags::Given::from_arguments(arguments) {
        Ok(given) => given,
        Err(flags::Error::Help) => {
            out(&flags::help());
            return ExitCode::SUCCESS;
        }
        Err(error) => return usage(&error.to_string()),
    };
    if given.bool("version") {
        out(&format!(
            "etcd Version: {ANNOUNCED_VERSION}\nQuorate Version: {QUORATE_VERSION}\nGit SHA: {}\n",
            COMMIT.unwrap_or("unknown")
        ));
        return ExitCode::SUCCESS;
    }
    let mut warnings = Vec::new();
    let door = match read(&mut given, &mut warnings) {
        Ok(door) => door,
        Err(error) => return usage(&format!("{error:#}")),
    };
    if let Err(error) = log::start(&door.log) {
        return usage(&format!("{error:#}"));
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(
        version = QUORATE_VERSION,
        commit = COMMIT.unwrap_or("unknown"),
        configuration = ?door,
        "starting a member"
    );
    match run::run(door) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the member ended");
            eprintln!("quorate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Flags, environment, or a file that stands for both.
fn read(given: &mut flags::Given, warnings: &mut Vec<String>) -> anyhow::Result<config::Door> {
    let mut file = given.text("config-file").to_owned();
    if file.is_empty() {
        file = std::env::var("ETCD_CONFIG_FILE").unwrap_or_default();
    }
    if file.is_empty() {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        for name in given.add_environment(environment)? {
            warnings.push(format!("unrecognized environment variable {name}"));
        }
    } else {
        *given = config::from_file(&file)?;
        warnings.push(format!(
            "configuration read from {file}; other flags and the environment are ignored"
        ));
    }
    config::build(given, warnings)
}

/// Wrong words: nothing was touched. Exit code 2, as Go's flag package has it.
fn usage(text: &str) -> ExitCode {
    eprintln!("quorate: {text}");
    ExitCode::from(2)
}

#[expect(clippy::print_stdout, reason = "what --help and --version are for")]
fn out(text: &str) {
    print!("{text}");
}
