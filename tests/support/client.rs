//! A client over bare protobuf messages: it can send what a polite client library refuses to, and shows
//! answers and errors as they are on the wire.

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use jetway::proto::etcdserverpb::*;
use jetway::proto::mvccpb::KeyValue;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Extensions, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::keys::{b, prefix_end, prefix_start};
use crate::within;

/// Anything that a call can answer.
pub type Answer<T> = Result<T, Status>;

#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    metadata: MetadataMap,
}

impl Client {
    pub async fn connect(endpoint: &str) -> Self {
        let endpoint = Endpoint::new(endpoint.to_owned()).unwrap();
        let channel = within("a connection", endpoint.connect()).await.unwrap();
        Self { channel, metadata: MetadataMap::new() }
    }

    /// A client over a channel that somebody has set up.
    pub fn over(channel: Channel) -> Self {
        Self { channel, metadata: MetadataMap::new() }
    }

    /// A client that connects with its first call, and again when the connection breaks.
    pub fn lazy(endpoint: &str) -> Self {
        let channel = Endpoint::new(endpoint.to_owned()).unwrap().connect_lazy();
        Self { channel, metadata: MetadataMap::new() }
    }

    /// A client that sends this with each call.
    pub fn with_metadata(mut self, name: &'static str, value: &'static str) -> Self {
        self.metadata.insert(name, value.parse().unwrap());
        self
    }

    /// Sends this token, or none, with each call from now on.
    pub fn set_token(&mut self, token: Option<&str>) {
        match token {
            Some(token) => drop(self.metadata.insert("token", token.parse().unwrap())),
            None => drop(self.metadata.remove("token")),
        }
    }

    /// The token that it sends.
    pub fn token(&self) -> Option<String> {
        Some(self.metadata.get("token")?.to_str().expect("a token is text").to_owned())
    }

    /// Whether it sends a token.
    pub fn has_token(&self) -> bool {
        self.metadata.contains_key("token")
    }

    /// The same client with a token, in place of the one it had.
    pub fn with_token(&self, token: &str) -> Self {
        let mut client = self.clone();
        client.metadata.insert("token", token.parse().unwrap());
        client
    }

    /// The same client of another server.
    pub fn at(&self, endpoint: &str) -> Self {
        Self { metadata: self.metadata.clone(), ..Self::lazy(endpoint) }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), Extensions::default(), message)
    }

    /// One call of `/package.Service/Method`.
    pub async fn unary<Q, R>(&self, path: &'static str, message: Q) -> Answer<R>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        self.unary_with_metadata(path, message).await.map(tonic::Response::into_inner)
    }

    pub async fn unary_with_metadata<Q, R>(
        &self,
        path: &'static str,
        message: Q,
    ) -> Answer<tonic::Response<R>>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let call = async {
            let mut grpc = self.grpc().await?;
            let codec = ProstCodec::<Q, R>::default();
            grpc.unary(self.request(message), PathAndQuery::from_static(path), codec).await
        };
        within(path, call).await
    }

    /// One call of any method, with any bytes for a message.
    pub async fn raw(&self, path: &str, body: Bytes) -> Answer<Bytes> {
        let path = PathAndQuery::try_from(path).unwrap();
        let call = async { self.grpc().await?.unary(self.request(body), path.clone(), Plain).await };
        within(path.as_str(), call).await.map(tonic::Response::into_inner)
    }

    /// As [`Self::raw`], for the first message of a call that answers with a stream. The call ends with that.
    pub async fn raw_first(&self, path: &str, body: Bytes) -> Answer<Option<Bytes>> {
        let path = PathAndQuery::try_from(path).unwrap();
        let call = async {
            let call = self.grpc().await?.server_streaming(self.request(body), path.clone(), Plain).await;
            call?.into_inner().message().await
        };
        within(path.as_str(), call).await
    }

    /// One call that answers with a stream.
    pub async fn server_stream<Q, R>(&self, path: &'static str, message: Q) -> Answer<Streaming<R>>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let call = async {
            let mut grpc = self.grpc().await?;
            let codec = ProstCodec::<Q, R>::default();
            grpc.server_streaming(self.request(message), PathAndQuery::from_static(path), codec).await
        };
        within(path, call).await.map(tonic::Response::into_inner)
    }

    /// A call with streams both ways. It returns when the server has sent its headers, which may be with its
    /// first message only, so it must not be awaited before something is sent.
    pub async fn bidi_stream<Q, R>(
        &self,
        path: &'static str,
        messages: impl tokio_stream::Stream<Item = Q> + Send + 'static,
    ) -> Answer<Streaming<R>>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc().await?;
        let codec = ProstCodec::<Q, R>::default();
        grpc.streaming(self.request(messages), PathAndQuery::from_static(path), codec)
            .await
            .map(tonic::Response::into_inner)
    }

    async fn grpc(&self) -> Answer<tonic::client::Grpc<Channel>> {
        // Answers may be as large as the store.
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(format!("no connection: {error}")))?;
        Ok(grpc)
    }
}

