//! # kubectl-quorate: `kubectl quorate`, for the person who looks after clusters
//!
//! ```text
//! kubectl quorate status  ──▶ kubectl get           QuorateCluster, QuorateMember
//!                 explain ──▶ kubectl exec          quorate explain, in a member's Pod
//!                 promote ──▶ kubectl port-forward  MemberPromote; the leader judges it
//!                 recover ──▶ kubectl annotate      quorate.dev/recover-from; the operator does it
//! ```
//!
//! It reaches the API server by running kubectl, so every way in that kubectl has is one of the plugin too, and
//! what is refused is refused in kubectl's own words. Members are reached through their Pods, or directly where
//! `--endpoints` says that they can be.
//!
//! It decides nothing: the leader judges a promotion, and the operator refuses a recovery that is not needed.
//! What it adds is to look first, and to say what would be lost.
//!
//! What is shown is a function of the objects and the time, so that every situation can be a test.
#![forbid(unsafe_code)]

mod ask;
mod complete;
mod flags;
mod kubectl;
mod promote;
mod recover;
mod status;
#[cfg(test)]
mod tests;
mod words;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::flags::Command;
use crate::kubectl::Refused;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What kubectl refused, it has said well.
            if let Some(refused) = error.downcast_ref::<Refused>() {
                eprint!("{refused}");
                return ExitCode::from(refused.code);
            }
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    if let [first, rest @ ..] = arguments
        && first == complete::WORD
    {
        return complete::candidates(rest);
    }
    let (word, rest) = flags::split(arguments);
    let Some(word) = word else {
        if rest.iter().any(|word| word == "--version") {
            return say(concat!("kubectl-quorate ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        return say(&flags::help());
    };
    if word == "help" {
        return say(&flags::help());
    }
    let Some(command) = Command::ALL.iter().find(|one| one.name == word) else {
        bail!("unknown command {word:?}; `kubectl quorate help` lists them");
    };
    let given = command.read(&rest)?;
    if given.help {
        return say(&command.help());
    }
    match command.name {
        "status" => status::command(&given),
        "explain" => ask::explain(&given),
        "promote" => promote::command(&given),
        "recover" => recover::command(&given),
        _ => complete::script(&given),
    }
}

/// Onto standard output; a reader that has gone is no fault of ours.
fn say(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
