//! Members of a cluster that is made anew, of which the restores do not fit each other.

use support::client::*;
use support::cluster::Cluster;
use support::server::jetway;
use support::snapshot::runs;

use crate::cluster::{command, data, prepare, restore_jetway as restore, serve_all, source};

/// Restores a member with the members of another list.
async fn restore_with(cluster: &Cluster, member: usize, list: &str, file: &std::path::Path) {
    let mut args = command(cluster, member, file);
    let at = args.iter().position(|arg| arg == "--initial-cluster").unwrap() + 1;
    args[at] = list.to_owned();
    runs(jetway(), &args.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// The first member was restored for all three, the others for the two of them. Nobody has started before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_with_other_lists_that_start_at_once_are_refused_before_any_harm() {
    let (server, saved) = source().await;
    let mut cluster = prepare(support::server::Target::Jetway);
    restore(&cluster, 0, &saved.path()).await;
    let others = cluster.list(1..3);
    for member in [1, 2] {
        restore_with(&cluster, member, &others, &saved.path()).await;
    }
    for member in 0..3 {
        cluster.members[member].begin();
    }
    for member in [1, 2] {
        let status = cluster.members[member].ended().await;
        let log = cluster.members[member].log();
        assert!(!status.success() && log.contains("was restored with the members m2,m3"), "{log}");
        assert!(log.contains("the same --initial-cluster for each member"), "{log}");
    }
    assert_eq!(cluster.members[0].has_ended(), None);
    // The remedy.
    for member in [1, 2] {
        std::fs::remove_dir_all(data(&cluster, member)).unwrap();
        restore(&cluster, member, &saved.path()).await;
        cluster.members[member].begin();
    }
    for member in &mut cluster.members {
        member.is_up().await;
    }
    serve_all(&cluster, &server.client().await, 20).await;
}

/// The member with the data is restored once more, from the same file, while the others serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_restored_again_does_not_disturb_those_that_serve() {
    let (server, saved) = source().await;
    let mut cluster = prepare(support::server::Target::Jetway);
    for member in 0..3 {
        restore(&cluster, member, &saved.path()).await;
        cluster.members[member].begin();
    }
    for member in &mut cluster.members {
        member.is_up().await;
    }
    cluster.has_copies_on(0, &[0, 1, 2]).await;
    let client = cluster.members[1].client().await;
    client.put("answered", "1").await;
    cluster.members[0].kill9();
    std::fs::remove_dir_all(data(&cluster, 0)).unwrap();
    restore(&cluster, 0, &saved.path()).await;
    assert!(!cluster.members[0].ends().await.success());
    let log = cluster.members[0].log();
    assert!(log.contains("what was restored once more for \"m1\" is not their data"), "{log}");
    support::eventually("a write by those that serve", async || {
        client.put_request(put("answered", "2")).await.ok()
    })
    .await;
    // The remedy: its flags name the members now, as its directory does not.
    std::fs::remove_dir_all(data(&cluster, 0)).unwrap();
    let all = cluster.list(0..3);
    cluster.set_flags(0, &all, "existing", &["--initial-cluster-token", "of-the-page"]);
    cluster.members[0].begin();
    cluster.members[0].is_up().await;
    cluster.has_copies_on(0, &[0, 1, 2]).await;
    assert_eq!(cluster.members[0].client().await.get("answered").await.unwrap().kvs[0].value, "2");
    drop(server);
}
