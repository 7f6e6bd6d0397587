//! Messages that nothing needs any more, kept until a trim record permits their removal.
//!
//! Only what a record at or below the trim record's index supersedes may go, so that the state there and all history behind it
//! can be rebuilt.

use crate::core::Garbage;
use crate::types::{LogIndex, Revision, Sequence};

/// Messages to remove, in this order, each part durable before the next.
#[derive(Debug, Default)]
pub struct Removal {
    /// Void messages, descending: a torn batch must not lose its head first.
    pub void: Vec<Sequence>,
    /// Superseded values and reserved records, ascending.
    pub values: Vec<Sequence>,
    /// Tombstones, ascending: one that vanished first could uncover an older value of its key.
    pub tombstones: Vec<Sequence>,
    /// Barriers, ascending.
    pub barriers: Vec<Sequence>,
}

impl Removal {
    /// The number of messages.
    pub fn len(&self) -> usize {
        self.void.len() + self.values.len() + self.tombstones.len() + self.barriers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

/// Everything that waits for removal.
#[derive(Debug, Default)]
pub(super) struct Pile {
    void: Vec<Sequence>,
    /// Of keys: superseded at or below a compaction floor. A later floor's go only under a trim record for it.
    keys: Vec<(Garbage, Revision)>,
    reserved: Vec<Superseded>,
    barriers: Vec<(Sequence, LogIndex)>,
}

impl Pile {
    pub(super) fn add_void(&mut self, sequences: &[Sequence]) {
        self.void.extend_from_slice(sequences);
    }

    pub(super) fn add_keys(&mut self, keys: impl IntoIterator<Item = Garbage>, floor: Revision) {
        self.keys.extend(keys.into_iter().map(|garbage| (garbage, floor)));
    }

    pub(super) fn add_barrier(&mut self, sequence: Sequence, index: LogIndex) {
        self.barriers.push((sequence, index));
    }

    pub(super) fn add_reserved(&mut self, sequence: Sequence, by: LogIndex, is_tombstone: bool) {
        self.reserved.push(Superseded { sequence, by, is_tombstone });
    }

    /// Whether a compaction has left anything.
    pub(super) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Takes what may go under a trim record for `to`, the end of all at or below `floor`, that stands at `sequence`.
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
        self.keys.retain(|(garbage, of)| {
            let goes = floor.is_some_and(|floor| *of <= floor);
            if goes {
                let into = if garbage.is_tombstone { &mut removal.tombstones } else { &mut removal.values };
                into.push(garbage.sequence);
            }
            !goes
        });
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
        *self = Pile::default();
    }
}
