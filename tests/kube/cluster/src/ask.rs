//! Asking the first process of a running cluster.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::inner::SOCKET;
use crate::parts::workspace;

/// What can be asked.
pub const WORDS: &[&str] = &[
    "kill", "start", "replace", "cut", "heal", "signal", "image", "forward", "status",
];

/// Where the folders of clusters are, unless `QUORATE_KUBE_DIR` names one cluster's.
pub fn clusters() -> PathBuf {
    workspace().join("target/kube")
}

/// A request by hand.
pub fn command(words: &[&str]) -> Result<()> {
    let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    if let [word, file] = words.as_mut_slice()
        && word == "image"
    {
        // The cluster's working folder is not ours.
        *file = std::fs::canonicalize(&*file)
            .with_context(|| format!("cannot read {file}"))?
            .display()
            .to_string();
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let text = ask(&the_one()?, &words)?;
    if !text.is_empty() {
        println!("{}", text.trim_end());
    }
    Ok(())
}

/// Asks the cluster of this folder.
pub fn ask(dir: &Path, words: &[&str]) -> Result<String> {
    let socket = dir.join(SOCKET);
    let mut stream = UnixStream::connect(&socket)
        .with_context(|| format!("no cluster answers at {}", socket.display()))?;
    writeln!(stream, "{}", serde_json::to_string(words)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line).context("the cluster has ended")?;
    match (&answer["ok"], &answer["error"]) {
        (Value::String(text), _) => Ok(text.clone()),
        (_, Value::String(error)) => bail!("{error}"),
        _ => bail!("an answer that is neither: {line}"),
    }
}

fn the_one() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("QUORATE_KUBE_DIR") {
        return Ok(dir.into());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(clusters()).into_iter().flatten() {
        let dir = entry?.path();
        if UnixStream::connect(dir.join(SOCKET)).is_ok() {
            found.push(dir);
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!("no cluster runs; `kube-cluster up` starts one"),
        several => bail!("several run, set QUORATE_KUBE_DIR to one of {several:?}"),
    }
}
