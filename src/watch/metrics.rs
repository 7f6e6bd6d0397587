//! Counters of the watch side, for those who serve metrics.

pub use crate::primitive::Counter;
use std::sync::Arc;

/// All that is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Open Watch calls.
    pub streams: Counter,
    /// Watchers on them.
    pub watchers: Counter,
    /// Watchers that read the log because they start in the past or could not keep up.
    pub slow_watchers: Counter,
    /// Deliveries that their stream has not made a response of yet.
    pub pending: Arc<Counter>,
    /// Events sent since the start, once a watcher.
    pub events_sent: Counter,
}
