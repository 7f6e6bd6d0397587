//! The log of events since the compaction floor, one entry a revision.
//!
//! Entries are in chunks of write-once slots. The writer fills the next slot of the last chunk in place. A
//! reader holds an [`EventLog`] with a fixed number of entries, all of them filled before it was published.
//! The list of chunks is copied when a chunk is added, once in [`CHUNK`] revisions, and by a compaction,
//! which also copies the new first chunk.

use super::version::KeyVersion;
use crate::primitive::Slot;
use crate::types::Revision;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;
use triomphe::ThinArc;

/// Revisions in one chunk.
const CHUNK: usize = if cfg!(jetway_loom) {
    2
} else if cfg!(test) {
    4
} else {
    512
};

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Event {
    /// The version it made; a tombstone stands for a delete.
    pub version: KeyVersion,
    /// The live version before the revision of this event, if there was one. Readable by clients only while
    /// the revision before this one is not compacted.
    pub previous: Option<KeyVersion>,
}

impl Event {
    /// The previous version that a client may see: none for a creation, even if the same transaction deleted
    /// the key first.
    pub fn visible_previous(&self) -> Option<&KeyVersion> {
        let is_creation = self.version.create_revision() == self.version.mod_revision();
        self.previous.as_ref().filter(|_| !is_creation)
    }
}

/// All changes of one revision, in the order in which its transaction made them; at least one. Cloning shares
/// them.
#[derive(Clone, Debug)]
pub struct RevisionEvents(Events);

/// Nearly every revision has one event, and there are many revisions between two compactions. So one event is
/// stored in place.
#[derive(Clone, Debug)]
enum Events {
    One(Event),
    Several(ThinArc<(), Event>),
}

impl RevisionEvents {
    /// Takes the events of one revision; at least one.
    pub(super) fn new(mut events: SmallVec<[Event; 1]>) -> RevisionEvents {
        RevisionEvents(match events.pop() {
            Some(only) if events.is_empty() => Events::One(only),
            last => {
                events.extend(last);
                Events::Several(ThinArc::from_header_and_iter((), events.into_iter()))
            }
        })
    }

    /// The revision.
    pub fn revision(&self) -> Revision {
        self.events()[0].version.mod_revision()
    }

    /// Never empty.
    pub fn events(&self) -> &[Event] {
        match &self.0 {
            Events::One(only) => std::slice::from_ref(only),
            Events::Several(events) => &events.slice,
        }
    }
}

#[derive(Debug)]
struct Chunk {
    slots: [Slot<RevisionEvents>; CHUNK],
}

impl Chunk {
    fn new() -> Arc<Chunk> {
        Arc::new(Chunk { slots: std::array::from_fn(|_| Slot::new()) })
    }

    /// A copy that holds these slots alone.
    fn only(&self, slots: Range<usize>) -> Arc<Chunk> {
        let entry = |at: usize| if slots.contains(&at) { self.slots[at].clone() } else { Slot::new() };
        Arc::new(Chunk { slots: std::array::from_fn(entry) })
    }
}

/// A view of the log with a fixed end. Cloning shares everything.
#[derive(Clone, Debug)]
pub struct EventLog {
    chunks: Arc<Vec<Arc<Chunk>>>,
    /// First slot of the first chunk that is still part of the log.
    start: usize,
    /// One past the last entry, counted from the first slot of the first chunk.
    end: usize,
}

impl Default for EventLog {
    fn default() -> EventLog {
        EventLog { chunks: Arc::new(Vec::new()), start: 0, end: 0 }
    }
}

