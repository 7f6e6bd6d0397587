//! A walk over the tree in the order of keys.

use super::node::{Child, Node, child_of};
use crate::core::history::History;
use crate::core::sorted::Iter;

/// The untouched right-hand siblings on the path, and the rest of the present leaf.
#[derive(Default)]
pub(super) struct Walk<'a> {
    inner: Vec<Iter<'a, Child>>,
    leaf: Iter<'a, History>,
}

impl<'a> Walk<'a> {
    /// Begins at the first key that is not below `key`.
    pub(super) fn seek(&mut self, mut node: &'a Node, key: &[u8]) {
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
