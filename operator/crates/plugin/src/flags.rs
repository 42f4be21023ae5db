//! The command line, as kubectl's users know it: `-n`, `-A`, `-o json`, flags before or behind the command.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use local::flags::{Flag, Given};

/// Which API server, as whom, and where: handed on to kubectl as they are.
pub const WHERE: &[Flag] = &[
    flag(
        "namespace",
        "name",
        "",
        "-n: the namespace (that of the context)",
    ),
    flag("context", "name", "", "the context of the kubeconfig"),
    flag(
        "kubeconfig",
        "file",
        "",
        "the kubeconfig (KUBECONFIG, or ~/.kube/config)",
    ),
    flag("cluster", "name", "", "the cluster of the kubeconfig"),
    flag("user", "name", "", "the user of the kubeconfig"),
    flag("as", "name", "", "the user to impersonate"),
    flag(
        "request-timeout",
        "time",
        "",
        "how long to wait for one request, such as 10s",
    ),
];

/// One letter for a flag.
const SHORT: &[(char, &str)] = &[
    ('n', "namespace"),
    ('A', "all-namespaces"),
    ('o', "output"),
    ('h', "help"),
];

const OUTPUT: Flag = flag("output", "json", "", "-o: json, for programs");

const ENDPOINTS: Flag = flag(
    "endpoints",
    "list",
    "",
    "client endpoints, host:port, separated by commas, where this machine reaches members itself",
);

/// One word behind `kubectl quorate`.
pub struct Command {
    /// the word
    pub name: &'static str,
    /// what stands behind it
    pub takes: &'static str,
    /// one line
    pub about: &'static str,
    /// words that it takes, at least and at most
    words: (usize, usize),
    flags: &'static [Flag],
    reaches_the_api_server: bool,
}

impl Command {
    /// All of them.
    pub const ALL: &[Command] = &[
        Command {
            name: "status",
            takes: "[NAME]",
            about: "Members, quorum, the change under way, and why it waits: from the API server alone",
            words: (0, 1),
            flags: &[
                flag(
                    "all-namespaces",
                    "",
                    "false",
                    "-A: clusters of all namespaces",
                ),
                OUTPUT,
            ],
            reaches_the_api_server: true,
        },
        Command {
            name: "explain",
            takes: "NAME",
            about: "What the members themselves see, what is wrong and what to do: `quorate explain` in a member's Pod",
            words: (1, 1),
            flags: &[
                ENDPOINTS,
                flag(
                    "timeout",
                    "ms",
                    "2000",
                    "how long to wait for one member, in milliseconds",
                ),
                OUTPUT,
            ],
            reaches_the_api_server: true,
        },
        Command {
            name: "promote",
            takes: "NAME MEMBER",
            about: "Asks for a learner's promotion, under the members' own check; the operator does it by itself",
            words: (2, 2),
            flags: &[ENDPOINTS],
            reaches_the_api_server: true,
        },
        Command {
            name: "recover",
            takes: "NAME",
            about: "A quorum that is lost for good: shows who survives, and goes on from the one that is named",
            words: (1, 1),
            flags: &[
                flag(
                    "survivor",
                    "member",
                    "",
                    "the member from whose data the cluster goes on (asked for)",
                ),
                flag(
                    "cluster-id",
                    "id",
                    "",
                    "the cluster's ID, as a sign that this one is meant (asked for)",
                ),
                flag(
                    "others-are-gone",
                    "",
                    "false",
                    "members on silent nodes never come back: do not wait for their nodes to be gone",
                ),
                ENDPOINTS,
                flag(
                    "wait-timeout",
                    "seconds",
                    "900",
                    "how long to wait for the end; 0: only give the order",
                ),
            ],
            reaches_the_api_server: true,
        },
        Command {
            name: "completion",
            takes: "bash|zsh|fish",
            about: "Completion of `kubectl-quorate` for a shell; that of `kubectl quorate` is kubectl's own",
            words: (1, 1),
            flags: &[],
            reaches_the_api_server: false,
        },
    ];

