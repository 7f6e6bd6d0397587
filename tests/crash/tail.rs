//! Stores that end earlier than they did: after a power cut, or restored from an older copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::{CompactionRequest, RangeRequest, WatchCreateRequest};
use tonic::Code;

use crate::support::client::{Client, all, op, put, revision, run};
use crate::support::http::http;
use crate::support::nats::Nats;
use crate::support::server::{Server, signal};
use crate::support::watch::{WatchStream, outline, watch_all};
use crate::support::{eventually, within};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn replace(store: &Path, by: &Path) {
    fs::remove_dir_all(store).unwrap();
    copy(by, store);
}

/// The files of a stream's messages below `dir`, oldest first.
fn blocks(dir: &Path, stream: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, &mut found);
    let in_stream = format!("/{stream}/msgs/");
    found.retain(|path| {
        path.to_str().unwrap().contains(&in_stream) && path.extension().is_some_and(|ext| ext == "blk")
    });
    found.sort_by_key(|path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap());
    assert!(!found.is_empty(), "no blocks of {stream} below {}", dir.display());
    found
}

/// Everything that is stored and everything that has happened.
async fn dump(client: &Client) -> (i64, Vec<jetway::proto::mvccpb::KeyValue>, Vec<String>) {
    let now = client.range(all("")).await.unwrap();
    let end = revision(&now.header);
    let mut watch = WatchStream::open(client);
    watch.watch(WatchCreateRequest { start_revision: 1, prev_kv: true, ..watch_all("") }).await;
    let (_, before, _) = watch.progress_and_before().await;
    let events = before.iter().flat_map(|message| &message.events);
    (end, now.kvs, events.map(|event| format!("{:?}", outline(event))).collect())
}

