use std::collections::BTreeMap;

use super::*;
use crate::testing::Chance;

/// The naive model: every key's whole history.
#[derive(Default)]
struct Model {
    keys: BTreeMap<Vec<u8>, Vec<Known>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    revision: Revision,
    /// `None` for a tombstone.
    origin: Option<Origin>,
    leased: bool,
}

impl Model {
    fn locate(&self, key: &[u8], at: i64) -> Option<(Revision, Origin)> {
        let known = self
            .keys
            .get(key)?
            .iter()
            .rev()
            .find(|known| known.revision.main <= at)?;
        Some((known.revision, known.origin?))
    }

    fn range(&self, from: &[u8], end: Option<&[u8]>, at: i64) -> Vec<(Vec<u8>, Revision)> {
        let inside = self
            .keys
            .keys()
            .filter(|key| &key[..] >= from && end.is_none_or(|end| &key[..] < end));
        inside
            .filter_map(|key| Some((key.clone(), self.locate(key, at)?.0)))
            .collect()
    }

    fn put(&mut self, key: &[u8], revision: Revision, leased: bool) -> Inserted {
        let list = self.keys.entry(key.to_vec()).or_default();
        let last = list.last().copied();
        let origin = match last.and_then(|last| last.origin) {
            Some(Origin { created, version }) => Origin {
                created,
                version: version + 1,
            },
            None => Origin {
                created: revision.main,
                version: 1,
            },
        };
        list.push(Known {
            revision,
            origin: Some(origin),
            leased,
        });
        let prior = last.filter(|last| last.origin.is_some());
        Inserted {
            origin,
            prior: prior.map(|last| Prior {
                modified: last.revision,
                leased: last.leased,
            }),
        }
    }

    fn tombstone(&mut self, key: &[u8], revision: Revision) -> Option<Prior> {
        let list = self.keys.get_mut(key)?;
        let last = list.last().copied().filter(|last| last.origin.is_some())?;
        list.push(Known {
            revision,
            origin: None,
            leased: false,
        });
        Some(Prior {
            modified: last.revision,
            leased: last.leased,
        })
    }

    /// Etcd's rule, said once more: of the records at or below `at` the newest stays, or
    /// none if that is a tombstone below `at`.
    fn compact(&mut self, at: i64) -> Vec<RecordKey> {
        let mut removed = Vec::new();
        for list in self.keys.values_mut() {
            let newest = list.iter().rposition(|known| known.revision.main <= at);
            let cut = match newest {
                None => 0,
                Some(newest)
                    if list[newest].origin.is_none() && list[newest].revision.main < at =>
                {
                    newest + 1
                }
                Some(newest) => newest,
            };
            removed.extend(list.drain(..cut).map(|known| RecordKey {
                revision: known.revision,
                tombstone: known.origin.is_none(),
            }));
        }
        self.keys.retain(|_, list| !list.is_empty());
        removed
    }

    fn restored(&self) -> Index {
        let mut records: Vec<_> = self
            .keys
            .iter()
            .flat_map(|(key, list)| list.iter().map(move |known| (known.revision, key, known)))
            .collect();
        records.sort_by_key(|(revision, ..)| *revision);
        let mut index = Index::default();
        for (revision, key, known) in records {
            match known.origin {
                Some(origin) => index.restore_put(key, revision, origin, known.leased),
                None => index.restore_tombstone(key, revision),
            }
        }
        index
    }
}

