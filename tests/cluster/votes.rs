//! Linearizable reads of a cluster: the votes of most members confirm them, and the log gets no message for
//! them. Without votes a message of the log takes their place.

use std::time::Duration;

use jetway::proto::etcdserverpb::RangeRequest;
use support::client::{Client, get};
use support::cluster::Cluster;
use support::metrics::Metrics;
use support::server::signal;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The barriers that all members have sent.
async fn barriers(cluster: &Cluster) -> f64 {
    let mut all = 0.0;
    for member in &cluster.members {
        all += Metrics::scrape(&member.address()).await.value("jetway_barriers_total", &[]);
    }
    all
}

async fn reads(client: &Client, count: usize) {
    for _ in 0..count {
        assert_eq!(client.kv("k").await.unwrap().value, "v");
    }
}

#[tokio::test]
async fn reads_leave_no_message_in_the_log() {
    let cluster = Cluster::start_jetways(3).await;
    let clients = cluster.clients().await;
    clients[0].put("k", "v").await;
    let leader = cluster.leader(&clients).await;
    let mut before = barriers(&cluster).await;
    for member in (0..3).filter(|member| *member != leader) {
        reads(&clients[member], 100).await;
    }
    let followers = barriers(&cluster).await - before;
    assert!(followers < 10.0, "{followers} barriers for 200 reads through two followers");
    before = barriers(&cluster).await;
    reads(&clients[leader], 200).await;
    // A poll that is late on a busy machine is replaced by a barrier, and so is each one for two seconds.
    let own = barriers(&cluster).await - before;
    assert!(own < 150.0, "{own} barriers for 200 reads through the leader");
}

#[tokio::test]
async fn reads_go_on_where_nobody_votes() {
    let cluster = Cluster::start_jetways(3).await;
    let clients = cluster.clients().await;
    clients[0].put("k", "v").await;
    let leader = cluster.leader(&clients).await;
    let others: Vec<_> = (0..3).filter(|member| *member != leader).collect();
    let before = barriers(&cluster).await;
    for member in &others {
        // Their nats-servers go on, and most of the copies with them.
        signal(cluster.members[*member].pid(), libc::SIGSTOP);
    }
    timeout(Duration::from_secs(60), reads(&clients[leader], 20)).await.expect("reads without votes");
    for member in &others {
        signal(cluster.members[*member].pid(), libc::SIGCONT);
    }
    let barriers = barriers(&cluster).await - before;
    // A record of the writer's own may take the place of a few.
    assert!(barriers >= 10.0, "{barriers} barriers for 20 reads one after the other");
    // Votes come again.
    reads(&clients[others[0]], 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_reads_nothing_old() {
    let cluster = Cluster::start_jetways(3).await;
    let clients = cluster.clients().await;
    for round in 0..3 {
        clients[0].put("k", format!("{round}: old")).await;
        let leader = cluster.leader(&clients).await;
        let stopped = cluster.members[leader].pid();
        signal(stopped, libc::SIGSTOP);
        let new = format!("{round}: new");
        clients[(leader + 1) % 3].put("k", &new).await;
        // They are the first that it finds when it goes on.
        let mut waiting = JoinSet::new();
        for _ in 0..20 {
            let client = clients[leader].clone();
            waiting.spawn(async move { client.range(RangeRequest { limit: 1, ..get("k") }).await });
        }
        // The requests are in its sockets by then.
        tokio::time::sleep(Duration::from_millis(100)).await;
        signal(stopped, libc::SIGCONT);
        let mut answered = 0;
        while let Some(answer) = waiting.join_next().await {
            if let Ok(answer) = answer.unwrap() {
                assert_eq!(answer.kvs[0].value, new, "read through a leader of the past");
                answered += 1;
            }
        }
        println!("round {round}: {answered} of 20 reads are answered");
    }
}
