//! The content of a node of the index: items in the order of their keys, found with few accesses to the keys.
//!
//! A key is elsewhere in memory, behind two pointers, and most keys of a node have a common prefix. So each
//! item is stored with the head of its key: the first bytes behind the common prefix. Keys are compared only
//! if their heads are equal.

use std::cmp::Ordering;

/// An item that is ordered by its key.
pub(super) trait Keyed {
    /// Whether the first item of a node covers all keys below the second one. Its own key does not count
    /// then: it is open.
    const FIRST_IS_OPEN: bool;

    fn key(&self) -> &[u8];
}

/// Items in ascending order of their keys.
#[derive(Debug)]
pub(super) struct Sorted<T> {
    /// Length of the prefix that all keys share, an open one excepted.
    shared: usize,
    items: Vec<(u64, T)>,
}

impl<T> Default for Sorted<T> {
    fn default() -> Sorted<T> {
        Sorted { shared: 0, items: Vec::new() }
    }
}

impl<T: Clone> Clone for Sorted<T> {
    /// A copy has room for one more item, since it is made to be changed.
    fn clone(&self) -> Sorted<T> {
        let mut items = Vec::with_capacity(self.items.len() + 1);
        items.extend_from_slice(&self.items);
        Sorted { shared: self.shared, items }
    }
}

/// The bytes behind the `shared` ones as a number: of two keys with the same prefix, the one with the lower
/// head is lower. Missing bytes count as zero, so equal heads decide nothing.
fn head(key: &[u8], shared: usize) -> u64 {
    let rest = &key[shared..];
    if let Some(bytes) = rest.first_chunk() {
        return u64::from_be_bytes(*bytes);
    }
    let mut bytes = [0; 8];
    bytes[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(bytes)
}

impl<T: Keyed> Sorted<T> {
    /// Takes items that ascend by key.
    pub(super) fn new(items: impl IntoIterator<Item = T>) -> Sorted<T> {
        let mut sorted = Sorted { shared: 0, items: items.into_iter().map(|item| (0, item)).collect() };
        sorted.measure();
        sorted
    }

    /// The first item whose key counts.
    const FIRST: usize = if T::FIRST_IS_OPEN { 1 } else { 0 };

    /// Computes the common prefix and the heads again.
    fn measure(&mut self) {
        let Some(keyed) = self.items.get_mut(Self::FIRST..) else { return };
        let (Some((_, first)), Some((_, last))) = (keyed.first(), keyed.last()) else { return };
        // The keys are in order, so all share the common prefix of the first and the last.
        let pairs = first.key().iter().zip(last.key());
        let shared = pairs.take_while(|(first, last)| first == last).count();
        for (head_of, item) in keyed {
            *head_of = head(item.key(), shared);
        }
        self.shared = shared;
    }

    /// The position of the item with this key, or the position for inserting it. Never finds an open item.
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let Some((_, sample)) = self.items.get(Self::FIRST) else { return Err(self.items.len()) };
        let shared = &sample.key()[..self.shared];
        match key.get(..self.shared).unwrap_or(key).cmp(shared) {
            Ordering::Less => return Err(Self::FIRST),
            Ordering::Greater => return Err(self.items.len()),
            Ordering::Equal => {}
        }
        let wanted = head(key, self.shared);
        let keyed = &self.items[Self::FIRST..];
        let from = Self::FIRST + keyed.partition_point(|(head, _)| *head < wanted);
        let alike = self.items[from..].iter().take_while(|(head, _)| *head == wanted).count();
        self.items[from..from + alike]
            .binary_search_by(|(_, item)| item.key().cmp(key))
            .map(|at| from + at)
            .map_err(|at| from + at)
    }

    /// Inserts an item at the position that [`Sorted::find`] returned.
    pub(super) fn insert(&mut self, at: usize, item: T) {
        // A vector would double its capacity by default: most of the memory of an index is in nodes that are
        // not full.
        if self.items.len() == self.items.capacity() {
            self.items.reserve_exact(1 + self.items.len() / 8);
        }
        let shared = self.items.get(Self::FIRST).map(|(_, sample)| &sample.key()[..self.shared]);
        match shared {
            Some(shared) if item.key().starts_with(shared) => {
                let head = head(item.key(), self.shared);
                self.items.insert(at, (head, item));
            }
            _ => {
                self.items.insert(at, (0, item));
                self.measure();
            }
        }
    }

    /// Takes an item out.
    pub(super) fn remove(&mut self, at: usize) -> T {
        self.items.remove(at).1
    }

    /// Cuts off the items from `at` on.
    pub(super) fn split_off(&mut self, at: usize) -> Sorted<T> {
        let upper = Sorted::new(self.items.split_off(at).into_iter().map(|(_, item)| item));
        self.items.shrink_to_fit();
        self.measure();
        upper
    }

    /// Appends items that all come behind these.
    pub(super) fn append(&mut self, items: &Sorted<T>)
    where
        T: Clone,
    {
        self.items.extend_from_slice(&items.items);
        self.measure();
    }
}

