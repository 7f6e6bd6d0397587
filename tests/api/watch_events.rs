//! The events themselves: content, order, batches, fragments.

use jetway::proto::etcdserverpb::watch_create_request::FilterType;
use jetway::proto::etcdserverpb::*;
use jetway::proto::mvccpb::event::EventType::{Delete, Put};
use jetway::proto::mvccpb::{Event, KeyValue};
use prost::Message as _;

use support::client::*;
use support::keys::*;
use support::server::Server;
use support::watch::*;

/// A shared server's client, a prefix, and a watch of that prefix.
async fn watching(name: &str, options: WatchCreateRequest) -> (Client, String, WatchStream) {
    let client = Server::shared().await.client().await;
    let at = unique(name);
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { key: b(&at), range_end: prefix_end(&at), ..options }).await;
    (client, at, watch)
}

fn plain() -> WatchCreateRequest {
    WatchCreateRequest::default()
}

fn with_prev() -> WatchCreateRequest {
    WatchCreateRequest { prev_kv: true, ..plain() }
}

/// WAT-15
#[tokio::test]
async fn filters_drop_events_of_their_kind() {
    let (client, at, mut watch) = watching("filters", plain()).await;
    let filtered = |watch_id, filters: &[i32]| WatchCreateRequest {
        watch_id,
        filters: filters.to_vec(),
        ..watch_all(&at)
    };
    let (noput, nodelete) = (FilterType::Noput.into(), FilterType::Nodelete.into());
    for (id, filters) in
        [(1, &[noput][..]), (2, &[nodelete]), (3, &[noput, nodelete]), (4, &[7]), (5, &[noput, noput])]
    {
        watch.watch(filtered(id, filters)).await;
    }
    client.put(format!("{at}a"), "x").await;
    client.txn(run(vec![op(put(format!("{at}b"), "x")), op(delete(format!("{at}a")))])).await.unwrap();
    client.delete(format!("{at}b")).await;
    let mut seen: [Vec<_>; 6] = Default::default();
    // 0 and 4 get all four events, 2 the puts, 1 and 5 the deletes, 3 nothing.
    let events = 4 + 4 + 2 + 2 + 2;
    let mut got = 0;
    while got < events {
        let message = watch.next().await;
        assert!(!message.events.is_empty(), "a batch without events is not sent");
        got += message.events.len();
        seen[message.watch_id as usize].extend(message.events.iter().map(Event::r#type));
    }
    assert_eq!(seen[0], [Put, Put, Delete, Delete]);
    assert_eq!(seen[1], [Delete, Delete]);
    assert_eq!(seen[2], [Put, Put]);
    assert_eq!(seen[3], []);
    assert_eq!(seen[4], seen[0], "an unknown filter filters nothing");
    assert_eq!(seen[5], seen[1]);
}

/// WAT-20
#[tokio::test]
async fn a_put_event_holds_the_whole_pair() {
    let (client, at, mut watch) = watching("put", plain()).await;
    let key = format!("{at}a");
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    client.put_request(PutRequest { lease, ..put(&key, "one") }).await.unwrap();
    let created = client.kv(&key).await;
    client.put(&key, "two").await;
    let updated = client.kv(&key).await;
    let events = watch.events(2).await;
    assert_eq!((events[0].r#type(), &events[0].kv), (Put, &created));
    assert_eq!((events[1].r#type(), &events[1].kv), (Put, &updated));
    assert!(events.iter().all(|event| event.prev_kv.is_none()), "not asked for");
    client.lease_revoke(lease).await.unwrap();
}

/// WAT-21
#[tokio::test]
async fn a_delete_event_holds_key_and_revision_only() {
    let (client, at, mut watch) = watching("delete", plain()).await;
    let key = format!("{at}a");
    client.put(&key, "x").await;
    let mod_revision = client.delete(&key).await;
    let events = watch.events(2).await;
    assert_eq!(events[1].r#type(), Delete);
    assert_eq!(events[1].kv, Some(KeyValue { key: b(&key), mod_revision, ..Default::default() }));
}

/// WAT-21, WAT-22, LSE-5
#[tokio::test]
async fn a_revoked_lease_deletes_like_a_client() {
    let (client, at, mut watch) = watching("revoke", with_prev()).await;
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    for key in ["b", "a"] {
        client.put_request(PutRequest { lease, ..put(format!("{at}{key}"), key) }).await.unwrap();
    }
    watch.events(2).await;
    let mod_revision = revision(&client.lease_revoke(lease).await.unwrap().header);
    let message = watch.next().await;
    let outlines: Vec<_> = message.events.iter().map(outline).collect();
    assert_eq!(outlines, ["a", "b"].map(|key| (Delete, format!("{at}{key}"), mod_revision)));
    for event in &message.events {
        let (kv, prev) = (pair(event), event.prev_kv.as_ref().unwrap());
        assert_eq!((kv.version, kv.create_revision, kv.lease, kv.value.len()), (0, 0, 0, 0));
        assert_eq!((prev.lease, prev.version), (lease, 1));
    }
}

/// WAT-22
#[tokio::test]
async fn prev_kv_is_the_pair_before_and_absent_for_creations() {
    let (client, at, mut watch) = watching("prev", with_prev()).await;
    let key = format!("{at}a");
    let mut before = vec![None];
    for value in ["one", "two"] {
        client.put(&key, value).await;
        before.push(client.kv(&key).await);
    }
    client.delete(&key).await;
    client.put(&key, "again").await;
    before.push(None);
    let live: Vec<_> = watch.events(4).await;
    assert_eq!(live.iter().map(|event| event.prev_kv.clone()).collect::<Vec<_>>(), before);

    let start_revision = pair(&live[0]).mod_revision;
    let mut late = WatchStream::open(&client);
    late.watch(WatchCreateRequest { start_revision, prev_kv: true, ..watch_all(&at) }).await;
    assert_eq!(late.events(4).await, live, "the same from history");
}

/// WAT-22, CMP-6
#[tokio::test]
async fn prev_kv_is_absent_where_the_state_before_is_compacted() {
    let server = Server::start().await;
    let client = server.client().await;
    for _ in 2..=5 {
        client.put("a", "x").await;
    }
    client.compact(4).await.unwrap();
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { start_revision: 4, prev_kv: true, ..watch_key("a") }).await;
    let events = watch.events(2).await;
    assert_eq!(events[0].prev_kv, None, "revision 3 is gone");
    assert_eq!(events[1].prev_kv.as_ref().map(|kv| kv.mod_revision), Some(4));
}

/// WAT-23, WAT-30: ordered, unique, complete, from any start, under load.
#[tokio::test]
async fn every_watch_gets_every_event_once_and_in_order() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut live = WatchStream::open(&client);
    live.watch(watch_all("k/")).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let client = client.clone();
        writers.spawn(async move {
            for n in 0..150 {
                match n % 5 {
                    4 => drop(client.delete(format!("k/{writer}/{}", n - 1)).await),
                    3 => {
                        let ops =
                            (0..3).map(|m| op(put(format!("k/{writer}/{}", n + m * 1000), "x"))).collect();
                        client.txn(run(ops)).await.unwrap();
                    }
                    _ => drop(client.put(format!("k/{writer}/{}", n % 10), "x").await),
                }
            }
        });
    }
    writers.join_all().await;
    let last = client.revision().await;
    assert_eq!(last, 601);
    let mut all = Vec::new();
    while all.last().is_none_or(|event| pair(event).mod_revision < last) {
        all.extend(live.next().await.events);
    }
    let mut revisions: Vec<_> = all.iter().map(|event| pair(event).mod_revision).collect();
    assert!(revisions.is_sorted());
    revisions.dedup();
    assert_eq!(revisions, (2..=601).collect::<Vec<_>>());
    for start_revision in [2, 3, 300, 600] {
        let expected: Vec<_> =
            all.iter().filter(|event| pair(event).mod_revision >= start_revision).cloned().collect();
        let mut late = WatchStream::open(&client);
        late.watch(WatchCreateRequest { start_revision, ..watch_all("k/") }).await;
        assert_eq!(late.events(expected.len()).await, expected, "from {start_revision}");
    }
}

/// WAT-24, WAT-27, LIM-12
#[tokio::test]
async fn a_batch_of_history_holds_whole_revisions_and_a_bounded_number_of_them() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut last = 1;
    for _ in 0..1100 {
        let ops = ["a", "b"].map(|key| op(put(key, "x")));
        last = revision(&client.txn(run(ops.to_vec())).await.unwrap().header);
    }
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { start_revision: 2, ..watch_all("") }).await;
    let mut next = 2;
    while next <= last {
        let message = watch.next().await;
        assert!(message.events.len() <= 2000, "at most a thousand revisions");
        for two in message.events.chunks(2) {
            let expected = ["a", "b"].map(|key| (Put, key.to_owned(), next));
            assert_eq!(two.iter().map(outline).collect::<Vec<_>>(), expected);
            next += 1;
        }
        assert!(revision(&message.header) >= next - 1);
    }
}

/// WAT-26
#[tokio::test]
async fn a_synced_watch_gets_one_response_per_revision() {
    let (client, at, mut watch) = watching("live", plain()).await;
    for _ in 0..20 {
        let written = client.put(format!("{at}a"), "x").await;
        client.put("elsewhere", "x").await;
        let message = watch.next().await;
        assert_eq!((revision(&message.header), message.events.len()), (written, 1));
    }
}

/// WAT-28
#[tokio::test]
async fn a_large_response_is_split_into_adjacent_fragments_on_request() {
    let (client, at, mut watch) = watching("fragment", with_prev()).await;
    watch.watch(WatchCreateRequest { watch_id: 1, fragment: true, prev_kv: true, ..watch_all(&at) }).await;
    let big = vec![b'v'; 700 << 10];
    let both = || run(["a", "b"].map(|key| op(put(format!("{at}{key}"), &big))).to_vec());
    client.txn(both()).await.unwrap();
    // Two events of two values each: more than 2 MiB in one revision.
    let written = revision(&client.txn(both()).await.unwrap().header);
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    let done = |messages: &[WatchResponse]| {
        messages
            .iter()
            .flat_map(|message| &message.events)
            .filter(|event| outline(event).2 == written)
            .count()
            == 2
    };
    while !done(&whole) || !done(&pieces) {
        let message = watch.next().await;
        if message.watch_id == 1 {
            pieces.push(message);
        } else {
            assert!(pieces.last().is_none_or(|piece: &WatchResponse| !piece.fragment), "pieces are adjacent");
            whole.push(message);
        }
    }
    assert!(whole.iter().all(|message| !message.fragment));
    let sizes: Vec<_> = whole.iter().map(|message| message.events.len()).collect();
    assert_eq!(sizes, [2, 2], "without the option an answer has any size");
    let pieces: Vec<_> =
        pieces.into_iter().skip_while(|piece| outline(&piece.events[0]).2 < written).collect();
    assert_eq!(pieces.iter().map(|piece| piece.fragment).collect::<Vec<_>>(), [true, false]);
    for piece in &pieces {
        assert_eq!((piece.events.len(), revision(&piece.header)), (1, written));
        assert!(piece.encoded_len() < 2 << 20);
    }
}

/// WAT-24, WAT-28: history that does not fit into one message.
#[tokio::test]
async fn fragments_of_history_join_to_whole_revisions() {
    let client = Server::shared().await.client().await;
    let at = unique("fragments");
    let big = vec![b'v'; 500 << 10];
    let start_revision = client.put(format!("{at}0"), &big).await;
    for n in 1..10 {
        client.put(format!("{at}{n}"), &big).await;
    }
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { start_revision, fragment: true, ..watch_all(&at) }).await;
    let mut keys = Vec::new();
    loop {
        let piece = watch.next().await;
        assert!(piece.encoded_len() < 2 << 20);
        keys.extend(piece.events.iter().map(|event| name(&at, &pair(event).key)));
        if keys.len() == 10 {
            assert!(!piece.fragment, "the last piece is marked");
            break;
        }
    }
    assert_eq!(keys, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// WAT-29, WAT-42: a client that does not read loses nothing and slows nobody.
#[tokio::test]
async fn a_slow_watcher_delays_no_other_and_catches_up() {
    let server = Server::start().await;
    let client = server.client().await;
    let request =
        WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(watch_all("k/"))) };
    // The call's own stream, since `WatchStream` reads ahead.
    let outgoing = tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let slow_client = server.client().await;
    let mut slow: tonic::Streaming<WatchResponse> =
        slow_client.bidi_stream("/etcdserverpb.Watch/Watch", outgoing).await.unwrap();
    assert!(slow.message().await.unwrap().unwrap().created);

    let mut fast = WatchStream::open(&client);
    fast.watch(watch_all("k/")).await;
    let value = vec![b'v'; 64 << 10];
    let count = 400;
    for n in 0..count {
        let written = client.put(format!("k/{}", n % 7), &value).await;
        // Reading each event at once: the slow reader, megabytes behind, does not hold it up.
        assert_eq!(outline(&fast.events(1).await[0]).2, written);
    }
    let mut next = 2;
    while next < 2 + count {
        let message = support::within("the slow watch", slow.message()).await.unwrap().unwrap();
        for event in &message.events {
            assert_eq!(pair(event).mod_revision, next);
            next += 1;
        }
    }
}

/// WAT-23: many watchers on one stream, each gets its own.
#[tokio::test]
async fn each_of_a_thousand_watchers_on_one_stream_gets_its_events() {
    let (client, at, mut watch) = watching("thousand", plain()).await;
    let count = 1000;
    for n in 1..=count {
        watch.request(WatchCreateRequest { watch_id: n, ..watch_key(format!("{at}{n}")) });
    }
    for n in 1..=count {
        assert_eq!(watch.next().await.watch_id, n);
    }
    for n in [1, 2, 500, 1000] {
        client.put(format!("{at}{n}"), "x").await;
        let mut ids = [watch.next().await.watch_id, watch.next().await.watch_id];
        ids.sort_unstable();
        assert_eq!(ids, [0, n]);
    }
}

/// GEN-3
#[tokio::test]
async fn a_read_after_an_event_sees_it() {
    let server = Server::shared().await;
    let (client, at, mut watch) = watching("gen3", plain()).await;
    let reader = server.client().await;
    let key = format!("{at}a");
    let writer = {
        let key = key.clone();
        tokio::spawn(async move {
            for _ in 0..100 {
                client.put(&key, "x").await;
            }
        })
    };
    for _ in 0..100 {
        let seen = outline(&watch.events(1).await[0]).2;
        assert!(reader.kv(&key).await.unwrap().mod_revision >= seen);
    }
    writer.await.unwrap();
}
