//! Which revision a header carries, and when the revision moves.

use jetway::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use jetway::proto::etcdserverpb::*;
use jetway::proto::mvccpb::KeyValue;

use support::client::*;
use support::server::Server;
use support::watch::*;

/// HDR-1
#[tokio::test]
async fn every_header_names_the_same_cluster_and_member() {
    let server = Server::shared().await;
    let client = server.client().await;
    let headers = [
        client.put_request(put("header", "x")).await.unwrap().header,
        client.get("header").await.unwrap().header,
        client.delete_range(delete("header")).await.unwrap().header,
        client.txn(run(vec![op(get("header"))])).await.unwrap().header,
        client.lease_time_to_live(1, false).await.unwrap().header,
        client.status().await.unwrap().header,
        client.members().await.unwrap().header,
        client.auth_status().await.unwrap().header,
    ]
    .map(|header| header.expect("a header"));
    let first = headers[0];
    assert_ne!(first.cluster_id, 0);
    assert_ne!(first.member_id, 0);
    for header in headers {
        assert_eq!((header.cluster_id, header.member_id), (first.cluster_id, first.member_id));
        assert_ne!(header.raft_term, 0);
    }
}

/// HDR-2
#[tokio::test]
async fn a_fresh_store_is_at_revision_one_and_its_first_write_at_two() {
    let server = Server::start().await;
    let client = server.client().await;
    let empty = client.range(all("")).await.unwrap();
    assert_eq!((revision(&empty.header), empty.count), (1, 0));
    assert_eq!(client.put("first", "x").await, 2);
    assert_eq!(client.revision().await, 2);
}

/// HDR-2, PUT-3, DEL-2, DEL-3, TXN-15, LSE-4, LSE-5
#[tokio::test]
async fn the_revision_moves_by_one_per_request_that_changes_something() {
    let server = Server::start().await;
    let client = server.client().await;
    assert_eq!(client.put("a", "same").await, 2);
    assert_eq!(client.put("a", "same").await, 3, "an unchanged value is a write too");

    let many = (0..50).map(|n| op(put(format!("b/{n}"), "x"))).collect();
    assert_eq!(revision(&client.txn(run(many)).await.unwrap().header), 4, "fifty puts, one transaction");
    let gone = client.delete_range(delete_all("b/")).await.unwrap();
    assert_eq!((gone.deleted, revision(&gone.header)), (50, 5));

    let nothing = client.delete_range(delete_all("b/")).await.unwrap();
    assert_eq!((nothing.deleted, revision(&nothing.header)), (0, 5), "nothing was left to delete");
    let txn = client.txn(run(vec![op(get("a")), op(delete("b/1"))])).await.unwrap();
    assert_eq!(revision(&txn.header), 5, "a transaction that changes nothing");

    client.lease_grant(7, 60).await.unwrap();
    assert_eq!(client.revision().await, 5, "a grant is no write");
    for key in ["c/1", "c/2"] {
        client.put_request(PutRequest { lease: 7, ..put(key, "x") }).await.unwrap();
    }
    assert_eq!(revision(&client.lease_revoke(7).await.unwrap().header), 8, "two keys, one revision");
    client.lease_grant(8, 60).await.unwrap();
    assert_eq!(revision(&client.lease_revoke(8).await.unwrap().header), 8, "no keys, no revision");
    assert_eq!(client.put("a", "x").await, 9);
}

/// HDR-3, HDR-4
#[tokio::test]
async fn each_response_reports_its_own_revision() {
    let server = Server::start().await;
    let client = server.client().await;
    for n in 2..=5 {
        assert_eq!(client.put("a", n.to_string()).await, n);
    }
    let old = client.range(RangeRequest { revision: 3, ..get("a") }).await.unwrap();
    assert_eq!(revision(&old.header), 5, "current, not the requested one");
    let count = client.range(RangeRequest { count_only: true, ..all("") }).await.unwrap();
    assert_eq!(revision(&count.header), 5);
    assert_eq!(revision(&client.compact(3).await.unwrap().header), 5);
    assert_eq!(revision(&client.lease_grant(9, 60).await.unwrap().header), 5);
    assert_eq!(revision(&client.lease_time_to_live(9, true).await.unwrap().header), 5);
    assert_eq!(revision(&client.leases().await.unwrap().header), 5);
    assert_eq!(revision(&client.status().await.unwrap().header), 5);
    assert_eq!(revision(&client.alarm(AlarmRequest::default()).await.unwrap().header), 5);
    assert_eq!(revision(&client.auth_status().await.unwrap().header), 5);
    assert_eq!(revision(&client.members().await.unwrap().header), 0, "Cluster answers have none");
    assert_eq!(client.defragment().await.unwrap().header, None);
}

/// HDR-5, TXN-17
#[tokio::test]
async fn nested_headers_hold_the_revision_alone_and_those_of_nested_txns_nothing() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("gone", "x").await;
    let inner = run(vec![op(put("b", "x"))]);
    let ops = vec![op(put("a", "x")), op(delete("gone")), op(get("a")), op(inner)];
    let answer = client.txn(run(ops)).await.unwrap();
    let only_revision = Some(ResponseHeader { revision: 3, ..Default::default() });
    assert_eq!(put_of(&answer, 0).header, only_revision);
    assert_eq!(delete_of(&answer, 1).header, only_revision);
    assert_eq!(range_of(&answer, 2).header, only_revision);
    let nested = txn_of(&answer, 3);
    assert_eq!(nested.header, Some(ResponseHeader::default()));
    assert_eq!(put_of(nested, 0).header, only_revision);
    let outer = answer.header.unwrap();
    assert_eq!(outer.revision, 3);
    assert_ne!(outer.cluster_id, 0);
}

