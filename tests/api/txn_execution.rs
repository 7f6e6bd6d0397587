//! How a transaction runs, what it answers and what its watchers see.

use jetway::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use jetway::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use jetway::proto::etcdserverpb::*;
use jetway::proto::mvccpb::event::EventType;
use tonic::Code;

use support::client::*;
use support::keys::*;
use support::server::Server;
use support::watch::*;

fn never() -> Compare {
    compare("any", CompareResult::Less, TargetUnion::Version(0))
}

/// TXN-13, LSE-7
#[tokio::test]
async fn the_executed_branch_is_checked_against_the_state_before_and_fails_as_a_whole() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("old", "x").await;
    client.put("old", "y").await;
    client.compact(3).await.unwrap();
    let future = "etcdserver: mvcc: required revision is a future revision";
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let no_lease = "etcdserver: requested lease not found";
    let no_key = "etcdserver: key not found";
    let failing = [
        // The transaction's own revision is in the future too.
        (op(RangeRequest { revision: 4, ..get("old") }), Code::OutOfRange, future),
        (op(RangeRequest { revision: 2, ..get("old") }), Code::OutOfRange, compacted),
        (op(RangeRequest { revision: -1, ..get("old") }), Code::OutOfRange, compacted),
        (op(PutRequest { lease: 99, ..put("b", "x") }), Code::NotFound, no_lease),
        (op(PutRequest { ignore_value: true, ..put("b", "") }), Code::InvalidArgument, no_key),
        (op(PutRequest { ignore_lease: true, ..put("b", "x") }), Code::InvalidArgument, no_key),
    ];
    for (op_failing, code, text) in failing {
        let put_first = op(put("a", "must not stay"));
        refused(client.txn(run(vec![put_first.clone(), op_failing.clone()])).await, code, text);
        let nested = op(run(vec![op_failing.clone()]));
        refused(client.txn(run(vec![put_first.clone(), nested])).await, code, text);
        let otherwise =
            TxnRequest { compare: vec![never()], success: vec![], failure: vec![op_failing.clone()] };
        refused(client.txn(otherwise).await, code, text);
        let not_taken =
            TxnRequest { compare: vec![never()], success: vec![op_failing.clone()], failure: vec![] };
        assert!(!client.txn(not_taken).await.unwrap().succeeded);
        let inner = TxnRequest { compare: vec![never()], success: vec![op_failing], failure: vec![] };
        client.txn(run(vec![op(inner)])).await.unwrap();
    }
    let now = client.get("a").await.unwrap();
    assert_eq!((now.count, revision(&now.header)), (0, 3), "nothing was applied");
    let readable = client.txn(run(vec![op(RangeRequest { revision: 3, ..get("old") })])).await.unwrap();
    assert_eq!(range_of(&readable, 0).count, 1);
}

