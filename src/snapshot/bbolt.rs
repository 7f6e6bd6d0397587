//! Files in bbolt's format, written in one pass from sorted keys.
//!
//! A file is a row of pages of 4 KiB. Pages 0 and 1 describe the file. A bucket is a B+tree, whose leaves
//! hold pairs, or buckets in the case of the root. A page that is too small for its content is continued in
//! the pages behind it. Numbers are little-endian, as bbolt has them on every machine that etcd supports
//! well.
//!
//! A [`Tree`] takes the pairs of one bucket in the order of their keys. It keeps one page of each level in
//! memory, and passes it on when it is full. So the pages of a level lie between those of the level below.
//!
//! An inner page has at least two children. bbolt ends with a failed assertion when it removes from a page
//! that has no sibling.

use smallvec::SmallVec;

/// The size of a page.
pub(super) const PAGE: usize = 4096;
/// Pages that describe the file, before those with content.
pub(super) const META_PAGES: u64 = 2;

pub(super) const HEADER: usize = 16;
pub(super) const ELEMENT: usize = 16;
pub(super) const BRANCH: u16 = 0x01;
pub(super) const LEAF: u16 = 0x02;
pub(super) const META: u16 = 0x04;
/// Marks a pair of a leaf as a bucket.
pub(super) const BUCKET: u32 = 0x01;
pub(super) const MAGIC: u32 = 0xED0C_DAED;
pub(super) const VERSION: u32 = 2;
/// The file has no list of free pages. bbolt finds out by itself that none is free.
const NO_FREELIST: u64 = u64::MAX;
/// An inner page is passed on with at least so many children.
const MIN_CHILDREN: usize = 2;

/// A key. Those of revisions are stored in place.
pub(super) type Key = SmallVec<[u8; 24]>;

/// A value, which is encoded only when its page is written.
pub(super) trait Value {
    /// Its length in bytes.
    fn len(&self) -> usize;
    /// Appends as many bytes.
    fn write(&self, to: &mut Vec<u8>);
}

/// The place of a bucket's tree, as the root's leaves hold it.
pub(super) struct Place(pub(super) u64);

impl Value for Place {
    fn len(&self) -> usize {
        16
    }

    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.0.to_le_bytes());
        // A sequence that etcd does not use.
        to.extend_from_slice(&[0; 8]);
    }
}

/// A destination of pages, which come in the order of their numbers.
pub(super) trait Pages {
    /// A page of pairs, or of buckets.
    fn leaf<V: Value>(&mut self, at: Span, pairs: &[(Key, V)], are_buckets: bool);
    /// A page of children, each with its lowest key and its number.
    fn branch(&mut self, at: Span, children: &[(Key, u64)]);
}

/// The pages of one content.
#[derive(Clone, Copy)]
pub(super) struct Span {
    number: u64,
    count: u64,
}

impl Span {
    /// The span of a content of `size` bytes. It begins at the page `next`, which moves behind it.
    fn take(next: &mut u64, size: usize) -> Span {
        let span = Span { number: *next, count: (size.div_ceil(PAGE)) as u64 };
        *next += span.count;
        span
    }
}

/// One bucket on its way to the file.
pub(super) struct Tree<V> {
    pairs: Vec<(Key, V)>,
    size: usize,
    /// The open inner page of each level, from the lowest one on.
    levels: Vec<Level>,
    are_buckets: bool,
}

struct Level {
    children: Vec<(Key, u64)>,
    size: usize,
}

impl Level {
    fn new() -> Level {
        Level { children: Vec::new(), size: HEADER }
    }

    fn push(&mut self, child: (Key, u64)) {
        self.size += ELEMENT + child.0.len();
        self.children.push(child);
    }
}

impl<V: Value> Tree<V> {
    /// An empty one.
    pub(super) fn new(are_buckets: bool) -> Tree<V> {
        Tree { pairs: Vec::new(), size: HEADER, levels: Vec::new(), are_buckets }
    }

    /// Adds a pair, whose key is higher than all before. `next` is the number of the next page of the file.
    pub(super) fn push(&mut self, key: Key, value: V, next: &mut u64, pages: &mut impl Pages) {
        let size = ELEMENT + key.len() + value.len();
        if !self.pairs.is_empty() && self.size + size > PAGE {
            self.end_leaf(next, pages);
        }
        self.pairs.push((key, value));
        self.size += size;
    }

