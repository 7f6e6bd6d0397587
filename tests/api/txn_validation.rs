//! Transactions that are refused before they run.

use jetway::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use jetway::proto::etcdserverpb::*;
use tonic::Code;

use support::client::*;
use support::keys::*;
use support::server::Server;

const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";
const NO_KEY: &str = "etcdserver: key is not provided";
const TOO_MANY: &str = "etcdserver: too many operations in txn request";

fn exists(key: &str) -> Compare {
    compare(key, CompareResult::Greater, TargetUnion::Version(0))
}

/// TXN-1, LIM-4
#[tokio::test]
async fn each_list_may_hold_128_entries() {
    let client = Server::shared().await.client().await;
    let at = unique("many");
    let puts = |count: usize| (0..count).map(|n| op(put(format!("{at}{n}"), "x"))).collect::<Vec<_>>();
    let compares = |count: usize| (0..count).map(|n| exists(&format!("{at}{n}"))).collect::<Vec<_>>();
    let full = TxnRequest { compare: compares(128), success: puts(128), failure: puts(128) };
    assert!(!client.txn(full).await.unwrap().succeeded);
    for one_too_many in [
        TxnRequest { compare: compares(129), ..Default::default() },
        TxnRequest { success: puts(129), ..Default::default() },
        TxnRequest { failure: puts(129), ..Default::default() },
    ] {
        refused(client.txn(one_too_many).await, Code::InvalidArgument, TOO_MANY);
    }
}

/// TXN-1: the limit bounds each path from the root to a leaf, not the sum.
#[tokio::test]
async fn nested_lists_share_the_limit_of_their_path() {
    let client = Server::shared().await.client().await;
    let at = unique("nested-many");
    let nested = |count: usize| {
        let inner = |n: usize| run((0..count).map(|m| op(put(format!("{at}{n}/{m}"), "x"))).collect());
        run((0..100).map(|n| op(inner(n))).collect())
    };
    let answer = client.txn(nested(28)).await.unwrap();
    assert_eq!(answer.responses.len(), 100);
    assert_eq!(client.range(RangeRequest { count_only: true, ..all(&at) }).await.unwrap().count, 2800);
    refused(client.txn(nested(29)).await, Code::InvalidArgument, TOO_MANY);
}

/// TXN-2
#[tokio::test]
async fn a_compare_needs_a_key() {
    let client = Server::shared().await.client().await;
    let ranged = Compare { range_end: b(TO_THE_END), ..exists("") };
    for wrong in [exists(""), ranged] {
        let txn = TxnRequest { compare: vec![wrong], ..Default::default() };
        refused(client.txn(txn).await, Code::InvalidArgument, NO_KEY);
    }
}

/// TXN-3, TXN-6
#[tokio::test]
async fn the_operations_of_both_branches_are_checked_like_single_requests() {
    let client = Server::shared().await.client().await;
    let wrong = [
        (op(RangeRequest::default()), NO_KEY),
        (op(RangeRequest { sort_order: 7, ..get("a") }), "etcdserver: invalid sort option"),
        (op(PutRequest::default()), NO_KEY),
        (op(PutRequest { ignore_value: true, ..put("a", "x") }), "etcdserver: value is provided"),
        (op(PutRequest { ignore_lease: true, lease: 1, ..put("a", "x") }), "etcdserver: lease is provided"),
        (op(DeleteRangeRequest::default()), NO_KEY),
        (RequestOp { request: None }, "etcdserver: key not found"),
        (op(TxnRequest { compare: vec![exists("")], ..Default::default() }), NO_KEY),
        (op(run(vec![op(PutRequest::default())])), NO_KEY),
        (op(run(vec![RequestOp { request: None }])), "etcdserver: key not found"),
    ];
    for (op, text) in wrong {
        for txn in [
            TxnRequest { success: vec![op.clone()], ..Default::default() },
            TxnRequest { failure: vec![op.clone()], ..Default::default() },
        ] {
            refused(client.txn(txn).await, Code::InvalidArgument, text);
        }
    }
}

/// TXN-1, TXN-2, TXN-3, TXN-4: the first mistake is the one that is reported.
#[tokio::test]
async fn checks_run_in_a_fixed_order() {
    let client = Server::shared().await.client().await;
    let nameless = || op(PutRequest::default());
    let twice = || vec![op(put("a", "x")), op(put("a", "y"))];
    let refuse = async |txn, text| refused(client.txn(txn).await, Code::InvalidArgument, text);
    let many = (0..129).map(|_| nameless()).collect();
    refuse(TxnRequest { compare: vec![exists("")], success: many, failure: vec![] }, TOO_MANY).await;
    let empty_op = vec![RequestOp { request: None }];
    refuse(TxnRequest { compare: vec![exists("")], success: empty_op.clone(), failure: vec![] }, NO_KEY)
        .await;
    let text = "etcdserver: key not found";
    refuse(TxnRequest { compare: vec![], success: empty_op, failure: vec![nameless()] }, text).await;
    refuse(TxnRequest { compare: vec![], success: twice(), failure: vec![nameless()] }, NO_KEY).await;
    refuse(TxnRequest { compare: vec![], success: vec![], failure: twice() }, DUPLICATE).await;
}

