//! `jetway migrate --serve`: the process that migrates serves the copy.

use std::time::Duration;

use serde_json::Value;
use support::client::*;
use support::proxy::Proxy;
use support::server::{Launch, Server, Target, signal};
use support::snapshot::same_history;
use support::{auth, eventually};

/// Bytes of a snapshot that come before it is held.
const FIRST_BYTES: usize = 2_000_000;

fn serve(target: &mut Server, from: &str, more: &[&str]) {
    target.set_command(&[&["migrate", "--from", from, "--switch-over", "--serve"][..], more].concat());
}

/// Nothing is fenced, and the same command begins anew.
#[tokio::test]
async fn one_that_is_stopped_before_the_switch_over_leaves_the_source_as_it_is() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    for number in 0..10 {
        client.put(format!("k/{number}"), vec![b'v'; 1_000_000]).await;
    }
    let proxy = Proxy::to(source.address(), FIRST_BYTES).await;
    let mut target = Server::create(Target::Jetway, Launch::default());
    serve(&mut target, &proxy.address, &[]);
    target.begin();
    eventually("the snapshot", async || target.log().contains("receiving the snapshot").then_some(())).await;
    signal(target.pid(), libc::SIGTERM);
    assert!(!target.ended().await.success());
    assert!(target.log().contains("stopped before the end of the copy"), "{}", target.log());
    client.put("k/1", "the source is not fenced").await;
    serve(&mut target, &source.endpoint(), &[]);
    target.begin();
    target.is_up().await;
    let copy = target.client().await;
    same_history(&client, &copy, 2, true).await;
    copy.put("k/1", "by the copy").await;
    // A later start needs no source.
    target.kill9();
    target.set_command(&[]);
    target.restart().await;
    assert_eq!(target.client().await.kv("k/1").await.unwrap().value, "by the copy");
}

/// Each instance of an existing NATS may serve the copy once it is whole, and not before.
#[tokio::test]
async fn users_come_along_and_others_join() {
    let source = Server::launch(Target::Etcd, &["--bcrypt-cost", "4"]).await;
    let root = auth::enable(&source.client().await).await;
    root.put("a", "1").await;
    let nats = support::nats::Nats::start().await;
    let to = nats.endpoint();
    let mut target =
        Server::create(Target::Jetway, Launch { args: &["--endpoint", &to], ..Launch::default() });
    serve(&mut target, &source.endpoint(), &["--user", "root:root"]);
    target.begin();
    target.is_up().await;
    let other = Server::launch(Target::Jetway, &["--endpoint", &to]).await;
    for server in [&target, &other] {
        let client = server.client().await.login("root", "root").await;
        assert_eq!(client.kv("a").await.unwrap().mod_revision, 2);
        client.put("b", "1").await;
    }
    assert!(root.put_request(put("a", "2")).await.is_err(), "the source is not fenced");
}

#[tokio::test]
async fn flags_that_do_not_fit_are_refused() {
    let members = "a=http://127.0.0.1:1,b=http://127.0.0.1:2";
    let from = ["migrate", "--from", "http://127.0.0.1:1"];
    for (flags, words) in [
        (&["--serve"][..], "--switch-over"),
        (&["--serve", "--switch-over", "--dry-run"], "--dry-run"),
        (
            &[
                "--serve",
                "--switch-over",
                "--name",
                "a",
                "--initial-cluster",
                members,
                "--initial-advertise-peer-urls",
                "http://127.0.0.1:1",
                "--listen-peer-urls",
                "http://127.0.0.1:1",
            ],
            "leave --initial-cluster away",
        ),
    ] {
        let mut server = Server::create(Target::Jetway, Launch::default());
        server.set_command(&[&from[..], flags].concat());
        assert!(!server.ends().await.success());
        assert!(server.log().contains(words), "{words}: {}", server.log());
    }
}

/// The store is purged while the source is fenced: nothing is served, and the source goes on.
#[tokio::test]
async fn the_fence_is_lifted_if_the_server_cannot_go_on() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    for lease in 1..=500 {
        client.lease_grant(lease, 3600).await.unwrap();
    }
    client.put("k", "1").await;
    let proxy = Proxy::to(source.address(), usize::MAX).await;
    // Each lease is asked for under the fence, so many at once.
    proxy.delay(Duration::from_millis(200));
    let nats = support::nats::Nats::start().await;
    let to = nats.endpoint();
    let mut target =
        Server::create(Target::Jetway, Launch { args: &["--endpoint", &to], ..Launch::default() });
    serve(&mut target, &proxy.address, &[]);
    target.begin();
    eventually("the fence", async || client.put_request(put("k", "2")).await.is_err().then_some(())).await;
    nats.api("STREAM.PURGE.KV_test", &Value::Null).await;
    assert!(!target.ended().await.success());
    let log = target.log();
    // Either the server or the migration is the first that finds the purge.
    assert!(log.contains("nothing was served") || log.contains("run the same command once more"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    client.put("k", "the source is not fenced").await;
}
