//! Put, DeleteRange and Txn: PUT-2 to PUT-9, DEL-2 to DEL-7, TXN-7 to TXN-20, HDR-5 and HDR-6; and plans on
//! records that no state shows yet.

use super::super::{PlanError, Response, evaluate};
use super::store::Store;
use super::{bytes, compare, delete, delete_range, get, list, ops, put, txn, unchanged};
use crate::core::Event;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::compare::CompareResult::{self, Equal, Greater, Less, NotEqual};
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::response_op::Response as OpResponse;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader,
    TxnRequest, TxnResponse,
};
use crate::proto::mvccpb::KeyValue;
use crate::types::Revision;
use bytes::Bytes;

fn pair(
    key: &str,
    value: &str,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    lease: i64,
) -> KeyValue {
    KeyValue { key: bytes(key), value: bytes(value), create_revision, mod_revision, version, lease }
}

fn read(store: &Store, key: &str) -> Option<KeyValue> {
    store.range(&get(key)).unwrap().kvs.pop()
}

fn with_lease(request: PutRequest, lease: i64) -> PutRequest {
    PutRequest { lease, ..request }
}

fn showing(request: PutRequest) -> PutRequest {
    PutRequest { prev_kv: true, ..request }
}

/// `a` and `b` at revisions 2 and 3.
fn two() -> Store {
    let mut store = Store::new();
    store.put(put("a", "1")).unwrap();
    store.put(put("b", "2")).unwrap();
    store
}

fn revision_of(header: Option<&ResponseHeader>) -> i64 {
    header.unwrap().revision
}

/// The revision in each nested header, 0 for a transaction's.
fn revisions(response: &TxnResponse) -> Vec<i64> {
    let header = |op: &OpResponse| match op {
        OpResponse::ResponseRange(response) => response.header,
        OpResponse::ResponsePut(response) => response.header,
        OpResponse::ResponseDeleteRange(response) => response.header,
        OpResponse::ResponseTxn(response) => response.header,
    };
    response.responses.iter().map(|op| header(op.response.as_ref().unwrap()).unwrap().revision).collect()
}

fn range_at(response: &TxnResponse, at: usize) -> &RangeResponse {
    match response.responses[at].response.as_ref().unwrap() {
        OpResponse::ResponseRange(range) => range,
        other => panic!("{other:?}"),
    }
}

fn txn_at(response: &TxnResponse, at: usize) -> &TxnResponse {
    match response.responses[at].response.as_ref().unwrap() {
        OpResponse::ResponseTxn(txn) => txn,
        other => panic!("{other:?}"),
    }
}

/// Whether compares hold.
fn holds(store: &mut Store, compares: Vec<Compare>) -> bool {
    store.txn(txn(compares, vec![], vec![])).unwrap().succeeded
}

/// The events of one revision: key, and the value of a put.
fn events(store: &Store, revision: i64) -> Vec<(Bytes, Option<Bytes>)> {
    let state = store.snapshot();
    let shown = |event: &Event| {
        let (key, value) = event.version.to_bytes();
        (key, Some(value).filter(|_| !event.version.is_tombstone()))
    };
    state
        .log
        .get(Revision(revision))
        .map(|entry| entry.events().iter().map(shown).collect())
        .unwrap_or_default()
}

#[test]
fn put_2_leases_and_kept_values_must_exist() {
    let mut store = two();
    assert_eq!(store.put(with_lease(put("a", ""), 77)), Err(EtcdError::LeaseNotFound));
    assert_eq!(store.put(PutRequest { ignore_value: true, ..put("x", "") }), Err(EtcdError::KeyNotFound));
    assert_eq!(store.put(PutRequest { ignore_lease: true, ..put("x", "") }), Err(EtcdError::KeyNotFound));
    // The lease is looked at first.
    let both = PutRequest { ignore_value: true, ..with_lease(put("x", ""), 77) };
    assert_eq!(store.put(both), Err(EtcdError::LeaseNotFound));
    assert_eq!(store.revision(), 3);
}