/// TXN-4
#[tokio::test]
async fn two_writes_of_one_key_are_refused() {
    let client = Server::shared().await.client().await;
    let at = unique("duplicates");
    let key = |name: &str| format!("{at}{name}");
    let put = |name: &str| op(put(key(name), "x"));
    let delete = |name: &str| op(delete(key(name)));
    let delete_range = |from: &str, to: &str| {
        op(DeleteRangeRequest { key: b(key(from)), range_end: b(key(to)), prev_kv: false })
    };
    let then = |ops: Vec<RequestOp>| op(run(ops));
    let otherwise = |ops: Vec<RequestOp>| op(TxnRequest { failure: ops, ..Default::default() });
    let wrong = [
        // a) two puts
        vec![put("a"), put("a")],
        vec![put("a"), put("b"), put("a")],
        // b) a put and a delete that covers it
        vec![put("a"), delete("a")],
        vec![delete("a"), put("a")],
        vec![put("b"), delete_range("a", "c")],
        vec![delete_range("a", "c"), put("b")],
        vec![delete_range("a", "c"), put("a")],
        // c) a nested put counts for the list that holds it, from either branch
        vec![put("a"), then(vec![put("a")])],
        vec![then(vec![put("a")]), put("a")],
        vec![put("a"), otherwise(vec![put("a")])],
        vec![then(vec![put("a")]), then(vec![put("a")])],
        vec![then(vec![put("a")]), otherwise(vec![put("a")])],
        vec![then(vec![then(vec![put("a")])]), put("a")],
        vec![then(vec![put("a"), put("a")])],
        vec![then(vec![put("a")]), delete("a")],
        vec![delete("a"), then(vec![put("a")])],
        // d) a nested delete counts against the list's own puts and against later nested puts
        vec![put("a"), then(vec![delete("a")])],
        vec![then(vec![delete("a")]), put("a")],
        vec![then(vec![delete_range("a", "c")]), then(vec![put("b")])],
        vec![then(vec![then(vec![delete("a")])]), put("a")],
    ];
    for (n, ops) in wrong.into_iter().enumerate() {
        let in_success = client.txn(run(ops.clone())).await;
        let Err(status) = in_success else { panic!("case {n} of the list was accepted: {ops:?}") };
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, DUPLICATE), "case {n}");
        let in_failure = TxnRequest { failure: ops, ..Default::default() };
        refused(client.txn(in_failure).await, Code::InvalidArgument, DUPLICATE);
    }
    assert_eq!(client.list(&at).await, Vec::<String>::new());
}

/// TXN-4, TXN-5, TXN-18
#[tokio::test]
async fn permitted_overlaps_are_accepted_and_run_in_order() {
    let client = Server::shared().await.client().await;
    let at = unique("sharing");
    let key = |name: &str| format!("{at}{name}");
    let put = |name: &str| op(put(key(name), "new"));
    let delete = |name: &str| op(delete(key(name)));
    let then = |ops: Vec<RequestOp>| op(run(ops));

    let both = TxnRequest { compare: vec![], success: vec![put("a")], failure: vec![put("a"), delete("b")] };
    client.txn(both.clone()).await.unwrap();
    let nested = op(TxnRequest { success: vec![put("c")], failure: vec![put("c")], ..Default::default() });
    client.txn(run(vec![nested])).await.unwrap();
    assert_eq!(client.list(&at).await, ["a", "c"]);

    let deletes = run(vec![op(delete_all(&at)), delete("a"), op(delete_all(&at))]);
    let answer = client.txn(deletes).await.unwrap();
    let counts = [0, 1, 2].map(|n| delete_of(&answer, n).deleted);
    assert_eq!(counts, [2, 0, 0], "deletes may overlap");

    client.txn(run(vec![put("a"), op(all(&at)), op(all(&at))])).await.unwrap();
    let answer = client.txn(run(vec![then(vec![put("b")]), then(vec![delete("b")])])).await.unwrap();
    assert_eq!(
        delete_of(txn_of(&answer, 1), 0).deleted,
        1,
        "put in one nested transaction, deleted in the next"
    );
    assert_eq!(client.list(&at).await, ["a"]);
}

/// TXN-5, WAT-22: a delete "to the end" hides its puts from the check.
#[tokio::test]
async fn a_put_and_a_delete_to_the_end_of_the_keyspace_run_in_order() {
    let server = Server::start().await;
    let client = server.client().await;
    let delete_rest = || op(DeleteRangeRequest { key: b("k"), range_end: b(TO_THE_END), prev_kv: true });
    client.put("k", "old").await;
    let answer = client.txn(run(vec![op(put("k", "new")), delete_rest()])).await.unwrap();
    let deleted = delete_of(&answer, 1);
    assert_eq!((deleted.deleted, &deleted.prev_kvs[0].value[..]), (1, &b"new"[..]));
    assert!(client.kv("k").await.is_none(), "put, then deleted");

    client.put("k", "old").await;
    let answer = client.txn(run(vec![delete_rest(), op(put("k", "new"))])).await.unwrap();
    assert_eq!(&delete_of(&answer, 0).prev_kvs[0].value[..], b"old");
    let kv = client.kv("k").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1), "deleted, then created anew");
}
