//! Messages that compaction has removed stay removed when nats-server is killed again and again.
//!
//! nats-server 2.15.1 forgets removals: it rewrites a block of its store in the middle of its recovery, and
//! drops the notes of removals that it has not applied yet. The next recovery brings those messages back.
//!
//! It also writes no note of the last removal in a block that notes removals in earlier blocks, and keeps the
//! block until it rewrites it some two minutes later. A recovery before that brings the message back.

use jetway::proto::etcdserverpb::{CompactionRequest, HashKvRequest, HashKvResponse};
use std::time::Duration;
use support::client::{Client, all, delete, delete_all, revision};
use support::server::{Server, signal};
use support::{eventually, eventually_within};

/// Bytes of a block of messages.
const BLOCK: usize = 4 << 20;
const VALUE: usize = 4000;
/// So many large values fill a block.
const VALUES_OF_A_BLOCK: usize = 20;
const LARGE: usize = BLOCK / VALUES_OF_A_BLOCK - 700;

async fn hash(client: &Client, revision: i64) -> (u32, i64) {
    let request = HashKvRequest { revision };
    let hash: HashKvResponse = client.unary("/etcdserverpb.Maintenance/HashKV", request).await.unwrap();
    (hash.hash, hash.compact_revision)
}

async fn compact(client: &Client, revision: i64) {
    client.compact_request(CompactionRequest { revision, physical: true }).await.unwrap();
}

/// The store is the same when the machine has failed once, and once more.
async fn stays_as_it_is(server: &mut Server) {
    let client = server.client().await;
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
    stays_as_it_is(&mut server).await;
}

/// Has nats-server remove a value of a deleted key without a note of it.
async fn remove_without_a_note(client: &Client) {
    let value = "v".repeat(LARGE);
    for number in 0..VALUES_OF_A_BLOCK {
        client.put(format!("/kept/{number:02}"), &value).await;
    }
    client.put("/removed/first", &value).await;
    // The second block notes the removal of values in the first one.
    client.put("/kept/00", "").await;
    client.put("/kept/01", "").await;
    let floor = client.put("/removed/second", "").await;
    compact(client, floor).await;
    for number in 0..2 * VALUES_OF_A_BLOCK {
        client.put(format!("/removed/{number:02}"), &value).await;
    }
    // The records of the first compaction leave the second block. Only values of keys that are deleted are
    // left in it.
    for _ in 0..2 {
        client.put("/kept/00", "").await;
        client.put("/kept/01", "").await;
        let floor = client.put("/removed/second", "").await;
        compact(client, floor).await;
    }
    client.delete_range(delete_all("/removed/")).await.unwrap();
    client.put("/kept/02", "").await;
    let floor = client.put("/kept/02", "").await;
    compact(client, floor).await;
    client.put("/kept/03", "behind the floor").await;
}

#[tokio::test]
async fn a_deleted_key_stays_deleted_when_nats_server_has_not_noted_the_removal_of_its_value() {
    let mut server = Server::start().await;
    let client = server.client().await;
    remove_without_a_note(&client).await;
    let compacted = size(&client).await.unwrap();
    stays_as_it_is(&mut server).await;
    has_one_value_more(&server.client().await, compacted).await;
}

/// Bytes of the stream's messages. A defragmentation measures them.
async fn size(client: &Client) -> Option<i64> {
    client.defragment().await.ok()?;
    let status = client.status().await.ok()?;
    Some(status.db_size_in_use)
}

/// Waits until the stream has grown by a value that came back.
async fn has_one_value_more(client: &Client, before: i64) {
    let is_back = async || size(client).await.filter(|size| *size > before + LARGE as i64 / 2);
    eventually("a value to come back", is_back).await;
}

#[tokio::test]
#[ignore = "eleven minutes: make removals"]
async fn tombstones_go_when_the_removals_before_them_are_noted() {
    const LONGEST: Duration = Duration::from_secs(15 * 60);
    /// The compactions below take two large values.
    const KEPT: i64 = 2 * LARGE as i64;
    /// Less than forty tombstones have.
    const TOMBSTONES: i64 = 40 * 50;
    let mut server = Server::start().await;
    let client = server.client().await;
    remove_without_a_note(&client).await;
    let compacted = size(&client).await.unwrap();
    signal(server.nats_pid(), libc::SIGKILL);
    has_one_value_more(&client, compacted).await;
    // Later compactions have later trim records, and remove what the earlier ones have left.
    for number in 0..3 {
        client.put("/kept/03", format!("{number}")).await;
        client.put("/removed/later", "").await;
        client.delete_range(delete("/removed/later")).await.unwrap();
        let floor = client.put("/kept/04", format!("{number}")).await;
        compact(&client, floor).await;
    }
    client.put("/kept/03", "behind the floor").await;
    // The value is removed again, and the tombstones behind it five minutes later.
    let are_gone = async || size(&client).await.filter(|size| *size < compacted - KEPT - TOMBSTONES);
    eventually_within(LONGEST, "the tombstones to go", are_gone).await;
    stays_as_it_is(&mut server).await;
}
