//! Random clients of a cluster under faults, and the proof from their record that one order of all writes
//! explains every call and every event.

mod fault;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::client::Client;
use support::clock::WallClock;
use support::cluster::Cluster;
use support::disk::{Disk, Mounted};
use support::history::{Outcome, Recorder, Violation};
use support::network::Network;
use support::proxy::Proxy;
use support::server::{Target, signal};
use support::{deadline, rounds, seed};

use super::clocks;
use super::faults::all_meet;
use super::members::{add, remove, started, until_permitted};
use super::{power_cuts, slow_disks};
pub use fault::Fault;
use fault::{OF_MACHINES, OF_PROCESSES, OF_PROXIES, OF_THE_NETWORK};

pub(super) struct Campaign {
    /// The disks of the members, if these have disks of their own. Before the folders in which they are
    /// mounted, since fields are dropped in their order.
    disks: Vec<Mounted>,
    cluster: Cluster,
    /// The ways from the clients to their members, if these are not reached straight.
    fronts: Vec<Proxy>,
    clients: Vec<Client>,
    network: Option<Network>,
    /// The wall clocks of the members, if these have clocks of their own.
    clocks: Vec<WallClock>,
    random: StdRng,
    rounds: usize,
    calls: usize,
    answered: usize,
    events: usize,
}

impl Campaign {
    async fn start(network: Option<Network>) -> Self {
        let cluster = match &network {
            Some(network) => Cluster::prepare_on(network),
            None => Cluster::prepare(3),
        };
        Self::start_on(cluster, network).await
    }

    /// Starts the members of a cluster.
    pub(super) async fn start_on(mut cluster: Cluster, network: Option<Network>) -> Self {
        let random = StdRng::seed_from_u64(seed());
        cluster.start_all().await;
        let clients = cluster.clients().await;
        all_meet(&cluster, &clients).await;
        Self {
            disks: Vec::new(),
            cluster,
            fronts: Vec::new(),
            clients,
            network,
            clocks: Vec::new(),
            random,
            rounds: 0,
            calls: 0,
            answered: 0,
            events: 0,
        }
    }

    /// Puts proxies between the clients and the members.
    async fn reach_through_proxies(&mut self) {
        for member in &self.cluster.members {
            self.fronts.push(Proxy::to(member.address(), usize::MAX).await);
        }
        self.clients =
            self.fronts.iter().map(|front| Client::lazy(&format!("http://{}", front.address))).collect();
    }

    /// Makes a fault under load and checks the history of all clients.
    pub(super) async fn round(&mut self, fault: Fault) -> Result<(), Violation> {
        let recorder = Recorder::begin(&self.clients, &mut self.random).await;
        let leader = self.cluster.leader(&self.clients).await;
        let is_of_leader = matches!(fault, Fault::LeaderPause) || self.random.random_bool(0.6);
        let member = if is_of_leader { leader } else { self.random.random_range(0..3) };
        println!("round {}: {fault:?} of member {member}, the leader is {leader}", self.rounds);
        self.make(fault, member, &recorder).await;
        if let Some(network) = &self.network {
            network.heal();
        }
        recorder.more_through(&[0, 1, 2]).await;
        let history = recorder.end(&self.clients[0]).await;
        self.rounds += 1;
        self.calls += history.calls.len();
        self.answered += history.calls.iter().filter(|call| call.outcome != Outcome::Unknown).count();
        self.events += history.events().len();
        history.check()
    }

