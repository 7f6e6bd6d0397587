//! Order among this instance's own writes.
//!
//! The guards on the messages alone keep writes correct. These locks keep them from failing each other: two writes to
//! one key from this instance take turns instead of one of them being refused and planned again, and a write that is
//! guarded by the whole stream runs alone.
//!
//! Only writes come here: a read, a watch, and the applier take none of these. A write to other keys waits for nobody
//! but for one that needs the whole stream, and for as long as that one takes: what has begun before it, and one
//! publication. It cannot be passed, since the stream's end, on which it is guarded, would move with each that did.

use bytes::Bytes;
use std::hash::{BuildHasher, RandomState};
use tokio::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Keys share a lock by chance; with this many, a thousand writers in flight rarely do.
const SHARDS: usize = 16 * 1024;

/// The locks of an instance.
#[derive(Debug)]
pub(super) struct WriteLocks {
    stream: RwLock<()>,
    keys: Box<[Mutex<()>]>,
    hasher: RandomState,
}

/// Held from planning until the write is visible.
#[derive(Debug)]
pub(super) enum Held<'a> {
    /// Some keys.
    Keys { _keys: Vec<MutexGuard<'a, ()>>, _stream: RwLockReadGuard<'a, ()> },
    /// Everything.
    Stream { _stream: RwLockWriteGuard<'a, ()> },
}

impl Default for WriteLocks {
    fn default() -> WriteLocks {
        WriteLocks {
            stream: RwLock::default(),
            keys: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl WriteLocks {
    /// Takes the keys' locks, always in the same order, so that no two writes wait for each other.
    pub(super) async fn keys<'k>(&self, keys: impl Iterator<Item = &'k Bytes>) -> Held<'_> {
        let stream = self.stream.read().await;
        let mut shards: Vec<usize> = keys.map(|key| self.hasher.hash_one(key) as usize % SHARDS).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut held = Vec::with_capacity(shards.len());
        for shard in shards {
            held.push(self.keys[shard].lock().await);
        }
        Held::Keys { _keys: held, _stream: stream }
    }

    /// Waits for all writes of this instance and keeps others from beginning.
    pub(super) async fn stream(&self) -> Held<'_> {
        Held::Stream { _stream: self.stream.write().await }
    }
}