/// A little of everything.
async fn write_some(client: &Client, name: &str) {
    for at in 0..20 {
        client.put(format!("/k/{}", at % 7), format!("{name} {at}")).await;
        let txn = run((0..3).map(|key| op(put(format!("/t/{key}"), format!("{name} {at}")))).collect());
        client.txn(txn).await.unwrap();
    }
    client.delete("/k/3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_store_is_served_as_it_is() {
    let mut server = Server::start().await;
    let data = server.dir().join("data");
    let copied = server.dir().join("copy");
    let client = server.client().await;
    write_some(&client, "first").await;
    client.compact(30).await.unwrap();
    client.lease_grant(7, 600).await.unwrap();
    // What is compared is what is left when the removals are done.
    client.defragment().await.unwrap();
    let at_copy = client.range(all("")).await.unwrap();
    server.stop().await;
    copy(&data, &copied);
    server.restart().await;
    let client = server.client().await;
    write_some(&client, "second").await;
    client.compact(revision(&at_copy.header) + 10).await.unwrap();
    client.lease_revoke(7).await.unwrap();
    server.stop().await;
    replace(&data, &copied);
    server.restart().await;

    let client = server.client().await;
    let now = client.range(all("")).await.unwrap();
    assert_eq!((revision(&now.header), &now.kvs), (revision(&at_copy.header), &at_copy.kvs));
    assert_eq!(client.lease_time_to_live(7, false).await.unwrap().granted_ttl, 600);
    let next = client.put("/k/0", "third").await;
    assert_eq!(next, revision(&at_copy.header) + 1);
}

/// The messages that the last start found missing.
async fn lost(server: &Server) -> i64 {
    let metrics = http(&server.address(), "GET", "/metrics").await.body;
    let line = metrics.lines().find_map(|line| line.strip_prefix("jetway_lost_messages "));
    line.expect("a gauge").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_what_was_on_the_disk_is_noticed() {
    let mut server = Server::start_with(&["--sync", "group"]).await;
    let (store, copied) = (server.dir().join("data/nats"), server.dir().join("copy"));
    let client = server.client().await;
    write_some(&client, "kept").await;
    server.stop().await;
    copy(&store, &copied);
    server.restart().await;
    assert_eq!(lost(&server).await, 0);
    let client = server.client().await;
    for at in 0..10 {
        client.put("/lost", at.to_string()).await;
    }
    let end = client.status().await.unwrap().raft_index;
    let mark = server.dir().join("data/synced");
    let marked =
        async || fs::read_to_string(&mark).ok()?.trim_end().ends_with(&format!(" {end}")).then_some(());
    eventually("the end is written down", marked).await;
    server.stop().await;
    replace(&store, &copied);
    server.restart().await;
    assert_eq!(lost(&server).await, 10);
    assert!(server.log().contains("the store has lost its newest messages"));
    server.stop().await;
    server.restart().await;
    assert_eq!(lost(&server).await, 0, "it is told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_lost_its_end_is_as_if_it_had_never_been() {
    let mut server = Server::start().await;
    let client = server.client().await;
    write_some(&client, "kept").await;
    let (before, kvs, events) = dump(&client).await;
    let txn = run(["/t/0", "/t/1", "/new"].map(|key| op(put(key, "x".repeat(300)))).to_vec());
    client.txn(txn).await.unwrap();
    // As a power cut does: no process writes anything more, and the end of the file is gone, in the middle of a
    // message.
    let nats = server.nats_pid();
    signal(nats, libc::SIGKILL);
    server.kill9();
    let block = blocks(&server.dir().join("data"), "KV_jetway").pop().unwrap();
    let size = fs::metadata(&block).unwrap().len();
    fs::File::options().write(true).open(&block).unwrap().set_len(size - 500).unwrap();
    server.restart().await;

    let client = server.client().await;
    let now = dump(&client).await;
    assert_eq!((&now.1, &now.2), (&kvs, &events), "something of the torn transaction is there");
    // Its whole messages, one or two, spent a revision each, and nothing more.
    assert!((before + 1..=before + 2).contains(&now.0), "revision {} after {before}", now.0);
    // The keys are free, those of the torn transaction above all, and instances agree on what comes next.
    let txn = run(["/t/0", "/t/1", "/new"].map(|key| op(put(key, "again"))).to_vec());
    let written = revision(&client.txn(txn).await.unwrap().header);
    assert!(written > now.0);
    let then = dump(&client).await;
    server.kill9();
    server.restart().await;
    assert_eq!(dump(&server.client().await).await, then, "a restart sees another history");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floor_above_the_end_of_the_keys_does_not_stop_writes() {
    let mut server = Server::start().await;
    let client = server.client().await;
    write_some(&client, "kept").await;
    for at in 0..10 {
        client.put("/lost", format!("{at}")).await;
    }
    let end = client.revision().await;
    client.compact(end).await.unwrap();
    let nats = server.nats_pid();
    signal(nats, libc::SIGKILL);
    server.kill9();
    let block = blocks(&server.dir().join("data"), "KV_jetway").pop().unwrap();
    let size = fs::metadata(&block).unwrap().len();
    fs::File::options().write(true).open(&block).unwrap().set_len(size - 600).unwrap();
    server.restart().await;

    let client = server.client().await;
    let written = client.put("/k/0", "after").await;
    assert!(written > end, "revision {written} after a compaction at {end}");
    assert_eq!(client.kv("/k/0").await.unwrap().value, "after");
    let then = client.range(all("")).await.unwrap();
    server.stop().await;
    server.restart().await;
    let now = server.client().await.range(all("")).await.unwrap();
    assert_eq!((revision(&now.header), now.kvs), (written, then.kvs));
}

/// NATS comes back with an older store while jetway runs. `between` may change the copy before it is put in place.
async fn store_goes_back(between: impl AsyncFnOnce(&Path)) {
    let mut nats = Nats::start().await;
    let server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    let client = server.client().await;
    write_some(&client, "first").await;
    client.put("/which", "old").await;
    client.lease_grant(1, 600).await.unwrap();
    nats.stop().await;
    let copied = nats.dir().join("copy");
    copy(&nats.store(), &copied);
    nats.restart().await;
    let of_copy = eventually("jetway to be back", async || client.range(all("")).await.ok()).await;

    // What is lost in a moment, compaction and leases included.
    write_some(&client, "second").await;
    client.put("/which", "new").await;
    // Physically: a removal that is still on its way when NATS comes back would hit the older store.
    let compact = CompactionRequest { revision: client.revision().await, physical: true };
    client.compact_request(compact).await.unwrap();
    client.lease_revoke(1).await.unwrap();
    let lost_from = revision(&of_copy.header) + 1;
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_all("")).await;
    let seen = client.put("/seen", "").await;
    watch.events(1).await;

    nats.stop().await;
    between(&copied).await;
    replace(&nats.store(), &copied);
    // Readers that wait through all of it.
    let down = Instant::now();
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                loop {
                    match client.get("/which").await {
                        Ok(answer) => {
                            assert_eq!(answer.kvs[0].value, "old", "what was lost was served as current");
                            return revision(&answer.header);
                        }
                        Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
                    }
                    assert!(down.elapsed() < Duration::from_secs(60), "jetway does not come back");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();
    nats.restart().await;
    for reader in readers {
        reader.await.unwrap();
    }
    // The watch ends, whether by a message or a status, and tells nothing more.
    within("the end of the watch", async {
        loop {
            match watch.message().await {
                Some(Ok(message)) if message.canceled => return,
                Some(Ok(message)) => assert!(message.events.is_empty(), "{message:?}"),
                Some(Err(status)) => return assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
                None => panic!("the watch ended without a reason"),
            }
        }
    })
    .await;

    // From here on the old store is all there is.
    let lease = client.lease_time_to_live(1, false).await.unwrap();
    assert_eq!(lease.granted_ttl, 600, "the lease is there again");
    let written = client.put("/which", "newest").await;
    assert!(written >= lost_from);
    assert_eq!(client.kv("/which").await.unwrap().value, "newest");
    assert!(client.kv("/seen").await.is_none(), "revision {seen} is lost");
    let old = client.range(RangeRequest { revision: lost_from - 1, ..all("") }).await.unwrap();
    assert_eq!(old.kvs, of_copy.kvs, "the floor went with the rest");
    // An instance that knows nothing of what was lost tells the same.
    let other = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    assert_eq!(dump(&client).await, dump(&other.client().await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jetway_notices_that_the_store_went_back() {
    store_goes_back(async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jetway_notices_that_the_store_went_back_and_has_grown_again() {
    store_goes_back(async |copied| {
        // Another instance on another server, until the stream is longer than it was.
        let mut elsewhere = Nats::start().await;
        elsewhere.stop().await;
        replace(&elsewhere.store(), copied);
        elsewhere.restart().await;
        let mut server = Server::start_with(&["--endpoint", &elsewhere.endpoint()]).await;
        let client = server.client().await;
        for at in 0..200 {
            client.put("/elsewhere", format!("{at}")).await;
        }
        client.delete("/elsewhere").await;
        server.stop().await;
        elsewhere.stop().await;
        fs::remove_dir_all(copied).unwrap();
        copy(&elsewhere.store(), copied);
    })
    .await;
}