#[test]
fn put_3_4_versions_and_revisions() {
    let mut store = Store::new();
    assert_eq!(revision_of(store.put(put("k", "v")).unwrap().header.as_ref()), 2);
    assert_eq!(revision_of(store.put(put("k", "v")).unwrap().header.as_ref()), 3);
    assert_eq!(read(&store, "k"), Some(pair("k", "v", 2, 3, 2, 0)));
    store.delete_range(delete("k"));
    store.put(put("k", "w")).unwrap();
    assert_eq!(read(&store, "k"), Some(pair("k", "w", 5, 5, 1, 0)));
    assert_eq!(events(&store, 3), [(bytes("k"), Some(bytes("v")))]);
}

#[test]
fn put_5_6_leases_and_kept_parts() {
    let mut store = Store::new();
    store.put(with_lease(put("k", "v"), 7)).unwrap();
    store.put(PutRequest { ignore_lease: true, ..put("k", "w") }).unwrap();
    assert_eq!(read(&store, "k"), Some(pair("k", "w", 2, 3, 2, 7)));
    store.put(PutRequest { ignore_value: true, ..with_lease(put("k", ""), 8) }).unwrap();
    assert_eq!(read(&store, "k"), Some(pair("k", "w", 2, 4, 3, 8)));
    store.put(PutRequest { ignore_value: true, ignore_lease: true, ..put("k", "") }).unwrap();
    assert_eq!(read(&store, "k"), Some(pair("k", "w", 2, 5, 4, 8)));
    store.put(put("k", "")).unwrap();
    assert_eq!(read(&store, "k"), Some(pair("k", "", 2, 6, 5, 0)));
}

#[test]
fn put_7_prev_kv_only_when_asked_for() {
    let mut store = Store::new();
    assert_eq!(store.put(showing(put("k", "1"))).unwrap().prev_kv, None);
    assert_eq!(store.put(put("k", "2")).unwrap().prev_kv, None);
    assert_eq!(store.put(PutRequest { ignore_value: true, ..put("k", "") }).unwrap().prev_kv, None);
    assert_eq!(store.put(showing(put("k", "3"))).unwrap().prev_kv, Some(pair("k", "2", 2, 4, 3, 0)));
}

#[test]
fn del_2_4_all_matching_keys_go_in_one_revision() {
    let mut store = two();
    store.put(with_lease(put("c", "3"), 4)).unwrap();
    let response = store.delete_range(DeleteRangeRequest { prev_kv: true, ..delete_range("b", "\0") });
    assert_eq!((response.deleted, revision_of(response.header.as_ref())), (2, 5));
    assert_eq!(response.prev_kvs, [pair("b", "2", 3, 3, 1, 0), pair("c", "3", 4, 4, 1, 4)]);
    assert_eq!(events(&store, 5), [(bytes("b"), None), (bytes("c"), None)]);
    assert_eq!(store.delete_range(delete("a")).prev_kvs, []);
}

#[test]
fn del_3_nothing_to_delete_changes_nothing() {
    let mut store = two();
    for request in [delete("x"), delete_range("x", "z"), delete_range("b", "a")] {
        let response = store.delete_range(request);
        assert_eq!((response.deleted, revision_of(response.header.as_ref())), (0, 3));
    }
    assert_eq!(store.revision(), 3);
}

type Target = fn(i64) -> TargetUnion;

