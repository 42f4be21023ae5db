//! bench
#![forbid(unsafe_code)]

/// Runs the command.
pub fn main(_arguments: &[String]) -> anyhow::Result<()> {
    anyhow::bail!("unfinished")
}
