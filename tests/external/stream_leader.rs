//! The stream gets another leader while records are in flight, which nats-server does not answer then.

use std::time::{Duration, Instant};

use serde_json::json;
use support::nats::Nats;
use support::server::Server;
use support::traffic::{Load, Traffic};
use support::within_time;

/// Far longer than it takes to find the new leader and to read what it has.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(40);
/// NATS itself may look for a leader for a second.
const LIMIT: Duration = Duration::from_secs(15);

/// Calls do not wait for an election timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_the_last_leader_dropped_are_noticed() {
    let nodes = Nats::cluster().await;
    let hosts: Vec<String> = nodes.iter().map(Nats::address).collect();
    let endpoint = format!("nats://{}?bucket=test&replicas=3", hosts.join(","));
    let timeout = ELECTION_TIMEOUT.as_millis().to_string();
    let server = Server::start_with(&["--endpoint", &endpoint, "--election-timeout", &timeout]).await;
    let client = server.client().await;
    let load = Load { writers: 30, through: &[0], pause: Duration::ZERO, ..Load::LIGHT };
    let traffic = Traffic::begin_with(std::slice::from_ref(&client), load).await;
    let begun = Instant::now();
    for round in 0..30 {
        // So many that the leader was looked at since the last change.
        for _ in 0..5 {
            traffic.more().await;
        }
        let placement = json!({ "placement": { "preferred": nodes[round % 3].name() } });
        nodes[0].api("STREAM.LEADER.STEPDOWN.KV_test", &placement).await;
        within_time(LIMIT, "writes after a change of the stream's leader", traffic.more()).await;
    }
    println!("{}", traffic.figures(begun).await);
    traffic.none_failed(&[0]).await;
    traffic.end(&[&client]).await;
}
