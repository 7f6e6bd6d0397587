//! HTTP headers as the metadata of calls.

use support::server::Server;

use crate::websocket::Socket;
use crate::{base64, ok, refused, send};

/// GW-6, MD-3
#[tokio::test]
async fn headers_become_metadata() {
    let server = Server::start().await;
    let range = r#"{"key":"YQ=="}"#;
    let with = async |headers: &[(&str, &str)]| {
        let answer = send(&server, "POST", "/v3/kv/range", headers, range).await;
        (answer.status, answer.body)
    };
    assert_eq!(
        with(&[("Grpc-Timeout", "1n")]).await,
        (504, r#"{"code":4,"message":"context deadline exceeded"}"#.to_owned())
    );
    assert_eq!(
        with(&[("Grpc-Timeout", "abc")]).await,
        (400, r#"{"code":3,"message":"invalid grpc-timeout: abc"}"#.to_owned())
    );
    for timeout in ["10S", "0S", "99999999999m"] {
        assert_eq!(with(&[("Grpc-Timeout", timeout)]).await.0, 200, "{timeout}");
    }
    let headers =
        [("Grpc-Metadata-Client-Api-Version", "3.7"), ("Grpc-Metadata-Hasleader", "true"), ("X-Other", "x")];
    assert_eq!(with(&headers).await.0, 200);
    assert_eq!(with(&[("Grpc-Metadata-X-Bin", "%%")]).await.0, 400);
    let metrics = send(&server, "GET", "/metrics", &[], "").await.body;
    let counted = r#"etcd_server_client_requests_total{client_api_version="3.7",type="unary"}1"#;
    assert!(metrics.contains(counted), "{metrics}");
    // A token that means nothing while auth is off does no harm.
    assert_eq!(with(&[("Authorization", "nonsense")]).await.0, 200);
}

/// GW-1, GW-6, MD-1: auth from beginning to end, by JSON alone.
#[tokio::test]
async fn the_authorization_header_is_the_token() {
    let server = Server::start().await;
    let (key, end) = (base64("a"), base64("b"));
    for (path, body) in [
        ("user/add", r#"{"name":"root","password":"r"}"#.to_owned()),
        ("user/grant", r#"{"user":"root","role":"root"}"#.to_owned()),
        ("user/add", r#"{"name":"<&>","password":"p"}"#.to_owned()),
        ("user/changepw", r#"{"name":"<&>","password":"q"}"#.to_owned()),
        ("role/add", r#"{"name":"reader"}"#.to_owned()),
        (
            "role/grant",
            format!(r#"{{"name":"reader","perm":{{"permType":"READ","key":"{key}","range_end":"{end}"}}}}"#),
        ),
        ("user/grant", r#"{"user":"<&>","role":"reader"}"#.to_owned()),
        ("enable", String::new()),
    ] {
        if path == "user/grant" && body.contains("root") {
            ok(&server, "/v3/auth/role/add", r#"{"name":"root"}"#).await;
        }
        ok(&server, &format!("/v3/auth/{path}"), &body).await;
    }
    let range = format!(r#"{{"key":"{key}"}}"#);
    refused(&server, "/v3/kv/range", &range, 400, 3, "etcdserver: user name is empty").await;
    let wrong = r#"{"name":"<&>","password":"p"}"#;
    let message = "etcdserver: authentication failed, invalid user ID or password";
    refused(&server, "/v3/auth/authenticate", wrong, 400, 3, message).await;
    let answer = ok(&server, "/v3/auth/authenticate", r#"{"name":"<&>","password":"q"}"#).await;
    let token = answer["token"].as_str().unwrap();
    let bearer = format!("Bearer {token}");
    for headers in [("Authorization", token), ("Authorization", &*bearer), ("Grpc-Metadata-Token", token)] {
        assert_eq!(
            send(&server, "POST", "/v3/kv/range", &[headers], &range).await.status,
            200,
            "{headers:?}"
        );
    }
    let header = [("Authorization", token)];
    let put = send(&server, "POST", "/v3/kv/put", &header, &range).await;
    assert_eq!((put.status, &*put.body), (403, r#"{"code":7,"message":"etcdserver: permission denied"}"#));
    let nobody = send(&server, "POST", "/v3/kv/range", &[("Authorization", "nobody")], &range).await;
    assert_eq!(
        (nobody.status, &*nobody.body),
        (401, r#"{"code":16,"message":"etcdserver: invalid auth token"}"#)
    );
    assert_eq!(nobody.header("www-authenticate"), Some("etcdserver: invalid auth token"));

    let create = format!(r#"{{"create_request":{{"key":"{key}"}}}}"#);
    let protocol = format!("Bearer, {token}");
    let cookie = format!("a=b; token={token}");
    for (header, is_allowed) in [
        (("Sec-WebSocket-Protocol", &*protocol), true),
        (("Cookie", &*cookie), true),
        (("X-Other", token), false),
    ] {
        let (mut socket, _) = Socket::open(&server, "/v3/watch", &[header]).await;
        socket.send(Socket::TEXT, &create).await;
        let (_, answer) = socket.receive().await;
        let is_created = answer.ends_with(r#""created":true}}"#);
        assert_eq!(is_created, is_allowed, "{header:?}: {answer}");
    }
}
