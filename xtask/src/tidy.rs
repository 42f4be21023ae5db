//! `tidy`: what the compiler does not check.
//!
//! Each check is a function that returns its complaints; all of them are printed, and one is enough to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::deny::Deny;
use crate::edges::{self, ROOMS};
use crate::{Result, deny, place, steps};

/// Files in the repository: fixtures are small, and what is large is made by a command.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Crates that a pure room may not reach, however indirectly: runtimes, sockets, and what brings them.
const IMPURE_CRATES: &[&str] = &[
    "async-std",
    "h2",
    "hyper",
    "hyper-util",
    "mio",
    "smol",
    "socket2",
    "tokio",
    "tonic",
];

/// Words that do not stand in the code of a pure room: files, sockets, clocks, threads.
const IMPURE_WORDS: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "Instant::now",
    "SystemTime",
    "thread::spawn",
];

/// The platform whose dependencies are judged: Linux only, for now.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// `cargo xtask tidy`
pub(crate) fn command() -> Result<()> {
    let graph = Graph::read()?;
    let deny = deny::read()?;
    let mut complaints = Vec::new();
    complaints.extend(drawn_edges(&graph));
    complaints.extend(architecture()?);
    complaints.extend(pure_rooms(&graph)?);
    complaints.extend(manifests(&graph));
    complaints.extend(origins(&graph, &deny));
    complaints.extend(versions(&graph, &deny));
    complaints.extend(examples()?);
    complaints.extend(named_tests()?);
    complaints.extend(files()?);
    if complaints.is_empty() {
        println!(
            "tidy: {} rooms, {} crates in all, nothing to complain about",
            ROOMS.len(),
            graph.packages.len()
        );
        return Ok(());
    }
    for complaint in &complaints {
        println!("tidy: {complaint}");
    }
    Err(format!("tidy has {} complaints", complaints.len()))
}

/// What `cargo metadata` says, as far as it matters here.
struct Graph {
    packages: Vec<Package>,
    /// Room → rooms of the workspace that it uses outside of tests.
    edges: BTreeMap<String, BTreeSet<String>>,
}

struct Package {
    name: String,
    version: String,
    license: String,
    /// Where it comes from; nothing for our own.
    source: Option<String>,
    may_be_published: bool,
    folder: String,
}

impl Graph {
    fn read() -> Result<Graph> {
        let text = steps::output(&mut steps::cargo(&[
            "metadata",
            "--format-version=1",
            "--filter-platform",
            PLATFORM,
        ]))?;
        let root = serde_json::from_str(&text)
            .map_err(|error| format!("cannot read cargo metadata: {error}"))?;
        Ok(Graph::from_json(&root))
    }

    fn from_json(root: &Value) -> Graph {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let ours: BTreeSet<String> = list(&root["workspace_members"]).iter().map(text).collect();
        let mut names = BTreeMap::new();
        let mut packages = Vec::new();
        for package in list(&root["packages"]) {
            names.insert(text(&package["id"]), text(&package["name"]));
            packages.push(Package {
                name: text(&package["name"]),
                version: text(&package["version"]),
                license: text(&package["license"]),
                source: package["source"].as_str().map(str::to_owned),
                may_be_published: package["publish"] != serde_json::json!([]),
                folder: text(&package["manifest_path"])
                    .trim_end_matches("/Cargo.toml")
                    .to_owned(),
            });
        }
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in list(&root["resolve"]["nodes"])
            .iter()
            .filter(|node| ours.contains(&text(&node["id"])))
        {
            let used = edges.entry(names[&text(&node["id"])].clone()).or_default();
            for dependency in list(&node["deps"]) {
                let for_tests_only = list(&dependency["dep_kinds"])
                    .iter()
                    .all(|kind| kind["kind"] == "dev");
                if ours.contains(&text(&dependency["pkg"])) && !for_tests_only {
                    used.insert(names[&text(&dependency["pkg"])].clone());
                }
            }
        }
        Graph { packages, edges }
    }
}

