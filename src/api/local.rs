//! The services of this instance for the Lock and Election services, for which etcd uses its own client.
//!
//! Every call goes through the service that clients call, with the identity of the outer call, so that
//! limits, alarms and permissions hold here too.

use super::kv::KvService;
use super::lease::LeaseService;
use crate::core::Reader;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::kv_server::Kv as _;
use crate::proto::etcdserverpb::lease_server::Lease as _;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, PutRequest, RangeRequest,
    RangeResponse, RequestOp, TxnRequest, TxnResponse,
};
use crate::proto::mvccpb;
use crate::types::{KeyRange, Revision};
use crate::watch::{Body, Create, Request as WatchRequest, WatchHub, WatchStream};
use bytes::Bytes;
use prost::Message as _;
use std::time::Duration;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

/// Time to live, in seconds, of the lease for a caller without one.
const SESSION_TTL: i64 = 60;
/// Progress of these watches is not used.
const NO_PROGRESS: Duration = Duration::from_hours(24);

/// The services of this instance.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    kv: KvService,
    lease: LeaseService,
    hub: WatchHub,
    reader: Reader,
    shutdown: CancellationToken,
}

impl Local {
    /// Waits end with `shutdown`.
    pub(crate) fn new(
        kv: KvService,
        lease: LeaseService,
        hub: WatchHub,
        reader: Reader,
        shutdown: CancellationToken,
    ) -> Local {
        Local { kv, lease, hub, reader, shutdown }
    }

    /// The caller of a request, for calls on its behalf, and its message.
    pub(super) fn on_behalf_of<T>(&self, request: Request<T>) -> (Caller, T) {
        let (metadata, extensions, message) = request.into_parts();
        (Caller { local: self.clone(), metadata, extensions }, message)
    }
}

