//! Compaction of the tree: one leaf at a time.

use super::node::{Node, child_of, merge_small};
use crate::core::history::History;
use crate::core::sorted::Iter;
use crate::core::version::KeyVersion;
use crate::types::Revision;
use bytes::Bytes;
use std::sync::Arc;

/// Compacts the histories of the first leaf that has any at or behind `from`; the next node begins at
/// `upper`. Returns the number of visited versions, and the key to continue with. Copies only the path to the
/// leaf, and the changes in it.
pub(super) fn compact_leaf(
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
