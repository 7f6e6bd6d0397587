//! The bucket itself: its settings, those of others, and the size of one transaction.

use async_nats::jetstream::kv::Operation;
use futures_util::TryStreamExt as _;
use jetway::proto::etcdserverpb::alarm_request::AlarmAction;
use jetway::proto::etcdserverpb::{AlarmRequest, AlarmType};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::instances::{all_agree, instances};
use support::client::{all, delete_all, op, put, revision, run};
use support::nats::Nats;
use support::server::Server;
use support::within;

async fn refused(endpoint: &str) -> String {
    let (status, output) = Server::fails_to_start(&["--endpoint", endpoint]).await;
    assert!(!status.success() && status.code().is_some(), "ended with {status}: {output}");
    assert!(!output.contains("panicked"), "{output}");
    output
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_replicas_is_nobodys_to_change_by_the_way() {
    let nodes = Nats::cluster().await;
    let hosts: Vec<String> = nodes.iter().map(Nats::address).collect();
    let endpoint = format!("nats://{}?bucket=test", hosts.join(","));
    let mut first = Server::start_with(&["--endpoint", &format!("{endpoint}&replicas=3")]).await;
    first.client().await.put("/k", "v").await;
    first.stop().await;
    let replicas =
        async || nodes[0].api("STREAM.INFO.KV_test", &Value::Null).await["config"]["num_replicas"].as_u64();
    let second = Server::start_with(&["--endpoint", &endpoint]).await;
    assert_eq!(second.client().await.kv("/k").await.unwrap().value, "v");
    assert_eq!(replicas().await, Some(3));
    let output = refused(&format!("{endpoint}&replicas=1")).await;
    assert!(output.contains("replicas=1") && output.contains("has 3"), "{output}");
    assert_eq!(replicas().await, Some(3));
    // An operator's change stays as well, and the one who runs goes on.
    let mut config = nodes[0].api("STREAM.INFO.KV_test", &Value::Null).await["config"].clone();
    config["num_replicas"] = 1.into();
    nodes[0].api("STREAM.UPDATE.KV_test", &config).await;
    first = Server::start_with(&["--endpoint", &endpoint]).await;
    first.client().await.put("/k", "w").await;
    assert_eq!(second.client().await.kv("/k").await.unwrap().value, "w");
    assert_eq!(replicas().await, Some(1));
}

#[tokio::test]
async fn a_bucket_of_others_is_refused_with_the_reason() {
    let nats = Nats::start().await;
    for (bucket, metadata, reason) in [
        ("old", json!({ "jetway.format": "1", "jetway.cluster": "00000000000000ab" }), "format 1"),
        ("new", json!({ "jetway.format": "99", "jetway.cluster": "00000000000000ab" }), "format 99"),
        ("other", json!({}), "not a jetway bucket"),
    ] {
        let config = json!({
            "name": format!("KV_{bucket}"), "subjects": [format!("$KV.{bucket}.>")], "storage": "file",
            "allow_direct": true, "max_msgs_per_subject": 1, "discard": "new", "metadata": metadata,
        });
        let created = nats.api(&format!("STREAM.CREATE.KV_{bucket}"), &config).await;
        assert!(created.get("error").is_none(), "{created}");
        // A stream that was never used may have been made for jetway.
        nats.publish(&format!("$KV.{bucket}.k"), "", "v").await;
        let output = refused(&format!("nats://{}?bucket={bucket}", nats.address())).await;
        assert!(output.contains(reason) && output.contains(&format!("KV_{bucket}")), "{output}");
        // It is as it was.
        let info = nats.api(&format!("STREAM.INFO.KV_{bucket}"), &Value::Null).await;
        assert_eq!(info["config"]["max_msgs_per_subject"], 1);
        assert_eq!(info["state"]["messages"], 1);
    }
}

/// The client of NATS opens the bucket as one of its own, and finds values under readable names. So it is
/// with a bucket that an earlier jetway made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_nats_open_the_bucket() {
    let nats = Nats::start().await;
    let mut server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    let client = server.client().await;
    client.put("/registry/pods/a", "v").await;
    client.put("/registry/pods/a", "w").await;
    client.put("/registry/pods/gone", "v").await;
    client.delete("/registry/pods/gone").await;
    let mut config = nats.api("STREAM.INFO.KV_test", &Value::Null).await["config"].clone();
    assert_eq!(config["max_msgs_per_subject"], (1_u64 << 53) - 1);

    let other = async_nats::connect(nats.address()).await.unwrap();
    let buckets = async_nats::jetstream::new(other);
    let bucket = buckets.get_key_value("test").await.unwrap();
    let entry = bucket.entry("=.registry.pods.a").await.unwrap().expect("a value");
    assert_eq!((&entry.value[..], entry.operation), (&b"w"[..], Operation::Put));
    assert_eq!(bucket.get("=.registry.pods.gone").await.unwrap(), None);
    let keys: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
    assert!(keys.contains(&"=.registry.pods.a".into()) && !keys.contains(&"=.registry.pods.gone".into()));
    let history: Vec<_> = bucket.history("=.registry.pods.a").await.unwrap().try_collect().await.unwrap();
    assert_eq!(history.iter().map(|entry| &entry.value[..]).collect::<Vec<_>>(), [b"v", b"w"]);
    let mut watch = bucket.watch("=.registry.pods.>").await.unwrap();
    client.put("/registry/pods/b", "new").await;
    let seen = within("an event", watch.try_next()).await.unwrap().expect("an event");
    assert_eq!((seen.key.as_str(), &seen.value[..]), ("=.registry.pods.b", &b"new"[..]));

    server.stop().await;
    config["max_msgs_per_subject"] = (-1).into();
    nats.api("STREAM.UPDATE.KV_test", &config).await;
    buckets.get_key_value("test").await.expect_err("a stream without such a limit is no bucket");
    server.restart().await;
    buckets.get_key_value("test").await.unwrap();
    assert_eq!(server.client().await.kv("/registry/pods/a").await.unwrap().value, "w");
}

