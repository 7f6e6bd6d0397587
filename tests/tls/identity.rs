//! Users that certificates name.

use jetway::proto::authpb::permission::Type;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use crate::BOTH;
use support::auth::{add_user, enable, permission};
use support::certificates::{Material, Template};
use support::client::{put, refused};
use support::server::Target;
use support::tls::{CERT, MUTUAL, TlsClient, TlsServer};
use support::within;

/// A server with users `alice`, who may write below `a/`, and `bob`, who may below `b/`; auth is on.
async fn with_users(target: Target, args: &[&str]) -> TlsServer {
    let secure = TlsServer::start(target, Material::create(), args).await;
    let client = secure.server.client().await;
    for (name, start, end) in [("alice", "a/", "a0"), ("bob", "b/", "b0")] {
        add_user(&client, name, &[permission(Type::Readwrite, start, end)]).await;
    }
    enable(&client).await;
    secure
}

fn named(secure: &TlsServer, name: &str) -> TlsClient {
    let pair = secure.material.authority.issue(Template { name, ..Template::default() });
    secure.client().with_certificate(pair)
}

/// AUT-10: the common name is the user's, unless the client shows a token.
#[tokio::test]
async fn the_common_name_of_a_certificate_is_the_user() {
    const DENIED: &str = "etcdserver: permission denied";
    for target in BOTH {
        let secure = with_users(target, &MUTUAL).await;
        let alice = named(&secure, "alice").grpc().await;
        alice.put("a/key", "").await;
        refused(alice.put_request(put("b/key", "")).await, Code::PermissionDenied, DENIED);

        let token = alice.authenticate("bob", "bob").await.unwrap().token;
        let bob = alice.with_token(&token);
        bob.put("b/key", "").await;
        refused(bob.put_request(put("a/key", "")).await, Code::PermissionDenied, DENIED);

        named(&secure, "root").grpc().await.user_list().await.unwrap();
        let nobody = named(&secure, "nobody").grpc().await;
        refused(nobody.put_request(put("a/key", "")).await, Code::PermissionDenied, DENIED);
        // No name is a name too, and nobody's.
        let nameless = named(&secure, "").grpc().await;
        refused(nameless.put_request(put("a/key", "")).await, Code::PermissionDenied, DENIED);

        // The plain port beside it knows nobody without a token.
        let plain = secure.server.client().await;
        let answer = plain.put_request(put("a/key", "")).await;
        refused(answer, Code::InvalidArgument, "etcdserver: user name is empty");
    }
}

/// AUT-10: only `--client-cert-auth` makes certificates count, though authorities alone have them checked.
#[tokio::test]
async fn without_client_cert_auth_a_certificate_names_no_user() {
    for target in BOTH {
        let flags = [&CERT[..], &["--trusted-ca-file", "@ca.pem"]].concat();
        let secure = with_users(target, &flags).await;
        let alice = named(&secure, "alice").grpc().await;
        let answer = alice.put_request(put("a/key", "")).await;
        refused(answer, Code::InvalidArgument, "etcdserver: user name is empty");
    }
}

/// AUT-10: calls through the gateway are not made in that name; a client that shows one is refused.
#[tokio::test]
async fn the_gateway_ignores_the_common_name_of_a_certificate() {
    for target in BOTH {
        let secure = with_users(target, &MUTUAL).await;
        for (name, expected) in
            [("alice", "CommonName of client sending a request against gateway"), ("", "code")]
        {
            let mut stream = named(&secure, name).connect().await.unwrap();
            let body = "{\"key\":\"YS9rZXk=\"}";
            let request = format!(
                "POST /v3/kv/range HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // Go sends close_notify, hyper just closes.
            within("an answer", stream.read_to_end(&mut answer)).await.ok();
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.1 400 "), "{target:?} {name:?}: {answer}");
            assert!(answer.contains(expected), "{target:?} {name:?}: {answer}");
        }
    }
}
