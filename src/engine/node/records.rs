//! Takes the records that a consumer has brought, and notes the epochs and the outcomes of open calls in
//! them.

use super::{Node, NodeError};
use crate::engine::apply::Entry;
use crate::engine::failure::DataError;
use crate::engine::proposal::{Outcome, Proposal, Waiter};
use crate::error::EtcdError;
use crate::record::{Body, EpochStart, FORMAT, OperationId, Outcome as Read, Record};
use crate::types::Sequence;
use std::time::Duration;

impl Node {
    /// Takes messages that a consumer has brought.
    pub(in crate::engine) async fn take(
        &mut self,
        messages: Vec<(Sequence, Option<Record>)>,
    ) -> Result<Vec<OperationId>, NodeError> {
        let (mut valid, mut void, mut waiters) = (Vec::with_capacity(messages.len()), Vec::new(), Vec::new());
        let mut barriers = Vec::new();
        let mut outcome = Ok(());
        let is_whole = self.chain.is_whole();
        for (sequence, record) in messages {
            let operation = record.as_ref().map(|record| record.operation);
            let known = valid.len();
            match self.chain.take(sequence, record, &mut valid, &mut void) {
                Read::Valid => {
                    for placed in &valid[known..] {
                        if let Err(broken) = self.note(&placed.record, &mut waiters) {
                            outcome = Err(broken);
                        }
                    }
                    if outcome.is_err() {
                        break;
                    }
                }
                Read::Barrier => {
                    barriers.extend(operation);
                    self.entry(Entry::Barrier(sequence, self.chain.index())).await;
                }
                Read::Nothing => {}
                Read::Missing => {
                    outcome = Err(NodeError::Missing);
                    break;
                }
            }
        }
        self.counters.void(void.len());
        if !void.is_empty() {
            tracing::debug!(
                messages = void.len(),
                "the stream has messages that are not valid records; they have no effect"
            );
            self.entry(Entry::Void(void)).await;
        }
        if !valid.is_empty() {
            waiters.append(&mut self.reached());
            let trim_to = self.trim_to;
            // As on etcd, a compaction is physical when the instance that was asked has ended it.
            let after_removals: Vec<Waiter> =
                waiters.extract_if(.., |waiter| waiter.call.is_physical()).collect();
            self.entry(Entry::Records { records: valid, waiters, trim_to, is_whole, is_own: false }).await;
            for waiter in after_removals {
                self.entry(Entry::AfterRemovals(waiter)).await;
            }
        }
        outcome?;
        if self.chain.has_lost_its_trim() {
            return Err(NodeError::Missing);
        }
        Ok(barriers)
    }

    /// Takes note of a valid record: of an epoch, and of calls of this instance.
    fn note(&mut self, record: &Record, waiters: &mut Vec<Waiter>) -> Result<(), NodeError> {
        if record.operation.instance == self.start
            && record.place == record.count
            && let Some(open) = self.open.remove(&record.operation.counter)
        {
            let outcome = outcome_of(&open.call.proposal, record);
            waiters.push(Waiter::new(open.call, Ok(outcome)));
        }
        if let Body::Epoch(start) = &record.body {
            if start.format > FORMAT {
                return Err(NodeError::Fatal(DataError::Format(start.format)));
            }
            self.note_epoch(record.nonce, start);
        }
        Ok(())
    }

    fn note_epoch(&mut self, nonce: u64, start: &EpochStart) {
        self.longest_timeout = self.longest_timeout.max(Duration::from_millis(start.election_timeout_ms));
        self.epoch = Some(start.clone());
        self.status.set_epoch(self.chain.epoch().0);
        if self.is_ready && start.instance != self.start {
            self.status.set_leader(start.member.id);
        }
        // A call that was sent to an earlier writer and is not in the log by now never takes effect: later
        // records of that epoch are void.
        let resolved: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| open.has_no_room || open.is_of_other_epoch(nonce))
            .map(|(counter, _)| *counter)
            .collect();
        for counter in resolved {
            let Some(open) = self.open.get_mut(&counter) else { continue };
            (open.sent, open.unanswered) = (None, None);
            if open.has_no_room
                && let Some(open) = self.open.remove(&counter)
            {
                open.call.refuse(EtcdError::NoSpace);
            }
        }
        let reads = std::mem::take(&mut self.reads_sent);
        self.reads.extend(reads.into_values().flat_map(|(calls, ..)| calls));
    }

    /// Answers whose index the chain has reached.
    pub(in crate::engine) fn reached(&mut self) -> Vec<Waiter> {
        let later = self.by_index.split_off(&self.chain.index().next());
        std::mem::replace(&mut self.by_index, later).into_values().flatten().collect()
    }
}

/// The outcome of a call whose last record this is.
fn outcome_of(proposal: &Proposal, record: &Record) -> Outcome {
    match (proposal, &record.body) {
        (Proposal::Write(_) | Proposal::Revoke(_), _) => Outcome::Written(record.revision),
        (Proposal::Grant { .. }, Body::Lease(id, Some(grant))) => Outcome::Lease { id: *id, ttl: grant.ttl },
        (Proposal::KeepAlive(id), _) => Outcome::Lease { id: *id, ttl: 0 },
        _ => Outcome::Done,
    }
}
