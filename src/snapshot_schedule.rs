//! Snapshots at the times of `--snapshot-schedule`.
//!
//! The instance that writes saves them, so that a cluster with a directory for all has one of each. A file
//! has its name only when its checksum is right, all its pages can be read, and its revision is that of the
//! store. A failure is counted and logged, and the next time of the schedule is the next try.

use crate::api::header::HeaderSource;
use crate::cli::SnapshotSchedule;
use crate::engine::Engine;
use crate::error::EtcdError;
use crate::snapshot::{self, FileError, PartFile, Snapshot, StatusError, Times};
use crate::telemetry::Metrics;
use crate::types::Revision;
use crate::version::CLUSTER_VERSION;
use prometheus::{GaugeVec, IntCounter, IntGaugeVec, Opts};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use thiserror::Error;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// The clock and the writer may change in a longer sleep.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);
/// The ends of the names of files, and of those that are being written.
const END: &str = ".db";
const PART: &str = ".db.part";
/// A file that is being written is not so old.
const ABANDONED: Duration = Duration::from_mins(10);

/// A snapshot that was not saved.
#[derive(Debug, Error)]
enum ScheduleError {
    #[error("--snapshot-dir {dir}: {source}", dir = .dir.display())]
    Dir { dir: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] EtcdError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error("the file has revision {found}, and the store had {expected}")]
    Revision { found: Revision, expected: Revision },
    #[error("the server stops")]
    Stopped,
}

/// A snapshot that was saved.
struct Saved {
    path: PathBuf,
    bytes: u64,
    revision: Revision,
}

/// Gauges of the last snapshot. There are none before the first one.
#[derive(Clone)]
struct FileGauges {
    at: IntGaugeVec,
    bytes: IntGaugeVec,
    seconds: GaugeVec,
    failures: IntCounter,
}

impl FileGauges {
    fn new(metrics: &Metrics) -> FileGauges {
        let seconds = Opts::new(
            "jetway_snapshot_last_duration_seconds",
            "Time that the last scheduled snapshot took, with its check.",
        );
        FileGauges {
            at: metrics.gauges(
                "jetway_snapshot_last_success_timestamp_seconds",
                "When the last scheduled snapshot was saved, in seconds since 1970.",
                &[],
            ),
            bytes: metrics.gauges(
                "jetway_snapshot_last_size_bytes",
                "Size of the last scheduled snapshot.",
                &[],
            ),
            seconds: metrics.register(GaugeVec::new(seconds, &[]).expect("a legal name")),
            failures: metrics
                .counter("jetway_snapshot_failures_total", "Scheduled snapshots that were not saved."),
        }
    }

    fn show(&self, at: OffsetDateTime, bytes: u64) {
        self.at.with_label_values::<&str>(&[]).set(at.unix_timestamp());
        self.bytes.with_label_values::<&str>(&[]).set(bytes as i64);
    }
}

