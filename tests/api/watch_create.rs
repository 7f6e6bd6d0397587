//! Creating and cancelling watchers: ids, refusals, start revisions.

use jetway::proto::etcdserverpb::watch_request::RequestUnion;
use jetway::proto::etcdserverpb::*;
use jetway::proto::mvccpb::event::EventType::{Delete, Put};

use support::client::*;
use support::keys::*;
use support::server::Server;
use support::watch::*;

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// A fresh server, since most of these tests name revisions.
async fn fresh() -> (Server, Client, WatchStream) {
    let server = Server::start().await;
    let client = server.client().await;
    let watch = WatchStream::open(&client);
    (server, client, watch)
}

/// WAT-1
#[tokio::test]
async fn an_empty_watch_request_is_ignored() {
    let (_server, client, mut watch) = fresh().await;
    watch.send(None);
    watch.watch(watch_key("a")).await;
    watch.send(None);
    client.put("a", "x").await;
    assert_eq!(watch.events(1).await.len(), 1);
}

/// WAT-1, CLI-2
#[tokio::test]
async fn created_and_cancelled_responses_come_in_the_order_of_the_requests() {
    let (_server, _client, mut watch) = fresh().await;
    for n in 0..50 {
        watch.request(WatchCreateRequest { watch_id: 100 + n, ..watch_key(format!("{n}")) });
        if n % 2 == 1 {
            watch.cancel(100 + n - 1);
        }
    }
    for n in 0..50 {
        let answer = watch.next().await;
        assert_eq!((answer.watch_id, answer.created, answer.canceled), (100 + n, true, false));
        if n % 2 == 1 {
            let answer = watch.next().await;
            assert_eq!((answer.watch_id, answer.created, answer.canceled), (100 + n - 1, false, true));
        }
    }
}

