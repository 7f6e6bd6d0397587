//! Transactions over several keys that stand in the stream one message behind the other: what is left when a guard in the
//! middle does not hold counts for nothing, now and after any restart.

use std::fs;

use jetway::jetstream::record;
use serde_json::{Value, json};

use crate::support::client::{Client, all, op, put, revision, run};
use crate::support::eventually;
use crate::support::server::Server;

/// A connection to the nats-server that `server` runs, which is nobody else's business.
async fn intruder(server: &Server) -> async_nats::Client {
    let data = server.dir().join("data");
    let files = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let ports = files.into_iter().find(|path| path.extension().is_some_and(|of| of == "ports")).unwrap();
    let ports: Value = serde_json::from_str(&fs::read_to_string(ports).unwrap()).unwrap();
    let config = fs::read_to_string(data.join("nats-server.conf")).unwrap();
    let token = config.split_once("token: \"").unwrap().1.split_once('"').unwrap().0.to_owned();
    let options = async_nats::ConnectOptions::with_token(token);
    options.connect(ports["nats"][0].as_str().unwrap()).await.unwrap()
}

async fn ask(nats: &async_nats::Client, subject: &str, body: Value) -> Value {
    let answer = nats.request(format!("$JS.API.{subject}"), body.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer.get("error").is_none(), "{subject}: {answer}");
    answer
}

async fn messages(nats: &async_nats::Client) -> u64 {
    ask(nats, "STREAM.INFO.KV_jetway", Value::Null).await["state"]["messages"].as_u64().unwrap()
}

async fn everything(client: &Client) -> (i64, Vec<jetway::proto::mvccpb::KeyValue>) {
    let now = client.range(all("")).await.unwrap();
    (revision(&now.header), now.kvs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_in_which_a_guard_fails_counts_for_nothing() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let keys = ["/row/a", "/row/b", "/row/c"];
    let write = |value: &str| run(keys.map(|key| op(put(key, value))).to_vec());
    client.txn(write("first")).await.unwrap();
    let nats = intruder(&server).await;
    let before = client.revision().await;
    let stored = messages(&nats).await;

    // What jetway knows of the second key is not so any more: the first message of the row is stored, the second refused.
    let subject = record::subject("$KV.jetway.", keys[1].as_bytes()).unwrap();
    let purged = ask(&nats, "STREAM.PURGE.KV_jetway", json!({ "filter": subject })).await;
    assert_eq!(purged["purged"], 1);
    let answer = client.txn(write("second")).await.unwrap();

    let written = revision(&answer.header);
    assert!(written > before + 1, "no guard failed: revision {written} after {before}");
    let expected = |kv: &jetway::proto::mvccpb::KeyValue| (kv.value == "second", kv.version, kv.mod_revision);
    let (_, kvs) = everything(&client).await;
    assert_eq!(kvs.iter().map(expected).collect::<Vec<_>>(), [(true, 2, written); 3]);
    // What is left of the first try goes: there were three messages less one, and three and a barrier have come.
    eventually("the rest of the row is removed", async || {
        (messages(&nats).await == stored + 3).then_some(())
    })
    .await;
    // So do those of the versions before, and nothing of the row comes back in their place.
    client.compact(written).await.unwrap();
    client.defragment().await.unwrap();
    let then = everything(&client).await;
    server.kill9();
    server.restart().await;
    assert_eq!(everything(&server.client().await).await, then);
}
