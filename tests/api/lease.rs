//! Leases: grants, attachment, renewal, expiry.

use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::*;
use jetway::proto::mvccpb::event::EventType::Delete;
use tonic::Code;

use support::client::*;
use support::keys::*;
use support::lease::KeepAlive;
use support::server::Server;
use support::watch::*;

const NOT_FOUND: &str = "etcdserver: requested lease not found";

async fn client() -> Client {
    Server::shared().await.client().await
}

async fn put_leased(client: &Client, key: &str, lease: i64) -> i64 {
    revision(&client.put_request(PutRequest { lease, ..put(key, "x") }).await.unwrap().header)
}

/// LSE-1
#[tokio::test]
async fn a_lease_has_the_requested_id_or_a_positive_one_of_the_server() {
    let client = client().await;
    let (one, two) = (client.lease_grant(0, 60).await.unwrap(), client.lease_grant(0, 60).await.unwrap());
    assert!(one.id > 0 && two.id > 0 && one.id != two.id);
    assert_eq!((one.ttl, &one.error[..]), (60, ""));
    for id in [77_001, -77_001, i64::MAX, i64::MIN] {
        assert_eq!(client.lease_grant(id, 60).await.unwrap().id, id);
        client.lease_revoke(id).await.unwrap();
    }
}

/// LSE-2
#[tokio::test]
async fn an_id_in_use_is_refused_until_it_is_revoked() {
    let client = client().await;
    client.lease_grant(77_002, 60).await.unwrap();
    let text = "etcdserver: lease already exists";
    refused(client.lease_grant(77_002, 60).await, Code::FailedPrecondition, text);
    client.lease_revoke(77_002).await.unwrap();
    client.lease_grant(77_002, 60).await.unwrap();
    client.lease_revoke(77_002).await.unwrap();
}

/// LSE-3, LIM-10
#[tokio::test]
async fn the_ttl_has_bounds() {
    let client = client().await;
    for (asked, granted) in
        [(i64::MIN, 2), (-1, 2), (0, 2), (1, 2), (2, 2), (3, 3), (9_000_000_000, 9_000_000_000)]
    {
        let lease = client.lease_grant(0, asked).await.unwrap();
        assert_eq!(lease.ttl, granted, "asked for {asked}");
        assert_eq!(client.lease_time_to_live(lease.id, false).await.unwrap().granted_ttl, granted);
        client.lease_revoke(lease.id).await.unwrap();
    }
    let text = "etcdserver: too large lease TTL";
    for ttl in [9_000_000_001, i64::MAX] {
        refused(client.lease_grant(0, ttl).await, Code::OutOfRange, text);
    }
}

/// LSE-5
#[tokio::test]
async fn a_revoke_deletes_the_lease_and_all_its_keys_in_one_revision() {
    let server = Server::start().await;
    let client = server.client().await;
    refused(client.lease_revoke(5).await, Code::NotFound, NOT_FOUND);
    client.lease_grant(5, 60).await.unwrap();
    for key in ["c", "a", "b"] {
        put_leased(&client, key, 5).await;
    }
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_all("")).await;
    assert_eq!(revision(&client.lease_revoke(5).await.unwrap().header), 5);
    let message = watch.next().await;
    let outlines: Vec<_> = message.events.iter().map(outline).collect();
    assert_eq!(outlines, ["a", "b", "c"].map(|key| (Delete, key.to_owned(), 5)));
    refused(client.lease_revoke(5).await, Code::NotFound, NOT_FOUND);
    let leased = PutRequest { lease: 5, ..put("d", "x") };
    refused(client.put_request(leased).await, Code::NotFound, NOT_FOUND);
    assert_eq!(client.revision().await, 5);
}

