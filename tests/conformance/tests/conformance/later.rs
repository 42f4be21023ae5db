//! `later.toml`: what does not run yet, and why.

use std::collections::BTreeSet;

/// How deep the name of a shape may lie in the name of a test:
/// `TestMemberAdd/NotLearner/StrictReconfigCheck/WaitForQuorum/NoTLS` is the deepest.
const SHAPE_DEPTH_MAX: usize = 4;

/// How many entries `later.toml` may have; it goes down with every entry that leaves.
const LATER_MAX: usize = 81;

/// What does not run yet.
#[derive(Debug, Default, PartialEq)]
pub struct Later {
    /// Functions of `common`.
    pub tests: BTreeSet<String>,
    /// Functions of `e2e`.
    pub e2e: BTreeSet<String>,
    /// Shapes of clusters, wherever they stand in the name of a test.
    shapes: BTreeSet<String>,
}

impl Later {
    pub fn read() -> Later {
        Later::parse(include_str!("../../later.toml")).expect("later.toml is written as it says")
    }

    /// The little of TOML that the file uses: `[[test]]`, `[[e2e]]` or `[[shape]]`, then `name` and `reason`.
    fn parse(text: &str) -> Result<Later, String> {
        let mut later = Later::default();
        for entry in text.split("\n[[").skip(1) {
            let (kind, rest) = entry
                .split_once("]]")
                .ok_or(format!("no end of a header: {entry}"))?;
            let value = |key: &str| -> Result<String, String> {
                rest.lines()
                    .find_map(|line| {
                        line.strip_prefix(key)?
                            .strip_prefix(" = \"")?
                            .strip_suffix('"')
                    })
                    .filter(|value| !value.is_empty())
                    .map(str::to_owned)
                    .ok_or(format!("an entry without {key}: [[{entry}"))
            };
            value("reason")?;
            let new = match kind {
                "test" => later.tests.insert(value("name")?),
                "e2e" => later.e2e.insert(value("name")?),
                "shape" => later.shapes.insert(value("name")?),
                _ => {
                    return Err(format!(
                        "[[{kind}]] is not one of [[test]], [[e2e]], [[shape]]"
                    ));
                }
            };
            if !new {
                return Err(format!("twice in the file: {}", value("name")?));
            }
        }
        Ok(later)
    }

    /// The shapes as a pattern for `-test.skip`: at every depth, in the form in which Go prints names.
    pub fn skip(&self) -> String {
        let shapes: Vec<String> = self
            .shapes
            .iter()
            .map(|shape| shape.replace(' ', "_"))
            .collect();
        let shapes = format!("^({})$", shapes.join("|"));
        let depths: Vec<String> = (1..=SHAPE_DEPTH_MAX)
            .map(|depth| "/".repeat(depth) + &shapes)
            .collect();
        depths.join("|")
    }
}

#[test]
fn it_only_gets_shorter() {
    let later = Later::read();
    let entries = later.tests.len() + later.e2e.len() + later.shapes.len();
    assert!(
        entries <= LATER_MAX,
        "{entries} entries, at most {LATER_MAX}"
    );
}

#[test]
fn shapes_are_left_out_at_every_depth() {
    let later = Later::parse("# why\n\n[[shape]]\nname = \"A and B\"\nreason = \"TLS\"\n")
        .expect("a good file");
    assert!(
        later.skip().starts_with("/^(A_and_B)$|//^(A_and_B)$|"),
        "{}",
        later.skip()
    );
}

#[test]
fn later_needs_a_reason() {
    assert!(Later::parse("\n[[test]]\nname = \"TestA\"\n").is_err());
    assert!(Later::parse("\n[[test]]\nname = \"TestA\"\nreason = \"\"\n").is_err());
    assert!(Later::parse("\n[[tset]]\nname = \"TestA\"\nreason = \"x\"\n").is_err());
    let good = "\n[[test]]\nname = \"TestA\"\nreason = \"x\"\n";
    assert!(Later::parse(good).is_ok());
    assert!(Later::parse(&format!("{good}{good}")).is_err());
}