    async fn make(&mut self, fault: Fault, member: usize, recorder: &Recorder) {
        let length = Duration::from_millis(self.random.random_range(200..9000));
        let other = (member + self.random.random_range(1..3)) % 3;
        let members = &mut self.cluster.members;
        match fault {
            Fault::None => recorder.more().await,
            Fault::Kill => {
                members[member].kill9();
                recorder.more().await;
                members[member].restart().await;
            }
            Fault::Machine => {
                self.cluster.members[member].kill_machine();
                recorder.more().await;
                self.cluster.members[member].restart().await;
            }
            Fault::Pause => pause(members[member].pid(), length).await,
            Fault::LeaderPause => {
                let length = Duration::from_millis(self.random.random_range(6000..9000));
                pause(members[member].pid(), length).await;
            }
            Fault::NatsPause => pause(members[member].nats_pid(), length).await,
            Fault::NatsServer => signal(members[member].nats_pid(), libc::SIGKILL),
            Fault::Majority => {
                for member in [member, other] {
                    self.cluster.members[member].kill_machine();
                }
                for member in [other, member] {
                    self.cluster.members[member].begin();
                }
                for member in [member, other] {
                    self.cluster.members[member].is_up().await;
                }
            }
            Fault::RollingRestart => {
                for member in 0..3 {
                    assert!(self.cluster.members[member].stop().await.success());
                    self.cluster.members[member].restart().await;
                }
            }
            Fault::MoveLeader => {
                for _ in 0..5 {
                    let leader = self.cluster.leader(&self.clients).await;
                    let to = self.clients[(leader + 1) % 3].status().await;
                    let Ok(Some(header)) = to.map(|status| status.header) else { continue };
                    drop(self.clients[leader].move_leader(header.member_id).await);
                    recorder.more().await;
                }
            }
            Fault::Alone | Fault::OneWay | Fault::Between | Fault::Flapping => {
                self.part(fault, member, other, length).await;
            }
            Fault::Slow | Fault::RouteBreaks | Fault::RouteOneWay | Fault::AnswersHeld => {
                self.disturb(fault, member, length).await;
            }
            Fault::SlowDisk => {
                let disk = &self.disks[member].disk;
                disk.slow_down(Duration::from_millis(self.random.random_range(20..1000)));
                tokio::time::sleep(length).await;
                disk.slow_down(Duration::ZERO);
            }
            Fault::ClockJumps => {
                for _ in 0..10 {
                    let clock = &self.clocks[self.random.random_range(0..3)];
                    // Moments and years, since both have limits of their own.
                    let most = 1_i64 << self.random.random_range(1..30);
                    clock.set(self.random.random_range(-most..most));
                    tokio::time::sleep(length / 10).await;
                }
            }
            Fault::PowerCut => {
                power_cuts::cut(&mut self.cluster, &mut self.disks, &[member], &mut self.random).await;
            }
            Fault::FourthMember => self.join_and_leave(member, recorder).await,
        }
    }

    async fn join_and_leave(&mut self, through: usize, recorder: &Recorder) {
        let client = &self.clients[through];
        let new = self.cluster.add();
        // NATS takes no name back for minutes.
        self.cluster.rename(new, &format!("of-round-{}", self.rounds));
        let (url, list) = (self.cluster.peer_url(new), self.cluster.list([0, 1, 2, new]));
        until_permitted(async || add(client, &url, false).await).await;
        self.cluster.set_flags(new, &list, "existing", &[]);
        self.cluster.members[new].restart().await;
        recorder.more().await;
        let id = started(client, self.cluster.name(new)).await.id;
        until_permitted(async || remove(client, id).await).await;
        assert!(self.cluster.members[new].ended().await.success());
        self.cluster.forget_last();
    }

    async fn disturb(&mut self, fault: Fault, member: usize, length: Duration) {
        let route = &self.cluster.routes[member];
        match fault {
            Fault::Slow => {
                for proxy in self.cluster.routes.iter().chain(&self.fronts) {
                    proxy.delay(Duration::from_millis(self.random.random_range(0..200)));
                }
                tokio::time::sleep(length).await;
            }
            Fault::RouteBreaks => {
                for _ in 0..10 {
                    route.break_off();
                    tokio::time::sleep(length / 10).await;
                }
            }
            Fault::RouteOneWay => {
                route.hold_to_server();
                tokio::time::sleep(length).await;
            }
            _ => {
                self.fronts[member].hold_from_server();
                tokio::time::sleep(length).await;
                self.fronts[member].break_off();
            }
        }
        self.cluster.routes.iter().chain(&self.fronts).for_each(Proxy::release);
    }

    async fn part(&mut self, fault: Fault, member: usize, other: usize, length: Duration) {
        let network = self.network.as_ref().expect("a network");
        let third = 3 - member - other;
        let both = |one, two| {
            network.cut(one, two);
            network.cut(two, one);
        };
        match fault {
            Fault::Alone => {
                both(member, other);
                both(member, third);
            }
            Fault::OneWay => {
                network.cut(other, member);
                network.cut(third, member);
            }
            Fault::Between => both(member, other),
            _ => {
                for _ in 0..10 {
                    both(member, other);
                    both(member, third);
                    tokio::time::sleep(length / 10).await;
                    network.heal();
                    tokio::time::sleep(length / 20).await;
                }
                return;
            }
        }
        tokio::time::sleep(length).await;
    }

