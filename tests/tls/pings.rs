//! Pings of either side, and how many streams a connection may have.

use std::time::Duration;

use crate::BOTH;
use crate::frames::{ACK, HEADERS, PING, RST_STREAM, SETTINGS, Wire};
use crate::secure::{CERT, Secure};
use support::certificates::Material;
use support::client::Client;
use support::server::Server;

const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// LIM-7: without a stream the fourth ping in a row is too much.
#[tokio::test]
async fn a_client_without_a_stream_may_not_ping() {
    for target in BOTH {
        let server = Server::launch(target, &[]).await;
        let mut wire = Wire::connect(&server.address()).await;
        for ping in 0..4 {
            assert!(wire.ping().await, "{target:?}: ping {ping} is answered");
        }
        wire.is_sent_away().await;
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
        let mut wire = Wire::connect(&server.address()).await;
        wire.open(1, WATCH).await;
        for _ in 0..8 {
            assert!(wire.ping().await, "{target:?}");
            tokio::time::sleep(INTERVAL).await;
        }
        let mut answered = 0;
        while wire.ping().await {
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
        let mut wire = Wire::connect(&server.address()).await;
        wire.open(1, WATCH).await;
        for _ in 0..8 {
            assert!(wire.ping().await, "{target:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        const CANCEL: [u8; 4] = [0, 0, 0, 8];
        wire.send(RST_STREAM, 0, 1, &CANCEL).await;
        for _ in 0..2 {
            assert!(wire.ping().await, "{target:?}");
        }
        while wire.ping().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// LIM-7 is about plain text: over TLS etcd serves gRPC with an HTTP server that does not count pings.
#[tokio::test]
async fn over_tls_pings_are_not_counted() {
    for target in BOTH {
        let secure = Secure::start(target, Material::create(), &CERT).await;
        let mut wire = Wire::over(secure.client().with_alpn(&["h2"]).connect().await.unwrap()).await;
        for ping in 0..20 {
            assert!(wire.ping().await, "{target:?}: ping {ping} is answered");
        }
    }
}

/// LIM-7: what the server sends makes good for pings, so a busy client that measures its line is left in peace.
#[tokio::test]
async fn a_client_that_gets_answers_may_ping() {
    for target in BOTH {
        let server = Server::launch(target, &[]).await;
        let mut wire = Wire::connect(&server.address()).await;
        for stream in (1..40).step_by(2) {
            // No message and the end of the stream: an answer of headers only.
            wire.open(stream, "/etcdserverpb.KV/NoSuchMethod").await;
            assert!(wire.next_of(HEADERS).await.is_some(), "{target:?}");
            assert!(wire.ping().await && wire.ping().await, "{target:?}: after stream {stream}");
        }
    }
}

/// LIM-8: an idle client is pinged, and dropped if it does not answer.
#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_dropped() {
    for target in BOTH {
        let flags = ["--grpc-keepalive-interval", "1s", "--grpc-keepalive-timeout", "1s"];
        let server = Server::launch(target, &flags).await;
        let (mut polite, mut silent) =
            (Wire::connect(&server.address()).await, Wire::connect(&server.address()).await);
        for _ in 0..3 {
            let ping = polite.next_of(PING).await.unwrap();
            assert!(ping.is_ping());
            polite.send(PING, ACK, 0, &ping.payload).await;
        }
        assert!(silent.next_of(PING).await.unwrap().is_ping());
        while silent.next().await.is_some() {}
        assert!(polite.ping().await, "{target:?}");
    }
}

/// LIM-6: a connection has as many streams as the flag says, and a client that opens more is refused.
#[tokio::test]
async fn streams_of_a_connection_are_bounded() {
    for target in BOTH {
        let server = Server::launch(target, &["--max-concurrent-streams", "2"]).await;
        let mut wire = Wire::connect(&server.address()).await;
        let settings = wire.next_of(SETTINGS).await.unwrap();
        let told = settings.payload.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 2]);
        assert!(told, "{target:?}: {settings:?}");
        for stream in [1, 3, 5] {
            wire.open(stream, WATCH).await;
        }
        let refused = wire.next_of(RST_STREAM).await.unwrap();
        const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
        assert_eq!((refused.stream, &refused.payload[..]), (5, &REFUSED_STREAM[..]), "{target:?}");
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
