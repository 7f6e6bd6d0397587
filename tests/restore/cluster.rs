//! A cluster of three is made anew of one snapshot, as the disaster recovery page of etcd has it.

use std::path::{Path, PathBuf};

use jetway::proto::etcdserverpb::CompactionRequest;
use rand::Rng as _;
use support::client::*;
use support::cluster::Cluster;
use support::eventually;
use support::server::{Server, Target, jetway, peer};
use support::snapshot::{Saved, keys, runs, same_history, text};

use crate::interrupted::{begin, kill_at, large};

/// Flags of a restore for one member, as the page has them.
fn flags(cluster: &Cluster, member: usize) -> Vec<String> {
    let (name, url) = (cluster.name(member).to_owned(), cluster.peer_url(member));
    let all = cluster.list(0..cluster.members.len());
    ["--name", &name, "--initial-cluster", &all, "--initial-cluster-token", "of-the-page"]
        .into_iter()
        .chain(["--initial-advertise-peer-urls", &url])
        .map(str::to_owned)
        .collect()
}

pub fn data(cluster: &Cluster, member: usize) -> PathBuf {
    cluster.members[member].dir().join("data")
}

/// The whole command line of a restore for one member.
pub fn command(cluster: &Cluster, member: usize, file: &Path) -> Vec<String> {
    let place = ["--data-dir".to_owned(), text(&data(cluster, member)).to_owned()];
    let head = ["snapshot", "restore", text(file)].map(str::to_owned);
    head.into_iter().chain(place).chain(flags(cluster, member)).collect()
}

