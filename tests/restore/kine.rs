//! A running kine is copied while its clients write as a kube-apiserver does.

use std::fs::File;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jetway::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use jetway::proto::etcdserverpb::{PutRequest, RangeRequest, TxnRequest, WatchCreateRequest};
use jetway::proto::mvccpb::{Event, KeyValue};
use support::client::*;
use support::eventually;
use support::server::{Port, Server, peer, spawn};
use support::watch::{WatchStream, pair, watch_all};
use tempfile::TempDir;

use crate::migrate::{Migration, empty};

const OBJECTS: usize = 1200;

/// A running kine.
struct Kine {
    child: Child,
    port: Port,
    folder: TempDir,
}

impl Kine {
    /// Over SQLite in its folder, as kine does by itself.
    async fn start() -> Kine {
        let (folder, port) = (TempDir::new().unwrap(), Port::claim());
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(peer("JETWAY_BENCH_KINE", "kine"));
        command
            .args(["--listen-address", &format!("127.0.0.1:{}", port.number)])
            .args(["--metrics-bind-address", "0", "--watch-progress-notify-interval", "1s"])
            .current_dir(folder.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut kine = Kine { child: spawn(command).unwrap(), port, folder };
        eventually("a kine that serves", async || {
            let log = std::fs::read_to_string(kine.folder.path().join("log")).unwrap();
            assert!(kine.child.try_wait().unwrap().is_none(), "{log}");
            log.contains("available at").then_some(())
        })
        .await;
        kine
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number)
    }
}

impl Drop for Kine {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn name(object: usize) -> String {
    format!("/registry/pods/default/pod-{object:05}")
}

/// Writes an object whose last revision is known, 0 for none; returns the new one.
async fn write(client: &Client, key: &str, before: i64, value: &str, lease: i64) -> i64 {
    let request = TxnRequest {
        compare: vec![compare(key, CompareResult::Equal, TargetUnion::ModRevision(before))],
        success: vec![op(PutRequest { lease, ..put(key, value) })],
        failure: if before == 0 { Vec::new() } else { vec![op(get(key))] },
    };
    let answer = client.txn(request).await.unwrap();
    assert!(answer.succeeded, "{key} at {before}");
    revision(&answer.header)
}

async fn remove(client: &Client, key: &str, before: i64) {
    let request = TxnRequest {
        compare: vec![compare(key, CompareResult::Equal, TargetUnion::ModRevision(before))],
        success: vec![op(delete(key))],
        failure: vec![op(get(key))],
    };
    assert!(client.txn(request).await.unwrap().succeeded, "{key} at {before}");
}

/// All objects, without the number of their versions: kine keeps none.
async fn objects(client: &Client) -> (i64, Vec<KeyValue>) {
    let request = RangeRequest { key: "/".into(), range_end: "0".into(), ..Default::default() };
    let answer = client.range(request).await.unwrap();
    let plain = |pair: KeyValue| KeyValue { version: 0, ..pair };
    (revision(&answer.header), answer.kvs.into_iter().map(plain).collect())
}

/// Creates, changes and deletes objects until it is asked to stop; returns the number of its writes.
async fn churn(client: Client, stop: Arc<AtomicBool>) -> usize {
    let mut known: Vec<(String, i64)> = Vec::new();
    let mut writes = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("/registry/events/default/event-{writes:05}");
        let created = write(&client, &key, 0, "created", 0).await;
        let changed = write(&client, &key, created, "changed", 0).await;
        known.push((key, changed));
        if known.len() > 10 {
            let (key, at) = known.remove(0);
            remove(&client, &key, at).await;
        }
        writes += 1;
    }
    writes
}

/// The first forty events, however they are batched.
async fn first(watch: &mut WatchStream) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < 40 {
        events.extend(watch.next_but_progress().await.events);
    }
    events.truncate(40);
    events
}

