//! The ordered index from keys to their histories: a B+tree whose nodes are shared and never changed once
//! another owner can see them.
//!
//! A clone of the tree costs one reference count, and later changes by the writer do not affect it. The
//! writer changes its own copy: [`Arc::make_mut`] copies exactly those nodes on a path that a clone still
//! holds, so a batch of changes between two publications copies each touched node once. Every inner node
//! keeps two numbers for each child. With the number of live keys, counting a range takes two descents and no
//! walk. With the number of keys with old versions, a compaction skips subtrees without them.

use super::sorted::{Iter, Keyed, Sorted};
use super::version::{History, KeyVersion};
use crate::types::{KeyRange, Revision};
use bytes::Bytes;
use std::iter::Sum;
use std::sync::Arc;

/// Entries in a full leaf and children of a full inner node.
const FANOUT: usize = if cfg!(test) { 6 } else { 48 };
/// Most entries of a node in a tree that is built at once. They leave room for later keys.
const BUILT: usize = FANOUT / 4 * 3 + 1;

/// A persistent ordered map from key to [`History`].
#[derive(Clone, Debug, Default)]
pub struct Index {
    root: Arc<Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Sorted<History>),
    Inner(Sorted<Child>),
}

impl Default for Node {
    fn default() -> Node {
        Node::Leaf(Sorted::default())
    }
}

#[derive(Clone, Debug)]
struct Child {
    /// No key of this subtree is below it. Exact at creation; a removal may leave it lower than the lowest
    /// key.
    lower: Bytes,
    counts: Counts,
    node: Arc<Node>,
}

impl Keyed for History {
    const FIRST_IS_OPEN: bool = false;

    fn key(&self) -> &[u8] {
        self.newest().key()
    }
}

impl Keyed for Child {
    const FIRST_IS_OPEN: bool = true;

    fn key(&self) -> &[u8] {
        &self.lower
    }
}

impl Child {
    fn new(lower: Bytes, node: Node) -> Child {
        Child { lower, counts: node.counts(), node: Arc::new(node) }
    }
}

/// Keys of a subtree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Keys that exist now.
    live: usize,
    /// Keys with anything but one live version. No compaction changes the others.
    past: usize,
}

impl Counts {
    fn of(history: &History) -> Counts {
        Counts { live: usize::from(history.is_live()), past: usize::from(history.has_past()) }
    }

    /// The sum after one part of it has changed.
    fn with(self, part: Counts, before: Counts) -> Counts {
        Counts { live: self.live + part.live - before.live, past: self.past + part.past - before.past }
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Counts>>(parts: I) -> Counts {
        parts.fold(Counts::default(), |sum, part| sum.with(part, Counts::default()))
    }
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(children) => children.len(),
        }
    }

    fn counts(&self) -> Counts {
        match self {
            Node::Leaf(entries) => entries.iter().map(Counts::of).sum(),
            Node::Inner(children) => children.iter().map(|child| child.counts).sum(),
        }
    }

    /// Splits a node that has grown past the fanout, and returns the upper half with its lower bound.
    fn split(&mut self) -> Option<Child> {
        if self.len() <= FANOUT {
            return None;
        }
        let middle = self.len() / 2;
        Some(match self {
            Node::Leaf(entries) => {
                let upper = entries.split_off(middle);
                Child::new(Bytes::copy_from_slice(upper[0].key()), Node::Leaf(upper))
            }
            Node::Inner(children) => {
                let upper = children.split_off(middle);
                Child::new(upper[0].lower.clone(), Node::Inner(upper))
            }
        })
    }

    /// Appends the content of a right-hand neighbour of the same height.
    fn append(&mut self, right: &Node) {
        match (self, right) {
            (Node::Leaf(left), Node::Leaf(right)) => left.append(right),
            (Node::Inner(left), Node::Inner(right)) => left.append(right),
            _ => unreachable!("all leaves of the tree are at one depth"),
        }
    }
}

/// The child of an inner node that covers `key`.
fn child_of(children: &Sorted<Child>, key: &[u8]) -> usize {
    children.find(key).unwrap_or_else(|at| at - 1)
}

