//! Turns the records of the key stream into changes of the core: the only caller of [`Writer`].
//!
//! Pure: no task, no clock, no NATS. Records come in ascending order; a transaction of several messages is held back
//! until it is whole. Invariants:
//! - A1: the core changes only by records, in sequence order, so every instance derives the same revisions.
//! - A2: messages of a torn batch (its later messages missing) spend a revision each and change nothing.
//! - A3: at and below the compaction floor messages stand alone, at the revisions that the floor's steps give them;
//!   those of one revision are still applied together.

use crate::core::{Change, Garbage, KeyVersion, State, Writer};
use crate::jetstream::record::{Body, OperationId, Record};
use crate::jetstream::{RevisionMap, Step};
use crate::lease::Attachments;
use crate::types::{LeaseId, Revision, Sequence};
use std::collections::VecDeque;

/// What a compaction leaves to know of the history below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// The compacted revision.
    pub revision: Revision,
    /// Last sequence of that revision.
    pub sequence: Sequence,
    /// What the surviving messages at or below `sequence` need to keep their revisions.
    pub steps: Vec<Step>,
}

impl Floor {
    /// Whether it can be one that an instance has computed: whatever is read from the stream may have been written by
    /// somebody else.
    pub fn is_sound(&self) -> bool {
        let is_ascending = self
            .steps
            .is_sorted_by(|a, b| a.from < b.from && a.offset != b.offset && a.revision() <= b.revision());
        let last = self.steps.last().map_or(0, |step| step.offset);
        is_ascending
            && i64::try_from(self.sequence.0).is_ok()
            && self.steps.iter().all(|step| step.offset < step.from.0 && step.from <= self.sequence)
            && self.sequence.0.checked_sub(last).is_some_and(|revision| self.is_at(Revision(revision as i64)))
    }

    /// Whether it can be one of a stream in which its sequence has this revision.
    fn is_at(&self, revision: Revision) -> bool {
        let is_before_all_messages =
            self.sequence == Sequence::NONE && self.revision == Revision::EMPTY_STORE;
        self.revision == revision || is_before_all_messages
    }
}

/// A write that became part of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The write.
    pub operation: OperationId,
    /// The revision it made.
    pub revision: Revision,
}

/// The state of applying.
#[derive(Debug)]
pub struct Applier {
    writer: Writer,
    map: RevisionMap,
    floor: Option<Floor>,
    /// Floors whose sequence is not reached yet.
    coming_floors: VecDeque<Floor>,
    /// The messages so far of a transaction that is not whole.
    partial: Vec<Record>,
    /// Changes of one revision at or below the floor, gathered until the next revision begins.
    gathering: Option<(Revision, Sequence, Vec<Change>)>,
    attachments: Attachments,
    barriers: VecDeque<Sequence>,
    torn: Vec<Sequence>,
    garbage: Vec<Garbage>,
    compactions: Vec<(State, Revision)>,
    done: Vec<Done>,
}

impl Applier {
    /// Applies to `writer`'s store, which is empty, and keeps `attachments` up to date.
    pub fn new(writer: Writer, attachments: Attachments, floor: Option<Floor>) -> Applier {
        let mut applier = Applier {
            writer,
            map: RevisionMap::default(),
            floor: None,
            coming_floors: VecDeque::new(),
            partial: Vec::new(),
            gathering: None,
            attachments,
            barriers: VecDeque::new(),
            torn: Vec::new(),
            garbage: Vec::new(),
            compactions: Vec::new(),
            done: Vec::new(),
        };
        applier.begin(floor);
        applier
    }

    /// Forgets everything and begins from the first message again, with the floor that is recorded now.
    pub fn reset(&mut self, floor: Option<Floor>) {
        self.coming_floors.clear();
        self.writer.reset();
        self.attachments.clear();
        self.map = RevisionMap::default();
        self.partial.clear();
        self.gathering = None;
        self.barriers.clear();
        self.torn.clear();
        self.garbage.clear();
        self.compactions.clear();
        self.done.clear();
        self.begin(floor);
    }

    fn begin(&mut self, floor: Option<Floor>) {
        if let Some(floor) = &floor {
            self.writer.set_floor(floor.revision);
            self.map = RevisionMap::new(floor.sequence, floor.steps.clone());
        }
        self.floor = floor;
    }

    /// The position applied up to.
    pub fn position(&self) -> Sequence {
        self.writer.state().position
    }

    /// The position that the next publication will show.
    pub fn reached(&self) -> Sequence {
        self.gathering.as_ref().map_or(self.position(), |(_, last, _)| *last)
    }

    /// The floor in force.
    pub fn floor(&self) -> Option<&Floor> {
        self.floor.as_ref()
    }

    /// Sequences to revisions, as far as applied.
    pub fn map(&self) -> &RevisionMap {
        &self.map
    }

