//! Users by the names in their certificates.

use jetway::proto::authpb::permission::Type::Readwrite;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use crate::BOTH;
use support::auth::{add_user, enable, permission};
use support::certificates::{Material, Template};
use support::client::refused;
use support::tls::{CERT, MUTUAL, TlsClient, TlsServer};
use support::within;

/// AUT-10, AUT-12: a token wins over the certificate, and the certificate needs no password.
#[tokio::test]
async fn the_common_name_of_a_certificate_is_a_user() {
    for target in BOTH {
        let secure = TlsServer::start(target, Material::create(), &MUTUAL).await;
        let named = |name| {
            secure
                .client()
                .with_certificate(secure.material.authority.issue(Template { name, ..Template::default() }))
        };
        let plain = secure.server.client().await;
        let root = enable(&plain).await;
        add_user(&root, "u", &[permission(Readwrite, "k", "l")]).await;
        root.user_add_without_password("certified").await.unwrap();
        root.user_grant_role("certified", "u").await.unwrap();
        let denied = "etcdserver: permission denied";
        for name in ["u", "certified"] {
            let user = named(name).grpc().await;
            user.put("k", name).await;
            refused(user.get("z").await, Code::PermissionDenied, denied);
            assert_eq!(user.user_get(name).await.unwrap().roles, ["u"]);
            // Users that change make nothing old: the name is looked at with each call.
            root.role_add(name.repeat(2).as_str()).await.unwrap();
            user.get("k").await.unwrap();
            // A token comes first, right or wrong.
            let token = root.token().unwrap();
            user.with_token(&token).get("z").await.unwrap();
            refused(
                user.with_token("wrong").get("k").await,
                Code::Unauthenticated,
                "etcdserver: invalid auth token",
            );
            // A certificate is none where the gateway has passed a request on.
            let passed_on = user.clone().with_metadata("grpcgateway-accept", "*/*");
            refused(passed_on.get("k").await, Code::InvalidArgument, "etcdserver: user name is empty");
        }
        named("root").grpc().await.user_list().await.unwrap();
        let stranger = named("stranger").grpc().await;
        refused(stranger.get("k").await, Code::PermissionDenied, denied);
        refused(stranger.user_list().await, Code::FailedPrecondition, "etcdserver: user name not found");
    }
}

/// AUT-10: only `--client-cert-auth` makes a name a user.
#[tokio::test]
async fn a_certificate_that_is_only_asked_for_names_nobody() {
    for target in BOTH {
        let flags = [&CERT[..], &["--trusted-ca-file", "@ca.pem"]].concat();
        let secure = TlsServer::start(target, Material::create(), &flags).await;
        enable(&secure.server.client().await).await;
        let template = Template { name: "root", ..Template::default() };
        let client = secure.client().with_certificate(secure.material.authority.issue(template));
        refused(client.grpc().await.get("k").await, Code::InvalidArgument, "etcdserver: user name is empty");
    }
}

/// GW-6: a name in a certificate does not count in the gateway, and a client that shows one there is refused.
#[tokio::test]
async fn a_certificates_name_does_not_count_in_the_gateway() {
    for target in BOTH {
        let secure = TlsServer::start(target, Material::create(), &MUTUAL).await;
        let issue = |name| {
            secure
                .client()
                .with_certificate(secure.material.authority.issue(Template { name, ..Template::default() }))
        };
        // Without Accept etcd takes such a call for one of its own certificate.
        let (named, nameless) = (issue("root"), issue(""));
        let range = "POST /v3/kv/range HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nConnection: close\r\nContent-Length: 14\r\n\r\n{\"key\":\"YQ==\"}";
        let post = async |peer: &TlsClient| {
            let mut stream = peer.connect().await.unwrap();
            stream.write_all(range.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // Go sends close_notify, hyper just closes.
            within("an answer", stream.read_to_end(&mut answer)).await.ok();
            let answer = String::from_utf8(answer).unwrap();
            let status = answer.split(' ').nth(1).unwrap().to_owned();
            (status, answer.split("\r\n\r\n").nth(1).unwrap().replace(", ", ","))
        };
        assert_eq!(post(&named).await.0, "200");
        enable(&secure.server.client().await).await;
        let text = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";
        assert_eq!(post(&named).await, ("400".to_owned(), text.to_owned()));
        named.is_served().await;
        let empty = "{\"code\":3,\"message\":\"etcdserver: user name is empty\"}";
        assert_eq!(post(&nameless).await, ("400".to_owned(), empty.to_owned()));
    }
}
