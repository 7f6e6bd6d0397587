//! The ranges of watchers, searched by key: a persistent map whose copies share all unchanged nodes.
//!
//! It is a treap ordered by `(start, end)`. Each node has the furthest end in its subtree. A search for a key
//! skips every subtree that ends before the key, and all intervals that start behind it. With thousands of
//! disjoint prefixes that is one descent. Adding and removing change one path, however long the interval is.
//! A map from boundaries to covering intervals would search a little faster, but a watch on all keys would
//! cost it an entry for each watched prefix.
//!
//! Nodes are behind `Arc`s. A change copies the nodes of its path that another copy of the map shares, and
//! changes its own nodes in place. So many changes between two copies cost about as much as in a map without
//! copies.

use bytes::Bytes;
use std::cmp::Ordering;
use std::sync::Arc;

/// A map from half-open intervals of keys to values. To clone it is to copy one pointer.
#[derive(Clone, Debug)]
pub(super) struct Intervals<T> {
    root: Link<T>,
    /// State of the generator of priorities. They need not be secret: only a bad order of priorities makes a
    /// bad shape, and they do not depend on the keys.
    seed: u64,
}

type Link<T> = Option<Arc<Node<T>>>;

/// The end of an interval; `None` is behind every key.
type End = Option<Bytes>;

#[derive(Clone, Debug)]
struct Node<T> {
    start: Bytes,
    end: End,
    /// The furthest end in this subtree.
    reach: End,
    /// Not less than the children's.
    priority: u64,
    value: T,
    left: Link<T>,
    right: Link<T>,
}

fn cmp_end(a: &End, b: &End) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.cmp(b),
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
    }
}

fn is_before(key: &[u8], end: &End) -> bool {
    end.as_ref().is_none_or(|end| key < end.as_ref())
}

impl<T> Node<T> {
    fn cmp(&self, start: &Bytes, end: &End) -> Ordering {
        self.start.cmp(start).then_with(|| cmp_end(&self.end, end))
    }

    fn update(&mut self) {
        let mut reach = &self.end;
        for child in [&self.left, &self.right].into_iter().flatten() {
            if cmp_end(&child.reach, reach).is_gt() {
                reach = &child.reach;
            }
        }
        if *reach != self.reach {
            self.reach = reach.clone();
        }
    }
}

impl<T> Default for Intervals<T> {
    fn default() -> Intervals<T> {
        Intervals { root: None, seed: 0x9e37_79b9_7f4a_7c15 }
    }
}

impl<T: Clone + Default> Intervals<T> {
    /// The value of exactly this interval, which must not be empty. A new interval gets a default value.
    pub(super) fn entry(&mut self, start: &Bytes, end: &End) -> &mut T {
        if self.get(start, end).is_none() {
            let node = Arc::new(Node {
                start: start.clone(),
                end: end.clone(),
                reach: end.clone(),
                priority: self.next_priority(),
                value: T::default(),
                left: None,
                right: None,
            });
            self.root = Some(insert(self.root.take(), node));
        }
        self.get_mut(start, end).expect("the interval is there or was just added")
    }
}

impl<T: Clone> Intervals<T> {
    /// The value of exactly this interval.
    pub(super) fn get_mut(&mut self, start: &Bytes, end: &End) -> Option<&mut T> {
        // Without the interval no path is copied.
        self.get(start, end)?;
        let mut node = Arc::make_mut(self.root.as_mut()?);
        loop {
            node = match node.cmp(start, end) {
                Ordering::Equal => return Some(&mut node.value),
                Ordering::Greater => Arc::make_mut(node.left.as_mut()?),
                Ordering::Less => Arc::make_mut(node.right.as_mut()?),
            };
        }
    }

    /// Removes an interval.
    pub(super) fn remove(&mut self, start: &Bytes, end: &End) {
        if self.get(start, end).is_some() {
            remove(&mut self.root, start, end);
        }
    }
}

impl<T> Intervals<T> {
    /// The value of exactly this interval.
    pub(super) fn get(&self, start: &Bytes, end: &End) -> Option<&T> {
        let mut node = self.root.as_deref()?;
        loop {
            node = match node.cmp(start, end) {
                Ordering::Equal => return Some(&node.value),
                Ordering::Greater => node.left.as_deref()?,
                Ordering::Less => node.right.as_deref()?,
            };
        }
    }

    /// Visits the values of all intervals that hold `key`.
    pub(super) fn stab<'a>(&'a self, key: &[u8], visit: &mut impl FnMut(&'a T)) {
        stab(self.root.as_deref(), key, visit);
    }

    /// Visits the values of all intervals.
    pub(super) fn each<'a>(&'a self, visit: &mut impl FnMut(&'a T)) {
        each(self.root.as_deref(), visit);
    }

    fn next_priority(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }
}

fn stab<'a, T>(node: Option<&'a Node<T>>, key: &[u8], visit: &mut impl FnMut(&'a T)) {
    let Some(node) = node else { return };
    if !is_before(key, &node.reach) {
        return;
    }
    stab(node.left.as_deref(), key, visit);
    if node.start.as_ref() <= key {
        if is_before(key, &node.end) {
            visit(&node.value);
        }
        stab(node.right.as_deref(), key, visit);
    }
}

fn each<'a, T>(node: Option<&'a Node<T>>, visit: &mut impl FnMut(&'a T)) {
    let Some(node) = node else { return };
    each(node.left.as_deref(), visit);
    visit(&node.value);
    each(node.right.as_deref(), visit);
}

