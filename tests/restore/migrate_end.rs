//! The last steps of a migration, while clients of the source go on.

use std::time::Duration;

use jetway::proto::etcdserverpb::{CompactionRequest, PutRequest};
use support::client::*;
use support::cluster::Cluster;
use support::eventually;
use support::metrics::Metrics;
use support::proxy::Proxy;
use support::server::{Launch, Server, Target, signal};
use support::snapshot::{QUICK, Saved, etcdutl, same_history, text};

use crate::migrate::{Migration, empty};

/// The calls of a method that an etcd has answered.
async fn answered(etcd: &Server, method: &str) -> f64 {
    let labels = [("grpc_method", method), ("grpc_code", "OK")];
    Metrics::scrape(&etcd.address()).await.find("grpc_server_handled_total", &labels).unwrap_or(0.0)
}

/// The copy would have the key for ever.
#[tokio::test]
async fn a_lease_that_is_granted_while_leases_are_read_is_reported() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    for lease in 1001..=1500 {
        client.lease_grant(lease, 3600).await.unwrap();
    }
    let slow = Proxy::to(source.address(), usize::MAX).await;
    let (mut target, data) = empty();
    let mut migration = Migration::begin(&["--from", &slow.address, "--data-dir", &data]);
    migration.follows().await;
    slow.delay(Duration::from_millis(200));
    signal(migration.id(), libc::SIGTERM);
    eventually("the leases to be read", async || {
        (answered(&source, "LeaseTimeToLive").await > 0.0).then_some(())
    })
    .await;
    client.lease_grant(5, 3600).await.unwrap();
    client.put_request(PutRequest { lease: 5, ..put("leased", "x") }).await.unwrap();
    let (status, output) = migration.ended().await;
    assert!(!status.success() && output.contains("was written to after the end of the copy"), "{output}");
    assert!(target.try_restart().await.is_err());
}

/// A kube-apiserver compacts every five minutes.
#[tokio::test]
async fn a_compaction_of_what_the_snapshot_holds_is_copied() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    for number in 0..20 {
        client.put("k", format!("{number}")).await;
    }
    let (mut target, data) = empty();
    let mut migration = Migration::begin(&["--from", &source.endpoint(), "--data-dir", &data]);
    migration.follows().await;
    client.put("k", "of the watch").await;
    client.compact_request(CompactionRequest { revision: 10, physical: true }).await.unwrap();
    let (status, output) = migration.stop().await;
    assert!(status.success(), "{output}");
    assert!(output.contains("compacted to 10; HashKV is equal"), "{output}");
    target.restart().await;
    same_history(&client, &target.client().await, 10, false).await;
}

/// etcd's hash counts the mark of the bump.
#[tokio::test]
async fn an_etcd_with_a_bumped_revision_is_migrated() {
    let before = Server::launch(Target::Etcd, &[]).await;
    before.client().await.put("a", "1").await;
    let saved = Saved::of(&before.client().await).await;
    let mut source = Server::create(Target::Etcd, Launch { args: &QUICK, ..Launch::default() });
    let url = format!("http://{}", source.peer_address());
    let (path, etcd, cluster) = (saved.path(), source.dir().join("data"), format!("default={url}"));
    let restore = ["snapshot", "restore", text(&path), "--data-dir", text(&etcd), "--name", "default"];
    let member = ["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &url];
    let bump = ["--bump-revision", "1000", "--mark-compacted"];
    etcdutl(&[&restore[..], &member, &bump].concat()).await;
    source.restart().await;
    let client = source.client().await;
    client.put("a", "2").await;
    client.put("b", "1").await;
    let (mut target, data) = empty();
    let args = ["--from", &source.endpoint(), "--data-dir", &data, "--switch-over"];
    let (status, output) = Migration::begin(&args).ended().await;
    assert!(status.success() && output.contains("HashKV is equal"), "{output}");
    target.restart().await;
    let copy = target.client().await;
    assert_eq!(copy.revision().await, client.revision().await);
    assert_eq!(copy.get("a").await.unwrap().kvs, client.get("a").await.unwrap().kvs);
}

/// Nothing can be served from the copy then.
#[tokio::test]
async fn a_step_behind_the_copy_that_fails_leaves_no_fence() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    for lease in 1..=300 {
        client.lease_grant(lease, 3600).await.unwrap();
    }
    let slow = Proxy::to(source.address(), usize::MAX).await;
    slow.delay(Duration::from_millis(200));
    let cluster = Cluster::prepare_as(Target::Jetway, 2, "http", &[]);
    let data = cluster.members[0].dir().join("data");
    let (all, url) = (cluster.list(0..2), cluster.peer_url(0));
    let place = ["--data-dir", text(&data), "--name", cluster.name(0), "--initial-cluster", &all];
    let from = ["--from", &slow.address, "--switch-over", "--initial-advertise-peer-urls", &url];
    let migration = Migration::begin(&[&place[..], &from].concat());
    eventually("the fence", async || client.put_request(put("k", "1")).await.is_err().then_some(())).await;
    // The member's metadata cannot be prepared there.
    std::fs::write(data.join("preparation"), "").unwrap();
    let (status, output) = migration.ended().await;
    assert!(!status.success() && output.contains("preparation cannot be removed"), "{output}");
    client.put("k", "2").await;
}
