//! Completion: what could stand where a person is typing.
//!
//! ```text
//! kubectl quorate st<TAB> ─▶ kubectl's completion ─▶ kubectl_complete-quorate ─┐
//! kubectl-quorate st<TAB> ─▶ the shell's script ──────────────────────────────┴▶ kubectl-quorate __complete st
//! ```
//!
//! One candidate a line, with its description behind a tab, and `:N` at the end, as kubectl reads it.

use anyhow::{Result, bail};
use crd::Role;
use local::flags::Given;

use crate::flags::{Command, WHERE, everything, long, takes_next};
use crate::kubectl::Kubectl;
use crate::say;

/// The hidden command.
pub const WORD: &str = "__complete";

/// The shell offers files where we have nothing; and it does not.
const FILES: u8 = 0;
const NO_FILES: u8 = 4;

/// `kubectl quorate completion SHELL`
pub fn script(given: &Given) -> Result<()> {
    match given.words[0].as_str() {
        "bash" => say(BASH),
        "zsh" => say(ZSH),
        "fish" => say(FISH),
        other => bail!("no completion for {other:?}, expected bash, zsh or fish"),
    }
}

/// `kubectl-quorate __complete WORDS.. CURRENT`
///
/// # Errors
/// The output is closed. That nothing can be found out is no error: then there are no candidates.
pub fn candidates(words: &[String]) -> Result<()> {
    let (current, before) = match words.split_last() {
        Some((current, before)) => (current.as_str(), before),
        None => ("", words),
    };
    let (all, directive) = offered(current, before);
    let mut text: String = all
        .iter()
        .filter(|one| one.starts_with(current))
        .map(|one| format!("{one}\n"))
        .collect();
    text.push_str(&format!(":{directive}\n"));
    say(&text)
}

fn offered(current: &str, before: &[String]) -> (Vec<String>, u8) {
    let table = everything();
    // Shells split `--flag=value` into three words.
    let before: Vec<String> = before.iter().filter(|word| *word != "=").cloned().collect();
    let before = long(&before, &table);
    let (mut flags, mut words) = (Vec::new(), Vec::new());
    let mut left = before.iter();
    let mut open = None;
    while let Some(word) = left.next() {
        if takes_next(word, &table) {
            match left.next() {
                Some(value) => flags.push(format!("{word}={value}")),
                None => open = Some(word.trim_start_matches('-')),
            }
        } else if word.starts_with('-') {
            flags.push(word.clone());
        } else {
            words.push(word.as_str());
        }
    }
    let ways = WHERE.iter().map(|flag| format!("--{}=", flag.name));
    let ways: Vec<String> = ways.collect();
    flags.retain(|flag| ways.iter().any(|way| flag.starts_with(way.as_str())));
    let kubectl = Kubectl::with(flags);
    if let Some(flag) = open {
        return value_of(flag, &kubectl, &words);
    }
    let Some((command, words)) = words.split_first() else {
        let commands = Command::ALL
            .iter()
            .map(|one| format!("{}\t{}", one.name, one.about));
        return (commands.collect(), NO_FILES);
    };
    let Some(command) = Command::ALL.iter().find(|one| one.name == *command) else {
        return (Vec::new(), NO_FILES);
    };
    if current.starts_with('-') {
        let flags = command.tables().concat();
        let flags = flags
            .iter()
            .map(|flag| format!("--{}\t{}", flag.name, flag.help));
        return (flags.collect(), NO_FILES);
    }
    let found = match (command.name, words) {
        ("completion", []) => ["bash", "zsh", "fish"].map(str::to_owned).to_vec(),
        ("status" | "explain" | "promote" | "recover", []) => clusters(&kubectl),
        ("promote", [cluster]) => members(&kubectl, cluster, |role| role == Role::Learner),
        _ => Vec::new(),
    };
    (found, NO_FILES)
}

fn value_of(flag: &str, kubectl: &Kubectl, words: &[&str]) -> (Vec<String>, u8) {
    let lines = |words: &[&str], prefix: &str| -> Vec<String> {
        let text = kubectl.output(words).unwrap_or_default();
        text.lines()
            .map(|line| line.strip_prefix(prefix).unwrap_or(line).to_owned())
            .collect()
    };
    let found = match flag {
        "namespace" => lines(&["get", "namespaces", "--output=name"], "namespace/"),
        "context" => lines(&["config", "get-contexts", "--output=name"], ""),
        "cluster" => lines(&["config", "get-clusters"], ""),
        "user" => lines(&["config", "get-users"], ""),
        "output" => vec!["json".to_owned()],
        "survivor" => match words {
            [_, cluster] => members(kubectl, cluster, |role| role != Role::Learner),
            _ => Vec::new(),
        },
        "kubeconfig" => return (Vec::new(), FILES),
        _ => Vec::new(),
    };
    (found, NO_FILES)
}

