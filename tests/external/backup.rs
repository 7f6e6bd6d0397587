//! A backup of the stream by JetStream's own means, as `nats stream backup` and `nats stream restore` use
//! them. The instances that served the stream end, and new ones go on from the copy.

use std::time::Duration;

use async_nats::Client as NatsClient;
use futures_util::StreamExt as _;
use jetway::proto::etcdserverpb::{
    HashKvRequest, HashKvResponse, MoveLeaderRequest, MoveLeaderResponse, WatchCreateRequest,
};
use serde_json::{Value, json};

use crate::instances::{all_agree, instances, reads_are_fresh};
use support::client::{Client, all, put};
use support::eventually;
use support::nats::Nats;
use support::server::{Server, signal};
use support::watch::{WatchStream, watch_all};

const STREAM: &str = "KV_test";

/// A copy of the stream.
struct Backup {
    request: Value,
    chunks: Vec<bytes::Bytes>,
}

async fn api(nats: &NatsClient, request: &str, body: &Value) -> Value {
    let answer = nats.request(format!("$JS.API.{request}.{STREAM}"), body.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer.get("error").is_none(), "{request}: {answer}");
    answer
}

impl Backup {
    async fn take(nats: &NatsClient) -> Backup {
        let inbox = nats.new_inbox();
        let mut deliveries = nats.subscribe(inbox.clone()).await.unwrap();
        let body =
            json!({ "deliver_subject": inbox, "no_consumers": true, "chunk_size": 65_536, "jsck": true });
        let answer = api(nats, "STREAM.SNAPSHOT", &body).await;
        let mut chunks = Vec::new();
        loop {
            let chunk = support::within("a chunk of the stream", deliveries.next()).await.unwrap();
            // The last message is empty.
            if chunk.payload.is_empty() {
                break;
            }
            chunks.push(chunk.payload);
            if let Some(reply) = chunk.reply {
                nats.publish(reply, bytes::Bytes::new()).await.unwrap();
            }
        }
        Backup { request: json!({ "config": answer["config"], "state": answer["state"] }), chunks }
    }

    /// Puts the copy in the place of the stream.
    async fn restore(&self, nats: &NatsClient) {
        api(nats, "STREAM.DELETE", &json!({})).await;
        let answer = api(nats, "STREAM.RESTORE", &self.request).await;
        let to = answer["deliver_subject"].as_str().unwrap().to_owned();
        for chunk in &self.chunks {
            nats.request(to.clone(), chunk.clone()).await.unwrap();
        }
        let answer = nats.request(to, bytes::Bytes::new()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer.get("error").is_none(), "{answer}");
        assert_eq!(answer["state"]["last_seq"], self.request["state"]["last_seq"]);
    }
}

async fn hash_kv(client: &Client) -> HashKvResponse {
    client.unary("/etcdserverpb.Maintenance/HashKV", HashKvRequest { revision: 0 }).await.unwrap()
}

async fn term(client: &Client) -> u64 {
    client.status().await.unwrap().raft_term
}

