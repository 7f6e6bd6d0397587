//! A running etcd moves into a cluster of jetway's own.

use std::time::Duration;

use jetway::proto::etcdserverpb::{MemberAddRequest, MemberAddResponse};
use support::client::*;
use support::cluster::Cluster;
use support::eventually;
use support::proxy::Proxy;
use support::server::{Server, Target};
use support::snapshot::{same_history, text};
use tokio::task::JoinHandle;

use crate::migrate::{Migration, empty};

/// Writes until it is refused; returns the last revision that was answered.
fn write(client: Client) -> JoinHandle<i64> {
    tokio::spawn(async move {
        let mut last = 0;
        for number in 0.. {
            match client.put_request(put(format!("w/{}", number % 20), format!("{number}"))).await {
                Ok(answer) => last = revision(&answer.header),
                Err(_) => break,
            }
        }
        last
    })
}

/// Migrates a source that is written to into the first member.
async fn migrate(source: &Server, cluster: &Cluster, flags: &[&str]) {
    let client = source.client().await;
    for number in 0..100 {
        client.put(format!("k/{}", number % 30), format!("{number}")).await;
    }
    let writing = write(client.clone());
    let data = cluster.members[0].dir().join("data");
    let from = source.endpoint();
    let args = ["--from", &from, "--data-dir", text(&data), "--switch-over"];
    let (status, output) = Migration::begin(&[&args[..], flags].concat()).ended().await;
    assert!(status.success() && output.contains("HashKV is equal"), "{output}");
    let last = writing.await.unwrap();
    assert!(last > 101, "{last}");
}

/// All members serve what the source has.
async fn serve_all(cluster: &Cluster, source: &Server) {
    cluster.has_copies_on(0, &[0, 1, 2]).await;
    let theirs = source.client().await;
    let first = theirs.revision().await - 20;
    for client in cluster.clients().await {
        same_history(&theirs, &client, first, true).await;
    }
    cluster.members[1].client().await.put("left/source", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_migrated_into_becomes_three() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let mut cluster = Cluster::prepare_as(Target::Jetway, 1, "http", &[]);
    migrate(&source, &cluster, &[]).await;
    cluster.members[0].restart().await;
    let client = cluster.members[0].client().await;
    for members in 2..=3 {
        let new = cluster.add();
        let request = MemberAddRequest { peer_ur_ls: vec![cluster.peer_url(new)], ..Default::default() };
        let answer = client.unary("/etcdserverpb.Cluster/MemberAdd", request).await;
        let _added: MemberAddResponse = answer.unwrap();
        let all = cluster.list(0..members);
        cluster.set_flags(new, &all, "existing", &[]);
        cluster.members[new].restart().await;
        cluster.has_copies_on(0, &(0..members).collect::<Vec<_>>()).await;
    }
    serve_all(&cluster, &source).await;
}

/// The data goes into one directory. The other members start with empty ones, in any order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_migrated_into() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let mut cluster = Cluster::prepare_as(Target::Jetway, 3, "http", &[]);
    let (all, url) = (cluster.list(0..3), cluster.peer_url(0));
    let flags =
        ["--name", cluster.name(0), "--initial-cluster", &all, "--initial-cluster-token", "of-a-test"];
    migrate(&source, &cluster, &[&flags[..], &["--initial-advertise-peer-urls", &url]].concat()).await;
    for member in [2, 1] {
        cluster.members[member].begin();
        eventually("a member that waits", async || {
            cluster.members[member].log().contains("waiting for the other members").then_some(())
        })
        .await;
    }
    cluster.members[0].begin();
    for member in &mut cluster.members {
        member.is_up().await;
    }
    serve_all(&cluster, &source).await;
}

/// The alarm is that of one member of the source, and another one lifts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fence_of_a_member_that_is_gone_is_lifted() {
    let mut source = Cluster::prepare_as(Target::Etcd, 3, "http", &[]);
    source.start_all().await;
    let client = source.members[1].client().await;
    for lease in 1..=500 {
        client.lease_grant(lease, 3600).await.unwrap();
    }
    // Each lease is asked for under the fence, so many at once.
    let slow = Proxy::to(source.members[0].address(), usize::MAX).await;
    slow.delay(Duration::from_millis(200));
    let (_target, data) = empty();
    let from = format!("{},{}", slow.address, source.members[1].address());
    let migration = Migration::begin(&["--from", &from, "--data-dir", &data, "--switch-over"]);
    eventually("the fence", async || client.put_request(put("k", "1")).await.is_err().then_some(())).await;
    source.members[0].kill9();
    let (status, output) = migration.ended().await;
    assert!(!status.success() && output.contains("once more"), "{output}");
    eventually("a write at the source", async || client.put_request(put("k", "2")).await.ok()).await;
}
