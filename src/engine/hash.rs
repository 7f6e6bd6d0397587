//! Checksums of the store, equal to etcd's for the same history.
//!
//! etcd runs CRC-32C over its table of versions as it stands on disk: the table's name, then for each version
//! up to the hashed revision its place in the table and the pair stored there. Which versions at or below the
//! compacted revision count is a rule of its own: those that a compaction at the *hashed* revision would
//! keep, so that a compaction that has not come to its end changes nothing; and all that are left where such
//! a compaction would keep none at all.
//!
//! When a compaction ends, etcd remembers the hash of what went into it, from the floor before to the new
//! one, and answers requests for exactly this revision with it, until ten newer ones are known or it starts
//! again. So does jetway: the answers are part of what `etcdctl endpoint hashkv` and corruption checks
//! compare.

use super::Engine;
use crate::core::{KeyVersion, State};
use crate::error::EtcdError;
use crate::proto::mvccpb::KeyValue;
use crate::txn::key_value;
use crate::types::{KeyRange, Revision};
use prost::Message as _;
use std::sync::{Arc, Mutex, PoisonError};

/// Hashes of compactions that are remembered.
const REMEMBERED: usize = 10;
/// The name of etcd's table of versions.
const TABLE: &[u8] = b"key";
/// Mark of a tombstone behind its place in the table.
const TOMBSTONE: u8 = b't';

/// A checksum and what went into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvHash {
    /// CRC-32C.
    pub hash: u32,
    /// The compacted revision it was made under, -1 for a store never compacted.
    pub compacted: Revision,
    /// The newest revision in it.
    pub revision: Revision,
}

/// The part that a compaction at the hashed revision keeps of a key that was deleted exactly there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tombstones {
    /// Nothing, in the answer to a request.
    Dropped,
    /// In the compaction itself, the tombstone.
    Kept,
}

/// Hashes of ended compactions, ascending by revision.
#[derive(Debug, Default)]
pub(super) struct HashCache {
    hashes: Mutex<Vec<KvHash>>,
}

impl HashCache {
    fn get(&self, revision: Revision) -> Option<KvHash> {
        let hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        hashes.iter().find(|hash| hash.revision == revision).copied()
    }

    fn add(&self, hash: KvHash) {
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        let at = hashes.partition_point(|known| known.revision <= hash.revision);
        hashes.insert(at, hash);
        if hashes.len() > REMEMBERED {
            hashes.remove(0);
        }
    }
}

impl HashCache {
    /// Remembers the hash of the state `before` a compaction to `floor`.
    pub(super) async fn remember(&self, before: Arc<State>, floor: Revision) {
        match in_background(before, floor, Tombstones::Kept).await {
            Ok(hash) => self.add(hash),
            Err(error) => tracing::warn!(%error, "the hash of a compaction cannot be computed"),
        }
    }
}

impl Engine {
    /// The hash of all versions up to a revision, 0 for the present one, and the state it was asked of. Below
    /// zero there is nothing to hash, which is no error.
    pub(crate) async fn hash_kv(&self, revision: Revision) -> Result<(KvHash, Arc<State>), EtcdError> {
        let state = self.serializable().await?;
        if let Some(known) = self.hashes.get(revision) {
            return Ok((known, state));
        }
        if revision > Revision(0) && state.is_compacted(revision) {
            return Err(EtcdError::Compacted);
        }
        if revision > state.revision {
            return Err(EtcdError::FutureRevision);
        }
        let revision = if revision == Revision(0) { state.revision } else { revision };
        let hash = in_background(Arc::clone(&state), revision, Tombstones::Dropped).await?;
        Ok((hash, state))
    }

