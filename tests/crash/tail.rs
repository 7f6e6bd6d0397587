//! Stores that end earlier than they did: after a power cut, or restored from an older copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jetway::proto::etcdserverpb::{CompactionRequest, RangeRequest, WatchCreateRequest};
use tonic::Code;

use crate::files_below;
use support::client::{Client, all, op, put, revision, run};
use support::http::http;
use support::nats::Nats;
use support::server::{Server, signal};
use support::watch::{WatchStream, outline, watch_all};
use support::{eventually, within};

pub fn copy(from: &Path, to: &Path) {
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
pub fn blocks(dir: &Path, stream: &str) -> Vec<PathBuf> {
    let mut found = files_below(dir);
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

/// Starts a server on its store once more, which it must refuse; returns what it reports.
async fn refusal(server: &mut Server) -> String {
    let before = server.log().len();
    let status = server.ends().await;
    let log = server.log()[before..].to_owned();
    assert!(!status.success(), "{log}");
    assert!(log.contains("--accept-data-loss"), "{log}");
    log
}

/// Kills both processes at once, as a power cut does: none of them writes anything more.
pub fn kill_both(server: &mut Server) {
    signal(server.nats_pid(), libc::SIGKILL);
    server.kill9();
}

/// Takes bytes off the end of the stream's newest block.
fn cut(server: &Server, bytes: u64) {
    let block = blocks(&server.dir().join("data"), "KV_jetway").pop().unwrap();
    let size = fs::metadata(&block).unwrap().len();
    fs::File::options().write(true).open(&block).unwrap().set_len(size - bytes).unwrap();
}

/// Returns when the mark beside the store names the index of everything that was answered.
pub async fn marked(server: &Server, client: &Client) {
    let end = client.status().await.unwrap().raft_index;
    let mark = server.dir().join("data/synced-jetway");
    eventually("the end is written down", async || {
        let text = fs::read_to_string(&mark).ok()?;
        (text.split(' ').nth(2)?.parse::<u64>().ok()? >= end).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_data_is_served_as_it_is() {
    let mut server = Server::start_with(&["--sync", "group"]).await;
    let data = server.dir().join("data");
    let copied = server.dir().join("copy");
    let client = server.client().await;
    write_some(&client, "first").await;
    client.compact(30).await.unwrap();
    client.lease_grant(7, 600).await.unwrap();
    // The test compares what is left when the removals are done.
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
    // The mark is part of the copy.
    replace(&data, &copied);
    server.restart().await;

    let client = server.client().await;
    let now = client.range(all("")).await.unwrap();
    assert_eq!((revision(&now.header), &now.kvs), (revision(&at_copy.header), &at_copy.kvs));
    assert_eq!(client.lease_time_to_live(7, false).await.unwrap().granted_ttl, 600);
    let next = client.put("/k/0", "third").await;
    assert_eq!(next, revision(&at_copy.header) + 1);
}

/// The records that the last start found missing.
async fn lost(server: &Server) -> i64 {
    let metrics = http(&server.address(), "GET", "/metrics").await.body;
    let line = metrics.lines().find_map(|line| line.strip_prefix("jetway_lost_messages "));
    line.expect("a gauge").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_replaced_by_an_older_copy_is_refused_until_the_loss_is_accepted() {
    let mut server = Server::start_with(&["--sync", "group"]).await;
    let (store, copied) = (server.dir().join("data/nats"), server.dir().join("copy"));
    let client = server.client().await;
    write_some(&client, "kept").await;
    let kept = client.range(all("")).await.unwrap();
    server.stop().await;
    copy(&store, &copied);
    server.restart().await;
    assert_eq!(lost(&server).await, 0);
    let client = server.client().await;
    for at in 0..10 {
        client.put("/lost", at.to_string()).await;
    }
    marked(&server, &client).await;
    server.stop().await;
    replace(&store, &copied);
    for _ in 0..2 {
        let log = refusal(&mut server).await;
        assert!(log.contains("more records were synced and answered"), "{log}");
    }
    server.set_args(&["--sync", "group", "--accept-data-loss"]);
    server.restart().await;
    assert!(lost(&server).await >= 10);
    let now = server.client().await.range(all("")).await.unwrap();
    assert_eq!((revision(&now.header), &now.kvs), (revision(&kept.header), &kept.kvs));
    server.stop().await;
    server.set_args(&["--sync", "group"]);
    server.restart().await;
    let client = server.client().await;
    assert_eq!(client.range(all("")).await.unwrap().kvs, kept.kvs);
    assert_eq!(client.put("/k/0", "after").await, revision(&kept.header) + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synced_tail_that_is_lost_is_noticed() {
    let mut server = Server::start_with(&["--sync", "group"]).await;
    let client = server.client().await;
    write_some(&client, "kept").await;
    let (end, kvs, _) = dump(&client).await;
    client.put("/lost", "x".repeat(300)).await;
    marked(&server, &client).await;
    kill_both(&mut server);
    cut(&server, 100);
    refusal(&mut server).await;
    server.set_args(&["--sync", "group", "--accept-data-loss"]);
    server.restart().await;
    assert!(lost(&server).await > 0);
    let client = server.client().await;
    let now = dump(&client).await;
    assert_eq!((now.0, &now.1), (end, &kvs));
    assert_eq!(client.put("/k/0", "after").await, end + 1);
    let then = dump(&client).await;
    kill_both(&mut server);
    server.set_args(&["--sync", "group"]);
    server.restart().await;
    assert_eq!(dump(&server.client().await).await, then, "a restart sees another history");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_lost_its_end_is_as_if_it_had_never_been() {
    // Nothing is synced, so that there is no mark that shows the loss.
    let mut server = Server::start().await;
    let client = server.client().await;
    write_some(&client, "kept").await;
    let before = dump(&client).await;
    let txn = run(["/t/0", "/t/1", "/new"].map(|key| op(put(key, "x".repeat(300)))).to_vec());
    client.txn(txn).await.unwrap();
    kill_both(&mut server);
    // In the middle of a message.
    cut(&server, 500);
    server.restart().await;

    let client = server.client().await;
    let now = dump(&client).await;
    assert_eq!(now, before, "something of the torn transaction is there");
    // Its revision is used again, and its keys are free.
    let txn = run(["/t/0", "/t/1", "/new"].map(|key| op(put(key, "again"))).to_vec());
    let written = revision(&client.txn(txn).await.unwrap().header);
    assert_eq!(written, before.0 + 1);
    let then = dump(&client).await;
    server.kill9();
    server.restart().await;
    assert_eq!(dump(&server.client().await).await, then, "a restart sees another history");
}

/// The tail holds the trim record that permits what a compaction has removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_is_lost_with_a_compaction_does_not_stop_writes() {
    let mut server = Server::start_with(&["--sync", "group"]).await;
    let client = server.client().await;
    write_some(&client, "kept").await;
    for at in 0..10 {
        client.put("/lost", format!("{at}")).await;
    }
    let end = client.revision().await;
    client.compact(end).await.unwrap();
    client.defragment().await.unwrap();
    marked(&server, &client).await;
    kill_both(&mut server);
    cut(&server, 600);
    refusal(&mut server).await;
    server.set_args(&["--sync", "group", "--accept-data-loss"]);
    server.restart().await;

    let client = server.client().await;
    let written = client.put("/k/0", "after").await;
    assert_eq!(client.kv("/k/0").await.unwrap().value, "after");
    let then = client.range(all("")).await.unwrap();
    server.stop().await;
    server.set_args(&["--sync", "group"]);
    server.restart().await;
    let now = server.client().await.range(all("")).await.unwrap();
    assert_eq!((revision(&now.header), now.kvs), (written, then.kvs));
}

/// NATS comes back with an older store while jetway runs. `between` may change the copy before it is put in
/// place.
async fn store_goes_back(between: impl AsyncFnOnce(&Path)) {
    let mut nats = Nats::start().await;
    let mut server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    let client = server.client().await;
    write_some(&client, "first").await;
    client.put("/which", "old").await;
    client.lease_grant(1, 600).await.unwrap();
    nats.stop().await;
    let copied = nats.dir().join("copy");
    copy(&nats.store(), &copied);
    nats.restart().await;
    let of_copy = eventually("jetway to be back", async || client.range(all("")).await.ok()).await;

    // These are lost in a moment, compaction and leases included.
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
    // Readers that wait through all of it get no answer at all.
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                loop {
                    let answer = client.get("/which").await;
                    let status = answer.expect_err("a log that was replaced is read");
                    // A connection that ends cancels its calls.
                    let codes = [Code::Unavailable, Code::Cancelled, Code::Unknown];
                    assert!(codes.contains(&status.code()), "{status:?}");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();
    nats.restart().await;
    let status = server.ended().await;
    for reader in readers {
        assert!(!reader.is_finished(), "{:?}", reader.await);
        reader.abort();
    }
    let log = server.log();
    assert!(!status.success() && log.contains("--accept-data-loss"), "{log}");
    // The watch ends, whether by a message or a status, and reports nothing more.
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

    // An instance that knows nothing of the loss serves the old store, which is all there is.
    server.restart().await;
    let client = server.client().await;
    let lease = client.lease_time_to_live(1, false).await.unwrap();
    assert_eq!(lease.granted_ttl, 600, "the lease is there again");
    let written = client.put("/which", "newest").await;
    assert!(written >= lost_from);
    assert_eq!(client.kv("/which").await.unwrap().value, "newest");
    assert!(client.kv("/seen").await.is_none(), "revision {seen} is lost");
    let old = client.range(RangeRequest { revision: lost_from - 1, ..all("") }).await.unwrap();
    assert_eq!(old.kvs, of_copy.kvs, "the floor went with the rest");
    let other = Server::start_with(&["--endpoint", &nats.endpoint(), "--name", "other"]).await;
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
