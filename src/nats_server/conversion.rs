//! Turns the store of a server that runs alone into that of a member of a cluster, and back.
//!
//! A clustered server takes the streams that it finds in its store if JetStream's metadata lists them, and
//! deletes all others half a minute later. So the metadata comes first, from servers that have listed the
//! same streams (`$SYS` in the store). A server that runs alone does not look at it.
//!
//! The file `mode` decides: before it is replaced the store is one of a server alone, and afterwards one of a
//! member. All other steps are done again at each start, since a crash may have cut them short:
//! - The directory of jetway's account has the name that the account has in that mode.
//! - A server alone has no metadata, and nothing that was prepared.
//!
//! A copy of hard links stays beside the store until the member has been found to hold all. nats-server
//! removes files and puts others into their place, so that the copy keeps what the store loses.

use super::cluster::ACCOUNT;
use super::data_dir::{DataDir, Mode};
use super::{Error, PREPARATION, copy_dir};
use crate::durability::sync_all;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The account of a server alone.
const GLOBAL_ACCOUNT: &str = "$G";
/// JetStream's metadata.
const SYSTEM_ACCOUNT: &str = "$SYS";

/// Makes the store that of a member. `metadata` is the store of the server that prepared it.
pub(super) fn to_clustered(dir: &DataDir, metadata: &Path) -> Result<(), Error> {
    let (store, copy) = (dir.store_path(), copy_dir(dir.path()));
    remove(dir, &copy)?;
    for_each_file(&store, &copy, &|from, to| fs::hard_link(from, to))
        .map_err(|source| dir.error("copy", &store, source))?;
    let (from, to) = (account_dir(metadata, SYSTEM_ACCOUNT), account_dir(&store, SYSTEM_ACCOUNT));
    let new = to.with_extension("new");
    for old in [&new, &to] {
        remove(dir, old)?;
    }
    for_each_file(&from, &new, &|from, to| fs::copy(from, to).map(drop))
        .and_then(|()| sync_all(&new))
        .and_then(|()| rename(&new, &to))
        .map_err(|source| dir.error("write", &to, source))?;
    dir.set_mode(Mode::Clustered)?;
    settle(dir, Mode::Clustered)
}

/// Makes the store that of a server alone. With `from_copy` the copy takes its place.
pub(super) fn to_standalone(dir: &DataDir, from_copy: bool) -> Result<(), Error> {
    dir.set_mode(Mode::Standalone)?;
    if from_copy && copy_dir(dir.path()).exists() {
        remove(dir, &dir.store_path())?;
    }
    settle(dir, Mode::Standalone)
}

/// Finishes what a crash may have cut short. The server does not run.
pub(super) fn settle(dir: &DataDir, mode: Mode) -> Result<(), Error> {
    let (store, copy) = (dir.store_path(), copy_dir(dir.path()));
    if !store.exists() && copy.exists() {
        rename(&copy, &store).map_err(|source| dir.error("write", &store, source))?;
    }
    let (other, own) = match mode {
        Mode::Standalone => (ACCOUNT, GLOBAL_ACCOUNT),
        Mode::Clustered => (GLOBAL_ACCOUNT, ACCOUNT),
    };
    let (other, own) = (account_dir(&store, other), account_dir(&store, own));
    if has_streams(&other) && !has_streams(&own) {
        remove(dir, &own)?;
        rename(&other, &own).map_err(|source| dir.error("write", &own, source))?;
    }
    if mode == Mode::Standalone {
        remove(dir, &account_dir(&store, SYSTEM_ACCOUNT))?;
        remove(dir, &copy)?;
        // Servers of a process that was killed may still write there.
        if let Err(error) = remove(dir, &dir.path().join(PREPARATION)) {
            tracing::debug!(%error, "what was prepared for a cluster is left");
        }
    }
    Ok(())
}

fn account_dir(store: &Path, account: &str) -> PathBuf {
    store.join("jetstream").join(account)
}

fn has_streams(account: &Path) -> bool {
    fs::read_dir(account.join("streams")).is_ok_and(|mut streams| streams.next().is_some())
}

fn remove(dir: &DataDir, path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(dir.error("remove", path, source)),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    to.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Makes the folders of `from` below `to`, and hands each file to `place`.
fn for_each_file(from: &Path, to: &Path, place: &impl Fn(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            for_each_file(&entry.path(), &target, place)?;
        } else {
            place(&entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store with one stream, and metadata for it.
    fn stores(dir: &Path) -> (DataDir, PathBuf) {
        let data = DataDir::open(&dir.join("data")).expect("opened");
        data.claim_mode(Mode::Standalone).expect("a new store");
        let (stream, metadata) = ("nats/jetstream/$G/streams/S", dir.join("prepared"));
        fs::create_dir_all(data.path().join(stream)).expect("a folder");
        fs::write(data.path().join(stream).join("1.blk"), "messages").expect("a file");
        fs::create_dir_all(account_dir(&metadata, "$SYS/_js_")).expect("a folder");
        fs::write(account_dir(&metadata, "$SYS/_js_").join("log"), "metadata").expect("a file");
        (data, metadata)
    }

    fn read(data: &DataDir, path: &str) -> Option<String> {
        fs::read_to_string(data.store_path().join("jetstream").join(path)).ok()
    }

    #[test]
    fn a_store_goes_into_a_cluster_and_comes_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let (data, metadata) = stores(dir.path());
        to_clustered(&data, &metadata).expect("clustered");
        assert_eq!(read(&data, "JW/streams/S/1.blk").as_deref(), Some("messages"));
        assert_eq!(read(&data, "$SYS/_js_/log").as_deref(), Some("metadata"));
        data.claim_mode(Mode::Clustered).expect("it is clustered");
        to_standalone(&data, false).expect("alone");
        assert_eq!(read(&data, "$G/streams/S/1.blk").as_deref(), Some("messages"));
        assert_eq!(read(&data, "$SYS/_js_/log"), None);
        data.claim_mode(Mode::Standalone).expect("it is alone");
    }

    #[test]
    fn the_copy_has_what_the_store_lost() {
        let dir = tempfile::tempdir().expect("a directory");
        let (data, metadata) = stores(dir.path());
        to_clustered(&data, &metadata).expect("clustered");
        fs::remove_dir_all(data.store_path().join("jetstream/JW")).expect("removed");
        to_standalone(&data, true).expect("alone");
        assert_eq!(read(&data, "$G/streams/S/1.blk").as_deref(), Some("messages"));
    }

    #[test]
    fn a_crash_leaves_a_store_that_one_of_the_modes_takes_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let (data, metadata) = stores(dir.path());
        // Before the mode is replaced.
        for_each_file(&metadata, &data.store_path(), &|from, to| fs::copy(from, to).map(drop))
            .expect("copied");
        settle(&data, Mode::Standalone).expect("alone");
        assert_eq!(read(&data, "$G/streams/S/1.blk").as_deref(), Some("messages"));
        assert_eq!(read(&data, "$SYS/_js_/log"), None);
        // Right behind it.
        data.set_mode(Mode::Clustered).expect("recorded");
        settle(&data, Mode::Clustered).expect("clustered");
        settle(&data, Mode::Clustered).expect("twice");
        assert_eq!(read(&data, "JW/streams/S/1.blk").as_deref(), Some("messages"));
    }
}
