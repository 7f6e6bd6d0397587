//! The rights that a KV request needs: to read each key that it reads, compares or returns as a previous
//! value, and to write each key that it writes. Both branches of a transaction count.

use super::Access;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};
use crate::txn::Request;
use crate::types::LeaseId;

/// Checks a request. `may_attach` returns whether the caller may attach a key to a lease.
///
/// # Errors
/// The first failed check of `access` or of `may_attach`.
pub(crate) fn check(
    access: &Access,
    request: &Request,
    may_attach: &dyn Fn(LeaseId) -> Result<(), EtcdError>,
) -> Result<(), EtcdError> {
    if access.is_unlimited() {
        return Ok(());
    }
    let check = Check { access, may_attach };
    match request {
        Request::Put(put) => check.put(put),
        Request::DeleteRange(delete) => check.delete(delete),
        Request::Txn(txn) => check.txn(txn),
    }
}

struct Check<'a> {
    access: &'a Access,
    may_attach: &'a dyn Fn(LeaseId) -> Result<(), EtcdError>,
}

impl Check<'_> {
    fn put(&self, put: &PutRequest) -> Result<(), EtcdError> {
        self.access.write(&put.key, &[])?;
        (self.may_attach)(LeaseId(put.lease))?;
        if put.prev_kv { self.access.read(&put.key, &[]) } else { Ok(()) }
    }

    fn delete(&self, delete: &DeleteRangeRequest) -> Result<(), EtcdError> {
        self.access.write(&delete.key, &delete.range_end)?;
        if delete.prev_kv { self.access.read(&delete.key, &delete.range_end) } else { Ok(()) }
    }

    fn txn(&self, txn: &TxnRequest) -> Result<(), EtcdError> {
        txn.compare.iter().try_for_each(|compare| self.access.read(&compare.key, &compare.range_end))?;
        txn.success.iter().chain(&txn.failure).try_for_each(|RequestOp { request }| match request {
            Some(Op::RequestRange(range)) => self.access.read(&range.key, &range.range_end),
            Some(Op::RequestPut(put)) => self.put(put),
            Some(Op::RequestDeleteRange(delete)) => self.delete(delete),
            Some(Op::RequestTxn(txn)) => self.txn(txn),
            None => Ok(()),
        })
    }
}
