//! Plans: what a request writes, what must not have changed for that to be right, and how to answer it afterwards.

use super::compare::{Witness, evaluate};
use super::execute::{Execution, Path, branch, precheck, precheck_put};
use super::range::header;
use super::view::newest_sequence;
use crate::core::{ChangeKind, State};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RequestOp, TxnRequest, TxnResponse,
};
use crate::types::{LeaseId, Revision, Sequence};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The leases that exist, as far as the planner cares.
pub trait LeaseTable {
    /// Whether a put may hang a key on this lease. One that has expired but is not revoked yet still counts.
    fn exists(&self, id: LeaseId) -> bool;
}

/// A request that may write. Its static checks have passed.
#[derive(Clone, Debug)]
pub enum Request {
    /// One key is put.
    Put(PutRequest),
    /// A range is deleted.
    DeleteRange(DeleteRangeRequest),
    /// A transaction.
    Txn(TxnRequest),
}

/// The response to a [`Request`] of the same kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To a put.
    Put(PutResponse),
    /// To a delete.
    DeleteRange(DeleteRangeResponse),
    /// To a transaction.
    Txn(TxnResponse),
}

/// What comes of a request.
#[derive(Debug)]
pub enum Planned {
    /// Nothing changes: this is the response.
    Answer(Response),
    /// This is to be published, and to be answered with [`Plan::answer`].
    Write(Plan),
}

/// One message to publish.
#[derive(Clone, Debug)]
pub struct Write {
    /// The key.
    pub key: Bytes,
    /// The sequence that the newest message of the key must have, [`Sequence::NONE`] where there must be none. `None`
    /// on a write that follows another of the same key in the same plan.
    pub guard: Option<Sequence>,
    /// What happens to the key.
    pub kind: ChangeKind,
}

/// The writes of one revision, and what they hang on.
#[derive(Debug)]
pub struct Plan {
    /// In the order of execution, which is the order of the events. Never empty.
    pub writes: Vec<Write>,
    /// Keys that are not written but must not have changed, in key order.
    pub guards: Vec<(Bytes, Sequence)>,
    /// Set where keys that do not exist could decide what is written: the stream must still end at this sequence.
    /// Covers all that `guards` could say, so that stays empty.
    pub whole_stream: Option<Sequence>,
    /// What the plan was made on.
    pub snapshot: Arc<State>,
    request: Request,
    path: Path,
    /// Whether the guards cover all that the operations read, so that the snapshot is as good as the state at the
    /// moment of the commit.
    is_covered: bool,
}

/// Decides what a request does to the store as the snapshot shows it.
///
/// # Errors
/// [`EtcdError::LeaseNotFound`], [`EtcdError::KeyNotFound`], [`EtcdError::FutureRevision`], [`EtcdError::Compacted`].
/// Nothing is to be written then.
pub fn plan(state: &Arc<State>, leases: &dyn LeaseTable, request: Request) -> Result<Planned, EtcdError> {
    let mut path = Path::new();
    let mut witnesses = Vec::new();
    match &request {
        Request::Put(put) => precheck_put(state, leases, put)?,
        Request::DeleteRange(_) => {}
        Request::Txn(txn) => {
            find_path(state, txn, &mut path, &mut witnesses);
            precheck(state, leases, txn, &mut path.iter())?;
        }
    }
    let mut execution = Execution::new(state, state.revision, state, state.revision.next(), false);
    run(&mut execution, &request, &path)?;
    if execution.writes.is_empty() {
        let mut execution = Execution::new(state, state.revision, state, state.revision.next(), true);
        return run(&mut execution, &request, &path).map(Planned::Answer);
    }

    let written: BTreeSet<&Bytes> = execution.writes.iter().map(|write| &write.key).collect();
    let guarded: BTreeSet<Bytes> = witnesses
        .iter()
        .filter_map(|witness| if let Witness::Key(key) = witness { Some(key.clone()) } else { None })
        .chain(execution.missing)
        .filter(|key| !written.contains(key))
        .collect();
    let hangs_on_range = execution.deletes_range || witnesses.contains(&Witness::Range);
    let reads_covered = !execution.reads_range
        && execution.read_keys.iter().all(|key| written.contains(key) || guarded.contains(key));
    let guards =
        guarded.into_iter().map(|key| (newest_sequence(state, &key), key)).map(|(at, key)| (key, at));
    Ok(Planned::Write(Plan {
        guards: if hangs_on_range { Vec::new() } else { guards.collect() },
        whole_stream: hangs_on_range.then_some(state.position),
        snapshot: Arc::clone(state),
        is_covered: hangs_on_range || reads_covered,
        writes: execution.writes,
        request,
        path,
    }))
}

