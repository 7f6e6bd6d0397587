//! Range and RangeStream: RNG-3 to RNG-16, RST-3 to RST-9, HDR-2 to HDR-4, KEY-2 to KEY-4.

use super::super::{RangeStream, is_long, is_long_read};
use super::store::Store;
use super::{bytes, delete, get, list, put};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest};
use crate::proto::mvccpb::KeyValue;

/// Keys a to e with values 3, 2, 1, 0, 0 at revisions 2 to 6, the example of RNG-10.
fn five() -> Store {
    let mut store = Store::new();
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1"), ("d", "0"), ("e", "0")] {
        store.put(put(key, value)).unwrap();
    }
    store
}

fn all() -> RangeRequest {
    list("\0", "\0")
}

fn keys(response: &RangeResponse) -> String {
    response.kvs.iter().map(|pair| String::from_utf8_lossy(&pair.key)).collect::<Vec<_>>().join(" ")
}

fn revision_of(response: &RangeResponse) -> i64 {
    response.header.as_ref().unwrap().revision
}

#[test]
fn rng_16_an_empty_store_is_at_revision_1_and_answers_empty() {
    let store = Store::new();
    let response = store.range(&all()).unwrap();
    assert_eq!(revision_of(&response), 1);
    assert_eq!((response.kvs.len(), response.count, response.more), (0, 0, false));
    assert_eq!(store.range(&RangeRequest { revision: 2, ..all() }), Err(EtcdError::FutureRevision));
}

#[test]
fn rng_3_which_revisions_can_be_read() {
    let mut store = five();
    store.compact(4);
    let at = |revision| store.range(&RangeRequest { revision, ..all() }).map(|response| keys(&response));
    assert_eq!(at(7), Err(EtcdError::FutureRevision));
    assert_eq!(at(6).unwrap(), "a b c d e");
    assert_eq!(at(4).unwrap(), "a b c");
    assert_eq!(at(3), Err(EtcdError::Compacted));
    assert_eq!(at(0).unwrap(), "a b c d e");
    assert_eq!(at(-5).unwrap(), "a b c d e");
}

#[test]
fn hdr_4_the_header_has_the_current_revision_also_for_old_reads() {
    let store = five();
    let response = store.range(&RangeRequest { revision: 3, ..all() }).unwrap();
    assert_eq!((revision_of(&response), keys(&response).as_str()), (6, "a b"));
}

#[test]
fn rng_4_a_key_shows_its_newest_version_at_the_revision() {
    let mut store = Store::new();
    store.put(PutRequest { lease: 3, ..put("k", "one") }).unwrap();
    store.put(put("k", "two")).unwrap();
    store.delete_range(delete("k"));
    store.put(put("k", "three")).unwrap();
    let at = |revision| store.range(&RangeRequest { revision, ..get("k") }).unwrap().kvs.pop();
    let pair = |value, create_revision, mod_revision, version, lease| {
        Some(KeyValue { key: bytes("k"), value: bytes(value), create_revision, mod_revision, version, lease })
    };
    assert_eq!(at(1), None);
    assert_eq!(at(2), pair("one", 2, 2, 1, 3));
    assert_eq!(at(3), pair("two", 2, 3, 2, 0));
    assert_eq!(at(4), None);
    assert_eq!(at(5), pair("three", 5, 5, 1, 0));
}

#[test]
fn rng_5_7_limit_cuts_and_count_tells_the_whole() {
    let store = five();
    for (limit, found, more) in
        [(2, "a b", true), (4, "a b c d", true), (5, "a b c d e", false), (9, "a b c d e", false)]
    {
        let response = store.range(&RangeRequest { limit, ..all() }).unwrap();
        assert_eq!((keys(&response).as_str(), response.more, response.count), (found, more, 5), "{limit}");
    }
    for limit in [0, -1, i64::MIN] {
        let response = store.range(&RangeRequest { limit, ..all() }).unwrap();
        assert_eq!((response.kvs.len(), response.more, response.count), (5, false, 5));
    }
    let largest = store.range(&RangeRequest { limit: i64::MAX, ..all() }).unwrap();
    assert_eq!((largest.kvs.len(), largest.more), (5, false));
    let old = store.range(&RangeRequest { limit: 1, revision: 4, ..all() }).unwrap();
    assert_eq!((keys(&old).as_str(), old.more, old.count), ("a", true, 3));
}

