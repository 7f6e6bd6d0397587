//! The published state of the store, and its one writer.

use super::history::History;
use super::index::Index;
use super::load::LoadingKeys;
use super::log::{Event, EventLog, Forgotten, RevisionEvents};
use super::version::{KeyVersion, VersionParts};
use crate::primitive::Published;
use crate::types::{KeyRange, LeaseId, LogIndex, Revision, Sequence};
use bytes::Bytes;
use smallvec::SmallVec;
use std::sync::Arc;

/// The whole store at one revision, immutable.
#[derive(Clone, Debug)]
pub struct State {
    /// Grows when everything was loaded again, because the log was not the one applied so far. A watch that
    /// began under another incarnation must end.
    pub incarnation: u64,
    /// The newest revision, at which a read without a revision reads.
    pub revision: Revision,
    /// The newest revision that a compaction has named; `None` before the first compaction.
    pub compacted: Option<Revision>,
    /// Every record up to this one is part of the state.
    pub log_index: LogIndex,
    /// Keys and their versions.
    pub index: Index,
    /// Events since the compaction.
    pub log: EventLog,
}

impl State {
    fn empty() -> State {
        State {
            incarnation: 0,
            revision: Revision::EMPTY_STORE,
            compacted: None,
            log_index: LogIndex::NONE,
            index: Index::default(),
            log: EventLog::default(),
        }
    }

    /// Whether `revision` lies below the compaction floor, so that it can no longer be read.
    pub fn is_compacted(&self, revision: Revision) -> bool {
        self.compacted.is_some_and(|floor| revision < floor)
    }

    /// The version of a key that a client reads now.
    pub fn get(&self, key: &[u8]) -> Option<&KeyVersion> {
        self.index.get(key).map(History::newest).filter(|version| !version.is_tombstone())
    }

    /// The number of keys in a range at a revision that is neither compacted nor in the future.
    ///
    /// For the newest revision this costs two descents of the index. For an older one it subtracts the later
    /// events of the log, unless reading the range itself is faster.
    pub fn count(&self, range: &KeyRange, revision: Revision) -> usize {
        let now = self.index.count(range);
        if revision >= self.revision {
            return now;
        }
        if self.log.len_since(revision.next()) > now {
            return self.index.live_range(range, revision).count();
        }
        let mut count = now as i64;
        for entry in self.log.since(revision.next()) {
            for event in entry.events() {
                let change = i64::from(event.previous.is_some()) - i64::from(!event.version.is_tombstone());
                // Most events do not change the number of keys, and most revisions have one event.
                if change != 0
                    && range.contains(event.version.key())
                    && (entry.events().len() == 1 || self.is_last_of_its_revision(&event.version))
                {
                    count += change;
                }
            }
        }
        usize::try_from(count).expect("a range cannot lose more keys than it had")
    }

    /// Both events of a key that changed twice in one revision have the version before that revision as
    /// `previous`. Only the last one has the version after it.
    fn is_last_of_its_revision(&self, version: &KeyVersion) -> bool {
        let last = self.index.get(version.key()).and_then(|history| history.at(version.mod_revision()));
        last.is_none_or(|last| last.is_same(version))
    }

    /// The value that `prev_kv` of an event shows: nothing once the revision before the event is compacted.
    pub fn previous_of<'a>(&self, event: &'a Event) -> Option<&'a KeyVersion> {
        if self.is_compacted(event.version.mod_revision().prev()) {
            return None;
        }
        event.visible_previous()
    }
}

/// A handle that loads the published state. Cheap to clone, never blocks, never blocked.
#[derive(Clone, Debug)]
pub struct Reader {
    published: Arc<Published<State>>,
}

impl Reader {
    /// The newest published state.
    pub fn snapshot(&self) -> Arc<State> {
        self.published.load_full()
    }

    /// The newest published revision.
    pub fn revision(&self) -> Revision {
        self.published.load().revision
    }
}

/// One change of one key, as a message holds it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The message.
    pub sequence: Sequence,
    /// Place among the changes of its revision, counted from 1. Changes that compaction has removed count
    /// too.
    pub place: u32,
    /// The kind of the change.
    pub kind: ChangeKind,
}

