//! etcd's hash of a store (`HashKV`) while the store goes on to change: CRC-32C over all versions that a
//! compaction has left, in the order of their revisions.
//!
//! A later change takes an older version out of the middle. So each version has a checksum of its own, and
//! the hash is made of those that count in the end, without another look at the values: the checksum of one
//! text behind another is that of the first one, shifted by the length of the second one, and the second one.

use super::plan::Revisions;
use crate::proto::mvccpb::KeyValue;
use crate::snapshot::{Change, Saved, SavedError};
use crate::types::Revision;
use prost::Message as _;
use std::collections::{HashMap, HashSet};

/// The name of etcd's table of versions, with which its hash begins.
const TABLE: &[u8] = b"key";
/// Bits of a checksum.
const BITS: usize = 32;

/// The versions of a store.
#[derive(Debug)]
pub(super) struct Hashes {
    /// Those of the snapshot.
    versions: Vec<Hashed>,
    /// The place of the newest mark of a revision that was bumped. It has no key, and etcd keeps it as it
    /// keeps the newest version of a key.
    mark: Option<(Revision, u64)>,
    /// For each length of a version, the images of the single bits of a checksum before it.
    shifts: HashMap<usize, [u32; BITS]>,
    /// The checksum of all changes since, and their length.
    since: (u32, usize),
}

#[derive(Debug)]
struct Hashed {
    at: (Revision, u64),
    checksum: u32,
    bytes: usize,
}

impl Hashes {
    /// Reads the versions of a snapshot.
    ///
    /// # Errors
    /// [`SavedError`].
    pub(super) fn of(saved: &Saved) -> Result<Hashes, SavedError> {
        let mut hashes = Hashes { versions: Vec::new(), mark: None, shifts: HashMap::new(), since: (0, 0) };
        let mut revisions = Revisions::new(saved);
        while let Some(changes) = revisions.next()? {
            for change in &changes {
                let (checksum, bytes) = append((0, 0), change);
                hashes.shifts.entry(bytes).or_insert_with(|| shift_by(bytes));
                let at = (change.revision, change.place);
                hashes.versions.push(Hashed { at, checksum, bytes });
                if change.pair.key.is_empty() {
                    hashes.mark = Some(at);
                }
            }
        }
        Ok(hashes)
    }

    /// Adds a change behind all others.
    pub(super) fn push(&mut self, change: &Change) {
        self.since = append(self.since, change);
    }

    /// The hash under a floor. `newest` are the newest versions of the keys: of those up to the floor no
    /// other ones count, unless there are none at all.
    pub(super) fn hash(&self, floor: Option<Revision>, newest: &HashSet<(Revision, u64)>) -> u32 {
        let is_empty = newest.is_empty() && self.mark.is_none();
        let counts = |at: &(Revision, u64)| {
            let is_newest = newest.contains(at) || self.mark == Some(*at);
            floor.is_none_or(|floor| at.0 > floor) || is_empty || is_newest
        };
        let mut hash = crc32c::crc32c(TABLE);
        for Hashed { at, checksum, bytes } in &self.versions {
            if counts(at) {
                hash = shifted(hash, &self.shifts[bytes]) ^ checksum;
            }
        }
        let (checksum, bytes) = self.since;
        crc32c::crc32c_combine(hash, checksum, bytes)
    }
}

/// A checksum, and the length of its text, with a change behind it.
fn append((checksum, bytes): (u32, usize), change: &Change) -> (u32, usize) {
    let (key, value) = stored(change);
    let checksum = crc32c::crc32c_append(crc32c::crc32c_append(checksum, &key), &value);
    (checksum, bytes + key.len() + value.len())
}

fn shift_by(bytes: usize) -> [u32; BITS] {
    std::array::from_fn(|bit| crc32c::crc32c_combine(1 << bit, 0, bytes))
}

fn shifted(checksum: u32, images: &[u32; BITS]) -> u32 {
    images.iter().enumerate().fold(0, |sum, (bit, image)| sum ^ (image * (checksum >> bit & 1)))
}

/// A change as etcd stores it.
fn stored(change: &Change) -> (Vec<u8>, Vec<u8>) {
    let mut key = Vec::with_capacity(18);
    key.extend_from_slice(&change.revision.0.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&change.place.to_be_bytes());
    let pair = &change.pair;
    if !change.is_delete {
        return (key, pair.encode_to_vec());
    }
    key.push(b't');
    (key, KeyValue { key: pair.key.clone(), ..KeyValue::default() }.encode_to_vec())
}
