//! Random requests against the model.

use super::super::{RangeStream, Request, Response, check_range_stream, evaluate};
use super::list;
use super::model::Model;
use super::store::Store;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
};
use crate::types::Revision;
use bytes::Bytes;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// A request, after which this many of the held revisions are shown.
    Request(Request, usize),
    Range(RangeRequest),
    /// Compacts to a revision this far before the newest.
    Compact(i64),
    /// A request that another instance answers.
    Again(Request),
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec![&b"\0"[..], b"a", b"a\0", b"ab", b"b", b"b\xff", b"c", b"d"])
        .prop_map(Bytes::from_static)
}

fn end() -> impl Strategy<Value = Bytes> {
    prop_oneof![5 => Just(Bytes::new()), 1 => Just(Bytes::from_static(b"\0")), 3 => key()]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "x", "y", "xx"]).prop_map(|value| Bytes::from_static(value.as_bytes()))
}

fn range_request() -> impl Strategy<Value = RangeRequest> {
    let bound = || prop_oneof![4 => Just(0i64), 1 => -1i64..20];
    (
        (key(), end(), prop_oneof![2 => Just(0i64), 3 => -1i64..5]),
        prop_oneof![3 => Just(0i64), 1 => -2i64..30],
        (0i32..3, 0i32..5, prop::bool::weighted(0.6)),
        (prop::bool::weighted(0.2), prop::bool::weighted(0.2)),
        (bound(), bound(), bound(), bound()),
    )
        .prop_map(
            |((key, range_end, limit), revision, (order, target, plain), (keys, count), bounds)| {
                let bounds = if plain { (0, 0, 0, 0) } else { bounds };
                RangeRequest {
                    key,
                    range_end,
                    limit,
                    revision,
                    sort_order: if plain { 0 } else { order },
                    sort_target: if plain { 0 } else { target },
                    serializable: false,
                    keys_only: keys,
                    count_only: count,
                    min_mod_revision: bounds.0,
                    max_mod_revision: bounds.1,
                    min_create_revision: bounds.2,
                    max_create_revision: bounds.3,
                }
            },
        )
}