impl Change {
    /// The version that the change makes at a revision.
    pub fn version(&self, mod_revision: Revision) -> KeyVersion {
        let Change { key, sequence, place, kind } = self;
        let (value, create_revision, version, lease) = match kind {
            ChangeKind::Put { value, create_revision, version, lease } => {
                (value.as_ref(), create_revision.unwrap_or(mod_revision), *version, *lease)
            }
            ChangeKind::Delete => (&[][..], Revision(0), 0, LeaseId::NONE),
        };
        let (sequence, place) = (*sequence, *place);
        KeyVersion::new(&VersionParts {
            key,
            value,
            create_revision,
            mod_revision,
            version,
            lease,
            sequence,
            place,
        })
    }
}

/// The kind of a change.
#[derive(Clone, Debug)]
pub enum ChangeKind {
    /// The key gets a value.
    Put {
        /// The value.
        value: Bytes,
        /// Revision of the creating put; `None` if this is it.
        create_revision: Option<Revision>,
        /// Number of puts since creation, this one included.
        version: i64,
        /// The lease that the key is attached to from now on.
        lease: LeaseId,
    },
    /// The key is deleted.
    Delete,
}

/// A message that no read and no watch needs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Garbage {
    /// Tombstones go last: one must not vanish while an older value of its key could come back.
    pub is_tombstone: bool,
    /// The message.
    pub sequence: Sequence,
}

impl Garbage {
    fn of(version: &KeyVersion) -> Garbage {
        Garbage { is_tombstone: version.is_tombstone(), sequence: version.sequence() }
    }
}

/// The one writer of the store. Changes gather in its own copy of the state until [`Writer::publish`].
#[derive(Debug)]
pub struct Writer {
    next: State,
    /// The keys, instead of the index of `next`, before the first publication of what a stream holds.
    loading: Option<LoadingKeys>,
    published: Arc<Published<State>>,
    sweep: Option<Sweep>,
    forgotten: Forgotten,
}

/// Progress of removing from the index the versions that compactions have superseded.
#[derive(Debug)]
struct Sweep {
    /// The sweep is done with keys below this one, for the floor at the time when it visited them.
    from: Bytes,
    /// Whether the floor has risen during the sweep, so that all keys must be visited once more.
    again: bool,
}

impl Writer {
    /// An empty store and a reader of it.
    pub fn new() -> (Writer, Reader) {
        let published = Arc::new(Published::from_pointee(State::empty()));
        let writer = Writer {
            next: State::empty(),
            loading: Some(LoadingKeys::default()),
            published: Arc::clone(&published),
            sweep: None,
            forgotten: Forgotten::default(),
        };
        (writer, Reader { published })
    }

    /// The state that the next publication will show. Before the first one its index is empty: see
    /// [`Writer::newest`].
    pub fn state(&self) -> &State {
        &self.next
    }

    /// The newest version of a key, tombstone or not.
    pub fn newest(&self, key: &[u8]) -> Option<&KeyVersion> {
        self.history(key).map(History::newest)
    }

    /// Empties the store for a load of the log from its start. The new incarnation ends every watch.
    pub fn reset(&mut self) {
        self.next = State { incarnation: self.next.incarnation + 1, ..State::empty() };
        self.loading = Some(LoadingKeys::default());
        self.sweep = None;
    }

    /// Sets the floor before the messages at or below it are loaded. Revisions up to it have no log.
    pub fn set_floor(&mut self, floor: Revision) {
        self.next.compacted = Some(floor);
    }

    /// Applies all versions that one revision made, in the order of its transaction. `index` is that of its
    /// last record. `each` gets every version, and the one that was the key's newest before.
    ///
    /// At or below the floor this replays the versions that compaction has left: they are applied as they
    /// are, and no event is logged, except at the floor itself. Returns superseded messages as garbage.
    pub fn apply(
        &mut self,
        revision: Revision,
        index: LogIndex,
        versions: impl IntoIterator<Item = KeyVersion>,
        mut each: impl FnMut(&KeyVersion, Option<&KeyVersion>),
    ) -> Vec<Garbage> {
        let below_floor = self.next.compacted.is_some_and(|floor| revision <= floor);
        let is_logged = self.next.compacted.is_none_or(|floor| revision >= floor);
        let mut events: SmallVec<[Event; 1]> = SmallVec::new();
        let mut touched: Vec<KeyVersion> = Vec::new();
        for version in versions {
            let newest = self.insert(version.clone());
            each(&version, newest.as_ref());
            // The first version of a key stays, unless it is a delete.
            if below_floor && (newest.is_some() || version.is_tombstone()) {
                touched.push(version.clone());
            }
            if is_logged {
                let previous = match newest {
                    Some(newest) if newest.mod_revision() == revision => events
                        .iter()
                        .rfind(|event| event.version.key() == version.key())
                        .and_then(|event| event.previous.clone()),
                    other => other.filter(|newest| !newest.is_tombstone()),
                };
                events.push(Event { version, previous });
            }
        }
        if !events.is_empty() {
            self.next.log.push(RevisionEvents::new(events));
        }
        self.advance(revision, index);
        match self.next.compacted {
            Some(floor) if below_floor => self.compact_keys(touched, floor),
            _ => Vec::new(),
        }
    }

