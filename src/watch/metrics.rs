//! Counters of watches, for the metrics.

pub use crate::primitive::Counter;
use std::sync::Arc;

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
