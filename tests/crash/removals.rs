//! Messages that compaction has removed stay removed when nats-server is killed again and again.
//!
//! nats-server 2.15.1 forgets removals: it rewrites a block of its store in the middle of its recovery, and
//! drops the notes of removals that it has not applied yet. The next recovery brings those messages back.

use jetway::proto::etcdserverpb::{CompactionRequest, HashKvRequest, HashKvResponse};
use support::client::{Client, all, delete_all, revision};
use support::server::Server;

/// Bytes of a block of messages.
const BLOCK: usize = 4 << 20;
const VALUE: usize = 4000;

async fn hash(client: &Client, revision: i64) -> (u32, i64) {
    let request = HashKvRequest { revision };
    let hash: HashKvResponse = client.unary("/etcdserverpb.Maintenance/HashKV", request).await.unwrap();
    (hash.hash, hash.compact_revision)
}

async fn compact(client: &Client, revision: i64) {
    client.compact_request(CompactionRequest { revision, physical: true }).await.unwrap();
}

#[tokio::test]
async fn removed_messages_stay_removed_when_the_machine_fails_twice() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let value = "v".repeat(VALUE);
    let mut floor = 0;
    for number in 0..BLOCK * 5 / 8 / VALUE {
        floor = client.put(format!("/removed/{:02}", number % 40), &value).await;
    }
    // Answered once the older values are removed, while their block is the last one.
    compact(&client, floor).await;
    // Another block begins.
    for number in 0..BLOCK / 2 / VALUE {
        client.put(format!("/kept/{number}"), &value).await;
    }
    server.kill_machine();
    server.restart().await;
    let client = server.client().await;
    client.delete_range(delete_all("/removed/")).await.unwrap();
    let floor = client.put("/kept/last", "").await;
    // The last values are removed with their tombstones, and nothing hides the older ones any more.
    compact(&client, floor).await;
    client.put("/kept/last", "behind the floor").await;
    let before = client.range(all("/")).await.unwrap();
    let end = revision(&before.header);
    let hashed = hash(&client, end).await;
    for _ in 0..2 {
        server.kill_machine();
        server.restart().await;
        let client = server.client().await;
        let now = client.range(all("/")).await.unwrap();
        assert_eq!((revision(&now.header), &now.kvs), (end, &before.kvs));
        assert_eq!(hash(&client, end).await, hashed);
    }
}
