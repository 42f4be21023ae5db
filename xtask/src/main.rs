//! The chores of this repository, one word each: `cargo xtask help` lists them.
//!
//! The same words are used by hand, by `make` and by `.ci/run`, so that a step that passes here passes there.
//! This program knows no room from the inside: it runs cargo, git and go, reads what they print, and judges it.
//!
//! ```text
//! ci    → check → tools → build all tests once → lanes (lanes.rs), each within its budget → one closing line
//! check → fmt, clippy, tidy
//! tidy  → the drawn edges (edges.rs), pure rooms, licences, sources, file sizes
//! more  → the long lanes (more.rs), starting at a place that the commit gives
//! bench-operator → what the operator costs, and what its work costs a client (bench_operator.rs)
//! tools → real etcd, its tools and Kubernetes, built from the Go module proxy into a cache of the user
//! images → release programs and the libraries they need, as OCI layouts at target/images
//! ```
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "a command line program speaks on stdout"
)]

mod bench_operator;
mod build;
mod check;
mod deny;
mod edges;
mod images;
mod lanes;
mod more;
mod place;
mod runner;
mod steps;
mod tidy;
mod tools;

use std::process::ExitCode;

/// Every failure of a chore is a sentence for the person who called it.
pub(crate) type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    let (word, rest) = match words.split_first() {
        Some((word, rest)) => (word.as_str(), rest),
        None => ("help", words),
    };
    match word {
        "tools" => tools::command(rest),
        "images" => images::command(rest),
        "check" => check::command(),
        "ci" => lanes::command(rest),
        "more" => more::command(rest),
        "bench-operator" => bench_operator::command(rest),
        "tidy" => tidy::command(),
        "crds" => check::crds(),
        "bless" => check::bless(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(format!(
            "unknown word {other:?}, expected one of tools, images, check, ci, more, bench-operator, tidy, crds, bless, help"
        )),
    }
}

const HELP: &str = "\
cargo xtask WORD

  tools [NAME..] build etcd and its tools, kube-apiserver, kube-controller-manager and kubectl into the user's
                 cache, link them at target/tools; the names: etcd, benchmark, helm, kube, kubeload; and what
                 whole nodes of Kubernetes need, which is built only when it is named: kube-node, containerd, coredns
  images [NAME..] an OCI layout and a tar of quorate and quorate-operator at target/images (= make images); QUORATE_VERSION
                 in the environment is built in and becomes the tag; --twice builds again elsewhere and compares
  check          cargo fmt --check, clippy without warnings, tidy
  ci [LANE..]    check, tools, then all lanes (or the named ones), each within its budget (= make test)
  more           the long lanes; BUDGET_S=600 in the environment or as an argument stops after that many seconds
  bench-operator the operator's figures as a table, with release programs; --json, --quick, --only PART, --rounds N,
                 --clusters N, --rest SECONDS; a missed target is a failure (= make bench-operator)
  tidy           the drawn dependency edges, pure rooms, licences, sources, file sizes
  crds           write crds/, the charts' copies, values schema and rights anew from the operator's types
  bless [ROOM..] re-record expected output of tests (all rooms or the named ones); read its diff as code;
                 `bless edges` only writes the drawn edges into ARCHITECTURE.md
  help           this text

QUORATE_TESTS=all   a test that is left out (a tool is missing) is a failure
";
