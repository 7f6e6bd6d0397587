//! DeleteRange.

use jetway::proto::etcdserverpb::*;
use jetway::proto::mvccpb::event::EventType;
use tonic::Code;

use support::client::*;
use support::keys::*;
use support::server::Server;
use support::watch::*;

/// DEL-1
#[tokio::test]
async fn an_empty_key_is_refused() {
    let client = Server::shared().await.client().await;
    let text = "etcdserver: key is not provided";
    refused(client.delete_range(DeleteRangeRequest::default()).await, Code::InvalidArgument, text);
    let to_the_end = DeleteRangeRequest { range_end: b(TO_THE_END), ..Default::default() };
    refused(client.delete_range(to_the_end).await, Code::InvalidArgument, text);
}

/// DEL-2, DEL-4, WAT-21, WAT-24
#[tokio::test]
async fn a_range_is_deleted_in_one_revision_and_in_key_order() {
    let client = Server::shared().await.client().await;
    let at = unique("delete");
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    for key in ["b", "c", "a", "a"] {
        client.put_request(PutRequest { lease, ..put(format!("{at}{key}"), key) }).await.unwrap();
    }
    let before = client.range(all(&at)).await.unwrap().kvs;
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_all(&at)).await;
    let answer = client.delete_range(DeleteRangeRequest { prev_kv: true, ..delete_all(&at) }).await.unwrap();
    let deleted_at = revision(&answer.header);
    assert_eq!(answer.deleted, 3);
    assert_eq!(answer.prev_kvs, before, "complete pairs, ascending");
    let message = watch.next().await;
    let outlines: Vec<_> = message.events.iter().map(outline).collect();
    let expected = ["a", "b", "c"].map(|key| (EventType::Delete, format!("{at}{key}"), deleted_at));
    assert_eq!(outlines, expected);
    client.lease_revoke(lease).await.unwrap();
}

/// DEL-3
#[tokio::test]
async fn deleting_nothing_succeeds_without_a_revision_or_an_event() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "x").await;
    client.delete("a").await;
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_all("")).await;
    for request in [delete("a"), delete("never"), delete_all("")] {
        let request = DeleteRangeRequest { prev_kv: true, ..request };
        let answer = client.delete_range(request).await.unwrap();
        assert_eq!((answer.deleted, answer.prev_kvs.len(), revision(&answer.header)), (0, 0, 3));
    }
    client.put("b", "x").await;
    assert_eq!(
        watch.next().await.events.iter().map(outline).collect::<Vec<_>>(),
        [(EventType::Put, "b".into(), 4)]
    );
}

/// DEL-4
#[tokio::test]
async fn prev_kvs_are_returned_only_on_request() {
    let client = Server::shared().await.client().await;
    let at = unique("no-prev");
    client.put(format!("{at}a"), "x").await;
    let answer = client.delete_range(delete_all(&at)).await.unwrap();
    assert_eq!((answer.deleted, answer.prev_kvs.len()), (1, 0));
}

/// DEL-5
#[tokio::test]
async fn a_deleted_key_is_detached_from_its_lease() {
    let client = Server::shared().await.client().await;
    let key = unique("leaves");
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    client.put_request(PutRequest { lease, ..put(&key, "x") }).await.unwrap();
    client.delete(&key).await;
    let left = client.lease_time_to_live(lease, true).await.unwrap();
    assert_eq!((left.granted_ttl, left.keys.len()), (600, 0));
    let again = client.put(&key, "no lease now").await;
    assert!(again > 0);
    client.lease_revoke(lease).await.unwrap();
    assert!(client.kv(&key).await.is_some());
}

/// DEL-7, RNG-4: what was there before the delete stays readable until compaction.
#[tokio::test]
async fn a_deleted_pair_is_readable_at_older_revisions() {
    let client = Server::shared().await.client().await;
    let key = unique("history");
    let written = client.put(&key, "x").await;
    let deleted = client.delete(&key).await;
    let at = |revision| client.range(RangeRequest { revision, ..get(&key) });
    assert_eq!(at(written).await.unwrap().kvs[0].value, "x");
    assert_eq!(at(deleted).await.unwrap().count, 0);
}
