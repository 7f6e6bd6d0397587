//! RangeStream: a Range whose answer comes in pieces.

use jetway::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use jetway::proto::etcdserverpb::*;
use tonic::Code;

use support::client::*;
use support::keys::*;
use support::server::Server;
use support::within;

/// Checks the shape of the pieces and merges them into the Range answer that they stand for.
fn merge((chunks, ended): (Vec<RangeResponse>, Option<tonic::Status>)) -> RangeResponse {
    assert!(ended.is_none(), "{ended:?}");
    let (last, others) = chunks.split_last().expect("at least one message");
    for chunk in others {
        assert_eq!(
            (&chunk.header, chunk.more, chunk.count),
            (&None, false, 0),
            "only the last one has these"
        );
    }
    let kvs = chunks.iter().flat_map(|chunk| chunk.kvs.clone()).collect();
    RangeResponse { kvs, ..last.clone() }
}

/// RST-4, RST-5, RST-6, RST-7, RST-9
#[tokio::test]
async fn the_merged_messages_equal_the_response_of_range() {
    let server = Server::start().await;
    let client = server.client().await;
    for n in 0..300 {
        client.put(format!("k/{n:03}"), vec![b'v'; n]).await;
    }
    client.delete("k/100").await;
    let requests = [
        all("k/"),
        RangeRequest { limit: 7, ..all("k/") },
        RangeRequest { limit: 299, ..all("k/") },
        RangeRequest { limit: 298, ..all("k/") },
        RangeRequest { revision: 250, ..all("k/") },
        RangeRequest { keys_only: true, ..all("k/") },
        RangeRequest { serializable: true, ..all("k/") },
        RangeRequest { sort_order: SortOrder::Ascend.into(), ..all("k/") },
        get("k/042"),
        get("k/100"),
        all("no such prefix"),
        RangeRequest { key: b("k/2"), range_end: b("k/1"), ..Default::default() },
    ];
    for request in requests {
        let whole = client.range(request.clone()).await.unwrap();
        assert_eq!(merge(client.range_stream(request.clone()).await), whole, "{request:?}");
    }
    let request = RangeRequest { count_only: true, limit: 3, ..all("k/") };
    let (chunks, ended) = client.range_stream(request).await;
    assert!(ended.is_none());
    let [only] = &chunks[..] else { panic!("one message, not {chunks:?}") };
    assert_eq!((only.count, only.more, only.kvs.len(), revision(&only.header)), (299, false, 0, 302));
}

/// RST-1
#[tokio::test]
async fn a_range_stream_refuses_invalid_sorted_and_filtered_ranges() {
    let server = Server::start().await;
    let client = server.client().await;
    for _ in 0..5 {
        client.put("a", "x").await;
    }
    client.compact(4).await.unwrap();
    let refused_with = async |request: RangeRequest, code, text| {
        let (chunks, ended) = client.range_stream(request).await;
        assert!(chunks.is_empty());
        let status = ended.expect("the stream must be refused");
        assert_eq!((status.code(), status.message()), (code, text));
    };
    let order = |order: SortOrder, target: SortTarget| RangeRequest {
        sort_order: order.into(),
        sort_target: target.into(),
        ..get("a")
    };
    use Code::{InvalidArgument, OutOfRange, Unimplemented};
    refused_with(RangeRequest::default(), InvalidArgument, "etcdserver: key is not provided").await;
    let invalid_sort = "etcdserver: invalid sort option";
    refused_with(RangeRequest { sort_order: 9, ..get("a") }, InvalidArgument, invalid_sort).await;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    refused_with(RangeRequest { revision: 2, ..get("a") }, OutOfRange, compacted).await;
    let future = "etcdserver: mvcc: required revision is a future revision";
    refused_with(RangeRequest { revision: 99, ..get("a") }, OutOfRange, future).await;
    let no_sort = "RangeStream does not support custom sort orders";
    refused_with(order(SortOrder::Descend, SortTarget::Key), Unimplemented, no_sort).await;
    refused_with(order(SortOrder::Ascend, SortTarget::Value), Unimplemented, no_sort).await;
    let no_filter = "RangeStream does not support revision filters";
    for filtered in [
        RangeRequest { min_mod_revision: 1, ..get("a") },
        RangeRequest { max_mod_revision: 1, ..get("a") },
        RangeRequest { min_create_revision: 1, ..get("a") },
        RangeRequest { max_create_revision: -1, ..get("a") },
    ] {
        refused_with(filtered, Unimplemented, no_filter).await;
    }
}

/// RST-3
#[tokio::test]
async fn writes_during_the_stream_are_invisible() {
    let server = Server::shared().await;
    let client = server.client().await;
    let at = unique("stream");
    let value = vec![b'v'; 256 << 10];
    for n in 0..64 {
        client.put(format!("{at}{n:02}"), &value).await;
    }
    let mut stream: tonic::Streaming<RangeStreamResponse> =
        client.server_stream("/etcdserverpb.KV/RangeStream", all(&at)).await.unwrap();
    let mut next =
        async || within("a chunk", stream.message()).await.unwrap().map(|m| m.range_response.unwrap());
    // 16 MiB do not fit into what the connection buffers, so the stream is still in the middle.
    let mut chunks = vec![next().await.expect("a first chunk")];
    client.delete_range(delete_all(&at)).await.unwrap();
    client.put(format!("{at}99"), "late").await;
    while let Some(chunk) = next().await {
        chunks.push(chunk);
    }
    let merged = merge((chunks, None));
    assert_eq!((merged.kvs.len(), merged.count, merged.more), (64, 64, false));
    assert!(merged.kvs.iter().all(|kv| kv.value.len() == value.len()));
}

/// RST-8: after a compaction past its revision a stream ends with the error or is complete, never with a
/// part.
#[tokio::test]
async fn a_compaction_never_leaves_a_stream_short_without_an_error() {
    let server = Server::start().await;
    let client = server.client().await;
    let value = vec![b'v'; 256 << 10];
    for n in 0..64 {
        client.put(format!("k/{n:02}"), &value).await;
    }
    let mut stream: tonic::Streaming<RangeStreamResponse> =
        client.server_stream("/etcdserverpb.KV/RangeStream", all("k/")).await.unwrap();
    let first = within("a chunk", stream.message()).await.unwrap().unwrap().range_response.unwrap();
    let last = revision(&client.delete_range(delete_all("k/")).await.unwrap().header);
    client.compact_request(CompactionRequest { revision: last, physical: true }).await.unwrap();
    let mut chunks = vec![first];
    loop {
        match within("a chunk", stream.message()).await {
            Ok(Some(chunk)) => chunks.push(chunk.range_response.unwrap()),
            Ok(None) => {
                assert_eq!(merge((chunks, None)).kvs.len(), 64);
                return;
            }
            Err(status) => {
                let text = "etcdserver: mvcc: required revision has been compacted";
                assert_eq!((status.code(), status.message()), (Code::OutOfRange, text));
                return;
            }
        }
    }
}

/// RST-2
#[tokio::test]
async fn a_stream_sees_every_write_answered_before_it() {
    let server = Server::shared().await;
    let (writer, reader) = (server.client().await, server.client().await);
    let key = unique("stream-fresh");
    for _ in 0..50 {
        let written = writer.put(&key, "x").await;
        let merged = merge(reader.range_stream(get(&key)).await);
        assert_eq!(merged.kvs[0].mod_revision, written);
    }
}
