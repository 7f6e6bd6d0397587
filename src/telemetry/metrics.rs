//! The registry of metrics. Each part of the server makes its own counters and gauges and registers them
//! here. A part whose gauges are read at a scrape registers a function that sets them.
//!
//! Names, labels and buckets are etcd's. Numbers of things that jetway does not have are left out, because a
//! zero would mean nothing: the bytes of etcd's write-ahead log, its snapshots and backend transactions, its
//! apply queue, its feature gates, the pauses of a compaction of its database, and Go's runtime except for
//! the number of tasks.

use super::calls::CallCounters;
use super::operations::{Operations, range_durations};
use super::probes::Probes;
use super::series::Series;
use crate::version::{CLUSTER_VERSION, ETCD_VERSION};
use futures_util::future::BoxFuture;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::fmt;

/// A histogram with the buckets of etcd's disk metrics: 1 ms doubled thirteen times.
pub fn write_histogram(name: &str, help: &str) -> Histogram {
    let buckets = prometheus::exponential_buckets(0.001, 2.0, 14).expect("legal buckets");
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)).expect("a legal name")
}

/// Events that never happen in jetway. A cluster of one etcd reports zero, and so does jetway.
const NEVER: [(&str, &str); 2] = [
    ("etcd_server_heartbeat_send_failures_total", "Heartbeats that failed; there are no peers."),
    ("etcd_server_learner_promote_successes", "Learners promoted; there are no learners."),
];

/// Sets gauges at a scrape.
type Refresh = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    operations: Operations,
    calls: CallCounters,
    probes: Probes,
    fds: IntGauge,
    tasks: IntGauge,
    refreshes: Vec<Refresh>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Metrics {
    /// The metrics of the process itself, of a server with this member id and quota. `extensive` adds a
    /// histogram for each gRPC method.
    pub fn new(member_id: u64, quota_bytes: i64, extensive: bool) -> Metrics {
        let registry = Registry::new();
        let operations = Operations {
            ranges: counter(&registry, "etcd_mvcc_range_total", "Ranges."),
            puts: counter(&registry, "etcd_mvcc_put_total", "Puts."),
            deletes: counter(&registry, "etcd_mvcc_delete_total", "Deletions."),
            txns: counter(&registry, "etcd_mvcc_txn_total", "Transactions of more than one operation."),
            range_durations: register(&registry, range_durations()),
        };
        let calls = CallCounters::new(extensive);
        let probes = Probes::new();
        for collector in calls.collectors().into_iter().chain(probes.collectors()) {
            registry.register(collector).expect("each name is registered once");
        }
        registry.register(Box::new(ProcessCollector::for_self())).expect("it is registered once");
        let metrics = Metrics {
            operations,
            calls,
            probes,
            fds: gauge(&registry, "os_fd_used", "Open file descriptors."),
            tasks: gauge(&registry, "go_goroutines", "Tasks that there are; there are no goroutines here."),
            registry,
            refreshes: Vec::new(),
        };
        let member = format!("{member_id:x}");
        metrics.info("etcd_server_version", "Which version is running.", "server_version", ETCD_VERSION);
        let cluster = CLUSTER_VERSION.rsplit_once('.').map_or(CLUSTER_VERSION, |(minor, _)| minor);
        metrics.info("etcd_cluster_version", "Which version the cluster has.", "cluster_version", cluster);
        metrics.info("etcd_server_id", "Member id in hexadecimal.", "server_id", &member);
        metrics.info("jetway_build_info", "Version of jetway.", "version", env!("CARGO_PKG_VERSION"));
        metrics.gauge("etcd_server_quota_backend_bytes", "Quota of the store in bytes.").set(quota_bytes);
        metrics.gauge("etcd_server_is_learner", "0: every instance is a full member.");
        metrics.gauge("etcd_server_snapshot_apply_in_progress_total", "0: no snapshot is ever applied.");
        metrics.gauge("os_fd_limit", "Most file descriptors the process may open.").set(descriptor_limit());
        let peers = metrics.gauges(
            "etcd_network_known_peers",
            "1: the member itself, as in a cluster of one.",
            &["Local", "Remote"],
        );
        peers.with_label_values(&[&*member, &*member]).set(1);
        for (name, help) in NEVER {
            metrics.counter(name, help);
        }
        metrics
    }

    /// Counters for the KV service.
    pub fn operations(&self) -> Operations {
        self.operations.clone()
    }

    /// Counters of gRPC calls.
    pub fn calls(&self) -> &CallCounters {
        &self.calls
    }

    /// Counters of probes.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// Registers a collector under names that nothing else has.
    pub fn register<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        register(&self.registry, collector)
    }

    /// Registers collectors.
    pub fn register_all(&self, collectors: Vec<Box<dyn Collector>>) {
        for collector in collectors {
            self.registry.register(collector).expect("each name is registered once");
        }
    }

    /// A new gauge.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        gauge(&self.registry, name, help)
    }

    /// A new gauge for each value of the labels.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels).expect("a legal name"))
    }

    /// A new gauge whose series come and go.
    pub fn series(&self, name: &str, help: &str, labels: &[&str]) -> Series {
        Series::new(self.gauges(name, help, labels))
    }

    /// A new counter.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        counter(&self.registry, name, help)
    }

    /// A new gauge that is 1 and carries a text in its label.
    pub fn info(&self, name: &str, help: &str, label: &str, value: &str) {
        self.gauges(name, help, &[label]).with_label_values(&[value]).set(1);
    }

    /// Runs `refresh` before each scrape, to set gauges that are read only then.
    pub fn on_scrape(&mut self, refresh: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) {
        self.refreshes.push(Box::new(refresh));
    }

    /// All metrics in the text format of Prometheus.
    pub async fn text(&self) -> Vec<u8> {
        for refresh in &self.refreshes {
            refresh().await;
        }
        self.fds.set(std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as i64));
        self.tasks.set(tokio::runtime::Handle::current().metrics().num_alive_tasks() as i64);
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics cannot be encoded");
        }
        text
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("each name is registered once");
    collector
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help).expect("a legal name"))
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help).expect("a legal name"))
}

/// The soft limit, from the kernel's own table.
pub(crate) fn descriptor_limit() -> i64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()).unwrap_or(-1)
}
