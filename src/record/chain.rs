//! Decides which messages of the log are valid records.
//!
//! A record is valid if it carries the number and the nonce of the newest valid epoch and the next index; a
//! batch is valid when its last record is. An epoch record is valid if it carries the next epoch and the next
//! index. Everything else changes nothing. NATS' guards make void records rare, this rule makes them
//! harmless.
//!
//! Invariants:
//! - C1: the index moves by one with each valid record, or over a gap that a trim record permits and in which
//!   sequences are missing.
//! - C2: behind the last trim record no sequence is missing. A missing one is loss or lag, and the chain
//!   stops there for good.
//! - C3: two chains that have read the same messages have returned the same records.
//! - C4: the revision does not fall.
//! - C5: behind the last trim record, and where sequences are missing behind the last epoch record, a record
//!   of a later epoch than the next one is not void: an epoch record is missing before it.
//! - C6: up to an accepted loss, the trim record's word decides, and nothing else.
//!
//! The rule is modelled in `tests/model`; the names of the fields there are these.

use super::loss::{Acceptance, AcceptedLoss, Beginnings};
use super::{Body, Record};
use crate::planted::{Fault, planted};
use crate::types::{Epoch, LogIndex, Revision, Sequence};

/// The last trim record of a log that is read from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrimPoint {
    /// Up to this index records may be missing.
    pub to: LogIndex,
    /// The sequence of the trim record.
    pub sequence: Sequence,
    /// Epoch records may be missing, too.
    pub is_lossy: bool,
    /// The last loss that was accepted.
    pub loss: Option<AcceptedLoss>,
}

/// A record and its message's sequence.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The sequence.
    pub sequence: Sequence,
    /// The record.
    pub record: Record,
}

/// The effect of a message on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Records are valid now.
    Valid,
    /// It is the valid barrier of an operation.
    Barrier,
    /// It changes nothing, now or ever, or not yet.
    Nothing,
    /// A message is missing before it, so nothing behind it counts; or it tells that records were taken which
    /// are void, because a loss is accepted or was. The log has to be read from its start.
    Missing,
}

/// The state of reading a log.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and all pairs occur")]
pub struct Chain {
    epoch: Epoch,
    nonce: u64,
    index: LogIndex,
    revision: Revision,
    position: Sequence,
    /// The sequences of the last valid record and of the last valid epoch record.
    last: Sequence,
    last_epoch: Sequence,
    /// Up to this index records may be missing.
    trim_to: LogIndex,
    trim_sequence: Sequence,
    /// The last trim record was read, or there is none.
    is_trim_met: bool,
    /// A sequence was missing since the last valid record.
    has_hole: bool,
    is_broken: bool,
    /// A loss is accepted now: any record may be missing.
    acceptance: Option<Box<Acceptance>>,
    /// Loss was accepted once: up to the last trim record's index epoch records may be missing, too.
    is_lossy: bool,
    loss: Option<AcceptedLoss>,
    /// No trim record has named that loss yet.
    is_loss_unrecorded: bool,
    /// The records of a batch whose last one was not read yet.
    pending: Vec<Placed>,
    /// The place and the count of the last record of a batch whose beginning was trimmed.
    partial: Option<(super::OperationId, u32)>,
    /// Records that the next epoch record decides about.
    undecided: Vec<Sequence>,
    /// Missing sequences, from and to; see [`Chain::holes`].
    holes: Vec<(Sequence, Sequence)>,
}

impl Chain {
    /// Reads a log from its first message.
    pub fn new(trim: Option<TrimPoint>) -> Chain {
        let Some(TrimPoint { to, sequence, is_lossy, loss }) = trim else {
            return Chain { is_trim_met: true, ..Chain::default() };
        };
        Chain { trim_to: to, trim_sequence: sequence, is_lossy, loss, ..Chain::default() }
    }

    /// Reads a log that has lost messages: any record may be missing. `earlier` is the last loss that was
    /// accepted before, `beginnings` are those that an earlier load has learned.
    pub fn accepting(earlier: Option<AcceptedLoss>, beginnings: Beginnings) -> Chain {
        let acceptance = Some(Box::new(Acceptance::new(beginnings)));
        Chain { trim_to: LogIndex(u64::MAX), acceptance, loss: earlier, ..Chain::default() }
    }

