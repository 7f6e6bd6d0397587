//! Instances whose NATS server holds less than the others: none of them is ready before it has everything.

use std::sync::Arc;
use std::time::Duration;

use jetway::proto::etcdserverpb::{HashKvRequest, HashKvResponse, RangeRequest};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use support::client::{Client, all, put};
use support::http::http;
use support::nats::Nats;
use support::server::Server;
use support::{eventually, within};

const VALUES: usize = 160;
const VALUE_BYTES: usize = 100_000;

/// The endpoint of an instance that reaches this server only.
fn endpoint(node: &Nats) -> String {
    format!("nats://{}?bucket=test&replicas=3", node.address())
}

async fn fill(clients: &[Client], prefix: &str, values: usize) {
    let value = Arc::new("v".repeat(VALUE_BYTES));
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let (client, value) = (clients[writer % clients.len()].clone(), value.clone());
        let prefix = prefix.to_owned();
        writers.spawn(async move {
            for at in (writer..values).step_by(8) {
                // The writer may be gone with the machine.
                let written = async {
                    while client.put_request(put(format!("{prefix}{at}"), value.as_str())).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                within("a write", written).await;
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
}

/// Asks an instance from before its start on; it answers with everything or not at all. Returns how often it answered.
async fn never_less(address: &str, least: i64, stop: &CancellationToken) -> usize {
    let client = Client::lazy(&format!("http://{address}"));
    let mut answers = 0;
    while !stop.is_cancelled() {
        let count = RangeRequest { serializable: true, count_only: true, ..all("") };
        let asked = tokio::time::timeout(Duration::from_secs(1), client.range(count)).await;
        if let Ok(Ok(answer)) = asked {
            assert!(answer.count >= least, "{address} serves {} of {least} keys", answer.count);
            assert_eq!(http(address, "GET", "/readyz").await.status, 200);
            answers += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    answers
}

async fn starts(server: &mut Server, least: i64) {
    let stop = CancellationToken::new();
    let asking = {
        let (address, stop) = (server.address(), stop.clone());
        tokio::spawn(async move { never_less(&address, least, &stop).await })
    };
    server.restart().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.cancel();
    assert!(within("the last answer", asking).await.unwrap() > 0);
}

async fn hash_alike(clients: &[Client], revisions: impl Iterator<Item = i64>) {
    for revision in revisions {
        let mut hashes = Vec::new();
        for client in clients {
            let request = HashKvRequest { revision };
            let answer: HashKvResponse =
                client.unary("/etcdserverpb.Maintenance/HashKV", request).await.unwrap();
            hashes.push((answer.hash, answer.compact_revision, answer.hash_revision));
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "revision {revision}: {hashes:?}");
    }
}

async fn returns_to_a_lagging_replica(is_wiped: bool) {
    let mut nodes = Nats::cluster().await;
    let mut servers = Vec::new();
    for node in &nodes {
        servers.push(Server::start_with(&["--endpoint", &endpoint(node)]).await);
    }
    let clients = [servers[0].client().await, servers[1].client().await];
    clients[0].put("/before", "").await;
    // A machine goes away, and much is written meanwhile.
    servers[2].kill9();
    nodes[2].kill9();
    if is_wiped {
        std::fs::remove_dir_all(nodes[2].store()).unwrap();
    }
    fill(&clients, "/meanwhile/", VALUES).await;
    nodes[2].restart().await;
    let least = VALUES as i64 + 1;
    starts(&mut servers[2], least).await;
    // So do others that begin while the replica catches up.
    let mut fresh = Server::prepare(&["--endpoint", &endpoint(&nodes[2])]);
    starts(&mut fresh, least).await;
    let mut everybody = clients.to_vec();
    everybody.extend([servers[2].client().await, fresh.client().await]);
    let end = everybody[3].put("/after", "").await;
    for client in &everybody {
        assert_eq!(client.range(all("/meanwhile/")).await.unwrap().kvs.len(), VALUES);
    }
    hash_alike(&everybody, (2..=20).chain((21..end).step_by(40)).chain([end])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_was_away_is_ready_with_everything() {
    returns_to_a_lagging_replica(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_lost_its_disk_is_ready_with_everything() {
    returns_to_a_lagging_replica(true).await;
}

/// A server that stood still hears of everything later than its instance's clients ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stood_still_serves_no_stale_read() {
    let nodes = Nats::cluster().await;
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    for node in &nodes {
        servers.push(Server::start_with(&["--endpoint", &endpoint(node)]).await);
        clients.push(servers.last().unwrap().client().await);
    }
    for (still, node) in nodes.iter().enumerate() {
        let others: Vec<Client> = (0..3).filter(|at| *at != still).map(|at| clients[at].clone()).collect();
        node.signal(libc::SIGSTOP);
        fill(&others[..], &format!("/{still}/"), VALUES / 4).await;
        node.signal(libc::SIGCONT);
        let count = RangeRequest { count_only: true, ..all(format!("/{still}/")) };
        let seen = eventually("a read", async || clients[still].range(count.clone()).await.ok()).await;
        assert_eq!(seen.count, VALUES as i64 / 4);
    }
    let end = clients[0].revision().await;
    hash_alike(&clients, (2..10).chain([end])).await;
}
