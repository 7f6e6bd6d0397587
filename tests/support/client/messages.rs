//! Requests of the usual shapes, and the parts of responses.

use bytes::Bytes;
use jetway::proto::etcdserverpb::*;

use crate::keys::{b, prefix_end, prefix_start};

/// A read of one key.
pub fn get(key: impl AsRef<[u8]>) -> RangeRequest {
    RangeRequest { key: b(key), ..Default::default() }
}

/// A read of all keys that start with `prefix`.
pub fn all(prefix: impl AsRef<[u8]>) -> RangeRequest {
    RangeRequest { key: prefix_start(&prefix), range_end: prefix_end(prefix), ..Default::default() }
}

pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> PutRequest {
    PutRequest { key: b(key), value: b(value), ..Default::default() }
}

/// A delete of all keys that start with `prefix`.
pub fn delete_all(prefix: impl AsRef<[u8]>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: prefix_start(&prefix), range_end: prefix_end(prefix), prev_kv: false }
}

pub fn delete(key: impl AsRef<[u8]>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: b(key), ..Default::default() }
}

/// A request as an operation of a transaction.
pub fn op(request: impl Into<Operation>) -> RequestOp {
    RequestOp { request: Some(request.into().0) }
}

/// Exists so that `op` takes the plain request messages.
#[derive(Debug)]
pub struct Operation(request_op::Request);

impl From<RangeRequest> for Operation {
    fn from(request: RangeRequest) -> Self {
        Self(request_op::Request::RequestRange(request))
    }
}

impl From<PutRequest> for Operation {
    fn from(request: PutRequest) -> Self {
        Self(request_op::Request::RequestPut(request))
    }
}

impl From<DeleteRangeRequest> for Operation {
    fn from(request: DeleteRangeRequest) -> Self {
        Self(request_op::Request::RequestDeleteRange(request))
    }
}

impl From<TxnRequest> for Operation {
    fn from(request: TxnRequest) -> Self {
        Self(request_op::Request::RequestTxn(request))
    }
}

/// A transaction that runs `ops` without a condition.
pub fn run(ops: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success: ops, ..Default::default() }
}

/// The revision in an answer's header.
pub fn revision(header: &Option<ResponseHeader>) -> i64 {
    header.as_ref().expect("the answer has a header").revision
}

/// A key as text without its prefix.
pub fn name(prefix: &str, key: &Bytes) -> String {
    let key = key.strip_prefix(prefix.as_bytes()).expect("a key under the prefix");
    String::from_utf8_lossy(key).into_owned()
}

/// "`key`'s `given` target stands in relation `result` to `given`".
pub fn compare(
    key: impl AsRef<[u8]>,
    result: compare::CompareResult,
    given: compare::TargetUnion,
) -> Compare {
    use compare::{CompareTarget, TargetUnion};
    let target = match given {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    Compare {
        key: b(key),
        result: result.into(),
        target: target.into(),
        target_union: Some(given),
        range_end: Bytes::new(),
    }
}

/// The answer to the operation at `index`, which must be a range.
#[track_caller]
pub fn range_of(answer: &TxnResponse, index: usize) -> &RangeResponse {
    match &answer.responses[index].response {
        Some(response_op::Response::ResponseRange(range)) => range,
        other => panic!("operation {index} must answer with a range, not {other:?}"),
    }
}

/// The answer to the operation at `index`, which must be a put.
#[track_caller]
pub fn put_of(answer: &TxnResponse, index: usize) -> &PutResponse {
    match &answer.responses[index].response {
        Some(response_op::Response::ResponsePut(put)) => put,
        other => panic!("operation {index} must answer with a put, not {other:?}"),
    }
}

/// The answer to the operation at `index`, which must be a delete.
#[track_caller]
pub fn delete_of(answer: &TxnResponse, index: usize) -> &DeleteRangeResponse {
    match &answer.responses[index].response {
        Some(response_op::Response::ResponseDeleteRange(delete)) => delete,
        other => panic!("operation {index} must answer with a delete, not {other:?}"),
    }
}

/// The answer to the operation at `index`, which must be a transaction.
#[track_caller]
pub fn txn_of(answer: &TxnResponse, index: usize) -> &TxnResponse {
    match &answer.responses[index].response {
        Some(response_op::Response::ResponseTxn(txn)) => txn,
        other => panic!("operation {index} must answer with a transaction, not {other:?}"),
    }
}