/// HDR-6, TXN-17
#[tokio::test]
async fn a_nested_read_reports_the_new_revision_after_an_earlier_write() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "x").await;
    let ops = vec![
        op(get("a")),
        op(delete("missing")),
        op(put("b", "x")),
        op(get("a")),
        op(delete("missing")),
        op(delete("a")),
    ];
    let answer = client.txn(run(ops)).await.unwrap();
    assert_eq!(revision(&range_of(&answer, 0).header), 2);
    assert_eq!(revision(&delete_of(&answer, 1).header), 2);
    assert_eq!(revision(&put_of(&answer, 2).header), 3);
    assert_eq!(revision(&range_of(&answer, 3).header), 3);
    assert_eq!(revision(&delete_of(&answer, 4).header), 3);
    assert_eq!(revision(&delete_of(&answer, 5).header), 3);
    assert_eq!(revision(&answer.header), 3);
}

/// HDR-6, inside nested transactions
#[tokio::test]
async fn a_write_in_one_nested_txn_moves_the_revision_of_the_next_ones() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "x").await;
    let reads = || op(run(vec![op(get("a"))]));
    let answer = client.txn(run(vec![reads(), op(run(vec![op(put("b", "x"))])), reads()])).await.unwrap();
    assert_eq!(revision(&range_of(txn_of(&answer, 0), 0).header), 2);
    assert_eq!(revision(&put_of(txn_of(&answer, 1), 0).header), 3);
    assert_eq!(revision(&range_of(txn_of(&answer, 2), 0).header), 3);
}

/// GEN-1
#[tokio::test]
async fn concurrent_compare_and_set_loses_no_update() {
    let server = Server::shared().await;
    let key = support::keys::unique("counter");
    let (clients, rounds) = (8, 12);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (client, key) = (server.client().await, key.clone());
        tasks.spawn(async move {
            for _ in 0..rounds {
                increment(&client, &key).await;
            }
        });
    }
    tasks.join_all().await;
    let kv = server.client().await.kv(&key).await.unwrap();
    assert_eq!(&kv.value[..], (clients * rounds).to_string().as_bytes());
    assert_eq!(kv.version, clients * rounds, "each success was one version");
}

async fn increment(client: &Client, key: &str) {
    loop {
        let (seen, count) = client.kv(key).await.map_or((0, 0), |kv| {
            (kv.mod_revision, std::str::from_utf8(&kv.value).unwrap().parse::<i64>().unwrap())
        });
        let unchanged = compare(key, CompareResult::Equal, TargetUnion::ModRevision(seen));
        let update = op(put(key, (count + 1).to_string()));
        let txn = TxnRequest { compare: vec![unchanged], success: vec![update], failure: vec![] };
        if client.txn(txn).await.unwrap().succeeded {
            return;
        }
    }
}

/// GEN-1: an abandoned write is applied as planned or not at all. The next write of its key is planned on top
/// of it, and it on top of every write before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_write_is_applied_as_planned_or_not_at_all() {
    let server = Server::shared().await;
    let key = support::keys::unique("given-up");
    let client = server.client().await;
    let first = client.put(&key, "blind").await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8_u64 {
        let (client, key) = (server.client().await, key.clone());
        tasks.spawn(async move {
            let mut given_up = 0;
            for round in 0..150 {
                let timeout = std::time::Duration::from_micros((task * 577 + round * 211) % 4000);
                let write = async {
                    if round % 3 == 0 {
                        client.put(&key, "blind").await;
                        return;
                    }
                    let seen = client.kv(&key).await.unwrap().mod_revision;
                    let unchanged = compare(&key, CompareResult::Equal, TargetUnion::ModRevision(seen));
                    let update = op(put(&key, seen.to_string()));
                    let txn = TxnRequest { compare: vec![unchanged], success: vec![update], failure: vec![] };
                    client.txn(txn).await.unwrap();
                };
                given_up += usize::from(tokio::time::timeout(timeout, write).await.is_err());
            }
            given_up
        });
    }
    let given_up: usize = tasks.join_all().await.into_iter().sum();
    assert!(given_up > 0, "nobody was in a hurry");
    let last = client.put(&key, "blind").await;
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { start_revision: first, ..watch_key(&key) }).await;
    let mut events: Vec<KeyValue> = Vec::new();
    while events.last().is_none_or(|event| event.mod_revision < last) {
        let message = watch.next_but_progress().await;
        events.extend(message.events.into_iter().map(|event| event.kv.unwrap()));
    }
    for (at, pair) in events.windows(2).enumerate() {
        let [before, after] = pair else { unreachable!("windows of two") };
        assert_eq!((after.version, after.create_revision), (before.version + 1, first), "event {at}");
        assert!(
            after.value == "blind" || after.value == before.mod_revision.to_string(),
            "event {at}: {pair:?}"
        );
    }
}

/// GEN-2, RNG-4
#[tokio::test]
async fn a_read_at_a_revision_never_changes() {
    let server = Server::start().await;
    let client = server.client().await;
    for n in 0..10 {
        client.put(format!("k/{}", n % 3), n.to_string()).await;
    }
    let pinned = || client.range(RangeRequest { revision: 6, ..all("k/") });
    let before = pinned().await.unwrap();
    client.delete_range(delete_all("k/")).await.unwrap();
    client.put("k/0", "new").await;
    let after = pinned().await.unwrap();
    assert_eq!(before.kvs, after.kvs);
    assert_eq!((before.count, after.count), (3, 3));
    assert_eq!(revision(&after.header), 13);
}
