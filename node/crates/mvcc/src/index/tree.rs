//! The B+tree under the index.
//!
//! ```text
//!            [ sep | sep ]            inner: children, each with its number of live keys
//!           /      |      \
//!      [k k k]  [k k k k]  [k k]      leaves: entries in key order
//! ```
//!
//! `separators[i]` is at most every key of child `i + 1` and above every key of child `i`.
//! The live numbers make the rank of a key, and with it the count of a range, a walk from
//! the root to one leaf. What a node holds lies behind a pointer, so that growth never moves
//! more than one node.

use std::ops::ControlFlow;

use super::entry::Entry;

/// Entries of a leaf: 6 KiB of them, so that an insert moves at most that.
const LEAF_ENTRIES_MAX: usize = 96;
/// Children of an inner node.
const CHILDREN_MAX: usize = 64;
/// Below this a node is merged with a neighbour or filled from it.
const NODE_MIN: usize = 16;
/// Leaves grow by this many places at a time. The slack counts: a short key with one further
/// revision has 124 bytes to use up, of which the allocator's least chunks take 64.
const LEAF_GROWTH: usize = 2;
/// Inner nodes grow by this many: a child stands for dozens of keys.
const INNER_GROWTH: usize = 8;
/// Where a full node is split when the new item is its last (or first): keys that arrive
/// in order leave full nodes behind, and no order leaves nodes nearly empty.
const SPLIT_AT_EDGE: usize = 8;

/// What becomes of an entry that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retain {
    Keep,
    Remove,
    /// This one was not looked at: go on with it another time.
    Stop,
}

/// 24 bytes, and so in its parent's list and not behind a pointer of its own.
#[derive(Debug)]
pub(super) enum Node {
    Leaf(Vec<Entry>),
    Inner(Box<Inner>),
}

#[derive(Debug)]
pub(super) struct Inner {
    separators: Vec<Box<[u8]>>,
    children: Vec<Child>,
}

#[derive(Debug)]
struct Child {
    live: usize,
    node: Node,
}

/// The right half of a node that became too large.
#[derive(Debug)]
pub(super) struct Split {
    separator: Box<[u8]>,
    right: Child,
}

impl Node {
    pub(super) fn new() -> Self {
        Node::Leaf(Vec::new())
    }

