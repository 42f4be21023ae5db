//! # util: tools for the files of a member that does not run
//!
//! `quorate util recover` makes the disk of one survivor a cluster of one, when the quorum is lost for
//! good. The other commands of etcd's `etcdutl` work on our files as they are.
//!
//! ```text
//!   recover ── command line, words for a person
//!     ├── survey ── what a disk says: whose it is, how far, who belongs   reads only
//!     ├── copy ──── the whole disk, beside, before it is touched
//!     └── alone ─── membership::leave_alone, written to the log
//! ```
//!
//! A survey writes nothing: files are opened for reading, and a lock that a running member holds is
//! looked for and not kept. `quorate explain` uses it too.
//!
//! This room does not know: the network, a running member, what a request means.
#![forbid(unsafe_code)]

mod arguments;
mod copy;
mod readonly;
mod recover;
pub mod survey;

use anyhow::{Result, bail};

pub use survey::{Paths, Survey, survey};

/// `quorate util …`, without these two words.
///
/// # Errors
/// Everything that was refused, for a person.
pub fn main(arguments: &[String]) -> Result<()> {
    match arguments.first().map(String::as_str) {
        Some("recover") => recover::main(&arguments[1..]),
        None | Some("-h" | "--help" | "help") => {
            show(USAGE);
            Ok(())
        }
        Some(other) => bail!("util: there is no command {other:?}\n\n{USAGE}"),
    }
}

const USAGE: &str = "\
Usage:

  quorate util recover --data-dir DIR [--data-dir DIR ...]
    The quorum is lost for good: show what each survivor's disk holds and what would be lost; told
    --member-id and --cluster-id, make that survivor's disk a cluster of one. `recover --help` says more.

For snapshots, hashes, defragmentation and migration of stopped members use etcd's etcdutl, which works
on the same files.
";

#[expect(
    clippy::print_stdout,
    reason = "what a command is asked for goes to its output"
)]
pub(crate) fn show(text: &str) {
    print!("{text}");
}
