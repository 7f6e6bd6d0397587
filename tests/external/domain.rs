//! A bucket in another JetStream domain, and one in another account.

use crate::instances::reads_are_fresh;
use support::client::all;
use support::nats::Nats;
use support::server::Server;

/// Two instances with more flags, which write and read.
async fn serve(endpoint: &str, flags: &[&str]) {
    let start = async |name| {
        let args = [&["--endpoint", endpoint, "--name", name], flags].concat();
        Server::start_with(&args).await
    };
    let mut servers = [start("a").await, start("b").await];
    let clients = [servers[0].client().await, servers[1].client().await];
    reads_are_fresh(&clients, 20).await;
    for at in 0..500 {
        clients[at % 2].put(format!("/all/{at}"), "v".repeat(100)).await;
    }
    servers[1].stop().await;
    servers[1].restart().await;
    let client = servers[1].client().await;
    assert_eq!(client.range(all("/all/")).await.unwrap().count, 500);
    client.put("/all/0", "w").await;
    for server in &servers {
        assert!(!server.log().contains("ermissions"), "{}", server.log());
    }
}

/// The instances are at a leaf, and the bucket is in the domain of the hub.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_in_the_domain_of_a_hub() {
    let hub = "jetstream { store_dir: \"DIR/store\", domain: hub }\nleafnodes { listen: \"ROUTE\" }";
    let hub = Nats::start_with(hub).await;
    let leaf = Nats::start_with(&format!(
        "jetstream {{ store_dir: \"DIR/store\", domain: leaf }}\n\
         leafnodes {{ remotes: [ {{ url: \"nats-leaf://{}\" }} ] }}",
        hub.route_address()
    ))
    .await;
    serve(&leaf.endpoint(), &["--nats-js-domain", "hub"]).await;
    let streams = hub.api("STREAM.NAMES", &serde_json::Value::Null).await;
    assert_eq!(streams["streams"], serde_json::json!(["KV_test"]));
    assert!(leaf.api("STREAM.NAMES", &serde_json::Value::Null).await["streams"].is_null());
}

/// The bucket is in an account that exports its JetStream, and the instances are in another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_in_another_account() {
    let config = r#"
        accounts {
          DATA {
            jetstream: enabled, users: [ { user: data, password: data } ]
            exports: [
              { service: "$JS.API.>" }, { service: "$KV.test.>" }, { service: "$JS.FC.KV_test.>" }
              { stream: "jw.inbox.>" }
            ]
          }
          APP {
            users: [ { user: app, password: app } ]
            imports: [
              { service: { account: DATA, subject: "$JS.API.>" }, to: "data.API.>" }
              { service: { account: DATA, subject: "$KV.test.>" }, to: "data.API.$KV.test.>" }
              { service: { account: DATA, subject: "$JS.FC.KV_test.>" } }
              { stream: { account: DATA, subject: "jw.inbox.>" } }
            ]
          }
        }"#;
    let nats = Nats::start_with(config).await;
    let endpoint = format!("nats://app:app@{}?bucket=test", nats.address());
    serve(&endpoint, &["--nats-js-api-prefix", "data.API", "--nats-inbox-prefix", "jw.inbox"]).await;
}
