//! How far the key stream was on the disk, written down outside the store: a store that ends before that has lost what was
//! answered, to a damaged disk or an older copy, and would not say so itself.
//!
//! What is visible is on the disk (see [`crate::durability`]), so that the visible position is a true mark at any time. The
//! mark may be a moment old, and then misses a loss of that moment; it never tells of one that was none.

use super::{Inner, Phase};
use crate::types::Sequence;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Beside the store, in the data directory.
const FILE: &str = "synced";
/// How old a mark may be.
const INTERVAL: Duration = Duration::from_secs(1);

/// Compares with the mark there is, and keeps it. For a store that this process brings to the disk.
pub(super) fn spawn(inner: &Arc<Inner>) {
    let file = inner.settings.synced_store.as_deref().and_then(Path::parent).map(|dir| dir.join(FILE));
    if let Some(file) = file {
        tokio::spawn(keep(Arc::clone(inner), file));
    }
}

async fn keep(inner: Arc<Inner>, file: PathBuf) {
    let mut phase = inner.phase.subscribe();
    if phase.wait_for(|phase| *phase == Phase::Serving).await.is_err() {
        return;
    }
    drop(phase);
    let stream = inner.bucket.keys.clone();
    let position = inner.reader.snapshot().position;
    let mark = read(&file, &stream).unwrap_or_else(|error| {
        tracing::warn!(%error, file = %file.display(), "it is not known how far the store was on the disk");
        None
    });
    if let Some(mark) = mark.filter(|mark| *mark > position) {
        let lost = mark.0 - position.0;
        inner.counters.lost(lost);
        tracing::error!(
            lost, ends = %position, ended = %mark,
            "the store has lost its newest messages, which were on the disk and answered: it was damaged, or is an older copy. \
             What is there is served; revisions and watches may repeat what clients have seen"
        );
    }
    let mut written = None;
    let mut is_failing = false;
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_last = tokio::select! {
            _ = tick.tick() => false,
            () = inner.stop.cancelled() => true,
        };
        let position = inner.reader.snapshot().position;
        if *inner.phase.borrow() == Phase::Serving && written != Some(position) {
            let (file, stream) = (file.clone(), stream.clone());
            let outcome = tokio::task::spawn_blocking(move || write(&file, &stream, position)).await;
            match outcome {
                Ok(Ok(())) => (written, is_failing) = (Some(position), false),
                // Once for a row of failures: there is one a second.
                Ok(Err(error)) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!(%error, "how far the store is on the disk cannot be written down; the mark is an older one");
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

/// The mark for this stream, if there is one.
fn read(file: &Path, stream: &str) -> io::Result<Option<Sequence>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    // Anything else is a mark for another bucket, or of a write that a power cut has torn.
    let mark = text.trim_end().rsplit_once(' ').filter(|(of, _)| *of == stream);
    Ok(mark.and_then(|(_, sequence)| sequence.parse().ok()).map(Sequence))
}

fn write(file: &Path, stream: &str, position: Sequence) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut written = File::create(&new)?;
    writeln!(written, "{stream} {position}")?;
    written.sync_data()?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_for_its_stream() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join(FILE);
        assert_eq!(read(&file, "KV_a").expect("no file is no error"), None);
        write(&file, "KV_a", Sequence(7)).expect("room for a line");
        write(&file, "KV_a", Sequence(12)).expect("room for a line");
        assert_eq!(read(&file, "KV_a").expect("a file"), Some(Sequence(12)));
        assert_eq!(read(&file, "KV_b").expect("a file"), None);
        fs::write(&file, "KV_a").expect("room for a line");
        assert_eq!(read(&file, "KV_a").expect("a file"), None);
    }
}
