//! Compaction behind the floor: the space of superseded messages comes back in the background.
//!
//! The applier frees memory in short turns and piles up the messages that nothing needs. When a sweep is
//! through, a trim record permits their removal; then they go one by one, since a purge by subject would hold
//! the stream's locks for as long as it takes to scan everything between two versions of a hot key. Void
//! messages go first, from the last to the first: a load takes what is left of a torn batch for the rest of a
//! valid one if the batch has lost its head. Tombstones go last, and only when nats-server has noted the
//! other removals ([`super::tombstones`]): a tombstone that vanished first could uncover an older value of
//! its key. Another trim record behind the removals spares each load the holes. A crash leaves messages that
//! the next load finds again.

use super::Calls;
use super::counters::Counters;
use super::hash::HashCache;
use super::mode::Mode;
use super::proposal::{Proposal, Waiter};
use super::tombstones::WaitingTombstones;
use crate::applier::Removals;
use crate::core::{Reader, State};
use crate::durability::RewriteLock;
use crate::log::Log;
use crate::record::Trim;
use crate::types::{LogIndex, Revision, Sequence};
use futures_util::StreamExt;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Removals under way at once; more would starve other requests of JetStream's API.
const CONCURRENCY: usize = 32;
/// Removals between which syncs of the store's folder have their turn.
const SLICE: usize = 128;
/// Pauses after removals that failed.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Failures after which removals wait for the next trim record.
const TRIES: usize = 20;

/// Work for the compactor.
#[derive(Debug)]
pub(super) enum Job {
    /// The floor has risen to this revision; the state before it. To be hashed.
    Compacted(Arc<State>, Revision),
    /// A sweep has left messages to remove.
    Swept,
    /// This trim record permits these removals.
    Remove(Removals, Trim),
    /// To be answered when everything before this is done.
    Fence(Box<Waiter>),
}

/// The state of the compactor.
pub(super) struct Compactor {
    pub(super) log: Arc<Log>,
    pub(super) calls: Calls,
    pub(super) reader: Reader,
    pub(super) counters: Counters,
    pub(super) hashes: Arc<HashCache>,
    /// The store, which this process syncs if [`Mode::syncs_here`].
    pub(super) store: Option<PathBuf>,
    pub(super) mode: Arc<Mode>,
    /// Keeps removals and syncs of the store's folder apart.
    pub(super) rewrites: RewriteLock,
    pub(super) has_freed: Arc<AtomicBool>,
    pub(super) stop: CancellationToken,
}

