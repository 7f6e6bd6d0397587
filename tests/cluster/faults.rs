//! A cluster under load while its members are restarted, killed, paused and emptied. Everything that was
//! answered is there afterwards, nothing was read too late, and the watches saw each event once.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::client::{Client, op, put, run};
use support::cluster::Cluster;
use support::proxy::Proxy;
use support::server::signal;
use support::traffic::{Load, Traffic};
use support::{eventually, rounds, seed};

use super::forming::all_hold_the_same;

/// Waits until all members know each other, and each is ready to take over.
pub(super) async fn all_meet(cluster: &Cluster, clients: &[Client]) {
    cluster.leader(clients).await;
    eventually("all members to be listed with their client URLs", async || {
        let members = clients[0].members().await.ok()?.members;
        members.iter().all(|member| !member.client_ur_ls.is_empty()).then_some(())
    })
    .await;
}

async fn prove(traffic: Traffic, clients: &[Client]) {
    let all: Vec<&Client> = clients.iter().collect();
    traffic.end(&all).await;
    all_hold_the_same(clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_stops_nobody_else() {
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    all_meet(&cluster, &clients).await;
    let traffic = Traffic::begin(&clients).await;
    for member in 0..3 {
        assert!(cluster.members[member].stop().await.success());
        traffic.more().await;
        cluster.members[member].restart().await;
        traffic.more_through_each().await;
    }
    prove(traffic, &clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_is_lost_fills_itself_from_the_others() {
    // A wiped etcd has to be removed and added again.
    let mut cluster = Cluster::start_jetways(3).await;
    let clients = cluster.clients().await;
    all_meet(&cluster, &clients).await;
    let traffic = Traffic::begin(&clients).await;
    let lost = cluster.leader(&clients).await;
    let nats = cluster.members[lost].nats_pid();
    signal(nats, libc::SIGKILL);
    cluster.members[lost].kill9();
    eventually("nats-server to end", async || (!support::server::alive(nats)).then_some(())).await;
    std::fs::remove_dir_all(cluster.members[lost].dir().join("data")).unwrap();
    traffic.more().await;
    cluster.members[lost].restart().await;
    traffic.more_through_each().await;
    prove(traffic, &clients).await;
}

/// The bytes of the stream's messages on a member's disk.
fn stored(cluster: &Cluster, member: usize) -> u64 {
    let messages = cluster.members[member].dir().join("data/nats/jetstream/JW/streams/KV_jetway/msgs");
    let files = std::fs::read_dir(messages).into_iter().flatten();
    files.map(|file| file.unwrap().metadata().map_or(0, |file| file.len())).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_messages_are_lost_is_not_ready_before_it_has_them_again() {
    // Else the next member of a rolling restart stops too early.
    let mut cluster = Cluster::prepare_behind_proxies(3).await;
    cluster.start_all().await;
    let clients = cluster.clients().await;
    all_meet(&cluster, &clients).await;
    let value = "v".repeat(20_000);
    for first in (0..2000).step_by(50) {
        let puts = (first..first + 50).map(|key| op(put(format!("/filled/{key}"), &value)));
        clients[0].txn(run(puts.collect())).await.unwrap();
    }
    let leader = cluster.leader(&clients).await;
    let lost = (leader + 1) % 3;
    let traffic = Traffic::begin_with(&clients, Load { through: &[leader], ..Load::LIGHT }).await;
    assert!(cluster.members[lost].stop().await.success());
    std::fs::remove_dir_all(cluster.members[lost].dir().join("data/nats/jetstream/JW")).unwrap();
    cluster.routes.iter().for_each(|route| route.delay(Duration::from_millis(50)));
    cluster.members[lost].restart().await;
    let (there, of) = (stored(&cluster, lost), stored(&cluster, leader));
    cluster.routes.iter().for_each(Proxy::release);
    assert!(there > 40_000_000 && there > of / 100 * 99, "ready with {there} bytes of {of}");
    traffic.more().await;
    prove(traffic, &clients).await;
}

/// A fault of one member, or of all.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// jetway dies; its nats-server ends in order.
    Process,
    /// The machine is gone: nats-server dies with jetway.
    Machine,
    /// nats-server alone dies.
    NatsServer,
    /// jetway stands still.
    Pause,
    /// nats-server stands still.
    NatsPause,
    /// All machines lose their power.
    All,
}

const FAULTS: [Fault; 6] =
    [Fault::Process, Fault::Machine, Fault::NatsServer, Fault::Pause, Fault::NatsPause, Fault::All];

async fn pause(pid: u32, length: Duration) {
    signal(pid, libc::SIGSTOP);
    tokio::time::sleep(length).await;
    signal(pid, libc::SIGCONT);
}

async fn survives(cluster: &mut Cluster, clients: &[Client], fault: Fault, random: &mut StdRng) {
    let traffic = Traffic::begin(clients).await;
    let leader = cluster.leader(clients).await;
    let member = if random.random_bool(0.5) { leader } else { random.random_range(0..3) };
    println!("{fault:?} of member {member}, the leader is {leader}");
    let length = Duration::from_millis(random.random_range(200..8000));
    match fault {
        Fault::Process => {
            cluster.members[member].kill9();
            traffic.more().await;
            cluster.members[member].restart().await;
        }
        Fault::Machine => {
            cluster.members[member].kill_machine();
            traffic.more().await;
            cluster.members[member].restart().await;
        }
        Fault::NatsServer => signal(cluster.members[member].nats_pid(), libc::SIGKILL),
        Fault::Pause => pause(cluster.members[member].pid(), length).await,
        Fault::NatsPause => pause(cluster.members[member].nats_pid(), length).await,
        Fault::All => {
            for member in 0..3 {
                cluster.members[member].kill_machine();
            }
            cluster.start_all().await;
        }
    }
    traffic.more_through_each().await;
    prove(traffic, clients).await;
}

async fn survives_rounds(count: usize) {
    let mut random = StdRng::seed_from_u64(seed());
    let mut cluster = Cluster::start_jetways(3).await;
    let clients = cluster.clients().await;
    all_meet(&cluster, &clients).await;
    for round in 0..count {
        print!("round {round}: ");
        survives(&mut cluster, &clients, FAULTS[round % FAULTS.len()], &mut random).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_survives_each_fault_once() {
    survives_rounds(FAULTS.len()).await;
}

#[ignore = "takes minutes: `make faults`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_survives_many_faults() {
    survives_rounds(rounds(60)).await;
}