    /// The beginnings that a load which accepts a loss has learned so far.
    pub fn beginnings(&self) -> Beginnings {
        self.acceptance.as_ref().map(|acceptance| acceptance.beginnings().clone()).unwrap_or_default()
    }

    /// Begins behind a sequence: the first message of a stream may have another number than 1.
    #[must_use]
    pub fn behind(self, position: Sequence) -> Chain {
        Chain { position, ..self }
    }

    /// The newest valid epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The epoch of the next writer. The number of an epoch whose record is lost is not used again.
    pub fn next_epoch(&self) -> Epoch {
        let newest = self.acceptance.as_ref().map(|acceptance| acceptance.beginnings().newest());
        Epoch(newest.unwrap_or_default().max(self.epoch).0 + 1)
    }

    /// Its nonce.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// The index of the last valid record.
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// The revision of the last valid record.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The last sequence that was read.
    pub fn position(&self) -> Sequence {
        self.position
    }

    /// The sequences of the last valid record and of the last valid epoch record.
    pub fn last(&self) -> (Sequence, Sequence) {
        (self.last, self.last_epoch)
    }

    /// Up to this index records may be missing.
    pub fn trim_to(&self) -> LogIndex {
        if self.is_accepting() { self.index } else { self.trim_to }
    }

    /// Whether the last message that was read belongs to a batch that is not complete yet.
    pub fn is_in_batch(&self) -> bool {
        self.pending.last().is_some_and(|last| last.sequence == self.position)
    }

    /// Whether a loss was accepted, now or ever.
    pub fn is_lossy(&self) -> bool {
        self.is_lossy || self.is_accepting()
    }

    /// Whether a loss is accepted now.
    pub fn is_accepting(&self) -> bool {
        self.acceptance.is_some()
    }

    /// The last loss that was accepted.
    pub fn loss(&self) -> Option<&AcceptedLoss> {
        self.loss.as_ref()
    }

    /// Whether this instance has accepted a loss that no trim record names yet.
    pub fn is_loss_unrecorded(&self) -> bool {
        self.is_loss_unrecorded
    }

    /// Whether nothing that the log must hold was missing so far.
    pub fn is_whole(&self) -> bool {
        self.is_trim_met || self.is_accepting()
    }

    /// Whether the trim record that the load began with is gone: the log was trimmed again meanwhile.
    pub fn has_lost_its_trim(&self) -> bool {
        !self.is_whole() && self.position >= self.trim_sequence
    }

    /// The sequence of the trim record that the load began with.
    pub fn trim_sequence(&self) -> Sequence {
        self.trim_sequence
    }

    /// Sequences that were missing where they may be, ascending: behind the last trim record's index, void
    /// messages and barriers alone. In a log that has lost messages all are returned, because that index may
    /// lie above the floor, and those without a valid record before the loss was accepted.
    pub fn holes(&self) -> Vec<(Sequence, Sequence)> {
        self.loss.as_ref().map_or_else(|| self.holes.clone(), |loss| loss.void_and(&self.holes))
    }

    /// Accepts the loss with the last epoch record: from here on nothing may be missing. `floor` is that of
    /// the compactions.
    pub fn settle(&mut self, floor: Option<Revision>) {
        if let Some(acceptance) = self.acceptance.take() {
            self.loss = Some(acceptance.settle(self.last_epoch, floor));
            (self.is_lossy, self.is_loss_unrecorded) = (true, true);
            (self.is_trim_met, self.trim_to) = (true, self.index);
        }
    }

    /// Takes the next message; `record` is `None` for a foreign one. Valid records are added to `valid`, the
    /// sequences of void messages to `void`.
    pub fn take(
        &mut self,
        sequence: Sequence,
        record: Option<Record>,
        valid: &mut Vec<Placed>,
        void: &mut Vec<Sequence>,
    ) -> Outcome {
        let (known, is_decided) = (valid.len(), self.is_decided(sequence));
        if let (Some(acceptance), Some(record)) = (&mut self.acceptance, &record) {
            if !is_decided && acceptance.learn(record) {
                self.is_broken = true;
            }
            if self.pending.iter().any(|placed| acceptance.refutes(&placed.record)) {
                void.extend(self.pending.drain(..).map(|placed| placed.sequence));
            }
            if !matches!(record.body, Body::Barrier) {
                acceptance.note_record(sequence);
            }
        }
        let outcome = self.judge(sequence, record, valid, void);
        if let Some(acceptance) = &mut self.acceptance {
            valid[known..].iter().for_each(|placed| acceptance.note_valid(placed, is_decided));
        }
        outcome
    }

