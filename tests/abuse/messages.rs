//! Messages that are too large, too deep or none at all.

use http_body_util::BodyExt as _;
use jetway::proto::etcdserverpb::*;
use prost::Message as _;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tower::Service as _;

use crate::bystander::Bystander;
use crate::process::Memory;
use crate::raw::*;
use crate::support::client::*;
use crate::support::server::{Server, Target};
use crate::support::watch::{WatchStream, watch_key};
use crate::support::within;

/// A key of a mebibyte is within etcd's limit. jetway has a lower one for keys it stores; reads and watches of others
/// find nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_a_mebibyte() {
    let server = Server::start().await;
    let bystander = Bystander::start(&server).await;
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
    bystander.finish().await;
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
    (status.code(), status.message().to_owned())
}

/// What was found on one side, printed, or compared with what it has to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe() {
    let server = Server::start().await;
    let put_path = "/etcdserverpb.KV/Put";
    for (what, data) in [
        ("empty", vec![]),
        ("short head", vec![0, 0]),
        ("no body", message(0, 5, b"")),
        ("short body", message(0, 5, b"ab")),
        ("compressed flag", message(1, 2, b"ab")),
        ("flag 7", message(7, 2, b"ab")),
        ("garbage", message(0, 3, b"\xff\xff\xff")),
        ("bad wire type", message(0, 2, b"\x0f\x01")),
        ("bad wire type of key", message(0, 2, b"\x08\x01")),
        ("unknown field", message(0, 7, b"\x0a\x01kX\x01\x78\x01")),
        ("two messages", [message(0, 3, b"\x0a\x01k"), message(0, 3, b"\x0a\x01k")].concat()),
        ("end group", message(0, 1, b"\x0c")),
        ("groups 50", message(0, 100, &[[0x7b; 50], [0x7c; 50]].concat())),
        ("groups 150", message(0, 300, &[[0x7b; 150], [0x7c; 150]].concat())),
        ("groups 20000", message(0, 40000, &[[0x7b; 20000], [0x7c; 20000]].concat())),
    ] {
        println!(
            "PUT {what}: {:?}",
            tokio::time::timeout(
                std::time::Duration::from_secs(3),
                status_of(&server, put_path, data.clone())
            )
            .await
        );
        println!(
            "WATCH {what}: {:?}",
            tokio::time::timeout(
                std::time::Duration::from_secs(3),
                status_of(&server, "/etcdserverpb.Watch/Watch", data.clone())
            )
            .await
        );
        println!(
            "KEEPALIVE {what}: {:?}",
            tokio::time::timeout(
                std::time::Duration::from_secs(3),
                status_of(&server, "/etcdserverpb.Lease/LeaseKeepAlive", data)
            )
            .await
        );
    }
    for depth in [10, 48, 49, 50, 51, 100, 126, 127, 128, 129, 1000, 4990, 5010, 20_000, 200_000] {
        let data = nested(depth);
        println!(
            "TXN {depth}: {:?}",
            status_of(&server, "/etcdserverpb.KV/Txn", message(0, data.len() as u32, &data)).await
        );
    }
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
async fn messages_that_announce_gibibytes_are_refused_before_they_come() {
    let server = Server::start().await;
    let bystander = Bystander::start(&server).await;
    let memory = Memory::of(&server);
    for path in ["/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"] {
        for size in [2_097_153, 1 << 31, u32::MAX] {
            let (code, text) = status_of(&server, path, message(0, size, b"x")).await;
            println!("{path} {size}: {code:?} {text}");
        }
    }
    memory.stayed_below("announced messages", 50);
    bystander.finish().await;
}
