//! The document inside a `.snap` file.
//!
//! Until 3.6 etcd loads its members from there; 3.7 only writes it. It is the JSON of a
//! "v2 store": a tree of nodes, a ring of the last 1000 events, and counters, as they are
//! after the members, the removed IDs and the cluster version were written into an empty
//! store one by one. Members are written by ascending ID here (etcd: in the random order of
//! a Go map, so the indices differ between its own members too).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use raftpb::conf::go_json;

use crate::{Membership, json};

/// Events the ring holds. The document names every slot, used or not.
const EVENTS_MAX: usize = 1000;

/// The document for this membership.
#[must_use]
pub fn encode(membership: &Membership) -> String {
    let mut store = Store::default();
    for member in membership.members() {
        let path = format!("/0/members/{}", member.id);
        store.create(
            &format!("{path}/raftAttributes"),
            json::encode_raft_attributes(member),
        );
        if !member.client_urls.is_empty() {
            store.set(
                &format!("{path}/attributes"),
                json::encode_attributes(member),
            );
        }
    }
    for id in membership.removed() {
        store.create(&format!("/0/removed_members/{id}"), String::new());
    }
    if let Some(version) = membership.version() {
        store.set("/0/version", version.to_string());
    }
    store.encode()
}

/// A v2 store that only ever grows.
struct Store {
    root: Node,
    events: Vec<Event>,
    sets: u64,
    creates: u64,
}

struct Node {
    /// When it was made; nothing here is written twice, so this is also its last change.
    index: u64,
    kind: Kind,
}

enum Kind {
    File(String),
    Directory(BTreeMap<String, Node>),
}

struct Event {
    action: &'static str,
    path: String,
    value: String,
    index: u64,
}

impl Default for Store {
    fn default() -> Store {
        let directory = || Node {
            index: 0,
            kind: Kind::Directory(BTreeMap::new()),
        };
        let spaces = BTreeMap::from([("0".to_owned(), directory()), ("1".to_owned(), directory())]);
        Store {
            root: Node {
                index: 0,
                kind: Kind::Directory(spaces),
            },
            events: Vec::new(),
            sets: 0,
            creates: 0,
        }
    }
}

impl Store {
    fn create(&mut self, path: &str, value: String) {
        self.creates += 1;
        self.insert("create", path, value);
    }

    fn set(&mut self, path: &str, value: String) {
        self.sets += 1;
        self.insert("set", path, value);
    }

    fn insert(&mut self, action: &'static str, path: &str, value: String) {
        let index = self.events.len() as u64 + 1;
        let mut names = path.split('/').skip(1).peekable();
        let mut node = &mut self.root;
        while let Some(name) = names.next() {
            let Kind::Directory(children) = &mut node.kind else {
                unreachable!("no path here leads through a file: {path}");
            };
            let is_file = names.peek().is_none();
            node = children.entry(name.to_owned()).or_insert_with(|| Node {
                index,
                kind: if is_file {
                    Kind::File(value.clone())
                } else {
                    Kind::Directory(BTreeMap::new())
                },
            });
        }
        self.events.push(Event {
            action,
            path: path.to_owned(),
            value,
            index,
        });
    }

    fn encode(&self) -> String {
        let mut out = String::with_capacity(8192);
        out.push_str("{\"Root\":");
        write_node(&mut out, "/", "/", &self.root);
        out.push_str(",\"WatcherHub\":{\"EventHistory\":{\"Queue\":{\"Events\":[");
        // A ring: event n lies in slot n modulo its size.
        let count = self.events.len();
        for slot in 0..EVENTS_MAX {
            if slot > 0 {
                out.push(',');
            }
            let newest = (count.saturating_sub(slot + 1) / EVENTS_MAX) * EVENTS_MAX + slot;
            match self.events.get(newest) {
                Some(event) => write_event(&mut out, event),
                None => out.push_str("null"),
            }
        }
        let size = count.min(EVENTS_MAX);
        let front = if count > EVENTS_MAX {
            count % EVENTS_MAX
        } else {
            0
        };
        let first = count - size;
        let _ = write!(
            out,
            "],\"Size\":{size},\"Front\":{front},\"Back\":{},\"Capacity\":{EVENTS_MAX}}},\"StartIndex\":{},\"LastIndex\":{count}}}}},\"CurrentIndex\":{count},",
            count % EVENTS_MAX,
            self.events.get(first).map_or(0, |event| event.index),
        );
        // etcd looks whether the store is empty before it fills it: one failed get.
        let _ = write!(
            out,
            "\"Stats\":{{\"getsSuccess\":0,\"getsFail\":1,\"setsSuccess\":{},\"setsFail\":0,\"deleteSuccess\":0,\"deleteFail\":0,\"updateSuccess\":0,\"updateFail\":0,\"createSuccess\":{},\"createFail\":0,\"compareAndSwapSuccess\":0,\"compareAndSwapFail\":0,\"compareAndDeleteSuccess\":0,\"compareAndDeleteFail\":0,\"expireCount\":0,\"watchers\":0}},\"CurrentVersion\":2}}",
            self.sets, self.creates
        );
        out
    }
}

fn write_node(out: &mut String, path: &str, prefix: &str, node: &Node) {
    out.push_str("{\"Path\":");
    write_string(out, path);
    let _ = write!(
        out,
        ",\"CreatedIndex\":{0},\"ModifiedIndex\":{0},\"ExpireTime\":\"0001-01-01T00:00:00Z\",\"Value\":",
        node.index
    );
    match &node.kind {
        Kind::File(value) => {
            write_string(out, value);
            out.push_str(",\"Children\":null}");
        }
        Kind::Directory(children) => {
            out.push_str("\"\",\"Children\":{");
            for (position, (name, child)) in children.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write_string(out, name);
                out.push(':');
                let path = format!("{prefix}{name}");
                write_node(out, &path, &format!("{path}/"), child);
            }
            out.push_str("}}");
        }
    }
}

fn write_event(out: &mut String, event: &Event) {
    let _ = write!(out, "{{\"action\":\"{}\",\"node\":{{\"key\":", event.action);
    write_string(out, &event.path);
    // A pointer to a string: written also when the string is empty.
    out.push_str(",\"value\":");
    write_string(out, &event.value);
    let _ = write!(
        out,
        ",\"modifiedIndex\":{0},\"createdIndex\":{0}}}}}",
        event.index
    );
}

fn write_string(out: &mut String, text: &str) {
    out.push_str(&go_json(&text));
}
