//! The path of a transaction: the branches that its compares and those of nested transactions choose.

use super::compare::evaluate as compares_hold;
use super::view::View;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{RequestOp, TxnRequest};
use std::slice::Iter;

/// The outcomes of the compares of a transaction and of the nested transactions on its path. A transaction
/// comes before those nested in it, and these come in the order of the operations.
pub(super) type Path = Vec<bool>;

/// The operations of a transaction that run for an outcome of its compares.
pub(super) fn branch(txn: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// Evaluates the compares of a transaction and of all nested on the path taken, before anything runs.
pub(super) fn find_path(view: &View<'_>, txn: &TxnRequest, path: &mut Path) {
    let succeeded = compares_hold(view, &txn.compare);
    path.push(succeeded);
    for op in branch(txn, succeeded) {
        if let Some(Op::RequestTxn(nested)) = &op.request {
            find_path(view, nested, path);
        }
    }
}

/// The outcome of the next transaction on the path.
pub(super) fn next_outcome(path: &mut Iter<'_, bool>) -> bool {
    *path.next().expect("the path has an outcome for every transaction on it")
}