/// Distributes `items` evenly over as few nodes as possible.
fn deal<T: Keyed>(
    mut items: impl ExactSizeIterator<Item = T>,
    node: impl Fn(Sorted<T>) -> Child,
) -> Vec<Child> {
    let nodes = items.len().div_ceil(BUILT);
    let deal = |left: usize| {
        let share = items.len().div_ceil(left);
        node(Sorted::new(items.by_ref().take(share)))
    };
    (1..=nodes).rev().map(deal).collect()
}

impl Index {
    /// An index of these histories, which ascend by key.
    pub(super) fn from_sorted(histories: impl ExactSizeIterator<Item = History>) -> Index {
        let leaf = |entries: Sorted<History>| {
            Child::new(Bytes::copy_from_slice(entries[0].key()), Node::Leaf(entries))
        };
        let mut level = deal(histories, leaf);
        // Later keys may be lower than the lowest.
        if let Some(first) = level.first_mut() {
            first.lower = Bytes::new();
        }
        while level.len() > 1 {
            level = deal(level.into_iter(), |children| {
                Child::new(children[0].lower.clone(), Node::Inner(children))
            });
        }
        Index { root: level.pop().map(|child| child.node).unwrap_or_default() }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        tests::check(&self.root, &[], None);
    }

    /// The versions of a key.
    pub fn get(&self, key: &[u8]) -> Option<&History> {
        let mut node = self.root.as_ref();
        loop {
            match node {
                Node::Inner(children) => node = &children[child_of(children, key)].node,
                Node::Leaf(entries) => return entries.find(key).ok().map(|at| &entries[at]),
            }
        }
    }

    /// The number of live keys.
    pub fn live(&self) -> usize {
        self.root.counts().live
    }

    /// Adds a version to its key, and returns the version that was newest before.
    pub fn insert(&mut self, version: KeyVersion) -> Option<KeyVersion> {
        let mut previous = None;
        let root = Arc::make_mut(&mut self.root);
        insert(root, version, &mut previous);
        if let Some(upper) = root.split() {
            let lower = std::mem::take(root);
            *root = Node::Inner(Sorted::new([Child::new(Bytes::new(), lower), upper]));
        }
        previous
    }

    /// Replaces a key's history, or takes the key out where `history` is `None`.
    pub fn replace(&mut self, key: &[u8], history: Option<History>) {
        let root = Arc::make_mut(&mut self.root);
        replace(root, key, history);
        lower_root(root);
    }

    /// Removes versions that cannot be read after a compaction at `floor`. Begins with the key `from`, and
    /// ends after visiting `most` versions. Returns the removed versions, and the key to continue with;
    /// `None` at the end.
    ///
    /// One step is a leaf with all versions of its keys, so it may visit more.
    pub fn compact(&mut self, floor: Revision, from: Bytes, most: usize) -> (Vec<KeyVersion>, Option<Bytes>) {
        let mut lost = Vec::new();
        let mut next = Some(from);
        let mut seen = 0;
        while seen < most
            && let Some(from) = &next
        {
            let looked_at;
            (looked_at, next) = compact_leaf(&mut self.root, floor, from, None, &mut lost);
            seen += looked_at;
        }
        if !lost.is_empty() {
            lower_root(Arc::make_mut(&mut self.root));
        }
        (lost, next)
    }

