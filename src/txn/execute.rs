//! The operations of a transaction, run in order over a view of the store that shows what earlier ones wrote.

use super::plan::{LeaseTable, PlanError, Write};
use super::range::{header, key_value, read};
use super::view::{Base, View};
use crate::core::{Change, ChangeKind, State};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::response_op::Response as OpResponse;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::types::{KeyRange, LeaseId, Revision, Sequence};
use bytes::Bytes;
use std::slice::Iter;

/// The outcomes of the compares of a transaction and of those nested on the path taken, outermost first, each before
/// the ones nested in it, in the order of the operations.
pub(super) type Path = Vec<bool>;

/// The operations that the outcome of its compares leaves of a transaction.
pub(super) fn branch(txn: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// Checks the operations on the path against the store before the transaction. Nothing has run yet, so a put that wants to keep
/// a value needs the key to be there beforehand.
pub(super) fn precheck(
    base: &Base<'_>,
    view: &View<'_>,
    leases: &dyn LeaseTable,
    txn: &TxnRequest,
    path: &mut Iter<'_, bool>,
) -> Result<(), PlanError> {
    branch(txn, next_outcome(path)).iter().try_for_each(|op| match &op.request {
        Some(Op::RequestRange(range)) => precheck_range(base, range),
        Some(Op::RequestPut(put)) => Ok(precheck_put(view, leases, put)?),
        Some(Op::RequestTxn(nested)) => precheck(base, view, leases, nested, path),
        Some(Op::RequestDeleteRange(_)) | None => Ok(()),
    })
}

fn next_outcome(path: &mut Iter<'_, bool>) -> bool {
    *path.next().expect("the path has an outcome for every transaction on it")
}

/// Unlike a Range on its own, one in a transaction may not ask for a negative revision, except for the -1 that etcd
/// holds as the floor of a store never compacted.
fn precheck_range(base: &Base<'_>, range: &RangeRequest) -> Result<(), PlanError> {
    let floor = base.compacted.map_or(-1, |floor| floor.0);
    match range.revision {
        0 => Ok(()),
        wanted if wanted > base.revision.0 => Err(EtcdError::FutureRevision.into()),
        wanted if wanted < floor => Err(EtcdError::Compacted.into()),
        wanted if wanted > base.state.revision.0 => Err(PlanError::NotYet),
        _ => Ok(()),
    }
}

pub(super) fn precheck_put(
    view: &View<'_>,
    leases: &dyn LeaseTable,
    put: &PutRequest,
) -> Result<(), EtcdError> {
    let lease = LeaseId(put.lease);
    if lease.is_some() && !leases.exists(lease) {
        return Err(EtcdError::LeaseNotFound);
    }
    if (put.ignore_value || put.ignore_lease) && view.get(&put.key).is_none() {
        return Err(EtcdError::KeyNotFound);
    }
    Ok(())
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
    /// `revision` is the one that the writes get, `view` what the operations find, and `past` holds the revisions that
    /// clients name in reads.
    pub(super) fn new(view: View<'a>, past: &'a State, revision: Revision) -> Execution<'a> {
        Execution { view, past, revision, writes: Vec::new() }
    }

    /// The revision in the header of the next response: the transaction's own as soon as it has changed something.
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
    /// [`EtcdError::KeyNotFound`] where an earlier operation has deleted the key whose value or lease is to be kept.
    /// etcd's own checks miss this case and it crashes.
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
