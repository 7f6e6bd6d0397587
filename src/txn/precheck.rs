//! Checks of a request against the store, before anything runs.

use super::path::{branch, next_outcome};
use super::view::{Base, View};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{PutRequest, RangeRequest, TxnRequest};
use crate::types::LeaseId;
use std::slice::Iter;

/// The part of the leases that the planner needs.
pub(crate) trait LeaseTable {
    /// Whether a put may attach a key to this lease. One that has expired but is not revoked yet still
    /// counts.
    fn exists(&self, id: LeaseId) -> bool;
}

/// A request that is not planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PlanError {
    /// It is refused, and nothing is written.
    Refused(EtcdError),
    /// It reads a revision that is planned but not part of the state yet. The same plan can be made a little
    /// later.
    NotYet,
}

impl From<EtcdError> for PlanError {
    fn from(error: EtcdError) -> PlanError {
        PlanError::Refused(error)
    }
}

/// Checks the operations on the path against the store before the transaction. No operation has run yet, so a
/// put that keeps a value needs the key to exist before.
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

/// Unlike a Range on its own, one in a transaction may not ask for a negative revision, except for the -1
/// that etcd holds as the floor of a store never compacted.
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