    /// The histories of the keys in a range, in key order, deleted keys included.
    pub fn range<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a History> + 'a {
        let mut walk = Walk { inner: Vec::new(), leaf: Iter::default() };
        if !range.is_empty() {
            walk.seek(&self.root, range.start());
        }
        walk.take_while(move |entry| !range.ends_before(entry.key()))
    }

    /// The versions readable in a range at `revision`, in key order.
    pub fn live_range<'a>(
        &'a self,
        range: &'a KeyRange,
        revision: Revision,
    ) -> impl Iterator<Item = &'a KeyVersion> + 'a {
        self.range(range).filter_map(move |entry| entry.live_at(revision))
    }

    /// The number of keys in a range that are live now; logarithmic in the size of the store.
    pub fn count(&self, range: &KeyRange) -> usize {
        match range {
            KeyRange::Single(key) => usize::from(self.get(key).is_some_and(History::is_live)),
            _ if range.is_empty() => 0,
            KeyRange::Span { start, end } => {
                let below_end = end.as_ref().map_or_else(|| self.live(), |end| self.live_below(end));
                below_end - self.live_below(start)
            }
        }
    }

    fn live_below(&self, key: &[u8]) -> usize {
        let mut below = 0;
        let mut node = self.root.as_ref();
        loop {
            match node {
                Node::Inner(children) => {
                    let at = child_of(children, key);
                    below += children.iter().take(at).map(|child| child.counts.live).sum::<usize>();
                    node = &children[at].node;
                }
                Node::Leaf(entries) => {
                    let at = entries.find(key).unwrap_or_else(|at| at);
                    return below + entries.iter().take(at).filter(|entry| entry.is_live()).count();
                }
            }
        }
    }
}

/// Returns the counts of the key after and before.
fn insert(node: &mut Node, version: KeyVersion, previous: &mut Option<KeyVersion>) -> (Counts, Counts) {
    match node {
        Node::Leaf(entries) => match entries.find(version.key()) {
            Ok(at) => {
                let before = Counts::of(&entries[at]);
                *previous = Some(entries[at].newest().clone());
                entries[at] = entries[at].with(version);
                (Counts::of(&entries[at]), before)
            }
            Err(at) => {
                entries.insert(at, History::new(version));
                (Counts::of(&entries[at]), Counts::default())
            }
        },
        Node::Inner(children) => {
            let at = child_of(children, version.key());
            let child = &mut children[at];
            let below = Arc::make_mut(&mut child.node);
            let (now, before) = insert(below, version, previous);
            if let Some(upper) = below.split() {
                child.counts = below.counts();
                children.insert(at + 1, upper);
            } else {
                child.counts = child.counts.with(now, before);
            }
            (now, before)
        }
    }
}

fn replace(node: &mut Node, key: &[u8], history: Option<History>) {
    match node {
        Node::Leaf(entries) => match (entries.find(key), history) {
            (Ok(at), Some(history)) => entries[at] = history,
            (Ok(at), None) => {
                entries.remove(at);
            }
            (Err(at), Some(history)) => entries.insert(at, history),
            (Err(_), None) => {}
        },
        Node::Inner(children) => {
            let at = child_of(children, key);
            let below = Arc::make_mut(&mut children[at].node);
            replace(below, key, history);
            let upper = below.split();
            children[at].counts = below.counts();
            match upper {
                Some(upper) => children.insert(at + 1, upper),
                None => merge_small(children, at),
            }
        }
    }
}

/// Compacts the histories of the first leaf that has any at or behind `from`; the next node begins at
/// `upper`. Returns the number of visited versions, and the key to continue with. Copies only the path to the
/// leaf, and the changes in it.
fn compact_leaf(
    node: &mut Arc<Node>,
    floor: Revision,
    from: &[u8],
    upper: Option<&Bytes>,
    lost: &mut Vec<KeyVersion>,
) -> (usize, Option<Bytes>) {
    let at = match node.as_ref() {
        Node::Leaf(entries) => {
            let first = entries.find(from).unwrap_or_else(|at| at);
            let (seen, left) = compact_entries(entries.iter_from(first), floor, lost);
            if !left.is_empty()
                && let Node::Leaf(entries) = Arc::make_mut(node)
            {
                // The last one comes first, so that the positions of the others stay.
                for (at, history) in left.into_iter().rev() {
                    match history {
                        Some(history) => entries[first + at] = history,
                        None => drop(entries.remove(first + at)),
                    }
                }
            }
            return (seen, upper.cloned());
        }
        Node::Inner(children) => {
            let first = child_of(children, from);
            children.iter_from(first).position(|child| child.counts.past > 0).map(|at| first + at)
        }
    };
    let (Some(at), Node::Inner(children)) = (at, Arc::make_mut(node)) else { return (0, upper.cloned()) };
    let upper = children.get(at + 1).map(|next| next.lower.clone()).or_else(|| upper.cloned());
    let lost_before = lost.len();
    let answer = compact_leaf(&mut children[at].node, floor, from, upper.as_ref(), lost);
    if lost.len() > lost_before {
        children[at].counts = children[at].node.counts();
        merge_small(children, at);
    }
    answer
}

