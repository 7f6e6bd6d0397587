//! The load generator: clients in a closed loop, a window of time in which their calls count, and what it
//! cost the peer.

use crate::peer::{Kind, Peer};
use crate::usage;
use etcd_client::{Client, KvClient};
use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Anything that ends a sample, for the one who started the run.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Clients that share a connection. Real clients of etcd hold few connections and put many calls on each.
const CLIENTS_PER_CONNECTION: usize = 10;

/// Above this, more connections show more about the kernel than about the peer.
const CONNECTIONS: usize = 50;

/// How long a sample takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) warm_up: Duration,
    pub(crate) sample: Duration,
}

/// One client of the closed loop.
pub(crate) trait Caller: Send + 'static {
    /// One operation, its answer checked.
    fn call(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The result of one sample.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) operations: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latencies: Latencies,
    /// Of all processes of the peer.
    pub(crate) server_cpu: Duration,
    /// Of this process.
    pub(crate) client_cpu: Duration,
    /// Of watches, how much should have come. `operations` is what came.
    pub(crate) expected: Option<u64>,
    /// A remark for the reader.
    pub(crate) note: String,
}

/// A peer that serves, and how it is to be loaded.
#[derive(Debug)]
pub(crate) struct Bench {
    /// Of each member of the peer.
    pub(crate) endpoints: Vec<String>,
    /// The peer's first processes.
    pub(crate) roots: Vec<u32>,
    pub(crate) clients: usize,
    pub(crate) timing: Timing,
    /// Whether the peer counts the writes of a key.
    pub(crate) counts_versions: bool,
}

impl Bench {
    pub(crate) fn new(peer: &Peer, kind: Kind, clients: usize, timing: Timing) -> Self {
        Self {
            endpoints: peer.endpoints.clone(),
            roots: peer.roots.clone(),
            clients,
            timing,
            counts_versions: kind.counts_versions(),
        }
    }

    /// `count` connections, or the next higher number that gives each endpoint as many as any other.
    pub(crate) async fn connect(&self, count: usize) -> Result<Vec<Client>, Failure> {
        let count = count.next_multiple_of(self.endpoints.len());
        let mut clients = Vec::with_capacity(count);
        for endpoint in self.endpoints.iter().cycle().take(count) {
            clients.push(Client::connect([endpoint], None).await?);
        }
        Ok(clients)
    }

    /// A handle for each client, on as many connections as that many clients share. Clients that are fewer
    /// than the endpoints have all of them each, and every call takes one, as etcd's own client does it: else
    /// the figures of one client would show which member happens to lead.
    pub(crate) async fn kv_clients(&self) -> Result<Vec<KvClient>, Failure> {
        if self.clients < self.endpoints.len() {
            let mut clients = Vec::with_capacity(self.clients);
            for _ in 0..self.clients {
                clients.push(Client::connect(&self.endpoints, None).await?.kv_client());
            }
            return Ok(clients);
        }
        let connections =
            self.connect(self.clients.div_ceil(CLIENTS_PER_CONNECTION).min(CONNECTIONS)).await?;
        Ok((0..self.clients).map(|client| connections[client % connections.len()].kv_client()).collect())
    }

    /// Lets every caller call until the sample is over.
    pub(crate) async fn closed_loop<C: Caller>(&self, callers: Vec<C>) -> Result<(Outcome, Vec<C>), Failure> {
        let from = Instant::now() + self.timing.warm_up;
        let until = from + self.timing.sample;
        let mut running = JoinSet::new();
        for mut caller in callers {
            running.spawn(async move {
                let mut taken = Vec::new();
                loop {
                    let start = Instant::now();
                    if start >= until {
                        return Ok::<_, Failure>((caller, taken));
                    }
                    caller.call().await?;
                    let end = Instant::now();
                    if end >= from && end < until {
                        taken.push(end - start);
                    }
                }
            });
        }
        tokio::time::sleep_until(from.into()).await;
        let meter = Meter::start(&self.roots)?;
        tokio::time::sleep_until(until.into()).await;
        let mut outcome = meter.stop()?;
        let mut callers = Vec::new();
        let mut taken = Vec::new();
        while let Some(ended) = running.join_next().await {
            let (caller, of_caller) = ended??;
            callers.push(caller);
            taken.extend(of_caller);
        }
        outcome.operations = taken.len() as u64;
        outcome.latencies = Latencies::of(taken);
        if outcome.operations == 0 {
            return Err("no operation was completed".into());
        }
        Ok((outcome, callers))
    }
}

/// CPU clocks of both sides over a span of time.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    roots: &'a [u32],
    start: Instant,
    server: Duration,
    client: Duration,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(roots: &'a [u32]) -> Result<Self, Failure> {
        Ok(Self { roots, server: usage::cpu(roots)?, client: usage::own_cpu(), start: Instant::now() })
    }

    /// The times; operations and latencies are the caller's to fill in.
    pub(crate) fn stop(self) -> Result<Outcome, Failure> {
        Ok(Outcome {
            operations: 0,
            elapsed: self.start.elapsed(),
            latencies: Latencies::of(Vec::new()),
            server_cpu: usage::cpu(self.roots)?.saturating_sub(self.server),
            client_cpu: usage::own_cpu().saturating_sub(self.client),
            expected: None,
            note: String::new(),
        })
    }
}

/// Latencies in ascending order.
#[derive(Debug)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn of(mut taken: Vec<Duration>) -> Self {
        taken.sort_unstable();
        Self(taken)
    }

    /// The smallest latency that `percent` of all do not exceed; zero if there is none.
    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        let rank = (self.0.len() as f64 * percent / 100.0).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}
