//! Compares: whether a stored version is what the client says, and what must stay as it is for that to remain so.

use crate::core::{KeyVersion, State};
use crate::proto::etcdserverpb::Compare;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::types::KeyRange;
use bytes::Bytes;
use std::cmp::Ordering;

/// What the outcome of a compare hangs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Witness {
    /// Nothing: the range can hold no key.
    Nothing,
    /// This key alone.
    Key(Bytes),
    /// Every key in a range, those that are not there included.
    Range,
}

/// Evaluates the compares of one transaction against the state before it. Where one is false, the witness is that of
/// a single false one, of a key rather than of a range; where all hold, there is one for each.
pub(super) fn evaluate(state: &State, compares: &[Compare]) -> (bool, Vec<Witness>) {
    let mut held = Vec::with_capacity(compares.len());
    let mut succeeded = true;
    for compare in compares {
        match evaluate_one(state, compare) {
            (true, witness) => held.push(witness),
            (false, Witness::Range) => succeeded = false,
            (false, witness) => return (false, vec![witness]),
        }
    }
    if succeeded { (true, held) } else { (false, vec![Witness::Range]) }
}

fn evaluate_one(state: &State, compare: &Compare) -> (bool, Witness) {
    let range = KeyRange::from_wire(compare.key.clone(), &compare.range_end);
    if let KeyRange::Single(key) = range {
        let holds = matches(compare, state.get(&key));
        return (holds, Witness::Key(key));
    }
    let mut is_empty = true;
    for version in state.index.live_range(&range, state.revision) {
        is_empty = false;
        if !matches(compare, Some(version)) {
            return (false, Witness::Key(Bytes::copy_from_slice(version.key())));
        }
    }
    let witness = if range.is_empty() { Witness::Nothing } else { Witness::Range };
    (!is_empty || matches(compare, None), witness)
}

/// A missing key compares as one whose numbers are all 0. It has no value, not even an empty one, so a compare of its
/// value fails whatever is asked. A target union that does not fit the target counts as 0 or empty; unknown enum
/// values count as equal (target) and as true (result), as in etcd.
fn matches(compare: &Compare, version: Option<&KeyVersion>) -> bool {
    let target = CompareTarget::try_from(compare.target);
    if version.is_none() && target == Ok(CompareTarget::Value) {
        return false;
    }
    let union = compare.target_union.as_ref();
    let ordering = match target {
        Ok(CompareTarget::Version) => {
            let given = if let Some(TargetUnion::Version(given)) = union { *given } else { 0 };
            version.map_or(0, KeyVersion::version).cmp(&given)
        }
        Ok(CompareTarget::Create) => {
            let given = if let Some(TargetUnion::CreateRevision(given)) = union { *given } else { 0 };
            version.map_or(0, |version| version.create_revision().0).cmp(&given)
        }
        Ok(CompareTarget::Mod) => {
            let given = if let Some(TargetUnion::ModRevision(given)) = union { *given } else { 0 };
            version.map_or(0, |version| version.mod_revision().0).cmp(&given)
        }
        Ok(CompareTarget::Lease) => {
            let given = if let Some(TargetUnion::Lease(given)) = union { *given } else { 0 };
            version.map_or(0, |version| version.lease().0).cmp(&given)
        }
        Ok(CompareTarget::Value) => {
            let given = if let Some(TargetUnion::Value(given)) = union { given.as_ref() } else { &[] };
            version.map_or(&[][..], KeyVersion::value).cmp(given)
        }
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
