//! The mark: how far the embedded store was synced, and the digest of the state there, written down outside the store once a
//! second. A store that ends before it, or has another digest there, has lost or changed what was answered, and would not say so
//! itself.
//!
//! Whatever is shown is synced (see [`crate::durability`]), so that a shown state makes a true mark at any time. A mark may be a
//! second old, and then misses a loss of that second; it never tells of one that was none.

use crate::record::Digest;
use crate::types::{LogIndex, Sequence};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Its name, beside the store in the data directory.
const FILE: &str = "synced";

/// A point of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) sequence: Sequence,
    pub(super) index: LogIndex,
    pub(super) digest: Digest,
}

/// The file for a store.
pub(super) fn file(store: &Path) -> Option<PathBuf> {
    store.parent().map(|dir| dir.join(FILE))
}

/// The mark for a cluster's stream, if there is one. One of another cluster, or that a power cut has torn, is none.
pub(super) fn read(file: &Path, cluster: u64) -> io::Result<Option<Mark>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    Ok(parse(&text, cluster))
}

fn parse(text: &str, cluster: u64) -> Option<Mark> {
    let mut words = text.strip_suffix('\n')?.split(' ');
    if words.next()? != format!("{cluster:016x}") {
        return None;
    }
    let mark = Mark {
        sequence: Sequence(words.next()?.parse().ok()?),
        index: LogIndex(words.next()?.parse().ok()?),
        digest: Digest(u64::from_str_radix(words.next()?, 16).ok()?),
    };
    words.next().is_none().then_some(mark)
}

fn write(file: &Path, cluster: u64, mark: Mark) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut written = File::create(&new)?;
    let Mark { sequence, index, digest } = mark;
    writeln!(written, "{cluster:016x} {sequence} {index} {digest}")?;
    written.sync_data()?;
    fs::rename(&new, file)
}

/// Writes each mark that comes, until `stop`; then the last one.
pub(super) async fn keep(
    file: PathBuf,
    cluster: u64,
    mut marks: watch::Receiver<Option<Mark>>,
    stop: CancellationToken,
) {
    let mut is_failing = false;
    loop {
        let is_last = tokio::select! {
            changed = marks.changed() => changed.is_err(),
            () = stop.cancelled() => true,
        };
        let mark = *marks.borrow_and_update();
        if let Some(mark) = mark {
            let file = file.clone();
            let outcome = tokio::task::spawn_blocking(move || write(&file, cluster, mark)).await;
            match outcome {
                Ok(Ok(())) => is_failing = false,
                // Once for a series of failures: there is one a second.
                Ok(Err(error)) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!(%error, "the mark of the synced index cannot be written; the file holds an older one");
                }
                Ok(Err(_)) => {}
                Err(_) => return,
            }
        }
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
        write(&file, 7, mark(7)).expect("room for a line");
        write(&file, 7, mark(12)).expect("room for a line");
        assert_eq!(read(&file, 7).expect("a file"), Some(mark(12)));
        assert_eq!(read(&file, 8).expect("a file"), None);
        let text = fs::read_to_string(&file).expect("a file");
        for length in 0..text.len() {
            assert_eq!(parse(&text[..length], 7), None, "{length} bytes of it");
        }
    }
}
