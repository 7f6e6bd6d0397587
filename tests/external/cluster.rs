//! Three nats-servers, three replicas, three instances of jetway.

use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::instances::{all_agree, instances, no_update_is_lost, reads_are_fresh};
use crate::support::client::{Client, all, get, op, put, revision, run};
use crate::support::eventually;
use crate::support::nats::Nats;
use crate::support::watch::{WatchStream, outline, watch_all};

fn endpoint(nodes: &[Nats]) -> String {
    let hosts: Vec<String> = nodes.iter().map(Nats::address).collect();
    format!("nats://{}?bucket=test&replicas=3", hosts.join(","))
}

/// Which node leads the key stream, when all three follow.
pub async fn leader(nodes: &[Nats]) -> usize {
    eventually("a leader with two current followers", async || leader_now(nodes).await).await
}

/// As [`leader`], `None` while one of them does not follow.
pub async fn leader_now(nodes: &[Nats]) -> Option<usize> {
    let asked = nodes.iter().find(|node| node.is_running()).unwrap();
    let info = asked.api("STREAM.INFO.KV_test", &Value::Null).await;
    let cluster = &info["cluster"];
    let replicas = cluster["replicas"].as_array()?;
    let all_current = replicas.len() == 2 && replicas.iter().all(|replica| replica["current"] == true);
    let leader = cluster["leader"].as_str()?;
    nodes.iter().position(|node| all_current && node.name() == leader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_are_one_etcd_and_outlive_their_leader() {
    let mut nodes = Nats::cluster().await;
    // JetStream has no leader of its own at first, and the leader not all servers: jetway waits for them.
    let (_servers, clients) = instances(&endpoint(&nodes), 3).await;
    reads_are_fresh(&clients, 90).await;
    no_update_is_lost(&clients, 6, 8).await;

    // A watch on the last one sees what all three write while the leader dies.
    let mut watch = WatchStream::open(&clients[2]);
    watch.watch(watch_all("/load/")).await;
    let stop = CancellationToken::new();
    let mut writers = JoinSet::new();
    for writer in 0..6_usize {
        let (client, stop) = (clients[writer % 3].clone(), stop.clone());
        writers.spawn(async move { write(&client, writer, &stop).await });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let dead = leader(&nodes).await;
    nodes[dead].kill9();
    let died = Instant::now();
    for client in &clients {
        eventually("a write without the old leader", async || {
            client.put_request(put("/probe", "")).await.ok()
        })
        .await;
        println!("writes again {:?} after the leader died", died.elapsed());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    nodes[dead].restart().await;
    leader(&nodes).await;
    reads_are_fresh(&clients, 30).await;
    stop.cancel();
    let mut answered = Vec::new();
    while let Some(writes) = writers.join_next().await {
        answered.extend(writes.unwrap());
    }
    println!("{} transactions were answered", answered.len());
    assert!(answered.len() > 50);

    let end = clients[0].put("/load/end", "").await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event| outline(event).2 < end) {
        seen.extend(watch.next_but_progress().await.events);
    }
    assert!(seen.is_sorted_by_key(|event| outline(event).2));
    for (key, value, at) in &answered {
        for half in ["a", "b"] {
            let key = format!("{key}/{half}");
            let then = clients[1].range(RangeRequest { revision: *at, ..get(&key) }).await.unwrap();
            assert_eq!(
                (&then.kvs[0].value, then.kvs[0].mod_revision),
                (&value.clone().into(), *at),
                "{key} is lost"
            );
            let event = seen.iter().find(|event| outline(event).1 == key && outline(event).2 == *at);
            assert_eq!(event.expect("the watch saw it").kv.as_ref().unwrap().value, value);
        }
    }
    // Both halves of each transaction are there or none.
    let halves = clients[0].range(all("/load/")).await.unwrap();
    for writer in 0..6 {
        let of = |half: &str| {
            let key = format!("/load/{writer}/{half}");
            halves
                .kvs
                .iter()
                .find(|kv| kv.key == key)
                .map(|kv| (kv.value.clone(), kv.mod_revision, kv.version))
        };
        assert_eq!(of("a"), of("b"));
    }
    all_agree(&clients).await;
    let mut again = WatchStream::open(&clients[0]);
    again.watch(WatchCreateRequest { start_revision: 1, ..watch_all("/load/") }).await;
    let (_, messages, _) = again.progress_and_before().await;
    let events: Vec<_> = messages.into_iter().flat_map(|message| message.events).collect();
    assert_eq!(events.iter().map(outline).collect::<Vec<_>>(), seen.iter().map(outline).collect::<Vec<_>>());
}

/// Writes two keys at once, again and again; returns what was answered.
async fn write(client: &Client, writer: usize, stop: &CancellationToken) -> Vec<(String, String, i64)> {
    let key = format!("/load/{writer}");
    let mut answered = Vec::new();
    for count in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let value = count.to_string();
        let ops = ["a", "b"].map(|half| op(put(format!("{key}/{half}"), &value)));
        match client.txn(run(ops.to_vec())).await {
            Ok(answer) => answered.push((key.clone(), value, revision(&answer.header))),
            Err(status) => {
                assert!(matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded), "{status:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    answered
}
