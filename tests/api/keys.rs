//! Keys, and the keys that a range selects.

use jetway::proto::etcdserverpb::*;

use support::client::*;
use support::keys::*;
use support::server::Server;

/// KEY-1, PUT-8: any bytes make a key, and keys compare as unsigned bytes.
#[tokio::test]
async fn every_byte_string_is_a_key_and_sorts_by_its_bytes() {
    let server = Server::start().await;
    let client = server.client().await;
    let long = vec![b'l'; 3000];
    let mut keys: Vec<Vec<u8>> = [
        &b"\0"[..],
        b"\0\0",
        b"\0a",
        b" ",
        b" a ",
        b"*",
        b">",
        b".",
        "..".as_bytes(),
        b"a",
        b"a.",
        b"a..b",
        b".a",
        b"a/",
        b"a//b",
        b"a///",
        b"/",
        b"//",
        b"/a",
        b"a*b",
        b"a.>",
        b">.a",
        b"=",
        b"=2E",
        b"a=b",
        b"a\0b",
        b"$KV.x",
        b"a\r\n",
        b"\t",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xff\xff",
        b"\xc3\x28",
        "ключ".as_bytes(),
        b"A",
        b"aa",
        b"a\xff",
        b"a\0",
        &long,
    ]
    .iter()
    .map(|key| key.to_vec())
    .collect();
    for key in &keys {
        client.put(key, key).await;
    }
    for key in &keys {
        let kv = client.kv(key).await.unwrap_or_else(|| panic!("{key:?} is gone"));
        assert_eq!((&kv.key[..], &kv.value[..], kv.version), (&key[..], &key[..], 1));
    }
    let whole = RangeRequest { key: b(b"\0"), range_end: b(TO_THE_END), ..Default::default() };
    let listed: Vec<_> =
        client.range(whole.clone()).await.unwrap().kvs.iter().map(|kv| kv.key.to_vec()).collect();
    keys.sort();
    assert_eq!(listed, keys);

    for key in &keys {
        assert_eq!(client.delete_range(delete(key)).await.unwrap().deleted, 1, "{key:?}");
    }
    assert_eq!(client.range(whole).await.unwrap().count, 0);
}

/// KEY-2, KEY-3
#[tokio::test]
async fn range_end_selects_one_key_the_rest_or_a_half_open_interval() {
    let server = Server::start().await;
    let client = server.client().await;
    for key in ["a", "a\0", "aa", "ab", "b", "c", "\u{7f}"] {
        client.put(key, "x").await;
    }
    client.put(b"\xff", "x").await;
    client.put(b"\xff\xff", "x").await;
    let select = async |key: &[u8], end: &[u8]| {
        let request = RangeRequest { key: b(key), range_end: b(end), ..Default::default() };
        let answer = client.range(request).await.unwrap();
        answer.kvs.iter().map(|kv| kv.key.to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(select(b"a", b"").await, [b"a"]);
    assert_eq!(select(b"a", b"b").await, [&b"a"[..], b"a\0", b"aa", b"ab"]);
    assert_eq!(select(b"a\0", b"ab").await, [&b"a\0"[..], b"aa"]);
    assert_eq!(select(b"a", b"a\0").await, [b"a"], "the end is not part of the range");
    assert_eq!(select(b"b", b"\0").await, [&b"b"[..], b"c", b"\x7f", b"\xff", b"\xff\xff"]);
    assert_eq!(select(b"bb", b"\0").await, [&b"c"[..], b"\x7f", b"\xff", b"\xff\xff"]);
    assert_eq!(select(b"\xff", &prefix_end(b"\xff")).await, [&b"\xff"[..], b"\xff\xff"]);
    assert_eq!(select(b"\0", b"\0").await.len(), 9, "the whole keyspace");
    assert_eq!(select(b"b", b"\0\0").await, Vec::<Vec<u8>>::new(), "two zero bytes are no special end");
}

/// KEY-4, RNG-16, DEL-1
#[tokio::test]
async fn an_inverted_range_selects_nothing() {
    let server = Server::shared().await;
    let client = server.client().await;
    let at = unique("inverted");
    client.put(format!("{at}a"), "x").await;
    client.put(format!("{at}b"), "x").await;
    for (key, end) in [("b", "a"), ("a", "a")] {
        let (key, range_end) = (b(format!("{at}{key}")), b(format!("{at}{end}")));
        let request = RangeRequest { key: key.clone(), range_end: range_end.clone(), ..Default::default() };
        let answer = client.range(request).await.unwrap();
        assert_eq!((answer.kvs.len(), answer.count, answer.more), (0, 0, false));
        let request = DeleteRangeRequest { key, range_end, prev_kv: true };
        let answer = client.delete_range(request).await.unwrap();
        assert_eq!((answer.deleted, answer.prev_kvs.len()), (0, 0));
    }
    assert_eq!(client.list(&at).await, ["a", "b"]);
}
