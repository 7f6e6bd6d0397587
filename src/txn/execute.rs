//! The operations of a transaction, run in order over a view of the store that shows what earlier ones wrote.
//!
//! The same code runs twice for a write: once to find out what is to be written, and once more, when the revision is
//! known, to build the answer. Only what the first run left open may differ between the two.

use super::plan::{LeaseTable, Write};
use super::range::{header, key_value, read};
use super::view::View;
use crate::core::{ChangeKind, KeyVersion, State, VersionParts};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::response_op::Response as OpResponse;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::types::{KeyRange, LeaseId, Revision, Sequence};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::slice::Iter;

/// The outcomes of the compares of a transaction and of those nested on the path taken, outermost first, each before
/// the ones nested in it, in the order of the operations.
pub(super) type Path = Vec<bool>;

/// The operations that the outcome of its compares leaves of a transaction.
pub(super) fn branch(txn: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// Checks the operations on the path against the state before the transaction. Nothing has run yet, so a put that
/// wants to keep a value needs the key to be there beforehand.
pub(super) fn precheck(
    state: &State,
    leases: &dyn LeaseTable,
    txn: &TxnRequest,
    path: &mut Iter<'_, bool>,
) -> Result<(), EtcdError> {
    branch(txn, next_outcome(path)).iter().try_for_each(|op| match &op.request {
        Some(Op::RequestRange(range)) => precheck_range(state, range),
        Some(Op::RequestPut(put)) => precheck_put(state, leases, put),
        Some(Op::RequestTxn(nested)) => precheck(state, leases, nested, path),
        Some(Op::RequestDeleteRange(_)) | None => Ok(()),
    })
}

fn next_outcome(path: &mut Iter<'_, bool>) -> bool {
    *path.next().expect("the path has an outcome for every transaction on it")
}

/// Unlike a Range on its own, one in a transaction may not ask for a negative revision, except for the -1 that etcd
/// holds as the floor of a store never compacted.
fn precheck_range(state: &State, range: &RangeRequest) -> Result<(), EtcdError> {
    let floor = state.compacted.map_or(-1, |floor| floor.0);
    match range.revision {
        0 => Ok(()),
        wanted if wanted > state.revision.0 => Err(EtcdError::FutureRevision),
        wanted if wanted < floor => Err(EtcdError::Compacted),
        _ => Ok(()),
    }
}

pub(super) fn precheck_put(
    state: &State,
    leases: &dyn LeaseTable,
    put: &PutRequest,
) -> Result<(), EtcdError> {
    let lease = LeaseId(put.lease);
    if lease.is_some() && !leases.exists(lease) {
        return Err(EtcdError::LeaseNotFound);
    }
    if (put.ignore_value || put.ignore_lease) && state.get(&put.key).is_none() {
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
    /// Whether the responses are wanted. Without them nothing is read that decides no write.
    answers: bool,
    pub(super) writes: Vec<Write>,
    /// Keys whose absence decided that nothing was deleted.
    pub(super) missing: BTreeSet<Bytes>,
    /// Whether the keys of an interval decided what was written.
    pub(super) deletes_range: bool,
    /// Single keys that were read at the revision of the view.
    pub(super) read_keys: BTreeSet<Bytes>,
    /// Whether an interval was read at the revision of the view.
    pub(super) reads_range: bool,
}

impl<'a> Execution<'a> {
    /// `revision` is the one the writes get, `state` at `before` what the operations find, and `past` holds the
    /// revisions that clients name in reads.
    pub(super) fn new(
        state: &'a State,
        before: Revision,
        past: &'a State,
        revision: Revision,
        answers: bool,
    ) -> Execution<'a> {
        Execution {
            view: View::new(state, before),
            past,
            revision,
            answers,
            writes: Vec::new(),
            missing: BTreeSet::new(),
            deletes_range: false,
            read_keys: BTreeSet::new(),
            reads_range: false,
        }
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
        let names_revision = request.revision > 0;
        if self.answers {
            let current = self.current();
            return if names_revision {
                read(&View::new(self.past, Revision(request.revision)), request, current)
            } else {
                read(&self.view, request, current)
            };
        }
        if !names_revision {
            match KeyRange::from_wire(request.key.clone(), &request.range_end) {
                KeyRange::Single(key) => drop(self.read_keys.insert(key)),
                KeyRange::Span { .. } => self.reads_range = true,
            }
        }
        RangeResponse::default()
    }

    /// # Errors
    /// [`EtcdError::KeyNotFound`] where an earlier operation has deleted the key whose value or lease is to be kept.
    /// etcd's own checks miss this case and it crashes.
    pub(super) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, EtcdError> {
        let previous = self.view.get(&request.key).cloned();
        let kept = || previous.as_ref().ok_or(EtcdError::KeyNotFound);
        let value = if request.ignore_value { kept()?.to_bytes().1 } else { request.value.clone() };
        let lease = if request.ignore_lease { kept()?.lease() } else { LeaseId(request.lease) };
        let (created, number) = previous
            .as_ref()
            .map_or((self.revision, 1), |previous| (previous.create_revision(), previous.version() + 1));
        let guard = self.guard(&request.key);
        self.writes.push(Write {
            key: request.key.clone(),
            guard,
            kind: ChangeKind::Put {
                value: value.clone(),
                create_revision: Some(created).filter(|created| *created != self.revision),
                version: number,
                lease,
            },
        });
        let (key, mod_revision) = (request.key.clone(), self.revision);
        self.view.put(request.key.clone(), move || {
            KeyVersion::new(&VersionParts {
                key: &key,
                value: &value,
                create_revision: created,
                mod_revision,
                version: number,
                lease,
                sequence: Sequence::NONE,
                place: 0,
            })
        });
        let prev_kv = previous.as_ref().filter(|_| request.prev_kv).map(key_value);
        Ok(PutResponse { header: Some(header(self.revision)), prev_kv })
    }

    pub(super) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let range = KeyRange::from_wire(request.key.clone(), &request.range_end);
        let mut found = Vec::new();
        self.view.visit(&range, |version| {
            found.push(version.clone());
            true
        });
        match &range {
            KeyRange::Span { .. } => self.deletes_range |= !range.is_empty(),
            KeyRange::Single(key) if found.is_empty() && !self.view.is_written(key) => {
                self.missing.insert(key.clone());
            }
            KeyRange::Single(_) => {}
        }
        for version in &found {
            let guard = self.guard(version.key());
            let key = Bytes::copy_from_slice(version.key());
            self.writes.push(Write { key: key.clone(), guard, kind: ChangeKind::Delete });
            self.view.delete(key);
        }
        let prev_kvs =
            if request.prev_kv && self.answers { found.iter().map(key_value).collect() } else { Vec::new() };
        DeleteRangeResponse { header: Some(header(self.current())), deleted: found.len() as i64, prev_kvs }
    }

    /// What the first write of a key expects to find; JetStream takes no second expectation for a key in one batch.
    fn guard(&self, key: &[u8]) -> Option<Sequence> {
        (!self.view.is_written(key)).then(|| self.view.newest_sequence(key))
    }
}
