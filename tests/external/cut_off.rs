//! A NATS server that its cluster has lost, and a stream without a leader, as the clients of instances see
//! them.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::cluster::leader;
use crate::instances::{instances, reads_are_fresh};
use crate::routes::Routes;
use support::client::{Client, get, put};
use support::nats::Nats;
use support::{catches_up, eventually};

/// Each server in turn is cut off from the others while the instances can still reach it. No instance stays
/// on it.
async fn none_stays_on_a_server_that_is_cut_off(count: usize) {
    let nodes = Routes::start().await;
    let hosts: Vec<String> = nodes.iter().map(Nats::address).collect();
    let endpoint = format!("nats://{}?bucket=test&replicas=3", hosts.join(","));
    let (_servers, clients) = instances(&endpoint, count).await;
    for at in 0..nodes.len() {
        leader(&nodes[..]).await;
        reads_are_fresh(&clients, 3).await;
        nodes.cut(at);
        let cut = Instant::now();
        for client in &clients {
            let written = async || client.put_request(put("/k", at.to_string())).await.ok();
            // The server that was mended last may have to catch up before it makes a majority.
            catches_up("a write while a server is cut off", written).await;
            println!("server {at}: writes {:?} after the cut", cut.elapsed());
        }
        for client in &clients {
            let read = eventually("a read", async || client.get("/k").await.ok()).await;
            assert_eq!(read.kvs[0].value, at.to_string());
        }
        nodes.mend(at);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_leaves_a_server_that_is_cut_off() {
    none_stays_on_a_server_that_is_cut_off(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_leave_a_server_that_is_cut_off() {
    none_stays_on_a_server_that_is_cut_off(3).await;
}

/// The first server of the endpoint is cut off before an instance starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_starts_while_the_first_server_is_cut_off() {
    let nodes = Routes::start().await;
    let hosts: Vec<String> = nodes.iter().map(Nats::address).collect();
    let endpoint = format!("nats://{}?bucket=test&replicas=3", hosts.join(","));
    let (mut servers, clients) = instances(&endpoint, 1).await;
    clients[0].put("/k", "v").await;
    leader(&nodes[..]).await;
    servers[0].stop().await;
    nodes.cut(0);
    servers[0].restart().await;
    let client = servers[0].client().await;
    let written = async || client.put_request(put("/k", "w")).await.ok();
    eventually("a write", written).await;
    assert_eq!(client.kv("/k").await.unwrap().value, "w");
}

/// One call of each kind that needs the stream, with its answer and the time that it took.
fn calls(client: &Client) -> JoinSet<(&'static str, Result<(), Status>, Duration)> {
    let mut calls = JoinSet::new();
    let begun = Instant::now();
    let asked = client.clone();
    calls.spawn(async move { ("put", asked.put_request(put("/k", "v")).await.map(drop), begun.elapsed()) });
    let asked = client.clone();
    calls.spawn(async move { ("get", asked.range(get("/k")).await.map(drop), begun.elapsed()) });
    let asked = client.clone();
    calls.spawn(async move { ("grant", asked.lease_grant(0, 60).await.map(drop), begun.elapsed()) });
    calls
}

/// While the stream has no leader, calls wait for one as long as in etcd. The refusal after that does not say
/// of a read that it was not written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_for_a_leader_of_the_stream() {
    let mut nodes = Nats::cluster().await;
    let hosts: Vec<String> = nodes.iter().map(Nats::address).collect();
    let endpoint = format!("nats://{}?bucket=test&replicas=3", hosts.join(","));
    let (_servers, clients) = instances(&endpoint, 1).await;
    let client = &clients[0];
    client.put("/k", "v").await;
    let at = leader(&nodes).await;
    let others = [(at + 1) % 3, (at + 2) % 3];
    for other in others {
        nodes[other].kill9();
    }
    let mut asked = calls(client);
    let mut refused = 0;
    while let Some(call) = asked.join_next().await {
        let (name, answer, took) = call.unwrap();
        let status = answer.expect_err("no majority stores anything");
        println!("{name} after {took:?}: {status}");
        assert!(took > Duration::from_millis(6500), "{name} does not wait: {took:?}");
        assert_eq!(status.code(), Code::Unavailable, "{name}: {status}");
        // The instance looks for a server with a leader, and may find one that was killed.
        let words = ["jetway: there is no writer now: ", "jetway: NATS is unreachable: "];
        assert!(words.iter().any(|words| status.message().starts_with(words)), "{name}: {status}");
        refused += 1;
    }
    assert_eq!(refused, 3);
    let mut asked = calls(client);
    for other in others {
        nodes[other].restart().await;
    }
    while let Some(call) = asked.join_next().await {
        let (name, answer, took) = call.unwrap();
        println!("{name} after {took:?}: {answer:?}");
        // A busy machine may need longer for the election than a call waits.
        assert!(answer.is_ok() || took > Duration::from_millis(6500), "{name} does not wait: {answer:?}");
    }
    eventually("a write", async || client.put_request(put("/k", "w")).await.ok()).await;
}
