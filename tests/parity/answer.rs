//! Answers in a form in which equal behaviour is equal.

use jetway::proto::etcdserverpb::range_request::SortTarget;
use jetway::proto::etcdserverpb::request_op::Request;
use jetway::proto::etcdserverpb::response_op::Response;
use jetway::proto::etcdserverpb::*;
use jetway::proto::mvccpb::KeyValue;
use tonic::{Code, Status};

/// What a request got.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Range(RangeResponse),
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    Grant(LeaseGrantResponse),
    Revoke(LeaseRevokeResponse),
    TimeToLive(LeaseTimeToLiveResponse),
    KeepAlive(LeaseKeepAliveResponse),
    Leases(LeaseLeasesResponse),
    Watch(WatchResponse),
    /// The request has no answer of its own.
    Silence,
    Error(Code, String),
}

impl Answer {
    pub fn of<T>(answer: Result<T, Status>, wrap: impl FnOnce(T) -> Self) -> Self {
        match answer {
            Ok(message) => wrap(message),
            Err(status) => Self::Error(status.code(), status.message().to_owned()),
        }
    }

    pub fn header(&self) -> Option<&ResponseHeader> {
        match self {
            Self::Range(m) => m.header.as_ref(),
            Self::Put(m) => m.header.as_ref(),
            Self::Delete(m) => m.header.as_ref(),
            Self::Txn(m) => m.header.as_ref(),
            Self::Compact(m) => m.header.as_ref(),
            Self::Grant(m) => m.header.as_ref(),
            Self::Revoke(m) => m.header.as_ref(),
            Self::TimeToLive(m) => m.header.as_ref(),
            Self::KeepAlive(m) => m.header.as_ref(),
            Self::Leases(m) => m.header.as_ref(),
            Self::Watch(m) => m.header.as_ref(),
            Self::Silence | Self::Error(..) => None,
        }
    }
}

/// Keeps of the ids only whether they are there, which tells a nested header from an outer one.
pub fn mask(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        header.cluster_id = u64::from(header.cluster_id != 0);
        header.member_id = u64::from(header.member_id != 0);
        header.raft_term = u64::from(header.raft_term != 0);
    }
}

pub fn range(request: &RangeRequest, mut response: RangeResponse) -> RangeResponse {
    mask(&mut response.header);
    order_ties(request, &mut response);
    response
}

/// The sort of a range is not stable, so elements that compare equal may come in any order, and where a limit
/// cuts through them, any of them may be the ones that come.
fn order_ties(request: &RangeRequest, response: &mut RangeResponse) {
    let Ok(target) = SortTarget::try_from(request.sort_target) else { return };
    if target == SortTarget::Key {
        return;
    }
    // The values that were sorted are not in the answer.
    let hidden = target == SortTarget::Value && request.keys_only;
    let tied = |a: &KeyValue, b: &KeyValue| match target {
        SortTarget::Key => false,
        SortTarget::Version => a.version == b.version,
        SortTarget::Create => a.create_revision == b.create_revision,
        SortTarget::Mod => a.mod_revision == b.mod_revision,
        SortTarget::Value => hidden || a.value == b.value,
    };
    let runs = response.kvs.chunk_by_mut(tied).count();
    for (n, run) in response.kvs.chunk_by_mut(tied).enumerate() {
        run.sort_by(|a, b| a.key.cmp(&b.key));
        if response.more && n + 1 == runs {
            for kv in run {
                let of_target = |is: SortTarget, number| if target == is { number } else { 0 };
                *kv = KeyValue {
                    version: of_target(SortTarget::Version, kv.version),
                    create_revision: of_target(SortTarget::Create, kv.create_revision),
                    mod_revision: of_target(SortTarget::Mod, kv.mod_revision),
                    value: if target == SortTarget::Value { kv.value.clone() } else { Default::default() },
                    ..Default::default()
                };
            }
        }
    }
}

pub fn txn(request: &TxnRequest, mut response: TxnResponse) -> TxnResponse {
    mask(&mut response.header);
    let taken = if response.succeeded { &request.success } else { &request.failure };
    for (op, answer) in taken.iter().zip(&mut response.responses) {
        answer.response = match (&op.request, answer.response.take()) {
            (Some(Request::RequestRange(q)), Some(Response::ResponseRange(r))) => {
                Some(Response::ResponseRange(range(q, r)))
            }
            (Some(Request::RequestTxn(q)), Some(Response::ResponseTxn(r))) => {
                Some(Response::ResponseTxn(txn(q, r)))
            }
            (_, Some(Response::ResponsePut(mut r))) => {
                mask(&mut r.header);
                Some(Response::ResponsePut(r))
            }
            (_, Some(Response::ResponseDeleteRange(mut r))) => {
                mask(&mut r.header);
                Some(Response::ResponseDeleteRange(r))
            }
            (_, other) => other,
        };
    }
    response
}
