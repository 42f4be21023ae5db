//! A command line whose flags may be given more than once.

use anyhow::{Result, bail};

/// What was given, in order.
#[derive(Debug, Default)]
pub(crate) struct Arguments(Vec<(String, String)>);

impl Arguments {
    /// Reads `--flag value`, `--flag=value` and, for `switches`, `--flag` alone.
    pub(crate) fn read(words: &[String], flags: &[&str], switches: &[&str]) -> Result<Self> {
        let mut given = Vec::new();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let Some(body) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                bail!("{word:?} is no flag; --help lists them");
            };
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let value = match value {
                Some(value) if flags.contains(&name) && !value.is_empty() => value,
                Some(value) => {
                    bail!("--{name}={value}: no such flag, or no such value; --help lists them")
                }
                None if switches.contains(&name) => String::new(),
                None if flags.contains(&name) => match rest.next() {
                    Some(value) if !value.is_empty() => value.clone(),
                    _ => bail!("flag --{name} needs a value"),
                },
                None => bail!("there is no flag --{name}; --help lists them"),
            };
            given.push((name.to_owned(), value));
        }
        Ok(Self(given))
    }

    /// Every value of a flag.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let values = self.0.iter().filter(|(given, _)| given == name);
        values.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a flag that may be given once.
    pub(crate) fn one(&self, name: &str) -> Result<Option<&str>> {
        match self.all(name)[..] {
            [] => Ok(None),
            [value] => Ok(Some(value)),
            _ => bail!("--{name} was given more than once"),
        }
    }

    /// Whether a switch was given.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| given == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Arguments> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Arguments::read(&words, &["data-dir", "id"], &["keep"])
    }

    #[test]
    fn flags_repeat_where_they_may() {
        let given = read("--data-dir a --data-dir=b -id 7 --keep").expect("all known");
        assert_eq!(given.all("data-dir"), ["a", "b"]);
        assert_eq!(given.one("id").expect("once"), Some("7"));
        assert!(given.is_set("keep") && !given.is_set("id2"));
        assert!(given.one("data-dir").is_err());
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (line, words) in [
            ("--nope 1", "no flag --nope"),
            ("--data-dir", "--data-dir needs a value"),
            ("here", "\"here\" is no flag"),
            ("--keep=yes", "--keep=yes"),
        ] {
            let error = read(line).expect_err(line).to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
