//! Range with each of its options.

use jetway::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use jetway::proto::etcdserverpb::*;
use tonic::Code;

use support::client::*;
use support::keys::*;
use support::server::Server;

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";

/// A client, and a prefix under which `pairs` are put in this order.
async fn with_pairs(name: &str, pairs: &[(&str, &str)]) -> (Client, String) {
    let server = Server::shared().await;
    let client = server.client().await;
    let at = unique(name);
    for (key, value) in pairs {
        client.put(format!("{at}{key}"), value).await;
    }
    (client, at)
}

fn names(at: &str, answer: &RangeResponse) -> Vec<String> {
    answer.kvs.iter().map(|kv| name(at, &kv.key)).collect()
}

/// RNG-1
#[tokio::test]
async fn an_empty_key_is_refused() {
    let client = Server::shared().await.client().await;
    let text = "etcdserver: key is not provided";
    refused(client.range(RangeRequest::default()).await, Code::InvalidArgument, text);
    let to_the_end = RangeRequest { range_end: b(TO_THE_END), ..Default::default() };
    refused(client.range(to_the_end).await, Code::InvalidArgument, text);
}

/// RNG-2
#[tokio::test]
async fn a_sort_option_outside_its_enum_is_refused() {
    let client = Server::shared().await.client().await;
    let text = "etcdserver: invalid sort option";
    for wrong in [3, 99, -1] {
        refused(
            client.range(RangeRequest { sort_order: wrong, ..get("a") }).await,
            Code::InvalidArgument,
            text,
        );
    }
    for wrong in [5, 99, -1] {
        refused(
            client.range(RangeRequest { sort_target: wrong, ..get("a") }).await,
            Code::InvalidArgument,
            text,
        );
    }
}

/// RNG-3
#[tokio::test]
async fn a_read_names_any_revision_from_the_compacted_one_to_the_current_one() {
    let server = Server::start().await;
    let client = server.client().await;
    for n in 2..=6 {
        client.put("a", n.to_string()).await;
    }
    let at = |revision| client.range(RangeRequest { revision, ..get("a") });
    assert_eq!(at(1).await.unwrap().count, 0, "the store before its first write");
    client.compact(4).await.unwrap();

    for current in [0, -1, -5, i64::MIN] {
        assert_eq!(at(current).await.unwrap().kvs[0].mod_revision, 6, "{current}");
    }
    for revision in 4..=6 {
        assert_eq!(at(revision).await.unwrap().kvs[0].value, revision.to_string());
    }
    for revision in [1, 2, 3] {
        refused(at(revision).await, Code::OutOfRange, COMPACTED);
    }
    for revision in [7, i64::MAX] {
        refused(at(revision).await, Code::OutOfRange, FUTURE);
    }
}

/// RNG-4
#[tokio::test]
async fn a_read_in_the_past_shows_the_pair_as_it_was() {
    let server = Server::start().await;
    let client = server.client().await;
    client.lease_grant(5, 60).await.unwrap();
    client.put_request(PutRequest { lease: 5, ..put("a", "one") }).await.unwrap();
    client.put("a", "two").await;
    client.delete("a").await;
    client.put("a", "three").await;
    let shape = async |revision| {
        let answer = client.range(RangeRequest { revision, ..get("a") }).await.unwrap();
        let kv = answer.kvs.first()?;
        let value = String::from_utf8(kv.value.to_vec()).unwrap();
        Some((kv.create_revision, kv.mod_revision, kv.version, value, kv.lease))
    };
    assert_eq!(shape(2).await, Some((2, 2, 1, "one".into(), 5)));
    assert_eq!(shape(3).await, Some((2, 3, 2, "two".into(), 0)));
    assert_eq!(shape(4).await, None);
    assert_eq!(shape(5).await, Some((5, 5, 1, "three".into(), 0)));
}

/// RNG-5, RNG-7
#[tokio::test]
async fn limit_truncates_the_pairs_and_not_the_count() {
    let (client, at) = with_pairs("limit", &[("a", "1"), ("b", "2"), ("c", "3")]).await;
    for (limit, found, more) in
        [(0, 3, false), (-1, 3, false), (1, 1, true), (2, 2, true), (3, 3, false), (4, 3, false)]
    {
        let answer = client.range(RangeRequest { limit, ..all(&at) }).await.unwrap();
        assert_eq!((answer.kvs.len(), answer.more, answer.count), (found, more, 3), "limit {limit}");
        assert_eq!(names(&at, &answer), ["a", "b", "c"][..found]);
    }
}