fn compare(
    index: &Index,
    model: &Model,
    chance: &mut Chance,
    compacted: i64,
    current: i64,
    key_of: &dyn Fn(u64) -> Vec<u8>,
) {
    for _ in 0..4 {
        let at = compacted + chance.below((current - compacted + 2) as u64) as i64;
        let key = key_of(chance.next());
        let (located, expected) = (index.get(&key, at), model.locate(&key, at));
        assert_eq!(
            located.map(|located| located.modified),
            expected.map(|expected| expected.0)
        );
        if let Some(Located {
            origin: Some(origin),
            ..
        }) = located
        {
            assert_eq!(Some(origin), expected.map(|expected| expected.1));
        }
        if at >= current
            && let Some(located) = located
        {
            assert!(
                located.origin.is_some(),
                "the current revision always knows its origin"
            );
        }
        let (mut from, mut end) = (key_of(chance.next()), Some(key_of(chance.next())));
        match chance.below(4) {
            0 => (from, end) = (Vec::new(), None),
            1 => end = None,
            _ => {}
        }
        let expected = model.range(&from, end.as_deref(), at);
        let keys = Keys {
            from: &from,
            end: end.as_deref(),
        };
        let limit = 1 + chance.below(20) as usize;
        let mut visited = Vec::new();
        index.visit(keys, at, &mut |key, located| {
            let Some(located) = located else {
                return ControlFlow::Continue(());
            };
            visited.push((key.to_vec(), located.modified));
            if visited.len() == limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!(visited, expected[..limit.min(expected.len())]);
        assert_eq!(
            count(index, keys, at),
            expected.len(),
            "{from:?}..{end:?} at {at} of {current}"
        );
    }
}

fn run(seed: u64, rounds: u64, key_space: u64) {
    let mut chance = Chance::new(seed);
    let key_of = move |number: u64| {
        format!("{:03}/{}", number % key_space / 7, number % key_space).into_bytes()
    };
    let (mut index, mut model) = (Index::default(), Model::default());
    let (mut current, mut compacted) = (1, 0);
    for round in 0..rounds {
        current += 1;
        let delete = chance.below(100) < if round / 500 % 2 == 0 { 25 } else { 60 };
        for sub in 0..=chance.below(3) as i64 {
            let (key, revision) = (key_of(chance.next()), Revision::new(current, sub));
            let leased = chance.below(3) == 0;
            if delete {
                assert_eq!(
                    index.tombstone(&key, revision),
                    model.tombstone(&key, revision)
                );
            } else {
                assert_eq!(
                    index.put(&key, revision, leased),
                    model.put(&key, revision, leased)
                );
            }
            assert_eq!(index.current(&key).is_some(), !delete);
        }
        if chance.below(50) == 0 {
            compacted = compacted.max(current - chance.below(60) as i64);
            // In pieces of any size, one key at least.
            let piece = 1 + chance.below(40) as usize;
            let (mut removed, mut from) = (VecDeque::new(), Some(Box::<[u8]>::default()));
            while let Some(at) = from {
                let goal = removed.len() + piece;
                from = index.compact_leaf(compacted, &at, goal, &mut removed).next;
            }
            assert_eq!(removed, model.compact(compacted));
            assert_eq!(index.check(), model.keys.len());
        }
        if chance.below(400) == 0 {
            index = model.restored();
            index.check();
        }
        compare(&index, &model, &mut chance, compacted, current, &key_of);
    }
    assert_eq!(index.check(), model.keys.len());
}

#[test]
fn the_index_answers_as_the_model_does() {
    for seed in seams::seeds(0..4) {
        run(seed, 1500, [20, 300, 2000, 700][seed as usize % 4]);
    }
}

/// A tree of several levels, grown from the left, from the right and at random, and then
/// emptied.
#[test]
fn a_large_tree_keeps_its_promises() {
    for order in 0..3u64 {
        let mut index = Index::default();
        let total = 20_000u64;
        for number in 0..total {
            let number = match order {
                0 => number,
                1 => total - 1 - number,
                _ => number.wrapping_mul(7919) % total,
            };
            index.put(
                format!("{number:08}").as_bytes(),
                Revision::new(2, 0),
                false,
            );
        }
        assert_eq!(index.check(), total as usize);
        assert_eq!(
            count(
                &index,
                Keys {
                    from: b"00005000",
                    end: Some(b"00005017")
                },
                2
            ),
            17
        );
        for number in 0..total {
            if number % 100 != 0 {
                index.tombstone(format!("{number:08}").as_bytes(), Revision::new(3, 0));
            }
        }
        assert_eq!(
            count(
                &index,
                Keys {
                    from: b"",
                    end: None
                },
                2
            ),
            total as usize
        );
        assert_eq!(
            count(
                &index,
                Keys {
                    from: b"",
                    end: None
                },
                3
            ),
            200
        );
        let (mut removed, mut from) = (VecDeque::new(), Some(Box::<[u8]>::default()));
        while let Some(at) = from {
            from = index.compact_leaf(4, &at, usize::MAX, &mut removed).next;
        }
        assert_eq!(index.check(), 200);
        assert_eq!(removed.len(), 2 * (total as usize - 200));
    }
}

#[test]
fn counts_are_corrected_as_far_as_the_changes_reach() {
    let mut index = Index::default();
    for main in 2..20_002 {
        index.put(
            format!("{main:05}").as_bytes(),
            Revision::new(main, 0),
            false,
        );
    }
    let all = Keys {
        from: b"",
        end: None,
    };
    assert_eq!(index.count(all, 11_000), None);
    assert_eq!(index.count(all, 19_000), Some(18_999));
    for at in [1, 2, 100, 11_000, 19_000, 20_001, 30_000] {
        assert_eq!(count(&index, all, at), (at.min(20_001) - 1) as usize);
    }
}

fn count(index: &Index, keys: Keys<'_>, at: i64) -> usize {
    index.count(keys, at).unwrap_or_else(|| {
        let mut count = 0;
        index.visit(keys, at, &mut |_, located| {
            count += usize::from(located.is_some());
            ControlFlow::Continue(())
        });
        count
    })
}

/// At most 100 bytes per key beside the key, 24 per further revision, whatever the order.
#[test]
fn memory_stays_within_its_budget() {
    let keys = 20_000u64;
    for order in 0..2 {
        for key_len in [8usize, 16, 24, 40, 64] {
            let mut index = Index::default();
            for revision in 0..8u64 {
                for number in 0..keys {
                    let number = if order == 0 {
                        number
                    } else {
                        number.wrapping_mul(7919) % keys
                    };
                    index.put(
                        format!("{number:0key_len$}").as_bytes(),
                        Revision::new(2 + revision as i64, 0),
                        false,
                    );
                }
                let beside = index.root.heap_bytes() as u64 - keys * key_len as u64;
                let budget = keys * (100 + 24 * revision);
                assert!(
                    beside <= budget,
                    "{} bytes a key, {revision} further revisions",
                    beside / keys
                );
            }
        }
    }
}
