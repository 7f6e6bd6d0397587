//! Superseded messages, which wait until a trim record permits their removal.
//!
//! A message may be removed only if a record at or below the trim record's index supersedes it. So the state
//! there and all history behind it can be rebuilt.

use crate::core::Garbage;
use crate::types::{LogIndex, Revision, Sequence};
use std::collections::VecDeque;

/// Messages to remove, in the order of the fields. Each removal is durable before the next one begins, and
/// that of the tombstones begins only when nats-server has noted all others.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// Void messages, descending, one after the other: a torn batch must not lose its head first.
    pub void: Vec<Sequence>,
    /// Superseded values and reserved records, ascending.
    pub values: Vec<Sequence>,
    /// Barriers, ascending.
    pub barriers: Vec<Sequence>,
    /// Tombstones, ascending: one that vanished first could uncover an older value of its key.
    pub tombstones: Vec<Sequence>,
}

impl Removal {
    /// The number of messages.
    pub(crate) fn len(&self) -> usize {
        self.void.len() + self.values.len() + self.tombstones.len() + self.barriers.len()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The messages, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Sequence> {
        let Removal { void, values, barriers, tombstones } = self;
        [void, values, barriers, tombstones].into_iter().flatten().copied()
    }

    /// All but the tombstones.
    fn parts(&mut self) -> [&mut Vec<Sequence>; 3] {
        [&mut self.void, &mut self.values, &mut self.barriers]
    }
}

/// Removals in the order of their trim records. None overtakes an earlier one: an old value that stayed while
/// the later delete of its key went would come back.
#[derive(Debug, Default)]
pub(crate) struct Removals(VecDeque<Removal>);

impl Removals {
    /// The number of messages.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(Removal::len).sum()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(Removal::is_empty)
    }

    pub(crate) fn push(&mut self, removal: Removal) {
        self.0.push_back(removal);
    }

    /// Moves the removals of `later` behind these.
    pub(crate) fn append(&mut self, mut later: Removals) {
        self.0.append(&mut later.0);
    }

    /// The messages that go next, and whether none of them may go before the one in front of it. The caller
    /// takes out those that are gone, and syncs the store before the next call. Tombstones in front of them
    /// move to `tombstones`, because no older value of their keys is left.
    pub(crate) fn next_part(&mut self, tombstones: &mut Vec<Sequence>) -> Option<(&mut Vec<Sequence>, bool)> {
        while let Some(removal) = self.0.front_mut()
            && removal.parts().iter().all(|part| part.is_empty())
        {
            tombstones.append(&mut removal.tombstones);
            self.0.pop_front();
        }
        let first = self.0.front_mut()?;
        let is_ordered = !first.void.is_empty();
        first.parts().into_iter().find(|part| !part.is_empty()).map(|part| (part, is_ordered))
    }

    /// Forgets messages that are gone.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(Sequence) -> bool) {
        for removal in &mut self.0 {
            let Removal { void, values, barriers, tombstones } = removal;
            for part in [void, values, barriers, tombstones] {
                part.retain(|at| !is_gone(*at));
            }
        }
        self.0.retain(|removal| !removal.is_empty());
    }
}

/// A message that a reserved record has superseded.
#[derive(Clone, Copy, Debug)]
struct Superseded {
    sequence: Sequence,
    /// The index of the record that superseded it.
    by: LogIndex,
    is_tombstone: bool,
}

/// The messages that wait for removal.
#[derive(Debug, Default)]
pub(super) struct PendingRemovals {
    void: Vec<Sequence>,
    /// Of keys, with the compaction floor at or below which they were superseded.
    keys: Vec<(Garbage, Option<Revision>)>,
    reserved: Vec<Superseded>,
    barriers: Vec<(Sequence, LogIndex)>,
}

impl PendingRemovals {
    pub(super) fn add_void(&mut self, sequences: &[Sequence]) {
        self.void.extend_from_slice(sequences);
    }

    pub(super) fn add_keys(&mut self, keys: impl IntoIterator<Item = Garbage>, floor: Option<Revision>) {
        self.keys.extend(keys.into_iter().map(|key| (key, floor)));
    }

    pub(super) fn add_barrier(&mut self, sequence: Sequence, index: LogIndex) {
        self.barriers.push((sequence, index));
    }

    pub(super) fn add_reserved(&mut self, sequence: Sequence, by: LogIndex, is_tombstone: bool) {
        self.reserved.push(Superseded { sequence, by, is_tombstone });
    }

