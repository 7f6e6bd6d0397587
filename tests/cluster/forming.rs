//! A cluster forms, loses members, and goes on.

use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::{CompactionRequest, HashKvRequest};
use support::client::{Client, put};
use support::cluster::Cluster;
use support::eventually;
use support::server::Target;

/// The hash of each member at one revision is the same.
pub async fn all_hold_the_same(clients: &[Client]) {
    let revision = clients[0].revision().await;
    let mut hashes = Vec::new();
    for client in clients {
        let hash = eventually("a member that holds the revision", async || {
            let request = HashKvRequest { revision };
            client.unary("/etcdserverpb.Maintenance/HashKV", request).await.ok()
        })
        .await;
        let hash: jetway::proto::etcdserverpb::HashKvResponse = hash;
        hashes.push(hash.hash);
    }
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?} at {revision}");
}

/// Writes until one is answered. Returns how long that took.
pub async fn writes_again(client: &Client) -> Duration {
    let begun = Instant::now();
    eventually("a write", async || client.put_request(put("/probe", "")).await.ok()).await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_with_etcds_flags_are_one_etcd() {
    let cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    for (member, client) in clients.iter().enumerate() {
        client.put(format!("/from/{member}"), "value").await;
    }
    for client in &clients {
        assert_eq!(client.list("/from/").await.len(), 3);
    }
    let leader = cluster.leader(&clients).await;
    assert!(leader < 3);
    all_hold_the_same(&clients).await;
    let mut members = eventually("client URLs of all members", async || {
        let members = clients[1].members().await.ok()?.members;
        members.iter().all(|member| !member.client_ur_ls.is_empty()).then_some(members)
    })
    .await;
    members.sort_by(|one, other| one.name.cmp(&other.name));
    let shown: Vec<_> = members
        .iter()
        .map(|member| (member.name.clone(), member.peer_ur_ls.clone(), member.client_ur_ls.clone()))
        .collect();
    let started: Vec<_> = (0..3)
        .map(|of| {
            (cluster.name(of).to_owned(), vec![cluster.peer_url(of)], vec![cluster.members[of].endpoint()])
        })
        .collect();
    assert_eq!(shown, started);
    for (member, client) in clients.iter().enumerate() {
        let id = client.status().await.unwrap().header.unwrap().member_id;
        assert_eq!(id, members[member].id, "each member answers under its own id");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nats_server_of_a_member_collects_late_and_leaves_half_of_the_cores_to_others() {
    let cluster = Cluster::start_jetways(3).await;
    let cores = std::thread::available_parallelism().unwrap().get();
    let expected = [format!("GOMAXPROCS={}", (cores / 2).max(1)), "GOGC=200".to_owned()];
    for member in &cluster.members {
        let environment = std::fs::read(format!("/proc/{}/environ", member.nats_pid())).unwrap();
        let environment = String::from_utf8(environment).unwrap();
        for expected in &expected {
            assert!(environment.split('\0').any(|variable| variable == expected), "{environment:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_outlives_each_of_its_members() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    for round in 0..3 {
        let dead = if round == 0 { cluster.leader(&clients).await } else { round };
        let other = (dead + 1) % 3;
        cluster.members[dead].kill9();
        println!("round {round}: a write after {:?}", writes_again(&clients[other]).await);
        let written = clients[other].put("/while/away", round.to_string()).await;
        cluster.members[dead].restart().await;
        let read = clients[dead].get("/while/away").await.unwrap();
        assert_eq!(
            (&read.kvs[0].value[..], read.kvs[0].mod_revision),
            (round.to_string().as_bytes(), written)
        );
        all_hold_the_same(&clients).await;
        assert_eq!(clients[other].members().await.unwrap().members.len(), 3);
    }
}

/// A machine that is cut off takes its nats-server along, which cannot hand its leadership over. NATS elects
/// a new leader after four to nine seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_outlives_a_whole_machine() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    let dead = cluster.leader(&clients).await;
    clients[dead].put("/before", "kept").await;
    cluster.members[dead].kill_machine();
    let gap = writes_again(&clients[(dead + 1) % 3]).await;
    println!("a write {gap:?} after the machine of the leader was gone");
    assert!(gap < Duration::from_secs(20), "{gap:?}");
    let read = clients[(dead + 2) % 3].get("/before").await.unwrap();
    assert_eq!(&read.kvs[0].value[..], b"kept");
    cluster.members[dead].restart().await;
    all_hold_the_same(&clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_start_one_after_the_other_wait_for_each_other() {
    let mut cluster = Cluster::prepare(3);
    cluster.members[0].begin();
    eventually("the first member to wait", async || {
        cluster.members[0].log().contains("waiting for the other members").then_some(())
    })
    .await;
    cluster.members[1].begin();
    cluster.members[2].begin();
    for member in &mut cluster.members {
        member.is_up().await;
    }
    all_hold_the_same(&cluster.clients().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_at_once_stop_and_start_again() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    let mut last = 0;
    for key in 0..50 {
        last = clients[key % 3].put(format!("/k/{key}"), "value").await;
    }
    for member in &mut cluster.members {
        member.kill9();
    }
    cluster.start_all().await;
    assert!(clients[2].revision().await >= last);
    assert_eq!(clients[1].list("/k/").await.len(), 50);
    all_hold_the_same(&clients).await;
    for member in &mut cluster.members {
        assert!(member.stop().await.success());
    }
}

/// A compaction removes records of members that newer ones have replaced, too: part of the batch that
/// founded the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_cluster_starts_again() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    eventually("client URLs of all members", async || {
        let members = clients[1].members().await.ok()?.members;
        members.iter().all(|member| !member.client_ur_ls.is_empty()).then_some(())
    })
    .await;
    let mut last = 0;
    for round in 0..30 {
        last = clients[round % 3].put("/again", round.to_string()).await;
    }
    let request = CompactionRequest { revision: last, physical: true };
    clients[0].compact_request(request).await.unwrap();
    for member in &mut cluster.members {
        member.kill9();
    }
    cluster.start_all().await;
    assert_eq!(clients[2].members().await.unwrap().members.len(), 3);
    assert_eq!(clients[1].list("/again").await.len(), 1);
    all_hold_the_same(&clients).await;
}

/// A founding member with another token is kept out. Both sides name the flag, and nats-server's own lines of
/// each attempt are left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founding_member_with_another_token_is_named() {
    let mut cluster = Cluster::prepare_as(Target::Jetway, 3, "http", &[]);
    let all = cluster.list(0..3);
    cluster.set_flags(2, &all, "new", &["--initial-cluster-token", "mistyped"]);
    for member in &mut cluster.members {
        member.begin();
    }
    for (member, words) in [(0, "this member refuses another one"), (2, "another member refuses this one")] {
        let line = eventually(words, async || {
            let log = cluster.members[member].log();
            log.lines().find(|line| line.contains(words)).map(str::to_owned)
        })
        .await;
        assert!(line.contains("WARN") && line.contains("--initial-cluster-token"), "{line}");
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    for member in &cluster.members {
        let log = member.log();
        let grave = log.lines().filter(|line| line.contains("ERROR"));
        let of_attempts =
            grave.filter(|line| line.contains("uthorization") || line.contains("authentication"));
        assert_eq!(of_attempts.count(), 0, "{log}");
        assert!(log.matches("--initial-cluster-token").count() <= 2, "{log}");
    }
}