/// JetStream's batches hold 1,000 messages. jetway's transactions do not use them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_may_be_larger_than_a_batch() {
    const KEYS: usize = 2_500;
    let nats = Nats::start().await;
    let endpoint = nats.endpoint();
    let args = ["--endpoint", &endpoint, "--max-txn-ops", "3000"];
    let servers = [Server::start_with(&args).await, Server::start_with(&args).await];
    let clients = [servers[0].client().await, servers[1].client().await];
    let mut expected = 1;
    for round in 0..2 {
        for client in &clients {
            let ops = (0..KEYS).map(|at| op(put(format!("/many/{at}"), round.to_string()))).collect();
            expected += 1;
            let written = client.txn(run(ops)).await.unwrap();
            assert_eq!(revision(&written.header), expected);
        }
        // Revisions are dense, whatever the number of records.
        expected += 1;
        assert_eq!(clients[round].put("/one", "").await, expected);
        let deleted = clients[1 - round].delete_range(delete_all("/many/")).await.unwrap();
        expected += 1;
        assert_eq!((deleted.deleted, revision(&deleted.header)), (KEYS as i64, expected));
    }
    assert_eq!(clients[0].range(all("/many/")).await.unwrap().count, 0);
    all_agree(&clients).await;
}

/// Changes of alarms through several instances at once: each is there, and none is refused for another one's
/// sake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_that_change_at_once_are_all_there() {
    let nats = Nats::start().await;
    let (_servers, clients) = instances(&nats.endpoint(), 3).await;
    for action in [AlarmAction::Activate, AlarmAction::Deactivate] {
        let mut tasks = JoinSet::new();
        for worker in 0..6_u64 {
            let client = clients[worker as usize % 3].clone();
            tasks.spawn(async move {
                for at in 0..10 {
                    let alarm = AlarmType::Nospace.into();
                    let request =
                        AlarmRequest { action: action.into(), member_id: worker * 10 + at + 1, alarm };
                    client.alarm(request).await.unwrap();
                }
            });
        }
        while let Some(worker) = tasks.join_next().await {
            worker.unwrap();
        }
        let count = if action == AlarmAction::Activate { 60 } else { 0 };
        for client in &clients {
            // Alarms are listed as they are known here; a linearizable read brings what was answered before.
            client.revision().await;
            let alarms = client.alarm(AlarmRequest::default()).await.unwrap().alarms;
            assert_eq!(alarms.len(), count);
        }
    }
    clients[1].put("/k", "v").await;
}