#[test]
fn txn_7_8_every_target_and_result() {
    let mut store = Store::new();
    store.put(put("z", "")).unwrap();
    store.put(with_lease(put("k", "m"), 5)).unwrap();
    store.put(with_lease(put("k", "m"), 5)).unwrap();
    // create 3, mod 4, version 2, lease 5, value m.
    let numbers: [(Target, i64); 4] = [
        (TargetUnion::CreateRevision, 3),
        (TargetUnion::ModRevision, 4),
        (TargetUnion::Version, 2),
        (TargetUnion::Lease, 5),
    ];
    let expect = |result: CompareResult, given: i64| match result {
        Equal => given == 0,
        NotEqual => given != 0,
        // The stored number is greater where the given one is smaller.
        Greater => given < 0,
        Less => given > 0,
    };
    for result in [Equal, NotEqual, Greater, Less] {
        for offset in [-1, 0, 1] {
            for (target, stored) in numbers {
                let compare = compare("k", result, target(stored + offset));
                assert_eq!(holds(&mut store, vec![compare.clone()]), expect(result, offset), "{compare:?}");
            }
            let value = TargetUnion::Value(bytes(["l", "m", "ma"][(offset + 1) as usize]));
            assert_eq!(holds(&mut store, vec![compare("k", result, value)]), expect(result, offset));
        }
    }
    assert!(holds(&mut store, vec![]));
    assert!(holds(&mut store, vec![unchanged("z", 2), unchanged("k", 4)]));
    assert!(!holds(&mut store, vec![unchanged("z", 2), unchanged("k", 5)]));
}

#[test]
fn txn_9_a_missing_key_is_all_zeroes_but_has_no_value() {
    let mut store = two();
    store.delete_range(delete("a"));
    for key in ["x", "a"] {
        for given in [
            TargetUnion::Version(0),
            TargetUnion::CreateRevision(0),
            TargetUnion::ModRevision(0),
            TargetUnion::Lease(0),
        ] {
            assert!(holds(&mut store, vec![compare(key, Equal, given.clone())]));
            assert!(!holds(&mut store, vec![compare(key, NotEqual, given)]));
        }
        assert!(holds(&mut store, vec![compare(key, Less, TargetUnion::ModRevision(1))]));
        for result in [Equal, NotEqual, Greater, Less] {
            for value in ["", "v"] {
                assert!(!holds(&mut store, vec![compare(key, result, TargetUnion::Value(bytes(value)))]));
            }
        }
    }
}

#[test]
fn txn_10_a_range_compare_is_for_all_its_keys() {
    let mut store = two();
    let over = |end: &str, compare: Compare| vec![Compare { range_end: bytes(end), ..compare }];
    assert!(holds(&mut store, over("c", compare("a", Greater, TargetUnion::ModRevision(1)))));
    assert!(!holds(&mut store, over("c", compare("a", Greater, TargetUnion::ModRevision(2)))));
    assert!(holds(&mut store, over("\0", compare("b", Equal, TargetUnion::ModRevision(3)))));
    // An empty range counts as a missing key, and so does an inverted one.
    for (start, end) in [("m", "z"), ("z", "a")] {
        assert!(holds(&mut store, over(end, compare(start, Equal, TargetUnion::Version(0)))));
        assert!(!holds(&mut store, over(end, compare(start, Equal, TargetUnion::Value(Bytes::new())))));
    }
}

#[test]
fn txn_11_absent_or_unfitting_unions_and_unknown_enums() {
    let mut store = two();
    let mut check = |result: i32, target: i32, key: &str, target_union| {
        holds(
            &mut store,
            vec![Compare { result, target, key: bytes(key), target_union, range_end: Bytes::new() }],
        )
    };
    assert!(check(0, 0, "x", None));
    assert!(!check(0, 0, "a", None));
    // The version against a create revision: taken as 0.
    assert!(!check(0, 0, "a", Some(TargetUnion::CreateRevision(1))));
    assert!(check(1, 0, "a", Some(TargetUnion::CreateRevision(1))));
    assert!(check(1, 3, "a", None));
    assert!(check(7, 0, "a", Some(TargetUnion::Version(99))));
    assert!(check(0, 9, "a", None) && !check(3, 9, "a", None));
    // An unknown result does not rescue the value of a missing key.
    assert!(!check(7, 3, "x", None));
}

#[test]
fn txn_12_nested_compares_see_the_state_before_the_transaction() {
    let mut store = two();
    let inner = txn(vec![unchanged("new", 0)], vec![get("new").into()], vec![]);
    let response = store.txn(ops(vec![put("new", "v").into(), inner.into()])).unwrap();
    let inner = txn_at(&response, 1);
    assert!(inner.succeeded);
    // The operations, in contrast, see what came before them.
    assert_eq!(range_at(inner, 0).kvs, [pair("new", "v", 4, 4, 1, 0)]);
}

