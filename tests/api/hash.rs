//! Checksums: equal to etcd's for the same history, on every instance, after every restart.

use jetway::proto::etcdserverpb::*;
use tonic::Code;

use support::client::*;
use support::eventually;
use support::server::{Server, Target};

async fn hash_kv(client: &Client, revision: i64) -> Answer<HashKvResponse> {
    client.unary("/etcdserverpb.Maintenance/HashKV", HashKvRequest { revision }).await
}

/// The fields that are equal on two servers with the same history.
async fn comparable(client: &Client, revision: i64) -> Result<(u32, i64, i64, i64), (Code, String)> {
    let answer = hash_kv(client, revision).await;
    answer
        .map(|m| (m.hash, m.compact_revision, m.hash_revision, m.header.unwrap().revision))
        .map_err(|status| (status.code(), status.message().to_owned()))
}

/// The same history, on etcd and on jetway.
struct ServerPair {
    servers: [Server; 2],
    clients: [Client; 2],
}

impl ServerPair {
    async fn start() -> Self {
        let servers = [Server::launch(Target::Etcd, &[]).await, Server::launch(Target::Jetway, &[]).await];
        let clients = [servers[0].client().await, servers[1].client().await];
        Self { servers, clients }
    }

    async fn restart(&mut self) {
        for (server, client) in self.servers.iter_mut().zip(&mut self.clients) {
            server.kill9();
            server.restart().await;
            *client = server.client().await;
        }
    }

    async fn put(&self, request: PutRequest) {
        for client in &self.clients {
            client.put_request(request.clone()).await.unwrap();
        }
    }

    async fn delete(&self, request: DeleteRangeRequest) {
        for client in &self.clients {
            client.delete_range(request.clone()).await.unwrap();
        }
    }

    async fn txn(&self, ops: Vec<RequestOp>) {
        for client in &self.clients {
            client.txn(run(ops.clone())).await.unwrap();
        }
    }

    /// Physical: what etcd answers for the compacted revision hangs on whether it is through with it.
    async fn compact(&self, revision: i64) {
        for client in &self.clients {
            client.compact_request(CompactionRequest { revision, physical: true }).await.unwrap();
        }
    }

    /// Asks for every revision there is, and a few that there are not.
    async fn agree(&self, when: &str) {
        let current = self.clients[0].revision().await;
        assert_eq!(current, self.clients[1].revision().await, "{when}");
        for revision in -2..=current + 1 {
            let [etcd, jetway] = &self.clients;
            let (etcd, jetway) = (comparable(etcd, revision).await, comparable(jetway, revision).await);
            assert_eq!(etcd, jetway, "{when}, at revision {revision} of {current}: etcd, jetway");
        }
    }
}

/// MNT-3, MNT-4
#[tokio::test]
async fn the_hash_of_every_revision_of_a_history_is_etcds() {
    let mut pair = ServerPair::start().await;
    pair.agree("when empty").await;
    for n in 0..5 {
        pair.put(put(format!("k/{n}"), format!("value {n}"))).await;
    }
    pair.put(put("k/0", "")).await;
    pair.put(put(b"\0\xff", vec![0xfe; 300])).await;
    pair.agree("after puts").await;

    pair.txn(vec![op(put("k/7", "7")), op(delete("k/1")), op(put("k/0", "again")), op(put("k/8", "8"))])
        .await;
    pair.delete(delete_all("k/7")).await;
    // Two changes of one key in one revision: the end \0 escapes the check for duplicates.
    let from_k8 = DeleteRangeRequest { key: "k/8".into(), range_end: vec![0].into(), prev_kv: false };
    pair.txn(vec![op(put("k/9", "9")), op(from_k8.clone())]).await;
    pair.txn(vec![op(from_k8), op(put("k/9", "back"))]).await;
    pair.agree("after transactions").await;

    for client in &pair.clients {
        client.lease_grant(10, 600).await.unwrap();
        client.lease_grant(11, 2).await.unwrap();
    }
    for lease in [10, 11] {
        for n in 0..3 {
            pair.put(PutRequest { lease, ..put(format!("leased/{lease}/{n}"), "x") }).await;
        }
    }
    for client in &pair.clients {
        client.lease_revoke(10).await.unwrap();
    }
    pair.agree("with leases").await;
    for client in &pair.clients {
        eventually("the lease to end", async || client.list("leased/").await.is_empty().then_some(())).await;
    }
    pair.agree("after the end of leases").await;

    pair.compact(4).await;
    pair.agree("compacted in the middle of puts").await;
    pair.compact(9).await;
    pair.agree("compacted at a transaction").await;
    pair.restart().await;
    pair.agree("after a restart").await;
    pair.compact(10).await;
    pair.agree("compacted at a delete").await;
    pair.restart().await;
    pair.agree("after a restart at a delete").await;
    pair.put(put("k/0", "once more")).await;
    pair.agree("after another put").await;
    let current = pair.clients[0].revision().await;
    pair.compact(current).await;
    pair.agree("compacted at the end").await;
    pair.restart().await;
    pair.agree("after the last restart").await;
}