fn insert<T: Clone>(link: Link<T>, mut new: Arc<Node<T>>) -> Arc<Node<T>> {
    let Some(mut at) = link else { return new };
    if new.priority > at.priority {
        let (left, right) = split(Some(at), &new.start, &new.end);
        let node = Arc::make_mut(&mut new);
        (node.left, node.right) = (left, right);
        node.update();
        return new;
    }
    let node = Arc::make_mut(&mut at);
    let side = if node.cmp(&new.start, &new.end).is_gt() { &mut node.left } else { &mut node.right };
    *side = Some(insert(side.take(), new));
    node.update();
    at
}

/// Splits a tree into the intervals before one and those behind it.
fn split<T: Clone>(link: Link<T>, start: &Bytes, end: &End) -> (Link<T>, Link<T>) {
    let Some(mut at) = link else { return (None, None) };
    let node = Arc::make_mut(&mut at);
    if node.cmp(start, end).is_gt() {
        let (left, right) = split(node.left.take(), start, end);
        node.left = right;
        node.update();
        (left, Some(at))
    } else {
        let (left, right) = split(node.right.take(), start, end);
        node.right = left;
        node.update();
        (Some(at), right)
    }
}

/// Joins two trees, all of the first before all of the second.
fn merge<T: Clone>(left: Link<T>, right: Link<T>) -> Link<T> {
    match (left, right) {
        (None, only) | (only, None) => only,
        (Some(mut left), Some(mut right)) => Some(if left.priority > right.priority {
            let node = Arc::make_mut(&mut left);
            node.right = merge(node.right.take(), Some(right));
            node.update();
            left
        } else {
            let node = Arc::make_mut(&mut right);
            node.left = merge(Some(left), node.left.take());
            node.update();
            right
        }),
    }
}

/// Removes an interval that exists.
fn remove<T: Clone>(link: &mut Link<T>, start: &Bytes, end: &End) {
    let Some(at) = link else { return };
    let order = at.cmp(start, end);
    if order.is_eq() {
        let (left, right) = (at.left.clone(), at.right.clone());
        // Dropping the node first makes its children unshared, so that they are not copied.
        *link = None;
        *link = merge(left, right);
        return;
    }
    let node = Arc::make_mut(at);
    remove(if order.is_gt() { &mut node.left } else { &mut node.right }, start, end);
    node.update();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn depth<T>(node: Option<&Node<T>>) -> usize {
        node.map_or(0, |node| 1 + depth(node.left.as_deref()).max(depth(node.right.as_deref())))
    }

    fn stabbed(intervals: &Intervals<u32>, key: &[u8]) -> Vec<u32> {
        let mut found = Vec::new();
        intervals.stab(key, &mut |value| found.push(*value));
        found.sort_unstable();
        found
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0_u8..4, 0..4)
    }

    proptest! {
        #![proptest_config(crate::core::tests::config(256))]

        #[test]
        fn finds_what_a_list_finds(
            steps in prop::collection::vec((any::<bool>(), key(), prop::option::of(key())), 1..120),
            probes in prop::collection::vec(key(), 1..20),
        ) {
            let mut intervals = Intervals::<u32>::default();
            let mut list = BTreeMap::new();
            let mut copies = Vec::new();
            for (number, (adds, start, end)) in steps.into_iter().enumerate() {
                if end.as_ref().is_some_and(|end| *end <= start) {
                    continue;
                }
                let (from, to) = (Bytes::from(start.clone()), end.clone().map(Bytes::from));
                if adds {
                    *intervals.entry(&from, &to) = number as u32;
                    list.insert((start, end), number as u32);
                } else {
                    prop_assert_eq!(intervals.get(&from, &to).copied(), list.remove(&(start, end)));
                    intervals.remove(&from, &to);
                }
                let mut all = 0;
                intervals.each(&mut |_| all += 1);
                prop_assert_eq!(all, list.len());
                if number % 7 == 0 {
                    copies.push((intervals.clone(), list.clone()));
                }
            }
            copies.push((intervals, list));
            // Changes of one copy do not affect another one.
            for (intervals, list) in copies {
            for probe in &probes {
                let mut expect: Vec<u32> = list
                    .iter()
                    .filter(|((start, end), _)| start <= probe && end.as_ref().is_none_or(|end| probe < end))
                    .map(|(_, value)| *value)
                    .collect();
                expect.sort_unstable();
                prop_assert_eq!(stabbed(&intervals, probe), expect);
            }
            }
        }
    }

    #[test]
    fn sorted_prefixes_make_a_flat_tree_and_few_are_looked_at() {
        let mut intervals = Intervals::<u32>::default();
        let prefix = |n: u32, last: u8| Bytes::from([format!("/p/{n:05}").as_bytes(), &[last]].concat());
        let count = if cfg!(miri) { 200 } else { 10_000 };
        for n in 0..count {
            *intervals.entry(&prefix(n, b'/'), &Some(prefix(n, b'0'))) = n;
        }
        assert!(depth(intervals.root.as_deref()) < 60, "depth {}", depth(intervals.root.as_deref()));
        for n in [0, 77, count - 1] {
            assert_eq!(stabbed(&intervals, &prefix(n, b'/')), [n]);
        }
        assert!(stabbed(&intervals, b"/q").is_empty());
        for n in 0..count {
            assert_eq!(intervals.get(&prefix(n, b'/'), &Some(prefix(n, b'0'))), Some(&n));
            intervals.remove(&prefix(n, b'/'), &Some(prefix(n, b'0')));
        }
        assert!(intervals.root.is_none());
    }
}
