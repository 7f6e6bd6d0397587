//! Sequences to revisions: the one place where the two meet.
//!
//! Every sequence spends one revision, whether or not a message is there, with two exceptions: the messages of a
//! complete batch before its last one, and read barriers. A step says from which sequence on how many sequences have
//! spent none, so `revision = sequence - offset`, and the map is monotone. All messages of a batch come out at the
//! revision of its last message.
//!
//! Above the compaction floor the steps follow from the messages. At and below it messages vanish, so the steps that
//! the surviving ones still need are carried by the floor's record ([`RevisionMap::steps_for`]). Others may still be
//! there, where a crash came before their removal. Invariant: from the floor's sequence on the map is exact for every
//! sequence; below it only for the survivors. What it says of a sequence between two of them is not its true revision,
//! but the map is monotone all the same, and nothing from before the floor's revision comes out at it.

use crate::types::{Revision, Sequence};

/// From this sequence on, so many sequences have spent no revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// First sequence that the offset holds for.
    pub from: Sequence,
    /// Sequence minus revision.
    pub offset: u64,
}

impl Step {
    /// The revision of its first sequence; the offset must not exceed that.
    pub fn revision(&self) -> Revision {
        Revision(self.from.0.saturating_sub(self.offset) as i64)
    }
}

/// The map, as far as messages have been seen.
#[derive(Clone, Debug, Default)]
pub struct RevisionMap {
    steps: Vec<Step>,
    /// From here on it holds for every sequence.
    floor: Sequence,
}

impl RevisionMap {
    /// A map that begins with the steps of a floor record.
    pub fn new(floor: Sequence, steps: Vec<Step>) -> RevisionMap {
        debug_assert!(steps.is_sorted_by(|a, b| a.from < b.from && a.offset != b.offset));
        RevisionMap { steps, floor }
    }

    /// The offset that holds for `sequence`, and the step after it.
    fn at(&self, sequence: Sequence) -> (u64, Option<&Step>) {
        let next = self.steps.partition_point(|step| step.from <= sequence);
        let offset = if next == 0 { 0 } else { self.steps[next - 1].offset };
        (offset, self.steps.get(next))
    }

    fn offset(&self, sequence: Sequence) -> u64 {
        self.at(sequence).0
    }

    /// The revision that a message at `sequence` belongs to, and that the store is at when everything up to it is
    /// applied.
    pub fn revision(&self, sequence: Sequence) -> Revision {
        let (offset, next) = self.at(sequence);
        let revision = sequence.0 - offset;
        // Where steps have been left out, what lies between two of them must not overtake the second.
        let most = next.map_or(revision, |next| next.from.0 - next.offset);
        Revision(revision.min(most) as i64)
    }

