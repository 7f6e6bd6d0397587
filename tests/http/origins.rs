//! Pages of other origins and hosts.

use support::http::{http, request};
use support::keys::unique;
use support::server::Server;

use crate::CORS;

/// HTTP-3, HTTP-4
#[tokio::test]
async fn every_response_of_a_client_port_allows_any_origin() {
    let server = Server::shared().await;
    for (method, path, status) in [
        ("GET", "/version", 200),
        ("POST", "/version", 405),
        ("GET", "/health", 200),
        ("GET", "/metrics", 200),
        ("GET", "/nothing/here", 404),
        ("OPTIONS", "/version", 200),
        ("OPTIONS", "/nothing/here", 200),
        ("GET", "/debug/vars", 200),
        ("GET", "/debug/pprof/", 404),
        // The path of a method is nothing to those who do not speak gRPC.
        ("POST", "/etcdserverpb.KV/Range", 404),
    ] {
        let answer = http(&server.address(), method, path).await;
        assert_eq!(answer.status, status, "{method} {path}");
        for (name, value) in CORS {
            assert_eq!(answer.header(name), Some(value), "{method} {path}");
        }
        if method == "OPTIONS" {
            assert_eq!(answer.body, "");
        }
    }
}

/// HTTP-3
#[tokio::test]
async fn only_allowed_origins_get_cors_headers() {
    let server = Server::start_with(&["--cors", "http://a.example:1,http://b.example:2"]).await;
    for (origin, allowed) in [("http://b.example:2", true), ("http://b.example", false), ("*", false)] {
        for (method, path) in [("GET", "/version"), ("OPTIONS", "/v3/kv/range"), ("POST", "/v3/nothing")] {
            let answer =
                request(&server.address(), method, path, &[("Host", "a"), ("Origin", origin)], "").await;
            for (name, value) in CORS {
                let value = if name.ends_with("origin") { origin } else { value };
                assert_eq!(answer.header(name), allowed.then_some(value), "{method} {path} {origin}");
            }
        }
    }
}

/// HTTP-3
#[tokio::test]
async fn a_host_outside_the_whitelist_is_misdirected() {
    let server = Server::start_with(&["--host-whitelist", "127.0.0.1,good.example"]).await;
    let get = async |host: &str| request(&server.address(), "GET", "/version", &[("Host", host)], "").await;
    for host in ["127.0.0.1:1", "good.example", "good.example:2379"] {
        assert_eq!(get(host).await.status, 200, "{host}");
    }
    for (host, name) in
        [("bad.example:2379", "bad.example"), ("[::1]:5", "::1"), ("good.example.", "good.example.")]
    {
        let answer = get(host).await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(answer.body.contains(&format!("  - e.g. etcd --host-whitelist \"{name}\"\n")), "{answer:?}");
        assert!(
            answer.body.starts_with("\netcd received your request, but the Host header was unrecognized.\n")
        );
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    // gRPC has no pages that could be deceived.
    server.client().await.put(unique("host"), "x").await;
}
