//! Evaluation of compares.

use super::view::View;
use crate::core::KeyVersion;
use crate::proto::etcdserverpb::Compare;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::types::KeyRange;
use std::cmp::Ordering;

/// Whether all compares of one transaction hold in the store before it.
pub(super) fn evaluate(view: &View<'_>, compares: &[Compare]) -> bool {
    compares.iter().all(|compare| holds(view, compare))
}

fn holds(view: &View<'_>, compare: &Compare) -> bool {
    let range = KeyRange::from_wire(compare.key.clone(), &compare.range_end);
    if let KeyRange::Single(key) = range {
        return matches(compare, view.get(&key));
    }
    let (mut is_empty, mut holds) = (true, true);
    view.visit(&range, |version| {
        is_empty = false;
        holds = matches(compare, Some(version));
        holds
    });
    if is_empty { matches(compare, None) } else { holds }
}

/// A missing key compares as one whose numbers are all 0. It has no value, not even an empty one, so a
/// compare of its value always fails. A target union that does not fit the target counts as 0 or empty;
/// unknown enum values count as equal (target) and as true (result), as in etcd.
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
