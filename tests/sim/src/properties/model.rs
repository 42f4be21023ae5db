//! The keys as the committed log makes them, told as simply as possible.

use std::collections::BTreeMap;

use api::etcdserverpb::InternalRaftRequest;
use bytes::Bytes;
use prost::Message as _;
use raftpb::{Entry, EntryType};

/// etcd's first revision, before any change.
const FIRST_REVISION: i64 = 1;

/// A naive store: every value of every key at every revision.
#[derive(Debug)]
pub struct Model {
    revision: i64,
    /// For each key, its values by the revision that wrote them; `None` is a deletion.
    keys: BTreeMap<Bytes, Vec<(i64, Option<Bytes>)>>,
    /// The revision after each write, by request.
    writes: BTreeMap<u64, i64>,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            revision: FIRST_REVISION,
            keys: BTreeMap::new(),
            writes: BTreeMap::new(),
        }
    }
}

impl Model {
    /// Applies the next committed entry.
    pub(super) fn apply(&mut self, entry: &Entry) {
        if entry.entry_type != i32::from(EntryType::EntryNormal) || entry.data.is_empty() {
            return;
        }
        let request = InternalRaftRequest::decode(entry.data.clone())
            .expect("only the simulation's clients propose");
        let id = request.header.map_or(0, |header| header.id);
        if let Some(put) = request.put {
            self.revision += 1;
            let values = self.keys.entry(put.key).or_default();
            values.push((self.revision, Some(put.value)));
        } else if let Some(delete) = request.delete_range
            && self.value(&delete.key, self.revision).is_some()
        {
            self.revision += 1;
            let values = self.keys.entry(delete.key).or_default();
            values.push((self.revision, None));
        }
        self.writes.entry(id).or_insert(self.revision);
    }

    /// The revision after a write; `None` when it is not in the committed log.
    pub fn revision_of(&self, request: u64) -> Option<i64> {
        self.writes.get(&request).copied()
    }

    /// A key's value at a revision.
    pub fn value(&self, key: &[u8], revision: i64) -> Option<&Bytes> {
        let values = self.keys.get(key)?;
        let after = values.partition_point(|(written, _)| *written <= revision);
        values[..after].last()?.1.as_ref()
    }

    /// All keys that live now, with their values.
    pub fn live(&self) -> BTreeMap<Bytes, Bytes> {
        let live = |(key, values): (&Bytes, &Vec<(i64, Option<Bytes>)>)| {
            let value = values.last()?.1.clone()?;
            Some((key.clone(), value))
        };
        self.keys.iter().filter_map(live).collect()
    }

    /// The present revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }
}
