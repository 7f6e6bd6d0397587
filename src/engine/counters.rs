//! The engine's metrics, under etcd's names. Each instance counts its own work.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A read index that takes longer is slow.
const SLOW_READ_INDEX: Duration = Duration::from_millis(500);

/// Counters of leases, compactions, reads and puts.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    leases_granted: IntCounter,
    leases_revoked: IntCounter,
    leases_renewed: IntCounter,
    leases_expired: IntCounter,
    lease_ttls: Histogram,
    put_bytes: IntGauge,
    last_compaction: IntGauge,
    compacted: IntCounter,
    removals: Histogram,
    index_compactions: Histogram,
    lost: IntGauge,
    failed_read_indexes: IntCounter,
    slow_read_indexes: IntCounter,
    leader_changes: IntCounter,
    failed_proposals: IntCounter,
    reconnects: IntCounter,
    stream_leader_changes: IntCounter,
    slow_consumers: IntCounter,
    void: IntCounter,
    barriers: IntCounter,
}

impl Counters {
    pub(super) fn new() -> Counters {
        let counter = |name: &str, help: &str| IntCounter::new(name, help).expect("a legal name");
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("a legal name");
        let histogram = |name: &str, help: &str, first: f64, count: usize| {
            let buckets = prometheus::exponential_buckets(first, 2.0, count).expect("legal buckets");
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)).expect("a legal name")
        };
        Counters {
            leases_granted: counter("etcd_debugging_lease_granted_total", "Leases granted."),
            leases_revoked: counter(
                "etcd_debugging_lease_revoked_total",
                "Leases ended, whether by a call or by their time.",
            ),
            leases_renewed: counter("etcd_debugging_lease_renewed_total", "Renewals of leases."),
            leases_expired: counter(
                "etcd_debugging_server_lease_expired_total",
                "Leases whose time was over.",
            ),
            lease_ttls: histogram(
                "etcd_debugging_lease_ttl_total",
                "TTLs of granted leases in seconds.",
                1.0,
                24,
            ),
            put_bytes: gauge(
                "etcd_debugging_mvcc_total_put_size_in_bytes",
                "Bytes of the keys and values put since the start.",
            ),
            last_compaction: gauge(
                "etcd_debugging_mvcc_db_compaction_last",
                "When the compacted revision last rose, in seconds since 1970.",
            ),
            lost: gauge(
                "jetway_lost_messages",
                "Records that the store had lost at the start, though they were synced and answered.",
            ),
            compacted: counter("etcd_debugging_mvcc_db_compaction_keys_total", "Versions compacted away."),
            removals: histogram(
                "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
                "Time until the messages of compacted versions were removed.",
                100.0,
                14,
            ),
            index_compactions: histogram(
                "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
                "Time that a compaction of the index kept writes waiting.",
                0.5,
                14,
            ),
            failed_read_indexes: counter(
                "etcd_server_read_indexes_failed_total",
                "Linearizable reads that could not learn how far the stream is.",
            ),
            slow_read_indexes: counter(
                "etcd_server_slow_read_indexes_total",
                "Linearizable reads that waited for more than half a second.",
            ),
            leader_changes: counter(
                "etcd_server_leader_changes_seen_total",
                "Changes of the writer that were seen.",
            ),
            failed_proposals: counter(
                "etcd_server_proposals_failed_total",
                "Writes without an answer of the writer: nobody wrote, or their outcome is not known.",
            ),
            reconnects: counter("jetway_nats_reconnects_total", "Connections to NATS that were made again."),
            stream_leader_changes: counter(
                "jetway_stream_leader_changes_total",
                "Moves of the leader of the stream to another server.",
            ),
            slow_consumers: counter(
                "jetway_nats_server_slow_consumers_total",
                "Clients that the embedded nats-server has disconnected, because they read too slowly.",
            ),
            void: counter("jetway_void_messages_total", "Messages of the stream that are no valid records."),
            barriers: counter(
                "jetway_barriers_total",
                "Messages that this instance has sent as the writer for answers without a record.",
            ),
        }
    }

    /// For a registry.
    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let Counters {
            leases_granted,
            leases_revoked,
            leases_renewed,
            leases_expired,
            lease_ttls,
            put_bytes,
            last_compaction,
            compacted,
            removals,
            index_compactions,
            lost,
            failed_read_indexes,
            slow_read_indexes,
            leader_changes,
            failed_proposals,
            reconnects,
            stream_leader_changes,
            // `gauges` registers it for an embedded server alone: those of another NATS are not known.
            slow_consumers: _,
            void,
            barriers,
        } = self.clone();
        let counters = [
            leases_granted,
            leases_revoked,
            leases_renewed,
            leases_expired,
            compacted,
            failed_read_indexes,
            slow_read_indexes,
            leader_changes,
            failed_proposals,
            reconnects,
            stream_leader_changes,
            void,
            barriers,
        ];
        let counters = counters.into_iter().map(|counter| Box::new(counter) as Box<dyn Collector>);
        let gauges = [put_bytes, last_compaction, lost].into_iter().map(|gauge| Box::new(gauge) as _);
        let histograms = [lease_ttls, removals, index_compactions].into_iter();
        counters.chain(gauges).chain(histograms.map(|histogram| Box::new(histogram) as _)).collect()
    }

    pub(super) fn granted(&self, ttl: i64) {
        self.leases_granted.inc();
        // Not above nine billion, which is exact.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        self.lease_ttls.observe(ttl as f64);
    }

    pub(super) fn renewed(&self) {
        self.leases_renewed.inc();
    }

    pub(super) fn revoked(&self) {
        self.leases_revoked.inc();
    }

    pub(super) fn expired(&self) {
        self.leases_expired.inc();
        self.leases_revoked.inc();
    }

    pub(super) fn put(&self, bytes: usize) {
        self.put_bytes.add(bytes as i64);
    }

    pub(super) fn floor_rose(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_compaction.set(now.as_secs() as i64);
    }

    pub(super) fn swept(&self, pause: Duration, versions: usize) {
        self.index_compactions.observe(milliseconds(pause));
        self.compacted.inc_by(versions as u64);
    }

    /// For the part that knows who writes.
    pub(super) fn leader_changes(&self) -> IntCounter {
        self.leader_changes.clone()
    }

    pub(super) fn proposal_failed(&self) {
        self.failed_proposals.inc();
    }

    pub(super) fn reconnected(&self, times: u64) {
        self.reconnects.inc_by(times);
    }

    /// For the embedded server alone.
    pub(super) fn slow_consumers(&self) -> &IntCounter {
        &self.slow_consumers
    }

    pub(super) fn stream_leader_changed(&self) {
        self.stream_leader_changes.inc();
    }

    pub(super) fn barrier(&self) {
        self.barriers.inc();
    }

    pub(super) fn void(&self, messages: usize) {
        self.void.inc_by(messages as u64);
    }

    pub(super) fn lost(&self, messages: u64) {
        self.lost.set(self.lost.get().max(messages as i64));
    }

    pub(super) fn removed(&self, elapsed: Duration) {
        self.removals.observe(milliseconds(elapsed));
    }

    pub(super) fn read_index(&self, elapsed: Duration, succeeded: bool) {
        if !succeeded {
            self.failed_read_indexes.inc();
        }
        if elapsed > SLOW_READ_INDEX {
            self.slow_read_indexes.inc();
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
