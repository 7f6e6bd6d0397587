//! A member that does not belong to a cluster, or whose data does not, is refused before its data is touched.

use support::cluster::Cluster;
use support::server::{Server, Target};

/// Whether this build of the tests runs against jetway. etcd checks less.
fn is_jetway() -> bool {
    Target::from_env() == Target::Jetway
}

#[tokio::test]
async fn data_belongs_to_one_member_of_one_cluster() {
    if !is_jetway() {
        return;
    }
    let mut cluster = Cluster::start(3).await;
    let list = cluster.list(0..3);
    cluster.members[0].stop().await;
    for (flags, words) in [
        (["--initial-cluster-token", "a-secret"], "--initial-cluster-token"),
        (["--name", "m2"], "member \"m1\""),
    ] {
        cluster.set_flags(0, &list, "new", &flags);
        assert!(!cluster.members[0].ends().await.success());
        let log = cluster.members[0].log();
        assert!(log.contains(words) && log.contains("--data-dir"), "{flags:?}: {log}");
        assert!(!log.contains("a-secret"), "the token is in the log: {log}");
    }
    // The flags that found a cluster need not be given again, as with etcd.
    let (listen, advertise) = (cluster.peer_url(0), cluster.peer_url(0));
    cluster.members[0].set_args(&[
        "--name",
        "m1",
        "--listen-peer-urls",
        &listen,
        "--initial-advertise-peer-urls",
        &advertise,
        "--initial-cluster-token",
        "of-a-test",
    ]);
    cluster.members[0].restart().await;
    cluster.members[0].client().await.put("/a", "b").await;
}

#[tokio::test]
async fn the_data_of_a_server_of_its_own_is_not_taken_into_a_cluster() {
    if !is_jetway() {
        return;
    }
    let mut server = Server::start().await;
    server.client().await.put("/kept", "value").await;
    server.stop().await;
    let mut cluster = Cluster::prepare(3);
    let peer = cluster.peer_url(0);
    let list = cluster.list(0..3);
    let flags = ["--name", "m1", "--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer];
    server.set_args(&[&flags[..], &["--initial-cluster", &list]].concat());
    assert!(!server.ends().await.success());
    let log = server.log();
    assert!(log.contains("created standalone"), "{log}");
    server.set_args(&[]);
    server.restart().await;
    assert_eq!(server.client().await.list("/kept").await.len(), 1);
    // Nor is that of a member served alone.
    cluster.start_all().await;
}

/// A member with another token is kept out by the others, and logs that it waits.
#[tokio::test]
async fn a_stranger_stays_out() {
    if !is_jetway() {
        return;
    }
    let mut cluster = Cluster::start(3).await;
    let stranger = cluster.add();
    let list = cluster.list(0..4);
    cluster.set_flags(stranger, &list, "existing", &["--initial-cluster-token", "guessed"]);
    cluster.members[stranger].begin();
    let refused = support::eventually("a refusal in the log", async || {
        let log = cluster.members[stranger].log();
        (log.contains("Authorization Violation") && log.contains("waiting for the other members"))
            .then_some(())
    });
    refused.await;
    let clients = cluster.members[0].client().await;
    assert_eq!(clients.members().await.unwrap().members.len(), 3);
}
