//! The command line of our commands: a table of flags, and what was given. (A member's own flags are
//! etcd's, and are read elsewhere.)

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::str::FromStr;

use anyhow::{Error, Result, anyhow, bail};

/// Wrong words on a command line. Programs end with code 2 on it, as Go's flag package has it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(String);

/// An error that is a [`Usage`], with this text.
pub fn usage(text: impl Display) -> Error {
    Usage(text.to_string()).into()
}

/// One flag of a command.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// What its value is, one word; empty for a flag that is there or not.
    pub value: &'static str,
    /// The value when it is not given.
    pub default: &'static str,
    /// One line.
    pub help: &'static str,
}

/// What was given.
#[derive(Debug)]
pub struct Given {
    table: Vec<Flag>,
    values: BTreeMap<&'static str, String>,
    /// Words that are no flags, in order.
    pub words: Vec<String>,
    /// All behind `--`.
    pub rest: Vec<String>,
    /// `-h` or `--help`.
    pub help: bool,
}

impl Given {
    /// Reads arguments in the forms `--x value`, `--x=value`, `-x value`, `-x=value`.
    ///
    /// # Errors
    ///
    /// [`Usage`]
    pub fn read(arguments: &[String], tables: &[&[Flag]]) -> Result<Self> {
        Self::read_words(arguments, tables).map_err(usage)
    }

    fn read_words(arguments: &[String], tables: &[&[Flag]]) -> Result<Self> {
        let mut given = Self {
            table: tables.concat(),
            values: BTreeMap::new(),
            words: Vec::new(),
            rest: Vec::new(),
            help: false,
        };
        let mut left = arguments.iter();
        while let Some(word) = left.next() {
            if word == "--" {
                given.rest = left.cloned().collect();
                break;
            }
            let Some(body) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                given.words.push(word.clone());
                continue;
            };
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            if name == "h" || name == "help" {
                given.help = true;
                continue;
            }
            let flag = *given
                .table
                .iter()
                .find(|flag| flag.name == name)
                .ok_or_else(|| anyhow!("unknown flag --{name}; --help lists the flags"))?;
            let value = match value {
                Some(value) => value,
                None if flag.value.is_empty() => "true".to_owned(),
                None => left.next().cloned().ok_or_else(|| {
                    anyhow!(
                        "flag --{name} needs a value: --{name} {}",
                        flag.value.to_uppercase()
                    )
                })?,
            };
            if flag.value.is_empty() && value != "true" && value != "false" {
                bail!("--{name}={value}: expected true or false");
            }
            given.values.insert(flag.name, value);
        }
        Ok(given)
    }

    /// The value given, or the default.
    pub fn text(&self, name: &str) -> &str {
        match self.values.get(name) {
            Some(value) => value,
            None => {
                let flag = self.table.iter().find(|flag| flag.name == name);
                flag.expect("callers name flags of their own table").default
            }
        }
    }

    /// Whether the flag was given.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A flag without a value.
    pub fn is_on(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    /// A number within limits, both included.
    pub fn number<T: FromStr + PartialOrd + Display>(
        &self,
        name: &str,
        least: T,
        most: T,
    ) -> Result<T> {
        let text = self.text(name);
        match text.parse() {
            Ok(value) if value >= least && value <= most => Ok(value),
            _ => Err(usage(format!(
                "--{name} {text}: expected a number from {least} to {most}"
            ))),
        }
    }
}

/// The flags of a table as a help text shows them.
pub fn help(table: &[Flag]) -> String {
    let mut text = String::new();
    for flag in table {
        let shape = format!("--{} {}", flag.name, flag.value.to_uppercase());
        let default = match flag.default {
            "" | "false" => String::new(),
            default => format!(" (default {default})"),
        };
        writeln!(text, "  {shape:<28} {}{default}", flag.help).expect("a string takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Flag] = &[
        Flag {
            name: "total",
            value: "n",
            default: "10",
            help: "how many",
        },
        Flag {
            name: "json",
            value: "",
            default: "false",
            help: "as JSON",
        },
    ];

    fn read(words: &[&str]) -> Result<Given> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        Given::read(&words, &[TABLE])
    }

    #[test]
    fn values_come_in_every_form() {
        for words in [
            &["--total", "7"][..],
            &["-total", "7"],
            &["--total=7"],
            &["-total=7"],
        ] {
            assert_eq!(
                read(words).unwrap().number("total", 1, 100).unwrap(),
                7,
                "{words:?}"
            );
        }
        let given = read(&["put", "--json", "k", "--", "--x"]).unwrap();
        assert!(given.is_on("json") && !given.is_set("total"));
        assert_eq!(
            (given.words.join(" "), given.rest.join(" ")),
            ("put k".into(), "--x".into())
        );
        assert_eq!(given.number("total", 1, 100).unwrap(), 10);
    }

    #[test]
    fn a_refusal_names_the_flag_and_the_value() {
        let text = |result: Result<Given>| result.unwrap_err().to_string();
        assert!(text(read(&["--totl=7"])).contains("--totl"));
        assert!(text(read(&["--total"])).contains("--total N"));
        let error = read(&["--total", "7x"])
            .unwrap()
            .number("total", 1, 100)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "--total 7x: expected a number from 1 to 100"
        );
    }
}
