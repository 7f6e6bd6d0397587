//! Files that are whole, and files that are damaged.

use super::*;
use crate::snapshot::bbolt::{META_PAGES, PAGE, Place, Tree, meta_pages};
use proptest::prelude::*;
use std::io::Write as _;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A file with one bucket.
fn file(pairs: &Pairs) -> Vec<u8> {
    let (mut next, mut content) = (META_PAGES, Vec::new());
    let (mut tree, mut root) = (Tree::new(false), Tree::new(true));
    for (key, value) in pairs {
        tree.push(key[..].into(), value.clone(), &mut next, &mut content);
    }
    let place = Place(tree.finish(&mut next, &mut content));
    root.push(b"bucket"[..].into(), place, &mut next, &mut content);
    let root = root.finish(&mut next, &mut content);
    [meta_pages(root, next), content].concat()
}

fn read(bytes: &[u8]) -> Result<Pairs, ReadError> {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("written");
    let database = Database::open(file, bytes.len() as u64)?;
    let mut pairs = Vec::new();
    for bucket in database.buckets()? {
        let mut cursor = database.pairs(&bucket);
        while let Some((key, value)) = cursor.next()? {
            pairs.push((key.to_vec(), value.to_vec()));
        }
    }
    Ok(pairs)
}

fn numbered(count: u32) -> Pairs {
    (0..count).map(|n| ([&n.to_be_bytes()[..], &[0; 700]].concat(), vec![1; 600])).collect()
}

#[test]
fn the_second_description_is_read_if_the_first_one_is_damaged() {
    let pairs = numbered(30);
    for damaged in [0, PAGE] {
        let mut bytes = file(&pairs);
        bytes[damaged + HEADER + 16] ^= 1;
        assert_eq!(read(&bytes).expect("one is left"), pairs);
    }
    let mut bytes = file(&pairs);
    (bytes[HEADER], bytes[PAGE + HEADER]) = (0, 0);
    assert!(matches!(read(&bytes), Err(ReadError::Foreign)));
    assert!(matches!(read(b""), Err(ReadError::Foreign)));
}

#[test]
fn a_page_that_leads_back_ends_the_reading() {
    let bytes = file(&numbered(300));
    let branches = (2..bytes.len() / PAGE).filter(|page| u16_at(&bytes, page * PAGE + 8) == BRANCH);
    let pages: Vec<_> = branches.collect();
    assert!(pages.len() > 3, "a tree of several levels");
    for page in &pages {
        for to in &pages {
            let mut bytes = bytes.clone();
            let child = page * PAGE + HEADER + 8;
            bytes[child..child + 8].copy_from_slice(&(*to as u64).to_le_bytes());
            // The lowest key of another page may be the right one by chance.
            if let Ok(pairs) = read(&bytes) {
                assert!(pairs.is_sorted());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_of_any_pairs_is_read_as_it_was_written(
        pairs in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 1..1500),
            prop_oneof![9 => 0..200_usize, 1 => 0..20_000_usize],
            0..200,
        ),
    ) {
        let pairs: Pairs = pairs.into_iter().map(|(key, size)| (key, vec![7; size])).collect();
        prop_assert_eq!(read(&file(&pairs)).expect("it is whole"), pairs);
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(
        count in 0..60_u32,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..6),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = file(&numbered(count));
        let length = bytes.len();
        for (at, with) in flips {
            // Half of them hit the numbers of a page.
            let at = at.index(length * 2);
            let at = if at < length { at } else { (at - length) / PAGE * PAGE + at % 64 };
            bytes[at] ^= with;
        }
        if is_cut {
            bytes.truncate(cut.index(length));
        }
        if let Ok(pairs) = read(&bytes) {
            prop_assert!(pairs.is_sorted());
        }
    }
}