fn outline(event: &Event) -> (i32, KeyValue) {
    let pair = pair(event);
    // Of a deleted key etcd shows the name and the revision alone.
    let (value, create_revision, lease) = if event.r#type == 0 {
        (pair.value.clone(), pair.create_revision, pair.lease)
    } else {
        Default::default()
    };
    (event.r#type, KeyValue { value, create_revision, lease, version: 0, ..pair.clone() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_at_a_switch_over_from_kine() {
    let kine = Kine::start().await;
    let client = Client::connect(&kine.endpoint()).await;
    let lease = client.lease_grant(0, 3600).await.unwrap().id;
    for object in 0..OBJECTS {
        let lease = if object % 100 == 0 { lease } else { 0 };
        let at = write(&client, &name(object), 0, "first", lease).await;
        match object % 10 {
            3 => drop(write(&client, &name(object), at, "second", lease).await),
            7 => remove(&client, &name(object), at).await,
            _ => {}
        }
    }
    let (mut target, data) = empty();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(churn(client.clone(), Arc::clone(&stop)));
    let from = kine.endpoint();
    let mut migration = Migration::begin(&["--from", &from, "--data-dir", &data, "--switch-over"]);
    migration.follows().await;
    let seen = objects(&client).await.0;
    let mut theirs = WatchStream::open(&client);
    theirs.watch(WatchCreateRequest { start_revision: seen + 1, ..watch_all("/registry/events/") }).await;
    let theirs = first(&mut theirs).await;
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 10);
    let (status, output) = migration.ended().await;
    assert!(status.success() && output.contains("all keys are equal"), "{output}");
    target.restart().await;
    let copy = target.client().await;
    let (source, copied) = (objects(&client).await, objects(&copy).await);
    assert_eq!(copied.0, source.0, "the revision");
    assert!(
        source.1.len() > 1000 && copied.1 == source.1,
        "{} and {} objects",
        copied.1.len(),
        source.1.len()
    );
    assert_eq!(copy.leases().await.unwrap().leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [3600]);
    // A watch goes on at the copy, and a change needs the revision that its client knows.
    let mut ours = WatchStream::open(&copy);
    ours.watch(WatchCreateRequest { start_revision: seen + 1, ..watch_all("/registry/events/") }).await;
    let ours = first(&mut ours).await;
    assert_eq!(ours.iter().map(outline).collect::<Vec<_>>(), theirs.iter().map(outline).collect::<Vec<_>>());
    let known = copied.1.iter().find(|pair| pair.key == name(3)).unwrap();
    let written = write(&copy, &name(3), known.mod_revision, "by the copy", 0).await;
    assert_eq!(written, source.0 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kine_that_is_written_to_is_no_end() {
    let kine = Kine::start().await;
    let client = Client::connect(&kine.endpoint()).await;
    write(&client, &name(0), 0, "first", 0).await;
    let (mut target, data) = empty();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(churn(client.clone(), Arc::clone(&stop)));
    let from = kine.endpoint();
    let mut migration = Migration::begin(&["--from", &from, "--data-dir", &data]);
    migration.follows().await;
    let (status, output) = migration.stop().await;
    assert!(!status.success() && output.contains("was written to after the end of the copy"), "{output}");
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    assert!(target.try_restart().await.is_err());
    assert!(target.log().contains("run the same command once more"), "{}", target.log());
    // The process that migrates serves, too.
    target.set_command(&["migrate", "--from", &from, "--switch-over", "--serve"]);
    target.begin();
    target.is_up().await;
    assert!(target.log().contains("stop its writers"), "{}", target.log());
    assert_eq!(objects(&target.client().await).await, objects(&client).await);
    target.kill9();
    target.set_command(&[]);
    restarted(target, &client).await;
}

async fn restarted(mut target: Server, source: &Client) {
    target.restart().await;
    assert_eq!(objects(&target.client().await).await, objects(source).await);
}

/// A kube-apiserver notes its compactions in a key that kine hides. No client sees the revision of that
/// write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_only_kine_knows_raises_the_floor() {
    let kine = Kine::start().await;
    let client = Client::connect(&kine.endpoint()).await;
    let first = write(&client, &name(0), 0, "first", 0).await;
    let (mut target, data) = empty();
    let mut migration = Migration::begin(&["--from", &kine.endpoint(), "--data-dir", &data]);
    migration.follows().await;
    let key = "compact_rev_key";
    let noted = TxnRequest {
        compare: vec![compare(key, CompareResult::Equal, TargetUnion::Version(0))],
        success: vec![op(put(key, first.to_string()))],
        failure: vec![op(get(key))],
    };
    client.txn(noted).await.unwrap();
    let last = write(&client, &name(0), first, "second", 0).await;
    let hidden = last - 1;
    assert!(hidden > first, "the note has revision {hidden}");
    let (status, output) = migration.stop().await;
    assert!(status.success() && output.contains(&format!("compacted to {hidden};")), "{output}");
    for _ in 0..2 {
        target.restart().await;
        let copy = target.client().await;
        assert_eq!(objects(&copy).await, objects(&client).await);
        target.kill9();
    }
    target.restart().await;
    let copy = target.client().await;
    let mut watch = WatchStream::open(&copy);
    watch.watch(WatchCreateRequest { start_revision: last, ..watch_all("/registry/") }).await;
    assert_eq!(watch.events(1).await[0].kv.as_ref().unwrap().value, "second");
    assert_eq!(write(&copy, &name(0), last, "third", 0).await, last + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_other_letters_are_copied() {
    let kine = Kine::start().await;
    let client = Client::connect(&kine.endpoint()).await;
    write(&client, "ключ", 0, "listed", 0).await;
    write(&client, "~~", 0, "listed", 0).await;
    let (mut target, data) = empty();
    let mut migration = Migration::begin(&["--from", &kine.endpoint(), "--data-dir", &data]);
    migration.follows().await;
    write(&client, "𝄞", 0, "watched", 0).await;
    let (status, output) = migration.stop().await;
    assert!(status.success(), "{output}");
    target.restart().await;
    let copy = target.client().await;
    for key in ["ключ", "~~", "𝄞"] {
        let (ours, theirs) = (copy.kv(key).await, client.kv(key).await.unwrap());
        let ours = ours.map(|pair| KeyValue { version: theirs.version, ..pair });
        assert_eq!(ours, Some(theirs), "{key}");
    }
}
