//! The planner: makes the writes and the response of a request from the newest planned store.
//!
//! Pure and synchronous. It takes and returns protobuf messages: own types would repeat Range, Put,
//! DeleteRange and Txn field by field, and would cost two conversions for every call. Headers hold the
//! revision alone; `api` fills in the ids.
//!
//! [`plan()`] runs on the writer, on a state and an [`Overlay`] of the records that the state does not show
//! yet. Its response is true once its records are valid. [`evaluate`] runs on every other instance: it builds
//! the same response from the history around the revision that the writer's record names.
//!
//! Invariants:
//! - P1: a plan is made on the store exactly as it is just before the plan's own records.
//! - P2: a response shows the store at one point of the history: just before the revision of the writes, with
//!   the transaction's own writes on top.

mod check;
mod compare;
mod execute;
mod path;
mod plan;
mod precheck;
mod range;
mod view;

pub(crate) use check::{check_delete_range, check_put, check_range, check_range_stream, check_txn};
pub(crate) use execute::Write;
#[cfg(any(fuzzing, test))]
pub(crate) use plan::Planned;
pub(crate) use plan::{Request, Response, answer_reads, evaluate, plan};
pub(crate) use precheck::{LeaseTable, PlanError};
pub(crate) use range::{RangeStream, is_long, key_value, range};
pub(crate) use view::{Base, Overlay};

use crate::core::State;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{RangeRequest, RequestOp, TxnRequest};

/// Whether neither branch of a transaction could write: each operation is a Range. Any nested transaction
/// makes it a write.
pub(crate) fn is_read_only(txn: &TxnRequest) -> bool {
    all_ranges(txn, |_| true)
}

/// Whether a transaction may be answered from local state of any age: each operation is a serializable Range,
/// or there is none.
pub(crate) fn is_serializable(txn: &TxnRequest) -> bool {
    all_ranges(txn, |range| range.serializable)
}

/// Whether a transaction that [only reads](is_read_only) may take a millisecond or more.
pub(crate) fn is_long_read(state: &State, txn: &TxnRequest) -> bool {
    [&txn.success, &txn.failure].into_iter().any(|branch| is_long(state, ranges(branch)))
}

fn ranges(ops: &[RequestOp]) -> impl Iterator<Item = &RangeRequest> {
    ops.iter().filter_map(|op| match &op.request {
        Some(Op::RequestRange(range)) => Some(range),
        _ => None,
    })
}

fn all_ranges(txn: &TxnRequest, condition: impl Fn(&RangeRequest) -> bool) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure);
    ops.all(|op| matches!(&op.request, Some(Op::RequestRange(range)) if condition(range)))
}

#[cfg(test)]
mod tests;