#[test]
fn rng_6_count_only_has_no_more() {
    let store = five();
    let response =
        store.range(&RangeRequest { count_only: true, limit: 2, min_mod_revision: 6, ..all() }).unwrap();
    assert_eq!((response.kvs.len(), response.count, response.more), (0, 5, false));
    assert_eq!(revision_of(&response), 6);
}

#[test]
fn rng_8_filters_are_inclusive_and_leave_count_alone() {
    let mut store = five();
    store.put(put("a", "4")).unwrap();
    let filtered = |min_mod, max_mod, min_create, max_create| {
        let request = RangeRequest {
            min_mod_revision: min_mod,
            max_mod_revision: max_mod,
            min_create_revision: min_create,
            max_create_revision: max_create,
            ..all()
        };
        let response = store.range(&request).unwrap();
        assert_eq!((response.count, response.more), (5, false));
        keys(&response)
    };
    assert_eq!(filtered(5, 0, 0, 0), "a d e");
    assert_eq!(filtered(0, 4, 0, 0), "b c");
    assert_eq!(filtered(4, 6, 0, 0), "c d e");
    assert_eq!(filtered(0, 0, 5, 0), "d e");
    assert_eq!(filtered(0, 0, 0, 2), "a");
    assert_eq!(filtered(7, 7, 2, 2), "a");
    assert_eq!(filtered(0, -1, 0, 0), "");
    assert_eq!(filtered(-1, 0, -1, 0), "a b c d e");
    let cut = store.range(&RangeRequest { min_mod_revision: 5, limit: 1, ..all() }).unwrap();
    assert_eq!((keys(&cut).as_str(), cut.more, cut.count), ("a", true, 5));
    let exact = store.range(&RangeRequest { min_mod_revision: 5, limit: 3, ..all() }).unwrap();
    assert_eq!((keys(&exact).as_str(), exact.more), ("a d e", false));
}

#[test]
fn rng_9_10_orders() {
    let mut store = five();
    store.put(put("c", "1")).unwrap();
    let sorted = |order, target, limit| {
        let request = RangeRequest { sort_order: order, sort_target: target, limit, ..all() };
        let response = store.range(&request).unwrap();
        assert_eq!(response.count, 5);
        (keys(&response), response.more)
    };
    let expect = |found: &str, more| (found.to_owned(), more);
    assert_eq!(sorted(1, 0, 2), expect("a b", true));
    assert_eq!(sorted(2, 0, 2), expect("e d", true));
    assert_eq!(sorted(2, 1, 1), expect("c", true));
    assert_eq!(sorted(2, 2, 0), expect("e d c b a", false));
    assert_eq!(sorted(1, 3, 0), expect("a b d e c", false));
    assert_eq!(sorted(1, 4, 2), expect("d e", true));
    // No order, but a target: the first limit + 1 keys are sorted, and then cut.
    assert_eq!(sorted(0, 4, 2), expect("c b", true));
    // Filters make it read everything.
    let filtered = RangeRequest { sort_target: 4, limit: 2, min_mod_revision: 1, ..all() };
    assert_eq!(keys(&store.range(&filtered).unwrap()), "d e");
}

#[test]
fn rng_12_keys_only_drops_the_value_and_mostly_the_lease() {
    let mut store = Store::new();
    store.put(PutRequest { lease: 5, ..put("a", "2") }).unwrap();
    store.put(PutRequest { lease: 6, ..put("b", "1") }).unwrap();
    let plain = store.range(&RangeRequest { keys_only: true, ..all() }).unwrap();
    assert!(plain.kvs.iter().all(|pair| pair.value.is_empty() && pair.lease == 0 && pair.version == 1));
    assert_eq!(plain.kvs.iter().map(|pair| pair.create_revision).collect::<Vec<_>>(), [2, 3]);
    let by_value = RangeRequest { keys_only: true, sort_order: 1, sort_target: 4, ..all() };
    let by_value = store.range(&by_value).unwrap();
    assert_eq!(keys(&by_value), "b a");
    assert!(by_value.kvs.iter().all(|pair| pair.value.is_empty() && pair.lease > 0));
}

#[test]
fn key_2_4_what_a_range_end_means() {
    let store = five();
    let found = |start: &str, end: &str| keys(&store.range(&list(start, end)).unwrap());
    assert_eq!(found("b", ""), "b");
    assert_eq!(found("b", "\0"), "b c d e");
    assert_eq!(found("b", "d"), "b c");
    assert_eq!(found("d", "b"), "");
    assert_eq!(found("b", "b"), "");
    assert_eq!(found("aa", "bb"), "b");
}

fn chunks(store: &Store, request: RangeRequest) -> Vec<RangeResponse> {
    RangeStream::new(store.snapshot(), request).unwrap().collect()
}