/// Waits until an instance has ended, and returns its log. Nothing but `allowed` may be read from it before.
async fn ends(server: &mut Server, client: &Client, allowed: &[u8]) -> String {
    eventually("the instance to end", async || {
        if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(1), client.get("/k/0")).await {
            assert_eq!(&answer.kvs[0].value[..], allowed);
        }
        server.has_ended().map(|_| ())
    })
    .await;
    server.log()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_stream_ends_its_instances_and_new_ones_go_on_from_the_copy() {
    let nats = Nats::start().await;
    let client = async_nats::connect(nats.address()).await.unwrap();
    let (mut servers, clients) = instances(&nats.endpoint(), 2).await;
    for at in 0..50 {
        clients[at % 2].put(format!("/k/{at}"), "before").await;
    }
    clients[0].lease_grant(7, 600).await.unwrap();
    clients[1].delete("/k/49").await;
    let state = clients[0].range(all("")).await.unwrap();
    let (hash, term_before) = (hash_kv(&clients[0]).await, term(&clients[0]).await);
    let backup = Backup::take(&client).await;

    // The copy does not have what comes now. A watcher of each instance sees it.
    let mut watches = Vec::new();
    for client in &clients {
        let mut watch = WatchStream::open(client);
        watch.watch(WatchCreateRequest { start_revision: 0, ..watch_all("/k/") }).await;
        watches.push(watch);
    }
    for at in 0..20 {
        clients[0].put(format!("/k/{at}"), "after").await;
    }
    for watch in &mut watches {
        watch.events(20).await;
    }
    backup.restore(&client).await;
    for (server, client) in servers.iter_mut().zip(&clients) {
        let log = ends(server, client, b"after").await;
        // The second reason is that of an instance which has looked for another writer first.
        let reasons = ["the log is not the one that was read", "the log has lost its newest messages"];
        assert!(reasons.iter().any(|reason| log.contains(reason)), "{log}");
    }
    for watch in &mut watches {
        let end = eventually("the end of the watch", async || match watch.message().await {
            Some(Ok(message)) if message.events.is_empty() => None,
            end => Some(end),
        })
        .await;
        assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    }

    let (_fresh, fresh) = instances(&nats.endpoint(), 1).await;
    let restored = fresh[0].range(all("")).await.unwrap();
    assert_eq!(restored.kvs, state.kvs);
    assert_eq!(restored.header.unwrap().revision, state.header.unwrap().revision);
    let again = hash_kv(&fresh[0]).await;
    assert_eq!((again.hash, again.hash_revision), (hash.hash, hash.hash_revision));
    assert!(term(&fresh[0]).await > term_before);
    assert_eq!(fresh[0].leases().await.unwrap().leases.len(), 1);
    // The old instances come back as followers.
    let mut everybody = fresh;
    for server in &mut servers {
        server.kill9();
        server.restart().await;
        everybody.push(server.client().await);
    }
    reads_are_fresh(&everybody, 9).await;
    all_agree(&everybody).await;
}

/// The epochs of the old and the new writer have the same number, and the stream is longer than the old one
/// knows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_slept_through_a_restore_writes_no_more() {
    let nats = Nats::start().await;
    let client = async_nats::connect(nats.address()).await.unwrap();
    let (mut servers, clients) = instances(&nats.endpoint(), 2).await;
    clients[0].put("/k/0", "before").await;
    let backup = Backup::take(&client).await;
    // Then the second one writes, in an epoch with the number that the new writer's will have.
    let target_id = clients[1].status().await.unwrap().header.unwrap().member_id;
    let _: MoveLeaderResponse = clients[0]
        .unary("/etcdserverpb.Maintenance/MoveLeader", MoveLeaderRequest { target_id })
        .await
        .unwrap();
    for _ in 0..30 {
        clients[1].put("/k/0", "after").await;
    }
    let old_term = term(&clients[1]).await;
    let last = async || {
        let info = api(&client, "STREAM.INFO", &json!({})).await;
        info["state"]["last_seq"].as_u64().unwrap()
    };
    servers[0].kill9();
    signal(servers[1].pid(), libc::SIGSTOP);
    let end = last().await;
    backup.restore(&client).await;
    let (_fresh, fresh) = instances(&nats.endpoint(), 1).await;
    assert_eq!(term(&fresh[0]).await, old_term);
    while last().await <= end {
        fresh[0].put("/k/0", "new").await;
    }
    signal(servers[1].pid(), libc::SIGCONT);
    let late = clients[1].put_request(put("/late", "x")).await;
    assert!(late.is_err(), "{late:?}");
    ends(&mut servers[1], &clients[1], b"after").await;
    assert!(fresh[0].kv("/late").await.is_none());
    assert_eq!(fresh[0].kv("/k/0").await.unwrap().value, "new");
    servers[1].kill9();
    servers[1].restart().await;
    let again = servers[1].client().await;
    assert!(again.kv("/late").await.is_none());
    all_agree(&[fresh[0].clone(), again]).await;
}
