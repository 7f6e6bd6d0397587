//! The paths of the methods.

use support::server::Server;

use crate::{post, refused, send};

/// GW-1: every path there is, with a request that is refused or harmless.
#[tokio::test]
async fn every_method_has_its_path() {
    let server = Server::start().await;
    for (path, body, status, part) in [
        ("kv/range", r#"{"key":"YQ=="}"#, 200, "\"header\""),
        ("kv/put", "", 400, "etcdserver: key is not provided"),
        ("kv/deleterange", "", 400, "etcdserver: key is not provided"),
        ("kv/txn", "", 200, "\"header\""),
        ("kv/compaction", r#"{"revision":"9999"}"#, 400, "future revision"),
        ("kv/lease/revoke", r#"{"ID":"9"}"#, 404, "etcdserver: requested lease not found"),
        ("kv/lease/timetolive", r#"{"ID":"9"}"#, 200, r#""ID":"9","TTL":"-1"}"#),
        ("kv/lease/leases", "", 200, "\"header\""),
        ("lease/grant", r#"{"TTL":"10000000000"}"#, 400, "etcdserver: too large lease TTL"),
        ("lease/revoke", r#"{"ID":"9"}"#, 404, "etcdserver: requested lease not found"),
        ("lease/keepalive", r#"{"ID":"9"}"#, 200, r#"{"result":{"header":{"#),
        ("lease/timetolive", r#"{"ID":"9"}"#, 200, r#""ID":"9","TTL":"-1"}"#),
        ("lease/leases", "", 200, "\"header\""),
        (
            "cluster/member/add",
            r#"{"peerURLs":["nonsense"]}"#,
            400,
            "etcdserver: given member URLs are invalid",
        ),
        ("cluster/member/remove", r#"{"ID":"9"}"#, 404, "etcdserver: member not found"),
        (
            "cluster/member/update",
            r#"{"ID":"9","peerURLs":["http://127.0.0.1:1"]}"#,
            404,
            "etcdserver: member not found",
        ),
        ("cluster/member/list", "", 200, r#""members":[{"#),
        ("cluster/member/promote", r#"{"ID":"9"}"#, 404, "etcdserver: member not found"),
        ("maintenance/alarm", "", 200, "\"header\""),
        ("maintenance/status", "", 200, r#""version":"3.7.3""#),
        ("maintenance/defragment", "", 200, "{}"),
        ("maintenance/hash", "", 200, "\"hash\""),
        ("maintenance/hashkv", "", 200, "\"hash_revision\""),
        ("maintenance/transfer-leadership", r#"{"targetID":"9"}"#, 400, "etcdserver: bad leader transferee"),
        ("maintenance/downgrade", "", 400, "etcdserver: wrong downgrade target version format"),
        ("auth/status", "", 200, r#""authRevision":"1""#),
        ("auth/authenticate", r#"{"name":"a"}"#, 400, "etcdserver: authentication is not enabled"),
        ("election/leader", r#"{"name":"eA=="}"#, 500, "election: no leader"),
        ("lock/lock", r#"{"name":"eA==","lease":"77"}"#, 500, "etcdserver: requested lease not found"),
        ("lock/unlock", r#"{"key":"eA=="}"#, 200, "\"header\""),
    ] {
        for prefix in ["/v3/", "/v3beta/"] {
            let path = format!("{prefix}{path}");
            let answer = post(&server, &path, body).await;
            assert_eq!(answer.status, status, "{path}: {answer:?}");
            assert!(answer.body.contains(part), "{path}: {answer:?}");
        }
        for method in ["GET", "PUT", "DELETE"] {
            let answer = send(&server, method, &format!("/v3/{path}"), &[], "").await;
            let expected = r#"{"code":12,"message":"Method Not Allowed"}"#;
            assert_eq!((answer.status, &*answer.body), (501, expected), "{method} {path}");
        }
    }
}

/// GW-1
#[tokio::test]
async fn other_paths_are_not_found() {
    let server = Server::shared().await;
    for path in
        ["/v3/", "/v3/nothing", "/v3/kv", "/v3/kv/range/", "/v3/kv/rangestream", "/v3/etcdserverpb.KV/Range"]
    {
        refused(&server, path, "", 404, 5, "Not Found").await;
    }
    for path in ["/v3alpha/kv/range", "/v3beta"] {
        let answer = post(&server, path, "").await;
        assert_eq!((answer.status, &*answer.body), (404, "404pagenotfound\n"), "{path}");
    }
    for (path, place) in
        [("/v3", "/v3/"), ("/v3//kv/range", "/v3/kv/range"), ("/v3/kv/../kv/range?a=b", "/v3/kv/range?a=b")]
    {
        let answer = post(&server, path, "").await;
        assert_eq!((answer.status, answer.header("location")), (307, Some(place)), "{path}");
    }
    assert_eq!(post(&server, "/v3/kv/%72ange", r#"{"key":"YQ=="}"#).await.status, 200);
}

/// GW-1
#[tokio::test]
async fn the_gateway_can_be_disabled() {
    let server = Server::start_with(&["--enable-grpc-gateway=false"]).await;
    for path in ["/v3/kv/range", "/v3/", "/v3", "/v3beta/kv/range"] {
        let answer = send(&server, "POST", path, &[], "").await;
        assert_eq!((answer.status, &*answer.body), (404, "404pagenotfound\n"), "{path}");
    }
}
