//! The data directories of a cluster that a restore makes anew.
//!
//! One member's directory, that of the *holder*, gets the data as the store of a clustered server, whose
//! metadata lists that server alone. Every other directory gets a record without data. Such a member joins
//! once the holder serves, and fills itself from it. So a store is served that is whole, or none.
//!
//! From the first change until the directory of a holder is whole, it has a file by which every start refuses
//! it. A restore that is run again removes all that it finds beside that file.

use super::cluster::{self, ClusterSettings};
use super::data_dir::{DataDir, MODE_FILE};
use super::{Error, PREPARATION, conversion, copy_dir, store_dir};
use crate::durability::sync_all;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The mark of a directory that is not whole.
const UNFINISHED: &str = "unfinished-restore";

/// Whether a restore into a data directory has not ended.
pub(crate) fn is_unfinished_restore(dir: &Path) -> bool {
    dir.join(UNFINISHED).exists()
}

/// Begins to make the directory of a holder, which must be empty. The rest of an earlier restore is removed.
///
/// # Errors
/// [`Error::NotEmpty`], and those of the directory.
pub(crate) fn begin_restore(dir: &Path) -> Result<(), Error> {
    let dir = DataDir::open(dir)?;
    if !is_unfinished_restore(dir.path()) {
        check_empty(&dir)?;
        return dir.write_private(&dir.path().join(UNFINISHED), "");
    }
    for part in parts(&dir) {
        let removed = if part.is_dir() { fs::remove_dir_all(&part) } else { fs::remove_file(&part) };
        match removed {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(dir.error("remove", &part, source));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the restored store of a server that has stopped that of the holder. `prepared` is the data directory
/// of the server that has prepared the metadata. `stream` is the id of its stream. A migration has no
/// snapshot that other members could name.
///
/// # Errors
/// Those of the directory.
pub(crate) fn restore_holder(
    dir: &Path,
    settings: &ClusterSettings,
    prepared: &Path,
    snapshot: Option<String>,
    stream: u64,
) -> Result<(), Error> {
    let dir = DataDir::open(dir)?;
    conversion::to_clustered(&dir, &store_dir(prepared))?;
    cluster::remember_restored(&dir, settings, snapshot, (settings.name.clone(), Some(stream)))?;
    for rest in [copy_dir(dir.path()), dir.path().join(PREPARATION)] {
        fs::remove_dir_all(&rest).map_err(|source| dir.error("remove", &rest, source))?;
    }
    let (store, mark) = (dir.store_path(), dir.path().join(UNFINISHED));
    sync_all(&store).map_err(|source| dir.error("sync", &store, source))?;
    fs::remove_file(&mark).map_err(|source| dir.error("remove", &mark, source))?;
    File::open(dir.path())
        .and_then(|folder| folder.sync_all())
        .map_err(|source| dir.error("sync", dir.path(), source))
}

/// Makes the directory of a member that fills itself from the holder. It must be empty.
///
/// # Errors
/// [`Error::NotEmpty`], and those of the directory.
pub(crate) fn restore_other(
    dir: &Path,
    settings: &ClusterSettings,
    snapshot: String,
    holder: String,
) -> Result<(), Error> {
    let dir = DataDir::open(dir)?;
    check_empty(&dir)?;
    cluster::remember_restored(&dir, settings, Some(snapshot), (holder, None))
}

/// Refuses a data directory that another jetway uses.
///
/// # Errors
/// Those of the directory.
pub(crate) fn check_unlocked(dir: &Path) -> Result<(), Error> {
    DataDir::open(dir).map(drop)
}

fn check_empty(dir: &DataDir) -> Result<(), Error> {
    let is_used = is_unfinished_restore(dir.path()) || parts(dir).iter().any(|part| part.exists());
    if is_used { Err(Error::NotEmpty { path: dir.path().to_owned() }) } else { Ok(()) }
}

/// All that makes a directory that of a server.
fn parts(dir: &DataDir) -> [PathBuf; 5] {
    let path = dir.path();
    [
        dir.store_path(),
        copy_dir(path),
        path.join(PREPARATION),
        path.join(MODE_FILE),
        cluster::record_path(path),
    ]
}