    /// The tables of flags that it takes.
    pub fn tables(&self) -> Vec<&'static [Flag]> {
        let mut tables = vec![self.flags];
        if self.reaches_the_api_server {
            tables.push(WHERE);
        }
        tables
    }

    /// Reads what stands beside the command.
    ///
    /// # Errors
    /// Flags or words that it does not take.
    pub fn read(&self, arguments: &[String]) -> Result<Given> {
        let given = Given::read(&long(arguments, &everything()), &self.tables())?;
        if given.help {
            return Ok(given);
        }
        let (least, most) = self.words;
        let count = given.words.len() + given.rest.len();
        ensure!(
            given.rest.is_empty() && (least..=most).contains(&count),
            "expected `kubectl quorate {} {}`, got {:?}; --help says more",
            self.name,
            self.takes,
            given.words.iter().chain(&given.rest).collect::<Vec<_>>()
        );
        ensure!(
            !self.flags.iter().any(|flag| flag.name == "output")
                || matches!(given.text("output"), "" | "json"),
            "--output {}: expected json, or no --output for people",
            given.text("output")
        );
        Ok(given)
    }

    /// What `--help` says of it.
    pub fn help(&self) -> String {
        let mut text = format!(
            "{}\n\nUsage:\n  kubectl quorate {} {} [flags]\n",
            self.about, self.name, self.takes
        );
        for (title, table) in [("Flags", self.flags), ("As kubectl has them", WHERE)] {
            if !table.is_empty() && (title == "Flags" || self.reaches_the_api_server) {
                let _ = write!(text, "\n{title}:\n{}", local::flags::help(table));
            }
        }
        text
    }
}

const fn flag(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        value,
        default,
        help,
    }
}

/// What `kubectl quorate help` says.
pub fn help() -> String {
    let mut text = "Looks after QuorateCluster objects from the command line.\n\nUsage:\n  kubectl quorate COMMAND\n\nCommands:\n".to_owned();
    for command in Command::ALL {
        let shape = format!("{} {}", command.name, command.takes);
        let _ = writeln!(text, "  {shape:<26} {}", command.about);
    }
    text.push_str("\n`kubectl quorate COMMAND --help` lists the flags of a command.\n");
    text
}

/// Every flag that there is.
pub fn everything() -> Vec<Flag> {
    let commands = Command::ALL.iter().flat_map(|command| command.flags);
    commands.chain(WHERE).copied().collect()
}

/// The flags of kubectl that were given, to be handed on.
pub fn handed_on(given: &Given) -> Vec<String> {
    WHERE
        .iter()
        .filter(|flag| given.is_set(flag.name))
        .map(|flag| format!("--{}={}", flag.name, given.text(flag.name)))
        .collect()
}

/// The command, wherever it stands among flags, and all the rest.
pub fn split(arguments: &[String]) -> (Option<String>, Vec<String>) {
    let mut rest = long(arguments, &everything());
    let mut at = 0;
    while let Some(word) = rest.get(at) {
        if !word.starts_with('-') {
            let word = rest.remove(at);
            return (Some(word), rest);
        }
        at += if takes_next(word, &everything()) {
            2
        } else {
            1
        };
    }
    (None, rest)
}

/// Short flags become long ones: `-nshop`, `-n shop`, `-n=shop`, `-Aojson`.
pub fn long(arguments: &[String], table: &[Flag]) -> Vec<String> {
    let mut words = Vec::new();
    let mut left = arguments.iter();
    while let Some(word) = left.next() {
        if word == "--" {
            words.push(word.clone());
            words.extend(left.cloned());
            break;
        }
        let spelled = spelled_out(word, table).unwrap_or_else(|| vec![word.clone()]);
        let value = spelled.last().is_some_and(|last| takes_next(last, table));
        words.extend(spelled);
        if value {
            words.extend(left.next().cloned());
        }
    }
    words
}

fn spelled_out(word: &str, table: &[Flag]) -> Option<Vec<String>> {
    let letters = word
        .strip_prefix('-')
        .filter(|rest| !rest.starts_with('-'))?;
    let mut words = Vec::new();
    for (at, letter) in letters.char_indices() {
        let (_, name) = SHORT.iter().find(|(short, _)| *short == letter)?;
        let rest = &letters[at + letter.len_utf8()..];
        let valued = table
            .iter()
            .any(|flag| flag.name == *name && !flag.value.is_empty());
        if valued && !rest.is_empty() {
            words.push(format!("--{name}={}", rest.trim_start_matches('=')));
            return Some(words);
        }
        words.push(format!("--{name}"));
    }
    (!words.is_empty()).then_some(words)
}

/// Whether a flag's value is the word behind it.
pub fn takes_next(word: &str, table: &[Flag]) -> bool {
    word.strip_prefix("--").is_some_and(|name| {
        table
            .iter()
            .any(|flag| flag.name == name && !flag.value.is_empty())
    })
}
