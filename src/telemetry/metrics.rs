//! The registry: counters that parts of the server keep, and gauges read when somebody asks.
//!
//! Names, labels and buckets are etcd's. What etcd tells of things that are not here is left out, rather than told as a
//! number that means nothing: its write-ahead log's bytes, snapshots and backend transactions, its apply queue, its
//! feature gates, Go's runtime but for the number of tasks, the pauses of a compaction of its database.

use super::grpc::GrpcCalls;
use super::health::Health;
use crate::engine::Engine;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{ResponseOp, TxnResponse};
use crate::record::AlarmKind;
use crate::version::{CLUSTER_VERSION, ETCD_VERSION};
use crate::watch::WatchHub;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Operations on the store, those of clients' calls.
#[derive(Clone, Debug)]
pub struct Operations {
    /// Ranges, alone and in transactions.
    pub ranges: IntCounter,
    /// Puts, alone and in transactions.
    pub puts: IntCounter,
    /// Deletions, alone and in transactions. One of many keys is one.
    pub deletes: IntCounter,
    /// Transactions of more than one operation, as etcd counts them.
    pub txns: IntCounter,
    /// How long reading took, by whether it succeeded.
    pub range_durations: HistogramVec,
}

impl Operations {
    /// Times a range alone, without what it waited for.
    pub fn time_range<T, E>(&self, range: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let begun = Instant::now();
        let result = range();
        let success = if result.is_ok() { "true" } else { "false" };
        self.range_durations.with_label_values(&[success]).observe(begun.elapsed().as_secs_f64());
        result
    }

    /// Counts what a transaction has done: the operations of the branch that was taken, at any depth.
    pub fn count_txn(&self, response: &TxnResponse) {
        if self.count_branch(response) > 1 {
            self.txns.inc();
        }
    }

    fn count_branch(&self, response: &TxnResponse) -> usize {
        let count = |op: &ResponseOp| {
            match &op.response {
                Some(Response::ResponseRange(_)) => self.ranges.inc(),
                Some(Response::ResponsePut(_)) => self.puts.inc(),
                Some(Response::ResponseDeleteRange(_)) => self.deletes.inc(),
                Some(Response::ResponseTxn(nested)) => return self.count_branch(nested),
                None => return 0,
            }
            1
        };
        response.responses.iter().map(count).sum()
    }
}

/// A histogram with the buckets of etcd's disk metrics: 1 ms doubled thirteen times.
pub fn write_histogram(name: &str, help: &str) -> Histogram {
    let buckets = prometheus::exponential_buckets(0.001, 2.0, 14).expect("legal buckets");
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)).expect("a legal name")
}

fn range_durations() -> HistogramVec {
    let buckets = prometheus::exponential_buckets(0.0001, 2.0, 20).expect("legal buckets");
    let opts =
        HistogramOpts::new("etcd_server_range_duration_seconds", "Time that reading took.").buckets(buckets);
    HistogramVec::new(opts, &["success"]).expect("a legal name")
}

/// What cannot happen here and does not happen in a cluster of one: zero there, zero here.
const NEVER: [(&str, &str); 2] = [
    ("etcd_server_heartbeat_send_failures_total", "Heartbeats that failed; there are no peers."),
    ("etcd_server_learner_promote_successes", "Learners promoted; there are no learners."),
];

/// Everything that `/metrics` tells.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    operations: Operations,
    grpc: GrpcCalls,
    health: Health,
    hub: WatchHub,
    revision: IntGauge,
    compacted: IntGauge,
    keys: IntGauge,
    committed: IntGauge,
    applied: IntGauge,
    pending: IntGauge,
    size: IntGauge,
    size_in_use: IntGauge,
    has_leader: IntGauge,
    is_leader: IntGauge,
    streams: IntGauge,
    watchers: IntGauge,
    slow_watchers: IntGauge,
    pending_events: IntGauge,
    events: IntCounter,
    leases: IntGauge,
    auth_revision: IntGauge,
    fds: IntGauge,
    alarms: IntGaugeVec,
    tasks: IntGauge,
    /// Held while the figures of one scrape are taken and written, so that none of it is counted twice.
    scrape: Mutex<()>,
}

