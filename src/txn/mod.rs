//! The planner: from a request and a snapshot to an answer, or to the writes that have to be published first.
//!
//! Pure and synchronous. The protobuf messages are the language in which it is spoken to and answers: a deliberate
//! shortcut, as domain types of our own would repeat Range, Put, DeleteRange and Txn field by field and would have
//! to be translated twice for every call. Headers hold the revision alone; the ids are filled in at the edge.
//!
//! A write takes two steps. [`plan()`] decides on a snapshot what is to be written, and guards everything that decision
//! hangs on. Once the writes are committed at a revision, which proves that no guarded key had changed,
//! [`Plan::answer`] runs the operations again for the response. Where a guard has failed the plan is void, and the
//! caller plans again on a newer snapshot.
//!
//! Invariants:
//! - P1: if all guards of a plan hold when it is committed, the store then gives the same compare outcomes, the same
//!   set of written keys, and for each of them the same previous version as the snapshot did.
//! - P2: a plan has at least one write; a request that changes nothing is answered at once. An answer, or an error, is
//!   as fresh as the snapshot: the caller makes sure that it is fresh enough (a compare that fails on an old snapshot
//!   proves nothing).
//! - P3: an answer shows the operations at one point of the history: just before the committed revision, with the
//!   transaction's own writes on top.

mod check;
mod compare;
mod execute;
mod plan;
mod range;
mod view;

pub use check::{check_delete_range, check_put, check_range, check_range_stream, check_txn};
pub use plan::{LeaseTable, Plan, Planned, Request, Response, Write, plan, plan_delete_keys};
pub use range::{RangeStream, key_value, range};

use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{RangeRequest, TxnRequest};

/// Whether neither branch of a transaction could write: nothing but Range on the top level. A nested transaction makes
/// it a write, whatever is in it.
pub fn is_read_only(txn: &TxnRequest) -> bool {
    all_ranges(txn, |_| true)
}

/// Whether a transaction may be answered from local state, however old: every operation is a serializable Range. One
/// without operations is.
pub fn is_serializable(txn: &TxnRequest) -> bool {
    all_ranges(txn, |range| range.serializable)
}

fn all_ranges(txn: &TxnRequest, condition: impl Fn(&RangeRequest) -> bool) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure);
    ops.all(|op| matches!(&op.request, Some(Op::RequestRange(range)) if condition(range)))
}

#[cfg(test)]
mod tests;
