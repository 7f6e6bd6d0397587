//! Messages that are too large, too deep or none at all.

use http_body_util::BodyExt as _;
use prost::Message as _;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tower::Service as _;

use crate::healthy_client::HealthyClient;
use crate::process::Memory;
use support::client::*;
use support::http2::*;
use support::server::{Server, Target};
use support::watch::{WatchStream, watch_key};
use support::within;

/// A key of a mebibyte is within etcd's limit. jetway has a lower one for keys it stores; reads and watches
/// of others find nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_a_mebibyte_is_refused_by_puts_and_not_found_by_reads() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let client = server.client().await;
    let key = vec![b'k'; 1 << 20];
    let memory = Memory::of(&server);
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_key(&key)).await;
    let written = client.put_request(put(&key, "v")).await;
    let by_txn = client.txn(run(vec![op(put(&key, "v"))])).await;
    match server.target() {
        Target::Etcd => assert!(written.is_ok() && by_txn.is_ok()),
        Target::Jetway => {
            for status in [written.unwrap_err(), by_txn.unwrap_err()] {
                assert_eq!(status.code(), Code::InvalidArgument);
                assert!(status.message().starts_with("jetway: key"), "{status:?}");
                assert!(status.message().len() < 1000, "the text shows the key");
            }
            assert!(client.kv(&key).await.is_none());
            assert_eq!(client.delete_range(delete(&key)).await.unwrap().deleted, 0);
        }
    }
    memory.stayed_below("1 MiB key", 100);
    healthy.finish().await;
}

/// The status of a call whose request is made of these bytes.
async fn status_of(server: &Server, path: &str, data: Vec<u8>) -> (Code, String) {
    let mut channel = Endpoint::new(server.endpoint()).unwrap().connect().await.unwrap();
    let request = http::Request::post(format!("{}{path}", server.endpoint()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(http_body_util::Full::from(data)))
        .unwrap();
    let answer = within(path, async {
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
        let (head, body) = channel.call(request).await.unwrap().into_parts();
        let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
        Status::from_header_map(&head.headers).or_else(|| Status::from_header_map(&trailers))
    });
    let status = answer.await.expect("a status");
    // Go's protobuf library puts a space of one kind or the other there, a different one in each build.
    (status.code(), status.message().replace("proto:\u{a0}", "proto: "))
}

const UNARY: &str = "/etcdserverpb.KV/Put";
const STREAMS: [&str; 2] = ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"];

/// Frames and messages that are none, in grpc-go's words, which differ between calls with one request and
/// with many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_messages_are_refused_with_the_errors_of_grpc_go() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let malformed = "proto: cannot parse invalid wire-format data";
    let unary = |reason| (Code::Internal, format!("grpc: error unmarshalling request: {reason}"));
    let stream =
        |reason| (Code::Internal, format!("grpc: failed to unmarshal the received message: {reason}"));
    let both = |code, text: &str| [(code, text.to_owned()), (code, text.to_owned())];
    for (what, data, expected) in [
        (
            "a short message",
            message(0, 5, b"ab"),
            [(Code::Unknown, "unexpected EOF".into()), (Code::Internal, "unexpected EOF".into())],
        ),
        (
            "compression that nobody named",
            message(1, 2, b"ab"),
            both(Code::Internal, "grpc: compressed flag set with identity or empty encoding"),
        ),
        (
            "a flag that is none",
            message(7, 2, b"ab"),
            both(Code::Internal, "grpc: received unexpected payload format 7"),
        ),
        ("garbage", message(0, 3, b"\xff\xff\xff"), [unary(malformed), stream(malformed)]),
        ("no wire type", message(0, 2, b"\x0f\x01"), [unary(malformed), stream(malformed)]),
        ("a group that only ends", message(0, 1, b"\x0c"), [unary(malformed), stream(malformed)]),
        ("the wrong group's end", message(0, 2, b"\x7b\x74"), [unary(malformed), stream(malformed)]),
    ] {
        assert_eq!(status_of(&server, UNARY, data.clone()).await, expected[0], "{what}");
        for path in STREAMS {
            assert_eq!(status_of(&server, path, data.clone()).await, expected[1], "{what} {path}");
        }
    }
    healthy.finish().await;
}

/// Groups in groups, which no message of etcd's has: they are skipped, but not down to where the stack ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_groups_are_skipped_or_refused() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let groups = |depth: usize| {
        let groups = [vec![0x7b; depth], vec![0x7c; depth]].concat();
        message(0, groups.len() as u32, &groups)
    };
    let (code, text) = status_of(&server, UNARY, groups(50)).await;
    assert_eq!((code, text.as_str()), (Code::InvalidArgument, "etcdserver: key is not provided"));
    for depth in [20_000, 1_000_000] {
        let (code, text) = status_of(&server, UNARY, groups(depth)).await;
        // etcd's text depends on the depth at which it gives up.
        assert_eq!(code, Code::Internal);
        assert!(text.starts_with("grpc: error unmarshalling request: proto: "), "{text}");
    }
    healthy.finish().await;
}

/// TXN-1 to the end: as many transactions in one another as there may be operations on a path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_nest_up_to_the_limit_of_operations() {
    let server = Server::start_with(&["--max-txn-ops", "128"]).await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    let deep = async |server: &Server, depth| {
        let data = nested(depth);
        status_of(server, "/etcdserverpb.KV/Txn", message(0, data.len() as u32, &data)).await
    };
    for depth in [1, 50, 51, 128] {
        assert_eq!(deep(&server, depth).await, (Code::Ok, String::new()), "{depth}");
    }
    for depth in [129, 200] {
        let expected = (Code::InvalidArgument, "etcdserver: too many operations in txn request".into());
        assert_eq!(deep(&server, depth).await, expected, "{depth}");
    }
    for depth in [20_000, 200_000] {
        let text = "grpc: error unmarshalling request: proto: exceeded maximum recursion depth";
        assert_eq!(deep(&server, depth).await, (Code::Internal, text.into()), "{depth}");
    }
    memory.stayed_below("deep transactions", 100);
    healthy.finish().await;
    let server = Server::start_with(&["--max-txn-ops", "10000"]).await;
    assert_eq!(deep(&server, 256).await, (Code::Ok, String::new()));
}

/// A transaction in a transaction and so on, `depth` in all, with a read of one key in the innermost.
fn nested(depth: usize) -> Vec<u8> {
    // From the inside out, and backwards, so that it takes linear time.
    let read = run(vec![op(get("k"))]).encode_to_vec();
    let mut bytes: Vec<u8> = read.into_iter().rev().collect();
    for _ in 1..depth {
        for tag in [0x22, 0x12] {
            let mut len = Vec::new();
            prost::encoding::encode_varint(bytes.len() as u64, &mut len);
            bytes.extend(len.iter().rev());
            bytes.push(tag);
        }
    }
    bytes.reverse();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_announce_gibibytes_are_refused_by_their_header() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let memory = Memory::of(&server);
    for path in [UNARY, STREAMS[0], STREAMS[1]] {
        for size in [2_097_153, 1 << 31, u32::MAX] {
            let text = format!("grpc: received message larger than max ({size} vs. 2097152)");
            let answer = status_of(&server, path, message(0, size, b"x")).await;
            assert_eq!(answer, (Code::ResourceExhausted, text), "{path}");
        }
    }
    memory.stayed_below("announced messages", 50);
    healthy.finish().await;
}