impl Compactor {
    /// Works until the applier is gone.
    pub(super) async fn run(self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let (mut waiting, mut unfinished) = (VecDeque::new(), Removals::default());
        let mut tombstones = WaitingTombstones::default();
        loop {
            let job = if let Some(job) = waiting.pop_front() {
                job
            } else {
                let due = tombstones.due();
                tokio::select! {
                    job = jobs.recv() => match job {
                        Some(job) => job,
                        None => return,
                    },
                    () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                        self.remove_tombstones(&mut tombstones).await;
                        continue;
                    }
                    () = self.stop.cancelled() => return,
                }
            };
            match job {
                Job::Compacted(before, floor) => self.hashes.remember(before, floor).await,
                Job::Swept => {
                    self.trim().await;
                    while let Ok(job) = jobs.try_recv() {
                        waiting.push_back(job);
                    }
                    removals_first(&mut waiting);
                }
                Job::Remove(removals, trim) if !removals.is_empty() => {
                    let begun = Instant::now();
                    unfinished.append(removals);
                    self.remove_all(&mut unfinished, &mut tombstones).await;
                    self.counters.removed(begun.elapsed());
                    let (to, floor) = (LogIndex(trim.to), trim.floor.map(Revision));
                    drop(self.calls.ask(Proposal::Trim { to, floor }).await);
                }
                Job::Remove(..) => {}
                Job::Fence(waiter) => waiter.complete(&self.reader.snapshot()),
            }
            // The state before a compaction is the last one that holds what it took.
            self.has_freed.store(true, Ordering::Relaxed);
        }
    }

    /// Writes a trim record for the last index before the first record whose revision exceeds the floor. An
    /// instance that does not write is refused: the writer does it.
    async fn trim(&self) {
        let state = self.reader.snapshot();
        let Some(floor) = state.compacted else { return };
        let first = state.log.since(floor.next()).next().map(|entry| entry.events()[0].version.sequence());
        let to = match first {
            None => state.log_index,
            Some(sequence) => match self.log.record_at(sequence).await {
                Ok(Some(record)) => LogIndex(record.index.0 - 1),
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "compacted messages are removed after the next compaction");
                    return;
                }
            },
        };
        if let Err(error) = self.calls.ask(Proposal::Trim { to, floor: Some(floor) }).await {
            tracing::debug!(%error, "no trim record was written");
        }
    }

    /// Removes all but tombstones until one fails; the rest stays in `removals`.
    async fn remove_all(&self, removals: &mut Removals, tombstones: &mut WaitingTombstones) {
        tracing::debug!(messages = removals.len(), "removing messages");
        let mut uncovered = Vec::new();
        while let Some((part, is_ordered)) = removals.next_part(&mut uncovered) {
            // A tombstone covers no void message.
            let covered = if is_ordered { Vec::new() } else { part.clone() };
            let is_done = self.remove(part, is_ordered).await;
            tombstones.add_removed(Instant::now(), covered);
            if !is_done {
                tracing::debug!(left = removals.len(), "messages are removed after the next compaction");
                break;
            }
            self.settle().await;
        }
        tombstones.add(Instant::now(), uncovered);
    }

    /// Removes tombstones whose time has come, unless a message is there again that they may cover.
    async fn remove_tombstones(&self, tombstones: &mut WaitingTombstones) {
        let present = match self.log.present().await {
            Ok(present) => present,
            Err(error) => {
                tracing::debug!(%error, "tombstones wait, since the messages of the stream are not known");
                return tombstones.begin_again(Instant::now());
            }
        };
        let mut back = tombstones.came_back(&present);
        if !back.is_empty() {
            tracing::debug!(messages = back.len(), "nats-server has forgotten removals");
            self.remove(&mut back, false).await;
            self.settle().await;
            return tombstones.begin_again(Instant::now());
        }
        let begun = Instant::now();
        while let Some(mut due) = tombstones.take_due(begun) {
            self.remove(&mut due, false).await;
            tombstones.add(Instant::now(), due);
        }
        self.settle().await;
        self.counters.removed(begun.elapsed());
        // Later compactions may have raised the floor meanwhile. A trim record with an earlier one would have
        // a load look for what they have removed.
        self.trim().await;
    }

    /// Syncs removals to the disk, where that is up to this process. Until then a power cut can undo them. A
    /// failure is no more than that: the next load removes again.
    async fn settle(&self) {
        let Some(store) = self.store.clone().filter(|_| self.mode.syncs_here()) else { return };
        match tokio::task::spawn_blocking(move || crate::durability::sync_all(&store)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "removals are not synced yet"),
            Err(error) => tracing::warn!(%error, "removals are not synced yet"),
        }
    }

    /// Removes the messages of one part; `is_ordered` if none may go before the one in front of it. Returns
    /// whether all of them are gone, and leaves the others.
    async fn remove(&self, waiting: &mut Vec<Sequence>, is_ordered: bool) -> bool {
        // The list is taken from its end.
        waiting.reverse();
        // The lock is held for a slice, and fewer messages take as long where they go one after the other.
        let length = if is_ordered { SLICE / CONCURRENCY } else { SLICE };
        let (mut pause, mut failures) = (RETRY_MIN, 0);
        while !waiting.is_empty() && failures < TRIES && !self.stop.is_cancelled() {
            let slice = waiting.split_off(waiting.len().saturating_sub(length));
            let failed = {
                // A write that begins a new block waits for a slice of these, not for all.
                let _rewrites = self.rewrites.lock().await;
                tokio::select! {
                    failed = self.remove_slice(&slice, is_ordered) => failed,
                    () = self.stop.cancelled() => return false,
                }
            };
            if failed.is_empty() {
                (pause, failures) = (RETRY_MIN, 0);
            } else {
                failures += 1;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
            waiting.extend(failed);
        }
        waiting.reverse();
        waiting.is_empty()
    }

    /// Returns those that could not be removed, last first as they came.
    async fn remove_slice(&self, slice: &[Sequence], is_ordered: bool) -> Vec<Sequence> {
        if is_ordered {
            // nats-server may carry requests of one connection out in another order, and one may fail.
            for (left, &sequence) in slice.iter().enumerate().rev() {
                if !self.remove_one(sequence).await {
                    return slice[..=left].to_vec();
                }
            }
            return Vec::new();
        }
        let removals = slice.iter().rev().map(|&sequence| async move {
            let is_gone = self.remove_one(sequence).await;
            (!is_gone).then_some(sequence)
        });
        let removals: Vec<_> = removals.collect();
        let failed: Vec<Option<Sequence>> =
            futures_util::stream::iter(removals).buffered(CONCURRENCY).collect().await;
        failed.into_iter().rev().flatten().collect()
    }

    /// Returns whether a message is gone.
    async fn remove_one(&self, sequence: Sequence) -> bool {
        // The client would keep the request for the next connection, which may lead to another store.
        if !self.log.api().is_connected() {
            return false;
        }
        let removed = self.log.remove(sequence).await;
        removed
            .inspect_err(|error| tracing::debug!(%sequence, %error, "a message is not removed yet"))
            .is_ok()
    }
}

/// Calls that wait for the end of a compaction come behind the removals that its trim record permits. The
/// removals keep their order: the void messages of an earlier trim record must be gone before a later one
/// takes the values beside them. A load could take the head of a torn batch for a valid record otherwise.
fn removals_first(jobs: &mut VecDeque<Job>) {
    jobs.make_contiguous().sort_by_key(|job| !matches!(job, Job::Remove(..)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Digest;

    #[test]
    fn removals_come_first_in_the_order_of_their_trim_records() {
        let removal = |to| {
            let trim = Trim { to, floor: None, digest: Digest::default(), is_lossy: false, loss: None };
            Job::Remove(Removals::default(), trim)
        };
        let mut jobs = VecDeque::from([Job::Swept, removal(1), Job::Swept, removal(2), removal(3)]);
        removals_first(&mut jobs);
        let order = jobs.iter().map(|job| match job {
            Job::Remove(_, trim) => trim.to,
            _ => 0,
        });
        assert_eq!(order.collect::<Vec<_>>(), [1, 2, 3, 0, 0]);
    }
}
