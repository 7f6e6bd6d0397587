//! The planner on a real core, first rule by rule (the names carry the ids of `tests/RULES.md`), then against
//! a naive model with random requests.

mod checks;
mod model;
mod properties;
mod ranges;
mod store;
mod txns;

use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use bytes::Bytes;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), ..RangeRequest::default() }
}

fn list(key: &str, end: &str) -> RangeRequest {
    RangeRequest { range_end: bytes(end), ..get(key) }
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() }
}

fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), ..DeleteRangeRequest::default() }
}

fn delete_range(key: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { range_end: bytes(end), ..delete(key) }
}

fn compare(key: &str, result: CompareResult, given: TargetUnion) -> Compare {
    let target = match given {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    Compare {
        key: bytes(key),
        result: result as i32,
        target: target as i32,
        target_union: Some(given),
        range_end: Bytes::new(),
    }
}

/// `mod_revision(key) == revision`, the compare of Kubernetes.
fn unchanged(key: &str, revision: i64) -> Compare {
    compare(key, CompareResult::Equal, TargetUnion::ModRevision(revision))
}

fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare, success, failure }
}

fn ops(success: Vec<RequestOp>) -> TxnRequest {
    txn(vec![], success, vec![])
}

impl From<RangeRequest> for RequestOp {
    fn from(request: RangeRequest) -> RequestOp {
        RequestOp { request: Some(Op::RequestRange(request)) }
    }
}

impl From<PutRequest> for RequestOp {
    fn from(request: PutRequest) -> RequestOp {
        RequestOp { request: Some(Op::RequestPut(request)) }
    }
}

impl From<DeleteRangeRequest> for RequestOp {
    fn from(request: DeleteRangeRequest) -> RequestOp {
        RequestOp { request: Some(Op::RequestDeleteRange(request)) }
    }
}

impl From<TxnRequest> for RequestOp {
    fn from(request: TxnRequest) -> RequestOp {
        RequestOp { request: Some(Op::RequestTxn(request)) }
    }
}
