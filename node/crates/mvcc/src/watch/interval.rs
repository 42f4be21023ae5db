//! Ranges of keys, and which of them a key falls into.
//!
//! A balanced (AVL) tree ordered by the ranges' starts; every node also knows the highest
//! end below it, so that a search passes over what ends before its key. A search costs a
//! logarithm and what it finds.

use std::cmp::Ordering;

use bytes::Bytes;

/// A range's end; `None` has no end, above every other.
pub(super) type End = Option<Bytes>;

/// Ranges with a value each.
#[derive(Debug)]
pub(super) struct IntervalTree<V> {
    root: Link<V>,
}

type Link<V> = Option<Box<Node<V>>>;

#[derive(Debug)]
struct Node<V> {
    from: Bytes,
    end: End,
    value: V,
    highest_end: End,
    height: u8,
    left: Link<V>,
    right: Link<V>,
}

impl<V> Default for IntervalTree<V> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<V: Default> IntervalTree<V> {
    /// The value of a range, made where there is none.
    pub(super) fn entry(&mut self, from: &Bytes, end: &End) -> &mut V {
        if self.get_mut(from, end).is_none() {
            self.root = Some(insert(self.root.take(), from, end));
        }
        self.get_mut(from, end).expect("it was inserted just now")
    }

    pub(super) fn get_mut(&mut self, from: &Bytes, end: &End) -> Option<&mut V> {
        let mut link = self.root.as_mut();
        while let Some(node) = link {
            link = match node.order(from, end) {
                Ordering::Equal => return Some(&mut node.value),
                Ordering::Less => node.left.as_mut(),
                Ordering::Greater => node.right.as_mut(),
            };
        }
        None
    }

    pub(super) fn remove(&mut self, from: &Bytes, end: &End) {
        self.root = remove(self.root.take(), from, end);
    }

    /// Visits the values of the ranges that hold a key.
    pub(super) fn stab(&self, key: &[u8], visitor: &mut dyn FnMut(&V)) {
        stab(&self.root, key, visitor);
    }
}

fn compare_ends(a: &End, b: &End) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    }
}

fn is_below(key: &[u8], end: &End) -> bool {
    end.as_ref().is_none_or(|end| key < &end[..])
}

fn stab<V>(link: &Link<V>, key: &[u8], visitor: &mut dyn FnMut(&V)) {
    let Some(node) = link
        .as_ref()
        .filter(|node| is_below(key, &node.highest_end))
    else {
        return;
    };
    stab(&node.left, key, visitor);
    if node.from <= key {
        if is_below(key, &node.end) {
            visitor(&node.value);
        }
        stab(&node.right, key, visitor);
    }
}

fn insert<V: Default>(link: Link<V>, from: &Bytes, end: &End) -> Box<Node<V>> {
    let Some(mut node) = link else {
        let (from, end) = (from.clone(), end.clone());
        return Box::new(Node {
            from,
            highest_end: end.clone(),
            end,
            value: V::default(),
            height: 1,
            left: None,
            right: None,
        });
    };
    match node.order(from, end) {
        Ordering::Equal => return node,
        Ordering::Less => node.left = Some(insert(node.left.take(), from, end)),
        Ordering::Greater => node.right = Some(insert(node.right.take(), from, end)),
    }
    balance(node)
}

fn remove<V>(link: Link<V>, from: &Bytes, end: &End) -> Link<V> {
    let mut node = link?;
    match node.order(from, end) {
        Ordering::Less => node.left = remove(node.left.take(), from, end),
        Ordering::Greater => node.right = remove(node.right.take(), from, end),
        Ordering::Equal => match (node.left.take(), node.right.take()) {
            (None, other) | (other, None) => return other,
            (left, Some(right)) => {
                let (rest, mut least) = take_least(right);
                (least.left, least.right) = (left, rest);
                node = least;
            }
        },
    }
    Some(balance(node))
}

