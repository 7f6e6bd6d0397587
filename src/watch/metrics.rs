//! Counters of the watch side. Plain numbers; whoever serves metrics reads them.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that others watch. Nothing is ordered by it, so every access is relaxed.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn sub(&self, count: usize) {
        self.0.fetch_sub(count as u64, Ordering::Relaxed);
    }
}

/// What there is to count.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Open Watch calls.
    pub streams: Counter,
    /// Watchers on them.
    pub watchers: Counter,
    /// Watchers that read the log because they start in the past or could not keep up.
    pub slow_watchers: Counter,
    /// Deliveries that wait for their stream to take them.
    pub pending: Counter,
    /// Events sent since the start, once a watcher.
    pub events_sent: Counter,
}