/// RNG-6
#[tokio::test]
async fn count_only_returns_the_count_alone() {
    let (client, at) = with_pairs("count", &[("a", "1"), ("b", "2"), ("c", "3")]).await;
    for limit in [0, 1, 5] {
        let answer = client.range(RangeRequest { count_only: true, limit, ..all(&at) }).await.unwrap();
        assert_eq!((answer.kvs.len(), answer.more, answer.count), (0, false, 3));
    }
    let one = client.range(RangeRequest { count_only: true, ..get(format!("{at}a")) }).await.unwrap();
    assert_eq!(one.count, 1);
}

/// RNG-5, RNG-7, RNG-8
#[tokio::test]
async fn revision_filters_are_inclusive_and_act_before_the_limit_but_not_on_count() {
    let server = Server::start().await;
    let client = server.client().await;
    for key in ["a", "b", "c", "d", "a", "b"] {
        client.put(key, "x").await;
    }
    // a: created 2, modified 6; b: 3, 7; c: 4, 4; d: 5, 5.
    let select = async |request: RangeRequest| {
        let answer = client.range(RangeRequest { range_end: b(TO_THE_END), ..request }).await.unwrap();
        (names("", &answer).join(""), answer.more, answer.count)
    };
    let from_a = || get("a");
    let found = |keys: &str, more| (keys.to_owned(), more, 4);
    assert_eq!(select(RangeRequest { min_mod_revision: 6, ..from_a() }).await, found("ab", false));
    assert_eq!(select(RangeRequest { max_mod_revision: 5, ..from_a() }).await, found("cd", false));
    assert_eq!(select(RangeRequest { min_create_revision: 3, ..from_a() }).await, found("bcd", false));
    assert_eq!(select(RangeRequest { max_create_revision: 3, ..from_a() }).await, found("ab", false));
    let both = RangeRequest { min_mod_revision: 5, max_create_revision: 4, ..from_a() };
    assert_eq!(select(both.clone()).await, found("ab", false));
    assert_eq!(select(RangeRequest { limit: 1, ..both.clone() }).await, found("a", true));
    assert_eq!(select(RangeRequest { limit: 2, ..both }).await, found("ab", false));
    assert_eq!(select(RangeRequest { max_mod_revision: -1, ..from_a() }).await, found("", false));
    assert_eq!(select(RangeRequest { min_mod_revision: -1, ..from_a() }).await, found("abcd", false));
    let count = RangeRequest { min_mod_revision: 6, count_only: true, ..from_a() };
    assert_eq!(select(count).await, found("", false));
}

/// RNG-9, RNG-11
#[tokio::test]
async fn a_sorted_read_sorts_the_whole_range_before_the_limit() {
    let pairs =
        [("a", "3"), ("b", "2"), ("c", "1"), ("d", "4"), ("e", "0"), ("b", "2"), ("d", "4"), ("d", "4")];
    let (client, at) = with_pairs("sort", &pairs).await;
    let sorted = async |order: SortOrder, target: SortTarget, limit| {
        let (sort_order, sort_target) = (order.into(), target.into());
        let answer = client.range(RangeRequest { sort_order, sort_target, limit, ..all(&at) }).await.unwrap();
        assert_eq!((answer.count, answer.more), (5, limit == 2));
        names(&at, &answer).join("")
    };
    use SortOrder::{Ascend, Descend};
    assert_eq!(sorted(SortOrder::None, SortTarget::Key, 0).await, "abcde");
    assert_eq!(sorted(Ascend, SortTarget::Key, 0).await, "abcde");
    assert_eq!(sorted(Descend, SortTarget::Key, 0).await, "edcba");
    assert_eq!(sorted(Descend, SortTarget::Key, 2).await, "ed");
    assert_eq!(sorted(Ascend, SortTarget::Value, 0).await, "ecbad");
    assert_eq!(sorted(Descend, SortTarget::Value, 2).await, "da");
    assert_eq!(sorted(Ascend, SortTarget::Create, 0).await, "abcde");
    assert_eq!(sorted(Descend, SortTarget::Create, 2).await, "ed");
    assert_eq!(sorted(Ascend, SortTarget::Mod, 0).await, "acebd");
    assert_eq!(sorted(Descend, SortTarget::Mod, 2).await, "db");
    assert_eq!(sorted(Descend, SortTarget::Version, 2).await, "db");
    let by_version = sorted(Ascend, SortTarget::Version, 0).await;
    assert_eq!(&by_version[3..], "bd", "three ties in any order, then two versions, then three");
}

