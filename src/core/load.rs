//! The keys of a store during a load. Nothing reads them in order before the load is complete.
//!
//! Finding a key costs one or two cache misses in a hash table, and one for each comparison in a tree. A load
//! waits for little else. In the end the keys are sorted, and the tree is built at once, with evenly filled
//! nodes.

use super::history::History;
use super::index::Index;
use super::version::KeyVersion;
use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

/// Histories by key, in no order.
#[derive(Debug, Default)]
pub(super) struct LoadingKeys {
    hashes: RandomState,
    /// Histories by the hash of the key, so that no key is hashed again when the table grows.
    by_hash: HashMap<u64, History, BuildHasherDefault<IdentityHasher>>,
    /// Histories of keys whose hash another key had before. There are hardly ever any.
    others: BTreeMap<Box<[u8]>, History>,
}

/// Tests use a short hash, so that keys share it.
const HASH_MASK: u64 = if cfg!(test) { 0xff } else { u64::MAX };

/// A hasher for keys that are hashes.
#[derive(Debug, Default)]
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed with it");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl LoadingKeys {
    fn hash(&self, key: &[u8]) -> u64 {
        self.hashes.hash_one(key) & HASH_MASK
    }

    /// The versions of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<&History> {
        let history = self.by_hash.get(&self.hash(key)).filter(|history| history.key() == key);
        history.or_else(|| self.others.get(key))
    }

    /// Adds a version to its key, and returns the one that was newest before.
    pub(super) fn insert(&mut self, version: KeyVersion) -> Option<KeyVersion> {
        let hash = self.hash(version.key());
        let history = match self.by_hash.entry(hash) {
            Entry::Occupied(entry) if version.key() == entry.get().key() => entry.into_mut(),
            Entry::Vacant(entry) if !self.others.contains_key(version.key()) => {
                entry.insert(History::new(version));
                return None;
            }
            _ => {
                let Some(history) = self.others.get_mut(version.key()) else {
                    self.others.insert(version.key().into(), History::new(version));
                    return None;
                };
                history
            }
        };
        let previous = history.newest().clone();
        *history = history.with(version);
        Some(previous)
    }

    /// Replaces the history of a key, which has one, or takes the key out where `history` is `None`.
    pub(super) fn replace(&mut self, key: &[u8], history: Option<History>) {
        let hash = self.hash(key);
        match self.by_hash.entry(hash) {
            Entry::Occupied(mut entry) if entry.get().key() == key => match history {
                Some(history) => drop(entry.insert(history)),
                None => drop(entry.remove()),
            },
            _ => match history {
                Some(history) => drop(self.others.insert(history.key().into(), history)),
                None => drop(self.others.remove(key)),
            },
        }
    }

    /// The same histories in order.
    pub(super) fn into_index(self) -> Index {
        let histories = self.by_hash.into_values().chain(self.others.into_values());
        let mut places: Vec<Place> =
            histories.map(|history| Place { window: 0, length: 0, history }).collect();
        sort(&mut places, 0);
        Index::from_sorted(places.into_iter().map(|place| place.history))
    }
}

/// A history that is being sorted.
struct Place {
    /// The bytes of its key that are compared now, the first the most significant, zeros after the last.
    window: u64,
    /// The number of these bytes. It is less than a full window only at the end of a key.
    length: usize,
    history: History,
}

const WINDOW: usize = size_of::<u64>();

/// Sorts keys that are equal up to `depth`. The compared bytes are next to each other in memory, and not
/// behind three pointers. Each byte of a key is fetched once, although many keys have the same prefix.
fn sort(places: &mut [Place], depth: usize) {
    for place in &mut *places {
        let rest = &place.history.key()[depth..];
        place.length = rest.len().min(WINDOW);
        let mut window = [0; WINDOW];
        window[..place.length].copy_from_slice(&rest[..place.length]);
        place.window = u64::from_be_bytes(window);
    }
    // Of two keys that differ only by zeros at the end, the shorter one is lower.
    places.sort_unstable_by_key(|place| (place.window, place.length));
    for alike in places.chunk_by_mut(|a, b| a.window == b.window && a.length == b.length) {
        // Keys that have ended are unique.
        if alike.len() > 1 {
            sort(alike, depth + WINDOW);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::VersionParts;
    use crate::types::{KeyRange, LeaseId, Revision, Sequence};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn version(key: &[u8], revision: i64) -> KeyVersion {
        KeyVersion::new(&VersionParts {
            key,
            value: b"",
            create_revision: Revision(revision),
            mod_revision: Revision(revision),
            version: 1,
            lease: LeaseId::NONE,
            sequence: Sequence(revision as u64),
            place: 1,
        })
    }

    /// Keys of any bytes, keys with a common prefix longer than a window, and keys that differ by zeros at
    /// the end.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..20),
            prop::collection::vec(b'a'..b'c', 0..4).prop_map(|end| [&b"/registry/pods/"[..], &end].concat()),
            (0usize..20).prop_map(|zeros| [&b"zeros"[..], &vec![0; zeros]].concat()),
        ]
    }

    proptest! {
        #![proptest_config(super::super::tests::config(256))]

        #[test]
        fn an_index_that_is_built_at_once_holds_the_same_in_order(
            steps in prop::collection::vec((key(), prop::bool::weighted(0.8)), 0..if cfg!(miri) { 40 } else { 300 }),
        ) {
            let mut keys = LoadingKeys::default();
            let mut model: BTreeMap<Vec<u8>, Vec<i64>> = BTreeMap::new();
            for (revision, (key, is_put)) in (2..).zip(steps) {
                if is_put {
                    let versions = model.entry(key.clone()).or_default();
                    let previous = keys.insert(version(&key, revision));
                    prop_assert_eq!(previous.map(|previous| previous.mod_revision().0), versions.first().copied());
                    versions.insert(0, revision);
                } else if model.remove(&key).is_some() {
                    keys.replace(&key, None);
                }
                prop_assert_eq!(keys.get(&key).is_some(), is_put);
            }
            let index = keys.into_index();
            index.check();
            let versions = |history: &History| history.versions().map(|v| v.mod_revision().0).collect::<Vec<_>>();
            let found: Vec<_> =
                index.range(&KeyRange::all()).map(|history| (history.key().to_vec(), versions(history))).collect();
            prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
        }
    }
}
