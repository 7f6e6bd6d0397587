//! The list of workloads.

use crate::failover::Victim;
use crate::load::{Bench, Failure, Outcome};
use crate::peer::Fault;
use crate::store::Contents;
use crate::{kv, txn, watch};
use std::time::Duration;

/// One row of the tables.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// The work, in a line.
    pub(crate) what: &'static str,
    /// The name of one operation.
    pub(crate) unit: &'static str,
    /// So long that it runs only when it is named.
    pub(crate) is_long: bool,
    peers: Peers,
    pub(crate) shape: Shape,
}

/// The peers that a workload is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peers {
    /// Servers alone.
    Alone,
    /// Clusters.
    Cluster,
    Both,
}

/// The thing that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// A server under the load of so many clients.
    Load(usize, Load),
    /// A server that holds so much.
    Store(Contents),
    /// A server that holds so much, of which snapshots are taken.
    Snapshot(Contents),
    /// A cluster of which a member fails.
    Failover(Victim, Fault),
}

/// The requests of the clients.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    Put,
    PutCompacted,
    PutRanged,
    Get,
    Range,
    Count,
    Update,
    Create,
    Flood,
    Mixed,
    HotKey,
    FanOut,
    /// As many writes a second as are given.
    Lag(u32),
}

impl Workload {
    const ALL: [Self; 30] = [
        Self::load("put-1", "1 client puts 1 KiB", "put", 1, Load::Put).in_both(),
        Self::load("put-100", "100 clients put 1 KiB", "put", 100, Load::Put).in_both(),
        Self::load("put-1000", "1000 clients put 1 KiB", "put", 1000, Load::Put).in_both(),
        Self::load(
            "put-10-ranged",
            "10 clients put 1 KiB while 4 clients read all of 100 k keys",
            "put",
            10,
            Load::PutRanged,
        )
        .in_both(),
        Self::load(
            "txn-create-100",
            "100 clients create keys of 1 KiB guarded by their absence",
            "txn",
            100,
            Load::Create,
        ),
        Self::load("txn-create-1000", "the same with 1000 clients", "txn", 1000, Load::Create),
        Self::load(
            "txn-update-100",
            "100 clients update a key of 1 KiB each, guarded by its revision",
            "txn",
            100,
            Load::Update,
        )
        .in_both(),
        Self::load("txn-update-1000", "the same with 1000 clients", "txn", 1000, Load::Update),
        Self::load(
            "lease-flood-100",
            "heartbeats: 100 clients update 1000 keys of 300 B, each guarded by its revision",
            "txn",
            100,
            Load::Flood,
        ),
        Self::load("lease-flood-1000", "the same with 1000 clients", "txn", 1000, Load::Flood),
        Self::load(
            "hot-key",
            "100 clients update one key of 1 KiB, guarded by its revision",
            "success",
            100,
            Load::HotKey,
        ),
        Self::load("get", "100 clients read keys of 1 KiB, linearizable", "get", 100, Load::Get).in_both(),
        Self::load(
            "range-500",
            "10 clients read pages of 500 x 1 KiB out of 10 k keys",
            "page",
            10,
            Load::Range,
        )
        .in_both(),
        Self::load("count", "10 clients count 10 k keys", "count", 10, Load::Count),
        Self::load(
            "mixed-70-30",
            "100 clients, 70 % reads, 30 % puts of 1 KiB",
            "operation",
            100,
            Load::Mixed,
        )
        .in_both(),
        Self::load(
            "watch-fan-out-100",
            "16 writers of 300 B in a closed loop, 100 watchers see it all",
            "event",
            100,
            Load::FanOut,
        ),
        Self::load("watch-fan-out-1000", "the same with 1000 watchers", "event", 1000, Load::FanOut),
        Self::load(
            "watch-lag-100",
            "1000 writes/s of 300 B, 100 watchers see them all",
            "event",
            100,
            Load::Lag(1000),
        ),
        Self::load(
            "watch-lag-1000",
            "200 writes/s of 300 B, 1000 watchers see them all",
            "event",
            1000,
            Load::Lag(200),
        ),
        Self::load(
            "put-100-compacted",
            "100 clients put 1 KiB while all history is compacted every second",
            "put",
            100,
            Load::PutCompacted,
        )
        .in_cluster(),
        Self::load(
            "watch-lag-100-at-500",
            "500 writes/s of 300 B, 100 watchers see them all",
            "event",
            100,
            Load::Lag(500),
        )
        .in_cluster(),
        Self::failover(
            "leader-killed",
            "a write of 300 B every 10 ms while the leader's process is killed",
            Victim::Leader,
            Fault::Killed,
        ),
        Self::failover(
            "follower-killed",
            "the same while a follower's process is killed",
            Victim::Follower,
            Fault::Killed,
        ),
        Self::failover(
            "leader-terminated",
            "the same while the leader is asked to end",
            Victim::Leader,
            Fault::Terminated,
        ),
        Self::failover(
            "leader-node-killed",
            "the same while all processes of the leader are killed",
            Victim::Leader,
            Fault::NodeKilled,
        ),
        Self::failover(
            "leader-node-paused",
            "the same while all processes of the leader stand still for 15 s",
            Victim::Leader,
            Fault::NodePaused(Duration::from_secs(15)),
        ),
        Self::store("start", "300 k keys of 300 B, each put once", 300_000, 0),
        Self::store("memory", "1 M keys of 300 B, each put once", 1_000_000, 0),
        Self {
            name: "snapshot",
            what: "snapshots of 1 M keys of 300 B, and 500 writes/s meanwhile",
            unit: "put",
            is_long: false,
            peers: Peers::Alone,
            shape: Shape::Snapshot(Contents { keys: 1_000_000, rewrites: 0 }),
        },
        Self {
            is_long: true,
            ..Self::store(
                "churned-start",
                "300 k keys of 300 B, 5 M more puts of them, then a compaction of all history",
                300_000,
                5_000_000,
            )
        },
    ];