    /// The entry of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        let mut node = self;
        loop {
            match node {
                Node::Inner(inner) => node = &inner.children[inner.child_of(key)].node,
                Node::Leaf(entries) => return find(entries, key).ok().map(|place| &entries[place]),
            }
        }
    }

    /// Changes the entry of a key, or inserts the one that `create` gives. `change`
    /// answers by how many the number of live keys changed.
    pub(super) fn upsert(
        &mut self,
        key: &[u8],
        change: &mut dyn FnMut(&mut Entry) -> isize,
        create: &mut dyn FnMut() -> Option<Entry>,
    ) -> (isize, Option<Split>) {
        match self {
            Node::Leaf(entries) => match find(entries, key) {
                Ok(place) => (change(&mut entries[place]), None),
                Err(place) => match create() {
                    Some(entry) => insert_entry(entries, place, entry),
                    None => (0, None),
                },
            },
            Node::Inner(inner) => {
                let place = inner.child_of(key);
                let child = &mut inner.children[place];
                let (live, split) = child.node.upsert(key, change, create);
                child.live = child.live.wrapping_add_signed(live);
                (live, split.and_then(|split| inner.insert(place, split)))
            }
        }
    }

    /// Live keys below `key`.
    pub(super) fn rank(&self, key: &[u8]) -> usize {
        let (mut node, mut rank) = (self, 0);
        loop {
            match node {
                Node::Inner(inner) => {
                    let place = inner.child_of(key);
                    rank += inner.children[..place]
                        .iter()
                        .map(|child| child.live)
                        .sum::<usize>();
                    node = &inner.children[place].node;
                }
                Node::Leaf(entries) => {
                    let place = find(entries, key).unwrap_or_else(|place| place);
                    return rank + live(&entries[..place]);
                }
            }
        }
    }

    /// Live keys.
    pub(super) fn live(&self) -> usize {
        match self {
            Node::Inner(inner) => inner.children.iter().map(|child| child.live).sum(),
            Node::Leaf(entries) => live(entries),
        }
    }

    /// Visits the entries from `from` on and below `end`, in key order. With `live_only`
    /// whole nodes without a live key are passed over (dead entries elsewhere are not).
    pub(super) fn visit<'a>(
        &'a self,
        from: &[u8],
        end: Option<&[u8]>,
        live_only: bool,
        visitor: &mut dyn FnMut(&'a Entry) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match self {
            Node::Leaf(entries) => {
                let first = find(entries, from).unwrap_or_else(|place| place);
                let last = end.map_or(entries.len(), |end| {
                    find(entries, end).unwrap_or_else(|place| place)
                });
                for entry in &entries[first.min(last)..last] {
                    visitor(entry)?;
                }
                if last < entries.len() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            }
            Node::Inner(inner) => {
                let first = inner.child_of(from);
                for (place, child) in inner.children.iter().enumerate().skip(first) {
                    if place > first
                        && end.is_some_and(|end| inner.separators[place - 1].as_ref() >= end)
                    {
                        return ControlFlow::Break(());
                    }
                    if live_only && child.live == 0 {
                        continue;
                    }
                    // Keys of later children are above `from` anyway.
                    let from = if place == first { from } else { &[] };
                    child.node.visit(from, end, live_only, visitor)?;
                }
                ControlFlow::Continue(())
            }
        }
    }

    /// Offers the entries of one leaf, from `from` on, to `judge` and removes those that it
    /// refuses (they must not be live), until it stops. Answers where to go on.
    pub(super) fn retain_in_leaf(
        &mut self,
        from: &[u8],
        judge: &mut dyn FnMut(&mut Entry) -> Retain,
    ) -> Option<Box<[u8]>> {
        match self {
            Node::Leaf(entries) => {
                let first = find(entries, from).unwrap_or_else(|place| place);
                let before = entries.len();
                let mut place = 0;
                let mut next: Option<Box<[u8]>> = None;
                entries.retain_mut(|entry| {
                    place += 1;
                    if place <= first || next.is_some() {
                        return true;
                    }
                    match judge(entry) {
                        Retain::Keep => true,
                        Retain::Remove => {
                            assert!(!entry.is_live(), "a live key must not leave the index");
                            false
                        }
                        Retain::Stop => {
                            next = Some(entry.key.clone());
                            true
                        }
                    }
                });
                if entries.len() < before {
                    entries.shrink_to(entries.len() + LEAF_GROWTH);
                }
                next
            }
            Node::Inner(inner) => {
                let place = inner.child_of(from);
                let next = inner.children[place].node.retain_in_leaf(from, judge);
                let next = next.or_else(|| inner.separators.get(place).cloned());
                inner.refill(place);
                next
            }
        }
    }

    /// Grows a level when the root was split.
    pub(super) fn grow(&mut self, split: Option<Split>) {
        let Some(Split { separator, right }) = split else {
            return;
        };
        let left = std::mem::replace(self, Node::new());
        let left = Child {
            live: left.live(),
            node: left,
        };
        *self = Node::Inner(Box::new(Inner {
            separators: vec![separator],
            children: vec![left, right],
        }));
    }

    /// Loses levels that have a single child.
    pub(super) fn shrink(&mut self) {
        while let Node::Inner(inner) = self
            && inner.children.len() == 1
            && let Some(child) = inner.children.pop()
        {
            *self = child.node;
        }
    }

    fn len(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(inner) => inner.children.len(),
        }
    }

    /// Heap bytes as glibc counts them: a header of 8, multiples of 16, and 32 at least.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let chunk = |bytes: usize| match bytes {
            0 => 0,
            bytes => (bytes + 8).next_multiple_of(16).max(32),
        };
        match self {
            Node::Leaf(entries) => {
                let own = chunk(entries.capacity() * size_of::<Entry>());
                own + entries
                    .iter()
                    .map(|entry| chunk(entry.key.len()) + chunk(entry.older_bytes()))
                    .sum::<usize>()
            }
            Node::Inner(inner) => {
                let own = chunk(inner.children.capacity() * size_of::<Child>())
                    + chunk(inner.separators.capacity() * size_of::<Box<[u8]>>());
                let separators: usize = inner.separators.iter().map(|key| chunk(key.len())).sum();
                let children = inner.children.iter().map(|child| child.node.heap_bytes());
                chunk(size_of::<Inner>()) + own + separators + children.sum::<usize>()
            }
        }
    }

    /// Checks every promise of the tree and answers the number of entries.
    #[cfg(test)]
    pub(super) fn check(&self, low: &[u8], high: Option<&[u8]>, root: bool) -> (usize, usize) {
        match self {
            Node::Leaf(entries) => {
                assert!(entries.len() <= LEAF_ENTRIES_MAX);
                assert!(entries.windows(2).all(|pair| pair[0].key < pair[1].key));
                assert!(
                    entries
                        .iter()
                        .all(|entry| &*entry.key >= low
                            && high.is_none_or(|high| &*entry.key < high))
                );
                (entries.len(), 1)
            }
            Node::Inner(inner) => {
                assert!(
                    inner.children.len() <= CHILDREN_MAX
                        && inner.children.len() > usize::from(root)
                );
                assert_eq!(inner.separators.len() + 1, inner.children.len());
                let mut total = (0, None);
                for (place, child) in inner.children.iter().enumerate() {
                    assert_eq!(child.live, child.node.live());
                    let low = if place == 0 {
                        low
                    } else {
                        &inner.separators[place - 1]
                    };
                    let high = inner.separators.get(place).map(|key| &**key).or(high);
                    let (entries, depth) = child.node.check(low, high, false);
                    assert!(
                        total.1.is_none_or(|known| known == depth),
                        "leaves must lie on one level"
                    );
                    total = (total.0 + entries, Some(depth));
                }
                (total.0, total.1.unwrap_or(0) + 1)
            }
        }
    }
}

