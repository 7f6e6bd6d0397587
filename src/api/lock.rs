//! The Lock service: the caller with the oldest key below the lock's name owns the lock.

use super::local::{Caller, Local, OnDrop, created_at, get, key_of, oldest, one, prefix_of, put};
use super::status_code::unknown;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::response_op::Response as OpResponse;
use crate::proto::etcdserverpb::{ResponseOp, TxnRequest, TxnResponse};
use crate::proto::mvccpb::KeyValue;
use crate::proto::v3lockpb::lock_server::Lock;
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use bytes::Bytes;
use tonic::{Request, Response, Status};

/// The Lock service of an instance.
#[derive(Clone, Debug)]
pub(crate) struct LockService {
    local: Local,
}

impl LockService {
    /// Locks are keys of `local`'s store.
    pub(crate) fn new(local: Local) -> LockService {
        LockService { local }
    }
}

/// The first pair in the response to a transaction's operation, a read.
pub(super) fn first_found(txn: &TxnResponse, operation: usize) -> Option<&KeyValue> {
    match txn.responses.get(operation) {
        Some(ResponseOp { response: Some(OpResponse::ResponseRange(range)) }) => range.kvs.first(),
        _ => None,
    }
}

async fn acquire(caller: &Caller, name: &[u8], lease: i64) -> Result<LockResponse, Status> {
    let lease = caller.session(lease).await?;
    let prefix = prefix_of(name);
    let key = key_of(&prefix, lease);
    let txn = TxnRequest {
        compare: vec![created_at(key.clone(), 0)],
        success: vec![put(key.clone(), Bytes::new(), lease), get(oldest(&prefix))],
        failure: vec![get(one(key.clone())), get(oldest(&prefix))],
    };
    let answer = caller.txn(txn).await?;
    let mut created = answer.header.as_ref().map_or(0, |header| header.revision);
    if !answer.succeeded {
        created = first_found(&answer, 0).map_or(0, |kv| kv.create_revision);
    }
    if first_found(&answer, 1).is_none_or(|owner| owner.create_revision == created) {
        return Ok(LockResponse { header: answer.header, key });
    }

    // A caller that stops waiting must not block those behind it.
    let abandon = OnDrop::new({
        let (caller, key) = (caller.clone(), key.clone());
        move || {
            tokio::spawn(async move { caller.delete(key).await });
        }
    });
    let waited = async {
        caller.wait_for_older(&prefix, created).await?;
        caller.range(one(key.clone())).await
    };
    let own = match waited.await {
        Ok(own) => own,
        Err(error) => {
            abandon.disarm();
            // The caller gets the error of the wait, and not that of the delete.
            caller.delete(key).await.ok();
            return Err(error);
        }
    };
    abandon.disarm();
    if own.kvs.is_empty() {
        return Err(unknown(&EtcdError::SessionExpired));
    }
    Ok(LockResponse { header: own.header, key })
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let (caller, LockRequest { name, lease }) = self.local.on_behalf_of(request);
        acquire(&caller, &name, lease).await.map(Response::new)
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let (caller, UnlockRequest { key }) = self.local.on_behalf_of(request);
        let deleted = caller.delete(key).await?;
        Ok(Response::new(UnlockResponse { header: deleted.header }))
    }
}