/// Messages as the bytes that they are.
#[derive(Clone, Copy, Debug)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The calls of KV, and the shapes of them that tests use most.
impl Client {
    pub async fn range(&self, request: RangeRequest) -> Answer<RangeResponse> {
        self.unary("/etcdserverpb.KV/Range", request).await
    }

    pub async fn put_request(&self, request: PutRequest) -> Answer<PutResponse> {
        self.unary("/etcdserverpb.KV/Put", request).await
    }

    pub async fn delete_range(&self, request: DeleteRangeRequest) -> Answer<DeleteRangeResponse> {
        self.unary("/etcdserverpb.KV/DeleteRange", request).await
    }

    pub async fn txn(&self, request: TxnRequest) -> Answer<TxnResponse> {
        self.unary("/etcdserverpb.KV/Txn", request).await
    }

    pub async fn compact_request(&self, request: CompactionRequest) -> Answer<CompactionResponse> {
        self.unary("/etcdserverpb.KV/Compact", request).await
    }

    /// Every message of a range stream, and the status that ended it if that was not OK.
    pub async fn range_stream(&self, request: RangeRequest) -> (Vec<RangeResponse>, Option<Status>) {
        let mut chunks = Vec::new();
        let mut stream: Streaming<RangeStreamResponse> =
            match self.server_stream("/etcdserverpb.KV/RangeStream", request).await {
                Ok(stream) => stream,
                Err(status) => return (chunks, Some(status)),
            };
        loop {
            match within("a chunk of a range", stream.message()).await {
                Ok(Some(chunk)) => chunks.push(chunk.range_response.expect("a chunk holds an answer")),
                Ok(None) => return (chunks, None),
                Err(status) => return (chunks, Some(status)),
            }
        }
    }

    /// Reads one key.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Answer<RangeResponse> {
        self.range(get(key)).await
    }

    /// The key's pair, if it lives.
    pub async fn kv(&self, key: impl AsRef<[u8]>) -> Option<KeyValue> {
        self.get(key).await.unwrap().kvs.pop()
    }

    /// The keys under `prefix`, without it, as text.
    pub async fn list(&self, prefix: &str) -> Vec<String> {
        let answer = self.range(RangeRequest { keys_only: true, ..all(prefix) }).await.unwrap();
        answer.kvs.iter().map(|kv| name(prefix, &kv.key)).collect()
    }

    /// Puts without options and returns the new revision.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> i64 {
        revision(&self.put_request(put(key, value)).await.unwrap().header)
    }

    /// Deletes one key and returns the revision after that.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> i64 {
        let request = DeleteRangeRequest { key: b(key), ..Default::default() };
        revision(&self.delete_range(request).await.unwrap().header)
    }

    pub async fn compact(&self, revision: i64) -> Answer<CompactionResponse> {
        self.compact_request(CompactionRequest { revision, physical: false }).await
    }

    /// The store's revision now.
    pub async fn revision(&self) -> i64 {
        revision(&self.get("no such key").await.unwrap().header)
    }
}

/// The other services.
impl Client {
    pub async fn lease_grant(&self, id: i64, ttl: i64) -> Answer<LeaseGrantResponse> {
        self.unary("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest { ttl, id }).await
    }

    pub async fn lease_revoke(&self, id: i64) -> Answer<LeaseRevokeResponse> {
        self.unary("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest { id }).await
    }

    pub async fn lease_time_to_live(&self, id: i64, keys: bool) -> Answer<LeaseTimeToLiveResponse> {
        self.unary("/etcdserverpb.Lease/LeaseTimeToLive", LeaseTimeToLiveRequest { id, keys }).await
    }

    pub async fn leases(&self) -> Answer<LeaseLeasesResponse> {
        self.unary("/etcdserverpb.Lease/LeaseLeases", LeaseLeasesRequest {}).await
    }

    pub async fn status(&self) -> Answer<StatusResponse> {
        self.unary("/etcdserverpb.Maintenance/Status", StatusRequest {}).await
    }

    pub async fn alarm(&self, request: AlarmRequest) -> Answer<AlarmResponse> {
        self.unary("/etcdserverpb.Maintenance/Alarm", request).await
    }

    pub async fn defragment(&self) -> Answer<DefragmentResponse> {
        self.unary("/etcdserverpb.Maintenance/Defragment", DefragmentRequest {}).await
    }

    pub async fn move_leader(&self, target_id: u64) -> Answer<MoveLeaderResponse> {
        self.unary("/etcdserverpb.Maintenance/MoveLeader", MoveLeaderRequest { target_id }).await
    }

    pub async fn members(&self) -> Answer<MemberListResponse> {
        self.unary("/etcdserverpb.Cluster/MemberList", MemberListRequest { linearizable: true }).await
    }

    pub async fn auth_status(&self) -> Answer<AuthStatusResponse> {
        self.unary("/etcdserverpb.Auth/AuthStatus", AuthStatusRequest {}).await
    }
}

/// Whether a call may end so while its server, or the way to it, fails.
pub fn is_of_an_outage(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => true,
        // The server has closed the connection in order, before the client could send the request.
        Code::Internal => status.message().starts_with("h2 protocol error"),
        _ => false,
    }
}

/// A read of one key.
pub fn get(key: impl AsRef<[u8]>) -> RangeRequest {
    RangeRequest { key: b(key), ..Default::default() }
}

/// A read of all keys that start with `prefix`.
pub fn all(prefix: impl AsRef<[u8]>) -> RangeRequest {
    RangeRequest { key: prefix_start(&prefix), range_end: prefix_end(prefix), ..Default::default() }
}

pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> PutRequest {
    PutRequest { key: b(key), value: b(value), ..Default::default() }
}

/// A delete of all keys that start with `prefix`.
pub fn delete_all(prefix: impl AsRef<[u8]>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: prefix_start(&prefix), range_end: prefix_end(prefix), prev_kv: false }
}