impl Inner {
    fn child_of(&self, key: &[u8]) -> usize {
        self.separators
            .partition_point(|separator| &**separator <= key)
    }

    /// Takes in the right half of child `place`.
    fn insert(&mut self, place: usize, split: Split) -> Option<Split> {
        self.children[place].live -= split.right.live;
        if self.children.len() == self.children.capacity() {
            self.children.reserve_exact(INNER_GROWTH);
        }
        if self.separators.len() == self.separators.capacity() {
            self.separators.reserve_exact(INNER_GROWTH);
        }
        self.separators.insert(place, split.separator);
        self.children.insert(place + 1, split.right);
        if self.children.len() <= CHILDREN_MAX {
            return None;
        }
        Some(self.split(split_point(place + 1, self.children.len())))
    }

    fn split(&mut self, at: usize) -> Split {
        let children = self.children.split_off(at);
        let separators = self.separators.split_off(at);
        let separator = self
            .separators
            .pop()
            .expect("a split leaves a child on the left");
        self.children.shrink_to_fit();
        self.separators.shrink_to_fit();
        let live = children.iter().map(|child| child.live).sum();
        Split {
            separator,
            right: Child {
                live,
                node: Node::Inner(Box::new(Inner {
                    separators,
                    children,
                })),
            },
        }
    }

    /// Merges child `place` with a neighbour when it became small, and divides the two
    /// again when one node cannot hold them.
    fn refill(&mut self, place: usize) {
        if self.children[place].node.len() >= NODE_MIN || self.children.len() == 1 {
            return;
        }
        let left = if place + 1 < self.children.len() {
            place
        } else {
            place - 1
        };
        let right = self.children.remove(left + 1);
        let separator = self.separators.remove(left);
        let into = &mut self.children[left];
        into.live += right.live;
        let split = match (&mut into.node, right.node) {
            (Node::Leaf(into), Node::Leaf(mut entries)) => {
                into.reserve_exact(entries.len());
                into.append(&mut entries);
                (into.len() > LEAF_ENTRIES_MAX).then(|| split_leaf(into, into.len() / 2))
            }
            (Node::Inner(into), Node::Inner(inner)) => {
                into.separators.push(separator);
                into.separators.extend(inner.separators);
                into.children.extend(inner.children);
                (into.children.len() > CHILDREN_MAX).then(|| into.split(into.children.len() / 2))
            }
            _ => unreachable!("leaves lie on one level"),
        };
        if let Some(split) = split {
            into.live -= split.right.live;
            self.separators.insert(left, split.separator);
            self.children.insert(left + 1, split.right);
        }
    }
}

fn find(entries: &[Entry], key: &[u8]) -> Result<usize, usize> {
    entries.binary_search_by(|entry| entry.key.as_ref().cmp(key))
}

fn live(entries: &[Entry]) -> usize {
    entries.iter().filter(|entry| entry.is_live()).count()
}

fn insert_entry(entries: &mut Vec<Entry>, place: usize, entry: Entry) -> (isize, Option<Split>) {
    let live = isize::from(entry.is_live());
    if entries.len() == entries.capacity() {
        entries.reserve_exact(LEAF_GROWTH);
    }
    entries.insert(place, entry);
    if entries.len() <= LEAF_ENTRIES_MAX {
        return (live, None);
    }
    let at = split_point(place, entries.len());
    (live, Some(split_leaf(entries, at)))
}

/// Where to split a node of `len` items, of which the one at `place` is new.
fn split_point(place: usize, len: usize) -> usize {
    match place {
        place if place + 1 == len => len - SPLIT_AT_EDGE,
        0 => SPLIT_AT_EDGE,
        _ => len / 2,
    }
}

fn split_leaf(entries: &mut Vec<Entry>, at: usize) -> Split {
    let mut right = Vec::with_capacity(entries.len() - at + LEAF_GROWTH);
    right.extend(entries.drain(at..));
    entries.shrink_to_fit();
    let separator = separator(&entries[at - 1].key, &right[0].key);
    Split {
        separator,
        right: Child {
            live: live(&right),
            node: Node::Leaf(right),
        },
    }
}

/// The shortest key above `left` and at most `right`.
fn separator(left: &[u8], right: &[u8]) -> Box<[u8]> {
    let common = left
        .iter()
        .zip(right)
        .take_while(|(left, right)| left == right)
        .count();
    right[..common + 1].into()
}