/// Returns the number of visited versions, and the rest of each history that loses some, with its position.
fn compact_entries(
    entries: Iter<'_, History>,
    floor: Revision,
    lost: &mut Vec<KeyVersion>,
) -> (usize, Vec<(usize, Option<History>)>) {
    let mut seen = 0;
    let mut left = Vec::new();
    for (at, history) in entries.enumerate().filter(|(_, history)| history.has_past()) {
        let (rest, gone) = history.compact(floor);
        seen += history.len();
        if !gone.is_empty() {
            lost.extend(gone);
            left.push((at, rest));
        }
    }
    (seen, left)
}

/// Replaces a root with one child by the child.
fn lower_root(root: &mut Node) {
    while let Node::Inner(children) = &mut *root {
        match children.len() {
            0 => *root = Node::default(),
            1 => {
                let only = children.pop().expect("one child").node;
                *root = Arc::unwrap_or_clone(only);
            }
            _ => break,
        }
    }
}

/// Merges a small child with a neighbour if both fit into one node, so that nodes stay full.
fn merge_small(children: &mut Sorted<Child>, at: usize) {
    let len = children[at].node.len();
    if len == 0 {
        let gone = children.remove(at);
        if at == 0 && children.len() > 0 {
            children[0].lower = gone.lower;
        }
        return;
    }
    if len > FANOUT / 4 {
        return;
    }
    let left = if at + 1 < children.len() { at } else { at.saturating_sub(1) };
    if left + 1 < children.len() && children[left].node.len() + children[left + 1].node.len() <= FANOUT {
        let right = children.remove(left + 1);
        children[left].counts = children[left].counts.with(right.counts, Counts::default());
        Arc::make_mut(&mut children[left].node).append(&right.node);
    }
}

/// A walk in key order: the untouched right-hand siblings on the path, and the rest of the present leaf.
struct Walk<'a> {
    inner: Vec<Iter<'a, Child>>,
    leaf: Iter<'a, History>,
}