    fn end_leaf(&mut self, next: &mut u64, pages: &mut impl Pages) {
        let at = Span::take(next, self.size);
        pages.leaf(at, &self.pairs, self.are_buckets);
        let lowest = self.pairs.first().map(|(key, _)| key.clone()).unwrap_or_default();
        self.pairs.clear();
        self.size = HEADER;
        self.add_child(0, (lowest, at.number), next, pages);
    }

    fn add_child(&mut self, level: usize, child: (Key, u64), next: &mut u64, pages: &mut impl Pages) {
        if self.levels.len() == level {
            self.levels.push(Level::new());
        }
        let open = &mut self.levels[level];
        // The last child stays, so that the next page has two when this child comes.
        if open.size + ELEMENT + child.0.len() > PAGE && open.children.len() > MIN_CHILDREN {
            let mut full = std::mem::replace(open, Level::new());
            open.children.reserve(full.children.len());
            if let Some(last) = full.children.pop() {
                full.size -= ELEMENT + last.0.len();
                open.push(last);
            }
            open.push(child);
            let parent = end_branch(&full, next, pages);
            self.add_child(level + 1, parent, next, pages);
        } else {
            open.push(child);
        }
    }

    /// Ends the bucket, and returns the number of its root page.
    pub(super) fn finish(mut self, next: &mut u64, pages: &mut impl Pages) -> u64 {
        if !self.pairs.is_empty() || self.levels.is_empty() {
            self.end_leaf(next, pages);
        }
        let mut level = 0;
        loop {
            let open = std::mem::replace(&mut self.levels[level], Level::new());
            // All levels below have ended, so a single child of the highest level is the root.
            if level + 1 == self.levels.len()
                && let [(_, root)] = open.children[..]
            {
                return root;
            }
            let parent = end_branch(&open, next, pages);
            level += 1;
            self.add_child(level, parent, next, pages);
        }
    }
}

fn end_branch(level: &Level, next: &mut u64, pages: &mut impl Pages) -> (Key, u64) {
    let at = Span::take(next, level.size);
    pages.branch(at, &level.children);
    (level.children[0].0.clone(), at.number)
}

/// Only counts pages, to learn the size of a file before its first byte.
pub(super) struct Count;

impl Pages for Count {
    fn leaf<V: Value>(&mut self, _: Span, _: &[(Key, V)], _: bool) {}
    fn branch(&mut self, _: Span, _: &[(Key, u64)]) {}
}

/// Appends the bytes of pages.
impl Pages for Vec<u8> {
    fn leaf<V: Value>(&mut self, at: Span, pairs: &[(Key, V)], are_buckets: bool) {
        let start = self.len();
        header(self, at, LEAF, pairs.len());
        // An element names its key and value by their distance from itself.
        let mut distance = pairs.len() * ELEMENT;
        for (key, value) in pairs {
            let (key, value) = (key.len(), value.len());
            number(self, if are_buckets { BUCKET } else { 0 });
            number(self, distance as u32);
            number(self, key as u32);
            number(self, value as u32);
            distance = distance + key + value - ELEMENT;
        }
        for (key, value) in pairs {
            self.extend_from_slice(key);
            value.write(self);
        }
        self.resize(start + at.count as usize * PAGE, 0);
    }

    fn branch(&mut self, at: Span, children: &[(Key, u64)]) {
        let start = self.len();
        header(self, at, BRANCH, children.len());
        let mut distance = children.len() * ELEMENT;
        for (key, page) in children {
            number(self, distance as u32);
            number(self, key.len() as u32);
            self.extend_from_slice(&page.to_le_bytes());
            distance = distance + key.len() - ELEMENT;
        }
        for (key, _) in children {
            self.extend_from_slice(key);
        }
        self.resize(start + at.count as usize * PAGE, 0);
    }
}

fn number(to: &mut Vec<u8>, number: u32) {
    to.extend_from_slice(&number.to_le_bytes());
}

fn header(to: &mut Vec<u8>, at: Span, kind: u16, elements: usize) {
    to.extend_from_slice(&at.number.to_le_bytes());
    to.extend_from_slice(&kind.to_le_bytes());
    // A page has room for far fewer elements than the number has.
    to.extend_from_slice(&(elements as u16).to_le_bytes());
    number(to, (at.count - 1) as u32);
}

