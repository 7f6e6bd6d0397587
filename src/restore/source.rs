//! The file or the directory that a restore reads.

use super::wal::{self, WalError};
use crate::snapshot::{FileError, S3, S3Error, Saved, SavedError, checked_size_of, download};
use ring::digest::SHA256_OUTPUT_LEN;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The database in a data directory of etcd's.
const DATABASE: &str = "member/snap/db";
/// The log in a data directory of etcd's.
const WAL: &str = "member/wal";
/// etcd's rule: a database has a multiple of so many bytes, and a snapshot has a checksum behind it.
const SECTOR: u64 = 512;

/// A place to restore from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A snapshot, or a data directory of etcd's.
    Path(PathBuf),
    /// A snapshot in a bucket of S3.
    S3(S3),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Path(path) => path.display().fmt(f),
            Source::S3(object) => object.fmt(f),
        }
    }
}

/// A file or a directory that cannot be restored.
#[derive(Debug, Error)]
pub(crate) enum SourceError {
    /// The file system.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory without etcd's files.
    #[error(
        "{path} holds no data of an etcd: there is no {DATABASE} in it; name a snapshot, or the --data-dir of an etcd that is \
         stopped",
        path = .path.display()
    )]
    NoDataDir {
        /// The directory.
        path: PathBuf,
    },
    /// A running etcd.
    #[error(
        "an etcd runs on {path}; stop it, or take a snapshot of it (etcdctl snapshot save FILE) and restore that",
        path = .path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The log holds more than the database.
    #[error(
        "the database of {path} ends at entry {shown} of etcd's log, and the log goes on to entry {last}: what is behind would be \
         lost. Start this etcd once and take a snapshot of it (etcdctl snapshot save FILE), then restore that; or give \
         the database alone to leave the rest away (jetway restore {path}/{DATABASE} --skip-hash-check)",
        path = .path.display()
    )]
    Tail {
        /// The directory.
        path: PathBuf,
        /// The last entry in the database.
        shown: u64,
        /// The last entry that changes something.
        last: u64,
    },
    /// The log cannot be read.
    #[error(
        "{path}: {source}; without etcd's log it is not known whether the database is complete. Give the database alone to \
         restore it all the same (jetway restore {path}/{DATABASE} --skip-hash-check)",
        path = .path.display()
    )]
    Wal {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: WalError,
    },
    /// No checksum.
    #[error(
        "{path} has no checksum at its end: it is cut off, or it was copied from the data directory of an etcd. For such a copy \
         give --skip-hash-check",
        path = .path.display()
    )]
    NoChecksum {
        /// The file.
        path: PathBuf,
    },
    /// Another checksum.
    #[error("{0}. Take another copy; --skip-hash-check restores it as it is")]
    Checksum(FileError),
    /// The bucket.
    #[error(transparent)]
    S3(#[from] S3Error),
    /// The file as a snapshot.
    #[error(transparent)]
    File(FileError),
    /// The content.
    #[error("{path} {source}", path = .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SavedError,
    },
}

/// Opens a snapshot, or the database of an etcd that is stopped. Nobody writes to it as long as it is open.
pub(super) async fn open(source: &Source, skips_hash_check: bool) -> Result<Saved, SourceError> {
    match source {
        Source::Path(path) => open_path(path, skips_hash_check),
        Source::S3(object) => {
            let (file, path) = download(object).await?;
            opened(file, path, skips_hash_check)
        }
    }
}

fn open_path(path: &Path, skips_hash_check: bool) -> Result<Saved, SourceError> {
    let is_data_dir = path.is_dir();
    let database = if is_data_dir { path.join(DATABASE) } else { path.to_owned() };
    if is_data_dir && !database.is_file() {
        return Err(SourceError::NoDataDir { path: path.to_owned() });
    }
    let failed = |source| SourceError::Io { path: database.clone(), source };
    let file = File::open(&database).map_err(failed)?;
    // A running etcd holds a lock on its database.
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(SourceError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let saved = opened(file, database, is_data_dir || skips_hash_check)?;
    if is_data_dir {
        let last = wal::last_change(&path.join(WAL), saved.consistent_index);
        let last = last.map_err(|source| SourceError::Wal { path: path.to_owned(), source })?;
        if let Some(last) = last {
            return Err(SourceError::Tail { path: path.to_owned(), shown: saved.consistent_index, last });
        }
    }
    Ok(saved)
}

/// Reads an open file, whose name is for errors.
fn opened(mut file: File, path: PathBuf, skips_hash_check: bool) -> Result<Saved, SourceError> {
    let failed = |source| SourceError::Io { path: path.clone(), source };
    let bytes = file.metadata().map_err(failed)?.len();
    let size = if skips_hash_check {
        bytes - if bytes % SECTOR == SHA256_OUTPUT_LEN as u64 { SHA256_OUTPUT_LEN as u64 } else { 0 }
    } else {
        let size = checked_size_of(&mut file, &path).map_err(|error| match error {
            FileError::Checksum { .. } => SourceError::Checksum(error),
            error => SourceError::File(error),
        })?;
        if size == bytes {
            return Err(SourceError::NoChecksum { path });
        }
        size
    };
    Saved::open(file, size).map_err(|source| SourceError::Content { path, source })
}