/// The services on behalf of one caller. Failures have the form that etcd's client gives them: an error of
/// etcd's is always [`tonic::Code::Unknown`].
#[derive(Clone, Debug)]
pub(super) struct Caller {
    local: Local,
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Caller {
    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    /// The lease of the request, or a new one, which is not kept alive.
    pub(super) async fn session(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let grant = self.request(LeaseGrantRequest { ttl: SESSION_TTL, id: 0 });
        Ok(self.local.lease.lease_grant(grant).await.map_err(inner)?.into_inner().id)
    }

    /// A transaction.
    pub(super) async fn txn(&self, txn: TxnRequest) -> Result<TxnResponse, Status> {
        Ok(self.local.kv.txn(self.request(txn)).await.map_err(inner)?.into_inner())
    }

    /// A linearizable read.
    pub(super) async fn range(&self, range: RangeRequest) -> Result<RangeResponse, Status> {
        Ok(self.local.kv.range(self.request(range)).await.map_err(inner)?.into_inner())
    }

    /// A delete of one key.
    pub(super) async fn delete(&self, key: Bytes) -> Result<DeleteRangeResponse, Status> {
        let delete = self.request(DeleteRangeRequest { key, ..DeleteRangeRequest::default() });
        Ok(self.local.kv.delete_range(delete).await.map_err(inner)?.into_inner())
    }

    /// The events of a range from a revision on.
    pub(super) fn watch(&self, range: KeyRange, start: Revision) -> Events {
        let create = WatchRequest::Create(Create {
            range,
            start,
            watch_id: 0,
            prev_kv: false,
            progress_notify: false,
            fragment: false,
            no_put: false,
            no_delete: false,
        });
        let shutdown = self.local.shutdown.child_token();
        let ending = async move {
            shutdown.cancelled().await;
            EtcdError::Stopped
        };
        let requests = tokio_stream::once(Ok(create));
        let (hub, reader) = (self.local.hub.clone(), self.local.reader.clone());
        Events { stream: WatchStream::new(hub, reader, requests, NO_PROGRESS, ending) }
    }

    /// Waits until no key below the prefix was created before `revision`.
    pub(super) async fn wait_for_older(&self, prefix: &[u8], revision: i64) -> Result<(), Status> {
        loop {
            let older = self.range(RangeRequest {
                max_create_revision: revision - 1,
                sort_order: SortOrder::Descend.into(),
                ..oldest(prefix)
            });
            let mut older = older.await?;
            let Some(newest) = older.kvs.pop() else { return Ok(()) };
            let now = older.header.map_or(0, |header| header.revision);
            let mut events = self.watch(KeyRange::Single(newest.key), Revision(now));
            while !events.next().await?.1.iter().any(is_delete) {}
        }
    }
}

/// Events as they happen.
#[derive(Debug)]
pub(super) struct Events {
    stream: WatchStream,
}

impl Events {
    /// The next response with events in it, and the revision in its header.
    pub(super) async fn next(&mut self) -> Result<(Revision, Vec<mvccpb::Event>), Status> {
        loop {
            let response = self.stream.next().await.unwrap_or(Err(EtcdError::WatchCanceled));
            let response = response.map_err(|error| inner(error.into()))?;
            match response.body {
                Body::Events { events, .. } => {
                    let events = events.iter().map(|event| mvccpb::Event::decode(event.clone()));
                    let events = events.collect::<Result<_, _>>().expect("the hub has just encoded them");
                    return Ok((response.revision, events));
                }
                Body::Compacted(_) => return Err(inner(EtcdError::Compacted.into())),
                Body::Refused(error) => return Err(inner(error.into())),
                Body::Created | Body::Canceled | Body::Progress => {}
            }
        }
    }
}

/// Whether an event is a delete.
pub(super) fn is_delete(event: &mvccpb::Event) -> bool {
    event.r#type() == mvccpb::event::EventType::Delete
}

/// The form of a failure for a caller of [`Caller`]. A stop of the server keeps its code, so that clients try
/// another one.
fn inner(status: Status) -> Status {
    let is_stopped = status.message() == EtcdError::Stopped.to_string();
    if status.message().starts_with("etcdserver: ") && !is_stopped {
        return Status::unknown(status.message());
    }
    status
}

/// The keys below `name`: the prefix.
pub(super) fn prefix_of(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

/// The key of a lease below a prefix: its id in hexadecimal, after the sign.
pub(super) fn key_of(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// A read of the key below the prefix that was created first.
pub(super) fn oldest(prefix: &[u8]) -> RangeRequest {
    RangeRequest {
        key: prefix.to_vec().into(),
        range_end: end_of(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..RangeRequest::default()
    }
}

/// The end of a prefix that [`prefix_of`] made, which ends in a slash.
pub(super) fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// "This key was created at that revision", 0 for "does not exist".
pub(super) fn created_at(key: Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key,
        target_union: Some(TargetUnion::CreateRevision(revision)),
        range_end: Bytes::new(),
    }
}

/// A put as an operation of a transaction.
pub(super) fn put(key: Bytes, value: Bytes, lease: i64) -> RequestOp {
    RequestOp { request: Some(Op::RequestPut(PutRequest { key, value, lease, ..PutRequest::default() })) }
}

/// A read as an operation of a transaction.
pub(super) fn get(range: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Op::RequestRange(range)) }
}

/// A read of one key.
pub(super) fn one(key: Bytes) -> RangeRequest {
    RangeRequest { key, ..RangeRequest::default() }
}

/// A delete of one key as an operation of a transaction.
pub(super) fn delete(key: Bytes) -> RequestOp {
    RequestOp {
        request: Some(Op::RequestDeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() })),
    }
}

/// Work that is done if a call is cancelled and its future dropped.
#[derive(Debug)]
pub(super) struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnDrop<F> {
    /// Does `work` unless [`OnDrop::disarm`] comes first.
    pub(super) fn new(work: F) -> OnDrop<F> {
        OnDrop(Some(work))
    }

    /// Drops the work.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            work();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_the_lease_as_gos_hexadecimal_does() {
        assert_eq!(key_of(b"x/", 0x1234), "x/1234");
        assert_eq!(key_of(b"x/", -1), "x/-1");
        assert_eq!(key_of(b"", i64::MIN), "-8000000000000000");
    }
}
