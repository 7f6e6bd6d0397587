//! Power cuts: jetway and its nats-server on a disk that forgets what was not synced, cut at random moments
//! under load.
//!
//! They need root and /dev/fuse, and minutes: `make powercut`. `JETWAY_POWER_CUTS` is the number of cuts.

use std::fs;
use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::FutureExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::disk::Disk;
use super::kills::{Rounds, under_load};
use support::eventually;
use support::server::{Server, alive, signal};

/// Cuts that one store must live through before the next begins with an empty disk.
const CUTS_PER_STORE: u32 = 20;

/// Values this large fill a block of the store (4 MiB) with some dozens of writes, so that new blocks begin
/// all the time, and compaction rewrites old ones.
const LARGEST_VALUE: usize = 200_000;

/// A disk that is plugged in.
struct Mounted {
    disk: Disk,
    at: PathBuf,
    session: Option<fuser::BackgroundSession>,
}

impl Drop for Mounted {
    /// If a test fails, the server may still use the disk, which an ordinary unmount would not take away.
    fn drop(&mut self) {
        if self.session.is_some() {
            let unmounted = Command::new("umount").arg("--lazy").arg(&self.at).status();
            println!("unmounted in the end: {unmounted:?}");
        }
    }
}

impl Mounted {
    fn mount(disk: Disk, at: &Path) -> Self {
        let session = fuser::spawn_mount(disk.clone(), at, &fuser::Config::default());
        Self {
            disk,
            at: at.to_owned(),
            session: Some(session.expect("mount a file system (root and /dev/fuse are needed)")),
        }
    }

    /// Cuts the power of everything at one moment, and turns it on again.
    async fn cut(&mut self, server: &mut Server, rng: &mut StdRng) {
        let at = server.dir().join("data");
        let nats = server.find_nats_pid();
        self.disk.cut();
        server.kill9();
        if let Some(nats) = nats.filter(|nats| alive(*nats)) {
            signal(nats, libc::SIGKILL);
            eventually("nats-server to end", async || (!alive(nats)).then_some(())).await;
        }
        self.unmount();
        // Mostly nothing survives that was not synced; sometimes half of the pages do.
        let survives = if rng.random_bool(0.7) { 0.0 } else { 0.5 };
        self.disk.restore(survives, rng);
        *self = Self::mount(self.disk.clone(), &at);
        server.restart().await;
    }

    /// Returns when nobody uses the disk any more: the last threads of a dead process take a moment to let go
    /// of it.
    fn unmount(&mut self) {
        if let Some(session) = self.session.take() {
            let status = Command::new("umount").arg("--lazy").arg(&self.at).status().expect("run umount");
            assert!(status.success(), "umount: {status}");
            match session.join() {
                // How it ends depends on what the kernel still wanted of it.
                Err(error) if error.kind() != ErrorKind::ConnectionAborted => {
                    panic!("the file system: {error}")
                }
                _ => {}
            }
        }
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
        let mut mounted = Mounted::mount(Disk::new(), &data);
        server.restart().await;
        let mut rng = StdRng::seed_from_u64(seed ^ (store << 32));
        let rounds = Rounds { pause: 20..700, largest: LARGEST_VALUE, goes_on: |round| round < cuts };
        under_load(&mut server, seed.wrapping_add(store), rounds, async |server, _| {
            mounted.cut(server, &mut rng).await;
        })
        .await;
        println!("{} syncs", mounted.disk.syncs());
        drop(server);
        mounted.unmount();
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