/// Plans the deletion of those of some keys that exist, at one revision and in key order, as the end of a lease does;
/// `None` where none does. The caller has made sure on the same snapshot that the keys are to go: a key that is
/// written after it makes the plan void.
pub fn plan_delete_keys(state: &Arc<State>, keys: impl IntoIterator<Item = Bytes>) -> Option<Plan> {
    let live: BTreeSet<Bytes> = keys.into_iter().filter(|key| state.get(key).is_some()).collect();
    let success = live
        .into_iter()
        .map(|key| DeleteRangeRequest { key, ..DeleteRangeRequest::default() })
        .map(|delete| RequestOp { request: Some(Op::RequestDeleteRange(delete)) })
        .collect();
    let txn = TxnRequest { success, ..TxnRequest::default() };
    match plan(state, &NoLeases, Request::Txn(txn)) {
        Ok(Planned::Write(plan)) => Some(plan),
        Ok(Planned::Answer(_)) | Err(_) => None,
    }
}

struct NoLeases;

impl LeaseTable for NoLeases {
    fn exists(&self, _: LeaseId) -> bool {
        false
    }
}

/// Evaluates the compares of a transaction and of all nested on the path taken, before anything runs.
fn find_path(state: &State, txn: &TxnRequest, path: &mut Path, witnesses: &mut Vec<Witness>) {
    let (succeeded, found) = evaluate(state, &txn.compare);
    path.push(succeeded);
    witnesses.extend(found);
    for op in branch(txn, succeeded) {
        if let Some(Op::RequestTxn(nested)) = &op.request {
            find_path(state, nested, path, witnesses);
        }
    }
}

fn run(execution: &mut Execution<'_>, request: &Request, path: &Path) -> Result<Response, EtcdError> {
    Ok(match request {
        Request::Put(put) => Response::Put(execution.put(put)?),
        Request::DeleteRange(delete) => Response::DeleteRange(execution.delete_range(delete)),
        Request::Txn(txn) => Response::Txn(execution.txn(txn, &mut path.iter())?),
    })
}

impl Plan {
    /// The response, once the writes are committed at a revision and `now` shows it.
    ///
    /// # Errors
    /// [`EtcdError::Timeout`], whose meaning to a client is an unknown outcome: the transaction read keys that are not
    /// guarded, and a compaction has taken the revision before it away in the meantime.
    pub fn answer(&self, committed: Revision, now: &Arc<State>) -> Result<Response, EtcdError> {
        debug_assert!(now.revision >= committed);
        if let Request::Put(PutRequest { prev_kv: false, .. }) = &self.request {
            // It says nothing but when.
            return Ok(Response::Put(PutResponse { header: Some(header(committed)), prev_kv: None }));
        }
        let before = committed.prev();
        let mut execution = if self.is_covered || self.snapshot.revision == before {
            Execution::new(&self.snapshot, self.snapshot.revision, &self.snapshot, committed, true)
        } else if now.is_compacted(before) {
            return Err(EtcdError::Timeout);
        } else {
            Execution::new(now, before, &self.snapshot, committed, true)
        };
        run(&mut execution, &self.request, &self.path)
    }
}
