//! Nodes of the tree: leaves and inner nodes, and how one grows, splits and merges.

use crate::core::history::History;
use crate::core::sorted::{Keyed, Sorted};
use crate::core::version::KeyVersion;
use bytes::Bytes;
use std::iter::Sum;
use std::sync::Arc;

/// Entries in a full leaf and children of a full inner node.
pub(super) const FANOUT: usize = if cfg!(test) { 6 } else { 48 };
/// Most entries of a node in a tree that is built at once. They leave room for later keys.
pub(super) const MAX_BUILT: usize = FANOUT / 4 * 3 + 1;

#[derive(Clone, Debug)]
pub(super) enum Node {
    Leaf(Sorted<History>),
    Inner(Sorted<Child>),
}

impl Default for Node {
    fn default() -> Node {
        Node::Leaf(Sorted::default())
    }
}

#[derive(Clone, Debug)]
pub(super) struct Child {
    /// No key of this subtree is below it. Exact at creation; a removal may leave it lower than the lowest
    /// key.
    pub(super) lower: Bytes,
    pub(super) counts: Counts,
    pub(super) node: Arc<Node>,
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
    pub(super) fn new(lower: Bytes, node: Node) -> Child {
        Child { lower, counts: node.counts(), node: Arc::new(node) }
    }
}

/// Keys of a subtree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Keys that exist now.
    pub(super) live: usize,
    /// Keys with anything but one live version. No compaction changes the others.
    pub(super) past: usize,
}

impl Counts {
    pub(super) fn of(history: &History) -> Counts {
        Counts { live: usize::from(history.is_live()), past: usize::from(history.has_past()) }
    }

    /// The sum after one part of it has changed.
    pub(super) fn with(self, part: Counts, before: Counts) -> Counts {
        Counts { live: self.live + part.live - before.live, past: self.past + part.past - before.past }
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Counts>>(parts: I) -> Counts {
        parts.fold(Counts::default(), |sum, part| sum.with(part, Counts::default()))
    }
}

impl Node {
    pub(super) fn len(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(children) => children.len(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        match self {
            Node::Leaf(entries) => entries.iter().map(Counts::of).sum(),
            Node::Inner(children) => children.iter().map(|child| child.counts).sum(),
        }
    }

    /// Splits a node that has grown past the fanout, and returns the upper half with its lower bound.
    pub(super) fn split(&mut self) -> Option<Child> {
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
    pub(super) fn append(&mut self, right: &Node) {
        match (self, right) {
            (Node::Leaf(left), Node::Leaf(right)) => left.append(right),
            (Node::Inner(left), Node::Inner(right)) => left.append(right),
            _ => unreachable!("all leaves of the tree are at one depth"),
        }
    }
}

/// The child of an inner node that covers `key`.
pub(super) fn child_of(children: &Sorted<Child>, key: &[u8]) -> usize {
    children.find(key).unwrap_or_else(|at| at - 1)
}

/// Distributes `items` evenly over as few nodes as possible.
pub(super) fn distribute<T: Keyed>(
    mut items: impl ExactSizeIterator<Item = T>,
    node: impl Fn(Sorted<T>) -> Child,
) -> Vec<Child> {
    let nodes = items.len().div_ceil(MAX_BUILT);
    let next = |left: usize| {
        let share = items.len().div_ceil(left);
        node(Sorted::new(items.by_ref().take(share)))
    };
    (1..=nodes).rev().map(next).collect()
}

/// Adds a version to its key. Returns the counts of the key after and before.
pub(super) fn insert(
    node: &mut Node,
    version: KeyVersion,
    previous: &mut Option<KeyVersion>,
) -> (Counts, Counts) {
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

/// Sets a key's history, or takes the key out.
pub(super) fn replace(node: &mut Node, key: &[u8], history: Option<History>) {
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

/// Replaces a root with one child by the child.
pub(super) fn lower_root(root: &mut Node) {
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
pub(super) fn merge_small(children: &mut Sorted<Child>, at: usize) {
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
