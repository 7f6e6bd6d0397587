//! Power cuts: jetway and its nats-server on a disk that forgets what was not synced, cut at random moments
//! under load.
//!
//! They need root and /dev/fuse, and minutes: `make powercut`. `JETWAY_POWER_CUTS` is the number of cuts.

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futures_util::FutureExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::kills::{Rounds, under_load};
use support::disk::{Disk, Mounted};
use support::eventually;
use support::server::{Launch, Server, Target, alive, jetway, nats_of, signal, spawn};
use support::snapshot::{Saved, keys, text};

/// Cuts that one store must live through before the next begins with an empty disk.
const CUTS_PER_STORE: u32 = 20;

/// Values this large fill a block of the store (4 MiB) with some dozens of writes, so that new blocks begin
/// all the time, and compaction rewrites old ones.
const LARGEST_VALUE: usize = 200_000;

/// A disk that is plugged in, and whose power can be cut.
struct Powered(Mounted);

impl Powered {
    fn mount(at: &Path) -> Self {
        Self(Mounted::mount(Disk::default(), at))
    }

    /// Cuts the power of everything at one moment, and turns it on again.
    async fn cut(&mut self, server: &mut Server, rng: &mut StdRng) {
        let nats = server.find_nats_pid();
        self.0.disk.cut();
        server.kill9();
        self.turn_on(nats, rng).await;
        server.restart().await;
    }

    /// Turns the power on again after a cut, when `nats` has ended too.
    async fn turn_on(&mut self, nats: Option<u32>, rng: &mut StdRng) {
        if let Some(nats) = nats.filter(|nats| alive(*nats)) {
            signal(nats, libc::SIGKILL);
            eventually("nats-server to end", async || (!alive(nats)).then_some(())).await;
        }
        self.0.unmount();
        // Mostly nothing survives that was not synced; sometimes half of the pages do.
        let survives = if rng.random_bool(0.7) { 0.0 } else { 0.5 };
        self.0.disk.restore(survives, rng);
        self.0.mount_again();
    }
}

async fn cuts(total: u32, sync: &str) {
    let seed = super::seed();
    let mut left = total;
    for store in 0_u64.. {
        let cuts = left.min(CUTS_PER_STORE);
        if cuts == 0 {
            break;
        }
        left -= cuts;
        println!("store {store}, {cuts} cuts");
        let mut server = Server::prepare(&["--sync", sync]);
        let data = server.dir().join("data");
        fs::create_dir(&data).unwrap();
        let mut mounted = Powered::mount(&data);
        server.restart().await;
        let mut rng = StdRng::seed_from_u64(seed ^ (store << 32));
        let rounds = Rounds { pause: 20..700, largest: LARGEST_VALUE, goes_on: |round| round < cuts };
        under_load(&mut server, seed.wrapping_add(store), rounds, async |server, _| {
            mounted.cut(server, &mut rng).await;
        })
        .await;
        println!("{} syncs", mounted.0.disk.syncs());
        drop(server);
        mounted.0.unmount();
    }
}

fn how_many(default: u32) -> u32 {
    std::env::var("JETWAY_POWER_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and FUSE, and minutes: make powercut"]
async fn group_sync_keeps_what_was_answered() {
    cuts(how_many(200), "group").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and FUSE, and minutes: make powercut"]
async fn every_sync_keeps_what_was_answered() {
    cuts(how_many(200) / 4, "always").await;
}

/// The test itself is tested: where nothing is synced it must find that out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and FUSE, and minutes: make powercut"]
async fn lazy_sync_loses_what_was_answered_and_this_is_seen() {
    let outcome = AssertUnwindSafe(cuts(5, "lazy")).catch_unwind().await;
    assert!(outcome.is_err(), "nothing was lost, or the loss was not found");
}

/// A restore whose power is cut leaves all of the store, or nothing that is served. All of it is there if the
/// restore has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and FUSE, and minutes: make powercut"]
async fn a_restore_is_whole_or_not_served() {
    const KEYS: i64 = 300;
    let seed = super::seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let source = Server::start().await;
    let client = source.client().await;
    for number in 0..KEYS {
        client.put(format!("k/{number}"), vec![b'v'; 50_000]).await;
    }
    let saved = Saved::of(&client).await;
    let (mut whole, mut refused) = (0, 0);
    let cuts = how_many(200) / 10;
    for round in 0..cuts {
        let mut server = Server::create(Target::Jetway, Launch::default());
        let data = server.dir().join("data");
        fs::create_dir(&data).unwrap();
        let mut mounted = Powered::mount(&data);
        let path = saved.path();
        let mut command = Command::new(jetway());
        command.args(["restore", text(&path), "--data-dir", text(&data)]);
        let mut restore = spawn(command).unwrap();
        let pause = Duration::from_millis(rng.random_range(0..3000));
        let has_ended =
            async { eventually("the restore to end", async || restore.try_wait().unwrap()).await.success() };
        // Every other cut waits for the end.
        let has_ended = if round % 2 == 0 {
            has_ended.await
        } else {
            tokio::time::timeout(pause, has_ended).await.unwrap_or(false)
        };
        let nats = nats_of(restore.id());
        mounted.0.disk.cut();
        restore.kill().ok();
        restore.wait().unwrap();
        mounted.turn_on(nats, &mut rng).await;
        if server.try_restart().await.is_ok() {
            let count = keys(&server.client().await, 0).await.count;
            assert!(count == KEYS || count == 0 && !has_ended, "{count} keys, ended: {has_ended}");
            whole += u32::from(count == KEYS);
        } else {
            assert!(!has_ended, "{}", server.log());
            refused += 1;
        }
        drop(server);
        mounted.0.unmount();
    }
    println!("{whole} of {cuts} stores were whole, {refused} refused");
    assert!(whole > 0);
}