    /// Whether an accepted loss decides about a sequence.
    fn is_decided(&self, sequence: Sequence) -> bool {
        self.loss.as_ref().is_some_and(|loss| loss.covers(sequence))
    }

    fn judge(
        &mut self,
        sequence: Sequence,
        record: Option<Record>,
        valid: &mut Vec<Placed>,
        void: &mut Vec<Sequence>,
    ) -> Outcome {
        let is_hole = sequence != self.position.next();
        if is_hole && self.is_trim_met && !self.is_accepting() {
            self.is_broken = true;
        }
        if self.is_broken {
            return Outcome::Missing;
        }
        if is_hole {
            self.holes.push((self.position.next(), Sequence(sequence.0.saturating_sub(1))));
        }
        self.position = sequence;
        self.has_hole |= is_hole;
        let Some(record) = record else {
            void.push(sequence);
            return Outcome::Nothing;
        };
        let record = self.believed(record);
        let is_current = record.epoch == self.epoch && record.nonce == self.nonce;
        if matches!(record.body, Body::Barrier) {
            let is_valid = is_current && record.index == self.index && self.pending.is_empty();
            return if is_valid { Outcome::Barrier } else { Outcome::Nothing };
        }
        if let Some(loss) = self.loss.as_ref().filter(|loss| loss.covers(sequence)) {
            if loss.is_void(sequence) {
                void.push(sequence);
                return Outcome::Nothing;
            }
            return self.accept(Placed { sequence, record }, valid, void);
        }
        let is_back = record.revision < self.revision;
        if self.acceptance.as_ref().is_some_and(|acceptance| is_back || acceptance.refutes(&record)) {
            return self.refuse(sequence, record.epoch, void);
        }
        let next = self.index.next();
        let is_epoch = matches!(record.body, Body::Epoch(_));
        if is_epoch && record.epoch.0 == self.epoch.0 + 1 && record.index >= next {
            if record.index > next && !self.may_skip_to(&record) {
                // The message is not void: a record before it is missing.
                self.is_broken = true;
                return Outcome::Missing;
            }
            if record.index == next {
                return self.accept(Placed { sequence, record }, valid, void);
            }
        }
        let held = self.pending.len() as u64;
        let continues = is_current
            && !is_epoch
            && record.index.0 == next.0 + held
            && (u64::from(record.place) == held + 1 || planted(Fault::TornBatch))
            && self.pending.first().is_none_or(|first| first.record.operation == record.operation);
        if continues {
            let is_last = record.place == record.count || planted(Fault::TornBatch);
            let placed = Placed { sequence, record };
            if !is_last {
                self.pending.push(placed);
                return Outcome::Nothing;
            }
            valid.append(&mut self.pending);
            return self.accept(placed, valid, void);
        }
        if is_current && !is_epoch && record.index == next && record.place == 1 {
            // A writer begins another batch only after it has abandoned this one.
            void.extend(self.pending.drain(..).map(|placed| placed.sequence));
            let placed = Placed { sequence, record };
            if placed.record.count == 1 {
                return self.accept(placed, valid, void);
            }
            self.pending.push(placed);
            return Outcome::Nothing;
        }
        if let Some((operation, place)) = self.partial
            && is_current
            && !self.has_hole
            && record.index == next
            && (record.operation, record.place) == (operation, place + 1)
        {
            return self.accept_part(Placed { sequence, record }, valid, void);
        }
        let is_next_epoch = is_epoch && record.epoch.0 == self.epoch.0 + 1;
        // A number that is known has its nonce.
        let is_later = self.epochs_may_be_missing() && record.epoch > self.epoch;
        if self.may_skip_to(&record)
            && (is_current || is_next_epoch || is_later)
            && record.index.0 >= next.0 + held
        {
            // The rest of a batch that has begun counts: only a valid one is followed by a gap that the trim
            // record permits.
            valid.append(&mut self.pending);
            return self.accept_part(Placed { sequence, record }, valid, void);
        }
        let is_of_later_epoch = record.epoch.0 > self.epoch.0 + u64::from(is_epoch);
        let may_lack_epoch = self.holes.last().is_some_and(|(_, to)| *to > self.last_epoch);
        if is_of_later_epoch && may_lack_epoch && self.is_trim_met && !self.is_accepting() {
            // Its writer has read an epoch record that is missing here.
            self.is_broken = true;
            return Outcome::Missing;
        }
        self.refuse(sequence, record.epoch, void)
    }