/// The first two pages of a file of `pages` pages, whose bucket of buckets begins at `root`.
pub(super) fn meta_pages(root: u64, pages: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(META_PAGES as usize * PAGE);
    // bbolt takes the valid one with the higher transaction, and expects that one in the page of its parity.
    for transaction in 0..META_PAGES {
        header(&mut bytes, Span { number: transaction, count: 1 }, META, 0);
        let start = bytes.len();
        for part in [MAGIC, VERSION, PAGE as u32, 0] {
            number(&mut bytes, part);
        }
        for part in [root, 0, NO_FREELIST, pages, transaction] {
            bytes.extend_from_slice(&part.to_le_bytes());
        }
        let checksum = fnv1a(&bytes[start..]);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.resize((transaction as usize + 1) * PAGE, 0);
    }
    bytes
}

/// FNV-1a with 64 bits.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    impl Value for Vec<u8> {
        fn len(&self) -> usize {
            self.len()
        }

        fn write(&self, to: &mut Vec<u8>) {
            to.extend_from_slice(self);
        }
    }

    fn u16_at(bytes: &[u8], at: usize) -> usize {
        u16::from_le_bytes(*bytes[at..].first_chunk().unwrap()).into()
    }

    fn u32_at(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(*bytes[at..].first_chunk().unwrap())
    }

    type Pair = (Vec<u8>, Vec<u8>);

    /// Reads a tree as bbolt does. `pages` gets each page of it; a page must not be met twice.
    fn read(file: &[u8], number: u64, pages: &mut BTreeSet<u64>) -> Vec<Pair> {
        let start = (number - META_PAGES) as usize * PAGE;
        let page = &file[start..];
        assert_eq!(u64_at(page, 0), number);
        let (kind, count) = (u16_at(page, 8), u16_at(page, 10));
        for number in number..=number + u32_at(page, 12) as u64 {
            assert!(pages.insert(number), "page {number} twice");
        }
        let slice = |from: usize, length: usize| page[from..from + length].to_vec();
        let mut pairs = Vec::new();
        for at in (0..count).map(|element| HEADER + element * ELEMENT) {
            if kind == usize::from(BRANCH) {
                assert!(count >= MIN_CHILDREN, "page {number} has {count} children");
                let lowest = slice(at + u32_at(page, at), u32_at(page, at + 4));
                let child = read(file, u64_at(page, at + 8), pages);
                assert_eq!(child[0].0, lowest);
                pairs.extend(child);
            } else {
                let (from, key, value) =
                    (at + u32_at(page, at + 4), u32_at(page, at + 8), u32_at(page, at + 12));
                pairs.push((slice(from, key), slice(from + key, value)));
            }
        }
        pairs
    }

    fn check(pairs: &[Pair]) {
        let mut counted = (META_PAGES, Tree::new(false));
        let mut written = (META_PAGES, Tree::new(false));
        let mut file = Vec::new();
        for (key, value) in pairs {
            counted.1.push(key.as_slice().into(), value.clone(), &mut counted.0, &mut Count);
            written.1.push(key.as_slice().into(), value.clone(), &mut written.0, &mut file);
        }
        let root = counted.1.finish(&mut counted.0, &mut Count);
        assert_eq!(written.1.finish(&mut written.0, &mut file), root);
        assert_eq!(counted.0, written.0);
        assert_eq!(file.len(), (written.0 - META_PAGES) as usize * PAGE);
        let mut pages = BTreeSet::new();
        assert_eq!(read(&file, root, &mut pages), pairs);
        assert_eq!(pages, (META_PAGES..written.0).collect());
    }

    #[test]
    fn a_tree_of_any_size_has_no_inner_page_with_one_child() {
        // Two pairs fill a leaf, and three leaves an inner page, so that all levels end in all ways.
        for count in 0..200_u32 {
            let pairs: Vec<_> =
                (0..count).map(|n| ([&n.to_be_bytes()[..], &[0; 1300]].concat(), vec![1; 500])).collect();
            check(&pairs);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_tree_of_any_pairs_is_read_as_it_was_written(
            sizes in prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 1..1500),
                prop_oneof![9 => 0..200_usize, 1 => 0..20_000_usize],
                0..400,
            ),
        ) {
            let pairs: Vec<Pair> = sizes.into_iter().map(|(key, size)| (key, vec![7; size])).collect();
            check(&pairs);
        }
    }
}
