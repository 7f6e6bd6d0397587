//! The mark: how far the embedded store was synced, and the digest of the state there, written down outside
//! the store once a second. A store that ends before it, or has another digest there, has lost or changed
//! what was answered, and would not report it itself.
//!
//! Each shown state is synced (see [`crate::durability`]), so that a shown state makes a true mark at any
//! time. A mark may be a second old, and then misses a loss of that second; it never reports one that was
//! none.

use crate::record::Digest;
use crate::types::{LogIndex, Sequence};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The beginning of its name, beside the store in the data directory.
const FILE: &str = "synced";

/// A mark that the store cannot be compared with.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The file.
    #[error("cannot read {file}, the mark of the synced index beside the store: {source}")]
    Read {
        /// Its path.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content.
    #[error(
        "{file}, the mark of the synced index beside the store, is damaged: it is not known whether the store is whole. Restore \
         a copy, or accept the loss with --accept-data-loss"
    )]
    Damaged {
        /// Its path.
        file: PathBuf,
    },
    /// Another stream than the one that was synced.
    #[error(
        "the store does not hold what was synced: {file} names the log {marked}, and the stream there is {found}, made anew or \
         another one. Restore a copy, or accept the loss with --accept-data-loss"
    )]
    Foreign {
        /// The mark's path.
        file: PathBuf,
        /// The id in the mark.
        marked: String,
        /// The id of the stream.
        found: String,
    },
}

/// A point of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) sequence: Sequence,
    pub(super) index: LogIndex,
    pub(super) digest: Digest,
}

/// The file for a bucket of a store.
pub(super) fn file(store: &Path, bucket: &str) -> Option<PathBuf> {
    store.parent().map(|dir| dir.join(format!("{FILE}-{bucket}")))
}

/// The mark for a cluster's stream, if there is one.
///
/// # Errors
/// [`MarkError`]; a power cut tears no mark, because the file is replaced as a whole.
pub(super) fn read(file: &Path, cluster: u64) -> Result<Option<Mark>, MarkError> {
    let text = match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(MarkError::Read { file: file.to_owned(), source }),
        Ok(text) => text,
    };
    let damaged = || MarkError::Damaged { file: file.to_owned() };
    let text = std::str::from_utf8(&text).map_err(|_| damaged())?;
    let (marked, mark) = parse(text).ok_or_else(damaged)?;
    if marked != cluster {
        let (marked, found) = (format!("{marked:016x}"), format!("{cluster:016x}"));
        return Err(MarkError::Foreign { file: file.to_owned(), marked, found });
    }
    Ok(Some(mark))
}

fn parse(text: &str) -> Option<(u64, Mark)> {
    let (line, sum) = text.strip_suffix('\n')?.rsplit_once(' ')?;
    if sum != checksum(line) {
        return None;
    }
    let mut words = line.split(' ');
    let cluster = u64::from_str_radix(words.next()?, 16).ok()?;
    let mark = Mark {
        sequence: Sequence(words.next()?.parse().ok()?),
        index: LogIndex(words.next()?.parse().ok()?),
        digest: Digest(u64::from_str_radix(words.next()?, 16).ok()?),
    };
    words.next().is_none().then_some((cluster, mark))
}

fn checksum(line: &str) -> String {
    format!("{:08x}", crc32c::crc32c(line.as_bytes()))
}

/// With `is_first` the folder is synced, too: no power cut brings an older mark back, which may name what was
/// given up. Later marks need that not, because the one before is true as well.
fn write(file: &Path, cluster: u64, mark: Mark, is_first: bool) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut written = File::create(&new)?;
    let Mark { sequence, index, digest } = mark;
    let line = format!("{cluster:016x} {sequence} {index} {digest}");
    writeln!(written, "{line} {}", checksum(&line))?;
    written.sync_data()?;
    fs::rename(&new, file)?;
    match file.parent().filter(|_| is_first) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// The marks of this process, which a task of its own writes.
#[derive(Debug)]
pub(super) struct Marks {
    newest: watch::Sender<Option<Mark>>,
    /// The last one whose write has ended, well or not.
    tried: watch::Receiver<Option<Mark>>,
}

impl Marks {
    /// Starts the task. It ends with `stop`.
    pub(super) fn keep(file: PathBuf, cluster: u64, stop: CancellationToken) -> Marks {
        let (newest, to_write) = watch::channel(None);
        let (ended, tried) = watch::channel(None);
        tokio::spawn(keep(file, cluster, (to_write, ended), stop));
        Marks { newest, tried }
    }

    pub(super) fn note(&self, mark: Mark) {
        self.newest.send_if_modified(|known| known.replace(mark) != Some(mark));
    }

    /// Waits until the last mark that was noted is on the disk, or its write has failed, which the log
    /// reports.
    pub(super) async fn written(&mut self) {
        let newest = *self.newest.borrow();
        // The task ends with the process.
        self.tried.wait_for(|tried| *tried == newest).await.ok();
    }
}

/// Writes each mark that comes, until `stop`; then the last one.
async fn keep(
    file: PathBuf,
    cluster: u64,
    (mut marks, ended): (watch::Receiver<Option<Mark>>, watch::Sender<Option<Mark>>),
    stop: CancellationToken,
) {
    let (mut is_first, mut is_failing) = (true, false);
    loop {
        let is_last = tokio::select! {
            changed = marks.changed() => changed.is_err(),
            () = stop.cancelled() => true,
        };
        let newest = *marks.borrow_and_update();
        if let Some(mark) = newest {
            let file = file.clone();
            let outcome = tokio::task::spawn_blocking(move || write(&file, cluster, mark, is_first)).await;
            match outcome {
                Ok(Ok(())) => (is_first, is_failing) = (false, false),
                // Once for a series of failures: there is one a second.
                Ok(Err(error)) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!(%error, "the mark of the synced index cannot be written; the file holds an older one");
                }
                Ok(Err(_)) => {}
                Err(_) => return,
            }
        }
        ended.send_replace(newest);
        if is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_for_its_cluster_and_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join(FILE);
        assert_eq!(read(&file, 7).expect("no file is no error"), None);
        let mark = |index| Mark { sequence: Sequence(9), index: LogIndex(index), digest: Digest(0xabc) };
        write(&file, 7, mark(7), true).expect("room for a line");
        write(&file, 7, mark(12), false).expect("room for a line");
        assert_eq!(read(&file, 7).expect("a file"), Some(mark(12)));
        assert!(matches!(read(&file, 8), Err(MarkError::Foreign { .. })));
        let text = fs::read_to_string(&file).expect("a file");
        for length in 0..text.len() {
            assert_eq!(parse(&text[..length]), None, "{length} bytes of it");
        }
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            fs::write(&file, damaged).expect("room for a line");
            assert!(read(&file, 7).is_err(), "byte {at} is another one");
        }
    }
}
