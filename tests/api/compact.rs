//! Compaction: what it takes away and what it leaves.

use jetway::proto::etcdserverpb::*;
use jetway::proto::mvccpb::event::EventType::{Delete, Put};
use tonic::Code;

use support::client::*;
use support::server::Server;
use support::watch::*;

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";

/// A fresh server whose key `a` has been put up to revision `last`.
async fn with_revisions(last: i64) -> (Server, Client) {
    let server = Server::start().await;
    let client = server.client().await;
    for n in 2..=last {
        client.put("a", n.to_string()).await;
    }
    (server, client)
}

/// CMP-1
#[tokio::test]
async fn a_store_never_compacted_may_be_compacted_at_zero_once() {
    let (_server, client) = with_revisions(3).await;
    refused(client.compact(-1).await, Code::OutOfRange, COMPACTED);
    client.compact(0).await.unwrap();
    refused(client.compact(0).await, Code::OutOfRange, COMPACTED);
    client.compact(1).await.unwrap();
    refused(client.compact(1).await, Code::OutOfRange, COMPACTED);
    assert_eq!(client.range(RangeRequest { revision: 2, ..get("a") }).await.unwrap().count, 1);
}

/// CMP-1, CMP-2
#[tokio::test]
async fn only_a_revision_between_the_compacted_and_the_current_one_can_be_compacted() {
    let (_server, client) = with_revisions(6).await;
    refused(client.compact(7).await, Code::OutOfRange, FUTURE);
    client.compact(4).await.unwrap();
    for revision in [4, 3, 0, -1] {
        refused(client.compact(revision).await, Code::OutOfRange, COMPACTED);
    }
    refused(client.compact(7).await, Code::OutOfRange, FUTURE);
    client.compact(6).await.unwrap();
    refused(client.compact(6).await, Code::OutOfRange, COMPACTED);
    refused(client.compact(7).await, Code::OutOfRange, FUTURE);
}

/// CMP-3, CMP-4
#[tokio::test]
async fn a_compaction_is_in_effect_when_its_response_arrives() {
    let (_server, client) = with_revisions(6).await;
    for floor in 2..=6 {
        assert_eq!(revision(&client.compact(floor).await.unwrap().header), 6, "no bump");
        let below = RangeRequest { revision: floor - 1, ..get("a") };
        refused(client.range(below).await, Code::OutOfRange, COMPACTED);
        let at = client.range(RangeRequest { revision: floor, ..get("a") }).await.unwrap();
        assert_eq!(at.kvs[0].value, floor.to_string());
    }
    assert_eq!(client.put("a", "x").await, 7);
}

/// CMP-3: a compaction is no event.
#[tokio::test]
async fn synced_watchers_get_nothing_from_a_compaction() {
    let (_server, client) = with_revisions(5).await;
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { prev_kv: true, ..watch_all("") }).await;
    client.compact(5).await.unwrap();
    client.put("a", "x").await;
    let event = &watch.events(1).await[0];
    assert_eq!((outline(event).2, event.prev_kv.as_ref().map(|kv| kv.mod_revision)), (6, Some(5)));
}

/// CMP-4, CMP-5
#[tokio::test]
async fn keys_live_at_the_compacted_revision_keep_their_own_revisions() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("old", "kept").await;
    client.put("twice", "1").await;
    client.put("gone", "x").await;
    client.delete("gone").await;
    client.put("twice", "2").await;
    client.put("late", "x").await;
    client.compact_request(CompactionRequest { revision: 6, physical: true }).await.unwrap();
    let shape = async |revision| {
        let answer = client.range(RangeRequest { revision, ..all("") }).await.unwrap();
        assert_eq!(answer.count as usize, answer.kvs.len());
        let shape = |kv: &jetway::proto::mvccpb::KeyValue| {
            (String::from_utf8(kv.key.to_vec()).unwrap(), kv.create_revision, kv.mod_revision, kv.version)
        };
        answer.kvs.iter().map(shape).collect::<Vec<_>>()
    };
    let old = ("old".to_owned(), 2, 2, 1);
    let twice = ("twice".to_owned(), 3, 6, 2);
    assert_eq!(shape(6).await, [old.clone(), twice.clone()]);
    assert_eq!(shape(0).await, [("late".to_owned(), 7, 7, 1), old, twice]);
}

/// CMP-5
#[tokio::test]
async fn a_delete_at_the_compacted_revision_is_still_replayed() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "x").await;
    client.put("b", "x").await;
    client.txn(run(vec![op(delete("a")), op(put("c", "x")), op(delete("b"))])).await.unwrap();
    client.put("b", "y").await;
    client.compact_request(CompactionRequest { revision: 4, physical: true }).await.unwrap();
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { start_revision: 4, prev_kv: true, ..watch_all("") }).await;
    let events = watch.events(4).await;
    let outlines: Vec<_> = events.iter().map(outline).collect();
    let event = |kind, key: &str, revision| (kind, key.to_owned(), revision);
    assert_eq!(
        outlines,
        [event(Delete, "a", 4), event(Put, "c", 4), event(Delete, "b", 4), event(Put, "b", 5)]
    );
    assert!(events.iter().all(|event| event.prev_kv.is_none()), "at the floor nothing came before");
}

