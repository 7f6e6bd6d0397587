//! Embedded servers as leaf nodes of a hub that others run.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::instances::reads_are_fresh;
use support::client::all;
use support::eventually;
use support::nats::Nats;
use support::rounds;
use support::server::Server;

/// Both leaves can be reached from the hub at once, each in its own domain.
async fn both_are_there(hub: &Nats) {
    for domain in ["a", "b", "a"] {
        let streams = eventually("the leaf", async || hub.streams_of_domain(domain).await).await;
        assert_eq!(streams, json!(["KV_jetway"]), "{domain}");
    }
}

/// Two embedded servers at one hub, which is away for as long as `away` takes.
async fn leaves_outlive_the_absence_of_their_hub(away: Duration) {
    let config = "jetstream { store_dir: \"DIR/store\", domain: hub }\nleafnodes { listen: \"ROUTE\" }";
    let mut hub = Nats::start_with(config).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("leaf.conf");
    let leaf = format!("leafnodes {{ remotes: [ {{ url: \"nats-leaf://{}\" }} ] }}\n", hub.route_address());
    fs::write(&file, &leaf).unwrap();
    let with_domain = dir.path().join("domain.conf");
    fs::write(&with_domain, format!("{leaf}jetstream {{ domain: b }}\n")).unwrap();
    let mut servers = [
        Server::start_with(&["--nats-config", file.to_str().unwrap(), "--nats-js-domain", "a"]).await,
        // kine's spelling of the same.
        Server::start_with(&["--endpoint", &format!("nats://?serverConfig={}", with_domain.display())]).await,
    ];
    both_are_there(&hub).await;
    let clients = [servers[0].client().await, servers[1].client().await];
    for (at, client) in clients.iter().enumerate() {
        client.put("/own", at.to_string()).await;
    }
    hub.stop().await;
    let until = Instant::now() + away;
    let mut written = 0;
    while written < 500 || Instant::now() < until {
        for (at, client) in clients.iter().enumerate() {
            // Each write is answered, the whole time.
            client.put(format!("/away/{written}"), at.to_string()).await;
            if written % 100 == 0 {
                reads_are_fresh(std::slice::from_ref(client), 5).await;
            }
        }
        written += 1;
        if written > 500 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    println!("{written} writes of each leaf while the hub was away");
    // A leaf starts without its hub as well.
    servers[1].stop().await;
    servers[1].restart().await;
    hub.restart().await;
    both_are_there(&hub).await;
    for (at, server) in servers.iter().enumerate() {
        let client = server.client().await;
        assert_eq!(client.kv("/own").await.unwrap().value, at.to_string(), "the stores are apart");
        assert_eq!(client.range(all("/away/")).await.unwrap().count, written);
    }
    assert!(!hub.log().to_lowercase().contains("duplicate"), "{}", hub.log());
    servers[0].stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_servers_are_leaves_of_one_hub_and_outlive_its_absence() {
    leaves_outlive_the_absence_of_their_hub(Duration::ZERO).await;
}

/// Each round is a minute of absence, in one piece.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute a round: make faults"]
async fn leaves_outlive_a_long_absence_of_their_hub() {
    leaves_outlive_the_absence_of_their_hub(Duration::from_secs(60 * rounds(3) as u64)).await;
}
