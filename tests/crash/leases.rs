//! Leases over restarts.

use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::{PutRequest, WatchCreateRequest};

use support::client::{Client, put, refused};
use support::eventually;
use support::lease::KeepAlive;
use support::server::{Server, signal};
use support::watch::{WatchStream, watch_all};

const SECOND: Duration = Duration::from_secs(1);
/// The time beside its TTL in which a lease ends after a start, on a busy machine.
const GRACE: Duration = Duration::from_secs(5);

async fn grant_with_key(client: &Client, id: i64, ttl: i64) -> Instant {
    let granted = Instant::now();
    client.lease_grant(id, ttl).await.unwrap();
    client.put_request(PutRequest { lease: id, ..put(format!("/leased/{id}"), "v") }).await.unwrap();
    granted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_outlive_both_processes_and_begin_again() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let short = grant_with_key(&client, 1, 3).await;
    grant_with_key(&client, 2, 600).await;
    let renewed = grant_with_key(&client, 3, 3).await;
    client.lease_grant(4, 600).await.unwrap();
    client.lease_revoke(4).await.unwrap();
    signal(server.nats_pid(), libc::SIGKILL);
    server.kill9();
    // Nobody could renew them meanwhile: as with a new leader of etcd's, the time of each begins again.
    tokio::time::sleep(SECOND * 2).await;
    let starting = Instant::now();
    server.restart().await;

    let client = server.client().await;
    let left = client.lease_time_to_live(2, true).await.unwrap();
    assert_eq!((left.granted_ttl, left.keys.len()), (600, 1));
    // With an election timeout, which a keepalive may have been under way.
    assert!((598..=601).contains(&left.ttl), "{} s left", left.ttl);
    refused(client.lease_revoke(4).await, tonic::Code::NotFound, "etcdserver: requested lease not found");

    // A short one can be renewed after the restart, and is not over before its holder has had the chance to.
    let mut keep_alive = KeepAlive::open(&client);
    assert_eq!(keep_alive.renew(3).await.ttl, 3);
    let renewed_again = Instant::now();
    eventually("the short lease to end", async || client.kv("/leased/1").await.is_none().then_some(())).await;
    assert!(short.elapsed() >= SECOND * 3, "it ended after {:?}", short.elapsed());
    assert!(starting.elapsed() >= SECOND * 3, "it ended {:?} after the start", starting.elapsed());
    assert!(starting.elapsed() < GRACE + SECOND * 5, "it ended {:?} after the start", starting.elapsed());
    eventually("the renewed lease to end", async || client.kv("/leased/3").await.is_none().then_some(()))
        .await;
    assert!(renewed_again.elapsed() + SECOND >= SECOND * 3 && renewed_again > renewed);
    assert!(client.kv("/leased/2").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_ends_no_lease_before_its_holder_can_renew_it() {
    let mut nats = support::nats::Nats::start().await;
    let server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    let client = server.client().await;
    let start_revision = client.revision().await;
    grant_with_key(&client, 1, 2).await;
    nats.kill9();
    // Longer than the lease lives.
    tokio::time::sleep(SECOND * 4).await;
    nats.restart().await;
    let mut keep_alive = KeepAlive::open(&client);
    let answer = keep_alive.renew(1).await;
    assert_eq!(answer.ttl, 2, "the lease ended with the outage");
    assert!(client.kv("/leased/1").await.is_some());
    // Not renewed any more, it ends by itself, once, as a delete with the pair before it.
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { start_revision, prev_kv: true, ..watch_all("/leased/") }).await;
    let events = watch.events(2).await;
    assert_eq!(events[1].prev_kv.as_ref().expect("prev_kv").value, "v");
    assert!(watch.progress().await >= events[1].kv.as_ref().unwrap().mod_revision);
}
