//! Members on disks that forget what was not synced, whose power is cut under load: that of one, of most and
//! of all at one moment.
//!
//! They need root and /dev/fuse: `make damage`.

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use support::cluster::Cluster;
use support::disk::{Disk, Mounted};
use support::server::{alive, signal};
use support::traffic::Traffic;
use support::{eventually, rounds, seed};

use super::faults::all_meet;
use super::forming::all_hold_the_same;
use super::slow_disks::prepare;

/// Cuts the power of these members at one moment, and turns it on again.
pub async fn cut(cluster: &mut Cluster, disks: &mut [Mounted], members: &[usize], random: &mut StdRng) {
    for &member in members {
        disks[member].disk.cut();
    }
    for &member in members {
        let nats = cluster.members[member].find_nats_pid();
        cluster.members[member].kill9();
        if let Some(nats) = nats.filter(|nats| alive(*nats)) {
            signal(nats, libc::SIGKILL);
            eventually("nats-server to end", async || (!alive(nats)).then_some(())).await;
        }
    }
    for &member in members {
        disks[member].unmount();
        // Mostly nothing survives that was not synced; sometimes half of the pages do.
        let survives = if random.random_bool(0.7) { 0.0 } else { 0.5 };
        disks[member].disk.restore(survives, random);
        disks[member].mount_again();
        cluster.members[member].begin();
    }
    for &member in members {
        cluster.members[member].is_up().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and /dev/fuse: `make damage`"]
async fn nothing_is_lost_with_the_power_of_any_members() {
    let mut random = StdRng::seed_from_u64(seed());
    let (mut cluster, mut disks) = prepare(Disk::journaled);
    cluster.start_all().await;
    let clients = cluster.clients().await;
    all_meet(&cluster, &clients).await;
    for round in 0..rounds(9) {
        let mut members = [0, 1, 2];
        members.shuffle(&mut random);
        let members = &members[..=round % 3];
        let traffic = Traffic::begin(&clients).await;
        cut(&mut cluster, &mut disks, members, &mut random).await;
        traffic.more_through_each().await;
        print!("round {round}, the power of {members:?}: ");
        traffic.end(&clients.iter().collect::<Vec<_>>()).await;
        all_hold_the_same(&clients).await;
    }
    // Before the folders in which they are mounted.
    drop(disks);
}