/// RNG-10
#[tokio::test]
async fn without_an_order_a_sort_target_sorts_only_the_first_keys_of_the_range() {
    let pairs = [("a", "3"), ("b", "2"), ("c", "1"), ("d", "0"), ("e", "0")];
    let (client, at) = with_pairs("unordered", &pairs).await;
    let by_value = |order: SortOrder, min_mod_revision| {
        let (sort_order, sort_target) = (order.into(), SortTarget::Value.into());
        client.range(RangeRequest { sort_order, sort_target, limit: 2, min_mod_revision, ..all(&at) })
    };
    let none = by_value(SortOrder::None, 0).await.unwrap();
    assert_eq!((names(&at, &none).join(""), none.more, none.count), ("cb".into(), true, 5));
    let ascending = by_value(SortOrder::Ascend, 0).await.unwrap();
    let mut ascending_names = names(&at, &ascending);
    ascending_names.sort();
    assert_eq!((ascending_names.join(""), ascending.more), ("de".into(), true));
    let filtered = by_value(SortOrder::None, 1).await.unwrap();
    let mut filtered_names = names(&at, &filtered);
    filtered_names.sort();
    assert_eq!(filtered_names.join(""), "de", "with a filter the whole range is read");
}

/// RNG-12
#[tokio::test]
async fn keys_only_drops_value_and_lease() {
    let (client, at) = with_pairs("keys-only", &[("b", "1"), ("a", "2")]).await;
    let lease = client.lease_grant(0, 60).await.unwrap().id;
    let leased = PutRequest { lease, ..put(format!("{at}a"), "2") };
    let written = revision(&client.put_request(leased).await.unwrap().header);
    let answer = client.range(RangeRequest { keys_only: true, ..all(&at) }).await.unwrap();
    assert_eq!(names(&at, &answer), ["a", "b"]);
    let a = &answer.kvs[0];
    assert_eq!((a.mod_revision, a.version, a.lease), (written, 2, 0));
    assert!(a.create_revision > 0 && a.create_revision < written);
    assert!(answer.kvs.iter().all(|kv| kv.value.is_empty()));

    let by_value = RangeRequest {
        keys_only: true,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Value.into(),
        ..all(&at)
    };
    let answer = client.range(by_value).await.unwrap();
    assert_eq!(names(&at, &answer), ["b", "a"], "sorted by the values before they are dropped");
    assert!(answer.kvs.iter().all(|kv| kv.value.is_empty()));
    assert_eq!(answer.kvs[1].lease, lease, "the values were read, and the lease with them");
}

/// RNG-13, GEN-1
#[tokio::test]
async fn a_read_sees_every_write_answered_before_it_through_any_connection() {
    let server = Server::shared().await;
    let key = unique("linearizable");
    let (writer, reader) = (server.client().await, server.client().await);
    for n in 0..100 {
        let written = writer.put(&key, n.to_string()).await;
        let kv = reader.kv(&key).await.unwrap();
        assert_eq!((kv.mod_revision, kv.value), (written, b(n.to_string())));
    }
    let local = reader.range(RangeRequest { serializable: true, ..get(&key) }).await.unwrap();
    assert_eq!(local.kvs[0].version, 100);
}

/// RNG-14: clients take answers far above gRPC's usual 4 MiB.
#[tokio::test]
async fn an_answer_may_be_larger_than_any_request() {
    let (client, at) = with_pairs("large", &[]).await;
    let value = vec![b'v'; 1 << 20];
    for n in 0..8 {
        client.put(format!("{at}{n}"), &value).await;
    }
    let answer = client.range(all(&at)).await.unwrap();
    assert_eq!(answer.kvs.len(), 8);
    assert!(answer.kvs.iter().all(|kv| kv.value == value));
}

/// RNG-16
#[tokio::test]
async fn a_range_without_matches_succeeds_without_pairs() {
    let (client, at) = with_pairs("empty", &[]).await;
    for request in [get(format!("{at}missing")), all(&at)] {
        let answer = client.range(request).await.unwrap();
        assert_eq!((answer.kvs.len(), answer.count, answer.more), (0, 0, false));
        assert!(answer.header.is_some());
    }
}

/// RNG-3, RNG-5: the pages of a list, as kube-apiserver reads them.
#[tokio::test]
async fn pages_at_one_revision_give_one_consistent_list() {
    let (client, at) = with_pairs("pages", &[]).await;
    for n in 0..25 {
        client.put(format!("{at}{n:02}"), "x").await;
    }
    let (mut listed, mut next, mut pinned) = (Vec::new(), b(&at), 0);
    loop {
        let request = RangeRequest {
            key: next,
            range_end: prefix_end(&at),
            limit: 10,
            revision: pinned,
            ..Default::default()
        };
        let page = client.range(request).await.unwrap();
        assert_eq!(page.count as usize, 25 - listed.len(), "what is left from this page on");
        if pinned == 0 {
            pinned = revision(&page.header);
        }
        listed.extend(names(&at, &page));
        if !page.more {
            break;
        }
        let mut key = page.kvs.last().unwrap().key.to_vec();
        key.push(0);
        next = key.into();
        client.put(format!("{at}99"), "not in this list").await;
        client.delete(format!("{at}24")).await;
    }
    assert_eq!(listed, (0..25).map(|n| format!("{n:02}")).collect::<Vec<_>>());
}