    /// The numbers of what was checked.
    pub(super) fn report(&self) -> String {
        let Self { rounds, calls, answered, events, .. } = self;
        format!(
            "{rounds} histories, {calls} calls, {answered} answered, {events} events in each of 3 watches"
        )
    }
}

async fn pause(pid: u32, length: Duration) {
    signal(pid, libc::SIGSTOP);
    tokio::time::sleep(length).await;
    signal(pid, libc::SIGCONT);
}

/// etcd has no nats-server.
fn is_for_target(fault: Fault) -> bool {
    let of_nats = matches!(fault, Fault::Machine | Fault::Majority | Fault::NatsPause | Fault::NatsServer);
    Target::from_env() == Target::Jetway || !of_nats
}

impl Campaign {
    async fn explains(mut self, faults: &[Fault], count: usize) {
        let faults: Vec<Fault> = faults.iter().copied().filter(|fault| is_for_target(*fault)).collect();
        let deadline = deadline();
        for round in 0.. {
            if deadline.map_or(round == count, |deadline| Instant::now() > deadline) {
                break;
            }
            let fault = faults[round % faults.len()];
            if let Err(violation) = self.round(fault).await {
                panic!("after {fault:?}, {}: {violation:?}", self.report());
            }
        }
        println!("{}", self.report());
    }
}

async fn explains_rounds(network: Option<Network>, faults: &[Fault], count: usize) {
    Campaign::start(network).await.explains(faults, count).await;
}

async fn explains_rounds_through_proxies(faults: &[Fault], count: usize) {
    let mut campaign = Campaign::start_on(Cluster::prepare_behind_proxies(3).await, None).await;
    campaign.reach_through_proxies().await;
    campaign.explains(faults, count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_order_of_writes_explains_what_clients_see() {
    explains_rounds(None, &[Fault::None, Fault::Machine, Fault::Pause, Fault::MoveLeader], 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_order_of_writes_explains_slow_and_broken_connections() {
    explains_rounds_through_proxies(&OF_PROXIES, OF_PROXIES.len()).await;
}

#[ignore = "takes minutes: `make faults`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_order_of_writes_explains_many_broken_connections() {
    let all = [&OF_PROXIES[..], &OF_PROCESSES[..]].concat();
    explains_rounds_through_proxies(&all, rounds(all.len())).await;
}

#[ignore = "takes minutes: `make faults`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_order_of_writes_explains_jumping_clocks() {
    let (cluster, clocks) = clocks::prepare();
    let mut campaign = Campaign::start_on(cluster, None).await;
    campaign.clocks = clocks;
    // The clocks stay where they are in the rounds between.
    let faults = OF_PROCESSES.iter().flat_map(|fault| [Fault::ClockJumps, *fault]).collect::<Vec<_>>();
    campaign.explains(&faults, rounds(faults.len())).await;
}

#[ignore = "needs root and /dev/fuse: `make slow-disk`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_order_of_writes_explains_slow_disks() {
    let (cluster, disks) = slow_disks::prepare(Disk::default);
    let mut campaign = Campaign::start_on(cluster, None).await;
    campaign.disks = disks;
    let faults = [Fault::SlowDisk, Fault::Kill, Fault::SlowDisk, Fault::Machine];
    campaign.explains(&faults, rounds(2 * faults.len())).await;
}

#[ignore = "needs root and /dev/fuse: `make faults-long`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_order_of_writes_explains_all_faults() {
    let mut cluster = Cluster::prepare_behind_proxies(3).await;
    let clocks = clocks::of(&mut cluster);
    let disks = slow_disks::mount(&cluster, Disk::journaled);
    let mut campaign = Campaign::start_on(cluster, None).await;
    (campaign.clocks, campaign.disks) = (clocks, disks);
    campaign.reach_through_proxies().await;
    let all = [&OF_PROXIES[..], &OF_PROCESSES[..], &OF_MACHINES[..]].concat();
    campaign.explains(&all, rounds(all.len())).await;
}

#[ignore = "takes minutes: `make faults`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_order_of_writes_explains_many_faults() {
    explains_rounds(None, &OF_PROCESSES, rounds(OF_PROCESSES.len() * 4)).await;
}

#[ignore = "needs root and a network of its own: `make faults-network`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_order_of_writes_explains_cut_networks() {
    let all = [&OF_THE_NETWORK[..], &OF_PROCESSES[..]].concat();
    explains_rounds(Some(Network::new(3)), &all, rounds(all.len())).await;
}