fn put_request() -> impl Strategy<Value = PutRequest> {
    let lease = prop_oneof![6 => Just(0i64), 3 => 1i64..4, 1 => Just(99i64)];
    let rarely = || prop::bool::weighted(0.15);
    (key(), value(), lease, any::<bool>(), rarely(), rarely()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete_request() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

/// "All of these exist", or "none of these does": unlike a random compare it holds often.
fn existence() -> impl Strategy<Value = Compare> {
    (key(), end(), 0i32..2).prop_map(|(key, range_end, result)| {
        let target_union = Some(TargetUnion::Version(0));
        Compare { key, range_end, result, target: 0, target_union }
    })
}

fn any_compare() -> impl Strategy<Value = Compare> {
    let small = || prop_oneof![2 => Just(0i64), 3 => 0i64..15];
    let union = prop_oneof![
        small().prop_map(TargetUnion::Version),
        small().prop_map(TargetUnion::CreateRevision),
        small().prop_map(TargetUnion::ModRevision),
        value().prop_map(TargetUnion::Value),
        small().prop_map(TargetUnion::Lease),
    ];
    let target = prop_oneof![10 => Just(None), 1 => (0i32..6).prop_map(Some)];
    let result = prop_oneof![12 => 0i32..4, 1 => Just(7i32)];
    let end = prop_oneof![3 => Just(Bytes::new()), 1 => end()];
    (key(), end, result, target, prop::option::weighted(0.95, union)).prop_map(
        |(key, range_end, result, target, target_union)| {
            let fitting = match &target_union {
                None | Some(TargetUnion::Version(_)) => 0,
                Some(TargetUnion::CreateRevision(_)) => 1,
                Some(TargetUnion::ModRevision(_)) => 2,
                Some(TargetUnion::Value(_)) => 3,
                Some(TargetUnion::Lease(_)) => 4,
            };
            Compare { key, range_end, result, target: target.unwrap_or(fitting), target_union }
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    prop_oneof![any_compare(), existence()]
}

fn txn_request() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        2 => range_request().prop_map(RequestOp::from),
        3 => put_request().prop_map(RequestOp::from),
        2 => delete_request().prop_map(RequestOp::from),
    ];
    let txn_of = |op: BoxedStrategy<RequestOp>| {
        let list = || prop::collection::vec(op.clone(), 0..5);
        (prop::collection::vec(compare(), 0..3), list(), list())
            .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
    };
    let op = leaf.boxed().prop_recursive(2, 12, 4, move |inner| {
        prop_oneof![3 => inner.clone(), 1 => txn_of(inner.boxed()).prop_map(RequestOp::from)].boxed()
    });
    txn_of(op.boxed())
}

fn step() -> impl Strategy<Value = Step> {
    let request = prop_oneof![
        2 => put_request().prop_map(Request::Put),
        1 => delete_request().prop_map(Request::DeleteRange),
        5 => txn_request().prop_map(Request::Txn),
    ]
    .boxed();
    let age = prop_oneof![Just(0usize), 0usize..4];
    prop_oneof![
        12 => (request.clone(), age).prop_map(|(request, age)| Step::Request(request, age)),
        6 => range_request().prop_map(Step::Range),
        1 => (0i64..6).prop_map(Step::Compact),
        3 => request.prop_map(Step::Again),
    ]
}

fn expected(model: &mut Model, request: &Request) -> Result<Response, EtcdError> {
    Ok(match request {
        Request::Put(put) => Response::Put(model.put(put)?),
        Request::DeleteRange(delete) => Response::DeleteRange(model.delete_range(delete)),
        Request::Txn(txn) => Response::Txn(model.txn(txn)?),
    })
}

fn merged(stream: RangeStream) -> RangeResponse {
    let chunks: Vec<_> = stream.collect();
    let (last, others) = chunks.split_last().expect("there is always a last message");
    for chunk in others {
        assert!(chunk.header.is_none() && !chunk.more && chunk.count == 0 && !chunk.kvs.is_empty());
    }
    assert!(last.header.is_some() && (others.is_empty() || !last.kvs.is_empty()));
    RangeResponse { kvs: chunks.iter().flat_map(|chunk| chunk.kvs.clone()).collect(), ..last.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn answers_are_those_of_the_model(steps in prop::collection::vec(step(), 1..40)) {
        let mut store = Store::new();
        let mut model = Model::new();
        store.holds_back = true;
        for step in steps {
            match step {
                Step::Request(request, shown) => {
                    let answer = store.run(request.clone());
                    let expected = expected(&mut model, &request);
                    prop_assert_eq!(&answer, &expected, "{:?}", request);
                    for _ in 0..shown {
                        store.show_one();
                    }
                }
                Step::Range(request) => {
                    store.show();
                    let expected = model.range(&request);
                    prop_assert_eq!(&store.range(&request), &expected, "{:?}", request);
                    if check_range_stream(&request).is_ok() && request.sort_target == 0 {
                        let stream = RangeStream::new(store.snapshot(), request.clone());
                        prop_assert_eq!(stream.map(merged), expected, "{:?}", request);
                    }
                }
                Step::Compact(back) => {
                    let floor = (model.revision() - back).max(0);
                    if floor > model.floor {
                        model.floor = floor;
                        store.compact(floor);
                    }
                }
                Step::Again(request) => {
                    // Another instance builds the response from the history around the revision.
                    let before = Revision(store.revision());
                    let answer = store.run(request.clone());
                    prop_assert_eq!(&answer, &expected(&mut model, &request));
                    store.show();
                    if let Ok(answer) = answer
                        && !store.snapshot().is_compacted(before)
                    {
                        prop_assert_eq!(evaluate(&store.snapshot(), before, &request), Ok(answer), "{:?}", request);
                    }
                }
            }
            prop_assert_eq!(store.revision(), model.revision());
        }
        store.show();
        for revision in model.floor.max(1)..=model.revision() {
            let all = RangeRequest { revision, ..list("\0", "\0") };
            prop_assert_eq!(store.range(&all), model.range(&all));
        }
    }
}