/// The real edges between rooms are the drawn ones: none more, none fewer.
fn drawn_edges(graph: &Graph) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, used) in &graph.edges {
        let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
            complaints.push(format!(
                "the room {name} is not drawn in xtask/src/edges.rs"
            ));
            continue;
        };
        let drawn: BTreeSet<String> = room.uses.iter().map(|&other| other.to_owned()).collect();
        for other in used.difference(&drawn) {
            complaints.push(format!(
                "{name} uses {other}, an edge that is not drawn in xtask/src/edges.rs"
            ));
        }
        for other in drawn.difference(used) {
            complaints.push(format!("{name} is drawn as using {other} and does not; remove the edge from xtask/src/edges.rs"));
        }
    }
    for room in ROOMS
        .iter()
        .filter(|room| !graph.edges.contains_key(room.name))
    {
        complaints.push(format!(
            "the room {} is drawn in xtask/src/edges.rs and does not exist",
            room.name
        ));
    }
    complaints
}

fn architecture() -> Result<Vec<String>> {
    let text = edges::architecture()?;
    let mut complaints = Vec::new();
    match edges::in_architecture(&text) {
        Ok(shown) if shown == edges::rendered() => {}
        Ok(_) => complaints.push("ARCHITECTURE.md shows other edges than xtask/src/edges.rs; `cargo xtask bless edges` writes them".into()),
        Err(complaint) => complaints.push(complaint),
    }
    let unnamed = ROOMS
        .iter()
        .filter(|room| !text.contains(&format!("`{}`", room.name)));
    complaints.extend(
        unnamed.map(|room| format!("ARCHITECTURE.md does not name the room `{}`", room.name)),
    );
    Ok(complaints)
}

/// A pure room reaches no runtime and no socket, and its own code names no file and no clock.
fn pure_rooms(graph: &Graph) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for room in ROOMS
        .iter()
        .filter(|room| room.pure && graph.edges.contains_key(room.name))
    {
        // `cargo tree -p` takes the features that this room asks for, where the metadata joins those of all.
        let words = [
            "tree", "-p", room.name, "-e", "normal", "--prefix", "none", "--format", "{p}",
            "--target", PLATFORM,
        ];
        let tree = steps::output(&mut steps::cargo(&words))?;
        let reached: BTreeSet<&str> = tree
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        for impure in IMPURE_CRATES.iter().filter(|name| reached.contains(**name)) {
            complaints.push(format!(
                "the pure room {} reaches {impure}; see cargo tree -p {0} -i {impure} -e normal",
                room.name
            ));
        }
    }
    for package in graph
        .packages
        .iter()
        .filter(|package| package.source.is_none())
    {
        if ROOMS
            .iter()
            .any(|room| room.pure && room.name == package.name)
        {
            complaints.extend(impure_words(&package.folder)?);
        }
    }
    Ok(complaints)
}

fn impure_words(folder: &str) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for file in tracked(&[
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        &format!("{folder}/src/*.rs"),
    ])? {
        let path = place::workspace().join(&file);
        // Listed and already removed from the work tree.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        for (line, word) in impure_lines(&text) {
            complaints.push(format!(
                "{file}:{line}: {word} in a pure room; let it come in as an argument"
            ));
        }
    }
    Ok(complaints)
}

/// The numbers of lines with such a word, up to the tests at the end of the file; comments do not count.
fn impure_lines(text: &str) -> Vec<(usize, &'static str)> {
    let code = text
        .lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"));
    code.enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .flat_map(|(at, line)| {
            IMPURE_WORDS
                .iter()
                .filter(|word| line.contains(**word))
                .map(move |word| (at + 1, *word))
        })
        .collect()
}

fn manifests(graph: &Graph) -> Vec<String> {
    let ours = graph
        .packages
        .iter()
        .filter(|package| package.source.is_none());
    let published = ours.filter(|package| package.may_be_published);
    published
        .map(|package| {
            format!(
                "{}: its manifest lacks publish = false (publish.workspace = true)",
                package.name
            )
        })
        .collect()
}