    const fn load(
        name: &'static str,
        what: &'static str,
        unit: &'static str,
        clients: usize,
        load: Load,
    ) -> Self {
        Self { name, what, unit, is_long: false, peers: Peers::Alone, shape: Shape::Load(clients, load) }
    }

    const fn store(name: &'static str, what: &'static str, keys: u64, rewrites: u64) -> Self {
        let shape = Shape::Store(Contents { keys, rewrites });
        Self { name, what, unit: "put", is_long: false, peers: Peers::Alone, shape }
    }

    const fn failover(name: &'static str, what: &'static str, victim: Victim, fault: Fault) -> Self {
        let shape = Shape::Failover(victim, fault);
        Self { name, what, unit: "put", is_long: false, peers: Peers::Cluster, shape }
    }

    /// The same, for clusters too.
    const fn in_both(self) -> Self {
        Self { peers: Peers::Both, ..self }
    }

    /// The same, for clusters only.
    const fn in_cluster(self) -> Self {
        Self { peers: Peers::Cluster, ..self }
    }

    /// All for clusters, or all for servers alone.
    pub(crate) fn all(for_clusters: bool) -> impl Iterator<Item = &'static Self> {
        const { &Self::ALL }.iter().filter(move |workload| match workload.peers {
            Peers::Alone => !for_clusters,
            Peers::Cluster => for_clusters,
            Peers::Both => true,
        })
    }

    /// `put-100` is called `put-100` and `put`.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// A peer that takes longer than this for one sample, its preparation included, is said to be too slow
    /// for it.
    pub(crate) fn timeout(&self) -> Duration {
        let minutes = match self.shape {
            Shape::Load(..) | Shape::Failover(..) => 4,
            Shape::Store(_) if self.is_long => 90,
            Shape::Store(_) | Shape::Snapshot(_) => 20,
        };
        Duration::from_mins(minutes)
    }
}

impl Load {
    /// Prepares the store, loads the peer, checks its answers.
    pub(crate) async fn run(self, bench: &Bench) -> Result<Outcome, Failure> {
        match self {
            Load::Put => kv::put(bench).await,
            Load::PutCompacted => kv::put_compacted(bench).await,
            Load::PutRanged => kv::put_ranged(bench).await,
            Load::Get => kv::get(bench).await,
            Load::Range => kv::range(bench).await,
            Load::Count => kv::count(bench).await,
            Load::Update => txn::update(bench).await,
            Load::Create => txn::create(bench).await,
            Load::Flood => txn::flood(bench).await,
            Load::Mixed => kv::mixed(bench).await,
            Load::HotKey => txn::hot_key(bench).await,
            Load::FanOut => watch::fan_out(bench).await,
            Load::Lag(writes_a_second) => watch::lag(bench, writes_a_second).await,
        }
    }
}
