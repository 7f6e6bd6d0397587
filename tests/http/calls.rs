//! gRPC beside HTTP: its protocol, calls that are cancelled by the thousand, and the end of all calls.

use jetway::proto::etcdserverpb::WatchCreateRequest;
use support::client::put;
use support::http2::{CANCEL, Connection, END_HEADERS, HEADERS, RST_STREAM, call, frame};
use support::keys::b;
use support::server::{Server, Target};
use support::watch::WatchStream;
use support::{eventually, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use support::metrics::Metrics;

/// HTTP-1
#[tokio::test]
async fn grpc_needs_http_2() {
    let server = Server::shared().await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let request = "POST /etcdserverpb.KV/Range HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                   Content-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
}

/// A client may open and cancel watches by the thousand on one connection; that is no attack.
#[tokio::test]
async fn thousands_of_watches_are_cancelled_at_once() {
    let server = Server::start().await;
    let client = server.client().await;
    for _ in 0..2 {
        let mut streams: Vec<WatchStream> = (0..2_500).map(|_| WatchStream::open(&client)).collect();
        for stream in &streams {
            stream.request(WatchCreateRequest { key: b("a"), ..Default::default() });
        }
        for stream in &mut streams {
            assert!(stream.next().await.created);
        }
    }
    client.put("a", "b").await;
    eventually("all watches to be gone", async || {
        let metrics = Metrics::scrape(&server.address()).await;
        (metrics.value("etcd_debugging_mvcc_watch_stream_total", &[]) < 0.5).then_some(())
    })
    .await;
}

/// The same with calls that are cancelled before the server has looked at them: all in one write, frame by
/// frame.
#[tokio::test]
async fn thousands_of_calls_are_cancelled_before_they_begin() {
    const CALLS: u32 = 5_000;
    let server = Server::start().await;
    let mut connection = Connection::http2(&server).await;
    let headers = call("/etcdserverpb.Watch/Watch");
    let mut frames = Vec::new();
    for stream in (1..2 * CALLS).step_by(2) {
        frames.extend(frame(HEADERS, END_HEADERS, stream, &headers));
        frames.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
    }
    assert!(connection.send(&frames).await);
    assert!(connection.ping().await, "the server takes this for an attack");
}

/// A server that is stopped ends every call and refuses later connections.
#[tokio::test]
async fn a_graceful_stop_ends_every_call() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let mut stream = WatchStream::open(&client);
    assert!(stream.create(WatchCreateRequest { key: b("a"), ..Default::default() }).await.created);
    let puts = (0..50).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.put_request(put(format!("{n}"), "x")).await })
    });
    let puts: Vec<_> = puts.collect();
    let status = server.stop().await;
    assert!(status.success() || server.target() == Target::Etcd, "{status:?}\n{}", server.log());
    for put in puts {
        // A put that came too late is refused by one side or the other.
        within("the end of a put", put).await.unwrap().ok();
    }
    while let Some(Ok(_)) = within("the end of the watch", stream.message()).await {}
    assert!(TcpStream::connect(server.address()).await.is_err());
}
