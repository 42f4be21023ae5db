//! The drawn dependency edges: who may use whom, from the bottom to the top.
//!
//! A room may use only rooms above it in this list, so there can be no circle. `cargo xtask tidy` compares the
//! list with what cargo says and with the copy in ARCHITECTURE.md, which `cargo xtask bless` writes.
//! A new edge is rare and wants a page in `docs/decisions/`.

use std::fs;

use crate::{Result, place};

pub(crate) struct Room {
    pub(crate) name: &'static str,
    /// Rooms of this workspace that it uses outside of its tests: exactly these.
    pub(crate) uses: &'static [&'static str],
    /// A function of its inputs: no runtime, no socket, no file, no clock, however indirect.
    pub(crate) pure: bool,
}

const fn room(name: &'static str, uses: &'static [&'static str]) -> Room {
    Room {
        name,
        uses,
        pure: false,
    }
}

const fn pure(name: &'static str, uses: &'static [&'static str]) -> Room {
    Room {
        name,
        uses,
        pure: true,
    }
}

pub(crate) const ROOMS: &[Room] = &[
    // words
    room("api", &[]),
    room("raftpb", &[]),
    pure("quorum", &[]),
    room("seams", &[]),
    // bytes on disk
    room("wal", &["raftpb", "seams"]),
    room("snap", &["raftpb", "seams"]),
    room("backend", &["seams"]),
    // state
    pure("mvcc", &["api", "backend"]),
    pure("lease", &["api", "backend"]),
    pure("membership", &["backend", "raftpb"]),
    pure(
        "apply",
        &["api", "backend", "lease", "membership", "mvcc", "raftpb"],
    ),
    // consensus and peers
    pure("raftnode", &["raftpb", "seams"]),
    room("rafthttp", &["raftpb"]),
    // the member, its door, the program
    room(
        "server",
        &[
            "api",
            "apply",
            "backend",
            "lease",
            "membership",
            "mvcc",
            "quorum",
            "rafthttp",
            "raftnode",
            "raftpb",
            "seams",
            "snap",
            "wal",
        ],
    ),
    room("rpc", &["api", "apply", "membership", "mvcc", "server"]),
    room("local", &["api"]),
    room("bench", &["api", "local"]),
    room(
        "util",
        &[
            "api",
            "backend",
            "membership",
            "raftpb",
            "seams",
            "snap",
            "wal",
        ],
    ),
    room("explain", &["api", "local", "quorum", "seams", "util"]),
    room(
        "quorate",
        &[
            "bench", "explain", "local", "rpc", "seams", "server", "util",
        ],
    ),
    // the operator
    pure("crd", &[]),
    pure("planner", &["quorum"]),
    pure("manifests", &["crd"]),
    room(
        "quorate-operator",
        &["api", "crd", "manifests", "planner", "quorum"],
    ),
    room(
        "kubectl-quorate",
        &["api", "crd", "explain", "local", "manifests"],
    ),
    // for tests only
    room("testkit", &["membership"]),
    room(
        "sim",
        &[
            "api",
            "apply",
            "backend",
            "membership",
            "mvcc",
            "raftnode",
            "raftpb",
            "seams",
            "server",
            "wal",
        ],
    ),
    room("e2e", &[]),
    room("robustness", &[]),
    room("conformance", &[]),
    room("kubetest", &[]),
    room("kubecluster", &["api"]),
    // chores
    room("xtask", &[]),
];

const BEGIN: &str = "<!-- edges: written by `cargo xtask bless` from xtask/src/edges.rs, compared by `cargo xtask tidy` -->";
const END: &str = "<!-- end of edges -->";

/// The list as ARCHITECTURE.md shows it.
pub(crate) fn rendered() -> String {
    let mut text = format!("{BEGIN}\n```text\n");
    for room in ROOMS {
        let uses = if room.uses.is_empty() {
            "nothing of ours".to_owned()
        } else {
            room.uses.join(" ")
        };
        let mark = if room.pure { "*" } else { "" };
        let name = format!("{}{mark}", room.name);
        text.push_str(&format!("{name:<12} uses {uses}\n"));
    }
    text.push_str(&format!("```\n{END}"));
    text
}

/// The part of ARCHITECTURE.md between the marks, marks included.
pub(crate) fn in_architecture(text: &str) -> Result<&str> {
    let begin = text
        .find(BEGIN)
        .ok_or("ARCHITECTURE.md: the mark in front of the edges is missing")?;
    let end = text[begin..]
        .find(END)
        .ok_or("ARCHITECTURE.md: the mark behind the edges is missing")?;
    Ok(&text[begin..begin + end + END.len()])
}

pub(crate) fn architecture() -> Result<String> {
    let file = place::workspace().join("ARCHITECTURE.md");
    fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

pub(crate) fn write_to_architecture() -> Result<()> {
    let text = architecture()?;
    let old = in_architecture(&text)?;
    let new = rendered();
    if old == new {
        return Ok(());
    }
    let file = place::workspace().join("ARCHITECTURE.md");
    fs::write(&file, text.replacen(old, &new, 1))
        .map_err(|error| format!("cannot write {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_uses_only_rooms_above_it() {
        for (at, room) in ROOMS.iter().enumerate() {
            for used in room.uses {
                assert!(
                    ROOMS[..at].iter().any(|other| other.name == *used),
                    "{} uses {used}, which is not above it",
                    room.name
                );
            }
            assert!(
                room.uses.is_sorted(),
                "{}: its list is not in the order of the alphabet",
                room.name
            );
        }
    }

    #[test]
    fn a_pure_room_is_never_above_the_door() {
        fn below<'a>(name: &'a str, seen: &mut Vec<&'a str>) {
            let room = ROOMS.iter().find(|room| room.name == name);
            for used in room.into_iter().flat_map(|room| room.uses) {
                seen.push(used);
                below(used, seen);
            }
        }
        for room in ROOMS.iter().filter(|room| room.pure) {
            let mut rooms = Vec::new();
            below(room.name, &mut rooms);
            assert!(!rooms.contains(&"server"), "{}", room.name);
        }
    }
}