impl<T> Sorted<T> {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn get(&self, at: usize) -> Option<&T> {
        self.items.get(at).map(|(_, item)| item)
    }

    /// Takes the last item.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.items.pop().map(|(_, item)| item)
    }

    pub(super) fn iter(&self) -> Iter<'_, T> {
        Iter(self.items.iter())
    }

    /// The items from `at` on.
    pub(super) fn iter_from(&self, at: usize) -> Iter<'_, T> {
        Iter(self.items[at..].iter())
    }
}

impl<T> std::ops::Index<usize> for Sorted<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        &self.items[at].1
    }
}

/// An item may be replaced by another one of the same key.
impl<T> std::ops::IndexMut<usize> for Sorted<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        &mut self.items[at].1
    }
}

/// Items in order.
#[derive(Debug)]
pub(super) struct Iter<'a, T>(std::slice::Iter<'a, (u64, T)>);

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        self.0.next().map(|(_, item)| item)
    }
}

impl<T> Default for Iter<'_, T> {
    fn default() -> Self {
        Iter([].iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Clone, Debug, PartialEq)]
    struct Closed(Vec<u8>);

    impl Keyed for Closed {
        const FIRST_IS_OPEN: bool = false;

        fn key(&self) -> &[u8] {
            &self.0
        }
    }

    #[derive(Clone, Debug, PartialEq)]
    struct Open(Vec<u8>);

    impl Keyed for Open {
        const FIRST_IS_OPEN: bool = true;

        fn key(&self) -> &[u8] {
            &self.0
        }
    }

    /// Keys with common prefixes of various lengths, and with zeros, at which heads end.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let tail = prop::collection::vec(0_u8..2, 0..12);
        let prefix = prop::sample::select(vec![&b""[..], b"/registry/pods/", b"/registry/p", b"\0"]);
        (prefix, tail).prop_map(|(prefix, tail)| [prefix, &tail].concat())
    }

    proptest! {
        #![proptest_config(super::super::tests::config(256))]

        #[test]
        fn whatever_the_keys_share_each_is_found_where_it_is(
            keys in prop::collection::btree_set(key(), 0..20),
            inserted in prop::collection::vec(key(), 0..20),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
            looked_for in prop::collection::vec(key(), 1..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut sorted = Sorted::new(keys.iter().cloned().map(Closed));
            let mut model: BTreeSet<Vec<u8>> = keys;
            for key in inserted {
                if let Err(at) = sorted.find(&key) {
                    sorted.insert(at, Closed(key.clone()));
                }
                model.insert(key);
            }
            for index in removed {
                if !model.is_empty() {
                    let at = index.index(model.len());
                    model.remove(&sorted.remove(at).0);
                }
            }
            let place = |of: &BTreeSet<Vec<u8>>, key: &Vec<u8>| {
                let at = of.range(..key.clone()).count();
                if of.contains(key) { Ok(at) } else { Err(at) }
            };
            for key in looked_for.iter().chain(&model) {
                prop_assert_eq!(sorted.find(key), place(&model, key));
            }
            let at = cut.index(model.len() + 1);
            let upper = sorted.split_off(at);
            let lower: BTreeSet<_> = model.iter().take(at).cloned().collect();
            for key in looked_for.iter().chain(&model) {
                prop_assert_eq!(sorted.find(key), place(&lower, key));
            }
            sorted.append(&upper);
            for key in looked_for.iter().chain(&model) {
                prop_assert_eq!(sorted.find(key), place(&model, key));
            }
        }

        #[test]
        fn the_key_of_an_open_item_counts_for_nothing(
            keys in prop::collection::btree_set(key(), 1..20),
            first in key(),
            looked_for in prop::collection::vec(key(), 1..20),
        ) {
            let mut sorted = Sorted::new([Open(first)]);
            for key in &keys {
                let at = sorted.find(key).expect_err("it is not there");
                sorted.insert(at, Open(key.clone()));
            }
            for key in looked_for.iter().chain(&keys) {
                let at = 1 + keys.range(..key.clone()).count();
                prop_assert_eq!(sorted.find(key), if keys.contains(key) { Ok(at) } else { Err(at) });
            }
        }
    }
}