/// Metrics made and registered in one go.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.0.register(Box::new(collector.clone())).expect("each name is registered once");
        collector
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help).expect("a legal name"))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help).expect("a legal name"))
    }

    /// A gauge that is 1 and carries a text in its label.
    fn info(&self, name: &str, help: &str, label: &str, value: &str) {
        let info = IntGaugeVec::new(Opts::new(name, help), &[label]).expect("a legal name");
        self.register(info).with_label_values(&[value]).set(1);
    }
}

impl Metrics {
    /// Metrics of a server with this engine, hub, member id and quota. `extensive` adds what costs many series.
    pub fn new(engine: &Engine, hub: WatchHub, member_id: u64, quota_bytes: i64, extensive: bool) -> Metrics {
        let registry = Registry::new();
        let make = Maker(&registry);
        make.register_process();
        make.info("etcd_server_version", "Which version is running.", "server_version", ETCD_VERSION);
        let cluster = CLUSTER_VERSION.rsplit_once('.').map_or(CLUSTER_VERSION, |(minor, _)| minor);
        make.info("etcd_cluster_version", "Which version the cluster has.", "cluster_version", cluster);
        make.info("etcd_server_id", "Member id in hexadecimal.", "server_id", &format!("{member_id:x}"));
        make.info("jetway_build_info", "Version of jetway.", "version", env!("CARGO_PKG_VERSION"));
        make.info(
            "jetway_sync",
            "When answered writes are on stable storage.",
            "level",
            engine.durability().name(),
        );
        make.gauge("etcd_server_quota_backend_bytes", "Quota of the store in bytes.").set(quota_bytes);
        make.gauge("etcd_server_is_learner", "0: every instance is a full member.").set(0);
        make.register(engine.sync_durations().clone());
        make.register(engine.applied_durations().clone());
        make.register(engine.failed_writes().clone());
        let operations = Operations {
            ranges: make.counter("etcd_mvcc_range_total", "Ranges."),
            puts: make.counter("etcd_mvcc_put_total", "Puts."),
            deletes: make.counter("etcd_mvcc_delete_total", "Deletions."),
            txns: make.counter("etcd_mvcc_txn_total", "Transactions of more than one operation."),
            range_durations: make.register(range_durations()),
        };
        let grpc = GrpcCalls::new(extensive);
        let health = Health::new();
        for collector in grpc.collectors().into_iter().chain(health.collectors()) {
            registry.register(collector).expect("each name is registered once");
        }
        for collector in engine.counters().collectors() {
            registry.register(collector).expect("each name is registered once");
        }
        let member = format!("{member_id:x}");
        let peers = IntGaugeVec::new(
            Opts::new("etcd_network_known_peers", "1: the member itself, as in a cluster of one."),
            &["Local", "Remote"],
        );
        make.register(peers.expect("a legal name")).with_label_values(&[&*member, &*member]).set(1);
        for (name, help) in NEVER {
            make.counter(name, help);
        }
        make.gauge("etcd_server_snapshot_apply_in_progress_total", "0: no snapshot is ever applied.");
        let alarms = IntGaugeVec::new(
            Opts::new("etcd_debugging_server_alarms", "Alarms that are raised."),
            &["server_id", "alarm_type"],
        );
        make.gauge("os_fd_limit", "Most file descriptors the process may open.").set(descriptor_limit());
        Metrics {
            operations,
            grpc,
            health,
            hub,
            revision: make.gauge("etcd_debugging_mvcc_current_revision", "Current revision."),
            compacted: make.gauge("etcd_debugging_mvcc_compact_revision", "Compacted revision."),
            keys: make.gauge("etcd_debugging_mvcc_keys_total", "Live keys."),
            committed: make.gauge("etcd_server_proposals_committed_total", "Index of the last valid record."),
            applied: make.gauge("etcd_server_proposals_applied_total", "Index of the last applied record."),
            is_leader: make.gauge("etcd_server_is_leader", "Whether this instance writes."),
            pending: make.gauge("etcd_server_proposals_pending", "Writes that are not visible yet."),
            size: make.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the store on disk."),
            size_in_use: make.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the messages kept."),
            has_leader: make.gauge("etcd_server_has_leader", "Whether an instance writes now."),
            streams: make.gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams."),
            watchers: make.gauge("etcd_debugging_mvcc_watcher_total", "Watchers."),
            slow_watchers: make.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are behind."),
            pending_events: make.gauge("etcd_debugging_mvcc_pending_events_total", "Deliveries under way."),
            events: make.counter("etcd_debugging_mvcc_events_total", "Events sent to watchers."),
            leases: make.gauge("jetway_leases", "Leases there are."),
            auth_revision: make.gauge("etcd_debugging_auth_revision", "Revision of users and roles."),
            fds: make.gauge("os_fd_used", "Open file descriptors."),
            alarms: make.register(alarms.expect("a legal name")),
            tasks: make.gauge("go_goroutines", "Tasks that there are; there are no goroutines here."),
            registry,
            scrape: Mutex::default(),
        }
    }

