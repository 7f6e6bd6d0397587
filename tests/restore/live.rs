//! A store like that of a Kubernetes cluster moves from a running etcd to jetway, and on to another etcd,
//! while its clients write.
//!
//! `make migrate-long` runs the large form. These variables set its sizes:
//! `JETWAY_MIGRATE_OBJECTS` (300,000) and `JETWAY_MIGRATE_WRITES` a second (500).

use std::time::Duration;

use jetway::proto::etcdserverpb::RangeRequest;
use support::client::*;
use support::server::{Server, Target, jetway};
use support::snapshot::{Saved, hash_kv, runs, text};
use support::within_time;
use tokio::time::Instant;

use crate::ledger::{LEASES, Writers, agree, fill, longest_gap};
use crate::migrate::empty;

/// Keys in a page of a comparison.
const PAGE: i64 = 2000;
/// How long the whole migration may take.
pub const MIGRATION: Duration = Duration::from_secs(600);
/// Seconds by which a lease may differ, since servers round and are asked one after the other.
const TOLERANCE: i64 = 5;

pub fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Both have the same keys, with all numbers, the same hash and the same leases at a revision.
pub async fn same_store(ours: &Client, theirs: &Client, revision: i64) -> usize {
    let (mut key, mut count) = (bytes::Bytes::from_static(b"\0"), 0);
    loop {
        let request =
            RangeRequest { key, range_end: "\0".into(), limit: PAGE, revision, ..Default::default() };
        let (a, b) = tokio::join!(ours.range(request.clone()), theirs.range(request));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!((a.count, a.more), (b.count, b.more));
        assert!(a.kvs == b.kvs, "another page of {} keys at revision {revision}", a.kvs.len());
        count += a.kvs.len();
        match a.kvs.last() {
            Some(last) if a.more => key = [&last.key[..], b"\0"].concat().into(),
            _ => break,
        }
    }
    let (a, b) = tokio::join!(hash_kv(ours, revision), hash_kv(theirs, revision));
    assert_eq!((a.hash, a.compact_revision), (b.hash, b.compact_revision), "HashKV at revision {revision}");
    count
}

async fn same_leases(ours: &Client, theirs: &Client, has_same_time: bool) {
    for lease in 1..=LEASES {
        let asked = async |client: &Client| client.lease_time_to_live(lease, false).await.unwrap();
        let (a, b) = (asked(ours).await, asked(theirs).await);
        assert_eq!(a.granted_ttl, b.granted_ttl, "lease {lease}");
        let differs = (a.ttl - b.ttl).abs() > TOLERANCE;
        assert!(
            !has_same_time || !differs,
            "lease {lease} has {} s left, and {} s at the source",
            a.ttl,
            b.ttl
        );
    }
    assert_eq!(ours.leases().await.unwrap().leases.len(), theirs.leases().await.unwrap().leases.len());
}

/// Moves a store; returns the longest time without an answered write of a client.
async fn moves(objects: usize, writes: usize) -> Duration {
    let seed = support::seed();
    let source = Server::launch(Target::Etcd, &["--quota-backend-bytes", "8000000000"]).await;
    let client = source.client().await;
    let begun = Instant::now();
    fill(&client, objects, seed).await;
    println!("{objects} objects were written in {:?}", begun.elapsed());
    let (mut target, _) = empty();
    target.set_command(&["migrate", "--from", &source.endpoint(), "--switch-over", "--serve"]);
    let writers = Writers::begin([&source.endpoint(), &target.endpoint()], writes as u64, seed);
    target.begin();
    within_time(MIGRATION, "the migration", async {
        while !writers.have_gone_over(writes) {
            assert!(target.has_ended().is_none(), "{}", target.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    println!("{}", target.log());
    let ledgers = writers.stop().await;
    let copy = target.client().await;
    let last = client.revision().await;
    let keys = same_store(&copy, &client, last).await;
    same_leases(&copy, &client, true).await;
    let [before, after] = agree(&ledgers, &copy).await;
    let freeze = longest_gap(&ledgers);
    println!(
        "{keys} keys; {before} writes at the source, {after} at jetway; longest time without one: {freeze:?}"
    );
    assert!(before > 0 && after > 0);
    // And back.
    let saved = Saved::nowhere();
    let begun = Instant::now();
    runs(jetway(), &["snapshot", "save", text(&saved.path()), "--endpoints", &target.endpoint()]).await;
    let etcd = saved.restored().await;
    println!("back in an etcd after {:?}", begun.elapsed());
    let back = etcd.client().await;
    same_store(&back, &copy, copy.revision().await).await;
    same_leases(&back, &copy, false).await;
    agree(&ledgers, &back).await;
    freeze
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_moves_under_writes_and_back() {
    moves(2000, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make migrate-long"]
async fn long_a_large_store_moves_under_writes_and_back() {
    let (objects, writes) = (number("JETWAY_MIGRATE_OBJECTS", 300_000), number("JETWAY_MIGRATE_WRITES", 500));
    let freeze = moves(objects, writes).await;
    assert!(freeze < Duration::from_secs(1), "{freeze:?} without an answered write");
}
