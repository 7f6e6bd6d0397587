//! Compaction: the floor rises at once, the space comes back in the background: in memory in short turns between
//! publications (`follow`), then in the stream.
//!
//! Superseded messages are removed one by one in ascending order: a purge by subject would hold the stream's locks
//! for as long as it takes to scan everything between two versions of a hot key. Values go before tombstones: a
//! tombstone that vanished first could, after a crash, uncover an older value of its key. What a crash leaves undone
//! is found again by the next start, which sees superseded messages below the floor while loading.

use super::{Inner, REQUEST_TIMEOUT, meta};
use crate::applier::Floor;
use crate::core::{Garbage, KeyVersion, State};
use crate::error::EtcdError;
use crate::jetstream::{PublishError, RevisionMap};
use crate::types::{Revision, Sequence};
use futures_util::StreamExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Removals under way at once; more would starve STREAM.INFO, which reads depend on.
const CONCURRENCY: usize = 32;

/// Removals between which syncs that must not meet one have their turn.
const SLICE: usize = 128;

/// Pauses after removals that failed.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Work for the remover.
#[derive(Debug)]
pub(super) enum Job {
    /// Nothing needs these messages.
    Garbage(Vec<Garbage>),
    /// The floor has risen to this revision; the state before it. To be hashed.
    Compacted(Arc<State>, Revision),
    /// A message of a torn batch; it stands in its subject's way.
    Torn(Sequence),
    /// Answer when everything before this is done.
    Fence(oneshot::Sender<()>),
}

pub(super) fn spawn(inner: &Arc<Inner>, mut jobs: mpsc::UnboundedReceiver<(u64, Job)>) {
    let inner = Arc::downgrade(inner);
    tokio::spawn(async move {
        while let Some((epoch, job)) = jobs.recv().await {
            let Some(inner) = inner.upgrade() else { return };
            let is_torn = matches!(job, Job::Torn(_));
            match job {
                Job::Garbage(mut garbage) => {
                    let begun = Instant::now();
                    garbage.sort_unstable();
                    let tombstones = garbage.partition_point(|garbage| !garbage.is_tombstone);
                    tracing::debug!(
                        values = tombstones,
                        tombstones = garbage.len() - tombstones,
                        "removing compacted messages"
                    );
                    let (values, tombstones) = garbage.split_at(tombstones);
                    inner.remove(epoch, values).await;
                    if !tombstones.is_empty() {
                        inner.settle_removals().await;
                    }
                    inner.remove(epoch, tombstones).await;
                    inner.counters.removed(begun.elapsed());
                }
                Job::Compacted(before, floor) => inner.remember_hash(before, floor).await,
                Job::Torn(sequence) => {
                    inner.remove(epoch, &[Garbage { is_tombstone: false, sequence }]).await;
                }
                Job::Fence(done) => drop(done.send(())),
            }
            // The state before a compaction is the last one that holds what it took.
            inner.has_let_go.store(true, Ordering::Relaxed);
            // Release: whoever sees the count go down finds the messages gone.
            inner.torn.fetch_sub(usize::from(is_torn), Ordering::Release);
        }
    });
}

impl super::Engine {
    /// Raises the compaction floor; answers the state in which reads below it are refused. With `physical` it also
    /// waits until the space is free.
    pub async fn compact(&self, revision: Revision, physical: bool) -> Result<Arc<State>, EtcdError> {
        let inner = &self.inner;
        let state = inner.linearizable().await?;
        let result = inner.raise_floor(state, revision).await;
        if physical && matches!(result, Ok(_) | Err(EtcdError::Compacted)) {
            inner.finish_removals().await?;
        }
        result
    }
}

impl Inner {
    async fn raise_floor(&self, state: Arc<State>, revision: Revision) -> Result<Arc<State>, EtcdError> {
        let _one_at_a_time = self.compaction.lock().await;
        let check = |state: &State| {
            // A store that was never compacted behaves as if compacted at -1.
            if revision <= state.compacted.unwrap_or(Revision(-1)) {
                return Err(EtcdError::Compacted);
            }
            if revision > state.revision { Err(EtcdError::FutureRevision) } else { Ok(()) }
        };
        check(&state)?;
        // Below the floor messages stand alone: what is left of a torn transaction would count there, and must be gone for
        // good before.
        if self.torn.load(Ordering::Acquire) > 0 {
            let removed = tokio::time::timeout(REQUEST_TIMEOUT, self.finish_removals()).await;
            removed.map_err(|_| EtcdError::Timeout)??;
            self.settle_removals().await;
        }
        loop {
            let known = self.meta.floor_entry();
            let state = self.reader.snapshot();
            check(&state)?;
            let (ask, answer) = oneshot::channel();
            self.maps.send(ask).await.map_err(|_| EtcdError::Stopped)?;
            let map = answer.await.map_err(|_| EtcdError::Stopped)?;
            let floor = tokio::task::spawn_blocking({
                let state = Arc::clone(&state);
                move || floor_at(&state, &map, revision)
            })
            .await
            .map_err(|error| EtcdError::Unknown(error.to_string()))?;
            match self.put_floor(&floor, known).await {
                Ok(entry) => {
                    self.wait_meta(entry).await?;
                    return Ok(self.reader.snapshot());
                }
                // Another instance was faster; its floor may be above ours or below.
                Err(PublishError::Conflict(_)) => self.refresh_meta().await?,
                Err(error) => return Err(meta::failed(error)),
            }
        }
    }

