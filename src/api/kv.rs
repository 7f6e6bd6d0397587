//! The KV service: static checks, then the engine.

use super::header::HeaderSource;
use super::identity::{self, require_admin};
use crate::auth::Caller;
use crate::core::State;
use crate::engine::Engine;
use crate::error::EtcdError;
use crate::long_work;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse, RequestOp, TxnRequest, TxnResponse,
};
use crate::telemetry::Operations;
use crate::txn::{self, Request as Write, Response as Written};
use crate::types::Revision;
use crate::watch::WatchHub;
use prost::Message;
use std::sync::Arc;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status};

/// Limits of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Largest write, in encoded bytes.
    pub max_request_bytes: usize,
    /// Most operations on any path through a transaction.
    pub max_txn_ops: usize,
}

/// The KV service of an instance.
#[derive(Clone, Debug)]
pub(crate) struct KvService {
    engine: Engine,
    header: HeaderSource,
    limits: Limits,
    operations: Operations,
    hub: WatchHub,
}

impl KvService {
    /// Serves `engine`.
    pub(crate) fn new(
        engine: Engine,
        header: HeaderSource,
        limits: Limits,
        operations: Operations,
        hub: WatchHub,
    ) -> KvService {
        KvService { engine, header, limits, operations, hub }
    }

    async fn state(&self, serializable: bool) -> Result<Arc<State>, EtcdError> {
        if serializable { self.engine.serializable().await } else { self.engine.linearizable().await }
    }

    fn check_size(&self, request: &impl Message) -> Result<(), EtcdError> {
        if replicated_len(request) > self.limits.max_request_bytes {
            return Err(EtcdError::RequestTooLarge);
        }
        Ok(())
    }

    async fn write(&self, request: Write, caller: &Caller) -> Result<Written, EtcdError> {
        self.engine.admit(cost(&request))?;
        self.engine.execute(request, caller).await
    }
}

/// Bytes of a request in etcd's log: with a tag, its length, and a header with the number of the request,
/// which is mostly above 2^63.
fn replicated_len(request: &impl Message) -> usize {
    const HEADER: usize = 14;
    let len = request.encoded_len();
    HEADER + 1 + prost::length_delimiter_len(len) + len
}

/// Bytes that a request may add, by etcd's estimate: for a transaction those of its larger branch. Zero
/// without a put.
fn cost(request: &Write) -> u64 {
    match request {
        Write::Put(put) => put_cost(put),
        Write::DeleteRange(_) => 0,
        Write::Txn(txn) => txn_cost(txn),
    }
}

/// etcd's estimate of the bytes that it stores beside key and value.
const PUT_OVERHEAD_BYTES: u64 = 256;

fn put_cost(put: &PutRequest) -> u64 {
    PUT_OVERHEAD_BYTES + (put.key.len() + put.value.len()) as u64
}

fn txn_cost(txn: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Op::RequestPut(put)) => put_cost(put),
                Some(Op::RequestTxn(txn)) => txn_cost(txn),
                _ => 0,
            })
            .sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

/// A response of another kind than its request would be a bug in the planner.
fn wrong_response_kind() -> EtcdError {
    EtcdError::Unknown("jetway: the answer does not fit the request".into())
}

#[tonic::async_trait]
impl Kv for KvService {
    type RangeStreamStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<RangeStreamResponse, Status>> + Send>>;

    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        txn::check_range(&request)?;
        self.operations.ranges.inc();
        // The state comes before the check, so that it has no write after the caller has lost a permission.
        let state = self.state(request.serializable).await?;
        let caller = identity::identify(&self.engine, &metadata, &extensions).await?;
        self.engine.auth().access(&caller).read(&request.key, &request.range_end)?;
        let is_long = txn::is_long(&state, std::iter::once(&request));
        let range = || long_work::run_if(is_long, || txn::range(&state, &request));
        let mut response = self.operations.time_range(range)?;
        self.engine.auth().check_unchanged(&caller)?;
        self.header.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        txn::check_range_stream(&request)?;
        self.operations.ranges.inc();
        let state = self.state(request.serializable).await?;
        let caller = identity::identify(&self.engine, &metadata, &extensions).await?;
        self.engine.auth().access(&caller).read(&request.key, &request.range_end)?;
        let chunks = txn::RangeStream::new(state, request)?;
        let header = self.header.clone();
        let stream = chunks.map(move |mut range| {
            if range.header.is_some() {
                header.fill(&mut range.header);
            }
            Ok(RangeStreamResponse { range_response: Some(range) })
        });
        // A slow stream ends with an error if users have changed meanwhile.
        let engine = self.engine.clone();
        let end = futures_util::stream::once(async move { engine.auth().check_unchanged(&caller) })
            .filter_map(|unchanged| unchanged.err().map(|error| Err(error.into())));
        Ok(Response::new(Box::pin(tokio_stream::iter(stream).chain(end))))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        // As in etcd this comes first: even an invalid put raises the alarm.
        self.engine.claim_space(put_cost(&request)).await?;
        txn::check_put(&request)?;
        let caller = identity::identify(&self.engine, &metadata, &extensions).await?;
        self.check_size(&request)?;
        self.operations.puts.inc();
        let Written::Put(mut response) = self.write(Write::Put(request), &caller).await? else {
            return Err(wrong_response_kind().into());
        };
        self.header.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        txn::check_delete_range(&request)?;
        let caller = identity::identify(&self.engine, &metadata, &extensions).await?;
        self.check_size(&request)?;
        self.operations.deletes.inc();
        let Written::DeleteRange(mut response) = self.write(Write::DeleteRange(request), &caller).await?
        else {
            return Err(wrong_response_kind().into());
        };
        self.header.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        self.engine.claim_space(txn_cost(&request)).await?;
        txn::check_txn(&request, self.limits.max_txn_ops)?;
        let caller = identity::identify(&self.engine, &metadata, &extensions).await?;
        let is_read = txn::is_read_only(&request);
        let written = if is_read {
            let state = self.state(txn::is_serializable(&request)).await?;
            let is_long = txn::is_long_read(&state, &request);
            let request = Write::Txn(request);
            long_work::run_if(is_long, || self.engine.answer_from(&state, &request, &caller))?
        } else {
            self.check_size(&request)?;
            self.write(Write::Txn(request), &caller).await?
        };
        let Written::Txn(mut response) = written else { return Err(wrong_response_kind().into()) };
        if is_read {
            self.engine.auth().check_unchanged(&caller)?;
        }
        self.operations.count_txn(&response);
        self.header.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        require_admin(&self.engine, &request).await?;
        let request = request.into_inner();
        self.engine.admit(0)?;
        // Events that are not routed yet must not be compacted, so that a live watcher gets them.
        self.hub.routed(Revision(request.revision).min(self.engine.reader().revision())).await;
        let state = self.engine.compact(Revision(request.revision), request.physical).await?;
        Ok(Response::new(CompactionResponse { header: Some(self.header.at(state.revision)) }))
    }
}
