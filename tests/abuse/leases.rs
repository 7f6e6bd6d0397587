//! Very many leases, and very many calls that keep one alive.

use jetway::proto::etcdserverpb::*;
use tokio::task::JoinSet;
use tonic::Code;

use crate::healthy_client::HealthyClient;
use crate::process::Memory;
use support::client::*;
use support::lease::KeepAlive;
use support::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_keep_one_lease_alive() {
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let client = server.client().await;
    let lease = client.lease_grant(0, 60).await.unwrap().id;
    let memory = Memory::of(&server);
    let mut streams: Vec<_> = (0..1000).map(|_| KeepAlive::open(&client)).collect();
    for _ in 0..3 {
        for stream in &streams {
            stream.send(lease);
        }
        for stream in &mut streams {
            assert_eq!(stream.message().await.unwrap().unwrap().ttl, 60);
        }
    }
    memory.stayed_below("1,000 keep-alive streams", 100);
    drop(streams);
    // The server has freed the first thousand, so a thousand more take no more memory.
    let mut streams: Vec<_> = (0..1000).map(|_| KeepAlive::open(&client)).collect();
    for stream in &mut streams {
        assert_eq!(stream.renew(lease).await.ttl, 60);
    }
    memory.stayed_below("1,000 more", 100);
    healthy.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_leases_with_a_key_each_are_granted_and_revoked() {
    const LEASES: i64 = 5000;
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let client = server.client().await;
    let memory = Memory::of(&server);
    let mut tasks = JoinSet::new();
    for worker in 0..50 {
        let client = client.clone();
        tasks.spawn(async move {
            for id in (1 + worker..=LEASES).step_by(50) {
                client.lease_grant(id, 3600).await.unwrap();
                let request = PutRequest { lease: id, ..put(format!("/leased/{id}"), "v") };
                client.put_request(request).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(client.leases().await.unwrap().leases.len(), LEASES as usize);
    memory.stayed_below("5,000 leases", 100);
    let mut tasks = JoinSet::new();
    for worker in 0..50 {
        let client = client.clone();
        tasks.spawn(async move {
            for id in (1 + worker..=LEASES).step_by(50) {
                client.lease_revoke(id).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(client.leases().await.unwrap().leases.len(), 0);
    assert_eq!(client.list("/leased/").await.len(), 0);
    healthy.finish().await;
}

/// An impossible TTL is refused. Any number but zero is an id.
#[tokio::test]
async fn a_ttl_of_centuries_is_refused() {
    let server = Server::start().await;
    let client = server.client().await;
    for ttl in [9_000_000_001, i64::MAX] {
        let status = client.lease_grant(0, ttl).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::OutOfRange, "etcdserver: too large lease TTL"));
    }
    for ttl in [0, -1, i64::MIN] {
        assert!(client.lease_grant(0, ttl).await.unwrap().ttl > 0);
    }
    for id in [-1, i64::MIN, i64::MAX] {
        assert_eq!(client.lease_grant(id, 60).await.unwrap().id, id);
    }
}
