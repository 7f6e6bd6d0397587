//! Static validation: RNG-1, RNG-2, RST-1, PUT-1, DEL-1, TXN-1 to TXN-6.

use super::super::{
    check_delete_range, check_put, check_range, check_range_stream, check_txn, is_read_only, is_serializable,
};
use super::{delete, delete_range, get, list, ops, put, txn, unchanged};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest};
use bytes::Bytes;

const MAX_OPS: usize = 128;

fn check(request: &TxnRequest) -> Result<(), EtcdError> {
    check_txn(request, MAX_OPS)
}

fn puts(prefix: &str, count: usize) -> Vec<RequestOp> {
    (0..count).map(|n| put(&format!("{prefix}{n}"), "").into()).collect()
}

#[test]
fn rng_1_a_range_needs_a_key() {
    assert_eq!(check_range(&get("")), Err(EtcdError::EmptyKey));
    assert_eq!(check_range(&list("", "z")), Err(EtcdError::EmptyKey));
    assert_eq!(check_range(&RangeRequest { sort_order: 9, ..get("") }), Err(EtcdError::EmptyKey));
    assert_eq!(check_range(&get("k")), Ok(()));
}

#[test]
fn rng_2_sort_options_outside_their_enums_are_refused() {
    for (order, target) in [(3, 0), (-1, 0), (0, 5), (1, -1)] {
        let request = RangeRequest { sort_order: order, sort_target: target, ..get("k") };
        assert_eq!(check_range(&request), Err(EtcdError::InvalidSortOption));
    }
    for (order, target) in (0..3).flat_map(|order| (0..5).map(move |target| (order, target))) {
        assert_eq!(check_range(&RangeRequest { sort_order: order, sort_target: target, ..get("k") }), Ok(()));
    }
}

#[test]
fn rst_1_a_stream_is_neither_sorted_nor_filtered() {
    let sorted = |order, target| RangeRequest { sort_order: order, sort_target: target, ..get("k") };
    for (order, target) in [(2, 0), (1, 1), (2, 4)] {
        assert_eq!(check_range_stream(&sorted(order, target)), Err(EtcdError::StreamSort));
    }
    for (order, target) in [(0, 0), (1, 0), (0, 3)] {
        assert_eq!(check_range_stream(&sorted(order, target)), Ok(()));
    }
    for request in [
        RangeRequest { min_mod_revision: 1, ..get("k") },
        RangeRequest { max_mod_revision: -1, ..get("k") },
        RangeRequest { min_create_revision: 1, ..get("k") },
        RangeRequest { max_create_revision: 1, ..get("k") },
    ] {
        assert_eq!(check_range_stream(&request), Err(EtcdError::StreamFilter));
    }
    let both = RangeRequest { sort_order: 2, min_mod_revision: 1, ..get("k") };
    assert_eq!(check_range_stream(&both), Err(EtcdError::StreamSort));
    assert_eq!(check_range_stream(&get("")), Err(EtcdError::EmptyKey));
}

#[test]
fn put_1_checks_come_in_their_order() {
    let request = |key: &str, value: &str, lease| PutRequest {
        ignore_value: true,
        ignore_lease: true,
        lease,
        ..put(key, value)
    };
    assert_eq!(check_put(&request("", "v", 1)), Err(EtcdError::EmptyKey));
    assert_eq!(check_put(&request("k", "v", 1)), Err(EtcdError::ValueProvided));
    assert_eq!(check_put(&request("k", "", 1)), Err(EtcdError::LeaseProvided));
    assert_eq!(check_put(&request("k", "", 0)), Ok(()));
    assert_eq!(check_put(&put("k", "")), Ok(()));
}

#[test]
fn del_1_a_delete_needs_a_key() {
    assert_eq!(check_delete_range(&delete_range("", "z")), Err(EtcdError::EmptyKey));
    assert_eq!(check_delete_range(&delete_range("z", "a")), Ok(()));
}

