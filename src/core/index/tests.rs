//! The tree against an ordered map.

use super::Index;
use super::node::{FANOUT, Node};
use crate::core::{KeyVersion, VersionParts};
use crate::types::{KeyRange, LeaseId, Revision, Sequence};
use bytes::Bytes;
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
            assert!(entries.iter().zip(entries.iter().skip(1)).all(|(left, right)| left.key() < right.key()));
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
    #![proptest_config(crate::core::tests::config(256))]

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