    /// A checksum of all that is stored, leases and alarms included; the same on every instance at the same
    /// index. etcd's is one of its file, so this one is like it in purpose only.
    pub(crate) async fn hash(&self) -> Result<(u32, Arc<State>), EtcdError> {
        let state = self.serializable().await?;
        let keys = in_background(Arc::clone(&state), state.revision, Tombstones::Dropped).await?;
        let mut hash = crc32c::crc32c_append(keys.hash, &keys.compacted.0.to_be_bytes());
        for (id, ttl) in self.tables.leases.ttls() {
            hash = crc32c::crc32c_append(hash, &id.0.to_be_bytes());
            hash = crc32c::crc32c_append(hash, &ttl.to_be_bytes());
        }
        for alarm in self.alarms() {
            hash = crc32c::crc32c_append(hash, &alarm.member.to_be_bytes());
            hash = crc32c::crc32c_append(hash, &[alarm.kind as u8]);
        }
        Ok((hash, state))
    }
}

async fn in_background(
    state: Arc<State>,
    revision: Revision,
    tombstones: Tombstones,
) -> Result<KvHash, EtcdError> {
    tokio::task::spawn_blocking(move || KvHash {
        hash: hash(&state, revision, tombstones),
        compacted: state.compacted.unwrap_or(Revision(-1)),
        revision,
    })
    .await
    .map_err(|error| EtcdError::Unknown(error.to_string()))
}

/// The checksum of the versions up to `revision`, which is not below the floor unless it is negative.
fn hash(state: &State, revision: Revision, tombstones: Tombstones) -> u32 {
    let mut hasher = Hasher { hash: crc32c::crc32c(TABLE), buffer: Vec::new() };
    if revision < Revision(0) {
        return hasher.hash;
    }
    let floor = state.compacted.unwrap_or(Revision(-1));
    let all = KeyRange::all();
    let mut old = kept(state, &all, revision, tombstones)
        .unwrap_or_else(|| kept(state, &all, floor, Tombstones::Dropped).unwrap_or_default());
    old.retain(|version| version.mod_revision() <= floor);
    old.sort_unstable_by_key(|version| (version.mod_revision(), version.place()));
    for version in old {
        hasher.take(version);
    }
    for entry in state.log.since(floor.next()).take_while(|entry| entry.revision() <= revision) {
        for event in entry.events() {
            hasher.take(&event.version);
        }
    }
    hasher.hash
}

/// The live versions that a compaction at `revision` would keep at or below it; `None` where it would keep
/// nothing, tombstones included.
fn kept<'a>(
    state: &'a State,
    all: &'a KeyRange,
    revision: Revision,
    tombstones: Tombstones,
) -> Option<Vec<&'a KeyVersion>> {
    let at_revision = state.log.get(revision);
    // Of a key that was deleted at this very revision and put again, etcd sees the delete only.
    let is_deleted_there = |version: &KeyVersion| {
        version.mod_revision() == revision
            && at_revision.is_some_and(|entry| {
                let mut events = entry.events().iter();
                events.any(|event| event.version.is_tombstone() && event.version.key() == version.key())
            })
    };
    let live: Vec<_> =
        state.index.live_range(all, revision).filter(|version| !is_deleted_there(version)).collect();
    let has_tombstones = tombstones == Tombstones::Kept
        && at_revision.is_some_and(|entry| entry.events().iter().any(|event| event.version.is_tombstone()));
    (!live.is_empty() || has_tombstones).then_some(live)
}

/// CRC-32C over versions as etcd stores them.
struct Hasher {
    hash: u32,
    buffer: Vec<u8>,
}

impl Hasher {
    fn take(&mut self, version: &KeyVersion) {
        self.buffer.clear();
        self.buffer.extend_from_slice(&version.mod_revision().0.to_be_bytes());
        self.buffer.push(b'_');
        // etcd counts the changes of a revision from 0.
        self.buffer.extend_from_slice(&u64::from(version.place() - 1).to_be_bytes());
        let mut pair = key_value(version);
        if version.is_tombstone() {
            self.buffer.push(TOMBSTONE);
            pair = KeyValue { key: pair.key, ..KeyValue::default() };
        }
        pair.encode(&mut self.buffer).expect("a vector grows as needed");
        self.hash = crc32c::crc32c_append(self.hash, &self.buffer);
    }
}
