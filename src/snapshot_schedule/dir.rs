//! Scheduled snapshots in a directory.

use super::{END, Saved, ScheduleError, name, outdated};
use crate::applier::FullState;
use crate::error::EtcdError;
use crate::snapshot::{self, FileError, PartFile, Snapshot};
use crate::version::CLUSTER_VERSION;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// The end of the names of files that are being written.
const PART: &str = ".db.part";
/// A file that is being written is not so old.
const ABANDONED: Duration = Duration::from_mins(10);

/// The files of one JetStream bucket in a directory.
#[derive(Clone)]
pub(super) struct Dir {
    pub(super) dir: PathBuf,
    pub(super) prefix: String,
}

impl Dir {
    pub(super) async fn save(
        self,
        full_state: FullState,
        term: u64,
        shutdown: CancellationToken,
    ) -> Result<Saved, ScheduleError> {
        let revision = full_state.state.revision;
        let saving = tokio::task::spawn_blocking(move || {
            let dir = |source| ScheduleError::Dir { dir: self.dir.clone(), source };
            std::fs::create_dir_all(&self.dir).map_err(dir)?;
            let name = name(&self.prefix, OffsetDateTime::now_utc(), revision);
            let path = self.dir.join(&name);
            let mut file = PartFile::create(&path)?;
            for blob in Snapshot::new(&full_state, term, CLUSTER_VERSION) {
                // The end of the process would wait for this thread.
                if shutdown.is_cancelled() {
                    return Err(ScheduleError::Stopped);
                }
                file.write(&blob.bytes)?;
            }
            let bytes = file.finish_if(|part, size| {
                let opened =
                    File::open(part).map_err(|source| FileError::Io { path: part.to_owned(), source })?;
                let found = snapshot::walk(opened, part, size, |_, _| {})?.restored_revision();
                if found == revision {
                    Ok(())
                } else {
                    Err(ScheduleError::Revision { found, expected: revision })
                }
            })?;
            Ok(Saved { name, path: path.display().to_string(), bytes, revision })
        });
        saving.await.map_err(|error| EtcdError::Unknown(error.to_string()))?
    }

    /// The names of all files with an end, ascending by their time.
    fn all(&self, end: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name().into_string();
            names.extend(name.ok().filter(|name| name.starts_with(&self.prefix) && name.ends_with(end)));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The time and the size of the newest one.
    pub(super) fn newest(&self) -> Option<(OffsetDateTime, u64)> {
        let metadata = self.dir.join(self.all(END).ok()?.pop()?).metadata().ok()?;
        Some((metadata.modified().ok()?.into(), metadata.len()))
    }

    /// Leaves the `kept` newest ones, of which the last one was saved as `saved`. Parts that an earlier
    /// process left behind go, too.
    pub(super) fn remove_old(&self, saved: &str, kept: usize) -> Result<(), ScheduleError> {
        let failed = |source| ScheduleError::Dir { dir: self.dir.clone(), source };
        for name in outdated(self.all(END).map_err(failed)?, saved, kept) {
            remove(&self.dir.join(name)).map_err(failed)?;
        }
        for name in self.all(PART).map_err(failed)? {
            let path = self.dir.join(name);
            let modified = path.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_some_and(|age| age > ABANDONED) {
                remove(&path).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Another instance may have removed it already.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
