//! Pings of either side, and how many streams a connection may have.

use std::time::Duration;

use crate::BOTH;
use support::certificates::Material;
use support::client::Client;
use support::http2::{
    ACK, CANCEL, Connection, ENHANCE_YOUR_CALM, Frame, GOAWAY, HEADERS, PING, REFUSED_STREAM, RST_STREAM,
    SETTINGS, frame,
};
use support::server::Server;
use support::tls::{CERT, TlsServer};

const WATCH: &str = "/etcdserverpb.Watch/Watch";

fn is_request(ping: &Frame) -> bool {
    ping.flags & ACK == 0
}

/// LIM-7: without a stream the fourth ping in a row is too much.
#[tokio::test]
async fn a_client_without_a_stream_may_not_ping() {
    for target in BOTH {
        let server = Server::launch(target, &[]).await;
        let mut connection = Connection::http2(&server).await;
        for ping in 0..4 {
            assert!(connection.ping().await, "{target:?}: ping {ping} is answered");
        }
        let goaway = connection.next_of(GOAWAY).await.expect("a GOAWAY before the end");
        assert_eq!(goaway.payload[4..8], ENHANCE_YOUR_CALM.to_be_bytes());
        assert_eq!(&goaway.payload[8..], b"too_many_pings");
        assert_eq!(connection.next().await, None, "nothing follows");
        // Others are still welcome.
        server.client().await.put("tls/others", "").await;
    }
}

/// LIM-7: with a stream open pings may come at the interval of the flag, and no sooner.
#[tokio::test]
async fn a_client_with_a_stream_may_ping_at_the_interval() {
    const INTERVAL: Duration = Duration::from_millis(100);
    for target in BOTH {
        let server = Server::launch(target, &["--grpc-keepalive-min-time", "100ms"]).await;
        let mut connection = Connection::http2(&server).await;
        connection.open_stream(1, WATCH).await;
        for _ in 0..8 {
            assert!(connection.ping().await, "{target:?}");
            tokio::time::sleep(INTERVAL).await;
        }
        let mut answered = 0;
        while connection.ping().await {
            answered += 1;
        }
        assert!((2..=4).contains(&answered), "{target:?}: {answered} pings in haste");
    }
}

/// LIM-7: a stream that has ended is none.
#[tokio::test]
async fn a_stream_that_has_ended_does_not_count() {
    for target in BOTH {
        let server = Server::launch(target, &["--grpc-keepalive-min-time", "1ms"]).await;
        let mut connection = Connection::http2(&server).await;
        connection.open_stream(1, WATCH).await;
        for _ in 0..8 {
            assert!(connection.ping().await, "{target:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        connection.send(&frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes())).await;
        for _ in 0..2 {
            assert!(connection.ping().await, "{target:?}");
        }
        while connection.ping().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// LIM-7 is about plain text: over TLS etcd serves gRPC with an HTTP server that does not count pings.
#[tokio::test]
async fn over_tls_pings_are_not_counted() {
    for target in BOTH {
        let secure = TlsServer::start(target, Material::create(), &CERT).await;
        let mut connection =
            Connection::over(secure.client().with_alpn(&["h2"]).connect().await.unwrap()).await;
        for ping in 0..20 {
            assert!(connection.ping().await, "{target:?}: ping {ping} is answered");
        }
    }
}

/// LIM-7: what the server sends makes good for pings, so a busy client that measures its line is left in
/// peace.
#[tokio::test]
async fn a_client_that_gets_answers_may_ping() {
    for target in BOTH {
        let server = Server::launch(target, &[]).await;
        let mut connection = Connection::http2(&server).await;
        for stream in (1..40).step_by(2) {
            // No message and the end of the stream: an answer of headers only.
            connection.open_stream(stream, "/etcdserverpb.KV/NoSuchMethod").await;
            assert!(connection.next_of(HEADERS).await.is_some(), "{target:?}");
            assert!(connection.ping().await && connection.ping().await, "{target:?}: after stream {stream}");
        }
    }
}

/// LIM-8: an idle client is pinged, and dropped if it does not answer.
#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_dropped() {
    for target in BOTH {
        let flags = ["--grpc-keepalive-interval", "1s", "--grpc-keepalive-timeout", "1s"];
        let server = Server::launch(target, &flags).await;
        let (mut polite, mut silent) = (Connection::http2(&server).await, Connection::http2(&server).await);
        for _ in 0..3 {
            let ping = polite.next_of(PING).await.unwrap();
            assert!(is_request(&ping));
            polite.send(&frame(PING, ACK, 0, &ping.payload)).await;
        }
        assert!(is_request(&silent.next_of(PING).await.unwrap()));
        while silent.next().await.is_some() {}
        assert!(polite.ping().await, "{target:?}");
    }
}

/// LIM-6: a connection has as many streams as the flag allows, and a client that opens more is refused.
#[tokio::test]
async fn streams_of_a_connection_are_bounded() {
    for target in BOTH {
        let server = Server::launch(target, &["--max-concurrent-streams", "2"]).await;
        let mut connection = Connection::http2(&server).await;
        let settings = connection.next_of(SETTINGS).await.unwrap();
        let is_set = settings.payload.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 2]);
        assert!(is_set, "{target:?}: {settings:?}");
        for stream in [1, 3, 5] {
            connection.open_stream(stream, WATCH).await;
        }
        let refused = connection.next_of(RST_STREAM).await.unwrap();
        assert_eq!((refused.stream, &*refused.payload), (5, &REFUSED_STREAM.to_be_bytes()[..]), "{target:?}");
        // A polite client, once it knows the limit, waits instead, and its calls all come through.
        let client = Client::connect(&server.endpoint()).await;
        client.put("tls/first", "").await;
        let calls = (0..50).map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.put(format!("tls/streams/{n}"), "").await })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        assert_eq!(client.list("tls/streams/").await.len(), 50, "{target:?}");
    }
}