#[test]
fn txn_13_operations_on_the_path_are_checked_before_any_runs() {
    let mut store = two();
    store.put(put("a", "3")).unwrap();
    store.compact(3);
    let mut fails = |op: RequestOp| store.txn(ops(vec![put("new", "").into(), op])).unwrap_err();
    let at = |revision| RangeRequest { revision, ..get("a") };
    assert_eq!(fails(at(5).into()), EtcdError::FutureRevision);
    assert_eq!(fails(at(2).into()), EtcdError::Compacted);
    assert_eq!(fails(at(-1).into()), EtcdError::Compacted);
    assert_eq!(fails(with_lease(put("b", ""), 77).into()), EtcdError::LeaseNotFound);
    assert_eq!(fails(PutRequest { ignore_value: true, ..put("x", "") }.into()), EtcdError::KeyNotFound);
    assert_eq!(fails(ops(vec![at(5).into()]).into()), EtcdError::FutureRevision);
    assert_eq!(store.revision(), 4);

    // A key that the transaction itself puts is not there before it.
    let nested = ops(vec![put("new", "v").into()]);
    let keeps = PutRequest { ignore_value: true, ..put("new", "") };
    assert_eq!(store.txn(ops(vec![nested.into(), keeps.into()])), Err(EtcdError::KeyNotFound));

    // Operations off the path are not checked.
    let elsewhere: Vec<RequestOp> = vec![at(99).into(), with_lease(put("b", ""), 77).into()];
    let inner = txn(vec![unchanged("a", 4)], vec![], elsewhere.clone());
    let response = store.txn(txn(vec![], vec![inner.into(), at(3).into(), at(4).into()], elsewhere)).unwrap();
    assert_eq!(range_at(&response, 1).kvs, [pair("a", "1", 2, 2, 1, 0)]);
}

#[test]
fn txn_13_minus_one_reads_the_present_until_something_is_compacted() {
    let mut store = two();
    let at = |revision| ops(vec![RangeRequest { revision, ..get("a") }.into()]);
    assert_eq!(range_at(&store.txn(at(-1)).unwrap(), 0).count, 1);
    assert_eq!(store.txn(at(-2)), Err(EtcdError::Compacted));
    store.compact(0);
    assert_eq!(store.txn(at(-1)), Err(EtcdError::Compacted));
}

#[test]
fn txn_14_operations_see_earlier_ones() {
    let mut store = two();
    let request = ops(vec![
        put("c", "3").into(),
        showing(put("a", "4")).into(),
        list("a", "z").into(),
        RangeRequest { count_only: true, ..list("a", "z") }.into(),
        RangeRequest { revision: 3, ..list("a", "z") }.into(),
        RangeRequest { limit: 1, ..list("b", "z") }.into(),
        RangeRequest { sort_order: 2, sort_target: 3, min_create_revision: 3, ..list("a", "z") }.into(),
        ops(vec![DeleteRangeRequest { prev_kv: true, ..delete_range("b", "\0") }.into()]).into(),
        RangeRequest { keys_only: true, ..list("a", "z") }.into(),
        get("c").into(),
    ]);
    let response = store.txn(request).unwrap();
    let (a, b, c) = (pair("a", "4", 2, 4, 2, 0), pair("b", "2", 3, 3, 1, 0), pair("c", "3", 4, 4, 1, 0));
    assert_eq!(range_at(&response, 2).kvs, [a.clone(), b.clone(), c.clone()]);
    assert_eq!(range_at(&response, 2).count, 3);
    assert_eq!(range_at(&response, 3).count, 3);
    assert_eq!(range_at(&response, 4).kvs, [pair("a", "1", 2, 2, 1, 0), b.clone()]);
    assert_eq!((range_at(&response, 5).kvs.as_slice(), range_at(&response, 5).count), (&[b.clone()][..], 2));
    assert!(range_at(&response, 5).more);
    assert_eq!(range_at(&response, 6).kvs, [c.clone(), b.clone()]);
    let OpResponse::ResponseDeleteRange(deleted) =
        txn_at(&response, 7).responses[0].response.as_ref().unwrap()
    else {
        panic!("a delete was asked for");
    };
    assert_eq!((deleted.deleted, deleted.prev_kvs.as_slice()), (2, &[b, c][..]));
    assert_eq!(range_at(&response, 8).kvs, [KeyValue { value: Bytes::new(), ..a }]);
    assert_eq!(range_at(&response, 9).count, 0);
    assert_eq!(store.revision(), 4);
}

