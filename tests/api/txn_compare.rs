//! Which branch of a transaction runs.

use jetway::proto::etcdserverpb::compare::CompareResult::{self, Equal, Greater, Less, NotEqual};
use jetway::proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use jetway::proto::etcdserverpb::*;

use support::client::*;
use support::keys::*;
use support::server::Server;

async fn holds(client: &Client, compares: Vec<Compare>) -> bool {
    client.txn(TxnRequest { compare: compares, ..Default::default() }).await.unwrap().succeeded
}

/// TXN-7, TXN-8
#[tokio::test]
async fn each_target_compares_with_each_result() {
    let client = Server::shared().await.client().await;
    let key = unique("compare");
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    client.put(&key, "x").await;
    client.put_request(PutRequest { lease, ..put(&key, "mm") }).await.unwrap();
    let kv = client.kv(&key).await.unwrap();
    type Number = fn(i64) -> TargetUnion;
    let numbers: [(i64, Number); 4] = [
        (kv.version, TargetUnion::Version),
        (kv.create_revision, TargetUnion::CreateRevision),
        (kv.mod_revision, TargetUnion::ModRevision),
        (lease, TargetUnion::Lease),
    ];
    let mut cases = Vec::new();
    for (stored, target) in numbers {
        for (given, order) in [(stored - 1, Greater), (stored, Equal), (stored + 1, Less)] {
            cases.push((target(given), order));
        }
    }
    for (given, order) in
        [("ml", Greater), ("m", Greater), ("", Greater), ("mm", Equal), ("mma", Less), ("n", Less)]
    {
        cases.push((TargetUnion::Value(b(given)), order));
    }
    cases.push((TargetUnion::Value(b(b"\xff")), Less));
    for (given, order) in cases {
        for result in [Equal, Greater, Less, NotEqual] {
            let expected = result == order || (result == NotEqual && order != Equal);
            let held = holds(&client, vec![compare(&key, result, given.clone())]).await;
            assert_eq!(held, expected, "stored {result:?} {given:?}");
        }
    }
    client.lease_revoke(lease).await.unwrap();
}

/// TXN-7
#[tokio::test]
async fn all_compares_must_hold_and_no_compare_succeeds() {
    let client = Server::shared().await.client().await;
    let key = unique("and");
    client.put(&key, "x").await;
    let right = || compare(&key, Equal, TargetUnion::Version(1));
    let wrong = || compare(&key, Equal, TargetUnion::Version(2));
    assert!(holds(&client, vec![]).await);
    assert!(holds(&client, vec![right(), right()]).await);
    assert!(!holds(&client, vec![right(), wrong()]).await);
    assert!(!holds(&client, vec![wrong(), right()]).await);
}

/// TXN-9
#[tokio::test]
async fn a_missing_key_compares_as_zero_and_fails_each_compare_of_a_value() {
    let client = Server::shared().await.client().await;
    let never = unique("missing");
    let deleted = unique("missing");
    client.put(&deleted, "x").await;
    client.delete(&deleted).await;
    for key in [never, deleted] {
        type Number = fn(i64) -> TargetUnion;
        let numbers: [Number; 4] =
            [TargetUnion::Version, TargetUnion::CreateRevision, TargetUnion::ModRevision, TargetUnion::Lease];
        for target in numbers {
            assert!(holds(&client, vec![compare(&key, Equal, target(0))]).await);
            assert!(holds(&client, vec![compare(&key, Less, target(1))]).await);
            assert!(holds(&client, vec![compare(&key, Greater, target(-1))]).await);
            assert!(!holds(&client, vec![compare(&key, NotEqual, target(0))]).await);
        }
        for result in [Equal, Greater, Less, NotEqual] {
            for value in ["", "x"] {
                let compare = compare(&key, result, TargetUnion::Value(b(value)));
                assert!(!holds(&client, vec![compare]).await, "{result:?}");
            }
        }
    }
}