/// Every dependency comes from crates.io, under a licence of the list.
fn origins(graph: &Graph, deny: &Deny) -> Vec<String> {
    let mut complaints = Vec::new();
    for package in &graph.packages {
        let name = format!("{} {}", package.name, package.version);
        match package.source.as_deref() {
            None | Some("registry+https://github.com/rust-lang/crates.io-index") => {}
            Some(other) => {
                complaints.push(format!("{name} comes from {other}, expected crates.io"))
            }
        }
        if !licensed(&package.license, &deny.licenses) {
            complaints.push(format!(
                "{name} is under {:?}, which the licences in deny.toml do not allow",
                package.license
            ));
        }
    }
    complaints
}

/// Is there a way to satisfy an SPDX expression with allowed licences? `/` is the old way to write OR.
fn licensed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ")
        .replace(" WITH ", "-WITH-");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let verdict = any_of(&words, &mut at, allowed);
    verdict && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut verdict = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        verdict |= all_of(words, at, allowed);
    }
    verdict
}

fn all_of(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut verdict = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        verdict &= one(words, at, allowed);
    }
    verdict
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let word = words.get(*at);
    // Also past the end, so that an expression that stops too early is never read to its end.
    *at += 1;
    let Some(word) = word else { return false };
    if *word != "(" {
        return allowed.iter().any(|licence| licence == word);
    }
    let verdict = any_of(words, at, allowed);
    let closed = words.get(*at) == Some(&")");
    *at += 1;
    verdict && closed
}

/// One version of each crate; an older one beside it has its reason in deny.toml.
fn versions(graph: &Graph, deny: &Deny) -> Vec<String> {
    let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in &graph.packages {
        by_name
            .entry(&package.name)
            .or_default()
            .push(&package.version);
    }
    let mut complaints = Vec::new();
    for (name, versions) in by_name.iter().filter(|(_, versions)| versions.len() > 1) {
        let unexcused: Vec<&str> = versions
            .iter()
            .filter(|version| {
                !deny
                    .second_versions
                    .iter()
                    .any(|excuse| excuse.covers(name, version))
            })
            .copied()
            .collect();
        if unexcused.len() > 1 {
            complaints.push(format!(
                "{name} is there in the versions {}; excuse the older in deny.toml, or lose it",
                unexcused.join(" and ")
            ));
        }
    }
    for excuse in &deny.second_versions {
        let versions = by_name
            .get(excuse.name.as_str())
            .map_or(&[][..], Vec::as_slice);
        if versions.len() < 2
            || !versions
                .iter()
                .any(|version| excuse.covers(&excuse.name, version))
        {
            complaints.push(format!(
                "deny.toml excuses {excuse}, which is no second version any more; remove the line"
            ));
        }
    }
    complaints
}

/// Code in a doc comment would be a test of its own that `make test` does not run: drawings say `text`.
fn examples() -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for file in tracked(&["ls-files", "-z", "--", "*.rs"])? {
        let Ok(text) = fs::read_to_string(place::workspace().join(&file)) else {
            continue;
        };
        for line in runnable_fences(&text) {
            complaints.push(format!(
                "{file}:{line}: code in a doc comment that no lane runs; mark it as text, or make it a unit test"
            ));
        }
    }
    Ok(complaints)
}

/// The numbers of lines that open a block of code in a doc comment which rustdoc would compile.
fn runnable_fences(text: &str) -> Vec<usize> {
    let mut open = false;
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let comment = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"));
        let Some(language) = comment.and_then(|comment| comment.trim().strip_prefix("```")) else {
            continue;
        };
        if !open
            && (language.is_empty()
                || language.starts_with("rust")
                || language.starts_with("should_panic"))
        {
            found.push(at + 1);
        }
        open = !open;
    }
    found
}

