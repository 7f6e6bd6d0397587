//! Somebody changes the stream behind the instances' back. None of them serves what is not there any more,
//! and none takes what nobody wrote.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jetway::proto::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest};
use jetway::proto::mvccpb::KeyValue;
use serde_json::{Value, json};

use crate::instances::{all_agree, instances, reads_are_fresh};
use support::client::{Client, all, put};
use support::eventually;
use support::nats::Nats;
use support::server::Server;

/// How long a change may go unnoticed.
const NOTICED: Duration = Duration::from_secs(5);

/// The words of which one is in the log of an instance that ends or refuses.
const WORDS: &[&str] =
    &["lost", "missing", "purged", "deleted", "another stream", "made anew", "does not exist"];

fn reports_the_loss(line: &str) -> bool {
    (line.contains("ERROR") || line.contains("WARN")) && WORDS.iter().any(|word| line.contains(word))
}

/// The words of a message's header.
fn header_of(message: &Value) -> Vec<String> {
    let headers = BASE64_STANDARD.decode(message["hdrs"].as_str().unwrap()).unwrap();
    let headers = String::from_utf8(headers).unwrap();
    let header = headers.lines().find_map(|line| line.strip_prefix("Jetway: ")).unwrap();
    header.split(' ').map(str::to_owned).collect()
}

struct Pair {
    nodes: Vec<Nats>,
    endpoint: String,
    servers: Vec<Server>,
    clients: Vec<Client>,
    state: Vec<KeyValue>,
}

impl Pair {
    async fn start() -> Self {
        let nats = Nats::start().await;
        let endpoint = nats.endpoint();
        Self::over(vec![nats], endpoint).await
    }

    async fn over(nodes: Vec<Nats>, endpoint: String) -> Self {
        let (servers, clients) = instances(&endpoint, 2).await;
        for at in 0..50 {
            clients[at % 2].put(format!("/k/{at}"), at.to_string()).await;
        }
        let state = clients[0].range(all("")).await.unwrap().kvs;
        Self { nodes, endpoint, servers, clients, state }
    }

    async fn api(&self, request: &str, body: Value) -> Value {
        let answer = self.nodes[0].api(request, &body).await;
        assert!(answer.get("error").is_none(), "{request}: {answer}");
        answer
    }

    async fn message(&self, key: &str) -> Value {
        self.last_of(&format!("$KV.test.=.k.{key}")).await
    }

    async fn last_of(&self, subject: &str) -> Value {
        self.api("STREAM.MSG.GET.KV_test", json!({ "last_by_subj": subject })).await["message"].clone()
    }

    async fn stop(&mut self) {
        for server in &mut self.servers {
            server.stop().await;
        }
    }

    /// Starts the instances again, which serve the same.
    async fn restart(&mut self) {
        self.clients.clear();
        for server in &mut self.servers {
            server.restart().await;
            self.clients.push(server.client().await);
        }
        self.state = self.clients[0].range(all("")).await.unwrap().kvs;
    }

    async fn remove(&self, sequence: &Value) {
        self.api("STREAM.MSG.DELETE.KV_test", json!({ "seq": sequence, "no_erase": true })).await;
    }

    /// An instance that accepts what is lost, until it has removed what is of no use any more.
    async fn accept_loss(&self) -> Vec<KeyValue> {
        let mut accepting = Server::start_with(&["--endpoint", &self.endpoint, "--accept-data-loss"]).await;
        let kept = accepting.client().await.range(all("/k/")).await.unwrap().kvs;
        eventually("a trim record behind the removals of the first", async || {
            let trim = self.last_of("$KV.test.=_.trim").await;
            let payload = BASE64_STANDARD.decode(trim["data"].as_str()?).ok()?;
            let payload: Value = serde_json::from_slice(&payload).ok()?;
            let index: u64 = header_of(&trim)[2].parse().ok()?;
            (payload["is_lossy"] == true && index > payload["to"].as_u64()? + 1).then_some(())
        })
        .await;
        accepting.stop().await;
        kept
    }