/// CMP-6: what was deleted before the floor is no previous value after it.
#[tokio::test]
async fn prev_kv_is_kept_for_events_after_the_compacted_revision() {
    let (_server, client) = with_revisions(4).await;
    client.compact_request(CompactionRequest { revision: 3, physical: true }).await.unwrap();
    client.delete("a").await;
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { start_revision: 4, prev_kv: true, ..watch_key("a") }).await;
    let previous: Vec<_> =
        watch.events(2).await.into_iter().map(|event| event.prev_kv.map(|kv| kv.mod_revision)).collect();
    assert_eq!(previous, [Some(3), Some(4)]);
}

/// CMP-7
#[tokio::test]
async fn a_physical_compaction_responds_like_a_logical_one() {
    let (_server, client) = with_revisions(200).await;
    let physical = |revision| client.compact_request(CompactionRequest { revision, physical: true });
    assert_eq!(revision(&physical(150).await.unwrap().header), 200);
    refused(physical(150).await, Code::OutOfRange, COMPACTED);
    refused(physical(201).await, Code::OutOfRange, FUTURE);
    assert_eq!(client.range(RangeRequest { revision: 150, ..get("a") }).await.unwrap().kvs[0].value, "150");
}

/// CMP-7: more than the server takes out of its memory in one turn, with writes in between.
#[tokio::test]
async fn a_large_physical_compaction_returns_after_everything_is_removed() {
    const ROUNDS: usize = 30;
    let server = Server::start().await;
    let client = server.client().await;
    for round in 0..ROUNDS {
        let value = format!("{round:01000}");
        let puts = (0..100).map(|key| op(put(format!("{key:02}"), &value)));
        client.txn(run(puts.collect())).await.unwrap();
    }
    let last = client.revision().await;
    let before = client.status().await.unwrap().db_size_in_use;
    let compaction = client.compact_request(CompactionRequest { revision: last, physical: true });
    let writes = async {
        for n in 0..20 {
            client.put("late", n.to_string()).await;
        }
    };
    tokio::join!(async { compaction.await.unwrap() }, writes);
    // This measures too.
    client.defragment().await.unwrap();
    let after = client.status().await.unwrap().db_size_in_use;
    assert!(after < before / (ROUNDS as i64 / 3), "{after} of {before}");
    assert_eq!(client.range(RangeRequest { revision: last, ..all("") }).await.unwrap().count, 100);
    assert_eq!(client.range(all("")).await.unwrap().count, 101);
}

/// CMP-8
#[tokio::test]
async fn a_paged_list_below_the_compacted_revision_fails_on_its_next_page() {
    let (_server, client) = with_revisions(2).await;
    client.put("b", "x").await;
    let page = client.range(RangeRequest { limit: 1, ..all("") }).await.unwrap();
    assert!(page.more);
    client.put("a", "x").await;
    client.compact(4).await.unwrap();
    let next = RangeRequest { revision: revision(&page.header), ..get("b") };
    refused(client.range(next).await, Code::OutOfRange, COMPACTED);
}

/// CMP-9
#[tokio::test]
async fn the_compacted_and_the_current_revision_survive_a_restart() {
    let (mut server, client) = with_revisions(5).await;
    client.put("b", "x").await;
    // The newest revision is a delete, and is compacted away.
    assert_eq!(client.delete("b").await, 7);
    client.compact_request(CompactionRequest { revision: 7, physical: true }).await.unwrap();
    server.stop().await;
    server.restart().await;
    let client = server.client().await;
    let now = client.get("a").await.unwrap();
    assert_eq!((revision(&now.header), now.kvs[0].mod_revision, now.kvs[0].version), (7, 5, 4));
    refused(client.range(RangeRequest { revision: 6, ..get("a") }).await, Code::OutOfRange, COMPACTED);
    refused(client.compact(7).await, Code::OutOfRange, COMPACTED);
    assert_eq!(client.put("a", "x").await, 8);
}

/// CMP-11, STS-1, MNT-1: the space comes back, in use at once or soon, on disk with a defragmentation.
#[tokio::test]
async fn compaction_frees_space() {
    let server = Server::start().await;
    let client = server.client().await;
    let value = vec![b'v'; 100 << 10];
    for _ in 0..100 {
        client.put("a", &value).await;
    }
    let before = support::eventually("the space in use to show", async || {
        client.status().await.ok().filter(|status| status.db_size_in_use > 9_000_000)
    })
    .await;
    let last = client.revision().await;
    client.compact_request(CompactionRequest { revision: last, physical: true }).await.unwrap();
    support::eventually("the space in use to shrink", async || {
        // etcd counts again when it commits.
        client.put("b", "x").await;
        (client.status().await.unwrap().db_size_in_use < before.db_size_in_use / 10).then_some(())
    })
    .await;
    client.defragment().await.unwrap();
    let after = client.status().await.unwrap();
    assert!(after.db_size < before.db_size / 2, "{} of {}", after.db_size, before.db_size);
}
