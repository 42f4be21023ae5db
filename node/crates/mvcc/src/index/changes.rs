//! The last births and deaths of keys, to correct a count at an earlier revision.

use std::collections::VecDeque;

/// Changes kept. Correcting by all of them costs about as much as walking as many keys;
/// the pages of a list are read seconds apart.
const CHANGES_MAX: usize = 8192;
/// Bytes of their keys kept.
const KEY_BYTES_MAX: usize = 1 << 20;

/// The log; it answers for revisions at or above its floor.
#[derive(Debug, Default)]
pub(super) struct Changes {
    log: VecDeque<Change>,
    key_bytes: usize,
    /// The main revision of the last change that was dropped.
    floor: i64,
}

/// A key that began (+1) or ceased (-1) to live.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) key: Box<[u8]>,
    main: i64,
    pub(super) live: i8,
}

impl Changes {
    pub(super) fn push(&mut self, key: &[u8], main: i64, live: i8) {
        self.key_bytes += key.len();
        self.log.push_back(Change {
            key: key.into(),
            main,
            live,
        });
        while self.log.len() > CHANGES_MAX || self.key_bytes > KEY_BYTES_MAX {
            let Some(dropped) = self.log.pop_front() else {
                break;
            };
            self.key_bytes -= dropped.key.len();
            self.floor = dropped.main;
        }
    }

    /// The changes above revision `at`, if none of them was dropped.
    pub(super) fn since(&self, at: i64) -> Option<impl ExactSizeIterator<Item = &Change>> {
        (at >= self.floor).then(|| {
            self.log
                .range(self.log.partition_point(|change| change.main <= at)..)
        })
    }

    /// The log knows nothing of revisions before this one.
    pub(super) fn forget_before(&mut self, main: i64) {
        self.floor = self.floor.max(main);
    }
}