/// TXN-13: a put in the same transaction does not make the key exist for ignore_value.
#[tokio::test]
async fn a_key_put_by_the_same_transaction_does_not_exist_for_its_checks() {
    let client = Server::shared().await.client().await;
    let key = unique("own");
    let ops = vec![op(run(vec![op(delete(&key))])), op(PutRequest { ignore_value: true, ..put(&key, "") })];
    let answer = client.txn(run(ops)).await;
    refused(answer, Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
    let ops = vec![op(PutRequest { ignore_value: true, ..put(&key, "") })];
    refused(client.txn(run(ops)).await, Code::InvalidArgument, "etcdserver: key not found");
}

/// TXN-14, TXN-16, TXN-20
#[tokio::test]
async fn each_operation_sees_the_earlier_ones() {
    let client = Server::shared().await.client().await;
    let at = unique("order");
    let key = |name: &str| format!("{at}{name}");
    client.put(key("a"), "1").await;
    client.put(key("c"), "3").await;
    let ops = vec![
        op(all(&at)),
        op(PutRequest { prev_kv: true, ..put(key("b"), "2") }),
        op(PutRequest { prev_kv: true, ..put(key("c"), "4") }),
        op(RangeRequest { limit: 2, ..all(&at) }),
        op(DeleteRangeRequest { prev_kv: true, ..delete(key("a")) }),
        op(RangeRequest {
            sort_order: SortOrder::Descend.into(),
            sort_target: SortTarget::Key.into(),
            ..all(&at)
        }),
        op(RangeRequest { count_only: true, ..all(&at) }),
        op(get(key("a"))),
        op(delete(key("a"))),
    ];
    let answer = client.txn(run(ops)).await.unwrap();
    assert!(answer.succeeded);
    assert_eq!(answer.responses.len(), 9);
    let written = revision(&answer.header);
    let names =
        |index| -> Vec<String> { range_of(&answer, index).kvs.iter().map(|kv| name(&at, &kv.key)).collect() };
    assert_eq!(names(0), ["a", "c"]);
    assert_eq!(put_of(&answer, 1).prev_kv, None);
    let prev = put_of(&answer, 2).prev_kv.as_ref().unwrap();
    assert_eq!((&prev.value[..], prev.version), (&b"3"[..], 1));
    assert_eq!(names(3), ["a", "b"]);
    assert_eq!((range_of(&answer, 3).more, range_of(&answer, 3).count), (true, 3));
    let b = &range_of(&answer, 3).kvs[1];
    assert_eq!((b.create_revision, b.mod_revision, b.version), (written, written, 1));
    assert_eq!((delete_of(&answer, 4).deleted, &delete_of(&answer, 4).prev_kvs[0].value[..]), (1, &b"1"[..]));
    assert_eq!(names(5), ["c", "b"]);
    assert_eq!(range_of(&answer, 6).count, 2);
    assert_eq!(range_of(&answer, 7).count, 0);
    assert_eq!(delete_of(&answer, 8).deleted, 0);
}

/// TXN-14: a read at an older revision does not see them.
#[tokio::test]
async fn a_read_at_a_revision_sees_no_earlier_operation_of_its_transaction() {
    let client = Server::shared().await.client().await;
    let key = unique("pinned");
    let old = client.put(&key, "old").await;
    let ops = vec![op(put(&key, "new")), op(RangeRequest { revision: old, ..get(&key) })];
    let answer = client.txn(run(ops)).await.unwrap();
    assert_eq!(range_of(&answer, 1).kvs[0].value, "old");
    assert_eq!(revision(&range_of(&answer, 1).header), revision(&answer.header));
}

/// TXN-15, TXN-16
#[tokio::test]
async fn the_branch_that_is_not_executed_changes_nothing() {
    let server = Server::start().await;
    let client = server.client().await;
    let txn = |failure| TxnRequest { compare: vec![never()], success: vec![op(put("a", "x"))], failure };
    let answer = client.txn(txn(vec![])).await.unwrap();
    assert_eq!((answer.succeeded, answer.responses.len(), revision(&answer.header)), (false, 0, 1));
    let answer = client.txn(txn(vec![op(put("b", "x"))])).await.unwrap();
    assert_eq!((answer.succeeded, answer.responses.len(), revision(&answer.header)), (false, 1, 2));
    assert_eq!(client.list("").await, ["b"]);
    let answer = client.txn(TxnRequest::default()).await.unwrap();
    assert_eq!((answer.succeeded, answer.responses.len(), revision(&answer.header)), (true, 0, 2));
}

/// TXN-16
#[tokio::test]
async fn nested_transactions_return_their_own_outcome() {
    let client = Server::shared().await.client().await;
    let key = unique("outcome");
    let inner = |compare| {
        op(TxnRequest { compare, success: vec![op(get(&key))], failure: vec![op(get(&key)), op(get(&key))] })
    };
    let deep = op(run(vec![inner(vec![never()])]));
    let answer = client.txn(run(vec![inner(vec![]), inner(vec![never()]), deep])).await.unwrap();
    let shape = |txn: &TxnResponse| (txn.succeeded, txn.responses.len());
    assert_eq!(shape(txn_of(&answer, 0)), (true, 1));
    assert_eq!(shape(txn_of(&answer, 1)), (false, 2));
    assert_eq!(shape(txn_of(&answer, 2)), (true, 1));
    assert_eq!(shape(txn_of(txn_of(&answer, 2), 0)), (false, 2));
}

/// TXN-18, WAT-24, WAT-25
#[tokio::test]
async fn watchers_get_the_changes_of_a_transaction_together_and_in_order() {
    let client = Server::shared().await.client().await;
    let at = unique("events");
    let key = |name: &str| format!("{at}{name}");
    for name in ["d1", "d3", "d2"] {
        client.put(key(name), "x").await;
    }
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_all(&at)).await;
    let ops = vec![
        op(put(key("z"), "1")),
        op(delete_all(key("d"))),
        op(run(vec![op(put(key("m"), "2"))])),
        op(put(key("a"), "3")),
    ];
    let written = revision(&client.txn(run(ops)).await.unwrap().header);
    let message = watch.next().await;
    let outlines: Vec<_> = message.events.iter().map(outline).collect();
    use EventType::{Delete, Put};
    let expected = [(Put, "z"), (Delete, "d1"), (Delete, "d2"), (Delete, "d3"), (Put, "m"), (Put, "a")]
        .map(|(kind, name)| (kind, key(name), written));
    assert_eq!(outlines, expected);
    assert_eq!(revision(&message.header), written);
}