    /// Counters for the KV service.
    pub fn operations(&self) -> Operations {
        self.operations.clone()
    }

    /// Counters of calls.
    pub fn grpc(&self) -> GrpcCalls {
        self.grpc.clone()
    }

    /// Counters of probes.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The text that Prometheus reads.
    pub async fn text(&self, engine: &Engine) -> Vec<u8> {
        let size = engine.size().await;
        let _scrape = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        let state = engine.reader().snapshot();
        let watch = self.hub.metrics();
        self.revision.set(state.revision.0);
        self.compacted.set(state.compacted.map_or(-1, |compacted| compacted.0));
        self.keys.set(state.index.live() as i64);
        self.committed.set(state.log_index.0 as i64);
        self.applied.set(state.log_index.0 as i64);
        self.is_leader.set(i64::from(engine.is_leader()));
        self.pending.set(engine.pending_writes() as i64);
        self.size.set(size.allocated as i64);
        self.size_in_use.set(size.in_use as i64);
        self.has_leader.set(i64::from(engine.leader().is_ok()));
        self.streams.set(watch.streams.get() as i64);
        self.watchers.set(watch.watchers.get() as i64);
        self.slow_watchers.set(watch.slow_watchers.get() as i64);
        self.pending_events.set(watch.pending.get() as i64);
        self.events.inc_by(watch.events_sent.get().saturating_sub(self.events.get()));
        self.auth_revision.set(engine.auth().store().revision() as i64);
        self.leases.set(engine.lease_count() as i64);
        self.fds.set(std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as i64));
        self.tasks.set(tokio::runtime::Handle::current().metrics().num_alive_tasks() as i64);
        self.alarms.reset();
        for alarm in engine.alarms() {
            let kind = match alarm.kind {
                AlarmKind::NoSpace => "NOSPACE",
                AlarmKind::Corrupt => "CORRUPT",
            };
            self.alarms.with_label_values(&[&*format!("{:x}", alarm.member), kind]).set(1);
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics cannot be encoded");
        }
        text
    }
}

impl Maker<'_> {
    fn register_process(&self) {
        let process = prometheus::process_collector::ProcessCollector::for_self();
        self.0.register(Box::new(process)).expect("registered once");
    }
}

/// The soft limit, from the kernel's own table.
pub(crate) fn descriptor_limit() -> i64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()).unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations() -> Operations {
        let counter = || IntCounter::new("name", "help").expect("a legal name");
        Operations {
            ranges: counter(),
            puts: counter(),
            deletes: counter(),
            txns: counter(),
            range_durations: range_durations(),
        }
    }

    fn txn(responses: Vec<Response>) -> TxnResponse {
        let responses =
            responses.into_iter().map(|response| ResponseOp { response: Some(response) }).collect();
        TxnResponse { responses, ..TxnResponse::default() }
    }

    #[test]
    fn a_transaction_counts_by_its_operations() {
        let put = || Response::ResponsePut(crate::proto::etcdserverpb::PutResponse::default());
        let range = || Response::ResponseRange(crate::proto::etcdserverpb::RangeResponse::default());
        let delete =
            || Response::ResponseDeleteRange(crate::proto::etcdserverpb::DeleteRangeResponse::default());
        for (response, counts) in [
            (txn(vec![]), [0, 0, 0, 0]),
            (txn(vec![put()]), [0, 1, 0, 0]),
            (txn(vec![put(), put(), range(), delete()]), [1, 2, 1, 1]),
            (txn(vec![Response::ResponseTxn(txn(vec![put(), range()]))]), [1, 1, 0, 1]),
        ] {
            let operations = operations();
            operations.count_txn(&response);
            let Operations { ranges, puts, deletes, txns, .. } = &operations;
            assert_eq!([ranges, puts, deletes, txns].map(IntCounter::get), counts, "{response:?}");
        }
    }
}
