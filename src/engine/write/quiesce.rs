//! Stops planning until nothing is in flight: before a trim record, a change of the writer, and the end.

use super::Writing;
use crate::engine::apply::Entry;
use crate::engine::node::{Held, Node};
use crate::engine::proposal::{Outcome, Proposal, Waiter};
use crate::record::{Body, Digest, Trim};
use crate::types::{LogIndex, Revision};
use std::future::pending;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The time that a successor has to take over.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// The action once nothing is in flight and everything is visible.
pub(super) enum NextStep {
    /// Planning goes on.
    Resume,
    /// A trim record for this index and floor is appended.
    Trim(LogIndex, Option<Revision>, Waiter),
    /// Another instance is asked to take over.
    HandOver(u64, Option<Waiter>),
    /// A stop record is appended.
    Stop(oneshot::Sender<()>),
    /// Nothing is appended until the receiver of this says so.
    Hold(oneshot::Sender<Held>),
}

pub(super) struct Quiesce {
    pub(super) next: NextStep,
    pub(super) fence: Option<oneshot::Receiver<(LogIndex, Digest)>>,
}

impl Node {
    /// Accepts the loss of everything that is missing so far, and appends the trim record that says so. After
    /// a trouble it is appended again.
    pub(super) fn accept_loss(&mut self, writing: &mut Writing) {
        let floor = self.reader.snapshot().compacted;
        if self.chain.is_accepting() {
            self.chain.settle(floor);
            self.trim_to = self.chain.trim_to();
            self.counters.lost(1);
            tracing::error!(index = %self.trim_to, "records that were missing from the log are given up");
        }
        let to = self.trim_to;
        let call = self.own_call(Proposal::Trim { to, floor });
        let next = NextStep::Trim(to, floor, Waiter::new(call, Ok(Outcome::Done)));
        writing.quiesce = Some(Quiesce { next, fence: None });
    }

    /// Asks the applier to report when everything is visible, once planning has stopped and nothing is in
    /// flight.
    pub(super) async fn quiesce(&mut self, writing: &mut Writing) {
        if writing.pipeline.unacknowledged() == 0
            && let Some(quiesce) = &mut writing.quiesce
            && quiesce.fence.is_none()
        {
            let (sender, receiver) = oneshot::channel();
            quiesce.fence = Some(receiver);
            // The applier is asked twice: it answers the first time before it publishes, the second time
            // after it.
            self.digest().await;
            self.entry(Entry::Digest(sender)).await;
        }
    }

    /// Takes the next step: nothing is in flight, and everything is visible.
    pub(super) async fn fenced(&mut self, writing: &mut Writing, fenced: Option<(LogIndex, Digest)>) {
        let (Some(Quiesce { next, .. }), Some((index, digest))) = (writing.quiesce.take(), fenced) else {
            return;
        };
        match next {
            NextStep::Resume => {}
            NextStep::Trim(to, floor, waiter) => {
                // The bound never goes back: records that may be missing once may be missing for ever.
                let to = to.max(self.chain.trim_to());
                let is_lossy = self.chain.is_lossy();
                let loss = self.chain.loss().cloned();
                let trim = Trim { to: to.0, floor: floor.map(|floor| floor.0), digest, is_lossy, loss };
                let Waiter { call, .. } = waiter;
                self.append_reserved(writing, Some((call, Outcome::Done)), vec![Body::Trim(Box::new(trim))]);
            }
            NextStep::HandOver(instance, waiter) => {
                if let Some(messenger) = &self.messenger {
                    let nonce = self.chain.nonce().to_le_bytes().to_vec();
                    messenger.ask_to_take_over(instance, nonce).await;
                }
                writing.handover = Some((Instant::now() + HANDOVER_TIMEOUT, waiter));
            }
            NextStep::Hold(held) => {
                let (release, released) = oneshot::channel();
                if held.send(Held { at: (index, digest), release }).is_ok() {
                    writing.quiesce = Some(Quiesce { next: NextStep::Resume, fence: Some(released) });
                    return;
                }
            }
            NextStep::Stop(done) => {
                let call = self.own_call(Proposal::Trim { to: LogIndex::NONE, floor: None });
                self.append_reserved(writing, Some((call, Outcome::Done)), vec![Body::Stop(digest)]);
                let mut acknowledged = Vec::new();
                while writing.pipeline.unacknowledged() > 0 {
                    let next = writing.pipeline.next(&mut acknowledged);
                    let stored = tokio::time::timeout(self.settings.election_timeout, next).await;
                    if !matches!(stored, Ok(Ok(()))) || self.emit(writing, &mut acknowledged).await.is_err() {
                        tracing::debug!("no stop record was written");
                        break;
                    }
                }
                self.digest().await;
                let (sender, noted) = oneshot::channel();
                self.entry(Entry::Stop(sender)).await;
                drop(noted.await);
                done.send(()).ok();
                // Nothing more is written: the process ends.
                writing.quiesce = Some(Quiesce { next: NextStep::Resume, fence: Some(oneshot::channel().1) });
                pending::<()>().await;
            }
        }
        for call in std::mem::take(&mut writing.deferred) {
            self.admit(writing, call).await;
        }
        self.end_turn(writing).await;
    }

    pub(super) fn resign(&mut self, writing: &mut Writing, done: oneshot::Sender<()>) {
        self.is_leaving = true;
        let able = self.peers.iter().filter(|(_, peer)| peer.is_ready && peer.is_live());
        let furthest = able.max_by_key(|(_, peer)| peer.index);
        match furthest.map(|(instance, _)| *instance) {
            Some(instance) => {
                writing.stopping.push(done);
                writing.quiesce = Some(Quiesce { next: NextStep::HandOver(instance, None), fence: None });
            }
            None => writing.quiesce = Some(Quiesce { next: NextStep::Stop(done), fence: None }),
        }
    }
}

pub(super) async fn fenced(quiesce: &mut Option<Quiesce>) -> Option<(LogIndex, Digest)> {
    match quiesce {
        Some(Quiesce { fence: Some(fence), .. }) => fence.await.ok(),
        _ => pending().await,
    }
}
