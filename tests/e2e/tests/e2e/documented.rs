//! Tables in `docs/`, whose rows tests must produce.

use std::path::Path;

/// A row of a table: its cells, without the marks of code.
pub type Row = Vec<String>;

/// The rows of the first table below a heading of a document in `docs/`.
pub fn table(document: &str, heading: &str) -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(document);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let below = text.split(&format!("\n{heading}\n")).nth(1);
    let below = below.unwrap_or_else(|| panic!("{document} has no heading {heading:?}"));
    let rows = below.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|line| {
        let cells = line.trim_matches('|').split(" | ");
        cells.map(|cell| plain(cell.trim()).to_owned()).collect()
    })
    .collect()
}

/// A cell that is code as a whole, without its marks.
fn plain(cell: &str) -> &str {
    let between = |mark| cell.strip_prefix(mark)?.strip_suffix(mark);
    match (between("``"), between("`")) {
        (Some(code), _) => code.trim(),
        (None, Some(code)) if !code.contains('`') => code,
        _ => cell,
    }
}

/// Whether a text is one that the document describes: `…` stands for anything.
pub fn is(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn dots_stand_for_anything() {
    for (text, pattern, expected) in [
        ("abc", "abc", true),
        ("abc", "ab", false),
        ("abcd", "a…d", true),
        ("abcd", "a…", true),
        ("abcd", "…c…", true),
        ("abcd", "a…c", false),
        ("ab", "…b…b", false),
    ] {
        assert_eq!(is(text, pattern), expected, "{text} {pattern}");
    }
}
