//! Simple tokens: how long they live, and restarts.

use std::time::Duration;

use jetway::proto::authpb::permission::Type::Readwrite;
use tokio::time::Instant;
use tonic::Code;

use support::auth::{add_user, auth_revision, enable, permission};
use support::client::refused;
use support::server::Server;

const TOKEN: &str = "etcdserver: invalid auth token";

/// AUT-13: a simple token lives as long as it is used, and for a while then.
#[tokio::test]
async fn an_unused_simple_token_expires() {
    let server = Server::start_with(&["--auth-token-ttl", "3", "--bcrypt-cost", "4"]).await;
    let client = server.client().await;
    enable(&client).await;
    let used = client.login("root", "root").await;
    let unused = client.login("root", "root").await;
    // As long as it lives without use, and a second in which it is looked for.
    let end = Instant::now() + Duration::from_millis(4500);
    while Instant::now() < end {
        used.get("k").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    refused(unused.get("k").await, Code::Unauthenticated, TOKEN);
    refused(unused.get("k").await, Code::Unauthenticated, TOKEN);
    used.get("k").await.unwrap();
}

/// AUT-4: users, roles, the revision and that auth is on survive a stop and a kill.
#[tokio::test]
async fn a_restart_keeps_users_and_roles() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    add_user(&root, "u", &[permission(Readwrite, b"\xffk", "")]).await;
    root.user_add_without_password("certified").await.unwrap();
    root.put("z", "secret").await;
    let before = auth_revision(&client).await;
    for round in 0..2 {
        if round == 0 {
            server.stop().await;
        } else {
            server.kill9();
        }
        server.restart().await;
        let client = server.client().await;
        refused(client.get("z").await, Code::InvalidArgument, "etcdserver: user name is empty");
        let status = client.auth_status().await.unwrap();
        assert_eq!((status.enabled, status.auth_revision), (true, before));
        let user = client.login("u", "u").await;
        user.put(b"\xffk", "v").await;
        refused(user.get("z").await, Code::PermissionDenied, "etcdserver: permission denied");
        let root = client.login("root", "root").await;
        assert_eq!(root.kv("z").await.unwrap().value, "secret");
        assert_eq!(root.user_list().await.unwrap().users, ["certified", "root", "u"]);
        assert!(client.authenticate("certified", "").await.is_err());
    }
}

/// Without a kind of token nobody can log in, because the server has nothing to issue.
#[tokio::test]
async fn without_a_token_provider_nobody_can_log_in() {
    let server = Server::start_with(&["--auth-token", "", "--bcrypt-cost", "4"]).await;
    let client = server.client().await;
    client.user_add("root", "root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let failed = "etcdserver: authentication failed, invalid user ID or password";
    refused(client.authenticate("root", "root").await, Code::InvalidArgument, failed);
    refused(client.with_token("x").get("k").await, Code::Unauthenticated, TOKEN);
}
