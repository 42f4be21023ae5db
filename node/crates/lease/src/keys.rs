//! The keys of one lease, held small.

use std::collections::BTreeSet;

/// Most leases have no key or one (a lock, a session); some have a hundred thousand.
/// Keys are copied: a slice of the entry they came in would keep the whole entry in memory.
#[derive(Debug, Default)]
pub(crate) enum Keys {
    #[default]
    None,
    One(Box<[u8]>),
    /// Sorted, which is the order in which a revoke deletes.
    Many(BTreeSet<Box<[u8]>>),
}

impl Keys {
    pub(crate) fn insert(&mut self, key: &[u8]) {
        match self {
            Keys::None => *self = Keys::One(key.into()),
            Keys::One(first) if **first == *key => {}
            Keys::One(first) => {
                *self = Keys::Many(BTreeSet::from([std::mem::take(first), key.into()]))
            }
            Keys::Many(keys) => {
                keys.insert(key.into());
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        match self {
            Keys::One(only) if **only == *key => *self = Keys::None,
            Keys::None | Keys::One(_) => {}
            Keys::Many(keys) => {
                keys.remove(key);
                if keys.is_empty() {
                    *self = Keys::None;
                }
            }
        }
    }

    /// In ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let (one, many) = match self {
            Keys::None => (None, None),
            Keys::One(key) => (Some(&**key), None),
            Keys::Many(keys) => (None, Some(keys)),
        };
        one.into_iter()
            .chain(many.into_iter().flatten().map(|key| &**key))
    }
}
