//! A bit of the store that changes while the servers run.

use std::fs;
use std::os::unix::fs::FileExt as _;

use jetway::proto::etcdserverpb::AlarmRequest;
use support::client::all;
use support::eventually;
use support::server::{Server, signal};

use super::tail::blocks;

/// nats-server meets a damaged message when it removes it. That is damage, and no want of room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_flipped_in_place_is_reported_as_damage() {
    const KEYS: usize = 60;
    const BYTES: usize = 200_000;
    let server = Server::start_with(&["--sync", "group"]).await;
    let client = server.client().await;
    let reserve = server.dir().join("data/reserve");
    let reserved = fs::metadata(&reserve).expect("room is set aside").len();
    for key in 0..KEYS {
        client.put(format!("/k/{key}"), "a".repeat(BYTES)).await;
    }
    // Another process holds no block in memory.
    signal(server.nats_pid(), libc::SIGKILL);
    client.put("/after", "").await;
    let block = blocks(&server.dir().join("data"), "KV_jetway").into_iter().next().expect("a block");
    let content = fs::read(&block).unwrap();
    let value = content.windows(1000).position(|bytes| bytes.iter().all(|byte| *byte == b'a')).unwrap();
    let file = fs::File::options().write(true).open(&block).unwrap();
    file.write_all_at(b"A", value as u64 + 500).unwrap();
    for key in 0..KEYS {
        client.put(format!("/k/{key}"), "b".repeat(BYTES)).await;
    }
    client.compact(client.revision().await).await.unwrap();
    client.defragment().await.unwrap();
    eventually("the report", async || {
        server.log().contains("nats-server has found a damaged message in the store").then_some(())
    })
    .await;

    // jetway serves all that it holds in memory, and takes writes.
    client.put("/k/1", "c").await;
    let kvs = client.range(all("/k/")).await.unwrap().kvs;
    assert_eq!(kvs.len(), KEYS);
    assert!(kvs.iter().all(|kv| kv.value.iter().all(|byte| *byte == kv.value[0])));
    let log = server.log();
    assert!(!log.contains("cannot write its store") && !log.contains("NOSPACE"), "{log}");
    assert_eq!(fs::metadata(&reserve).expect("the reserve is not spent").len(), reserved);
    assert!(client.alarm(AlarmRequest::default()).await.unwrap().alarms.is_empty());
}