fn merge(chunks: &[RangeResponse]) -> RangeResponse {
    let kvs = chunks.iter().flat_map(|chunk| chunk.kvs.clone()).collect();
    RangeResponse { kvs, ..chunks.last().unwrap().clone() }
}

#[test]
fn rst_4_5_7_chunks_merge_to_the_range_and_only_the_last_has_a_header() {
    let mut store = Store::new();
    let large = "x".repeat(70);
    for n in 0..9 {
        store.put(put(&format!("k{n}"), &large)).unwrap();
    }
    for (limit, revision) in [(0, 0), (3, 0), (4, 0), (9, 0), (20, 0), (0, 7), (2, 7), (-3, 0)] {
        let request = RangeRequest { limit, revision, ..all() };
        let chunks = chunks(&store, request.clone());
        let (_, others) = chunks.split_last().unwrap();
        assert!(!others.is_empty() || limit == 2, "the test's values need several chunks");
        for chunk in others {
            assert!(!chunk.kvs.is_empty() && chunk.header.is_none() && chunk.count == 0 && !chunk.more);
        }
        assert!(!chunks.last().unwrap().kvs.is_empty());
        assert_eq!(merge(&chunks), store.range(&request).unwrap(), "{request:?}");
    }
}

#[test]
fn rst_4_6_one_message_at_the_least() {
    let store = five();
    let empty = chunks(&store, list("x", "z"));
    assert_eq!((empty.len(), revision_of(&empty[0]), empty[0].count), (1, 6, 0));
    let counted = chunks(&store, RangeRequest { count_only: true, limit: 1, ..all() });
    assert_eq!(
        (counted.len(), counted[0].count, counted[0].more, revision_of(&counted[0])),
        (1, 5, false, 6)
    );
    let single = chunks(&store, get("c"));
    assert_eq!((single.len(), keys(&single[0]).as_str(), single[0].count), (1, "c", 1));
}

#[test]
fn rst_3_a_stream_does_not_see_later_writes() {
    let mut store = five();
    let mut stream = RangeStream::new(store.snapshot(), all()).unwrap();
    let first = stream.next().unwrap();
    store.put(put("b", "later")).unwrap();
    store.delete_range(delete("e"));
    let mut seen = vec![first];
    seen.extend(stream);
    let merged = merge(&seen);
    assert_eq!((keys(&merged).as_str(), revision_of(&merged), merged.count), ("a b c d e", 6, 5));
    assert_eq!(merged.kvs[1].value, "2");
}

#[test]
fn rst_8_a_stream_reads_one_revision() {
    let mut store = five();
    store.compact(4);
    let open = |revision| RangeStream::new(store.snapshot(), RangeRequest { revision, ..all() });
    let read = |revision| keys(&merge(&open(revision).unwrap().collect::<Vec<_>>()));
    assert_eq!(read(0), "a b c d e");
    assert_eq!(read(5), "a b c d");
    assert_eq!(open(3).unwrap_err(), EtcdError::Compacted);
    assert_eq!(open(7).unwrap_err(), EtcdError::FutureRevision);
}

#[test]
fn ranges_of_many_keys_are_long() {
    let store = five();
    let state = store.snapshot();
    let is_long_range = |request: &RangeRequest| is_long(&state, std::iter::once(request));
    assert!(is_long_range(&all()));
    assert!(is_long_range(&RangeRequest { limit: 5, ..all() }));
    assert!(is_long_range(&RangeRequest { limit: 1, sort_order: SortOrder::Descend.into(), ..all() }));
    // The count of an older revision can take a walk over the range.
    assert!(is_long_range(&RangeRequest { count_only: true, revision: 3, ..all() }));
    assert!(!is_long_range(&RangeRequest { count_only: true, ..all() }));
    assert!(!is_long_range(&RangeRequest { limit: 4, ..all() }));
    assert!(!is_long_range(&list("a", "e")));
    assert!(!is_long_range(&get("a")));

    let txn = |ranges: Vec<RangeRequest>| TxnRequest {
        failure: ranges
            .into_iter()
            .map(|range| RequestOp { request: Some(Op::RequestRange(range)) })
            .collect(),
        ..TxnRequest::default()
    };
    assert!(is_long_read(&state, &txn(vec![get("a"), all()])));
    assert!(is_long_read(&state, &txn(vec![get("a"), list("a", "e")])));
    assert!(!is_long_read(&state, &txn(vec![get("a"), get("b"), list("a", "c")])));
}
