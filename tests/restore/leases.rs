//! A lease goes on in the copy where it was in the source, or in its last checkpoint in a file.

use std::time::Duration;

use jetway::proto::etcdserverpb::PutRequest;
use support::client::*;
use support::proxy::Proxy;
use support::server::{Server, Target};
use support::snapshot::Saved;
use support::{eventually, within_time};
use tokio::time::Instant;

use crate::migrate::{Migration, empty};

const TTL: i64 = 40;
/// So much less than the TTL is left at the switch-over.
const SPENT: i64 = 8;
/// The first writer adds its election timeout, and both servers round.
const TOLERANCE: i64 = 2;

async fn left(client: &Client, lease: i64) -> i64 {
    client.lease_time_to_live(lease, false).await.unwrap().ttl
}

async fn a_lease_goes_on(from: Target) {
    let source = Server::launch(from, &[]).await;
    let client = source.client().await;
    client.lease_grant(5, TTL).await.unwrap();
    client.put_request(PutRequest { lease: 5, ..put("leased", "x") }).await.unwrap();
    let (mut target, data) = empty();
    let args = ["--from", &source.endpoint(), "--data-dir", &data, "--switch-over"];
    eventually("a lease of which a part is over", async || {
        (left(&client, 5).await <= TTL - SPENT).then_some(())
    })
    .await;
    let before = left(&client, 5).await;
    let (status, output) = Migration::begin(&args).ended().await;
    assert!(status.success(), "{output}");
    // The time of the source goes on under the fence, although nothing expires.
    let after = left(&client, 5).await;
    let begun = Instant::now();
    target.restart().await;
    let copy = target.client().await;
    let answer = copy.lease_time_to_live(5, true).await.unwrap();
    let waited = begun.elapsed().as_secs() as i64 + 1;
    assert_eq!((answer.granted_ttl, &answer.keys[..]), (TTL, &[b"leased".to_vec().into()][..]));
    let range = after - waited - TOLERANCE..=before + TOLERANCE;
    assert!(range.contains(&answer.ttl), "{} s are left, of {range:?}", answer.ttl);
    // As after any change of the writer, each later one gives the full TTL.
    target.kill9();
    target.restart().await;
    let again = left(&target.client().await, 5).await;
    assert!(again > before + TOLERANCE, "{again} s are left");
}

#[tokio::test]
async fn a_lease_of_an_etcd_goes_on() {
    a_lease_goes_on(Target::Etcd).await;
}

#[tokio::test]
async fn a_lease_of_a_jetway_goes_on() {
    a_lease_goes_on(Target::Jetway).await;
}

/// The source is fenced meanwhile.
#[tokio::test]
async fn many_leases_do_not_lengthen_the_fence() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    for lease in 1..=1000 {
        client.lease_grant(lease, 3600).await.unwrap();
    }
    let proxy = Proxy::to(source.address(), usize::MAX).await;
    proxy.delay(Duration::from_millis(5));
    let (mut target, data) = empty();
    let args = ["--from", &proxy.address, "--data-dir", &data, "--switch-over"];
    let (status, output) = Migration::begin(&args).ended().await;
    assert!(status.success(), "{output}");
    let (_, fenced) = output.split_once("fenced for ").expect("a report of the fence");
    let (seconds, _) = fenced.split_once(" s,").expect("seconds");
    assert!(seconds.parse::<f64>().unwrap() < 3.0, "{output}");
    target.restart().await;
    let leases = target.client().await.leases().await.unwrap().leases;
    assert_eq!(leases.len(), 1000);
}

/// etcd keeps checkpoints of leases with these alone, one for each five minutes of a lease.
const GATES: [&str; 2] = ["--feature-gates", "LeaseCheckpoint=true,LeaseCheckpointPersist=true"];

/// Whether a part is in the text, and the places of it.
fn places(text: &[u8], part: &[u8]) -> Vec<usize> {
    text.windows(part.len()).enumerate().filter(|(_, window)| *window == part).map(|(at, _)| at).collect()
}

/// An etcd and a jetway that restore a file begin with the time of the checkpoint of lease 5.
async fn begin_at_the_checkpoint(saved: &Saved, granted: i64, remaining: i64) {
    let mut etcd = saved.restored().await;
    etcd.kill9();
    etcd.set_args(&GATES);
    etcd.restart().await;
    let jetway = saved.restored_by_jetway(&[]).await;
    for server in [etcd, jetway] {
        let client = server.client().await;
        let lease = client.lease_time_to_live(5, true).await.unwrap();
        assert_eq!((lease.granted_ttl, lease.keys.len()), (granted, 1), "{server:?}");
        let range = remaining / 2..=remaining + TOLERANCE;
        assert!(range.contains(&lease.ttl), "{server:?}: {} s are left, of {range:?}", lease.ttl);
    }
}

/// A file of etcd's in which the grant of a lease was replaced by one with a checkpoint of the same length.
#[tokio::test]
async fn a_checkpoint_in_a_file_is_kept() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    client.lease_grant(5, 3_000_000).await.unwrap();
    client.put_request(PutRequest { lease: 5, ..put("leased", "x") }).await.unwrap();
    let saved = Saved::of(&client).await;
    let mut file = std::fs::read(saved.path()).unwrap();
    let size = file.len() - 32;
    let grant = [0x08, 5, 0x10, 0xc0, 0x8d, 0xb7, 0x01];
    // A TTL of 120 s, of which 40 s are left, in two bytes.
    let checkpoint = [0x08, 5, 0x10, 120, 0x18, 0x80 | 40, 0x00];
    let found = places(&file[..size], &grant);
    assert!(!found.is_empty(), "the grant is not in the file");
    for at in found {
        file[at..at + grant.len()].copy_from_slice(&checkpoint);
    }
    let sum = ring::digest::digest(&ring::digest::SHA256, &file[..size]);
    file[size..].copy_from_slice(sum.as_ref());
    std::fs::write(saved.path(), file).unwrap();
    begin_at_the_checkpoint(&saved, 120, 40).await;
}

#[tokio::test]
#[ignore = "five minutes: make migrate-long"]
async fn long_a_checkpoint_that_etcd_has_made_is_kept() {
    let source = Server::launch(Target::Etcd, &GATES).await;
    let client = source.client().await;
    client.lease_grant(5, 900).await.unwrap();
    client.put_request(PutRequest { lease: 5, ..put("leased", "x") }).await.unwrap();
    let (saved, remaining) = within_time(Duration::from_secs(360), "a checkpoint", async {
        loop {
            let saved = Saved::of(&client).await;
            let left = client.lease_time_to_live(5, false).await.unwrap().ttl;
            let file = std::fs::read(saved.path()).unwrap();
            if !places(&file, &[0x08, 5, 0x10, 0x84, 0x07, 0x18]).is_empty() {
                return (saved, left);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    println!("{remaining} s are left of 900 s");
    begin_at_the_checkpoint(&saved, 900, remaining).await;
}
