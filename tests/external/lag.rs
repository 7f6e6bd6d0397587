//! Instances whose NATS server holds less than the others: none of them is ready before it has everything.

use std::sync::Arc;
use std::time::Duration;

use jetway::proto::etcdserverpb::{HashKvRequest, HashKvResponse, RangeRequest};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::leader_now;
use crate::routes::Routes;
use support::client::{Client, all, delete_all, put, revision};
use support::http::http;
use support::nats::Nats;
use support::rounds;
use support::server::Server;
use support::{catches_up, eventually, within};

const VALUES: usize = 160;
const VALUE_BYTES: usize = 100_000;

/// The endpoint of an instance that reaches this server only.
fn endpoint(node: &Nats) -> String {
    format!("nats://{}?bucket=test&replicas=3", node.address())
}

async fn fill(clients: &[Client], prefix: &str, values: usize, value: &str) {
    let value = Arc::new(format!("{value}{}", "v".repeat(VALUE_BYTES)));
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let (client, value) = (clients[writer % clients.len()].clone(), value.clone());
        let prefix = prefix.to_owned();
        writers.spawn(async move {
            for at in (writer..values).step_by(8) {
                // The writer may be gone with the machine.
                let written = async {
                    while client.put_request(put(format!("{prefix}{at}"), value.as_str())).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                within("a write", written).await;
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
}

/// The data that was there before an instance was started.
#[derive(Clone, Copy, Debug)]
struct Least {
    keys: i64,
    revision: i64,
}

/// Asks an instance from before its start on; it answers with everything or not at all. Returns how often it
/// answered reads of this kind.
async fn never_less(address: String, is_serializable: bool, least: Least, stop: CancellationToken) -> usize {
    let client = Client::lazy(&format!("http://{address}"));
    let mut answers = 0;
    while !stop.is_cancelled() {
        let count = RangeRequest { serializable: is_serializable, count_only: true, ..all("") };
        let asked = tokio::time::timeout(Duration::from_secs(1), client.range(count)).await;
        if let Ok(Ok(answer)) = asked {
            let (keys, at) = (answer.count, revision(&answer.header));
            assert!(
                keys >= least.keys && at >= least.revision,
                "{address} serves {keys} keys at revision {at}, and there were {least:?} (serializable: {is_serializable})"
            );
            assert_eq!(http(&address, "GET", "/readyz").await.status, 200);
            answers += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    answers
}

async fn starts(server: &mut Server, least: Least) {
    let stop = CancellationToken::new();
    let asking = [true, false].map(|is_serializable| {
        tokio::spawn(never_less(server.address(), is_serializable, least, stop.clone()))
    });
    server.restart().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.cancel();
    for asking in asking {
        assert!(within("the last answer", asking).await.unwrap() > 0);
    }
}

/// The answer of an instance for a revision: the hash, and the revisions from and up to which it reaches.
async fn hash_at(client: &Client, revision: i64) -> (u32, i64, i64) {
    let request = HashKvRequest { revision };
    let answer: HashKvResponse = client.unary("/etcdserverpb.Maintenance/HashKV", request).await.unwrap();
    (answer.hash, answer.compact_revision, answer.hash_revision)
}

pub async fn hash_alike(clients: &[Client], revisions: impl Iterator<Item = i64>) {
    for revision in revisions {
        let mut hashes = Vec::new();
        for client in clients {
            hashes.push(hash_at(client, revision).await);
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "revision {revision}: {hashes:?}");
    }
}

/// Waits until each instance has ended a compaction, in its own time: all of them answer with the hash of
/// what went into it then, which reaches from the floor before.
pub async fn hashes_settle(clients: &[Client], floor: i64) {
    for client in clients {
        // A linearizable read, for hashes are local: it has everything by then.
        assert!(client.revision().await >= floor);
    }
    eventually("all instances to end a compaction", async || {
        let first = hash_at(&clients[0], floor).await;
        for client in clients {
            if hash_at(client, floor).await != first {
                return None;
            }
        }
        (first.1 < floor).then_some(())
    })
    .await;
}

async fn returns_to_a_lagging_replica(is_wiped: bool) {
    let mut nodes = Nats::cluster().await;
    let mut servers = Vec::new();
    for node in &nodes {
        servers.push(Server::start_with(&["--endpoint", &endpoint(node)]).await);
    }
    let clients = [servers[0].client().await, servers[1].client().await];
    clients[0].put("/before", "").await;
    // A machine goes away, and much is written meanwhile.
    servers[2].kill9();
    nodes[2].kill9();
    if is_wiped {
        std::fs::remove_dir_all(nodes[2].store()).unwrap();
    }
    fill(&clients, "/meanwhile/", VALUES, "").await;
    let least = Least { keys: VALUES as i64 + 1, revision: clients[0].revision().await };
    nodes[2].restart().await;
    starts(&mut servers[2], least).await;
    // So do others that begin while the replica catches up.
    let mut fresh = Server::prepare(&["--endpoint", &endpoint(&nodes[2])]);
    starts(&mut fresh, least).await;
    let mut everybody = clients.to_vec();
    everybody.extend([servers[2].client().await, fresh.client().await]);
    let end = everybody[3].put("/after", "").await;
    for client in &everybody {
        assert_eq!(client.range(all("/meanwhile/")).await.unwrap().kvs.len(), VALUES);
    }
    hash_alike(&everybody, (2..=20).chain((21..end).step_by(40)).chain([end])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_was_away_is_ready_with_everything() {
    returns_to_a_lagging_replica(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_lost_its_disk_is_ready_with_everything() {
    returns_to_a_lagging_replica(true).await;
}

/// A server that stood still hears of everything later than its instance's clients ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stood_still_serves_no_stale_read() {
    let nodes = Nats::cluster().await;
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    for node in &nodes {
        servers.push(Server::start_with(&["--endpoint", &endpoint(node)]).await);
        clients.push(servers.last().unwrap().client().await);
    }
    for (still, node) in nodes.iter().enumerate() {
        let others: Vec<Client> = (0..3).filter(|at| *at != still).map(|at| clients[at].clone()).collect();
        node.signal(libc::SIGSTOP);
        fill(&others[..], &format!("/{still}/"), VALUES / 4, "").await;
        node.signal(libc::SIGCONT);
        let count = RangeRequest { count_only: true, ..all(format!("/{still}/")) };
        let seen = eventually("a read", async || clients[still].range(count.clone()).await.ok()).await;
        assert_eq!(seen.count, VALUES as i64 / 4);
    }
    let end = clients[0].revision().await;
    hash_alike(&clients, (2..10).chain([end])).await;
}

/// How a replica comes to lag.
#[derive(Clone, Copy, Debug)]
enum Lag {
    RoutesCut,
    ServerStill,
    ServerDead,
    DiskWiped,
}

const LAGS: [Lag; 4] = [Lag::RoutesCut, Lag::DiskWiped, Lag::ServerStill, Lag::ServerDead];

/// Values that are written in a round, and in one of ten rounds (250 MB).
const SOME: usize = 60;
const MANY: usize = 2500;

/// A cluster of servers whose routes can be cut, and an instance beside each of them.
struct Machines {
    nodes: Routes,
    servers: Vec<Server>,
}

impl Machines {
    async fn start() -> Self {
        let nodes = Routes::start().await;
        let mut servers = Vec::new();
        for node in &nodes[..] {
            servers.push(Server::start_with(&["--endpoint", &endpoint(node)]).await);
        }
        Self { nodes, servers }
    }

    /// Writes while one machine is away, and starts its instance when its server is back and has not caught
    /// up.
    async fn round(&mut self, round: usize, at: usize, lag: Lag, values: usize, rng: &mut StdRng) {
        let rest: Vec<usize> = (0..3).filter(|other| *other != at).collect();
        let clients = [self.servers[rest[0]].client().await, self.servers[rest[1]].client().await];
        let floor = clients[0].revision().await;
        self.servers[at].kill9();
        match lag {
            Lag::RoutesCut => self.nodes.cut(at),
            Lag::ServerStill => self.nodes[at].signal(libc::SIGSTOP),
            Lag::ServerDead | Lag::DiskWiped => self.nodes[at].kill9(),
        }
        if matches!(lag, Lag::DiskWiped) {
            std::fs::remove_dir_all(self.nodes[at].store()).unwrap();
        }
        let value = format!("{round} ");
        fill(&clients, "/meanwhile/", values, &value).await;
        let counted = clients[0].range(RangeRequest { count_only: true, ..all("") }).await.unwrap();
        let least = Least { keys: counted.count, revision: revision(&counted.header) };
        match lag {
            Lag::RoutesCut => self.nodes.mend(at),
            Lag::ServerStill => self.nodes[at].signal(libc::SIGCONT),
            Lag::ServerDead | Lag::DiskWiped => self.nodes[at].restart().await,
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
        starts(&mut self.servers[at], least).await;
        let mut everybody = clients.to_vec();
        everybody.push(self.servers[at].client().await);
        let mut fresh = Server::prepare(&["--endpoint", &endpoint(&self.nodes[at])]);
        if round.is_multiple_of(3) {
            starts(&mut fresh, least).await;
            everybody.push(fresh.client().await);
        }
        for client in &everybody {
            let kvs = client.range(all("/meanwhile/")).await.unwrap().kvs;
            let written = kvs.iter().filter(|kv| kv.value.starts_with(value.as_bytes())).count();
            assert_eq!(written, values);
        }
        let end = clients[0].revision().await;
        let step = (values / if values == MANY { 3 } else { 20 }).max(1);
        hash_alike(&everybody, (floor + 1..end).step_by(step).chain([end])).await;
        // The next rounds begin with an empty store.
        let emptied = clients[0].delete_range(delete_all("/meanwhile/")).await.unwrap();
        let floor = revision(&emptied.header);
        clients[0].compact(floor).await.unwrap();
        hashes_settle(&everybody, floor).await;
        if round.is_multiple_of(3) {
            drop(everybody);
            fresh.stop().await;
        }
        // Three replicas bear the loss of one: the next one may go when this one has everything.
        catches_up("the replica to follow again", async || leader_now(&self.nodes[..]).await).await;
    }

    async fn rounds(mut self, rounds: usize) {
        let seed = support::seed();
        let mut rng: StdRng = rand::SeedableRng::seed_from_u64(seed);
        for round in 0..rounds {
            let begun = tokio::time::Instant::now();
            let (at, lag) = (round % 3, LAGS[round % LAGS.len()]);
            let values = if round % 10 == 9 { MANY } else { SOME };
            println!("round {} of {rounds}: {lag:?} of machine {at}", round + 1);
            self.round(round, at, lag, values, &mut rng).await;
            println!("ended after {:?}", begun.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_routes_were_cut_is_ready_with_everything() {
    Machines::start().await.rounds(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "many rounds, some with 250 MB: make faults"]
async fn replicas_lag_again_and_again() {
    Machines::start().await.rounds(rounds(50)).await;
}
