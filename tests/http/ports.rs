//! Which port serves which paths, and how a port opens.

use support::http::{http, request};
use support::keys::unique;
use support::server::{Server, Target};
use support::{eventually, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{CORS, free_address, is};

/// HTTP-1
#[tokio::test]
async fn http_can_have_its_own_ports() {
    let address = free_address();
    let server = Server::start_with(&["--listen-client-http-urls", &format!("http://{address}")]).await;
    eventually("the port", async || TcpStream::connect(&address).await.is_ok().then_some(())).await;
    for (path, status) in [("/version", 200), ("/health", 200), ("/metrics", 200), ("/nothing", 404)] {
        assert_eq!(http(&address, "GET", path).await.status, status, "{path}");
    }
    assert_eq!(
        request(&address, "POST", "/v3/kv/range", &[("Host", "a")], "{\"key\":\"YQ==\"}").await.status,
        200
    );
    server.client().await.put(unique("split"), "x").await;
    // HTTP/1 is not spoken on the other port; etcd does not even answer that.
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    within("the end", stream.read_to_end(&mut answer)).await.ok();
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
}

/// HTTP-4
#[tokio::test]
async fn profiles_are_served_with_their_flag() {
    let server = Server::start_with(&["--enable-pprof"]).await;
    let answer = http(&server.address(), "GET", "/debug/pprof/").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(answer.body.contains("/debug/pprof/"));
    let moved = http(&server.address(), "GET", "/debug/pprof").await;
    assert_eq!((moved.status, moved.header("location")), (307, Some("/debug/pprof/")));
    let unknown = is(&server.address(), "GET", "/debug/pprof/nothing", 404, "Unknown profile\n").await;
    assert_eq!(unknown.header("x-go-pprof"), Some("1"));
}

/// HTTP-4, HTTP-12
#[tokio::test]
async fn the_version_and_the_variables_accept_get_only() {
    let server = Server::shared().await;
    for path in ["/version", "/debug/vars"] {
        for (method, body) in [("POST", "Method Not Allowed\n"), ("HEAD", "")] {
            let answer = is(&server.address(), method, path, 405, body).await;
            assert_eq!(answer.header("allow"), Some("GET"), "{method} {path}");
        }
    }
}

/// HTTP-2
#[tokio::test]
async fn a_metrics_port_has_metrics_and_probes_only() {
    let address = free_address();
    let server = Server::start_with(&["--listen-metrics-urls", &format!("http://{address}")]).await;
    for path in ["/metrics", "/health", "/livez", "/readyz", "/readyz/linearizable_read"] {
        // etcd opens this port a little after the client port.
        eventually(path, async || (TcpStream::connect(&address).await.is_ok()).then_some(())).await;
        let answer = http(&address, "GET", path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header(CORS[0].0), None, "{path}");
    }
    for path in ["/version", "/debug/vars", "/v3/kv/range"] {
        is(&address, "GET", path, 404, "404 page not found\n").await;
    }
    assert_eq!(http(&server.address(), "GET", "/metrics").await.status, 200);
}

/// Kubernetes' preflight only connects, and so does every port scan. TLS at a plain port is a mistake of
/// somebody, and twenty of them are one line.
#[tokio::test]
async fn connections_without_a_request_are_not_logged() {
    let server = Server::start().await;
    for _ in 0..20 {
        drop(TcpStream::connect(server.address()).await.unwrap());
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(b"\x16\x03\x01\x00\xa5\x01\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // An answer or a reset, both are fine.
        within("the connection to end", stream.read_to_end(&mut answer)).await.ok();
    }
    server.client().await.put("a", "b").await;
    if server.target() == Target::Jetway {
        // The last line of the start may be written after the first call is answered.
        let after = eventually("the end of the start", async || {
            server.log().split_once("ready to serve client requests").map(|(_, after)| after.to_owned())
        });
        let after = after.await;
        let is_refusal = |line: &&str| line.contains("a connection is refused");
        // The first of them may come before that last line.
        assert_eq!(server.log().lines().filter(is_refusal).count(), 1, "{}", server.log());
        let others: Vec<_> = after.lines().skip(1).filter(|line| !is_refusal(line)).collect();
        assert_eq!(others, Vec::<&str>::new());
    }
}