/// WAT-2
#[tokio::test]
async fn an_empty_key_is_watched_as_one_zero_byte() {
    let (_server, client, mut watch) = fresh().await;
    let everything = WatchCreateRequest { range_end: b(TO_THE_END), watch_id: 1, ..watch_key("") };
    watch.watch(everything).await;
    watch.watch(WatchCreateRequest { watch_id: 2, ..watch_key("") }).await;
    client.put("a", "x").await;
    assert_eq!(watch.next().await.watch_id, 1, "the key alone is no prefix of everything");
    client.put(b"\0", "x").await;
    let mut ids = [watch.next().await.watch_id, watch.next().await.watch_id];
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

/// WAT-3
#[tokio::test]
async fn the_created_response_comes_first_with_the_current_revision() {
    let (_server, client, mut watch) = fresh().await;
    for _ in 0..5 {
        client.put("a", "x").await;
    }
    for start_revision in [0, 2, 6, 9] {
        let answer = watch.create(WatchCreateRequest { start_revision, ..watch_key("nothing here") }).await;
        assert_eq!((answer.created, answer.canceled, revision(&answer.header)), (true, false, 6));
        assert_eq!((answer.events.len(), answer.compact_revision), (0, 0));
    }
}

/// WAT-4
#[tokio::test]
async fn the_server_assigns_ascending_ids_and_skips_those_in_use() {
    let (_server, _client, mut watch) = fresh().await;
    let mut create = async |watch_id| watch.watch(WatchCreateRequest { watch_id, ..watch_key("a") }).await;
    assert_eq!(create(0).await, 0);
    assert_eq!(create(2).await, 2);
    assert_eq!(create(0).await, 1);
    assert_eq!(create(0).await, 3, "2 is taken");
    assert_eq!(create(-7).await, -7);
    assert_eq!(create(i64::MAX).await, i64::MAX);
    watch.cancel(1);
    assert!(watch.next().await.canceled);
    let mut create = async |watch_id| watch.watch(WatchCreateRequest { watch_id, ..watch_key("a") }).await;
    assert_eq!(create(0).await, 4, "never back");
    assert_eq!(create(1).await, 1, "free again after its cancel");
}

/// WAT-4: each stream counts for itself.
#[tokio::test]
async fn watch_ids_belong_to_their_stream() {
    let (_server, client, mut one) = fresh().await;
    let mut other = WatchStream::open(&client);
    assert_eq!(one.watch(watch_key("a")).await, 0);
    assert_eq!(other.watch(watch_key("a")).await, 0);
    one.cancel(0);
    assert!(one.next().await.canceled);
    client.put("a", "x").await;
    other.events(1).await;
}

/// WAT-5, WAT-6, WAT-7, WAT-8
#[tokio::test]
async fn a_failed_create_is_reported_in_band_and_other_watches_continue() {
    let (_server, client, mut watch) = fresh().await;
    watch.watch(WatchCreateRequest { watch_id: 5, ..watch_key("a") }).await;
    let ranged = |key: &str, end: &str| WatchCreateRequest { range_end: b(end), ..watch_key(key) };
    let cases = [
        (WatchCreateRequest { start_revision: -1, ..watch_key("a") }, COMPACTED),
        (WatchCreateRequest { start_revision: i64::MIN, ..ranged("b", "a") }, COMPACTED),
        (ranged("b", "a"), EMPTY_RANGE),
        (ranged("b", "b"), EMPTY_RANGE),
        (WatchCreateRequest { watch_id: 5, ..ranged("b", "a") }, EMPTY_RANGE),
        (WatchCreateRequest { watch_id: 5, ..watch_key("b") }, DUPLICATE_ID),
    ];
    for (request, reason) in cases {
        let answer = watch.create(request).await;
        assert!(answer.canceled);
        assert_eq!((answer.watch_id, &answer.cancel_reason[..]), (-1, reason));
        assert_eq!((answer.compact_revision, revision(&answer.header)), (0, 1));
    }
    client.put("a", "x").await;
    let message = watch.next().await;
    assert_eq!((message.watch_id, message.events.len()), (5, 1));
}

/// WAT-9
#[tokio::test]
async fn a_watch_from_the_past_replays_history_and_continues() {
    let (_server, client, mut watch) = fresh().await;
    for _ in 2..=5 {
        client.put("a", "x").await;
    }
    client.delete("a").await;
    watch.watch(WatchCreateRequest { start_revision: 4, ..watch_key("a") }).await;
    client.put("a", "x").await;
    let outlines: Vec<_> = watch.events(4).await.iter().map(outline).collect();
    let a = |kind, revision| (kind, "a".to_owned(), revision);
    assert_eq!(outlines, [a(Put, 4), a(Put, 5), a(Delete, 6), a(Put, 7)]);
}

/// WAT-9
#[tokio::test]
async fn a_watch_from_the_current_revision_gets_that_revision() {
    let (_server, client, mut watch) = fresh().await;
    client.put("a", "x").await;
    watch.watch(WatchCreateRequest { start_revision: 2, ..watch_key("a") }).await;
    assert_eq!(outline(&watch.events(1).await[0]).2, 2);
}

/// WAT-9
#[tokio::test]
async fn a_watch_from_a_future_revision_gets_no_earlier_event() {
    let (_server, client, mut watch) = fresh().await;
    watch.watch(WatchCreateRequest { start_revision: 5, ..watch_key("a") }).await;
    for _ in 2..=6 {
        client.put("a", "x").await;
    }
    let revisions: Vec<_> = watch.events(2).await.iter().map(|event| outline(event).2).collect();
    assert_eq!(revisions, [5, 6]);
}

/// WAT-10, CLI-3: everything after the revision in the created answer arrives, under constant writes.
#[tokio::test]
async fn no_event_is_lost_between_the_created_response_and_the_first_event() {
    let (_server, client, _) = fresh().await;
    let writer = {
        let client = client.clone();
        tokio::spawn(async move {
            for n in 0..400 {
                client.put("a", n.to_string()).await;
            }
        })
    };
    let mut watchers = Vec::new();
    while !writer.is_finished() {
        let mut watch = WatchStream::open(&client);
        let created = watch.create(watch_key("a")).await;
        watchers.push((revision(&created.header), watch));
        tokio::task::yield_now().await;
        if watchers.len() == 100 {
            break;
        }
    }
    writer.await.unwrap();
    let last = client.put("a", "end").await;
    for (created, mut watch) in watchers {
        let mut next = created + 1;
        while next <= last {
            for event in watch.next().await.events {
                let revision = pair(&event).mod_revision;
                // An event at or before the created revision is allowed, a gap after it is not.
                assert!(revision <= next, "revision {next} is missing, {revision} came");
                next = next.max(revision + 1);
            }
        }
    }
}

/// WAT-11
#[tokio::test]
async fn a_watch_below_the_compacted_revision_is_created_and_then_cancelled() {
    let (_server, client, mut watch) = fresh().await;
    for _ in 2..=6 {
        client.put("a", "x").await;
    }
    client.compact(4).await.unwrap();
    for (watch_id, start_revision) in [(1, 1), (2, 3)] {
        let request = WatchCreateRequest { watch_id, start_revision, ..watch_key("a") };
        let created = watch.create(request).await;
        assert_eq!((created.canceled, created.watch_id, revision(&created.header)), (false, watch_id, 6));
        let canceled = watch.next().await;
        assert_eq!((canceled.watch_id, canceled.canceled, canceled.created), (watch_id, true, false));
        assert_eq!((canceled.compact_revision, &canceled.cancel_reason[..]), (4, ""));
        assert_eq!((revision(&canceled.header), canceled.events.len()), (0, 0));
    }
    watch.watch(WatchCreateRequest { start_revision: 4, ..watch_key("a") }).await;
    let revisions: Vec<_> = watch.events(3).await.iter().map(|event| outline(event).2).collect();
    assert_eq!(revisions, [4, 5, 6], "the compacted revision itself can be watched");
}

/// WAT-12
#[tokio::test]
async fn the_id_of_a_watch_cancelled_by_compaction_is_reserved_until_it_is_cancelled() {
    let (_server, client, mut watch) = fresh().await;
    for _ in 2..=4 {
        client.put("a", "x").await;
    }
    client.compact(4).await.unwrap();
    watch.watch(WatchCreateRequest { watch_id: 9, start_revision: 2, ..watch_key("a") }).await;
    assert_eq!(watch.next().await.compact_revision, 4);
    let again = watch.create(WatchCreateRequest { watch_id: 9, ..watch_key("a") }).await;
    assert_eq!((again.canceled, &again.cancel_reason[..]), (true, DUPLICATE_ID));
    watch.cancel(9);
    let acknowledged = watch.next().await;
    assert_eq!((acknowledged.watch_id, acknowledged.canceled), (9, true));
    assert_eq!((acknowledged.compact_revision, revision(&acknowledged.header)), (0, 4));
    assert_eq!(watch.watch(WatchCreateRequest { watch_id: 9, ..watch_key("a") }).await, 9);
}

/// WAT-13
#[tokio::test]
async fn a_cancel_is_acknowledged_and_ends_the_events() {
    let (_server, client, mut watch) = fresh().await;
    watch.watch(WatchCreateRequest { watch_id: 3, ..watch_key("a") }).await;
    client.put("a", "x").await;
    watch.events(1).await;
    watch.cancel(3);
    let answer = watch.next().await;
    assert_eq!((answer.watch_id, answer.canceled, answer.created), (3, true, false));
    assert_eq!((revision(&answer.header), answer.compact_revision, &answer.cancel_reason[..]), (2, 0, ""));
    watch.watch(WatchCreateRequest { watch_id: 4, ..watch_key("a") }).await;
    client.put("a", "x").await;
    assert_eq!(watch.next().await.watch_id, 4);
}

/// WAT-13
#[tokio::test]
async fn cancelling_an_unknown_watch_gets_no_response() {
    let (_server, _client, mut watch) = fresh().await;
    watch.watch(WatchCreateRequest { watch_id: 3, ..watch_key("a") }).await;
    watch.cancel(77);
    watch.cancel(-1);
    watch.cancel(3);
    watch.cancel(3);
    watch.request(WatchCreateRequest { watch_id: 8, ..watch_key("a") });
    let cancelled = watch.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled), (3, true));
    let created = watch.next().await;
    assert_eq!((created.watch_id, created.created), (8, true), "no answer stands in between");
}

/// WAT-14
#[tokio::test]
async fn a_watch_continues_after_the_client_half_closes() {
    let (_server, client, mut watch) = fresh().await;
    watch.watch(WatchCreateRequest { progress_notify: true, ..watch_key("a") }).await;
    watch.half_close();
    for n in 2..=4 {
        client.put("a", "x").await;
        assert_eq!(outline(&watch.next_but_progress().await.events[0]).2, n);
    }
    loop {
        if is_progress(&watch.next().await) {
            break;
        }
    }
}

/// WAT-13, WAT-40: a call that ends frees its watchers.
#[tokio::test]
async fn a_call_that_ends_frees_its_watchers() {
    let (_server, client, mut stays) = fresh().await;
    stays.watch(watch_key("a")).await;
    for _ in 0..20 {
        let mut watch = WatchStream::open(&client);
        watch.watch(watch_key("a")).await;
        watch.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }
    client.put("a", "x").await;
    stays.events(1).await;
}
