//! A disk that needs long for each sync.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use support::client::put;
use support::lease::KeepAlive;
use support::preload::library;
use support::server::{Launch, Server, Target};

/// Delays each `fsync` and `fdatasync` of a program that is linked with the C library, as jetway is. It syncs
/// the files of its nats-server itself.
const DELAY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static int after_delay(const char *name, int file) {
    struct timespec delay = {0, 8000000};
    nanosleep(&delay, 0);
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return sync(file);
}
int fsync(int file) { return after_delay("fsync", file); }
int fdatasync(int file) { return after_delay("fdatasync", file); }
"#;

/// A client renews 1,000 leases of ten seconds on one stream, each when a third of its time is over, as
/// clientv3 does, while others write. Renewals are not written, so they do not wait for the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_do_not_wait_for_a_slow_disk() {
    const LEASES: i64 = 1000;
    const TTL: i64 = 10;
    const BETWEEN: Duration = Duration::from_millis(3333);
    const KEPT: Duration = Duration::from_secs(30);
    let dir = TempDir::new().unwrap();
    let library = library(dir.path(), DELAY);
    let launch = Launch {
        args: &["--sync", "group"],
        variables: &[("LD_PRELOAD", library.to_str().unwrap())],
        ..Launch::default()
    };
    let server = Server::launch_as(Target::Jetway, launch).await;
    let client = server.client().await;
    let began = Instant::now();
    client.put("slow", "v").await;
    assert!(began.elapsed() >= Duration::from_millis(8), "the sync of a put is not delayed");

    let stop = CancellationToken::new();
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (client, stop) = (client.clone(), stop.clone());
        writers.spawn(async move {
            let mut puts = 0;
            while !stop.is_cancelled() {
                client.put_request(put(format!("/load/{writer}"), "v")).await.unwrap();
                puts += 1;
            }
            puts
        });
    }
    let mut keep_alive = KeepAlive::open(&client);
    let mut grants = JoinSet::new();
    for id in 1..=LEASES {
        let client = client.clone();
        grants.spawn(async move { client.lease_grant(id, TTL).await.unwrap() });
    }
    grants.join_all().await;
    // Each lease, and the next time at which it is renewed; `None` while a renewal is under way.
    let mut due: BTreeMap<i64, Option<Instant>> = (1..=LEASES).map(|id| (id, Some(Instant::now()))).collect();
    let (begin, mut renewals, mut ended) = (Instant::now(), 0, 0);
    let mut round = tokio::time::interval(BETWEEN / 8);
    while begin.elapsed() < KEPT {
        tokio::select! {
            _ = round.tick() => {
                let now = Instant::now();
                for (id, at) in &mut due {
                    if at.is_some_and(|at| at <= now) {
                        *at = None;
                        keep_alive.send(*id);
                    }
                }
            }
            answer = keep_alive.message() => {
                let answer = answer.expect("the call goes on").expect("the call goes on");
                if answer.ttl == TTL {
                    renewals += 1;
                    due.insert(answer.id, Some(Instant::now() + BETWEEN));
                } else {
                    ended += 1;
                    due.remove(&answer.id);
                }
            }
        }
    }
    stop.cancel();
    let puts: u32 = writers.join_all().await.into_iter().sum();
    println!("{renewals} renewals, {puts} puts, {ended} leases ended");
    assert_eq!(ended, 0, "leases have ended");
    assert_eq!(client.leases().await.unwrap().leases.len() as i64, LEASES);
}