fn clusters(kubectl: &Kubectl) -> Vec<String> {
    let clusters = kubectl.clusters(false).unwrap_or_default();
    clusters.into_iter().map(|one| one.metadata.name).collect()
}

fn members(kubectl: &Kubectl, cluster: &str, wanted: impl Fn(Role) -> bool) -> Vec<String> {
    let members = kubectl.members(false).unwrap_or_default();
    members
        .into_iter()
        .filter(|one| one.spec.cluster_name == cluster)
        .filter(|one| {
            wanted(
                one.status
                    .as_ref()
                    .map(|status| status.role)
                    .unwrap_or_default(),
            )
        })
        .map(|one| one.metadata.name)
        .collect()
}

const BASH: &str = r#"# bash completion of kubectl-quorate: source <(kubectl quorate completion bash)
# That of `kubectl quorate` comes with kubectl's own, where kubectl_complete-quorate is on PATH.
_kubectl_quorate() {
    local line directive=0
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :*) directive=${line#:} ;;
            *) COMPREPLY+=("${line%%$'\t'*}") ;;
        esac
    done < <(kubectl-quorate __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [[ $directive == 0 ]]; then
        compopt -o default 2>/dev/null
    fi
}
complete -F _kubectl_quorate kubectl-quorate
"#;

const ZSH: &str = r#"#compdef kubectl-quorate
# zsh completion of kubectl-quorate: source <(kubectl quorate completion zsh)
# That of `kubectl quorate` comes with kubectl's own, where kubectl_complete-quorate is on PATH.
_kubectl_quorate() {
    local -a found
    local line directive=0
    while IFS= read -r line; do
        case $line in
            :*) directive=${line#:} ;;
            *) found+=("${${line//:/\\:}/$'\t'/:}") ;;
        esac
    done < <(kubectl-quorate __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    if (( ${#found} )); then
        _describe 'kubectl quorate' found
    elif [[ $directive == 0 ]]; then
        _files
    fi
}
compdef _kubectl_quorate kubectl-quorate
"#;

const FISH: &str = r#"# fish completion of kubectl-quorate: kubectl quorate completion fish | source
# That of `kubectl quorate` comes with kubectl's own, where kubectl_complete-quorate is on PATH.
function __kubectl_quorate
    set -l before (commandline -opc)
    set -e before[1]
    set -l current (commandline -ct)
    kubectl-quorate __complete $before "$current" 2>/dev/null | string match -v -r '^:[0-9]+$'
end
complete -c kubectl-quorate -f -a '(__kubectl_quorate)'
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let (current, before) = words.split_last().expect("a word");
        let (all, _) = offered(current, before);
        all.iter()
            .filter(|one| one.starts_with(current.as_str()))
            .map(|one| one.split('\t').next().unwrap_or_default().to_owned())
            .collect()
    }

    #[test]
    fn commands_and_flags_are_offered() {
        assert_eq!(at(&["st"]), ["status"]);
        assert_eq!(at(&["-n", "shop", "re"]), ["recover"]);
        assert_eq!(at(&["completion", ""]), ["bash", "zsh", "fish"]);
        assert_eq!(at(&["recover", "orders", "--ot"]), ["--others-are-gone"]);
        assert_eq!(at(&["status", "--na"]), ["--namespace"]);
        assert_eq!(at(&["status", "-o", ""]), ["json"]);
        assert_eq!(at(&["status", "--output", "=", "j"]), ["json"]);
        assert!(at(&["completion", "bash", ""]).is_empty());
        assert!(at(&["nothing", ""]).is_empty());
    }

    #[test]
    fn files_are_offered_for_a_file_alone() {
        let words = ["status".to_owned(), "--kubeconfig".to_owned()];
        assert_eq!(offered("", &words).1, FILES);
        assert_eq!(offered("", &words[..1]).1, NO_FILES);
    }
}
