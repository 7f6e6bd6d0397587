//! Checks of a request that need no store. They come in etcd's order, since a client gets the first failure.

use crate::error::EtcdError;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

/// Checks a Range.
///
/// # Errors
/// [`EtcdError::EmptyKey`], [`EtcdError::InvalidSortOption`].
pub(crate) fn check_range(request: &RangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(EtcdError::InvalidSortOption);
    }
    Ok(())
}

/// Checks a RangeStream: a Range in key order and without filters.
///
/// # Errors
/// As [`check_range`]; [`EtcdError::StreamSort`], [`EtcdError::StreamFilter`].
pub(crate) fn check_range_stream(request: &RangeRequest) -> Result<(), EtcdError> {
    check_range(request)?;
    if !super::range::is_default_order(request) {
        return Err(EtcdError::StreamSort);
    }
    if super::range::has_filters(request) {
        return Err(EtcdError::StreamFilter);
    }
    Ok(())
}

/// Checks a Put. The planner checks that its lease exists, and the key whose value it keeps.
///
/// # Errors
/// [`EtcdError::EmptyKey`], [`EtcdError::ValueProvided`], [`EtcdError::LeaseProvided`].
pub(crate) fn check_put(request: &PutRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(EtcdError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(EtcdError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(EtcdError::LeaseProvided);
    }
    Ok(())
}

/// Checks a DeleteRange.
///
/// # Errors
/// [`EtcdError::EmptyKey`].
pub(crate) fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() { Err(EtcdError::EmptyKey) } else { Ok(()) }
}

/// Checks a Txn with all that is nested in it, both branches alike. No path from the outermost transaction to
/// an innermost operation may need more than `max_ops`, each transaction on it counting for its longest list.
///
/// # Errors
/// [`EtcdError::TooManyOps`], [`EtcdError::DuplicateKey`], [`EtcdError::KeyNotFound`] for an empty operation,
/// and those of single operations.
pub(crate) fn check_txn(request: &TxnRequest, max_ops: usize) -> Result<(), EtcdError> {
    check_ops(request, max_ops)?;
    check_overlaps(&request.success)?;
    check_overlaps(&request.failure)?;
    Ok(())
}

fn check_ops(request: &TxnRequest, budget: usize) -> Result<(), EtcdError> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let rest = budget.checked_sub(longest).ok_or(EtcdError::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(EtcdError::EmptyKey);
    }
    request.success.iter().chain(&request.failure).try_for_each(|op| match &op.request {
        Some(Request::RequestRange(range)) => check_range(range),
        Some(Request::RequestPut(put)) => check_put(put),
        Some(Request::RequestDeleteRange(delete)) => check_delete_range(delete),
        Some(Request::RequestTxn(txn)) => check_ops(txn, rest),
        None => Err(EtcdError::KeyNotFound),
    })
}

/// The writes of a list of operations, for the outer list.
#[derive(Default)]
struct Written<'a> {
    puts: HashSet<&'a [u8]>,
    deletes: Intervals,
}

/// Refuses two puts of one key in one list, and a put of a key that a delete of the list covers.
///
/// Nested transactions count as part of the list, with etcd's gaps: a nested delete is checked against nested
/// puts only of later transactions, and the two branches of one transaction may put the same keys, as only
/// one of them runs.
fn check_overlaps(ops: &[RequestOp]) -> Result<Written<'_>, EtcdError> {
    let mut written = Written::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            written.deletes.insert(delete);
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(txn)) = &op.request {
            let then = check_overlaps(&txn.success)?;
            let otherwise = check_overlaps(&txn.failure)?;
            let clashes = |key: &&[u8]| written.puts.contains(*key) || written.deletes.covers(key);
            if then.puts.iter().any(clashes) || otherwise.puts.iter().any(clashes) {
                return Err(EtcdError::DuplicateKey);
            }
            written.puts.extend(then.puts);
            written.puts.extend(otherwise.puts);
            written.deletes.merge(then.deletes);
            written.deletes.merge(otherwise.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request
            && (written.deletes.covers(&put.key) || !written.puts.insert(&put.key))
        {
            return Err(EtcdError::DuplicateKey);
        }
    }
    Ok(written)
}

/// Disjoint half-open intervals, first key to end. Only here an end of one zero byte is an ordinary end, so
/// that such an interval holds nothing: etcd compares it so, and clients may rely on it.
#[derive(Default)]
struct Intervals(BTreeMap<Bytes, Bytes>);

impl Intervals {
    fn insert(&mut self, delete: &DeleteRangeRequest) {
        let end = if delete.range_end.is_empty() {
            [delete.key.as_ref(), &[0]].concat().into()
        } else {
            delete.range_end.clone()
        };
        self.add(delete.key.clone(), end);
    }

    fn add(&mut self, mut start: Bytes, mut end: Bytes) {
        if start >= end {
            return;
        }
        while let Some((below, upper)) = self.last_from(&end)
            && *upper >= start
        {
            let (below, upper) = (below.clone(), upper.clone());
            self.0.remove(&below);
            start = start.min(below);
            end = end.max(upper);
        }
        self.0.insert(start, end);
    }

    fn merge(&mut self, other: Intervals) {
        for (start, end) in other.0 {
            self.add(start, end);
        }
    }

    /// The last interval that starts at or before a key.
    fn last_from(&self, key: &[u8]) -> Option<(&Bytes, &Bytes)> {
        self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()
    }

    fn covers(&self, key: &[u8]) -> bool {
        self.last_from(key).is_some_and(|(_, end)| key < end.as_ref())
    }
}
