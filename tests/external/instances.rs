//! Two and three instances on one bucket are one etcd.

use std::sync::Arc;
use std::time::Duration;

use jetway::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use jetway::proto::etcdserverpb::{
    CompactionRequest, HashKvRequest, HashKvResponse, PutRequest, RangeRequest, TxnRequest,
    WatchCreateRequest,
};
use jetway::proto::mvccpb::event::EventType;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use support::client::{Client, all, compare, delete, get, op, put, refused, revision, run};
use support::eventually;
use support::lease::KeepAlive;
use support::nats::Nats;
use support::server::Server;
use support::snapshot::Saved;
use support::watch::{WatchStream, outline, watch_all};

/// Instances and a client for each.
pub async fn instances(endpoint: &str, count: usize) -> (Vec<Server>, Vec<Client>) {
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let server = Server::start_with(&["--endpoint", endpoint]).await;
        clients.push(server.client().await);
        servers.push(server);
    }
    (servers, clients)
}

/// An instance knows at once the writes that another one has answered.
pub async fn reads_are_fresh(clients: &[Client], rounds: usize) {
    for round in 0..rounds {
        let (writer, reader) = (&clients[round % clients.len()], &clients[(round + 1) % clients.len()]);
        let value = round.to_string();
        let written = if round % 3 == 0 {
            revision(
                &writer
                    .txn(run(vec![op(put("/fresh", &value)), op(put("/fresh2", &value))]))
                    .await
                    .unwrap()
                    .header,
            )
        } else {
            writer.put("/fresh", &value).await
        };
        let read = reader.get("/fresh").await.unwrap();
        assert!(revision(&read.header) >= written, "round {round}: a stale revision");
        assert_eq!(
            (&read.kvs[0].value[..], read.kvs[0].mod_revision),
            (value.as_bytes(), written),
            "round {round}"
        );
        // A comparison that fails is a read too.
        let txn = TxnRequest {
            compare: vec![compare("/fresh", CompareResult::Equal, TargetUnion::ModRevision(written))],
            ..Default::default()
        };
        assert!(reader.txn(txn).await.unwrap().succeeded, "round {round}: compared with a stale value");
    }
}

/// Increments by compare-and-set through all instances; no increment is lost.
pub async fn no_update_is_lost(clients: &[Client], workers: usize, each: usize) {
    let mut tasks = JoinSet::new();
    for worker in 0..workers {
        let client = clients[worker % clients.len()].clone();
        tasks.spawn(async move {
            let mut done = 0;
            while done < each {
                let now = client.get("/counter").await.unwrap().kvs.pop();
                let (count, seen) = now.map_or((0, 0), |kv| {
                    (String::from_utf8_lossy(&kv.value).parse::<usize>().unwrap(), kv.mod_revision)
                });
                let txn = TxnRequest {
                    compare: vec![compare("/counter", CompareResult::Equal, TargetUnion::ModRevision(seen))],
                    success: vec![op(put("/counter", (count + 1).to_string()))],
                    failure: vec![op(get("/counter"))],
                };
                done += usize::from(client.txn(txn).await.unwrap().succeeded);
            }
        });
    }
    while let Some(worker) = tasks.join_next().await {
        worker.unwrap();
    }
    for client in clients {
        let kv = client.kv("/counter").await.unwrap();
        assert_eq!(kv.value, (workers * each).to_string());
        assert_eq!(kv.version, (workers * each) as i64);
    }
}

