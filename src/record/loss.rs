//! Records that are taken from a log that has lost messages.
//!
//! A load that accepts a loss passes over holes. A record of a deposed writer is void because of a message
//! before it. If that one is lost, the record looks valid, and its index hides one of the next writer. Two
//! rules prevent it:
//!
//! - A writer sends nothing before its epoch record is valid. So each message of its own proves that valid
//!   records of earlier epochs have lower indexes than the epoch began with, and no higher revisions. Others
//!   are void ([`Beginnings`]). A load that has taken one before that message came starts again, and keeps
//!   the knowledge.
//! - Later readers find other holes, because void and superseded messages are removed. They decide nothing
//!   anew: each trim record carries the [`AcceptedLoss`]. A reader that meets one which it does not know
//!   starts again.

use super::{Body, Placed, Record};
use crate::types::{Epoch, LogIndex, Revision, Sequence};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

/// The most ranges that a trim record carries: with them its message stays below NATS' limit of 1 MiB.
const MOST_RANGES: usize = 20_000;

/// A loss that was accepted. Up to the epoch record of the instance that did it, each record outside the void
/// ranges is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AcceptedLoss {
    /// The sequence of that epoch record.
    pub at: u64,
    /// Ranges of sequences before it, first and last, that hold no valid record. Ascending.
    pub void: Vec<(u64, u64)>,
}

impl AcceptedLoss {
    /// Whether it decides about a sequence.
    pub fn covers(&self, sequence: Sequence) -> bool {
        sequence.0 <= self.at
    }

    /// Whether no valid record stands at a sequence that it decides about.
    pub fn is_void(&self, sequence: Sequence) -> bool {
        let after = self.void.partition_point(|(first, _)| *first <= sequence.0);
        after > 0 && sequence.0 <= self.void[after - 1].1
    }

    /// The void ranges and others, ascending and disjoint.
    pub(super) fn void_and(&self, others: &[(Sequence, Sequence)]) -> Vec<(Sequence, Sequence)> {
        let void = self.void.iter().map(|(first, last)| (Sequence(*first), Sequence(*last)));
        let mut ranges: Vec<_> = void.chain(others.iter().copied()).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|(first, last), (_, before)| {
            let is_joined = *first <= before.next();
            *before = if is_joined { (*last).max(*before) } else { *before };
            is_joined
        });
        ranges
    }
}

/// The bounds of the records of all epochs before one.
#[derive(Clone, Copy, Debug)]
struct Beginning {
    nonce: u64,
    index: LogIndex,
    revision: Revision,
}

impl Beginning {
    fn is_lowered_by(&self, (index, revision): (LogIndex, Revision)) -> bool {
        index < self.index || revision < self.revision
    }
}

/// The beginnings of epochs, as the messages of their writers prove them.
#[derive(Clone, Debug, Default)]
pub struct Beginnings {
    /// By the epoch and nonce of each epoch record: its index and revision.
    records: HashMap<(Epoch, u64), (LogIndex, Revision)>,
    /// The epochs whose writers have sent a message. The bounds never fall from one to the next.
    proved: BTreeMap<Epoch, Beginning>,
}

impl Beginnings {
    /// The highest epoch whose writer has sent a message.
    pub fn newest(&self) -> Epoch {
        self.proved.keys().next_back().copied().unwrap_or_default()
    }

    /// Takes note of a message. Returns whether it has told anything new.
    fn learn(&mut self, record: &Record) -> bool {
        let Record { epoch, nonce, index, revision, place, body, .. } = record;
        let before = match body {
            Body::Epoch(_) => {
                self.records.entry((*epoch, *nonce)).or_insert((*index, *revision));
                return false;
            }
            // It names the last index, which may be that of the epoch record.
            Body::Barrier => LogIndex(index.0.saturating_sub(1)),
            // The epoch record and the batch's earlier records stand before it.
            _ => LogIndex(index.0.saturating_sub(u64::from(*place) + 1)),
        };
        // The end of a lease with keys is a write of their deletes.
        let is_write = matches!(body, Body::Key(_)) || matches!(body, Body::Lease(..)) && *place > 1;
        let mut bound = (before, Revision(revision.0 - i64::from(is_write)));
        if let Some((index, revision)) = self.records.get(&(*epoch, *nonce)) {
            bound = (bound.0.min(LogIndex(index.0.saturating_sub(1))), bound.1.min(*revision));
        }
        if let Some(later) = self.after(*epoch) {
            bound = (bound.0.min(later.index), bound.1.min(later.revision));
        }
        // No two writers have an epoch in common: another nonce is forged.
        let known = self.proved.get(epoch);
        if known.is_some_and(|known| known.nonce != *nonce || !known.is_lowered_by(bound)) {
            return false;
        }
        let beginning = Beginning { nonce: *nonce, index: bound.0, revision: bound.1 };
        self.proved.entry(*epoch).or_insert(beginning);
        for (_, earlier) in self.proved.range_mut(..=*epoch).rev() {
            if !earlier.is_lowered_by(bound) && (earlier.index, earlier.revision) != bound {
                break;
            }
            earlier.index = earlier.index.min(bound.0);
            earlier.revision = earlier.revision.min(bound.1);
        }
        true
    }

