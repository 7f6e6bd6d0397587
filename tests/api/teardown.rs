//! Streams and waits that their clients leave: nothing of them stays behind.

use jetway::proto::etcdserverpb::{CompactionRequest, SnapshotRequest, SnapshotResponse, TxnRequest};
use jetway::proto::v3electionpb::{LeaderRequest, LeaderResponse};
use jetway::proto::v3lockpb::{LockRequest, LockResponse};

use support::client::*;
use support::http::http;
use support::keys::b;
use support::lease::KeepAlive;
use support::server::{Server, Target};
use support::watch::{WatchStream, watch_all};
use support::{eventually, within};

/// The sum of a metric's series whose labels hold all of `labels`.
async fn metric(server: &Server, name: &str, labels: &[&str]) -> f64 {
    let text = http(&server.address(), "GET", "/metrics").await.body;
    let of = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, found_labels) = series.split_once('{').unwrap_or((series, ""));
        let matches = found == name && labels.iter().all(|label| found_labels.contains(label));
        matches.then(|| value.parse::<f64>().unwrap())
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(of).sum()
}

/// Calls of a method that have begun and not ended.
async fn open_calls(server: &Server, service: &str, method: &str) -> f64 {
    let labels = [format!("grpc_service=\"{service}\""), format!("grpc_method=\"{method}\"")];
    let labels = [labels[0].as_str(), labels[1].as_str()];
    let started = metric(server, "grpc_server_started_total", &labels).await;
    started - metric(server, "grpc_server_handled_total", &labels).await
}

const METHODS: [(&str, &str); 4] = [
    ("etcdserverpb.Watch", "Watch"),
    ("etcdserverpb.Lease", "LeaseKeepAlive"),
    ("v3lockpb.Lock", "Lock"),
    ("v3electionpb.Election", "Observe"),
];

/// MET-1, LOCK-4
#[tokio::test]
async fn cancelled_calls_leave_no_watchers_and_no_waiters() {
    const EACH: usize = 20;
    let server = Server::start().await;
    let client = server.client().await;
    client.lease_grant(1, 600).await.unwrap();
    let lock = async |client: &Client, lease| -> Answer<LockResponse> {
        client.unary("/v3lockpb.Lock/Lock", LockRequest { name: b("lock"), lease }).await
    };
    lock(&client, 1).await.unwrap();

    let leaving = server.client().await;
    let (mut watches, mut keep_alives) = (Vec::new(), Vec::new());
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..EACH {
        let mut watch = WatchStream::open(&leaving);
        for _ in 0..5 {
            watch.watch(watch_all("/")).await;
        }
        watches.push(watch);
        let mut keep_alive = KeepAlive::open(&leaving);
        assert_eq!(keep_alive.renew(1).await.ttl, 600);
        keep_alives.push(keep_alive);
        let lease = 100 + n as i64;
        client.lease_grant(lease, 600).await.unwrap();
        let locking = leaving.clone();
        waiting.spawn(async move { drop(lock(&locking, lease).await) });
        let observing = leaving.clone();
        waiting.spawn(async move {
            let request = LeaderRequest { name: b("nobody") };
            let observed: Answer<tonic::Streaming<LeaderResponse>> =
                observing.server_stream("/v3electionpb.Election/Observe", request).await;
            if let Ok(mut observed) = observed {
                drop(observed.message().await);
            }
        });
    }
    for (service, method) in METHODS {
        let all = async || (open_calls(&server, service, method).await >= EACH as f64).then_some(());
        eventually(&format!("all calls of {method} to run"), all).await;
    }
    let watchers = async || {
        let watchers = metric(&server, "etcd_debugging_mvcc_watcher_total", &[]).await;
        (watchers, metric(&server, "etcd_debugging_mvcc_watch_stream_total", &[]).await)
    };
    // Those of the clients, and those of locks and observers.
    let all =
        async || Some(watchers().await).filter(|(watchers, _)| *watchers >= (5 * EACH + 2 * EACH) as f64);
    eventually("all watchers", all).await;

    watches.clear();
    keep_alives.clear();
    waiting.shutdown().await;
    drop(leaving);
    for (service, method) in METHODS {
        let ended = async || (open_calls(&server, service, method).await == 0.0).then_some(());
        eventually(&format!("all calls of {method} to end"), ended).await;
    }
    eventually("all watchers to go", async || (watchers().await.0 == 0.0).then_some(())).await;
    if server.target() == Target::Jetway {
        // etcd's own client keeps a stream open for locks to come.
        assert_eq!(watchers().await.1, 0.0);
    }
    let line = async || (client.list("lock/").await == ["1"]).then_some(());
    eventually("the line for the lock to be empty", line).await;
    assert_eq!(metric(&server, "etcd_server_proposals_pending", &[]).await, 0.0);
    within("a write", client.put("/k", "v")).await;
}

/// CMP-11, for memory
#[tokio::test]
async fn compaction_frees_the_memory_of_the_history() {
    // etcd's memory is pages of its file.
    let server = Server::launch(Target::Jetway, &[]).await;
    let client = server.client().await;
    let resident = async || metric(&server, "process_resident_memory_bytes", &[]).await;
    let empty = resident().await;
    let mut newest = 0;
    for _ in 0..100 {
        let puts = (0..100).map(|n| op(put(format!("key {n}"), "x".repeat(8_000)))).collect();
        newest = revision(
            &client.txn(TxnRequest { success: puts, ..TxnRequest::default() }).await.unwrap().header,
        );
    }
    let full = resident().await;
    assert!(full - empty > 80e6, "{empty} before, {full} after 80 MB of history");
    client.compact(newest).await.unwrap();
    eventually("the history's memory is given back", async || {
        (resident().await - empty < (full - empty) / 2.0).then_some(())
    })
    .await;
}

/// A snapshot keeps the state that it shows, and gives it back when its client leaves.
#[tokio::test]
async fn an_abandoned_snapshot_frees_its_state() {
    const VALUES: usize = 40;
    // etcd's memory is pages of its file.
    let server = Server::launch(Target::Jetway, &[]).await;
    let client = server.client().await;
    let resident = async || metric(&server, "process_resident_memory_bytes", &[]).await;
    let empty = resident().await;
    for n in 0..VALUES {
        client.put(format!("/{n}"), vec![b'v'; 1 << 20]).await;
    }
    let leaving = server.client().await;
    let mut snapshot: tonic::Streaming<SnapshotResponse> =
        leaving.server_stream("/etcdserverpb.Maintenance/Snapshot", SnapshotRequest {}).await.unwrap();
    let first = within("the first blob", snapshot.message()).await.unwrap().unwrap();
    assert!(first.remaining_bytes > (VALUES << 20) as u64);
    client.delete_range(delete_all("/")).await.unwrap();
    // The event of the floor itself still has its previous values.
    let revision = client.put("/last", "x").await;
    client.compact_request(CompactionRequest { revision, physical: true }).await.unwrap();
    let most = empty + (VALUES << 20) as f64 / 2.0;
    assert!(resident().await > most, "the state is what the snapshot shows");
    drop(snapshot);
    drop(leaving);
    let ended =
        async || (open_calls(&server, "etcdserverpb.Maintenance", "Snapshot").await == 0.0).then_some(());
    eventually("the call to end", ended).await;
    eventually("the memory to be free", async || (resident().await < most).then_some(())).await;
}