impl<'a> Walk<'a> {
    fn seek(&mut self, mut node: &'a Node, key: &[u8]) {
        loop {
            match node {
                Node::Inner(children) => {
                    let at = child_of(children, key);
                    self.inner.push(children.iter_from(at + 1));
                    node = &children[at].node;
                }
                Node::Leaf(entries) => {
                    let at = entries.find(key).unwrap_or_else(|at| at);
                    self.leaf = entries.iter_from(at);
                    return;
                }
            }
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = &'a History;

    fn next(&mut self) -> Option<&'a History> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Some(entry);
            }
            let mut child = loop {
                match self.inner.last_mut()?.next() {
                    Some(child) => break child,
                    None => {
                        self.inner.pop();
                    }
                }
            };
            loop {
                match child.node.as_ref() {
                    Node::Inner(children) => {
                        let mut rest = children.iter();
                        let Some(first) = rest.next() else { break };
                        self.inner.push(rest);
                        child = first;
                    }
                    Node::Leaf(entries) => {
                        self.leaf = entries.iter();
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::VersionParts;
    use crate::types::{LeaseId, Sequence};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn version(key: &[u8], revision: i64, live: bool) -> KeyVersion {
        KeyVersion::new(&VersionParts {
            key,
            value: b"",
            create_revision: Revision(i64::from(live)),
            mod_revision: Revision(revision),
            version: i64::from(live),
            lease: LeaseId::NONE,
            sequence: Sequence(revision as u64),
            place: 1,
        })
    }

    /// Heights agree, bounds hold, counts are right, no node is over-full.
    pub(super) fn check(node: &Node, lower: &[u8], upper: Option<&[u8]>) -> usize {
        assert!(node.len() <= FANOUT);
        let inside = |key: &[u8]| key >= lower && upper.is_none_or(|upper| key < upper);
        match node {
            Node::Leaf(entries) => {
                assert!(entries.iter().all(|entry| inside(entry.key())));
                assert!(
                    entries.iter().zip(entries.iter().skip(1)).all(|(left, right)| left.key() < right.key())
                );
                0
            }
            Node::Inner(children) => {
                assert!(children.len() > 0);
                let mut heights = children.iter().enumerate().map(|(at, child)| {
                    assert_eq!(child.counts, child.node.counts());
                    assert!(at == 0 || inside(&child.lower));
                    let bound = if at == 0 { lower } else { child.lower.as_ref() };
                    let next = children.get(at + 1).map(|next| next.lower.as_ref()).or(upper);
                    check(&child.node, bound, next)
                });
                let height = heights.next().expect("children");
                assert!(heights.all(|other| other == height));
                height + 1
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(Vec<u8>),
        Delete(Vec<u8>),
        Remove(Vec<u8>),
        /// From a key on, with a look at so many versions.
        Compact(Vec<u8>, usize),
        Keep,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || prop::collection::vec(0u8..4, 1..5);
        prop_oneof![
            4 => key().prop_map(Step::Put),
            2 => key().prop_map(Step::Delete),
            2 => key().prop_map(Step::Remove),
            1 => (prop::collection::vec(0u8..4, 0..3), 1_usize..40).prop_map(|(from, most)| Step::Compact(from, most)),
            1 => Just(Step::Keep),
        ]
    }

    proptest! {
        #![proptest_config(super::super::tests::config(256))]

        #[test]
        fn behaves_like_an_ordered_map_and_clones_stay_as_they_were(
            steps in prop::collection::vec(step(), 1..if cfg!(miri) { 25 } else { 300 }),
            bounds in prop::collection::vec((prop::collection::vec(0u8..4, 0..5), prop::collection::vec(0u8..4, 0..5)), 1..8),
        ) {
            let mut index = Index::default();
            let mut model: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
            let mut kept = Vec::new();
            for (at, step) in steps.into_iter().enumerate() {
                let revision = at as i64 + 2;
                match step {
                    Step::Put(key) => {
                        index.insert(version(&key, revision, true));
                        model.insert(key, true);
                    }
                    Step::Delete(key) => {
                        index.insert(version(&key, revision, false));
                        model.insert(key, false);
                    }
                    Step::Remove(key) => {
                        index.replace(&key, None);
                        model.remove(&key);
                    }
                    Step::Compact(from, most) => {
                        let (lost, next) = index.compact(Revision(revision), Bytes::from(from.clone()), most);
                        let is_done = |key: &[u8]| key >= from.as_slice() && next.as_ref().is_none_or(|next| key < next);
                        prop_assert!(next.as_ref().is_none_or(|next| *next > from));
                        prop_assert!(lost.iter().all(|version| is_done(version.key())));
                        model.retain(|key, live| *live || !is_done(key));
                        let all = KeyRange::all();
                        prop_assert!(index.range(&all).all(|entry| !entry.has_past() || !is_done(entry.key())));
                    }
                    Step::Keep => kept.push((index.clone(), model.clone())),
                }
                index.check();
            }
            kept.push((index, model));
            for (index, model) in kept {
                let all: Vec<_> = index.range(&KeyRange::all()).map(|e| (e.key().to_vec(), e.is_live())).collect();
                prop_assert_eq!(&all, &model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(index.live(), model.values().filter(|live| **live).count());
                for (start, end) in &bounds {
                    let range = KeyRange::from_wire(Bytes::copy_from_slice(start), &Bytes::copy_from_slice(end));
                    let expect: Vec<_> = model.iter().filter(|(key, _)| range.contains(key)).collect();
                    let got: Vec<_> = index.range(&range).map(|e| e.key().to_vec()).collect();
                    prop_assert_eq!(got, expect.iter().map(|(key, _)| (*key).clone()).collect::<Vec<_>>());
                    prop_assert_eq!(index.count(&range), expect.iter().filter(|(_, live)| **live).count());
                }
            }
        }
    }
}