#[test]
fn txn_1_each_list_alone_may_be_as_long_as_the_limit() {
    let compares = |count: i64| (0..count).map(|n| unchanged("k", n)).collect::<Vec<_>>();
    assert_eq!(check(&txn(compares(128), puts("a", 128), puts("b", 128))), Ok(()));
    assert_eq!(check(&txn(compares(129), vec![], vec![])), Err(EtcdError::TooManyOps));
    assert_eq!(check(&txn(vec![], puts("a", 129), vec![])), Err(EtcdError::TooManyOps));
    assert_eq!(check(&txn(vec![], vec![], puts("a", 129))), Err(EtcdError::TooManyOps));
    assert_eq!(check(&TxnRequest::default()), Ok(()));
}

#[test]
fn txn_1_the_limit_bounds_each_path_not_the_total() {
    let nested = |size| (0..100).map(|n| ops(puts(&format!("{n}-"), size)).into()).collect();
    assert_eq!(check(&ops(nested(28))), Ok(()));
    assert_eq!(check(&ops(nested(29))), Err(EtcdError::TooManyOps));
}

#[test]
fn txn_1_the_count_comes_before_all_other_checks() {
    let mut list = puts("a", 128);
    list.push(put("", "").into());
    assert_eq!(check(&ops(list)), Err(EtcdError::TooManyOps));
}

#[test]
fn txn_2_a_compare_needs_a_key() {
    let request = txn(vec![unchanged("", 0)], vec![RequestOp { request: None }], vec![]);
    assert_eq!(check(&request), Err(EtcdError::EmptyKey));
}

#[test]
fn txn_3_every_operation_is_checked_like_the_request_it_is() {
    let range = RangeRequest { sort_order: 7, ..get("k") };
    assert_eq!(check(&ops(vec![range.clone().into()])), Err(EtcdError::InvalidSortOption));
    assert_eq!(check(&ops(vec![put("", "").into()])), Err(EtcdError::EmptyKey));
    assert_eq!(check(&ops(vec![delete("").into()])), Err(EtcdError::EmptyKey));
    assert_eq!(check(&ops(vec![RequestOp { request: None }])), Err(EtcdError::KeyNotFound));
    // The success list comes first, and a nested transaction is checked where it stands.
    let both = txn(vec![], vec![put("", "").into()], vec![range.clone().into()]);
    assert_eq!(check(&both), Err(EtcdError::EmptyKey));
    let nested = txn(vec![], vec![ops(vec![range.into()]).into(), put("", "").into()], vec![]);
    assert_eq!(check(&nested), Err(EtcdError::InvalidSortOption));
}

const DUPLICATE: Result<(), EtcdError> = Err(EtcdError::DuplicateKey);

#[test]
fn txn_4a_two_puts_of_a_key_in_one_list() {
    assert_eq!(check(&ops(vec![put("k", "1").into(), put("k", "2").into()])), DUPLICATE);
    assert_eq!(check(&txn(vec![], vec![], vec![put("k", "1").into(), put("k", "2").into()])), DUPLICATE);
    assert_eq!(check(&txn(vec![], vec![put("k", "1").into()], vec![put("k", "2").into()])), Ok(()));
}

#[test]
fn txn_4b_a_put_and_a_delete_that_covers_it_in_any_order() {
    for delete in [delete("k"), delete_range("a", "z"), delete_range("k", "k\0")] {
        assert_eq!(check(&ops(vec![put("k", "").into(), delete.clone().into()])), DUPLICATE);
        assert_eq!(check(&ops(vec![delete.into(), put("k", "").into()])), DUPLICATE);
    }
    for delete in [delete("j"), delete_range("a", "k"), delete_range("k\0", "z"), delete_range("z", "a")] {
        assert_eq!(check(&ops(vec![put("k", "").into(), delete.into()])), Ok(()));
    }
}

#[test]
fn txn_4c_nested_puts_count_for_the_list_that_holds_them() {
    let inner = |key: &str| RequestOp::from(ops(vec![put(key, "").into()]));
    assert_eq!(check(&ops(vec![put("k", "").into(), inner("k")])), DUPLICATE);
    assert_eq!(check(&ops(vec![inner("k"), inner("k")])), DUPLICATE);
    assert_eq!(check(&ops(vec![inner("k"), inner("l")])), Ok(()));
    assert_eq!(check(&ops(vec![delete("k").into(), inner("k")])), DUPLICATE);
    // Only one branch of the nested transaction runs.
    let both = txn(vec![], vec![put("k", "1").into()], vec![put("k", "2").into()]);
    assert_eq!(check(&ops(vec![both.clone().into()])), Ok(()));
    assert_eq!(check(&ops(vec![both.clone().into(), put("k", "").into()])), DUPLICATE);
    let only_else = txn(vec![], vec![], vec![put("k", "").into()]);
    assert_eq!(check(&ops(vec![inner("k"), only_else.into()])), DUPLICATE);
    assert_eq!(check(&ops(vec![ops(vec![both.into()]).into(), inner("k")])), DUPLICATE);
}