    /// Brings the removals so far to the disk, where that is on us. Until then a power cut can undo them, and they must not
    /// come back without the tombstones that hide them. A failure is no more than that: the next start removes again.
    async fn settle_removals(&self) {
        let Some(store) = self.settings.synced_store.clone() else { return };
        match tokio::task::spawn_blocking(move || crate::durability::sync_all(&store)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "removals are not on the disk yet"),
            Err(error) => tracing::warn!(%error, "removals are not on the disk yet"),
        }
    }

    /// Puts a job behind those there are.
    pub(super) fn queue_removal(&self, job: Job) {
        self.torn.fetch_add(usize::from(matches!(job, Job::Torn(_))), Ordering::AcqRel);
        // The other end goes with the engine only.
        drop(self.garbage.send((self.epoch(), job)));
    }

    pub(super) async fn finish_removals(&self) -> Result<(), EtcdError> {
        let mut sweeping = self.sweeping.subscribe();
        tokio::select! {
            // The sender lives in `self`, so there is no other end to the wait.
            _swept = sweeping.wait_for(|sweeping| !*sweeping) => {}
            () = self.stop.cancelled() => return Err(EtcdError::Stopped),
        }
        let (done, finished) = oneshot::channel();
        self.garbage.send((self.epoch(), Job::Fence(done))).map_err(|_| EtcdError::Stopped)?;
        finished.await.map_err(|_| EtcdError::Stopped)
    }

    /// Removes messages, for as long as the stream is the one in which they were found: in another one other messages
    /// may have their sequences.
    async fn remove(&self, epoch: u64, garbage: &[Garbage]) {
        let mut waiting: Vec<Sequence> = garbage.iter().rev().map(|garbage| garbage.sequence).collect();
        let mut following = self.following.subscribe();
        let mut pause = RETRY_MIN;
        while !waiting.is_empty() {
            // Being followed means to have been compared with what we know.
            tokio::select! {
                followed = following.wait_for(Result::is_ok) => drop(followed),
                () = self.stop.cancelled() => return,
            }
            if self.epoch() != epoch {
                return;
            }
            let slice = waiting.split_off(waiting.len().saturating_sub(SLICE));
            let failed = {
                // A write that begins a new block waits for a slice of these, not for all.
                let _quiet = self.quiet.lock().await;
                tokio::select! {
                    failed = self.remove_slice(&slice) => failed,
                    // What comes next needs the quiet, and would wait for answers that do not come.
                    _ = following.wait_for(Result::is_err) => slice,
                }
            };
            if failed.is_empty() {
                pause = RETRY_MIN;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
            waiting.extend(failed);
        }
    }

    /// Answers those that could not be removed, last first as they came.
    async fn remove_slice(&self, slice: &[Sequence]) -> Vec<Sequence> {
        let removals = slice.iter().rev().map(|&sequence| async move {
            // The client would keep the request for the next connection, which may lead to another store.
            if !self.api.is_connected() {
                return Some(sequence);
            }
            let removed = self.api.delete_message(&self.bucket.keys, sequence).await;
            removed
                .inspect_err(
                    |error| tracing::debug!(%sequence, %error, "a compacted message is not removed yet"),
                )
                .err()
                .map(|_| sequence)
        });
        let removals: Vec<_> = removals.collect();
        let failed: Vec<Option<Sequence>> =
            futures_util::stream::iter(removals).buffered(CONCURRENCY).collect().await;
        failed.into_iter().rev().flatten().collect()
    }
}

/// The floor's record: which sequence it stands for, and what the survivors below it need to keep their revisions.
fn floor_at(state: &State, map: &RevisionMap, revision: Revision) -> Floor {
    let sequence = map.last_sequence(revision, state.position);
    if !map.has_steps(sequence) {
        return Floor { revision, sequence, steps: Vec::new() };
    }
    let mut survivors: Vec<Sequence> = state
        .index
        .range(&crate::types::KeyRange::all())
        .flat_map(crate::core::History::versions)
        .map(KeyVersion::sequence)
        .filter(|survivor| *survivor <= sequence)
        .collect();
    survivors.sort_unstable();
    Floor { revision, sequence, steps: map.steps_for(survivors.into_iter(), sequence) }
}