fn files() -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for file in tracked(&["ls-files", "-z"])? {
        let Ok(facts) = fs::symlink_metadata(place::workspace().join(&file)) else {
            continue;
        };
        if facts.is_file() && facts.len() > FILE_BYTES_MAX {
            complaints.push(format!(
                "{file} has {} bytes, and a file in the repository may have {FILE_BYTES_MAX}",
                facts.len()
            ));
        }
    }
    Ok(complaints)
}

/// Documents whose tables end with the tests that show what the line says.
const TABLES_OF_TESTS: &[&str] = &["docs/promises.md", "docs/acceptance.md"];

/// Every line of such a table names a test, and every test that it names is there.
fn named_tests() -> Result<Vec<String>> {
    let mut tests = BTreeSet::new();
    let all = [
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        "*.rs",
    ];
    for file in tracked(&all)? {
        if let Ok(text) = fs::read_to_string(place::workspace().join(&file)) {
            tests.extend(tests_in(&text));
        }
    }
    let mut complaints = Vec::new();
    for document in TABLES_OF_TESTS {
        let path = place::workspace().join(document);
        let text = fs::read_to_string(&path).map_err(|error| format!("{document}: {error}"))?;
        for (line, names) in tests_named_in(&text) {
            if names.is_empty() {
                complaints.push(format!("{document}:{line}: no test is named"));
            }
            let missing = names.into_iter().filter(|name| !tests.contains(name));
            complaints
                .extend(missing.map(|name| format!("{document}:{line}: there is no test {name}")));
        }
    }
    Ok(complaints)
}

/// The names of functions with an attribute that makes them tests.
fn tests_in(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[") {
            is_test |= line.contains("test]") || line.contains("test(");
            continue;
        }
        let function = ["fn ", "async fn "]
            .iter()
            .find_map(|word| line.strip_prefix(word));
        if let Some(rest) = function
            && is_test
        {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            found.push(name);
        }
        is_test &= line.starts_with("//");
    }
    found
}

/// Rows of tables by their number: the words of their last cell that look like names of tests.
fn tests_named_in(text: &str) -> Vec<(usize, Vec<String>)> {
    let rows = text.lines().enumerate().filter_map(|(at, line)| {
        let cells = line.strip_prefix('|')?.strip_suffix('|')?;
        let last = cells.rsplit(" | ").next()?;
        Some((at + 1, cells, last))
    });
    rows.filter(|(_, cells, last)| !cells.starts_with("--") && !last.trim().starts_with("test"))
        .map(|(line, _, last)| {
            let quoted = last.split('`').skip(1).step_by(2);
            let is_name = |word: &&str| {
                let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                word.contains('_') && word.chars().all(plain)
            };
            (line, quoted.filter(is_name).map(str::to_owned).collect())
        })
        .collect()
}

