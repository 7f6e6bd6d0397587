//! The store for the operations of one transaction.

use crate::core::{KeyVersion, State};
use crate::types::{KeyRange, LogIndex, Revision};
use bytes::Bytes;
use std::cell::LazyCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// The newest versions of those keys that planned records write, for as long as no state shows the records.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    versions: BTreeMap<Bytes, (LogIndex, KeyVersion)>,
    /// Every entry with the index of its record, ascending.
    order: VecDeque<(LogIndex, Bytes)>,
}

impl Overlay {
    /// Adds the version that the record at `index` makes; indexes ascend.
    pub(crate) fn insert(&mut self, key: Bytes, index: LogIndex, version: KeyVersion) {
        self.order.push_back((index, key.clone()));
        self.versions.insert(key, (index, version));
    }

    /// Removes the versions of records up to `index`, which a state shows now.
    pub(crate) fn forget_to(&mut self, index: LogIndex) {
        while let Some((at, key)) = self.order.pop_front_if(|(at, _)| *at <= index) {
            if self.versions.get(&key).is_some_and(|(newest, _)| *newest == at) {
                self.versions.remove(&key);
            }
        }
    }

    /// The newest planned version of a key, tombstone or not.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&KeyVersion> {
        if self.versions.is_empty() { None } else { self.versions.get(key).map(|(_, version)| version) }
    }

    /// The newest planned version of every key that has one, in key order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &KeyVersion> {
        self.versions.values().map(|(_, version)| version)
    }

    fn within(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, &KeyVersion)> {
        let from = (Bound::Included(range.start().as_ref()), Bound::Unbounded);
        let entries = self.versions.range::<[u8], _>(from);
        entries.take_while(|(key, _)| !range.ends_before(key)).map(|(key, (_, version))| (key, version))
    }
}

/// The newest planned store: a state, and on top of it the records that it does not show yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base<'a> {
    /// A state.
    pub state: &'a State,
    /// Every planned record that the state lacks.
    pub overlay: &'a Overlay,
    /// The newest planned revision.
    pub revision: Revision,
    /// The newest planned compaction floor.
    pub compacted: Option<Revision>,
}

/// A state at a revision, with the planned versions on top of it, and then the transaction's own writes.
#[derive(Debug)]
pub(super) struct View<'a> {
    state: &'a State,
    overlay: Option<&'a Overlay>,
    at: Revision,
    /// `None` if the transaction has deleted the key.
    written: BTreeMap<Bytes, Option<Written>>,
}

/// A version that a transaction has put. It is made when another operation reads it, which is rare.
type Written = LazyCell<KeyVersion, Box<dyn FnOnce() -> KeyVersion>>;

fn live(version: &KeyVersion) -> Option<&KeyVersion> {
    Some(version).filter(|version| !version.is_tombstone())
}

impl<'a> View<'a> {
    /// The store at a revision that is neither compacted nor later than the state.
    pub(super) fn new(state: &'a State, at: Revision) -> View<'a> {
        View { state, overlay: None, at, written: BTreeMap::new() }
    }

    /// The newest planned store.
    pub(super) fn planned(base: Base<'a>) -> View<'a> {
        let Base { state, overlay, .. } = base;
        View { state, overlay: Some(overlay), at: state.revision, written: BTreeMap::new() }
    }

    /// Adds a put, whose version is made when it is first read.
    pub(super) fn put(&mut self, key: Bytes, version: impl FnOnce() -> KeyVersion + 'static) {
        self.written.insert(key, Some(LazyCell::new(Box::new(version))));
    }

    /// Adds a delete.
    pub(super) fn delete(&mut self, key: Bytes) {
        self.written.insert(key, None);
    }

    /// The version of a key that can be read before the transaction.
    fn stored(&self, key: &[u8]) -> Option<&'a KeyVersion> {
        match self.overlay.and_then(|overlay| overlay.get(key)) {
            Some(planned) => live(planned),
            None => self.state.index.get(key).and_then(|history| history.live_at(self.at)),
        }
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

    /// The planned and written versions in a range, in key order; `None` for a delete.
    fn on_top(&self, range: &KeyRange) -> Vec<(&[u8], Option<&KeyVersion>)> {
        let planned = self.overlay.into_iter().flat_map(|overlay| overlay.within(range));
        let mut planned = planned.map(|(key, version)| (key.as_ref(), live(version))).peekable();
        let mut merged = Vec::new();
        for (key, version) in self.written_in(range) {
            while let Some(before) = planned.next_if(|(planned, _)| *planned <= key.as_ref()) {
                if before.0 != key.as_ref() {
                    merged.push(before);
                }
            }
            merged.push((key.as_ref(), version.as_deref()));
        }
        merged.extend(planned);
        merged
    }

    /// Visits the readable versions of a range in key order until `visitor` returns `false`.
    pub(super) fn visit<'s>(&'s self, range: &'s KeyRange, mut visitor: impl FnMut(&'s KeyVersion) -> bool) {
        if let KeyRange::Single(key) = range {
            if let Some(version) = self.get(key) {
                visitor(version);
            }
            return;
        }
        let mut on_top = self.on_top(range).into_iter().peekable();
        for stored in self.state.index.live_range(range, self.at) {
            while let Some((_, version)) = on_top.next_if(|(key, _)| *key < stored.key()) {
                if version.is_some_and(|version| !visitor(version)) {
                    return;
                }
            }
            let version = match on_top.next_if(|(key, _)| *key == stored.key()) {
                Some((_, None)) => continue,
                Some((_, Some(version))) => version,
                None => stored,
            };
            if !visitor(version) {
                return;
            }
        }
        for (_, version) in on_top {
            if version.is_some_and(|version| !visitor(version)) {
                return;
            }
        }
    }

    /// The number of readable keys in a range.
    pub(super) fn count(&self, range: &KeyRange) -> usize {
        let mut count = self.state.count(range, self.at) as i64;
        for (key, version) in self.on_top(range) {
            let is_stored =
                self.state.index.get(key).is_some_and(|history| history.live_at(self.at).is_some());
            count += i64::from(version.is_some()) - i64::from(is_stored);
        }
        usize::try_from(count).expect("no more keys are deleted than were counted")
    }
}
