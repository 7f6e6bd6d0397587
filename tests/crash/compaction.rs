//! A compaction goes on where a crash has interrupted it.

use jetway::proto::etcdserverpb::RangeRequest;

use support::client::{all, delete_all, get, refused};
use support::eventually;
use support::server::{Server, signal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_undone_is_removed_after_the_restart() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let writers = (0..16).map(|writer| {
        let client = client.clone();
        async move {
            for at in 0..150 {
                client.put(format!("/{writer}/{}", at % 3), "v".repeat(1000)).await;
            }
            client.delete(format!("/{writer}/0")).await;
        }
    });
    futures_util::future::join_all(writers).await;
    let full = client.status().await.unwrap().db_size_in_use;
    assert!(full > 16 * 150 * 1000);
    let end = client.revision().await;
    let kvs = client.range(all("")).await.unwrap().kvs;
    client.compact(end).await.unwrap();
    // The answer comes before the space is free: most of the removing is still to be done.
    let nats = server.nats_pid();
    signal(nats, libc::SIGKILL);
    server.kill9();
    server.restart().await;

    let client = server.client().await;
    let rest = 16 * 2 * 1500 + 20_000;
    eventually("the space to be free", async || {
        (client.status().await.ok()?.db_size_in_use < rest).then_some(())
    })
    .await;
    let now = client.range(all("")).await.unwrap();
    assert_eq!(now.kvs, kvs);
    assert_eq!(now.header.unwrap().revision, end);
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let below = RangeRequest { revision: end - 1, ..get("/1/1") };
    refused(client.range(below).await, tonic::Code::OutOfRange, compacted);
    refused(client.compact(end).await, tonic::Code::OutOfRange, compacted);
}

/// A revision of many keys takes many places in the stream, and of those few are left after a compaction.
/// Each compaction computes its floor on what the one before it has left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revisions_stay_what_they_are_over_compactions_and_restarts() {
    let mut server = Server::start().await;
    let client = server.client().await;
    for at in 0..100 {
        client.put(format!("/batch/{at}"), "v").await;
    }
    client.delete_range(delete_all("/batch/")).await.unwrap();
    for round in 0..4 {
        let client = server.client().await;
        client.put(format!("/kept/{round}"), "v").await;
        client.put("/gone", "v").await;
        let end = client.delete("/gone").await;
        // Floors at the newest revision and below it.
        client.compact(end - round % 2).await.unwrap();
        let kvs = client.range(all("")).await.unwrap().kvs;
        server.kill9();
        server.restart().await;

        let client = server.client().await;
        let now = client.range(all("")).await.unwrap();
        assert_eq!(now.header.unwrap().revision, end, "round {round}");
        assert_eq!(now.kvs, kvs, "round {round}");
        assert_eq!(client.put("/next", "v").await, end + 1, "round {round}");
    }
}
