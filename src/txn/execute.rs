//! The operations of a transaction, run in order over a view of the store with the writes of earlier ones.

use super::path::{branch, next_outcome};
use super::range::{header, key_value, read};
use super::view::View;
use crate::core::{Change, ChangeKind, State};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::response_op::Response as OpResponse;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::types::{KeyRange, LeaseId, Revision, Sequence};
use bytes::Bytes;
use std::slice::Iter;

/// One change of one key.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// The key.
    pub key: Bytes,
    /// The change.
    pub kind: ChangeKind,
}

/// One run of the operations.
#[derive(Debug)]
pub(super) struct Execution<'a> {
    view: View<'a>,
    /// Answers reads at a revision that the client names.
    past: &'a State,
    /// The revision that the writes get.
    revision: Revision,
    pub(super) writes: Vec<Write>,
}

impl<'a> Execution<'a> {
    /// `revision` is the one that the writes get. The operations read `view`, and `past` for reads at a named
    /// revision.
    pub(super) fn new(view: View<'a>, past: &'a State, revision: Revision) -> Execution<'a> {
        Execution { view, past, revision, writes: Vec::new() }
    }

    /// The revision in the header of the next response: the transaction's own as soon as it has changed
    /// something.
    fn current(&self) -> Revision {
        if self.writes.is_empty() { self.revision.prev() } else { self.revision }
    }

    pub(super) fn txn(
        &mut self,
        txn: &TxnRequest,
        path: &mut Iter<'_, bool>,
    ) -> Result<TxnResponse, EtcdError> {
        let mut response = self.nested(txn, path)?;
        response.header = Some(header(self.current()));
        Ok(response)
    }

    /// A nested transaction's header is there but empty.
    fn nested(&mut self, txn: &TxnRequest, path: &mut Iter<'_, bool>) -> Result<TxnResponse, EtcdError> {
        let succeeded = next_outcome(path);
        let ops = branch(txn, succeeded);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            let response = match &op.request {
                Some(Op::RequestRange(range)) => Some(OpResponse::ResponseRange(self.range(range))),
                Some(Op::RequestPut(put)) => Some(OpResponse::ResponsePut(self.put(put)?)),
                Some(Op::RequestDeleteRange(delete)) => {
                    Some(OpResponse::ResponseDeleteRange(self.delete_range(delete)))
                }
                Some(Op::RequestTxn(nested)) => Some(OpResponse::ResponseTxn(self.nested(nested, path)?)),
                None => None,
            };
            responses.push(ResponseOp { response });
        }
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }

    fn range(&mut self, request: &RangeRequest) -> RangeResponse {
        let current = self.current();
        if request.revision > 0 {
            read(&View::new(self.past, Revision(request.revision)), request, current)
        } else {
            read(&self.view, request, current)
        }
    }

    /// Runs the only operation of a request: no other one reads what it writes.
    pub(super) fn put_only(&mut self, request: &PutRequest) -> Result<PutResponse, EtcdError> {
        let (response, _) = self.write_put(request)?;
        Ok(response)
    }

    /// # Errors
    /// [`EtcdError::KeyNotFound`] if an earlier operation has deleted the key whose value or lease is kept.
    /// etcd's own checks miss this case, and etcd crashes.
    fn put(&mut self, request: &PutRequest) -> Result<PutResponse, EtcdError> {
        let (response, change) = self.write_put(request)?;
        let mod_revision = self.revision;
        self.view.put(request.key.clone(), move || change.version(mod_revision));
        Ok(response)
    }

    fn write_put(&mut self, request: &PutRequest) -> Result<(PutResponse, Change), EtcdError> {
        let previous = self.view.get(&request.key);
        let kept = || previous.ok_or(EtcdError::KeyNotFound);
        let value = if request.ignore_value { kept()?.to_bytes().1 } else { request.value.clone() };
        let lease = if request.ignore_lease { kept()?.lease() } else { LeaseId(request.lease) };
        let (create_revision, version) = match previous {
            Some(previous) => (
                Some(previous.create_revision()).filter(|created| *created != self.revision),
                previous.version() + 1,
            ),
            None => (None, 1),
        };
        let prev_kv = previous.filter(|_| request.prev_kv).map(key_value);
        let kind = ChangeKind::Put { value, create_revision, version, lease };
        let key = request.key.clone();
        self.writes.push(Write { key: key.clone(), kind: kind.clone() });
        let response = PutResponse { header: Some(header(self.revision)), prev_kv };
        Ok((response, Change { key, sequence: Sequence::NONE, place: 0, kind }))
    }

    pub(super) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let range = KeyRange::from_wire(request.key.clone(), &request.range_end);
        let mut found = Vec::new();
        self.view.visit(&range, |version| {
            found.push(version.clone());
            true
        });
        for version in &found {
            let key = Bytes::copy_from_slice(version.key());
            self.writes.push(Write { key: key.clone(), kind: ChangeKind::Delete });
            self.view.delete(key);
        }
        let prev_kvs = if request.prev_kv { found.iter().map(key_value).collect() } else { Vec::new() };
        DeleteRangeResponse { header: Some(header(self.current())), deleted: found.len() as i64, prev_kvs }
    }
}