fn take_least<V>(mut node: Box<Node<V>>) -> (Link<V>, Box<Node<V>>) {
    match node.left.take() {
        None => (node.right.take(), node),
        Some(left) => {
            let (rest, least) = take_least(left);
            node.left = rest;
            (Some(balance(node)), least)
        }
    }
}

fn height<V>(link: &Link<V>) -> u8 {
    link.as_ref().map_or(0, |node| node.height)
}

fn balance<V>(mut node: Box<Node<V>>) -> Box<Node<V>> {
    let lean = i16::from(height(&node.left)) - i16::from(height(&node.right));
    if lean > 1 {
        if let Some(left) = node.left.take() {
            let inner_is_higher = height(&left.right) > height(&left.left);
            node.left = Some(if inner_is_higher {
                rotate_left(left)
            } else {
                left
            });
        }
        return rotate_right(node);
    }
    if lean < -1 {
        if let Some(right) = node.right.take() {
            let inner_is_higher = height(&right.left) > height(&right.right);
            node.right = Some(if inner_is_higher {
                rotate_right(right)
            } else {
                right
            });
        }
        return rotate_left(node);
    }
    node.update();
    node
}

fn rotate_left<V>(mut node: Box<Node<V>>) -> Box<Node<V>> {
    let mut top = node
        .right
        .take()
        .expect("a node that leans right has a right child");
    node.right = top.left.take();
    node.update();
    top.left = Some(node);
    top.update();
    top
}

fn rotate_right<V>(mut node: Box<Node<V>>) -> Box<Node<V>> {
    let mut top = node
        .left
        .take()
        .expect("a node that leans left has a left child");
    node.left = top.right.take();
    node.update();
    top.right = Some(node);
    top.update();
    top
}

impl<V> Node<V> {
    /// Where a range lies, seen from this node.
    fn order(&self, from: &Bytes, end: &End) -> Ordering {
        from.cmp(&self.from)
            .then_with(|| compare_ends(end, &self.end))
    }

    fn update(&mut self) {
        self.height = 1 + height(&self.left).max(height(&self.right));
        let children = [&self.left, &self.right]
            .into_iter()
            .flatten()
            .map(|child| &child.highest_end);
        let highest = children.fold(&self.end, |highest, end| match compare_ends(end, highest) {
            Ordering::Greater => end,
            _ => highest,
        });
        self.highest_end = highest.clone();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::Chance;

    fn check(link: &Link<u64>) -> u8 {
        let Some(node) = link else { return 0 };
        let (left, right) = (check(&node.left), check(&node.right));
        assert!(left.abs_diff(right) <= 1);
        assert_eq!(node.height, 1 + left.max(right));
        node.height
    }

    #[test]
    fn a_key_finds_its_ranges_and_no_others() {
        let mut chance = Chance::new(7);
        let (mut tree, mut model) = (IntervalTree::<u64>::default(), BTreeMap::new());
        for round in 1..4000u64 {
            let key = |number: u64| Bytes::from(format!("{number:03}"));
            let from = chance.below(200);
            let end = (chance.below(10) != 0).then(|| key(from + 1 + chance.below(40)));
            let from = key(from);
            if chance.below(5) < 3 {
                *tree.entry(&from, &end) = round;
                model.insert((from, end), round);
            } else if let Some((from, end)) = model
                .keys()
                .nth(chance.below(model.len() as u64 + 1) as usize)
                .cloned()
            {
                tree.remove(&from, &end);
                model.remove(&(from, end));
            }
            check(&tree.root);
            let probe = key(chance.below(260));
            let mut found = Vec::new();
            tree.stab(&probe, &mut |value| found.push(*value));
            found.sort_unstable();
            let inside = |(from, end): &(Bytes, End)| *from <= probe && is_below(&probe, end);
            let mut expected: Vec<_> = model
                .iter()
                .filter(|(range, _)| inside(range))
                .map(|(_, value)| *value)
                .collect();
            expected.sort_unstable();
            assert_eq!(found, expected);
        }
    }
}