    /// The last sequence whose revision is at most `revision`, which is not below the floor's, among the sequences up to
    /// `position`.
    pub fn last_sequence(&self, revision: Revision, position: Sequence) -> Sequence {
        let (mut low, mut high) = (self.floor.0, position.0);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.revision(Sequence(middle)) <= revision {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        Sequence(low)
    }

    /// Records that `count` messages from `first` on are one complete batch: all of them make one revision.
    pub fn batch(&mut self, first: Sequence, count: u64) {
        for at in 1..count {
            self.spend_nothing(Sequence(first.0 + at));
        }
    }

    /// Records that the message at `sequence`, the newest so far, spends no revision.
    pub fn spend_nothing(&mut self, sequence: Sequence) {
        let offset = self.offset(sequence) + 1;
        debug_assert!(self.steps.last().is_none_or(|last| last.from < sequence));
        self.steps.push(Step { from: sequence, offset });
    }

    /// Whether any step lies at or below `sequence`; where none does, no steps need to be carried.
    pub fn has_steps(&self, sequence: Sequence) -> bool {
        self.steps.first().is_some_and(|step| step.from <= sequence)
    }

    /// The fewest steps that give each of `survivors` (ascending) and `floor` itself the revisions they have now, and
    /// everything before the floor's revision a lower one.
    pub fn steps_for(&self, survivors: impl Iterator<Item = Sequence>, floor: Sequence) -> Vec<Step> {
        let below = self.last_sequence(Revision(self.revision(floor).0 - 1), floor);
        let mut kept: Vec<Sequence> =
            survivors.take_while(|sequence| *sequence < floor).chain([floor]).collect();
        kept.insert(kept.partition_point(|sequence| *sequence < below), below);
        let mut steps: Vec<Step> = Vec::new();
        for sequence in kept {
            let offset = self.offset(sequence);
            if offset != steps.last().map_or(0, |last| last.offset) {
                steps.push(Step { from: sequence, offset });
            }
        }
        steps
    }

    /// Replaces what lies at or below `floor` by the steps of a floor record.
    pub fn prune(&mut self, floor: Sequence, mut steps: Vec<Step>) {
        let above = self.steps.partition_point(|step| step.from <= floor);
        steps.extend_from_slice(&self.steps[above..]);
        self.steps = steps;
        self.floor = floor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn revisions(map: &RevisionMap, sequences: impl Iterator<Item = u64>) -> Vec<i64> {
        sequences.map(|sequence| map.revision(Sequence(sequence)).0).collect()
    }

    #[test]
    fn single_writes_keep_revision_and_sequence_equal() {
        assert_eq!(revisions(&RevisionMap::default(), 2..6), [2, 3, 4, 5]);
    }

    #[test]
    fn a_batch_makes_one_revision_and_a_barrier_none() {
        let mut map = RevisionMap::default();
        map.batch(Sequence(4), 3);
        map.spend_nothing(Sequence(8));
        assert_eq!(revisions(&map, 2..11), [2, 3, 4, 4, 4, 5, 5, 6, 7]);
        assert_eq!(map.last_sequence(Revision(4), Sequence(10)), Sequence(6));
        assert_eq!(map.last_sequence(Revision(5), Sequence(10)), Sequence(8));
        assert_eq!(map.last_sequence(Revision(9), Sequence(10)), Sequence(10));
    }

    proptest! {
        #![proptest_config(crate::core::tests::config(256))]

        #[test]
        fn pruning_changes_no_survivor_and_nothing_above(
            shape in prop::collection::vec((0u8..3, 2u64..5), 1..60),
            keep in prop::collection::vec(any::<bool>(), 300),
            cut in 0usize..60,
        ) {
            let mut map = RevisionMap::default();
            let mut next = 2;
            let mut ends = vec![1];
            for (kind, count) in shape {
                match kind {
                    0 => next += 1,
                    1 => { map.batch(Sequence(next), count); next += count; }
                    _ => { map.spend_nothing(Sequence(next)); next += 1; }
                }
                ends.push(next - 1);
            }
            let floor = Sequence(ends[cut.min(ends.len() - 1)]);
            let survivors: Vec<_> = (2..floor.0).filter(|s| keep[*s as usize]).map(Sequence).collect();
            let mut pruned = map.clone();
            pruned.prune(floor, map.steps_for(survivors.iter().copied(), floor));
            for sequence in survivors.into_iter().chain((floor.0..next + 5).map(Sequence)) {
                prop_assert_eq!(pruned.revision(sequence), map.revision(sequence), "at {}", sequence);
            }
            // Whatever else is still there keeps its place, and away from the floor.
            for sequence in (2..floor.0).map(Sequence) {
                prop_assert!(pruned.revision(sequence) <= pruned.revision(sequence.next()), "at {}", sequence);
                let is_at_floor = map.revision(sequence) == map.revision(floor);
                prop_assert!(is_at_floor || pruned.revision(sequence) < map.revision(floor), "at {}", sequence);
            }
            let end = Sequence(next + 5);
            for revision in map.revision(floor).0..=map.revision(end).0 {
                let revision = Revision(revision);
                prop_assert_eq!(pruned.last_sequence(revision, end), map.last_sequence(revision, end), "of {}", revision);
            }
        }
    }
}