/// LSE-5, LSE-6: a key that left the lease stays.
#[tokio::test]
async fn a_revoke_deletes_only_keys_that_are_attached_now() {
    let client = client().await;
    let at = unique("attached");
    let key = |name: &str| format!("{at}{name}");
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    for name in ["moved", "deleted", "recreated", "kept"] {
        put_leased(&client, &key(name), lease).await;
    }
    client.put(key("moved"), "without").await;
    client.delete(key("deleted")).await;
    client.delete(key("recreated")).await;
    client.put(key("recreated"), "without").await;
    let mut keys = client.lease_time_to_live(lease, true).await.unwrap().keys;
    keys.sort();
    assert_eq!(keys, [b(key("kept"))]);
    client.lease_revoke(lease).await.unwrap();
    assert_eq!(client.list(&at).await, ["moved", "recreated"]);
}

/// LSE-7
#[tokio::test]
async fn a_put_in_a_transaction_attaches_its_key_to_the_lease() {
    let client = client().await;
    let at = unique("txn");
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    let puts = ["a", "b"].map(|name| op(PutRequest { lease, ..put(format!("{at}{name}"), "x") }));
    client.txn(run(puts.to_vec())).await.unwrap();
    assert_eq!(client.lease_time_to_live(lease, true).await.unwrap().keys.len(), 2);
    client.lease_revoke(lease).await.unwrap();
    assert_eq!(client.list(&at).await, Vec::<String>::new());
}

/// LSE-10, LSE-11
#[tokio::test]
async fn renewals_are_answered_in_order_and_an_ended_lease_has_ttl_zero() {
    let client = client().await;
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    let mut keep_alive = KeepAlive::open(&client);
    for id in [lease, 123_456, lease, -1, 0, lease] {
        keep_alive.send(id);
    }
    for (id, ttl) in [(lease, 600), (123_456, 0), (lease, 600), (-1, 0), (0, 0), (lease, 600)] {
        let answer = keep_alive.message().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl), (id, ttl));
        assert!(revision(&answer.header) >= 1);
    }
    client.lease_revoke(lease).await.unwrap();
    assert_eq!(keep_alive.renew(lease).await.ttl, 0);
}

/// LSE-14
#[tokio::test]
async fn the_call_ends_when_the_client_closes_its_side() {
    let client = client().await;
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    let mut keep_alive = KeepAlive::open(&client);
    for _ in 0..10 {
        keep_alive.send(lease);
    }
    keep_alive.half_close();
    for _ in 0..10 {
        assert_eq!(keep_alive.message().await.unwrap().unwrap().ttl, 600);
    }
    assert!(keep_alive.message().await.is_none(), "an end with OK");
    client.lease_revoke(lease).await.unwrap();
}

/// LSE-16
#[tokio::test]
async fn time_to_live_returns_the_remaining_and_the_granted_time_and_the_keys() {
    let client = client().await;
    let at = unique("ttl");
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    let answer = client.lease_time_to_live(lease, true).await.unwrap();
    assert_eq!((answer.id, answer.granted_ttl, answer.keys.len()), (lease, 600, 0));
    assert!((590..600).contains(&answer.ttl), "rounded down: {}", answer.ttl);
    put_leased(&client, &format!("{at}a"), lease).await;
    assert_eq!(client.lease_time_to_live(lease, true).await.unwrap().keys, [b(format!("{at}a"))]);
    assert_eq!(client.lease_time_to_live(lease, false).await.unwrap().keys.len(), 0, "not asked for");
    client.lease_revoke(lease).await.unwrap();
}

/// LSE-17
#[tokio::test]
async fn time_to_live_of_an_unknown_lease_is_minus_one() {
    let client = client().await;
    let answer = client.lease_time_to_live(424_242, true).await.unwrap();
    assert_eq!((answer.id, answer.ttl, answer.granted_ttl, answer.keys.len()), (424_242, -1, 0, 0));
    assert!(revision(&answer.header) >= 1);
}

/// LSE-18
#[tokio::test]
async fn leases_are_listed_by_their_remaining_time() {
    let server = Server::start().await;
    let client = server.client().await;
    assert_eq!(client.leases().await.unwrap().leases, []);
    for (id, ttl) in [(1, 3000), (2, 1000), (3, 2000), (-4, 500)] {
        client.lease_grant(id, ttl).await.unwrap();
    }
    client.lease_revoke(2).await.unwrap();
    let ids = client.leases().await.unwrap().leases.iter().map(|lease| lease.id).collect::<Vec<_>>();
    assert_eq!(ids, [-4, 3, 1]);
}