    /// The sequence of a barrier that is the stream's last message.
    async fn barrier(&self) -> Value {
        eventually("a barrier at the end", async || {
            self.clients[0].revision().await;
            let last = self.api("STREAM.INFO.KV_test", Value::Null).await["state"]["last_seq"].clone();
            let answer = self.api("STREAM.MSG.GET.KV_test", json!({ "seq": last })).await;
            (answer["message"]["subject"] == "$KV.test.=_.barrier").then_some(last)
        })
        .await
    }

    /// Each instance ends or refuses to answer within the time, logs the reason, and gives no wrong answer
    /// before.
    async fn is_noticed(&mut self) {
        let begun = tokio::time::Instant::now();
        for (server, client) in self.servers.iter_mut().zip(&self.clients) {
            loop {
                let has_ended = server.has_ended().is_some();
                let serves = match tokio::time::timeout(NOTICED, client.range(all(""))).await {
                    Ok(Ok(answer)) => {
                        assert!(answer.kvs == self.state, "{server:?} serves something else");
                        true
                    }
                    _ => false,
                };
                let log = server.log();
                if (has_ended || !serves) && log.lines().any(reports_the_loss) {
                    break;
                }
                assert!(begun.elapsed() < NOTICED, "{server:?} (serves: {serves}) has not noticed:\n{log}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Nothing has happened to anybody: reads, writes, and starts.
    async fn goes_on(mut self) {
        for client in &self.clients {
            assert!(client.range(all("/k/")).await.unwrap().kvs == self.state);
        }
        reads_are_fresh(&self.clients, 20).await;
        all_agree(&self.clients).await;
        let (fresh, more) = instances(&self.endpoint, 1).await;
        self.servers.extend(fresh);
        self.clients.extend(more);
        all_agree(&self.clients).await;
        self.servers[0].kill9();
        self.servers[0].restart().await;
        self.clients[0] = self.servers[0].client().await;
        reads_are_fresh(&self.clients, 9).await;
        all_agree(&self.clients).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_is_noticed() {
    let mut pair = Pair::start().await;
    pair.api("STREAM.PURGE.KV_test", Value::Null).await;
    pair.is_noticed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_is_noticed_over_three_replicas() {
    let nodes = Nats::cluster().await;
    let hosts: Vec<String> = nodes.iter().map(Nats::address).collect();
    let endpoint = format!("nats://{}?bucket=test&replicas=3", hosts.join(","));
    let mut pair = Pair::over(nodes.into(), endpoint).await;
    pair.api("STREAM.PURGE.KV_test", json!({ "keep": 10 })).await;
    pair.is_noticed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_of_one_key_is_noticed() {
    let mut pair = Pair::start().await;
    pair.api("STREAM.PURGE.KV_test", json!({ "filter": "$KV.test.=.k.7" })).await;
    pair.is_noticed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_message_is_noticed() {
    let mut pair = Pair::start().await;
    let seq = pair.message("20").await["seq"].clone();
    pair.api("STREAM.MSG.DELETE.KV_test", json!({ "seq": seq })).await;
    pair.is_noticed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_newest_message_is_noticed() {
    let mut pair = Pair::start().await;
    let info = pair.api("STREAM.INFO.KV_test", Value::Null).await;
    pair.api("STREAM.MSG.DELETE.KV_test", json!({ "seq": info["state"]["last_seq"] })).await;
    pair.is_noticed().await;
}

/// A barrier is no record of anything, but an instance that begins finds its place empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_barrier_is_noticed() {
    let mut pair = Pair::start().await;
    let last = pair.barrier().await;
    pair.api("STREAM.MSG.DELETE.KV_test", json!({ "seq": last })).await;
    pair.is_noticed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_stream_is_noticed() {
    let mut pair = Pair::start().await;
    pair.api("STREAM.DELETE.KV_test", Value::Null).await;
    pair.is_noticed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_made_anew_is_noticed() {
    let mut pair = Pair::start().await;
    let config = pair.api("STREAM.INFO.KV_test", Value::Null).await["config"].clone();
    pair.api("STREAM.DELETE.KV_test", Value::Null).await;
    pair.api("STREAM.CREATE.KV_test", config).await;
    pair.is_noticed().await;
}

/// An instance of the old stream does not disturb an instance that has made a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_stream_belongs_to_those_who_made_it() {
    let mut pair = Pair::start().await;
    pair.api("STREAM.DELETE.KV_test", Value::Null).await;
    let (mut fresh, clients) = instances(&pair.endpoint, 1).await;
    for at in 0..200 {
        assert_eq!(clients[0].put("/new", at.to_string()).await, at + 2);
    }
    pair.is_noticed().await;
    assert_eq!(clients[0].put("/new", "end").await, 202);
    fresh[0].kill9();
    fresh[0].restart().await;
    let kv = fresh[0].client().await.kv("/new").await.unwrap();
    assert_eq!((&kv.value[..], kv.mod_revision), (&b"end"[..], 202));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_another_program_count_for_nothing() {
    let pair = Pair::start().await;
    for (subject, headers) in [
        ("$KV.test.=.k.7", ""),
        ("$KV.test.=.k.8", "KV-Operation: DEL\r\n"),
        ("$KV.test.=.new", "Jetway: nonsense\r\n"),
        ("$KV.test.=_.users", ""),
        ("$KV.test.=_.epoch", "Jetway: 9 9 9 9 1/1 9.9 s\r\n"),
    ] {
        let answer = pair.nodes[0].publish(subject, headers, "foreign").await;
        assert!(answer["seq"].is_u64(), "{answer}");
    }
    pair.goes_on().await;
}

/// Messages that compactions remove are no loss, on whatever instance: several looks at the stream fall into
/// this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_compactions_remove_is_not_missed() {
    let mut pair = Pair::start().await;
    let end = tokio::time::Instant::now() + NOTICED + Duration::from_secs(1);
    for round in 0_usize.. {
        if tokio::time::Instant::now() > end {
            break;
        }
        let client = pair.clients[round % 2].clone();
        for at in 0..10 {
            client.put(format!("/k/{at}"), round.to_string()).await;
        }
        let lease = round as i64 + 1;
        client.lease_grant(lease, 600).await.unwrap();
        client.put_request(PutRequest { lease, ..put("/leased", "") }).await.unwrap();
        client.lease_revoke(lease).await.unwrap();
        let revision = client.delete("/k/9").await - round as i64 % 3;
        let physical = round.is_multiple_of(2);
        client.compact_request(CompactionRequest { revision, physical }).await.unwrap();
        if round % 20 == 19 {
            // One that begins in between knows of no removal but by what it finds.
            pair.servers[1].stop().await;
            pair.servers[1].restart().await;
            pair.clients[1] = pair.servers[1].client().await;
        }
    }
    for server in &mut pair.servers {
        assert!(server.has_ended().is_none());
    }
    let state: Vec<_> = pair.clients[0].range(all("")).await.unwrap().kvs;
    assert!(pair.clients[1].range(all("")).await.unwrap().kvs == state);
    let (_fresh, more) = instances(&pair.endpoint, 1).await;
    assert!(more[0].range(all("")).await.unwrap().kvs == state);
}

/// A foreign message makes the writer begin again. The call whose place it took is carried out all the same,
/// at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_to_a_foreign_message() {
    let pair = Pair::start().await;
    for round in 0_usize..60 {
        let client = &pair.clients[round % 2];
        for at in 0..10 {
            client.put(format!("/k/{at}"), round.to_string()).await;
        }
        pair.nodes[0].publish("$KV.test.=.k.7", "", "foreign").await;
        let revision = client.delete("/k/9").await;
        let physical = round.is_multiple_of(2);
        client.compact_request(CompactionRequest { revision, physical }).await.unwrap();
    }
}

/// A record that stands in the log a second time, with another value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_copy_of_a_record_counts_for_nothing() {
    let pair = Pair::start().await;
    for key in ["7", "49"] {
        let message = pair.message(key).await;
        let header = header_of(&message).join(" ");
        let subject = message["subject"].as_str().unwrap();
        let answer = pair.nodes[0].publish(subject, &format!("Jetway: {header}\r\n"), "altered").await;
        assert!(answer["seq"].is_u64(), "{answer}");
    }
    // Followers read it at once, and a write that meets it takes its place behind it.
    let (first, second) = (&pair.clients[0], &pair.clients[1]);
    first.put_request(put("/x", "")).await.unwrap();
    second.put_request(put("/x", "")).await.unwrap();
    pair.goes_on().await;
}

/// A loss above the compaction floor is accepted once. Later instances serve what is left, and notice a loss
/// that comes after it.
#[tokio::test]
async fn an_accepted_loss_above_the_floor_stays_accepted_and_the_next_one_is_noticed() {
    let mut pair = Pair::start().await;
    let floor = CompactionRequest { revision: 20, physical: true };
    pair.clients[0].compact_request(floor).await.unwrap();
    let lost = pair.message("40").await["seq"].clone();
    pair.stop().await;
    pair.remove(&lost).await;
    let kept = pair.accept_loss().await;
    assert_eq!(kept.len(), 49);
    pair.restart().await;
    assert_eq!(pair.state, kept);
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < NOTICED {
        for (server, client) in pair.servers.iter_mut().zip(&pair.clients) {
            assert!(server.has_ended().is_none(), "{}", server.log());
            assert_eq!(client.range(all("/k/")).await.unwrap().kvs, kept);
        }
    }
    let lost = pair.message("45").await["seq"].clone();
    pair.remove(&lost).await;
    pair.is_noticed().await;
}

/// A deposed writer has left records behind a foreign message, so they are void. One of them is lost, so that
/// the others look valid, and their indexes are those of the next writer's first records. The loss is
/// accepted: every answered write is there, and nothing of the deposed writer.
#[tokio::test]
async fn an_accepted_loss_among_void_records_gives_no_answered_write_up() {
    let mut pair = Pair::start().await;
    pair.stop().await;
    let last = pair.api("STREAM.INFO.KV_test", Value::Null).await["state"]["last_seq"].clone();
    let last = pair.api("STREAM.MSG.GET.KV_test", json!({ "seq": last })).await["message"].clone();
    let last = header_of(&last);
    let (index, revision): (u64, i64) = (last[2].parse().unwrap(), last[3].parse().unwrap());
    let record = |index: u64, kind: &str| {
        format!("Jetway: {} {} {index} {} 1/1 1.{index} {kind}\r\n", last[0], last[1], revision + 1)
    };
    let node = &pair.nodes[0];
    node.publish("$KV.test.=.k.foreign", "", "").await;
    let put = |index| record(index, &format!("p {} 1 0", revision + 1));
    let lost = node.publish("$KV.test.=.k.void", &put(index + 2), "").await["seq"].clone();
    let floor = json!({ "revision": revision }).to_string();
    node.publish("$KV.test.=_.floor", &record(index + 3, "s"), &floor).await;
    node.publish("$KV.test.=.k.void", &put(index + 4), "").await;
    pair.restart().await;
    for at in 0..10 {
        pair.clients[0].put(format!("/k/{at}"), "later").await;
    }
    // Its removals are over, so that nothing else waits for the next trim record.
    let floor = CompactionRequest { revision: 20, physical: true };
    pair.clients[0].compact_request(floor).await.unwrap();
    pair.clients[0].put("/k/49", "last").await;
    let before = pair.clients[0].range(all("/k/")).await.unwrap().kvs;
    pair.stop().await;
    pair.remove(&lost).await;
    let kept = pair.accept_loss().await;
    assert_eq!(kept, before);
    pair.restart().await;
    assert_eq!(pair.state, kept);
    reads_are_fresh(&pair.clients, 9).await;
    let state = pair.clients[0].range(all("")).await.unwrap().kvs;
    let (_fresh, more) = instances(&pair.endpoint, 1).await;
    assert!(more[0].range(all("")).await.unwrap().kvs == state);
    let past = RangeRequest { revision: 21, ..all("/k/") };
    assert_eq!(more[0].range(past).await.unwrap().kvs.len(), 20);
}