/// TXN-5, TXN-18, WAT-22
#[tokio::test]
async fn a_key_changed_twice_yields_both_events_with_the_state_before_the_transaction() {
    let client = Server::shared().await.client().await;
    let key = unique("twice");
    client.put(&key, "before").await;
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { prev_kv: true, ..watch_key(&key) }).await;
    let ops = vec![op(run(vec![op(put(&key, "between"))])), op(run(vec![op(delete(&key))]))];
    let written = revision(&client.txn(run(ops)).await.unwrap().header);
    let message = watch.next().await;
    let outlines: Vec<_> = message.events.iter().map(outline).collect();
    assert_eq!(outlines, [(EventType::Put, key.clone(), written), (EventType::Delete, key, written)]);
    for event in &message.events {
        assert_eq!(event.prev_kv.as_ref().unwrap().value, "before");
    }
    assert_eq!(pair(&message.events[0]).value, "between");
}

/// TXN-19: reads in a transaction are as fresh as plain ones.
#[tokio::test]
async fn a_transaction_of_reads_sees_every_answered_write() {
    let server = Server::shared().await;
    let (writer, reader) = (server.client().await, server.client().await);
    let key = unique("fresh");
    for _ in 0..50 {
        let written = writer.put(&key, "x").await;
        let answer = reader.txn(run(vec![op(get(&key))])).await.unwrap();
        assert_eq!(range_of(&answer, 0).kvs[0].mod_revision, written);
    }
}

/// TXN-15: a reader sees all of a transaction or none.
#[tokio::test]
async fn no_reader_sees_half_a_transaction() {
    let server = Server::shared().await;
    let client = server.client().await;
    let at = unique("atomic");
    let key = |n: usize| format!("{at}{n}");
    let writer = {
        let (client, at) = (client.clone(), at.clone());
        tokio::spawn(async move {
            for round in 0..40 {
                let ops = (0..10).map(|n| op(put(format!("{at}{n}"), round.to_string()))).collect();
                client.txn(run(ops)).await.unwrap();
            }
        })
    };
    while !writer.is_finished() {
        let answer = client.range(all(&at)).await.unwrap();
        assert!(answer.kvs.is_empty() || answer.kvs.len() == 10);
        assert!(answer.kvs.windows(2).all(|two| two[0].value == two[1].value), "{answer:?}");
        let pair = client.txn(run(vec![op(get(key(0))), op(get(key(9)))])).await.unwrap();
        let value = |index| range_of(&pair, index).kvs.first().map(|kv| kv.value.clone());
        assert_eq!(value(0), value(1));
    }
    writer.await.unwrap();
}