    fn after(&self, epoch: Epoch) -> Option<&Beginning> {
        self.proved.range((Bound::Excluded(epoch), Bound::Unbounded)).next().map(|(_, later)| later)
    }

    fn refute(&self, epoch: Epoch, nonce: u64, index: LogIndex, revision: Revision) -> bool {
        let is_of_another = self.proved.get(&epoch).is_some_and(|known| known.nonce != nonce);
        is_of_another
            || self.after(epoch).is_some_and(|later| index > later.index || revision > later.revision)
    }
}

/// A range of sequences without a valid record.
#[derive(Clone, Copy, Debug)]
struct Gap {
    first: Sequence,
    last: Sequence,
    /// It holds records that are void, or held the epoch record of the next valid record.
    is_certain: bool,
    /// The revision of the next valid record.
    revision: Revision,
}

/// A load that accepts the loss of messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Acceptance {
    beginnings: Beginnings,
    /// By epoch, of the records that were taken: the nonce, the last index, the highest revision.
    taken: BTreeMap<Epoch, (u64, LogIndex, Revision)>,
    /// The sequence and the epoch of the last valid record.
    last: (Sequence, Epoch),
    /// Records behind it that were not taken.
    left_out: Vec<Sequence>,
    gaps: Vec<Gap>,
}

impl Acceptance {
    pub(super) fn new(beginnings: Beginnings) -> Acceptance {
        Acceptance { beginnings, ..Acceptance::default() }
    }

    pub(super) fn beginnings(&self) -> &Beginnings {
        &self.beginnings
    }

    /// Takes note of a message that an earlier accepted loss does not cover. Returns whether it refutes a
    /// record that was taken.
    pub(super) fn learn(&mut self, record: &Record) -> bool {
        let Acceptance { beginnings, taken, .. } = self;
        let refutes = |beginnings: &Beginnings| {
            taken.iter().any(|(epoch, last)| beginnings.refute(*epoch, last.0, last.1, last.2))
        };
        beginnings.learn(record) && refutes(beginnings)
    }

    /// Whether a record is known to be void.
    pub(super) fn refutes(&self, record: &Record) -> bool {
        self.beginnings.refute(record.epoch, record.nonce, record.index, record.revision)
    }

    /// A record stands at a sequence. It may be taken later.
    pub(super) fn note_record(&mut self, sequence: Sequence) {
        self.left_out.push(sequence);
    }

    /// A record is valid. `is_decided` says that an earlier accepted loss covers it.
    pub(super) fn note_valid(&mut self, placed: &Placed, is_decided: bool) {
        let Placed { sequence, record } = placed;
        let (first, last) = (self.last.0.next(), Sequence(sequence.0.saturating_sub(1)));
        if first <= last {
            let lacks_epoch = record.epoch != self.last.1 && !matches!(record.body, Body::Epoch(_));
            let is_certain = lacks_epoch || self.left_out.iter().any(|at| *at <= last);
            self.gaps.push(Gap { first, last, is_certain, revision: record.revision });
        }
        self.left_out.retain(|at| at > sequence);
        self.last = (*sequence, record.epoch);
        if !is_decided {
            let (nonce, index, revision) = self.taken.entry(record.epoch).or_default();
            (*nonce, *index, *revision) = (record.nonce, record.index, record.revision.max(*revision));
        }
    }

    /// The loss, accepted by the epoch record at a sequence. Missing messages are named, too: a replica that
    /// is behind may still have them. Below the compaction floor only those are that are certain, because
    /// compactions leave many holes there. The digest stands for what they held.
    pub(super) fn settle(&self, at: Sequence, floor: Option<Revision>) -> AcceptedLoss {
        let before = || self.gaps.iter().filter(|gap| gap.last < at);
        let is_named = |gap: &&Gap| gap.is_certain || Some(gap.revision) > floor;
        let void = |gap: &Gap| (gap.first.0, gap.last.0);
        let mut named: Vec<(u64, u64)> = before().filter(is_named).map(void).collect();
        if named.len() > MOST_RANGES {
            named = before().filter(|gap| gap.is_certain).map(void).collect();
        }
        AcceptedLoss { at: at.0, void: named }
    }
}

#[cfg(test)]
mod tests;