/// Saves snapshots as `schedule` wants it until `shutdown`.
pub(crate) fn spawn(
    schedule: SnapshotSchedule,
    engine: Engine,
    header: HeaderSource,
    metrics: &Metrics,
    shutdown: CancellationToken,
) {
    let figures = FileGauges::new(metrics);
    let files = Files { dir: schedule.dir, prefix: format!("snapshot-{:x}-", header.cluster_id) };
    let times = schedule.times;
    tokio::spawn(async move {
        // A restart is no reason for another one.
        let mut last = files.newest().map(|(at, bytes)| {
            figures.show(at, bytes);
            at
        });
        let mut due = times.after(last, OffsetDateTime::now_utc());
        loop {
            let now = OffsetDateTime::now_utc();
            let left = due.map_or(LONGEST_SLEEP, |due| (due - now).try_into().unwrap_or_default());
            if !left.is_zero() || !engine.is_leader() {
                let wait = if left.is_zero() { LONGEST_SLEEP / 60 } else { left.min(LONGEST_SLEEP) };
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(wait) => continue,
                }
            }
            // Another instance may have saved one meanwhile, into a directory for all.
            if let Some((at, bytes)) = files.newest()
                && matches!(times, Times::Every(_))
                && last.is_none_or(|last| at > last)
            {
                figures.show(at, bytes);
                last = Some(at);
                due = times.after(last, now);
                continue;
            }
            let begun = Instant::now();
            match save(&engine, &header, &files, &shutdown).await {
                Ok(Saved { path, bytes, revision }) => {
                    let took = begun.elapsed();
                    figures.show(OffsetDateTime::now_utc(), bytes);
                    figures.seconds.with_label_values::<&str>(&[]).set(took.as_secs_f64());
                    tracing::info!(path = %path.display(), bytes, %revision, ?took, "saved a scheduled snapshot");
                    if let Err(error) = files.remove_old(schedule.kept) {
                        tracing::warn!(%error, "old scheduled snapshots cannot be removed");
                    }
                }
                Err(ScheduleError::Stopped) => return,
                Err(error) => {
                    figures.failures.inc();
                    tracing::warn!(%error, "a scheduled snapshot was not saved; the next time is the next try");
                }
            }
            let now = OffsetDateTime::now_utc();
            last = Some(now);
            due = times.after(last, now);
        }
    });
}

async fn save(
    engine: &Engine,
    header: &HeaderSource,
    files: &Files,
    shutdown: &CancellationToken,
) -> Result<Saved, ScheduleError> {
    let full_state = engine.full_state().await?;
    let revision = full_state.state.revision;
    let term = header.at(revision).raft_term;
    let (files, shutdown) = (files.clone(), shutdown.clone());
    let saving = tokio::task::spawn_blocking(move || {
        let dir = |source| ScheduleError::Dir { dir: files.dir.clone(), source };
        std::fs::create_dir_all(&files.dir).map_err(dir)?;
        let path = files.path(OffsetDateTime::now_utc(), revision);
        let mut file = PartFile::create(&path)?;
        for blob in Snapshot::new(&full_state, term, CLUSTER_VERSION) {
            // The end of the process would wait for this thread.
            if shutdown.is_cancelled() {
                return Err(ScheduleError::Stopped);
            }
            file.write(&blob.bytes)?;
        }
        let bytes = file.finish_if(|part, size| {
            let found = snapshot::walk(part, size, |_, _| {})?.restored_revision();
            if found == revision {
                Ok(())
            } else {
                Err(ScheduleError::Revision { found, expected: revision })
            }
        })?;
        Ok(Saved { path, bytes, revision })
    });
    saving.await.map_err(|error| EtcdError::Unknown(error.to_string()))?
}

/// The files of one bucket. Their names begin alike, and go on with their time.
#[derive(Clone)]
struct Files {
    dir: PathBuf,
    prefix: String,
}

impl Files {
    fn path(&self, at: OffsetDateTime, revision: Revision) -> PathBuf {
        let time = format!(
            "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second()
        );
        self.dir.join(format!("{}{time}-{revision}{END}", self.prefix))
    }

    /// The paths of all files with an end, ascending by their time.
    fn all(&self, end: &str) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let is_own = |name: &str| name.starts_with(&self.prefix) && name.ends_with(end);
            if entry.file_name().to_str().is_some_and(is_own) {
                paths.push(entry.path());
            }
        }
        paths.sort_unstable();
        Ok(paths)
    }

    /// The time and the size of the newest one.
    fn newest(&self) -> Option<(OffsetDateTime, u64)> {
        let metadata = self.all(END).ok()?.pop()?.metadata().ok()?;
        Some((metadata.modified().ok()?.into(), metadata.len()))
    }

    /// Leaves the `kept` newest ones. Parts that an earlier process left behind go, too.
    fn remove_old(&self, kept: usize) -> io::Result<()> {
        let all = self.all(END)?;
        for path in &all[..all.len().saturating_sub(kept)] {
            remove(path)?;
        }
        for path in self.all(PART)? {
            let modified = path.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_some_and(|age| age > ABANDONED) {
                remove(&path)?;
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
