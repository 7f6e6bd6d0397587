//! Renewals of one lease that come at the same time.
//!
//! Each is guarded by the lease's entry, so of many at once all but one would fail and try again, and a thousand
//! keep-alive calls for one lease would cost half a million writes. Here they take turns, and one that begins serves all
//! that were asked for before.

use crate::types::LeaseId;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;
use tokio::sync::{Mutex, MutexGuard};

/// Leases share a turn by chance; with this many, few do.
const SHARDS: usize = 1024;

/// The lease that was renewed last, and when that began.
type Last = Option<(LeaseId, Instant)>;

/// The turns of an instance.
#[derive(Debug)]
pub(super) struct Renewals {
    shards: Box<[Mutex<Last>]>,
    hasher: RandomState,
}

impl Default for Renewals {
    fn default() -> Renewals {
        Renewals { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl Renewals {
    /// Waits until nobody else on this instance renews the lease.
    pub(super) async fn turn(&self, lease: LeaseId) -> Turn<'_> {
        let shard = self.hasher.hash_one(lease) as usize % SHARDS;
        Turn { lease, last: self.shards[shard].lock().await }
    }
}

/// The right to renew a lease, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    lease: LeaseId,
    last: MutexGuard<'a, Last>,
}

impl Turn<'_> {
    /// Whether the lease was renewed, and not before `asked`.
    pub(super) fn is_done_since(&self, asked: Instant) -> bool {
        self.last.is_some_and(|(lease, began)| lease == self.lease && began >= asked)
    }

    /// A renewal that began then has succeeded.
    pub(super) fn done(&mut self, began: Instant) {
        *self.last = Some((self.lease, began));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn renewals_at_the_same_time_are_one_or_two() {
        let renewals = Arc::new(Renewals::default());
        let renewed = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let (renewals, renewed) = (Arc::clone(&renewals), Arc::clone(&renewed));
                let asked = Instant::now();
                tokio::spawn(async move {
                    let mut turn = renewals.turn(LeaseId(7)).await;
                    if !turn.is_done_since(asked) {
                        let began = Instant::now();
                        tokio::task::yield_now().await;
                        renewed.fetch_add(1, Ordering::Relaxed);
                        turn.done(began);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert!((1..=2).contains(&renewed.load(Ordering::Relaxed)));
        // What is asked for later is a renewal of its own, and so is that of another lease.
        let asked = Instant::now();
        assert!(!renewals.turn(LeaseId(7)).await.is_done_since(asked));
        assert!(!renewals.turn(LeaseId(8)).await.is_done_since(asked));
    }
}
