//! Two writers at once: one stands still with writes on their way, another one takes over, and the first one
//! goes on. Nothing that it sends behind the epoch record of the other one counts, on any instance.

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::json;

use crate::group::Group;
use crate::lag::{hash_alike, hashes_settle};
use crate::writer::{ALL, others};
use support::http::http;
use support::nats::Nats;
use support::proxy::Proxy;
use support::rounds;
use support::server::{Server, signal};
use support::traffic::{Load, Traffic};
use support::within;

/// Elections as short as a busy machine allows without a reason.
const FLAGS: &[&str] = &["--heartbeat-interval", "20", "--election-timeout", "100"];
/// Rounds between two compactions.
const COMPACTED: usize = 10;
/// Rounds of which one compares the instances at every revision, and not at some.
const HASHED: usize = 25;
const SAMPLES: usize = 20;

/// A group, and the proxy of each instance to its server.
struct Overlaps {
    group: Group,
    proxies: Vec<Proxy>,
}

impl Overlaps {
    async fn over(nodes: Vec<Nats>) -> Self {
        let (mut servers, mut clients, mut proxies) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..3 {
            let proxy = Proxy::to(nodes[at % nodes.len()].address(), usize::MAX).await;
            let endpoint = format!("nats://{}?bucket=test&replicas={}", proxy.address, nodes.len());
            let server = Server::start_with(&[&["--endpoint", &endpoint], FLAGS].concat()).await;
            clients.push(server.client().await);
            servers.push(server);
            proxies.push(proxy);
        }
        let group = Group { servers, clients, nodes };
        group.members().await;
        Self { group, proxies }
    }

    /// The sequence of the newest epoch record.
    async fn newest_epoch(&self, asked: usize) -> u64 {
        let node = &self.group.nodes[asked % self.group.nodes.len()];
        let subject = json!({ "last_by_subj": "$KV.test.=_.epoch" });
        let answer = node.api("STREAM.MSG.GET.KV_test", &subject).await;
        answer["message"]["seq"].as_u64().unwrap_or_default()
    }

    /// Whether one of these instances writes already: with such short elections a busy machine moves the role
    /// by itself, maybe just before the writer was to stand still.
    async fn has_writer(&self, among: &[usize]) -> bool {
        for &at in among {
            if let Ok(status) = self.group.clients[at].status().await
                && status.header.is_some_and(|header| header.member_id == status.leader)
            {
                return true;
            }
        }
        false
    }

    /// How many messages the instances have found void, all together.
    async fn void_messages(&self) -> u64 {
        let mut void = 0;
        for server in &self.group.servers {
            let metrics = http(&server.address(), "GET", "/metrics").await.body;
            let line = metrics.lines().find_map(|line| line.strip_prefix("jetway_void_messages_total "));
            void += line.expect("a counter").parse::<u64>().unwrap();
        }
        void
    }

    async fn round(&self, round: usize, rng: &mut StdRng) {
        let Self { group, proxies } = self;
        let (first, _) = group.writer(ALL).await;
        let rest = others(first);
        // Without readers nothing moves the log's end between the epoch record and what follows it: sequence
        // and index of what is on its way fit then.
        let load = Load {
            writers: 48,
            single: [48, 24, 0][round % 3],
            through: &[first],
            readers: [0, 6][round % 2],
            pause: Duration::from_millis(1),
            value_bytes: 200,
        };
        let traffic = Traffic::begin_with(&group.clients, load).await;
        let before = self.newest_epoch(rest[0]).await;
        // In most rounds what it has sent is on its way for as long as it stands still itself.
        let is_on_its_way = round == 0 || rng.random_bool(0.7);
        if is_on_its_way {
            proxies[first].hold();
            tokio::time::sleep(Duration::from_millis(rng.random_range(5..40))).await;
        }
        signal(group.servers[first].pid(), libc::SIGSTOP);
        let taken_over = async {
            while self.newest_epoch(rest[0]).await <= before && !self.has_writer(&rest).await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within("another writer", taken_over).await;
        if !is_on_its_way && rng.random_bool(0.3) {
            group.writer(&rest).await;
        }
        proxies[first].release();
        if rng.random_bool(0.5) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..30))).await;
        }
        let mut reads = traffic.reads_sent_now(&group.clients[first]);
        signal(group.servers[first].pid(), libc::SIGCONT);
        while let Some(read) = reads.join_next().await {
            read.unwrap();
        }
        traffic.more().await;
        group.writer(ALL).await;
        traffic.none_failed(&rest).await;
        let revisions = traffic.end(&group.clients.iter().collect::<Vec<_>>()).await;
        let end = *revisions.end();
        let step = if round.is_multiple_of(HASHED) { 1 } else { revisions.clone().count().div_ceil(SAMPLES) };
        hash_alike(&group.clients, revisions.step_by(step).chain([end])).await;
        if round % COMPACTED == COMPACTED - 1 {
            group.clients[first].compact(end).await.unwrap();
            hashes_settle(&group.clients, end).await;
        }
    }

    /// Not every round makes a writer write behind another one: a few more are made until one has.
    async fn rounds(&self, rounds: usize) {
        const MORE: usize = 12;
        let seed = support::seed();
        let mut rng: StdRng = rand::SeedableRng::seed_from_u64(seed);
        let mut void = 0;
        for round in 0..rounds + MORE {
            if round >= rounds && void > 0 {
                return;
            }
            let begun = tokio::time::Instant::now();
            self.round(round, &mut rng).await;
            void = self.void_messages().await;
            println!("round {} of {rounds}: {:?}, void so far: {void}", round + 1, begun.elapsed());
        }
        assert!(void > 0, "no writer wrote behind another one");
    }
}

async fn over_one(rounds: usize) {
    Overlaps::over(vec![Nats::start().await]).await.rounds(rounds).await;
}

async fn over_three(rounds: usize) {
    Overlaps::over(Nats::cluster().await.into()).await.rounds(rounds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_goes_on_writes_nothing_valid() {
    over_one(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_goes_on_writes_nothing_valid_over_three_replicas() {
    over_three(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "hundreds of rounds: make faults"]
async fn writers_overlap_again_and_again() {
    over_one(rounds(500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "hundreds of rounds: make faults"]
async fn writers_overlap_again_and_again_over_three_replicas() {
    over_three(rounds(500)).await;
}