#[test]
fn txn_15_only_changes_bump_the_revision() {
    let mut store = two();
    for request in [
        TxnRequest::default(),
        txn(vec![unchanged("a", 2)], vec![get("a").into()], vec![]),
        ops(vec![delete("x").into(), delete_range("x", "z").into()]),
        txn(vec![unchanged("a", 9)], vec![put("a", "").into()], vec![]),
        ops(vec![ops(vec![delete("x").into()]).into()]),
    ] {
        assert_eq!(revision_of(store.txn(request).unwrap().header.as_ref()), 3);
    }
    let many = (0..50).map(|n| put(&format!("{n}"), "").into()).collect();
    assert_eq!(revision_of(store.txn(ops(many)).unwrap().header.as_ref()), 4);
    assert_eq!(events(&store, 4).len(), 50);
}

#[test]
fn txn_16_one_response_for_each_operation_taken() {
    let mut store = two();
    let failed = store.txn(txn(vec![unchanged("a", 9)], vec![put("a", "").into()], vec![])).unwrap();
    assert_eq!((failed.succeeded, failed.responses.len()), (false, 0));
    let request = txn(
        vec![unchanged("a", 9)],
        vec![],
        vec![
            get("a").into(),
            put("c", "").into(),
            delete("b").into(),
            txn(vec![unchanged("b", 1)], vec![], vec![]).into(),
        ],
    );
    let response = store.txn(request).unwrap();
    assert!(!response.succeeded && !txn_at(&response, 3).succeeded);
    assert!(matches!(
        response.responses.iter().map(|op| op.response.as_ref().unwrap()).collect::<Vec<_>>()[..],
        [
            OpResponse::ResponseRange(_),
            OpResponse::ResponsePut(_),
            OpResponse::ResponseDeleteRange(_),
            OpResponse::ResponseTxn(_)
        ]
    ));
}

#[test]
fn hdr_5_6_nested_headers() {
    let mut store = two();
    let request = ops(vec![
        get("a").into(),
        delete("x").into(),
        ops(vec![]).into(),
        put("a", "").into(),
        get("a").into(),
        delete("x").into(),
        delete("b").into(),
        ops(vec![get("a").into()]).into(),
    ]);
    let response = store.txn(request).unwrap();
    assert_eq!(revision_of(response.header.as_ref()), 4);
    assert_eq!(revisions(&response), [3, 3, 0, 4, 4, 4, 4, 0]);
    assert_eq!(revisions(txn_at(&response, 7)), [4]);
    let unchanged = store.txn(ops(vec![get("a").into(), delete("x").into()])).unwrap();
    assert_eq!((revision_of(unchanged.header.as_ref()), revisions(&unchanged)), (4, vec![4, 4]));
    let ids = unchanged.header.unwrap();
    assert_eq!((ids.cluster_id, ids.member_id, ids.raft_term), (0, 0, 0));
}

#[test]
fn txn_5_18_a_key_changed_twice_yields_both_events_in_order() {
    let mut store = two();
    let puts = RequestOp::from(ops(vec![put("a", "x").into()]));
    let deletes = RequestOp::from(ops(vec![delete("a").into()]));
    store.txn(ops(vec![puts, deletes])).unwrap();
    assert_eq!(events(&store, 4), [(bytes("a"), Some(bytes("x"))), (bytes("a"), None)]);
    assert_eq!(read(&store, "a"), None);
    // Delete, then put: the key is new again.
    store.txn(ops(vec![delete_range("b", "\0").into(), put("b", "y").into()])).unwrap();
    assert_eq!(events(&store, 5), [(bytes("b"), None), (bytes("b"), Some(bytes("y")))]);
    assert_eq!(read(&store, "b"), Some(pair("b", "y", 5, 5, 1, 0)));
}

