//! A NATS cluster that looks for its servers.

use std::time::{Duration, Instant};

use crate::access::refused;
use support::eventually;
use support::nats::Nats;
use support::server::Server;

/// Without a majority a start waits for 20 s, and then reports the cause; with one it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_a_cluster_and_reports_that_it_has_no_leader() {
    let mut nodes = Nats::three();
    let routes: Vec<_> = nodes.iter().map(|node| format!("nats://{}", node.route_address())).collect();
    for node in &mut nodes {
        node.set_config(&format!(
            "cluster {{ name: c, listen: \"ROUTE\", routes: [{}] }}",
            routes.join(", ")
        ));
    }
    nodes[0].restart().await;
    let endpoint = nodes[0].endpoint();
    let began = Instant::now();
    let output = refused(&["--endpoint", &endpoint]).await;
    assert!(began.elapsed() > Duration::from_secs(19), "after {:?}: {output}", began.elapsed());
    assert!(
        output.contains("the NATS cluster \"c\" has no leader") && output.contains("majority"),
        "{output}"
    );
    assert!(!output.contains("permitted"), "{output}");

    let mut server = Server::prepare(&["--endpoint", &endpoint]);
    server.begin();
    eventually("the start to wait", async || server.log().contains("cannot be set up yet").then_some(()))
        .await;
    nodes[1].restart().await;
    nodes[2].restart().await;
    let client = server.client().await;
    eventually("a write", async || client.put_request(support::client::put("/k", "v")).await.ok()).await;
}