    /// Takes the next record.
    pub fn take(&mut self, record: Record) {
        if self.is_below_floor(record.sequence) {
            self.take_below_floor(record);
            return;
        }
        self.flush_gathering();
        if self.continues_partial(&record) {
            self.partial.push(record);
        } else {
            self.tear_partial();
            match record.body {
                // Nearly all: no need to be held back.
                Body::Change { key, kind, place: place @ 1, count: 1, operation } => {
                    let sequence = record.sequence;
                    let revision = self.map.revision(sequence);
                    self.apply(revision, sequence, [Change { key, sequence, place, kind }]);
                    self.done.push(Done { operation, revision });
                }
                Body::Change { place: 1, .. } => self.partial.push(record),
                Body::Change { .. } => {
                    // The rest of a batch whose beginning is gone.
                    self.torn.push(record.sequence);
                    self.skip(record.sequence);
                }
                Body::Barrier => {
                    self.map.spend_nothing(record.sequence);
                    self.barriers.push_back(record.sequence);
                    self.skip(record.sequence);
                }
                Body::Foreign => {
                    tracing::warn!(sequence = %record.sequence, "a message that jetway did not write counts as an empty revision");
                    self.skip(record.sequence);
                }
            }
        }
        if self.partial_is_whole() {
            self.apply_partial();
        }
        self.raise_due_floors();
    }

    /// Learns that there is no message up to `position` beyond those taken.
    pub fn advance(&mut self, position: Sequence) {
        if position <= self.position() || self.partial.last().is_some_and(|last| position <= last.sequence) {
            return;
        }
        if self.floor.as_ref().is_some_and(|floor| position < floor.sequence) {
            // Of a sequence that is gone the map tells no revision, so this one must not move.
            match &mut self.gathering {
                Some((_, last, _)) => *last = position,
                None => self.writer.advance(self.writer.state().revision, position),
            }
            return;
        }
        self.flush_gathering();
        self.tear_partial();
        self.skip(position);
        self.raise_due_floors();
    }

    /// Gives up on a transaction whose end will not come; answers whether there was one.
    pub fn tear(&mut self) -> bool {
        let torn = !self.partial.is_empty();
        self.tear_partial();
        self.raise_due_floors();
        torn
    }

    /// The last message of a transaction that is not whole yet.
    pub fn waiting_for_more(&self) -> Option<Sequence> {
        self.partial.last().map(|record| record.sequence)
    }

    /// Raises the compaction floor, now or when its sequence is reached.
    pub fn raise_floor(&mut self, floor: Floor) {
        self.coming_floors.push_back(floor);
        self.raise_due_floors();
    }

    /// Makes visible what has been applied.
    pub fn publish(&mut self) {
        self.flush_gathering();
        self.writer.publish();
    }