    /// The record, as the newest writer's if a planted fault believes a deposed one.
    fn believed(&self, record: Record) -> Record {
        let is_of_lease = matches!(&record.body, Body::Lease(_, None))
            || record.count > 1 && matches!(&record.body, Body::Key(version) if version.is_tombstone());
        let is_believed = planted(Fault::DeposedWriter) || planted(Fault::DeposedLessor) && is_of_lease;
        if !is_believed || record.epoch >= self.epoch || matches!(record.body, Body::Epoch(_) | Body::Barrier)
        {
            return record;
        }
        let index = LogIndex(self.index.0 + 1 + self.pending.len() as u64);
        Record { epoch: self.epoch, nonce: self.nonce, index, ..record }
    }

    /// The next epoch record decides about records of the newest epoch; older ones are void.
    fn refuse(&mut self, sequence: Sequence, epoch: Epoch, void: &mut Vec<Sequence>) -> Outcome {
        if epoch >= self.epoch { &mut self.undecided } else { void }.push(sequence);
        Outcome::Nothing
    }

    /// Whether the records before this one may be missing. The one that the trim record names may be missing,
    /// too. Of one epoch an index is missing only where a sequence is.
    fn may_skip_to(&self, record: &Record) -> bool {
        if !self.is_accepting() && (self.is_trim_met || record.index > self.trim_to.next()) {
            return false;
        }
        self.has_hole || (self.epochs_may_be_missing() && record.epoch > self.epoch)
    }

    /// Whether epoch records may be part of a loss: one that is accepted now, or whose extent the log does
    /// not name.
    fn epochs_may_be_missing(&self) -> bool {
        self.is_accepting() || (self.is_lossy && self.loss.is_none() && !self.is_trim_met)
    }

    fn accept_part(&mut self, placed: Placed, valid: &mut Vec<Placed>, void: &mut Vec<Sequence>) -> Outcome {
        let partial = (placed.record.operation, placed.record.place);
        // Only these are written in batches.
        let is_of_batch = matches!(placed.record.body, Body::Key(_) | Body::Lease(..) | Body::Member(..));
        let outcome = self.accept(placed, valid, void);
        self.partial = is_of_batch.then_some(partial);
        outcome
    }

    fn accept(&mut self, placed: Placed, valid: &mut Vec<Placed>, void: &mut Vec<Sequence>) -> Outcome {
        // A loss that this reader does not know decides about all before it.
        if matches!(&placed.record.body, Body::Trim(trim) if trim.loss > self.loss) {
            self.is_broken = true;
            return Outcome::Missing;
        }
        void.extend(self.pending.drain(..).map(|placed| placed.sequence));
        (self.has_hole, self.partial) = (false, None);
        let Record { epoch, nonce, index, .. } = placed.record;
        if epoch != self.epoch {
            void.append(&mut self.undecided);
        }
        self.revision = self.revision.max(placed.record.revision);
        self.last = placed.sequence;
        if matches!(placed.record.body, Body::Epoch(_)) {
            self.last_epoch = placed.sequence;
        }
        (self.epoch, self.nonce, self.index) = (epoch, nonce, index);
        if !self.is_trim_met && !self.is_lossy() && index <= self.trim_to {
            self.holes.clear();
        }
        if let Body::Trim(trim) = &placed.record.body {
            self.is_lossy |= trim.is_lossy;
            self.is_loss_unrecorded &= trim.loss != self.loss;
        }
        // Behind an older one of the same index a later one may have removed void messages.
        if let Body::Trim(trim) = &placed.record.body
            && trim.to >= self.trim_to.0
            && placed.sequence >= self.trim_sequence
            && !self.is_accepting()
        {
            (self.is_trim_met, self.trim_to) = (true, LogIndex(trim.to));
        }
        valid.push(placed);
        Outcome::Valid
    }
}

#[cfg(test)]
pub(super) mod tests;
