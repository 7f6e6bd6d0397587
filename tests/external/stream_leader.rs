//! The server that the writer is connected to leads the stream.

use serde_json::{Value, json};

use crate::group::Group;
use crate::instances::instances;
use crate::rights::{printed, user};
use crate::writer::ALL;
use support::eventually;
use support::nats::Nats;
use support::traffic::Traffic;

async fn leader(nats: &Nats) -> Option<String> {
    let info = nats.api("STREAM.INFO.KV_test", &Value::Null).await;
    info["cluster"]["leader"].as_str().map(str::to_owned)
}

/// Lets another server lead. It must have all for that, and so it is asked again.
async fn give_to(nats: &Nats, server: &str) {
    eventually("another leader of the stream", async || {
        let to = json!({ "placement": { "preferred": server } });
        nats.api("STREAM.LEADER.STEPDOWN.KV_test", &to).await;
        (leader(nats).await? == server).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writer_takes_the_stream_to_its_server() {
    let group = Group::over_three().await;
    // All connections begin with the first server of the endpoint.
    let first = group.nodes[0].name();
    eventually("the writer's server leads", async || (leader(&group.nodes[1]).await? == first).then_some(()))
        .await;
    let traffic = Traffic::begin(&group.clients).await;
    group.writer(ALL).await;
    give_to(&group.nodes[1], group.nodes[2].name()).await;
    eventually("it leads again", async || (leader(&group.nodes[1]).await? == first).then_some(())).await;
    traffic.more_through_each().await;
    traffic.none_failed(ALL).await;
    traffic.end(&group.clients.iter().collect::<Vec<_>>()).await;
}

/// The right to move the leader is not needed for anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_may_not_take_the_stream_writes_to_the_server_that_leads() {
    let rights = printed(&["--bucket", "test"]);
    let fewer = rights.replace("\"$JS.API.STREAM.LEADER.STEPDOWN.KV_test\",", "");
    assert_ne!(fewer, rights);
    let mut nodes = Nats::three();
    let addresses = nodes.each_ref().map(Nats::route_address);
    let users = user(&fewer).replace("users: [", "users: [ { user: operator, password: pw },");
    let more = format!("}}\nno_auth_user: operator\n{}", users.trim_end_matches('}'));
    Nats::join(&mut nodes, &more, |_, to| addresses[to].clone()).await;
    let endpoint = format!("nats://jw:pw@{}?bucket=test&replicas=3", nodes[0].address());
    let (servers, clients) = instances(&endpoint, 1).await;
    // One that may move the leader has done so before.
    give_to(&nodes[1], nodes[2].name()).await;
    eventually("the refusal in the log", async || {
        servers[0].log().contains("another server than the writer's may lead the stream").then_some(())
    })
    .await;
    clients[0].put("/k", "v").await;
    assert_eq!(leader(&nodes[1]).await.as_deref(), Some(nodes[2].name()));
    let warnings = servers[0].log().lines().filter(|line| line.contains("STEPDOWN")).count();
    assert_eq!(warnings, 2, "{}", servers[0].log());
}
