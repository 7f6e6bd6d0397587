//! Embedded servers as leaf nodes of a hub that others run.

use std::fs;

use serde_json::json;

use crate::instances::reads_are_fresh;
use support::client::all;
use support::eventually;
use support::nats::Nats;
use support::server::Server;

/// Both leaves can be reached from the hub at once, each in its own domain.
async fn both_are_there(hub: &Nats) {
    for domain in ["a", "b", "a"] {
        let streams = eventually("the leaf", async || hub.streams_of_domain(domain).await).await;
        assert_eq!(streams, json!(["KV_jetway"]), "{domain}");
    }
}

/// Two embedded servers at one hub. They go on while the hub is away, and find it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_servers_are_leaves_of_one_hub_and_outlive_its_absence() {
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
    for (at, client) in clients.iter().enumerate() {
        for key in 0..500 {
            client.put(format!("/away/{key}"), at.to_string()).await;
        }
        reads_are_fresh(std::slice::from_ref(client), 5).await;
    }
    // A leaf starts without its hub as well.
    servers[1].stop().await;
    servers[1].restart().await;
    hub.restart().await;
    both_are_there(&hub).await;
    for (at, server) in servers.iter().enumerate() {
        let client = server.client().await;
        assert_eq!(client.kv("/own").await.unwrap().value, at.to_string(), "the stores are apart");
        assert_eq!(client.range(all("/away/")).await.unwrap().count, 500);
    }
    assert!(!hub.log().to_lowercase().contains("duplicate"), "{}", hub.log());
    servers[0].stop().await;
}
