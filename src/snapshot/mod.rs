//! The store as a file of etcd's, for `etcdctl snapshot save`.
//!
//! The file is what `etcdutl snapshot restore` takes: a bbolt database with the buckets of etcd 3.7. It holds
//! one published state: each version that can still be read, the tombstones since the floor, and leases,
//! users, roles, alarms and members of the same moment.
//!
//! The size must be known before the first byte, so the file is laid out twice. The first run only counts
//! pages. The second one makes them as the client takes them, from the same immutable state. So a snapshot
//! needs memory for one version's page and for one pointer a key, and writes go on meanwhile.
//!
//! The format is written here: a database that writes bbolt's files would want the whole file on a disk, and
//! no widely used crate was found that writes them at all.

mod bbolt;
mod content;
mod file;
mod reader;
mod s3;
mod saved;
mod status;
mod times;

pub(crate) use file::{FileError, PartFile, checked_size_of, unnamed};
pub(crate) use s3::{Listed, S3Error, Upload, download, is_url};
pub(crate) use s3::{S3, S3UrlError};
pub(crate) use saved::{Change, Changes, Saved, SavedError};
pub(crate) use status::{Report, StatusError, report, walk};
pub(crate) use times::{Times, TimesError};

use crate::applier::FullState;
use crate::memory::GiveBackOnDrop;
use crate::types::Revision;
use bbolt::{Count, META_PAGES, PAGE, Pages, Place, Tree};
use bytes::Bytes;
use content::{Content, Position, Stored};
use ring::digest::{Context, SHA256};

/// Bytes in a blob, the last one excepted.
const BLOB: usize = 32 * 1024;

/// The metadata of a call of Maintenance.Snapshot by which a client asks for an earlier revision. An answer
/// that has it is of that revision.
pub(crate) const SNAPSHOT_REVISION: &str = "jetway-revision";

/// The TTL, in seconds, of leases that had keys at an earlier revision and have ended since. Nothing
/// remembers the one that they had.
pub(crate) const TTL_OF_ENDED_LEASES: i64 = 60;

/// A snapshot that is being read: an iterator over its blobs.
pub(crate) struct Snapshot {
    size: u64,
    sent: u64,
    pending: Vec<u8>,
    file: File,
    /// The checksum of what is sent; `None` once it is sent itself.
    checksum: Option<Context>,
    _memory: GiveBackOnDrop,
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    /// A part of the file, or the SHA-256 of all parts.
    pub(crate) bytes: Bytes,
    /// Bytes of the file that follow.
    pub(crate) remaining: u64,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("size", &self.size).field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Lays out the file of `full_state`, which was taken in the epoch `term`. It visits each version once,
    /// so it belongs on a thread that may block.
    pub(crate) fn new(full_state: &FullState, term: u64, storage_version: &str) -> Snapshot {
        Snapshot::at(full_state, term, storage_version, full_state.state.revision)
    }

    /// The same with the keys as they were at a revision, which is not below the floor.
    pub(crate) fn at(
        full_state: &FullState,
        term: u64,
        storage_version: &str,
        revision: Revision,
    ) -> Snapshot {
        let content = Content::new(full_state, term, storage_version, revision);
        let mut layout = File::new(content.clone());
        let root = loop {
            if let Some(root) = layout.step(&mut Count) {
                break root;
            }
        };
        Snapshot {
            size: layout.pages * PAGE as u64,
            sent: 0,
            pending: bbolt::meta_pages(root, layout.pages),
            file: File::new(content),
            checksum: Some(Context::new(&SHA256)),
            _memory: GiveBackOnDrop,
        }
    }

    /// The size of the file in bytes, without the checksum behind it.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

impl Iterator for Snapshot {
    type Item = Blob;

    fn next(&mut self) -> Option<Blob> {
        if self.sent == self.size {
            let checksum = self.checksum.take()?.finish();
            return Some(Blob { bytes: Bytes::copy_from_slice(checksum.as_ref()), remaining: 0 });
        }
        while self.pending.len() < BLOB && self.file.step(&mut self.pending).is_none() {}
        let length = self.pending.len().min(BLOB);
        let bytes = Bytes::copy_from_slice(&self.pending[..length]);
        self.pending.drain(..length);
        self.checksum.as_mut()?.update(&bytes);
        self.sent += length as u64;
        Some(Blob { bytes, remaining: self.size - self.sent })
    }
}

/// The progress of one run over the content.
struct File {
    content: Content,
    /// The number of the next page.
    pages: u64,
    /// The bucket that is being written, and the place in it.
    bucket: usize,
    position: Position,
    tree: Option<Tree<Stored>>,
    root: Tree<Place>,
    /// The root page, once all is written.
    end: Option<u64>,
}

impl File {
    fn new(content: Content) -> File {
        File {
            content,
            pages: META_PAGES,
            bucket: 0,
            position: Position::default(),
            tree: Some(Tree::new(false)),
            root: Tree::new(true),
            end: None,
        }
    }

    /// Writes a few pairs. Returns the root page when everything is written.
    fn step(&mut self, to: &mut impl Pages) -> Option<u64> {
        if self.end.is_some() {
            return self.end;
        }
        let Some(bucket) = self.content.bucket(self.bucket) else {
            let root = std::mem::replace(&mut self.root, Tree::new(true));
            self.end = Some(root.finish(&mut self.pages, to));
            return self.end;
        };
        let pairs = self.content.pairs(bucket, &mut self.position);
        let tree = self.tree.get_or_insert_with(|| Tree::new(false));
        if pairs.is_empty() {
            let place = self.tree.take().map(|tree| tree.finish(&mut self.pages, to)).unwrap_or_default();
            let name = bucket.name.as_bytes().into();
            self.root.push(name, Place(place), &mut self.pages, to);
            self.bucket += 1;
            self.position = Position::default();
            return None;
        }
        for (key, value) in pairs {
            tree.push(key, value, &mut self.pages, to);
        }
        None
    }
}