/// LSE-20, LSE-21, WAT-21, WAT-22
#[tokio::test]
async fn an_expired_lease_deletes_its_keys_in_one_revision() {
    let client = client().await;
    let at = unique("expiry");
    let mut watch = WatchStream::open(&client);
    let granted = Instant::now();
    let lease = client.lease_grant(0, 2).await.unwrap().id;
    for name in ["b", "a"] {
        put_leased(&client, &format!("{at}{name}"), lease).await;
    }
    watch.watch(WatchCreateRequest { prev_kv: true, ..watch_all(&at) }).await;
    let message = watch.next_but_progress().await;
    let lived = granted.elapsed();
    assert!(lived >= Duration::from_secs(2), "died after {lived:?}");
    let outlines: Vec<_> = message.events.iter().map(outline).collect();
    let expired_at = outlines[0].2;
    assert_eq!(outlines, ["a", "b"].map(|name| (Delete, format!("{at}{name}"), expired_at)));
    for event in &message.events {
        assert_eq!(event.prev_kv.as_ref().map(|kv| kv.lease), Some(lease));
    }
    assert_eq!(client.list(&at).await, Vec::<String>::new());
    assert_eq!(client.lease_time_to_live(lease, false).await.unwrap().ttl, -1);
    refused(client.lease_revoke(lease).await, Code::NotFound, NOT_FOUND);
    assert_eq!(KeepAlive::open(&client).renew(lease).await.ttl, 0, "nothing revives it");
}

/// LSE-20
#[tokio::test]
async fn each_expired_lease_is_a_revision_of_its_own() {
    let client = client().await;
    let at = unique("expiries");
    let mut watch = WatchStream::open(&client);
    for name in ["a", "b", "c"] {
        let lease = client.lease_grant(0, 2).await.unwrap().id;
        put_leased(&client, &format!("{at}{name}1"), lease).await;
        put_leased(&client, &format!("{at}{name}2"), lease).await;
    }
    watch.watch(watch_all(&at)).await;
    let mut revisions = Vec::new();
    while revisions.len() < 3 {
        let message = watch.next_but_progress().await;
        assert_eq!(message.events.len(), 2);
        revisions.push(outline(&message.events[0]).2);
    }
    revisions.dedup();
    assert_eq!(revisions.len(), 3);
}

/// LSE-10, LSE-20
#[tokio::test]
async fn a_renewed_lease_does_not_expire() {
    let client = client().await;
    let at = unique("renewed");
    let (kept, lost) =
        (client.lease_grant(0, 2).await.unwrap().id, client.lease_grant(0, 2).await.unwrap().id);
    put_leased(&client, &format!("{at}kept"), kept).await;
    put_leased(&client, &format!("{at}lost"), lost).await;
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_all(&at)).await;
    let mut keep_alive = KeepAlive::open(&client);
    // Renewed for as long as it takes the other one, granted at the same time, to expire.
    let event = loop {
        assert_eq!(keep_alive.renew(kept).await.ttl, 2);
        if let Ok(message) = tokio::time::timeout(Duration::from_millis(300), watch.next_but_progress()).await
        {
            break outline(&message.events[0]);
        }
    };
    assert_eq!(event.1, format!("{at}lost"));
    let left = client.lease_time_to_live(kept, true).await.unwrap();
    assert_eq!((left.granted_ttl, left.keys.len()), (2, 1));
    client.lease_revoke(kept).await.unwrap();
}

/// LSE-5: a lease without keys goes without a trace.
#[tokio::test]
async fn an_empty_lease_expires_without_a_revision() {
    let server = Server::start().await;
    let client = server.client().await;
    client.lease_grant(9, 2).await.unwrap();
    support::eventually("the lease to expire", async || {
        let left = client.lease_time_to_live(9, false).await.unwrap();
        (left.ttl == -1 && left.granted_ttl == 0).then_some(())
    })
    .await;
    assert_eq!(client.revision().await, 1);
    assert_eq!(client.leases().await.unwrap().leases, []);
}
