//! The published picture of the store, and its one writer.

use super::index::Index;
use super::load::LoadingKeys;
use super::log::{Event, EventLog, RevisionEvents};
use super::version::{History, KeyVersion};
use crate::primitive::Published;
use crate::types::{KeyRange, LeaseId, Revision, Sequence};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The whole store at one revision. Immutable for whoever holds it.
#[derive(Clone, Debug)]
pub struct State {
    /// Moves when the stream turned out not to be the one applied so far and everything was loaded afresh. Whoever
    /// has told a client anything under another epoch must not go on.
    pub epoch: u64,
    /// The newest revision; what a read without a revision sees.
    pub revision: Revision,
    /// The newest revision that a compaction has named; `None` before the first compaction.
    pub compacted: Option<Revision>,
    /// Every message up to here is part of this state.
    pub position: Sequence,
    /// Keys and their versions.
    pub index: Index,
    /// Events since the compaction.
    pub log: EventLog,
}

impl State {
    fn empty() -> State {
        State {
            epoch: 0,
            revision: Revision::EMPTY_STORE,
            compacted: None,
            position: Sequence::NONE,
            index: Index::default(),
            log: EventLog::default(),
        }
    }

    /// Whether `revision` lies below the compaction floor, so that it can no longer be read.
    pub fn is_compacted(&self, revision: Revision) -> bool {
        self.compacted.is_some_and(|floor| revision < floor)
    }

    /// The version of a key that a client reads now.
    pub fn get(&self, key: &[u8]) -> Option<&Arc<KeyVersion>> {
        self.index.get(key).map(History::newest).filter(|version| !version.is_tombstone())
    }

    /// The number of keys in a range at a revision that is neither compacted nor in the future.
    ///
    /// For the present this costs two descents of the index. For the past it undoes what the log says has happened
    /// since, unless reading the range itself is the shorter way.
    pub fn count(&self, range: &KeyRange, revision: Revision) -> usize {
        let now = self.index.count(range);
        if revision >= self.revision {
            return now;
        }
        if self.log.len_since(revision.next()) > now {
            return self.index.live_range(range, revision).count();
        }
        let mut count = now as i64;
        for event in self.log.since(revision.next()).flat_map(|entry| entry.events.iter()) {
            if range.contains(&event.version.key) {
                // A key changed twice in one revision has the state before that revision as `previous` both times;
                // only its last event tells the state after.
                let is_last = self.index.get(&event.version.key).is_none_or(|history| {
                    history
                        .at(event.version.mod_revision)
                        .is_none_or(|last| Arc::ptr_eq(last, &event.version))
                });
                if is_last {
                    count += i64::from(event.previous.is_some()) - i64::from(!event.version.is_tombstone());
                }
            }
        }
        usize::try_from(count).expect("a range cannot lose more keys than it had")
    }

    /// The value that `prev_kv` of an event shows: nothing once the revision before the event is compacted.
    pub fn previous_of<'a>(&self, event: &'a Event) -> Option<&'a Arc<KeyVersion>> {
        if self.is_compacted(event.version.mod_revision.prev()) {
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

/// One change of one key, as a message tells it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The message.
    pub sequence: Sequence,
    /// Place among the changes of its revision, counted from 1; those that compaction has removed count too.
    pub place: u32,
    /// What happens to the key.
    pub kind: ChangeKind,
}

/// What a change does.
#[derive(Clone, Debug)]
pub enum ChangeKind {
    /// The key has this value now.
    Put {
        /// The value.
        value: Bytes,
        /// Revision of the creating put; `None` where this is the one.
        create_revision: Option<Revision>,
        /// Number of puts since creation, this one included.
        version: i64,
        /// The lease the key hangs on from now on.
        lease: LeaseId,
    },
    /// The key is gone.
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

/// The one writer of the store. Changes gather in its own copy of the state until [`Writer::publish`].
#[derive(Debug)]
pub struct Writer {
    next: State,
    /// The keys, instead of the index of `next`, before the first publication of what a stream holds.
    loading: Option<LoadingKeys>,
    published: Arc<Published<State>>,
}

impl Writer {
    /// An empty store and a reader of it.
    pub fn new() -> (Writer, Reader) {
        let published = Arc::new(Published::from_pointee(State::empty()));
        let loading = Some(LoadingKeys::default());
        (Writer { next: State::empty(), loading, published: Arc::clone(&published) }, Reader { published })
    }

    /// The state that the next publication will show. Before the first one its index is empty: see [`Writer::newest`].
    pub fn state(&self) -> &State {
        &self.next
    }

    /// The newest version of a key, tombstone or not.
    pub fn newest(&self, key: &[u8]) -> Option<&Arc<KeyVersion>> {
        self.history(key).map(History::newest)
    }

    /// Forgets everything, for a stream that turned out not to be the one applied so far.
    pub fn reset(&mut self) {
        self.next = State { epoch: self.next.epoch + 1, ..State::empty() };
        self.loading = Some(LoadingKeys::default());
    }

