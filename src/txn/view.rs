//! The store as the operations of one transaction see it.

use crate::core::{KeyVersion, State};
use crate::types::{KeyRange, Revision, Sequence};
use bytes::Bytes;
use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The newest message that a state knows of a key, a delete included.
pub(super) fn newest_sequence(state: &State, key: &[u8]) -> Sequence {
    state.index.get(key).map_or(Sequence::NONE, |history| history.newest().sequence())
}

/// A state at a revision, and on top of it what the transaction itself has written so far.
#[derive(Debug)]
pub(super) struct View<'a> {
    state: &'a State,
    at: Revision,
    /// `None` where the transaction has deleted the key.
    written: BTreeMap<Bytes, Option<Written>>,
}

/// What a transaction has put. Most of it is never looked at by another of its operations.
type Written = LazyCell<KeyVersion, Box<dyn FnOnce() -> KeyVersion>>;

impl<'a> View<'a> {
    /// `at` is neither compacted nor later than the state.
    pub(super) fn new(state: &'a State, at: Revision) -> View<'a> {
        View { state, at, written: BTreeMap::new() }
    }

    /// Lays a put on top, whose version is made when it is first read.
    pub(super) fn put(&mut self, key: Bytes, version: impl FnOnce() -> KeyVersion + 'static) {
        self.written.insert(key, Some(LazyCell::new(Box::new(version))));
    }

    /// Lays a delete on top.
    pub(super) fn delete(&mut self, key: Bytes) {
        self.written.insert(key, None);
    }

    /// Whether the transaction has put or deleted this key.
    pub(super) fn is_written(&self, key: &[u8]) -> bool {
        self.written.contains_key(key)
    }

    /// The newest message that the state knows of a key, a delete included.
    pub(super) fn newest_sequence(&self, key: &[u8]) -> Sequence {
        newest_sequence(self.state, key)
    }

    fn stored(&self, key: &[u8]) -> Option<&KeyVersion> {
        self.state.index.get(key).and_then(|history| history.live_at(self.at))
    }

    /// The version of a key that can be read now.
    pub(super) fn get(&self, key: &[u8]) -> Option<&KeyVersion> {
        match self.written.get(key) {
            Some(written) => written.as_deref(),
            None => self.stored(key),
        }
    }

    fn written_in(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, &Option<Written>)> {
        let from = (Bound::Included(range.start().as_ref()), Bound::Unbounded);
        self.written.range::<[u8], _>(from).take_while(|(key, _)| !range.ends_before(key))
    }

    /// Shows the readable versions of a range in key order until `visitor` answers `false`.
    pub(super) fn visit<'s>(&'s self, range: &'s KeyRange, mut visitor: impl FnMut(&'s KeyVersion) -> bool) {
        if let KeyRange::Single(key) = range {
            if let Some(version) = self.get(key) {
                visitor(version);
            }
            return;
        }
        let mut written = self.written_in(range).peekable();
        for stored in self.state.index.live_range(range, self.at) {
            while let Some((_, version)) = written.next_if(|(key, _)| key.as_ref() < stored.key()) {
                if version.as_ref().is_some_and(|version| !visitor(version)) {
                    return;
                }
            }
            let version = match written.next_if(|(key, _)| key.as_ref() == stored.key()) {
                Some((_, None)) => continue,
                Some((_, Some(version))) => version,
                None => stored,
            };
            if !visitor(version) {
                return;
            }
        }
        for (_, version) in written {
            if version.as_ref().is_some_and(|version| !visitor(version)) {
                return;
            }
        }
    }

    /// The number of readable keys in a range.
    pub(super) fn count(&self, range: &KeyRange) -> usize {
        let mut count = self.state.count(range, self.at) as i64;
        for (key, version) in self.written_in(range) {
            count += i64::from(version.is_some()) - i64::from(self.stored(key).is_some());
        }
        usize::try_from(count).expect("no more keys are deleted than were counted")
    }
}