#[test]
fn a_put_cannot_keep_what_the_transaction_has_deleted() {
    // etcd's checks pass this, since the key is there beforehand, and the member then crashes.
    let mut store = two();
    let keeps = PutRequest { ignore_value: true, ..put("a", "") };
    let request = ops(vec![delete_range("a", "\0").into(), keeps.into()]);
    assert_eq!(super::super::check_txn(&request, 128), Ok(()));
    assert_eq!(store.txn(request), Err(EtcdError::KeyNotFound));
    assert_eq!(store.revision(), 3);
}

// Plans on records that no state shows yet.

#[test]
fn a_plan_sees_what_is_planned_before_it() {
    let mut store = Store::new();
    store.put(put("a", "1")).unwrap();
    store.holds_back = true;
    let planned = |store: &mut Store, request: TxnRequest| match store.run(request).unwrap() {
        Response::Txn(response) => response,
        other => panic!("{other:?}"),
    };
    let update = |from: i64, value: &str| {
        txn(vec![unchanged("a", from)], vec![put("a", value).into()], vec![get("a").into()])
    };
    assert!(planned(&mut store, update(2, "2")).succeeded);
    assert!(!planned(&mut store, update(2, "3")).succeeded, "the key has changed in the plan before");
    assert!(planned(&mut store, update(3, "3")).succeeded);
    store.run(put("b", "x")).unwrap();
    let listed = planned(&mut store, ops(vec![delete("c").into(), list("a", "z").into()]));
    let Some(OpResponse::ResponseRange(range)) = &listed.responses[1].response else { panic!("{listed:?}") };
    let pairs: Vec<_> = range.kvs.iter().map(|kv| (kv.key.clone(), kv.value.clone(), kv.version)).collect();
    assert_eq!(pairs, [(bytes("a"), bytes("3"), 3), (bytes("b"), bytes("x"), 1)]);
    assert_eq!((range.count, store.snapshot().revision.0), (2, 2));
    let Response::DeleteRange(deleted) = store.run(delete_range("a", "z")).unwrap() else {
        panic!("another kind")
    };
    assert_eq!(deleted.deleted, 2);
    store.show();
    assert!(store.range(&list("a", "z")).unwrap().kvs.is_empty());
}

#[test]
fn a_read_of_a_revision_that_is_only_planned_has_to_wait() {
    let mut store = Store::new();
    store.holds_back = true;
    store.run(put("a", "1")).unwrap();
    let reads = |revision| ops(vec![RangeRequest { revision, ..get("a") }.into()]);
    assert_eq!(store.plan(reads(2)).unwrap_err(), PlanError::NotYet);
    assert_eq!(store.plan(reads(3)).unwrap_err(), PlanError::Refused(EtcdError::FutureRevision));
    store.show();
    assert!(store.plan(reads(2)).is_ok());
}

#[test]
fn another_instance_finds_the_same_response_in_the_history() {
    let mut store = Store::new();
    store.put(put("a", "1")).unwrap();
    let request = txn(
        vec![unchanged("a", 2)],
        vec![get("a").into(), put("a", "2").into(), delete("x").into(), list("a", "z").into()],
        vec![],
    );
    let response = store.run(request.clone()).unwrap();
    store.put(put("a", "3")).unwrap();
    store.put(put("b", "3")).unwrap();
    let again = evaluate(&store.snapshot(), Revision(2), &request.clone().into());
    assert_eq!(again.unwrap(), response);
    store.compact(4);
    assert_eq!(evaluate(&store.snapshot(), Revision(2), &request.into()), Err(EtcdError::Timeout));
}