    /// Sets the floor before the messages at or below it are loaded. Revisions up to it have no log.
    pub fn set_floor(&mut self, floor: Revision) {
        self.next.compacted = Some(floor);
    }

    /// Applies all changes of one revision, in the order of its transaction. `position` is its last message.
    ///
    /// At or below the floor this is a replay of what compaction left: versions are taken as they stand and no event
    /// is logged, except at the floor itself. What later messages have superseded comes back as garbage.
    pub fn apply(
        &mut self,
        revision: Revision,
        position: Sequence,
        changes: impl IntoIterator<Item = Change, IntoIter: ExactSizeIterator>,
    ) -> Vec<Garbage> {
        let changes = changes.into_iter();
        let below_floor = self.next.compacted.is_some_and(|floor| revision <= floor);
        let is_logged = self.next.compacted.is_none_or(|floor| revision >= floor);
        let mut events: Vec<Event> = Vec::with_capacity(if is_logged { changes.len() } else { 0 });
        let mut touched = Vec::new();
        for change in changes {
            let (version, newest) = self.insert(version_of(change, revision));
            // A first version stays, unless it is a delete.
            if below_floor && (newest.is_some() || version.is_tombstone()) {
                touched.push(version.key.clone());
            }
            if is_logged {
                let previous = match newest {
                    Some(newest) if newest.mod_revision == revision => events
                        .iter()
                        .rfind(|event| event.version.key == version.key)
                        .and_then(|event| event.previous.clone()),
                    other => other.filter(|newest| !newest.is_tombstone()),
                };
                events.push(Event { version, previous });
            }
        }
        if !events.is_empty() {
            let events = events.into_boxed_slice();
            self.next.log.push(RevisionEvents { revision, sequence: position, events });
        }
        self.advance(revision, position);
        match self.next.compacted {
            Some(floor) if below_floor => self.compact_keys(touched, floor),
            _ => Vec::new(),
        }
    }

    /// Moves to a position whose messages change nothing.
    pub fn advance(&mut self, revision: Revision, position: Sequence) {
        debug_assert!(position >= self.next.position && revision >= self.next.revision);
        self.next.revision = self.next.revision.max(revision);
        self.next.position = self.next.position.max(position);
    }

    /// Raises the floor and forgets what no read at or above it can see. The messages of the forgotten versions come
    /// back as garbage. A floor that does not rise changes nothing.
    pub fn compact(&mut self, floor: Revision) -> Vec<Garbage> {
        if self.next.compacted.is_some_and(|compacted| floor <= compacted) {
            return Vec::new();
        }
        self.next.compacted = Some(floor);
        let at_floor = self.next.log.get(floor).cloned();
        let forgotten = self.next.log.forget_before(floor);
        let keys: BTreeSet<Bytes> = forgotten
            .iter()
            .chain(&at_floor)
            .flat_map(|entry| entry.events.iter())
            .map(|event| event.version.key.clone())
            .collect();
        self.compact_keys(keys, floor)
    }

    fn compact_keys(&mut self, keys: impl IntoIterator<Item = Bytes>, floor: Revision) -> Vec<Garbage> {
        let mut garbage = Vec::new();
        for key in keys {
            let Some(history) = self.history(&key) else { continue };
            let (left, lost) = history.compact(floor);
            if lost.is_empty() {
                continue;
            }
            garbage.extend(
                lost.iter().map(|version| Garbage {
                    is_tombstone: version.is_tombstone(),
                    sequence: version.sequence,
                }),
            );
            match &mut self.loading {
                Some(keys) => keys.replace(&key, left),
                None => self.next.index.replace(&key, left),
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

    /// Adds a version to its key; answers it, and the version that was newest before. All versions of a key share one
    /// copy of it.
    fn insert(&mut self, mut version: KeyVersion) -> (Arc<KeyVersion>, Option<Arc<KeyVersion>>) {
        if let Some(keys) = &mut self.loading {
            return keys.insert(version);
        }
        if let Some(history) = self.next.index.get(&version.key) {
            version.key = history.key().clone();
        }
        let version = Arc::new(version);
        let newest = self.next.index.insert(Arc::clone(&version));
        (version, newest)
    }

    /// Makes everything applied so far visible, with one pointer swap.
    pub fn publish(&mut self) {
        if let Some(keys) = self.loading.take() {
            self.next.index = keys.into_index();
        }
        // The swap is the release that readers' loads acquire; all that the state refers to is built before it.
        self.published.store(Arc::new(self.next.clone()));
    }
}

fn version_of(change: Change, revision: Revision) -> KeyVersion {
    let Change { key, sequence, place, kind } = change;
    match kind {
        ChangeKind::Put { value, create_revision, version, lease } => KeyVersion {
            key,
            value,
            create_revision: create_revision.unwrap_or(revision),
            mod_revision: revision,
            version,
            lease,
            sequence,
            place,
        },
        ChangeKind::Delete => KeyVersion {
            key,
            value: Bytes::new(),
            create_revision: Revision(0),
            mod_revision: revision,
            version: 0,
            lease: LeaseId::NONE,
            sequence,
            place,
        },
    }
}
