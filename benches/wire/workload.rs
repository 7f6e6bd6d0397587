//! The list of workloads.

use crate::load::{Bench, Failure, Outcome};
use crate::{kv, watch};

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// The work, in a line.
    pub(crate) what: &'static str,
    /// What one operation is.
    pub(crate) unit: &'static str,
    pub(crate) clients: usize,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    Put,
    Get,
    Range,
    Count,
    Update,
    Create,
    Mixed,
    HotKey,
    FanOut,
    Lag,
}

impl Workload {
    pub(crate) const ALL: [Self; 12] = [
        Self::new("put-1", "1 client puts 1 KiB", "put", 1, Shape::Put),
        Self::new("put-100", "100 clients put 1 KiB", "put", 100, Shape::Put),
        Self::new("put-1000", "1000 clients put 1 KiB", "put", 1000, Shape::Put),
        Self::new(
            "txn-create",
            "100 clients create keys guarded by their absence",
            "txn",
            100,
            Shape::Create,
        ),
        Self::new(
            "txn-update",
            "100 clients update a key each, guarded by its revision",
            "txn",
            100,
            Shape::Update,
        ),
        Self::new(
            "hot-key",
            "100 clients update one key, guarded by its revision",
            "success",
            100,
            Shape::HotKey,
        ),
        Self::new("get", "100 clients read keys of 1 KiB, linearizable", "get", 100, Shape::Get),
        Self::new(
            "range-500",
            "10 clients read pages of 500 x 1 KiB out of 10 k keys",
            "page",
            10,
            Shape::Range,
        ),
        Self::new("count", "10 clients count 10 k keys", "count", 10, Shape::Count),
        Self::new("mixed-70-30", "100 clients, 70 % reads, 30 % puts", "operation", 100, Shape::Mixed),
        Self::new(
            "watch-fan-out",
            "16 writers in a closed loop, 100 watchers see it all",
            "event",
            100,
            Shape::FanOut,
        ),
        Self::new("watch-lag", "1000 writes/s, 100 watchers see them all", "event", 100, Shape::Lag),
    ];

    const fn new(
        name: &'static str,
        what: &'static str,
        unit: &'static str,
        clients: usize,
        shape: Shape,
    ) -> Self {
        Self { name, what, unit, clients, shape }
    }

    /// `put-100` is called `put-100` and `put`.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Prepares the store, loads the peer, checks its answers.
    pub(crate) async fn run(&self, bench: &Bench) -> Result<Outcome, Failure> {
        match self.shape {
            Shape::Put => kv::put(bench).await,
            Shape::Get => kv::get(bench).await,
            Shape::Range => kv::range(bench).await,
            Shape::Count => kv::count(bench).await,
            Shape::Update => kv::update(bench).await,
            Shape::Create => kv::create(bench).await,
            Shape::Mixed => kv::mixed(bench).await,
            Shape::HotKey => kv::hot_key(bench).await,
            Shape::FanOut => watch::fan_out(bench).await,
            Shape::Lag => watch::lag(bench).await,
        }
    }
}
