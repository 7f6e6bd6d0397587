//! Very much at once: deletes of very many keys, very many writers, the end of a lease with very many keys.

use jetway::proto::etcdserverpb::*;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::healthy_client::HealthyClient;
use crate::process::Memory;
use support::client::*;
use support::lease::KeepAlive;
use support::server::Server;

/// Puts so many keys below a prefix, 100 in a transaction.
async fn fill(client: &Client, prefix: &str, count: usize, lease: i64) {
    const AT_ONCE: usize = 100;
    const TASKS: usize = 20;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (client, prefix) = (client.clone(), prefix.to_owned());
        tasks.spawn(async move {
            for from in (task * AT_ONCE..count).step_by(TASKS * AT_ONCE) {
                let puts = (from..(from + AT_ONCE).min(count))
                    .map(|at| op(PutRequest { lease, ..put(format!("{prefix}{at:07}"), "some value") }))
                    .collect();
                client.txn(run(puts)).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
}

async fn count(client: &Client, prefix: &str) -> i64 {
    client.range(RangeRequest { count_only: true, ..all(prefix) }).await.unwrap().count
}

/// A delete of any size works, and the writes of others go on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_thousand_keys_are_deleted_in_one_call() {
    const KEYS: usize = 300_000;
    let server = Server::start().await;
    let client = server.client().await;
    fill(&client, "/many/", KEYS, 0).await;
    let memory = Memory::of(&server);
    let stop = CancellationToken::new();
    let writer = tokio::spawn({
        let (client, stop) = (server.client().await, stop.clone());
        async move {
            let mut longest = Duration::ZERO;
            while !stop.is_cancelled() {
                let begun = Instant::now();
                client.put("/other", "v").await;
                longest = longest.max(begun.elapsed());
            }
            longest
        }
    });
    let begun = Instant::now();
    let answer = client.delete_range(delete_all("/many/")).await.unwrap();
    let took = begun.elapsed();
    assert_eq!(answer.deleted, KEYS as i64);
    assert_eq!(count(&client, "/many/").await, 0);
    stop.cancel();
    let longest = writer.await.unwrap();
    println!("{took:?} for the delete, {longest:?} for the slowest write, {} MiB", memory.grown() >> 20);
    memory.stayed_below("a delete of 300,000 keys", 600);
}

/// As many writers as etcd serves without a refusal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_thousand_writers_are_all_served() {
    const WRITERS: usize = 6_000;
    const ROUNDS: usize = 5;
    let server = Server::start().await;
    let healthy = HealthyClient::start(&server).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(server.client().await);
    }
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let client = clients[writer % clients.len()].clone();
        writers.spawn(async move {
            for round in 0..ROUNDS {
                client.put_request(put(format!("/w/{writer}/{round}"), "v")).await?;
            }
            Ok::<_, tonic::Status>(())
        });
    }
    let refusals: Vec<_> = writers.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(refusals.is_empty(), "{} refusals, such as {:?}", refusals.len(), refusals[0]);
    assert_eq!(count(&clients[0], "/w/").await, (WRITERS * ROUNDS) as i64);
    healthy.finish().await;
}

/// LSE-5, LSE-11, LSE-12: a lease is reported as gone only when its keys are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_with_twenty_thousand_keys_ends_in_one_step() {
    const LEASE: i64 = 7;
    const KEYS: usize = 20_000;
    for round in 0..3 {
        let server = Server::start().await;
        let client = server.client().await;
        client.lease_grant(LEASE, 600).await.unwrap();
        fill(&client, "/leased/", KEYS, LEASE).await;
        let mut observers = JoinSet::new();
        for way in 0..4 {
            let client = server.client().await;
            observers.spawn(async move {
                let mut keep_alive = KeepAlive::open(&client);
                loop {
                    let is_gone = match way {
                        0 => keep_alive.renew(LEASE).await.ttl == 0,
                        1 => client.leases().await.unwrap().leases.is_empty(),
                        2 => match client.lease_grant(LEASE, 600).await {
                            Ok(_) => true,
                            Err(status) if status.code() == Code::FailedPrecondition => false,
                            Err(status) => panic!("{status}"),
                        },
                        _ => client.lease_time_to_live(LEASE, false).await.unwrap().granted_ttl == 0,
                    };
                    if is_gone {
                        return (way, count(&client, "/leased/").await);
                    }
                }
            });
        }
        client.lease_revoke(LEASE).await.unwrap();
        // The lease may be granted anew before an observer has seen that it was gone.
        let first = observers.join_next().await.expect("there are four").unwrap();
        assert_eq!(first.1, 0, "round {round}, way {}", first.0);
        while let Ok(Some(Ok((way, left)))) =
            tokio::time::timeout(Duration::from_secs(2), observers.join_next()).await
        {
            assert_eq!(left, 0, "round {round}, way {way}");
        }
    }
}

/// LSE-11, LSE-12: the same where the time of a lease is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_expires_takes_its_key_along_in_one_step() {
    const LEASES: i64 = 300;
    let server = Server::start().await;
    let client = server.client().await;
    for id in 1..=LEASES {
        // Long enough for the put on a machine that is busy with other tests.
        client.lease_grant(id, 4).await.unwrap();
        client.put_request(PutRequest { lease: id, ..put(format!("/leased/{id}/"), "v") }).await.unwrap();
    }
    let mut observers = JoinSet::new();
    for part in 0..10 {
        let client = server.client().await;
        observers.spawn(async move {
            for id in (1 + part..=LEASES).step_by(10) {
                // The time is read and not renewed, until it is over.
                while client.lease_time_to_live(id, false).await.unwrap().ttl > 0 {}
                let mut keep_alive = KeepAlive::open(&client);
                if keep_alive.renew(id).await.ttl == 0 {
                    assert_eq!(count(&client, &format!("/leased/{id}/")).await, 0, "lease {id}");
                }
            }
        });
    }
    observers.join_all().await;
}