async fn restore(cluster: &Cluster, target: Target, member: usize, file: &Path) -> String {
    let program = match target {
        Target::Jetway => jetway(),
        Target::Etcd => peer("JETWAY_TEST_ETCDUTL", "etcdutl"),
    };
    let args = command(cluster, member, file);
    runs(program, &args.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// The same by jetway.
pub async fn restore_jetway(cluster: &Cluster, member: usize, file: &Path) -> String {
    restore(cluster, Target::Jetway, member, file).await
}

/// Three members that are yet to be started, with the flags of the page: neither the list of members nor the
/// token is among them.
pub fn prepare(target: Target) -> Cluster {
    prepare_with(target, "http", &[])
}

/// The same with a scheme for the peer URLs, and more flags.
fn prepare_with(target: Target, scheme: &'static str, more: &[&str]) -> Cluster {
    let mut cluster = Cluster::prepare_as(target, 3, scheme, &[]);
    for member in 0..3 {
        let (name, url) = (cluster.name(member).to_owned(), cluster.peer_url(member));
        let flags = ["--name", &name, "--listen-peer-urls", &url];
        cluster.members[member].set_args(&[&flags[..], more].concat());
    }
    cluster
}

pub async fn source() -> (Server, Saved) {
    let server = Server::launch(Target::Etcd, &[]).await;
    let client = server.client().await;
    client.lease_grant(7, 600).await.unwrap();
    for value in 0..60 {
        client.put(format!("k/{}", value % 9), format!("{value}")).await;
    }
    client.compact_request(CompactionRequest { revision: 20, physical: true }).await.unwrap();
    let saved = Saved::of(&client).await;
    (server, saved)
}

/// All three members serve the store of the source, and write.
pub async fn serve_all(cluster: &Cluster, source: &Client, floor: i64) {
    let clients = cluster.clients().await;
    for client in &clients {
        same_history(source, client, floor, false).await;
        assert_eq!(client.members().await.unwrap().members.len(), 3);
    }
    cluster.leader(&clients).await;
    cluster.has_copies_on(0, &[0, 1, 2]).await;
    for (member, client) in clients.iter().enumerate() {
        let revision = client.put(format!("from/{member}"), "after the restore").await;
        for other in &clients {
            eventually("the write at each member", async || {
                let answer = other.get(format!("from/{member}")).await.ok()?;
                (answer.kvs.first()?.mod_revision == revision).then_some(())
            })
            .await;
        }
    }
}

async fn a_cluster_is_made_anew(target: Target) {
    let (server, saved) = source().await;
    let mut cluster = prepare(target);
    for member in 0..3 {
        restore(&cluster, target, member, &saved.path()).await;
    }
    // In another order than that of their names.
    for member in [2, 1, 0] {
        cluster.members[member].begin();
    }
    for member in &mut cluster.members {
        member.is_up().await;
    }
    let client = server.client().await;
    serve_all(&cluster, &client, 20).await;
    let copies = cluster.clients().await;
    assert_eq!(copies[1].lease_time_to_live(7, false).await.unwrap().granted_ttl, 600);
    // Each member comes back with the flags of its first start, and two of three are enough.
    for member in 0..3 {
        cluster.members[member].kill9();
        let value = format!("{member}");
        let other = &copies[(member + 1) % 3];
        eventually("a write by two of three", async || {
            other.put_request(put("while/away", &value)).await.ok()
        })
        .await;
        cluster.members[member].restart().await;
        cluster.has_copies_on(member, &[0, 1, 2]).await;
    }
    assert_eq!(keys(&copies[0], 0).await.count, 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jetway_cluster_is_made_anew() {
    a_cluster_is_made_anew(Target::Jetway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_cluster_is_made_anew_by_the_same_commands() {
    a_cluster_is_made_anew(Target::Etcd).await;
}

/// As in etcd, the restore needs no flags of TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_tls_between_its_members_is_made_anew() {
    let (server, saved) = source().await;
    let mut cluster = prepare_with(Target::Jetway, "https", &["--peer-auto-tls"]);
    for member in 0..3 {
        restore(&cluster, Target::Jetway, member, &saved.path()).await;
    }
    cluster.start_all().await;
    serve_all(&cluster, &server.client().await, 20).await;
}

/// Whether the restore of the first member has ended.
fn is_whole(cluster: &Cluster) -> bool {
    let data = data(cluster, 0);
    data.join("cluster.json").exists() && !data.join("unfinished-restore").exists()
}

/// The members without data found no cluster, however long they wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_wait_for_the_one_with_the_data_and_a_restore_in_part_is_never_served() {
    const ROUNDS: usize = 4;
    let (server, saved) = large().await;
    let bytes = std::fs::metadata(saved.path()).unwrap().len();
    let mut cluster = prepare(Target::Jetway);
    for member in [1, 2] {
        let output = restore(&cluster, Target::Jetway, member, &saved.path()).await;
        assert!(output.contains("m1 gets them by this command"), "{output}");
        cluster.members[member].begin();
    }
    let mut refused = 0;
    for round in 0..ROUNDS {
        let args = command(&cluster, 0, &saved.path());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        // One in the first half, when the restore has not ended for certain.
        let at = if round == 0 { bytes / 4 } else { rand::rng().random_range(1..bytes) };
        if !kill_at(begin(&args), &data(&cluster, 0).join("nats/jetstream"), at).await {
            break;
        }
        if is_whole(&cluster) {
            break;
        }
        assert!(!cluster.members[0].ends().await.success());
        let log = cluster.members[0].log();
        assert!(log.contains("broken off; run the same command once more"), "{log}");
        refused += 1;
    }
    assert!(refused > 0, "no restore was killed in the middle");
    for member in [1, 2] {
        assert_eq!(cluster.members[member].has_ended(), None);
        eventually("a line that names the member that is missing", async || {
            let log = cluster.members[member].log();
            (log.contains("waiting for the member that has the restored data") && log.contains("m1"))
                .then_some(())
        })
        .await;
    }
    if !is_whole(&cluster) {
        restore(&cluster, Target::Jetway, 0, &saved.path()).await;
    }
    // The first start is killed as well, at any moment.
    for _ in 0..3 {
        cluster.members[0].begin();
        let pause = rand::rng().random_range(100..3000);
        tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
        cluster.members[0].kill_machine();
    }
    cluster.members[0].begin();
    for member in &mut cluster.members {
        member.is_up().await;
    }
    serve_all(&cluster, &server.client().await, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_another_snapshot_is_refused() {
    let (server, saved) = source().await;
    let client = server.client().await;
    let mut cluster = prepare(Target::Jetway);
    for member in [0, 2] {
        restore(&cluster, Target::Jetway, member, &saved.path()).await;
    }
    client.put("later", "1").await;
    let later = Saved::of(&client).await;
    restore(&cluster, Target::Jetway, 1, &later.path()).await;
    for member in 0..3 {
        cluster.members[member].begin();
    }
    let status = cluster.members[1].ended().await;
    let log = cluster.members[1].log();
    assert!(!status.success() && log.contains("was restored from the snapshot with SHA-256"), "{log}");
    assert!(log.matches("SHA-256").count() >= 2 && log.contains("same file"), "{log}");
    cluster.members[2].is_up().await;
    assert!(cluster.members[2].client().await.get("later").await.unwrap().kvs.is_empty());
    // A second restore does not replace the first one.
    let args = command(&cluster, 1, &saved.path());
    let output = begin(&args.iter().map(String::as_str).collect::<Vec<_>>()).wait_with_output().unwrap();
    let refusal = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && refusal.contains("a restore needs an empty one"), "{refusal}");
    std::fs::remove_dir_all(data(&cluster, 1)).unwrap();
    restore(&cluster, Target::Jetway, 1, &saved.path()).await;
    cluster.members[1].restart().await;
    cluster.has_copies_on(0, &[0, 1, 2]).await;
}

/// A member that was restored with another list of members takes itself for the one with the data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_another_list_of_members_does_not_disturb_those_that_serve() {
    let (_server, saved) = source().await;
    let mut cluster = prepare(Target::Jetway);
    for member in [0, 1] {
        restore(&cluster, Target::Jetway, member, &saved.path()).await;
        cluster.members[member].begin();
    }
    for member in [0, 1] {
        cluster.members[member].is_up().await;
    }
    let client = cluster.members[0].client().await;
    client.put("answered", "1").await;
    let mut args = command(&cluster, 2, &saved.path());
    let at = args.iter().position(|arg| arg == "--initial-cluster").unwrap() + 1;
    args[at] = format!("{}={},x={}", cluster.name(2), cluster.peer_url(2), cluster.peer_url(0));
    runs(jetway(), &args.iter().map(String::as_str).collect::<Vec<_>>()).await;
    cluster.members[2].begin();
    let status = cluster.members[2].ended().await;
    let log = cluster.members[2].log();
    assert!(!status.success() && log.contains("was restored with the members"), "{log}");
    client.put("answered", "2").await;
    // Restored as it should be, it joins them.
    std::fs::remove_dir_all(data(&cluster, 2)).unwrap();
    restore(&cluster, Target::Jetway, 2, &saved.path()).await;
    cluster.members[2].begin();
    cluster.members[2].is_up().await;
    cluster.has_copies_on(0, &[0, 1, 2]).await;
    assert_eq!(cluster.members[2].client().await.get("answered").await.unwrap().kvs[0].value, "2");
}
