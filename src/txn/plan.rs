//! Plans: the writes of a request, and the response to it.

use super::execute::{Execution, Write};
use super::path::{Path, find_path};
use super::precheck::{LeaseTable, PlanError, precheck, precheck_put};
use super::view::{Base, Overlay, View};
use crate::core::State;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, TxnRequest, TxnResponse,
};
use crate::types::{LeaseId, Revision};

/// A request that may write. Its static checks have passed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    /// One key is put.
    Put(PutRequest),
    /// A range is deleted.
    DeleteRange(DeleteRangeRequest),
    /// A transaction.
    Txn(TxnRequest),
}

/// The response to a [`Request`] of the same kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Response {
    /// To a put.
    Put(PutResponse),
    /// To a delete.
    DeleteRange(DeleteRangeResponse),
    /// To a transaction.
    Txn(TxnResponse),
}

/// The outcome of planning a request.
#[derive(Debug)]
pub(crate) struct Planned {
    /// The changes of the next revision in the order of execution, which is the order of the events. Empty if
    /// the request changes nothing.
    pub writes: Vec<Write>,
    /// The response, true once the writes are part of the log at the next revision.
    pub response: Response,
}

/// Decides what a request does to the newest planned store.
///
/// # Errors
/// [`PlanError::Refused`] with [`EtcdError::LeaseNotFound`], [`EtcdError::KeyNotFound`],
/// [`EtcdError::FutureRevision`] or [`EtcdError::Compacted`]; [`PlanError::NotYet`].
pub(crate) fn plan(base: Base<'_>, leases: &dyn LeaseTable, request: &Request) -> Result<Planned, PlanError> {
    let view = View::planned(base);
    let mut path = Path::new();
    match request {
        Request::Put(put) => precheck_put(&view, leases, put)?,
        Request::DeleteRange(_) => {}
        Request::Txn(txn) => {
            find_path(&view, txn, &mut path);
            precheck(&base, &view, leases, txn, &mut path.iter())?;
        }
    }
    let mut execution = Execution::new(view, base.state, base.revision.next());
    let response = run(&mut execution, request, &path)?;
    Ok(Planned { writes: execution.writes, response })
}

/// The response to a request whose writes, if it has any, made the revision after `before`.
///
/// # Errors
/// [`EtcdError::Timeout`], which means an unknown outcome to a client: the revision `before` was compacted in
/// the meantime. The errors of [`plan`] cannot come, since the writer has planned the same request on the
/// same store.
pub(crate) fn evaluate(state: &State, before: Revision, request: &Request) -> Result<Response, EtcdError> {
    if let Request::Put(PutRequest { prev_kv: false, .. }) = request {
        let header = Some(super::range::header(before.next()));
        return Ok(Response::Put(PutResponse { header, prev_kv: None }));
    }
    if state.is_compacted(before) || before > state.revision {
        return Err(EtcdError::Timeout);
    }
    let view = View::new(state, before);
    let mut path = Path::new();
    if let Request::Txn(txn) = request {
        find_path(&view, txn, &mut path);
    }
    run(&mut Execution::new(view, state, before.next()), request, &path)
}

/// The response to a request that writes nothing, from a state.
///
/// # Errors
/// As [`plan`]; [`EtcdError::Unknown`] if the request does write.
pub(crate) fn answer_reads(state: &State, request: &Request) -> Result<Response, EtcdError> {
    let overlay = Overlay::default();
    let base = Base { state, overlay: &overlay, revision: state.revision, compacted: state.compacted };
    match plan(base, &NoLeases, request) {
        Ok(Planned { writes, response }) if writes.is_empty() => Ok(response),
        Err(PlanError::Refused(error)) => Err(error),
        Ok(_) | Err(PlanError::NotYet) => {
            Err(EtcdError::Unknown("jetway: this request is not a read".into()))
        }
    }
}

struct NoLeases;

impl LeaseTable for NoLeases {
    fn exists(&self, _: LeaseId) -> bool {
        false
    }
}

fn run(execution: &mut Execution<'_>, request: &Request, path: &Path) -> Result<Response, EtcdError> {
    Ok(match request {
        Request::Put(put) => Response::Put(execution.put_only(put)?),
        Request::DeleteRange(delete) => Response::DeleteRange(execution.delete_range(delete)),
        Request::Txn(txn) => Response::Txn(execution.txn(txn, &mut path.iter())?),
    })
}
