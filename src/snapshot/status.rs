//! The report of a snapshot's file, with the numbers that `etcdutl snapshot status` has for it.

use super::file::{self, FileError};
use super::reader::{Database, ReadError};
use crate::proto::mvccpb::KeyValue;
use crate::types::Revision;
use bytes::Bytes;
use prost::Message as _;
use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use thiserror::Error;

/// Bytes of a revision's key: two numbers and a letter.
const REVISION_BYTES: usize = 17;
/// The rest of the key of a tombstone.
const TOMBSTONE: &[u8] = b"t";

/// A file that cannot be reported on.
#[derive(Debug, Error)]
pub(crate) enum StatusError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} {source}", path = .path.display())]
    Read { path: std::path::PathBuf, source: ReadError },
    #[error("{path} is damaged in its bucket \"key\": {reason} at {place}", path = .path.display())]
    Entry { path: std::path::PathBuf, reason: &'static str, place: String },
}

/// The content of a file in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// CRC-32C over all names, keys and values.
    pub(crate) hash: u32,
    /// The newest revision with a change in the file; 0 for none.
    pub(crate) revision: Revision,
    /// The compaction floor; 0 for none.
    pub(crate) floor: Revision,
    /// Keys that live at that revision.
    pub(crate) keys: usize,
    /// Bytes of the database, without a checksum behind it.
    pub(crate) size: u64,
    /// The storage version; empty before etcd 3.6.
    pub(crate) version: String,
}

impl Report {
    /// The revision of a store that is restored from the file. An empty store has one already.
    pub(crate) fn restored_revision(&self) -> Revision {
        self.revision.max(self.floor).max(Revision(1))
    }
}

/// Reads a file whole; `path` is its name in errors. A checksum behind the database is compared, too.
///
/// # Errors
/// [`StatusError`].
pub(crate) fn report(mut file: File, path: &Path) -> Result<Report, StatusError> {
    let size = file::checked_size_of(&mut file, path)?;
    let mut living: HashSet<Bytes> = HashSet::new();
    let mut report = walk(file, path, size, |key, is_tombstone| {
        if is_tombstone {
            living.remove(key);
        } else {
            // A copy, since the key is a part of a page.
            living.insert(Bytes::copy_from_slice(key));
        }
    })?;
    report.keys = living.len();
    Ok(report)
}

/// Reads all pages of the database in the first `size` bytes of a file, in the memory of a few pages. The
/// report has no number of keys: `version` gets the key of each version, and whether it is a tombstone.
///
/// # Errors
/// [`StatusError`].
pub(crate) fn walk(
    file: File,
    path: &Path,
    size: u64,
    mut version: impl FnMut(&Bytes, bool),
) -> Result<Report, StatusError> {
    let failed = |source| StatusError::Read { path: path.to_owned(), source };
    let database = Database::open(file, size).map_err(failed)?;
    let mut report = Report { size: database.size(), ..Report::default() };
    for bucket in database.buckets().map_err(failed)? {
        report.hash = crc32c::crc32c_append(report.hash, &bucket.name);
        let mut pairs = database.pairs(&bucket);
        while let Some((key, value)) = pairs.next().map_err(failed)? {
            report.hash = crc32c::crc32c_append(crc32c::crc32c_append(report.hash, &key), &value);
            match &*bucket.name {
                b"meta" if *key == *b"storageVersion" => {
                    report.version = String::from_utf8_lossy(&value).into_owned();
                }
                b"meta" if *key == *b"finishedCompactRev" => {
                    let floor = value.first_chunk().map(|floor| i64::from_be_bytes(*floor));
                    report.floor = Revision(floor.unwrap_or_default());
                }
                b"key" => {
                    let damaged = |reason| StatusError::Entry {
                        path: path.to_owned(),
                        reason,
                        place: key.escape_ascii().to_string(),
                    };
                    let revision = key.get(..REVISION_BYTES).and_then(|head| head.first_chunk());
                    let revision = revision.ok_or_else(|| damaged("there is no revision"))?;
                    report.revision = Revision(i64::from_be_bytes(*revision));
                    let pair = KeyValue::decode(value).map_err(|_| damaged("there is no key of etcd's"))?;
                    version(&pair.key, &key[REVISION_BYTES..] == TOMBSTONE);
                }
                _ => {}
            }
        }
    }
    Ok(report)
}
