//! Clients that are refused: the log names each with its address and the reason, and does not fill up.

use support::certificates::{Authority, Material};
use support::http2::{Connection, GOAWAY};
use support::metrics::Metrics;
use support::server::{Launch, Server, Target};
use support::tls::{CERT, TlsClient, TlsServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{line, lines};

/// Sends bytes and waits for the end; returns the address that the server saw.
async fn send(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let own = stream.local_addr().unwrap().to_string();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // An end by a reset is an end.
    drop(support::within("the end", stream.read_to_end(&mut answer)).await);
    own
}

#[tokio::test]
async fn refused_handshakes_are_logged_and_repetitions_counted() {
    let secure = TlsServer::start(Target::Jetway, Material::create(), &CERT).await;
    let server = &secure.server;
    let peer = send(&secure.address(), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let logged = line(server, &["WARN", "a TLS handshake is refused", "does not speak TLS"]).await;
    assert!(logged.contains(&format!("peer={peer}")), "{logged}");
    for _ in 0..5 {
        send(&secure.address(), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    }
    let counted = line(server, &["WARN", "repeated 5 times within 10 s", "does not speak TLS"]).await;
    assert_eq!(lines(server, &["peer=", "does not speak TLS"]).len(), 1, "{counted}");

    // A client that does not know the authority of the server sends an alert.
    let stranger = TlsClient::new(&secure.address(), &Authority::new("another"));
    stranger.connect().await.expect_err("it does not trust the server");
    let logged = line(server, &["WARN", "a TLS handshake is refused", "UnknownCA"]).await;
    assert!(logged.contains("peer=127.0.0.1:"), "{logged}");
    // A port scan is no news.
    drop(TcpStream::connect(secure.address()).await.unwrap());
    secure.client().is_served().await;
    assert_eq!(lines(server, &["a TLS handshake"]).len(), 3, "{}", server.log());
}

#[tokio::test]
async fn a_tls_client_at_a_plain_port_is_logged() {
    let server = Server::start().await;
    let hello = [22, 3, 1, 0, 5, 1, 0, 0, 1, 0];
    let peer = send(&server.address(), &hello).await;
    let logged = line(&server, &["WARN", "a connection is refused", "https"]).await;
    assert!(logged.contains(&format!("peer={peer}")), "{logged}");
}

#[tokio::test]
async fn a_client_that_pings_too_often_is_logged() {
    let server = Server::start().await;
    let mut connection = Connection::http2(&server).await;
    let peer = connection.io.local_addr().unwrap();
    while connection.ping().await {}
    drop(connection.next_of(GOAWAY).await);
    let logged = line(&server, &["WARN", "pings too often", "--grpc-keepalive-min-time"]).await;
    assert!(logged.contains(&format!("peer={peer}")), "{logged}");
}

/// The limit is that of file descriptors less those that jetway keeps.
#[tokio::test]
async fn connections_beyond_the_limit_are_logged() {
    let launch = Launch { descriptors: Some(160), ..Launch::default() };
    let server = Server::launch_as(Target::Jetway, launch).await;
    let mut open = Vec::new();
    while lines(&server, &["WARN", "all connections are taken", "file descriptors"]).is_empty() {
        open.push(TcpStream::connect(server.address()).await.unwrap());
        assert!(open.len() < 1000, "{}", server.log());
        tokio::task::yield_now().await;
    }
    drop(open);
    Metrics::scrape(&server.address()).await;
    assert_eq!(lines(&server, &["all connections are taken"]).len(), 1, "{}", server.log());
}
