//! The only writer of the stream knows where it ends, and lets messages stand there: what if they do not? Transactions over
//! several keys are such messages, one behind the other: what is left of a part of them counts for nothing.

use std::fs;

use jetway::jetstream::record;
use jetway::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use jetway::proto::etcdserverpb::{TxnRequest, WatchCreateRequest};
use jetway::proto::mvccpb::KeyValue;
use serde_json::{Value, json};

use crate::support::client::{Client, all, compare, op, put, revision, run};
use crate::support::eventually;
use crate::support::server::{Server, signal};
use crate::support::watch::{WatchStream, watch_key};

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
async fn a_row_of_which_the_end_is_missing_counts_for_nothing() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let keys = ["/row/a", "/row/b", "/row/c"];
    let write = |value: &str| run(keys.map(|key| op(put(key, value))).to_vec());
    client.txn(write("first")).await.unwrap();
    let nats = intruder(&server).await;
    let before = client.revision().await;
    let stored = messages(&nats).await;

    // Two of three messages, as a nats-server leaves them that is killed between two. They come behind jetway's back, so that
    // what it sends next is refused once: it does not stand where it should.
    for (key, place) in [(keys[0], 1), (keys[1], 2)] {
        let subject = record::subject("$KV.jetway.", key.as_bytes()).unwrap();
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(record::HEADER, format!("{before} 2 0 {place}/3 feed.1").as_str());
        nats.publish_with_headers(subject, headers, "torn".into()).await.unwrap();
    }
    eventually("both are stored", async || (messages(&nats).await == stored + 2).then_some(())).await;
    let answer = client.txn(write("second")).await.unwrap();

    let written = revision(&answer.header);
    assert!(written > before + 1, "nothing came between: revision {written} after {before}");
    let expected = |kv: &jetway::proto::mvccpb::KeyValue| (kv.value == "second", kv.version, kv.mod_revision);
    let (_, kvs) = everything(&client).await;
    assert_eq!(kvs.iter().map(expected).collect::<Vec<_>>(), [(true, 2, written); 3]);
    // What is left of the half goes: three messages have come, and a barrier for each refusal.
    eventually("the rest of the row is removed", async || {
        let subject = "STREAM.INFO.KV_jetway";
        let info = ask(&nats, subject, json!({ "subjects_filter": "$KV.jetway.>" })).await;
        let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
        let of_keys = subjects.iter().filter(|(subject, _)| !subject.ends_with(record::BARRIER));
        (of_keys.map(|(_, count)| count.as_u64().unwrap()).sum::<u64>() == stored + 3).then_some(())
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

/// The end of the stream is known again after whatever has moved it, and nothing is lost or done twice meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_somebody_else_are_only_passed_over() {
    let server = Server::start().await;
    let nats = intruder(&server).await;
    let enough = tokio_util::sync::CancellationToken::new();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..20 {
        let (client, enough) = (server.client().await, enough.clone());
        writers.spawn(async move {
            let mut written = 0;
            while !enough.is_cancelled() {
                client.put(format!("/of/{writer}"), "x").await;
                written += 1;
            }
            (writer, written)
        });
    }
    let client = server.client().await;
    for n in 0..50 {
        nats.publish(format!("$KV.jetway.=.foreign{n}"), "x".into()).await.unwrap();
        client.put("/pace", "x").await;
    }
    enough.cancel();
    for (writer, written) in writers.join_all().await {
        let kv = client.kv(&format!("/of/{writer}")).await.unwrap();
        assert_eq!(kv.version, written, "/of/{writer}");
    }
}

/// A nats-server that stands still until connections to it are given up has taken writes that it has not answered, and goes on
/// with them while new ones come. Each finds the state that it was planned on, or is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broken_connection_has_left_comes_about_as_it_was_meant_or_not_at_all() {
    let server = Server::start().await;
    let client = server.client().await;
    let key = "/chain";
    let first = client.put(key, "0").await;
    let enough = tokio_util::sync::CancellationToken::new();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (client, enough) = (server.client().await, enough.clone());
        writers.spawn(async move {
            let mut failed = 0;
            while !enough.is_cancelled() {
                let Ok(seen) = client.get(key).await else { continue };
                let seen = seen.kvs[0].mod_revision;
                let compare = compare(key, CompareResult::Equal, TargetUnion::ModRevision(seen));
                let pair = [op(put(key, seen.to_string())), op(put(format!("{key}/{seen}"), ""))];
                failed += usize::from(
                    client.txn(TxnRequest { compare: vec![compare], ..run(pair.to_vec()) }).await.is_err(),
                );
            }
            failed
        });
    }
    let nats = server.nats_pid();
    for round in 1..=2 {
        let before = client.revision().await;
        eventually("writes", async || (client.revision().await > before + 100).then_some(())).await;
        signal(nats, libc::SIGSTOP);
        // Longer than the connection is kept without an answer.
        let stopped = std::time::Instant::now();
        eventually("a refused write", async || client.put_request(put("/other", "")).await.err()).await;
        eventually("the line to break", async || (stopped.elapsed().as_secs() >= 10).then_some(())).await;
        signal(nats, libc::SIGCONT);
        eventually("a write", async || client.put_request(put("/other", "")).await.ok()).await;
        println!("round {round}: went on after {:?}", stopped.elapsed());
    }
    enough.cancel();
    let failed: usize = writers.join_all().await.into_iter().sum();
    assert!(failed > 0, "nothing was on its way");
    assert_eq!(server.nats_pid(), nats, "it was started again");
    let last = client.put(key, "end").await;
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { start_revision: first, ..watch_key(key) }).await;
    let mut events: Vec<KeyValue> = Vec::new();
    while events.last().is_none_or(|event| event.mod_revision < last) {
        events.extend(watch.next_but_progress().await.events.into_iter().map(|event| event.kv.unwrap()));
    }
    for two in events[..events.len() - 1].windows(2) {
        assert_eq!(two[1].value, two[0].mod_revision.to_string(), "{two:?}");
        assert_eq!(two[1].version, two[0].version + 1, "{two:?}");
    }
}
