//! Counters of watches, for the metrics.

use super::WatchHub;
pub use crate::primitive::Counter;
use crate::telemetry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Open Watch calls.
    pub streams: Counter,
    /// Watchers on them.
    pub watchers: Counter,
    /// Watchers that read the log because they start in the past or could not keep up.
    pub slow_watchers: Counter,
    /// Deliveries that their stream has not put into a response yet.
    pub pending: Arc<Counter>,
    /// Events sent since the start, counted once for each watcher.
    pub events_sent: Counter,
}

impl WatchHub {
    /// Registers these counters, under etcd's names.
    pub fn register(&self, metrics: &mut telemetry::Metrics) {
        let streams = metrics.gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams.");
        let watchers = metrics.gauge("etcd_debugging_mvcc_watcher_total", "Watchers.");
        let slow = metrics.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are behind.");
        let pending = metrics.gauge("etcd_debugging_mvcc_pending_events_total", "Deliveries under way.");
        let events = metrics.counter("etcd_debugging_mvcc_events_total", "Events sent to watchers.");
        let reported = AtomicU64::new(0);
        let counters = Arc::clone(self.metrics());
        metrics.on_scrape(move || {
            streams.set(counters.streams.get() as i64);
            watchers.set(counters.watchers.get() as i64);
            slow.set(counters.slow_watchers.get() as i64);
            pending.set(counters.pending.get() as i64);
            // Two scrapes at once must not add the same events twice.
            let sent = counters.events_sent.get();
            events.inc_by(sent.saturating_sub(reported.fetch_max(sent, Ordering::Relaxed)));
            Box::pin(std::future::ready(()))
        });
    }
}