fn tracked(words: &[&str]) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(place::workspace()).args(words);
    let text = steps::output(&mut git)?;
    Ok(text
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions() {
        let allowed = [
            "MIT",
            "Apache-2.0",
            "Unicode-3.0",
            "Apache-2.0-WITH-LLVM-exception",
        ]
        .map(str::to_owned);
        let fine = [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ];
        for expression in fine {
            assert!(licensed(expression, &allowed), "{expression}");
        }
        for expression in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT",
            "MIT OR",
            "MIT Apache-2.0",
        ] {
            assert!(!licensed(expression, &allowed), "{expression}");
        }
    }

    #[test]
    fn drawings_may_stand_in_comments_and_examples_may_not() {
        let text = "//! ```text\n//! a → b\n//! ```\n/// ```\n/// run();\n/// ```\nfn run() {}\n";
        assert_eq!(runnable_fences(text), [4]);
    }

    #[test]
    fn words_of_files_and_clocks_are_found_in_code_only() {
        let text = "use std::fs;\n// std::net in a comment\nlet now = Instant::now();\n#[cfg(test)]\nmod tests { use std::fs; }\n";
        assert_eq!(impure_lines(text), [(1, "std::fs"), (3, "Instant::now")]);
    }

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let edges = edges.iter().map(|(name, uses)| {
            (
                (*name).to_owned(),
                uses.iter().map(|&other| other.to_owned()).collect(),
            )
        });
        Graph {
            packages: Vec::new(),
            edges: edges.collect(),
        }
    }

    #[test]
    fn an_edge_that_is_not_drawn_is_found_and_so_is_one_that_is_gone() {
        let mut edges: Vec<(&str, &[&str])> =
            ROOMS.iter().map(|room| (room.name, room.uses)).collect();
        assert_eq!(drawn_edges(&graph(&edges)), Vec::<String>::new());
        edges[0].1 = &["wal"];
        assert!(drawn_edges(&graph(&edges))[0].contains("api uses wal"));
        let wal = edges
            .iter()
            .position(|(name, _)| *name == "wal")
            .expect("wal is drawn");
        (edges[0].1, edges[wal].1) = (&[], &["seams"]);
        assert!(drawn_edges(&graph(&edges))[0].contains("wal is drawn as using raftpb"));
    }

    #[test]
    fn metadata_tells_edges_for_tests_from_the_others() {
        let node = |id: &str, deps: Value| serde_json::json!({"id": id, "deps": deps});
        let package = |name: &str| {
            serde_json::json!({"id": name, "name": name, "version": "0.1.0", "license": "Apache-2.0", "source": null,
                "publish": [], "manifest_path": format!("/a/{name}/Cargo.toml")})
        };
        let root = serde_json::json!({
            "workspace_members": ["wal", "seams", "testkit"],
            "packages": [package("wal"), package("seams"), package("testkit")],
            "resolve": {"nodes": [
                node("wal", serde_json::json!([
                    {"pkg": "seams", "dep_kinds": [{"kind": null}, {"kind": "dev"}]},
                    {"pkg": "testkit", "dep_kinds": [{"kind": "dev"}]},
                ])),
                node("seams", serde_json::json!([])),
                node("testkit", serde_json::json!([])),
            ]},
        });
        let graph = Graph::from_json(&root);
        assert_eq!(graph.edges["wal"], BTreeSet::from(["seams".to_owned()]));
        assert!(manifests(&graph).is_empty());
    }

    #[test]
    fn tables_name_tests_and_tests_are_found() {
        let code = "#[test]\nfn one() {\n    fn inner() {}\n}\n#[tokio::test(flavor = \"multi_thread\")]\n#[cfg(unix)]\nasync fn two() {}\nfn three() {}\n";
        assert_eq!(tests_in(code), ["one", "two"]);
        let table = "| | what | tests |\n|---|---|---|\n| 1 | `not_here` | `one_test`, `two_tests` (`boot.rs`, `QUORATE_X=1`) |\n| 2 | x | none |\ntext `of_none`\n";
        assert_eq!(
            tests_named_in(table),
            [
                (3, vec!["one_test".to_owned(), "two_tests".to_owned()]),
                (4, vec![])
            ]
        );
    }

    #[test]
    fn a_second_version_needs_an_excuse_and_an_excuse_a_second_version() {
        let package = |version: &str| Package {
            name: "syn".into(),
            version: version.into(),
            license: "MIT".into(),
            source: Some("registry+https://github.com/rust-lang/crates.io-index".into()),
            may_be_published: true,
            folder: String::new(),
        };
        let two = Graph {
            packages: vec![package("2.0.1"), package("3.0.0")],
            edges: BTreeMap::new(),
        };
        let one = Graph {
            packages: vec![package("3.0.0")],
            edges: BTreeMap::new(),
        };
        let none = Deny {
            licenses: vec!["MIT".into()],
            second_versions: vec![],
        };
        let excused =
            deny::parse("skip = [\n{ crate = \"syn@2\", reason = \"x\" },\n]\n").expect("sound");
        assert_eq!(versions(&two, &none).len(), 1);
        assert_eq!(versions(&two, &excused), Vec::<String>::new());
        assert_eq!(versions(&one, &excused).len(), 1);
        assert_eq!(origins(&two, &none), Vec::<String>::new());
    }
}
