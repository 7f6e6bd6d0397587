//! The file or the directory that a restore reads.

use super::wal::{self, Behind, WalError};
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
    Path {
        /// The file or the directory.
        path: PathBuf,
        /// The directory of that etcd's log, if it is not in the data directory.
        wal_dir: Option<PathBuf>,
    },
    /// A snapshot in a bucket of S3.
    S3(S3),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Path { path, .. } => path.display().fmt(f),
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
    /// The log names a later database.
    #[error(
        "the database of {path} ends at entry {shown} of etcd's log, and this etcd has received a later one, to entry {index}, which \
         is not in its place yet: what is behind would be lost. {remedy}",
        path = .path.display(),
        remedy = replacement_remedy(.path, .replacement.as_deref())
    )]
    Replaced {
        /// The directory.
        path: PathBuf,
        /// The last entry in the database.
        shown: u64,
        /// The last entry in the later one.
        index: u64,
        /// The later one, if it is there.
        replacement: Option<PathBuf>,
    },
    /// The log cannot be read.
    #[error(
        "{path}: {source}; without etcd's log it is not known whether the database is complete. If this etcd runs with --wal-dir, \
         give it here, too. Or start this etcd once and take a snapshot of it (etcdctl snapshot save FILE), then restore that. \
         Or give the database alone, which leaves away what only the log holds (jetway restore {path}/{DATABASE} \
         --skip-hash-check)",
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

/// The way to the content of a database that is not in its place.
fn replacement_remedy(path: &Path, replacement: Option<&Path>) -> String {
    match replacement {
        Some(file) => format!(
            "Start this etcd once, which puts {file} in its place, and take a snapshot of it (etcdctl snapshot save FILE), then \
             restore that",
            file = file.display()
        ),
        None => format!(
            "The later one is not there, and etcd does not start without it: restore another member, or a backup. Or give the \
             database alone to leave the rest away (jetway restore {path}/{DATABASE} --skip-hash-check)",
            path = path.display()
        ),
    }
}

/// Opens a snapshot, or the database of an etcd that is stopped. Nobody writes to it as long as it is open.
pub(super) async fn open(source: &Source, skips_hash_check: bool) -> Result<Saved, SourceError> {
    match source {
        Source::Path { path, wal_dir } => open_path(path, wal_dir.as_deref(), skips_hash_check),
        Source::S3(object) => {
            let (file, path) = download(object).await?;
            opened(file, path, skips_hash_check)
        }
    }
}

fn open_path(path: &Path, wal_dir: Option<&Path>, skips_hash_check: bool) -> Result<Saved, SourceError> {
    let io_error = |path: &Path, source| SourceError::Io { path: path.to_owned(), source };
    let is_data_dir = path.metadata().map_err(|source| io_error(path, source))?.is_dir();
    let database = if is_data_dir { path.join(DATABASE) } else { path.to_owned() };
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if is_data_dir => {
            SourceError::NoDataDir { path: path.to_owned() }
        }
        _ => io_error(&database, source),
    };
    let file = File::open(&database).map_err(failed)?;
    // A running etcd holds a lock on its database.
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(SourceError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let saved = opened(file, database.clone(), is_data_dir || skips_hash_check)?;
    if is_data_dir {
        let wal = wal_dir.map_or_else(|| path.join(WAL), Path::to_owned);
        check_complete(path, &database, &wal, saved.consistent_index)?;
    }
    Ok(saved)
}

/// Refuses a data directory whose log holds more than its database, which ends at the entry `shown`.
fn check_complete(path: &Path, database: &Path, wal: &Path, shown: u64) -> Result<(), SourceError> {
    let path = path.to_owned();
    match wal::behind(wal, shown) {
        Err(source) => Err(SourceError::Wal { path, source }),
        Ok(Behind { snapshot: Some(index), .. }) => {
            let replacement = database.with_file_name(format!("{index:016x}.snap.db"));
            let replacement = Some(replacement).filter(|file| file.is_file());
            Err(SourceError::Replaced { path, shown, index, replacement })
        }
        Ok(Behind { change: Some(last), .. }) => Err(SourceError::Tail { path, shown, last }),
        Ok(Behind { snapshot: None, change: None }) => Ok(()),
    }
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
