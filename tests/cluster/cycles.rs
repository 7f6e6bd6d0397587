//! Many changes from one member to three and back, and the times that clients wait meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::client::{Client, op, put, run};
use support::cluster::Cluster;
use support::figures::Calls;
use support::traffic::Traffic;
use support::{rounds, seed};

use super::elastic::{LOAD, copies, grow, is_alone, kill_all, remove};

/// Cycles of one, two and three members and back, with a member killed now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half a minute a round; make faults"]
async fn cycles_of_one_and_three_members() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut cluster = Cluster::start(1).await;
    let client = cluster.members[0].client().await;
    for cycle in 1..=rounds(2) {
        let traffic = Traffic::begin_with(std::slice::from_ref(&client), LOAD).await;
        let (begun, mut added, mut kills) = (Instant::now(), Vec::new(), 0);
        for members in 2..=3 {
            added.push(grow(&mut cluster).await);
            if random.random_bool(0.3) {
                let victim = if random.random_bool(0.5) { 0 } else { added[added.len() - 1] };
                tokio::time::sleep(Duration::from_millis(random.random_range(0..2000))).await;
                kill_all(&mut cluster.members[victim]);
                cluster.members[victim].restart().await;
                kills += 1;
            }
            copies(&cluster, members).await;
            traffic.more().await;
        }
        for removed in added.into_iter().rev() {
            remove(&mut cluster, 0, removed).await;
            traffic.more().await;
        }
        is_alone(&cluster, 0, &client).await;
        println!("cycle {cycle}: {kills} kills, {}", traffic.figures(begun).await);
        if kills == 0 {
            traffic.none_failed(&[0]).await;
        }
        traffic.end(&[&client]).await;
        // A member that joins takes the log over, which compaction keeps from growing without end.
        client.compact(client.revision().await).await.unwrap();
    }
}

/// A number from a variable, or its default.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// Writers that measure how long each of their calls takes.
struct Clocked {
    begun: Instant,
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<Calls>>,
}

impl Clocked {
    fn begin(client: &Client) -> Clocked {
        let stop = Arc::new(AtomicBool::new(false));
        let pause = Duration::from_millis(number("PAUSE", 5));
        let writer = |writer: usize| {
            let (client, stop) = (client.clone(), stop.clone());
            tokio::spawn(async move {
                let mut calls = Calls::default();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    client.put(format!("/clocked/{writer}"), "value").await;
                    calls.answered(begun);
                    tokio::time::sleep(pause).await;
                }
                calls
            })
        };
        Clocked { begun: Instant::now(), writers: (0..8).map(writer).collect(), stop }
    }

    async fn end(self, what: &str) {
        let ended = Instant::now();
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = Calls::default();
        for writer in self.writers {
            calls.extend(writer.await.unwrap());
        }
        if std::env::var_os("TIMELINE").is_some() {
            let mut second = self.begun;
            while second < ended {
                let next = (second + Duration::from_secs(1)).min(ended);
                println!("  {:?}: {}", second - self.begun, calls.figures(second, next));
                second = next;
            }
        }
        println!("{what}: {}", calls.figures(self.begun, ended));
    }
}

/// The times on a store of `KEYS` keys, with eight writers that pause for `PAUSE` milliseconds behind each
/// call. No call may fail. `TIMELINE` prints each second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures; make faults"]
async fn figures_of_the_changes() {
    let keys = number("KEYS", 20_000) as usize;
    let mut cluster = Cluster::start(1).await;
    let client = cluster.members[0].client().await;
    let value = "v".repeat(300);
    for first in (0..keys).step_by(100) {
        let puts = (first..first + 100).map(|key| op(put(format!("/kept/{key}"), &value)));
        client.txn(run(puts.collect())).await.unwrap();
    }
    let clocked = Clocked::begin(&client);
    tokio::time::sleep(Duration::from_secs(5)).await;
    clocked.end("one member").await;
    let mut added = Vec::new();
    for members in 2..=3 {
        let clocked = Clocked::begin(&client);
        added.push(grow(&mut cluster).await);
        copies(&cluster, members).await;
        clocked.end(&format!("to {members} members")).await;
        let clocked = Clocked::begin(&client);
        tokio::time::sleep(Duration::from_secs(5)).await;
        clocked.end(&format!("{members} members")).await;
    }
    for (removed, members) in added.into_iter().rev().zip([2, 1]) {
        let clocked = Clocked::begin(&client);
        remove(&mut cluster, 0, removed).await;
        if members == 1 {
            is_alone(&cluster, 0, &client).await;
        }
        clocked.end(&format!("back to {members} members")).await;
    }
    let count = client.list("/kept/").await.len();
    assert_eq!(count, keys.next_multiple_of(100));
}
