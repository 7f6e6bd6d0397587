//! A lease goes on in the copy where it was in the source.

use jetway::proto::etcdserverpb::PutRequest;
use support::client::*;
use support::eventually;
use support::server::{Server, Target};
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
