//! What a conf change carries: JSON of a member, byte for byte as etcd writes it.
//!
//! | change | type | context |
//! |---|---|---|
//! | add | 0 | the member |
//! | add learner | 3 | the member, `isLearner` true |
//! | promote | 0 | the id, `peerURLs` null, `isPromote` true |
//! | update | 2 | the id and the new `peerURLs` |
//! | remove | 1 | nothing |
//!
//! The fields stand in the order of etcd's Go structs: id, peerURLs, isLearner, name,
//! clientURLs, isPromote. Empty `isLearner`, `name`, `clientURLs` are left out; `isPromote` is
//! written by promote only. An empty list of peer URLs is null, Go's empty slice.
//!
//! An etcd member panics when it applies a context that it cannot read, or whose id differs
//! from the change's node. So [`check_conf_change`] stands before every proposal, ours and
//! those that a follower forwards. It is stricter than Go's reader, which takes a key in any
//! case and the last of two: what we accept must mean the same to both.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::{ConfChange, ConfChangeType, Entry, EntryType, Error, MemberId};

/// A member as etcd writes it in the log, in the `members` bucket and on `/members`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The id; 0 only in a value that is not filled yet.
    pub id: MemberId,
    /// URLs for peers. Written as null when there is none, as in a promotion.
    #[serde(rename = "peerURLs", serialize_with = "null_if_empty")]
    pub peer_urls: Vec<String>,
    /// A learner gets the log but has no vote.
    #[serde(rename = "isLearner", skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Empty until the member has started and published it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// URLs for clients, published with the name.
    #[serde(rename = "clientURLs", skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

impl Member {
    /// The bytes that Go's `json.Marshal` gives for etcd's `membership.Member`.
    pub fn to_json(&self) -> String {
        go_json(self)
    }
}

/// The context of a conf change that adds or promotes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConfContext {
    /// The member.
    #[serde(flatten)]
    pub member: Member,
    /// Promote and add share type 0; this tells them apart.
    #[serde(rename = "isPromote")]
    pub is_promote: bool,
}

impl ConfContext {
    /// The bytes that Go's `json.Marshal` gives for etcd's `membership.ConfigChangeContext`.
    pub fn to_json(&self) -> String {
        go_json(self)
    }

    /// Reads the context of an add, a promotion or an update.
    ///
    /// # Errors
    ///
    /// What is wrong, in words; the caller adds whose it was.
    pub fn from_json(json: &[u8]) -> Result<ConfContext, String> {
        let read: ReadContext = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        for key in read.other.keys() {
            let folded = fold(key);
            if let Some(known) = KEYS.iter().find(|known| fold(known) == folded) {
                return Err(format!("key {key:?}, expected {known:?}"));
            }
        }
        Ok(ConfContext {
            member: Member {
                id: read.id,
                peer_urls: read.peer_urls.unwrap_or_default(),
                is_learner: read.is_learner,
                name: read.name,
                client_urls: read.client_urls.unwrap_or_default(),
            },
            is_promote: read.is_promote,
        })
    }
}

/// A conf change, read and checked: what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new voter.
    Add(Member),
    /// A new learner.
    AddLearner(Member),
    /// A learner becomes a voter.
    Promote(MemberId),
    /// New peer URLs for a member.
    Update {
        /// Which member.
        id: MemberId,
        /// All its peer URLs from now on.
        peer_urls: Vec<String>,
    },
    /// The member leaves, for ever.
    Remove(MemberId),
}

impl Change {
    /// The member that the change is about.
    pub fn id(&self) -> MemberId {
        match self {
            Change::Add(member) | Change::AddLearner(member) => member.id,
            Change::Promote(id) | Change::Remove(id) | Change::Update { id, .. } => *id,
        }
    }

    /// The conf change that etcd would propose. `request_id` is what the proposer waits on.
    pub fn to_conf_change(&self, request_id: u64) -> ConfChange {
        let (change_type, context) = match self {
            Change::Add(member) => (ConfChangeType::ConfChangeAddNode, member.to_json()),
            Change::AddLearner(member) => {
                let member = Member {
                    is_learner: true,
                    ..member.clone()
                };
                (ConfChangeType::ConfChangeAddLearnerNode, member.to_json())
            }
            Change::Promote(id) => {
                let context = ConfContext {
                    member: Member {
                        id: *id,
                        ..Member::default()
                    },
                    is_promote: true,
                };
                (ConfChangeType::ConfChangeAddNode, context.to_json())
            }
            Change::Update { id, peer_urls } => {
                let member = Member {
                    id: *id,
                    peer_urls: peer_urls.clone(),
                    ..Member::default()
                };
                (ConfChangeType::ConfChangeUpdateNode, member.to_json())
            }
            Change::Remove(_) => (ConfChangeType::ConfChangeRemoveNode, String::new()),
        };
        ConfChange {
            id: request_id,
            change_type: change_type.into(),
            node_id: self.id().0,
            context: Bytes::from(context),
        }
    }

    /// The entry to propose; raft gives it term and index.
    pub fn to_entry(&self, request_id: u64) -> Entry {
        Entry {
            entry_type: EntryType::EntryConfChange.into(),
            data: self.to_conf_change(request_id).encode_to_vec().into(),
            ..Entry::default()
        }
    }