impl EventLog {
    /// Number of revisions in the log.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the log holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entry(&self, at: usize) -> &RevisionEvents {
        self.chunks[at / CHUNK].slots[at % CHUNK].get().expect("slots below the end are filled (I1)")
    }

    /// Position of the first entry at or after `revision`.
    fn lower_bound(&self, revision: Revision) -> usize {
        let (mut low, mut high) = (self.start, self.end);
        while low < high {
            let middle = low.midpoint(high);
            if self.entry(middle).revision() < revision {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The entries from `revision` on, oldest first.
    pub fn since(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &RevisionEvents> + '_ {
        (self.lower_bound(revision)..self.end).map(|at| self.entry(at))
    }

    /// The number of entries from `revision` on.
    pub fn len_since(&self, revision: Revision) -> usize {
        self.end - self.lower_bound(revision)
    }

    /// The entry of exactly this revision.
    pub fn get(&self, revision: Revision) -> Option<&RevisionEvents> {
        self.since(revision).next().filter(|entry| entry.revision() == revision)
    }

    /// Adds the newest revision. Only the writer's own copy is ever appended to; earlier copies end before
    /// the slot that this fills.
    pub(super) fn push(&mut self, entry: RevisionEvents) {
        debug_assert!(self.is_empty() || self.entry(self.end - 1).revision() < entry.revision());
        if self.end == self.chunks.len() * CHUNK {
            Arc::make_mut(&mut self.chunks).push(Chunk::new());
        }
        let slot = &self.chunks[self.end / CHUNK].slots[self.end % CHUNK];
        slot.set(entry).expect("there is one writer, and it fills each slot once");
        self.end += 1;
    }

    /// Removes the entries before `revision`. They go to `forgotten`, since freeing a long log takes long.
    pub(super) fn forget_before(&mut self, revision: Revision, forgotten: &mut Forgotten) {
        let keep_from = self.lower_bound(revision);
        if keep_from == self.start {
            return;
        }
        let whole = keep_from / CHUNK;
        self.start = keep_from - whole * CHUNK;
        self.end -= whole * CHUNK;
        let chunks = Arc::make_mut(&mut self.chunks);
        forgotten.chunks.extend(chunks.drain(..whole));
        // The first chunk still holds removed entries, whose values may be large. Other copies of the log
        // keep the old chunk.
        if let Some(first) = chunks.first_mut() {
            let kept = first.only(self.start..self.end.min(CHUNK));
            forgotten.chunks.push(std::mem::replace(first, kept));
        }
    }
}

/// Chunks that were removed from logs and are not freed yet.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    chunks: Vec<Arc<Chunk>>,
}

impl Forgotten {
    /// Whether all is freed.
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Frees about as many revisions, and at least one chunk.
    pub(super) fn free(&mut self, revisions: usize) {
        let left = self.chunks.len().saturating_sub((revisions / CHUNK).max(1));
        self.chunks.truncate(left);
        if left == 0 {
            self.chunks = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::VersionParts;
    use crate::types::{LeaseId, Sequence};

    fn version(revision: i64) -> KeyVersion {
        KeyVersion::new(&VersionParts {
            key: b"k",
            value: b"",
            create_revision: Revision(2),
            mod_revision: Revision(revision),
            version: revision - 1,
            lease: LeaseId::NONE,
            sequence: Sequence(revision as u64),
            place: 1,
        })
    }

    fn entry(revision: i64) -> RevisionEvents {
        RevisionEvents::new(SmallVec::from_buf([Event { version: version(revision), previous: None }]))
    }

    fn revisions(log: &EventLog, from: i64) -> Vec<i64> {
        log.since(Revision(from)).map(|entry| entry.revision().0).collect()
    }

    #[test]
    fn a_copy_ends_where_it_was_taken() {
        let mut log = EventLog::default();
        (2..8).for_each(|n| log.push(entry(n)));
        let copy = log.clone();
        (8..20).for_each(|n| log.push(entry(n)));
        assert_eq!(revisions(&copy, 5), [5, 6, 7]);
        assert_eq!(revisions(&log, 18), [18, 19]);
    }

    #[test]
    fn gaps_in_revisions_are_stepped_over() {
        let mut log = EventLog::default();
        for revision in [2, 5, 6, 11, 12, 13] {
            log.push(entry(revision));
        }
        assert_eq!(revisions(&log, 3), [5, 6, 11, 12, 13]);
        assert_eq!(revisions(&log, 7), [11, 12, 13]);
        assert!(log.get(Revision(7)).is_none() && log.get(Revision(11)).is_some());
    }

    #[test]
    fn forgetting_keeps_the_rest_and_older_copies() {
        let mut log = EventLog::default();
        (2..30).for_each(|n| log.push(entry(n)));
        let copy = log.clone();
        for cut in [3, 4, 9, 9, 17, 29] {
            log.forget_before(Revision(cut), &mut Forgotten::default());
            assert_eq!(revisions(&log, 0), (cut..30).collect::<Vec<_>>());
        }
        log.forget_before(Revision(99), &mut Forgotten::default());
        assert!(log.is_empty());
        log.push(entry(30));
        assert_eq!(revisions(&log, 0), [30]);
        assert_eq!(revisions(&copy, 0), (2..30).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_forgotten_is_freed_though_its_chunk_is_not() {
        let mut log = EventLog::default();
        (2..12).for_each(|n| log.push(entry(n)));
        for (cut, pushed) in [(3, 12), (5, 13), (8, 14), (11, 15), (15, 16)] {
            let before: Vec<_> =
                log.since(Revision(0)).map(|entry| entry.events()[0].version.clone()).collect();
            let mut forgotten = Forgotten::default();
            log.forget_before(Revision(cut), &mut forgotten);
            assert!(before.iter().all(|version| version.owners() > 1), "freed before its time");
            while !forgotten.is_empty() {
                forgotten.free(1);
            }
            let freed = before.iter().filter(|version| version.owners() == 1).count();
            assert!(freed > 0 && freed == before.len() - log.len(), "{freed} before {cut}");
            log.push(entry(pushed));
            assert_eq!(revisions(&log, 0), (cut..=pushed).collect::<Vec<_>>());
        }
    }
}
