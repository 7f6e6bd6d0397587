//! A bit of the store that changes while the servers run.

use std::fs;
use std::os::unix::fs::FileExt as _;

use jetway::proto::etcdserverpb::AlarmRequest;
use support::client::all;
use support::eventually;
use support::server::{Server, signal};

use super::tail::{blocks, kill_both};

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

/// The place in a block of the only record with this value. It begins with its length.
fn record_of(block: &[u8], value: &str) -> usize {
    let at = block.windows(value.len()).position(|bytes| bytes == value.as_bytes()).unwrap();
    let prefix = b"$KV.jetway.";
    let subject = block[..at].windows(prefix.len()).rposition(|bytes| bytes == prefix).unwrap();
    // Before it: the length, the sequence, the time and the length of the subject.
    subject - 22
}

/// Of an accepted loss only the damaged records are part: those behind them in the same block are served, and
/// later writes stay, however often nats-server is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_loss_is_that_of_the_damaged_records_alone() {
    const KEYS: usize = 40;
    let mut server = Server::start_with(&["--sync", "group"]).await;
    let client = server.client().await;
    for key in 10..KEYS {
        client.put(format!("/k/{key}"), format!("value-{key}-{}", "v".repeat(300))).await;
    }
    let revision = client.revision().await;
    server.stop().await;
    let block = blocks(&server.dir().join("data"), "KV_jetway").pop().unwrap();
    let mut content = fs::read(&block).unwrap();
    let (in_a_value, in_a_length) = ("value-15-", "value-25-");
    let value = content.windows(9).position(|bytes| bytes == in_a_value.as_bytes()).unwrap();
    content[value + 100] ^= 1;
    let length = record_of(&content, in_a_length);
    content[length + 1] ^= 1;
    fs::write(&block, content).unwrap();
    server.ends().await;

    server.set_args(&["--sync", "group", "--accept-data-loss"]);
    server.restart().await;
    server.set_args(&["--sync", "group"]);
    let client = server.client().await;
    assert_eq!(client.revision().await, revision);
    let mut expected: Vec<_> = (10..KEYS).filter(|key| ![15, 25].contains(key)).collect();
    let keys = async |client: &support::client::Client| -> Vec<usize> {
        let kvs = client.range(all("/k/")).await.unwrap().kvs;
        kvs.iter().map(|kv| str::from_utf8(&kv.key[3..]).unwrap().parse().unwrap()).collect()
    };
    assert_eq!(keys(&client).await, expected);
    for key in KEYS..KEYS + 3 {
        server.client().await.put(format!("/k/{key}"), "later").await;
        expected.push(key);
        kill_both(&mut server);
        server.restart().await;
        let client = server.client().await;
        assert_eq!(keys(&client).await, expected);
        assert!(server.log().contains("damaged records are taken out of the store"), "{}", server.log());
    }
}