#[test]
fn txn_4d_nested_deletes_count_against_own_puts_and_those_of_later_nested_transactions() {
    let deletes = RequestOp::from(ops(vec![delete_range("a", "z").into()]));
    let puts = RequestOp::from(ops(vec![put("k", "").into()]));
    assert_eq!(check(&ops(vec![put("k", "").into(), deletes.clone()])), DUPLICATE);
    assert_eq!(check(&ops(vec![deletes.clone(), put("k", "").into()])), DUPLICATE);
    assert_eq!(check(&ops(vec![deletes.clone(), puts.clone()])), DUPLICATE);
    assert_eq!(check(&ops(vec![puts, deletes])), Ok(()));
    let else_deletes = RequestOp::from(txn(vec![], vec![], vec![delete("k").into()]));
    assert_eq!(check(&ops(vec![else_deletes, put("k", "").into()])), DUPLICATE);
}

#[test]
fn txn_5_overlapping_deletes_ranges_and_a_literal_zero_end_are_fine() {
    let overlapping = vec![delete("k").into(), delete_range("a", "z").into(), delete_range("k", "zz").into()];
    assert_eq!(check(&ops(overlapping)), Ok(()));
    assert_eq!(check(&ops(vec![put("k", "").into(), list("a", "z").into(), get("k").into()])), Ok(()));
    assert_eq!(check(&ops(vec![put("k", "").into(), delete_range("a", "\0").into()])), Ok(()));
}

#[test]
fn txn_4b_deletes_that_touch_or_overlap_cover_all_their_keys() {
    let deletes = [("d", "f"), ("f", "h"), ("b", "c"), ("a", "e"), ("m", "n")];
    let with = |key: &str| {
        let mut list: Vec<RequestOp> =
            deletes.iter().map(|(from, to)| delete_range(from, to).into()).collect();
        list.push(put(key, "").into());
        check(&ops(list))
    };
    for covered in ["a", "b", "c", "d", "e", "f", "gz", "m", "mm"] {
        assert_eq!(with(covered), DUPLICATE, "{covered}");
    }
    for free in ["A", "h", "l", "n", "z"] {
        assert_eq!(with(free), Ok(()), "{free}");
    }
}

#[test]
fn txn_6_both_branches_are_checked() {
    let bad = vec![put("k", "1").into(), put("k", "2").into()];
    assert_eq!(check(&txn(vec![], vec![], bad)), DUPLICATE);
    assert_eq!(check(&txn(vec![], vec![], vec![put("", "").into()])), Err(EtcdError::EmptyKey));
}

#[test]
fn txn_19_read_only_and_serializable_transactions() {
    let serializable = || RangeRequest { serializable: true, ..get("k") };
    let cases = [
        (TxnRequest::default(), true, true),
        (txn(vec![unchanged("k", 1)], vec![], vec![]), true, true),
        (ops(vec![get("k").into()]), true, false),
        (txn(vec![], vec![serializable().into()], vec![serializable().into()]), true, true),
        (txn(vec![], vec![serializable().into()], vec![get("k").into()]), true, false),
        (txn(vec![], vec![serializable().into()], vec![delete("k").into()]), false, false),
        (ops(vec![ops(vec![]).into()]), false, false),
    ];
    for (request, read_only, serializable) in cases {
        assert_eq!(
            (is_read_only(&request), is_serializable(&request)),
            (read_only, serializable),
            "{request:?}"
        );
    }
}

#[test]
fn any_byte_string_is_a_key() {
    for key in [&b"\0"[..], b"\xff\xff", b" ", b"*.>", &[7; 3000]] {
        assert_eq!(
            check_range(&RangeRequest { key: Bytes::copy_from_slice(key), ..RangeRequest::default() }),
            Ok(())
        );
    }
}