    /// Writes that have become visible with the last publication.
    pub fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }

    /// Messages that nothing needs any more: superseded ones, old barriers, the remains of torn batches. Nothing is told
    /// while a compaction is swept, so that its garbage comes as one.
    pub fn take_garbage(&mut self) -> Vec<Garbage> {
        if self.is_sweeping() {
            return Vec::new();
        }
        std::mem::take(&mut self.garbage)
    }

    /// Whether compactions have left anything to sweep.
    pub fn is_sweeping(&self) -> bool {
        self.writer.is_sweeping()
    }

    /// Frees some of what compactions have left, after a look at about `most` versions.
    pub fn sweep(&mut self, most: usize) {
        self.garbage.extend(self.writer.sweep(most));
    }

    /// Floors that have risen, each with the state before it.
    pub fn take_compactions(&mut self) -> Vec<(State, Revision)> {
        std::mem::take(&mut self.compactions)
    }

    /// Messages of torn batches, to be removed; until then they stand in their subjects' way.
    pub fn take_torn(&mut self) -> Vec<Sequence> {
        std::mem::take(&mut self.torn)
    }

    fn is_below_floor(&self, sequence: Sequence) -> bool {
        self.floor.as_ref().is_some_and(|floor| sequence <= floor.sequence)
    }

    fn take_below_floor(&mut self, record: Record) {
        let sequence = record.sequence;
        let revision = self.map.revision(sequence);
        match record.body {
            Body::Change { key, kind, place, .. } => {
                let change = Change { key, sequence, place, kind };
                match &mut self.gathering {
                    Some((gathered, last, changes)) if *gathered == revision => {
                        *last = sequence;
                        changes.push(change);
                    }
                    _ => {
                        self.flush_gathering();
                        self.gathering = Some((revision, sequence, vec![change]));
                    }
                }
            }
            Body::Barrier => self.garbage.push(Garbage { is_tombstone: false, sequence }),
            Body::Foreign => {}
        }
        // It may be the last message of all, and then nothing else says that its revision is whole.
        if self.floor.as_ref().is_some_and(|floor| sequence == floor.sequence) {
            self.flush_gathering();
            self.skip(sequence);
        }
    }

    fn flush_gathering(&mut self) {
        if let Some((revision, sequence, changes)) = self.gathering.take() {
            self.apply(revision, sequence, changes);
        }
    }

    fn continues_partial(&self, record: &Record) -> bool {
        let Some(last) = self.partial.last() else { return false };
        match (&last.body, &record.body) {
            (
                Body::Change { operation, place, count, .. },
                Body::Change { operation: next_operation, place: next_place, count: next_count, .. },
            ) => {
                operation == next_operation
                    && *next_place == place + 1
                    && next_count == count
                    && record.sequence == last.sequence.next()
            }
            _ => false,
        }
    }

    fn partial_is_whole(&self) -> bool {
        self.partial
            .last()
            .is_some_and(|last| matches!(last.body, Body::Change { place, count, .. } if place == count))
    }

    fn apply_partial(&mut self) {
        let records = std::mem::take(&mut self.partial);
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return };
        let (first, last) = (first.sequence, last.sequence);
        self.map.batch(first, last.0 - first.0 + 1);
        let revision = self.map.revision(last);
        let mut operation_of_all = None;
        let changes: Vec<Change> = records
            .into_iter()
            .filter_map(|record| match record.body {
                Body::Change { key, kind, place, operation, .. } => {
                    operation_of_all = Some(operation);
                    Some(Change { key, sequence: record.sequence, place, kind })
                }
                Body::Barrier | Body::Foreign => None,
            })
            .collect();
        self.apply(revision, last, changes);
        self.done.extend(operation_of_all.map(|operation| Done { operation, revision }));
    }

    fn apply(&mut self, revision: Revision, position: Sequence, changes: impl IntoIterator<Item = Change>) {
        let Applier { writer, attachments, .. } = self;
        let garbage = writer.apply(revision, position, changes, |version, before| {
            // A tombstone has none.
            let held = before.map_or(LeaseId::NONE, KeyVersion::lease);
            attachments.moved(version.key(), held, version.lease());
        });
        self.garbage.extend(garbage);
    }

    fn tear_partial(&mut self) {
        let Some(last) = self.partial.last().map(|record| record.sequence) else { return };
        tracing::warn!(%last, messages = self.partial.len(), "a transaction was cut off before its end; nobody was told of it, it is removed");
        self.torn.extend(self.partial.drain(..).map(|record| record.sequence));
        self.skip(last);
    }

    fn skip(&mut self, position: Sequence) {
        self.writer.advance(self.map.revision(position), position);
    }

    fn raise_due_floors(&mut self) {
        while let Some(floor) =
            self.coming_floors.pop_front_if(|floor| floor.sequence <= self.writer.state().position)
        {
            if self.floor.as_ref().is_some_and(|current| floor.revision <= current.revision) {
                continue;
            }
            // Every instance derives the same revisions, so a floor of another opinion was computed by none.
            if !floor.is_at(self.map.revision(floor.sequence)) {
                tracing::warn!(?floor, "a compaction floor that does not belong to this stream is ignored");
                continue;
            }
            self.compactions.push((self.writer.state().clone(), floor.revision));
            self.writer.compact(floor.revision);
            self.map.prune(floor.sequence, floor.steps.clone());
            while let Some(sequence) = self.barriers.pop_front_if(|barrier| *barrier <= floor.sequence) {
                self.garbage.push(Garbage { is_tombstone: false, sequence });
            }
            self.floor = Some(floor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jetstream::record::BARRIER;

    fn floor(revision: i64, sequence: u64, steps: &[(u64, u64)]) -> Floor {
        let step = |&(from, offset): &(u64, u64)| Step { from: Sequence(from), offset };
        Floor {
            revision: Revision(revision),
            sequence: Sequence(sequence),
            steps: steps.iter().map(step).collect(),
        }
    }

    #[test]
    fn a_floor_that_no_instance_can_have_computed_is_told_apart() {
        for sound in [floor(0, 0, &[]), floor(1, 0, &[]), floor(5, 5, &[]), floor(5, 7, &[(3, 1), (6, 2)])] {
            assert!(sound.is_sound(), "{sound:?}");
        }
        for unsound in [
            floor(-1, 0, &[]),
            floor(4, 5, &[]),
            floor(0, 3, &[(3, 3)]),
            floor(5, 7, &[(6, 2), (3, 1)]),
            floor(5, 7, &[(8, 2)]),
            floor(5, 7, &[(3, 1), (6, 1)]),
            floor(3, 9, &[(2, 1), (3, 6)]),
            floor(i64::MIN, 1 << 63, &[]),
        ] {
            assert!(!unsound.is_sound(), "{unsound:?}");
        }
    }

    #[test]
    fn a_floor_that_contradicts_the_stream_is_ignored() {
        let (writer, reader) = Writer::new();
        let mut applier = Applier::new(writer, Attachments::default(), None);
        for sequence in 2..6 {
            let subject = if sequence == 3 { BARRIER } else { "somebody-else" };
            let body = crate::jetstream::record::decode(subject, None, &bytes::Bytes::new());
            applier.take(Record { sequence: Sequence(sequence), time: 0, body });
        }
        // The barrier spends no revision, and this floor does not know.
        applier.raise_floor(floor(4, 4, &[]));
        applier.publish();
        assert_eq!(reader.snapshot().compacted, None);
        applier.raise_floor(floor(3, 4, &[(3, 1)]));
        applier.publish();
        assert_eq!(reader.snapshot().compacted, Some(Revision(3)));
    }
}
