//! Users, roles and tokens belong to all instances on a bucket.

use std::time::Duration;

use jetway::proto::authpb::permission::Type::{Read, Readwrite};
use tokio::task::JoinSet;
use tonic::Code;

use crate::instances::instances;
use support::auth::{add_user, auth_revision, enable, permission};
use support::client::{put, refused};
use support::eventually;
use support::nats::Nats;
use support::server::Server;
use support::watch::{WatchStream, watch_all};

const DENIED: &str = "etcdserver: permission denied";
const TOKEN: &str = "etcdserver: invalid auth token";

/// AUT-13: a token is taken by every instance as soon as one has issued it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_tokens_belong_to_all_instances() {
    let nats = Nats::start().await;
    let (_servers, clients) = instances(&nats.endpoint(), 2).await;
    let [a, b] = &clients[..] else { unreachable!() };
    let root = enable(a).await;
    // Requests go to the instance whose state may be old. All instances know soon that auth is enabled.
    let status = b.auth_status().await.unwrap();
    assert_eq!((status.enabled, status.auth_revision), (true, auth_revision(a).await));
    for round in 0..20 {
        let (one, other) = if round % 2 == 0 { (a, b) } else { (b, a) };
        let token = one.authenticate("root", "root").await.unwrap().token;
        other.with_token(&token).put("/k", round.to_string()).await;
    }
    let there = b.with_token(&root.token().unwrap());
    add_user(&there, "u", &[permission(Readwrite, "/u", "")]).await;
    let user = a.login("u", "u").await;
    user.put("/u", "v").await;
    let user_there = b.with_token(&user.token().unwrap());
    assert_eq!(user_there.kv("/u").await.unwrap().value, "v");
    refused(user_there.get("/k").await, Code::PermissionDenied, DENIED);
    let mut watch = WatchStream::open(&user_there);
    assert!(watch.create(watch_all("/")).await.cancel_reason.ends_with(DENIED));

    // A change through one counts on the other with what it hears next.
    root.role_grant("u", Some(permission(Read, "/k", ""))).await.unwrap();
    eventually("the permission to arrive", async || user_there.get("/k").await.ok().map(drop)).await;
    root.user_change_password("u", "new").await.unwrap();
    eventually("the token to end", async || {
        user_there.get("/u").await.is_err_and(|status| status.message() == TOKEN).then_some(())
    })
    .await;
    refused(user.get("/u").await, Code::Unauthenticated, TOKEN);
    b.login("u", "new").await.get("/u").await.unwrap();
    there.auth_disable().await.unwrap();
    eventually("auth to be off", async || a.get("/k").await.ok().map(drop)).await;
    assert_eq!(auth_revision(a).await, auth_revision(b).await);
}

/// AUT-4: changes through several instances at once are all there, each with a revision of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_of_users_is_lost() {
    let nats = Nats::start().await;
    let (mut servers, clients) = instances(&nats.endpoint(), 3).await;
    let mut tasks = JoinSet::new();
    for worker in 0..6 {
        let client = clients[worker % 3].clone();
        tasks.spawn(async move {
            for at in 0..10 {
                client.role_add(&format!("{worker}-{at}")).await.unwrap();
            }
        });
    }
    while let Some(worker) = tasks.join_next().await {
        worker.unwrap();
    }
    let mut expected: Vec<_> = (0..6).flat_map(|w| (0..10).map(move |at| format!("{w}-{at}"))).collect();
    expected.sort();
    for client in &clients {
        assert_eq!(client.role_list().await.unwrap().roles, expected);
        assert_eq!(auth_revision(client).await, 61);
    }
    servers[0].kill9();
    servers[0].restart().await;
    assert_eq!(servers[0].client().await.role_list().await.unwrap().roles, expected);
}

/// AUT-13: tokens outlive the instance that has issued them, and a token in use outlives its entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_outlives_its_instance_and_goes_on_while_it_is_used() {
    let nats = Nats::start().await;
    let endpoint = nats.endpoint();
    let args = ["--endpoint", &endpoint, "--auth-token-ttl", "4", "--bcrypt-cost", "4"];
    let mut first = Server::start_with(&args).await;
    let second = Server::start_with(&args).await;
    let root = enable(&first.client().await).await;
    let token = root.token().unwrap();
    first.kill9();
    let there = second.client().await.with_token(&token);
    // Longer than the entry is kept that was made when the token was issued.
    let end = tokio::time::Instant::now() + Duration::from_secs(8);
    while tokio::time::Instant::now() < end {
        there.put_request(put("/k", "v")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    first.restart().await;
    first.client().await.with_token(&token).get("/k").await.unwrap();
    // And unused it ends, on either.
    eventually("the token to end", async || {
        tokio::time::sleep(Duration::from_secs(5)).await;
        there.get("/k").await.is_err_and(|status| status.message() == TOKEN).then_some(())
    })
    .await;
    refused(first.client().await.with_token(&token).get("/k").await, Code::Unauthenticated, TOKEN);
}
