//! A member that does not belong to a cluster, or whose data does not, is refused before its data is touched.
//! All of it is for jetway alone: etcd checks less.

use support::cluster::Cluster;
use support::server::{Server, Target};

use super::members::{add, started, until_permitted};

#[tokio::test]
async fn data_belongs_to_one_member_of_one_cluster() {
    let mut cluster = Cluster::start_jetways(3).await;
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
    let mut server = Server::launch(Target::Jetway, &[]).await;
    server.client().await.put("/kept", "value").await;
    server.stop().await;
    let mut cluster = Cluster::prepare_as(Target::Jetway, 3, "http", &[]);
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

/// A member with another token is kept out by the others, and ends.
#[tokio::test]
async fn a_stranger_stays_out() {
    let mut cluster = Cluster::start_jetways(3).await;
    let stranger = cluster.add();
    let list = cluster.list(0..4);
    cluster.set_flags(stranger, &list, "existing", &["--initial-cluster-token", "guessed"]);
    assert!(!cluster.members[stranger].ends().await.success());
    let log = cluster.members[stranger].log();
    assert!(log.contains("Authorization Violation") && log.contains("--initial-cluster-token"), "{log}");
    let clients = cluster.members[0].client().await;
    assert_eq!(clients.members().await.unwrap().members.len(), 3);
}

/// One that joins ends as etcd does if no member answers, or if the others do not know it. Nothing keeps it
/// from starting once it was added.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_not_added_ends() {
    let mut cluster = Cluster::prepare(3);
    let fourth = cluster.add();
    let list = cluster.list(0..4);
    cluster.set_flags(fourth, &list, "existing", &[]);
    assert_eq!(cluster.members[fourth].ends().await.code(), Some(1));
    let words = "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs";
    assert!(cluster.members[fourth].log().contains(words), "{}", cluster.members[fourth].log());

    for member in 0..3 {
        cluster.members[member].begin();
    }
    for member in 0..3 {
        cluster.members[member].is_up().await;
        let client = cluster.members[member].client().await;
        started(&client, cluster.name(member)).await;
    }
    assert_eq!(cluster.members[fourth].ends().await.code(), Some(1));
    let log = cluster.members[fourth].log();
    assert!(log.contains("error validating peerURLs") && log.contains("member count is unequal"), "{log}");
    assert!(!log.contains("ready to serve"), "{log}");

    let clients = [cluster.members[0].client().await, cluster.members[1].client().await];
    let url = cluster.peer_url(fourth);
    until_permitted(async || add(&clients[0], &url, false).await).await;
    // As many members as there are, of which one is another one's.
    let mut wrong = cluster.list([0, 1, 3]);
    wrong += ",m3=http://127.0.0.1:9";
    cluster.set_flags(fourth, &wrong, "existing", &[]);
    assert_eq!(cluster.members[fourth].ends().await.code(), Some(1));
    let log = cluster.members[fourth].log();
    assert!(log.contains("PeerURLs: no match found for existing member"), "{log}");
    cluster.set_flags(fourth, &list, "existing", &[]);
    cluster.members[fourth].restart().await;
    let member = started(&clients[1], cluster.name(fourth)).await;
    assert_eq!(member.peer_ur_ls, [url]);
}

/// A process with an empty data directory does not serve as a member of which another process runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_of_a_member_ends() {
    let mut cluster = Cluster::start_jetways(3).await;
    let clients = cluster.clients().await;
    for member in 0..3 {
        started(&clients[0], cluster.name(member)).await;
    }
    let second = cluster.add();
    let (list, listen, advertise) = (cluster.list(0..3), cluster.peer_url(second), cluster.peer_url(0));
    // etcd takes it in with the state existing, and both answer under one id.
    for state in ["new", "existing"] {
        cluster.members[second].set_args(&[
            "--name",
            "m1",
            "--listen-peer-urls",
            &listen,
            "--initial-advertise-peer-urls",
            &advertise,
            "--initial-cluster",
            &list,
            "--initial-cluster-state",
            state,
            "--initial-cluster-token",
            "of-a-test",
        ]);
        assert_eq!(cluster.members[second].ends().await.code(), Some(1), "{state}");
        let log = cluster.members[second].log();
        assert!(log.contains("has already been bootstrapped"), "{state}: {log}");
        assert!(!log.contains("ready to serve"), "{log}");
    }
    for client in &clients {
        client.put("/still", "served").await;
    }
}

/// One that nobody added does not found a cluster beside the one that there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_of_an_old_cluster_ends() {
    let mut cluster = Cluster::start_jetways(3).await;
    let fourth = cluster.add();
    let list = cluster.list(0..4);
    cluster.set_flags(fourth, &list, "new", &[]);
    assert_eq!(cluster.members[fourth].ends().await.code(), Some(1));
    let log = cluster.members[fourth].log();
    assert!(log.contains("without \"m4\"") && log.contains("etcdctl member add"), "{log}");
}