    /// Moves to a record that changes no key.
    pub fn advance(&mut self, revision: Revision, index: LogIndex) {
        debug_assert!(index >= self.next.log_index && revision >= self.next.revision);
        self.next.revision = self.next.revision.max(revision);
        self.next.log_index = self.next.log_index.max(index);
    }

    /// Raises the floor; one that does not rise changes nothing. The next publication puts it in force, for
    /// reads and for the log. Versions that no read at or above the floor can see stay in memory until
    /// [`Writer::sweep`] removes them, which changes no response.
    ///
    /// Takes as long as it takes to copy one pointer for each chunk of the log.
    pub fn compact(&mut self, floor: Revision) {
        if self.next.compacted.is_some_and(|compacted| floor <= compacted) {
            return;
        }
        self.next.compacted = Some(floor);
        self.next.log.forget_before(floor, &mut self.forgotten);
        match &mut self.sweep {
            Some(sweep) => sweep.again = true,
            None => self.sweep = Some(Sweep { from: Bytes::new(), again: false }),
        }
    }

    /// Whether there is anything to [`Writer::sweep`] now. The sweep for a compaction before the first
    /// publication waits for that publication.
    pub fn is_sweeping(&self) -> bool {
        self.loading.is_none() && (self.sweep.is_some() || !self.forgotten.is_empty())
    }

    /// Removes some of the versions that compactions have superseded, and visits about `most` versions.
    /// Returns their messages as garbage, all of one key together and each once.
    ///
    /// Writes and publications may come between two calls. A sweep visits the keys in their order. All
    /// versions that a floor supersedes were there when it rose, so the sweep misses none.
    pub fn sweep(&mut self, most: usize) -> Vec<Garbage> {
        if self.loading.is_some() {
            return Vec::new();
        }
        self.forgotten.free(most);
        let (Some(Sweep { from, again }), Some(floor)) = (self.sweep.take(), self.next.compacted) else {
            return Vec::new();
        };
        let (lost, next) = self.next.index.compact(floor, from, most);
        self.sweep = match next {
            Some(from) => Some(Sweep { from, again }),
            None => again.then_some(Sweep { from: Bytes::new(), again: false }),
        };
        lost.iter().map(Garbage::of).collect()
    }

    fn compact_keys(&mut self, of: impl IntoIterator<Item = KeyVersion>, floor: Revision) -> Vec<Garbage> {
        let mut garbage = Vec::new();
        for version in of {
            let key = version.key();
            let Some(history) = self.history(key) else { continue };
            let (left, lost) = history.compact(floor);
            if lost.is_empty() {
                continue;
            }
            garbage.extend(lost.iter().map(Garbage::of));
            match &mut self.loading {
                Some(keys) => keys.replace(key, left),
                None => self.next.index.replace(key, left),
            }
        }
        garbage
    }

    fn history(&self, key: &[u8]) -> Option<&History> {
        match &self.loading {
            Some(keys) => keys.get(key),
            None => self.next.index.get(key),
        }
    }

    /// Adds a version to its key, and returns the one that was newest before.
    fn insert(&mut self, version: KeyVersion) -> Option<KeyVersion> {
        match &mut self.loading {
            Some(keys) => keys.insert(version),
            None => self.next.index.insert(version),
        }
    }

    /// Makes everything applied so far visible, with one pointer swap.
    pub fn publish(&mut self) {
        if let Some(keys) = self.loading.take() {
            self.next.index = keys.into_index();
        }
        // Readers' loads acquire this swap, a release. Everything that the state refers to is built before
        // it.
        self.published.store(Arc::new(self.next.clone()));
    }
}
