//! Events and responses, as watchers get them.

use std::sync::{Arc, OnceLock};

use api::etcdserverpb as pb;
use api::mvccpb::{self, KeyValue};

use crate::{Error, Mvcc};

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The new pair; for a deletion the key and the revision of the deletion.
    pub kv: KeyValue,
    /// Whether the key was deleted.
    pub tombstone: bool,
}

/// A change on its way to watchers, who share it.
#[derive(Debug)]
pub struct Event {
    /// The change.
    pub change: Change,
    /// The pair before it, once someone has asked.
    prior: OnceLock<Option<KeyValue>>,
}

impl Event {
    pub(crate) fn new(change: Change) -> Arc<Self> {
        Arc::new(Self {
            change,
            prior: OnceLock::new(),
        })
    }

    fn is_creation(&self) -> bool {
        !self.change.tombstone && self.change.kv.create_revision == self.change.kv.mod_revision
    }

    /// About the bytes that the event keeps in memory and puts on the wire.
    fn bytes(&self) -> usize {
        const FIELDS: usize = 64;
        self.change.kv.key.len() + self.change.kv.value.len() + FIELDS
    }
}

/// The events of a response, at least one. Most have exactly one, which needs no memory of
/// its own.
#[derive(Clone, Debug)]
pub enum Events {
    /// A single event.
    One([Arc<Event>; 1]),
    /// More.
    Many(Vec<Arc<Event>>),
}

impl std::ops::Deref for Events {
    type Target = [Arc<Event>];

    fn deref(&self) -> &[Arc<Event>] {
        match self {
            Events::One(event) => event,
            Events::Many(events) => events,
        }
    }
}

/// What a stream has for its client, in order.
#[derive(Clone, Debug)]
pub enum Response {
    /// A watcher exists from now on.
    Created {
        /// The watcher.
        watch_id: i64,
        /// The store's revision.
        revision: i64,
    },
    /// A watcher was not made.
    Refused {
        /// The store's revision.
        revision: i64,
        /// Etcd's words for it.
        reason: String,
    },
    /// A watcher was cancelled as the client asked.
    Canceled {
        /// The watcher.
        watch_id: i64,
        /// The store's revision.
        revision: i64,
    },
    /// A watcher cannot go on, as what it would need next is compacted.
    Compacted {
        /// The watcher.
        watch_id: i64,
        /// The revision of the compaction.
        compact_revision: i64,
    },
    /// All changes up to a revision have been sent.
    Progress {
        /// The watcher, or -1 for all of the stream.
        watch_id: i64,
        /// The revision.
        revision: i64,
    },
    /// Changes.
    Events {
        /// The watcher.
        watch_id: i64,
        /// The changes' revision for a watcher that is up to date, else the store's.
        revision: i64,
        /// The changes, in order; those of one revision are never divided.
        events: Events,
        /// Whether the client wants the pairs before the changes.
        prev_kv: bool,
        /// Whether the client takes a response in fragments.
        fragment: bool,
    },
}

/// The watch id of a response that belongs to no watcher, or to all.
pub const NO_WATCH_ID: i64 = -1;

impl Response {
    /// About the bytes that the response keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Response::Events { events, .. } => events.iter().map(|event| event.bytes()).sum(),
            _ => 0,
        }
    }

    /// Changes in it.
    pub(super) fn event_count(&self) -> usize {
        match self {
            Response::Events { events, .. } => events.len(),
            _ => 0,
        }
    }

    /// Whether the client takes this response in fragments ([`fragments`]).
    pub fn may_fragment(&self) -> bool {
        matches!(self, Response::Events { fragment: true, .. })
    }

    /// The message. Reads the pairs before the changes where they are wanted; the header
    /// has only the revision.
    pub fn into_message(self, mvcc: &Mvcc) -> Result<pb::WatchResponse, Error> {
        let header = |revision| {
            Some(pb::ResponseHeader {
                revision,
                ..Default::default()
            })
        };
        Ok(match self {
            Response::Created { watch_id, revision } => pb::WatchResponse {
                header: header(revision),
                watch_id,
                created: true,
                ..Default::default()
            },
            Response::Refused { revision, reason } => pb::WatchResponse {
                header: header(revision),
                watch_id: NO_WATCH_ID,
                created: true,
                canceled: true,
                cancel_reason: reason,
                ..Default::default()
            },
            Response::Canceled { watch_id, revision } => pb::WatchResponse {
                header: header(revision),
                watch_id,
                canceled: true,
                ..Default::default()
            },
            Response::Compacted {
                watch_id,
                compact_revision,
            } => pb::WatchResponse {
                header: header(0),
                watch_id,
                canceled: true,
                compact_revision,
                ..Default::default()
            },
            Response::Progress { watch_id, revision } => pb::WatchResponse {
                header: header(revision),
                watch_id,
                ..Default::default()
            },
            Response::Events {
                watch_id,
                revision,
                events,
                prev_kv,
                ..
            } => {
                let message = |event: &Arc<Event>| {
                    let prior = if prev_kv { mvcc.prior_of(event)? } else { None };
                    let kind = match event.change.tombstone {
                        true => mvccpb::event::EventType::Delete,
                        false => mvccpb::event::EventType::Put,
                    };
                    Ok(mvccpb::Event {
                        r#type: kind.into(),
                        kv: Some(event.change.kv.clone()),
                        prev_kv: prior,
                    })
                };
                let events = events.iter().map(message).collect::<Result<_, Error>>()?;
                pb::WatchResponse {
                    header: header(revision),
                    watch_id,
                    events,
                    ..Default::default()
                }
            }
        })
    }
}

impl Mvcc {
    /// The pair that a change replaced: none for a creation, none where it is compacted.
    /// Read once for all watchers.
    fn prior_of(&self, event: &Event) -> Result<Option<KeyValue>, Error> {
        if event.is_creation() {
            return Ok(None);
        }
        if let Some(prior) = event.prior.get() {
            return Ok(prior.clone());
        }
        let kv = &event.change.kv;
        let before = kv.mod_revision - 1;
        let prior = match self.get(&kv.key, before) {
            _ if before <= 0 => None,
            Ok((prior, _)) => prior,
            Err(Error::Compacted | Error::Future) => None,
            Err(error) => return Err(error),
        };
        Ok(event.prior.get_or_init(|| prior).clone())
    }
}

/// Divides a response so that each part stays below a size, with at least one event in
/// each; all but the last say that there is more. A response below it, or with one event,
/// stays whole.
pub fn fragments(response: pb::WatchResponse, bytes_max: usize) -> Vec<pb::WatchResponse> {
    use prost::Message;
    if response.encoded_len() < bytes_max || response.events.len() < 2 {
        return vec![response];
    }
    let mut empty = response;
    let events = std::mem::take(&mut empty.events);
    empty.fragment = true;
    let base = empty.encoded_len();
    let mut parts = Vec::new();
    let (mut part, mut size) = (empty.clone(), base);
    for event in events {
        let len = event.encoded_len();
        let field = 1 + prost::length_delimiter_len(len) + len;
        if !part.events.is_empty() && size + field >= bytes_max {
            parts.push(std::mem::replace(&mut part, empty.clone()));
            size = base;
        }
        size += field;
        part.events.push(event);
    }
    part.fragment = false;
    parts.push(part);
    parts
}