/// MNT-4: with no key left, a compaction would keep nothing, and then etcd skips nothing either.
#[tokio::test]
async fn the_hash_of_a_store_whose_keys_are_gone_is_etcds() {
    let mut pair = ServerPair::start().await;
    pair.compact(0).await;
    pair.agree("compacted at nothing").await;
    for n in 0..4 {
        pair.put(put(format!("k/{n}"), "v")).await;
    }
    pair.txn(vec![op(delete("k/0")), op(put("k/4", "v"))]).await;
    pair.compact(5).await;
    pair.agree("with keys").await;
    pair.delete(delete_all("k/")).await;
    pair.agree("without a key").await;
    pair.compact(6).await;
    pair.agree("compacted before the deletes").await;
    pair.restart().await;
    pair.agree("after a restart").await;
    pair.compact(7).await;
    pair.agree("compacted at the deletes").await;
    pair.put(put("k/9", "v")).await;
    pair.agree("with a key again").await;
    pair.compact(8).await;
    pair.restart().await;
    pair.agree("after the last restart").await;
}

/// MNT-3
#[tokio::test]
async fn a_hash_can_be_requested_from_the_compacted_to_the_current_revision() {
    let server = Server::start().await;
    let client = server.client().await;
    let empty = hash_kv(&client, 0).await.unwrap();
    assert_eq!((empty.compact_revision, empty.hash_revision), (-1, 1));
    client.put("a", "1").await;
    client.put("a", "2").await;
    let now = hash_kv(&client, 0).await.unwrap();
    assert_eq!((now.compact_revision, now.hash_revision, revision(&now.header)), (-1, 3, 3));
    assert_eq!(hash_kv(&client, 3).await.unwrap().hash, now.hash);
    let before = hash_kv(&client, 2).await.unwrap();
    assert_eq!((before.hash_revision, revision(&before.header)), (2, 3));
    assert_ne!(before.hash, now.hash);
    assert_eq!(hash_kv(&client, -1).await.unwrap().hash, empty.hash);
    let future = "etcdserver: mvcc: required revision is a future revision";
    refused(hash_kv(&client, 4).await, Code::OutOfRange, future);
    client.compact_request(CompactionRequest { revision: 3, physical: true }).await.unwrap();
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    refused(hash_kv(&client, 2).await, Code::OutOfRange, compacted);
    client.put("b", "1").await;
    assert_eq!(hash_kv(&client, 0).await.unwrap().compact_revision, 3);
}

/// MNT-2
#[tokio::test]
async fn the_hash_changes_with_every_write() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let hash = async |client: &Client| -> u32 {
        let answer: Answer<HashResponse> =
            client.unary("/etcdserverpb.Maintenance/Hash", HashRequest {}).await;
        answer.unwrap().hash
    };
    let empty = hash(&client).await;
    client.put("a", "1").await;
    let written = hash(&client).await;
    assert_ne!(written, empty);
    client.lease_grant(1, 600).await.unwrap();
    let leased = hash(&client).await;
    assert_ne!(leased, written);
    assert_eq!(hash(&client).await, leased);
    if server.target() == Target::Jetway {
        // etcd hashes a file, and that changes by itself.
        server.kill9();
        server.restart().await;
        assert_eq!(hash(&server.client().await).await, leased);
    }
}
