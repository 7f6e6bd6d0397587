//! The only writer of the stream knows where it ends, and guards each message by that. These tests break the
//! assumption: somebody else publishes. A transaction over several keys is a batch of messages, one behind
//! the other: a part of a batch counts for nothing.

use std::fs;

use jetway::core::{KeyVersion, VersionParts};
use jetway::log::{decode_message, encode_message};
use jetway::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use jetway::proto::etcdserverpb::{TxnRequest, WatchCreateRequest};
use jetway::proto::mvccpb::KeyValue;
use jetway::record::{Body, OperationId, Record};
use jetway::types::{LeaseId, LogIndex, Revision, Sequence};
use serde_json::{Value, json};

use support::client::{Client, all, compare, op, put, revision, run};
use support::eventually;
use support::server::{Server, signal};
use support::watch::{WatchStream, watch_key};

const PREFIX: &str = "$KV.jetway.";

/// A connection to the nats-server that `server` runs, which is nobody else's business.
async fn intruder(server: &Server) -> async_nats::Client {
    let data = server.dir().join("data");
    let files = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let ports = files.into_iter().find(|path| path.extension().is_some_and(|of| of == "ports")).unwrap();
    let ports: Value = serde_json::from_str(&fs::read_to_string(ports).unwrap()).unwrap();
    let config = fs::read_to_string(data.join("nats-server.conf")).unwrap();
    let token = config.split_once("password: \"").unwrap().1.split_once('"').unwrap().0.to_owned();
    let options = async_nats::ConnectOptions::with_user_and_password("jetway".into(), token);
    options.connect(ports["nats"][0].as_str().unwrap()).await.unwrap()
}

async fn ask(nats: &async_nats::Client, subject: &str, body: Value) -> Value {
    let answer = nats.request(format!("$JS.API.{subject}"), body.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer.get("error").is_none(), "{subject}: {answer}");
    answer
}

/// The last sequence of the stream.
async fn end(nats: &async_nats::Client) -> u64 {
    ask(nats, "STREAM.INFO.KV_jetway", Value::Null).await["state"]["last_seq"].as_u64().unwrap()
}

/// Whether a message is there.
async fn is_stored(nats: &async_nats::Client, sequence: u64) -> bool {
    let request = json!({ "seq": sequence }).to_string();
    let answer = nats.request("$JS.API.STREAM.MSG.GET.KV_jetway", request.into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    answer.get("error").is_none()
}

/// The record at a sequence.
async fn record_at(nats: &async_nats::Client, sequence: u64) -> Record {
    use base64::Engine as _;
    let message = &ask(nats, "STREAM.MSG.GET.KV_jetway", json!({ "seq": sequence })).await["message"];
    let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
    let bytes = |field: &str| base64::prelude::BASE64_STANDARD.decode(text(field)).unwrap();
    let subject = text("subject").strip_prefix(PREFIX).unwrap().to_owned();
    let headers = String::from_utf8(bytes("hdrs")).unwrap();
    decode_message(&subject, &headers, &bytes("data"), Sequence(sequence)).expect("a record of jetway's")
}

async fn publish(nats: &async_nats::Client, record: &Record) {
    let (subject, headers, payload) = encode_message(record).unwrap();
    let mut sent = async_nats::HeaderMap::new();
    for line in headers.lines().skip(1).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        sent.insert(name, value);
    }
    nats.publish_with_headers(format!("{PREFIX}{subject}"), sent, payload.into()).await.unwrap();
}

async fn everything(client: &Client) -> (i64, Vec<jetway::proto::mvccpb::KeyValue>) {
    let now = client.range(all("")).await.unwrap();
    (revision(&now.header), now.kvs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_which_the_end_is_missing_counts_for_nothing() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let keys = ["/row/a", "/row/b", "/row/c"];
    let write = |value: &str| run(keys.map(|key| op(put(key, value))).to_vec());
    client.txn(write("first")).await.unwrap();
    let nats = intruder(&server).await;
    let before = client.revision().await;
    let stored = end(&nats).await;
    let last = record_at(&nats, stored).await;

    // Two of three messages, as a nats-server leaves them that is killed between two. They come behind
    // jetway's back, so that the message that it sends next is refused once.
    for (key, place) in [(keys[0], 1), (keys[1], 2)] {
        let version = KeyVersion::new(&VersionParts {
            key: key.as_bytes(),
            value: b"torn",
            create_revision: Revision(before),
            mod_revision: Revision(before + 1),
            version: 2,
            lease: LeaseId::NONE,
            sequence: Sequence(0),
            place,
        });
        let record = Record {
            index: LogIndex(last.index.0 + u64::from(place)),
            revision: Revision(before + 1),
            place,
            count: 3,
            operation: OperationId { instance: 0xfeed, counter: 1 },
            body: Body::Key(version),
            ..last.clone()
        };
        publish(&nats, &record).await;
    }
    eventually("both are stored", async || (end(&nats).await == stored + 2).then_some(())).await;
    let answer = client.txn(write("second")).await.unwrap();

    // The revision of the half is used again.
    let written = revision(&answer.header);
    assert_eq!(written, before + 1);
    let expected = |kv: &jetway::proto::mvccpb::KeyValue| (kv.value == "second", kv.version, kv.mod_revision);
    let (_, kvs) = everything(&client).await;
    assert_eq!(kvs.iter().map(expected).collect::<Vec<_>>(), [(true, 2, written); 3]);
    // An epoch record decides about the half. The guard compares numbers only, so that one message that was
    // in flight may be stored before it.
    let after = [record_at(&nats, stored + 3).await, record_at(&nats, stored + 4).await];
    let epoch = after.iter().find(|record| matches!(record.body, Body::Epoch(_)));
    assert_eq!(epoch.expect("an epoch record").index, last.index.next());
    // The messages of the half go with the next compaction, and nothing of it comes back in place of the
    // versions before.
    let messages = [stored + 1, stored + 2];
    assert!(is_stored(&nats, messages[0]).await && is_stored(&nats, messages[1]).await);
    client.compact(written).await.unwrap();
    client.defragment().await.unwrap();
    assert!(!is_stored(&nats, messages[0]).await && !is_stored(&nats, messages[1]).await);
    let then = everything(&client).await;
    server.kill9();
    server.restart().await;
    assert_eq!(everything(&server.client().await).await, then);
}

/// The end of the stream is known again after whatever has moved it, and nothing is lost or done twice
/// meanwhile.
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

/// A nats-server that stands still until connections to it are given up has taken writes that it has not
/// answered, and goes on with them while new ones come. Each finds the state that it was planned on, or is
/// not there.
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