    /// Reads a conf change: its type, its node, its context.
    ///
    /// # Errors
    ///
    /// Type not 0 to 3; node 0; a context that is not etcd's JSON, that belongs to another
    /// member, or that stands where none belongs; peer URLs missing where they are needed.
    pub fn from_conf_change(change: &ConfChange) -> Result<Change, Error> {
        let change_type = ConfChangeType::try_from(change.change_type)
            .map_err(|_| Error::ConfChangeType(change.change_type))?;
        if change.node_id == 0 {
            return Err(Error::NoNode { id: change.id });
        }
        let wrong = |reason: String| Error::Context {
            node_id: change.node_id,
            length: change.context.len(),
            reason,
        };
        if change_type == ConfChangeType::ConfChangeRemoveNode {
            return if change.context.is_empty() {
                Ok(Change::Remove(MemberId(change.node_id)))
            } else {
                Err(wrong("a removal has none".to_owned()))
            };
        }
        let ConfContext { member, is_promote } =
            ConfContext::from_json(&change.context).map_err(wrong)?;
        if member.id.0 != change.node_id {
            return Err(Error::IdsDiffer {
                node_id: change.node_id,
                context_id: member.id.0,
            });
        }
        if is_promote && change_type == ConfChangeType::ConfChangeAddNode {
            return Ok(Change::Promote(member.id));
        }
        if is_promote {
            return Err(wrong(
                "isPromote in a change that does not promote".to_owned(),
            ));
        }
        if member.peer_urls.is_empty() {
            return Err(wrong("no peerURLs".to_owned()));
        }
        // Raft would count a voter where the member list shows a learner, or the reverse.
        let adds_learner = change_type == ConfChangeType::ConfChangeAddLearnerNode;
        let adds = adds_learner || change_type == ConfChangeType::ConfChangeAddNode;
        if adds && member.is_learner != adds_learner {
            return Err(wrong(format!(
                "isLearner is {}, but the type is {}",
                member.is_learner, change.change_type
            )));
        }
        Ok(match change_type {
            ConfChangeType::ConfChangeAddNode => Change::Add(member),
            ConfChangeType::ConfChangeAddLearnerNode => Change::AddLearner(member),
            ConfChangeType::ConfChangeUpdateNode => Change::Update {
                id: member.id,
                peer_urls: member.peer_urls,
            },
            ConfChangeType::ConfChangeRemoveNode => Change::Remove(member.id),
        })
    }
}

/// Decodes the conf change of an entry from the log, without judging its context.
///
/// # Errors
///
/// The entry is no conf change of etcd's, or its data is no `ConfChange`.
pub fn decode_conf_change(entry: &Entry) -> Result<ConfChange, Error> {
    match EntryType::try_from(entry.entry_type) {
        Ok(EntryType::EntryConfChange) => {}
        Ok(EntryType::EntryConfChangeV2) => {
            return Err(Error::ConfChangeV2 { index: entry.index });
        }
        _ => {
            return Err(Error::EntryType {
                index: entry.index,
                entry_type: entry.entry_type,
            });
        }
    }
    let change =
        ConfChange::decode(entry.data.clone()).map_err(|error| Error::ConfChangeBytes {
            index: entry.index,
            length: entry.data.len(),
            reason: error.to_string(),
        })?;
    match ConfChangeType::try_from(change.change_type) {
        Ok(_) => Ok(change),
        Err(_) => Err(Error::ConfChangeType(change.change_type)),
    }
}

/// Checks an entry that is to be proposed, ours or a follower's: a conf change must be one that
/// every etcd member can apply. A normal entry passes and gives `None`.
///
/// # Errors
///
/// See [`Change::from_conf_change`]; also a conf change of version 2 and an unknown entry type.
pub fn check_conf_change(entry: &Entry) -> Result<Option<(ConfChange, Change)>, Error> {
    if entry.entry_type == i32::from(EntryType::EntryNormal) {
        return Ok(None);
    }
    let conf_change = decode_conf_change(entry)?;
    let change = Change::from_conf_change(&conf_change)?;
    Ok(Some((conf_change, change)))
}

/// What the reader looks for; Go matches these keys in any case.
const KEYS: [&str; 6] = [
    "id",
    "peerURLs",
    "isLearner",
    "name",
    "clientURLs",
    "isPromote",
];

#[derive(Deserialize)]
struct ReadContext {
    id: MemberId,
    #[serde(default, rename = "peerURLs")]
    peer_urls: Option<Vec<String>>,
    #[serde(default, rename = "isLearner")]
    is_learner: bool,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "clientURLs")]
    client_urls: Option<Vec<String>>,
    #[serde(default, rename = "isPromote")]
    is_promote: bool,
    /// A later etcd may add a key; it is passed over, as Go does.
    #[serde(flatten)]
    other: BTreeMap<String, IgnoredAny>,
}

/// Two keys that Go's reader takes for one fold to the same text: case, and the two letters
/// outside ASCII that fold into it (the Kelvin sign and the long s).
fn fold(key: &str) -> String {
    key.to_lowercase().to_uppercase()
}

/// JSON as Go's encoder writes it. serde_json differs in one thing: Go escapes `<`, `>`, `&`
/// and the two line separators. None of them can stand outside of a string.
pub fn go_json<T: Serialize>(value: &T) -> String {
    let json = serde_json::to_string(value).expect("plain structs with text keys always encode");
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json;
    }
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

fn null_if_empty<S: serde::Serializer>(
    list: &Vec<String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if list.is_empty() {
        serializer.serialize_none()
    } else {
        list.serialize(serializer)
    }
}