pub fn delete(key: impl AsRef<[u8]>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: b(key), ..Default::default() }
}

/// A request as an operation of a transaction.
pub fn op(request: impl Into<Operation>) -> RequestOp {
    RequestOp { request: Some(request.into().0) }
}

/// Exists so that `op` takes the plain request messages.
#[derive(Debug)]
pub struct Operation(request_op::Request);

impl From<RangeRequest> for Operation {
    fn from(request: RangeRequest) -> Self {
        Self(request_op::Request::RequestRange(request))
    }
}

impl From<PutRequest> for Operation {
    fn from(request: PutRequest) -> Self {
        Self(request_op::Request::RequestPut(request))
    }
}

impl From<DeleteRangeRequest> for Operation {
    fn from(request: DeleteRangeRequest) -> Self {
        Self(request_op::Request::RequestDeleteRange(request))
    }
}

impl From<TxnRequest> for Operation {
    fn from(request: TxnRequest) -> Self {
        Self(request_op::Request::RequestTxn(request))
    }
}

/// A transaction that runs `ops` without a condition.
pub fn run(ops: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success: ops, ..Default::default() }
}

/// The revision in an answer's header.
pub fn revision(header: &Option<ResponseHeader>) -> i64 {
    header.as_ref().expect("the answer has a header").revision
}

/// A key as text without its prefix.
pub fn name(prefix: &str, key: &Bytes) -> String {
    let key = key.strip_prefix(prefix.as_bytes()).expect("a key under the prefix");
    String::from_utf8_lossy(key).into_owned()
}

/// Panics unless the call was refused with exactly this status.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Answer<T>, code: Code, text: &str) {
    let status = answer.expect_err("the call must be refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

/// "`key`'s `given` target stands in relation `result` to `given`".
pub fn compare(
    key: impl AsRef<[u8]>,
    result: compare::CompareResult,
    given: compare::TargetUnion,
) -> Compare {
    use compare::{CompareTarget, TargetUnion};
    let target = match given {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    Compare {
        key: b(key),
        result: result.into(),
        target: target.into(),
        target_union: Some(given),
        range_end: Bytes::new(),
    }
}

/// The answer to the operation at `index`, which must be a range.
#[track_caller]
pub fn range_of(answer: &TxnResponse, index: usize) -> &RangeResponse {
    match &answer.responses[index].response {
        Some(response_op::Response::ResponseRange(range)) => range,
        other => panic!("operation {index} must answer with a range, not {other:?}"),
    }
}

/// The answer to the operation at `index`, which must be a put.
#[track_caller]
pub fn put_of(answer: &TxnResponse, index: usize) -> &PutResponse {
    match &answer.responses[index].response {
        Some(response_op::Response::ResponsePut(put)) => put,
        other => panic!("operation {index} must answer with a put, not {other:?}"),
    }
}

/// The answer to the operation at `index`, which must be a delete.
#[track_caller]
pub fn delete_of(answer: &TxnResponse, index: usize) -> &DeleteRangeResponse {
    match &answer.responses[index].response {
        Some(response_op::Response::ResponseDeleteRange(delete)) => delete,
        other => panic!("operation {index} must answer with a delete, not {other:?}"),
    }
}

/// The answer to the operation at `index`, which must be a transaction.
#[track_caller]
pub fn txn_of(answer: &TxnResponse, index: usize) -> &TxnResponse {
    match &answer.responses[index].response {
        Some(response_op::Response::ResponseTxn(txn)) => txn,
        other => panic!("operation {index} must answer with a transaction, not {other:?}"),
    }
}
