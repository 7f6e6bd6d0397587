//! The ordered index from keys to their histories: a B+tree whose nodes are shared and never changed once
//! another owner can see them.
//!
//! A clone of the tree costs one reference count, and later changes by the writer do not affect it. The
//! writer changes its own copy: [`Arc::make_mut`] copies exactly those nodes on a path that a clone still
//! holds, so a batch of changes between two publications copies each touched node once. Every inner node
//! keeps two numbers for each child. With the number of live keys, counting a range takes two descents and no
//! walk. With the number of keys with old versions, a compaction skips subtrees without them.

mod compact;
mod node;
#[cfg(test)]
mod tests;
mod walk;

use super::history::History;
use super::sorted::Sorted;
use super::version::KeyVersion;
use crate::types::{KeyRange, Revision};
use bytes::Bytes;
use compact::compact_leaf;
use node::{Child, Node, child_of, distribute, insert, lower_root, replace};
use std::sync::Arc;
use walk::Walk;

/// A persistent ordered map from key to [`History`].
#[derive(Clone, Debug, Default)]
pub struct Index {
    root: Arc<Node>,
}

impl Index {
    /// An index of these histories, which ascend by key.
    pub(super) fn from_sorted(histories: impl ExactSizeIterator<Item = History>) -> Index {
        let leaf = |entries: Sorted<History>| {
            Child::new(Bytes::copy_from_slice(entries[0].key()), Node::Leaf(entries))
        };
        let mut level = distribute(histories, leaf);
        // Later keys may be lower than the lowest.
        if let Some(first) = level.first_mut() {
            first.lower = Bytes::new();
        }
        while level.len() > 1 {
            level = distribute(level.into_iter(), |children| {
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
            let visited;
            (visited, next) = compact_leaf(&mut self.root, floor, from, None, &mut lost);
            seen += visited;
        }
        if !lost.is_empty() {
            lower_root(Arc::make_mut(&mut self.root));
        }
        (lost, next)
    }

    /// The histories of the keys in a range, in key order, deleted keys included.
    pub fn range<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a History> + 'a {
        let mut walk = Walk::default();
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
