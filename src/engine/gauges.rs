//! The engine's gauges, under etcd's names, read at each scrape of the metrics.

use super::Engine;
use super::nats_gauges::NatsGauges;
use crate::record::Alarm;
use crate::telemetry::{Metrics, Series};
use prometheus::IntGauge;
use std::sync::Arc;

#[derive(Debug)]
struct Gauges {
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
    leases: IntGauge,
    auth_revision: IntGauge,
    alarms: Series,
    nats: NatsGauges,
}

impl Engine {
    /// Registers the engine's counters and gauges.
    pub(crate) fn register(&self, metrics: &mut Metrics) {
        metrics.info(
            "jetway_sync",
            "When answered writes are on stable storage.",
            "level",
            self.durability().name(),
        );
        metrics.register(self.sync_durations().clone());
        metrics.register(self.applied_durations().clone());
        metrics.register_all(self.counters().collectors());
        if self.store_dir.is_some() {
            metrics.register(self.counters().slow_consumers().clone());
        }
        let gauges = Arc::new(Gauges::new(metrics));
        let engine = self.clone();
        metrics.on_scrape(move || {
            let (engine, gauges) = (engine.clone(), Arc::clone(&gauges));
            Box::pin(async move { gauges.set(&engine).await })
        });
    }
}

impl Gauges {
    fn new(metrics: &Metrics) -> Gauges {
        let gauge = |name, help| metrics.gauge(name, help);
        Gauges {
            revision: gauge("etcd_debugging_mvcc_current_revision", "Current revision."),
            compacted: gauge("etcd_debugging_mvcc_compact_revision", "Compacted revision."),
            keys: gauge("etcd_debugging_mvcc_keys_total", "Live keys."),
            committed: gauge("etcd_server_proposals_committed_total", "Index of the last valid record."),
            applied: gauge("etcd_server_proposals_applied_total", "Index of the last applied record."),
            pending: gauge("etcd_server_proposals_pending", "Writes that are not visible yet."),
            size: gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the store on disk."),
            size_in_use: gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the messages kept."),
            has_leader: gauge("etcd_server_has_leader", "Whether an instance writes now."),
            is_leader: gauge("etcd_server_is_leader", "Whether this instance writes."),
            leases: gauge("jetway_leases", "Leases there are."),
            auth_revision: gauge("etcd_debugging_auth_revision", "Revision of users and roles."),
            alarms: metrics.series(
                "etcd_debugging_server_alarms",
                "Alarms that are raised.",
                &["server_id", "alarm_type"],
            ),
            nats: NatsGauges::new(metrics),
        }
    }

    async fn set(&self, engine: &Engine) {
        // The last look, and not one of its own: NATS may not answer, and a scrape has little time.
        let size = engine.last_size().await;
        self.nats.set(engine);
        self.size.set(size.allocated as i64);
        self.size_in_use.set(size.in_use as i64);
        let state = engine.reader().snapshot();
        self.revision.set(state.revision.0);
        self.compacted.set(state.compacted.map_or(-1, |compacted| compacted.0));
        self.keys.set(state.index.live() as i64);
        self.committed.set(state.log_index.0 as i64);
        self.applied.set(state.log_index.0 as i64);
        self.pending.set(engine.pending_writes() as i64);
        self.has_leader.set(i64::from(engine.leader().is_ok()));
        self.is_leader.set(i64::from(engine.is_leader()));
        self.leases.set(engine.lease_count() as i64);
        self.auth_revision.set(engine.auth().store().revision() as i64);
        let labels = |alarm: &Alarm| vec![format!("{:x}", alarm.member), alarm.kind.name().to_owned()];
        self.alarms.show(engine.alarms().iter().map(|alarm| (labels(alarm), 1)));
    }
}
