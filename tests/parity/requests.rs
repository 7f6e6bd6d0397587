//! The requests that operations send.

use jetway::proto::etcdserverpb as pb;
use serde_json::Value;

use crate::ops::*;

/// The revisions that relative ones count from.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    pub current: i64,
    pub floor: i64,
}

impl Marks {
    pub fn resolve(self, rev: Rev) -> i64 {
        match rev {
            Rev::Unset => 0,
            Rev::At(revision) => revision,
            Rev::Now(plus) => self.current + plus,
            Rev::Floor(plus) => self.floor + plus,
        }
    }
}

impl Range {
    pub fn request(&self, marks: Marks) -> pb::RangeRequest {
        pb::RangeRequest {
            key: (&self.key).into(),
            range_end: (&self.end).into(),
            limit: self.limit,
            revision: marks.resolve(self.revision),
            sort_order: self.order,
            sort_target: self.target,
            serializable: self.serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            min_mod_revision: marks.resolve(self.min_mod),
            max_mod_revision: marks.resolve(self.max_mod),
            min_create_revision: marks.resolve(self.min_create),
            max_create_revision: marks.resolve(self.max_create),
        }
    }
}

impl Put {
    pub fn request(&self) -> pb::PutRequest {
        pb::PutRequest {
            key: (&self.key).into(),
            value: (&self.value).into(),
            lease: self.lease,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        }
    }
}

impl Big {
    pub fn put(&self) -> pb::PutRequest {
        pb::PutRequest { key: (&self.key).into(), value: vec![b'x'; self.count].into(), ..Default::default() }
    }

    pub fn puts(&self) -> pb::TxnRequest {
        let put = |n: usize| {
            let key = [&self.key.0[..], n.to_string().as_bytes()].concat();
            let put = pb::PutRequest { key: key.into(), ..Default::default() };
            pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
        };
        pb::TxnRequest { success: (0..self.count).map(put).collect(), ..Default::default() }
    }
}

impl Delete {
    pub fn request(&self) -> pb::DeleteRangeRequest {
        pb::DeleteRangeRequest {
            key: (&self.key).into(),
            range_end: (&self.end).into(),
            prev_kv: self.prev_kv,
        }
    }
}

impl Txn {
    pub fn request(&self, marks: Marks) -> pb::TxnRequest {
        let ops = |ops: &[TxnOp]| ops.iter().map(|op| op.request(marks)).collect();
        pb::TxnRequest {
            compare: self.compare.iter().map(|compare| compare.request(marks)).collect(),
            success: ops(&self.success),
            failure: ops(&self.failure),
        }
    }
}

impl TxnOp {
    fn request(&self, marks: Marks) -> pb::RequestOp {
        use pb::request_op::Request;
        let request = match self {
            Self::Range(range) => Some(Request::RequestRange(range.request(marks))),
            Self::Put(put) => Some(Request::RequestPut(put.request())),
            Self::Delete(delete) => Some(Request::RequestDeleteRange(delete.request())),
            Self::Txn(txn) => Some(Request::RequestTxn(txn.request(marks))),
            Self::Nothing => None,
        };
        pb::RequestOp { request }
    }
}

impl Compare {
    fn request(&self, marks: Marks) -> pb::Compare {
        use pb::compare::TargetUnion;
        let target_union = self.operand.as_ref().map(|operand| match operand {
            Operand::Version(version) => TargetUnion::Version(*version),
            Operand::Create(rev) => TargetUnion::CreateRevision(marks.resolve(*rev)),
            Operand::Mod(rev) => TargetUnion::ModRevision(marks.resolve(*rev)),
            Operand::Value(value) => TargetUnion::Value(value.into()),
            Operand::Lease(lease) => TargetUnion::Lease(*lease),
        });
        pb::Compare {
            result: self.result,
            target: self.target,
            key: (&self.key).into(),
            range_end: (&self.end).into(),
            target_union,
        }
    }
}

impl Watch {
    pub fn request(&self, marks: Marks) -> pb::WatchCreateRequest {
        pb::WatchCreateRequest {
            key: (&self.key).into(),
            range_end: (&self.end).into(),
            start_revision: marks.resolve(self.start),
            progress_notify: self.progress_notify,
            filters: self.filters.clone(),
            prev_kv: self.prev_kv,
            watch_id: self.id,
            fragment: self.fragment,
        }
    }
}

impl Call {
    /// Fields that are zero are left out, so that a call equals its text.
    pub fn new(method: &str, mut request: Value) -> Self {
        drop_zeros(&mut request);
        Self { method: method.to_owned(), request }
    }
}
