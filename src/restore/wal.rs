//! The log of a stopped etcd: whether it holds changes that the database does not show.
//!
//! A member that lags gets a database from another one. etcd writes it beside its own, then names it in the
//! log, then puts it in the place of its own. An etcd that ended before the last step has an old database.
//! Of its own database etcd makes all durable before it names that in the log.
//!
//! A file is a row of frames: a length of 8 bytes, a record, and bytes that fill up to a multiple of 8. The
//! files are made larger than their content, so a length of 0 ends a file. An etcd that was killed may leave
//! a last frame that is cut off; etcd drops it, too.

use prost::Message;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Kinds of records.
const ENTRY: i64 = 2;
const SNAPSHOT: i64 = 5;
/// Kinds of entries.
const NORMAL: i32 = 0;
/// The highest byte of a length holds whether the frame is filled up, and by how many bytes.
const LENGTH_BITS: u32 = 56;
/// No frame of etcd's is longer: a record is one request, or a description of the members.
const MAX_BYTES: u64 = 1 << 30;

/// A log that cannot be read.
#[derive(Debug, Error)]
pub(crate) enum WalError {
    /// The file system.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Io {
        /// The file or the folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No files.
    #[error("{path} holds no log of an etcd", path = .0.display())]
    Empty(PathBuf),
    /// A frame or a record that makes no sense.
    #[error("{path} is damaged at byte {at}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The place.
        at: u64,
    },
}

/// A record of etcd's log.
#[derive(Clone, PartialEq, Message)]
struct WalRecord {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
}

/// An entry of Raft.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
}

/// The entry with which a database ends that is to be etcd's own.
#[derive(Clone, PartialEq, Message)]
struct SnapshotMark {
    #[prost(uint64, tag = "1")]
    index: u64,
}

/// The requests in an entry that change neither keys, leases, users nor alarms.
#[derive(Clone, PartialEq, Message)]
struct NeutralRequest {
    /// A request of etcd's version 2, by which members once published their URLs.
    #[prost(bytes = "vec", optional, tag = "2")]
    v2: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "11")]
    lease_checkpoint: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "1012")]
    authenticate: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "1300")]
    cluster_version: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "1301")]
    member_attributes: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "1302")]
    downgrade: Option<Vec<u8>>,
}

/// The part that is missing from a database.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// The last entry behind it that changes the store.
    pub(super) change: Option<u64>,
    /// The last entry of a later database that is to replace it.
    pub(super) snapshot: Option<u64>,
}

/// The records behind an entry.
#[derive(Default)]
struct Records {
    /// The later entries, and whether each of them changes the store.
    are_changes: BTreeMap<u64, bool>,
    snapshot: Option<u64>,
}

/// Looks for the part that is missing from a database which ends at the entry `shown`.
///
/// # Errors
/// [`WalError`].
pub(super) fn behind(folder: &Path, shown: u64) -> Result<Behind, WalError> {
    let failed = |source| WalError::Io { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for file in std::fs::read_dir(folder).map_err(failed)? {
        let path = file.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "wal") {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(WalError::Empty(folder.to_owned()));
    }
    // Their names begin with a number of fixed length.
    files.sort();
    let mut records = Records::default();
    for path in files {
        read(&path, shown, &mut records)?;
    }
    let mut changes = records.are_changes.into_iter().filter(|(_, is_change)| *is_change);
    Ok(Behind { change: changes.next_back().map(|(index, _)| index), snapshot: records.snapshot })
}

fn read(path: &Path, shown: u64, behind: &mut Records) -> Result<(), WalError> {
    let failed = |source| WalError::Io { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut at = 0;
    loop {
        let mut length = [0; 8];
        if !fill(&mut file, &mut length).map_err(failed)? {
            return Ok(());
        }
        let length = u64::from_le_bytes(length);
        if length == 0 {
            return Ok(());
        }
        let damaged = || WalError::Damaged { path: path.to_owned(), at };
        let (bytes, top) = (length & ((1 << LENGTH_BITS) - 1), length >> LENGTH_BITS);
        let padding = if top & 0x80 == 0 { 0 } else { top & 0x07 };
        if bytes > MAX_BYTES {
            return Err(damaged());
        }
        let mut frame = vec![0; (bytes + padding) as usize];
        if !fill(&mut file, &mut frame).map_err(failed)? {
            return Ok(());
        }
        let record = WalRecord::decode(&frame[..bytes as usize]).map_err(|_| damaged())?;
        if record.kind == ENTRY {
            let entry = Entry::decode(&record.data[..]).map_err(|_| damaged())?;
            // An entry replaces those that were written for its index and the ones behind it.
            behind.are_changes.split_off(&entry.index);
            if entry.index > shown {
                behind.are_changes.insert(entry.index, is_change(&entry));
            }
        } else if record.kind == SNAPSHOT {
            let mark = SnapshotMark::decode(&record.data[..]).map_err(|_| damaged())?;
            if mark.index > shown {
                behind.snapshot = behind.snapshot.max(Some(mark.index));
            }
        }
        at += 8 + bytes + padding;
    }
}

/// Fills a buffer; returns false if the file ends before.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

/// Whether an entry may change the store. Changes of members do not: a restore leaves members behind.
fn is_change(entry: &Entry) -> bool {
    if entry.kind != NORMAL || entry.data.is_empty() {
        return false;
    }
    // Another message than a request is one of etcd's version 2.
    let Ok(request) = NeutralRequest::decode(&entry.data[..]) else { return false };
    request == NeutralRequest::default()
}
