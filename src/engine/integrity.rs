//! Notices that messages of the stream vanish while it is in use: a purge, a deletion by a foreign hand, a
//! stream that was deleted or put back from a backup, a server that lost a file.
//!
//! A look at the stream's state costs one request of JetStream's API and no read. Only where the number of
//! removed messages has changed since the last look does it ask for the sequences. A sequence that must be
//! there and is not is no proof yet, since a trim record that this instance has not met may permit its
//! removal: a barrier that is stored after the look, and valid, stands behind any such trim record.
//! Everything that the stream lacks then is lost.
//!
//! It looks for everything above the compaction floor. The digest of the next load proves the rest.

use super::Calls;
use super::apply::Entry;
use super::damaged_copies::DamagedCopies;
use super::failure::{DataError, Failure, Loss};
use super::mode::Mode;
use super::proposal::Proposal;
use super::status::{Phase, Status};
use crate::error::EtcdError;
use crate::log::{Log, Present};
use crate::types::Sequence;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// A longer look is followed by a pause, [`PAUSE_FACTOR`] times as long: removals go on for minutes behind a
/// large compaction, and each look meets another number of them.
const LONG_LOOK: Duration = Duration::from_millis(500);
const PAUSE_FACTOR: u32 = 20;
/// Looks in a row that must find no stream: a cluster that changes its leader may not know it for a moment.
const ABSENCES: usize = 2;

/// The watch over the stream.
pub(super) struct Integrity {
    pub(super) log: Arc<Log>,
    pub(super) calls: Calls,
    pub(super) entries: mpsc::Sender<Entry>,
    pub(super) status: Arc<Status>,
    pub(super) mode: Arc<Mode>,
    pub(super) damaged_copies: Arc<DamagedCopies>,
    pub(super) failure: Failure,
    pub(super) stop: CancellationToken,
}

impl Integrity {
    /// Looks until the instance stops, or something is lost.
    pub(super) async fn run(self) {
        let stop = self.stop.clone();
        let lost = stop.run_until_cancelled(self.find_loss()).await;
        if let Some(loss) = lost {
            let error = DataError::Lost(loss);
            let reason = error.to_string();
            tracing::error!(reason, "this instance cannot serve its data");
            self.status.set_no_leader(reason);
            self.status.set_linearizable(false);
            self.failure.send_replace(Some(error));
        }
    }

    /// Returns what was lost, once something was.
    async fn find_loss(&self) -> Loss {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut link = self.log.connection().link.clone();
        let (mut known, mut created, mut absences) = (None, None, 0);
        let mut moves = self.mode.moves();
        let mut next_look = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = link.changed() => {}
            }
            if *self.status.phase().borrow() != Phase::Serving {
                (known, absences) = (None, 0);
                continue;
            }
            // An exchange of the server may make the stream another one to JetStream. A look during one
            // proves nothing.
            let before = self.mode.moves();
            if self.mode.is_moving() || before != moves {
                (known, created, absences, moves) = (None, None, 0, before);
                continue;
            }
            let info = self.log.info().await;
            if self.mode.moves() != before {
                continue;
            }
            let info = match info {
                Ok(info) => info,
                Err(error) if error.is_absent() => {
                    absences += 1;
                    if absences >= ABSENCES {
                        return Loss::StreamDeleted(self.log.stream().to_owned());
                    }
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "the stream's state is not known");
                    continue;
                }
            };
            absences = 0;
            let is_same =
                self.log.is_same(&info) && created.as_ref().is_none_or(|created| *created == info.created);
            if !is_same {
                return Loss::StreamMadeAgain(self.log.stream().to_owned());
            }
            let removed = (info.state.first_seq, info.state.last_seq.saturating_sub(info.state.messages));
            created = Some(info.created);
            if known == Some(removed) || Instant::now() < next_look {
                continue;
            }
            let begun = Instant::now();
            let present = match self.log.present().await {
                Ok(present) => present,
                Err(error) => {
                    tracing::debug!(%error, "the sequences of the stream are not known");
                    continue;
                }
            };
            next_look = Instant::now() + pause_after(begun.elapsed());
            match self.lacking(&present).await {
                (None, read_to) => {
                    // A message that was removed before it was read here is judged at a later look.
                    if present.last_gone() <= read_to {
                        known = Some(removed);
                    }
                }
                (Some(suspected), _) => {
                    tracing::warn!(sequence = %suspected, "a message of the stream is missing");
                    match self.calls.ask(Proposal::Barrier).await {
                        Ok(_) => {}
                        // Nothing can be stored there. A trim record that permits the removal stands before
                        // the end that the look has found.
                        Err(EtcdError::ReadOnly(_)) => self.read_to(&present, info.state.last_seq).await,
                        Err(_) => continue,
                    }
                    if let (Some(lost), _) = self.lacking(&present).await {
                        // It may lack in one of the copies alone.
                        if !matches!(self.log.message_at(lost).await, Ok(None)) {
                            known = None;
                            continue;
                        }
                        if !self.mode.is_in_cluster() || !self.damaged_copies.leave(&self.log, lost).await {
                            return Loss::Message(lost);
                        }
                        known = None;
                    }
                }
            }
        }
    }

    /// Waits until this instance has read up to a sequence.
    async fn read_to(&self, present: &Present, end: u64) {
        while self.lacking(present).await.1 < Sequence(end) {
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// The first sequence that must be there, as this instance knows it, and is not; and the last one that it
    /// has read.
    async fn lacking(&self, present: &Present) -> (Option<Sequence>, Sequence) {
        let (sender, receiver) = oneshot::channel();
        drop(self.entries.send(Entry::Lacking(present.clone(), sender)).await);
        receiver.await.unwrap_or_default()
    }
}

/// The pause after a look that took so long.
fn pause_after(look: Duration) -> Duration {
    if look > LONG_LOOK { look * PAUSE_FACTOR } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_looks_are_rare() {
        assert_eq!(pause_after(Duration::from_millis(20)), Duration::ZERO);
        assert_eq!(pause_after(Duration::from_secs(2)), Duration::from_secs(40));
    }
}
