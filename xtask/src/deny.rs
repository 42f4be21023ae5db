//! Reads from `deny.toml` what `tidy` needs: allowed licences and the excused second versions.
//!
//! cargo-deny knows more (advisories, yanked versions) and reads the same file; this part needs no network and
//! nothing installed. Not a TOML parser: it knows the two lists of that file, one entry a line.

use std::fs;

use crate::{Result, place};

pub(crate) struct Deny {
    /// SPDX identifiers.
    pub(crate) licenses: Vec<String>,
    pub(crate) second_versions: Vec<Excuse>,
}

/// A crate that may be there in this version beside a newer one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Excuse {
    pub(crate) name: String,
    /// The leading numbers of the version: `1.3` stands for all of 1.3.x.
    version: String,
}

impl Excuse {
    pub(crate) fn covers(&self, name: &str, version: &str) -> bool {
        let rest = version.strip_prefix(&self.version);
        self.name == name && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl std::fmt::Display for Excuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

pub(crate) fn read() -> Result<Deny> {
    let file = place::workspace().join("deny.toml");
    let text = fs::read_to_string(&file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    parse(&text)
}

pub(crate) fn parse(text: &str) -> Result<Deny> {
    let licenses = entries(text, "allow = [")
        // As `tidy` writes a licence with an exception, in one word.
        .map(|line| quoted(line).unwrap_or_default().replace(" WITH ", "-WITH-"))
        .collect();
    let excuse = |line: &str| -> Result<Excuse> {
        let spec = quoted(line).unwrap_or_default();
        let (name, version) = spec
            .split_once('@')
            .ok_or_else(|| format!("deny.toml: expected crate = \"name@version\" in {line:?}"))?;
        if !line.contains("reason = \"") {
            return Err(format!("deny.toml: {spec} has no reason"));
        }
        Ok(Excuse {
            name: name.into(),
            version: version.into(),
        })
    };
    Ok(Deny {
        licenses,
        second_versions: entries(text, "skip = [")
            .map(excuse)
            .collect::<Result<_>>()?,
    })
}

/// The lines between `opening` and a line with the closing bracket, without comments.
fn entries<'a>(text: &'a str, opening: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .map(str::trim)
        .skip_while(move |line| *line != opening)
        .skip(1)
        .take_while(|line| *line != "]")
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn quoted(line: &str) -> Option<&str> {
    line.split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_are_read() {
        let deny = parse(
            "[licenses]\nallow = [\n  \"MIT\",\n  # why\n  \"Zlib\",\n]\n[bans]\nskip = [\n  { crate = \"syn@2\", reason = \"x\" },\n]\n",
        )
        .expect("the text is sound");
        assert_eq!(deny.licenses, ["MIT", "Zlib"]);
        assert!(deny.second_versions[0].covers("syn", "2.0.119"));
        assert!(!deny.second_versions[0].covers("syn", "20.1.0"));
        assert!(!deny.second_versions[0].covers("quote", "2.0.1"));
    }

    #[test]
    fn an_excuse_needs_a_reason() {
        assert!(parse("skip = [\n{ crate = \"syn@2\" },\n]\n").is_err());
    }

    #[test]
    fn the_committed_file_is_read() {
        let deny = read().expect("deny.toml is sound");
        assert!(deny.licenses.iter().any(|licence| licence == "Apache-2.0"));
    }
}
