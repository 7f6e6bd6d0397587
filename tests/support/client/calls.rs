//! The calls of each service by name.

use jetway::proto::etcdserverpb::*;
use jetway::proto::mvccpb::KeyValue;
use tonic::{Status, Streaming};

use super::{Answer, Client, all, get, name, put, revision};
use crate::keys::b;
use crate::within;

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
