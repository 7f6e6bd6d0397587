//! Ids, sizes and times that the engine reports.

use super::{Counters, Engine};
use crate::durability::Level;
use prometheus::Histogram;
use std::sync::atomic::Ordering;

/// Bytes of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Of the messages there are.
    pub in_use: u64,
    /// Of the files that hold them, where they are ours to see.
    pub allocated: u64,
}

impl Engine {
    /// The metrics.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How much is stored: the last known figures where NATS does not answer now.
    pub(crate) async fn size(&self) -> Size {
        self.size_of(self.space.measure().await).await
    }

    /// How much was stored two seconds ago or later. Asks nobody.
    pub(super) async fn last_size(&self) -> Size {
        self.size_of(self.space.in_use()).await
    }

    async fn size_of(&self, in_use: u64) -> Size {
        let store = self.store_dir.clone();
        let on_disk = tokio::task::spawn_blocking(move || store.map(|dir| crate::disk::usage(&dir)))
            .await
            .ok()
            .flatten();
        Size { in_use, allocated: on_disk.unwrap_or(in_use).max(in_use) }
    }

    /// When an answered write is on stable storage.
    pub(crate) fn durability(&self) -> Level {
        if self.mode.is_alone() { self.durability } else { Level::Nats }
    }

    /// Time of each sync that writes share; where they share none, until a write was known to be stored.
    pub(crate) fn sync_durations(&self) -> &Histogram {
        &self.sync_durations
    }

    /// Time until a write was visible.
    pub(crate) fn applied_durations(&self) -> &Histogram {
        &self.applied_durations
    }

    /// Writes that are not answered yet.
    pub(crate) fn pending_writes(&self) -> usize {
        self.calls.open.load(Ordering::Relaxed)
    }

    /// An id that all instances on the bucket share, made when the bucket was.
    pub(crate) fn cluster_id(&self) -> u64 {
        self.log.facts().cluster_id
    }
}