    /// Whether compactions have left messages of keys.
    pub(super) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Takes the messages that a trim record for `to` and `floor` at `sequence` permits to remove. The floor
    /// may have risen since that index was chosen. The messages that it has superseded since then wait for
    /// the next trim record.
    pub(super) fn take(&mut self, to: LogIndex, floor: Option<Revision>, sequence: Sequence) -> Removal {
        let mut removal = Removal::default();
        let mut void = std::mem::take(&mut self.void);
        void.sort_unstable_by(|a, b| b.cmp(a));
        void.retain(|at| {
            if *at < sequence {
                true
            } else {
                self.void.push(*at);
                false
            }
        });
        removal.void = void;
        for (Garbage { is_tombstone, sequence }, _) in self.keys.extract_if(.., |(_, of)| *of <= floor) {
            if is_tombstone { removal.tombstones.push(sequence) } else { removal.values.push(sequence) }
        }
        self.reserved.retain(|superseded| {
            let goes = superseded.by <= to && superseded.sequence < sequence;
            if goes {
                let into =
                    if superseded.is_tombstone { &mut removal.tombstones } else { &mut removal.values };
                into.push(superseded.sequence);
            }
            !goes
        });
        self.barriers.retain(|(barrier, index)| {
            let goes = *index <= to && *barrier < sequence;
            if goes {
                removal.barriers.push(*barrier);
            }
            !goes
        });
        removal.values.sort_unstable();
        removal.tombstones.sort_unstable();
        removal
    }

    pub(super) fn clear(&mut self) {
        *self = PendingRemovals::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_has_its_order_and_ends_at_the_trim_record() {
        let sequences = |of: &[u64]| of.iter().copied().map(Sequence).collect::<Vec<_>>();
        let mut pile = PendingRemovals::default();
        pile.add_void(&sequences(&[4, 9, 7, 21]));
        let key = |is_tombstone, at| Garbage { is_tombstone, sequence: Sequence(at) };
        pile.add_keys([key(false, 8), key(true, 5), key(false, 2)], None);
        for (at, by, is_tombstone) in [(3, 6, false), (6, 6, true), (10, 7, false)] {
            pile.add_reserved(Sequence(at), LogIndex(by), is_tombstone);
        }
        for (at, index) in [(11, 6), (12, 7), (22, 6)] {
            pile.add_barrier(Sequence(at), LogIndex(index));
        }
        let removal = pile.take(LogIndex(6), Some(Revision(1)), Sequence(20));
        assert_eq!(removal.void, sequences(&[9, 7, 4]));
        assert_eq!(removal.values, sequences(&[2, 3, 8]));
        assert_eq!(removal.tombstones, sequences(&[5, 6]));
        assert_eq!(removal.barriers, sequences(&[11]));
        // Messages that a later index has superseded, or that stand behind the trim record, wait for the next
        // one.
        let next = pile.take(LogIndex(7), Some(Revision(1)), Sequence(30));
        let rest = (next.void, next.values, next.tombstones, next.barriers);
        assert_eq!(rest, (sequences(&[21]), sequences(&[10]), vec![], sequences(&[12, 22])));
    }

    #[test]
    fn a_removal_that_is_not_over_goes_before_the_next_one() {
        let sequences = |of: &[u64]| of.iter().copied().map(Sequence).collect::<Vec<_>>();
        let removal = |void: &[u64], values: &[u64], tombstones: &[u64]| Removal {
            void: sequences(void),
            values: sequences(values),
            tombstones: sequences(tombstones),
            ..Removal::default()
        };
        let (mut removals, mut uncovered) = (Removals::default(), Vec::new());
        removals.push(removal(&[9], &[2, 3], &[8, 10]));
        let take = |(part, is_ordered): (&mut Vec<Sequence>, bool)| (std::mem::take(part), is_ordered);
        assert_eq!(removals.next_part(&mut uncovered).map(take), Some((sequences(&[9]), true)));
        // One of two is gone when NATS cannot be reached any more.
        removals.next_part(&mut uncovered).expect("values").0.remove(0);
        let mut later = Removals::default();
        later.push(removal(&[], &[], &[]));
        later.push(removal(&[], &[5, 6, 7], &[]));
        later.push(removal(&[], &[], &[11, 12]));
        removals.append(later);
        assert_eq!(removals.len(), 8);
        assert_eq!(removals.next_part(&mut uncovered).map(take), Some((sequences(&[3]), false)));
        assert_eq!(uncovered, [], "a value in front of them was not removed yet");
        removals.forget(|at| [6, 12].contains(&at.0));
        assert_eq!(removals.next_part(&mut uncovered).map(take), Some((sequences(&[5, 7]), false)));
        assert_eq!(uncovered, sequences(&[8, 10]));
        assert!(removals.next_part(&mut uncovered).is_none() && removals.is_empty());
        assert_eq!(uncovered, sequences(&[8, 10, 11]));
    }

    #[test]
    fn a_trim_record_permits_no_removal_of_a_later_floor() {
        let mut pending = PendingRemovals::default();
        let value = |sequence| Garbage { is_tombstone: false, sequence: Sequence(sequence) };
        pending.add_keys([value(2)], Some(Revision(5)));
        pending.add_keys([value(3)], Some(Revision(9)));
        assert_eq!(pending.take(LogIndex(6), Some(Revision(5)), Sequence(20)).values, [Sequence(2)]);
        assert!(pending.has_keys());
        assert_eq!(pending.take(LogIndex(9), Some(Revision(9)), Sequence(21)).values, [Sequence(3)]);
        assert!(!pending.has_keys());
    }
}
