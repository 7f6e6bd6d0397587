//! A member whose disk has become slow: each sync takes long, and all else on the disk waits for it.
//!
//! They need root and /dev/fuse: `make slow-disk`.

use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::disk::{Disk, Mounted};
use support::server::Target;
use support::traffic::{Load, Traffic};

/// A sync of the slow disk. A disk that serves others as well may need as long.
const SYNC: Duration = Duration::from_millis(200);
/// How long the disk is slow.
const LENGTH: Duration = Duration::from_secs(20);
/// The longest time without an answered write: that of a new leader of the stream.
const LONGEST_GAP: Duration = Duration::from_secs(10);

/// Three members that have yet to be started, each on a disk of its own.
pub fn prepare(disk: fn() -> Disk) -> (Cluster, Vec<Mounted>) {
    let cluster = Cluster::prepare_as(Target::Jetway, 3, "http", &[]);
    let disks = mount(&cluster, disk);
    (cluster, disks)
}

/// Mounts a disk for each member.
pub fn mount(cluster: &Cluster, disk: fn() -> Disk) -> Vec<Mounted> {
    let mount = |server: &support::server::Server| {
        let data = server.dir().join("data");
        std::fs::create_dir(&data).unwrap();
        Mounted::mount(disk(), &data)
    };
    cluster.members.iter().map(mount).collect()
}

/// Whichever disk it is, that of the writer and of the stream's leader too, the cluster goes on and loses
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and /dev/fuse: `make slow-disk`"]
async fn a_slow_disk_of_one_member_stops_nobody() {
    let (mut cluster, disks) = prepare(Disk::default);
    cluster.start_all().await;
    let clients = cluster.clients().await;
    let traffic = Traffic::begin_with(&clients, Load::LIGHT).await;
    for (slow, disk) in disks.iter().enumerate() {
        let before = disk.disk.syncs();
        disk.disk.slow_down(SYNC);
        let begun = Instant::now();
        tokio::time::sleep(LENGTH).await;
        traffic.more().await;
        let (figures, syncs) = (traffic.figures(begun).await, disk.disk.syncs() - before);
        disk.disk.slow_down(Duration::ZERO);
        println!("the disk of member {slow} is slow: {figures}, {syncs} syncs");
        assert!(figures.longest_gap < LONGEST_GAP, "{figures}");
        assert!(syncs > 10, "the disk is hardly used");
        traffic.more().await;
    }
    traffic.end(&clients.iter().collect::<Vec<_>>()).await;
    // Before the folders in which they are mounted.
    drop(disks);
}