/// TXN-10
#[tokio::test]
async fn a_compare_of_a_range_must_hold_for_each_key_in_it() {
    let client = Server::shared().await.client().await;
    let at = unique("range-compare");
    let over =
        |result: CompareResult, given| Compare { range_end: prefix_end(&at), ..compare(&at, result, given) };
    assert!(holds(&client, vec![over(Equal, TargetUnion::CreateRevision(0))]).await, "nothing there");
    assert!(!holds(&client, vec![over(Greater, TargetUnion::CreateRevision(0))]).await);
    assert!(!holds(&client, vec![over(NotEqual, TargetUnion::Value(b("x")))]).await);
    let first = client.put(format!("{at}a"), "x").await;
    client.put(format!("{at}b"), "x").await;
    client.put(format!("{at}gone"), "y").await;
    client.delete(format!("{at}gone")).await;
    assert!(holds(&client, vec![over(Equal, TargetUnion::Value(b("x")))]).await);
    assert!(holds(&client, vec![over(Equal, TargetUnion::Version(1))]).await);
    assert!(!holds(&client, vec![over(Equal, TargetUnion::ModRevision(first))]).await);
    assert!(holds(&client, vec![over(Greater, TargetUnion::ModRevision(first - 1))]).await);
    client.put(format!("{at}b"), "z").await;
    assert!(!holds(&client, vec![over(Equal, TargetUnion::Value(b("x")))]).await);
    assert!(holds(&client, vec![over(Less, TargetUnion::Version(3))]).await);
    let to_the_end = Compare { range_end: b(TO_THE_END), ..over(Greater, TargetUnion::Version(0)) };
    assert!(holds(&client, vec![to_the_end]).await);
    let inverted = Compare { range_end: b("/"), ..over(Equal, TargetUnion::Version(0)) };
    assert!(holds(&client, vec![inverted]).await, "an inverted range is empty");
}

/// TXN-11
#[tokio::test]
async fn a_union_of_another_target_compares_as_zero() {
    let client = Server::shared().await.client().await;
    let key = unique("misfit");
    client.put(&key, "x").await;
    let misfit = |target: CompareTarget, result: CompareResult, target_union| Compare {
        target: target.into(),
        target_union,
        ..compare(&key, result, TargetUnion::Version(0))
    };
    for union in [None, Some(TargetUnion::Value(b("x"))), Some(TargetUnion::Lease(1))] {
        assert!(holds(&client, vec![misfit(CompareTarget::Version, Greater, union.clone())]).await);
        assert!(!holds(&client, vec![misfit(CompareTarget::Version, Equal, union)]).await);
    }
    let number = Some(TargetUnion::Version(1));
    assert!(
        holds(&client, vec![misfit(CompareTarget::Value, Greater, number.clone())]).await,
        "against no bytes"
    );
    assert!(!holds(&client, vec![misfit(CompareTarget::Value, Equal, number)]).await);

    let unknown_result = Compare { result: 9, ..compare(&key, Equal, TargetUnion::Version(99)) };
    assert!(holds(&client, vec![unknown_result]).await, "an unknown result is true");
    let unknown_target =
        |result: CompareResult| Compare { target: 9, ..compare(&key, result, TargetUnion::Version(99)) };
    assert!(holds(&client, vec![unknown_target(Equal)]).await, "an unknown target is equal");
    assert!(!holds(&client, vec![unknown_target(Less)]).await);
    assert!(!holds(&client, vec![unknown_target(NotEqual)]).await);
}

/// TXN-12
#[tokio::test]
async fn nested_compares_see_the_state_before_the_transaction() {
    let client = Server::shared().await.client().await;
    let key = unique("before");
    let nested = || TxnRequest {
        compare: vec![compare(&key, Equal, TargetUnion::Version(0))],
        success: vec![op(get(&key))],
        failure: vec![],
    };
    let answer = client.txn(run(vec![op(put(&key, "x")), op(nested())])).await.unwrap();
    let inner = txn_of(&answer, 1);
    assert!(inner.succeeded, "the compare does not see the put");
    assert_eq!(range_of(inner, 0).count, 1, "the read does");
    let answer = client.txn(run(vec![op(delete(&key)), op(nested())])).await.unwrap();
    assert!(!txn_of(&answer, 1).succeeded);
}