/// All instances have the same history and the same state.
pub async fn all_agree(clients: &[Client]) {
    let mut answers = Vec::new();
    for client in clients {
        let state = client.range(all("")).await.unwrap();
        let mut watch = WatchStream::open(client);
        watch.watch(WatchCreateRequest { start_revision: 1, prev_kv: true, ..watch_all("") }).await;
        let (_, messages, _) = watch.progress_and_before().await;
        let events: Vec<_> = messages.into_iter().flat_map(|message| message.events).collect();
        answers.push((revision(&state.header), state.kvs, events));
    }
    for other in &answers[1..] {
        assert!(*other == answers[0], "instances disagree");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_through_one_is_read_through_another_at_once() {
    let nats = Nats::start().await;
    let (_servers, clients) = instances(&nats.endpoint(), 2).await;
    reads_are_fresh(&clients, 300).await;
    let (_third, more) = instances(&nats.endpoint(), 1).await;
    reads_are_fresh(&[clients, more].concat(), 150).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compare_and_set_through_three_loses_no_update() {
    let nats = Nats::start().await;
    let (_servers, clients) = instances(&nats.endpoint(), 3).await;
    no_update_is_lost(&clients, 9, 20).await;
    all_agree(&clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_on_one_see_writes_through_another_in_order() {
    let nats = Nats::start().await;
    let (_servers, clients) = instances(&nats.endpoint(), 2).await;
    let mut watch = WatchStream::open(&clients[1]);
    watch.watch(WatchCreateRequest { prev_kv: true, ..watch_all("/w/") }).await;
    let mut expected = Vec::new();
    for round in 0..100 {
        let key = format!("/w/{}", round % 5);
        let client = &clients[round % 2];
        if round % 7 == 6 {
            let delete = client.delete_range(support::client::delete(&key)).await.unwrap();
            if delete.deleted == 1 {
                expected.push((EventType::Delete, key, revision(&delete.header)));
            }
        } else {
            let revision = client.put(&key, round.to_string()).await;
            expected.push((EventType::Put, key, revision));
        }
    }
    let events = watch.events(expected.len()).await;
    assert_eq!(events.iter().map(outline).collect::<Vec<_>>(), expected);
    // Progress on an idle instance goes along with what others write elsewhere.
    let elsewhere = clients[0].put("/elsewhere", "").await;
    eventually("progress", async || (watch.progress().await >= elsewhere).then_some(())).await;
    all_agree(&clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_belong_to_all_instances() {
    let nats = Nats::start().await;
    let (mut servers, clients) = instances(&nats.endpoint(), 2).await;
    let [a, b] = &clients[..] else { unreachable!() };
    a.lease_grant(1, 600).await.unwrap();
    // At once: granted, attached, listed, known by its keys.
    b.put_request(PutRequest { lease: 1, ..put("/on/1", "v") }).await.unwrap();
    assert_eq!(a.lease_time_to_live(1, true).await.unwrap().keys, ["/on/1"]);
    refused(b.lease_grant(1, 600).await, Code::FailedPrecondition, "etcdserver: lease already exists");
    assert_eq!(b.leases().await.unwrap().leases.len(), 1);
    b.lease_revoke(1).await.unwrap();
    assert!(a.kv("/on/1").await.is_none());
    refused(
        a.put_request(PutRequest { lease: 1, ..put("/on/1", "v") }).await,
        Code::NotFound,
        "etcdserver: requested lease not found",
    );

    // Kept alive through the one that did not grant it, it does not end through the other.
    let start_revision = a.revision().await + 1;
    a.lease_grant(2, 2).await.unwrap();
    a.put_request(PutRequest { lease: 2, ..put("/on/2", "kept") }).await.unwrap();
    a.lease_grant(3, 2).await.unwrap();
    for key in ["/on/3", "/on/3b"] {
        a.put_request(PutRequest { lease: 3, ..put(key, "ends") }).await.unwrap();
    }
    let mut keep_alive = KeepAlive::open(b);
    eventually("the other lease to end", async || {
        assert_eq!(keep_alive.renew(2).await.ttl, 2);
        b.kv("/on/3").await.is_none().then_some(())
    })
    .await;
    assert!(a.kv("/on/2").await.is_some());

    // It ended once: one revision with both keys, on either instance.
    for client in &clients {
        let mut watch = WatchStream::open(client);
        watch.watch(WatchCreateRequest { start_revision, prev_kv: true, ..watch_all("/on/3") }).await;
        let (_, messages, _) = watch.progress_and_before().await;
        let events: Vec<_> = messages.iter().flat_map(|message| &message.events).collect();
        assert_eq!(events.len(), 4, "{events:?}");
        assert_eq!(events[2].kv.as_ref().unwrap().mod_revision, events[3].kv.as_ref().unwrap().mod_revision);
        assert_eq!(events[2].prev_kv.as_ref().unwrap().value, "ends");
    }
    // And the survivor of two ends what the other had granted.
    servers[0].kill9();
    eventually("the kept lease to end", async || b.kv("/on/2").await.is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_through_one_holds_for_all() {
    let nats = Nats::start().await;
    let (mut servers, clients) = instances(&nats.endpoint(), 2).await;
    let [a, b] = &clients[..] else { unreachable!() };
    for round in 0..30 {
        a.put("/k", round.to_string()).await;
    }
    let end = b.revision().await;
    a.compact(end - 5).await.unwrap();
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    eventually("the other instance to know", async || {
        let below = b.range(RangeRequest { revision: end - 6, ..get("/k") }).await;
        below.is_err_and(|status| status.message() == compacted).then_some(())
    })
    .await;
    refused(b.compact(end - 5).await, Code::OutOfRange, compacted);
    assert_eq!(b.range(RangeRequest { revision: end - 5, ..get("/k") }).await.unwrap().kvs[0].value, "24");
    let mut watch = WatchStream::open(b);
    let created = watch.create(WatchCreateRequest { start_revision: 3, ..watch_all("") }).await;
    let cancelled = if created.canceled { created } else { watch.next().await };
    assert_eq!((cancelled.canceled, cancelled.compact_revision), (true, end - 5));
    // Both at once, at different revisions: floors only rise.
    for round in 0..10 {
        let now = a.put("/k", round.to_string()).await;
        let (first, second) = tokio::join!(a.compact(now), b.compact(now - 1));
        assert!(first.is_ok(), "{first:?}");
        if let Err(status) = second {
            assert_eq!(status.message(), compacted);
        }
        refused(a.compact(now).await, Code::OutOfRange, compacted);
    }
    servers[1].stop().await;
    servers[1].restart().await;
    let state = a.range(all("")).await.unwrap();
    let restarted = servers[1].client().await.range(all("")).await.unwrap();
    assert_eq!((restarted.kvs, revision(&restarted.header)), (state.kvs, revision(&state.header)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_comes_and_goes_while_another_writes() {
    let nats = Nats::start().await;
    let (mut servers, clients) = instances(&nats.endpoint(), 2).await;
    let stop = CancellationToken::new();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (client, stop) = (clients[0].clone(), stop.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.is_cancelled() {
                    // Never refused and never late: the other instance is nothing to this one.
                    let ops = (0..3).map(|key| op(put(format!("/load/{writer}/{key}"), count.to_string())));
                    client.txn(run(ops.collect())).await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    for round in 0..4 {
        if round % 2 == 0 {
            servers[1].kill9();
        } else {
            servers[1].stop().await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        servers[1].restart().await;
        // The load waits for no end of writes: it is complete as of when it began.
        let client = servers[1].client().await;
        let before = clients[0].revision().await;
        assert!(client.revision().await >= before);
    }
    stop.cancel();
    let mut counts = Vec::new();
    for writer in writers {
        counts.push(writer.await.unwrap());
    }
    let clients = Arc::new([clients[0].clone(), servers[1].client().await]);
    for client in clients.iter() {
        for (writer, count) in counts.iter().enumerate() {
            for kv in client.range(all(format!("/load/{writer}/"))).await.unwrap().kvs {
                assert_eq!((kv.value, kv.version), ((count - 1).to_string().into(), *count));
            }
        }
    }
    all_agree(&clients[..]).await;
}

/// The hashes that corruption checks and `etcdctl endpoint hashkv` compare.
#[tokio::test]
async fn instances_hash_alike() {
    let nats = Nats::start().await;
    let (_servers, clients) = instances(&nats.endpoint(), 2).await;
    for n in 0..20 {
        clients[n % 2].put(format!("/k{}", n % 7), format!("{n}")).await;
    }
    clients[0].txn(run(vec![op(put("/a", "1")), op(delete("/k3"))])).await.unwrap();
    clients[1].compact_request(CompactionRequest { revision: 12, physical: true }).await.unwrap();
    let hashes = async |client: &Client| {
        let mut hashes = Vec::new();
        for revision in 12..=22 {
            let request = HashKvRequest { revision };
            let answer: HashKvResponse =
                client.unary("/etcdserverpb.Maintenance/HashKV", request).await.ok()?;
            hashes.push((answer.hash, answer.compact_revision, answer.hash_revision));
        }
        Some(hashes)
    };
    // Each instance ends the compaction in its own time, and has the hash of what went into it from then on.
    let alike = async || {
        let (one, other) = (hashes(&clients[0]).await?, hashes(&clients[1]).await?);
        (one == other).then_some(())
    };
    eventually("both instances to hash alike", alike).await;
}

/// Each instance makes a snapshot from its own memory.
#[tokio::test]
async fn each_instance_sends_a_snapshot() {
    let nats = Nats::start().await;
    let (_servers, clients) = instances(&nats.endpoint(), 2).await;
    clients[0].lease_grant(3, 600).await.unwrap();
    for n in 0..20 {
        clients[n % 2].put(format!("/k{}", n % 7), format!("{n}")).await;
    }
    clients[1].compact_request(CompactionRequest { revision: 12, physical: true }).await.unwrap();
    let last = clients[0].revision().await;
    for client in &clients {
        // A snapshot is not linearizable: an instance sends its own state.
        let caught_up = async || {
            let answer = client.range(RangeRequest { serializable: true, ..get("/k1") }).await.unwrap();
            (revision(&answer.header) == last).then_some(())
        };
        eventually("the instance to have all writes", caught_up).await;
        let saved = Saved::of(client).await;
        let hash: HashKvResponse =
            client.unary("/etcdserverpb.Maintenance/HashKV", HashKvRequest { revision: last }).await.unwrap();
        assert_eq!(saved.hash_kv().await, format!("{}, {last}, 12", hash.hash));
        let etcd = saved.restored().await;
        let restored = etcd.client().await;
        assert_eq!(restored.range(all("/")).await.unwrap().kvs, client.range(all("/")).await.unwrap().kvs);
        assert_eq!(restored.lease_time_to_live(3, false).await.unwrap().granted_ttl, 600);
    }
}
