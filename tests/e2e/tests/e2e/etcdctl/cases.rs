//! The table's lines.

/// What etcd must do with a call; ours must do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// exit code 0
    Ok,
    /// another exit code
    Error,
    /// goes on for ever: print so many lines, then be ended by the test
    Lines(usize),
}

impl Expected {
    /// Whether a call that ended so is as expected.
    pub fn fits(self, code: Option<i32>) -> bool {
        match self {
            Self::Ok => code == Some(0),
            Self::Error => code.is_some_and(|code| code != 0),
            Self::Lines(_) => code.is_none(),
        }
    }
}

/// One call.
#[derive(Debug)]
pub struct Case {
    pub line: usize,
    pub text: String,
    /// `None`: all
    pub endpoints: Option<Vec<usize>>,
    pub expected: Expected,
    /// The difference stands in docs/known-differences.md.
    pub differs: bool,
    /// Lines come in an order that depends on IDs or on luck.
    pub sorted: bool,
    /// A leader looks at versions every few seconds; a downgrade is seen before or after that.
    pub racy: bool,
    /// The name for the ID that the call prints.
    pub name: Option<String>,
    pub arguments: Vec<String>,
    pub input: Option<String>,
}

/// Reads the table; a line that cannot be read is a mistake in the test.
pub fn parse(table: &str) -> Vec<Case> {
    let mut endpoints = None;
    let mut cases = Vec::new();
    for (index, text) in table.lines().enumerate() {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if let Some(chosen) = text.strip_prefix('@') {
            endpoints = (chosen != "all").then(|| {
                chosen
                    .split(',')
                    .map(|index| index.parse().expect("a member's index"))
                    .collect()
            });
            continue;
        }
        let mut words = words(text).into_iter();
        let (mut expected, mut differs, mut name) = (None, false, None);
        let (mut sorted, mut racy) = (false, false);
        for word in words.by_ref() {
            match word.as_str() {
                "differs" => differs = true,
                "sorted" => sorted = true,
                "racy" => racy = true,
                ":" => break,
                "ok" => expected = Some(Expected::Ok),
                "error" => expected = Some(Expected::Error),
                word => {
                    if let Some(lines) = word.strip_prefix("lines=") {
                        let lines = lines.parse().expect("a number of lines");
                        expected = Some(Expected::Lines(lines));
                    } else if let Some(given) = word.strip_prefix("name=") {
                        name = Some(given.to_owned());
                    } else {
                        panic!("line {}: {word:?} before the colon", index + 1);
                    }
                }
            }
        }
        let mut arguments: Vec<String> = words.collect();
        let input = match arguments.iter().position(|argument| argument == "<") {
            Some(at) => {
                let input = arguments.split_off(at).pop();
                Some(input.expect("the input stands behind <"))
            }
            None => None,
        };
        cases.push(Case {
            line: index + 1,
            text: text.to_owned(),
            endpoints: endpoints.clone(),
            expected: expected.unwrap_or_else(|| panic!("line {}: no expectation", index + 1)),
            differs,
            sorted,
            racy,
            name,
            arguments,
            input,
        });
    }
    cases
}

/// Words between blanks; in double quotes blanks are kept, with \n, \t, \", \\ and \xHH.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => {
                let escaped = match chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('x') => {
                        let hex: String = chars.by_ref().take(2).collect();
                        char::from(u8::from_str_radix(&hex, 16).expect("two hex digits"))
                    }
                    Some(other) => other,
                    None => panic!("{text}: ends in a backslash"),
                };
                word.get_or_insert_default().push(escaped);
            }
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}
