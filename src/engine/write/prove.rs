//! Proves that this instance still writes, and takes what JetStream has acknowledged.
//!
//! Answers that rest on no record of their own wait here for a record or a barrier that was sent after their
//! calls came. A barrier is a message of its own for three nats-servers, so as many answers as possible
//! share one. A read by one of 100 clients through three instances costs 72 us of CPU with one barrier in
//! flight, and 89 with two, with 2 ms between two of them (medians of seven rounds in turn on two busy
//! cores). Without the pause it costs 80 to 105 us where 57 to 62 are due with it (two in flight, idle).

use super::poll::may_be_confirmed;
use super::{WriteError, Writing};
use crate::engine::apply::Entry;
use crate::engine::node::Node;
use crate::engine::proposal::{Proposal, Waiter};
use crate::log::Acknowledged;
use crate::planted::{Fault, planted};
use crate::record::{Body, OperationId, Record};
use crate::types::Sequence;
use std::time::Duration;
use tokio::time::Instant;

/// The least time from one barrier that several answers waited for to the next one. A client that reads alone
/// never waits for it.
const BARRIER_PERIOD: Duration = Duration::from_millis(2);

impl Writing {
    /// The sequence of the newest record that an answer rests on. A read must see all that another instance
    /// can have read before the read came, so all that was sent. The planner has seen all records.
    fn rests_on(&self, proposal: &Proposal) -> Sequence {
        match proposal {
            Proposal::ReadIndex => self.pipeline.newest_sent(),
            _ => Sequence(self.pipeline.next_sequence().0 - 1),
        }
    }

    /// Whether answers wait for a barrier, and none is in flight. Behind a fence nothing is sent: a trim
    /// record comes with nothing in flight. A barrier during a handover could be refused for the successor's
    /// record, and end it.
    pub(super) fn is_barrier_due(&self) -> bool {
        let is_fenced = self.quiesce.as_ref().is_some_and(|quiesce| quiesce.fence.is_some());
        let is_free = !is_fenced && self.handover.is_none();
        !self.unproved.is_empty() && !self.has_appended && self.barriers == 0 && is_free
    }
}

impl Node {
    /// Sends an answer once votes or a message that were sent after the call came have shown that this
    /// instance still writes, and once everything that the answer rests on is visible.
    pub(super) async fn answer_when_proved(&mut self, writing: &mut Writing, waiter: Waiter) {
        if planted(Fault::NoBarrier) {
            self.entry(Entry::Complete(waiter)).await;
        } else if !self.mode.is_alone() && !may_be_confirmed(&waiter.call) {
            writing.unproved.push(waiter);
        } else {
            let rests_on = writing.rests_on(&waiter.call.proposal);
            if self.mode.is_alone() || waiter.call.is_confirmed {
                self.confirm(writing, [(rests_on, waiter)]).await;
            } else {
                writing.polls.join(rests_on, waiter);
            }
        }
    }

    pub(super) fn barrier(&mut self, writing: &mut Writing, operation: OperationId, waiter: Option<Waiter>) {
        let record = Record {
            epoch: self.chain.epoch(),
            nonce: self.chain.nonce(),
            index: writing.planner.index,
            revision: writing.planner.revision,
            place: 1,
            count: 1,
            operation,
            body: Body::Barrier,
        };
        writing.pipeline.append(record, waiter);
        writing.barriers += 1;
        self.counters.barrier();
        writing.has_appended = true;
    }

    /// Ends a turn of planning. Votes confirm the answers of its calls. If they cannot, a record that was
    /// appended in the turn proves them, or a barrier is sent.
    pub(super) async fn end_turn(&mut self, writing: &mut Writing) {
        self.begin_poll(writing).await;
        if !writing.unproved.is_empty() {
            if writing.is_barrier_due() && writing.next_barrier <= Instant::now() {
                if writing.unproved.len() > 1 {
                    writing.next_barrier = Instant::now() + BARRIER_PERIOD;
                }
                let operation = self.next_operation();
                self.barrier(writing, operation, None);
            }
            if writing.has_appended {
                let newest = Sequence(writing.pipeline.next_sequence().0 - 1);
                writing.proofs.entry(newest).or_default().append(&mut writing.unproved);
            }
        }
        writing.has_appended = false;
    }

    /// Takes acknowledged records, in order.
    pub(super) async fn emit(
        &mut self,
        writing: &mut Writing,
        acknowledged: &mut Vec<Acknowledged<Waiter>>,
    ) -> Result<(), WriteError> {
        let (mut valid, mut void, mut waiters) =
            (Vec::with_capacity(acknowledged.len()), Vec::new(), Vec::new());
        let mut after_removals = Vec::new();
        let mut barriers = Vec::new();
        let mut is_invalid = false;
        let was_unrecorded = self.chain.is_loss_unrecorded();
        if let Some(first) = acknowledged.first().filter(|_| !self.mode.syncs_here()) {
            self.store_durations.observe(first.sent.elapsed().as_secs_f64());
        }
        for Acknowledged { sequence, record, waiter, sent } in acknowledged.drain(..) {
            let is_barrier = matches!(record.body, Body::Barrier);
            if !is_invalid {
                is_invalid = match self.chain.take(sequence, Some(record), &mut valid, &mut void) {
                    crate::record::Outcome::Missing => true,
                    crate::record::Outcome::Barrier => {
                        barriers.push((sequence, self.chain.index()));
                        false
                    }
                    crate::record::Outcome::Valid => false,
                    crate::record::Outcome::Nothing => is_barrier || !self.chain.is_in_batch(),
                };
            }
            if is_invalid {
                // The message is stored, but another one may be valid in its place. The next epoch record
                // decides.
                if let Some(waiter) = waiter {
                    self.keep_open(waiter.call, Some((self.chain.nonce(), Instant::now())), false);
                }
                continue;
            }
            writing.barriers -= usize::from(is_barrier);
            writing.proved = Some(sent);
            match waiter {
                Some(waiter) if waiter.call.is_physical() => after_removals.push(waiter),
                waiter => waiters.extend(waiter),
            }
            let is_late = !self.mode.is_alone() && sent.elapsed() >= self.settings.election_timeout;
            while let Some(first) = writing.proofs.first_entry().filter(|first| *first.key() <= sequence) {
                // Another instance may have ended a lease since. Only a message that was sent within an
                // election timeout excludes it.
                let (renewals, proved): (Vec<_>, Vec<_>) = first
                    .remove()
                    .into_iter()
                    .partition(|waiter| is_late && matches!(waiter.call.proposal, Proposal::KeepAlive(_)));
                writing.unproved.extend(renewals);
                waiters.extend(proved);
            }
        }
        let names_loss = was_unrecorded && !self.chain.is_loss_unrecorded();
        let (trim_to, is_whole) = (self.trim_to, self.chain.is_whole());
        if valid.is_empty() {
            self.complete(waiters, self.chain.index()).await;
        } else {
            self.entry(Entry::Records { records: valid, waiters, trim_to, is_whole, is_own: true }).await;
        }
        for (sequence, index) in barriers {
            self.entry(Entry::Barrier(sequence, index)).await;
        }
        for waiter in after_removals {
            self.entry(Entry::AfterRemovals(waiter)).await;
        }
        // The applier answers once the trim record is durable. A later start then accepts the loss, too.
        if names_loss && self.digest().await.is_some() {
            self.begin_serving();
        }
        if is_invalid || !void.is_empty() {
            self.entry(Entry::Void(void)).await;
            return Err(WriteError::Invalid);
        }
        if !writing.unproved.is_empty() {
            self.end_turn(writing).await;
        }
        Ok(())
    }
}
